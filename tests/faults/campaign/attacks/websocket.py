"""Floods over WebSocket, in raw frames."""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from tests.faults.campaign.model import Attack, Bars, Outcome, Target
from tests.faults.campaign.wires import STUCK, Held, connect, hold

#: Masked with zeros, which is allowed and costs us nothing.
MASK = bytes(4)
EMPTY_TEXT = b"\x01\x80" + MASK
EMPTY_CONTINUATION = b"\x00\x80" + MASK
PING = b"\x89\xfd" + MASK + b"x" * 125
PER_CONNECTION = 100_000
#: Connections that were sent everything and are not read to the end yet. Without a bound the attack would go on after
#: it was over, for as long as the kernel's buffers last.
BEHIND = 50


def upgraded(target: Target, path: str, *, receive_buffer: int | None = None) -> socket.socket:
    """A WebSocket connection; raises ``OSError`` when the server does not take it."""
    wire = connect(target.port, receive_buffer=receive_buffer)
    head = (
        f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
        "sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    try:
        wire.sendall(head.encode())
        answer = wire.recv(12)
        if answer != b"HTTP/1.1 101":
            raise ConnectionError(f"not upgraded: {answer!r}")
    except OSError:
        wire.close()
        raise
    return wire


def flood(first: bytes, piece: bytes) -> Callable[[Target], Outcome]:
    """Sends frames until the server has had enough; every other connection reads what comes."""

    def run(target: Target) -> Outcome:
        outcome = Outcome()
        behind: deque[socket.socket] = deque()
        while target.goes_on(outcome):
            if len(behind) == BEHIND:
                _finish(behind.popleft(), target)
            try:
                wire = upgraded(target, "/ws-receive")
            except OSError:
                outcome.refused += 1
                if outcome.refused > 1000:
                    break
                continue
            outcome.connections += 1
            reading = outcome.connections % 2 == 0
            wire.settimeout(STUCK)
            sent = 0
            try:
                wire.sendall(first)
                while sent < PER_CONNECTION and time.monotonic() < target.deadline:
                    wire.sendall(piece * 1000)
                    sent += 1000
                    if reading:
                        _drain(wire)
                wire.shutdown(socket.SHUT_WR)
                behind.append(wire)
            except TimeoutError:
                outcome.count("stuck")
                outcome.ended += 1
                wire.close()
            except OSError:
                outcome.ended += 1
                wire.close()
            outcome.sent += sent
            outcome.highest("longest", sent)
        for wire in behind:
            _finish(wire, target)
        return outcome

    return run


def _finish(wire: socket.socket, target: Target) -> None:
    """Waits until the server has read everything and ended the connection."""
    wire.settimeout(max(0.01, target.deadline - time.monotonic()))
    with suppress(OSError):
        while wire.recv(262144):
            pass
    wire.close()


def _drain(wire: socket.socket) -> None:
    wire.settimeout(0)
    try:
        while wire.recv(262144):
            pass
    except BlockingIOError:
        pass
    wire.settimeout(STUCK)


def mute_readers(target: Target) -> Outcome:
    """The handler sends and sends; nobody reads."""
    return hold(target, lambda _: upgraded(target, "/ws-send", receive_buffer=4096), reading=False)


def declared(target: Target) -> Outcome:
    """Frames that declare 16 MiB and bring a byte."""
    outcome = Outcome()
    size = (16 * 1024 * 1024 - 1).to_bytes(8, "big")
    while target.goes_on(outcome):
        kept = Held()
        for _ in range(target.size):
            try:
                wire = upgraded(target, "/ws-receive")
                wire.sendall(b"\x82\xff" + size + MASK + b"x")
                kept.add(wire)
            except OSError:
                outcome.refused += 1
        outcome.connections += len(kept)
        outcome.sent += len(kept)
        kept.wait(target.begun + target.seconds)
        outcome.ended += kept.ended
        kept.close()
    return outcome


ATTACKS = [
    Attack(
        name="ws_fragments",
        title="empty continuation frames without end",
        run=flood(EMPTY_TEXT, EMPTY_CONTINUATION),
        unit="frames",
        small=200_000,
        full=1_000_000,
        speaks="websocket",
        expected="flat memory",
        # One for each connection.
        bars=Bars(handlers=1_000_000),
    ),
    Attack(
        name="ws_pings",
        title="pings of 125 bytes, answers read and not read",
        run=flood(b"", PING),
        unit="frames",
        small=100_000,
        full=1_000_000,
        speaks="websocket",
        expected="flat memory",
        # One for each connection.
        bars=Bars(handlers=1_000_000),
    ),
    Attack(
        name="ws_empty_messages",
        title="empty messages",
        run=flood(b"", b"\x82\x80" + MASK),
        unit="frames",
        small=100_000,
        full=1_000_000,
        speaks="websocket",
        expected="flat memory",
        # One for each connection.
        bars=Bars(handlers=1_000_000),
    ),
    Attack(
        name="ws_mute_readers",
        title="readers that never read while the handler sends",
        run=mute_readers,
        unit="connections",
        small=50,
        full=1_000,
        speaks="websocket",
        limits={"write_stall_ms": 2_000},
        expected="ended by `write_stall_ms`; memory bounded",
        # 256 KiB of messages each (`ws_write_bytes`), and twice that for how they lie in memory.
        bars=Bars(memory=500, handlers=1_000_000, reaped=8.0),
    ),
    Attack(
        name="ws_declared",
        title="frames that declare 16 MiB and bring a byte",
        run=declared,
        unit="connections",
        small=50,
        full=500,
        speaks="websocket",
        expected="no memory for what has not come",
        bars=Bars(memory=128, handlers=1_000_000),
    ),
]
