"""WebSockets over HTTP/2 (RFC 8441), with TLS and without: streams of one connection, each with an end of its own."""

from __future__ import annotations

import threading
from typing import Any

import h2.errors
import h2.settings
import pytest
from websockets.sync.client import connect as connect_sync

from server_native import ClientDisconnected, Limits, NativeDirectRequest
from tests.integration.certificates import Authority, Identity
from tests.integration.clients import H2, eventually
from tests.integration.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Frame,
    closing,
    encode,
    parse,
)
from tests.integration.servers import MODES, PATIENCE, Mode, Running, Serve
from tests.integration.test_backpressure import GROWTH, resident, settles
from tests.integration.websocket_app import PIECE, App

BOUND = 20 * 1024 * 1024
MIB = 1024 * 1024
TWO = [mode for mode in MODES if mode.name in ("task-driven", "pool")]

two = pytest.mark.parametrize("mode", TWO, ids=str)


@pytest.fixture
def app() -> App:
    return App()


def run(
    serve: Serve, app: App, mode: Mode, secure: dict[str, Any] | None = None, **limits: int
) -> Running:
    handler = app.handler(mode.asynchronous)
    return serve.as_it_is(handler, mode, limits=Limits(**limits), **(secure or {}))


class Tunnel:
    """One WebSocket on one stream of a connection."""

    def __init__(
        self, client: H2, path: str, *fields: tuple[str, str], protocol: str = "websocket"
    ) -> None:
        self.client = client
        self._seen = 0
        # The library refuses an extended CONNECT before the server has said that it takes one.
        client.wait(lambda: bool(client.state.remote_settings.enable_connect_protocol))
        self.stream = client.state.get_next_available_stream_id()
        head = [
            (":method", "CONNECT"),
            (":protocol", protocol),
            (":scheme", "http"),
            (":authority", "test"),
            (":path", path),
            ("sec-websocket-version", "13"),
            *fields,
        ]
        client.state.send_headers(self.stream, head)
        client.flush()

    def accepted(self) -> dict[str, str]:
        """The fields of the answer, which must be 200."""
        self.client.wait(lambda: bool(self.client.known(self.stream).headers))
        answer = self.client.known(self.stream)
        assert answer.status == 200
        return dict(answer.headers)

    def send(self, *frames: bytes, end: bool = False) -> None:
        self.client.send(self.stream, b"".join(frames), end=end)

    def frame(self) -> Frame:
        """The next frame."""
        while True:
            known = self.client.known(self.stream)
            found = parse(known.body[self._seen :])
            if found is not None:
                self._seen += found[1]
                return found[0]
            assert not known.ended, "the stream ended"
            assert known.reset is None, known.reset
            assert self.client.take(), "the connection ended"

    def message(self) -> bytes:
        """The payload of the next message."""
        first = last = self.frame()
        assert first.opcode in (TEXT, BINARY), first
        data = [first.payload]
        while not last.fin:
            last = self.frame()
            assert last.opcode == CONTINUATION
            data.append(last.payload)
        return b"".join(data)

    def ended(self) -> tuple[int, str]:
        """Code and reason of the server's close, then the end of the stream."""
        code = self.frame().closing
        self.send(encode(CLOSE, closing(code[0])), end=True)
        answer = self.client.answer(self.stream)
        assert answer.ended
        assert len(answer.body) == self._seen, "nothing comes after a close"
        return code


# --- messages ----------------------------------------------------------------------------------------


def test_messages_and_the_closing_handshake(serve: Serve, app: App, mode: Mode) -> None:
    with H2(run(serve, app, mode).address) as client:
        tunnel = Tunnel(client, "/echo")
        fields = tunnel.accepted()
        for absent in ("content-length", "sec-websocket-accept", "upgrade", "connection"):
            assert absent not in fields
        for message in (b"hello", b"", "世界".encode(), bytes(300_000), bytes(3 * MIB)):
            tunnel.send(encode(BINARY, message))
            assert tunnel.message() == message
        tunnel.send(encode(PING, b"p"))
        assert tunnel.frame() == (PONG, b"p", True)
        tunnel.send(encode(CLOSE, closing(4009, "why not")), end=True)
        assert tunnel.frame().closing == (4009, "why not")
        assert client.answer(tunnel.stream).ended


def test_the_server_says_that_it_takes_them(serve: Serve, app: App) -> None:
    with H2(run(serve, app, TWO[0]).address) as client:
        client.wait(lambda: bool(client.state.remote_settings.enable_connect_protocol))
        code = h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL
        assert client.state.remote_settings[code] == 1


@two
def test_subprotocols_and_headers(serve: Serve, app: App, mode: Mode) -> None:
    with H2(run(serve, app, mode).address) as client:
        tunnel = Tunnel(client, "/agree", ("sec-websocket-protocol", "mqtt, chat"))
        fields = tunnel.accepted()
        assert (fields["sec-websocket-protocol"], fields["x-one"]) == ("chat", "1")
        assert tunnel.message() == b"chat"
        assert tunnel.ended() == (1000, "")


@two
def test_many_on_one_connection(serve: Serve, app: App, mode: Mode) -> None:
    """More than there are threads for requests, where each needs one."""
    running = run(serve, app, mode)
    with H2(running.address) as client:
        tunnels = [Tunnel(client, "/echo") for _ in range(50)]
        for number, tunnel in enumerate(tunnels):
            tunnel.accepted()
            tunnel.send(encode(TEXT, b"%d" % number))
        for number, tunnel in enumerate(tunnels):
            assert tunnel.message() == b"%d" % number
        stats = running.stats()
        assert (stats["connections"], stats["busy"], stats["streams"]) == (1, 1, 50)
        assert client.request("/refuse").status == 418, "requests go on beside them"
        for tunnel in tunnels[::2]:
            tunnel.send(encode(CLOSE, closing(1000)), end=True)
            assert tunnel.frame().closing == (1000, "")
        for tunnel in tunnels[1::2]:
            tunnel.send(encode(TEXT, b"still here"))
            assert tunnel.message() == b"still here"
    eventually(lambda: running.stats()["streams"] == 0, "the streams are gone")
    eventually(lambda: running.stats()["connections"] == 0, "the connection is gone")


# --- the handshake -----------------------------------------------------------------------------------


@two
def test_what_is_refused(serve: Serve, app: App, mode: Mode) -> None:
    with H2(run(serve, app, mode).address) as client:
        tunnel = Tunnel(client, "/refuse")
        assert client.answer(tunnel.stream)[1] == b"not today"
        other = Tunnel(client, "/echo", protocol="connect-udp")
        assert client.answer(other.stream).status == 426
        # Two versions are as bad as an old one.
        bad = Tunnel(client, "/echo", ("sec-websocket-version", "8"))
        answer = client.answer(bad.stream)
        assert (answer.status, answer.header("sec-websocket-version")) == (426, "13")
        for path in ("/crash-before", "/return-before"):
            assert client.answer(Tunnel(client, path).stream).status == 500
        assert client.request("/echo").status == 426, "a GET is no handshake here"
    texts = serve.logged(2)
    assert "before it was accepted" in texts[0]
    assert "found NoneType" in texts[1]


# --- how it ends -------------------------------------------------------------------------------------


@two
def test_how_a_handler_ends_is_what_the_client_sees(serve: Serve, app: App, mode: Mode) -> None:
    with H2(run(serve, app, mode).address) as client:
        for path, code in [("/return", 1000), ("/crash", 1011), ("/close", 4001)]:
            tunnel = Tunnel(client, path)
            tunnel.accepted()
            assert tunnel.ended()[0] == code
    (text,) = serve.logged(1)
    assert "after it was accepted" in text


@two
def test_a_close_of_the_client_reaches_the_handler(serve: Serve, app: App, mode: Mode) -> None:
    with H2(run(serve, app, mode).address) as client:
        for payload, code in [(closing(4009, "härter"), (4009, "härter")), (b"", (1005, ""))]:
            tunnel = Tunnel(client, "/listen")
            tunnel.accepted()
            tunnel.send(encode(TEXT, b"last words"), encode(CLOSE, payload))
            assert tunnel.frame() == (CLOSE, payload, True)
            assert app.next() == "last words"
            assert [app.next() for _ in range(5)] == [code] * 2 + [code[0]] * 3


@pytest.mark.parametrize("how", ["the connection", "the stream", "a reset"])
@two
def test_what_breaks_off_is_1006(serve: Serve, app: App, mode: Mode, how: str) -> None:
    running = run(serve, app, mode)
    with H2(running.address) as client:
        tunnel = Tunnel(client, "/listen")
        tunnel.accepted()
        tunnel.send(encode(TEXT, b"there"))
        assert app.next() == "there"
        if how == "the stream":
            tunnel.send(end=True)
        if how == "a reset":
            client.state.reset_stream(tunnel.stream, h2.errors.ErrorCodes.CANCEL)
            client.flush()
        if how != "the connection":
            assert app.next()[0] == 1006
            assert client.request("/refuse").status == 418, "the connection goes on"
    if how == "the connection":
        assert app.next()[0] == 1006
    eventually(lambda: running.stats()["streams"] == 0, "the stream is gone")


@two
def test_what_breaks_the_protocol_ends_one_stream(serve: Serve, app: App, mode: Mode) -> None:
    with H2(run(serve, app, mode, ws_message_bytes=1000).address) as client:
        for frame, code in [
            (encode(TEXT, b"x", mask=None), 1002),
            (encode(TEXT, b"\xff"), 1007),
            (encode(BINARY, bytes(1001)), 1009),
        ]:
            tunnel = Tunnel(client, "/listen")
            tunnel.accepted()
            tunnel.send(frame)
            assert tunnel.ended()[0] == code
            assert [app.next() for _ in range(5)][2:] == [code] * 3


@two
def test_the_server_stops_and_says_so(serve: Serve, app: App, mode: Mode) -> None:
    running = run(serve, app, mode)
    with H2(running.address) as client:
        tunnels = [Tunnel(client, "/listen") for _ in range(3)]
        for tunnel in tunnels:
            tunnel.accepted()
            tunnel.send(encode(TEXT, b"there"))
            assert app.next() == "there"
        running.close(grace=PATIENCE)
        for tunnel in tunnels:
            assert tunnel.ended()[0] == 1012
        client.drain()
        assert client.goaways
    told = [app.next() for _ in range(15)]
    assert told.count((1012, "the server is stopping")) == 6
    running.join()


@two
def test_a_silent_peer_is_dropped(serve: Serve, app: App, mode: Mode) -> None:
    running = run(serve, app, mode, ws_ping_ms=100)
    with H2(running.address) as client:
        tunnel = Tunnel(client, "/listen")
        tunnel.accepted()
        assert tunnel.frame() == (PING, b"", True)
        assert app.next() == (1006, "the peer was too slow")
        answer = client.answer(tunnel.stream)
        assert (answer.ended, answer.reset) == (False, h2.errors.ErrorCodes.CANCEL)
        assert client.request("/refuse").status == 418, "its connection goes on"


# --- back-pressure -----------------------------------------------------------------------------------


@two
def test_a_client_that_opens_no_window_stops_send(serve: Serve, app: App, mode: Mode) -> None:
    running = run(serve, app, mode)
    before = resident()
    with H2(running.address, acknowledge=False) as client:
        tunnel = Tunnel(client, "/flood")
        tunnel.accepted()
        eventually(lambda: app.sent > 0, "the handler sends")
        assert settles(lambda: app.sent, "the handler") < BOUND
        assert resident() - before < GROWTH
        assert tunnel.message() == PIECE
    assert app.next()[0] == 1006
    eventually(lambda: running.stats()["streams"] == 0, "the stream is gone")


@two
def test_a_handler_that_never_receives_shuts_the_window(serve: Serve, app: App, mode: Mode) -> None:
    running = run(serve, app, mode)
    with H2(running.address) as client:
        tunnel = Tunnel(client, "/wait")
        tunnel.accepted()
        assert app.next() == "waiting"
        frame = encode(BINARY, bytes(16_000))
        sent = 0
        while sent < 64 * MIB:
            if client.state.local_flow_control_window(tunnel.stream) < len(frame):
                break
            client.state.send_data(tunnel.stream, frame)
            client.flush()
            sent += 1
            if client.has_input:
                client.take()
        assert sent * len(frame) < 4 * MIB
        app.go.set()
        assert [app.next() for _ in range(sent)] == [16_000] * sent


# --- bytes -------------------------------------------------------------------------------------------


@two
def test_bytes_over_an_extended_connect(serve: Serve, mode: Mode) -> None:
    told: list[str] = []
    over = threading.Event()

    async def coroutine(request: NativeDirectRequest) -> None:
        told.append(request.upgrade or "")
        socket = request.detach_socket(headers={"x-one": "1"})
        while data := await socket.receive():
            await socket.send(data)
        over.set()

    def plain(request: NativeDirectRequest) -> None:
        told.append(request.upgrade or "")
        socket = request.detach_socket(headers={"x-one": "1"})
        while data := socket.receive():
            socket.send(data)
        over.set()

    running = serve.as_it_is(coroutine if mode.asynchronous else plain, mode)
    with H2(running.address) as client:
        tunnel = Tunnel(client, "/", protocol="connect-tcp")
        assert tunnel.accepted()["x-one"] == "1"
        body = bytes(range(256)) * 4000
        tunnel.send(body, end=True)
        assert client.answer(tunnel.stream).body == body
        assert over.wait(PATIENCE)
    assert told == ["connect-tcp"]
    eventually(lambda: running.stats()["streams"] == 0, "the stream is gone")


@two
@pytest.mark.parametrize("how", ["returns", "fails"])
def test_the_end_of_bytes_says_whether_it_was_orderly(serve: Serve, mode: Mode, how: str) -> None:
    """RFC 8441 section 5: END_STREAM, or RST_STREAM with CANCEL."""

    def fail() -> None:
        if how == "fails":
            raise RuntimeError("in the middle")

    async def coroutine(request: NativeDirectRequest) -> None:
        socket = request.detach_socket()
        await socket.send(await socket.receive())
        await socket.receive()
        fail()

    def plain(request: NativeDirectRequest) -> None:
        socket = request.detach_socket()
        socket.send(socket.receive())
        socket.receive()
        fail()

    running = serve.as_it_is(coroutine if mode.asynchronous else plain, mode)
    with H2(running.address) as client:
        tunnel = Tunnel(client, "/", protocol="connect-tcp")
        tunnel.accepted()
        tunnel.send(b"some")
        client.wait(lambda: client.known(tunnel.stream).body == b"some")
        tunnel.send(b"go on")
        answer = client.answer(tunnel.stream)
        if how == "returns":
            assert (answer.body, answer.ended) == (b"some", True)
        else:
            assert (answer.ended, answer.reset) == (False, h2.errors.ErrorCodes.CANCEL)
        assert client.goaways == []
    eventually(lambda: running.stats()["streams"] == 0, "the stream is gone")
    if how == "fails":
        (text,) = serve.logged(1)
        assert "in the middle" in text


@two
@pytest.mark.parametrize("reading", [True, False], ids=["read", "unread"])
def test_bytes_of_a_stream_that_the_client_resets(serve: Serve, mode: Mode, reading: bool) -> None:
    """Noticed whether or not the handler reads; what came before is no whole."""
    told: list[str] = []
    over = threading.Event()

    async def coroutine(request: NativeDirectRequest) -> None:
        socket = request.detach_socket()
        try:
            while not reading or await socket.receive():
                await socket.send(b"x")
        except ClientDisconnected as error:
            told.append(str(error))
        over.set()

    def plain(request: NativeDirectRequest) -> None:
        socket = request.detach_socket()
        try:
            while not reading or socket.receive():
                socket.send(b"x")
        except ClientDisconnected as error:
            told.append(str(error))
        over.set()

    running = serve.as_it_is(coroutine if mode.asynchronous else plain, mode)
    with H2(running.address) as client:
        tunnel = Tunnel(client, "/", protocol="connect-tcp")
        tunnel.accepted()
        tunnel.send(b"some")
        client.wait(lambda: bool(client.known(tunnel.stream).body))
        client.state.reset_stream(tunnel.stream, h2.errors.ErrorCodes.CANCEL)
        client.flush()
        assert over.wait(PATIENCE)
    assert told == ["the client is gone"]


@two
def test_bytes_of_a_connection_that_breaks(serve: Serve, mode: Mode) -> None:
    told: list[str] = []
    over = threading.Event()

    async def coroutine(request: NativeDirectRequest) -> None:
        socket = request.detach_socket()
        try:
            while await socket.receive():
                pass
        except ClientDisconnected as error:
            told.append(str(error))
        over.set()

    def plain(request: NativeDirectRequest) -> None:
        socket = request.detach_socket()
        try:
            while socket.receive():
                pass
        except ClientDisconnected as error:
            told.append(str(error))
        over.set()

    running = serve.as_it_is(coroutine if mode.asynchronous else plain, mode)
    with H2(running.address) as client:
        Tunnel(client, "/", protocol="connect-tcp").accepted()
    assert over.wait(PATIENCE)
    assert told == ["the client is gone"]


# --- with TLS ----------------------------------------------------------------------------------------


def test_with_tls(
    serve: Serve, app: App, mode: Mode, authority: Authority, identity: Identity
) -> None:
    running = run(serve, app, mode, identity.options)
    url = f"wss://127.0.0.1:{running.server.port}/echo"
    messages: list[str | bytes] = ["hello", "", b"\x00" * 100_000, bytes(5 * MIB), "ä" * MIB]
    with connect_sync(
        url, ssl=authority.context(), proxy=None, max_size=None, ping_interval=None
    ) as client:
        for message in messages:
            client.send(message)
            assert client.recv(PATIENCE) == message
        assert client.ping().wait(PATIENCE)
        client.close(4009, "bye")
        assert (client.close_code, client.close_reason) == (4009, "bye")


def test_over_http2_with_tls(
    serve: Serve, app: App, mode: Mode, authority: Authority, identity: Identity
) -> None:
    running = run(serve, app, mode, identity.options)
    with H2(running.address, tls=authority.context("h2")) as client:
        tunnel = Tunnel(client, "/echo")
        tunnel.accepted()
        for size in (0, 5, 100_000, 2 * MIB):
            tunnel.send(encode(BINARY, bytes(size)))
            assert tunnel.message() == bytes(size)
        tunnel.send(encode(CLOSE, closing(4009, "bye")), end=True)
        assert tunnel.frame().closing == (4009, "bye")
        assert client.answer(tunnel.stream).ended


@two
def test_with_tls_the_server_stops_and_says_so(
    serve: Serve, app: App, mode: Mode, authority: Authority, identity: Identity
) -> None:
    running = run(serve, app, mode, identity.options)
    url = f"wss://127.0.0.1:{running.server.port}/listen"
    with connect_sync(url, ssl=authority.context(), proxy=None, ping_interval=None) as client:
        client.send("there")
        assert app.next() == "there"
        running.close(grace=PATIENCE)
        client.recv_bufsize  # noqa: B018 - exists; what counts is the close below
        with pytest.raises(Exception, match="1012"):
            client.recv(PATIENCE)
    assert app.next()[0] == 1012
    running.join()
