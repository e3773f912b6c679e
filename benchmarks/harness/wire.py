"""What one asks a server of each variant, what it must answer, and one such exchange."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

# What a browser sends; wrk adds Host.
BROWSER_HEADERS = {
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/webp,*/*;q=0.8",
    "Accept-Language": "en-US,en;q=0.7,de;q=0.3",
    "Accept-Encoding": "gzip, deflate, br, zstd",
    "Referer": "http://localhost/products/overview?page=2&sort=price",
    "Cookie": "session=4f9c2d8e7b6a5f4e3d2c1b0a99887766; theme=dark; consent=1; _id=GA1.1.20261121",
    "Upgrade-Insecure-Requests": "1",
    "Sec-Fetch-Dest": "document",
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-Site": "same-origin",
}
READ_HEADERS = ("User-Agent", "Accept-Language", "Cookie")
LENGTHS = "".join(f"{len(BROWSER_HEADERS[name]):08d}" for name in READ_HEADERS).encode()
UPLOAD = 10 * 1024 * 1024
LARGE = 1024 * 1024
STREAMED = 100 * 10 * 1024

Tool = Literal["wrk", "h2load", "http1", "http3", "websocket"]


@dataclass(frozen=True)
class Wire:
    """The exchange of a variant, and the load generator for it (http1 and later: load/)."""

    tool: Tool
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    upload: int = 0  # bytes sent with a request; of a message, if the case names no other size
    secure: bool = False


WIRES: Mapping[str, Wire] = {
    "hello": Wire("wrk", b"hello"),
    "headers": Wire("wrk", LENGTHS, BROWSER_HEADERS),
    "h2c": Wire("h2load", b"hello"),
    "tls": Wire("wrk", b"hello", secure=True),
    "http3": Wire("http3", b"hello", secure=True),
    "websocket": Wire("websocket", b"", upload=64),
    "upload": Wire("http1", str(UPLOAD).encode(), upload=UPLOAD),
    "large": Wire("http1", b"x" * LARGE),
    "stream": Wire("http1", b"x" * STREAMED),
    "memory": Wire("wrk", b"hello"),
    "memory-tls": Wire("wrk", b"hello", secure=True),
    "memory-h2c": Wire("h2load", b"hello"),
}


class WireError(Exception):
    """The other side did not do what it must."""


@dataclass(frozen=True)
class Response:
    status: int
    head: str
    body: bytes
    wire_size: int = 0


def connect(wire: Wire, host: str, port: int) -> socket.socket:
    connection = socket.create_connection((host, port), timeout=5)
    if not wire.secure:
        return connection
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    secure = context.wrap_socket(connection, server_hostname="localhost")
    if secure.version() != "TLSv1.3":
        raise WireError(f"speaks {secure.version()}, not TLS 1.3")
    return secure


def ask(wire: Wire, connection: socket.socket, authority: str) -> Response:
    """One request as the load generator sends it, on an open connection that stays open."""
    if wire.tool == "h2load":
        return _ask_http2(connection, authority)
    return _ask_http1(wire, connection, authority)


class _Reader:
    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = bytearray()
        self.taken = 0

    def take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._more()
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        self.taken += size
        return taken

    def until(self, mark: bytes) -> bytes:
        """What comes before the mark, which is taken too."""
        while mark not in self._buffer:
            self._more()
        return self.take(self._buffer.index(mark) + len(mark))[: -len(mark)]

    def _more(self) -> None:
        data = self._connection.recv(256 * 1024)
        if not data:
            raise WireError(f"closed the connection after {bytes(self._buffer[:1000])!r}")
        self._buffer += data


def _ask_http1(wire: Wire, connection: socket.socket, authority: str) -> Response:
    headers = {"Host": authority, **wire.headers}
    if wire.upload:
        headers["Content-Length"] = str(wire.upload)
    lines = [f"{'POST' if wire.upload else 'GET'} / HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    connection.sendall("\r\n".join([*lines, "", ""]).encode() + b"x" * wire.upload)
    reader = _Reader(connection)
    head = reader.until(b"\r\n\r\n").decode("latin-1")
    pairs = (line.lower().split(":", 1) for line in head.split("\r\n")[1:])
    fields = {name: value.strip() for name, value in pairs}
    if fields.get("content-length", "").isdigit():
        body = reader.take(int(fields["content-length"]))
    elif fields.get("transfer-encoding") == "chunked":
        body = _chunked(reader)
    else:
        raise WireError(f"sends no content-length: {head!r}")
    if isinstance(connection, ssl.SSLSocket):
        head = f"{connection.version()} {(connection.cipher() or ('?',))[0]}\r\n{head}"
    return Response(int(head.partition("HTTP/1.1 ")[2][:3]), head, body, reader.taken)


def _chunked(reader: _Reader) -> bytes:
    pieces = []
    while size := int(reader.until(b"\r\n"), 16):
        pieces.append(reader.take(size))
        reader.take(2)
    reader.until(b"\r\n")
    return b"".join(pieces)


def _ask_http2(connection: socket.socket, authority: str) -> Response:
    """The first request of a connection; what h2 knew of it is forgotten."""
    from h2 import config, events
    from h2 import connection as http2

    state = http2.H2Connection(config.H2Configuration(header_encoding="utf-8"))
    state.initiate_connection()
    request = {":method": "GET", ":scheme": "http", ":authority": authority, ":path": "/"}
    state.send_headers(1, list(request.items()), end_stream=True)
    head, body = "", b""
    while True:
        if pending := state.data_to_send():
            connection.sendall(pending)
        data = connection.recv(65536)
        if not data:
            raise WireError("closed the connection")
        for event in state.receive_data(data):
            if isinstance(event, events.ResponseReceived):
                head = "\r\n".join(
                    f"{_text(name)}: {_text(value)}" for name, value in event.headers
                )
            elif isinstance(event, events.DataReceived):
                body += event.data
            elif isinstance(event, events.StreamEnded):
                if pending := state.data_to_send():
                    connection.sendall(pending)
                return Response(int(head.partition(":status: ")[2][:3]), head, body)


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")
