"""Options are read once, and what cannot be is refused with its name, what was expected and what was found."""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from pathlib import Path
from typing import Any

import pytest

from server_native import ConfigurationError, Limits, NativeServerBind
from server_native.config import CertificateFiles, ServerConfig, TLSConfig

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
    *(
        ("websocket_threads", value, "an integer from 0 to 100000")
        for value in (*NO_INTEGERS, 100_001)
    ),
    *(
        ("max_waiting_requests", value, "an integer from 1 to 2147483647")
        for value in (*NO_INTEGERS, 0, 2**31)
    ),
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
        for name in ("v6_only", "shared", "http2", "http3", "echo")
        for value in (None, 1, "no")
    ),
    *(("routes", value, "a mapping of paths to responses") for value in (5, ["/"], "/")),
]


@pytest.mark.parametrize(
    ("name", "value", "expected"), IMPOSSIBLE, ids=lambda item: repr(item)[:30]
)
def test_an_impossible_option_is_refused(name: str, value: Any, expected: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ServerConfig.parse(**{name: value})
    assert str(caught.value) == f"{name} must be {expected}, found {value!r}"
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("port", value) for value in (0, 65_535)),
        *(("backlog", value) for value in (1, 2**31 - 1)),
        *(("threads", value) for value in (0, 1024)),
        *(("websocket_threads", value) for value in (0, 100_000)),
        *(("max_waiting_requests", value) for value in (1, 2**31 - 1)),
        *(("io_threads", value) for value in (None, 0, 64)),
        *(("grace", value) for value in (0, 0.0, 1.5, 4_000_000)),
        *(("handler_timeout", value) for value in (None, 0, 1.5, 4_000_000)),
    ],
)
def test_the_ends_of_each_option_are_possible(name: str, value: Any) -> None:
    config = ServerConfig.parse(**{name: value})
    assert getattr(config if hasattr(config, name) else config.binds[0], name) == value


def test_parse_takes_address_objects_and_none_for_defaults() -> None:
    assert ServerConfig.parse(host=ipaddress.ip_address("::1")).binds[0].host == "::1"
    assert ServerConfig.parse(host=ipaddress.ip_address("192.0.2.1")).binds[0].host == "192.0.2.1"
    assert ServerConfig.parse(limits=None, routes=None) == ServerConfig()
    limits = Limits(head_bytes=5000)
    assert ServerConfig.parse(limits=limits).limits is limits


def test_a_configuration_does_not_change() -> None:
    for value, name in ((ServerConfig(), "grace"), (Limits(), "head_bytes")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, name, 1)


def test_host_and_address_are_one_option() -> None:
    assert ServerConfig.parse(address="::1") == ServerConfig.parse(host="::1")
    assert ServerConfig.parse(address=None, host="::1") == ServerConfig.parse(host="::1")
    expected = "host and address are two names of one option, found host='a' and address='b'"
    with pytest.raises(ConfigurationError, match=expected):
        ServerConfig.parse(host="a", address="b")


@pytest.mark.parametrize("binds", [[], (), None, 5, "any", ["any"], [None]], ids=repr)
def test_a_server_needs_binds(binds: Any) -> None:
    found = re.escape(repr(tuple(binds) if isinstance(binds, (list, str)) else binds))
    expected = f"^binds must be a list of at least one NativeServerBind, found {found}$"
    with pytest.raises(ConfigurationError, match=expected):
        ServerConfig.parse(binds=binds)


def test_binds_may_be_any_iterable_and_keep_their_order() -> None:
    binds = [NativeServerBind("::1", 1), NativeServerBind(uds="/s")]
    assert ServerConfig.parse(binds=iter(binds)).binds == tuple(binds)


FILES: dict[str, Any] = {"certificate_path": "chain.pem", "key_path": "key.pem"}


def tls(**options: Any) -> TLSConfig:
    found = ServerConfig.parse(**{**FILES, **options}).tls
    assert found is not None
    return found


def test_certificates_turn_tls_on() -> None:
    assert ServerConfig.parse().tls is None
    assert tls() == TLSConfig(certificate_path="chain.pem", key_path="key.pem")


@pytest.mark.parametrize(
    ("options", "missing"),
    [
        ({"certificate_path": None}, "no certificate_path"),
        ({"key_path": None}, "no key_path"),
        ({"certificate_path": None, "key_path": None}, "no certificate_path and no key_path"),
    ],
)
def test_a_secure_server_needs_both_files(options: dict[str, Any], missing: str) -> None:
    expected = f"needs certificate_path and key_path (PEM files), found {missing}"
    with pytest.raises(ConfigurationError, match=f"{re.escape(expected)}$"):
        tls(**options)


@pytest.mark.parametrize("name", ["certificate_path", "key_path", "client_ca_path"])
@pytest.mark.parametrize("value", ["", 5, b"key.pem", "a\0b"], ids=repr)
def test_paths_are_paths(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(f"{name} must be a path, found")):
        tls(request_client_certificate=True, **{name: value})
    made = tls(request_client_certificate=True, **{name: Path("/a.pem")})
    assert getattr(made, name) == "/a.pem"


@pytest.mark.parametrize(
    ("given", "meant"),
    [(False, False), (True, "optional"), ("optional", "optional"), ("required", "required")],
)
def test_client_certificates_are_off_optional_or_required(given: Any, meant: Any) -> None:
    assert tls(request_client_certificate=given).request_client_certificate == meant


@pytest.mark.parametrize("value", [None, 0, 1, "yes", "Required"], ids=repr)
def test_nothing_else_is_an_answer_about_client_certificates(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="must be False, 'optional' or 'required', found"):
        tls(request_client_certificate=value)


def test_an_authority_of_clients_is_of_use_only_when_they_are_asked() -> None:
    with pytest.raises(
        ConfigurationError, match="client_ca_path needs request_client_certificate="
    ):
        tls(client_ca_path="ca.pem")


def test_further_certificates_are_tuples_of_two_or_three() -> None:
    made = tls(certificates=[("a.pem", Path("a.key")), ("b.pem", "b.key", "secret")])
    assert made.certificates == (
        CertificateFiles("a.pem", "a.key"),
        CertificateFiles("b.pem", "b.key", "secret"),
    )


@pytest.mark.parametrize(
    "value", ["a.pem", ["a.pem"], [("a.pem",)], [("a", "b", "secret", "d")], [5], None], ids=repr
)
def test_other_shapes_of_certificates_are_refused_without_telling_passwords(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="certificates must be a list of") as caught:
        tls(certificates=value)
    assert "secret" not in str(caught.value)


def test_passwords_are_text_and_are_never_shown() -> None:
    text: Any = "secret"
    made = tls(certificate_password=text, certificates=[("a", "b", text)])
    assert [made.certificate_password, made.certificates[0].password] == ["secret", "secret"]
    assert "secret" not in repr(made)
    for options in ({"certificate_password": b"secret"}, {"certificates": [("a", "b", b"secret")]}):
        with pytest.raises(ConfigurationError, match=r"password.* must be text, found bytes$"):
            tls(**options)
