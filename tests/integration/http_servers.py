"""Servers of the HttpServer style for tests, each in a thread with a loop of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

from server_native import HttpHandler, NativeHttpServer
from tests.integration.servers import PATIENCE, Running, Serve

__all__ = ["LOOPS", "HttpRunning", "Listen", "answering", "listening"]

LOOPS = ("asyncio", "native", "uvloop")

#: What runs beside the server; the server closes when it returns.
Program = Callable[[NativeHttpServer], Awaitable[object]]
Listen = Callable[..., "HttpRunning"]
T = TypeVar("T")


class HttpRunning(Running):
    """A ``NativeHttpServer`` and the program that takes its requests."""

    _http: NativeHttpServer
    _idle: asyncio.Event

    def __init__(self, program: Program, where: str, options: dict[str, Any]) -> None:
        # The thread is the same; what runs in it is ours.
        super().__init__(cast("Any", program), where, options)

    def call(self, function: Callable[[NativeHttpServer], T]) -> T:
        """The function's result, run in the loop of the server."""

        async def run() -> T:
            return function(self._http)

        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(PATIENCE)

    def close(self, grace: float | None = None) -> None:
        assert self._loop is not None

        def close() -> None:
            self._http.close(grace=grace)
            self._idle.set()

        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(close)

    def _embed(
        self,
        program: Any,
        options: dict[str, Any],
        factory: Callable[[], asyncio.AbstractEventLoop],
    ) -> None:
        async def main() -> None:
            self._idle = asyncio.Event()
            async with NativeHttpServer.bind(**options) as server:
                self._http = server
                self._announce(server._server)
                await program(server)
                # The server outlives its program until the test is over.
                await self._idle.wait()

        loop = self._loop = factory()
        try:
            loop.run_until_complete(main())
        finally:
            loop.close()


def listening(serve: Serve, where: str) -> Listen:
    """Starts servers whose program is given, on this kind of loop, for one test."""

    def listen(program: Program, **options: Any) -> HttpRunning:
        running = HttpRunning(program, where, options)
        serve._running.append(running)
        return running

    return listen


def answering(handler: HttpHandler) -> Program:
    """The program that calls ``handler`` for each request."""

    async def program(server: NativeHttpServer) -> None:
        await server.serve(handler)

    return program
