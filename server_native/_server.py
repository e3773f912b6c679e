"""A running server, and the listeners it is bound to."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
from collections.abc import Awaitable, Generator
from dataclasses import replace
from types import TracebackType
from typing import Any

from ._addresses import resolve
from ._dispatch import Pump, Site
from .binds import NativeServerBind
from .config import ServerConfig
from .errors import AddressInUseError, ConfigurationError, ServerNativeError, StoppingError
from .http import as_response

__all__ = ["NativeServer"]

log = logging.getLogger("server_native")

#: How often a second loopback may find the port that the system chose for the first one taken.
_RETRIES = 5


class NativeServer:
    """A running server: what the ``start_*`` functions give, and ``on_ready`` of the ``serve_*`` functions gets.

    One server has one native runtime and one or more listeners. ``async with server:`` closes it at the end.
    """

    def __init__(self, config: ServerConfig, pump: Pump) -> None:
        runtime = pump.runtime
        self._config = config
        self._pump = pump
        self._over = _Over()
        self._site: Site | None = None
        self._tls = 0 if config.tls is None else runtime.tls(config.tls)
        self._listeners = tuple(
            listener for bind in config.binds for listener in self._listen_at(bind)
        )
        self._add_routes()
        #: Every address it listens on, as host and port; path and ``None`` for a Unix socket.
        self.addresses: tuple[tuple[str, int | None], ...] = tuple(
            runtime.address(listener) for listener in self._listeners
        )

    @property
    def port(self) -> int:
        """The first address's port, as chosen by the system when 0 was asked for; 0 of a Unix socket."""
        return self.addresses[0][1] or 0

    @property
    def url(self) -> str:
        """Where a client on this machine finds the first address; ``unix:<path>`` for a Unix socket."""
        return self._url(*self.addresses[0])

    def close(self, *, grace: float | None = None) -> Awaitable[None]:
        """Begins to stop and returns at once; awaiting the result waits for the end. From any thread.

        No new connection is accepted, requests in flight have ``grace`` seconds (the configured ones by
        default), handlers are told a moment before that, what is left then is reset. Calling it again can only
        hasten the end.
        """
        with contextlib.suppress(StoppingError):
            self._pump.stop(self._config.grace if grace is None else grace)
        return self._over

    def reload_certificates(self) -> None:
        """Reads the certificates and keys again, for the connections that come from now on. From any thread.

        Blocks for as long as the files take to read. When one cannot be used its error is raised and the old
        certificates stay. Raises :class:`~server_native.errors.ConfigurationError` on a server without TLS.
        """
        if not self._tls:
            raise ConfigurationError(
                "only a server with TLS has certificates to reload, found one without: start it with a function "
                "that has `secure` in its name"
            )
        self._pump.runtime.reload_tls(self._tls)

    def stats(self) -> dict[str, int]:
        """Figures as of now: connections, streams, threads, what was refused. For eyes and tests.

        ``limited_<name>`` counts how often the limit or option of this name was applied.
        """
        figures = self._pump.runtime.stats()
        if self._site is not None:
            figures |= self._site.figures()
        return figures

    async def __aenter__(self) -> NativeServer:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    # What follows is the engine's (`_serve`).

    def _stop(self, grace: float | None = None) -> None:
        self.close(grace=grace)

    def _reload(self) -> None:
        """As :meth:`reload_certificates`, for a signal: nobody is there to catch an error."""
        try:
            self.reload_certificates()
        except StoppingError:
            return
        except ServerNativeError as error:
            log.error("the certificates could not be reloaded, the old ones stay: %s", error)  # noqa: TRY400
        else:
            log.info("the certificates were reloaded")

    def _accept(self, site: Site) -> None:
        """Starts to accept on every listener, for one site, and says so."""
        self._site = site
        for listener in self._listeners:
            self._pump.sites[listener] = site
            self._pump.runtime.listen(listener)
        urls = [self._url(*address) for address in self.addresses]
        log.info("server_native listens on %s", ", ".join(urls))
        if self._config.http3 and not self._tls:
            log.info("HTTP/3 is off: it needs TLS, which this server has not")
        if self._config.echo:
            for url in urls:
                print(f"Server listening on {url}", flush=True)

    def _listen_at(self, bind: NativeServerBind) -> list[int]:
        runtime, places = self._pump.runtime, resolve(bind)
        retries = _RETRIES
        while True:
            listeners: list[int] = []
            try:
                for place in places:
                    # Several places share a port; what the system chooses is known to be free at the first only.
                    port = runtime.address(listeners[0])[1] if listeners else place.port
                    same = replace(place, port=port or 0)
                    listeners.append(runtime.bind(same, self._config, self._tls))
                return listeners
            except AddressInUseError:
                if bind.port or not listeners or not retries:
                    raise
                retries -= 1
                for listener in listeners:
                    runtime.close(listener)

    def _add_routes(self) -> None:
        for path, result in self._config.routes.items():
            response = as_response(result)
            if response.source is not None:
                raise ConfigurationError(
                    f"the route {path!r} must be a response with a whole body, not a stream"
                )
            for listener in self._listeners:
                self._pump.runtime.route(
                    listener, path, response.status, response.fields, response.payload
                )

    def _url(self, host: str, port: int | None) -> str:
        if port is None:
            return f"unix:{host}"
        # An unspecified address is no place to connect to.
        if ipaddress.ip_address(host).is_unspecified:
            host = "::1" if ":" in host else "127.0.0.1"
        scheme = "https" if self._tls else "http"
        # The % of a zone is escaped in a URL (RFC 6874).
        return f"{scheme}://{_bracketed(host)}:{port}"


def _bracketed(host: str) -> str:
    return f"[{host.replace('%', '%25')}]" if ":" in host else host


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
