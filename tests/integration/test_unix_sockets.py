"""Unix sockets: the file and its rights, what is in its way, and HTTP over it."""

# ruff: noqa: ASYNC240 - the files are local, and what is asked about them is part of the story

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from server_native import (
    Limits,
    NativeDirectRequest,
    NativeDirectResponse,
    NativeServer,
    _ffi,
    errors,
    start_native_direct,
)
from server_native.binds import Place
from server_native.config import ServerConfig
from tests.faults.harness import Child
from tests.integration.certificates import Authority, Identity
from tests.integration.clients import H2, Wire, eventually
from tests.integration.servers import Mode, Serve

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets here")


@pytest.fixture
def path() -> Iterator[str]:
    """Where no file is yet; short, as a Unix socket's path must be."""
    with tempfile.TemporaryDirectory(prefix="sn-") as folder:
        yield str(Path(folder) / "socket")


def tell(request: NativeDirectRequest, body: bytes) -> dict[str, Any]:
    """What a handler sees of the connection."""
    return {
        "client": request.client,
        "server": request.server,
        "scheme": request.scheme,
        "protocol": request.protocol,
        "body": body.decode(),
    }


async def hello(_: NativeDirectRequest) -> str:
    return "hello"


async def get(path: str) -> bytes:
    """The body of an answer, asked for inside a server's loop."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer.rpartition(b"\r\n\r\n")[2]


def exists(path: str) -> bool:
    return Path(path).exists()


def is_socket(path: str) -> bool:
    return stat.S_ISSOCK(Path(path).lstat().st_mode)


@contextlib.contextmanager
def listening(path: str) -> Iterator[socket.socket]:
    """A server that is not ours. Its file stays, as nobody removes it."""
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
        other.listen()
        yield other


# --- HTTP over it ---------------------------------------------------------------------------------------------------


def test_both_versions_of_http_and_what_handlers_see(serve: Serve, mode: Mode, path: str) -> None:
    running = serve(tell, mode, uds=path)
    assert running.url == f"unix:{path}"
    assert running.server.addresses == ((path, None),)
    assert running.server.port == 0
    with Wire(path) as wire, H2(path) as client:
        for _ in range(3):
            wire.request(method="POST", body=b"over HTTP/1.1")
            assert json.loads(wire.answer().body) == {
                # A Unix socket's client has no name.
                "client": None,
                "server": [path, None],
                "scheme": "http",
                "protocol": "HTTP/1.1",
                "body": "over HTTP/1.1",
            }
            told = json.loads(client.request(method="POST", body=b"over HTTP/2").body)
            assert (told["protocol"], told["body"]) == ("HTTP/2", "over HTTP/2")
            assert (told["client"], told["server"]) == (None, [path, None])


@pytest.mark.parametrize("options", [("--http1.1",), ("--http2-prior-knowledge",)], ids=str)
def test_curl(serve: Serve, path: str, options: tuple[str, ...]) -> None:
    serve(lambda request: f"{request.method} {request.path}", uds=path)
    command = ["curl", "--silent", "--show-error", "--fail", "--unix-socket", path]
    done = subprocess.run(
        [*command, *options, "http://anything/curl"], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("GET /curl", "")


@pytest.mark.parametrize("http2", [True, False])
def test_tls(
    serve: Serve, mode: Mode, path: str, authority: Authority, identity: Identity, http2: bool
) -> None:
    running = serve(tell, mode, uds=path, **identity.options)
    assert running.url == f"unix:{path}"
    if http2:
        with H2(path, tls=authority.context("h2")) as client:
            told = json.loads(client.request().body)
    else:
        with Wire(path, tls=authority.context()) as wire:
            told = json.loads(wire.get().body)
    assert told["scheme"] == "https"
    assert (told["client"], told["server"]) == (None, [path, None])


def test_there_is_no_http3_to_be_told_of(
    serve: Serve, path: str, authority: Authority, identity: Identity
) -> None:
    serve(lambda _: "x", uds=path, http3=True, **identity.options)
    with Wire(path, tls=authority.context()) as wire:
        assert wire.get().header("alt-svc") is None


def test_bodies_larger_than_the_sockets_buffers(serve: Serve, mode: Mode, path: str) -> None:
    serve(lambda _, body: body, mode, uds=path)
    body = bytes(range(256)) * 8_192
    with Wire(path) as wire:
        sender = threading.Thread(target=wire.request, kwargs={"method": "POST", "body": body})
        sender.start()
        assert wire.answer().body == body
        sender.join()


def test_a_connection_over_the_limit_is_told_so(serve: Serve, path: str) -> None:
    """There are no addresses to count by, and the limit of all holds."""
    limits = Limits(connections=2, connections_per_address=1)
    running = serve(lambda _: "x", uds=path, limits=limits)
    with Wire(path) as first, Wire(path) as second, Wire(path) as third:
        assert first.get().status == second.get().status == 200
        answer = third.answer()
        assert (answer.status, answer.header("connection")) == (503, "close")
        assert third.rest() == b""
    assert running.stats()["refused"] == 1


@pytest.mark.parametrize("declared", [False, True], ids=["chunked", "length"])
def test_a_handler_that_fails_midway_leaves_an_incomplete_response(
    serve: Serve, mode: Mode, path: str, declared: bool
) -> None:
    """A Unix socket cannot be reset: the framing has to tell that something is missing."""
    # More than the window, so that the client has read some of it when it breaks off.
    piece, count = b"x" * 65_536, 16

    def pieces() -> Iterator[bytes]:
        yield from [piece] * count
        raise RuntimeError("on purpose")

    async def pieces_async() -> AsyncIterator[bytes]:
        for _ in range(count):
            yield piece
        raise RuntimeError("on purpose")

    fields = {"content-length": str(len(piece) * count + 1)} if declared else {}

    def handler(_: NativeDirectRequest, __: bytes) -> NativeDirectResponse:
        source = pieces_async() if mode.asynchronous else pieces()
        return NativeDirectResponse.stream(source, headers=fields)

    serve(handler, mode, uds=path)
    with Wire(path) as wire:
        wire.request()
        assert wire.head()[1] == 200
        rest = wire.rest()
        assert piece in rest
        assert not rest.endswith(b"\r\n0\r\n\r\n"), "a clean end"
    with H2(path) as client:
        answer = client.answer(client.open())
        assert answer.body.startswith(piece)
        assert (answer.ended, answer.reset) == (False, 2)
    assert all("on purpose" in text for text in serve.logged(2))


# --- stop and start -------------------------------------------------------------------------------------------------


def test_a_stop_lets_the_request_finish_and_takes_no_other(serve: Serve, path: str) -> None:
    go_on = threading.Event()

    def handler(_: NativeDirectRequest) -> str:
        assert go_on.wait(10)
        return "finished"

    running = serve(handler, uds=path, threads=1, grace=10.0)
    with Wire(path) as wire, Wire(path) as idle:
        wire.request()
        eventually(lambda: running.stats()["streams"] == 1, "the request is under way")
        running.close()
        assert idle.rest() == b""
        assert not exists(path), "clients that come now are told at once"
        with pytest.raises(FileNotFoundError):
            Wire(path)
        go_on.set()
        answer = wire.answer()
        assert (answer.body, answer.header("connection")) == (b"finished", "close")
        assert wire.rest() == b""
    running.join()


def test_a_path_is_free_again_after_a_stop(path: str) -> None:
    async def main() -> None:
        for _ in range(5):
            async with start_native_direct(hello, uds=path):
                assert await get(path) == b"hello"
            assert not exists(path)

    asyncio.run(main())


def test_the_file_is_removed_from_wherever_the_process_is(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        monkeypatch.chdir(Path(path).parent)
        async with start_native_direct(hello, uds="socket") as server:
            assert server.addresses == (("socket", None),)
            monkeypatch.chdir(tmp_path)
            (tmp_path / "socket").touch()
            assert await get(path) == b"hello"
        assert not exists(path)
        assert (tmp_path / "socket").exists()

    asyncio.run(main())


def test_a_file_that_somebody_else_has_put_there_stays(path: str) -> None:
    async def main() -> None:
        async with start_native_direct(hello, uds=path):
            Path(path).unlink()
            Path(path).write_text("mine")
        assert Path(path).read_text() == "mine"
        Path(path).unlink()
        # The successor of a server that is still there, as after a deployment.
        old = await start_native_direct(hello, uds=path)
        Path(path).unlink()
        async with start_native_direct(hello, uds=path):
            await old.close()
            assert await get(path) == b"hello"
        assert not exists(path)

    asyncio.run(main())


def test_a_folder_that_has_gone_meanwhile_is_no_error(path: str) -> None:
    async def main() -> None:
        folder = Path(path).with_name("folder")
        folder.mkdir()
        async with start_native_direct(hello, uds=folder / "socket"):
            (folder / "socket").unlink()
            folder.rmdir()

    asyncio.run(main())


# --- rights ---------------------------------------------------------------------------------------------------------


def mode_of(path: str) -> int:
    return stat.S_IMODE(Path(path).stat().st_mode)


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666, 0o777, 0o000])
def test_the_mode_is_what_was_asked_for(path: str, mode: int) -> None:
    async def main() -> None:
        async with start_native_direct(hello, uds=path, uds_mode=mode):
            assert mode_of(path) == mode

    asyncio.run(main())


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o177])
def test_without_a_mode_the_umask_decides(path: str, umask: int) -> None:
    async def main() -> None:
        before = os.umask(umask)
        try:
            server = await start_native_direct(hello, uds=path)
        finally:
            os.umask(before)
        assert mode_of(path) == 0o777 & ~umask
        await server.close()

    asyncio.run(main())


UNPRIVILEGED = """
import os, sys, server_native
server_native.transport_abi_version()
if os.geteuid() == 0:
    os.seteuid(65534)
try:
    server_native.serve_native_direct(lambda request: "", uds=sys.argv[1], on_ready=lambda server: server.close())
except PermissionError as error:
    print(type(error).__name__, error.errno, error.strerror)
"""


def test_a_folder_that_is_not_ours(path: str) -> None:
    Path(path).parent.chmod(0o555)
    done = subprocess.run(
        [sys.executable, "-c", UNPRIVILEGED, path], capture_output=True, text=True, check=False
    )
    Path(path).parent.chmod(0o700)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"BindPermissionError {errno.EACCES} cannot listen on {path}: ")


# --- what is in the way ---------------------------------------------------------------------------------------------


async def refused(path: str, kind: type[OSError], number: int) -> str:
    """A server cannot start at ``path``; answers what it said."""
    with pytest.raises(kind) as info:
        await start_native_direct(hello, uds=path)
    assert isinstance(info.value, errors.NativeIOError)
    assert info.value.errno == number
    assert f"cannot listen on {path}" in str(info.value)
    return str(info.value)


def test_a_file_that_a_crash_has_left_is_replaced(path: str) -> None:
    with listening(path):
        pass
    assert is_socket(path)

    async def main() -> None:
        async with start_native_direct(hello, uds=path):
            assert await get(path) == b"hello"
        assert not exists(path)

    asyncio.run(main())


SERVE = """
import sys, server_native
def ready(server):
    print("ready", flush=True)
def serve():
    server_native.serve_native_direct(lambda request: "child", uds=sys.argv[1], on_ready=ready)
"""
KILLED = SERVE + "serve()"


def test_a_server_that_was_killed_is_succeeded(path: str) -> None:
    for _ in range(2):
        with Child.run(KILLED, path) as child:
            child.expect("ready")
            with Wire(path) as wire:
                assert wire.get().body == b"child"
            child.process.kill()
            child.wait()
        assert is_socket(path)


def test_a_live_server_keeps_its_path(path: str) -> None:
    async def main() -> None:
        async with start_native_direct(hello, uds=path):
            await refused(path, errors.AddressInUseError, errno.EADDRINUSE)
            assert await get(path) == b"hello"
        with listening(path) as other:
            await refused(path, errors.AddressInUseError, errno.EADDRINUSE)
            assert is_socket(path)
            # One whose queue is full is alive too.
            other.listen(0)
            crowd = [socket.socket(socket.AF_UNIX) for _ in range(8)]
            for each in crowd:
                each.setblocking(False)
                each.connect_ex(path)
            await refused(path, errors.AddressInUseError, errno.EADDRINUSE)
            for each in crowd:
                each.close()

    asyncio.run(main())


RACE = (
    SERVE
    + """
print("waiting", flush=True)
sys.stdin.readline()
try:
    serve()
except server_native.errors.AddressInUseError:
    print("taken", flush=True)
"""
)


def test_of_servers_that_start_together_one_has_the_path(path: str) -> None:
    """Between ``bind`` and ``listen`` a live socket looks like one that a crash has left."""
    with listening(path):
        pass
    children = [Child.run(RACE, path) for _ in range(4)]
    try:
        for child in children:
            child.expect("waiting")
        for child in children:
            child.tell("go")

        def outcome() -> list[str]:
            return sorted(line for child in children for line in child.lines if line != "waiting")

        eventually(lambda: len(outcome()) == len(children), "everybody has tried")
        assert outcome() == ["ready", "taken", "taken", "taken"]
        with Wire(path) as wire:
            assert wire.get().body == b"child"
    finally:
        for child in children:
            child.__exit__(None, None, None)


def test_nor_do_two_have_it_in_any_of_many_tries(path: str) -> None:
    """The moment is short: without the lock that keeps them apart, one try in sixty had two winners or none."""
    runtimes = [_ffi.Runtime(0) for _ in range(6)]
    try:
        for _ in range(300):
            with listening(path):
                pass
            together, won = threading.Barrier(len(runtimes)), list[tuple[_ffi.Runtime, int]]()

            def start(
                runtime: _ffi.Runtime,
                together: threading.Barrier = together,
                won: list[tuple[_ffi.Runtime, int]] = won,
            ) -> None:
                together.wait()
                with contextlib.suppress(errors.NativeIOError):
                    won.append((runtime, runtime.bind(Place(uds=path), ServerConfig(), 0)))

            threads = [threading.Thread(target=start, args=(each,)) for each in runtimes]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(won) == 1
            runtime, listener = won[0]
            runtime.close(listener)
            assert not exists(path)
    finally:
        for runtime in runtimes:
            runtime.free()


def test_no_other_file_is_touched(path: str) -> None:
    async def main() -> None:
        Path(path).write_text("precious")
        said = await refused(path, errors.AddressInUseError, errno.EADDRINUSE)
        assert "a file is that is no socket; remove it" in said
        assert Path(path).read_text() == "precious"
        Path(path).unlink()
        Path(path).mkdir()
        await refused(path, errors.AddressInUseError, errno.EADDRINUSE)
        assert Path(path).is_dir()
        # A link is what somebody has put there, whatever it leads to.
        Path(path).rmdir()
        with listening(f"{path}.other"):
            pass
        Path(path).symlink_to(f"{path}.other")
        await refused(path, errors.AddressInUseError, errno.EADDRINUSE)
        assert Path(path).is_symlink()
        assert is_socket(f"{path}.other")

    asyncio.run(main())


def test_a_folder_that_is_not_there(path: str) -> None:
    async def main() -> None:
        said = await refused(f"{path}/nowhere", errors.NativeIOError, errno.ENOENT)
        assert "No such file or directory" in said

    asyncio.run(main())


@pytest.mark.parametrize("name", ["é" * 60, "s" * 200])
def test_a_path_that_does_not_fit(path: str, name: str) -> None:
    with pytest.raises(
        errors.ConfigurationError, match=r"uds must be a path of at most 10[37] bytes"
    ):
        start_native_direct(hello, uds=Path(path).with_name(name))


def test_a_failed_start_leaves_no_file(path: str, serve: Serve) -> None:
    """The socket was bound before the other address failed."""

    async def main() -> None:
        from server_native import NativeServerBind, start_native_multi

        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            binds = [NativeServerBind(uds=path), NativeServerBind("127.0.0.1", port)]
            with pytest.raises(errors.AddressInUseError, match=str(port)):
                await start_native_multi(hello, binds)
        assert not exists(path)

    asyncio.run(main())


def test_on_a_unix_socket_and_a_port_at_once(path: str) -> None:
    from server_native import NativeServerBind, start_native_multi

    def check(server: NativeServer) -> None:
        host, port = server.addresses[0]
        assert port is not None
        with Wire((host, port)) as one, Wire(path) as other:
            assert one.get().body == other.get().body == b"hello"
        assert server.url == f"http://{host}:{port}"

    async def main() -> None:
        binds = [NativeServerBind(), NativeServerBind(uds=path)]
        async with start_native_multi(hello, binds) as server:
            await asyncio.to_thread(check, server)
        assert not exists(path)

    asyncio.run(main())
