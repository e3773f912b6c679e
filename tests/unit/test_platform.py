"""Which library a process loads, for machines nobody here has."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from server_native import _libc
from server_native._platform import (
    ANDROID_API,
    DARWIN,
    PLATFORMS,
    Facts,
    Host,
    facts,
    file_name,
    host,
)
from server_native.errors import PrebuiltError

MUSL = "/lib/ld-musl-x86_64.so.1"
ROSETTA = "Darwin Kernel Version 23.1.0: root:xnu-10002.41.9~6/RELEASE_ARM64_T6000"
INTEL = "Darwin Kernel Version 20.6.0: root:xnu-7195.141.2~5/RELEASE_X86_64"


def linux(machine: str, bits: int = 64, **more: str | int | None) -> Facts:
    return Facts("linux", machine, bits, **{"glibc": "glibc 2.36", **more})  # type: ignore[arg-type]


def musl(machine: str, version: str | None = "1.2.5", bits: int = 64) -> Facts:
    loader = f"/lib/ld-musl-{machine}.so.1"
    return Facts("linux", machine, bits, interpreter=loader, musl=version)


def darwin(machine: str, kernel: str, release: str = "23.1.0", bits: int = 64) -> Facts:
    return Facts("darwin", machine, bits, release=release, kernel=kernel)


def windows(sysconfig: str, bits: int = 64) -> Facts:
    return Facts("win32", "", bits, sysconfig)


def android(machine: str, bits: int = 64, api: int = 34, platform: str = "android") -> Facts:
    return Facts(platform, machine, bits, android=api)


def ios(multiarch: str | None, machine: str = "iPhone14,5") -> Facts:
    return Facts("ios", machine, 64, multiarch=multiarch)


HOSTS: list[tuple[str, Facts, str | None, str]] = [
    # name, facts, label, what the reason must say when there is none
    ("Debian 12", linux("x86_64"), "linux-x64", ""),
    ("CentOS 7, the floor itself", linux("x86_64", glibc="glibc 2.17"), "linux-x64", ""),
    ("CentOS 6", linux("x86_64", glibc="glibc 2.12"), None, "glibc 2.12 is older than 2.17"),
    (
        "SLES 11 on arm64",
        linux("aarch64", glibc="glibc 2.11.3"),
        None,
        "glibc 2.11.3 is older than 2.17",
    ),
    ("glibc 2.100 is newer than 2.17", linux("x86_64", glibc="glibc 2.100"), "linux-x64", ""),
    ("Debian on a Graviton", linux("aarch64"), "linux-arm64", ""),
    ("a kernel that says amd64", linux("amd64"), "linux-x64", ""),
    ("a kernel that says arm64", linux("arm64"), "linux-arm64", ""),
    ("machine in capitals", linux("X86_64"), "linux-x64", ""),
    ("32-bit Python on 64-bit x86", linux("x86_64", 32), None, "use a 64-bit Python"),
    ("32-bit Python on 64-bit ARM", linux("aarch64", 32), None, "use a 64-bit Python"),
    ("64-bit Python under setarch i686", linux("i686"), "linux-x64", ""),
    ("64-bit Python under setarch armv8l", linux("armv8l"), "linux-arm64", ""),
    ("32-bit x86", linux("i686", 32), None, "no library for linux-x86"),
    ("Raspberry Pi OS, 32 bits", linux("armv7l", 32), None, "no library for linux-armv7"),
    ("Raspberry Pi Zero", linux("armv6l", 32), None, "no library for linux-armv6l"),
    ("RISC-V", linux("riscv64"), None, "no library for linux-riscv64"),
    ("POWER", linux("ppc64le"), None, "no library for linux-ppc64le"),
    ("IBM Z", linux("s390x"), None, "no library for linux-s390x"),
    ("LoongArch", linux("loongarch64"), None, "no library for linux-loongarch64"),
    ("Alpine", musl("x86_64"), "linux-musl-x64", ""),
    ("Alpine on arm64", musl("aarch64"), "linux-musl-arm64", ""),
    ("Alpine 3.12", musl("x86_64", "1.1.24"), None, "musl 1.1.24 is older than 1.2"),
    ("musl of an unreadable version", musl("x86_64", None), "linux-musl-x64", ""),
    ("Alpine, 32 bits", musl("i686", bits=32), None, "no library for linux-musl-x86"),
    ("Alpine on armv7", musl("armv7l", bits=32), None, "no library for linux-musl-armv7"),
    (
        "no /proc, a Python configured for musl",
        Facts("linux", "x86_64", multiarch="x86_64-linux-musl"),
        "linux-musl-x64",
        "",
    ),
    (
        "glibc that does not say its version",
        Facts("linux", "x86_64", interpreter="/lib64/ld-linux-x86-64.so.2"),
        "linux-x64",
        "",
    ),
    (
        "uClibc",
        Facts("linux", "x86_64", interpreter="/lib/ld64-uClibc.so.0"),
        None,
        "with the loader /lib/ld64-uClibc.so.0 is neither glibc nor musl",
    ),
    ("a static Python", Facts("linux", "x86_64"), None, "is neither glibc nor musl"),
    (
        "musl for a static Python",
        Facts("linux", "x86_64", libc_variable="musl"),
        "linux-musl-x64",
        "",
    ),
    ("glibc overruled", linux("x86_64", libc_variable="musl"), "linux-musl-x64", ""),
    ("glibc confirmed", linux("x86_64", libc_variable="glibc"), "linux-x64", ""),
    (
        "glibc confirmed and too old",
        linux("x86_64", glibc="glibc 2.5", libc_variable="glibc"),
        None,
        "older than 2.17",
    ),
    (
        "empty machine, told by sysconfig",
        linux("", sysconfig="linux-x86_64"),
        "linux-x64",
        "",
    ),
    ("empty machine on arm64", linux("", sysconfig="linux-aarch64"), "linux-arm64", ""),
    ("nobody says what machine", linux("", sysconfig="linux"), None, "no library for linux-linux"),
    ("Apple silicon", darwin("arm64", ROSETTA), "macos-arm64", ""),
    ("Intel Mac, macOS 11", darwin("x86_64", INTEL, "20.6.0"), "macos-x64", ""),
    ("Rosetta", darwin("x86_64", ROSETTA), "macos-x64", ""),
    ("macOS 10.15", darwin("x86_64", INTEL, "19.6.0"), None, "older than 20 (macOS 11)"),
    ("64-bit Windows", windows("win-amd64"), "windows-x64", ""),
    ("ARM64 Windows", windows("win-arm64"), "windows-arm64", ""),
    ("x86-64 Python on ARM64 Windows", windows("win-amd64"), "windows-x64", ""),
    ("32-bit Python on Windows", windows("win32", 32), None, "use a 64-bit Python"),
    ("MSYS2's Python", windows("mingw_x86_64_ucrt_gnu"), "windows-x64", ""),
    ("MSYS2's Python on ARM64", windows("mingw_aarch64"), "windows-arm64", ""),
    ("Android 3.13", android("aarch64"), "android-arm64", ""),
    ("Termux, 3.12", android("aarch64", platform="linux"), "android-arm64", ""),
    ("Android, 32 bits", android("armv7l", 32), "android-armv7", ""),
    ("32-bit Python on 64-bit Android", android("aarch64", 32), "android-armv7", ""),
    ("32-bit Python, compat kernel", android("armv8l", 32), "android-armv7", ""),
    ("Android emulator", android("x86_64"), "android-x64", ""),
    ("Android on 32-bit x86", android("i686", 32), None, "no library for android-x86"),
    ("Android 4.4", android("armv7l", 32, 19), None, "API level 19 is below 21"),
    ("iPhone", ios("arm64-iphoneos"), "ios-arm64", ""),
    ("simulator on Apple silicon", ios("arm64-iphonesimulator"), "ios-sim-arm64", ""),
    ("simulator on Intel", ios("x86_64-iphonesimulator", "x86_64"), "ios-sim-x64", ""),
    ("iOS without its triplet", ios(None), None, "neither that it is a device"),
    ("visionOS", Facts("visionos", "arm64"), None, "visionos is none of the systems"),
    ("FreeBSD", Facts("freebsd14", "amd64"), None, "freebsd14 is none of the systems"),
    ("OpenBSD", Facts("openbsd7", "amd64"), None, "openbsd7 is none of the systems"),
    ("Solaris", Facts("sunos5", "i86pc"), None, "sunos5 is none of the systems"),
    ("AIX", Facts("aix", "00F84C0C4C00"), None, "aix is none of the systems"),
    ("Cygwin", Facts("cygwin", "x86_64"), None, "cygwin is none of the systems"),
    ("Pyodide", Facts("emscripten", "wasm32", 32), None, "emscripten is none of the systems"),
    ("WASI", Facts("wasi", "wasm32", 32), None, "wasi is none of the systems"),
    (
        "named by its user",
        Facts("freebsd14", "amd64", platform_variable="linux-x64"),
        "linux-x64",
        "",
    ),
    (
        "named, and its libc as well",
        linux("x86_64", platform_variable="linux-musl-arm64", libc_variable="musl"),
        "linux-musl-arm64",
        "",
    ),
]


def test_there_are_forty_hosts_and_each_label_is_among_them() -> None:
    assert len(HOSTS) >= 40
    assert len({name for name, *_ in HOSTS}) == len(HOSTS)
    assert {label for *_, label, _ in HOSTS} == {None, *PLATFORMS}


@pytest.mark.parametrize(
    ("seen", "label", "why"), [row[1:] for row in HOSTS], ids=[r[0] for r in HOSTS]
)
def test_host(seen: Facts, label: str | None, why: str) -> None:
    found = host(seen)
    assert found.label == label
    if label is not None:
        assert found.reason == ""
        assert found.text.startswith(label)
        return
    assert why
    assert why in found.reason
    # What was found, what is supported, what to do.
    assert f"Found: system {seen.platform}, machine " in found.reason
    assert "Supported: linux-x64, linux-arm64, " in found.reason
    assert "What to do: " in found.reason


def test_a_library_of_the_wrong_libc_is_never_the_answer() -> None:
    for name, seen, label, _ in HOSTS:
        if label is None or seen.platform_variable or seen.libc_variable:
            continue
        wanted = PLATFORMS[label].libc
        found = "glibc" if seen.glibc else "musl" if "musl" in (seen.interpreter or "") else None
        assert wanted == found or found is None, name


def test_what_is_known_of_the_libc_is_said() -> None:
    assert host(linux("x86_64")) == Host("linux-x64", "", "glibc", "2.36", "linux-x64 (glibc 2.36)")
    assert host(musl("aarch64", None)).text == "linux-musl-arm64 (musl)"
    assert host(android("aarch64")).text == "android-arm64 (API level 34)"
    assert "under Rosetta" in host(darwin("x86_64", ROSETTA)).text
    assert host(darwin("arm64", ROSETTA)).text == "macos-arm64"


@pytest.mark.parametrize(
    ("seen", "code", "text"),
    [
        (linux("x86_64", libc_variable="uclibc"), "E-ENV", "must be glibc or musl, found 'uclibc'"),
        (linux("x86_64", platform_variable="linux"), "E-PLATFORM", "must be one of linux-x64, "),
        (
            linux("x86_64", platform_variable="linux-x64", libc_variable="musl"),
            "E-ENV",
            "linux-x64 is a platform of glibc, but SERVER_NATIVE_LIBC is musl",
        ),
    ],
)
def test_variables_that_cannot_be_are_errors(seen: Facts, code: str, text: str) -> None:
    with pytest.raises(PrebuiltError, match=re.escape(text)) as caught:
        host(seen)
    assert caught.value.code == code


def test_the_floors_are_those_of_the_wheels() -> None:
    said = {"android": (ANDROID_API,), "macosx": (DARWIN - 9, 0)}
    for platform in PLATFORMS.values():
        system, *numbers = re.findall(r"[a-z]+|\d+", platform.wheel)[:3]
        floor = platform.floor or said.get(system)
        if system in ("ios", "win"):
            continue
        assert floor is not None
        assert tuple(map(int, numbers[: len(floor)])) == floor


# --- this process ---------------------------------------------------------------------------------


def test_this_process_is_looked_at_once_and_without_running_a_program() -> None:
    assert host() is host()
    # Audit hooks stay: this one is in a process of its own.
    probe = """
import sys
seen = []
sys.addaudithook(lambda name, arguments: seen.append(name))
from server_native._platform import facts, host
seen.clear()
host(facts())
print({name for name in seen if name.startswith(("subprocess", "os.exec", "os.fork", "os.posix_spawn", "os.system"))})
"""
    result = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True
    )
    assert result.stdout == "set()\n"


def test_looking_takes_less_than_a_millisecond() -> None:
    def once() -> float:
        began = time.perf_counter()
        host(facts())
        return time.perf_counter() - began

    # The best of many: what others do on this machine is not asked.
    assert min(once() for _ in range(50)) < 0.001


@pytest.mark.skipif(sys.platform != "linux", reason="uname and confstr of Linux")
def test_the_facts_of_linux_are_the_systems() -> None:
    seen = facts()
    assert seen.machine == os.uname().machine
    assert seen.bits == struct.calcsize("P") * 8
    assert seen.glibc == _libc.glibc()


@pytest.mark.parametrize(
    ("platform", "name"),
    [
        ("linux", "libserver_native.so"),
        ("freebsd14", "libserver_native.so"),
        ("darwin", "libserver_native.dylib"),
        ("win32", "server_native.dll"),
    ],
)
def test_the_file_is_named_as_the_platform_has_it(
    platform: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    assert file_name() == name


# --- the loader -----------------------------------------------------------------------------------


def elf(wide: bool, order: str, interpreter: bytes) -> bytes:
    """The beginning of a program with two program headers, the second of which names the loader."""
    header = b"\x7fELF" + bytes([2 if wide else 1, 1 if order == "<" else 2, 1]) + bytes(9)
    size = 56 if wide else 32
    start = 64 if wide else 52
    text = start + 2 * size
    if wide:
        header += struct.pack(
            order + "HHIQQQIHHHHHH", 3, 62, 1, 0, start, 0, 0, 64, size, 2, 0, 0, 0
        )
        one = struct.pack(order + "IIQQQQQQ", 6, 4, 64, 64, 64, 112, 112, 8)
        length = len(interpreter)
        two = struct.pack(order + "IIQQQQQQ", 3, 4, text, text, text, length, length, 1)
    else:
        header += struct.pack(
            order + "HHIIIIIHHHHHH", 3, 40, 1, 0, start, 0, 0, 52, size, 2, 0, 0, 0
        )
        one = struct.pack(order + "8I", 6, 52, 52, 52, 64, 64, 4, 4)
        length = len(interpreter)
        two = struct.pack(order + "8I", 3, text, text, text, length, length, 4, 1)
    return header + one + two + interpreter


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("order", ["<", ">"])
def test_the_loader_is_read_from_the_program(wide: bool, order: str) -> None:
    assert _libc.elf_interpreter(elf(wide, order, f"{MUSL}\0".encode())) == MUSL


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"#!/bin/sh\n",
        b"\x7fELF",
        elf(True, "<", b"/lib/ld.so\0")[:100],
        b"\x7fELF" + b"\xff" * 200,
    ],
)
def test_what_is_no_program_names_no_loader(head: bytes) -> None:
    assert _libc.elf_interpreter(head) is None


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/self/exe")
def test_the_loader_of_this_process_is_mapped_into_it() -> None:
    found = _libc.interpreter()
    assert found is not None
    assert str(Path(found).resolve()) in Path("/proc/self/maps").read_text()


def test_the_version_of_musl_is_in_its_loader(tmp_path: Path) -> None:
    loader = tmp_path / "ld-musl-x86_64.so.1"
    loader.write_bytes(b"\x7fELF\0\x001.x\0musl libc (x86_64)\nVersion %s\n\0\x001.2.3\0rest")
    assert _libc.musl(str(loader)) == "1.2.3"
    loader.write_bytes(b"nothing that looks like one")
    assert _libc.musl(str(loader)) is None
    assert _libc.musl(str(tmp_path / "ld-musl-gone.so.1")) is None
    assert _libc.musl("/lib64/ld-linux-x86-64.so.2") is None
