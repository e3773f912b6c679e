"""Used wrongly: late, twice, from the wrong thread, with garbage (rows F2, F3).

A defined error each time, and the server lives.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server_native import NativeDirectResponse
from server_native._bindings import abi
from server_native._ffi import Runtime, pack_record
from server_native.binds import Place
from server_native.config import ServerConfig
from server_native.errors import ConfigurationError, RuntimeBusyError, StoppingError
from tests.faults.harness import PATIENCE, Wire, eventually, serving

HEAD, DATA, END = int(abi.Command.HEAD), int(abi.Command.DATA), int(abi.Command.END)


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    runtime = Runtime(0)
    yield runtime
    runtime.free()


class Gate:
    """A handler that says when it runs and waits to be let go."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.go = threading.Event()
        self.left = threading.Event()

    def __call__(self, request: Any) -> Any:
        if request.path == "/hello":
            return "hello"
        self.entered.set()
        try:
            assert self.go.wait(PATIENCE)
            if request.path == "/stream":
                return NativeDirectResponse.stream(b"x" * 100_000 for _ in range(100))
            return b"x" * (2_000_000 if request.path == "/large" else 10)
        finally:
            self.left.set()


def hello(port: int) -> None:
    with Wire(port) as wire:
        assert wire.get("/hello").body == b"hello"


paths = pytest.mark.parametrize("path", ["/small", "/large", "/stream"])


@paths
@pytest.mark.parametrize("threads", [0, 2])
def test_an_answer_after_the_client_has_gone_concerns_nobody(
    path: str, threads: int, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate()
    with serving(gate, threads=threads) as server:
        wire = Wire(server.port)
        wire.request(path)
        assert gate.entered.wait(PATIENCE)
        wire.reset()
        eventually(server.stats, lambda stats: stats["connections"] == 0, "noticed")
        gate.go.set()
        hello(server.port)
        stats = eventually(server.stats, lambda stats: stats["streams"] == 0, "without streams")
        assert stats["overflows"] == 0
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


@paths
def test_an_answer_after_the_server_has_gone_concerns_nobody(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate()
    with serving(gate, threads=1) as server, Wire(server.port) as wire:
        wire.request(path)
        assert gate.entered.wait(PATIENCE)
        thread = next(
            thread for thread in threading.enumerate() if thread.name.startswith("server-native-h")
        )
        server.close(grace=0.0)
        assert wire.rest() == b""
        # The server leaves the thread behind after its patience; only then does the handler answer.
        with pytest.raises(StoppingError):
            eventually(server.stats, lambda _: False, "freed")
    gate.go.set()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_close_and_stats_of_a_server_that_is_over() -> None:
    with serving(lambda request: "x") as server:
        pass
    server.close()
    server.close(grace=0.0)
    with pytest.raises(StoppingError):
        server.stats()


@pytest.mark.parametrize("threads", [0, 2])
def test_a_stream_that_is_returned_twice_is_sent_once(threads: int) -> None:
    body = iter([b"once"])
    response = NativeDirectResponse.stream(body)
    with serving(lambda request: response, threads=threads) as server, Wire(server.port) as wire:
        first = wire.get("/")
        assert (first.body, first.complete) == (b"once", True)
        second = wire.get("/")
        assert (second.body, second.complete) == (b"", True)


@pytest.mark.parametrize("threads", [0, 4])
def test_a_generator_in_two_responses_at_once_breaks_one_of_them_at_most(threads: int) -> None:
    entered, go = threading.Event(), threading.Event()

    def body() -> Iterator[bytes]:
        yield b"first"
        entered.set()
        assert go.wait(PATIENCE)
        yield b"second"

    response = NativeDirectResponse.stream(body())

    def handler(request: Any) -> Any:
        return "hello" if request.path == "/hello" else response

    with (
        serving(handler, threads=threads) as server,
        Wire(server.port) as one,
        Wire(server.port) as two,
    ):
        one.request("/")
        assert entered.wait(PATIENCE)
        two.request("/")
        if threads:
            # "generator already executing": reset, with or without its head, and not cut short silently.
            assert not two.rest().endswith(b"0\r\n\r\n")
        go.set()
        answer = one.answer()
        assert answer.body.startswith(b"first")
        hello(server.port)


def test_an_async_generator_in_two_responses_at_once(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> Any:
        yield b"first"
        await asyncio.sleep(0.05)
        yield b"second"

    response: list[Any] = []

    async def handler(request: Any) -> Any:
        if request.path == "/hello":
            return "hello"
        if not response:
            response.append(NativeDirectResponse.stream(body()))
        return response[0]

    with serving(handler) as server, Wire(server.port) as one, Wire(server.port) as two:
        for wire in (one, two):
            wire.request("/", head="connection: close\r\n")
        answers = [one.rest(), two.rest()]
        assert b"".join(answers).count(b"first") == 1
        # Whoever did not get the generator was reset, not told that this was all.
        assert sum(answer.endswith(b"0\r\n\r\n") for answer in answers) <= 1
        hello(server.port)
    assert "never retrieved" not in caplog.text


def test_two_tasks_that_read_one_body() -> None:
    found: list[BaseException] = []
    reading = threading.Event()

    async def handler(request: Any) -> Any:
        if request.path == "/hello":
            return "hello"
        first = asyncio.ensure_future(request.read())
        await asyncio.sleep(0)
        second = asyncio.ensure_future(request.read())
        await asyncio.wait([second])
        error = second.exception()
        assert error is not None
        found.append(error)
        reading.set()
        return await first

    with serving(handler) as server, Wire(server.port) as wire:
        wire.request("/", method="POST", head="content-length: 200000\r\n")
        assert reading.wait(PATIENCE)
        wire.send(b"x" * 200_000)
        assert wire.answer().body == b"x" * 200_000
        assert isinstance(found[0], RuntimeError)
        hello(server.port)


def test_two_threads_that_read_one_body_share_it() -> None:
    sizes: list[int] = []

    def handler(request: Any) -> Any:
        if request.path == "/hello":
            return "hello"
        readers = [
            threading.Thread(target=lambda: sizes.append(sum(map(len, request)))) for _ in range(2)
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(PATIENCE)
        return str(sum(sizes))

    with serving(handler) as server, Wire(server.port) as wire:
        wire.request("/", method="POST", head="content-length: 3000000\r\n", body=b"x" * 3_000_000)
        assert wire.answer().body == b"3000000"
        assert len(sizes) == 2
        hello(server.port)


def test_a_body_read_after_the_answer_is_no_crash() -> None:
    kept: list[Any] = []

    async def handler(request: Any) -> Any:
        kept.append(request)
        return "hello"

    with serving(handler) as server, Wire(server.port) as wire:
        wire.request("/", method="POST", head="content-length: 200000\r\n", body=b"x" * 1000)
        assert wire.answer().body == b"hello"
        hello(server.port)
    assert kept[0].disconnected or not kept[0].disconnected
    assert kept[0].path == "/"
    assert kept[0].client[0] == "127.0.0.1"


def test_next_from_two_threads_is_busy(runtime: Runtime) -> None:
    entered = threading.Event()

    def wait() -> None:
        entered.set()
        runtime.next(None)

    thread = threading.Thread(target=wait)
    thread.start()
    assert entered.wait(PATIENCE)

    def attempt() -> bool:
        try:
            runtime.next(0.0)
        except RuntimeBusyError:
            return True
        return False

    eventually(attempt, bool, "busy")
    runtime.wake()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    status, batch = runtime.next(0.0)
    assert status in (abi.Status.TIMEOUT, abi.Status.WOKEN)
    assert batch is None


@pytest.mark.parametrize("io_threads", [0, 1, 2])
def test_a_freed_runtime_answers_that_it_has_stopped(io_threads: int) -> None:
    runtime = Runtime(io_threads)
    runtime.free()
    runtime.free()
    runtime.wake()
    config = ServerConfig()
    for use in (
        lambda: runtime.next(0.0),
        lambda: runtime.submit(b"", 0, b"", 0),
        runtime.stats,
        lambda: runtime.stop(0.0),
        lambda: runtime.bind(Place(address="127.0.0.1"), config, 0),
        lambda: runtime.listen(1),
        lambda: runtime.close(1),
        lambda: runtime.address(1),
        lambda: runtime.route(1, "/", 200, b"", b""),
        lambda: runtime.watch(-1),
        lambda: runtime.signal(-1),
    ):
        with pytest.raises(StoppingError):
            use()


def test_a_runtime_dropped_under_its_threads_is_no_crash() -> None:
    for io_threads in (0, 1, 2):
        held = [Runtime(io_threads)]
        with pytest.warns(ResourceWarning, match="never closed"):
            held.clear()
        gc.collect()


records = st.builds(
    pack_record,
    st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([0, 1, 1 << 24, (1 << 24) + 1, 1 << 63])),
    st.integers(0, 2**64 - 1),
    st.one_of(st.integers(0, 2**32 - 1), st.integers(0, 64)),
    st.one_of(st.integers(0, 2**32 - 1), st.integers(0, 64)),
    st.integers(0, 255),
    st.integers(0, 255),
    st.integers(0, 2**16 - 1),
    st.one_of(st.integers(0, 2**32 - 1), st.integers(0, 64)),
)
arenas = st.binary(max_size=256)
garbage = given(
    st.lists(st.one_of(records, st.binary(min_size=32, max_size=32)), max_size=40), arenas
)


@settings(max_examples=500, deadline=None)
@garbage
def test_garbage_is_refused_or_ignored(packed: list[bytes], arena: bytes) -> None:
    with suppress(ConfigurationError):
        SHARED.submit(b"".join(packed), len(packed), arena, len(arena))
    SHARED.next(0.0)
    assert SHARED.stats()["streams"] == 0


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(list(abi.Command)),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    arenas,
)
def test_what_lies_outside_the_arena_is_refused(
    kind: abi.Command, offset: int, length: int, aux: int, arena: bytes
) -> None:
    end = offset + length + (aux if kind == abi.Command.HEAD else 0)
    record = pack_record(1 << 24, 0, offset, length, kind, 0, 200, aux)
    if end > len(arena) and length + (aux if kind == abi.Command.HEAD else 0) > 0:
        with pytest.raises(ConfigurationError):
            SHARED.submit(record, 1, arena, len(arena))
    else:
        # It may be refused for another reason: fields that are no fields, for instance.
        with suppress(ConfigurationError):
            SHARED.submit(record, 1, arena, len(arena))


@pytest.mark.parametrize(
    ("count", "length"),
    [
        ((1 << 20) + 1, 0),
        (2**32, 0),
        (2**63, 0),
        (2**64 - 1, 0),
        (0, 2**32),
        (0, 2**63),
        (1, 2**64 - 1),
    ],
)
def test_an_impossible_length_is_refused(runtime: Runtime, count: int, length: int) -> None:
    with pytest.raises(ConfigurationError):
        runtime.submit(pack_record(1, 0, 0, 0, END, 1, 0, 0), count, b"", length)


def test_null_with_a_length_is_refused(runtime: Runtime) -> None:
    nothing: Any = None
    with pytest.raises(ConfigurationError):
        runtime.submit(nothing, 1, b"", 0)
    with pytest.raises(ConfigurationError):
        runtime.submit(pack_record(1, 0, 0, 1, DATA, 0, 0, 0), 1, nothing, 1)
    runtime.submit(nothing, 0, nothing, 0)


@settings(max_examples=200, deadline=None)
@garbage
def test_garbage_for_a_server_at_work_breaks_no_other_stream(
    packed: list[bytes], arena: bytes
) -> None:
    server, wire = LIVE.get()
    with suppress(ConfigurationError):
        server._pump.runtime.submit(b"".join(packed), len(packed), arena, len(arena))
    assert wire.get("/hello").body == b"hello"


class _Live:
    """One server for all examples of a property."""

    def __init__(self) -> None:
        self._made: Any = None

    def get(self) -> Any:
        if self._made is None:
            self._context = serving(Gate())
            server = self._context.__enter__()
            self._made = server, Wire(server.port)
        return self._made

    def end(self) -> None:
        if self._made is not None:
            self._made[1].socket.close()
            self._context.__exit__(None, None, None)


LIVE = _Live()
SHARED = Runtime(0)


@pytest.fixture(scope="module", autouse=True)
def _end() -> Iterator[None]:
    yield
    LIVE.end()
    SHARED.free()


@pytest.mark.parametrize("once", [True, False])
@pytest.mark.parametrize("io_threads", [0, 1, 2])
def test_more_than_the_window_resets_the_stream_and_is_counted(once: bool, io_threads: int) -> None:
    def handler(request: Any) -> Any:
        if request.path == "/hello":
            return "hello"
        runtime = server._pump.runtime
        head = pack_record(request.stream, 0, 0, 0, HEAD, 0, 200, 0)
        runtime.submit(head, 1, b"", 0)
        size = 4 * 1024 * 1024 if once else 64 * 1024
        for _ in range(1 if once else 64):
            data = pack_record(request.stream, 0, 0, size, DATA, 0, 0, 0)
            runtime.submit(data, 1, b"x" * size, size)
        # The answer of this handler comes too late.
        return "late"

    with (
        serving(handler, io_threads=io_threads) as server,
        Wire(server.port, receive_buffer=4096) as wire,
    ):
        wire.request("/")
        eventually(server.stats, lambda stats: stats["overflows"] == 1, "counted")
        # Where one thread does all, the reset comes before the head was written.
        assert b"late" not in wire.rest()
        hello(server.port)
        stats = eventually(server.stats, lambda stats: stats["streams"] == 0, "without streams")
        assert stats["stale_commands"] >= 1


def test_commands_for_a_stream_from_many_threads_at_once() -> None:
    def handler(request: Any) -> Any:
        if request.path == "/hello":
            return "hello"
        runtime, stream = server._pump.runtime, request.stream

        def answer() -> None:
            runtime.submit(pack_record(stream, 0, 0, 0, HEAD, 1, 204, 0), 1, b"", 0)

        threads = [threading.Thread(target=answer) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return "too late"

    with serving(handler) as server, Wire(server.port) as wire:
        for _ in range(20):
            assert wire.get("/").status == 204
        hello(server.port)
        # One of nine answers counts each time.
        stats = eventually(server.stats, lambda stats: stats["stale_commands"] >= 160, "counted")
        assert stats["stale_commands"] == 160
