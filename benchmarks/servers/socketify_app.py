"""socketify's own handler style: socketify_app.py hello|headers HOST PORT."""

import sys
from typing import Any

from socketify import (  # type: ignore[import-not-found, import-untyped, unused-ignore]
    App,
    AppListenOptions,
)


def hello(response: Any, request: Any) -> None:
    response.write_header("Content-Type", "text/plain; charset=utf-8")
    response.end("hello")


def headers(response: Any, request: Any) -> None:
    get = request.get_header
    agent, language, cookie = get("user-agent"), get("accept-language"), get("cookie")
    response.write_header("Content-Type", "text/plain; charset=utf-8")
    response.end(f"{len(agent):08d}{len(language):08d}{len(cookie):08d}")


if __name__ == "__main__":
    app = App()
    app.get("/", {"hello": hello, "headers": headers}[sys.argv[1]])
    app.listen(AppListenOptions(port=int(sys.argv[3]), host=sys.argv[2]), lambda config: None)
    app.run()
