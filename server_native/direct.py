"""The direct API: one handler, one call.

>>> from server_native import NativeDirectResponse
>>> def handler(request):
...     return NativeDirectResponse.text("hello " + request.path)

``serve_native_direct(handler, port=8080)`` then serves it until SIGINT or SIGTERM; ``start_native_direct`` does
the same inside a running asyncio loop.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

from ._lifecycle import ShutdownSignal
from ._serve import StartedServer, serve
from ._server import NativeServer
from .config import Limits, ServerConfig
from .http import HandlerResult, NativeDirectRequest

__all__ = [
    "NativeDirectHandler",
    "NativeServer",
    "serve_native_direct",
    "start_native_direct",
]

NativeDirectHandler: TypeAlias = Callable[
    [NativeDirectRequest], "HandlerResult | Awaitable[HandlerResult]"
]

Host: TypeAlias = "str | ipaddress.IPv4Address | ipaddress.IPv6Address"
Routes: TypeAlias = "Mapping[str, HandlerResult]"


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
