"""Starts and stops under load leave no thread, descriptor, handle or memory behind (issue 2, item 9)."""

from __future__ import annotations

import json

import pytest

from tests.faults.harness import Child

kinds = pytest.mark.parametrize("kind", ["thread", "pool", "io", "loop", "own-loop"])


def check(kind: str, count: int) -> None:
    with Child("-m", "tests.faults.cycles", kind, str(count)) as child:
        child.ends(0, within=110)
        before, after = (json.loads(child.expect(word)) for word in ("before", "after"))
        grown = after.pop("resident") - before.pop("resident")
        assert after == before
        # Arenas of the allocator settle in the first rounds; a runtime that stayed would be 1.5 MiB each.
        assert grown < 6 * 1024 * 1024, f"{grown} bytes more after {count} rounds"


@kinds
def test_twenty_starts_and_stops_leave_nothing_behind(kind: str) -> None:
    check(kind, 20)


@pytest.mark.conformance
@kinds
def test_two_hundred_starts_and_stops_leave_nothing_behind(kind: str) -> None:
    check(kind, 200)
