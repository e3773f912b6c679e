"""What comes out of a search: a verdict for each step, and the words for those who want to know.

Tuples here and in the modules of the search: a tuple's class is made in an eighth of the time of a frozen dataclass,
half a millisecond each, which every process pays before its first request.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import NamedTuple

from ._platform import Host, file_name
from ._trust import Trust
from .errors import PrebuiltError

__all__ = ["Finding", "Search", "Step", "Verdict", "nothing_found"]


class Verdict(Enum):
    """What became of a step."""

    CHOSEN = "chosen"
    ABSENT = "absent"
    REJECTED = "rejected"
    #: Not to be done, here or at all.
    SKIPPED = "skipped"
    #: An earlier step has decided.
    NOT_REACHED = "not reached"


class Finding(NamedTuple):
    """What a step has found."""

    verdict: Verdict
    reason: str = ""
    path: Path | None = None
    trust: Trust = Trust.NONE
    #: Told to the user when the library is loaded.
    notice: str | None = None
    #: Ends the search.
    error: PrebuiltError | None = None
    #: The step would fetch or build here, which ends the search too when nobody has asked for more than a look.
    pending: bool = False


class Step(NamedTuple):
    """One way to a library and what became of it."""

    #: As in docs/decisions/0013-finding-the-library.md; ``1b`` is the build of a checkout.
    number: str
    source: str
    finding: Finding

    def __str__(self) -> str:
        finding = self.finding
        path = f" ({finding.path})" if finding.path else ""
        parts = [f"{self.number:>2} {self.source}", finding.verdict.value + path, finding.reason]
        return ": ".join(part for part in parts if part)


class Search(NamedTuple):
    """A search that has ended."""

    steps: tuple[Step, ...]
    #: Why there is no library; ``None`` when there is one, or would be.
    error: PrebuiltError | None

    @property
    def chosen(self) -> Finding | None:
        """What is to be loaded."""
        findings = (step.finding for step in self.steps)
        return next((each for each in findings if each.verdict is Verdict.CHOSEN), None)

    @property
    def pending(self) -> Step | None:
        """The step that would make a library at the first use."""
        return next((step for step in self.steps if step.finding.pending), None)


def nothing_found(steps: list[Step], host: Host) -> PrebuiltError:
    """What has ended the search early, or E-NOLIB, E-PLATFORM or E-BUILD with all verdicts and what to do."""
    for step in steps:
        if step.finding.error is not None:
            return step.finding.error
    table = "\n".join(f"  {step}" for step in steps)
    named = f"set SERVER_NATIVE_PREBUILT to the absolute path of {file_name()}"
    ways = ["run `python -m server_native.setup`", "install a wheel of this platform", named]
    code = "E-NOLIB"
    if any("[E-BUILD]" in step.finding.reason for step in steps):
        code = "E-BUILD"
        ways.insert(0, "install Rust from https://rustup.rs")
    last = f"This is {host.text}. What to do: {', or '.join(ways)}."
    if host.label is None:
        code, last = "E-PLATFORM", f"{host.reason}."
    return PrebuiltError(
        code, f"no native library of server_native was found. Searched:\n{table}\n{last}"
    )
