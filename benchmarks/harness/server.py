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
from typing import Any

from benchmarks.harness import certificate, load, peers, process, wire
from benchmarks.harness.wire import WIRES

READY_SECONDS = 20.0
POLL_SECONDS = 0.01
STOP_SECONDS = 3.0
SERVERS = peers.BENCHMARKS / "servers"
REPORTING_PEERS = ("static-h3",)  # print the port they chose, as ours do

OURS: Mapping[str, Mapping[str, str]] = {
    "ours-constant": {"hello": "constant", "http3": "constant"},
    "ours-sync": {
        "hello": "sync",
        "headers": "headers-sync",
        "h2c": "sync",
        "tls": "sync",
        "http3": "sync",
        "websocket": "websocket-sync",
        "upload": "upload-sync",
        "large": "large-sync",
        "stream": "stream-sync",
        "memory": "sync",
        "memory-tls": "sync",
        "memory-h2c": "sync",
    },
    "ours-async": {
        "hello": "async",
        "headers": "headers-async",
        "h2c": "async",
        "tls": "async",
        "http3": "async",
        "websocket": "websocket-async",
        "upload": "upload-async",
        "large": "large-async",
        "stream": "stream-async",
        "memory": "async",
        "memory-tls": "async",
        "memory-h2c": "async",
    },
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


def specs(peer_file: peers.PeerFile, io_threads: int | None) -> dict[str, Spec]:
    """Every server this benchmark knows, ours first."""
    found = {}
    for name, cases in OURS.items():
        commands = {}
        for variant, case in cases.items():
            command = ["{bin}/python", "{servers}/ours.py", "--case", case]
            command += ["--host", "{host}", "--port", "{port}"]
            if WIRES[variant].secure:
                command += ["--certificate", "{certificate}", "--key", "{key}"]
            if io_threads is not None:
                command += ["--io-threads", str(io_threads)]
            commands[variant] = tuple(command)
        found[name] = Spec(name, commands, reports_port=True)
    for name, variants in peer_file.commands.items():
        found[name] = Spec(name, variants, reports_port=name in REPORTING_PEERS)
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
        self.wire = WIRES[variant]
        self.host = host
        self.port = 0 if spec.reports_port else unused_port(host)
        values: dict[str, object] = {"host": host, "port": self.port, "work": work}
        values |= {"bin": peers.VENV / "bin", "load": peers.LOAD, "servers": SERVERS}
        if self.wire.secure:
            values["certificate"], values["key"] = certificate.files()
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

    def error(self, what: str) -> ServerError:
        """An error that shows what one needs to see why."""
        tail = self._stderr.read_text(errors="replace").splitlines()[-20:]
        state = self._process.poll()
        lines = [f"{self.name}: {what}", f"  command: {' '.join(self.command)}"]
        lines += [f"  process: {'running' if state is None else f'ended with status {state}'}"]
        lines += [f"  stderr: {line}" for line in tail or ["(empty)"]]
        return ServerError("\n".join(lines))

    def wait_ready(self) -> None:
        """Return once the server accepts connections, or says so by its port; no longer."""
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
                    return
            else:
                address = self.host, self.port
                with contextlib.suppress(OSError), socket.create_connection(address, timeout=5):
                    return
            time.sleep(POLL_SECONDS)
        raise self.error(f"not ready after {READY_SECONDS:.0f} s")

    def connect(self) -> socket.socket:
        try:
            return wire.connect(self.wire, self.host, self.port)
        except (OSError, wire.WireError) as error:
            raise self.error(f"no connection: {error!r}") from error

    def ask(self, connection: socket.socket) -> wire.Response:
        """One request as the load generator sends it; status and body must be right."""
        try:
            response = wire.ask(self.wire, connection, f"{self.host}:{self.port}")
        except (OSError, wire.WireError) as error:
            raise self.error(f"does not answer: {error!r}") from error
        if response.status != 200 or response.body != self.wire.body:
            body = response.body[:100]
            raise self.error(
                f"answers {response.status} {body!r}, not 200 {self.wire.body[:100]!r}"
            )
        return response

    def target(self, connections: int, seconds: int = 0, **more: Any) -> load.Target:
        """What a load generator is told of this server."""
        what: dict[str, Any] = {
            "upload": self.wire.upload,
            "expect": len(self.wire.body),
            "headers": self.wire.headers,
            "secure": self.wire.secure,
            "certificate": certificate.files()[0] if self.wire.secure else None,
        }
        return load.Target(self.host, self.port, connections, seconds, **(what | more))

    def check(self) -> wire.Response:
        """Ask twice on one connection, which must be kept alive; returns the second answer."""
        if self.wire.tool in ("http3", "websocket"):
            try:
                head = load.drive(self.wire.tool, self.target(1, requests=2)).head
            except load.LoadError as error:
                raise self.error(str(error)) from error
            return wire.Response(200, head, self.wire.body)
        with self.connect() as connection:
            first = self.ask(connection)
            # An HTTP/2 connection is asked again by h2load; here only the first request is known.
            return first if self.wire.tool == "h2load" else self.ask(connection)

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
