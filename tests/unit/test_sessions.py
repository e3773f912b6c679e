"""Sessions with a clock of the test's own."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, cast

import pytest

from server_native import ConfigurationError, ResponseSentError, Session
from server_native.cookies import ResponseCookies
from server_native.sessions import SessionSlot, SessionStore


class Clock:
    """A loop that has nothing but time."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        timer = Timer(when, callback)
        self.timers.append(timer)
        return timer

    @property
    def set_timers(self) -> list[Timer]:
        return [timer for timer in self.timers if not timer.cancelled]

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        while due := [timer for timer in self.set_timers if timer.when <= self.now]:
            self.timers.remove(due[0])
            due[0].callback()


class Timer:
    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self.when = when
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


@pytest.fixture
def clock() -> Clock:
    return Clock()


def store_of(clock: Clock, timeout: float = 10.0, limit: int = 100) -> SessionStore:
    return SessionStore(cast("Any", clock), timeout, limit)


def test_found_by_its_id(clock: Clock) -> None:
    store = store_of(clock)
    session = store.create()
    assert session.is_new
    assert session.alive
    assert session, "an empty one is a session too"
    session["a"] = 1
    assert store.find(session.id) is session
    assert not session.is_new
    assert store.find("nonsense") is None
    assert session.id not in repr(session)
    assert len({store.create().id for _ in range(50)}) == 50
    assert len(session.id) == 32


def test_use_keeps_it_alive(clock: Clock) -> None:
    store = store_of(clock)
    used, unused = store.create(), store.create()
    ended: list[Session] = []
    unused.on_timeout = ended.append
    clock.pass_time(6)
    store.find(used.id)
    clock.pass_time(6)
    assert ended == [unused]
    assert not unused.alive
    assert store.find(used.id) is used
    clock.pass_time(10)
    assert store.find(used.id) is None
    assert len(store) == 0


def test_one_timer_serves_all(clock: Clock) -> None:
    store = store_of(clock)
    for _ in range(10):
        store.create()
        clock.pass_time(0.5)
        assert len(clock.set_timers) == 1
    clock.pass_time(100)
    assert clock.set_timers == [], "none without sessions"
    assert len(store) == 0


def test_a_late_timer_changes_nothing(clock: Clock) -> None:
    store = store_of(clock)
    session = store.create()
    clock.now += 10
    assert store.find(session.id) is None


def test_the_limit_drops_the_one_idle_the_longest(clock: Clock) -> None:
    store = store_of(clock, limit=3)
    sessions = [store.create() for _ in range(3)]
    ended: list[Session] = []
    for session in sessions:
        session.on_timeout = ended.append
    store.find(sessions[0].id)
    store.create()
    assert ended == [sessions[1]]
    assert len(store) == 3


def test_destroy_and_renew(clock: Clock) -> None:
    store = store_of(clock)
    session = store.create()
    session["a"] = 1
    ended: list[Session] = []
    session.on_timeout = ended.append
    old = session.id
    session.renew()
    assert session.id != old
    assert store.find(old) is None
    assert store.find(session.id) == {"a": 1}
    session.destroy()
    session.destroy()
    session.renew()
    assert not session.alive
    assert (len(store), ended) == (0, [])


def test_another_timeout_holds_at_once(clock: Clock) -> None:
    store = store_of(clock)
    session = store.create()
    clock.pass_time(5)
    store.timeout = 7
    assert len(clock.set_timers) == 1
    clock.pass_time(2)
    assert not session.alive
    for wrong in (0, -1, True, "5", float("nan")):
        with pytest.raises(ConfigurationError, match="session_timeout"):
            store.timeout = wrong  # type: ignore[assignment]
    assert store.timeout == 7


def test_a_callback_that_fails_is_logged(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    store = store_of(clock)

    def fail(_: Session) -> None:
        raise LookupError("the reason")

    store.create().on_timeout = fail
    other = store.create()
    with caplog.at_level(logging.ERROR, "server_native"):
        clock.pass_time(20)
    assert "the reason" in caplog.text
    assert not other.alive


def test_closed_it_sets_no_timer(clock: Clock) -> None:
    store = store_of(clock)
    store.create()
    store.close()
    store.create()
    assert clock.set_timers == []


class TestSlot:
    """One request."""

    def cookie(self, slot: SessionSlot) -> list[str]:
        cookies = ResponseCookies()
        slot.seal(cookies, lambda: True)
        return cookies.headers()

    def test_nothing_is_made_unless_it_is_asked_for(self, clock: Clock) -> None:
        store = store_of(clock)
        assert self.cookie(SessionSlot(store, "id", ["stale"])) == []
        assert len(store) == 0

    def test_a_new_one_is_told(self, clock: Clock) -> None:
        slot = SessionSlot(store_of(clock), "id", ["planted"])
        session = slot.session
        assert session.id != "planted"
        assert self.cookie(slot) == [f"id={session.id}; Path=/; Secure; HttpOnly; SameSite=Lax"]

    def test_a_known_one_is_not(self, clock: Clock) -> None:
        store = store_of(clock)
        known = store.create()
        slot = SessionSlot(store, "id", ["stale", known.id])
        assert slot.session is known
        assert self.cookie(slot) == []

    def test_a_request_alone_is_use(self, clock: Clock) -> None:
        store = store_of(clock)
        known = store.create()
        clock.pass_time(9)
        SessionSlot(store, "id", [known.id])
        clock.pass_time(9)
        assert known.alive

    def test_after_the_head(self, clock: Clock) -> None:
        store = store_of(clock)
        slot = SessionSlot(store, "id", [])
        self.cookie(slot)
        with pytest.raises(ResponseSentError, match="before the first flush"):
            assert slot.session
        known = store.create()
        slot = SessionSlot(store, "id", [known.id])
        self.cookie(slot)
        assert slot.session is known
