"""A headless Chromium, driven through the DevTools protocol by a pipe: needs the browser's program and nothing else."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "chrome-headless-shell")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip
# The browser reads commands from descriptor 3 and writes to 4.
_START = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)
_PATIENCE = 60.0  # seconds for an answer
_KEY_CODES = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "End": 35, "Home": 36, "ArrowUp": 38, "ArrowDown": 40}


def chromium_program() -> str | None:
    """Return the browser's path, from CHROMIUM or the search path; None if there is none."""
    named = os.environ.get("CHROMIUM")
    return named or next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """A running browser with one page; what its console and its network say is kept."""

    def __init__(self, process: subprocess.Popen[bytes], commands: int, answers: int) -> None:
        self._process = process
        self._commands = commands
        self._answers = answers
        self._read = b""
        self._number = 0
        self._session: str | None = None
        self._events: list[dict[str, Any]] = []

    @classmethod
    @contextmanager
    def started(cls, program: str, profile: Path) -> Iterator[Self]:
        """Start a browser with an empty profile, and end it."""
        command_reader, command_writer = os.pipe()
        answer_reader, answer_writer = os.pipe()
        # Numbers above 4, so that moving one does not close the other.
        high = [os.dup(one) if one < 5 else one for one in (command_reader, answer_writer)]
        high = [os.dup(one) if one < 5 else one for one in high]
        with (profile.parent / "chromium.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-S", "-c", _START, *map(str, high), program, *FLAGS, f"--user-data-dir={profile}"],
                pass_fds=high, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        for descriptor in {command_reader, answer_writer, *high}:
            os.close(descriptor)
        browser = cls(process, command_writer, answer_reader)
        try:
            target = browser.send("Target.createTarget", url="about:blank")["targetId"]
            browser._session = browser.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                browser.send(f"{domain}.enable")
            yield browser
        finally:
            process.terminate()
            process.wait(_PATIENCE)
            os.close(command_writer)
            os.close(answer_reader)

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        number = self._number
        answer = self._until(lambda one: one.get("id") == number)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        result: dict[str, Any] = answer["result"]
        return result

    def open(
        self, path: Path, width: int = 1280, height: int = 900, scheme: str = "light", scripts: bool = True
    ) -> None:
        """Open a file in a window of a size, in the light or dark colour scheme, with or without JavaScript."""
        self._events.clear()
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.send("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.send("Page.navigate", url=path.resolve().as_uri())
        self._until(lambda one: one.get("method") == "Page.loadEventFired")

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression in the page."""
        found = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"].get("exception", {}).get("description", found))
        return found["result"].get("value")

    def click(self, selector: str) -> None:
        """Click into the middle of an element, as a mouse does."""
        x, y = self.evaluate(
            f"(() => {{ const element = document.querySelector({json.dumps(selector)});"
            "element.scrollIntoView({block: 'center'}); const box = element.getBoundingClientRect();"
            "return [box.x + box.width / 2, box.y + Math.min(box.height / 2, 15)]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str) -> None:
        """Press a key by its name, as ``Enter`` or ``ArrowDown``."""
        code = _KEY_CODES[key]
        text = {"Enter": "\r", " ": " "}.get(key)
        name = "Space" if key == " " else key
        self.send(
            "Input.dispatchKeyEvent", type="keyDown", key=key, code=name, windowsVirtualKeyCode=code,
            **({"text": text} if text else {}),
        )  # fmt: skip
        self.send("Input.dispatchKeyEvent", type="keyUp", key=key, code=name, windowsVirtualKeyCode=code)

    def screenshot(self, path: Path, whole: bool = True) -> None:
        """Write what the page looks like, the whole of it or what the window shows."""
        found = self.send("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))

    def complaints(self) -> list[str]:
        """Return errors and warnings of the console, the log and scripts since the page was opened."""
        self.evaluate("new Promise((done) => setTimeout(done, 50))")
        found = []
        for event in self._events:
            told = event.get("params", {})
            if event["method"] == "Runtime.exceptionThrown":
                found.append(str(told["exceptionDetails"]))
            elif event["method"] == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
                found.append(str(told["args"]))
            elif event["method"] == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
                found.append(told["entry"]["text"])
        return found

    def requests(self) -> list[str]:
        """Return the addresses that the page asked for since it was opened."""
        return [
            event["params"]["request"]["url"]
            for event in self._events
            if event["method"] == "Network.requestWillBeSent"
        ]

    def _until(self, wanted: Any) -> dict[str, Any]:
        """Read messages up to the one that is wanted; events on the way are kept."""
        end = time.monotonic() + _PATIENCE
        while True:
            while b"\0" in self._read:
                part, _, self._read = self._read.partition(b"\0")
                message: dict[str, Any] = json.loads(part)
                if "method" in message:
                    self._events.append(message)
                if wanted(message):
                    return message
            if not select.select([self._answers], [], [], max(0.0, end - time.monotonic()))[0]:
                raise TimeoutError("the browser does not answer")
            read = os.read(self._answers, 1 << 20)
            if not read:
                raise RuntimeError(f"the browser ended with code {self._process.wait()}")
            self._read += read
