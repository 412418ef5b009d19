"""Reports of runs and of searches: what they draw equals what was found, and a headless Chromium shows it, with real
pointer, wheel and key events, by the DevTools protocol over a pipe."""

from __future__ import annotations

import base64
import json
import os
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))
from packed_pages import bars_of

from cosoc.cli import main
from cosoc.search.runfolder import RunFolder
from cosoc.search.spaces.split_space import SplitConfig, search_splits
from cosoc.search.spaces.tile_search import TileConfig, search_tiles
from cosoc.sim.files.catalog import find_cluster, find_soc
from cosoc.sim.files.workload_file import dump_workload, find_workload
from cosoc.sim.model.mapping import Mapping
from cosoc.sim.model.workload import INPUT, Layer, Workload

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WAIT_S = 60.0  # for any answer; a loaded machine is slow to start a browser


class Browser:
    """One page. said: everything that came on its console, and every exception that nothing caught."""

    def __init__(self, profile: Path) -> None:
        to_browser, self._in = os.pipe()
        self._out, from_browser = os.pipe()
        words = [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe",
            f"--user-data-dir={profile}", "--window-size=1280,900", "--hide-scrollbars",
        ]  # fmt: skip
        # The protocol's pipes are file descriptors 3 and 4 of the browser.
        script = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'
        self._process = subprocess.Popen(
            ["bash", "-c", script, "bash", *words], pass_fds=(to_browser, from_browser), stderr=subprocess.DEVNULL
        )
        os.close(to_browser)
        os.close(from_browser)
        self._left, self._n, self._session = b"", 0, ""
        self.said: list[str] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method and wait for its answer."""
        self._n += 1
        message = {"id": self._n, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._in, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._n:
                assert "error" not in answer, answer
                return dict(answer["result"])

    def _next(self) -> dict[str, Any]:
        deadline = time.monotonic() + WAIT_S
        while b"\0" not in self._left:
            ready, _, _ = select.select([self._out], [], [], max(deadline - time.monotonic(), 0))
            read = os.read(self._out, 1 << 20) if ready else b""
            assert read, "the browser ended, or does not answer"
            self._left += read
        one, self._left = self._left.split(b"\0", 1)
        message = dict(json.loads(one))
        method, details = message.get("method", ""), message.get("params", {})
        if method in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            self.said.append(json.dumps(details))
        if method == "Network.requestWillBeSent" and not details["request"]["url"].startswith(("file:", "data:")):
            self.said.append(f"asks for {details['request']['url']}")
        return message

    def open(self, file: Path, scheme: str = "light") -> None:
        """Show a file, and wait until it is drawn."""
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.send("Page.navigate", url=file.as_uri())
        deadline = time.monotonic() + WAIT_S
        while not self.js("document.readyState === 'complete' && document.title !== ''"):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        self.settle()

    def settle(self) -> None:
        """Wait for two frames, so that observers have run and canvases are painted."""
        self.js("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")

    def js(self, expression: str) -> Any:
        """The value of an expression in the page."""
        done = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def place(self, selector: str, x: float = 0.5, y: float = 0.5) -> tuple[float, float]:
        """Scroll to an element; where in the window a point of it (as parts of its box) then is."""
        found = f"const n = document.querySelector({json.dumps(selector)}); n.scrollIntoView({{block: 'center'}});"
        box = self.js(
            f"(() => {{ {found} const b = n.getBoundingClientRect(); return [b.left, b.top, b.width, b.height]; }})()"
        )
        return box[0] + x * box[2], box[1] + y * box[3]

    def mouse(self, kind: str, at: tuple[float, float], **more: Any) -> None:
        self.send("Input.dispatchMouseEvent", type=kind, x=at[0], y=at[1], **more)

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        self.mouse("mouseMoved", start)
        self.mouse("mousePressed", start, button="left", buttons=1, clickCount=1)
        self.mouse("mouseMoved", end, button="left", buttons=1)
        self.mouse("mouseReleased", end, button="left", clickCount=1)

    def click(self, selector: str) -> None:
        at = self.place(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.mouse(kind, at, button="left", clickCount=1)

    def tip(self) -> str:
        """What the pointed-at mark says; empty where nothing is said."""
        return str(self.js("(t => t.style.display === 'block' ? t.textContent : '')(document.getElementById('tip'))"))

    def canvas(self) -> str:
        """A digest of what stands on the timeline."""
        return str(self.js("document.querySelector('canvas').toDataURL()"))

    def screenshot(self, file: Path) -> None:
        """The whole page as a PNG."""
        size = self.js("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": size[0], "height": min(size[1], 6000), "scale": 1}
        shot = self.send("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        """End the browser."""
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium is installed")
    one = Browser(tmp_path_factory.mktemp("profile"))
    yield one
    one.close()


# ---------------------------------------------------------------------------------------------------------------------
# Pages


@pytest.fixture(scope="module")
def split_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "split"
    config = SplitConfig(find_cluster("donna_hetero"), find_workload("resnet8"), 40, batches=(1, 8), out=folder)
    search_splits(config, lambda done, total, what: None)
    return folder


@pytest.fixture(scope="module")
def tile_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "tile"
    given = Mapping("default", "overlapped")
    config = TileConfig(find_soc("gemmini"), find_workload("digits_cnn"), given, out=folder, fusion=True)
    search_tiles(config, lambda done, total, what: None)
    return folder


@pytest.fixture(scope="module")
def run_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "run.html"
    assert main(["simulate", "diana", "resnet8", "--mapping", "min_cost", "-q", "--report", str(file)]) == 0
    return file


def page_of(folder: Path, *words: str) -> tuple[Path, Any]:
    """The report of a folder, and the data in it."""
    file = folder.parent / f"{folder.name}.html"
    assert main(["report", str(folder), "--out", str(file), *words]) == 0
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', file.read_text(), re.DOTALL)
    assert found
    return file, json.loads(found[1])


def drawn(data: Any, name: str) -> list[list[Any]]:
    """The points of a series, of whichever chart has it."""
    return next(
        s["points"] for part in data["charts"] for c in part["charts"] for s in c["series"] if s["name"] == name
    )


def test_a_split_s_page_draws_what_was_simulated(split_folder: Path) -> None:
    """The front is that of result.json; the timeline, replayed from the stages alone, is the run that was simulated."""
    content = json.loads((split_folder / "result.json").read_text())
    figures = {p["name"]: p["simulated"] for p in content["points"] + content["known"]}
    for chosen in (content["points"][0], content["points"][-1], content["known"][0]):
        _, data = page_of(split_folder, "--point", chosen["name"])
        points = [(figures[name]["throughput"], 1e3 * figures[name]["energy_j"]) for name in content["front"]]
        assert [(x, y) for x, y, _ in drawn(data, "not dominated")] == points
        replay = chosen["about"]["replay"]
        assert data["timeline"]["seconds"] == replay["seconds"]
        shares = {row["name"].split(":")[0]: row["simulated"] for row in data["bars"][0]["rows"]}
        assert shares == pytest.approx(replay["utilisation"])
        busy = {row["name"]: sum(b[2] - b[1] for b in bars_of(row)) for row in data["timeline"]["gantt"]["rows"]}
        for part in replay["devices"]:
            assert busy[part["device"]] / data["timeline"]["ticks"] == pytest.approx(part["utilisation"])


def test_a_steady_pipeline_s_busiest_device_is_predicted(split_folder: Path) -> None:
    """One device has no filling and draining: it is busy all the time, as predicted."""
    _, data = page_of(split_folder, "--point", "one_gpu")
    (row,) = data["bars"][0]["rows"]
    assert row["simulated"] == pytest.approx(1) and row["estimate"] == pytest.approx(1)


def test_a_tiling_s_page_draws_pieces_that_sum_to_the_run(tile_folder: Path) -> None:
    """Simulated: parts of the critical path, which sum to the run."""
    content = json.loads((tile_folder / "result.json").read_text())
    best = next(p for p in content["points"] + content["known"] if p["name"] == content["best"])
    _, data = page_of(tile_folder)
    rows = data["bars"][0]["rows"]
    assert sum(row["simulated"] for row in rows) == pytest.approx(data["run"]["seconds"])
    assert data["run"]["seconds"] == pytest.approx(best["simulated"]["latency_s"])


def test_what_is_wrong_with_a_folder_is_said_in_a_line(
    split_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "r.html")
    assert main(["report", str(split_folder), "--out", out, "--point", "point_99"]) == 2
    assert "has no mapping point_99; there is point_0" in capsys.readouterr().err
    for name, message in (("result.json", "is not what the run wrote"), ("manifest.json", "is not the manifest")):
        folder = tmp_path / name
        shutil.copytree(split_folder, folder)
        for content in ("", "{}", "[]", "null"):
            (folder / name).write_text(content)
            assert main(["report", str(folder), "--out", out]) == 2
            said = capsys.readouterr().err
            assert message in said and said.count("\n") == 1
    for result in (None, "{}", "[]", '{"points": [3]}'):
        folder = tmp_path / f"made {result}".replace("/", "")
        with RunFolder(folder, yaml.safe_load((split_folder / "config.yaml").read_text()), resume=False) as made:
            if result is not None:
                made.put("result", {"result.json": result})
        assert main(["report", str(folder), "--out", out]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


# ---------------------------------------------------------------------------------------------------------------------
# In the browser


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_show_themselves_in_both_schemes(
    browser: Browser, run_page: Path, split_folder: Path, tile_folder: Path, scheme: str
) -> None:
    """To the last section, without a word on the console and without asking for anything but the file."""
    for file in (run_page, page_of(split_folder)[0], page_of(tile_folder)[0]):
        browser.open(file, scheme)
        titles = browser.js("[...document.querySelectorAll('h2')].map(x => x.textContent)")
        assert titles[-1] == "Provenance" and len(titles) >= 4
        red, green, blue = map(int, re.findall(r"\d+", browser.js("getComputedStyle(document.body).backgroundColor")))
        assert (red + green + blue > 600) == (scheme == "light")
        browser.click("#theme")
        assert browser.js("document.documentElement.dataset.theme") == ("dark" if scheme == "light" else "light")
        # What is drawn is seen: of the timeline's pixels some differ from its background.
        seen = "new Set(new Uint32Array(c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer)).size"
        assert browser.js(f"(c => {seen})(document.querySelector('canvas'))") > 3
    assert browser.said == []


def test_pointing_at_a_mark_shows_its_figures(browser: Browser, run_page: Path, split_folder: Path) -> None:
    browser.open(page_of(split_folder)[0])
    content = json.loads((split_folder / "result.json").read_text())
    # Marks that lie on one another: the last one drawn is pointed at, and some mark is the fastest point's.
    labels = browser.js("[...document.querySelectorAll('circle')].map(x => x.getAttribute('aria-label'))")
    assert any(f"{content['points'][0]['simulated']['throughput']:.4g}/s" in text for text in labels)
    browser.mouse("mouseMoved", browser.place("circle:last-of-type"))
    assert browser.tip() in labels
    browser.mouse("mouseMoved", (2, 2))
    assert browser.tip() == ""
    browser.mouse("mouseMoved", browser.place(".bars > :nth-child(2)"))
    assert "simulated" in browser.tip()
    browser.open(run_page)
    data = json.loads(browser.js("document.getElementById('data').textContent"))["run"]
    first = data["memories"]["series"][0]
    browser.mouse("mouseMoved", browser.place(".memory svg", 0.999))
    assert (
        browser.tip().startswith(f"{first['name']} at ") and f"of {first['capacity'] / 1024:.4g} KiB" in browser.tip()
    )
    assert browser.said == []


def test_the_timeline_zooms_and_moves(browser: Browser, run_page: Path) -> None:
    """Wheel, keys, buttons and dragging each change what is drawn; zoomed to the left end, an op's own times are
    shown; `All` brings the first view back."""
    browser.open(run_page)
    whole = browser.canvas()
    left = browser.place("canvas", 0.0)
    browser.mouse("mouseWheel", left, deltaX=0, deltaY=-400)
    browser.settle()
    zoomed = browser.canvas()
    assert zoomed != whole
    browser.drag(browser.place("canvas", 0.7), browser.place("canvas", 0.3))
    browser.settle()
    moved = browser.canvas()
    assert moved != zoomed
    for label in ("Zoom in", "Later"):
        before = browser.canvas()
        browser.click(f"button[aria-label='{label}']")
        assert browser.canvas() != before
    browser.click("button[aria-label='Whole run']")
    assert browser.canvas() == whole
    browser.js("document.querySelector('canvas').focus()")
    for key in ("+", "ArrowRight", "-"):
        before = browser.canvas()
        browser.send("Input.dispatchKeyEvent", type="keyDown", key=key)
        assert browser.canvas() != before
    assert browser.said == []


def test_pointing_at_an_op_names_it(browser: Browser, run_page: Path) -> None:
    browser.open(run_page)
    gantt = json.loads(browser.js("document.getElementById('data').textContent"))["run"]["gantt"]
    ticks = browser.js("JSON.parse(document.getElementById('data').textContent).run.ticks")
    longest = max(bars_of(gantt["rows"][0]), key=lambda bar: bar[2] - bar[1])
    at = browser.place("canvas", (longest[1] + longest[2]) / 2 / ticks, 0)
    browser.mouse("mouseMoved", (at[0], at[1] + 20 + 20))  # the first row, below the axis and the unit's name
    kind, layer = gantt["kinds"][longest[0]], gantt["layers"][longest[3]]
    assert browser.tip().startswith(f"{gantt['rows'][0]['name']}: {kind} of {layer}")
    assert f"(ticks {longest[1]:,} to {longest[2]:,})" in browser.tip()


@pytest.fixture(scope="module")
def long_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chain of 600 pointwise convolutions: more layers than the page makes rows of at once."""
    folder = tmp_path_factory.mktemp("long")
    layers = [Layer(f"layer{i}", "conv", (f"layer{i - 1}" if i else INPUT,), 16, 16, 4, 4, 4, 4) for i in range(600)]
    workload = Workload("long", (16, 4, 4), tuple(layers), ("layer599",))
    (folder / "long.yaml").write_text(dump_workload(workload))
    file = folder / "long.html"
    assert main(["simulate", "diana", str(folder / "long.yaml"), "-q", "--report", str(file)]) == 0
    return file


def test_rows_of_many_layers_are_made_as_they_are_seen(browser: Browser, long_page: Path) -> None:
    """Few nodes for many layers; scrolled to its end the list shows the last one; the field finds one by its name."""
    browser.open(long_page)
    names = "[...document.querySelectorAll('.many .bars > :nth-child(3n+1)')].map(x => x.textContent)"
    height = browser.js("document.querySelector('.many').scrollHeight")
    assert browser.js(names)[0] == "layer0" and len(browser.js(names)) < 200
    browser.js("(b => { b.scrollTop = b.scrollHeight; })(document.querySelector('.many'))")
    browser.settle()
    assert browser.js(names)[-1] == "layer599" and len(browser.js(names)) < 200
    assert browser.js("document.querySelector('.many').scrollHeight") == height == 600 * 21 + 599 * 3  # rows and gaps
    browser.js("(i => { i.value = 'LAYER37'; i.dispatchEvent(new Event('input')); })(document.querySelector('input'))")
    assert browser.js(names) == ["layer37", *(f"layer37{i}" for i in range(10))]
    assert browser.said == []


def test_what_lies_under_a_pixel_is_counted_and_told_apart_by_zooming(browser: Browser, long_page: Path) -> None:
    """Zoomed until an op is some pixels wide, the one in the middle of the view is told with its exact ticks."""
    browser.open(long_page)
    run = json.loads(browser.js("document.getElementById('data').textContent"))["run"]
    middle, zooms = run["ticks"] / 2, 8
    places = ((i, bar) for i, one in enumerate(run["gantt"]["rows"]) for bar in bars_of(one))
    row, (_, start, end, _, _) = min(places, key=lambda place: abs(place[1][1] + place[1][2] - run["ticks"]))
    below = 20 + row * 38 + 20
    at = browser.place("canvas", 0.5, 0)
    browser.mouse("mouseMoved", (at[0], at[1] + below))
    assert "more at this point: zoom in" in browser.tip()
    for _ in range(zooms):
        browser.click("button[aria-label='Zoom in']")
    at = browser.place("canvas", 0.5 + ((start + end) / 2 - middle) / run["ticks"] * 2**zooms, 0)
    browser.mouse("mouseMoved", (at[0], at[1] + below))
    assert f"(ticks {start:,} to {end:,})" in browser.tip() and "more at this point" not in browser.tip()
    assert browser.said == []
