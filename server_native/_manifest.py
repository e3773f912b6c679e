"""Manifests: what a release contains, with sizes and hashes.

The package carries the manifest of the release it was made for (``prebuilt/manifest.json``): whatever has the hash
it pins may be loaded, wherever it lies. Each release has the same file beside its archives, signed.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .errors import ConfigurationError

__all__ = ["SCHEMA", "TAG", "Artifact", "Manifest", "package_manifest"]

SCHEMA = 1
#: Tags become folders and parts of URLs, so they are held to a few characters. The version is ``[1]``.
TAG = re.compile(r"server-native-prebuilt-v([0-9A-Za-z][0-9A-Za-z.+-]{0,63})")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ABI = re.compile(r"[0-9a-f]{16}")
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}(/[A-Za-z0-9_.-]{1,100})?")


@dataclass(frozen=True)
class Artifact:
    """One archive and the library in it. Sizes in bytes, hashes in hexadecimal SHA-256."""

    archive: str
    archive_size: int
    archive_sha256: str
    #: The one member of the archive that is read.
    member: str
    payload_size: int
    payload_sha256: str
    #: ``glibc`` or ``musl`` and the oldest version it runs on, as ``2.17``; ``None`` elsewhere.
    libc: str | None = None
    min_libc: str | None = None


@dataclass(frozen=True)
class Manifest:
    """A release."""

    version: str
    tag: str
    #: Identity of the ABI, as 16 hexadecimal digits; ``None`` in a checkout, which pins nothing.
    abi: str | None
    #: Where archives are: each with ``{tag}`` and ``{archive}`` in it, or a prefix for the archive's name.
    base_urls: tuple[str, ...] = ()
    #: minisign public keys that may sign other releases' manifests.
    keys: tuple[str, ...] = ()
    artifacts: dict[str, Artifact] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str | bytes, source: str) -> Manifest:
        """Reads a manifest; raises :class:`ConfigurationError` that names ``source`` and what is wrong in it."""
        try:
            found = json.loads(text)
            return cls._read(found)
        except (KeyError, TypeError, ValueError) as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise ConfigurationError(f"{source} is no manifest of server_native: {what}") from error

    @classmethod
    def _read(cls, found: dict[str, Any]) -> Manifest:
        if found["schema"] != SCHEMA:
            raise ValueError(f"schema must be {SCHEMA}, found {found['schema']!r}")
        _matches("tag", TAG, found["tag"])
        if found["abi"] is not None:
            _matches("abi", _ABI, found["abi"])
        artifacts = {}
        for label, entry in found["artifacts"].items():
            artifact = Artifact(**entry)
            for name in ("archive", "member"):
                _matches(f"{label}: {name}", _NAME, getattr(artifact, name))
            if ".." in artifact.member.split("/"):
                raise ValueError(
                    f"{label}: member must not leave its folder, found {artifact.member!r}"
                )
            for name in ("archive_sha256", "payload_sha256"):
                _matches(f"{label}: {name}", _SHA256, getattr(artifact, name))
            for name in ("archive_size", "payload_size"):
                size = getattr(artifact, name)
                if type(size) is not int or size <= 0:
                    raise ValueError(
                        f"{label}: {name} must be a positive number of bytes, found {size!r}"
                    )
            artifacts[label] = artifact
        return cls(
            str(found["version"]),
            found["tag"],
            found["abi"],
            tuple(map(str, found.get("base_urls", ()))),
            tuple(map(str, found.get("keys", ()))),
            artifacts,
        )

    def write(self) -> str:
        """The manifest as text: the same for the same release, byte for byte."""
        fields = {"schema": SCHEMA, "package": "server_native", **asdict(self)}
        return json.dumps(fields, indent=2, sort_keys=True) + "\n"


def _matches(name: str, pattern: re.Pattern[str], value: object) -> None:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError(f"{name} must match {pattern.pattern}, found {value!r}")


def package_manifest() -> Manifest:
    """The manifest this package was made with. Without artifacts in a checkout: it pins nothing."""
    path = Path(__file__).resolve().parent / "_prebuilt" / "manifest.json"
    return Manifest.parse(path.read_bytes(), str(path))
