"""A server under test: its start, when it is ready, whether its answer is right, its end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import peers, process

READY_SECONDS = 20.0
POLL_SECONDS = 0.01
STOP_SECONDS = 3.0
SERVERS = peers.BENCHMARKS / "servers"

# What a browser sends; wrk adds Host.
BROWSER_HEADERS = {
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/webp,*/*;q=0.8",
    "Accept-Language": "en-US,en;q=0.7,de;q=0.3",
    "Accept-Encoding": "gzip, deflate, br, zstd",
    "Referer": "http://localhost/products/overview?page=2&sort=price",
    "Cookie": "session=4f9c2d8e7b6a5f4e3d2c1b0a99887766; theme=dark; consent=1; _id=GA1.1.20261121",
    "Upgrade-Insecure-Requests": "1",
    "Sec-Fetch-Dest": "document",
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-Site": "same-origin",
}
READ_HEADERS = ("User-Agent", "Accept-Language", "Cookie")
REQUEST_HEADERS: dict[str, dict[str, str]] = {"hello": {}, "headers": BROWSER_HEADERS}
BODIES = {
    "hello": b"hello",
    "headers": "".join(f"{len(BROWSER_HEADERS[name]):08d}" for name in READ_HEADERS).encode(),
}

OURS = {
    "ours-constant": {"hello": "constant"},
    "ours-sync": {"hello": "sync", "headers": "headers-sync"},
    "ours-async": {"hello": "async", "headers": "headers-async"},
    "ours-asyncio-run": {"hello": "asyncio-run"},
}


class ServerError(Exception):
    """A server did not start, answered wrongly, or died; the text names it and shows its stderr."""


@dataclass(frozen=True)
class Spec:
    """How a server is started: a command template per variant it has."""

    name: str
    commands: Mapping[str, tuple[str, ...]]
    reports_port: bool = False


@dataclass(frozen=True)
class Response:
    status: int
    head: str
    body: bytes

    @property
    def wire_size(self) -> int:
        return len(self.head) + 4 + len(self.body)


def specs(peer_file: peers.PeerFile, io_threads: int | None) -> dict[str, Spec]:
    """Every server this benchmark knows, ours first."""
    found = {}
    for name, cases in OURS.items():
        commands = {}
        for variant, case in cases.items():
            command = ["{bin}/python", "{servers}/ours.py", "--case", case]
            command += ["--host", "{host}", "--port", "{port}"]
            if io_threads is not None:
                command += ["--io-threads", str(io_threads)]
            commands[variant] = tuple(command)
        found[name] = Spec(name, commands, reports_port=True)
    for name, template in peer_file.commands.items():
        has_variants = any("{variant}" in word for word in template)
        variants = ("hello", "headers") if has_variants else ("hello",)
        found[name] = Spec(
            name,
            {
                variant: tuple(word.replace("{variant}", variant) for word in template)
                for variant in variants
            },
        )
    return found


def unused_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """A running server. Made by `launch`."""

    def __init__(self, spec: Spec, variant: str, host: str, core: int | None, work: Path) -> None:
        self.name = spec.name
        self.variant = variant
        self.host = host
        self.port = 0 if spec.reports_port else unused_port(host)
        values = {"host": host, "port": self.port, "work": work}
        values |= {"bin": peers.VENV / "bin", "servers": SERVERS}
        for template in SERVERS.glob("*.conf"):
            text = template.read_text().replace("@HOST@", host).replace("@PORT@", str(self.port))
            (work / template.name).write_text(text)
        pin = ["taskset", "-c", str(core)] if core is not None else []
        self.command = pin + [word.format_map(values) for word in spec.commands[variant]]
        self._stdout, self._stderr = work / "stdout", work / "stderr"
        with self._stdout.open("wb") as output, self._stderr.open("wb") as errors:
            try:
                self._process = subprocess.Popen(
                    self.command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=errors,
                    cwd=SERVERS,
                    env=peers.environment(),
                    start_new_session=True,
                )
            except OSError as error:
                raise ServerError(f"{self.name}: cannot run {self.command[0]}: {error}") from error
        self.pid = self._process.pid

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}/"

    def error(self, what: str) -> ServerError:
        """An error that shows what one needs to see why."""
        tail = self._stderr.read_text(errors="replace").splitlines()[-20:]
        state = self._process.poll()
        lines = [f"{self.name}: {what}", f"  command: {' '.join(self.command)}"]
        lines += [f"  process: {'running' if state is None else f'ended with status {state}'}"]
        lines += [f"  stderr: {line}" for line in tail or ["(empty)"]]
        return ServerError("\n".join(lines))

    def wait_ready(self) -> None:
        """Return once the server accepts connections. Nothing but that is waited for."""
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise self.error("ended before it was ready")
            if not self.port:
                line = self._stdout.read_text(errors="replace").partition("\n")
                if line[1] and not line[0].strip().isdigit():
                    raise self.error(f"printed {line[0]!r} instead of its port")
                self.port = int(line[0]) if line[1] else 0
            if self.port:
                with contextlib.suppress(OSError), self.connect():
                    return
            time.sleep(POLL_SECONDS)
        raise self.error(f"not ready after {READY_SECONDS:.0f} s")

    def connect(self) -> socket.socket:
        return socket.create_connection((self.host, self.port), timeout=5)

    def ask(self, connection: socket.socket) -> Response:
        """One request as the load generator sends it, on an open connection that stays open."""
        headers = {"Host": f"{self.host}:{self.port}"} | REQUEST_HEADERS[self.variant]
        lines = ["GET / HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        received = b""
        while b"\r\n\r\n" not in received:
            received += self._more(connection, received)
        head, _, body = received.partition(b"\r\n\r\n")
        text = head.decode("latin-1")
        fields = dict(line.lower().split(":", 1) for line in text.split("\r\n")[1:])
        length = fields.get("content-length", "").strip()
        if not length.isdigit():
            raise self.error(f"sends no content-length: {text!r}")
        while len(body) < int(length):
            body += self._more(connection, body)
        return Response(int(text.split()[1]), text, body)

    def _more(self, connection: socket.socket, received: bytes) -> bytes:
        data = connection.recv(65536)
        if not data:
            raise self.error(f"closed the connection after {received!r}")
        return data

    def check(self) -> Response:
        """Ask twice on one connection, which must be kept alive; status and body must be right."""
        try:
            with self.connect() as connection:
                first, second = self.ask(connection), self.ask(connection)
        except OSError as error:
            raise self.error(f"does not answer: {error!r}") from error
        for response in (first, second):
            if response.status != 200 or response.body != BODIES[self.variant]:
                raise self.error(
                    f"answers {response.status} {response.body!r}, not 200 {BODIES[self.variant]!r}"
                )
        return second

    def stop(self) -> None:
        """End the process group; ask first, then kill, and leave nothing of the tree."""
        descendants = process.tree(self.pid)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        for pid in descendants[1:]:
            with contextlib.suppress(ProcessLookupError):
                if os.getsid(pid) == self.pid:  # not a pid that was given to somebody else since
                    os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def launch(spec: Spec, variant: str, host: str, core: int | None) -> Iterator[Server]:
    """A server that is ready and answers rightly; it is ended on leaving, whatever happens."""
    with tempfile.TemporaryDirectory(prefix="server-native-bench-") as work:
        server = Server(spec, variant, host, core, Path(work))
        try:
            server.wait_ready()
            server.check()
            yield server
        finally:
            server.stop()
