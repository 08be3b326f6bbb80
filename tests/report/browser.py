"""Headless Chromium, controlled over its own pipe: real wheel, keys and clicks, and the resulting page."""

import base64
import io
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
from numpy.typing import NDArray

CHROMIUM = shutil.which("chromium")
_WAIT_S = 300.0


class Browser:
    """One tab. Errors of the page and requests that it makes are kept as they come."""

    def __init__(self, commands: int, answers: int) -> None:
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._commands, self._answers = commands, answers
        self._number, self._unread = 0, b""
        self._session = ""
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def open(self, page: Path, width: int = 1400, height: int = 1000) -> None:
        """Open a file, and wait until its script says that it has drawn or failed."""
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self._call("Page.navigate", url=page.as_uri())
        self.wait(f"location.href === {page.as_uri()!r}")
        self.wait("['ready', 'failed'].includes(document.documentElement?.dataset.state)")

    def wait(self, condition: str) -> None:
        """Wait until a JavaScript expression is true."""
        end = time.monotonic() + _WAIT_S
        while not self.value(condition):
            assert time.monotonic() < end, f"not true after {_WAIT_S} s: {condition}; {self.errors}"
            time.sleep(0.05)

    def value(self, expression: str) -> Any:
        """Return what a JavaScript expression is."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wheel(self, selector: str, turn: int) -> None:
        """Turn the wheel over the middle of an element: down where `turn` is positive."""
        x, y, width, height = self.value(f"(({_BOX})({selector!r}))")
        middle = {"x": x + width / 2, "y": y + height / 2}
        self._call("Input.dispatchMouseEvent", type="mouseWheel", **middle, deltaX=0, deltaY=turn)

    def press(self, key: str) -> None:
        """Press a key where the focus is."""
        for kind in ("keyDown", "keyUp"):
            self._call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=_KEYS[key])

    def choose(self, selector: str, value: str) -> None:
        """Choose an option, a button or a box by its value, and wait until the page has drawn it."""
        self.value(f"(({_CHOOSE})({selector!r}, {value!r}))")
        self.wait("document.documentElement.dataset.state !== 'drawing'")

    def picture(self, selector: str) -> NDArray[np.uint8]:
        """Return what is seen of an element, from the top down: (height, width, 3)."""
        x, y, width, height = self.value(f"(({_BOX})({selector!r}))")
        clip = {"x": x, "y": y, "width": width, "height": height, "scale": 1}
        png = self._call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)["data"]
        seen = matplotlib.image.imread(io.BytesIO(base64.b64decode(png)), format="png")
        return np.rint(255 * seen[..., :3]).astype(np.uint8)

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self._keep(answer)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._answers], [], [], _WAIT_S)
            assert ready, f"the browser is silent for {_WAIT_S} s"
            received = os.read(self._answers, 1 << 20)
            assert received, "the browser has ended"
            self._unread += received
        first, _, self._unread = self._unread.partition(b"\0")
        return json.loads(first)

    def _keep(self, event: dict[str, Any]) -> None:
        method, params = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.errors.append(str(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.errors.append(str(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.errors.append(params["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])


_BOX = """(selector) => {
    const box = document.querySelector(selector).getBoundingClientRect();
    return [box.x + window.scrollX, box.y + window.scrollY, box.width, box.height];
}"""

_CHOOSE = """(selector, value) => {
    const found = document.querySelector(selector);
    if (found.tagName === "SELECT") {
        found.value = value;
        found.dispatchEvent(new Event("change", { bubbles: true }));
    } else {
        found.querySelector(`input[value="${value}"]`).click();
    }
}"""

_KEYS = {"ArrowUp": 38, "ArrowDown": 40, "PageUp": 33, "PageDown": 34, "Home": 36, "End": 35}


@contextmanager
def chromium(profile: Path, *options: str) -> Iterator[Browser]:
    """Start Chromium with a fresh profile, and end it. It draws on the CPU."""
    assert CHROMIUM is not None
    to_browser, from_browser = os.pipe(), os.pipe()
    command = [
        CHROMIUM, "--headless=new", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
        "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
        f"--user-data-dir={profile}", "--remote-debugging-pipe", *options, "about:blank",
    ]  # fmt: skip
    inherited = to_browser[0], from_browser[1]
    numbered = f'exec "$0" "$@" 3<&{inherited[0]} 4>&{inherited[1]}'  # the pipe's ends have these numbers
    process = subprocess.Popen(
        ["bash", "-c", numbered, *command], pass_fds=inherited, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    for end in inherited:
        os.close(end)
    try:
        yield Browser(to_browser[1], from_browser[0])
    finally:
        os.close(to_browser[1])
        os.close(from_browser[0])
        process.terminate()
        process.wait(30)
