"""Clients that see bytes: raw sockets with a strict reader of answers, and the ``h2`` library over a socket."""

from __future__ import annotations

import select
import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, NamedTuple, TypeAlias

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings

__all__ = ["H2", "Answer", "H2Answer", "Place", "Wire", "connect", "eventually"]

#: A test that waits longer has found a hang.
PATIENCE = 10.0


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Waits for something another thread or the native side does and nobody announces; fails after a while."""
    import time

    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, f"never happened: {what}"
        time.sleep(0.002)


class Answer(NamedTuple):
    """One HTTP/1 response, as it stood on the wire."""

    version: str
    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes
    trailers: list[tuple[str, str]]

    def header(self, name: str) -> str | None:
        """The one value of a header; a repeated one is an error here."""
        values = [value for known, value in self.headers if known.lower() == name]
        assert len(values) <= 1, f"{name} was sent {len(values)} times"
        return values[0] if values else None


#: Host and port, or the path of a Unix socket.
Place: TypeAlias = "tuple[str, int] | str"


def connect(
    place: Place, *, receive_buffer: int | None = None, source: str | None = None
) -> socket.socket:
    """A connected socket without Nagle's algorithm, where there is one."""
    host = place if isinstance(place, str) else place[0]
    inet = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(
        socket.AF_UNIX if isinstance(place, str) else inet,
        socket.SOCK_STREAM,
    )
    try:
        if receive_buffer is not None:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if source is not None:
            made.bind((source, 0))
        made.settimeout(PATIENCE)
        made.connect(place)
        if not isinstance(place, str):
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        made.close()
        raise
    return made


def secure(plain: socket.socket, tls: ssl.SSLContext, **options: Any) -> ssl.SSLSocket:
    """A handshake; from then on an end without close_notify is an error, as data may have been cut off."""
    try:
        return tls.wrap_socket(plain, suppress_ragged_eofs=False, **options)
    except BaseException:
        plain.close()
        raise


class Wire:
    """An HTTP/1 connection: sends what it is told, reads answers strictly. With ``tls`` it is a secure one."""

    def __init__(
        self,
        address: Place,
        *,
        receive_buffer: int | None = None,
        source: str | None = None,
        tls: ssl.SSLContext | None = None,
        server_name: str = "localhost",
        session: ssl.SSLSession | None = None,
    ) -> None:
        self.socket = connect(address, receive_buffer=receive_buffer, source=source)
        if tls is not None:
            self.socket = secure(self.socket, tls, server_hostname=server_name, session=session)
        self._buffer = bytearray()

    def __enter__(self) -> Wire:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.socket.close()

    @property
    def tls(self) -> ssl.SSLSocket:
        """The socket of a secure connection."""
        assert isinstance(self.socket, ssl.SSLSocket)
        return self.socket

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def request(self, path: str = "/", *lines: str, method: str = "GET", body: bytes = b"") -> None:
        """Sends a plain HTTP/1.1 request."""
        fields = [f"{method} {path} HTTP/1.1", "host: test", *lines]
        if body:
            fields.append(f"content-length: {len(body)}")
        self.send(("\r\n".join(fields) + "\r\n\r\n").encode("latin-1") + body)

    def get(self, path: str = "/", *lines: str) -> Answer:
        """One request and its answer."""
        self.request(path, *lines)
        return self.answer()

    def half_close(self) -> None:
        """Sends FIN: no more requests, answers are still wanted."""
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Closes with RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def read_until(self, mark: bytes) -> bytes:
        """Bytes up to and including ``mark``."""
        while (at := self._buffer.find(mark)) < 0:
            if not self._fill():
                raise EOFError(f"the connection ended before {mark!r}: {bytes(self._buffer)!r}")
        return self._take(at + len(mark))

    def read_exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            if not self._fill():
                raise EOFError(f"the connection ended after {len(self._buffer)} of {count} bytes")
        return self._take(count)

    def buffered(self) -> bytes:
        """What has come already behind what was read."""
        return self._take(len(self._buffer))

    def rest(self) -> bytes:
        """Everything up to the server's FIN; a reset raises."""
        while self._fill():
            pass
        return self._take(len(self._buffer))

    def ended_abruptly(self) -> bool:
        """Reads to the end; whether that was a reset."""
        try:
            while self._fill():
                pass
        except ConnectionResetError:
            return True
        return False

    @property
    def has_input(self) -> bool:
        """Whether anything has come that was not read, without waiting."""
        if self._buffer:
            return True
        self.socket.settimeout(0)
        try:
            return self._fill()
        except BlockingIOError:
            return False
        finally:
            self.socket.settimeout(PATIENCE)

    def head(self) -> tuple[str, int, str, list[tuple[str, str]]]:
        """A status line and its fields."""
        lines = self.read_until(b"\r\n\r\n").decode("latin-1")[:-4].split("\r\n")
        version, status, reason = lines[0].split(" ", 2)
        assert version in {"HTTP/1.1", "HTTP/1.0"}
        assert len(status) == 3
        return version, int(status), reason, [_field(line) for line in lines[1:]]

    def answer(self, method: str = "GET") -> Answer:
        """The next final response; framing is checked as RFC 9112 section 6.3 orders it."""
        version, status, reason, headers = self.head()
        first = Answer(version, status, reason, headers, b"", [])
        length, coding = first.header("content-length"), first.header("transfer-encoding")
        assert length is None or coding is None, headers
        if method == "HEAD" or status in {204, 304} or status < 200:
            return first
        if coding is not None:
            assert coding == "chunked", coding
            chunks = []
            while size := int(self.read_until(b"\r\n")[:-2], 16):
                chunks.append(self.read_exactly(size))
                assert self.read_exactly(2) == b"\r\n"
            trailers = []
            while line := self.read_until(b"\r\n")[:-2]:
                trailers.append(_field(line.decode("latin-1")))
            return first._replace(body=b"".join(chunks), trailers=trailers)
        if length is not None:
            return first._replace(body=self.read_exactly(int(length)))
        assert first.header("connection") == "close", f"no framing at all: {headers}"
        return first._replace(body=self.rest())

    def _fill(self) -> bool:
        data = self.socket.recv(256 * 1024)
        self._buffer += data
        return bool(data)

    def _take(self, count: int) -> bytes:
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data


def _field(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(": ")
    assert colon, line
    assert name, line
    return name, value


class H2Answer(NamedTuple):
    """What has come on one HTTP/2 stream."""

    headers: list[tuple[str, str]]
    body: bytes
    trailers: list[tuple[str, str]]
    #: DATA frames, empty ones included.
    frames: int
    ended: bool
    reset: int | None

    @property
    def status(self) -> int:
        return int(dict(self.headers)[":status"])

    def header(self, name: str) -> str | None:
        return dict(self.headers).get(name)


_NOTHING = H2Answer([], b"", [], 0, False, None)


class H2:
    """An HTTP/2 connection by the sans-io library ``h2``: with prior knowledge, or by ALPN with ``tls``."""

    def __init__(
        self,
        address: Place,
        *,
        acknowledge: bool = True,
        window: int | None = None,
        tls: ssl.SSLContext | None = None,
        server_name: str = "localhost",
    ) -> None:
        self.socket = connect(address)
        self._scheme = "http"
        if tls is not None:
            self._scheme = "https"
            self.socket = secure(self.socket, tls, server_hostname=server_name)
            assert self.socket.selected_alpn_protocol() == "h2"
        config = h2.config.H2Configuration(client_side=True, header_encoding="latin-1")
        self.state = h2.connection.H2Connection(config)
        if window is not None:
            self.state.local_settings = h2.settings.Settings(
                client=True,
                initial_values={
                    h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window,
                    h2.settings.SettingCodes.ENABLE_PUSH: 0,
                },
            )
        self.state.initiate_connection()
        self.flush()
        self._acknowledge = acknowledge
        self._streams: dict[int, H2Answer] = {}
        self.goaways: list[h2.events.ConnectionTerminated] = []
        self.pings = 0
        self.hints: list[list[tuple[str, str]]] = []
        self.eof = False
        self._unread = bytearray()

    def __enter__(self) -> H2:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.socket.close()

    def flush(self) -> None:
        if data := self.state.data_to_send():
            self.socket.sendall(data)

    def open(
        self,
        path: str = "/",
        *fields: tuple[str, str],
        method: str = "GET",
        authority: str = "test",
        end: bool = True,
    ) -> int:
        """Sends a request head; answers the stream."""
        stream = self.state.get_next_available_stream_id()
        pseudo = [
            (":method", method),
            (":scheme", self._scheme),
            (":authority", authority),
            (":path", path),
        ]
        self.state.send_headers(stream, [*pseudo, *fields], end_stream=end)
        self.flush()
        return stream

    def send(self, stream: int, data: bytes, *, end: bool = False) -> None:
        """Sends body bytes as the server's windows allow."""
        view = memoryview(data)
        while view:
            room = min(
                self.state.local_flow_control_window(stream), self.state.max_outbound_frame_size
            )
            if room <= 0:
                self.take()
                continue
            self.state.send_data(stream, bytes(view[:room]))
            view = view[room:]
            self.flush()
        if end:
            self.state.end_stream(stream)
            self.flush()

    def request(
        self, path: str = "/", *fields: tuple[str, str], method: str = "GET", body: bytes = b""
    ) -> H2Answer:
        """One request and its answer."""
        stream = self.open(path, *fields, method=method, end=not body)
        if body:
            self.send(stream, body, end=True)
        return self.answer(stream)

    def answer(self, stream: int) -> H2Answer:
        """Waits for the end of a stream."""
        self.wait(lambda: self.known(stream).ended or self.known(stream).reset is not None)
        return self.known(stream)

    def known(self, stream: int) -> H2Answer:
        """What has come of a stream so far."""
        return self._streams.get(stream, _NOTHING)

    def wait(self, condition: Callable[[], bool]) -> None:
        while not condition():
            assert self.take(), "the connection ended"

    def take(self) -> bool:
        """Reads once; false at the end of the connection."""
        data = self.socket.recv(256 * 1024)
        if not data:
            self.eof = True
            return False
        self._unread += data
        # Frame by frame: to this library a connection is over with the first GOAWAY, but streams
        # may finish (RFC 9113 section 6.8).
        while len(self._unread) >= 9:
            size = 9 + int.from_bytes(self._unread[:3], "big")
            if len(self._unread) < size:
                break
            frame = bytes(self._unread[:size])
            del self._unread[:size]
            for event in self.state.receive_data(frame):
                self._heed(event)
        self.flush()
        return True

    @property
    def has_input(self) -> bool:
        """Whether the server has sent something that was not read."""
        return bool(select.select([self.socket], [], [], 0)[0])

    def frames(self) -> Iterator[tuple[int, bytes]]:
        """Type and payload of every further frame up to the end; ``h2`` would give up at a surprise."""
        data = bytearray()
        while True:
            while len(data) >= 9 and len(data) >= (size := 9 + int.from_bytes(data[:3], "big")):
                yield data[3], bytes(data[9:size])
                del data[:size]
            try:
                received = self.socket.recv(256 * 1024)
            except ConnectionResetError:
                return
            if not received:
                return
            data += received

    def drain(self) -> None:
        """Reads up to the server's FIN."""
        while self.take():
            pass

    def _heed(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ConnectionTerminated):
            self.goaways.append(event)
            self.state.state_machine.state = h2.connection.ConnectionState.CLIENT_OPEN
        elif isinstance(event, h2.events.PingAckReceived):
            self.pings += 1
        elif isinstance(event, h2.events.InformationalResponseReceived):
            self.hints.append(_pairs(event.headers))
        stream = getattr(event, "stream_id", None)
        if not stream:
            return
        old = self.known(stream)
        if isinstance(event, h2.events.ResponseReceived):
            old = old._replace(headers=_pairs(event.headers))
        elif isinstance(event, h2.events.TrailersReceived):
            old = old._replace(trailers=_pairs(event.headers))
        elif isinstance(event, h2.events.DataReceived):
            old = old._replace(body=old.body + (event.data or b""), frames=old.frames + 1)
            if self._acknowledge and event.flow_controlled_length:
                self.state.acknowledge_received_data(event.flow_controlled_length, stream)
        elif isinstance(event, h2.events.StreamEnded):
            old = old._replace(ended=True)
        elif isinstance(event, h2.events.StreamReset):
            old = old._replace(reset=int(event.error_code or 0))
        self._streams[stream] = old


def _pairs(headers: object) -> list[tuple[str, str]]:
    assert isinstance(headers, list)
    return [(str(name), str(value)) for name, value in headers]
