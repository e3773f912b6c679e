"""Where a server listens, as frozen values: what the user says, and the places that come of it.

A leaf: nothing is resolved or opened here; `_addresses` and native code do.
"""

from __future__ import annotations

import ipaddress
import os
import sys
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import TypeAlias

from . import _checks
from .errors import ConfigurationError

__all__ = ["Host", "NativeServerBind", "Place"]

#: An address or a name; ``localhost`` and ``any`` have a meaning of their own.
Host: TypeAlias = "str | ipaddress.IPv4Address | ipaddress.IPv6Address"

#: Bytes of a Unix socket's path: ``sun_path`` of ``<sys/un.h>`` less its final NUL.
_LONGEST_UDS = 107 if sys.platform.startswith("linux") else 103
#: The first descriptor that systemd hands over (SD_LISTEN_FDS_START in sd_listen_fds(3)).
_FIRST_INHERITED = 3


class _Unsaid(str):
    """A default that can be told from the same text said by the user."""

    __slots__ = ()


_DEFAULT_HOST = _Unsaid("127.0.0.1")


@dataclass(frozen=True)
class NativeServerBind:
    """One place to listen: ``host`` and ``port``, the path of a Unix socket, or a descriptor that is bound already.

    Exactly one of ``host``, ``uds`` and ``fd`` may be given. Anything that cannot be raises
    :class:`~server_native.errors.ConfigurationError`; whether the system agrees is seen when the server starts.

    >>> NativeServerBind("localhost", 8080).port
    8080
    >>> NativeServerBind(uds="/run/app.sock", uds_mode=0o660).uds
    '/run/app.sock'
    """

    #: An address (IPv6 with a zone: ``fe80::1%eth0``), a name of which the first address is taken, ``localhost`` (both
    #: loopbacks on one port) or ``any`` (every address of the machine, IPv4 and IPv6). Empty for the other forms.
    host: Host = _DEFAULT_HOST
    #: 0 lets the system choose.
    port: int = 0
    _: KW_ONLY
    #: An IPv6 address takes no IPv4 connections.
    v6_only: bool = False
    #: Other processes may share the port (SO_REUSEPORT).
    shared: bool = False
    #: Connections the kernel keeps waiting.
    backlog: int = 1024
    #: Path of a Unix socket to be made.
    uds: str | os.PathLike[str] | None = None
    #: Permission bits of the socket's file; ``None`` leaves them to the umask.
    uds_mode: int | None = None
    #: A bound or listening stream socket inherited by this process. It is duplicated and stays the caller's, but is
    #: non-blocking from then on, as the flag belongs to the socket.
    fd: int | None = None

    def __post_init__(self) -> None:
        _checks.integer("port", self.port, 0, 65_535)
        _checks.integer("backlog", self.backlog, 1, 2**31 - 1)
        _checks.boolean("v6_only", self.v6_only)
        _checks.boolean("shared", self.shared)
        if self.uds is not None:
            self._set("uds", _checks.path("uds", self.uds))
            size = len(os.fsencode(self.uds))
            if size > _LONGEST_UDS:
                raise ConfigurationError(
                    f"uds must be a path of at most {_LONGEST_UDS} bytes, found {size}: {self.uds!r}"
                )
        if self.uds_mode is not None:
            _checks.integer("uds_mode", self.uds_mode, 0, 0o777)
            if self.uds is None:
                raise ConfigurationError(
                    f"uds_mode goes with uds, found uds_mode={self.uds_mode:#o} without it"
                )
        if self.fd is not None:
            _checks.integer("fd", self.fd, 0, 2**31 - 1)
        if self.uds is None and self.fd is None:
            self._check_host()
        else:
            self._check_no_host()

    def _check_host(self) -> None:
        if isinstance(self.host, (ipaddress.IPv4Address, ipaddress.IPv6Address)):
            self._set("host", str(self.host))
        if not isinstance(self.host, str) or not self.host:
            raise ConfigurationError(f"host must be an address or a name, found {self.host!r}")
        if self.host.lower() == "any" and self.v6_only:
            raise ConfigurationError(
                "host 'any' takes IPv4 and IPv6, found it with v6_only=True: use host='::'"
            )

    def _check_no_host(self) -> None:
        if isinstance(self.host, _Unsaid):
            self._set("host", "")
        forms = [name for name in ("uds", "fd") if getattr(self, name) is not None]
        if self.host:
            forms.insert(0, "host")
        if len(forms) > 1:
            found = " and ".join(f"{name}={getattr(self, name)!r}" for name in forms)
            raise ConfigurationError(
                f"a server listens on one of host, uds and fd, found {found}: "
                "give a NativeServerBind for each to serve_native_multi"
            )
        for name in ("port", "v6_only", "shared"):
            if getattr(self, name):
                raise ConfigurationError(
                    f"{name} goes with host, found {name}={getattr(self, name)!r} with {forms[0]}"
                )

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    @classmethod
    def from_systemd(cls) -> tuple[NativeServerBind, ...]:
        """The sockets of the systemd ``.socket`` unit that started this process (sd_listen_fds(3)), in its order.

        Reads ``LISTEN_PID`` and ``LISTEN_FDS`` and touches neither them nor the descriptors. Raises
        :class:`~server_native.errors.ConfigurationError` when nothing was handed to this process.
        """
        process = _environment_number(os.environ, "LISTEN_PID")
        count = _environment_number(os.environ, "LISTEN_FDS")
        if process != os.getpid():
            raise ConfigurationError(
                f"LISTEN_PID must be this process, {os.getpid()}, found {process}: the sockets are for another one; "
                "start this program from the unit directly, not from a shell in between"
            )
        return tuple(cls(fd=_FIRST_INHERITED + index) for index in range(count))


@dataclass(frozen=True, kw_only=True)
class Place:
    """A bind as native code takes it: every name and word resolved. One of ``address``, ``uds`` and ``fd`` counts."""

    #: Numeric, without brackets or zone.
    address: str = ""
    port: int = 0
    #: Index of the zone's interface; 0 without one.
    scope: int = 0
    uds: str | None = None
    uds_mode: int | None = None
    fd: int | None = None
    v6_only: bool = False
    shared: bool = False
    backlog: int = 1024


def _environment_number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name)
    if text is None:
        raise ConfigurationError(
            f"{name} must be set by systemd, found nothing: start this program from a service that has a .socket unit"
        )
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise ConfigurationError(f"{name} must be a number from 1, found {text!r}")
    return int(text)
