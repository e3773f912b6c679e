"""WSGI application on bjoern: bjoern_app.py HOST PORT.

bjoern sends no Date, so the application does, made once per second as the others make theirs.
"""

import sys
import time
from email.utils import formatdate
from typing import Any

import bjoern  # type: ignore[import-not-found, import-untyped, unused-ignore]

TYPE = ("Content-Type", "text/plain; charset=utf-8")
LENGTH = ("Content-Length", "5")
made_at = 0
headers: list[tuple[str, str]] = []


def hello(environ: Any, start_response: Any) -> list[bytes]:
    global made_at, headers
    now = int(time.time())
    if now != made_at:
        made_at, headers = now, [TYPE, LENGTH, ("Date", formatdate(now, usegmt=True))]
    start_response("200 OK", headers)
    return [b"hello"]


if __name__ == "__main__":
    bjoern.run(hello, sys.argv[1], int(sys.argv[2]))
