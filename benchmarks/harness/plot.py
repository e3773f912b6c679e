"""Bar charts of the rate cases, PNG and SVG."""

from __future__ import annotations

import importlib
from typing import Any

from benchmarks.harness import cases
from benchmarks.harness.results import Cell, Results, is_ours

METRICS = ("req_per_sec", "cpu_us", "p99_us")
OURS, PEERS = "#d1495b", "#8d99ae"


def _draw(axes: Any, cells: list[Cell], metric: str, title: str) -> None:
    known = [(cell, cell.median(metric)) for cell in cells]
    values = [(cell, value) for cell, value in known if value is not None]
    values.sort(key=lambda pair: pair[1], reverse=metric != "req_per_sec")
    labels = [f"{cell.server} {cell.marks}".strip() for cell, _ in values]
    colours = [OURS if is_ours(cell.server) else PEERS for cell, _ in values]
    bars = axes.barh(labels, [value for _, value in values], color=colours)
    figures = [cases.METRICS[metric].write(value) for _, value in values]
    axes.bar_label(bars, figures, padding=3, fontsize=8)
    axes.set_title(f"{title}: {cases.METRICS[metric].heading}", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.margins(x=0.18)
    axes.spines[["top", "right"]].set_visible(False)


def write(results: Results, prefix: str) -> list[str]:
    """Write PREFIX.png and PREFIX.svg; returns their names."""
    matplotlib: Any = importlib.import_module("matplotlib")  # only --plot needs it
    matplotlib.use("agg")
    pyplot: Any = importlib.import_module("matplotlib.pyplot")

    groups = [group for group in results.groups() if group[0].kind == "rate"]
    if not groups:
        return []
    height = sum(0.9 + 0.26 * len(cells) for _, _, cells in groups)
    figure, grid = pyplot.subplots(len(groups), len(METRICS), figsize=(15, height), squeeze=False)
    for row, (case, placement, cells) in zip(grid, groups, strict=True):
        for axes, metric in zip(row, METRICS, strict=True):
            _draw(axes, cells, metric, f"{case.name}, {placement}")
    where = results.machine
    note = f"medians; {where['cpu']}, {where['date']}, {where['commit'][:12]}"
    figure.text(
        0.5, 0.002, f"{note}; † load generator saturated, * disturbed", fontsize=8, ha="center"
    )
    figure.tight_layout(rect=(0, 0.01, 1, 1))
    names = [f"{prefix}.png", f"{prefix}.svg"]
    for name in names:
        figure.savefig(name, dpi=110)
    pyplot.close(figure)
    return names
