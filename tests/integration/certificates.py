"""Certificates for tests: an authority of our own, and files as administrators have them, good and broken."""

from __future__ import annotations

import datetime
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import serialization

__all__ = ["Authority", "Identity"]

#: What every server of a test is called; 127.0.0.1 is what clients connect to.
NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Identity:
    """A certificate chain and its key, in files."""

    certificate_path: Path
    key_path: Path

    @property
    def options(self) -> dict[str, Any]:
        """As options of ``serve_secure_native_direct``."""
        return {"certificate_path": self.certificate_path, "key_path": self.key_path}

    @property
    def der(self) -> bytes:
        """The certificate itself, as peers see it."""
        return self.chain[0]

    @property
    def chain(self) -> list[bytes]:
        """Every certificate of the file, in its order."""
        return [
            certificate.public_bytes(serialization.Encoding.DER)
            for certificate in x509.load_pem_x509_certificates(self.certificate_path.read_bytes())
        ]


class Authority:
    """Somebody who signs; writes what it signs into one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ca = trustme.CA()
        self._count = 0
        #: The authority's own certificate, as a PEM file.
        self.path = folder / "authority.pem"
        self._ca.cert_pem.write_to_path(str(self.path))

    @property
    def der(self) -> bytes:
        """The authority's own certificate, as peers see it."""
        return ssl.PEM_cert_to_DER_cert(self.path.read_text())

    def issue(self, *names: str, expires: datetime.datetime | None = None) -> Identity:
        """A new identity for these names; for this machine's own without any."""
        return self._write(self._ca.issue_cert(*(names or NAMES), not_after=expires))

    def issue_through_an_intermediate(self, *names: str) -> Identity:
        """An identity whose chain has two certificates."""
        return self._write(self._ca.create_child_ca().issue_cert(*(names or NAMES)))

    def expired(self) -> Identity:
        """An identity whose time was over an hour ago."""
        return self.issue(
            expires=datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(hours=1)
        )

    def encrypted(self, identity: Identity, password: str) -> Identity:
        """The same identity, its key as PKCS#8 under a password."""
        key = serialization.load_pem_private_key(identity.key_path.read_bytes(), None)
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(password.encode()),
        )
        path = identity.key_path.with_name(f"encrypted-{identity.key_path.name}")
        path.write_bytes(pem)
        return Identity(identity.certificate_path, path)

    def context(self, *protocols: str, identity: Identity | None = None) -> ssl.SSLContext:
        """A client that trusts this authority, offers these protocols (ALPN), and may show a certificate.

        OpenSSL completes a chain of one certificate with the authority itself, which it finds among those it trusts.
        """
        context = ssl.create_default_context(cafile=str(self.path))
        if protocols:
            context.set_alpn_protocols(protocols)
        if identity is not None:
            context.load_cert_chain(identity.certificate_path, identity.key_path)
        return context

    def _write(self, leaf: trustme.LeafCert) -> Identity:
        self._count += 1
        certificate = self._folder / f"certificate-{self._count}.pem"
        key = self._folder / f"key-{self._count}.pem"
        certificate.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        leaf.private_key_pem.write_to_path(str(key))
        return Identity(certificate, key)
