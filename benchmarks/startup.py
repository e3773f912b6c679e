"""What comes before the first request: importing the package, finding its library.

    python benchmarks/startup.py [--rounds N] [--library PATH]

An installed package is made in a temporary folder: the checkout's, with a manifest that pins the stripped library.
Every round runs each program once, in a process of its own, so that what else the machine does meets all of them;
medians are compared. Exit status: 0, or 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import compileall
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: Milliseconds, of medians.
IMPORT_BAR, RESOLVE_BAR = 30.0, 15.0

#: Whole processes: what is asked is how much longer than the bare interpreter they take.
PROGRAMS = {
    "bare interpreter": "pass",
    "import server_native": "import server_native",
    "import asyncio (for comparison)": "import asyncio",
    "from server_native import serve_native_direct": "from server_native import serve_native_direct",
}
#: Printed by the process itself: microseconds of the first search, and of the next one.
RESOLVE = """
import server_native, sys, time
{first}
began = time.perf_counter()
from server_native import _library
path = _library.locate()
first = time.perf_counter()
_library.locate()
print((first - began) * 1e6, (time.perf_counter() - first) * 1e6)
"""
SERVING = "from server_native import serve_native_direct"
RESOLVES: dict[str, tuple[str, dict[str, str]]] = {
    "first search of a server, hash verified": (SERVING, {}),
    "the same in a process that has imported nothing": ("", {}),
    "the same, SERVER_NATIVE_VERIFY=stamp": (SERVING, {"SERVER_NATIVE_VERIFY": "stamp"}),
}


def installed(folder: Path, library: Path) -> Path:
    """A package as a wheel leaves it; answers its library."""
    package = folder / "server_native"
    shutil.copytree(
        ROOT / "server_native", package, ignore=shutil.ignore_patterns("__pycache__", "prebuilt")
    )
    target = package / "lib" / library.name
    target.parent.mkdir()
    strip = shutil.which("strip")
    if strip is None or subprocess.run([strip, "-o", target, library], check=False).returncode != 0:
        shutil.copy(library, target)
    described = subprocess.run(
        [
            sys.executable,
            "-c",
            "from server_native import _judge, _platform; print(_platform.host().label, _judge.bindings_abi())",
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    label, abi = described.stdout.split()
    path = package / "_prebuilt" / "manifest.json"
    manifest = json.loads(path.read_text())
    content = target.read_bytes()
    manifest["abi"] = abi
    manifest["artifacts"][label] = {
        "archive": f"server_native-{label}.tar.gz",
        "archive_size": 1,
        "archive_sha256": "0" * 64,
        "member": target.name,
        "payload_size": len(content),
        "payload_sha256": hashlib.sha256(content).hexdigest(),
    }
    path.write_text(json.dumps(manifest))
    compileall.compile_dir(package, quiet=1)
    return target


def measure(
    program: str, folder: Path, environment: dict[str, str], cwd: Path
) -> tuple[float, list[float]]:
    """Milliseconds the process took, and the numbers it has printed."""
    began = time.perf_counter()
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=cwd,
        env={**environment, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    return (time.perf_counter() - began) * 1e3, [float(word) for word in result.stdout.split()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=41)
    release = ROOT / "native" / "target" / "release"
    parser.add_argument("--library", type=Path, default=release / "libserver_native.so")
    options = parser.parse_args()
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("SERVER_NATIVE_")
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "site"
        project = Path(temporary) / "project"
        project.mkdir()
        (project / "pyproject.toml").touch()
        environment["XDG_CACHE_HOME"] = str(Path(temporary) / "cache")
        size = installed(folder, options.library).stat().st_size
        imports: dict[str, list[float]] = {name: [] for name in PROGRAMS}
        searches: dict[str, list[list[float]]] = {name: [] for name in RESOLVES}
        for turn in range(options.rounds + 1):
            for name, program in PROGRAMS.items():
                taken, _ = measure(program, folder, environment, project)
                if turn:  # the first warms the caches
                    imports[name].append(taken)
            for name, (first, more) in RESOLVES.items():
                program = RESOLVE.format(first=first)
                _, printed = measure(program, folder, environment | more, project)
                if turn:
                    searches[name].append(printed)
    print(
        f"Python {sys.version.split()[0]}, {options.rounds} rounds, library of {size / 1e6:.1f} MB"
    )
    bare = statistics.median(imports["bare interpreter"])
    print(f"{'':<50} {'median':>9} {'over bare':>10}   ms")
    over = 0.0
    for name, samples in imports.items():
        median = statistics.median(samples)
        print(f"{name:<50} {median:>9.1f} {median - bare:>10.1f}")
        if name == "import server_native":
            over = median - bare
    print(f"{'':<50} {'first':>9} {'next':>10}   ms, medians")
    found = []
    for name, pairs in searches.items():
        first, following = (statistics.median(column) / 1e3 for column in zip(*pairs, strict=True))
        print(f"{name:<50} {first:>9.1f} {following:>10.1f}")
        found.append(first)
    missed = over > IMPORT_BAR or found[0] > RESOLVE_BAR
    print(
        f"bars: import {over:.1f} of {IMPORT_BAR:.0f} ms, search {found[0]:.1f} of {RESOLVE_BAR:.0f} ms: "
        f"{'missed' if missed else 'met'}"
    )
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
