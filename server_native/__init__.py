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
`_bindings` (generated). Importing this package imports none of them, and no native library: the first use of a name
imports its module, the first server looks for the library (`_library` says where: `_places`, `_judge`, `_trust`,
`_build` and `_sources` help it, `setup` fetches and explains).
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False
if TYPE_CHECKING:
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

#: Where each name is from. Its module is imported when it is first asked for: most of what that takes is asyncio, which
#: a program that only looks at the version, or forks before it serves, need not pay for.
_HOMES = {
    name: module
    for module, names in {
        "_loops": ("new_event_loop",),
        "binds": ("NativeServerBind",),
        "callback": (
            "serve_native_http",
            "serve_secure_native_http",
            "start_native_http",
            "start_secure_native_http",
        ),
        "config": (
            "HttpServeOptions",
            "Limits",
            "MultiServeOptions",
            "SecureHttpServeOptions",
            "SecureMultiServeOptions",
            "SecureServeOptions",
            "ServeOptions",
        ),
        "cookies": ("Cookie",),
        "detached": (
            "DetachedSocket",
            "ThreadDetachedSocket",
        ),
        "direct": (
            "NativeDirectHandler",
            "NativeServer",
            "serve_native_direct",
            "serve_secure_native_direct",
            "start_native_direct",
            "start_secure_native_direct",
        ),
        "errors": (
            "CertificateError",
            "ClientDisconnected",
            "ConfigurationError",
            "ContentLengthError",
            "HandshakeError",
            "ResponseSentError",
            "ServerNativeError",
            "WebSocketClosed",
            "WriteBufferFullError",
        ),
        "headers": ("Headers",),
        "http": (
            "NativeDirectRequest",
            "NativeDirectResponse",
        ),
        "http_request": ("HttpRequest",),
        "http_response": (
            "ConnectionInfo",
            "HttpResponse",
        ),
        "http_server": (
            "ConnectionsInfo",
            "HttpHandler",
            "NativeHttpServer",
        ),
        "multi": (
            "NativeMultiServer",
            "serve_native_multi",
            "serve_secure_native_multi",
            "start_native_multi",
            "start_secure_native_multi",
        ),
        "response_headers": ("ResponseHeaders",),
        "sessions": ("Session",),
        "tls": ("TLSInfo",),
        "websocket": (
            "ThreadWebSocket",
            "WebSocket",
        ),
    }.items()
    for name in names
}


if not TYPE_CHECKING:  # which would then find every name here

    def __getattr__(name: str) -> object:
        if name in _HOMES:
            value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
            globals()[name] = value
            return value
        # `import server_native` has always made `server_native.errors` and the others available.
        if name in _HOMES.values() and not name.startswith("_"):
            return importlib.import_module(f"{__name__}.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


def transport_abi_version() -> str:
    """Version and ABI identity of the native library, which is loaded for it: ``0.1.0+<hash>``.

    The whole package is imported as well: a program that goes into a chroot, or becomes a user who cannot read its
    files, calls this before.
    """
    for module in {*_HOMES.values()}:
        importlib.import_module(f"{__name__}.{module}")
    from ._ffi import abi_version

    return abi_version()
