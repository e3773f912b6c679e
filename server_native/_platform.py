"""Platforms: the labels a library is published under, and which of them this process can load.

One function answers for everybody: the resolver, the setup tool and the build of wheels ask :func:`host`. It looks
at this process, not at the machine: a 32-bit Python or one under Rosetta loads what it is itself. No program is run.
"""

from __future__ import annotations

import functools
import os
import re
import sys
from dataclasses import dataclass
from typing import NamedTuple

from . import _libc
from ._places import environment
from .errors import PrebuiltError

__all__ = ["PLATFORMS", "Facts", "Host", "Platform", "facts", "file_name", "host"]


@dataclass(frozen=True)
class Platform:
    """A kind of machine libraries are built for."""

    #: As in file names and folders.
    label: str
    #: Rust's name of the target.
    target: str
    #: The library's file name.
    file: str
    #: What wheels for it are tagged with, after ``py3-none-``.
    wheel: str
    #: The C library it is linked against, and the oldest version it runs on.
    libc: str | None = None
    floor: tuple[int, int] | None = None

    @property
    def archive(self) -> str:
        """The file name of a release."""
        return f"server_native-{self.label}.tar.gz"


_SO, _DYLIB, _DLL = "libserver_native.so", "libserver_native.dylib", "server_native.dll"
#: What Python on iOS can load is a framework's binary inside the app, not a file of its own.
_FRAMEWORK = "server_native.framework/server_native"

PLATFORMS = {
    platform.label: platform
    for platform in (
        Platform(
            "linux-x64", "x86_64-unknown-linux-gnu", _SO, "manylinux_2_17_x86_64", "glibc", (2, 17)
        ),
        Platform(
            "linux-arm64",
            "aarch64-unknown-linux-gnu",
            _SO,
            "manylinux_2_17_aarch64",
            "glibc",
            (2, 17),
        ),
        Platform(
            "linux-musl-x64",
            "x86_64-unknown-linux-musl",
            _SO,
            "musllinux_1_2_x86_64",
            "musl",
            (1, 2),
        ),
        Platform(
            "linux-musl-arm64",
            "aarch64-unknown-linux-musl",
            _SO,
            "musllinux_1_2_aarch64",
            "musl",
            (1, 2),
        ),
        Platform("macos-arm64", "aarch64-apple-darwin", _DYLIB, "macosx_11_0_arm64"),
        Platform("macos-x64", "x86_64-apple-darwin", _DYLIB, "macosx_11_0_x86_64"),
        Platform("windows-x64", "x86_64-pc-windows-msvc", _DLL, "win_amd64"),
        Platform("windows-arm64", "aarch64-pc-windows-msvc", _DLL, "win_arm64"),
        Platform("android-arm64", "aarch64-linux-android", _SO, "android_21_arm64_v8a"),
        Platform("android-armv7", "armv7-linux-androideabi", _SO, "android_21_armeabi_v7a"),
        Platform("android-x64", "x86_64-linux-android", _SO, "android_21_x86_64"),
        Platform("ios-arm64", "aarch64-apple-ios", _FRAMEWORK, "ios_13_0_arm64_iphoneos"),
        Platform(
            "ios-sim-arm64", "aarch64-apple-ios-sim", _FRAMEWORK, "ios_13_0_arm64_iphonesimulator"
        ),
        Platform("ios-sim-x64", "x86_64-apple-ios", _FRAMEWORK, "ios_13_0_x86_64_iphonesimulator"),
    )
}

#: The oldest Android (API level) and macOS (Darwin's major version, macOS 11) of the wheels' tags above.
ANDROID_API = 21
DARWIN = 20


class Facts(NamedTuple):
    """Everything that is looked at, so that a test can be any machine. ``None``: not asked here, or no answer."""

    #: ``sys.platform``.
    platform: str
    #: What the kernel says the processor is; it may be empty, and may not be what this process runs as.
    machine: str = ""
    #: Width of a pointer in this process.
    bits: int = 64
    #: ``sysconfig.get_platform()``: asked where it tells the process from the machine, or nothing else tells.
    sysconfig: str | None = None
    #: ``confstr("CS_GNU_LIBC_VERSION")``, as ``glibc 2.36``.
    glibc: str | None = None
    #: The program's ELF interpreter, as ``/lib/ld-musl-x86_64.so.1``.
    interpreter: str | None = None
    #: Version in musl's loader.
    musl: str | None = None
    #: ``sys.implementation._multiarch``, as ``arm64-iphonesimulator``.
    multiarch: str | None = None
    #: ``sys.getandroidapilevel()``.
    android: int | None = None
    #: Release and version of a Darwin kernel: the version names the processor, even under Rosetta.
    release: str | None = None
    kernel: str | None = None
    #: The variables that overrule what was found.
    platform_variable: str | None = None
    libc_variable: str | None = None


@dataclass(frozen=True)
class Host:
    """What this process can load."""

    #: A key of :data:`PLATFORMS`, or ``None``.
    label: str | None
    #: Why there is none: what was found, what is supported, what to do. Empty with a label.
    reason: str = ""
    libc: str | None = None
    #: As ``2.36``.
    libc_version: str | None = None
    #: In words, as ``linux-x64 (glibc 2.36)``.
    text: str = ""


def file_name() -> str:
    """The file name a library built here has, whether or not libraries are published for this system."""
    if sys.platform == "win32":
        return _DLL
    return _DYLIB if sys.platform in ("darwin", "ios") else _SO


def host(facts: Facts | None = None) -> Host:
    """The host of this process, looked at once; of other ``facts``, as often as asked.

    Raises :class:`~server_native.errors.PrebuiltError` for ``SERVER_NATIVE_PLATFORM`` or ``SERVER_NATIVE_LIBC`` that
    cannot be.
    """
    return _here() if facts is None else _host(facts)


@functools.cache
def _here() -> Host:
    return _host(facts())


def facts() -> Facts:
    """Looks at this process: below a millisecond, as only what matters on this system is asked."""
    system = sys.platform
    uname = os.uname() if hasattr(os, "uname") else None
    machine = uname.machine if uname else ""
    level = getattr(sys, "getandroidapilevel", None)
    android = level() if level else None
    # On Windows the kernel's answer is the machine's; `sysconfig` reads what the interpreter was compiled for.
    asked = uname is None or not machine
    glibc = interpreter = musl = None
    if system.startswith("linux") and android is None:
        glibc = _libc.glibc()
        if glibc is None:
            interpreter = _libc.interpreter()
            musl = _libc.musl(interpreter)
    darwin = uname if uname and system == "darwin" else None
    return Facts(
        system,
        machine,
        64 if sys.maxsize > 1 << 32 else 32,
        _sysconfig() if asked else None,
        glibc,
        interpreter,
        musl,
        getattr(sys.implementation, "_multiarch", None),
        android,
        darwin.release if darwin else None,
        darwin.version if darwin else None,
        environment("SERVER_NATIVE_PLATFORM"),
        environment("SERVER_NATIVE_LIBC"),
    )


def _sysconfig() -> str:
    import sysconfig

    return sysconfig.get_platform()


def _host(seen: Facts) -> Host:
    chosen = seen.libc_variable
    if chosen not in (None, "glibc", "musl"):
        raise PrebuiltError(
            "E-ENV",
            f"SERVER_NATIVE_LIBC must be glibc or musl, found {chosen!r}: correct it or unset it",
        )
    if seen.platform_variable is not None:
        return _named(seen.platform_variable, chosen)
    if seen.android is not None or seen.platform == "android":
        return _android(seen)
    if seen.platform.startswith("linux"):
        return _linux(seen)
    if seen.platform == "ios":
        return _ios(seen)
    if seen.platform == "darwin":
        return _macos(seen)
    if seen.platform == "win32":
        return _of(f"windows-{_processor(seen)}", seen)
    return _none(seen, f"{seen.platform} is none of the systems libraries are published for")


def _named(label: str, libc: str | None) -> Host:
    platform = PLATFORMS.get(label)
    if platform is None:
        raise PrebuiltError(
            "E-PLATFORM",
            f"SERVER_NATIVE_PLATFORM must be one of {_supported()}, found {label!r}: correct it or unset it",
        )
    if libc is not None and platform.libc is not None and libc != platform.libc:
        raise PrebuiltError(
            "E-ENV",
            f"SERVER_NATIVE_PLATFORM={label} is a platform of {platform.libc}, but SERVER_NATIVE_LIBC is {libc}: "
            "unset one of them",
        )
    return Host(label, libc=platform.libc, text=f"{label} (SERVER_NATIVE_PLATFORM)")


def _linux(seen: Facts) -> Host:
    libc, version = _c_library(seen)
    if libc is None:
        found = f"with the loader {seen.interpreter}" if seen.interpreter else "of a static program"
        return _none(seen, f"the C library {found} is neither glibc nor musl")
    infix = "-musl" if libc == "musl" else ""
    answer = _of(f"linux{infix}-{_processor(seen)}", seen, libc, version)
    if answer.label is None or version is None:
        return answer
    floor = PLATFORMS[answer.label].floor
    if floor is not None and _numbers(version) < floor:
        least = ".".join(map(str, floor))
        return _none(
            seen, f"{libc} {version} is older than {least}, which libraries need", libc, version
        )
    return answer


def _c_library(seen: Facts) -> tuple[str | None, str | None]:
    """Which C library, and its version where that is known."""
    name, _, version = (seen.glibc or "").partition(" ")
    glibc = version if name == "glibc" and re.match(r"\d+\.\d+", version) else None
    loader = seen.interpreter or ""
    if seen.libc_variable is not None:
        return seen.libc_variable, glibc if seen.libc_variable == "glibc" else seen.musl
    if name == "glibc":
        return "glibc", glibc
    if "musl" in loader or (not loader and (seen.multiarch or "").endswith("-musl")):
        return "musl", seen.musl
    if re.search(r"/ld-linux|/ld64?\.so", loader):
        return "glibc", None
    return None, None


def _android(seen: Facts) -> Host:
    # Termux is one too: its C library is the system's, neither glibc nor musl.
    if seen.android is not None and seen.android < ANDROID_API:
        return _none(
            seen, f"Android's API level {seen.android} is below {ANDROID_API}, which libraries need"
        )
    return _of(f"android-{_processor(seen)}", seen)


def _ios(seen: Facts) -> Host:
    processor, _, kind = (seen.multiarch or "").partition("-")
    simulator = "sim-" if kind == "iphonesimulator" else ""
    if kind not in ("iphoneos", "iphonesimulator"):
        return _none(
            seen, f"{seen.multiarch!r} says neither that it is a device nor that it is a simulator"
        )
    return _of(f"ios-{simulator}{_PROCESSORS.get(processor, processor)}", seen)


def _macos(seen: Facts) -> Host:
    major = re.match(r"\d+", seen.release or "")
    if major and int(major[0]) < DARWIN:
        return _none(
            seen, f"Darwin {seen.release} is older than {DARWIN} (macOS 11), which libraries need"
        )
    return _of(f"macos-{_processor(seen)}", seen)


_PROCESSORS = {
    "x86_64": "x64",
    "amd64": "x64",
    "x64": "x64",
    "aarch64": "arm64",
    "arm64": "arm64",
    "arm64e": "arm64",
    "arm64_v8a": "arm64",
    "armv8l": "arm64",
    "i386": "x86",
    "i686": "x86",
    "x86": "x86",
    "win32": "x86",
    "arm": "armv7",
    "armv7l": "armv7",
    "armeabi_v7a": "armv7",
}
#: What a process of the other width runs as on these.
_NARROW = {"x64": "x86", "arm64": "armv7"}


def _processor(seen: Facts) -> str:
    """What this process runs as; a name without a library when that is none of ours."""
    said = seen.machine
    if seen.platform == "win32" or not said:
        # linux-x86_64, win-amd64, win32, mingw_x86_64_ucrt, macosx-11.0-arm64
        said = (seen.sysconfig or "").lower()
        tail = said.rpartition("-")[2]
        said = tail if tail in _PROCESSORS else _inside(said)
    name = _PROCESSORS.get(said.lower(), said.lower() or "unknown")
    if seen.bits == 32:
        return _NARROW.get(name, name)
    # `setarch i686` and `linux32` make the kernel name the narrow one to a 64-bit process.
    return {narrow: wide for wide, narrow in _NARROW.items()}.get(name, name)


def _inside(text: str) -> str:
    return next((name for name in ("x86_64", "amd64", "aarch64", "arm64") if name in text), text)


def _of(label: str, seen: Facts, libc: str | None = None, version: str | None = None) -> Host:
    if label not in PLATFORMS:
        return _none(seen, f"there is no library for {label}", libc, version)
    notes = [" ".join(filter(None, (libc, version)))] if libc else []
    if seen.platform == "darwin" and "ARM64" in (seen.kernel or "") and label == "macos-x64":
        notes.append("under Rosetta: an arm64 Python would be faster")
    if seen.android is not None:
        notes.append(f"API level {seen.android}")
    return Host(label, "", libc, version, f"{label} ({', '.join(notes)})" if notes else label)


def _none(seen: Facts, why: str, libc: str | None = None, version: str | None = None) -> Host:
    said = {
        "system": seen.platform,
        "machine": seen.machine or seen.sysconfig or "unknown",
        "pointers": f"{seen.bits} bits",
        "libc": " ".join(filter(None, (libc, version))) or seen.glibc or seen.interpreter,
        "multiarch": seen.multiarch,
        "Android API level": seen.android,
    }
    found = ", ".join(f"{name} {value}" for name, value in said.items() if value is not None)
    advice = (
        "use a 64-bit Python"
        if seen.bits == 32 and _processor(seen) in ("x86", "armv7")
        else "build the library from its sources with cargo and set SERVER_NATIVE_PREBUILT to it"
    )
    reason = f"{why}. Found: {found}. Supported: {_supported()}. What to do: {advice}"
    return Host(None, reason, libc, version, f"unsupported ({found})")


def _supported() -> str:
    return ", ".join(PLATFORMS)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)[:2]))
