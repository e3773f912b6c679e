"""Limits and timers of mission H16: each gives the answer it promises and hurts no client who does nothing wrong."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator

import pytest

from server_native import ConfigurationError, Limits, NativeDirectRequest, NativeDirectResponse
from tests.integration.clients import H2, Wire, eventually
from tests.integration.servers import PATIENCE, Mode, Serve

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"


async def reads(request: NativeDirectRequest) -> str:
    return str(len(await request.read()))


class TestSizes:
    """Up to the limit is fine, one more is refused."""

    def test_head_bytes(self, serve: Serve) -> None:
        running = serve(lambda _: "ok", limits=Limits(head_bytes=300))
        for filler, status in ((200, 200), (300, 431)):
            with Wire(running.address) as wire:
                assert wire.get("/", "x: " + "y" * filler).status == status

    def test_header_fields(self, serve: Serve) -> None:
        running = serve(lambda request: str(len(request.headers)), limits=Limits(header_fields=10))
        for count, status in ((9, 200), (10, 431)):
            with Wire(running.address) as wire:
                assert (
                    wire.get("/", *(f"x-{number}: y" for number in range(count))).status == status
                )

    def test_uri_bytes(self, serve: Serve) -> None:
        running = serve(lambda _: "ok", limits=Limits(uri_bytes=100))
        for size, status in ((100, 200), (101, 414)):
            with Wire(running.address) as wire:
                assert wire.get("/" + "a" * (size - 1)).status == status

    @pytest.mark.parametrize(
        "limits",
        [{"head_bytes": -1}, {"idle_ms": True}, {"body_bytes": 2**64}, {"connections": "1"}],
    )
    def test_an_impossible_limit_is_refused_when_it_is_made(self, limits: dict[str, int]) -> None:
        with pytest.raises(ConfigurationError):
            Limits(**limits)

    @pytest.mark.parametrize(
        "limits", [{"connections": 0}, {"head_bytes": 1}, {"h2_frame_bytes": 1}, {"idle_ms": 0}]
    )
    def test_an_impossible_limit_is_refused_when_it_is_bound(self, limits: dict[str, int]) -> None:
        from server_native import serve_native_direct

        with pytest.raises(ConfigurationError, match=next(iter(limits))):
            serve_native_direct(
                lambda _: "x",
                port=0,
                limits=Limits(**limits),
                on_ready=lambda server: server.close(),
            )


class TestTimers:
    """Slow or silent clients."""

    def test_a_slow_head_is_408(self, serve: Serve, mode: Mode) -> None:
        running = serve(lambda _request, _body: "ok", mode, limits=Limits(head_ms=50))
        with Wire(running.address) as wire:
            wire.send(GET[:20])
            answer = wire.answer()
            assert (answer.status, answer.header("connection"), wire.rest()) == (408, "close", b"")

    def test_a_slow_second_head_is_408_too(self, serve: Serve) -> None:
        with Wire(serve(lambda _: "ok", limits=Limits(head_ms=50)).address) as wire:
            assert wire.get().status == 200
            wire.send(GET[:20])
            assert (wire.answer().status, wire.rest()) == (408, b"")

    def test_a_second_head_that_begins_behind_the_first_is_408_too(
        self, serve: Serve, mode: Mode
    ) -> None:
        limits = Limits(head_ms=50, idle_ms=600_000)
        running = serve(lambda _request, _body: "ok", mode, limits=limits, routes={"/route": "ok"})
        for first in (GET, GET.replace(b"/", b"/route", 1), GET * 3):
            with Wire(running.address) as wire:
                wire.send(first + GET[:20])
                for _ in range(first.count(b"GET")):
                    assert wire.answer().body == b"ok"
                assert (wire.answer().status, wire.rest()) == (408, b"")

    def test_dripping_does_not_extend_the_time(self, serve: Serve) -> None:
        """slowloris: a byte now and then is not progress."""
        with Wire(serve(lambda _: "ok", limits=Limits(head_ms=100)).address) as wire:
            begin = time.monotonic()

            def drip() -> None:
                with contextlib.suppress(OSError):
                    wire.send(b"GET / HTTP/1.1\r\nhost: a\r\n")
                    while True:
                        wire.send(b"x: y\r\n")
                        time.sleep(0.01)

            dripper = threading.Thread(target=drip)
            dripper.start()
            assert wire.answer().status == 408
            assert time.monotonic() - begin < 2
            wire.socket.close()
            dripper.join()

    def test_silence_after_connecting_is_a_silent_close(self, serve: Serve) -> None:
        for http2 in (True, False):
            with Wire(
                serve(
                    lambda _: "ok", limits=Limits(detection_ms=50, idle_ms=50), http2=http2
                ).address
            ) as wire:
                assert wire.rest() == b""

    def test_half_a_preface_is_a_silent_close(self, serve: Serve) -> None:
        with Wire(serve(lambda _: "ok", limits=Limits(detection_ms=50)).address) as wire:
            wire.send(b"PRI * HTTP/2.0\r\n\r\nSM")
            assert wire.rest() == b""

    def test_an_idle_connection_is_closed_silently(self, serve: Serve, mode: Mode) -> None:
        running = serve(lambda _request, _body: "ok", mode, limits=Limits(idle_ms=50))
        with Wire(running.address) as wire:
            assert wire.get().status == 200
            assert wire.rest() == b""

    def test_a_handler_may_take_longer_than_every_timer(self, serve: Serve) -> None:
        async def handler(_: NativeDirectRequest) -> str:
            await asyncio.sleep(0.3)
            return "late"

        limits = Limits(
            idle_ms=50, head_ms=50, detection_ms=50, body_grace_ms=50, write_stall_ms=50
        )
        running = serve(handler, limits=limits)
        with Wire(running.address) as wire:
            assert wire.get().body == b"late"
        with H2(running.address) as client:
            assert client.request().body == b"late"

    @pytest.mark.parametrize("size", [1_000, 1_000_000])
    def test_a_slow_body_is_408(self, serve: Serve, mode: Mode, size: int) -> None:
        limits = Limits(body_rate=1_000_000, body_grace_ms=50)
        running = serve(lambda _, body: str(len(body)), mode, limits=limits)
        with Wire(running.address) as wire:
            wire.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\nsome" % size)
            answer = wire.answer()
            assert (answer.status, answer.header("connection"), wire.rest()) == (408, "close", b"")

    def test_the_rate_does_not_run_while_the_handler_makes_the_client_wait(
        self, serve: Serve
    ) -> None:
        """Back-pressure is ours, not the client's fault."""
        body = b"x" * 3_000_000
        go_on = threading.Event()

        async def handler(request: NativeDirectRequest) -> str:
            while not go_on.is_set():
                await asyncio.sleep(0.005)
            return str(len(await request.read()))

        running = serve(handler, limits=Limits(body_rate=100_000_000, body_grace_ms=100))
        with Wire(running.address) as wire:
            timer = threading.Timer(0.4, go_on.set)
            timer.start()
            wire.request(method="POST", body=body)
            assert wire.answer().body == b"3000000"
            timer.join()

    def test_a_client_that_takes_nothing_is_reset(self, serve: Serve, mode: Mode) -> None:
        closed = threading.Event()

        def endless() -> Iterator[bytes]:
            try:
                while True:
                    yield b"x" * 65_536
            finally:
                closed.set()

        limits = Limits(write_stall_ms=100)
        running = serve(
            lambda _request, _body: NativeDirectResponse.stream(endless()), mode, limits=limits
        )
        with Wire(running.address, receive_buffer=4096) as wire:
            wire.request()
            assert closed.wait(PATIENCE)
            assert wire.ended_abruptly()

    def test_a_slow_reader_who_takes_something_is_no_stall(self, serve: Serve) -> None:
        body = b"x" * 4_000_000
        running = serve(lambda _: body, limits=Limits(write_stall_ms=300))
        with Wire(running.address, receive_buffer=65_536) as wire:
            wire.request()
            wire.head()
            received = 0
            until = time.monotonic() + 0.6
            while received < len(body):
                received += len(wire.read_exactly(min(100_000, len(body) - received)))
                if time.monotonic() < until:
                    time.sleep(0.03)
            assert received == len(body)

    def test_a_shut_http2_window_ends_the_connection(self, serve: Serve) -> None:
        running = serve(lambda _: b"x" * 1_000_000, limits=Limits(write_stall_ms=100))
        with H2(running.address, acknowledge=False, window=100) as client:
            client.open()
            with contextlib.suppress(ConnectionResetError):
                client.drain()
            eventually(lambda: running.stats()["connections"] == 0, "the connection is gone")


class TestConnections:
    """The next connection gets 503 and a close; places come back."""

    @pytest.mark.parametrize("limits", [Limits(connections=2), Limits(connections_per_address=2)])
    def test_one_too_many(self, serve: Serve, mode: Mode, limits: Limits) -> None:
        running = serve(lambda _request, _body: "ok", mode, limits=limits)
        with Wire(running.address) as first, Wire(running.address) as second:
            assert [first.get().status, second.get().status] == [200, 200]
            with Wire(running.address) as third:
                third.request()
                answer = third.answer()
                assert (answer.status, answer.header("connection"), third.rest()) == (
                    503,
                    "close",
                    b"",
                )
            assert first.get().status == 200, "those inside are not hurt"
            second.socket.close()
            eventually(lambda: running.stats()["connections"] <= 1, "a place is free")
            with Wire(running.address) as fourth:
                assert fourth.get().status == 200
        assert running.stats()["refused"] == 1

    def test_addresses_are_counted_apart(self, serve: Serve) -> None:
        running = serve(lambda _: "ok", limits=Limits(connections_per_address=1))
        with Wire(running.address) as first, Wire(running.address, source="127.0.0.2") as other:
            assert [first.get().status, other.get().status] == [200, 200]
            with Wire(running.address, source="127.0.0.2") as third:
                third.request()
                assert third.answer().status == 503
