"""Whether a file may be loaded: what it hashes to, who could change it, and what this user has built or checked.

Stamps are notes about files, in the user's cache and nowhere else: a note beside a library would come with it.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from ._places import elevated, environment, user_cache
from .errors import PrebuiltError

__all__ = [
    "LIBRARY_BYTES",
    "Stamp",
    "Trust",
    "built_here",
    "identity",
    "key",
    "private_folder",
    "sha256",
    "stamp",
    "stamped",
    "unsafe",
    "verify",
]

#: A file larger than this is no library of ours, and not worth the time to hash it.
LIBRARY_BYTES = 256 << 20
_BLOCK = 1 << 18
_FORMAT = 1
_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class Trust(Enum):
    """Why a library may be loaded."""

    #: The user has named it.
    EXPLICIT = "explicit"
    #: It has the hash the package's manifest pins.
    PINNED = "pinned"
    #: A manifest of another release, signed by one of the package's keys, has its hash.
    SIGNED = "signed"
    #: This user has built it.
    LOCAL = "local build"
    #: The system checks the signature of the app it is a part of (iOS).
    BUNDLED = "bundled"
    NONE = "none"


def sha256(path: Path) -> str:
    """Of the file's bytes, in hexadecimal. Raises :class:`OSError`."""
    digest = hashlib.sha256()
    block = memoryview(bytearray(_BLOCK))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(block):
            digest.update(block[:count])
    return digest.hexdigest()


def identity(path: Path) -> list[int]:
    """What changes when a file is written or replaced: cheaper than its hash. Raises :class:`OSError`."""
    found = path.stat()
    return [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def verify() -> str:
    """``always`` or ``stamp``, from ``SERVER_NATIVE_VERIFY``; raises E-ENV for anything else."""
    said = environment("SERVER_NATIVE_VERIFY") or "always"
    if said not in ("always", "stamp"):
        raise PrebuiltError(
            "E-ENV", f"SERVER_NATIVE_VERIFY must be always or stamp, found {said!r}"
        )
    return said


# --- who could change it --------------------------------------------------------------------------


def unsafe(path: Path, root: Path, *, shared: bool = False) -> str | None:
    """Why others than this user could have put ``path`` there or exchange it, looking from ``root`` down; or ``None``.

    ``root`` may be a symlink, what is below may not. ``shared``: a group may write to ``root`` itself, as to projects.
    Raises :class:`OSError` when something of it is not there.
    """
    problem = _writable(root, root.stat(), stat.S_IWOTH if shared else _OTHERS)
    at = root
    for part in path.relative_to(root).parts:
        if problem is not None:
            return problem
        at /= part
        found = at.lstat()
        if stat.S_ISLNK(found.st_mode):
            return f"{at} is a symlink"
        problem = _writable(at, found, _OTHERS)
    return problem


def _writable(path: Path, found: os.stat_result, others: int) -> str | None:
    if not hasattr(os, "geteuid"):
        # On Windows the folders of users are theirs by their access control lists.
        return None
    if found.st_uid not in (0, os.geteuid()):
        return f"{path} belongs to user {found.st_uid}, not to {os.geteuid()}"
    if found.st_mode & others:
        who = "everybody" if found.st_mode & stat.S_IWOTH else "its group"
        return f"{path} can be written by {who} (mode {stat.S_IMODE(found.st_mode):04o})"
    return None


def private_folder(name: str) -> Path:
    """A folder of this name in the user's cache, made if need be, that only this user can write to.

    Raises E-PERM, with the reason, when there can be none.
    """
    root = user_cache()
    folder = root / name
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        for each in (root, folder):
            each.mkdir(mode=0o700, exist_ok=True)
        problem = unsafe(folder, root)
    except OSError as error:
        problem = str(error)
    if problem is not None:
        raise PrebuiltError(
            "E-PERM",
            f"the cache {folder} cannot be used: {problem}. Make it yours alone (mode 0700), or set "
            "SERVER_NATIVE_CACHE_DIR to another folder",
        )
    return folder


# --- stamps ---------------------------------------------------------------------------------------


class Stamp(NamedTuple):
    """What is known of a file."""

    library: str
    sha256: str
    #: As :func:`identity` when that was its hash.
    identity: list[int]
    #: Of what it was built from: the hash of the files, and of how they looked from outside. ``None``: not built here.
    tree: str | None = None
    glance: str | None = None


def key(library: Path) -> str:
    """A name for files about ``library``."""
    return hashlib.sha256(os.fsencode(library)).hexdigest()[:32]


def _stamp_file(library: Path, folder: Path) -> Path:
    return folder / f"{key(library)}.json"


def stamp(
    library: Path, *, digest: str, tree: str | None = None, glance: str | None = None
) -> None:
    """Notes that ``library`` has this hash and, with ``tree``, that this user has just built it.

    Raises E-PERM when the cache cannot hold it, and :class:`OSError` when the library is gone.
    """
    folder = private_folder("stamps")
    note = {"format": _FORMAT}
    note.update(Stamp(str(library), digest, identity(library), tree, glance)._asdict())
    target = _stamp_file(library, folder)
    temporary = target.with_suffix(f".{os.getpid()}.tmp")
    try:
        # Only its owner may write to it, whatever the umask.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(note, file)
        temporary.replace(target)
    except OSError as error:
        raise PrebuiltError("E-PERM", f"the stamp {target} cannot be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def stamped(library: Path) -> Stamp | None:
    """The stamp of ``library``; ``None`` without one, and when others could have written it."""
    root = _root()
    return _read(_stamp_file(library, root / "stamps"), root, library) if root else None


def built_here(digest: str) -> bool:
    """Whether this user has built a library with this hash, wherever it lies now."""
    return any(note.tree is not None and note.sha256 == digest for note in _all())


def _root() -> Path | None:
    if elevated():
        # Whoever has started this process may have written there: its rights are another's.
        return None
    try:
        return user_cache()
    except PrebuiltError as error:
        if error.code != "E-PERM":
            raise
        # A user without a home has no stamps either.
        return None


def _all() -> Iterator[Stamp]:
    root = _root()
    if root is None:
        return
    try:
        files = sorted((root / "stamps").glob("*.json"))
    except OSError:
        return
    for file in files:
        note = _read(file, root, None)
        if note is not None:
            yield note


def _read(file: Path, root: Path, library: Path | None) -> Stamp | None:
    try:
        if unsafe(file, root) is not None:
            return None
        note = json.loads(file.read_bytes())
        if note.pop("format") != _FORMAT:
            return None
        found = Stamp(**note)
    except (OSError, AttributeError, KeyError, TypeError, ValueError):
        # Not there, cut off, or of another version: as if it had never been written.
        return None
    return found if library is None or found.library == str(library) else None
