"""Installs the native library from a checkout: the same as ``python -m server_native.setup``, which it calls."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from server_native.setup.cli import main

if __name__ == "__main__":
    sys.exit(main())
