#!/usr/bin/env python3
"""Writes bindings/ from the Rust source: `server_native.h`, then `abi.py` from that header.

    python tools/generate_bindings.py           write both files
    python tools/generate_bindings.py --check   compare whole files, exit 1 with a diff
    ... --from-header                           either, without cbindgen: abi.py and ABI hash only

Step 1 gives cbindgen, at one exact version, a crate of only the files that `native/build.rs` lists
as the ABI. So what the header is made of and what the ABI hash covers are the same files, and a
constant made public elsewhere cannot leak in. That version is installed into `.tools/` on first
use. Step 2 reads the header with pycparser and needs no C compiler.

Nothing here knows a number, a field or a function: all of them come from the Rust source.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import operator
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from pycparser import c_ast, c_parser

ROOT = Path(__file__).resolve().parent.parent
NATIVE = ROOT / "native"
HEADER = ROOT / "bindings" / "server_native.h"
PYTHON = ROOT / "bindings" / "abi.py"

CBINDGEN_VERSION = "0.29.4"
WIDTH = 100
"""Line length of the written Python; the same as ruff's in pyproject.toml."""

PACKED = ("sn_record", "sn_batch_header", "sn_loan")
"""Structs that the host packs and unpacks itself, so they get a `struct` format."""


class GenerationError(Exception):
    """The sources cannot be turned into bindings; the text says what to do."""


# --- identity -------------------------------------------------------------------------------------


def abi_sources() -> list[str]:
    """The files that define the ABI, as native/build.rs lists them: the one list there is."""
    listed = re.search(
        r"const SOURCES: .*?=\s*\[(.*?)\];", (NATIVE / "build.rs").read_text(), re.DOTALL
    )
    if listed is None:
        raise GenerationError(
            "native/build.rs must hold `const SOURCES: [&str; N] = [...];`, found none"
        )
    return re.findall(r'"([^"]+)"', listed[1])


def abi_hash() -> int:
    """FNV-1a, 64 bits, over the ABI's sources without carriage returns, as build.rs has it."""
    value = 0xCBF2_9CE4_8422_2325
    for source in abi_sources():
        for byte in (NATIVE / source).read_bytes().replace(b"\r", b""):
            value = (value ^ byte) * 0x0000_0100_0000_01B3 % 2**64
    return value


# --- step 1: Rust -> C header ---------------------------------------------------------------------


def cbindgen() -> str:
    """Path of cbindgen at the pinned version, installed into .tools/ when it is not there."""
    folder = ROOT / ".tools"
    folder.mkdir(exist_ok=True)
    (folder / ".gitignore").write_text("*\n")
    own = folder / "bin" / "cbindgen"
    for candidate in (own, shutil.which("cbindgen")):
        if candidate is None or not Path(candidate).is_file():
            continue
        found = subprocess.run(
            [candidate, "--version"], capture_output=True, text=True, check=False
        )
        if found.stdout.split() == ["cbindgen", CBINDGEN_VERSION]:
            return str(candidate)
    print(f"installing cbindgen {CBINDGEN_VERSION} into .tools/ (about a minute)", file=sys.stderr)
    command = ["cargo", "install", "cbindgen", "--quiet", "--locked", "--force"]
    command += ["--version", f"={CBINDGEN_VERSION}", "--root", str(folder)]
    try:
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, cwd=folder)
    except (OSError, subprocess.CalledProcessError) as cause:
        raise GenerationError(
            f"cbindgen {CBINDGEN_VERSION} cannot be installed ({cause}). Install Rust from "
            "https://rustup.rs, or use --from-header, which leaves the header as it is"
        ) from cause
    return str(own)


def render_header() -> str:
    """The text of server_native.h."""
    with tempfile.TemporaryDirectory() as folder:
        crate = Path(folder)
        (crate / "src").mkdir()
        modules = []
        for source in abi_sources():
            (crate / source).parent.mkdir(exist_ok=True)
            shutil.copyfile(NATIVE / source, crate / source)
            # One in a folder is declared by the module it belongs to.
            if Path(source).parent == Path("src"):
                modules.append(f"pub mod {Path(source).stem};\n")
        (crate / "src" / "lib.rs").write_text("".join(modules))
        (crate / "Cargo.toml").write_text(
            '[package]\nname = "server_native"\nversion = "0.0.0"\n[lib]\n'
        )
        output = crate / "header.h"
        config = NATIVE / "cbindgen.toml"
        command = [
            cbindgen(),
            "--quiet",
            "--config",
            str(config),
            "--output",
            str(output),
            str(crate),
        ]
        result = subprocess.run(
            command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )
        if result.returncode != 0 or not output.is_file():
            raise GenerationError(f"cbindgen failed:\n{result.stdout}{result.stderr}")
        text = output.read_text()

    names = dict(
        re.findall(r'^"(\w+)" = "(\w+)"$', (NATIVE / "cbindgen.toml").read_text(), re.MULTILINE)
    )
    text = re.sub(r"\[`(\w+)`\]", lambda link: f"`{names.get(link[1], link[1])}`", text)
    identity = (
        "\n// Identity of the ABI this header was written from: what sn_abi_hash() has to answer.\n"
        f"#define SN_ABI_HASH UINT64_C(0x{abi_hash():016x})\n"
    )
    last_include = "#include <stdint.h>\n"
    if text.count(last_include) != 1:
        raise GenerationError(
            f"the header must hold {last_include!r} once: see sys_includes in native/cbindgen.toml"
        )
    return text.replace(last_include, last_include + identity)


# --- step 2: C header -> Python -------------------------------------------------------------------


@dataclass(frozen=True)
class Scalar:
    """A C type: its ctypes name, its Python type, its `struct` code when its size is fixed."""

    ctypes_name: str
    python: str = "int"
    code: str = ""


SCALARS = {
    "bool": Scalar("c_bool", "bool", "?"),
    "char": Scalar("c_char", "bytes"),
    "int": Scalar("c_int"),
    "size_t": Scalar("c_size_t"),
    **{
        f"int{bits}_t": Scalar(f"c_int{bits}", code=code)
        for bits, code in zip((8, 16, 32, 64), "bhiq", strict=True)
    },
    **{
        f"uint{bits}_t": Scalar(f"c_uint{bits}", code=code)
        for bits, code in zip((8, 16, 32, 64), "BHIQ", strict=True)
    },
}


@dataclass
class Abi:
    """What the header declares, in the header's order."""

    constants: dict[str, int] = field(default_factory=dict)
    enums: dict[str, dict[str, int]] = field(default_factory=dict)
    structs: dict[str, dict[str, c_ast.Node]] = field(default_factory=dict)
    opaque: set[str] = field(default_factory=set)
    functions: dict[str, c_ast.FuncDecl] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    docs: dict[str, str] = field(default_factory=dict)


def plain_c(header: str) -> str:
    """The header without comments and directives.

    `#if` and `#ifdef` count as false, `#ifndef` as true.
    """
    kept: list[str] = []
    active: list[bool] = []
    for line in re.sub(r"/\*.*?\*/|//[^\n]*", "", header, flags=re.DOTALL).splitlines():
        directive = re.match(r"\s*#\s*(\w+)", line)
        if directive is None:
            if all(active):
                kept.append(line)
        elif directive[1] in ("if", "ifdef", "ifndef"):
            active.append(directive[1] == "ifndef")
        elif directive[1] == "else":
            active[-1] = not active[-1]
        elif directive[1] == "endif":
            active.pop()
        elif directive[1] not in ("define", "include"):
            raise GenerationError(
                f"the header holds a directive this generator does not know: {line}"
            )
    return "\n".join(kept)


def constant(text: str) -> int:
    """The value of an integer expression of literals, + - * << | and parentheses."""
    operators = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}
    operators |= {ast.LShift: operator.lshift, ast.BitOr: operator.or_}

    def value(node: ast.AST) -> int:
        match node:
            case ast.Constant(value=int(number)):
                return number
            case ast.BinOp(left=left, op=op, right=right) if type(op) in operators:
                return int(operators[type(op)](value(left), value(right)))
        raise GenerationError(f"not an integer expression this generator knows: {text}")

    return value(ast.parse(re.sub(r"UINT64_C\((\w+)\)", r"\1", text).strip(), mode="eval").body)


def parse(header: str) -> Abi:
    """Reads the header."""
    abi = Abi()
    for name, text in re.findall(r"^#define (SN_\w+) (.+)$", header, re.MULTILINE):
        abi.constants[name] = constant(text)
    for comment, name in re.findall(
        r"((?:^//.*\n)+)^(?:typedef struct|enum) (\w+)", header, re.MULTILINE
    ):
        abi.docs[name] = (
            re.sub(r"\s*\n// ?", " ", comment[3:].strip()).split(". ")[0].rstrip(".") + "."
        )

    builtin = "".join(f"typedef int {name};\n" for name in SCALARS if name not in ("char", "int"))
    known = set(SCALARS)
    for node in c_parser.CParser().parse(builtin + plain_c(header)).ext:
        match node:
            case c_ast.Typedef(name=name) if name in known:
                continue
            case c_ast.Typedef(name=name, type=c_ast.TypeDecl(type=c_ast.Struct(decls=None))):
                abi.opaque.add(name)
            case c_ast.Typedef(name=name, type=c_ast.TypeDecl(type=c_ast.Struct(decls=fields))):
                abi.structs[name] = {member.name: member.type for member in fields}
            case c_ast.Typedef(
                name=name, type=c_ast.TypeDecl(type=c_ast.IdentifierType(names=[target]))
            ):
                abi.aliases[name] = target
            case c_ast.Decl(type=c_ast.Enum(name=name, values=values)):
                abi.enums[name] = {
                    item.name: constant(item.value.value) for item in values.enumerators
                }
            case c_ast.Decl(name=name, type=c_ast.FuncDecl() as function):
                abi.functions[name] = function
            case _:
                raise GenerationError(
                    f"the header declares something this generator does not know:\n{node}"
                )
    return abi


def named(node: c_ast.Node, abi: Abi) -> str:
    """The C name of a type that is no pointer; enums resolve to the integer they are."""
    match node:
        case c_ast.TypeDecl(type=c_ast.IdentifierType(names=[name])):
            return abi.aliases.get(str(name), str(name))
        case c_ast.TypeDecl(type=c_ast.Struct(name=str(name))):
            return name
    raise GenerationError(f"a type this generator does not know:\n{node}")


def class_name(name: str) -> str:
    """sn_batch_header -> BatchHeader."""
    return "".join(word.capitalize() for word in name.removeprefix("sn_").split("_"))


def as_ctypes(node: c_ast.Node, abi: Abi, *, parameter: bool) -> tuple[str, str]:
    """The ctypes expression and the Python type of a field, parameter or result.

    A pointer is an address (`c_void_p`), with two exceptions: text that is returned, and a
    parameter that points to one struct, number or handle, where ctypes checks what it is given.
    """
    if not isinstance(node, c_ast.PtrDecl):
        name = named(node, abi)
        if name in SCALARS:
            return f"ctypes.{SCALARS[name].ctypes_name}", SCALARS[name].python
        return class_name(name), class_name(name)
    address = ("ctypes.c_void_p", "int | None")
    if isinstance(node.type, c_ast.PtrDecl):
        return "ctypes.POINTER(ctypes.c_void_p)", ""
    target = named(node.type, abi)
    if target == "char":
        return "ctypes.c_char_p", "bytes"
    if not parameter or target == "uint8_t" or target in abi.opaque:
        return address
    return f"ctypes.POINTER({as_ctypes(node.type, abi, parameter=True)[0]})", ""


def struct_format(name: str, abi: Abi) -> str:
    """The `struct` format of a packed struct, alignment written out as pad bytes."""
    letters, offset, widest = "=", 0, 1
    for member, node in abi.structs[name].items():
        code = SCALARS[named(node, abi)].code
        if not code:
            raise GenerationError(f"{name}.{member} must have a type of fixed size")
        size = struct.calcsize("=" + code)
        padding = -offset % size
        letters += "x" * padding + code
        offset += padding + size
        widest = max(widest, size)
    return letters + "x" * (-offset % widest)


def tuple_of(items: list[str], indent: int, before: str = "", after: str = "") -> str:
    """A tuple on one line where it fits, else one item per line, as ruff formats it."""
    space = " " * indent
    line = f"{space}{before}({', '.join(items)}{',' * (len(items) == 1)}){after}\n"
    if len(line) - 1 <= WIDTH and not any("\n" in item for item in items):
        return line
    lines = [f"{space}{before}(", *(f"{space}    {item}," for item in items), f"{space}){after}\n"]
    return "\n".join(lines)


def signature(name: str, function: c_ast.FuncDecl, abi: Abi) -> str:
    """One entry of SIGNATURES."""
    parameters = [
        as_ctypes(parameter.type, abi, parameter=True)[0]
        for parameter in (function.args.params if function.args else [])
        if not isinstance(parameter, c_ast.Typename)  # (void)
    ]
    result = as_ctypes(function.type, abi, parameter=False)[0]
    line = tuple_of([result, tuple_of(parameters, 0).strip()], 4, f'"{name}": ', ",")
    if "\n" not in line[:-1]:
        return line
    return tuple_of([result, tuple_of(parameters, 8).strip()], 4, f'"{name}": ', ",")


def render_python(header: str) -> str:
    """The text of abi.py."""
    abi = parse(header)
    parts = [PREAMBLE]
    for name, value in sorted(abi.constants.items()):
        shown = f"0x{value:016X}" if name == "SN_ABI_HASH" else str(value)
        parts.append(f"{name.removeprefix('SN_')}: Final = {shown}\n")
    parts.append("\n")
    for name in sorted(PACKED):
        plain, letters = name.removeprefix("sn_").upper(), struct_format(name, abi)
        parts.append(
            f'{plain}_FORMAT: Final = "{letters}"\n'
            f"{plain}_SIZE: Final = {struct.calcsize(letters)}\n"
        )

    for name, members in sorted(abi.enums.items()):
        parts.append(f'\n\nclass {class_name(name)}(IntEnum):\n    """{abi.docs[name]}"""\n\n')
        parts += [
            f"    {member.removeprefix(f'{name}_'.upper())} = {value}\n"
            for member, value in members.items()
        ]

    for name, fields in abi.structs.items():
        types = {member: as_ctypes(node, abi, parameter=False) for member, node in fields.items()}
        parts.append(
            f'\n\nclass {class_name(name)}(ctypes.Structure):\n    """{abi.docs[name]}"""\n\n'
        )
        parts += [f"    {member}: {python}\n" for member, (_, python) in types.items()]
        pairs = [f'("{member}", {ctype})' for member, (ctype, _) in types.items()]
        parts.append("\n" + tuple_of(pairs, 4, "_fields_ = "))

    parts.append("\n\nSIGNATURES: Final[dict[str, tuple[Any, tuple[Any, ...]]]] = {\n")
    parts += [signature(name, function, abi) for name, function in sorted(abi.functions.items())]
    parts.append("}\n" + FUNCTIONS)
    return "".join(parts)


PREAMBLE = '''\
"""The native library's C ABI for ctypes: numbers, structures, signatures.

GENERATED from bindings/server_native.h by tools/generate_bindings.py. Do not edit: `make bindings`
rewrites it. The header documents every field and function.
"""

from __future__ import annotations

import ctypes
from enum import IntEnum
from typing import Any, Final

'''

FUNCTIONS = '''\
"""Result and parameters of every export."""


def identify(library: ctypes.CDLL) -> tuple[str, int]:
    """Version and ABI hash of a library of any build; AttributeError when it is not ours.

    Only when the hash equals `ABI_HASH` may `declare` be called.
    """
    for name in ("sn_abi_hash", "sn_version"):
        function = getattr(library, name)
        function.restype, function.argtypes = SIGNATURES[name]
    return library.sn_version().decode(), library.sn_abi_hash()


def declare(library: ctypes.CDLL) -> None:
    """Sets result and parameter types of every export, on a CDLL or a PyDLL."""
    for name, (result, parameters) in SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, parameters
'''


# --- the command ----------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; answers the exit status."""
    parser = argparse.ArgumentParser(description="Write bindings/ from the Rust source.")
    parser.add_argument(
        "--check", action="store_true", help="compare instead of writing; exit 1 with a diff"
    )
    parser.add_argument(
        "--from-header", action="store_true", help="take the committed header, run no cbindgen"
    )
    options = parser.parse_args(arguments)
    try:
        header = HEADER.read_text() if options.from_header else render_header()
        if f"0x{abi_hash():016x}" not in header:
            raise GenerationError(
                "bindings/server_native.h is older than the Rust source: run `make bindings`"
            )
        written = {HEADER: header, PYTHON: render_python(header)}
    except GenerationError as cause:
        print(f"generate_bindings: {cause}", file=sys.stderr)
        return 1
    stale = 0
    for path, text in written.items():
        before = path.read_text() if path.exists() else ""
        if before == text:
            continue
        stale += 1
        name = str(path.relative_to(ROOT))
        if options.check:
            diff = difflib.unified_diff(
                before.splitlines(True), text.splitlines(True), name, f"{name} (fresh)"
            )
            sys.stdout.writelines(diff)
        else:
            path.write_text(text)
            print(f"wrote {name}")
    if options.check and stale:
        print(
            "bindings/ is not what the Rust source gives: run `make bindings` and commit",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
