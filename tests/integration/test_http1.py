"""Connections of HTTP/1: kept, shared by pipelined requests, half-closed, reset; HEAD and HTTP/1.0."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from server_native import ClientDisconnected, NativeDirectRequest, NativeDirectResponse
from tests.integration.clients import H2, Wire, eventually
from tests.integration.servers import PATIENCE, Mode, Serve

Response = NativeDirectResponse


def echo(request: NativeDirectRequest, body: bytes) -> str:
    return f"{request.method} {request.target} {len(body)}"


def test_a_connection_serves_many_requests(serve: Serve, mode: Mode) -> None:
    running = serve(echo, mode)
    with Wire(running.address) as wire:
        for number in range(50):
            assert wire.get(f"/{number}").body == f"GET /{number} 0".encode()
        assert running.stats()["accepted"] == 1


def test_the_client_may_ask_for_the_end(serve: Serve, mode: Mode) -> None:
    running = serve(echo, mode)
    for value in ("close", "Close", "foo, close", "keep-alive, close"):
        with Wire(running.address) as wire:
            answer = wire.get("/", f"connection: {value}")
            assert (answer.header("connection"), wire.rest()) == ("close", b"")


def test_pipelined_requests_are_answered_in_order(serve: Serve, mode: Mode) -> None:
    with Wire(serve(echo, mode).address) as wire:
        requests = []
        for number in range(100):
            body = b"x" * (number % 7 * 20_000) if number % 10 == 0 else b""
            head = f"POST /{number} HTTP/1.1\r\nhost: a\r\ncontent-length: {len(body)}\r\n\r\n"
            requests.append(head.encode() + body)
        sender = threading.Thread(target=wire.send, args=(b"".join(requests),))
        sender.start()
        for number in range(100):
            size = number % 7 * 20_000 if number % 10 == 0 else 0
            assert wire.answer().body == f"POST /{number} {size}".encode()
        sender.join()


def test_a_slow_first_handler_keeps_its_place(serve: Serve) -> None:
    """The second request on the connection is not even begun before the first is answered."""
    begun: list[str] = []
    go_on = threading.Event()

    async def handler(request: NativeDirectRequest) -> str:
        begun.append(request.path)
        while request.path == "/slow" and not go_on.is_set():
            await asyncio.sleep(0.001)
        return request.path

    running = serve(handler)
    with Wire(running.address) as wire, Wire(running.address) as other:
        wire.request("/slow")
        wire.request("/fast")
        eventually(lambda: begun == ["/slow"], "the slow handler begins")
        assert other.get("/other").body == b"/other", "others do not wait"
        assert begun == ["/slow", "/other"]
        assert not wire.has_input
        go_on.set()
        assert [wire.answer().body, wire.answer().body] == [b"/slow", b"/fast"]


def test_answers_of_a_pool_come_in_order_too(serve: Serve) -> None:
    go_on = threading.Event()

    def handler(request: NativeDirectRequest) -> str:
        if request.path == "/slow":
            assert go_on.wait(PATIENCE)
        return request.path

    running = serve(handler, threads=2)
    with Wire(running.address) as wire, Wire(running.address) as other:
        wire.request("/slow")
        wire.request("/fast")
        assert other.get("/other").body == b"/other"
        assert not wire.has_input
        go_on.set()
        assert [wire.answer().body, wire.answer().body] == [b"/slow", b"/fast"]


@pytest.mark.parametrize("size", [0, 10, 300_000])
def test_a_client_that_closes_its_side_still_gets_the_answer(
    serve: Serve, mode: Mode, size: int
) -> None:
    with Wire(serve(echo, mode).address) as wire:
        wire.request("/a", method="POST", body=b"x" * size)
        wire.half_close()
        assert wire.answer().body == f"POST /a {size}".encode()
        assert wire.rest() == b""


def test_a_client_that_closes_its_side_gets_every_pipelined_answer(
    serve: Serve, mode: Mode
) -> None:
    with Wire(serve(echo, mode).address) as wire:
        wire.send(b"".join(b"GET /%d HTTP/1.1\r\nhost: a\r\n\r\n" % number for number in range(10)))
        wire.half_close()
        for number in range(10):
            assert wire.answer().body == f"GET /{number} 0".encode()
        assert wire.rest() == b""


def test_closing_one_side_cancels_nothing_and_disconnects_nobody(serve: Serve) -> None:
    """The FIN comes while the handler runs; six of seven peers report a disconnect here."""
    begun, go_on = threading.Event(), threading.Event()
    seen: list[bool] = []

    async def handler(request: NativeDirectRequest) -> str:
        begun.set()
        while not go_on.is_set():
            await asyncio.sleep(0.001)
        seen.append(request.disconnected)
        return "still here"

    with Wire(serve(handler).address) as wire:
        wire.request()
        assert begun.wait(PATIENCE)
        wire.half_close()
        go_on.set()
        assert (wire.answer().body, wire.rest(), seen) == (b"still here", b"", [False])


def test_a_half_closed_client_gets_a_stream_to_its_end(serve: Serve, mode: Mode) -> None:
    running = serve(lambda _request, _body: Response.stream(iter([b"x" * 100_000] * 10)), mode)
    with Wire(running.address) as wire:
        wire.request()
        wire.half_close()
        assert len(wire.answer().body) == 1_000_000
        assert wire.rest() == b""


@pytest.mark.parametrize("loop", ["asyncio", "native", "uvloop"])
def test_a_reset_cancels_an_asynchronous_handler(serve: Serve, loop: str) -> None:
    begun, over = threading.Event(), threading.Event()
    seen: list[bool] = []

    async def handler(request: NativeDirectRequest) -> str:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append(request.disconnected)
            over.set()
            raise
        return ""

    wire = Wire(serve.embedded(handler, loop).address)
    wire.request()
    assert begun.wait(PATIENCE)
    wire.reset()
    assert over.wait(PATIENCE)
    assert seen == [True]


def test_a_reset_tells_a_handler_on_a_thread(serve: Serve) -> None:
    begun, over = threading.Event(), threading.Event()

    def handler(request: NativeDirectRequest) -> str:
        begun.set()
        eventually(lambda: request.disconnected, "the handler hears of the reset")
        over.set()
        return "nobody reads this"

    running = serve(handler, threads=1)
    wire = Wire(running.address)
    wire.request()
    assert begun.wait(PATIENCE)
    wire.reset()
    assert over.wait(PATIENCE)
    eventually(lambda: running.stats()["streams"] == 0, "the stream is gone")


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_reset_in_the_middle_of_a_body_ends_the_reading(serve: Serve, asynchronous: bool) -> None:
    got_some, over = threading.Event(), threading.Event()
    failures: list[BaseException] = []

    async def wants_all(request: NativeDirectRequest) -> str:
        try:
            async for _ in request:
                got_some.set()
        except (asyncio.CancelledError, ClientDisconnected) as error:
            failures.append(error)
            raise
        finally:
            over.set()
        return ""

    def wants_all_in_a_thread(request: NativeDirectRequest) -> str:
        try:
            for _ in request:
                got_some.set()
        except ClientDisconnected as error:
            failures.append(error)
            raise
        finally:
            over.set()
        return ""

    running = serve(wants_all if asynchronous else wants_all_in_a_thread)
    wire = Wire(running.address)
    wire.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\nsome")
    assert got_some.wait(PATIENCE)
    wire.reset()
    assert over.wait(PATIENCE)
    assert len(failures) == 1
    eventually(lambda: running.stats()["streams"] == 0, "the stream is gone")


def test_a_reset_closes_the_generator_of_a_response(serve: Serve, mode: Mode) -> None:
    closed = threading.Event()

    def endless() -> Iterator[bytes]:
        try:
            while True:
                yield b"x" * 10_000
        finally:
            closed.set()

    running = serve(lambda _request, _body: Response.stream(endless()), mode)
    wire = Wire(running.address)
    wire.request()
    wire.read_exactly(100_000)
    wire.reset()
    assert closed.wait(PATIENCE)
    with Wire(running.address) as other:
        other.request()
        other.read_exactly(1000)


def test_an_empty_line_before_a_request_is_skipped(serve: Serve) -> None:
    """RFC 9112 section 2.2; clients of old sent one after the body of a POST."""
    with Wire(serve(lambda request: request.path).address) as wire:
        wire.send(
            b"\r\nGET /a HTTP/1.1\r\nhost: a\r\n\r\n\r\n\r\nGET /b HTTP/1.1\r\nhost: a\r\n\r\n"
        )
        assert [wire.answer().body, wire.answer().body] == [b"/a", b"/b"]


def test_a_request_may_come_byte_by_byte(serve: Serve, mode: Mode) -> None:
    data = b"POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx: y\r\n\r\n"
    with Wire(serve(echo, mode).address) as wire:
        for at in range(len(data)):
            wire.send(data[at : at + 1])
        assert wire.answer().body == b"POST /a 3"


class TestHead:
    """HEAD says what GET would have said, without the body (RFC 9110 section 9.3.2)."""

    @pytest.mark.parametrize("path", ["/whole", "/stream", "/sized"])
    def test_no_body_follows(self, serve: Serve, mode: Mode, path: str) -> None:
        def handler(request: NativeDirectRequest, _: bytes) -> NativeDirectResponse:
            if request.path == "/whole":
                return Response.text("twelve bytes")
            headers = {"content-length": "12"} if request.path == "/sized" else {}
            return Response.stream(iter([b"twelve ", b"bytes"]), headers=headers)

        running = serve(handler, mode)
        with Wire(running.address) as wire:
            wire.request(path, method="HEAD")
            wire.request(path, method="HEAD")
            heads = wire.answer("HEAD"), wire.answer("HEAD")
            get = wire.get(path)
            assert get.body == b"twelve bytes", "nothing was left on the connection"
            for head in heads:
                assert head.status == 200
                assert head.header("content-length") == ("12" if path != "/stream" else None)
                assert head.header("content-type") == get.header("content-type")
        with H2(running.address) as client:
            other = client.request(path, method="HEAD")
            assert (other.frames, other.body, other.ended, other.reset) == (0, b"", True, None)
            assert other.header("content-length") == ("12" if path != "/stream" else None)

    def test_a_stream_is_not_even_begun_for_head(self, serve: Serve, mode: Mode) -> None:
        """An endless one would otherwise be made for nobody, for ever."""
        pulled: list[bytes] = []

        def endless() -> Iterator[bytes]:
            while True:
                pulled.append(b"x")
                yield b"x" * 1000

        running = serve(lambda _request, _body: Response.stream(endless()), mode)
        with Wire(running.address) as wire:
            for _ in range(2):
                wire.request(method="HEAD")
                assert wire.answer("HEAD").status == 200
        assert pulled == []


class TestHttp10:
    """Clients of the last century: the connection closes unless they ask, and nothing is chunked."""

    def test_the_connection_closes(self, serve: Serve, mode: Mode) -> None:
        with Wire(serve(lambda request, _: request.protocol, mode).address) as wire:
            wire.send(b"GET / HTTP/1.0\r\n\r\n")
            answer = wire.answer()
            assert (answer.body, answer.header("connection"), wire.rest()) == (
                b"HTTP/1.0",
                "close",
                b"",
            )

    def test_the_connection_is_kept_when_asked_for(self, serve: Serve, mode: Mode) -> None:
        with Wire(serve(lambda request, _: request.protocol, mode).address) as wire:
            for _ in range(2):
                wire.send(b"GET / HTTP/1.0\r\nconnection: Keep-Alive\r\n\r\n")
                answer = wire.answer()
                assert (answer.body, answer.header("connection")) == (b"HTTP/1.0", "keep-alive")

    @pytest.mark.parametrize("keep_alive", [b"", b"connection: keep-alive\r\n"])
    def test_a_stream_ends_with_the_connection(
        self, serve: Serve, mode: Mode, keep_alive: bytes
    ) -> None:
        running = serve(lambda _request, _body: Response.stream(iter([b"a" * 100_000, b"b"])), mode)
        with Wire(running.address) as wire:
            wire.send(b"GET / HTTP/1.0\r\n" + keep_alive + b"\r\n")
            answer = wire.answer()
            assert answer.header("transfer-encoding") is None
            assert answer.header("connection") == "close"
            assert answer.body == b"a" * 100_000 + b"b"

    def test_a_stream_with_a_length_keeps_the_connection(self, serve: Serve) -> None:
        headers = {"content-length": "4"}
        running = serve(lambda _: Response.stream(iter([b"ab", b"cd"]), headers=headers))
        with Wire(running.address) as wire:
            for _ in range(2):
                wire.send(b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n")
                assert wire.answer().body == b"abcd"

    def test_a_body_and_no_host_are_fine(self, serve: Serve) -> None:
        async def handler(request: NativeDirectRequest) -> str:
            return f"{request.authority!r} {len(await request.read())}"

        with Wire(serve(handler).address) as wire:
            wire.send(b"POST / HTTP/1.0\r\ncontent-length: 3\r\n\r\nabc")
            assert wire.answer().body == b"'' 3"

    def test_expect_is_ignored(self, serve: Serve) -> None:
        async def handler(request: NativeDirectRequest) -> bytes:
            return await request.read()

        with Wire(serve(handler).address) as wire:
            wire.send(b"POST / HTTP/1.0\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\nabc")
            assert wire.answer().body == b"abc"


def test_a_stop_answers_what_is_in_flight_with_a_close(serve: Serve) -> None:
    begun, go_on = threading.Event(), threading.Event()

    async def handler(_: NativeDirectRequest) -> str:
        begun.set()
        while not go_on.is_set():
            await asyncio.sleep(0.001)
        return "finished"

    running = serve(handler, grace=PATIENCE)
    with Wire(running.address) as wire, Wire(running.address) as idle:
        wire.request()
        assert begun.wait(PATIENCE)
        running.close()
        assert idle.rest() == b"", "an idle connection ends at once"
        go_on.set()
        answer = wire.answer()
        assert (answer.body, answer.header("connection"), wire.rest()) == (
            b"finished",
            "close",
            b"",
        )
    running.join()
