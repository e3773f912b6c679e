#!/usr/bin/env python3
"""Builds the sdist, and from it a wheel for each archive in a folder.

    python tools/build_wheels.py [DIR] [--output DIR]     dist/prebuilt, dist

DIR holds archives and their manifest.json, as `tools/generate_prebuilt_release.py` wrote it. Wheels come from the
unpacked sdist, so what the sdist lacks, they lack. `auditwheel show` has its say about each for this C library.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from server_native import _platform  # noqa: E402
from server_native._manifest import Manifest  # noqa: E402
from server_native._platform import PLATFORMS  # noqa: E402
from server_native.errors import ConfigurationError  # noqa: E402

#: The first second a zip file can name, so that the same release gives the same wheels.
EPOCH = "315532800"


class WheelError(Exception):
    """A wheel cannot be made or is not what it should be."""


def sdist(output: Path) -> Path:
    """Builds it in a copy: setuptools writes beside the sources and packs what an earlier run left there."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "checkout"
        unwanted = shutil.ignore_patterns(
            "target", ".?*", "build", "dist", "*.egg-info", "__pycache__", "results"
        )
        shutil.copytree(ROOT, copy, symlinks=True, ignore=unwanted)
        return _build("sdist", copy, output, {})


def wheel(source: Path, archive: Path, output: Path) -> Path:
    """Builds the wheel of ``archive`` from the sdist ``source``."""
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(source) as packed:
            packed.extractall(folder, filter="data")
        (unpacked,) = Path(folder).iterdir()
        return _build("wheel", unpacked, output, {"SERVER_NATIVE_WHEEL": str(archive.resolve())})


def _build(kind: str, source: Path, output: Path, variables: dict[str, str]) -> Path:
    command = [sys.executable, "-W", "ignore", "-m", "build", "--no-isolation", f"--{kind}"]
    surroundings = {"SOURCE_DATE_EPOCH": EPOCH} | os.environ | variables
    with tempfile.TemporaryDirectory() as folder:
        result = subprocess.run(
            [*command, "--outdir", folder, str(source)],
            env=surroundings,
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode != 0:
            raise WheelError(f"the {kind} cannot be built:\n{result.stdout}{result.stderr}")
        (made,) = Path(folder).iterdir()
        output.mkdir(parents=True, exist_ok=True)
        return Path(shutil.move(made, output / made.name))


def check(path: Path, label: str, manifest: Manifest) -> None:
    """Raises :class:`WheelError` unless the wheel has its tag, its library and its manifest, and Linux agrees."""
    platform = PLATFORMS[label]
    if not path.name.endswith(f"-py3-none-{platform.wheel}.whl"):
        raise WheelError(f"{path}: expected the tag py3-none-{platform.wheel}")
    with zipfile.ZipFile(path) as content:
        packed = content.read("server_native/_prebuilt/manifest.json")
        libraries = [name for name in content.namelist() if name.startswith("server_native/lib/")]
    if packed.decode() != manifest.write():
        raise WheelError(f"{path}: its manifest is not that of the release")
    if libraries != [f"server_native/lib/{platform.file}"]:
        raise WheelError(f"{path}: expected one library, found {libraries}")
    # auditwheel looks for the libraries that are needed, so it can judge only for the C library it runs on.
    if platform.libc is not None and platform.libc == _platform.host().libc:
        _audit(path, platform.wheel)


def _audit(path: Path, tag: str) -> None:
    command = [sys.executable, "-m", "auditwheel", "show", str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    text = " ".join(result.stdout.split())
    found = re.search(r'following platform tag: "(\w+)"', text)
    if found is None:
        raise WheelError(f"auditwheel says nothing about {path}: {text} {result.stderr}")
    # An older floor than promised is no fault.
    if not _at_most(found[1], tag):
        raise WheelError(f"auditwheel: {path} is {found[1]}, expected {tag}")
    print(f"auditwheel: {path.name} is {found[1]}")


def _at_most(found: str, promised: str) -> bool:
    """Whether whatever runs ``promised`` runs ``found``.

    >>> _at_most("manylinux_2_12_x86_64", "manylinux_2_17_x86_64")
    True
    >>> _at_most("linux_x86_64", "manylinux_2_17_x86_64")
    False
    """
    pattern = r"((?:many|musl)linux)_(\d+)_(\d+)_(\w+)"
    one, other = re.fullmatch(pattern, found), re.fullmatch(pattern, promised)
    if one is None or other is None or (one[1], one[4]) != (other[1], other[4]):
        return False
    return (int(one[2]), int(one[3])) <= (int(other[2]), int(other[3]))


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "dist" / "prebuilt")
    parser.add_argument("--output", type=Path, default=ROOT / "dist", metavar="DIR")
    arguments = parser.parse_args()
    path = arguments.folder / "manifest.json"
    try:
        manifest = Manifest.parse(path.read_bytes(), str(path))
        source = sdist(arguments.output)
        print(source)
        for label, artifact in manifest.artifacts.items():
            # An app on iOS loads only what is in its bundle.
            if label.startswith("ios-"):
                continue
            made = wheel(source, arguments.folder / artifact.archive, arguments.output)
            check(made, label, manifest)
            print(f"{made}: {made.stat().st_size} bytes")
    except (ConfigurationError, OSError, WheelError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
