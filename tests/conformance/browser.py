"""Chromium without a window, told what to do over the DevTools protocol.

One WebSocket carries everything; pages are sessions in it. Nothing is looked up outside this machine.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from websockets.sync.client import connect

from tests.integration.clients import eventually

__all__ = ["Browser", "Page"]

#: What the browser is called, by Debian and on machines of others.
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
#: Seconds one command may take; starting a browser is not one.
PATIENCE = 20.0

_FLAGS = (
    "--headless",
    "--no-sandbox",  # there is none for root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
    "--remote-debugging-port=0",
)


class Browser:
    """A running browser with a profile of its own; `names` are hosts that lead to this machine."""

    def __init__(self, folder: Path, *flags: str, names: tuple[str, ...] = ()) -> None:
        found = next(filter(None, map(shutil.which, NAMES)), None)
        assert found, f"no browser: install Debian's chromium, or one of {', '.join(NAMES)}"
        profile = folder / "profile"
        resolved = ["EXCLUDE localhost", "EXCLUDE 127.0.0.1"]
        resolved += [f"MAP {name} 127.0.0.1" for name in names]
        rules = f"--host-resolver-rules={','.join([*resolved, 'MAP * ~NOTFOUND'])}"
        self._log = folder / "browser.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [found, *_FLAGS, f"--user-data-dir={profile}", rules, *flags, "about:blank"],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        with ExitStack() as stack:
            stack.callback(self._kill)
            port = profile / "DevToolsActivePort"
            eventually(lambda: self._alive() and port.exists() and "/" in port.read_text(), "ready")
            number, path = port.read_text().split()
            url = f"ws://127.0.0.1:{number}{path}"
            self._socket = stack.enter_context(connect(url, proxy=None, max_size=None))
            self._closing = stack.pop_all()
        self._numbers = itertools.count(1)

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.close()

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """One command and its result; events that come between are dropped."""
        number = next(self._numbers)
        command: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if session is not None:
            command["sessionId"] = session
        self._socket.send(json.dumps(command))
        while True:
            answer = json.loads(self._socket.recv(PATIENCE))
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer}"
                result: dict[str, Any] = answer["result"]
                return result

    @contextmanager
    def page(self, url: str) -> Iterator[Page]:
        """A tab with this page, loaded; closed at the end."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        page = Page(self, self.call("Target.attachToTarget", targetId=target, flatten=True))
        page.open(url)
        yield page
        self.call("Target.closeTarget", targetId=target)

    def _alive(self) -> bool:
        assert self._process.poll() is None, self._log.read_text(errors="replace")
        return True

    def _kill(self) -> None:
        # The whole session: the browser is many processes, and none may write into the profile any more.
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class Page:
    """One tab."""

    def __init__(self, browser: Browser, attached: dict[str, Any]) -> None:
        self._browser = browser
        self._session = attached["sessionId"]
        # As if each tab were the one in front: none is slowed down.
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command for this tab."""
        return self._browser.call(method, self._session, **parameters)

    def open(self, url: str) -> None:
        """Goes to a page and waits until it has loaded."""
        done = self.call("Page.navigate", url=url)
        assert "errorText" not in done, f"{url}: {done['errorText']}"
        self.evaluate(
            "new Promise(done => document.readyState === 'complete' ? done() : addEventListener('load', done))"
            ".then(() => null)"
        )

    def evaluate(self, expression: str) -> Any:
        """The value of an expression, awaited when it is a promise; a script that throws fails the test."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def text(self, selector: str) -> str:
        """What stands in an element."""
        return str(self.evaluate(f"document.querySelector({json.dumps(selector)}).innerText"))

    def shows(self, selector: str) -> bool:
        """Whether an element takes any room."""
        return bool(self.evaluate(f"document.querySelector({json.dumps(selector)}).offsetHeight"))

    def wait_for(self, selector: str, text: str) -> None:
        """Waits until an element says this somewhere."""
        eventually(lambda: text in self.text(selector), f"{selector} says {text!r}")

    def type(self, selector: str, text: str) -> None:
        """Types into a field and presses Enter, as a person does."""
        self.evaluate(f"document.querySelector({json.dumps(selector)}).focus()")
        self.call("Input.insertText", text=text)
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key="Enter",
                windowsVirtualKeyCode=13,
                text="\r",
            )

    def protocol(self) -> str:
        """What the page itself came over, by its ALPN name."""
        return str(self.evaluate("performance.getEntriesByType('navigation')[0].nextHopProtocol"))

    def screenshot(self, path: Path) -> None:
        """What a person would see, as a PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))
