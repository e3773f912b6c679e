"""Request bodies in motion: chunks, trailers, ``Expect: 100-continue``, early answers, and bodies too large."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from server_native import Limits, NativeDirectRequest, NativeDirectResponse
from tests.integration.clients import H2, Wire
from tests.integration.servers import PATIENCE, Mode, Serve

Response = NativeDirectResponse
CHUNKED = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n"


def test_many_tiny_chunks(serve: Serve, mode: Mode) -> None:
    with Wire(serve(lambda _, body: body, mode).address) as wire:
        wire.send(
            CHUNKED
            + b"\r\n"
            + b"".join(b"1\r\n%c\r\n" % (97 + at % 26) for at in range(20_000))
            + b"0\r\n\r\n"
        )
        assert wire.answer().body == b"".join(b"%c" % (97 + at % 26) for at in range(20_000))
        assert wire.get().body == b""


def test_chunks_that_come_together_are_few_pieces(serve: Serve) -> None:
    """A handler is not called upon for each of them."""

    async def handler(request: NativeDirectRequest) -> str:
        sizes = [len(piece) async for piece in request]
        return f"{sum(sizes)} {len(sizes) < 500}"

    with Wire(serve(handler).address) as wire:
        wire.send(CHUNKED + b"\r\n" + b"1\r\nx\r\n" * 100_000 + b"0\r\n\r\n")
        assert wire.answer().body == b"100000 True"


def test_many_tiny_chunks_out(serve: Serve, mode: Mode) -> None:
    running = serve(
        lambda _request, _body: Response.stream(b"%c" % (97 + at % 26) for at in range(5_000)), mode
    )
    expected = b"".join(b"%c" % (97 + at % 26) for at in range(5_000))
    with Wire(running.address) as wire:
        assert [wire.get().body, wire.get().body] == [expected] * 2
    with H2(running.address) as client:
        assert client.request().body == expected


def test_a_handler_sees_chunks_as_they_come(serve: Serve) -> None:
    """An echo in lockstep: each piece is answered before the next is sent."""

    async def handler(request: NativeDirectRequest) -> NativeDirectResponse:
        return Response.stream(request)

    with Wire(serve(handler).address) as wire:
        wire.send(CHUNKED + b"\r\n")
        for piece in (b"first", b"second", b"third"):
            wire.send(b"%x\r\n%s\r\n" % (len(piece), piece))
            if piece == b"first":
                assert wire.head()[1] == 200
            assert wire.read_until(piece + b"\r\n") == b"%x\r\n%s\r\n" % (len(piece), piece)
        wire.send(b"0\r\n\r\n")
        assert wire.read_until(b"\r\n\r\n") == b"0\r\n\r\n"


def test_an_echo_in_lockstep_over_http2(serve: Serve) -> None:
    async def handler(request: NativeDirectRequest) -> NativeDirectResponse:
        return Response.stream(request)

    with H2(serve(handler).address) as client:
        stream = client.open(method="POST", end=False)
        for piece in (b"first", b"second", b"third"):
            client.send(stream, piece)
            client.wait(lambda piece=piece: client.known(stream).body.endswith(piece))  # type: ignore[misc]
        client.send(stream, b"", end=True)
        assert client.answer(stream).body == b"firstsecondthird"


class TestTrailers:
    """Fields after a body, both ways, over both protocols."""

    @staticmethod
    def tell(request: NativeDirectRequest, body: bytes) -> list[Any]:
        return [len(body), list(request.trailers), "x-sum" in request.headers]

    @pytest.mark.parametrize("announced", [b"", b"trailer: x-sum\r\n"])
    @pytest.mark.parametrize("size", [0, 5, 300_000])
    def test_of_a_request_over_http1(
        self, serve: Serve, mode: Mode, announced: bytes, size: int
    ) -> None:
        with Wire(serve(self.tell, mode).address) as wire:
            chunk = b"%x\r\n%s\r\n" % (size, b"x" * size) if size else b""
            wire.send(CHUNKED + announced + b"\r\n" + chunk + b"0\r\nX-Sum: 7 \r\nx-b: \r\n\r\n")
            assert wire.answer().body == b'[%d,[["x-sum","7"],["x-b",""]],false]' % size

    @pytest.mark.parametrize("size", [0, 5, 300_000])
    def test_of_a_request_over_http2(self, serve: Serve, mode: Mode, size: int) -> None:
        with H2(serve(self.tell, mode).address) as client:
            stream = client.open(method="POST", end=False)
            client.send(stream, b"x" * size)
            client.state.send_headers(stream, [("x-sum", "7"), ("x-b", "")], end_stream=True)
            client.flush()
            assert client.answer(stream).body == b'[%d,[["x-sum","7"],["x-b",""]],false]' % size

    @pytest.mark.parametrize("late", [False, True])
    @pytest.mark.parametrize("announced", [False, True])
    def test_of_a_response(self, serve: Serve, mode: Mode, late: bool, announced: bool) -> None:
        """Announced or not, told at once or found out while the body is made."""

        def handler(_: NativeDirectRequest, __: bytes) -> NativeDirectResponse:
            total = 0

            def chunks() -> Iterator[bytes]:
                nonlocal total
                for size in (1, 100_000):
                    total += size
                    yield b"x" * size

            trailers: Any = (lambda: [("X-Total", str(total))]) if late else {"x-total": "100001"}
            return Response.stream(
                chunks(), trailers=trailers, headers={"trailer": "x-total"} if announced else {}
            )

        running = serve(handler, mode)
        with Wire(running.address) as wire:
            for _ in range(2):
                answer = wire.get()
                assert (len(answer.body), answer.trailers) == (100_001, [("x-total", "100001")])
        with H2(running.address) as client:
            other = client.request()
            assert (len(other.body), other.trailers, other.ended) == (
                100_001,
                [("x-total", "100001")],
                True,
            )

    def test_that_cannot_be_are_an_abrupt_end(self, serve: Serve, mode: Mode) -> None:
        running = serve(
            lambda _request, _body: Response.stream(
                iter([b"x"]), trailers=lambda: {"x": "a\r\nb: c"}
            ),
            mode,
        )
        with Wire(running.address) as wire:
            wire.request()
            assert wire.ended_abruptly()
        with H2(running.address) as client:
            assert client.request().reset is not None
        assert len(serve.logged()) == 2

    @pytest.mark.parametrize(
        "name", [b"content-length", b"transfer-encoding", b"host", b"authorization"]
    )
    def test_that_would_change_the_request_are_refused(self, serve: Serve, name: bytes) -> None:
        with Wire(serve(self.tell, Mode("task", asynchronous=True)).address) as wire:
            wire.send(CHUNKED + b"\r\n1\r\nx\r\n0\r\n" + name + b": 1\r\n\r\n")
            answer = wire.answer()
            assert (answer.status, answer.header("connection"), wire.rest()) == (400, "close", b"")


class TestExpect:
    """The client waits with its body until it is told 100, or until it gets an answer instead."""

    HEAD = b"POST /%s HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n"

    @pytest.mark.parametrize("asynchronous", [True, False])
    def test_100_is_sent_when_the_handler_reads_and_not_before(
        self, serve: Serve, asynchronous: bool
    ) -> None:
        begun, go_on = threading.Event(), threading.Event()

        async def reads(request: NativeDirectRequest) -> bytes:
            begun.set()
            while not go_on.is_set():
                await asyncio.sleep(0.001)
            return await request.read()

        def reads_in_a_thread(request: NativeDirectRequest) -> bytes:
            begun.set()
            assert go_on.wait(PATIENCE)
            return request.body

        with Wire(serve(reads if asynchronous else reads_in_a_thread).address) as wire:
            wire.send(self.HEAD % b"")
            assert begun.wait(PATIENCE)
            assert not wire.has_input
            go_on.set()
            assert wire.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            wire.send(b"hello")
            answer = wire.answer()
            assert (answer.status, answer.body) == (200, b"hello")
            assert wire.get().status == 200, "the connection goes on"

    def test_an_answer_without_reading_closes_and_sends_no_100(self, serve: Serve) -> None:
        async def refuses(request: NativeDirectRequest) -> tuple[int, str]:
            return 403, "no"

        running = serve(refuses)
        with Wire(running.address) as wire:
            wire.send(self.HEAD % b"")
            answer = wire.answer()
            assert (answer.status, answer.header("connection"), wire.rest()) == (403, "close", b"")

    def test_an_answer_from_a_pool_without_reading_closes_too(self, serve: Serve) -> None:
        with Wire(serve(lambda _: (403, "no"), threads=1).address) as wire:
            wire.send(self.HEAD % b"")
            answer = wire.answer()
            assert (answer.status, answer.header("connection"), wire.rest()) == (403, "close", b"")

    def test_a_client_that_does_not_wait_needs_no_100(self, serve: Serve, mode: Mode) -> None:
        """A body that is here already (RFC 9110 section 10.1.1: a 100 may be omitted then)."""
        with Wire(serve(lambda _, body: body, mode).address) as wire:
            wire.send(self.HEAD % b"" + b"hello")
            head = wire.head()
            assert head[1] in {100, 200}
            if head[1] == 100:
                assert wire.answer().body == b"hello"

    def test_a_body_over_the_limit_is_refused_at_once(self, serve: Serve) -> None:
        with Wire(serve(lambda _: "never", limits=Limits(body_bytes=4)).address) as wire:
            wire.send(self.HEAD % b"")
            answer = wire.answer()
            assert (answer.status, wire.rest()) == (413, b"")

    @pytest.mark.parametrize("value", [b"200-maybe", b"100-continue, x"])
    def test_other_expectations_are_417(self, serve: Serve, value: bytes) -> None:
        with Wire(serve(lambda _: "never").address) as wire:
            wire.send(
                b"POST / HTTP/1.1\r\nhost: a\r\nexpect: "
                + value
                + b"\r\ncontent-length: 1\r\n\r\nx"
            )
            assert wire.answer().status == 417

    def test_curl_waits_for_100(self, serve: Serve) -> None:
        import subprocess

        async def reads(request: NativeDirectRequest) -> str:
            return str(len(await request.read()))

        arguments = [
            "curl",
            "-sSv",
            "--expect100-timeout",
            "9",
            "-H",
            "expect: 100-continue",
            "--data-binary",
            "@-",
        ]
        done = subprocess.run(
            [*arguments, serve(reads).url],
            input=b"x" * 300_000,
            capture_output=True,
            timeout=PATIENCE,
            check=True,
        )
        assert done.stdout == b"300000"
        assert b"< HTTP/1.1 100 Continue" in done.stderr


class TestEarlyAnswers:
    """A handler that answers without reading: the client always gets the answer, and never a wrong next one."""

    @pytest.mark.parametrize("framing", ["length", "chunked"])
    @pytest.mark.parametrize("size", [10, 60_000, 70_000, 300_000, 3_000_000])
    def test_the_answer_arrives_and_the_connection_is_clean(
        self, serve: Serve, framing: str, size: int
    ) -> None:
        """Either the rest of the body is read away and the connection goes on, or it is closed after the answer."""

        async def refuses(request: NativeDirectRequest) -> str:
            return f"{request.path} refused"

        canary = b"GET /canary HTTP/1.1\r\nhost: a\r\n\r\n"
        with Wire(serve(refuses).address) as wire:
            if framing == "length":
                data = b"POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % size
                data += (canary * (size // len(canary) + 1))[:size]
            else:
                data = b"POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
                filler = (canary * (size // len(canary) + 1))[:size]
                data += b"%x\r\n%s\r\n0\r\n\r\n" % (size, filler)

            def send() -> None:
                # After the answer, what was not read is the client's loss.
                with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                    wire.send(data + b"GET /b HTTP/1.1\r\nhost: a\r\n\r\n")

            sender = threading.Thread(target=send)
            sender.start()
            answer = wire.answer()
            assert answer.body == b"/a refused"
            if answer.header("connection") == "close":
                assert wire.rest() == b""
            else:
                assert wire.answer().body == b"/b refused"
                wire.half_close()
                assert wire.rest() == b""
            sender.join()

    def test_a_short_rest_is_read_away(self, serve: Serve) -> None:
        async def refuses(request: NativeDirectRequest) -> str:
            return "refused"

        with Wire(serve(refuses, limits=Limits(inline_body_bytes=0)).address) as wire:
            for _ in range(3):
                wire.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n")
                answer = wire.answer()
                assert (answer.body, answer.header("connection")) == (b"refused", None)
                wire.send(b"x" * 1000)

    def test_http2_says_so_with_a_reset_and_goes_on(self, serve: Serve) -> None:
        async def refuses(request: NativeDirectRequest) -> str:
            return "refused"

        with H2(serve(refuses).address) as client:
            stream = client.open(method="POST", end=False)
            client.state.send_data(stream, b"x" * 1000)
            client.flush()
            client.wait(lambda: client.known(stream).ended)
            assert client.known(stream).body == b"refused"
            assert client.request().body == b"refused"


def send_what_is_taken(wire: Wire, size: int) -> None:
    # What the server does not read after its answer is the client's loss.
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        wire.send(CHUNKED + b"\r\n%x\r\n%s\r\n0\r\n\r\n" % (size, b"x" * size))


class TestTooLarge:
    """``Limits.body_bytes``: 413, and the handler is spared or told."""

    LIMITS = Limits(body_bytes=100_000)

    @pytest.mark.parametrize("size", [100_000, 100_001])
    def test_a_declared_length(self, serve: Serve, mode: Mode, size: int) -> None:
        called: list[int] = []

        def handler(_: NativeDirectRequest, body: bytes) -> str:
            called.append(len(body))
            return "ok"

        running = serve(handler, mode, limits=self.LIMITS)
        with Wire(running.address) as wire:
            wire.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % size)
            if size > 100_000:
                answer = wire.answer()
                assert (answer.status, answer.header("connection"), wire.rest()) == (
                    413,
                    "close",
                    b"",
                )
                assert called == []
            else:
                wire.send(b"x" * size)
                assert (wire.answer().status, called) == (200, [size])

    @pytest.mark.parametrize("size", [100_000, 100_001, 3_000_000])
    def test_a_chunked_body(self, serve: Serve, mode: Mode, size: int) -> None:
        running = serve(lambda _, body: str(len(body)), mode, limits=self.LIMITS)
        with Wire(running.address) as wire:
            sender = threading.Thread(target=send_what_is_taken, args=(wire, size))
            sender.start()
            answer = wire.answer()
            assert answer.status == (200 if size <= 100_000 else 413)
            if answer.status == 413:
                assert (answer.header("connection"), wire.rest()) == ("close", b"")
            sender.join()

    @pytest.mark.parametrize("declared", [True, False])
    def test_over_http2(self, serve: Serve, mode: Mode, declared: bool) -> None:
        running = serve(lambda _, body: str(len(body)), mode, limits=self.LIMITS)
        with H2(running.address) as client:
            fields = (("content-length", "100001"),) if declared else ()
            stream = client.open("/", *fields, method="POST", end=False)
            if not declared:
                client.send(stream, b"x" * 100_000)
                client.send(stream, b"x", end=True)
            client.wait(
                lambda: client.known(stream).ended or client.known(stream).reset is not None
            )
            assert client.known(stream).status == 413
            assert client.request().body == b"0", "the connection goes on"
