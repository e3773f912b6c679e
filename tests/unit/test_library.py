"""Where the native library is looked for, and what is said when it is not there."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from server_native import _library
from server_native._library import ENVIRONMENT, file_name, locate
from server_native.errors import LibraryNotFoundError


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in the place of the checkout."""
    package = tmp_path / "server_native"
    package.mkdir()
    monkeypatch.setattr(_library, "__file__", str(package / "_library.py"))
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    return tmp_path


def with_sources(checkout: Path) -> Path:
    native = checkout / "native"
    native.mkdir()
    (native / "Cargo.toml").touch()
    return native / "target" / "release" / file_name()


@pytest.mark.parametrize(
    ("platform", "name"),
    [
        ("linux", "libserver_native.so"),
        ("freebsd14", "libserver_native.so"),
        ("darwin", "libserver_native.dylib"),
        ("win32", "server_native.dll"),
    ],
)
def test_the_file_is_named_as_the_platform_has_it(
    platform: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    assert file_name() == name


def test_the_build_of_the_checkout_is_used(checkout: Path) -> None:
    built = with_sources(checkout)
    built.parent.mkdir(parents=True)
    built.touch()
    assert locate() == built


@pytest.mark.parametrize("value", [None, ""])
def test_without_a_build_every_place_is_named(
    checkout: Path, value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value is not None:
        monkeypatch.setenv(ENVIRONMENT, value)
    built = with_sources(checkout)
    with pytest.raises(LibraryNotFoundError) as caught:
        locate()
    assert str(caught.value) == (
        "no native library of server_native was found. Searched:\n"
        f"  {ENVIRONMENT} is not set\n"
        f"  {built}: not built\n"
        f"What to do: run `make build` in {checkout}, or set {ENVIRONMENT} to the absolute path of {file_name()}."
    )


def test_a_folder_in_the_place_of_the_build_is_none(checkout: Path) -> None:
    with_sources(checkout).mkdir(parents=True)
    with pytest.raises(LibraryNotFoundError, match="not built"):
        locate()


def test_outside_a_checkout_every_place_is_named(checkout: Path) -> None:
    with pytest.raises(LibraryNotFoundError) as caught:
        locate()
    assert str(caught.value) == (
        "no native library of server_native was found. Searched:\n"
        f"  {ENVIRONMENT} is not set\n"
        f"  {checkout}: not a checkout of server_native\n"
        f"What to do: set {ENVIRONMENT} to the absolute path of {file_name()}."
    )


def test_a_named_library_comes_first(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = with_sources(checkout)
    built.parent.mkdir(parents=True)
    built.touch()
    named = tmp_path / "other.so"
    named.touch()
    monkeypatch.setenv(ENVIRONMENT, str(named))
    assert locate() == named


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda path: Path("relative.so"), "is not an absolute path"),
        (lambda path: path, "does not exist"),
        (lambda path: path.mkdir() or path, "is not a file"),
        (lambda path: path.touch(0o000) or path, "cannot be read"),
    ],
)
def test_a_named_library_that_cannot_be_used_is_an_error_and_nothing_else_is_tried(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: object, problem: str
) -> None:
    built = with_sources(checkout)
    built.parent.mkdir(parents=True)
    built.touch()
    assert callable(make)
    path = make(tmp_path / "named.so")
    monkeypatch.setenv(ENVIRONMENT, str(path))
    # root may read everything
    monkeypatch.setattr(
        os,
        "access",
        lambda place, mode: mode == os.R_OK and Path(place).stat().st_mode & 0o400 != 0,
    )
    with pytest.raises(LibraryNotFoundError) as caught:
        locate()
    assert str(caught.value) == (
        f"{ENVIRONMENT} names {str(path)!r}, which {problem}. "
        "Nothing else is tried while it is set: correct it or unset it."
    )
