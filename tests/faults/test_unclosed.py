"""A server that nobody closed: a ResourceWarning, and nothing else."""

from __future__ import annotations

import pytest

from tests.faults.harness import Child

SOURCES = {
    "runtime dropped": """
import gc
from server_native._ffi import Runtime
runtime = Runtime(0)
del runtime
gc.collect()
""",
    "runtime kept": """
from server_native._ffi import Runtime
runtime = Runtime(1)
""",
    "server in a loop that ends": """
import asyncio
from server_native import start_native_direct
async def handler(request):
    return "x"
async def main():
    return await start_native_direct(handler)
server = asyncio.run(main())
""",
    "server in a loop that ends, dropped": """
import asyncio, gc
from server_native import start_native_direct
async def handler(request):
    return "x"
async def main():
    await start_native_direct(handler)
asyncio.run(main())
gc.collect()
""",
    "server in our loop that ends": """
import asyncio
from server_native import new_event_loop, start_native_direct
async def handler(request):
    return "x"
async def main():
    return await start_native_direct(handler)
loop = new_event_loop()
server = loop.run_until_complete(main())
loop.close()
""",
    "plain handler in a loop that ends": """
import asyncio
from server_native import start_native_direct
async def main():
    return await start_native_direct(lambda request: "x")
server = asyncio.run(main())
""",
}


@pytest.mark.parametrize("case", SOURCES)
def test_a_server_never_closed_warns_and_nothing_more(case: str) -> None:
    with Child("-W", "default", "-c", SOURCES[case] + "\nprint('end')") as child:
        child.expect("end")
        errors = child.ends(0)
    assert "ResourceWarning" in errors or "kept" in case or "dropped" not in case, errors
    for line in errors.splitlines():
        assert "Warning" not in line or "ResourceWarning" in line, errors
    assert "Error" not in errors


def test_a_server_closed_warns_of_nothing() -> None:
    source = """
import asyncio, gc
from server_native import serve_native_direct, start_native_direct
async def handler(request):
    return "x"
async def main():
    async with start_native_direct(handler):
        pass
asyncio.run(main())
serve_native_direct(handler, port=0, on_ready=lambda server: server.close())
serve_native_direct(lambda request: "x", port=0, on_ready=lambda server: server.close())
gc.collect()
"""
    with Child("-W", "default", "-X", "dev", "-c", source) as child:
        assert child.ends(0) == ""
