"""``NativeHttpServer``: binding, taking requests, what a request tells, how it ends."""

from __future__ import annotations

import asyncio
import gc
import socket
from datetime import datetime, timezone
from typing import Any

import pytest

from server_native import (
    ClientDisconnected,
    ConfigurationError,
    ConnectionInfo,
    ConnectionsInfo,
    Cookie,
    HttpRequest,
    Limits,
    NativeHttpServer,
)
from tests.integration.certificates import Authority, Identity
from tests.integration.clients import H2, Wire, eventually
from tests.integration.h3_clients import curl
from tests.integration.http_servers import HttpRunning, Listen, answering
from tests.integration.servers import Serve


async def fetch(server: NativeHttpServer, path: str = "/", *lines: str) -> bytes:
    """A client on the loop of the server; the whole answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    fields = "".join(f"{line}\r\n" for line in ("host: a", "connection: close", *lines))
    writer.write(f"GET {path} HTTP/1.1\r\n{fields}\r\n".encode())
    data = await reader.read()
    writer.close()
    await writer.wait_closed()
    return data


def refused(address: tuple[str, int]) -> bool:
    """Whether nobody accepts there."""
    try:
        socket.create_connection(address).close()
    except ConnectionRefusedError:
        return True
    return False


def ok(request: HttpRequest) -> None:
    request.response.write("ok")


class TestBinding:
    """No thread here: server and client share the loop of the test."""

    def test_awaited(self) -> None:
        async def main() -> None:
            server = await NativeHttpServer.bind("127.0.0.1", 0)
            assert server.url == f"http://127.0.0.1:{server.port}"
            assert server.addresses == (("127.0.0.1", server.port),)
            assert (server.idle_timeout, server.session_timeout) == (120.0, 1200.0)
            assert (server.server_header, server.auto_compress) == (None, False)
            client = asyncio.create_task(fetch(server))
            async for request in server:
                await request.response.close()
                break
            assert (await client).startswith(b"HTTP/1.1 200 OK")
            await server.close()
            await server.close()
            assert server.connections_info() == ConnectionsInfo(0, 0, 0, 0)
            async for _ in server:
                raise AssertionError("a closed server has no requests")

        asyncio.run(main())

    def test_as_a_block(self) -> None:
        async def main() -> None:
            async with NativeHttpServer.loopback() as server:
                serving = asyncio.create_task(server.serve(ok))
                assert (await fetch(server)).endswith(b"ok")
            await serving
            with pytest.raises(OSError, match=r"Connect call failed|refused"):
                await fetch(server)

        asyncio.run(main())

    @pytest.mark.parametrize(
        ("options", "idle"),
        [
            ({}, 120_000),
            ({"idle_timeout": 0.5}, 500),
            ({"idle_timeout": None}, 2**32 - 1),
            ({"limits": Limits(idle_ms=7_000)}, 7_000),
            ({"limits": Limits(idle_ms=7_000), "idle_timeout": 3}, 3_000),
        ],
    )
    def test_the_idle_timeout_is_a_limit(self, options: dict[str, Any], idle: int) -> None:
        async def main() -> None:
            async with NativeHttpServer.bind(**options) as server:
                assert server.idle_timeout == idle / 1000

        asyncio.run(main())

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"idle_timeout": 0}, "idle_timeout must be seconds"),
            ({"idle_timeout": 1e9}, "idle_timeout must be seconds"),
            ({"idle_timeout": "5"}, "idle_timeout must be seconds"),
            ({"idle_timeout": float("nan")}, "idle_timeout must be seconds"),
            ({"session_timeout": 0}, "session_timeout must be seconds"),
            ({"max_sessions": 0}, "max_sessions must be an integer from 1"),
            ({"session_cookie": "a b"}, "session_cookie"),
            ({"max_pending_requests": 0}, "max_pending_requests must be an integer from 1"),
            ({"write_buffer_bytes": True}, "write_buffer_bytes must be an integer from 1"),
            ({"auto_compress": 1}, "auto_compress must be True or False"),
            ({"server_header": "a\r\nb: c"}, "header 'server'"),
            ({"limits": 5}, "limits must be"),
            ({"grace": -1}, "grace must be"),
        ],
    )
    def test_what_cannot_be_is_refused(self, options: dict[str, Any], message: str) -> None:
        async def main() -> None:
            with pytest.raises(ConfigurationError, match=message):
                await NativeHttpServer.bind(**options)

        asyncio.run(main())

    def test_an_unknown_option(self) -> None:
        async def main() -> None:
            with pytest.raises(TypeError, match="nonsense"):
                await NativeHttpServer.bind(nonsense=1)

        asyncio.run(main())

    def test_secure_ones_speak_tls(self, authority: Authority, identity: Identity) -> None:
        async def main() -> None:
            for making in (
                NativeHttpServer.bind_secure("127.0.0.1", 0, **identity.options),
                NativeHttpServer.loopback_secure(**identity.options),
            ):
                async with making as server:
                    taking = asyncio.ensure_future(take(server))
                    url = f"https://localhost:{server.port}/a"
                    answer = await asyncio.to_thread(curl, url, trust=authority.path)
                    assert (answer.status_code, answer.content) == (200, b"TLSv1.3 HTTP/3")
                    taking.cancel()

        async def take(server: NativeHttpServer) -> None:
            async for request in server:
                assert request.direct.tls is not None
                request.response.write(f"{request.direct.tls.version} {request.direct.protocol}")
                await request.response.close()

        asyncio.run(main())

    def test_the_secure_port_is_443_unless_another_place_is_named(self) -> None:
        cases: list[tuple[dict[str, Any], int | None]] = [({}, 443), ({"uds": "a.sock"}, None)]
        for options, port in cases:
            making = NativeHttpServer.bind_secure(certificate_path="c", key_path="k", **options)
            assert making._options.get("port") == port


class TestRequest:
    def test_what_it_tells(self, listen: Listen) -> None:
        seen: list[Any] = []

        async def handler(request: HttpRequest) -> None:
            info = request.connection_info
            assert info == request.response.connection_info
            assert info.remote is not None
            seen.append(
                [
                    request.method,
                    request.uri,
                    request.requested_uri,
                    request.protocol_version,
                    request.content_length,
                    request.headers.get("x"),
                    [(cookie.name, cookie.value) for cookie in request.cookies],
                    request.tls,
                    info.remote[0],
                    info.local,
                    await request.read(),
                    repr(request),
                ]
            )

        running = listen(answering(handler))
        with Wire(running.address) as wire:
            wire.request("/a?b", "x: y", "cookie: a=1; b=2", method="PUT", body=b"hello")
            wire.answer()
            wire.get()
            assert wire.socket.getsockname()[0] == "127.0.0.1"
        local = running.address
        cookies = [("a", "1"), ("b", "2")]
        assert seen[0] == [
            *("PUT", "/a?b", "http://test/a?b", "1.1", 5, "y", cookies, None),
            *("127.0.0.1", local, b"hello", "<HttpRequest PUT /a?b HTTP/1.1>"),
        ]
        assert seen[1][4:7] == [-1, None, []]
        with H2(running.address) as client:
            client.request("/h2")
        assert seen[2][:4] == ["GET", "/h2", "http://test/h2", "2"]

    @pytest.mark.parametrize(
        ("lines", "uri"),
        [
            ((), "http://test/p?q"),
            (("x-forwarded-proto: https",), "https://test/p?q"),
            (("x-forwarded-host: example.org",), "http://example.org/p?q"),
            (
                ("x-forwarded-proto: HTTPS, http", "x-forwarded-host: [::1]:8443, inner"),
                "https://[::1]:8443/p?q",
            ),
            (("x-forwarded-proto: javascript", "x-forwarded-host: a/b?c#d"), "http://test/p?q"),
            (("x-forwarded-host: user@evil",), "http://test/p?q"),
        ],
    )
    def test_the_requested_uri(self, listen: Listen, lines: tuple[str, ...], uri: str) -> None:
        def handler(request: HttpRequest) -> None:
            request.response.write(request.requested_uri)

        with Wire(listen(answering(handler)).address) as wire:
            assert wire.get("/p?q", *lines).body == uri.encode()

    def test_the_requested_uri_without_host_is_the_bound_address(self, listen: Listen) -> None:
        def handler(request: HttpRequest) -> None:
            request.response.write(request.requested_uri)

        running = listen(answering(handler))
        with Wire(running.address) as wire:
            wire.send(b"GET /p HTTP/1.0\r\n\r\n")
            assert wire.answer().body == f"{running.url}/p".encode()
        with Wire(running.address) as wire:
            wire.request("*", method="OPTIONS")
            assert wire.answer().body == b"http://test"

    def test_a_target_with_a_fragment_never_reaches_the_handler(self, listen: Listen) -> None:
        reached: list[str] = []
        with Wire(listen(answering(lambda request: reached.append(request.uri))).address) as wire:
            assert wire.get("/#/").status == 400
        assert reached == []


class TestResponse:
    def test_redirect(self, listen: Listen) -> None:
        async def handler(request: HttpRequest) -> None:
            if request.uri == "/":
                await request.response.redirect("/ä b\r\nx: y?q=%20")
            elif request.uri == "/307":
                await request.response.redirect("https://example.org/#top", status=307)
            else:
                with pytest.raises(ConfigurationError, match="redirect's status"):
                    request.response.redirect("/", status=200)

        with Wire(listen(answering(handler)).address) as wire:
            answer = wire.get()
            assert (answer.status, answer.body) == (302, b"")
            assert answer.header("location") == "/%C3%A4%20b%0D%0Ax:%20y?q=%20"
            answer = wire.get("/307")
            assert (answer.status, answer.header("location")) == (307, "https://example.org/#top")
            assert wire.get("/200").status == 200

    def test_cookies(self, listen: Listen) -> None:
        def handler(request: HttpRequest) -> None:
            cookies = request.response.cookies
            cookies.add("a", "1")
            cookies.add(Cookie("b", "2", path="/", secure=True, http_only=True, same_site="None"))
            cookies.add("a", "3", max_age=5, expires=datetime(2030, 1, 2, tzinfo=timezone.utc))
            cookies.add("gone")
            cookies.remove("gone")
            cookies.expire("old")
            request.response.headers.add("set-cookie", "raw=1")

        with Wire(listen(answering(handler)).address) as wire:
            sent = [value for name, value in wire.get().headers if name == "set-cookie"]
        assert sent == [
            "raw=1",
            "a=3; Expires=Wed, 02 Jan 2030 00:00:00 GMT; Max-Age=5",
            "b=2; Path=/; Secure; HttpOnly; SameSite=None",
            "old=; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Max-Age=0; Path=/",
        ]

    def test_several_values_of_a_field(self, listen: Listen) -> None:
        def handler(request: HttpRequest) -> None:
            headers = request.response.headers
            headers.add("X-List", "a")
            headers.add("x-list", "b")
            headers.add("x-list", "c")
            headers.remove("X-List", "b")

        with Wire(listen(answering(handler)).address) as wire:
            assert [value for name, value in wire.get().headers if name == "x-list"] == ["a", "c"]


class TestServe:
    @pytest.mark.parametrize("asynchronous", [False, True])
    def test_a_handler_that_fails_is_one_500_and_one_log_entry(
        self, listen: Listen, serve: Serve, asynchronous: bool
    ) -> None:
        def plain(request: HttpRequest) -> None:
            request.response.write("secret")
            if request.uri == "/broken":
                raise LookupError("the reason")

        async def waiting(request: HttpRequest) -> None:
            await asyncio.sleep(0)
            plain(request)

        with Wire(listen(answering(waiting if asynchronous else plain)).address) as wire:
            answer = wire.get("/broken")
            assert (answer.status, b"secret" in answer.body) == (500, False)
            assert wire.get("/fine").body == b"secret", "the connection goes on"
        (text,) = serve.logged()
        assert "LookupError: the reason" in text
        assert "Traceback" in text
        assert "/broken" in text

    def test_a_handler_that_fails_after_the_head_is_an_abrupt_end(
        self, listen: Listen, serve: Serve
    ) -> None:
        async def handler(request: HttpRequest) -> None:
            request.response.write("begun")
            await request.response.flush()
            raise LookupError("too late")

        running = listen(answering(handler))
        with Wire(running.address) as wire:
            wire.request()
            assert wire.ended_abruptly()
        with H2(running.address) as client:
            assert client.request().reset is not None
        assert len(serve.logged()) == 2

    def test_a_handler_that_fails_after_close_changes_nothing(
        self, listen: Listen, serve: Serve
    ) -> None:
        def handler(request: HttpRequest) -> None:
            request.response.write("whole")
            request.response.close()
            raise LookupError("afterwards")

        with Wire(listen(answering(handler)).address) as wire:
            assert wire.get().body == b"whole"
        assert len(serve.logged()) == 1

    def test_a_handler_is_cancelled_when_its_client_has_gone(self, listen: Listen) -> None:
        begun, cancelled = asyncio.Event(), asyncio.Event()

        async def handler(request: HttpRequest) -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise

        with Wire(listen(answering(handler)).address) as wire:
            wire.request()
            eventually(begun.is_set, "the request")
            wire.reset()
        eventually(cancelled.is_set, "the cancellation")

    def test_a_body_that_does_not_come_is_no_failure(self, listen: Listen) -> None:
        heard: list[BaseException] = []
        begun = asyncio.Event()

        async def handler(request: HttpRequest) -> None:
            begun.set()
            try:
                await request.read()
            except BaseException as error:
                heard.append(error)
                raise

        with Wire(listen(answering(handler)).address) as wire:
            wire.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\nx")
            eventually(begun.is_set, "the request")
            wire.reset()
        eventually(lambda: len(heard) == 1, "the end")
        assert isinstance(heard[0], (ClientDisconnected, asyncio.CancelledError))

    def test_a_handler_that_takes_too_long(self, listen: Listen, serve: Serve) -> None:
        async def handler(request: HttpRequest) -> None:
            await asyncio.Event().wait()

        with Wire(listen(answering(handler), handler_timeout=0.02).address) as wire:
            assert wire.get().status == 503
        assert len(serve.logged()) == 1

    def test_cancelled_it_ends_its_handlers(self, listen: Listen) -> None:
        begun = asyncio.Event()

        async def handler(request: HttpRequest) -> None:
            begun.set()
            await asyncio.Event().wait()

        async def program(server: NativeHttpServer) -> None:
            serving = asyncio.create_task(server.serve(handler))
            await begun.wait()
            serving.cancel()
            await asyncio.wait([serving])

        with Wire(listen(program).address) as wire:
            assert wire.get().status == 500
            eventually(lambda: wire.get().status == 503, "nobody takes requests any more")

    def test_no_handler(self, listen: Listen) -> None:
        finished = asyncio.Event()

        async def program(server: NativeHttpServer) -> None:
            with pytest.raises(ConfigurationError, match="callable"):
                await server.serve(None)  # type: ignore[arg-type]
            finished.set()

        listen(program)
        eventually(finished.is_set, "the refusal")


class TestNobodyListens:
    """Requests that nobody will take get 503, and those nobody answers 500."""

    def test_up_to_the_limit_they_wait(self, listen: Listen) -> None:
        begin = asyncio.Event()

        async def program(server: NativeHttpServer) -> None:
            await begin.wait()
            await server.serve(ok)

        running = listen(program, max_pending_requests=2)
        wires = [Wire(running.address) for _ in range(2)]
        for wire in wires:
            wire.request()
        eventually(lambda: running.stats()["opened"] == 2, "two requests")
        with Wire(running.address) as late:
            assert late.get().status == 503
            running.call(lambda _: begin.set())
            assert [wire.answer().body for wire in wires] == [b"ok", b"ok"]
            assert late.get().status == 200
        for wire in wires:
            wire.socket.close()

    def test_one_whose_client_has_gone_makes_room(self, listen: Listen) -> None:
        begin = asyncio.Event()

        async def later(server: NativeHttpServer) -> None:
            await begin.wait()
            await server.serve(ok)

        running = listen(later, max_pending_requests=1)
        with Wire(running.address) as wire:
            wire.request()
            eventually(lambda: running.stats()["opened"] == 1, "a request")
            wire.reset()
        eventually(lambda: running.stats()["streams"] == 0, "its end")
        with Wire(running.address) as wire:
            wire.request("/next")
            eventually(lambda: running.stats()["opened"] == 2, "another request")
            running.call(lambda _: begin.set())
            assert wire.answer().body == b"ok"

    def test_after_the_loop_was_left(self, listen: Listen) -> None:
        left, again = asyncio.Event(), asyncio.Event()

        async def program(server: NativeHttpServer) -> None:
            async for request in server:
                await request.response.close()
                break
            left.set()
            await again.wait()
            await server.serve(ok)

        running = listen(program)
        with Wire(running.address) as wire:
            assert wire.get().status == 200
            eventually(left.is_set, "the end of the loop")
            assert wire.get().status == 503
            assert wire.get().status == 503
            running.call(lambda _: again.set())
            eventually(lambda: wire.get().status == 200, "somebody who takes requests again")

    def test_what_waits_when_the_loop_is_left(self, listen: Listen) -> None:
        async def program(server: NativeHttpServer) -> None:
            async for request in server:
                # Two more wait behind this one.
                while server.stats()["opened"] < 3:
                    await asyncio.sleep(0.001)
                await request.response.close()
                break

        running = listen(program)
        wires = [Wire(running.address) for _ in range(3)]
        for wire in wires:
            wire.request()
        assert sorted(wire.answer().status for wire in wires) == [200, 503, 503]
        for wire in wires:
            wire.socket.close()

    @pytest.mark.parametrize("flushed", [False, True])
    def test_a_request_that_is_dropped(self, listen: Listen, serve: Serve, flushed: bool) -> None:
        async def program(server: NativeHttpServer) -> None:
            async for request in server:
                if flushed:
                    request.response.write("begun")
                    await request.response.flush()
                del request

        with Wire(listen(program).address) as wire:
            if flushed:
                wire.request("/dropped")
                assert wire.ended_abruptly()
            else:
                assert [wire.get("/dropped").status for _ in range(2)] == [500, 500]
        texts = serve.logged()
        assert len(texts) == (1 if flushed else 2)
        assert "/dropped" in texts[0]
        assert "close() it" in texts[0]

    def test_garbage_may_be_collected_by_any_thread(self, listen: Listen, serve: Serve) -> None:
        kept: list[HttpRequest] = []

        async def program(server: NativeHttpServer) -> None:
            async for request in server:
                kept.append(request)
                del request

        with Wire(listen(program).address) as wire:
            wire.request()
            eventually(lambda: bool(kept), "the request")
            # In the thread of the test.
            kept.clear()
            gc.collect()
            assert wire.answer().status == 500
        assert len(serve.logged()) == 1

    def test_several_loops_share_the_requests(self, listen: Listen) -> None:
        taken: set[int] = set()
        both = asyncio.Event()

        async def program(server: NativeHttpServer) -> None:
            async def take(number: int) -> None:
                async for request in server:
                    taken.add(number)
                    if len(taken) == 2:
                        both.set()
                    await both.wait()
                    await request.response.close()

            await asyncio.gather(take(1), take(2))

        running = listen(program)
        with Wire(running.address) as one, Wire(running.address) as other:
            one.request()
            other.request()
            assert [one.answer().status, other.answer().status] == [200, 200]


class TestConnections:
    def test_they_are_counted(self, listen: Listen) -> None:
        proceed = asyncio.Event()

        async def handler(request: HttpRequest) -> None:
            if request.uri == "/wait":
                await proceed.wait()

        running = listen(answering(handler))

        def info() -> ConnectionsInfo:
            return running.call(NativeHttpServer.connections_info)

        assert info() == ConnectionsInfo(0, 0, 0, 0)
        with Wire(running.address) as idle, Wire(running.address) as active:
            idle.get()
            active.request("/wait")
            eventually(lambda: info() == ConnectionsInfo(2, 1, 1, 0), "one active, one idle")
            running.call(lambda _: proceed.set())
            active.answer()
            eventually(lambda: info() == ConnectionsInfo(2, 0, 2, 0), "both idle")
        eventually(lambda: info() == ConnectionsInfo(0, 0, 0, 0), "none")

    def test_one_of_http2_with_several_requests_is_one(self, listen: Listen) -> None:
        proceed = asyncio.Event()

        async def handler(request: HttpRequest) -> None:
            await proceed.wait()

        running = listen(answering(handler))

        def info() -> ConnectionsInfo:
            return running.call(NativeHttpServer.connections_info)

        with H2(running.address) as active, H2(running.address), Wire(running.address):
            streams = [active.open() for _ in range(3)]
            eventually(lambda: running.stats()["streams"] == 3, "three requests")
            assert info() == ConnectionsInfo(3, 1, 2, 0)
            running.call(lambda _: proceed.set())
            for stream in streams:
                active.answer(stream)
            eventually(lambda: info() == ConnectionsInfo(3, 0, 3, 0), "all idle")

    def test_over_http2_the_two_ends_are_known(self, listen: Listen) -> None:
        seen: list[ConnectionInfo] = []

        async def handler(request: HttpRequest) -> None:
            seen.append(request.connection_info)

        running = listen(answering(handler))
        with H2(running.address) as client:
            client.request()
            assert seen == [ConnectionInfo(client.socket.getsockname(), running.address)]

    def test_one_that_stays_idle_is_closed(self, listen: Listen) -> None:
        with Wire(listen(answering(ok), idle_timeout=0.05).address) as wire:
            assert wire.get().status == 200
            assert wire.rest() == b""


class TestClosing:
    def test_gracefully(self, listen: Listen) -> None:
        begun, proceed = asyncio.Event(), asyncio.Event()
        ended: list[str] = []

        async def handler(request: HttpRequest) -> None:
            begun.set()
            await proceed.wait()
            request.response.write("whole")

        async def program(server: NativeHttpServer) -> None:
            await server.serve(handler)
            ended.append("serve")
            await server.close()
            ended.append("close")

        running = listen(program)
        with Wire(running.address) as active, Wire(running.address) as idle:
            idle.send(b"GET / HT")
            active.request()
            eventually(begun.is_set, "the request")
            running.call(lambda server: server.close(grace=30.0))
            assert running.call(NativeHttpServer.connections_info).active == 1
            # Native threads close the listener.
            eventually(lambda: refused(running.address), "an end of accepting")
            running.call(lambda _: proceed.set())
            answer = active.answer()
            assert (answer.body, answer.header("connection")) == (b"whole", "close")
        eventually(lambda: ended == ["serve", "close"], "the end")

    def test_a_request_that_comes_while_it_closes(self, listen: Listen) -> None:
        begun = asyncio.Event()

        async def handler(request: HttpRequest) -> None:
            begun.set()
            await asyncio.Event().wait()

        running = listen(answering(handler))
        with Wire(running.address) as active, Wire(running.address) as other:
            active.request()
            # A short body is waited for before anybody hears of the request.
            other.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nx")
            eventually(begun.is_set, "the request")
            eventually(lambda: running.stats()["connections"] == 2, "both connections")
            running.call(lambda server: server.close(grace=30.0))
            other.send(b"y")
            answer = other.answer()
            assert (answer.status, answer.header("connection")) == (503, "close")

    @pytest.mark.parametrize("active", [False, True])
    def test_by_force(self, listen: Listen, active: bool) -> None:
        begun, closed = asyncio.Event(), asyncio.Event()
        cancelled = asyncio.Event()

        async def handler(request: HttpRequest) -> None:
            if request.uri == "/stuck":
                begun.set()
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    cancelled.set()
                    raise

        async def program(server: NativeHttpServer) -> None:
            await server.serve(handler)
            await server.close(force=True)
            closed.set()

        running: HttpRunning = listen(program, grace=60.0)
        with Wire(running.address) as wire:
            assert wire.get().status == 200
            if active:
                wire.request("/stuck")
                eventually(begun.is_set, "the request")
            running.call(lambda server: server.close(force=True))
            assert wire.ended_abruptly() or not wire.has_input
            eventually(closed.is_set, "the end, long before its grace")
            assert cancelled.is_set() is active

    def test_a_shutdown_signal_ends_the_loop(self, listen: Listen) -> None:
        async def main() -> None:
            stop = asyncio.Event()
            async with NativeHttpServer.bind(shutdown_signal=stop) as server:
                client = asyncio.create_task(fetch(server))
                async for request in server:
                    await request.response.close()
                    stop.set()
                assert b"200 OK" in await client
                await server.close()

        asyncio.run(main())

    def test_requests_that_wait_get_503(self, listen: Listen) -> None:
        async def program(server: NativeHttpServer) -> None:
            while server.stats()["opened"] < 1:
                await asyncio.sleep(0.001)
            server.close()

        with Wire(listen(program).address) as wire:
            assert wire.get().status == 503
