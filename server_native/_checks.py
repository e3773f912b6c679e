"""What a value given by a user must be; each raises :class:`ConfigurationError` with the name and what was found."""

from __future__ import annotations

import os

from .errors import ConfigurationError

__all__ = ["boolean", "integer", "path", "seconds"]


def integer(name: str, value: object, low: int, high: int) -> None:
    """An integer of a range, and no ``bool``."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ConfigurationError(f"{name} must be an integer from {low} to {high}, found {value!r}")


def boolean(name: str, value: object) -> None:
    """Nothing that is merely true or false in an ``if``."""
    if not isinstance(value, bool):
        raise ConfigurationError(f"{name} must be True or False, found {value!r}")


def seconds(name: str, value: object) -> None:
    """A finite time that fits into 32 bits of milliseconds."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 <= value <= 4_000_000:  # type: ignore[operator]
        raise ConfigurationError(f"{name} must be seconds from 0 to 4000000, found {value!r}")


def path(name: str, value: object) -> str:
    """A path of the file system, as text."""
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(text, str) or not text or "\0" in text:
        raise ConfigurationError(f"{name} must be a path, found {value!r}")
    return text
