"""Two GiB up, read slowly, and two GiB down, to a slow client: the server's process never holds 100 MiB.

The server is a process of its own, so that its peak (``VmHWM``) is measured and nothing else; the client here
sends and takes as the other side allows. Slow means that whoever is slow pauses now and then, not that the
test takes for ever.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.clients import Wire

SIZE = 2 * 1024**3
PEAK = 100 * 1024**2
PIECE = b"x" * 262_144

SERVER = """
import asyncio, sys, time
from server_native import NativeDirectResponse, serve_native_direct

size, mode = int(sys.argv[1]), sys.argv[2]
piece = b"x" * 65536

async def up_async(request):
    total = since = 0
    async for chunk in request:
        total += len(chunk)
        since += len(chunk)
        if since > 8 << 20:
            since = 0
            await asyncio.sleep(0.005)
    return str(total)

def up(request):
    total = since = 0
    for chunk in request:
        total += len(chunk)
        since += len(chunk)
        if since > 8 << 20:
            since = 0
            time.sleep(0.005)
    return str(total)

def down():
    pieces = (piece for _ in range(size // len(piece)))
    return NativeDirectResponse.stream(pieces, headers={"content-length": str(size)})

async def handler_async(request):
    return await up_async(request) if request.method == "POST" else down()

def handler(request):
    return up(request) if request.method == "POST" else down()

options = {"inline": {}, "pool": {"threads": 2}, "task": {}, "task-io": {"io_threads": 1}}[mode]
serve_native_direct(
    handler_async if mode.startswith("task") else handler,
    port=0, grace=1.0, on_ready=lambda server: print(server.port, flush=True), **options,
)
"""


@contextmanager
def server(mode: str) -> Iterator[tuple[tuple[str, int], Path]]:
    """A server process; its address, and where the kernel says how large it is."""
    command = [sys.executable, "-W", "error", "-c", SERVER, str(SIZE), mode]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    ) as process:
        assert process.stdout is not None
        try:
            port = int(process.stdout.readline())
            yield ("127.0.0.1", port), Path(f"/proc/{process.pid}/status")
        finally:
            process.terminate()
            assert process.wait(20) == 0


def peak(status: Path) -> int:
    """The most bytes of memory the process ever had."""
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


@pytest.mark.conformance
@pytest.mark.parametrize("mode", ["inline", "pool", "task", "task-io"])
def test_a_large_upload_read_slowly(mode: str) -> None:
    with server(mode) as (address, status), Wire(address) as wire:
        wire.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % SIZE)
        for _ in range(SIZE // len(PIECE)):
            wire.send(PIECE)
        assert wire.answer().body == b"%d" % SIZE
        assert peak(status) < PEAK


@pytest.mark.conformance
@pytest.mark.parametrize("mode", ["inline", "pool", "task", "task-io"])
def test_a_large_download_to_a_slow_client(mode: str) -> None:
    with server(mode) as (address, status), Wire(address) as wire:
        wire.request()
        wire.head()
        received = since = 0
        buffer = bytearray(1 << 20)
        received += len(wire.buffered())
        while received < SIZE:
            count = wire.socket.recv_into(buffer)
            assert count, "the connection ended early"
            received += count
            since += count
            if since > 8 << 20:
                since = 0
                time.sleep(0.005)
        assert received == SIZE
        assert peak(status) < PEAK
