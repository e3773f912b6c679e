"""A server that does to each request what a test says: on raw sockets, as no library lets one be so wrong."""

from __future__ import annotations

import re
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

__all__ = ["Asked", "Drip", "Faulty", "Silent", "answer", "cut"]


class Asked(NamedTuple):
    """One request."""

    target: str
    fields: dict[str, str]


class Cut(NamedTuple):
    """Bytes, then a reset."""

    data: bytes


class Drip(NamedTuple):
    """A beginning, then a little again and again until the client has gone."""

    head: bytes
    piece: bytes = b"x"


class Silent(NamedTuple):
    """Bytes, then nothing until the client has gone."""

    data: bytes


def answer(body: bytes, status: str = "200 OK", **fields: str | None) -> bytes:
    """A response; a field that is ``None`` is left out. ``_`` in names is ``-``."""
    said = {"content-length": str(len(body)), "etag": '"one"'} | {
        name.replace("_", "-"): value for name, value in fields.items()
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in said.items() if value is not None)
    return f"HTTP/1.1 {status}\r\n{head}connection: close\r\n\r\n".encode() + body


def cut(response: bytes, body: int) -> Cut:
    """The head of a response and so many bytes of its body, then a reset."""
    return Cut(response[: response.index(b"\r\n\r\n") + 4 + body])


class Faulty:
    """Answers requests one after another with ``script``; the last stands for all that follow."""

    def __init__(
        self,
        script: Sequence[
            bytes | Cut | Drip | Silent | Callable[[Asked], bytes | Cut | Drip | Silent]
        ],
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._script = list(script)
        self._context = context
        self.asked: list[Asked] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def url(self) -> str:
        return f"{'https' if self._context else 'http'}://127.0.0.1:{self.port}"

    def __enter__(self) -> Faulty:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        socket.create_connection(("127.0.0.1", self.port)).close()
        self._thread.join(10)
        self._listener.close()

    def _run(self) -> None:
        while not self._over.is_set():
            connection, _ = self._listener.accept()
            with connection:
                if self._over.is_set():
                    # The one that wakes this thread, and has gone: CPython 3.11 forgets a wrapper around it.
                    return
                try:
                    wire = (
                        self._context.wrap_socket(connection, server_side=True)
                        if self._context
                        else connection
                    )
                    with wire:
                        self._serve(wire)
                except OSError:
                    # The client has gone, which some tests are about.
                    continue

    def _serve(self, wire: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            data = wire.recv(65_536)
            if not data:
                return
            head += data
        lines = head.decode("latin-1").split("\r\n")
        fields = dict(re.split(r": *", line, maxsplit=1) for line in lines[1:] if line)
        asked = Asked(
            lines[0].split(" ")[1], {name.lower(): value for name, value in fields.items()}
        )
        step = self._script[min(len(self.asked), len(self._script) - 1)]
        self.asked.append(asked)
        reply = step(asked) if callable(step) else step
        if isinstance(reply, Drip):
            wire.sendall(reply.head)
            while not self._over.wait(0.02):
                wire.sendall(reply.piece)
        elif isinstance(reply, Silent):
            wire.sendall(reply.data)
            # Answers when the client has closed its side.
            wire.recv(1)
        elif isinstance(reply, Cut):
            wire.sendall(reply.data)
            # Read as far as it went before the reset, or the reset would take it back.
            _drained(wire)
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            wire.sendall(reply)


def _drained(wire: socket.socket) -> None:
    """Waits until the peer's kernel has all that was sent (SIOCOUTQ)."""
    import fcntl
    import termios

    waiting = bytearray(4)
    for _ in range(1000):
        fcntl.ioctl(wire.fileno(), termios.TIOCOUTQ, waiting)
        if not any(waiting):
            return
        threading.Event().wait(0.001)
