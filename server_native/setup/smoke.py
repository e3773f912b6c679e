"""Loads a library in a process of its own: one that crashes takes nobody with it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from server_native.errors import PrebuiltError

__all__ = ["load"]

#: Seconds; a virus scanner may look at a new library for some of them.
_PATIENCE = 30.0
_PROGRAM = """
import ctypes, sys
from server_native import _dlopen
from server_native._bindings import abi
path = sys.argv[1]
try:
    library = ctypes.CDLL(path)
except OSError as error:
    sys.exit(f"E-LOAD {str(error).splitlines()[0]}. {_dlopen.hint(str(error))}")
try:
    _, found = abi.identify(library)
except AttributeError:
    sys.exit("E-LOAD it is a library, but not that of server_native")
if found != abi.ABI_HASH:
    sys.exit(f"E-ABI its ABI is {found:016x}, the bindings of this package need {abi.ABI_HASH:016x}")
"""


def load(path: Path) -> None:
    """Raises E-LOAD or E-ABI when this interpreter cannot use the library."""
    package = Path(__file__).resolve().parents[2]
    command = [
        sys.executable,
        "-c",
        f"import sys; sys.path.insert(0, {str(package)!r}){_PROGRAM}",
        str(path),
    ]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
    except subprocess.TimeoutExpired:
        raise PrebuiltError("E-LOAD", f"{path} was not loaded within {_PATIENCE:.0f} s") from None
    if done.returncode == 0:
        return
    code, _, text = done.stderr.strip().rpartition("\n")[2].partition(" ")
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise PrebuiltError(
            "E-LOAD",
            f"loading {path} ended the process with {name}: it is not for this processor, or damaged",
        )
    if code not in ("E-LOAD", "E-ABI"):
        raise PrebuiltError("E-LOAD", f"{path} could not be loaded: {done.stderr.strip()[-500:]}")
    raise PrebuiltError(code, f"{path} cannot be used: {text}")
