"""The callback style: one handler, called with an :class:`~server_native.HttpRequest` for every request.

>>> from server_native import serve_native_http
>>> async def handler(request):
...     request.response.write("hello " + request.uri)

``serve_native_http(handler, port=8080)`` then serves it until SIGINT or SIGTERM. The response is closed when the
handler has returned; plain handlers run on the loop and must not block it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._lifecycle import ShutdownSignal
from ._options import accepts
from ._serve import OnReady, StartedServer, serve
from ._server import NativeServer
from .config import HttpServeOptions, HttpServerConfig, SecureHttpServeOptions, ServerConfig
from .errors import ConfigurationError
from .http import NativeDirectRequest, NativeDirectResponse
from .http_server import HttpHandler, NativeHttpServer

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "serve_native_http",
    "serve_secure_native_http",
    "start_native_http",
    "start_secure_native_http",
]


@accepts(HttpServeOptions, port=8080)
def serve_native_http(
    handler: HttpHandler,
    *,
    shutdown_signal: ShutdownSignal | None = None,
    on_ready: OnReady | None = None,
    **options: Unpack[HttpServeOptions],
) -> None:
    """Serves HTTP with a handler of HttpServer requests and blocks until the server is stopped.

    ``handler(request)`` is plain or asynchronous and writes to ``request.response``, which is closed when it has
    returned. One that raises is logged with its traceback; the client gets 500, or an abrupt end when the head has
    gone. Signals, errors and options as ``serve_native_direct``; further options see
    :class:`~server_native.config.HttpServerOptions`.
    """
    serve(*_adapted(handler, options), shutdown_signal, on_ready)


@accepts(SecureHttpServeOptions, host="localhost", port=443)
def serve_secure_native_http(
    handler: HttpHandler,
    *,
    shutdown_signal: ShutdownSignal | None = None,
    on_ready: OnReady | None = None,
    **options: Unpack[SecureHttpServeOptions],
) -> None:
    """Serves HTTPS with a handler of HttpServer requests; as :func:`serve_native_http`, with certificates."""
    serve(*_adapted(handler, options), shutdown_signal, on_ready)


@accepts(HttpServeOptions)
def start_native_http(
    handler: HttpHandler,
    *,
    shutdown_signal: ShutdownSignal | None = None,
    **options: Unpack[HttpServeOptions],
) -> StartedServer[NativeServer]:
    """Starts serving inside the running asyncio loop, for an ``async with`` block; as :func:`serve_native_http`."""
    return StartedServer(NativeServer, *_adapted(handler, options), shutdown_signal)


@accepts(SecureHttpServeOptions, host="localhost")
def start_secure_native_http(
    handler: HttpHandler,
    *,
    shutdown_signal: ShutdownSignal | None = None,
    **options: Unpack[SecureHttpServeOptions],
) -> StartedServer[NativeServer]:
    """Starts serving HTTPS inside the running asyncio loop; as :func:`serve_secure_native_http`."""
    return StartedServer(NativeServer, *_adapted(handler, options), shutdown_signal)


def _adapted(handler: HttpHandler, options: Any) -> tuple[_Handler, ServerConfig]:
    own = HttpServerConfig.take(options)
    config = ServerConfig.parse(**options)
    return _Handler(handler, own, config), config


class _Handler:
    """A handler of the engine made of one of HttpServer requests."""

    def __init__(self, handler: HttpHandler, own: HttpServerConfig, config: ServerConfig) -> None:
        if not callable(handler):
            raise ConfigurationError(
                f"the handler must be callable with one request, found {handler!r}"
            )
        self._handler = handler
        self._own = own
        self._config = config
        #: Made in the loop that serves.
        self._server: NativeHttpServer | None = None

    async def __call__(self, request: NativeDirectRequest) -> NativeDirectResponse | None:
        if self._server is None:
            self._server = NativeHttpServer(self._own, self._config.limits, self._config.grace)
        return await self._server._call(self._handler, request)
