"""What has arrived and was not taken yet: a bounded queue whose items can be withdrawn."""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

__all__ = ["Arrivals"]

T = TypeVar("T")


class Arrivals(Generic[T]):
    """Items by number, taken in the order they came. Belongs to the thread of its loop."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._items: dict[int, T] = {}
        self._takers: list[asyncio.Future[None]] = []
        self._closed = False

    @property
    def full(self) -> bool:
        """Whether another item would pass the limit."""
        return len(self._items) >= self._limit

    def put(self, number: int, item: T) -> None:
        """Adds an item; the caller has looked at :attr:`full`."""
        self._items[number] = item
        self._wake()

    def withdraw(self, number: int) -> None:
        """Takes an item back; nothing happens when somebody has it."""
        self._items.pop(number, None)

    def empty(self) -> list[T]:
        """Takes all items back."""
        items, self._items = list(self._items.values()), {}
        return items

    def close(self) -> None:
        """There will be no more: takers get what is left, then :class:`StopAsyncIteration`."""
        self._closed = True
        self._wake()

    async def take(self) -> T:
        """The next item; waits for it."""
        while not self._items:
            if self._closed:
                raise StopAsyncIteration
            taker = asyncio.get_running_loop().create_future()
            self._takers.append(taker)
            await taker
        return self._items.pop(next(iter(self._items)))

    def _wake(self) -> None:
        # All of them: one that was cancelled meanwhile must not take another's wake-up with it.
        takers, self._takers = self._takers, []
        for taker in takers:
            if not taker.done():
                taker.set_result(None)
