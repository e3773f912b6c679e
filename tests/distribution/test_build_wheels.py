"""Wheels and the sdist: one platform each, the library the manifest in them pins, and the same bytes each time."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from server_native import _platform
from server_native._manifest import Manifest
from tests.distribution.artifacts import LINUX, archive, payload
from tools import build_wheels, release_contents

ROOT = Path(__file__).resolve().parent.parent.parent
pytestmark = pytest.mark.skipif(
    _platform.host().label != "linux-x64" or shutil.which("gcc") is None,
    reason="compiles libraries for linux-x64",
)


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one archive and its manifest."""
    folder = archive(tmp_path_factory.mktemp("release") / "prebuilt").parent
    made = release_contents.contents(folder, previous=None, key=None, partial=True)
    for name, text in made.files().items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheels.sdist(tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(release: Path, sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheels.wheel(sdist, release / LINUX.archive, tmp_path_factory.mktemp("wheel"))


def manifest(release: Path) -> Manifest:
    return Manifest.parse((release / "manifest.json").read_bytes(), "manifest.json")


def test_a_wheel_is_of_one_platform_and_of_no_python(wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-manylinux_2_17_x86_64.whl")
    with zipfile.ZipFile(wheel) as content:
        (name,) = [each for each in content.namelist() if each.endswith(".dist-info/WHEEL")]
        lines = content.read(name).decode().splitlines()
    assert "Root-Is-Purelib: false" in lines
    assert [line for line in lines if line.startswith("Tag:")] == [f"Tag: py3-none-{LINUX.wheel}"]


def test_a_wheel_holds_the_library_that_its_manifest_pins(wheel: Path, release: Path) -> None:
    with zipfile.ZipFile(wheel) as content:
        assert content.read(f"server_native/lib/{LINUX.file}") == payload()
        packed = content.read("server_native/_prebuilt/manifest.json")
    assert packed == (release / "manifest.json").read_bytes()
    pinned = Manifest.parse(packed, "the wheel").artifacts["linux-x64"].payload_sha256
    assert pinned == hashlib.sha256(payload()).hexdigest()


def test_the_sdist_alone_makes_the_same_wheel_again(
    release: Path, sdist: Path, wheel: Path, tmp_path: Path
) -> None:
    again = build_wheels.wheel(sdist, release / LINUX.archive, tmp_path)
    assert again.read_bytes() == wheel.read_bytes()


def test_the_sdist_holds_what_builds_the_library(sdist: Path) -> None:
    with tarfile.open(sdist) as packed:
        names = {member.name.split("/", 1)[-1] for member in packed if member.isfile()}
    tracked = subprocess.run(
        ["git", "ls-files", "native", "tools", "tests", "bindings", "setup.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if tracked.returncode != 0:
        pytest.skip("not in a checkout of git")
    assert set(tracked.stdout.split()) - names == set()
    assert not [name for name in names if name.endswith((".so", ".pyc"))]


def test_the_check_sees_a_wheel_with_another_library(
    wheel: Path, release: Path, tmp_path: Path
) -> None:
    build_wheels.check(wheel, "linux-x64", manifest(release))
    more = tmp_path / wheel.name
    shutil.copyfile(wheel, more)
    with zipfile.ZipFile(more, "a") as content:
        content.writestr("server_native/lib/another.so", b"")
    with pytest.raises(build_wheels.WheelError, match="expected one library"):
        build_wheels.check(more, "linux-x64", manifest(release))
    renamed = tmp_path / "server_native-1-py3-none-any.whl"
    shutil.copyfile(wheel, renamed)
    with pytest.raises(build_wheels.WheelError, match="expected the tag"):
        build_wheels.check(renamed, "linux-x64", manifest(release))


def test_auditwheel_refuses_a_library_above_the_floor(
    wheel: Path, release: Path, tmp_path: Path
) -> None:
    from tests.distribution.artifacts import library
    from tests.distribution.test_build_prebuilt import GETENTROPY

    newer = library(tmp_path, extra=GETENTROPY)
    changed = tmp_path / wheel.name
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(changed, "w") as new:
        for item in old.infolist():
            text = old.read(item)
            new.writestr(item, newer.read_bytes() if item.filename.endswith(".so") else text)
    with pytest.raises(build_wheels.WheelError, match=r"manylinux_2_2[0-9]_x86_64, expected"):
        build_wheels.check(changed, "linux-x64", manifest(release))


# --- what setup.py says ---------------------------------------------------------------------------


def setup(sdist: Path, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """A wheel of the unpacked sdist, for whoever set these variables."""
    with tarfile.open(sdist) as packed:
        packed.extractall(folder, filter="data")
    (unpacked,) = folder.iterdir()
    command = [sys.executable, "-W", "ignore", "-m", "build", "--no-isolation", "--wheel"]
    return subprocess.run(
        [*command, str(unpacked)],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def test_without_cargo_the_sdist_says_what_to_do(sdist: Path, tmp_path: Path) -> None:
    result = setup(sdist, tmp_path / "unpacked", CARGO="/nowhere/cargo")
    assert result.returncode != 0
    assert "there is no cargo" in result.stdout + result.stderr
    assert not list(tmp_path.rglob("*.whl"))


def test_cargo_gives_the_wheel_a_library_that_it_pins(sdist: Path, tmp_path: Path) -> None:
    """With a stand-in: the real build takes minutes and is `make conformance`'s."""
    cargo = tmp_path / "cargo"
    made = tmp_path / "made.so"
    made.write_bytes(payload())
    cargo.write_text(
        '#!/bin/sh\nfor last; do :; done\nmkdir -p "$last/release"\n'
        f'cp {made} "$last/release/{LINUX.file}"\n'
    )
    cargo.chmod(0o755)
    result = setup(sdist, tmp_path / "unpacked", CARGO=str(cargo))
    assert result.returncode == 0, result.stdout + result.stderr
    (found,) = tmp_path.rglob("*.whl")
    assert found.name.endswith("-py3-none-linux_x86_64.whl")
    with zipfile.ZipFile(found) as content:
        library = content.read(f"server_native/lib/{LINUX.file}")
        text = content.read("server_native/_prebuilt/manifest.json")
    pinned = Manifest.parse(text, "the wheel")
    assert pinned.artifacts["linux-x64"].payload_sha256 == hashlib.sha256(library).hexdigest()
    assert pinned.base_urls == ()


def test_an_archive_that_is_not_the_manifests_is_refused(
    sdist: Path, release: Path, tmp_path: Path
) -> None:
    shutil.copytree(release, tmp_path / "release")
    text = (tmp_path / "release" / "manifest.json").read_text()
    pinned = manifest(release).artifacts["linux-x64"].payload_sha256
    (tmp_path / "release" / "manifest.json").write_text(text.replace(pinned, "0" * 64))
    chosen = str(tmp_path / "release" / LINUX.archive)
    result = setup(sdist, tmp_path / "unpacked", SERVER_NATIVE_WHEEL=chosen)
    assert result.returncode != 0
    assert "expected a library with sha256 0000" in result.stdout + result.stderr


@pytest.mark.parametrize(
    ("choice", "reason"),
    [
        ("linux-x64", "must be `pure` or an archive"),
        ("server_native-ios-arm64.tar.gz", "there is no wheel"),
    ],
)
def test_what_no_wheel_can_be_made_of_is_refused(
    sdist: Path, tmp_path: Path, choice: str, reason: str
) -> None:
    result = setup(sdist, tmp_path / "unpacked", SERVER_NATIVE_WHEEL=choice)
    assert result.returncode != 0
    assert reason in result.stdout + result.stderr
