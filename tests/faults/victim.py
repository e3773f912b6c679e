"""A server to harm: ``python -m tests.faults.victim '{"mode": "sync"}'``. Prints what happens, takes commands on stdin.

Modes: ``sync``, ``async``, ``threads`` (blocking servers), ``loop`` (``start_native_direct`` inside ``asyncio.run``),
``uvloop`` (the same there), ``loop-sync`` (with a plain handler).
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import json
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from server_native import (
    Limits,
    NativeDirectRequest,
    NativeDirectResponse,
    NativeServer,
    serve_native_direct,
    start_native_direct,
)

released = threading.Event()
burning = threading.Event()
trigger = threading.Event()
over = threading.Event()
started = 0


def say(text: str) -> None:
    """One line in one write."""
    os.write(1, f"{text}\n".encode())


def told(error: BaseException | str) -> None:
    """The handler has learnt that it should end: how, and when."""
    what = error if isinstance(error, str) else type(error).__name__
    say(f"told {what} {time.monotonic()}")


def seconds(request: NativeDirectRequest) -> float:
    return float(request.query or 0)


def spin(until: Callable[[], bool]) -> None:
    """Pure Python without a pause."""
    while not until():
        pass


def plain(request: NativeDirectRequest) -> Any:
    global started
    started += 1
    path = request.path
    if path == "/hello":
        return "hello"
    if path == "/work":
        begun = time.monotonic()
        spin(lambda: time.monotonic() - begun >= seconds(request))
        return "worked"
    if path == "/ws-receive":
        for _ in request.accept_websocket():
            pass
        return None
    if path == "/ws-mute":
        request.accept_websocket()
        released.wait()
        return None
    if path == "/ws-send":
        websocket = request.accept_websocket()
        while True:
            websocket.send(b"x" * 4096)
    if path == "/raw":
        socket = request.detach_socket()
        while data := socket.receive():
            socket.send(data)
        return None
    if path == "/raw-send":
        socket = request.detach_socket()
        while True:
            socket.send(b"x" * 4096)
    say(f"begin {path}")
    if path == "/spin":
        spin(released.is_set)
        say("spun")
        return "spun"
    if path == "/finish":
        released.wait()
        return "finished " * 100
    if path == "/late":
        time.sleep(seconds(request))
        return "late"
    if path in ("/until-told", "/until-told-spin"):
        while not request.disconnected:
            if path == "/until-told":
                time.sleep(0.01)
        told("disconnected")
        return "told"
    if path in ("/never-sleep", "/never-spin"):
        try:
            while True:
                if path == "/never-sleep":
                    time.sleep(3600)
        except BaseException as error:
            told(error)
            raise
    if path == "/stream":
        return NativeDirectResponse.stream(endless())
    if path == "/upload":
        try:
            size = len(request.body)
        except BaseException as error:
            told(error)
            raise
        return str(size)
    if path == "/close":
        server.close(grace=seconds(request))
        return "closing"
    return 404, "no such thing"


def endless() -> Iterator[bytes]:
    try:
        while True:
            yield b"x" * 4096
    except BaseException as error:
        told(error)
        raise


async def asynchronous(request: NativeDirectRequest) -> Any:
    global started
    started += 1
    path = request.path
    if path == "/hello":
        return "hello"
    if path == "/work":
        begun = time.monotonic()
        spin(lambda: time.monotonic() - begun >= seconds(request))
        return "worked"
    if path == "/ws-receive":
        async for _ in request.accept_websocket():
            pass
        return None
    if path == "/ws-mute":
        request.accept_websocket()
        while not released.is_set():
            await asyncio.sleep(0.01)
        return None
    if path == "/ws-send":
        websocket = request.accept_websocket()
        while True:
            await websocket.send(b"x" * 4096)
    say(f"begin {path}")
    if path == "/spin":
        spin(released.is_set)
        say("spun")
        return "spun"
    if path == "/finish":
        while not released.is_set():
            await asyncio.sleep(0.01)
        return "finished " * 100
    if path == "/late":
        await asyncio.sleep(seconds(request))
        return "late"
    if path == "/until-told":
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError as error:
            told(error)
            assert request.disconnected
            raise
    if path == "/swallow":
        for _ in range(2):
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError as error:
                told(error)
        return "swallowed"
    if path == "/swallow-all":
        while True:
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError as error:
                told(error)
    if path in ("/never-sleep", "/never-spin"):
        try:
            while True:
                if path == "/never-sleep":
                    time.sleep(3600)  # noqa: ASYNC251
        except BaseException as error:
            told(error)
            raise
    if path == "/stream":
        return NativeDirectResponse.stream(endless_async())
    if path == "/stream-plain":
        return NativeDirectResponse.stream(endless())
    if path == "/upload":
        try:
            size = len(await request.read())
        except BaseException as error:
            told(error)
            raise
        return str(size)
    if path == "/close":
        server.close(grace=seconds(request))
        return "closing"
    return 404, "no such thing"


async def endless_async() -> AsyncIterator[bytes]:
    try:
        while True:
            yield b"x" * 4096
    except BaseException as error:
        told(error)
        raise


def burn() -> None:
    spin(lambda: not burning.is_set())


def command(line: str) -> None:
    word, _, rest = line.partition(" ")
    if word == "stats":
        say("stats=" + json.dumps(server.stats()))
    elif word == "started":
        say(f"started={started}")
    elif word == "threads":
        say(f"threads={threading.active_count()}")
    elif word == "keep-garbage":
        # From now on what is in a cycle stays.
        gc.collect()
        gc.disable()
    elif word == "requests":
        count = sum(type(found) is NativeDirectRequest for found in gc.get_objects())
        say(f"requests={count}")
    elif word == "release":
        released.set()
    elif word == "burn":
        burning.set()
        threading.Thread(target=burn, daemon=True).start()
    elif word == "calm":
        burning.clear()
    elif word == "trigger":
        trigger.set()
    elif word == "close":
        server.close(grace=float(rest))
        say("closed")
    elif word == "wait-and-close":
        while not over.is_set():
            server.close(grace=float(rest))
            time.sleep(0.01)


def commands() -> None:
    for line in sys.stdin:
        command(line.strip())


def ready(running: NativeServer) -> None:
    global server
    server = running
    threading.Thread(target=commands, daemon=True).start()
    say(f"ready {server.port}")
    if options.get("close_in_on_ready"):
        server.close(grace=0.5)


def shutdown_signal() -> Any:
    """What the options ask for, set by the command ``trigger``."""
    kind = options.get("shutdown")
    if kind is None:
        return None
    if kind == "threading.Event":
        return trigger
    if kind == "Future":
        future: concurrent.futures.Future[None] = concurrent.futures.Future()

        def settle() -> None:
            trigger.wait()
            future.set_result(None)

        threading.Thread(target=settle, daemon=True).start()
        return future

    async def poll() -> None:
        while not trigger.is_set():
            await asyncio.sleep(0.01)

    if kind == "coroutine":
        return poll()
    loop = asyncio.get_running_loop()
    event, waiter = asyncio.Event(), loop.create_future()

    async def pass_on() -> None:
        await poll()
        event.set()
        waiter.set_result(None)

    tasks.add(loop.create_task(pass_on()))
    return {"asyncio.Event": event, "asyncio.Future": waiter}[kind]


tasks: set[asyncio.Task[None]] = set()


async def inside() -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    handler = plain if options["mode"] == "loop-sync" else asynchronous
    shutdown = shutdown_signal()
    async with start_native_direct(handler, shutdown_signal=shutdown, **keywords) as running:
        ready(running)
        if shutdown is not None or options.get("until_over"):
            await running._over
        else:
            await stop.wait()
            await running.close()
    say("left")


def main() -> None:
    mode = options["mode"]
    if mode in ("sync", "threads"):
        serve_native_direct(plain, on_ready=ready, shutdown_signal=shutdown_signal(), **keywords)
    elif mode == "async":
        serve_native_direct(
            asynchronous, on_ready=ready, shutdown_signal=shutdown_signal(), **keywords
        )
    elif mode == "uvloop":
        import uvloop

        uvloop.run(inside())
    else:
        asyncio.run(inside())
    over.set()
    say("over")


if __name__ == "__main__":
    options: dict[str, Any] = json.loads(sys.argv[1])
    keywords: dict[str, Any] = {
        "port": 0,
        "grace": options.get("grace", 1.0),
        "limits": Limits(**options.get("limits", {})),
        "routes": {"/route": "native"},
    }
    for name in ("io_threads", "websocket_threads", "max_waiting_requests"):
        if options.get(name) is not None:
            keywords[name] = options[name]
    if options["mode"] == "threads":
        keywords["threads"] = options.get("threads", 2)
    server: NativeServer
    main()
