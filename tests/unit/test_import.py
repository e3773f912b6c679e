"""``import server_native`` is cheap: no native library, no network, no asyncio; names come when they are asked for."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import server_native

ROOT = Path(__file__).resolve().parents[2]

#: What an import must not do. Opening files to read them is what importing is.
PROBE = """
import sys
before = set(sys.modules)
FORBIDDEN = (
    "ctypes.", "socket.", "subprocess.", "os.exec", "os.fork", "os.posix_spawn", "os.system", "urllib.", "http.client.",
    "os.mkdir", "os.remove", "os.rename", "os.chmod", "tempfile.", "shutil.", "_thread.start", "winreg.",
)
seen = []
def hook(name, arguments):
    if name == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        seen.append((name, str(arguments[0])))
    elif name.startswith(FORBIDDEN):
        seen.append((name, repr(arguments)))
sys.addaudithook(hook)
import server_native
first = set(sys.modules) - before
if len(sys.argv) > 1:
    for name in server_native.__all__:
        getattr(server_native, name)
import json
print(json.dumps([seen, sorted(first), sorted(sys.modules)]))
"""
DOWNLOADING = {"requests", "urllib3", "platformdirs", "http.client", "urllib.request"}


def imported(*arguments: str) -> tuple[list[tuple[str, str]], set[str], set[str]]:
    """Suspicious events, modules that the import added, modules in the end."""
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{PROBE}"
    result = subprocess.run(
        [sys.executable, "-I", "-B", "-c", program, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={"SERVER_NATIVE_PREBUILT": "/nonexistent"},
    )
    assert (result.returncode, result.stderr) == (0, "")
    seen, first, modules = json.loads(result.stdout)
    return [tuple(event) for event in seen], set(first), set(modules)


def test_importing_opens_no_socket_loads_no_library_and_starts_nothing() -> None:
    seen, first, modules = imported()
    assert seen == []
    assert first == {"server_native"}
    assert not modules & {"asyncio", "ctypes", "socket", "ssl", *DOWNLOADING}


def test_no_name_takes_a_socket_a_library_or_a_downloader() -> None:
    seen, _, modules = imported("all of them")
    # ctypes asks for the interpreter itself.
    assert [event for event in seen if "server_native" in event[1]] == []
    assert [event for event in seen if not event[0].startswith("ctypes.")] == []
    assert not modules & {"typing_extensions", "pycparser", *DOWNLOADING}
    # Finding a library is the first server's business.
    assert (
        not {f"server_native.{name}" for name in ("_library", "_build", "_judge", "setup")}
        & modules
    )


def test_every_name_has_the_home_that_type_checkers_are_told() -> None:
    tree = ast.parse(Path(server_native.__file__).read_text(encoding="utf-8"))
    told = {
        alias.name: node.module
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert told == server_native._HOMES
    assert sorted({*told, "transport_abi_version"}) == sorted(server_native.__all__)
    assert server_native.__all__ == sorted(server_native.__all__)


def test_a_name_is_the_one_of_its_module_and_is_kept() -> None:
    from server_native.direct import serve_native_direct

    assert server_native.serve_native_direct is serve_native_direct
    assert vars(server_native)["serve_native_direct"] is serve_native_direct
    assert set(server_native.__all__) <= set(dir(server_native))


def test_the_public_modules_are_there_without_importing_them() -> None:
    program = "import server_native; print(server_native.errors.ConfigurationError.__name__)"
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert result.stdout == "ConfigurationError\n"


def test_with_the_library_loaded_no_name_is_read_from_a_file_any_more() -> None:
    program = """
import sys
from server_native import _ffi
_ffi.abi_version = lambda: "loaded"
import server_native
assert server_native.transport_abi_version() == "loaded"
before = set(sys.modules)
sys.path.clear()
sys.path_hooks.clear()
sys.path_importer_cache.clear()
for name in server_native.__all__:
    getattr(server_native, name)
assert set(sys.modules) == before
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_what_is_not_there_is_said_as_usual() -> None:
    with pytest.raises(
        AttributeError, match=r"module 'server_native' has no attribute 'serve_natively'"
    ):
        server_native.serve_natively  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'serve_natively'"):
        exec("from server_native import serve_natively")  # noqa: S102
    assert not hasattr(server_native, "_nothing")
