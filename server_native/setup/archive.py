"""Archives: one expected member is read, and nothing is ever extracted.

No name, link, owner or mode of an archive reaches the file system. ``tarfile``'s own filters are no help: those of
Python before June 2025 let links out (CVE-2025-4517), and what they clean up silently should be refused.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import zlib
from typing import BinaryIO, cast

from server_native._manifest import Artifact
from server_native.errors import PrebuiltError

__all__ = ["read_member"]

_BLOCK = 1 << 16
#: What headers, padding and a licence may take beside the library.
_BESIDE = 1 << 20


class _TooLong(Exception):
    """More comes out of the archive than its manifest allows."""


class _Capped(io.RawIOBase):
    """What is decompressed, up to a number of bytes: a MiB of an archive may hold a GiB of zeros."""

    def __init__(self, source: BinaryIO, most: int) -> None:
        self._source = source
        self._left = most

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(cast("bytearray", buffer))
        data = self._source.read(len(view))
        self._left -= len(data)
        if self._left < 0:
            raise _TooLong
        view[: len(data)] = data
        return len(data)


def read_member(archive: BinaryIO, artifact: Artifact, target: BinaryIO, source: str) -> None:
    """Writes the library in ``archive`` to ``target``, whose hash is the manifest's when this returns.

    The archive's own hash has been checked before. Raises E-ARCHIVE for an archive of another shape and E-HASH for
    another library; ``source`` names it.
    """
    try:
        with gzip.GzipFile(fileobj=archive, mode="rb") as unpacked:
            capped = _Capped(cast("BinaryIO", unpacked), artifact.payload_size + _BESIDE)
            # A block at a time: what is read ahead could not be looked at below.
            with tarfile.open(fileobj=capped, mode="r|", bufsize=tarfile.BLOCKSIZE) as members:
                digest = _read(members, artifact, target, source)
            # To the end, where the checksum stands, and nothing but padding on the way.
            while rest := capped.read(_BLOCK):
                if rest.strip(b"\0"):
                    raise _refused(source, "data after its end")
    except _TooLong:
        raise _refused(
            source, f"more than the {artifact.payload_size} bytes of its library"
        ) from None
    except (tarfile.TarError, EOFError, OSError, zlib.error, ValueError) as error:
        raise _refused(source, f"no whole archive ({error})") from error
    if digest != artifact.payload_sha256:
        raise PrebuiltError(
            "E-HASH",
            f"the library in {source} has the sha256 {digest}, the manifest says {artifact.payload_sha256}: they are "
            "not of the same release, or one of them was changed",
        )


def _read(
    members: tarfile.TarFile, artifact: Artifact, target: BinaryIO, source: str
) -> str | None:
    digest = None
    for member in members:
        name = member.name.removeprefix("./")
        if member.isdir() and artifact.member.startswith(f"{name}/"):
            continue
        plain = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.issparse()
        if plain and name in ("LICENSE", "LICENSE-MIT", "LICENSE-APACHE"):
            continue
        if not plain or name != artifact.member:
            raise _refused(source, f"{_kind(member)} {member.name[:100]!r}")
        if digest is not None:
            raise _refused(source, f"{name!r} twice")
        if member.size != artifact.payload_size:
            raise _refused(
                source,
                f"{member.size} bytes of {name!r}, the manifest says {artifact.payload_size}",
            )
        digest = _copy(members, member, target)
    if digest is None:
        raise _refused(source, "no such member")
    return digest


def _copy(members: tarfile.TarFile, member: tarfile.TarInfo, target: BinaryIO) -> str:
    content = members.extractfile(member)
    found = hashlib.sha256()
    while content is not None and (block := content.read(_BLOCK)):
        found.update(block)
        target.write(block)
    return found.hexdigest()


def _kind(member: tarfile.TarInfo) -> str:
    if member.issym():
        return "the symbolic link"
    if member.islnk():
        return "the hard link"
    if member.isdir():
        return "the folder"
    return "the file" if member.isreg() else "the special file"


def _refused(source: str, found: str) -> PrebuiltError:
    return PrebuiltError(
        "E-ARCHIVE",
        f"{source} must hold the one file its manifest names, found {found}; nothing of it was installed",
    )
