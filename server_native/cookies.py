"""Cookies (RFC 6265): those a client sent, those a response sets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import format_datetime
from typing import Any, Literal

from .errors import ConfigurationError, ResponseSentError

__all__ = ["Cookie", "ResponseCookies", "parse_cookies"]

# RFC 6265 section 4.1.1: cookie-name is a token, cookie-value octets may stand between double quotes.
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+\-.^_`|~]+\Z")
_VALUE = re.compile(r'(?:[!#-+\--:<-\[\]-~]*|"[!#-+\--:<-\[\]-~]*")\Z')
_ATTRIBUTE = re.compile(r"[ -:<-~]*\Z")
_SAME_SITE = ("Strict", "Lax", "None")
_LONG_AGO = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True)
class Cookie:
    """One cookie; of a request only name and value are known.

    >>> Cookie("theme", "dark", path="/", max_age=3600, same_site="Lax").header()
    'theme=dark; Max-Age=3600; Path=/; SameSite=Lax'
    """

    name: str
    value: str = ""
    #: Paths it is sent to; ``None``: those beside the one that set it.
    path: str | None = None
    #: Hosts it is sent to, subdomains included; ``None``: this host alone.
    domain: str | None = None
    #: When the client forgets it, a ``datetime`` with a time zone; ``max_age`` wins over it.
    expires: datetime | None = None
    #: Seconds until the client forgets it; zero or less: at once. ``None``: when the browser ends.
    max_age: int | None = None
    #: Only sent over https.
    secure: bool = False
    #: Not shown to scripts.
    http_only: bool = False
    #: Whether it goes with requests that other sites begin.
    same_site: Literal["Strict", "Lax", "None"] | None = None

    def header(self) -> str:
        """The value of its ``set-cookie`` field. Raises :class:`~server_native.ConfigurationError`.

        What no client would read as it was meant is refused: RFC 6265 section 4.1.1 has no way to quote, so a
        value with a space, comma, semicolon, backslash or anything beyond ASCII has to be encoded first
        (``urllib.parse.quote``).
        """
        if not isinstance(self.name, str) or _NAME.match(self.name) is None:
            raise ConfigurationError(f"a cookie's name must be a token, found {self.name!r}")
        if not isinstance(self.value, str) or _VALUE.match(self.value) is None:
            raise ConfigurationError(
                f"the value of cookie {self.name!r} must be visible ASCII without space, comma, semicolon, "
                f"double quote and backslash, found {self.value!r}: encode it, as with urllib.parse.quote"
            )
        parts = [f"{self.name}={self.value}"]
        if self.expires is not None:
            parts.append(f"Expires={self._date(self.expires)}")
        if self.max_age is not None:
            if not isinstance(self.max_age, int) or isinstance(self.max_age, bool):
                raise ConfigurationError(
                    f"max_age of cookie {self.name!r} must be whole seconds, found {self.max_age!r}"
                )
            parts.append(f"Max-Age={self.max_age}")
        for attribute, text in (("Domain", self.domain), ("Path", self.path)):
            if text is not None:
                if not isinstance(text, str) or _ATTRIBUTE.match(text) is None:
                    raise ConfigurationError(
                        f"{attribute.lower()} of cookie {self.name!r} must be ASCII without semicolon "
                        f"and control characters, found {text!r}"
                    )
                parts.append(f"{attribute}={text}")
        if self.secure:
            parts.append("Secure")
        if self.http_only:
            parts.append("HttpOnly")
        if self.same_site is not None:
            if self.same_site not in _SAME_SITE:
                raise ConfigurationError(
                    f"same_site of cookie {self.name!r} must be one of {_SAME_SITE}, found {self.same_site!r}"
                )
            if self.same_site == "None" and not self.secure:
                raise ConfigurationError(
                    f"cookie {self.name!r} with same_site='None' must have secure=True: browsers drop it otherwise"
                )
            parts.append(f"SameSite={self.same_site}")
        return "; ".join(parts)

    def _date(self, moment: datetime) -> str:
        if moment.tzinfo is None:
            raise ConfigurationError(
                f"expires of cookie {self.name!r} must have a time zone, found {moment!r}"
            )
        return format_datetime(moment.astimezone(timezone.utc), usegmt=True)


def parse_cookies(fields: Iterable[str]) -> list[Cookie]:
    """The cookies of a request's ``cookie`` fields, in order, equal names kept.

    Read as RFC 6265 section 5.4 has clients write them; a piece without a name or without ``=`` is left out, and
    values stay as they were sent.

    >>> [(cookie.name, cookie.value) for cookie in parse_cookies(["a=1; b=x=y; nonsense; a=2"])]
    [('a', '1'), ('b', 'x=y'), ('a', '2')]
    """
    found = []
    for field in fields:
        for piece in field.split(";"):
            name, equals, value = piece.partition("=")
            if equals and (name := name.strip(" \t")):
                found.append(Cookie(name, value.strip(" \t")))
    return found


class ResponseCookies:
    """The cookies a response sets, one for each name, path and domain.

    >>> cookies = ResponseCookies()
    >>> cookies.add("theme", "dark", path="/")
    >>> cookies.add(Cookie("lang", "de"))
    >>> [cookie.name for cookie in cookies]
    ['theme', 'lang']

    Any other ``set-cookie`` field, such as ``morsel.OutputString()`` of the standard library, can be given with
    ``response.headers.add("set-cookie", ...)``.
    """

    __slots__ = ("_known", "_sealed")

    def __init__(self) -> None:
        self._known: dict[tuple[str, str | None, str | None], tuple[Cookie, str]] = {}
        self._sealed = False

    def add(self, cookie: Cookie | str, value: str = "", **attributes: Any) -> None:
        """Adds a :class:`Cookie`, or makes one of a name, a value and its attributes.

        One with the same name, path and domain is replaced (RFC 6265 section 4.1.1 allows no two). Raises
        :class:`~server_native.ConfigurationError` for what cannot be sent and ``TypeError`` for an unknown
        attribute.
        """
        self._open()
        if isinstance(cookie, str):
            cookie = Cookie(cookie, value, **attributes)
        elif value or attributes:
            raise TypeError(
                "a Cookie has its value and attributes already: give either one or a name"
            )
        self._known[cookie.name, cookie.path, cookie.domain] = (cookie, cookie.header())

    def expire(self, name: str, *, path: str | None = "/", domain: str | None = None) -> None:
        """Has the client forget a cookie; path and domain must be those it was set with."""
        self.add(Cookie(name, path=path, domain=domain, max_age=0, expires=_LONG_AGO))

    def remove(self, name: str) -> None:
        """Sets no cookie of this name after all; nothing happens when none was added."""
        self._open()
        self._known = {key: known for key, known in self._known.items() if key[0] != name}

    def headers(self) -> list[str]:
        """The value of a ``set-cookie`` field for each."""
        return [header for _, header in self._known.values()]

    def seal(self) -> None:
        """Refuses every change from now on: the head is sent."""
        self._sealed = True

    def __iter__(self) -> Iterator[Cookie]:
        return (cookie for cookie, _ in self._known.values())

    def __len__(self) -> int:
        return len(self._known)

    def __repr__(self) -> str:
        return f"ResponseCookies({list(self)!r})"

    def _open(self) -> None:
        if self._sealed:
            raise ResponseSentError(
                "the head of this response has been sent and its cookies with it: set them before the first flush()"
            )
