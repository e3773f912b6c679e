"""Who may know whom: the import rules of docs/architecture.md, in Rust and in Python."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RUST = ROOT / "native" / "src"
PYTHON = ROOT / "server_native"

# --- Rust -----------------------------------------------------------------------------------------

LEAVES = {"address", "error", "limits", "record", "unsent"}
RUST_MAY_USE = {
    "ffi": {"runtime", "exchange", "batch", "listen", "tls"} | LEAVES,
    "runtime": {"listen", "connections", "exchange", "batch"} | LEAVES,
    "listen": {"http", "tls", "connections", "exchange"} | LEAVES,
    "http": {"tls", "connections", "exchange"} | LEAVES,
    "tls": {"error"},
    "connections": LEAVES,
    "exchange": {"batch", "record", "error"},
    "batch": {"record"},
    **{leaf: set[str]() for leaf in LEAVES},
}
"""A folder is one module. A new module gets its line here and its place in docs/architecture.md."""

RUNTIMES = r"\b(tokio|quinn|h2|h3)\b"
CLOCKS = r"\bstd::time\b|\b(Instant|SystemTime)\b"
SOCKETS = (
    r"\b(socket2|rustix)\b|\b(Tcp|Udp|Unix)(Stream|Listener|Socket|Datagram)\b|\bToSocketAddrs\b"
)
RUST_KNOWS_NOT = {
    "exchange.rs": f"{RUNTIMES}|{CLOCKS}|{SOCKETS}|\\bstd::net\\b",
    # Addresses are parsed in the Host field, so std::net's value types are allowed.
    "http/guard.rs": f"{RUNTIMES}|{CLOCKS}|{SOCKETS}",
    "http/guard/": f"{RUNTIMES}|{CLOCKS}|{SOCKETS}",
    "http/h3/gate.rs": f"{RUNTIMES}|{CLOCKS}|{SOCKETS}",
}


def product_code(path: Path) -> str:
    """A Rust file without comments, literals and the tests at its foot."""
    noise = r"""r(#*)".*?"\1|b?"(?:\\.|[^"\\])*"|b?'(?:\\.|[^'\\])'|//[^\n]*|/\*.*?\*/"""
    text = re.sub(noise, "", path.read_text(), flags=re.DOTALL)
    return re.split(r"#\[cfg\(test\)\]\s*mod \w+", text)[0]


def rust_files() -> list[Path]:
    return sorted(path for path in RUST.rglob("*.rs") if path.name not in ("lib.rs", "tests.rs"))


def rust_module(path: Path) -> str:
    return path.relative_to(RUST).parts[0].removesuffix(".rs")


def rust_uses(text: str) -> set[str]:
    """Modules of the crate a file names: `crate::a::b`, `crate::{a, b::c}`."""
    found = set(re.findall(r"\bcrate::(\w+)", text))
    for group in re.findall(r"\bcrate::\{(.*?)\};", text, re.DOTALL):
        flat = re.sub(r"\{[^{}]*\}", "", group)
        found |= {item.strip().split("::")[0] for item in flat.split(",") if item.strip()}
    return found


def named(path: Path) -> str:
    return path.relative_to(RUST).as_posix()


@pytest.mark.parametrize("path", rust_files(), ids=named)
def test_rust_modules_use_only_what_lies_below(path: Path) -> None:
    module = rust_module(path)
    assert module in RUST_MAY_USE, (
        f"{module} has no place in the architecture yet: add it to RUST_MAY_USE"
    )
    beyond = rust_uses(product_code(path)) - RUST_MAY_USE[module] - {module}
    assert not beyond, (
        f"{named(path)} may use {sorted(RUST_MAY_USE[module])}, found {sorted(beyond)}"
    )


@pytest.mark.parametrize("prefix", RUST_KNOWS_NOT)
def test_the_pure_modules_know_no_socket_clock_or_runtime(prefix: str) -> None:
    paths = [path for path in rust_files() if named(path).startswith(prefix)]
    assert paths, f"{prefix} is gone: change RUST_KNOWS_NOT with it"
    for path in paths:
        found = re.search(RUST_KNOWS_NOT[prefix], product_code(path))
        assert found is None, f"{named(path)} mentions {found[0]}"


def test_unsafe_stands_in_ffi_only() -> None:
    users = {
        named(path) for path in RUST.rglob("*.rs") if re.search(r"\bunsafe\b", product_code(path))
    }
    assert users == {"ffi.rs", "ffi/listeners.rs"}
    lib = (RUST / "lib.rs").read_text()
    assert "#![deny(unsafe_code)]" in lib
    assert lib.count("allow(unsafe_code)") == 1


def test_every_fallible_export_is_guarded() -> None:
    bodies = re.findall(
        r'extern "C" fn (\w+)\([^{]*?\) -> Status \{\s*(\w+)',
        (RUST / "ffi.rs").read_text() + (RUST / "ffi" / "listeners.rs").read_text(),
    )
    assert len(bodies) > 10
    assert [name for name, first in bodies if first != "guard"] == []


def test_the_rust_scanner_sees_what_it_should() -> None:
    text = "use crate::{a, b::{c, d}, e::f};\nlet x = crate::g::h();"
    assert rust_uses(text) == {"a", "b", "e", "g"}


# --- Python ---------------------------------------------------------------------------------------

LAYERS: tuple[frozenset[str], ...] = tuple(
    frozenset(layer.split())
    for layer in (
        "setup",
        "__main__ cli",
        "__init__",
        "callback asgi wsgi",
        "http_server",
        "http_request",
        "http_response",
        "direct multi server workers tcp",
        "_serve",
        "_server _tasks",
        "_sites",
        "_outlet",
        "http websocket detached _lifecycle _loops",
        "_dispatch _streams _messages _handshake _pool",
        "_outbox",
        "_ffi _addresses _options",
        "_library _dlopen",
        "_judge _build",
        "_verdicts _lock _bindings _sources",
        "_trust _platform",
        "_places _manifest _libc _notice",
        "sessions compress",
        "cookies response_headers",
        "config headers tls",
        "binds",
        "_checks",
        "_arrivals _wakeup _workers errors",
    )
)
"""From the top down: a module imports from layers below its own. What only type checkers read does not count."""


def layer(module: str) -> int:
    for index, names in enumerate(LAYERS):
        if module in names:
            return index
    pytest.fail(f"server_native.{module} has no place in the architecture yet: add it to LAYERS")


def python_files() -> list[Path]:
    return sorted(path for path in PYTHON.rglob("*.py") if "_bindings" not in path.parts)


def runtime_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but the bodies of `if TYPE_CHECKING:`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for other in node.orelse:
                yield from runtime_nodes(other)
            continue
        yield node
        yield from runtime_nodes(node)


def python_imports(path: Path) -> set[str]:
    """Absolute names of all modules a file imports, wherever in it."""
    package = ["server_native", *path.relative_to(PYTHON).parent.parts]
    found: set[str] = set()
    for node in runtime_nodes(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            # `from . import x` may name modules.
            found |= {base} if node.module else {f"{base}.{alias.name}" for alias in node.names}
    return found


def ours(names: set[str]) -> set[str]:
    """First level below server_native."""
    return {name.split(".")[1] for name in names if name.startswith("server_native.")}


def python_module(path: Path) -> str:
    return path.relative_to(PYTHON).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", python_files(), ids=lambda path: path.stem)
def test_python_modules_import_only_what_lies_below(path: Path) -> None:
    module = python_module(path)
    wrong = {
        name
        for name in ours(python_imports(path))
        if layer(name) <= layer(module) and name != module
    }
    assert not wrong, f"{module} imports {sorted(wrong)}, which lie beside or above it"


def test_only_ffi_knows_ctypes() -> None:
    users = {python_module(path) for path in python_files() if "ctypes" in python_imports(path)}
    assert users == {"_ffi"}


def test_only_ffi_knows_the_bindings() -> None:
    users = {
        python_module(path) for path in python_files() if "_bindings" in ours(python_imports(path))
    }
    # `_judge` compares the ABI's identity with that of a manifest.
    assert users == {"_ffi", "_judge"}


DOWNLOADING = {"http.client", "platformdirs", "requests", "urllib.request", "urllib3"}

IMPORTED = """
import sys
import server_native
for name in server_native.__all__:
    getattr(server_native, name)
print(*sys.modules)
print(server_native._ffi._libraries)
"""


def test_importing_the_package_loads_no_library_and_no_downloader(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "SERVER_NATIVE_PREBUILT": str(tmp_path / "missing"),
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-c", IMPORTED]
    result = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False
    )
    assert result.returncode == 0, result.stderr
    modules, library = result.stdout.strip().splitlines()
    assert library == "None"
    assert not DOWNLOADING & set(modules.split())


def test_benchmarks_and_examples_use_no_private_module() -> None:
    for folder in ("benchmarks", "examples"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            imported = {
                name
                for node in ast.walk(ast.parse(path.read_text()))
                for name in (
                    [alias.name for alias in node.names]
                    if isinstance(node, ast.Import)
                    else [node.module or ""]
                    if isinstance(node, ast.ImportFrom)
                    else []
                )
            }
            private = {name for name in imported if re.match(r"server_native\._|bindings\b", name)}
            assert not private, f"{path.relative_to(ROOT)} imports {sorted(private)}"
