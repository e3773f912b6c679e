"""A real browser: two people chat, a page comes over HTTP/3, and one over HTTP/2 leads to HTTP/3 by itself."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from server_native import NativeDirectRequest, NativeDirectResponse
from tests.conformance.browser import Browser, Page
from tests.integration.certificates import Authority, Identity
from tests.integration.clients import eventually
from tests.integration.servers import Running, Serve
from tests.programs import ROOT, on_port_0, running

pytestmark = pytest.mark.conformance

#: A name that a certificate may have and nobody owns (RFC 6761); browsers treat localhost in ways of their own.
NAME = "server.test"
PAGE = NativeDirectResponse.text(
    "<!doctype html><title>Served</title><link rel=icon href=data:,><h1>Hello</h1>",
    headers={"content-type": "text/html; charset=utf-8"},
)


class Heard:
    """A handler that serves a page to everybody, and remembers over what it was asked for."""

    def __init__(self) -> None:
        self.protocols: list[str] = []

    async def __call__(self, request: NativeDirectRequest) -> Any:
        self.protocols.append(request.protocol)
        if request.upgrade == "websocket":
            async with request.accept_websocket() as websocket:
                async for message in websocket:
                    await websocket.send(message)
            return None
        if request.path == "/count":
            return str(sum([len(chunk) async for chunk in request]))
        return PAGE


def trusting(identity: Identity) -> str:
    """The flag with which a browser takes this certificate as one of a public authority: the hash of its key."""
    certificate = x509.load_der_x509_certificate(identity.der)
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    pin = base64.b64encode(hashlib.sha256(key).digest()).decode()
    return f"--ignore-certificate-errors-spki-list={pin}"


@contextmanager
def showing(folder: Path, url: str, *flags: str, names: tuple[str, ...] = ()) -> Iterator[Page]:
    """A new browser with one page."""
    with Browser(folder, *flags, names=names) as browser, browser.page(url) as page:
        yield page


Secure = Callable[[Heard], Running]


@pytest.fixture
def named(authority: Authority) -> Identity:
    return authority.issue(NAME)


@pytest.fixture
def secure(serve: Serve, named: Identity) -> Secure:
    return lambda heard: serve(heard, None, **named.options)


# --- a chat -----------------------------------------------------------------------------------------------------------


def join(page: Page, name: str) -> None:
    assert (page.shows("#join"), page.shows("#say")) == (True, False)
    page.type("#name", name)
    page.wait_for("#lines", f"{name} joined")
    eventually(lambda: page.shows("#say"), "one can say something")
    assert not page.shows("#join")


def test_two_tabs_chat(tmp_path: Path) -> None:
    for suffix in ("py", "html"):
        source = (ROOT / "examples" / f"websocket_chat.{suffix}").read_text()
        (tmp_path / f"websocket_chat.{suffix}").write_text(on_port_0(source))
    picture = tmp_path / "chat.png"
    with (
        running(tmp_path / "websocket_chat.py") as program,
        Browser(tmp_path) as browser,
        browser.page(program.url) as ada,
    ):
        join(ada, "Ada")
        with browser.page(program.url) as grace:
            join(grace, "Grace")
            ada.wait_for("#lines", "Grace joined, 2 here")
            grace.type("#text", "Is <b>anybody</b> there?")
            ada.wait_for("#lines", "Grace: Is <b>anybody</b> there?")
            ada.type("#text", "Yes: grüß dich 👋")
            grace.wait_for("#lines", "Ada: Yes: grüß dich 👋")
            grace.screenshot(picture)
            assert picture.read_bytes().startswith(b"\x89PNG")
        ada.wait_for("#lines", "Grace left, 1 here")
        # The program stops, and says so: 1012 is "service restart" (IANA's registry of RFC 6455).
        program.stop()
        ada.wait_for("#state", "closed (1012")


# --- HTTP/3 -----------------------------------------------------------------------------------------------------------


def test_a_page_over_http3(
    serve: Serve, authority: Authority, identity: Identity, tmp_path: Path
) -> None:
    heard = Heard()
    origin = f"localhost:{serve(heard, None, **identity.options).server.port}"
    forced = f"--origin-to-force-quic-on={origin}"
    with showing(tmp_path, f"https://{origin}/", trusting(identity), forced) as page:
        assert (page.text("h1"), page.protocol()) == ("Hello", "h3")
        count = "fetch('/count', {method: 'POST', body: 'x'.repeat(3_000_000)}).then(a => a.text())"
        assert page.evaluate(count) == "3000000"
        many = (
            "Promise.all(Array.from({length: 150}, (_, n) => fetch('/' + n).then(a => a.status)))"
        )
        assert set(page.evaluate(many)) == {200}
    assert set(heard.protocols) == {"HTTP/3"}


def test_alt_svc_leads_from_http2_to_http3(secure: Secure, named: Identity, tmp_path: Path) -> None:
    heard = Heard()
    url = f"https://{NAME}:{secure(heard).server.port}/"
    # QUIC wants a certificate of a public authority. Naming the host, with a port that is not ours, waives that for
    # its every port, and forces QUIC on none.
    waived = f"--origin-to-force-quic-on={NAME}:1"
    with showing(tmp_path, url, trusting(named), waived, names=(NAME,)) as page:
        assert page.protocol() == "h2"

        def again() -> bool:
            page.open(url)
            return page.protocol() == "h3"

        eventually(again, "the browser follows alt-svc")
        assert page.text("h1") == "Hello"
    assert (heard.protocols[0], heard.protocols[-1]) == ("HTTP/2", "HTTP/3")


class Hangs(Exception):
    """No answer came."""


def test_an_upload_that_nobody_reads_is_answered(
    serve: Serve, identity: Identity, tmp_path: Path
) -> None:
    origin = f"localhost:{serve(lambda _: PAGE, None, **identity.options).server.port}"
    forced = f"--origin-to-force-quic-on={origin}"
    with showing(tmp_path, f"https://{origin}/", trusting(identity), forced) as page:
        status = page.evaluate(
            "fetch('/', {method: 'POST', body: 'x'.repeat(3_000_000), signal: AbortSignal.timeout(3000)})"
            ".then(answer => answer.status, String)"
        )
        if "TimeoutError" in str(status):
            raise Hangs(status)
        assert status == 200


# --- WebSocket over HTTP/2 --------------------------------------------------------------------------------------------


def test_a_websocket_shares_the_http2_connection(
    secure: Secure, named: Identity, tmp_path: Path
) -> None:
    heard = Heard()
    authority = f"{NAME}:{secure(heard).server.port}"
    url = f"https://{authority}/"
    with showing(tmp_path, url, trusting(named), "--disable-quic", names=(NAME,)) as page:
        answer = page.evaluate(
            f"new Promise((done, failed) => {{ const socket = new WebSocket('wss://{authority}/');"
            "socket.onopen = () => socket.send('grüße'); socket.onerror = failed;"
            "socket.onmessage = event => { socket.close(); done(event.data); } })"
        )
    assert answer == "grüße"
    assert heard.protocols == ["HTTP/2", "HTTP/2"]
