"""What pytest must not import here."""

from __future__ import annotations

#: An application for a peer's command line: it reads its place from the environment.
collect_ignore = ["campaign/peer_app.py"]
