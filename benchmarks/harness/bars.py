"""The bars the project set itself, as data, and the regression gate; both read results only."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.harness import cases
from benchmarks.harness.results import Results

RSGI = "granian-rsgi"


@dataclass(frozen=True)
class Bar:
    """`metric` of `server`, over that of `peer` if one is named, must be within `limit`."""

    case: str
    server: str
    peer: str | None
    metric: str
    sign: str
    limit: float
    placement: str | None = None  # None: in every placement that was measured


BARS = (
    Bar("hello", "ours-constant", "nginx", "cpu_us", "<=", 1.1),
    Bar("hello", "ours-sync", "nginx", "cpu_us", "<=", 1.35),
    Bar("hello", "ours-sync", RSGI, "req_per_sec", ">=", 2.0, "pinned"),
    Bar("hello", "ours-sync", RSGI, "req_per_sec", ">=", 1.5, "free"),
    Bar("hello", "ours-sync", RSGI, "cpu_us", "<=", 0.55),
    Bar("hello", "ours-sync", "socketify", "req_per_sec", ">=", 1.1, "pinned"),
    Bar("hello", "ours-async", "uvicorn", "req_per_sec", ">=", 1.5, "pinned"),
    Bar("hello", "ours-async", RSGI, "req_per_sec", ">=", 1.6, "pinned"),
    Bar("hello", "ours-async", RSGI, "cpu_us", "<=", 0.65),
    Bar("hello", "ours-asyncio-run", "uvicorn", "req_per_sec", ">=", 1.2, "pinned"),
    Bar("hello-c8", "ours-sync", RSGI, "req_per_sec", ">=", 2.0, "free"),
    Bar("hello-c1", "ours-sync", "uvicorn", "p50_us", "<=", 1.0),
    Bar("hello-c1", "ours-sync", RSGI, "p50_us", "<=", 0.6),
    Bar("hello-c1", "ours-sync", "uvicorn", "cpu_us", "<=", 1.0),
    Bar("syscalls", "ours-sync", None, "syscalls", "<=", 5.0),
    Bar("headers", "ours-sync", RSGI, "req_per_sec", ">=", 1.6, "pinned"),
    Bar("idle", "ours-sync", None, "idle_cpu_pct", "<=", 0.1),
    Bar("rss", "ours-sync", None, "rss_delta_mib", "<=", 2.0),
    # The complete suite.
    Bar("h2c", "ours-async", RSGI, "req_per_sec", ">=", 1.4, "pinned"),
    Bar("h2c", "ours-async", RSGI, "cpu_us", "<=", 0.7),
    Bar("tls", "ours-sync", "uvicorn", "req_per_sec", ">=", 1.8, "pinned"),
    Bar("tls", "ours-sync", RSGI, "req_per_sec", ">=", 1.6, "pinned"),
    Bar("http3", "ours-sync", "hypercorn", "req_per_sec", ">=", 5.0, "pinned"),
    Bar("http3", "ours-sync", "static-h3", "cpu_us", "<=", 1.5),
    Bar("websocket-64", "ours-async", "uvicorn", "req_per_sec", ">=", 1.8, "pinned"),
    Bar("websocket-64", "ours-async", RSGI, "req_per_sec", ">=", 1.2, "pinned"),
    Bar("websocket-16k", "ours-async", "uvicorn", "req_per_sec", ">=", 1.8, "pinned"),
    Bar("websocket-16k", "ours-async", RSGI, "req_per_sec", ">=", 1.2, "pinned"),
    Bar("upload", "ours-async", "aiohttp", "req_per_sec", ">=", 1.0, "pinned"),
    Bar("upload", "ours-async", "granian-asgi", "req_per_sec", ">=", 1.2, "pinned"),
    Bar("large", "ours-async", "uvicorn", "req_per_sec", ">=", 1.2, "pinned"),
    Bar("stream", "ours-async", "uvicorn", "req_per_sec", ">=", 1.5, "pinned"),
    Bar("memory", "ours-sync", RSGI, "kib_per_connection", "<=", 1.0),
    Bar("memory", "ours-async", RSGI, "kib_per_connection", "<=", 1.0),
)


@dataclass(frozen=True)
class Verdict:
    bar: Bar
    placement: str
    measured: float | None
    verdict: str  # pass, miss, not measured
    note: str

    @property
    def text(self) -> str:
        heading = cases.METRICS[self.bar.metric].heading
        over = f" / {self.bar.peer}" if self.bar.peer else ""
        return f"{self.bar.server}{over}, {heading}"


def _meets(measured: float, bar: Bar) -> bool:
    return measured >= bar.limit if bar.sign == ">=" else measured <= bar.limit


def _note(results: Results, bar: Bar, placement: str) -> str:
    """What one must know to read the figure, e.g. that it is a bound only."""
    notes = []
    for server, bound in ((bar.server, "a lower bound"), (bar.peer, "an upper bound")):
        cell = results.cells.get((bar.case, placement, server)) if server else None
        if cell is None:
            continue
        if cell.failure:
            notes.append(f"{server} failed")
        elif cell.saturated and bar.metric == "req_per_sec":
            notes.append(f"† {server}: {bound}")
        elif cell.saturated:
            notes.append(f"† {server}")
        if cell.disturbed:
            notes.append(f"* {server}")
        open_now, opened = cell.median("open_connections"), cases.CASES[bar.case].connections or 0
        if open_now is not None and open_now < opened:
            notes.append(f"{server} closed {opened - open_now:.0f} connections")
        if cell.case == "rss" and (cell.median("requests") or 0) < 0.99 * cases.RSS_TOTAL:
            notes.append(f"after {cell.median('requests') or 0:,.0f} requests only")
    return "; ".join(notes)


def evaluate(results: Results) -> list[Verdict]:
    """Every bar of the suites that were measured, in every placement it speaks of."""
    verdicts = []
    suites = {case.suite for case, _, _ in results.groups()}
    for bar in BARS:
        if cases.CASES[bar.case].suite not in suites:
            continue
        measured_in = [p for case, p, _ in results.groups() if case.name == bar.case]
        for placement in (bar.placement,) if bar.placement else measured_in or ["any"]:
            if bar.peer:
                measured = results.ratio(bar.case, placement, bar.server, bar.peer, bar.metric)
            else:
                measured = results.median((bar.case, placement, bar.server), bar.metric)
            note = _note(results, bar, placement)
            only = "closed" in note or "requests only" in note
            verdict = (
                "not measured"
                if measured is None or only
                else "pass"
                if _meets(measured, bar)
                else "miss"
            )
            verdicts.append(Verdict(bar, placement, measured, verdict, note))
    return verdicts


@dataclass(frozen=True)
class Gate:
    """The regression gate: a server against a peer, in every rate case measured for both."""

    server: str
    peer: str
    min_req_per_sec_ratio: float | None
    max_p95_ratio: float | None

    def evaluate(self, results: Results) -> tuple[bool, list[str]]:
        passed, messages, compared = True, [], 0
        for case, placement, _ in results.groups():
            if case.kind != "rate":
                continue
            where = f"{case.name} {placement}: {self.server} / {self.peer}"
            for metric, sign, limit in (
                ("req_per_sec", ">=", self.min_req_per_sec_ratio),
                ("p95_us", "<=", self.max_p95_ratio),
            ):
                if limit is None:
                    continue
                name = cases.METRICS[metric].heading
                mine = results.median((case.name, placement, self.server), metric)
                other = results.median((case.name, placement, self.peer), metric)
                if mine is None or other is None:
                    keys = [(case.name, placement, name) for name in (self.server, self.peer)]
                    if all(key in results.cells for key in keys):
                        passed = False
                        messages.append(f"FAIL {where}: {name} not measured")
                    continue
                if other == 0:
                    messages.append(f"skipped {where}: {name} of {self.peer} is 0")
                    continue
                compared += 1
                good = mine / other >= limit if sign == ">=" else mine / other <= limit
                passed = passed and good
                messages.append(
                    f"{'pass' if good else 'FAIL'} {where}: {name} ratio {mine / other:.3f} "
                    f"({mine:,.0f} / {other:,.0f}), must be {sign} {limit:g}"
                )
        if not compared:
            passed = False
            messages.append(f"FAIL: nothing measured for both {self.server} and {self.peer}")
        return passed, messages
