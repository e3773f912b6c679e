"""Constant responses: answered natively, over both versions, without the handler."""

from __future__ import annotations

import threading

import pytest

from server_native import (
    ConfigurationError,
    NativeDirectRequest,
    NativeDirectResponse,
    NativeServer,
    serve_native_direct,
)
from server_native.http import HandlerResult
from tests.integration.clients import H2, Wire
from tests.integration.servers import Mode, Serve

Response = NativeDirectResponse
ROUTES = {
    "/health": "ok",
    "/data": Response.json({"a": 1}, status=201, headers={"x-tag": "t"}),
    "/nothing": Response.pre_encoded(204, []),
    "/closes": Response.text("bye", headers={"connection": "close"}),
    "/large": b"x" * 300_000,
}


def handler(request: NativeDirectRequest, _: bytes) -> str:
    return f"handler {request.method} {request.path}"


def test_over_http1(serve: Serve, mode: Mode) -> None:
    with Wire(serve(handler, mode, routes=ROUTES).address) as wire:
        for path in ("/health", "/health?deep=1", "/health?"):
            answer = wire.get(path)
            assert (answer.status, answer.body, answer.header("content-length")) == (
                200,
                b"ok",
                "2",
            )
            assert answer.header("date") is not None
        data = wire.get("/data")
        assert (data.status, data.body, data.header("x-tag")) == (201, b'{"a":1}', "t")
        nothing = wire.get("/nothing")
        assert (nothing.status, nothing.header("content-length")) == (204, None)
        assert wire.get("/large").body == b"x" * 300_000
        wire.request("/health", method="HEAD")
        head = wire.answer("HEAD")
        assert (head.status, head.header("content-length")) == (200, "2")
        for path in ("/health/", "/healt", "/%68ealth", "//health"):
            assert wire.get(path).body.startswith(b"handler GET /")
        wire.request("/health", method="POST", body=b"x")
        assert wire.answer().body == b"handler POST /health"
        wire.request("/health", method="DELETE")
        assert wire.answer().body == b"handler DELETE /health"


def test_over_http2(serve: Serve, mode: Mode) -> None:
    with H2(serve(handler, mode, routes=ROUTES).address) as client:
        for path in ("/health", "/health?deep=1"):
            answer = client.request(path)
            assert (answer.status, answer.body, answer.header("content-length")) == (
                200,
                b"ok",
                "2",
            )
        data = client.request("/data")
        assert (data.status, data.body, data.header("x-tag")) == (201, b'{"a":1}', "t")
        assert client.request("/nothing").status == 204
        assert client.request("/large").body == b"x" * 300_000
        head = client.request("/health", method="HEAD")
        assert (head.status, head.header("content-length"), head.frames) == (200, "2", 0)
        assert client.request("/health", method="POST", body=b"x").body == b"handler POST /health"


def test_pipelined_with_requests_for_the_handler(serve: Serve, mode: Mode) -> None:
    with Wire(serve(handler, mode, routes=ROUTES).address) as wire:
        for _ in range(20):
            wire.request("/health")
            wire.request("/dynamic")
            wire.request("/large")
        for _ in range(20):
            assert [wire.answer().body for _ in range(3)] == [
                b"ok",
                b"handler GET /dynamic",
                b"x" * 300_000,
            ]


def test_they_end_the_connection_when_asked_to(serve: Serve) -> None:
    running = serve(lambda _: "x", routes=ROUTES)
    for path, fields in (("/health", ["connection: close"]), ("/closes", [])):
        with Wire(running.address) as wire:
            assert wire.get(path, *fields).header("connection") == "close"
            assert wire.rest() == b""


def test_http10_clients_are_answered_too(serve: Serve) -> None:
    with Wire(serve(lambda _: "x", routes=ROUTES).address) as wire:
        wire.send(b"GET /health HTTP/1.0\r\nconnection: keep-alive\r\n\r\n")
        assert wire.answer().header("connection") == "keep-alive"
        wire.send(b"GET /health HTTP/1.0\r\n\r\n")
        assert (wire.answer().body, wire.rest()) == (b"ok", b"")


def test_they_are_answered_while_a_handler_keeps_python_busy(serve: Serve) -> None:
    """The point of the standby thread: the pump's own thread is inside a handler."""
    go_on, begun = threading.Event(), threading.Event()

    def stuck(_: NativeDirectRequest) -> str:
        begun.set()
        assert go_on.wait(10)
        return "done"

    running = serve(stuck, routes=ROUTES, io_threads=0)
    with Wire(running.address) as wire, Wire(running.address) as other:
        wire.request("/stuck")
        assert begun.wait(10)
        assert other.get("/health").body == b"ok"
        with Wire(running.address) as late:
            assert late.get("/health").body == b"ok", "a new connection is accepted"
        assert not wire.has_input
        go_on.set()
        assert wire.answer().body == b"done"


@pytest.mark.parametrize(
    "routes",
    [
        {"health": "x"},
        {"/a?b": "x"},
        {"/a b": "x"},
        {"/a": Response.stream(iter([b"x"]))},
        {"/a": Response.pre_encoded(204, [], b"x")},
        {"/a": Response.pre_encoded(205, [], b"x")},
        {"/a": Response.pre_encoded(200, {"content-length": "7"}, b"x")},
    ],
)
def test_impossible_ones_are_refused_before_anything_is_served(
    routes: dict[str, HandlerResult],
) -> None:
    with pytest.raises(ConfigurationError):
        serve_native_direct(lambda _: "x", port=0, routes=routes, on_ready=NativeServer.close)
