"""The cases as data: what is asked of the servers, and which servers can be asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["rate", "idle", "rss", "syscalls", "memory"]
Suite = Literal["spine", "complete"]

PLACEMENTS = ("pinned", "free")
DEFAULT_CONNECTIONS = 64
IDLE_CONNECTIONS = 100
IDLE_SECONDS = 10.0
RSS_FIRST, RSS_TOTAL = 10_000, 1_000_000
SYSCALL_REQUESTS = 5_000
MEMORY_CONNECTIONS = 10_000
COUNT_ROUNDS = 3  # counts and memory hardly vary: more rounds would only cost time


@dataclass(frozen=True)
class Case:
    name: str
    kind: Kind
    variant: str
    connections: int | None  # None: --concurrency
    about: str
    suite: Suite = "spine"
    streams: int = 1  # requests under way on a connection
    size: int = 0  # of a WebSocket message

    def rounds(self, iterations: int) -> int:
        return iterations if self.kind == "rate" else min(iterations, COUNT_ROUNDS)

    def placements(self, chosen: tuple[str, ...]) -> tuple[str, ...]:
        """Rates are measured in every placement; counts do not depend on it."""
        return chosen if self.kind == "rate" else chosen[-1:]


CASES = {
    case.name: case
    for case in (
        Case("hello", "rate", "hello", None, "GET / answered with 5 bytes, 64 connections"),
        Case("hello-c8", "rate", "hello", 8, "the same at 8 connections"),
        Case("hello-c1", "rate", "hello", 1, "the same at 1 connection"),
        Case(
            "headers",
            "rate",
            "headers",
            None,
            "ten browser headers sent, three read by the handler, 64 connections",
        ),
        Case(
            "idle",
            "idle",
            "hello",
            IDLE_CONNECTIONS,
            "server CPU while 100 connections are open and silent for 10 s",
        ),
        Case(
            "rss", "rss", "hello", DEFAULT_CONNECTIONS, "memory after 10 k requests and after 1 M"
        ),
        Case(
            "syscalls",
            "syscalls",
            "hello",
            1,
            "system calls per request at 1 connection (strace -c -f)",
        ),
        Case(
            "h2c",
            "rate",
            "h2c",
            8,
            "hello over HTTP/2 without TLS, 8 connections of 32 streams",
            "complete",
            streams=32,
        ),
        Case("tls", "rate", "tls", None, "hello over TLS 1.3, 64 connections", "complete"),
        Case(
            "http3",
            "rate",
            "http3",
            8,
            "hello over HTTP/3, 8 connections of 32 streams",
            "complete",
            streams=32,
        ),
        Case(
            "websocket-64",
            "rate",
            "websocket",
            50,
            "messages of 64 bytes echoed, 50 connections (requests are messages)",
            "complete",
            size=64,
        ),
        Case(
            "websocket-16k",
            "rate",
            "websocket",
            50,
            "the same with messages of 16 KiB",
            "complete",
            size=16 * 1024,
        ),
        Case(
            "upload",
            "rate",
            "upload",
            8,
            "POST of 10 MiB, its length answered, 8 connections",
            "complete",
        ),
        Case(
            "large", "rate", "large", None, "GET / answered with 1 MiB, 64 connections", "complete"
        ),
        Case(
            "stream",
            "rate",
            "stream",
            None,
            "GET / answered with 100 pieces of 10 KiB, 64 connections",
            "complete",
        ),
        *(
            Case(
                variant,
                "memory",
                variant,
                MEMORY_CONNECTIONS,
                f"memory per idle connection, of 10,000 that made one request each{over}",
                "complete",
            )
            for variant, over in (
                ("memory", ""),
                ("memory-tls", " over TLS 1.3"),
                ("memory-h2c", " over HTTP/2 without TLS"),
            )
        ),
    )
}


SUITES: Mapping[str, tuple[str, ...]] = {
    suite: tuple(case.name for case in CASES.values() if case.suite == suite)
    for suite in ("spine", "complete")
}


@dataclass(frozen=True)
class Metric:
    """A figure: its heading, and how it is written."""

    heading: str
    write: Callable[[float], str]


def _digits(count: int) -> Callable[[float], str]:
    return lambda value: f"{value:,.{count}f}"


METRICS: Mapping[str, Metric] = {
    "req_per_sec": Metric("req/s", _digits(0)),
    "p50_us": Metric("p50 µs", _digits(0)),
    "p95_us": Metric("p95 µs", _digits(0)),
    "p99_us": Metric("p99 µs", _digits(0)),
    "cpu_us": Metric("CPU µs/request", _digits(2)),
    "server_cpu_pct": Metric("server CPU %", _digits(0)),
    "wrk_cpu_pct": Metric("load CPU %", _digits(0)),
    "other_cpu_pct": Metric("other CPU %", _digits(0)),
    "rss_mib": Metric("RSS MiB", _digits(1)),
    "idle_cpu_pct": Metric("idle CPU %", _digits(3)),
    "open_connections": Metric("still open", _digits(0)),
    "requests": Metric("requests", _digits(0)),
    "rss_first_mib": Metric("RSS MiB first", _digits(1)),
    "rss_last_mib": Metric("RSS MiB last", _digits(1)),
    "rss_delta_mib": Metric("growth MiB", _digits(2)),
    "syscalls": Metric("syscalls/request", _digits(2)),
    "kib_per_connection": Metric("KiB/connection", _digits(2)),
}

COLUMNS: Mapping[Kind, tuple[str, ...]] = {
    "rate": (
        "req_per_sec",
        "p50_us",
        "p95_us",
        "p99_us",
        "cpu_us",
        "server_cpu_pct",
        "wrk_cpu_pct",
        "other_cpu_pct",
        "rss_mib",
    ),
    "idle": ("idle_cpu_pct", "open_connections", "rss_mib"),
    "rss": ("rss_delta_mib", "rss_first_mib", "rss_last_mib", "requests"),
    "syscalls": ("syscalls", "requests"),
    "memory": ("kib_per_connection", "open_connections", "rss_first_mib", "rss_last_mib"),
}

RATIOS: Mapping[Kind, tuple[str, ...]] = {
    "rate": ("req_per_sec", "cpu_us", "p50_us", "p99_us", "rss_mib"),
    "idle": (),
    "rss": (),
    "syscalls": ("syscalls",),
    "memory": ("kib_per_connection",),
}
