"""A chat: what one says, all hear. Open the URL it prints in two tabs of a browser."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from urllib.parse import parse_qs

from server_native import (
    NativeDirectRequest,
    NativeDirectResponse,
    WebSocket,
    WebSocketClosed,
    serve_native_direct,
)

PAGE = NativeDirectResponse.text(
    Path(__file__).with_name("websocket_chat.html").read_text(encoding="utf-8"),
    headers={"content-type": "text/html; charset=utf-8"},
)
people: dict[WebSocket, asyncio.Queue[str]] = {}


async def handler(request: NativeDirectRequest) -> tuple[int, str] | None:
    if request.path != "/chat":
        return 404, "not found\n"
    name = parse_qs(request.query).get("name", ["somebody"])[0][:20]
    async with request.accept_websocket() as websocket:
        lines = people[websocket] = asyncio.Queue(100)
        writer = asyncio.create_task(write(websocket, lines))
        await tell(f"{name} joined, {len(people)} here")
        try:
            async for message in websocket:
                await tell(f"{name}: {message!s}")
        finally:
            writer.cancel()
            people.pop(websocket, None)
            await tell(f"{name} left, {len(people)} here")
    return None  # the connection is no longer HTTP


async def write(websocket: WebSocket, lines: asyncio.Queue[str]) -> None:
    with contextlib.suppress(WebSocketClosed):
        while not websocket.closed:
            await websocket.send(await lines.get())


async def tell(line: str) -> None:
    for websocket, lines in list(people.items()):
        if lines.full():  # who does not read must not keep the others waiting
            del people[websocket]
            await websocket.close(1008, "you are too far behind")
        else:
            lines.put_nowait(line)


if __name__ == "__main__":
    # The page is answered natively; only the WebSockets come to Python.
    serve_native_direct(handler, port=8080, routes={"/": PAGE}, echo=True)
