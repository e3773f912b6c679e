"""Configuration as frozen values: parsed once, then trusted. A leaf: imports nothing of the package but errors."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from .errors import ConfigurationError

__all__ = ["Limits", "ServerConfig"]


#: Limits of 64 bits; the others have 32.
_LONG = frozenset(("body_bytes", "ws_message_bytes"))


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of one server; each names its unit, its default and what a client beyond it gets.

    Times are milliseconds, sizes bytes. Zero means "none" only where it says so; any other impossible value raises
    :class:`~server_native.errors.ConfigurationError` when the server is bound.
    """

    #: Request body; 413 beyond. 0 = none.
    body_bytes: int = 0
    #: Open connections; the next gets 503 and a close.
    connections: int = 10_000
    #: Open connections of one client address; 503 beyond. 0 = none.
    connections_per_address: int = 0
    #: Request head or trailers; 431 beyond.
    head_bytes: int = 64 * 1024
    #: Header fields of one request; 431 beyond. At most 256.
    header_fields: int = 128
    #: Request target; 414 beyond.
    uri_bytes: int = 16 * 1024
    #: A declared body up to this size is collected before the handler is called.
    inline_body_bytes: int = 64 * 1024
    #: Request body in flight to one handler before the socket is left alone.
    receive_window: int = 256 * 1024
    #: Response body in flight from one handler before it waits.
    send_window: int = 256 * 1024
    #: First byte and choice of protocol; then a silent close.
    detection_ms: int = 5_000
    #: First to last byte of a request head; 408.
    head_ms: int = 10_000
    #: A connection without a request; silent close.
    idle_ms: int = 75_000
    #: A TLS handshake.
    handshake_ms: int = 10_000
    #: Bytes per second a request body must reach while it is being read; 408. 0 = none.
    body_rate: int = 240
    #: Before ``body_rate`` is asked for.
    body_grace_ms: int = 5_000
    #: A client that takes nothing of a waiting response; reset.
    write_stall_ms: int = 60_000
    #: HTTP/2 SETTINGS_MAX_CONCURRENT_STREAMS.
    h2_streams: int = 200
    #: HTTP/2 SETTINGS_MAX_HEADER_LIST_SIZE; 431 beyond.
    h2_header_list_bytes: int = 16 * 1024
    #: HTTP/2 flow-control window of streams and connections.
    h2_window: int = 1024 * 1024
    #: HTTP/2 streams reset by the peer and not yet cleaned up; GOAWAY beyond.
    h2_pending_resets: int = 100
    #: HTTP/2 SETTINGS_MAX_FRAME_SIZE.
    h2_frame_bytes: int = 16 * 1024
    #: HTTP/2 pings on a quiet connection, and how long their answer may take. 0 = none.
    h2_ping_ms: int = 30_000
    #: HTTP/3 requests of one connection at a time; the client waits.
    h3_streams: int = 100
    #: HTTP/3 header section, decoded; 431 beyond, or a reset when a frame claims more.
    h3_field_section_bytes: int = 16 * 1024
    #: HTTP/3 requests reset by the peer within a second; the connection is closed beyond (H3_EXCESSIVE_LOAD).
    h3_resets: int = 100
    #: Silence after which a QUIC connection is given up.
    quic_idle_ms: int = 30_000
    #: QUIC flow-control window of a connection: what it may make the server hold, each way.
    quic_window: int = 8 * 1024 * 1024
    #: QUIC flow-control window of a stream.
    quic_stream_window: int = 1024 * 1024
    #: QUIC handshakes under way beyond which new clients must prove their address first (Retry). 0 = always.
    quic_handshakes: int = 64
    #: One WebSocket message; close code 1009 beyond.
    ws_message_bytes: int = 16 * 1024 * 1024
    #: Messages on their way to one WebSocket client before ``send`` waits.
    ws_write_bytes: int = 4 * 1024 * 1024
    #: WebSocket pings on a quiet connection, and how long their answer may take (1006 for the handler). 0 = none.
    ws_ping_ms: int = 20_000
    #: How long the peer may take to answer a WebSocket close.
    ws_close_ms: int = 10_000

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            ceiling = 2**63 - 1 if entry.name in _LONG else 2**32 - 1
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= ceiling:
                raise ConfigurationError(
                    f"limit {entry.name} must be an integer from 0 to {ceiling}, found {value!r}"
                )


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """How one server listens, drives its sockets and stops."""

    host: str = "127.0.0.1"
    port: int = 0
    backlog: int = 1024
    v6_only: bool = False
    shared: bool = False
    http2: bool = True
    #: 0: the serving thread drives; N: N native threads do. ``None`` chooses: 0, or 1 where Python threads or a
    #: foreign event loop answer.
    io_threads: int | None = None
    #: Python threads that run handlers. 0: sync handlers run where events arrive, async ones on the loop.
    threads: int = 0
    #: Seconds an asynchronous handler may take before the client gets 503. ``None``: for ever.
    handler_timeout: float | None = None
    #: Seconds in-flight requests get at a stop.
    grace: float = 10.0
    limits: Limits = field(default_factory=Limits)
    routes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_integer("port", self.port, 0, 65_535)
        _check_integer("backlog", self.backlog, 1, 2**31 - 1)
        _check_integer("threads", self.threads, 0, 1024)
        if self.io_threads is not None:
            _check_integer("io_threads", self.io_threads, 0, 64)
        for name, seconds in (("grace", self.grace), ("handler_timeout", self.handler_timeout)):
            if seconds is None and name == "handler_timeout":
                continue
            number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
            if not number or not 0 <= (seconds or 0) <= 4_000_000:
                raise ConfigurationError(
                    f"{name} must be seconds from 0 to 4000000, found {seconds!r}"
                )
        if not isinstance(self.host, str) or not self.host:
            raise ConfigurationError(f"host must be an address or a name, found {self.host!r}")
        if not isinstance(self.limits, Limits):
            raise ConfigurationError(f"limits must be server_native.Limits, found {self.limits!r}")
        if not isinstance(self.routes, Mapping):
            raise ConfigurationError(
                f"routes must be a mapping of paths to responses, found {self.routes!r}"
            )
        for name in ("v6_only", "shared", "http2"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigurationError(
                    f"{name} must be True or False, found {getattr(self, name)!r}"
                )

    @classmethod
    def parse(cls, **options: Any) -> ServerConfig:
        """Builds a configuration from keyword options; ``host`` may also be an ``ipaddress`` object."""
        host = options.get("host")
        if isinstance(host, (ipaddress.IPv4Address, ipaddress.IPv6Address)):
            options["host"] = str(host)
        if options.get("limits") is None:
            options.pop("limits", None)
        if options.get("routes") is None:
            options.pop("routes", None)
        return cls(**options)


def _check_integer(name: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ConfigurationError(f"{name} must be an integer from {low} to {high}, found {value!r}")
