"""Numbers kept in two places are the same: the limits of config.py and those the native side hands out."""

from __future__ import annotations

import ctypes
from dataclasses import asdict

from server_native import Limits, _library
from server_native._bindings import abi


def test_python_limits_are_the_native_ones_in_name_and_value() -> None:
    library = ctypes.CDLL(str(_library.locate()))
    abi.declare(library)
    options = abi.ListenOptions()
    assert library.sn_listen_options_default(ctypes.byref(options)) == abi.Status.OK
    native = {name: getattr(options.limits, name) for name, *_ in abi.Limits._fields_}
    assert asdict(Limits()) == native
