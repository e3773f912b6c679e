"""What an installed package must be able to do, on any Python and any system: HTTP/1.1, async, WebSocket, TLS, HTTP/2.

    python smoke.py          in an environment that has the package installed; exit status 0 and `N passed, 0 failed`

The variables SMOKE_ANYWHERE and SMOKE_COMPILERS allow a library elsewhere and compilers on PATH; SMOKE_EMULATOR is what
runs this Python, where the machine itself cannot.

One file and two of a certificate that is worth nothing (its key is public), so that it can be carried anywhere. Only
the standard library: the clients here are a few lines each and lenient; what is strict is in tests/integration/.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import platform
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import traceback
import urllib.request
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
#: Seconds for one check; an emulated processor is slow.
PATIENCE = 60.0
SIZE = 1 << 20
ACCEPT = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


# --- the server -----------------------------------------------------------------------------------


async def handler(request: Any) -> Any:
    """Answers every check here."""
    if request.path == "/websocket":
        async with request.accept_websocket() as websocket:
            async for message in websocket:
                await websocket.send(f"echo {message!s}")
        return None
    if request.path == "/slow":
        await asyncio.sleep(0.01)
        return "after a while"
    if request.path == "/body":
        return hashlib.sha256(await request.read()).hexdigest()
    return f"hello {request.path} over {request.protocol}"


def certificate() -> dict[str, Any]:
    """The options of a server with TLS."""
    return {"certificate_path": HERE / "certificate.pem", "key_path": HERE / "key.pem"}


def trusting() -> ssl.SSLContext:
    """For a client that knows this one certificate."""
    return ssl.create_default_context(cafile=str(HERE / "certificate.pem"))


# --- the checks -----------------------------------------------------------------------------------


def check_installed() -> None:
    """It is the installed package, with a library, and no tool here could have built one."""
    import server_native
    from server_native import _library

    package = Path(server_native.__file__).resolve().parent
    assert package.parent.name in ("site-packages", "dist-packages"), package
    compilers = [tool for tool in ("cargo", "rustc", "cc", "gcc", "clang") if shutil.which(tool)]
    assert not compilers or "SMOKE_COMPILERS" in os.environ, compilers
    path = _library.locate()
    if "SERVER_NATIVE_PREBUILT" not in os.environ and "SMOKE_ANYWHERE" not in os.environ:
        assert path.parent == package / "lib", path
    assert server_native.transport_abi_version().startswith(server_native.__version__)


async def check_http1() -> None:
    """Requests one after the other on a connection, and at once on several."""
    from server_native import start_native_direct

    async with await start_native_direct(handler, host="127.0.0.1", port=0) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        for path in ("/one", "/slow"):
            request = f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n"
            writer.write(request.encode())
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 "), head
            body = await reader.readexactly(_length(head))
            expected = "after a while" if path == "/slow" else f"hello {path} over http/1.1"
            assert body.decode().lower() == expected, body
        writer.close()
        content = os.urandom(SIZE)
        url = f"{server.url}/body"
        fetches = [asyncio.to_thread(_fetch, url, content) for _ in range(8)]
        digest = hashlib.sha256(content).hexdigest()
        assert set(await asyncio.gather(*fetches)) == {digest}


async def check_websocket() -> None:
    """An upgrade, an echo, a close that both sides say."""
    from server_native import start_native_direct

    async with await start_native_direct(handler, host="127.0.0.1", port=0) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        key = base64.b64encode(os.urandom(16)).decode()
        lines = (
            "GET /websocket HTTP/1.1",
            "host: localhost",
            "connection: upgrade",
            "upgrade: websocket",
            "sec-websocket-version: 13",
            f"sec-websocket-key: {key}",
        )
        writer.write("\r\n".join([*lines, "", ""]).encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 "), head
        digest = hashlib.sha1(key.encode() + ACCEPT).digest()  # noqa: S324 (the protocol's)
        assert base64.b64encode(digest) in head, head
        writer.write(_frame(0x81, "grüß dich".encode()))
        first, length = await reader.readexactly(2)
        assert first == 0x81, first
        assert (await reader.readexactly(length)).decode() == "echo grüß dich"
        writer.write(_frame(0x88, (1000).to_bytes(2, "big")))
        first, length = await reader.readexactly(2)
        assert first == 0x88, first
        assert (await reader.readexactly(length))[:2] == (1000).to_bytes(2, "big")
        writer.close()


async def check_tls_and_http2() -> None:
    """Both protocols by ALPN, on one port."""
    from server_native import start_secure_native_direct

    options = certificate()
    async with await start_secure_native_direct(
        handler, host="127.0.0.1", port=0, **options
    ) as server:
        url = f"https://localhost:{server.port}/"
        text = await asyncio.to_thread(_fetch, url, None)
        assert text.lower() == "hello / over http/1.1", text
        context = trusting()
        context.set_alpn_protocols(["h2"])
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", server.port, ssl=context, server_hostname="localhost"
        )
        found = writer.get_extra_info("ssl_object")
        assert found.selected_alpn_protocol() == "h2"
        assert found.version() == "TLSv1.3"
        status, body = await _get_h2(reader, writer, "/h2")
        assert status == 0x88, status  # ":status: 200" of the static table
        assert body.decode().lower().startswith("hello /h2 over h"), body
        writer.close()


async def check_close() -> None:
    """A server that is closed ends its answers, refuses new connections and leaves no thread."""
    from server_native import start_native_direct

    server = await start_native_direct(handler, host="127.0.0.1", port=0)
    pending = asyncio.ensure_future(asyncio.to_thread(_fetch, f"{server.url}/slow", None))
    assert await pending == "after a while"
    await server.close()
    try:
        socket.create_connection(("127.0.0.1", server.port), timeout=5).close()
    except OSError:
        pass
    else:
        raise AssertionError("a closed server still accepts")
    assert not await _threads_of_ours(), await _threads_of_ours()


async def _threads_of_ours() -> list[str]:
    """Names of native threads that are still there after a second in which none may have been."""
    for _ in range(99):
        if not _native_threads():
            break
        await asyncio.sleep(0.01)
    return _native_threads()


def _native_threads() -> list[str]:
    folder = Path("/proc/self/task")
    names = map(_name, folder.iterdir() if folder.is_dir() else ())
    return [name for name in names if name.startswith("server-native")]


def _name(thread: Path) -> str:
    try:
        return (thread / "comm").read_text()
    except OSError:
        # It has just ended.
        return ""


def check_signal() -> None:
    """A served process ends by a signal, with success."""
    if sys.platform == "win32":
        return
    code = (
        "from server_native import serve_native_direct\n"
        "def ready(server): print(server.url, flush=True)\n"
        "serve_native_direct(lambda request: 'hello', host='127.0.0.1', port=0, on_ready=ready)\n"
    )
    # In this folder, as Python looks for the package there first.
    with subprocess.Popen(
        [*_python(), "-c", code], cwd=HERE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            assert _fetch(url, None) == "hello"
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()


# --- small clients --------------------------------------------------------------------------------


def _python() -> list[str]:
    """This interpreter again; an emulated one needs its emulator."""
    return [*os.environ.get("SMOKE_EMULATOR", "").split(), sys.executable]


def _fetch(url: str, content: bytes | None) -> str:
    context = trusting() if url.startswith("https:") else None
    # Whatever proxy there is, this goes to this machine.
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    if context is not None:
        handlers.append(urllib.request.HTTPSHandler(context=context))
    opener = urllib.request.build_opener(*handlers)
    request = urllib.request.Request(url, content)  # noqa: S310 (of a server started here)
    with opener.open(request, timeout=PATIENCE) as response:
        text: str = response.read().decode()
        return text


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.split(b":")[1])
    raise AssertionError(f"no content-length in {head!r}")


def _frame(first: int, payload: bytes) -> bytes:
    """A masked WebSocket frame of less than 126 bytes."""
    mask = os.urandom(4)
    masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
    return bytes([first, 0x80 | len(payload)]) + mask + masked


async def _get_h2(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str
) -> tuple[int, bytes]:
    """First byte of the answer's header block, and its body."""

    def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        head = len(payload).to_bytes(3, "big") + bytes([kind, flags])
        return head + stream.to_bytes(4, "big") + payload

    # :method GET, :scheme https, :path and :authority as literals.
    fields = bytes([0x82, 0x87, 0x04, len(path)]) + path.encode() + b"\x01\x09localhost"
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    writer.write(frame(4, 0, 0, b"") + frame(1, 0x5, 1, fields))
    status, body = 0, b""
    while True:
        head = await reader.readexactly(9)
        payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
        kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big")
        if kind == 4 and not flags & 1:
            writer.write(frame(4, 1, 0, b""))
        if stream != 1:
            continue
        assert kind in (0, 1, 8), (kind, payload)
        if kind == 1:
            status = payload[0]
        if kind == 0:
            body += payload
        if kind in (0, 1) and flags & 1:
            return status, body


# --- running them ---------------------------------------------------------------------------------

CHECKS: list[Callable[[], Coroutine[Any, Any, None] | None]] = [
    check_installed,
    check_http1,
    check_websocket,
    check_tls_and_http2,
    check_close,
    check_signal,
]


def main() -> int:
    """Runs the checks; answers the exit status."""
    words = (platform.python_implementation(), platform.python_version(), platform.machine())
    print(*words, sys.platform, *platform.libc_ver(), flush=True)
    failed = 0
    for check in CHECKS:
        began = time.monotonic()
        try:
            running = check()
            if running is not None:
                asyncio.run(asyncio.wait_for(running, PATIENCE))
        except Exception:  # noqa: BLE001 (whatever it is, the others are run, too)
            traceback.print_exc()
            failed += 1
        outcome = f"{time.monotonic() - began:.2f} s"
        print(f"{check.__name__.removeprefix('check_')}: {outcome}", flush=True)
    print(f"{len(CHECKS) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
