"""Puts the native library into wheels; everything else about the package is said in pyproject.toml.

A wheel holds the library of one platform and the manifest that pins it, and is tagged with that platform. Which
library, the variable SERVER_NATIVE_WHEEL says:

    the path of an archive of tools/build_prebuilt.py     that one; `manifest.json` beside it becomes the package's
    unset                                                 one that cargo builds, now, for this machine
    `pure`                                                none: the package finds one elsewhere, or says how to get one
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
sys.path[:0] = [str(ROOT)]

from server_native import _platform  # noqa: E402
from server_native._bindings import abi  # noqa: E402
from server_native._manifest import Artifact, Manifest, package_manifest  # noqa: E402
from server_native._platform import PLATFORMS, Platform  # noqa: E402

VARIABLE = "SERVER_NATIVE_WHEEL"
CHOICE = os.environ.get(VARIABLE, "")
PURE = CHOICE == "pure"


def platform() -> Platform:
    """Whose library the wheel holds."""
    label = _platform.host().label
    if CHOICE:
        label = {each.archive: name for name, each in PLATFORMS.items()}.get(Path(CHOICE).name)
    if label is None:
        raise SystemExit(
            f"error: {VARIABLE} must be `pure` or an archive of tools/build_prebuilt.py, found {CHOICE!r}"
            if CHOICE
            else f"error: {_platform.host().reason}; {VARIABLE}=pure installs the package without a library"
        )
    if label.startswith("ios-"):
        raise SystemExit(
            f"error: {label}: an app on iOS loads only what is in its bundle, so there is no wheel"
        )
    return PLATFORMS[label]


def of_archive(target: Platform) -> tuple[bytes, Manifest]:
    """The library of a release, and its manifest."""
    archive = Path(CHOICE)
    text = (archive.parent / "manifest.json").read_bytes()
    manifest = Manifest.parse(text, str(archive.parent / "manifest.json"))
    artifact = manifest.artifacts[target.label]
    with tarfile.open(archive) as packed:
        content = packed.extractfile(artifact.member)
        library = content.read() if content else b""
    found = hashlib.sha256(library).hexdigest()
    if found != artifact.payload_sha256:
        raise SystemExit(
            f"error: {archive}: expected a library with sha256 {artifact.payload_sha256}, found {found}"
        )
    return library, manifest


def of_cargo(target: Platform) -> tuple[bytes, Manifest]:
    """A library for this machine, and a manifest that pins it and nothing else."""
    cargo = shutil.which(os.environ.get("CARGO", "cargo"))
    if cargo is None:
        raise SystemExit(
            "error: there is no cargo to build the library with: install Rust >= 1.88 (https://rustup.rs) and a C "
            f"compiler, or a wheel of your platform; {VARIABLE}=pure installs the package without a library"
        )
    crate, into = ROOT / "native", ROOT / "native" / "target"
    command = [cargo, "build", "--release", "--locked"]
    command += ["--manifest-path", str(crate / "Cargo.toml"), "--target-dir", str(into)]
    print(" ".join(command), file=sys.stderr, flush=True)
    if subprocess.run(command, check=False).returncode != 0:
        raise SystemExit("error: cargo failed; what it said is above")
    built = into / "release" / target.file
    library = _without_symbols(built)
    digest = hashlib.sha256(library).hexdigest()
    # Nothing to download belongs to it, so there is no archive: the library stands for one.
    artifact = Artifact(target.archive, len(library), digest, target.file, len(library), digest)
    plan = package_manifest()
    identity = f"{abi.ABI_HASH:016x}"
    return library, Manifest(
        plan.version, plan.tag, identity, (), plan.keys, {target.label: artifact}
    )


def _without_symbols(built: Path) -> bytes:
    strip = shutil.which("strip")
    if strip is None or sys.platform == "win32":
        return built.read_bytes()
    copy = built.with_suffix(".stripped")
    shutil.copyfile(built, copy)
    option = "-x" if sys.platform == "darwin" else "--strip-all"
    # Without success the library is larger, and as good.
    subprocess.run([strip, option, str(copy)], check=False)
    library = copy.read_bytes()
    copy.unlink()
    return library


class Package(Distribution):
    """Of one platform, so that it is installed where such packages are."""

    def has_ext_modules(self) -> bool:
        """Whether there is anything native."""
        return not PURE


class BuildPy(build_py):
    """Adds the library and its manifest to what is installed."""

    def run(self) -> None:
        """Builds; an editable install stays a checkout, which builds by itself."""
        super().run()
        if self.editable_mode or PURE:
            return
        target = platform()
        library, manifest = of_archive(target) if CHOICE else of_cargo(target)
        package = Path(self.build_lib) / "server_native"
        (package / "lib").mkdir(exist_ok=True)
        (package / "lib" / target.file).write_bytes(library)
        (package / "_prebuilt" / "manifest.json").write_text(manifest.write(), newline="\n")


class BdistWheel(bdist_wheel):
    """Tags the wheel with its platform, and with no Python: the library knows none."""

    def get_tag(self) -> tuple[str, str, str]:
        """As ``py3-none-manylinux_2_17_x86_64``."""
        if PURE:
            return "py3", "none", "any"
        if CHOICE:
            return "py3", "none", platform().wheel
        # What cargo builds here runs here: no promise about older systems.
        return "py3", "none", sysconfig.get_platform().replace("-", "_").replace(".", "_")


if __name__ == "__main__":
    setup(distclass=Package, cmdclass={"build_py": BuildPy, "bdist_wheel": BdistWheel})
