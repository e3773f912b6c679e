"""The victims: our server and its peers, each in a process of its own."""

from __future__ import annotations

import json
import os
import resource
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from cryptography.hazmat.primitives import serialization

from tests.faults.campaign.counts import VARIABLE, Counts
from tests.faults.campaign.model import Attack
from tests.faults.harness import NEVER, PATIENCE, ROOT, Child, eventually
from tests.integration.certificates import Authority

BENCH = ROOT / ".venv-bench" / "bin"

#: What each server speaks of what attacks ask for.
SPEAKS = {
    "ours": {
        "http/1.1",
        "http/2",
        "http/3",
        "tls",
        "tls+http/2",
        "websocket",
        "websocket over http/2",
    },
    "uvicorn": {"http/1.1", "tls", "websocket"},
    "granian": {"http/1.1", "http/2", "tls", "tls+http/2", "websocket"},
}

#: How peers are started: their default flags, but for one process, no access log and what the columns' names say.
COMMANDS = {
    "uvicorn": "{bin}/uvicorn --http httptools --ws websockets --loop uvloop --no-access-log --log-level warning"
    " --host 127.0.0.1 --port {port} {tls} tests.faults.campaign.peer_app:app",
    "granian": "{bin}/granian --interface asgi --loop uvloop --no-access-log --log-level warning"
    " --host 127.0.0.1 --port {port} {tls} tests.faults.campaign.peer_app:app",
}
TLS_FLAGS = {
    "uvicorn": "--ssl-certfile {certificate} --ssl-keyfile {key}",
    "granian": "--ssl-certificate {certificate} --ssl-keyfile {key}",
}


class Files:
    """Certificates and the counts of one run, in a folder that goes with it."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="campaign-"))
        authority = Authority(self._folder)
        self.trust = str(authority.path)
        identity = authority.issue()
        self.certificate = str(identity.certificate_path)
        # granian takes PKCS#8 alone, everybody else takes that too.
        pem = serialization.load_pem_private_key(identity.key_path.read_bytes(), None)
        key = self._folder / "pkcs8.pem"
        key.write_bytes(
            pem.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        self.key = str(key)
        self.counts = self._folder / "counts"

    def close(self) -> None:
        shutil.rmtree(self._folder)


class Victim:
    """What the campaign asks of a victim, whoever it is."""

    port: int
    #: The server's own limits or counters are there to be asked.
    has_stats = False

    def __init__(self, files: Files) -> None:
        self.counts = Counts.create(files.counts)

    @property
    def pid(self) -> int:
        """The process that serves, which need not be the one that was started."""
        return self.counts.read()[0]

    @property
    def handlers(self) -> int:
        """Handlers called, those of probes left out."""
        _, handlers, probes = self.counts.read()
        return handlers - probes

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))  # noqa: PTH208

    def _status(self, name: str) -> int:
        text = Path(f"/proc/{self.pid}/status").read_text()
        line = next(line for line in text.splitlines() if line.startswith(name + ":"))
        return int(line.split()[1]) * 1024

    def resident(self) -> int:
        return self._status("VmRSS")

    def forget_peak(self) -> None:
        """The kernel counts the peak of resident memory from here on (proc(5), clear_refs)."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def peak(self) -> int:
        return self._status("VmHWM")

    def stats(self) -> dict[str, int]:
        return {}

    def alive(self) -> bool:
        raise NotImplementedError

    def end(self) -> str | None:
        """Stops it; answers what was wrong with that."""
        raise NotImplementedError


def few(descriptors: int | None) -> Callable[[], None] | None:
    if descriptors is None:
        return None
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))


class Ours(Victim):
    has_stats = True

    def __init__(self, files: Files, attack: Attack) -> None:
        super().__init__(files)
        tls = {"certificate_path": files.certificate, "key_path": files.key}
        options = {"limits": dict(attack.limits), "tls": tls if attack.secure else None}
        self._child = Child(
            "-m",
            "tests.faults.campaign.ours",
            json.dumps(options),
            environment={VARIABLE: str(files.counts)},
            before=few(attack.descriptors),
        )
        self.port = int(self._child.expect("ready"))

    def stats(self) -> dict[str, int]:
        return self._child.stats()

    def alive(self) -> bool:
        return self._child.process.poll() is None

    def end(self) -> str | None:
        with self._child as child:
            if child.process.poll() is None:
                child.process.terminate()
            try:
                code = child.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                return "does not stop"
            errors = child.errors()
        bad = [text for text in (*NEVER, "Traceback") if text in errors]
        if bad or code:
            return f"exit code {code}, {', '.join(bad) or 'no complaint'}: {errors[-1500:]}"
        return None


class Peer(Victim):
    def __init__(self, files: Files, attack: Attack, name: str) -> None:
        super().__init__(files)
        # Neither tells the port it was given when it is asked to choose: it is chosen here, and free a moment ago.
        with socket.socket() as chooser:
            chooser.bind(("127.0.0.1", 0))
            self.port = chooser.getsockname()[1]
        tls = TLS_FLAGS[name].format(certificate=files.certificate, key=files.key)
        command = COMMANDS[name].format(bin=BENCH, port=self.port, tls=tls if attack.secure else "")
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            command.split(),
            cwd=ROOT,
            stdout=self._errors,
            stderr=self._errors,
            env={**os.environ, "PYTHONPATH": str(ROOT), VARIABLE: str(files.counts)},
            preexec_fn=few(attack.descriptors),  # noqa: PLW1509
        )
        eventually(self._accepts, bool, f"{name} accepted", self._said)

    def _accepts(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
            return self.pid != 0
        return False

    def _said(self) -> str:
        self._errors.seek(0)
        return self._errors.read().decode("utf-8", "replace")[-3000:]

    def alive(self) -> bool:
        return self._process.poll() is None and Path(f"/proc/{self.pid}").exists()

    def end(self) -> str | None:
        self._process.terminate()
        try:
            self._process.wait(5)
            stopped = None
        except subprocess.TimeoutExpired:
            stopped = "does not stop"
            with suppress(ProcessLookupError):
                os.kill(self.pid, 9)
            self._process.kill()
            self._process.wait()
        self._errors.close()
        return stopped


def start(name: str, files: Files, attack: Attack) -> Victim:
    """A victim for this attack, which accepts connections."""
    return Ours(files, attack) if name == "ours" else Peer(files, attack, name)


def version(name: str) -> str:
    """What is measured, for the table's head."""
    if name == "ours":
        done = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        return f"ours {done.stdout.strip()}"
    done = subprocess.run(
        [BENCH / "python", "-c", f"import importlib.metadata as m; print(m.version({name!r}))"],
        capture_output=True,
        text=True,
        check=True,
    )
    return f"{name} {done.stdout.strip()}"


__all__ = ["SPEAKS", "Files", "Victim", "start", "version"]
