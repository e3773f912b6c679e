"""Every Python program in the README and the quick start runs as pasted, answers a real client, and stops."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from curl_cffi import CurlHttpVersion
from websockets.sync.client import connect

from tests.integration.h3_clients import curl
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
