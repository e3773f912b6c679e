"""The pump: takes batches of events, hands each to the site or stream it is for, sends what they answer.

One pump per runtime, run by one thread: that of a blocking server, or that of an event loop (``_loops``). It
knows streams, not what they mean; a *site* (one server's handler and options) does.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from ._ffi import Batch, Event, Reason, Runtime, Status, unpack_records
from ._outbox import Outbox

if TYPE_CHECKING:
    from .http import NativeDirectRequest

__all__ = ["Finishing", "Left", "Peer", "Pump", "Sink", "Site", "finish"]

log = logging.getLogger("server_native")

_ACCEPT, _OPEN, _DATA, _END = int(Event.ACCEPT), int(Event.OPEN), int(Event.DATA), int(Event.END)
_RESET, _WRITABLE, _CLOSED = int(Event.RESET), int(Event.WRITABLE), int(Event.CLOSED)
_LOG, _DRAIN, _PONG = int(Event.LOG), int(Event.DRAIN), int(Event.PONG)
_RETURNED = int(Event.RETURNED)
_GONE = int(Status.CLOSED)

#: Seconds handlers of one batch may take before what they answered is sent and the sockets are looked after.
_HOLD = 0.001
#: Batches taken in while an older one is still being handled; then the native queue holds the rest, and
#: back-pressure works.
_BACKLOG = 8
#: Seconds one source of response bytes may keep the pump.
_SLICE = 0.001
#: As NOTICE in native/src/runtime.rs: seconds between the notice to handlers and the deadline, at most.
_NOTICE = 1.0


class Sink(Protocol):
    """A stream that has more to hear than its OPEN."""

    def on_data(self, data: bytes, flags: int) -> None: ...
    def on_end(self, trailers: bytes, code: int) -> None: ...
    def on_reset(self, reason: int) -> None: ...
    def on_writable(self, size: int) -> None: ...
    def on_drain(self) -> None: ...
    def on_pong(self, data: bytes) -> None: ...


class Finishing(Protocol):
    """A stream that has left HTTP, for whoever ends it."""

    def _finish(self, code: int) -> None:
        """Ends our side, if it has not ended: 1000 when all is well, 1011 when the handler has failed."""


class Left(Finishing, Protocol):
    """A stream that has left HTTP: messages, or bytes as they are. Private, because users hold it."""

    def _on_data(self, data: bytes, flags: int) -> None: ...
    def _on_end(self, payload: bytes, code: int) -> None: ...
    def _on_reset(self, reason: int) -> None: ...
    def _on_writable(self, size: int) -> None: ...
    def _on_drain(self) -> None: ...
    def _on_pong(self, data: bytes) -> None: ...


class _Finished:
    """Stands for a stream that has left HTTP and is over, so that it and its request do not hold each other."""

    def _finish(self, code: int) -> None:
        """Our side has ended."""


def finish(request: NativeDirectRequest, code: int) -> None:
    """The handler is done with a stream that has left HTTP."""
    left, request._left = request._left, _FINISHED
    if left is not None:
        left._finish(code)


_FINISHED = _Finished()


class Site(Protocol):
    """One server: what is done with a request."""

    def opened(
        self,
        stream: int,
        peer: Peer,
        flags: int,
        arena: bytes,
        line: int,
        fields: int,
        body: int,
        end: int,
    ) -> None:
        """A request: line, fields and body lie in ``arena`` from the offsets given up to the next one."""

    def figures(self) -> dict[str, int]:
        """What there is to tell of how handlers run, for eyes and tests."""

    def inform(self, stream: int, status: int, fields: bytes) -> None:
        """Sends an interim response now, from any thread."""

    def accept_websocket(
        self, request: NativeDirectRequest, fields: bytes, subprotocol: str | None
    ) -> object:
        """Makes the request's stream one of messages."""

    def detach(self, request: NativeDirectRequest, status: int, fields: bytes) -> object:
        """Makes the request's stream one of bytes."""


class Peer:
    """One connection: who is at its other end, and which site it came to."""

    __slots__ = ("_parts", "_payload", "_pump", "site")

    def __init__(self, payload: bytes, site: Site, pump: Pump) -> None:
        self._payload = payload
        self._parts: list[str] | None = None
        self._pump = pump
        self.site = site

    def parts(self) -> list[str]:
        """Peer host and port, local host and port, scheme; with TLS more: see ``TLSInfo.parse``."""
        if self._parts is None:
            self._parts = self._payload.decode("latin-1").split("\0")
        return self._parts

    def is_late(self) -> bool:
        """Whether the server is about to reset what is in flight."""
        return monotonic() >= self._pump.notice


class Pump:
    """Moves events and commands of one runtime. All methods but :meth:`stop` belong to its thread."""

    def __init__(self, io_threads: int, on_first: Callable[[], object] | None = None) -> None:
        self.runtime = Runtime(io_threads)
        self.outbox = Outbox(self.runtime, on_first, self._relieve)
        #: Whether the sockets are driven by whoever takes events.
        self._drives = io_threads == 0
        self.sites: dict[int, Site] = {}
        self.streams: dict[int, Sink] = {}
        #: Sources that have more to send now and tasks whose event has come, run between batches.
        self.ready: deque[Callable[[], None]] = deque()
        self.closed = False
        self.watched = False
        #: When handlers are told of a stop. DRAIN says so too, but a handler in the pump's thread keeps it from
        #: coming.
        self.notice = math.inf
        self._peers: dict[int, Peer] = {}
        self._backlog: deque[Batch] = deque()
        self._due = 0.0

    def turn(self, timeout: float | None) -> None:
        """Sends what waits, takes a batch (waiting up to ``timeout`` seconds for it) and handles it."""
        if self.pending:
            timeout = 0.0
        self._poll(timeout)
        self._due = monotonic() + _HOLD
        while self._backlog:
            batch = self._backlog.popleft()
            try:
                self._handle(batch.records, batch.arena)
            finally:
                self.runtime.done(batch)
        for _ in range(len(self.ready)):
            self.ready.popleft()()

    @property
    def pending(self) -> bool:
        """Whether there is something to do without an event."""
        return bool(self.ready or self._backlog)

    def rest(self) -> None:
        """Between two handlers: when the last ones took long, sends their answers and looks after the sockets."""
        if monotonic() >= self._due:
            if len(self._backlog) < _BACKLOG:
                self._poll(0.0)
            else:
                self.outbox.flush()
            self._due = monotonic() + _HOLD

    def _relieve(self) -> None:
        """Many commands have come together: as :meth:`rest`, for handlers that run between two turns.

        Clients would wait for the last of them, and then the server for its clients.
        """
        if monotonic() >= self._due:
            # While the server stops the last events are the turn's: it tells who waits for the end.
            if self._drives and self.notice == math.inf and len(self._backlog) < _BACKLOG:
                self._poll(0.0)
            else:
                self.outbox.flush()
            self._due = monotonic() + _HOLD

    def stop(self, grace: float) -> None:
        """Begins a graceful stop or hastens one; from any thread."""
        self.notice = min(self.notice, monotonic() + grace - min(_NOTICE, grace / 4))
        self.runtime.stop(grace)

    def abandon(self) -> None:
        """Tells every stream left that the server is over."""
        self.closed = True
        streams, self.streams = self.streams, {}
        for sink in list(streams.values()):
            sink.on_reset(Reason.STOPPING)

    def free(self) -> None:
        """Frees the runtime; every stream left hears of it."""
        self.abandon()
        self.runtime.free()

    def _poll(self, timeout: float | None) -> None:
        runtime = self.runtime
        self.outbox.flush()
        status, batch = runtime.next(timeout)
        if status == _GONE:
            self.closed = True
        self.watched |= runtime.watched
        if batch is not None:
            self._backlog.append(batch)

    def _handle(self, records: bytes | memoryview, arena: bytes | memoryview) -> None:
        peers, streams = self._peers, self.streams
        for stream, parent, offset, length, kind, flags, code, aux in unpack_records(records):
            if kind == _OPEN:
                peer = peers[parent]
                whole, begin, end = arena, offset, offset + length
                if type(whole) is not bytes:
                    whole, begin, end = bytes(whole[offset : end + aux]), 0, length
                peer.site.opened(stream, peer, flags, whole, begin, begin + code, end, end + aux)
            else:
                payload = arena[offset : offset + length]
                if type(payload) is not bytes:
                    payload = bytes(payload)
                if kind == _DATA:
                    # A stream that has answered already may have events on their way: they concern nobody.
                    sink = streams.get(stream)
                    if sink is not None:
                        sink.on_data(payload, flags)
                    continue
                self._other(stream, parent, kind, code, aux, payload)

    def _other(
        self, stream: int, parent: int, kind: int, code: int, aux: int, payload: bytes
    ) -> None:
        if kind == _ACCEPT:
            self._peers[stream] = Peer(payload, self.sites[parent], self)
        elif kind == _CLOSED:
            self._peers.pop(stream, None)
        elif kind == _RETURNED:
            self.runtime.returned(payload)
        elif kind == _LOG:
            log.log(code, "%s", payload.decode("utf-8", "replace"))
        elif kind == _DRAIN:
            for sink in list(self.streams.values()):
                sink.on_drain()
        else:
            hearer = self.streams.get(stream)
            if hearer is None:
                return
            if kind == _WRITABLE:
                hearer.on_writable(aux)
            elif kind == _END:
                hearer.on_end(payload, code)
            elif kind == _RESET:
                del self.streams[stream]
                hearer.on_reset(code)
            elif kind == _PONG:
                hearer.on_pong(payload)

    @staticmethod
    def slice_ends() -> float:
        """When a source that is pulled now should let the pump go on."""
        return monotonic() + _SLICE
