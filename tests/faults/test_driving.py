"""Who drives the sockets: nothing native waits for Python, whatever Python does (issue 2, item 3)."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from tests.faults.harness import H2Wire, Victim, Wire, background, eventually

DRIVES = [
    ("sync", 0),
    ("sync", 1),
    ("sync", 2),
    ("async", 0),
    ("async", 1),
    ("async", 2),
    ("loop", None),
]

#: Far below the grace of the server that an idle one must not wait for.
PROMPT = 5.0


@pytest.mark.parametrize(("mode", "io_threads"), DRIVES)
def test_a_spinning_handler_holds_nothing_native_up(mode: str, io_threads: int | None) -> None:
    limits = {"head_ms": 100, "connections": 5}
    with (
        Victim(mode, io_threads=io_threads, limits=limits) as victim,
        Wire(victim.port) as spinner,
        Wire(victim.port) as route,
        H2Wire(victim.port) as h2c,
        Wire(victim.port) as half,
        Wire(victim.port) as filler,
    ):
        assert filler.get("/hello").status == 200
        assert half.get("/hello").status == 200
        assert route.get("/route").body == b"native"
        spinner.request("/spin")
        victim.expect("begin /spin")
        begun = time.monotonic()

        # From here on Python does nothing but spin until it is told to leave off.
        assert route.get("/route").body == b"native"
        h2c.ping(b"12345678")
        assert h2c.answer(h2c.request("/route"))[1] == b"native"
        with Wire(victim.port) as refused:
            assert refused.answer().status == 503
        half.send(b"GET /hello HTTP/1.1\r\nho")
        late = half.rest()
        assert not late or late.startswith(b"HTTP/1.1 408 "), late
        eventually(time.monotonic, lambda now: now - begun > 2.0, "two seconds later")
        assert route.get("/route").body == b"native"

        assert victim.said("spun") == []
        victim.tell("release")
        assert spinner.answer().body == b"spun"
        assert filler.get("/hello").body == b"hello"
        victim.signal(signal.SIGTERM)
        victim.ends(0)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_slow_handlers_back_to_back_hand_the_sockets_over_until_they_are_quick(mode: str) -> None:
    with Victim(mode, io_threads=0) as victim:
        turn = iter(range(1 << 30))

        def busy(over: threading.Event) -> None:
            with Wire(victim.port) as wire:
                while not over.is_set():
                    duration = 0.005 + 0.001 * (next(turn) % 15)
                    assert wire.get(f"/work?{duration}").body == b"worked"

        with background(busy, 8), Wire(victim.port) as route:
            victim.until_stats(lambda stats: stats["sticky"] == 1, "sticky under slow handlers")
            for _ in range(20):
                assert route.get("/route").body == b"native"
            victim.probe()

        with Wire(victim.port) as wire:

            def quick() -> dict[str, int]:
                for _ in range(50):
                    assert wire.get("/hello").body == b"hello"
                return victim.stats()

            eventually(quick, lambda stats: stats["sticky"] == 0, "driven again", victim.account)
        victim.signal(signal.SIGTERM)
        victim.ends(0)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_cpu_bound_thread_beside_the_server_hands_the_sockets_over(mode: str) -> None:
    with Victim(mode, io_threads=0) as victim:
        victim.tell("burn")
        with Wire(victim.port) as wire:

            def ask() -> dict[str, int]:
                for _ in range(10):
                    assert wire.get("/hello").body == b"hello"
                return victim.stats()

            eventually(ask, lambda stats: stats["sticky"] == 1, "sticky", victim.account)
            for _ in range(20):
                assert wire.get("/hello").body == b"hello"
            victim.tell("calm")
            eventually(ask, lambda stats: stats["sticky"] == 0, "driven again", victim.account)
        victim.signal(signal.SIGTERM)
        victim.ends(0)


@pytest.mark.parametrize("framing", ["length", "chunked", "small"])
@pytest.mark.parametrize(
    ("mode", "io_threads"),
    [*DRIVES, ("threads", 0), ("threads", 1), ("threads", 2), ("loop-sync", 1), ("uvloop", None)],
)
def test_a_slow_upload_stops_no_other_request(
    mode: str, io_threads: int | None, framing: str
) -> None:
    with Victim(mode, io_threads=io_threads) as victim, Wire(victim.port) as slow:
        size = 1000 if framing == "small" else 200_000
        if framing == "chunked":
            slow.request("/upload", method="POST", head="transfer-encoding: chunked\r\n")
            pieces = [b"%x\r\n%s\r\n" % (size // 4, b"x" * (size // 4))] * 4 + [b"0\r\n\r\n"]
        else:
            slow.request("/upload", method="POST", head=f"content-length: {size}\r\n")
            pieces = [b"x" * (size // 4)] * 4
        for piece in pieces:
            victim.probe()
            slow.send(piece)
        assert slow.answer().body == str(size).encode()
        victim.signal(signal.SIGTERM)
        victim.ends(0)


@pytest.mark.parametrize(("mode", "io_threads"), [*DRIVES, ("threads", 1), ("uvloop", None)])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_an_idle_server_at_once(
    mode: str, io_threads: int | None, number: signal.Signals
) -> None:
    with Victim(mode, io_threads=io_threads, grace=PROMPT * 10) as victim:
        victim.probe()
        victim.signal(number)
        victim.ends(0, within=PROMPT)
        assert victim.lines[-1] == "over"
