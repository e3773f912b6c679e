"""The gate over the wire: what two readers could read differently is refused, and nothing behind it is answered."""

from __future__ import annotations

import contextlib
import threading

import pytest

from server_native import NativeDirectRequest
from tests.integration.clients import Wire
from tests.integration.gate_cases import CASES, Case
from tests.integration.servers import Serve

CANARY = b"GET /canary HTTP/1.1\r\nhost: a\r\n\r\n"


@pytest.mark.parametrize("pieces", [1, 40], ids=["whole", "in-pieces"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.name))
def test_is_refused(serve: Serve, case: Case, pieces: int) -> None:
    called: list[str] = []
    completed: list[str] = []

    async def handler(request: NativeDirectRequest) -> str:
        called.append(request.target)
        await request.read()
        completed.append(request.target)
        return "must not be"

    running = serve(handler)
    with Wire(running.address) as wire:
        sender = threading.Thread(target=send, args=(wire, case.data + CANARY, pieces))
        sender.start()
        answer = wire.answer()
        assert answer.status == case.status, answer
        assert answer.header("connection") == "close"
        assert wire.rest() == b"", "nothing follows, the canary is not answered"
        sender.join()
    assert completed == []
    if not case.late or (pieces == 1 and len(case.data) < 16_384):
        assert called == []


def test_a_valid_request_before_is_answered_first(serve: Serve) -> None:
    """One bad request must not spoil the answer of the good one in front of it."""
    seen: list[str] = []
    running = serve(lambda request: seen.append(request.path) or "good")  # type: ignore[func-returns-value]
    with Wire(running.address) as wire:
        wire.send(b"GET /good HTTP/1.1\r\nhost: a\r\n\r\n" + b"GET /bad HTTP/1.1\r\n\r\n" + CANARY)
        assert wire.answer().body == b"good"
        assert wire.answer().status == 400
        assert wire.rest() == b""
    assert seen == ["/good"]


@pytest.mark.parametrize(
    ("data", "body"),
    [
        (b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0005\r\n\r\nhello", b"hello"),
        (
            b"POST / HTTP/1.1\r\nhost:a\r\nTransfer-Encoding:CHUNKED\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            b"hello",
        ),
        (
            b'POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n005;a="b c"\r\nhello\r\n000\r\n\r\n',
            b"hello",
        ),
        (
            b"POST / HTTP/1.1\r\nhost: a \t\r\nx:\t y\tz \xff\r\ncontent-length: 5\r\n\r\nhello",
            b"hello",
        ),
        (
            b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nA\r\nhellohello\r\n0\r\n\r\n",
            b"hellohello",
        ),
    ],
)
def test_what_is_unusual_but_clear_is_served(serve: Serve, data: bytes, body: bytes) -> None:
    seen: list[bytes] = []

    async def handler(request: NativeDirectRequest) -> str:
        seen.append(await request.read())
        return "ok"

    with Wire(serve(handler).address) as wire:
        wire.send(data + CANARY)
        assert [wire.answer().status, wire.answer().status] == [200, 200]
    assert seen == [body, b""]


def send(wire: Wire, data: bytes, pieces: int) -> None:
    size = -(-len(data) // pieces)
    # Refused in the middle: what is left cannot be sent.
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        for start in range(0, len(data), size):
            wire.send(data[start : start + size])
