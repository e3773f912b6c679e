"""Every exception of the package, and the one table from native statuses to them."""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping

__all__ = [
    "AddressInUseError",
    "AddressNotAvailableError",
    "BindPermissionError",
    "CertificateError",
    "ClientDisconnected",
    "ConfigurationError",
    "ContentLengthError",
    "ForkedError",
    "HandshakeError",
    "LibraryMismatchError",
    "LibraryNotFoundError",
    "NativeIOError",
    "NativePanicError",
    "NotFoundError",
    "PrebuiltError",
    "ResponseSentError",
    "RuntimeBusyError",
    "ServerNativeError",
    "StoppingError",
    "WebSocketClosed",
    "WriteBufferFullError",
]


class ServerNativeError(Exception):
    """Base of every error this package raises on its own account."""


class ConfigurationError(ServerNativeError, ValueError):
    """An argument or option cannot be: the text says what was expected and what was found."""


class LibraryNotFoundError(ServerNativeError, ImportError):
    """No native library could be used; the text names every place searched."""


#: What went wrong on the way to a library, and the exit code of the setup tool.
_EXITS = {
    "E-ENV": 2,
    "E-PLATFORM": 3,
    "E-OFFLINE": 4,
    "E-NET": 5,
    "E-RATE": 5,
    "E-404": 6,
    "E-HASH": 7,
    "E-SIG": 7,
    "E-ARCHIVE": 8,
    "E-PERM": 9,
    "E-SPACE": 9,
    "E-BUSY": 9,
    "E-LOAD": 10,
    "E-ABI": 11,
    "E-BUILD": 12,
    "E-NOLIB": 13,
}


class PrebuiltError(LibraryNotFoundError):
    """A library cannot be found, fetched, verified or built: the text says what was tried and what to do."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{text} [{code}]")
        #: What was tried and what to do, without the code.
        self.text = text
        #: Which of the errors of docs/deployment.md it is, as ``E-HASH``.
        self.code = code

    @property
    def exit_status(self) -> int:
        """What ``python -m server_native.setup`` exits with."""
        return _EXITS[self.code]


class LibraryMismatchError(ServerNativeError, ImportError):
    """The native library and the bindings come from different sources."""


class ForkedError(ServerNativeError, RuntimeError):
    """The server was started in another process: start it in the child."""


class NotFoundError(ServerNativeError, LookupError):
    """No listener or runtime has this id any more."""


class RuntimeBusyError(ServerNativeError, RuntimeError):
    """Another thread drives this runtime, or far too much waits in it."""


class StoppingError(ServerNativeError, RuntimeError):
    """The server is stopping and takes nothing new."""


class NativePanicError(ServerNativeError, RuntimeError):
    """The native side panicked; this is a bug of server_native."""


class NativeIOError(ServerNativeError, OSError):
    """The system refused; the text has its reason."""


class AddressInUseError(NativeIOError):
    """Another socket has this address (``errno.EADDRINUSE``)."""


class AddressNotAvailableError(NativeIOError):
    """The address does not belong to this machine (``errno.EADDRNOTAVAIL``)."""


class BindPermissionError(NativeIOError, PermissionError):
    """Listening there needs more rights (``errno.EACCES``)."""


class ClientDisconnected(ServerNativeError, ConnectionError):
    """The client is gone, or the stream was reset, before the request was read or answered."""


class WebSocketClosed(ClientDisconnected):
    """A WebSocket connection is over: nothing can be received or sent any more."""

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(f"the WebSocket is closed ({code}{': ' + reason if reason else ''})")
        #: The close code (RFC 6455 section 7.4): the peer's, 1005 when it gave none, 1006 when it vanished.
        self.code = code
        #: The reason that came with it.
        self.reason = reason


class HandshakeError(ServerNativeError):
    """The request is no handshake that could be accepted; unless it is caught, the client gets :attr:`status`."""

    def __init__(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        #: The status the client gets: 400 or 426, or 503 when `websocket_threads` are all taken.
        self.status = status
        #: Fields the client gets.
        self.headers = dict(headers or {})


class CertificateError(ConfigurationError):
    """A certificate, key or password cannot be used; the text names the file and the cause."""


class ContentLengthError(ServerNativeError, ValueError):
    """A response's body is shorter or longer than its content-length said; the client got no whole answer."""


class ResponseSentError(ServerNativeError, RuntimeError):
    """What was to be changed, written or read had gone already with the response's head or its end."""


class WriteBufferFullError(ServerNativeError, BufferError):
    """More was written than a client took and than may wait: ``await response.flush()`` between writes."""


# Numbers of `sn_status` (bindings/abi.py); a leaf module cannot import it, tests/test_generated.py compares.
_BY_STATUS: dict[int, tuple[type[ServerNativeError], int | None]] = {
    10: (ConfigurationError, None),
    11: (NotFoundError, None),
    12: (RuntimeBusyError, None),
    13: (StoppingError, None),
    14: (CertificateError, None),
    100: (AddressInUseError, errno.EADDRINUSE),
    101: (BindPermissionError, errno.EACCES),
    102: (AddressNotAvailableError, errno.EADDRNOTAVAIL),
    103: (NativeIOError, errno.EIO),
    255: (NativePanicError, None),
}

#: How native code ends what the system said.
_OS_ERROR = re.compile(r"\(os error (\d+)\)")


def from_status(status: int, text: str) -> ServerNativeError:
    """The exception for a native status that is no outcome."""
    kind, number = _BY_STATUS.get(status, (ServerNativeError, None))
    if number is None:
        return kind(text)
    # The status tells the kind, the text the system's own number: EPERM is a lack of permission too.
    found = _OS_ERROR.search(text)
    return kind(int(found[1]) if found else number, text)
