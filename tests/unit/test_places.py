"""Folders a library may lie in, and whom their names are believed from."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import platformdirs
import pytest

from server_native import _places
from server_native._places import elevated, environment, project, repository, switched, user_cache
from server_native.errors import PrebuiltError

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("home", "xdg"),
    [
        ("/home/someone", None),
        ("/home/someone/", None),
        ("/home/someone", ""),
        ("/home/someone", "/var/cache/someone"),
        ("/home/someone", "relative"),
        ("", None),
        (None, None),
        (None, "/var/cache/someone"),
    ],
)
def test_the_users_cache_is_where_platformdirs_says(
    home: str | None, xdg: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SERVER_NATIVE_CACHE_DIR", raising=False)
    for name, value in (("HOME", home), ("XDG_CACHE_HOME", xdg)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert user_cache() == platformdirs.user_cache_path("server_native", appauthor=False)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="others have it in other places")
def test_who_has_no_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(number: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    with pytest.raises(
        PrebuiltError, match=r"no home folder.*set SERVER_NATIVE_CACHE_DIR"
    ) as caught:
        user_cache()
    assert caught.value.code == "E-PERM"


def test_the_usual_cache_takes_no_platformdirs() -> None:
    probe = "import sys; from server_native import _places; _places.user_cache(); print('platformdirs' in sys.modules)"
    environment = {"HOME": "/home/someone", "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, env=environment, check=True
    )
    assert result.stdout.strip() == str(not sys.platform.startswith("linux"))


def test_a_named_cache_is_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SERVER_NATIVE_CACHE_DIR", str(tmp_path))
    assert user_cache() == tmp_path
    monkeypatch.setenv("SERVER_NATIVE_CACHE_DIR", "relative")
    with pytest.raises(PrebuiltError, match="must be an absolute path, found 'relative'") as caught:
        user_cache()
    assert caught.value.code == "E-ENV"


@pytest.mark.parametrize("marker", ["pyproject.toml", "setup.cfg", ".git"])
def test_a_project_is_the_nearest_folder_that_is_one(tmp_path: Path, marker: str) -> None:
    inner = tmp_path / "outer" / "inner" / "deep" / "deeper"
    inner.mkdir(parents=True)
    (tmp_path / "outer" / ".git").mkdir()
    (tmp_path / "outer" / "inner" / marker).touch()
    assert project(inner) == tmp_path / "outer" / "inner"
    expected = tmp_path / "outer" / ("inner" if marker == ".git" else "")
    assert repository(inner) == expected


@pytest.mark.parametrize(
    ("option", "heeded"), [([], True), (["-E"], False), (["-I"], False), (["-s"], True)]
)
def test_python_without_environment_has_none_of_ours(option: list[str], heeded: bool) -> None:
    probe = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from server_native._places import environment; "
    probe += "print(environment('SERVER_NATIVE_PREBUILT'))"
    result = subprocess.run(
        [sys.executable, *option, "-c", probe],
        capture_output=True,
        text=True,
        env={**os.environ, "SERVER_NATIVE_PREBUILT": "/named"},
        check=True,
    )
    assert result.stdout.strip() == ("/named" if heeded else "None")


def test_a_process_with_rights_of_another_heeds_no_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SERVER_NATIVE_OFFLINE", "1")
    assert not elevated()
    assert switched("SERVER_NATIVE_OFFLINE")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert elevated()
    assert environment("SERVER_NATIVE_OFFLINE") is None
    assert not switched("SERVER_NATIVE_OFFLINE")


def test_the_package_is_where_it_is() -> None:
    assert _places.package() == ROOT / "server_native"
