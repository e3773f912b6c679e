"""TLS under attack and under load: half handshakes by the thousand, reloads while everybody is served."""

from __future__ import annotations

import json
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.faults.harness import PATIENCE, Child, background, eventually
from tests.integration.certificates import Authority, Identity

#: What attackers may cost while they are there: 64 KiB of a hello for each would be 128 MiB.
HALF_OPEN = 2_000
PER_ATTACKER = 24 * 1024
#: What may be left of 200 reloads.
LEFT = 8 * 1024 * 1024

SERVER = """
import json, os, sys, threading
from server_native import Limits, serve_secure_native_direct
options = json.loads(sys.argv[1])
kind = options.pop("kind")
limits = Limits(**options.pop("limits", {}))
def plain(request):
    return request.path
async def asynchronous(request):
    return request.path
def commands(server):
    for line in sys.stdin:
        if line == "stats\\n":
            print("stats=" + json.dumps(server.stats()), flush=True)
        elif line == "reload\\n":
            server.reload_certificates()
            print("reload=1", flush=True)
def ready(server):
    print("ready", server.port, flush=True)
    threading.Thread(target=commands, args=(server,), daemon=True).start()
serve_secure_native_direct(
    asynchronous if kind == "async" else plain, host="127.0.0.1", port=0, on_ready=ready, limits=limits, **options
)
"""

kinds = pytest.mark.parametrize(
    "options",
    [
        {"kind": "plain"},
        {"kind": "plain", "io_threads": 2},
        {"kind": "async"},
    ],
    ids=str,
)


@contextmanager
def secure(identity: Identity, **options: Any) -> Iterator[tuple[Child, int]]:
    """A process that serves with this certificate, and ends as it should."""
    files = {name: str(value) for name, value in identity.options.items()}
    with Child.run(SERVER, json.dumps({**files, **options})) as server:
        yield server, int(server.expect("ready"))
        server.signal(signal.SIGTERM)
        server.ends(0)


class Client:
    """One TLS connection; reads answers with a body of known length."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        plain = socket.create_connection(("127.0.0.1", port), PATIENCE)
        try:
            self.socket = context.wrap_socket(plain, server_hostname="localhost")
        except BaseException:
            plain.close()
            raise
        self._file = self.socket.makefile("rb")

    def get(self, path: str) -> None:
        """One request, answered by its path."""
        self.socket.sendall(f"GET {path} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
        status, length = self._file.readline(), 0
        assert status == b"HTTP/1.1 200 OK\r\n", status
        while (line := self._file.readline()) not in (b"\r\n", b""):
            name, _, value = line.partition(b":")
            if name == b"content-length":
                length = int(value)
        assert self._file.read(length) == path.encode()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self.socket.close()


def hello() -> bytes:
    out = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(
        ssl.MemoryBIO(), out, server_hostname="localhost"
    )
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return out.read()


@pytest.mark.parametrize(
    ("sent", "options"),
    [
        ("half", {"kind": "plain"}),
        ("half", {"kind": "plain", "io_threads": 2}),
        ("half", {"kind": "async"}),
        ("nothing", {"kind": "plain"}),
        ("whole", {"kind": "plain"}),
    ],
    ids=str,
)
def test_thousands_of_stopped_handshakes_stop_nobody_and_are_ended(
    authority: Authority, identity: Identity, options: dict[str, Any], sent: str
) -> None:
    data = hello()
    data = {"nothing": b"", "half": data[: len(data) // 2], "whole": data}[sent]
    context = authority.context()
    limits = {"handshake_ms": 3_000}
    with secure(identity, limits=limits, **options) as (server, port), ExitStack() as attackers:
        for _ in range(3):
            with Client(port, context) as good:
                good.get("/warm")
        before = server.until_stats(lambda stats: stats["connections"] == 0, "quiet")
        memory, descriptors = server.resident(), server.descriptors()
        stuck = []
        for _ in range(HALF_OPEN):
            attacker = socket.create_connection(("127.0.0.1", port), PATIENCE)
            attackers.callback(attacker.close)
            attacker.sendall(data)
            stuck.append(attacker)
        # The accept loop takes all of them without waiting for one.
        taken = before["accepted"] + HALF_OPEN
        server.until_stats(lambda stats: stats["accepted"] == taken, "all are taken")
        with Client(port, context) as good:
            for index in range(20):
                good.get(f"/{index}")
            grown = server.resident() - memory
            assert grown < HALF_OPEN * PER_ATTACKER, f"{grown / HALF_OPEN} bytes each"
        # Nobody talks to them any more: the deadline ends them, and the client of a whole hello has had its answer.
        stats = server.until_stats(lambda stats: stats["connections"] == 0, "all are ended")
        assert stats["overdue"] == before["overdue"] + HALF_OPEN
        for attacker in stuck:
            first = attacker.recv(1)
            assert first == (b"\x16" if sent == "whole" else b"")
        eventually(server.descriptors, lambda now: now <= descriptors, "closed", server.account)
        with Client(port, context) as good:
            good.get("/after")


@kinds
def test_two_hundred_reloads_fail_no_request(
    authority: Authority, tmp_path: Path, options: dict[str, Any]
) -> None:
    """Connections that stay, connections for each request, and the certificate changes all the while."""
    both = [authority.issue(), authority.issue()]
    mine = Identity(tmp_path / "certificate.pem", tmp_path / "key.pem")

    def put(chosen: Identity) -> None:
        mine.certificate_path.write_bytes(chosen.certificate_path.read_bytes())
        mine.key_path.write_bytes(chosen.key_path.read_bytes())

    put(both[0])
    context = authority.context()
    seen: set[bytes] = set()

    with secure(mine, **options) as (server, port):

        def come_and_go(_: threading.Event) -> None:
            with Client(port, context) as client:
                client.get("/new")
                certificate = client.socket.getpeercert(binary_form=True)
                assert certificate is not None
                seen.add(certificate)

        def stay(over: threading.Event) -> None:
            with Client(port, context) as client:
                while not over.is_set():
                    client.get("/kept")

        def reload(times: int) -> None:
            for index in range(times):
                put(both[index % 2])
                assert server.ask("reload") == 1

        with background(come_and_go, 2) as done, background(stay, 2):
            reload(20)
            memory = server.resident()
            reload(180)
            left = server.resident() - memory
            enough = len(done) + 2
            eventually(lambda: len(done), lambda now: now >= enough, "served", server.account)
        assert seen == {each.der for each in both}
        assert left < LEFT, f"{left} bytes more after 180 reloads"
        server.until_stats(lambda stats: stats["connections"] == 0, "nothing is left")


@kinds
def test_a_storm_of_hangups_is_weathered(
    authority: Authority, identity: Identity, options: dict[str, Any]
) -> None:
    """Signals come whenever they like, into a reload too."""
    context = authority.context()
    with secure(identity, **options) as (server, port):

        def come_and_go(_: threading.Event) -> None:
            with Client(port, context) as client:
                client.get("/new")

        with background(come_and_go) as done, Client(port, context) as kept:
            for index in range(200):
                server.signal(signal.SIGHUP)
                kept.get(f"/{index}")
            enough = len(done) + 2
            eventually(lambda: len(done), lambda now: now >= enough, "served", server.account)


def leave_by_reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()


@kinds
@pytest.mark.parametrize("leave", [leave_by_reset, socket.socket.close], ids=["reset", "close"])
def test_clients_that_leave_in_the_handshake_leave_nothing_behind(
    authority: Authority,
    identity: Identity,
    options: dict[str, Any],
    leave: Callable[[socket.socket], None],
) -> None:
    data = hello()
    with secure(identity, **options) as (server, port):
        with Client(port, authority.context()) as good:
            good.get("/warm")
        server.until_stats(lambda stats: stats["connections"] == 0, "quiet")
        descriptors = server.descriptors()
        for index in range(500):
            attacker = socket.create_connection(("127.0.0.1", port), PATIENCE)
            attacker.sendall(data[: 1 + index % len(data)])
            leave(attacker)
        server.until_stats(lambda stats: stats["connections"] == 0, "nothing is left")
        eventually(server.descriptors, lambda now: now <= descriptors, "closed", server.account)
        with Client(port, authority.context()) as good:
            good.get("/after")
