"""What is a WebSocket handshake, and what its answer says."""

from __future__ import annotations

import pytest

from server_native import ConfigurationError, HandshakeError, Headers, NativeDirectRequest
from server_native._bindings.abi import FLAG_END, FLAG_UPGRADE, Protocol
from server_native._handshake import answer, check, subprotocol
from server_native._streams import LoopInflow
from tests.unit.fakes import outbox, peer, soon

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
FIELDS = {
    "upgrade": "websocket",
    "sec-websocket-version": "13",
    "sec-websocket-key": KEY,
}


def request(
    fields: dict[str, str | list[str]],
    *,
    line: bytes = b"GET\0/\0http\0a",
    protocol: Protocol = Protocol.HTTP11,
    offers: bool = True,
    payload: bytes = b"",
    streams: bool = False,
) -> NativeDirectRequest:
    parts = []
    for name, values in fields.items():
        for value in [values] if isinstance(values, str) else values:
            parts += [name.encode(), value.encode()]
    flags = protocol | FLAG_END | (FLAG_UPGRADE if offers else 0)
    inflow = LoopInflow(7, outbox()[1], b"", 100, False, soon) if streams else None
    return NativeDirectRequest(7, peer(), flags, line, b"\0".join(parts), payload, inflow)


@pytest.mark.parametrize("upgrade", ["websocket", "WebSocket", "h2c, websocket", "websocket,x/1"])
def test_a_handshake(upgrade: str) -> None:
    check(request({**FIELDS, "upgrade": upgrade}))


def test_a_handshake_of_several_upgrade_fields() -> None:
    check(request({**FIELDS, "upgrade": ["h2c", "websocket"]}))


def test_a_handshake_of_http2_has_no_key() -> None:
    line = b"CONNECT\0/chat\0https\0a\0websocket"
    check(request({"sec-websocket-version": "13"}, line=line, protocol=Protocol.HTTP2))


@pytest.mark.parametrize(
    ("changed", "options", "status", "text", "fields"),
    [
        ({}, {"offers": False}, 426, "must ask for an upgrade", {"upgrade": "websocket"}),
        ({"upgrade": "h2c"}, {}, 426, "must ask for an upgrade", {"upgrade": "websocket"}),
        (
            {"sec-websocket-version": "8"},
            {},
            426,
            "must be 13, once, found 8",
            {"sec-websocket-version": "13", "upgrade": "websocket"},
        ),
        ({"sec-websocket-version": ["13", "8"]}, {}, 426, "found 13, 8", None),
        ({"sec-websocket-version": []}, {}, 426, "found none", None),
        ({}, {"line": b"POST\0/\0http\0a"}, 400, "must be a GET, found POST", {}),
        ({}, {"payload": b"x"}, 400, "must have no body", {}),
        ({}, {"streams": True}, 400, "must have no body", {}),
        ({"sec-websocket-key": []}, {}, 400, "16 bytes in base64, once", {}),
        ({"sec-websocket-key": [KEY, KEY]}, {}, 400, "16 bytes in base64, once", {}),
        ({"sec-websocket-key": "c2hvcnQ="}, {}, 400, "16 bytes in base64, once", {}),
        ({"sec-websocket-key": "é" * 24}, {}, 400, "16 bytes in base64, once", {}),
        ({"sec-websocket-key": KEY[:-1] + "!"}, {}, 400, "16 bytes in base64, once", {}),
    ],
)
def test_what_is_none(
    changed: dict[str, str | list[str]],
    options: dict[str, object],
    status: int,
    text: str,
    fields: dict[str, str] | None,
) -> None:
    with pytest.raises(HandshakeError, match=text) as refusal:
        check(request({**FIELDS, **changed}, **options))  # type: ignore[arg-type]
    assert refusal.value.status == status
    assert fields is None or refusal.value.headers == fields


@pytest.mark.parametrize(
    ("ours", "theirs", "agreed"),
    [
        ((), "chat", None),
        (("chat",), None, None),
        (("superchat", "chat"), "chat, superchat", "superchat"),
        (("chat",), "mqtt ,chat", "chat"),
        (("Chat",), "chat", None),
    ],
)
def test_the_first_of_ours_that_the_client_knows(
    ours: tuple[str, ...], theirs: str | None, agreed: str | None
) -> None:
    fields = b"" if theirs is None else b"sec-websocket-protocol\0" + theirs.encode()
    assert subprotocol(Headers(fields), ours) == agreed


def test_names_in_one_string_are_a_mistake() -> None:
    with pytest.raises(ConfigurationError, match="must be a sequence of names, found 'chat'"):
        subprotocol(Headers(b""), "chat")


def test_the_answer_has_the_users_fields_and_what_was_agreed() -> None:
    assert answer(None, None) == b""
    assert answer(None, "chat") == b"sec-websocket-protocol\0chat"
    assert answer({"X-A": "1"}, None) == b"x-a\x001"
    assert answer([("x-a", "1")], "chat") == b"x-a\x001\0sec-websocket-protocol\0chat"


@pytest.mark.parametrize("name", ["Accept", "Extensions", "Protocol"])
def test_what_is_the_servers_is_refused_in_headers(name: str) -> None:
    with pytest.raises(
        ConfigurationError, match=f"sec-websocket-{name.lower()} .* is the server's"
    ):
        answer({f"Sec-WebSocket-{name}": "x"}, None)


@pytest.mark.parametrize(
    ("fields", "line", "offers", "named"),
    [
        ({"upgrade": "WebSocket"}, b"GET\0/\0http\0a", True, "websocket"),
        ({"upgrade": "raw/1, websocket"}, b"GET\0/\0http\0a", True, "raw/1"),
        ({"upgrade": ["", "raw/1"]}, b"GET\0/\0http\0a", True, "raw/1"),
        ({"upgrade": ","}, b"GET\0/\0http\0a", True, None),
        ({}, b"CONNECT\0/\0https\0a\0Connect-UDP", True, "connect-udp"),
        ({"upgrade": "websocket"}, b"GET\0/\0http\0a", False, None),
    ],
)
def test_what_a_request_offers(
    fields: dict[str, str | list[str]], line: bytes, offers: bool, named: str | None
) -> None:
    assert request(fields, line=line, offers=offers).upgrade == named
