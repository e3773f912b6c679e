"""Network servers for Python on one native core.

>>> from server_native import NativeDirectResponse, serve_native_direct
>>> def handler(request):
...     return NativeDirectResponse.text("hello " + request.path)

and ``serve_native_direct(handler, port=8080)`` serves HTTP/1.1 and HTTP/2 until it is stopped.

The map: `direct` (one handler, one call), `http` (its requests and responses), `http_server` (a stream of requests),
`http_request`, `http_response`, `response_headers`, `cookies`, `sessions`, `compress` (what those hold), `headers`,
`config` (options and limits), `errors`. Below them, private: `_arrivals` and `_outlet` (between `http_server` and the
engine), `_sites`, `_tasks` and `_pool` (how handlers run), `_lifecycle` (signals), `_loops` (asyncio), `_dispatch` (the
pump), `_streams` (bodies), `_outbox` (commands), `_ffi` (ctypes), `_library` (finding the native library), `_bindings`
(generated). Importing this package loads no native library; the first server does.
"""

from __future__ import annotations

from ._loops import new_event_loop
from .config import Limits
from .cookies import Cookie
from .direct import NativeDirectHandler, NativeServer, serve_native_direct, start_native_direct
from .errors import (
    ClientDisconnected,
    ConfigurationError,
    ContentLengthError,
    ResponseSentError,
    ServerNativeError,
    WriteBufferFullError,
)
from .headers import Headers
from .http import NativeDirectRequest, NativeDirectResponse
from .http_request import HttpRequest
from .http_response import ConnectionInfo, HttpResponse
from .http_server import ConnectionsInfo, HttpHandler, NativeHttpServer
from .response_headers import ResponseHeaders
from .sessions import Session

__all__ = [
    "ClientDisconnected",
    "ConfigurationError",
    "ConnectionInfo",
    "ConnectionsInfo",
    "ContentLengthError",
    "Cookie",
    "Headers",
    "HttpHandler",
    "HttpRequest",
    "HttpResponse",
    "Limits",
    "NativeDirectHandler",
    "NativeDirectRequest",
    "NativeDirectResponse",
    "NativeHttpServer",
    "NativeServer",
    "ResponseHeaders",
    "ResponseSentError",
    "ServerNativeError",
    "Session",
    "WriteBufferFullError",
    "new_event_loop",
    "serve_native_direct",
    "start_native_direct",
    "transport_abi_version",
]

__version__ = "0.1.0"


def transport_abi_version() -> str:
    """Version and ABI identity of the native library, which is loaded for it: ``0.1.0+<hash>``."""
    from ._ffi import abi_version

    return abi_version()
