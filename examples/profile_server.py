"""A server with something to profile, in the direct style (plain handlers) or the HttpServer style (tasks).

python examples/profile_server.py --mode=direct --port=8080
py-spy record --native -p PID
"""

from __future__ import annotations

import argparse
import json
from typing import Any
from urllib.parse import parse_qs

from server_native import HttpRequest, NativeDirectRequest, serve_native_direct, serve_native_http


def burn(query: str) -> dict[str, Any]:
    asked = parse_qs(query)
    iterations = min(int(asked.get("iterations", ["100000"])[0]), 10_000_000)
    value = int(asked.get("seed", ["1"])[0])
    for _ in range(iterations):
        value = (value * 6364136223846793005 + 1442695040888963407) % 2**64
    return {"iterations": iterations, "value": value}


def preview(body: bytes) -> dict[str, Any]:
    return {"bytes": len(body), "preview": body[:64].decode("utf-8", "replace")}


def direct(request: NativeDirectRequest) -> dict[str, Any] | tuple[int, str]:
    if request.path == "/cpu":
        return burn(request.query)
    if request.path == "/upload":
        return {"bytes": sum(len(chunk) for chunk in request)}
    return preview(request.body) if request.path == "/echo" else (404, "not found\n")


async def http(request: HttpRequest) -> None:
    path, _, query = request.uri.partition("?")
    result: dict[str, Any] = {"error": "not found"}
    if path == "/cpu":
        result = burn(query)
    elif path == "/upload":
        result = {"bytes": sum([len(chunk) async for chunk in request])}
    elif path == "/echo":
        result = preview(await request.read())
    request.response.status_code = 404 if "error" in result else 200
    request.response.content_type = "application/json"
    request.response.write(json.dumps(result, separators=(",", ":")))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--mode", choices=("direct", "http"), default="direct")
    parser.add_argument("--port", type=int, default=8080)
    options = parser.parse_args()
    serve: Any = {"direct": serve_native_direct, "http": serve_native_http}[options.mode]
    handler: Any = {"direct": direct, "http": http}[options.mode]
    serve(handler, port=options.port, routes={"/health": {"ok": True}}, echo=True)
