#!/usr/bin/env python3
"""Builds, checks and packs the library of a platform: `server_native-<label>.tar.gz`, as a release has it.

    python tools/build_prebuilt.py                       for this machine, with its cargo
    python tools/build_prebuilt.py --zig                 the same for the oldest C library the platform promises
    python tools/build_prebuilt.py --label LABEL [--zig] for another one
    python tools/build_prebuilt.py --library FILE        packs what was built elsewhere
    ... --output DIR (default dist/prebuilt)  --check-only

The library is stripped and checked (tools/inspect_library.py); one for this machine is also loaded, and must be of
these bindings. The same library gives the same archive, byte for byte. `--zig` installs cargo-zigbuild and zig from
PyPI, at one version, into `.tools/` on first use; Rust must have the target's standard library.
"""

from __future__ import annotations

import argparse
import gzip
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from server_native import _platform  # noqa: E402
from server_native._bindings import abi  # noqa: E402
from server_native._platform import PLATFORMS, Platform  # noqa: E402
from server_native.errors import PrebuiltError  # noqa: E402
from tools import inspect_library  # noqa: E402

NATIVE = ROOT / "native"
OUTPUT = ROOT / "dist" / "prebuilt"
ZIG = ("ziglang==0.16.0", "cargo-zigbuild==0.24.1")
#: A load that hangs is a fault like another.
LOAD_SECONDS = 60


class BuildError(Exception):
    """A library or an archive cannot be made; the text says what was found and what to do."""


# --- the archive ----------------------------------------------------------------------------------


def pack(library: bytes, platform: Platform, moment: int | None = None) -> bytes:
    """The archive: one regular member, nothing in it from whoever builds. ``moment``: seconds since 1970.

    >>> linux = PLATFORMS["linux-x64"]
    >>> pack(b"library", linux) == pack(b"library", linux)
    True
    """
    if moment is None:
        moment = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
    member = tarfile.TarInfo(platform.file)
    member.size, member.mtime, member.mode = len(library), moment, 0o644
    bare = io.BytesIO()
    with tarfile.open(fileobj=bare, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        archive.addfile(member, io.BytesIO(library))
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", fileobj=packed, mode="wb", compresslevel=9, mtime=0) as stream:
        stream.write(bare.getvalue())
    return packed.getvalue()


# --- the library ----------------------------------------------------------------------------------


def built(platform: Platform, *, zig: bool, here: str | None) -> Path:
    """Has cargo build; answers the library, which may have symbols still."""
    command = [os.environ.get("CARGO", "cargo")]
    surroundings = dict(os.environ)
    folder = Path(os.environ.get("CARGO_TARGET_DIR", NATIVE / "target"))
    target = platform.target
    if zig:
        folder /= "prebuilt"
        tools = zig_tools()
        surroundings["PATH"] = f"{tools / 'bin'}{os.pathsep}{os.environ['PATH']}"
        surroundings["CARGO_ZIGBUILD_ZIG_PATH"] = str(tools / "ziglang" / "zig")
        floor = platform.floor if platform.libc == "glibc" else None
        suffix = "." + ".".join(map(str, floor)) if floor else ""
        command += ["zigbuild", "--target", target + suffix]
    elif platform.label == here:
        command += ["build"]
        target = ""
    else:
        command += ["build", "--target", target]
    if target:
        # Whoever links for another machine can strip for it; tools of this one cannot always.
        surroundings["CARGO_PROFILE_RELEASE_STRIP"] = "symbols"
    surroundings |= _flags(platform)
    command += ["--release", "--locked", "--manifest-path", str(NATIVE / "Cargo.toml")]
    command += ["--target-dir", str(folder)]
    if subprocess.run(command, env=surroundings, check=False).returncode != 0:
        raise BuildError(
            f"`{' '.join(command)}` failed. Rust needs the standard library of {platform.target}: "
            f"`rustup target add {platform.target}`"
        )
    name = platform.file
    if name.endswith(".framework/server_native"):
        name = "libserver_native.dylib"
    return folder / target / "release" / name


def _flags(platform: Platform) -> dict[str, str]:
    """What this platform's compiler and linker are told, as variables; `RUSTFLAGS` of the caller would hide it."""
    # A library says the same of itself wherever it was built, and nothing of whose machine that was.
    cargo = os.environ.get("CARGO_HOME", str(Path.home() / ".cargo"))
    folders = {str(ROOT): "server_native", cargo: "cargo"}
    # The variable is cut at blanks: a folder that has one stays as it is.
    flags = [f"--remap-path-prefix={at}={name}" for at, name in folders.items() if " " not in at]
    more = {}
    if platform.libc == "musl":
        # By default Rust links musl itself into programs, and makes no libraries.
        flags += ["-Ctarget-feature=-crt-static"]
    if platform.label.startswith("android-"):
        flags += ["-Clink-arg=-Wl,-z,max-page-size=16384"]
    if platform.label.startswith(("macos-", "ios-")):
        # Otherwise it is named after the building machine's folder.
        flags += [f"-Clink-arg=-Wl,-install_name,@rpath/{platform.file}"]
        more = {"MACOSX_DEPLOYMENT_TARGET": "11.0", "IPHONEOS_DEPLOYMENT_TARGET": "13.0"}
    prefix = f"CARGO_TARGET_{platform.target.upper().replace('-', '_')}"
    if platform.label.startswith("android-"):
        more = _ndk(platform, prefix)
    both = " ".join([*flags, os.environ.get(f"{prefix}_RUSTFLAGS", "")]).strip()
    return more | ({f"{prefix}_RUSTFLAGS": both} if both else {})


def _ndk(platform: Platform, prefix: str) -> dict[str, str]:
    """Compiler and linker of Google's NDK, for the oldest Android that is promised."""
    home = os.environ.get("ANDROID_NDK_HOME") or os.environ.get("ANDROID_NDK_LATEST_HOME")
    found = sorted(Path(home or "/nowhere").glob("toolchains/llvm/prebuilt/*/bin"))
    if not found:
        raise BuildError("ANDROID_NDK_HOME must be the folder of Android's NDK")
    triple = platform.target.replace("armv7-", "armv7a-")
    clang, archiver = found[0] / f"{triple}{_platform.ANDROID_API}-clang", found[0] / "llvm-ar"
    name = platform.target.replace("-", "_")
    return {
        f"{prefix}_LINKER": str(clang),
        f"CC_{name}": str(clang),
        f"AR_{name}": str(archiver),
    }


def zig_tools() -> Path:
    """The folder of cargo-zigbuild and zig, at their one version."""
    tools = ROOT / ".tools" / "zig"
    marker = tools / ".installed"
    if not marker.is_file() or marker.read_text() != " ".join(ZIG):
        shutil.rmtree(tools, ignore_errors=True)
        options = ("--quiet", "--disable-pip-version-check", "--no-deps", "--target", str(tools))
        command = [sys.executable, "-m", "pip", "install", *options, *ZIG]
        if subprocess.run(command, check=False).returncode != 0:
            raise BuildError(f"`{' '.join(command)}` failed: `--zig` needs these two")
        marker.write_text(" ".join(ZIG))
    return tools


def stripped(library: Path) -> bytes:
    """The library without symbols that nobody links; the file is left as it is."""
    start = library.read_bytes()[:4]
    if start == b"\x7fELF":
        options = ["--strip-all"]
    elif start == b"\xcf\xfa\xed\xfe":
        options = ["-x"]
    else:
        # MSVC keeps them in a file of their own.
        return library.read_bytes()
    program = shutil.which("llvm-strip") or shutil.which("strip")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / library.name
        shutil.copyfile(library, copy)
        # A strip for other machines leaves it alone and says so; whether that matters, `faults` tells.
        if program:
            subprocess.run([program, *options, str(copy)], capture_output=True, check=False)
        return copy.read_bytes()


def check(library: Path, label: str, here: str | None) -> None:
    """Raises :class:`BuildError` with every fault there is."""
    faults = inspect_library.faults(library, label)
    if not faults and label == here:
        faults = loaded(library)
    if faults:
        text = "\n".join(f"  {fault}" for fault in faults)
        raise BuildError(f"{library} is not fit for {label}:\n{text}")


def loaded(library: Path) -> list[str]:
    """Loads it in a process of its own and compares its identity with the bindings."""
    code = (
        "import ctypes, sys; from server_native._bindings import abi; "
        "print(abi.identify(ctypes.CDLL(sys.argv[1]))[1])"
    )
    command = [sys.executable, "-c", code, str(library)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=LOAD_SECONDS
    )
    if result.returncode != 0:
        lines = result.stderr.strip().splitlines() or [f"exit status {result.returncode}"]
        return [f"load: {lines[-1]}"]
    if int(result.stdout) != abi.ABI_HASH:
        expected, found = f"{abi.ABI_HASH:016x}", f"{int(result.stdout):016x}"
        return [f"ABI: expected {expected}, found {found}: build it from these sources"]
    return []


# --- the command ----------------------------------------------------------------------------------


def make(arguments: argparse.Namespace) -> str:
    """Does what the command line says; answers what to print."""
    here = _platform.host().label
    label = arguments.label or here
    if label not in PLATFORMS:
        raise BuildError(f"--label must be one of {', '.join(PLATFORMS)}; found {label}")
    platform = PLATFORMS[label]
    source = arguments.library or built(platform, zig=arguments.zig, here=here)
    if not source.is_file():
        raise BuildError(f"{source} does not exist")
    library = stripped(source)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / Path(platform.file).name
        copy.write_bytes(library)
        check(copy, label, here)
        needs = inspect_library.needs(copy)
    versions = " ".join(f"{name}_{'.'.join(map(str, found))}" for name, found in needs.items())
    text = f"{label}: {len(library)} bytes, exports as declared; newest versions: {versions or '-'}"
    if arguments.check_only:
        return text
    archive = arguments.output / platform.archive
    archive.parent.mkdir(parents=True, exist_ok=True)
    packed = pack(library, platform)
    # Whole or not at all: a folder of archives is what releases are made of.
    partial = archive.with_suffix(".partial")
    partial.write_bytes(packed)
    partial.replace(archive)
    return f"{text}\n{archive}: {len(packed)} bytes"


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--label", help="platform; this machine's by default")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--zig", action="store_true", help="build with cargo-zigbuild")
    source.add_argument("--library", type=Path, metavar="FILE", help="pack this one")
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="DIR")
    parser.add_argument("--check-only", action="store_true", help="write no archive")
    try:
        print(make(parser.parse_args()))
    except (BuildError, PrebuiltError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
