"""WebSocket connections without a network: what handlers see of each event, and which commands they cause."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import pytest

from server_native import ConfigurationError, NativeDirectRequest, WebSocketClosed
from server_native._bindings.abi import (
    FLAG_END,
    FLAG_MORE,
    FLAG_TEXT,
    MESSAGE_COST,
    Command,
    Protocol,
    Reason,
)
from server_native.errors import StoppingError
from server_native.websocket import ThreadWebSocket, WebSocket
from tests.unit.fakes import FakeRuntime, Said, outbox, peer, soon

T = TypeVar("T")
PATIENCE = 10.0
WINDOW = 16_384
LINE = b"GET\0/chat\0http\0a"


class Both:
    """A connection of either kind, and what it says; that for coroutines belongs to the loop it is made in."""

    #: Where it is made and called when no loop runs: a test's own.
    loop: asyncio.AbstractEventLoop

    def __init__(self, kind: type[Any]) -> None:
        self.runtime: FakeRuntime
        self.runtime, self._outbox = outbox()
        request = NativeDirectRequest(7, peer(), Protocol.HTTP11 | FLAG_END, LINE, b"", b"", None)

        def make() -> Any:
            arguments = (request, self._outbox, "chat", WINDOW, WINDOW)
            return kind(*arguments, soon) if kind is WebSocket else kind(*arguments)

        async def make_in_loop() -> Any:
            return make()

        try:
            asyncio.get_running_loop()
        except RuntimeError:
            self.socket = self.loop.run_until_complete(make_in_loop())
        else:
            self.socket = make()

    def call(self, name: str, *arguments: Any) -> Any:
        """Calls a method that does not have to wait."""
        result = getattr(self.socket, name)(*arguments)
        return self.loop.run_until_complete(result) if asyncio.iscoroutine(result) else result

    def leave(self, error: BaseException | None = None) -> None:
        """Leaves ``with``."""
        kind = None if error is None else type(error)
        if isinstance(self.socket, WebSocket):
            self.loop.run_until_complete(self.socket.__aexit__(kind, error, None))
        else:
            self.socket.__exit__(kind, error, None)

    def said(self) -> list[Said]:
        """What was said since the last call."""
        self._outbox.flush()
        said, self.runtime.said = self.runtime.said, []
        assert all(command.stream == 7 for command in said)
        return said


@pytest.fixture(autouse=True)
def loop() -> Iterator[None]:
    Both.loop = asyncio.new_event_loop()
    yield
    Both.loop.close()


both = pytest.mark.parametrize("kind", [WebSocket, ThreadWebSocket])


@both
def test_messages_go_out_as_text_or_binary(kind: type[Any]) -> None:
    both = Both(kind)
    for message in ("é", b"b", bytearray(b"a"), memoryview(b"v"), ""):
        both.call("send", message)
    assert [(said.command, said.payload, said.flags) for said in both.said()] == [
        (Command.DATA, "é".encode(), FLAG_TEXT),
        (Command.DATA, b"b", 0),
        (Command.DATA, b"a", 0),
        (Command.DATA, b"v", 0),
        (Command.DATA, b"", FLAG_TEXT),
    ]


@both
def test_a_message_that_is_none_is_a_type_error_and_says_nothing(kind: type[Any]) -> None:
    both = Both(kind)
    with pytest.raises(TypeError, match="must be str or bytes, found int"):
        both.call("send", 1)
    assert both.said() == []


@both
def test_messages_are_received_before_the_end_is(kind: type[Any]) -> None:
    both = Both(kind)
    both.socket._on_data(b"one", FLAG_TEXT)
    both.socket._on_data(b"tw", FLAG_MORE)
    both.socket._on_data(b"o", 0)
    both.socket._on_end("wofür".encode(), 4009)
    assert [both.call("receive"), both.call("receive")] == ["one", b"two"]
    for _ in range(2):
        with pytest.raises(WebSocketClosed, match=r"closed \(4009: wofür\)") as closed:
            both.call("receive")
        assert (closed.value.code, closed.value.reason) == (4009, "wofür")
    assert (both.socket.close_code, both.socket.close_reason) == (4009, "wofür")
    assert both.socket.closed
    assert repr(both.socket) == f"<{kind.__name__} /chat closed 4009>"


@both
@pytest.mark.parametrize(
    ("reason", "text"),
    [
        (Reason.GONE, "the connection was lost"),
        (Reason.TIMEOUT, "the peer was too slow"),
        (Reason.STOPPING, "the server is stopping"),
        (Reason.LIMIT, "a limit was passed"),
        (Reason.INTERNAL, "the server failed"),
    ],
)
def test_a_reset_is_1006_and_says_why(kind: type[Any], reason: Reason, text: str) -> None:
    both = Both(kind)
    both.socket._on_reset(int(reason))
    for call in ("receive", "ping", "send"):
        with pytest.raises(WebSocketClosed, match=text) as closed:
            both.call(call, *(["x"] if call == "send" else []))
        assert closed.value.code == 1006
    both.call("close", 4000)
    assert both.said() == []


@both
def test_a_close_says_code_and_reason_once(kind: type[Any]) -> None:
    both = Both(kind)
    both.socket._on_data(b"waiting", 0)
    both.call("close", 4001, "bye")
    both.call("close", 4002)
    (said,) = both.said()
    assert (said.command, said.code, said.payload, said.flags) == (
        Command.END,
        4001,
        b"bye",
        FLAG_END,
    )
    assert both.call("receive") == b"waiting"
    for call in ("receive", "ping", "send"):
        with pytest.raises(WebSocketClosed) as closed:
            both.call(call, *(["x"] if call == "send" else []))
        assert (closed.value.code, closed.value.reason) == (4001, "bye")
    assert both.socket.close_code is None, "the peer has not answered"
    both.socket._on_end(b"bye", 4001)
    assert both.socket.close_code == 4001


@both
@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, "1000", None])
def test_a_code_nobody_may_send(kind: type[Any], code: object) -> None:
    both = Both(kind)
    with pytest.raises(ConfigurationError, match="a close code must be 1000 to 1014"):
        both.call("close", code)
    assert not both.socket.closed


@both
@pytest.mark.parametrize("code", [1000, 1003, 1007, 1014, 3000, 4999])
def test_a_code_that_may_be_sent(kind: type[Any], code: int) -> None:
    both = Both(kind)
    both.call("close", code, "é" * 61)
    assert both.said()[0].code == code


@both
def test_a_reason_is_at_most_123_bytes(kind: type[Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"at most 123 bytes of UTF-8 .*, found 124"):
        Both(kind).call("close", 1000, "é" * 62)


@both
@pytest.mark.parametrize(
    ("error", "code"), [(None, 1000), (WebSocketClosed(1001), 1000), (ValueError(), 1011)]
)
def test_leaving_with_closes(kind: type[Any], error: BaseException | None, code: int) -> None:
    both = Both(kind)
    both.leave(error)
    both.leave(error)
    both.socket._finish(1000)
    assert [(said.command, said.code) for said in both.said()] == [(Command.END, code)]


@both
@pytest.mark.parametrize("code", [1000, 1011])
def test_the_end_of_a_handler_closes(kind: type[Any], code: int) -> None:
    both = Both(kind)
    both.socket._finish(code)
    assert [(said.command, said.code) for said in both.said()] == [(Command.END, code)]
    assert both.socket.close_code == code
    with pytest.raises(WebSocketClosed, match=str(code)):
        both.call("receive")


@both
def test_a_ping_is_at_most_125_bytes(kind: type[Any]) -> None:
    both = Both(kind)
    with pytest.raises(ConfigurationError, match=r"at most 125 bytes .* found 126"):
        both.call("ping", bytes(126))
    assert both.said() == []


@both
def test_a_stop_is_told_by_the_close_that_comes_first(kind: type[Any]) -> None:
    both = Both(kind)
    both.socket._on_end(b"the server is stopping", 1012)
    both.socket._on_drain()
    with pytest.raises(WebSocketClosed) as closed:
        both.call("receive")
    assert closed.value.code == 1012


# --- coroutines --------------------------------------------------------------------------------------


def run(scenario: Callable[[], Coroutine[Any, Any, T]]) -> T:
    return asyncio.run(asyncio.wait_for(scenario(), PATIENCE))


async def waiting(coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """A task that has run as far as it can."""
    task = asyncio.ensure_future(coroutine)
    for _ in range(3):
        await asyncio.sleep(0)
    assert not task.done()
    return task


@pytest.mark.parametrize(
    ("happens", "expected"),
    [
        (lambda socket: socket._on_data(b"a", FLAG_TEXT), "a"),
        (lambda socket: socket._on_end(b"", 1000), WebSocketClosed),
        (lambda socket: socket._on_reset(Reason.GONE), WebSocketClosed),
        (lambda socket: socket._finish(1000), WebSocketClosed),
    ],
)
def test_a_task_waits_for_a_message(happens: Callable[[Any], None], expected: Any) -> None:
    async def scenario() -> None:
        socket = Both(WebSocket).socket
        task = await waiting(socket.receive())
        socket._on_writable(1)
        socket._on_data(b"not whole", FLAG_MORE)
        await asyncio.sleep(0)
        assert not task.done()
        socket._arrivals._partial.clear()
        happens(socket)
        if isinstance(expected, str):
            assert await task == expected
        else:
            with pytest.raises(expected):
                await task

    run(scenario)


def test_iterating_ends_with_the_connection() -> None:
    async def scenario() -> list[Any]:
        socket = Both(WebSocket).socket
        socket._on_data(b"a", 0)
        socket._on_data(b"b", FLAG_TEXT)
        socket._on_end(b"", 1000)
        return [message async for message in socket]

    assert run(scenario) == [b"a", "b"]


def test_two_tasks_cannot_receive_and_a_cancelled_one_leaves_it_to_the_next() -> None:
    async def scenario() -> None:
        socket = Both(WebSocket).socket
        first = await waiting(socket.receive())
        with pytest.raises(RuntimeError, match="two tasks receive from the same WebSocket"):
            await socket.receive()
        first.cancel()
        await asyncio.wait([first])
        second = await waiting(socket.receive())
        socket._on_data(b"a", 0)
        assert await second == b"a"

    run(scenario)


def test_a_message_is_not_lost_with_the_task_that_waited_for_it() -> None:
    async def scenario() -> None:
        socket = Both(WebSocket).socket
        task = await waiting(socket.receive())
        socket._on_data(b"a", 0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert await socket.receive() == b"a"

    run(scenario)


def test_sending_waits_for_the_window_in_order() -> None:
    async def scenario() -> None:
        both = Both(WebSocket)
        socket = both.socket
        big = bytes(8000)
        await socket.send(big)
        await socket.send(big)
        second = await waiting(socket.send(b"second" + bytes(300)))
        third = await waiting(socket.send(b"3"))
        assert len(both.said()) == 2
        socket._on_writable(2 * (8000 + MESSAGE_COST))
        await asyncio.gather(second, third)
        assert [said.payload[:6] for said in both.said()] == [b"second", b"3"]
        await socket.send(b"quick again")
        assert socket._senders == 0

    run(scenario)


def test_a_long_message_is_sent_in_pieces_and_nothing_comes_between() -> None:
    async def scenario() -> None:
        both = Both(WebSocket)
        socket = both.socket
        message = bytes(range(256)) * 200
        long = await waiting(socket.send(message))
        other = await waiting(socket.send("other"))
        said = both.said()
        while not other.done():
            socket._on_writable(sum(len(piece.payload) + MESSAGE_COST for piece in said[-1:]))
            for _ in range(3):
                await asyncio.sleep(0)
            said += both.said()
        await asyncio.gather(long, other)
        *pieces, last, short = said
        assert b"".join(piece.payload for piece in [*pieces, last]) == message
        assert {piece.flags for piece in pieces} == {FLAG_MORE}
        assert (last.flags, short.flags, short.payload) == (0, FLAG_TEXT, b"other")

    run(scenario)


@pytest.mark.parametrize("begun", [True, False])
def test_a_send_that_is_cancelled(begun: bool) -> None:
    async def scenario() -> None:
        both = Both(WebSocket)
        socket = both.socket
        if not begun:
            await socket.send(bytes(8000))
            await socket.send(bytes(8000))
        task = await waiting(socket.send(bytes(40_000)))
        task.cancel()
        await asyncio.wait([task])
        commands = [said.command for said in both.said()]
        if begun:
            assert commands[-1] is Command.RESET
            with pytest.raises(WebSocketClosed, match="a message was broken off") as closed:
                await socket.send("after")
            assert closed.value.code == 1006
        else:
            assert commands == [Command.DATA] * 2
            socket._on_writable(16_000)
            await socket.send("after")
            assert both.said()[0].payload == b"after"

    run(scenario)


def test_a_sender_that_waits_learns_of_the_end() -> None:
    async def scenario() -> None:
        socket = Both(WebSocket).socket
        tasks = [await waiting(socket.send(bytes(40_000))), await waiting(socket.send("next"))]
        socket._on_end(b"", 4000)
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert [getattr(error, "code", None) for error in found] == [4000, 4000]

    run(scenario)


def test_a_handler_that_never_waits_lets_others_run() -> None:
    async def scenario() -> None:
        socket = Both(WebSocket).socket
        socket._window = 10**9
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.ensure_future(other())
        for _ in range(5000):
            await socket.send(b"x" * 64)
        task.cancel()
        assert 5 <= turns <= 20

    run(scenario)


def test_pings_wait_for_their_pongs() -> None:
    async def scenario() -> None:
        both = Both(WebSocket)
        socket = both.socket
        tasks = [await waiting(socket.ping(name)) for name in (b"a", b"b", b"c", None)]
        said = both.said()
        assert [command.command for command in said] == [Command.PING] * 4
        assert [command.payload for command in said[:3]] == [b"a", b"b", b"c"]
        assert len(said[3].payload) == 8
        with pytest.raises(ConfigurationError, match="waits for its answer already"):
            await socket.ping(b"a")
        socket._on_pong(b"unknown")
        socket._on_pong(b"b")
        for task in tasks[:2]:
            assert await task >= 0
        await asyncio.sleep(0)
        assert not tasks[2].done()
        socket._on_pong(b"a")
        socket._on_end(b"", 1001)
        for task in tasks[2:]:
            with pytest.raises(WebSocketClosed, match="1001"):
                await task
        assert socket._pings == {}

    run(scenario)


def test_a_cancelled_ping_may_be_sent_again() -> None:
    async def scenario() -> None:
        socket = Both(WebSocket).socket
        task = await waiting(socket.ping(b"a"))
        task.cancel()
        await asyncio.wait([task])
        again = await waiting(socket.ping(b"a"))
        socket._on_pong(b"a")
        await again

    run(scenario)


# --- threads -----------------------------------------------------------------------------------------


def in_thread(work: Callable[[], T]) -> Future[T]:
    executor = ThreadPoolExecutor(1)
    future = executor.submit(work)
    executor.shutdown(wait=False)
    return future


def test_a_thread_waits_for_a_message_and_gives_its_credit_at_once() -> None:
    both = Both(ThreadWebSocket)
    receiving = in_thread(both.socket.receive)
    both.socket._on_data(bytes(9000), 0)
    assert receiving.result(PATIENCE) == bytes(9000)
    (said,) = both.runtime.submitted.get(timeout=PATIENCE)
    assert (said.command, said.aux) == (Command.CREDIT, 9000 + MESSAGE_COST)
    both.socket._on_data(bytes(9000), FLAG_MORE)
    (said,) = both.runtime.submitted.get(timeout=PATIENCE)
    assert said.command is Command.CREDIT, "of a piece without anybody's asking"


def test_a_thread_sends_at_once_and_waits_for_the_window() -> None:
    both = Both(ThreadWebSocket)
    both.socket.send("first")
    assert both.runtime.submitted.get(timeout=PATIENCE)[0].payload == b"first"
    sending = in_thread(lambda: both.socket.send(bytes(40_000)))
    flags, sent = [], 0
    while sent < 40_000:
        (said,) = both.runtime.submitted.get(timeout=PATIENCE)
        flags.append(said.flags)
        sent += len(said.payload)
        both.socket._on_writable(len(said.payload) + MESSAGE_COST)
    sending.result(PATIENCE)
    *pieces, last = flags
    assert set(pieces) == {FLAG_MORE}
    assert last == 0


@pytest.mark.parametrize("call", ["receive", "ping"])
def test_a_thread_waits_no_longer_than_it_wants(call: str) -> None:
    both = Both(ThreadWebSocket)
    with pytest.raises(TimeoutError, match="came within 0 seconds"):
        getattr(both.socket, call)(timeout=0)
    assert both.socket._pings == {}


@pytest.mark.parametrize("call", ["receive", "send", "ping"])
def test_a_thread_that_waits_learns_of_the_end(call: str) -> None:
    both = Both(ThreadWebSocket)
    begun = threading.Event()

    def work() -> None:
        begun.set()
        getattr(both.socket, call)(*([bytes(40_000)] if call == "send" else []))

    waiting = in_thread(work)
    assert begun.wait(PATIENCE)
    both.socket._on_end(b"", 4000)
    with pytest.raises(WebSocketClosed, match="4000"):
        waiting.result(PATIENCE)
    assert both.socket._unanswered == set()


def test_a_pong_counts_even_when_the_end_follows_at_once() -> None:
    both = Both(ThreadWebSocket)
    pinging = in_thread(lambda: both.socket.ping(b"a"))
    both.runtime.submitted.get(timeout=PATIENCE)
    both.socket._on_pong(b"a")
    both.socket._on_end(b"", 1000)
    assert pinging.result(PATIENCE) >= 0


def test_the_end_of_a_handler_after_the_servers_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    both = Both(ThreadWebSocket)

    def submit(*_: object) -> None:
        raise StoppingError("the runtime has stopped")

    monkeypatch.setattr(both.runtime, "submit", submit)
    both.leave()
    both.socket._finish(1000)
    assert both.socket.closed
