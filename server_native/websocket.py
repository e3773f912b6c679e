"""WebSocket connections (RFC 6455): messages both ways, with back-pressure.

>>> async def handler(request):
...     async with request.accept_websocket() as websocket:
...         async for message in websocket:
...             await websocket.send(message)

:class:`WebSocket` is what asynchronous handlers get, :class:`ThreadWebSocket` the same for plain ones, which run on
a thread of their own. Pings, pongs and the closing handshake are native; nothing here has to be called for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias

from ._ffi import FLAG_TEXT, MESSAGE_COST, Reason
from ._messages import Arrivals, pieces, whole
from ._outbox import CHUNK
from ._wakeup import Ready, Wakeup
from .errors import ConfigurationError, StoppingError, WebSocketClosed

if TYPE_CHECKING:
    from ._outbox import Outbox
    from .http import NativeDirectRequest

__all__ = ["Message", "ThreadWebSocket", "WebSocket"]

#: What is sent and received: ``str`` for text, bytes for the rest.
Message: TypeAlias = "str | bytes"
Sendable: TypeAlias = "str | bytes | bytearray | memoryview"

#: Codes nobody may send (RFC 6455 section 7.4.1).
_RESERVED = frozenset((1004, 1005, 1006, 1015))
_ABNORMAL = 1006
_WHY = {
    Reason.TIMEOUT: "the peer was too slow",
    Reason.STOPPING: "the server is stopping",
    Reason.LIMIT: "a limit was passed",
    Reason.INTERNAL: "the server failed",
}


class _Common:
    """State of one connection; how one waits for it is left to the two forms below."""

    def __init__(
        self,
        request: NativeDirectRequest,
        outbox: Outbox,
        subprotocol: str | None,
        receive_window: int,
        send_window: int,
    ) -> None:
        #: The request that was accepted.
        self.request = request
        #: The subprotocol that was agreed on, or ``None``.
        self.subprotocol = subprotocol
        #: Code and reason of the end, once there is one: what the peer sent, 1006 when it vanished, 1012 when the
        #: server stops.
        self.close_code: int | None = None
        self.close_reason = ""
        self._stream = request.stream
        self._outbox = outbox
        self._arrivals = Arrivals(request.stream, outbox, receive_window)
        self._window = self._whole_window = send_window
        self._longest = whole(send_window)
        # What we have closed with.
        self._said: tuple[int, str] | None = None
        self._pings: dict[bytes, Any] = {}
        self._numbers = itertools.count(1)
        #: Called at the end, for whoever keeps the stream where no handler does.
        self._on_over: Callable[[], object] | None = None

    @property
    def closed(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._said is not None or self.close_code is not None

    # --- what the pump tells ---------------------------------------------------------------------

    def _on_data(self, data: bytes, flags: int) -> None:
        self._arrivals.feed(data, flags)
        self._notify()

    def _on_end(self, reason: bytes, code: int) -> None:
        self._over(code, reason.decode("utf-8", "replace"))

    def _on_reset(self, reason: int) -> None:
        self._over(_ABNORMAL, _WHY.get(Reason(reason), "the connection was lost"))

    def _on_writable(self, size: int) -> None:
        self._window += size
        self._notify()

    def _on_drain(self) -> None:
        """The peer was told 1012 when the stop began; who still works has the notice of the deadline."""

    def _on_pong(self, data: bytes) -> None:
        if data not in self._pings:
            return
        # It answers the earlier ones too: a peer may leave all but the last out (RFC 6455 section 5.5.3).
        for payload in list(self._pings):
            self._answered(self._pings.pop(payload))
            if payload == data:
                return

    # --- shared steps ----------------------------------------------------------------------------

    def _over(self, code: int, reason: str) -> None:
        if self.close_code is None:
            self.close_code, self.close_reason = code, reason
        pings, self._pings = self._pings, {}
        for waiter in pings.values():
            self._lost(waiter)
        self._notify()
        if self._on_over is not None:
            self._on_over()

    def _ended(self) -> WebSocketClosed:
        if self.close_code is None and self._said is not None:
            return WebSocketClosed(*self._said)
        code = _ABNORMAL if self.close_code is None else self.close_code
        return WebSocketClosed(code, self.close_reason)

    def _fits(self, piece: bytes) -> bool:
        return self._window >= len(piece) + MESSAGE_COST

    def _put(self, piece: bytes, flags: int) -> None:
        self._window -= len(piece) + MESSAGE_COST
        self._outbox.message(self._stream, piece, flags)

    def _begin_close(self, code: int, reason: str) -> bool:
        """Sends the close frame; false when one has been sent or received already."""
        told = _check_close(code, reason)
        if self.closed:
            return False
        self._said = (code, reason)
        self._outbox.end(self._stream, told, code)
        return True

    def _next_ping(self, data: bytes | None) -> bytes:
        payload = next(self._numbers).to_bytes(8, "big") if data is None else bytes(data)
        if len(payload) > 125:
            raise ConfigurationError(
                f"a ping carries at most 125 bytes (RFC 6455 section 5.5), found {len(payload)}"
            )
        if payload in self._pings:
            raise ConfigurationError(
                f"a ping with the payload {payload!r} waits for its answer already"
            )
        if self.closed:
            raise self._ended()
        return payload

    def _leave(self, kind: type[BaseException] | None) -> None:
        """The handler leaves ``with``: whoever else sends or receives learns of it."""
        code = 1000 if kind is None or issubclass(kind, WebSocketClosed) else 1011
        if self._begin_close(code, ""):
            self._notify()

    def _finish(self, code: int) -> None:
        """The handler is done: closes what it has left open. No event comes any more."""
        self._begin_close(code, "")
        self._over(*(self._said or (_ABNORMAL, "")))

    def _notify(self) -> None:
        raise NotImplementedError

    def _answered(self, waiter: Any) -> None:
        raise NotImplementedError

    def _lost(self, waiter: Any) -> None:
        raise NotImplementedError

    def __repr__(self) -> str:
        state = f"closed {self.close_code}" if self.close_code is not None else "open"
        return f"<{type(self).__name__} {self.request.target} {state}>"


class WebSocket(_Common):
    """A WebSocket connection for coroutines. Made by ``request.accept_websocket()``.

    Iterating gives messages until the peer closes; leaving ``async with`` closes with 1000, or 1011 after an
    exception. One task may receive and any number may send.
    """

    _turn: asyncio.Lock | None = None
    #: Where :attr:`_turn`'s holder waits for room.
    _writable: Wakeup | None = None
    #: Tasks that send and may have to wait.
    _senders = 0
    _since_yield = 0

    def __init__(
        self,
        request: NativeDirectRequest,
        outbox: Outbox,
        subprotocol: str | None,
        receive_window: int,
        send_window: int,
        ready: Ready,
    ) -> None:
        super().__init__(request, outbox, subprotocol, receive_window, send_window)
        self._ready = ready
        self._arrival = Wakeup(ready)

    async def receive(self) -> Message:
        """The next message: ``str`` for text, ``bytes`` for binary.

        Raises :class:`~server_native.WebSocketClosed` when the peer has closed, or is gone, and every message
        before that was taken.
        """
        message = self._arrivals.take()
        while message is None:
            if self.closed:
                raise self._ended()
            if self._arrival.waited:
                raise self._twice()
            # Others have their turn meanwhile.
            self._since_yield = 0
            await self._arrival.wait()
            message = self._arrivals.take()
        return message

    @staticmethod
    def _twice() -> RuntimeError:
        return RuntimeError(
            "two tasks receive from the same WebSocket: let one of them receive for both"
        )

    async def send(self, message: Sendable) -> None:
        """Sends ``str`` as text, bytes as binary; waits while the peer takes less than it is sent.

        Any number of tasks may send; messages stay whole. Raises :class:`~server_native.WebSocketClosed` when the
        connection is over. Cancelled while it waits in the middle of a message too long to be sent at once (half of
        limit ``ws_write_bytes``), it ends the connection.
        """
        if type(message) is bytes:
            data, text = message, False
        else:
            data, text = _encoded(message)
        if self._said is not None or self.close_code is not None:
            raise self._ended()
        size = len(data)
        cost = size + MESSAGE_COST
        if self._senders or cost > self._window or size > self._longest:
            await self._send_in_turn(data, text)
            return
        self._window -= cost
        self._outbox.message(self._stream, data, FLAG_TEXT if text else 0)
        self._since_yield += cost
        if self._since_yield >= CHUNK:
            # A handler that never waits must not keep the loop, nor what it has sent, to itself.
            self._since_yield = 0
            await asyncio.sleep(0)

    async def _send_in_turn(self, data: bytes, text: bool) -> None:
        """Somebody waits, or we must: in order of arrival, and the pieces of one message together."""
        if self._turn is None:
            self._turn = asyncio.Lock()
        self._senders += 1
        begun = False
        try:
            async with self._turn:
                for piece, flags in pieces(data, text, self._whole_window):
                    while not self._fits(piece) and not self.closed:
                        if self._writable is None:
                            self._writable = Wakeup(self._ready)
                        await self._writable.wait()
                    if self.closed:
                        raise self._ended()
                    self._put(piece, flags)
                    begun = True
        except BaseException:
            if begun and not self.closed:
                # Cancelled between two pieces. What was sent cannot be taken back, and the next message would be
                # taken for the rest of this one.
                self._outbox.reset(self._stream, Reason.CANCELLED)
                self._over(_ABNORMAL, "a message was broken off")
            raise
        finally:
            self._senders -= 1

    async def ping(self, data: bytes | None = None) -> float:
        """Pings the peer and waits for its pong; the seconds that took.

        ``data`` is up to 125 bytes, a number of ours by default. Raises :class:`~server_native.WebSocketClosed`
        when the connection ends first. Not needed to keep a connection alive: limit ``ws_ping_ms`` does.
        """
        payload = self._next_ping(data)
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pings[payload] = waiter
        begun = monotonic()
        self._outbox.ping(self._stream, payload)
        try:
            await waiter
        finally:
            self._pings.pop(payload, None)
        return monotonic() - begun

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Begins the closing handshake; native code ends it. Nothing happens when the connection is over already.

        ``code`` is 1000 to 1014 without the reserved ones, or 3000 to 4999 (RFC 6455 section 7.4); ``reason`` at
        most 123 bytes of UTF-8. Messages that still arrive are dropped.
        """
        if self._begin_close(code, reason):
            self._notify()

    async def __aenter__(self) -> WebSocket:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._leave(kind)

    def __aiter__(self) -> AsyncIterator[Message]:
        return self

    async def __anext__(self) -> Message:
        # `receive`, but for the end: a coroutine inside this one would be a tenth of a small message's cost.
        message = self._arrivals.take()
        while message is None:
            if self.closed:
                raise StopAsyncIteration
            if self._arrival.waited:
                raise self._twice()
            self._since_yield = 0
            await self._arrival.wait()
            message = self._arrivals.take()
        return message

    def _on_data(self, data: bytes, flags: int) -> None:
        self._arrivals.feed(data, flags)
        self._arrival.set()

    def _on_writable(self, size: int) -> None:
        self._window += size
        if self._writable is not None:
            self._writable.set()

    def _notify(self) -> None:
        # Soon: a handler may have ended the connection itself, with another of its tasks waiting here.
        self._arrival.set_soon()
        if self._writable is not None:
            self._writable.set_soon()

    def _answered(self, waiter: Any) -> None:
        if not waiter.done():
            waiter.set_result(None)

    def _lost(self, waiter: Any) -> None:
        if not waiter.done():
            waiter.set_exception(self._ended())


class ThreadWebSocket(_Common):
    """A WebSocket connection for plain handlers; every method blocks its thread instead of a coroutine.

    The thread is the connection's for as long as the handler runs (option ``websocket_threads`` bounds them).
    As :class:`WebSocket`: one thread may receive and any number may send.
    """

    def __init__(
        self,
        request: NativeDirectRequest,
        outbox: Outbox,
        subprotocol: str | None,
        receive_window: int,
        send_window: int,
    ) -> None:
        super().__init__(request, outbox, subprotocol, receive_window, send_window)
        # Over everything that is said too: an outbox is one thread's at a time. A thread may come back to it.
        self._changed = threading.Condition(threading.RLock())
        self._turn = threading.Lock()
        #: Pings that were given up.
        self._unanswered: set[threading.Event] = set()

    def receive(self, timeout: float | None = None) -> Message:
        """The next message. Raises ``TimeoutError`` after ``timeout`` seconds, and as :meth:`WebSocket.receive`.

        Without one it blocks for as long as the peer answers pings (``ws_ping_ms``).
        """
        until = None if timeout is None else monotonic() + timeout
        with self._changed:
            while True:
                message = self._arrivals.take()
                if message is not None:
                    self._outbox.flush()
                    return message
                if self.closed:
                    raise self._ended()
                left = None if until is None else until - monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError(f"no message came within {timeout} seconds")
                self._changed.wait(left)

    def send(self, message: Sendable) -> None:
        """Sends a message; blocks while the peer takes less than it is sent, ``write_stall_ms`` at most without any.

        Errors as :meth:`WebSocket.send`.
        """
        data, text = _encoded(message)
        with self._turn:
            for piece, flags in pieces(data, text, self._whole_window):
                with self._changed:
                    while not self._fits(piece) and not self.closed:
                        self._changed.wait()
                    if self.closed:
                        raise self._ended()
                    self._put(piece, flags)
                    self._outbox.flush()

    def ping(self, data: bytes | None = None, timeout: float | None = None) -> float:
        """Pings the peer and waits for its pong; the seconds that took. ``TimeoutError`` after ``timeout``.

        Without one it blocks until the connection ends: a peer that sends messages need not answer.
        """
        answered = threading.Event()
        with self._changed:
            payload = self._next_ping(data)
            self._pings[payload] = answered
            begun = monotonic()
            self._outbox.ping(self._stream, payload)
            self._outbox.flush()
        if not answered.wait(timeout):
            with self._changed:
                self._pings.pop(payload, None)
            raise TimeoutError(f"no pong came within {timeout} seconds")
        if answered in self._unanswered:
            self._unanswered.discard(answered)
            raise self._ended()
        return monotonic() - begun

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Begins the closing handshake, as :meth:`WebSocket.close`."""
        with self._changed:
            if self._begin_close(code, reason):
                self._outbox.flush()
                self._notify()

    def __enter__(self) -> ThreadWebSocket:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._changed:
            self._leave(kind)
            self._flush_last()

    def __iter__(self) -> Iterator[Message]:
        while True:
            try:
                message = self.receive()
            except WebSocketClosed:
                return
            yield message

    def _on_data(self, data: bytes, flags: int) -> None:
        with self._changed:
            super()._on_data(data, flags)
            # A piece of a longer message gives its credit back at once.
            self._outbox.flush()

    def _on_end(self, reason: bytes, code: int) -> None:
        with self._changed:
            super()._on_end(reason, code)

    def _on_reset(self, reason: int) -> None:
        with self._changed:
            super()._on_reset(reason)

    def _on_writable(self, size: int) -> None:
        with self._changed:
            super()._on_writable(size)

    def _on_pong(self, data: bytes) -> None:
        with self._changed:
            super()._on_pong(data)

    def _finish(self, code: int) -> None:
        with self._changed:
            super()._finish(code)
            self._flush_last()

    def _flush_last(self) -> None:
        # When the server has stopped meanwhile, the peer has heard of it.
        with contextlib.suppress(StoppingError):
            self._outbox.flush()

    def _notify(self) -> None:
        self._changed.notify_all()

    def _answered(self, waiter: Any) -> None:
        waiter.set()

    def _lost(self, waiter: Any) -> None:
        self._unanswered.add(waiter)
        waiter.set()


def _encoded(message: object) -> tuple[bytes, bool]:
    if isinstance(message, str):
        return message.encode(), True
    if isinstance(message, (bytes, bytearray, memoryview)):
        return bytes(message), False
    raise TypeError(f"a message must be str or bytes, found {type(message).__name__}")


def _check_close(code: int, reason: str) -> bytes:
    allowed = isinstance(code, int) and (
        (1000 <= code <= 1014 and code not in _RESERVED) or 3000 <= code <= 4999
    )
    if not allowed:
        raise ConfigurationError(
            "a close code must be 1000 to 1014 (without 1004, 1005, 1006) or 3000 to 4999 "
            f"(RFC 6455 section 7.4), found {code!r}"
        )
    told = reason.encode()
    if len(told) > 123:
        raise ConfigurationError(
            f"a close reason must be at most 123 bytes of UTF-8 (RFC 6455 section 5.5), found {len(told)}"
        )
    return told
