"""The selector that is a pump, and the fallback for loops that are not ours."""

from __future__ import annotations

import asyncio
import selectors
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from server_native import ConfigurationError, _dispatch, new_event_loop
from server_native._bindings.abi import Event, Status
from server_native._dispatch import Pump
from server_native._loops import LoopPump, NativeSelector, run_in_loop
from tests.unit.fakes import FakeRuntime, Listening, event

PATIENCE = 10.0


@dataclass
class FakePump:
    """Records its turns; ``edges`` are those after which the watched descriptor was found readable."""

    runtime: FakeRuntime = field(default_factory=FakeRuntime)
    turns: list[float | None] = field(default_factory=list)
    edges: list[bool] = field(default_factory=list)
    closed: bool = False
    watched: bool = False

    def turn(self, timeout: float | None) -> None:
        self.turns.append(timeout)
        self.watched |= bool(self.edges) and self.edges.pop(0)


@dataclass
class Watched:
    """A selector that watches one end of a pair, with a pump."""

    selector: NativeSelector
    pump: FakePump
    near: socket.socket
    far: socket.socket

    def ready(self, timeout: float | None = 5.0) -> bool:
        found = self.selector.select(timeout)
        assert all(key.fileobj is self.near and mask == selectors.EVENT_READ for key, mask in found)
        return bool(found)


@pytest.fixture
def watched() -> Iterator[Watched]:
    near, far = socket.socketpair()
    with near, far, NativeSelector() as selector:
        selector.register(near, selectors.EVENT_READ)
        pump = FakePump()
        selector.attach(cast("Pump", pump))
        assert pump.runtime.calls == [("watch", selector.fileno())]
        yield Watched(selector, pump, near, far)


# --- the selector ---------------------------------------------------------------------------------


def test_without_a_pump_it_is_an_ordinary_selector(watched: Watched) -> None:
    assert not watched.selector.is_free
    watched.selector.detach()
    assert watched.selector.is_free
    assert not watched.ready(0)
    watched.far.send(b"x")
    assert watched.ready()
    assert watched.ready()
    assert watched.pump.turns == []


def test_after_the_runtime_has_stopped_it_is_an_ordinary_selector(watched: Watched) -> None:
    watched.pump.closed = True
    watched.far.send(b"x")
    assert watched.ready()
    assert watched.pump.turns == []


def test_while_nothing_is_readable_the_pump_waits(watched: Watched) -> None:
    assert not watched.ready(0.5)
    assert not watched.ready(None)
    assert not watched.ready(0)
    assert watched.pump.turns == [0.5, None, 0]


def test_what_was_readable_before_the_pump_came_is_found(watched: Watched) -> None:
    watched.far.send(b"x")
    assert watched.ready()
    assert watched.pump.turns == [0.0], "native events are not kept waiting"


def test_a_reader_that_takes_one_byte_a_time_needs_one_edge(watched: Watched) -> None:
    assert not watched.ready(1.0)
    watched.far.send(b"abc")
    # The one edge: the runtime says nothing more until somebody writes again.
    watched.pump.edges = [True]
    received = b""
    while watched.ready(9.0):
        received += watched.near.recv(1)
    assert received == b"abc"
    # 1.0 found nothing, the first 9.0 the edge; then descriptors come first until there are none.
    assert watched.pump.turns == [1.0, 9.0, 0.0, 0.0, 9.0]
    assert not watched.ready(2.0)
    assert watched.pump.turns[-1] == 2.0


def test_a_descriptor_that_is_never_read_does_not_starve_the_runtime(watched: Watched) -> None:
    watched.far.send(b"x")
    for _ in range(5):
        assert watched.ready(None)
    assert watched.pump.turns == [0.0] * 5


def test_an_edge_seen_while_draining_is_not_lost(watched: Watched) -> None:
    watched.far.send(b"a")
    watched.pump.edges = [True]
    assert watched.ready()
    watched.near.recv(1)
    assert watched.pump.watched
    # Nothing is left, so the pump waits; the edge it tells of is looked at and found stale.
    assert not watched.ready(1.0)
    assert not watched.pump.watched
    watched.far.send(b"b")
    assert watched.ready(1.0)


# --- loops ----------------------------------------------------------------------------------------


@pytest.fixture
def fake_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_dispatch, "Runtime", FakeRuntime)


def runtime_of(host: LoopPump) -> FakeRuntime:
    return cast("FakeRuntime", host.pump.runtime)


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = new_event_loop()
    yield loop
    loop.close()


@pytest.fixture
def foreign() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.SelectorEventLoop(selectors.DefaultSelector())
    yield loop
    loop.close()


def test_our_loop_works_without_a_server(loop: asyncio.AbstractEventLoop) -> None:
    assert loop.run_until_complete(asyncio.sleep(0, "done")) == "done"


@pytest.mark.usefixtures("fake_runtime")
def test_on_our_loop_the_loop_drives_one_server_and_threads_the_next(
    loop: asyncio.AbstractEventLoop,
) -> None:
    first, second = run_in_loop(loop, None), run_in_loop(loop, None)
    assert (runtime_of(first).io_threads, runtime_of(second).io_threads) == (0, 1)
    assert runtime_of(first).named("watch") == [selector_of(loop).fileno()]
    with pytest.raises(
        ConfigurationError, match=r"io_threads=0 needs a loop of server_native\.new_event_loop"
    ):
        run_in_loop(loop, 0)
    for host in (first, second):
        host.free()
        assert runtime_of(host).named("free") == [None]
    assert selector_of(loop).is_free
    third = run_in_loop(loop, 2)
    assert runtime_of(third).io_threads == 2
    third.free()


def selector_of(loop: asyncio.AbstractEventLoop) -> NativeSelector:
    selector: Any = loop._selector  # type: ignore[attr-defined]
    assert isinstance(selector, NativeSelector)
    return selector


@pytest.mark.usefixtures("fake_runtime")
def test_on_a_foreign_loop_threads_drive(foreign: asyncio.AbstractEventLoop) -> None:
    with pytest.raises(ConfigurationError, match="leave io_threads out"):
        run_in_loop(foreign, 0)
    host = run_in_loop(foreign, None)
    assert runtime_of(host).io_threads == 1
    host.free()


@pytest.mark.usefixtures("fake_runtime")
def test_a_loop_that_cannot_watch_descriptors_is_refused_and_nothing_is_left() -> None:
    class Proactor(asyncio.SelectorEventLoop):
        def add_reader(  # type: ignore[override]
            self, fd: Any, callback: Callable[..., Any], *args: Any
        ) -> None:
            if getattr(callback, "__qualname__", "").startswith("_Signalled"):
                raise NotImplementedError
            super().add_reader(fd, callback, *args)

    loop = Proactor(selectors.DefaultSelector())
    before = list(Path("/proc/self/fd").iterdir())
    with pytest.raises(
        ConfigurationError, match=r"Proactor cannot watch descriptors \(add_reader\)"
    ):
        run_in_loop(loop, None)
    assert len(list(Path("/proc/self/fd").iterdir())) == len(before)
    loop.close()


def until(loop: asyncio.AbstractEventLoop, done: Callable[[], bool]) -> None:
    """Runs the loop until a condition holds."""

    async def wait() -> None:
        while not done():
            await asyncio.sleep(0)

    loop.run_until_complete(asyncio.wait_for(wait(), PATIENCE))


@pytest.mark.usefixtures("fake_runtime")
def test_each_signal_of_native_threads_is_one_turn_of_the_pump(
    foreign: asyncio.AbstractEventLoop,
) -> None:
    host = run_in_loop(foreign, None)
    runtime, sink = runtime_of(host), Listening()
    host.pump.streams[1] = sink
    until(foreign, lambda: len(runtime.named("next")) == 1)
    assert runtime.named("next") == [0.0], "the first turn arms the signal"
    for size in (1, 2, 3):
        runtime.add(event(Event.WRITABLE, 1, aux=size))
    until(foreign, lambda: len(sink.heard) == 3)
    assert sink.heard == [("writable", 1), ("writable", 2), ("writable", 3)]
    for _ in range(5):
        foreign.run_until_complete(asyncio.sleep(0))
    assert runtime.named("next") == [0.0] * 4, "no signal, no turn"
    host.free()


@pytest.mark.usefixtures("fake_runtime")
def test_a_source_with_more_to_send_is_pulled_again_without_a_signal(
    foreign: asyncio.AbstractEventLoop,
) -> None:
    host = run_in_loop(foreign, None)
    pulled: list[int] = []

    def pull() -> None:
        pulled.append(len(pulled))
        if len(pulled) < 3:
            host.pump.ready.append(pull)

    host.pump.ready.append(pull)
    until(foreign, lambda: len(pulled) == 3)
    host.free()


@pytest.mark.usefixtures("fake_runtime")
def test_on_a_foreign_loop_commands_of_one_iteration_go_together(
    foreign: asyncio.AbstractEventLoop,
) -> None:
    host = run_in_loop(foreign, None)
    runtime = runtime_of(host)
    until(foreign, lambda: bool(runtime.named("next")))
    for stream in (1, 2, 3):
        foreign.call_soon(host.pump.outbox.credit, stream, 5)
    until(foreign, lambda: bool(runtime.said))
    assert runtime.named("submit") == [3]
    host.free()


@pytest.mark.usefixtures("fake_runtime")
@pytest.mark.parametrize("ours", [True, False])
def test_the_end_of_the_runtime_is_told_to_the_loop(ours: bool) -> None:
    loop = new_event_loop() if ours else asyncio.SelectorEventLoop(selectors.DefaultSelector())
    host = run_in_loop(loop, None)
    told: list[str] = []
    host.on_closed = lambda: told.append("closed")
    runtime_of(host).add(status=Status.CLOSED)
    until(loop, lambda: bool(told))
    assert told == ["closed"]
    host.free()
    loop.close()
