"""Threads for plain handlers: in order, no more than asked for, and none that keeps the process."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Iterator

import pytest

from server_native._pool import DEFAULT_THREADS, Pool

PATIENCE = 10.0


def void(result: object) -> None:
    """Makes a job of an expression."""


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Set at the end of a test at the latest, so that stuck jobs end."""
    event = threading.Event()
    yield event
    event.set()


def test_one_thread_runs_jobs_in_order() -> None:
    pool, done = Pool(1), queue.SimpleQueue[tuple[int, str]]()
    for number in range(100):
        pool.submit(lambda number=number: done.put((number, threading.current_thread().name)))  # type: ignore[misc]
    assert [done.get(timeout=PATIENCE) for _ in range(100)] == [
        (n, "server-native-handler-1") for n in range(100)
    ]
    pool.close(PATIENCE)


def test_there_are_no_more_threads_than_asked_for(release: threading.Event) -> None:
    pool, started = Pool(3), queue.SimpleQueue[threading.Thread]()

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
    pool, done = Pool(0), queue.SimpleQueue[threading.Thread]()
    threads = set()
    for _ in range(20):
        pool.submit(lambda: done.put(threading.current_thread()))
        threads.add(done.get(timeout=PATIENCE))
        # The thread says that it is idle only after its job: wait for that, so that it is no race.
        assert pool._idle.acquire(timeout=PATIENCE)
        pool._idle.release()
    assert len(threads) == 1
    pool.close(PATIENCE)


def test_threads_are_started_as_they_are_needed(release: threading.Event) -> None:
    pool = Pool(0)
    assert pool._threads == []
    for number in range(DEFAULT_THREADS + 5):
        pool.submit(lambda: void(release.wait(PATIENCE)))
        assert len(pool._threads) == min(number + 1, DEFAULT_THREADS)
    release.set()
    pool.close(PATIENCE)


def test_close_lets_jobs_that_wait_run(release: threading.Event) -> None:
    pool, done = Pool(1), queue.SimpleQueue[int]()
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
    pool, started = Pool(2), threading.Event()

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


def test_a_pool_that_did_nothing_closes_quietly(caplog: pytest.LogCaptureFixture) -> None:
    Pool(4).close(0.0)
    assert caplog.records == []
