"""A stop that loses nothing: who is being served is served to the end, who comes later finds nobody.

In one terminal `curl -T - http://127.0.0.1:8080/upload` and type; in another `curl -X POST http://127.0.0.1:8080/stop`;
then end the upload with Ctrl-D: it is answered, and the program ends. SIGINT and SIGTERM stop it the same way.
"""

from __future__ import annotations

import asyncio

from server_native import NativeDirectRequest, NativeServer, serve_native_direct

stop = asyncio.Event()
answered: list[str] = []


async def handler(request: NativeDirectRequest) -> str | tuple[int, str]:
    if request.path == "/stop" and request.method == "POST":
        stop.set()
        return 202, "stopping\n"
    size = len(await request.read())
    answered.append(request.path)
    return f"{size} bytes\n"


def ready(server: NativeServer) -> None:
    print(f"serving on {server.url}", flush=True)


if __name__ == "__main__":
    # Requests in flight get 30 seconds; a moment before, handlers are cancelled.
    serve_native_direct(handler, port=8080, shutdown_signal=stop, grace=30, on_ready=ready)
    print("answered before the end:", ", ".join(answered) or "nothing")
