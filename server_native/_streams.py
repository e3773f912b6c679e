"""The two directions of one stream as handlers see them: request body in, response body out, both with back-pressure.

Each direction has a form for handlers on the event loop and one for handlers on a thread; they differ in how
they wait and in which outbox they use, nothing else. The pump's thread (or the loop's) feeds, the handler
takes.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from typing import TYPE_CHECKING

from ._ffi import Reason
from ._outbox import CHUNK
from ._wakeup import Ready, Wakeup
from .errors import ClientDisconnected

if TYPE_CHECKING:
    from ._outbox import Outbox

__all__ = [
    "Inflow",
    "LoopInflow",
    "LoopOutflow",
    "Outflow",
    "ThreadInflow",
    "ThreadOutflow",
    "disconnected",
]

#: Bytes one source sends before others have a turn: as many as the window, so that it waits for its client and not for
#: the turn, which costs as much as forty pieces.
_TURN = 256 * 1024

_WHY = {
    Reason.GONE: "the client is gone",
    Reason.PROTOCOL: "the client broke the protocol",
    Reason.TIMEOUT: "the client was too slow",
    Reason.LIMIT: "a limit was passed",
    Reason.STOPPING: "the server is stopping",
}


def disconnected(reason: int) -> ClientDisconnected:
    """The exception a handler gets for a RESET with this reason."""
    return ClientDisconnected(_WHY.get(Reason(reason), "the stream was reset"))


class Inflow:
    """A request body that is still arriving."""

    def __init__(
        self, stream: int, outbox: Outbox, first: bytes, window: int, expects: bool
    ) -> None:
        self._stream = stream
        self._outbox = outbox
        self._chunks: deque[bytes] = deque([first] if first else [])
        self._window = window
        # What comes is added to what waits up to this size: an object for every two bytes of a window would be many
        # times its memory.
        self._small = window // 256
        # A client that waits for 100 Continue gets no credit until the handler asks for the body.
        self._owed = window if expects else 0
        self._expects = expects
        self._ended = False
        # The stream has left HTTP before its body was complete: the next end is the body's.
        self._goes_on = False
        # Why the stream was reset; an exception kept here and raised would hold its frames, and they us.
        self._failure: int | None = None
        self.trailers = b""

    def feed(self, data: bytes, end: bool) -> None:
        """Body bytes have come."""
        if data:
            chunks = self._chunks
            if chunks and len(chunks[-1]) + len(data) <= self._small:
                chunks[-1] += data
            else:
                chunks.append(data)
        if end:
            self._end()
        self._notify()

    def end(self, trailers: bytes) -> None:
        """The body is complete."""
        self.trailers = trailers
        self._end()
        self._notify()

    @property
    def ended(self) -> bool:
        """Whether nothing more comes of what the peer sends now: its body, or after that another protocol."""
        return self._ended

    def forget(self) -> None:
        """What is here was read already, past this object."""
        self._owed += sum(map(len, self._chunks))
        self._chunks.clear()

    def reopen(self) -> None:
        """The stream has left HTTP: what follows the body is another protocol's, and has an end of its own."""
        self._goes_on = not self._ended
        self._ended = False
        # While the body was complete nothing was given back.
        if self._owed >= self._window // 2 and not self._expects:
            self._grant()

    def _end(self) -> None:
        self._ended = not self._goes_on
        self._goes_on = False

    def fail(self, reason: int) -> None:
        """The stream was reset: a reader gets :class:`ClientDisconnected` unless the body is complete."""
        if not self._ended and self._failure is None:
            self._failure = reason
        self._notify()

    def _notify(self) -> None:
        raise NotImplementedError

    def _take(self) -> bytes | None:
        """The next chunk and the credit for it; ``None`` when there is none now."""
        if not self._chunks:
            return None
        chunk = self._chunks.popleft()
        self._owed += len(chunk)
        if self._owed >= self._window // 2 and not self._ended:
            self._grant()
        return chunk

    def _ask(self) -> None:
        """The handler wants the body of a client that waits to be asked."""
        if self._expects:
            self._expects = False
            self._grant()

    def _grant(self) -> None:
        owed, self._owed = self._owed, 0
        self._outbox.credit(self._stream, owed)


class LoopInflow(Inflow):
    """Read by a coroutine on the loop that feeds it."""

    # Made when somebody waits: most bodies are here when they are read.
    _wakeup: Wakeup | None = None

    def __init__(
        self,
        stream: int,
        outbox: Outbox,
        first: bytes,
        window: int,
        expects: bool,
        ready: Ready,
    ) -> None:
        super().__init__(stream, outbox, first, window, expects)
        self._ready = ready

    def here(self) -> bytes | None:
        """A chunk that nobody has to wait for; ``None`` when :meth:`next` has to be asked."""
        return None if self._expects else self._take()

    async def next(self) -> bytes:
        """The next chunk; empty at the end."""
        self._ask()
        while True:
            chunk = self._take()
            if chunk is not None:
                return chunk
            if self._failure is not None:
                raise disconnected(self._failure)
            if self._ended:
                return b""
            if self._wakeup is None:
                self._wakeup = Wakeup(self._ready)
            elif self._wakeup.waited:
                raise RuntimeError("two tasks read the same request body")
            await self._wakeup.wait()

    def fail(self, reason: int) -> None:
        if not self._ended and self._failure is None:
            self._failure = reason
        # A handler may have ended the stream itself, with another of its tasks waiting here.
        if self._wakeup is not None:
            self._wakeup.set_soon()

    def _notify(self) -> None:
        if self._wakeup is not None:
            self._wakeup.set()


class ThreadInflow(Inflow):
    """Read by a pool thread, fed by the pump's."""

    def __init__(
        self, stream: int, outbox: Outbox, first: bytes, window: int, expects: bool
    ) -> None:
        super().__init__(stream, outbox, first, window, expects)
        self._condition = threading.Condition()

    def feed(self, data: bytes, end: bool) -> None:
        with self._condition:
            super().feed(data, end)

    def end(self, trailers: bytes) -> None:
        with self._condition:
            super().end(trailers)

    def fail(self, reason: int) -> None:
        with self._condition:
            super().fail(reason)

    def reopen(self) -> None:
        with self._condition:
            super().reopen()
            self._outbox.flush()

    def next(self) -> bytes:
        """The next chunk; empty at the end. Blocks, for as long as ``body_rate`` lets a client be slow.

        Of a connection that has left HTTP: until the peer says something, or ends; the stop ends it.
        """
        with self._condition:
            self._ask()
            self._outbox.flush()
            while True:
                chunk = self._take()
                if chunk is not None:
                    self._outbox.flush()
                    return chunk
                if self._failure is not None:
                    raise disconnected(self._failure)
                if self._ended:
                    return b""
                self._condition.wait()

    def _notify(self) -> None:
        self._condition.notify_all()


class Outflow:
    """A response body that is still being made: how much of it may be on its way."""

    def __init__(self, stream: int, outbox: Outbox, window: int) -> None:
        self.stream = stream
        self.outbox = outbox
        self.window = window
        #: Why the stream was reset, a reason: an exception would hold the frames that raise it, and they this.
        self.failure: int | None = None

    def writable(self, size: int) -> None:
        """``size`` bytes have left for the client."""
        self.window += size
        self._notify()

    def fail(self, reason: int) -> None:
        """The stream was reset: the next write raises."""
        self.failure = reason
        self._notify()

    def put(self, piece: bytes) -> None:
        """Sends a piece that fits :attr:`window`."""
        self.window -= len(piece)
        self.outbox.data(self.stream, piece)

    def _notify(self) -> None:
        """Nothing waits here: the pump pulls."""


class LoopOutflow(Outflow):
    """Written by a coroutine."""

    _wakeup: Wakeup | None = None
    _since_yield = 0

    def __init__(self, stream: int, outbox: Outbox, window: int, ready: Ready) -> None:
        super().__init__(stream, outbox, window)
        self._ready = ready
        # What was offered goes as one command: a command for each would cost more than the piece itself.
        self._offered: list[bytes] = []
        # Bytes that may be offered beside these before the window or the turn is to be looked at.
        self._room = 0

    def offer(self, data: bytes) -> bool:
        """Sends ``data`` if nothing has to be waited for; false when it is :meth:`write`'s, which costs a coroutine."""
        room = self._room - len(data)
        if room < 0 or type(data) is not bytes or not data:
            return False
        self._room = room
        offered = self._offered
        if not offered:
            self.outbox.gather(self.say)
        offered.append(data)
        return True

    def say(self) -> None:
        """Sends what was offered; before any other command for the stream."""
        pieces = self._offered
        if pieces:
            self._offered = []
            size = sum(map(len, pieces))
            self.window -= size
            self._since_yield += size
            self.outbox.pieces(self.stream, pieces, size)

    def _make_room(self) -> None:
        room = min(self.window, _TURN - self._since_yield)
        self._room = 0 if self.failure is not None else max(room, 0)

    async def write(self, data: bytes) -> None:
        """Sends ``data``, waiting for the client as needed. Raises :class:`ClientDisconnected`."""
        self.say()
        try:
            await self._write(data)
        finally:
            self._make_room()

    async def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            if self.failure is not None:
                raise disconnected(self.failure)
            if self.window <= 0:
                await self._wait()
                continue
            piece = view[: min(len(view), self.window, CHUNK)]
            view = view[len(piece) :]
            self.put(data if len(piece) == len(data) and type(data) is bytes else bytes(piece))
            self._since_yield += len(piece)
            if self._since_yield >= _TURN:
                # A source that never waits must not keep the loop, nor what it has written, to itself.
                self._since_yield = 0
                await asyncio.sleep(0)

    async def _wait(self) -> None:
        if self._wakeup is None:
            self._wakeup = Wakeup(self._ready)
        elif self._wakeup.waited:
            raise RuntimeError("two tasks write to the same stream: let one wait for the other")
        await self._wakeup.wait()

    def fail(self, reason: int) -> None:
        self.failure = reason
        self._room = 0
        if self._wakeup is not None:
            self._wakeup.set_soon()

    def _notify(self) -> None:
        if self._wakeup is not None:
            self._wakeup.set()


class ThreadOutflow(Outflow):
    """Written by a pool thread."""

    def __init__(self, stream: int, outbox: Outbox, window: int) -> None:
        super().__init__(stream, outbox, window)
        #: Held while anything is said: an outbox is one thread's at a time.
        self.lock = threading.RLock()
        self._condition = threading.Condition(self.lock)

    def writable(self, size: int) -> None:
        with self._condition:
            super().writable(size)

    def fail(self, reason: int) -> None:
        with self._condition:
            super().fail(reason)

    def write(self, data: bytes) -> None:
        """Sends ``data``; blocks while the client takes nothing (``write_stall_ms`` bounds that)."""
        view = memoryview(data)
        while view:
            with self._condition:
                while self.window <= 0 and self.failure is None:
                    self._condition.wait()
                if self.failure is not None:
                    raise disconnected(self.failure)
                piece = view[: min(len(view), self.window, CHUNK)]
                view = view[len(piece) :]
                self.put(data if len(piece) == len(data) and type(data) is bytes else bytes(piece))
                self.outbox.flush()

    def _notify(self) -> None:
        self._condition.notify_all()
