"""Fetches one file from the first mirror that has it whole: retries, resumes, stalls, redirects, limits.

``requests`` retries connections; what breaks in the middle of a body is ours to take up again.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass, url2pathname

import requests
import urllib3

from server_native import __version__
from server_native.errors import PrebuiltError

from .session import Bearer, Session
from .settings import Settings
from .transfer import AbsentError, TargetError, Transfer, TransferError, WrongFileError

__all__ = ["Download", "redacted"]

_BLOCK = 1 << 16
_REDIRECTS = (301, 302, 303, 307, 308)
_MOST_REDIRECTS = 5
_MOST_PAUSE = 60.0
_LOOPBACK = ("localhost", "127.0.0.1", "::1")

#: Told of bytes as they come, and of how many there will be (``None``: not known).
Progress = Callable[[int, "int | None"], None]


class Download:
    """Files of one run, over connections that are kept."""

    def __init__(self, settings: Settings, progress: Progress | None = None) -> None:
        self._settings = settings
        self._progress = progress
        self._verify = settings.ca_bundle
        self._tokens: dict[str, str] = {}
        self._session = Session(settings)
        self._session.headers.update(
            {"user-agent": f"server_native/{__version__}", "accept-encoding": "identity"}
        )
        if settings.ca_bundle is not None and not Path(settings.ca_bundle).exists():
            raise PrebuiltError(
                "E-ENV",
                f"SERVER_NATIVE_CA_BUNDLE names {settings.ca_bundle!r}, which does not exist",
            )

    def close(self) -> None:
        """Ends the connections."""
        self._session.close()

    def fetch(
        self,
        urls: Sequence[str],
        target: Path,
        *,
        most: int,
        sha256: str | None,
        size: int | None = None,
    ) -> str:
        """Writes the file to ``target`` and answers the URL it came from.

        At most ``most`` bytes; exactly ``size`` with that hash when they are given. Raises E-OFFLINE, E-404, E-HASH,
        E-NET or E-RATE, with every try in the text.
        """
        left = list(dict.fromkeys(urls))
        if self._settings.offline:
            left = [url for url in left if urlsplit(url).scheme == "file"]
            if not left:
                raise PrebuiltError(
                    "E-OFFLINE",
                    f"SERVER_NATIVE_OFFLINE is set, and {target.name} is only to be had from the network: install from "
                    "a bundle (--from DIR), or unset it",
                )
        with closing(Transfer(target, most, size, sha256)) as transfer:
            try:
                return self._from_any(left, transfer, target.name)
            except TargetError as failure:
                raise failure.cause from failure

    def _from_any(self, left: list[str], transfer: Transfer, name: str) -> str:
        log: list[tuple[str, TransferError]] = []
        tries = max(self._settings.tries, len(left))
        for number in range(tries):
            if not left:
                break
            # The next try is at the next mirror, with this one at the end unless it is of no use.
            url = left.pop(0)
            try:
                self._try(url, transfer)
                return url
            except TransferError as failure:
                log.append((url, failure))
                if not failure.final:
                    left.append(url)
                    if number + 1 < tries:
                        self._settings.pause(_pause(number, failure.after))
        raise _failed(log, name)

    def text(
        self, urls: Sequence[str], target: Path, *, most: int = 1 << 20, token: str | None = None
    ) -> bytes:
        """A small file whose hash nobody knows yet; ``target`` is where it passes through.

        ``token``: for the host of the first URL, and nobody it redirects to.
        """
        self._tokens = {urlsplit(urls[0]).netloc: token} if token else {}
        try:
            self.fetch(urls, target, most=most, sha256=None)
        finally:
            self._tokens = {}
        return target.read_bytes()

    def _try(self, url: str, transfer: Transfer) -> None:
        parts = urlsplit(url)
        if parts.scheme == "file":
            _copy(Path(url2pathname(parts.path)), transfer)
        else:
            with closing(self._open(url, transfer)) as response:
                transfer.begin(url, response)
                self._receive(response, transfer)
        transfer.check()

    def _open(self, url: str, transfer: Transfer) -> requests.Response:
        headers = transfer.resume(url)
        at = url
        for _ in range(_MOST_REDIRECTS + 1):
            _check_scheme(at, url)
            token = self._tokens.get(urlsplit(at).netloc)
            try:
                response = self._session.get(
                    at,
                    headers=headers,
                    # No field of ours: what .netrc has for the host would replace it.
                    auth=Bearer(token) if token else None,
                    stream=True,
                    allow_redirects=False,
                    # Here and not on the session, where REQUESTS_CA_BUNDLE would win.
                    verify=self._verify,
                    timeout=(self._settings.connect, self._settings.idle),
                )
            except requests.exceptions.SSLError as error:
                raise TransferError(
                    f"the certificate was refused ({_short(error)}); behind a proxy that opens TLS, name its authority "
                    "in SERVER_NATIVE_CA_BUNDLE",
                    final=True,
                ) from error
            except (
                requests.exceptions.RequestException,
                urllib3.exceptions.HTTPError,
                OSError,
            ) as error:
                raise TransferError(f"no connection ({_short(error)}){_proxy(at)}") from error
            if response.status_code not in _REDIRECTS:
                return response
            response.close()
            try:
                at = urljoin(at, response.headers.get("location", ""))
            except ValueError as error:
                raise TransferError("redirects to what is no address", final=True) from error
        raise TransferError(f"more than {_MOST_REDIRECTS} redirects", final=True)

    def _receive(self, response: requests.Response, transfer: Transfer) -> None:
        raw: Any = response.raw
        since, received = time.monotonic(), 0
        try:
            # `read1` gives what is there: a server that drips must not be waited for until a block is full.
            while block := raw.read1(_BLOCK):
                transfer.write(block)
                if self._progress is not None:
                    self._progress(transfer.offset, transfer.size)
                received += len(block)
                elapsed = time.monotonic() - since
                if elapsed >= self._settings.idle:
                    if received < elapsed * self._settings.slowest:
                        raise TransferError(f"stalled: {received} bytes in {elapsed:.0f} s")
                    since, received = time.monotonic(), 0
        except (
            urllib3.exceptions.HTTPError,
            requests.exceptions.RequestException,
            OSError,
        ) as error:
            raise TransferError(
                f"broke off after {transfer.offset} bytes ({_short(error)})"
            ) from error


def _check_scheme(at: str, first: str) -> None:
    if not _readable(at):
        raise TransferError("redirects to what is no address", final=True)
    parts = urlsplit(at)
    # Nobody who asked for https gets less, from whatever listens on this machine either.
    local = parts.scheme == "http" and parts.hostname in _LOOPBACK
    if parts.scheme == "https" or (local and urlsplit(first).scheme == "http"):
        return
    how = "is" if at == first else "redirects to"
    raise TransferError(
        f"{how} {redacted(at)}: only https is fetched, and http of this machine", final=True
    )


def _readable(url: str) -> bool:
    """Whether it can be taken apart: a bracket or a port may be wrong."""
    try:
        parts = urlsplit(url)
        return parts.port is None or bool(parts.hostname)
    except ValueError:
        return False


def _pause(number: int, after: float | None) -> float:
    if after is not None:
        return min(_MOST_PAUSE, after)
    # Jitter, so that a thousand machines do not come back together.
    return min(_MOST_PAUSE, 0.5 * 2.0**number * random.uniform(0.5, 1.5))  # noqa: S311 - no secret


def _copy(path: Path, transfer: Transfer) -> None:
    transfer.resume("")
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                transfer.write(block)
    except FileNotFoundError as error:
        raise AbsentError("does not exist", final=True) from error
    except OSError as error:
        raise TransferError(f"cannot be read ({error.strerror})", final=True) from error


def _failed(log: list[tuple[str, TransferError]], name: str) -> PrebuiltError:
    tried = "\n".join(f"  {redacted(url)}: {failure}" for url, failure in log)
    failures = [failure for _, failure in log]
    if any(isinstance(failure, WrongFileError) for failure in failures):
        code, advice = (
            "E-HASH",
            "do not go on with verification off: report it to whoever runs the mirror",
        )
    elif all(isinstance(failure, AbsentError) for failure in failures):
        code, advice = (
            "E-404",
            "look at the tag and the platform, or ask another mirror (SERVER_NATIVE_BASE_URL)",
        )
    elif any("rate limit" in str(failure) for failure in failures):
        code, advice = "E-RATE", "wait until then, set GH_TOKEN, or name the tag"
    else:
        code = "E-NET"
        advice = (
            "look at the network and its proxy, name a mirror (SERVER_NATIVE_BASE_URL), or install the wheel, which "
            "has the library in it"
        )
    return PrebuiltError(code, f"{name} could not be fetched:\n{tried}\nWhat to do: {advice}.")


def redacted(url: str) -> str:
    """A URL without what may be secret in it: user, password, query."""
    if not _readable(url):
        return "(no address)"
    parts = urlsplit(url)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{host}{port}{parts.path}" + ("?…" if parts.query else "")


def _proxy(url: str) -> str:
    parts = urlsplit(url)
    proxy = getproxies().get(parts.scheme)
    if proxy is None or proxy_bypass(parts.hostname or ""):
        return ""
    return f" through the proxy {redacted(proxy)}"


def _short(error: BaseException) -> str:
    """The innermost reason, without object addresses and secrets."""
    while inner := error.__cause__ or (None if error.__suppress_context__ else error.__context__):
        error = inner
    return re.sub(r"<[^>]*>:? ?|://[^/@\s]*@", "", str(error) or type(error).__name__)[:200]
