"""Sessions: what a server remembers of a client between requests, found by a cookie. In memory, of one process.

Sessions are kept in the order they were used, so the first is the next to expire: one timer serves all of them, and
the limit drops the one idle the longest.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from .cookies import Cookie, ResponseCookies
from .errors import ConfigurationError, ResponseSentError

__all__ = ["Session", "SessionSlot", "SessionStore"]

log = logging.getLogger("server_native")

#: 128 bits, which nobody guesses.
_ID_BYTES = 16


class Session(dict[str, Any]):
    """A dictionary that lasts as long as its client comes back within the server's ``session_timeout``.

    It is ``True`` also while it is empty. Its cookie is sent with the head of the response of the request that made
    it.
    """

    def __init__(self, store: SessionStore) -> None:
        super().__init__()
        #: What the cookie holds; unguessable, and never taken from a client.
        self.id = secrets.token_hex(_ID_BYTES)
        #: Whether this request made it: no client has shown its cookie yet.
        self.is_new = True
        #: Called with the session when it has expired, or had to make room for another one.
        self.on_timeout: Callable[[Session], object] | None = None
        self._store = store
        self._seen = 0.0

    @property
    def alive(self) -> bool:
        """Whether a request with its cookie still finds it."""
        return self._store.holds(self)

    def destroy(self) -> None:
        """Forgets the session, as at a logout; a client that shows its cookie again gets a new one.

        The response of the request that does it has the client forget the cookie. ``on_timeout`` is not called.
        """
        self._store.drop(self)

    def renew(self) -> None:
        """Gives the session a new id and keeps what is in it; the old id is nobody's at once.

        To be called where rights change, as at a login, so that an id planted in somebody's browser before is of no
        use (session fixation). A destroyed session stays destroyed.
        """
        self._store.rename(self, secrets.token_hex(_ID_BYTES))

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        # The id is a secret of its client: it stays out of logs.
        return f"<Session {dict(self)!r}>"


class SessionStore:
    """The sessions of one server. Belongs to the thread of its loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout: float, limit: int) -> None:
        _check_timeout(timeout)
        if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
            raise ConfigurationError(f"max_sessions must be an integer from 1, found {limit!r}")
        self._loop = loop
        self._timeout = timeout
        self._limit = limit
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def timeout(self) -> float:
        """Seconds a session lives after it was used last; a change holds for those there are, too."""
        return self._timeout

    @timeout.setter
    def timeout(self, seconds: float) -> None:
        _check_timeout(seconds)
        self._timeout = seconds
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._expire()

    def find(self, name: str) -> Session | None:
        """The session with this id, used as of now; ``None`` when there is none or its time is over."""
        session = self._sessions.get(name)
        if session is None:
            return None
        if session._seen + self._timeout <= self._loop.time():
            # The timer is due and has not been called yet.
            self._expire()
            return None
        self._touch(session)
        session.is_new = False
        return session

    def create(self) -> Session:
        """A new session; the one idle the longest makes room when there are too many."""
        while len(self._sessions) >= self._limit:
            self._end(next(iter(self._sessions.values())))
        session = Session(self)
        self._sessions[session.id] = session
        self._touch(session)
        self._set_timer()
        return session

    def holds(self, session: Session) -> bool:
        """Whether this session is one of them."""
        return self._sessions.get(session.id) is session

    def drop(self, session: Session) -> None:
        """Forgets a session."""
        if self.holds(session):
            del self._sessions[session.id]

    def rename(self, session: Session, name: str) -> None:
        """Gives a session this id."""
        if self.holds(session):
            del self._sessions[session.id]
            session.id = name
            self._sessions[name] = session
            self._touch(session)

    def close(self) -> None:
        """Sets no timer any more; what is left goes with the server."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def __len__(self) -> int:
        return len(self._sessions)

    def _touch(self, session: Session) -> None:
        session._seen = self._loop.time()
        self._sessions.move_to_end(session.id)

    def _set_timer(self) -> None:
        if self._timer is None and self._sessions and not self._closed:
            oldest = next(iter(self._sessions.values()))
            self._timer = self._loop.call_at(oldest._seen + self._timeout, self._ring)

    def _ring(self) -> None:
        self._timer = None
        self._expire()

    def _expire(self) -> None:
        now = self._loop.time()
        while self._sessions:
            oldest = next(iter(self._sessions.values()))
            if oldest._seen + self._timeout > now:
                break
            self._end(oldest)
        self._set_timer()

    def _end(self, session: Session) -> None:
        self.drop(session)
        if session.on_timeout is not None:
            try:
                session.on_timeout(session)
            except Exception:
                # The user's; whoever made the store run is not to blame.
                log.exception("on_timeout of a session failed")


class SessionSlot:
    """The session of one request: looked up or made when it is asked for, and what its response tells the client."""

    __slots__ = ("_name", "_offered", "_sealed", "_session", "_store")

    def __init__(self, store: SessionStore, name: str, offered: list[str]) -> None:
        self._store = store
        self._name = name
        self._session: Session | None = None
        self._sealed = False
        #: The id the client has shown.
        self._offered = offered[0] if offered else None
        # Of several cookies of the name (other paths, other domains) the first that means something counts.
        for value in offered:
            session = store.find(value)
            if session is not None:
                self._session, self._offered = session, value
                break

    @property
    def session(self) -> Session:
        """The session. Raises :class:`~server_native.errors.ResponseSentError` when its cookie comes too late."""
        if self._session is None or not self._session.alive:
            if self._sealed:
                raise ResponseSentError(
                    "this request has no session, and the head of its response has been sent, so that no cookie can "
                    "tell the client of a new one: use request.session before the first flush()"
                )
            self._session = self._store.create()
        return self._session

    def seal(self, cookies: ResponseCookies, is_secure: Callable[[], bool]) -> None:
        """Adds what the client has to know to the cookies of the response, whose head is sent now."""
        self._sealed = True
        session = self._session
        if session is None:
            return
        if not session.alive:
            if self._offered is not None:
                cookies.expire(self._name)
        elif session.id != self._offered:
            cookies.add(
                Cookie(
                    self._name,
                    session.id,
                    path="/",
                    secure=is_secure(),
                    http_only=True,
                    same_site="Lax",
                )
            )


def _check_timeout(seconds: float) -> None:
    number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    if not number or not 0 < seconds <= 4_000_000:
        raise ConfigurationError(
            f"session_timeout must be seconds above 0 up to 4000000, found {seconds!r}"
        )
