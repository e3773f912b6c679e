"""Cases of the original's own tests, asked by a client that people use, in every style and over both versions.

`docs/parity.md` has the whole list. Most of it is held by the tests of the thing itself; here is what goes through
everything at once, and what had no test.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, NamedTuple

import httpx
import pytest

from server_native import (
    ConfigurationError,
    HttpRequest,
    NativeDirectRequest,
    NativeDirectResponse,
    NativeHttpServer,
    NativeMultiServer,
    NativeServer,
    NativeServerBind,
    errors,
    serve_secure_native_multi,
    start_native_http,
    start_secure_native_multi,
)
from tests.integration.certificates import Authority, Identity
from tests.integration.clients import Wire
from tests.integration.http_servers import answering, listening
from tests.integration.servers import PATIENCE, Running, Serve


class Asked(NamedTuple):
    """What a request tells, whatever its style."""

    method: str
    path: str
    query: str
    headers: list[tuple[str, str]]
    body: bytes

    def all(self, name: str) -> list[str]:
        return [value for known, value in self.headers if known == name]


class Told(NamedTuple):
    """What a response says, whatever its style."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


Start = Callable[[Callable[[Asked], Told]], Running]
Client = Callable[[Running], httpx.Client]


def asked(request: NativeDirectRequest, body: bytes) -> Asked:
    return Asked(request.method, request.path, request.query, list(request.headers), body)


@pytest.fixture(params=["plain", "asynchronous", "HttpServer"])
def start(request: pytest.FixtureRequest, serve: Serve) -> Start:
    """Starts a server with a handler that is written once, in this style."""

    def run(written: Callable[[Asked], Told]) -> Running:
        def plain(request: NativeDirectRequest) -> NativeDirectResponse:
            return NativeDirectResponse.pre_encoded(*written(asked(request, request.body)))

        async def asynchronous(request: NativeDirectRequest) -> NativeDirectResponse:
            return NativeDirectResponse.pre_encoded(*written(asked(request, await request.read())))

        async def of_http_server(request: HttpRequest) -> None:
            told = written(asked(request.direct, await request.read()))
            response = request.response
            response.status_code = told.status
            for name, value in told.headers:
                response.headers.add(name, value)
            await response.add_stream([told.body])

        if request.param == "HttpServer":
            return listening(serve, "asyncio")(answering(of_http_server))
        return serve(plain if request.param == "plain" else asynchronous)

    return run


@pytest.fixture(params=["HTTP/1.1", "HTTP/2"])
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    """Makes a client that speaks this version and follows redirects; closed after the test."""
    made: list[httpx.Client] = []

    def make(running: Running) -> httpx.Client:
        modern = request.param == "HTTP/2"
        made.append(
            httpx.Client(
                base_url=running.url,
                http1=not modern,
                http2=modern,
                follow_redirects=True,
                trust_env=False,
                timeout=PATIENCE,
            )
        )
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_method_path_query_headers_and_body(start: Start, client: Client) -> None:
    seen: list[Asked] = []

    def handler(asked: Asked) -> Told:
        seen.append(asked)
        return Told(201, (("x-answer", "yes"),), asked.body[::-1])

    with client(start(handler)) as session:
        answer = session.put("/a%20b?x=1&y=%20", headers={"X-Ask": "me"}, content=b"hello")
    assert (answer.status_code, answer.headers["x-answer"]) == (201, "yes")
    assert answer.content == b"olleh"
    (one,) = seen
    assert one[:3] == ("PUT", "/a b", "x=1&y=%20")
    assert (one.all("x-ask"), one.body) == (["me"], b"hello")


def test_cookies_go_both_ways(start: Start, client: Client) -> None:
    def handler(asked: Asked) -> Told:
        if asked.path == "/set":
            return Told(204, (("set-cookie", "a=1; Path=/"), ("set-cookie", "b=2; Path=/")))
        return Told(body="; ".join(asked.all("cookie")).encode())

    with client(start(handler)) as session:
        assert session.get("/set").headers.get_list("set-cookie") == ["a=1; Path=/", "b=2; Path=/"]
        assert session.get("/").content == b"a=1; b=2"


def test_statuses_that_are_not_200(start: Start, client: Client) -> None:
    with client(start(lambda asked: Told(int(asked.path[1:]), (), b"why"))) as session:
        for status in (201, 400, 404, 418, 503):
            answer = session.get(f"/{status}")
            assert (answer.status_code, answer.content) == (status, b"why")


def test_a_redirect_is_followed(start: Start, client: Client) -> None:
    def handler(asked: Asked) -> Told:
        if asked.path == "/from":
            return Told(302, (("location", "/to?x"),))
        return Told(body=f"{asked.path}?{asked.query}".encode())

    with client(start(handler)) as session:
        answer = session.get("/from")
    assert [before.status_code for before in answer.history] == [302]
    assert answer.content == b"/to?x"


def test_repeated_fields_of_requests_and_responses(start: Start, client: Client) -> None:
    def handler(asked: Asked) -> Told:
        return Told(200, tuple(("x-many", value.upper()) for value in asked.all("x-many")))

    with client(start(handler)) as session:
        answer = session.get("/", headers=[("x-many", "a"), ("x-many", "b"), ("x-many", "a")])
    assert answer.headers.get_list("x-many") == ["A", "B", "A"]


@pytest.mark.parametrize("size", [256, 8 * 1024 * 1024], ids=["every byte", "8 MiB"])
def test_binary_and_large_bodies_both_ways(start: Start, client: Client, size: int) -> None:
    body = bytes(range(256)) * (size // 256)
    with client(start(lambda asked: Told(body=asked.body))) as session:
        for _ in range(2):
            assert session.post("/", content=body).content == body


def test_requests_at_once(start: Start, client: Client) -> None:
    running = start(lambda asked: Told(body=asked.query.encode()))
    modern = client(running).get("/").http_version == "HTTP/2"

    async def main() -> list[bytes]:
        async with httpx.AsyncClient(
            base_url=running.url, http1=not modern, http2=modern, trust_env=False, timeout=PATIENCE
        ) as session:
            answers = await asyncio.gather(*(session.get(f"/?{each}") for each in range(100)))
        return [answer.content for answer in answers]

    assert asyncio.run(main()) == [b"%d" % each for each in range(100)]


@pytest.mark.parametrize("style", ["direct", "HttpServer"])
def test_a_body_is_streamed_through(serve: Serve, client: Client, style: str) -> None:
    """Each piece is on its way back before the next is sent: nobody holds the whole."""

    async def direct(request: NativeDirectRequest) -> NativeDirectResponse:
        async def echo() -> AsyncIterator[bytes]:
            async for chunk in request:
                yield chunk

        return NativeDirectResponse.stream(echo())

    async def of_http_server(request: HttpRequest) -> None:
        await request.response.add_stream(request)

    running = (
        serve(direct)
        if style == "direct"
        else listening(serve, "asyncio")(answering(of_http_server))
    )
    pieces = [bytes([letter]) * 100_000 for letter in b"abcdef"]
    with client(running) as session:
        assert session.post("/", content=iter(pieces)).content == b"".join(pieces)


@pytest.mark.parametrize("line", ["transfer-encoding: custom", "transfer-encoding: gzip, chunked"])
def test_a_get_with_another_transfer_coding_is_refused(start: Start, line: str) -> None:
    """The original takes it, and hands the field over: two servers in a row could read the rest differently."""
    reached: list[Asked] = []

    def handler(asked: Asked) -> Told:
        reached.append(asked)
        return Told()

    with Wire(start(handler).address) as wire:
        assert wire.get("/", line).status == 400
        assert wire.rest() == b""
    assert reached == []


# --- what is said of the place ---------------------------------------------------------------------------------------


async def _hello(request: HttpRequest) -> None:
    request.response.write("hello")


Making = Callable[..., Any]


def _taken(making: Any, running: Callable[[Any], None]) -> None:
    """Runs a server of the HttpServer style while `running` looks at it from another thread."""

    async def main() -> None:
        async with making() as server:
            serving = asyncio.ensure_future(
                server.serve(_hello)
                if isinstance(server, NativeHttpServer)
                else asyncio.Event().wait()
            )
            await asyncio.to_thread(running, server)
            serving.cancel()

    asyncio.run(main())


BOTH = pytest.mark.parametrize(
    "making",
    [
        NativeHttpServer.bind,
        lambda **options: start_native_http(_hello, **options),
    ],
    ids=["NativeHttpServer", "start_native_http"],
)


@BOTH
def test_options_of_the_place(making: Making, capsys: pytest.CaptureFixture[str]) -> None:
    def look(server: Any) -> None:
        with Wire(("::1", server.port)) as wire:
            assert wire.get().body == b"hello"
        with pytest.raises(ConnectionRefusedError):
            Wire(("127.0.0.1", server.port))
        assert capsys.readouterr().out == f"Server listening on {server.url}\n"

    options = {"host": "::", "port": 0, "v6_only": True, "backlog": 7, "echo": True}
    if not socket.has_ipv6:  # pragma: no cover
        pytest.skip("this Python has no IPv6")
    _taken(lambda: making(**options), look)


@BOTH
@pytest.mark.parametrize("host", ["localhost", "any"])
def test_words_for_addresses(making: Making, host: str) -> None:
    def look(server: Any) -> None:
        for address in ("127.0.0.1", "::1") if socket.has_ipv6 else ("127.0.0.1",):
            with Wire((address, server.port)) as wire:
                assert wire.get().body == b"hello"

    _taken(lambda: making(host=host, port=0), look)


# --- several addresses, with TLS -------------------------------------------------------------------------------------


def _secure(authority: Authority, addresses: Any) -> list[bytes]:
    """What is answered at each address, over TLS."""
    answers: list[bytes] = []
    for place in addresses:
        with Wire(place, tls=authority.context()) as wire:
            answers.append(wire.get().body)
    return answers


TWO = [NativeServerBind("127.0.0.1"), NativeServerBind("127.0.0.2")]


@pytest.mark.parametrize(
    "making",
    [
        lambda handler, **files: NativeMultiServer.bind_secure(handler, TWO, **files),
        lambda handler, **files: start_secure_native_multi(handler, TWO, **files),
        NativeMultiServer.loopback_secure,
    ],
    ids=["bind_secure", "start_secure_native_multi", "loopback_secure"],
)
def test_secure_servers_at_several_addresses(
    making: Making, authority: Authority, identity: Identity
) -> None:
    async def main() -> None:
        async with making(lambda request: request.scheme, **identity.options) as server:
            answers = await asyncio.to_thread(_secure, authority, server.addresses)
            assert answers == [b"https"] * len(server.addresses)
            assert len(answers) == 2 or not socket.has_ipv6

    asyncio.run(main())


def test_a_blocking_secure_server_at_several_addresses(
    authority: Authority, identity: Identity
) -> None:
    answers: list[bytes] = []

    def look(server: NativeServer) -> None:
        try:
            answers.extend(_secure(authority, server.addresses))
        finally:
            server.close()

    def ready(server: NativeServer) -> None:
        threads.append(threading.Thread(target=look, args=(server,)))
        threads[0].start()

    threads: list[threading.Thread] = []
    serve_secure_native_multi(
        lambda request: request.scheme, TWO, on_ready=ready, **identity.options
    )
    threads[0].join(PATIENCE)
    assert answers == [b"https"] * 2


def test_secure_servers_at_several_addresses_need_their_files(
    authority: Authority, identity: Identity
) -> None:
    locked = authority.encrypted(identity, "right")
    binds = [NativeServerBind(), NativeServerBind()]

    async def start(**files: Any) -> None:
        async with start_secure_native_multi(lambda _: "", binds, **files):
            raise AssertionError("it served")

    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({}, ConfigurationError, "no certificate_path and no key_path"),
        ({"key_path": identity.key_path}, ConfigurationError, "found no certificate_path"),
        (locked.options, errors.CertificateError, "give certificate_password"),
        (
            {**locked.options, "certificate_password": "wrong"},
            errors.CertificateError,
            "is not its password",
        ),
    ]
    for files, kind, text in cases:
        with pytest.raises(kind, match=text):
            asyncio.run(start(**files))
