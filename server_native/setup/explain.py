"""The search for the library as a table for people and as data for programs."""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from typing import Any

from server_native import __version__
from server_native._judge import bindings_abi
from server_native._library import search
from server_native._manifest import package_manifest
from server_native._platform import host
from server_native._verdicts import Search, Step

__all__ = ["data", "explain", "text"]

#: Columns of a path in the table; longer ones lose their middle.
_PATH = 58


def explain() -> dict[str, Any]:
    """Looks, without fetching or building, and answers what :func:`text` shows. Raises E-ENV for a bad variable."""
    return data(search(download=False, build=False))


def data(found: Search) -> dict[str, Any]:
    """A search as values that JSON knows."""
    here = host()
    chosen = found.chosen
    pending = found.pending
    return {
        "version": __version__,
        "abi": bindings_abi(),
        "python": platform.python_version(),
        "implementation": sys.implementation.name,
        "bits": 64 if sys.maxsize > 1 << 32 else 32,
        "platform": here.label,
        "host": here.text,
        "reason": here.reason or None,
        "tag": package_manifest().tag,
        "steps": [_step(step) for step in found.steps],
        "path": str(chosen.path) if chosen else None,
        "trust": chosen.trust.value if chosen else None,
        "pending": pending.number if pending else None,
        "error": {"code": found.error.code, "text": str(found.error)} if found.error else None,
    }


def _step(step: Step) -> dict[str, Any]:
    finding = step.finding
    return {
        "number": step.number,
        "source": step.source,
        "path": str(finding.path) if finding.path else None,
        "verdict": finding.verdict.value,
        "reason": finding.reason or None,
        "trust": finding.trust.value
        if finding.path and finding.verdict.value == "chosen"
        else None,
    }


def text(seen: dict[str, Any]) -> str:
    """The table of what :func:`data` has answered."""
    head = (
        f"server_native {seen['version']}  abi {seen['abi']}  "
        f"python {seen['python']} ({seen['implementation']}, {seen['bits']}-bit)\n"
        f"host {seen['host']}  tag {seen['tag']}"
    )
    rows = [("#", "source", "path", "verdict")]
    for step in seen["steps"]:
        chosen = step["verdict"] in ("chosen", "rejected")
        verdict = step["verdict"].upper() if chosen else step["verdict"]
        parts = (verdict, step["trust"], (step["reason"] or "").partition("\n")[0])
        rows.append(
            (step["number"], step["source"], _short(step["path"]), "  ".join(filter(None, parts)))
        )
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    table = "\n".join(
        f"{row[0]:>{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]:<{widths[2]}}  {row[3]}".rstrip()
        for row in rows
    )
    return f"{head}\n{table}\n{_outcome(seen)}"


def _outcome(seen: dict[str, Any]) -> str:
    if seen["path"]:
        return f"chosen: {seen['path']} (trust: {seen['trust']})"
    if seen["pending"]:
        return f"chosen: none yet; the first use takes step {seen['pending']}"
    error = seen["error"]
    # The table stands above already.
    first, _, rest = str(error["text"]).partition(" Searched:\n")
    last = rest.rpartition("\n")[2] if rest else ""
    return f"chosen: none. {first}{' ' if last else ''}{last}"


def _short(path: str | None) -> str:
    if path is None:
        return ""
    try:
        home = str(Path.home())
    except RuntimeError:
        home = ""
    if home not in ("", "/") and path.startswith(home + "/"):
        path = "~" + path[len(home) :]
    if len(path) > _PATH:
        half = (_PATH - 1) // 2
        path = f"{path[:half]}…{path[-half:]}"
    return path
