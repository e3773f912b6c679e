"""HTTP/2 floods (rows D4-D7).

The connection ends or memory stays flat, handlers are few, and others are served.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from tests.faults.harness import H2Wire, Victim, background, eventually

#: Figures that must come back to nothing.
TRANSIENT = ("connections", "streams", "queued_records", "queued_bytes")

#: Bytes by which an attacked server may grow.
FLAT = 24 * 1024 * 1024
#: Seconds after which an attacker sees that the server reads no more.
STUCK = 1.0

modes = pytest.mark.parametrize("mode", ["sync", "async"])


@contextmanager
def attacked(mode: str) -> Iterator[tuple[Victim, H2Wire]]:
    """A server and its attacker; others are served all the while, and nothing is left when the attacker has gone."""
    with Victim(mode) as victim:
        for _ in range(3):
            victim.probe()
        before = victim.resident()
        peak = [before]

        def probe(_: object) -> None:
            victim.probe()
            peak[0] = max(peak[0], victim.resident())

        with H2Wire(victim.port, acknowledge=False) as wire:
            wire.wire.socket.settimeout(STUCK)
            with background(probe) as probes:
                yield victim, wire
                done = len(probes)
                # At least one whole probe after the attack, while the attacker's connection is still there.
                eventually(
                    lambda: len(probes), lambda now: now >= done + 2, "answered", victim.account
                )
        victim.until_stats(lambda stats: not any(stats[name] for name in TRANSIENT), "empty")
        assert peak[0] - before < FLAT, f"{peak[0] - before} bytes more"
        victim.signal(signal.SIGTERM)
        victim.ends(0)


def flood(wire: H2Wire, frames: Callable[[int], list[Frame]], count: int, batch: int = 50) -> bool:
    """Sends frames until all are sent (answers true) or the server has had enough."""
    try:
        for start in range(0, count, batch):
            wire.send(
                *(frame for number in range(start, start + batch) for frame in frames(number))
            )
    except (ConnectionError, TimeoutError):
        return False
    return True


def drain(wire: H2Wire) -> bool:
    """Reads what comes until nothing more does; whether the connection has ended."""
    with suppress(TimeoutError):
        wire.finish()
        return True
    return False


@modes
@pytest.mark.parametrize("path", ["/hello", "/until-told"])
def test_rapid_reset(mode: str, path: str) -> None:
    if mode == "sync":
        path = "/hello"
    with attacked(mode) as (victim, wire):
        block = wire.fields(path)
        plain = wire.fields(path)  # from here on all indexed

        def open_and_reset(number: int) -> list[Frame]:
            stream = wire.stream()
            head = HeadersFrame(stream, data=plain if number else block)
            head.flags |= {"END_HEADERS", "END_STREAM"}
            return [head, RstStreamFrame(stream, error_code=8)]

        before = victim.ask("started")
        flood(wire, open_and_reset, 2000)
        ended = drain(wire)
        started = victim.ask("started") - before
        assert ended or started <= 500, f"{started} handlers started and no GOAWAY"
        if ended:
            assert wire.goaway().error_code in (1, 11), wire.goaway()
        # 100 resets that wait (h2_pending_resets), 200 streams (h2_streams), and the probes.
        handlers = len(victim.said("begin")) if path == "/until-told" else started
        assert handlers <= 500, handlers


@modes
def test_a_server_made_to_reset_starts_few_handlers(mode: str) -> None:
    with attacked(mode) as (victim, wire):
        path = "/until-told" if mode == "async" else "/stream"
        blocks = [wire.fields(path), wire.fields(path)]

        def open_and_overflow(number: int) -> list[Frame]:
            stream = wire.stream()
            head = HeadersFrame(stream, data=blocks[min(number, 1)])
            head.flags |= {"END_HEADERS", "END_STREAM"}
            return [head, WindowUpdateFrame(stream, window_increment=2**31 - 1)]

        flood(wire, open_and_overflow, 5000)
        ended = drain(wire)
        begun = len(victim.said("begin"))
        assert begun <= 1500, f"{begun} handlers begun, connection ended: {ended}"


@modes
def test_continuation_flood(mode: str) -> None:
    with attacked(mode) as (_, wire):
        stream = wire.stream()
        head = HeadersFrame(stream, data=wire.fields("/hello"))
        head.flags.add("END_STREAM")
        wire.send(head)
        # Never-indexed literals of a kilobyte each; END_HEADERS never comes.
        field = b"\x10\x01a\x7f\x81\x07" + b"x" * 1024
        flood(wire, lambda _: [ContinuationFrame(stream, data=field)], 20_000)
        assert drain(wire)


@modes
def test_empty_continuation_flood(mode: str) -> None:
    with attacked(mode) as (_, wire):
        stream = wire.stream()
        head = HeadersFrame(stream, data=wire.fields("/hello"))
        wire.send(head)
        everything = flood(wire, lambda _: [ContinuationFrame(stream, data=b"")], 100_000, 1000)
        assert drain(wire) or everything


@modes
def test_ping_flood(mode: str) -> None:
    with attacked(mode) as (_, wire):
        flood(wire, lambda _: [PingFrame(0, opaque_data=b"12345678")], 100_000, 1000)
        drain(wire)


@modes
def test_settings_flood(mode: str) -> None:
    with attacked(mode) as (_, wire):
        flood(wire, lambda _: [SettingsFrame(0, settings={4: 65535})], 100_000, 1000)
        drain(wire)


@modes
def test_priority_flood(mode: str) -> None:
    with attacked(mode) as (_, wire):
        flood(wire, lambda number: [PriorityFrame(2 * number + 1)], 100_000, 1000)
        drain(wire)


@modes
def test_window_update_flood(mode: str) -> None:
    with attacked(mode) as (_, wire):
        flood(wire, lambda _: [WindowUpdateFrame(0, window_increment=1)], 100_000, 1000)
        drain(wire)


@modes
@pytest.mark.parametrize("padded", [False, True])
def test_empty_data_flood(mode: str, padded: bool) -> None:
    with attacked(mode) as (_, wire):
        stream = wire.request("/upload", method="POST", end=False)

        def nothing(_: int) -> list[Frame]:
            frame = DataFrame(stream, data=b"", pad_length=10 if padded else 0)
            if padded:
                frame.flags.add("PADDED")
            return [frame]

        flood(wire, nothing, 50_000, 500)
        drain(wire)


@modes
def test_one_byte_data_flood_that_nobody_reads_is_bounded(mode: str) -> None:
    with attacked(mode) as (_, wire):
        stream = wire.request(
            "/until-told" if mode == "async" else "/upload", method="POST", end=False
        )
        flood(wire, lambda _: [DataFrame(stream, data=b"x")], 50_000, 500)
        drain(wire)


@modes
@pytest.mark.parametrize("streams", [1, 150])
def test_hpack_bomb(mode: str, streams: int) -> None:
    with attacked(mode) as (victim, wire):
        wire.send(SettingsFrame(0, settings={4: 0}))  # a window of zero, so that nothing can leave
        # One field of 3 KiB into the dynamic table, then named thousands of times by one byte each.
        field = wire._encoder.encode([("a", "x" * 3000)])
        for number in range(streams):
            block = wire.fields("/bomb")
            index = bytes([0x80 | 62])
            bomb = (field + block if number == 0 else block) + index * 15_000
            head = HeadersFrame(wire.stream(), data=bomb)
            head.flags |= {"END_HEADERS", "END_STREAM"}
            try:
                wire.send(head)
            except (ConnectionError, TimeoutError):
                break
        drain(wire)
        assert {head[":status"] for head in wire.heads.values()} <= {"431"}
        assert victim.said("begin") == []


@modes
def test_zero_window_responses_are_bounded(mode: str) -> None:
    with Victim(mode) as victim:
        victim.probe()
        before = victim.resident()
        with H2Wire(victim.port, settings={4: 0}) as wire:
            for _ in range(100):
                wire.request("/stream")
            victim.expect("begin", count=100)
            for _ in range(10):
                victim.probe()
            # 100 streams with a window of 256 KiB each, once in the queue and once in flight.
            assert victim.resident() - before < 100 * 2 * 256 * 1024 + FLAT
        victim.expect("told", count=100)
        victim.until_stats(lambda stats: stats["streams"] == 0, "without streams")
        victim.signal(signal.SIGTERM)
        victim.ends(0)


@modes
def test_more_streams_than_allowed_are_refused_and_the_others_served(mode: str) -> None:
    with Victim(mode, limits={"h2_streams": 10}) as victim, H2Wire(victim.port) as wire:
        path = "/until-told" if mode == "async" else "/stream"
        streams = [wire.request(path) for _ in range(30)]
        refused: set[int] = set()
        while len(refused) < 20 and wire.step():
            refused = {
                frame.stream_id
                for frame in wire.frames
                if isinstance(frame, RstStreamFrame) and frame.error_code == 7
            }
        assert refused == set(streams[10:])
        assert len(victim.said("begin")) <= 10
        wire.send(*(RstStreamFrame(stream, error_code=8) for stream in streams[:10]))
        victim.until_stats(lambda stats: stats["streams"] == 0, "without streams")
        assert wire.answer(wire.request("/hello"))[1] == b"hello"
        victim.signal(signal.SIGTERM)
        victim.ends(0)
