"""The way of one response from whoever writes it to the engine's task that sends it.

The engine serves an asynchronous handler, which waits here for the head (:meth:`Outlet.response`) and is then asked
for body bytes as the client takes them. On the other side an ``HttpResponse`` puts them in. The outlet holds no
reference to that side: a response nobody can write to any more is noticed by its end (:meth:`Outlet.abandon`).

A request whose connection leaves HTTP has no response: then the engine's task stays until what the connection became
is over (:meth:`Outlet.part`).

It knows bytes, not headers or lengths. Everything happens in the loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Generator
from typing import Any

from .detached import DetachedSocket
from .errors import ClientDisconnected, WriteBufferFullError
from .http import NativeDirectResponse
from .websocket import WebSocket

__all__ = ["FAILED", "UNAVAILABLE", "Completion", "Outlet"]

log = logging.getLogger("server_native")

FAILED = NativeDirectResponse.text("Internal Server Error\n", status=500)
UNAVAILABLE = NativeDirectResponse.text("Service Unavailable\n", status=503)

#: Small pieces are sent together up to this size.
_PIECE = 64 * 1024


class Outlet:
    """Head and body of one response on their way, and how they fared."""

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: int) -> None:
        self.loop = loop
        #: Whether nothing more can happen to the response: it was handed over whole, given up, or nobody wants it.
        self.over = False
        #: Why it was not handed over whole.
        self.failure: Exception | None = None
        #: Whether somebody was told of :attr:`failure`.
        self.told = False
        #: Called once when it is over, with :attr:`failure`.
        self.on_over: list[Callable[[Exception | None], object]] = []
        #: Whether a handler is called with the request: what it took over ends with it, however long the peer stays.
        self.handled = False
        self._limit = limit
        self._task: asyncio.Task[Any] | None = None
        self._head: asyncio.Future[NativeDirectResponse | None] | None = loop.create_future()
        #: What the connection became when it left HTTP, and whether somebody still has to do with it.
        self._left: WebSocket | DetachedSocket | None = None
        self._lasts = False
        self._chunks: deque[bytes] = deque()
        self._queued = 0
        self._in_hand = 0
        self._ended = False
        self._waiters: list[asyncio.Future[None]] = []

    # --- the engine's side ------------------------------------------------------------------------

    async def response(self) -> NativeDirectResponse | None:
        """Waits for the head, or the whole response, in the task of the request.

        ``None`` when the connection has left HTTP and is over: the engine keeps a stream as long as its task runs.
        """
        self._task = asyncio.current_task()
        head = self._head
        if head is None:
            raise RuntimeError("the response of a request was asked for twice")
        try:
            response = await head
            while self._lasts:
                await self._change()
        except asyncio.CancelledError:
            self._finish(_gone())
            raise
        finally:
            # It leads back here when the body follows.
            self._head = None
            self._notify()
        if response is None or response.source is None:
            self._finish(None)
        return response

    def __aiter__(self) -> Outlet:
        return self

    async def __anext__(self) -> bytes:
        # Asked for more: what was given last has been taken.
        self._in_hand = 0
        self._notify()
        while not self._chunks:
            if self._ended:
                self._finish(None)
                raise StopAsyncIteration
            await self._change()
        piece = self._chunks.popleft()
        if self._chunks and len(piece) < _PIECE:
            pieces, size = [piece], len(piece)
            while self._chunks and size < _PIECE:
                pieces.append(self._chunks.popleft())
                size += len(pieces[-1])
            piece = b"".join(pieces)
        self._queued -= len(piece)
        self._in_hand = len(piece)
        return piece

    async def aclose(self) -> None:
        """The engine wants no more: the client is gone, unless everything was handed over."""
        self._finish(_gone())

    # --- the response's side ----------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Bytes the client has not taken yet."""
        return self._queued + self._in_hand

    @property
    def parted(self) -> bool:
        """Whether the connection has left HTTP."""
        return self._left is not None

    @property
    def settled(self) -> bool:
        """Whether it can be left alone: all was put in, or it is over and somebody knows of a failure."""
        unheard = self.failure is not None and not self.told and not _is_gone(self.failure)
        return self._ended or (self.over and not unheard)

    def part(self, left: WebSocket | DetachedSocket) -> None:
        """The connection has become ``left``, and nothing is awaited of the response any more."""
        self._left, self._lasts, self._ended = left, True, True
        if not self.handled:
            left._on_over = self._release
        self._send(None)
        self._notify()

    def leave(self, code: int) -> None:
        """The handler is done: closes what it took over and left open, with this code."""
        if self._left is not None and self._lasts:
            self._left._finish(code)
            self._release()

    def _release(self) -> None:
        self._lasts = False
        self._notify()

    def whole(self, response: NativeDirectResponse) -> None:
        """Head and body at once; nothing may follow."""
        self._ended = True
        self._send(response)

    def begin(self, status: int, fields: bytes) -> None:
        """The head; the body is put in afterwards."""
        self._send(NativeDirectResponse(status, fields, b"", self))

    def put(self, data: bytes) -> None:
        """Body bytes behind those that wait; dropped when nobody wants them any more."""
        if data and not self.over:
            self._chunks.append(data)
            self._queued += len(data)
            self._notify()

    def require_room(self) -> None:
        """Raises :class:`WriteBufferFullError` when the limit is reached, which one write may pass."""
        if self.waiting >= self._limit:
            raise WriteBufferFullError(
                f"at most {self._limit} bytes (write_buffer_bytes) may wait for the client, found {self.waiting}: "
                "`await response.flush()` between writes, or use add_stream()"
            )

    def end(self) -> None:
        """The body is complete."""
        self._ended = True
        self._notify()

    def refuse(self, failure: Exception) -> None:
        """Gives an unfinished response up: 500 when its head has not gone, an abrupt end otherwise."""
        self.leave(1011)
        if self.over or self._ended:
            return
        begun = self._head is None or self._head.done()
        if not begun:
            self._send(FAILED)
        elif self._task is not None:
            # Wherever the engine waits, in this outlet or for the client, it resets the stream.
            self._task.cancel()
        self._finish(failure)

    def abandon(self, request: object) -> None:
        """Nobody can write to the response any more; the client must not wait for what will not come."""
        if self.settled or (self._head is not None and self._head.cancelled()):
            return
        if self.over:
            log.error(
                "the response to %r failed and nobody waited for it: %s", request, self.failure
            )
            return
        log.error("the response to %r was dropped unfinished: close() it", request)
        self.refuse(RuntimeError("the response was dropped unfinished"))

    async def drained(self, below: int = 1) -> None:
        """Waits until the head has gone and fewer than ``below`` bytes wait for the client. Raises :attr:`failure`."""
        while not self.over and (self._head is not None or self.waiting >= below):
            await self._change()
        self._raise_failure()

    async def completed(self) -> None:
        """Waits until it is over, or the connection has left HTTP. Raises :attr:`failure`."""
        while not self.over and self._left is None:
            await self._change()
        if self._left is None:
            self._raise_failure()

    def _raise_failure(self) -> None:
        if self.failure is not None:
            self.told = True
            raise self.failure

    def _send(self, response: NativeDirectResponse | None) -> None:
        # Cancelled: the client went in this very turn of the loop, and `response` is about to hear of it.
        if self._head is not None and not self._head.done():
            self._head.set_result(response)

    def _finish(self, failure: Exception | None) -> None:
        if self.over:
            return
        self.over, self.failure = True, failure
        self._chunks.clear()
        self._queued = self._in_hand = 0
        callbacks, self.on_over = self.on_over, []
        for callback in callbacks:
            callback(failure)
        self._notify()

    async def _change(self) -> None:
        waiter = self.loop.create_future()
        self._waiters.append(waiter)
        await waiter

    def _notify(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


class Completion:
    """The end of a response; awaitable any number of times."""

    __slots__ = ("_outlet", "_quiet")

    def __init__(self, outlet: Outlet, *, quiet: bool) -> None:
        self._outlet = outlet
        self._quiet = quiet

    def __await__(self) -> Generator[Any, None, None]:
        return self._wait().__await__()

    async def _wait(self) -> None:
        try:
            await self._outlet.completed()
        except ClientDisconnected:
            if not self._quiet:
                raise


def _gone() -> ClientDisconnected:
    return ClientDisconnected(
        "nobody takes the response: the client is gone, the server stops, or handler_timeout is over"
    )


def _is_gone(failure: Exception) -> bool:
    return isinstance(failure, ClientDisconnected)
