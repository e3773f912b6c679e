"""Signatures in minisign's format, by a key that `minisign -G -W` made. The package has a verifier of its own."""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

__all__ = ["SecretKey", "SigningError", "verify"]

#: Algorithm, key derivation, checksum, salt, two limits; then number, secret and public key, checksum.
_HEAD, _TAIL = 2 + 2 + 2 + 32 + 8 + 8, 8 + 64 + 32


class SigningError(Exception):
    """No signature can be made; the text never has anything of the key."""


@dataclass(frozen=True, repr=False)
class SecretKey:
    """An Ed25519 key with the number that minisign gives it."""

    number: bytes
    seed: bytes

    @classmethod
    def parse(cls, text: str, source: str) -> SecretKey:
        """Reads a key file. Raises :class:`SigningError` that names ``source``."""
        lines = [line for line in text.splitlines() if line.strip()]
        try:
            raw = base64.b64decode(lines[-1], validate=True) if lines else b""
        except (binascii.Error, ValueError):
            raw = b""
        if len(raw) != _HEAD + _TAIL or raw[:2] != b"Ed" or raw[4:6] != b"B2":
            raise SigningError(
                f"{source} is no secret key of minisign: expected a file of `minisign -G -W`"
            )
        if raw[2:4] != bytes(2):
            raise SigningError(
                f"{source} is locked with a password, which nobody is here to type: expected a key made by "
                "`minisign -G -W`, kept where secrets are"
            )
        # The checksum behind them is left at zero in a key without a password; the public half serves as one.
        number, seed, public = raw[_HEAD:][:8], raw[_HEAD:][8:40], raw[_HEAD:][40:72]
        key = cls(number, seed)
        if key._public() != public:
            raise SigningError(f"{source} is damaged: its halves do not belong together")
        return key

    @property
    def public(self) -> str:
        """The public key as manifests have it: one line of base64."""
        return base64.b64encode(b"Ed" + self.number + self._public()).decode()

    def sign(self, content: bytes, comment: str) -> str:
        """The signature's file. ``comment``: one line that is signed as well."""
        if "\n" in comment or "\r" in comment:
            raise SigningError(f"a trusted comment must be one line, found {comment!r}")
        # "ED": of the hash, which is the only kind minisign makes now.
        signature = self._private().sign(hashlib.blake2b(content).digest())
        both = self._private().sign(signature + comment.encode())
        lines = (
            f"untrusted comment: signature by minisign key {self.number[::-1].hex().upper()}",
            base64.b64encode(b"ED" + self.number + signature).decode(),
            f"trusted comment: {comment}",
            base64.b64encode(both).decode(),
        )
        return "\n".join(lines) + "\n"

    def _private(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.seed)

    def _public(self) -> bytes:
        return self._private().public_key().public_bytes_raw()


def verify(content: bytes, signature: str, keys: tuple[str, ...]) -> None:
    """Raises :class:`SigningError` unless one of ``keys`` made ``signature`` of ``content``."""
    try:
        _, first, comment, second = signature.splitlines()
        raw, both = base64.b64decode(first, validate=True), base64.b64decode(second, validate=True)
        known = {base64.b64decode(key)[2:10]: base64.b64decode(key)[10:] for key in keys}
        public = Ed25519PublicKey.from_public_bytes(known[raw[2:10]])
        if raw[:2] != b"ED":
            raise SigningError("the signature is not of a hash, as those of minisign are")
        public.verify(raw[10:], hashlib.blake2b(content).digest())
        public.verify(both, raw[10:] + comment.removeprefix("trusted comment: ").encode())
    except KeyError as error:
        raise SigningError("the signature is by none of the keys") from error
    except (ValueError, InvalidSignature) as error:
        raise SigningError("the signature is not of this file, or is none") from error
