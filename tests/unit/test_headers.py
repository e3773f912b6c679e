"""Request lines and header fields, in and out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from server_native import ConfigurationError, Headers, headers
from server_native.headers import encode_fields, read_line


@pytest.fixture(autouse=True)
def nothing_remembered() -> Iterator[None]:
    memories: tuple[dict[Any, Any], ...] = (headers._lines, headers._blocks, headers._encoded)
    for memory in memories:
        memory.clear()
    yield
    for memory in memories:
        memory.clear()


# --- request lines --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "path", "raw_path", "query"),
    [
        (b"/", "/", "/", ""),
        (b"/a?b=c&d", "/a", "/a", "b=c&d"),
        (b"/a??b?", "/a", "/a", "?b?"),
        (b"/%61%2Fb?%61", "/a/b", "/%61%2Fb", "%61"),
        (b"/%C3%BC", "/ü", "/%C3%BC", ""),
        (b"/%FF%zz%", "/\ufffd%zz%", "/%FF%zz%", ""),
        (b"/\xfc", "/\xfc", "/\xfc", ""),
        (b"*", "*", "*", ""),
        (b"/a+b%20c", "/a+b c", "/a+b%20c", ""),
    ],
)
def test_a_target_is_decoded(target: bytes, path: str, raw_path: str, query: str) -> None:
    line = read_line(b"\0".join((b"GET", target, b"http", b"example.org:80")))
    assert (line.method, line.scheme, line.authority) == ("GET", "http", "example.org:80")
    assert (line.path, line.raw_path, line.query) == (path, raw_path, query)
    assert line.target == target.decode("latin-1")


def test_lines_are_remembered_up_to_a_bound() -> None:
    line = b"GET\0/\0http\0a"
    assert read_line(line) is read_line(bytes(bytearray(line)))
    for number in range(3000):
        assert read_line(b"GET\0/%d\0http\0a" % number).path == f"/{number}"
        assert len(headers._lines) <= headers._REMEMBERED
    before = dict(headers._lines)
    read_line(b"GET\0/" + b"x" * headers._REMEMBERED_BYTES + b"\0http\0a")
    assert headers._lines == before


# --- fields, in -----------------------------------------------------------------------------------


def test_fields_keep_order_and_duplicates_and_are_found_in_any_case() -> None:
    fields = Headers(b"host\0a\0cookie\0x=1\0accept\0\0cookie\0y=2")
    assert list(fields) == [("host", "a"), ("cookie", "x=1"), ("accept", ""), ("cookie", "y=2")]
    assert fields.pairs == tuple(fields)
    assert len(fields) == 4
    for name in ("cookie", "Cookie", "COOKIE"):
        assert name in fields
        assert fields[name] == fields.get(name) == "x=1"
        assert fields.get_all(name) == ["x=1", "y=2"]
    assert fields["Accept"] == fields.get("accept", "other") == ""
    assert fields.get_all("x-none") == []
    assert fields.get("x-none") is None
    assert fields.get("x-none", "other") == "other"
    assert "x-none" not in fields
    assert b"host" not in fields
    with pytest.raises(KeyError, match="x-none"):
        fields["x-none"]


def test_no_fields() -> None:
    fields = Headers(b"")
    assert (list(fields), len(fields), fields.get("host")) == ([], 0, None)


def test_values_decode_as_latin_1_which_loses_nothing() -> None:
    value = bytes(range(0x80, 0x100))
    assert Headers(b"x-bytes\0" + value)["x-bytes"].encode("latin-1") == value


def test_equal_fields_are_equal_values() -> None:
    one, same, other = Headers(b"a\0b"), Headers(b"a\0b"), Headers(b"a\0c")
    assert one == same
    assert hash(one) == hash(same)
    assert one != other
    assert one != (("a", "b"),)
    assert repr(one) == "Headers([('a', 'b')])"


def test_blocks_are_remembered_up_to_a_bound() -> None:
    assert Headers.read(b"a\0b") is Headers.read(bytes(bytearray(b"a\0b")))
    for number in range(3000):
        assert Headers.read(b"number\0%d" % number)["number"] == str(number)
        assert len(headers._blocks) <= headers._REMEMBERED
    before = dict(headers._blocks)
    long = b"a\0" + b"x" * headers._REMEMBERED_BYTES
    assert Headers.read(long) == Headers(long)
    assert headers._blocks == before


# --- fields, out ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "block"),
    [
        ({}, b""),
        ((), b""),
        ({"X-One": "1", "x-two": "2"}, b"x-one\x001\0x-two\x002"),
        ({b"X-One": b"1"}, b"x-one\x001"),
        ([("a", "b"), ("A", b"c"), (b"a", "")], b"a\0b\0a\0c\0a\0"),
        ([["a", "b"]], b"a\0b"),
        (iter([("a", "b")]), b"a\0b"),
        ({"content-length": 12}, b"content-length\x0012"),
        ({"a": " \t padded\tinside \t"}, b"a\0padded\tinside"),
        ({"a": "\xe9"}, b"a\0\xe9"),
        ({"a": b"\x80\xff"}, b"a\0\x80\xff"),
        ({"!#$%&'*+-.^_`|~09az": "token"}, b"!#$%&'*+-.^_`|~09az\0token"),
    ],
)
def test_fields_are_joined(source: Any, block: bytes) -> None:
    assert encode_fields(source) == block


@pytest.mark.parametrize(
    "name", ["", "a b", "a:", ":status", "a\r", "a\n", "a\0", "ä", "名", "a\t", "(a)", b"\xff", b""]
)
def test_a_name_that_is_no_token_is_refused(name: str | bytes) -> None:
    with pytest.raises(
        ConfigurationError,
        match=re.escape(f"must be a token (RFC 9110 section 5.6.2), found {name!r}"),
    ):
        encode_fields([(name, "value")])


CONTROLS = [chr(code) for code in (*range(9), *range(10, 32), 127)]


@pytest.mark.parametrize("control", CONTROLS, ids=repr)
@pytest.mark.parametrize("form", ["{}", "{}after", "before{}", "be{}tween", " {} "])
def test_a_control_in_a_value_is_refused(control: str, form: str) -> None:
    value = form.format(control)
    for given in (value, value.encode()):
        with pytest.raises(ConfigurationError) as caught:
            encode_fields([("x-name", given)])
        assert str(caught.value) == (
            f"the value of header 'x-name' must not have CR, LF, NUL or another control character, found {given!r}"
        )


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ([("a",)], "a header must be a pair of name and value, found ('a',)"),
        ([("a", "b", "c")], "a header must be a pair of name and value, found ('a', 'b', 'c')"),
        ([5], "a header must be a pair of name and value, found 5"),
        ([(None, "a")], "a header name must be str or bytes, found None"),
        ([(5, "a")], "a header name must be str or bytes, found 5"),
        ([("a", None)], "the value of header 'a' must be str, bytes or int, found None"),
        ([("a", 1.5)], "the value of header 'a' must be str, bytes or int, found 1.5"),
        ([("x-bool", True)], "the value of header 'x-bool' must be str, bytes or int, found True"),
        ([("a", ["b"])], "the value of header 'a' must be str, bytes or int, found ['b']"),
        ([("a", "€")], "the value of header 'a' must be ISO-8859-1 or bytes, found '€'"),
    ],
)
def test_what_is_no_field_is_refused(source: Any, text: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(text)):
        encode_fields(source)


def test_equal_keys_do_not_lend_each_other_their_validity() -> None:
    number: Any = 1
    assert encode_fields([("a", number)]) == b"a\x001"
    lookalikes: list[Any] = [True, 1.0]
    for value in lookalikes:
        with pytest.raises(ConfigurationError, match="must be str, bytes or int"):
            encode_fields([("a", value)])


def test_encoded_fields_are_remembered_up_to_a_bound() -> None:
    assert encode_fields({"a": "b"}) is encode_fields([("a", "b")])
    for number in range(3000):
        assert encode_fields({"number": str(number)}) == b"number\0%d" % number
        assert len(headers._encoded) <= headers._REMEMBERED
    before = dict(headers._encoded)
    assert len(encode_fields({"a": "x" * headers._REMEMBERED_BYTES})) > headers._REMEMBERED_BYTES
    assert headers._encoded == before
