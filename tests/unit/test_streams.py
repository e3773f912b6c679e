"""Both directions of one stream: windows, credit, ends and failures, on a loop and on threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar, cast

import pytest

from server_native import ClientDisconnected
from server_native._bindings.abi import Command, Reason
from server_native._streams import (
    Inflow,
    LoopInflow,
    LoopOutflow,
    Outflow,
    ThreadInflow,
    ThreadOutflow,
    disconnected,
)
from tests.unit.fakes import FakeRuntime, outbox, soon

T = TypeVar("T")
PATIENCE = 10.0
TEXTS = {
    Reason.GONE: "the client is gone",
    Reason.PROTOCOL: "the client broke the protocol",
    Reason.TIMEOUT: "the client was too slow",
    Reason.LIMIT: "a limit was passed",
    Reason.STOPPING: "the server is stopping",
    Reason.INTERNAL: "the stream was reset",
    Reason.CANCELLED: "the stream was reset",
}


@pytest.mark.parametrize("reason", Reason, ids=lambda reason: reason.name)
def test_a_reset_says_why(reason: Reason) -> None:
    error = disconnected(int(reason))
    assert type(error) is ClientDisconnected
    assert str(error) == TEXTS[reason]


# --- request bodies, whoever reads ----------------------------------------------------------------


class Reader:
    """Reads an inflow of either kind, and knows the credit it gave."""

    def __init__(
        self, kind: type[Inflow], first: bytes = b"", window: int = 100, expects: bool = False
    ) -> None:
        self.runtime, self._outbox = outbox()
        arguments = (5, self._outbox, first, window, expects)
        self.flow = LoopInflow(*arguments, soon) if kind is LoopInflow else kind(*arguments)

    def next(self) -> bytes:
        if isinstance(self.flow, LoopInflow):
            return asyncio.run(self.flow.next())
        assert isinstance(self.flow, ThreadInflow)
        return self.flow.next()

    def credit(self) -> list[int]:
        self._outbox.flush()
        assert all(
            said.command is Command.CREDIT and said.stream == 5 for said in self.runtime.said
        )
        return [said.aux for said in self.runtime.said]


both = pytest.mark.parametrize("kind", [LoopInflow, ThreadInflow])


@both
def test_chunks_come_in_order_and_then_the_end(kind: type[Inflow]) -> None:
    reader = Reader(kind, first=b"a")
    reader.flow.feed(b"b", False)
    reader.flow.feed(b"", False)
    reader.flow.feed(b"c", True)
    assert [reader.next() for _ in range(5)] == [b"a", b"b", b"c", b"", b""]


@both
def test_many_small_pieces_that_nobody_takes_become_few(kind: type[Inflow]) -> None:
    window = 64 * 1024
    reader = Reader(kind, window=window)
    sent = [bytes([number % 256]) * (number % 7 + 1) for number in range(window // 8)]
    for piece in sent:
        reader.flow.feed(piece, False)
    reader.flow.end(b"")
    taken = list(iter(reader.next, b""))
    assert b"".join(taken) == b"".join(sent)
    assert len(taken) <= 256 + 1


@both
def test_trailers_are_there_at_the_end(kind: type[Inflow]) -> None:
    reader = Reader(kind, first=b"a")
    assert reader.flow.trailers == b""
    reader.flow.end(b"x-sum\x001")
    assert [reader.next(), reader.next()] == [b"a", b""]
    assert reader.flow.trailers == b"x-sum\x001"


@both
def test_credit_is_given_for_what_was_taken_half_a_window_at_a_time(kind: type[Inflow]) -> None:
    reader = Reader(kind, first=b"x" * 49)
    reader.flow.feed(b"y", False)
    reader.flow.feed(b"z" * 50, False)
    reader.flow.feed(b"z" * 49, False)
    given = []
    for _ in range(4):
        reader.next()
        given.append(sum(reader.credit()))
    assert given == [0, 50, 100, 100]
    assert reader.credit() == [50, 50]


@both
def test_no_credit_is_given_for_a_body_that_is_complete(kind: type[Inflow]) -> None:
    reader = Reader(kind, first=b"x" * 90)
    reader.flow.feed(b"y" * 90, True)
    assert len(reader.next()) + len(reader.next()) == 180
    assert reader.credit() == []


@both
def test_a_client_that_waits_to_be_asked_is_asked_by_the_first_read(kind: type[Inflow]) -> None:
    reader = Reader(kind, expects=True)
    assert reader.credit() == []
    reader.flow.feed(b"x", False)
    assert reader.credit() == []
    assert reader.next() == b"x"
    assert reader.credit() == [100]
    reader.flow.feed(b"y" * 60, False)
    reader.next()
    assert reader.credit() == [100, 61]


@both
def test_a_reset_reaches_the_reader_behind_what_came_before(kind: type[Inflow]) -> None:
    reader = Reader(kind, first=b"a")
    reader.flow.fail(Reason.TIMEOUT)
    assert reader.next() == b"a"
    for _ in range(2):
        with pytest.raises(ClientDisconnected, match="the client was too slow"):
            reader.next()


@both
def test_a_reset_does_not_concern_a_body_that_is_complete(kind: type[Inflow]) -> None:
    reader = Reader(kind)
    reader.flow.feed(b"a", True)
    reader.flow.fail(Reason.GONE)
    assert [reader.next(), reader.next()] == [b"a", b""]


# --- request bodies, waiting ----------------------------------------------------------------------


def run(scenario: Callable[[], Coroutine[Any, Any, T]]) -> T:
    return asyncio.run(asyncio.wait_for(scenario(), PATIENCE))


async def waiting(coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """A task that has run as far as it can."""
    task = asyncio.ensure_future(coroutine)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not task.done()
    return task


@pytest.mark.parametrize(
    ("happens", "expected"),
    [
        (lambda flow: flow.feed(b"a", False), b"a"),
        (lambda flow: flow.feed(b"", True), b""),
        (lambda flow: flow.end(b""), b""),
        (lambda flow: flow.fail(Reason.GONE), ClientDisconnected),
    ],
)
def test_a_task_waits_for_what_comes(happens: Callable[[Inflow], None], expected: Any) -> None:
    async def scenario() -> None:
        flow = LoopInflow(5, outbox()[1], b"", 100, False, soon)
        task = await waiting(flow.next())
        flow.feed(b"", False)
        happens(flow)
        happens(flow)
        if isinstance(expected, bytes):
            assert await task == expected
        else:
            with pytest.raises(expected):
                await task

    run(scenario)


def test_two_tasks_cannot_read_one_body_and_a_cancelled_one_leaves_it_to_the_next() -> None:
    async def scenario() -> None:
        flow = LoopInflow(5, outbox()[1], b"", 100, False, soon)
        first = await waiting(flow.next())
        with pytest.raises(RuntimeError, match="two tasks read the same request body"):
            await flow.next()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        second = await waiting(flow.next())
        flow.feed(b"a", True)
        assert await second == b"a"

    run(scenario)


def in_thread(work: Callable[[], T]) -> Future[T]:
    executor = ThreadPoolExecutor(1)
    future = executor.submit(work)
    executor.shutdown(wait=False)
    return future


def test_a_thread_gets_all_that_is_fed_and_gives_credit_at_once() -> None:
    runtime, box = outbox()
    flow = ThreadInflow(5, box, b"", 100, True)
    reading = in_thread(lambda: list(iter(flow.next, b"")))
    # Each piece only after the reader asked for it: its credit is submitted without anybody's flush.
    for _ in range(20):
        (said,) = runtime.submitted.get(timeout=PATIENCE)
        assert (said.command, said.stream) == (Command.CREDIT, 5)
        flow.feed(b"x" * said.aux, False)
    flow.feed(b"last", True)
    chunks = reading.result(PATIENCE)
    assert (len(chunks), chunks[-1]) == (21, b"last")
    assert {len(chunk) for chunk in chunks[:-1]} == {100}


@pytest.mark.parametrize("ends", [False, True])
def test_a_thread_that_waits_is_told_of_the_end(ends: bool) -> None:
    runtime, box = outbox()
    flow = ThreadInflow(5, box, b"", 100, True)
    reading = in_thread(flow.next)
    runtime.submitted.get(timeout=PATIENCE)
    if ends:
        flow.end(b"a\0b")
        assert reading.result(PATIENCE) == b""
        assert flow.trailers == b"a\0b"
    else:
        flow.fail(Reason.LIMIT)
        with pytest.raises(ClientDisconnected, match="a limit was passed"):
            reading.result(PATIENCE)


# --- response bodies ------------------------------------------------------------------------------


def sent(runtime: FakeRuntime) -> bytes:
    assert all(said.command is Command.DATA and said.stream == 5 for said in runtime.said)
    return b"".join(said.payload for said in runtime.said)


def test_a_piece_uses_the_window_and_room_brings_it_back() -> None:
    runtime, box = outbox()
    flow = Outflow(5, box, 10)
    flow.put(b"1234567")
    assert flow.window == 3
    flow.writable(5)
    assert flow.window == 8
    assert flow.failure is None
    flow.fail(Reason.GONE)
    assert flow.failure == Reason.GONE
    box.flush()
    assert sent(runtime) == b"1234567"


def test_a_task_writes_within_its_window() -> None:
    runtime, box = outbox()
    data = bytes(range(256)) * 4

    async def scenario() -> None:
        flow = LoopOutflow(5, box, 100, soon)
        task = await waiting(flow.write(data))
        total = 100
        while not task.done():
            box.flush()
            assert len(sent(runtime)) == min(total, len(data))
            assert flow.window == 0
            flow.writable(60)
            total += 60
            for _ in range(4):
                await asyncio.sleep(0)
        await task
        box.flush()
        await flow.write(b"")

    run(scenario)
    assert sent(runtime) == data


def test_a_task_cuts_long_pieces_and_lets_others_run() -> None:
    runtime, box = outbox()
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def scenario() -> None:
        flow = LoopOutflow(5, box, 1_000_000, soon)
        task = asyncio.ensure_future(other())
        await flow.write(bytes(900_000))
        assert turns > 0
        task.cancel()

    run(scenario)
    box.flush()
    assert max(len(said.payload) for said in runtime.said) == 64 * 1024
    assert len(sent(runtime)) == 900_000


def test_a_task_that_writes_is_told_of_a_reset() -> None:
    async def scenario() -> None:
        flow = LoopOutflow(5, outbox()[1], 1, soon)
        task = await waiting(flow.write(b"ab"))
        flow.fail(Reason.STOPPING)
        with pytest.raises(ClientDisconnected, match="the server is stopping"):
            await task
        with pytest.raises(ClientDisconnected):
            await flow.write(b"c")

    run(scenario)


def test_a_write_that_was_cancelled_can_be_followed_by_another() -> None:
    async def scenario() -> bytes:
        runtime, box = outbox()
        flow = LoopOutflow(5, box, 1, soon)
        task = await waiting(flow.write(b"ab"))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        again = await waiting(flow.write(b"c"))
        flow.writable(1)
        await again
        box.flush()
        return sent(runtime)

    assert run(scenario) == b"ac"


def test_a_thread_writes_within_its_window_and_at_once() -> None:
    runtime, box = outbox()
    flow = ThreadOutflow(5, box, 100)
    data = bytes(range(250)) * 5
    writing = in_thread(lambda: flow.write(data))
    received = b""
    while len(received) < len(data):
        said = runtime.submitted.get(timeout=PATIENCE)
        received += b"".join(item.payload for item in said)
        with flow._condition:
            assert flow.window >= 0
        # Only now: nothing more than the window was on its way.
        assert runtime.submitted.empty()
        flow.writable(sum(len(item.payload) for item in said))
    writing.result(PATIENCE)
    assert received == data
    assert flow.window == 100


@pytest.mark.parametrize("before", [True, False])
def test_a_thread_that_writes_is_told_of_a_reset(before: bool) -> None:
    runtime, box = outbox()
    flow = ThreadOutflow(5, box, 1)
    if before:
        flow.fail(Reason.GONE)
    writing = in_thread(lambda: flow.write(b"ab"))
    if not before:
        runtime.submitted.get(timeout=PATIENCE)
        flow.fail(Reason.GONE)
    with pytest.raises(ClientDisconnected, match="the client is gone"):
        writing.result(PATIENCE)
    assert sent(runtime) == (b"" if before else b"a")


def test_threads_here_have_ended() -> None:
    assert not [
        thread for thread in threading.enumerate() if thread.name.startswith("server-native")
    ]


def test_what_is_offered_goes_together_and_before_what_follows() -> None:
    runtime, box = outbox()

    async def scenario() -> None:
        flow = LoopOutflow(5, box, 1000, soon)
        assert not flow.offer(b"first"), "it is not known yet how much there is room for"
        await flow.write(b"first")
        for piece in (b"a", b"b", b"c"):
            assert flow.offer(piece)
        assert not flow.offer(b""), "nothing to send"
        assert not flow.offer(cast("bytes", bytearray(b"mine"))), "its owner may change it"
        await flow.write(b"d")
        assert flow.offer(b"e")
        box.flush()
        assert flow.window == 1000 - len(b"firstabcde")
        flow.say()

    run(scenario)
    box.flush()
    assert [said.payload for said in runtime.said] == [b"first", b"abc", b"d", b"e"]


@pytest.mark.parametrize("most", [100, 1_000_000])
def test_no_more_is_offered_than_the_window_and_a_turn_take(most: int) -> None:
    _, box = outbox()

    async def scenario() -> int:
        flow = LoopOutflow(5, box, most, soon)
        await flow.write(b"x" * 10)
        taken = 10
        while flow.offer(b"x" * 10):
            taken += 10
        flow.say()
        assert flow.window == most - taken
        flow.fail(Reason.GONE)
        assert not flow.offer(b"x")
        return taken

    taken: list[int] = []

    async def main() -> None:
        taken.append(await scenario())

    run(main)
    assert taken[0] == min(most, 256 * 1024 // 10 * 10)
