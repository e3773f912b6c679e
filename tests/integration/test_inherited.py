"""Sockets that somebody else has bound: a parent process, an init system."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from server_native import (
    ConfigurationError,
    NativeServerBind,
    _addresses,
    errors,
    start_native_direct,
    start_native_multi,
)
from tests.faults.harness import Child
from tests.integration.certificates import Authority, Identity
from tests.integration.clients import H2, Place, Wire, eventually
from tests.integration.servers import Serve

pytestmark = pytest.mark.skipif(
    not hasattr(socket, "AF_UNIX"), reason="descriptors are inherited on Unix only"
)


@pytest.fixture
def path() -> Iterator[str]:
    """Where no file is yet; short, as a Unix socket's path must be."""
    with tempfile.TemporaryDirectory(prefix="sn-") as folder:
        yield str(Path(folder) / "socket")


def bound(kind: str, path: str) -> socket.socket:
    """A socket that has an address and does not listen yet."""
    families: dict[str, tuple[socket.AddressFamily, Place]] = {
        "IPv4": (socket.AF_INET, ("127.0.0.1", 0)),
        "IPv6": (socket.AF_INET6, ("::1", 0)),
        "Unix": (socket.AF_UNIX, path),
    }
    family, place = families[kind]
    made = socket.socket(family)
    made.bind(place)
    return made


def place_of(listener: socket.socket) -> Place:
    """Where clients find it."""
    name = listener.getsockname()
    return name if isinstance(name, str) else name[:2]


kinds = pytest.mark.parametrize(
    "kind",
    [
        "IPv4",
        pytest.param(
            "IPv6",
            marks=pytest.mark.skipif(
                not _addresses._has_ipv6("::1"), reason="this machine has no IPv6 loopback"
            ),
        ),
        "Unix",
    ],
)


@kinds
@pytest.mark.parametrize("listens", [True, False])
def test_a_socket_of_every_family(serve: Serve, path: str, kind: str, listens: bool) -> None:
    with bound(kind, path) as listener:
        if listens:
            listener.listen()
        place = place_of(listener)
        running = serve(lambda request: json.dumps(request.server), fd=listener.fileno())
        expected: Any = [path, None] if kind == "Unix" else list(place)
        assert running.server.addresses == (tuple(expected),)
        with Wire(place) as wire, H2(place) as client:
            assert json.loads(wire.get().body) == expected
            assert json.loads(client.request().body) == expected
        running.close()
        running.join()
        # The socket is its owner's: it listens on, and a client that comes now waits for whoever is next.
        with Wire(place) as wire:
            wire.request()
            serve(lambda _: "the next one", fd=listener.fileno())
            assert wire.answer().body == b"the next one"
        if kind == "Unix":
            assert Path(path).exists(), "who made the file removes it"


def test_the_owner_can_go_on_with_it(serve: Serve) -> None:
    with bound("IPv4", "") as listener:
        listener.listen()
        running = serve(lambda _: "served", fd=listener.fileno())
        with Wire(listener.getsockname()) as wire:
            assert wire.get().body == b"served"
        running.close()
        running.join()
        # O_NONBLOCK belongs to the socket and not to a descriptor: it stays, and a socket object must be told.
        assert not os.get_blocking(listener.fileno())
        listener.setblocking(True)
        with Wire(listener.getsockname()) as wire:
            wire.send(b"plain")
            accepted, _ = listener.accept()
            with accepted:
                assert accepted.recv(5) == b"plain"


def test_the_owner_may_close_it_at_once(serve: Serve) -> None:
    listener = bound("IPv4", "")
    place = listener.getsockname()
    serve(lambda _: "served", fd=listener.fileno())
    listener.close()
    with Wire(place) as wire:
        assert wire.get().body == b"served"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux tells it in TCP_INFO")
@pytest.mark.parametrize(("listens", "expected"), [(False, 7), (True, 9)])
def test_the_backlog_is_ours_unless_it_listens_already(
    serve: Serve, listens: bool, expected: int
) -> None:
    with bound("IPv4", "") as listener:
        if listens:
            listener.listen(9)
        serve(lambda _: "", fd=listener.fileno(), backlog=7)
        told = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        # tcpi_sacked of a listening socket.
        assert struct.unpack_from("I", told, 28) == (expected,)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the option is Linux's")
def test_its_clients_are_held_back_as_those_of_our_own(serve: Serve) -> None:
    with bound("IPv4", "") as listener:
        serve(lambda _: "", fd=listener.fileno())
        assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == 64 * 1024


def test_tls_and_http3_on_its_port(serve: Serve, authority: Authority, identity: Identity) -> None:
    with bound("IPv4", "") as listener:
        running = serve(lambda _: "secure", fd=listener.fileno(), **identity.options)
        port = listener.getsockname()[1]
        assert running.url == f"https://127.0.0.1:{port}"
        with Wire(listener.getsockname(), tls=authority.context()) as wire:
            assert wire.get().header("alt-svc") == f'h3=":{port}"; ma=86400'
        with (
            socket.socket(type=socket.SOCK_DGRAM) as probe,
            pytest.raises(OSError, match=os.strerror(errno.EADDRINUSE)),
        ):
            probe.bind(("127.0.0.1", port))


# --- what cannot be used --------------------------------------------------------------------------------------------

MUST = "the inherited descriptor must be a stream socket, bound or listening, found "


def refusal(descriptor: int) -> BaseException:
    async def main() -> BaseException:
        with pytest.raises(errors.ServerNativeError) as info:
            await start_native_direct(lambda _: "", fd=descriptor)
        return info.value

    return asyncio.run(main())


def test_a_datagram_socket() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as wrong:
        wrong.bind(("127.0.0.1", 0))
        error = refusal(wrong.fileno())
    assert isinstance(error, ConfigurationError)
    assert str(error) == f"{MUST}a datagram socket"


def test_a_file(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as wrong:
        error = refusal(wrong.fileno())
        assert os.get_blocking(wrong.fileno()), "it was left alone"
    assert isinstance(error, ConfigurationError)
    assert str(error).startswith(f"{MUST}no socket (")


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
def test_a_socket_without_an_address(family: socket.AddressFamily) -> None:
    """``listen`` would give it one: every address of the machine, on a port nobody knows."""
    with socket.socket(family) as wrong:
        error = refusal(wrong.fileno())
    assert isinstance(error, ConfigurationError)
    assert str(error) == f"{MUST}one that is not bound"


@kinds
def test_a_connection(kind: str, path: str) -> None:
    with bound(kind, path) as listener:
        listener.listen()
        with Wire(place_of(listener)):
            accepted, _ = listener.accept()
            with accepted:
                error = refusal(accepted.fileno())
    assert isinstance(error, ConfigurationError)
    assert str(error) == f"{MUST}a connection"


def test_a_number_that_is_not_open() -> None:
    # High enough to be given to nobody in between.
    number = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 500)
    os.close(number)
    error = refusal(number)
    assert isinstance(error, OSError)
    assert error.errno == errno.EBADF
    assert f"descriptor {number} cannot be used" in str(error)


def test_one_that_cannot_be_used_leaves_the_others_alone() -> None:
    with bound("IPv4", "") as good, socket.socket(type=socket.SOCK_DGRAM) as wrong:
        good.listen()

        async def main() -> None:
            binds = [NativeServerBind(fd=good.fileno()), NativeServerBind(fd=wrong.fileno())]
            with pytest.raises(ConfigurationError, match="datagram"):
                await start_native_multi(lambda _: "", binds)

        asyncio.run(main())
        # Nobody serves, the owner's socket listens all the same.
        Wire(good.getsockname()).socket.close()


# --- other processes ------------------------------------------------------------------------------------------------


def test_children_inherit_nothing(serve: Serve, path: str, identity: Identity) -> None:
    """A child started with every descriptor that is inheritable gets none of the server's."""
    look = (
        "import os\n"
        "for name in os.listdir('/proc/self/fd'):\n"
        "    if int(name) > 2:\n"
        "        try: print(os.readlink(f'/proc/self/fd/{name}'))\n"
        "        except FileNotFoundError: pass\n"
    )
    if not Path("/proc/self/fd").exists():
        pytest.skip("no /proc here")

    def children() -> set[str]:
        done = subprocess.run(
            [sys.executable, "-c", look], close_fds=False, stdout=subprocess.PIPE, check=True
        )
        return set(done.stdout.decode().split())

    before = children()
    with bound("IPv4", "") as listener:
        for options in ({"fd": listener.fileno()}, {"uds": path}, {}):
            running = serve(lambda _: "", **options, **identity.options, io_threads=1)
            with socket.socket(socket.AF_UNIX if "uds" in options else socket.AF_INET) as client:
                client.connect(path if "uds" in options else running.address)
                client.sendall(b"no TLS\r\n\r\n")
                answer = client.recv(1)  # whatever it is, the connection was taken
                assert children() <= before, answer


WORKER = """
import sys, server_native
name, descriptor = sys.argv[1:]
server_native.serve_native_direct(
    lambda request: name, fd=int(descriptor), on_ready=lambda server: print("ready", flush=True)
)
print("over", flush=True)
"""


def test_workers_share_one_socket() -> None:
    """One that ends leaves the socket as the others need it."""
    with bound("IPv4", "") as listener:
        listener.listen()
        number = listener.fileno()
        workers = [
            Child.run(WORKER, name, str(number), descriptors=(number,)) for name in ("one", "two")
        ]
        with workers[0] as first, workers[1] as second:
            for worker in workers:
                worker.expect("ready")

            def asked() -> str:
                with Wire(listener.getsockname()) as wire:
                    return wire.get().body.decode()

            assert {asked() for _ in range(20)} <= {"one", "two"}
            first.process.terminate()
            first.expect("over")
            assert {asked() for _ in range(20)} == {"two"}
            second.process.terminate()
            second.ends(0)


ACTIVATED = """
import os, server_native
from server_native import NativeServerBind, serve_native_multi
binds = NativeServerBind.from_systemd()
server_native.serve_native_multi(
    lambda request: f"{request.server[0]}", binds,
    on_ready=lambda server: print("ready", [list(each) for each in server.addresses], flush=True),
)
print("over", flush=True)
"""

#: What an init system does between fork and exec: descriptors from 3 on, and the variables of sd_listen_fds(3).
INIT = """
import fcntl, os, sys
given = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 100) for number in sys.argv[2:]]
for index, number in enumerate(given):
    os.dup2(number, 3 + index)
    os.close(number)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(given)))
os.execv(sys.executable, [sys.executable, "-c", sys.argv[1]])
"""


def test_the_sockets_of_an_init_system(path: str) -> None:
    with bound("IPv4", "") as first, bound("Unix", path) as second:
        first.listen()
        second.listen()
        numbers = (first.fileno(), second.fileno())
        # It waits in the queue until the service is up.
        with Wire(first.getsockname()) as early:
            early.request()
            with Child.run(INIT, ACTIVATED, *map(str, numbers), descriptors=numbers) as service:
                port = first.getsockname()[1]
                ready = service.expect("ready").replace("'", '"').replace("None", "null")
                assert json.loads(ready) == [["127.0.0.1", port], [path, None]]
                assert early.answer().body == b"127.0.0.1"
                with Wire(path) as wire:
                    assert wire.get().body == path.encode()
                service.process.terminate()
                service.ends(0)
        assert Path(path).exists()


@pytest.mark.skipif(
    shutil.which("systemd-socket-activate") is None, reason="no systemd-socket-activate here"
)
def test_systemd_itself(path: str) -> None:
    """Started by the first connection, with two sockets."""
    both = [path, f"{path}.2"]
    command = ["systemd-socket-activate", "-E", f"PYTHONPATH={os.pathsep.join(sys.path)}"]
    command += [word for each in both for word in ("-l", each)]
    with subprocess.Popen(
        [*command, sys.executable, "-c", ACTIVATED],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as service:
        try:
            eventually(lambda: all(Path(each).exists() for each in both), "systemd listens")
            with Wire(both[1]) as wire, Wire(both[0]) as other:
                assert wire.get().body == both[1].encode()
                assert other.get().body == both[0].encode()
        finally:
            service.terminate()
            said, complaints = service.communicate()
        assert b"over" in said, complaints.decode()
        assert service.returncode == 0
