"""WebSocket floods: the connection ends or memory stays flat, others are served, and nothing is left."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from server_native import Limits
from tests.faults.harness import Victim, Wire, background, eventually
from tests.integration.frames import BINARY, CONTINUATION, PING, PONG, TEXT, encode, handshake

#: Figures that must come back to nothing.
TRANSIENT = ("connections", "streams", "queued_records", "queued_bytes")

#: Bytes by which an attacked server may grow.
FLAT = 24 * 1024 * 1024
#: Seconds after which an attacker sees that the server reads no more.
STUCK = 1.0

modes = pytest.mark.parametrize("mode", ["sync", "async"])


@contextmanager
def attacked(mode: str, flat: int = FLAT, **limits: int) -> Iterator[Victim]:
    """A server that serves others all the while; nothing is left when the attackers have gone."""
    with Victim(mode, limits=limits) as victim:
        for _ in range(3):
            victim.probe()
        before = victim.resident()
        peak = [before]

        def probe(_: object) -> None:
            victim.probe()
            peak[0] = max(peak[0], victim.resident())

        with background(probe) as probes:
            yield victim
            done = len(probes)
            eventually(lambda: len(probes), lambda now: now >= done + 2, "answered", victim.account)
        victim.until_stats(lambda stats: not any(stats[name] for name in TRANSIENT), "empty")
        assert peak[0] - before < flat, f"{peak[0] - before} bytes more"
        victim.signal(signal.SIGTERM)
        victim.ends(0)


def upgraded(victim: Victim, path: str, *, receive_buffer: int | None = None) -> Wire:
    """A WebSocket connection that reads nothing by itself."""
    wire = Wire(victim.port, receive_buffer=receive_buffer)
    try:
        wire.send(handshake(path))
        head = wire.head()
        assert head.startswith(b"HTTP/1.1 101 "), head
    except BaseException:
        wire.socket.close()
        raise
    wire.socket.settimeout(STUCK)
    return wire


def flood(wire: Wire, frames: bytes, times: int) -> bool:
    """Sends the same frames again and again; false when the server has had enough, or reads no more."""
    try:
        for _ in range(times):
            wire.send(frames)
    except (ConnectionError, TimeoutError):
        return False
    return True


def drained(wire: Wire) -> bool:
    """Reads what comes until nothing more does; whether the connection has ended."""
    with suppress(TimeoutError):
        wire.rest()
        return True
    return False


@modes
def test_random_bytes(mode: str) -> None:
    chance = random.Random(1)  # noqa: S311 - the same attack every time
    with attacked(mode) as victim:
        for _ in range(300):
            with upgraded(victim, "/ws-receive") as wire:
                with suppress(ConnectionError):
                    wire.send(chance.randbytes(chance.randrange(1, 2000)))
                if chance.random() < 0.5:
                    wire.reset()


@modes
def test_frames_with_random_bits_turned(mode: str) -> None:
    chance = random.Random(2)  # noqa: S311 - the same attack every time
    good = b"".join(
        [
            encode(TEXT, "Grüße".encode()),
            encode(BINARY, bytes(200), fin=False),
            encode(PING, b"p"),
            encode(CONTINUATION, bytes(70_000)),
            encode(PONG, b"p"),
        ]
    )
    with attacked(mode) as victim:
        for _ in range(200):
            bad = bytearray(good)
            for _ in range(chance.randrange(1, 4)):
                # Headers and the first payloads, mostly: the rest says nothing.
                bad[chance.randrange(260)] ^= 1 << chance.randrange(8)
            with upgraded(victim, "/ws-receive") as wire, suppress(ConnectionError):
                wire.send(bytes(bad))


@modes
def test_half_frames_and_resets(mode: str) -> None:
    frame = encode(BINARY, bytes(100_000))
    with attacked(mode) as victim:
        for number in range(300):
            with upgraded(victim, "/ws-receive") as wire:
                wire.send(frame[: 1 + number * 331 % len(frame)])
                wire.reset()


@modes
def test_declared_lengths_cost_nothing(mode: str) -> None:
    """200 connections that each announce 16 MiB, and bring a byte of it."""
    # Plain handlers have 32 threads: no more than that are accepted at a time.
    count = 200 if mode == "async" else 30
    with attacked(mode) as victim:
        wires = [upgraded(victim, "/ws-receive") for _ in range(count)]
        for wire in wires:
            wire.send(encode(BINARY, b"x", claims=16 * 1024 * 1024))
        victim.probe()
        for wire in wires:
            wire.socket.close()


@modes
def test_pings_whose_pongs_nobody_reads(mode: str) -> None:
    with attacked(mode) as victim, upgraded(victim, "/ws-receive", receive_buffer=4096) as wire:
        pings = encode(PING, b"x" * 125) * 1000
        assert not flood(wire, pings, 1000), "131 MB of pongs are somewhere"


@modes
def test_pings_whose_pongs_are_read(mode: str) -> None:
    with attacked(mode) as victim, upgraded(victim, "/ws-receive") as wire:
        for _ in range(100):
            wire.send(encode(PING, b"x" * 125) * 100)
            for _ in range(100):
                assert wire._exactly(127) == b"\x8a\x7d" + b"x" * 125


@modes
def test_unasked_pongs(mode: str) -> None:
    with attacked(mode) as victim, upgraded(victim, "/ws-receive") as wire:
        assert flood(wire, encode(PONG, b"x" * 125) * 1000, 500)


@modes
def test_a_million_empty_continuations(mode: str) -> None:
    with attacked(mode) as victim, upgraded(victim, "/ws-receive") as wire:
        wire.send(encode(TEXT, b"", fin=False))
        assert flood(wire, encode(CONTINUATION, b"", fin=False) * 10_000, 100)


@modes
def test_a_message_in_fragments_of_two_bytes(mode: str) -> None:
    """A million of them hold two megabytes, not a million objects."""
    with attacked(mode) as victim, upgraded(victim, "/ws-receive") as wire:
        wire.send(encode(BINARY, b"", fin=False))
        assert flood(wire, encode(CONTINUATION, b"xy", fin=False) * 10_000, 100)


@modes
def test_empty_messages_that_nobody_takes(mode: str) -> None:
    with attacked(mode) as victim:
        with upgraded(victim, "/ws-mute") as wire:
            assert not flood(wire, encode(TEXT) * 10_000, 500), "5 million messages are somewhere"
        victim.tell("release")


@modes
def test_close_frames_again_and_again(mode: str) -> None:
    with attacked(mode) as victim, upgraded(victim, "/ws-receive") as wire:
        flood(wire, encode(8, b"\x03\xe8") * 1000, 100)
        assert drained(wire)


@modes
def test_mute_readers(mode: str) -> None:
    """A handler sends to each as fast as it can, and none reads. A thousand of them stay below half a GiB."""
    count, window = 300, Limits().ws_write_bytes
    # What a connection may hold: its window, and again as much for how it lies in memory.
    flat = FLAT + count * 2 * window
    with attacked(mode, flat, write_stall_ms=3000) as victim:
        wires = [upgraded(victim, "/ws-send", receive_buffer=4096) for _ in range(count)]
        victim.until_stats(lambda stats: stats["limited_write_stall_ms"] >= count, "all ended")
        for wire in wires:
            wire.socket.close()


@modes
def test_handshakes_and_nothing_else(mode: str) -> None:
    with attacked(mode) as victim:
        for _ in range(500):
            with upgraded(victim, "/ws-receive"):
                pass


def test_descriptors_come_back() -> None:
    with Victim("async") as victim:
        victim.probe()
        before = victim.descriptors()
        for _ in range(100):
            with upgraded(victim, "/ws-receive") as wire:
                wire.send(os.urandom(50))
        victim.until_stats(lambda stats: stats["connections"] == 0, "empty")
        eventually(victim.descriptors, lambda now: now <= before, "closed", victim.account)
        victim.signal(signal.SIGTERM)
        victim.ends(0)
