"""The HTTP/3 clients of the tests do what they say, on a server that is not ours either."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable, Iterator

import curl_cffi
import pytest
from aioquic.tls import SessionTicket

from tests.integration.certificates import Authority, Identity
from tests.integration.clients import eventually
from tests.integration.h3_clients import H3, ErrorCode, FrameType, curl, needs_interim
from tests.integration.h3_reference import Reference, reference

Talk = Callable[[H3], Awaitable[None]]
MEBIBYTE = bytes(range(256)) * 4096


@pytest.fixture
def peer(identity: Identity) -> Iterator[Reference]:
    with reference(identity) as running:
        yield running


@pytest.fixture
def talk(peer: Reference, authority: Authority) -> Callable[..., None]:
    """Runs a conversation over one connection."""

    def run(conversation: Talk, window: int = 1024 * 1024) -> None:
        async def main() -> None:
            async with H3.open(peer.address, trust=authority.path, window=window) as client:
                await conversation(client)

        asyncio.run(main())

    return run


def test_a_request_and_its_answer(talk: Callable[..., None], peer: Reference) -> None:
    async def conversation(client: H3) -> None:
        answer = await client.request("/a?b=c", ("x-tag", "t"))
        assert (answer.status, answer.header("server")) == (200, "reference")
        assert json.loads(answer.body) == {
            ":method": "GET",
            ":scheme": "https",
            ":authority": f"localhost:{peer.port}",
            ":path": "/a?b=c",
            "x-tag": "t",
        }
        assert client.http.received_settings is not None

    talk(conversation)


def test_head(talk: Callable[..., None]) -> None:
    async def conversation(client: H3) -> None:
        answer = await client.request(method="HEAD")
        assert (answer.status, answer.header("content-length"), answer.body) == (200, "5", b"")
        assert (await client.request()).status == 200

    talk(conversation)


def test_a_body_in_pieces_and_trailers_both_ways(talk: Callable[..., None]) -> None:
    async def conversation(client: H3) -> None:
        stream = client.begin("/echo", method="POST", end=False)
        for start in range(0, len(MEBIBYTE), 100_000):
            client.send(stream, MEBIBYTE[start : start + 100_000])
        client.send_trailers(stream, ("x-sum", "1"))
        answer = await client.answer(stream)
        assert answer.body == MEBIBYTE
        assert answer.trailers == [("x-length", str(len(MEBIBYTE)))]
        stream = client.begin("/tell", method="POST", end=False)
        client.send_trailers(stream, ("x-sum", "1"))
        told = json.loads((await client.answer(stream)).body)
        assert json.loads(told["trailers"]) == {"x-sum": "1"}

    talk(conversation)


@needs_interim
def test_an_interim_response(talk: Callable[..., None]) -> None:
    async def conversation(client: H3) -> None:
        answer = await client.request("/hints")
        assert (answer.status, answer.trailers) == (200, [])
        assert answer.interim == [[(":status", "103"), ("link", "</a.css>")]]

    talk(conversation)


def test_a_reset_by_the_server(talk: Callable[..., None]) -> None:
    async def conversation(client: H3) -> None:
        answer = await client.request("/reset")
        assert (answer.ended, answer.reset) == (False, ErrorCode.H3_INTERNAL_ERROR)
        assert (await client.request("/again")).status == 200

    talk(conversation)


def test_a_reset_by_the_client(talk: Callable[..., None], peer: Reference) -> None:
    async def conversation(client: H3) -> None:
        stream = client.begin("/never", method="POST", end=False)
        client.reset(stream)
        assert (await client.request("/again")).status == 200
        assert peer.resets == {stream: ErrorCode.H3_REQUEST_CANCELLED}

    talk(conversation)


def test_goaway_and_the_end_of_the_connection(talk: Callable[..., None]) -> None:
    async def conversation(client: H3) -> None:
        assert (await client.request("/goaway")).status == 200
        assert client.goaways == [4]
        client.begin(f"/close/{int(ErrorCode.H3_EXCESSIVE_LOAD)}")
        end = await client.end()
        assert (end.error_code, end.reason_phrase) == (ErrorCode.H3_EXCESSIVE_LOAD, "as asked")
        with pytest.raises(ConnectionError, match="as asked"):
            await client.answer(client.next_stream())

    talk(conversation)


@pytest.mark.parametrize("new_connection_id", [False, True])
def test_another_port_in_the_middle_of_a_download(
    talk: Callable[..., None], peer: Reference, new_connection_id: bool
) -> None:
    size = 3 * len(MEBIBYTE)

    async def conversation(client: H3) -> None:
        client.stall()
        stream = client.begin(f"/large/{size}")
        await client.wait(lambda: len(client.known(stream).received) > 500_000)
        old = client.port
        assert peer.connections[0].client_port == old
        await client.rebind(new_connection_id=new_connection_id)
        client.resume()
        assert len((await client.answer(stream)).body) == size
        assert client.port != old
        assert peer.connections[0].client_port == client.port

    talk(conversation)


def test_a_stall_lets_nothing_through(talk: Callable[..., None], peer: Reference) -> None:
    size = 50 * len(MEBIBYTE)

    async def conversation(client: H3) -> None:
        client.stall()
        stream = client.begin(f"/large/{size}")
        await client.wait(lambda: len(client.known(stream).received) > 60_000)
        await asyncio.wait_for(client.ping(), 5)
        assert peer.connections[0].sent(stream) <= 65_536
        client.resume()
        await client.wait(lambda: len(client.known(stream).received) > 1_000_000)

    talk(conversation, window=65_536)


def test_an_illegal_frame_is_sent(talk: Callable[..., None]) -> None:
    async def conversation(client: H3) -> None:
        stream = client.begin("/never", method="POST", end=False)
        client.send_frame(stream, FrameType.SETTINGS, b"")
        assert (await client.end()).error_code == ErrorCode.H3_FRAME_UNEXPECTED

    talk(conversation)


def test_illegal_fields_are_sent(talk: Callable[..., None]) -> None:
    async def conversation(client: H3) -> None:
        client.begin_raw([(":method", "GET"), (":authority", "a"), ("X-Upper", "case")])
        assert (await client.end()).error_code == ErrorCode.H3_MESSAGE_ERROR

    talk(conversation)


def test_a_critical_stream_twice(talk: Callable[..., None]) -> None:
    async def conversation(client: H3) -> None:
        client.begin_unidirectional(0)
        assert (await client.end()).error_code == ErrorCode.H3_STREAM_CREATION_ERROR

    talk(conversation)


def test_a_session_is_resumed(peer: Reference, authority: Authority) -> None:
    async def main() -> None:
        tickets: list[SessionTicket] = []
        async with H3.open(peer.address, trust=authority.path, tickets=tickets.append) as client:
            await client.wait(lambda: bool(tickets))
            assert client.handshake is not None
            assert not client.handshake.session_resumed
        async with H3.open(peer.address, trust=authority.path, ticket=tickets[0]) as client:
            assert client.handshake is not None
            assert client.handshake.session_resumed
            assert (await client.request("/")).status == 200

    asyncio.run(main())


def test_an_authority_that_is_not_trusted(
    peer: Reference, tmp_path_factory: pytest.TempPathFactory
) -> None:
    stranger = Authority(tmp_path_factory.mktemp("stranger"))

    async def main() -> None:
        with pytest.raises(ConnectionError, match="unable to get local issuer certificate"):
            async with H3.open(peer.address, trust=stranger.path):
                raise AssertionError("connected")

    asyncio.run(main())


def test_curl(peer: Reference, authority: Authority) -> None:
    answer = curl(f"{peer.url}/a?b=c", trust=authority.path, headers={"x-tag": "t"})
    assert (answer.status_code, answer.http_version) == (200, 30)
    told = json.loads(answer.content)
    assert (told[":method"], told[":path"], told["x-tag"]) == ("GET", "/a?b=c", "t")
    answer = curl(f"{peer.url}/echo", trust=authority.path, method="POST", data=MEBIBYTE)
    assert answer.content == MEBIBYTE


def test_curl_does_not_fall_back(authority: Authority) -> None:
    """Somebody listens over TCP, nobody over UDP."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with pytest.raises(curl_cffi.CurlError, match=r"curl: \(7\)"):
            curl(f"https://127.0.0.1:{listener.getsockname()[1]}", trust=authority.path)
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_the_server_hears_of_a_client_that_leaves(peer: Reference, authority: Authority) -> None:
    async def main() -> None:
        async with H3.open(peer.address, trust=authority.path) as client:
            assert (await client.request("/")).status == 200

    asyncio.run(main())
    connection = peer.connections[0]
    eventually(lambda: connection._quic._close_event is not None, "the connection is closed")
