"""The bare byte stream of a connection that has left HTTP."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from ._ffi import Reason
from ._streams import Inflow, LoopInflow, LoopOutflow, Outflow, ThreadInflow, ThreadOutflow

if TYPE_CHECKING:
    from .http import NativeDirectRequest

__all__ = ["DetachedSocket", "ThreadDetachedSocket"]

_CANCELLED = Reason.CANCELLED


class _Common:
    def __init__(self, request: NativeDirectRequest, inflow: Inflow, outflow: Outflow) -> None:
        #: The request the connection began with.
        self.request = request
        self._inflow = inflow
        self._outflow = outflow
        self._sealed = False
        self._over = False

    # --- what the pump tells ---------------------------------------------------------------------

    def _on_data(self, data: bytes, flags: int) -> None:
        self._inflow.feed(data, bool(flags & 1))

    def _on_end(self, trailers: bytes, _code: int) -> None:
        self._inflow.end(trailers)

    def _on_reset(self, reason: int) -> None:
        self._over = True
        self._inflow.fail(reason)
        self._outflow.fail(reason)

    def _on_writable(self, size: int) -> None:
        self._outflow.writable(size)

    def _on_drain(self) -> None:
        self._on_reset(Reason.STOPPING)
        self._outflow.outbox.reset(self.request.stream, Reason.STOPPING)

    def _on_pong(self, data: bytes) -> None:
        """Only message streams have pongs."""

    # --- shared steps ----------------------------------------------------------------------------

    def _seal(self) -> None:
        if not self._sealed and not self._over:
            self._sealed = True
            self._outflow.outbox.end(self.request.stream)

    def _abort(self) -> None:
        if not self._over:
            self._over = True
            self._inflow.fail(_CANCELLED)
            self._outflow.fail(_CANCELLED)
            self._outflow.outbox.reset(self.request.stream, _CANCELLED)

    def _check_open(self) -> None:
        if self._sealed:
            raise RuntimeError("nothing can be sent after close_write()")

    def _finish(self, code: int) -> None:
        """The handler is done: an orderly end, or after a failure an abrupt one."""
        if code == 1000:
            self._seal()
        else:
            self._abort()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.request.target}>"


class DetachedSocket(_Common):
    """Bytes both ways, for coroutines. Made by ``request.detach_socket()``.

    What was read of the connection before comes first, an unread request body included. Leaving ``async with``
    ends our direction, or aborts after an exception.
    """

    _inflow: LoopInflow
    _outflow: LoopOutflow

    async def receive(self) -> bytes:
        """The next bytes, as many as have come; empty at the peer's end.

        Raises :class:`~server_native.ClientDisconnected` when the connection was reset.
        """
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
        self._seal()

    def abort(self) -> None:
        """Resets the connection."""
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
    """Bytes both ways, for plain handlers: as :class:`DetachedSocket`, blocking the thread."""

    _inflow: ThreadInflow
    _outflow: ThreadOutflow

    def receive(self) -> bytes:
        """The next bytes; empty at the peer's end. Blocks."""
        return self._inflow.next()

    def send(self, data: bytes) -> None:
        """Sends bytes; blocks while the peer takes less."""
        self._check_open()
        self._outflow.write(data)

    def close_write(self) -> None:
        """Ends our direction; the peer may go on sending."""
        self._seal()
        self._outflow.outbox.flush()

    def close(self) -> None:
        """Ends our direction after everything was sent."""
        self.close_write()

    def abort(self) -> None:
        """Resets the connection."""
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
        self._outflow.outbox.flush()
