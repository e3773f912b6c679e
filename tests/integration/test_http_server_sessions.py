"""Sessions over the wire: the cookie, what it finds, how it ends."""

from __future__ import annotations

from typing import Any

import pytest

from server_native import HttpRequest
from tests.integration.clients import Answer, Wire, eventually
from tests.integration.http_servers import Listen, answering


def cookie_of(answer: Answer) -> tuple[str, str] | None:
    """The session's cookie and its attributes, if one was set."""
    value = answer.header("set-cookie")
    if value is None:
        return None
    pair, _, attributes = value.partition("; ")
    return pair, attributes


def counting(request: HttpRequest) -> None:
    """Counts visits; does what the path says with the session."""
    if request.uri == "/none":
        return
    session = request.session
    assert session is request.session
    if request.uri == "/logout":
        session.destroy()
    elif request.uri == "/again":
        session.destroy()
        assert request.session is not session
        assert request.session.is_new
    elif request.uri == "/login":
        session.renew()
    else:
        session["visits"] = session.get("visits", 0) + 1
        request.response.write(f"{session['visits']} {session.is_new}")


def test_it_persists(listen: Listen) -> None:
    with Wire(listen(answering(counting)).address) as wire:
        assert cookie_of(wire.get("/none")) is None, "made when it is asked for"
        answer = wire.get()
        assert answer.body == b"1 True"
        found = cookie_of(answer)
        assert found is not None
        pair, attributes = found
        assert pair.startswith("SNSESSID=")
        assert len(pair) == len("SNSESSID=") + 32
        assert attributes == "Path=/; HttpOnly; SameSite=Lax"
        answer = wire.get("/", f"cookie: x=y; {pair}; z")
        assert (answer.body, cookie_of(answer)) == (b"2 False", None)
        assert wire.get().body == b"1 True", "another client"


def test_an_id_of_the_clients_own_is_never_taken(listen: Listen) -> None:
    with Wire(listen(answering(counting)).address) as wire:
        wire.get()
        planted = "SNSESSID=" + "a" * 32
        found = cookie_of(wire.get("/", f"cookie: {planted}"))
        assert found is not None
        assert found[0] != planted


def test_destroy(listen: Listen) -> None:
    with Wire(listen(answering(counting)).address) as wire:
        found = cookie_of(wire.get())
        assert found is not None
        answer = wire.get("/logout", f"cookie: {found[0]}")
        assert cookie_of(answer) == (
            "SNSESSID=",
            "Expires=Thu, 01 Jan 1970 00:00:00 GMT; Max-Age=0; Path=/",
        )
        assert wire.get("/", f"cookie: {found[0]}").body == b"1 True"
        assert cookie_of(wire.get("/logout")) is None, "the client never had it"
        other = cookie_of(wire.get("/again", f"cookie: {found[0]}"))
        assert other is not None
        assert other[0] != found[0]


def test_renew(listen: Listen) -> None:
    with Wire(listen(answering(counting)).address) as wire:
        old = cookie_of(wire.get())
        assert old is not None
        new = cookie_of(wire.get("/login", f"cookie: {old[0]}"))
        assert new is not None
        assert new[0] != old[0]
        assert wire.get("/", f"cookie: {new[0]}").body == b"2 False", "what was in it stays"
        assert wire.get("/", f"cookie: {old[0]}").body == b"1 True", "the old id is nobody's"


def test_it_expires(listen: Listen) -> None:
    expired: list[Any] = []

    def handler(request: HttpRequest) -> None:
        counting(request)
        request.session.on_timeout = expired.append

    with Wire(listen(answering(handler), session_timeout=0.05).address) as wire:
        found = cookie_of(wire.get())
        assert found is not None
        eventually(lambda: len(expired) == 1, "the end of the session")
        assert expired == [{"visits": 1}]
        assert wire.get("/", f"cookie: {found[0]}").body == b"1 True"


def test_a_name_of_ones_own(listen: Listen) -> None:
    with Wire(listen(answering(counting), session_cookie="id").address) as wire:
        found = cookie_of(wire.get())
        assert found is not None
        assert found[0].startswith("id=")
        assert wire.get("/", f"cookie: {found[0]}").body == b"2 False"


@pytest.mark.parametrize(("proto", "secure"), [("https", True), ("http", False)])
def test_it_is_secure_where_the_client_is(listen: Listen, proto: str, secure: bool) -> None:
    with Wire(listen(answering(counting)).address) as wire:
        found = cookie_of(wire.get("/", f"x-forwarded-proto: {proto}"))
        assert found is not None
        assert ("Secure" in found[1]) is secure
