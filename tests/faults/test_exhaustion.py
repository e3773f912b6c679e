"""Too little of something, or a client that wants too much of it.

The others are served meanwhile, and all of it comes back.
"""

from __future__ import annotations

import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

from tests.faults.harness import Victim, Wire, eventually

modes = pytest.mark.parametrize(("mode", "io_threads"), [("sync", 0), ("sync", 2), ("async", 0)])

#: Figures that must come back to nothing.
TRANSIENT = ("connections", "streams", "queued_records", "queued_bytes")

LIMITS = {
    "detection_ms": 300,
    "head_ms": 300,
    "idle_ms": 10_000,
    "body_grace_ms": 300,
    "write_stall_ms": 500,
}


@contextmanager
def unharmed(mode: str, io_threads: int, **limits: int) -> Iterator[Victim]:
    """A server that has everything back at the end that it had at the beginning."""
    with Victim(mode, io_threads=io_threads, limits=LIMITS | limits) as victim:
        for _ in range(3):
            victim.probe()
        victim.until_stats(lambda stats: stats["connections"] == 0, "without connections")
        # What is opened once and kept (a log's stream, the pool's first thread) is opened now.
        with Wire(victim.port) as wire:
            wire.request("/upload", method="POST", head="content-length: 100000\r\n")
            wire.send(b"x" * 100_000)
            assert wire.answer().body == b"100000"
        victim.until_stats(lambda stats: stats["connections"] == 0, "without connections")
        before = victim.descriptors()
        yield victim
        victim.probe()
        victim.until_stats(lambda stats: not any(stats[name] for name in TRANSIENT), "empty")
        eventually(victim.descriptors, lambda now: now <= before, f"back at {before} descriptors")
        victim.signal(signal.SIGTERM)
        victim.ends(0)


def wires(
    stack: ExitStack, victim: Victim, count: int, receive_buffer: int | None = None
) -> list[Wire]:
    return [
        stack.enter_context(Wire(victim.port, receive_buffer=receive_buffer)) for _ in range(count)
    ]


@pytest.mark.parametrize(
    ("mode", "io_threads"), [("sync", 0), ("sync", 1), ("sync", 2), ("async", 0)]
)
def test_out_of_descriptors_accepting_pauses_and_comes_back(mode: str, io_threads: int) -> None:
    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (48, 48))

    limits = {"detection_ms": 60_000}
    with Victim(mode, io_threads=io_threads, limits=limits, before=few) as victim:
        with Wire(victim.port) as old, ExitStack() as stack:
            assert old.get("/hello").body == b"hello"
            many = wires(stack, victim, 60)
            eventually(
                victim.errors,
                lambda text: "cannot accept a connection" in text,
                "complained",
                victim.account,
            )
            assert "Too many open files" in victim.errors()
            # Those who are in are served while nobody can come in.
            for _ in range(5):
                assert old.get("/hello").body == b"hello"
            for wire in many[:10]:
                assert wire.get("/hello").body == b"hello"
            accepted = victim.stats()["accepted"]
            assert accepted < 60
            for wire in many[:40]:
                wire.socket.close()
            # The rest was only waiting.
            for wire in many[40:]:
                assert wire.get("/hello").body == b"hello"
            # Pauses grow up to half a second: a complaint each time, not thousands.
            assert victim.errors().count("cannot accept a connection") < 50
        victim.probe()
        victim.until_stats(lambda stats: stats["connections"] == 0, "without connections")
        victim.signal(signal.SIGTERM)
        victim.ends(0)


@modes
@pytest.mark.parametrize("farewell", ["close", "reset"])
def test_two_thousand_connections_opened_and_abandoned(
    mode: str, io_threads: int, farewell: str
) -> None:
    with unharmed(mode, io_threads, detection_ms=60_000, head_ms=60_000) as victim:
        accepted = victim.stats()["accepted"]
        for round_ in range(10):
            with ExitStack() as stack:
                for number, wire in enumerate(wires(stack, victim, 200)):
                    with suppress(ConnectionError):
                        if number % 3 == 1:
                            wire.send(b"GET /hello HTTP/1.1\r\nho")
                        elif number % 3 == 2:
                            wire.request("/hello")
                    if farewell == "reset":
                        wire.reset()
                if round_ % 3 == 0:
                    victim.probe()
        victim.until_stats(lambda stats: stats["accepted"] - accepted >= 2000, "all accepted")


def slow_head(wire: Wire) -> None:
    wire.send(b"GET /hello HTTP/1.1\r\nhost: x\r\nslow: ")


def slow_head_of_the_second(wire: Wire) -> None:
    assert wire.get("/hello").status == 200
    wire.send(b"GET /hello HTTP/1.1\r\nhost: x\r\nslow: ")


def slow_body(wire: Wire) -> None:
    wire.request("/upload", method="POST", head="content-length: 1000000\r\n", body=b"x")


def slow_small_body(wire: Wire) -> None:
    wire.request("/upload", method="POST", head="content-length: 1000\r\n", body=b"x")


def slow_chunked_body(wire: Wire) -> None:
    wire.request("/upload", method="POST", head="transfer-encoding: chunked\r\n", body=b"5\r\nx")


def silent(wire: Wire) -> None:
    pass


def half_preface(wire: Wire) -> None:
    wire.send(b"PRI * HTTP/2.0\r\n\r\nSM")


def preface_alone(wire: Wire) -> None:
    wire.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")


def slow_reader(wire: Wire) -> None:
    wire.request("/stream")


SLOW: list[tuple[Callable[[Wire], None], bytes]] = [
    (slow_head, b"408"),
    (slow_head_of_the_second, b"408"),
    (slow_body, b"408"),
    (slow_small_body, b"408"),
    (slow_chunked_body, b"408"),
    (silent, b""),
    (half_preface, b""),
]


@modes
@pytest.mark.parametrize(("attack", "status"), SLOW)
def test_slow_clients_are_ended_and_hold_nobody_up(
    mode: str, io_threads: int, attack: Callable[[Wire], None], status: bytes
) -> None:
    with unharmed(mode, io_threads) as victim, ExitStack() as stack:
        overdue = victim.stats()["overdue"]
        slow = wires(stack, victim, 100)
        for wire in slow:
            attack(wire)
        victim.probe()
        ends = [wire.rest() for wire in slow]
        victim.probe()
        for end in ends:
            if status:
                assert end[:12] in (b"HTTP/1.1 " + status, b""), end
            else:
                assert end == b""
        assert victim.stats()["overdue"] - overdue >= 100


@modes
def test_slow_readers_are_reset_and_hold_nobody_up(mode: str, io_threads: int) -> None:
    with unharmed(mode, io_threads) as victim, ExitStack() as stack:
        for wire in wires(stack, victim, 40, 4096):
            wire.request("/stream")
        victim.expect("begin", count=40)
        for _ in range(5):
            victim.probe()
        # Nobody reads, and nobody closes: it is the server that ends it, and the generator hears of it.
        victim.until_stats(lambda stats: stats["connections"] <= 1, "rid of them")
        victim.expect("told", count=40)


@modes
def test_a_silent_http2_client_is_ended(mode: str, io_threads: int) -> None:
    with unharmed(mode, io_threads, idle_ms=500, h2_ping_ms=300) as victim, ExitStack() as stack:
        slow = wires(stack, victim, 50)
        for wire in slow:
            preface_alone(wire)
        victim.probe()
        for wire in slow:
            wire.rest()


@modes
def test_connections_over_the_limit_are_refused_and_let_in_when_there_is_room(
    mode: str, io_threads: int
) -> None:
    with unharmed(mode, io_threads, connections=20, detection_ms=60_000) as victim:
        with ExitStack() as stack:
            kept = wires(stack, victim, 20)
            for wire in kept:
                assert wire.get("/hello").status == 200
            for _ in range(50):
                with Wire(victim.port) as wire:
                    assert wire.answer().status == 503
            for wire in kept:
                assert wire.get("/hello").status == 200
            assert victim.stats()["refused"] == 50
        victim.until_stats(lambda stats: stats["connections"] == 0, "without connections")
