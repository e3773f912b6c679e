"""Rows as text: a line each while they come, JSON for machines, a table for docs/reliability.md."""

from __future__ import annotations

import datetime
import json
import os
import platform
from dataclasses import asdict
from pathlib import Path

from tests.faults.campaign import servers
from tests.faults.campaign.registry import ATTACKS
from tests.faults.campaign.running import SCALES, SLACK, SLOWER, SUCCESS, Row

BEGIN = "<!-- campaign: begin -->"
END = "<!-- campaign: end -->"


def line(row: Row) -> str:
    """One row, for eyes."""
    name = f"{row.attack:20} {row.server:8}"
    if not row.spoken:
        return f"{name} not spoken"
    if not row.outcome:
        return f"{name} {'; '.join(row.complaints)}"
    outcome = row.outcome
    reaped = "-" if outcome["reaped"] is None else f"{outcome['reaped']:.1f}"
    figures = {name: round(value, 3) for name, value in outcome["figures"].items()}
    return (
        f"{name} {'ok ' if not row.complaints else 'BAD'} {row.success:5.1f} %"
        f" p99 {row.baseline_p99 * 1000:.1f}->{row.attack_p99 * 1000:.1f} ms"
        f" +{row.grown:.0f} MiB (kept {row.kept:.0f}) cpu {row.processor:.1f}/{row.lasted:.1f} s"
        f" handlers {row.handlers} sent {outcome['sent']} ended {outcome['ended']}/{outcome['connections']}"
        f" refused {outcome['refused']} reaped {reaped} fds +{row.descriptors} {figures}"
    )


def machine() -> str:
    """What it ran on, without the machine's name."""
    model = "unknown processor"
    for entry in Path("/proc/cpuinfo").read_text().splitlines():
        if entry.startswith("model name"):
            model = entry.split(":", 1)[1].strip()
            break
    return (
        f"{model}, {os.cpu_count()} processors, {platform.system()} {platform.release()}, "
        f"CPython {platform.python_version()}"
    )


def head(rows: list[Row], scale: str) -> dict[str, str]:
    names = list(dict.fromkeys(row.server for row in rows))
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "servers": ", ".join(servers.version(name) for name in names),
        "machine": machine(),
        "scale": scale,
    }


def write_json(path: Path, rows: list[Row], scale: str) -> None:
    """Everything that was measured."""
    told = {**head(rows, scale), "rows": [{**asdict(row), "slower": row.slower} for row in rows]}
    path.write_text(json.dumps(told, indent=1) + "\n")


def beside(path: Path, rows: list[Row], scale: str) -> list[Row]:
    """These rows, and from an earlier run of the same scale those of servers that were not attacked now."""
    told = json.loads(path.read_text())
    if (told["scale"], told["machine"]) != (scale, machine()):
        raise ValueError(
            f"{path} is of scale {told['scale']} on {told['machine']}: not to be compared"
        )
    for found in told["rows"]:
        found.pop("slower")
    now = {row.server for row in rows}
    return rows + [Row(**found) for found in told["rows"] if found["server"] not in now]


def cell(row: Row) -> str:
    """One server's figures: probes answered, p99 against before, memory, and when it got rid of the attackers."""
    if not row.spoken:
        return "not spoken"
    if not row.outcome:
        return f"**{row.complaints[0].splitlines()[0][:60]}**"
    success = f"{row.success:.0f} %" if row.success in (0, 100) else f"{row.success:.1f} %"
    slower = f"×{row.slower:.1f}"
    parts = [
        success if row.success >= SUCCESS else f"**{success}**",
        slower if row.slower <= SLOWER else f"**{slower}**",
        f"+{row.grown:.0f}",
    ]
    if ATTACKS[row.attack].bars.reaped is not None:
        reaped = row.outcome["reaped"]
        parts.append("**stay**" if reaped is None else f"{reaped:.1f} s")
    if row.descriptors > SLACK:
        parts.append(f"**{row.descriptors} fds kept**")
    elif row.settled is None:
        parts.append("**connections kept**")
    bars = ATTACKS[row.attack].bars
    if row.grown > bars.memory:
        parts[2] = f"**{parts[2]}**"
    # For peers only where handlers are what an attack is after: not every one has, say, native routes.
    judged = row.server == "ours" or bars.about_handlers
    allowed = bars.allowed(row.outcome["sent"], row.outcome["connections"])
    if judged and row.handlers > allowed:
        parts.append(f"**{row.handlers:,} handlers**")
    return ", ".join(parts)


def table(rows: list[Row], scale: str) -> str:
    names = list(dict.fromkeys(row.server for row in rows))
    told = head(rows, scale)
    about = (
        f"{told['date']}, scale {scale} (an attack lasts at most {SCALES[scale].cap:.0f} s); {told['servers']};"
        f" {told['machine']}."
    )
    lines = [
        about,
        "",
        "| attack | size | " + " | ".join(names) + " | good means |",
        "|---" * (len(names) + 3) + "|",
    ]
    for attack in dict.fromkeys(row.attack for row in rows):
        known = ATTACKS[attack]
        cells = {row.server: cell(row) for row in rows if row.attack == attack}
        size = next(row.size for row in rows if row.attack == attack)
        figures = " | ".join(cells.get(name, "") for name in names)
        lines.append(f"| {known.title} | {size:,} {known.unit} | {figures} | {known.expected} |")
    return "\n".join(lines)


def write_markdown(path: Path, rows: list[Row], scale: str) -> None:
    """Puts the table between the markers; raises ``ValueError`` when they are not there."""
    text = path.read_text()
    before, after = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
    path.write_text(f"{before}\n{table(rows, scale)}\n{after}")
