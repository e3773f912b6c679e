"""Asynchronous handlers are ordinary asyncio: tasks, timeouts, context, anyio; and our loop is an ordinary loop."""

from __future__ import annotations

import asyncio
import contextvars
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest
import uvloop

import server_native
from server_native import NativeDirectRequest, NativeServer, start_native_direct
from tests.integration.clients import Wire
from tests.integration.servers import PATIENCE, Serve

LOOPS = ["blocking", "asyncio", "native", "uvloop"]
_FACTORIES: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.SelectorEventLoop,
    "native": server_native.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


@pytest.fixture(params=LOOPS)
def where(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def start(
    serve: Serve, handler: Callable[[NativeDirectRequest], object], where: str
) -> tuple[str, int]:
    running = serve(handler) if where == "blocking" else serve.embedded(handler, where)
    return running.address


def test_a_handler_runs_as_one_task_of_its_own(serve: Serve, where: str) -> None:
    made: list[asyncio.Task[object]] = []
    seen: list[asyncio.Task[object] | None] = []

    async def handler(_: NativeDirectRequest) -> str:
        first = asyncio.current_task()
        await asyncio.sleep(0)
        assert asyncio.current_task() is first
        seen.append(first)
        made.extend(task for task in asyncio.all_tasks() if task not in made)
        return ""

    with Wire(start(serve, handler, where)) as wire:
        for _ in range(5):
            assert wire.get().status == 200
    assert None not in seen
    assert len({id(task) for task in seen}) == 5, "no task is used twice"
    # One more at most: the task the loop itself was started with.
    assert len(set(made) - set(seen)) <= 1


def test_a_handler_that_never_waits_is_a_task_too(serve: Serve, where: str) -> None:
    async def handler(_: NativeDirectRequest) -> str:
        task = asyncio.current_task()
        assert task is not None
        assert asyncio.get_running_loop() is task.get_loop()
        return "ok"

    with Wire(start(serve, handler, where)) as wire:
        assert wire.get().body == b"ok"


variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


def test_context_belongs_to_one_request(serve: Serve, where: str) -> None:
    async def handler(request: NativeDirectRequest) -> str:
        before = variable.get()
        variable.set(request.path)
        await asyncio.sleep(0.001)
        inner = await asyncio.create_task(_read_variable())
        return f"{before} {variable.get()} {inner}"

    with Wire(start(serve, handler, where)) as wire:
        for path in ("/a", "/b"):
            assert wire.get(path).body == f"unset {path} {path}".encode()


async def _read_variable() -> str:
    return variable.get()


@pytest.mark.skipif(
    sys.version_info < (3, 11), reason="asyncio.timeout and TaskGroup came with 3.11"
)
def test_timeouts_and_task_groups_of_asyncio(serve: Serve, where: str) -> None:
    # Types are checked for 3.10.
    later: Any = asyncio

    async def handler(request: NativeDirectRequest) -> str:
        if request.path == "/timeout":
            try:
                async with later.timeout(0.01):
                    await asyncio.Event().wait()
            except TimeoutError:
                return "late"
        async with later.TaskGroup() as group:
            tasks = [group.create_task(asyncio.sleep(0.001, number)) for number in range(3)]
        return str(sum(task.result() for task in tasks))

    with Wire(start(serve, handler, where)) as wire:
        assert [wire.get("/timeout").body, wire.get("/").body] == [b"late", b"3"]


def test_anyio(serve: Serve, where: str) -> None:
    async def handler(request: NativeDirectRequest) -> str:
        if request.path == "/timeout":
            with anyio.move_on_after(0.01) as scope:
                await anyio.sleep_forever()
            return f"cancelled {scope.cancelled_caught}"
        results: list[int] = []

        async def child(number: int) -> None:
            await anyio.sleep(0.001)
            results.append(number)

        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(child, number)
        results.append(await anyio.to_thread.run_sync(lambda: 10))
        return str(sum(results))

    with Wire(start(serve, handler, where)) as wire:
        assert [wire.get("/timeout").body, wire.get("/").body] == [b"cancelled True", b"13"]


def test_requests_run_side_by_side(serve: Serve, where: str) -> None:
    """A hundred handlers that wait for the last of them."""
    arrived = 0
    everybody = asyncio.Event()

    async def handler(_: NativeDirectRequest) -> str:
        nonlocal arrived
        arrived += 1
        if arrived == 100:
            everybody.set()
        await everybody.wait()
        return "met"

    address = start(serve, handler, where)
    wires = [Wire(address) for _ in range(100)]
    for wire in wires:
        wire.request()
    for wire in wires:
        assert wire.answer().body == b"met"
        wire.socket.close()


@pytest.fixture(params=["native", "asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> Iterator[asyncio.AbstractEventLoop]:
    """A loop of each kind, closed after the test."""
    made = _FACTORIES[str(request.param)]()
    yield made
    made.close()


async def hello(request: NativeDirectRequest) -> str:
    return f"hello {request.path}"


async def fetch(server: NativeServer, path: str = "/") -> bytes:
    """A client on the same loop."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(f"GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".encode())
    data = await reader.read()
    writer.close()
    await writer.wait_closed()
    return data.partition(b"\r\n\r\n")[2]


class TestOnALoop:
    """``start_native_direct`` beside other users of the same loop."""

    def test_the_block_is_the_servers_life(self, loop: asyncio.AbstractEventLoop) -> None:
        async def main() -> None:
            async with start_native_direct(hello) as server:
                assert server.port > 0
                assert server.url == f"http://127.0.0.1:{server.port}"
                assert server.addresses == (("127.0.0.1", server.port),)
                assert await fetch(server, "/a") == b"hello /a"
            with pytest.raises(ConnectionRefusedError):
                await fetch(server)

        loop.run_until_complete(main())

    def test_awaiting_leaves_closing_to_the_caller(self, loop: asyncio.AbstractEventLoop) -> None:
        async def main() -> None:
            server = await start_native_direct(hello)
            assert await fetch(server) == b"hello /"
            await server.close(grace=0.1)
            await server.close(grace=0.1)

        loop.run_until_complete(main())

    def test_two_servers_on_one_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        async def main() -> None:
            async with start_native_direct(hello) as first, start_native_direct(hello) as second:
                answers = await asyncio.gather(
                    *(fetch(server, "/x") for server in (first, second) for _ in range(10))
                )
                assert answers == [b"hello /x"] * 20

        loop.run_until_complete(main())

    def test_one_after_the_other(self, loop: asyncio.AbstractEventLoop) -> None:
        async def main() -> None:
            for _ in range(5):
                async with start_native_direct(hello) as server:
                    assert await fetch(server) == b"hello /"

        loop.run_until_complete(main())

    def test_a_shutdown_signal_of_each_kind(self, loop: asyncio.AbstractEventLoop) -> None:
        async def main() -> None:
            event, future = asyncio.Event(), loop.create_future()
            threading_event = threading.Event()
            setters: list[tuple[object, Callable[[], object]]] = [
                (event, event.set),
                (future, lambda: future.set_result(None)),
                (threading_event, threading_event.set),
                (asyncio.sleep(0.01), lambda: None),
            ]
            for signal, fire in setters:
                server = await start_native_direct(hello, shutdown_signal=signal, grace=0.1)  # type: ignore[arg-type]
                fire()
                await asyncio.wait_for(server.close(), PATIENCE)

        loop.run_until_complete(main())

    def test_a_foreign_reader_that_takes_one_byte_at_a_time_is_not_forgotten(
        self, loop: asyncio.AbstractEventLoop
    ) -> None:
        """asyncio promises level-triggered readiness: as long as there is input, the callback is called again.

        The runtime sees our selector's descriptor edge-triggered; a prototype stalled here.
        """

        async def main() -> None:
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            received = bytearray()
            everything = asyncio.Event()

            def take_one() -> None:
                received.extend(ours.recv(1))
                if len(received) % 300 == 0:
                    everything.set()

            async with start_native_direct(hello) as server:
                loop.add_reader(ours, take_one)
                for round_ in range(1, 6):
                    theirs.send(b"x" * 300)
                    await asyncio.wait_for(everything.wait(), PATIENCE)
                    everything.clear()
                    assert len(received) == round_ * 300
                    assert await fetch(server) == b"hello /", "and the server is not starved"
                loop.remove_reader(ours)
            ours.close()
            theirs.close()

        loop.run_until_complete(main())

    def test_a_foreign_writer_and_reader_share_the_loop_with_requests(
        self, loop: asyncio.AbstractEventLoop
    ) -> None:
        async def main() -> None:
            async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                while data := await reader.read(1000):
                    writer.write(data)
                    await writer.drain()
                writer.close()

            async with start_native_direct(hello) as server:
                foreign = await asyncio.start_server(echo, "127.0.0.1", 0)
                reader, writer = await asyncio.open_connection(*foreign.sockets[0].getsockname())
                for _ in range(20):
                    writer.write(b"x" * 5000)
                    answer, data = await asyncio.gather(fetch(server), reader.readexactly(5000))
                    assert (answer, data) == (b"hello /", b"x" * 5000)
                writer.close()
                await writer.wait_closed()
                foreign.close()
                await foreign.wait_closed()

        loop.run_until_complete(main())

    def test_call_soon_threadsafe_wakes_an_idle_server(
        self, loop: asyncio.AbstractEventLoop
    ) -> None:
        async def main() -> None:
            async with start_native_direct(hello):
                for _ in range(20):
                    future: asyncio.Future[float] = loop.create_future()
                    asked = time.monotonic()
                    thread = threading.Thread(
                        target=lambda future=future: loop.call_soon_threadsafe(
                            future.set_result, None
                        )
                    )
                    thread.start()
                    await asyncio.wait_for(future, PATIENCE)
                    assert time.monotonic() - asked < 1
                    thread.join()

        loop.run_until_complete(main())

    def test_timers_fire_in_order_and_on_time(self, loop: asyncio.AbstractEventLoop) -> None:
        async def main() -> None:
            async with start_native_direct(hello):
                fired: list[float] = []
                begin = loop.time()
                delays = (0.05, 0.0, 0.02, 0.01, 0.035)
                for delay in delays:
                    loop.call_later(delay, fired.append, delay)
                cancelled = loop.call_later(0.015, fired.append, -1.0)
                cancelled.cancel()
                await asyncio.sleep(0.06)
                assert fired == sorted(delays)
                assert 0.059 <= loop.time() - begin < 0.5

        loop.run_until_complete(main())

    def test_subprocesses_work(self, loop: asyncio.AbstractEventLoop) -> None:
        async def main() -> None:
            async def shells(_: NativeDirectRequest) -> bytes:
                process = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
                output, _error = await process.communicate(b"through a pipe")
                assert process.returncode == 0
                return output

            async with start_native_direct(shells) as server:
                answers = await asyncio.gather(*(fetch(server) for _ in range(3)))
                assert answers == [b"through a pipe"] * 3

        # Before 3.12 the watcher of children needs a loop that the main thread knows.
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(main())
        finally:
            asyncio.set_event_loop(None)

    def test_the_loop_goes_on_after_the_server(self, loop: asyncio.AbstractEventLoop) -> None:
        async def main() -> None:
            async with start_native_direct(hello) as server:
                assert await fetch(server) == b"hello /"
            assert await asyncio.sleep(0.001, "still here") == "still here"
            assert await loop.run_in_executor(None, lambda: 7) == 7

        loop.run_until_complete(main())
        loop.run_until_complete(loop.shutdown_default_executor())

    def test_closing_cancels_handlers_that_are_left(self, loop: asyncio.AbstractEventLoop) -> None:
        async def main() -> None:
            begun, cancelled = asyncio.Event(), asyncio.Event()

            async def stuck(_: NativeDirectRequest) -> str:
                begun.set()
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    cancelled.set()
                    raise
                return ""

            server = await start_native_direct(stuck)
            client = asyncio.create_task(fetch(server))
            await asyncio.wait_for(begun.wait(), PATIENCE)
            await asyncio.wait_for(server.close(grace=0.05), PATIENCE)
            assert cancelled.is_set()
            client.cancel()
            await asyncio.wait([client])

        loop.run_until_complete(main())


def test_io_threads_0_needs_a_loop_of_ours() -> None:
    async def main() -> None:
        with pytest.raises(server_native.ConfigurationError, match="new_event_loop"):
            await start_native_direct(hello, io_threads=0)

    asyncio.run(main())
