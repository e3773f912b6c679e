"""Which release, and what vouches for it: the package's own is pinned, others are signed."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from server_native._judge import bindings_abi, trusted_keys
from server_native._manifest import TAG, Manifest, package_manifest
from server_native.errors import ConfigurationError, PrebuiltError

from . import minisign
from .download import Download
from .install import Provenance
from .mirrors import index_urls, urls

__all__ = [
    "MANIFEST",
    "SIGNATURE",
    "YOURS",
    "Release",
    "Vouching",
    "latest",
    "named",
    "pinned",
    "with_hash",
]

MANIFEST, SIGNATURE = "manifest.json", "manifest.json.minisig"
#: What a release is trusted for that nobody has signed.
YOURS = "the hash you gave"
#: Ten times what a library takes: a manifest that is not pinned must not fill a disk.
ARCHIVE_BYTES, PAYLOAD_BYTES = 64 << 20, 128 << 20
#: Where releases are listed when no mirror has an index.
_API = "https://api.github.com/repos/{repository}/releases?per_page=100"
_GITHUB = "https://github.com/"


@dataclass(frozen=True)
class Release:
    """A release and what it is trusted for."""

    manifest: Manifest
    #: ``None``: the package pins it.
    provenance: Provenance | None
    trust: str


@dataclass(frozen=True)
class Vouching:
    """What the user accepts for a release that the package does not pin, besides a signature."""

    #: Of the archive.
    sha256: str | None = None
    unverified: bool = False


def pinned() -> Release:
    """The release this package was made with; raises E-404 in a checkout, which has none."""
    manifest = package_manifest()
    if not manifest.artifacts:
        raise PrebuiltError(
            "E-404",
            f"this package pins no release ({manifest.tag} is not published, or this is a checkout). What to do: build "
            "the library (`make build` in a checkout), or name a release (--tag TAG)",
        )
    return Release(manifest, None, "pinned")


def named(
    tag: str,
    mirrors: tuple[str, ...],
    download: Download,
    work: Path,
    label: str,
    vouching: Vouching,
) -> Release:
    """A release by its tag. Raises E-ENV for what is no tag, E-SIG when nothing vouches for it."""
    if not TAG.fullmatch(tag):
        raise PrebuiltError(
            "E-ENV", f"a tag is latest or like server-native-prebuilt-v1.2.3, found {tag!r}"
        )
    own = package_manifest()
    if tag == own.tag and own.artifacts:
        return pinned()
    try:
        text = download.text(urls(mirrors, tag, MANIFEST, label), work / MANIFEST)
    except PrebuiltError as error:
        if error.code != "E-404":
            raise
        raise PrebuiltError(
            error.code, f"{error.text}{_others(mirrors, download, work)}"
        ) from error
    release = _read(text, tag)
    try:
        signature = download.text(urls(mirrors, tag, SIGNATURE, label), work / SIGNATURE)
    except PrebuiltError as error:
        if error.code != "E-404":
            raise
        return _unsigned(release, text, label, vouching)
    try:
        comment = minisign.verify(text, signature, trusted_keys(own))
    except PrebuiltError:
        if vouching.sha256 is None and not vouching.unverified:
            raise
        return _unsigned(release, text, label, vouching)
    return Release(release, Provenance(text, signature), f"signed ({comment})")


def _read(text: bytes, tag: str) -> Manifest:
    try:
        manifest = Manifest.parse(text, f"{MANIFEST} of {tag}")
    except ConfigurationError as error:
        raise PrebuiltError("E-ARCHIVE", str(error)) from error
    if manifest.tag != tag:
        raise PrebuiltError("E-SIG", f"the manifest found for {tag} is that of {manifest.tag}")
    for label, artifact in manifest.artifacts.items():
        if artifact.archive_size > ARCHIVE_BYTES or artifact.payload_size > PAYLOAD_BYTES:
            raise PrebuiltError(
                "E-ARCHIVE",
                f"{tag} has {artifact.archive_size} bytes for {label}, and {artifact.payload_size} in them: at most "
                f"{ARCHIVE_BYTES} and {PAYLOAD_BYTES} are taken of a release this package does not pin",
            )
    if manifest.abi != bindings_abi():
        raise PrebuiltError(
            "E-ABI",
            f"{tag} has ABI {manifest.abi}, this package needs {bindings_abi()}: install the package of that release",
        )
    return manifest


def _unsigned(release: Manifest, text: bytes, label: str, vouching: Vouching) -> Release:
    artifact = release.artifacts.get(label)
    if vouching.sha256 is not None and artifact is not None:
        if vouching.sha256 != artifact.archive_sha256:
            raise PrebuiltError(
                "E-HASH",
                f"the manifest of {release.tag} says {artifact.archive_sha256} for {artifact.archive}, you say "
                f"{vouching.sha256}",
            )
        return Release(release, Provenance(text, None), YOURS)
    if vouching.unverified:
        return Release(release, Provenance(text, None), "nothing: you have allowed it unverified")
    raise PrebuiltError(
        "E-SIG",
        f"nothing vouches for {release.tag}: it is not the release this package pins, and has no signature by a "
        "trusted key. What to do: give the archive's hash from a place you trust (--sha256), the key of your mirror "
        "(SERVER_NATIVE_PUBLIC_KEY), or --allow-unverified",
    )


def latest(mirrors: tuple[str, ...], download: Download, work: Path, label: str) -> str:
    """The tag of the newest complete release for this platform and these bindings. Asks the network."""
    try:
        text = download.text(index_urls(mirrors), work / "index.json")
        releases = _index(text)
    except PrebuiltError as error:
        repository = next((_repository(base) for base in mirrors if base.startswith(_GITHUB)), None)
        if error.code != "E-404" or repository is None:
            raise
        releases = _listed(download, work, repository, label)
    for release in releases:
        fits = release.get("abi") in (None, bindings_abi())
        if release.get("complete") and fits and label in release.get("platforms", ()):
            return str(release["tag"])
    raise PrebuiltError(
        "E-404",
        f"no complete release has a library for {label} with ABI {bindings_abi()} (releases: "
        f"{', '.join(str(each.get('tag')) for each in releases[:5]) or 'none'}): upgrade the package, or name a tag",
    )


def _others(mirrors: tuple[str, ...], download: Download, work: Path) -> str:
    """What there is instead, when a mirror has a list."""
    try:
        releases = _index(download.text(index_urls(mirrors), work / "index.json"))
    except PrebuiltError:
        # Not what the user asked for: the tag that is not there is what they are told about.
        return ""
    tags = ", ".join(str(each["tag"]) for each in releases[:5])
    return f"\nReleases that are there: {tags}." if tags else ""


def _index(text: bytes) -> list[dict[str, Any]]:
    try:
        found = json.loads(text)
        releases = [each for each in found["releases"] if TAG.fullmatch(each["tag"])]
    except (KeyError, TypeError, ValueError) as error:
        raise PrebuiltError(
            "E-ARCHIVE", f"the mirror's index.json is no index of releases: {error}"
        ) from error
    return releases


def _repository(base: str) -> str:
    return "/".join(base.removeprefix(_GITHUB).split("/")[:2])


def _listed(download: Download, work: Path, repository: str, label: str) -> list[dict[str, Any]]:
    """As an index, from GitHub's list of releases: one that lacks its manifest is still being made."""
    token = os.environ.get("GH_TOKEN") or os.environ.get("GITHUB_TOKEN")
    text = download.text(
        [_API.format(repository=repository)], work / "releases.json", most=8 << 20, token=token
    )
    found = []
    for each in json.loads(text):
        tag, files = str(each.get("tag_name")), {asset["name"] for asset in each.get("assets", ())}
        if TAG.fullmatch(tag) and not each.get("draft") and not each.get("prerelease"):
            complete = {MANIFEST, f"server_native-{label}.tar.gz"} <= files
            found.append({"tag": tag, "abi": None, "complete": complete, "platforms": [label]})
    return found


def with_hash(release: Release, label: str, digest: str) -> Release:
    """The release, where an archive must also have the hash the user gives."""
    artifact = release.manifest.artifacts.get(label)
    if artifact is not None and artifact.archive_sha256 != digest:
        raise PrebuiltError(
            "E-HASH",
            f"{release.manifest.tag} has {artifact.archive_sha256} for {artifact.archive}, you say {digest}",
        )
    return replace(release, trust=f"{release.trust}, and the hash you gave")
