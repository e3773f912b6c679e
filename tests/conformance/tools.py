"""The programs of others that tools/conformance_tools.sh builds."""

from __future__ import annotations

from pathlib import Path

import pytest

__all__ = ["tool"]

_TOOLS = Path(__file__).parents[2] / ".tools"


def tool(name: str) -> Path:
    """Where a program is. One that this machine cannot have skips the test and says why; one not built fails it."""
    missing = _TOOLS / f"{name}.missing"
    if missing.exists():
        pytest.skip(missing.read_text().strip())
    path = _TOOLS / "bin" / name
    assert path.exists(), f"{path} is not there: run tools/conformance_tools.sh"
    return path
