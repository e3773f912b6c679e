"""One run of h2load, with one thread: HTTP/2."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from benchmarks.harness.load import Load, LoadError, Target, run

COUNTS = re.compile(
    r"requests: (\d+) total, \d+ started, (\d+) done, (\d+) succeeded, (\d+) failed, "
    r"(\d+) errored, (\d+) timeout"
)
SECONDS = re.compile(r"finished in ([\d.]+)(us|ms|s)\b")
UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
DATA = re.compile(r"\((\d+)\) data")


def drive(target: Target, core: int | None = None) -> Load:
    """Load for `seconds`, or make `requests`. LoadError if h2load counted one that failed."""
    with tempfile.TemporaryDirectory(prefix="h2load-") as folder:
        log = Path(folder) / "log"  # h2load prints no percentiles: a line per request
        command = ["h2load", "-t1", f"-c{target.connections}", f"-m{target.streams}"]
        command += [f"--log-file={log}"]
        command += [f"-n{target.requests}"] if target.requests else [f"-D{target.seconds}"]
        text, cpu_seconds = run([*command, target.url], core)
        return parse(text, log.read_text(), cpu_seconds)


def parse(text: str, log: str, cpu_seconds: float) -> Load:
    counts, seconds, data = COUNTS.search(text), SECONDS.search(text), DATA.search(text)
    if counts is None or seconds is None or data is None:
        raise LoadError(f"h2load printed no report: {text[-500:]}")
    done, succeeded, *bad = map(int, counts.groups()[1:])
    if done != succeeded or any(bad):
        raise LoadError(f"h2load counted errors: {counts[0]}")
    if not succeeded:
        raise LoadError("h2load completed no request")
    micros = sorted(int(line.rpartition("\t")[2]) for line in log.splitlines())
    last = len(micros) - 1
    return Load(
        requests=succeeded,
        seconds=float(seconds[1]) * UNITS[seconds[2]],
        bytes=int(data[1]),
        p50_us=micros[last * 50 // 100],
        p95_us=micros[last * 95 // 100],
        p99_us=micros[last * 99 // 100],
        max_us=micros[last],
        cpu_seconds=cpu_seconds,
    )
