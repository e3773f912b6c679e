"""Asynchronous handlers: each in an asyncio task once it waits (``_workers``), cancelled when its client has gone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterable, Callable
from typing import cast

from ._dispatch import Left, Peer, Pump, finish
from ._ffi import FLAG_END, FLAG_EXPECT, FLAG_TEXT, Reason
from ._lifecycle import StopNow
from ._sites import (
    CANCELLED,
    FAILED,
    UNCLOSED,
    Handler,
    HandlerSite,
    close_source,
    encode_trailers,
    framed,
    parted,
    refused,
)
from ._streams import LoopInflow, LoopOutflow, disconnected
from ._workers import Job, Workers
from .config import ServerConfig
from .detached import DetachedSocket
from .errors import ClientDisconnected, HandshakeError
from .http import NativeDirectRequest, NativeDirectResponse, as_response
from .websocket import WebSocket

__all__ = ["TaskSite"]

log = logging.getLogger("server_native")

_TOO_LATE = NativeDirectResponse.text(
    "Service Unavailable: the handler took too long\n", status=503
)
_STOPPED = NativeDirectResponse.text("Service Unavailable: the server is stopping\n", status=503)


class TaskSite(HandlerSite):
    """Asynchronous handlers: at most one asyncio task for each request."""

    def __init__(
        self,
        pump: Pump,
        handler: Handler,
        config: ServerConfig,
        stop: Callable[[], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(pump, handler, config, stop)
        self._loop = loop
        self._workers = Workers(loop, self._serve)
        self._timeout = config.handler_timeout

    def tasks(self) -> list[asyncio.Task[None]]:
        """Handlers that have not ended."""
        jobs = [sink for sink in self._pump.streams.values() if isinstance(sink, _Tasked)]
        parted = [sink.job for sink in self._pump.streams.values() if isinstance(sink, _Parted)]
        return [job.task for job in (*jobs, *parted) if job.task is not None]

    def opened(
        self,
        stream: int,
        peer: Peer,
        flags: int,
        arena: bytes,
        line: int,
        fields: int,
        body: int,
        end: int,
    ) -> None:
        pump, payload = self._pump, arena[body:end]
        inflow = None
        if not flags & FLAG_END:
            expects = bool(flags & FLAG_EXPECT)
            inflow = LoopInflow(
                stream, pump.outbox, payload, self._receive_window, expects, pump.ready.append
            )
        request = NativeDirectRequest(
            stream, peer, flags, arena[line:fields], arena[fields:body], payload, inflow
        )
        pump.streams[stream] = job = _Tasked(request)
        self._workers.add(job)

    def give_up(self, request: NativeDirectRequest) -> None:
        """The server stops before the handler was begun: the client learns that nothing was done."""
        if self._pump.streams.pop(request.stream, None) is not None:
            self._pump.outbox.head(request.stream, 503, _STOPPED.fields, _STOPPED.payload, True)

    def accept_websocket(
        self, request: NativeDirectRequest, fields: bytes, subprotocol: str | None
    ) -> object:
        """Messages from now on."""
        outbox = self._pump.outbox
        websocket = WebSocket(
            request,
            outbox,
            subprotocol,
            self._receive_window,
            self._message_window,
            self._pump.ready.append,
        )
        self._part(request, websocket)
        outbox.upgrade(request.stream, 101, fields, FLAG_TEXT, self._message_window)
        return websocket

    def detach(self, request: NativeDirectRequest, status: int, fields: bytes) -> object:
        """Bytes from now on."""
        outbox, stream, ready = self._pump.outbox, request.stream, self._pump.ready.append
        inflow = request._inflow
        if inflow is None:
            inflow = LoopInflow(
                stream, outbox, request._payload, self._receive_window, False, ready
            )
            inflow.end(b"")
            if request._taken:
                inflow.forget()
        socket = DetachedSocket(request, inflow, LoopOutflow(stream, outbox, self._window, ready))
        self._part(request, socket)
        inflow.reopen()
        outbox.upgrade(stream, status, fields, 0, 0)
        return socket

    def _part(self, request: NativeDirectRequest, left: Left) -> None:
        sink = self._pump.streams.get(request.stream)
        if request._left is not None:
            raise RuntimeError("the connection of this request was taken over already")
        if not isinstance(sink, _Tasked):
            raise disconnected(Reason.GONE)
        request._left = left
        self._pump.streams[request.stream] = _Parted(request, sink, left)

    async def _serve(self, job: _Tasked) -> None:
        request = job.request
        pump, stream = self._pump, request.stream
        try:
            if self._timeout is None:
                response = await self._handler(request)
            else:
                response = await self._bounded(request)
            if request._left is not None:
                parted(request, response)
                self._over(request, 1000)
                return
            if type(response) is not NativeDirectResponse:
                response = as_response(response)
        except asyncio.CancelledError:
            # The client has gone or the server stops; or the handler cancelled itself, and then somebody waits.
            if pump.streams.pop(stream, None) is not None and not pump.closed:
                self._refuse(request)
            raise
        except ClientDisconnected:
            self._over(request, 1000)
            return
        except HandshakeError as error:
            response = refused(request, error)
        except Exception:
            log.exception("the handler failed on %r", request)
            response = FAILED
        except StopNow:
            raise
        except BaseException as error:  # noqa: BLE001 - kept in `raised`, raised again by the server
            self._exits(error)
            response = FAILED
        if request._left is not None:
            self._over(request, 1011)
            return
        if response.source is None:
            if pump.streams.pop(stream, None) is not None:
                pump.outbox.head(stream, response.status, response.fields, response.payload, True)
        elif stream in pump.streams:
            await self._stream(request, response)

    def _over(self, request: NativeDirectRequest, code: int) -> None:
        self._pump.streams.pop(request.stream, None)
        if request._left is not None and not self._pump.closed:
            finish(request, code)

    def _refuse(self, request: NativeDirectRequest) -> None:
        outbox = self._pump.outbox
        if request._left is not None:
            finish(request, 1011)
        elif request.disconnected:
            outbox.reset(request.stream, CANCELLED)
        else:
            outbox.head(request.stream, 500, FAILED.fields, FAILED.payload, True)

    async def _bounded(self, request: NativeDirectRequest) -> object:
        task, late = asyncio.current_task(), False

        def expire() -> None:
            nonlocal late
            # What has left HTTP takes as long as it takes.
            late = request._left is None
            if late and task is not None:
                task.cancel()

        timer = self._loop.call_later(self._timeout or 0.0, expire)
        try:
            return await self._handler(request)
        except asyncio.CancelledError:
            if not late:
                raise
            if task is not None and hasattr(task, "uncancel"):
                task.uncancel()
            log.warning("the handler took longer than %s s on %r", self._timeout, request)
            return _TOO_LATE
        finally:
            timer.cancel()

    async def _stream(self, request: NativeDirectRequest, response: NativeDirectResponse) -> None:
        pump, stream = self._pump, request.stream
        flow = LoopOutflow(stream, pump.outbox, self._window, pump.ready.append)
        cast("_Tasked", pump.streams[stream]).outflow = flow
        source = response.source
        response = framed(request, response)
        try:
            if response.source is None:
                if pump.streams.pop(stream, None) is not None:
                    pump.outbox.head(stream, response.status, response.fields, b"", True)
                return
            pump.outbox.head(stream, response.status, response.fields, b"", False)
            if isinstance(source, AsyncIterable):
                async for chunk in source:
                    if not flow.offer(chunk):
                        await flow.write(chunk)
            elif source is not None:
                for chunk in source:
                    if not flow.offer(chunk):
                        await flow.write(chunk)
            trailers = encode_trailers(response.trailers)
            if pump.streams.pop(stream, None) is not None:
                flow.say()
                pump.outbox.end(stream, trailers)
        except ClientDisconnected:
            pump.streams.pop(stream, None)
        except BaseException as error:
            if pump.streams.pop(stream, None) is not None and not pump.closed:
                pump.outbox.reset(stream, CANCELLED)
            if isinstance(error, (asyncio.CancelledError, StopNow)):
                raise
            if not isinstance(error, Exception):
                self._exits(error)
            else:
                log.exception("the body of %r failed; the stream is reset", request)
        finally:
            closer = getattr(source, "aclose", None)
            if closer is None:
                close_source(source)
            else:
                try:
                    await closer()
                except Exception:
                    log.exception(UNCLOSED)


class _Tasked(Job):
    """A request answered by a task: a reset cancels it."""

    __slots__ = ("outflow", "request")

    #: Set when the response is streamed.
    outflow: LoopOutflow

    def __init__(self, request: NativeDirectRequest) -> None:
        # What `Job` does: a call would cost as much as the rest.
        self.task = None
        self.over = False
        self.request = request

    def on_data(self, data: bytes, flags: int) -> None:
        if self.request._inflow is not None:
            self.request._inflow.feed(data, bool(flags & FLAG_END))

    def on_end(self, trailers: bytes, code: int) -> None:  # noqa: ARG002 - messages end with one
        if self.request._inflow is not None:
            self.request._inflow.end(trailers)

    def on_reset(self, reason: int) -> None:
        self.request._disconnected = True
        if self.request._inflow is not None:
            self.request._inflow.fail(reason)
        if hasattr(self, "outflow"):
            self.outflow.fail(reason)
        self.cancel()
        # A cancelled task holds its exception, that the frames, and one of them this.
        self.task = None

    def on_writable(self, size: int) -> None:
        if hasattr(self, "outflow"):
            self.outflow.writable(size)

    def on_pong(self, data: bytes) -> None:
        """Only message streams have pongs."""

    def on_drain(self) -> None:
        self.request._disconnected = True
        if not self.cancel():
            cast("TaskSite", self.request._peer.site).give_up(self.request)


class _Parted:
    """The same once it has left HTTP: what comes goes straight to whom it is for."""

    __slots__ = ("job", "left", "on_data", "on_end", "on_pong", "on_writable", "request")

    def __init__(self, request: NativeDirectRequest, job: Job, left: Left) -> None:
        self.request = request
        self.job = job
        self.left = left
        self.on_data = left._on_data
        self.on_end = left._on_end
        self.on_pong = left._on_pong
        self.on_writable = left._on_writable

    def on_reset(self, reason: int) -> None:
        self.request._disconnected = True
        # Reading and writing say so; a WebSocket's handler may have more to do than its client waits for.
        self.left._on_reset(reason)

    def on_drain(self) -> None:
        self.request._disconnected = True
        self.left._on_drain()
        self.job.cancel()
