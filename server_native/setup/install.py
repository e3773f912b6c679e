"""Puts a verified library into a cache: all of it or nothing, whatever ends the process in between.

What is there is right without the lock too: each process works in a folder of its own and renames at the end. The lock
saves the others a download.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from server_native import __version__, _lock, _notice, _places, _trust
from server_native._manifest import Artifact, Manifest
from server_native._platform import PLATFORMS, host
from server_native.errors import PrebuiltError

from . import smoke
from .archive import read_member
from .download import Download, Progress, redacted
from .mirrors import urls
from .settings import Settings

__all__ = ["MARKER", "Provenance", "artifact_of", "cause", "install", "place"]

#: Written last: what it says is true of the library beside it.
MARKER = "install.json"
_LOCK = ".lock"
#: Seconds for another process that fetches the same.
_PATIENCE = 60.0
#: Seconds after which a folder of another process was left by one that has died.
_LEFT = 24 * 3600.0
#: A download, what comes out of it, and as much again.
_ROOM = 3
#: Windows' virus scanners hold new files: ERROR_ACCESS_DENIED, ERROR_SHARING_VIOLATION.
_HELD = (5, 32)
_PAUSES = (0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 2.0, 2.0, 2.0)


@dataclass(frozen=True)
class Provenance:
    """What vouches for a release that the package does not pin; kept beside its library."""

    manifest: bytes
    signature: bytes | None


def place(root: Path, manifest: Manifest, label: str) -> Path:
    """Where the library of a release lies below ``root``."""
    return _places.folder(root, manifest.tag, label) / PLATFORMS[label].file


def artifact_of(manifest: Manifest, label: str) -> Artifact:
    """What the release has for a platform; raises E-404 with what it has instead."""
    artifact = manifest.artifacts.get(label)
    if artifact is None:
        known = ", ".join(sorted(manifest.artifacts)) or "no libraries at all"
        raise PrebuiltError(
            "E-404",
            f"{manifest.tag} has no library for {label} (it has: {known}). What to do: name another release (--tag), "
            "or build from source",
        )
    return artifact


def install(
    manifest: Manifest,
    label: str,
    root: Path,
    *,
    sources: Sequence[str] = (),
    archive: Path | None = None,
    provenance: Provenance | None = None,
    force: bool = False,
    settings: Settings | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] = _notice.say,
) -> Path:
    """Fetches the library of a release from the mirrors ``sources``, or takes it from ``archive``, and installs it.

    ``root`` is a cache: the user's, or ``.server_native`` of a project. Answers the library's path; one that is there
    and right stays as it is, unless ``force``. Blocks. Raises :class:`~server_native.errors.PrebuiltError`.
    """
    artifact = artifact_of(manifest, label)
    library = place(root, manifest, label)
    with cause(library.parent):
        _prepare(root, library.parent)
        if not force and _is_right(library, artifact):
            return library
        with _locked(library.parent, say):
            # Another process may have been faster.
            if force or not _is_right(library, artifact):
                _collect(library.parent)
                if progress is None:
                    say(f"fetching {artifact.archive} of {manifest.tag}")
                fetched = _Fetched(manifest, label, sources, archive, provenance)
                _replace(fetched, library, settings or Settings.read(), progress)
    return library


@dataclass(frozen=True)
class _Fetched:
    manifest: Manifest
    label: str
    sources: Sequence[str]
    archive: Path | None
    provenance: Provenance | None


def _replace(what: _Fetched, library: Path, settings: Settings, progress: Progress | None) -> None:
    artifact = what.manifest.artifacts[what.label]
    folder = library.parent
    _check_room(folder, artifact)
    work = folder / f".tmp-{os.getpid()}-{secrets.token_hex(4)}"
    work.mkdir(mode=0o700)
    try:
        packed = work / artifact.archive
        addresses = urls(what.sources, what.manifest.tag, artifact.archive, what.label)
        if what.archive is not None:
            addresses = [what.archive.resolve().as_uri()]
        with contextlib.closing(Download(settings, progress)) as download:
            found = download.fetch(
                addresses,
                packed,
                most=artifact.archive_size,
                size=artifact.archive_size,
                sha256=artifact.archive_sha256,
            )
        # The marker is readable for all, and errors end in logs: a mirror's password belongs into neither.
        source = redacted(found)
        fresh = work / library.name
        with packed.open("rb") as reader, fresh.open("xb") as writer:
            read_member(reader, artifact, writer, source)
            writer.flush()
            os.fsync(writer.fileno())
        # 0644 whatever the umask: it holds nothing secret, and other users may be served with it.
        fresh.chmod(0o644)
        if what.label == host().label:
            smoke.load(fresh)
        _put_aside(library, artifact)
        _rename(fresh, library)
        _note(what, folder, work, source)
        _sync(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _note(what: _Fetched, folder: Path, work: Path, source: str) -> None:
    """What vouches for the library, and last of all where it came from."""
    texts: dict[str, bytes] = {}
    if what.provenance is not None:
        texts["manifest.json"] = what.provenance.manifest
        if what.provenance.signature is not None:
            texts["manifest.json.minisig"] = what.provenance.signature
    texts[MARKER] = json.dumps(
        {
            "tag": what.manifest.tag,
            "platform": what.label,
            "source": source,
            "installed": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "tool": __version__,
            **asdict(what.manifest.artifacts[what.label]),
        },
        indent=2,
    ).encode()
    for name, text in texts.items():
        fresh = work / name
        fresh.write_bytes(text)
        fresh.chmod(0o644)
        _rename(fresh, folder / name)


def _put_aside(library: Path, artifact: Artifact) -> None:
    """Keeps what is in the library's place and is another one: somebody may want to know how it came there."""
    if library.is_file() and (digest := _trust.sha256(library)) != artifact.payload_sha256:
        _rename(library, library.with_name(f"{library.name}.bad-{digest[:8]}"))


def _is_right(library: Path, artifact: Artifact) -> bool:
    try:
        return (
            not library.is_symlink()
            and library.stat().st_size == artifact.payload_size
            and _trust.sha256(library) == artifact.payload_sha256
            and (library.parent / MARKER).is_file()
        )
    except FileNotFoundError:
        return False


def _prepare(root: Path, folder: Path) -> None:
    """Makes the folders, for their user alone, and refuses those that others could write to."""
    guard, shared = (root.parent, True) if root.name == ".server_native" else (root, False)
    guard.parent.mkdir(parents=True, exist_ok=True)
    at = guard
    if not shared:
        guard.mkdir(mode=0o700, exist_ok=True)
    for part in folder.relative_to(guard).parts:
        at /= part
        with contextlib.suppress(FileExistsError):
            at.mkdir(mode=0o700)
    problem = _trust.unsafe(folder, guard, shared=shared)
    if problem is not None:
        raise PrebuiltError(
            "E-PERM",
            f"{folder} cannot be used: {problem}, so that others could exchange the library. Make it yours alone (mode "
            "0700), or set SERVER_NATIVE_CACHE_DIR to another folder",
        )


@contextlib.contextmanager
def _locked(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(_lock.held(folder / _LOCK, _PATIENCE, say))
        except PrebuiltError as error:
            if error.code != "E-BUSY":
                raise
            say(f"going on beside the process that holds {folder / _LOCK}")
        yield


def _collect(folder: Path) -> None:
    """Removes what processes have left that were killed."""
    for path in folder.glob(".tmp-*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _LEFT:
                shutil.rmtree(path, ignore_errors=True)


def _check_room(folder: Path, artifact: Artifact) -> None:
    needed, free = _ROOM * artifact.payload_size, shutil.disk_usage(folder).free
    if free < needed:
        raise PrebuiltError(
            "E-SPACE",
            f"{folder} has {free >> 20} MiB left, {(needed >> 20) + 1} are needed: make room, or set "
            "SERVER_NATIVE_CACHE_DIR to a folder elsewhere",
        )


def _rename(old: Path, new: Path) -> None:
    for pause in (*_PAUSES, None):
        try:
            old.replace(new)
            return
        except OSError as error:
            if getattr(error, "winerror", None) not in _HELD or pause is None:
                raise
            time.sleep(pause)


def _sync(folder: Path) -> None:
    """Has the renames survive a loss of power."""
    if sys.platform == "win32":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems have no such thing for folders.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(handle)


@contextlib.contextmanager
def cause(folder: Path) -> Iterator[None]:
    """What the system refuses, as an error that names the operation's place and what to do."""
    try:
        yield
    except PrebuiltError:
        raise
    except OSError as error:
        where = error.filename or folder
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise PrebuiltError(
                "E-SPACE",
                f"{where}: {error.strerror}. Make room and try again",
            ) from error
        raise PrebuiltError(
            "E-PERM",
            f"{where}: {error.strerror}. Give this user a folder it may write to "
            "(SERVER_NATIVE_CACHE_DIR for the cache), or name a library (SERVER_NATIVE_PREBUILT)",
        ) from error
