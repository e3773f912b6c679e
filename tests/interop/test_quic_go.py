"""A client on quic-go, a third QUIC stack beside aioquic's and curl's: on a server that is not ours, then on ours."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from server_native import NativeDirectRequest, NativeDirectResponse
from tests.conformance.tools import tool
from tests.integration.certificates import Authority, Identity
from tests.integration.h3_reference import Reference, reference
from tests.integration.servers import PATIENCE, Mode, Serve

MEBIBYTE = 1024 * 1024


def pattern(size: int) -> bytes:
    """The body that the client sends."""
    return bytes(index % 251 for index in range(size))


def ask(authority: Authority, *requests: dict[str, Any]) -> list[dict[str, Any]]:
    """What the client got for these requests, over one connection; none of them failed."""
    command = [str(tool("quic-go")), str(authority.path)]
    done = subprocess.run(
        command,
        input=json.dumps(requests),
        capture_output=True,
        text=True,
        timeout=PATIENCE * 4,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    assert [answer["error"] for answer in answers] == [""] * len(requests)
    return answers


@pytest.fixture
def peer(identity: Identity) -> Iterator[Reference]:
    with reference(identity) as running:
        yield running


@pytest.mark.conformance
def test_the_client_on_a_server_that_is_not_ours(peer: Reference, authority: Authority) -> None:
    get, echo = ask(
        authority,
        {"method": "GET", "url": f"{peer.url}/a?b=c", "header": {"x-tag": "t"}},
        {"method": "POST", "url": f"{peer.url}/echo", "size": MEBIBYTE},
    )
    assert (get["status"], get["protocol"], get["header"]["server"]) == (
        200,
        "HTTP/3.0",
        "reference",
    )
    assert json.loads(get["text"])["x-tag"] == "t"
    assert echo["sha256"] == hashlib.sha256(pattern(MEBIBYTE)).hexdigest()
    assert echo["trailer"] == {"x-length": str(MEBIBYTE)}


def handler(request: NativeDirectRequest, body: bytes) -> NativeDirectResponse:
    if request.path == "/echo":
        return NativeDirectResponse.stream(iter([body]), trailers={"x-length": str(len(body))})
    told = [request.protocol, request.method, request.target, request.header("x-tag")]
    return NativeDirectResponse.json(told, headers={"x-answer": "1"})


@pytest.mark.conformance
def test_ours(serve: Serve, mode: Mode, authority: Authority, identity: Identity) -> None:
    url = serve(handler, mode, http3=True, **identity.options).url
    get, head, echo, chunked = ask(
        authority,
        {"method": "GET", "url": f"{url}/a?b=c", "header": {"x-tag": "t"}},
        {"method": "HEAD", "url": f"{url}/a"},
        {"method": "POST", "url": f"{url}/echo", "size": MEBIBYTE},
        {"method": "POST", "url": f"{url}/echo", "size": MEBIBYTE, "chunked": True},
    )
    assert (get["status"], get["protocol"], get["header"]["x-answer"]) == (200, "HTTP/3.0", "1")
    assert json.loads(get["text"]) == ["HTTP/3", "GET", "/a?b=c", "t"]
    assert (head["status"], head["length"], head["header"]["x-answer"]) == (200, 0, "1")
    for answer in (echo, chunked):
        assert answer["sha256"] == hashlib.sha256(pattern(MEBIBYTE)).hexdigest()
        assert answer["trailer"] == {"x-length": str(MEBIBYTE)}
