"""The engine: running a server, blocking or inside the caller's loop. Every public way to serve is a layer over it.

It takes a plain or asynchronous function of one :class:`~server_native.NativeDirectRequest` and a parsed
configuration; other styles of handlers are such functions made of theirs.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Callable, Coroutine, Generator
from types import TracebackType
from typing import Any, Generic, TypeVar

from . import _lifecycle
from ._dispatch import Pump
from ._lifecycle import ShutdownSignal, StopNow
from ._loops import LoopPump, new_event_loop, run_in_loop
from ._server import NativeServer
from ._sites import Handler, InlineSite
from ._tasks import TaskSite
from .config import ServerConfig
from .errors import ConfigurationError

__all__ = ["OnReady", "StartedServer", "serve"]

OnReady = Callable[[NativeServer], object]
_Server = TypeVar("_Server", bound=NativeServer)

#: Seconds handlers that were cancelled, or threads that were told, may take to notice.
_PATIENCE = 1.0


def serve(
    handler: Handler,
    config: ServerConfig,
    shutdown_signal: ShutdownSignal | None,
    on_ready: OnReady | None,
) -> None:
    """Serves ``handler`` and blocks until the server is stopped, by a signal of the process too.

    What ``serve_native_direct`` says about signals, errors and exit codes is done here.
    """
    run = _serve_in_loop if _is_async(handler, config) else _serve_inline
    run(handler, config, shutdown_signal, on_ready)


class StartedServer(Generic[_Server]):
    """A server on its way, as the ``start_*`` functions answer it: awaitable, and an asynchronous context manager."""

    def __init__(
        self,
        kind: type[_Server],
        handler: Handler,
        config: ServerConfig,
        shutdown_signal: ShutdownSignal | None,
    ) -> None:
        self._kind = kind
        self._handler = handler
        self._config = config
        self._shutdown_signal = shutdown_signal
        self._server: _Server | None = None

    def __await__(self) -> Generator[Any, None, _Server]:
        return self._start().__await__()

    async def __aenter__(self) -> _Server:
        return await self._start()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._server is not None:
            await self._server.close()

    async def _start(self) -> _Server:
        loop = asyncio.get_running_loop()
        running = _InLoop(self._kind, self._handler, self._config, loop)
        self._server = running.server
        if self._shutdown_signal is not None:
            running.follow(self._shutdown_signal)
        return running.server


def _serve_inline(
    handler: Handler,
    config: ServerConfig,
    shutdown_signal: ShutdownSignal | None,
    on_ready: OnReady | None,
) -> None:
    io_threads = config.io_threads
    pump = Pump((1 if config.threads else 0) if io_threads is None else io_threads)
    server: NativeServer | None = None
    site: InlineSite | None = None
    code = None
    try:
        server = NativeServer(config, pump)
        site = InlineSite(pump, handler, config, server._stop)
        with (
            _signals(server, config) as wakeups,
            _lifecycle.follow(shutdown_signal, server._stop),
        ):
            if wakeups is not None:
                pump.runtime.watch(wakeups)
            server._accept(site)
            if on_ready is not None:
                on_ready(server)
            while not pump.closed:
                pump.turn(None)
                if pump.watched and wakeups is not None:
                    pump.watched = False
                    _lifecycle.drain_wakeups(wakeups)
    except StopNow as stop:
        code = stop.number
    finally:
        pump.abandon()
        if site is not None:
            site.end(_PATIENCE)
        pump.free()
        if server is not None:
            server._over.set()
    if site is not None and site.raised is not None:
        raise site.raised
    if code is not None:
        raise SystemExit(code)


def _serve_in_loop(
    handler: Handler,
    config: ServerConfig,
    shutdown_signal: ShutdownSignal | None,
    on_ready: OnReady | None,
) -> None:
    loop = new_event_loop()
    started: list[_InLoop[NativeServer]] = []
    code = None

    async def main() -> None:
        running = _InLoop(NativeServer, handler, config, loop)
        started.append(running)
        server = running.server
        with _signals(server, config) as wakeups:
            if wakeups is not None:
                loop.add_reader(wakeups, _lifecycle.drain_wakeups, wakeups)
            try:
                if shutdown_signal is not None:
                    running.follow(shutdown_signal)
                if on_ready is not None:
                    on_ready(server)
                await server._over
            except BaseException:
                await server.close(grace=0.0)
                raise
            finally:
                if wakeups is not None:
                    loop.remove_reader(wakeups)

    try:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(main())
    except StopNow as stop:
        code = stop.number
    finally:
        for running in started:
            running.abandon()
            running.server._over.set()
        _close_loop(loop)
    raised = started[0].site.raised
    if raised is not None:
        raise raised
    if code is not None:
        raise SystemExit(code)


class _InLoop(Generic[_Server]):
    """A server inside an asyncio loop, from bind to the last task."""

    def __init__(
        self,
        kind: type[_Server],
        handler: Handler,
        config: ServerConfig,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        asynchronous = _is_async(handler, config)
        io_threads = config.io_threads
        if io_threads is None and config.threads:
            io_threads = 1
        self._loop = loop
        self._host: LoopPump | None = run_in_loop(loop, io_threads)
        self._host.on_closed = self._closed
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        pump = self._host.pump
        try:
            self.server = kind(config, pump)
            stop = self.server._stop
            self.site: TaskSite | InlineSite = (
                TaskSite(pump, handler, config, stop, loop)
                if asynchronous
                else InlineSite(pump, handler, config, stop)
            )
            self.server._accept(self.site)
        except BaseException:
            self.abandon()
            raise

    def follow(self, shutdown_signal: ShutdownSignal) -> None:
        """Stops the server when this is set."""
        self._spawn(_lifecycle.follow_in_loop(shutdown_signal, self.server._stop))

    def abandon(self) -> None:
        """Frees the native side now, whatever runs."""
        host, self._host = self._host, None
        if host is not None:
            host.free()

    def _closed(self) -> None:
        if self._host is not None and not self._closing:
            self._closing = True
            self._spawn(self._finish())

    async def _finish(self) -> None:
        this = asyncio.current_task()
        followers = [task for task in self._tasks if task is not this]
        for task in followers:
            task.cancel()
        handlers = self.site.tasks() if isinstance(self.site, TaskSite) else []
        if handlers or followers:
            # Cancelled already; one that takes no notice is left to its loop.
            await asyncio.wait([*handlers, *followers], timeout=_PATIENCE)
        until = self._loop.time() + _PATIENCE
        while self.site.busy and self._loop.time() < until:  # noqa: ASYNC110 - threads announce nothing
            # Threads were told too; the loop must not block for them.
            await asyncio.sleep(0.005)
        self.site.end(0.0)
        self.abandon()
        self.server._over.set()
        if self.site.raised is not None:
            # Out of the loop, as from any callback: the task that started the server may wait for something else.
            self._loop.call_soon(_throw, self.site.raised)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _throw(error: BaseException) -> None:
    raise error


def _is_async(handler: Handler, config: ServerConfig) -> bool:
    if not callable(handler):
        raise ConfigurationError(
            f"the handler must be callable with one request, found {handler!r}"
        )
    found = inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(
        type(handler).__call__
    )
    if config.handler_timeout is not None and not found:
        raise ConfigurationError(
            "handler_timeout needs an asynchronous handler: a plain one cannot be interrupted"
        )
    return found


def _signals(
    server: NativeServer, config: ServerConfig
) -> contextlib.AbstractContextManager[int | None]:
    reload = None if config.tls is None else server._reload
    return _lifecycle.signals(server._stop, config.grace, reload)


def _close_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Closes a loop without waiting for ever: a task may refuse to be cancelled."""
    try:
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.wait(tasks, timeout=_PATIENCE))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        asyncio.set_event_loop(None)
        loop.close()
