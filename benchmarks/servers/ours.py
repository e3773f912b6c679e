"""server_native as a benchmarked server. Prints its port on a line of its own once it listens."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator
from typing import Any

from server_native import (
    NativeDirectResponse,
    serve_native_direct,
    serve_secure_native_direct,
    start_native_direct,
)

LARGE = b"x" * (1024 * 1024)
PIECE, PIECES = b"x" * (10 * 1024), 100


def hello(request: Any) -> NativeDirectResponse:
    return NativeDirectResponse.text("hello")


async def hello_async(request: Any) -> NativeDirectResponse:
    return NativeDirectResponse.text("hello")


def lengths(request: Any) -> NativeDirectResponse:
    agent = request.header("user-agent")
    language = request.header("accept-language")
    cookie = request.header("cookie")
    return NativeDirectResponse.text(f"{len(agent):08d}{len(language):08d}{len(cookie):08d}")


async def lengths_async(request: Any) -> NativeDirectResponse:
    return lengths(request)


async def echo(request: Any) -> None:
    socket = request.accept_websocket()
    async for message in socket:
        await socket.send(message)


def echo_sync(request: Any) -> None:
    socket = request.accept_websocket()
    for message in socket:
        socket.send(message)


def upload(request: Any) -> NativeDirectResponse:
    return NativeDirectResponse.text(str(sum(map(len, request))))


async def upload_async(request: Any) -> NativeDirectResponse:
    length = 0
    async for chunk in request:
        length += len(chunk)
    return NativeDirectResponse.text(str(length))


def large(request: Any) -> NativeDirectResponse:
    return NativeDirectResponse.bytes(LARGE)


async def large_async(request: Any) -> NativeDirectResponse:
    return NativeDirectResponse.bytes(LARGE)


def stream(request: Any) -> NativeDirectResponse:
    return NativeDirectResponse.stream(PIECE for _ in range(PIECES))


async def stream_async(request: Any) -> NativeDirectResponse:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(PIECES):
            yield PIECE

    return NativeDirectResponse.stream(pieces())


HANDLERS: dict[str, Any] = {
    "constant": hello,
    "sync": hello,
    "async": hello_async,
    "asyncio-run": hello_async,
    "headers-sync": lengths,
    "headers-async": lengths_async,
    "websocket-sync": echo_sync,
    "websocket-async": echo,
    "upload-sync": upload,
    "upload-async": upload_async,
    "large-sync": large,
    "large-async": large_async,
    "stream-sync": stream,
    "stream-async": stream_async,
}


def announce(server: Any) -> None:
    print(server.port, flush=True)


async def serve_inside_asyncio(handler: Any, options: dict[str, Any]) -> None:
    async with start_native_direct(handler, **options) as server:
        announce(server)
        await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=sorted(HANDLERS), required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--io-threads", type=int)
    parser.add_argument("--certificate", help="PEM; serves TLS and HTTP/3")
    parser.add_argument("--key", help="PEM of its key")
    arguments = parser.parse_args()
    handler = HANDLERS[arguments.case]
    options: dict[str, Any] = {"host": arguments.host, "port": arguments.port}
    if arguments.io_threads is not None:
        options["io_threads"] = arguments.io_threads
    if arguments.case == "asyncio-run":
        asyncio.run(serve_inside_asyncio(handler, options))
        return
    if arguments.case == "websocket-sync":
        options["threads"] = 64  # each connection keeps one
    if arguments.case == "constant":
        options["routes"] = {"/": NativeDirectResponse.text("hello")}
    if arguments.certificate:
        options |= {"certificate_path": arguments.certificate, "key_path": arguments.key}
        serve_secure_native_direct(handler, on_ready=announce, **options)
        return
    serve_native_direct(handler, on_ready=announce, **options)


if __name__ == "__main__":
    main()
