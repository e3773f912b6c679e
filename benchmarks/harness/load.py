"""One run of a load generator: what all of them report, and how they are run."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import peers

NO_LIMIT = 3600  # seconds; a run counted in requests ends itself


class LoadError(Exception):
    """The load generator failed, or counted an error."""


@dataclass(frozen=True)
class Load:
    """What was reported. `requests` are responses completely received."""

    requests: int
    seconds: float
    bytes: int  # of whole responses (wrk), of bodies (the others)
    p50_us: float
    p95_us: float
    p99_us: float
    max_us: float
    cpu_seconds: float
    head: str = ""  # of a response, where the load generator shows it


@dataclass(frozen=True)
class Target:
    """What is loaded, and how."""

    host: str
    port: int
    connections: int
    seconds: int
    streams: int = 1
    requests: int | None = None
    upload: int = 0
    expect: int = 0
    headers: Mapping[str, str] | None = None
    secure: bool = False
    certificate: Path | None = None

    @property
    def url(self) -> str:
        return f"{'https' if self.secure else 'http'}://{self.host}:{self.port}/"


def run(
    command: Sequence[str], core: int | None, environment: Mapping[str, str] | None = None
) -> tuple[str, float]:
    """What the program prints, and its CPU seconds. LoadError with its last lines if it fails."""
    pin = ["taskset", "-c", str(core)] if core is not None else []
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            [*pin, *command], stdout=output, stderr=subprocess.STDOUT, env=environment
        )
        try:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            if process.returncode is None:
                process.kill()
                process.wait()
        output.seek(0)
        text = output.read().strip()
    if process.returncode != 0:
        last = " / ".join(text.splitlines()[-5:])
        raise LoadError(f"{command[0]} ended with status {process.returncode}: {last}")
    return text, usage.ru_utime + usage.ru_stime


def from_json(program: str, text: str, cpu_seconds: float) -> Load:
    """Reads the last line of wrk with report.lua, or of load/."""
    last = text.rpartition("\n")[2]
    if not last.startswith("{"):
        raise LoadError(f"{program} printed no report: {last}")
    report = json.loads(last)
    if not report["requests"]:
        raise LoadError(f"{program} completed no request")
    return Load(
        requests=report["requests"],
        seconds=report["micros"] / 1e6,
        bytes=report["bytes"],
        p50_us=report["p50"],
        p95_us=report["p95"],
        p99_us=report["p99"],
        max_us=report["max"],
        cpu_seconds=cpu_seconds,
        head=report.get("head", ""),
    )


def drive(protocol: str, target: Target, core: int | None = None) -> Load:
    """Load with load/, which checks every answer."""
    command = [str(peers.LOAD / "load"), protocol, f"{target.host}:{target.port}"]
    command += ["--connections", str(target.connections), "--streams", str(target.streams)]
    command += ["--upload", str(target.upload), "--expect", str(target.expect)]
    if target.certificate:
        command += ["--certificate", str(target.certificate)]
    if target.requests:
        command += ["--requests", str(target.requests)]
    else:
        command += ["--seconds", str(target.seconds)]
    return from_json("load", *run(command, core))
