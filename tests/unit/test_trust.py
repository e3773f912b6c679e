"""Hashes, stamps in the user's cache, and who may have written them."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path

import pytest

from server_native import _trust
from server_native._trust import built_here, identity, private_folder, sha256, stamp, stamped
from server_native.errors import PrebuiltError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "some" / "cache"
    monkeypatch.setenv("SERVER_NATIVE_CACHE_DIR", str(path))
    return path


@pytest.fixture
def library(tmp_path: Path) -> Path:
    path = tmp_path / "libserver_native.so"
    path.write_bytes(b"library")
    return path


def note_of(cache: Path, library: Path) -> Path:
    return cache / "stamps" / f"{_trust.key(library)}.json"


@pytest.mark.parametrize("size", [0, 1, (1 << 18) - 1, 1 << 18, (1 << 18) + 1, 1_000_003])
def test_the_hash_is_sha256_of_all_bytes(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    (tmp_path / "file").write_bytes(content)
    assert sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_a_stamp_is_read_as_it_was_written(cache: Path, library: Path) -> None:
    assert stamped(library) is None
    assert not built_here("ab" * 32)
    stamp(library, digest="ab" * 32, tree="cd" * 32, glance="ef" * 32)
    found = stamped(library)
    assert found is not None
    assert found == (str(library), "ab" * 32, identity(library), "cd" * 32, "ef" * 32)
    assert built_here("ab" * 32)
    assert not built_here("cd" * 32)
    assert [path.name for path in (cache / "stamps").iterdir()] == [note_of(cache, library).name]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"format": 2}',
        '{"format": 1}',
        '{"format": 1, "library": "x", "sha256": "y", "identity": [], "more": 1}',
    ],
)
def test_a_stamp_that_cannot_be_understood_was_never_written(
    cache: Path, library: Path, text: str
) -> None:
    stamp(library, digest="ab" * 32, tree="")
    note_of(cache, library).write_text(text)
    assert stamped(library) is None
    assert not built_here("ab" * 32)
    stamp(library, digest="ab" * 32, tree="")
    assert stamped(library) is not None


def test_a_stamp_of_another_path_is_none(cache: Path, library: Path) -> None:
    stamp(library, digest="ab" * 32)
    path = note_of(cache, library)
    note = json.loads(path.read_text())
    note["library"] = "/elsewhere"
    path.write_text(json.dumps(note))
    assert stamped(library) is None


def test_a_symlink_in_the_place_of_a_stamp_is_none(
    cache: Path, library: Path, tmp_path: Path
) -> None:
    stamp(library, digest="ab" * 32)
    path = note_of(cache, library)
    path.rename(tmp_path / "note")
    path.symlink_to(tmp_path / "note")
    assert stamped(library) is None


def test_a_process_with_rights_of_another_believes_no_stamp(
    cache: Path, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stamp(library, digest="ab" * 32, tree="")
    assert built_here("ab" * 32)
    monkeypatch.setattr(_trust, "elevated", lambda: True)
    assert stamped(library) is None
    assert not built_here("ab" * 32)


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_whatever_the_umask_the_cache_is_this_users_alone(
    cache: Path, library: Path, mask: int
) -> None:
    before = os.umask(mask)
    try:
        stamp(library, digest="ab" * 32)
    finally:
        os.umask(before)
    for path, mode in ((cache, 0o700), (cache / "stamps", 0o700), (note_of(cache, library), 0o600)):
        assert stat.S_IMODE(path.stat().st_mode) == mode
    assert stamped(library) is not None


def test_a_cache_that_cannot_be_used_says_why_and_what_to_do(
    cache: Path, library: Path, tmp_path: Path
) -> None:
    private_folder("stamps").chmod(0o777)
    with pytest.raises(PrebuiltError, match=r"can be written by everybody \(mode 0777\)") as caught:
        stamp(library, digest="ab" * 32)
    assert caught.value.code == "E-PERM"
    assert "SERVER_NATIVE_CACHE_DIR" in str(caught.value)
    (cache / "stamps").rmdir()
    (cache / "stamps").symlink_to(tmp_path)
    with pytest.raises(PrebuiltError, match="is a symlink"):
        stamp(library, digest="ab" * 32)
    (cache / "stamps").unlink()
    (cache / "stamps").touch()
    with pytest.raises(PrebuiltError, match="File exists"):
        stamp(library, digest="ab" * 32)


def test_what_was_replaced_has_another_identity(library: Path) -> None:
    before = identity(library)
    times = library.stat()
    other = library.with_name("other")
    other.write_bytes(library.read_bytes())
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.replace(library)
    assert identity(library) != before
