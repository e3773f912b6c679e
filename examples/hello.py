"""The smallest server: one handler, one call. `make serve` runs it."""

from __future__ import annotations

from server_native import (
    NativeDirectRequest,
    NativeDirectResponse,
    NativeServer,
    serve_native_direct,
)


def handler(request: NativeDirectRequest) -> NativeDirectResponse:
    return NativeDirectResponse.text(f"hello {request.path}\n")


def ready(server: NativeServer) -> None:
    print(f"serving on {server.url}\ntry: curl -i {server.url}/world", flush=True)


if __name__ == "__main__":
    serve_native_direct(handler, host="127.0.0.1", port=8080, on_ready=ready)
