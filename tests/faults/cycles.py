"""Starts and stops servers over and over under load, then prints what is left.

``python -m tests.faults.cycles thread 20``
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from server_native import NativeServer, new_event_loop, serve_native_direct, start_native_direct

#: Requests that must be answered before a server is stopped.
ENOUGH = 20


class Load:
    """Clients that never let off."""

    def __init__(self) -> None:
        self.port = 0
        self.answered = 0
        self.enough = threading.Event()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._hammer) for _ in range(4)]
        for thread in self._threads:
            thread.start()

    def aim(self, port: int) -> None:
        self.answered = 0
        self.enough.clear()
        self.port = port

    def end(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _hammer(self) -> None:
        request = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
        upload = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n" + b"x" * 50_000
        while not self._over.is_set():
            port = self.port
            with (
                suppress(OSError),
                socket.create_connection(("127.0.0.1", port), timeout=20) as wire,
            ):
                for _ in range(10):
                    wire.sendall(request)
                    if not wire.recv(65536).startswith(b"HTTP/1.1 200"):
                        break
                    self.answered += 1
                    if self.answered >= ENOUGH:
                        self.enough.set()
                # Half a body is in flight when the server stops.
                wire.sendall(upload)


def plain(request: Any) -> str:
    return str(len(request.body))


async def asynchronous(request: Any) -> str:
    return str(len(await request.read()))


def in_thread(load: Load, **options: Any) -> None:
    """One round of a blocking server in a thread of its own."""
    ready = threading.Event()
    servers: list[NativeServer] = []

    def on_ready(server: NativeServer) -> None:
        servers.append(server)
        ready.set()

    thread = threading.Thread(
        target=lambda: serve_native_direct(plain, port=0, on_ready=on_ready, **options)
    )
    thread.start()
    assert ready.wait(20)
    load.aim(servers[0].port)
    assert load.enough.wait(20), load.answered
    servers[0].close(grace=0.02)
    thread.join(20)
    assert not thread.is_alive()


async def in_loop(load: Load) -> None:
    """One round of a server in the loop that runs."""
    async with start_native_direct(asynchronous, grace=0.02) as server:
        load.aim(server.port)
        while not load.enough.is_set():
            await asyncio.sleep(0.001)


def settled_tasks() -> int:
    """Threads the kernel knows; a thread that was joined needs a moment to be gone there."""
    until = time.monotonic() + 5
    while True:
        count = len(list(Path("/proc/self/task").iterdir()))
        if count == threading.active_count() or time.monotonic() >= until:
            return count
        time.sleep(0.01)


def left() -> dict[str, Any]:
    """What this process holds."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "tasks": settled_tasks(),
        "descriptors": len(os.listdir("/proc/self/fd")),  # noqa: PTH208
        "resident": pages * os.sysconf("SC_PAGESIZE"),
    }


def rounds(kind: str, count: int) -> None:
    load = Load()
    if kind in ("loop", "own-loop"):

        async def all_of_them() -> None:
            for _ in range(count):
                await in_loop(load)

        if kind == "loop":
            asyncio.run(all_of_them())
        else:
            loop = new_event_loop()
            loop.run_until_complete(all_of_them())
            loop.close()
    else:
        options = {"thread": {}, "pool": {"threads": 2}, "io": {"io_threads": 2}}[kind]
        for _ in range(count):
            in_thread(load, **options)
    load.end()


if __name__ == "__main__":
    rounds(sys.argv[1], 5)
    before = left()
    rounds(sys.argv[1], int(sys.argv[2]))
    print("before", json.dumps(before), flush=True)
    print("after", json.dumps(left()), flush=True)
