"""What answers an :class:`~server_native.HttpRequest`: changed and written to, then closed."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Generator, Iterable
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import quote

from ._outlet import Completion, Outlet
from .compress import Gzip, gzip_for
from .cookies import ResponseCookies
from .detached import DetachedSocket
from .errors import ConfigurationError, ContentLengthError, HandshakeError, ResponseSentError
from .headers import HeaderSource, encode_fields
from .http import NativeDirectRequest, NativeDirectResponse
from .response_headers import ResponseHeaders
from .sessions import SessionSlot
from .websocket import WebSocket

__all__ = ["ConnectionInfo", "HttpResponse", "ResponseDefaults"]

#: Bytes kept back before the head is sent, so that a short response goes in one piece with its length.
_BUFFERED = 8 * 1024
#: Bytes `add_stream` leaves waiting before it takes more from its source; and the longest body sent with its head.
_AHEAD = 64 * 1024
#: Statuses without a body (RFC 9110 sections 6.4.1 and 15.3.6).
_BODILESS = frozenset((204, 205, 304))
#: Fields that speak of a body, for an answer after which the connection is another protocol's.
_OF_BODIES = frozenset(("content-type", "content-length", "content-encoding", "transfer-encoding"))
_REDIRECTS = (301, 302, 303, 307, 308)
_CHARSET = re.compile(r""";[ \t]*charset[ \t]*=[ \t]*(?:"([^"]*)"|([^;"\s]*))""", re.IGNORECASE)
#: Everything a URI may hold (RFC 3986 section 2), and the % of what is encoded already.
_URI_SAFE = "%:/?#[]@!$&'()*+,;=-._~"


_Left = TypeVar("_Left", WebSocket, DetachedSocket)


def default_headers() -> ResponseHeaders:
    """The header fields a server gives its responses unless it is told otherwise."""
    return ResponseHeaders(
        {
            "content-type": "text/plain; charset=utf-8",
            "x-frame-options": "SAMEORIGIN",
            "x-content-type-options": "nosniff",
            "x-xss-protection": "1; mode=block",
        }
    )


@dataclass
class ResponseDefaults:
    """What a server gives every response it begins."""

    headers: ResponseHeaders = field(default_factory=default_headers)
    server_header: str | None = None
    auto_compress: bool = False
    write_buffer_bytes: int = 4 * 1024 * 1024


@dataclass(frozen=True)
class ConnectionInfo:
    """The two ends of a connection, each as host and port; as ``client`` and ``server`` of the direct request."""

    #: The client's end, or that of the proxy in front of us; ``None`` over a Unix socket, whose clients have no name.
    remote: tuple[str, int] | None
    #: Ours; path and ``None`` of a Unix socket.
    local: tuple[str, int | None]


class HttpResponse:
    """The response to one request. Belongs to the thread of its loop.

    Nothing is sent before more than 8 KiB were written, :meth:`flush` or :meth:`close`; then the head goes, and what
    belongs to it (:attr:`status_code`, :attr:`headers`, :attr:`cookies`) can no longer be changed:
    :class:`~server_native.errors.ResponseSentError`. A response that is closed before goes in one piece, with its
    ``content-length``. There is no reason phrase to set: HTTP/2 has none, and over HTTP/1.1 the standard one is sent.

    When the client is gone, what is written is dropped, :meth:`flush`, :meth:`add_stream` and :attr:`done` raise
    :class:`~server_native.ClientDisconnected`, and :meth:`close` returns as if nothing had happened: a loop over
    requests does not end with one of them.

    A response that is dropped before it is closed is answered with 500, or reset when its head has gone, and logged.
    """

    __slots__ = (
        "__weakref__",
        "_auto_compress",
        "_buffer",
        "_closed",
        "_codec",
        "_cookies",
        "_declared",
        "_direct",
        "_gzip",
        "_headers",
        "_muted",
        "_outlet",
        "_sent",
        "_server_header",
        "_slot",
        "_status",
        "_written",
        "buffer_output",
        "persistent_connection",
    )

    def __init__(
        self,
        direct: NativeDirectRequest,
        outlet: Outlet,
        defaults: ResponseDefaults,
        slot: SessionSlot,
        *,
        persistent: bool,
    ) -> None:
        #: Whether the connection stays open for another request; false sends ``connection: close`` (RFC 9112 section
        #: 9.6). HTTP/2 connections stay open.
        self.persistent_connection = persistent
        #: Whether up to 8 KiB are kept back before the head is sent. False sends it with the first write.
        self.buffer_output = True
        self._direct = direct
        self._outlet = outlet
        self._slot = slot
        self._status = 200
        self._headers = defaults.headers.copy()
        self._server_header = defaults.server_header
        self._auto_compress = defaults.auto_compress
        self._cookies = ResponseCookies()
        self._buffer: list[bytes] = []
        self._written = 0
        # What content-length said when the head went.
        self._declared = -1
        self._sent = False
        self._closed = False
        # The body goes nowhere: the response to HEAD, or a status that has none.
        self._muted = False
        self._gzip: Gzip | None = None
        self._codec: tuple[str, str] = ("", "")

    # --- the head ---------------------------------------------------------------------------------

    @property
    def status_code(self) -> int:
        """The status, 200 to 999; 200 unless it is set."""
        return self._status

    @status_code.setter
    def status_code(self, status: int) -> None:
        self._unsent("its status")
        if not isinstance(status, int) or isinstance(status, bool) or not 200 <= status <= 999:
            raise ConfigurationError(
                f"status_code must be an integer from 200 to 999, found {status!r}"
            )
        self._status = int(status)

    @property
    def headers(self) -> ResponseHeaders:
        """The header fields, with those of ``server.default_response_headers`` to begin with."""
        return self._headers

    @property
    def cookies(self) -> ResponseCookies:
        """The cookies to set: ``response.cookies.add("theme", "dark", max_age=3600)``."""
        return self._cookies

    @property
    def content_type(self) -> str | None:
        """The ``content-type``, ``None`` for none.

        A ``text/`` type is given ``charset=utf-8`` when it is set without a charset, so that :meth:`write` and the
        client agree on the encoding; ``headers["content-type"]`` takes a value as it is.
        """
        return self._headers.get("content-type")

    @content_type.setter
    def content_type(self, kind: str | None) -> None:
        if kind is None:
            self._headers.remove_all("content-type")
            return
        if kind.lower().startswith("text/") and _CHARSET.search(kind) is None:
            kind = f"{kind}; charset=utf-8"
        self._headers.set("content-type", kind)

    @property
    def charset(self) -> str:
        """The encoding :meth:`write` uses.

        That of the ``content-type``; without one ISO-8859-1, or UTF-8 for JSON (RFC 8259 section 8.1). Setting it
        changes the ``content-type``, which there has to be.
        """
        kind = self._headers.get("content-type", "")
        if kind != self._codec[0] or not self._codec[1]:
            self._codec = (kind, _codec(kind))
        return self._codec[1]

    @charset.setter
    def charset(self, charset: str) -> None:
        kind = self._headers.get("content-type")
        if kind is None:
            raise ConfigurationError(
                "charset is a part of the content-type: set content_type before"
            )
        self._headers.set("content-type", f"{_CHARSET.sub('', kind)}; charset={charset}")

    @property
    def content_length(self) -> int:
        """The length of the body in bytes, -1 when it is not known.

        When it is set, exactly that many bytes must be written: otherwise the client gets 500, or an abrupt end when
        the head has gone, and :meth:`close`, :meth:`flush` and :attr:`done` raise
        :class:`~server_native.errors.ContentLengthError`. Responses to HEAD and with 204, 205 and 304 have no body to
        be counted. Setting -1 takes it back; a compressed body is sent without.
        """
        value = self._headers.get("content-length")
        if value is None:
            return -1
        if not (value.isascii() and value.isdigit()):
            raise ConfigurationError(f"content-length must be digits, found {value!r}")
        return int(value)

    @content_length.setter
    def content_length(self, length: int) -> None:
        if not isinstance(length, int) or isinstance(length, bool) or length < -1:
            raise ConfigurationError(
                f"content_length must be an integer from 0, or -1 for unknown, found {length!r}"
            )
        if length < 0:
            self._headers.remove_all("content-length")
        else:
            self._headers.set("content-length", length)

    @property
    def connection_info(self) -> ConnectionInfo:
        """The two ends of the connection."""
        return ConnectionInfo(self._direct.client, self._direct.server)

    # --- the body ---------------------------------------------------------------------------------

    def write(self, value: object) -> None:
        """Writes ``str(value)`` in :attr:`charset`; bytes are for :meth:`add`.

        Raises ``UnicodeEncodeError`` for a character the charset has not got, and what :meth:`add` raises.
        """
        if isinstance(value, (bytes, bytearray, memoryview)):
            raise TypeError(
                f"write() takes text, found {type(value).__name__}: use add() for bytes"
            )
        try:
            data = str(value).encode(self.charset)
        except UnicodeEncodeError as error:
            error.reason += "; set response.content_type or response.charset to one that has it"
            raise
        self.add(data)

    def writeln(self, value: object = "") -> None:
        """Writes ``str(value)`` and a line feed."""
        self.write(f"{value}\n")

    def write_all(self, values: Iterable[object], separator: str = "") -> None:
        """Writes each of ``values`` with ``separator`` between them."""
        self.write(separator.join(map(str, values)))

    def add(self, data: bytes | bytearray | memoryview) -> None:
        """Writes bytes, without waiting.

        Raises :class:`~server_native.errors.ResponseSentError` after :meth:`close` and
        :class:`~server_native.errors.WriteBufferFullError` when the client has not taken ``write_buffer_bytes`` (4 MiB;
        a server's option) yet. Dropped when the client is gone.
        """
        if self._closed:
            raise ResponseSentError("the response is closed, nothing can be written to it any more")
        if not isinstance(data, bytes):
            if not isinstance(data, (bytearray, memoryview)):
                raise TypeError(
                    f"add() takes bytes, found {type(data).__name__}: use write() for text"
                )
            data = bytes(data)
        outlet = self._outlet
        if self._muted or outlet.over:
            return
        if self._sent:
            outlet.require_room()
        self._written += len(data)
        if not self._sent:
            self._buffer.append(data)
            if self._written > _BUFFERED or not self.buffer_output:
                self._begin()
        elif 0 <= self._declared < self._written:
            self._mismatch(self._declared)
        else:
            outlet.put(data if self._gzip is None else self._gzip.add(data))

    async def add_stream(self, source: AsyncIterable[bytes] | Iterable[bytes]) -> None:
        """Writes every piece of ``source``, taking the next one when the client has nearly taken the last.

        Raises :class:`~server_native.ClientDisconnected` when nobody is there to take it. A generator is closed at the
        end in any case; it is not run to its end for HEAD, or for a status without a body.
        """
        try:
            if isinstance(source, AsyncIterable):
                async for chunk in source:
                    if not await self._passed_on(chunk):
                        break
            else:
                for chunk in source:
                    if not await self._passed_on(chunk):
                        break
        finally:
            # Only what nobody else would close: a file belongs to who opened it.
            if isinstance(source, AsyncGenerator):
                await source.aclose()
            elif isinstance(source, Generator):
                source.close()

    async def flush(self) -> None:
        """Sends what was written, the head first, and waits until the client has taken nearly all of it.

        "Taken" means handed to the sockets, of which ``Limits.send_window`` bytes may still be on their way. Raises
        :class:`~server_native.ClientDisconnected` when nobody is there and
        :class:`~server_native.errors.ContentLengthError` when more was written than announced.
        """
        if not self._sent and not self._outlet.over:
            self._begin()
        if self._muted:
            return
        if self._gzip is not None and not self._closed:
            self._outlet.put(self._gzip.flush())
        await self._outlet.drained()

    def close(self) -> Awaitable[None]:
        """Ends the response and returns at once; awaiting the result waits until all of it is handed over.

        Awaiting raises :class:`~server_native.errors.ContentLengthError` when too little or too much was written, and
        nothing when the client is gone (:attr:`done` does). Closing again changes nothing.
        """
        if not self._closed:
            if not self._sent and not self._outlet.over:
                self._send_whole()
            elif self._sent and not self._muted:
                self._end()
            self._closed = True
        return Completion(self._outlet, quiet=True)

    def redirect(self, uri: str, status: int = 302) -> Awaitable[None]:
        """Sends the client to ``uri`` and closes the response; as :meth:`close`.

        ``uri`` may be relative to the request (RFC 9110 section 10.2.2); characters a URI cannot have are
        percent-encoded. ``status`` is 301, 302, 303, 307 or 308.
        """
        if status not in _REDIRECTS:
            raise ConfigurationError(
                f"a redirect's status must be one of {_REDIRECTS}, found {status!r}"
            )
        self.status_code = status
        self._headers.set("location", quote(uri, safe=_URI_SAFE))
        return self.close()

    def detach_socket(self, *, write_headers: bool = True) -> DetachedSocket:
        """Takes the connection over as bytes, as they are, and closes the response.

        With ``write_headers`` the client gets ``101 Switching Protocols`` for the protocol it has offered first (over
        HTTP/2: 200 for its extended CONNECT), with :attr:`headers` and :attr:`cookies`; without, nothing, and whoever
        has the socket writes what it wants, a head of its own among it (HTTP/1.1 only). Bytes that were read already
        come first, an unread request body included.

        The socket lasts until it is closed, both sides have ended or the server stops; in a handler that is called
        with its request, until that has returned. Raises :class:`~server_native.HandshakeError` when the request offers
        no other protocol, and has answered 426 then; :class:`~server_native.errors.ResponseSentError` after the first
        write, and :class:`~server_native.ClientDisconnected` when nobody is there.
        """

        def take(fields: HeaderSource) -> DetachedSocket:
            headers = fields if write_headers else None
            socket: DetachedSocket = self._direct.detach_socket(
                headers=headers, write_headers=write_headers
            )
            return socket

        return self._hand_over(take)

    @property
    def done(self) -> Awaitable[None]:
        """The end of the response: awaiting it waits for that, any number of times.

        Raises :class:`~server_native.errors.ContentLengthError`, and :class:`~server_native.ClientDisconnected` when
        the client did not get all of it.
        """
        return Completion(self._outlet, quiet=False)

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._closed

    def __repr__(self) -> str:
        state = "closed" if self._closed else "begun" if self._sent else "open"
        return f"<HttpResponse {self._status} {state}>"

    def __del__(self) -> None:
        outlet = getattr(self, "_outlet", None)
        if outlet is not None and not outlet.settled:
            # Any thread may collect garbage; and at the very end there is no loop to tell.
            try:
                outlet.loop.call_soon_threadsafe(outlet.abandon, self._direct)
            except RuntimeError:
                return

    # --- how it goes ------------------------------------------------------------------------------

    def _unsent(self, what: str) -> None:
        if self._sent or self._closed:
            raise ResponseSentError(
                f"the head of this response has been sent, {what} cannot be changed any more: "
                "change it before the first flush() and before more is written than is buffered"
            )

    def _hand_over(self, take: Callable[[HeaderSource], _Left]) -> _Left:
        """Has the connection leave HTTP; ``take`` does so with the fields of the answer."""
        if self._sent or self._closed or self._written:
            raise ResponseSentError(
                "this response was written to or is closed, its connection cannot become another protocol's any more: "
                "take it over before anything is written"
            )
        self._complete()
        pairs = [pair for pair in self._headers.pairs if pair[0] not in _OF_BODIES]
        pairs += [("set-cookie", cookie) for cookie in self._cookies.headers()]
        try:
            left = take(pairs)
        except HandshakeError as error:
            self._refuse(error)
            raise
        self._sent = self._closed = self._muted = True
        self._headers.seal()
        self._cookies.seal()
        self._outlet.part(left)
        return left

    def _refuse(self, error: HandshakeError) -> None:
        """Answers a request that cannot have what it was to get; whoever took it may have no more to do with it."""
        self._status = error.status
        self.content_type, self.content_length = "text/plain", -1
        for name, value in error.headers.items():
            self._headers.set(name, value)
        self.write(f"{error}\n")
        self.close()

    def _begin(self) -> None:
        """Sends the head, and what was written so far behind it."""
        data = b"".join(self._buffer)
        declared = self.content_length
        bodiless = self._is_bodiless()
        if not bodiless and 0 <= declared < self._written:
            self._mismatch(declared)
            return
        self._declared = declared
        self._compress(empty=bodiless)
        fields = self._seal()
        if bodiless:
            self._muted = True
            self._outlet.whole(NativeDirectResponse(self._status, fields, b""))
            return
        self._outlet.begin(self._status, fields)
        self._outlet.put(data if self._gzip is None else self._gzip.add(data))

    def _send_whole(self) -> None:
        """Sends all of a response that is closed before its head has gone."""
        data = b"".join(self._buffer)
        declared = self.content_length
        bodiless = self._is_bodiless()
        if not bodiless and declared not in {-1, len(data)}:
            self._mismatch(declared)
            return
        self._compress(empty=bodiless or not data)
        if self._gzip is not None:
            data = self._gzip.add(data) + self._gzip.finish()
        self._muted = bodiless
        if bodiless:
            if self._direct.method == "HEAD" and data and declared < 0:
                self._headers.set("content-length", len(data))
            data = b""
        elif len(data) > _AHEAD:
            # In pieces, so that `done` comes when the client has taken them.
            self._headers.set("content-length", len(data))
            self._outlet.begin(self._status, self._seal())
            self._outlet.put(data)
            self._outlet.end()
            return
        self._outlet.whole(NativeDirectResponse(self._status, self._seal(), data))

    def _end(self) -> None:
        if self._declared not in {-1, self._written}:
            self._mismatch(self._declared)
            return
        if self._gzip is not None:
            self._outlet.put(self._gzip.finish())
        self._outlet.end()

    def _mismatch(self, declared: int) -> None:
        self._outlet.refuse(
            ContentLengthError(
                f"content-length was set to {declared}, found {self._written} bytes written: write as many as were "
                "announced, or set content_length to -1"
            )
        )

    def _is_bodiless(self) -> bool:
        return self._status in _BODILESS or self._direct.method == "HEAD"

    def _compress(self, *, empty: bool) -> None:
        if self._auto_compress:
            accepted = self._direct.headers.get_all("accept-encoding")
            self._gzip = gzip_for(self._headers, accepted, empty=empty)

    def _seal(self) -> bytes:
        """Completes the head; nothing of it changes any more."""
        headers = self._headers
        self._complete()
        if not self.persistent_connection:
            headers.set("connection", "close")
        for cookie in self._cookies.headers():
            headers.add("set-cookie", cookie)
        fields = encode_fields(headers.pairs)
        headers.seal()
        self._cookies.seal()
        self._buffer.clear()
        self._sent = True
        return fields

    def _complete(self) -> None:
        """Adds what the server says with every answer."""
        if self._server_header is not None and "server" not in self._headers:
            self._headers.set("server", self._server_header)
        self._slot.seal(self._cookies, self._is_secure)

    def _is_secure(self) -> bool:
        # A client that lies here takes its cookie away from itself and nobody else.
        forwarded = self._direct.header("x-forwarded-proto", "") or ""
        return self._direct.scheme == "https" or forwarded.partition(",")[0].strip() == "https"

    async def _passed_on(self, chunk: bytes) -> bool:
        """Writes a piece of a stream and waits for room behind it; whether more is wanted."""
        self.add(chunk)
        if self._muted:
            return False
        if self._outlet.over:
            await self._outlet.completed()
        if self._outlet.waiting >= _AHEAD:
            await self._outlet.drained(_AHEAD)
        return True


def _codec(kind: str) -> str:
    """The charset a content type names, as Python knows it."""
    match = _CHARSET.search(kind)
    if match is None:
        base = kind.partition(";")[0].strip().lower()
        return "utf-8" if base == "application/json" or base.endswith("+json") else "iso-8859-1"
    name = match[1] or match[2] or ""
    try:
        # Refuses what Python knows and text cannot be written in, such as "hex".
        "".encode(name)
    except (LookupError, ValueError):
        raise ConfigurationError(
            f"the charset of the content-type must be one Python can encode, found {name!r}"
        ) from None
    return name
