"""Why a system refuses to load a library, in words that say what to do."""

from __future__ import annotations

import re

__all__ = ["hint"]

_OTHER = (
    "it is for another kind of machine than this Python: get the library of this host's platform"
)
_BROKEN = "it is damaged or no library: run `python -m server_native.setup --force`"

#: What loaders say (glibc, musl, macOS, Windows), and what it means. The first that is found counts.
_HINTS = (
    (
        r"version [`'](GLIBC_[\d.]+)' not found",
        r"it needs \1 and this system's glibc is older: use a library built for an older one, or build it here",
    ),
    (
        r"wrong ELF class: ELFCLASS(\d+)",
        r"it is a \1-bit library and this Python is not a \1-bit one",
    ),
    (r"libc\.musl-|ld-musl-", "it was built for musl and this Python runs on another C library"),
    (
        r"Error relocating|ld-linux[\w.-]*: (cannot open|No such file)",
        "it was built for another C library than this Python runs on",
    ),
    (r"static TLS", "it came too late for its thread-local storage: import server_native earlier"),
    (r"failed to map segment", "its folder is mounted without the right to execute (noexec)"),
    (r"incompatible architecture|WinError 193|not a valid Win32|wrong architecture", _OTHER),
    (
        r"code sign|not valid for use in process",
        "its code signature is missing or broken: get it anew, or sign it with `codesign --sign -`",
    ),
    (
        r"WinError 126|module could not be found|DLL load failed",
        "a library it needs is missing: install the Visual C++ runtime",
    ),
    (r"invalid ELF header|file too short|not a mach-o|slice is not valid", _BROKEN),
    (r"Exec format error", _OTHER),
    (r"Permission denied|WinError 5", "this user may not read it"),
)


def hint(said: str) -> str:
    """What is behind the text of a loader's error; empty when it is none of the known ones."""
    for pattern, meaning in _HINTS:
        found = re.search(pattern, said, re.IGNORECASE)
        if found is not None:
            return found.expand(meaning)
    return ""
