"""How a pump runs inside asyncio.

On a loop of ours (:func:`new_event_loop`) the selector *is* the pump: ``select()`` drives the native runtime,
which also watches the selector's own descriptor, so nothing crosses a thread. On any other loop native threads
drive, and an eventfd read by the loop tells when events wait. ADR 0004 has the figures.
"""

from __future__ import annotations

import asyncio
import os
import select
import selectors
import socket
import weakref
from collections.abc import Callable
from typing import Any

from ._dispatch import Pump
from .errors import ConfigurationError

__all__ = ["LoopPump", "NativeSelector", "new_event_loop", "run_in_loop"]


class NativeSelector(selectors.DefaultSelector):
    """A selector that drives a native runtime while it waits, once a server is started on its loop.

    The runtime sees this selector's descriptor edge-triggered, asyncio expects level-triggered readiness: after
    an edge the inner ``select(0)`` is called before every wait until it finds nothing, and only then is the
    next edge relied on.
    """

    _pump: Pump | None = None
    _drained = False

    def __init__(self) -> None:
        super().__init__()
        _selectors.add(self)

    @property
    def is_free(self) -> bool:
        """Whether no runtime is driven here."""
        return self._pump is None

    def attach(self, pump: Pump) -> None:
        """Drives this pump from now on."""
        pump.runtime.watch(self.fileno())
        self._drained = False
        self._pump = pump

    def detach(self) -> None:
        """Is an ordinary selector again."""
        self._pump = None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Ready descriptors; native events are handled before it returns."""
        pump = self._pump
        if pump is None or pump.closed:
            return super().select(timeout)
        if not self._drained:
            ready = super().select(0)
            if ready:
                pump.turn(0.0)
                return ready
            self._drained = True
        pump.turn(timeout)
        if pump.watched:
            pump.watched = False
            self._drained = False
            return super().select(0)
        return []


_selectors: weakref.WeakSet[NativeSelector] = weakref.WeakSet()


def _after_fork() -> None:
    # An epoll is shared with the parent: a child that tidies its loop up would take descriptors out of the parent's.
    for selector in list(_selectors):
        known: Any = getattr(selector, "_selector", None)
        if known is not None and hasattr(select, "epoll"):
            known.close()
            selector._selector = select.epoll()  # type: ignore[attr-defined]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def new_event_loop() -> asyncio.AbstractEventLoop:
    """An asyncio loop on which servers of this package are fastest; otherwise an ordinary ``SelectorEventLoop``.

    For ``asyncio.Runner(loop_factory=server_native.new_event_loop)``. Subprocesses, signals and ``add_reader``
    work as usual.

    >>> import server_native
    >>> loop = server_native.new_event_loop()
    >>> loop.run_until_complete(asyncio.sleep(0, "done"))
    'done'
    >>> loop.close()
    """
    return asyncio.SelectorEventLoop(NativeSelector())


def run_in_loop(loop: asyncio.AbstractEventLoop, io_threads: int | None) -> LoopPump:
    """A pump for this loop, in the form that suits it. Must be called in the loop's thread."""
    selector = getattr(loop, "_selector", None)
    if isinstance(selector, NativeSelector) and selector.is_free and not io_threads:
        return _Driven(selector)
    if io_threads == 0:
        raise ConfigurationError(
            "io_threads=0 needs a loop of server_native.new_event_loop() that serves nothing else yet; "
            "leave io_threads out to have native threads drive the sockets"
        )
    return _Signalled(loop, io_threads or 1)


class LoopPump:
    """A pump and the way its loop runs it."""

    pump: Pump
    #: Called once when the runtime has stopped and every event was handled.
    on_closed: Callable[[], None]

    def free(self) -> None:
        """Takes the pump out of the loop and frees it."""
        raise NotImplementedError


class _Driven(LoopPump):
    def __init__(self, selector: NativeSelector) -> None:
        self._selector = selector
        self.pump = _Noticed(0, None, self)
        selector.attach(self.pump)

    def free(self) -> None:
        self._selector.detach()
        self.pump.free()


class _Signalled(LoopPump):
    def __init__(self, loop: asyncio.AbstractEventLoop, io_threads: int) -> None:
        self._loop = loop
        self.pump = _Noticed(io_threads, self._schedule, self)
        self._reader, self._writer = _signal_pair()
        self.pump.runtime.signal(self._writer)
        try:
            loop.add_reader(self._reader, self._readable)
        except NotImplementedError:
            self._close_pair()
            self.pump.free()
            raise ConfigurationError(
                f"{type(loop).__name__} cannot watch descriptors (add_reader); use server_native.new_event_loop()"
            ) from None
        self._again: asyncio.Handle | None = loop.call_soon(self._run)

    def free(self) -> None:
        self._loop.remove_reader(self._reader)
        if self._again is not None:
            self._again.cancel()
        self.pump.free()
        self._close_pair()

    def _schedule(self) -> None:
        self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        if not self.pump.closed:
            self.pump.outbox.flush()

    def _readable(self) -> None:
        os.read(self._reader, 4096)
        if self._again is None:
            self._run()

    def _run(self) -> None:
        self._again = None
        pump = self.pump
        if pump.closed:
            return
        pump.turn(0.0)
        # Events that come from now on are signalled; what is here already is not.
        if not pump.closed and pump.pending:
            self._again = self._loop.call_soon(self._run)

    def _close_pair(self) -> None:
        os.close(self._reader)
        if self._writer != self._reader:
            os.close(self._writer)


class _Noticed(Pump):
    """A pump that tells its loop when the runtime has stopped."""

    def __init__(
        self, io_threads: int, on_first: Callable[[], object] | None, host: LoopPump
    ) -> None:
        super().__init__(io_threads, on_first)
        self._host = host

    def turn(self, timeout: float | None) -> None:
        super().turn(timeout)
        self._tell()

    def _relieve(self) -> None:
        super()._relieve()
        # Stopped by another thread just now; there will be no turn.
        self._tell()

    def _tell(self) -> None:
        if self.closed:
            asyncio.get_running_loop().call_soon(self._host.on_closed)


def _signal_pair() -> tuple[int, int]:
    eventfd: Any = getattr(os, "eventfd", None)
    if eventfd is not None:
        descriptor = eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        return descriptor, descriptor
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    return reader.detach(), writer.detach()
