"""Header fields of a response in the making."""

from __future__ import annotations

from typing import Any

import pytest

from server_native import ConfigurationError, ResponseHeaders, ResponseSentError


def test_a_mapping_of_first_values_in_any_case() -> None:
    headers = ResponseHeaders([("X-A", "1"), ("x-b", 2)])
    headers.add(b"x-a", b"3")
    assert headers["x-A"] == "1"
    assert headers.get("X-B") == "2"
    assert headers.get("x-c") is None
    assert headers.get_all("X-a") == ["1", "3"]
    assert list(headers) == ["x-a", "x-b"]
    assert len(headers) == 2
    assert "X-A" in headers
    assert 1 not in headers  # type: ignore[comparison-overlap]
    assert headers.pairs == (("x-a", "1"), ("x-a", "3"), ("x-b", "2"))
    assert dict(headers) == {"x-a": "1", "x-b": "2"}


def test_changes() -> None:
    headers = ResponseHeaders([("a", "1"), ("a", "2"), ("a", "1"), ("b", "3")])
    headers.remove("A", "1")
    assert headers.get_all("a") == ["2"]
    headers.remove("a", "nothing")
    headers.remove("a", "2")
    headers.remove("a", "2")
    assert "a" not in headers
    headers["B"] = 4
    assert headers.pairs == (("b", "4"),)
    headers.set("b", " 5\t")
    assert headers["b"] == "5", "white space around a value is no part of it"
    headers.remove_all("B")
    headers.remove_all("B")
    headers.update({"c": "1"}, d="2")
    del headers["C"]
    with pytest.raises(KeyError):
        del headers["c"]
    assert headers.pop("d") == "2"
    headers.setdefault("e", "1")
    headers.clear()
    assert not headers


@pytest.mark.parametrize(
    ("name", "value"),
    [("a b", "x"), ("", "x"), ("a", "x\r\ny: z"), ("a", "\0"), ("a", "\u20ac"), ("a", None)],
)
def test_what_could_split_the_response_is_refused(name: str, value: Any) -> None:
    headers = ResponseHeaders()
    for change in (headers.add, headers.set, headers.__setitem__):
        with pytest.raises(ConfigurationError):
            change(name, value)
    assert not headers


def test_a_copy_is_its_own() -> None:
    headers = ResponseHeaders({"a": "1"})
    headers.seal()
    twin = headers.copy()
    twin.add("a", "2")
    assert (headers.get_all("a"), twin.get_all("a")) == (["1"], ["1", "2"])


def test_sealed() -> None:
    headers = ResponseHeaders({"a": "1"})
    headers.seal()
    for change in (
        lambda: headers.add("a", "2"),
        lambda: headers.set("a", "2"),
        lambda: headers.remove("a", "1"),
        lambda: headers.remove_all("a"),
        lambda: headers.pop("a"),
        headers.clear,
    ):
        with pytest.raises(ResponseSentError, match="has been sent"):
            change()
    assert headers["a"] == "1"
    assert repr(headers) == "ResponseHeaders([('a', '1')])"
