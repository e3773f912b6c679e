"""The release server of the tests, which is this project's own, and packages that pin what is on it."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from server_native import _library
from server_native._manifest import Manifest
from tests.programs import ROOT

__all__ = ["Key", "Ran", "User", "index", "mirror"]

SERVER = """
import sys
from pathlib import Path
from server_native import NativeDirectResponse, serve_native_direct

root = Path(sys.argv[1]).resolve()

def handler(request):
    path = root / request.path.lstrip("/")
    found = path.is_file()
    print("GET", request.path, 200 if found else 404, flush=True)
    if not found:
        return NativeDirectResponse.text("Not Found", status=404)
    body = path.read_bytes()
    return NativeDirectResponse.bytes(body, headers={"etag": f'"{len(body)}"'})

serve_native_direct(handler, port=0, on_ready=lambda server: print(server.port, flush=True))
"""


class Mirror(NamedTuple):
    """A running server."""

    url: str
    process: subprocess.Popen[str]

    def asked(self) -> list[str]:
        """Ends it; every request and its status."""
        self.process.terminate()
        out, _ = self.process.communicate(timeout=30)
        return [line.removeprefix("GET ") for line in out.splitlines()]


@contextmanager
def mirror(folder: Path) -> Iterator[Mirror]:
    """Serves ``folder``, with the library of this checkout."""
    environment = os.environ | {"SERVER_NATIVE_PREBUILT": str(_library.locate())}
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(folder)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield Mirror(f"http://127.0.0.1:{int(process.stdout.readline())}", process)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


class Key:
    """A key that signs releases, in minisign's format."""

    def __init__(self) -> None:
        self._key, self._number = Ed25519PrivateKey.generate(), os.urandom(8)
        raw = self._key.public_key().public_bytes_raw()
        self.public = base64.b64encode(b"Ed" + self._number + raw).decode()

    def sign(self, folder: Path) -> None:
        """Signs the manifest of a release."""
        text = (folder / "manifest.json").read_bytes()
        proof = self._key.sign(hashlib.blake2b(text).digest())
        comment = b"a release"
        lines = [b"untrusted comment: x", base64.b64encode(b"ED" + self._number + proof)]
        lines += [b"trusted comment: " + comment, base64.b64encode(self._key.sign(proof + comment))]
        (folder / "manifest.json.minisig").write_bytes(b"\n".join(lines) + b"\n")


def index(folder: Path, *releases: dict[str, Any]) -> None:
    """The list of releases, newest first."""
    (folder / "index.json").write_text(json.dumps({"schema": 1, "releases": releases}))


class Ran(NamedTuple):
    """A program that has ended."""

    status: int
    out: str
    err: str


class User:
    """Somebody with a package that pins a release, a home and a project."""

    def __init__(self, folder: Path, pinned: Manifest) -> None:
        self.home, self.project = folder / "home", folder / "project"
        self.cache = self.home / ".cache" / "server_native"
        self._site = folder / "site"
        for path in (self.home, self.project):
            path.mkdir(mode=0o755)
        (self.project / "pyproject.toml").touch()
        skipped = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "server_native", self._site / "server_native", ignore=skipped)
        (self._site / "server_native" / "_prebuilt" / "manifest.json").write_text(pinned.write())
        self.variables: dict[str, str] = {}

    def _environment(self) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("SERVER_NATIVE_", "XDG_"))
            and not name.lower().endswith("_proxy")
        }
        return kept | {"HOME": str(self.home), "PYTHONPATH": str(self._site)} | self.variables

    def runs(self, *arguments: str, at: Path | None = None, wrapped: tuple[str, ...] = ()) -> Ran:
        """Runs Python with these arguments in the project, or elsewhere."""
        done = subprocess.run(
            [*wrapped, sys.executable, *arguments],
            cwd=at or self.project,
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    def sets_up(
        self, *arguments: str, at: Path | None = None, wrapped: tuple[str, ...] = ()
    ) -> Ran:
        """Runs the setup tool."""
        return self.runs("-m", "server_native.setup", *arguments, at=at, wrapped=wrapped)

    def loads(self, at: Path | None = None) -> Ran:
        """Loads the library as the first server would."""
        program = "import server_native; print(server_native.transport_abi_version())"
        return self.runs("-c", program, at=at)
