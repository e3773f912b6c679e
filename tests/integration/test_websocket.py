"""WebSockets over HTTP/1.1: messages both ways, the closing handshake, refusals, in every way a server runs."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Opcode
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as connect_sync
from websockets.typing import Subprotocol

from server_native import (
    HandshakeError,
    Limits,
    NativeDirectRequest,
    NativeDirectResponse,
    WebSocketClosed,
)
from tests.integration.clients import Wire, eventually
from tests.integration.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Frames,
    closing,
    encode,
    handshake,
)
from tests.integration.servers import MODES, PATIENCE, Mode, Running, Serve
from tests.integration.test_backpressure import GROWTH, resident, settles
from tests.integration.websocket_app import PIECE, App

#: What may lie between two ends that do not take: both sockets' buffers (Linux gives up to 6 MiB each) and our windows.
BOUND = 20 * 1024 * 1024
MIB = 1024 * 1024
WINDOW = Limits().ws_write_bytes
#: One way with coroutines and one with threads, for what no loop changes.
TWO = [mode for mode in MODES if mode.name in ("task-driven", "pool")]

two = pytest.mark.parametrize("mode", TWO, ids=str)


@pytest.fixture
def app() -> App:
    return App()


def run(serve: Serve, app: App, mode: Mode, **limits: int) -> Running:
    return serve.as_it_is(app.handler(mode.asynchronous), mode, limits=Limits(**limits))


@contextlib.contextmanager
def foreign(running: Running, path: str, **options: Any) -> Iterator[ClientConnection]:
    """A client of the library people use; it pings when it is told to, and checks what it gets."""
    settings: dict[str, Any] = {"ping_interval": None, "max_size": None, **options}
    url = f"ws://127.0.0.1:{running.server.port}{path}"
    with connect_sync(url, proxy=None, **settings) as client:
        yield client


MESSAGES: list[str | bytes] = [
    "hello",
    b"bytes",
    "",
    b"",
    "Grüße, 世界 🌍 \x00 \u2028",
    bytes(range(256)),
    "é" * 63 + "x" * 65_500,
    b"\x00" * 65_536,
]


# --- messages ----------------------------------------------------------------------------------------


def test_every_kind_of_message_comes_back_as_it_was(serve: Serve, app: App, mode: Mode) -> None:
    with foreign(run(serve, app, mode), "/echo") as client:
        for message in MESSAGES:
            client.send(message)
            assert client.recv(PATIENCE) == message
        for message in MESSAGES:
            client.send(message)
        assert [client.recv(PATIENCE) for _ in MESSAGES] == MESSAGES


def test_large_messages_both_ways(serve: Serve, app: App, mode: Mode) -> None:
    large: list[str | bytes] = [bytes(5 * MIB), "ä" * (5 * MIB // 2), b"after"]
    with foreign(run(serve, app, mode), "/echo") as client:
        for message in large:
            client.send(message)
            assert client.recv(PATIENCE) == message


@pytest.mark.parametrize(
    "size",
    [WINDOW // 2 - 65, WINDOW // 2 - 64, WINDOW // 2 - 63, WINDOW * 3 // 4, WINDOW - 64, WINDOW],
)
@two
def test_a_message_of_about_the_window_follows_small_ones(
    serve: Serve, app: App, mode: Mode, size: int
) -> None:
    """The window comes back by halves; a message that needs more of it than that must not wait for the rest."""
    with foreign(run(serve, app, mode), "/echo") as client:
        for message in (bytes(WINDOW * 3 // 8), bytes(size), bytes(size)):
            client.send(message)
            assert client.recv(PATIENCE) == message


@two
def test_the_smallest_window_takes_any_message(serve: Serve, app: App, mode: Mode) -> None:
    limits = {"ws_write_bytes": 16_384, "receive_window": 16_384, "send_window": 16_384}
    with foreign(run(serve, app, mode, **limits), "/echo") as client:
        for size in (8191, 8192, 16_320, 16_384, 100_000, 1 * MIB, 0):
            client.send(bytes(size))
            assert client.recv(PATIENCE) == bytes(size)


def test_an_asynchronous_client_and_several_at_once(serve: Serve, app: App, mode: Mode) -> None:
    url = f"ws://127.0.0.1:{run(serve, app, mode).server.port}/echo"

    async def one(number: int) -> None:
        async with connect_async(url, proxy=None) as client:
            for message in (f"{number}", bytes(number * 1000), "ü" * number):
                await client.send(message)
                assert await client.recv() == message

    async def all_of_them() -> None:
        await asyncio.gather(*(one(number) for number in range(20)))

    asyncio.run(all_of_them())


@two
def test_fragments_are_one_message_wherever_they_are_cut(
    serve: Serve, app: App, mode: Mode
) -> None:
    text = "a 世界 message".encode()
    with Frames(run(serve, app, mode).address, "/echo") as client:
        for cut in range(len(text) + 1):
            client.send(
                encode(TEXT, text[:cut], fin=False),
                encode(CONTINUATION, b"", fin=False),
                encode(CONTINUATION, text[cut:]),
            )
            assert client.message() == text.decode()
        client.send(encode(BINARY, b"", fin=False), encode(CONTINUATION, b""))
        assert client.message() == b""
        for byte in text:
            client.send(encode(TEXT if byte == text[0] else CONTINUATION, bytes([byte]), fin=False))
            break
        client.send(encode(CONTINUATION, text[1:]))
        assert client.message() == text.decode()


@two
def test_frames_that_come_byte_by_byte(serve: Serve, app: App, mode: Mode) -> None:
    with Frames(run(serve, app, mode).address, "/echo") as client:
        sent = encode(TEXT, b"slowly") + encode(PING, b"p") + encode(BINARY, bytes(200))
        for at in range(len(sent)):
            client.send(sent[at : at + 1])
        frames = [client.frame() for _ in range(3)]
    # The pong needs no handler and may overtake the echo.
    assert {(frame.opcode, frame.payload) for frame in frames} == {
        (TEXT, b"slowly"),
        (PONG, b"p"),
        (BINARY, bytes(200)),
    }


@two
def test_control_frames_between_fragments(serve: Serve, app: App, mode: Mode) -> None:
    with Frames(run(serve, app, mode).address, "/echo") as client:
        client.send(
            encode(TEXT, b"one ", fin=False),
            encode(PING, b"now"),
            encode(PONG, b"unasked"),
            encode(CONTINUATION, b"two"),
        )
        assert client.frame() == (PONG, b"now", True)
        assert client.message() == "one two"


def test_frames_behind_the_handshake_are_not_lost(serve: Serve, app: App, mode: Mode) -> None:
    early = encode(TEXT, b"first") + encode(TEXT, b"second")
    with Frames(run(serve, app, mode).address, "/echo", early=early) as client:
        assert [client.message(), client.message()] == ["first", "second"]


@two
def test_tasks_that_send_at_once_keep_their_messages_whole(serve: Serve, mode: Mode) -> None:
    sizes = [10, 300_000, 2_500_000, 70_000, 0]

    async def sends(request: NativeDirectRequest) -> None:
        websocket = request.accept_websocket()

        async def sender(number: int) -> None:
            for size in sizes:
                await websocket.send(bytes([number]) * size)

        await asyncio.gather(*(sender(number) for number in range(1, 5)))

    def sends_from_threads(request: NativeDirectRequest) -> None:
        websocket = request.accept_websocket()

        def sender(number: int) -> None:
            for size in sizes:
                websocket.send(bytes([number]) * size)

        threads = [threading.Thread(target=sender, args=(number,)) for number in range(1, 5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    handler: Any = sends if mode.asynchronous else sends_from_threads
    with foreign(serve.as_it_is(handler, mode), "/") as client:
        by_sender: dict[int, list[int]] = {}
        empty = 0
        for _ in range(4 * len(sizes)):
            message = client.recv(PATIENCE)
            assert isinstance(message, bytes)
            if message:
                assert message == message[:1] * len(message), "two messages were mixed"
                by_sender.setdefault(message[0], []).append(len(message))
            else:
                empty += 1
    assert (by_sender, empty) == (dict.fromkeys(range(1, 5), sizes[:-1]), 4)


@two
def test_what_is_neither_text_nor_bytes_is_a_type_error(serve: Serve, mode: Mode) -> None:
    async def handler(request: NativeDirectRequest) -> None:
        websocket = request.accept_websocket()
        try:
            await websocket.send({"no": "message"})
        except TypeError as error:
            await websocket.send(str(error))

    def plain(request: NativeDirectRequest) -> None:
        websocket = request.accept_websocket()
        try:
            websocket.send(None)
        except TypeError as error:
            websocket.send(str(error))

    server = serve.as_it_is(handler if mode.asynchronous else plain, mode)
    with foreign(server, "/") as client:
        assert str(client.recv(PATIENCE)).startswith("a message must be str or bytes, found ")


# --- the handshake -----------------------------------------------------------------------------------


@two
def test_subprotocols_and_headers(serve: Serve, app: App, mode: Mode) -> None:
    running = run(serve, app, mode)
    for offered, agreed in [
        (["mqtt", "chat", "superchat"], "superchat"),
        (["chat"], "chat"),
        (["mqtt"], None),
    ]:
        names = [Subprotocol(name) for name in offered]
        with foreign(running, "/agree", subprotocols=names) as client:
            assert client.subprotocol == agreed
            assert client.recv(PATIENCE) == (agreed or "none")
            assert client.response is not None
            assert client.response.headers["x-one"] == "1"
            assert client.response.headers.get_all("set-cookie") == ["a", "b"]
            assert client.response.headers.get("sec-websocket-protocol") == agreed


@two
def test_an_offer_of_compression_is_declined(serve: Serve, app: App, mode: Mode) -> None:
    with foreign(run(serve, app, mode), "/echo", compression="deflate") as client:
        assert client.response is not None
        assert "sec-websocket-extensions" not in client.response.headers
        assert client.protocol.extensions == []
        client.send("x" * 1000)
        assert client.recv(PATIENCE) == "x" * 1000


REFUSED: list[tuple[str, bytes, int, dict[str, str]]] = [
    (
        "a plain request",
        b"GET /echo HTTP/1.1\r\nhost: a\r\n\r\n",
        426,
        {"upgrade": "websocket", "connection": "upgrade"},
    ),
    (
        "an upgrade to something else",
        b"GET /echo HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n",
        426,
        {"upgrade": "websocket", "connection": "upgrade"},
    ),
    (
        "a version of the past",
        handshake("/echo", version="8"),
        426,
        {"sec-websocket-version": "13", "upgrade": "websocket", "connection": "upgrade"},
    ),
    ("two versions", handshake("/echo", "sec-websocket-version: 8"), 426, {}),
    ("a short key", handshake("/echo", key="c2hvcnQ="), 400, {}),
    ("a key that is none", handshake("/echo", key="!!!!"), 400, {}),
    ("two keys", handshake("/echo", "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ=="), 400, {}),
    (
        "a POST",
        handshake("/echo", "content-length: 0").replace(b"GET", b"POST", 1),
        400,
        {},
    ),
    ("a body", handshake("/echo", "content-length: 4") + b"body", 400, {}),
    (
        "a body that is still to come",
        handshake("/echo", "transfer-encoding: chunked") + b"4\r\nbody\r\n",
        400,
        {},
    ),
]


@pytest.mark.parametrize(
    ("request_bytes", "status", "fields"),
    [case[1:] for case in REFUSED],
    ids=[case[0] for case in REFUSED],
)
@two
def test_what_is_no_handshake(
    serve: Serve,
    app: App,
    mode: Mode,
    request_bytes: bytes,
    status: int,
    fields: dict[str, str],
) -> None:
    mode = mode if mode.asynchronous else Mode("pool", options={"threads": 2})
    with Wire(run(serve, app, mode).address) as wire:
        wire.send(request_bytes)
        answer = wire.answer()
        assert answer.status == status, answer.body
        for name, value in fields.items():
            assert value in [found for known, found in answer.headers if known == name]
        assert answer.body.endswith(b"\n")


def test_the_first_protocol_of_a_list_counts_and_websocket_may_be_any(
    serve: Serve, app: App
) -> None:
    request = handshake("/echo").replace(b"upgrade: WebSocket", b"upgrade: h2c, WebSocket")
    with Wire(run(serve, app, TWO[0]).address) as wire:
        wire.send(request)
        _, status, _, headers = wire.head()
        assert (status, dict(headers)["upgrade"]) == (101, "websocket")


@two
def test_a_handshake_error_may_be_caught(serve: Serve, app: App, mode: Mode) -> None:
    with Wire(run(serve, app, mode).address) as wire:
        body = wire.get("/caught").body.decode()
    assert body.startswith("HandshakeError: this is a WebSocket")


@two
def test_a_response_instead_of_a_websocket(serve: Serve, app: App, mode: Mode) -> None:
    running = run(serve, app, mode)
    with pytest.raises(InvalidStatus) as refusal, foreign(running, "/refuse"):
        pass
    assert refusal.value.response.status_code == 418
    assert refusal.value.response.body == b"not today"
    with Wire(running.address) as wire:
        for _ in range(2):
            wire.send(handshake("/refuse"))
            assert wire.answer().status == 418, "the connection goes on"


@two
def test_an_exception_before_it_is_accepted_is_500(serve: Serve, app: App, mode: Mode) -> None:
    with (
        pytest.raises(InvalidStatus) as refusal,
        foreign(run(serve, app, mode), "/crash-before"),
    ):
        pass
    assert refusal.value.response.status_code == 500
    (text,) = serve.logged(1)
    assert "before it was accepted" in text


@two
def test_a_handler_that_returns_before_it_accepts_is_500(
    serve: Serve, app: App, mode: Mode
) -> None:
    running = run(serve, app, mode)
    with Wire(running.address) as wire:
        wire.send(handshake("/return-before"))
        assert wire.answer().status == 500
        assert wire.get("/refuse").status == 418, "the connection goes on"
    (text,) = serve.logged(1)
    assert "found NoneType" in text


@two
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"subprotocols": "chat"}, "must be a sequence of names"),
        ({"headers": {"Sec-WebSocket-Accept": "x"}}, "is the server's"),
        ({"headers": {"sec-websocket-extensions": "permessage-deflate"}}, "is the server's"),
        ({"headers": {"sec-websocket-protocol": "x"}}, "subprotocols= agrees"),
    ],
)
def test_an_acceptance_that_cannot_be(
    serve: Serve, mode: Mode, arguments: dict[str, Any], expected: str
) -> None:
    def plain(request: NativeDirectRequest) -> str:
        try:
            request.accept_websocket(**arguments)
        except ValueError as error:
            return str(error)
        return "accepted"

    async def handler(request: NativeDirectRequest) -> str:
        return plain(request)

    with Wire(serve.as_it_is(handler if mode.asynchronous else plain, mode).address) as wire:
        wire.send(handshake())
        assert expected in wire.answer().body.decode()


@two
def test_a_connection_is_taken_over_once(serve: Serve, mode: Mode) -> None:
    def twice(request: NativeDirectRequest) -> str:
        request.accept_websocket()
        try:
            request.accept_websocket()
        except RuntimeError as error:
            return str(error)
        return "twice"

    async def handler(request: NativeDirectRequest) -> None:
        websocket = request.accept_websocket()
        with pytest.raises(RuntimeError, match="taken over already"):
            request.accept_websocket()
        with pytest.raises(RuntimeError, match="taken over already"):
            request.detach_socket()
        await websocket.send("once")

    def plain(request: NativeDirectRequest) -> None:
        websocket = request.accept_websocket()
        with pytest.raises(RuntimeError, match="taken over already"):
            request.accept_websocket()
        with pytest.raises(RuntimeError, match="taken over already"):
            request.detach_socket()
        websocket.send("once")

    with Frames(serve.as_it_is(handler if mode.asynchronous else plain, mode).address) as client:
        assert client.message() == "once"


# --- how it ends -------------------------------------------------------------------------------------


def test_how_a_handler_ends_is_what_the_client_sees(serve: Serve, app: App, mode: Mode) -> None:
    running = run(serve, app, mode)
    for path, code in [
        ("/return", 1000),
        ("/within", 1000),
        ("/crash", 1011),
        ("/crash-within", 1011),
        ("/exit-after", 1000),
        ("/close", 4001),
    ]:
        with Frames(running.address, path) as client:
            if path == "/within":
                client.text("x")
                assert client.message() == "x"
            assert client.ended() == (code, "bye" if path == "/close" else "")
    assert [app.next() for _ in range(3)] == [(4001, "bye")] * 3
    texts = serve.logged(3)
    assert "after it was accepted" in texts[0]
    assert "within" in texts[1]
    assert "returned 'str' too, which goes nowhere" in texts[2]


def test_a_close_of_the_client_reaches_the_handler(serve: Serve, app: App, mode: Mode) -> None:
    running = run(serve, app, mode)
    with foreign(running, "/listen") as client:
        client.send("last words")
        client.close(4009, "härter")
        assert (client.close_code, client.close_reason) == (4009, "härter")
    assert app.next() == "last words"
    assert [app.next() for _ in range(5)] == [(4009, "härter")] * 2 + [4009] * 3
    with Frames(running.address, "/listen") as raw:
        raw.send(encode(CLOSE))
        assert raw.frame() == (CLOSE, b"", True)
        assert raw.wire.rest() == b""
    assert [app.next() for _ in range(5)] == [(1005, "")] * 2 + [1005] * 3


@pytest.mark.parametrize("how", ["reset", "end", "half a frame", "half a message"])
@two
def test_a_connection_that_breaks_is_1006(serve: Serve, app: App, mode: Mode, how: str) -> None:
    with Frames(run(serve, app, mode).address, "/listen") as client:
        client.text("there")
        assert app.next() == "there"
        if how == "half a frame":
            client.send(encode(TEXT, b"never whole")[:-3])
        if how == "half a message":
            client.send(encode(TEXT, b"never whole", fin=False))
        if how == "reset":
            client.wire.reset()
    assert [app.next()[0] for _ in range(2)] == [1006, 1006]
    assert [app.next() for _ in range(3)] == [1006] * 3


WRONG: list[tuple[str, list[bytes], int]] = [
    ("no mask", [encode(TEXT, b"x", mask=None)], 1002),
    ("reserved bit 1", [encode(TEXT, b"x", reserved=4)], 1002),
    ("reserved bit 2", [encode(TEXT, b"x", reserved=2)], 1002),
    ("reserved bit 3", [encode(PING, b"x", reserved=1)], 1002),
    ("opcode 3", [encode(3, b"x")], 1002),
    ("opcode 11", [encode(11, b"x")], 1002),
    ("a long ping", [encode(PING, b"x" * 126)], 1002),
    ("a ping that claims to be long", [encode(PING, b"", claims=1 << 40)], 1002),
    ("a long close", [encode(CLOSE, closing(1000, "x" * 124))], 1002),
    ("a ping in two", [encode(PING, b"x", fin=False)], 1002),
    ("a continuation of nothing", [encode(CONTINUATION, b"x")], 1002),
    ("a message in a message", [encode(TEXT, b"x", fin=False), encode(TEXT, b"y")], 1002),
    ("half a close code", [encode(CLOSE, b"\x03")], 1002),
    ("close code 999", [encode(CLOSE, closing(999))], 1002),
    ("close code 1005", [encode(CLOSE, closing(1005))], 1002),
    ("close code 1006", [encode(CLOSE, closing(1006))], 1002),
    ("close code 1016", [encode(CLOSE, closing(1016))], 1002),
    ("close code 2999", [encode(CLOSE, closing(2999))], 1002),
    ("close code 5000", [encode(CLOSE, closing(5000))], 1002),
    ("a length of 64 bits", [b"\x82\xff" + b"\xff" * 8 + b"mask"], 1002),
    ("a length in too many bytes", [b"\x82\xfe\x00\x05maskhello"], 1002),
    ("text that is none", [encode(TEXT, b"caf\xe9")], 1007),
    ("text that is none, late", [encode(TEXT, b"caf", fin=False), encode(CONTINUATION, b"\xff")], 1007),
    ("half a character", [encode(TEXT, "世".encode()[:2])], 1007),
    ("half a character, twice", [encode(TEXT, b"\xe4", fin=False), encode(CONTINUATION, b"\xb8")], 1007),
    ("a surrogate", [encode(TEXT, b"\xed\xa0\x80")], 1007),
    ("a reason that is no text", [encode(CLOSE, closing(1000) + b"\xff")], 1007),
    ("too big", [encode(BINARY, b"x" * 100_001)], 1009),
    ("too big in parts", [encode(TEXT, b"x" * 60_000, fin=False), encode(CONTINUATION, b"x" * 40_001)], 1009),
    ("a claim that is too big", [encode(BINARY, b"x", claims=100_001)], 1009),
    ("a claim beyond all", [encode(BINARY, b"x", claims=1 << 62)], 1009),
]  # fmt: skip


@pytest.mark.parametrize(
    ("frames", "code"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG]
)
@two
def test_what_breaks_the_protocol(
    serve: Serve, app: App, mode: Mode, frames: list[bytes], code: int
) -> None:
    running = run(serve, app, mode, ws_message_bytes=100_000)
    with Frames(running.address, "/listen") as client:
        client.send(encode(TEXT, b"before"), *frames)
        found, reason = client.ended()
        assert found == code
        assert reason, "a reason says what was wrong"
    assert app.next() == "before"
    assert app.next() == (code, reason)
    assert running.stats()["limited_ws_message_bytes"] == (1 if code == 1009 else 0)


@pytest.mark.parametrize(
    ("frames", "code"),
    [case[1:] for case in WRONG if sum(map(len, case[1])) < 300],
    ids=[case[0] for case in WRONG if sum(map(len, case[1])) < 300],
)
def test_what_breaks_the_protocol_slowly(
    serve: Serve, app: App, frames: list[bytes], code: int
) -> None:
    """Nothing behind the last byte makes the server look again."""
    running = run(serve, app, TWO[0], ws_message_bytes=100_000)
    with Frames(running.address, "/listen") as client:
        # The server may have enough before the end.
        with contextlib.suppress(OSError):
            for byte in b"".join(frames):
                client.send(bytes([byte]))
        assert client.frame().closing[0] == code
    assert app.next()[0] == code


@two
def test_a_message_of_the_limit_is_taken_and_one_more_byte_is_not(
    serve: Serve, app: App, mode: Mode
) -> None:
    running = run(serve, app, mode, ws_message_bytes=1_000_000)
    with foreign(running, "/echo") as client:
        client.send(bytes(1_000_000))
        assert client.recv(PATIENCE) == bytes(1_000_000)
        # Refused by its header: the close may be here before all of it was sent.
        with contextlib.suppress(ConnectionClosed):
            client.send(bytes(17 * MIB))
        with pytest.raises(ConnectionClosed):
            client.recv(PATIENCE)
        assert client.close_code == 1009


@two
def test_what_a_client_sends_while_it_is_refused_is_read_away(
    serve: Serve, app: App, mode: Mode
) -> None:
    """A close with unread input would be a reset, and the client would never learn why."""
    with Frames(run(serve, app, mode, ws_message_bytes=1000).address, "/listen") as client:
        client.send(encode(BINARY, bytes(5 * MIB)))
        assert client.ended()[0] == 1009


@two
def test_bytes_behind_a_close_are_nothing(serve: Serve, app: App, mode: Mode) -> None:
    with Frames(run(serve, app, mode).address, "/listen") as client:
        client.send(encode(CLOSE, closing(1000)), encode(TEXT, b"late"), b"\xff\xff garbage")
        assert client.frame().closing == (1000, "")
        assert client.wire.rest() == b""
    assert app.next() == (1000, "")


@two
def test_a_client_that_does_not_answer_a_close_is_cut_off(
    serve: Serve, app: App, mode: Mode
) -> None:
    running = run(serve, app, mode, ws_close_ms=50)
    with Frames(running.address, "/return") as client:
        assert client.frame().closing == (1000, "")
        assert client.wire.ended_abruptly()
    eventually(lambda: running.stats()["streams"] == 0, "the stream is gone")
    assert running.stats()["limited_ws_close_ms"] == 1


@two
def test_messages_and_pings_on_their_way_to_a_closed_handler_are_dropped(
    serve: Serve, app: App, mode: Mode
) -> None:
    with Frames(run(serve, app, mode).address, "/close") as client:
        client.send(encode(TEXT, b"x" * 1000), encode(PING, b"p"), encode(BINARY, bytes(300_000)))
        assert client.ended() == (4001, "bye")


def test_the_server_stops_and_says_so(serve: Serve, app: App, mode: Mode) -> None:
    """Clients get 1012 at once, and handlers are told, long before the grace is over."""
    running = run(serve, app, mode)
    with Frames(running.address, "/listen") as client:
        client.text("there")
        assert app.next() == "there"
        begun = time.monotonic()
        running.close(grace=PATIENCE)
        assert client.ended()[0] == 1012
    assert app.next() == (1012, "the server is stopping")
    running.join()
    assert time.monotonic() - begun < PATIENCE / 2


@two
def test_a_handler_that_does_not_listen_is_told_before_the_deadline(
    serve: Serve, mode: Mode
) -> None:
    ended = threading.Event()
    begun = threading.Event()

    async def handler(request: NativeDirectRequest) -> None:
        request.accept_websocket()
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    def plain(request: NativeDirectRequest) -> None:
        request.accept_websocket()
        begun.set()
        while not request.disconnected:
            time.sleep(0.002)
        ended.set()

    running = serve.as_it_is(handler if mode.asynchronous else plain, mode)
    with Frames(running.address) as client:
        assert begun.wait(PATIENCE)
        running.close(grace=0.4)
        assert client.frame().closing[0] == 1012
        assert ended.wait(PATIENCE)
    running.join()


# --- pings -------------------------------------------------------------------------------------------


def test_a_ping_waits_for_its_pong(serve: Serve, app: App, mode: Mode) -> None:
    running = run(serve, app, mode)
    with foreign(running, "/ping") as client:
        assert client.recv(PATIENCE) == "pong heard"
    assert 0 < app.next() < PATIENCE
    with Frames(running.address, "/ping") as raw:
        assert raw.frame() == (PING, b"are you there", True)
        raw.send(encode(PONG, b"unasked"), encode(PONG, b""), encode(TEXT, b"no pong"))
        raw.send(encode(PONG, b"are you there"))
        assert raw.message() == "pong heard"
    assert 0 < app.next() < PATIENCE


@two
def test_one_pong_may_answer_several_pings(serve: Serve, mode: Mode) -> None:
    """RFC 6455 section 5.5.3: a peer may answer the last one only."""

    async def handler(request: NativeDirectRequest) -> None:
        websocket = request.accept_websocket()
        pings = [asyncio.create_task(websocket.ping(name)) for name in (b"a", b"b", b"c")]
        await asyncio.gather(pings[0], pings[1])
        await websocket.send("two")
        await pings[2]
        await websocket.send("three")

    def plain(request: NativeDirectRequest) -> None:
        websocket = request.accept_websocket()
        done = [threading.Event() for _ in range(3)]

        def ping(at: int, name: bytes) -> None:
            websocket.ping(name)
            done[at].set()

        for at, name in enumerate((b"a", b"b", b"c")):
            threading.Thread(target=ping, args=(at, name)).start()
            # The client may have answered it by now.
            eventually(lambda: name in websocket._pings or done[at].is_set(), "the ping is sent")  # noqa: B023
        assert done[0].wait(PATIENCE)
        assert done[1].wait(PATIENCE)
        websocket.send("two")
        assert done[2].wait(PATIENCE)
        websocket.send("three")

    server = serve.as_it_is(handler if mode.asynchronous else plain, mode)
    with Frames(server.address) as client:
        assert [client.frame().payload for _ in range(3)] == [b"a", b"b", b"c"]
        client.send(encode(PONG, b"b"))
        assert client.message() == "two"
        client.send(encode(PONG, b"c"))
        assert client.message() == "three"


@two
def test_a_ping_ends_with_the_connection(serve: Serve, mode: Mode) -> None:
    told: list[int] = []
    over = threading.Event()

    async def handler(request: NativeDirectRequest) -> None:
        try:
            await request.accept_websocket().ping()
        except WebSocketClosed as error:
            told.append(error.code)
            over.set()

    def plain(request: NativeDirectRequest) -> None:
        try:
            request.accept_websocket().ping()
        except WebSocketClosed as error:
            told.append(error.code)
            over.set()

    server = serve.as_it_is(handler if mode.asynchronous else plain, mode)
    with Frames(server.address) as client:
        assert client.frame().opcode == PING
        client.send(encode(CLOSE, closing(4000)))
        assert over.wait(PATIENCE)
    assert told == [4000]


@two
def test_pings_of_the_client_are_answered_in_order(serve: Serve, app: App, mode: Mode) -> None:
    with foreign(run(serve, app, mode), "/echo") as client:
        waiters = [client.ping(bytes([number]) * number) for number in range(126)]
        client.send("between")
        assert all(waiter.wait(PATIENCE) for waiter in waiters)
        assert client.recv(PATIENCE) == "between"


@two
def test_a_silent_peer_is_dropped_and_an_answering_one_stays(
    serve: Serve, app: App, mode: Mode
) -> None:
    running = run(serve, app, mode, ws_ping_ms=100)
    with (
        Frames(running.address, "/listen") as silent,
        foreign(running, "/echo") as answering,
    ):
        assert silent.frame() == (PING, b"", True)
        assert silent.wire.ended_abruptly()
        assert app.next() == (1006, "the peer was too slow")
        answering.send("still here")
        assert answering.recv(PATIENCE) == "still here"
    assert running.stats()["limited_ws_ping_ms"] == 1


@two
def test_a_message_that_arrives_slowly_is_a_sign_of_life(
    serve: Serve, app: App, mode: Mode
) -> None:
    """In the middle of its frame a peer cannot answer a ping."""
    running = run(serve, app, mode, ws_ping_ms=60)
    frame = encode(BINARY, bytes(400))
    with Frames(running.address, "/listen") as client:
        begun = time.monotonic()
        for at in range(0, len(frame), 10):
            client.send(frame[at : at + 10])
            time.sleep(0.01)  # the slow peer
        assert app.next() == bytes(400)
        assert time.monotonic() - begun > 4 * 0.06


@two
def test_a_handler_that_takes_its_time_costs_its_client_nothing(
    serve: Serve, app: App, mode: Mode
) -> None:
    """We do not read then, and cannot say that the peer is silent."""
    running = run(serve, app, mode, ws_ping_ms=50, receive_window=16_384)
    with foreign(running, "/wait", ping_interval=None) as client:
        assert app.next() == "waiting"

        def send() -> None:
            for _ in range(5):
                client.send(bytes(10_000))

        sender = threading.Thread(target=send)
        sender.start()
        # Several times what a silent peer may take.
        time.sleep(0.4)
        app.go.set()
        assert [app.next() for _ in range(5)] == [10_000] * 5
        sender.join()
    assert running.stats()["limited_ws_ping_ms"] == 0


def test_without_an_interval_nobody_is_pinged(serve: Serve, app: App) -> None:
    running = run(serve, app, TWO[0], ws_ping_ms=0, ws_close_ms=20)
    with Frames(running.address, "/echo") as client:
        time.sleep(0.2)  # ten ticks of the shortest limit
        client.text("x")
        assert client.message() == "x"


# --- back-pressure -----------------------------------------------------------------------------------


def test_a_client_that_never_reads_stops_send(serve: Serve, app: App, mode: Mode) -> None:
    running = run(serve, app, mode)
    before = resident()
    with Frames(running.address, "/flood", receive_buffer=65_536) as client:
        eventually(lambda: app.sent > 0, "the handler sends")
        assert settles(lambda: app.sent, "the handler") < BOUND
        assert resident() - before < GROWTH
        # It goes on as the client takes.
        stopped = app.sent
        for _ in range(stopped // len(PIECE)):
            assert client.message() == PIECE
        eventually(lambda: app.sent > stopped, "it goes on")
    assert app.next()[0] == 1006
    eventually(lambda: running.stats()["streams"] == 0, "the stream is gone")


def test_a_handler_that_never_receives_stops_the_client(serve: Serve, app: App, mode: Mode) -> None:
    running = run(serve, app, mode)
    before = resident()
    sent = 0
    with Frames(running.address, "/wait") as client:
        assert app.next() == "waiting"
        frame = encode(BINARY, PIECE)

        def flood() -> None:
            nonlocal sent
            with contextlib.suppress(OSError):
                while sent < 64 * MIB:
                    client.send(frame)
                    sent += len(PIECE)

        feeder = threading.Thread(target=flood)
        feeder.start()
        eventually(lambda: sent > 0, "the client sends")
        stopped = settles(lambda: sent, "what the server takes")
        assert stopped < BOUND
        assert resident() - before < GROWTH
        assert running.stats()["queued_bytes"] < MIB
        app.go.set()
        eventually(lambda: sent > stopped + MIB, "the client goes on")
        client.wire.socket.shutdown(2)
        feeder.join(PATIENCE)
    eventually(lambda: running.stats()["streams"] == 0, "the stream is gone")


@two
def test_an_empty_message_that_waits_for_credit_comes(serve: Serve, app: App, mode: Mode) -> None:
    """No byte is behind it that could remind anybody."""
    running = run(serve, app, mode, receive_window=16_384)
    with Frames(running.address, "/wait") as client:
        assert app.next() == "waiting"
        # Each costs 64 bytes besides its own: nothing is left for the second.
        client.binary(bytes(16_384 - 64))
        eventually(lambda: running.stats()["queued_records"] == 0, "the first is told")
        client.send(encode(TEXT, b"", fin=False), encode(CONTINUATION))
        client.send(encode(TEXT))
        app.go.set()
        assert [app.next() for _ in range(3)] == [16_384 - 64, 0, 0]


@two
def test_empty_messages_are_not_free(serve: Serve, app: App, mode: Mode) -> None:
    """Each costs of the windows, or a mute reader could be sent millions, and a mute handler be told as many."""
    running = run(serve, app, mode)
    with Frames(running.address, "/wait") as client:
        assert app.next() == "waiting"
        client.wire.socket.settimeout(0.5)
        frames = encode(TEXT) * 10_000
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 5_000_000:
                sent += client.wire.socket.send(frames) // 6
        window = Limits().receive_window // 64
        assert running.stats()["queued_records"] <= window
        assert sent < 5_000_000, "the server took them all"
        app.go.set()


@two
def test_a_stall_of_the_client_ends_it(serve: Serve, app: App, mode: Mode) -> None:
    running = run(serve, app, mode, write_stall_ms=200)
    with Frames(running.address, "/flood", receive_buffer=65_536):
        assert app.next() == (1006, "the peer was too slow")
        eventually(lambda: running.stats()["streams"] == 0, "the stream is gone")
    assert running.stats()["limited_write_stall_ms"] == 1


def test_two_receivers_are_an_error(serve: Serve) -> None:
    async def handler(request: NativeDirectRequest) -> None:
        websocket = request.accept_websocket()
        first = asyncio.create_task(websocket.receive())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="two tasks receive"):
            await websocket.receive()
        await websocket.send("ready")
        assert await first == "for the first"
        first = asyncio.create_task(websocket.receive())
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
        await websocket.send("cancelled")
        assert await websocket.receive() == "for the second"
        await websocket.send("done")

    with Frames(serve(handler).address) as client:
        assert client.message() == "ready"
        client.text("for the first")
        assert client.message() == "cancelled"
        client.text("for the second")
        assert client.message() == "done"


def test_a_thread_may_wait_for_a_while(serve: Serve) -> None:
    def handler(request: NativeDirectRequest) -> None:
        websocket = request.accept_websocket()
        for call in (websocket.receive, websocket.ping):
            with pytest.raises(TimeoutError, match=r"came within 0\.01 seconds"):
                call(timeout=0.01)
        websocket.send("ready")
        websocket.send(websocket.receive(timeout=PATIENCE))

    with Frames(serve(handler).address) as client:
        assert client.frame().opcode == PING
        assert client.message() == "ready"
        client.text("in time")
        assert client.message() == "in time"


def waits_for_room(websocket: Any) -> bool:
    return websocket._writable is not None and websocket._writable.waited


def test_a_send_cancelled_in_the_middle_breaks_the_connection_off(serve: Serve) -> None:
    """The next message would be taken for the rest of this one."""
    told: list[int] = []
    over = threading.Event()

    async def handler(request: NativeDirectRequest) -> None:
        websocket = request.accept_websocket()
        task = asyncio.create_task(websocket.send(bytes(64 * MIB)))
        # It has begun, and waits for the client.
        while not task.done() and not waits_for_room(websocket):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        try:
            await websocket.send("after")
        except WebSocketClosed as error:
            told.append(error.code)
        over.set()

    with Frames(serve(handler).address, receive_buffer=65_536) as client:
        assert over.wait(PATIENCE)
        assert client.wire.ended_abruptly()
    assert told == [1006]


def test_a_handler_that_ends_frees_the_tasks_it_leaves(serve: Serve) -> None:
    told: list[int] = []
    over = threading.Event()

    async def handler(request: NativeDirectRequest) -> None:
        websocket = request.accept_websocket()

        async def waits(call: Callable[[], Any]) -> None:
            try:
                await call()
            except WebSocketClosed as error:
                told.append(error.code)
            if len(told) == 3:
                over.set()

        calls = (websocket.receive, websocket.ping, lambda: websocket.send(bytes(64 * MIB)))
        tasks.update(asyncio.create_task(waits(call)) for call in calls)
        while not waits_for_room(websocket):
            await asyncio.sleep(0)

    tasks: set[asyncio.Task[None]] = set()
    with Frames(serve(handler).address, receive_buffer=65_536):
        assert over.wait(PATIENCE)
    assert told == [1000] * 3


def test_no_time_limit_of_http_counts(serve: Serve, app: App) -> None:
    """``handler_timeout`` is for responses, ``idle_ms`` for connections without a request."""
    running = serve(
        app.coroutine, handler_timeout=0.05, limits=Limits(idle_ms=50, head_ms=50, ws_ping_ms=0)
    )
    with Frames(running.address, "/echo") as client:
        time.sleep(0.3)
        client.text("still here")
        assert client.message() == "still here"


def test_other_requests_are_answered_meanwhile(serve: Serve, mode: Mode) -> None:
    """An inline server would stand still if it ran such a handler itself."""
    app = App()

    async def coroutine(request: NativeDirectRequest) -> Any:
        if request.path == "/plain":
            return NativeDirectResponse.text("answered")
        return await app.coroutine(request)

    def plain(request: NativeDirectRequest) -> Any:
        if request.path == "/plain":
            return NativeDirectResponse.text("answered")
        return app.plain(request)

    running = serve.as_it_is(coroutine if mode.asynchronous else plain, mode)
    with Frames(running.address, "/echo") as client, Wire(running.address) as wire:
        for number in range(3):
            client.text(str(number))
            assert client.message() == str(number)
            assert wire.get("/plain").body == b"answered"


def test_a_handshake_error_says_what_to_do() -> None:
    assert Opcode.TEXT == TEXT, "both speak of the same thing"
    error = HandshakeError(426, "text", {"upgrade": "websocket"})
    assert (error.status, error.headers) == (426, {"upgrade": "websocket"})
