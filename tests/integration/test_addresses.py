"""Where a server listens: families, port 0, sharing, and what is said when it cannot."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from server_native import NativeDirectRequest, _addresses, errors, start_native_direct

needs_ipv6 = pytest.mark.skipif(
    not _addresses._has_ipv6("::1"), reason="this machine has no IPv6 loopback"
)


async def hello(request: NativeDirectRequest) -> str:
    assert request.client is not None
    return f"{request.client[0]} {request.server[1]}"


async def ask(host: str, port: int) -> bytes:
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer.rpartition(b"\r\n\r\n")[2]


@pytest.mark.parametrize(
    ("host", "client"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "::1"),
        ("[::1]", "::1"),
        ("localhost", "127.0.0.1"),
        (ipaddress.ip_address("127.0.0.1"), "127.0.0.1"),
        (ipaddress.ip_address("::1"), "::1"),
    ],
)
def test_every_way_to_name_an_address(host: Any, client: str) -> None:
    async def main() -> None:
        async with start_native_direct(hello, host=host) as server:
            assert server.port > 0
            assert (
                server.url == f"http://{f'[{client}]' if ':' in client else client}:{server.port}"
            )
            assert await ask(client, server.port) == f"{client} {server.port}".encode()

    asyncio.run(main())


def test_v6_only_keeps_ipv4_out_and_its_absence_lets_it_in() -> None:
    async def main() -> None:
        async with start_native_direct(hello, host="::") as server:
            assert await ask("::1", server.port) == f"::1 {server.port}".encode()
            assert (await ask("127.0.0.1", server.port)).startswith(b"127.0.0.1 ")
            assert server.url == f"http://[::1]:{server.port}"
        async with start_native_direct(hello, host="::", v6_only=True) as server:
            assert await ask("::1", server.port) == f"::1 {server.port}".encode()
            with pytest.raises(ConnectionRefusedError):
                await ask("127.0.0.1", server.port)

    asyncio.run(main())


def test_a_shared_port_is_served_by_both_and_an_unshared_one_is_refused_by_name() -> None:
    async def main() -> None:
        async with start_native_direct(hello, shared=True, backlog=5) as first:
            async with start_native_direct(hello, port=first.port, shared=True) as second:
                answers = [await ask("127.0.0.1", first.port) for _ in range(64)]
                assert set(answers) == {f"127.0.0.1 {first.port}".encode()}
                # The kernel spreads connections by their ports: 64 of them reach both.
                assert first.stats()["accepted"] > 0
                assert second.stats()["accepted"] > 0
            with pytest.raises(errors.AddressInUseError, match=f"127.0.0.1:{first.port}") as info:
                await start_native_direct(hello, port=first.port)
            assert info.value.errno == errno.EADDRINUSE
            assert isinstance(info.value, OSError)

    asyncio.run(main())


@needs_ipv6
def test_localhost_is_both_loopbacks_on_one_port_that_the_system_chose() -> None:
    async def main() -> None:
        async with start_native_direct(hello, host="localhost") as server:
            port = server.port
            assert server.addresses == (("127.0.0.1", port), ("::1", port))
            assert port > 0
            assert await ask("127.0.0.1", port) == f"127.0.0.1 {port}".encode()
            assert await ask("::1", port) == f"::1 {port}".encode()
        for host in ("127.0.0.1", "::1"):
            with pytest.raises(ConnectionRefusedError):
                await ask(host, port)

    asyncio.run(main())


@needs_ipv6
def test_localhost_on_a_given_port_needs_both_loopbacks() -> None:
    async def main() -> None:
        with socket.create_server(("::1", 0), family=socket.AF_INET6) as other:
            port = other.getsockname()[1]
            with pytest.raises(errors.AddressInUseError, match=rf"\[::1\]:{port}"):
                await start_native_direct(hello, host="localhost", port=port)
            # Nothing is left behind at the first one.
            with pytest.raises(ConnectionRefusedError):
                await ask("127.0.0.1", port)

    asyncio.run(main())


@needs_ipv6
def test_any_takes_both_families_on_one_listener() -> None:
    async def main() -> None:
        async with start_native_direct(hello, host="any") as server:
            assert server.addresses == (("::", server.port),)
            assert await ask("::1", server.port) == f"::1 {server.port}".encode()
            assert (await ask("127.0.0.1", server.port)).startswith(b"127.0.0.1 ")

    asyncio.run(main())


@pytest.mark.parametrize("host", ["localhost", "any"])
def test_a_machine_without_ipv6_has_ipv4(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "has_ipv6", False)

    async def main() -> None:
        async with start_native_direct(hello, host=host) as server:
            address = "127.0.0.1" if host == "localhost" else "0.0.0.0"
            assert server.addresses == ((address, server.port),)
            assert await ask("127.0.0.1", server.port) == f"127.0.0.1 {server.port}".encode()

    asyncio.run(main())


def test_echo_tells_where_it_listens(capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        async with start_native_direct(hello, address="127.0.0.1", echo=True) as server:
            assert capsys.readouterr().out == f"Server listening on {server.url}\n"

    asyncio.run(main())


UNPRIVILEGED = """
import os, server_native
server_native.transport_abi_version()
if os.geteuid() == 0:
    os.seteuid(65534)
try:
    server_native.serve_native_direct(lambda request: "", port=1, on_ready=lambda server: server.close())
except PermissionError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.skipif(
    not sys.platform.startswith("linux")
    or int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) < 2,
    reason="this machine lets everybody listen on port 1",
)
def test_a_port_that_needs_more_rights() -> None:
    result = subprocess.run(
        [sys.executable, "-c", UNPRIVILEGED], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("BindPermissionError ")
    assert "127.0.0.1:1:" in result.stdout


def test_an_address_of_another_machine_and_a_name_of_nobody() -> None:
    async def main() -> None:
        # TEST-NET-1 (RFC 5737) belongs to no machine.
        with pytest.raises(errors.AddressNotAvailableError, match=r"192\.0\.2\.1:") as info:
            await start_native_direct(hello, host="192.0.2.1")
        assert info.value.errno == errno.EADDRNOTAVAIL
        with pytest.raises(errors.AddressNotAvailableError, match=r"nobody\.invalid"):
            await start_native_direct(hello, host="nobody.invalid")

    asyncio.run(main())


def test_the_address_is_free_again_after_a_stop() -> None:
    async def main() -> None:
        async with start_native_direct(hello) as server:
            port = server.port
            assert await ask("127.0.0.1", port)
        with socket.create_server(("127.0.0.1", port)):
            pass
        async with start_native_direct(hello, port=port) as server:
            assert server.port == port

    asyncio.run(main())
