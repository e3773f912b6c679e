"""The queue between arriving requests and those who take them."""

from __future__ import annotations

import asyncio

import pytest

from server_native._arrivals import Arrivals


def test_in_order_and_up_to_the_limit() -> None:
    async def main() -> None:
        arrivals: Arrivals[str] = Arrivals(2)
        arrivals.put(7, "first")
        assert not arrivals.full
        arrivals.put(3, "second")
        assert arrivals.full
        arrivals.withdraw(9)
        assert [await arrivals.take(), await arrivals.take()] == ["first", "second"]
        arrivals.put(1, "a")
        arrivals.put(2, "b")
        arrivals.withdraw(1)
        assert arrivals.empty() == ["b"]
        assert arrivals.empty() == []

    asyncio.run(main())


def test_a_taker_that_is_cancelled_takes_nothing_with_it() -> None:
    async def main() -> None:
        arrivals: Arrivals[str] = Arrivals(2)
        first, second = (asyncio.create_task(arrivals.take()) for _ in range(2))
        await asyncio.sleep(0)
        arrivals.put(1, "item")
        first.cancel()
        assert await second == "item"
        with pytest.raises(asyncio.CancelledError):
            await first

    asyncio.run(main())


def test_the_end_reaches_every_taker() -> None:
    async def main() -> None:
        arrivals: Arrivals[str] = Arrivals(2)

        async def ended() -> bool:
            try:
                await arrivals.take()
            except StopAsyncIteration:
                return True
            return False

        takers = [asyncio.create_task(ended()) for _ in range(3)]
        await asyncio.sleep(0)
        arrivals.close()
        assert await asyncio.gather(*takers) == [True] * 3
        assert await ended()

    asyncio.run(main())
