"""What handlers take and give: requests decoded when asked, responses encoded when made."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from server_native import ConfigurationError, Headers, NativeDirectRequest, NativeDirectResponse
from server_native._bindings.abi import FLAG_END, Protocol
from server_native._streams import Inflow, LoopInflow, ThreadInflow
from server_native.http import as_response
from tests.unit.fakes import outbox, peer, soon

TEXT = b"content-type\0text/plain; charset=utf-8"
BINARY = b"content-type\0application/octet-stream"
JSON = b"content-type\0application/json"


def request(
    line: bytes = b"GET\0/\0http\0example.org",
    fields: bytes = b"",
    payload: bytes = b"",
    inflow: Inflow | None = None,
    protocol: Protocol = Protocol.HTTP11,
) -> NativeDirectRequest:
    return NativeDirectRequest(7, peer(), protocol | FLAG_END, line, fields, payload, inflow)


# --- requests -------------------------------------------------------------------------------------


def test_a_request_is_what_its_line_and_connection_say() -> None:
    found = request(
        b"PATCH\0/a%20b?c=%64\0https\0example.org:8443",
        b"host\0example.org:8443\0x-a\x001\0x-a\x002",
    )
    assert found.stream == 7
    assert (found.method, found.scheme, found.authority) == ("PATCH", "https", "example.org:8443")
    assert (found.target, found.path, found.raw_path, found.query) == (
        "/a%20b?c=%64",
        "/a b",
        "/a%20b",
        "c=%64",
    )
    assert (found.client, found.server) == (("192.0.2.1", 50_000), ("127.0.0.1", 8080))
    assert found.headers == Headers(b"host\0example.org:8443\0x-a\x001\0x-a\x002")
    assert (found.header("X-A"), found.header("x-b"), found.header("x-b", "-")) == ("1", None, "-")
    assert repr(found) == "<NativeDirectRequest PATCH /a%20b?c=%64 HTTP/1.1>"
    assert not found.disconnected
    assert found.trailers == Headers(b"")


@pytest.mark.parametrize(
    ("protocol", "name"),
    [(Protocol.HTTP10, "HTTP/1.0"), (Protocol.HTTP11, "HTTP/1.1"), (Protocol.HTTP2, "HTTP/2")],
)
def test_a_request_names_its_protocol(protocol: Protocol, name: str) -> None:
    assert request(protocol=protocol).protocol == name


async def collect(source: NativeDirectRequest) -> list[bytes]:
    return [chunk async for chunk in source]


@pytest.mark.parametrize(("payload", "chunks"), [(b"", []), (b"whole", [b"whole"])])
def test_a_body_that_is_here_is_read_in_any_way(payload: bytes, chunks: list[bytes]) -> None:
    found = request(payload=payload)
    assert found.body == payload
    assert list(found) == chunks
    assert asyncio.run(found.read()) == payload
    assert asyncio.run(collect(found)) == chunks


def test_a_body_that_arrives_in_a_thread_is_iterated() -> None:
    inflow = ThreadInflow(7, outbox()[1], b"a", 100, False)
    inflow.feed(b"b", False)
    inflow.feed(b"c", False)
    inflow.end(b"x-sum\x003")
    found = request(inflow=inflow)
    assert next(iter(found)) == b"a"
    assert found.body == b"bc"
    assert found.body == b""
    assert list(found.trailers) == [("x-sum", "3")]
    with pytest.raises(
        RuntimeError, match="a plain handler reads its body with `for chunk in request`"
    ):
        asyncio.run(found.read())


def test_a_body_that_arrives_in_a_loop_is_awaited() -> None:
    inflow = LoopInflow(7, outbox()[1], b"a", 100, False, soon)
    inflow.feed(b"b", True)
    found = request(inflow=inflow)
    for wrong in (lambda: found.body, lambda: list(found)):
        with pytest.raises(RuntimeError, match=r"use `await request.read\(\)` or `async for` here"):
            wrong()
    assert asyncio.run(collect(found)) == [b"a", b"b"]
    assert asyncio.run(found.read()) == b""


# --- responses ------------------------------------------------------------------------------------


def parts(response: NativeDirectResponse) -> tuple[int, bytes, bytes]:
    assert response.source is None
    assert response.trailers is None
    return response.status, response.fields, response.payload


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (NativeDirectResponse.text("ü"), (200, TEXT, "ü".encode())),
        (NativeDirectResponse.text("", status=404), (404, TEXT, b"")),
        (NativeDirectResponse.text("a", headers={"X-A": "1"}), (200, TEXT + b"\0x-a\x001", b"a")),
        (
            NativeDirectResponse.text("a", headers={"Content-Type": "text/html"}),
            (200, b"content-type\0text/html", b"a"),
        ),
        (NativeDirectResponse.text("a", headers={}), (200, TEXT, b"a")),
        (
            NativeDirectResponse.text("a", headers=[("x-about", "content-type")]),
            (200, TEXT + b"\0x-about\0content-type", b"a"),
        ),
        (NativeDirectResponse.bytes(b"\0\1"), (200, BINARY, b"\0\1")),
        (NativeDirectResponse.bytes(bytearray(b"a")), (200, BINARY, b"a")),
        (NativeDirectResponse.bytes(memoryview(b"abc")[1:]), (200, BINARY, b"bc")),
        (NativeDirectResponse.bytes(), (200, b"", b"")),
        (NativeDirectResponse.bytes(status=204), (204, b"", b"")),
        (NativeDirectResponse.bytes(status=304, headers={"etag": '"a"'}), (304, b'etag\0"a"', b"")),
        (NativeDirectResponse.json({"ü": [1, None]}), (200, JSON, '{"ü":[1,null]}'.encode())),
        (NativeDirectResponse.json(None, status=500), (500, JSON, b"null")),
        (
            NativeDirectResponse.json([], headers={"content-type": "application/problem+json"}),
            (200, b"content-type\0application/problem+json", b"[]"),
        ),
        (NativeDirectResponse.pre_encoded(201, {"A": "b"}, b"c"), (201, b"a\0b", b"c")),
        (NativeDirectResponse.pre_encoded(201, {}), (201, b"", b"")),
    ],
    ids=lambda item: repr(item)[:40],
)
def test_a_response_is_encoded_when_it_is_made(
    response: NativeDirectResponse, expected: tuple[int, bytes, bytes]
) -> None:
    assert parts(response) == expected


@pytest.mark.parametrize("value", [float("nan"), [float("inf")], {"a": -float("inf")}], ids=repr)
def test_json_has_no_number_that_json_does_not_know(value: object) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        NativeDirectResponse.json(value)


MAKERS: list[Callable[[Any], NativeDirectResponse]] = [
    lambda status: NativeDirectResponse.text("a", status=status),
    lambda status: NativeDirectResponse.bytes(b"a", status=status),
    lambda status: NativeDirectResponse.json({}, status=status),
    lambda status: NativeDirectResponse.stream([b"a"], status=status),
    lambda status: NativeDirectResponse.file(__file__, status=status),
    lambda status: NativeDirectResponse.pre_encoded(status, {}),
    lambda status: as_response((status, "a")),
]


@pytest.mark.parametrize("make", MAKERS)
def test_a_status_is_200_to_999(make: Callable[[Any], NativeDirectResponse]) -> None:
    assert [make(status).status for status in (200, 204, 599, 999)] == [200, 204, 599, 999]
    for status in (-1, 0, 100, 101, 199, 1000):
        text = f"a response status must be an integer from 200 to 999, found {status}"
        with pytest.raises(ConfigurationError, match=text):
            make(status)


@pytest.mark.parametrize("make", MAKERS[:-1])
@pytest.mark.parametrize("status", ["200", None, 201.0, True], ids=repr)
def test_a_status_is_an_integer(make: Callable[[Any], NativeDirectResponse], status: Any) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(f"found {status!r}")):
        make(status)


@pytest.mark.parametrize("headers", [{"a": "b\r\nset-cookie: c"}, {"a\n": "b"}, [("a", "b\0")]])
def test_a_header_that_would_split_the_response_is_refused(headers: Any) -> None:
    makers: list[Callable[[], object]] = [
        lambda: NativeDirectResponse.text("a", headers=headers),
        lambda: NativeDirectResponse.bytes(b"a", headers=headers),
        lambda: NativeDirectResponse.json({}, headers=headers),
        lambda: NativeDirectResponse.stream([], headers=headers),
        lambda: NativeDirectResponse.file(__file__, headers=headers),
        lambda: NativeDirectResponse.pre_encoded(200, headers),
    ]
    for make in makers:
        with pytest.raises(ConfigurationError):
            make()


# --- streams and files ----------------------------------------------------------------------------


def pieces() -> Iterator[bytes]:
    yield b"a"


async def pieces_async() -> AsyncIterator[bytes]:
    yield b"a"


@pytest.mark.parametrize(
    "source",
    [[b"a"], (), pieces(), {b"a": 1}, pieces_async()],
    ids=lambda item: type(item).__name__,
)
def test_a_stream_takes_what_can_be_iterated(source: Any) -> None:
    response = NativeDirectResponse.stream(source, trailers={"x-sum": "1"})
    assert response.source is source
    assert (response.fields, response.payload, response.trailers) == (BINARY, b"", {"x-sum": "1"})
    assert repr(response) == "<NativeDirectResponse 200 streamed>"


@pytest.mark.parametrize(
    "source", ["text", b"bytes", None, 5, pieces], ids=lambda item: type(item).__name__
)
def test_a_stream_takes_nothing_else(source: Any) -> None:
    text = f"a streamed body must be an iterable of bytes, found {type(source).__name__}"
    with pytest.raises(ConfigurationError, match=text):
        NativeDirectResponse.stream(source)


def body(response: NativeDirectResponse) -> bytes:
    assert isinstance(response.source, Iterable)
    return b"".join(response.source)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.html", [("content-type", "text/html")]),
        ("a.unknown-kind", [("content-type", "application/octet-stream")]),
        ("a.tar.gz", [("content-type", "application/x-tar"), ("content-encoding", "gzip")]),
        ("noext", [("content-type", "application/octet-stream")]),
    ],
)
def test_a_file_tells_type_length_and_date(
    tmp_path: Path, name: str, expected: list[tuple[str, str]]
) -> None:
    data = os.urandom(200_000)
    path = tmp_path / name
    path.write_bytes(data)
    os.utime(path, (0, 784_111_777))
    response = NativeDirectResponse.file(path)
    fields = dict(Headers(response.fields))
    assert fields == dict(expected) | {
        "content-length": "200000",
        "last-modified": "Sun, 06 Nov 1994 08:49:37 GMT",
    }
    assert body(response) == data


def test_a_file_takes_text_paths_and_headers_of_the_handler(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"")
    headers: list[tuple[str | bytes, str | bytes]] = [
        ("Content-Type", "text/x"),
        (b"LAST-MODIFIED", b"never"),
        ("etag", "1"),
    ]
    response = NativeDirectResponse.file(str(path), status=206, headers=headers)
    assert (response.status, body(response)) == (206, b"")
    assert list(Headers(response.fields)) == [
        ("content-length", "0"),
        ("content-type", "text/x"),
        ("last-modified", "never"),
        ("etag", "1"),
    ]


def test_what_is_no_file_is_refused_when_the_response_is_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        NativeDirectResponse.file(tmp_path / "missing")
    with pytest.raises(IsADirectoryError, match="a file response needs a regular file"):
        NativeDirectResponse.file(tmp_path)


def test_a_file_that_changes_is_never_sent_with_the_wrong_length(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * 100_000)
    longer, shorter = NativeDirectResponse.file(path), NativeDirectResponse.file(path)
    path.write_bytes(b"y" * 200_000)
    assert body(longer) == b"y" * 100_000
    path.write_bytes(b"z" * 70_000)
    with pytest.raises(OSError, match="became shorter while it was sent: 30000 bytes are missing"):
        body(shorter)


# --- what handlers return -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ("ü", (200, TEXT, "ü".encode())),
        (b"a", (200, BINARY, b"a")),
        (b"", (200, b"", b"")),
        (bytearray(b"a"), (200, BINARY, b"a")),
        (memoryview(b"a"), (200, BINARY, b"a")),
        ({"a": 1}, (200, JSON, b'{"a":1}')),
        ([1], (200, JSON, b"[1]")),
        ((404, "a"), (404, TEXT, b"a")),
        ((201, b"a"), (201, BINARY, b"a")),
        ((422, {"a": []}), (422, JSON, b'{"a":[]}')),
        ((200, []), (200, JSON, b"[]")),
    ],
    ids=repr,
)
def test_a_result_stands_for_a_response(result: object, expected: tuple[int, bytes, bytes]) -> None:
    assert parts(as_response(result)) == expected


def test_a_response_stands_for_itself() -> None:
    response = NativeDirectResponse.text("a")
    assert as_response(response) is response
    assert repr(response) == "<NativeDirectResponse 200 1 bytes>"


@pytest.mark.parametrize(
    ("result", "kind"),
    [
        (None, "NoneType"),
        (5, "int"),
        (1.5, "float"),
        ((), "tuple"),
        (("a", 200), "tuple"),
        ((200, "a", {}), "tuple"),
        ((200, None), "NoneType"),
        ({1, 2}, "set"),
        (iter([b"a"]), "list_iterator"),
    ],
    ids=repr,
)
def test_what_stands_for_no_response_is_refused(result: object, kind: str) -> None:
    with pytest.raises(TypeError, match=f"a handler must return .*, found {kind}$"):
        as_response(result)
