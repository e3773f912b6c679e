"""HTTPS on one port number: HTTP/1.1 and HTTP/2 over TCP, HTTP/3 over UDP. The answer says which one was spoken.

    python examples/tls_http3.py --certificate cert.pem --key key.pem

Without a certificate openssl makes one that nobody trusts, for a day, so that there is something to look at.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

from server_native import NativeDirectRequest, NativeServer, serve_secure_native_direct


def handler(request: NativeDirectRequest) -> str:
    version = request.tls.version if request.tls else "no TLS"
    return f"hello {request.path} over {request.protocol} and {version}\n"


def self_signed(folder: Path) -> tuple[Path, Path]:
    certificate, key = folder / "cert.pem", folder / "key.pem"
    command = "openssl req -x509 -nodes -days 1 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    files = ["-out", str(certificate), "-keyout", str(key)]
    subprocess.run([*command.split(), *names, *files], check=True, stderr=subprocess.DEVNULL)
    return certificate, key


def ready(server: NativeServer) -> None:
    url = f"https://localhost:{server.port}"
    print(f"serving on {url}\ntry: curl -k {url} and curl -k --http3-only {url}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--certificate", type=Path)
    parser.add_argument("--key", type=Path)
    options = parser.parse_args()
    if (options.certificate is None) != (options.key is None):
        parser.error("--certificate and --key go together")
    with tempfile.TemporaryDirectory() as folder:
        certificate, key = options.certificate, options.key
        if certificate is None:
            certificate, key = self_signed(Path(folder))
        serve_secure_native_direct(
            handler, port=8443, certificate_path=certificate, key_path=key, on_ready=ready
        )
