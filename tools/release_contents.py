"""What belongs into a release, made from a folder of archives: manifest, index, signature."""

from __future__ import annotations

import hashlib
import json
import tarfile
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server_native._bindings import abi
from server_native._manifest import TAG, Artifact, Manifest, package_manifest
from server_native._platform import PLATFORMS, Platform
from server_native.errors import ConfigurationError
from tools import inspect_library
from tools.minisign_signer import SecretKey

__all__ = ["INDEX", "MANIFEST", "SIGNATURE", "Contents", "ReleaseError", "contents", "index"]

MANIFEST, SIGNATURE, INDEX = "manifest.json", "manifest.json.minisig", "index.json"
INDEX_SCHEMA = 1


class ReleaseError(Exception):
    """A release cannot be made or is not what it should be; the text says what was found and what to do."""


@dataclass(frozen=True)
class Contents:
    """The texts that go beside the archives."""

    manifest: Manifest
    #: As ``index.json`` has it.
    index: str
    #: ``None`` without a key.
    signature: str | None

    def files(self) -> dict[str, str]:
        """File names and texts."""
        found = {MANIFEST: self.manifest.write(), INDEX: self.index}
        if self.signature is not None:
            found[SIGNATURE] = self.signature
        return found

    def archives(self) -> list[str]:
        """The archives' file names."""
        return sorted(artifact.archive for artifact in self.manifest.artifacts.values())


def contents(
    folder: Path, *, previous: str | None, key: SecretKey | None, partial: bool = False
) -> Contents:
    """Reads the archives in ``folder``; the same ones give the same texts.

    ``previous``: the index of the releases before. ``partial``: some platforms may be missing. Raises
    :class:`ReleaseError` for an archive that is not as `tools/build_prebuilt.py` makes them.
    """
    known = {platform.archive: platform for platform in PLATFORMS.values()}
    found = sorted(path.name for path in folder.glob("*.tar.gz"))
    strangers = [name for name in found if name not in known]
    missing = [platform.label for name, platform in known.items() if name not in found]
    if strangers:
        raise ReleaseError(f"{folder} has archives of no platform: {', '.join(strangers)}")
    if not found or (missing and not partial):
        raise ReleaseError(
            f"{folder} has no archive for {', '.join(missing)}: build them (tools/build_prebuilt.py), or say --partial"
        )
    # Where releases are and who may sign them is kept in the repository.
    plan = package_manifest()
    if key is not None and key.public not in plan.keys:
        raise ReleaseError(
            f"no package would heed this key: its public half {key.public} is not among the keys of "
            "prebuilt/manifest.json"
        )
    artifacts = {known[name].label: _artifact(folder / name, known[name]) for name in found}
    identity = f"{abi.ABI_HASH:016x}"
    manifest = Manifest(
        plan.version, plan.tag, identity, plan.base_urls, plan.keys, dict(sorted(artifacts.items()))
    )
    text = manifest.write()
    signature = None if key is None else key.sign(text.encode(), f"{plan.tag} {MANIFEST}")
    return Contents(manifest, index(manifest, previous, complete=not missing), signature)


def _artifact(path: Path, platform: Platform) -> Artifact:
    packed = path.read_bytes()
    payload = _payload(path, platform)
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / Path(platform.file).name
        library.write_bytes(payload)
        faults = inspect_library.faults(library, platform.label)
    if faults:
        raise ReleaseError(f"{path} is not fit for {platform.label}: {'; '.join(faults)}")
    return Artifact(
        archive=platform.archive,
        archive_size=len(packed),
        archive_sha256=hashlib.sha256(packed).hexdigest(),
        member=platform.file,
        payload_size=len(payload),
        payload_sha256=hashlib.sha256(payload).hexdigest(),
        libc=platform.libc,
        min_libc=".".join(map(str, platform.floor)) if platform.floor else None,
    )


def _payload(path: Path, platform: Platform) -> bytes:
    try:
        with tarfile.open(path, "r:gz") as archive:
            members = archive.getmembers()
            if len(members) == 1 and members[0].isreg() and members[0].name == platform.file:
                content = archive.extractfile(members[0])
                if content is not None:
                    return content.read()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ReleaseError(f"{path} is no archive: {error}") from error
    names = ", ".join(member.name for member in members)
    raise ReleaseError(f"{path}: expected the one file {platform.file}, found {names or 'nothing'}")


def index(manifest: Manifest, previous: str | None, *, complete: bool) -> str:
    """All releases, this one first and the others in their order. A tag is listed once."""
    entry = {
        "tag": manifest.tag,
        "version": manifest.version,
        "abi": manifest.abi,
        "complete": complete,
        "platforms": sorted(manifest.artifacts),
        "manifest_sha256": hashlib.sha256(manifest.write().encode()).hexdigest(),
    }
    others = [each for each in _releases(previous) if each["tag"] != manifest.tag]
    found = {"schema": INDEX_SCHEMA, "package": "server_native", "releases": [entry, *others]}
    return json.dumps(found, indent=2, sort_keys=True) + "\n"


def _releases(text: str | None) -> Iterable[dict[str, Any]]:
    if text is None:
        return []
    try:
        found = json.loads(text)
        if found["schema"] != INDEX_SCHEMA:
            raise ConfigurationError(f"schema must be {INDEX_SCHEMA}, found {found['schema']!r}")
        releases: list[dict[str, Any]] = found["releases"]
        for each in releases:
            if not TAG.fullmatch(each["tag"]):
                raise ConfigurationError(f"{each['tag']!r} is no tag of ours")
    except (KeyError, TypeError, ValueError) as error:
        raise ReleaseError(f"the index of earlier releases cannot be read: {error}") from error
    return releases
