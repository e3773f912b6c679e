"""Configuration as frozen values: parsed once, then trusted. Options of every ``serve_*`` are documented here, once.

What a user writes is a ``TypedDict`` (``ServeOptions`` and its kin), what the package works with a frozen dataclass
of the same names; `_options` shows the first in signatures, :meth:`ServerConfig.parse` makes the second of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict

from . import _checks
from .binds import Host, NativeServerBind
from .errors import ConfigurationError

if TYPE_CHECKING:
    from .http import HandlerResult

__all__ = [
    "CertificateFiles",
    "HttpServeOptions",
    "HttpServerConfig",
    "HttpServerOptions",
    "Limits",
    "MultiServeOptions",
    "PlaceOptions",
    "SecureHttpServeOptions",
    "SecureMultiServeOptions",
    "SecureServeOptions",
    "ServeOptions",
    "ServerConfig",
    "TLSConfig",
    "TLSOptions",
]

FilePath: TypeAlias = "str | os.PathLike[str]"
Routes: TypeAlias = "Mapping[str, HandlerResult]"
#: Certificate, key and, where the key is encrypted, its password.
CertificateTuple: TypeAlias = "tuple[FilePath, FilePath] | tuple[FilePath, FilePath, str | None]"


class PlaceOptions(TypedDict, total=False):
    """Where a server with one bind listens; the same as a :class:`~server_native.NativeServerBind`."""

    #: An address or a name, as text or as an ``ipaddress`` object. ``localhost``: both loopbacks on one port;
    #: ``any``: every address of the machine.
    host: Host
    #: The same as ``host``; only one of them may be given.
    address: Host | None
    #: 0 lets the system choose; the server's ``port`` tells which.
    port: int
    #: Connections the kernel keeps waiting.
    backlog: int
    #: An IPv6 address takes no IPv4 connections.
    v6_only: bool
    #: Other processes may share the port (SO_REUSEPORT).
    shared: bool
    #: Path of a Unix socket, in place of ``host`` and ``port``.
    uds: FilePath | None
    #: Permission bits of the Unix socket's file; ``None`` leaves them to the umask.
    uds_mode: int | None
    #: An inherited listening descriptor, in place of ``host`` and ``port``.
    fd: int | None


class MultiServeOptions(TypedDict, total=False):
    """How a server runs, wherever it listens."""

    #: HTTP/2, on the same port: with prior knowledge, or chosen by ALPN with TLS.
    http2: bool
    #: HTTP/3 on the same port number of UDP. Needs TLS; without it one line of the log says so.
    http3: bool
    #: 0 drives the sockets in the serving thread, N in N native ones; ``None`` chooses: 0, or 1 where Python threads
    #: or a foreign event loop answer.
    io_threads: int | None
    #: Python threads that run plain handlers. 0: they run where events arrive when the whole request is here, and on a
    #: pool otherwise. Asynchronous handlers are tasks of the loop whatever this says.
    threads: int
    #: Threads, beyond those of the pool, for plain handlers whose request became a WebSocket or raw bytes: each keeps
    #: its thread for as long as its peer stays. 503 for the next one; 0 refuses all. A thread that waits costs 8 MiB of
    #: address space (the stack the system gives) and about 20 KiB of memory.
    websocket_threads: int
    #: Requests that wait for a thread of a plain handler; the next ones get 503. One may hold ``inline_body_bytes`` and
    #: ``receive_window`` of its body.
    max_waiting_requests: int
    #: Seconds after which an asynchronous handler is cancelled and 503 sent; ``None``: never.
    handler_timeout: float | None
    #: Seconds requests in flight get at a stop.
    grace: float
    #: See :class:`~server_native.Limits`.
    limits: Limits | None
    #: Constant responses by path, answered natively without Python.
    routes: Routes | None
    #: Print ``Server listening on <url>`` for every address once it accepts.
    echo: bool


class _TLSFiles(TypedDict):
    #: PEM file of the certificate and those that lead from it to its authority.
    certificate_path: FilePath
    #: PEM file of its key: PKCS#8, PKCS#1 or SEC1.
    key_path: FilePath


class TLSOptions(_TLSFiles, total=False):
    """Certificates of a secure server. ``server.reload_certificates()`` and SIGHUP read the files again."""

    #: For an encrypted PKCS#8 key.
    certificate_password: str | None
    #: ``"optional"`` (or ``True``) asks clients for a certificate, ``"required"`` refuses those without one.
    request_client_certificate: bool | Literal["optional", "required"]
    #: PEM file of the authorities that sign clients' certificates; ``None``: the system's.
    client_ca_path: FilePath | None
    #: Further certificates, for clients that ask for one of their names (SNI).
    certificates: Sequence[CertificateTuple]


class ServeOptions(PlaceOptions, MultiServeOptions, total=False):
    """Options of a server with one bind."""


class SecureServeOptions(PlaceOptions, TLSOptions, MultiServeOptions, total=False):
    """Options of a server with one bind and TLS."""


class HttpServerOptions(TypedDict, total=False):
    """What the HttpServer style adds to a server."""

    #: Seconds a session lives after its last request.
    session_timeout: float
    #: Name of the session cookie.
    session_cookie: str
    #: Sessions kept; beyond, the one idle the longest ends.
    max_sessions: int
    #: Value of the ``server`` field; ``None`` sends none.
    server_header: str | None
    #: gzip for clients that ask for it.
    auto_compress: bool
    #: Requests that wait to be taken by an ``async for``; the next ones get 503.
    max_pending_requests: int
    #: Bytes of one response that may wait for its client before ``write`` raises.
    write_buffer_bytes: int


class HttpServeOptions(HttpServerOptions, ServeOptions, total=False):
    """Options of the functions that call a handler with HttpServer requests."""


class SecureHttpServeOptions(HttpServerOptions, SecureServeOptions, total=False):
    """The same with TLS."""


class SecureMultiServeOptions(TLSOptions, MultiServeOptions, total=False):
    """Options of a server with a list of binds and TLS."""


#: Limits of 64 bits; the others have 32.
_LONG = frozenset(("body_bytes", "ws_message_bytes"))


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of one server. Each says what it costs at most, and what the client beyond it gets.

    Names in ``_ms`` are milliseconds, in ``_bytes`` and ``_window`` bytes, the others counts. How often one was applied
    is in ``server.stats()`` as ``limited_<name>``; docs/limits.md has the table, and says which are not counted.
    Zero means "none" only where it says so; any other impossible value raises
    :class:`~server_native.errors.ConfigurationError` when the server is bound.
    """

    #: Request body; 413 beyond. 0 = none: it costs nothing, as bodies are held whole only by handlers that ask for it.
    body_bytes: int = 0
    #: Open connections at each address listened on, a descriptor and a task each; the next gets 503 and a close, with
    #: TLS only a close.
    connections: int = 10_000
    #: Open connections of one client address; the same beyond. 0 = none. Costs a table of addresses.
    connections_per_address: int = 0
    #: Request head, or trailers, of HTTP/1.1; 431 beyond. Held for each connection whose head is not complete.
    head_bytes: int = 64 * 1024
    #: Header fields of one request, at most 256; 431 beyond. Costs nothing: they are counted while the head is read.
    header_fields: int = 128
    #: Request target; 414 beyond. A part of the head: costs nothing more.
    uri_bytes: int = 16 * 1024
    #: A declared body up to this size is collected before the handler is called, and held for each request that is
    #: still arriving. The client notices nothing.
    inline_body_bytes: int = 64 * 1024
    #: Request body, or WebSocket messages, held for one handler that does not read; then the client has to wait.
    receive_window: int = 256 * 1024
    #: Response body held for one client that does not read; then the handler waits, see ``write_stall_ms``.
    send_window: int = 256 * 1024
    #: To the first byte and the choice of protocol; a close without a word beyond. A silent client costs a descriptor.
    detection_ms: int = 5_000
    #: First to last byte of a request head; 408 and a close beyond. Meanwhile ``head_bytes`` may be held.
    head_ms: int = 10_000
    #: A connection without a request; closed beyond, over HTTP/2 and HTTP/3 with GOAWAY. It costs a descriptor.
    idle_ms: int = 75_000
    #: A TLS or QUIC handshake; a close beyond. Meanwhile it costs a connection without a request.
    handshake_ms: int = 10_000
    #: Bytes per second a request body must reach while it is being read; 408 below, or a reset when the answer has
    #: begun. 0 = none: a slow client then holds a handler as long as it likes.
    body_rate: int = 240
    #: Before ``body_rate`` is asked for.
    body_grace_ms: int = 5_000
    #: A client that takes nothing of a waiting response; the connection is reset beyond, over HTTP/2 and HTTP/3 the
    #: stream alone while others move on. Meanwhile ``send_window`` or ``ws_write_bytes`` is held.
    write_stall_ms: int = 60_000
    #: HTTP/2 SETTINGS_MAX_CONCURRENT_STREAMS, each with its windows and perhaps a handler; REFUSED_STREAM beyond.
    h2_streams: int = 200
    #: HTTP/2 SETTINGS_MAX_HEADER_LIST_SIZE, decoded; 431 beyond. Held for each stream.
    h2_header_list_bytes: int = 16 * 1024
    #: HTTP/2 flow-control window of streams and connections; the client waits beyond. Held for each connection.
    h2_window: int = 1024 * 1024
    #: HTTP/2 streams reset by the peer and not yet cleaned up; GOAWAY (ENHANCE_YOUR_CALM) beyond.
    h2_pending_resets: int = 100
    #: HTTP/2 requests reset by the peer within a second, once begun, which costs a handler each; GOAWAY
    #: (ENHANCE_YOUR_CALM) and the connection's end beyond. Keep it at ``h2_streams`` or more: a browser that leaves a
    #: page cancels all of them at once.
    h2_resets: int = 200
    #: HTTP/2 SETTINGS_MAX_FRAME_SIZE, held for each connection; GOAWAY (FRAME_SIZE_ERROR) beyond.
    h2_frame_bytes: int = 16 * 1024
    #: HTTP/2 pings on a quiet connection, and how long their answer may take; a close beyond. 0 = none.
    h2_ping_ms: int = 30_000
    #: HTTP/3 requests of one connection at a time, each with its windows and perhaps a handler; the client waits.
    h3_streams: int = 100
    #: HTTP/3 header section, decoded; 431 beyond, or a reset when a frame claims more. Held for each stream.
    h3_field_section_bytes: int = 16 * 1024
    #: HTTP/3 requests reset by the peer within a second; the connection is closed beyond (H3_EXCESSIVE_LOAD).
    h3_resets: int = 100
    #: Silence after which a QUIC connection is given up, without a word; until then it holds what it has.
    quic_idle_ms: int = 30_000
    #: QUIC flow-control window of a connection: what it may make the server hold, each way; the client waits beyond.
    quic_window: int = 8 * 1024 * 1024
    #: QUIC flow-control window of a stream: its part of ``quic_window``.
    quic_stream_window: int = 1024 * 1024
    #: QUIC handshakes under way beyond which new clients must prove their address first (Retry): a round trip for
    #: them, nothing for the server. 0 = always.
    quic_handshakes: int = 64
    #: One WebSocket message, held whole by whoever receives it; close code 1009 beyond.
    ws_message_bytes: int = 16 * 1024 * 1024
    #: Messages on their way to one WebSocket client before ``send`` waits: what each client costs that does not read.
    #: One that is longer than half of it goes in frames of at most 64 KiB. See ``write_stall_ms``.
    ws_write_bytes: int = 256 * 1024
    #: WebSocket pings on a quiet connection, and how long their answer may take; reset beyond (1006 for the handler).
    #: 0 = none.
    ws_ping_ms: int = 20_000
    #: How long the peer may take to answer a WebSocket close; reset beyond.
    ws_close_ms: int = 10_000

    def __post_init__(self) -> None:
        for entry in fields(self):
            ceiling = 2**63 - 1 if entry.name in _LONG else 2**32 - 1
            _checks.integer(f"limit {entry.name}", getattr(self, entry.name), 0, ceiling)


@dataclass(frozen=True)
class CertificateFiles:
    """Where one certificate and its key are read from."""

    certificate_path: str
    key_path: str
    password: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name in ("certificate_path", "key_path"):
            object.__setattr__(self, name, _checks.path(name, getattr(self, name)))
        _check_password("the password of a key", self.password)


@dataclass(frozen=True, kw_only=True)
class TLSConfig:
    """How one server speaks TLS: :class:`TLSOptions`, in one form each. The files are read when the server starts."""

    certificate_path: str
    key_path: str
    certificate_password: str | None = field(default=None, repr=False)
    request_client_certificate: Literal[False, "optional", "required"] = False
    client_ca_path: str | None = None
    certificates: tuple[CertificateFiles, ...] = ()

    def __post_init__(self) -> None:
        missing = [name for name in ("certificate_path", "key_path") if getattr(self, name) is None]
        if missing:
            raise ConfigurationError(
                "a secure server needs certificate_path and key_path (PEM files), found no "
                + " and no ".join(missing)
            )
        for name in ("certificate_path", "key_path", "client_ca_path"):
            if getattr(self, name) is not None:
                self._set(name, _checks.path(name, getattr(self, name)))
        _check_password("certificate_password", self.certificate_password)
        asked: object = self.request_client_certificate
        # By identity: 1 and 0 are no answers to a question about certificates.
        if asked is not True and asked is not False and asked not in ("optional", "required"):
            raise ConfigurationError(
                f"request_client_certificate must be False, 'optional' or 'required', found {asked!r}"
            )
        if asked is True:
            self._set("request_client_certificate", "optional")
        if asked is False and self.client_ca_path is not None:
            raise ConfigurationError(
                "client_ca_path needs request_client_certificate='optional' or 'required', found it with False"
            )
        self._set("certificates", _certificates(self.certificates))

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)


@dataclass(frozen=True, kw_only=True)
class HttpServerConfig:
    """What the HttpServer style adds to a server: :class:`HttpServerOptions`."""

    session_timeout: float = 20 * 60.0
    session_cookie: str = "SNSESSID"
    max_sessions: int = 10_000
    server_header: str | None = None
    auto_compress: bool = False
    max_pending_requests: int = 1024
    write_buffer_bytes: int = 4 * 1024 * 1024

    def __post_init__(self) -> None:
        for name in ("max_sessions", "max_pending_requests", "write_buffer_bytes"):
            _checks.integer(name, getattr(self, name), 1, 2**62)
        _checks.boolean("auto_compress", self.auto_compress)

    @classmethod
    def take(cls, options: dict[str, Any]) -> HttpServerConfig:
        """Made of what is there of :class:`HttpServerOptions`, which leaves ``options``."""
        return cls(**_take(options, HttpServerOptions))


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """How one server listens, drives its sockets and stops. The fields are described in the options above."""

    binds: tuple[NativeServerBind, ...] = (NativeServerBind(),)
    http2: bool = True
    http3: bool = True
    io_threads: int | None = None
    threads: int = 0
    websocket_threads: int = 1000
    max_waiting_requests: int = 1024
    handler_timeout: float | None = None
    grace: float = 10.0
    limits: Limits = field(default_factory=Limits)
    routes: Mapping[str, Any] = field(default_factory=dict)
    echo: bool = False
    #: ``None``: no TLS.
    tls: TLSConfig | None = None

    def __post_init__(self) -> None:
        if not (
            isinstance(self.binds, tuple)
            and self.binds
            and all(isinstance(bind, NativeServerBind) for bind in self.binds)
        ):
            raise ConfigurationError(
                f"binds must be a list of at least one NativeServerBind, found {self.binds!r}"
            )
        _checks.integer("threads", self.threads, 0, 1024)
        _checks.integer("websocket_threads", self.websocket_threads, 0, 100_000)
        _checks.integer("max_waiting_requests", self.max_waiting_requests, 1, 2**31 - 1)
        if self.io_threads is not None:
            _checks.integer("io_threads", self.io_threads, 0, 64)
        _checks.seconds("grace", self.grace)
        if self.handler_timeout is not None:
            _checks.seconds("handler_timeout", self.handler_timeout)
        if not isinstance(self.limits, Limits):
            raise ConfigurationError(f"limits must be server_native.Limits, found {self.limits!r}")
        if not isinstance(self.routes, Mapping):
            raise ConfigurationError(
                f"routes must be a mapping of paths to responses, found {self.routes!r}"
            )
        for name in ("http2", "http3", "echo"):
            _checks.boolean(name, getattr(self, name))

    @classmethod
    def parse(cls, **options: Any) -> ServerConfig:
        """Builds a configuration from keyword options.

        Those of :class:`PlaceOptions` make its one bind, unless ``binds`` are given; those of :class:`TLSOptions` turn
        TLS on. ``None`` for ``limits`` or ``routes`` is their default.
        """
        for name in ("limits", "routes"):
            if options.get(name) is None:
                options.pop(name, None)
        place = _take(options, PlaceOptions)
        if place:
            options["binds"] = (_bind(place),)
        elif isinstance(options.get("binds"), Iterable):
            options["binds"] = tuple(options["binds"])
        tls = _take(options, TLSOptions)
        if tls:
            options["tls"] = TLSConfig(**tls)
        return cls(**options)


def _take(options: dict[str, Any], kind: type[Any]) -> dict[str, Any]:
    return {name: options.pop(name) for name in kind.__annotations__ if name in options}


def _bind(place: dict[str, Any]) -> NativeServerBind:
    address = place.pop("address", None)
    if address is not None:
        if "host" in place:
            raise ConfigurationError(
                f"host and address are two names of one option, found host={place['host']!r} and address={address!r}"
            )
        place["host"] = address
    return NativeServerBind(**place)


def _certificates(given: object) -> tuple[CertificateFiles, ...]:
    found = []
    for item in given if isinstance(given, (list, tuple)) else (given,):
        if isinstance(item, CertificateFiles):
            found.append(item)
        elif isinstance(item, (list, tuple)) and len(item) in (2, 3):
            found.append(CertificateFiles(*item))
        else:
            # Not the value: it may hold a password.
            raise ConfigurationError(
                "certificates must be a list of (certificate_path, key_path) or "
                f"(certificate_path, key_path, password), found {type(item).__name__} in it"
            )
    return tuple(found)


def _check_password(name: str, password: object) -> None:
    if password is not None and not isinstance(password, str):
        raise ConfigurationError(f"{name} must be text, found {type(password).__name__}")
