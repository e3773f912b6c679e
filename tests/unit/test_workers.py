"""Handlers that never wait share a task, and notice nothing of it."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from server_native._workers import Job, Workers

VARIABLE: contextvars.ContextVar[Any] = contextvars.ContextVar("VARIABLE", default="unset")


class Numbered(Job):
    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class Served:
    """What was begun and ended, and in which tasks."""

    def __init__(self, handler: Callable[[int], Awaitable[None]]) -> None:
        self.begun: list[int] = []
        self.ended: list[int] = []
        self.tasks: dict[int, asyncio.Task[Any] | None] = {}
        self._handler = handler

    async def __call__(self, job: Numbered) -> None:
        self.begun.append(job.number)
        self.tasks[job.number] = asyncio.current_task()
        assert job.task is asyncio.current_task()
        await self._handler(job.number)
        assert asyncio.current_task() is self.tasks[job.number], "a handler keeps its task"
        self.ended.append(job.number)

    @property
    def count(self) -> int:
        return len(set(map(id, self.tasks.values())))


def add(workers: Workers, numbers: range) -> list[Numbered]:
    jobs = [Numbered(number) for number in numbers]
    for job in jobs:
        workers.add(job)
    return jobs


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def nothing(number: int) -> None:
    """Never waits."""


def test_those_that_never_wait_share_a_task() -> None:
    async def main() -> None:
        served = Served(nothing)
        workers = Workers(asyncio.get_running_loop(), served)
        add(workers, range(100))
        await turns(1)
        assert served.ended == list(range(100))
        assert served.count == 1
        task = served.tasks[0]
        await turns()
        assert task is not None
        assert task.done(), "nobody waits for more"

    asyncio.run(main())


def test_one_that_waits_keeps_its_task_and_holds_nobody_up() -> None:
    gate = asyncio.Event()

    async def handler(number: int) -> None:
        if number == 3:
            await gate.wait()

    async def main() -> None:
        served = Served(handler)
        workers = Workers(asyncio.get_running_loop(), served)
        add(workers, range(10))
        await turns()
        assert served.begun == list(range(10))
        assert served.ended == [0, 1, 2, 4, 5, 6, 7, 8, 9]
        assert [served.tasks[number] is served.tasks[3] for number in range(6)] == [True] * 4 + [
            False
        ] * 2
        gate.set()
        await turns()
        assert served.ended[-1] == 3

    asyncio.run(main())


def test_those_that_wait_have_a_task_each_and_are_tried_again_later() -> None:
    waits = True

    async def handler(number: int) -> None:
        if waits:
            await asyncio.sleep(0)

    async def main() -> None:
        nonlocal waits
        served = Served(handler)
        workers = Workers(asyncio.get_running_loop(), served)
        add(workers, range(10))
        await turns()
        assert served.count == 10
        assert served.ended == list(range(10))
        waits = False
        add(workers, range(100, 200))
        await turns()
        assert len(served.ended) == 110
        assert served.count < 110, "handlers that no longer wait share again"

    asyncio.run(main())


def test_a_context_variable_is_not_seen_by_the_next() -> None:
    async def main() -> None:
        seen = []

        async def handler(number: int) -> None:
            seen.append(VARIABLE.get())
            VARIABLE.set(number)

        served = Served(handler)
        workers = Workers(asyncio.get_running_loop(), served)
        add(workers, range(50))
        await turns()
        assert seen == ["unset"] * 50

    asyncio.run(main())


def test_a_variable_that_cannot_be_compared_counts_as_set() -> None:
    class Odd:
        def __eq__(self, other: object) -> bool:
            raise ValueError("neither true nor false")

        def __hash__(self) -> int:
            return 0

    async def main() -> None:
        seen = []

        async def handler(number: int) -> None:
            seen.append(type(VARIABLE.get()))
            VARIABLE.set(Odd())

        VARIABLE.set(Odd())
        workers = Workers(asyncio.get_running_loop(), Served(handler))
        VARIABLE.set("main's")
        add(workers, range(5))
        await turns()
        assert seen == [Odd] * 5

    asyncio.run(main())


def test_a_variable_that_was_reset_costs_no_task() -> None:
    async def main() -> None:
        async def handler(number: int) -> None:
            VARIABLE.reset(VARIABLE.set(number))

        served = Served(handler)
        workers = Workers(asyncio.get_running_loop(), served)
        add(workers, range(50))
        await turns()
        assert served.count == 1

    asyncio.run(main())


def test_a_handler_that_cancels_its_own_task_cancels_no_other() -> None:
    async def main() -> None:
        async def handler(number: int) -> None:
            task = asyncio.current_task()
            if number == 1 and task is not None:
                task.cancel()
            if number == 2:
                await asyncio.sleep(0)

        served = Served(handler)
        workers = Workers(asyncio.get_running_loop(), served)
        add(workers, range(4))
        await turns(5)
        assert sorted(served.ended) == [0, 1, 2, 3]

    asyncio.run(main())


@pytest.mark.parametrize("error", [ValueError("a bug"), asyncio.CancelledError()], ids=repr)
def test_one_that_fails_takes_nobody_with_it(error: BaseException) -> None:
    async def main() -> None:
        async def handler(number: int) -> None:
            if number == 1:
                raise error

        served = Served(handler)
        workers = Workers(asyncio.get_running_loop(), served)
        add(workers, range(4))
        await turns()
        assert served.ended == [0, 2, 3]
        failed = served.tasks[1]
        assert failed is not None
        with contextlib.suppress(type(error)):
            await failed

    asyncio.run(main())


def test_cancelling_reaches_the_one_it_is_for() -> None:
    async def main() -> None:
        told: list[int | str] = []

        async def handler(number: int) -> None:
            try:
                await asyncio.get_running_loop().create_future()  # nobody ends it
            except asyncio.CancelledError:
                told.append(number)
                if number == 0:
                    await asyncio.sleep(0)  # it may tidy up
                    told.append("tidy")
                raise

        served = Served(handler)
        workers = Workers(asyncio.get_running_loop(), served)
        jobs = add(workers, range(3))
        await turns()
        assert jobs[0].cancel()
        assert jobs[2].cancel()
        await turns()
        assert told == [0, 2, "tidy"]
        assert jobs[1].cancel()
        await turns()

    asyncio.run(main())


def test_one_cancelled_before_it_began_never_begins() -> None:
    async def main() -> None:
        served = Served(nothing)
        workers = Workers(asyncio.get_running_loop(), served)
        jobs = add(workers, range(3))
        assert not jobs[1].cancel()
        await turns()
        assert served.begun == [0, 2]

    asyncio.run(main())


def test_a_task_factory_sees_each() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        made = []

        def factory(loop: Any, coroutine: Any, **more: Any) -> asyncio.Task[Any]:
            made.append(coroutine)
            return asyncio.Task(coroutine, loop=loop, **more)

        loop.set_task_factory(factory)
        served = Served(nothing)
        add(Workers(loop, served), range(5))
        loop.set_task_factory(None)
        await turns()
        assert len(made) == 5
        assert served.count == 5

    asyncio.run(main())
