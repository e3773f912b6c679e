"""A library that somebody has put where ours is looked for is never loaded; ours is, in each of those places.

An installed package, a project and a user's cache are made as they are for a user; what is planted is a real library
that makes a file when it is loaded, before anybody could call it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from server_native import _library, _trust
from server_native._bindings.abi import ABI_HASH
from server_native._manifest import TAG, package_manifest
from server_native._platform import PLATFORMS, host

ROOT = Path(__file__).resolve().parents[2]
RELEASE = package_manifest().tag
NEWER = "server-native-prebuilt-v99.0.0"

pytestmark = [
    pytest.mark.skipif(host().label is None, reason="no library is published for this host"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler"),
]
LABEL = host().label or ""
FILE = PLATFORMS[LABEL].file if LABEL else ""

CANARY = """
#include <stdlib.h>
#include <stdio.h>
__attribute__((constructor)) static void sing(void) {
    const char *path = getenv("CANARY");
    FILE *file = path ? fopen(path, "w") : 0;
    if (file) fclose(file);
}
unsigned long long sn_abi_hash(void) { return ABI; }
const char *sn_version(void) { return "planted"; }
"""

#: Both ways to a library: asking for its version, and serving.
USE = """
import asyncio, server_native
def handler(request):
    return server_native.NativeDirectResponse.text("hello")
async def serve():
    server = await server_native.start_native_direct(handler, port=0)
    await server.close()
try:
    asyncio.run(serve())
    print("loaded", server_native.transport_abi_version())
except (server_native.ServerNativeError, AttributeError) as error:
    print(type(error).__name__, error)
"""


@dataclass(frozen=True)
class Machine:
    """A user's folders."""

    root: Path

    @property
    def site(self) -> Path:
        return self.root / "site"

    @property
    def project(self) -> Path:
        return self.root / "repository" / "project"

    @property
    def canary(self) -> Path:
        return self.root / "canary"

    def places(self, tag: str = RELEASE) -> dict[str, Path]:
        """By number of the step."""
        project = self.project / ".server_native" / "prebuilt"
        repository = self.root / "repository" / ".server_native" / "prebuilt"
        package = self.site / "server_native"
        return {
            "2": project / tag / LABEL / FILE,
            "3": project / LABEL / FILE,
            "4": repository / tag / LABEL / FILE,
            "5": repository / LABEL / FILE,
            "6": package / "lib" / FILE,
            "6, in its tag": package / "native" / "prebuilt" / tag / LABEL / FILE,
            "7": package / "native" / "prebuilt" / LABEL / FILE,
            "8": package / "native" / LABEL / FILE,
            "9": self.root / "home" / ".cache" / "server_native" / "prebuilt" / tag / LABEL / FILE,
        }

    def put(self, path: Path, library: Path) -> Path:
        path.parent.mkdir(parents=True)
        shutil.copy(library, path)
        return path

    def use(self, **environment: str) -> str:
        """Serves with the installed package, in the project; what is printed."""
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("SERVER_NATIVE_", "XDG_", "PYTHON"))
        }
        own = {
            "PYTHONPATH": str(self.site),
            "HOME": str(self.root / "home"),
            "CANARY": str(self.canary),
            "SERVER_NATIVE_OFFLINE": "1",
        }
        result = subprocess.run(
            [sys.executable, "-c", USE],
            capture_output=True,
            text=True,
            env={**clean, **own, **environment},
            cwd=self.project,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout + result.stderr


@pytest.fixture(scope="module")
def real() -> Path:
    """The library of these sources."""
    return _library.locate()


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Somebody else's, which says to be ours."""
    folder = tmp_path_factory.mktemp("planted")
    source, path = folder / "planted.c", folder / FILE
    source.write_text(CANARY)
    command = ["cc", "-shared", "-fPIC", f"-DABI={ABI_HASH}ULL", "-o", str(path), str(source)]
    subprocess.run(command, check=True)
    return path


@pytest.fixture
def machine(tmp_path: Path, real: Path) -> Machine:
    """An installed package that pins the real library, and a project beside it."""
    made = Machine(tmp_path)
    unwanted = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "server_native", made.site / "server_native", ignore=unwanted)
    made.project.mkdir(parents=True)
    (made.project / "pyproject.toml").touch()
    (made.root / "repository" / ".git").mkdir()
    pin(made.site / "server_native" / "_prebuilt" / "manifest.json", real, RELEASE)
    return made


def pin(path: Path, library: Path, tag: str) -> None:
    """Writes a manifest of a release that has this library."""
    plain = json.loads((ROOT / "prebuilt" / "manifest.json").read_text())
    version = TAG.fullmatch(tag)
    assert version
    plain.update(tag=tag, version=version[1], abi=f"{ABI_HASH:016x}")
    plain["artifacts"][LABEL] = {
        "archive": PLATFORMS[LABEL].archive,
        "archive_size": 1,
        "archive_sha256": "0" * 64,
        "member": FILE,
        "payload_size": library.stat().st_size,
        "payload_sha256": _trust.sha256(library),
    }
    path.write_text(json.dumps(plain))


PLACES = list(Machine(Path("/")).places()) if LABEL else []


def test_the_canary_sings_when_it_is_loaded(machine: Machine, planted: Path) -> None:
    said = machine.use(SERVER_NATIVE_PREBUILT=str(planted))
    assert machine.canary.exists(), said


@pytest.mark.parametrize("place", PLACES)
def test_a_planted_library_is_never_loaded(machine: Machine, planted: Path, place: str) -> None:
    path = machine.put(machine.places()[place], planted)
    said = machine.use()
    assert not machine.canary.exists()
    assert said.startswith("PrebuiltError no native library of server_native was found")
    assert (
        f"rejected ({path}): sha256 {hashlib.sha256(planted.read_bytes()).hexdigest()[:12]}" in said
    )


@pytest.mark.parametrize("place", PLACES)
def test_ours_is_loaded_from_the_same_place(machine: Machine, real: Path, place: str) -> None:
    machine.put(machine.places()[place], real)
    assert machine.use().startswith(f"loaded 0.1.0+{ABI_HASH:016x}")


def test_planted_everywhere_it_is_passed_over_for_ours(
    machine: Machine, planted: Path, real: Path
) -> None:
    for place, path in machine.places().items():
        machine.put(path, real if place == "9" else planted)
    assert machine.use().startswith("loaded 0.1.0+")
    assert not machine.canary.exists()


def test_every_other_file_of_the_project_can_be_planted_as_well(
    machine: Machine, planted: Path
) -> None:
    for tag in (RELEASE, NEWER):
        path = machine.put(machine.places(tag)["2"], planted)
        plant_stamp(machine.project / ".server_native" / "stamps", path)
        for folder in (path.parent, path.parent.parent):
            (folder / "install.json").write_text("{}")
            pin(folder / "manifest.json", planted, tag)
            forged = (
                "untrusted comment: x\n" + "A" * 100 + "\ntrusted comment: x\n" + "A" * 88 + "\n"
            )
            (folder / "manifest.json.minisig").write_text(forged)
    said = machine.use()
    assert not machine.canary.exists()
    assert said.startswith("PrebuiltError no native library")


def plant_stamp(folder: Path, library: Path) -> None:
    """What would vouch for the library if it lay in the user's cache."""
    folder.mkdir(exist_ok=True)
    note = {"format": 1, "library": str(library), "sha256": _trust.sha256(library)}
    note |= {"tree": "0" * 64, "identity": _trust.identity(library), "glance": "0" * 64}
    (folder / f"{_trust.key(library)}.json").write_text(json.dumps(note))


def test_the_same_stamp_in_the_users_cache_would_vouch_for_it(
    machine: Machine, planted: Path
) -> None:
    path = machine.put(machine.places()["2"], planted)
    cache = machine.root / "home" / ".cache" / "server_native"
    cache.mkdir(parents=True)
    plant_stamp(cache / "stamps", path)
    machine.use()
    assert machine.canary.exists()


def swap_folder(machine: Machine, path: Path, planted: Path) -> None:
    elsewhere = machine.put(machine.root / "elsewhere" / FILE, planted)
    path.parent.rename(path.parent.with_name("was"))
    path.parent.symlink_to(elsewhere.parent)


def swap_file(machine: Machine, path: Path, planted: Path) -> None:
    path.unlink()
    path.symlink_to(machine.put(machine.root / "elsewhere" / FILE, planted))


def overwrite(_: Machine, path: Path, planted: Path) -> None:
    before = path.stat()
    content = planted.read_bytes()
    path.write_bytes(content + bytes(before.st_size - len(content)))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("swap", [swap_folder, swap_file, overwrite])
@pytest.mark.parametrize("verify", ["always", "stamp"])
def test_what_takes_the_place_of_ours_is_not_loaded(
    machine: Machine,
    planted: Path,
    real: Path,
    swap: Callable[[Machine, Path, Path], None],
    verify: str,
) -> None:
    path = machine.put(machine.places()["9"], real)
    for _ in range(2):
        assert machine.use(SERVER_NATIVE_VERIFY=verify).startswith("loaded")
    swap(machine, path, planted)
    said = machine.use(SERVER_NATIVE_VERIFY=verify)
    assert not machine.canary.exists()
    assert said.startswith("PrebuiltError no native library")


def test_in_a_checkout_what_was_not_built_is_not_loaded(machine: Machine, planted: Path) -> None:
    crate = machine.site / "native"
    (crate / "src").mkdir(parents=True)
    shutil.copy(ROOT / "native" / "Cargo.toml", crate)
    machine.put(crate / "target" / "release" / FILE, planted)
    said = machine.use(SERVER_NATIVE_BUILD="never")
    assert not machine.canary.exists()
    assert "no build of it by this user is known" in said
    # Nor is it when cargo fails.
    program = machine.root / "bin" / "cargo"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nexit 7\n")
    program.chmod(0o755)
    said = machine.use(PATH=f"{program.parent}:{os.environ['PATH']}")
    assert not machine.canary.exists()
    assert "failed with exit status 7" in said


def test_a_library_in_the_working_directory_or_on_the_loaders_path_is_not_found_by_name(
    machine: Machine, planted: Path
) -> None:
    shutil.copy(planted, machine.project / FILE)
    said = machine.use(LD_LIBRARY_PATH=str(machine.project))
    assert not machine.canary.exists()
    assert said.startswith("PrebuiltError no native library")
