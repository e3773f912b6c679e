"""Keyword options are said once: the typed dictionaries, the configuration and the signatures agree."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Any

import pytest

import server_native
from server_native import NativeMultiServer, NativeServerBind, config
from server_native.config import ServerConfig, TLSConfig

ONE = ["serve_native_direct", "start_native_direct"]
SECURE_ONE = ["serve_secure_native_direct", "start_secure_native_direct"]
MANY = ["serve_native_multi", "start_native_multi"]
SECURE_MANY = ["serve_secure_native_multi", "start_secure_native_multi"]
METHODS = ["bind", "loopback"]
SECURE_METHODS = ["bind_secure", "loopback_secure"]


def function(name: str) -> Any:
    return getattr(server_native, name, None) or getattr(NativeMultiServer, name)


def names(kind: Any) -> set[str]:
    return set(kind.__annotations__)


def test_each_option_is_a_field_of_the_configuration_and_each_field_an_option() -> None:
    def field_names(kind: Any) -> set[str]:
        return {entry.name for entry in fields(kind)}

    assert names(config.PlaceOptions) == field_names(NativeServerBind) | {"address"}
    assert names(config.TLSOptions) == field_names(TLSConfig)
    assert names(config.MultiServeOptions) == field_names(ServerConfig) - {"binds", "tls"}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, config.ServeOptions) for name in ONE),
        *((name, config.SecureServeOptions) for name in SECURE_ONE),
        *((name, config.MultiServeOptions) for name in (*MANY, *METHODS)),
        *((name, config.SecureMultiServeOptions) for name in (*SECURE_MANY, *SECURE_METHODS)),
    ],
)
def test_a_signature_shows_the_options_by_name(name: str, kind: Any) -> None:
    found = inspect.signature(function(name)).parameters
    own = {"handler", "binds", "where", "shutdown_signal", "on_ready"}
    # `port` of the class methods is a parameter of their own.
    assert set(found) - own - ({"port"} - names(kind)) == names(kind)
    assert all(found[option].kind is inspect.Parameter.KEYWORD_ONLY for option in names(kind))
    assert {
        option for option in names(kind) if found[option].default is inspect.Parameter.empty
    } == {*kind.__required_keys__}


@pytest.mark.parametrize(
    ("name", "host", "port"),
    [
        ("serve_native_direct", "127.0.0.1", 8080),
        ("start_native_direct", "127.0.0.1", 0),
        ("serve_secure_native_direct", "localhost", 443),
        ("start_secure_native_direct", "localhost", 0),
    ],
)
def test_a_signature_shows_the_defaults_that_hold(name: str, host: str, port: int) -> None:
    found = inspect.signature(function(name)).parameters
    assert (found["host"].default, found["port"].default) == (host, port)
    without = ServerConfig()
    for option in ("http2", "http3", "io_threads", "threads", "grace", "echo"):
        assert found[option].default == getattr(without, option)
    for option in ("backlog", "v6_only", "shared", "uds", "uds_mode", "fd"):
        assert found[option].default == getattr(without.binds[0], option)


@pytest.mark.parametrize(
    ("options", "place"),
    [
        ({}, NativeServerBind("127.0.0.1", 8080)),
        ({"port": 0}, NativeServerBind("127.0.0.1", 0)),
        ({"host": "::1"}, NativeServerBind("::1", 8080)),
        ({"address": "::1"}, NativeServerBind("::1", 8080)),
        ({"uds": "/s"}, NativeServerBind(uds="/s")),
        ({"fd": 3, "uds": None}, NativeServerBind(fd=3)),
    ],
)
def test_a_functions_own_place_gives_way_to_the_one_that_is_said(
    options: dict[str, Any], place: NativeServerBind, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[ServerConfig] = []
    monkeypatch.setattr(
        "server_native.direct.serve", lambda _, config, *rest: served.append(config)
    )
    server_native.serve_native_direct(lambda _: "", **options)
    assert served == [ServerConfig(binds=(place,))]


def test_a_place_that_contradicts_itself_is_refused_through_the_functions_too() -> None:
    with pytest.raises(
        server_native.ConfigurationError, match=r"found host='127\.0\.0\.1' and uds="
    ):
        server_native.serve_native_direct(lambda _: "", host="127.0.0.1", uds="/s")


@pytest.mark.parametrize(
    ("name", "option", "advice"),
    [
        ("serve_native_direct", "hots", "did you mean 'host'?"),
        ("serve_native_direct", "on_redy", "did you mean 'on_ready'?"),
        ("start_native_direct", "colour", "it takes host, address, port, "),
        ("start_native_direct", "key_path", "an option of the functions with `secure` in their"),
        ("serve_secure_native_direct", "cert_path", "did you mean 'certificate_path'?"),
        ("serve_native_multi", "host", "say it in each NativeServerBind"),
        ("serve_native_multi", "colour", "it takes http2, http3, io_threads, "),
        ("loopback_secure", "certificate_pasword", "did you mean 'certificate_password'?"),
    ],
)
def test_an_unknown_option_is_refused_with_advice(name: str, option: str, advice: str) -> None:
    with pytest.raises(TypeError) as caught:
        function(name)(lambda _: "", **{option: 1})
    assert str(caught.value).startswith(f"{name}() has no option {option!r}: ")
    assert advice in str(caught.value)


@pytest.mark.parametrize("name", [*SECURE_ONE, *SECURE_MANY, *SECURE_METHODS])
def test_the_secure_functions_ask_for_their_files(name: str) -> None:
    binds = [[NativeServerBind()]] if name in {*SECURE_MANY, "bind_secure"} else []
    with pytest.raises(server_native.ConfigurationError, match="found no key_path"):
        function(name)(lambda _: "", *binds, certificate_path="chain.pem")


def test_what_is_missing_of_the_functions_own_is_said_as_ever() -> None:
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'handler'"):
        function("serve_native_direct")()
