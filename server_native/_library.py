"""Finds the native library. Standard library only, and no ctypes: a path is all it answers.

The order for now: the path in ``SERVER_NATIVE_PREBUILT`` (unusable is an error, never a fall-through), then
this checkout's own build. The full lookup chain is a later feature (mission P2).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from .errors import LibraryNotFoundError

__all__ = ["ENVIRONMENT", "file_name", "locate"]

ENVIRONMENT = "SERVER_NATIVE_PREBUILT"


def file_name() -> str:
    """The library's file name on this platform."""
    if sys.platform == "win32":
        return "server_native.dll"
    return "libserver_native.dylib" if sys.platform == "darwin" else "libserver_native.so"


def locate() -> Path:
    """The path of the library to load.

    Raises :class:`~server_native.errors.LibraryNotFoundError` that names every place searched and what to do.
    """
    explicit = os.environ.get(ENVIRONMENT)
    if explicit:
        return _explicit(Path(explicit))
    checkout = Path(__file__).resolve().parent.parent
    built = checkout / "native" / "target" / "release" / file_name()
    searched = [f"{ENVIRONMENT} is not set"]
    if (checkout / "native" / "Cargo.toml").is_file():
        if built.is_file():
            return built
        searched.append(f"{built}: not built")
        advice = f"run `make build` in {checkout}, or set {ENVIRONMENT} to the absolute path of {file_name()}"
    else:
        searched.append(f"{checkout}: not a checkout of server_native")
        advice = f"set {ENVIRONMENT} to the absolute path of {file_name()}"
    lines = "\n".join(f"  {place}" for place in searched)
    raise LibraryNotFoundError(
        f"no native library of server_native was found. Searched:\n{lines}\nWhat to do: {advice}."
    )


def _explicit(path: Path) -> Path:
    problem = None
    if not path.is_absolute():
        problem = "is not an absolute path"
    elif not path.exists():
        problem = "does not exist"
    elif not path.is_file():
        problem = "is not a file"
    elif not os.access(path, os.R_OK):
        problem = "cannot be read"
    if problem is not None:
        raise LibraryNotFoundError(
            f"{ENVIRONMENT} names {str(path)!r}, which {problem}. Nothing else is tried while it is set: "
            "correct it or unset it."
        )
    return path
