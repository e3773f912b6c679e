"""What a handler may know of the TLS under its request."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["TLSInfo"]


@dataclass(frozen=True)
class TLSInfo:
    """The TLS session a request came by; ``request.tls`` is ``None`` on cleartext."""

    #: ``TLSv1.2`` or ``TLSv1.3``.
    version: str
    #: The suite by its IANA name; ``None`` over HTTP/3, where QUIC keeps it to itself.
    cipher: str | None
    #: What ALPN agreed on (RFC 7301): ``http/1.1``, ``h2``, ``h3``; ``None`` when the client offered nothing.
    protocol: str | None
    #: The name the client asked for (SNI); ``None`` without one.
    server_name: str | None
    #: The client's certificates in DER, its own first; empty when it showed none.
    peer_chain: tuple[bytes, ...]

    @property
    def peer_certificate(self) -> bytes | None:
        """The client's own certificate in DER, verified against ``client_ca_path``; ``None`` when it showed none."""
        return self.peer_chain[0] if self.peer_chain else None

    @classmethod
    def parse(cls, parts: Sequence[str]) -> TLSInfo:
        """From the parts of ACCEPT: version, cipher, protocol, server name, chain in base64."""
        version, cipher, protocol, server_name, *chain = parts
        return cls(
            version,
            cipher or None,
            protocol or None,
            server_name or None,
            tuple(b64decode(certificate) for certificate in chain),
        )
