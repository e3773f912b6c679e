"""The steps of a release on GitHub, by its program `gh`: a draft, its files, a comparison, and only then the public.

Each step looks at what is there before it changes anything, so a run that was cut off is simply run again. What has
been published is never changed.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tools.release_contents import ReleaseError

__all__ = ["Release"]


@dataclass(frozen=True)
class Release:
    """A release and the local files it is to have."""

    tag: str
    files: tuple[Path, ...]
    repository: str
    #: Commands that change something are told, not run; what is there is not asked for either.
    dry_run: bool = False
    tell: Callable[[str], None] = field(default=print)

    def draft(self) -> None:
        """Makes the draft, if there is none."""
        state = self._state()
        if state == "published":
            raise ReleaseError(f"{self.tag} is published already: what is out stays as it is")
        if state == "draft":
            self.tell(f"{self.tag} is drafted already")
            return
        notes = "Prebuilt libraries. docs/deployment.md says how they are found, verified and installed."
        self._gh(
            "create", self.tag, "--draft", "--verify-tag", "--title", self.tag, "--notes", notes
        )

    def upload(self) -> None:
        """Gives the draft its files, also those that it has already."""
        self._must_be_draft()
        self._gh("upload", self.tag, "--clobber", *map(str, self.files))

    def verify(self) -> None:
        """Fetches everything back and compares. Raises :class:`ReleaseError` for any difference."""
        with tempfile.TemporaryDirectory() as folder:
            self._gh("download", self.tag, "--dir", folder)
            if self.dry_run:
                return
            expected = {path.name: _sha256(path) for path in self.files}
            found = {path.name: _sha256(path) for path in Path(folder).iterdir()}
        problems = [
            f"{name}: {_difference(expected.get(name), found.get(name))}"
            for name in sorted(expected | found)
            if expected.get(name) != found.get(name)
        ]
        if problems:
            raise ReleaseError(f"{self.tag} is not what was uploaded: {'; '.join(problems)}")
        self.tell(f"{self.tag}: {len(expected)} files came back as they were")

    def publish(self) -> None:
        """Verifies once more, then lets everybody see it."""
        self._must_be_draft()
        self.verify()
        self._gh("edit", self.tag, "--draft=false", "--latest")

    def _must_be_draft(self) -> None:
        state = self._state()
        if state != "draft" and not self.dry_run:
            raise ReleaseError(f"{self.tag} must be a draft, found that it is {state}")

    def _state(self) -> str:
        """``draft``, ``published`` or ``absent``."""
        if self.dry_run:
            return "absent"
        command = self._command("view", self.tag, "--json", "isDraft")
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode == 0:
            return "draft" if json.loads(result.stdout)["isDraft"] else "published"
        if "not found" in result.stderr.lower():
            return "absent"
        raise ReleaseError(f"`{shlex.join(command)}` failed: {result.stderr.strip()}")

    def _gh(self, *arguments: str) -> None:
        command = self._command(*arguments)
        self.tell(f"$ {shlex.join(command)}")
        if not self.dry_run and subprocess.run(command, check=False).returncode != 0:
            raise ReleaseError(f"`{shlex.join(command)}` failed")

    def _command(self, verb: str, *arguments: str) -> list[str]:
        return ["gh", "release", verb, *arguments, "--repo", self.repository]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _difference(expected: str | None, found: str | None) -> str:
    if expected is None:
        return "nobody uploaded it"
    return "is missing" if found is None else f"expected sha256 {expected}, found {found}"
