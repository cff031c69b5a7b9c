"""A headless Chromium, driven through a pipe: what a page looks like, says on its console and asks the network for."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMED = {"Enter": 13, "Escape": 27, "Tab": 9, "Backspace": 8, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39,
         "ArrowDown": 40, " ": 32}  # fmt: skip
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def browser_path() -> str | None:
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


class Page:
    """One page. Messages of the DevTools protocol are JSON objects with a zero byte after each."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from = to_browser, from_browser
        self._number, self._rest, self._session = 0, b"", None
        self.events: list[dict[str, Any]] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """A command's result; what happens meanwhile goes to `events`."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            found = self._next()
            if found.get("id") == self._number:
                assert "error" not in found, found
                return found["result"]
            self.events.append(found)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = os.read(self._from, 1 << 20)
            assert part, "the browser is gone"
            self._rest += part
        one, _, self._rest = self._rest.partition(b"\0")
        return json.loads(one)

    def open(
        self, what: Path | str, *, width: int = 1200, height: int = 900, media: str = "", scheme: str = "light"
    ) -> None:
        """A file or an address. `media` is "print" or nothing, `scheme` light or dark."""
        self.events.clear()
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                 mobile=width < 500)  # fmt: skip
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.ask("Emulation.setEmulatedMedia", media=media, features=features)
        self.ask("Page.navigate", url=what if isinstance(what, str) else what.resolve().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def evaluate(self, expression: str) -> Any:
        return self.ask("Runtime.evaluate", expression=expression, returnByValue=True,
                        awaitPromise=True)["result"].get("value")  # fmt: skip

    def wait(self, expression: str, seconds: float = 20) -> None:
        """Until an expression is true, on the page that it may lead to."""
        until = time.monotonic() + seconds
        while not self._holds(expression):
            assert time.monotonic() < until, f"not true after {seconds} s: {expression}"
            time.sleep(0.005)

    def _holds(self, expression: str) -> bool:
        try:
            return bool(self.evaluate(f"!!({expression})"))
        except AssertionError as error:
            if "navigated" in str(error):
                return False
            raise

    def press(self, key: str, *, ctrl: bool = False, shift: bool = False, code: str | None = None) -> None:
        """A key as a keyboard sends it: a character, or a name as ArrowLeft; `code` is where it lies."""
        event: dict[str, Any] = {"key": key, "code": code or key, "modifiers": 2 * ctrl + 8 * shift}
        if len(key) == 1 and not ctrl:
            event |= {"text": key, "windowsVirtualKeyCode": ord(key.upper())}
        elif key in NAMED:
            event |= {"windowsVirtualKeyCode": NAMED[key]} | ({"text": "\r"} if key == "Enter" and not ctrl else {})
        self.ask("Input.dispatchKeyEvent", type="keyDown", **event)
        self.ask("Input.dispatchKeyEvent", type="keyUp", **{k: v for k, v in event.items() if k != "text"})

    def drag(self, what: str, by: float) -> None:
        """Take an element with the mouse, `by` pixels down (or, below 0, up), and let it go."""
        x, y = self.evaluate(f"(({what}).scrollIntoView({{block: 'center'}}), [({what}).getBoundingClientRect()]"
                             ".map(r => [r.x + r.width / 2, r.y + r.height / 2])[0])")  # fmt: skip
        moves = [("mousePressed", y), *(("mouseMoved", y + by * part / 8) for part in range(1, 9))]
        for kind, at in [*moves, ("mouseReleased", y + by)]:
            self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=at, button="left", buttons=1, clickCount=1)

    def type(self, text: str) -> None:
        self.ask("Input.insertText", text=text)

    def screenshot(self, path: Path) -> None:
        """All of the page, from top to bottom."""
        path.write_bytes(base64.b64decode(
            self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]))  # fmt: skip

    def pdf(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.ask("Page.printToPDF", preferCSSPageSize=True)["data"]))

    @property
    def complaints(self) -> list[Any]:
        """Errors and warnings of the console, and exceptions."""
        said = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
        return [event["params"] for event in self.events if event.get("method") in said]

    @property
    def requests(self) -> list[str]:
        """Addresses of all that was asked for."""
        sent = [event for event in self.events if event.get("method") == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in sent]


@contextmanager
def page() -> Iterator[Page]:
    """A page of a browser of its own, which is closed with the block."""
    browser = browser_path()
    assert browser is not None
    (read_theirs, write_ours), (read_ours, write_theirs) = os.pipe(), os.pipe()

    def three_and_four() -> None:  # where Chromium looks for them; by way of high numbers, so that neither is run over
        high_read, high_write = os.dup(read_theirs), os.dup(write_theirs)
        while high_read < 10:
            high_read = os.dup(high_read)
        while high_write < 10:
            high_write = os.dup(high_write)
        os.dup2(high_read, 3)
        os.dup2(high_write, 4)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        words = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                 "--hide-scrollbars", f"--user-data-dir={profile}", "--remote-debugging-pipe"]  # fmt: skip
        process = subprocess.Popen(words, preexec_fn=three_and_four, close_fds=False, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)  # fmt: skip
        os.close(read_theirs)
        os.close(write_theirs)
        try:
            yield Page(write_ours, read_ours)
        finally:
            os.close(write_ours)  # the end of its pipe is the end of the browser
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            os.close(read_ours)
