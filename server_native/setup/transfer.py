"""What has come of one file, over all tries: its offset, its hash, and whether an answer carries it on."""

from __future__ import annotations

import hashlib
import re
import time
from email.utils import parsedate_to_datetime
from pathlib import Path

import requests

__all__ = ["AbsentError", "TargetError", "Transfer", "TransferError", "WrongFileError"]

#: Answers that will not be other ones in a moment.
_FINAL = (400, 401, 403, 404, 405, 410, 451)
#: Of a length in bytes: what 64 bits hold.
_DIGITS = 19


class TransferError(Exception):
    """One try at one mirror."""

    def __init__(self, text: str, *, final: bool = False, after: float | None = None) -> None:
        super().__init__(text)
        #: Whether this mirror is not to be asked again.
        self.final = final
        #: Seconds the server wants to be left alone.
        self.after = after


class AbsentError(TransferError):
    """404 or 410."""


class TargetError(Exception):
    """What was received cannot be written: nothing that another try or mirror would change."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(str(cause))
        self.cause = cause


class WrongFileError(TransferError):
    """All is there, and it is not what it should be."""


class Transfer:
    """What has come of one file, over all tries."""

    def __init__(self, target: Path, most: int, size: int | None, sha256: str | None) -> None:
        self._most = most if size is None else size
        self.size = size
        self._sha256 = sha256
        self._file = target.open("w+b", buffering=0)
        self._promised: int | None = None
        self._restart()

    def close(self) -> None:
        """Leaves the file as it is."""
        self._file.close()

    def _restart(self) -> None:
        self.offset = 0
        self._digest = hashlib.sha256()
        self._file.seek(0)
        self._file.truncate()
        self._url: str | None = None
        self._etag: str | None = None

    def resume(self, url: str) -> dict[str, str]:
        """Fields that ask for the rest, when this mirror has given a beginning that can be told from another file's."""
        if self.offset and url == self._url and self._etag is not None:
            return {"range": f"bytes={self.offset}-", "if-range": self._etag}
        self._restart()
        return {}

    def begin(self, url: str, response: requests.Response) -> None:
        """Looks at the head of an answer."""
        status = response.status_code
        if status == 206 and self.offset:
            found = re.match(
                r"bytes ([0-9]{1,19})-\d+/(\d+|\*)$", response.headers.get("content-range", "")
            )
            if not found or int(found[1]) != self.offset:
                self._restart()
                raise TransferError("answered 206 from another place than was asked for")
        elif status == 200:
            self._restart()
        elif status == 416:
            self._restart()
            raise TransferError("answered 416: the file is another one now")
        else:
            raise _refusal(response)
        encoding = response.headers.get("content-encoding", "identity")
        if encoding.lower() != "identity":
            raise TransferError(
                f"answered with content-encoding {encoding}, which was not asked for", final=True
            )
        said = response.headers.get("content-length", "")
        if said.isdecimal() and status == 200:
            # Python refuses to make a number of thousands of digits.
            if len(said) > _DIGITS or int(said) > self._most:
                raise WrongFileError(
                    f"says it is {said[:_DIGITS]} bytes, at most {self._most} were expected",
                    final=True,
                )
            if self.size is None:
                self._promised = int(said)
        etag = response.headers.get("etag", "")
        self._url = url
        self._etag = etag if etag.startswith('"') else None

    def write(self, block: bytes) -> None:
        """Bytes of the file."""
        if self.offset + len(block) > self._most:
            raise WrongFileError(f"is more than {self._most} bytes", final=True)
        # Unbuffered, and the system may take less than it is given.
        view = memoryview(block)
        while view:
            try:
                view = view[self._file.write(view) :]
            except OSError as error:
                raise TargetError(error) from error
        self._digest.update(block)
        self.offset += len(block)

    def check(self) -> None:
        """Looks, at the end of a try, whether all is there and right."""
        expected = self.size if self.size is not None else self._promised
        if expected is not None and self.offset < expected:
            raise TransferError(f"ended after {self.offset} of {expected} bytes")
        found = self._digest.hexdigest()
        if self._sha256 is not None and found != self._sha256:
            self._restart()
            raise WrongFileError(
                f"has the sha256 {found}, {self._sha256} was expected ({expected} bytes)",
                final=True,
            )


def _refusal(response: requests.Response) -> TransferError:
    status = response.status_code
    if status in (404, 410):
        return AbsentError(f"answered {status}", final=True)
    limited = status == 403 and response.headers.get("x-ratelimit-remaining") == "0"
    if limited:
        when = _clock(response.headers.get("x-ratelimit-reset", ""))
        return TransferError(
            f"answered 403: its rate limit is used up, and resets at {when}", final=True
        )
    return TransferError(
        f"answered {status}",
        final=status in _FINAL,
        after=_after(response.headers.get("retry-after")),
    )


def _clock(reset: str) -> str:
    """Seconds since 1970 as a time of day; ``later`` for what is no time."""
    try:
        return time.strftime("%H:%M:%S", time.localtime(int(reset)))
    except (ValueError, OverflowError, OSError):
        return "later"


def _after(value: str | None) -> float | None:
    """Retry-After in seconds (RFC 9110 section 10.2.3)."""
    if value is None:
        return None
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, float(parsedate_to_datetime(value).timestamp()) - time.time())
    except ValueError:
        return None
