"""Request lines and header fields: decoded on the way in, checked and encoded on the way out.

Decoding is lazy and remembered: keep-alive clients repeat the same request line and the same header block, so
the decoded form of a block that was seen before costs one dictionary lookup.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import unquote

from .errors import ConfigurationError

__all__ = ["HeaderSource", "Headers", "RequestLine", "encode_fields", "read_line"]

#: What header fields may be given as: a mapping, or pairs where a name comes more than once.
HeaderSource: TypeAlias = (
    Mapping[str, str]
    | Mapping[str, str | int]
    | Mapping[bytes, bytes]
    | Iterable[tuple[str | bytes, str | bytes | int]]
)

#: Blocks remembered, and how long one may be. Attackers can fill the memory up to the product of the two, no further.
_REMEMBERED = 1024
_REMEMBERED_BYTES = 4096

# RFC 9110 sections 5.1 and 5.6.2 (token), 5.5 (field-value); names go out in lower case (RFC 9113 section 8.2.1).
_TOKEN = re.compile(rb"[a-z0-9!#$%&'*+\-.^_`|~]+\Z")
_FORBIDDEN = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


class RequestLine(NamedTuple):
    """A decoded request line."""

    method: str
    #: Path and query as sent.
    target: str
    scheme: str
    #: Host and port as the client named them; empty for HTTP/1.0 without ``Host``.
    authority: str
    #: Path with percent-encoding decoded as UTF-8 (undecodable bytes become U+FFFD).
    path: str
    #: Path as sent, without the query.
    raw_path: str
    #: What follows the ``?``, as sent; empty without one.
    query: str
    #: What an extended CONNECT asks for (RFC 8441); empty otherwise.
    protocol: str = ""


_lines: dict[bytes, RequestLine] = {}


def read_line(line: bytes) -> RequestLine:
    """Decodes method, target, scheme, authority and, of an extended CONNECT, protocol, NUL-joined."""
    known = _lines.get(line)
    if known is not None:
        return known
    method, target, scheme, authority, *protocol = line.decode("latin-1").split("\0")
    raw_path, _, query = target.partition("?")
    path = unquote(raw_path) if "%" in raw_path else raw_path
    decoded = RequestLine(method, target, scheme, authority, path, raw_path, query, *protocol)
    if len(line) <= _REMEMBERED_BYTES:
        if len(_lines) >= _REMEMBERED:
            _lines.clear()
        _lines[line] = decoded
    return decoded


class Headers:
    r"""Header fields in order, duplicates kept; names are lower case, looked up in any case. Immutable.

    Values decode as ISO-8859-1, which loses nothing (RFC 9110 section 5.5).

    >>> headers = Headers(b"host\0example.org\0accept\0*/*")
    >>> headers["Host"], headers.get("cookie"), list(headers)
    ('example.org', None, [('host', 'example.org'), ('accept', '*/*')])
    """

    __slots__ = ("_first", "pairs")

    #: Name and value of each field.
    pairs: tuple[tuple[str, str], ...]

    def __init__(self, block: bytes) -> None:
        parts = block.decode("latin-1").split("\0") if block else []
        self.pairs = tuple(zip(parts[::2], parts[1::2], strict=True))
        # Reversed, so that of equal names the first one stays.
        self._first = dict(reversed(self.pairs))

    @classmethod
    def read(cls, block: bytes) -> Headers:
        """The headers of this block, remembered."""
        known = _blocks.get(block)
        if known is None:
            known = cls(block)
            if len(block) <= _REMEMBERED_BYTES:
                if len(_blocks) >= _REMEMBERED:
                    _blocks.clear()
                _blocks[block] = known
        return known

    def get(self, name: str, default: str | None = None) -> str | None:
        """The first value of a field, or ``default``."""
        first = self._first
        value = first.get(name)
        return value if value is not None else first.get(name.lower(), default)

    def get_all(self, name: str) -> list[str]:
        """Every value of a field, in order."""
        name = name.lower()
        return [value for known, value in self.pairs if known == name]

    def __getitem__(self, name: str) -> str:
        value = self.get(name)
        if value is None:
            raise KeyError(name)
        return value

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._first

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def __eq__(self, other: object) -> bool:
        return self.pairs == other.pairs if isinstance(other, Headers) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.pairs)

    def __repr__(self) -> str:
        return f"Headers({list(self.pairs)!r})"


_blocks: dict[bytes, Headers] = {}
_encoded: dict[tuple[tuple[str | bytes, str | bytes], ...], bytes] = {}


def encode_fields(headers: HeaderSource) -> bytes:
    """Checks header fields and joins them with NUL, as the native side takes them.

    Raises :class:`~server_native.errors.ConfigurationError` (a ``ValueError``) for a name that is no token and
    for a value with CR, LF, NUL or another control (RFC 9110 section 5.5), before anything is written.
    """
    pairs: Any = tuple(headers.items()) if isinstance(headers, Mapping) else tuple(headers)
    try:
        known = _encoded.get(pairs)
    except TypeError:
        known = None
    if known is not None:
        return known
    parts: list[bytes] = []
    for pair in pairs:
        try:
            name, value = pair
        except (TypeError, ValueError):
            raise ConfigurationError(
                f"a header must be a pair of name and value, found {pair!r}"
            ) from None
        parts.append(_name(name))
        parts.append(_value(name, value))
    block = b"\0".join(parts)
    # Numbers are not remembered: `True` and `1.0` would be found under the key `1`.
    if len(block) <= _REMEMBERED_BYTES and not any(isinstance(value, int) for _, value in pairs):
        if len(_encoded) >= _REMEMBERED:
            _encoded.clear()
        try:
            _encoded[pairs] = block
        except TypeError:
            return block
    return block


def _name(name: object) -> bytes:
    data = name.encode("latin-1", "replace") if isinstance(name, str) else name
    if not isinstance(data, bytes):
        raise ConfigurationError(f"a header name must be str or bytes, found {name!r}")
    data = data.lower()
    if _TOKEN.match(data) is None:
        raise ConfigurationError(
            f"a header name must be a token (RFC 9110 section 5.6.2), found {name!r}"
        )
    return data


def _value(name: object, value: object) -> bytes:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if isinstance(value, str):
        try:
            data = value.encode("latin-1")
        except UnicodeEncodeError:
            raise ConfigurationError(
                f"the value of header {name!r} must be ISO-8859-1 or bytes, found {value!r}"
            ) from None
    elif isinstance(value, bytes):
        data = value
    else:
        raise ConfigurationError(
            f"the value of header {name!r} must be str, bytes or int, found {value!r}"
        )
    if _FORBIDDEN.search(data) is not None:
        raise ConfigurationError(
            f"the value of header {name!r} must not have CR, LF, NUL or another control character, found {value!r}"
        )
    return data.strip(b" \t")
