"""server_native as a benchmarked server. Prints its port on a line of its own once it listens."""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

from server_native import NativeDirectResponse, serve_native_direct, start_native_direct


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


HANDLERS: dict[str, Any] = {
    "constant": hello,
    "sync": hello,
    "async": hello_async,
    "asyncio-run": hello_async,
    "headers-sync": lengths,
    "headers-async": lengths_async,
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
    arguments = parser.parse_args()
    handler = HANDLERS[arguments.case]
    options: dict[str, Any] = {"host": arguments.host, "port": arguments.port}
    if arguments.io_threads is not None:
        options["io_threads"] = arguments.io_threads
    if arguments.case == "asyncio-run":
        asyncio.run(serve_inside_asyncio(handler, options))
        return
    if arguments.case == "constant":
        options["routes"] = {"/": NativeDirectResponse.text("hello")}
    serve_native_direct(handler, on_ready=announce, **options)


if __name__ == "__main__":
    main()
