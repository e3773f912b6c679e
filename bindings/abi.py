"""The native library's C ABI for ctypes: numbers, structures, signatures.

GENERATED from bindings/server_native.h by tools/generate_bindings.py. Do not edit: `make bindings`
rewrites it. The header documents every field and function.
"""

from __future__ import annotations

import ctypes
from enum import IntEnum
from typing import Any, Final

ABI_HASH: Final = 0x3A6A42C1978D0CD3
FLAG_END: Final = 1
FLAG_EXPECT: Final = 2
FLAG_LENT: Final = 16
FLAG_MORE: Final = 8
FLAG_TEXT: Final = 4
FLAG_UPGRADE: Final = 4
MESSAGE_COST: Final = 64
MODE_UMASK: Final = 4294967295

BATCH_HEADER_FORMAT: Final = "=QQIIII"
BATCH_HEADER_SIZE: Final = 32
LOAN_FORMAT: Final = "=QQQ"
LOAN_SIZE: Final = 24
RECORD_FORMAT: Final = "=QQIIBBHI"
RECORD_SIZE: Final = 32


class Command(IntEnum):
    """What the host answers."""

    HEAD = 1
    DATA = 2
    END = 3
    RESET = 4
    CREDIT = 5
    INFORM = 6
    UPGRADE = 7
    PING = 9


class Event(IntEnum):
    """What native code tells."""

    ACCEPT = 1
    OPEN = 2
    DATA = 3
    END = 4
    RESET = 5
    WRITABLE = 6
    CLOSED = 7
    LOG = 8
    DRAIN = 9
    PONG = 13
    RETURNED = 14


class Protocol(IntEnum):
    """OPEN: which protocol carries the stream, in the high nibble of `flags`."""

    HTTP10 = 16
    HTTP11 = 32
    HTTP2 = 48
    HTTP3 = 64
    TCP = 128


class Reason(IntEnum):
    """Why a stream ended early, as `code` of RESET."""

    GONE = 1
    PROTOCOL = 2
    TIMEOUT = 3
    LIMIT = 4
    STOPPING = 5
    INTERNAL = 6
    CANCELLED = 7


class Status(IntEnum):
    """What an export answers."""

    OK = 0
    TIMEOUT = 1
    CLOSED = 2
    WOKEN = 3
    INVALID_ARGUMENT = 10
    NOT_FOUND = 11
    BUSY = 12
    STOPPING = 13
    BAD_CERTIFICATE = 14
    ADDRESS_IN_USE = 100
    PERMISSION_DENIED = 101
    ADDRESS_NOT_AVAILABLE = 102
    IO = 103
    PANIC = 255


class BatchHeader(ctypes.Structure):
    """Where the contents of a batch lie."""

    records: int
    arena: int
    count: int
    length: int
    watched: int
    reserved: int

    _fields_ = (
        ("records", ctypes.c_uint64),
        ("arena", ctypes.c_uint64),
        ("count", ctypes.c_uint32),
        ("length", ctypes.c_uint32),
        ("watched", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
    )


class LimitCounts(ctypes.Structure):
    """How often each limit was applied since the start."""

    body_bytes: int
    connections: int
    connections_per_address: int
    head_bytes: int
    header_fields: int
    uri_bytes: int
    detection_ms: int
    head_ms: int
    idle_ms: int
    handshake_ms: int
    body_rate: int
    write_stall_ms: int
    h2_pending_resets: int
    h2_resets: int
    h2_ping_ms: int
    h3_field_section_bytes: int
    h3_resets: int
    quic_idle_ms: int
    quic_handshakes: int
    ws_message_bytes: int
    ws_ping_ms: int
    ws_close_ms: int

    _fields_ = (
        ("body_bytes", ctypes.c_uint64),
        ("connections", ctypes.c_uint64),
        ("connections_per_address", ctypes.c_uint64),
        ("head_bytes", ctypes.c_uint64),
        ("header_fields", ctypes.c_uint64),
        ("uri_bytes", ctypes.c_uint64),
        ("detection_ms", ctypes.c_uint64),
        ("head_ms", ctypes.c_uint64),
        ("idle_ms", ctypes.c_uint64),
        ("handshake_ms", ctypes.c_uint64),
        ("body_rate", ctypes.c_uint64),
        ("write_stall_ms", ctypes.c_uint64),
        ("h2_pending_resets", ctypes.c_uint64),
        ("h2_resets", ctypes.c_uint64),
        ("h2_ping_ms", ctypes.c_uint64),
        ("h3_field_section_bytes", ctypes.c_uint64),
        ("h3_resets", ctypes.c_uint64),
        ("quic_idle_ms", ctypes.c_uint64),
        ("quic_handshakes", ctypes.c_uint64),
        ("ws_message_bytes", ctypes.c_uint64),
        ("ws_ping_ms", ctypes.c_uint64),
        ("ws_close_ms", ctypes.c_uint64),
    )


class Stats(ctypes.Structure):
    """Figures of a runtime as of now."""

    connections: int
    accepted: int
    refused: int
    overdue: int
    busy: int
    streams: int
    opened: int
    stale_commands: int
    overflows: int
    logs_dropped: int
    queued_records: int
    queued_bytes: int
    sticky: int
    limited: LimitCounts

    _fields_ = (
        ("connections", ctypes.c_uint64),
        ("accepted", ctypes.c_uint64),
        ("refused", ctypes.c_uint64),
        ("overdue", ctypes.c_uint64),
        ("busy", ctypes.c_uint64),
        ("streams", ctypes.c_uint64),
        ("opened", ctypes.c_uint64),
        ("stale_commands", ctypes.c_uint64),
        ("overflows", ctypes.c_uint64),
        ("logs_dropped", ctypes.c_uint64),
        ("queued_records", ctypes.c_uint64),
        ("queued_bytes", ctypes.c_uint64),
        ("sticky", ctypes.c_uint64),
        ("limited", LimitCounts),
    )


class Bytes(ctypes.Structure):
    """Borrowed bytes, for the length of one call."""

    data: int | None
    length: int

    _fields_ = (("data", ctypes.c_void_p), ("length", ctypes.c_size_t))


class Identity(ctypes.Structure):
    """One certificate chain with its key."""

    certificate_path: Bytes
    key_path: Bytes
    password: Bytes

    _fields_ = (("certificate_path", Bytes), ("key_path", Bytes), ("password", Bytes))


class TlsOptions(ctypes.Structure):
    """What a TLS configuration is made of."""

    identities: int | None
    identity_count: int
    client_ca_path: Bytes
    clients: int

    _fields_ = (
        ("identities", ctypes.c_void_p),
        ("identity_count", ctypes.c_size_t),
        ("client_ca_path", Bytes),
        ("clients", ctypes.c_uint8),
    )


class Limits(ctypes.Structure):
    """Limits of one listener."""

    body_bytes: int
    connections: int
    connections_per_address: int
    head_bytes: int
    header_fields: int
    uri_bytes: int
    inline_body_bytes: int
    receive_window: int
    send_window: int
    detection_ms: int
    head_ms: int
    idle_ms: int
    handshake_ms: int
    body_rate: int
    body_grace_ms: int
    write_stall_ms: int
    h2_streams: int
    h2_header_list_bytes: int
    h2_window: int
    h2_pending_resets: int
    h2_resets: int
    h2_frame_bytes: int
    h2_ping_ms: int
    h3_streams: int
    h3_field_section_bytes: int
    h3_resets: int
    quic_idle_ms: int
    quic_window: int
    quic_stream_window: int
    quic_handshakes: int
    ws_message_bytes: int
    ws_write_bytes: int
    ws_ping_ms: int
    ws_close_ms: int

    _fields_ = (
        ("body_bytes", ctypes.c_uint64),
        ("connections", ctypes.c_uint32),
        ("connections_per_address", ctypes.c_uint32),
        ("head_bytes", ctypes.c_uint32),
        ("header_fields", ctypes.c_uint32),
        ("uri_bytes", ctypes.c_uint32),
        ("inline_body_bytes", ctypes.c_uint32),
        ("receive_window", ctypes.c_uint32),
        ("send_window", ctypes.c_uint32),
        ("detection_ms", ctypes.c_uint32),
        ("head_ms", ctypes.c_uint32),
        ("idle_ms", ctypes.c_uint32),
        ("handshake_ms", ctypes.c_uint32),
        ("body_rate", ctypes.c_uint32),
        ("body_grace_ms", ctypes.c_uint32),
        ("write_stall_ms", ctypes.c_uint32),
        ("h2_streams", ctypes.c_uint32),
        ("h2_header_list_bytes", ctypes.c_uint32),
        ("h2_window", ctypes.c_uint32),
        ("h2_pending_resets", ctypes.c_uint32),
        ("h2_resets", ctypes.c_uint32),
        ("h2_frame_bytes", ctypes.c_uint32),
        ("h2_ping_ms", ctypes.c_uint32),
        ("h3_streams", ctypes.c_uint32),
        ("h3_field_section_bytes", ctypes.c_uint32),
        ("h3_resets", ctypes.c_uint32),
        ("quic_idle_ms", ctypes.c_uint32),
        ("quic_window", ctypes.c_uint32),
        ("quic_stream_window", ctypes.c_uint32),
        ("quic_handshakes", ctypes.c_uint32),
        ("ws_message_bytes", ctypes.c_uint64),
        ("ws_write_bytes", ctypes.c_uint32),
        ("ws_ping_ms", ctypes.c_uint32),
        ("ws_close_ms", ctypes.c_uint32),
    )


class ListenOptions(ctypes.Structure):
    """How a listener is bound: to `descriptor`, else to `path`, else to `address` and `port`."""

    address: Bytes
    path: Bytes
    descriptor: int
    scope: int
    mode: int
    port: int
    v6_only: bool
    shared: bool
    http2: bool
    http3: bool
    backlog: int
    tls: int
    limits: Limits

    _fields_ = (
        ("address", Bytes),
        ("path", Bytes),
        ("descriptor", ctypes.c_int),
        ("scope", ctypes.c_uint32),
        ("mode", ctypes.c_uint32),
        ("port", ctypes.c_uint16),
        ("v6_only", ctypes.c_bool),
        ("shared", ctypes.c_bool),
        ("http2", ctypes.c_bool),
        ("http3", ctypes.c_bool),
        ("backlog", ctypes.c_uint32),
        ("tls", ctypes.c_uint64),
        ("limits", Limits),
    )


class Loan(ctypes.Structure):
    """Body bytes the host keeps for us instead of copying them."""

    address: int
    length: int
    token: int

    _fields_ = (
        ("address", ctypes.c_uint64),
        ("length", ctypes.c_uint64),
        ("token", ctypes.c_uint64),
    )


class Record(ctypes.Structure):
    """One event or one command."""

    stream: int
    parent: int
    offset: int
    length: int
    kind: int
    flags: int
    code: int
    aux: int

    _fields_ = (
        ("stream", ctypes.c_uint64),
        ("parent", ctypes.c_uint64),
        ("offset", ctypes.c_uint32),
        ("length", ctypes.c_uint32),
        ("kind", ctypes.c_uint8),
        ("flags", ctypes.c_uint8),
        ("code", ctypes.c_uint16),
        ("aux", ctypes.c_uint32),
    )


SIGNATURES: Final[dict[str, tuple[Any, tuple[Any, ...]]]] = {
    "sn_abi_hash": (ctypes.c_uint64, ()),
    "sn_batch_free": (ctypes.c_int32, (ctypes.c_void_p,)),
    "sn_batch_new": (
        ctypes.c_int32,
        (ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(ctypes.c_void_p)),
    ),
    "sn_bind": (
        ctypes.c_int32,
        (ctypes.c_void_p, ctypes.POINTER(ListenOptions), ctypes.POINTER(ctypes.c_uint64)),
    ),
    "sn_close": (ctypes.c_int32, (ctypes.c_void_p, ctypes.c_uint64)),
    "sn_debug_stats": (ctypes.c_int32, (ctypes.c_void_p, ctypes.POINTER(Stats))),
    "sn_free": (ctypes.c_int32, (ctypes.c_void_p,)),
    "sn_last_error": (ctypes.c_size_t, (ctypes.c_void_p, ctypes.c_size_t)),
    "sn_listen": (ctypes.c_int32, (ctypes.c_void_p, ctypes.c_uint64)),
    "sn_listen_options_default": (ctypes.c_int32, (ctypes.POINTER(ListenOptions),)),
    "sn_listener_address": (
        ctypes.c_int32,
        (
            ctypes.c_void_p,
            ctypes.c_uint64,
            ctypes.c_void_p,
            ctypes.c_size_t,
            ctypes.POINTER(ctypes.c_size_t),
        ),
    ),
    "sn_next": (ctypes.c_int32, (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
    "sn_route": (
        ctypes.c_int32,
        (ctypes.c_void_p, ctypes.c_uint64, Bytes, ctypes.c_uint16, Bytes, Bytes),
    ),
    "sn_signal": (ctypes.c_int32, (ctypes.c_void_p, ctypes.c_int)),
    "sn_start": (ctypes.c_int32, (ctypes.c_uint32, ctypes.POINTER(ctypes.c_void_p))),
    "sn_stop": (ctypes.c_int32, (ctypes.c_void_p, ctypes.c_uint32)),
    "sn_submit": (
        ctypes.c_int32,
        (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_size_t),
    ),
    "sn_tls_new": (
        ctypes.c_int32,
        (ctypes.c_void_p, ctypes.POINTER(TlsOptions), ctypes.POINTER(ctypes.c_uint64)),
    ),
    "sn_tls_reload": (ctypes.c_int32, (ctypes.c_void_p, ctypes.c_uint64)),
    "sn_version": (ctypes.c_char_p, ()),
    "sn_wake": (ctypes.c_int32, (ctypes.c_void_p,)),
    "sn_watch": (ctypes.c_int32, (ctypes.c_void_p, ctypes.c_int)),
}
"""Result and parameters of every export."""


def identify(library: ctypes.CDLL) -> tuple[str, int]:
    """Version and ABI hash of a library of any build; AttributeError when it is not ours.

    Only when the hash equals `ABI_HASH` may `declare` be called.
    """
    for name in ("sn_abi_hash", "sn_version"):
        function = getattr(library, name)
        function.restype, function.argtypes = SIGNATURES[name]
    return library.sn_version().decode(), library.sn_abi_hash()


def declare(library: ctypes.CDLL) -> None:
    """Sets result and parameter types of every export, on a CDLL or a PyDLL."""
    for name, (result, parameters) in SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, parameters
