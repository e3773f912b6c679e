"""Interim responses: early hints go out while the handler still works, and never confuse the real answer."""

from __future__ import annotations

import socket
import threading

import pytest

from server_native import (
    ConfigurationError,
    NativeDirectRequest,
    NativeDirectResponse,
    NativeServer,
    serve_native_direct,
)


@pytest.mark.parametrize("threads", [0, 2])
def test_early_hints_come_before_the_handler_has_answered(threads: int) -> None:
    hinted, ready = threading.Event(), threading.Event()
    servers: list[NativeServer] = []

    def handler(request: NativeDirectRequest) -> NativeDirectResponse:
        request.inform(103, {"link": "</style.css>; rel=preload"})
        with pytest.raises(ConfigurationError, match="102 to 199"):
            request.inform(200, {})
        assert hinted.wait(10), "the client has seen the hint before the answer is made"
        return NativeDirectResponse.text("whole")

    def on_ready(server: NativeServer) -> None:
        servers.append(server)
        ready.set()

    serving = threading.Thread(
        target=serve_native_direct,
        args=(handler,),
        kwargs={"port": 0, "threads": threads, "on_ready": on_ready},
    )
    serving.start()
    assert ready.wait(10)
    try:
        with socket.create_connection(("127.0.0.1", servers[0].port), timeout=10) as client:
            client.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            reader = client.makefile("rb")
            assert reader.readline() == b"HTTP/1.1 103 Early Hints\r\n"
            assert reader.readline() == b"link: </style.css>; rel=preload\r\n"
            assert reader.readline() == b"\r\n"
            hinted.set()
            assert reader.readline() == b"HTTP/1.1 200 OK\r\n"
            reader.close()
            # HTTP/1.0 knows no interim responses.
            client.sendall(b"GET / HTTP/1.0\r\nhost: a\r\n\r\n")
            rest = b"".join(iter(lambda: client.recv(65536), b""))
            assert b"103" not in rest
            assert rest.endswith(b"\r\n\r\nwhole")
    finally:
        servers[0].close(grace=1.0)
        serving.join(10)
    assert not serving.is_alive()
