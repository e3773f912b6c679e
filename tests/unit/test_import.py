"""``import server_native`` is cheap: no native library, no network code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROBE = """
import sys
opened = []
sys.addaudithook(lambda name, arguments: opened.append(arguments[0]) if name == "ctypes.dlopen" else None)
import server_native
assert not [path for path in opened if path and "server_native" in str(path)], opened
for name in ("requests", "platformdirs", "http.client", "urllib.request", "pycparser", "typing_extensions"):
    assert name not in sys.modules, name
from server_native import _ffi
assert _ffi._libraries is None
assert not _ffi._runtimes
print("fine")
"""


def test_importing_loads_no_library() -> None:
    result = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{PROBE}"],
        capture_output=True,
        text=True,
        check=False,
        env={"SERVER_NATIVE_PREBUILT": "/nonexistent"},
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "fine\n", "")
