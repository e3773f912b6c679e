"""The wheel of this machine, on every Python there is: installed into an empty environment, no compiler in reach."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from server_native import _platform

ROOT = Path(__file__).resolve().parent.parent.parent
SMOKE = Path(__file__).with_name("smoke.py")
VERSIONS = ("3.10", "3.11", "3.12", "3.13", "3.14", "pypy3.10", "pypy3.11")
LABEL = _platform.host().label
pytestmark = [pytest.mark.conformance, pytest.mark.timeout(900)]


@functools.cache
def interpreters() -> dict[str, Path]:
    """Every version that runs here: on PATH, and of pyenv, whether or not it is switched on."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    folders = [Path(each) for each in os.environ["PATH"].split(os.pathsep)]
    folders += sorted(pyenv.glob("*/bin"), reverse=True)
    found: dict[str, Path] = {}
    for version in VERSIONS:
        name = version if version.startswith("pypy") else f"python{version}"
        for candidate in (Path(sys.executable), *(folder / name for folder in folders)):
            if candidate.is_file() and _identity(candidate) == version:
                found.setdefault(version, candidate)
    return found


@functools.cache
def _identity(python: Path) -> str:
    code = (
        "import json, sys, venv, ensurepip; "
        "print(json.dumps([sys.implementation.name, *sys.version_info[:2]]))"
    )
    result = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    # A shim of pyenv may be there and lead nowhere.
    if result.returncode != 0:
        return ""
    name, major, minor = json.loads(result.stdout)
    return f"{'pypy' if name == 'pypy' else ''}{major}.{minor}"


@pytest.fixture(scope="module")
def wheel() -> Path:
    """`make dist` made it, with the oldest C library that is promised."""
    if LABEL is None:
        pytest.skip("no wheels are made for this system")
    tag = _platform.PLATFORMS[LABEL].wheel
    found = sorted((ROOT / "dist").glob(f"server_native-*-py3-none-{tag}.whl"))
    assert len(found) == 1, f"`make dist` first: expected one wheel for {LABEL}, found {found}"
    return found[0]


def test_this_python_is_among_them() -> None:
    assert interpreters()


@pytest.mark.parametrize("version", VERSIONS)
def test_one_wheel_serves_on(version: str, wheel: Path, tmp_path: Path) -> None:
    python = interpreters().get(version)
    if python is None:
        pytest.skip(f"there is no Python {version} here")
    subprocess.run([python, "-m", "venv", tmp_path / "venv"], check=True)
    installed = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin")
    pip = ("-m", "pip", "--disable-pip-version-check", "install", "--quiet")
    subprocess.run([installed / "python", *pip, wheel], check=True)
    # Only the environment itself: whoever has no compiler there has none at all.
    clean = {"PATH": str(installed), "HOME": str(tmp_path / "home"), "LANG": "C.UTF-8"}
    result = subprocess.run(
        [installed / "python", "-I", SMOKE],
        env=clean,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    print(result.stdout, result.stderr)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.splitlines()[-1].endswith(" passed, 0 failed")
