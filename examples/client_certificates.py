"""Mutual TLS: only clients with a certificate of our authority get in, and each is known by its fingerprint.

    python examples/client_certificates.py --certificate cert.pem --key key.pem --client-ca clients.pem

A client's certificate is checked before its request is read; `optional` would let others in, with no certificate.
The fingerprint is that of `openssl x509 -in client.pem -noout -fingerprint -sha256`.
"""

from __future__ import annotations

import argparse
import hashlib

from server_native import NativeDirectRequest, NativeServer, serve_secure_native_direct


def handler(request: NativeDirectRequest) -> tuple[int, str]:
    certificate = request.tls.peer_certificate if request.tls else None
    if certificate is None:
        return 403, "who are you?\n"
    return 200, f"hello {hashlib.sha256(certificate).hexdigest()}\n"


def ready(server: NativeServer) -> None:
    url = f"https://localhost:{server.port}"
    print(f"serving on {url}", flush=True)
    print(f"try: curl --cacert ca.pem --cert client.pem --key client.key {url}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("--certificate", "--key", "--client-ca"):
        parser.add_argument(name, required=True)
    options = parser.parse_args()
    serve_secure_native_direct(
        handler,
        port=8443,
        certificate_path=options.certificate,
        key_path=options.key,
        request_client_certificate="required",
        client_ca_path=options.client_ca,
        on_ready=ready,
    )
