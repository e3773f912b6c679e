"""Commands are packed as the native side reads them, and handed over in one call."""

from __future__ import annotations

import struct
from typing import cast

import pytest

from server_native._bindings import abi
from server_native._bindings.abi import Command, Reason
from server_native._ffi import Runtime
from server_native._outbox import Outbox, PatientOutbox
from server_native.errors import RuntimeBusyError, StoppingError
from tests.unit.fakes import FakeRuntime, Said, outbox


class Raw:
    """Keeps what was submitted as it is; the first ``failures`` of the submits fail with ``error``."""

    def __init__(self, failures: int = 0, error: Exception | None = None) -> None:
        self.calls: list[tuple[bytes, int, bytes, int]] = []
        self._failures = failures
        self._error = error or RuntimeError("submit failed")

    def submit(self, records: bytes, count: int, arena: bytes, length: int) -> None:
        self.calls.append((records, count, arena, length))
        if self._failures:
            self._failures -= 1
            raise self._error


def test_each_command_is_one_record_of_the_abi() -> None:
    raw = Raw()
    box = Outbox(cast("Runtime", raw))
    box.head(1 << 40, 200, b"fields", b"body!", False)
    box.data(2, b"data")
    box.end(3, b"trailers")
    box.end(4)
    box.reset(5, Reason.CANCELLED)
    box.inform(6, 103, b"link")
    box.credit(7, 70_000)
    box.head(8, 999, b"", b"", True)
    assert raw.calls == []
    box.flush()
    ((records, count, arena, length),) = raw.calls
    assert arena == b"fieldsbody!datatrailerslink"
    assert (count, length) == (8, len(arena))
    assert list(struct.iter_unpack(abi.RECORD_FORMAT, records)) == [
        (1 << 40, 0, 0, 6, Command.HEAD, 0, 200, 5),
        (2, 0, 11, 4, Command.DATA, 0, 0, 0),
        (3, 0, 15, 8, Command.END, abi.FLAG_END, 0, 0),
        (4, 0, 23, 0, Command.END, abi.FLAG_END, 0, 0),
        (5, 0, 23, 0, Command.RESET, abi.FLAG_END, Reason.CANCELLED, 0),
        (6, 0, 23, 4, Command.INFORM, 0, 103, 0),
        (7, 0, 27, 0, Command.CREDIT, 0, 0, 70_000),
        (8, 0, 27, 0, Command.HEAD, abi.FLAG_END, 999, 0),
    ]
    assert struct.calcsize(abi.RECORD_FORMAT) == abi.RECORD_SIZE == len(records) / count


def test_every_flush_starts_a_new_arena() -> None:
    runtime, box = outbox()
    for _ in range(2):
        box.data(1, b"abc")
        box.flush()
        box.flush()
    assert runtime.named("submit") == [1, 1]
    assert runtime.said == [Said(Command.DATA, 1, b"abc")] * 2


def test_nothing_is_submitted_for_nothing() -> None:
    runtime, box = outbox()
    box.flush()
    box.data(1, b"")
    box.flush()
    assert runtime.calls == []


def test_commands_of_a_submit_that_failed_are_not_tried_again() -> None:
    raw = Raw(failures=1)
    box = Outbox(cast("Runtime", raw))
    box.data(1, b"first")
    with pytest.raises(RuntimeError, match="submit failed"):
        box.flush()
    box.flush()
    box.data(2, b"second")
    box.flush()
    assert [(count, arena) for _, count, arena, _ in raw.calls] == [(1, b"first"), (1, b"second")]
    ((stream, _, offset, *_),) = struct.iter_unpack(abi.RECORD_FORMAT, raw.calls[1][0])
    assert (stream, offset) == (2, 0)


def test_the_first_command_after_a_flush_is_announced() -> None:
    first: list[int] = []
    runtime = FakeRuntime()
    box = Outbox(cast("Runtime", runtime), lambda: first.append(len(runtime.said)))
    box.data(1, b"")
    assert first == []
    box.credit(1, 5)
    box.head(1, 200, b"", b"", False)
    box.data(1, b"x")
    assert first == [0]
    box.flush()
    assert first == [0]
    box.head(1, 200, b"", b"", True)
    box.data(1, b"x")
    assert first == [0, 3]


def test_what_there_is_no_room_for_is_kept_for_the_next_flush() -> None:
    raw = Raw(2, RuntimeBusyError("268435456 bytes of commands wait already"))
    box = Outbox(cast("Runtime", raw))
    box.data(1, b"first")
    assert not box.flush()
    box.data(2, b"second")
    assert not box.flush()
    assert box.flush()
    assert [(count, arena) for _, count, arena, _ in raw.calls] == [
        (1, b"first"),
        (2, b"firstsecond"),
        (2, b"firstsecond"),
    ]


def test_a_thread_waits_for_room() -> None:
    """Nobody flushes for it: what it kept would never go, and it would wait for ever for the window to come back."""
    raw = Raw(5, RuntimeBusyError("268435456 bytes of commands wait already"))
    box = PatientOutbox(cast("Runtime", raw))
    box.data(1, b"all")
    assert box.flush()
    assert [arena for _, _, arena, _ in raw.calls] == [b"all"] * 6


def test_a_thread_that_waits_for_room_hears_of_the_end() -> None:
    class Stopping(Raw):
        def submit(self, records: bytes, count: int, arena: bytes, length: int) -> None:
            if len(self.calls) == 3:
                raise StoppingError("the runtime has stopped")
            super().submit(records, count, arena, length)

    box = PatientOutbox(
        cast("Runtime", Stopping(100, RuntimeBusyError("268435456 bytes of commands wait already")))
    )
    box.data(1, b"all")
    with pytest.raises(StoppingError):
        box.flush()


# --- pieces that go together ------------------------------------------------------------------------


def test_small_pieces_are_joined_and_large_ones_lent_together() -> None:
    runtime, box = outbox()
    small, large = [b"a" * 100, b"b" * 200], [b"c" * 9000, b"d" * 9000, b"e"]
    box.pieces(1, small, 300)
    box.pieces(2, [b"alone"], 5)
    box.flush()
    assert runtime.lent == {}
    box.pieces(3, [*large[:2]], 18_000)
    box.pieces(4, large, 18_001)
    box.flush()
    # Small on the average: a copy costs less than the loans.
    assert runtime.lent == {1: b"c" * 9000 + b"d" * 9000, 2: b"".join(large)}
    assert runtime.said == [
        Said(Command.DATA, 1, b"a" * 100 + b"b" * 200),
        Said(Command.DATA, 2, b"alone"),
        Said(Command.DATA, 3, b"c" * 9000 + b"d" * 9000),
        Said(Command.DATA, 4, b"".join(large)),
    ]


def test_what_is_gathered_is_said_before_a_flush_and_asks_for_one() -> None:
    asked: list[str] = []
    runtime = FakeRuntime()
    box = Outbox(cast("Runtime", runtime), lambda: asked.append("first"))
    box.gather(lambda: box.data(1, b"gathered"))
    box.gather(lambda: box.data(2, b"too"))
    box.data(3, b"between")
    assert asked == ["first"]
    box.flush()
    assert asked == ["first"]
    assert [said.stream for said in runtime.said] == [3, 1, 2]
    box.flush()
    assert len(runtime.said) == 3, "once"
    box.data(4, b"again")
    assert asked == ["first", "first"]
