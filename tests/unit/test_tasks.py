"""Asynchronous handlers without a network: what a stop means for those that have not begun."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from server_native import _dispatch
from server_native._bindings.abi import FLAG_END, Command, Event, Protocol
from server_native._dispatch import Pump
from server_native._tasks import TaskSite
from server_native.config import ServerConfig
from server_native.http import NativeDirectRequest, NativeDirectResponse
from tests.unit.fakes import FakeRuntime, Said, event

LISTENER, CONNECTION = 1 << 63, (1 << 63) + 1
ACCEPT = event(
    Event.ACCEPT, CONNECTION, b"192.0.2.1\x005\x00127.0.0.1\x006\x00http", parent=LISTENER
)
LINE = b"GET\0/\0http\0a"
OPEN = event(
    Event.OPEN, 7, LINE, parent=CONNECTION, flags=Protocol.HTTP11 | FLAG_END, code=len(LINE)
)
DRAIN = event(Event.DRAIN, 0, aux=1000)


def served(monkeypatch: pytest.MonkeyPatch, *batches: tuple[bytes, ...]) -> tuple[list[str], Any]:
    """What happened to the handler, and what was said, when these batches come in turns of their own."""
    monkeypatch.setattr(_dispatch, "Runtime", FakeRuntime)
    log: list[str] = []

    async def handler(request: NativeDirectRequest) -> NativeDirectResponse:
        log.append("begun")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            log.append("cancelled")
            raise
        return NativeDirectResponse.text("never")

    async def main() -> list[Said]:
        pump = Pump(0)
        loop = asyncio.get_running_loop()
        pump.sites[LISTENER] = TaskSite(pump, handler, ServerConfig(), lambda: None, loop)
        runtime = cast("FakeRuntime", pump.runtime)
        for batch in batches:
            runtime.add(*batch)
            loop.call_soon(pump.turn, 0.0)
            for _ in range(4):
                await asyncio.sleep(0)
        pump.outbox.flush()
        assert not pump.streams
        return runtime.said

    return log, asyncio.run(main())


def test_a_stop_cancels_a_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    log, said = served(monkeypatch, (ACCEPT, OPEN), (DRAIN,))
    assert log == ["begun", "cancelled"]
    assert [command.command for command in said] == [Command.RESET]


def test_a_request_that_came_with_the_stop_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    log, (answer,) = served(monkeypatch, (ACCEPT, OPEN, DRAIN))
    assert log == [], "nothing was done, and the client may ask another server"
    assert (answer.command, answer.code, answer.flags & FLAG_END) == (Command.HEAD, 503, FLAG_END)
    assert answer.body == b"Service Unavailable: the server is stopping\n"
