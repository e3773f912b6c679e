"""HTTP/3 clients that are not ours: ``aioquic``, down to what no client may send, and curl on another QUIC stack.

:class:`H3` is one connection. Everything it has heard is in its attributes; :meth:`H3.wait` waits until they
say what a test wants. It sends what it is told and judges nothing: header names may be upper case, frames illegal.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import curl_cffi
import pytest
from aioquic._buffer import Buffer, BufferReadError
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.buffer import encode_uint_var
from aioquic.h3.connection import (
    ErrorCode,
    FrameType,
    H3Connection,
    H3Stream,
    Setting,
    StreamType,
    encode_frame,
)
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import (
    ConnectionTerminated,
    HandshakeCompleted,
    ProtocolNegotiated,
    QuicEvent,
    StopSendingReceived,
    StreamDataReceived,
    StreamReset,
)
from aioquic.tls import SessionTicket

__all__ = [
    "H3",
    "ErrorCode",
    "FrameType",
    "H3Answer",
    "Setting",
    "StreamType",
    "curl",
    "encode_frame",
    "needs_interim",
]

#: A test that waits longer has found a hang.
PATIENCE = 10.0

#: For tests of interim responses: the aioquic of 3.10 takes the first head for the last one.
needs_interim = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="the aioquic that exists for Python 3.10 knows no 1xx"
)

Field = tuple[str, str]


@dataclass
class H3Answer:
    """What has come on one request stream."""

    headers: list[Field] = field(default_factory=list)
    #: The body so far; `body` is a copy.
    received: bytearray = field(default_factory=bytearray)
    trailers: list[Field] = field(default_factory=list)
    #: Heads of 1xx responses before the real one.
    interim: list[list[Field]] = field(default_factory=list)
    ended: bool = False
    #: The server gave up sending, with this code.
    reset: int | None = None
    #: The server wants no more of the request, with this code.
    stopped: int | None = None

    @property
    def status(self) -> int:
        return int(dict(self.headers)[":status"])

    @property
    def body(self) -> bytes:
        return bytes(self.received)

    def header(self, name: str) -> str | None:
        return dict(self.headers).get(name)

    @property
    def over(self) -> bool:
        """Whether nothing more comes."""
        return self.ended or self.reset is not None


class _Connection(QuicConnection):
    """One that can keep its windows shut: no MAX_DATA and no MAX_STREAM_DATA while it is stalled."""

    stalled = False

    def _write_connection_limits(self, *arguments: Any, **options: Any) -> None:
        if not self.stalled:
            super()._write_connection_limits(*arguments, **options)

    def _write_stream_limits(self, *arguments: Any, **options: Any) -> None:
        if not self.stalled:
            super()._write_stream_limits(*arguments, **options)


class _Http(H3Connection):
    """HTTP/3 with settings of the test's choice beside aioquic's, and with HEAD."""

    def __init__(self, quic: QuicConnection, settings: dict[int, int]) -> None:
        self._extra = settings
        #: Streams whose answer has no body, whatever its content-length: aioquic takes that for an error.
        self.bodiless: set[int] = set()
        super().__init__(quic)

    def _check_content_length(self, stream: H3Stream) -> None:
        if stream.stream_id not in self.bodiless:
            super()._check_content_length(stream)

    def _get_local_settings(self) -> dict[int, int]:
        return {**super()._get_local_settings(), **self._extra}


class H3(QuicConnectionProtocol):
    """A connection; made by :meth:`open`."""

    def __init__(self, quic: _Connection, settings: dict[int, int]) -> None:
        super().__init__(quic)
        self.quic = quic
        self._settings = settings
        self._http: _Http | None = None
        self._streams: dict[int, H3Answer] = {}
        self._unidirectional: dict[int, bytearray] = {}
        self._changed = asyncio.Event()
        self._authority = ""
        self._vanished = False
        #: Identifiers of the GOAWAY frames, in their order (RFC 9114 section 5.2).
        self.goaways: list[int] = []
        #: How the connection ended, when it has.
        self.closed: ConnectionTerminated | None = None
        self.handshake: HandshakeCompleted | None = None

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        address: tuple[str, int],
        *,
        trust: Path,
        server_name: str = "localhost",
        window: int = 1024 * 1024,
        stream_window: int | None = None,
        settings: dict[int, int] | None = None,
        unidirectional: int | None = None,
        ticket: SessionTicket | None = None,
        tickets: Callable[[SessionTicket], None] | None = None,
    ) -> AsyncIterator[H3]:
        """Connects, and closes at the end of the block.

        ``trust`` is the file of the authority to believe, ``window`` the bytes of flow control that connection and
        streams begin with, ``stream_window`` a different one for streams. ``settings`` go into SETTINGS.
        ``unidirectional`` is how many streams of that kind the server may open. ``ticket`` is
        tried for resumption, new ones go to ``tickets``.
        Raises ``ConnectionError`` with the reason when there is no handshake.
        """
        configuration = QuicConfiguration(
            is_client=True,
            alpn_protocols=["h3"],
            server_name=server_name,
            max_data=window,
            max_stream_data=window if stream_window is None else stream_window,
            session_ticket=ticket,
        )
        configuration.load_verify_locations(str(trust))
        quic = _Connection(configuration=configuration, session_ticket_handler=tickets)
        if unidirectional is not None:
            quic._local_max_streams_uni.value = unidirectional
        client = cls(quic, settings or {})
        client._authority = f"{server_name}:{address[1]}"
        await client._bind(address[0])
        try:
            client.connect(address)
            try:
                await asyncio.wait_for(client.wait_connected(), PATIENCE)
            except ConnectionError:
                raise ConnectionError(str(client.closed)) from None
            yield client
        finally:
            client.close(error_code=ErrorCode.H3_NO_ERROR)
            # Not `wait_closed`, which sits out the draining time: nobody needs this port again.
            if client._timer is not None:
                client._timer.cancel()
            client._socket.close()

    # --- requests ---------------------------------------------------------------------------------------------------

    def begin(
        self,
        path: str = "/",
        *fields: Field,
        method: str = "GET",
        end: bool = True,
    ) -> int:
        """Sends a request head; answers the stream."""
        pseudo = [
            (":method", method),
            (":scheme", "https"),
            (":authority", self._authority),
            (":path", path),
        ]
        return self.begin_raw([*pseudo, *fields], end=end)

    def begin_raw(self, fields: list[Field], *, end: bool = True) -> int:
        """Sends exactly these fields as a request head, whatever they are."""
        stream = self.quic.get_next_available_stream_id()
        if (":method", "HEAD") in fields:
            self.http.bodiless.add(stream)
        self.http.send_headers(stream, _encoded(fields), end)
        self.transmit()
        return stream

    def send(self, stream: int, data: bytes, *, end: bool = False) -> None:
        """Sends body bytes; what the server's windows do not allow waits here, see :meth:`sent`."""
        self.http.send_data(stream, data, end)
        self.transmit()

    def send_trailers(self, stream: int, *fields: Field) -> None:
        self.http.send_headers(stream, _encoded(list(fields)), True)
        self.transmit()

    def send_frame(self, stream: int, kind: int, payload: bytes, *, end: bool = False) -> None:
        """Sends any frame on a stream that has begun, or begins a stream with it."""
        self.quic.send_stream_data(stream, encode_frame(kind, payload), end)
        self.transmit()

    def send_control(self, kind: int, payload: bytes) -> None:
        """Sends any frame on our control stream."""
        stream = self.http._local_control_stream_id
        assert stream is not None
        self.send_frame(stream, kind, payload)

    def begin_unidirectional(self, kind: int, data: bytes = b"", *, end: bool = False) -> int:
        """Begins a unidirectional stream of this type (RFC 9114 section 6.2)."""
        stream = self.quic.get_next_available_stream_id(is_unidirectional=True)
        self.quic.send_stream_data(stream, encode_uint_var(kind) + data, end)
        self.transmit()
        return stream

    def next_stream(self) -> int:
        """The number of the request stream to begin next, for :meth:`send_frame`."""
        return self.quic.get_next_available_stream_id()

    def reset(self, stream: int, code: int = ErrorCode.H3_REQUEST_CANCELLED) -> None:
        """Gives a request up in both directions."""
        self.quic.reset_stream(stream, code)
        self.quic.stop_stream(stream, code)
        self.transmit()

    async def request(
        self, path: str = "/", *fields: Field, method: str = "GET", body: bytes = b""
    ) -> H3Answer:
        """One request and its answer."""
        stream = self.begin(path, *fields, method=method, end=not body)
        if body:
            self.send(stream, body, end=True)
        return await self.answer(stream)

    async def answer(self, stream: int) -> H3Answer:
        """Waits for the end of a response, or its reset."""
        await self.wait(lambda: self.known(stream).over)
        return self.known(stream)

    async def head(self, stream: int) -> H3Answer:
        """Waits for the head of a response."""
        await self.wait(lambda: bool(self.known(stream).headers) or self.known(stream).over)
        return self.known(stream)

    def known(self, stream: int) -> H3Answer:
        """What has come of a response so far."""
        return self._streams.setdefault(stream, H3Answer())

    def sent(self, stream: int) -> int:
        """Bytes of a request, frames included, that the server's windows have let through."""
        return self.quic._streams[stream].sender.highest_offset

    # --- the connection ---------------------------------------------------------------------------------------------

    async def wait(self, condition: Callable[[], bool]) -> None:
        """Waits until something heard makes this true; raises ``ConnectionError`` when the connection ends before."""
        async with _deadline():
            while not condition():
                if self.closed is not None:
                    raise ConnectionError(str(self.closed))
                self._changed.clear()
                await self._changed.wait()

    async def end(self) -> ConnectionTerminated:
        """Waits for the end of the connection; answers how it was."""
        await self.wait(lambda: self.closed is not None)
        assert self.closed is not None
        return self.closed

    def stall(self) -> None:
        """Gives the server no more room to send: windows stay as they are now."""
        self.quic.stalled = True

    def resume(self) -> None:
        """Opens the windows again."""
        self.quic.stalled = False
        self.transmit()

    def vanish(self) -> None:
        """Says nothing from now on, not even goodbye, as a client that has lost its network."""
        self._vanished = True

    def transmit(self) -> None:
        """Sends what is due."""
        if not self._vanished:
            super().transmit()

    @property
    def port(self) -> int:
        """The UDP port that the server sees."""
        port = self._socket.get_extra_info("sockname")[1]
        assert isinstance(port, int)
        return port

    async def rebind(self, *, new_connection_id: bool = False) -> None:
        """Goes on from another UDP port, as behind a NAT; with a new connection id, as a client that migrates."""
        old, host = self._socket, self._socket.get_extra_info("sockname")[0]
        await self._bind(host)
        old.close()
        if new_connection_id:
            self.quic.change_connection_id()
        # Something that asks for an answer: the server learns the new address from it.
        self.quic.send_ping(0)
        self.transmit()

    @property
    def http(self) -> _Http:
        assert self._http is not None, "not connected"
        return self._http

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, ConnectionTerminated):
            self.closed = event
        elif isinstance(event, ProtocolNegotiated):
            # Not later: the server's SETTINGS may stand in the next event.
            self._http = _Http(self.quic, self._settings)
        elif isinstance(event, HandshakeCompleted):
            self.handshake = event
        elif isinstance(event, StreamReset):
            self.known(event.stream_id).reset = event.error_code
        elif isinstance(event, StopSendingReceived):
            self.known(event.stream_id).stopped = event.error_code
        elif isinstance(event, StreamDataReceived) and event.stream_id % 4 == 3:
            self._hear_unidirectional(event)
        if self._http is not None:
            for heard in self._http.handle_event(event):
                if isinstance(heard, (HeadersReceived, DataReceived)):
                    self._hear(heard)
        self._changed.set()

    def _hear(self, heard: HeadersReceived | DataReceived) -> None:
        answer = self.known(heard.stream_id)
        if isinstance(heard, DataReceived):
            answer.received += heard.data
        else:
            fields = [
                (name.decode("latin-1"), value.decode("latin-1")) for name, value in heard.headers
            ]
            if answer.headers:
                answer.trailers = fields
            elif dict(fields)[":status"].startswith("1"):
                answer.interim.append(fields)
            else:
                answer.headers = fields
        answer.ended = answer.ended or heard.stream_ended

    def _hear_unidirectional(self, event: StreamDataReceived) -> None:
        """Looks for GOAWAY, which aioquic reads over."""
        data = self._unidirectional.setdefault(event.stream_id, bytearray())
        data += event.data
        buffer = Buffer(data=bytes(data))
        goaways = []
        try:
            if buffer.pull_uint_var() != StreamType.CONTROL:
                return
            while not buffer.eof():
                kind = buffer.pull_uint_var()
                payload = buffer.pull_bytes(buffer.pull_uint_var())
                if kind == FrameType.GOAWAY:
                    goaways.append(Buffer(data=payload).pull_uint_var())
        except BufferReadError:
            pass  # The rest of the last frame is under way.
        self.goaways = goaways

    async def _bind(self, host: str) -> None:
        loop = asyncio.get_running_loop()
        local = ("::1" if ":" in host else "127.0.0.1", 0)
        self._socket, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=local)


def _encoded(fields: list[Field]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields]


@asynccontextmanager
async def _deadline() -> AsyncIterator[None]:
    """``asyncio.timeout``, which 3.10 does not have."""
    task = asyncio.current_task()
    assert task is not None
    late = False

    def cancel() -> None:
        nonlocal late
        late = True
        assert task is not None
        task.cancel()

    handle = asyncio.get_running_loop().call_later(PATIENCE, cancel)
    try:
        yield
    except asyncio.CancelledError:
        if late:
            raise TimeoutError("what was waited for never came") from None
        raise
    finally:
        handle.cancel()


def curl(
    url: str,
    *,
    trust: Path,
    method: Any = "GET",
    data: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    version: Any = "v3only",
) -> curl_cffi.Response:
    """One request by curl, over HTTP/3 and nothing else unless ``version`` says so; certificates are verified."""
    # Its annotations know only True and False for `verify`; a path is the authority, as for requests.
    options: dict[str, Any] = {"verify": str(trust), "trust_env": False, "timeout": PATIENCE}
    session: curl_cffi.Session[curl_cffi.Response]
    with curl_cffi.Session(**options) as session:
        return session.request(method, url, data=data, headers=headers, http_version=version)
