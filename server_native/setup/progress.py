"""How far a download is, for people: a bar on a terminal, a few lines elsewhere. On standard error."""

from __future__ import annotations

import os
import sys
import time
from typing import TextIO

__all__ = ["Progress"]

_WIDTH = 30
#: Seconds between two drawings.
_FRAME = 0.1
#: Lines where there is no terminal: a log must not be filled with them.
_LINES = 10


class Progress:
    """Told of the bytes that are here and of how many there will be."""

    def __init__(self, name: str, stream: TextIO | None = None) -> None:
        self._name = name
        self._stream = stream if stream is not None else sys.stderr
        self._bar = self._stream.isatty() and not os.environ.get("CI")
        self._plain = bool(os.environ.get("NO_COLOR"))
        self._next = 0.0
        self._told = 0

    def __call__(self, size: int, total: int | None) -> None:
        """Draws it, not more often than eyes see or logs bear."""
        if self._bar:
            now = time.monotonic()
            if now >= self._next or size == total:
                self._next = now + _FRAME
                self._stream.write(f"\r{self._drawn(size, total)}")
                self._stream.flush()
        elif total and (step := size * _LINES // total) > self._told:
            self._told = step
            self._stream.write(f"{self._name}: {size * 100 // total} % of {total / 1e6:.1f} MB\n")

    def close(self) -> None:
        """Leaves the line."""
        if self._bar and self._next:
            self._stream.write("\n")

    def _drawn(self, size: int, total: int | None) -> str:
        if not total:
            return f"{self._name} {size / 1e6:.1f} MB"
        done = size * _WIDTH // total
        bar = "#" * done + "-" * (_WIDTH - done)
        if not self._plain:
            bar = f"\x1b[32m{bar}\x1b[0m"
        return f"{self._name} [{bar}] {size / 1e6:.1f} of {total / 1e6:.1f} MB"
