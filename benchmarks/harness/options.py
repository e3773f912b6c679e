"""The command line. Anything invalid exits 64 and says what."""

from __future__ import annotations

import argparse
import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from benchmarks.harness import cases
from benchmarks.harness.bars import RSGI, Gate

USAGE_ERROR = 64


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(USAGE_ERROR, f"{self.prog}: {message}\nTry --help.\n")


@dataclass(frozen=True)
class Options:
    requests: int | None
    duration: int
    concurrency: int | None
    warmup: int
    host: str
    iterations: int
    servers: tuple[str, ...] | None
    cases: tuple[str, ...]
    placements: tuple[str, ...]
    cores: tuple[int, int] | None
    io_threads: int | None
    json: str | None
    markdown: str | None
    plot: str | None
    bars: bool
    load: tuple[Path, ...]
    gate: Gate | None


def _whole(minimum: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < minimum:
            raise argparse.ArgumentTypeError(f"must be a whole number >= {minimum}, not {text!r}")
        return int(text)

    return parse


def _ratio(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number > 0, not {text!r}")
    return value


def _names(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        if text == "all":
            return tuple(known)
        names = tuple(dict.fromkeys(text.split(",")))
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(
                f"unknown: {', '.join(map(repr, unknown))}; there are: {', '.join(known)}"
            )
        return names

    return parse


def _parser(servers: Sequence[str]) -> Parser:
    parser = Parser(
        prog="http.py",
        description="server_native against its peers on loopback.",
        epilog="Cases: " + "; ".join(f"{c.name} = {c.about}" for c in cases.CASES.values()),
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--duration", type=_whole(1), default=5, metavar="S", help="seconds per sample (5)")
    add(
        "--requests",
        type=_whole(100),
        metavar="N",
        help="end a sample after N requests instead of after --duration (costs wrk a Lua call per "
        "request); in the cases rss and syscalls: the number of requests",
    )
    add(
        "--concurrency",
        type=_whole(1),
        metavar="N",
        help=f"connections of the cases hello and headers ({cases.DEFAULT_CONNECTIONS})",
    )
    add("--warmup", type=_whole(0), default=1, metavar="S", help="seconds of load first (1)")
    add("--host", default="127.0.0.1", help="address the servers bind (127.0.0.1)")
    add("--iterations", type=_whole(1), default=5, metavar="N", help="interleaved rounds (5)")
    add("--servers", type=_names(servers), metavar="A,B|all", help=f"of {', '.join(servers)}")
    add(
        "--cases",
        type=_names(tuple(cases.CASES)),
        metavar="A,B|all",
        help="which cases (hello; with --bars: all of the suite spine)",
    )
    add(
        "--suite",
        choices=tuple(cases.SUITES),
        help="all cases of the spine (HTTP/1.1), or the complete: every protocol, bodies, memory",
    )
    add("--pinned", action="store_true", help="server on one core, wrk on another; only this")
    add("--free", action="store_true", help="neither pinned; only this (default: both)")
    add("--io-threads", type=_whole(0), metavar="N", help="io_threads of our servers")
    add("--json", metavar="FILE", help="write everything measured; - is standard output")
    add("--markdown", metavar="FILE", help="write the tables as Markdown; - is standard output")
    add("--plot", metavar="PREFIX", help="write bar charts PREFIX.png and PREFIX.svg")
    add("--bars", action="store_true", help="print each bar of the project with pass or miss")
    add(
        "--load",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="measure nothing: read results of --json instead (may be repeated, later files win)",
    )
    add("--min-req-per-sec-ratio", type=_ratio, metavar="R", help="gate: req/s ratio >= R")
    add("--max-p95-ratio", type=_ratio, metavar="R", help="gate: p95 ratio <= R")
    add("--gate-server", type=_names(servers), default=("ours-sync",), metavar="A")
    add("--gate-peer", type=_names(servers), default=(RSGI,), metavar="B")
    return parser


def parse(arguments: Sequence[str] | None, servers: Sequence[str]) -> Options:
    parser = _parser(servers)
    given = parser.parse_args(arguments)
    placements = tuple(p for p in cases.PLACEMENTS if getattr(given, p)) or cases.PLACEMENTS
    cores = tuple(sorted(os.sched_getaffinity(0)))
    if "pinned" in placements and len(cores) < 2 and not given.load:
        parser.error("--pinned needs two cores; use --free")
    if given.plot and importlib.util.find_spec("matplotlib") is None:
        parser.error("--plot needs matplotlib: run this with .venv-bench/bin/python")
    for name in ("json", "markdown", "plot"):
        target = getattr(given, name)
        if target and target != "-" and not Path(target).resolve().parent.is_dir():
            parser.error(f"--{name}: no such folder: {Path(target).resolve().parent}")
    for path in given.load:
        if not path.is_file():
            parser.error(f"--load: no such file: {path}")
    gate = None
    if given.min_req_per_sec_ratio or given.max_p95_ratio:
        if len(given.gate_server) != 1 or len(given.gate_peer) != 1:
            parser.error("--gate-server and --gate-peer take one server each")
        gate = Gate(
            given.gate_server[0],
            given.gate_peer[0],
            given.min_req_per_sec_ratio,
            given.max_p95_ratio,
        )
        for name in (gate.server, gate.peer):
            if given.servers and name not in given.servers and not given.load:
                parser.error(f"the gate compares {name}, which --servers leaves out")
    if given.cases and given.suite:
        parser.error("--suite is a set of cases: give it or --cases")
    default_cases = (
        cases.SUITES[given.suite or "spine"] if given.suite or given.bars else ("hello",)
    )
    return Options(
        requests=given.requests,
        duration=given.duration,
        concurrency=given.concurrency,
        warmup=given.warmup,
        host=given.host,
        iterations=given.iterations,
        servers=given.servers,
        cases=given.cases or default_cases,
        placements=placements,
        cores=(cores[0], cores[1]) if len(cores) > 1 else None,
        io_threads=given.io_threads,
        json=given.json,
        markdown=given.markdown,
        plot=given.plot,
        bars=given.bars,
        load=tuple(given.load),
        gate=gate,
    )
