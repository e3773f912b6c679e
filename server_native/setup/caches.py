"""What is installed: listed, hashed again, removed."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from server_native import _places, _trust
from server_native._manifest import TAG, package_manifest
from server_native._platform import PLATFORMS, host
from server_native.errors import PrebuiltError

from .install import MARKER

__all__ = ["cleaned", "installed", "verified"]


def _roots() -> list[Path]:
    project = _places.project()
    roots = [] if project is None else [project / ".server_native"]
    # Without a home there is no cache, and nothing in it.
    with contextlib.suppress(PrebuiltError):
        roots.append(_places.user_cache())
    return roots


def _folders() -> Iterator[Path]:
    """The folders of installed libraries. None is reached through a link: a cloned project may have brought it."""
    for root in _roots():
        prebuilt = root / "prebuilt"
        for folder in sorted(prebuilt.glob("*/*")):
            ours = TAG.fullmatch(folder.parent.name) and folder.name in PLATFORMS
            way = (root, prebuilt, folder.parent, folder)
            if (
                ours
                and folder.is_dir()
                and not any(path.is_symlink() for path in way[_own(root) :])
            ):
                yield folder


def _own(root: Path) -> int:
    """From where on links are strange: the user's cache may itself be one, the folder in a project may not."""
    return 0 if root.name == ".server_native" else 1


def _marker(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / MARKER).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def installed() -> list[dict[str, Any]]:
    """Each library in the project's cache and the user's."""
    found = []
    for folder in _folders():
        library, marker = folder / PLATFORMS[folder.name].file, _marker(folder)
        if library.is_file():
            found.append(
                {
                    "tag": folder.parent.name,
                    "platform": folder.name,
                    "path": str(library),
                    "size": library.stat().st_size,
                    "source": marker.get("source", "unknown"),
                    "installed": marker.get("installed"),
                }
            )
    return found


def verified(file: Path | None) -> list[dict[str, Any]]:
    """Whether each library has the hash of when it was installed; or whether a file is one this package pins."""
    if file is not None:
        return [_pinned(file)]
    found = []
    for each in installed():
        library = Path(each["path"])
        expected = _marker(library.parent).get("payload_sha256")
        digest = _trust.sha256(library)
        verdict = (
            "as installed" if digest == expected else f"sha256 {digest}, installed was {expected}"
        )
        found.append(
            {"path": each["path"], "sha256": digest, "good": digest == expected, "verdict": verdict}
        )
    return found


def _pinned(file: Path) -> dict[str, Any]:
    try:
        digest = _trust.sha256(file)
    except OSError as error:
        raise PrebuiltError("E-ENV", f"{file} cannot be read: {error.strerror}") from error
    manifest = package_manifest()
    for label, artifact in manifest.artifacts.items():
        for kind, known in (
            ("library", artifact.payload_sha256),
            ("archive", artifact.archive_sha256),
        ):
            if digest == known:
                verdict = f"the {kind} of {manifest.tag} for {label}"
                return {"path": str(file), "sha256": digest, "good": True, "verdict": verdict}
    verdict = f"sha256 {digest}, which {manifest.tag} as this package pins it does not have"
    return {"path": str(file), "sha256": digest, "good": False, "verdict": verdict}


def cleaned(keep: str | None) -> list[Path]:
    """Removes what is installed but for the release ``keep`` of this host; answers the folders."""
    removed = []
    for folder in list(_folders()):
        if folder.parent.name == keep and folder.name == host().label:
            continue
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise PrebuiltError(
                "E-PERM", f"{error.filename}: {error.strerror}; it is not removed"
            ) from error
        removed.append(folder)
        with contextlib.suppress(OSError):
            folder.parent.rmdir()
    return removed
