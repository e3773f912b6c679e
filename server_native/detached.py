"""The bare byte stream of a connection that has left HTTP."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from ._ffi import FLAG_END, Reason
from ._streams import Inflow, LoopInflow, LoopOutflow, Outflow, ThreadInflow, ThreadOutflow
from .errors import StoppingError

if TYPE_CHECKING:
    from .http import NativeDirectRequest

__all__ = ["DetachedSocket", "ThreadDetachedSocket"]

_CANCELLED = Reason.CANCELLED
#: As code of END: nothing more is read either (ADR 0001).
_DEAF = 1


class _Common:
    def __init__(self, request: NativeDirectRequest, inflow: Inflow, outflow: Outflow) -> None:
        #: The request the connection began with.
        self.request = request
        self._inflow = inflow
        self._outflow = outflow
        #: Our direction has ended; nothing is read any more; the stream is gone.
        self._sealed = False
        self._deaf = False
        self._over = False
        #: Called at the end, for whoever keeps the stream where no handler does.
        self._on_over: Callable[[], object] | None = None

    # --- what the pump tells ---------------------------------------------------------------------

    def _on_data(self, data: bytes, flags: int) -> None:
        self._inflow.feed(data, bool(flags & FLAG_END))
        if flags & FLAG_END:
            self._tell_if_over()

    def _on_end(self, trailers: bytes, _code: int) -> None:
        self._inflow.end(trailers)
        self._tell_if_over()

    def _on_reset(self, reason: int) -> None:
        self._over = True
        self._inflow.fail(reason)
        self._outflow.fail(reason)
        self._tell_if_over()

    def _on_writable(self, size: int) -> None:
        self._outflow.writable(size)

    def _on_drain(self) -> None:
        # The handler learns of it from whatever it does next; its end is the stream's.
        self._inflow.fail(Reason.STOPPING)
        self._outflow.fail(Reason.STOPPING)

    def _on_pong(self, data: bytes) -> None:
        """Only message streams have pongs."""

    # --- shared steps ----------------------------------------------------------------------------

    def _seal(self) -> None:
        if not self._sealed and not self._over:
            self._sealed = True
            self._outflow.outbox.end(self.request.stream)
            self._tell_if_over()

    def _close(self) -> None:
        if not self._deaf and not self._over:
            self._sealed = self._deaf = True
            self._outflow.outbox.end(self.request.stream, code=_DEAF)
            self._tell_if_over()

    def _abort(self) -> None:
        if not self._over:
            self._over = True
            self._inflow.fail(_CANCELLED)
            self._outflow.fail(_CANCELLED)
            self._outflow.outbox.reset(self.request.stream, _CANCELLED)
            self._tell_if_over()

    def _tell_if_over(self) -> None:
        if self._on_over is not None and (self._over or self._deaf or self._both_ended()):
            self._on_over()

    def _both_ended(self) -> bool:
        return self._sealed and self._inflow.ended

    def _check_open(self) -> None:
        if self._sealed:
            raise RuntimeError("nothing can be sent after close_write() or close()")

    def _check_heard(self) -> None:
        if self._deaf:
            raise RuntimeError(
                "nothing can be received after close(): use close_write() to go on reading"
            )

    def _finish(self, code: int) -> None:
        """The handler is done: an orderly end, or after a failure an abrupt one."""
        if self._both_ended():
            # What has come may still be read.
            return
        if code == 1000 and self._outflow.failure is None:
            self._close()
        else:
            self._abort()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.request.target}>"


class DetachedSocket(_Common):
    """Bytes both ways, for coroutines. Made by ``request.detach_socket()``.

    What was read of the connection before comes first, an unread request body included. Leaving ``async with``, or
    returning from the handler, closes; an exception aborts. One task may receive and one may send.
    """

    _inflow: LoopInflow
    _outflow: LoopOutflow

    async def receive(self) -> bytes:
        """The next bytes, as many as have come; empty at the peer's end.

        Raises :class:`~server_native.ClientDisconnected` when the connection was reset.
        """
        self._check_heard()
        return await self._inflow.next()

    async def send(self, data: bytes) -> None:
        """Sends bytes; waits while the peer takes less. Raises :class:`~server_native.ClientDisconnected`."""
        self._check_open()
        await self._outflow.write(data)

    async def close_write(self) -> None:
        """Ends our direction; the peer may go on sending."""
        self._seal()

    async def close(self) -> None:
        """Ends our direction after everything was sent; what the peer still sends is not read."""
        self._close()

    def abort(self) -> None:
        """Resets the connection. Over HTTP/2 the peer sees an ordinary end of the stream instead."""
        self._abort()

    async def __aenter__(self) -> DetachedSocket:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._finish(1000 if kind is None else 1011)


class ThreadDetachedSocket(_Common):
    """Bytes both ways, for plain handlers: as :class:`DetachedSocket`, blocking the thread.

    Any number of threads may send, each of its pieces stays whole up to 64 KiB; one may receive.
    """

    _inflow: ThreadInflow
    _outflow: ThreadOutflow

    def receive(self) -> bytes:
        """The next bytes; empty at the peer's end. Blocks until then: no limit says how long a peer may be silent."""
        self._check_heard()
        return self._inflow.next()

    def send(self, data: bytes) -> None:
        """Sends bytes; blocks while the peer takes less (``write_stall_ms`` bounds that)."""
        self._check_open()
        self._outflow.write(data)

    def close_write(self) -> None:
        """Ends our direction; the peer may go on sending."""
        with self._outflow.lock:
            self._seal()
            self._outflow.outbox.flush()

    def close(self) -> None:
        """Ends our direction after everything was sent; what the peer still sends is not read."""
        with self._outflow.lock:
            self._close()
            self._outflow.outbox.flush()

    def abort(self) -> None:
        """Resets the connection. Over HTTP/2 the peer sees an ordinary end of the stream instead."""
        with self._outflow.lock:
            self._abort()
            self._outflow.outbox.flush()

    def __enter__(self) -> ThreadDetachedSocket:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._finish(1000 if kind is None else 1011)

    def _finish(self, code: int) -> None:
        # When the server has stopped meanwhile, the peer has heard of it.
        with self._outflow.lock, contextlib.suppress(StoppingError):
            super()._finish(code)
            self._outflow.outbox.flush()
