"""Bodies made while they are sent, and read while they arrive; neither is ever whole in memory."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator

from server_native import (
    NativeDirectRequest,
    NativeDirectResponse,
    NativeServer,
    serve_native_direct,
)


async def numbers() -> AsyncIterator[bytes]:
    for number in range(100_000):
        yield b"%d\n" % number


async def handler(request: NativeDirectRequest) -> NativeDirectResponse:
    if request.method == "GET":
        return NativeDirectResponse.stream(numbers(), headers={"content-type": "text/plain"})
    digest = hashlib.sha256()
    async for chunk in request:
        digest.update(chunk)
    return NativeDirectResponse.json({"sha256": digest.hexdigest()})


def ready(server: NativeServer) -> None:
    print(f"serving on {server.url}\ntry: curl {server.url} | tail -1", flush=True)


if __name__ == "__main__":
    serve_native_direct(handler, port=8080, on_ready=ready)
