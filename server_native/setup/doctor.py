"""Looks at everything a library needs here, and says what to do about what is wrong."""

from __future__ import annotations

import contextlib
import functools
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from server_native import _lock, _places, _trust
from server_native._manifest import package_manifest
from server_native.errors import PrebuiltError

from . import caches, explain, mirrors, smoke
from .download import Download, redacted
from .settings import Settings

__all__ = ["examine", "text"]

#: Bytes a library, its archive and room for both take.
_ROOM = 64 << 20


def examine(settings: Settings) -> dict[str, Any]:
    """All findings. Asks each mirror for its index unless offline; loads the chosen library in another process."""
    seen = explain.explain()
    checks = [
        _checked("host", lambda: _host(seen)),
        _checked("cache", _cache),
        _checked("lock", _lock_works),
        _checked("installed", _installed),
        _checked("library", lambda: _library(seen)),
    ]
    checks += [
        _checked(f"mirror {redacted(base)}", functools.partial(_mirror, base, settings))
        for base in mirrors.bases(package_manifest().base_urls)
    ]
    return {"ok": all(check["ok"] for check in checks), "explain": seen, "checks": checks}


def text(seen: dict[str, Any]) -> str:
    """For people."""
    lines = [explain.text(seen["explain"]), ""]
    lines += [
        f"{'ok ' if check['ok'] else 'BAD'} {check['name']}: {check['text']}"
        for check in seen["checks"]
    ]
    return "\n".join(lines)


def _checked(name: str, check: Callable[[], str]) -> dict[str, Any]:
    try:
        return {"name": name, "ok": True, "text": check()}
    except PrebuiltError as error:
        return {"name": name, "ok": False, "text": str(error)}
    except OSError as error:
        return {"name": name, "ok": False, "text": f"{error.filename or ''}: {error.strerror}"}


def _host(seen: dict[str, Any]) -> str:
    if seen["platform"] is None:
        raise PrebuiltError("E-PLATFORM", seen["reason"])
    return str(seen["host"])


def _cache() -> str:
    folder = _trust.private_folder("prebuilt")
    free = shutil.disk_usage(folder).free
    if free < _ROOM:
        raise PrebuiltError(
            "E-SPACE", f"{folder} has {free >> 20} MiB left, {_ROOM >> 20} are needed"
        )
    return f"{folder} is this user's alone, {free >> 20} MiB free"


def _lock_works() -> str:
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir=_places.user_cache()))
        if stack.enter_context(_lock.held(Path(folder) / "lock", 1.0, print)):
            return "works"
    return "this file system has none; several installs at once may fetch the same"


def _installed() -> str:
    found = caches.verified(None)
    bad = [each["path"] for each in found if not each["good"]]
    if bad:
        raise PrebuiltError(
            "E-HASH", f"changed since it was installed: {', '.join(bad)}; run setup again"
        )
    return f"{len(found)} libraries, each as it was installed"


def _library(seen: dict[str, Any]) -> str:
    if seen["path"] is None:
        if seen["pending"]:
            return f"none yet; the first server takes step {seen['pending']}"
        raise PrebuiltError("E-NOLIB", "none is found; see the table")
    smoke.load(Path(seen["path"]))
    return f"{seen['path']} loads, and has the ABI of these bindings"


def _mirror(base: str, settings: Settings) -> str:
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="server_native-")))
        download = stack.enter_context(contextlib.closing(Download(settings)))
        try:
            download.text(mirrors.index_urls([base]), work / mirrors.INDEX)
        except PrebuiltError as error:
            if error.code == "E-OFFLINE":
                return "not asked: offline"
            raise
    return "answers"
