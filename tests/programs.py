"""Programs shown to users, run as a user would: nothing is changed in them but the number of the port."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

__all__ = ["ROOT", "Program", "ask", "on_port_0", "running"]

ROOT = Path(__file__).parent.parent
#: Seconds after which a program hangs.
PATIENCE = 20.0

#: A program says nothing of where it listens unless it wants to; its log does, and is shown for that.
_LOGGED = """
import logging, runpy, sys
logging.basicConfig(level=logging.INFO, stream=sys.stdout)
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""


@dataclass
class Program:
    """A running program that has said where it serves."""

    process: subprocess.Popen[str]
    output: IO[str]
    #: What it has printed up to the first line with a URL.
    printed: str
    #: How SIGTERM ends it: those that have called `asyncio.run` leave signals to the system.
    code: int

    @property
    def urls(self) -> list[str]:
        """Every URL that was printed so far."""
        return re.findall(r"https?://[^\s,]+(?<!:)", self.printed)

    @property
    def url(self) -> str:
        """The first of them."""
        return self.urls[0]

    @property
    def port(self) -> int:
        """The port of :attr:`url`."""
        port = urlsplit(self.url).port
        assert port
        return port

    @property
    def address(self) -> tuple[str, int]:
        """Where :attr:`url` leads."""
        return "127.0.0.1", self.port

    def line(self) -> str:
        """The next line of the output; ``urls`` knows it from now on."""
        line = self.output.readline()
        self.printed += line
        return line

    def stop(self, number: int = signal.SIGTERM) -> str:
        """Ends it with a signal, unless it has ended; what was left of the output."""
        if self.process.returncode is not None:
            return ""
        self.process.send_signal(number)
        return self.end(self.code)

    def end(self, code: int = 0) -> str:
        """Waits until it has ended by itself; what was left of the output."""
        rest = self.output.read()
        assert self.process.wait(PATIENCE) == code
        return rest


def on_port_0(source: str) -> str:
    """The program with each port number (80xx, 84xx, 443) replaced by 0: the system chooses one that is free."""
    return re.sub(r"\b(?:80\d\d|84\d\d|443)\b", "0", source)


@contextmanager
def running(
    path: Path, *arguments: str | Path, folder: Path | None = None, logged: bool = False
) -> Iterator[Program]:
    """The program, from its first URL on; in the end it is stopped and must exit as it should.

    ``folder`` is where it runs; ``logged`` turns on its log, for programs that print nothing.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-W", "error", *(["-c", _LOGGED] if logged else []), str(path)]
    command += map(str, arguments)
    heeds = re.search(r"\b(?:serve_(?!forever)|add_signal_handler)", path.read_text())
    code = 0 if heeds else -signal.SIGTERM
    with subprocess.Popen(
        command, env=environment, cwd=folder, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            program = Program(process, process.stdout, "", code)
            while not program.urls:
                assert program.line(), f"{path.name} printed {program.printed!r} and no URL"
            yield program
            program.stop()
        finally:
            process.kill()


def ask(url: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> bytes:
    """The body of the answer, whatever its status: a GET, or a POST of ``body``."""
    method = "GET" if body is None else "POST"
    request = Request(url, data=body, headers=headers or {}, method=method)  # noqa: S310
    try:
        with urlopen(request, timeout=PATIENCE) as answer:  # noqa: S310
            return bytes(answer.read())
    except HTTPError as error:
        with error:
            return bytes(error.read())
