"""When handlers fail: one 500, one log entry with its traceback, never bytes that a client could take for an answer."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from server_native import ConfigurationError, Headers, NativeDirectRequest, NativeDirectResponse
from tests.integration.clients import H2, Wire
from tests.integration.servers import PATIENCE, Mode, Serve

Response = NativeDirectResponse


def test_an_exception_is_one_500_and_one_log_entry(serve: Serve, mode: Mode) -> None:
    def handler(request: NativeDirectRequest, _: bytes) -> str:
        if request.path == "/fine":
            return "fine"
        raise LookupError("the reason")

    running = serve(handler, mode)
    with Wire(running.address) as wire:
        answer = wire.get("/broken")
        assert (answer.status, answer.header("connection")) == (500, None)
        assert b"reason" not in answer.body, "what went wrong is no business of the client"
        assert wire.get("/fine").body == b"fine", "the connection goes on"
    with H2(running.address) as client:
        assert client.request("/broken").status == 500
        assert client.request("/fine").body == b"fine"
    texts = serve.logged()
    assert len(texts) == 2
    for text in texts:
        assert "Traceback" in text
        assert "LookupError: the reason" in text
        assert "/broken" in text


@pytest.mark.parametrize("before", [0, 1, 3])
def test_an_exception_in_a_stream_is_an_abrupt_end(serve: Serve, mode: Mode, before: int) -> None:
    def broken() -> Iterator[bytes]:
        for _ in range(before):
            yield b"x" * 50_000
        raise LookupError("in the middle")

    async def broken_async() -> AsyncIterator[bytes]:
        for chunk in broken():
            yield chunk

    running = serve(
        lambda request, _: Response.stream(
            broken_async() if mode.asynchronous and request.query == "" else broken(),
            headers={"content-length": "1000000"} if request.path == "/sized" else {},
        ),
        mode,
    )
    for path in ("/", "/sized", "/?sync"):
        with Wire(running.address) as wire:
            wire.request(path)
            assert wire.ended_abruptly()
    with H2(running.address) as client:
        assert client.request().reset is not None
    texts = serve.logged()
    assert len([text for text in texts if "LookupError: in the middle" in text]) == 4
    assert len(texts) == 4


@pytest.mark.parametrize("chunk", ["text", None, 7])
def test_a_chunk_that_is_no_bytes_is_an_abrupt_end(serve: Serve, mode: Mode, chunk: Any) -> None:
    running = serve(lambda _request, _body: Response.stream(iter([b"fine", chunk])), mode)
    with Wire(running.address) as wire:
        wire.request()
        assert wire.ended_abruptly()
    assert len(serve.logged()) == 1


def test_an_asynchronous_source_in_a_plain_handler_is_an_error(serve: Serve) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"x"

    for threads in (0, 1):
        running = serve(lambda _: Response.stream(chunks()), threads=threads)
        with Wire(running.address) as wire:
            assert wire.get().status == 500
        assert len(serve.logged()) == 1


class TestHeaders:
    """A field that could split the response raises where it is made, and nothing of it reaches the wire."""

    BAD = (
        ("x", "a\r\nset-cookie: stolen=1"),
        ("x", "a\nb"),
        ("x", "a\rb"),
        ("x", "a\0b"),
        ("x", "a\x7fb"),
        (b"x", b"a\r\n\r\nHTTP/1.1 200 OK"),
        ("x\r\ny", "z"),
        ("x:", "z"),
        ("x y", "z"),
        ("", "z"),
        ("ü", "z"),
        ("x", "\u20ac"),
        ("x", None),
        ("x", 1.5),
    )

    @pytest.mark.parametrize(("name", "value"), BAD)
    def test_it_raises_in_python(self, name: Any, value: Any) -> None:
        with pytest.raises(ConfigurationError):
            Response.text("", headers=[(name, value)])
        with pytest.raises(ConfigurationError):
            Response.bytes(b"x", headers=[(name, value)])
        with pytest.raises(ConfigurationError):
            Response.json(1, headers=[(name, value)])
        with pytest.raises(ValueError, match="header"):
            Response.pre_encoded(200, [(name, value)])
        with pytest.raises(ConfigurationError):
            Response.stream(iter(()), headers=[(name, value)])

    @pytest.mark.parametrize(("name", "value"), BAD)
    def test_the_client_gets_500(self, serve: Serve, name: Any, value: Any) -> None:
        running = serve(lambda _: Response.text("secret", headers=[(name, value)]))
        with Wire(running.address) as wire:
            wire.request()
            wire.request()
            wire.half_close()
            answers = wire.answer(), wire.answer()
            assert wire.rest() == b""
        for answer in answers:
            assert answer.status == 500
            assert b"secret" not in answer.body
            assert {field for field, _ in answer.headers} == {
                "content-type",
                "content-length",
                "date",
            }
        assert len(serve.logged()) == 2

    def test_what_was_refused_once_is_refused_again(self) -> None:
        """The cache of encoded heads holds good ones only."""
        for _ in range(3):
            with pytest.raises(ConfigurationError):
                Response.text("", headers=[("x", "a\r\nb")])

    def test_request_headers_cannot_be_sent_back_as_more_than_they_were(self, serve: Serve) -> None:
        running = serve(
            lambda request: Response.text("", headers={"x-echo": request.header("x") or ""})
        )
        with Wire(running.address) as wire:
            answer = wire.get("/", "x: a\tb \xff")
            assert answer.header("x-echo") == "a\tb \xff"
        assert Headers(b"a\0b") == Headers(b"a\0b")


class TestContentLength:
    """A handler whose length is a lie: the client must never read the next answer at the wrong place."""

    @pytest.mark.parametrize("length", ["0", "1", "6", "1000", "+5", "5, 5", "x", "-1", ""])
    @pytest.mark.parametrize("streamed", [True, False])
    def test_never_desynchronises(
        self, serve: Serve, mode: Mode, length: str, streamed: bool
    ) -> None:
        def handler(request: NativeDirectRequest, _: bytes) -> Any:
            if request.path == "/next":
                return "next"
            headers = {"content-length": length}
            return (
                Response.stream(iter([b"he", b"llo"]), headers=headers)
                if streamed
                else Response.text("hello", headers=headers)
            )

        running = serve(handler, mode)
        with Wire(running.address) as wire:
            # In one piece: the reset that may follow the first answer must not hit the sending of the second request.
            wire.send(
                b"GET / HTTP/1.1\r\nhost: test\r\n\r\nGET /next HTTP/1.1\r\nhost: test\r\n\r\n"
            )
            try:
                first = wire.answer()
            except (EOFError, ConnectionResetError):
                assert streamed, "nothing of a whole answer has gone, so it can be refused"
            else:
                if streamed and length == "0":
                    # The head that went before the lie was known is a whole answer; the connection ends after it.
                    assert (first.status, first.body) in {(200, b""), (500, b"")}
                else:
                    assert first.status == 500
                with contextlib.suppress(ConnectionResetError):
                    rest = wire.rest()
                    assert not rest or rest.endswith(b"\r\n\r\nnext")
        with H2(running.address) as client:
            answer = client.request("/")
            assert answer.reset is not None or answer.status == 500
            assert client.request("/next").body == b"next"
        assert len(serve.logged(2)) == 2

    def test_two_lengths_are_refused(self, serve: Serve) -> None:
        running = serve(
            lambda _: Response.text(
                "hello", headers=[("content-length", "5"), ("content-length", "6")]
            )
        )
        with Wire(running.address) as wire:
            assert wire.get().status == 500
        with H2(running.address) as client:
            assert client.request().status == 500
        assert len(serve.logged(2)) == 2

    def test_the_true_one_is_fine(self, serve: Serve, mode: Mode) -> None:
        running = serve(
            lambda _request, _body: Response.text("hello", headers={"content-length": "5"}), mode
        )
        with Wire(running.address) as wire:
            assert [wire.get().body, wire.get().body] == [b"hello"] * 2


class TestTimeout:
    """``handler_timeout``: the handler is cancelled, the client gets 503."""

    @pytest.mark.parametrize("loop", ["asyncio", "native", "uvloop"])
    def test_a_handler_that_takes_too_long(self, serve: Serve, loop: str) -> None:
        cancelled: list[str] = []

        async def handler(request: NativeDirectRequest) -> str:
            if request.path == "/fast":
                return "fast"
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(request.path)
                raise
            return ""

        with Wire(serve.embedded(handler, loop, handler_timeout=0.05).address) as wire:
            assert wire.get("/slow").status == 503
            assert wire.get("/fast").body == b"fast", "the connection goes on"
        assert cancelled == ["/slow"]
        assert len(serve.logged()) == 1

    def test_a_timeout_of_the_handlers_own_is_its_own(self, serve: Serve) -> None:
        async def handler(_: NativeDirectRequest) -> str:
            try:
                await asyncio.wait_for(asyncio.Event().wait(), 0.01)
            except asyncio.TimeoutError:
                return "mine"
            return ""

        with Wire(serve(handler, handler_timeout=PATIENCE).address) as wire:
            assert wire.get().body == b"mine"

    def test_a_plain_handler_cannot_have_one(self) -> None:
        from server_native import serve_native_direct

        with pytest.raises(ConfigurationError, match="asynchronous"):
            serve_native_direct(lambda _: "x", port=0, handler_timeout=1.0)


def test_a_handler_that_cancels_itself_is_a_500(serve: Serve) -> None:
    async def handler(_: NativeDirectRequest) -> str:
        raise asyncio.CancelledError

    with Wire(serve(handler).address) as wire:
        assert [wire.get().status, wire.get().status] == [500, 500]


def test_a_broken_body_after_the_handler_was_called_tells_both(serve: Serve) -> None:
    """Chunks that break in the middle: the handler that reads hears of it, the client gets 400 and no more."""
    failures: list[BaseException] = []
    begun, over = threading.Event(), threading.Event()

    async def handler(request: NativeDirectRequest) -> str:
        begun.set()
        try:
            await request.read()
        except BaseException as error:
            failures.append(error)
            raise
        finally:
            over.set()
        return "a clean answer to a broken request"

    with Wire(serve(handler).address) as wire:
        wire.send(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")
        assert begun.wait(PATIENCE)
        wire.send(b"nonsense\r\n\r\n")
        answer = wire.answer()
        assert (answer.status, answer.header("connection"), wire.rest()) == (400, "close", b"")
    assert over.wait(PATIENCE)
    assert len(failures) == 1
