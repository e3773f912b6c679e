#!/usr/bin/env python3
"""Writes docs/reference.md from the docstrings of server_native.

    python tools/generate_reference.py           write the page
    python tools/generate_reference.py --check   compare, exit 1 with a diff

Every public name of the package is on the page: what its docstring says, its signature and, of a class, its public
members and the comments (`#:`) of its fields. Sources are read, not imported, so the page does not depend on the
interpreter. A new public name gets its place in `SECTIONS`.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "server_native"
PAGE = ROOT / "docs" / "reference.md"

INTRODUCTION = """\
# Reference

Every public name of `server_native`, from its docstring. Written by `tools/generate_reference.py`
(`make reference`); what is wrong here is mended in the source. [quickstart.md](quickstart.md) is the page
to begin with, [limits.md](limits.md) has all limits in a table.
"""

#: Headings of the page, and what stands below each. Names with a dot are of a module, beyond the package's `__all__`.
SECTIONS: dict[str, list[str]] = {
    "Serving": [
        "serve_native_direct",
        "serve_secure_native_direct",
        "start_native_direct",
        "start_secure_native_direct",
        "NativeDirectHandler",
        "http.HandlerResult",
        "NativeServer",
        "new_event_loop",
        "transport_abi_version",
    ],
    "Requests and responses": [
        "NativeDirectRequest",
        "NativeDirectResponse",
        "Headers",
        "headers.HeaderSource",
        "TLSInfo",
    ],
    "Several addresses": [
        "NativeServerBind",
        "binds.Host",
        "serve_native_multi",
        "serve_secure_native_multi",
        "start_native_multi",
        "start_secure_native_multi",
        "NativeMultiServer",
    ],
    "The HttpServer style": [
        "NativeHttpServer",
        "serve_native_http",
        "serve_secure_native_http",
        "start_native_http",
        "start_secure_native_http",
        "HttpHandler",
        "HttpRequest",
        "HttpResponse",
        "ResponseHeaders",
        "Cookie",
        "cookies.ResponseCookies",
        "Session",
        "ConnectionInfo",
        "ConnectionsInfo",
    ],
    "WebSocket and raw streams": [
        "WebSocket",
        "ThreadWebSocket",
        "websocket.Message",
        "DetachedSocket",
        "ThreadDetachedSocket",
    ],
    "Options": [
        "config.PlaceOptions",
        "MultiServeOptions",
        "config.TLSOptions",
        "config.HttpServerOptions",
        "ServeOptions",
        "SecureServeOptions",
        "SecureMultiServeOptions",
        "HttpServeOptions",
        "SecureHttpServeOptions",
        "Limits",
    ],
}
#: Where the defaults of options stand.
DEFAULTS = {
    "NativeServerBind": "binds",
    "ServerConfig": "config",
    "TLSConfig": "config",
    "HttpServerConfig": "config",
}

Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = ast.ClassDef | Function | ast.AnnAssign


class PageError(Exception):
    """The page cannot be made; the text says what to do."""


# --- sources ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Module:
    """One source file."""

    text: str
    tree: ast.Module

    def code(self, node: ast.expr) -> str:
        """A piece of the source in one line, without the quotes of a forward reference."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return node.value
        found = ast.get_source_segment(self.text, node) or ""
        return re.sub(r",? ([\])])", r"\1", re.sub(r"([\[(]) ", r"\1", re.sub(r"\s+", " ", found)))

    def type(self, node: ast.expr) -> str:
        """An annotation."""
        return re.sub(r"Unpack\[(\w+)\]", r"\1", self.code(node)).replace("_Bytes", "bytes")

    def comment(self, node: ast.stmt) -> str:
        """The `#:` lines above a statement."""
        lines = self.text.splitlines()
        found: list[str] = []
        for number in range(node.lineno - 2, -1, -1):
            line = lines[number].strip()
            if not line.startswith("#:"):
                break
            found.insert(0, line.removeprefix("#:").strip())
        return "\n".join(found)


@cache
def module(name: str) -> Module:
    """A module of the package, read once."""
    path = PACKAGE / f"{name}.py"
    text = path.read_text()
    return Module(text, ast.parse(text))


def imports(name: str) -> dict[str, str]:
    """Where a module's names come from, of those it has from a sibling."""
    body = module(name).tree.body
    # The package itself imports a name when it is asked for, and tells type checkers here.
    told = [inner for node in body if isinstance(node, ast.If) for inner in node.body]
    return {
        alias.name: node.module
        for node in (*body, *told)
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module
        for alias in node.names
    }


def definition(home: str, name: str) -> tuple[Module, Definition]:
    """The statement that defines a name, in this module or where it has it from."""
    source = module(home)
    for node in source.tree.body:
        defined = node.target if isinstance(node, ast.AnnAssign) else node
        if isinstance(node, Definition) and name == getattr(
            defined, "name", getattr(defined, "id", "")
        ):
            return source, node
    return definition(imports(home)[name], name)


def public(home: str) -> list[str]:
    """`__all__` of a module."""
    for node in module(home).tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names = ast.literal_eval(node.value)
            return [str(name) for name in names]
    raise PageError(f"server_native/{home}.py must have an `__all__`, found none")


def sections() -> dict[str, list[tuple[str, str]]]:
    """The names of each heading with the modules they are looked for in."""
    found: dict[str, list[tuple[str, str]]] = {}
    for title, names in SECTIONS.items():
        found[title] = []
        for entry in names:
            home, _, name = entry.rpartition(".")
            found[title].append((home or "__init__", name))
    found["Errors"] = [("errors", name) for name in public("errors")]
    shown = {name for names in found.values() for _, name in names}
    if missing := set(public("__init__")) - shown:
        raise PageError(
            f"every public name needs a place in SECTIONS of {Path(__file__).name}, found none for "
            + ", ".join(sorted(missing))
        )
    return found


# --- text -------------------------------------------------------------------------------------------------------------


def prose(text: str, known: set[str]) -> str:
    """reStructuredText of our docstrings as Markdown."""

    def role(found: re.Match[str]) -> str:
        kind, name = found[1], found[2].lstrip("~").removeprefix("server_native.")
        last = name.rpartition(".")[2]
        if last in known:
            return f"[`{last}`](#{last.lower()})"
        return f"`{name if name[0].isupper() else last}{'()' if kind in {'meth', 'func'} else ''}`"

    text = re.sub(r":(\w+):`([^`]+)`", role, text)
    text = text.replace("``", "`")
    text = re.sub(r"^:param (\w+): ", r"* `\1`: ", text, flags=re.MULTILINE)
    # Doctests, and code after a double colon.
    text = re.sub(
        r"^(>>> .*?)(?=\n\n|\Z)", r"```pycon\n\1\n```", text, flags=re.DOTALL | re.MULTILINE
    )
    return re.sub(r"::(?=\n\n    )", ":", text)


def docstring(node: ast.ClassDef | Function, known: set[str]) -> str:
    """The docstring as Markdown; empty without one."""
    return prose(ast.get_docstring(node) or "", known)


def item(code: str, text: str) -> str:
    """One member: its code, then what it is."""
    return f"* `{code}`" + (f"\n{textwrap.indent(text, '  ')}" if text else "")


def parameters(source: Module, node: Function) -> str:
    """The parameters as they are written, without `self`, and what is returned."""
    arguments = node.args
    shown: list[str] = []

    def add(argument: ast.arg, default: ast.expr | None, prefix: str = "") -> None:
        text = prefix + argument.arg
        if argument.annotation is not None:
            text += f": {source.type(argument.annotation)}"
        if default is not None:
            text += f" = {source.code(default) if not is_text(default) else repr(ast.literal_eval(default))}"
        shown.append(text)

    plain = [*arguments.posonlyargs, *arguments.args]
    gaps: list[ast.expr | None] = [None] * (len(plain) - len(arguments.defaults))
    for argument, default in zip(plain, [*gaps, *arguments.defaults], strict=True):
        if argument.arg not in {"self", "cls"}:
            add(argument, default)
    if arguments.vararg:
        add(arguments.vararg, None, "*")
    elif arguments.kwonlyargs:
        shown.append("*")
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        add(argument, default)
    if arguments.kwarg:
        add(arguments.kwarg, None, "**")
    answers = f" -> {source.type(node.returns)}" if node.returns is not None else ""
    return f"({', '.join(shown)}){answers}"


def is_text(node: ast.expr) -> bool:
    """Whether this is a string as it stands."""
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def decorators(node: ast.ClassDef | Function) -> list[str]:
    """The decorators as they are written."""
    return [ast.unparse(decorator) for decorator in node.decorator_list]


# --- entries ----------------------------------------------------------------------------------------------------------


def entry(home: str, name: str, known: set[str]) -> str:
    """The part of the page about one name."""
    source, node = definition(home, name)
    title = f"### {name}"
    if isinstance(node, ast.ClassDef):
        return "\n\n".join(part for part in (title, *of_class(home, source, node, known)) if part)
    if isinstance(node, ast.AnnAssign):
        code = "" if node.value is None else f"`{source.type(node.value)}`"
        return "\n\n".join(
            part for part in (title, code, prose(source.comment(node), known)) if part
        )
    signature = f"```text\n{name}{parameters(source, node)}\n```"
    return "\n\n".join((title, signature, docstring(node, known) + own_defaults(node)))


def own_defaults(node: Function) -> str:
    """What a function's options are unless they are said, where that is not what the options say."""
    for decorator in node.decorator_list:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "accepts":
            said = [f"`{word.arg}={ast.unparse(word.value)!s}`" for word in decorator.keywords]
            return f"\n\nIts own defaults: {', '.join(said)}." if said else ""
    return ""


def of_class(home: str, source: Module, node: ast.ClassDef, known: set[str]) -> Iterator[str]:
    """What there is to say of a class."""
    bases = [base.partition("[")[0] for base in map(source.code, node.bases)]
    named = [f"[`{base}`](#{base.lower()})" if base in known else f"`{base}`" for base in bases]
    shown = [
        name
        for name, base in zip(named, bases, strict=True)
        if base[0] != "_" and base != "TypedDict"
    ]
    if is_dataclass(node) and node.name != "Limits":
        yield f"```text\n{node.name}({', '.join(constructor(source, node))})\n```"
    if shown:
        yield f"Extends {', '.join(shown)}."
    yield docstring(node, known)
    if node.name == "Limits":
        yield "[limits.md](limits.md) has the table."
        return
    kin = [node]
    for base in bases:
        if base.startswith("_"):
            found = definition(home_of(home, node.name), base)[1]
            if isinstance(found, ast.ClassDef):
                kin.insert(0, found)
    yield "\n".join(text for one in kin for text in members(source, one, known))


def home_of(home: str, name: str) -> str:
    """The module that defines a name."""
    here = {getattr(node, "name", "") for node in module(home).tree.body}
    return home if name in here else home_of(imports(home)[name], name)


def is_dataclass(node: ast.ClassDef) -> bool:
    """Whether its fields are its constructor's parameters."""
    return any(decorator.startswith("dataclass") for decorator in decorators(node))


def constructor(source: Module, node: ast.ClassDef) -> Iterator[str]:
    """The parameters of a dataclass."""
    if any("kw_only=True" in decorator for decorator in decorators(node)):
        yield "*"
    for field in node.body:
        if not isinstance(field, ast.AnnAssign):
            continue
        name = source.code(field.target)
        if source.code(field.annotation) == "KW_ONLY":
            yield "*"
        else:
            value = "" if field.value is None else f"={default(source, field.value)}"
            yield name + value


def default(source: Module, value: ast.expr) -> str:
    """A default as a user would write it."""
    code = source.code(value)
    return (
        "'127.0.0.1'"
        if code == "_DEFAULT_HOST"
        else repr(ast.literal_eval(value))
        if is_text(value)
        else code
    )


def option_defaults() -> dict[str, str]:
    """The default of each option, from the configuration it becomes a part of."""
    found: dict[str, str] = {}
    for name, home in DEFAULTS.items():
        source, node = definition(home, name)
        for field in node.body if isinstance(node, ast.ClassDef) else []:
            if isinstance(field, ast.AnnAssign) and field.value is not None:
                value = default(source, field.value)
                found[source.code(field.target)] = "None" if value.startswith("field(") else value
    return found


def members(source: Module, node: ast.ClassDef, known: set[str]) -> Iterator[str]:
    """Fields, attributes, properties and methods, in the order of the source."""
    typed_dict = node.name.endswith(("Options", "Files"))
    settable = {
        decorator.removesuffix(".setter")
        for statement in node.body
        if isinstance(statement, Function)
        for decorator in decorators(statement)
        if decorator.endswith(".setter")
    }
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign):
            yield from of_field(
                source, statement, known, typed_dict=typed_dict, required=node.name == "_TLSFiles"
            )
        elif isinstance(statement, Function):
            name, marks = statement.name, decorators(statement)
            if name == "__init__":
                yield from attributes(source, statement, known)
            elif name.startswith("_") or any(mark.endswith(".setter") for mark in marks):
                continue
            elif "property" in marks:
                kind = f": {source.type(statement.returns)}" if statement.returns else ""
                note = " Can be set." if name in settable else ""
                yield item(f"{name}{kind}", f"{docstring(statement, known)}{note}")
            else:
                before = "await " if isinstance(statement, ast.AsyncFunctionDef) else ""
                before += f"{node.name}." if "classmethod" in marks else ""
                text = docstring(statement, known)
                yield item(f"{before}{name}{parameters(source, statement)}", text)


def of_field(
    source: Module, field: ast.AnnAssign, known: set[str], *, typed_dict: bool, required: bool
) -> Iterator[str]:
    """A field of a dataclass or an option."""
    name, kind = source.code(field.target), source.type(field.annotation)
    if name.startswith("_"):
        return
    text = prose(source.comment(field), known)
    value = ""
    if typed_dict and not required:
        value = f" = {option_defaults().get(name, 'None')}"
    elif field.value is not None:
        value = f" = {default(source, field.value)}"
    yield item(f"{name}: {kind}{value}", text)


def attributes(source: Module, node: Function, known: set[str]) -> Iterator[str]:
    """What `__init__` sets and a comment describes."""
    for statement in ast.walk(node):
        if isinstance(statement, ast.AnnAssign | ast.Assign):
            target = (
                statement.target if isinstance(statement, ast.AnnAssign) else statement.targets[0]
            )
            comment = source.comment(statement)
            if isinstance(target, ast.Attribute) and not target.attr.startswith("_") and comment:
                kind = (
                    f": {source.type(statement.annotation)}"
                    if isinstance(statement, ast.AnnAssign)
                    else ""
                )
                yield item(f"{target.attr}{kind}", prose(comment, known))


def page() -> str:
    """The whole page."""
    found = sections()
    known = {name for names in found.values() for _, name in names}
    parts = [INTRODUCTION]
    for title, names in found.items():
        parts.append(f"## {title}\n")
        parts.extend(entry(home, name, known) + "\n" for home, name in names)
    return "\n".join(parts)


def main() -> int:
    """Writes or compares; the exit code."""
    parser = argparse.ArgumentParser(description="writes docs/reference.md from the docstrings")
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 on a difference")
    arguments = parser.parse_args()
    try:
        wanted = page()
    except PageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    there = PAGE.read_text() if PAGE.exists() else ""
    if not arguments.check:
        PAGE.write_text(wanted)
    elif there != wanted:
        lines = (there.splitlines(), wanted.splitlines())
        print("\n".join(difflib.unified_diff(*lines, "docs/reference.md", "wanted", lineterm="")))
        print(
            "docs/reference.md is not what the docstrings say: run `make reference`",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
