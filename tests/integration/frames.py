"""A WebSocket client made of frames, which may do anything: right, wrong, half or not at all."""

from __future__ import annotations

import base64
import hashlib
from types import TracebackType
from typing import NamedTuple

from tests.integration.clients import Wire

__all__ = [
    "BINARY",
    "CLOSE",
    "CONTINUATION",
    "PING",
    "PONG",
    "TEXT",
    "Frame",
    "Frames",
    "closing",
    "encode",
    "parse",
]

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
KEY = "dGhlIHNhbXBsZSBub25jZQ=="


class Frame(NamedTuple):
    """One frame of the server's."""

    opcode: int
    payload: bytes
    fin: bool = True

    @property
    def closing(self) -> tuple[int, str]:
        """Code and reason of a close frame; 1005 for none."""
        assert self.opcode == CLOSE, self
        assert len(self.payload) != 1, self
        code = int.from_bytes(self.payload[:2], "big") if self.payload else 1005
        return code, self.payload[2:].decode()


def encode(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    mask: bytes | None = b"\x12\x34\x56\x78",
    reserved: int = 0,
    claims: int | None = None,
) -> bytes:
    """A frame; ``mask=None`` leaves the mask out, ``claims`` is the length it says it has."""
    size = len(payload) if claims is None else claims
    veil = 0 if mask is None else 0x80
    head = bytes([(0x80 if fin else 0) | reserved << 4 | opcode])
    if size < 126:
        head += bytes([veil | size])
    elif size < 65_536:
        head += bytes([veil | 126]) + size.to_bytes(2, "big")
    else:
        head += bytes([veil | 127]) + size.to_bytes(8, "big")
    if mask is None:
        return head + payload
    wide = mask * (len(payload) // 4 + 1)
    veiled = int.from_bytes(payload, "big") ^ int.from_bytes(wide[: len(payload)], "big")
    return head + mask + veiled.to_bytes(len(payload), "big")


def closing(code: int, reason: str = "") -> bytes:
    """What a close frame carries."""
    return code.to_bytes(2, "big") + reason.encode()


def parse(data: bytes) -> tuple[Frame, int] | None:
    """The first frame of these bytes, checked as a client must, and its size; ``None`` when more is needed."""
    if len(data) < 2:
        return None
    first, size, at = data[0], data[1], 2
    assert not first & 0x70, "a server without extensions sets no reserved bit"
    assert not size & 0x80, "a server does not mask"
    if size > 125:
        extra = 2 if size == 126 else 8
        at += extra
        if len(data) < at:
            return None
        least = 126 if size == 126 else 65_536
        size = int.from_bytes(data[2:at], "big")
        assert size >= least, "a length has one way to be written"
    if len(data) < at + size:
        return None
    frame = Frame(first & 0x0F, data[at : at + size], bool(first & 0x80))
    assert frame.opcode in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG)
    assert frame.opcode < CLOSE or (frame.fin and size <= 125), frame
    return frame, at + size


class Frames:
    """A WebSocket connection over HTTP/1.1; nothing is answered by itself."""

    def __init__(
        self,
        address: tuple[str, int],
        path: str = "/",
        *lines: str,
        receive_buffer: int | None = None,
        early: bytes = b"",
    ) -> None:
        self.wire = Wire(address, receive_buffer=receive_buffer)
        self.wire.send(handshake(path, *lines) + early)
        version, status, reason, self.headers = self.wire.head()
        assert (version, status, reason) == ("HTTP/1.1", 101, "Switching Protocols"), status
        fields = dict(self.headers)
        assert fields["upgrade"] == "websocket"
        assert fields["connection"] == "upgrade"
        told = hashlib.sha1(  # noqa: S324 - the standard says so
            (KEY + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()
        ).digest()
        assert fields["sec-websocket-accept"] == base64.b64encode(told).decode()
        assert "sec-websocket-extensions" not in fields

    def __enter__(self) -> Frames:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.wire.socket.close()

    def send(self, *frames: bytes) -> None:
        """Frames (of :func:`encode`), or any bytes, in one write."""
        self.wire.send(b"".join(frames))

    def text(self, text: str) -> None:
        self.send(encode(TEXT, text.encode()))

    def binary(self, data: bytes) -> None:
        self.send(encode(BINARY, data))

    def frame(self) -> Frame:
        """The next frame."""
        head = self.wire.read_exactly(2)
        extra = {126: 2, 127: 8}.get(head[1], 0)
        head += self.wire.read_exactly(extra)
        size = int.from_bytes(head[2:], "big") if extra else head[1]
        found = parse(head + self.wire.read_exactly(size))
        assert found is not None
        return found[0]

    def message(self) -> str | bytes:
        """The next message; control frames before or inside it are errors here."""
        first = last = self.frame()
        assert first.opcode in (TEXT, BINARY), first
        data = [first.payload]
        while not last.fin:
            last = self.frame()
            assert last.opcode == CONTINUATION, last
            data.append(last.payload)
        whole = b"".join(data)
        return whole.decode() if first.opcode == TEXT else whole

    def ended(self) -> tuple[int, str]:
        """Code and reason of the server's close, which must be the next frame and the last thing it says."""
        code = self.frame().closing
        self.send(encode(CLOSE, closing(code[0]) if code[0] != 1005 else b""))
        assert self.wire.rest() == b""
        return code


def handshake(path: str = "/", *lines: str, key: str = KEY, version: str = "13") -> bytes:
    """The request that asks for a WebSocket."""
    fields = [
        f"GET {path} HTTP/1.1",
        "host: test",
        "connection: keep-alive, Upgrade",
        "upgrade: WebSocket",
        f"sec-websocket-key: {key}",
        f"sec-websocket-version: {version}",
        *lines,
    ]
    return ("\r\n".join(fields) + "\r\n\r\n").encode("latin-1")
