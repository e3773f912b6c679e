"""Where the files of a release are: from a mirror's address to the URL of a file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote, urlsplit

from server_native._places import environment
from server_native.errors import PrebuiltError

__all__ = ["INDEX", "bases", "index_urls", "urls"]

INDEX = "index.json"
#: On GitHub every file belongs to a release, and each release has the index: the latest one's is always at one address.
_ON_GITHUB = ("/releases/download/", "/releases/latest/download/")


def bases(default: Iterable[str]) -> tuple[str, ...]:
    """``SERVER_NATIVE_BASE_URL``, several with commas, or the manifest's own. Raises E-ENV for what is no address."""
    named = tuple(
        filter(None, map(str.strip, (environment("SERVER_NATIVE_BASE_URL") or "").split(",")))
    )
    return tuple(map(_address, named or default))


def _address(text: str) -> str:
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https", "file") and parts.port != 0
    except ValueError:
        # A bracket or a port that is none.
        good = False
    if good:
        return text
    if Path(text).is_absolute():
        return Path(text).as_uri()
    raise PrebuiltError(
        "E-ENV",
        f"SERVER_NATIVE_BASE_URL must name https: or file: addresses or absolute folders, found {text!r}",
    )


def urls(mirrors: Iterable[str], tag: str, name: str, label: str = "") -> list[str]:
    """A file of a release at each mirror.

    A mirror is a template with ``{tag}``, ``{archive}`` and perhaps ``{platform}``, or a folder of releases' folders.
    """
    return [_filled(base, tag, name, label) for base in map(_address, mirrors)]


def index_urls(mirrors: Iterable[str]) -> list[str]:
    """The list of releases at each mirror."""
    return [f"{_root(base)}/{INDEX}" for base in map(_address, mirrors)]


def _root(base: str) -> str:
    root = base.partition("{")[0]
    if root.endswith(_ON_GITHUB[0]):
        root = root.removesuffix(_ON_GITHUB[0]) + _ON_GITHUB[1]
    return root.rstrip("/")


def _filled(base: str, tag: str, name: str, label: str) -> str:
    if "{" not in base:
        return f"{base.rstrip('/')}/{quote(tag)}/{quote(name)}"
    for word, value in (("{tag}", tag), ("{archive}", name), ("{platform}", label)):
        base = base.replace(word, quote(value))
    return base
