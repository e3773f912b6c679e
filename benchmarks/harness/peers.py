"""peers.txt: which versions, which commands, and what of it is missing on this machine."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parent.parent
ROOT = BENCHMARKS.parent
VENV = ROOT / ".venv-bench"
LOAD = BENCHMARKS / "load" / "target" / "release"
PROGRAMS = {
    "nginx-light": "nginx",
    "wrk": "wrk",
    "nghttp2-client": "h2load",
    "strace": "strace",
    "openssl": "openssl",
}


@dataclass(frozen=True)
class PeerFile:
    pins: dict[str, str]  # PyPI name -> version
    debian: dict[str, str]  # Debian package -> version
    commands: dict[str, dict[str, tuple[str, ...]]]  # label -> variant -> command template


def read(path: Path = BENCHMARKS / "peers.txt") -> PeerFile:
    peers = PeerFile({}, {}, {})
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line.startswith("#: "):
            name, *command = shlex.split(line[3:])
            label, _, variants = name.partition("/")
            for variant in variants.split(","):
                words = tuple(word.replace("{variant}", variant) for word in command)
                peers.commands.setdefault(label, {})[variant] = words
        elif line.startswith("#! "):
            package, version = line[3:].split()
            peers.debian[package] = version
        elif line and not line.startswith("#"):
            pin = re.fullmatch(r"([\w.-]+)==([\w.+-]+)", line.strip())
            if pin is None:
                raise ValueError(f"{path}:{number}: not a NAME==VERSION pin: {line}")
            peers.pins[pin[1]] = pin[2]
    return peers


def environment() -> dict[str, str]:
    """Where every server finds its modules: a PYTHONPATH of the caller comes first."""
    paths = [os.environ.get("PYTHONPATH", ""), str(ROOT), str(BENCHMARKS / "servers")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def _debian_version(package: str) -> str:
    query = ["dpkg-query", "-W", "-f", "${Version}", package]
    if shutil.which(query[0]) is None:
        return "unknown"
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def installed(peers: PeerFile) -> dict[str, str]:
    """Versions found on this machine; a missing package is absent."""
    site = [str(path) for path in VENV.glob("lib/python*/site-packages")]
    found = {
        re.sub(r"[-_.]+", "-", item.name).lower(): item.version
        for item in metadata.distributions(path=site)
    }
    versions = {}
    for name in peers.pins:
        version = found.get(re.sub(r"[-_.]+", "-", name).lower())
        if version is not None:
            versions[name] = version
    for package in peers.debian:
        if shutil.which(PROGRAMS[package]):
            versions[package] = _debian_version(package)
    return versions


def problems(peers: PeerFile) -> tuple[list[str], list[str]]:
    """(what makes a run impossible, what only makes it less comparable)."""
    found = installed(peers)
    wrong = [
        f"{name}=={version} is pinned but {found.get(name, 'nothing')} is installed in {VENV.name}"
        for name, version in peers.pins.items()
        if found.get(name) != version
    ]
    wrong += [f"Debian package {name} is missing" for name in peers.debian if name not in found]
    wrong += [
        f"benchmarks/load is not built: no {name}"
        for name in ("load", "static-h3")
        if not (LOAD / name).is_file()
    ]
    if shutil.which("taskset") is None:
        wrong.append("taskset (Debian package util-linux) is missing")
    odd = [
        f"{name} is {found[name]}, the published figures used {version}"
        for name, version in peers.debian.items()
        if name in found and found[name] != version
    ]
    return wrong, odd
