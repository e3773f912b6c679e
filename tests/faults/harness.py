"""Child processes to harm, and clients that misbehave on purpose.

Everything waits for a condition with a deadline, never for a time.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import hpack
from hyperframe.frame import (
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from typing_extensions import Self

from server_native import NativeDirectRequest, NativeServer, serve_native_direct

ROOT = Path(__file__).resolve().parents[2]

#: Seconds after which a condition that has not come is taken for a hang.
PATIENCE = 20.0

#: What must never be on a server's standard error, whatever was done to it.
NEVER = (
    "Fatal Python error",
    "panicked at",
    "Segmentation fault",
    "Task was destroyed",
    "never awaited",
    "Exception ignored",
    "never retrieved",
    "Exception in thread",
    "Exception in callback",
)


ChildT = TypeVar("ChildT", bound="Child")


class Child:
    """A Python process that prints one line for each thing that happens to it."""

    def __init__(
        self,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        before: Callable[[], None] | None = None,
        descriptors: tuple[int, ...] = (),
    ) -> None:
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._over = False
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-u", *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
            preexec_fn=before,  # noqa: PLW1509
            pass_fds=descriptors,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @classmethod
    def run(cls, source: str, *arguments: str, **options: Any) -> Child:
        """Runs Python source text."""
        return cls("-c", source, *arguments, **options)

    @property
    def pid(self) -> int:
        return self.process.pid

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self.lines.append(line.decode().rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def expect(self, prefix: str, *, after: int = 0, count: int = 1) -> str:
        """The rest of the ``count``-th line that begins with ``prefix``, counted from line ``after``."""
        until = time.monotonic() + PATIENCE
        with self._changed:
            while True:
                found = [line for line in self.lines[after:] if line.startswith(prefix)]
                if len(found) >= count:
                    return found[count - 1][len(prefix) :].strip()
                if self._over or time.monotonic() >= until:
                    break
                self._changed.wait(until - time.monotonic())
        raise AssertionError(f"no line {prefix!r} x {count}; {self.account()}")

    def said(self, prefix: str) -> list[str]:
        """What was printed so far after this prefix."""
        with self._changed:
            return [line[len(prefix) :].strip() for line in self.lines if line.startswith(prefix)]

    def tell(self, command: str) -> None:
        """Sends a line to the child's standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(command.encode() + b"\n")
        self.process.stdin.flush()

    def ask(self, command: str) -> Any:
        """Sends a command and answers what it printed, as JSON."""
        mark = len(self.lines)
        self.tell(command)
        return json.loads(self.expect(command.split(maxsplit=1)[0] + "=", after=mark))

    def stats(self) -> dict[str, int]:
        answer: dict[str, int] = self.ask("stats")
        return answer

    def until_stats(self, wanted: Callable[[dict[str, int]], bool], what: str) -> dict[str, int]:
        """Asks for figures until they are as wanted."""
        stats: dict[str, int] = eventually(self.stats, wanted, what, self.account)
        return stats

    def signal(self, number: int) -> float:
        """Sends a signal; answers when."""
        sent = time.monotonic()
        self.process.send_signal(number)
        return sent

    def wait(self, seconds: float = PATIENCE) -> int:
        """The exit code; a child that does not end within ``seconds`` fails the test with its stacks."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)  # faulthandler prints every thread
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
            self.process.kill()
            raise AssertionError(f"still alive after {seconds} s; {self.account()}") from None
        self._reader.join(PATIENCE)
        return code

    def errors(self) -> str:
        """Standard error so far."""
        self._errors.seek(0)
        return self._errors.read().decode("utf-8", "replace")

    def account(self) -> str:
        """Everything known, for a failure's text."""
        return (
            f"exit code {self.process.poll()}\n--- output (last 40 lines)\n"
            + "\n".join(self.lines[-40:])
            + "\n--- errors\n"
            + self.errors()[-6000:]
        )

    def ends(
        self,
        code: int,
        *,
        within: float = PATIENCE,
        traceback: bool = False,
        allowed: tuple[str, ...] = (),
    ) -> str:
        """Asserts exit code and a clean standard error, which is answered."""
        found = self.wait(within)
        assert found == code, f"expected exit code {code}; {self.account()}"
        errors = self.errors()
        for bad in set(NEVER) - set(allowed):
            assert bad not in errors, f"{bad!r} on standard error; {self.account()}"
        if not traceback:
            assert "Traceback" not in errors, self.account()
        return errors

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))  # noqa: PTH208

    def resident(self) -> int:
        """Resident bytes."""
        pages = Path(f"/proc/{self.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGESIZE")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()
        self._errors.close()


class Victim(Child):
    """The server of ``victim.py``."""

    def __init__(
        self, mode: str, *, before: Callable[[], None] | None = None, **options: Any
    ) -> None:
        super().__init__(
            "-m", "tests.faults.victim", json.dumps({"mode": mode, **options}), before=before
        )
        self.port = int(self.expect("ready"))

    def probe(self) -> None:
        """One request on a connection of its own is answered."""
        with Wire(self.port) as wire:
            assert wire.get("/hello").body == b"hello", self.account()


def eventually(
    ask: Callable[[], Any],
    wanted: Callable[[Any], bool],
    what: str,
    account: Callable[[], str] = str,
) -> Any:
    """Asks until the answer is as wanted; fails with ``what`` when it never is."""
    until = time.monotonic() + PATIENCE
    while True:
        answer = ask()
        if wanted(answer):
            return answer
        if time.monotonic() >= until:
            raise AssertionError(f"never {what}: {answer}; {account()}")
        time.sleep(0.01)  # how often we ask, not how long we wait


@dataclass
class Answer:
    """A response as it came."""

    status: int
    headers: dict[str, str]
    body: bytes
    #: The framing says that all of it is here.
    complete: bool
    #: When the last byte came.
    at: float = field(default_factory=time.monotonic)


class Wire:
    """One TCP connection, byte by byte."""

    def __init__(self, port: int, *, receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(PATIENCE)
        try:
            self.socket.connect(("127.0.0.1", port))
        except BaseException:
            self.socket.close()
            raise
        self._buffer = b""

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def request(self, path: str, *, method: str = "GET", head: str = "", body: bytes = b"") -> None:
        """Sends a request; ``head`` is more header lines."""
        text = f"{method} {path} HTTP/1.1\r\nhost: x\r\n{head}\r\n"
        self.send(text.encode() + body)

    def get(self, path: str) -> Answer:
        self.request(path)
        return self.answer()

    def answer(self) -> Answer:
        """The next response; one that breaks off is answered with ``complete=False``."""
        head = self._until(b"\r\n\r\n")
        assert head is not None, f"no response head, only {self._buffer!r}"
        first, *lines = head.decode("latin-1").split("\r\n")[:-2]
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        body, complete = self._body(headers)
        return Answer(int(first.split()[1]), headers, body, complete)

    def head(self) -> bytes:
        """Reads a response head and leaves the body."""
        head = self._until(b"\r\n\r\n")
        assert head is not None, f"no response head, only {self._buffer!r}"
        return head

    def _body(self, headers: dict[str, str]) -> tuple[bytes, bool]:
        if "chunked" in headers.get("transfer-encoding", ""):
            body = b""
            while True:
                line = self._until(b"\r\n")
                if line is None:
                    return body, False
                size = int(line.strip(), 16)
                chunk = self._exactly(size + 2)
                if chunk is None:
                    return body, False
                if size == 0:
                    return body, True
                body += chunk[:-2]
        size = int(headers.get("content-length", "0"))
        found = self._exactly(size)
        return (self._buffer, False) if found is None else (found, True)

    def _until(self, mark: bytes) -> bytes | None:
        while mark not in self._buffer:
            if not self._more():
                return None
        end = self._buffer.index(mark) + len(mark)
        found, self._buffer = self._buffer[:end], self._buffer[end:]
        return found

    def _exactly(self, size: int) -> bytes | None:
        while len(self._buffer) < size:
            if not self._more():
                return None
        found, self._buffer = self._buffer[:size], self._buffer[size:]
        return found

    def _more(self) -> bool:
        try:
            data = self.socket.recv(65536)
        except ConnectionError:
            return False
        self._buffer += data
        return bool(data)

    def rest(self) -> bytes:
        """Everything up to the end of the connection."""
        while self._more():
            pass
        found, self._buffer = self._buffer, b""
        return found

    def reset(self) -> None:
        """Goes away with a RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.socket.close()

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


class H2Wire:
    """An HTTP/2 client made of frames, without a state machine: it may do anything, and goes on after GOAWAY."""

    def __init__(
        self, port: int, *, settings: dict[int, int] | None = None, acknowledge: bool = True
    ) -> None:
        self.wire = Wire(port)
        self.frames: list[Frame] = []
        #: Response heads and trailers by stream.
        self.heads: dict[int, dict[str, str]] = {}
        self._encoder = hpack.Encoder()
        self._decoder = hpack.Decoder()
        self._buffer = b""
        self._next = 1
        self._acknowledge = acknowledge
        self.wire.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        self.send(SettingsFrame(0, settings=settings or {}))
        self.until(lambda frame: isinstance(frame, SettingsFrame) and "ACK" in frame.flags)

    def send(self, *frames: Frame) -> None:
        """Sends frames in one write."""
        self.wire.send(b"".join(frame.serialize() for frame in frames))

    def fields(
        self, path: str, method: str = "GET", more: tuple[tuple[str, str], ...] = ()
    ) -> bytes:
        """A request head, encoded."""
        pseudo = ((":method", method), (":scheme", "http"), (":authority", "x"), (":path", path))
        return self._encoder.encode([*pseudo, *more])

    def stream(self) -> int:
        """The next stream id."""
        self._next += 2
        return self._next - 2

    def request(self, path: str, *, method: str = "GET", end: bool = True) -> int:
        stream = self.stream()
        frame = HeadersFrame(stream, data=self.fields(path, method))
        frame.flags.add("END_HEADERS")
        if end:
            frame.flags.add("END_STREAM")
        self.send(frame)
        return stream

    def ping(self, payload: bytes) -> None:
        """Sends a ping and waits for its answer."""
        self.send(PingFrame(0, opaque_data=payload))
        self.until(
            lambda frame: (
                isinstance(frame, PingFrame)
                and "ACK" in frame.flags
                and frame.opaque_data == payload
            )
        )

    def goaway(self) -> GoAwayFrame:
        """Waits for GOAWAY."""
        found = self.until(lambda frame: isinstance(frame, GoAwayFrame))
        assert isinstance(found, GoAwayFrame)
        return found

    def ended(self, stream: int) -> bool:
        """Whether the response is complete."""
        return any(
            frame.stream_id == stream and "END_STREAM" in frame.flags for frame in self.frames
        )

    def answer(self, stream: int) -> tuple[dict[str, str], bytes]:
        """A whole response."""
        self.until(lambda frame: frame.stream_id == stream and "END_STREAM" in frame.flags)
        frames = [frame for frame in self.frames if isinstance(frame, DataFrame)]
        body = b"".join(frame.data for frame in frames if frame.stream_id == stream)
        return self.heads[stream], body

    def until(self, wanted: Callable[[Frame], bool]) -> Frame:
        """Reads until such a frame has come."""
        seen = 0
        while True:
            for frame in self.frames[seen:]:
                if wanted(frame):
                    return frame
            seen = len(self.frames)
            assert self.step(), f"the connection ended: {self.frames[-10:]}"

    def step(self) -> bool:
        """Reads once; false at the end of the connection."""
        try:
            data = self.wire.socket.recv(65536)
        except ConnectionError:
            return False
        self._buffer += data
        while len(self._buffer) >= 9:
            frame, size = Frame.parse_frame_header(memoryview(self._buffer[:9]))
            if len(self._buffer) < 9 + size:
                break
            frame.parse_body(memoryview(self._buffer[9 : 9 + size]))
            self._buffer = self._buffer[9 + size :]
            self.frames.append(frame)
            if isinstance(frame, HeadersFrame):
                # In the order of arrival: each block changes the decoder's table.
                head = self.heads.setdefault(frame.stream_id, {})
                head.update(
                    (str(name), str(value)) for name, value in self._decoder.decode(frame.data)
                )
            if self._acknowledge:
                with suppress(ConnectionError):
                    self._reply(frame)
        return bool(data)

    def _reply(self, frame: Frame) -> None:
        if isinstance(frame, (SettingsFrame, PingFrame)) and "ACK" not in frame.flags:
            answer: Frame = SettingsFrame(0)
            if isinstance(frame, PingFrame):
                answer = PingFrame(0, opaque_data=frame.opaque_data)
            answer.flags.add("ACK")
            self.send(answer)
        elif isinstance(frame, DataFrame) and frame.flow_controlled_length:
            size = frame.flow_controlled_length
            updates = [WindowUpdateFrame(0, window_increment=size)]
            if "END_STREAM" not in frame.flags:
                updates.append(WindowUpdateFrame(frame.stream_id, window_increment=size))
            self.send(*updates)

    def finish(self) -> None:
        """Reads to the end of the connection."""
        while self.step():
            pass

    def __enter__(self) -> H2Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.wire.socket.close()


@contextmanager
def serving(
    handler: Callable[[NativeDirectRequest], Any], **options: Any
) -> Iterator[NativeServer]:
    """A blocking server on a thread of this process, closed when the block is left."""
    ready = threading.Event()
    servers: list[NativeServer] = []

    def on_ready(server: NativeServer) -> None:
        servers.append(server)
        ready.set()

    thread = threading.Thread(
        target=lambda: serve_native_direct(handler, port=0, on_ready=on_ready, **options),
        daemon=True,
    )
    thread.start()
    assert ready.wait(PATIENCE)
    try:
        yield servers[0]
    finally:
        servers[0].close(grace=0.5)
        thread.join(PATIENCE)
    assert not thread.is_alive(), "the server hangs"


@contextmanager
def background(work: Callable[[threading.Event], None], count: int = 1) -> Iterator[list[str]]:
    """Runs ``work`` on threads until the block is left; what they raise is raised there.

    ``work`` gets an event that says when to end, and is called again until then.
    """
    over = threading.Event()
    failures: list[BaseException] = []
    done: list[str] = []

    def run() -> None:
        try:
            while not over.is_set():
                work(over)
                done.append("")
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=run, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield done
    finally:
        over.set()
        for thread in threads:
            thread.join(PATIENCE + 5)
    if failures:
        raise failures[0]
    assert not any(thread.is_alive() for thread in threads), "a client hangs"
