"""The interpreter ends, forks and is interrupted while a server runs (issue 2, item 9).

Never a hang, never a crash.
"""

from __future__ import annotations

import signal
import threading
from contextlib import suppress

import pytest

from tests.faults.harness import Child, Wire, background

START = """
import asyncio, faulthandler, multiprocessing, os, signal, subprocess, sys, threading, time
from server_native import NativeDirectResponse, serve_native_direct, start_native_direct
from server_native.errors import ForkedError

ready = threading.Event()
servers = []

def say(text):
    os.write(1, f"{text}\\n".encode())

def on_ready(server):
    servers.append(server)
    ready.set()
    say(f"ready {server.port}")

def in_thread(handler, daemon=True, **options):
    def serve():
        serve_native_direct(handler, port=0, on_ready=on_ready, **options)
    thread = threading.Thread(target=serve, daemon=daemon)
    thread.start()
    assert ready.wait(20)
    return thread

def in_loop_thread(handler):
    async def main():
        async with start_native_direct(handler) as server:
            on_ready(server)
            await asyncio.Event().wait()
    threading.Thread(target=lambda: asyncio.run(main()), daemon=True).start()
    assert ready.wait(20)

def plain(request):
    if request.path == "/stream":
        return NativeDirectResponse.stream(b"x" * 1000 for _ in range(1000))
    return "hello"

async def asynchronous(request):
    return plain(request)

def slow(request):
    say("begin")
    time.sleep(3600)

"""

#: How often each is done: what goes wrong at exit goes wrong now and then.
TIMES = 4

HOSTS = {
    "sync": "in_thread(plain)",
    "sync-io-1": "in_thread(plain, io_threads=1)",
    "sync-io-2": "in_thread(plain, io_threads=2)",
    "threads": "in_thread(plain, threads=2)",
    "async": "in_thread(asynchronous)",
    "loop": "in_loop_thread(asynchronous)",
}
hosts = pytest.mark.parametrize("host", HOSTS)
times = pytest.mark.parametrize("time", range(TIMES))


def port(child: Child) -> int:
    return int(child.expect("ready"))


def end_under_load(child: Child, code: int, *, traceback: bool = False) -> str:
    """Lets the child go on while clients hammer it."""
    number = port(child)
    answered = threading.Semaphore(0)

    def hammer(over: threading.Event) -> None:
        # The server may end at any moment; only the child's own end counts.
        with suppress(OSError, AssertionError), Wire(number) as wire:
            for path in ["/", "/", "/stream"] * 50:
                if over.is_set():
                    return
                wire.request(path)
                wire.answer()
                answered.release()

    with background(hammer, 4):
        for _ in range(20):
            assert answered.acquire(timeout=20), child.account()
        with suppress(BrokenPipeError):
            child.tell("go")
        return child.ends(code, traceback=traceback)


ENDINGS = {
    "falls off": ("", 0),
    "sys.exit": ("sys.exit(5)", 5),
    "os._exit": ("os._exit(6)", 6),
    "exception": ("raise RuntimeError('at top level')", 1),
    "interrupt": ("signal.raise_signal(signal.SIGINT); time.sleep(60)", -signal.SIGINT),
    "close and go": ("servers[0].close(grace=0.0)", 0),
    "atexit": (
        "import atexit; atexit.register(servers[0].close); atexit.register(servers[0].stats)",
        0,
    ),
}


@times
@hosts
def test_the_main_thread_ends_while_a_server_runs(host: str, time: int) -> None:
    with Child.run(START + HOSTS[host] + "\ninput()\n") as child:
        end_under_load(child, 0)


@pytest.mark.conformance
@pytest.mark.parametrize("time", range(40))
@hosts
def test_the_main_thread_ends_while_a_server_runs_every_time(host: str, time: int) -> None:
    with Child.run(START + HOSTS[host] + "\ninput()\n") as child:
        end_under_load(child, 0)


@hosts
@pytest.mark.parametrize("ending", list(ENDINGS)[1:])
def test_the_main_thread_ends_in_other_ways(host: str, ending: str) -> None:
    source, code = ENDINGS[ending]
    with Child.run(START + HOSTS[host] + "\ninput()\n" + source) as child:
        errors = end_under_load(child, code, traceback=True)
    # At most the exception of the main thread itself.
    assert errors.count("Traceback") == (ending in ("exception", "interrupt")), errors


#: How a server runs in the main thread whose handler leaves; CODE is put in.
LEAVING = {
    "inline": "def handler(request):\n    CODE\nserve_native_direct(handler, port=0, on_ready=on_ready)",
    "inline io": (
        "def handler(request):\n    CODE\n"
        "serve_native_direct(handler, port=0, on_ready=on_ready, io_threads=1)"
    ),
    "pool": (
        "def handler(request):\n    CODE\n"
        "serve_native_direct(handler, port=0, on_ready=on_ready, threads=2)"
    ),
    "async": "async def handler(request):\n    CODE\nserve_native_direct(handler, port=0, on_ready=on_ready)",
    "async later": (
        "async def handler(request):\n    await asyncio.sleep(0)\n    CODE\n"
        "serve_native_direct(handler, port=0, on_ready=on_ready)"
    ),
    "loop": (
        "async def handler(request):\n    CODE\n"
        "async def main():\n"
        "    async with start_native_direct(handler) as server:\n"
        "        on_ready(server)\n        await asyncio.Event().wait()\n"
        "asyncio.run(main())"
    ),
    "loop, plain": (
        "def handler(request):\n    CODE\n"
        "async def main():\n"
        "    async with start_native_direct(handler) as server:\n"
        "        on_ready(server)\n        await asyncio.Event().wait()\n"
        "asyncio.run(main())"
    ),
    "uvloop": (
        "import uvloop\n"
        "async def handler(request):\n    CODE\n"
        "async def main():\n"
        "    async with start_native_direct(handler) as server:\n"
        "        on_ready(server)\n        await asyncio.Event().wait()\n"
        "uvloop.run(main())"
    ),
}

#: The same from inside a response body.
STREAMS = {
    "generator": (
        "def body():\n    yield b'x'\n    CODE\n"
        "def handler(request):\n    return NativeDirectResponse.stream(body())\n"
        "serve_native_direct(handler, port=0, on_ready=on_ready)"
    ),
    "generator on the pool": (
        "def body():\n    yield b'x'\n    CODE\n"
        "def handler(request):\n    return NativeDirectResponse.stream(body())\n"
        "serve_native_direct(handler, port=0, on_ready=on_ready, threads=2)"
    ),
    "async generator": (
        "async def body():\n    yield b'x'\n    CODE\n"
        "async def handler(request):\n    return NativeDirectResponse.stream(body())\n"
        "serve_native_direct(handler, port=0, on_ready=on_ready)"
    ),
}


@times
@pytest.mark.parametrize("way", LEAVING)
def test_sys_exit_in_a_handler_answers_and_ends_the_process(way: str, time: int) -> None:
    with Child.run(START + LEAVING[way].replace("CODE", "sys.exit(7)")) as child:
        with Wire(port(child)) as wire:
            assert wire.get("/").status == 500
        child.ends(7)


@pytest.mark.parametrize("way", STREAMS)
def test_sys_exit_in_a_body_resets_it_and_ends_the_process(way: str) -> None:
    with Child.run(START + STREAMS[way].replace("CODE", "sys.exit(7)")) as child:
        with Wire(port(child)) as wire:
            wire.request("/")
            assert not wire.rest().endswith(b"0\r\n\r\n")
        child.ends(7)


@pytest.mark.parametrize("way", LEAVING)
def test_a_keyboard_interrupt_in_a_handler_ends_the_process(way: str) -> None:
    with Child.run(START + LEAVING[way].replace("CODE", "raise KeyboardInterrupt")) as child:
        with Wire(port(child)) as wire:
            wire.request("/")
            wire.rest()
        errors = child.ends(-signal.SIGINT, traceback=True)
        assert "KeyboardInterrupt" in errors


@pytest.mark.parametrize("way", [*LEAVING, *STREAMS])
def test_os_exit_in_a_handler_is_the_end(way: str) -> None:
    source = (LEAVING | STREAMS)[way].replace("CODE", "os._exit(9)")
    with Child.run(START + source) as child:
        with Wire(port(child)) as wire:
            wire.request("/")
            wire.rest()
        child.ends(9)


@times
def test_the_process_ends_with_a_running_pool_handler(time: int) -> None:
    with Child.run(START + "in_thread(slow, threads=2)\ninput()\nsys.exit(4)") as child:
        with Wire(port(child)) as wire:
            wire.request("/")
            child.expect("begin")
            child.tell("go")
            wire.rest()
        child.ends(4)


@pytest.mark.parametrize("way", ["inline", "async", "pool"])
def test_the_process_ends_with_a_handler_that_never_does(way: str) -> None:
    handler = {"inline": "slow", "pool": "slow, threads=1", "async": "asynchronous_slow"}[way]
    source = (
        "async def asynchronous_slow(request):\n    slow(request)\n"
        f"in_thread({handler})\ninput()\nsys.exit(4)"
    )
    with Child.run(START + source) as child:
        with Wire(port(child)) as wire:
            wire.request("/")
            child.expect("begin")
            child.tell("go")
            wire.rest()
        child.ends(4)


FORK = """
    if request.path == "/after":
        return "parent lives"
    child = os.fork()
    if child == 0:
        IN_CHILD
    _, status = os.waitpid(child, 0)
    return str(os.waitstatus_to_exitcode(status))
"""

IN_CHILD = {
    "os._exit": ("os._exit(3)", "3"),
    "sys.exit": ("sys.exit(3)", "3"),
    "uses the server": (
        """
        try:
            servers[0].stats()
        except ForkedError:
            os._exit(11)
        os._exit(0)""",
        "11",
    ),
    "closes the server": (
        """
        try:
            servers[0].close()
        except ForkedError:
            os._exit(11)
        os._exit(0)""",
        "11",
    ),
    "starts another": (
        """
        try:
            serve_native_direct(plain, port=0, on_ready=lambda server: server.close())
        except BaseException as error:
            say(repr(error))
            os._exit(12)
        os._exit(13)""",
        "13",
    ),
    "raises": ("raise SystemExit(0)", "0"),
    "returns": ("return 'child'", "1"),
}


@pytest.mark.parametrize("way", ["inline", "async", "pool"])
def test_a_child_that_tidies_up_takes_nothing_from_its_parent(way: str) -> None:
    """The child's loop shares its parent's epoll; the idle parent must still hear a signal."""
    source = LEAVING[way].replace("    CODE", FORK.replace("IN_CHILD", "sys.exit(3)"))
    with Child.run(START + source) as child, Wire(port(child)) as wire:
        wire.get("/")
        # The connection stays open: nothing but the signal can wake the parent.
        child.signal(signal.SIGTERM)
        assert wire.rest() == b""
        child.ends(0)


@pytest.mark.parametrize("child_does", IN_CHILD)
@pytest.mark.parametrize("way", ["inline", "inline io", "async", "pool"])
def test_a_fork_in_a_handler(way: str, child_does: str) -> None:
    code, expected = IN_CHILD[child_does]
    if way == "pool" and child_does in ("sys.exit", "raises", "returns"):
        # Only the pool's thread is left in such a child. When it ends the process does, with 0, as with any thread.
        expected = "0"
    source = LEAVING[way].replace("    CODE", FORK.replace("IN_CHILD", code))
    with Child.run(START + source) as child:
        number = port(child)
        with Wire(number) as wire:
            answer = wire.get("/")
            assert answer.body.decode() == expected, child.account()
            assert wire.get("/after").body == b"parent lives"
        with Wire(number) as wire:
            assert wire.get("/after").body == b"parent lives"
        child.signal(signal.SIGTERM)
        # A child that goes on with a server that is not there says so.
        child.ends(0, traceback=child_does == "returns")


MULTIPROCESSING = """
def work(queue):
    queue.put(os.getpid())

def handler(request):
    context = multiprocessing.get_context(request.query)
    queue = context.SimpleQueue()
    process = context.Process(target=work, args=(queue,))
    process.start()
    found = queue.get()
    process.join()
    assert found == process.pid
    return str(process.exitcode)

async def asynchronous_handler(request):
    return handler(request)

if __name__ == "__main__":
    SERVE
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize(
    "serve",
    [
        "serve_native_direct(handler, port=0, on_ready=on_ready)",
        "serve_native_direct(handler, port=0, on_ready=on_ready, threads=2)",
        "serve_native_direct(handler, port=0, on_ready=on_ready, io_threads=2)",
        "serve_native_direct(asynchronous_handler, port=0, on_ready=on_ready)",
    ],
)
def test_multiprocessing_in_a_handler(
    serve: str, method: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    program = tmp_path_factory.mktemp("spawn") / "program.py"
    program.write_text(START + MULTIPROCESSING.replace("SERVE", serve))
    with Child(str(program)) as child:
        with Wire(port(child)) as wire:
            for _ in range(3):
                assert wire.get(f"/?{method}").body == b"0", child.account()
        child.signal(signal.SIGTERM)
        child.ends(0)


SUBPROCESS = {
    "inline": LEAVING["inline"],
    "pool": LEAVING["pool"],
    "async": LEAVING["async"],
    "async, loop": LEAVING["loop"],
}
RUN = "return subprocess.run(['cat'], input=b'from a child', stdout=-1, check=True).stdout"
RUN_ASYNC = (
    "process = await asyncio.create_subprocess_exec('cat', stdin=-1, stdout=-1); "
    "return (await process.communicate(b'from a child'))[0]"
)


@pytest.mark.parametrize("way", SUBPROCESS)
@pytest.mark.parametrize("waits", ["blocks", "awaits"])
def test_a_subprocess_in_a_handler(way: str, waits: str) -> None:
    if waits == "awaits" and "async" not in way:
        waits = "blocks"
    code = RUN if waits == "blocks" else RUN_ASYNC
    with Child.run(START + SUBPROCESS[way].replace("CODE", code)) as child:
        with Wire(port(child)) as wire:
            for _ in range(5):
                assert wire.get("/").body == b"from a child", child.account()
        child.signal(signal.SIGTERM)
        if "loop" in way:  # the signal is the program's own affair there
            assert child.wait() == -signal.SIGTERM
        else:
            child.ends(0)
