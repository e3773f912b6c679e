"""Header fields of a response that is still being made; `headers` has the immutable ones of requests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping

from .errors import ResponseSentError
from .headers import HeaderSource, encode_fields

__all__ = ["HeaderValue", "ResponseHeaders"]

HeaderValue = str | bytes | int


class ResponseHeaders(MutableMapping[str, str]):
    """Header fields by name, looked up in any case, each with one or more values; names are sent in lower case.

    As a mapping it answers the first value of a field, and assigning replaces all of them. Names and values are
    checked when they are given: :class:`~server_native.ConfigurationError` for a name that is no token and for a
    value with a control character (RFC 9110 sections 5.1 and 5.5). Once the head has been sent every change raises
    :class:`~server_native.errors.ResponseSentError`.

    >>> headers = ResponseHeaders({"X-Frame-Options": "DENY"})
    >>> headers.add("vary", "accept")
    >>> headers.add("Vary", "cookie")
    >>> headers["vary"], headers.get_all("VARY"), len(headers)
    ('accept', ['accept', 'cookie'], 2)
    """

    __slots__ = ("_fields", "_sealed")

    def __init__(self, headers: HeaderSource = ()) -> None:
        self._fields: dict[str, tuple[str, ...]] = {}
        self._sealed = False
        pairs = headers.items() if isinstance(headers, Mapping) else headers
        for name, value in pairs:
            self.add(name, value)

    def add(self, name: str | bytes, value: HeaderValue) -> None:
        """Adds a value to those the field has."""
        self._open()
        known, checked = _checked(name, value)
        self._fields[known] = (*self._fields.get(known, ()), checked)

    def set(self, name: str | bytes, value: HeaderValue) -> None:
        """Gives the field this value and no other."""
        self._open()
        known, checked = _checked(name, value)
        self._fields[known] = (checked,)

    def remove(self, name: str, value: HeaderValue) -> None:
        """Takes one value away from the field; nothing happens when it has not got it."""
        self._open()
        known, checked = _checked(name, value)
        left = tuple(other for other in self._fields.get(known, ()) if other != checked)
        if left:
            self._fields[known] = left
        else:
            self._fields.pop(known, None)

    def remove_all(self, name: str) -> None:
        """Takes the field away with all its values; nothing happens when it is not there."""
        self._open()
        self._fields.pop(name.lower(), None)

    def clear(self) -> None:
        """Takes every field away, those put in by default too."""
        self._open()
        self._fields.clear()

    def get_all(self, name: str) -> list[str]:
        """Every value of a field, in the order they were added."""
        return list(self._fields.get(name.lower(), ()))

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Name and value of each field line, as it will be sent."""
        return tuple((name, value) for name, values in self._fields.items() for value in values)

    def copy(self) -> ResponseHeaders:
        """The same fields, open to changes."""
        twin = ResponseHeaders()
        twin._fields = dict(self._fields)
        return twin

    def seal(self) -> None:
        """Refuses every change from now on: the head is sent."""
        self._sealed = True

    def __getitem__(self, name: str) -> str:
        return self._fields[name.lower()][0]

    def __setitem__(self, name: str, value: HeaderValue) -> None:
        self.set(name, value)

    def __delitem__(self, name: str) -> None:
        self._open()
        del self._fields[name.lower()]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._fields

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __repr__(self) -> str:
        return f"ResponseHeaders({list(self.pairs)!r})"

    def _open(self) -> None:
        if self._sealed:
            raise ResponseSentError(
                "the head of this response has been sent, its headers cannot be changed any more: "
                "change them before the first flush() and before more is written than is buffered"
            )


def _checked(name: str | bytes, value: HeaderValue) -> tuple[str, str]:
    """Name and value as they go out."""
    known, _, checked = encode_fields(((name, value),)).decode("latin-1").partition("\0")
    return known, checked
