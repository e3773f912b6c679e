"""One process at a time: a lock the system takes away with the process that holds it, however that ends."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import PrebuiltError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

__all__ = ["held"]

#: Seconds between two looks; to the first line about the wait; between two lines.
_TURN = 0.05
_FIRST_LINE = 1.0
_LINE = 10.0
#: Somebody else has it.
_TAKEN = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)


@contextmanager
def held(path: Path, patience: float, say: Callable[[str], None]) -> Iterator[bool]:
    """Holds the lock ``path``, whose folder must exist; answers ``False`` where the file system has no locks.

    Waits up to ``patience`` seconds with a line now and then; then raises E-BUSY. Whatever is guarded must be right
    without the lock as well: it saves work, and network file systems may grant it twice.
    """
    try:
        # Not inherited: what is run under the lock must not keep it when this process dies.
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
    except OSError as error:
        raise PrebuiltError("E-PERM", f"the lock {path} cannot be opened: {error}") from error
    try:
        yield _wait(handle, path, patience, say)
    finally:
        os.close(handle)


def _wait(handle: int, path: Path, patience: float, say: Callable[[str], None]) -> bool:
    began = time.monotonic()
    line = began + _FIRST_LINE
    while True:
        try:
            _take(handle)
            return True
        except OSError as error:
            if error.errno not in _TAKEN:
                return False
        now = time.monotonic()
        if now - began >= patience:
            raise PrebuiltError(
                "E-BUSY",
                f"another process has held {path} for {patience:.0f} s: wait for it or end it, then try again",
            )
        if now >= line:
            say(f"waiting for another process, which holds {path} ({now - began:.0f} s)")
            line += _LINE
        time.sleep(_TURN)


if sys.platform == "win32":

    def _take(handle: int) -> None:
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)

else:

    def _take(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
