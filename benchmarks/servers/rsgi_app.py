"""RSGI application for granian."""

from typing import Any

HEADERS = [("content-type", "text/plain; charset=utf-8")]


async def hello(scope: Any, protocol: Any) -> None:
    protocol.response_str(200, HEADERS, "hello")


async def headers(scope: Any, protocol: Any) -> None:
    get = scope.headers.get
    agent, language, cookie = get("user-agent"), get("accept-language"), get("cookie")
    protocol.response_str(200, HEADERS, f"{len(agent):08d}{len(language):08d}{len(cookie):08d}")
