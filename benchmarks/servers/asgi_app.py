"""Raw ASGI application for uvicorn and granian."""

from typing import Any

HELLO_HEADERS = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"5")]
LENGTHS_HEADERS = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"24")]


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
