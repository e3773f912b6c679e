"""Folders a library may lie in. Asks the file system, changes nothing."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from .errors import PrebuiltError

__all__ = [
    "elevated",
    "environment",
    "folder",
    "package",
    "project",
    "repository",
    "switched",
    "user_cache",
]

_PROJECT = ("pyproject.toml", "setup.cfg", ".git")


def environment(name: str) -> str | None:
    """A variable of ours; ``None`` when it is unset, empty, or not to be trusted.

    ``python -E`` and ``-I`` ask for no environment, and a program with rights of another must not be led by its caller.
    """
    if sys.flags.ignore_environment or elevated():
        return None
    return os.environ.get(name) or None


def switched(name: str) -> bool:
    """Whether a variable of ours is ``1``, ``true`` or ``yes``."""
    return (environment(name) or "").strip().lower() in ("1", "true", "yes")


def elevated() -> bool:
    """Whether this process has rights that whoever started it may not have."""
    if not hasattr(os, "geteuid"):
        return False
    return (os.getuid(), os.getgid()) != (os.geteuid(), os.getegid())


def package() -> Path:
    """The folder of the package."""
    return Path(__file__).resolve().parent


def project(start: Path | None = None) -> Path | None:
    """The nearest ancestor of the working directory that is somebody's project; ``None`` outside any."""
    return _ancestor(start, _PROJECT)


def repository(start: Path | None = None) -> Path | None:
    """The nearest ancestor with ``.git``."""
    return _ancestor(start, (".git",))


def _ancestor(start: Path | None, markers: tuple[str, ...]) -> Path | None:
    try:
        here = Path.cwd() if start is None else start.resolve()
    except OSError:
        # The working directory has been removed.
        return None
    for folder in (here, *here.parents):
        if any((folder / marker).exists() for marker in markers):
            return folder
    return None


def user_cache() -> Path:
    """The user's cache folder, ``SERVER_NATIVE_CACHE_DIR`` or the platform's. It may not exist.

    Raises :class:`~server_native.errors.PrebuiltError` when there is none to be had.
    """
    explicit = environment("SERVER_NATIVE_CACHE_DIR")
    if explicit is not None:
        if not Path(explicit).is_absolute():
            raise PrebuiltError(
                "E-ENV", f"SERVER_NATIVE_CACHE_DIR must be an absolute path, found {explicit!r}"
            )
        return Path(explicit)
    usual = _usual_cache()
    if usual is not None:
        return usual
    import platformdirs

    try:
        path = platformdirs.user_cache_path("server_native", appauthor=False)
    except RuntimeError as error:
        raise PrebuiltError(
            "E-PERM",
            f"this user has no home folder, so there is no cache ({error}): set SERVER_NATIVE_CACHE_DIR to an absolute "
            "path, or SERVER_NATIVE_PREBUILT to that of a library",
        ) from error
    return path


def _usual_cache() -> Path | None:
    """What platformdirs answers in the usual case: its import takes longer than all else on the way to a library."""
    if not sys.platform.startswith("linux") or hasattr(sys, "getandroidapilevel"):
        return None
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not base and os.environ.get("HOME"):
        base = os.environ["HOME"].rstrip("/") + "/.cache"
    return Path(base) / "server_native" if base.startswith("/") else None


def folder(base: Path, tag: str | None, label: str) -> Path:
    """Where below ``base`` a library of this platform lies; the old place without a tag."""
    prebuilt = base / "prebuilt"
    return prebuilt / label if tag is None else prebuilt / tag / label
