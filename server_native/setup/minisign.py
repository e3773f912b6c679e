"""Signatures of minisign (Ed25519, RFC 8032), checked without a dependency.

The libraries that do so are native code themselves, for a handful of platforms. Public data only, so nothing here has
to hide how long it takes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib

from server_native.errors import PrebuiltError

__all__ = ["verify"]

_P = 2**255 - 19
_ORDER = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, -1, _P) % _P
_ROOT = pow(2, (_P - 1) // 4, _P)
_COMMENT = b"trusted comment: "

#: A point in extended coordinates (RFC 8032 section 5.1.4).
_Point = tuple[int, int, int, int]


def verify(content: bytes, signature: bytes, keys: tuple[str, ...]) -> str:
    """Checks the text of a ``.minisig`` file against ``content``; answers its trusted comment.

    ``keys`` are public keys as minisign prints them, one line of base64 each. Raises E-SIG.
    """
    comment, number, hashed, proof, over_comment = _parse(signature)
    key = _key(number, keys)
    message = hashlib.blake2b(content).digest() if hashed else content
    if not _holds(key, message, proof) or not _holds(key, proof + comment, over_comment):
        raise PrebuiltError(
            "E-SIG",
            "the signature does not fit: the file or its signature was changed after it was signed. Do not go on with "
            "verification off; fetch both again from a place you trust",
        )
    return comment.decode("utf-8", "replace")


def _parse(signature: bytes) -> tuple[bytes, bytes, bool, bytes, bytes]:
    lines = signature.splitlines()
    try:
        if len(lines) < 4 or not lines[2].startswith(_COMMENT):
            raise ValueError("four lines, the third a trusted comment")
        head = base64.b64decode(lines[1], validate=True)
        over_comment = base64.b64decode(lines[3], validate=True)
        if len(head) != 74 or head[:2] not in (b"ED", b"Ed") or len(over_comment) != 64:
            raise ValueError("an Ed25519 signature in the second line and one in the fourth")
    except (binascii.Error, ValueError) as error:
        raise PrebuiltError(
            "E-SIG", f"this is no signature of minisign: expected {error}"
        ) from error
    return lines[2][len(_COMMENT) :], head[2:10], head[:2] == b"ED", head[10:], over_comment


def _key(number: bytes, keys: tuple[str, ...]) -> bytes:
    known = []
    for text in keys:
        try:
            raw = base64.b64decode(text.strip(), validate=True)
        except (binascii.Error, ValueError):
            raw = b""
        if len(raw) != 42 or raw[:2] != b"Ed":
            raise PrebuiltError(
                "E-SIG", f"{text!r} is no public key of minisign: expected its line of base64"
            )
        if raw[2:10] == number:
            return raw[10:]
        known.append(raw[9:1:-1].hex().upper())
    raise PrebuiltError(
        "E-SIG",
        f"signed with key {number[::-1].hex().upper()}, which is not trusted (trusted: {', '.join(known) or 'none'})",
    )


def _holds(key: bytes, message: bytes, signature: bytes) -> bool:
    """RFC 8032 section 5.1.7, without the cofactor, as libsodium has it."""
    public, commitment = _decode(key), _decode(signature[:32])
    scalar = int.from_bytes(signature[32:], "little")
    if public is None or commitment is None or scalar >= _ORDER:
        return False
    digest = hashlib.sha512(signature[:32] + key + message).digest()
    challenge = int.from_bytes(digest, "little") % _ORDER
    return _equal(_times(_BASE, scalar), _plus(commitment, _times(public, challenge)))


def _plus(one: _Point, two: _Point) -> _Point:
    a = (one[1] - one[0]) * (two[1] - two[0]) % _P
    b = (one[1] + one[0]) * (two[1] + two[0]) % _P
    c = 2 * one[3] * two[3] * _D % _P
    d = 2 * one[2] * two[2] % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _times(point: _Point, scalar: int) -> _Point:
    result = (0, 1, 1, 0)
    while scalar:
        if scalar & 1:
            result = _plus(result, point)
        point = _plus(point, point)
        scalar >>= 1
    return result


def _equal(one: _Point, two: _Point) -> bool:
    return (one[0] * two[2] - two[0] * one[2]) % _P == 0 and (
        one[1] * two[2] - two[1] * one[2]
    ) % _P == 0


def _decode(raw: bytes) -> _Point | None:
    """RFC 8032 section 5.1.3; ``None`` when it is no point of the curve."""
    y = int.from_bytes(raw, "little")
    sign, y = y >> 255, y & ((1 << 255) - 1)
    if y >= _P:
        return None
    square = (y * y - 1) * pow(_D * y * y + 1, -1, _P) % _P
    x = pow(square, (_P + 3) // 8, _P)
    if (x * x - square) % _P:
        x = x * _ROOT % _P
    if (x * x - square) % _P or (x == 0 and sign):
        return None
    if x & 1 != sign:
        x = _P - x
    return x, y, 1, x * y % _P


def _base() -> _Point:
    point = _decode((4 * pow(5, -1, _P) % _P).to_bytes(32, "little"))
    assert point is not None, "the base point lies on the curve"  # noqa: S101 - arithmetic, not input
    return point


_BASE = _base()
