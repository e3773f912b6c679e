"""The fault campaign against our server (row H16), and that its bars can be missed.

With the peers beside it: ``python -m tests.faults.campaign``.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tests.faults.campaign import report
from tests.faults.campaign.model import Attack, Bars, Outcome
from tests.faults.campaign.registry import ATTACKS
from tests.faults.campaign.running import SCALES, Row, judge, run
from tests.faults.harness import ROOT


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize(
    "scale",
    [
        pytest.param("small", marks=pytest.mark.conformance),
        pytest.param("full", marks=pytest.mark.campaign),
    ],
)
def test_everybody_else_is_served_and_everything_comes_back(name: str, scale: str) -> None:
    row = run(ATTACKS[name], "ours", SCALES[scale])
    if row.complaints and all("times that of before" in said for said in row.complaints):
        # A machine that stalls does so once; a server that keeps others waiting does so again.
        row = run(ATTACKS[name], "ours", SCALES[scale])
    assert not row.complaints, report.line(row)


#: Attacks with a guard taken away, or a bar nobody keeps to: each kind of bar says so.
MISSED = [
    (replace(ATTACKS["slow_head"], limits={"head_ms": 60_000}), "not ended within"),
    (replace(ATTACKS["ws_mute_readers"], bars=Bars(memory=0)), "0 are allowed"),
    (replace(ATTACKS["rapid_reset_paced"], bars=Bars(handlers=0)), "handlers were called"),
    (replace(ATTACKS["quic_initials"], limits={"quic_handshakes": 65_535}), "nobody was asked"),
    # Who is not inside waits until the attack is over.
    (replace(ATTACKS["descriptors"], probe="mixed"), "times that of before"),
]


@pytest.mark.campaign
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("attack", "complaint"), MISSED, ids=[one.name for one, _ in MISSED])
def test_a_bar_can_be_missed(attack: Attack, complaint: str) -> None:
    row = run(attack, "ours", SCALES["small"])
    assert any(complaint in said for said in row.complaints), row.complaints


def test_a_server_that_cannot_be_attacked_so_is_said_to_be_one() -> None:
    row = run(ATTACKS["ping"], "uvicorn", SCALES["small"])
    assert not row.spoken
    assert report.cell(row) == "not spoken"


def _row(**changes: object) -> Row:
    row = Row("slow_head", "ours", size=10, probes=100, success=100.0, settled=0.1)
    row.baseline_p99, row.attack_p99, row.grown = 0.001, 0.004, 3.0
    row.outcome = asdict(Outcome(sent=10, connections=10, ended=10, reaped=1.25))
    return replace(row, complaints=[], **changes)  # type: ignore[arg-type]


def test_noise_below_the_floor_is_no_slowness() -> None:
    assert _row().slower == 1.0
    assert _row(attack_p99=0.05).slower == 10.0


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"success": 98.9}, "98.9 % of 100 probes"),
        ({"attack_p99": 0.0501}, "10.0 times that of before"),
        ({"descriptors": 3}, "3 descriptors were not given back"),
    ],
)
def test_a_figure_just_beyond_a_bar_is_complained_of(
    changes: dict[str, float], complaint: str
) -> None:
    row = _row(**changes)
    judge(row)
    assert [complaint in said for said in row.complaints] == [True]
    within = _row(success=99.0, attack_p99=0.05, descriptors=2)
    judge(within)
    assert not within.complaints


def test_what_misses_a_bar_is_bold() -> None:
    assert report.cell(_row()) == "100 %, ×1.0, +3, 1.2 s"
    assert "**98.0 %**" in report.cell(_row(success=98.0))
    assert "**×20.0**" in report.cell(_row(attack_p99=0.1))
    assert "**stay**" in report.cell(_row(outcome=asdict(Outcome(reaped=None))))
    assert "**12 fds kept**" in report.cell(_row(descriptors=12))


def test_the_table_goes_between_the_markers_of_the_page(tmp_path: Path) -> None:
    page = ROOT / "docs" / "reliability.md"
    copy = tmp_path / "page.md"
    copy.write_text(page.read_text())
    report.write_markdown(copy, [_row()], "small")
    report.write_markdown(copy, [_row()], "small")
    text = copy.read_text()
    assert text.count("100 %, ×1.0, +3, 1.2 s") == 1
    for source in (text, page.read_text()):
        assert source.index(report.BEGIN) < source.index(report.END)
    assert text.startswith(page.read_text()[: page.read_text().index(report.BEGIN)])
