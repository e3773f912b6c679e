"""An HTTP/3 server that is not ours, on ``aioquic``: what the clients of ``h3_clients.py`` are proven on."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import serve
from aioquic.buffer import encode_uint_var
from aioquic.h3.connection import ErrorCode, FrameType, H3Connection, encode_frame
from aioquic.h3.events import DataReceived, H3Event, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ProtocolNegotiated, QuicEvent, StreamReset
from aioquic.tls import SessionTicket

from tests.integration.certificates import Identity
from tests.integration.servers import PATIENCE

__all__ = ["Reference", "reference"]


class Reference:
    """What the server has seen."""

    def __init__(self) -> None:
        self.port = 0
        self.connections: list[_Connection] = []
        #: Streams clients gave up, with their codes.
        self.resets: dict[int, int] = {}

    @property
    def address(self) -> tuple[str, int]:
        return ("127.0.0.1", self.port)

    @property
    def url(self) -> str:
        # By address: a name would be looked up in two families.
        return f"https://127.0.0.1:{self.port}"


class _Connection(QuicConnectionProtocol):
    """Echoes bodies; a path with a meaning does what it says, any other one tells the request."""

    def __init__(self, seen: Reference, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._seen = seen
        self._http: H3Connection | None = None
        self._heads: dict[int, dict[str, str]] = {}
        self._bodies: dict[int, bytearray] = {}
        seen.connections.append(self)

    @property
    def client_port(self) -> int:
        """Where it sends to now."""
        port = self._quic._network_paths[0].addr[1]
        assert isinstance(port, int)
        return port

    def sent(self, stream: int) -> int:
        return self._quic._streams[stream].sender.highest_offset

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, ProtocolNegotiated):
            self._http = H3Connection(self._quic)
        if isinstance(event, StreamReset):
            self._seen.resets[event.stream_id] = event.error_code
        if self._http is not None:
            for heard in self._http.handle_event(event):
                self._hear(self._http, heard)

    def _hear(self, http: H3Connection, heard: H3Event) -> None:
        if isinstance(heard, HeadersReceived):
            fields = {name.decode(): value.decode() for name, value in heard.headers}
            if heard.stream_id in self._heads:
                self._heads[heard.stream_id]["trailers"] = json.dumps(fields)
            else:
                self._heads[heard.stream_id] = fields
                self._bodies[heard.stream_id] = bytearray()
        elif isinstance(heard, DataReceived):
            self._bodies[heard.stream_id] += heard.data
        else:
            return
        if heard.stream_ended:
            head = self._heads[heard.stream_id]
            self._answer(http, heard.stream_id, head, bytes(self._bodies[heard.stream_id]))

    def _answer(self, http: H3Connection, stream: int, head: dict[str, str], body: bytes) -> None:
        path = head[":path"]
        name, _, number = path[1:].partition("/")
        if name == "goaway":
            control = http._local_control_stream_id
            assert control is not None
            frame = encode_frame(FrameType.GOAWAY, encode_uint_var(stream + 4))
            self._quic.send_stream_data(control, frame)
        if name == "close":
            self._quic.close(error_code=int(number), reason_phrase="as asked")
            return
        fields = [(b":status", b"200"), (b"server", b"reference")]
        if name == "hints":
            http.send_headers(stream, [(b":status", b"103"), (b"link", b"</a.css>")])
        if head[":method"] == "HEAD":
            http.send_headers(stream, [*fields, (b"content-length", b"5")], True)
            return
        http.send_headers(stream, fields)
        if name == "reset":
            http.send_data(stream, b"some", False)
            self._quic.reset_stream(stream, ErrorCode.H3_INTERNAL_ERROR)
        elif name == "large":
            http.send_data(stream, bytes(int(number)), True)
        elif name == "echo":
            http.send_data(stream, body, False)
            http.send_headers(stream, [(b"x-length", str(len(body)).encode())], True)
        elif name != "never":
            http.send_data(stream, json.dumps(head).encode(), True)


@contextmanager
def reference(identity: Identity) -> Iterator[Reference]:
    """Runs the server in a thread."""
    seen = Reference()
    ready = threading.Event()
    ends: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
    tickets: dict[bytes, SessionTicket] = {}

    async def main() -> None:
        end = asyncio.Event()
        ends.append((asyncio.get_running_loop(), end))
        configuration = QuicConfiguration(is_client=False, alpn_protocols=["h3"])
        configuration.load_cert_chain(identity.certificate_path, identity.key_path)
        server = await serve(
            "127.0.0.1",
            0,
            configuration=configuration,
            create_protocol=partial(_Connection, seen),
            session_ticket_fetcher=tickets.get,
            session_ticket_handler=lambda ticket: tickets.update({ticket.ticket: ticket}),
        )
        assert server._transport is not None
        seen.port = server._transport.get_extra_info("sockname")[1]
        ready.set()
        await end.wait()
        server.close()

    thread = threading.Thread(target=asyncio.run, args=(main(),), name="reference")
    thread.start()
    try:
        assert ready.wait(PATIENCE)
        yield seen
    finally:
        for loop, end in ends:
            loop.call_soon_threadsafe(end.set)
        thread.join(PATIENCE)
    assert not thread.is_alive()
