"""The HTML report: what it draws equals the result, no name becomes markup, and a browser shows it without an error."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from packed_pages import bars_of

from cosoc.cli import main
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.mapping_file import find_mapping
from cosoc.sim.files.workload_file import dump_workload, find_workload
from cosoc.sim.report import run_page
from cosoc.sim.report.packed import packed, packed_bars
from cosoc.sim.report.run_page import gantt_data, occupancy_data
from cosoc.sim.simulate import simulate

NETWORK = find_workload("digits_cnn")
EVIL = "</script><script>document.title='taken'</script><img src=x onerror=alert(1)>&amp;"


def result(soc: str = "diana", runtime: Any = "overlapped") -> Any:
    machine = find_soc(soc)
    return simulate(machine, NETWORK, find_mapping("default", NETWORK, machine, runtime))


def embedded(page: str) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])


def evil_workload(folder: Path) -> Path:
    """The digits network, one layer of which has a name that closes a script."""
    text = dump_workload(NETWORK).replace(f"{NETWORK.layers[0].name}", "PLACE")
    file = folder / "evil.yaml"
    file.write_text(re.sub(r"\bPLACE\b", json.dumps(EVIL), text))
    return file


def test_every_op_is_drawn_from_issue_to_end() -> None:
    found = result()
    bars = sorted((bar[1], bar[2]) for row in gantt_data(found.program, found.trace)["rows"] for bar in bars_of(row))
    lasting = found.trace.end > found.trace.issue
    drawn = zip(found.trace.issue[lasting].tolist(), found.trace.end[lasting].tolist(), strict=True)
    assert bars == sorted(drawn)


def test_many_ops_are_joined_and_none_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Joined bars hold all ops, cover every tick in which one ran, and say in the note that they are joined."""
    found = result()
    monkeypatch.setattr(run_page, "BARS", 0)
    data = gantt_data(found.program, found.trace)
    bars = [bar for row in data["rows"] for bar in bars_of(row)]
    assert sum(bar[4] for bar in bars) == int((found.trace.end > found.trace.issue).sum())
    assert "drawn as one" in data["note"]
    monkeypatch.setattr(run_page, "BARS", 1 << 30)
    for row, exact in zip(data["rows"], gantt_data(found.program, found.trace)["rows"], strict=True):
        joined = bars_of(row)
        for kind, start, end, layer, _ in bars_of(exact):
            assert any(b[0] == kind and b[3] == layer and b[1] <= start and end <= b[2] for b in joined)


def test_bars_are_read_back_as_they_were() -> None:
    """Bars of a program's largest ticks (2^50) and of equal starts, against a reader that goes number by number."""
    g = np.random.default_rng(4)
    for n in (0, 1, 400):
        start = np.sort(g.integers(0, 1 << g.integers(1, 50, n)) if n else np.zeros(0, np.int64))
        columns = (g.integers(0, 7, n), start, start + g.integers(1, 300, n), g.integers(-1, 3, n), g.integers(1, 9, n))
        bars = np.stack(columns, axis=1)
        assert bars_of({"n": n, "bars": packed_bars(bars)}) == [tuple(bar) for bar in bars.tolist()]
    assert packed(np.array([0, 127, 128, 300])) == base64.b64encode(bytes([0, 127, 128, 1, 172, 2])).decode()


def test_a_million_ops_are_some_bytes_each() -> None:
    """Starts and lengths below 128 ticks take a byte each, four thirds of that as base64; kinds and layers that do not
    change, and single ops, take a run."""
    n = 1_000_000
    start = np.cumsum(np.full(n, 100))
    bars = np.stack((np.zeros(n, np.int64), start, start + 90, np.ones(n, np.int64), np.ones(n, np.int64)), axis=1)
    assert sum(map(len, packed_bars(bars).values())) <= 2 * (n * 4 / 3) + 100


def test_a_bar_begins_with_another_kind_or_after_a_gap() -> None:
    """A load, then three computations: two close by, one 20 ticks later, with gaps of 10 drawn."""
    kind, layer = np.array([0, 1, 1, 1]), np.zeros(4, np.int64)
    start, end = np.array([0, 10, 22, 50]), np.array([10, 20, 30, 60])
    assert run_page._firsts(run_page._ordered(kind, layer, start, end), gap=10).tolist() == [0, 1, 3]


def test_mean_occupancy_of_links_is_their_utilisation() -> None:
    """Spreading service evenly over a transfer moves it in time but loses none of it."""
    found = result()
    means = {one["name"]: one["mean"] for one in occupancy_data(found)["series"] if not one["credit"]}
    moving = {part.server: part.utilisation for part in found.by_server if part.busy_ticks and part.ports}
    assert moving and means == pytest.approx({name: moving[name] for name in means}, rel=1e-6)
    assert set(means) == set(moving)


def test_mean_level_of_a_drawn_step() -> None:
    """1 from tick 0 to half of the span, then 3: the halves of the chart."""
    level = run_page._mean_level(np.array([0, 120]), np.array([1.0, 2.0]), 240)
    half = run_page.BINS // 2
    assert level[:half] == pytest.approx(1) and level[half:] == pytest.approx(3)


def test_a_report_needs_nothing_from_outside(tmp_path: Path) -> None:
    file = tmp_path / "r.html"
    assert main(["simulate", "diana", "digits_cnn", "-q", "--report", str(file)]) == 0
    page = file.read_text()
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", page)
    assert "default-src 'none'" in page
    run = embedded(page)["run"]
    assert sum(ticks for _, _, ticks in run["causes"]) == run["ticks"] == sum(one["ticks"] for one in run["layers"])


def test_no_name_becomes_markup() -> None:
    page = run_page.page({"title": EVIL, "rows": [EVIL]})
    assert "taken'</script>" not in page and "<img" not in page
    assert embedded(page)["title"] == EVIL


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed")
def test_a_browser_shows_it_without_an_error(tmp_path: Path) -> None:
    """The page runs to its end (the last section stands), nothing is said on the console, no name ran as a script."""
    assert CHROMIUM
    file = tmp_path / "r.html"
    assert main(["simulate", "diana", str(evil_workload(tmp_path)), "-q", "--report", str(file)]) == 0
    words = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom",
        f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=2000", file.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    assert "CONSOLE" not in done.stderr
    assert "<h2>Provenance</h2>" in done.stdout and "<h2>Timeline</h2>" in done.stdout
    assert "<title>taken" not in done.stdout and "<img" not in done.stdout
    assert "&lt;img src=x" in done.stdout


# ------------------------------------------------------------------------------------------ the commands


def test_a_result_explains_itself_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A result's JSON carries its inputs, overrides included: explained anew it is the same run."""
    file = tmp_path / "r.json"
    setting = ["--set", "links.l2_read.bytes_per_period=2"]
    assert main(["simulate", "diana", "digits_cnn", "-q", "--json", str(file), *setting]) == 0
    capsys.readouterr()
    assert main(["explain", str(file), "--what-if", "links.l2_read.rate=16"]) == 0
    out = capsys.readouterr().out
    assert f"({json.loads(file.read_text())['ticks']:,} ticks)" in " ".join(out.split())
    assert "links.l2_read.rate=16" in out
    assert main(["compare", str(file), str(file)]) == 0
    assert "total" in capsys.readouterr().out
    assert main(["report", str(file), "--out", str(tmp_path / "r.html")]) == 0
    assert embedded((tmp_path / "r.html").read_text())["run"]["seconds"] == json.loads(file.read_text())["seconds"]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"inputs": 3}', "nonsense"])
def test_what_is_no_result_is_refused_in_one_line(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "r.json"
    file.write_text(content)
    for words in (["explain", str(file)], ["compare", str(file), str(file)], ["explain", str(tmp_path)]):
        capsys.readouterr()
        assert main(words) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_wrong_what_if_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", "diana", "digits_cnn", "--what-if", "links.l2_raed.rate=x2"]) == 2
    assert "links.l2_read.rate" in capsys.readouterr().err


def test_results_of_equal_cases_are_equal() -> None:
    """The page's data hold no clock and no random number: two equal runs give the same drawing."""
    one, other = result(), result()
    assert gantt_data(one.program, one.trace) == gantt_data(other.program, other.trace)


def test_two_mappings_are_compared_without_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same table as of the two results' files."""
    names = ("all_8bit", "min_cost")
    for name in names:
        words = ["simulate", "diana", "resnet8", "--mapping", name, "--runtime", "overlapped", "-q"]
        assert main([*words, "--json", str(tmp_path / f"{name}.json")]) == 0
    capsys.readouterr()
    assert main(["compare", *(str(tmp_path / f"{name}.json") for name in names)]) == 0
    by_files = capsys.readouterr().out
    given = [word for name in names for word in ("--mapping", name)]
    assert main(["compare", "diana", "resnet8", *given, "--runtime", "overlapped"]) == 0
    assert capsys.readouterr().out == by_files
    assert "A all_8bit on diana, B min_cost on diana" in " ".join(by_files.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["compare", "diana", "resnet8", "--mapping", "all_8bit"], "--mapping: found 1; two are needed"),
        (["compare", "a.json", "b.json", "--runtime", "serial"], "--runtime: means nothing with two results"),
        (["compare", "a.json", "b.json"], "a.json: no such file"),
        (["search", "diana", "net.onnx", "--out", "run"], "net.onnx: --space channels trains the network"),
        (["search", "diana", "net.yaml", "--out", "run"], "package.module:factory"),
    ],
)
def test_what_cannot_be_compared_or_trained_is_said_in_a_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    err = capsys.readouterr().err
    assert message in err and len(err.splitlines()) == 1
