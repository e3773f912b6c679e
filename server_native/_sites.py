"""How handlers are run: inline, on a pool, or as asyncio tasks. Each is a :class:`~server_native._dispatch.Site`.

Failures end here: an exception is logged once with its traceback and answered with 500, or with an abrupt end
when the head has gone already. What the client does reaches the handler as cancellation,
``request.disconnected`` or ``ClientDisconnected``.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterable, Callable, Iterable, Iterator
from time import monotonic
from typing import Any

from ._dispatch import Left, Peer, Pump, finish
from ._ffi import FLAG_END, FLAG_EXPECT, FLAG_TEXT, FLAG_UPGRADE, Reason
from ._lifecycle import StopNow
from ._outbox import CHUNK, PatientOutbox
from ._pool import Pool
from ._streams import Inflow, Outflow, ThreadInflow, ThreadOutflow, disconnected
from .config import ServerConfig
from .detached import ThreadDetachedSocket
from .errors import (
    ClientDisconnected,
    ConfigurationError,
    ForkedError,
    HandshakeError,
    StoppingError,
)
from .headers import encode_fields
from .http import NativeDirectRequest, NativeDirectResponse, Trailers, as_response
from .websocket import ThreadWebSocket

__all__ = ["InlineSite"]

log = logging.getLogger("server_native")

FAILED = NativeDirectResponse.text("Internal Server Error\n", status=500)
_CROWDED = NativeDirectResponse.text(
    "Service Unavailable: too many requests wait for a thread\n", status=503
)
_PARTED = NativeDirectResponse.bytes()
_WAITS = FLAG_END | FLAG_UPGRADE
_NOT_HERE = "a plain handler cannot stream an asynchronous iterable (%r)"
#: What no iterable of bytes yields, for its end.
_OVER: Any = object()
#: Statuses that never have a body (RFC 9110 sections 6.4.1 and 15.3.6).
_BODILESS = frozenset((204, 205, 304))
UNCLOSED = "the generator of a response body failed when it was closed"
CANCELLED, _STOPPING = Reason.CANCELLED, int(Reason.STOPPING)

Handler = Callable[[NativeDirectRequest], Any]


class HandlerSite:
    """What all ways have in common."""

    def __init__(
        self, pump: Pump, handler: Handler, config: ServerConfig, stop: Callable[[], None]
    ) -> None:
        self._pump = pump
        self._handler = handler
        self._window = config.limits.send_window
        self._receive_window = config.limits.receive_window
        self._message_window = config.limits.ws_write_bytes
        self._stop = stop
        self._pool = Pool(config.threads, config.websocket_threads, config.max_waiting_requests)
        #: What a handler raised that must end the server: SystemExit, KeyboardInterrupt and their like.
        self.raised: BaseException | None = None

    @property
    def busy(self) -> int:
        """Handlers that run on the pool."""
        return self._pool.busy

    def figures(self) -> dict[str, int]:
        """What `stats` of the server tells beside the native side's figures."""
        pool = self._pool
        return {
            "busy_threads": pool.busy,
            "websocket_threads": pool.lent,
            "waiting_requests": pool.waiting,
            "limited_websocket_threads": pool.refused_loans,
            "limited_max_waiting_requests": pool.refused_jobs,
        }

    def inform(self, stream: int, status: int, fields: bytes) -> None:
        """Sends an interim response now, from any thread."""
        outbox = PatientOutbox(self._pump.runtime)
        outbox.inform(stream, status, fields)
        outbox.flush()

    def accept_websocket(
        self, request: NativeDirectRequest, fields: bytes, subprotocol: str | None
    ) -> object:
        """For a handler on a pool thread: messages from now on."""
        sink = self._parting(request)
        outbox = sink.outflow.outbox
        websocket = ThreadWebSocket(
            request, outbox, subprotocol, self._receive_window, self._message_window
        )
        self._hand_over(request, sink, websocket)
        outbox.upgrade(request.stream, 101, fields, FLAG_TEXT, self._message_window)
        outbox.flush()
        return websocket

    def detach(self, request: NativeDirectRequest, status: int, fields: bytes) -> object:
        """For a handler on a pool thread: bytes from now on."""
        sink = self._parting(request)
        outflow, stream = sink.outflow, request.stream
        # One thread may read while another writes: each direction has an outbox of its own.
        outbox = PatientOutbox(self._pump.runtime)
        inflow = request._inflow
        if inflow is None:
            inflow = ThreadInflow(stream, outbox, request._payload, self._receive_window, False)
            inflow.end(b"")
            if request._taken:
                inflow.forget()
        inflow._outbox = outbox
        # Before UPGRADE goes: what the peer says after it may come at once.
        inflow.reopen()
        socket = ThreadDetachedSocket(request, inflow, outflow)
        self._hand_over(request, sink, socket)
        outflow.outbox.upgrade(stream, status, fields, 0, 0)
        outflow.outbox.flush()
        return socket

    @staticmethod
    def _hand_over(request: NativeDirectRequest, sink: _Sink, left: Left) -> None:
        request._left = sink.left = left
        if request._disconnected:
            # The pump's thread has told it while nobody listened.
            left._on_reset(Reason.GONE)

    def _parting(self, request: NativeDirectRequest) -> _Sink:
        """The sink of a request whose thread may stay with it for as long as its peer does."""
        sink = self._sink(request)
        if sink.thread is not None and not self._pool.lend(sink.thread):
            raise HandshakeError(
                503,
                "Service Unavailable: no thread is left for another connection that leaves HTTP",
            )
        return sink

    def _sink(self, request: NativeDirectRequest) -> _Sink:
        sink = self._pump.streams.get(request.stream)
        if request._left is not None:
            raise RuntimeError("the connection of this request was taken over already")
        if isinstance(sink, _Sink) and not request.disconnected:
            return sink
        if request.disconnected:
            raise disconnected(Reason.GONE)
        raise ConfigurationError(
            "this plain handler runs where events arrive and may not wait there: make it `async def`, or give "
            "threads=N"
        )

    def end(self, patience: float) -> None:
        """Ends the pool."""
        self._pool.close(patience)

    def _pooled(
        self, stream: int, peer: Peer, flags: int, line: bytes, fields: bytes, payload: bytes
    ) -> None:
        """Runs the handler on a pool thread; it reads what is still to come of the body there."""
        outbox = PatientOutbox(self._pump.runtime)
        inflow = None
        if not flags & FLAG_END:
            expects = bool(flags & FLAG_EXPECT)
            inflow = ThreadInflow(stream, outbox, payload, self._receive_window, expects)
        request = NativeDirectRequest(stream, peer, flags, line, fields, payload, inflow)
        flow = ThreadOutflow(stream, outbox, self._window)
        sink = _Sink(request, inflow, flow)
        self._pump.streams[stream] = sink
        if not self._pool.submit(lambda: self._work(request, sink, flow)):
            del self._pump.streams[stream]
            self._pump.outbox.head(stream, 503, _CROWDED.fields, _CROWDED.payload, True)

    def _work(self, request: NativeDirectRequest, sink: _Sink, flow: ThreadOutflow) -> None:
        """Runs the handler and sends its answer, on a thread of the pool.

        What it waits for has an end, besides the client's going away and the stop: for a body ``body_rate``, for room
        to write ``write_stall_ms``, for messages ``ws_ping_ms``, for room in the native queue the driver's next turn.
        Raw bytes of a protocol of the user's come when they come: that thread is lent (`websocket_threads`). How long
        the handler itself computes is nobody's to bound; the stop leaves it behind.
        """
        outbox = flow.outbox
        sink.thread = threading.current_thread()
        try:
            if request.disconnected:
                return
            answer = self._call(request)
            if request._left is not None:
                finish(request, 1011 if answer is FAILED else 1000)
                return
            response = framed(request, answer)
            source = response.source
            if isinstance(source, AsyncIterable):
                log.error(_NOT_HERE, request)
                outbox.head(request.stream, 500, FAILED.fields, FAILED.payload, True)
                return
            stream, whole = request.stream, source is None
            outbox.head(stream, response.status, response.fields, response.payload, whole)
            if source is not None:
                outbox.flush()
                for chunk in source:
                    flow.write(chunk)
                outbox.end(stream, encode_trailers(response.trailers))
        except (ClientDisconnected, StoppingError):
            # Nobody is there to answer.
            close_source(locals().get("source"))
        except Exception:
            log.exception("the body of %r failed; the stream is reset", request)
            outbox.reset(request.stream, CANCELLED)
        except BaseException as error:  # noqa: BLE001 - kept in `raised`, raised again by the server
            self._exits(error)
            outbox.reset(request.stream, CANCELLED)
        finally:
            try:
                # What has left HTTP has flushed under its own lock; the pump may be in there.
                if request._left is None:
                    outbox.flush()
            except Exception:
                # The server has stopped meanwhile: nobody is there to answer.
                log.debug("an answer came after the server had stopped", exc_info=True)
            self._pump.streams.pop(request.stream, None)

    def _call(self, request: NativeDirectRequest) -> NativeDirectResponse:
        """Runs a plain handler; whatever it does, there is a response."""
        try:
            result = self._handler(request)
            return as_response(result) if request._left is None else parted(request, result)
        except ClientDisconnected:
            if request._left is None:
                raise
            return _PARTED
        except HandshakeError as error:
            response = refused(request, error)
            return response if request._left is None else FAILED
        except Exception:
            log.exception("the handler failed on %r", request)
            return FAILED
        except BaseException as error:  # noqa: BLE001 - kept in `raised`, raised again by the server
            self._exits(error)
            return FAILED

    def _exits(self, error: BaseException) -> None:
        """sys.exit() in a handler: its client is answered, the server stops, then the exception goes on its way."""
        self.raised = self.raised or error
        try:
            self._stop()
        except ForkedError:
            # The handler forked, and this is the child: there is no server to stop here.
            raise error from None


class InlineSite(HandlerSite):
    """Plain handlers: in the pump's thread when the whole request is here, on the pool otherwise."""

    def __init__(
        self, pump: Pump, handler: Handler, config: ServerConfig, stop: Callable[[], None]
    ) -> None:
        super().__init__(pump, handler, config, stop)
        self._all_pooled = config.threads > 0

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
        # A body that is still to come, and what may leave HTTP, must be waited for: not here.
        if self._all_pooled or flags & _WAITS != FLAG_END:
            self._pooled(
                stream, peer, flags, arena[line:fields], arena[fields:body], arena[body:end]
            )
            return
        request = NativeDirectRequest(
            stream, peer, flags, arena[line:fields], arena[fields:body], arena[body:end], None
        )
        pump = self._pump
        try:
            response = self._handler(request)
            if type(response) is not NativeDirectResponse:
                response = as_response(response)
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
        if response.source is None:
            pump.outbox.head(stream, response.status, response.fields, response.payload, True)
        else:
            self._begin(request, response)
        pump.rest()

    def _begin(self, request: NativeDirectRequest, response: NativeDirectResponse) -> None:
        pump, stream = self._pump, request.stream
        response = framed(request, response)
        source = response.source
        if source is None:
            pump.outbox.head(stream, response.status, response.fields, b"", True)
            return
        if isinstance(source, AsyncIterable):
            log.error(_NOT_HERE, request)
            pump.outbox.head(stream, 500, FAILED.fields, FAILED.payload, True)
            return
        flow = Outflow(stream, pump.outbox, self._window)
        pump.outbox.head(stream, response.status, response.fields, b"", False)
        pulled = _Pulled(pump, request, flow, iter(source), response.trailers)
        pump.streams[stream] = pulled
        pump.ready.append(pulled.pull)


class _Sink:
    """Hands what a stream hears to the two flows of its request."""

    __slots__ = ("inflow", "left", "outflow", "request", "thread")

    def __init__(
        self, request: NativeDirectRequest, inflow: Inflow | None, outflow: Outflow
    ) -> None:
        self.request = request
        self.inflow = inflow
        self.outflow = outflow
        #: What hears the rest of a stream that has left HTTP.
        self.left: Left | None = None
        #: The thread of the pool that runs the handler.
        self.thread: threading.Thread | None = None

    def on_data(self, data: bytes, flags: int) -> None:
        if self.left is not None:
            self.left._on_data(data, flags)
        elif self.inflow is not None:
            self.inflow.feed(data, bool(flags & FLAG_END))

    def on_end(self, trailers: bytes, code: int) -> None:
        if self.left is not None:
            self.left._on_end(trailers, code)
        elif self.inflow is not None:
            self.inflow.end(trailers)

    def on_pong(self, data: bytes) -> None:
        if self.left is not None:
            self.left._on_pong(data)

    def on_reset(self, reason: int) -> None:
        self.request._disconnected = True
        if self.left is not None:
            self.left._on_reset(reason)
            return
        if self.inflow is not None:
            self.inflow.fail(reason)
        self.outflow.fail(reason)

    def on_writable(self, size: int) -> None:
        if self.left is not None:
            self.left._on_writable(size)
        else:
            self.outflow.writable(size)

    def on_drain(self) -> None:
        if self.left is not None:
            self.left._on_drain()
        else:
            self.on_reset(_STOPPING)


class _Pulled(_Sink):
    """A body made by a plain iterator, pulled by the pump as the client takes it."""

    __slots__ = ("_chunks", "_left", "_pump", "_queued", "_trailers")

    def __init__(
        self,
        pump: Pump,
        request: NativeDirectRequest,
        flow: Outflow,
        chunks: Iterator[bytes],
        trailers: Trailers | None,
    ) -> None:
        super().__init__(request, None, flow)
        self._pump = pump
        self._chunks = chunks
        self._left = memoryview(b"")
        self._trailers = trailers
        self._queued = True

    def pull(self) -> None:
        """Sends pieces until the window is shut, the source ends or its slice of time is over."""
        self._queued = False
        flow = self.outflow
        stream = flow.stream
        if flow.failure is not None:
            return
        pieces: list[bytes] = []
        room = flow.window
        try:
            over = self._gather(pieces, room)
            size = sum(map(len, pieces))
            if size:
                flow.window -= size
                flow.outbox.pieces(stream, pieces, size)
            if over:
                self._pump.streams.pop(stream, None)
                flow.outbox.end(stream, encode_trailers(self._trailers))
            elif flow.window > 0:
                self._queue()
        except Exception:
            log.exception("the body of %r failed; the stream is reset", self.request)
            self._pump.streams.pop(stream, None)
            flow.outbox.reset(stream, CANCELLED)

    def _gather(self, pieces: list[bytes], room: int) -> bool:
        """Takes up to ``room`` bytes from the source; whether it has ended. Not more than a slice of time."""
        until = self._pump.slice_ends()
        while room > 0:
            if not self._left:
                chunk = next(self._chunks, _OVER)
                if chunk is _OVER:
                    return True
                if type(chunk) is bytes and len(chunk) <= min(room, CHUNK):
                    if chunk:
                        pieces.append(chunk)
                        room -= len(chunk)
                    if monotonic() >= until:
                        return False
                    continue
                self._left = memoryview(chunk)
            piece = bytes(self._left[: min(len(self._left), room, CHUNK)])
            self._left = self._left[len(piece) :]
            if piece:
                pieces.append(piece)
                room -= len(piece)
            if monotonic() >= until:
                return False
        return False

    def on_writable(self, size: int) -> None:
        super().on_writable(size)
        self._queue()

    def on_reset(self, reason: int) -> None:
        super().on_reset(reason)
        close_source(self._chunks)

    def on_drain(self) -> None:
        self.outflow.outbox.reset(self.outflow.stream, Reason.STOPPING)
        self._pump.streams.pop(self.outflow.stream, None)
        self.on_reset(_STOPPING)

    def _queue(self) -> None:
        if not self._queued:
            self._queued = True
            self._pump.ready.append(self.pull)


def framed(request: NativeDirectRequest, response: NativeDirectResponse) -> NativeDirectResponse:
    """Without a source where no body may follow: nobody would pull it."""
    if response.source is not None and (request.method == "HEAD" or response.status in _BODILESS):
        close_source(response.source)
        return NativeDirectResponse(response.status, response.fields, b"", None, response.trailers)
    return response


def refused(request: NativeDirectRequest, error: HandshakeError) -> NativeDirectResponse:
    """The answer to a request that asked for a WebSocket the wrong way, or not at all."""
    log.info("%r was refused with %d: %s", request, error.status, error)
    return NativeDirectResponse.text(f"{error}\n", status=error.status, headers=error.headers)


def parted(request: NativeDirectRequest, result: object) -> NativeDirectResponse:
    """Nobody waits for a response any more; answers something to stand for it."""
    if result is not None:
        log.error(
            "the handler of %r took the connection over and returned %r too, which goes nowhere",
            request,
            type(result).__name__,
        )
    return _PARTED


def encode_trailers(trailers: Trailers | None) -> bytes:
    if trailers is None:
        return b""
    return encode_fields(trailers() if callable(trailers) else trailers)


def close_source(source: object) -> None:
    """Tells a generator that nobody wants the rest."""
    closer = getattr(source, "close", None)
    if closer is not None and isinstance(source, Iterable):
        try:
            closer()
        except Exception:
            log.exception(UNCLOSED)
