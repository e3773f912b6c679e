"""The callback style (mission H6): a handler called with HttpServer requests, blocking and inside a loop."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable
from typing import Any

import pytest

from server_native import (
    ConfigurationError,
    HttpRequest,
    NativeServer,
    serve_native_http,
    serve_secure_native_http,
    start_native_http,
    start_secure_native_http,
)
from tests.integration.certificates import Authority, Identity
from tests.integration.clients import H2, Wire
from tests.integration.servers import PATIENCE


async def echo(request: HttpRequest) -> None:
    body = await request.read()
    request.response.headers["x-method"] = request.method
    request.response.write(f"{request.uri} {len(body)}")


def plain(request: HttpRequest) -> None:
    request.response.write("plain")


def blocking(
    serve: Callable[..., None], handler: Any, use: Callable[[NativeServer], None], **options: Any
) -> None:
    """Runs a blocking server in a thread for as long as `use` takes."""
    ready = threading.Event()
    servers: list[NativeServer] = []

    def on_ready(server: NativeServer) -> None:
        servers.append(server)
        ready.set()

    options = {"port": 0, "grace": 0.2, "on_ready": on_ready, **options}
    thread = threading.Thread(target=serve, args=(handler,), kwargs=options)
    thread.start()
    try:
        assert ready.wait(PATIENCE)
        use(servers[0])
    finally:
        servers[0].close()
        thread.join(PATIENCE)
    assert not thread.is_alive()


@pytest.mark.parametrize(("handler", "expected"), [(echo, b"/a?b 3"), (plain, b"plain")])
def test_a_blocking_server(handler: Any, expected: bytes) -> None:
    def use(server: NativeServer) -> None:
        with Wire(("127.0.0.1", server.port)) as wire:
            wire.request("/a?b", method="POST", body=b"xyz")
            answer = wire.answer()
            assert (answer.status, answer.body) == (200, expected)
            assert answer.header("content-type") == "text/plain; charset=utf-8"
        with H2(("127.0.0.1", server.port)) as client:
            assert client.request().status == 200

    blocking(serve_native_http, handler, use)


def test_with_tls(authority: Authority, identity: Identity) -> None:
    def use(server: NativeServer) -> None:
        with Wire(("127.0.0.1", server.port), tls=authority.context()) as wire:
            assert wire.get().body == b"plain"

    blocking(serve_secure_native_http, plain, use, host="127.0.0.1", **identity.options)


def test_inside_a_loop(authority: Authority, identity: Identity) -> None:
    async def main() -> None:
        async with (
            start_native_http(echo, server_header="mine") as server,
            start_secure_native_http(plain, host="127.0.0.1", **identity.options) as secure,
        ):

            def ask() -> None:
                with Wire(("127.0.0.1", server.port)) as wire:
                    answer = wire.get("/x")
                    assert (answer.body, answer.header("server")) == (b"/x 0", "mine")
                with Wire(("127.0.0.1", secure.port), tls=authority.context()) as wire:
                    assert wire.get().body == b"plain"

            await asyncio.to_thread(ask)

    asyncio.run(main())


def test_a_handler_that_fails_is_500_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    def handler(request: HttpRequest) -> None:
        raise RuntimeError("on purpose")

    def use(server: NativeServer) -> None:
        with Wire(("127.0.0.1", server.port)) as wire:
            assert wire.get().status == 500

    blocking(serve_native_http, handler, use)
    assert "on purpose" in caplog.text


def test_sessions_and_compression_are_options_too() -> None:
    async def handler(request: HttpRequest) -> None:
        request.session["count"] = request.session.get("count", 0) + 1
        request.response.write("x" * 2000)

    def use(server: NativeServer) -> None:
        with Wire(("127.0.0.1", server.port)) as wire:
            answer = wire.get("/", "accept-encoding: gzip")
            assert answer.header("content-encoding") == "gzip"
            assert (answer.header("set-cookie") or "").startswith("MINE=")

    blocking(serve_native_http, handler, use, session_cookie="MINE", auto_compress=True)


def test_its_signature_shows_every_option() -> None:
    for function in (
        serve_native_http,
        serve_secure_native_http,
        start_native_http,
        start_secure_native_http,
    ):
        parameters = inspect.signature(function).parameters
        assert parameters["session_timeout"].default == 1200.0
        assert {"host", "limits", "auto_compress"} <= parameters.keys()
    with pytest.raises(TypeError, match="did you mean 'session_timeout'"):
        serve_native_http(plain, session_timeot=1)  # type: ignore[call-arg]
    with pytest.raises(ConfigurationError, match="callable"):
        serve_native_http("no handler")  # type: ignore[arg-type]
