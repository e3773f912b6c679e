"""A well-behaved client: 20 requests a second, each on time whatever became of the one before.

``python -m tests.faults.campaign.probe '{"port": ..., "kind": "mixed", "trust": null}'`` prints a line for each
when it is over: its number, when it was due, how long it took in seconds or ``null`` when it failed, and why. Ends
when its standard input does.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

INTERVAL = 0.05
#: A request that takes longer has failed.
TIMEOUT = 5.0

REQUEST = b"GET /probe HTTP/1.1\r\nhost: localhost\r\n\r\n"

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Http1:
    """Requests over HTTP/1.1: on one connection that is kept, and on new ones."""

    def __init__(self, port: int, trust: str | None) -> None:
        self._port = port
        self._context = ssl.create_default_context(cafile=trust) if trust else None
        self._kept: Stream | None = None
        self._lock = asyncio.Lock()

    async def _open(self) -> Stream:
        if self._context is None:
            return await asyncio.open_connection("127.0.0.1", self._port)
        return await asyncio.open_connection(
            "127.0.0.1", self._port, ssl=self._context, server_hostname="localhost"
        )

    @staticmethod
    async def _ask(stream: Stream) -> None:
        reader, writer = stream
        writer.write(REQUEST)
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise ConnectionError(head[:20])
        lines = head.lower().split(b"\r\n")
        if b"transfer-encoding: chunked" in lines:
            while await reader.readline() not in (b"0\r\n", b""):
                pass
            await reader.readline()
        else:
            length = next(line for line in lines if line.startswith(b"content-length"))
            await reader.readexactly(int(length.split(b":")[1]))

    async def fresh(self) -> None:
        stream = await self._open()
        try:
            await self._ask(stream)
        finally:
            stream[1].transport.abort()

    async def kept(self) -> None:
        async with self._lock:
            for last in (False, True):
                if self._kept is None:
                    self._kept = await self._open()
                try:
                    await self._ask(self._kept)
                    return
                except BaseException as error:
                    self._kept[1].transport.abort()
                    self._kept = None
                    # A server may close a connection that is idle; once, as any client would, it is tried again.
                    if last or not isinstance(error, (OSError, asyncio.IncompleteReadError)):
                        raise

    async def close(self) -> None:
        if self._kept is not None:
            self._kept[1].transport.abort()


class Http3:
    """The same over HTTP/3."""

    def __init__(self, port: int, trust: str) -> None:
        from tests.integration.h3_clients import H3

        self._open: Any = lambda: H3.open(("127.0.0.1", port), trust=Path(trust))
        self._kept: Any = None
        self._lock = asyncio.Lock()

    async def fresh(self) -> None:
        async with self._open() as client:
            answer = await client.request("/probe")
            if not answer.ended or answer.status != 200:
                raise ConnectionError(repr(answer))

    async def kept(self) -> None:
        async with self._lock:
            for last in (False, True):
                if self._kept is None:
                    opened = self._open()
                    self._kept = (await opened.__aenter__(), opened)
                try:
                    answer = await self._kept[0].request("/probe")
                    if not answer.ended or answer.status != 200:
                        raise ConnectionError(repr(answer))
                    return
                except BaseException as error:
                    with suppress(Exception):
                        await self._kept[1].__aexit__(None, None, None)
                    self._kept = None
                    if last or not isinstance(error, OSError):
                        raise

    async def close(self) -> None:
        """Says goodbye: a QUIC client that only vanishes is waited for."""
        if self._kept is not None:
            await self._kept[1].__aexit__(None, None, None)


def say(text: str) -> None:
    os.write(1, f"{text}\n".encode())


async def probe(client: Http1 | Http3, number: int, kind: str) -> None:
    due = time.monotonic()
    ask = client.kept if kind == "kept" or number % 2 == 0 else client.fresh
    try:
        await asyncio.wait_for(ask(), TIMEOUT)
        took: float | None = time.monotonic() - due
        why = ""
    except Exception as error:  # noqa: BLE001 -- every failure is one to the user of a client
        took = None
        why = f"{ask.__name__}: {error!r}"
    say(json.dumps([number, due, took, why]))


async def main(options: dict[str, Any]) -> None:
    kind = options["kind"]
    make: Any = Http3 if kind == "h3" else Http1
    client = make(options["port"], options["trust"])
    loop = asyncio.get_running_loop()
    over = loop.run_in_executor(None, sys.stdin.read)
    tasks: set[asyncio.Task[None]] = set()
    due = loop.time()
    number = 0
    while not over.done():
        due += INTERVAL
        await asyncio.wait([over], timeout=max(0.0, due - loop.time()))
        task = asyncio.ensure_future(probe(client, number, kind))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        number += 1
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await client.close()


if __name__ == "__main__":
    # It measures the server and not the scheduler: where it may, it goes before everybody.
    with suppress(PermissionError):
        os.nice(-10)
    asyncio.run(main(json.loads(sys.argv[1])))
