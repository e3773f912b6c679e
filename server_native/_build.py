"""The library from its sources, with cargo: announced, one process at a time, and only when something has changed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

from . import _lock, _trust
from ._notice import say
from ._places import elevated, environment, switched
from ._sources import Sources
from .errors import PrebuiltError

__all__ = ["PATIENCE", "build", "cargo"]

#: Seconds to wait for another process that builds: a first build takes minutes on a small machine.
PATIENCE = 1800.0
#: Lines of cargo shown when it fails.
_TAIL = 30
#: Would build for another machine, or elsewhere.
_MISLEADING = ("CARGO_BUILD_TARGET", "CARGO_TARGET_DIR", "CARGO_BUILD_TARGET_DIR")


def build(sources: Sources, reason: str, *, always: bool = False) -> None:
    """Runs cargo, for as long as that takes, unless another process has just done so. ``reason`` is told to the user.

    ``always``: runs it in any case, and cargo sees whether there is something to do.
    Raises E-BUILD with what cargo said last, E-BUSY when another process builds for too long, E-PERM without a cache.
    """
    if elevated():
        raise PrebuiltError(
            "E-BUILD",
            "a process with rights of another user neither runs the cargo its caller's PATH names nor believes what "
            "its caller has built: install a wheel of this platform for it",
        )
    if not sources.checkout:
        _trust.private_folder("target")
    library = sources.library
    program = cargo()
    if program is None:
        raise PrebuiltError("E-BUILD", f"cargo is needed to build {sources.crate}. {_WITHOUT}")
    lock = _lock_file(library)
    if lock is None:
        # Cargo has a lock of its own in the target folder.
        _run(program, sources, reason)
        return
    with _lock.held(lock, PATIENCE, say):
        # Somebody else may have built it while this process waited.
        if always or sources.stale() is not None:
            _run(program, sources, reason)


_WITHOUT = (
    "Get Rust from https://rustup.rs (or your system's packages cargo and rustc, 1.88 or later) and a C compiler; or "
    "install a wheel of your platform, run `python -m server_native.setup`, or set SERVER_NATIVE_PREBUILT to the "
    "absolute path of a library"
)


def cargo() -> str | None:
    """The path of cargo: ``$CARGO``, on ``PATH``, or where rustup puts it."""
    import shutil

    named = environment("CARGO")
    # Not a Path's: that one raises for a user without a home.
    rustup = os.path.expanduser("~/.cargo/bin")  # noqa: PTH111
    return shutil.which(named or "cargo") or shutil.which("cargo", path=rustup)


def _lock_file(library: Path) -> Path | None:
    try:
        folder = _trust.private_folder("locks")
    except PrebuiltError as error:
        say(f"no lock and no stamp, so every process asks cargo: {error}")
        return None
    return folder / f"{_trust.key(library)}.lock"


def _run(program: str, sources: Sources, reason: str) -> None:
    into, library = sources.target, sources.library
    command = [program, "build", "--release", "--locked", "--color", "never"]
    command += ["--manifest-path", str(sources.crate / "Cargo.toml"), "--target-dir", str(into)]
    if switched("SERVER_NATIVE_OFFLINE"):
        command.append("--offline")
    # As the files are before cargo reads them: whoever changes one meanwhile has it built again.
    tree, glance = sources.tree(), sources.glance()
    say(f"building {library.name} from {sources.crate} ({reason}): {' '.join(command[:4])}")
    began = time.monotonic()
    status, tail = _cargo(command, sources.crate)
    if status != 0:
        raise PrebuiltError(
            "E-BUILD",
            f"{' '.join(command)} failed with exit status {status}. Its last lines:\n{tail}\n"
            "A library that is built elsewhere does as well: set SERVER_NATIVE_PREBUILT to its absolute path",
        )
    if not library.is_file():
        raise PrebuiltError(
            "E-BUILD",
            f"{' '.join(command)} succeeded without making {library}: does a cargo configuration choose another "
            "target or crate type?",
        )
    sources.note(_trust.sha256(library), tree, glance)
    seconds = time.monotonic() - began
    if seconds >= 1:
        say(f"built {library} in {seconds:.0f} s")


def _cargo(command: list[str], folder: Path) -> tuple[int, str]:
    """Exit status and last lines; on a terminal all of them are shown as they come."""
    watched = sys.stderr is not None and sys.stderr.isatty()
    surroundings = {name: value for name, value in os.environ.items() if name not in _MISLEADING}
    tail: deque[str] = deque(maxlen=_TAIL)
    try:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=surroundings,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise PrebuiltError("E-BUILD", f"{command[0]} cannot be run: {error}") from error
    with process:
        try:
            for line in process.stdout or ():
                tail.append(line.rstrip())
                if watched:
                    say(line.rstrip())
            return process.wait(), "\n".join(f"  {line}" for line in tail)
        except BaseException:
            process.kill()
            raise
