"""Plain handlers that wait keep nobody else waiting: idle peers, slow bodies, more of both than there are threads."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from tests.faults.harness import Answer, Victim, Wire, eventually
from tests.integration.frames import CLOSE, TEXT, closing, encode, handshake

#: A plain handler that needs nobody's thread, on its own and beside native ones, and one that always needs one.
ways = pytest.mark.parametrize(
    ("mode", "options"),
    [("sync", {"io_threads": 0}), ("sync", {"io_threads": 2}), ("threads", {"threads": 2})],
)
#: Threads of a pool nobody has sized.
POOL = 32
BODY = b"x" * 100_000


def parted(stack: ExitStack, victim: Victim, kind: str) -> Wire:
    """A connection that has left HTTP, and says nothing."""
    wire = stack.enter_context(Wire(victim.port))
    if kind == "WebSocket":
        wire.send(handshake("/ws-receive"))
    else:
        wire.send(b"GET /raw HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: raw/1\r\n\r\n")
    head = wire.head()
    assert head.startswith(b"HTTP/1.1 101 "), head
    return wire


def upload(wire: Wire) -> Answer:
    """A body too long to be collected, so that it is read on a thread."""
    wire.request("/upload", method="POST", head=f"content-length: {len(BODY)}\r\n", body=BODY)
    return wire.answer()


def slow_upload(stack: ExitStack, victim: Victim) -> Wire:
    wire = stack.enter_context(Wire(victim.port))
    wire.request("/upload", method="POST", head=f"content-length: {len(BODY)}\r\n", body=b"x")
    return wire


def threads(victim: Victim) -> int:
    count: int = victim.ask("threads")
    return count


@ways
@pytest.mark.parametrize("kind", ["WebSocket", "raw bytes"])
def test_a_hundred_idle_peers_keep_nobody_waiting(
    mode: str, options: dict[str, Any], kind: str
) -> None:
    with Victim(mode, **options, limits={"ws_ping_ms": 0}) as victim:
        with Wire(victim.port) as wire:
            assert upload(wire).body == b"100000"
        before = threads(victim)
        with ExitStack() as stack:
            wires = [parted(stack, victim, kind) for _ in range(100)]
            assert victim.stats()["websocket_threads"] == 100
            for _ in range(20):
                with Wire(victim.port) as wire:
                    assert upload(wire).body == b"100000"
                    assert wire.get("/hello").body == b"hello"
            # They are idle, not lost.
            for wire in wires:
                if kind == "WebSocket":
                    wire.send(encode(TEXT, b"here") + encode(CLOSE, closing(1000)))
                    assert wire.rest() == b"\x88\x02\x03\xe8"
                else:
                    wire.send(b"here")
                    wire.socket.shutdown(socket.SHUT_WR)
                    assert wire.rest() == b"here"
        victim.until_stats(lambda stats: stats["connections"] == 0, "without connections")
        victim.until_stats(lambda stats: stats["busy_threads"] == 0, "without work")
        # All but those of the pool have ended.
        pool = options.get("threads", POOL)
        eventually(lambda: threads(victim), lambda now: now <= before + pool, "rid of them")
        assert victim.stats()["limited_websocket_threads"] == 0
        victim.signal(signal.SIGTERM)
        victim.ends(0)


@ways
def test_idle_peers_do_not_keep_the_server_from_stopping(
    mode: str, options: dict[str, Any]
) -> None:
    with Victim(mode, **options) as victim, ExitStack() as stack:
        wires = [parted(stack, victim, "WebSocket") for _ in range(50)]
        raw = [parted(stack, victim, "raw bytes") for _ in range(50)]
        victim.signal(signal.SIGTERM)
        for wire in wires:
            assert wire.rest()[:4] == b"\x88\x18\x03\xf4", "1012"
        for wire in raw:
            assert wire.rest() == b""
        victim.ends(0)


@ways
def test_one_more_than_there_are_threads_for_is_503_and_the_next_gets_in(
    mode: str, options: dict[str, Any]
) -> None:
    with Victim(mode, **options, websocket_threads=5) as victim, ExitStack() as stack:
        first, *_ = [parted(stack, victim, "WebSocket") for _ in range(5)]
        for path in ("/ws-receive", "/raw"):
            with Wire(victim.port) as wire:
                wire.send(handshake(path))
                answer = wire.answer()
                assert answer.status == 503
                assert b"no thread is left for another connection" in answer.body
                assert wire.get("/hello").body == b"hello", "HTTP goes on"
        stats = victim.stats()
        assert (stats["websocket_threads"], stats["limited_websocket_threads"]) == (5, 2)
        first.send(encode(CLOSE, closing(1000)))
        victim.until_stats(lambda stats: stats["websocket_threads"] == 4, "rid of one")
        parted(stack, victim, "raw bytes")
        victim.signal(signal.SIGTERM)
        victim.ends(0)


def test_slow_bodies_make_others_wait_and_the_queue_has_an_end() -> None:
    limits = {"body_grace_ms": 60_000}
    with Victim("sync", limits=limits, max_waiting_requests=3) as victim, ExitStack() as stack:
        slow = [slow_upload(stack, victim) for _ in range(POOL)]
        victim.until_stats(lambda stats: stats["busy_threads"] == POOL, "busy")
        waiting = [slow_upload(stack, victim) for _ in range(3)]
        victim.until_stats(lambda stats: stats["waiting_requests"] == 3, "waited for")
        for _ in range(5):
            with Wire(victim.port) as wire:
                answer = upload(wire)
                assert answer.status == 503
                assert answer.body == b"Service Unavailable: too many requests wait for a thread\n"
        assert victim.stats()["limited_max_waiting_requests"] == 5
        victim.probe()
        # Those inside are served, and those who waited.
        for wire in [*slow, *waiting]:
            wire.send(BODY[1:])
        for wire in [*slow, *waiting]:
            assert wire.answer().body == b"100000"
        with Wire(victim.port) as wire:
            assert upload(wire).body == b"100000"
        victim.until_stats(lambda stats: stats["busy_threads"] == 0, "idle")
        assert victim.stats()["waiting_requests"] == 0
        victim.signal(signal.SIGTERM)
        victim.ends(0)


def test_a_client_that_goes_while_it_waits_for_a_thread_is_not_served() -> None:
    with Victim("threads", threads=2) as victim, ExitStack() as stack:
        busy = [stack.enter_context(Wire(victim.port)) for _ in range(2)]
        for wire in busy:
            wire.request("/finish")
        victim.expect("begin /finish", count=2)
        others = [stack.enter_context(Wire(victim.port)) for _ in range(10)]
        for wire in others:
            wire.request("/late")
        victim.until_stats(lambda stats: stats["waiting_requests"] == 10, "waited for")
        for wire in others:
            wire.reset()
        victim.until_stats(lambda stats: stats["connections"] == 2, "rid of them")
        victim.tell("release")
        for wire in busy:
            assert wire.answer().status == 200
        victim.until_stats(lambda stats: stats["waiting_requests"] == 0, "done")
        assert victim.said("begin /late") == []
        victim.signal(signal.SIGTERM)
        victim.ends(0)


# --- every wait of a thread has an end ---------------------------------------------------------------


def waits_for_a_body(wire: Wire) -> None:
    wire.request("/upload", method="POST", head=f"content-length: {len(BODY)}\r\n", body=b"x")


def waits_to_write(wire: Wire) -> None:
    wire.request("/stream")


def waits_for_a_message(wire: Wire) -> None:
    wire.send(handshake("/ws-receive"))


def waits_to_send_a_message(wire: Wire) -> None:
    wire.send(handshake("/ws-send"))


def waits_for_bytes(wire: Wire) -> None:
    wire.send(handshake("/raw"))


def waits_to_send_bytes(wire: Wire) -> None:
    wire.send(handshake("/raw-send"))


#: What a thread may wait for, and the limit that ends it when client and server are content to go on.
WAITS = [
    (waits_for_a_body, "body_rate"),
    (waits_to_write, "write_stall_ms"),
    (waits_for_a_message, "ws_ping_ms"),
    (waits_to_send_a_message, "write_stall_ms"),
    # Whether a protocol of somebody else's is silent or dead is its own business.
    (waits_for_bytes, None),
    (waits_to_send_bytes, "write_stall_ms"),
]
WAITING = 10


@pytest.mark.parametrize(
    ("wait", "limit", "end"),
    [
        (wait, limit, end)
        for wait, limit in WAITS
        for end in ("the client goes", "a limit", "a stop", "a stop at once")
        if limit is not None or end != "a limit"
    ],
)
def test_no_thread_waits_for_ever(
    wait: Callable[[Wire], None], limit: str | None, end: str
) -> None:
    short = {"body_grace_ms": 300, "write_stall_ms": 300, "ws_ping_ms": 300}
    long = {"body_grace_ms": 60_000, "write_stall_ms": 60_000, "ws_ping_ms": 60_000}
    limits = short if end == "a limit" else long
    grace = 0.0 if end == "a stop at once" else 0.5
    with (
        Victim("threads", threads=WAITING, limits=limits, grace=grace) as victim,
        ExitStack() as stack,
    ):
        wires = [
            stack.enter_context(Wire(victim.port, receive_buffer=4096)) for _ in range(WAITING)
        ]
        for wire in wires:
            wait(wire)
        if end == "a limit":
            victim.until_stats(lambda stats: stats[f"limited_{limit}"] >= WAITING, "ended by it")
        else:
            victim.until_stats(lambda stats: stats["busy_threads"] == WAITING, "waiting")
        if end == "the client goes":
            for wire in wires:
                wire.reset()
        if not end.startswith("a stop"):
            victim.until_stats(lambda stats: stats["busy_threads"] == 0, "free again")
            victim.probe()
        victim.signal(signal.SIGTERM)
        assert "still busy" not in victim.ends(0)
