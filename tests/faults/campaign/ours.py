"""Our server as a victim: ``python -m tests.faults.campaign.ours '{"limits": {...}}'``; takes commands on stdin."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from collections.abc import AsyncIterator
from typing import Any

from server_native import (
    Limits,
    NativeDirectRequest,
    NativeDirectResponse,
    NativeServer,
    WebSocketClosed,
    serve_native_direct,
    serve_secure_native_direct,
)
from tests.faults.campaign.counts import VARIABLE, Counts

PIECE = b"x" * 65536


def say(text: str) -> None:
    """One line in one write."""
    os.write(1, f"{text}\n".encode())


async def endless() -> AsyncIterator[bytes]:
    while True:
        yield PIECE


async def handler(request: NativeDirectRequest) -> Any:
    path = request.path
    counts.handler(probe=path == "/probe")
    if path == "/wait":
        await asyncio.get_running_loop().create_future()
    if path == "/upload":
        size = 0
        async for piece in request:
            size += len(piece)
        return str(size)
    if path == "/stream":
        return NativeDirectResponse.stream(endless())
    if path == "/ws-receive":
        async with request.accept_websocket() as websocket:
            async for _ in websocket:
                pass
        return None
    if path == "/ws-send":
        async with request.accept_websocket() as websocket:
            try:
                while True:
                    await websocket.send(PIECE)
            except WebSocketClosed:
                return None
    return "hello"


def commands(server: NativeServer) -> None:
    for _ in sys.stdin:
        say("stats=" + json.dumps(server.stats()))


def ready(server: NativeServer) -> None:
    counts.begin()
    threading.Thread(target=commands, args=(server,), daemon=True).start()
    say(f"ready {server.port}")


if __name__ == "__main__":
    options: dict[str, Any] = json.loads(sys.argv[1])
    counts = Counts(os.environ[VARIABLE])
    keywords: dict[str, Any] = {
        "port": 0,
        "host": "127.0.0.1",
        "grace": 1.0,
        "limits": Limits(**options["limits"]),
        "routes": {"/route": PIECE},
        "on_ready": ready,
    }
    if options.get("tls"):
        serve_secure_native_direct(handler, **options["tls"], **keywords)
    else:
        serve_native_direct(handler, **keywords)
