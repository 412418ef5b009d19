"""Ranges of figures: read where they stand, and what they do to results, against closed forms of a chip made for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc, load_soc, soc_ranges
from cosoc.sim.files.yamlfile import Range
from cosoc.sim.model.mapping import LayerPlan, Part
from cosoc.sim.model.mapping import Mapping as NetworkMapping
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import INPUT, Layer, Workload
from cosoc.sim.ranges import Flip, Interval, over_ranges

# Two processors at one memory, at 1 MHz: nothing is moved, and nothing waits.
CHIP = """
name: two
tick_hz: 1_000_000
base_power_mw: 2.0                  # assumed, 1.0 .. 3.0: of all
host: first
main_memory: ram
memories:
  ram: {size_bytes: 1_000_000}
links: {}
dmas: {}
routes: []
cores:
  first:
    model: host_cpu
    memory: ram
    cycles_per_mac: 3               # assumed, 1 .. 9: by what it was compiled
    cycles_per_element: 1
  second:
    model: host_cpu
    memory: ram
    cycles_per_mac: 5
    cycles_per_element: 1
"""
LAYER = Layer("conv", "conv", (INPUT,), k=4, c=4, oy=5, ox=5, iy=5, ix=5)
NET = Workload("one", (4, 5, 5), (LAYER,), ("conv",))
MACS = 4 * 4 * 5 * 5
ON = [NetworkMapping(core, "serial", {"conv": LayerPlan((Part(core, 4),))}) for core in ("first", "second")]


@pytest.fixture
def chip(tmp_path: Path) -> Path:
    file = tmp_path / "two.yaml"
    file.write_text(CHIP)
    return file


def loader(file: Path) -> Callable[[Mapping[str, str]], SoC]:
    return lambda values: load_soc(file, values)


def test_ranges_are_read_where_they_stand(chip: Path) -> None:
    power, mac = soc_ranges(str(chip))
    assert power == Range("base_power_mw", 2.0, 1.0, 3.0, "assumed")
    assert mac == Range("cores.first.cycles_per_mac", 3, 1, 9, "assumed")
    assert soc_ranges(str(chip), {"base_power_mw"}) == (mac,)


@pytest.mark.parametrize(
    ("instead", "message"),
    [
        ("# range 1..9", "found '# range 1..9'"),
        ("# assumed, 1..9: why", "a range, write it as"),
        ("# assumed 1 .. 9: why", "a range, write it as"),
        ("# guessed, 1 .. 9: why", "one of published, model"),
        ("# assumed, 4 .. 9: why", "3 is not within its range, 4 .. 9"),
        ("# assumed, 9 .. 1: why", "3 is not within its range, 9 .. 1"),
        ("# assumed, 3 .. 3: why", "3 is not within its range, 3 .. 3"),
        ("# assumed, 1.5 .. 9: why", "whole numbers, as the value is one"),
        ("# assumed, some .. more: why", "whole numbers, as the value is one"),
    ],
)
def test_a_malformed_range_is_refused_at_its_place(tmp_path: Path, instead: str, message: str) -> None:
    text = CHIP.replace("# assumed, 1 .. 9: by what it was compiled", instead)
    file = tmp_path / "two.yaml"
    file.write_text(text)
    before = text[: text.index(instead)]
    place = f"{file}:{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}: cores.first.cycles_per_mac: "
    for read in (lambda: load_soc(file), lambda: soc_ranges(str(file))):
        with pytest.raises(InputError) as error:
            read()
        assert str(error.value).startswith(place)
        assert message in str(error.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("host: first                # assumed, 1 .. 9: why", "host: 'first' stands before a range"),
        ("  ram: {size_bytes: 9, reserved_bytes: 1} # assumed, 1 .. 9: why", "several values stand before a range"),
    ],
)
def test_a_range_belongs_to_one_number(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "two.yaml"
    key = line.split(":")[0]
    file.write_text("\n".join(line if one.startswith(f"{key}:") else one for one in CHIP.splitlines()))
    with pytest.raises(InputError, match=message):
        load_soc(file)


def test_words_and_lines_of_their_own_are_no_ranges(tmp_path: Path) -> None:
    """A comment that belongs to no value, and one of several sentences."""
    file = tmp_path / "two.yaml"
    file.write_text("# from 1 .. 9, as said\n" + CHIP.replace(": by what it was compiled", ": by GCC... or so"))
    assert len(soc_ranges(str(file))) == 2


def test_intervals_are_those_of_the_closed_form(chip: Path) -> None:
    """MACs x cycles each at 1 MHz; joules are base power times that. Two figures have four corners, all of which are
    tried, and time is linear in one figure alone."""
    found = over_ranges(loader(chip), soc_ranges(str(chip)), NET, ON)
    first, second = found.spreads
    assert first.seconds == Interval(*(pytest.approx(MACS * n * 1e-6) for n in (3, 1, 9)))
    low, high = 1e-3 * MACS * 1 * 1e-6, 3e-3 * MACS * 9 * 1e-6
    assert first.energy_j == Interval(*(pytest.approx(j) for j in (2e-3 * MACS * 3e-6, low, high)))
    assert second.seconds == Interval(*(pytest.approx(MACS * 5e-6),) * 3)
    assert (found.corners, found.all_corners) == (4, 4)
    assert [one.path for one in first.effects] == ["cores.first.cycles_per_mac", "base_power_mw"]
    assert first.effects[0].seconds == pytest.approx((MACS * 1e-6, MACS * 9e-6))


def test_a_conclusion_turns_where_the_closed_form_has_it(chip: Path) -> None:
    """The first processor is the faster while its products take less than the second's 5 cycles; at 5 both are, and the
    first named counts. It is at one end of its range in two of the four corners."""
    found = over_ranges(loader(chip), soc_ranges(str(chip)), NET, ON)
    assert found.fastest == "first"
    assert found.flips == (Flip("cores.first.cycles_per_mac", 6, "second"),)
    assert found.fastest_in_corners == {"first": 2, "second": 2}
    calm = over_ranges(loader(chip), [one for one in soc_ranges(str(chip)) if one.path == "base_power_mw"], NET, ON)
    assert calm.flips == ()


def test_a_turn_of_a_figure_that_is_no_whole_number_is_found_to_a_hundredth(chip: Path) -> None:
    """A figure of which a hundredth is a cycle: from 5.5 of them on it is 6, and the range's upper part is 6 long."""

    def load(values: Mapping[str, str]) -> SoC:
        return load_soc(chip, {"cores.first.cycles_per_mac": str(round(100 * float(values.get("x", "0.03"))))})

    (flip,) = over_ranges(load, [Range("x", 0.03, 0.01, 0.09, "assumed")], NET, ON).flips
    assert 0.055 <= flip.value <= 0.055 + 0.06 / 2**7


def test_corners_are_drawn_by_the_seed() -> None:
    """DIANA has more corners than are tried: equal seeds try the same ones, each once."""
    net = Workload("one", (16, 8, 8), (Layer("conv", "conv", (INPUT,), k=16, c=16, oy=8, ox=8, iy=8, ix=8),), ("conv",))
    on = [NetworkMapping("all", "serial", {"conv": LayerPlan((Part("digital", 16),))})]
    ranges = soc_ranges("diana")
    runs = [over_ranges(lambda v: find_soc("diana", v), ranges, net, on, seed, corners=3) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]
    assert all(one.low <= one.value <= one.high for one in ranges)
    for one in runs[0].spreads:
        for interval in (one.seconds, one.energy_j):
            assert interval.low <= interval.nominal <= interval.high


def test_the_command_line_has_them(chip: Path, run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    net = tmp_path / "net.yaml"
    net.write_text(
        "name: one\ninput: {c: 4, iy: 5, ix: 5}\noutputs: [conv]\nlayers:\n"
        "- {name: conv, op: conv, inputs: [input], k: 4, c: 4, oy: 5, ox: 5, iy: 5, ix: 5}\n"
    )
    files = []
    for core in ("first", "second"):
        files.append(tmp_path / f"{core}.yaml")
        files[-1].write_text(f"layers:\n  conv: {{parts: {{{core}: 4}}}}\n")
    both = ("--mapping", files[0], "--mapping", files[1])
    status, text, _ = run("compare", chip, net, *both, "--ranges", "--json", out, "-q")
    assert (status, text) == (0, "")
    assert json.loads(out.read_text())["flips"] == [
        {"path": "cores.first.cycles_per_mac", "value": 6, "faster": "second"}
    ]
    status, text, _ = run("simulate", chip, net, "--mapping", files[0], "--ranges")
    assert status == 0
    assert "1 .. 9" in text
    assert "all corners" in text
    status, _, error = run("simulate", chip, net, "--ranges", "--inferences", "2")
    assert (status, error.strip()) == (2, "--inferences: means nothing with --ranges; leave it out")
    fixed = ("--set", "base_power_mw=1", "--set", "cores.first.cycles_per_mac=2")
    assert "states no ranges" in run("simulate", chip, net, "--ranges", *fixed)[2]
