"""What a handler is told: every part of a request, the same in every way a server can run and over both protocols."""

from __future__ import annotations

import gzip
import socket
from typing import Any

import pytest

from server_native import NativeDirectRequest, NativeDirectResponse
from tests.integration.clients import H2, Wire
from tests.integration.servers import Mode, Serve


def describe(request: NativeDirectRequest, body: bytes) -> dict[str, Any]:
    return {
        "method": request.method,
        "target": request.target,
        "path": request.path,
        "raw_path": request.raw_path,
        "query": request.query,
        "scheme": request.scheme,
        "authority": request.authority,
        "protocol": request.protocol,
        "headers": list(request.headers),
        "body": body.decode("latin-1"),
        "client": request.client,
        "server": request.server,
        "disconnected": request.disconnected,
    }


def test_every_part_of_a_request_arrives(serve: Serve, mode: Mode) -> None:
    running = serve(describe, mode)
    with Wire(running.address) as wire:
        wire.send(
            b"PUT /caf%C3%A9/%2F?q=%20a&b HTTP/1.1\r\nHost: example.org:81\r\nX-Two: 1\r\nx-one: \xe9 \t\r\n"
            b"X-TWO: 2\r\nX-Empty:\r\nContent-Length: 4\r\n\r\nbody"
        )
        seen = json_of(wire.answer().body)
        client = wire.socket.getsockname()
    assert seen == {
        "method": "PUT",
        "target": "/caf%C3%A9/%2F?q=%20a&b",
        "path": "/café//",
        "raw_path": "/caf%C3%A9/%2F",
        "query": "q=%20a&b",
        "scheme": "http",
        "authority": "example.org:81",
        "protocol": "HTTP/1.1",
        "headers": [
            ["host", "example.org:81"],
            ["x-two", "1"],
            ["x-one", "é"],
            ["x-two", "2"],
            ["x-empty", ""],
            ["content-length", "4"],
        ],
        "body": "body",
        "client": list(client),
        "server": list(running.address),
        "disconnected": False,
    }


def test_http2_tells_the_same(serve: Serve, mode: Mode) -> None:
    running = serve(describe, mode)
    with H2(running.address) as client:
        fields = (("x-two", "1"), ("x-one", "e"), ("x-two", "2"), ("content-length", "4"))
        answer = client.request("/caf%C3%A9/%2F?q=%20a&b", *fields, method="PUT", body=b"body")
        name = client.socket.getsockname()
    seen = json_of(answer.body)
    headers = seen.pop("headers")
    assert headers[0] == ["host", "test"]
    assert [field for field in headers if field[0] == "x-two"] == [["x-two", "1"], ["x-two", "2"]]
    assert sorted(map(tuple, headers[1:])) == sorted(fields)
    assert seen == {
        "method": "PUT",
        "target": "/caf%C3%A9/%2F?q=%20a&b",
        "path": "/café//",
        "raw_path": "/caf%C3%A9/%2F",
        "query": "q=%20a&b",
        "scheme": "http",
        "authority": "test",
        "protocol": "HTTP/2",
        "body": "body",
        "client": list(name),
        "server": list(running.address),
        "disconnected": False,
    }


def test_headers_are_looked_up_in_any_case_and_duplicates_are_kept(serve: Serve) -> None:
    seen: list[Any] = []

    def handler(request: NativeDirectRequest) -> str:
        headers = request.headers
        seen.append(
            (request.header("x-TAG"), request.header("absent"), request.header("absent", "x"))
        )
        seen.append(
            (headers["X-Tag"], headers.get_all("x-Tag"), "X-TAG" in headers, "absent" in headers)
        )
        with pytest.raises(KeyError):
            headers["absent"]
        return ""

    with Wire(serve(handler).address) as wire:
        assert wire.get("/", "X-tag: a", "x-Tag: b").status == 200
    assert seen == [("a", None, "x"), ("a", ["a", "b"], True, False)]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"GET http://other:8/a?b HTTP/1.1\r\nhost: test", ("other:8", "/a", "b")),
        (b"GET HTTP://other HTTP/1.1\r\nhost: test", ("other", "/", "")),
        (b"OPTIONS * HTTP/1.1\r\nhost: test", ("test", "*", "")),
        (b"GET /a??b?c HTTP/1.1\r\nhost: [::1]:80", ("[::1]:80", "/a", "?b?c")),
        (b"GET //a/../b HTTP/1.1\r\nhost: test", ("test", "//a/../b", "")),
        (b"GET /%ff%zz HTTP/1.1\r\nhost: test", ("test", "/\ufffd%zz", "")),
        (b"FROB-nicate / HTTP/1.1\r\nhost: test", ("test", "/", "")),
    ],
)
def test_targets_of_every_form(serve: Serve, line: bytes, expected: tuple[str, str, str]) -> None:
    running = serve(
        lambda request: [request.method, request.authority, request.path, request.query]
    )
    with Wire(running.address) as wire:
        wire.send(line + b"\r\n\r\n")
        assert json_of(wire.answer().body) == [line.split()[0].decode(), *expected]


def test_ipv6_addresses_are_told_without_brackets(serve: Serve) -> None:
    if not socket.has_ipv6:  # pragma: no cover
        pytest.skip("this Python has no IPv6")
    running = serve(lambda request: [request.client, request.server], host="::1")
    with Wire(running.address) as wire:
        client, server = json_of(wire.get().body)
        assert (client[0], server[0]) == ("::1", "::1")
        assert client[1] == wire.socket.getsockname()[1]
        assert server[1] == running.server.port
    assert running.url == f"http://[::1]:{running.server.port}"


BODIES = [b"", b"x", b"y" * 1000, b"z" * 65_536, b"w" * 65_537, b"v" * 1_000_000]


@pytest.mark.parametrize("size", [len(body) for body in BODIES])
@pytest.mark.parametrize("framing", ["length", "chunked", "h2"])
def test_a_body_of_any_size_arrives_whole(
    serve: Serve, mode: Mode, size: int, framing: str
) -> None:
    if (
        mode.name not in {"inline-driven", "pool", "task-driven", "task-in-uvloop"}
        and size != 65_537
    ):
        size = 65_537
    body = gzip.compress(bytes(range(256)), 0)[:251] * (size // 251 + 1)
    body = body[:size]
    running = serve(lambda _, received: received, mode)
    if framing == "h2":
        with H2(running.address) as client:
            assert client.request(method="POST", body=body).body == body
        return
    with Wire(running.address) as wire:
        if framing == "length":
            wire.send(b"POST / HTTP/1.1\r\nhost: test\r\ncontent-length: %d\r\n\r\n" % size + body)
        else:
            wire.send(b"POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n")
            for start in range(0, size, 10_007):
                piece = body[start : start + 10_007]
                wire.send(b"%x;ext=1\r\n" % len(piece) + piece + b"\r\n")
            wire.send(b"0\r\n\r\n")
        assert wire.answer().body == body
        assert wire.get().body == b"", "the connection goes on"


@pytest.mark.parametrize("how", ["read", "for", "twice"])
@pytest.mark.parametrize("size", [10, 300_000])
def test_an_asynchronous_handler_reads_its_body_in_either_way(
    serve: Serve, how: str, size: int
) -> None:
    async def handler(request: NativeDirectRequest) -> bytes:
        if how == "for":
            return b"".join([chunk async for chunk in request])
        body = await request.read()
        if how == "twice" and size == 10:
            assert await request.read() == body, (
                "a body that came with the request may be read again"
            )
        return body

    with Wire(serve(handler).address) as wire:
        wire.request(method="POST", body=b"a" * size)
        assert wire.answer().body == b"a" * size


@pytest.mark.parametrize("how", ["body", "for"])
@pytest.mark.parametrize("size", [0, 10, 300_000])
def test_a_plain_handler_reads_its_body_in_either_way(serve: Serve, how: str, size: int) -> None:
    def handler(request: NativeDirectRequest) -> bytes:
        return request.body if how == "body" else b"".join(request)

    with Wire(serve(handler).address) as wire:
        wire.request(method="POST", body=b"a" * size)
        assert wire.answer().body == b"a" * size


def test_the_wrong_way_to_read_says_which_is_right(serve: Serve) -> None:
    """A plain handler cannot await, an asynchronous one must not block its loop."""
    failures: list[str] = []

    async def handler(request: NativeDirectRequest) -> str:
        try:
            next(iter(request))
        except RuntimeError as error:
            failures.append(str(error))
        await request.read()
        return ""

    with Wire(serve(handler).address) as wire:
        wire.request(method="POST", body=b"a" * 300_000)
        assert wire.answer().status == 200
    assert len(failures) == 1
    assert "await request.read()" in failures[0]


def test_the_string_of_a_request_names_it(serve: Serve) -> None:
    running = serve(lambda request: NativeDirectResponse.text(repr(request)))
    with Wire(running.address) as wire:
        assert wire.get("/a?b").body == b"<NativeDirectRequest GET /a?b HTTP/1.1>"


def json_of(body: bytes) -> Any:
    import json

    return json.loads(body)
