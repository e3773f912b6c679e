"""TLS of whole processes: SIGHUP, keys as OpenSSL writes them, what OpenSSL's client sees, and how connections end.

What one server does for one handshake is in ``test_tls.py``.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import ssl
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from server_native import Limits, NativeDirectRequest, NativeDirectResponse
from server_native.errors import CertificateError
from tests.faults.harness import Child
from tests.integration.certificates import Authority, Identity
from tests.integration.clients import H2, Wire, eventually
from tests.integration.servers import MODES, PATIENCE, Mode, Serve

ADDRESS = "127.0.0.1"

# --- SIGHUP ---------------------------------------------------------------------------------------------------------

SECURE = """
import json, logging, sys, server_native
logging.basicConfig(level=logging.INFO, format="log %(message)s", stream=sys.stdout)
kind, options = sys.argv[1], json.loads(sys.argv[2])
def plain(request):
    return request.path
async def asynchronous(request):
    return request.path
def ready(server):
    print("ready", server.port, flush=True)
server_native.serve_secure_native_direct(
    asynchronous if kind == "async" else plain, host="127.0.0.1", port=0, on_ready=ready, **options
)
print("over", flush=True)
"""


def secure(kind: str, identity: Identity, **more: Any) -> Child:
    """A process that serves with this certificate until it is told to end."""
    files = {name: str(value) for name, value in identity.options.items()}
    return Child.run(SECURE, kind, json.dumps({**files, **more}))


def replace(old: Identity, new: Identity) -> None:
    """As a deployment does it: each file at once, the two of them one after the other."""
    for ours, theirs in (
        (old.certificate_path, new.certificate_path),
        (old.key_path, new.key_path),
    ):
        fresh = ours.with_suffix(".new")
        fresh.write_bytes(theirs.read_bytes())
        fresh.replace(ours)


def shown(port: int, authority: Authority) -> bytes:
    with Wire((ADDRESS, port), tls=authority.context()) as wire:
        certificate = wire.tls.getpeercert(binary_form=True)
        assert certificate is not None
        return certificate


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("plain", {}),
        ("plain", {"io_threads": 2}),
        ("plain", {"threads": 2}),
        ("async", {}),
        ("async", {"io_threads": 1}),
    ],
    ids=str,
)
def test_sighup_reads_the_certificates_again_and_ends_no_connection(
    authority: Authority, kind: str, options: dict[str, Any]
) -> None:
    mine = authority.issue()
    first = mine.der
    with secure(kind, mine, **options) as server:
        port = int(server.expect("ready"))
        with (
            Wire((ADDRESS, port), tls=authority.context()) as wire,
            H2((ADDRESS, port), tls=authority.context("h2")) as client,
        ):
            assert wire.get("/before").body == client.request("/before").body == b"/before"
            next_one = authority.issue()
            replace(mine, next_one)
            server.signal(signal.SIGHUP)
            server.expect("log the certificates were reloaded")
            assert shown(port, authority) == next_one.der != first
            assert wire.get("/after").body == client.request("/after").body == b"/after"
            # Broken files are told in the log, and change nothing.
            good = mine.key_path.read_bytes()
            mine.key_path.write_text("garbage\n")
            server.signal(signal.SIGHUP)
            complaint = server.expect("log the certificates could not be reloaded, the old ones")
            assert str(mine.key_path) in complaint
            assert shown(port, authority) == next_one.der
            mine.key_path.write_bytes(good)
            server.signal(signal.SIGHUP)
            server.expect("log the certificates were reloaded", count=2)
            assert wire.get("/again").body == client.request("/again").body == b"/again"
        server.signal(signal.SIGTERM)
        server.expect("over")
        server.ends(0)


def test_a_server_that_may_not_read_its_key_any_more_keeps_the_old_one(
    authority: Authority,
) -> None:
    """Started as root, then running as nobody: what a reload finds is no reason to end."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become somebody who may not")
    mine = authority.issue()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        here = Identity(Path(folder) / "certificate.pem", Path(folder) / "key.pem")
        here.certificate_path.write_bytes(mine.certificate_path.read_bytes())
        here.key_path.write_bytes(mine.key_path.read_bytes())
        here.key_path.chmod(0o600)
        source = SECURE.replace('print("ready"', 'import os; os.seteuid(65534); print("ready"')
        options = {name: str(value) for name, value in here.options.items()}
        # Rights belong to threads on Linux, and Python's seteuid changes all of them.
        with Child.run(source, "plain", json.dumps(options)) as server:
            port = int(server.expect("ready"))
            server.signal(signal.SIGHUP)
            complaint = server.expect("log the certificates could not be reloaded")
            assert f"key_path {here.key_path}: Permission denied" in complaint
            assert "must be able to read it" in complaint
            assert shown(port, authority) == mine.der
            server.signal(signal.SIGTERM)
            server.ends(0)


def test_a_ticket_of_before_a_reload_makes_a_whole_handshake(
    serve: Serve, authority: Authority, identity: Identity
) -> None:
    """Whoever was trusted then may not be now; the client is not told by an error."""
    running = serve(lambda _: "x", **identity.options)
    context = authority.context()
    with Wire(running.address, tls=context) as wire:
        wire.get()
        session = wire.tls.session
    with Wire(running.address, tls=context, session=session) as wire:
        assert wire.get().status == 200
        assert wire.tls.session_reused
        session = wire.tls.session
    running.server.reload_certificates()
    with Wire(running.address, tls=context, session=session) as wire:
        assert wire.get().status == 200
        assert not wire.tls.session_reused


# --- whom to trust, when nobody is named ------------------------------------------------------------------------------


def test_clients_are_judged_by_the_systems_authorities_unless_others_are_named(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What OpenSSL's programs heed too: the system's authorities are those of this file.
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.path))
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    with secure("plain", authority.issue(), request_client_certificate="required") as server:
        port = int(server.expect("ready"))
        known = authority.context(identity=authority.issue("client.test"))
        with Wire((ADDRESS, port), tls=known) as wire:
            assert wire.get("/known").body == b"/known"
        stranger = authority.context(identity=Authority(tmp_path).issue("client.test"))
        with (
            pytest.raises((ssl.SSLError, ConnectionError)),
            Wire((ADDRESS, port), tls=stranger) as wire,
        ):
            wire.get()
        server.signal(signal.SIGTERM)
        server.ends(0)


# --- keys as OpenSSL writes them ------------------------------------------------------------------------------------


def openssl(*arguments: str | Path, text: str | None = None) -> str:
    done = subprocess.run(
        ["openssl", *arguments], input=text, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def selfsigned(folder: Path, *algorithm: str) -> Identity:
    """A certificate that is its own authority, and its key in PKCS#8."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    openssl("genpkey", *algorithm, "-out", key)
    name = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
    openssl("req", "-x509", "-new", "-key", key, "-days", "2", *name, "-out", certificate)
    return Identity(certificate, key)


ALGORITHMS = {
    "RSA": ("-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"),
    "P-256": ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"),
    "P-384": ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"),
    "Ed25519": ("-algorithm", "ED25519"),
}
FORMS = {
    "PKCS#8": ("pkey",),
    "traditional": ("pkey", "-traditional"),
    "AES-256": ("pkcs8", "-topk8", "-v2", "aes-256-cbc", "-passout", "pass:secret"),
    "AES-128": ("pkcs8", "-topk8", "-v2", "aes-128-cbc", "-passout", "pass:secret"),
    "scrypt": ("pkcs8", "-topk8", "-scrypt", "-passout", "pass:secret"),
}


@pytest.mark.parametrize(
    ("algorithm", "form"),
    [
        (algorithm, form)
        for algorithm in ALGORITHMS
        for form in FORMS
        # It never had a form of its own.
        if (algorithm, form) != ("Ed25519", "traditional")
    ],
)
def test_every_key_that_openssl_writes_today(
    serve: Serve, tmp_path: Path, algorithm: str, form: str
) -> None:
    made = selfsigned(tmp_path, *ALGORITHMS[algorithm])
    rewritten = tmp_path / "rewritten.pem"
    openssl(*FORMS[form], "-in", made.key_path, "-out", rewritten)
    label = {"traditional": "RSA " if algorithm == "RSA" else "EC ", "PKCS#8": ""}.get(
        form, "ENCRYPTED "
    )
    assert f"-----BEGIN {label}PRIVATE KEY-----" in rewritten.read_text()
    running = serve(
        lambda _: algorithm,
        certificate_path=made.certificate_path,
        key_path=rewritten,
        certificate_password="secret" if label == "ENCRYPTED " else None,
    )
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = ssl.create_default_context(cafile=str(made.certificate_path))
        context.minimum_version = context.maximum_version = version
        with Wire(running.address, tls=context) as wire:
            assert wire.get().body == algorithm.encode()


@pytest.mark.parametrize(
    "old",
    [
        ("rsa", "-aes256", "-traditional", "-passout", "pass:secret"),
        ("pkcs8", "-topk8", "-v1", "PBE-SHA1-3DES", "-passout", "pass:secret"),
        ("pkcs8", "-topk8", "-v2", "des3", "-passout", "pass:secret"),
        (
            "pkcs8",
            "-topk8",
            "-v2",
            "aes-256-cbc",
            "-v2prf",
            "hmacWithSHA1",
            "-passout",
            "pass:secret",
        ),
    ],
    ids=lambda words: " ".join(words[1:4]),
)
def test_an_old_encryption_is_refused_with_a_command_that_works(
    serve: Serve, tmp_path: Path, old: tuple[str, ...]
) -> None:
    made = selfsigned(tmp_path, *ALGORITHMS["RSA"])
    encrypted, converted = tmp_path / "old.pem", tmp_path / "new.pem"
    openssl(*old, "-in", made.key_path, "-out", encrypted)
    options: dict[str, Any] = {
        "certificate_path": made.certificate_path,
        "certificate_password": "secret",
    }
    with pytest.raises(CertificateError, match="is encrypted in") as info:
        serve(lambda _: "", key_path=encrypted, **options)
    said = re.search("convert it with `openssl (.*)`", str(info.value))
    assert said is not None, info.value
    words = said[1].replace("OLD", str(encrypted)).replace("NEW", str(converted)).split()
    openssl(*words, "-passin", "pass:secret", "-passout", "pass:secret")
    running = serve(lambda _: "converted", key_path=converted, **options)
    context = ssl.create_default_context(cafile=str(made.certificate_path))
    with Wire(running.address, tls=context) as wire:
        assert wire.get().body == b"converted"


# --- what is spoken -------------------------------------------------------------------------------------------------


def s_client(address: tuple[str, int], *arguments: str) -> subprocess.CompletedProcess[str]:
    """A handshake of OpenSSL's own client, and what it says about it."""
    place = f"{address[0]}:{address[1]}"
    command = ["openssl", "s_client", "-connect", place, "-servername", "localhost", *arguments]
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("version", ["-tls1", "-tls1_1"])
def test_old_versions_are_refused(serve: Serve, identity: Identity, version: str) -> None:
    """RFC 8996 says that nobody must speak them."""
    running = serve(lambda _: "", **identity.options)
    # Level 0, or OpenSSL would not even ask.
    done = s_client(running.address, version, "-cipher", "ALL:@SECLEVEL=0")
    assert done.returncode != 0
    assert re.search("alert (protocol version|handshake failure)", done.stderr), done.stderr
    # It is for the version only.
    done = s_client(running.address, "-tls1_2", "-cipher", "ALL:@SECLEVEL=0")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "ciphers", ["AES128-SHA", "AES256-GCM-SHA384", "ECDHE-RSA-AES128-SHA256:ECDHE-ECDSA-AES128-SHA"]
)
def test_ciphers_without_forward_secrecy_or_authentication_are_refused(
    serve: Serve, identity: Identity, ciphers: str
) -> None:
    running = serve(lambda _: "", **identity.options)
    done = s_client(running.address, "-tls1_2", "-cipher", f"{ciphers}:@SECLEVEL=0")
    assert done.returncode != 0
    assert "alert handshake failure" in done.stderr


def handshake(address: tuple[str, int], context: ssl.SSLContext, size: int, records: bool) -> bytes:
    """One request whose first flight goes in pieces: of TCP, or as records of their own (RFC 8446 section 5.1)."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with socket.create_connection(address, PATIENCE) as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def turn(step: Any) -> Any:
            while True:
                try:
                    answer = step()
                except ssl.SSLWantReadError:
                    plain.sendall(outgoing.read())
                    incoming.write(plain.recv(65536))
                else:
                    plain.sendall(outgoing.read())
                    return answer

        with pytest.raises(ssl.SSLWantReadError):
            tls.do_handshake()
        hello = outgoing.read()
        head, message = hello[:3], hello[5:]
        assert int.from_bytes(hello[3:5], "big") == len(message), "one record"
        whole = message if records else hello
        for start in range(0, len(whole), size):
            piece = whole[start : start + size]
            plain.sendall(head + len(piece).to_bytes(2, "big") + piece if records else piece)
        turn(tls.do_handshake)
        tls.write(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        answer = b""
        while data := turn(lambda: tls.read(65536)):
            answer += data
        return answer


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("size", [1, 7, 100])
@pytest.mark.parametrize("records", [False, True])
def test_a_hello_in_pieces(
    serve: Serve,
    authority: Authority,
    identity: Identity,
    version: ssl.TLSVersion,
    size: int,
    records: bool,
) -> None:
    running = serve(lambda _: "whole", **identity.options)
    context = authority.context()
    context.minimum_version = context.maximum_version = version
    assert handshake(running.address, context, size, records).endswith(b"\r\n\r\nwhole")


# --- how connections end --------------------------------------------------------------------------------------------


SOME_MODES = [mode for mode in MODES if mode.name in {"inline-driven", "pool", "task-in-uvloop"}]
some_modes = pytest.mark.parametrize("mode", SOME_MODES, ids=str)


@some_modes
@pytest.mark.parametrize("cause", ["never asked", "idle", "stop", "client"])
@pytest.mark.parametrize("http2", [False, True])
def test_an_end_is_announced_whatever_its_cause(
    serve: Serve, mode: Mode, authority: Authority, identity: Identity, cause: str, http2: bool
) -> None:
    """Without close_notify a peer has to take it for an attack (RFC 8446 section 6.1); reading raises then."""
    soon = {"idle": Limits(idle_ms=50), "never asked": Limits(detection_ms=50, idle_ms=50)}
    running = serve(lambda *_: "x", mode, limits=soon.get(cause), **identity.options)
    client: Wire | H2 = (
        H2(running.address, tls=authority.context("h2"))
        if http2
        else Wire(running.address, tls=authority.context())
    )
    with client:
        if cause != "never asked":
            answer = client.request() if isinstance(client, H2) else client.get()
            assert answer.body == b"x"
        if cause == "stop":
            running.close(PATIENCE)
        if cause == "client":
            assert isinstance(client.socket, ssl.SSLSocket)
            # It sends close_notify and waits for the server's.
            client.socket.unwrap()
        elif isinstance(client, H2):
            client.drain()
        else:
            assert client.rest() == b""


@pytest.mark.parametrize("where", ["TCP", "Unix"])
@some_modes
def test_a_body_that_breaks_off_is_no_end(
    serve: Serve, mode: Mode, authority: Authority, identity: Identity, where: str
) -> None:
    """HTTP/1.0 has no other framing than the end: it must not look like one, over a Unix socket neither."""
    piece = b"x" * 65_536

    def pieces() -> Iterator[bytes]:
        yield from [piece] * 16
        raise RuntimeError("on purpose")

    async def pieces_async() -> AsyncIterator[bytes]:
        for _ in range(16):
            yield piece
        raise RuntimeError("on purpose")

    def handler(_: NativeDirectRequest, __: bytes) -> NativeDirectResponse:
        return NativeDirectResponse.stream(pieces_async() if mode.asynchronous else pieces())

    with tempfile.TemporaryDirectory(prefix="sn-") as folder:
        path = f"{folder}/socket"
        options = {"uds": path} if where == "Unix" else {}
        running = serve(handler, mode, **options, **identity.options)
        place = path if where == "Unix" else running.address
        with Wire(place, tls=authority.context()) as wire:
            wire.send(b"GET / HTTP/1.0\r\n\r\n")
            assert wire.head()[1] == 200
            with pytest.raises((ssl.SSLEOFError, ConnectionResetError)):
                wire.rest()
        assert "on purpose" in serve.logged(1)[0]
        running.close()
        running.join()
    eventually(lambda: not running.thread.is_alive(), "over")
