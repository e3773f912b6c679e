"""One run of wrk, with one thread."""

from __future__ import annotations

import json
import os
from pathlib import Path

from benchmarks.harness.load import NO_LIMIT, Load, LoadError, Target, from_json, run

SCRIPT = Path(__file__).with_name("report.lua")
ERRORS = ("connect", "read", "write", "timeout", "status")


def drive(target: Target, core: int | None = None) -> Load:
    """Load for `seconds`, or until `requests` were sent. LoadError if wrk counted an error."""
    command = ["wrk", "-t1", f"-c{target.connections}"]
    command += [f"-d{NO_LIMIT if target.requests else target.seconds}s"]
    command += ["--timeout", "10s", "-s", str(SCRIPT)]
    for name, value in (target.headers or {}).items():
        command += ["-H", f"{name}: {value}"]
    environment = dict(os.environ)
    environment.pop("WRK_REQUESTS", None)
    if target.requests:
        environment["WRK_REQUESTS"] = str(target.requests)
    text, cpu_seconds = run([*command, target.url], core, environment)
    _refuse_errors(text)
    return from_json("wrk", text, cpu_seconds)


def _refuse_errors(text: str) -> None:
    last = text.rpartition("\n")[2]
    report = json.loads(last) if last.startswith("{") else {}
    errors = {name: report[name] for name in ERRORS if report.get(name)}
    if errors:
        counts = ", ".join(f"{count} {name}" for name, count in errors.items())
        raise LoadError(f"wrk counted errors: {counts} (of {report['requests']} requests)")
