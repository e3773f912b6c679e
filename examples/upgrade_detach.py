"""A protocol of one's own over an upgraded connection: after the 101 there is no HTTP any more, only bytes.

The protocol is called `shout`: each line comes back in capitals, until an empty one.
"""

from __future__ import annotations

from server_native import DetachedSocket, NativeDirectRequest, NativeServer, serve_native_direct


async def handler(request: NativeDirectRequest) -> tuple[int, str] | None:
    if request.upgrade != "shout":
        return 400, "this server speaks shout: ask with `Connection: upgrade`, `Upgrade: shout`\n"
    async with request.detach_socket() as socket:
        await shout(socket)
    return None  # the connection is no longer HTTP


async def shout(socket: DetachedSocket) -> None:
    rest = b""
    while received := await socket.receive():
        # Bytes come as they come: a line may take several pieces, and a piece hold several lines.
        *lines, rest = (rest + received).split(b"\n")
        for line in lines:
            if not line:
                return
            await socket.send(line.upper() + b"\n")
        if len(rest) > 1000:
            await socket.send(b"LINES HAVE AT MOST 1000 BYTES\n")
            return


def ready(server: NativeServer) -> None:
    request = r"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: shout\r\n\r\nhello\n\n"
    print(f"serving on {server.url}", flush=True)
    print(f"try: printf '{request}' | nc 127.0.0.1 {server.port}", flush=True)


if __name__ == "__main__":
    serve_native_direct(handler, port=8080, on_ready=ready)
