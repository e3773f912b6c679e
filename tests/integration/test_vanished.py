"""A client that vanishes while nobody reads what it has sent is missed; one that has said its last is not."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from server_native import Limits, NativeDirectRequest
from tests.integration import frames
from tests.integration.certificates import Authority, Identity
from tests.integration.clients import Place, Wire, eventually
from tests.integration.servers import MODES, PATIENCE, Mode, Running, Serve
from tests.integration.test_detach import offer

PIECE = b"x" * 65_536
#: Less than a client can send without being read from.
WINDOW = Limits(receive_window=16 * 1024)
DRIVEN = [mode for mode in MODES if mode.name in ("task-driven", "task-1-io-thread")]


@dataclass
class Way:
    """How clients come."""

    options: dict[str, Any]
    tls: ssl.SSLContext | None = None
    path: str | None = None

    def connect(self, running: Running) -> Wire:
        place: Place = self.path or running.address
        return Wire(place, tls=self.tls)


@pytest.fixture(params=["tcp", "tls", "unix"])
def way(request: pytest.FixtureRequest, authority: Authority, identity: Identity) -> Iterator[Way]:
    if request.param == "tcp":
        yield Way({})
    elif request.param == "tls":
        yield Way(identity.options, tls=authority.context("http/1.1"))
    else:
        with tempfile.TemporaryDirectory(prefix="sn-") as folder:
            path = str(Path(folder) / "socket")
            yield Way({"uds": path}, path=path)


def stuff(wire: Wire, piece: bytes) -> None:
    """Sends until nobody takes any more."""
    wire.socket.settimeout(0.2)
    with contextlib.suppress(TimeoutError):
        while True:
            wire.socket.send(piece)


class Story:
    """A handler that never reads, and what it was told."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.told = threading.Event()

    async def __call__(self, request: NativeDirectRequest) -> None:
        if self.kind == "websocket":
            websocket = request.accept_websocket()
            while websocket.close_code is None:
                await asyncio.sleep(0.005)
        elif self.kind == "detached":
            request.detach_socket()
            while not request.disconnected:
                await asyncio.sleep(0.005)
        else:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                self.told.set()
        self.told.set()

    @property
    def head(self) -> bytes:
        if self.kind == "websocket":
            return frames.handshake("/")
        if self.kind == "detached":
            return offer()
        if self.kind == "pipelining":
            return b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
        return b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000000\r\n\r\n"

    @property
    def piece(self) -> bytes:
        return frames.encode(frames.BINARY, PIECE) if self.kind == "websocket" else PIECE


@pytest.mark.parametrize("kind", ["upload", "pipelining", "detached", "websocket"])
@pytest.mark.parametrize("mode", DRIVEN, ids=str)
def test_a_reset_is_told_to_a_handler_that_does_not_read(
    serve: Serve, mode: Mode, way: Way, kind: str
) -> None:
    story = Story(kind)
    running = serve.as_it_is(story, mode, limits=WINDOW, **way.options)
    wire = way.connect(running)
    wire.send(story.head)
    stuff(wire, story.piece)
    assert not story.told.is_set()
    wire.reset()
    assert story.told.wait(PATIENCE)
    eventually(
        lambda: running.stats()["streams"] == 0 == running.stats()["connections"],
        "everything is given back",
    )


@pytest.mark.parametrize("mode", DRIVEN, ids=str)
def test_a_client_that_only_ends_its_side_is_read_to_the_end_and_answered(
    serve: Serve, mode: Mode, way: Way
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    async def handler(request: NativeDirectRequest) -> str:
        if request.path == "/other":
            return "other"
        begun.set()
        while not go_on.is_set():
            await asyncio.sleep(0.005)
        return str(len(await request.read()))

    running = serve.as_it_is(handler, mode, limits=WINDOW, **way.options)
    with way.connect(running) as wire, way.connect(running) as other:
        wire.request(method="POST", body=b"x" * 50_000)
        if way.tls is None:
            wire.half_close()
        assert begun.wait(PATIENCE)
        # Who is answered now is behind the FIN.
        assert other.get("/other").body == b"other"
        go_on.set()
        assert wire.answer().body == b"50000"
