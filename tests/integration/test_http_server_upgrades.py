"""WebSockets and raw connections of the HttpServer style, in each of the ways to get a request."""

from __future__ import annotations

import asyncio
import contextlib
import queue
from collections.abc import Callable
from typing import Any, cast

import h2.errors
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from server_native import (
    ClientDisconnected,
    ConfigurationError,
    HandshakeError,
    HttpRequest,
    Limits,
    NativeHttpServer,
    ResponseSentError,
    WebSocketClosed,
    serve_native_http,
)
from tests.integration.clients import H2, Wire, eventually
from tests.integration.frames import (
    BINARY,
    CLOSE,
    TEXT,
    Frames,
    closing,
    encode,
    handshake,
)
from tests.integration.http_servers import HttpRunning, answering
from tests.integration.servers import PATIENCE, Running, Serve
from tests.integration.test_detach import offer, switched
from tests.integration.test_websocket import MESSAGES
from tests.integration.test_websocket_http2 import Tunnel

MIB = 1024 * 1024

Handler = Callable[[HttpRequest], Any]
Start = Callable[..., Running]


class Called(Running):
    """A blocking server of the callback style."""

    def _block(self, handler: Any, options: dict[str, Any]) -> None:
        serve_native_http(handler, on_ready=self._announce, **options)


def taking(handler: Handler) -> Callable[[NativeHttpServer], Any]:
    """The program of somebody who takes requests and leaves each to a task."""

    async def one(request: HttpRequest) -> None:
        # Answered already, and the end of a loop over messages.
        with contextlib.suppress(HandshakeError, WebSocketClosed):
            await handler(request)
        await request.response.close()

    async def program(server: NativeHttpServer) -> None:
        tasks = set()
        async for request in server:
            task = asyncio.create_task(one(request))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        while tasks:
            await asyncio.wait(tasks)

    return program


STYLES = ("async for", "serve", "callback")
#: Where a handler is called, and its end is the end of what it took over.
HANDLED = STYLES[1:]


@pytest.fixture(params=STYLES)
def style(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def start(serve: Serve, style: str) -> Start:
    """Starts a server with a handler of HttpServer requests, in one of the three ways there are."""

    def begin(handler: Handler, **options: Any) -> Running:
        running: Running
        if style == "callback":
            running = Called(cast("Any", handler), "blocking", options)
        else:
            program = taking(handler) if style == "async for" else answering(handler)
            running = HttpRunning(program, "native", options)
        serve._running.append(running)
        return running

    return begin


class App:
    """A handler for every path; ``told`` has what each of them found."""

    def __init__(self) -> None:
        self.told: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def next(self) -> Any:
        return self.told.get(timeout=PATIENCE)

    async def __call__(self, request: HttpRequest) -> None:
        path, response = request.uri, request.response
        if path == "/plain":
            response.write(f"{request.upgrade}")
            return
        if path == "/crash-before":
            raise ValueError("before it was accepted")
        if path == "/refuse":
            response.status_code = 418
            response.write("not today")
            return
        if path == "/fields":
            response.headers["x-one"] = "1"
            response.headers["content-length"] = 5
            response.cookies.add("theme", "dark")
            request.session["seen"] = True
        websocket = request.accept_websocket(subprotocols=("superchat", "chat"))
        if path == "/open":
            self.told.put(websocket)
            await websocket.receive()
        elif path == "/crash":
            raise ValueError("after it was accepted")
        elif path == "/return":
            pass
        elif path == "/listen":
            try:
                while True:
                    self.told.put(await websocket.receive())
            except WebSocketClosed as error:
                self.told.put((error.code, error.reason))
                for call in (websocket.receive(), websocket.send("late"), websocket.ping()):
                    try:
                        await call
                    except WebSocketClosed as late:
                        self.told.put(late.code)
        elif path == "/close":
            await websocket.close(4001, "bye")
        else:
            async with websocket:
                if path == "/crash-within":
                    raise ValueError("within")
                if path == "/ping":
                    self.told.put(await websocket.ping())
                if path == "/fields":
                    await websocket.send(websocket.subprotocol or "none")
                    return
                async for message in websocket:
                    await websocket.send(message)


@pytest.fixture
def app() -> App:
    return App()


def gone(running: Running) -> None:
    eventually(lambda: running.stats()["streams"] == 0, "the stream is gone")


# --- messages ----------------------------------------------------------------------------------------


def test_messages_and_requests_beside_them(start: Start, app: App) -> None:
    running = start(app)
    url = f"ws://127.0.0.1:{running.server.port}/echo"
    with connect(url, proxy=None, max_size=None) as client, Wire(running.address) as wire:
        for message in [*MESSAGES, bytes(5 * MIB), "ä" * MIB]:
            client.send(message)
            assert client.recv(PATIENCE) == message
            assert wire.get("/plain").body == b"None"
    assert client.close_code == 1000
    gone(running)


def test_messages_over_http2(start: Start, app: App) -> None:
    running = start(app)
    with H2(running.address) as client:
        tunnels = [Tunnel(client, "/echo") for _ in range(10)]
        for number, tunnel in enumerate(tunnels):
            assert "content-type" not in tunnel.accepted()
            tunnel.send(encode(BINARY, bytes(number * 50_000)))
        for number, tunnel in enumerate(tunnels):
            assert tunnel.message() == bytes(number * 50_000)
        assert client.request("/plain").body == b"None"
        for tunnel in tunnels:
            tunnel.send(encode(CLOSE, closing(4009, "why not")), end=True)
            assert tunnel.frame().closing == (4009, "why not")
            assert client.answer(tunnel.stream).ended
    gone(running)


def test_the_fields_of_the_response_go_with_the_answer(start: Start, app: App) -> None:
    url = f"ws://127.0.0.1:{start(app, server_header='mine').server.port}/fields"
    for offered, agreed in (["mqtt", "chat"], "chat"), (["mqtt"], None):
        names = [Subprotocol(name) for name in offered]
        with connect(url, proxy=None, subprotocols=names) as client:
            assert client.recv(PATIENCE) == (agreed or "none")
            assert client.response is not None
            headers = client.response.headers
            assert (client.subprotocol, headers["x-one"]) == (agreed, "1")
            assert (headers["server"], headers["x-frame-options"]) == ("mine", "SAMEORIGIN")
            theme, session = headers.get_all("set-cookie")
            assert theme == "theme=dark"
            assert session.startswith("SNSESSID=")
            for absent in ("content-type", "content-length", "transfer-encoding"):
                assert absent not in headers


def test_a_ping_is_answered(start: Start, app: App) -> None:
    with connect(f"ws://127.0.0.1:{start(app).server.port}/ping", proxy=None) as client:
        assert 0 < app.next() < PATIENCE
        client.send("x")
        assert client.recv(PATIENCE) == "x"


# --- the handshake -----------------------------------------------------------------------------------


REFUSED: list[tuple[bytes, int, dict[str, str]]] = [
    (
        b"GET /echo HTTP/1.1\r\nhost: a\r\n\r\n",
        426,
        {"upgrade": "websocket", "connection": "upgrade"},
    ),
    (
        handshake("/echo", version="8"),
        426,
        {"sec-websocket-version": "13", "upgrade": "websocket", "connection": "upgrade"},
    ),
    (handshake("/echo", key="c2hvcnQ="), 400, {}),
    (handshake("/echo", "content-length: 4") + b"body", 400, {}),
]


def test_what_is_no_handshake_is_answered_and_the_server_goes_on(start: Start, app: App) -> None:
    running = start(app)
    for sent, status, fields in REFUSED:
        with Wire(running.address) as wire:
            wire.send(sent)
            answer = wire.answer()
            assert answer.status == status
            assert answer.header("content-type") == "text/plain; charset=utf-8"
            for name, value in fields.items():
                assert answer.header(name) == value
            assert answer.body.endswith(b"\n")
    with H2(running.address) as client:
        bad = Tunnel(client, "/echo", ("sec-websocket-version", "8"))
        assert client.answer(bad.stream).status == 426
        assert client.request("/echo").status == 426
    with Frames(running.address, "/echo") as good:
        good.text("x")
        assert good.message() == "x"


def test_a_response_instead_of_a_websocket(start: Start, app: App) -> None:
    running = start(app)
    with (
        pytest.raises(InvalidStatus) as refusal,
        connect(f"ws://127.0.0.1:{running.server.port}/refuse", proxy=None),
    ):
        pass
    assert refusal.value.response.status_code == 418
    with Wire(running.address) as wire:
        wire.send(handshake("/plain"))
        assert wire.answer().body == b"websocket", "what the client offers"
        assert wire.get("/plain").status == 200, "the connection goes on"


@pytest.mark.parametrize("style", HANDLED, indirect=True)
def test_an_exception_before_it_is_accepted_is_500(start: Start, app: App, serve: Serve) -> None:
    running = start(app)
    with Wire(running.address) as wire:
        wire.send(handshake("/crash-before"))
        assert wire.answer().status == 500
    with H2(running.address) as client:
        assert client.answer(Tunnel(client, "/crash-before").stream).status == 500
    for text in serve.logged(2):
        assert "before it was accepted" in text


def test_a_response_that_has_begun_stays_one(start: Start) -> None:
    async def handler(request: HttpRequest) -> None:
        response = request.response
        if request.uri == "/written":
            response.write("begun ")
        elif request.uri == "/sent":
            response.write("begun ")
            await response.flush()
        elif request.uri == "/closed":
            response.write("begun ")
            await response.close()
        for take in (request.accept_websocket, request.detach_socket, response.detach_socket):
            with pytest.raises(ResponseSentError, match="take it over before anything is written"):
                take()
        if not response.closed:
            response.write("ended")

    with Wire(start(handler).address) as wire:
        for path in ("/written", "/sent", "/closed"):
            wire.send(handshake(path))
            expected = b"begun " if path == "/closed" else b"begun ended"
            assert wire.answer().body == expected


def test_after_it_the_response_is_over(start: Start) -> None:
    told: queue.SimpleQueue[object] = queue.SimpleQueue()

    async def handler(request: HttpRequest) -> None:
        response = request.response
        websocket = request.accept_websocket()
        async with websocket:
            # None of them waits for the WebSocket's end.
            await response.close()
            await response.done
            await response.flush()
            told.put(response.closed)
            calls: list[tuple[Callable[..., object], tuple[str, ...]]] = [
                (response.write, ("x",)),
                (response.headers.set, ("x", "y")),
                (response.cookies.add, ("x", "y")),
                (request.accept_websocket, ()),
                (request.detach_socket, ()),
            ]
            for call, arguments in calls:
                with pytest.raises(ResponseSentError):
                    call(*arguments)
            await websocket.send("still here")

    running = start(handler)
    with Frames(running.address) as client:
        assert client.message() == "still here"
        assert client.ended() == (1000, "")
    assert told.get(timeout=PATIENCE) is True
    gone(running)


@pytest.mark.parametrize("style", HANDLED, indirect=True)
def test_an_acceptance_that_cannot_be_is_500(start: Start, serve: Serve) -> None:
    async def handler(request: HttpRequest) -> None:
        request.response.headers["sec-websocket-accept"] = "mine"
        with pytest.raises(ConfigurationError, match="is the server's"):
            request.accept_websocket()
        raise ValueError("on purpose")

    with Wire(start(handler).address) as wire:
        wire.send(handshake())
        assert wire.answer().status == 500
    serve.logged(1)


# --- how it ends -------------------------------------------------------------------------------------


def test_how_the_server_side_ends(start: Start, app: App, serve: Serve, style: str) -> None:
    running = start(app)
    cases = [("/close", (4001, "bye")), ("/crash-within", (1011, ""))]
    if style != "async for":
        # What a handler leaves open is closed when it has returned.
        cases += [("/return", (1000, "")), ("/crash", (1011, ""))]
    for path, code in cases:
        with Frames(running.address, path) as client:
            assert client.ended() == code
        with H2(running.address) as connection:
            tunnel = Tunnel(connection, path)
            tunnel.accepted()
            assert tunnel.ended() == code
    gone(running)
    if style == "async for":
        # Of tasks nobody asks about, asyncio complains itself.
        return
    texts = serve.logged(4)
    assert ["within" in text for text in texts] == [True, True, False, False]


def test_without_a_handler_it_stays_open_until_it_is_closed(serve: Serve) -> None:
    websockets: queue.SimpleQueue[Any] = queue.SimpleQueue()
    told: list[Any] = []

    async def program(server: NativeHttpServer) -> None:
        async for request in server:
            websockets.put(request.accept_websocket())

    running = HttpRunning(program, "asyncio", {})
    serve._running.append(running)
    loop = running._loop
    assert loop is not None

    async def use(websocket: Any) -> None:
        await websocket.send("hello")
        told.append(await websocket.receive())
        await websocket.close(4000, "enough")
        told.append(websocket.close_code)
        with pytest.raises(WebSocketClosed, match="4000"):
            await websocket.receive()

    with Frames(running.address) as client:
        websocket = websockets.get(timeout=PATIENCE)
        using = asyncio.run_coroutine_threadsafe(use(websocket), loop)
        assert client.message() == "hello"
        client.text("and you")
        assert client.ended() == (4000, "enough")
        using.result(PATIENCE)
    assert told == ["and you", None], "the peer had not answered by then"
    eventually(lambda: websocket.close_code == 4000, "it has")
    gone(running)


def test_what_the_client_does_reaches_whoever_has_the_websocket(start: Start, app: App) -> None:
    running = start(app, limits=Limits(ws_message_bytes=1000))
    for sent, code in [
        (encode(CLOSE, closing(4009, "why")), (4009, "why")),
        (encode(CLOSE), (1005, "")),
        (encode(TEXT, b"x", mask=None), (1002, None)),
        (encode(TEXT, b"caf\xe9"), (1007, None)),
        (encode(BINARY, b"x", claims=1001), (1009, None)),
    ]:
        with Frames(running.address, "/listen") as client:
            client.send(encode(TEXT, b"there"), sent)
            assert client.frame().closing[0] == code[0]
        with H2(running.address) as connection:
            tunnel = Tunnel(connection, "/listen")
            tunnel.accepted()
            tunnel.send(encode(TEXT, b"there"), sent)
            assert tunnel.frame().closing[0] == code[0]
        for _ in range(2):
            assert app.next() == "there"
            found, reason = app.next()
            assert found == code[0]
            assert code[1] is None or reason == code[1]
            assert [app.next() for _ in range(3)] == [code[0]] * 3
    gone(running)


@pytest.mark.parametrize("how", ["reset", "end", "an HTTP/2 reset", "an HTTP/2 connection"])
def test_a_connection_that_breaks_is_1006(start: Start, app: App, how: str) -> None:
    running = start(app)
    if "2" in how:
        with H2(running.address) as connection:
            tunnel = Tunnel(connection, "/listen")
            tunnel.accepted()
            tunnel.send(encode(TEXT, b"there"))
            assert app.next() == "there"
            if how == "an HTTP/2 reset":
                connection.state.reset_stream(tunnel.stream, h2.errors.ErrorCodes.CANCEL)
                connection.flush()
                assert app.next()[0] == 1006
                assert connection.request("/plain").status == 200, "the connection goes on"
        if how == "an HTTP/2 connection":
            assert app.next()[0] == 1006
    else:
        with Frames(running.address, "/listen") as client:
            client.text("there")
            assert app.next() == "there"
            if how == "reset":
                client.wire.reset()
        assert app.next()[0] == 1006
    assert [app.next() for _ in range(3)] == [1006] * 3
    gone(running)


def test_the_server_stops_and_says_so(start: Start, app: App) -> None:
    running = start(app)
    with Frames(running.address, "/listen") as client, H2(running.address) as connection:
        tunnel = Tunnel(connection, "/listen")
        tunnel.accepted()
        client.text("there")
        tunnel.send(encode(TEXT, b"there"))
        assert [app.next(), app.next()] == ["there", "there"]
        running.close(grace=PATIENCE)
        assert client.ended()[0] == 1012
        assert tunnel.ended()[0] == 1012
    told = [app.next() for _ in range(8)]
    assert told.count((1012, "the server is stopping")) == 2
    assert told.count(1012) == 6
    running.join()


@pytest.mark.parametrize("style", HANDLED, indirect=True)
@pytest.mark.parametrize("taken", ["messages", "bytes"])
def test_a_handler_that_does_not_listen_is_cancelled_before_the_deadline(
    start: Start, taken: str
) -> None:
    told: queue.SimpleQueue[str] = queue.SimpleQueue()

    async def handler(request: HttpRequest) -> None:
        if taken == "messages":
            request.accept_websocket()
        else:
            request.detach_socket()
        told.put("begun")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            told.put("cancelled")
            raise

    running = start(handler)
    with Wire(running.address) as wire:
        wire.send(handshake())
        assert told.get(timeout=PATIENCE) == "begun"
        running.close(grace=0.4)
        assert told.get(timeout=PATIENCE) == "cancelled"
    running.join()


@pytest.mark.parametrize("style", HANDLED, indirect=True)
def test_a_handler_may_have_more_to_do_than_its_client_waits_for(start: Start) -> None:
    told: queue.SimpleQueue[str] = queue.SimpleQueue()
    go_on = asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def handler(request: HttpRequest) -> None:
        loops.append(asyncio.get_running_loop())
        websocket = request.accept_websocket()
        with contextlib.suppress(WebSocketClosed):
            await websocket.receive()
        told.put("closed")
        await go_on.wait()
        told.put("done")

    running = start(handler)
    with Frames(running.address) as client:
        client.send(encode(CLOSE, closing(1000)))
        assert told.get(timeout=PATIENCE) == "closed"
    loops[0].call_soon_threadsafe(go_on.set)
    assert told.get(timeout=PATIENCE) == "done"
    gone(running)


# --- bytes -------------------------------------------------------------------------------------------


async def echo(request: HttpRequest) -> None:
    async with request.response.detach_socket() as socket:
        while data := await socket.receive():
            await socket.send(data)


def test_bytes_both_ways(start: Start) -> None:
    async def handler(request: HttpRequest) -> None:
        request.response.headers["x-one"] = "1"
        request.response.content_length = 5
        await echo(request)

    running = start(handler)
    with Wire(running.address) as wire:
        wire.send(offer(protocol="Raw/1, other/2") + b"early")
        fields = switched(wire)
        assert (fields["upgrade"], fields["x-one"]) == ("Raw/1", "1")
        assert "content-type" not in fields
        assert wire.read_exactly(5) == b"early"
        for data in (b"a", bytes(MIB), b"GET / HTTP/1.1\r\n\r\n"):
            wire.send(data)
            assert wire.read_exactly(len(data)) == data
        wire.half_close()
        assert wire.rest() == b""
    with H2(running.address) as client:
        tunnel = Tunnel(client, "/", protocol="connect-tcp")
        assert tunnel.accepted()["x-one"] == "1"
        tunnel.send(bytes(300_000), end=True)
        assert client.answer(tunnel.stream).body == bytes(300_000)
    gone(running)


@pytest.mark.parametrize("size", [10, 300_000])
def test_an_unread_body_comes_before_the_other_protocol(start: Start, size: int) -> None:
    body = b"0123456789" * (size // 10)
    with Wire(start(echo).address) as wire:
        wire.send(offer("/", f"content-length: {size}", method="POST") + body + b"raw")
        switched(wire)
        assert wire.read_exactly(size + 3) == body + b"raw"
        wire.half_close()
        assert wire.rest() == b""


@pytest.mark.parametrize("offered", [True, False])
def test_a_handshake_by_hand(start: Start, offered: bool) -> None:
    preface = b"HTTP/1.1 200 OK\r\nx-mine: yes\r\n\r\n"

    async def handler(request: HttpRequest) -> None:
        request.response.headers["x-not-mine"] = "1"
        async with request.detach_socket(write_headers=False) as socket:
            await socket.send(preface)
            await socket.send((await socket.receive()).upper())

    running = start(handler)
    with Wire(running.address) as wire:
        wire.send((offer() if offered else b"GET / HTTP/1.1\r\nhost: a\r\n\r\n") + b"hello")
        assert wire.read_exactly(len(preface) + 5) == preface + b"HELLO"
        assert wire.rest() == b""
    gone(running)


def test_without_an_offer_there_is_nothing_to_switch_to(start: Start) -> None:
    with Wire(start(echo).address) as wire:
        answer = wire.get()
        assert answer.status == 426
        assert b"offers no other protocol" in answer.body


def test_each_direction_has_an_end_of_its_own(serve: Serve) -> None:
    """Without a handler it is over when both have ended, and what came before can still be read."""
    sockets: queue.SimpleQueue[Any] = queue.SimpleQueue()

    async def program(server: NativeHttpServer) -> None:
        async for request in server:
            sockets.put(request.detach_socket())

    running = HttpRunning(program, "asyncio", {})
    serve._running.append(running)
    loop = running._loop
    assert loop is not None
    with Wire(running.address) as wire:
        wire.send(offer())
        switched(wire)
        socket = sockets.get(timeout=PATIENCE)
        for call in (socket.send(b"last"), socket.close_write()):
            asyncio.run_coroutine_threadsafe(call, loop).result(PATIENCE)
        assert wire.rest() == b"last"
        wire.send(b"more")
        wire.half_close()
        gone(running)
        for expected in (b"more", b"", b""):
            reading = asyncio.run_coroutine_threadsafe(socket.receive(), loop)
            assert reading.result(PATIENCE) == expected


def test_a_connection_that_is_reset(start: Start) -> None:
    told: queue.SimpleQueue[str] = queue.SimpleQueue()

    async def handler(request: HttpRequest) -> None:
        socket = request.detach_socket()
        try:
            while data := await socket.receive():
                told.put(data.decode())
        except ClientDisconnected as error:
            told.put(str(error))

    running = start(handler)
    with Wire(running.address) as wire:
        wire.send(offer() + b"here")
        switched(wire)
        assert told.get(timeout=PATIENCE) == "here"
        wire.reset()
    assert told.get(timeout=PATIENCE) == "the client is gone"
    gone(running)


@pytest.mark.parametrize("style", HANDLED, indirect=True)
def test_how_a_handler_ends_is_how_the_bytes_end(start: Start, serve: Serve) -> None:
    async def handler(request: HttpRequest) -> None:
        socket = request.detach_socket()
        assert await socket.receive() == b"go"
        await socket.send(b"last")
        if request.uri == "/crash":
            raise ValueError("on purpose")

    running = start(handler)
    with Wire(running.address) as wire:
        wire.send(offer("/"))
        switched(wire)
        wire.send(b"go")
        assert wire.rest() == b"last"
    with Wire(running.address) as wire:
        wire.send(offer("/crash"))
        switched(wire)
        wire.send(b"go")
        assert wire.ended_abruptly()
    (text,) = serve.logged(1)
    assert "on purpose" in text
    gone(running)
