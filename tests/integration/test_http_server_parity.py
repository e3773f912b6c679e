"""The behaviour people know from the original's server, in its five groups.

Default headers, charset, ``Connection``, content-length mismatches, a port that is shared. One thing differs: an empty
``Connection`` field of a *response* is left out, since fields of the hop are the native side's.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from server_native import (
    ClientDisconnected,
    ContentLengthError,
    HttpRequest,
    NativeHttpServer,
    ResponseSentError,
)
from server_native.errors import AddressInUseError
from tests.integration.clients import H2, Wire, eventually
from tests.integration.http_servers import Listen, answering
from tests.integration.servers import Serve

DEFAULTS = {
    "content-type": "text/plain; charset=utf-8",
    "x-frame-options": "SAMEORIGIN",
    "x-content-type-options": "nosniff",
    "x-xss-protection": "1; mode=block",
}
FRAMING = {"content-length", "date"}


def ignore(request: HttpRequest) -> None:
    """A handler that leaves the response as it is."""


class TestDefaultHeaders:
    def test_every_response_has_them(self, listen: Listen) -> None:
        running = listen(answering(ignore))
        with Wire(running.address) as wire:
            answer = wire.get()
        assert answer.status == 200
        assert dict(answer.headers).items() >= DEFAULTS.items()
        assert {name for name, _ in answer.headers} == DEFAULTS.keys() | FRAMING
        with H2(running.address) as client:
            assert dict(client.request().headers).items() >= DEFAULTS.items()

    def test_there_is_no_server_header_unless_one_is_given(self, listen: Listen) -> None:
        with Wire(listen(answering(ignore)).address) as wire:
            assert wire.get().header("server") is None
        with Wire(listen(answering(ignore), server_header="mine/1").address) as wire:
            assert wire.get().header("server") == "mine/1"

    def test_the_responses_own_server_header_wins(self, listen: Listen) -> None:
        def handler(request: HttpRequest) -> None:
            if request.uri == "/own":
                request.response.headers["Server"] = "own"

        with Wire(listen(answering(handler), server_header="mine").address) as wire:
            assert [wire.get("/own").header("server"), wire.get("/").header("server")] == [
                "own",
                "mine",
            ]

    def test_cleared_on_the_server(self, listen: Listen) -> None:
        async def program(server: NativeHttpServer) -> None:
            server.default_response_headers.clear()
            await server.serve(ignore)

        with Wire(listen(program).address) as wire:
            assert {name for name, _ in wire.get().headers} == FRAMING

    def test_cleared_on_the_server_with_others_in_their_place(self, listen: Listen) -> None:
        async def program(server: NativeHttpServer) -> None:
            server.default_response_headers.clear()
            server.default_response_headers.add("a", "b")
            await server.serve(ignore)

        with Wire(listen(program).address) as wire:
            answer = wire.get()
            assert {name for name, _ in answer.headers} == FRAMING | {"a"}
            assert answer.header("a") == "b"

    def test_cleared_on_one_response(self, listen: Listen) -> None:
        def handler(request: HttpRequest) -> None:
            if request.uri == "/bare":
                request.response.headers.clear()

        with Wire(listen(answering(handler)).address) as wire:
            assert {name for name, _ in wire.get("/bare").headers} == FRAMING
            assert {name for name, _ in wire.get("/").headers} == DEFAULTS.keys() | FRAMING


class TestCharset:
    @pytest.mark.parametrize(
        ("kind", "body"),
        [
            (..., "æøå\u20ac".encode()),
            (None, "æøå".encode("latin-1")),
            ("text/plain", "æøå\u20ac".encode()),
            ("text/html; charset=ISO-8859-1", "æøå".encode("latin-1")),
            ('text/html; Charset="utf-16-le"', "æøå\u20ac".encode("utf-16-le")),
            ("application/json", "æøå\u20ac".encode()),
            ("application/x", "æøå".encode("latin-1")),
        ],
    )
    def test_write_encodes_as_the_content_type_says(
        self, listen: Listen, kind: Any, body: bytes
    ) -> None:
        def handler(request: HttpRequest) -> None:
            response = request.response
            if kind is not ...:
                response.content_type = kind
            response.write("æøå\u20ac" if response.charset.startswith("utf") else "æøå")

        with Wire(listen(answering(handler)).address) as wire:
            assert wire.get().body == body

    def test_a_character_the_charset_has_not_got(self, listen: Listen, serve: Serve) -> None:
        def handler(request: HttpRequest) -> None:
            request.response.headers.clear()
            request.response.write("\u20ac")

        with Wire(listen(answering(handler)).address) as wire:
            assert wire.get().status == 500
        (text,) = serve.logged()
        assert "set response.content_type" in text

    def test_the_forms_of_writing(self, listen: Listen) -> None:
        def handler(request: HttpRequest) -> None:
            response = request.response
            response.write(1)
            response.writeln()
            response.writeln("two")
            response.write_all(["a", 2, None], separator="-")
            response.add(b"\xff")

        with Wire(listen(answering(handler)).address) as wire:
            assert wire.get().body == b"1\ntwo\na-2-None\xff"


class TestConnection:
    @pytest.mark.parametrize(
        ("version", "sent", "persistent"),
        [
            ("1.1", None, True),
            ("1.1", "close", False),
            ("1.1", "Close", False),
            ("1.1", "keep-alive", True),
            ("1.1", "x, close", False),
            ("1.1", "", True),
            ("1.0", None, False),
            ("1.0", "keep-alive", True),
            ("1.0", "Keep-Alive, x", True),
            ("1.0", "close", False),
        ],
    )
    def test_the_request_says_what_the_client_wants(
        self, listen: Listen, version: str, sent: str | None, persistent: bool
    ) -> None:
        def handler(request: HttpRequest) -> None:
            assert request.response.persistent_connection is request.persistent_connection
            request.response.write(f"{request.protocol_version} {request.persistent_connection}")

        with Wire(listen(answering(handler)).address) as wire:
            line = "" if sent is None else f"connection: {sent}\r\n"
            wire.send(f"GET / HTTP/{version}\r\nhost: a\r\n{line}\r\n".encode())
            answer = wire.answer()
            assert answer.body == f"{version} {persistent}".encode()
            if persistent:
                wire.request()
                assert wire.answer().status == 200
            else:
                assert (answer.header("connection"), wire.rest()) == ("close", b"")

    def test_an_empty_connection_field_reaches_the_handler(self, listen: Listen) -> None:
        def handler(request: HttpRequest) -> None:
            request.response.write(request.headers.get_all("connection"))

        with Wire(listen(answering(handler)).address) as wire:
            assert wire.get("/", "connection: ").body == b"['']"

    @pytest.mark.parametrize("how", ["persistent_connection", "header"])
    def test_the_response_may_close_it(self, listen: Listen, how: str) -> None:
        def handler(request: HttpRequest) -> None:
            if how == "header":
                request.response.headers["Connection"] = "close"
            else:
                request.response.persistent_connection = False
            request.response.write("last")

        running = listen(answering(handler))
        with Wire(running.address) as wire:
            answer = wire.get()
            assert (answer.header("connection"), answer.body, wire.rest()) == (
                "close",
                b"last",
                b"",
            )
        with H2(running.address) as client:
            assert client.request().header("connection") is None, "HTTP/2 has no such field"
            assert client.request().body == b"last"


class TestContentLength:
    """What was announced is what is sent, or the client sees that it is not."""

    @pytest.mark.parametrize("flushed", [False, True])
    @pytest.mark.parametrize(("announced", "written"), [(0, 5), (3, 5), (10, 5), (1, 0)])
    @pytest.mark.parametrize("compressed", [False, True])
    def test_a_mismatch_raises_and_is_no_whole_answer(
        self,
        listen: Listen,
        announced: int,
        written: int,
        flushed: bool,
        compressed: bool,
    ) -> None:
        raised: list[BaseException] = []
        done = asyncio.Event()

        async def program(server: NativeHttpServer) -> None:
            async for request in server:
                response = request.response
                response.content_length = announced
                for wait in (response.flush if flushed else None, response.close):
                    try:
                        if wait is not None:
                            await wait()
                    except ContentLengthError as error:
                        raised.append(error)
                    if wait != response.close:
                        response.write("x" * written)
                for _ in range(2):
                    with pytest.raises(ContentLengthError):
                        await response.done
                done.set()

        running = listen(program, auto_compress=compressed)
        with Wire(running.address) as wire:
            wire.request("/", "accept-encoding: gzip")
            if not flushed:
                assert wire.answer().status == 500
            else:
                try:
                    # The head alone, which the reset behind it may overtake.
                    assert wire.answer().body == b""
                except (EOFError, ConnectionResetError):
                    pass
                else:
                    assert (announced, compressed) == (0, False)
                    assert wire.ended_abruptly() or not wire.has_input
        eventually(done.is_set, "the end of the handler")
        (error,) = raised
        assert f"set to {announced}, found {written} bytes" in str(error)

    def test_exactly_right(self, listen: Listen) -> None:
        async def handler(request: HttpRequest) -> None:
            response = request.response
            response.content_length = 5
            if request.uri == "/flushed":
                await response.flush()
            response.write("hello")
            await response.close()
            await response.done

        with Wire(listen(answering(handler)).address) as wire:
            for path in ("/", "/flushed"):
                answer = wire.get(path)
                assert (answer.body, answer.header("content-length")) == (b"hello", "5")

    def test_a_response_nobody_waits_for_is_logged(self, listen: Listen, serve: Serve) -> None:
        async def program(server: NativeHttpServer) -> None:
            async for request in server:
                request.response.content_length = 3
                request.response.close()
                del request

        with Wire(listen(program).address) as wire:
            assert wire.get().status == 500
        (text,) = serve.logged(1)
        assert "found 0 bytes" in text

    @pytest.mark.parametrize("flushed", [False, True])
    def test_head_may_announce_what_it_does_not_send(self, listen: Listen, flushed: bool) -> None:
        async def handler(request: HttpRequest) -> None:
            response = request.response
            response.content_length = 1000
            response.write("not counted")
            if flushed:
                await response.flush()
            response.write("nor this")
            await response.close()
            await response.done

        with Wire(listen(answering(handler)).address) as wire:
            wire.request(method="HEAD")
            assert wire.answer("HEAD").header("content-length") == "1000"
            wire.request(method="HEAD")
            assert wire.answer("HEAD").header("content-length") == "1000"

    def test_head_of_a_response_that_fits_tells_its_length(self, listen: Listen) -> None:
        def handler(request: HttpRequest) -> None:
            request.response.write("hello")

        with Wire(listen(answering(handler)).address) as wire:
            wire.request(method="HEAD")
            assert wire.answer("HEAD").header("content-length") == "5"

    @pytest.mark.parametrize("status", [204, 304])
    def test_statuses_without_a_body(self, listen: Listen, status: int) -> None:
        async def handler(request: HttpRequest) -> None:
            response = request.response
            response.status_code = status
            if status == 304:
                response.content_length = 77
            response.write("dropped")
            await response.close()
            await response.done

        with Wire(listen(answering(handler)).address) as wire:
            for _ in range(2):
                answer = wire.get()
                assert answer.status == status
                assert answer.header("content-length") == ("77" if status == 304 else None)

    def test_a_field_that_is_no_length(self, listen: Listen, serve: Serve) -> None:
        def handler(request: HttpRequest) -> None:
            request.response.headers["content-length"] = "five"

        with Wire(listen(answering(handler)).address) as wire:
            assert wire.get().status == 500
        assert "content-length must be digits" in serve.logged()[0]


class TestSharedBind:
    @pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
    def test_both_servers_get_requests(self, listen: Listen, host: str) -> None:
        def named(name: str) -> Any:
            return answering(lambda request: request.response.write(name))

        first = listen(named("first"), host=host, shared=True)
        second = listen(named("second"), host=host, port=first.address[1], shared=True)
        assert second.address == first.address
        seen: set[bytes] = set()

        def asked() -> bool:
            with Wire(first.address) as wire:
                seen.add(wire.get().body)
            return len(seen) == 2

        # The kernel deals connections out by their addresses.
        eventually(asked, "an answer of each server")
        first.close(0.0)
        first.join()
        with Wire(second.address) as wire:
            assert wire.get().body == b"second", "the other one goes on"

    def test_in_one_loop(self, listen: Listen) -> None:
        finished = asyncio.Event()

        async def program(server: NativeHttpServer) -> None:
            async with NativeHttpServer.bind(port=server.port, shared=True) as other:
                seen: set[NativeHttpServer] = set()

                async def take(one: NativeHttpServer) -> None:
                    async for request in one:
                        seen.add(one)
                        await request.response.close()

                takers = [asyncio.create_task(take(one)) for one in (server, other)]
                while len(seen) < 2:
                    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
                    writer.write(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
                    assert b"200 OK" in await reader.read()
                    writer.close()
                    await writer.wait_closed()
                await other.close()
                server.close()
                await asyncio.gather(*takers)
            finished.set()

        listen(program, shared=True)
        eventually(finished.is_set, "an answer of each server")

    def test_a_port_that_is_not_shared(self, listen: Listen) -> None:
        async def program(server: NativeHttpServer) -> None:
            with pytest.raises(AddressInUseError):
                await NativeHttpServer.bind(port=server.port)
            await server.close()
            finished.set()

        finished = asyncio.Event()
        listen(program)
        eventually(finished.is_set, "the refusal")


class TestTooLate:
    """After the head has gone."""

    def test_nothing_of_the_head_can_be_changed(self, listen: Listen) -> None:
        async def handler(request: HttpRequest) -> None:
            response = request.response
            await response.flush()
            for change in (
                lambda: setattr(response, "status_code", 404),
                lambda: response.headers.set("x", "y"),
                lambda: response.cookies.add("a", "b"),
                lambda: request.session,
                lambda: response.redirect("/"),
            ):
                with pytest.raises(ResponseSentError):
                    change()
            response.write("fine")
            await response.close()
            with pytest.raises(ResponseSentError, match="closed"):
                response.write("more")

        with Wire(listen(answering(handler)).address) as wire:
            answer = wire.get()
            assert (answer.status, answer.body) == (200, b"fine")

    def test_a_client_that_is_gone(self, listen: Listen) -> None:
        over: list[str] = []
        begun = asyncio.Event()

        async def program(server: NativeHttpServer) -> None:
            async for request in server:
                response = request.response
                if request.uri == "/next":
                    await response.close()
                    continue
                begun.set()
                with pytest.raises(ClientDisconnected):
                    await response.done
                response.write("dropped")
                with pytest.raises(ClientDisconnected):
                    await response.flush()
                await response.close()
                assert request.disconnected
                over.append(request.uri)

        running = listen(program)
        with Wire(running.address) as wire:
            wire.request("/gone")
            eventually(begun.is_set, "the request")
            wire.reset()
        eventually(lambda: over == ["/gone"], "the end of the response")
        with Wire(running.address) as wire:
            assert wire.get("/next").status == 200
