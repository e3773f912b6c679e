"""Bundles: a folder with a release's files, carried to machines that no network reaches."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from server_native._judge import newer
from server_native._manifest import TAG, Artifact, Manifest, package_manifest
from server_native.errors import ConfigurationError, PrebuiltError

from .download import Download
from .install import artifact_of, cause
from .mirrors import urls
from .progress import Progress
from .releases import MANIFEST, SIGNATURE, Release
from .settings import Settings

__all__ = ["make", "newest", "only", "opened"]


def make(
    folder: Path,
    release: Release,
    labels: Sequence[str],
    mirrors: tuple[str, ...],
    settings: Settings,
    *,
    quiet: bool = False,
) -> list[Path]:
    """Fetches archives into ``folder``, with what vouches for them beside; answers the files. Blocks."""
    manifest = release.manifest
    target = folder / manifest.tag
    artifacts = [artifact_of(manifest, label) for label in labels]
    files = []
    with cause(target):
        target.mkdir(parents=True, exist_ok=True)
        for label, artifact in zip(labels, artifacts, strict=True):
            addresses = urls(mirrors, manifest.tag, artifact.archive, label)
            files.append(target / artifact.archive)
            _fetch(artifact, addresses, files[-1], settings, quiet=quiet)
        provenance = release.provenance
        text = manifest.write().encode() if provenance is None else provenance.manifest
        files.append(target / MANIFEST)
        files[-1].write_bytes(text)
        if provenance is not None and provenance.signature is not None:
            files.append(target / SIGNATURE)
            files[-1].write_bytes(provenance.signature)
    return files


def _fetch(
    artifact: Artifact, addresses: list[str], target: Path, settings: Settings, *, quiet: bool
) -> None:
    # A name of its own: two bundles may be made in one folder.
    part = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}")
    with contextlib.ExitStack() as stack:
        stack.callback(part.unlink, missing_ok=True)
        progress = None if quiet else stack.enter_context(contextlib.closing(Progress(target.name)))
        download = stack.enter_context(contextlib.closing(Download(settings, progress)))
        download.fetch(
            addresses,
            part,
            most=artifact.archive_size,
            size=artifact.archive_size,
            sha256=artifact.archive_sha256,
        )
        part.replace(target)


def opened(source: Path) -> tuple[tuple[str, ...], list[str]]:
    """A bundle as a mirror, and the releases in it.

    ``source``: the bundle, a release's folder in it, or an archive there.
    """
    here = source.resolve()
    folder = here.parent if here.is_file() else here
    if not folder.is_dir():
        raise PrebuiltError(
            "E-404",
            f"{source} is no bundle: expected the folder that --download-only has made, found nothing",
        )
    if (folder / MANIFEST).is_file():
        tag = _tag(folder / MANIFEST)
        # Whatever the folder is called.
        return (f"{folder.as_uri()}/{{archive}}",), [tag]
    tags = sorted(
        path.name
        for path in folder.iterdir()
        if TAG.fullmatch(path.name) and (path / MANIFEST).is_file()
    )
    if not tags:
        raise PrebuiltError(
            "E-404",
            f"{source} is no bundle: expected {MANIFEST} in it or in a folder named as a tag; make one with "
            "--download-only",
        )
    return (folder.as_uri(),), tags


def _tag(path: Path) -> str:
    try:
        return Manifest.parse(path.read_bytes(), str(path)).tag
    except ConfigurationError as error:
        raise PrebuiltError("E-ARCHIVE", str(error)) from error


def only(tags: list[str], source: Path) -> str:
    """The release of a bundle that has one, or that this package pins."""
    own = package_manifest().tag
    if len(tags) == 1:
        return tags[0]
    if own in tags:
        return own
    raise PrebuiltError(
        "E-ENV", f"{source} has several releases: name one of {', '.join(tags)} with --tag"
    )


def newest(tags: list[str], source: Path) -> str:
    """The latest release of a bundle."""
    own = package_manifest()
    later = newer(own, tags)
    return later[0] if later else only(tags, source)
