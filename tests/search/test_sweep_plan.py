"""Plans: formulas against Python's own arithmetic, grids against enumeration by hand, typing errors found before the
start, budgets, and what is written of a campaign."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any

import pytest

from cosoc.search.campaigns.axes import Grid
from cosoc.search.campaigns.budget import budget, within
from cosoc.search.campaigns.expression import COMPARISONS, parsed
from cosoc.search.campaigns.plan import Task, load_plan, tasks
from cosoc.search.campaigns.run import _batches
from cosoc.search.campaigns.store import stored_rows
from cosoc.sim.errors import InputError

Say = Callable[..., tuple[int, str, str]]
VALUES = {"a": Fraction(3), "b.c": Fraction(5, 2), "d": Fraction(7)}


def formula(rng: Random, depth: int) -> tuple[str, str]:
    """A random formula as it stands in a plan, and as Python has it."""
    kind = rng.randrange(5) if depth else rng.randrange(2)
    if kind == 0:
        name = rng.choice(list(VALUES))
        return name, f"VALUES[{name!r}]"
    if kind == 1:
        number = rng.choice(("0", "2", "1_024", "0.5", "10.25"))
        return number, f"Fraction({number.replace('_', '')!r})"
    parts = [formula(rng, depth - 1) for _ in range(2)]
    if kind == 2:
        return f"-({parts[0][0]})", f"-({parts[0][1]})"
    sign, space = rng.choice("+-*/"), rng.choice(("", " "))
    text = [f"{a}{space}{sign}{space}{b}" for a, b in zip(*parts, strict=True)]
    return (f"({text[0]})", f"({text[1]})") if kind == 3 else (text[0], text[1])


def test_formulas_are_pythons_arithmetic_in_fractions() -> None:
    rng, divided = Random(1), 0
    for _ in range(400):
        ours, python = formula(rng, 4)
        if len(ours) > 300:
            continue
        try:
            right = eval(python, {"VALUES": VALUES, "Fraction": Fraction})
        except ZeroDivisionError:
            divided += 1
            with pytest.raises(ZeroDivisionError):
                parsed(ours).value(VALUES.__getitem__)
            continue
        assert parsed(ours).value(VALUES.__getitem__) == right, ours
        sign = rng.choice(COMPARISONS)
        condition = parsed(f"{ours} {sign} 2", condition=True)
        assert condition.value(VALUES.__getitem__) == eval(f"right {sign} 2"), condition.text
    assert divided


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it ends there"), ("2 *", "it ends there"), ("(2", "it ends there; a closing"),
        ("2 3", "'3' at character 3"),
        ("a ** b", "'*' at character 4"), ("__import__('os')", r"'\(' at character 11"),
        ("a[0]", r"'\[' at character 2"),
        ("1 < 2", "'<' at character 3"), ("(" * 200, "at most 30 levels"), ("1+" * 200, "400 characters"),
        ("x if y", "'if'"),
    ],
)  # fmt: skip
def test_what_is_no_formula_is_refused_where_it_ends_to_be_one(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parsed(text)


def test_a_grid_is_what_enumeration_by_hand_gives() -> None:
    """Axes, what follows from them (in whatever order it stands) and from the file, and a condition."""
    axes: dict[str, Any] = {
        "m.l1.size": "2 * width + base", "c.array.width": "8 * c.array.rows", "c.array.rows": (1, 2, 3),
        "l.rate": (4, 16),
    }  # fmt: skip
    content = {"m": {"l1": {"size": 7, "base": 100}}}
    found = [
        {path: json.loads(value) for path, value in one.items()} for one in Grid(axes, ["rows * rate <= 32"], content)
    ]
    assert found == [
        {"m.l1.size": 2 * 8 * rows + 100, "c.array.width": 8 * rows, "c.array.rows": rows, "l.rate": rate}
        for rows, rate in itertools.product((1, 2, 3), (4, 16))
        if rows * rate <= 32
    ]
    assert len(found) == 5  # 3 x 16 is left out


@pytest.mark.parametrize(
    ("axes", "said"),
    [
        ({"a.x": "y", "a.y": "x"}, "a.x and a.y follow from one another"),
        ({"a.x": "z", "a.y": (1, 2)}, r"z is no axis \(there is a.x, a.y\)"),
        ({"a.x": "n + 1", "b.n": (1,), "c.n": (2,)}, "n may be b.n or c.n; write more"),
        ({"a.x": "mode", "a.mode": ("fast",)}, "a.mode is 'fast' there, no number"),
        ({"a.x": "1 / (y - 2)", "a.y": (1, 2)}, "divides by zero"),
    ],
)
def test_formulas_that_mean_nothing_are_refused(axes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        list(Grid(axes, (), {}))


TYPO = """\
simulate:
  soc: [diana, dianna]
  workload: [resnet8, resnet88]
  mapping: [default, all8bit]
  set:
    links.l1.bytes_per_periods: [8, 16]
    memories.l1.size_bytes: [131072, 1.5]
    cores.digital.cols: row
"""


@pytest.mark.parametrize(
    ("keep", "said"),
    [
        ("dianna", r":2:16: simulate.soc.1: no SoC named 'dianna'"),
        ("resnet88", r":3:23: simulate.workload.1: no workload named 'resnet88'"),
        ("all8bit", r":4:22: simulate.mapping.1: no mapping named 'all8bit'"),
        ("bytes_per_periods", r":6:34: simulate.set.links.l1.bytes_per_periods.0: diana: .*did you mean bytes_per_p"),
        ("1.5", r":7:38: simulate.set.memories.l1.size_bytes.1: diana: .*whole number|valid integer"),
        ("row$", r":8:25: simulate.set.cores.digital.cols: diana: row is no axis"),
    ],
)  # fmt: skip
def test_a_typing_error_is_found_once_and_before_the_start(
    keep: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Say
) -> None:
    """Of the plan's six errors, all but one mended: one line at its place, status 2, nothing begun."""
    monkeypatch.chdir(tmp_path)
    right = {"dianna": "diana", "resnet88": "resnet8", "all8bit": "default", "bytes_per_periods": "bytes_per_period",
             "1.5": "262144", "row$": "rows"}  # fmt: skip
    text = TYPO
    for wrong, value in right.items():
        if wrong != keep:
            text = re.sub(re.escape(wrong) if wrong != "row$" else r"row$", value, text, flags=re.M)
    Path("plan.yaml").write_text(text)
    status, out, line = run("sweep", "plan.yaml")
    assert (status, out, line.count("\n")) == (2, "", 1)
    assert re.search(said, line), line
    assert not Path("sweep").exists()


def test_conditions_that_leave_nothing_are_refused(tmp_path: Path, run: Say) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        "simulate: {soc: [diana], workload: [resnet8], set: {cores.digital.rows: [8]}, where: [rows > 8]}\n"
    )
    status, _, said = run("sweep", plan, "--out", tmp_path / "out")
    assert status == 2 and "simulate.where: diana: no combination meets rows > 8" in said


def test_where_tasks_failed_the_status_is_1_and_the_table_says_so(tmp_path: Path, run: Say) -> None:
    """All of them: no empty table. Some: the table, and how many."""
    (tmp_path / "map.yaml").write_text("layers: {elsewhere: {parts: {digital: 1}}}\n")
    for names, counts in ((["map.yaml"], "0 done, 1 failed"), (["map.yaml", "default"], "1 done, 1 failed")):
        mappings = ", ".join(str(tmp_path / name) if "." in name else name for name in names)
        plan = tmp_path / f"plan{len(names)}.yaml"
        plan.write_text(f"simulate: {{soc: [diana], workload: [digits_cnn], mapping: [{mappings}]}}\n")
        status, out, said = run("sweep", plan, "--out", tmp_path / f"out{len(names)}", "--workers", "1")
        assert status == 1 and counts in out and "has no such layer" in said
        assert ("task" in out) == (len(names) == 2)


# ------------------------------------------------------------------------------------------ budgets

WITH_AREA = "simulate: {soc: [SOC], workload: [digits_cnn], set: {memories.buffers.area_mm2: [0.5, 1.5, 2.5]}}\n"


def test_a_budget_leaves_out_chips_that_are_over_it(tmp_path: Path) -> None:
    """The area of the only memory that states one is set, so what is kept follows by hand."""
    plan = tmp_path / "plan.yaml"
    plan.write_text(WITH_AREA.replace("SOC", "isaac"))
    every = list(tasks(load_plan(plan)))
    for text, kept in (("area=2mm2", 2), ("area=1500000um2", 2), ("area=0.1mm2", 0), ("power=1000W", 3)):
        assert len(list(within(every, (budget(text),)))) == kept, text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("area=2mm2", "rpi4 states none (technology, or area_mm2); leave the budget out"),
        ("area=2", "area=NUMBER with mm2 or um2"), ("size=2mm2", "area=NUMBER with mm2 or um2"),
        ("area=-1mm2", "area=NUMBER with mm2"), ("area=1e999mm2", "area=NUMBER with mm2"),
    ],
)  # fmt: skip
def test_a_budget_that_cannot_be_held_is_refused(text: str, said: str, tmp_path: Path, run: Say) -> None:
    """Where a file states no area there is none to compare; nothing is begun."""
    plan = tmp_path / "plan.yaml"
    plan.write_text("simulate: {soc: [rpi4], workload: [digits_cnn]}\n")
    status, _, line = run("sweep", plan, "--out", tmp_path / "out", "--budget", text)
    assert status == 2 and said in line and line.count("\n") == 1 and not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------ what is written

PLAN = """\
simulate:
  soc: [diana]
  workload: [digits_cnn]
  mapping: [all_8bit, all_ternary]
  set:
    links.l2_read.bytes_per_period: [2, 8]
    memories.l1.size_bytes: [65536, 131072]
"""


def test_table_page_and_file_say_the_same(tmp_path: Path, run: Say) -> None:
    """A line of CSV for each task; each cell of a map is the least over what is no axis of it; `report` on the folder
    draws what the sweep drew."""
    plan, out = tmp_path / "plan.yaml", tmp_path / "out"
    plan.write_text(PLAN)
    table, page = tmp_path / "out.csv", tmp_path / "page.html"
    status, _, said = run("sweep", plan, "--out", out, "--workers", "1", "--csv", table, "--report", page, "--quiet")
    assert (status, said) == (0, "")
    rows = stored_rows(out / "results.sqlite")
    lines = list(csv.DictReader(io.StringIO(table.read_text())))
    assert len(lines) == len(rows) == 8
    for line, row in zip(lines, rows, strict=True):
        assert (line["id"], float(line["latency_s"])) == (row["id"], row["result"]["latency_s"])
        assert line["links.l2_read.bytes_per_period"] == row["spec"]["set"]["links.l2_read.bytes_per_period"]
        assert float(line["area_mm2"]) == row["result"]["area_mm2"] > 0
    time, energy = _embedded(page)["maps"]
    for drawn, key in ((time, "latency_s"), (energy, "energy_j")):
        for y, cells in zip(drawn["ys"], drawn["cells"], strict=True):
            for x, cell in zip(drawn["xs"], cells, strict=True):
                there = [
                    row["result"][key] for row in rows if {drawn["y"]: y, drawn["x"]: x}.items() <= _at(row).items()
                ]
                assert len(there) == 2 and cell[0] == pytest.approx(1e3 * min(there), rel=1e-12)
    again = tmp_path / "again.html"
    assert run("report", out, "--out", again)[0] == 0
    drawn, redrawn = _embedded(page), _embedded(again)
    assert {key: drawn[key] for key in ("charts", "maps")} == {key: redrawn[key] for key in ("charts", "maps")}


def _at(row: Any) -> dict[str, str]:
    return {"mapping": row["spec"]["mapping"]} | row["spec"]["set"]


def _embedded(page: Path) -> Any:
    text = page.read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    return json.loads(found[1])


def test_a_campaigns_page_is_refused_where_it_means_nothing(tmp_path: Path, run: Say) -> None:
    (tmp_path / "results.sqlite").write_text("no database")
    for words, said in (
        ([], "is not what the campaign wrote"), (["--point", "best"], "which has no points"),
    ):  # fmt: skip
        status, _, line = run("report", tmp_path, "--out", tmp_path / "page.html", *words)
        assert status == 2 and said in line and not (tmp_path / "page.html").exists()


def test_batches_for_a_cluster_are_small_enough_for_all_of_its_lanes() -> None:
    """By hand: 64 simulations for 2 lanes are 8 batches of 8, of 1,000 none is larger than 32, of few each is alone; a
    search is alone wherever it stands; nobody is left out and the order stays."""
    simulations = [Task("simulate", {"n": n}) for n in range(1000)]
    searches = [Task("search", {"n": n}) for n in range(2)]
    assert [len(batch) for batch in _batches(simulations[:64], 2)] == [8] * 8
    assert max(len(batch) for batch in _batches(simulations, 2)) == 32
    assert [len(batch) for batch in _batches(simulations[:5], 2)] == [1] * 5
    mixed = [*simulations[:20], searches[0], *simulations[20:30], searches[1]]
    batches = list(_batches(mixed, 1))
    assert [task for batch in batches for task in batch] == mixed
    assert all(len(batch) == 1 for batch in batches if batch[0].kind == "search")
