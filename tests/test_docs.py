"""The pages for users: their programs run as pasted, and their errors have the texts that they say."""

from __future__ import annotations

import ast
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from curl_cffi import CurlHttpVersion
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

import server_native
from server_native import (
    Limits,
    NativeDirectRequest,
    errors,
    serve_native_direct,
    serve_secure_native_direct,
)
from server_native._bindings import abi
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


def test_every_variable_of_the_environment_is_told() -> None:
    told = set(re.findall(r"`(SERVER_NATIVE_\w+)`", (ROOT / "docs" / "deployment.md").read_text()))
    read = set()
    for path in (ROOT / "server_native").rglob("*.py"):
        read |= set(re.findall(r"[\"'`](SERVER_NATIVE_[A-Z_]+)\b", path.read_text()))
    assert len(read) > 12
    assert sorted(read - told) == []


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


def as_curl_shows(program: Program, folder: Path) -> None:
    """README's first program is asked what README asks, and curl prints what README prints, but for the date."""
    readme = (ROOT / "README.md").read_text()
    shown = re.search(
        r"^```\n\$ curl -i http://127\.0\.0\.1:8080(\S+)\n(.*?)\n```$",
        readme,
        re.DOTALL | re.MULTILINE,
    )
    assert shown
    command = ["curl", "-si", program.url + shown[1]]
    answer = subprocess.run(command, capture_output=True, check=True, timeout=10, text=True).stdout

    def undated(text: str) -> str:
        return re.sub(r"date: .*GMT", "date: GMT", text)

    assert undated(answer) == undated(shown[2])


def over_both(program: Program, folder: Path) -> None:
    says(("/", None, b"hello\n"), ("/", b"ab", b"abab"))(program, folder)
    with connect(program.url.replace("http", "ws"), proxy=None) as websocket:
        websocket.send("hello")
        assert websocket.recv(10) == "hello"


#: What both sides of the first pair of the migration page are asked.
SAME = says(("/a?b", None, b"you asked for /a?b\n"), ("/", b"hello", b"hello"))


def stops_when_told(program: Program, folder: Path) -> None:
    assert ask(program.url) == b"bye\n"
    assert ask(f"{program.url}/stop", b"") == b"bye\n"
    assert program.end().endswith("stopped\n")


CHECKS: dict[str, Check] = {
    "README": as_curl_shows,
    "README: In an asyncio program": says(("/", b"12345", b'{"bytes":5}')),
    "README: TLS and HTTP/3": over_every_version("hello over {protocol}\n"),
    "README: WebSocket": echoes_messages,
    "README: Several addresses": at_the_socket_too,
    "migration: From http.server": SAME,
    "migration: From http.server (2)": SAME,
    "migration: From uvicorn or granian": over_both,
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


# --- the tests that the pages name -----------------------------------------------------------------------------------


@cache
def nodes(path: Path) -> frozenset[str]:
    """Every test and class of tests of a file, as pytest names them within it."""

    def within(body: list[ast.stmt], prefix: str) -> Iterator[str]:
        for statement in body:
            if isinstance(statement, ast.ClassDef) and statement.name.startswith("Test"):
                yield prefix + statement.name
                yield from within(statement.body, f"{prefix}{statement.name}::")
            elif isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
                yield prefix + statement.name

    return frozenset(within(ast.parse(path.read_text()).body, ""))


@cache
def rust() -> str:
    return "\n".join(
        path.read_text()
        for folder in ("src", "tests")
        for path in (ROOT / "native" / folder).rglob("*.rs")
    )


@pytest.mark.parametrize("name", ["feature-status", "parity"])
def test_the_tests_it_names_exist(name: str) -> None:
    page = (ROOT / "docs" / f"{name}.md").read_text()
    file = ROOT
    missing: list[str] = []
    named = 0
    for code in re.findall(r"`([^`\n]+)`", page):
        if words := re.fullmatch(r"cargo test ([\w:]+)", code):
            last = words[1].strip(":").rpartition("::")[2]
            if re.search(rf"\b(?:fn|mod) {last}\b", rust()) is None:
                missing.append(code)
            continue
        place, _, node = code.partition("::")
        if re.fullmatch(r"[\w./-]+\.(?:py|rs|md|yml)", place):
            # A name alone is of the folder before.
            file = ROOT / place if "/" in place else file.parent / place
            if not file.exists():
                missing.append(code)
                continue
        elif place or not re.fullmatch(r"::(?:test_|Test)[\w:]+", code):
            continue
        named += 1
        if node and node not in nodes(file):
            missing.append(f"{file.name}::{node}")
    assert missing == []
    assert named > 20, "the names are found"


# --- the limits and the reference ------------------------------------------------------------------------------------


def test_the_table_of_limits_is_the_codes() -> None:
    page = (ROOT / "docs" / "limits.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| `")]
    found: dict[str, int] = {}
    counters: dict[str, str] = {}
    for name, default, *_, counter in rows:
        number = re.match(r"([\d,]+)(?: ([KM])iB)?", default)
        assert number, default
        factor = {None: 1, "K": 1024, "M": 1024 * 1024}[number[2]]
        found[name.strip("`")] = int(number[1].replace(",", "")) * factor
        counters[name.strip("`")] = counter
    assert list(found.items()) == list(asdict(Limits()).items())
    counted = {name for name, _ in abi.LimitCounts._fields_}
    assert {name for name, text in counters.items() if text == f"`limited_{name}`"} == counted
    others = {text for name, text in counters.items() if name not in counted}
    assert others == {"*waits*", "*inside h2*", "as `body_rate`"}


def test_the_reference_has_every_public_name() -> None:
    page = (ROOT / "docs" / "reference.md").read_text()
    names = set(re.findall(r"^### (\w+)$", page, re.MULTILINE))
    assert names >= set(server_native.__all__) | set(errors.__all__)


def test_the_reference_is_what_the_docstrings_say() -> None:
    command = [sys.executable, str(ROOT / "tools" / "generate_reference.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


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
        ("server_native/_verdicts.py", "no native library of server_native was found. Searched:"),
        ("server_native/_ffi.py", "threads do not survive a fork: "),
        ("server_native/_ffi.py", "the library was built from other "),
    ],
)
def test_texts_that_take_more_to_see_stand_in_the_source(path: str, text: str) -> None:
    assert text in (ROOT / path).read_text()
    assert text in TROUBLE


def test_limits_that_are_named_exist() -> None:
    known = {entry.name for entry in fields(Limits)}
    named = [
        group for page in PAGES for group in re.findall(r"Limits\((\w+=[^)]+)\)", page.read_text())
    ]
    assert named
    assert {name.strip() for group in named for name in re.findall(r"(\w+)=", group)} <= known
