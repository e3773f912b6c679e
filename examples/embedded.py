"""A server beside other work in one asyncio program; it stops when the block is left."""

from __future__ import annotations

import asyncio

from server_native import NativeDirectRequest, new_event_loop, start_native_direct


async def handler(request: NativeDirectRequest) -> dict[str, str]:
    await asyncio.sleep(0.01)
    return {"path": request.path}


async def main() -> None:
    async with start_native_direct(handler, port=8080) as server:
        print(f"serving on {server.url}\ntry: curl {server.url}/a/path", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    # asyncio.run(main()) works too; this loop saves a thread and half of the CPU per request.
    loop = new_event_loop()
    try:
        loop.run_until_complete(main())
    except KeyboardInterrupt:
        print("stopped")
