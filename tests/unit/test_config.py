"""Options are read once, and what cannot be is refused with its name, what was expected and what was found."""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from typing import Any

import pytest

from server_native import ConfigurationError, Limits
from server_native.config import ServerConfig

LIMITS = [entry.name for entry in dataclasses.fields(Limits)]
NO_INTEGERS: list[Any] = [-1, True, 1.5, "1", None, b"1"]


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("value", [*NO_INTEGERS, 2**63], ids=repr)
def test_an_impossible_limit_is_refused(name: str, value: Any) -> None:
    ceiling = 2**63 - 1 if name in ("body_bytes", "ws_message_bytes") else 2**32 - 1
    expected = f"limit {name} must be an integer from 0 to {ceiling}, found {value!r}"
    with pytest.raises(ConfigurationError, match=re.escape(expected)):
        Limits(**{name: value})


@pytest.mark.parametrize("name", LIMITS)
def test_the_ends_of_each_limit_are_possible(name: str) -> None:
    ceiling = 2**63 - 1 if name in ("body_bytes", "ws_message_bytes") else 2**32 - 1
    for value in (0, ceiling):
        assert getattr(Limits(**{name: value}), name) == value
    with pytest.raises(ConfigurationError):
        Limits(**{name: ceiling + 1})


IMPOSSIBLE: list[tuple[str, Any, str]] = [
    *(("port", value, "an integer from 0 to 65535") for value in (*NO_INTEGERS, 65_536)),
    *(("backlog", value, "an integer from 1 to 2147483647") for value in (*NO_INTEGERS, 0, 2**31)),
    *(("threads", value, "an integer from 0 to 1024") for value in (*NO_INTEGERS, 1025)),
    *(("io_threads", value, "an integer from 0 to 64") for value in (-1, True, 1.5, "1", 65)),
    *(
        (name, value, "seconds from 0 to 4000000")
        for name in ("grace", "handler_timeout")
        for value in (-1, -0.001, True, "1", 4_000_001, 10**400, float("nan"), float("inf"))
    ),
    ("grace", None, "seconds from 0 to 4000000"),
    *(("host", value, "an address or a name") for value in ("", None, 5, b"localhost")),
    ("limits", {}, "server_native.Limits"),
    ("limits", 5, "server_native.Limits"),
    ("limits", Limits, "server_native.Limits"),
    *(
        (name, value, "True or False")
        for name in ("v6_only", "shared", "http2")
        for value in (None, 1, "no")
    ),
    *(("routes", value, "a mapping of paths to responses") for value in (5, ["/"], "/")),
]


@pytest.mark.parametrize(
    ("name", "value", "expected"), IMPOSSIBLE, ids=lambda item: repr(item)[:30]
)
def test_an_impossible_option_is_refused(name: str, value: Any, expected: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ServerConfig(**{name: value})
    assert str(caught.value) == f"{name} must be {expected}, found {value!r}"
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("port", value) for value in (0, 65_535)),
        *(("backlog", value) for value in (1, 2**31 - 1)),
        *(("threads", value) for value in (0, 1024)),
        *(("io_threads", value) for value in (None, 0, 64)),
        *(("grace", value) for value in (0, 0.0, 1.5, 4_000_000)),
        *(("handler_timeout", value) for value in (None, 0, 1.5, 4_000_000)),
    ],
)
def test_the_ends_of_each_option_are_possible(name: str, value: Any) -> None:
    assert getattr(ServerConfig(**{name: value}), name) == value


def test_parse_takes_address_objects_and_none_for_defaults() -> None:
    assert ServerConfig.parse(host=ipaddress.ip_address("::1")).host == "::1"
    assert ServerConfig.parse(host=ipaddress.ip_address("192.0.2.1")).host == "192.0.2.1"
    assert ServerConfig.parse(limits=None, routes=None) == ServerConfig()
    limits = Limits(head_bytes=5000)
    assert ServerConfig.parse(limits=limits).limits is limits


def test_a_configuration_does_not_change() -> None:
    for value, name in ((ServerConfig(), "port"), (Limits(), "head_bytes")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, name, 1)
