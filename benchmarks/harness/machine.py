"""What the figures were measured on."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.harness import peers


def _run(*command: str) -> str:
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=peers.ROOT,
        env=peers.environment(),
    )
    return done.stdout.strip() if done.returncode == 0 else ""


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _commit() -> str:
    commit = _run("git", "rev-parse", "HEAD") or "none"
    return commit + "-dirty" if _run("git", "status", "--porcelain") else commit


def describe(peer_file: peers.PeerFile) -> dict[str, Any]:
    script = "import platform; print(platform.python_implementation(), platform.python_version())"
    origin = "import importlib.util as u; s = u.find_spec('server_native'); print(s and s.origin)"
    python = str(peers.VENV / "bin" / "python")
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": _run(python, "-c", script),
        "server_native": _run(python, "-c", origin),  # which one: PYTHONPATH can name another
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "load": Path("/proc/loadavg").read_text().split()[0],
        "versions": peers.installed(peer_file),
        "commands": {
            f"{name}/{variant}": " ".join(words)
            for name, variants in peer_file.commands.items()
            for variant, words in variants.items()
        },
    }
