"""Network servers for Python on one native core.

>>> from server_native import NativeDirectResponse, serve_native_direct
>>> def handler(request):
...     return NativeDirectResponse.text("hello " + request.path)

and ``serve_native_direct(handler, port=8080)`` serves HTTP/1.1 and HTTP/2 until it is stopped.

The map: `direct` (one handler, one call), `callback` (a handler of HttpServer requests), `multi` (several addresses),
`http` (requests and responses), `http_server` (a stream of requests), `http_request`, `http_response`,
`response_headers`, `cookies`, `sessions`, `compress` (what those hold), `websocket` and `detached` (what a request
may become), `tls` (what is known of it), `headers`, `config` (options and limits), `binds` (where a server listens),
`errors`. Below them, private: `_serve` and `_server` (the engine), `_options` (keyword options), `_arrivals` and
`_outlet` (between `http_server` and the engine), `_sites`, `_tasks` and `_pool` (how handlers run), `_lifecycle`
(signals), `_loops` (asyncio), `_addresses` (words and names), `_dispatch` (the pump), `_streams` and `_messages`
(bodies and messages), `_outbox` (commands), `_ffi` (ctypes), `_library` (finding the native library), `_checks`,
`_bindings` (generated). Importing this package loads no native library; the first server does.
"""

from __future__ import annotations

from ._loops import new_event_loop
from .binds import NativeServerBind
from .callback import (
    serve_native_http,
    serve_secure_native_http,
    start_native_http,
    start_secure_native_http,
)
from .config import (
    HttpServeOptions,
    Limits,
    MultiServeOptions,
    SecureHttpServeOptions,
    SecureMultiServeOptions,
    SecureServeOptions,
    ServeOptions,
)
from .cookies import Cookie
from .detached import DetachedSocket, ThreadDetachedSocket
from .direct import (
    NativeDirectHandler,
    NativeServer,
    serve_native_direct,
    serve_secure_native_direct,
    start_native_direct,
    start_secure_native_direct,
)
from .errors import (
    CertificateError,
    ClientDisconnected,
    ConfigurationError,
    ContentLengthError,
    HandshakeError,
    ResponseSentError,
    ServerNativeError,
    WebSocketClosed,
    WriteBufferFullError,
)
from .headers import Headers
from .http import NativeDirectRequest, NativeDirectResponse
from .http_request import HttpRequest
from .http_response import ConnectionInfo, HttpResponse
from .http_server import ConnectionsInfo, HttpHandler, NativeHttpServer
from .multi import (
    NativeMultiServer,
    serve_native_multi,
    serve_secure_native_multi,
    start_native_multi,
    start_secure_native_multi,
)
from .response_headers import ResponseHeaders
from .sessions import Session
from .tls import TLSInfo
from .websocket import ThreadWebSocket, WebSocket

__all__ = [
    "CertificateError",
    "ClientDisconnected",
    "ConfigurationError",
    "ConnectionInfo",
    "ConnectionsInfo",
    "ContentLengthError",
    "Cookie",
    "DetachedSocket",
    "HandshakeError",
    "Headers",
    "HttpHandler",
    "HttpRequest",
    "HttpResponse",
    "HttpServeOptions",
    "Limits",
    "MultiServeOptions",
    "NativeDirectHandler",
    "NativeDirectRequest",
    "NativeDirectResponse",
    "NativeHttpServer",
    "NativeMultiServer",
    "NativeServer",
    "NativeServerBind",
    "ResponseHeaders",
    "ResponseSentError",
    "SecureHttpServeOptions",
    "SecureMultiServeOptions",
    "SecureServeOptions",
    "ServeOptions",
    "ServerNativeError",
    "Session",
    "TLSInfo",
    "ThreadDetachedSocket",
    "ThreadWebSocket",
    "WebSocket",
    "WebSocketClosed",
    "WriteBufferFullError",
    "new_event_loop",
    "serve_native_direct",
    "serve_native_http",
    "serve_native_multi",
    "serve_secure_native_direct",
    "serve_secure_native_http",
    "serve_secure_native_multi",
    "start_native_direct",
    "start_native_http",
    "start_native_multi",
    "start_secure_native_direct",
    "start_secure_native_http",
    "start_secure_native_multi",
    "transport_abi_version",
]

__version__ = "0.1.0"


def transport_abi_version() -> str:
    """Version and ABI identity of the native library, which is loaded for it: ``0.1.0+<hash>``."""
    from ._ffi import abi_version

    return abi_version()
