"""Servers for tests: each runs in a thread of its own, in one of the ways the product has, and is closed at the end.

A test that must hold however a server is driven takes the ``mode`` fixture and writes its handler once, as a
plain function of request and body; :meth:`Mode.adapt` makes of it what the mode needs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import uvloop

import server_native
from server_native import NativeDirectRequest, NativeServer
from tests.integration.clients import eventually

__all__ = ["MODES", "Mode", "Running", "Serve"]

#: A handler of a test that runs in every mode: the body has been read for it.
Written = Callable[[NativeDirectRequest, bytes], Any]

#: Seconds after which a test gives up; nothing here takes that long.
PATIENCE = 10.0


@dataclass(frozen=True)
class Mode:
    """One way to run a server."""

    name: str
    asynchronous: bool = False
    #: "blocking" is ``serve_native_direct``; otherwise the loop that ``start_native_direct`` runs in.
    host: str = "blocking"
    options: dict[str, Any] = field(default_factory=dict, hash=False)

    def adapt(self, written: Written) -> Callable[[NativeDirectRequest], Any]:
        """The handler as this mode wants it."""
        if self.asynchronous:

            async def handle(request: NativeDirectRequest) -> Any:
                return written(request, await request.read())

            return handle
        return lambda request: written(request, request.body)

    def __str__(self) -> str:
        return self.name


MODES = (
    Mode("inline-driven", options={"io_threads": 0}),
    Mode("inline-1-io-thread", options={"io_threads": 1}),
    Mode("inline-2-io-threads", options={"io_threads": 2}),
    Mode("pool", options={"threads": 2}),
    Mode("pool-driven", options={"threads": 2, "io_threads": 0}),
    Mode("task-driven", asynchronous=True, options={"io_threads": 0}),
    Mode("task-1-io-thread", asynchronous=True, options={"io_threads": 1}),
    Mode("task-in-asyncio", asynchronous=True, host="asyncio"),
    Mode("task-in-our-loop", asynchronous=True, host="native"),
    Mode("task-in-uvloop", asynchronous=True, host="uvloop"),
    Mode("inline-in-asyncio", host="asyncio"),
    Mode("inline-in-our-loop", host="native"),
    Mode("pool-in-asyncio", host="asyncio", options={"threads": 2}),
)

_LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.SelectorEventLoop,
    "native": server_native.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


def _entry(verb: str, options: dict[str, Any]) -> Callable[..., Any]:
    """The function of the product that serves with these options: certificates make it the secure one."""
    secure = "secure_" if options.keys() & {"certificate_path", "certificates"} else ""
    entry: Callable[..., Any] = getattr(server_native, f"{verb}_{secure}native_direct")
    return entry


class Running:
    """A server in its thread."""

    def __init__(
        self, handler: Callable[[NativeDirectRequest], Any], host: str, options: dict[str, Any]
    ) -> None:
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._server: NativeServer | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._leave: asyncio.Event | None = None
        options = {"port": 0, "grace": 0.2, **options}
        target = self._block if host == "blocking" else self._embed
        arguments = (handler, options) if host == "blocking" else (handler, options, _LOOPS[host])
        self.thread = threading.Thread(
            target=self._run, args=(target, arguments), name="server under test"
        )
        self.thread.start()
        if not self._ready.wait(PATIENCE):
            raise TimeoutError("the server did not start")
        if self._server is None:
            self.join()
            raise AssertionError("the server ended before it was ready")

    @property
    def server(self) -> NativeServer:
        assert self._server is not None
        return self._server

    @property
    def address(self) -> tuple[str, int]:
        host, _ = self.server.addresses[0]
        return host, self.server.port

    @property
    def url(self) -> str:
        return self.server.url

    def stats(self) -> dict[str, int]:
        return self.server.stats()

    def close(self, grace: float | None = None) -> None:
        """Begins to stop, as a thread of the application may."""
        self.server.close(grace=grace)
        if self._loop is not None and self._leave is not None:
            # It may be over, and the loop closed.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._leave.set)

    def join(self) -> None:
        """Waits for the end; what ended the thread is raised here."""
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive(), "the server did not stop"
        if self._failure is not None:
            raise self._failure

    def _run(self, target: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        try:
            target(*arguments)
        except BaseException as error:  # noqa: BLE001 - raised again in `join`
            self._failure = error
        finally:
            self._ready.set()

    def _announce(self, server: NativeServer) -> None:
        self._server = server
        self._ready.set()

    def _block(self, handler: Any, options: dict[str, Any]) -> None:
        _entry("serve", options)(handler, on_ready=self._announce, **options)

    def _embed(
        self,
        handler: Any,
        options: dict[str, Any],
        factory: Callable[[], asyncio.AbstractEventLoop],
    ) -> None:
        async def main() -> None:
            self._leave = asyncio.Event()
            async with _entry("start", options)(handler, **options) as server:
                self._announce(server)
                await self._leave.wait()

        loop = self._loop = factory()
        try:
            loop.run_until_complete(main())
        finally:
            loop.close()


class _Collector(logging.Handler):
    def __init__(self, records: list[logging.LogRecord]) -> None:
        super().__init__(logging.WARNING)
        self._records = records

    def emit(self, record: logging.LogRecord) -> None:
        self._records.append(record)


class Serve:
    """Starts servers for one test, closes them after it, and holds the test to what the servers logged.

    Every warning or error of the product must be taken with :meth:`logged`; one that is left fails the test.
    """

    def __init__(self) -> None:
        self._running: list[Running] = []
        self._records: list[logging.LogRecord] = []
        self._collector = _Collector(self._records)
        logging.getLogger("server_native").addHandler(self._collector)

    def __call__(
        self, handler: Callable[..., Any], mode: Mode | None = None, **options: Any
    ) -> Running:
        """Runs ``handler``; with a mode it is a function of request and body, without one it is served as it is."""
        if mode is None:
            running = Running(handler, "blocking", options)
        else:
            running = Running(mode.adapt(handler), mode.host, {**mode.options, **options})
        self._running.append(running)
        return running

    def as_it_is(
        self, handler: Callable[[NativeDirectRequest], Any], mode: Mode, **options: Any
    ) -> Running:
        """Runs a handler that is what the mode needs already."""
        running = Running(handler, mode.host, {**mode.options, **options})
        self._running.append(running)
        return running

    def embedded(
        self, handler: Callable[[NativeDirectRequest], Any], loop: str, **options: Any
    ) -> Running:
        """Runs ``handler`` as it is inside a loop of this kind."""
        running = Running(handler, loop, options)
        self._running.append(running)
        return running

    def logged(self, expected: int = 0) -> list[str]:
        """What was logged since the last call, with tracebacks; waits for ``expected`` entries."""
        if expected:
            eventually(lambda: len(self._records) >= expected, f"{expected} log entries")
        formatter = logging.Formatter()
        texts = [formatter.format(record) for record in self._records]
        self._records.clear()
        return texts

    def end(self) -> None:
        """Closes everything."""
        try:
            for running in self._running:
                running.close(0.0)
            for running in self._running:
                running.join()
        finally:
            logging.getLogger("server_native").removeHandler(self._collector)
        assert self.logged() == []
