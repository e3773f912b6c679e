"""The server's half of the WebSocket handshake (RFC 6455 section 4.2, RFC 8441 section 5).

Here is decided whether the request is one, and which subprotocol is spoken; the answer's key is computed natively.
"""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .errors import ConfigurationError, HandshakeError
from .headers import HeaderSource, encode_fields

if TYPE_CHECKING:
    from .headers import Headers
    from .http import NativeDirectRequest

__all__ = ["answer", "check", "subprotocol"]

_VERSION = "13"
#: Fields of the answer that are ours, or agree on what is not spoken here.
_OURS = frozenset((b"sec-websocket-accept", b"sec-websocket-extensions", b"sec-websocket-protocol"))


def check(request: NativeDirectRequest) -> None:
    """Raises :class:`~server_native.HandshakeError`, with the answer that fits, for what is no handshake."""
    headers = request.headers
    if "websocket" not in request._offers():
        raise HandshakeError(
            426,
            "this is a WebSocket: the request must ask for an upgrade to it",
            {"upgrade": "websocket"},
        )
    versions = headers.get_all("sec-websocket-version")
    if versions != [_VERSION]:
        raise HandshakeError(
            426,
            f"sec-websocket-version must be {_VERSION}, once, found {', '.join(versions) or 'none'}",
            {"sec-websocket-version": _VERSION, "upgrade": "websocket"},
        )
    if request.method == "CONNECT":
        return  # HTTP/2 and later need no key: the method cannot be confused with another request.
    if request.method != "GET":
        raise HandshakeError(400, f"a WebSocket handshake must be a GET, found {request.method}")
    if request._payload or request._inflow is not None:
        raise HandshakeError(400, "a WebSocket handshake must have no body, found one")
    keys = headers.get_all("sec-websocket-key")
    if len(keys) != 1 or not _is_key(keys[0]):
        raise HandshakeError(
            400, f"sec-websocket-key must be 16 bytes in base64, once, found {keys!r}"
        )


def subprotocol(headers: Headers, offered: Sequence[str]) -> str | None:
    """The first of ours that the client knows too."""
    if isinstance(offered, str):
        raise ConfigurationError(f"subprotocols must be a sequence of names, found {offered!r}")
    asked = [
        name.strip()
        for value in headers.get_all("sec-websocket-protocol")
        for name in value.split(",")
    ]
    return next((name for name in offered if name in asked), None)


def answer(headers: HeaderSource | None, agreed: str | None) -> bytes:
    """The fields that go with the acceptance."""
    fields = b"" if headers is None else encode_fields(headers)
    for name in fields.split(b"\0")[::2]:
        if name in _OURS:
            raise ConfigurationError(
                f"the header {name.decode()} of a WebSocket's acceptance is the server's, found it in headers: "
                "leave it out (subprotocols= agrees on a subprotocol)"
            )
    if agreed is None:
        return fields
    protocol = encode_fields((("sec-websocket-protocol", agreed),))
    return fields + b"\0" + protocol if fields else protocol


def _is_key(key: str) -> bool:
    try:
        return len(b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False
