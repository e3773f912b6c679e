"""Several addresses, one server: every listener has the handler, the routes and the stop of all."""

from __future__ import annotations

import asyncio
import functools
import inspect
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from server_native import (
    ConfigurationError,
    NativeDirectRequest,
    NativeDirectResponse,
    NativeMultiServer,
    NativeServer,
    NativeServerBind,
    errors,
    new_event_loop,
    serve_native_multi,
    serve_secure_native_multi,
    start_native_multi,
    start_secure_native_multi,
)
from tests.integration.clients import Wire, eventually

BINDS = [NativeServerBind(), NativeServerBind("127.0.0.2"), NativeServerBind("127.0.0.1")]


def hello(request: NativeDirectRequest) -> str:
    return f"{request.server[0]}:{request.server[1]}"


async def hello_async(request: NativeDirectRequest) -> str:
    return hello(request)


handlers = pytest.mark.parametrize("handler", [hello, hello_async])
loops = pytest.mark.parametrize("loop", [asyncio.new_event_loop, new_event_loop])


def run(loop: Callable[[], asyncio.AbstractEventLoop], main: Any) -> None:
    made = loop()
    try:
        made.run_until_complete(main())
    finally:
        made.close()


def places(server: NativeServer) -> list[tuple[str, int]]:
    return [(host, port) for host, port in server.addresses if port is not None]


def ask(place: tuple[str, int], path: str = "/") -> bytes:
    with Wire(place) as wire:
        return wire.get(path).body


def check(server: NativeServer) -> None:
    """Every address is served, in the order of the binds."""
    found = places(server)
    assert [host for host, _ in found] == [bind.host for bind in BINDS]
    # Two addresses may get the same port, one address never.
    assert len(set(found)) == len(BINDS)
    for host, port in found:
        assert ask((host, port)) == f"{host}:{port}".encode()
        assert ask((host, port), "/constant") == b"constant"
    assert server.port == found[0][1]
    assert server.url == f"http://127.0.0.1:{server.port}"


def refuses(place: tuple[str, int]) -> bool:
    try:
        socket.create_connection(place, timeout=10).close()
    except ConnectionRefusedError:
        return True
    return False


def check_closed(found: list[tuple[str, int]]) -> None:
    assert [place for place in found if not refuses(place)] == []


ROUTES = {"/constant": NativeDirectResponse.text("constant")}


@handlers
@pytest.mark.parametrize("io_threads", [0, 1, 2])
def test_a_blocking_server_at_several_addresses(handler: Any, io_threads: int) -> None:
    served: list[list[tuple[str, int]]] = []
    failures: list[BaseException] = []

    def look(server: NativeServer) -> None:
        try:
            served.append(places(server))
            check(server)
        except BaseException as error:  # noqa: BLE001 - raised again in the test's thread
            failures.append(error)
        finally:
            server.close(grace=0.2)

    def ready(server: NativeServer) -> None:
        threads.append(threading.Thread(target=look, args=(server,)))
        threads[0].start()

    threads: list[threading.Thread] = []
    serve_native_multi(
        handler, BINDS, on_ready=ready, io_threads=io_threads, grace=0.2, routes=ROUTES
    )
    threads[0].join()
    assert failures == []
    check_closed(served[0])


@handlers
@loops
def test_inside_a_loop_at_several_addresses(handler: Any, loop: Any) -> None:
    async def main() -> None:
        async with start_native_multi(handler, iter(BINDS), grace=0.2, routes=ROUTES) as server:
            assert isinstance(server, NativeMultiServer)
            await asyncio.to_thread(check, server)
            found = places(server)
        check_closed(found)

    run(loop, main)


def test_stopping_ends_the_connections_of_every_listener() -> None:
    release = threading.Event()

    def slow(_: NativeDirectRequest) -> str:
        release.wait(10)
        return "done"

    async def main() -> None:
        server = await start_native_multi(slow, BINDS, threads=len(BINDS), grace=5.0)
        wires = [Wire(place) for place in places(server)]
        for wire in wires:
            wire.request()
        await asyncio.to_thread(
            eventually, lambda: server.stats()["streams"] == len(wires), "a request on every one"
        )
        over = server.close()
        # It has only begun to stop: the listeners close as soon as the native side gets to it.
        for place in places(server):
            await asyncio.to_thread(eventually, functools.partial(refuses, place), f"{place} shut")
        release.set()
        for wire in wires:
            # What is in flight is answered, wherever it came in, and the connection ends.
            answer = await asyncio.to_thread(wire.answer)
            assert (answer.body, answer.header("connection")) == (b"done", "close")
            assert wire.rest() == b""
            wire.socket.close()
        await over

    asyncio.run(main())


def test_when_one_address_cannot_be_had_none_is_served() -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            taken = other.getsockname()[1]
            with socket.create_server(("127.0.0.2", 0)) as probe:
                free = probe.getsockname()[1]
            binds = [NativeServerBind("127.0.0.2", free), NativeServerBind("127.0.0.1", taken)]
            with pytest.raises(errors.AddressInUseError, match=f"127.0.0.1:{taken}"):
                await start_native_multi(hello_async, binds)
            check_closed([("127.0.0.2", free)])

    asyncio.run(main())


NOTHING = r"^binds must be a list of at least one NativeServerBind, found \(\)$"
FILES: Any = {"certificate_path": "chain.pem", "key_path": "key.pem"}


@pytest.mark.parametrize(
    ("start", "options"),
    [
        (serve_native_multi, {}),
        (start_native_multi, {}),
        (NativeMultiServer.bind, {}),
        (serve_secure_native_multi, FILES),
        (start_secure_native_multi, FILES),
        (NativeMultiServer.bind_secure, FILES),
    ],
)
def test_no_binds_are_an_error(start: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=NOTHING):
        start(hello, [], **options)


class TestNativeMultiServer:
    """The class methods: each can be awaited or entered."""

    def test_bind_takes_a_list_of_binds(self) -> None:
        async def main() -> None:
            async with NativeMultiServer.bind(hello, BINDS, routes=ROUTES) as server:
                await asyncio.to_thread(check, server)

        asyncio.run(main())

    def test_bind_takes_a_host_and_a_port(self) -> None:
        async def main() -> None:
            server = await NativeMultiServer.bind(hello_async, "127.0.0.2")
            assert isinstance(server, NativeMultiServer)
            async with server:
                ((host, port),) = places(server)
                assert await asyncio.to_thread(ask, (host, port)) == f"127.0.0.2:{port}".encode()
            check_closed([(host, port)])
            async with NativeMultiServer.bind(hello_async, "127.0.0.2", port) as server:
                assert server.port == port

        asyncio.run(main())

    def test_binds_have_ports_of_their_own(self) -> None:
        with pytest.raises(ConfigurationError, match="found port=80 beside them"):
            NativeMultiServer.bind(hello, BINDS, 80)

    def test_loopback_is_localhost(self) -> None:
        async def main() -> None:
            async with (
                NativeMultiServer.loopback(hello) as server,
                NativeMultiServer.bind(hello, "localhost") as same,
            ):
                assert [host for host, _ in server.addresses] == [
                    host for host, _ in same.addresses
                ]
                assert len({port for _, port in server.addresses}) == 1
                for place in places(server):
                    assert await asyncio.to_thread(ask, place)

        asyncio.run(main())

    def test_a_server_may_be_closed_in_its_block(self) -> None:
        async def main() -> None:
            async with await NativeMultiServer.loopback(hello_async) as server:
                await server.close(grace=0.0)

        asyncio.run(main())


def test_documentation_tools_see_every_option() -> None:
    assert "handler_timeout" in inspect.signature(NativeMultiServer.bind).parameters
    assert "certificates" in inspect.signature(NativeMultiServer.loopback_secure).parameters
