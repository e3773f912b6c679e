"""aiohttp on uvloop: aiohttp_app.py HOST PORT. POST / answers the length of the body."""

import sys
from typing import Any

import uvloop
from aiohttp import web  # type: ignore[import-not-found, unused-ignore]


async def upload(request: Any) -> Any:
    length = 0
    async for chunk in request.content.iter_any():
        length += len(chunk)
    return web.Response(text=str(length))


if __name__ == "__main__":
    app = web.Application()
    app.router.add_post("/", upload)
    loop = uvloop.new_event_loop()
    web.run_app(
        app, host=sys.argv[1], port=int(sys.argv[2]), access_log=None, print=None, loop=loop
    )
