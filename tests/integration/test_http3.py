"""HTTP/3 on the port of HTTP/1.1 and HTTP/2, seen by ``aioquic`` and curl: requests, back-pressure, resets, the end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from aioquic.tls import SessionTicket

from server_native import Limits, NativeDirectRequest, NativeDirectResponse
from tests.integration.certificates import Authority, Identity
from tests.integration.clients import H2, Wire, eventually
from tests.integration.h3_clients import (
    H3,
    ErrorCode,
    Field,
    H3Answer,
    Setting,
    curl,
    needs_interim,
)
from tests.integration.servers import PATIENCE, Mode, Running, Serve
from tests.integration.test_backpressure import BOUND, GROWTH, resident, settles

Response = NativeDirectResponse
Conversation = Callable[[H3], Awaitable[None]]
MEBIBYTE = bytes(range(256)) * 4096
PIECE = b"x" * 65_536


class Talk:
    """Starts servers with HTTP/3, and runs conversations with them."""

    def __init__(self, serve: Serve, authority: Authority, identity: Identity) -> None:
        self._serve = serve
        self.authority = authority
        self.options: dict[str, Any] = {**identity.options, "http3": True}

    def serve(
        self, handler: Callable[..., Any], mode: Mode | None = None, **options: Any
    ) -> Running:
        return self._serve(handler, mode, **{**self.options, **options})

    def embedded(self, handler: Callable[..., Any], loop: str, **options: Any) -> Running:
        return self._serve.embedded(handler, loop, **{**self.options, **options})

    def logged(self) -> list[str]:
        return self._serve.logged()

    def open(self, running: Running, **options: Any) -> contextlib.AbstractAsyncContextManager[H3]:
        return H3.open(running.address, trust=self.authority.path, **options)

    def __call__(self, running: Running, conversation: Conversation, **options: Any) -> None:
        """One conversation over one connection."""

        async def main() -> None:
            async with self.open(running, **options) as client:
                await conversation(client)

        asyncio.run(main())


@pytest.fixture
def talk(serve: Serve, authority: Authority, identity: Identity) -> Talk:
    return Talk(serve, authority, identity)


def tell(request: NativeDirectRequest, body: bytes) -> dict[str, Any]:
    """What a handler sees of a request."""
    return {
        "protocol": request.protocol,
        "method": request.method,
        "scheme": request.scheme,
        "authority": request.authority,
        "target": request.target,
        "path": request.path,
        "query": request.query,
        "tag": request.header("x-tag"),
        "host": request.headers.get_all("host"),
        "client": request.client and request.client[0],
        "server": list(request.server),
        "size": len(body),
    }


def test_a_handler_sees_the_request(talk: Talk, mode: Mode) -> None:
    running = talk.serve(tell, mode)

    async def conversation(client: H3) -> None:
        answer = await client.request("/a%20b?c=d", ("x-tag", "t"), method="PUT", body=b"12345")
        assert answer.status == 200
        authority = f"localhost:{running.server.port}"
        assert json.loads(answer.body) == {
            "protocol": "HTTP/3",
            "method": "PUT",
            "scheme": "https",
            "authority": authority,
            "target": "/a%20b?c=d",
            "path": "/a b",
            "query": "c=d",
            "tag": "t",
            "host": [authority],
            "client": "127.0.0.1",
            "server": ["127.0.0.1", running.server.port],
            "size": 5,
        }

    talk(running, conversation)


def test_the_client_address_is_the_udp_one(talk: Talk) -> None:
    running = talk.serve(lambda request: list(request.client))

    async def conversation(client: H3) -> None:
        assert json.loads((await client.request()).body) == ["127.0.0.1", client.port]

    talk(running, conversation)


def test_tls_facts(talk: Talk) -> None:
    def handler(request: Any) -> list[str | None]:
        return [request.tls.version, request.tls.protocol, request.tls.server_name]

    async def conversation(client: H3) -> None:
        assert json.loads((await client.request()).body) == ["TLSv1.3", "h3", "localhost"]

    talk(talk.serve(handler), conversation)


def test_a_mebibyte_comes_back(talk: Talk, mode: Mode) -> None:
    async def conversation(client: H3) -> None:
        answer = await client.request(method="POST", body=MEBIBYTE)
        assert answer.header("content-length") == str(len(MEBIBYTE))
        assert answer.body == MEBIBYTE

    talk(talk.serve(lambda _, body: body, mode), conversation)


def test_twenty_mebibytes_down(talk: Talk) -> None:
    """A peer's download dies at 8 of 20 MiB."""
    running = talk.serve(lambda _: Response.stream(PIECE for _ in range(320)))

    async def conversation(client: H3) -> None:
        answer = await client.request()
        assert (answer.ended, len(answer.body)) == (True, 320 * len(PIECE))

    talk(running, conversation)


def test_many_requests_share_a_connection(talk: Talk, mode: Mode) -> None:
    running = talk.serve(lambda request, _: request.path, mode)

    async def conversation(client: H3) -> None:
        for start in range(0, 300, 50):
            streams = {client.begin(f"/{number}"): number for number in range(start, start + 50)}
            for stream, number in streams.items():
                assert (await client.answer(stream)).body == b"/%d" % number
        assert running.stats()["accepted"] == 1

    talk(running, conversation)


def test_trailers_both_ways(talk: Talk) -> None:
    async def handler(request: NativeDirectRequest) -> NativeDirectResponse:
        body = await request.read()
        found = request.trailers.get("x-sum")
        return Response.stream(iter([body]), trailers={"x-found": found or "none"})

    async def conversation(client: H3) -> None:
        stream = client.begin("/", method="POST", end=False)
        client.send(stream, b"body")
        client.send_trailers(stream, ("x-sum", "1"))
        answer = await client.answer(stream)
        assert (answer.body, answer.trailers) == (b"body", [("x-found", "1")])

    talk(talk.serve(handler), conversation)


@needs_interim
def test_an_interim_response(talk: Talk) -> None:
    def handler(request: NativeDirectRequest) -> str:
        request.inform(103, {"link": "</a.css>; rel=preload"})
        return "done"

    async def conversation(client: H3) -> None:
        answer = await client.request()
        assert answer.body == b"done"
        assert answer.interim == [[(":status", "103"), ("link", "</a.css>; rel=preload")]]

    talk(talk.serve(handler), conversation)


@pytest.mark.parametrize("streamed", [False, True])
def test_an_answer_to_head_has_no_body(talk: Talk, mode: Mode, streamed: bool) -> None:
    def handler(_: NativeDirectRequest, __: bytes) -> str | NativeDirectResponse:
        if streamed:
            return Response.stream(iter([b"12345"]), headers={"content-length": "5"})
        return "12345"

    async def conversation(client: H3) -> None:
        answer = await client.request(method="HEAD")
        assert (answer.status, answer.header("content-length"), answer.body) == (200, "5", b"")

    talk(talk.serve(handler, mode), conversation)


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_that_cannot_have_a_body(talk: Talk, status: int) -> None:
    async def conversation(client: H3) -> None:
        answer = await client.request()
        assert (answer.status, answer.body, answer.ended) == (status, b"", True)

    talk(talk.serve(lambda _: Response.bytes(b"", status=status)), conversation)


def test_a_constant_route(talk: Talk) -> None:
    running = talk.serve(lambda _: "handler", routes={"/constant": "route"})

    async def conversation(client: H3) -> None:
        assert (await client.request("/constant")).body == b"route"
        assert (await client.request("/other")).body == b"handler"

    talk(running, conversation)


def test_the_cookie_is_one_field_again(talk: Talk) -> None:
    running = talk.serve(lambda request: request.headers.get_all("cookie"))

    async def conversation(client: H3) -> None:
        crumbs = (("cookie", "a=1"), ("x", "y"), ("cookie", "b=2"))
        assert (await client.request("/", *crumbs)).body == b'["a=1; b=2"]'

    talk(running, conversation)


# --- limits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_over_the_limit_is_413(talk: Talk, declared: bool) -> None:
    async def handler(request: NativeDirectRequest) -> str:
        return str(len(await request.read()))

    async def conversation(client: H3) -> None:
        fields = [("content-length", "2000")] if declared else []
        stream = client.begin("/", *fields, method="POST", end=False)
        client.send(stream, b"x" * 2000, end=True)
        assert (await client.answer(stream)).status == 413
        assert (await client.request(method="POST", body=b"x" * 1000)).body == b"1000"

    talk(talk.serve(handler, limits=Limits(body_bytes=1000)), conversation)


@pytest.mark.parametrize(
    "fields",
    [[("x", "y" * 60_000)], [(f"x-{number}", "y") for number in range(200)]],
    ids=["one large field", "many fields"],
)
def test_a_field_section_over_the_limit_is_431(talk: Talk, fields: list[Field]) -> None:
    called: list[str] = []

    def handler(request: NativeDirectRequest) -> str:
        called.append(request.path)
        return "fine"

    async def conversation(client: H3) -> None:
        assert (await client.request("/large", *fields)).status == 431
        assert (await client.request("/next")).body == b"fine"

    talk(talk.serve(handler), conversation)
    assert called == ["/next"]


def test_a_long_target_is_414(talk: Talk) -> None:
    async def conversation(client: H3) -> None:
        assert (await client.request("/" + "x" * 100)).status == 414

    talk(talk.serve(lambda _: "never", limits=Limits(uri_bytes=100)), conversation)


def test_the_limit_of_fields_is_announced(talk: Talk) -> None:
    async def conversation(client: H3) -> None:
        assert (await client.request()).status == 200
        settings = client.http.received_settings
        assert settings is not None
        assert 0 < settings[Setting.MAX_FIELD_SECTION_SIZE] <= 64 * 1024

    talk(talk.serve(lambda _: "x"), conversation)


# --- back-pressure --------------------------------------------------------------------------------------------------


def test_a_client_that_does_not_read_stops_the_generator(talk: Talk, mode: Mode) -> None:
    pulled = 0
    closed = threading.Event()

    def chunks() -> Iterator[bytes]:
        nonlocal pulled
        try:
            while True:
                pulled += len(PIECE)
                yield PIECE
        finally:
            closed.set()

    async def chunks_async() -> AsyncIterator[bytes]:
        for chunk in chunks():
            yield chunk

    def handler(_: NativeDirectRequest, __: bytes) -> NativeDirectResponse:
        return Response.stream(chunks_async() if mode.asynchronous else chunks())

    running = talk.serve(handler, mode)
    before = resident()

    async def conversation(client: H3) -> None:
        client.stall()
        stream = client.begin()
        await client.wait(lambda: len(client.known(stream).received) > 10_000)
        # In a thread: the client has to go on acknowledging meanwhile.
        assert await asyncio.to_thread(settles, lambda: pulled, "the generator") < BOUND
        assert resident() - before < GROWTH
        taken = pulled
        client.resume()
        await client.wait(lambda: len(client.known(stream).received) > taken)
        client.reset(stream)
        assert await asyncio.to_thread(closed.wait, PATIENCE)

    talk(running, conversation, window=65_536)
    eventually(lambda: running.stats()["streams"] == 0, "the stream is gone")


def test_a_stalled_stream_holds_no_other(talk: Talk, mode: Mode) -> None:
    """Its own window is shut; the connection's is not."""

    def handler(request: NativeDirectRequest, _: bytes) -> str | bytes:
        return b"x" * 300_000 if request.path == "/large" else "small"

    async def conversation(client: H3) -> None:
        client.stall()
        large = client.begin("/large")
        await client.wait(lambda: len(client.known(large).received) > 60_000)
        assert (await client.request("/small")).body == b"small"
        assert not client.known(large).ended
        client.resume()
        assert len((await client.answer(large)).body) == 300_000

    talk(talk.serve(handler, mode), conversation, stream_window=65_536)


def test_a_handler_that_does_not_read_shuts_the_window(talk: Talk) -> None:
    go_on = threading.Event()
    # Much more than may be taken, and little enough for a client in Python that shares the machine.
    offered = 16 * len(MEBIBYTE)

    async def handler(request: NativeDirectRequest) -> str:
        if request.path == "/other":
            return "other"
        while not go_on.is_set():
            await asyncio.sleep(0.005)
        return str(len(await request.read()))

    running = talk.serve(handler)

    async def conversation(client: H3) -> None:
        stream = client.begin(method="POST", end=False)
        for _ in range(offered // len(MEBIBYTE)):
            client.send(stream, MEBIBYTE)
        taken = await asyncio.to_thread(settles, lambda: client.sent(stream), "what is taken")
        assert 0 < taken < offered // 2
        # The queue to Python, docs/architecture.md: 4 MiB, and what came with the event that filled it.
        assert running.stats()["queued_bytes"] <= 4 * len(MEBIBYTE) + len(PIECE)
        go_on.set()
        client.send(stream, b"", end=True)
        assert (await client.answer(stream)).body == b"%d" % offered

    talk(running, conversation)


# --- the end of streams ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", ["asyncio", "native", "uvloop"])
def test_a_reset_by_the_client_cancels_the_handler(talk: Talk, loop: str) -> None:
    begun, over = threading.Event(), threading.Event()
    seen: list[bool] = []

    async def handler(request: NativeDirectRequest) -> str:
        if request.path == "/other":
            return "other"
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append(request.disconnected)
            over.set()
            raise
        return ""

    async def conversation(client: H3) -> None:
        stream = client.begin()
        assert await asyncio.to_thread(begun.wait, PATIENCE)
        client.reset(stream)
        assert await asyncio.to_thread(over.wait, PATIENCE)
        assert seen == [True]
        assert (await client.request("/other")).body == b"other"

    talk(talk.embedded(handler, loop), conversation)


def test_a_client_that_vanishes_cancels_every_handler(talk: Talk) -> None:
    begun, cancelled = threading.Semaphore(0), threading.Semaphore(0)

    async def handler(_: NativeDirectRequest) -> str:
        begun.release()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.release()
            raise
        return ""

    running = talk.serve(handler)

    async def conversation(client: H3) -> None:
        for _ in range(20):
            client.begin()
        for _ in range(20):
            assert await asyncio.to_thread(begun.acquire, timeout=PATIENCE)

    talk(running, conversation)
    for _ in range(20):
        assert cancelled.acquire(timeout=PATIENCE)
    eventually(lambda: running.stats()["streams"] == 0, "no stream is left")


def test_a_handler_that_fails_before_the_head_is_500(talk: Talk, mode: Mode) -> None:
    def handler(_: NativeDirectRequest, __: bytes) -> str:
        raise RuntimeError("before the head")

    async def conversation(client: H3) -> None:
        answer = await client.request()
        assert (answer.status, answer.ended) == (500, True)

    talk(talk.serve(handler, mode), conversation)
    assert [text for text in talk.logged() if "before the head" in text]


def test_a_handler_that_fails_in_the_middle_resets_the_stream_only(talk: Talk, mode: Mode) -> None:
    def broken() -> Iterator[bytes]:
        yield b"some"
        raise RuntimeError("in the middle")

    def handler(request: NativeDirectRequest, _: bytes) -> str | NativeDirectResponse:
        return "fine" if request.path == "/fine" else Response.stream(broken())

    async def conversation(client: H3) -> None:
        answer = await client.request()
        assert (answer.ended, answer.reset) == (False, ErrorCode.H3_INTERNAL_ERROR)
        assert (await client.request("/fine")).body == b"fine"
        assert client.closed is None

    talk(talk.serve(handler, mode), conversation)
    assert [text for text in talk.logged() if "in the middle" in text]


def test_an_answer_before_the_body_is_here(talk: Talk) -> None:
    """The server needs no more of a large request and says so, after its answer (RFC 9114 section 4.1)."""

    async def handler(request: NativeDirectRequest) -> tuple[int, str]:
        return 403, "no"

    async def conversation(client: H3) -> None:
        stream = client.begin(method="POST", end=False)
        client.send(stream, MEBIBYTE * 5)
        answer = await client.answer(stream)
        assert (answer.status, answer.body, answer.ended) == (403, b"no", True)
        await client.wait(lambda: client.known(stream).stopped is not None)
        assert client.known(stream).stopped == ErrorCode.H3_NO_ERROR

    talk(talk.serve(handler), conversation)


# --- the connection -------------------------------------------------------------------------------------------------


def test_a_stop_says_goaway_and_lets_requests_finish(talk: Talk) -> None:
    begun, go_on = threading.Event(), threading.Event()

    async def handler(_: NativeDirectRequest) -> str:
        begun.set()
        while not go_on.is_set():
            await asyncio.sleep(0.001)
        return "finished"

    running = talk.serve(handler, grace=PATIENCE)

    async def conversation(client: H3) -> None:
        stream = client.begin()
        assert await asyncio.to_thread(begun.wait, PATIENCE)
        running.close()
        await client.wait(lambda: bool(client.goaways))
        go_on.set()
        answer = await client.answer(stream)
        assert (answer.body, answer.ended) == (b"finished", True)
        # The last one names the first request that was not taken (RFC 9114 section 5.2).
        assert (await client.end()).error_code == ErrorCode.H3_NO_ERROR
        assert client.goaways[-1] == stream + 4
        assert sorted(client.goaways, reverse=True) == client.goaways

    talk(running, conversation)
    running.join()


def test_a_stop_without_requests_closes_at_once(talk: Talk) -> None:
    running = talk.serve(lambda _: "x", grace=PATIENCE * 6)

    async def conversation(client: H3) -> None:
        assert (await client.request()).body == b"x"
        running.close()
        assert (await client.end()).error_code == ErrorCode.H3_NO_ERROR

    talk(running, conversation)
    running.join()


@pytest.mark.parametrize("new_connection_id", [False, True], ids=["rebound", "migrated"])
def test_another_port_in_the_middle_of_a_download(talk: Talk, new_connection_id: bool) -> None:
    running = talk.serve(lambda _: Response.stream(PIECE for _ in range(100)))

    async def conversation(client: H3) -> None:
        client.stall()
        stream = client.begin()
        await client.wait(lambda: len(client.known(stream).received) > 500_000)
        old = client.port
        await client.rebind(new_connection_id=new_connection_id)
        assert client.port != old
        client.resume()
        assert len((await client.answer(stream)).body) == 100 * len(PIECE)
        assert (await client.request()).status == 200
        assert running.stats()["accepted"] == 1

    talk(running, conversation)


def test_a_session_is_resumed_without_early_data(talk: Talk) -> None:
    """0-RTT can be replayed, and a server cannot know which requests may be."""
    running = talk.serve(lambda _: "x")

    async def main() -> None:
        tickets: list[SessionTicket] = []
        async with talk.open(running, tickets=tickets.append) as client:
            await client.wait(lambda: bool(tickets))
        assert tickets[0].max_early_data_size in {None, 0}
        async with talk.open(running, ticket=tickets[0]) as client:
            assert client.handshake is not None
            assert client.handshake.session_resumed
            assert (await client.request()).body == b"x"

    asyncio.run(main())


def test_datagrams_that_are_no_quic_are_left_alone(talk: Talk) -> None:
    import socket

    running = talk.serve(lambda _: "x")

    async def conversation(client: H3) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            for junk in (b"", b"\0", b"GET / HTTP/1.1\r\n\r\n", b"\xc0" * 1200, bytes(1500)):
                stranger.sendto(junk, running.address)
        assert (await client.request()).body == b"x"

    talk(running, conversation)


def test_a_reload_is_seen_by_new_connections(
    talk: Talk, authority: Authority, identity: Identity
) -> None:
    mine = authority.issue()
    running = talk.serve(lambda _: "x", None, **mine.options)
    server: Any = running.server

    async def conversation(client: H3) -> None:
        other = authority.issue("elsewhere.test")
        mine.certificate_path.write_bytes(other.certificate_path.read_bytes())
        mine.key_path.write_bytes(other.key_path.read_bytes())
        server.reload_certificates()
        assert (await client.request()).body == b"x"
        async with talk.open(running, server_name="elsewhere.test") as second:
            assert (await second.request()).body == b"x"

    talk(running, conversation)


# --- malformed requests ---------------------------------------------------------------------------------------------

PSEUDO = [(":method", "GET"), (":scheme", "https"), (":authority", "localhost"), (":path", "/")]


def without(name: str) -> list[Field]:
    return [pseudo for pseudo in PSEUDO if pseudo[0] != name]


MALFORMED: dict[str, list[Field]] = {
    "upper case": [*PSEUDO, ("X-Upper", "case")],
    "connection": [*PSEUDO, ("connection", "close")],
    "transfer-encoding": [*PSEUDO, ("transfer-encoding", "chunked")],
    "keep-alive": [*PSEUDO, ("keep-alive", "timeout=5")],
    "upgrade": [*PSEUDO, ("upgrade", "websocket")],
    "te": [*PSEUDO, ("te", "gzip")],
    "no method": without(":method"),
    "no scheme": without(":scheme"),
    "no path": without(":path"),
    "no authority": without(":authority"),
    "empty path": [*without(":path"), (":path", "")],
    "two methods": [*PSEUDO, (":method", "GET")],
    "unknown pseudo": [*PSEUDO, (":unknown", "x")],
    "status in a request": [*PSEUDO, (":status", "200")],
    "pseudo after a field": [*without(":path"), ("x", "y"), (":path", "/")],
    "line break in a value": [*PSEUDO, ("x", "a\r\nb: c")],
    "NUL in a value": [*PSEUDO, ("x", "a\0b")],
    "space in a name": [*PSEUDO, ("bad name", "x")],
    "host differs": [*PSEUDO, ("host", "other")],
    "user in authority": [*without(":authority"), (":authority", "user@localhost")],
}


async def refusal(client: H3, stream: int) -> int | H3Answer:
    """The code with which a request was refused, or the answer that came without one."""
    await client.wait(
        lambda: (
            client.known(stream).over
            or client.known(stream).stopped is not None
            or client.closed is not None
        )
    )
    answer = client.known(stream)
    for code in (answer.reset, answer.stopped):
        if code is not None:
            return code
    return client.closed.error_code if client.closed is not None else answer


@pytest.mark.parametrize("fields", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_requests_reach_no_handler(talk: Talk, fields: list[Field]) -> None:
    """RFC 9114 section 4.1.2: a stream error of H3_MESSAGE_ERROR; a 400 before it, or for it, is allowed."""
    called: list[str] = []

    def handler(request: NativeDirectRequest) -> str:
        called.append(request.path)
        return "fine"

    async def conversation(client: H3) -> None:
        found = await refusal(client, client.begin_raw(fields))
        if isinstance(found, H3Answer):
            assert found.status == 400
        else:
            assert found == ErrorCode.H3_MESSAGE_ERROR
        assert called == []
        assert (await client.request("/next")).body == b"fine", "the connection goes on"

    talk(talk.serve(handler), conversation)


@pytest.mark.parametrize("body", [b"", b"1234", b"123456"])
def test_a_body_that_is_not_as_declared(talk: Talk, body: bytes) -> None:
    called: list[str] = []

    def handler(request: NativeDirectRequest) -> str:
        called.append(request.path)
        return "fine"

    async def conversation(client: H3) -> None:
        stream = client.begin("/wrong", ("content-length", "5"), method="POST", end=False)
        client.send(stream, body, end=True)
        assert await refusal(client, stream) == ErrorCode.H3_MESSAGE_ERROR
        assert called == []
        assert (await client.request("/next")).body == b"fine"

    talk(talk.serve(handler), conversation)


def test_a_large_body_that_is_not_as_declared(talk: Talk) -> None:
    """The handler has begun by then: its body ends with an error, not as if it were whole."""
    bodies: list[bytes] = []
    over = threading.Event()

    async def handler(request: NativeDirectRequest) -> str:
        try:
            bodies.append(await request.read())
        finally:
            over.set()
        return ""

    async def conversation(client: H3) -> None:
        stream = client.begin("/", ("content-length", "200000"), method="POST", end=False)
        client.send(stream, b"x" * 199_999, end=True)
        assert await refusal(client, stream) == ErrorCode.H3_MESSAGE_ERROR
        assert await asyncio.to_thread(over.wait, PATIENCE)

    talk(talk.serve(handler), conversation)
    assert bodies == []


# --- beside the other versions --------------------------------------------------------------------------------------


@pytest.mark.parametrize("http3", [True, False])
def test_other_versions_advertise_it(talk: Talk, authority: Authority, http3: bool) -> None:
    running = talk.serve(lambda request: request.protocol, routes={"/route": "x"}, http3=http3)
    expected = f'h3=":{running.server.port}"; ma=86400' if http3 else None
    with (
        Wire(running.address, tls=authority.context("http/1.1")) as wire,
        H2(running.address, tls=authority.context("h2")) as client,
    ):
        for path, body in (("/", b"HTTP/1.1"), ("/route", b"x")):
            answer = wire.get(path)
            assert (answer.body, answer.header("alt-svc")) == (body, expected)
        for path, body in (("/", b"HTTP/2"), ("/route", b"x")):
            second = client.request(path)
            assert (second.body, second.header("alt-svc")) == (body, expected)


def test_a_handler_may_say_another_alternative(talk: Talk, authority: Authority) -> None:
    running = talk.serve(lambda _: Response.text("x", headers={"alt-svc": "clear"}))
    with Wire(running.address, tls=authority.context()) as wire:
        assert wire.get().header("alt-svc") == "clear"


def test_without_certificates_nothing_is_advertised(serve: Serve) -> None:
    with Wire(serve(lambda _: "x").address) as wire:
        assert wire.get().header("alt-svc") is None


def test_two_clients_agree(talk: Talk, mode: Mode) -> None:
    running = talk.serve(tell, mode, host="127.0.0.1")
    url = f"https://localhost:{running.server.port}"
    seen = []

    async def conversation(client: H3) -> None:
        for method, body in (("GET", b""), ("POST", b"x" * 1000), ("PUT", MEBIBYTE)):
            answer = await client.request("/a?b=c", ("x-tag", "t"), method=method, body=body)
            seen.append((answer.status, json.loads(answer.body)))

    talk(running, conversation)
    for (method, body), expected in zip(
        (("GET", None), ("POST", b"x" * 1000), ("PUT", MEBIBYTE)), seen, strict=True
    ):
        answer = curl(
            f"{url}/a?b=c",
            trust=talk.authority.path,
            method=method,
            data=body,
            headers={"x-tag": "t"},
        )
        assert answer.http_version == 30
        assert (answer.status_code, json.loads(answer.content)) == expected
