"""The crate's sources beside the package, in a checkout or an unpacked sdist, and whether they have changed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

from . import _places, _trust
from ._notice import say
from ._platform import file_name
from .errors import PrebuiltError

__all__ = ["Sources", "sources"]

#: What a build of the library reads. Tests of the crate and its generated header are not among it.
_FILES = ("Cargo.toml", "Cargo.lock", "build.rs", "rust-toolchain", "rust-toolchain.toml")
_FOLDERS = (".cargo", "src")
_NAME = 'name = "server_native"'


class Sources(NamedTuple):
    """The folder of the crate."""

    crate: Path
    #: A working copy, which uses what is built in it; otherwise an unpacked sdist, which is left as it is.
    checkout: bool

    @property
    def target(self) -> Path:
        """Where it is built: where the Makefile does, too, or of an sdist in the user's cache."""
        if self.checkout:
            return self.crate / "target"
        return _places.user_cache() / "target" / _trust.key(self.crate)[:16]

    @property
    def library(self) -> Path:
        """What a build ends as."""
        return self.target / "release" / file_name()

    def glance(self) -> str:
        """How the files look from outside, below a millisecond: the same as long as nobody touches any."""
        digest = hashlib.sha256()
        for name, found in self._files():
            seen = (name, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
            digest.update(repr(seen).encode())
        return digest.hexdigest()

    def tree(self) -> str:
        """Hash of names and contents. Raises :class:`OSError`."""
        digest = hashlib.sha256()
        for name, _ in self._files():
            text = (self.crate / name).read_bytes()
            digest.update(f"{len(name)} {name} {len(text)} ".encode(errors="surrogateescape"))
            digest.update(text)
        return digest.hexdigest()

    def stale(self, *, rehash: bool = False) -> str | None:
        """Why the library is not what these sources make; ``None`` when it is, by the stamp of its build.

        Looks from outside first, at files and library, and reads only what looks different. ``rehash``: reads the
        library as well.
        """
        library = self.library
        stamp = _trust.stamped(library)
        try:
            found = _trust.identity(library)
        except OSError:
            return "not built yet"
        if stamp is None or stamp.tree is None:
            return "no build of it by this user is known"
        glance = self.glance()
        same = found == stamp.identity
        if (rehash or not same) and _trust.sha256(library) != stamp.sha256:
            return "it is not what was built"
        if glance != stamp.glance and self.tree() != stamp.tree:
            return "its sources have changed"
        if not same or glance != stamp.glance:
            # The same bytes, touched.
            self.note(stamp.sha256, stamp.tree, glance)
        return None

    def note(self, digest: str, tree: str, glance: str) -> None:
        """Notes that the library has this hash and was built of files with this hash and look.

        Without a cache that is said and left: the next process asks cargo.
        """
        try:
            _trust.stamp(self.library, digest=digest, tree=tree, glance=glance)
        except PrebuiltError as error:
            say(f"the next process asks cargo again: {error}")

    def _files(self) -> list[tuple[str, os.stat_result]]:
        found = []
        for name in _FILES:
            try:
                found.append((name, os.stat(self.crate / name)))  # noqa: PTH116 (this is the quick check)
            except FileNotFoundError:
                continue
        folders = list(_FOLDERS)
        while folders:
            folder = folders.pop()
            try:
                with os.scandir(self.crate / folder) as entries:
                    for entry in entries:
                        name = f"{folder}/{entry.name}"
                        if entry.is_dir():
                            folders.append(name)
                        else:
                            found.append((name, entry.stat()))
            except FileNotFoundError:
                continue
        return sorted(found, key=lambda each: each[0])


def sources() -> Sources | None:
    """What lies beside the package; ``None`` for an installed one, also when a crate of somebody else is there."""
    root = _places.package().parent
    crate = root / "native"
    try:
        if _NAME not in (crate / "Cargo.toml").read_text(encoding="utf-8"):
            return None
    except (OSError, ValueError):
        return None
    # Every sdist has it at its top, and no working copy.
    return Sources(crate, not (root / "PKG-INFO").exists())
