"""The direct API: one handler, one call.

>>> from server_native import NativeDirectResponse
>>> def handler(request):
...     return NativeDirectResponse.text("hello " + request.path)

``serve_native_direct(handler, port=8080)`` then serves it until SIGINT or SIGTERM; ``start_native_direct`` does
the same inside a running asyncio loop.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeAlias

from ._lifecycle import ShutdownSignal
from ._options import accepts
from ._serve import OnReady, StartedServer, serve
from ._server import NativeServer
from .config import SecureServeOptions, ServeOptions, ServerConfig
from .http import HandlerResult, NativeDirectRequest

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "NativeDirectHandler",
    "NativeServer",
    "serve_native_direct",
    "serve_secure_native_direct",
    "start_native_direct",
    "start_secure_native_direct",
]

#: What a server calls for every request. ``None`` is the answer of a handler whose request has left HTTP: it has
#: called ``accept_websocket`` or ``detach_socket``.
NativeDirectHandler: TypeAlias = Callable[
    [NativeDirectRequest], "HandlerResult | Awaitable[HandlerResult | None] | None"
]


@accepts(ServeOptions, port=8080)
def serve_native_direct(
    handler: NativeDirectHandler,
    *,
    shutdown_signal: ShutdownSignal | None = None,
    on_ready: OnReady | None = None,
    **options: Unpack[ServeOptions],
) -> None:
    """Serves HTTP with ``handler`` and blocks until the server is stopped.

    ``handler`` takes a :class:`~server_native.NativeDirectRequest` and returns a response, or is ``async def``
    and does so. Plain handlers run in this thread when the whole request is here and on a pool otherwise;
    ``threads=N`` runs all of them on N threads. Asynchronous ones run as tasks of a loop made for them.

    :param shutdown_signal: an event, a future or (asynchronous handlers only) an awaitable that stops the server.
    :param on_ready: is called with the server, and its ``port``, once it accepts.
    :param options: see :class:`~server_native.config.ServeOptions`.

    SIGINT and SIGTERM (in the main thread) stop it gracefully and it returns; a second one forces the end and
    exits with 128 + the signal's number. Raises ``OSError`` (:class:`~server_native.errors.NativeIOError`) when
    it cannot listen, :class:`~server_native.errors.ConfigurationError` for an impossible option and ``TypeError``
    for an unknown one.
    """
    serve(handler, ServerConfig.parse(**options), shutdown_signal, on_ready)


@accepts(SecureServeOptions, host="localhost", port=443)
def serve_secure_native_direct(
    handler: NativeDirectHandler,
    *,
    shutdown_signal: ShutdownSignal | None = None,
    on_ready: OnReady | None = None,
    **options: Unpack[SecureServeOptions],
) -> None:
    """Serves HTTPS with ``handler`` and blocks until the server is stopped.

    As :func:`serve_native_direct`, with the certificate in ``certificate_path`` and its key in ``key_path``; see
    :class:`~server_native.config.TLSOptions`. SIGHUP (in the main thread) reads both again, and keeps the old ones
    when that fails.
    """
    serve(handler, ServerConfig.parse(**options), shutdown_signal, on_ready)


@accepts(ServeOptions)
def start_native_direct(
    handler: NativeDirectHandler,
    *,
    shutdown_signal: ShutdownSignal | None = None,
    **options: Unpack[ServeOptions],
) -> StartedServer[NativeServer]:
    """Starts serving inside the running asyncio loop, for an ``async with`` block.

    Options as :func:`serve_native_direct`; signals are the caller's. Leaving the block closes the server with
    its ``grace``. ``await start_native_direct(...)`` works too, and leaves closing to ``await server.close()``.
    """
    return StartedServer(NativeServer, handler, ServerConfig.parse(**options), shutdown_signal)


@accepts(SecureServeOptions, host="localhost")
def start_secure_native_direct(
    handler: NativeDirectHandler,
    *,
    shutdown_signal: ShutdownSignal | None = None,
    **options: Unpack[SecureServeOptions],
) -> StartedServer[NativeServer]:
    """Starts serving HTTPS inside the running asyncio loop; as :func:`start_native_direct`.

    Certificates are options as of :func:`serve_secure_native_direct`; ``server.reload_certificates()`` reads them
    again.
    """
    return StartedServer(NativeServer, handler, ServerConfig.parse(**options), shutdown_signal)
