"""One run of the load generator, wrk, with one thread."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SCRIPT = Path(__file__).with_name("report.lua")
ERRORS = ("connect", "read", "write", "timeout", "status")
NO_LIMIT = 3600  # seconds; a run counted in requests ends itself


class LoadError(Exception):
    """The load generator failed, or counted an error."""


@dataclass(frozen=True)
class Load:
    """What wrk reported. `requests` are responses completely received."""

    requests: int
    seconds: float
    bytes: int
    p50_us: float
    p95_us: float
    p99_us: float
    max_us: float
    cpu_seconds: float


def drive(
    url: str,
    *,
    connections: int,
    seconds: int,
    requests: int | None = None,
    headers: Mapping[str, str] | None = None,
    core: int | None = None,
) -> Load:
    """Load url for `seconds`, or until `requests` were sent. LoadError if wrk counted an error."""
    command = ["taskset", "-c", str(core)] if core is not None else []
    command += ["wrk", "-t1", f"-c{connections}", f"-d{NO_LIMIT if requests else seconds}s"]
    command += ["--timeout", "10s", "-s", str(SCRIPT)]
    for name, value in (headers or {}).items():
        command += ["-H", f"{name}: {value}"]
    environment = dict(os.environ)
    environment.pop("WRK_REQUESTS", None)
    if requests:
        environment["WRK_REQUESTS"] = str(requests)
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            [*command, url], stdout=output, stderr=subprocess.STDOUT, env=environment
        )
        try:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            if process.returncode is None:
                process.kill()
                process.wait()
        output.seek(0)
        text = output.read()
    return _parse(text, process.returncode, usage.ru_utime + usage.ru_stime)


def _parse(text: str, status: int, cpu_seconds: float) -> Load:
    lines = text.strip().splitlines()
    if status != 0 or not lines or not lines[-1].startswith("{"):
        raise LoadError(f"wrk ended with status {status}: {' / '.join(lines[-5:])}")
    report = json.loads(lines[-1])
    errors = {name: report[name] for name in ERRORS if report[name]}
    if errors:
        counts = ", ".join(f"{count} {name}" for name, count in errors.items())
        raise LoadError(f"wrk counted errors: {counts} (of {report['requests']} requests)")
    if not report["requests"]:
        raise LoadError("wrk completed no request")
    return Load(
        requests=report["requests"],
        seconds=report["micros"] / 1e6,
        bytes=report["bytes"],
        p50_us=report["p50"],
        p95_us=report["p95"],
        p99_us=report["p99"],
        max_us=report["max"],
        cpu_seconds=cpu_seconds,
    )
