"""Signatures in minisign's format: made with another's Ed25519, checked with ours."""

from __future__ import annotations

import base64
import hashlib
import os

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from server_native.errors import PrebuiltError
from server_native.setup import minisign

CONTENT = b"what was signed"
ORDER = 2**252 + 27742317777372353535851937790883648493


class Signer:
    """A key of minisign, made here."""

    def __init__(self, seed: bytes | None = None) -> None:
        self.key = Ed25519PrivateKey.from_private_bytes(seed or os.urandom(32))
        self.number = os.urandom(8)
        raw = self.key.public_key().public_bytes_raw()
        self.public = base64.b64encode(b"Ed" + self.number + raw).decode()

    def sign(self, content: bytes, comment: str = "a release", *, hashed: bool = True) -> bytes:
        message = hashlib.blake2b(content).digest() if hashed else content
        proof = self.key.sign(message)
        head = (b"ED" if hashed else b"Ed") + self.number + proof
        return self.text(head, comment, self.key.sign(proof + comment.encode()))

    @staticmethod
    def text(head: bytes, comment: str, over_comment: bytes) -> bytes:
        lines = ["untrusted comment: x", base64.b64encode(head).decode()]
        lines += [f"trusted comment: {comment}", base64.b64encode(over_comment).decode()]
        return "\n".join(lines).encode() + b"\n"


@pytest.mark.parametrize("hashed", [True, False])
@pytest.mark.parametrize("size", [0, 1, 5000])
def test_what_another_has_signed_is_accepted(size: int, hashed: bool) -> None:
    for _ in range(5):
        signer, content = Signer(), os.urandom(size)
        signature = signer.sign(content, "tag: v1 ü", hashed=hashed)
        assert minisign.verify(content, signature, (Signer().public, signer.public)) == "tag: v1 ü"


# RFC 8032 section 7.1, tests 1 to 3: secret key, message, signature.
VECTORS = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
]


@pytest.mark.parametrize(("secret", "message", "signature"), VECTORS)
def test_the_vectors_of_the_standard(secret: str, message: str, signature: str) -> None:
    signer = Signer(bytes.fromhex(secret))
    content, proof = bytes.fromhex(message), bytes.fromhex(signature)
    over_comment = signer.key.sign(proof + b"c")
    text = signer.text(b"Ed" + signer.number + proof, "c", over_comment)
    assert minisign.verify(content, text, (signer.public,)) == "c"


def altered(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_every_change_is_found() -> None:
    signer = Signer()
    signature = signer.sign(CONTENT)
    _, second, _, fourth = signature.splitlines()
    proof, over_comment = base64.b64decode(second), base64.b64decode(fourth)
    changed = [(altered(CONTENT, 3), signature), (CONTENT + b"x", signature), (b"", signature)]
    changed += [
        (CONTENT, signer.text(altered(proof, at), "a release", over_comment))
        for at in (10, 41, 42, 73)
    ]
    changed.append((CONTENT, signature.replace(b"a release", b"b release")))
    changed.append((CONTENT, signer.text(proof, "a release", altered(over_comment, 5))))
    for content, text in changed:
        with pytest.raises(PrebuiltError, match="the signature does not fit") as caught:
            minisign.verify(content, text, (signer.public,))
        assert caught.value.code == "E-SIG"


@pytest.mark.parametrize("hashed", [True, False])
def test_the_scalar_of_a_signature_has_one_form(hashed: bool) -> None:
    """Plus the order it is the same number to those who do not look (RFC 8032 section 5.1.7)."""
    signer = Signer()
    head = base64.b64decode(signer.sign(CONTENT, hashed=hashed).splitlines()[1])
    other = head[:42] + (int.from_bytes(head[42:], "little") + ORDER).to_bytes(32, "little")
    # Signed again, or the comment's signature would be what does not fit.
    text = signer.text(other, "c", signer.key.sign(other[10:] + b"c"))
    with pytest.raises(PrebuiltError, match="the signature does not fit"):
        minisign.verify(CONTENT, text, (signer.public,))
    good = signer.text(head, "c", signer.key.sign(head[10:] + b"c"))
    assert minisign.verify(CONTENT, good, (signer.public,)) == "c"


@pytest.mark.parametrize("key", [2**255 - 19 + 1, 2**255 + 1, 2])
def test_a_key_that_is_no_point_as_the_standard_writes_it(key: int) -> None:
    """The neutral element in two other spellings, with which one proof fits everything; and no point at all."""
    number, base = bytes(8), (4 * pow(5, -1, 2**255 - 19) % (2**255 - 19)).to_bytes(32, "little")
    proof = base + (1).to_bytes(32, "little")
    public = base64.b64encode(b"Ed" + number + key.to_bytes(32, "little")).decode()
    with pytest.raises(PrebuiltError, match="the signature does not fit"):
        minisign.verify(CONTENT, Signer.text(b"ED" + number + proof, "c", proof), (public,))


def test_only_trusted_keys_count() -> None:
    signer, other = Signer(), Signer()
    with pytest.raises(PrebuiltError, match="which is not trusted") as caught:
        minisign.verify(CONTENT, signer.sign(CONTENT), (other.public,))
    assert other.number[::-1].hex().upper() in str(caught.value)
    # Another key under the same number.
    impostor = base64.b64encode(
        b"Ed" + signer.number + base64.b64decode(other.public)[10:]
    ).decode()
    with pytest.raises(PrebuiltError, match="does not fit"):
        minisign.verify(CONTENT, signer.sign(CONTENT), (impostor,))
    with pytest.raises(PrebuiltError, match="is no public key of minisign"):
        minisign.verify(CONTENT, signer.sign(CONTENT), ("RWQ",))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"untrusted comment: x\n",
        b"a\nb\nc\nd\n",
        b"untrusted comment: x\n!!!\ntrusted comment: c\nAAAA\n",
        b"untrusted comment: x\nAAAA\ntrusted comment: c\nAAAA\n",
        Signer().sign(CONTENT).replace(b"trusted comment: a", b"comment: a"),
        b"\xff" * 500,
    ],
)
def test_what_is_no_signature_is_said_to_be_none(text: bytes) -> None:
    with pytest.raises(PrebuiltError, match="no signature of minisign"):
        minisign.verify(CONTENT, text, (Signer().public,))
