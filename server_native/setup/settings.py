"""What the environment says about fetching, read once."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from server_native._places import environment, switched
from server_native.errors import PrebuiltError

__all__ = ["Settings"]


@dataclass(frozen=True)
class Settings:
    """How files are fetched. Seconds and numbers of tries."""

    #: ``SERVER_NATIVE_OFFLINE``: nothing but ``file:`` is asked.
    offline: bool = False
    #: ``SERVER_NATIVE_TIMEOUT``: without a byte for so long, or slower than :attr:`slowest` over it, it has stalled.
    idle: float = 30.0
    #: Until a connection stands.
    connect: float = 10.0
    #: Bytes a second.
    slowest: float = 100.0
    #: ``SERVER_NATIVE_RETRIES``: tries for each file, over all mirrors.
    tries: int = 4
    #: ``SERVER_NATIVE_CA_BUNDLE``: certificates of authorities to trust instead of the system's.
    ca_bundle: str | None = None
    #: Waits between two tries.
    pause: Callable[[float], None] = time.sleep

    @classmethod
    def read(cls) -> Settings:
        """From the environment; raises E-ENV for what cannot be."""
        return cls(
            offline=switched("SERVER_NATIVE_OFFLINE"),
            idle=_number("SERVER_NATIVE_TIMEOUT", 30.0),
            tries=int(_number("SERVER_NATIVE_RETRIES", 4)),
            ca_bundle=environment("SERVER_NATIVE_CA_BUNDLE"),
        )


def _number(name: str, default: float) -> float:
    text = environment(name)
    if text is None:
        return default
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= 86_400:
        raise PrebuiltError(
            "E-ENV", f"{name} must be a number above 0, at most 86400, found {text!r}"
        )
    return number
