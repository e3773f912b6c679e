"""One file that was found by itself: may it be loaded, and why or why not."""

from __future__ import annotations

import importlib
import os
import re
import stat
from pathlib import Path

from . import _trust
from ._manifest import TAG, Artifact, Manifest
from ._places import environment, switched
from ._trust import Trust
from ._verdicts import Finding, Verdict
from .errors import ConfigurationError, PrebuiltError

__all__ = ["bindings_abi", "judge", "newer", "trusted_keys"]


def judge(
    path: Path,
    manifest: Manifest,
    label: str,
    *,
    root: Path | None = None,
    shared: bool = False,
    tag: str | None = None,
) -> Finding:
    """Looks at the library ``path`` of the platform ``label``.

    ``root``: the folder that must be this user's, with everything below it; ``shared``: a group may write to that
    folder itself. ``tag``: the release the folder is of, which may have a signed manifest.
    """
    try:
        found = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return Finding(Verdict.ABSENT, path=path)
    except OSError as error:
        return _rejected(path, f"unreadable: {error.strerror}")
    try:
        problem = _shape(path, found) or (root and _trust.unsafe(path, root, shared=shared))
        if problem:
            return _rejected(path, problem)
        digest = _digest(path)
    except OSError as error:
        return _rejected(path, f"unreadable: {error.strerror}")
    return _judge(path, digest, manifest, label, tag)


def _shape(path: Path, found: os.stat_result) -> str | None:
    if stat.S_ISLNK(found.st_mode):
        return f"{path} is a symlink"
    if not stat.S_ISREG(found.st_mode):
        return "not a file"
    if found.st_size > _trust.LIBRARY_BYTES:
        return f"{found.st_size} bytes are more than the {_trust.LIBRARY_BYTES} a library may have"
    return None


def _judge(path: Path, digest: str, manifest: Manifest, label: str, tag: str | None) -> Finding:
    pinned = manifest.artifacts.get(label)
    if pinned is not None and digest == pinned.payload_sha256:
        return _chosen(path, Trust.PINNED, manifest.abi)
    if _trust.built_here(digest):
        return _chosen(path, Trust.LOCAL, None)
    signed = None
    # The package's own manifest says what its release has; a signature cannot change that.
    if tag is not None and not (tag == manifest.tag and pinned is not None):
        signed = _signed(path, digest, manifest, label, tag)
        if isinstance(signed, Finding):
            return signed
    reason = f"sha256 {digest[:12]}… is {_expectation(pinned, manifest)}"
    if signed:
        reason += f", and {signed}"
    if switched("SERVER_NATIVE_ALLOW_UNVERIFIED"):
        notice = (
            f"loading {path}, which nothing vouches for (SERVER_NATIVE_ALLOW_UNVERIFIED): {reason}"
        )
        return Finding(Verdict.CHOSEN, f"unverified: {reason}", path, Trust.NONE, notice)
    return _rejected(path, f"{reason} (trust: none)")


def _expectation(pinned: Artifact | None, manifest: Manifest) -> str:
    if pinned is not None:
        return f"not the pinned {pinned.payload_sha256[:12]}…"
    return f"not known: {manifest.tag} as this package knows it pins no library of this platform"


def _chosen(path: Path, trust: Trust, abi: str | None) -> Finding:
    # Known without loading; what is not, is compared after it.
    if abi is not None and abi != bindings_abi():
        return _rejected(path, f"ABI {abi}, where the bindings need {bindings_abi()}")
    return Finding(Verdict.CHOSEN, "", path, trust)


def bindings_abi() -> str:
    """Identity of the ABI these bindings are of, as manifests have it."""
    from ._bindings.abi import ABI_HASH

    return f"{ABI_HASH:016x}"


def _rejected(path: Path, reason: str) -> Finding:
    return Finding(Verdict.REJECTED, reason, path)


def _digest(path: Path) -> str:
    """The hash; with ``SERVER_NATIVE_VERIFY=stamp`` that of the last time, while the file looks the same."""
    if _trust.verify() == "always":
        return _trust.sha256(path)
    known = _trust.stamped(path)
    if known is not None and known.identity == _trust.identity(path):
        return known.sha256
    before = _trust.identity(path)
    digest = _trust.sha256(path)
    if before == _trust.identity(path):
        try:
            _trust.stamp(path, digest=digest)
        except PrebuiltError:
            # Without a cache there is no stamp, and the file is hashed each time.
            return digest
    return digest


# --- other releases -------------------------------------------------------------------------------


def newer(manifest: Manifest, tags: list[str]) -> list[str]:
    """Of these tags, the ones of later releases than the package's, latest first.

    Earlier ones are never taken by themselves: their signatures are as good, and their faults are known.
    """
    own = _version(manifest.tag)
    versions = [
        (version, tag) for tag in tags if own and (version := _version(tag)) and version > own
    ]
    return [tag for _, tag in sorted(versions, reverse=True)]


def _version(tag: str) -> tuple[tuple[int, ...], int, int] | None:
    """Something to compare; ``None`` for what is not numbered. ``1.2-rc3`` comes before ``1.2``, ``1.2+1`` after."""
    found = TAG.fullmatch(tag)
    parts = found and re.fullmatch(
        r"(\d{1,6}(?:\.\d{1,6}){0,3})(?:([-+a-z])[a-z.]*(\d{0,6}))?", found[1]
    )
    if not parts:
        return None
    numbers = tuple(map(int, parts[1].split(".")))
    padded = numbers + (0,) * (4 - len(numbers))
    kind = 0 if parts[2] is None else 1 if parts[2] == "+" else -1
    return padded, kind, int(parts[3] or 0)


def _signed(path: Path, digest: str, manifest: Manifest, label: str, tag: str) -> Finding | str:
    """The finding when a signed manifest of this release has the hash; otherwise why that does not help."""
    if not (path.parent / "install.json").is_file():
        return "no install.json is beside it"
    keys = trusted_keys(manifest)
    if not keys:
        return "this package has no keys to check signatures with"
    folder = next(
        (each for each in (path.parent, path.parent.parent) if (each / "manifest.json").is_file()),
        None,
    )
    if folder is None:
        return "no manifest.json is beside it"
    try:
        text = (folder / "manifest.json").read_bytes()
        signature = (folder / "manifest.json.minisig").read_bytes()
        _verify(text, signature, keys)
        release = Manifest.parse(text, str(folder / "manifest.json"))
    except OSError as error:
        return f"its manifest has no signature that can be read ({error.strerror})"
    except (ConfigurationError, ImportError) as error:
        # PrebuiltError is an ImportError.
        return f"its manifest cannot be trusted: {error}"
    artifact = release.artifacts.get(label)
    if release.tag != tag:
        return f"its manifest is of {release.tag}, not of {tag}"
    if artifact is None or artifact.payload_sha256 != digest:
        return "its signed manifest has another hash"
    return _chosen(path, Trust.SIGNED, release.abi)


def trusted_keys(manifest: Manifest) -> tuple[str, ...]:
    """Whose signatures count: the package's keys, and those of ``SERVER_NATIVE_PUBLIC_KEY`` (several with commas)."""
    named = (environment("SERVER_NATIVE_PUBLIC_KEY") or "").split(",")
    return (*manifest.keys, *filter(None, map(str.strip, named)))


def _verify(text: bytes, signature: bytes, keys: tuple[str, ...]) -> None:
    # The setup tool lies above this module and is wanted only here: asked for by name, not imported.
    minisign = importlib.import_module(f"{__package__}.setup.minisign")
    minisign.verify(text, signature, keys)
