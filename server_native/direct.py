"""The direct API: one handler, one call.

>>> from server_native import NativeDirectResponse
>>> def handler(request):
...     return NativeDirectResponse.text("hello " + request.path)

``serve_native_direct(handler, port=8080)`` then serves it until SIGINT or SIGTERM; ``start_native_direct`` does
the same inside a running asyncio loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import ipaddress
import logging
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping
from types import TracebackType
from typing import Any, TypeAlias

from . import _lifecycle
from ._dispatch import Pump
from ._lifecycle import ShutdownSignal, StopNow
from ._loops import LoopPump, new_event_loop, run_in_loop
from ._sites import InlineSite
from ._tasks import TaskSite
from .config import Limits, ServerConfig
from .errors import ConfigurationError, StoppingError
from .http import HandlerResult, NativeDirectRequest, as_response

__all__ = [
    "NativeDirectHandler",
    "NativeServer",
    "serve_native_direct",
    "start_native_direct",
]

NativeDirectHandler: TypeAlias = Callable[
    [NativeDirectRequest], "HandlerResult | Awaitable[HandlerResult]"
]
log = logging.getLogger("server_native")

#: Seconds handlers that were cancelled, or threads that were told, may take to notice.
_PATIENCE = 1.0

Host: TypeAlias = "str | ipaddress.IPv4Address | ipaddress.IPv6Address"
Routes: TypeAlias = "Mapping[str, HandlerResult]"


class NativeServer:
    """A running server. Made by ``start_native_direct``, or given to ``on_ready`` of ``serve_native_direct``."""

    def __init__(
        self, config: ServerConfig, pump: Pump, listener: int, address: tuple[str, int]
    ) -> None:
        self._config = config
        self._pump = pump
        self._listener = listener
        self._stopping = False
        self._over = _Over()
        #: Every address it listens on, as host and port.
        self.addresses: tuple[tuple[str, int], ...] = (address,)

    @property
    def port(self) -> int:
        """The port, as chosen by the system when 0 was asked for."""
        return self.addresses[0][1]

    @property
    def url(self) -> str:
        """Where a client on this machine finds it."""
        host, port = self.addresses[0]
        # An unspecified address is no place to connect to.
        if ipaddress.ip_address(host).is_unspecified:
            host = "::1" if ":" in host else "127.0.0.1"
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def close(self, *, grace: float | None = None) -> Awaitable[None]:
        """Begins to stop and returns at once; awaiting the result waits for the end. From any thread.

        No new connection is accepted, requests in flight have ``grace`` seconds (the configured ones by
        default), handlers are told a moment before that, what is left then is reset. Calling it again can only
        hasten the end.
        """
        self._stopping = True
        with contextlib.suppress(StoppingError):
            self._pump.stop(self._config.grace if grace is None else grace)
        return self._over

    def stats(self) -> dict[str, int]:
        """Figures of the native side as of now: connections, streams, what was refused. For eyes and tests."""
        return self._pump.runtime.stats()

    def _stop(self, grace: float | None = None) -> None:
        self.close(grace=grace)


class _Over:
    """The end of a server; awaitable in any number of tasks of its loop."""

    def __init__(self) -> None:
        self._future: asyncio.Future[None] | None = None
        self._set = False

    def set(self) -> None:
        self._set = True
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    def __await__(self) -> Generator[Any, None, None]:
        if not self._set:
            if self._future is None:
                self._future = asyncio.get_running_loop().create_future()
            yield from asyncio.shield(self._future).__await__()


def serve_native_direct(
    handler: NativeDirectHandler,
    *,
    host: Host = "127.0.0.1",
    port: int = 8080,
    backlog: int = 1024,
    v6_only: bool = False,
    shared: bool = False,
    http2: bool = True,
    io_threads: int | None = None,
    threads: int = 0,
    handler_timeout: float | None = None,
    shutdown_signal: ShutdownSignal | None = None,
    grace: float = 10.0,
    limits: Limits | None = None,
    routes: Routes | None = None,
    on_ready: Callable[[NativeServer], object] | None = None,
) -> None:
    """Serves HTTP with ``handler`` and blocks until the server is stopped.

    ``handler`` takes a :class:`~server_native.NativeDirectRequest` and returns a response, or is ``async def``
    and does so. Plain handlers run in this thread when the whole request is here and on a pool otherwise;
    ``threads=N`` runs all of them on N threads. Asynchronous ones run as tasks of a loop made for them.

    :param host: address or name; ``ipaddress`` objects too.
    :param port: 0 lets the system choose; ``on_ready`` gets the server, and its ``port``, once it accepts.
    :param backlog: connections the kernel keeps waiting.
    :param v6_only: an IPv6 address takes no IPv4 connections.
    :param shared: other processes may share the port (SO_REUSEPORT).
    :param http2: HTTP/2 with prior knowledge on the same port.
    :param io_threads: 0 drives the sockets in this thread, N in N native ones; ``None`` chooses.
    :param handler_timeout: seconds after which an asynchronous handler is cancelled and 503 sent.
    :param shutdown_signal: an event, a future or (asynchronous handlers only) an awaitable that stops the server.
    :param grace: seconds requests in flight get at a stop.
    :param limits: see :class:`~server_native.Limits`.
    :param routes: constant responses by path, answered natively without Python.

    SIGINT and SIGTERM (in the main thread) stop it gracefully and it returns; a second one forces the end and
    exits with 128 + the signal's number. Raises ``OSError`` (:class:`~server_native.errors.NativeIOError`) when
    it cannot listen and :class:`~server_native.errors.ConfigurationError` for an impossible option.
    """
    config = ServerConfig.parse(
        host=host,
        port=port,
        backlog=backlog,
        v6_only=v6_only,
        shared=shared,
        http2=http2,
        io_threads=io_threads,
        threads=threads,
        handler_timeout=handler_timeout,
        grace=grace,
        limits=limits,
        routes=routes,
    )
    serve = _serve_in_loop if _is_async(handler) else _serve_inline
    serve(handler, config, shutdown_signal, on_ready)


def start_native_direct(
    handler: NativeDirectHandler,
    *,
    host: Host = "127.0.0.1",
    port: int = 0,
    backlog: int = 1024,
    v6_only: bool = False,
    shared: bool = False,
    http2: bool = True,
    io_threads: int | None = None,
    threads: int = 0,
    handler_timeout: float | None = None,
    shutdown_signal: ShutdownSignal | None = None,
    grace: float = 10.0,
    limits: Limits | None = None,
    routes: Routes | None = None,
) -> StartedServer:
    """Starts serving inside the running asyncio loop, for an ``async with`` block.

    Options as :func:`serve_native_direct`; signals are the caller's. Leaving the block closes the server with
    its ``grace``. ``await start_native_direct(...)`` works too, and leaves closing to ``await server.close()``.
    """
    config = ServerConfig.parse(
        host=host,
        port=port,
        backlog=backlog,
        v6_only=v6_only,
        shared=shared,
        http2=http2,
        io_threads=io_threads,
        threads=threads,
        handler_timeout=handler_timeout,
        grace=grace,
        limits=limits,
        routes=routes,
    )
    return StartedServer(handler, config, shutdown_signal)


class StartedServer:
    """What :func:`start_native_direct` answers: awaitable, and an asynchronous context manager."""

    def __init__(
        self,
        handler: NativeDirectHandler,
        config: ServerConfig,
        shutdown_signal: ShutdownSignal | None,
    ) -> None:
        self._arguments = (handler, config, shutdown_signal)
        self._running: _InLoop | None = None

    def __await__(self) -> Generator[Any, None, NativeServer]:
        return self._start().__await__()

    async def __aenter__(self) -> NativeServer:
        return await self._start()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._running is not None:
            await self._running.server.close()

    async def _start(self) -> NativeServer:
        handler, config, shutdown_signal = self._arguments
        self._running = running = _InLoop(handler, config, asyncio.get_running_loop())
        if shutdown_signal is not None:
            running.follow(shutdown_signal)
        return running.server


def _serve_inline(
    handler: NativeDirectHandler,
    config: ServerConfig,
    shutdown_signal: ShutdownSignal | None,
    on_ready: Callable[[NativeServer], object] | None,
) -> None:
    if config.handler_timeout is not None:
        raise ConfigurationError(
            "handler_timeout needs an asynchronous handler: a plain one cannot be interrupted"
        )
    io_threads = config.io_threads
    pump = Pump((1 if config.threads else 0) if io_threads is None else io_threads)
    server: NativeServer | None = None
    site: InlineSite | None = None
    code = None
    try:
        server = _bind(pump, config)
        site = InlineSite(pump, handler, config, server._stop)
        pump.sites[server._listener] = site
        with (
            _lifecycle.signals(server._stop, config.grace) as wakeups,
            _lifecycle.follow(shutdown_signal, server._stop),
        ):
            if wakeups is not None:
                pump.runtime.watch(wakeups)
            pump.runtime.listen(server._listener)
            _announce(server)
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
    handler: NativeDirectHandler,
    config: ServerConfig,
    shutdown_signal: ShutdownSignal | None,
    on_ready: Callable[[NativeServer], object] | None,
) -> None:
    loop = new_event_loop()
    started: list[_InLoop] = []
    code = None

    async def main() -> None:
        running = _InLoop(handler, config, loop)
        started.append(running)
        server = running.server
        with _lifecycle.signals(server._stop, config.grace) as wakeups:
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


class _InLoop:
    """A server inside an asyncio loop, from bind to the last task."""

    def __init__(
        self, handler: NativeDirectHandler, config: ServerConfig, loop: asyncio.AbstractEventLoop
    ) -> None:
        asynchronous = _is_async(handler)
        if config.handler_timeout is not None and not asynchronous:
            raise ConfigurationError(
                "handler_timeout needs an asynchronous handler: a plain one cannot be interrupted"
            )
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
            self.server = _bind(pump, config)
            stop = self.server._stop
            self.site: TaskSite | InlineSite = (
                TaskSite(pump, handler, config, stop, loop)
                if asynchronous
                else InlineSite(pump, handler, config, stop)
            )
            pump.sites[self.server._listener] = self.site
            pump.runtime.listen(self.server._listener)
        except BaseException:
            self.abandon()
            raise
        _announce(self.server)

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


def _bind(pump: Pump, config: ServerConfig) -> NativeServer:
    listener = pump.runtime.bind(_lifecycle.resolve(config), config)
    for path, result in config.routes.items():
        response = as_response(result)
        if response.source is not None:
            raise ConfigurationError(
                f"the route {path!r} must be a response with a whole body, not a stream"
            )
        pump.runtime.route(listener, path, response.status, response.fields, response.payload)
    return NativeServer(config, pump, listener, pump.runtime.address(listener))


def _throw(error: BaseException) -> None:
    raise error


def _announce(server: NativeServer) -> None:
    log.info("server_native listens on %s", server.url)


def _is_async(handler: NativeDirectHandler) -> bool:
    if not callable(handler):
        raise ConfigurationError(
            f"the handler must be callable with one request, found {handler!r}"
        )
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(
        type(handler).__call__
    )


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
