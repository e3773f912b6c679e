"""Archives of a release: the same bytes for the same library, and no library in them that its platform forbids."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from server_native import _platform
from server_native._bindings import abi
from tests.distribution.artifacts import LINUX, NAMES, library
from tools import build_prebuilt, inspect_library

ROOT = Path(__file__).resolve().parent.parent.parent
#: A function of glibc 2.25.
GETENTROPY = (
    "int getentropy(void *, unsigned long); int hidden(void) "
    '__attribute__((visibility("hidden"))); int hidden(void) { return getentropy(0, 0); }'
)
needs_linux_x64 = pytest.mark.skipif(
    _platform.host().label != "linux-x64" or shutil.which("gcc") is None,
    reason="compiles libraries for linux-x64",
)


# --- the archive ----------------------------------------------------------------------------------


def test_the_same_library_gives_the_same_bytes_whenever_they_are_packed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = build_prebuilt.pack(b"library", LINUX)
    monkeypatch.setattr("time.time", lambda: 2_000_000_000.0)
    assert build_prebuilt.pack(b"library", LINUX) == first
    # zlib's bytes may differ between its versions; what is in them may not.
    bare = hashlib.sha256(gzip.decompress(first)).hexdigest()
    assert bare == "300f41a6db8b7c29ec1347fc09cf2aae4c88fd8e84039d02decdfe6d869864fa"


def test_one_regular_member_that_tells_nothing_of_its_builder() -> None:
    packed = build_prebuilt.pack(b"library", LINUX, 86_400)
    # No name (flag bits), no time, in gzip's header.
    assert packed[3:8] == bytes(5)
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        (member,) = archive.getmembers()
        content = archive.extractfile(member)
        assert content is not None
        assert content.read() == b"library"
    assert member.isreg()
    assert (member.name, member.mode, member.mtime) == ("libserver_native.so", 0o644, 86_400)
    assert (member.uid, member.gid, member.uname, member.gname) == (0, 0, "", "")


def test_the_time_is_that_of_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    packed = build_prebuilt.pack(b"library", LINUX)
    assert packed == build_prebuilt.pack(b"library", LINUX, 86_400)
    assert packed != build_prebuilt.pack(b"library", LINUX, 0)


@pytest.mark.conformance
def test_the_library_of_a_release_tells_nothing_of_its_builder() -> None:
    (path,) = (ROOT / "dist" / "prebuilt").glob("server_native-*.tar.gz")
    with tarfile.open(path) as archive:
        content = archive.extractfile(archive.getmembers()[0])
        assert content is not None
        library = content.read()
    assert b"cargo/registry" in library, "panics name their place"
    for folder in (ROOT, Path.home() / ".cargo"):
        assert os.fsencode(folder) not in library


# --- the check ------------------------------------------------------------------------------------


@needs_linux_x64
def test_a_fit_library_has_no_faults(tmp_path: Path) -> None:
    path = library(tmp_path)
    assert inspect_library.faults(path, "linux-x64") == []
    assert build_prebuilt.loaded(path) == []
    assert inspect_library.exports(path) == set(abi.SIGNATURES)


@needs_linux_x64
@pytest.mark.parametrize(
    ("options", "names", "extra", "fault"),
    [
        ((), NAMES[1:], "", "missing ['sn_abi_hash']"),
        ((), NAMES, "void debug_me(void) {}", "too many ['debug_me']"),
        (("-Wl,-rpath,/home/builder",), NAMES, "", "RPATH"),
        (("-Wl,-rpath,/home/builder,--disable-new-dtags",), NAMES, "", "RPATH"),
        (("-Wl,--no-as-needed", "-lz"), NAMES, "", "needs: libz.so.1"),
        (
            (),
            NAMES,
            GETENTROPY,
            "glibc: expected 2.17 at most, found 2.25",
        ),
    ],
    ids=["fewer", "more", "runpath", "rpath", "needs", "floor"],
)
def test_each_fault_is_named(
    tmp_path: Path, options: tuple[str, ...], names: list[str], extra: str, fault: str
) -> None:
    if "-lz" in options:
        # A library that is in no manylinux list, without asking for its headers.
        stub = tmp_path / "libz.so"
        stub_command = ["gcc", "-shared", "-Wl,-soname,libz.so.1", "-x", "c", "/dev/null"]
        subprocess.run([*stub_command, "-o", str(stub)], check=True, capture_output=True)
        options = (f"-L{tmp_path}", *options)
    found = inspect_library.faults(
        library(tmp_path, *options, names=names, extra=extra), "linux-x64"
    )
    assert len(found) == 1
    assert fault in found[0]


@needs_linux_x64
def test_a_library_for_another_machine_is_refused(tmp_path: Path) -> None:
    path = library(tmp_path, extra=GETENTROPY)
    assert "processor: expected AARCH64, found X86_64" in inspect_library.faults(
        path, "linux-arm64"
    )
    assert "format: expected PE, found ELF" in inspect_library.faults(path, "windows-x64")
    for other in ("linux-musl-x64", "android-x64"):
        faults = inspect_library.faults(path, other)
        assert f"needs: libc.so.6 is not in every {other} system" in faults
        assert "glibc: expected none of it, found 2.25" in faults


def test_what_is_no_library_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "libserver_native.so"
    path.write_text("no library")
    (fault,) = inspect_library.faults(path, "linux-x64")
    assert "expected one ELF, Mach-O or PE" in fault


@needs_linux_x64
def test_a_library_of_other_sources_is_refused(tmp_path: Path) -> None:
    path = library(tmp_path)
    source = tmp_path / "library.c"
    source.write_text(source.read_text().replace(str(abi.ABI_HASH), "1"))
    command = ["gcc", "-shared", "-fPIC", "-s", "-o", str(path), str(source)]
    subprocess.run(command, check=True)
    (fault,) = build_prebuilt.loaded(path)
    assert f"expected {abi.ABI_HASH:016x}, found 0000000000000001" in fault


# --- the command ----------------------------------------------------------------------------------


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "tools" / "build_prebuilt.py", *arguments]
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False
    )


@needs_linux_x64
def test_the_command_strips_checks_and_packs(tmp_path: Path) -> None:
    path = library(tmp_path, "-g")
    symbols = tmp_path / "symbols.so"
    subprocess.run(
        ["gcc", "-g", "-shared", "-fPIC", "-o", str(symbols), str(tmp_path / "library.c")],
        check=True,
    )
    faults = inspect_library.faults(symbols, "linux-x64")
    assert len(faults) == 1
    assert "expected a stripped library" in faults[0]
    archives = []
    for folder in ("one", "two"):
        result = run("--library", symbols, "--label", "linux-x64", "--output", tmp_path / folder)
        assert result.returncode == 0, result.stderr
        archives.append(tmp_path / folder / LINUX.archive)
    assert archives[0].read_bytes() == archives[1].read_bytes()
    assert [each.name for each in archives[0].parent.iterdir()] == [LINUX.archive]
    with tarfile.open(archives[0]) as archive:
        content = archive.extractfile(LINUX.file)
        assert content is not None
        path.write_bytes(content.read())
    assert inspect_library.faults(path, "linux-x64") == []


@needs_linux_x64
def test_the_command_writes_nothing_of_an_unfit_library(tmp_path: Path) -> None:
    path = library(tmp_path, names=NAMES[1:])
    result = run("--library", path, "--label", "linux-x64", "--output", tmp_path / "out")
    assert result.returncode == 1
    assert "is not fit for linux-x64" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_label_that_does_not_exist_is_refused_with_those_that_do(tmp_path: Path) -> None:
    result = run("--label", "linux-mips", "--output", tmp_path)
    assert result.returncode == 1
    assert "linux-musl-arm64" in result.stderr
