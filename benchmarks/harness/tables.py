"""Tables of results, as text for a terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.harness import bars, cases
from benchmarks.harness.results import Cell, Results, is_ours

LEGEND = (
    "† the load generator used 90 % of a core or more: its req/s is a lower bound, compare CPU per request.  "
    "* something else used more than 10 % of a core."
)


@dataclass(frozen=True)
class Table:
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def _result_table(case: cases.Case, placement: str, cells: list[Cell]) -> Table:
    metrics = cases.COLUMNS[case.kind]
    best = metrics[0]
    order = sorted(cells, key=lambda cell: cell.median(best) or 0, reverse=case.kind == "rate")
    columns = ["server", "n", *(cases.METRICS[metric].heading for metric in metrics)]
    columns.insert(3, "min–max")
    rows = []
    for cell in order:
        name = f"{cell.server} {cell.marks}".strip()
        if cell.failure:
            rows.append([name, str(len(cell.samples)), "FAILED", *[""] * (len(columns) - 3)])
            continue
        medians = [(metric, cell.median(metric)) for metric in metrics]
        row = [name, str(len(cell.samples))]
        row += ["–" if value is None else cases.METRICS[m].write(value) for m, value in medians]
        low, high = min(cell.values(best)), max(cell.values(best))
        row.insert(3, "–".join(cases.METRICS[best].write(value) for value in (low, high)))
        rows.append(row)
    title = f"{case.name}, {placement}" if case.kind == "rate" else case.name
    return Table(f"{title}: {case.about}", columns, rows)


def _ratio_table(results: Results, case: cases.Case, placement: str, cells: list[Cell]) -> Table:
    metrics = cases.RATIOS[case.kind]
    rows = []
    for mine in cells:
        for peer in cells:
            if not is_ours(mine.server) or is_ours(peer.server):
                continue
            row = [f"{mine.server} {mine.marks}".strip(), f"{peer.server} {peer.marks}".strip()]
            for metric in metrics:
                ratio = results.ratio(case.name, placement, mine.server, peer.server, metric)
                row.append("–" if ratio is None else f"{ratio:.2f}")
            rows.append(row)
    columns = ["ours", "peer", *(f"{cases.METRICS[metric].heading} ×" for metric in metrics)]
    return Table(f"{case.name}, {placement}: ours / peer, ratio of medians", columns, rows)


def result_tables(results: Results) -> Iterator[Table]:
    for case, placement, cells in results.groups():
        yield _result_table(case, placement, cells)
        ratios = _ratio_table(results, case, placement, cells)
        if cases.RATIOS[case.kind] and ratios.rows:
            yield ratios


def bar_table(verdicts: list[bars.Verdict]) -> Table:
    rows = []
    for verdict in verdicts:
        measured = "–" if verdict.measured is None else f"{verdict.measured:.2f}"
        limit = f"{verdict.bar.sign} {verdict.bar.limit:g}"
        row = [verdict.bar.case, verdict.placement, verdict.text, limit, measured]
        rows.append([*row, verdict.verdict, verdict.note])
    columns = ["case", "placement", "bar", "limit", "measured", "verdict", "note"]
    return Table("Bars", columns, rows)


def text(table: Table) -> str:
    lines = [list(table.columns), *(list(row) for row in table.rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(table.columns))]
    numeric = _numeric(table)

    def write(line: list[str]) -> str:
        return "  ".join(
            word.rjust(width) if right else word.ljust(width)
            for word, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([table.title, write(lines[0]), rule, *map(write, lines[1:])]) + "\n"


def _numeric(table: Table) -> list[bool]:
    return [
        all(not row[i] or row[i][0] in "–-0123456789F" for row in table.rows) and i > 0
        for i in range(len(table.columns))
    ]


def markdown(table: Table) -> str:
    rules = ["--:" if right else "---" for right in _numeric(table)]
    lines = [table.columns, rules, *table.rows]
    body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"### {table.title}\n\n{body}\n"


def markdown_report(results: Results, verdicts: list[bars.Verdict]) -> str:
    """All the README shows of a run: machine, bars, tables, failures, commands, heads."""
    machine: dict[str, Any] = results.machine
    measured = (
        f"Measured {machine['date']} at commit {machine['commit']} on {machine['cpu']}, "
        f"{machine['cores']} cores, Linux {machine['kernel']}, Python {machine['python']}; "
        f"load average before: {machine['load']}.\n"
    )
    parts = [
        measured,
        "Options: " + ", ".join(f"`{k}={v}`" for k, v in results.options.items()) + ".\n",
        f"server_native from `{machine['server_native']}`.\n",
        "Versions: " + ", ".join(f"{k} {v}" for k, v in machine["versions"].items()) + ".\n",
        LEGEND.replace("*", "\\*") + "\n",
        markdown(bar_table(verdicts)).replace("* ours", "\\* ours"),
        *map(markdown, result_tables(results)),
    ]
    parts.extend(
        f"Failed: {' '.join(cell.key)}\n\n```\n{cell.failure}\n```\n" for cell in results.failures()
    )
    parts.append("### Commands and response heads\n")
    shown: set[tuple[str, str]] = set()
    for cell in results.cells.values():
        variant = cases.CASES[cell.case].variant
        if cell.command and (cell.server, variant) not in shown:
            shown.add((cell.server, variant))
            head = cell.response_head.replace("\r\n", "\n")
            parts.append(f"{cell.server}, {variant}\n\n```\n{cell.command}\n\n{head}\n```\n")
    return "\n".join(parts)
