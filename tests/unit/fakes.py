"""A runtime without native code: batches are put in by the test, commands are read by it."""

from __future__ import annotations

import asyncio
import os
import queue
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

from server_native._bindings.abi import FLAG_LENT, Command, Event, Status
from server_native._dispatch import Peer
from server_native._ffi import Batch, Runtime, pack_record, unpack_records
from server_native._outbox import Outbox
from server_native.binds import Place
from server_native.config import ServerConfig, TLSConfig

__all__ = ["FakeRuntime", "Listening", "Said", "batch", "event", "outbox", "peer", "soon"]


class Said(NamedTuple):
    """One command, with its payloads."""

    command: Command
    stream: int
    payload: bytes = b""
    body: bytes = b""
    flags: int = 0
    code: int = 0
    aux: int = 0


@dataclass
class FakeRuntime:
    """Stands in for ``_ffi.Runtime``: a script of batches, and a record of what was asked of it."""

    io_threads: int = 0
    batches: deque[tuple[int, bytes, bytes, bool]] = field(default_factory=deque)
    said: list[Said] = field(default_factory=list)
    #: What happened, in order: ("next", timeout), ("submit", number of commands), ("watch", descriptor), ...
    calls: list[tuple[str, Any]] = field(default_factory=list)
    #: Every submit, for tests that wait for one in another thread.
    submitted: queue.SimpleQueue[list[Said]] = field(default_factory=queue.SimpleQueue)
    watched: bool = False
    #: Batches that were taken and not given back.
    taken: list[Batch] = field(default_factory=list)
    #: What is lent, by token; a test gives it back with an event.
    lent: dict[int, bytes] = field(default_factory=dict)
    #: What each bind raises, in order; ``None``, and the end of them, lets it be.
    refusals: deque[Exception | None] = field(default_factory=deque)
    #: What a reload of certificates raises.
    unreadable: Exception | None = None
    places: list[Place] = field(default_factory=list)
    _signal: int = -1
    _armed: bool = False

    def add(self, *events: bytes, status: Status = Status.OK, watched: bool = False) -> None:
        """A batch of events made by :func:`event`."""
        self.batches.append((int(status), *batch(*events), watched))
        self._tell()

    def next(self, timeout: float | None) -> tuple[int, Batch | None]:
        self.calls.append(("next", timeout))
        script = self.batches.popleft() if self.batches else (int(Status.TIMEOUT), b"", b"", False)
        status, records, arena, self.watched = script
        # As in native code: a poll arms the signal, and what it has left is signalled at once.
        self._armed = timeout == 0.0
        self._tell()
        if not records:
            return status, None
        taken = cast("Batch", SimpleNamespace(records=records, arena=arena))
        self.taken.append(taken)
        return status, taken

    def done(self, batch: Batch) -> None:
        self.taken.remove(batch)

    def lend(self, data: bytes) -> bytes:
        token = len(self.lent) + 1
        self.lent[token] = data
        return token.to_bytes(24, "little")

    def lend_all(self, pieces: list[bytes]) -> bytes:
        assert all(pieces), "an empty piece is no loan"
        token = len(self.lent) + 1
        self.lent[token] = b"".join(pieces)
        return token.to_bytes(24 * len(pieces), "little")

    def returned(self, tokens: bytes) -> None:
        for start in range(0, len(tokens), 8):
            del self.lent[int.from_bytes(tokens[start : start + 8], "little")]

    def submit(self, records: bytes, count: int, arena: bytes, length: int) -> None:
        self.calls.append(("submit", count))
        assert len(arena) == length
        said = []
        for stream, parent, offset, size, kind, flags, code, aux in unpack_records(records):
            assert parent == 0
            end = offset + size
            assert end <= length
            command = Command(kind)
            payload = arena[offset:end]
            body = arena[end : end + aux] if command is Command.HEAD else b""
            one = Said(command, stream, payload, body, flags, code, aux)
            said.append(self._whole(one) if flags & FLAG_LENT else one)
        assert len(said) == count
        self.said += said
        self.submitted.put(said)

    def _whole(self, one: Said) -> Said:
        """What was lent is said as if it had been copied."""
        one = one._replace(flags=one.flags & ~FLAG_LENT)
        if one.command is Command.DATA:
            return one._replace(payload=self.lent[int.from_bytes(one.payload, "little")])
        body = self.lent[int.from_bytes(one.body, "little")]
        return one._replace(body=body, aux=len(body))

    def watch(self, descriptor: int) -> None:
        self.calls.append(("watch", descriptor))

    def signal(self, descriptor: int) -> None:
        self.calls.append(("signal", descriptor))
        self._signal = descriptor

    def _tell(self) -> None:
        if self._armed and self.batches and self._signal != -1:
            self._armed = False
            os.write(self._signal, (1).to_bytes(8, "little"))

    def tls(self, config: TLSConfig) -> int:
        self.calls.append(("tls", config))
        return 7

    def reload_tls(self, tls: int) -> None:
        self.calls.append(("reload_tls", tls))
        if self.unreadable is not None:
            raise self.unreadable

    def bind(self, place: Place, config: ServerConfig, tls: int) -> int:
        """Answers 1, 2, ...; the system's choice for the n-th of them is port 50000 + n."""
        self.calls.append(("bind", (place, tls)))
        self.places.append(place)
        refusal = self.refusals.popleft() if self.refusals else None
        if refusal is not None:
            raise refusal
        return len(self.places)

    def address(self, listener: int) -> tuple[str, int | None]:
        place = self.places[listener - 1]
        return (place.uds, None) if place.uds else (place.address, place.port or 50_000 + listener)

    def route(self, listener: int, path: str, status: int, fields: bytes, body: bytes) -> None:
        self.calls.append(("route", (listener, path, status, body)))

    def listen(self, listener: int) -> None:
        self.calls.append(("listen", listener))

    def close(self, listener: int) -> None:
        self.calls.append(("close", listener))

    def stop(self, grace: float) -> None:
        self.calls.append(("stop", grace))

    def free(self) -> None:
        self.calls.append(("free", None))

    def named(self, name: str) -> list[Any]:
        """Arguments of the calls of this name."""
        return [argument for called, argument in self.calls if called == name]


@dataclass
class Listening:
    """A stream that records what it hears."""

    heard: list[tuple[object, ...]] = field(default_factory=list)

    def on_data(self, data: bytes, flags: int) -> None:
        self.heard.append(("data", data, bool(flags & 1)))

    def on_end(self, trailers: bytes, code: int) -> None:
        self.heard.append(("end", trailers))

    def on_reset(self, reason: int) -> None:
        self.heard.append(("reset", reason))

    def on_writable(self, size: int) -> None:
        self.heard.append(("writable", size))

    def on_drain(self) -> None:
        self.heard.append(("drain",))

    def on_pong(self, data: bytes) -> None:
        self.heard.append(("pong", data))


def event(
    kind: Event,
    stream: int,
    payload: bytes = b"",
    *,
    parent: int = 0,
    flags: int = 0,
    code: int = 0,
    aux: int = 0,
) -> bytes:
    """An event for :meth:`FakeRuntime.add`: a record whose offset is set there, and its payload."""
    size = len(payload) - (aux if kind is Event.OPEN else 0)
    return pack_record(stream, parent, 0, size, kind, flags, code, aux) + payload


def batch(*events: bytes) -> tuple[bytes, bytes]:
    """Records and arena of these events."""
    records, arena = [], b""
    for item in events:
        ((stream, parent, _, size, kind, flags, code, aux),) = unpack_records(item[:32])
        records.append(pack_record(stream, parent, len(arena), size, kind, flags, code, aux))
        arena += item[32:]
    return b"".join(records), arena


def outbox() -> tuple[FakeRuntime, Outbox]:
    """An outbox and the runtime that hears what is said with it."""
    runtime = FakeRuntime()
    return runtime, Outbox(cast("Runtime", runtime))


def soon(run: Callable[[], None]) -> None:
    """Stands in for the pump's list of what is to be run: tests feed from inside tasks, where no other may be run."""
    asyncio.get_running_loop().call_soon(run)


class _Pump:
    notice = float("inf")


def peer(payload: bytes = b"192.0.2.1\x0050000\x00127.0.0.1\x008080\x00http") -> Peer:
    """A connection of no site."""
    return Peer(payload, cast("Any", None), cast("Any", _Pump()))
