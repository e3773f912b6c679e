"""Raw ASGI application for uvicorn and granian."""

from typing import Any

TEXT = (b"content-type", b"text/plain; charset=utf-8")
BINARY = (b"content-type", b"application/octet-stream")
LARGE = b"x" * (1024 * 1024)
PIECE, PIECES = b"x" * (10 * 1024), 100
LARGE_HEADERS = [BINARY, (b"content-length", b"%d" % len(LARGE))]
HELLO_HEADERS = [TEXT, (b"content-length", b"5")]
LENGTHS_HEADERS = [TEXT, (b"content-length", b"24")]


async def hello(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": HELLO_HEADERS})
    await send({"type": "http.response.body", "body": b"hello"})


async def headers(scope: Any, receive: Any, send: Any) -> None:
    found = dict(scope["headers"])
    agent = found[b"user-agent"].decode("latin-1")
    language = found[b"accept-language"].decode("latin-1")
    cookie = found[b"cookie"].decode("latin-1")
    body = f"{len(agent):08d}{len(language):08d}{len(cookie):08d}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": LENGTHS_HEADERS})
    await send({"type": "http.response.body", "body": body})


async def upload(scope: Any, receive: Any, send: Any) -> None:
    length, more = 0, True
    while more:
        message = await receive()
        length += len(message.get("body", b""))
        more = message.get("more_body", False)
    body = str(length).encode()
    fields = [TEXT, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    await send({"type": "http.response.body", "body": body})


async def large(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": LARGE_HEADERS})
    await send({"type": "http.response.body", "body": LARGE})


async def stream(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [BINARY]})
    for _ in range(PIECES):
        await send({"type": "http.response.body", "body": PIECE, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def websocket(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        text = message.get("text")
        if text is not None:
            await send({"type": "websocket.send", "text": text})
        else:
            await send({"type": "websocket.send", "bytes": message["bytes"]})
