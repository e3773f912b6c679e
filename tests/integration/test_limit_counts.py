"""Every limit that was applied is counted in ``server.stats()`` under its name (mission H16), whatever the protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from server_native import Limits, NativeDirectRequest, NativeDirectResponse
from server_native._bindings import abi
from tests.integration.certificates import Authority, Identity
from tests.integration.clients import H2, Wire, eventually
from tests.integration.h3_clients import H3
from tests.integration.servers import Running, Serve

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"


def read(request: NativeDirectRequest) -> str:
    return str(len(request.body))


def counted(running: Running, name: str) -> int:
    return running.stats()[f"limited_{name}"]


def count(running: Running, name: str, expected: int = 1) -> None:
    eventually(lambda: counted(running, name) == expected, f"{name} counted {expected} times")
    others = {
        other: value
        for other, value in running.stats().items()
        if other.startswith("limited_") and other != f"limited_{name}" and value
    }
    assert others == {}


def send(wire: Wire, data: bytes) -> None:
    wire.send(data)
    wire.rest()


HTTP1: dict[str, tuple[dict[str, int], bytes]] = {
    "body_bytes": ({"body_bytes": 10}, b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 11\r\n\r\n"),
    "head_bytes": ({"head_bytes": 256}, b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"y" * 300),
    "header_fields": ({"header_fields": 2}, b"GET / HTTP/1.1\r\nhost: a\r\nx: y\r\nx: y\r\n\r\n"),
    "uri_bytes": ({"uri_bytes": 64}, b"GET /" + b"a" * 64 + b" HTTP/1.1\r\nhost: a\r\n\r\n"),
    "detection_ms": ({"detection_ms": 40}, b""),
    "head_ms": ({"head_ms": 40}, GET[:20]),
    "idle_ms": ({"idle_ms": 40}, GET),
    "body_rate": (
        {"body_rate": 1_000_000, "body_grace_ms": 40},
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\nx",
    ),
}


@pytest.mark.parametrize("name", HTTP1)
def test_http1(serve: Serve, name: str) -> None:
    limits, data = HTTP1[name]
    running = serve(read, limits=Limits(**limits))
    with Wire(running.address) as wire:
        send(wire, data)
    count(running, name)


def test_a_declared_body_that_is_collected_counts_too(serve: Serve) -> None:
    running = serve(read, limits=Limits(body_rate=1_000_000, body_grace_ms=40))
    with Wire(running.address) as wire:
        send(wire, b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nx")
    count(running, "body_rate")


@pytest.mark.parametrize("name", ["connections", "connections_per_address"])
def test_connections(serve: Serve, name: str) -> None:
    running = serve(read, limits=Limits(**{name: 1}))
    with Wire(running.address) as first, Wire(running.address) as second:
        assert first.get().status == 200
        assert second.get().status == 503
    count(running, name)


def endless(_: NativeDirectRequest) -> NativeDirectResponse:
    def source() -> Any:
        while True:
            yield b"x" * 65_536

    return NativeDirectResponse.stream(source())


def test_a_write_stall(serve: Serve) -> None:
    running = serve(endless, limits=Limits(write_stall_ms=40))
    with Wire(running.address) as wire:
        wire.send(GET)
        count(running, "write_stall_ms")


SLOW_BODIES = [100, 1_000_000]


@pytest.mark.parametrize("size", SLOW_BODIES, ids=["collected", "streamed"])
def test_a_slow_body_over_http2_is_408(serve: Serve, size: int) -> None:
    running = serve(read, limits=Limits(body_rate=1_000_000, body_grace_ms=40))
    with H2(running.address) as client:
        stream = client.open("/", ("content-length", str(size)), method="POST", end=False)
        client.send(stream, b"x")
        assert client.answer(stream).status == 408
    count(running, "body_rate")


def test_http2_keeps_its_own(serve: Serve) -> None:
    limits = Limits(body_bytes=10, uri_bytes=64, header_fields=5, idle_ms=40)
    running = serve(read, limits=limits)
    with H2(running.address) as client:
        assert client.request(method="POST", body=b"x" * 11).status == 413
        assert client.request("/" + "a" * 64).status == 414
        stream = client.open("/", *((f"x-{number}", "y") for number in range(6)))
        assert client.answer(stream).status == 431
        names = ("body_bytes", "uri_bytes", "header_fields", "idle_ms")
        eventually(
            lambda: [counted(running, name) for name in names] == [1, 1, 1, 1],
            "each counted once, and the idle connection closed",
        )


def test_half_a_tls_handshake(serve: Serve, identity: Identity) -> None:
    running = serve(read, limits=Limits(handshake_ms=40), **identity.options)
    with Wire(running.address) as wire:
        send(wire, b"\x16\x03\x01\x02\x00\x01")
    count(running, "handshake_ms")


class TestHttp3:
    """Over QUIC."""

    @pytest.fixture
    def talk(
        self, serve: Serve, authority: Authority, identity: Identity
    ) -> Callable[..., Running]:
        def run(limits: Limits, conversation: Any, handler: Any = read) -> Running:
            running = serve(handler, limits=limits, **identity.options)

            async def main() -> None:
                async with H3.open(running.address, trust=authority.path) as client:
                    await conversation(client)

            asyncio.run(main())
            return running

        return run

    @pytest.mark.parametrize("size", SLOW_BODIES, ids=["collected", "streamed"])
    def test_a_slow_body_is_408(self, talk: Callable[..., Running], size: int) -> None:
        async def conversation(client: H3) -> None:
            stream = client.begin("/", ("content-length", str(size)), method="POST", end=False)
            client.send(stream, b"x")
            await client.wait(lambda: client.known(stream).over)
            assert client.known(stream).status == 408

        limits = Limits(body_rate=1_000_000, body_grace_ms=40)
        count(talk(limits, conversation), "body_rate")

    def test_sizes(self, talk: Callable[..., Running]) -> None:
        async def conversation(client: H3) -> None:
            body = await client.request("/", method="POST", body=b"x" * 11)
            target = await client.request("/" + "a" * 64)
            fields = await client.request("/", *((f"x-{number}", "y") for number in range(6)))
            section = await client.request("/", ("x", "y" * 20_000))
            assert [answer.status for answer in (body, target, fields, section)] == [
                413,
                414,
                431,
                431,
            ]

        running = talk(Limits(body_bytes=10, uri_bytes=64, header_fields=5), conversation)
        names = ("body_bytes", "uri_bytes", "header_fields", "h3_field_section_bytes")
        assert [counted(running, name) for name in names] == [1, 1, 1, 1]

    def test_an_idle_connection(self, talk: Callable[..., Running]) -> None:
        async def conversation(client: H3) -> None:
            assert (await client.request("/")).status == 200
            await client.wait(lambda: client.closed is not None)

        count(talk(Limits(idle_ms=40), conversation), "idle_ms")

    def test_a_write_stall(self, talk: Callable[..., Running]) -> None:
        async def conversation(client: H3) -> None:
            client.stall()
            stream = client.begin("/")
            await client.wait(lambda: client.known(stream).reset is not None)

        running = talk(Limits(write_stall_ms=40), conversation, endless)
        count(running, "write_stall_ms")

    def test_resets(self, talk: Callable[..., Running]) -> None:
        async def handler(_: NativeDirectRequest) -> str:
            await asyncio.sleep(60)
            return "never"

        async def conversation(client: H3) -> None:
            for _ in range(20):
                client.reset(client.begin("/", end=False))
            await client.wait(lambda: client.closed is not None)

        count(talk(Limits(h3_resets=5), conversation, handler), "h3_resets")

    def test_an_unproven_address(self, talk: Callable[..., Running]) -> None:
        async def conversation(client: H3) -> None:
            assert (await client.request("/")).status == 200

        count(talk(Limits(quic_handshakes=0), conversation), "quic_handshakes")


def test_every_count_has_the_name_of_its_limit() -> None:
    names = [name for name, _ in abi.LimitCounts._fields_]
    assert set(names) <= {name for name, _ in abi.Limits._fields_}
