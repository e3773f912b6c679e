"""HTTP benchmark: server_native against its peers; the method is in README.md.

Exit status: 0 done; 1 the gate failed; 2 a server failed; 64 wrong usage; 69 not installed.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":  # a script's folder leads sys.path: this file would be `import http`
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import resource
import signal
from dataclasses import asdict
from typing import NoReturn

from benchmarks.harness import bars, cases, machine, measure, peers, plot, results, server, tables
from benchmarks.harness import options as command_line

GATE_FAILED, CELL_FAILED, UNAVAILABLE, INTERRUPTED = 1, 2, 69, 130


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def interrupted(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def measure_cell(
    cell: results.Cell, case: cases.Case, spec: server.Spec, options: command_line.Options
) -> str:
    """Add one sample to the cell, or say why there can be none; returns a line about it."""
    effort = measure.Effort(
        options.duration, options.warmup, options.concurrency, options.requests, options.host
    )
    cores = options.cores if cell.placement == "pinned" else None
    try:
        sample = measure.sample(case, spec, effort, cores)
    except server.ServerError as error:
        cell.failure = str(error)
        return f"FAILED\n{error}"
    cell.samples.append(sample.figures)
    cell.command, cell.response_head = sample.command, sample.response_head
    cell.detail = sample.detail
    metric = cases.COLUMNS[case.kind][0]
    return f"{cases.METRICS[metric].write(sample.figures[metric])} {cases.METRICS[metric].heading}"


def run(
    options: command_line.Options, specs: dict[str, server.Spec], whole: results.Results
) -> None:
    """Every case and placement, in rounds; within a round every server once."""
    for case in (cases.CASES[name] for name in options.cases):
        chosen = options.servers or tuple(specs)
        taken = [name for name in specs if case.variant in specs[name].commands]
        servers = [specs[name] for name in chosen if name in taken]
        left_out = [name for name in options.servers or () if name not in taken]
        if left_out:
            say(f"note: {case.name} is not for {', '.join(left_out)}")
        rounds = case.rounds(options.iterations)
        for placement in case.placements(options.placements):
            for number in range(rounds):
                for spec in servers:
                    cell = whole.cell(case.name, placement, spec.name)
                    if not cell.failure:
                        line = measure_cell(cell, case, spec, options)
                        where = f"{case.name} {placement} round {number + 1}/{rounds}"
                        say(f"{where} {spec.name}: {line}")


def put(text: str, target: str) -> None:
    if target == "-":
        print(text)
    else:
        Path(target).write_text(text + "\n")
        say(f"wrote {target}")


def report(options: command_line.Options, whole: results.Results) -> int:
    """Print and write what was asked for; returns the exit status."""
    quiet = "-" in (options.json, options.markdown)
    verdicts = bars.evaluate(whole)
    passed, messages = options.gate.evaluate(whole) if options.gate else (True, [])
    if not quiet:
        for table in tables.result_tables(whole):
            print(tables.text(table))
        print(tables.LEGEND)
        if options.bars:
            print("\n" + tables.text(tables.bar_table(verdicts)))
    if options.json:
        bar_rows = [asdict(verdict) for verdict in verdicts]
        gate = {"passed": passed, "messages": messages} if options.gate else None
        put(whole.to_json(bars=bar_rows, gate=gate), options.json)
    if options.markdown:
        put(tables.markdown_report(whole, verdicts), options.markdown)
    if options.plot:
        for name in plot.write(whole, options.plot):
            say(f"wrote {name}")
    for message in messages:
        say(f"gate: {message}")
    for cell in whole.failures():
        say(f"FAILED {' '.join(cell.key)}: {cell.failure}")
    if not passed:
        return GATE_FAILED
    return CELL_FAILED if whole.failures() else 0


def main(arguments: list[str] | None = None) -> int:
    peer_file = peers.read()
    options = command_line.parse(arguments, tuple(server.specs(peer_file, None)))
    if options.load:
        try:
            return report(options, results.load(options.load))
        except (ValueError, KeyError, TypeError) as error:
            say(f"http.py: --load: {error}")
            return command_line.USAGE_ERROR
    wrong, odd = peers.problems(peer_file)
    for line in odd:
        say(f"note: {line}")
    if wrong:
        say("\n".join([*wrong, "Run benchmarks/install.sh."]))
        return UNAVAILABLE
    shown = asdict(options)
    for name in ("json", "markdown", "plot", "load", "bars", "gate"):
        del shown[name]
    _, descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)  # the servers inherit it
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
    whole = results.Results(machine.describe(peer_file), shown)
    signal.signal(signal.SIGTERM, interrupted)
    try:
        run(options, server.specs(peer_file, options.io_threads), whole)
    except KeyboardInterrupt:
        say("interrupted; this is what was measured so far")
        report(options, whole)
        return INTERRUPTED
    if not whole.cells:
        say("http.py: none of the servers has one of the cases")
        return command_line.USAGE_ERROR
    return report(options, whole)


if __name__ == "__main__":
    sys.exit(main())
