"""What an address, a word, a name or a zone stands for on this machine."""

from __future__ import annotations

import errno
import socket
from typing import Any

import pytest

from server_native import NativeServerBind, _addresses
from server_native._addresses import resolve
from server_native.binds import Place
from server_native.errors import AddressNotAvailableError

LOOPBACK = socket.if_nameindex()[0]


@pytest.fixture(params=[True, False], ids=["with IPv6", "without IPv6"])
def ipv6(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(_addresses, "_has_ipv6", lambda _: request.param)
    return bool(request.param)


def addresses(host: str) -> list[str]:
    return [place.address for place in resolve(NativeServerBind(host))]


def test_localhost_is_both_loopbacks(ipv6: bool) -> None:
    assert addresses("localhost") == (["127.0.0.1", "::1"] if ipv6 else ["127.0.0.1"])
    assert addresses("LocalHost") == addresses("localhost")


def test_any_is_dual_stack_or_what_there_is(ipv6: bool) -> None:
    assert addresses("any") == (["::"] if ipv6 else ["0.0.0.0"])


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::1", "::1"),
        ("[::1]", "::1"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("0.0.0.0", "0.0.0.0"),
    ],
)
def test_addresses_are_taken_as_they_are(host: str, address: str) -> None:
    assert addresses(host) == [address]


@pytest.mark.parametrize("zone", [str(each) for each in LOOPBACK])
@pytest.mark.parametrize("shape", ["fe80::1%{}", "[fe80::1%{}]"])
def test_a_zone_becomes_the_number_of_its_interface(zone: str, shape: str) -> None:
    (place,) = resolve(NativeServerBind(shape.format(zone), 80))
    assert place == Place(address="fe80::1", port=80, scope=LOOPBACK[0])


def test_a_zone_that_is_not_there_is_told_with_those_that_are() -> None:
    with pytest.raises(AddressNotAvailableError) as caught:
        resolve(NativeServerBind("fe80::1%nowhere0"))
    assert caught.value.errno == errno.EADDRNOTAVAIL
    assert LOOPBACK[1] in str(caught.value)
    assert "found 'fe80::1%nowhere0'" in str(caught.value)


def answers(*found: tuple[int, tuple[Any, ...]]) -> Any:
    return lambda *_, **__: [(family, 1, 6, "", address) for family, address in found]


def test_a_name_is_its_first_address_and_ipv4_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    six = (socket.AF_INET6, ("fe80::5%eth0", 80, 0, 3))
    four = (socket.AF_INET, ("192.0.2.5", 80))
    monkeypatch.setattr(socket, "getaddrinfo", answers(six, four))
    (place,) = resolve(NativeServerBind("name.example"))
    assert (place.address, place.scope) == ("192.0.2.5", 0)
    monkeypatch.setattr(socket, "getaddrinfo", answers(six))
    (place,) = resolve(NativeServerBind("name.example"))
    assert (place.address, place.scope) == ("fe80::5", 3)


@pytest.mark.parametrize(
    "host", ["nobody.invalid", "127.0.0.256", "a" * 64 + ".example", "127.0.0.1%lo"]
)
def test_a_name_of_nobody_is_an_oserror_with_the_name(host: str) -> None:
    with pytest.raises(OSError, match=f"a name that resolves, found '{host}'") as caught:
        resolve(NativeServerBind(host))
    assert caught.value.errno == errno.EADDRNOTAVAIL


def test_everything_else_said_of_a_bind_reaches_its_places(ipv6: bool) -> None:
    options: dict[str, Any] = {"v6_only": True, "shared": True, "backlog": 5}
    for place in resolve(NativeServerBind("localhost", 80, **options)):
        assert place == Place(address=place.address, port=80, **options)


def test_unix_sockets_and_descriptors_are_not_looked_up() -> None:
    assert resolve(NativeServerBind(uds="/s", uds_mode=0o600, backlog=5)) == (
        Place(uds="/s", uds_mode=0o600, backlog=5),
    )
    assert resolve(NativeServerBind(fd=3)) == (Place(fd=3),)


def test_ipv6_is_there_when_its_loopback_can_be_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    # TEST-NET-like: the documentation prefix (RFC 3849) belongs to no machine.
    assert not _addresses._has_ipv6("2001:db8::1")
    monkeypatch.setattr(socket, "has_ipv6", False)
    assert not _addresses._has_ipv6("::1")
