"""Connections that a handler takes over as bytes: what comes first, both ends of both directions, refusals."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from server_native import ClientDisconnected, Limits, NativeDirectRequest
from tests.integration.clients import H2, Wire, eventually
from tests.integration.servers import MODES, PATIENCE, Mode, Running, Serve
from tests.integration.test_backpressure import GROWTH, OFFERED, PIECE, resident, settles

#: What may lie between two ends that do not take.
BOUND = 20 * 1024 * 1024
MIB = 1024 * 1024
TWO = [mode for mode in MODES if mode.name in ("task-driven", "pool")]

two = pytest.mark.parametrize("mode", TWO, ids=str)


def offer(path: str = "/", *lines: str, method: str = "GET", protocol: str = "raw/1") -> bytes:
    """A request that offers to go on with another protocol."""
    fields = [
        f"{method} {path} HTTP/1.1",
        "host: test",
        "connection: upgrade",
        f"upgrade: {protocol}",
        *lines,
    ]
    return ("\r\n".join(fields) + "\r\n\r\n").encode()


#: A body for coroutines, and the same for threads.
Both = tuple[Callable[[NativeDirectRequest], Any], Callable[[NativeDirectRequest], Any]]


def run(serve: Serve, mode: Mode, handlers: Both, **options: Any) -> Running:
    return serve.as_it_is(handlers[0 if mode.asynchronous else 1], mode, **options)


def echo() -> Both:
    async def coroutine(request: NativeDirectRequest) -> None:
        socket = request.detach_socket()
        while data := await socket.receive():
            await socket.send(data)

    def plain(request: NativeDirectRequest) -> None:
        socket = request.detach_socket()
        while data := socket.receive():
            socket.send(data)

    return coroutine, plain


def switched(wire: Wire) -> dict[str, str]:
    """The fields of the answer that ends HTTP."""
    version, status, _, headers = wire.head()
    assert (version, status) == ("HTTP/1.1", 101)
    fields = dict(headers)
    assert fields["connection"] == "upgrade"
    assert "content-length" not in fields
    assert "transfer-encoding" not in fields
    return fields


# --- what comes first --------------------------------------------------------------------------------


def test_bytes_both_ways_after_the_offered_protocol(serve: Serve, mode: Mode) -> None:
    with Wire(run(serve, mode, echo()).address) as wire:
        wire.send(offer(protocol="Raw/1, other/2"))
        assert switched(wire)["upgrade"] == "Raw/1"
        for data in (b"a", b"\x00\xff" * 1000, b"GET / HTTP/1.1\r\n\r\n"):
            wire.send(data)
            assert wire.read_exactly(len(data)) == data
        wire.half_close()
        assert wire.rest() == b""


def test_bytes_sent_behind_the_request_come_first(serve: Serve, mode: Mode) -> None:
    early = bytes(range(256)) * 40
    with Wire(run(serve, mode, echo()).address) as wire:
        wire.send(offer() + early)
        switched(wire)
        assert wire.read_exactly(len(early)) == early
        wire.send(b"later")
        assert wire.read_exactly(5) == b"later"


@two
def test_headers_go_with_the_answer(serve: Serve, mode: Mode) -> None:
    def answer(request: NativeDirectRequest) -> None:
        request.detach_socket(headers=[("x-one", "1"), ("set-cookie", "a"), ("set-cookie", "b")])

    async def coroutine(request: NativeDirectRequest) -> None:
        answer(request)

    with Wire(run(serve, mode, (coroutine, answer)).address) as wire:
        wire.send(offer())
        _, _, _, headers = wire.head()
        assert [field for field in headers if field[0] in ("x-one", "set-cookie")] == [
            ("x-one", "1"),
            ("set-cookie", "a"),
            ("set-cookie", "b"),
        ]
        assert wire.rest() == b""


BODY = b"0123456789" * 30_000

#: How the body comes: fields and bytes.
FRAMINGS = {
    "inline": (["content-length: 10"], BODY[:10]),
    "long": ([f"content-length: {len(BODY)}"], BODY),
    "chunked inline": (["transfer-encoding: chunked"], b"3\r\n012\r\n7\r\n3456789\r\n0\r\n\r\n"),
    "chunked": (
        ["transfer-encoding: chunked"],
        b"".join(b"%x\r\n%b\r\n" % (30_000, BODY[:30_000]) for _ in range(10)) + b"0\r\n\r\n",
    ),
    "chunked with trailers": (
        ["transfer-encoding: chunked"],
        b"".join(b"%x\r\n%b\r\n" % (30_000, BODY[:30_000]) for _ in range(10))
        + b"0\r\nx-sum: 1\r\n\r\n",
    ),
}


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("at_once", [True, False], ids=["at-once", "after-the-answer"])
@two
def test_an_unread_body_comes_before_the_other_protocol(
    serve: Serve, mode: Mode, framing: str, at_once: bool
) -> None:
    """As bytes of the body, without HTTP's framing; then the other protocol's follow (RFC 9110 section 7.8)."""
    fields, sent = FRAMINGS[framing]
    body = BODY[:10] if framing in ("inline", "chunked inline") else BODY
    with Wire(run(serve, mode, echo()).address) as wire:
        request = offer("/", *fields, method="POST")
        if at_once or framing in ("inline", "chunked inline"):
            # A body of this size is collected before the handler is called.
            wire.send(request + sent + b"then the other protocol")
            switched(wire)
        else:
            wire.send(request)
            switched(wire)
            wire.send(sent + b"then the other protocol")
        found = wire.read_exactly(len(body) + 23)
        assert found == body + b"then the other protocol"
        wire.half_close()
        assert wire.rest() == b""


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("read", ["a piece", "all"])
@two
def test_a_body_that_was_read_does_not_come_again(
    serve: Serve, mode: Mode, framing: str, read: str
) -> None:
    fields, sent = FRAMINGS[framing]
    body = BODY[:10] if framing in ("inline", "chunked inline") else BODY

    async def coroutine(request: NativeDirectRequest) -> None:
        first = b""
        if read == "all":
            first = await request.read()
        else:
            async for chunk in request:
                first = chunk
                break
        socket = request.detach_socket()
        await socket.send(b"%d\n" % len(first))
        while data := await socket.receive():
            await socket.send(data)

    def plain(request: NativeDirectRequest) -> None:
        first = request.body if read == "all" else next(iter(request))
        socket = request.detach_socket()
        socket.send(b"%d\n" % len(first))
        while data := socket.receive():
            socket.send(data)

    # A window just as large as what is collected: all of it is used up by the body.
    limits = Limits(receive_window=65_536)
    with Wire(run(serve, mode, (coroutine, plain), limits=limits).address) as wire:
        wire.send(offer("/", *fields, method="POST") + sent + b"next")
        switched(wire)
        size = int(wire.read_until(b"\n"))
        assert 0 < size <= len(body)
        assert size == len(body) or read == "a piece"
        assert wire.read_exactly(len(body) - size + 4) == body[size:] + b"next"
        wire.half_close()
        assert wire.rest() == b""


@two
def test_a_client_that_waits_to_be_asked_is_asked_first(serve: Serve, mode: Mode) -> None:
    """Both answers are due, and 100 comes first (RFC 9110 section 10.1.1)."""
    with Wire(run(serve, mode, echo()).address) as wire:
        wire.send(offer("/", "content-length: 4", "expect: 100-continue", method="POST"))
        assert wire.head()[1] == 100
        switched(wire)
        wire.send(b"body" + b"raw")
        assert wire.read_exactly(7) == b"bodyraw"


@pytest.mark.parametrize("bad", [b"zz\r\n", b"3\r\nabcXX"], ids=["size", "end"])
@two
def test_a_body_that_goes_wrong_after_the_answer_is_a_reset(
    serve: Serve, mode: Mode, bad: bytes
) -> None:
    told: list[str] = []
    over = threading.Event()

    async def coroutine(request: NativeDirectRequest) -> None:
        socket = request.detach_socket()
        try:
            while await socket.receive():
                pass
        except ClientDisconnected as error:
            told.append(str(error))
        over.set()

    def plain(request: NativeDirectRequest) -> None:
        socket = request.detach_socket()
        try:
            while socket.receive():
                pass
        except ClientDisconnected as error:
            told.append(str(error))
        over.set()

    with Wire(run(serve, mode, (coroutine, plain)).address) as wire:
        wire.send(offer("/", "transfer-encoding: chunked", method="POST"))
        switched(wire)
        wire.send(bad)
        assert wire.ended_abruptly()
    assert over.wait(PATIENCE)
    assert told == ["the client broke the protocol"]


# --- without an answer of ours -----------------------------------------------------------------------


@pytest.mark.parametrize("offered", [True, False])
@two
def test_a_handler_may_write_the_answer_itself(serve: Serve, mode: Mode, offered: bool) -> None:
    preface = b"HTTP/1.1 200 Connection established\r\nx-mine: yes\r\n\r\n"

    async def coroutine(request: NativeDirectRequest) -> None:
        async with request.detach_socket(write_headers=False) as socket:
            await socket.send(preface)
            await socket.send((await socket.receive()).upper())

    def plain(request: NativeDirectRequest) -> None:
        with request.detach_socket(write_headers=False) as socket:
            socket.send(preface)
            socket.send(socket.receive().upper())

    # Plain handlers run on a thread with `threads`, whatever the request offers.
    mode = mode if mode.asynchronous else Mode("pool", options={"threads": 2})
    with Wire(run(serve, mode, (coroutine, plain)).address) as wire:
        if offered:
            wire.send(offer() + b"hello")
        else:
            wire.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\nhello")
        assert wire.read_exactly(len(preface)) == preface
        assert wire.read_exactly(5) == b"HELLO"
        assert wire.rest() == b""


@two
def test_a_body_comes_first_there_too(serve: Serve, mode: Mode) -> None:
    async def coroutine(request: NativeDirectRequest) -> None:
        socket = request.detach_socket(write_headers=False)
        while data := await socket.receive():
            await socket.send(data)

    def plain(request: NativeDirectRequest) -> None:
        socket = request.detach_socket(write_headers=False)
        while data := socket.receive():
            socket.send(data)

    with Wire(run(serve, mode, (coroutine, plain)).address) as wire:
        wire.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 300000\r\n\r\n" + BODY + b"raw")
        assert wire.read_exactly(300_003) == BODY + b"raw"


# --- ends --------------------------------------------------------------------------------------------


@two
def test_the_client_may_end_first_and_still_be_answered(serve: Serve, mode: Mode) -> None:
    async def coroutine(request: NativeDirectRequest) -> None:
        socket = request.detach_socket()
        received = b""
        while data := await socket.receive():
            received += data
        assert await socket.receive() == b"", "the end stays the end"
        await socket.send(received[::-1])

    def plain(request: NativeDirectRequest) -> None:
        socket = request.detach_socket()
        received = b"".join(iter(socket.receive, b""))
        assert socket.receive() == b"", "the end stays the end"
        socket.send(received[::-1])

    with Wire(run(serve, mode, (coroutine, plain)).address) as wire:
        wire.send(offer() + b"abc")
        wire.half_close()
        switched(wire)
        assert wire.rest() == b"cba"


@two
def test_the_handler_may_end_first_and_still_read(serve: Serve, mode: Mode) -> None:
    told: list[bytes] = []
    over = threading.Event()

    async def coroutine(request: NativeDirectRequest) -> None:
        socket = request.detach_socket()
        await socket.send(b"bye")
        await socket.close_write()
        with pytest.raises(RuntimeError, match="after close_write"):
            await socket.send(b"more")
        while data := await socket.receive():
            told.append(data)
        over.set()

    def plain(request: NativeDirectRequest) -> None:
        socket = request.detach_socket()
        socket.send(b"bye")
        socket.close_write()
        with pytest.raises(RuntimeError, match="after close_write"):
            socket.send(b"more")
        told.extend(iter(socket.receive, b""))
        over.set()

    running = run(serve, mode, (coroutine, plain))
    with Wire(running.address) as wire:
        wire.send(offer())
        switched(wire)
        assert wire.rest() == b"bye"
        for piece in (b"x" * 300_000, b"y" * 300_000):
            wire.send(piece)
        wire.half_close()
        assert over.wait(PATIENCE)
    assert b"".join(told) == b"x" * 300_000 + b"y" * 300_000
    eventually(lambda: running.stats()["streams"] == 0, "the stream is gone")


@pytest.mark.parametrize("how", ["close", "return", "close_write"])
@two
def test_what_nobody_reads_any_more_does_not_keep_the_connection(
    serve: Serve, mode: Mode, how: str
) -> None:
    """A client that neither reads on nor leaves would stay for ever."""

    async def coroutine(request: NativeDirectRequest) -> None:
        socket = request.detach_socket()
        await socket.send(b"bye")
        if how == "close":
            await socket.close()
            with pytest.raises(RuntimeError, match=r"after close\(\)"):
                await socket.receive()
        if how == "close_write":
            await socket.close_write()

    def plain(request: NativeDirectRequest) -> None:
        socket = request.detach_socket()
        socket.send(b"bye")
        if how == "close":
            socket.close()
            with pytest.raises(RuntimeError, match=r"after close\(\)"):
                socket.receive()
        if how == "close_write":
            socket.close_write()

    running = run(serve, mode, (coroutine, plain))
    with Wire(running.address) as wire:
        wire.send(offer())
        switched(wire)
        wire.send(b"x" * 3_000_000)
        assert wire.rest() == b"bye"
        eventually(lambda: running.stats()["streams"] == 0, "the stream is gone")


@pytest.mark.parametrize("how", ["abort", "raise", "raise-within"])
@two
def test_an_abort_is_a_reset(serve: Serve, mode: Mode, how: str) -> None:
    async def coroutine(request: NativeDirectRequest) -> None:
        socket = request.detach_socket()
        if how == "abort":
            socket.abort()
            for call in (socket.receive(), socket.send(b"x")):
                with pytest.raises(ClientDisconnected):
                    await call
        elif how == "raise":
            raise ValueError("broken")
        else:
            async with socket:
                raise ValueError("broken")

    def plain(request: NativeDirectRequest) -> None:
        socket = request.detach_socket()
        if how == "abort":
            socket.abort()
            for call in (socket.receive, lambda: socket.send(b"x")):
                with pytest.raises(ClientDisconnected):
                    call()
        elif how == "raise":
            raise ValueError("broken")
        else:
            with socket:
                raise ValueError("broken")

    running = run(serve, mode, (coroutine, plain))
    with Wire(running.address) as wire:
        # The answer may be lost with the rest: a reset overtakes what is on its way.
        wire.send(offer())
        assert wire.ended_abruptly()
    eventually(lambda: running.stats()["streams"] == 0, "the stream is gone")
    if how != "abort":
        (text,) = serve.logged(1)
        assert "broken" in text


@pytest.mark.parametrize("doing", ["receive", "send"])
@two
def test_a_reset_of_the_client_is_an_exception(serve: Serve, mode: Mode, doing: str) -> None:
    told: list[str] = []
    over = threading.Event()

    async def coroutine(request: NativeDirectRequest) -> None:
        socket = request.detach_socket()
        try:
            while True:
                await (socket.receive() if doing == "receive" else socket.send(PIECE))
        except ClientDisconnected as error:
            told.append(str(error))
        assert request.disconnected
        over.set()

    def plain(request: NativeDirectRequest) -> None:
        socket = request.detach_socket()
        try:
            while True:
                if doing == "receive":
                    socket.receive()
                else:
                    socket.send(PIECE)
        except ClientDisconnected as error:
            told.append(str(error))
        assert request.disconnected
        over.set()

    with Wire(run(serve, mode, (coroutine, plain)).address) as wire:
        wire.send(offer())
        switched(wire)
        wire.reset()
    assert over.wait(PATIENCE)
    assert told == ["the client is gone"]


# --- back-pressure -----------------------------------------------------------------------------------


def test_a_great_deal_both_ways_at_once(serve: Serve, mode: Mode) -> None:
    size = OFFERED // 4

    with Wire(run(serve, mode, echo()).address) as wire:
        wire.send(offer())
        switched(wire)

        def feed() -> None:
            for _ in range(size // len(PIECE)):
                wire.send(PIECE)
            wire.half_close()

        feeder = threading.Thread(target=feed)
        feeder.start()
        assert len(wire.rest()) == size
        feeder.join(PATIENCE)


@two
def test_a_client_that_never_reads_stops_send(serve: Serve, mode: Mode) -> None:
    sent = 0
    over = threading.Event()

    async def coroutine(request: NativeDirectRequest) -> None:
        nonlocal sent
        socket = request.detach_socket()
        with contextlib.suppress(ClientDisconnected):
            while True:
                await socket.send(PIECE)
                sent += len(PIECE)
        over.set()

    def plain(request: NativeDirectRequest) -> None:
        nonlocal sent
        socket = request.detach_socket()
        with contextlib.suppress(ClientDisconnected):
            while True:
                socket.send(PIECE)
                sent += len(PIECE)
        over.set()

    running = run(serve, mode, (coroutine, plain))
    before = resident()
    with Wire(running.address, receive_buffer=65_536) as wire:
        wire.send(offer())
        switched(wire)
        eventually(lambda: sent > 0, "the handler sends")
        assert settles(lambda: sent, "the handler") < BOUND
        assert resident() - before < GROWTH
    assert over.wait(PATIENCE)
    eventually(lambda: running.stats()["streams"] == 0, "the stream is gone")


@two
def test_a_stall_of_the_client_ends_it(serve: Serve, mode: Mode) -> None:
    told: list[str] = []
    over = threading.Event()

    async def coroutine(request: NativeDirectRequest) -> None:
        socket = request.detach_socket()
        try:
            while True:
                await socket.send(PIECE)
        except ClientDisconnected as error:
            told.append(str(error))
        over.set()

    def plain(request: NativeDirectRequest) -> None:
        socket = request.detach_socket()
        try:
            while True:
                socket.send(PIECE)
        except ClientDisconnected as error:
            told.append(str(error))
        over.set()

    running = run(serve, mode, (coroutine, plain), limits=Limits(write_stall_ms=200))
    with Wire(running.address, receive_buffer=65_536) as wire:
        wire.send(offer())
        assert over.wait(PATIENCE)
    assert told == ["the client was too slow"]
    assert running.stats()["limited_write_stall_ms"] == 1


@two
def test_a_handler_that_never_receives_stops_the_client(serve: Serve, mode: Mode) -> None:
    go_on = threading.Event()

    async def coroutine(request: NativeDirectRequest) -> None:
        socket = request.detach_socket()
        while not go_on.is_set():
            await asyncio.sleep(0.005)
        while await socket.receive():
            pass

    def plain(request: NativeDirectRequest) -> None:
        socket = request.detach_socket()
        assert go_on.wait(PATIENCE)
        while socket.receive():
            pass

    running = run(serve, mode, (coroutine, plain))
    before = resident()
    sent = 0
    with Wire(running.address) as wire:
        wire.send(offer())
        switched(wire)

        def feed() -> None:
            nonlocal sent
            with contextlib.suppress(OSError):
                while sent < OFFERED:
                    sent += wire.socket.send(PIECE)
                wire.half_close()

        feeder = threading.Thread(target=feed)
        feeder.start()
        eventually(lambda: sent > 0, "the client sends")
        assert settles(lambda: sent, "what the server takes") < BOUND
        assert resident() - before < GROWTH
        go_on.set()
        feeder.join(PATIENCE)
        assert wire.rest() == b""
    assert sent == OFFERED


def test_one_thread_may_read_while_another_writes(serve: Serve) -> None:
    size = 20 * MIB

    def handler(request: NativeDirectRequest) -> None:
        socket = request.detach_socket()

        def write() -> None:
            for _ in range(size // len(PIECE)):
                socket.send(PIECE)

        writer = threading.Thread(target=write)
        writer.start()
        received = sum(map(len, iter(socket.receive, b"")))
        writer.join()
        socket.send(b"%d" % received)

    with Wire(serve(handler, threads=1).address) as wire:
        wire.send(offer())
        switched(wire)

        def feed() -> None:
            for _ in range(size // len(PIECE)):
                wire.send(PIECE)
            wire.half_close()

        feeder = threading.Thread(target=feed)
        feeder.start()
        assert wire.rest()[size:] == b"%d" % size
        feeder.join()


def test_two_tasks_that_write_at_once_are_an_error_not_a_hang(serve: Serve) -> None:
    told: list[str] = []
    over = threading.Event()

    async def handler(request: NativeDirectRequest) -> None:
        socket = request.detach_socket()
        sends = [socket.send(bytes(30 * MIB)) for _ in range(2)]
        try:
            await asyncio.gather(*sends)
        except RuntimeError as error:
            told.append(str(error))
        socket.abort()
        over.set()

    with Wire(serve(handler).address, receive_buffer=65_536) as wire:
        wire.send(offer())
        switched(wire)
        assert over.wait(PATIENCE)
    assert told == ["two tasks write to the same stream: let one wait for the other"]


# --- what is refused ---------------------------------------------------------------------------------


@two
def test_without_an_offer_there_is_nothing_to_switch_to(serve: Serve, mode: Mode) -> None:
    mode = mode if mode.asynchronous else Mode("pool", options={"threads": 2})
    with Wire(run(serve, mode, echo()).address) as wire:
        answer = wire.get()
        assert answer.status == 426
        assert b"offers no other protocol" in answer.body
        wire.send(b"GET / HTTP/1.0\r\nconnection: upgrade\r\nupgrade: raw/1\r\n\r\n")
        assert wire.answer().status == 426, "HTTP/1.0 knows no upgrade"


def test_a_plain_handler_that_runs_inline_is_told_what_to_do(serve: Serve) -> None:
    def handler(request: NativeDirectRequest) -> None:
        request.detach_socket(write_headers=False)

    with Wire(serve(handler).address) as wire:
        assert wire.get().status == 500
    (text,) = serve.logged(1)
    assert "make it `async def`, or give threads=N" in text


def test_over_http2_there_is_no_connection_to_write_to(serve: Serve) -> None:
    async def handler(request: NativeDirectRequest) -> str:
        try:
            request.detach_socket(write_headers=False)
        except ValueError as error:
            return str(error)
        return "detached"

    with H2(serve(handler).address) as client:
        assert client.request().body == (
            b"over HTTP/2 there is no connection to write to: leave write_headers on"
        )


# --- the stop ----------------------------------------------------------------------------------------


@two
def test_a_stop_leaves_it_the_grace(serve: Serve, mode: Mode) -> None:
    """A protocol of somebody else's has no word for the stop: its handler goes on until the notice."""
    running = run(serve, mode, echo())
    with Wire(running.address) as wire:
        wire.send(offer())
        switched(wire)
        running.close(grace=PATIENCE)
        wire.send(b"still here")
        assert wire.read_exactly(10) == b"still here"
        wire.half_close()
        assert wire.rest() == b""
    running.join()


@two
def test_at_the_end_of_the_grace_the_handler_is_told_and_the_client_reset(
    serve: Serve, mode: Mode
) -> None:
    told: list[str] = []

    async def coroutine(request: NativeDirectRequest) -> None:
        socket = request.detach_socket()
        try:
            while await socket.receive():
                pass
        except (ClientDisconnected, asyncio.CancelledError) as error:
            told.append(type(error).__name__)
            raise

    def plain(request: NativeDirectRequest) -> None:
        socket = request.detach_socket()
        try:
            while socket.receive():
                pass
        except ClientDisconnected as error:
            told.append(str(error))

    running = run(serve, mode, (coroutine, plain))
    with Wire(running.address) as wire:
        wire.send(offer())
        switched(wire)
        begun = time.monotonic()
        running.close(grace=0.4)
        assert wire.ended_abruptly()
        running.join()
        assert time.monotonic() - begun < PATIENCE / 2
    assert told == ["CancelledError" if mode.asynchronous else "the server is stopping"]
