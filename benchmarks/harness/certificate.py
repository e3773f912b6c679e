"""The certificate of every server with TLS: ECDSA P-256, its own authority, made once per run."""

from __future__ import annotations

import functools
import subprocess
import tempfile
from pathlib import Path

CONFIGURATION = """[req]
prompt = no
distinguished_name = name
x509_extensions = extensions
[name]
CN = localhost
[extensions]
basicConstraints = critical,CA:FALSE
subjectAltName = DNS:localhost,IP:127.0.0.1
"""


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    folder = tempfile.TemporaryDirectory(prefix="server-native-bench-tls-")
    (Path(folder.name) / "configuration").write_text(CONFIGURATION)
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-noenc", "-days", "2", "-config", "configuration"]
    command += ["-keyout", "key.pem", "-out", "certificate.pem"]
    subprocess.run(command, cwd=folder.name, check=True, capture_output=True)
    return folder


def files() -> tuple[Path, Path]:
    """PEM files of certificate and key (PKCS#8); they live as long as this process."""
    folder = Path(_folder().name)
    return folder / "certificate.pem", folder / "key.pem"
