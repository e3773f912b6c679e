"""Threads that run synchronous handlers: daemons, so that one that never returns does not keep the process alive.

A pool has a few threads for requests, which are answered and done with. One whose connection has left HTTP (a
WebSocket, raw bytes) may have a peer that is silent for days: its thread is **lent** to it, no longer counts among the
few and has a bound of its own, so that idle peers keep nobody waiting. What waits for a thread is bounded too; whoever
submits hears of it.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable

__all__ = ["Pool"]

log = logging.getLogger("server_native")

#: Threads of a pool nobody has sized. They are started one by one as they are needed.
DEFAULT_THREADS = 32


class Pool:
    """Runs jobs on up to ``size`` threads, in order of arrival, and those that are lent on up to ``lendable`` more."""

    def __init__(self, size: int, lendable: int, waiting: int) -> None:
        self._size = size or DEFAULT_THREADS
        self._lendable = lendable
        self._most_waiting = waiting
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        #: Over all figures below. Held for moments only.
        self._lock = threading.Lock()
        self._threads: set[threading.Thread] = set()
        self._lent: set[threading.Thread] = set()
        self._busy: set[threading.Thread] = set()
        #: Jobs that no thread has begun, and threads that will begin the next ones, those on their way included.
        self._waiting = 0
        self._idle = 0
        self._started = 0
        self._short = False
        self._closed = False
        #: Jobs and loans that were refused.
        self.refused_jobs = 0
        self.refused_loans = 0
        self._process = os.getpid()

    def submit(self, job: Callable[[], None]) -> bool:
        """Runs ``job`` soon; it must not raise. False when as many wait as may, or there is no thread at all."""
        with self._lock:
            self._waiting += 1
            self._reinforce()
            if not self._threads or self._waiting - self._idle > self._most_waiting:
                self._waiting -= 1
                self.refused_jobs += 1
                return False
        self._jobs.put(job)
        return True

    def lend(self, thread: threading.Thread) -> bool:
        """Leaves a thread of the pool to the job it runs, for as long as that takes; another may take its place.

        False when as many are lent as may be, or the system has no other thread.
        """
        with self._lock:
            if thread not in self._threads or thread not in self._busy:
                # Lent already, or its job has ended meanwhile.
                return True
            if len(self._lent) < self._lendable:
                self._threads.discard(thread)
                self._lent.add(thread)
                self._reinforce()
                if self._threads or not self._waiting:
                    return True
                self._lent.discard(thread)
                self._threads.add(thread)
            self.refused_loans += 1
            return False

    @property
    def busy(self) -> int:
        """Threads inside a job."""
        return len(self._busy)

    @property
    def lent(self) -> int:
        """Threads that are lent."""
        return len(self._lent)

    @property
    def waiting(self) -> int:
        """Jobs that wait for a thread."""
        return max(0, self._waiting - self._idle)

    def close(self, patience: float) -> None:
        """Ends idle threads; waits up to ``patience`` seconds for busy ones, then leaves them to the process's end."""
        with self._lock:
            self._closed = True
            threads = [*self._threads, *self._lent]
        for _ in threads:
            self._jobs.put(None)
        until = time.monotonic() + patience
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        # An idle thread needs a moment to end; that is nothing to tell.
        busy = self.busy
        if busy:
            log.warning(
                "%d handler threads were still busy at the end of the grace and are left behind",
                busy,
            )
        self._threads.clear()
        self._lent.clear()

    def _reinforce(self) -> None:
        """Starts a thread where more jobs wait than threads, and the pool is not complete."""
        if self._waiting <= self._idle or len(self._threads) >= self._size or self._closed:
            return
        name = f"server-native-handler-{self._started + 1}"
        thread = threading.Thread(target=self._work, name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            # The system has no more of them (a limit of processes, or of memory): the others do what there is.
            if not self._short:
                running = len(self._threads) + len(self._lent)
                log.warning("a handler thread could not be started beside %d: %s", running, error)
            self._short = True
            return
        self._short = False
        self._started += 1
        self._threads.add(thread)
        self._idle += 1

    def _work(self) -> None:
        this = threading.current_thread()
        while True:
            job = self._jobs.get()
            if job is None:
                return
            with self._lock:
                self._idle -= 1
                self._waiting -= 1
                self._busy.add(this)
            job()
            # Kept until the next one, it would keep its request and what that holds.
            del job
            if os.getpid() != self._process:
                return  # The handler forked, and this is the child: no further job will ever come here.
            with self._lock:
                self._busy.discard(this)
                if this in self._lent:
                    self._lent.discard(this)
                    if self._closed or len(self._threads) >= self._size:
                        return
                    self._threads.add(this)
                self._idle += 1
