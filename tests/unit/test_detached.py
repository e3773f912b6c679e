"""Connections taken over as bytes, without a network: both directions, their ends, and which commands they cause."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from server_native import ClientDisconnected, NativeDirectRequest
from server_native._bindings.abi import FLAG_END, Command, Protocol, Reason
from server_native._streams import (
    Inflow,
    LoopInflow,
    LoopOutflow,
    Outflow,
    ThreadInflow,
    ThreadOutflow,
)
from server_native.detached import DetachedSocket, ThreadDetachedSocket
from server_native.errors import StoppingError
from tests.unit.fakes import FakeRuntime, Said, outbox, peer, soon

LINE = b"GET\0/raw\0http\0a"


class Both:
    """A socket of either kind, and what it says."""

    def __init__(
        self, kind: type[Any], first: bytes = b"", *, complete: bool = True, window: int = 1000
    ) -> None:
        self.runtime: FakeRuntime
        self.runtime, self._outbox = outbox()
        flags = Protocol.HTTP11 | FLAG_END
        request = NativeDirectRequest(7, peer(), flags, LINE, b"", first, None)
        loop = kind is DetachedSocket
        inflow: Inflow
        outflow: Outflow
        if loop:
            inflow = LoopInflow(7, self._outbox, first, window, False, soon)
            outflow = LoopOutflow(7, self._outbox, window, soon)
        else:
            inflow = ThreadInflow(7, self._outbox, first, window, False)
            outflow = ThreadOutflow(7, self._outbox, window)
        if complete:
            inflow.end(b"")
        inflow.reopen()
        self.socket: Any = kind(request, inflow, outflow)

    def call(self, name: str, *arguments: Any) -> Any:
        result = getattr(self.socket, name)(*arguments)
        return asyncio.run(result) if asyncio.iscoroutine(result) else result

    def leave(self, error: BaseException | None = None) -> None:
        kind = None if error is None else type(error)
        if isinstance(self.socket, DetachedSocket):
            asyncio.run(self.socket.__aexit__(kind, error, None))
        else:
            self.socket.__exit__(kind, error, None)

    def said(self) -> list[Said]:
        self._outbox.flush()
        said, self.runtime.said = self.runtime.said, []
        assert all(command.stream == 7 for command in said)
        return said


both = pytest.mark.parametrize("kind", [DetachedSocket, ThreadDetachedSocket])


@both
def test_what_was_read_comes_first_and_then_what_comes(kind: type[Any]) -> None:
    both = Both(kind, b"body")
    both.socket._on_data(b"raw", 0)
    both.socket._on_end(b"", 0)
    assert [both.call("receive") for _ in range(4)] == [b"body", b"raw", b"", b""]


@both
@pytest.mark.parametrize("with_data", [True, False])
def test_the_end_of_an_incomplete_body_is_not_the_peers(kind: type[Any], with_data: bool) -> None:
    both = Both(kind, complete=False)
    if with_data:
        both.socket._on_data(b"rest of the body", FLAG_END)
    else:
        both.socket._on_data(b"rest of the body", 0)
        both.socket._on_end(b"x-sum\x001", 0)
    both.socket._on_data(b"raw", 0)
    both.socket._on_data(b"last", FLAG_END)
    found = [both.call("receive") for _ in range(4)]
    assert found == [b"rest of the body", b"raw", b"last", b""]


@both
def test_credit_that_a_complete_body_kept_back_is_given(kind: type[Any]) -> None:
    """Nothing more would have come of it; of what follows it does."""
    both = Both(kind, window=100)
    inflow = both.socket._inflow
    inflow._owed = 0
    for piece in (b"x" * 40, b"y" * 60):
        inflow.feed(piece, False)
    inflow.end(b"")
    assert [both.call("receive"), both.call("receive")] == [b"x" * 40, b"y" * 60]
    assert both.said() == []
    inflow.reopen()
    assert [(said.command, said.aux) for said in both.said()] == [(Command.CREDIT, 100)]


@both
def test_a_body_read_elsewhere_counts_as_read(kind: type[Any]) -> None:
    both = Both(kind, b"x" * 60, window=100)
    both.socket._inflow.forget()
    both.socket._inflow.reopen()
    assert [(said.command, said.aux) for said in both.said()] == [(Command.CREDIT, 60)]
    both.socket._on_data(b"raw", 0)
    assert both.call("receive") == b"raw"


@both
def test_bytes_go_out_and_each_end_is_said_once(kind: type[Any]) -> None:
    both = Both(kind)
    both.call("send", b"bytes")
    both.call("close_write")
    both.call("close_write")
    both.call("close")
    both.call("close")
    both.socket._finish(1000)
    said = [(said.command, said.code, said.payload) for said in both.said()]
    assert said == [(Command.DATA, 0, b"bytes"), (Command.END, 0, b""), (Command.END, 1, b"")]


@both
def test_after_close_write_there_is_still_something_to_hear(kind: type[Any]) -> None:
    both = Both(kind)
    both.call("close_write")
    with pytest.raises(RuntimeError, match="after close_write"):
        both.call("send", b"x")
    both.socket._on_data(b"late", 0)
    assert both.call("receive") == b"late"
    both.call("close")
    with pytest.raises(RuntimeError, match=r"after close\(\): use close_write\(\)"):
        both.call("receive")


@both
@pytest.mark.parametrize("reason", list(Reason))
def test_a_reset_ends_both_directions(kind: type[Any], reason: Reason) -> None:
    both = Both(kind)
    both.socket._on_data(b"before", 0)
    both.socket._on_reset(int(reason))
    assert both.call("receive") == b"before"
    for call in (("receive",), ("send", b"x")):
        with pytest.raises(ClientDisconnected):
            both.call(*call)
    for call in (("close_write",), ("close",), ("abort",)):
        both.call(*call)
    both.socket._finish(1000)
    assert both.said() == [], "nobody is there to hear it"


@both
def test_an_abort_is_a_reset_and_the_last_word(kind: type[Any]) -> None:
    both = Both(kind)
    both.call("abort")
    both.call("abort")
    both.call("close")
    both.socket._finish(1011)
    assert [(said.command, said.code) for said in both.said()] == [
        (Command.RESET, Reason.CANCELLED)
    ]
    for call in (("receive",), ("send", b"x")):
        with pytest.raises(ClientDisconnected):
            both.call(*call)


@both
@pytest.mark.parametrize("error", [None, ValueError()])
def test_leaving_with_closes_or_aborts(kind: type[Any], error: BaseException | None) -> None:
    both = Both(kind)
    both.leave(error)
    both.socket._finish(1000)
    (said,) = both.said()
    assert (said.command, said.code) == (
        (Command.END, 1) if error is None else (Command.RESET, Reason.CANCELLED)
    )


@both
def test_a_stop_is_told_and_the_end_of_the_handler_is_a_reset(kind: type[Any]) -> None:
    both = Both(kind)
    both.socket._on_drain()
    assert both.said() == [], "said by whom the outbox belongs to, not by the pump"
    with pytest.raises(ClientDisconnected, match="the server is stopping"):
        both.call("receive")
    both.socket._finish(1000)
    assert [said.command for said in both.said()] == [Command.RESET]


def test_the_end_of_a_handler_after_the_servers_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    both = Both(ThreadDetachedSocket)

    def submit(*_: object) -> None:
        raise StoppingError("the runtime has stopped")

    monkeypatch.setattr(both.runtime, "submit", submit)
    both.socket._finish(1000)


@both
def test_it_shows_what_it_is(kind: type[Any]) -> None:
    both = Both(kind)
    assert repr(both.socket) == f"<{kind.__name__} /raw>"
    both.socket._on_writable(5)
    both.socket._on_pong(b"never")
