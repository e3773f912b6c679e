"""One sample of one case on one server that was started for it."""

from __future__ import annotations

import contextlib
import re
import resource
import select
import signal
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.harness import cases, h2load, load, process, wrk
from benchmarks.harness.server import Server, Spec, launch

MIB = 1024 * 1024
SIZE_TOLERANCE = 0.02
SPARE_DESCRIPTORS = 500  # beside those of the connections, ours and the server's


@dataclass(frozen=True)
class Effort:
    """How much is measured, the same for every server."""

    seconds: int
    warmup: int
    concurrency: int | None
    requests: int | None
    host: str


@dataclass(frozen=True)
class Sample:
    figures: dict[str, float]
    response_head: str
    command: str
    detail: dict[str, float]


def sample(case: cases.Case, spec: Spec, effort: Effort, cores: tuple[int, int] | None) -> Sample:
    """Start the server, measure, check that it still answers rightly, end it."""
    server_core, wrk_core = cores or (None, None)
    with launch(spec, case.variant, effort.host, server_core) as server:
        detail: dict[str, float] = {}
        if case.kind == "rate":
            figures = _rate(server, case, effort, wrk_core)
        elif case.kind == "idle":
            figures = _idle(server, cases.IDLE_CONNECTIONS, cases.IDLE_SECONDS)
        elif case.kind == "rss":
            figures = _rss(server, effort.requests or cases.RSS_TOTAL, wrk_core)
        elif case.kind == "memory":
            figures = _memory(server, cases.MEMORY_CONNECTIONS)
        else:
            count = effort.requests or cases.SYSCALL_REQUESTS
            figures, detail = _syscalls(server, count, wrk_core)
        head = server.check().head
        return Sample(figures, head, " ".join(server.command), detail)


def _load(
    server: Server,
    connections: int,
    core: int | None,
    seconds: int,
    requests: int | None = None,
    streams: int = 1,
    size: int = 0,
) -> load.Load:
    """Load the server; the bytes received must be those of so many right responses."""
    response = server.check()
    target = server.target(connections, seconds, requests=requests, streams=streams)
    tool = server.wire.tool
    try:
        if tool == "wrk":
            # It counts a status above 399 as an error; a redirect or a wrong body only the size shows.
            done, expected = wrk.drive(target, core), response.wire_size
        elif tool == "h2load":
            done, expected = h2load.drive(target, core), len(response.body)
        else:  # checks each
            return load.drive(tool, replace(target, upload=size or target.upload), core)
    except load.LoadError as error:
        raise server.error(str(error)) from error
    slack = done.requests * expected * SIZE_TOLERANCE + connections * streams * expected
    if abs(done.bytes - done.requests * expected) > slack:
        mean = done.bytes / done.requests
        raise server.error(f"sent {mean:.1f} bytes per response under load, not {expected}")
    return done


def _rate(server: Server, case: cases.Case, effort: Effort, core: int | None) -> dict[str, float]:
    connections = case.connections or effort.concurrency or cases.DEFAULT_CONNECTIONS
    if effort.warmup:
        _load(server, connections, core, effort.warmup, None, case.streams, case.size)
    busy, cpu = process.machine_busy_seconds(), process.cpu_seconds(server.pid)
    started = time.monotonic()
    done = _load(
        server, connections, core, effort.seconds, effort.requests, case.streams, case.size
    )
    elapsed = time.monotonic() - started
    cpu = process.cpu_seconds(server.pid) - cpu
    busy = process.machine_busy_seconds() - busy
    return {
        "req_per_sec": done.requests / done.seconds,
        "requests": done.requests,
        "seconds": done.seconds,
        "p50_us": done.p50_us,
        "p95_us": done.p95_us,
        "p99_us": done.p99_us,
        "max_us": done.max_us,
        "cpu_us": cpu / done.requests * 1e6,
        "server_cpu_pct": cpu / done.seconds * 100,
        "wrk_cpu_pct": done.cpu_seconds / done.seconds * 100,
        "other_cpu_pct": max(0.0, busy - cpu - done.cpu_seconds) / elapsed * 100,
        "rss_mib": process.rss_bytes(server.pid) / MIB,
    }


def _is_open(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP)
    return not poll.poll(0)


def _idle(server: Server, count: int, seconds: float) -> dict[str, float]:
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(server.connect()) for _ in range(count)]
        for connection in connections:
            server.ask(connection)
        time.sleep(0.5)  # what the last answers left to do is not idling
        cpu, started = process.cpu_seconds(server.pid), time.monotonic()
        time.sleep(seconds)
        cpu = process.cpu_seconds(server.pid) - cpu
        return {
            "idle_cpu_pct": cpu / (time.monotonic() - started) * 100,
            "open_connections": sum(map(_is_open, connections)),
            "rss_mib": process.rss_bytes(server.pid) / MIB,
        }


def _memory(server: Server, count: int) -> dict[str, float]:
    """Memory that idle connections hold; each has made a request."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count + SPARE_DESCRIPTORS:
        raise server.error(
            f"{count} connections need ulimit -n {count + SPARE_DESCRIPTORS}, found {soft} of {hard}"
        )
    before = process.rss_bytes(server.pid)
    with contextlib.ExitStack() as stack:
        connections = []
        for _ in range(count):
            connection = stack.enter_context(server.connect())
            server.ask(connection)
            connections.append(connection)
        time.sleep(0.5)
        after = process.rss_bytes(server.pid)
        return {
            "kib_per_connection": (after - before) / count / 1024,
            "open_connections": sum(map(_is_open, connections)),
            "rss_first_mib": before / MIB,
            "rss_last_mib": after / MIB,
        }


def _rss(server: Server, total: int, core: int | None) -> dict[str, float]:
    first = min(cases.RSS_FIRST, total // 2)
    done = _load(server, cases.DEFAULT_CONNECTIONS, core, 0, first).requests
    before = process.rss_bytes(server.pid)
    done += _load(server, cases.DEFAULT_CONNECTIONS, core, 0, total - first).requests
    after = process.rss_bytes(server.pid)
    return {
        "rss_first_mib": before / MIB,
        "rss_last_mib": after / MIB,
        "rss_delta_mib": (after - before) / MIB,
        "requests": done,
    }


def _traced(pid: int) -> bool:
    """Whether every thread of the process has a tracer."""
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        with contextlib.suppress(OSError):
            if "\nTracerPid:\t0\n" in status.read_text():
                return False
    return True


def _syscalls(
    server: Server, count: int, core: int | None
) -> tuple[dict[str, float], dict[str, float]]:
    """Trace every thread of the tree while `count` requests are made one after another."""
    _load(server, 1, core, 0, count)
    pids = process.tree(server.pid)
    with tempfile.NamedTemporaryFile("r", prefix="strace-") as output:
        command = ["strace", "-c", "-f", "-o", output.name]
        command += [word for pid in pids for word in ("-p", str(pid))]
        tracer = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        assert tracer.stderr is not None
        try:
            deadline = time.monotonic() + 10
            while not all(map(_traced, pids)):
                if tracer.poll() is not None or time.monotonic() > deadline:
                    tracer.kill()
                    raise server.error(f"strace cannot attach: {tracer.stderr.read().decode()}")
                time.sleep(0.01)
            done = _load(server, 1, core, 0, count).requests
            tracer.send_signal(signal.SIGINT)
            tracer.wait(10)
        finally:
            if tracer.poll() is None:
                tracer.kill()
                tracer.wait()
            tracer.stderr.close()
        calls = _strace_counts(output.read())
    if "total" not in calls:
        raise server.error("strace printed no total")
    total = calls.pop("total")
    per_request = {name: round(number / done, 3) for name, number in calls.items()}
    return {"syscalls": total / done, "requests": done}, per_request


def _strace_counts(text: str) -> dict[str, int]:
    """Calls by name from strace -c: % time, seconds, usecs/call, calls, [errors], name."""
    row = re.compile(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)\s*$", re.MULTILINE)
    return {name: int(calls) for calls, name in row.findall(text)}
