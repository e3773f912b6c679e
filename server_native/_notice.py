"""Lines for whoever watches, on standard error."""

from __future__ import annotations

import sys

__all__ = ["say"]


def say(line: str) -> None:
    """A line for whoever watches; a program without a standard error (``pythonw``) has nobody."""
    if sys.stderr is not None:
        print(f"server_native: {line}", file=sys.stderr, flush=True)
