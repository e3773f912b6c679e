"""What an attack is, what it is told and what it tells: the vocabulary of the campaign."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

MIB = 1024 * 1024


@dataclass
class Target:
    """Who is attacked, and how much."""

    port: int
    #: Of what the attack counts: connections, frames, datagrams.
    size: int
    #: An attack goes on for at least this long, so that there are probes to judge by.
    seconds: float
    #: And ends after this long, whatever happened.
    cap: float
    server: str
    #: PEM file of who signed the victim's certificate.
    trust: str = ""
    begun: float = field(default_factory=time.monotonic)

    @property
    def deadline(self) -> float:
        return self.begun + self.cap

    def goes_on(self, outcome: Outcome) -> bool:
        """Whether another round is due."""
        now = time.monotonic()
        wanted = outcome.sent < self.size or now < self.begun + self.seconds
        return wanted and now < self.deadline


@dataclass
class Outcome:
    """What the attacker saw."""

    #: Of what the attack counts.
    sent: int = 0
    #: Connections made, and those of them that the server ended (or stopped reading from, for good).
    connections: int = 0
    ended: int = 0
    #: Connections the server would not take.
    refused: int = 0
    #: Longest time from the attack on a connection to its end by the server; ``None``: not within the cap.
    reaped: float | None = None
    #: What else is worth telling, by name.
    figures: dict[str, float] = field(default_factory=dict)

    def count(self, name: str, number: float = 1) -> None:
        self.figures[name] = self.figures.get(name, 0) + number

    def highest(self, name: str, number: float) -> None:
        self.figures[name] = max(self.figures.get(name, 0), number)


@dataclass(frozen=True)
class Bars:
    """What our own server must keep to, besides the bars that all attacks share."""

    #: MiB by which it may grow, whatever the size.
    memory: int = 64
    #: Handlers that may be called: a number, and a part of what was sent.
    handlers: int = 1_000
    handlers_per_unit: float = 0.0
    #: And for each connection: where what is bounded is what one of them may have begun.
    handlers_per_connection: int = 0
    #: Seconds after which a connection must have been ended; ``None`` when none has to be.
    reaped: float | None = None
    #: Further conditions: what the attacker saw and the server's figures (before, after) to a complaint, or ``None``.
    check: Callable[[Outcome, Mapping[str, int], Mapping[str, int]], str | None] = (
        lambda outcome, before, after: None
    )

    @property
    def about_handlers(self) -> bool:
        """Whether handlers are what the attack is after."""
        return self.handlers_per_unit > 0 or self.handlers_per_connection > 0

    def allowed(self, sent: int, connections: int) -> float:
        """Handlers that may be called for so much."""
        return max(
            self.handlers,
            self.handlers_per_unit * sent,
            self.handlers_per_connection * connections,
        )


@dataclass(frozen=True)
class Attack:
    """One row of the campaign."""

    name: str
    #: What is done, for the table.
    title: str
    run: Callable[[Target], Outcome]
    #: What ``size`` counts.
    unit: str
    small: int
    full: int
    #: What a server has to speak to be attacked like this.
    speaks: str = "http/1.1"
    #: TLS on the victim; HTTP/3 needs it.
    secure: bool = False
    #: Limits of our server where the attack is about a timeout or a bound: the default would only take longer.
    limits: Mapping[str, int] = field(default_factory=dict)
    #: The victim's RLIMIT_NOFILE.
    descriptors: int | None = None
    #: ``mixed``: probes alternate between one connection that is kept and new ones; ``kept``: only the former.
    probe: str = "mixed"
    #: What good means, for people.
    expected: str = ""
    bars: Bars = field(default_factory=Bars)
