"""The ``requests`` session that files are fetched over: whom it trusts, and how long it waits for a head."""

from __future__ import annotations

import importlib
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import requests
import requests.auth
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from .settings import Settings

__all__ = ["Bearer", "Session"]


class Session(requests.Session):
    """Sees no redirects: it would read each one's body to its end, before it is asked whether to follow."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        adapter = _Adapter(settings)
        for scheme in ("http://", "https://"):
            self.mount(scheme, adapter)

    def get_redirect_target(self, resp: requests.Response) -> None:
        """No answer redirects, as far as the session knows."""


class Bearer(requests.auth.AuthBase):
    """Says who asks."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Adds the field."""
        request.headers["authorization"] = f"Bearer {self._token}"
        return request


class _Adapter(HTTPAdapter):
    """Trusts what the system trusts, where `truststore` is installed (pip brings it along), else what requests does."""

    def __init__(self, settings: Settings) -> None:
        self._pools = _pools(settings.idle)
        self._context = _system_context() if settings.ca_bundle is None else {}
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options | self._context)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, proxy: Any, **options: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **options | self._context)
        manager.pool_classes_by_scheme = self._pools
        return manager


def _system_context() -> dict[str, Any]:
    try:
        truststore = importlib.import_module("truststore")
    except ImportError:
        return {}
    return {"ssl_context": truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)}


def _pools(seconds: float) -> dict[str, type[HTTPConnectionPool]]:
    """Pools whose connections give up on a head that comes a byte at a time.

    The timeout of ``requests`` starts anew with each byte, but for a handshake's, which CPython bounds as a whole.
    """

    class Plain(HTTPConnection):
        def getresponse(self) -> Any:
            with _deadline(self, seconds, "answer"):
                return super().getresponse()

        def _tunnel(self) -> None:
            # Here and not around all of `connect`, which would go on to a handshake over what has been ended.
            with _deadline(self, seconds, "proxy's answer"):
                super()._tunnel()

    class Secure(Plain, HTTPSConnection):
        pass

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}


@contextmanager
def _deadline(connection: HTTPConnection, seconds: float, of: str) -> Iterator[None]:
    """Ends the connection under whoever waits longer for a head."""
    late = threading.Event()

    def end() -> None:
        late.set()
        wire = connection.sock
        if wire is not None:
            # What TLS has on top would not let another thread do this. Gone already is as good.
            with suppress(OSError):
                socket.socket.shutdown(wire, socket.SHUT_RDWR)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    failure = TimeoutError(f"the head of the {of} was not whole within {seconds:g} s")
    try:
        yield
    except Exception:
        if late.is_set():
            raise failure from None
        raise
    finally:
        timer.cancel()
    # http.client takes an end in the middle of a head for the end of the head.
    if late.is_set():
        raise failure
