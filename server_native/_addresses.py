"""From what a user calls an address to the places native code binds: words, names and zones are resolved here."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket

from .binds import NativeServerBind, Place
from .errors import AddressNotAvailableError

__all__ = ["resolve"]


def resolve(bind: NativeServerBind) -> tuple[Place, ...]:
    """The places of one bind: two for ``localhost``, else one. They share ``bind.port``, which may be 0.

    Blocks while a name is looked up. Raises :class:`~server_native.errors.AddressNotAvailableError` (an ``OSError``)
    for a name, or a zone, that this machine does not know.
    """
    if bind.uds is not None:
        return (Place(uds=os.fspath(bind.uds), uds_mode=bind.uds_mode, backlog=bind.backlog),)
    if bind.fd is not None:
        return (Place(fd=bind.fd, backlog=bind.backlog),)
    host = str(bind.host).strip("[]")
    word = host.lower()
    if word == "localhost":
        addresses = ["127.0.0.1", "::1"] if _has_ipv6("::1") else ["127.0.0.1"]
    elif word == "any":
        addresses = ["::"] if _has_ipv6("::") else ["0.0.0.0"]  # noqa: S104 - what "any" asks for
    else:
        addresses = [host]
    return tuple(_place(address, bind) for address in addresses)


def _place(host: str, bind: NativeServerBind) -> Place:
    address, scope = _numeric(host, bind.port)
    return Place(
        address=address,
        port=bind.port,
        scope=scope,
        v6_only=bind.v6_only,
        shared=bind.shared,
        backlog=bind.backlog,
    )


def _numeric(host: str, port: int) -> tuple[str, int]:
    """An address without its zone, and the zone's number."""
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(host)
        zone = getattr(address, "scope_id", None)
        if zone is None:
            if address.version == 6 and address.is_link_local:
                names = ", ".join(name for _, name in socket.if_nameindex())
                raise AddressNotAvailableError(
                    errno.EADDRNOTAVAIL,
                    f"a link-local address needs the network interface it is of: say {address}%NAME with one of "
                    f"{names}, found {host!r}",
                )
            return str(address), 0
        return str(ipaddress.IPv6Address(int(address))), _interface(zone, host)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise AddressNotAvailableError(
            # Not the resolver's number (EAI_NONAME ...), which is no errno.
            errno.EADDRNOTAVAIL,
            f"host must be an address or a name that resolves, found {host!r}: {error}",
        ) from error
    # IPv4 first, as a name given to a listener has always meant.
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)
    numeric = found[0][4]
    return str(numeric[0]).partition("%")[0], int(numeric[3]) if len(numeric) == 4 else 0


def _interface(zone: str, host: str) -> int:
    """The number of a network interface, given by name or number (RFC 4007 section 11)."""
    known = socket.if_nameindex()
    for number, name in known:
        if zone in (name, str(number)):
            return number
    raise AddressNotAvailableError(
        errno.EADDRNOTAVAIL,
        f"the zone of an address must be a network interface of this machine "
        f"({', '.join(name for _, name in known)}), found {host!r}",
    )


def _has_ipv6(address: str) -> bool:
    """Whether this machine can bind an IPv6 address: compiled in, not switched off, and there."""
    if not socket.has_ipv6:
        return False
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True
