"""Requests and responses: what handlers take and give."""

from __future__ import annotations

import json as _json
import mimetypes
import os
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from . import _handshake
from ._ffi import FLAG_UPGRADE, Protocol
from ._streams import Inflow, LoopInflow, ThreadInflow
from .errors import ConfigurationError, HandshakeError
from .headers import Headers, HeaderSource, encode_fields, read_line
from .tls import TLSInfo

if TYPE_CHECKING:
    from ._dispatch import Finishing, Peer

__all__ = ["HandlerResult", "NativeDirectRequest", "NativeDirectResponse", "as_response"]

_PROTOCOLS = {
    int(Protocol.HTTP10): "HTTP/1.0",
    int(Protocol.HTTP11): "HTTP/1.1",
    int(Protocol.HTTP2): "HTTP/2",
    int(Protocol.HTTP3): "HTTP/3",
}
_END = 0x01

Address: TypeAlias = tuple[str, int]
Trailers: TypeAlias = "HeaderSource | Callable[[], HeaderSource]"


class NativeDirectRequest:
    """One request. Made by the server; everything is decoded when it is asked for.

    The body is read once, in one of three ways: ``await request.read()`` or ``async for chunk in request`` in
    asynchronous handlers, ``for chunk in request`` or :attr:`body` in plain ones.
    """

    __slots__ = (
        "_disconnected",
        "_fields",
        "_flags",
        "_inflow",
        "_left",
        "_line",
        "_payload",
        "_peer",
        "_taken",
        "stream",
    )

    def __init__(
        self,
        stream: int,
        peer: Peer,
        flags: int,
        line: bytes,
        fields: bytes,
        payload: bytes,
        inflow: Inflow | None,
    ) -> None:
        #: Number of the stream; never used again.
        self.stream = stream
        self._peer = peer
        self._flags = flags
        self._line = line
        self._fields = fields
        self._payload = payload
        self._inflow = inflow
        self._disconnected = False
        #: Whether the handler has asked for the body.
        self._taken = False
        #: What the connection became when it left HTTP, and at its end no more than that it has.
        self._left: Finishing | None = None

    @property
    def method(self) -> str:
        """The method as sent; methods are case-sensitive (RFC 9110 section 9.1)."""
        return read_line(self._line).method

    @property
    def scheme(self) -> str:
        """``http`` or ``https``."""
        return read_line(self._line).scheme

    @property
    def authority(self) -> str:
        """Host and port as the client named them; empty for HTTP/1.0 without ``Host``."""
        return read_line(self._line).authority

    @property
    def target(self) -> str:
        """Path and query as sent."""
        return read_line(self._line).target

    @property
    def path(self) -> str:
        """The path with percent-encoding decoded as UTF-8."""
        return read_line(self._line).path

    @property
    def raw_path(self) -> str:
        """The path as sent."""
        return read_line(self._line).raw_path

    @property
    def query(self) -> str:
        """What follows the ``?``, as sent; empty without one."""
        return read_line(self._line).query

    @property
    def protocol(self) -> str:
        """``HTTP/1.0``, ``HTTP/1.1``, ``HTTP/2`` or ``HTTP/3``."""
        return _PROTOCOLS[self._flags & 0xF0]

    @property
    def headers(self) -> Headers:
        """The header fields."""
        return Headers.read(self._fields)

    def header(self, name: str, default: str | None = None) -> str | None:
        """The first value of a header, looked up in any case, or ``default``."""
        return Headers.read(self._fields).get(name, default)

    @property
    def client(self) -> Address | None:
        """Address and port of the other end; ``None`` for a client of a Unix socket, which has neither."""
        host, port = self._peer.parts()[:2]
        return (host, int(port)) if port else None

    @property
    def server(self) -> tuple[str, int | None]:
        """Address and port the connection came in on; path and ``None`` for a Unix socket."""
        host, port = self._peer.parts()[2:4]
        return host, int(port) if port else None

    @property
    def tls(self) -> TLSInfo | None:
        """The TLS session; ``None`` on cleartext."""
        parts = self._peer.parts()
        return TLSInfo.parse(parts[5:]) if len(parts) > 5 else None

    @property
    def upgrade(self) -> str | None:
        """The protocol the client offers to go on with, in lower case (``websocket``); ``None`` without an offer.

        From ``Upgrade`` (RFC 9110 section 7.8) or an extended CONNECT (RFC 8441). Of several the first, which the
        client wants most.
        """
        return next(iter(self._offers()), None)

    def _offers(self) -> list[str]:
        if not self._flags & FLAG_UPGRADE:
            return []
        named = read_line(self._line).protocol
        lists = [named] if named else self.headers.get_all("upgrade")
        names = (name.strip().lower() for value in lists for name in value.split(","))
        return [name for name in names if name]

    @property
    def disconnected(self) -> bool:
        """Whether the stream is over already: the client is gone, or the server is about to stop.

        A client that only closes its sending side still waits for the answer and is not disconnected.
        """
        return self._disconnected or self._peer.is_late()

    @property
    def trailers(self) -> Headers:
        """Trailer fields; empty until the body was read to its end."""
        return Headers(self._inflow.trailers if self._inflow is not None else b"")

    @property
    def body(self) -> bytes:
        """The whole body, for plain handlers: on a pool thread this blocks until it is here."""
        self._taken = True
        inflow = self._inflow
        if inflow is None:
            return self._payload
        return b"".join(self)

    async def read(self) -> bytes:
        """The whole body. Raises :class:`~server_native.ClientDisconnected` when it will not come."""
        self._taken = True
        if self._inflow is None:
            return self._payload
        return b"".join([chunk async for chunk in self])

    def inform(self, status: int, headers: HeaderSource) -> None:
        """Sends an interim response before the real one: ``request.inform(103, {"link": "</a.css>; rel=preload"})``.

        ``status`` is 102 to 199 (RFC 9110 section 15.2); 100 is sent by itself when the body is asked for. Clients
        need not understand it: it is left out for HTTP/1.0.
        """
        if not isinstance(status, int) or not 102 <= status <= 199:
            raise ConfigurationError(
                f"an interim status must be an integer from 102 to 199, found {status!r}"
            )
        self._peer.site.inform(self.stream, status, encode_fields(headers))

    def accept_websocket(
        self, *, subprotocols: Sequence[str] = (), headers: HeaderSource | None = None
    ) -> Any:
        """Accepts the WebSocket the client asks for; a :class:`~server_native.WebSocket` from now on.

        In plain handlers, which run on a thread then, a :class:`~server_native.ThreadWebSocket`. ``subprotocols``
        are ours, the most wanted first; the first that the client knows too is agreed on. ``headers`` go with
        the answer. The handler returns nothing; what it leaves open is closed with 1000, or 1011 when it raises.

        Raises :class:`~server_native.HandshakeError` when the request is no handshake (426 or 400 for the client), and
        in plain handlers when no thread is left for it (503, option ``websocket_threads``).
        """
        _handshake.check(self)
        agreed = _handshake.subprotocol(self.headers, subprotocols)
        fields = _handshake.answer(headers, agreed)
        return self._peer.site.accept_websocket(self, fields, agreed)

    def detach_socket(
        self, *, headers: HeaderSource | None = None, write_headers: bool = True
    ) -> Any:
        """Takes the connection over as bytes, as they are; a :class:`~server_native.DetachedSocket` from now on.

        With ``write_headers`` the client gets ``101 Switching Protocols`` for the protocol it has offered first
        (over HTTP/2: 200 for its extended CONNECT); without, nothing, and the handler writes what it wants
        (HTTP/1.1 only). Bytes that were read already come first, an unread request body included. Plain
        handlers, for which the request must offer an upgrade, get a :class:`~server_native.ThreadDetachedSocket`.
        """
        status = 101 if write_headers else 0
        if write_headers and self.upgrade is None:
            raise HandshakeError(
                426,
                "the request offers no other protocol: nothing can be switched to",
                {"upgrade": "*"},
            )
        if not write_headers and not self.protocol.startswith("HTTP/1"):
            raise ConfigurationError(
                f"over {self.protocol} there is no connection to write to: leave write_headers on"
            )
        return self._peer.site.detach(self, status, encode_fields(_pairs(headers)))

    def __aiter__(self) -> AsyncIterator[bytes]:
        self._taken = True
        return self._chunks_async()

    def __iter__(self) -> Iterator[bytes]:
        self._taken = True
        inflow = self._inflow
        if inflow is None:
            return iter((self._payload,) if self._payload else ())
        if not isinstance(inflow, ThreadInflow):
            raise RuntimeError(  # noqa: TRY004 - the call is wrong here, not its type
                "this body is still arriving: use `await request.read()` or `async for` here"
            )
        return iter(inflow.next, b"")

    async def _chunks_async(self) -> AsyncIterator[bytes]:
        inflow = self._inflow
        if inflow is None:
            if self._payload:
                yield self._payload
        elif isinstance(inflow, LoopInflow):
            while chunk := inflow.here() or await inflow.next():
                yield chunk
        else:
            raise RuntimeError("a plain handler reads its body with `for chunk in request`")

    def __repr__(self) -> str:
        return f"<NativeDirectRequest {self.method} {self.target} {self.protocol}>"


_TEXT = encode_fields((("content-type", "text/plain; charset=utf-8"),))
_BINARY = encode_fields((("content-type", "application/octet-stream"),))
_JSON = encode_fields((("content-type", "application/json"),))

_Bytes = bytes


class NativeDirectResponse:
    """One response: status, headers, and a body that is whole or made while it is sent.

    A response with a whole body is encoded when it is made and may be sent any number of times.

    >>> NativeDirectResponse.json({"ok": True}, status=201).status
    201
    """

    __slots__ = ("fields", "payload", "source", "status", "trailers")

    #: The status code.
    status: int
    #: NUL-joined header fields.
    fields: _Bytes
    #: The whole body; empty when `source` makes it.
    payload: _Bytes
    #: What makes the body, or ``None``.
    source: Iterable[_Bytes] | AsyncIterable[_Bytes] | None
    #: Fields after a streamed body.
    trailers: Trailers | None

    def __init__(
        self,
        status: int,
        fields: _Bytes,
        payload: _Bytes,
        source: Iterable[_Bytes] | AsyncIterable[_Bytes] | None = None,
        trailers: Trailers | None = None,
    ) -> None:
        self.status = status
        self.fields = fields
        self.payload = payload
        self.source = source
        self.trailers = trailers

    @classmethod
    def text(
        cls, text: str, *, status: int = 200, headers: HeaderSource | None = None
    ) -> NativeDirectResponse:
        """Text as UTF-8, ``text/plain`` unless ``headers`` say otherwise."""
        if headers is None and status == 200:
            return cls(200, _TEXT, text.encode())
        return cls(_status(status), _with_type(headers, _TEXT), text.encode())

    @classmethod
    def bytes(
        cls,
        data: _Bytes | bytearray | memoryview = b"",
        *,
        status: int = 200,
        headers: HeaderSource | None = None,
    ) -> NativeDirectResponse:
        """Bytes, ``application/octet-stream`` unless ``headers`` say otherwise."""
        payload = data if isinstance(data, _Bytes) else _Bytes(data)
        return cls(_status(status), _with_type(headers, _BINARY if payload else b""), payload)

    @classmethod
    def json(
        cls, value: Any, *, status: int = 200, headers: HeaderSource | None = None
    ) -> NativeDirectResponse:
        """A value as JSON (RFC 8259), UTF-8 without spaces; ``ValueError`` for NaN and infinity, which it lacks."""
        payload = _json.dumps(
            value, ensure_ascii=False, allow_nan=False, separators=(",", ":")
        ).encode()
        return cls(_status(status), _with_type(headers, _JSON), payload)

    @classmethod
    def stream(
        cls,
        source: Iterable[_Bytes] | AsyncIterable[_Bytes],
        *,
        status: int = 200,
        headers: HeaderSource | None = None,
        trailers: Trailers | None = None,
    ) -> NativeDirectResponse:
        """A body made piece by piece, as the client takes it. Sent once.

        ``source`` is an iterable or asynchronous iterable of bytes. With a ``content-length`` header exactly
        that many bytes must come; without one the length is open. ``trailers`` are sent after it: fields, or a
        function called at the end that answers them.
        """
        if isinstance(source, (str, _Bytes)) or not isinstance(source, (Iterable, AsyncIterable)):
            raise ConfigurationError(
                f"a streamed body must be an iterable of bytes, found {type(source).__name__}"
            )
        return cls(_status(status), _with_type(headers, _BINARY), b"", source, trailers)

    @classmethod
    def file(
        cls, path: str | os.PathLike[str], *, status: int = 200, headers: HeaderSource | None = None
    ) -> NativeDirectResponse:
        """A file, read while it is sent; type from its name, ``last-modified`` from its date.

        Raises ``OSError`` when it is not there or no regular file.
        """
        place = Path(path)
        stat = place.stat()
        if not place.is_file():
            raise IsADirectoryError(f"a file response needs a regular file, found {place}")
        kind, encoding = mimetypes.guess_type(place.name)
        fields = [
            ("content-type", kind or "application/octet-stream"),
            ("content-length", str(stat.st_size)),
            ("last-modified", formatdate(stat.st_mtime, usegmt=True)),
        ]
        if encoding is not None:
            fields.append(("content-encoding", encoding))
        given = _pairs(headers)
        names = {
            name.lower() if isinstance(name, str) else name.decode("latin-1").lower()
            for name, _ in given
        }
        fields = [field for field in fields if field[0] not in names]
        return cls(
            _status(status),
            encode_fields([*fields, *given]),
            b"",
            _file_chunks(place, stat.st_size),
        )

    @classmethod
    def pre_encoded(
        cls, status: int, headers: HeaderSource, body: _Bytes = b""
    ) -> NativeDirectResponse:
        """Exactly these headers and this body, encoded once to be sent many times."""
        return cls(_status(status), encode_fields(headers), body)

    def __repr__(self) -> str:
        size = "streamed" if self.source is not None else f"{len(self.payload)} bytes"
        return f"<NativeDirectResponse {self.status} {size}>"


#: What a handler may return.
HandlerResult: TypeAlias = (
    "NativeDirectResponse | str | bytes | dict[str, Any] | list[Any]"
    " | tuple[int, str | bytes | dict[str, Any] | list[Any]]"
)


def as_response(result: object) -> NativeDirectResponse:
    """The response a handler's result stands for. Raises ``TypeError`` for what stands for none."""
    status = 200
    if isinstance(result, NativeDirectResponse):
        return result
    if isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], int):
        status, result = result
    if isinstance(result, str):
        return NativeDirectResponse.text(result, status=status)
    if isinstance(result, (bytes, bytearray, memoryview)):
        return NativeDirectResponse.bytes(result, status=status)
    if isinstance(result, (dict, list)):
        return NativeDirectResponse.json(result, status=status)
    raise TypeError(
        "a handler must return NativeDirectResponse, str, bytes, dict, list or (status, one of these), "
        f"found {type(result).__name__}"
    )


def _status(status: int) -> int:
    if not isinstance(status, int) or not 200 <= status <= 999:
        raise ConfigurationError(
            f"a response status must be an integer from 200 to 999, found {status!r}"
        )
    return status


def _pairs(headers: HeaderSource | None) -> list[Any]:
    if headers is None:
        return []
    return list(headers.items()) if isinstance(headers, Mapping) else list(headers)


def _with_type(headers: HeaderSource | None, fallback: _Bytes) -> _Bytes:
    """Fields of the user, with a content type if they have none."""
    if headers is None:
        return fallback
    block = encode_fields(headers)
    if not fallback or b"content-type" in block.split(b"\0")[::2]:
        return block
    return fallback + b"\0" + block if block else fallback


def _file_chunks(path: Path, size: int) -> Iterator[_Bytes]:
    with path.open("rb") as file:
        while size > 0:
            chunk = file.read(min(size, 64 * 1024))
            if not chunk:
                raise OSError(f"{path} became shorter while it was sent: {size} bytes are missing")
            size -= len(chunk)
            yield chunk
