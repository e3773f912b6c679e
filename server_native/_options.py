"""Keyword options of the ``serve_*`` and ``start_*`` functions: said once in `config`, shown by ``help()`` of each.

A function takes ``**options: Unpack[ServeOptions]``, which is all type checkers need; :func:`accepts` gives it the
same at run time: a signature with every option and its default, and a refusal of what is no option.
"""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any, ParamSpec, TypeVar

from .binds import NativeServerBind
from .config import (
    HttpServerConfig,
    PlaceOptions,
    SecureServeOptions,
    ServerConfig,
    TLSConfig,
    TLSOptions,
)

__all__ = ["accepts"]

_P = ParamSpec("_P")
_R = TypeVar("_R")


def accepts(
    kind: type[Any], *, host: str = "127.0.0.1", port: int = 0
) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Gives a function with ``**options`` the options of the ``TypedDict`` ``kind``.

    ``host`` and ``port`` are this function's own defaults, for when no other place is named. An unknown option is a
    ``TypeError`` that names the nearest one; required ones that are missing reach the function as ``None``, for
    ``ServerConfig.parse`` to refuse.
    """
    place = {"host": host, "port": port} if "host" in kind.__annotations__ else {}
    required = dict.fromkeys(kind.__required_keys__)

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        own = inspect.signature(function)
        signature = _with_options(own, kind, place)

        @functools.wraps(function)
        def accept(*arguments: _P.args, **options: _P.kwargs) -> _R:
            for name in options:
                if name not in signature.parameters:
                    raise TypeError(_unknown(function.__name__, name, signature.parameters))
            completed: Any = {**required, **_unsaid(place, options), **options}
            return function(*arguments, **completed)

        accept.__signature__ = signature  # type: ignore[attr-defined]
        return accept

    return decorate


def _unsaid(place: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of the place that what was said leaves room for."""
    said = {name for name, value in options.items() if value is not None}
    if said & {"uds", "fd"}:
        return {}
    return {name: value for name, value in place.items() if name != "host" or "address" not in said}


def _with_options(
    own: inspect.Signature, kind: type[Any], place: Mapping[str, Any]
) -> inspect.Signature:
    defaults = {**_defaults(), **place}
    options = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            # A required one has no default to show.
            default=inspect.Parameter.empty
            if name in kind.__required_keys__
            else defaults.get(name),
            # The texts that a function's own annotations are, under `from __future__ import annotations`.
            annotation=getattr(annotation, "__forward_arg__", annotation),
        )
        for name, annotation in kind.__annotations__.items()
    ]
    kept = [each for each in own.parameters.values() if each.kind is not each.VAR_KEYWORD]
    return own.replace(parameters=[*kept, *options])


def _defaults() -> dict[str, Any]:
    return {
        entry.name: None if entry.default is MISSING else entry.default
        for configuration in (ServerConfig, NativeServerBind, TLSConfig, HttpServerConfig)
        for entry in fields(configuration)
    }


def _unknown(function: str, name: str, known: Mapping[str, object]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    if name in TLSOptions.__annotations__:
        advice = "it is an option of the functions with `secure` in their names"
    elif name in PlaceOptions.__annotations__:
        advice = "say it in each NativeServerBind"
    elif near:
        advice = f"did you mean {near[0]!r}?"
    else:
        advice = "it takes " + ", ".join(
            each for each in SecureServeOptions.__annotations__ if each in known
        )
    return f"{function}() has no option {name!r}: {advice}"
