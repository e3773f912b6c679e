"""Threads that run synchronous handlers: daemons, so that one that never returns does not keep the process alive."""

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
    """Runs jobs on up to ``size`` threads, in order of arrival. Streams bound how many jobs there can be."""

    def __init__(self, size: int) -> None:
        self._size = size or DEFAULT_THREADS
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._idle = threading.Semaphore(0)
        self._busy: set[threading.Thread] = set()
        self._process = os.getpid()

    def submit(self, job: Callable[[], None]) -> None:
        """Runs ``job`` soon; it must not raise."""
        self._jobs.put(job)
        if not self._idle.acquire(blocking=False) and len(self._threads) < self._size:
            name = f"server-native-handler-{len(self._threads) + 1}"
            thread = threading.Thread(target=self._work, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    @property
    def busy(self) -> int:
        """Threads inside a job."""
        return len(self._busy)

    def close(self, patience: float) -> None:
        """Ends idle threads; waits up to ``patience`` seconds for busy ones, then leaves them to the process's end."""
        for _ in self._threads:
            self._jobs.put(None)
        until = time.monotonic() + patience
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        # An idle thread needs a moment to end; that is nothing to tell.
        busy = self.busy
        if busy:
            log.warning(
                "%d handler threads were still busy at the end of the grace and are left behind",
                busy,
            )
        self._threads.clear()

    def _work(self) -> None:
        this = threading.current_thread()
        while True:
            job = self._jobs.get()
            if job is None:
                return
            self._busy.add(this)
            job()
            if os.getpid() != self._process:
                return  # The handler forked, and this is the child: no further job will ever come here.
            self._busy.discard(this)
            self._idle.release()
