"""Messages are the same at both ends, however they are cut; anything else is refused once."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server_native import Limits
from tests.integration.clients import Wire
from tests.integration.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Frames,
    closing,
    encode,
)
from tests.integration.servers import Running
from tests.integration.websocket_app import App

#: Small windows, so that everything waits for everything.
LIMITS = Limits(receive_window=16_384, send_window=16_384, ws_write_bytes=16_384)


@pytest.fixture(scope="module", params=["coroutines", "threads"])
def server(request: pytest.FixtureRequest) -> Iterator[Running]:
    app = App()
    asynchronous = request.param == "coroutines"
    options = {"limits": LIMITS} if asynchronous else {"limits": LIMITS, "threads": 2}
    running = Running(app.handler(asynchronous), "blocking", options)
    yield running
    running.close(0.0)
    running.join()


class Message(NamedTuple):
    """A message, where it is cut into fragments, and the pings between them."""

    content: str | bytes
    cuts: list[int]
    pings: list[bytes]

    @property
    def payload(self) -> bytes:
        return self.content.encode() if isinstance(self.content, str) else self.content

    def frames(self, mask: bytes) -> list[bytes]:
        data = self.payload
        ends = [*sorted({min(cut, len(data)) for cut in self.cuts}), len(data)]
        opcode = TEXT if isinstance(self.content, str) else BINARY
        frames, start = [], 0
        for at, end in enumerate(ends):
            last = at == len(ends) - 1
            kind = CONTINUATION if at else opcode
            frames.append(encode(kind, data[start:end], fin=last, mask=mask))
            frames += [encode(PING, ping, mask=mask) for ping in self.pings[at : at + 1]]
            start = end
        return frames


sizes = st.one_of(st.integers(0, 300), st.integers(0, 40_000))
contents = st.one_of(
    st.text(max_size=200),
    st.binary(max_size=200),
    sizes.map(bytes),
    st.builds(lambda text, times: text * times, st.text(max_size=20), st.integers(0, 2000)),
)
messages = st.builds(
    Message,
    contents,
    st.lists(st.integers(0, 40_000), max_size=4),
    st.lists(st.binary(max_size=125), max_size=3),
)
segments = st.lists(st.integers(1, 20_000), min_size=1, max_size=20)


def send_in_segments(wire: Wire, data: bytes, lengths: list[int]) -> None:
    at = turn = 0
    while at < len(data):
        # Never so small for so long that the test is about the number of calls.
        length = max(lengths[turn % len(lengths)], len(data) // 500)
        wire.send(data[at : at + length])
        at, turn = at + length, turn + 1


@settings(deadline=None, max_examples=60)
@given(st.lists(messages, max_size=8), segments, st.binary(min_size=4, max_size=4))
def test_messages_are_the_same_at_both_ends(
    server: Running, sent: list[Message], lengths: list[int], mask: bytes
) -> None:
    stream = b"".join(frame for message in sent for frame in message.frames(mask))
    pings = []
    for message in sent:
        fragments = len({min(cut, len(message.payload)) for cut in message.cuts}) + 1
        pings += message.pings[:fragments]
    with Frames(server.address, "/echo") as client:
        sender = threading.Thread(target=send_in_segments, args=(client.wire, stream, lengths))
        sender.start()
        received: list[str | bytes] = []
        pongs: list[bytes] = []
        parts: list[bytes] = []
        kind = TEXT
        while len(received) < len(sent) or len(pongs) < len(pings):
            frame = client.frame()
            if frame.opcode == PONG:
                pongs.append(frame.payload)
                continue
            assert frame.opcode == CONTINUATION if parts else frame.opcode in (TEXT, BINARY)
            kind = kind if parts else frame.opcode
            parts.append(frame.payload)
            if frame.fin:
                whole = b"".join(parts)
                received.append(whole.decode() if kind == TEXT else whole)
                parts = []
        sender.join()
        assert received == [message.content for message in sent]
        assert pongs == pings
        client.send(encode(CLOSE, closing(4000, "done"), mask=mask))
        assert client.frame().closing == (4000, "done")
        assert client.wire.rest() == b""


@settings(deadline=None, max_examples=150)
@given(st.binary(min_size=1, max_size=300), segments)
def test_any_bytes_are_messages_or_refused(
    server: Running, garbage: bytes, lengths: list[int]
) -> None:
    """Whatever comes, the server answers in frames that are right, and at most one close ends them."""
    with Frames(server.address, "/echo") as client:
        with contextlib.suppress(OSError):
            send_in_segments(client.wire, garbage, lengths)
            client.wire.half_close()
        closed = False
        with contextlib.suppress(EOFError, ConnectionResetError):
            while True:
                frame = client.frame()
                assert not closed, "nothing comes after a close"
                if frame.opcode == CLOSE:
                    closed = True
                    code, _ = frame.closing
                    assert 1000 <= code <= 4999
    with Frames(server.address, "/echo") as client:
        client.text("still there")
        assert client.message() == "still there"


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=4), segments)
def test_text_is_utf8_or_refused_however_it_is_cut(
    server: Running, data: bytes, cuts: list[int], lengths: list[int]
) -> None:
    try:
        text: str | None = data.decode()
    except UnicodeDecodeError:
        text = None
    ends = [*sorted({min(cut, len(data)) for cut in cuts}), len(data)]
    starts = [0, *ends[:-1]]
    frames = [
        encode(CONTINUATION if at else TEXT, data[start:end], fin=at == len(ends) - 1)
        for at, (start, end) in enumerate(zip(starts, ends, strict=True))
    ]
    with Frames(server.address, "/echo") as client:
        # The server may have enough before the end.
        with contextlib.suppress(OSError):
            send_in_segments(client.wire, b"".join(frames), lengths)
        if text is None:
            assert client.frame().closing[0] == 1007
        else:
            assert client.message() == text
