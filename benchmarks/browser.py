"""A headless Chromium that opens pages, by the DevTools protocol over a pipe, and says how long that took."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WAIT_S = 120.0  # for any answer
# Seconds by the page's own clock, which begins when the browser goes to it, once it is whole and has been drawn.
DRAWN = """new Promise(done => {
  const frame = () => requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() / 1000)));
  document.readyState === "complete" ? frame() : addEventListener("load", frame);
})"""


class Browser:
    """A browser with one page, until `close`. FileNotFoundError where there is none."""

    def __init__(self) -> None:
        found = next(filter(None, map(shutil.which, BROWSERS)), None)
        if found is None:
            raise FileNotFoundError("no browser")
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        theirs_in, self._to = os.pipe()
        self._from, theirs_out = os.pipe()
        words = [
            found, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--window-size=1280,900",
            f"--user-data-dir={self._profile.name}",
        ]  # fmt: skip
        script = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'  # descriptors 3 and 4 are the protocol's
        self._process = subprocess.Popen(
            ["bash", "-c", script, "bash", *words], pass_fds=(theirs_in, theirs_out), stderr=subprocess.DEVNULL
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._left, self._n, self._session = b"", 0, ""
        target = self._send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._send("Page.enable")

    def opened_s(self, path: Path) -> tuple[float, int]:
        """Seconds until a page is drawn, from when the browser goes to it, and how many canvases it has."""
        self._send("Page.navigate", url="about:blank")
        self._send("Page.navigate", url=path.as_uri())
        seconds = self._value(DRAWN)
        return float(seconds), int(self._value("document.querySelectorAll('canvas').length"))

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(WAIT_S)
        os.close(self._to)
        os.close(self._from)
        self._profile.cleanup()

    def _value(self, expression: str) -> Any:
        answer = self._send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        return answer["result"]["value"]

    def _send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method and wait for its answer."""
        self._n += 1
        message = {"id": self._n, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._n:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return dict(answer["result"])

    def _next(self) -> dict[str, Any]:
        deadline = time.monotonic() + WAIT_S
        while b"\0" not in self._left:
            ready, _, _ = select.select([self._from], [], [], max(deadline - time.monotonic(), 0))
            read = os.read(self._from, 1 << 20) if ready else b""
            if not read:
                raise RuntimeError("the browser ended, or does not answer")
            self._left += read
        first, _, self._left = self._left.partition(b"\0")
        return dict(json.loads(first))
