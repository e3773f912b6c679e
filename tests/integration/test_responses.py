"""What a handler may answer, and the bytes it becomes: every kind of response, plain values, framing by status."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from server_native import NativeDirectRequest, NativeDirectResponse
from tests.integration.clients import H2, Answer, Wire
from tests.integration.servers import Mode, Serve

Response = NativeDirectResponse


@pytest.mark.parametrize(
    ("result", "status", "kind", "body"),
    [
        ("grüß", 200, "text/plain; charset=utf-8", "grüß".encode()),
        ("", 200, "text/plain; charset=utf-8", b""),
        (b"\x00\xff", 200, "application/octet-stream", b"\x00\xff"),
        (bytearray(b"ab"), 200, "application/octet-stream", b"ab"),
        ({"a": ["ü", None]}, 200, "application/json", '{"a":["ü",null]}'.encode()),
        ([1, 2], 200, "application/json", b"[1,2]"),
        ((201, "made"), 201, "text/plain; charset=utf-8", b"made"),
        ((404, {"error": 1}), 404, "application/json", b'{"error":1}'),
        (Response.text("x", status=418), 418, "text/plain; charset=utf-8", b"x"),
        (Response.bytes(b"x", headers={"Content-Type": "image/png"}), 200, "image/png", b"x"),
        (Response.bytes(), 200, None, b""),
        (Response.json(None), 200, "application/json", b"null"),
        (Response.pre_encoded(299, [], b"bare"), 299, None, b"bare"),
        (Response.pre_encoded(200, {"content-type": "x/y"}, b"z"), 200, "x/y", b"z"),
    ],
)
def test_values_and_responses(
    serve: Serve, result: Any, status: int, kind: str | None, body: bytes
) -> None:
    running = serve(lambda _: result)
    with Wire(running.address) as wire:
        for _ in range(2):
            answer = wire.get()
            assert (answer.status, answer.header("content-type"), answer.body) == (
                status,
                kind,
                body,
            )
            assert answer.header("content-length") == str(len(body))
            assert answer.header("date") is not None
            assert answer.header("connection") is None
    with H2(running.address) as client:
        other = client.request()
        assert (other.status, other.header("content-type"), other.body) == (status, kind, body)
        assert other.header("content-length") == str(len(body))


@pytest.mark.parametrize(
    "wrong",
    [None, 7, object(), ("200", "x"), (200, 7), (200, "x", "y"), {1, 2}, (99, "x"), (1000, "x")],
)
def test_a_result_that_is_no_response_is_a_500_and_named_in_the_log(
    serve: Serve, mode: Mode, wrong: Any
) -> None:
    running = serve(lambda _request, _body: wrong, mode)
    with Wire(running.address) as wire:
        assert wire.get("/here").status == 500
        assert wire.get().status == 500, "the connection goes on"
    texts = serve.logged()
    assert len(texts) == 2
    assert "<NativeDirectRequest GET /here HTTP/1.1>" in texts[0]
    assert "Traceback" in texts[0]


CHUNKS = [b"one", b"", b"two" * 10_000, b"three" * 50_000]


def _sync() -> Iterator[bytes]:
    yield from CHUNKS


async def _async() -> AsyncIterator[bytes]:
    for chunk in CHUNKS:
        yield chunk


@pytest.mark.parametrize("length", [None, len(b"".join(CHUNKS))])
def test_a_stream_arrives_whole_with_and_without_a_length(
    serve: Serve, mode: Mode, length: int | None
) -> None:
    headers = {"content-length": str(length)} if length is not None else {}

    def handler(request: NativeDirectRequest, _: bytes) -> NativeDirectResponse:
        source = _async() if mode.asynchronous and request.query != "sync" else _sync()
        return Response.stream(source, status=203, headers=headers)

    running = serve(handler, mode)
    with Wire(running.address) as wire:
        for path in ("/", "/?sync"):
            answer = wire.get(path)
            assert (answer.status, answer.body) == (203, b"".join(CHUNKS))
            assert answer.header("content-length") == headers.get("content-length")
            assert answer.header("transfer-encoding") == (None if length else "chunked")
    with H2(running.address) as client:
        other = client.request()
        assert (other.status, other.body, other.ended) == (203, b"".join(CHUNKS), True)
        assert other.header("content-length") == headers.get("content-length")


def test_a_stream_of_nothing_is_an_empty_body(serve: Serve, mode: Mode) -> None:
    running = serve(lambda _request, _body: Response.stream(iter(())), mode)
    with Wire(running.address) as wire:
        assert wire.get().body == b""
        assert wire.get().body == b""
    with H2(running.address) as client:
        assert client.request().body == b""


def test_the_first_chunk_is_on_the_wire_before_the_second_is_made(serve: Serve, mode: Mode) -> None:
    """A client of server-sent events reads each as it comes: the second one here waits for the client's word."""
    import threading

    go_on = threading.Event()

    def handler(_: NativeDirectRequest, __: bytes) -> NativeDirectResponse:
        def sync_events() -> Iterator[bytes]:
            yield b"first"
            yield from _awaited(go_on)

        async def async_events() -> AsyncIterator[bytes]:
            import asyncio

            yield b"first"
            while not go_on.is_set():
                await asyncio.sleep(0.001)
            yield b"second"

        return Response.stream(async_events() if mode.asynchronous else sync_events())

    def _awaited(event: threading.Event) -> Iterator[bytes]:
        if mode.name.startswith("pool"):
            event.wait(10)
        else:
            # Inline sources must not block; this one makes nothing until it may.
            while not event.is_set():
                yield b""
        yield b"second"

    with Wire(serve(handler, mode).address) as wire:
        wire.request()
        wire.head()
        assert wire.read_until(b"first")
        go_on.set()
        assert wire.read_until(b"0\r\n\r\n").endswith(b"6\r\nsecond\r\n0\r\n\r\n")


@pytest.mark.parametrize("size", [0, 5, 200_000])
def test_a_file_is_sent_with_its_type_length_and_date(
    serve: Serve, mode: Mode, tmp_path: Path, size: int
) -> None:
    place = tmp_path / "page.html"
    place.write_bytes(b"f" * size)
    running = serve(lambda _request, _body: Response.file(place), mode)
    with Wire(running.address) as wire:
        answer = wire.get()
        wire.request(method="HEAD")
        head = wire.answer("HEAD")
        assert wire.get().body == answer.body
    assert answer.body == place.read_bytes()
    for one in (answer, head):
        assert one.header("content-type") == "text/html"
        assert one.header("content-length") == str(size)
        assert str(one.header("last-modified")).endswith(" GMT")


def test_a_file_that_is_not_there_is_the_handlers_error(serve: Serve, tmp_path: Path) -> None:
    with Wire(serve(lambda _: Response.file(tmp_path / "absent")).address) as wire:
        assert wire.get().status == 500
    assert "FileNotFoundError" in serve.logged()[0]


def test_a_file_that_shrinks_while_it_is_sent_ends_abruptly(serve: Serve, tmp_path: Path) -> None:
    place = tmp_path / "short"
    place.write_bytes(b"f" * 1000)

    def handler(_: NativeDirectRequest) -> NativeDirectResponse:
        response = Response.file(place)
        place.write_bytes(b"f" * 10)
        return response

    with Wire(serve(handler).address) as wire:
        wire.request()
        assert wire.ended_abruptly()
    assert "became shorter" in serve.logged()[0]


@pytest.mark.parametrize("status", [204, 304])
@pytest.mark.parametrize("body", ["", "text", "stream"])
def test_statuses_without_a_body_have_none_whatever_the_handler_says(
    serve: Serve, mode: Mode, status: int, body: str
) -> None:
    def handler(_: NativeDirectRequest, __: bytes) -> NativeDirectResponse:
        if body == "stream":
            return Response.stream(iter([b"never sent"]), status=status)
        return Response.text(body, status=status)

    running = serve(handler, mode)
    with Wire(running.address) as wire:
        wire.request()
        wire.request()
        for _ in range(2):
            answer = wire.answer()
            assert answer.status == status
            assert answer.header("transfer-encoding") is None
            if status == 204:
                assert answer.header("content-length") is None
        wire.half_close()
        assert wire.rest() == b""
    with H2(running.address) as client:
        other = client.request()
        assert (other.status, other.body, other.reset) == (status, b"", None)


def test_a_304_may_keep_the_length_a_200_would_have_had(serve: Serve) -> None:
    running = serve(lambda _: Response.pre_encoded(304, {"content-length": "100", "etag": '"a"'}))
    with Wire(running.address) as wire:
        for _ in range(2):
            answer = wire.get()
            assert (answer.status, answer.header("content-length")) == (304, "100")
    with H2(running.address) as client:
        assert client.request().header("content-length") == "100"


@pytest.mark.parametrize("body", ["", "not allowed"])
def test_a_205_has_an_empty_body(serve: Serve, mode: Mode, body: str) -> None:
    """RFC 9110 section 15.3.6: no content; the length says so, for clients that expect one."""
    running = serve(lambda _request, _body: Response.text(body, status=205), mode)
    with Wire(running.address) as wire:
        answer = wire.get()
        assert (answer.status, answer.body) == (205, b"")
        assert wire.get().body == b""
    with H2(running.address) as client:
        assert client.request().body == b""


def test_fields_of_the_connection_are_ours(serve: Serve) -> None:
    """A handler cannot choose the framing: what it says about the hop is left out, apart from ``connection: close``."""
    fields = [
        ("transfer-encoding", "gzip"),
        ("connection", "keep-alive"),
        ("keep-alive", "timeout=1"),
        ("x", "y"),
    ]
    running = serve(
        lambda request: Response.pre_encoded(
            200, fields if request.path == "/" else {"connection": "close"}, b"body"
        )
    )
    with Wire(running.address) as wire:
        answer = wire.get()
        assert [field for field in answer.headers if field[0] != "date"] == [
            ("x", "y"),
            ("content-length", "4"),
        ]
        last = wire.get("/close")
        assert (last.header("connection"), last.body, wire.rest()) == ("close", b"body", b"")
    with H2(running.address) as client:
        for path in ("/", "/close"):
            headers = dict(client.request(path).headers)
            assert headers.keys() <= {":status", "x", "content-length", "date"}


def test_a_handlers_date_and_repeated_fields_are_kept(serve: Serve) -> None:
    fields = [
        ("Date", "Thu, 01 Jan 1970 00:00:00 GMT"),
        ("Set-Cookie", "a=1"),
        ("set-cookie", "b=2"),
        ("x-latin", "é"),
    ]
    running = serve(lambda _: Response.pre_encoded(200, fields, b""))
    expected = [(name.lower(), value) for name, value in fields]
    with Wire(running.address) as wire:
        answer: Answer = wire.get()
        assert [field for field in answer.headers if field[0] != "content-length"] == expected
    with H2(running.address) as client:
        headers = client.request().headers
        assert [value for name, value in headers if name == "set-cookie"] == ["a=1", "b=2"]
        assert [value for name, value in headers if name == "date"] == [
            "Thu, 01 Jan 1970 00:00:00 GMT"
        ]


def test_one_response_may_be_sent_any_number_of_times(serve: Serve, mode: Mode) -> None:
    response = Response.json({"n": list(range(50_000))})
    running = serve(lambda _request, _body: response, mode)
    with Wire(running.address) as wire:
        answers = [wire.get() for _ in range(3)]
        wire.request(method="HEAD")
        head = wire.answer("HEAD")
    assert [json.loads(answer.body) for answer in answers] == [{"n": list(range(50_000))}] * 3
    for answer in (*answers, head):
        assert answer.header("content-length") == str(len(response.payload)), "its length is known"
