"""Files of one folder, read while they are sent. Whole files only: a Range header is answered with all of it.

python examples/file_download.py FOLDER
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from urllib.parse import quote

from server_native import (
    NativeDirectRequest,
    NativeDirectResponse,
    NativeServer,
    serve_native_direct,
)


def handler(folder: Path, request: NativeDirectRequest) -> NativeDirectResponse:
    if request.method not in ("GET", "HEAD"):
        return NativeDirectResponse.text(
            "GET or HEAD\n", status=405, headers={"allow": "GET, HEAD"}
        )
    try:
        # Links and `..` are followed first: what counts is where the file really is.
        path = folder.joinpath(request.path.lstrip("/")).resolve()
        if path.is_relative_to(folder):
            name = quote(path.name)
            disposition = f"attachment; filename*=UTF-8''{name}"  # RFC 6266
            return NativeDirectResponse.file(path, headers={"content-disposition": disposition})
    except (OSError, ValueError):
        pass  # not there, no regular file, or not the name of any
    return NativeDirectResponse.text("not found\n", status=404)


def ready(server: NativeServer) -> None:
    print(f"serving on {server.url}\ntry: curl -OJ {server.url}/NAME", flush=True)


if __name__ == "__main__":
    root = Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
    serve_native_direct(partial(handler, root), port=8080, on_ready=ready)
