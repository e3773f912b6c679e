"""Where a server may be told to listen: one form for each bind, and what contradicts it is refused by name."""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from server_native import ConfigurationError, NativeServerBind


def test_a_bind_is_a_loopback_port_of_the_systems_choice_unless_told_otherwise() -> None:
    bind = NativeServerBind()
    assert (bind.host, bind.port, bind.uds, bind.fd) == ("127.0.0.1", 0, None, None)
    assert bind == NativeServerBind("127.0.0.1", 0)
    assert repr(bind).startswith("NativeServerBind(host='127.0.0.1', port=0, ")


def test_hosts_may_be_address_objects_and_sockets_path_objects() -> None:
    zoned = ipaddress.ip_address("fe80::1%eth0")
    assert NativeServerBind(zoned).host == "fe80::1%eth0"
    assert NativeServerBind(uds=Path("/run/app.sock")).uds == "/run/app.sock"


def test_a_bind_of_another_form_has_no_host() -> None:
    assert NativeServerBind(uds="/s").host == ""
    assert NativeServerBind(fd=3).host == ""


def test_a_changed_copy_keeps_its_form() -> None:
    for bind in (NativeServerBind(), NativeServerBind(uds="/s", uds_mode=0o600)):
        copy = dataclasses.replace(bind, backlog=5)
        assert (copy.host, copy.uds, copy.backlog) == (bind.host, bind.uds, 5)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"host": "127.0.0.1", "uds": "/s"}, "one of host, uds and fd, found host='127.0.0.1' and"),
        ({"host": "any", "fd": 3}, "one of host, uds and fd, found host='any' and fd=3"),
        ({"uds": "/s", "fd": 3}, "one of host, uds and fd, found uds='/s' and fd=3"),
        ({"uds": "/s", "port": 80}, "port goes with host, found port=80 with uds"),
        ({"fd": 3, "v6_only": True}, "v6_only goes with host, found v6_only=True with fd"),
        ({"fd": 3, "shared": True}, "shared goes with host, found shared=True with fd"),
        ({"uds_mode": 0o600}, "uds_mode goes with uds, found uds_mode=0o600 without it"),
        ({"fd": 3, "uds_mode": 0o600}, "uds_mode goes with uds"),
        ({"host": "any", "v6_only": True}, "host 'any' takes IPv4 and IPv6, found it with v6_only"),
        ({"fd": -1}, "fd must be an integer from 0 to 2147483647, found -1"),
        ({"fd": True}, "fd must be an integer"),
        ({"uds": ""}, "uds must be a path, found ''"),
        ({"uds": b"/s"}, "uds must be a path, found b'/s'"),
        ({"uds": "/s", "uds_mode": 0o1777}, "uds_mode must be an integer from 0 to 511"),
        ({"uds": "/" + "s" * 200}, "uds must be a path of at most "),
    ],
)
def test_what_contradicts_the_form_is_refused(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(expected)):
        NativeServerBind(**options)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="107 bytes is Linux's sun_path")
def test_the_longest_path_of_a_unix_socket_is_counted_in_bytes() -> None:
    assert NativeServerBind(uds="s" * 107).uds
    with pytest.raises(ConfigurationError, match="at most 107 bytes, found 108"):
        NativeServerBind(uds="é" * 54)


class TestSystemd:
    """Sockets handed over by a systemd ``.socket`` unit."""

    @pytest.fixture(autouse=True)
    def handed_over(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
        monkeypatch.setenv("LISTEN_FDS", "2")

    def test_each_descriptor_from_3_is_a_bind(self) -> None:
        assert NativeServerBind.from_systemd() == (NativeServerBind(fd=3), NativeServerBind(fd=4))

    @pytest.mark.parametrize("name", ["LISTEN_PID", "LISTEN_FDS"])
    def test_without_the_variables_it_says_which_is_missing(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv(name)
        with pytest.raises(
            ConfigurationError, match=f"^{name} must be set by systemd, found nothing"
        ):
            NativeServerBind.from_systemd()

    @pytest.mark.parametrize("name", ["LISTEN_PID", "LISTEN_FDS"])
    @pytest.mark.parametrize("text", ["", "0", "-1", "two", "²"])
    def test_what_is_no_number_is_shown(
        self, name: str, text: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(name, text)
        with pytest.raises(
            ConfigurationError, match=f"^{name} must be a number from 1, found '{text}'"
        ):
            NativeServerBind.from_systemd()

    def test_sockets_for_another_process_are_not_taken(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("LISTEN_PID", "1")
        expected = f"LISTEN_PID must be this process, {os.getpid()}, found 1"
        with pytest.raises(ConfigurationError, match=expected):
            NativeServerBind.from_systemd()
