"""Start, stop and signals, the same for every way of serving."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import inspect
import logging
import os
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from types import FrameType
from typing import Any, TypeAlias

from .errors import ConfigurationError

__all__ = [
    "ShutdownSignal",
    "StopNow",
    "drain_wakeups",
    "follow",
    "follow_in_loop",
    "signals",
]

log = logging.getLogger("server_native")

#: What may end a server: an event, a future, or anything that can be awaited.
ShutdownSignal: TypeAlias = (
    "threading.Event | asyncio.Event | concurrent.futures.Future[Any] | Awaitable[Any]"
)

#: After the deadline native code needs a moment to reset what is left; then a stuck handler is interrupted.
_MARGIN = 0.5


class StopNow(SystemExit):
    """Raised in the serving thread to leave a handler that does not return.

    A ``SystemExit``, because asyncio lets that one pass through a task.
    """

    def __init__(self, number: int | None) -> None:
        super().__init__(number)
        #: Exit code of a forced stop; ``None`` when only the deadline has passed.
        self.number = number


@contextlib.contextmanager
def signals(
    stop: Callable[[float | None], None],
    grace: float,
    reload: Callable[[], None] | None = None,
) -> Iterator[int | None]:
    """SIGINT and SIGTERM stop the server: the first gracefully, a second at once (exit code 128 + number).

    SIGHUP calls ``reload``; without one, and where there is no such signal, it keeps its meaning.

    Yields a descriptor that becomes readable when a signal has come, for whoever waits in native code. Off the
    main thread nothing is installed and ``None`` is yielded.
    """
    if threading.current_thread() is not threading.main_thread():
        yield None
        return
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    state = _Signals(stop, grace)
    known = {
        number: signal.signal(number, state.handle) for number in (signal.SIGINT, signal.SIGTERM)
    }
    if reload is not None and hasattr(signal, "SIGHUP"):
        known[signal.SIGHUP] = signal.signal(signal.SIGHUP, lambda _number, _frame: reload())
    wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    try:
        yield reader.fileno()
    finally:
        state.over()
        signal.set_wakeup_fd(wakeup)
        for number, handler in known.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        reader.close()
        writer.close()


class _Signals:
    def __init__(self, stop: Callable[[float | None], None], grace: float) -> None:
        self._stop = stop
        self._grace = grace
        self._timer: threading.Timer | None = None
        self._late = False

    def handle(self, number: int, _frame: FrameType | None) -> None:
        if self._late:
            raise StopNow(None)
        if self._timer is not None:
            self._stop(0.0)
            raise StopNow(128 + number)
        # A handler that never returns keeps the main thread; only a signal gets it out of a system call.
        self._timer = threading.Timer(self._grace + _MARGIN, self._interrupt, (number,))
        self._timer.daemon = True
        self._stop(None)
        self._timer.start()

    def over(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            # The second signal may have come while the first one's handler started the timer.
            if self._timer.ident is not None:
                self._timer.join()

    def _interrupt(self, number: int) -> None:
        self._late = True
        signal.pthread_kill(threading.main_thread().ident or 0, number)


@contextlib.contextmanager
def follow(
    shutdown_signal: ShutdownSignal | None, stop: Callable[[float | None], None]
) -> Iterator[None]:
    """Stops a blocking server when ``shutdown_signal`` is set. Awaitables need a loop: see :func:`follow_in_loop`."""
    if shutdown_signal is None:
        yield
    elif isinstance(shutdown_signal, concurrent.futures.Future):
        shutdown_signal.add_done_callback(lambda _: stop(None))
        yield
    elif isinstance(shutdown_signal, threading.Event):
        over = threading.Event()
        thread = threading.Thread(
            target=_wait_for,
            args=(shutdown_signal, over, stop),
            name="server-native-shutdown",
            daemon=True,
        )
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
    else:
        raise ConfigurationError(
            "shutdown_signal of a server with a plain handler must be a threading.Event or a "
            f"concurrent.futures.Future, found {shutdown_signal!r}: nothing could await it"
        )


def _wait_for(
    event: threading.Event, over: threading.Event, stop: Callable[[float | None], None]
) -> None:
    # Two events cannot be waited for at once; the server's end may be noticed a tenth of a second late.
    while not over.is_set():
        if event.wait(0.1):
            stop(None)
            return


async def follow_in_loop(
    shutdown_signal: ShutdownSignal, stop: Callable[[float | None], None]
) -> None:
    """Waits for any kind of ``shutdown_signal`` and stops the server."""
    if isinstance(shutdown_signal, asyncio.Event):
        await shutdown_signal.wait()
    elif isinstance(shutdown_signal, threading.Event):
        while not shutdown_signal.is_set():  # noqa: ASYNC110 - a threading.Event cannot be awaited
            await asyncio.sleep(0.05)
    elif isinstance(shutdown_signal, concurrent.futures.Future):
        # Its outcome does not matter, only that there is one.
        await asyncio.wait([asyncio.wrap_future(shutdown_signal)])
    elif inspect.isawaitable(shutdown_signal):
        await shutdown_signal
    else:
        raise ConfigurationError(
            f"shutdown_signal must be an event, a future or awaitable, found {shutdown_signal!r}"
        )
    stop(None)


def drain_wakeups(descriptor: int) -> None:
    """Reads the signal numbers away; the handlers have run by now."""
    with contextlib.suppress(BlockingIOError):
        os.read(descriptor, 4096)
