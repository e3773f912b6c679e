"""A request of an :class:`~server_native.NativeHttpServer`, with the response to it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from typing import Any

from ._ffi import Reason
from ._outlet import Outlet
from .cookies import Cookie, parse_cookies
from .detached import DetachedSocket
from .errors import ClientDisconnected, ResponseSentError
from .headers import Headers, HeaderSource
from .http import NativeDirectRequest
from .http_response import ConnectionInfo, HttpResponse, ResponseDefaults
from .sessions import Session, SessionSlot, SessionStore
from .websocket import WebSocket

__all__ = ["HttpRequest"]

#: A host with an optional port, as in RFC 3986 section 3.2.2 without percent-encoding.
_HOST = re.compile(r"(?:[A-Za-z0-9._~\-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?\Z")


class HttpRequest:
    """One request. Belongs to the thread of its loop; the body is read once.

    Whoever has it answers it: write to :attr:`response` and close that.
    """

    __slots__ = ("_outlet", "_slot", "direct", "response")

    def __init__(
        self,
        direct: NativeDirectRequest,
        outlet: Outlet,
        defaults: ResponseDefaults,
        store: SessionStore,
        cookie_name: str,
    ) -> None:
        #: The request as the direct API has it, which this one is made of.
        self.direct = direct
        self._outlet = outlet
        offered = [
            cookie.value
            for cookie in (self.cookies if len(store) else ())
            if cookie.name == cookie_name
        ]
        self._slot = SessionSlot(store, cookie_name, offered)
        #: The response.
        self.response = HttpResponse(
            direct, outlet, defaults, self._slot, persistent=self.persistent_connection
        )
        inflow = direct._inflow
        if inflow is not None:
            # The engine forgets the stream with its answer: what was not read by then never comes.
            outlet.on_over.append(lambda _: inflow.fail(int(Reason.CANCELLED)))

    @property
    def method(self) -> str:
        """The method as sent; methods are case-sensitive (RFC 9110 section 9.1)."""
        return self.direct.method

    @property
    def uri(self) -> str:
        """Path and query as sent."""
        return self.direct.target

    @property
    def requested_uri(self) -> str:
        """The whole URI as the client will have asked for it: scheme, host, path and query.

        Scheme and host are the first of ``x-forwarded-proto`` and ``x-forwarded-host`` where a proxy says so, else
        those of the request, else those of the address it came in on. **A client without a proxy can send these fields
        too**, and any ``host`` it likes: links for others, such as in a password mail, must not be made of this unless
        the proxy in front of the server sets all three. A forwarded value that is no scheme or host is left out.
        """
        direct = self.direct
        scheme = _first(direct.header("x-forwarded-proto")).lower()
        if scheme not in {"http", "https"}:
            scheme = direct.scheme
        host = _first(direct.header("x-forwarded-host"))
        if _HOST.match(host) is None:
            host = direct.authority or _authority(*direct.server)
        # OPTIONS * asks about the server, whose URI has no path (RFC 9112 section 3.2.4).
        return f"{scheme}://{host}{'' if direct.target == '*' else direct.target}"

    @property
    def headers(self) -> Headers:
        """The header fields."""
        return self.direct.headers

    @property
    def content_length(self) -> int:
        """The length the body was announced with, in bytes; -1 when it was not."""
        # Digits by now: the gate lets nothing else pass.
        return int(self.direct.header("content-length", "-1") or -1)

    @property
    def protocol_version(self) -> str:
        """``1.0``, ``1.1``, ``2`` or ``3``."""
        return self.direct.protocol.partition("/")[2]

    @property
    def persistent_connection(self) -> bool:
        """Whether the client wants the connection to stay open (RFC 9112 section 9.3)."""
        version = self.protocol_version
        if version not in {"1.0", "1.1"}:
            return True
        headers = self.headers
        if "connection" not in headers:
            return version == "1.1"
        options = {
            option.strip().lower()
            for field in headers.get_all("connection")
            for option in field.split(",")
        }
        return "close" not in options and (version == "1.1" or "keep-alive" in options)

    @property
    def cookies(self) -> list[Cookie]:
        """The cookies the client sent: names and values."""
        return parse_cookies(self.headers.get_all("cookie"))

    @property
    def session(self) -> Session:
        """The client's session, made when it is asked for first; see :class:`~server_native.sessions.Session`.

        Raises :class:`~server_native.errors.ResponseSentError` when a new one is needed and the head of the response,
        with which its cookie would go, has been sent.
        """
        return self._slot.session

    @property
    def connection_info(self) -> ConnectionInfo:
        """The two ends of the connection."""
        return self.response.connection_info

    @property
    def tls(self) -> Any:
        """What is known of the TLS connection and the client's certificate; ``None`` without TLS."""
        return getattr(self.direct, "tls", None)

    @property
    def disconnected(self) -> bool:
        """Whether the client is gone, or the server about to stop: nobody takes the response."""
        return self.direct.disconnected

    @property
    def upgrade(self) -> str | None:
        """The protocol the client offers to go on with, in lower case (``websocket``); ``None`` without an offer."""
        return self.direct.upgrade

    def accept_websocket(self, *, subprotocols: Sequence[str] = ()) -> WebSocket:
        """Accepts the WebSocket the client asks for; the response is closed with it.

        ``subprotocols`` are ours, the most wanted first; the first that the client knows too is agreed on. Headers and
        cookies of :attr:`response` go with the answer.

        The WebSocket lasts until one side closes it, or the server stops; in a handler that is called with its request,
        until that has returned (1000) or raised (1011). Otherwise nobody closes it by itself: use ``async with``.

        Raises :class:`~server_native.HandshakeError` when the request is no handshake, and has answered 426 or 400
        then; :class:`~server_native.errors.ResponseSentError` after something was written to the response, and
        :class:`~server_native.ClientDisconnected` when nobody is there.
        """

        def take(fields: HeaderSource) -> WebSocket:
            websocket: WebSocket = self.direct.accept_websocket(
                subprotocols=subprotocols, headers=fields
            )
            return websocket

        return self.response._hand_over(take)

    def detach_socket(self, *, write_headers: bool = True) -> DetachedSocket:
        """Takes the connection over as bytes; :meth:`HttpResponse.detach_socket` says how."""
        return self.response.detach_socket(write_headers=write_headers)

    async def read(self) -> bytes:
        """The whole body. Raises :class:`~server_native.ClientDisconnected` when it will not come."""
        return b"".join([chunk async for chunk in self])

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._chunks()

    async def _chunks(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self.direct:
                yield chunk
        except ClientDisconnected:
            if self._outlet.failure is None and self._outlet.over:
                raise ResponseSentError(
                    "the response is complete, so the rest of the request's body was let go: read it before close()"
                ) from None
            raise

    def __repr__(self) -> str:
        return f"<HttpRequest {self.method} {self.uri} {self.direct.protocol}>"


def _first(value: str | None) -> str:
    """The first member of a list field: what the client's own proxy said."""
    return (value or "").partition(",")[0].strip()


def _authority(host: str, port: int | None) -> str:
    if port is None:
        # A Unix socket is on this machine, and its path is no host.
        return "localhost"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
