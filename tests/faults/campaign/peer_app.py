"""The same application as in ``ours.py``, for servers that speak ASGI. Runs in the peers' environment."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from tests.faults.campaign.counts import VARIABLE, Counts

PIECE = b"x" * 65536

counts = Counts(os.environ[VARIABLE])


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        counts.begin()
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    path = scope["path"]
    counts.handler(probe=path == "/probe")
    if scope["type"] == "websocket":
        await websocket(path, receive, send)
        return
    if path == "/wait":
        while (await receive())["type"] != "http.disconnect":
            pass
        return
    body = b"hello"
    if path == "/upload":
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
        body = str(size).encode()
    if path == "/route":
        body = PIECE
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if path == "/stream":
        await pour(receive, send, {"type": "http.response.body", "body": PIECE, "more_body": True})
        return
    await send({"type": "http.response.body", "body": body})


async def websocket(path: str, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    if path == "/ws-send":
        await pour(receive, send, {"type": "websocket.send", "bytes": PIECE})
    while (await receive())["type"] != "websocket.disconnect":
        pass


async def pour(receive: Any, send: Any, message: dict[str, Any]) -> None:
    """Sends until the client is gone, as careful applications do: some servers let ``send`` go on for ever."""
    gone = asyncio.ensure_future(until_gone(receive))
    try:
        while not gone.done():
            await send(message)
            await asyncio.sleep(0)
    except OSError:
        return
    finally:
        gone.cancel()


async def until_gone(receive: Any) -> None:
    while not (await receive())["type"].endswith(".disconnect"):
        pass
