"""The pages for users: their programs run as pasted, and their errors have the texts that they say."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from curl_cffi import CurlHttpVersion
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from server_native import (
    Limits,
    NativeDirectRequest,
    errors,
    serve_native_direct,
    serve_secure_native_direct,
)
from tests.integration.certificates import Authority, Identity
from tests.integration.h3_clients import curl
from tests.integration.servers import Serve
from tests.programs import ROOT, Program, ask, on_port_0, running

PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
QUICKSTART = (ROOT / "docs" / "quickstart.md").read_text()


class Shown(NamedTuple):
    """A program of a page; its name is the page and the heading above it, numbered when there are several."""

    name: str
    source: str


def shown() -> list[Shown]:
    found: dict[str, Shown] = {}
    for page in PAGES:
        heading = page.stem
        for title, source in re.findall(
            r"^## (.*?)$|^```python\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE
        ):
            heading = f"{page.stem}: {title}" if title else heading
            if source:
                count = sum(name.startswith(heading) for name in found) + 1
                name = heading if count == 1 else f"{heading} ({count})"
                found[name] = Shown(name, source)
    return list(found.values())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where programs run: with the certificate that the quick start says how to make."""
    command = re.search(r"^```sh\n(openssl .*?)^```$", QUICKSTART, re.DOTALL | re.MULTILINE)
    assert command
    subprocess.run(["sh", "-ec", command[1]], cwd=tmp_path, check=True, capture_output=True)
    return tmp_path


@pytest.mark.parametrize("program", shown(), ids=lambda program: str(program.name))
def test_a_program_runs_as_pasted(program: Shown, folder: Path) -> None:
    path = folder / "program.py"
    path.write_text(on_port_0(program.source))
    with running(path, folder=folder, logged=True) as started:
        CHECKS[program.name](started, folder)


def test_every_check_has_its_program() -> None:
    assert CHECKS.keys() == {program.name for program in shown()}


# --- what each is asked ---------------------------------------------------------------------------------------------

Check = Callable[[Program, Path], None]


def says(*answers: tuple[str, bytes | None, bytes]) -> Check:
    """The program answers a GET, or a POST of a body, on each path with exactly this."""

    def check(program: Program, folder: Path) -> None:
        for path, body, expected in answers:
            assert ask(program.url + path, body) == expected

    return check


def at_every_address(least: int, expected: str) -> Check:
    """The program answers at each address that its log names; `{host}` is that address."""

    def check(program: Program, folder: Path) -> None:
        assert len(program.urls) >= least
        for url in program.urls:
            host = url.split("//")[1].rsplit(":", 1)[0].strip("[]")
            assert ask(url).decode() == expected.format(host=host)

    return check


def over_every_version(expected: str) -> Check:
    """The program answers over HTTP/1.1, HTTP/2 and HTTP/3, with the certificate of the page."""
    versions = {
        CurlHttpVersion.V1_1: "HTTP/1.1",
        CurlHttpVersion.V2TLS: "HTTP/2",
        CurlHttpVersion.V3ONLY: "HTTP/3",
    }

    def check(program: Program, folder: Path) -> None:
        for version, name in versions.items():
            answer = curl(program.url, trust=folder / "cert.pem", version=version)
            assert answer.text == expected.format(protocol=name)

    return check


def echoes_messages(program: Program, folder: Path) -> None:
    url = program.url.replace("http", "ws")
    with connect(url, subprotocols=["echo"], proxy=None) as websocket:  # type: ignore[list-item]
        assert websocket.subprotocol == "echo"
        for message in ("hello", b"\x00\xff"):
            websocket.send(message)
            assert websocket.recv(10) == message


def echoes_messages_beside_requests(program: Program, folder: Path) -> None:
    echoes_messages(program, folder)
    assert ask(program.url) == b"talk to me with a WebSocket\n"


def at_the_socket_too(program: Program, folder: Path) -> None:
    at_every_address(1, "you came in by {host}\n")(program, folder)
    command = ["curl", "-s", "--unix-socket", "app.sock", "http://localhost/"]
    answer = subprocess.run(command, cwd=folder, capture_output=True, check=True, timeout=10)
    assert answer.stdout == b"you came in by app.sock\n"


def stops_when_told(program: Program, folder: Path) -> None:
    assert ask(program.url) == b"bye\n"
    assert ask(f"{program.url}/stop", b"") == b"bye\n"
    assert program.end().endswith("stopped\n")


CHECKS: dict[str, Check] = {
    "README": says(("/world", None, b"hello /world")),
    "README: In an asyncio program": says(("/", b"12345", b'{"bytes":5}')),
    "README: TLS and HTTP/3": over_every_version("hello over {protocol}\n"),
    "README: WebSocket": echoes_messages,
    "README: Several addresses": at_the_socket_too,
    "quickstart: A handler": says(
        ("/health", None, b'{"ok":true}'), ("/other", None, b"Not Found\n")
    ),
    "quickstart: The request and the response": says(
        ("/health", None, b'{"ok":true}'), ("/", "süß".encode(), "echo: süß".encode())
    ),
    "quickstart: Inside an asyncio program": says(("/", None, b"hello\n")),
    "quickstart: The HttpServer style": says(
        ("/health", None, b'{"ok":true}'), ("/other", None, b"Not Found\n")
    ),
    "quickstart: The HttpServer style (2)": at_every_address(1, "loopback ok\n"),
    "quickstart: The HttpServer style (3)": over_every_version("secure ok\n"),
    "quickstart: A callback": says(("/there", None, b"hello /there\n")),
    "quickstart: WebSockets and other protocols": echoes_messages_beside_requests,
    "quickstart: This machine only": at_every_address(1, "loopback ok\n"),
    "quickstart: `localhost` and `any`": at_every_address(1, "you came in by {host}\n"),
    "quickstart: Several addresses": at_every_address(2, "explicit binds ok\n"),
    "quickstart: Several addresses (2)": at_every_address(1, "multi server ok\n"),
    "quickstart: TLS, HTTP/2 and HTTP/3": over_every_version("secure, over {protocol}\n"),
    "quickstart: A graceful stop": stops_when_told,
}


# --- the pages themselves -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "page", [*PAGES, *ROOT.glob("[CS]*.md")], ids=lambda page: str(page.relative_to(ROOT))
)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


# --- the errors of the troubleshooting page -------------------------------------------------------------------------

TROUBLE = (ROOT / "docs" / "troubleshooting.md").read_text()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files as users have them, in the working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def is_explained(error: BaseException, *replaced: tuple[str, str]) -> None:
    """The text of an error stands on the page, after what is different each time was replaced."""
    text = f"{type(error).__name__}: {error}"
    for pattern, example in replaced:
        text = re.sub(pattern, example, text)
    assert text.splitlines()[0] in TROUBLE


def test_errors_of_addresses(here: Path, identity: Identity) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(errors.AddressInUseError) as raised:
            serve_native_direct(lambda _: "", port=port)
    is_explained(raised.value, (str(port), "8080"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(("127.0.0.1", 0))
        port = datagrams.getsockname()[1]
        with pytest.raises(errors.AddressInUseError) as raised:
            serve_secure_native_direct(
                lambda _: "", host="127.0.0.1", port=port, **identity.options
            )
    is_explained(raised.value, (str(port), "8443"))
    Path("app.sock").touch()
    with pytest.raises(errors.AddressInUseError) as raised:
        serve_native_direct(lambda _: "", uds="app.sock")
    is_explained(raised.value)
    with pytest.raises(errors.AddressNotAvailableError) as elsewhere:
        serve_native_direct(lambda _: "", host="192.0.2.1", port=0)
    is_explained(elsewhere.value, (":0:", ":8080:"))


def test_errors_of_certificates(here: Path, authority: Authority) -> None:
    good, other, old = authority.issue(), authority.issue(), authority.expired()
    locked = authority.encrypted(good, "right").key_path.read_bytes()
    certificate, key = good.certificate_path.read_bytes(), good.key_path.read_bytes()

    def refuses(certificate: bytes | None, key: bytes, swap: bool = False, **more: str) -> None:
        for name, content in (("cert.pem", certificate), ("key.pem", key)):
            Path(name).unlink(missing_ok=True)
            if content is not None:
                Path(name).write_bytes(content)
        first, second = ("key.pem", "cert.pem") if swap else ("cert.pem", "key.pem")
        options: dict[str, Any] = {"certificate_path": first, "key_path": second, **more}
        with pytest.raises(errors.CertificateError) as raised:
            serve_secure_native_direct(lambda _: "", port=0, **options)
        is_explained(raised.value, (r"on 20[\dT:-]+Z", "on 2026-01-31T00:00:00Z"))

    refuses(None, key)
    refuses(certificate, key, swap=True)
    refuses(certificate, other.key_path.read_bytes())
    refuses(certificate, locked)
    refuses(certificate, locked, certificate_password="wrong")  # noqa: S106
    refuses(old.certificate_path.read_bytes(), old.key_path.read_bytes())


def test_errors_of_websockets(serve: Serve) -> None:
    async def echo(request: NativeDirectRequest) -> None:
        async with request.accept_websocket() as websocket:
            async for message in websocket:
                await websocket.send(message)

    running = serve(echo, limits=Limits(ws_message_bytes=1000))
    url = f"{running.server.url}/"
    assert ask(url).decode().strip() in TROUBLE
    with connect(url.replace("http", "ws"), proxy=None) as large:
        large.send("x" * 1001)
        with pytest.raises(ConnectionClosed) as closed:
            large.recv(10)
        assert f"| {closed.value.rcvd and closed.value.rcvd.code} |" in TROUBLE
    with connect(url.replace("http", "ws"), proxy=None) as last:
        running.server.close()
        with pytest.raises(ConnectionClosed) as closed:
            last.recv(10)
        assert f"| {closed.value.rcvd and closed.value.rcvd.code} |" in TROUBLE


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("native/src/listen/accept.rs", "cannot accept a connection (next try in "),
        ("server_native/_server.py", "HTTP/3 is off: it needs TLS, which this server has not"),
        ("server_native/_library.py", "no native library of server_native was found. Searched:"),
        ("server_native/_ffi.py", "threads do not survive a fork: "),
        ("server_native/_ffi.py", "the library was built from other "),
    ],
)
def test_texts_that_take_more_to_see_stand_in_the_source(path: str, text: str) -> None:
    assert text in (ROOT / path).read_text()
    assert text in TROUBLE


def test_limits_that_are_named_exist() -> None:
    known = {entry.name for entry in fields(Limits)}
    named = re.findall(r"Limits\(([^)]+)\)", TROUBLE)
    assert named
    assert {name.strip() for group in named for name in re.findall(r"(\w+)=", group)} <= known
