"""Unit tests run without the native library: asking for it is a failure."""

from __future__ import annotations

import pytest

from server_native import _ffi


@pytest.fixture(autouse=True)
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def load() -> None:
        raise AssertionError("a unit test asked for the native library")

    monkeypatch.setattr(_ffi, "_load", load)
