"""RSGI application for granian."""

from typing import Any

CLOSED = 0  # granian.rsgi.WebsocketMessageType.close; 1 is bytes, 2 is text
BYTES = 1

HEADERS = [("content-type", "text/plain; charset=utf-8")]


async def hello(scope: Any, protocol: Any) -> None:
    protocol.response_str(200, HEADERS, "hello")


async def headers(scope: Any, protocol: Any) -> None:
    get = scope.headers.get
    agent, language, cookie = get("user-agent"), get("accept-language"), get("cookie")
    protocol.response_str(200, HEADERS, f"{len(agent):08d}{len(language):08d}{len(cookie):08d}")


async def websocket(scope: Any, protocol: Any) -> None:
    transport = await protocol.accept()
    while (message := await transport.receive()).kind != CLOSED:
        if message.kind == BYTES:
            await transport.send_bytes(message.data)
        else:
            await transport.send_str(message.data)
    protocol.close()
