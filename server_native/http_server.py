"""The HttpServer style: a server is an asynchronous stream of requests, each with its response.

>>> from server_native import NativeHttpServer
>>> async def main():
...     async with NativeHttpServer.bind(port=8080) as server:
...         async for request in server:
...             request.response.write("hello " + request.uri)
...             await request.response.close()

A thin layer over ``start_native_direct``: every request is an asynchronous handler of the one engine, which waits
for what is written to the response. Servers that share a port (``shared=True``) need nothing of each other: the
kernel deals the connections out.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias

from ._arrivals import Arrivals
from ._lifecycle import ShutdownSignal, follow_in_loop
from ._outlet import UNAVAILABLE, Outlet
from .config import HttpServerConfig, Limits
from .cookies import Cookie
from .direct import start_native_direct, start_secure_native_direct
from .errors import ClientDisconnected, ConfigurationError, HandshakeError, StoppingError
from .http import NativeDirectRequest, NativeDirectResponse
from .http_request import HttpRequest
from .http_response import ResponseDefaults
from .response_headers import ResponseHeaders
from .sessions import SessionStore

if TYPE_CHECKING:
    from .binds import Host
    from .direct import NativeServer

__all__ = ["ConnectionsInfo", "HttpHandler", "NativeHttpServer"]

log = logging.getLogger("server_native")

#: What is called with a request, plain or asynchronous; its response is closed afterwards, what it returns is dropped.
HttpHandler: TypeAlias = "Callable[[HttpRequest], object | Awaitable[object]]"

#: Seconds a connection may stay without a request, unless `idle_timeout` or `limits` say otherwise.
_IDLE_TIMEOUT = 120.0
#: Seconds requests in flight get when the server closes.
_GRACE = 5.0
#: The most the native side counts to.
_IDLE_MS = (10, 2**32 - 1)


@dataclass(frozen=True)
class ConnectionsInfo:
    """How many connections a server has."""

    total: int
    #: With a request that is not answered to its end.
    active: int
    #: Open, and waiting for a request.
    idle: int
    #: Without a request, and about to close with the server.
    closing: int


class NativeHttpServer:
    """A server whose requests are taken with ``async for``. Made by :meth:`bind` and its kin.

    Belongs to the thread of its loop. Requests wait until somebody takes them, ``max_pending_requests`` at most; beyond
    that, once the ``async for`` was left, and while the server closes, clients get 503. Several ``async for`` share the
    requests.

    Whoever takes a request answers it. One that is dropped unanswered gets 500, as soon as nothing refers to it any
    more; mind that the variable of an ``async for`` does so until the next request. ``handler_timeout`` bounds that.
    """

    def __init__(self, config: HttpServerConfig, limits: Limits, grace: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._limits = limits
        self._grace = grace
        self._defaults = ResponseDefaults(write_buffer_bytes=config.write_buffer_bytes)
        self._sessions = SessionStore(self._loop, config.session_timeout, config.max_sessions)
        try:
            Cookie(config.session_cookie).header()
        except ConfigurationError as error:
            raise ConfigurationError(f"session_cookie cannot be used: {error}") from None
        self._session_cookie = config.session_cookie
        self._arrivals: Arrivals[HttpRequest] = Arrivals(config.max_pending_requests)
        self._takers = 0
        # Nobody takes requests any more; before the first `async for` they wait for it.
        self._forsaken = False
        self._closing = False
        self._native: NativeServer | None = None
        self._follower: asyncio.Task[None] | None = None
        self.server_header = config.server_header
        self.auto_compress = config.auto_compress
        #: Requests of :meth:`call` that are being handled.
        self._called: set[asyncio.Task[None]] = set()

    # --- making one -------------------------------------------------------------------------------

    @classmethod
    def bind(
        cls, host: Host | None = None, port: int | None = None, **options: Any
    ) -> StartingServer:
        """Binds a server to ``host`` (127.0.0.1) and ``port`` (0: the system chooses) in the running loop.

        For ``server = await NativeHttpServer.bind(...)``, which leaves closing to :meth:`close`, or
        ``async with NativeHttpServer.bind(...) as server``.

        :param idle_timeout: seconds a connection may stay without a request; 120 by default, or what ``limits`` says
            when that is given. ``None`` is the longest there is, 49 days.
        :param session_timeout: seconds a session lives after its last request; 20 minutes.
        :param session_cookie: name of the cookie; ``SNSESSID``.
        :param max_sessions: sessions kept; beyond, the one idle the longest ends. 10,000.
        :param server_header: value of the ``server`` field; ``None`` sends none.
        :param auto_compress: gzip for clients that ask for it; false, see :attr:`auto_compress`.
        :param max_pending_requests: requests that wait to be taken; the next ones get 503. 1,024.
        :param write_buffer_bytes: bytes of one response that may wait for its client before ``write`` raises; 4 MiB.
        :param grace: seconds requests in flight get when the server closes; 5.
        :param options: everything ``start_native_direct`` takes, ``shared=True`` and ``handler_timeout`` (seconds to
            the head of a response, then 503) among them.

        Raises what ``start_native_direct`` raises.
        """
        return StartingServer(cls, start_native_direct, {**_place(host, port), **options})

    @classmethod
    def bind_secure(
        cls, host: Host | None = None, port: int | None = None, **options: Any
    ) -> StartingServer:
        """Binds a server with TLS to ``host`` (``localhost``) and ``port`` (443); otherwise as :meth:`bind`.

        :param certificate_path: PEM file of the certificate chain.
        :param key_path: PEM file of its key.
        :param options: further ones as of ``start_secure_native_direct``.
        """
        if port is None and not {"uds", "fd"} & options.keys():
            port = 443
        return StartingServer(cls, start_secure_native_direct, {**_place(host, port), **options})

    @classmethod
    def loopback(cls, port: int = 0, **options: Any) -> StartingServer:
        """Binds a server to ``localhost``, for clients on this machine; as :meth:`bind`."""
        return cls.bind("localhost", port, **options)

    @classmethod
    def loopback_secure(cls, port: int = 0, **options: Any) -> StartingServer:
        """Binds a server with TLS to ``localhost``; as :meth:`bind_secure`."""
        return cls.bind_secure("localhost", port, **options)

    # --- what it is like --------------------------------------------------------------------------

    @property
    def addresses(self) -> tuple[tuple[str, Any], ...]:
        """Every address it listens on, as host and port."""
        return self._server.addresses

    @property
    def port(self) -> int:
        """The port, as chosen by the system when 0 was asked for."""
        return self._server.port

    @property
    def url(self) -> str:
        """Where a client on this machine finds it."""
        return self._server.url

    @property
    def default_response_headers(self) -> ResponseHeaders:
        """Header fields every response begins with; change or ``clear()`` them for the requests that come from now on.

        At first: ``content-type: text/plain; charset=utf-8``, ``x-frame-options: SAMEORIGIN``,
        ``x-content-type-options: nosniff`` and ``x-xss-protection: 1; mode=block``.
        """
        return self._defaults.headers

    @property
    def server_header(self) -> str | None:
        """The ``server`` field of responses that have none of their own; ``None`` sends none."""
        return self._defaults.server_header

    @server_header.setter
    def server_header(self, value: str | None) -> None:
        if value is not None:
            # Refused here rather than with each response.
            ResponseHeaders({"server": value})
        self._defaults.server_header = value

    @property
    def auto_compress(self) -> bool:
        """Whether responses are compressed with gzip for clients that ask for it (``accept-encoding``).

        Not those with a ``content-encoding`` of their own, or without a body. Compressing runs on the loop; leave it
        off for responses that hold a secret beside text of the client's choosing (the BREACH attack).
        """
        return self._defaults.auto_compress

    @auto_compress.setter
    def auto_compress(self, value: bool) -> None:
        if not isinstance(value, bool):
            raise ConfigurationError(f"auto_compress must be True or False, found {value!r}")
        self._defaults.auto_compress = value

    @property
    def idle_timeout(self) -> float:
        """Seconds a connection may stay without a request; chosen when the server is bound."""
        return self._limits.idle_ms / 1000

    @property
    def session_timeout(self) -> float:
        """Seconds a session lives after its last request; a change holds for those there are, too."""
        return self._sessions.timeout

    @session_timeout.setter
    def session_timeout(self, seconds: float) -> None:
        self._sessions.timeout = seconds

    def connections_info(self) -> ConnectionsInfo:
        """How many connections there are as of now; none once the server has closed.

        One with several requests, of HTTP/2 or HTTP/3, is one. Costs a look at every stream.
        """
        try:
            figures = self._server.stats()
        except StoppingError:
            return ConnectionsInfo(0, 0, 0, 0)
        total = figures["connections"]
        # A connection that has just ended may still have a request that its handler was not told of.
        active = min(figures["busy"], total)
        rest = total - active
        return ConnectionsInfo(
            total, active, 0 if self._closing else rest, rest if self._closing else 0
        )

    def stats(self) -> dict[str, int]:
        """Figures of the native side as of now; see ``NativeServer.stats``."""
        return self._server.stats()

    # --- taking requests --------------------------------------------------------------------------

    def __aiter__(self) -> AsyncIterator[HttpRequest]:
        return _Taking(self)

    async def serve(self, handler: HttpHandler) -> None:
        """Calls ``handler(request)`` for every request until the server closes, and waits for the last ones.

        An asynchronous handler runs as a task of its own, cancelled when its client has gone; a plain one must not
        block. The response is closed when the handler has returned. A handler that raises is logged with its traceback
        and answered with 500, or with an abrupt end when the head has gone. Cancelling this cancels the handlers.
        """
        if not callable(handler):
            raise ConfigurationError(
                f"the handler must be callable with one request, found {handler!r}"
            )
        running: set[asyncio.Task[None]] = set()
        try:
            async for request in self:
                task = self._loop.create_task(_run(handler, request))
                running.add(task)
                task.add_done_callback(running.discard)
            while running:
                await asyncio.wait(running)
        finally:
            for task in running:
                task.cancel()
            if running:
                await asyncio.wait(running)

    # --- the end ----------------------------------------------------------------------------------

    def close(self, force: bool = False, *, grace: float | None = None) -> Awaitable[None]:
        """Begins to close and returns at once; awaiting the result waits for the end.

        No new connection is accepted, idle ones close, ``async for`` ends, requests nobody took get 503, and those in
        flight have ``grace`` seconds (the configured ones by default); what is left then is reset. ``force`` resets at
        once. Calling it again can only hasten the end.
        """
        self._closing = True
        self._sessions.close()
        self._arrivals.close()
        self._refuse_pending()
        follower, self._follower = self._follower, None
        if follower is not None and follower is not asyncio.current_task(self._loop):
            follower.cancel()
        if grace is None:
            grace = self._grace
        return self._server.close(grace=0.0 if force else grace)

    async def __aenter__(self) -> NativeHttpServer:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        if self._native is None:
            return "<NativeHttpServer not started>"
        return f"<NativeHttpServer {self.url}{' closing' if self._closing else ''}>"

    # --- inside -----------------------------------------------------------------------------------

    @property
    def _server(self) -> NativeServer:
        if self._native is None:
            raise RuntimeError("this server was not started: make one with NativeHttpServer.bind()")
        return self._native

    async def _start(
        self,
        start: Callable[..., Awaitable[NativeServer]],
        shutdown_signal: ShutdownSignal | None,
        options: dict[str, Any],
    ) -> None:
        self._native = await start(self._answer, limits=self._limits, grace=self._grace, **options)
        if shutdown_signal is not None:
            # Followed here and not by the engine, which does not know what waits in `async for`.
            self._follower = self._loop.create_task(follow_in_loop(shutdown_signal, self._stop))

    def _stop(self, _grace: float | None = None) -> None:
        self.close()

    async def _answer(self, direct: NativeDirectRequest) -> NativeDirectResponse | None:
        """The handler of the engine: offers the request and waits for its response."""
        if self._closing or self._forsaken or self._arrivals.full:
            return UNAVAILABLE
        request = self._request(direct)
        outlet = request._outlet
        # By number: a reference to the request would keep a response alive that everybody else has dropped.
        stream = direct.stream
        outlet.on_over.append(lambda _: self._arrivals.withdraw(stream))
        self._arrivals.put(stream, request)
        del request
        return await outlet.response()

    async def _call(
        self, handler: HttpHandler, direct: NativeDirectRequest
    ) -> NativeDirectResponse | None:
        """A handler of the engine: calls ``handler`` with the request and waits for its response."""
        request = self._request(direct)
        task = self._loop.create_task(_run(handler, request))
        self._called.add(task)
        task.add_done_callback(self._called.discard)
        return await request._outlet.response()

    def _request(self, direct: NativeDirectRequest) -> HttpRequest:
        outlet = Outlet(self._loop, self._defaults.write_buffer_bytes)
        return HttpRequest(direct, outlet, self._defaults, self._sessions, self._session_cookie)

    def _refuse_pending(self) -> None:
        for request in self._arrivals.empty():
            request._outlet.whole(UNAVAILABLE)

    def _taker_came(self) -> None:
        self._takers += 1
        self._forsaken = False

    def _taker_left(self) -> None:
        self._takers -= 1
        if not self._takers:
            self._forsaken = True
            self._refuse_pending()


class _Taking(AsyncIterator[HttpRequest]):
    """One ``async for`` over a server. Python drops it when the loop is left, however that happens."""

    def __init__(self, server: NativeHttpServer) -> None:
        self._server = server
        server._taker_came()

    async def __anext__(self) -> HttpRequest:
        return await self._server._arrivals.take()

    def __del__(self) -> None:
        server = self._server
        # Any thread may collect garbage; and at the very end there is no loop to tell.
        with contextlib.suppress(RuntimeError):
            server._loop.call_soon_threadsafe(server._taker_left)


class StartingServer:
    """What :meth:`NativeHttpServer.bind` answers: awaitable, and an asynchronous context manager."""

    def __init__(
        self,
        kind: type[NativeHttpServer],
        start: Callable[..., Awaitable[NativeServer]],
        options: dict[str, Any],
    ) -> None:
        self._kind = kind
        self._begin = start
        self._options = options
        self._server: NativeHttpServer | None = None

    def __await__(self) -> Generator[Any, None, NativeHttpServer]:
        return self._start().__await__()

    async def __aenter__(self) -> NativeHttpServer:
        self._server = await self._start()
        return self._server

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._server is not None:
            await self._server.close()

    async def _start(self) -> NativeHttpServer:
        options = dict(self._options)
        config = HttpServerConfig.take(options)
        grace = options.pop("grace", _GRACE)
        limits = _limits(options)
        shutdown_signal = options.pop("shutdown_signal", None)
        server = self._kind(config, limits, grace)
        await server._start(self._begin, shutdown_signal, options)
        return server


async def _run(handler: HttpHandler, request: HttpRequest) -> None:
    """One request of :meth:`NativeHttpServer.serve`."""
    response, outlet, task = request.response, request._outlet, asyncio.current_task()

    def over(failure: Exception | None) -> None:
        if task is not None and isinstance(failure, ClientDisconnected):
            task.cancel()

    outlet.on_over.append(over)
    outlet.handled = True
    try:
        result = handler(request)
        if inspect.isawaitable(result):
            await result
        outlet.leave(1000)
        await response.close()
    except HandshakeError as error:
        # Unless it is the handler's own, the client was answered where it came from.
        log.info("%r was refused with %d: %s", request, error.status, error)
        outlet.refuse(error)
    except Exception as error:
        gone = isinstance(error, ClientDisconnected)
        if gone and outlet.parted:
            # How a loop over messages ends.
            outlet.leave(1000)
            return
        if not (gone and request.disconnected):
            log.exception("the handler failed on %r", request)
        outlet.refuse(error)
    except BaseException as error:
        # Cancelled, or the program is to end; whoever is left does not wait for it.
        outlet.refuse(RuntimeError(f"the handler was ended by {type(error).__name__}"))
        raise


def _limits(options: dict[str, Any]) -> Limits:
    """The limits of a server, with its idle timeout; both are taken out of ``options``."""
    limits = options.pop("limits", None)
    timeout = options.pop("idle_timeout", ...)
    if limits is not None and (not isinstance(limits, Limits) or timeout is ...):
        # What is no Limits is refused where all options are.
        return limits  # type: ignore[no-any-return]
    if timeout is ...:
        timeout = _IDLE_TIMEOUT
    low, high = _IDLE_MS
    milliseconds = high
    if timeout is not None:
        number = isinstance(timeout, (int, float)) and not isinstance(timeout, bool)
        milliseconds = round(timeout * 1000) if number and timeout < high else 0
        if not low <= milliseconds <= high:
            raise ConfigurationError(
                f"idle_timeout must be seconds from {low / 1000} to {high // 1000}, or None for the longest, "
                f"found {timeout!r}"
            )
    return replace(limits or Limits(), idle_ms=milliseconds)


def _place(host: Host | None, port: int | None) -> dict[str, Any]:
    """What was said of the place; the rest is the engine's default."""
    said = {"host": host, "port": port}
    return {name: value for name, value in said.items() if value is not None}
