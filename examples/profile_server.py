"""A server with something to profile: /health, /cpu, /upload and /echo, in either mode.

    python examples/profile_server.py --mode direct --port 8080
    py-spy record --native -p PID

`--mode direct` runs plain handlers in the serving thread; `--mode http` runs asynchronous ones as tasks.
"""

from __future__ import annotations

import argparse
from urllib.parse import parse_qs

from server_native import (
    NativeDirectRequest,
    NativeDirectResponse,
    NativeServer,
    serve_native_direct,
)


def burn(request: NativeDirectRequest) -> NativeDirectResponse:
    query = parse_qs(request.query)
    iterations = min(int(query.get("iterations", ["100000"])[0]), 10_000_000)
    value = int(query.get("seed", ["1"])[0])
    for _ in range(iterations):
        value = (value * 6364136223846793005 + 1442695040888963407) % 2**64
    return NativeDirectResponse.json({"iterations": iterations, "value": value})


def echo(method: str, body: bytes) -> NativeDirectResponse:
    preview = body[:64].decode("utf-8", "replace")
    return NativeDirectResponse.json({"method": method, "bytes": len(body), "preview": preview})


def plain(request: NativeDirectRequest) -> NativeDirectResponse:
    if request.path == "/cpu":
        return burn(request)
    if request.path == "/upload":
        return NativeDirectResponse.json({"bytes": sum(len(chunk) for chunk in request)})
    if request.path == "/echo":
        return echo(request.method, request.body)
    return NativeDirectResponse.text("not found\n", status=404)


async def asynchronous(request: NativeDirectRequest) -> NativeDirectResponse:
    if request.path == "/cpu":
        return burn(request)
    if request.path == "/upload":
        return NativeDirectResponse.json({"bytes": sum([len(chunk) async for chunk in request])})
    if request.path == "/echo":
        return echo(request.method, await request.read())
    return NativeDirectResponse.text("not found\n", status=404)


def ready(server: NativeServer) -> None:
    print(f"serving on {server.url}\ntry: curl '{server.url}/cpu?iterations=100000'", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--mode", choices=("direct", "http"), default="direct")
    parser.add_argument("--port", type=int, default=8080)
    options = parser.parse_args()
    serve_native_direct(
        plain if options.mode == "direct" else asynchronous,
        port=options.port,
        routes={"/health": {"ok": True}},
        on_ready=ready,
    )
