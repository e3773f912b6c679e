"""Whether a client wants gzip, and what is said of it."""

from __future__ import annotations

import gzip

import pytest

from server_native import ResponseHeaders
from server_native.compress import Gzip, accepts_gzip, gzip_for


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ([], False),
        ([""], False),
        (["gzip"], True),
        (["GZIP"], True),
        (["x-gzip"], True),
        (["br, gzip"], True),
        (["br", "gzip"], True),
        (["gzip;q=1"], True),
        (["gzip;q=1.000"], True),
        (["gzip; Q=0.001"], True),
        (["gzip;q=0"], False),
        (["gzip;q=0.000"], False),
        (["gzip;q=0, *"], False),
        (["gzip;q=0, x-gzip"], False),
        (["*"], True),
        (["*;q=0"], False),
        (["*;q=0, gzip"], True),
        (["br;q=1, *;q=0.1"], True),
        (["identity"], False),
        (["identity, gzip"], True),
        (["identity;q=1, gzip;q=0.5"], False),
        (["identity;q=0.5, gzip;q=1"], True),
        (["identity;q=0, gzip;q=0.1"], True),
        (["deflate"], False),
        (["gzipped"], False),
        (["gzip;q=2"], False),
        (["gzip;q=1.1"], False),
        (["gzip;q=0.1234"], False),
        (["gzip;q=-1"], False),
        (["gzip;q="], False),
        (["gzip;x=1"], False),
        ([" , ,gzip ; q=0.5 , "], True),
    ],
)
def test_weights(fields: list[str], wanted: bool) -> None:
    assert accepts_gzip(fields) is wanted


def test_a_stream_can_be_read_up_to_each_flush() -> None:
    stream = Gzip()
    first = stream.add(b"first") + stream.flush()
    whole = first + stream.add(b" second") + stream.finish()
    assert gzip.decompress(whole) == b"first second"


@pytest.mark.parametrize(
    ("headers", "accepted", "empty", "after"),
    [
        (
            {"content-length": 3, "etag": '"a"'},
            "gzip",
            False,
            {"vary": "accept-encoding", "etag": 'W/"a"', "content-encoding": "gzip"},
        ),
        (
            {"etag": 'W/"a"'},
            "gzip",
            False,
            {"vary": "accept-encoding", "etag": 'W/"a"', "content-encoding": "gzip"},
        ),
        ({"vary": "Cookie, Accept-Encoding"}, "gzip", False, {"content-encoding": "gzip"}),
        ({"vary": "*"}, "br", False, {}),
        ({"content-length": 3}, "br", False, {"vary": "accept-encoding"}),
        ({"content-length": 3}, "gzip", True, {"vary": "accept-encoding"}),
        ({"content-encoding": "br"}, "gzip", False, {}),
        ({"content-range": "bytes 0-1/2"}, "gzip", False, {}),
    ],
)
def test_what_the_headers_say(
    headers: dict[str, str | int], accepted: str, empty: bool, after: dict[str, str]
) -> None:
    fields = ResponseHeaders(headers)
    stream = gzip_for(fields, [accepted], empty=empty)
    compressed = after.get("content-encoding") == "gzip"
    assert (stream is not None) is compressed
    expected = {name: str(value) for name, value in headers.items()} | after
    if compressed:
        expected.pop("content-length", None)
    assert dict(fields) == expected
