"""gzip for responses: whether a client wants it (RFC 9110 section 12.5.3), and the stream that makes it.

Compressing runs on the event loop: about 1 ms for 64 KiB of text. It is off by default for that reason, and because the
length of a compressed answer tells something about secrets in it that stand beside text an attacker chooses (BREACH).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable

from .response_headers import ResponseHeaders

__all__ = ["Gzip", "accepts_gzip", "gzip_for"]

# RFC 9110 section 12.4.2.
_WEIGHT = re.compile(r"[qQ]=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)\Z")
_GZIP_WINDOW = 16 + zlib.MAX_WBITS


class Gzip:
    """One gzip stream (RFC 1952), made piece by piece. Holds about 256 KiB until it is finished."""

    __slots__ = ("_deflate",)

    def __init__(self) -> None:
        self._deflate = zlib.compressobj(wbits=_GZIP_WINDOW)

    def add(self, data: bytes) -> bytes:
        """Takes bytes; answers those that are ready, often none."""
        return self._deflate.compress(data)

    def flush(self) -> bytes:
        """Bytes that let a client read all that was added."""
        return self._deflate.flush(zlib.Z_SYNC_FLUSH)

    def finish(self) -> bytes:
        """The rest of the stream, checksum and length included."""
        return self._deflate.flush()


def accepts_gzip(fields: Iterable[str]) -> bool:
    """Whether the ``accept-encoding`` fields of a request ask for gzip and do not prefer it plain.

    Without a field every coding is allowed (RFC 9110 section 12.5.3), but none was asked for: false. A member with
    a weight that is none counts as refused.

    >>> accepts_gzip(["deflate, gzip;q=0.5"]), accepts_gzip(["gzip;q=0, *"]), accepts_gzip(["br"])
    (True, False, False)
    """
    weights: dict[str, float] = {}
    for field in fields:
        for member in field.split(","):
            coding, *parameters = (part.strip(" \t") for part in member.split(";"))
            if coding:
                weights[coding.lower()] = _weight(parameters)
    gzip = weights.get("gzip", weights.get("x-gzip", weights.get("*", 0.0)))
    return gzip > 0 and gzip >= weights.get("identity", 0.0)


def gzip_for(headers: ResponseHeaders, accepted: Iterable[str], *, empty: bool) -> Gzip | None:
    """A gzip stream for a response with these headers, which are changed to say so; ``None`` to send it as it is.

    A response that has a ``content-encoding`` already, or is a part of something (``content-range``), is left
    alone. ``empty``: there is no body to compress. A strong ``etag`` becomes a weak one, since the bytes differ from
    those of the plain response (RFC 9110 section 8.8.1).
    """
    if "content-encoding" in headers or "content-range" in headers:
        return None
    # Also when it goes plain: a cache must not give this answer to who would have got the other one.
    vary = {name.strip().lower() for value in headers.get_all("vary") for name in value.split(",")}
    if not vary & {"*", "accept-encoding"}:
        headers.add("vary", "accept-encoding")
    if empty or not accepts_gzip(accepted):
        return None
    headers.set("content-encoding", "gzip")
    headers.remove_all("content-length")
    tag = headers.get("etag")
    if tag is not None and not tag.startswith("W/"):
        headers.set("etag", f"W/{tag}")
    return Gzip()


def _weight(parameters: list[str]) -> float:
    if not parameters:
        return 1.0
    match = _WEIGHT.match(parameters[0])
    return float(match[1]) if match is not None and len(parameters) == 1 else 0.0
