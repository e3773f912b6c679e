"""Whoever is slow holds the other side up, in bounded memory: at every hop, in every way a server can run."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from server_native import Limits, NativeDirectRequest, NativeDirectResponse
from tests.integration.clients import H2, Wire, eventually
from tests.integration.servers import PATIENCE, Mode, Serve

#: What may be under way: two socket buffers (Linux gives up to 6 MiB each), the exchange's window, a batch.
BOUND = 20 * 1024 * 1024
OFFERED = 64 * 1024 * 1024
GROWTH = 30 * 1024 * 1024
PIECE = b"x" * 65_536


def resident() -> int:
    """Bytes of memory this process has now."""
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * 4096


class Feeder(threading.Thread):
    """Sends a body as fast as it is taken; counts what was."""

    def __init__(self, wire: Wire, size: int) -> None:
        super().__init__(name="feeder")
        self.sent = 0
        self._wire, self._size = wire, size

    def run(self) -> None:
        head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % self._size
        try:
            self._wire.send(head)
            while self.sent < self._size:
                self.sent += self._wire.socket.send(PIECE[: self._size - self.sent])
        except OSError:
            return


def settles(read: object, what: str) -> int:
    """Waits until a count stays the same for a while; answers it."""
    import time

    assert callable(read)
    last, since, until = read(), time.monotonic(), time.monotonic() + PATIENCE
    while time.monotonic() - since < 0.15:
        assert time.monotonic() < until, f"never settles: {what}"
        time.sleep(0.01)
        if read() != last:
            last, since = read(), time.monotonic()
    assert isinstance(last, int)
    return last


@pytest.mark.parametrize("how", ["task", "task-uvloop", "pool"])
def test_a_handler_that_does_not_read_stops_the_client(serve: Serve, how: str) -> None:
    begun, go_on = threading.Event(), threading.Event()

    async def waits(request: NativeDirectRequest) -> str:
        begun.set()
        while not go_on.is_set():
            await asyncio.sleep(0.005)
        total = 0
        async for chunk in request:
            total += len(chunk)
        return str(total)

    def waits_in_a_thread(request: NativeDirectRequest) -> str:
        begun.set()
        assert go_on.wait(PATIENCE)
        return str(sum(map(len, request)))

    if how == "task-uvloop":
        running = serve.embedded(waits, "uvloop")
    else:
        running = serve(waits if how == "task" else waits_in_a_thread)
    before = resident()
    with Wire(running.address) as wire:
        feeder = Feeder(wire, OFFERED)
        feeder.start()
        assert begun.wait(PATIENCE)
        assert settles(lambda: feeder.sent, "what the server takes") < BOUND
        assert resident() - before < GROWTH
        go_on.set()
        assert wire.answer().body == b"%d" % OFFERED
        feeder.join()
    assert resident() - before < GROWTH


def test_a_handler_that_does_not_read_shuts_the_http2_window(serve: Serve) -> None:
    go_on = threading.Event()

    async def handler(request: NativeDirectRequest) -> str:
        if request.path == "/other":
            return "other"
        while not go_on.is_set():
            await asyncio.sleep(0.005)
        return str(len(await request.read()))

    with H2(serve(handler).address) as client:
        stream = client.open(method="POST", end=False)
        sent = 0
        while (room := client.state.local_flow_control_window(stream)) > 0 and sent < OFFERED:
            size = min(room, client.state.max_outbound_frame_size)
            client.state.send_data(stream, b"x" * size)
            client.flush()
            sent += size
            if client.has_input:
                client.take()
        assert client.request("/other").body == b"other"
        go_on.set()
        client.send(stream, b"x" * 10, end=True)
        assert client.answer(stream).body == b"%d" % (sent + 10)
    assert sent <= 4 * 1024 * 1024


@pytest.mark.parametrize("protocol", ["http1", "http2"])
def test_a_client_that_does_not_read_stops_the_generator(
    serve: Serve, mode: Mode, protocol: str
) -> None:
    """A peer buffers 250 MB here."""
    pulled = 0
    closed = threading.Event()

    def chunks() -> Iterator[bytes]:
        nonlocal pulled
        try:
            for _ in range(OFFERED * 16 // len(PIECE)):
                pulled += len(PIECE)
                yield PIECE
        finally:
            closed.set()

    async def chunks_async() -> AsyncIterator[bytes]:
        for chunk in chunks():
            yield chunk

    def handler(_: NativeDirectRequest, __: bytes) -> NativeDirectResponse:
        return NativeDirectResponse.stream(chunks_async() if mode.asynchronous else chunks())

    running = serve(handler, mode)
    before = resident()
    client: Wire | H2
    if protocol == "http1":
        client = Wire(running.address, receive_buffer=65_536)
        client.request()
    else:
        client = H2(running.address, acknowledge=False)
        client.open()
    with client:
        eventually(lambda: pulled > 0, "the generator begins")
        assert settles(lambda: pulled, "the generator") < BOUND
        assert resident() - before < GROWTH
    eventually(lambda: running.stats()["streams"] == 0, "the stream is gone")


@pytest.mark.parametrize("how", ["task", "task-uvloop", "pool"])
def test_an_upload_read_slowly_stays_small(serve: Serve, how: str) -> None:
    before = resident()
    peak = 0

    async def slow(request: NativeDirectRequest) -> str:
        nonlocal peak
        total = at = 0
        async for chunk in request:
            total += len(chunk)
            if (at := at + 1) % 20 == 0:
                peak = max(peak, resident())
                await asyncio.sleep(0.001)
        return str(total)

    def slow_in_a_thread(request: NativeDirectRequest) -> str:
        nonlocal peak
        total = 0
        for at, chunk in enumerate(request):
            total += len(chunk)
            if at % 20 == 0:
                peak = max(peak, resident())
                threading.Event().wait(0.001)
        return str(total)

    if how == "task-uvloop":
        running = serve.embedded(slow, "uvloop")
    else:
        running = serve(slow if how == "task" else slow_in_a_thread)
    with Wire(running.address) as wire:
        feeder = Feeder(wire, OFFERED)
        feeder.start()
        assert wire.answer().body == b"%d" % OFFERED
        feeder.join()
    assert peak - before < GROWTH


def test_a_download_to_a_slow_client_stays_small(serve: Serve, mode: Mode) -> None:
    running = serve(
        lambda _request, _body: NativeDirectResponse.stream(
            PIECE for _ in range(OFFERED // len(PIECE))
        ),
        mode,
    )
    before, peak, total = resident(), 0, 0
    with Wire(running.address, receive_buffer=262_144) as wire:
        wire.send(b"GET / HTTP/1.0\r\n\r\n")
        wire.head()
        while data := wire.socket.recv(262_144):
            total += len(data)
            peak = max(peak, resident())
    assert OFFERED - 300_000 < total <= OFFERED
    assert peak - before < GROWTH


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems grow less")
def test_the_system_keeps_little_for_a_client_that_does_not_read(serve: Serve) -> None:
    """Else each of them had 4 MiB of kernel memory beside what `send_window` bounds."""
    made = 0
    over = threading.Event()

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal made
        try:
            while True:
                made += len(PIECE)
                yield PIECE
        finally:
            over.set()

    async def handler(request: NativeDirectRequest) -> NativeDirectResponse:
        return NativeDirectResponse.stream(pieces())

    running = serve(handler, limits=Limits(write_stall_ms=500))
    with Wire(running.address, receive_buffer=4096) as wire:
        wire.request()
        assert over.wait(PATIENCE)
    assert made < 1024 * 1024 + 2 * len(PIECE)
