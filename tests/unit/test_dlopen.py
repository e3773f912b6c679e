"""What loaders say, and what we make of it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from server_native import _ffi
from server_native._dlopen import hint
from server_native.errors import LibraryMismatchError, LibraryNotFoundError, PrebuiltError

SO = "/home/a/libserver_native.so"


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (
            f"/lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.34' not found (required by {SO})",
            "it needs GLIBC_2.34 and this system's glibc is older",
        ),
        (f"{SO}: wrong ELF class: ELFCLASS64", "it is a 64-bit library"),
        (f"{SO}: wrong ELF class: ELFCLASS32", "it is a 32-bit library"),
        (
            "libc.musl-x86_64.so.1: cannot open shared object file: No such file or directory",
            "it was built for musl",
        ),
        (f"Error relocating {SO}: __memcpy_chk: symbol not found", "for another C library"),
        (
            "Error loading shared library ld-linux-x86-64.so.2: No such file or directory",
            "for another C library",
        ),
        (f"{SO}: cannot allocate memory in static TLS block", "import server_native earlier"),
        (f"{SO}: failed to map segment from shared object", "noexec"),
        (
            "(mach-o file, but is an incompatible architecture (have 'arm64', need 'x86_64'))",
            "another kind of machine",
        ),
        (
            "code signature in <1> '/a.dylib' not valid for use in process: Trying to load an unsigned library",
            "its code signature",
        ),
        ("[WinError 193] %1 is not a valid Win32 application", "another kind of machine"),
        ("[WinError 126] The specified module could not be found", "Visual C++ runtime"),
        (f"{SO}: invalid ELF header", "it is damaged"),
        (f"{SO}: file too short", "it is damaged"),
        (f"{SO}: cannot open shared object file: Permission denied", "may not read it"),
    ],
)
def test_what_a_loader_says_is_explained(said: str, meant: str) -> None:
    assert meant in hint(said)


def test_what_is_not_known_is_not_guessed_at() -> None:
    assert hint("something has happened") == ""


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "file too short"), (b"no library" * 100, "invalid ELF header")],
)
def test_a_library_that_does_not_load_is_e_load(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "libserver_native.so"
    path.write_bytes(content)
    with pytest.raises(PrebuiltError, match=said) as caught:
        _ffi._open(str(path))
    assert caught.value.code == "E-LOAD"
    assert "it is damaged or no library" in str(caught.value)
    assert isinstance(caught.value, LibraryNotFoundError)


def compile_library(path: Path, *options: str) -> bool:
    source = path.with_suffix(".c")
    source.write_text("int nothing(void) { return 0; }\n")
    command = ["cc", "-shared", "-nostdlib", *options, "-o", str(path), str(source)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_another_library_is_not_taken_for_ours(tmp_path: Path) -> None:
    assert compile_library(tmp_path / "liba.so")
    with pytest.raises(LibraryMismatchError, match="is not the native library of server_native"):
        _ffi._open(str(tmp_path / "liba.so"))


@pytest.mark.skipif(
    shutil.which("cc") is None or sys.maxsize < 1 << 32, reason="needs a C compiler, 64 bits"
)
def test_a_library_of_the_other_width_is_told_by_the_real_loader(tmp_path: Path) -> None:
    if not compile_library(tmp_path / "liba.so", "-m32"):
        pytest.skip("this compiler makes no 32-bit libraries")
    with pytest.raises(PrebuiltError, match="it is a 32-bit library and this Python is not"):
        _ffi._open(str(tmp_path / "liba.so"))
