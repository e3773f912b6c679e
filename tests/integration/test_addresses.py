"""Where a server listens: families, port 0, sharing, and what is said when it cannot."""

from __future__ import annotations

import asyncio
import errno
import functools
import ipaddress
import json
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from server_native import (
    NativeDirectRequest,
    _addresses,
    errors,
    start_native_direct,
    start_secure_native_direct,
)
from tests.faults.harness import Child
from tests.integration.certificates import Identity
from tests.integration.clients import Wire

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
    print(type(error).__name__, error.errno, error.strerror)
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
    expected = f"BindPermissionError {errno.EACCES} cannot listen on 127.0.0.1:1: "
    assert result.stdout.startswith(expected)


def test_an_address_of_another_machine_and_a_name_of_nobody() -> None:
    async def main() -> None:
        # TEST-NET-1 (RFC 5737) belongs to no machine.
        with pytest.raises(errors.AddressNotAvailableError, match=r"192\.0\.2\.1:") as info:
            await start_native_direct(hello, host="192.0.2.1")
        assert info.value.errno == errno.EADDRNOTAVAIL
        with pytest.raises(errors.AddressNotAvailableError, match=r"nobody\.invalid") as info:
            await start_native_direct(hello, host="nobody.invalid")
        assert info.value.errno == errno.EADDRNOTAVAIL

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


SHARING = """
import sys, server_native
name, port = sys.argv[1:]
server_native.serve_native_direct(
    lambda request: name,
    port=int(port),
    shared=True,
    on_ready=lambda server: print("ready", server.port, flush=True),
)
print("over", flush=True)
"""


def test_two_processes_share_a_port_and_one_goes_on_without_the_other() -> None:
    def asked(port: int) -> str:
        with Wire(("127.0.0.1", port)) as wire:
            return wire.get().body.decode()

    with Child.run(SHARING, "one", "0") as first:
        port = int(first.expect("ready"))
        with Child.run(SHARING, "two", str(port)) as second:
            second.expect("ready")
            # The kernel spreads connections by their ports.
            assert {asked(port) for _ in range(64)} == {"one", "two"}
            first.process.terminate()
            first.ends(0)
            assert {asked(port) for _ in range(8)} == {"two"}
            second.process.terminate()
            second.ends(0)


# --- HTTP/3's side --------------------------------------------------------------------------------------------------


def free_for_datagrams(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


@needs_ipv6
def test_every_address_has_one_port_for_tcp_and_udp(identity: Identity) -> None:
    async def main() -> None:
        start = functools.partial(start_secure_native_direct, hello, **identity.options)
        async with start(host="localhost") as server:
            port = server.port
            assert server.addresses == (("127.0.0.1", port), ("::1", port))
            assert not free_for_datagrams("127.0.0.1", port)
            assert not free_for_datagrams("::1", port)
        assert free_for_datagrams("127.0.0.1", port)
        assert free_for_datagrams("::1", port)
        async with start(host="localhost", http3=False) as server:
            assert free_for_datagrams("127.0.0.1", server.port)

    asyncio.run(main())


def test_a_port_that_is_taken_for_udp_only_says_so_and_what_to_do(identity: Identity) -> None:
    async def main() -> None:
        with socket.socket() as held, socket.socket(type=socket.SOCK_DGRAM) as other:
            # Free for TCP, and no client of another test gets it: on Linux a server may bind what is bound this way.
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.bind(("127.0.0.1", 0))
            port = held.getsockname()[1]
            other.bind(("127.0.0.1", port))
            if not sys.platform.startswith("linux"):
                held.close()
            start = functools.partial(
                start_secure_native_direct, hello, host="127.0.0.1", port=port, **identity.options
            )
            expected = rf"UDP 127\.0\.0\.1:{port} for HTTP/3 \(http3=False serves without it\)"
            with pytest.raises(errors.AddressInUseError, match=expected) as info:
                await start()
            assert info.value.errno == errno.EADDRINUSE
            with pytest.raises(ConnectionRefusedError):
                await ask("127.0.0.1", port)
            async with start(http3=False) as server:
                assert server.port == port

    asyncio.run(main())


# --- networks of their own ------------------------------------------------------------------------------------------


def can_have_a_network() -> bool:
    """Whether this process may make a network namespace, as root in most sandboxes may."""
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return False
    command = ["unshare", "--net", "ip", "link", "set", "lo", "up"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


needs_a_network = pytest.mark.skipif(
    not can_have_a_network(), reason="needs the right to make a network namespace, and iproute2"
)

IN_A_NETWORK = """
import asyncio, json, server_native
async def tell(request):
    return json.dumps([request.client and request.client[0], request.server])
async def ask(host, port, scope=0):
    address = (host, port, 0, scope) if ":" in host else (host, port)
    import socket
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    client = socket.socket(family)
    client.setblocking(False)
    await asyncio.get_running_loop().sock_connect(client, address)
    reader, writer = await asyncio.open_connection(sock=client)
    writer.write(b"GET / HTTP/1.1\\r\\nhost: a\\r\\nconnection: close\\r\\n\\r\\n")
    answer = await reader.read()
    writer.close()
    return json.loads(answer.rpartition(b"\\r\\n\\r\\n")[2])
async def serving(host, *asked):
    async with server_native.start_native_direct(tell, host=host) as server:
        answers = [await ask(where, server.port, scope) for where, scope in asked]
        # Which port it was does not matter outside.
        return json.loads(json.dumps([server.addresses, server.url, answers]).replace(str(server.port), "0"))
"""


def in_a_network(setup: str, source: str) -> Any:
    """What ``source`` prints as JSON, run in a network that ``setup`` (a shell's commands) has made."""
    command = f'set -e; ip link set lo up; {setup}; exec "$0" -c "$1"'
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", command, sys.executable, IN_A_NETWORK + source],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@needs_ipv6
@needs_a_network
@pytest.mark.parametrize("zone", ["v0", "{index}"])
def test_a_link_local_address_belongs_to_its_zone(zone: str) -> None:
    """Both ends of a cable have the same address: the zone alone tells them apart (RFC 4007)."""
    setup = (
        "ip link add v0 type veth peer name v1; ip link set v0 up; ip link set v1 up; "
        "ip -6 address add fe80::1/64 dev v0 nodad; ip -6 address add fe80::1/64 dev v1 nodad"
    )
    addresses, url, answers, index, unknown, without = in_a_network(
        setup,
        f"""
import socket
async def main():
    index = socket.if_nametoindex("v0")
    told = await serving("fe80::1%" + "{zone}".format(index=index), ("fe80::1", index))
    said = []
    for host in ("fe80::1%nowhere", "fe80::1"):
        try:
            await server_native.start_native_direct(tell, host=host)
        except OSError as error:
            said.append([type(error).__name__, error.errno, error.strerror])
    print(json.dumps([*told, index, *said]))
asyncio.run(main())
""",
    )
    assert addresses == [[f"fe80::1%{index}", 0]]
    assert url == f"http://[fe80::1%25{index}]:0"
    # The client is the host itself, at the same address.
    assert answers == [[f"fe80::1%{index}", [f"fe80::1%{index}", 0]]]
    assert unknown[:2] == ["AddressNotAvailableError", errno.EADDRNOTAVAIL]
    assert re.search(r"\(lo,.* v0.*\), found 'fe80::1%nowhere'", unknown[2])
    assert without[:2] == ["AddressNotAvailableError", errno.EADDRNOTAVAIL]
    assert re.search(r"say fe80::1%NAME with one of lo,.* v0.*, found 'fe80::1'", without[2])


@needs_a_network
def test_ipv6_that_is_switched_off_is_not_missed() -> None:
    setup = "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6"
    if not Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").exists():
        setup = "true"
    localhost, anywhere = in_a_network(
        setup,
        """
async def main():
    print(json.dumps([
        await serving("localhost", ("127.0.0.1", 0)),
        await serving("any", ("127.0.0.1", 0)),
    ]))
asyncio.run(main())
""",
    )
    assert localhost == [
        [["127.0.0.1", 0]],
        "http://127.0.0.1:0",
        [["127.0.0.1", ["127.0.0.1", 0]]],
    ]
    # Linux binds the unspecified address even so, and IPv4 clients come in by it.
    (((host, _),), _, answers) = anywhere
    assert host in ("::", "0.0.0.0")
    assert answers == [["127.0.0.1", ["127.0.0.1", 0]]]


@needs_a_network
def test_a_machine_whose_loopback_has_no_ipv6() -> None:
    if not Path("/proc/sys/net/ipv6").exists():
        pytest.skip("this kernel has no IPv6")
    told = in_a_network(
        "ip -6 address del ::1/128 dev lo",
        """
async def main():
    print(json.dumps(await serving("localhost", ("127.0.0.1", 0))))
asyncio.run(main())
""",
    )
    assert told[0] == [["127.0.0.1", 0]]
