"""A machine without a network: the three ways to a library, each in a network namespace that has no route anywhere."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from server_native import _platform

ROOT = Path(__file__).resolve().parent.parent.parent
SMOKE = ROOT / "tests" / "smoke" / "smoke.py"
PREBUILT = ROOT / "dist" / "prebuilt"
LABEL = _platform.host().label
pytestmark = [pytest.mark.conformance, pytest.mark.timeout(600)]
#: Nothing but the loopback interface, which is down at first.
ALONE = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "alone"]


@functools.cache
def why_not() -> str | None:
    """Why there is no namespace here."""
    if not (shutil.which("unshare") and shutil.which("ip")):
        return "unshare or ip is not installed (Debian's util-linux and iproute2)"
    result = subprocess.run([*ALONE, "true"], capture_output=True, text=True, check=False)
    return None if result.returncode == 0 else f"no network namespace: {result.stderr.strip()}"


def run(
    *command: str | Path, status: int = 0, cwd: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """With a network, and with nothing of this environment but where programs are."""
    result = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8"} | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    print(result.stdout, result.stderr)
    assert result.returncode == status, result.stdout + result.stderr
    return result


def alone(*command: str | Path, cwd: Path | None = None, **variables: str) -> str:
    """Standard output of a command that has no network."""
    if problem := why_not():
        pytest.skip(problem)
    return run(*ALONE, *command, status=0, cwd=cwd, **variables).stdout


def one(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    assert len(found) == 1, f"`make dist` first: expected one {pattern} in {folder}, found {found}"
    return found[0]


@pytest.fixture(scope="module")
def carried(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What somebody with a network has put on a stick: the wheel and those it needs."""
    if LABEL is None:
        pytest.skip("no wheels are made for this system")
    folder = tmp_path_factory.mktemp("carried")
    wheel = one(ROOT / "dist", f"server_native-*-{_platform.PLATFORMS[LABEL].wheel}.whl")
    run(sys.executable, "-m", "pip", "download", "--quiet", "--dest", folder, wheel)
    return folder


@pytest.fixture(scope="module")
def offline(carried: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that the wheel was installed into without a network."""
    folder = tmp_path_factory.mktemp("offline") / "venv"
    run(sys.executable, "-m", "venv", folder)
    python = folder / "bin" / "python"
    pip = ("-m", "pip", "--disable-pip-version-check", "install", "--quiet")
    alone(python, *pip, "--no-index", "--find-links", carried, "server-native")
    return python


@pytest.fixture
def bare(offline: Path, tmp_path: Path) -> Path:
    """The same package in an environment of its own, and no library in it."""
    folder = tmp_path / "venv"
    run(sys.executable, "-m", "venv", folder)
    found = "import sysconfig; print(sysconfig.get_path('platlib'))"
    source = Path(run(offline, "-c", found).stdout.strip())
    target = Path(run(folder / "bin" / "python", "-c", found).stdout.strip())
    shutil.copytree(source, target, dirs_exist_ok=True)
    shutil.rmtree(target / "server_native" / "lib")
    return folder / "bin" / "python"


def smoke(python: Path, folder: Path, **variables: str) -> None:
    # The namespace's tools are found first; then PATH is the environment alone.
    command = ("env", f"PATH={python.parent}", str(python), str(SMOKE))
    text = alone(*command, cwd=folder, HOME=str(folder), SMOKE_ANYWHERE="1", **variables)
    assert text.splitlines()[-1].endswith(" passed, 0 failed")


def test_the_namespace_has_no_route() -> None:
    routes = alone("cat", "/proc/net/route").splitlines()
    assert len(routes) == 1, routes
    (interface,) = alone("ip", "-o", "link", "show").splitlines()
    assert "lo:" in interface


def test_a_carried_wheel(offline: Path, tmp_path: Path) -> None:
    smoke(offline, tmp_path)


def test_without_a_library_the_error_says_what_to_do(bare: Path, tmp_path: Path) -> None:
    if problem := why_not():
        pytest.skip(problem)
    code = "import server_native; server_native.transport_abi_version()"
    variables = {"HOME": str(tmp_path), "SERVER_NATIVE_RETRIES": "0", "SERVER_NATIVE_OFFLINE": "1"}
    result = run(*ALONE, bare, "-c", code, status=1, cwd=tmp_path, **variables)
    assert "SERVER_NATIVE_PREBUILT" in result.stderr


def test_a_path_to_a_carried_library(bare: Path, tmp_path: Path) -> None:
    archive = one(PREBUILT, f"server_native-{LABEL}.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path / "library", filter="data")
    library = one(tmp_path / "library", "*server_native*")
    smoke(bare, tmp_path, SERVER_NATIVE_PREBUILT=str(library))


def test_a_carried_bundle(bare: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(PREBUILT, bundle)
    (tmp_path / "home").mkdir()
    command = ("-m", "server_native.setup", "--from", bundle)
    alone(bare, *command, cwd=tmp_path / "home", HOME=str(tmp_path / "home"))
    smoke(bare, tmp_path / "home", SERVER_NATIVE_BUILD="never", SERVER_NATIVE_OFFLINE="1")
