"""Commands on their way down: packed as they are made, handed over in one call."""

from __future__ import annotations

from collections.abc import Callable
from time import sleep

from ._ffi import FLAG_END, FLAG_LENT, Command, Reason, Runtime, pack_record
from .errors import RuntimeBusyError

__all__ = ["CHUNK", "Outbox", "PatientOutbox"]

#: Bytes from this size on are lent, not copied: two copies of them would cost more than the loan.
_LENT_FROM = 8 * 1024
#: Commands after which it is looked whether those who wait for them should wait for more.
_MANY = 16
#: Longest DATA: pieces of this size keep a window's worth in flight.
CHUNK = 64 * 1024

#: Seconds between two tries of a thread for whose commands there is no room.
_PAUSE = 0.001

_HEAD, _DATA, _END = int(Command.HEAD), int(Command.DATA), int(Command.END)
_RESET, _CREDIT, _INFORM = int(Command.RESET), int(Command.CREDIT), int(Command.INFORM)
_UPGRADE, _PING = int(Command.UPGRADE), int(Command.PING)


class Outbox:
    """Collects commands of one thread; :meth:`flush` submits them. Not thread-safe: each thread has its own."""

    __slots__ = ("_arena", "_gathering", "_on_first", "_on_many", "_records", "_runtime", "_size")

    def __init__(
        self,
        runtime: Runtime,
        on_first: Callable[[], object] | None = None,
        on_many: Callable[[], object] | None = None,
    ) -> None:
        self._runtime = runtime
        self._records: list[bytes] = []
        self._arena: list[bytes] = []
        self._size = 0
        # Called before what has come together is submitted: each says what it has gathered.
        self._gathering: list[Callable[[], None]] = []
        # Called when the first command after a flush comes in, to schedule the next flush.
        self._on_first = on_first
        # Called now and then while they come, to have some of them sent before the next flush.
        self._on_many = on_many

    def head(self, stream: int, status: int, fields: bytes, body: bytes, end: bool) -> None:
        """Response head with the beginning, or with ``end`` all, of the body."""
        length, size, flags = len(fields), len(body), int(end)
        if size >= _LENT_FROM:
            body = self._runtime.lend(body)
            size, flags = len(body), end | FLAG_LENT
        records = self._records
        if not records:
            self._begin()
        records.append(pack_record(stream, 0, self._size, length, _HEAD, flags, status, size))
        self._arena.append(fields)
        self._arena.append(body)
        self._size += length + size
        if not len(records) % _MANY and self._on_many is not None:
            self._on_many()

    def data(self, stream: int, chunk: bytes) -> None:
        """Body bytes; nothing for an empty chunk."""
        if chunk:
            self.message(stream, chunk, 0)

    def message(self, stream: int, piece: bytes, flags: int) -> None:
        """A message or a piece of one, which may be empty."""
        size = len(piece)
        if size >= _LENT_FROM:
            piece = self._runtime.lend(piece)
            size = len(piece)
            flags |= FLAG_LENT
        records = self._records
        if not records:
            self._begin()
        records.append(pack_record(stream, 0, self._size, size, _DATA, flags, 0, 0))
        self._arena.append(piece)
        self._size += size
        if not len(records) % _MANY and self._on_many is not None:
            self._on_many()

    def gather(self, say: Callable[[], None]) -> None:
        """Has ``say`` called when commands are submitted next: it knows more of them, better made together."""
        self._begin()
        self._gathering.append(say)

    def pieces(self, stream: int, pieces: list[bytes], size: int) -> None:
        """Body bytes in several pieces, ``size`` in all. Whose list it is from now on nobody else's."""
        if len(pieces) == 1:
            self.message(stream, pieces[0], 0)
        elif size < len(pieces) * _LENT_FROM:
            self.message(stream, b"".join(pieces), 0)
        else:
            self._add(stream, _DATA, FLAG_LENT, 0, self._runtime.lend_all(pieces))
            if not len(self._records) % _MANY and self._on_many is not None:
                self._on_many()

    def end(self, stream: int, trailers: bytes = b"", code: int = 0) -> None:
        """The response is complete; of a message stream: the close code and its reason."""
        self._add(stream, _END, FLAG_END, code, trailers)

    def upgrade(self, stream: int, status: int, fields: bytes, flags: int, window: int) -> None:
        """The stream leaves HTTP; ``window`` bytes may be sent from now on (0: as before)."""
        self._add(stream, _UPGRADE, flags, status, fields, window)

    def ping(self, stream: int, payload: bytes) -> None:
        """Asks the peer of a message stream for a pong."""
        self._add(stream, _PING, 0, 0, payload)

    def reset(self, stream: int, reason: Reason) -> None:
        """The stream is given up; the client sees an abrupt end."""
        self._add(stream, _RESET, FLAG_END, reason, b"")

    def inform(self, stream: int, status: int, fields: bytes) -> None:
        """An interim response."""
        self._add(stream, _INFORM, 0, status, fields)

    def credit(self, stream: int, size: int) -> None:
        """The handler has taken ``size`` bytes of the request body."""
        self._add(stream, _CREDIT, 0, 0, b"", size)

    def flush(self) -> bool:
        """Submits what has come together. Never blocks; false when the native side has no room for it now.

        Then it is kept for the next call: whoever drives makes room.
        """
        if self._gathering:
            # Emptied afterwards: their commands are not the first, and ask for no other flush.
            for say in self._gathering:
                say()
            self._gathering.clear()
        records = self._records
        if records:
            # Emptied first: a submit that fails must not be tried again with every later one.
            self._records, arena, size = [], self._arena, self._size
            self._arena, self._size = [], 0
            try:
                self._runtime.submit(b"".join(records), len(records), b"".join(arena), size)
            except RuntimeBusyError:
                self._records, self._arena, self._size = records, arena, size
                return False
        return True

    def _begin(self) -> None:
        if not self._records and not self._gathering and self._on_first is not None:
            self._on_first()

    def _add(
        self, stream: int, kind: int, flags: int, code: int, payload: bytes, aux: int = 0
    ) -> None:
        self._begin()
        self._records.append(
            pack_record(stream, 0, self._size, len(payload), kind, flags, code, aux)
        )
        if payload:
            self._arena.append(payload)
            self._size += len(payload)


class PatientOutbox(Outbox):
    """That of a handler's thread, which nobody flushes again: it waits until there is room."""

    __slots__ = ()

    def flush(self) -> bool:
        """Submits what has come together; true. Blocks for as long as the native side has no room for it.

        Whoever drives makes room, and where Python does and is kept from it, the standby thread within two of its ticks
        (40 ms). Raises :class:`~server_native.errors.StoppingError` when the runtime is over.
        """
        while not super().flush():
            sleep(_PAUSE)
        return True
