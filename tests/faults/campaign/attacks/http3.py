"""Attacks over UDP: QUIC handshakes and HTTP/3, with aioquic made to send what no client sends."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path

from aioquic import tls
from aioquic._buffer import Buffer
from aioquic.buffer import encode_uint_var
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import QuicProtocolVersion

from tests.faults.campaign.model import Attack, Bars, Outcome, Target
from tests.integration.h3_clients import H3, FrameType

#: Source ports of the Initial flood.
SOURCES = 200
#: An endless length.
ENDLESS = 2**60
#: A frame type that must be ignored (RFC 9114 section 7.2.8).
GREASE = 0x21
VERSION = QuicProtocolVersion.VERSION_1
#: Under a flood the kernel drops datagrams for want of room (RcvbufErrors in /proc/net/snmp), those in which a probe
#: says goodbye among them. Its connection then stays for `quic_idle_ms`, which is to be over before we look.
FORGETFUL = {"quic_idle_ms": 5_000}


# --- handshakes


def initial_packets() -> Callable[[], bytes]:
    """Makes Initial packets of 1,200 bytes, each with a connection id of its own, around one ClientHello."""
    configuration = QuicConfiguration(
        is_client=True, alpn_protocols=["h3"], server_name="localhost"
    )
    connection = QuicConnection(configuration=configuration)
    connection.connect(("127.0.0.1", 1), now=0.0)
    hello = bytes(connection._crypto_streams[tls.Epoch.INITIAL].sender._buffer)
    source = connection.host_cid

    def make() -> bytes:
        destination = os.urandom(8)
        frame = b"\x06" + encode_uint_var(0) + encode_uint_var(len(hello)) + hello
        buffer = Buffer(capacity=64)
        buffer.push_uint8(0xC1)  # Initial, a packet number of two bytes
        buffer.push_uint32(VERSION)
        for cid in (destination, source):
            buffer.push_uint8(len(cid))
            buffer.push_bytes(cid)
        buffer.push_uint_var(0)
        room = 1200 - buffer.tell() - 2 - 2 - 16
        buffer.push_uint16((2 + room + 16) | 0x4000)
        buffer.push_uint16(0)
        pair = CryptoPair()
        pair.setup_initial(cid=destination, is_client=True, version=VERSION)
        packet = pair.encrypt_packet(buffer.data, frame.ljust(room, b"\0"), 0)
        assert len(packet) == 1200
        return packet

    return make


def initials(target: Target) -> Outcome:
    """First packets of handshakes that go no further; counts the bytes that come back for those sent."""
    outcome = Outcome()
    make = initial_packets()
    sources = []
    for _ in range(SOURCES):
        source = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        source.connect(("127.0.0.1", target.port))
        source.setblocking(False)
        sources.append(source)
    out = [0] * SOURCES
    into = [0] * SOURCES

    def listen(number: int) -> None:
        with suppress(OSError):
            while True:
                out[number] += len(sources[number].recv(65536))

    while target.goes_on(outcome):
        number = outcome.sent % SOURCES
        with suppress(OSError):
            into[number] += sources[number].send(make())
        outcome.sent += 1
        listen(number)
    # What the server repeats counts as well.
    poll = select.poll()
    for source in sources:
        poll.register(source, select.POLLIN)
    until = time.monotonic() + 3
    while time.monotonic() < until:
        for descriptor, _ in poll.poll(200):
            listen(next(n for n, one in enumerate(sources) if one.fileno() == descriptor))
    for source in sources:
        source.close()
    outcome.figures["bytes_out_per_byte_in"] = round(sum(out) / max(1, sum(into)), 3)
    outcome.figures["worst_source"] = round(
        max(came / max(1, went) for came, went in zip(out, into, strict=True)), 3
    )
    return outcome


def garbage(target: Target) -> Outcome:
    """Datagrams that are no QUIC packets, or of versions nobody speaks."""
    outcome = Outcome()
    source = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    source.connect(("127.0.0.1", target.port))
    source.setblocking(False)
    came = went = 0
    while target.goes_on(outcome):
        kind = outcome.sent % 4
        body = os.urandom(1199)
        # A short header, a long one of a version unknown, an Initial nobody can decrypt, one too small.
        packet = [
            b"\x40" + body,
            b"\xc0\x1a\x2a\x3a\x4a\x08" + body[:8] + b"\x08" + body,
            b"\xc0\0\0\0\x01\x08" + body[:8] + b"\0\0\x44\x00" + body,
            b"\xc0\0\0\0\x01\x08" + body[:40],
        ][kind]
        with suppress(OSError):
            went += source.send(packet)
        outcome.sent += 1
        with suppress(OSError):
            while True:
                came += len(source.recv(65536))
    source.close()
    outcome.figures["bytes_out_per_byte_in"] = round(came / max(1, went), 3)
    return outcome


# --- HTTP/3


def rounds(attack: Callable[[Target, H3, Outcome], Awaitable[int]]) -> Callable[[Target], Outcome]:
    """Attacks one connection after another; ``attack`` answers how much it has sent."""

    async def assault(target: Target) -> Outcome:
        outcome = Outcome()
        while target.goes_on(outcome):
            try:
                async with H3.open(("127.0.0.1", target.port), trust=Path(target.trust)) as client:
                    outcome.connections += 1
                    outcome.sent += await attack(target, client, outcome)
                    if client.closed is not None:
                        outcome.ended += 1
                        outcome.count(f"closed_{client.closed.error_code:#x}")
            except (OSError, TimeoutError):
                outcome.refused += 1
                if outcome.refused > 100:
                    break
        return outcome

    return lambda target: asyncio.run(assault(target))


async def resets(target: Target, client: H3, _: Outcome) -> int:
    sent = 0
    begun: deque[int] = deque()

    def allowed() -> bool:
        return bool(begun) and not client.quic._streams[begun[0]].is_blocked

    while sent < 5_000 and client.closed is None and time.monotonic() < target.deadline:
        while len(begun) < 20:
            begun.append(client.begin("/wait"))
        # What the server allows no stream for waits in aioquic; its reset would not, and break the protocol.
        while allowed():
            client.reset(begun.popleft())
            sent += 1
        await asyncio.sleep(
            0
        )  # lets datagrams in; a MAX_STREAMS among them is no event to wait for
    return sent


async def one_byte_data(target: Target, client: H3, outcome: Outcome) -> int:
    """Bodies of one-byte DATA frames, of which one packet brings hundreds."""
    path = "/upload" if outcome.connections % 2 == 0 else "/wait"
    streams = [client.begin(path, method="POST", end=False) for _ in range(10)]
    sent = 0
    while sent < 50_000 and client.closed is None:
        for stream in streams:
            client.quic.send_stream_data(stream, b"\0\1x" * 350)
            client.transmit()
            sent += 350
        await asyncio.sleep(0)  # lets datagrams in
    return sent


async def _quiet(client: H3, seconds: float = 0.5) -> None:
    """Waits for the end of the connection, but not for long."""
    with suppress(OSError, TimeoutError, ConnectionError):
        await asyncio.wait_for(client.end(), seconds)


#: Static entry 85 of QPACK, "content-security-policy" with 54 bytes: 109 bytes of list for two of wire.
EXPANDING = b"\xff\x16"


async def bomb(target: Target, client: H3, outcome: Outcome) -> int:
    """What a decoder or a frame reader could be made to hold."""
    case = outcome.connections % 6
    endless = encode_uint_var(ENDLESS)
    filler = b"\xff\x16" * 8_000
    if case == 0:
        head = b"\0\0\xd1\xd7\x50\x01x\xc1"  # GET, https, :authority, /
        for _ in range(50):
            client.send_frame(
                client.next_stream(), FrameType.HEADERS, head + EXPANDING * 8_000, end=True
            )
    elif case == 1:
        for _ in range(50):
            stream = client.next_stream()
            client.quic.send_stream_data(stream, b"\x01" + endless + filler)
        client.transmit()
    elif case == 2:
        for _ in range(50):
            stream = client.next_stream()
            client.quic.send_stream_data(stream, encode_uint_var(GREASE) + endless + filler)
        client.transmit()
    elif case == 3:
        # Set Dynamic Table Capacity to 4,096, then insert for ever.
        insert = b"\x41a" + b"\x7f\x81\x03" + b"x" * 512
        encoder = client.begin_unidirectional(
            0x20, b""
        )  # ours is aioquic's already: one more is an error
        client.quic.send_stream_data(
            client.http._local_encoder_stream_id or encoder, b"\x3f\xe1\x1f" + insert * 1_000
        )
        client.transmit()
    elif case == 4:
        for _ in range(200):
            client.send_control(GREASE, b"x" * 1000)
    else:
        for kind in range(100):
            client.begin_unidirectional(0x21 + 0x1F * kind, b"x" * 1000)

    def refused() -> bool:
        return any(
            known.over or known.stopped is not None or bool(known.headers)
            for known in client._streams.values()
        )

    if case < 3:
        with suppress(OSError, TimeoutError):
            await client.wait(refused)
    else:
        await _quiet(client)
    # The first three are requests, each to be refused; the others are not answered one by one.
    outcome.count("refused" if refused() or client.closed else f"unanswered_{case}")
    return 1


async def control_flood(target: Target, client: H3, outcome: Outcome) -> int:
    """Frames on the control stream, and stream types nobody knows, as fast as they go."""
    sent = 0
    while sent < 5_000 and client.closed is None:
        for _ in range(50):
            if outcome.connections % 2:
                client.quic.send_stream_data(
                    client.http._local_control_stream_id or 2, encode_uint_var(GREASE) + b"\x04xxxx"
                )
            else:
                client.begin_unidirectional(0x21, b"x")
        client.transmit()
        sent += 50
        await asyncio.sleep(0)
    return sent


def held(
    begin: Callable[[H3], int | None],
    *,
    drip: Callable[[H3, int | None], None] | None = None,
    stalled: bool = False,
) -> Callable[[Target], Outcome]:
    """``size`` connections that do this, until the server has ended the stream or the connection of each."""

    async def one(target: Target, gate: asyncio.Semaphore, outcome: Outcome) -> None:
        async with AsyncExitStack() as stack:
            address = ("127.0.0.1", target.port)
            try:
                async with gate:
                    opened = H3.open(address, trust=Path(target.trust), window=64 * 1024)
                    client = await stack.enter_async_context(opened)
            except (OSError, TimeoutError):
                outcome.refused += 1
                return
            outcome.connections += 1
            outcome.sent += 1
            if stalled:
                client.stall()
            stream = begin(client)
            begun = time.monotonic()
            due = False
            while time.monotonic() < target.deadline:
                known = client.known(stream) if stream is not None else None
                # STOP_SENDING may be heard a moment before the reset or the answer, and nothing can be sent then.
                if client.closed or (
                    known
                    and (
                        known.over
                        or known.stopped is not None
                        or (known.headers and known.status >= 400)
                    )
                ):
                    outcome.ended += 1
                    if outcome.reaped is not None:
                        outcome.reaped = max(outcome.reaped, time.monotonic() - begun)
                    return
                if due and drip is not None:
                    drip(client, stream)
                client._changed.clear()
                try:
                    await asyncio.wait_for(client._changed.wait(), 0.5)
                    due = False
                except (TimeoutError, asyncio.TimeoutError):
                    due = True
            outcome.reaped = None
            outcome.count("left")

    async def assault(target: Target) -> Outcome:
        outcome = Outcome(reaped=0.0)
        gate = asyncio.Semaphore(10)
        while target.goes_on(outcome) and outcome.reaped is not None:
            before = outcome.connections
            await asyncio.gather(*(one(target, gate, outcome) for _ in range(target.size)))
            if outcome.connections == before:
                break
        return outcome

    return lambda target: asyncio.run(assault(target))


def _byte(client: H3, stream: int | None) -> None:
    assert stream is not None
    client.send(stream, b"x")


def _half_head(client: H3) -> int:
    stream = client.next_stream()
    client.quic.send_stream_data(stream, b"\x01\x40\x64\0\0")
    client.transmit()
    return stream


def _half_head_byte(client: H3, stream: int | None) -> None:
    assert stream is not None
    client.quic.send_stream_data(stream, b"\xd1")
    client.transmit()


def _ping(client: H3, _: int | None) -> None:
    client.quic.send_ping(1)
    client.transmit()


def _amplified(outcome: Outcome, before: Mapping[str, int], after: Mapping[str, int]) -> str | None:
    worst = outcome.figures.get("worst_source", outcome.figures["bytes_out_per_byte_in"])
    if worst > 3:
        return f"{worst} bytes out for each byte in"
    return None


def _retried(outcome: Outcome, before: Mapping[str, int], after: Mapping[str, int]) -> str | None:
    if after["limited_quic_handshakes"] <= before["limited_quic_handshakes"]:
        return "nobody was asked to prove an address (Retry)"
    return _amplified(outcome, before, after)


def _refused(outcome: Outcome, before: Mapping[str, int], after: Mapping[str, int]) -> str | None:
    taken = [
        name
        for name in ("unanswered_0", "unanswered_1", "unanswered_2")
        if outcome.figures.get(name)
    ]
    return f"bombs were neither refused nor reset: {taken}" if taken else None


def _limited(name: str) -> Callable[[Outcome, Mapping[str, int], Mapping[str, int]], str | None]:
    def check(outcome: Outcome, before: Mapping[str, int], after: Mapping[str, int]) -> str | None:
        return None if after[name] > before[name] else f"{name} was never counted"

    return check


ATTACKS = [
    Attack(
        name="quic_initials",
        title="QUIC Initials that go no further, 200 source ports, random connection ids",
        run=initials,
        unit="datagrams",
        small=5_000,
        full=100_000,
        speaks="http/3",
        secure=True,
        probe="h3",
        limits={"handshake_ms": 2_000, **FORGETFUL},
        expected="at most 3 bytes out for each in; Retry; ended by `handshake_ms`",
        bars=Bars(handlers=0, check=_retried),
    ),
    Attack(
        name="quic_garbage",
        title="datagrams that are no QUIC, or of an unknown version",
        run=garbage,
        unit="datagrams",
        small=20_000,
        full=200_000,
        speaks="http/3",
        secure=True,
        probe="h3",
        limits=FORGETFUL,
        expected="at most 3 bytes out for each in",
        bars=Bars(handlers=0, check=_amplified),
    ),
    Attack(
        name="h3_resets",
        title="HTTP/3 requests reset at once",
        run=rounds(resets),
        unit="requests",
        small=1_000,
        full=20_000,
        speaks="http/3",
        secure=True,
        probe="h3",
        expected="H3_EXCESSIVE_LOAD after `h3_resets` in a second",
        bars=Bars(handlers_per_unit=1.0, check=_limited("limited_h3_resets")),
    ),
    Attack(
        name="qpack_bomb",
        title="QPACK bomb, HEADERS and grease frames of 2^60 bytes, inserts without end",
        run=rounds(bomb),
        unit="connections",
        small=24,
        full=240,
        speaks="http/3",
        secure=True,
        probe="h3",
        expected="431, reset or close; flat memory",
        bars=Bars(handlers=0, check=_refused),
    ),
    Attack(
        name="h3_control_flood",
        title="frames on the control stream, streams of unknown types",
        run=rounds(control_flood),
        unit="frames",
        small=10_000,
        full=100_000,
        speaks="http/3",
        secure=True,
        probe="h3",
        expected="flat memory",
        bars=Bars(handlers=0),
    ),
    Attack(
        name="h3_one_byte_data",
        title="DATA of one byte over HTTP/3, read and unread by the handler",
        run=rounds(one_byte_data),
        unit="frames",
        small=100_000,
        full=2_000_000,
        speaks="http/3",
        secure=True,
        probe="h3",
        expected="flat memory",
        bars=Bars(memory=128, handlers=100_000),
    ),
    Attack(
        name="h3_slow_head",
        title="field sections of 2 bytes/s over HTTP/3",
        run=held(_half_head, drip=_half_head_byte),
        unit="connections",
        small=5,
        full=50,
        speaks="http/3",
        secure=True,
        probe="h3",
        limits={"head_ms": 1_000},
        expected="ended by `head_ms`",
        bars=Bars(handlers=0, reaped=4.0),
    ),
    Attack(
        name="h3_slow_body",
        title="request bodies of 2 bytes/s over HTTP/3",
        run=held(lambda client: client.begin("/upload", method="POST", end=False), drip=_byte),
        unit="connections",
        small=5,
        full=50,
        speaks="http/3",
        secure=True,
        probe="h3",
        limits={"body_grace_ms": 1_000},
        expected="408 by `body_rate`",
        bars=Bars(handlers=100_000, reaped=4.0),
    ),
    Attack(
        name="h3_slow_reader",
        title="endless responses to clients that give no MAX_STREAM_DATA",
        run=held(lambda client: client.begin("/stream"), stalled=True),
        unit="connections",
        small=5,
        full=50,
        speaks="http/3",
        secure=True,
        probe="h3",
        limits={"write_stall_ms": 1_000},
        expected="reset by `write_stall_ms`",
        bars=Bars(memory=128, handlers=100_000, reaped=5.0),
    ),
    Attack(
        name="h3_idle",
        title="connections that only ping",
        run=held(lambda client: None, drip=_ping),
        unit="connections",
        small=5,
        full=50,
        speaks="http/3",
        secure=True,
        probe="h3",
        limits={"idle_ms": 1_000},
        expected="ended by `idle_ms`",
        bars=Bars(handlers=0, reaped=4.0),
    ),
]

__all__ = ["ATTACKS"]
