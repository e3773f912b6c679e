"""One server, several addresses: both loopbacks, a second port, and a Unix socket.

python examples/multi_bind.py /tmp/multi_bind.sock
"""

from __future__ import annotations

import sys

from server_native import NativeDirectRequest, NativeServer, NativeServerBind, serve_native_multi


def handler(request: NativeDirectRequest) -> str:
    host, port = request.server
    return f"you came in by {host if port is None else f'{host} port {port}'}\n"


def ready(server: NativeServer) -> None:
    for host, port in server.addresses:
        if port is None:
            print(f"try: curl --unix-socket {host} http://localhost/", flush=True)
        else:
            print(f"try: curl http://{f'[{host}]' if ':' in host else host}:{port}/", flush=True)


if __name__ == "__main__":
    binds = [
        NativeServerBind("localhost", port=8080),  # 127.0.0.1 and ::1
        NativeServerBind("127.0.0.1", port=8081),
    ]
    if len(sys.argv) > 1:
        # Only this user and group may connect. The file goes when the server does.
        binds.append(NativeServerBind(uds=sys.argv[1], uds_mode=0o660))
    serve_native_multi(handler, binds, on_ready=ready)
