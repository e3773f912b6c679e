"""The only user of ctypes: opens the library, checks its identity, turns statuses into exceptions.

Blocking and rare calls go through ``CDLL``, which releases the GIL; the hot short ones (``submit``, ``wake``) through
``PyDLL``: native threads never want the GIL, so holding it for a microsecond cannot deadlock.
"""

from __future__ import annotations

import atexit
import ctypes
import itertools
import os
import struct
import sys
import threading
import warnings
import weakref
from typing import Any

from ._bindings import abi
from ._bindings.abi import (
    FLAG_END,
    FLAG_EXPECT,
    FLAG_LENT,
    FLAG_MORE,
    FLAG_TEXT,
    FLAG_UPGRADE,
    MESSAGE_COST,
    RECORD_SIZE,
    Command,
    Event,
    Protocol,
    Reason,
    Status,
)
from .binds import Place
from .config import ServerConfig, TLSConfig
from .errors import (
    ForkedError,
    LibraryMismatchError,
    PrebuiltError,
    StoppingError,
    from_status,
)

__all__ = [
    "FLAG_END",
    "FLAG_EXPECT",
    "FLAG_LENT",
    "FLAG_MORE",
    "FLAG_TEXT",
    "FLAG_UPGRADE",
    "MESSAGE_COST",
    "RECORD_SIZE",
    "Batch",
    "Command",
    "Event",
    "Protocol",
    "Reason",
    "Runtime",
    "Status",
    "abi_version",
    "pack_record",
    "unpack_records",
]

_record = struct.Struct(abi.RECORD_FORMAT)
pack_record = _record.pack
unpack_records = _record.iter_unpack
_header = struct.Struct(abi.BATCH_HEADER_FORMAT)
_pack_loan = struct.Struct(abi.LOAN_FORMAT).pack
#: Tokens of the second loan and later ones of a group.
#: In CPython the bytes of an object begin here behind its ``id``: 0.1 us where asking ``ctypes`` each time takes 1.
_BYTES_FROM = bytes.__basicsize__ - 1

#: Payloads of a batch up to this size are copied at once, and a slice of the copy is cheaper than one of native memory.
#: Larger ones are copied piece by piece: a copy of the whole would only push them out of the cache.
_AT_ONCE = 32 * 1024
#: Pieces of native memory remembered by a batch.
_VIEWS = 16

_OK = int(Status.OK)
#: `clients` of sn_tls_options.
_CLIENTS: dict[bool | str, int] = {False: 0, "optional": 1, "required": 2}
_FIRST_FAULT = 10

_lock = threading.Lock()
_libraries: tuple[Any, Any] | None = None
_runtimes: weakref.WeakSet[Runtime] = weakref.WeakSet()


def _load() -> tuple[Any, Any]:
    global _libraries
    with _lock:
        if _libraries is None:
            # What it takes to find the library is imported by whoever needs one.
            from . import _library

            _libraries = _open(str(_library.locate()))
        return _libraries


def _open(path: str) -> tuple[Any, Any]:
    try:
        blocking, short = ctypes.CDLL(path), ctypes.PyDLL(path)
    except OSError as error:
        from ._dlopen import hint

        why = "; ".join(filter(None, (f"{error}", hint(f"{error}"))))
        raise PrebuiltError(
            "E-LOAD", f"the native library {path} cannot be loaded: {why}"
        ) from error
    try:
        _, found = abi.identify(blocking)
    except AttributeError as error:
        raise LibraryMismatchError(f"{path} is not the native library of server_native") from error
    if found != abi.ABI_HASH:
        raise LibraryMismatchError(
            f"{path} has ABI {found:016x}, these bindings need {abi.ABI_HASH:016x}: the library was built from other "
            "sources. In a checkout run `make bindings`; otherwise use a library and a package of the same release."
        )
    abi.declare(blocking)
    abi.declare(short)
    return blocking, short


def abi_version() -> str:
    """Version and ABI identity of the loaded library, as ``0.1.0+<hash>``."""
    library = _load()[0]
    return f"{library.sn_version().decode()}+{library.sn_abi_hash():016x}"


def _check(library: Any, status: int) -> int:
    if status < _FIRST_FAULT:
        return status
    buffer = ctypes.create_string_buffer(1024)
    length = library.sn_last_error(buffer, len(buffer))
    raise from_status(status, buffer.raw[: min(length, len(buffer))].decode("utf-8", "replace"))


class Batch:
    """Native memory that one ``sn_next`` fills.

    What was taken is valid until the batch is given back with :meth:`Runtime.done`.
    """

    __slots__ = ("_handle", "_header", "_views", "arena", "records")

    def __init__(self, library: Any) -> None:
        handle, header = ctypes.c_void_p(), ctypes.c_void_p()
        _check(library, library.sn_batch_new(ctypes.byref(handle), ctypes.byref(header)))
        self._handle = handle
        self._header = _memory(header.value or 0, _header.size)
        # By address: two or three pieces of memory take turns.
        self._views: dict[int, memoryview] = {}
        self.records: memoryview | bytes = b""
        #: Payloads: ``bytes`` of a small batch, otherwise the native memory itself.
        self.arena: memoryview | bytes = b""

    def _take(self) -> bool:
        """Looks at what came; whether the watched descriptor became readable."""
        records, arena, count, length, watched, _ = _header.unpack_from(self._header)
        self.records = self._view(records, count * RECORD_SIZE) if count else b""
        self.arena = self._view(arena, length) if length else b""
        if length <= _AT_ONCE:
            self.arena = bytes(self.arena)
        return bool(watched)

    def _view(self, address: int, size: int) -> memoryview:
        view = self._views.get(address)
        if view is None or len(view) < size:
            if len(self._views) >= _VIEWS:
                self._views.clear()
            # Room beyond what is there now is looked at only when native code says that it is filled.
            view = self._views[address] = _memory(address, max(size, _AT_ONCE))
        return view[:size]

    def _free(self, library: Any) -> None:
        # Not released: an exception on its way may hold the iterator over one of them. Nobody looks at them any more.
        self.records = self.arena = b""
        library.sn_batch_free(self._handle)


class Runtime:
    """One native runtime with its batches: a mapping of the C ABI, no policy."""

    def __init__(self, io_threads: int) -> None:
        self._blocking, self._short = _load()
        runtime = ctypes.c_void_p()
        _check(self._blocking, self._blocking.sn_start(io_threads, ctypes.byref(runtime)))
        self._handle: ctypes.c_void_p | None = runtime
        self._batches = [Batch(self._blocking)]
        self._idle = list(self._batches)
        #: Whether the descriptor of :meth:`watch` became readable.
        self.watched = False
        # What is lent, by token; the object keeps the bytes where they are.
        self._lent: dict[int, object] = {}
        self._tokens = itertools.count(1)
        # Reentrant: a signal's handler may reload while this thread does.
        self._reading = threading.RLock()
        _runtimes.add(self)

    def next(self, timeout: float | None) -> tuple[int, Batch | None]:
        """Takes a batch; blocks up to ``timeout`` seconds (``None``: without end) with the GIL released.

        Answers an outcome of ``abi.Status`` (OK, TIMEOUT, CLOSED or WOKEN), and the batch when there are events in it,
        which goes back by :meth:`done`.
        """
        microseconds = -1 if timeout is None else int(timeout * 1e6) if timeout > 0 else 0
        runtime = self._live()
        try:
            batch = self._idle.pop()
        except IndexError:
            # The others are still being handled.
            batch = Batch(self._blocking)
            self._batches.append(batch)
        status: int = self._blocking.sn_next(runtime, batch._handle, microseconds)
        if status >= _FIRST_FAULT:
            self._idle.append(batch)
            _check(self._blocking, status)
        self.watched = batch._take()
        if not batch.records:
            self._idle.append(batch)
            return status, None
        return status, batch

    def done(self, batch: Batch) -> None:
        """The batch was handled: its memory is filled again."""
        self._idle.append(batch)

    def lend(self, data: bytes) -> bytes:
        """Keeps ``data`` for native code to read where it lies; answers what the arena says of it. From any thread."""
        token = next(self._tokens)
        if _DIRECT:
            self._lent[token] = data
            return _pack_loan(id(data) + _BYTES_FROM, len(data), token)
        pointer = ctypes.c_char_p(data)
        self._lent[token] = pointer
        return _pack_loan(_address(pointer), len(data), token)

    def lend_all(self, pieces: list[bytes]) -> bytes:
        """Keeps several pieces, none of them empty, as :meth:`lend` does, under one token."""
        token = next(self._tokens)
        if _DIRECT:
            self._lent[token] = pieces
            addresses = [id(piece) + _BYTES_FROM for piece in pieces]
        else:
            pointers = [ctypes.c_char_p(piece) for piece in pieces]
            self._lent[token] = pointers
            addresses = list(map(_address, pointers))
        # Filled by columns: slices are assigned in C.
        loans = [0] * (3 * len(pieces))
        loans[::3] = addresses
        loans[1::3] = map(len, pieces)
        loans[2] = token
        return struct.pack(f"={len(loans)}Q", *loans)

    def returned(self, tokens: bytes) -> None:
        """Nobody reads these any more."""
        lent = self._lent
        for token in memoryview(tokens).cast("Q"):
            del lent[token]

    def submit(self, records: bytes, count: int, arena: bytes, length: int) -> None:
        """Hands over packed commands; never blocks. From any thread."""
        status: int = self._short.sn_submit(self._live(), records, count, arena, length)
        if status != _OK:
            _check(self._short, status)

    def wake(self) -> None:
        """Makes :meth:`next` return; from any thread. Nothing happens when the runtime is freed."""
        if self._handle is not None:
            self._short.sn_wake(self._handle)

    def tls(self, config: TLSConfig) -> int:
        """Reads certificates and keys, and answers the number of the TLS configuration (never 0)."""
        files = [
            (config.certificate_path, config.key_path, config.certificate_password),
            *((one.certificate_path, one.key_path, one.password) for one in config.certificates),
        ]
        identities = (abi.Identity * len(files))()
        for identity, (certificate, key, password) in zip(identities, files, strict=True):
            identity.certificate_path = _bytes(os.fsencode(certificate))
            identity.key_path = _bytes(os.fsencode(key))
            identity.password = _bytes((password or "").encode())
        options = abi.TlsOptions()
        options.identities = ctypes.addressof(identities)
        options.identity_count = len(files)
        options.clients = _CLIENTS[config.request_client_certificate]
        options.client_ca_path = _bytes(os.fsencode(config.client_ca_path or ""))
        tls = ctypes.c_uint64()
        status = self._blocking.sn_tls_new(self._live(), ctypes.byref(options), ctypes.byref(tls))
        _check(self._blocking, status)
        return tls.value

    def reload_tls(self, tls: int) -> None:
        """Reads the files of a TLS configuration again; when that fails the old certificates stay. From any thread."""
        # Files and a key's password may take long, so the GIL is let go; `free` waits for the lock instead.
        with self._reading:
            _check(self._blocking, self._blocking.sn_tls_reload(self._live(), tls))

    def bind(self, place: Place, config: ServerConfig, tls: int) -> int:
        """Binds a listener and answers its id; it accepts after :meth:`listen`. ``tls`` 0: none."""
        options = abi.ListenOptions()
        _check(self._blocking, self._blocking.sn_listen_options_default(ctypes.byref(options)))
        if place.fd is not None:
            options.descriptor = place.fd
        elif place.uds is not None:
            options.path = _bytes(os.fsencode(place.uds))
            if place.uds_mode is not None:
                options.mode = place.uds_mode
        else:
            options.address = _bytes(place.address.encode())
            options.scope = place.scope
            options.port = place.port
        options.v6_only = place.v6_only
        options.shared = place.shared
        options.backlog = place.backlog
        options.http2 = config.http2
        options.http3 = config.http3
        options.tls = tls
        for name, _ in abi.Limits._fields_:
            setattr(options.limits, name, getattr(config.limits, name))
        listener = ctypes.c_uint64()
        status = self._blocking.sn_bind(self._live(), ctypes.byref(options), ctypes.byref(listener))
        _check(self._blocking, status)
        return listener.value

    def address(self, listener: int) -> tuple[str, int | None]:
        """Host and port of a bound listener that does not accept yet; path and ``None`` of a Unix socket."""
        buffer, length = ctypes.create_string_buffer(512), ctypes.c_size_t()
        status = self._blocking.sn_listener_address(
            self._live(), listener, buffer, len(buffer), ctypes.byref(length)
        )
        _check(self._blocking, status)
        text = os.fsdecode(buffer.raw[: length.value])
        if text.startswith("unix:"):
            return text.removeprefix("unix:"), None
        host, _, port = text.rpartition(":")
        return host.strip("[]"), int(port)

    def route(self, listener: int, path: str, status: int, fields: bytes, body: bytes) -> None:
        """Answers GET and HEAD of ``path`` natively. Before :meth:`listen`."""
        _check(
            self._blocking,
            self._blocking.sn_route(
                self._live(), listener, _bytes(path.encode()), status, _bytes(fields), _bytes(body)
            ),
        )

    def listen(self, listener: int) -> None:
        """Starts to accept."""
        _check(self._blocking, self._blocking.sn_listen(self._live(), listener))

    def close(self, listener: int) -> None:
        """Closes a listener; its connections go on."""
        _check(self._blocking, self._blocking.sn_close(self._live(), listener))

    def stop(self, grace: float) -> None:
        """Begins a graceful stop, or hastens one; :meth:`next` answers CLOSED when all is over."""
        # Holding the GIL, as everything that any thread may call: `free` must not come in between.
        _check(self._short, self._short.sn_stop(self._live(), int(grace * 1000)))

    def watch(self, descriptor: int) -> None:
        """:meth:`next` returns and sets :attr:`watched` when ``descriptor`` becomes readable (an edge). -1: none."""
        _check(self._blocking, self._blocking.sn_watch(self._live(), descriptor))

    def signal(self, descriptor: int) -> None:
        """Has 8 bytes written to ``descriptor`` when events begin to wait. -1: none."""
        _check(self._blocking, self._blocking.sn_signal(self._live(), descriptor))

    def stats(self) -> dict[str, int]:
        """Figures as of now, by name."""
        stats = abi.Stats()
        _check(self._short, self._short.sn_debug_stats(self._live(), ctypes.byref(stats)))
        figures = {
            name: getattr(stats, name) for name, _ in abi.Stats._fields_ if name != "limited"
        }
        for name, _ in abi.LimitCounts._fields_:
            figures[f"limited_{name}"] = getattr(stats.limited, name)
        return figures

    def free(self) -> None:
        """Frees the runtime; joins its threads with the GIL released. No other thread may be inside a method."""
        with self._reading:
            handle, self._handle = self._handle, None
        if handle is None:
            return
        _runtimes.discard(self)
        self._blocking.sn_free(handle)
        self._lent.clear()
        for batch in self._batches:
            batch._free(self._blocking)

    def _live(self) -> ctypes.c_void_p:
        handle = self._handle
        if handle is None:
            raise StoppingError("the server has stopped")
        if type(handle) is _Forked:
            raise ForkedError(
                f"the server was started in process {handle.parent}; threads do not survive a fork: "
                "start it in the child"
            )
        return handle

    def __del__(self) -> None:
        handle = getattr(self, "_handle", None)
        if handle is not None and type(handle) is not _Forked:
            warnings.warn(
                "a server_native runtime was never closed",
                ResourceWarning,
                source=self,
                stacklevel=1,
            )
            _keep(self._lent)


class _Forked(ctypes.c_void_p):
    """Takes the handle's place in a forked child: the native threads are not there."""

    parent = 0


def _address(pointer: ctypes.c_char_p) -> int:
    return ctypes.cast(pointer, ctypes.c_void_p).value or 0


def _is_direct() -> bool:
    """Whether bytes lie where :data:`_BYTES_FROM` says. On PyPy objects move: there ctypes lends a copy."""
    probe = b"where is this?"
    return _address(ctypes.c_char_p(probe)) == id(probe) + _BYTES_FROM


_DIRECT = sys.implementation.name == "cpython" and _is_direct()


def _keep(lent: dict[int, object]) -> None:
    """Native threads go on until the process ends, and may read what is lent: it must outlive the interpreter."""
    if hasattr(ctypes, "pythonapi"):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(lent))


def _memory(address: int, size: int) -> memoryview:
    return memoryview((ctypes.c_char * size).from_address(address)).cast("B")


def _bytes(data: bytes) -> abi.Bytes:
    # The structure keeps `data` alive through the pointer object that ctypes stores in it.
    return abi.Bytes(ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p), len(data))


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    for runtime in list(_runtimes):
        if runtime._handle is not None:
            marker = _Forked()
            marker.parent = os.getppid()
            runtime._handle = marker
            # The thread that held it is not here.
            runtime._reading = threading.RLock()
    _runtimes.clear()


def _at_exit() -> None:
    # A daemon thread may be inside `next`: it is woken and never comes back, and the process ends without waiting.
    for runtime in list(_runtimes):
        if runtime._handle is not None and type(runtime._handle) is not _Forked:
            runtime._short.sn_stop(runtime._handle, 0)
            runtime._handle = None
            _keep(runtime._lent)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
