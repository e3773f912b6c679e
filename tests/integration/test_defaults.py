"""Numbers kept in two places are the same: the limits of config.py and those the native side hands out."""

from __future__ import annotations

import ctypes
import re
from dataclasses import asdict
from pathlib import Path

from server_native import Limits, _dispatch, _library
from server_native._bindings import abi


def test_python_limits_are_the_native_ones_in_name_and_value() -> None:
    library = ctypes.CDLL(str(_library.locate()))
    abi.declare(library)
    options = abi.ListenOptions()
    assert library.sn_listen_options_default(ctypes.byref(options)) == abi.Status.OK
    native = {name: getattr(options.limits, name) for name, *_ in abi.Limits._fields_}
    assert asdict(Limits()) == native


def test_handlers_in_the_pumps_thread_are_told_when_all_others_are() -> None:
    source = Path(__file__).parents[2] / "native" / "src" / "runtime" / "stop.rs"
    found = re.search(r"const NOTICE: Duration = Duration::from_secs\((\d+)\);", source.read_text())
    assert found is not None
    assert float(found[1]) == _dispatch._NOTICE
