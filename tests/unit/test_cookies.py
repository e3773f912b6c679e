"""Cookies in and out."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from server_native import ConfigurationError, Cookie, ResponseSentError
from server_native.cookies import ResponseCookies, parse_cookies


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ([], []),
        ([""], []),
        (["a=1"], [("a", "1")]),
        (["a=1; b=2", "c=3"], [("a", "1"), ("b", "2"), ("c", "3")]),
        (["a=1;b=2;;  c = 3 "], [("a", "1"), ("b", "2"), ("c", "3")]),
        (["a=1; a=2"], [("a", "1"), ("a", "2")]),
        (["a=b=c; =x; nonsense; d="], [("a", "b=c"), ("d", "")]),
        (['a="quoted, as sent"'], [("a", '"quoted, as sent"')]),
    ],
)
def test_parsing(fields: list[str], found: list[tuple[str, str]]) -> None:
    assert [(cookie.name, cookie.value) for cookie in parse_cookies(fields)] == found


def test_every_attribute() -> None:
    berlin = timezone(timedelta(hours=2))
    cookie = Cookie(
        "a",
        '"b"',
        path="/x y",
        domain="example.org",
        expires=datetime(2030, 1, 2, 5, 4, 5, tzinfo=berlin),
        max_age=-1,
        secure=True,
        http_only=True,
        same_site="None",
    )
    assert cookie.header() == (
        'a="b"; Expires=Wed, 02 Jan 2030 03:04:05 GMT; Max-Age=-1; Domain=example.org; Path=/x y; Secure; HttpOnly; '
        "SameSite=None"
    )


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"name": ""}, "name must be a token"),
        ({"name": "a=b"}, "name must be a token"),
        ({"name": "a\n"}, "name must be a token"),
        ({"value": "a b"}, "urllib.parse.quote"),
        ({"value": "a;b"}, "urllib.parse.quote"),
        ({"value": "a,b"}, "urllib.parse.quote"),
        ({"value": 'a"b'}, "urllib.parse.quote"),
        ({"value": "a\\b"}, "urllib.parse.quote"),
        ({"value": "a\r\nx: y"}, "urllib.parse.quote"),
        ({"value": "ü"}, "urllib.parse.quote"),
        ({"value": 1}, "urllib.parse.quote"),
        ({"path": "/;x"}, "path of cookie 'n'"),
        ({"domain": "a\nb"}, "domain of cookie 'n'"),
        ({"max_age": 1.5}, "whole seconds"),
        ({"max_age": True}, "whole seconds"),
        ({"expires": datetime(2030, 1, 1)}, "time zone"),  # noqa: DTZ001 - refused for it
        ({"same_site": "lax"}, "same_site of cookie 'n' must be one of"),
        ({"same_site": "None"}, "secure=True"),
    ],
)
def test_what_cannot_be_sent_is_refused_where_it_is_added(
    attributes: dict[str, Any], message: str
) -> None:
    cookies = ResponseCookies()
    with pytest.raises(ConfigurationError, match=message):
        cookies.add(Cookie(**{"name": "n", **attributes}))
    assert len(cookies) == 0


def test_one_for_each_name_path_and_domain() -> None:
    cookies = ResponseCookies()
    cookies.add("a", "1", path="/")
    cookies.add("a", "2")
    cookies.add(Cookie("a", "3", path="/"))
    assert cookies.headers() == ["a=3; Path=/", "a=2"]
    assert list(cookies) == [Cookie("a", "3", path="/"), Cookie("a", "2")]
    cookies.remove("a")
    cookies.remove("a")
    assert len(cookies) == 0
    with pytest.raises(TypeError, match="already"):
        cookies.add(Cookie("a"), "value")
    with pytest.raises(TypeError, match="colour"):
        cookies.add("a", colour="red")


def test_sealed() -> None:
    cookies = ResponseCookies()
    cookies.seal()
    with pytest.raises(ResponseSentError):
        cookies.add("a")
    with pytest.raises(ResponseSentError):
        cookies.remove("a")
    with pytest.raises(ResponseSentError):
        cookies.expire("a")
    assert repr(cookies) == "ResponseCookies([])"
