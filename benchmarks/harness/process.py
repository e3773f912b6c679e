"""A process tree: its CPU time, memory and pids, read from /proc."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on (field 3), the name in parentheses cut off."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _children() -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            pid = int(entry.name)
            with contextlib.suppress(OSError):
                found.setdefault(int(_stat(pid)[1]), []).append(pid)
    return found


def tree(root: int) -> list[int]:
    """The pids of root and all its descendants."""
    children = _children()
    pids, unseen = [], [root]
    while unseen:
        pid = unseen.pop()
        pids.append(pid)
        unseen += children.get(pid, [])
    return pids


def cpu_seconds(root: int) -> float:
    """User and system time of the tree so far.

    The CPU clock of a process counts what utime + stime of /proc/PID/stat count, but in
    nanoseconds, not ticks of 10 ms; the time of children that ended (cutime, cstime) is in stat.
    """
    total = 0.0
    for pid in tree(root):
        with contextlib.suppress(OSError):
            clock = (~pid << 3) | 2  # what clock_getcpuclockid(pid) gives
            ended = _stat(pid)[13:15]
            total += time.clock_gettime(clock) + sum(map(int, ended)) / TICK
    return total


def rss_bytes(root: int) -> int:
    """Resident memory summed over the tree; pages that processes share count once per process."""
    total = 0
    for pid in tree(root):
        with contextlib.suppress(OSError):
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    return total


def machine_busy_seconds() -> float:
    """User, nice and system time of the whole machine so far."""
    return sum(map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:4])) / TICK
