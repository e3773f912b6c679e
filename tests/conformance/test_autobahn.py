"""The Autobahn test suite as a client that fuzzes: every case of WebSocket's framing, UTF-8, close and limits.

301 cases of the groups 1-7, 9 and 10 have to come out well; the 216 of 12 and 13, which are about compression, have to
find that it is not offered. What is not ``OK`` stands in a table: a case that changes either way fails the test.

The runner itself is proven first, on the echo server of another library.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as serve_reference

from server_native import NativeDirectRequest
from tests.conformance.tools import tool
from tests.integration.certificates import Identity
from tests.integration.servers import PATIENCE, Mode, Serve

#: Cases of the pinned release by what they are about.
CASES = {"frames": 301, "compression": 216}
COMPRESSION = ("12.", "13.")

#: Outcome of a case: what it was about, then the close handshake after it.
Outcome = tuple[str, str]
FINE: Outcome = ("OK", "OK")

LAX: Outcome = ("NON-STRICT", "OK")

#: The outcomes that a case may have; more than one needs a reason that lies outside of the server.
Table = dict[str, tuple[Outcome, ...]]

#: These tell what happens and judge nothing: who closes TCP first, what follows a close that came as an error.
INFORMATIONAL: Table = dict.fromkeys(
    ("7.1.6", "7.13.1", "7.13.2"), (("INFORMATIONAL", "INFORMATIONAL"),)
)

#: What the reference does not do as strictly as could be, or in its own way.
REFERENCE: Table = {
    **INFORMATIONAL,
    # A whole message, then an error: it echoes the message only when that came in an earlier read.
    **dict.fromkeys(
        ("3.2", "3.3", "3.4", "4.1.3", "4.1.4", "4.1.5", "4.2.3", "4.2.4", "4.2.5", "5.15"),
        (LAX, FINE),
    ),
    # Bad UTF-8 is found at the end of the message, not at the bad byte.
    **dict.fromkeys(("6.4.1", "6.4.2", "6.4.3", "6.4.4"), (LAX,)),
    # A close in the middle of a fragmented message is answered with 1002 instead of its own code.
    "7.1.5": (("FAILED", "WRONG CODE"),),
    # More fragments than it takes for one message: 4 MiB in pieces of 64 B (65,536) to 1 KiB (4,096), text and binary.
    **dict.fromkeys(
        ("9.3.1", "9.3.2", "9.3.3", "9.4.1", "9.4.2", "9.4.3"), (("FAILED", "FAILED"),)
    ),
}

#: The same of ours. No FAILED may ever stand here.
OURS: Table = {
    **INFORMATIONAL,
    # A whole message, then an error: the error is answered at once, natively, before the handler has echoed the
    # message, unless that came in an earlier read.
    **dict.fromkeys(
        ("3.2", "3.3", "3.4", "4.1.3", "4.1.4", "4.1.5", "4.2.3", "4.2.4", "4.2.5", "5.15"),
        (LAX, FINE),
    ),
    # Bad UTF-8 in a small frame that arrives in pieces is found when the frame is whole.
    **dict.fromkeys(("6.4.3", "6.4.4"), (LAX, FINE)),
}

MODES = (
    Mode("task-in-our-loop", asynchronous=True, host="native"),
    Mode("task-in-asyncio", asynchronous=True, host="asyncio"),
)


def fuzz(url: str, folder: Path) -> dict[str, Outcome]:
    """Runs every case against a server; their outcomes."""
    plan = {
        "outdir": str(folder / "reports"),
        "servers": [{"agent": "server", "url": url}],
        "cases": ["*"],
        "exclude-cases": [],
        "exclude-agent-cases": {},
    }
    (folder / "plan.json").write_text(json.dumps(plan))
    command = [str(tool("wstest")), "-m", "fuzzingclient", "-s", str(folder / "plan.json")]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=500, check=False
    )
    index = folder / "reports" / "index.json"
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    assert index.exists(), done.stdout[-5000:] + done.stderr[-5000:]
    found = json.loads(index.read_text())["server"]
    return {case: (entry["behavior"], entry["behaviorClose"]) for case, entry in found.items()}


def judge(outcomes: dict[str, Outcome], expected: Table) -> None:
    """Prints what is not ``OK``, and holds it against the table."""
    compression = {case: outcomes[case] for case in outcomes if case.startswith(COMPRESSION)}
    frames = {case: outcome for case, outcome in outcomes.items() if case not in compression}
    assert {"frames": len(frames), "compression": len(compression)} == CASES
    notable = {case: outcome for case, outcome in frames.items() if outcome != FINE}
    print(dict(Counter(behaviour for behaviour, _ in frames.values())))
    for case, (behaviour, close) in sorted(notable.items(), key=lambda item: _order(item[0])):
        print(f"{case:8} {behaviour:14} close {close}")
    assert set(compression.values()) == {("UNIMPLEMENTED", "OK")}
    differing = {
        case: (outcome, expected.get(case, (FINE,)))
        for case, outcome in frames.items()
        if outcome not in expected.get(case, (FINE,))
    }
    assert differing == {}, "found, expected"


def _order(case: str) -> list[int]:
    return [int(part) for part in case.split(".")]


@contextmanager
def reference(tls: ssl.SSLContext | None) -> Iterator[int]:
    """The port of an echo server that is not ours, in a thread."""
    ready = threading.Event()
    ports: list[int] = []
    ends: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async def main() -> None:
        end = asyncio.Event()
        ends.append((asyncio.get_running_loop(), end))
        options: dict[str, Any] = {"compression": None, "ping_interval": None, "max_size": 2**25}
        async with serve_reference(echo, "127.0.0.1", 0, ssl=tls, **options) as server:
            ports.append(next(iter(server.sockets)).getsockname()[1])
            ready.set()
            await end.wait()

    thread = threading.Thread(target=asyncio.run, args=(main(),), name="reference")
    thread.start()
    try:
        assert ready.wait(PATIENCE)
        yield ports[0]
    finally:
        for loop, end in ends:
            loop.call_soon_threadsafe(end.set)
        thread.join(PATIENCE)
    assert not thread.is_alive()


@pytest.mark.conformance
@pytest.mark.timeout(600)
@pytest.mark.skipif(
    sys.version_info < (3, 11), reason="the table is that of websockets 17, which needs Python 3.11"
)
@pytest.mark.parametrize("transport", ["cleartext", "tls"])
def test_the_runner_on_a_server_that_is_not_ours(
    transport: str, identity: Identity, tmp_path: Path
) -> None:
    tls: ssl.SSLContext | None = None
    if transport == "tls":
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(identity.certificate_path, identity.key_path)
    with reference(tls) as port:
        outcomes = fuzz(f"{'wss' if tls else 'ws'}://127.0.0.1:{port}", tmp_path)
    judge(outcomes, REFERENCE)


async def echo(request: NativeDirectRequest) -> None:
    accept: Any = request
    connection = accept.accept_websocket()
    async for message in connection:
        await connection.send(message)


@pytest.mark.conformance
@pytest.mark.timeout(600)
@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize(
    "transport",
    ["cleartext", "tls"],
)
def test_no_case_fails(
    serve: Serve, mode: Mode, transport: str, identity: Identity, tmp_path: Path
) -> None:
    secure: dict[str, Any] = dict(identity.options) if transport == "tls" else {}
    running = serve.embedded(echo, mode.host, **mode.options, **secure)
    scheme = "wss" if secure else "ws"
    outcomes = fuzz(f"{scheme}://127.0.0.1:{running.server.port}", tmp_path)
    assert not [case for case, allowed in OURS.items() if "FAILED" in str(allowed)]
    judge(outcomes, OURS)
