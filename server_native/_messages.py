"""The two directions of a message stream: what has come and waits, and how much may still go.

Both sides count each piece of a message as its bytes and a fixed cost (``MESSAGE_COST``), so that empty messages
are not free. How a reader or writer waits is for :mod:`.websocket` to say.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from ._ffi import FLAG_MORE, FLAG_TEXT, MESSAGE_COST
from ._outbox import CHUNK, Outbox

__all__ = ["Arrivals", "pieces", "whole"]


class Arrivals:
    """Messages that have come, within the credit given for them."""

    __slots__ = ("_costs", "_half", "_outbox", "_owed", "_partial", "_stream", "messages")

    def __init__(self, stream: int, outbox: Outbox, window: int) -> None:
        self._stream = stream
        self._outbox = outbox
        self._half = window // 2
        self._owed = 0
        #: What has come and was not taken.
        self.messages: deque[str | bytes] = deque()
        self._costs: deque[int] = deque()
        # One growing block: a peer may cut a message into pieces of a byte, and an object for each would be many times
        # what ws_message_bytes allows.
        self._partial = bytearray()

    def feed(self, data: bytes, flags: int) -> None:
        """A message or a piece of one has come."""
        cost = len(data) + MESSAGE_COST
        if flags & FLAG_MORE:
            # What belongs to one message is bounded natively (ws_message_bytes); holding its credit back would
            # never let a message larger than the window in.
            self._partial += data
            self._owe(cost)
            return
        # Native code has checked that text is UTF-8.
        if self._partial:
            self._partial += data
            whole = self._partial
            self._partial = bytearray()
            self.messages.append(whole.decode() if flags & FLAG_TEXT else bytes(whole))
        else:
            self.messages.append(data.decode() if flags & FLAG_TEXT else data)
        self._costs.append(cost)

    def take(self) -> str | bytes | None:
        """The next message; ``None`` when there is none now."""
        if not self.messages:
            return None
        self._owed += self._costs.popleft()
        if self._owed >= self._half:
            self._owe(0)
        return self.messages.popleft()

    def _owe(self, cost: int) -> None:
        self._owed += cost
        if self._owed >= self._half:
            owed, self._owed = self._owed, 0
            self._outbox.credit(self._stream, owed)


def whole(window: int) -> int:
    """The longest message that is sent in one piece.

    Native code returns the window when half of it has come together, so what is left may never be more than half.
    """
    return window // 2 - MESSAGE_COST


def pieces(data: bytes, text: bool, window: int) -> Iterator[tuple[bytes, int]]:
    """A message as the pieces that are sent, each with its flags."""
    kind, longest = (FLAG_TEXT if text else 0), whole(window)
    if len(data) <= longest:
        yield data, kind
        return
    step = min(CHUNK, longest)
    last = (len(data) - 1) // step * step
    for start in range(0, len(data), step):
        yield data[start : start + step], kind | (0 if start == last else FLAG_MORE)
