"""Slow, silent and greedy clients over TCP, HTTP/1.1 and TLS."""

from __future__ import annotations

import functools
import select
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from tests.faults.campaign.model import Attack, Bars, Outcome, Target
from tests.faults.campaign.wires import STUCK, Held, connect, hold

GET = b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\n"


def opening(
    data: bytes, *, receive_buffer: int | None = None
) -> Callable[[Target, int], socket.socket]:
    """Connects and sends this."""

    def make(target: Target, _: int) -> socket.socket:
        wire = connect(target.port, receive_buffer=receive_buffer)
        wire.sendall(data)
        return wire

    return make


def held(
    make: Callable[[Target, int], socket.socket],
    *,
    drip: Callable[[int], bytes] | None = None,
    reading: bool = True,
) -> Callable[[Target], Outcome]:
    def run(target: Target) -> Outcome:
        return hold(target, lambda number: make(target, number), drip=drip, reading=reading)

    return run


HEAD = b"GET /hello HTTP/1.1\r\nhost: x\r\nslow: "
POST = b"POST /upload HTTP/1.1\r\nhost: x\r\n"

slow_head = held(opening(HEAD), drip=lambda _: b"x")
slow_second_head = held(opening(GET + HEAD), drip=lambda _: b"x")
slow_body = held(opening(POST + b"content-length: 1000000\r\n\r\nx"), drip=lambda _: b"x")
slow_chunked_body = held(
    opening(POST + b"transfer-encoding: chunked\r\n\r\n"), drip=lambda _: b"1\r\nx\r\n"
)
slow_reader = held(
    opening(b"GET /stream HTTP/1.1\r\nhost: x\r\n\r\n", receive_buffer=2048), reading=False
)
silent = held(opening(b""))


def abandoned(target: Target) -> Outcome:
    """Connections opened in bulk and dropped: closed or reset, before, in the middle of or after a request."""
    outcome = Outcome()
    number = 0
    while target.goes_on(outcome):
        wires = []
        for _ in range(250):
            try:
                wires.append(connect(target.port))
            except OSError:
                outcome.refused += 1
        outcome.connections += len(wires)
        outcome.sent += len(wires)
        for wire in wires:
            number += 1
            try:
                wire.sendall((b"", GET[:20], GET)[number % 3])
            except OSError:
                outcome.ended += 1
            if number % 2:
                wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            wire.close()
    return outcome


def hungry(target: Target) -> Outcome:
    """More connections than the server has descriptors."""
    outcome = Outcome()
    kept = Held()
    for _ in range(target.size):
        try:
            kept.add(connect(target.port))
        except OSError:
            outcome.refused += 1
    outcome.sent = outcome.connections = len(kept)
    kept.wait(target.begun + target.seconds)
    outcome.ended = kept.ended
    kept.close()
    return outcome


def asking(requests: Callable[[int], tuple[str, list[bytes]]]) -> Callable[[Target], Outcome]:
    """Sends requests in pieces, one connection each, and counts the answers by what was asked."""

    def run(target: Target) -> Outcome:
        outcome = Outcome()
        while target.goes_on(outcome):
            name, pieces = requests(outcome.sent)
            outcome.sent += 1
            try:
                wire = connect(target.port)
            except OSError:
                outcome.refused += 1
                continue
            outcome.connections += 1
            outcome.count(f"{name}: {_answer(wire, pieces, outcome)}")
            wire.close()
        return outcome

    return run


def _answer(wire: socket.socket, pieces: list[bytes], outcome: Outcome) -> str:
    """The status, or how the connection ended."""
    wire.settimeout(STUCK)
    sent = 0
    try:
        for piece in pieces:
            wire.sendall(piece)
            sent += len(piece)
            # A server that has answered wants no more.
            wire.setblocking(False)
            try:
                if wire.recv(1, socket.MSG_PEEK) is not None:
                    break
            except BlockingIOError:
                pass
            wire.settimeout(STUCK)
    except TimeoutError:
        return "no answer, reads no more"
    except OSError:
        pass
    outcome.highest("most_taken", sent)
    wire.settimeout(2 * STUCK)
    data = b""
    try:
        while b"\r\n" not in data:
            more = wire.recv(4096)
            if not more:
                break
            data += more
    except TimeoutError:
        return "no answer"
    except OSError:
        return "reset"
    outcome.ended += 1
    return data[9:12].decode("latin-1") if data else "closed"


def too_much_head(number: int) -> tuple[str, list[bytes]]:
    line = b"GET /hello HTTP/1.1\r\nhost: x\r\n"
    cases: list[tuple[str, list[bytes]]] = [
        ("129 fields", [line + b"".join(b"a%d: b\r\n" % one for one in range(129)) + b"\r\n"]),
        (
            "10,000 fields",
            [line + b"".join(b"a%d: b\r\n" % one for one in range(10_000)) + b"\r\n"],
        ),
        ("field of 1 MiB", [line + b"a: ", *[b"x" * 65536] * 16, b"\r\n\r\n"]),
        ("target of 64 KiB", [b"GET /" + b"x" * 65536 + b" HTTP/1.1\r\nhost: x\r\n\r\n"]),
        ("10,000 cookies", [line + b"cookie: a=b\r\n" * 10_000 + b"\r\n"]),
        ("endless empty lines", [b"\r\n" * 32768] * 64),
    ]
    return cases[number % len(cases)]


def too_much_body(number: int) -> tuple[str, list[bytes]]:
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    cases: list[tuple[str, list[bytes]]] = [
        ("declared 10 GiB", [POST + b"content-length: 10737418240\r\n\r\n", *[b"x" * 65536] * 64]),
        (
            "declared 2^63-1",
            [POST + b"content-length: 9223372036854775807\r\n\r\n", *[b"x" * 65536] * 64],
        ),
        (
            "chunked 4 MiB",
            [POST + b"transfer-encoding: chunked\r\n\r\n", *[chunk] * 64, b"0\r\n\r\n"],
        ),
        (
            "expects 100, 10 GiB",
            [POST + b"expect: 100-continue\r\ncontent-length: 10737418240\r\n\r\n"],
        ),
    ]
    return cases[number % len(cases)]


def one_byte_chunks(target: Target) -> Outcome:
    """Chunks of one byte: to a handler that reads them, and to one that does not."""
    outcome = Outcome()
    piece = b"1\r\nx\r\n" * 10_000
    #: What of a piece has not gone: half a chunk would be a protocol error.
    rests: dict[socket.socket, bytes] = {}
    for number in range(50):
        path = b"/upload" if number % 5 == 0 else b"/wait"
        try:
            wire = connect(target.port)
            wire.sendall(
                b"POST " + path + b" HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
            )
        except OSError:
            outcome.refused += 1
            continue
        wire.setblocking(False)
        rests[wire] = b""
    outcome.connections = len(rests)
    while rests and target.goes_on(outcome):
        # Those whose handler reads no more are not ready.
        _, ready, _ = select.select([], list(rests), [], 0.2)
        for wire in ready:
            rest = rests[wire] or piece
            try:
                count = wire.send(rest)
            except OSError:
                outcome.ended += 1
                del rests[wire]
                wire.close()
                continue
            outcome.sent += count // 6
            rests[wire] = rest[count:]
        if not ready and time.monotonic() >= target.begun + target.seconds:
            break
    for wire in rests:
        # Behind what the server has not taken a FIN never comes: who goes without a reset cannot be missed.
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        wire.close()
    return outcome


def left_behind(target: Target) -> Outcome:
    """Uploads larger than any window, to a handler that does not read, whose clients are then gone."""
    outcome = Outcome()
    while target.goes_on(outcome):
        try:
            wire = connect(target.port)
            wire.sendall(b"POST /wait HTTP/1.1\r\nhost: x\r\ncontent-length: 100000000\r\n\r\n")
        except OSError:
            outcome.refused += 1
            continue
        wire.settimeout(0)
        with suppress(OSError):
            for _ in range(32):
                wire.send(b"x" * 65536)
        outcome.connections += 1
        outcome.sent += 1
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        wire.close()
    return outcome


def pipelining(path: bytes) -> Callable[[Target], Outcome]:
    """Requests without end on connections whose answers nobody reads."""

    def make(target: Target, _: int) -> socket.socket:
        wire = connect(target.port, receive_buffer=4096)
        wire.setblocking(False)
        data = (b"GET " + path + b" HTTP/1.1\r\nhost: x\r\n\r\n") * 4_000
        with suppress(BlockingIOError):
            for _ in range(10):
                wire.send(data)
        return wire

    return held(make, reading=False)


# --- TLS


def trusting(*protocols: str) -> ssl.SSLContext:
    """A client that believes everybody and offers these protocols."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(protocols)
    return context


@functools.cache
def client_hello() -> bytes:
    """A whole ClientHello with ALPN."""
    context = trusting("h2", "http/1.1")
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


def half_hello(target: Target, _: int) -> socket.socket:
    wire = connect(target.port)
    wire.sendall(client_hello()[:100])
    return wire


def secure_silence(protocol: str) -> Callable[[Target, int], socket.socket]:
    """A whole handshake and then nothing."""
    context = trusting(protocol)

    def make(target: Target, _: int) -> socket.socket:
        wire = connect(target.port)
        try:
            return context.wrap_socket(wire, server_hostname="localhost")
        except OSError:
            wire.close()
            raise

    return make


def handshakes(target: Target) -> Outcome:
    """Handshakes from a ClientHello made once: all the work is the server's."""
    outcome = Outcome()
    hello = client_hello()
    while target.goes_on(outcome):
        wires = []
        for _ in range(50):
            try:
                wire = connect(target.port)
                wire.sendall(hello)
                wires.append(wire)
            except OSError:
                outcome.refused += 1
        outcome.sent += len(wires)
        outcome.connections += len(wires)
        for wire in wires:
            try:
                wire.recv(1)
            except OSError:
                outcome.ended += 1
            wire.close()
    return outcome


def _all_answered(
    status: str,
) -> Callable[[Outcome, Mapping[str, int], Mapping[str, int]], str | None]:
    def check(outcome: Outcome, before: Mapping[str, int], after: Mapping[str, int]) -> str | None:
        wrong = [
            name for name in outcome.figures if ": " in name and name.split(": ")[1] not in status
        ]
        return f"answered otherwise than {status}: {wrong}" if wrong else None

    return check


ATTACKS = [
    Attack(
        name="silent_connect",
        title="connections that say nothing",
        run=silent,
        unit="connections",
        small=200,
        full=2_000,
        limits={"detection_ms": 1_000},
        expected="ended by `detection_ms`",
        bars=Bars(handlers=0, reaped=3.0),
    ),
    Attack(
        name="slow_head",
        title="request heads of 2 bytes/s",
        run=slow_head,
        unit="connections",
        small=200,
        full=2_000,
        limits={"head_ms": 1_000},
        expected="408 by `head_ms`",
        bars=Bars(handlers=0, reaped=4.0),
    ),
    Attack(
        name="slow_second_head",
        title="the same behind a whole request, in one packet with its beginning",
        run=slow_second_head,
        unit="connections",
        small=200,
        full=2_000,
        limits={"head_ms": 1_000},
        expected="408 by `head_ms`",
        bars=Bars(handlers=1_000_000, reaped=4.0),
    ),
    Attack(
        name="slow_body",
        title="request bodies of 2 bytes/s, declared",
        run=slow_body,
        unit="connections",
        small=200,
        full=2_000,
        limits={"body_grace_ms": 1_000},
        expected="408 by `body_rate`",
        bars=Bars(handlers=1_000_000, reaped=4.0),
    ),
    Attack(
        name="slow_chunked_body",
        title="request bodies of 2 bytes/s, chunked",
        run=slow_chunked_body,
        unit="connections",
        small=200,
        full=2_000,
        limits={"body_grace_ms": 1_000},
        expected="408 by `body_rate`",
        bars=Bars(handlers=1_000_000, reaped=4.0),
    ),
    Attack(
        name="slow_reader",
        title="endless responses nobody reads, tiny receive window",
        run=slow_reader,
        unit="connections",
        small=50,
        full=500,
        limits={"write_stall_ms": 1_000},
        expected="reset by `write_stall_ms`; `send_window` each",
        bars=Bars(memory=500, handlers=1_000_000, reaped=5.0),
    ),
    Attack(
        name="abandoned",
        title="connections opened and abandoned",
        run=abandoned,
        unit="connections",
        small=1_000,
        full=5_000,
        expected="all given back",
        bars=Bars(handlers=1_000_000),
    ),
    Attack(
        name="descriptors",
        title="more connections than descriptors (RLIMIT_NOFILE 100)",
        run=hungry,
        unit="connections",
        small=300,
        full=1_000,
        limits={"detection_ms": 60_000},
        descriptors=100,
        probe="kept",
        expected="those inside are served; recovers",
        bars=Bars(handlers=0),
    ),
    Attack(
        name="head_flood",
        title="129 and 10,000 fields, a field of 1 MiB, a target of 64 KiB, 10,000 cookies",
        run=asking(too_much_head),
        unit="requests",
        small=120,
        full=2_000,
        expected="431, 414 or 400",
        bars=Bars(handlers=0, check=_all_answered("431, 414, 400")),
    ),
    Attack(
        name="body_flood",
        title="bodies over the limit: declared, chunked, with Expect",
        run=asking(too_much_body),
        unit="requests",
        small=120,
        full=2_000,
        limits={"body_bytes": 1024 * 1024},
        expected="413",
        bars=Bars(handlers=1_000_000, check=_all_answered("413")),
    ),
    Attack(
        name="one_byte_chunks",
        title="chunks of one byte on 50 connections, read and unread by the handler",
        run=one_byte_chunks,
        unit="chunks",
        small=2_000_000,
        full=20_000_000,
        expected="flat memory",
        # 40 unread bodies of `receive_window`, at what their bytes should cost and not at what their chunks do.
        bars=Bars(memory=128),
    ),
    Attack(
        name="left_behind",
        title="uploads to a handler that does not read, reset in the middle",
        run=left_behind,
        unit="connections",
        small=200,
        full=2_000,
        expected="noticed; handler told; all given back",
        bars=Bars(memory=256, handlers=10_000_000),
    ),
    Attack(
        name="pipelining",
        title="pipelined requests whose answers nobody reads",
        run=pipelining(b"/hello"),
        unit="connections",
        small=5,
        full=50,
        limits={"write_stall_ms": 1_000},
        expected="flat memory",
        bars=Bars(memory=128, handlers=10_000_000),
    ),
    Attack(
        name="pipelined_route",
        title="the same for a constant route of 64 KiB",
        run=pipelining(b"/route"),
        unit="connections",
        small=5,
        full=50,
        limits={"write_stall_ms": 1_000},
        expected="reset by `write_stall_ms`",
        bars=Bars(memory=128, handlers=0, reaped=6.0),
    ),
    Attack(
        name="half_hello",
        title="half a ClientHello",
        run=held(half_hello),
        unit="connections",
        small=100,
        full=2_000,
        speaks="tls",
        secure=True,
        limits={"handshake_ms": 1_000},
        expected="ended by `handshake_ms`",
        bars=Bars(handlers=0, reaped=3.0),
    ),
    Attack(
        name="secure_silence",
        title="a TLS handshake (ALPN http/1.1), then silence",
        run=held(secure_silence("http/1.1")),
        unit="connections",
        small=50,
        full=500,
        speaks="tls",
        secure=True,
        limits={"detection_ms": 1_000},
        expected="ended by `detection_ms`",
        bars=Bars(handlers=0, reaped=4.0),
    ),
    Attack(
        name="secure_h2_silence",
        title="a TLS handshake (ALPN h2), then no preface",
        run=held(secure_silence("h2")),
        unit="connections",
        small=50,
        full=500,
        speaks="tls+http/2",
        secure=True,
        limits={"detection_ms": 1_000},
        expected="ended by `detection_ms`",
        bars=Bars(handlers=0, reaped=4.0),
    ),
    Attack(
        name="handshakes",
        title="TLS handshakes given up after the server's flight",
        run=handshakes,
        unit="handshakes",
        small=1_000,
        full=20_000,
        speaks="tls",
        secure=True,
        expected="served meanwhile",
        bars=Bars(handlers=0),
    ),
]
