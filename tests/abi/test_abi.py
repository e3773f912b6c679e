"""The C ABI as a C host meets it: abi.c built against the header, the layouts, the exported symbols."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from server_native import _library
from server_native._bindings import abi

ROOT = Path(__file__).resolve().parent.parent.parent
HEADER = ROOT / "bindings" / "server_native.h"
COMPILER = ("gcc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic", f"-I{HEADER.parent}")


def run(*command: str | Path, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    arguments = [str(part) for part in command]
    return subprocess.run(
        arguments,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture(scope="session")
def library() -> Path:
    return _library.locate()


@pytest.fixture(scope="session")
def program(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("abi") / "abi"
    source = Path(__file__).with_name("abi.c")
    link = (f"-Wl,-rpath,{library.parent}", "-pthread")
    built = run(*COMPILER, "-O1", "-g", source, "-o", path, library, *link)
    assert built.returncode == 0, built.stderr
    return path


def test_every_export_from_c(program: Path) -> None:
    result = run(program)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.endswith("ok\n")


def test_no_invalid_access_and_no_leak(program: Path) -> None:
    if shutil.which("valgrind") is None:
        pytest.skip("valgrind is not installed (`make test` installs it where it may)")
    checks = ("--quiet", "--error-exitcode=9", "--leak-check=full")
    leaks = ("--show-leak-kinds=definite", "--errors-for-leak-kinds=definite")
    result = run("valgrind", *checks, *leaks, program, timeout=110)
    assert result.returncode == 0, result.stdout + result.stderr


def test_abi_c_calls_every_export() -> None:
    source = Path(__file__).with_name("abi.c").read_text()
    missing = [name for name in abi.SIGNATURES if not re.search(rf"\b{name}\(", source)]
    assert not missing


def test_c_and_ctypes_lay_structs_out_alike(tmp_path: Path) -> None:
    structures = {
        name: value
        for name, value in vars(abi).items()
        if isinstance(value, type) and issubclass(value, ctypes.Structure)
    }
    assert "ListenOptions" in structures
    lines = ["#include <stddef.h>", '#include "server_native.h"']
    for name, structure in structures.items():
        c_name = "sn" + re.sub("[A-Z]", lambda letter: "_" + letter[0].lower(), name)
        size = ctypes.sizeof(structure)
        lines.append(f'_Static_assert(sizeof({c_name}) == {size}, "{c_name}");')
        for field, *_ in structure._fields_:
            offset = getattr(structure, field).offset
            text = f"{c_name}.{field}"
            lines.append(f'_Static_assert(offsetof({c_name}, {field}) == {offset}, "{text}");')
    for enum in (abi.Status, abi.Event, abi.Command, abi.Protocol, abi.Reason):
        for member in enum:
            c_name = f"SN_{enum.__name__.upper()}_{member.name}"
            lines.append(f'_Static_assert({c_name} == {member.value}, "{c_name}");')
    source = tmp_path / "layout.c"
    source.write_text("\n".join(lines) + "\n")
    result = run(*COMPILER, "-fsyntax-only", source)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("standard", ["c99", "c11", "c23", "c++17"])
def test_the_header_stands_alone(tmp_path: Path, standard: str) -> None:
    if standard == "c23" and "-std=c2x" in run("gcc", "--help=c").stdout:
        standard = "c2x"  # its name before gcc 14
    language, compiler = ("c++", "g++") if "+" in standard else ("c", "gcc")
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    source = tmp_path / "alone"
    source.write_text('#include "server_native.h"\n#include "server_native.h"\n')
    flags = ("-Wall", "-Wextra", "-Werror", "-fsyntax-only", f"-I{HEADER.parent}")
    result = run(compiler, "-x", language, f"-std={standard}", *flags, source)
    assert result.returncode == 0, result.stderr


def test_the_library_exports_the_header_and_nothing_else(library: Path) -> None:
    if os.name != "posix":
        pytest.skip("nm reads ELF and Mach-O")
    listed = run("nm", "-D", "--defined-only", library)
    assert listed.returncode == 0, listed.stderr
    exported = {
        line.split()[-1] for line in listed.stdout.splitlines() if line.split()[-2] in "TDBRVW"
    }
    declared = set(re.findall(r"\b(sn_\w+)\(", re.sub(r"//.*", "", HEADER.read_text())))
    assert exported == declared == set(abi.SIGNATURES)


def test_the_library_is_of_these_bindings(library: Path) -> None:
    handle = ctypes.CDLL(str(library))
    version, found = abi.identify(handle)
    assert found == abi.ABI_HASH, f"{library} is of other sources: run `make build`"
    cargo = (ROOT / "native" / "Cargo.toml").read_text()
    assert f'version = "{version}"' in cargo
    assert f'version = "{version}"' in (ROOT / "pyproject.toml").read_text()
