"""One handler at several addresses: a server with a list of :class:`~server_native.NativeServerBind`.

All listeners share the handler, the limits and the stop of one server.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ._lifecycle import ShutdownSignal
from ._options import accepts
from ._serve import OnReady, StartedServer, serve
from ._server import NativeServer
from .binds import Host, NativeServerBind
from .config import MultiServeOptions, SecureMultiServeOptions, ServerConfig
from .errors import ConfigurationError

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .direct import NativeDirectHandler

__all__ = [
    "NativeMultiServer",
    "serve_native_multi",
    "serve_secure_native_multi",
    "start_native_multi",
    "start_secure_native_multi",
]


@accepts(MultiServeOptions)
def serve_native_multi(
    handler: NativeDirectHandler,
    binds: Iterable[NativeServerBind],
    *,
    shutdown_signal: ShutdownSignal | None = None,
    on_ready: OnReady | None = None,
    **options: Unpack[MultiServeOptions],
) -> None:
    """Serves HTTP with ``handler`` at every one of ``binds`` and blocks until the server is stopped.

    All else is as in :func:`~server_native.serve_native_direct`. When one address cannot be had nothing is served and
    its error is raised; no binds at all are a :class:`~server_native.errors.ConfigurationError`.
    """
    serve(handler, ServerConfig.parse(binds=binds, **options), shutdown_signal, on_ready)


@accepts(SecureMultiServeOptions)
def serve_secure_native_multi(
    handler: NativeDirectHandler,
    binds: Iterable[NativeServerBind],
    *,
    shutdown_signal: ShutdownSignal | None = None,
    on_ready: OnReady | None = None,
    **options: Unpack[SecureMultiServeOptions],
) -> None:
    """Serves HTTPS with ``handler`` at every one of ``binds`` and blocks until the server is stopped.

    As :func:`serve_native_multi`, with certificates as in :func:`~server_native.serve_secure_native_direct`.
    """
    serve(handler, ServerConfig.parse(binds=binds, **options), shutdown_signal, on_ready)


@accepts(MultiServeOptions)
def start_native_multi(
    handler: NativeDirectHandler,
    binds: Iterable[NativeServerBind],
    *,
    shutdown_signal: ShutdownSignal | None = None,
    **options: Unpack[MultiServeOptions],
) -> StartedServer[NativeMultiServer]:
    """Starts serving at every one of ``binds`` inside the running asyncio loop, for an ``async with`` block.

    As :func:`~server_native.start_native_direct`: it can be awaited too.
    """
    config = ServerConfig.parse(binds=binds, **options)
    return StartedServer(NativeMultiServer, handler, config, shutdown_signal)


@accepts(SecureMultiServeOptions)
def start_secure_native_multi(
    handler: NativeDirectHandler,
    binds: Iterable[NativeServerBind],
    *,
    shutdown_signal: ShutdownSignal | None = None,
    **options: Unpack[SecureMultiServeOptions],
) -> StartedServer[NativeMultiServer]:
    """Starts serving HTTPS at every one of ``binds`` inside the running asyncio loop; as :func:`start_native_multi`."""
    config = ServerConfig.parse(binds=binds, **options)
    return StartedServer(NativeMultiServer, handler, config, shutdown_signal)


class NativeMultiServer(NativeServer):
    """A running server with several addresses; its class methods start one inside the running asyncio loop.

    Each can be awaited, or entered with ``async with``, which also closes it::

        async with NativeMultiServer.loopback(handler, 8080) as server:
            ...
    """

    @classmethod
    @accepts(MultiServeOptions)
    def bind(
        cls,
        handler: NativeDirectHandler,
        where: Host | Iterable[NativeServerBind],
        port: int = 0,
        *,
        shutdown_signal: ShutdownSignal | None = None,
        **options: Unpack[MultiServeOptions],
    ) -> StartedServer[NativeMultiServer]:
        """Serves at ``where``: a host, with ``port``, or binds, which have their own.

        >>> NativeMultiServer.bind(lambda request: "hello", [])
        Traceback (most recent call last):
        server_native.errors.ConfigurationError: binds must be a list of at least one NativeServerBind, found ()
        """
        binds = _binds(where, port)
        return start_native_multi(handler, binds, shutdown_signal=shutdown_signal, **options)

    @classmethod
    @accepts(SecureMultiServeOptions)
    def bind_secure(
        cls,
        handler: NativeDirectHandler,
        where: Host | Iterable[NativeServerBind],
        port: int = 0,
        *,
        shutdown_signal: ShutdownSignal | None = None,
        **options: Unpack[SecureMultiServeOptions],
    ) -> StartedServer[NativeMultiServer]:
        """As :meth:`bind`, with TLS."""
        binds = _binds(where, port)
        return start_secure_native_multi(handler, binds, shutdown_signal=shutdown_signal, **options)

    @classmethod
    @accepts(MultiServeOptions)
    def loopback(
        cls,
        handler: NativeDirectHandler,
        port: int = 0,
        *,
        shutdown_signal: ShutdownSignal | None = None,
        **options: Unpack[MultiServeOptions],
    ) -> StartedServer[NativeMultiServer]:
        """Serves this machine only: 127.0.0.1 and, where there is IPv6, ::1 on one port."""
        return cls.bind(handler, "localhost", port, shutdown_signal=shutdown_signal, **options)

    @classmethod
    @accepts(SecureMultiServeOptions)
    def loopback_secure(
        cls,
        handler: NativeDirectHandler,
        port: int = 0,
        *,
        shutdown_signal: ShutdownSignal | None = None,
        **options: Unpack[SecureMultiServeOptions],
    ) -> StartedServer[NativeMultiServer]:
        """As :meth:`loopback`, with TLS."""
        return cls.bind_secure(
            handler, "localhost", port, shutdown_signal=shutdown_signal, **options
        )


def _binds(where: Host | Iterable[NativeServerBind], port: int) -> Iterable[NativeServerBind]:
    if isinstance(where, str) or not isinstance(where, Iterable):
        return (NativeServerBind(where, port),)
    if port:
        raise ConfigurationError(
            f"binds have ports of their own, found port={port} beside them: say it in each NativeServerBind"
        )
    return where
