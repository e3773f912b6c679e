"""Large bodies are not copied: native code reads them where they lie, and says when it has."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator

import pytest

from server_native import NativeDirectRequest, NativeDirectResponse
from tests.integration.clients import H2, Wire, eventually
from tests.integration.servers import PATIENCE, Mode, Running, Serve

BODY = bytes(range(256)) * 20_000


def lent(running: Running) -> int:
    """Loans that native code has not given back."""
    return len(running.server._pump.runtime._lent)


@pytest.mark.parametrize("size", [8191, 8192, 262_144, 262_145, len(BODY)])
def test_a_body_of_any_size_arrives_in_every_mode(serve: Serve, mode: Mode, size: int) -> None:
    running = serve(lambda request, body: BODY[:size], mode=mode)
    with Wire(running.address) as wire:
        for _ in range(3):
            answer = wire.get()
            assert answer.header("content-length") == str(size)
            assert answer.body == BODY[:size]
    with H2(running.address) as client:
        streams = [client.open() for _ in range(3)]
        assert all(client.answer(stream).body == BODY[:size] for stream in streams)
    eventually(lambda: lent(running) == 0, "every loan is back")


def test_head_and_a_status_without_a_body_give_back_at_once(serve: Serve) -> None:
    def handler(request: NativeDirectRequest) -> NativeDirectResponse:
        return NativeDirectResponse.bytes(BODY, status=int(request.path[1:]))

    running = serve(handler)
    with Wire(running.address) as wire:
        wire.request("/200", method="HEAD")
        answer = wire.answer("HEAD")
        assert (answer.header("content-length"), answer.body) == (str(len(BODY)), b"")
        assert wire.get("/304").body == b""
    eventually(lambda: lent(running) == 0, "every loan is back")


def test_a_client_that_goes_gives_back(serve: Serve) -> None:
    running = serve(lambda request: BODY)
    with Wire(running.address) as wire:
        wire.request()
        wire.read_exactly(1000)
        assert lent(running) == 1
        wire.reset()
    with H2(running.address) as client:
        stream = client.open()
        client.wait(lambda: len(client.known(stream).body) > 0)
    eventually(lambda: lent(running) == 0, "every loan is back")


@pytest.mark.parametrize("size", [1, 100, 10 * 1024])
@pytest.mark.parametrize("plain", [True, False])
def test_pieces_of_any_size_arrive_in_order(serve: Serve, size: int, plain: bool) -> None:
    """Those that follow each other go together, joined or lent under one token."""
    pieces = [BODY[start : start + size] for start in range(0, 300 * size, size)]

    async def made() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    def answer(request: NativeDirectRequest) -> NativeDirectResponse:
        return NativeDirectResponse.stream(iter(pieces) if plain else made())

    async def answer_soon(request: NativeDirectRequest) -> NativeDirectResponse:
        return answer(request)

    running = serve(answer if plain else answer_soon)
    with Wire(running.address) as wire:
        for _ in range(2):
            assert wire.get().body == b"".join(pieces)
    with H2(running.address) as client:
        streams = [client.open() for _ in range(2)]
        assert all(client.answer(stream).body == b"".join(pieces) for stream in streams)
    eventually(lambda: lent(running) == 0, "every loan is back")


def test_pieces_of_a_stream_are_lent_within_its_window(serve: Serve) -> None:
    most = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal most
        for _ in range(1000):
            most = max(most, lent(running))
            yield BODY[:65_536]

    async def handler(request: NativeDirectRequest) -> NativeDirectResponse:
        return NativeDirectResponse.stream(pieces())

    running = serve(handler)
    with Wire(running.address) as wire:
        wire.request()
        assert wire.answer().body == BODY[:65_536] * 1000
    # The window is 256 KiB; the loan of a piece comes back with the event that gives its bytes back, or later.
    assert 1 <= most <= 8
    eventually(lambda: lent(running) == 0, "every loan is back")


PROGRAM = """
    import sys, threading
    from server_native import serve_native_direct

    def ready(server):
        print(server.port, flush=True)

    def handler(request):
        return b"x" * 50_000_000

    # A daemon thread, which the end of the interpreter leaves in the middle of what it does.
    options = {"port": 0, "on_ready": ready, "io_threads": int(sys.argv[1])}
    threading.Thread(target=serve_native_direct, args=(handler,), kwargs=options, daemon=True).start()
    sys.stdin.readline()
"""


@pytest.mark.parametrize("io_threads", [0, 1, 2])
def test_an_interpreter_may_end_while_a_body_is_read(io_threads: int) -> None:
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), str(io_threads)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        with Wire(("127.0.0.1", int(process.stdout.readline()))) as wire:
            wire.request()
            wire.read_exactly(100_000)
            _, errors = process.communicate("\n", timeout=PATIENCE)
    assert (process.returncode, errors) == (0, "")
