"""The list of platforms is one list: the workflow builds it, the documents show it, wheels are tagged by it."""

from __future__ import annotations

import doctest
import re
from pathlib import Path
from types import ModuleType

import pytest
from packaging.tags import Tag, parse_tag

from server_native import errors
from server_native._platform import PLATFORMS, Platform
from tools import build_prebuilt, build_wheels, record_transcripts

ROOT = Path(__file__).resolve().parent.parent.parent
WORKFLOW = ROOT / ".github" / "workflows" / "prebuilt.yml"
DEPLOYMENT = ROOT / "docs" / "deployment.md"
#: What the table of docs/deployment.md may claim.
CLAIMS = {"built and run here", "built here", "by workflow only"}


def test_the_workflow_builds_every_platform_for_its_target() -> None:
    text = WORKFLOW.read_text()
    built = dict(re.findall(r"\{label: ([\w-]+), runner: [\w.-]+, target: ([\w-]+)", text))
    assert built == {platform.label: platform.target for platform in PLATFORMS.values()}


def test_the_workflow_smokes_no_platform_that_is_not_built() -> None:
    labels = set(re.findall(r"label: ([a-z][\w-]+)", WORKFLOW.read_text()))
    assert labels == set(PLATFORMS)


@pytest.mark.parametrize("platform", PLATFORMS.values(), ids=list(PLATFORMS))
def test_a_wheel_has_a_tag_that_installers_understand(platform: Platform) -> None:
    assert parse_tag(f"py3-none-{platform.wheel}") == {Tag("py3", "none", platform.wheel)}
    if platform.floor is not None:
        version = "_".join(map(str, platform.floor))
        assert f"linux_{version}_" in platform.wheel


def test_the_document_has_a_row_for_every_platform() -> None:
    rows = re.findall(
        r"^\| `([a-z][\w-]+)` \|.*\| ([^|]+) \|$", DEPLOYMENT.read_text(), re.MULTILINE
    )
    assert [label for label, _ in rows] == list(PLATFORMS)
    assert {claim.split(":")[0] for _, claim in rows} <= CLAIMS


def test_the_document_claims_no_run_without_a_test_that_runs() -> None:
    rows = re.findall(
        r"^\| `([a-z][\w-]+)` \|.*\| ([^|]+) \|$", DEPLOYMENT.read_text(), re.MULTILINE
    )
    run = {label for label, claim in rows if claim.startswith("built and run here")}
    scripts = (ROOT / "tools").glob("cross_*.sh")
    crossed = {
        label
        for script in scripts
        for label in re.findall(r"(?:--label|^build) (linux-\S+)", script.read_text(), re.MULTILINE)
    }
    assert run == {"linux-x64"} | crossed


def test_the_document_has_every_error() -> None:
    rows = re.findall(r"^\| `(E-\w+)` \| (\d+) \|", DEPLOYMENT.read_text(), re.MULTILINE)
    assert {code: int(status) for code, status in rows} == errors._EXITS


@pytest.mark.parametrize("tool", [build_prebuilt, build_wheels, record_transcripts])
def test_what_tools_show_of_themselves_holds(tool: ModuleType) -> None:
    result = doctest.testmod(tool)
    assert result.attempted
    assert not result.failed
