"""The two directions of a message stream: what has come and waits, and how much may still go.

Both sides count each piece of a message as its bytes and a fixed cost (``MESSAGE_COST``), so that empty messages
are not free. How a reader or writer waits is for :mod:`.websocket` to say.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from ._ffi import FLAG_MORE, FLAG_TEXT, MESSAGE_COST
from ._outbox import CHUNK, Outbox

__all__ = ["Arrivals", "pieces"]


class Arrivals:
    """Messages that have come, within the credit given for them."""

    def __init__(self, stream: int, outbox: Outbox, window: int) -> None:
        self._stream = stream
        self._outbox = outbox
        self._half = window // 2
        self._owed = 0
        self._messages: deque[tuple[str | bytes, int]] = deque()
        self._pieces: list[bytes] = []

    def feed(self, data: bytes, flags: int) -> None:
        """A message or a piece of one has come."""
        if flags & FLAG_MORE:
            # What belongs to one message is bounded natively (ws_message_bytes); holding its credit back would
            # never let a message larger than the window in.
            self._pieces.append(data)
            self._owe(len(data) + MESSAGE_COST)
            return
        cost = len(data) + MESSAGE_COST
        if self._pieces:
            self._pieces.append(data)
            data = b"".join(self._pieces)
            self._pieces.clear()
        # Native code has checked that text is UTF-8.
        self._messages.append((data.decode() if flags & FLAG_TEXT else data, cost))

    def take(self) -> str | bytes | None:
        """The next message; ``None`` when there is none now."""
        if not self._messages:
            return None
        message, cost = self._messages.popleft()
        self._owe(cost)
        return message

    def _owe(self, cost: int) -> None:
        self._owed += cost
        if self._owed >= self._half:
            owed, self._owed = self._owed, 0
            self._outbox.credit(self._stream, owed)


def pieces(data: bytes, text: bool, window: int) -> Iterator[tuple[bytes, int]]:
    """A message as the pieces that are sent, each with its flags: one, unless it is larger than the window."""
    kind = FLAG_TEXT if text else 0
    if len(data) + MESSAGE_COST <= window:
        yield data, kind
        return
    last = (len(data) - 1) // CHUNK * CHUNK
    for start in range(0, len(data), CHUNK):
        yield data[start : start + CHUNK], kind | (0 if start == last else FLAG_MORE)
