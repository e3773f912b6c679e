"""No request is read in two ways: h11 reads what we were sent, and we must have seen the same requests, or fewer.

Pipelines of valid requests, some with bytes changed, reach the server in random pieces. The handler's record
must be a prefix of what h11 reads: where h11 refuses, we have refused there or before. A pipeline that nobody
changed must arrive whole.

One exception is documented: up to two empty lines before a request are skipped (RFC 9112 section 2.2), which
h11 refuses.
"""

from __future__ import annotations

import contextlib
import threading
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server_native import NativeDirectRequest
from tests.integration.clients import Wire
from tests.integration.servers import Running

Seen = tuple[bytes, bytes, tuple[tuple[bytes, bytes], ...], bytes]


class Recorder:
    """A server that remembers, for each connection, the requests it has read to their end."""

    def __init__(self) -> None:
        self.seen: defaultdict[int, list[Seen]] = defaultdict(list)
        self.running = Running(self.handle, "blocking", {})

    async def handle(self, request: NativeDirectRequest) -> str:
        body = await request.read()
        headers = tuple(
            (name.encode("latin-1"), value.encode("latin-1")) for name, value in request.headers
        )
        assert request.client is not None
        self.seen[request.client[1]].append(
            (request.method.encode(), request.target.encode("latin-1"), headers, body)
        )
        return "seen"


@pytest.fixture(scope="module")
def recorder() -> Iterator[Recorder]:
    recorder = Recorder()
    yield recorder
    recorder.running.close(0.0)
    recorder.running.join()


class Pipeline(NamedTuple):
    """Bytes, where they are cut, and whether they are as a correct client would send them."""

    data: bytes
    cuts: list[int]
    clean: bool


token = st.text("abcXYZ019!#$%&'*+-.^_`|~", min_size=1, max_size=8).filter(
    lambda name: name.lower() not in {"te", "host", "connection", "expect", "upgrade"}
)
value = st.binary(max_size=12).map(
    lambda data: bytes(
        byte if (byte >= 32 and byte != 127) or byte == 9 else 65 for byte in data
    ).strip(b" \t")
)
target = st.one_of(
    st.text("abc/%41?&=.~!$'()*+,;:@_-[]", max_size=12).map(lambda path: b"/" + path.encode()),
    st.just(b"/"),
)


@st.composite
def request(draw: st.DrawFn) -> bytes:
    """One valid request."""
    method = draw(st.sampled_from([b"GET", b"POST", b"PUT", b"HEAD", b"OPTIONS", b"patch", b"X-Y"]))
    body = draw(st.binary(max_size=40))
    framing = draw(st.sampled_from(["none", "length", "chunked"]))
    fields = [
        (name.encode(), content)
        for name, content in draw(st.lists(st.tuples(token, value), max_size=3))
    ]
    lines = [method + b" " + draw(target) + b" HTTP/1.1", b"host: a"]
    lines += [
        name + b":" + draw(st.sampled_from([b"", b" ", b"\t "])) + content
        for name, content in fields
    ]
    data = b""
    if framing == "length":
        lines.append(b"Content-Length: %d" % len(body))
        data = body
    elif framing == "chunked":
        lines.append(b"transfer-encoding: chunked")
        at = 0
        while at < len(body):
            size = draw(st.integers(1, len(body) - at))
            data += draw(st.sampled_from([b"%x", b"%X", b"0%x"])) % size
            data += (
                draw(st.sampled_from([b"", b";a", b';a="b"']))
                + b"\r\n"
                + body[at : at + size]
                + b"\r\n"
            )
            at += size
        data += b"0\r\n" + draw(st.sampled_from([b"", b"x-t: u\r\n"])) + b"\r\n"
    return b"\r\n".join(lines) + b"\r\n\r\n" + data


MISCHIEF = st.one_of(
    st.sampled_from(
        [
            b"\r",
            b"\n",
            b"\r\n",
            b"\0",
            b" ",
            b"\t",
            b":",
            b";",
            b",",
            b"#",
            b"0",
            b"5",
            b"\x0b",
            b"\xff",
            b"\r\n ",
            b"\n\n",
        ]
    ),
    st.sampled_from(
        [
            b"Content-Length: 3\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"transfer-encoding: x\r\n",
            b"host: b\r\n",
        ]
    ),
    st.binary(min_size=1, max_size=2),
)


@st.composite
def pipelines(draw: st.DrawFn) -> Pipeline:
    """A few requests, changed at up to two places in two of three cases."""
    requests = draw(st.lists(request(), min_size=1, max_size=4))
    data = b"".join(draw(st.sampled_from([b"", b"", b"\r\n"])) + one for one in requests)
    changes = draw(st.sampled_from([0, 1, 2]))
    for _ in range(changes):
        at = draw(st.integers(0, len(data) - 1))
        what = draw(MISCHIEF)
        data = data[:at] + what + data[at + draw(st.sampled_from([0, 0, 1, len(what)])) :]
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=6)))
    return Pipeline(data, cuts, clean=changes == 0)


def read_by_h11(data: bytes) -> list[Seen]:
    """The whole requests that h11 finds at the front."""
    found: list[Seen] = []
    while data:
        for _ in range(2):
            data = data.removeprefix(b"\r\n")
        reader = h11.Connection(h11.SERVER, max_incomplete_event_size=1_000_000)
        reader.receive_data(data)
        reader.receive_data(b"")
        body = b""
        head: h11.Request | None = None
        try:
            while not isinstance(event := reader.next_event(), h11.EndOfMessage):
                if isinstance(event, h11.Request):
                    head = event
                elif isinstance(event, h11.Data):
                    body += bytes(event.data)
                else:
                    return found
        except h11.RemoteProtocolError:
            return found
        assert head is not None
        headers = tuple((bytes(name), bytes(content)) for name, content in head.headers)
        found.append((bytes(head.method), bytes(head.target), headers, body))
        options = b",".join(content for name, content in headers if name == b"connection").lower()
        if b"close" in options or (head.http_version < b"1.1" and b"keep-alive" not in options):
            return found
        data = bytes(reader.trailing_data[0])
    return found


@settings(max_examples=600, deadline=None)
@given(pipeline=pipelines())
def test_we_see_what_h11_sees_or_less(recorder: Recorder, pipeline: Pipeline) -> None:
    theirs = read_by_h11(pipeline.data)
    with Wire(recorder.running.address) as wire:
        port = wire.socket.getsockname()[1]
        recorder.seen.pop(port, None)
        drained = threading.Thread(target=drain, args=(wire,))
        drained.start()
        with contextlib.suppress(ConnectionResetError, BrokenPipeError, OSError):
            for start, end in zip(
                [0, *pipeline.cuts], [*pipeline.cuts, len(pipeline.data)], strict=True
            ):
                wire.send(pipeline.data[start:end])
            wire.half_close()
        drained.join()
    ours = recorder.seen.pop(port, [])
    # An absolute form reaches the handler without its authority.
    assert [without_authority(one) for one in theirs[: len(ours)]] == ours
    if pipeline.clean:
        assert len(ours) == len(theirs)


def without_authority(seen: Seen) -> Seen:
    method, target, headers, body = seen
    if target[:7].lower() == b"http://":
        target = b"/" + target[7:].partition(b"/")[2]
    return method, target, headers, body


def drain(wire: Wire) -> None:
    with contextlib.suppress(ConnectionResetError):
        wire.rest()
