"""Requests as a stream: a guest book with sessions, cookies, redirects and a page that is written while it is read."""

from __future__ import annotations

import asyncio
import html
import signal

from server_native import HttpRequest, NativeHttpServer

ENTRIES: list[str] = []


async def answer(request: HttpRequest) -> None:
    response = request.response
    match request.method, request.uri:
        case "GET", "/":
            visits = request.session.get("visits", 0) + 1
            request.session["visits"] = visits
            response.content_type = "text/html"
            response.write(f"<h1>Guest book</h1><p>visit {visits}</p><ul>")
            await response.flush()  # the browser shows this much while the rest is made
            response.write_all(f"<li>{html.escape(entry)}</li>" for entry in ENTRIES)
            response.write("</ul>")
        case "POST", "/":
            ENTRIES.append((await request.read()).decode(errors="replace"))
            response.cookies.add("last", str(len(ENTRIES)), http_only=True)
            await response.redirect("/", status=303)
        case "POST", "/forget":
            request.session.destroy()
        case "GET", "/count":
            for number in range(3, 0, -1):
                response.writeln(number)
                await response.flush()
                await asyncio.sleep(0.01)
        case _:
            response.status_code = 404
            response.write("nothing is here\n")


async def main() -> None:
    async with NativeHttpServer.bind(port=8080, auto_compress=True) as server:
        server.server_header = "guest-book"
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, server.close)
        print(f"serving on {server.url}\ntry: curl -d hello {server.url}/", flush=True)
        # `async for request in server:` is what this does, with a task for each request.
        await server.serve(answer)


if __name__ == "__main__":
    # From Python 3.11 on, asyncio.Runner(loop_factory=server_native.new_event_loop) saves a thread.
    asyncio.run(main())
