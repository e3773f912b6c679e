"""Handlers of the WebSocket tests, each written twice: for coroutines and for threads. What they see they tell."""

from __future__ import annotations

import asyncio
import queue
import threading
from typing import Any

from server_native import NativeDirectRequest, NativeDirectResponse, WebSocketClosed

__all__ = ["PIECE", "App"]

PIECE = b"x" * 16_384
PATIENCE = 10.0


class App:
    """A handler for every path; ``told`` has what each of them found."""

    def __init__(self) -> None:
        self.told: queue.SimpleQueue[Any] = queue.SimpleQueue()
        #: Lets the handlers that wait go on.
        self.go = threading.Event()
        #: Bytes that `/flood` has sent.
        self.sent = 0

    def handler(self, asynchronous: bool) -> Any:
        return self.coroutine if asynchronous else self.plain

    def next(self) -> Any:
        """What a handler has told."""
        return self.told.get(timeout=PATIENCE)

    def _accept(self, request: NativeDirectRequest) -> Any:
        headers = [("x-one", "1"), ("set-cookie", "a"), ("set-cookie", "b")]
        return request.accept_websocket(
            subprotocols=("superchat", "chat"),
            headers=headers if request.path == "/agree" else None,
        )

    async def coroutine(self, request: NativeDirectRequest) -> Any:
        path = request.path
        if path == "/crash-before":
            raise ValueError("before it was accepted")
        if path == "/refuse":
            return NativeDirectResponse.text("not today", status=418)
        if path == "/return-before":
            return None
        if path == "/caught":
            try:
                request.accept_websocket()
            except Exception as error:  # noqa: BLE001 - told to the test
                return NativeDirectResponse.text(f"{type(error).__name__}: {error}")
        websocket = self._accept(request)
        if path == "/echo":
            async for message in websocket:
                await websocket.send(message)
        elif path == "/within":
            async with websocket:
                await websocket.send(await websocket.receive())
        elif path == "/agree":
            await websocket.send(websocket.subprotocol or "none")
        elif path == "/crash":
            raise ValueError("after it was accepted")
        elif path == "/crash-within":
            async with websocket:
                raise ValueError("within")
        elif path == "/exit-after":
            return "something"
        elif path == "/listen":
            try:
                while True:
                    self.told.put(await websocket.receive())
            except WebSocketClosed as error:
                self.told.put((error.code, error.reason))
                self.told.put((websocket.close_code, websocket.close_reason))
                for call in (websocket.receive(), websocket.send("late"), websocket.ping()):
                    try:
                        await call
                    except WebSocketClosed as late:
                        self.told.put(late.code)
        elif path == "/close":
            await websocket.close(4001, "bye")
            await websocket.close(4002, "again")
            for call in (websocket.receive(), websocket.send("late"), websocket.ping()):
                try:
                    await call
                except WebSocketClosed as error:
                    self.told.put((error.code, error.reason))
        elif path == "/ping":
            self.told.put(await websocket.ping(b"are you there"))
            await websocket.send("pong heard")
        elif path == "/wait":
            self.told.put("waiting")
            while not self.go.is_set():
                await asyncio.sleep(0.002)
            async for message in websocket:
                self.told.put(len(message))
        elif path == "/flood":
            try:
                while True:
                    await websocket.send(PIECE)
                    self.sent += len(PIECE)
            except WebSocketClosed as error:
                self.told.put((error.code, error.reason))
        return None

    def plain(self, request: NativeDirectRequest) -> Any:
        path = request.path
        if path == "/crash-before":
            raise ValueError("before it was accepted")
        if path == "/refuse":
            return NativeDirectResponse.text("not today", status=418)
        if path == "/return-before":
            return None
        if path == "/caught":
            try:
                request.accept_websocket()
            except Exception as error:  # noqa: BLE001 - told to the test
                return NativeDirectResponse.text(f"{type(error).__name__}: {error}")
        websocket = self._accept(request)
        if path == "/echo":
            for message in websocket:
                websocket.send(message)
        elif path == "/within":
            with websocket:
                websocket.send(websocket.receive())
        elif path == "/agree":
            websocket.send(websocket.subprotocol or "none")
        elif path == "/crash":
            raise ValueError("after it was accepted")
        elif path == "/crash-within":
            with websocket:
                raise ValueError("within")
        elif path == "/exit-after":
            return "something"
        elif path == "/listen":
            try:
                while True:
                    self.told.put(websocket.receive())
            except WebSocketClosed as error:
                self.told.put((error.code, error.reason))
                self.told.put((websocket.close_code, websocket.close_reason))
                for call in (websocket.receive, lambda: websocket.send("late"), websocket.ping):
                    try:
                        call()
                    except WebSocketClosed as late:
                        self.told.put(late.code)
        elif path == "/close":
            websocket.close(4001, "bye")
            websocket.close(4002, "again")
            for call in (websocket.receive, lambda: websocket.send("late"), websocket.ping):
                try:
                    call()
                except WebSocketClosed as error:
                    self.told.put((error.code, error.reason))
        elif path == "/ping":
            self.told.put(websocket.ping(b"are you there", timeout=PATIENCE))
            websocket.send("pong heard")
        elif path == "/wait":
            self.told.put("waiting")
            assert self.go.wait(PATIENCE)
            for message in websocket:
                self.told.put(len(message))
        elif path == "/flood":
            try:
                while True:
                    websocket.send(PIECE)
                    self.sent += len(PIECE)
            except WebSocketClosed as error:
                self.told.put((error.code, error.reason))
        return None
