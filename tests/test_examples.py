"""Every program in examples/ runs as it stands, answers a real client, and stops on SIGTERM with exit code 0."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from curl_cffi import CurlHttpVersion
from websockets.sync.client import ClientConnection, connect

from tests.integration.certificates import Authority, Identity
from tests.integration.clients import Wire, eventually
from tests.integration.h3_clients import curl
from tests.programs import ROOT, Program, ask, on_port_0, running

EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.py"))

# What plain programs are asked, and what their answers must hold.
QUESTIONS: dict[str, list[tuple[str, bytes | None, bytes]]] = {
    "hello.py": [("/world", None, b"hello /world\n")],
    "streaming.py": [
        ("/", None, b"99999\n"),
        (
            "/",
            b"abc",
            b"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        ),
    ],
    "embedded.py": [("/a/path", None, b'{"path":"/a/path"}')],
    "http_server.py": [
        ("/", b"a <b>", b"<li>a &lt;b&gt;</li>"),
        ("/", None, b"visit 1"),
        ("/count", None, b"3\n2\n1\n"),
        ("/nothing", None, b"nothing is here"),
    ],
    "profile_server.py": [
        ("/health", None, b'{"ok":true}'),
        ("/cpu?iterations=3&seed=7", None, b'"iterations":3'),
        ("/upload", b"x" * 100_000, b'{"bytes":100000}'),
        ("/echo", b"hey", b'"preview":"hey"'),
        ("/nothing", None, b"not found"),
    ],
}

Run = Callable[..., contextlib.AbstractContextManager[Program]]


@pytest.fixture
def example(tmp_path: Path) -> Run:
    """Runs an example by name, in a copy of the folder in which the ports are 0."""
    folder = tmp_path / "examples"
    shutil.copytree(ROOT / "examples", folder, ignore=shutil.ignore_patterns("__pycache__"))
    for path in folder.glob("*.py"):
        path.write_text(on_port_0(path.read_text()))

    def run(name: str, *arguments: str | Path) -> contextlib.AbstractContextManager[Program]:
        return running(folder / name, *arguments)

    return run


def test_every_example_is_run_here() -> None:
    tested = {name.removeprefix("test_") + ".py" for name in globals()}
    assert [name for name in EXAMPLES if name not in tested | QUESTIONS.keys()] == []


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_short(name: str) -> None:
    lines = (ROOT / "examples" / name).read_text().splitlines()
    assert len(lines) <= 60


@pytest.mark.parametrize("name", sorted(QUESTIONS))
def test_an_example_answers_and_stops(example: Run, name: str) -> None:
    with example(name) as program:
        for path, body, expected in QUESTIONS[name]:
            assert expected in ask(program.url + path, body)


def test_the_profiling_server_has_a_second_mode(example: Run) -> None:
    with example("profile_server.py", "--mode", "http", "--port", "0") as program:
        for path, body, expected in QUESTIONS["profile_server.py"]:
            assert expected in ask(program.url + path, body)


# --- TLS --------------------------------------------------------------------------------------------------------------

VERSIONS = {
    CurlHttpVersion.V1_1: b"HTTP/1.1",
    CurlHttpVersion.V2TLS: b"HTTP/2",
    CurlHttpVersion.V3ONLY: b"HTTP/3",
}


def test_tls_http3(example: Run, authority: Authority, identity: Identity) -> None:
    files = ("--certificate", identity.certificate_path, "--key", identity.key_path)
    with example("tls_http3.py", *files) as program:
        for version, name in VERSIONS.items():
            answer = curl(f"{program.url}/a", trust=authority.path, version=version)
            assert answer.content == b"hello /a over %s and TLSv1.3\n" % name


def test_tls_http3_makes_a_certificate_of_its_own(example: Run, tmp_path: Path) -> None:
    trust = tmp_path / "made.pem"
    with example("tls_http3.py") as program:
        trust.write_text(ssl.get_server_certificate(program.address))
        for name in ("localhost", "127.0.0.1"):
            answer = curl(f"https://{name}:{program.port}/", trust=trust)
            assert answer.content == b"hello / over HTTP/3 and TLSv1.3\n"


def test_client_certificates(example: Run, authority: Authority, identity: Identity) -> None:
    files = ("--certificate", identity.certificate_path, "--key", identity.key_path)
    client = authority.issue("client.test")
    with example("client_certificates.py", *files, "--client-ca", authority.path) as program:
        with Wire(program.address, tls=authority.context(identity=client)) as wire:
            assert (
                wire.get().body == b"hello %s\n" % hashlib.sha256(client.der).hexdigest().encode()
            )
        # TLS 1.3: the client is done with the handshake before the server has seen that nothing was shown.
        with Wire(program.address, tls=authority.context()) as wire, pytest.raises(ssl.SSLError):
            wire.get()


# --- what a request may become ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def joined(program: Program, name: str) -> Iterator[ClientConnection]:
    with connect(f"ws://127.0.0.1:{program.port}/chat?name={name}", proxy=None) as websocket:
        yield websocket


def test_websocket_chat(example: Run) -> None:
    with example("websocket_chat.py") as program:
        assert b"<title>Chat</title>" in ask(f"{program.url}/")
        assert ask(f"{program.url}/favicon.ico") == b"not found\n"
        with joined(program, "Ada") as ada:
            assert ada.recv(10) == "Ada joined, 1 here"
            with joined(program, "Grace%20H") as grace:
                assert grace.recv(10) == ada.recv(10) == "Grace H joined, 2 here"
                grace.send("good morning")
                assert grace.recv(10) == ada.recv(10) == "Grace H: good morning"
            assert ada.recv(10) == "Grace H left, 1 here"


def test_who_does_not_read_the_chat_keeps_nobody_waiting(example: Run) -> None:
    heard: list[str | bytes] = []
    with (
        example("websocket_chat.py") as program,
        joined(program, "loud") as loud,
        Wire(program.address, receive_buffer=4096) as deaf,
    ):
        deaf.request(
            "/chat?name=deaf",
            "connection: upgrade",
            "upgrade: websocket",
            "sec-websocket-version: 13",
            "sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==",
        )
        while loud.recv(10) != "deaf joined, 2 here":
            pass
        while "deaf left, 1 here" not in heard:
            assert len(heard) < 1000
            loud.send("x" * 60_000)
            heard.append(loud.recv(10))


def test_upgrade_detach(example: Run) -> None:
    with example("upgrade_detach.py") as program:
        assert b"this server speaks shout" in ask(program.url)
        with Wire(program.address) as wire:
            # The first bytes come with the request, as a hasty client sends them.
            wire.send(
                b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: shout\r\n\r\nhel"
            )
            assert wire.head()[1] == 101
            wire.send(b"lo\nworld\n")
            assert wire.read_exactly(12) == b"HELLO\nWORLD\n"
            wire.send(b"\n")
            assert wire.rest() == b""
        with Wire(program.address) as wire:
            wire.get("/", "connection: upgrade", "upgrade: shout")
            wire.send(b"x" * 2000)
            assert wire.rest() == b"LINES HAVE AT MOST 1000 BYTES\n"


# --- files, addresses, the end ----------------------------------------------------------------------------------------


def test_file_download(example: Run, tmp_path: Path) -> None:
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "a b.txt").write_bytes(b"0123456789" * 20_000)
    (tmp_path / "secret").write_text("secret")
    (folder / "link").symlink_to(tmp_path / "secret")
    with example("file_download.py", folder) as program, Wire(program.address) as wire:
        answer = wire.get("/a%20b.txt", "range: bytes=0-9")
        assert (answer.status, answer.body) == (200, b"0123456789" * 20_000)
        assert answer.header("content-disposition") == "attachment; filename*=UTF-8''a%20b.txt"
        wire.request("/a%20b.txt", method="HEAD")
        assert wire.answer("HEAD").header("content-length") == "200000"
        for path in ("/", "/nothing", "/link", "/%2e%2e/secret", "/..%2fsecret", "/a%00b"):
            assert wire.get(path).status in (400, 404), path
        wire.request("/a%20b.txt", method="DELETE")
        assert wire.answer().status == 405


def test_multi_bind(example: Run, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with example("multi_bind.py", path) as program:
        while "--unix-socket" not in program.line():
            pass
        *urls, _ = program.urls
        assert len(urls) == (3 if socket.has_ipv6 else 2)
        for url in urls:
            host, port = url.removeprefix("http://").strip("/").rsplit(":", 1)
            assert ask(url) == f"you came in by {host.strip('[]')} port {port}\n".encode()
        command = ["curl", "-s", "--unix-socket", str(path), "http://localhost/"]
        answer = subprocess.run(command, capture_output=True, check=True, timeout=10).stdout
        assert answer == f"you came in by {path}\n".encode()
        assert path.stat().st_mode & 0o777 == 0o660
        program.stop()
        assert not path.exists()


def test_graceful_shutdown(example: Run) -> None:
    with example("graceful_shutdown.py") as program:
        with Wire(program.address) as slow:
            slow.request("/upload", "content-length: 10", method="POST")
            slow.send(b"12345")
            assert ask(f"{program.url}/stop", b"") == b"stopping\n"
            eventually(lambda: refused(program.address), "nobody is let in any more")
            slow.send(b"67890")
            assert slow.answer().body == b"10 bytes\n"
        assert program.end() == "answered before the end: /upload\n"


def refused(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, 5).close()
    except ConnectionRefusedError:
        return True
    return False
