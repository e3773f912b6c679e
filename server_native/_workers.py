"""Tasks that run handlers: one for each that waits, one together for those that do not.

A task costs 2 us to make and to end, most of it asyncio's bookkeeping, and a handler that never waits has nothing to be
kept. So a *worker*, a task, runs the handlers of a batch one after another; the first that waits keeps the task as its
own, and those behind it, and some more, get tasks without being tried. A handler finds what it would find in a task of
its own: its context is as fresh, and `asyncio.current_task()` is cancelled for it alone.
"""

from __future__ import annotations

import asyncio
import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import copy_context
from typing import Any

__all__ = ["Job", "Workers"]

#: Every worker has this name: one of its own would cost more than the task.
_NAME = "server-native-request"
#: Jobs after one that has waited that get a task of their own at once: handlers of one server are mostly alike, and
#: to be tried by a worker and then wait costs 2 us more.
_APART = 64


class Job:
    """Something to run, and the task that does."""

    __slots__ = ("over", "task")

    def __init__(self) -> None:
        #: The task that runs it; ``None`` before it was begun.
        self.task: asyncio.Task[None] | None = None
        #: Whether it is not to be begun any more.
        self.over = False

    def cancel(self) -> bool:
        """Cancels it; false when it had not begun, and never will."""
        if self.task is None:
            self.over = True
            return False
        self.task.cancel()
        return True


class Workers:
    """Runs ``serve(job)`` for each job. Belongs to the thread of its loop."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, serve: Callable[[Any], Coroutine[Any, Any, None]]
    ) -> None:
        self._loop = loop
        self._serve = serve
        self._waiting: deque[Job] = deque()
        # Whether a worker is on its way to them.
        self._called = False
        # How many more get a task of their own at once.
        self._apart = 0
        # What each worker's context is a copy of; nobody ever runs in it.
        self._context = copy_context()

    def add(self, job: Job) -> None:
        """Has the job begun by the loop's next turn."""
        if self._loop.get_task_factory() is not None:
            # Whoever has set it wants to see each of them.
            job.task = self._loop.create_task(self._serve(job), name=_NAME)
            return
        if self._apart:
            self._apart -= 1
            self._alone(job)
            return
        self._waiting.append(job)
        if not self._called:
            self._called = True
            self._context.run(self._task, self._run())

    def _alone(self, job: Job) -> None:
        job.task = self._context.run(self._task, self._serve(job))

    def _task(self, running: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        # What `loop.create_task` does, less its checks and the formatting of a name: 0.4 us of 3.
        return asyncio.Task(running, loop=self._loop, name=_NAME)

    async def _run(self) -> None:
        await self._work()

    @types.coroutine
    def _work(self) -> Generator[Any, None, None]:
        self._called = False
        waiting, serve, context = self._waiting, self._serve, self._context
        task: Any = asyncio.current_task(self._loop)
        while waiting:
            job = waiting.popleft()
            if job.over:
                continue
            job.task = task
            running = serve(job)
            try:
                waited = running.send(None)
            except StopIteration:
                try:
                    # By identity unless a variable was set.
                    fresh = copy_context() == context
                except Exception:  # noqa: BLE001 - values of the user's that cannot be compared
                    fresh = False
                if fresh and not task._must_cancel:
                    continue
                # Not a task for others any more.
                return self._disperse()
            except BaseException:
                self._disperse()
                raise
            self._disperse()
            # If it is cancelled it will hold this frame.
            task = None
            while True:
                try:
                    yield waited
                except BaseException as error:  # noqa: BLE001 - the handler's, as in any task
                    try:
                        waited = running.throw(error)
                    except StopIteration:
                        return None
                else:
                    yield from running
                    return None
        return None

    def _disperse(self) -> None:
        """The others get tasks of their own."""
        self._apart = _APART
        while self._waiting:
            job = self._waiting.popleft()
            if not job.over:
                self._alone(job)
