"""Samples of a run, their medians and ratios, and their form as JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.harness import cases

SATURATED_PCT = 90.0
DISTURBED_PCT = 10.0
Key = tuple[str, str, str]  # case, placement, server


def is_ours(server: str) -> bool:
    return server.startswith("ours-")


@dataclass
class Cell:
    """All samples of one server in one case and placement."""

    case: str
    placement: str
    server: str
    samples: list[dict[str, float]] = field(default_factory=list)
    failure: str = ""
    command: str = ""
    response_head: str = ""
    detail: dict[str, float] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        return self.case, self.placement, self.server

    def values(self, metric: str) -> list[float]:
        return [figures[metric] for figures in self.samples if metric in figures]

    def median(self, metric: str) -> float | None:
        """None for a cell that failed: a server that errors has no figures."""
        values = self.values(metric)
        return statistics.median(values) if values and not self.failure else None

    @property
    def saturated(self) -> bool:
        """The load generator was at its limit: req/s is a lower bound."""
        return (self.median("wrk_cpu_pct") or 0) >= SATURATED_PCT

    @property
    def disturbed(self) -> bool:
        return (self.median("other_cpu_pct") or 0) > DISTURBED_PCT

    @property
    def marks(self) -> str:
        return "†" * self.saturated + "*" * self.disturbed


@dataclass
class Results:
    machine: dict[str, Any]
    options: dict[str, Any]
    cells: dict[Key, Cell] = field(default_factory=dict)

    def cell(self, case: str, placement: str, server: str) -> Cell:
        """The cell, made when it is not there yet."""
        return self.cells.setdefault((case, placement, server), Cell(case, placement, server))

    def groups(self) -> list[tuple[cases.Case, str, list[Cell]]]:
        """(case, placement, its cells), in the order of the case table."""
        found = []
        known = [cell for cell in self.cells.values() if cell.samples or cell.failure]
        for case in cases.CASES.values():
            for placement in cases.PLACEMENTS:
                cells = [c for c in known if c.key[:2] == (case.name, placement)]
                if cells:
                    found.append((case, placement, cells))
        return found

    def median(self, key: Key, metric: str) -> float | None:
        return self.cells[key].median(metric) if key in self.cells else None

    def ratio(self, case: str, placement: str, server: str, peer: str, metric: str) -> float | None:
        """Median of server over median of peer; None if either is not measured."""
        mine = self.median((case, placement, server), metric)
        other = self.median((case, placement, peer), metric)
        return mine / other if mine is not None and other else None

    def failures(self) -> list[Cell]:
        return [cell for cell in self.cells.values() if cell.failure]

    def to_json(self, **more: Any) -> str:
        cells = []
        for cell in self.cells.values():
            metrics = cell.samples[0] if cell.samples else {}
            medians = {metric: cell.median(metric) for metric in metrics}
            marks = {"saturated": cell.saturated, "disturbed": cell.disturbed}
            cells.append(asdict(cell) | {"medians": medians} | marks)
        whole = {"machine": self.machine, "options": self.options, "cells": cells, **more}
        return json.dumps(whole, indent=1, ensure_ascii=False)


def load(paths: Iterable[Path]) -> Results:
    """Results of earlier runs as one; a cell of a later file replaces that of an earlier one."""
    whole: Results | None = None
    for path in paths:
        read = json.loads(path.read_text())
        if whole is None:
            whole = Results(read["machine"], read["options"])
        elif _comparable(whole.machine) != _comparable(read["machine"]):
            raise ValueError(f"{path} is of another machine, commit or other versions")
        names = Cell.__dataclass_fields__
        for row in read["cells"]:
            cell = Cell(**{name: row[name] for name in names})
            whole.cells[cell.key] = cell
    if whole is None:
        raise ValueError("no results to load")
    return whole


def _comparable(machine: dict[str, Any]) -> dict[str, Any]:
    names = ("cpu", "cores", "kernel", "python", "commit", "server_native", "versions")
    return {name: machine.get(name) for name in names}
