"""TensorBoard as a browser shows it: draws the README's two pictures of it, from a real run of the digits example.

    python examples/pictures/tensorboard_pages.py [--out examples/pictures]

Needs Chromium, and Pillow, which comes with matplotlib. ``serve`` and ``Browser`` are what tests/browser uses as well.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).parents[2]
NAMES = ("google-chrome", "chromium", "chromium-browser")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
PATIENCE = 120
"""[s] For a slow machine; nothing takes longer than it needs."""

# Also finds what is inside the shadow roots of TensorBoard's older pages.
FIND_ALL = """const findAll = (selector, root = document) => [...root.querySelectorAll(selector)].concat(
    ...[...root.querySelectorAll("*")].filter(e => e.shadowRoot).map(e => findAll(selector, e.shadowRoot)));"""


def until(ask: Callable[[], Any], what: str) -> Any:
    """Ask again and again until the answer is something, and return it."""
    end = time.monotonic() + PATIENCE
    while not (answer := ask()):
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {PATIENCE} s")
        time.sleep(0.2)
    return answer


@contextmanager
def running(*command: Any, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command, and end it together with all that it has started."""
    with subprocess.Popen([str(part) for part in command], start_new_session=True, **options) as process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@contextmanager
def serve(logdir: Path) -> Iterator[str]:
    """Run TensorBoard on a free port of this machine alone; give its address."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", logdir, "--host", "127.0.0.1", "--port", "0"]
    with tempfile.TemporaryFile() as log, running(*command, stdout=log, stderr=log) as process:

        def address() -> re.Match[str] | None:
            log.seek(0)
            said = log.read().decode()
            assert process.poll() is None, f"TensorBoard has ended: {said}"
            return re.search(r"http://127\.0\.0\.1:\d+", said)

        yield until(address, "TensorBoard's address").group()


class Browser:
    """A page in Chromium without a window, driven through the DevTools protocol."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._buffer = b""
        self._calls = 0
        self._session: dict[str, str] = {}
        target = self._call("Target.createTarget", url="about:blank")
        attached = self._call("Target.attachToTarget", flatten=True, **target)
        self._session = {"sessionId": attached["sessionId"]}

    @classmethod
    @contextmanager
    def started(cls) -> Iterator[Browser]:
        """Start Chromium; end it afterwards."""
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
            command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
            command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
            command += ["--disable-dev-shm-usage", f"--user-data-dir={profile}", "--remote-debugging-pipe"]
            # Chromium reads and writes the protocol on its files 3 and 4.
            pipes = 'exec "$@" 3<&0 4>&1 </dev/null >/dev/null 2>&1'
            with running("sh", "-c", pipes, "sh", *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
                yield cls(process)

    def open(self, url: str, width: int, height: int, scale: float = 1.0) -> None:
        """Load a page into a window of the given size [pixels], each pixel drawn as ``scale`` x ``scale``."""
        size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", **size)
        self._call("Page.navigate", url="about:blank")  # an address that differs after the # alone is not loaded anew
        self._call("Page.navigate", url=url)

    def ask(self, javascript: str) -> Any:
        """Return what an expression amounts to in the page; None where it fails. It may use ``findAll(selector)``."""
        code = f"(() => {{ {FIND_ALL} return {javascript} }})()"
        return self._call("Runtime.evaluate", expression=code, returnByValue=True)["result"].get("value")

    def wait_for(self, javascript: str) -> Any:
        """Ask until the answer is something."""
        return until(lambda: self.ask(javascript), javascript)

    def box(self, selector: str, number: int = 0) -> tuple[int, int, int, int]:
        """Return left, top, right and bottom of an element [pixels of the window]."""
        sides = self.ask(f"(({{left, top, right, bottom}}) => [left, top, right, bottom])"
                         f"(findAll('{selector}')[{number}].getBoundingClientRect())")  # fmt: skip
        return tuple(round(side) for side in sides)

    def picture(self, left: int, top: int, right: int, bottom: int) -> Image.Image:
        """Return a part of the page as it looks once nothing moves any more."""
        clip = {"x": left, "y": top, "width": right - left, "height": bottom - top, "scale": 1}
        seen: list[str] = []

        def still() -> bool:
            seen.append(self._call("Page.captureScreenshot", clip=clip)["data"])
            return len(seen) > 1 and seen[-1] == seen[-2]

        until(still, "a page that stands still")
        return Image.open(io.BytesIO(base64.b64decode(seen[-1]))).convert("RGB")

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._calls += 1
        request = {"id": self._calls, "method": method, "params": params, **self._session}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\0")
        self._process.stdin.flush()
        while (answer := self._read()).get("id") != self._calls:
            pass  # an event, of which there are many
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._process.stdout], [], [], PATIENCE)
            more = os.read(self._process.stdout.fileno(), 2**16) if ready else b""
            if not more:
                raise RuntimeError("Chromium has ended or hangs")
            self._buffer += more
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)


def curves(browser: Browser, address: str) -> Image.Image:
    """Return lr and momentum of the 1Cycle run, as the page "Custom Scalars" shows them; what is around them is cut."""
    width = 1024  # [pixels] the least that has both charts in one row
    browser.open(f"{address}/#custom_scalars&_smoothingWeight=0", width, 900, scale=2)
    browser.wait_for("findAll('path.line').length == 2")
    browser.ask("findAll('paper-checkbox').find(box => box.innerText.includes('outliers')).click()")
    return browser.picture(*browser.box("tf-category-paginated-view"))


def range_test(browser: Browser, address: str) -> Image.Image:
    """Return the range test's figure as the page "Time Series" shows it, beside its table from the page "Text"."""
    browser.open(f"{address}/?tagFilter=loss_vs_lr#timeseries", 1280, 900, scale=2)
    browser.wait_for("findAll('image-card img').some(image => image.naturalWidth)")
    figure = browser.picture(*browser.box("image-card"))
    browser.open(f"{address}/#text", 950, 900, scale=2)
    browser.wait_for("findAll('table table').length")
    table = browser.picture(*browser.box("table table"))
    whole = Image.new("RGB", (figure.width + table.width + 24, max(figure.height, table.height) + 24), "white")
    whole.paste(figure, (0, (whole.height - figure.height) // 2))
    whole.paste(table, (figure.width + 12, (whole.height - table.height) // 2))
    return whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as folder:
        demo = [sys.executable, ROOT / "examples" / "digits.py", "--seeds", "1", "--out", folder, "--range-test"]
        subprocess.run(demo, check=True)
        with serve(Path(folder) / "tensorboard") as address, Browser.started() as browser:
            for name, draw in {"curves": curves, "range_test": range_test}.items():
                # A palette of 128 colours is enough for lines and letters, and half of the size; that of the other
                # methods lacks the colour of the thinnest line.
                picture = draw(browser, address).quantize(128, Image.Quantize.MAXCOVERAGE)
                picture.save(out / f"tensorboard_{name}.png", optimize=True)


if __name__ == "__main__":
    main()
