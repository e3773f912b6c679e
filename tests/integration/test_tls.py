"""TLS seen by OpenSSL: versions, ALPN, certificates of both sides, names, reload, and what is refused at the start."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from server_native import ConfigurationError, Limits, NativeDirectRequest, NativeDirectResponse
from server_native.errors import ServerNativeError
from tests.integration.certificates import Authority, Identity
from tests.integration.clients import H2, Wire, eventually
from tests.integration.servers import MODES, PATIENCE, Mode, Serve

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
#: One of each kind: who drives, what runs the handler, whose loop.
SOME_MODES = [
    mode
    for mode in MODES
    if mode.name in {"inline-driven", "inline-2-io-threads", "pool", "task-in-uvloop"}
]
some_modes = pytest.mark.parametrize("mode", SOME_MODES, ids=str)


def tell(request: Any, _: bytes) -> dict[str, Any]:
    """What a handler sees of the connection."""
    tls = request.tls
    return {
        "scheme": request.scheme,
        "protocol": request.protocol,
        "version": tls.version,
        "cipher": tls.cipher,
        "alpn": tls.protocol,
        "server_name": tls.server_name,
        "certificate": None if tls.peer_certificate is None else digest(tls.peer_certificate),
        "chain": [digest(certificate) for certificate in tls.peer_chain],
    }


def digest(certificate: bytes) -> str:
    return hashlib.sha256(certificate).hexdigest()


def ask(
    address: tuple[str, int], context: ssl.SSLContext, server_name: str = "localhost"
) -> dict[str, Any]:
    """What :func:`tell` told over HTTP/1.1."""
    with Wire(address, tls=context, server_name=server_name) as wire:
        told: dict[str, Any] = json.loads(wire.get().body)
        return told


def shown(
    address: tuple[str, int], context: ssl.SSLContext, server_name: str = "localhost"
) -> bytes:
    """The certificate that the server shows for this name."""
    with Wire(address, tls=context, server_name=server_name) as wire:
        certificate = wire.tls.getpeercert(binary_form=True)
        assert certificate is not None
        return certificate


def canonical(cipher: str) -> str:
    """Names of ciphers without what IANA and OpenSSL write differently."""
    return re.sub(r"TLS_|WITH|[-_]", "", cipher)


# --- versions and protocols -----------------------------------------------------------------------------------------


@some_modes
@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: str(version.name))
@pytest.mark.parametrize("http2", [True, False])
@pytest.mark.parametrize("offered", [(), ("http/1.1",), ("h2", "http/1.1"), ("http/1.1", "h2")])
def test_versions_and_alpn(
    serve: Serve,
    mode: Mode,
    authority: Authority,
    identity: Identity,
    version: ssl.TLSVersion,
    http2: bool,
    offered: tuple[str, ...],
) -> None:
    running = serve(tell, mode, http2=http2, **identity.options)
    context = authority.context(*offered)
    context.minimum_version = context.maximum_version = version
    expected = None
    if offered:
        # The server prefers HTTP/2, in whichever order it is offered.
        expected = "h2" if http2 and "h2" in offered else "http/1.1"
    if expected == "h2":
        with H2(running.address, tls=context) as client:
            assert isinstance(client.socket, ssl.SSLSocket)
            name = client.socket.cipher()
            told = json.loads(client.request().body)
    else:
        with Wire(running.address, tls=context) as wire:
            assert wire.tls.selected_alpn_protocol() == expected
            name = wire.tls.cipher()
            told = json.loads(wire.get().body)
    assert name is not None
    cipher = told.pop("cipher")
    assert re.fullmatch(r"TLS_[A-Z0-9_]+", cipher)
    assert canonical(cipher).startswith(canonical(name[0]))
    assert told == {
        "scheme": "https",
        "protocol": "HTTP/2" if expected == "h2" else "HTTP/1.1",
        "version": "TLSv1.2" if version is ssl.TLSVersion.TLSv1_2 else "TLSv1.3",
        "alpn": expected,
        "server_name": "localhost",
        "certificate": None,
        "chain": [],
    }


def test_a_client_that_offers_nothing_we_speak(
    serve: Serve, authority: Authority, identity: Identity
) -> None:
    """RFC 7301 section 3.2: no_application_protocol, and not a protocol that was not offered."""
    running = serve(tell, MODES[0], **identity.options)
    with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"):
        Wire(running.address, tls=authority.context("spdy/3"))
    assert ask(running.address, authority.context())["version"] == "TLSv1.3"


def test_without_tls_there_are_no_facts(serve: Serve) -> None:
    def handler(request: Any) -> str:
        return repr((request.tls, request.scheme))

    with Wire(serve(handler).address) as wire:
        assert wire.get().body == b"(None, 'http')"


def test_the_url_says_https(serve: Serve, identity: Identity) -> None:
    running = serve(lambda _: "x", **identity.options)
    assert running.url == f"https://127.0.0.1:{running.server.port}"


@some_modes
@pytest.mark.parametrize("http2", [True, False])
def test_bodies_larger_than_every_window(
    serve: Serve, mode: Mode, authority: Authority, identity: Identity, http2: bool
) -> None:
    running = serve(lambda _, body: body, mode, **identity.options)
    body = bytes(range(256)) * 16_384
    if http2:
        with H2(running.address, tls=authority.context("h2")) as client:
            assert client.request(method="POST", body=body).body == body
        return

    async def main() -> None:
        # Both ways at once, as the server may answer while it still reads; two threads must not share an SSLSocket.
        reader, writer = await asyncio.open_connection(
            *running.address, ssl=authority.context(), server_hostname="localhost"
        )
        head = f"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(len(body)) == body
        writer.close()
        await writer.wait_closed()

    asyncio.run(main())


@some_modes
def test_the_end_is_announced(
    serve: Serve, mode: Mode, authority: Authority, identity: Identity
) -> None:
    """Without close_notify a cut and an end look the same (RFC 8446 section 6.1); ``rest`` raises for a cut."""

    def handler(_: NativeDirectRequest, __: bytes) -> NativeDirectResponse:
        return NativeDirectResponse.stream(iter([b"a" * 100_000, b"b"]))

    running = serve(handler, mode, **identity.options)
    with Wire(running.address, tls=authority.context()) as wire:
        wire.send(b"GET / HTTP/1.0\r\n\r\n")
        wire.head()
        assert wire.rest() == b"a" * 100_000 + b"b"


@some_modes
@pytest.mark.parametrize("protocol", ["h2", "http/1.1"])
@pytest.mark.parametrize("sent", [b"", b"PRI * HTTP/2.0\r\n"], ids=["nothing", "half a preface"])
def test_silence_after_the_handshake_is_ended(
    serve: Serve, mode: Mode, authority: Authority, identity: Identity, protocol: str, sent: bytes
) -> None:
    if protocol == "http/1.1":
        sent = b""
    limits = Limits(detection_ms=50, idle_ms=600_000, h2_ping_ms=600_000)
    running = serve(tell, mode, limits=limits, **identity.options)
    with Wire(running.address, tls=authority.context(protocol)) as wire:
        wire.send(sent)
        # Over HTTP/2 our settings have gone first, and an end in the middle of it needs no close_notify.
        with contextlib.suppress(ssl.SSLEOFError):
            assert not (data := wire.rest()) or (protocol == "h2" and data)
    eventually(lambda: running.stats()["connections"] == 0, "it was ended")
    assert running.stats()["limited_detection_ms"] == 1


@some_modes
def test_a_stop_lets_requests_finish(
    serve: Serve, mode: Mode, authority: Authority, identity: Identity
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def pieces() -> Any:
        yield b"begun"
        begun.set()
        assert go_on.wait(PATIENCE)
        yield b" and finished"

    async def pieces_async() -> Any:
        yield b"begun"
        begun.set()
        await asyncio.to_thread(go_on.wait, PATIENCE)
        yield b" and finished"

    def handler(_: NativeDirectRequest, __: bytes) -> NativeDirectResponse:
        return NativeDirectResponse.stream(pieces_async() if mode.asynchronous else pieces())

    running = serve(handler, mode, grace=PATIENCE * 4, **identity.options)
    with Wire(running.address, tls=authority.context()) as wire:
        wire.request()
        assert begun.wait(PATIENCE)
        running.close()
        go_on.set()
        assert wire.answer().body == b"begun and finished"
        assert wire.rest() == b""
    running.join()


# --- keys and certificates ------------------------------------------------------------------------------------------


def test_an_encrypted_key(serve: Serve, authority: Authority, identity: Identity) -> None:
    password = "pässword"  # noqa: S105 - no secret
    encrypted = authority.encrypted(identity, password)
    running = serve(tell, MODES[0], certificate_password=password, **encrypted.options)
    assert shown(running.address, authority.context()) == identity.der


def test_a_chain_is_sent_whole(serve: Serve, authority: Authority) -> None:
    """A client that knows the root only can verify it."""
    chained = authority.issue_through_an_intermediate()
    assert len(chained.chain) == 2
    running = serve(tell, MODES[0], **chained.options)
    assert shown(running.address, authority.context()) == chained.der


Broken = Callable[[Authority, Path], tuple[dict[str, Any], Path]]


def wrong_password(authority: Authority, _: Path) -> tuple[dict[str, Any], Path]:
    encrypted = authority.encrypted(authority.issue(), "right")
    return {**encrypted.options, "certificate_password": "wrong"}, encrypted.key_path


def no_password(authority: Authority, _: Path) -> tuple[dict[str, Any], Path]:
    encrypted = authority.encrypted(authority.issue(), "right")
    return dict(encrypted.options), encrypted.key_path


def missing_certificate(authority: Authority, folder: Path) -> tuple[dict[str, Any], Path]:
    path = folder / "nowhere.pem"
    return {**authority.issue().options, "certificate_path": path}, path


def missing_key(authority: Authority, folder: Path) -> tuple[dict[str, Any], Path]:
    path = folder / "nowhere.pem"
    return {**authority.issue().options, "key_path": path}, path


def key_of_another(authority: Authority, _: Path) -> tuple[dict[str, Any], Path]:
    other = authority.issue()
    return {**authority.issue().options, "key_path": other.key_path}, other.key_path


def expired(authority: Authority, _: Path) -> tuple[dict[str, Any], Path]:
    over = authority.expired()
    return dict(over.options), over.certificate_path


def empty_chain(authority: Authority, folder: Path) -> tuple[dict[str, Any], Path]:
    path = folder / "empty.pem"
    path.write_text("nothing here\n")
    return {**authority.issue().options, "certificate_path": path}, path


def empty_key(authority: Authority, folder: Path) -> tuple[dict[str, Any], Path]:
    path = folder / "empty.pem"
    path.write_text("nothing here\n")
    return {**authority.issue().options, "key_path": path}, path


def swapped(authority: Authority, _: Path) -> tuple[dict[str, Any], Path]:
    mine = authority.issue()
    options = {"certificate_path": mine.key_path, "key_path": mine.certificate_path}
    return options, mine.key_path


def garbage_certificate(authority: Authority, folder: Path) -> tuple[dict[str, Any], Path]:
    path = folder / "garbage.pem"
    path.write_text("-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n")
    return {**authority.issue().options, "certificate_path": path}, path


def certificate_that_is_none(authority: Authority, folder: Path) -> tuple[dict[str, Any], Path]:
    path = folder / "none.pem"
    path.write_text("-----BEGIN CERTIFICATE-----\nAAAAAAAA\n-----END CERTIFICATE-----\n")
    return {**authority.issue().options, "certificate_path": path}, path


def cut_certificate(authority: Authority, folder: Path) -> tuple[dict[str, Any], Path]:
    mine, path = authority.issue(), folder / "cut.pem"
    path.write_text(mine.certificate_path.read_text()[:300])
    return {**mine.options, "certificate_path": path}, path


def garbage_key(authority: Authority, folder: Path) -> tuple[dict[str, Any], Path]:
    path = folder / "garbage.pem"
    path.write_text("-----BEGIN PRIVATE KEY-----\nAAAAAAAA\n-----END PRIVATE KEY-----\n")
    return {**authority.issue().options, "key_path": path}, path


def folder_for_a_file(authority: Authority, folder: Path) -> tuple[dict[str, Any], Path]:
    return {**authority.issue().options, "certificate_path": folder}, folder


def missing_client_authority(authority: Authority, folder: Path) -> tuple[dict[str, Any], Path]:
    path = folder / "nowhere.pem"
    options = {**authority.issue().options, "request_client_certificate": "required"}
    return {**options, "client_ca_path": path}, path


def empty_client_authority(authority: Authority, folder: Path) -> tuple[dict[str, Any], Path]:
    path = folder / "empty.pem"
    path.write_text("")
    options = {**authority.issue().options, "request_client_certificate": "required"}
    return {**options, "client_ca_path": path}, path


def missing_second_certificate(authority: Authority, folder: Path) -> tuple[dict[str, Any], Path]:
    path = folder / "nowhere.pem"
    second = (path, authority.issue().key_path)
    return {**authority.issue().options, "certificates": [second]}, path


@pytest.mark.parametrize(
    ("broken", "cause"),
    [
        (wrong_password, "password"),
        (no_password, "password"),
        (missing_certificate, "No such file"),
        (missing_key, "No such file"),
        (key_of_another, "match|belong"),
        (expired, "expired"),
        (empty_chain, "no certificate"),
        (empty_key, "no .*key"),
        (swapped, "no certificate"),
        (garbage_certificate, "PEM|base64|certificate"),
        (certificate_that_is_none, "certificate"),
        (cut_certificate, "PEM|END|certificate"),
        (garbage_key, "key"),
        (folder_for_a_file, "directory"),
        (missing_client_authority, "No such file"),
        (empty_client_authority, "no certificate"),
        (missing_second_certificate, "No such file"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
@pytest.mark.parametrize("host", ["blocking", "asyncio"])
def test_what_cannot_be_is_refused_at_the_start(
    serve: Serve, authority: Authority, tmp_path: Path, broken: Broken, cause: str, host: str
) -> None:
    options, path = broken(authority, tmp_path)
    start = (
        serve if host == "blocking" else (lambda handler, **o: serve.embedded(handler, host, **o))
    )
    with pytest.raises(ConfigurationError) as caught:
        start(lambda _: "never", **options)
    assert isinstance(caught.value, ServerNativeError)
    assert isinstance(caught.value, ValueError)
    # The cause, not a word of the path.
    text = str(caught.value)
    assert str(path) in text
    assert re.search(cause, text.replace(str(path), "")), text


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"key_path": None}, "key_path"),
        ({"certificate_path": None}, "certificate_path"),
        ({"certificate_path": 5}, "certificate_path"),
        ({"certificate_password": 5}, "certificate_password"),
        ({"request_client_certificate": "perhaps"}, "request_client_certificate"),
        ({"certificates": "text"}, "certificates"),
        ({"certificates": [("one",)]}, "certificates"),
        ({"client_ca_path": 5}, "client_ca_path"),
    ],
    ids=lambda value: "" if isinstance(value, str) else str(value),
)
def test_options_that_cannot_be(
    serve: Serve, identity: Identity, options: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigurationError, match=named):
        serve(lambda _: "never", **{**identity.options, **options})


def test_a_password_is_in_no_message(serve: Serve, authority: Authority) -> None:
    encrypted = authority.encrypted(authority.issue(), "right")
    guess = "s3cret-guess"
    with pytest.raises(ConfigurationError) as caught:
        serve(lambda _: "never", certificate_password=guess, **encrypted.options)
    assert guess not in str(caught.value)


# --- certificates of clients ----------------------------------------------------------------------------------------


@some_modes
@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: str(version.name))
@pytest.mark.parametrize("setting", [False, "optional", "required"])
@pytest.mark.parametrize("shows", ["nothing", "one", "chain", "stranger's"])
def test_client_certificates(
    serve: Serve,
    mode: Mode,
    authority: Authority,
    identity: Identity,
    tmp_path: Path,
    version: ssl.TLSVersion,
    setting: bool | str,
    shows: str,
) -> None:
    called: list[str] = []

    def handler(request: NativeDirectRequest, body: bytes) -> dict[str, Any]:
        called.append(request.path)
        return tell(request, body)

    options: dict[str, Any] = dict(identity.options)
    if setting:
        options.update(request_client_certificate=setting, client_ca_path=authority.path)
    running = serve(handler, mode, **options)
    mine: Identity | None = None
    if shows == "one":
        mine = authority.issue("client.test")
    elif shows == "chain":
        mine = authority.issue_through_an_intermediate("client.test")
    elif shows == "stranger's":
        mine = Authority(tmp_path).issue("client.test")
    context = authority.context(identity=mine)
    context.minimum_version = context.maximum_version = version
    if (setting == "required" and mine is None) or (setting and shows == "stranger's"):
        # With TLS 1.3 the client learns it when it reads.
        with pytest.raises((ssl.SSLError, ConnectionError)):
            ask(running.address, context)
        assert called == []
        trusted = authority.context(identity=authority.issue("other.test"))
        assert ask(running.address, trusted)["certificate"] is not None
        return
    told = ask(running.address, context)
    if setting and mine is not None:
        assert told["certificate"] == digest(mine.der)
        chain = mine.chain if shows == "chain" else [mine.der, authority.der]
        assert told["chain"] == [digest(certificate) for certificate in chain]
    else:
        assert (told["certificate"], told["chain"]) == (None, [])


def test_facts_have_the_types_that_are_documented(
    serve: Serve, authority: Authority, identity: Identity
) -> None:
    seen: list[Any] = []

    def handler(request: Any) -> str:
        seen.append(request.tls)
        return ""

    running = serve(
        handler,
        request_client_certificate="optional",
        client_ca_path=authority.path,
        **identity.options,
    )
    mine = authority.issue("client.test")
    with Wire(running.address, tls=authority.context(identity=mine)) as wire:
        wire.get()
        wire.get()
    assert seen[0].peer_certificate == mine.der
    assert seen[0].peer_chain == (mine.der, authority.der)
    assert seen[0] == seen[1], "one connection, one set of facts"


# --- names ----------------------------------------------------------------------------------------------------------


@some_modes
def test_the_certificate_follows_the_name(serve: Serve, mode: Mode, authority: Authority) -> None:
    first, one, wild = (
        authority.issue(),
        authority.issue("one.test"),
        authority.issue("*.two.test", "two.test"),
    )
    more = [(other.certificate_path, other.key_path) for other in (one, wild)]
    running = serve(tell, mode, certificates=more, **first.options)
    expected = {
        "localhost": first,
        "one.test": one,
        "ONE.test": one,
        "two.test": wild,
        "a.two.test": wild,
        # Not covered by a wildcard (RFC 6125 section 6.4.3), or by nothing at all: the first.
        "a.b.two.test": first,
        "unknown.test": first,
    }
    anybody = authority.context()
    anybody.check_hostname = False
    for name, one_of_ours in expected.items():
        context = anybody if one_of_ours is first else authority.context()
        assert shown(running.address, context, name) == one_of_ours.der, name
        assert ask(running.address, context, name)["server_name"] == name.lower()


def test_no_name_at_all(serve: Serve, authority: Authority, identity: Identity) -> None:
    """An address is no name (RFC 6066 section 3): clients send none then."""
    other = authority.issue("other.test")
    running = serve(
        tell,
        MODES[0],
        certificates=[(other.certificate_path, other.key_path)],
        **identity.options,
    )
    assert shown(running.address, authority.context(), "127.0.0.1") == identity.der
    assert ask(running.address, authority.context(), "127.0.0.1")["server_name"] is None


# --- reload ---------------------------------------------------------------------------------------------------------


def replace(old: Identity, new: Identity) -> None:
    old.certificate_path.write_bytes(new.certificate_path.read_bytes())
    old.key_path.write_bytes(new.key_path.read_bytes())


@some_modes
def test_a_reload_drops_no_connection(serve: Serve, mode: Mode, authority: Authority) -> None:
    mine, next_one = authority.issue(), authority.issue()
    first = mine.der
    running = serve(tell, mode, **mine.options)
    server: Any = running.server
    context = authority.context()
    with (
        Wire(running.address, tls=context) as wire,
        H2(running.address, tls=authority.context("h2")) as client,
    ):
        assert wire.get().status == 200
        assert client.request().status == 200
        replace(mine, next_one)
        assert shown(running.address, context) == first, "files are read when it is asked for"
        server.reload_certificates()
        assert shown(running.address, context) == next_one.der
        assert wire.get().status == 200
        assert client.request().status == 200
        assert wire.tls.getpeercert(binary_form=True) == first
    assert running.stats()["refused"] == 0


@pytest.mark.parametrize("part", ["certificate_path", "key_path"])
def test_a_broken_file_changes_nothing(serve: Serve, authority: Authority, part: str) -> None:
    mine = authority.issue()
    running = serve(tell, MODES[0], **mine.options)
    server: Any = running.server
    context = authority.context()
    first, path = mine.der, mine.options[part]
    good = path.read_bytes()
    with Wire(running.address, tls=context) as wire:
        assert wire.get().status == 200
        path.write_text("garbage\n")
        with pytest.raises(ConfigurationError, match=re.escape(str(path))):
            server.reload_certificates()
        assert shown(running.address, context) == first
        assert wire.get().status == 200
        path.write_bytes(good)
        server.reload_certificates()
        assert shown(running.address, context) == first


def test_a_reload_changes_who_may_come(
    serve: Serve, authority: Authority, identity: Identity, tmp_path: Path
) -> None:
    """The authority of clients is read again too."""
    (tmp_path / "other").mkdir()
    other, trusted = Authority(tmp_path / "other"), tmp_path / "clients.pem"
    trusted.write_bytes(authority.path.read_bytes())
    running = serve(
        tell,
        MODES[0],
        request_client_certificate="required",
        client_ca_path=trusted,
        **identity.options,
    )
    server: Any = running.server
    ours = authority.context(identity=authority.issue("client.test"))
    theirs = authority.context(identity=other.issue("client.test"))
    assert ask(running.address, ours)["certificate"] is not None
    trusted.write_bytes(other.path.read_bytes())
    server.reload_certificates()
    assert ask(running.address, theirs)["certificate"] is not None
    with pytest.raises((ssl.SSLError, ConnectionError)):
        ask(running.address, ours)


# --- what goes wrong on the wire ------------------------------------------------------------------------------------


def hello() -> bytes:
    """A ClientHello."""
    out = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(
        ssl.MemoryBIO(), out, server_hostname="localhost"
    )
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return out.read()


@some_modes
@pytest.mark.parametrize("sent", ["nothing", "half", "whole"])
def test_a_handshake_that_stops_is_ended_and_stops_nobody(
    serve: Serve, mode: Mode, authority: Authority, identity: Identity, sent: str
) -> None:
    limits = Limits(handshake_ms=500, detection_ms=60_000, idle_ms=60_000, head_ms=60_000)
    running = serve(tell, mode, limits=limits, **identity.options)
    with Wire(running.address) as stuck:
        data = hello()
        stuck.send({"nothing": b"", "half": data[: len(data) // 2], "whole": data}[sent])
        assert ask(running.address, authority.context())["scheme"] == "https"
        if sent == "whole":
            assert stuck.rest()[:1] == b"\x16", "it did answer the hello"
        else:
            assert stuck.rest() == b""
    eventually(lambda: running.stats()["connections"] == 0, "nothing is left")


@some_modes
@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nhost: a\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\0" * 100,
        b"\x16\x03\x01\x00\x05hello",
    ],
    ids=["http1", "http2", "zeros", "bad hello"],
)
def test_what_is_no_tls_is_closed(
    serve: Serve, mode: Mode, authority: Authority, identity: Identity, data: bytes
) -> None:
    running = serve(tell, mode, **identity.options)
    with Wire(running.address) as wire:
        wire.send(data)
        # At most an alert record: level fatal, some description.
        assert re.fullmatch(rb"(\x15\x03[\x00-\x04]\x00\x02\x02.)?", wire.rest(), re.DOTALL)
    assert ask(running.address, authority.context())["scheme"] == "https"
    eventually(lambda: running.stats()["connections"] == 0, "nothing is left")


@some_modes
def test_much_that_is_no_tls_is_cut(
    serve: Serve, mode: Mode, authority: Authority, identity: Identity
) -> None:
    """Nobody reads it all: a reset is allowed here."""
    running = serve(tell, mode, **identity.options)
    with Wire(running.address) as wire:
        with contextlib.suppress(ConnectionError):
            wire.send(b"\xff" * 50_000_000)
        wire.ended_abruptly()
    assert ask(running.address, authority.context())["scheme"] == "https"
    eventually(lambda: running.stats()["connections"] == 0, "nothing is left")


@some_modes
def test_clients_that_leave_in_the_handshake(
    serve: Serve, mode: Mode, authority: Authority, identity: Identity
) -> None:
    running = serve(tell, mode, **identity.options)
    for leave in (Wire.reset, Wire.half_close) * 10:
        with Wire(running.address) as wire:
            wire.send(hello())
            leave(wire)
    assert ask(running.address, authority.context())["scheme"] == "https"
    eventually(lambda: running.stats()["connections"] == 0, "nothing is left")


def test_renegotiation_is_refused(serve: Serve, authority: Authority, identity: Identity) -> None:
    """TLS 1.2 only, and a way to make a server work for nothing (CVE-2011-1473)."""
    running = serve(tell, MODES[0], **identity.options)
    command = s_client(running.address, authority, "-tls1_2")
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        # "R" at the start of a line asks for it; standard input stays open, as its end would end the client.
        client.stdin.write(b"R\n")
        client.stdin.flush()
        said = client.stdout.read()
        assert client.wait(PATIENCE) != 0
    assert b"RENEGOTIATING" in said
    # It tells the depth of each certificate it looks at: once means one handshake.
    assert said.count(b"depth=0") == 1
    assert ask(running.address, authority.context())["scheme"] == "https"


# --- sessions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: str(version.name))
def test_a_session_is_resumed(
    serve: Serve, authority: Authority, identity: Identity, version: ssl.TLSVersion
) -> None:
    running = serve(tell, MODES[0], **identity.options)
    context = authority.context()
    context.minimum_version = context.maximum_version = version
    with Wire(running.address, tls=context) as wire:
        assert wire.get().status == 200
        assert not wire.tls.session_reused
        session = wire.tls.session
    with Wire(running.address, tls=context, session=session) as wire:
        assert wire.get().status == 200
        assert wire.tls.session_reused


def test_a_resumed_session_keeps_the_client_certificate(
    serve: Serve, authority: Authority, identity: Identity
) -> None:
    running = serve(
        tell,
        MODES[0],
        request_client_certificate="required",
        client_ca_path=authority.path,
        **identity.options,
    )
    mine = authority.issue("client.test")
    context = authority.context(identity=mine)
    with Wire(running.address, tls=context) as wire:
        assert digest(mine.der).encode() in wire.get().body
        session = wire.tls.session
    with Wire(running.address, tls=context, session=session) as wire:
        assert digest(mine.der).encode() in wire.get().body
        assert wire.tls.session_reused


def test_early_data_is_off(
    serve: Serve, authority: Authority, identity: Identity, tmp_path: Path
) -> None:
    """0-RTT can be replayed (RFC 8446 section 8); Python does not tell what a ticket allows, OpenSSL's command does."""
    running = serve(tell, MODES[0], **identity.options)
    path = tmp_path / "session.pem"
    command = s_client(running.address, authority, "-ign_eof", "-tls1_3", "-sess_out", str(path))
    request = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    done = subprocess.run(
        command, input=request, capture_output=True, timeout=PATIENCE * 2, check=True
    )
    assert b"HTTP/1.1 200" in done.stdout
    text = subprocess.run(
        ["openssl", "sess_id", "-in", path, "-noout", "-text"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = re.search(r"Max Early Data: (\d+)", text)
    assert found is not None, text
    assert int(found[1]) == 0


def s_client(address: tuple[str, int], authority: Authority, *arguments: str) -> list[str]:
    """A command: OpenSSL's own client."""
    place = f"{address[0]}:{address[1]}"
    command = ["openssl", "s_client", "-connect", place, "-servername", "localhost"]
    return [*command, "-CAfile", str(authority.path), *arguments]


def test_a_connection_over_the_limit_is_closed(
    serve: Serve, authority: Authority, identity: Identity
) -> None:
    """Before the handshake, where nobody could read a 503."""
    running = serve(tell, MODES[0], limits=Limits(connections_per_address=1), **identity.options)
    with Wire(running.address, tls=authority.context()) as wire:
        assert wire.get().status == 200
        with socket.create_connection(running.address, PATIENCE) as second:
            assert second.recv(1000) == b""
        assert wire.get().status == 200
    assert running.stats()["refused"] == 1
