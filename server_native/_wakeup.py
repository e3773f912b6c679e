"""How a task waits for the pump: whoever sets it off runs the task in the pump's turn, not the loop's next one.

A future costs an object, a handle and a turn of asyncio's loop for every wait, a third of a small WebSocket message.
A task asks of what it waits for only what is here (``asyncio-extending`` in Python's documentation; the protocol is
``_asyncio_future_blocking``), so one of these serves every wait of its stream.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Generator
from contextvars import Context
from typing import TypeAlias

__all__ = ["Ready", "Wakeup"]

#: Takes what is to be run as soon as the events at hand have been looked at, outside any task.
Ready: TypeAlias = Callable[[Callable[[], None]], object]


class Wakeup:
    """One wait after another of one task at a time. Belongs to the thread of its loop."""

    __slots__ = (
        "_asyncio_future_blocking",
        "_cancelled",
        "_context",
        "_loop",
        "_ready",
        "_set",
        "_step",
        "waited",
    )

    def __init__(self, ready: Ready) -> None:
        # Tasks look at `_loop`: one of another loop must not wait here.
        self._loop = asyncio.get_running_loop()
        self._ready = ready
        self._asyncio_future_blocking = False
        #: Whether a task waits.
        self.waited = False
        self._set = False
        self._step: Callable[[Wakeup], object] | None = None
        self._context: Context | None = None
        self._cancelled: tuple[str, ...] | None = None

    @types.coroutine
    def wait(self) -> Generator[Wakeup, None, None]:
        """Returns when it was set off; the caller looks at what has changed."""
        self.waited = self._asyncio_future_blocking = True
        try:
            yield self
        finally:
            self.waited = self._set = False

    def set(self) -> None:
        """Has the task run in this turn of the pump; nothing happens when none waits. For the pump alone."""
        if self.waited and not self._set:
            self._set = True
            self._ready(self._wake)

    def set_soon(self) -> None:
        """Has the task run in the loop's next turn, as a future would; from anywhere in the loop's thread."""
        if self.waited and not self._set:
            self._set = True
            self._loop.call_soon(self._wake)

    def _wake(self) -> None:
        step, context = self._step, self._context
        # Not there when the task was cancelled meanwhile.
        if step is not None and context is not None:
            self._step = None
            context.run(step, self)
            # A task that was cancelled holds its exception, that the frames, and this one would hold the task.
            del step

    # --- what a task asks of it ------------------------------------------------------------------

    def add_done_callback(self, step: Callable[[Wakeup], object], *, context: Context) -> None:
        """The task tells how it is run on."""
        self._step = step
        self._context = context

    def result(self) -> None:
        """The task is run on: raises what it was cancelled with."""
        cancelled, self._cancelled = self._cancelled, None
        if cancelled is not None:
            raise asyncio.CancelledError(*cancelled)

    def cancel(self, msg: str | None = None) -> bool:
        """The task was cancelled while it waited; false when it has been set off and run already."""
        if self._step is None:
            return False
        self._cancelled = () if msg is None else (msg,)
        self._loop.call_soon(self._wake)
        return True
