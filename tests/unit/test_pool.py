"""Threads for plain handlers: in order, no more than asked for, and none that keeps the process."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Iterator

import pytest

from server_native._pool import DEFAULT_THREADS, Pool
from tests.integration.clients import eventually

PATIENCE = 10.0


def made(size: int, *, lendable: int = 0, waiting: int = 1000) -> Pool:
    return Pool(size, lendable, waiting)


def void(result: object) -> None:
    """Makes a job of an expression."""


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Set at the end of a test at the latest, so that stuck jobs end."""
    event = threading.Event()
    yield event
    event.set()


def test_one_thread_runs_jobs_in_order() -> None:
    pool, done = made(1), queue.SimpleQueue[tuple[int, str]]()
    for number in range(100):
        pool.submit(lambda number=number: done.put((number, threading.current_thread().name)))  # type: ignore[misc]
    assert [done.get(timeout=PATIENCE) for _ in range(100)] == [
        (n, "server-native-handler-1") for n in range(100)
    ]
    pool.close(PATIENCE)


def test_there_are_no_more_threads_than_asked_for(release: threading.Event) -> None:
    pool, started = made(3), queue.SimpleQueue[threading.Thread]()

    def job() -> None:
        started.put(threading.current_thread())
        release.wait(PATIENCE)

    for _ in range(10):
        pool.submit(job)
    first = {started.get(timeout=PATIENCE) for _ in range(3)}
    assert len(first) == len(pool._threads) == 3
    assert started.empty()
    release.set()
    rest = {started.get(timeout=PATIENCE) for _ in range(7)}
    assert rest <= first
    assert all(thread.daemon for thread in first)
    pool.close(PATIENCE)
    assert not any(thread.is_alive() for thread in first)


def test_an_idle_thread_takes_the_next_job() -> None:
    pool, done = made(0), queue.SimpleQueue[threading.Thread]()
    threads = set()
    for _ in range(20):
        pool.submit(lambda: done.put(threading.current_thread()))
        threads.add(done.get(timeout=PATIENCE))
        # The thread says that it is idle only after its job: wait for that, so that it is no race.
        eventually(lambda: pool._idle == 1, "it is idle")
    assert len(threads) == 1
    pool.close(PATIENCE)


def test_threads_are_started_as_they_are_needed(release: threading.Event) -> None:
    pool = made(0)
    assert not pool._threads
    for number in range(DEFAULT_THREADS + 5):
        pool.submit(lambda: void(release.wait(PATIENCE)))
        assert len(pool._threads) == min(number + 1, DEFAULT_THREADS)
    release.set()
    pool.close(PATIENCE)


def test_close_lets_jobs_that_wait_run(release: threading.Event) -> None:
    pool, done = made(1), queue.SimpleQueue[int]()
    pool.submit(lambda: void(release.wait(PATIENCE)))
    for number in range(5):
        pool.submit(lambda number=number: done.put(number))  # type: ignore[misc]
    closing = threading.Thread(target=pool.close, args=(PATIENCE,))
    closing.start()
    release.set()
    closing.join(PATIENCE)
    assert [done.get(timeout=PATIENCE) for _ in range(5)] == list(range(5))


def test_a_stuck_job_is_left_behind_and_told(
    release: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    pool, started = made(2), threading.Event()

    def job() -> None:
        started.set()
        release.wait(PATIENCE)

    pool.submit(job)
    assert started.wait(PATIENCE)
    (thread,) = pool._threads
    with caplog.at_level(logging.WARNING, logger="server_native"):
        pool.close(0.0)
    assert thread.is_alive()
    assert thread.daemon
    assert [record.getMessage() for record in caplog.records] == [
        "1 handler threads were still busy at the end of the grace and are left behind"
    ]
    release.set()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_as_many_jobs_wait_as_may_and_no_more(release: threading.Event) -> None:
    pool, done = made(2, waiting=3), queue.SimpleQueue[int]()
    begun = threading.Semaphore(0)

    def blocks() -> None:
        begun.release()
        release.wait(PATIENCE)

    for _ in range(2):
        assert pool.submit(blocks)
        assert begun.acquire(timeout=PATIENCE)
    for number in range(3):
        assert pool.submit(lambda number=number: done.put(number))  # type: ignore[misc]
    assert pool.waiting == 3
    for _ in range(2):
        assert not pool.submit(lambda: done.put(99))
    assert (pool.waiting, pool.refused_jobs) == (3, 2)
    release.set()
    assert sorted(done.get(timeout=PATIENCE) for _ in range(3)) == [0, 1, 2]
    eventually(lambda: pool._idle == 2, "both are idle")
    assert pool.waiting == 0
    assert pool.submit(lambda: done.put(3))
    assert done.get(timeout=PATIENCE) == 3
    pool.close(PATIENCE)


class Lending:
    """A pool whose jobs may keep their threads, and end one by one."""

    def __init__(self, size: int, lendable: int) -> None:
        self.pool = made(size, lendable=lendable)
        self.answers: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self.go = threading.Semaphore(0)
        self.ended: queue.SimpleQueue[threading.Thread] = queue.SimpleQueue()

    def keep(self) -> None:
        """One more job that keeps its thread."""

        def job() -> None:
            self.answers.put(self.pool.lend(threading.current_thread()))
            self.go.acquire(timeout=PATIENCE)
            self.ended.put(threading.current_thread())

        assert self.pool.submit(job)

    def answer(self) -> bool:
        return self.answers.get(timeout=PATIENCE)

    def works(self) -> None:
        """Other jobs are done."""
        done = threading.Event()
        assert self.pool.submit(done.set)
        assert done.wait(PATIENCE)

    def close(self) -> None:
        self.go.release(100)
        self.pool.close(PATIENCE)


def test_a_thread_that_is_lent_keeps_nobody_waiting() -> None:
    lending = Lending(1, 5)
    for number in range(5):
        lending.keep()
        assert lending.answer()
        assert lending.pool.lent == number + 1
        lending.works()
    assert len(lending.pool._threads) == 1
    lending.close()
    assert lending.pool.busy == 0


def test_jobs_that_wait_already_get_the_place_of_a_thread_that_is_lent() -> None:
    pool = made(1, lendable=1)
    submitted, done = threading.Event(), threading.Event()
    kept = threading.Event()

    def job() -> None:
        assert submitted.wait(PATIENCE)
        assert pool.lend(threading.current_thread())
        kept.wait(PATIENCE)

    pool.submit(job)
    pool.submit(done.set)
    submitted.set()
    assert done.wait(PATIENCE)
    kept.set()
    pool.close(PATIENCE)


def test_no_more_threads_are_lent_than_may_be() -> None:
    lending = Lending(3, 2)
    for expected in (True, True, False):
        lending.keep()
        assert lending.answer() is expected
    assert (lending.pool.lent, lending.pool.refused_loans) == (2, 1)
    lending.works()
    lending.go.release(3)
    for _ in range(3):
        lending.ended.get(timeout=PATIENCE)
    eventually(lambda: lending.pool.lent == 0, "they come back")
    lending.keep()
    assert lending.answer()
    lending.close()


def test_a_lent_thread_comes_back_or_ends_where_there_are_enough() -> None:
    lending = Lending(1, 2)
    lending.keep()
    assert lending.answer()
    # Nobody has taken its place: it comes back to it.
    lending.go.release()
    first = lending.ended.get(timeout=PATIENCE)
    eventually(lambda: lending.pool._threads == {first}, "it is the pool's again")
    lending.keep()
    assert lending.answer()
    lending.works()
    lending.go.release()
    assert lending.ended.get(timeout=PATIENCE) is first
    first.join(PATIENCE)
    assert not first.is_alive()
    lending.works()
    assert len(lending.pool._threads) == 1
    lending.close()


def test_what_is_lent_once_may_be_asked_for_again() -> None:
    lending = Lending(1, 1)
    lending.keep()
    assert lending.answer()
    (thread,) = lending.pool._lent
    assert lending.pool.lend(thread)
    assert lending.pool.lend(threading.current_thread()), "no thread of the pool is nobody's loss"
    assert lending.pool.lent == 1
    lending.close()


def test_a_system_without_threads_is_no_reason_to_fall(
    release: threading.Event, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    start = threading.Thread.start

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    lending = Lending(2, 5)
    with caplog.at_level(logging.WARNING, logger="server_native"):
        monkeypatch.setattr(threading.Thread, "start", refuse)
        assert not lending.pool.submit(lambda: None), "nobody would ever do it"
        monkeypatch.setattr(threading.Thread, "start", start)
        lending.works()
        lending.keep()
        assert lending.answer()
        lending.works()
        monkeypatch.setattr(threading.Thread, "start", refuse)
        # The last thread but those that are lent is not lent while somebody waits for it.
        submitted, answers = threading.Event(), queue.SimpleQueue[bool]()

        def job() -> None:
            assert submitted.wait(PATIENCE)
            answers.put(lending.pool.lend(threading.current_thread()))

        done = threading.Event()
        assert lending.pool.submit(job)
        assert lending.pool.submit(done.set)
        submitted.set()
        assert answers.get(timeout=PATIENCE) is False
        assert done.wait(PATIENCE)
        monkeypatch.setattr(threading.Thread, "start", start)
    texts = [record.getMessage() for record in caplog.records]
    assert texts == [
        "a handler thread could not be started beside 0: can't start new thread",
        "a handler thread could not be started beside 2: can't start new thread",
    ]
    assert (lending.pool.refused_jobs, lending.pool.refused_loans) == (1, 1)
    lending.close()


def test_a_pool_that_did_nothing_closes_quietly(caplog: pytest.LogCaptureFixture) -> None:
    made(4).close(0.0)
    assert caplog.records == []
