"""Every program in examples/ and in the README runs as it stands, answers, and stops on SIGTERM with exit code 0."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
README = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)

# What each program is asked, and what its answer must hold.
QUESTIONS: dict[str, list[tuple[str, bytes | None, bytes]]] = {
    "hello.py": [("/world", None, b"hello /world\n")],
    "streaming.py": [
        ("/", None, b"99999\n"),
        (
            "/",
            b"abc",
            b"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        ),
    ],
    "embedded.py": [("/a/path", None, b'{"path":"/a/path"}')],
    "http_server.py": [
        ("/", b"a <b>", b"<li>a &lt;b&gt;</li>"),
        ("/", None, b"visit 1"),
        ("/count", None, b"3\n2\n1\n"),
        ("/nothing", None, b"nothing is here"),
    ],
    "profile_server.py": [
        ("/health", None, b'{"ok":true}'),
        ("/cpu?iterations=3&seed=7", None, b'"iterations":3'),
        ("/upload", b"x" * 100_000, b'{"bytes":100000}'),
        ("/echo", b"hey", b'"preview":"hey"'),
        ("/nothing", None, b"not found"),
    ],
}


@contextmanager
def running(program: Path, *arguments: str) -> Iterator[str]:
    """The program with its port changed to one that is free, and the URL it prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-W", "error", str(program), *arguments]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            match = re.search(r"http://\S+", line)
            assert match, f"{program.name} printed {line!r}"
            yield match[0]
            process.send_signal(signal.SIGTERM)
            expected = -signal.SIGTERM if program.name == "embedded.py" else 0
            assert process.wait(15) == expected, "asyncio programs leave signals to the system"
        finally:
            process.kill()


def on_port_0(source: str, folder: Path, name: str) -> Path:
    """The same program on a port the system chooses."""
    changed = re.sub(r"port=8080|default=8080", lambda found: found[0].replace("8080", "0"), source)
    path = folder / name
    path.write_text(changed)
    return path


def ask(url: str, path: str, body: bytes | None) -> bytes:
    method = "GET" if body is None else "POST"
    try:
        with urlopen(Request(url + path, data=body, method=method), timeout=20) as answer:  # noqa: S310
            return bytes(answer.read())
    except OSError as error:
        read = getattr(error, "read", None)
        if read is None:
            raise
        return bytes(read())


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: str(path.name))
def test_an_example_answers_and_stops(example: Path, tmp_path: Path) -> None:
    program = on_port_0(example.read_text(), tmp_path, example.name)
    with running(program) as url:
        for path, body, expected in QUESTIONS[example.name]:
            assert expected in ask(url, path, body)


def test_the_profiling_server_has_a_second_mode(tmp_path: Path) -> None:
    example = ROOT / "examples" / "profile_server.py"
    program = on_port_0(example.read_text(), tmp_path, example.name)
    with running(program, "--mode", "http", "--port", "0") as url:
        for path, body, expected in QUESTIONS[example.name]:
            assert expected in ask(url, path, body)


def test_the_readme_programs_run_as_pasted(tmp_path: Path) -> None:
    first, second = README
    assert 'host="127.0.0.1", port=8080)' in first
    # The first prints nothing, so it is told to say where it listens; nothing else is changed.
    told = first.replace("port=8080)", "port=0, on_ready=lambda s: print(s.url, flush=True))")
    program = tmp_path / "first.py"
    program.write_text(told)
    with running(program) as url:
        assert ask(url, "/world", None) == b"hello /world"
    program = tmp_path / "embedded.py"
    program.write_text(second)
    with running(program) as url:
        assert ask(url, "/", b"12345") == b'{"bytes":5}'
