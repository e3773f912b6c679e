"""One attack on one server: victim, probe and attacker, and what is measured of them."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.campaign import servers
from tests.faults.campaign.model import MIB, Attack, Outcome
from tests.faults.campaign.probe import TIMEOUT
from tests.faults.harness import PATIENCE, ROOT

#: Bars of all attacks.
SUCCESS = 99.0
SLOWER = 10.0
#: A baseline below this counts as this: on a shared machine the rest is the scheduler.
FLOOR = 0.005
#: Descriptors that may be more: the probe's.
SLACK = 2
#: Seconds for everything to come back.
SETTLED = 10.0


@dataclass(frozen=True)
class Scale:
    """How big, how long."""

    name: str
    #: Seconds of probes before the attack.
    baseline: float
    #: An attack lasts at least this long and at most that long.
    seconds: float
    cap: float

    def size(self, attack: Attack) -> int:
        return attack.small if self.name == "small" else attack.full


SCALES = {
    "small": Scale("small", baseline=2.0, seconds=3.0, cap=8.0),
    "full": Scale("full", baseline=5.0, seconds=8.0, cap=40.0),
}


@dataclass
class Row:
    """One attack on one server."""

    attack: str
    server: str
    spoken: bool = True
    size: int = 0
    probes: int = 0
    #: Percent of the probes during the attack that were answered, and why the others were not.
    success: float = 0.0
    failures: list[str] = field(default_factory=list)
    #: Seconds.
    baseline_p99: float = 0.0
    attack_p99: float = 0.0
    #: MiB above the resident memory of before, at the peak and after everything was settled.
    grown: float = 0.0
    kept: float = 0.0
    #: Seconds of processor time the victim used, and how long the attack took.
    processor: float = 0.0
    lasted: float = 0.0
    #: Descriptors above those of before, :data:`SETTLED` seconds after the attack or when they were back.
    descriptors: int = 0
    #: Seconds until descriptors (and, for ours, connections and streams) were back; ``None``: never.
    settled: float | None = None
    handlers: int = 0
    outcome: dict[str, Any] = field(default_factory=dict)
    #: Of the victim's own figures, those that an attack changed.
    stats: dict[str, int] = field(default_factory=dict)
    #: What a bar says against it; empty for a good row.
    complaints: list[str] = field(default_factory=list)

    @property
    def slower(self) -> float:
        """How many times longer than before the 99th percentile took."""
        return max(self.attack_p99, FLOOR) / max(self.baseline_p99, FLOOR)


class Probe:
    """The well-behaved client, seen from outside."""

    def __init__(self, port: int, kind: str, trust: str | None) -> None:
        told = json.dumps({"port": port, "kind": kind, "trust": trust})
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.campaign.probe", told],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._changed = threading.Condition()
        #: By number, which is the order they were due in, not the one they were over in.
        self._samples: dict[int, tuple[float, float | None, str]] = {}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            number, due, took, why = json.loads(line)
            with self._changed:
                self._samples[number] = (due, took, why)
                self._changed.notify_all()

    def until(self, count: int, *, since: float) -> None:
        """Waits for this many probes that were due after ``since``, and for all that were due before them."""
        deadline = time.monotonic() + PATIENCE + count
        with self._changed:
            while True:
                after = sorted(n for n, sample in self._samples.items() if sample[0] >= since)
                if len(after) >= count and len(self._samples) > after[count - 1]:
                    wanted = range(after[count - 1] + 1)
                    if all(number in self._samples for number in wanted):
                        return
                if not self._changed.wait(deadline - time.monotonic()):
                    raise AssertionError(f"no {count} probes: {list(self._samples.items())[-3:]}")

    def between(self, begin: float, end: float) -> list[tuple[float, float | None, str]]:
        """The probes that were due in this time."""
        with self._changed:
            return [sample for sample in self._samples.values() if begin <= sample[0] < end]

    def close(self) -> None:
        """Ends it, and its connections; what is under way is let go."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()


def p99(samples: list[tuple[float, float | None, str]], failed: float) -> float:
    """The 99th percentile; a probe that failed took as long as one waits."""
    times = sorted(failed if took is None else took for _, took, _ in samples)
    return times[math.ceil(0.99 * len(times)) - 1]


def run(attack: Attack, server: str, scale: Scale) -> Row:
    """Attacks one server in one way."""
    row = Row(attack.name, server, size=scale.size(attack))
    if attack.speaks not in servers.SPEAKS[server]:
        row.spoken = False
        return row
    files = servers.Files()
    try:
        victim = servers.start(server, files, attack)
        try:
            _measure(row, attack, victim, files, scale)
        except (AssertionError, OSError) as error:
            # A victim that is past answering: the next row is another one's.
            row.complaints.append(f"could not be measured: {error}")
        finally:
            trouble = victim.end()
    finally:
        files.close()
    if trouble is not None:
        row.complaints.append(f"its end: {trouble}")
    return row


def _measure(
    row: Row, attack: Attack, victim: servers.Victim, files: servers.Files, scale: Scale
) -> None:
    trust = files.trust if attack.secure else None
    probe = Probe(victim.port, attack.probe, trust)
    try:
        # The first requests pay for what is made once.
        probe.until(10, since=0.0)
        begun = time.monotonic()
        probe.until(int(scale.baseline * 20), since=begun)
        victim.forget_peak()
        resident, descriptors = victim.resident(), victim.descriptors()
        before, handlers, worked = victim.stats(), victim.handlers, _processor(victim.pid)
        attacked = time.monotonic()
        outcome = _attack(row, files, victim.port, scale)
        over = time.monotonic()
        if not victim.alive():
            row.complaints.append("the server died")
            return
        # The last probes of the attack are answered, or not, after it: those that hang must not be left out.
        probe.until(1, since=over)
        _hear(row, probe.between(begun, attacked), probe.between(attacked, over))
        row.lasted = over - attacked
        row.outcome = asdict(outcome)
        row.settled, row.descriptors = _settle(victim, descriptors)
        row.processor = _processor(victim.pid) - worked
        row.grown = (victim.peak() - resident) / MIB
        row.handlers = victim.handlers - handlers
        if attack.probe == "kept":
            # Who was inside has been served; now somebody new is.
            probe.close()
            probe = Probe(victim.port, "mixed", trust)
            since = time.monotonic()
            probe.until(20, since=since)
            if any(took is None for _, took, _ in probe.between(since, time.monotonic())):
                row.complaints.append("new connections are not served after the attack")
    finally:
        probe.close()
    if victim.has_stats:
        _empty(row, victim)
        after = victim.stats()
        row.stats = {
            name: after[name] - value for name, value in before.items() if after[name] != value
        }
        complaint = attack.bars.check(outcome, before, after)
        if complaint is not None:
            row.complaints.append(complaint)
        _judge_ours(row, attack, outcome)
    row.kept = (victim.resident() - resident) / MIB
    judge(row)


def _attack(row: Row, files: servers.Files, port: int, scale: Scale) -> Outcome:
    told = {
        "port": port,
        "size": row.size,
        "seconds": scale.seconds,
        "cap": scale.cap,
        "server": row.server,
        "trust": files.trust,
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.campaign.attacker", row.attack, json.dumps(told)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=2 * scale.cap + 60,
        check=False,
    )
    if done.returncode:
        raise AssertionError(f"the attacker {row.attack} failed: {done.stderr[-3000:]}")
    return Outcome(**json.loads(done.stdout))


def _hear(
    row: Row,
    baseline: list[tuple[float, float | None, str]],
    attacked: list[tuple[float, float | None, str]],
) -> None:
    answered = [took for _, took, _ in attacked if took is not None]
    row.probes = len(attacked)
    row.success = 100 * len(answered) / len(attacked)
    row.failures = sorted({why for _, took, why in attacked if took is None})[:5]
    row.baseline_p99, row.attack_p99 = p99(baseline, TIMEOUT), p99(attacked, TIMEOUT)
    if any(took is None for _, took, _ in baseline):
        row.complaints.append("probes failed before the attack")


def _settle(victim: servers.Victim, descriptors: int) -> tuple[float | None, int]:
    """Seconds until the descriptors are back, and how many are not."""
    begun = time.monotonic()
    while True:
        more = victim.descriptors() - descriptors
        now = time.monotonic() - begun
        if more <= SLACK or now > SETTLED:
            return (now if more <= SLACK else None), max(0, more)
        time.sleep(0.02)  # how often we look, not how long we wait


def _empty(row: Row, victim: servers.Victim) -> None:
    """With the probe gone nothing may be left open."""
    begun = time.monotonic()
    while True:
        stats = victim.stats()
        left = {name: stats[name] for name in ("connections", "streams") if stats[name]}
        if not left:
            return
        if time.monotonic() - begun > SETTLED:
            row.complaints.append(f"{SETTLED:.0f} s later there are still {left}")
            row.settled = None
            return
        time.sleep(0.02)  # how often we look, not how long we wait


def _processor(pid: int) -> float:
    """Seconds of processor time so far, all threads."""
    text = Path(f"/proc/{pid}/stat").read_text()
    user, system = text.rsplit(")", 1)[1].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def judge(row: Row) -> None:
    """The bars of every server."""
    if row.success < SUCCESS:
        row.complaints.append(
            f"{row.success:.1f} % of {row.probes} probes were answered: {row.failures}"
        )
    if row.slower > SLOWER:
        row.complaints.append(
            f"p99 {row.attack_p99 * 1000:.1f} ms is {row.slower:.1f} times that of before"
        )
    if row.descriptors > SLACK:
        row.complaints.append(f"{row.descriptors} descriptors were not given back")


def _judge_ours(row: Row, attack: Attack, outcome: Outcome) -> None:
    """What we claim, besides."""
    bars = attack.bars
    if not outcome.sent:
        row.complaints.append(f"there was no attack: {outcome}")
    if row.grown > bars.memory:
        row.complaints.append(f"grew by {row.grown:.0f} MiB, {bars.memory} are allowed")
    allowed = bars.allowed(outcome.sent, outcome.connections)
    if row.handlers > allowed:
        row.complaints.append(f"{row.handlers} handlers were called, {allowed:.0f} are allowed")
    if bars.reaped is not None and (outcome.reaped is None or outcome.reaped > bars.reaped):
        row.complaints.append(f"not ended within {bars.reaped} s: {outcome.reaped}")
