"""The pump: events in order to whom they are for, answers and sockets looked after between slow handlers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import pytest

from server_native import _dispatch
from server_native._bindings.abi import FLAG_END, Command, Event, Protocol, Reason, Status
from server_native._dispatch import Peer, Pump
from server_native.http import NativeDirectRequest
from tests.unit.fakes import FakeRuntime, Listening, Said, event

LISTENER, CONNECTION = 1 << 63, (1 << 63) + 1
ACCEPT = event(
    Event.ACCEPT, CONNECTION, b"192.0.2.1\x005\x00127.0.0.1\x006\x00http", parent=LISTENER
)


class Clock:
    """Time that passes when a test says so."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Recorder:
    """A site that records what was opened and does with it what a test wants."""

    opened_streams: list[tuple[int, int, bytes, bytes, bytes]] = field(default_factory=list)
    peers: list[Peer] = field(default_factory=list)
    handle: Callable[[int], object] = lambda stream: None

    def opened(
        self,
        stream: int,
        peer: Peer,
        flags: int,
        arena: bytes,
        line: int,
        fields: int,
        body: int,
        end: int,
    ) -> None:
        self.opened_streams.append(
            (stream, flags, arena[line:fields], arena[fields:body], arena[body:end])
        )
        self.peers.append(peer)
        self.handle(stream)

    def figures(self) -> dict[str, int]:
        raise NotImplementedError

    def accept_websocket(
        self, request: NativeDirectRequest, fields: bytes, subprotocol: str | None
    ) -> object:
        raise NotImplementedError

    def detach(self, request: NativeDirectRequest, status: int, fields: bytes) -> object:
        raise NotImplementedError

    def inform(self, stream: int, status: int, fields: bytes) -> None:
        raise AssertionError(f"nobody informs here, found {stream, status, fields}")

    def ids(self) -> list[int]:
        return [stream for stream, *_ in self.opened_streams]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(_dispatch, "monotonic", clock)
    return clock


@dataclass
class World:
    pump: Pump
    runtime: FakeRuntime
    site: Recorder

    def hears(self, stream: int) -> Listening:
        """A stream the pump knows."""
        sink = Listening()
        self.pump.streams[stream] = sink
        return sink

    def turn(self, *events: bytes) -> None:
        self.runtime.add(*events)
        self.pump.turn(None)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> World:
    monkeypatch.setattr(_dispatch, "Runtime", FakeRuntime)
    pump, site = Pump(3), Recorder()
    runtime = cast("FakeRuntime", pump.runtime)
    assert runtime.io_threads == 3
    pump.sites[LISTENER] = site
    runtime.add(ACCEPT)
    pump.turn(None)
    runtime.calls.clear()
    return World(pump, runtime, site)


def opens(
    stream: int, line: bytes = b"GET", fields: bytes = b"", body: bytes = b"", flags: int = FLAG_END
) -> bytes:
    return event(
        Event.OPEN,
        stream,
        line + fields + body,
        parent=CONNECTION,
        flags=flags | Protocol.HTTP11,
        code=len(line),
        aux=len(body),
    )


# --- to whom --------------------------------------------------------------------------------------


def test_a_request_reaches_its_site_with_its_parts(world: World) -> None:
    world.turn(
        event(Event.CLOSED, 12345, b"padding"),
        opens(1, b"line", b"fields", b"body"),
        opens(2, b"", b"", b"", flags=0),
        opens(3, b"only a line"),
    )
    assert world.site.opened_streams == [
        (1, FLAG_END | Protocol.HTTP11, b"line", b"fields", b"body"),
        (2, Protocol.HTTP11, b"", b"", b""),
        (3, FLAG_END | Protocol.HTTP11, b"only a line", b"", b""),
    ]
    assert {id(peer) for peer in world.site.peers} == {id(world.site.peers[0])}
    assert world.site.peers[0].parts() == ["192.0.2.1", "5", "127.0.0.1", "6", "http"]
    assert world.site.peers[0].site is world.site


def test_a_connection_is_forgotten_when_it_is_gone(world: World) -> None:
    world.turn(event(Event.CLOSED, CONNECTION), event(Event.CLOSED, CONNECTION))
    assert world.pump._peers == {}


def test_a_stream_hears_its_events_in_order(world: World) -> None:
    one, two = world.hears(1), world.hears(2)
    world.turn(
        event(Event.DATA, 1, b"a"),
        event(Event.DATA, 2, b"b", flags=FLAG_END),
        event(Event.WRITABLE, 2, aux=70_000),
        event(Event.DATA, 1, b""),
        event(Event.END, 1, b"trailers", flags=FLAG_END),
        event(Event.RESET, 1, flags=FLAG_END, code=Reason.TIMEOUT),
        event(Event.DATA, 1, b"late"),
    )
    assert one.heard == [
        ("data", b"a", False),
        ("data", b"", False),
        ("end", b"trailers"),
        ("reset", Reason.TIMEOUT),
    ]
    assert two.heard == [("data", b"b", True), ("writable", 70_000)]
    assert list(world.pump.streams) == [2]


def test_events_of_a_stream_that_has_answered_concern_nobody(world: World) -> None:
    sink = world.hears(1)
    world.pump.streams.pop(1)
    kinds = (Event.DATA, Event.END, Event.WRITABLE, Event.RESET)
    world.turn(*(event(kind, 1) for kind in kinds), event(Event(9), 0))
    assert sink.heard == []


def test_a_log_event_goes_to_logging(world: World, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="server_native"):
        world.turn(
            event(Event.LOG, 0, b"100% d\xff", code=30),
            event(Event.LOG, 0, "ü".encode(), code=10),
            event(Event.LOG, 0, b"bad", code=40),
        )
    assert caplog.record_tuples == [
        ("server_native", logging.WARNING, "100% d\ufffd"),
        ("server_native", logging.DEBUG, "ü"),
        ("server_native", logging.ERROR, "bad"),
    ]


def test_all_streams_hear_of_a_stop_even_when_one_leaves(world: World) -> None:
    class Leaving(Listening):
        def on_drain(self) -> None:
            super().on_drain()
            world.pump.streams.clear()

    sinks = [Leaving(), Listening(), Listening()]
    world.pump.streams.update(enumerate(sinks))
    world.turn(event(Event.DRAIN, 0, aux=1000))
    assert [sink.heard for sink in sinks] == [[("drain",)]] * 3


# --- when -----------------------------------------------------------------------------------------


def test_a_turn_sends_then_waits_then_handles(world: World) -> None:
    outbox = world.pump.outbox
    outbox.credit(5, 1)
    world.site.handle = lambda stream: outbox.head(stream, 200, b"", b"", True)
    world.turn(opens(1))
    world.pump.turn(0.25)
    assert world.runtime.calls == [("submit", 1), ("next", None), ("submit", 1), ("next", 0.25)]
    assert world.runtime.said == [
        Said(Command.CREDIT, 5, aux=1),
        Said(Command.HEAD, 1, flags=FLAG_END, code=200),
    ]


def test_sources_are_pulled_once_a_turn_and_nobody_waits_meanwhile(world: World) -> None:
    pulled: list[str] = []

    def again() -> None:
        pulled.append("again")
        world.pump.ready.append(again)

    world.pump.ready.extend((again, lambda: pulled.append("once")))
    world.turn(opens(1))
    assert (pulled, world.site.ids()) == (["again", "once"], [1])
    world.pump.turn(None)
    assert pulled == ["again", "once", "again"]
    world.pump.ready.clear()
    world.pump.turn(None)
    assert world.runtime.named("next") == [0.0, 0.0, None]


def test_quick_handlers_are_not_interrupted(world: World, clock: Clock) -> None:
    def handle(stream: int) -> None:
        clock.now += 0.0001
        world.pump.outbox.head(stream, 200, b"", b"", True)
        world.pump.rest()

    world.site.handle = handle
    world.turn(*(opens(stream) for stream in range(1, 6)))
    assert world.runtime.calls == [("next", None)]


def test_between_slow_handlers_answers_are_sent_and_events_taken_in(
    world: World, clock: Clock
) -> None:
    def handle(stream: int) -> None:
        clock.now += 0.005
        world.pump.outbox.head(stream, 200, b"", b"", True)
        world.pump.rest()

    world.site.handle = handle
    sink = world.hears(100)
    world.runtime.add(opens(1), opens(2), event(Event.DATA, 100, b"first"))
    world.runtime.add(opens(3), event(Event.DATA, 100, b"second"))
    world.runtime.add(opens(4))
    world.pump.turn(None)
    assert world.site.ids() == [1, 2, 3, 4], "in the order in which they came"
    assert sink.heard == [("data", b"first", False), ("data", b"second", False)]
    assert world.runtime.calls == [("next", None), *[("submit", 1), ("next", 0.0)] * 4]


def test_the_backlog_is_bounded_and_answers_go_on(world: World, clock: Clock) -> None:
    def handle(stream: int) -> None:
        clock.now += 0.005
        world.pump.outbox.head(stream, 200, b"", b"", True)
        world.pump.rest()
        assert len(world.pump._backlog) <= _dispatch._BACKLOG

    world.site.handle = handle
    world.runtime.add(*(opens(stream) for stream in range(1, 21)))
    for stream in range(101, 121):
        world.runtime.add(opens(stream))
    world.pump.turn(None)
    # Twenty handlers of the first batch, and no more than eight batches taken in beside them.
    first = world.runtime.calls[: 1 + 20 + _dispatch._BACKLOG]
    assert [name for name, _ in first].count("next") == 1 + _dispatch._BACKLOG
    assert len(world.runtime.named("submit")) == 40
    assert world.site.ids() == [*range(1, 21), *range(101, 121)]


@pytest.mark.parametrize("io_threads", [0, 3])
def test_between_turns_many_answers_are_not_kept(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, io_threads: int
) -> None:
    monkeypatch.setattr(_dispatch, "Runtime", FakeRuntime)
    pump = Pump(io_threads)
    runtime, site = cast("FakeRuntime", pump.runtime), Recorder()
    pump.sites[LISTENER] = site
    runtime.add(ACCEPT)
    pump.turn(None)
    runtime.calls.clear()
    runtime.add(opens(1))

    def answer(count: int) -> None:
        for stream in range(count):
            pump.outbox.head(stream, 200, b"", b"", True)

    answer(32)
    assert runtime.calls == [], "they have not taken long"
    clock.now += 0.005
    answer(16)
    # Only whoever drives the sockets has to look after them.
    driven = [("submit", 48), ("next", 0.0)]
    assert runtime.calls == (driven if io_threads == 0 else driven[:1])
    pump.turn(None)
    assert runtime.named("next")[-1] == (0.0 if io_threads == 0 else None), "events wait already"
    assert site.ids() == [1]
    pump.stop(10.0)
    runtime.calls.clear()
    clock.now += 0.005
    answer(16)
    assert runtime.named("next") == [], "the last events are the turn's"


# --- the end --------------------------------------------------------------------------------------


def test_events_that_come_with_the_end_are_handled(world: World) -> None:
    sink = world.hears(1)
    world.runtime.add(event(Event.DATA, 1, b"last"), status=Status.CLOSED)
    world.pump.turn(None)
    assert world.pump.closed
    assert sink.heard == [("data", b"last", False)]


@pytest.mark.parametrize("status", [Status.OK, Status.TIMEOUT, Status.WOKEN])
def test_other_outcomes_do_not_end_it(world: World, status: Status) -> None:
    world.runtime.add(status=status)
    world.pump.turn(None)
    assert not world.pump.closed


def test_a_watched_descriptor_is_told_until_somebody_looks(world: World) -> None:
    world.runtime.add(watched=True)
    world.pump.turn(None)
    world.pump.turn(None)
    assert world.pump.watched


def test_streams_left_hear_of_the_end_once(world: World) -> None:
    sinks = [world.hears(1), world.hears(2)]
    world.pump.abandon()
    world.pump.free()
    assert [sink.heard for sink in sinks] == [[("reset", Reason.STOPPING)]] * 2
    assert (world.pump.closed, world.pump.streams) == (True, {})
    assert world.runtime.calls == [("free", None)]


def test_a_stop_is_noticed_by_handlers_before_its_deadline(world: World, clock: Clock) -> None:
    world.turn(opens(1))
    (peer,) = world.site.peers
    assert not peer.is_late()
    world.pump.stop(10.0)
    clock.now += 8.9
    assert not peer.is_late()
    clock.now += 0.2
    assert peer.is_late()
    world.pump.stop(100.0)
    assert peer.is_late(), "a stop can only be hastened"
    assert world.runtime.named("stop") == [10.0, 100.0]


def test_a_slice_of_a_source_is_short(world: World, clock: Clock) -> None:
    assert 0 < Pump.slice_ends() - clock.now <= 0.002
