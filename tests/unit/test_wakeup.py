"""A task that waits for the pump: run when the pump says so, cancelled as any other, never lost."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from server_native._wakeup import Wakeup
from tests.unit.fakes import soon

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="unset")


class World:
    """A wakeup, the pump's list, and a task that waits with it."""

    def __init__(self) -> None:
        self.ready: list[Callable[[], None]] = []
        self.wakeup = Wakeup(self.ready.append)
        self.log: list[str] = []

    async def waits(self, name: str = "woken") -> None:
        await self.wakeup.wait()
        self.log.append(name)

    async def begin(self, waiting: Awaitable[Any]) -> asyncio.Future[Any]:
        task = asyncio.ensure_future(waiting)
        await asyncio.sleep(0)
        assert self.wakeup.waited
        return task

    async def pump(self) -> None:
        """Runs what is ready, as the pump does: outside any task."""
        done = asyncio.Event()

        def run() -> None:
            ready, self.ready[:] = self.ready[:], []
            for woken in ready:
                woken()
            self.log.append("pumped")
            done.set()

        asyncio.get_running_loop().call_soon(run)
        await done.wait()


def run(scenario: Callable[[World], Awaitable[None]]) -> list[str]:
    async def main() -> World:
        world = World()
        await asyncio.wait_for(scenario(world), 10)
        return world

    return asyncio.run(main()).log


def test_the_task_runs_in_the_turn_of_the_pump() -> None:
    async def scenario(world: World) -> None:
        task = await world.begin(world.waits())
        world.wakeup.set()
        world.wakeup.set()
        assert len(world.ready) == 1, "once is enough"
        await world.pump()
        assert task.done()

    assert run(scenario) == ["woken", "pumped"]


def test_soon_is_from_within_another_task() -> None:
    async def scenario(world: World) -> None:
        task = await world.begin(world.waits())
        world.wakeup.set_soon()
        world.log.append("goes on")
        await task

    assert run(scenario) == ["goes on", "woken"]


def test_nobody_waits() -> None:
    async def scenario(world: World) -> None:
        world.wakeup.set()
        world.wakeup.set_soon()
        assert world.ready == []
        assert not world.wakeup.waited

    assert run(scenario) == []


def test_one_serves_many_waits() -> None:
    async def scenario(world: World) -> None:
        async def waits() -> None:
            for number in range(3):
                await world.waits(str(number))

        task = await world.begin(waits())
        for _ in range(3):
            assert not task.done()
            world.wakeup.set()
            await world.pump()
        assert task.done()

    assert run(scenario) == ["0", "pumped", "1", "pumped", "2", "pumped"]


def test_the_task_has_its_context_and_is_the_current_one() -> None:
    async def scenario(world: World) -> None:
        async def waits() -> None:
            VARIABLE.set("its own")
            await world.wakeup.wait()
            assert asyncio.current_task() is task
            world.log.append(VARIABLE.get())

        task = await world.begin(waits())
        world.wakeup.set()
        await world.pump()
        await task
        world.log.append(VARIABLE.get())

    assert run(scenario) == ["its own", "pumped", "unset"]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_cancelled_task_does_not_wait_any_more(moment: str) -> None:
    async def scenario(world: World) -> None:
        task = await world.begin(world.waits())
        if moment == "after":
            world.wakeup.set()
        assert task.cancel("enough")
        if moment == "before":
            world.wakeup.set()
        with pytest.raises(asyncio.CancelledError, match="enough"):
            await task
        assert not world.wakeup.waited
        # What was set meanwhile finds nobody.
        await world.pump()

    assert run(scenario) == ["pumped"]


def test_a_task_that_survives_its_cancellation_waits_again() -> None:
    async def scenario(world: World) -> None:
        async def stubborn() -> None:
            with pytest.raises(asyncio.CancelledError):
                await world.waits()
            await world.waits("again")

        task = await world.begin(stubborn())
        task.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert world.wakeup.waited
        assert not task.done()
        world.wakeup.set()
        await world.pump()
        assert task.done()

    assert run(scenario) == ["again", "pumped"]


def test_a_time_limit_ends_the_wait() -> None:
    async def scenario(world: World) -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(world.waits(), 0.001)
        assert not world.wakeup.waited

    assert run(scenario) == []


def test_what_the_task_raises_is_the_tasks() -> None:
    async def scenario(world: World) -> None:
        async def fails() -> None:
            await world.wakeup.wait()
            raise ValueError("here")

        task = await world.begin(fails())
        world.wakeup.set()
        await world.pump()
        with pytest.raises(ValueError, match="here"):
            await task

    assert run(scenario) == ["pumped"]


def test_a_task_of_another_loop_may_not_wait() -> None:
    async def make() -> Wakeup:
        return Wakeup(soon)

    foreign = asyncio.run(make())

    async def waits() -> None:
        await foreign.wait()

    with pytest.raises(RuntimeError, match="attached to a different loop"):
        asyncio.run(waits())
