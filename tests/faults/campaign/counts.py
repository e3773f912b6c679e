"""Three numbers that a victim writes and the campaign reads, in a file both have mapped.

A victim that is too busy to answer questions still counts. Only one thread of one process writes.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path

_FORMAT = struct.Struct("=QQQ")

#: The path of the file, for a victim that takes no arguments of ours.
VARIABLE = "CAMPAIGN_COUNTS"


class Counts:
    """``pid`` of who serves, requests and sessions handed to a handler, and those of them that were probes."""

    def __init__(self, path: str) -> None:
        with Path(path).open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _FORMAT.size)

    @staticmethod
    def create(path: Path) -> Counts:
        """Makes the file."""
        path.write_bytes(bytes(_FORMAT.size))
        return Counts(str(path))

    def read(self) -> tuple[int, int, int]:
        """``pid``, handlers, probes."""
        pid, handlers, probes = _FORMAT.unpack_from(self._map)
        return pid, handlers, probes

    def begin(self) -> None:
        """This process serves from now on."""
        _FORMAT.pack_into(self._map, 0, os.getpid(), 0, 0)

    def handler(self, *, probe: bool) -> None:
        """A handler was called."""
        pid, handlers, probes = _FORMAT.unpack_from(self._map)
        _FORMAT.pack_into(self._map, 0, pid, handlers + 1, probes + probe)
