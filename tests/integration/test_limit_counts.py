"""Every limit that was applied is counted in ``server.stats()`` under its name (mission H16), whatever the protocol."""

from __future__ import annotations

import asyncio
import itertools
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import h2.errors
import pytest

from server_native import Limits, NativeDirectRequest, NativeDirectResponse
from server_native._bindings import abi
from tests.integration.certificates import Authority, Identity
from tests.integration.clients import H2, Wire, eventually
from tests.integration.h3_clients import H3
from tests.integration.servers import PATIENCE, Running, Serve

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


def test_http2_resets_of_requests_that_have_not_begun(serve: Serve) -> None:
    running = serve(read, limits=Limits(h2_pending_resets=20))
    with H2(running.address) as client, suppress(BrokenPipeError, ConnectionResetError):
        fields = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")]
        for _ in range(100):
            stream = client.state.get_next_available_stream_id()
            client.state.send_headers(stream, fields, end_stream=True)
            client.state.reset_stream(stream)
        # All at once: none is begun before its reset is read.
        client.flush()
        # To the end: a close before what was sent is read would reset the connection, and it with it.
        while client.socket.recv(65_536):
            continue
    count(running, "h2_pending_resets")


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


def asked(client: H2, number: int) -> list[int]:
    return [client.open("/wait") for _ in range(number)]


def resetting(client: H2, streams: list[int]) -> None:
    for stream in streams:
        client.state.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)
    client.flush()


async def waiting(request: NativeDirectRequest) -> str:
    if request.path == "/wait":
        await asyncio.sleep(60)
    return "there"


def test_resets_of_begun_requests_end_an_http2_connection(serve: Serve) -> None:
    running = serve(waiting, limits=Limits(h2_resets=5))
    with H2(running.address) as client:
        streams = asked(client, 8)
        eventually(lambda: running.stats()["streams"] == 8, "all have begun")
        resetting(client, streams)
        client.drain()
        codes = [goaway.error_code for goaway in client.goaways]
        assert codes == [h2.errors.ErrorCodes.ENHANCE_YOUR_CALM]
    eventually(lambda: running.stats()["streams"] == 0, "no stream is left")
    count(running, "h2_resets")


def test_who_leaves_a_page_cancels_all_streams_at_once(serve: Serve) -> None:
    """The default allows it: as many resets in a second as there may be streams."""
    running = serve(waiting)
    with H2(running.address) as client:
        streams = asked(client, Limits().h2_streams)
        eventually(lambda: running.stats()["streams"] == len(streams), "all have begun")
        resetting(client, streams)
        eventually(lambda: running.stats()["streams"] == 0, "all are cancelled")
        assert client.request("/").body == b"there"
    assert counted(running, "h2_resets") == 0


def test_a_stalled_stream_is_reset_while_another_moves_on(serve: Serve) -> None:
    """Endless and complete answers alike; who still takes something is left alone."""
    over = threading.Event()

    def handler(request: NativeDirectRequest) -> NativeDirectResponse | bytes:
        def source() -> Any:
            try:
                while True:
                    yield b"x" * 1000
            finally:
                over.set()

        if request.path == "/whole":
            return b"x" * 1000
        return NativeDirectResponse.stream(source())

    running = serve(handler, limits=Limits(write_stall_ms=400))
    with H2(running.address, acknowledge=False, window=10) as client:
        endless, whole, moving = client.open("/endless"), client.open("/whole"), client.open("/")
        stalled = (endless, whole)
        while any(client.known(stream).reset is None for stream in stalled):
            client.state.increment_flow_control_window(1, moving)
            client.flush()
            seen = len(client.known(moving).body)
            client.wait(lambda seen=seen: len(client.known(moving).body) > seen)  # type: ignore[misc]
        resets = {client.known(stream).reset for stream in stalled}
        assert resets == {h2.errors.ErrorCodes.CANCEL}
        assert over.wait(PATIENCE), "the host was told"
        assert client.known(moving).reset is None
        count(running, "write_stall_ms", 2)


def test_an_http2_connection_of_which_nothing_moves_is_ended(serve: Serve) -> None:
    running = serve(endless, limits=Limits(write_stall_ms=40))
    with H2(running.address, window=0) as client:
        for _ in range(3):
            client.open("/")
        with pytest.raises(ConnectionResetError):
            client.drain()
        count(running, "write_stall_ms")


def test_a_peer_that_answers_no_ping(serve: Serve) -> None:
    running = serve(waiting, limits=Limits(h2_ping_ms=40))
    with H2(running.address) as client:
        client.wait(lambda: client.state.remote_settings.max_concurrent_streams == 200)
        raw = client.socket
        while raw.recv(65_536):
            pass
    count(running, "h2_ping_ms")


def test_no_http2_preface_after_tls(serve: Serve, authority: Authority, identity: Identity) -> None:
    running = serve(read, limits=Limits(detection_ms=40), **identity.options)
    with (
        Wire(running.address, tls=authority.context("h2")) as wire,
        pytest.raises(ssl.SSLEOFError),
    ):
        wire.rest()
    count(running, "detection_ms")


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

    def test_a_client_that_vanishes(self, talk: Callable[..., Running]) -> None:
        async def conversation(client: H3) -> None:
            assert (await client.request("/")).status == 200
            client.vanish()

        count(talk(Limits(quic_idle_ms=60), conversation), "quic_idle_ms")

    def test_resets(self, talk: Callable[..., Running]) -> None:
        async def handler(_: NativeDirectRequest) -> str:
            await asyncio.sleep(60)
            return "never"

        async def conversation(client: H3) -> None:
            for _ in range(20):
                client.reset(client.begin("/", end=False))
            await client.wait(lambda: client.closed is not None)

        count(talk(Limits(h3_resets=5), conversation, handler), "h3_resets")

    def test_a_client_that_allows_no_control_stream(
        self, serve: Serve, authority: Authority, identity: Identity
    ) -> None:
        """It only pings: neither silence nor an idle time would end it, and a stop would wait for it."""
        running = serve(read, limits=Limits(handshake_ms=400), **identity.options)

        async def main() -> None:
            opened = H3.open(running.address, trust=authority.path, unidirectional=0)
            async with opened as client:
                for number in itertools.count():
                    client.quic.send_ping(number)
                    client.transmit()
                    client._changed.clear()
                    await client._changed.wait()
                    if client.closed is not None:
                        return

        asyncio.run(asyncio.wait_for(main(), PATIENCE))
        count(running, "handshake_ms")
        eventually(lambda: running.stats()["connections"] == 0, "it is gone")

    def test_an_unproven_address(self, talk: Callable[..., Running]) -> None:
        async def conversation(client: H3) -> None:
            assert (await client.request("/")).status == 200

        count(talk(Limits(quic_handshakes=0), conversation), "quic_handshakes")


def test_every_count_has_the_name_of_its_limit() -> None:
    names = [name for name, _ in abi.LimitCounts._fields_]
    assert set(names) <= {name for name, _ in abi.Limits._fields_}
