"""Header fields go out and come in unchanged, or raise; nothing that raises could have split a message."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server_native import ConfigurationError, Headers
from server_native.headers import encode_fields

TOKEN = string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~"
names = st.text(TOKEN, min_size=1, max_size=20)
values = st.text(
    st.characters(max_codepoint=255).filter(
        lambda char: char == "\t" or (char >= " " and char != "\x7f")
    ),
    max_size=40,
)


@given(st.lists(st.tuples(names, values), max_size=8))
def test_round_trip(pairs: list[tuple[str, str]]) -> None:
    headers = Headers(encode_fields(pairs))
    expected = [(name.lower(), value.strip(" \t")) for name, value in pairs]
    assert list(headers) == expected
    assert len(headers) == len(pairs)
    for name, _ in pairs:
        alike = [value for known, value in expected if known == name.lower()]
        assert headers[name.upper()] == headers[name] == alike[0]
        assert headers.get_all(name) == alike
    as_bytes = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in pairs]
    assert encode_fields(as_bytes) == encode_fields(pairs)


@given(st.lists(st.tuples(st.text(max_size=10), st.text(max_size=10)), min_size=1, max_size=4))
def test_anything_is_encoded_safely_or_raises(pairs: list[tuple[str, str]]) -> None:
    try:
        block = encode_fields(pairs)
    except ConfigurationError:
        return
    assert block.count(b"\0") == 2 * len(pairs) - 1
    assert not any((byte < 32 and byte not in (0, 9)) or byte == 127 for byte in block)
    for name in block.split(b"\0")[::2]:
        assert name
        assert set(name.decode("ascii")) <= set(TOKEN)


@given(
    st.binary(max_size=10),
    st.sampled_from([b"\r", b"\n", b"\0", b"\r\n", b"\x7f", b"\x1b"]),
    st.binary(max_size=10),
)
def test_a_control_anywhere_raises(front: bytes, control: bytes, back: bytes) -> None:
    with pytest.raises(ConfigurationError):
        encode_fields([(b"x", front + control + back)])
