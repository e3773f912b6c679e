"""Bodies of the HttpServer style: streaming both ways with back-pressure, buffering, compression."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from server_native import (
    ClientDisconnected,
    HttpRequest,
    NativeHttpServer,
    ResponseSentError,
    WriteBufferFullError,
)
from tests.integration.clients import H2, Wire, eventually
from tests.integration.http_servers import Listen, answering
from tests.integration.servers import Serve

MEGABYTE = 1024 * 1024


class TestReading:
    def test_as_it_comes(self, listen: Listen) -> None:
        async def handler(request: HttpRequest) -> None:
            async for chunk in request:
                request.response.add(chunk.upper())
                await request.response.flush()

        with Wire(listen(answering(handler)).address) as wire:
            wire.send(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
            wire.send(b"3\r\nabc\r\n")
            wire.head()
            assert wire.read_until(b"ABC\r\n")
            wire.send(b"3\r\ndef\r\n")
            assert wire.read_until(b"DEF\r\n")
            wire.send(b"0\r\n\r\n")
            assert wire.read_until(b"0\r\n\r\n")

    def test_what_was_not_read_before_the_end_is_let_go(self, listen: Listen) -> None:
        heard: list[BaseException] = []

        async def program(server: NativeHttpServer) -> None:
            async for request in server:
                reading = asyncio.create_task(request.read())
                await asyncio.sleep(0)
                await request.response.close()
                try:
                    await reading
                except ResponseSentError as error:
                    heard.append(error)

        with Wire(listen(program).address) as wire:
            wire.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\nx")
            assert wire.answer().status == 200
        eventually(lambda: len(heard) == 1, "the end of the reading")
        assert "read it before close()" in str(heard[0])

    def test_megabytes(self, listen: Listen) -> None:
        async def handler(request: HttpRequest) -> None:
            assert request.content_length == 3 * MEGABYTE
            data = await request.read()
            request.response.write(f"{len(data)} {zlib.crc32(data)}")

        body = bytes(range(256)) * (3 * MEGABYTE // 256)
        with Wire(listen(answering(handler)).address) as wire:
            wire.request(method="POST", body=body)
            assert wire.answer().body == f"{len(body)} {zlib.crc32(body)}".encode()


class TestWriting:
    @pytest.mark.parametrize("size", [0, 1, 8 * 1024, 8 * 1024 + 1, 64 * 1024 + 1, 3 * MEGABYTE])
    def test_one_write_of_any_size(self, listen: Listen, size: int) -> None:
        async def handler(request: HttpRequest) -> None:
            request.response.add(b"x" * size)
            await request.response.close()
            await request.response.done

        running = listen(answering(handler))
        with Wire(running.address) as wire:
            for _ in range(2):
                answer = wire.get()
                assert len(answer.body) == size
                framed = answer.header("content-length") == str(size)
                assert framed is (size <= 8 * 1024), "what is buffered goes with its length"
        with H2(running.address) as client:
            assert len(client.request().body) == size

    def test_the_head_goes_at_once_without_buffering(self, listen: Listen) -> None:
        proceed = asyncio.Event()

        async def handler(request: HttpRequest) -> None:
            request.response.buffer_output = False
            request.response.write("first")
            await proceed.wait()

        running = listen(answering(handler))
        with Wire(running.address) as wire:
            wire.request()
            assert wire.head()[1] == 200
            assert wire.read_until(b"first\r\n") == b"5\r\nfirst\r\n"
            running.call(lambda _: proceed.set())
            assert wire.read_until(b"\r\n\r\n") == b"0\r\n\r\n"

    def test_more_than_the_client_takes_is_refused(self, listen: Listen) -> None:
        wrote: list[int] = []

        async def handler(request: HttpRequest) -> None:
            written = 0
            try:
                while True:
                    request.response.add(b"x" * 10_000)
                    written += 10_000
            except WriteBufferFullError as error:
                assert "100000 bytes" in str(error)  # noqa: PT017 - which of the writes raises is not given
            wrote.append(written)
            await request.response.flush()
            request.response.add(b"y")

        with Wire(listen(answering(handler), write_buffer_bytes=100_000).address) as wire:
            answer = wire.get()
        assert answer.body == b"x" * wrote[0] + b"y"
        assert 100_000 <= wrote[0] <= 120_000

    @pytest.mark.parametrize("how", ["flush", "add_stream"])
    def test_a_client_that_does_not_read_stops_the_writer(self, listen: Listen, how: str) -> None:
        produced = 0
        ended: list[BaseException | None] = []

        def chunks() -> Iterator[bytes]:
            nonlocal produced
            while True:
                produced += 64 * 1024
                yield b"x" * 64 * 1024

        async def handler(request: HttpRequest) -> None:
            response = request.response
            try:
                if how == "add_stream":
                    await response.add_stream(chunks())
                for chunk in chunks():
                    response.add(chunk)
                    await response.flush()
            except BaseException as error:
                ended.append(error)
                raise

        with Wire(listen(answering(handler)).address, receive_buffer=16 * 1024) as wire:
            wire.request()
            wire.head()
            before = -1

            def still() -> bool:
                nonlocal before
                same = before == produced
                before = produced
                return same and produced > 0

            eventually(still, "the writer waits")
            assert produced < 16 * MEGABYTE, "what the sockets hold, and a window"
            stopped = produced
            wire.read_exactly(stopped)
            eventually(lambda: produced > stopped, "it goes on when the client does")
            wire.reset()
        eventually(lambda: len(ended) == 1, "the end of the writer")
        assert isinstance(ended[0], (ClientDisconnected, asyncio.CancelledError))

    @pytest.mark.parametrize("kind", ["iterator", "asynchronous", "file"])
    def test_streams(self, listen: Listen, kind: str, tmp_path: Path) -> None:
        closed: list[str] = []
        place = tmp_path / "lines"
        place.write_bytes(b"line\n" * 100_000)

        def plain() -> Iterator[bytes]:
            try:
                for _ in range(100):
                    yield b"line\n" * 1000
            finally:
                closed.append("plain")

        async def waiting() -> AsyncIterator[bytes]:
            try:
                for chunk in plain():
                    await asyncio.sleep(0)
                    yield chunk
            finally:
                closed.append("waiting")

        async def handler(request: HttpRequest) -> None:
            if kind == "file":
                with place.open("rb") as file:
                    await request.response.add_stream(file)
                    assert not file.closed, "it belongs to who opened it"
            else:
                await request.response.add_stream(plain() if kind == "iterator" else waiting())

        running = listen(answering(handler))
        with Wire(running.address) as wire:
            assert wire.get().body == b"line\n" * 100_000
            closed.clear()
            wire.request(method="HEAD")
            assert wire.answer("HEAD").body == b""
            assert wire.get().status == 200
        if kind != "file":
            assert "plain" in closed

    def test_a_stream_for_head_is_not_run_to_its_end(self, listen: Listen) -> None:
        made = 0

        def chunks() -> Iterator[bytes]:
            nonlocal made
            while True:
                made += 1
                yield b"x" * 1024

        async def handler(request: HttpRequest) -> None:
            await request.response.add_stream(chunks())

        with Wire(listen(answering(handler)).address) as wire:
            wire.request(method="HEAD")
            assert wire.answer("HEAD").header("content-length") is None
        assert made < 20

    def test_a_source_that_fails(self, listen: Listen, serve: Serve) -> None:
        def chunks() -> Iterator[bytes]:
            yield b"x" * 100_000
            raise LookupError("in the middle")

        async def handler(request: HttpRequest) -> None:
            await request.response.add_stream(chunks())

        with Wire(listen(answering(handler)).address) as wire:
            wire.request()
            assert wire.ended_abruptly()
        assert "LookupError: in the middle" in serve.logged(1)[0]

    def test_what_is_neither_text_nor_bytes(self, listen: Listen) -> None:
        def handler(request: HttpRequest) -> None:
            with pytest.raises(TypeError, match=r"use add\(\)"):
                request.response.write(b"bytes")
            with pytest.raises(TypeError, match=r"use write\(\)"):
                request.response.add("text")  # type: ignore[arg-type]
            request.response.add(bytearray(b"a"))
            request.response.add(memoryview(b"b"))

        with Wire(listen(answering(handler)).address) as wire:
            assert wire.get().body == b"ab"


Handler = Callable[[HttpRequest], Any]


class TestCompression:
    TEXT = "words and words and words " * 2000

    def test_whole_and_streamed(self, listen: Listen) -> None:
        async def handler(request: HttpRequest) -> None:
            response = request.response
            response.headers["etag"] = '"v1"'
            if request.uri == "/small":
                response.content_length = 5
                response.write("small")
                return
            for start in range(0, len(self.TEXT), 1000):
                response.write(self.TEXT[start : start + 1000])

        running = listen(answering(handler), auto_compress=True)
        with Wire(running.address) as wire:
            for path, body in (("/", self.TEXT), ("/small", "small")):
                answer = wire.get(path, "accept-encoding: deflate, gzip;q=0.8")
                assert gzip.decompress(answer.body).decode() == body
                assert answer.header("content-encoding") == "gzip"
                assert answer.header("vary") == "accept-encoding"
                assert answer.header("etag") == 'W/"v1"'
                assert answer.header("content-length") in {None, str(len(answer.body))}
                answer = wire.get(path, "accept-encoding: gzip;q=0")
                assert answer.body.decode() == body
                assert answer.header("content-encoding") is None
                assert answer.header("vary") == "accept-encoding"
                assert answer.header("etag") == '"v1"'

    def test_a_flush_reaches_the_client(self, listen: Listen) -> None:
        proceed = asyncio.Event()

        async def handler(request: HttpRequest) -> None:
            request.response.write("first")
            await request.response.flush()
            await proceed.wait()
            request.response.write("second")

        running = listen(answering(handler), auto_compress=True)
        with Wire(running.address) as wire:
            wire.request("/", "accept-encoding: gzip")
            wire.head()
            inflate = zlib.decompressobj(wbits=31)
            data = b""
            while data != b"first":
                data += inflate.decompress(chunk(wire))
            running.call(lambda _: proceed.set())
            while not inflate.eof:
                data += inflate.decompress(chunk(wire))
            assert data == b"firstsecond"

    @pytest.mark.parametrize(
        "case", ["off", "not asked", "encoded", "head", "204", "empty", "part"]
    )
    def test_left_alone(self, listen: Listen, case: str) -> None:
        def handler(request: HttpRequest) -> None:
            response = request.response
            if case == "204":
                response.status_code = 204
            elif case == "encoded":
                response.headers["content-encoding"] = "br"
            elif case == "part":
                response.status_code = 206
                response.headers["content-range"] = "bytes 0-3/10"
            if case not in {"204", "empty"}:
                response.write("text")

        running = listen(answering(handler), auto_compress=case != "off")
        with Wire(running.address) as wire:
            method = "HEAD" if case == "head" else "GET"
            lines = () if case == "not asked" else ("accept-encoding: gzip",)
            wire.request("/", *lines, method=method)
            answer = wire.answer(method)
            assert answer.header("content-encoding") == ("br" if case == "encoded" else None)
            assert answer.body in {b"text", b""}
            if case not in {"204", "empty", "head"}:
                assert answer.body == b"text"


def chunk(wire: Wire) -> bytes:
    """The next chunk of a chunked body."""
    size = int(wire.read_until(b"\r\n"), 16)
    return wire.read_exactly(size + 2)[:-2]
