"""Which C library a Linux process runs on, without running a program to ask."""

from __future__ import annotations

import os
import re
import struct
import sys
from pathlib import Path

__all__ = ["elf_interpreter", "glibc", "interpreter", "musl"]


def glibc() -> str | None:
    """What glibc says of itself, as ``glibc 2.36``; ``None`` of another C library."""
    try:
        return os.confstr("CS_GNU_LIBC_VERSION")
    except (AttributeError, OSError, ValueError):
        # Not glibc: the name is unknown there, or has no value.
        return None


def interpreter() -> str | None:
    """The loader of the running program; ``None`` of a static one, and where nobody may look."""
    # A program that embeds Python is what was loaded; `sys.executable` may then be something else.
    for program in ("/proc/self/exe", sys.executable):
        try:
            with open(program, "rb") as file:  # noqa: PTH123 (a Path would be made for each)
                found = elf_interpreter(file.read(4096))
        except (OSError, TypeError):
            continue
        if found is not None:
            return found
    return None


def elf_interpreter(head: bytes) -> str | None:
    """The loader that the beginning of an ELF file names; ``None`` of anything else, and of static programs."""
    if head[:4] != b"\x7fELF" or len(head) < 64:
        return None
    order = "<" if head[5] == 1 else ">"
    wide = head[4] == 2
    try:
        (start,) = struct.unpack_from(order + ("Q" if wide else "I"), head, 32 if wide else 28)
        size, count = struct.unpack_from(order + "HH", head, 54 if wide else 42)
        for index in range(count):
            at = start + index * size
            kind, *rest = struct.unpack_from(order + ("IIQQQQ" if wide else "IIIIII"), head, at)
            if kind == 3:  # PT_INTERP
                offset, length = (rest[1], rest[4]) if wide else (rest[0], rest[3])
                return head[offset : offset + length].split(b"\0")[0].decode() or None
    except (struct.error, UnicodeDecodeError):
        # Cut off, or made up.
        return None
    return None


def musl(loader: str | None) -> str | None:
    """The version of a musl loader, from its own text: asking it would be running it."""
    if loader is None or "musl" not in loader:
        return None
    try:
        found = re.search(rb"\0(1\.\d{1,2}\.\d{1,3})\b[^\0]{0,40}\0", Path(loader).read_bytes())
    except OSError:
        return None
    return found[1].decode() if found else None
