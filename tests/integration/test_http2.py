"""HTTP/2 with prior knowledge on the same port, seen by the ``h2`` library: streams, flow control, resets, GOAWAY."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator

import h2.errors
import h2.exceptions
import h2.settings
import pytest

from server_native import ClientDisconnected, Limits, NativeDirectRequest, NativeDirectResponse
from tests.integration.clients import H2, Wire, eventually
from tests.integration.servers import PATIENCE, Mode, Serve

Response = NativeDirectResponse
GOAWAY = 7
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def test_both_versions_share_the_port(serve: Serve, mode: Mode) -> None:
    running = serve(lambda request, _: request.protocol, mode)
    with H2(running.address) as client, Wire(running.address) as wire:
        assert wire.get().body == b"HTTP/1.1"
        assert client.request().body == b"HTTP/2"


@pytest.mark.parametrize("rest", [b"SM\r\n\rx", b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", b"SM"])
def test_a_preface_that_breaks_off_is_not_answered_in_http1(serve: Serve, rest: bytes) -> None:
    """RFC 9113 section 3.4: a connection error; GOAWAY may be left out."""
    running = serve(lambda _: "never")
    with Wire(running.address) as wire:
        wire.send(PREFACE[:18] + rest)
        wire.half_close()
        heard = b""
        with contextlib.suppress(ConnectionResetError):
            heard = wire.rest()
        assert b"HTTP/1.1" not in heard
    eventually(lambda: running.stats()["connections"] == 0, "the connection is over")


def test_a_literal_whose_name_is_in_no_table_ends_the_connection(serve: Serve) -> None:
    """RFC 7541 section 2.3.3. h2spec has this case in releases that Go's proxy does not serve.

    It takes the close for enough, as the crate h2 calls all that cannot be decoded PROTOCOL_ERROR.
    """
    with H2(serve(lambda _: "never").address) as client:
        block = client.state.encoder.encode([(":method", "GET"), (":path", "/")])
        block += b"\x86" + b"\x01\x04test"
        block += b"\x0f\x37\x01x"  # without indexing, name 70 of 61 and those just inserted
        client.socket.sendall(len(block).to_bytes(3, "big") + b"\x01\x05\0\0\0\x01" + block)
        client.drain()
        codes = [goaway.error_code for goaway in client.goaways]
        assert codes == [h2.errors.ErrorCodes.PROTOCOL_ERROR]


def test_switched_off_it_is_refused_like_any_nonsense(serve: Serve) -> None:
    running = serve(lambda _: "never", http2=False)
    with Wire(running.address) as wire:
        wire.send(PREFACE)
        answer = wire.answer()
        assert answer.status in {400, 505}
        assert (answer.header("connection"), wire.rest()) == ("close", b"")


def test_thousands_of_streams_on_one_connection(serve: Serve, mode: Mode) -> None:
    """A peer says GOAWAY after 4096."""
    running = serve(lambda request, _: request.path, mode)
    count = 6000 if mode.name == "inline-driven" else 500
    with H2(running.address) as client:
        for start in range(0, count, 100):
            streams = [client.open(f"/{number}") for number in range(start, start + 100)]
            for number, stream in enumerate(streams, start):
                assert client.answer(stream).body == b"/%d" % number
        assert client.goaways == []
        assert running.stats()["accepted"] == 1


def test_streams_are_answered_as_they_are_ready(serve: Serve) -> None:
    go_on = asyncio.Event()

    async def handler(request: NativeDirectRequest) -> str:
        if request.path == "/slow":
            await go_on.wait()
        else:
            go_on.set()
        return request.path

    with H2(serve(handler).address) as client:
        slow = client.open("/slow")
        assert client.request("/fast").body == b"/fast"
        assert client.answer(slow).body == b"/slow"


def test_early_hints_come_before_the_handler_has_answered(serve: Serve) -> None:
    hinted = threading.Event()

    def handler(request: NativeDirectRequest) -> str:
        request.inform(103, {"link": "</style.css>; rel=preload"})
        request.inform(103, {"link": "</more.css>; rel=preload"})
        assert hinted.wait(PATIENCE), "the client has seen the hints before the answer is made"
        return "whole"

    with H2(serve(handler, threads=1).address) as client:
        stream = client.open()
        client.wait(lambda: len(client.hints) == 2)
        assert client.hints == [
            [(":status", "103"), ("link", "</style.css>; rel=preload")],
            [(":status", "103"), ("link", "</more.css>; rel=preload")],
        ]
        hinted.set()
        answer = client.answer(stream)
        assert (answer.status, answer.body) == (200, b"whole")


def test_authority_wins_over_host(serve: Serve) -> None:
    running = serve(lambda request: [request.authority, request.headers.get_all("host")])
    with H2(running.address) as client:
        client.state.config.validate_outbound_headers = False
        assert client.request("/", ("host", "other")).body == b'["test",["test"]]'


def test_a_host_without_authority_is_enough(serve: Serve) -> None:
    running = serve(lambda request: [request.authority, request.headers.get_all("host")])
    with H2(running.address) as client:
        stream = client.state.get_next_available_stream_id()
        fields = [(":method", "GET"), (":scheme", "http"), (":path", "/"), ("host", "only")]
        client.state.send_headers(stream, fields, end_stream=True)
        client.flush()
        assert client.answer(stream).body == b'["only",["only"]]'


@pytest.mark.parametrize("authority", ["", "a b", "user@host", "host:99999", "a/b"])
def test_an_authority_that_is_none_is_refused(serve: Serve, authority: str) -> None:
    called: list[str] = []
    running = serve(lambda request: called.append(request.authority) or "never")  # type: ignore[func-returns-value]
    with H2(running.address) as client:
        client.state.config.validate_outbound_headers = False
        stream = client.open(authority=authority)
        answer = client.answer(stream)
        assert answer.reset is not None or answer.status == 400
    assert called == []


def test_cookies_are_one_field_again(serve: Serve) -> None:
    running = serve(lambda request: request.headers.get_all("cookie"))
    with H2(running.address) as client:
        assert (
            client.request("/", ("cookie", "a=1"), ("x", "y"), ("cookie", "b=2")).body
            == b'["a=1; b=2"]'
        )


def test_an_answer_to_head_has_no_body(serve: Serve, mode: Mode) -> None:
    """A peer sends it as DATA."""

    def handler(request: NativeDirectRequest, _: bytes) -> NativeDirectResponse:
        if request.path == "/fails":
            raise RuntimeError("on purpose")
        if request.path == "/streamed":
            return Response.stream(iter([b"12345"]), headers={"content-length": "5"})
        if request.path == "/of-no-length":
            return Response.stream(iter([b"12345"]))
        if request.path == "/large":
            return Response.bytes(bytes(1_000_000))
        return Response.text("12345")

    running = serve(handler, mode, routes={"/route": "12345"})
    with H2(running.address) as client:
        for path, status, length in [
            ("/whole", 200, "5"),
            ("/route", 200, "5"),
            ("/streamed", 200, "5"),
            ("/of-no-length", 200, None),
            ("/large", 200, "1000000"),
            ("/fails", 500, "22"),
        ]:
            answer = client.request(path, method="HEAD")
            assert (answer.status, answer.header("content-length")) == (status, length), path
            assert (answer.body, answer.ended, answer.reset) == (b"", True, None), path
        assert client.request("/whole").body == b"12345", "the connection goes on"
    assert "on purpose" in serve.logged(1)[0]


def test_bodies_larger_than_every_window(serve: Serve, mode: Mode) -> None:
    body = bytes(range(256)) * 16_384
    with H2(serve(lambda _, received: received, mode).address) as client:
        pieces: list[bytes] = []
        assert client.request(method="POST", body=body).body == body
        assert pieces == []


def test_a_client_with_a_small_window_gets_everything(serve: Serve, mode: Mode) -> None:
    body = bytes(range(256)) * 100
    with H2(serve(lambda _request, _body: body, mode).address, window=100) as client:
        answer = client.request()
        assert answer.body == body
        assert answer.frames >= len(body) // 100


def test_a_shut_window_holds_one_stream_and_no_other(serve: Serve, mode: Mode) -> None:
    def handler(request: NativeDirectRequest, _: bytes) -> str | bytes:
        return b"x" * 100_000 if request.path == "/large" else "small"

    with H2(serve(handler, mode).address, acknowledge=False, window=1000) as client:
        large = client.open("/large")
        client.wait(lambda: len(client.known(large).body) == 1000)
        assert client.request("/small").body == b"small"
        assert len(client.known(large).body) == 1000
        client.state.increment_flow_control_window(200_000, large)
        client.state.increment_flow_control_window(200_000)
        client.flush()
        assert len(client.answer(large).body) == 100_000


def test_a_handler_that_fails_in_the_middle_resets_the_stream_only(
    serve: Serve, mode: Mode
) -> None:
    def broken() -> Iterator[bytes]:
        yield b"some"
        raise RuntimeError("in the middle")

    def handler(request: NativeDirectRequest, _: bytes) -> str | NativeDirectResponse:
        return "fine" if request.path == "/fine" else Response.stream(broken())

    with H2(serve(handler, mode).address) as client:
        answer = client.request()
        assert (answer.ended, answer.reset) == (False, h2.errors.ErrorCodes.INTERNAL_ERROR)
        assert client.request("/fine").body == b"fine"
        assert client.goaways == []
    assert [text for text in serve.logged() if "in the middle" in text]


@pytest.mark.parametrize("loop", ["asyncio", "native", "uvloop"])
def test_a_reset_by_the_client_cancels_the_handler(serve: Serve, loop: str) -> None:
    begun, over = threading.Event(), threading.Event()
    seen: list[bool] = []

    async def handler(request: NativeDirectRequest) -> str:
        if request.path == "/other":
            return "other"
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append(request.disconnected)
            over.set()
            raise
        return ""

    with H2(serve.embedded(handler, loop).address) as client:
        stream = client.open("/")
        assert begun.wait(PATIENCE)
        client.state.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)
        client.flush()
        assert over.wait(PATIENCE)
        assert seen == [True]
        assert client.request("/other").body == b"other"


def test_a_reset_by_the_client_closes_the_generator(serve: Serve, mode: Mode) -> None:
    closed = threading.Event()

    def endless() -> Iterator[bytes]:
        try:
            while True:
                yield b"x" * 1000
        finally:
            closed.set()

    def handler(request: NativeDirectRequest, _: bytes) -> str | NativeDirectResponse:
        return "other" if request.path == "/other" else Response.stream(endless())

    with H2(serve(handler, mode).address) as client:
        stream = client.open("/")
        client.wait(lambda: len(client.known(stream).body) > 0)
        client.state.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)
        client.flush()
        assert closed.wait(PATIENCE)
        assert client.request("/other").body == b"other"


@pytest.mark.parametrize("declared", [False, True], ids=["open", "declared"])
def test_an_upload_that_the_client_cancels_is_no_whole_body(serve: Serve, declared: bool) -> None:
    begun, over = threading.Event(), threading.Event()
    seen: list[str] = []

    def handler(request: NativeDirectRequest) -> str:
        try:
            for _ in request:
                begun.set()
            seen.append("whole")
        except ClientDisconnected as error:
            seen.append(str(error))
        over.set()
        return ""

    fields = [("content-length", "200000")] if declared else []
    with H2(serve(handler, threads=1).address) as client:
        stream = client.open("/", *fields, method="POST", end=False)
        client.send(stream, b"x" * 1000)
        assert begun.wait(PATIENCE)
        client.state.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)
        client.flush()
        assert over.wait(PATIENCE)
    assert seen == ["the client is gone"]


def test_a_client_that_vanishes_cancels_every_stream(serve: Serve) -> None:
    begun, cancelled = threading.Semaphore(0), threading.Semaphore(0)

    async def handler(_: NativeDirectRequest) -> str:
        begun.release()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.release()
            raise
        return ""

    running = serve(handler)
    with H2(running.address) as client:
        for _ in range(20):
            client.open()
        for _ in range(20):
            assert begun.acquire(timeout=PATIENCE)
    for _ in range(20):
        assert cancelled.acquire(timeout=PATIENCE)
    eventually(lambda: running.stats()["streams"] == 0, "no stream is left")


def test_a_stop_says_goaway_and_lets_streams_finish(serve: Serve) -> None:
    begun, go_on = threading.Event(), threading.Event()

    async def handler(_: NativeDirectRequest) -> str:
        begun.set()
        while not go_on.is_set():
            await asyncio.sleep(0.001)
        return "finished"

    running = serve(handler, grace=PATIENCE)
    with H2(running.address) as client:
        stream = client.open()
        assert begun.wait(PATIENCE)
        running.close()
        client.wait(lambda: bool(client.goaways))
        go_on.set()
        assert client.answer(stream).body == b"finished"
        client.drain()
        assert {goaway.error_code for goaway in client.goaways} == {h2.errors.ErrorCodes.NO_ERROR}
        assert client.goaways[-1].last_stream_id == stream
    running.join()


def test_goaway_is_sent_twice(serve: Serve, mode: Mode) -> None:
    """RFC 9113 section 6.8: first without a last stream, so that requests already on their way are not lost."""
    go_on = threading.Event()
    begun = threading.Event()

    async def handler(_: NativeDirectRequest) -> str:
        begun.set()
        while not go_on.is_set():
            await asyncio.sleep(0.001)
        return "finished"

    def plain(_: NativeDirectRequest) -> str:
        begun.set()
        go_on.wait(PATIENCE)
        return "finished"

    # A plain handler that waits in the pump's thread would keep the stop waiting, too.
    mode = mode if mode.asynchronous else Mode("pool", options={"threads": 2})
    running = serve.as_it_is(handler if mode.asynchronous else plain, mode, grace=PATIENCE)
    with H2(running.address) as client:
        stream = client.open()
        assert begun.wait(PATIENCE)
        running.close()
        client.wait(lambda: bool(client.goaways))
        assert client.goaways[0].last_stream_id == 2**31 - 1
        late = client.open()
        go_on.set()
        assert client.answer(stream).body == b"finished"
        client.drain()
        codes = {goaway.error_code for goaway in client.goaways}
        assert codes == {h2.errors.ErrorCodes.NO_ERROR}
        assert len(client.goaways) == 2
        # A request that crossed the first one on its way is answered, or known not to have been begun.
        last = client.goaways[1].last_stream_id
        assert last in {stream, late}
        assert last == stream or client.known(late).body == b"finished"
    running.join()


def test_an_idle_connection_is_told_goaway(serve: Serve) -> None:
    running = serve(lambda _: "x", limits=Limits(idle_ms=50))
    with H2(running.address) as client:
        assert client.request().body == b"x"
        client.drain()
        assert [goaway.error_code for goaway in client.goaways][-1:] == [
            h2.errors.ErrorCodes.NO_ERROR
        ]


def test_rapid_resets_end_the_connection(serve: Serve) -> None:
    """CVE-2023-44487: streams opened and reset at once are work for nothing."""
    running = serve(lambda _: "x", limits=Limits(h2_pending_resets=20))
    with H2(running.address) as client:
        for _ in range(1000):
            stream = client.state.get_next_available_stream_id()
            fields = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")]
            client.state.send_headers(stream, fields, end_stream=True)
            client.state.reset_stream(stream)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.flush()
        errors = [
            int.from_bytes(payload[4:8], "big")
            for kind, payload in client.frames()
            if kind == GOAWAY
        ]
        assert errors[-1:] == [h2.errors.ErrorCodes.ENHANCE_YOUR_CALM]


def test_the_settings_say_the_limits(serve: Serve) -> None:
    limits = Limits(
        h2_streams=7, h2_window=100_000, h2_header_list_bytes=5000, h2_frame_bytes=20_000
    )
    with H2(serve(lambda _: "x", limits=limits).address) as client:
        assert client.request().body == b"x"
        settings = client.state.remote_settings
        assert settings.max_concurrent_streams == 7
        assert settings.initial_window_size == 100_000
        assert settings.max_header_list_size == 5000
        assert settings.max_frame_size == 20_000


@pytest.mark.parametrize(
    ("fields", "statuses"),
    [
        ([("x", "y" * 20_000)], {431}),
        ([(f"x-{number}", "y") for number in range(200)], {431}),
    ],
)
def test_heads_over_a_limit_are_431(
    serve: Serve, fields: list[tuple[str, str]], statuses: set[int]
) -> None:
    with H2(serve(lambda _: "never").address) as client:
        answer = client.request("/", *fields)
        assert answer.status in statuses
        assert client.request("/").body == b"never", "the connection goes on"


def test_a_long_target_is_414(serve: Serve) -> None:
    with H2(serve(lambda _: "never", limits=Limits(uri_bytes=100)).address) as client:
        assert client.request("/" + "x" * 100).status == 414


@pytest.mark.parametrize(
    "fields",
    [
        [("connection", "close")],
        [("transfer-encoding", "chunked")],
        [("X-Upper", "case")],
        [("te", "gzip")],
        [("x", "a\r\nb: c")],
        [("x", "a\0b")],
        [("bad name", "x")],
        [(":path", "/again")],
        [("content-length", "5")],
    ],
    ids=lambda fields: str(fields[0][0]),
)
def test_malformed_requests_reach_no_handler(serve: Serve, fields: list[tuple[str, str]]) -> None:
    """RFC 9113 section 8.2: stream or connection error, or a refusal."""
    called: list[str] = []
    running = serve(lambda request: called.append(request.path) or "never")  # type: ignore[func-returns-value]
    with H2(running.address) as client:
        client.state.config.validate_outbound_headers = False
        client.state.config.normalize_outbound_headers = False
        stream = client.open("/", *fields)
        with contextlib.suppress(AssertionError):
            answer = client.answer(stream)
            assert answer.reset is not None or answer.status == 400
        assert (
            client.known(stream).reset is not None
            or client.eof
            or client.known(stream).status == 400
        )
    assert called == []


def test_more_body_than_declared_is_a_reset(serve: Serve) -> None:
    bodies: list[bytes] = []

    async def handler(request: NativeDirectRequest) -> str:
        bodies.append(await request.read())
        return ""

    with H2(serve(handler).address) as client:
        stream = client.open("/", ("content-length", "100000"), method="POST", end=False)
        client.send(stream, b"x" * 100)
        client.send(stream, b"", end=True)
        answer = client.answer(stream)
        assert answer.reset == h2.errors.ErrorCodes.PROTOCOL_ERROR
    assert bodies == []
