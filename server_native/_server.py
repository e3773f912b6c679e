"""A running server, and the listeners it is bound to."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
from collections.abc import Awaitable, Generator
from typing import Any

from . import _lifecycle
from ._dispatch import Pump
from .config import ServerConfig
from .errors import ConfigurationError, StoppingError
from .http import as_response

__all__ = ["NativeServer", "announce", "bind"]

log = logging.getLogger("server_native")


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


def bind(pump: Pump, config: ServerConfig) -> NativeServer:
    """Binds the listener, which does not accept yet."""
    listener = pump.runtime.bind(_lifecycle.resolve(config), config)
    for path, result in config.routes.items():
        response = as_response(result)
        if response.source is not None:
            raise ConfigurationError(
                f"the route {path!r} must be a response with a whole body, not a stream"
            )
        pump.runtime.route(listener, path, response.status, response.fields, response.payload)
    return NativeServer(config, pump, listener, pump.runtime.address(listener))


def announce(server: NativeServer) -> None:
    """Tells the log where it listens."""
    log.info("server_native listens on %s", server.url)


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
