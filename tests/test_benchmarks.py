"""The benchmark's judgement, on figures made up here: medians, ratios, bars, the regression gate, exit codes.

No measuring: a timed test would be noise. `make bench` measures.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import http
from benchmarks.harness import bars, cases, h2load, load, peers, server, wire
from benchmarks.harness import results as results_module
from benchmarks.harness.results import Results

MACHINE = {
    "cpu": "made up",
    "cores": 2,
    "kernel": "k",
    "python": "p",
    "commit": "c",
    "server_native": "s",
    "versions": {},
}


def results(**rates: list[float]) -> Results:
    """Pinned `hello` cells: server name (with _ for -) to its req/s samples; p95 is 1000 us for all."""
    whole = Results(dict(MACHINE), {})
    for name, samples in rates.items():
        cell = whole.cell("hello", "pinned", name.replace("_", "-"))
        cell.samples = [
            {"req_per_sec": rate, "p95_us": 1000.0, "cpu_us": 1e6 / rate, "wrk_cpu_pct": 50.0}
            for rate in samples
        ]
    return whole


def test_a_cell_is_the_median_of_its_rounds_and_a_failed_one_has_no_figures() -> None:
    whole = results(ours_sync=[1.0, 100.0, 110.0, 120.0, 9999.0])
    cell = whole.cell("hello", "pinned", "ours-sync")
    assert cell.median("req_per_sec") == 110.0
    cell.failure = "answered 500"
    assert cell.median("req_per_sec") is None


def test_a_bar_is_judged_by_the_ratio_to_its_peer_in_the_same_run() -> None:
    whole = results(ours_sync=[210.0], granian_rsgi=[100.0])
    verdicts = {
        (v.bar.metric, v.placement): v for v in bars.evaluate(whole) if v.verdict != "not measured"
    }
    assert verdicts["req_per_sec", "pinned"].measured == pytest.approx(2.1)
    assert verdicts["req_per_sec", "pinned"].verdict == "pass"
    assert verdicts["cpu_us", "pinned"].measured == pytest.approx(1 / 2.1)


@pytest.mark.parametrize(
    ("minimum", "maximum", "passed"), [(2.0, None, True), (2.2, None, False), (None, 0.9, False)]
)
def test_the_gate_compares_rate_and_p95(
    minimum: float | None, maximum: float | None, passed: bool
) -> None:
    gate = bars.Gate("ours-sync", "uvicorn", minimum, maximum)
    verdict, messages = gate.evaluate(results(ours_sync=[210.0], uvicorn=[100.0]))
    assert verdict is passed
    assert any("ours-sync / uvicorn" in message for message in messages)


def test_a_gate_that_compared_nothing_fails() -> None:
    verdict, messages = bars.Gate("ours-sync", "uvicorn", 1.0, None).evaluate(results())
    assert not verdict
    assert messages


@pytest.mark.parametrize(
    "arguments",
    [
        ["--requests=0"],
        ["--iterations", "0"],
        ["--servers", "apache"],
        ["--bogus"],
        ["--min-req-per-sec-ratio=-1"],
    ],
)
def test_an_impossible_option_exits_64(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        http.main(arguments)
    assert exit_.value.code == 64
    assert arguments[0].split("=")[0] in capsys.readouterr().err


def test_the_exit_code_of_a_failed_gate_is_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.json"
    path.write_text(results(ours_sync=[100.0], granian_rsgi=[100.0]).to_json())
    chosen = ["--load", str(path), "--gate-server", "ours-sync", "--gate-peer", "granian-rsgi"]
    assert http.main([*chosen, "--min-req-per-sec-ratio", "1.5"]) == 1
    assert http.main([*chosen, "--min-req-per-sec-ratio", "0.9"]) == 0
    assert "hello pinned" in capsys.readouterr().err
    assert json.loads(path.read_text())["cells"][0]["medians"]["req_per_sec"] == 100.0


def test_every_bar_names_a_case_that_its_servers_have_and_a_metric_it_measures() -> None:
    specs = server.specs(peers.read(), None)
    for bar in bars.BARS:
        case = cases.CASES[bar.case]
        assert bar.metric in (*cases.COLUMNS[case.kind], "p50_us"), bar
        assert bar.placement in (None, *cases.PLACEMENTS), bar
        for name in filter(None, (bar.server, bar.peer)):
            assert case.variant in specs[name].commands, bar


def test_every_case_and_command_has_a_variant_that_the_harness_can_ask() -> None:
    assert {case.variant for case in cases.CASES.values()} == set(wire.WIRES)
    for spec in server.specs(peers.read(), None).values():
        assert set(spec.commands) <= set(wire.WIRES), spec.name
    assert sorted(cases.SUITES["spine"] + cases.SUITES["complete"]) == sorted(cases.CASES)


def test_bars_of_a_suite_that_was_not_measured_are_not_shown() -> None:
    shown = bars.evaluate(results(ours_sync=[210.0], granian_rsgi=[100.0]))
    assert {cases.CASES[verdict.bar.case].suite for verdict in shown} == {"spine"}


def test_runs_of_one_case_each_are_joined(tmp_path: Path) -> None:
    paths = []
    for case in ("tls", "memory"):
        whole = Results(dict(MACHINE), {})
        metric = cases.COLUMNS[cases.CASES[case].kind][0]
        whole.cell(case, "pinned", "ours-sync").samples = [
            {metric: 2.0, "open_connections": 10_000}
        ]
        whole.cell(case, "pinned", "granian-rsgi").samples = [
            {metric: 1.0, "open_connections": 10_000}
        ]
        paths.append(tmp_path / f"{case}.json")
        paths[-1].write_text(whole.to_json())
    joined = results_module.load(paths)
    verdicts = {
        (v.bar.case, v.bar.server, v.bar.peer): v.verdict
        for v in bars.evaluate(joined)
        if v.measured is not None
    }
    assert verdicts["tls", "ours-sync", "granian-rsgi"] == "pass"
    assert verdicts["memory", "ours-sync", "granian-rsgi"] == "miss"


def test_a_server_that_closed_idle_connections_is_not_judged_by_its_memory() -> None:
    whole = Results(dict(MACHINE), {})
    for name, still_open in (("ours-sync", 10_000), ("granian-rsgi", 1_024)):
        whole.cell("memory", "free", name).samples = [
            {"kib_per_connection": 9.0, "open_connections": still_open}
        ]
    verdict = next(v for v in bars.evaluate(whole) if v.bar.case == "memory")
    assert verdict.verdict == "not measured"
    assert "closed 8976 connections" in verdict.note


H2LOAD = """
finished in 1.00s, 3.00 req/s, 1.00KB/s
requests: 3 total, 35 started, {done} done, 3 succeeded, 0 failed, {errored} errored, 0 timeout
status codes: 3 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 1.00KB (1024) total, 99B (99) headers (space savings 9.99%), 15B (15) data
"""


def test_what_h2load_prints_is_read_and_a_failed_request_refused() -> None:
    log = "1\t200\t30\n2\t200\t10\n3\t200\t20\n"
    read = h2load.parse(H2LOAD.format(done=3, errored=0), log, 0.5)
    assert (read.requests, read.seconds, read.bytes, read.p50_us) == (3, 1.0, 15, 20)
    with pytest.raises(load.LoadError, match="1 errored"):
        h2load.parse(H2LOAD.format(done=4, errored=1), log, 0.5)


def test_a_suite_and_single_cases_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        http.main(["--suite", "complete", "--cases", "hello"])
    assert exit_.value.code == 64
    assert "--suite" in capsys.readouterr().err
