"""The benchmark's judgement, on figures made up here: medians, ratios, bars, the regression gate, exit codes.

No measuring: a timed test would be noise. `make bench` measures.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import http
from benchmarks.harness import bars
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
