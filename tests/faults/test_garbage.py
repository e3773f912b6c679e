"""What a request of a direct handler leaves goes by itself, however it ended.

Python's collector stops everybody while it looks for cycles. With two thousand clients cut off together it took 140 ms
at a time, and their memory stayed until then.
"""

from __future__ import annotations

import select
import socket

import pytest

from tests.faults.harness import Victim, Wire, eventually
from tests.integration.frames import CLOSE, closing, encode, handshake

RAW = b"GET /raw HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: raw/1\r\n\r\n"
LIMITS = {"body_grace_ms": 100, "write_stall_ms": 200, "ws_ping_ms": 100}


def answered(wire: Wire) -> None:
    assert wire.get("/hello").body == b"hello"


def failed(wire: Wire) -> None:
    assert wire.get("/nothing").status == 404


def vanished_upload(wire: Wire) -> None:
    wire.request("/upload", method="POST", head="content-length: 100000\r\n", body=b"x")
    wire.reset()


def slow_upload(wire: Wire) -> None:
    wire.request("/upload", method="POST", head="transfer-encoding: chunked\r\n", body=b"1\r\nx")
    assert wire.answer().status == 408


def vanished_reader(wire: Wire) -> None:
    wire.request("/stream")
    wire.head()
    wire.reset()


def slow_reader(wire: Wire) -> None:
    wire.request("/stream")
    # Its end comes without its having read.
    eventually(lambda: ended(wire), bool, "was ended")


def ended(wire: Wire) -> bool:
    poll = select.poll()
    poll.register(wire.socket, select.POLLRDHUP)
    return bool(poll.poll(0))


def closed_websocket(wire: Wire) -> None:
    wire.send(handshake("/ws-receive"))
    wire.head()
    wire.send(encode(CLOSE, closing(1000)))
    wire.rest()


def vanished_websocket(wire: Wire) -> None:
    wire.send(handshake("/ws-receive"))
    wire.head()
    wire.reset()


def mute_websocket(wire: Wire) -> None:
    wire.send(handshake("/ws-send"))
    eventually(lambda: ended(wire), bool, "was ended")


def ended_bytes(wire: Wire) -> None:
    wire.send(RAW)
    wire.head()
    wire.socket.shutdown(socket.SHUT_WR)
    wire.rest()


def vanished_bytes(wire: Wire) -> None:
    wire.send(RAW)
    wire.head()
    wire.reset()


ENDS = (
    answered,
    failed,
    vanished_upload,
    slow_upload,
    vanished_reader,
    slow_reader,
    closed_websocket,
    vanished_websocket,
    mute_websocket,
    ended_bytes,
    vanished_bytes,
)


@pytest.mark.parametrize("mode", ["async", "loop", "sync", "threads"])
def test_nothing_of_a_request_waits_for_the_collector(mode: str) -> None:
    with Victim(mode, limits=LIMITS) as victim:
        victim.probe()
        victim.tell("keep-garbage")
        for end in ENDS:
            for _ in range(3):
                with Wire(victim.port) as wire:
                    end(wire)
            eventually(
                lambda: victim.ask("requests"),
                lambda count: count == 0,
                f"gone after {end.__name__}",
            )
