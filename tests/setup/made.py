"""Releases as tests make them: archives of any shape, and manifests that say what is in them."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from server_native._judge import bindings_abi
from server_native._manifest import Artifact, Manifest
from server_native._platform import PLATFORMS, host

__all__ = ["FOREIGN", "TAG", "artifact", "entry", "manifest", "packed", "put"]

TAG = "server-native-prebuilt-v9.9.9"
#: A platform that is not this one: its libraries are not loaded after they were installed.
FOREIGN = "windows-arm64" if host().label != "windows-arm64" else "linux-x64"


def entry(
    name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "", **fields: object
) -> tuple[tarfile.TarInfo, bytes]:
    """A member of an archive."""
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, link, len(content)
    for field, value in fields.items():
        setattr(member, field, value)
    return member, content


def packed(members: Iterable[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    """An archive with these members, whatever they are."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member, content in members:
            archive.addfile(member, io.BytesIO(content) if member.isreg() else None)
    return gzip.compress(buffer.getvalue(), mtime=0)


def artifact(label: str, archive: bytes, payload: bytes) -> Artifact:
    """What a manifest says of an archive that holds ``payload``."""
    platform = PLATFORMS[label]
    return Artifact(
        archive=platform.archive,
        archive_size=len(archive),
        archive_sha256=hashlib.sha256(archive).hexdigest(),
        member=platform.file,
        payload_size=len(payload),
        payload_sha256=hashlib.sha256(payload).hexdigest(),
    )


def manifest(label: str, archive: bytes, payload: bytes, **changes: object) -> Manifest:
    """A release of one platform."""
    found = Manifest(
        "9.9.9", TAG, bindings_abi(), (), (), {label: artifact(label, archive, payload)}
    )
    return replace(found, **changes)  # type: ignore[arg-type]


def put(folder: Path, release: Manifest, archives: dict[str, bytes]) -> Path:
    """Lays a release out as mirrors and bundles have it; answers its folder."""
    target = folder / release.tag
    target.mkdir(parents=True)
    for label, archive in archives.items():
        (target / release.artifacts[label].archive).write_bytes(archive)
    (target / "manifest.json").write_text(release.write())
    return target
