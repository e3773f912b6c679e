"""Attacks servers and tells how they and their other clients fared.

``python -m tests.faults.campaign --scale full --servers ours,granian --attacks slow_head,ping --json F --markdown G``

``--beside`` takes the rows of peers, which our commits do not change, from an earlier run. ``--markdown`` writes the
table between the markers of the file, which is docs/reliability.md. Exits with 1 when our server misses a bar.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.faults.campaign import report
from tests.faults.campaign.registry import ATTACKS
from tests.faults.campaign.running import SCALES, Row, run
from tests.faults.campaign.servers import SPEAKS


def listed(known: list[str], text: str) -> list[str]:
    """The names of an option, each of them known."""
    names = text.split(",")
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: choose from {', '.join(known)}")
    return names


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.campaign", description=__doc__)
    parser.add_argument(
        "--servers", type=lambda text: listed(list(SPEAKS), text), default=list(SPEAKS)
    )
    parser.add_argument(
        "--attacks", type=lambda text: listed(list(ATTACKS), text), default=list(ATTACKS)
    )
    parser.add_argument("--scale", choices=list(SCALES), default="small")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument(
        "--beside",
        type=Path,
        help="JSON of an earlier run on this machine: the table has its rows of other servers too",
    )
    options = parser.parse_args()
    rows: list[Row] = []
    for attack in options.attacks:
        for server in options.servers:
            rows.append(run(ATTACKS[attack], server, SCALES[options.scale]))
            print(report.line(rows[-1]), flush=True)
    if options.json is not None:
        report.write_json(options.json, rows, options.scale)
    if options.markdown is not None:
        shown = (
            rows if options.beside is None else report.beside(options.beside, rows, options.scale)
        )
        report.write_markdown(options.markdown, shown, options.scale)
    failed = [row for row in rows if row.server == "ours" and row.complaints]
    for row in failed:
        print(f"\n{row.attack}:\n  " + "\n  ".join(row.complaints))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
