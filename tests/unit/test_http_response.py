"""Responses of the HttpServer style against an engine of the test's own: what is counted, what is sent when."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from server_native import (
    ClientDisconnected,
    ConfigurationError,
    ContentLengthError,
    HttpResponse,
    NativeDirectRequest,
    NativeDirectResponse,
    ResponseHeaders,
)
from server_native._ffi import Protocol
from server_native._outlet import Outlet
from server_native.http_response import ResponseDefaults
from server_native.sessions import SessionSlot, SessionStore
from tests.unit.fakes import peer


class Engine:
    """Waits for a response as the engine does, and keeps what it was given."""

    def __init__(
        self, method: str = "GET", fields: bytes = b"", limit: int = 1000, **defaults: Any
    ) -> None:
        loop = asyncio.get_running_loop()
        line = f"{method}\0/p\0http\0test".encode()
        flags = int(Protocol.HTTP11)
        direct = NativeDirectRequest(1, peer(), flags, line, fields, b"", None)
        self.outlet = Outlet(loop, limit)
        slot = SessionSlot(SessionStore(loop, 10.0, 10), "id", [])
        values = ResponseDefaults(**{"headers": ResponseHeaders(), **defaults})
        self.response = HttpResponse(direct, self.outlet, values, slot, persistent=True)
        #: Of a streamed body, when it was taken.
        self.pieces: list[bytes] = []
        self.whole = False
        self.head: NativeDirectResponse | None = None
        #: Cleared, the client takes nothing.
        self.takes = asyncio.Event()
        self.takes.set()
        self.task = asyncio.create_task(self._serve())

    async def _serve(self) -> None:
        self.head = head = await self.outlet.response()
        assert head is not None
        if head.source is None:
            self.whole = True
            self.pieces.append(head.payload)
            return
        try:
            async for piece in cast("Outlet", head.source):
                await self.takes.wait()
                self.pieces.append(piece)
            self.whole = True
        finally:
            await self.outlet.aclose()

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def headers(self) -> dict[str, str]:
        assert self.head is not None
        parts = self.head.fields.decode().split("\0") if self.head.fields else []
        return dict(zip(parts[::2], parts[1::2], strict=True))


def run(main: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(cast("Any", main()))


class TestAccounting:
    """``content_length`` and what was written."""

    @pytest.mark.parametrize("flushed", [False, True])
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    @pytest.mark.parametrize("status", [200, 204, 205, 304, 404])
    @pytest.mark.parametrize("announced", [-1, 0, 4, 5, 6])
    def test_a_table(self, announced: int, status: int, method: str, flushed: bool) -> None:
        async def main() -> None:
            engine = Engine(method)
            response = engine.response
            response.status_code = status
            response.content_length = announced
            if flushed:
                await response.flush()
            response.write("he")
            response.write("llo")
            counted = method == "GET" and status in {200, 404}
            if counted and announced in {0, 4, 6}:
                with pytest.raises(ContentLengthError, match=f"set to {announced}, found "):
                    await response.close()
                await asyncio.wait([engine.task])
                assert not engine.whole or engine.head.status == 500  # type: ignore[union-attr]
            else:
                await response.close()
                await response.done
                await engine.task
                assert engine.whole
                assert engine.body == (b"hello" if counted else b"")

        run(main)

    def test_it_can_be_taken_back(self) -> None:
        async def main() -> None:
            engine = Engine()
            engine.response.content_length = 3
            engine.response.content_length = -1
            assert engine.response.content_length == -1
            for wrong in (-2, True, 1.0, "3"):
                with pytest.raises(ConfigurationError, match="content_length"):
                    engine.response.content_length = wrong  # type: ignore[assignment]
            await engine.response.close()

        run(main)

    def test_too_much_ends_it_where_it_is_noticed(self) -> None:
        async def main() -> None:
            engine = Engine()
            engine.response.content_length = 3
            await engine.response.flush()
            engine.response.write("abcd")
            engine.response.write("dropped")
            with pytest.raises(ContentLengthError):
                await engine.response.flush()
            with pytest.raises(asyncio.CancelledError):
                await engine.task
            assert engine.body == b""

        run(main)


class TestSending:
    def test_a_short_one_goes_in_one_piece(self) -> None:
        async def main() -> None:
            engine = Engine()
            engine.response.write("a")
            engine.response.write("b")
            assert engine.head is None
            await engine.response.close()
            assert engine.head is not None
            assert (engine.head.source, engine.head.payload) == (None, b"ab")

        run(main)

    def test_small_pieces_are_sent_together(self) -> None:
        async def main() -> None:
            engine = Engine(limit=10**9)
            await engine.response.flush()
            for _ in range(1000):
                engine.response.add(b"x" * 100)
            await engine.response.close()
            assert [len(piece) for piece in engine.pieces] == [65_600, 34_400]

        run(main)

    def test_flush_waits_for_the_client(self) -> None:
        async def main() -> None:
            engine = Engine()
            engine.takes.clear()
            engine.response.write("x")
            flushing = asyncio.ensure_future(engine.response.flush())
            for _ in range(10):
                await asyncio.sleep(0)
            assert not flushing.done()
            engine.takes.set()
            await flushing
            assert engine.body == b"x"
            await engine.response.close()

        run(main)

    def test_the_client_goes(self) -> None:
        async def main() -> None:
            engine = Engine()
            engine.takes.clear()
            engine.response.write("x" * 10_000)
            flushing = asyncio.ensure_future(engine.response.flush())
            for _ in range(10):
                await asyncio.sleep(0)
            engine.task.cancel()
            with pytest.raises(ClientDisconnected):
                await flushing
            engine.response.write("dropped")
            await engine.response.close()
            with pytest.raises(ClientDisconnected):
                await engine.response.done

        run(main)

    @pytest.mark.parametrize("begun", [False, True])
    def test_dropped(self, begun: bool, caplog: pytest.LogCaptureFixture) -> None:
        async def main() -> None:
            engine = Engine()
            if begun:
                await engine.response.flush()
            del engine.response
            await asyncio.wait([engine.task])
            if begun:
                assert engine.task.cancelled()
            else:
                assert engine.head is not None
                assert engine.head.status == 500

        with caplog.at_level(logging.ERROR, "server_native"):
            run(main)
        assert "GET /p HTTP/1.1> was dropped unfinished" in caplog.text


class TestHead:
    def test_what_it_is_made_of(self) -> None:
        async def main() -> None:
            headers = ResponseHeaders({"a": "1"})
            engine = Engine(headers=headers, server_header="s")
            response = engine.response
            response.headers["b"] = "2"
            response.cookies.add("c", "3")
            response.persistent_connection = False
            response.status_code = 404
            assert repr(response) == "<HttpResponse 404 open>"
            await response.close()
            assert repr(response) == "<HttpResponse 404 closed>"
            assert engine.headers == {
                "a": "1",
                "b": "2",
                "server": "s",
                "connection": "close",
                "set-cookie": "c=3",
            }
            assert dict(headers) == {"a": "1"}, "the server's own stay as they are"

        run(main)

    @pytest.mark.parametrize("status", [101, 199, 1000, True, "200", None])
    def test_a_status_that_is_none(self, status: Any) -> None:
        async def main() -> None:
            engine = Engine()
            with pytest.raises(ConfigurationError, match="200 to 999"):
                engine.response.status_code = status
            await engine.response.close()

        run(main)

    @pytest.mark.parametrize(
        ("kind", "shown", "charset"),
        [
            (None, None, "iso-8859-1"),
            ("text/html", "text/html; charset=utf-8", "utf-8"),
            ("text/html;charset=Latin-1", "text/html;charset=Latin-1", "Latin-1"),
            ('text/x; a=b; CHARSET = "utf-16"', 'text/x; a=b; CHARSET = "utf-16"', "utf-16"),
            ("application/json", "application/json", "utf-8"),
            ("application/problem+json; v=1", "application/problem+json; v=1", "utf-8"),
            ("image/png", "image/png", "iso-8859-1"),
        ],
    )
    def test_charsets(self, kind: str | None, shown: str | None, charset: str) -> None:
        async def main() -> None:
            engine = Engine()
            response = engine.response
            response.content_type = kind
            assert (response.content_type, response.charset) == (shown, charset)
            await response.close()

        run(main)

    def test_a_charset_of_ones_own(self) -> None:
        async def main() -> None:
            engine = Engine()
            response = engine.response
            with pytest.raises(ConfigurationError, match="content_type before"):
                response.charset = "utf-8"
            response.content_type = "text/plain; charset=utf-8; a=b"
            response.charset = "iso-8859-1"
            assert response.content_type == "text/plain; a=b; charset=iso-8859-1"
            for unknown in ("klingon", "hex", ""):
                response.headers["content-type"] = f"text/plain; charset={unknown}"
                with pytest.raises(ConfigurationError, match="one Python can encode"):
                    response.write("x")
            await response.close()

        run(main)
