"""What stands between a user and a mirror: proxies with passwords, and those that open TLS."""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from server_native.errors import PrebuiltError
from server_native.setup.download import Download
from server_native.setup.settings import Settings
from tests.setup.faulty import Drip, Faulty, answer

BODY = os.urandom(200_000)
USER = base64.b64encode(b"user:secret").decode()


class Proxy:
    """A CONNECT proxy that asks for a password; every host is the one at ``target``."""

    def __init__(self, target: int) -> None:
        self.asked: list[str] = []
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            head = b""
            while b"\r\n\r\n" not in head:
                data = client.recv(65_536)
                if not data:
                    return
                head += data
            self.asked.append(head.split(b"\r\n")[0].decode())
            if f"Basic {USER}".encode() not in head:
                client.sendall(
                    b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n"
                )
                return
            with socket.create_connection(("127.0.0.1", self._target)) as server:
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                back = threading.Thread(target=_pass, args=(server, client), daemon=True)
                back.start()
                _pass(client, server)
                back.join(10)

    def close(self) -> None:
        self._listener.close()


def _pass(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    made = trustme.CA()
    made.cert_pem.write_to_path(tmp_path / "authority.pem")
    return made


@pytest.fixture
def mirror(authority: trustme.CA) -> Iterator[Faulty]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("mirror.example", "127.0.0.1").configure_cert(context)
    with Faulty([answer(BODY)], context) as server:
        yield server


@pytest.fixture
def proxy(mirror: Faulty, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    made = Proxy(mirror.port)
    for name in (
        "HTTPS_PROXY",
        "HTTP_PROXY",
        "NO_PROXY",
        "ALL_PROXY",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
    ):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("https_proxy", f"http://user:secret@127.0.0.1:{made.port}")
    yield made
    made.close()


def fetch(url: str, folder: Path, bundle: str | None = "authority.pem") -> bytes:
    settings = Settings(tries=1, ca_bundle=str(folder / bundle) if bundle else None)
    with contextlib.closing(Download(settings)) as download:
        return download.text([url], folder / "file")


def test_a_proxy_with_a_password_is_passed_through(
    mirror: Faulty, proxy: Proxy, tmp_path: Path
) -> None:
    assert fetch("https://mirror.example/file", tmp_path) == BODY
    (asked,) = proxy.asked
    assert asked.startswith("CONNECT mirror.example:443 ")
    assert "proxy-authorization" not in mirror.asked[0].fields


def test_a_wrong_password_names_the_proxy_and_no_secret(
    mirror: Faulty, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", f"http://user:wrong@127.0.0.1:{proxy.port}")
    with pytest.raises(PrebuiltError) as caught:
        fetch("https://mirror.example/file", tmp_path)
    assert caught.value.code == "E-NET"
    assert f"through the proxy http://127.0.0.1:{proxy.port}" in str(caught.value)
    assert "407" in str(caught.value)
    assert "wrong" not in str(caught.value)


@pytest.mark.timeout(20)
def test_a_proxy_whose_answer_does_not_end_has_stalled(
    proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Faulty([Drip(b"HTTP/1.1 200 Connection established\r\nx: ")]) as dripping:
        monkeypatch.setenv("https_proxy", dripping.url)
        settings = Settings(tries=1, connect=0.2, idle=0.2)
        with (
            contextlib.closing(Download(settings)) as download,
            pytest.raises(PrebuiltError) as caught,
        ):
            download.text(["https://mirror.example/file"], tmp_path / "file")
    assert "the head of the proxy's answer was not whole within 0.2 s" in str(caught.value)


def test_no_proxy_is_heeded(
    mirror: Faulty, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "example.org,127.0.0.1")
    assert fetch(f"{mirror.url}/file", tmp_path) == BODY
    assert proxy.asked == []
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(PrebuiltError, match="no connection") as caught:
        fetch(f"https://127.0.0.1:{port}/file", tmp_path)
    assert "proxy " not in str(caught.value).split("What to do")[0]


def test_an_authority_nobody_has_named_is_refused(
    mirror: Faulty, proxy: Proxy, tmp_path: Path
) -> None:
    with pytest.raises(PrebuiltError, match="the certificate was refused") as caught:
        fetch("https://mirror.example/file", tmp_path, bundle=None)
    assert caught.value.code == "E-NET"
    assert "SERVER_NATIVE_CA_BUNDLE" in str(caught.value)
    assert mirror.asked == []


def test_the_variable_of_requests_does_not_win(
    mirror: Faulty, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(other)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(other))
    assert fetch("https://mirror.example/file", tmp_path) == BODY
    with pytest.raises(PrebuiltError, match="the certificate was refused"):
        fetch("https://mirror.example/file", tmp_path, bundle=None)


def test_a_certificate_for_another_host(mirror: Faulty, proxy: Proxy, tmp_path: Path) -> None:
    with pytest.raises(PrebuiltError, match="the certificate was refused"):
        fetch("https://elsewhere.example/file", tmp_path)
