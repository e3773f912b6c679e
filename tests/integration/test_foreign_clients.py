"""Clients people use: curl and httpx, over both versions."""

from __future__ import annotations

import subprocess
from pathlib import Path

import httpx
import pytest

from server_native import NativeDirectRequest, NativeDirectResponse
from tests.integration.servers import PATIENCE, Mode, Serve


def handler(request: NativeDirectRequest, body: bytes) -> NativeDirectResponse:
    if request.path == "/stream":
        return NativeDirectResponse.stream(iter([b"a" * 100_000, b"b"]), trailers={"x-end": "1"})
    if request.path == "/missing":
        return NativeDirectResponse.text("not here", status=404)
    return NativeDirectResponse.json(
        {
            "method": request.method,
            "query": request.query,
            "size": len(body),
            "protocol": request.protocol,
        },
        headers={"x-tag": request.header("x-tag") or ""},
    )


def curl(*arguments: str, data: bytes = b"") -> bytes:
    command = ["curl", "--silent", "--show-error", "--fail-early", "--max-time", "9", *arguments]
    return subprocess.run(
        command, input=data, capture_output=True, timeout=PATIENCE, check=True
    ).stdout


@pytest.mark.parametrize("version", ["--http1.0", "--http1.1", "--http2-prior-knowledge"])
def test_curl(serve: Serve, mode: Mode, version: str, tmp_path: Path) -> None:
    url = serve(handler, mode).url
    protocol = {"--http1.0": b"HTTP/1.0", "--http1.1": b"HTTP/1.1"}.get(version, b"HTTP/2")
    get = curl(version, "-H", "x-tag: t", "-D", "-", f"{url}/a?b=c")
    assert get.startswith((b"HTTP/1.1 200 OK\r\n", b"HTTP/2 200 \r\n"))
    assert b"x-tag: t\r\n" in get
    assert b'"protocol":"%s"' % protocol in get
    place = tmp_path / "body"
    place.write_bytes(b"x" * 300_000)
    assert b'"size":300000' in curl(version, "--data-binary", f"@{place}", url)
    # Two on one connection, the first a stream; curl 7.88.1 cannot reuse one with prior knowledge
    # (curl/curl#10634), so they are apart there.
    paths = (f"{url}/stream", f"{url}/missing")
    both = (
        curl(version, *paths)
        if protocol != b"HTTP/2"
        else b"".join(curl(version, path) for path in paths)
    )
    assert both == b"a" * 100_000 + b"b" + b"not here"


def test_curl_uploads_chunks(serve: Serve, mode: Mode) -> None:
    url = serve(handler, mode).url
    answer = curl("-T", "-", "-H", "expect:", url, data=b"y" * 200_000)
    assert b'"method":"PUT"' in answer
    assert b'"size":200000' in answer


@pytest.mark.parametrize("http2", [False, True])
def test_httpx(serve: Serve, mode: Mode, http2: bool) -> None:
    url = serve(handler, mode).url
    with httpx.Client(http1=not http2, http2=http2, base_url=url, trust_env=False) as client:
        answer = client.get("/a", params={"q": "ü"}, headers={"x-tag": "t"})
        assert answer.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
        assert answer.json() == {
            "method": "GET",
            "query": "q=%C3%BC",
            "size": 0,
            "protocol": answer.http_version,
        }
        assert client.post("/a", content=b"x" * 300_000).json()["size"] == 300_000
        assert client.post("/a", content=iter([b"x" * 1000] * 5)).json()["size"] == 5000
        assert client.get("/stream").content == b"a" * 100_000 + b"b"
        assert client.get("/missing").status_code == 404
        assert client.head("/a").content == b""
        with client.stream("GET", "/stream") as streamed:
            next(streamed.iter_raw(100))
        assert client.get("/a").status_code == 200, (
            "an answer that was not read to its end spoils nothing"
        )
