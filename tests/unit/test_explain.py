"""The table of the search, and its data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from server_native._platform import host
from server_native._trust import Trust
from server_native._verdicts import Finding, Search, Step, Verdict, nothing_found
from server_native.errors import PrebuiltError
from server_native.setup.explain import data, explain, text

HOME = Path("/home/someone")
FOUND = Search(
    (
        Step("1", "env SERVER_NATIVE_PREBUILT", Finding(Verdict.ABSENT, "unset")),
        Step(
            "2",
            "project cache",
            Finding(
                Verdict.REJECTED,
                "sha256 9c1e… is not the pinned 41aa… (trust: none)",
                HOME
                / "app/.server_native/prebuilt/server-native-prebuilt-v0.1.0/linux-x64/libserver_native.so",
            ),
        ),
        Step(
            "6",
            "package",
            Finding(Verdict.CHOSEN, "", Path("/usr/lib/x/libserver_native.so"), Trust.PINNED),
        ),
        Step("7", "package, no tag", Finding(Verdict.NOT_REACHED)),
    ),
    None,
)


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(HOME))


def test_the_table_has_every_step_and_what_was_chosen() -> None:
    lines = text(data(FOUND)).splitlines()
    assert lines[0].startswith("server_native 0.1.0  abi ")
    assert lines[1].startswith(f"host {host().text}  tag server-native-prebuilt-v")
    assert lines[2].split() == ["#", "source", "path", "verdict"]
    column = lines[2].index("verdict")
    assert [line[column:] for line in lines[3:-1]] == [
        "absent  unset",
        "REJECTED  sha256 9c1e… is not the pinned 41aa… (trust: none)",
        "CHOSEN  pinned",
        "not reached",
    ]
    assert "~/app/.server_native/prebuil…" in lines[4]
    assert lines[-1] == "chosen: /usr/lib/x/libserver_native.so (trust: pinned)"
    assert max(map(len, lines)) <= 160


def test_the_data_is_json_and_the_table_is_made_of_it() -> None:
    seen = data(FOUND)
    again = json.loads(json.dumps(seen))
    assert again == seen
    assert text(again) == text(seen)
    assert seen["path"] == "/usr/lib/x/libserver_native.so"
    assert (seen["trust"], seen["error"], seen["pending"]) == ("pinned", None, None)
    assert seen["steps"][1] == {
        "number": "2",
        "source": "project cache",
        "path": str(FOUND.steps[1].finding.path),
        "verdict": "rejected",
        "reason": "sha256 9c1e… is not the pinned 41aa… (trust: none)",
        "trust": None,
    }


def test_what_was_not_found_is_said_below_the_table_once() -> None:
    steps = [FOUND.steps[0]]
    error = nothing_found(steps, host())
    seen = data(Search(tuple(steps), error))
    assert seen["error"] == {"code": "E-NOLIB", "text": str(error)}
    shown = text(seen)
    assert shown.count("SERVER_NATIVE_PREBUILT: absent") == 0
    assert "chosen: none. no native library of server_native was found. This is " in shown
    assert shown.endswith("[E-NOLIB]")


def test_what_ended_the_search_is_said_below_the_table() -> None:
    error = PrebuiltError("E-ENV", "SERVER_NATIVE_PREBUILT names nothing")
    step = Step("1", "env", Finding(Verdict.REJECTED, "does not exist", error=error))
    shown = text(data(Search((step,), error)))
    assert shown.endswith("chosen: none. SERVER_NATIVE_PREBUILT names nothing [E-ENV]")


def test_what_the_first_use_would_do_is_said() -> None:
    step = Step("10", "download", Finding(Verdict.SKIPPED, "would fetch it", pending=True))
    assert text(data(Search((step,), None))).endswith(
        "chosen: none yet; the first use takes step 10"
    )


def test_a_reason_of_many_lines_has_its_first_in_the_table() -> None:
    step = Step("11", "cargo build", Finding(Verdict.REJECTED, "it failed:\n  error\n  more"))
    assert "it failed:\n" in text(data(Search((step,), PrebuiltError("E-NOLIB", "none"))))
    assert "error" not in text(data(Search((step,), PrebuiltError("E-NOLIB", "none"))))


def test_looking_at_this_machine_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SERVER_NATIVE_PREBUILT", raising=False)
    monkeypatch.setenv("SERVER_NATIVE_CACHE_DIR", str(tmp_path / "cache"))
    seen = explain()
    assert len(seen["steps"]) == 12
    assert list(tmp_path.iterdir()) == []
