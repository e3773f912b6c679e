"""What attacks over TCP share: connections that are held, and HTTP/2 without a state machine."""

from __future__ import annotations

import math
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

from tests.faults.campaign.model import Outcome, Target

#: Seconds after which an attacker sees that the server reads no more.
STUCK = 1.0
PATIENCE = 10.0

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    0,
    1,
    2,
    3,
    4,
    6,
    7,
    8,
    9,
)
END_STREAM = ACK = 1
END_HEADERS = 4


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One HTTP/2 frame (RFC 9113 section 4.1)."""
    return struct.pack("!IBI", len(payload) << 8 | kind, flags, stream) + payload


#: A ping that tells how far the server has read.
PROOF_ANSWERED = b"the end!"
PROOF = frame(PING, 0, 0, PROOF_ANSWERED)


def settings(**values: int) -> bytes:
    """A SETTINGS frame."""
    numbers = {"table": 1, "streams": 3, "window": 4}
    pairs = (struct.pack("!HI", numbers[name], value) for name, value in values.items())
    return frame(SETTINGS, 0, 0, b"".join(pairs))


def kinds(data: bytearray) -> list[int]:
    """Types of the whole frames in this."""
    found, at = [], 0
    while len(data) >= at + 9:
        size = int.from_bytes(data[at : at + 3], "big")
        if len(data) < at + 9 + size:
            break
        found.append(data[at + 3])
        at += 9 + size
    return found


def head(path: str, *more: tuple[str, str], method: str = "GET") -> bytes:
    """A request head in HPACK (RFC 7541), without a trace in the dynamic table: the same bytes every time."""
    fields = [(2, "", method), (6, "", "http"), (1, "", "x"), (4, "", path)]
    fields += [(0, name, value) for name, value in more]
    block = b""
    for index, name, value in fields:
        texts = (name, value) if not index else (value,)
        block += bytes([index]) + b"".join(bytes([len(text)]) + text.encode() for text in texts)
    return block


def connect(port: int, *, receive_buffer: int | None = None) -> socket.socket:
    """A connection to this machine; raises ``OSError`` when there is none to be had."""
    wire = socket.socket()
    if receive_buffer is not None:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    wire.settimeout(PATIENCE)
    wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        wire.connect(("127.0.0.1", port))
    except BaseException:
        wire.close()
        raise
    return wire


class Held:
    """Connections kept open until the server ends them."""

    def __init__(
        self, *, reading: bool = True, rid: Callable[[bytearray], bool] | None = None
    ) -> None:
        self._reading = reading
        # Whether what has come says that the server is rid of the attack, though the connection goes on.
        self._rid = rid
        self._heard: dict[int, bytearray] = {}
        self._poll = select.poll()
        self._open: dict[int, tuple[socket.socket, float]] = {}
        #: Those the server has ended, and the longest time one of them lasted.
        self.ended = 0
        self.longest = 0.0

    def __len__(self) -> int:
        return len(self._open)

    def add(self, wire: socket.socket) -> None:
        wire.setblocking(False)
        self._poll.register(wire, select.POLLRDHUP | (select.POLLIN if self._reading else 0))
        self._open[wire.fileno()] = (wire, time.monotonic())

    def wait(
        self, until: float, *, drip: Callable[[int], bytes] | None = None, every: float = 0.5
    ) -> None:
        """Returns when the server has ended all, or at ``until``. ``drip`` makes what is sent ``every`` so often."""
        due = time.monotonic() + every
        turn = 0
        while self._open:
            now = time.monotonic()
            if now >= until:
                return
            if drip is not None and now >= due:
                due, turn = now + every, turn + 1
                piece = drip(turn)
                for wire, _ in list(self._open.values()):
                    with suppress(BlockingIOError):
                        self._send(wire, piece)
            wake = min(until, due) if drip is not None else until
            for number, events in self._poll.poll(max(0, wake - time.monotonic()) * 1000 + 1):
                self._look(number, events)

    def _send(self, wire: socket.socket, piece: bytes) -> None:
        try:
            socket.socket.send(wire, piece)
        except BlockingIOError:
            raise
        except OSError:
            self._over(wire.fileno())

    def _look(self, number: int, events: int) -> None:
        if number not in self._open:
            return
        over = bool(events & (select.POLLHUP | select.POLLERR | select.POLLRDHUP))
        if not over and events & select.POLLIN:
            try:
                # Of a TLS socket too what is on the wire counts, not what it means.
                data = socket.socket.recv(self._open[number][0], 65536)
                over = not data
                if self._rid is not None:
                    heard = self._heard.setdefault(number, bytearray())
                    heard += data
                    over = over or self._rid(heard)
            except BlockingIOError:
                over = False
            except OSError:
                over = True
        if over:
            self._over(number)

    def _over(self, number: int) -> None:
        self._heard.pop(number, None)
        found = self._open.pop(number, None)
        if found is None:
            return
        wire, since = found
        self._poll.unregister(number)
        wire.close()
        self.ended += 1
        self.longest = max(self.longest, time.monotonic() - since)

    def close(self) -> None:
        """Ends what the server has not."""
        for wire, _ in self._open.values():
            wire.close()
        self._open.clear()


def hold(
    target: Target,
    make: Callable[[int], socket.socket],
    *,
    count: int | None = None,
    reading: bool = True,
    drip: Callable[[int], bytes] | None = None,
    every: float = 0.5,
    rid: Callable[[bytearray], bool] | None = None,
) -> Outcome:
    """Opens ``count`` connections (``size``, if not told), waits for the server to end them, again and again."""
    outcome = Outcome(reaped=0.0)
    while target.goes_on(outcome):
        held = Held(reading=reading, rid=rid)
        for number in range(count or target.size):
            try:
                held.add(make(number))
            except OSError:
                outcome.refused += 1
        opened = len(held)
        outcome.sent += opened if count is None else target.size
        outcome.connections += opened
        held.wait(target.deadline, drip=drip, every=every)
        outcome.ended += held.ended
        if held:
            outcome.reaped = None
            outcome.count("left", len(held))
            held.close()
            break
        assert outcome.reaped is not None
        outcome.reaped = max(outcome.reaped, held.longest)
        if not opened:
            break
    return outcome


class Http2:
    """A client of frames that may send anything, and goes on after GOAWAY."""

    def __init__(self, port: int, hello: bytes = b"", *, receive_buffer: int | None = None) -> None:
        self.wire = connect(port, receive_buffer=receive_buffer)
        self.wire.settimeout(STUCK)
        self._buffer = bytearray()
        self._next = 1
        #: Error code of GOAWAY, RST_STREAM frames and responses that came.
        self.goaway: int | None = None
        self.resets = 0
        self.responses = 0
        self.pongs = 0
        #: What the answered pings carried, since :meth:`through` looked.
        self.answered: set[bytes] = set()
        self.over = False
        #: The server has stopped reading.
        self.stuck = False
        #: When the attack is over.
        self.until = math.inf
        self.wire.sendall(PREFACE + (hello or settings()))

    def stream(self) -> int:
        """The next stream id."""
        self._next += 2
        return self._next - 2

    def send(self, data: bytes, *, reading: bool = True) -> bool:
        """Sends; false when the server has ended the connection or reads no more."""
        try:
            self.wire.sendall(data)
        except TimeoutError:
            self.stuck = True
        except OSError:
            self.over = True
        if reading:
            self.drain()
        return not (self.over or self.stuck or time.monotonic() >= self.until)

    def drain(self) -> None:
        """Reads what is there, without waiting."""
        self.wire.settimeout(0)
        while self.read():
            pass
        self.wire.settimeout(STUCK)

    def read(self) -> bool:
        """Reads once, waiting for it; false when nothing comes or the connection is over."""
        return not self.over and self._read()

    def through(self, data: bytes) -> bool:
        """Sends, and waits until the server has read all of it: a ping behind it is answered."""
        pongs = self.pongs
        if not self.send(data + PROOF, reading=False):
            return False
        while PROOF_ANSWERED not in self.answered:
            if not self.read():
                self.stuck = not self.over
                return False
        self.answered.clear()
        return self.pongs > pongs

    def finish(self) -> None:
        """Reads until the end, or until nothing comes any more."""
        while self.read():
            pass

    def _read(self) -> bool:
        try:
            data = self.wire.recv(262144)
        except (BlockingIOError, TimeoutError):
            return False
        except OSError:
            data = b""
        if not data:
            self.over = True
            return False
        self._buffer += data
        for kind, flags, payload in self._frames():
            if kind == GOAWAY:
                self.goaway = int.from_bytes(payload[4:8], "big")
            elif kind == RST_STREAM:
                self.resets += 1
            elif kind == HEADERS:
                self.responses += 1
            elif kind == PING and flags & ACK:
                self.pongs += 1
                self.answered.add(payload)
            elif kind == SETTINGS and not flags & ACK:
                with suppress(OSError):
                    self.wire.send(frame(SETTINGS, ACK, 0))
        return True

    def _frames(self) -> Iterator[tuple[int, int, bytes]]:
        at = 0
        while len(self._buffer) >= at + 9:
            size = int.from_bytes(self._buffer[at : at + 3], "big")
            if len(self._buffer) < at + 9 + size:
                break
            yield (
                self._buffer[at + 3],
                self._buffer[at + 4],
                bytes(self._buffer[at + 9 : at + 9 + size]),
            )
            at += 9 + size
        del self._buffer[:at]

    def close(self) -> None:
        self.wire.close()


def flood(
    target: Target,
    attack: Callable[[Http2, int], int],
    *,
    hello: bytes = b"",
    per_connection: int | None = None,
) -> Outcome:
    """Attacks one connection after another.

    ``attack(client, round)`` sends until the server has had enough or it has sent what it wants, and answers how much.
    """
    outcome = Outcome()
    number = 0
    while target.goes_on(outcome):
        try:
            client = Http2(target.port, hello)
        except OSError:
            outcome.refused += 1
            if outcome.refused > 1000:
                break
            continue
        outcome.connections += 1
        client.until = target.deadline
        sent = attack(client, number)
        outcome.sent += sent
        number += 1
        client.drain()
        if client.over or client.stuck or client.goaway is not None:
            outcome.ended += 1
            outcome.highest("longest_before_end", sent)
        if client.goaway:
            outcome.count(f"goaway_{client.goaway}")
        if client.stuck:
            outcome.count("stuck")
        outcome.count("resets_received", client.resets)
        outcome.count("responses", client.responses)
        client.close()
    return outcome
