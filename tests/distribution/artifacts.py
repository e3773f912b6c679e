"""Small libraries that are fit for a platform, and archives of them: what releases in these tests are made of."""

from __future__ import annotations

import functools
import subprocess
import tempfile
from pathlib import Path

from server_native._bindings import abi
from server_native._platform import PLATFORMS
from tools import build_prebuilt, inspect_library

NAMES = sorted(inspect_library.declared())
LINUX = PLATFORMS["linux-x64"]


def library(folder: Path, *options: str, names: list[str] | None = None, extra: str = "") -> Path:
    """A library with the exports ``names`` (those of the header), which answers with this build's identity."""
    names = NAMES if names is None else names
    path = folder / "libserver_native.so"
    body = [f"unsigned long long {name}(void) {{ return 0; }}" for name in names]
    if "sn_abi_hash" in names:
        body[names.index("sn_abi_hash")] = (
            f"unsigned long long sn_abi_hash(void) {{ return {abi.ABI_HASH}ull; }}"
        )
        body[names.index("sn_version")] = 'const char *sn_version(void) { return "1"; }'
    source = folder / "library.c"
    source.write_text("\n".join([*body, extra]))
    command = ["gcc", "-shared", "-fPIC", "-s", "-o", str(path), str(source), *options]
    subprocess.run(command, check=True, capture_output=True)
    return path


def archive(into: Path) -> Path:
    """The archive of such a library for linux-x64."""
    into.mkdir(exist_ok=True)
    path = into / LINUX.archive
    path.write_bytes(build_prebuilt.pack(payload(), LINUX))
    return path


@functools.cache
def payload() -> bytes:
    """Such a library, compiled once."""
    with tempfile.TemporaryDirectory() as folder:
        return library(Path(folder)).read_bytes()
