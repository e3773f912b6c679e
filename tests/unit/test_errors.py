"""One table from native statuses to exceptions; what the system refused is an ``OSError`` with its number."""

from __future__ import annotations

import errno
import os

import pytest

from server_native import errors
from server_native._bindings.abi import Status

EXPECTED: dict[Status, tuple[type[Exception], type[Exception]]] = {
    Status.INVALID_ARGUMENT: (errors.ConfigurationError, ValueError),
    Status.NOT_FOUND: (errors.NotFoundError, LookupError),
    Status.BUSY: (errors.RuntimeBusyError, RuntimeError),
    Status.STOPPING: (errors.StoppingError, RuntimeError),
    Status.BAD_CERTIFICATE: (errors.CertificateError, ValueError),
    Status.ADDRESS_IN_USE: (errors.AddressInUseError, OSError),
    Status.PERMISSION_DENIED: (errors.BindPermissionError, PermissionError),
    Status.ADDRESS_NOT_AVAILABLE: (errors.AddressNotAvailableError, OSError),
    Status.IO: (errors.NativeIOError, OSError),
    Status.PANIC: (errors.NativePanicError, RuntimeError),
}
NUMBERS = {
    Status.ADDRESS_IN_USE: errno.EADDRINUSE,
    Status.PERMISSION_DENIED: errno.EACCES,
    Status.ADDRESS_NOT_AVAILABLE: errno.EADDRNOTAVAIL,
    Status.IO: errno.EIO,
}


def test_every_status_is_an_outcome_or_has_its_exception() -> None:
    faults = {int(status) for status in Status if status >= 10}
    assert faults == set(errors._BY_STATUS) == {int(status) for status in EXPECTED}


@pytest.mark.parametrize("status", EXPECTED, ids=lambda status: status.name)
def test_a_status_becomes_its_exception_with_the_native_text(status: Status) -> None:
    kind, builtin = EXPECTED[status]
    error = errors.from_status(status, "what was found")
    assert type(error) is kind
    assert isinstance(error, builtin)
    assert isinstance(error, errors.ServerNativeError)
    assert "what was found" in str(error)


@pytest.mark.parametrize(("status", "number"), NUMBERS.items(), ids=str)
def test_what_the_system_refused_carries_its_number(status: Status, number: int) -> None:
    error = errors.from_status(status, "bind: refused")
    assert isinstance(error, errors.NativeIOError)
    assert (error.errno, error.strerror) == (number, "bind: refused")
    assert str(error) == f"[Errno {number}] bind: refused"
    assert os.strerror(number)


def test_the_number_is_the_systems_when_the_text_has_it() -> None:
    text = "cannot listen on /run/a.sock: No such file or directory (os error 2)"
    assert errors.from_status(Status.IO, text).args == (errno.ENOENT, text)
    text = "cannot listen on 10.0.0.1:80: Operation not permitted (os error 1)"
    assert errors.from_status(Status.PERMISSION_DENIED, text).args == (errno.EPERM, text)


def test_a_status_of_a_later_library_is_still_ours() -> None:
    error = errors.from_status(77, "from the future")
    assert type(error) is errors.ServerNativeError
    assert str(error) == "from the future"


def test_every_exception_has_the_one_base_and_is_exported() -> None:
    for name in errors.__all__:
        assert issubclass(getattr(errors, name), errors.ServerNativeError)
    assert issubclass(errors.ClientDisconnected, ConnectionError)
    # What frameworks expect of a send to a peer that is gone.
    assert issubclass(errors.WebSocketClosed, OSError)
    assert issubclass(errors.LibraryNotFoundError, ImportError)
    assert issubclass(errors.LibraryMismatchError, ImportError)
