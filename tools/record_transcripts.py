#!/usr/bin/env python3
"""Does what a new user does, three ways, and writes what was seen into docs/deployment.md.

    python tools/record_transcripts.py [NAME ...]     wheel, latest, bundle; all by default
    python tools/record_transcripts.py --print        to standard output

Needs `make dist`. Each way begins in an empty folder with an empty home and a PATH of one folder with the tools a shell
needs, python3 and no compiler. `latest` asks a release server on this machine, which is this project's own server;
`bundle` has no network (a namespace without routes, which takes root). What names this machine is shortened.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from server_native._manifest import package_manifest  # noqa: E402

PAGE = ROOT / "docs" / "deployment.md"
PREBUILT = ROOT / "dist" / "prebuilt"
#: All that is on PATH.
TOOLS = ("cat", "cp", "env", "ls", "mkdir", "sh", "sleep", "kill")
SECONDS = 300
SERVER = """\
from server_native import serve_native_direct
serve_native_direct(lambda request: f"hello {request.path}\\n", port=8080)
"""
ASK = """\
from urllib.request import urlopen
print(urlopen("http://127.0.0.1:8080/world").read().decode(), end="")
"""
#: Starts it, asks it, and ends it.
HELLO = "python hello.py & sleep 2; python ask.py; kill $!; wait $!"


class RecordError(Exception):
    """A way does not work; the text is what was seen."""


@dataclass
class Way:
    """One user: a folder, and what has been typed and seen."""

    folder: Path
    prefix: tuple[str, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """Of a login that has nothing."""
        path = f"{self.folder}/venv/bin:{self.folder}/.tools"
        return {"PATH": path, "HOME": f"{self.folder}/.home", "LANG": "C.UTF-8", **self.variables}

    def prepare(self) -> None:
        """Lays out the tools, python3 and the program to be served."""
        tools = self.folder / ".tools"
        tools.mkdir()
        (self.folder / ".home").mkdir()
        for name in TOOLS:
            found = shutil.which(name)
            if found:
                (tools / name).symlink_to(found)
        base = Path(sys.base_prefix) / "bin" / "python3"
        (tools / "python3").symlink_to(base)
        (self.folder / "hello.py").write_text(SERVER)
        (self.folder / "ask.py").write_text(ASK)

    def type(self, line: str) -> None:
        """Runs a line and keeps what it says. Raises :class:`RecordError` when it fails."""
        result = subprocess.run(
            [*self.prefix, shutil.which("sh") or "sh", "-c", line],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=SECONDS,
        )
        text = self.shorten(result.stdout)
        if result.returncode != 0:
            raise RecordError(f"$ {line}\n{text}exit status {result.returncode}")
        self.seen += [f"$ {line}", *text.rstrip().splitlines()]

    def shorten(self, text: str) -> str:
        """Without this machine's folders and ports."""
        text = text.replace(str(self.folder), "~").replace(str(ROOT), "...")
        return re.sub(r"127\.0\.0\.1:(?!8080)\d+", "127.0.0.1:PORT", text)


def installed(way: Way) -> None:
    """An environment with the package but, for the other two ways, without its library."""
    (wheel,) = (ROOT / "dist").glob("*.whl")
    way.type(
        f"python3 -m venv venv && python -m pip install -q --disable-pip-version-check {wheel}"
    )
    library = next(way.folder.glob("venv/lib/*/site-packages/server_native/lib"))
    shutil.rmtree(library)
    way.seen.clear()


def wheel(way: Way) -> None:
    """The wheel."""
    (made,) = (ROOT / "dist").glob("*.whl")
    shutil.copy(made, way.folder)
    way.type("ls *.whl")
    way.type("cc --version || echo there is no compiler")
    way.type("python3 -m venv venv && . venv/bin/activate")
    way.type("pip install -q --disable-pip-version-check *.whl")
    way.type("cat hello.py ask.py")
    way.type(HELLO)


def latest(way: Way) -> None:
    """The setup tool, in an empty project."""
    installed(way)
    project = way.folder / "pyproject.toml"
    project.touch()
    with release_server() as url:
        way.variables["SERVER_NATIVE_BASE_URL"] = url
        way.type("ls -a --ignore=.tools --ignore=.home --ignore=venv")
        way.type("python -m server_native.setup --tag latest")
        way.type("python -m server_native.setup explain")
        way.type(HELLO)


def bundle(way: Way) -> None:
    """A bundle, where there is no network."""
    installed(way)
    (way.folder / "stick").mkdir()
    with release_server() as url:
        way.variables["SERVER_NATIVE_BASE_URL"] = url
        way.type("python -m server_native.setup --download-only stick/bundle")
    way.variables.clear()
    way.prefix = (
        *(shutil.which("unshare") or "unshare", "--net", shutil.which("sh") or "sh", "-c"),
        f'{shutil.which("ip")} link set lo up && exec "$@"',
        "alone",
    )
    way.seen.append("# the network is gone")
    way.type("ls stick/bundle")
    way.type("python -m server_native.setup --from stick/bundle")
    way.type(HELLO)


WAYS: dict[str, Callable[[Way], None]] = {"wheel": wheel, "latest": latest, "bundle": bundle}


@contextlib.contextmanager
def release_server() -> Iterator[str]:
    """The release of dist/prebuilt, served in a process of its own: addresses as on GitHub, by tag and file."""
    library = _library()
    command = [sys.executable, str(Path(__file__).resolve()), "--serve"]
    environment = os.environ | {"SERVER_NATIVE_PREBUILT": str(library), "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            url = process.stdout.readline().strip() if process.stdout else ""
            if not url:
                raise RecordError("the release server did not start")
            yield f"{url}/{{tag}}/{{archive}}"
        finally:
            process.terminate()
            process.wait()
            shutil.rmtree(library.parent)


def _library() -> Path:
    import tarfile

    folder = Path(tempfile.mkdtemp())
    (archive,) = PREBUILT.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    return next(folder.iterdir())


def serve() -> None:
    """What :func:`release_server` runs."""
    from server_native import NativeDirectResponse, NativeServer, serve_native_direct

    tag = package_manifest().tag
    routes = {f"/{tag}/{path.name}": path.read_bytes() for path in PREBUILT.iterdir()}
    # This machine's archive alone is a whole release here; `make dist` says of it that the others are missing.
    listed = json.loads((PREBUILT / "index.json").read_bytes())
    for release in listed["releases"]:
        release["complete"] = True
    routes |= {"/index.json": json.dumps(listed).encode()}
    answers = {path: NativeDirectResponse.bytes(body) for path, body in routes.items()}

    def ready(server: NativeServer) -> None:
        print(server.url, flush=True)

    serve_native_direct(
        lambda _: NativeDirectResponse.text("there is no such file\n", status=404),
        host="127.0.0.1",
        port=0,
        routes=answers,
        on_ready=ready,
    )


def record(name: str) -> str:
    """The transcript of a way."""
    with tempfile.TemporaryDirectory() as folder:
        way = Way(Path(folder))
        way.prepare()
        WAYS[name](way)
    return "\n".join(way.seen)


def replaced(page: str, name: str, transcript: str) -> str:
    r"""The page with a transcript in its place.

    >>> page = "<!-- transcript: a -->\n<!-- end of transcript -->\n"
    >>> print(replaced(page, "a", "$ true"), end="")
    <!-- transcript: a -->
    <BLANKLINE>
    ```console
    $ true
    ```
    <BLANKLINE>
    <!-- end of transcript -->
    """
    start, end = f"<!-- transcript: {name} -->\n", "<!-- end of transcript -->"
    before, found, rest = page.partition(start)
    if not found:
        raise RecordError(f"the page has no `{start.strip()}`")
    _, _, after = rest.partition(end)
    return f"{before}{start}\n```console\n{transcript}\n```\n\n{end}{after}"


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(WAYS))
    parser.add_argument("--print", action="store_true", help="do not touch the page")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve()
        return 0
    try:
        for name in arguments.names or WAYS:
            if name not in WAYS:
                raise RecordError(f"there is no way {name!r}: expected one of {', '.join(WAYS)}")
            transcript = record(name)
            if arguments.print:
                print(f"--- {name}\n{transcript}")
            else:
                PAGE.write_text(replaced(PAGE.read_text(), name, transcript))
    except RecordError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
