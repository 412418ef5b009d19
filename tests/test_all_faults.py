"""A file with several faults says all of them, each at its line: faults are planted into every file that comes with
cosoc, where its text has room for them, so that the answer is known."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from cosoc.cli import main
from cosoc.search.campaigns.checks import plan_problems
from cosoc.search.campaigns.plan import load_plan
from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc, find_technology, list_clusters, list_socs, load_cluster, load_soc
from cosoc.sim.files.mapping_file import dump_mapping, find_mapping, load_mapping
from cosoc.sim.files.names import (
    built_in_mappings,
    cluster_folder,
    list_technologies,
    list_workloads,
    soc_folder,
    technology_folder,
    workload_folder,
)
from cosoc.sim.files.workload_file import find_workload, load_workload
from cosoc.sim.files.yamlfile import MAX_TOLD
from cosoc.sim.tiler import checked

Planted = tuple[str, str]  # the line with the fault in it, and what is to be said there
Plant = Callable[[str, random.Random], Planted | None]  # None: the line has no room for it

# ------------------------------------------------------------------------------------------ faults of one line
KEY = re.compile(r"^(\s+)([a-z]\w*): +([^\s#{\[][^#]*?)(\s*(?:#.*)?)$")  # a key with a plain value
NUMBER = re.compile(r"^-?[\d_.]+$")


def _negative(line: str, g: random.Random) -> Planted | None:
    """No figure of a SoC file may be below zero."""
    found = KEY.match(line)
    if found is None or not NUMBER.match(found[3]):
        return None
    return f"{found[1]}{found[2]}: -7{found[4]}", f"{found[2]}: found -7: must be"


def _word(line: str, g: random.Random) -> Planted | None:
    found = KEY.match(line)
    if found is None or not NUMBER.match(found[3]):
        return None
    return f"{found[1]}{found[2]}: plenty{found[4]}", f"{found[2]}: found 'plenty'"


def _misspelled(line: str, g: random.Random) -> Planted | None:
    """The letter before the last is given twice: no key of ours is called so."""
    found = KEY.match(line)
    if found is None or len(found[2]) < 6 or found[2] in ("model", "links"):
        return None
    wrong = f"{found[2][:-1]}{found[2][-2:]}"
    return line.replace(f"{found[2]}:", f"{wrong}:", 1), f"{wrong}: unknown key; did you mean {found[2]}?"


def _twice(line: str, g: random.Random) -> Planted | None:
    """The second one stands in the next line, which is what is said."""
    found = KEY.match(line)
    return None if found is None else (f"{line}\n{line}", f"{found[2]}: key given twice; keep one")


def _range(line: str, g: random.Random) -> Planted | None:
    found = KEY.match(line)
    if found is None or not NUMBER.match(found[3]):
        return None
    return f"{found[1]}{found[2]}: {found[3]} # assumed, 9 .. x: why", "are needed; write it as"


def _instead(pattern: str, instead: str, says: str, of: str = "") -> Plant:
    """The first match of a pattern replaced, in lines that another pattern is found in."""

    def plant(line: str, g: random.Random) -> Planted | None:
        wrong, n = re.subn(pattern, instead, line, count=1) if re.search(of, line) else (line, 0)
        return (wrong, says) if n else None

    return plant


SOC_FAULTS: tuple[Plant, ...] = (
    _negative,
    _word,
    _misspelled,
    _twice,
    _range,
    _instead(r"\{from: \w+,", "{from: nowhere,", "from: no memory named 'nowhere'"),
    _instead(r"^host: \w+", "host: nobody", "host: no core named 'nobody'"),
    _instead(r"^(    (?:memory|weight_memory|accumulator|l2|llc): )\w+", r"\1nowhere", "no memory named 'nowhere'"),
    _instead(r"(links: \[)\w+", r"\1nothing", "no link named 'nothing'"),
    _instead(r", dma: \w+,", ",", "dma: required key is missing"),  # a route without a mover
)


def _planted(text: str, faults: tuple[Plant, ...], n: int, g: random.Random, apart: int = 1) -> tuple[str, list[str]]:
    """A text with n faults in lines at least `apart` from one another; and for each what is to be said, at its line."""
    lines = text.splitlines()
    room = [(i, plant) for i, line in enumerate(lines) for plant in faults if plant(line, g)]
    g.shuffle(room)
    put: dict[int, Planted] = {}
    for i, plant in room:
        if len(put) < n and all(abs(i - other) >= apart for other in put):
            put[i] = plant(lines[i], g) or ("", "")
    out, said = list[str](), list[str]()
    for i, line in enumerate(lines):
        instead, says = put.get(i, (line, ""))
        out += instead.split("\n")
        if says:
            said.append(f"{len(out)}:{says}")
    return "\n".join(out) + "\n", said


def _missing(lines: tuple[str, ...], said: list[str]) -> list[str]:
    """What was to be said, and was not."""

    def told(what: str) -> bool:
        number, says = what.split(":", 1)
        return any(f".yaml:{number}:" in line and says in line for line in lines)

    return [what for what in said if not told(what)]


def _all_are_said(load: Callable[[Path], object], file: Path, text: str, said: list[str]) -> None:
    file.write_text(text)
    with pytest.raises(InputError) as refused:
        load(file)
    lines = refused.value.lines
    assert not _missing(lines, said), "\n".join(lines)
    assert len(lines) == len(said), f"{said}:\n" + "\n".join(lines)  # and nothing that only follows
    assert str(refused.value) == lines[0] and all("\n" not in line for line in lines)


@pytest.mark.parametrize("name", list_socs())
def test_all_faults_of_a_soc(tmp_path: Path, name: str) -> None:
    """Two to five, eight times over."""
    text = (soc_folder() / f"{name}.yaml").read_text()
    for seed in range(8):
        g = random.Random(f"{name} {seed}")
        wrong, said = _planted(text, SOC_FAULTS, g.randint(2, 5), g)
        _all_are_said(load_soc, tmp_path / "wrong.yaml", wrong, said)


@pytest.mark.parametrize("name", list_technologies())
def test_all_faults_of_a_technology(tmp_path: Path, name: str) -> None:
    """Its keys stand at the beginning of their lines."""
    text = (technology_folder() / f"{name}.yaml").read_text()
    at_the_margin = tuple(_outdented(plant) for plant in (_negative, _word, _twice, _range, _misspelled))
    for seed in range(8):
        g = random.Random(f"{name} {seed}")
        wrong, said = _planted(text, at_the_margin, g.randint(2, 5), g)
        _all_are_said(lambda file: find_technology(str(file)), tmp_path / "wrong.yaml", wrong, said)


def _outdented(plant: Plant) -> Plant:
    def planted(line: str, g: random.Random) -> Planted | None:
        found = plant(f" {line}", g)
        return None if found is None else ("\n".join(one[1:] for one in found[0].split("\n")), found[1])

    return planted


# ------------------------------------------------------------------------------------------ clusters
CLUSTER_FAULTS: tuple[Plant, ...] = (
    _instead(r"soc: \w+", "soc: nothing_of_the_kind", "no SoC named 'nothing_of_the_kind'"),
    _instead(r"between: \[\w+", "between: [nobody", "no device named 'nobody'"),
    _instead(r"count: \d+", "count: -1", "count: found -1: must be"),
    _instead(r"bytes_per_s:\s*[\d_]+", "bytes_per_s: fast", "bytes_per_s: found 'fast'"),
)


@pytest.mark.parametrize("name", list_clusters())
def test_all_faults_of_a_cluster(tmp_path: Path, name: str) -> None:
    text = (cluster_folder() / f"{name}.yaml").read_text()
    for seed in range(4):
        g = random.Random(f"{name} {seed}")
        wrong, said = _planted(text, CLUSTER_FAULTS, g.randint(2, 5), g)
        assert len(said) >= 2
        _all_are_said(load_cluster, tmp_path / "wrong.yaml", wrong, said)


# ------------------------------------------------------------------------------------------ workloads
LAYER = r"^\s*- \{name"
LAYER_FAULTS: tuple[Plant, ...] = (
    _instead(r"(op: )conv\b", r"\1convolve", "op: found 'convolve'", LAYER),
    _instead(r"(\bc: )\d+", r"\g<1>many", "c: found 'many'", LAYER),
    _instead(r"(\bfy: )\d+", r"\g<1>0", "fy: found 0", LAYER),
    _instead(r"(\bstride_y: )\d+", r"\g<1>-1", "stride_y: found -1", LAYER),
    _instead(r"inputs: \[[^],]+", "inputs: [nobody", "reads 'nobody', which does not precede it", LAYER),
    _instead(r"(, c: \d+)", r"\1, colour: 3", "colour: unknown key", LAYER),
    _instead(r"(op: conv\b.*?\boy: )\d+", r"\g<1>999", "oy: ", LAYER),  # more rows than there can be
)


@pytest.mark.parametrize("name", list_workloads())
def test_all_faults_of_a_workload(tmp_path: Path, name: str) -> None:
    """In layers that are five lines apart, as a wrong size is wrong in what reads it, too."""
    text = (workload_folder() / f"{name}.yaml").read_text()
    for seed in range(3):
        g = random.Random(f"{name} {seed}")
        wrong, said = _planted(text, LAYER_FAULTS, g.randint(2, 5), g, apart=5)
        file = tmp_path / "wrong.yaml"
        file.write_text(wrong)
        with pytest.raises(InputError) as refused:
            load_workload(file)
        assert not _missing(refused.value.lines, said), "\n".join(refused.value.lines)


def test_two_names_that_nothing_has_hide_no_other_fault_of_a_workload(tmp_path: Path) -> None:
    """One layer reads a name that nothing has, another has rows that its window does not give; the layer that nobody
    reads now, and the sizes behind the wrong rows, only follow."""
    file = tmp_path / "w.yaml"
    file.write_text(
        "name: w\ninput: {c: 3, iy: 8, ix: 8}\noutputs: [d]\nlayers:\n"
        "- {name: a, op: conv, inputs: [input], k: 4, c: 3, oy: 8, ox: 8, iy: 8, ix: 8}\n"
        "- {name: b, op: conv, inputs: [aa], k: 4, c: 4, oy: 8, ox: 8, iy: 8, ix: 8}\n"
        "- {name: c, op: conv, inputs: [b], k: 4, c: 4, oy: 7, ox: 8, iy: 8, ix: 8}\n"
        "- {name: d, op: conv, inputs: [c], k: 4, c: 4, oy: 8, ox: 8, iy: 8, ix: 8}\n"
    )
    with pytest.raises(InputError) as refused:
        load_workload(file)
    assert [line.split("w.yaml:")[1].split(":")[0] for line in refused.value.lines] == ["6", "7"]


def test_a_layer_without_its_name_is_not_missed_by_who_reads_it(tmp_path: Path) -> None:
    """A layer that is called by a list, and two that read it by the name that it was to have: one fault."""
    file = tmp_path / "w.yaml"
    file.write_text(
        "name: w\ninput: {c: 3, iy: 8, ix: 8}\noutputs: [c]\nlayers:\n"
        "- {name: [a], op: conv, inputs: [input], k: 4, c: 3, oy: 8, ox: 8, iy: 8, ix: 8}\n"
        "- {name: b, op: conv, inputs: [a], k: 4, c: 4, oy: 8, ox: 8, iy: 8, ix: 8}\n"
        "- {name: c, op: add, inputs: [a, b], k: 4, c: 4, oy: 8, ox: 8, iy: 8, ix: 8}\n"
    )
    with pytest.raises(InputError) as refused:
        load_workload(file)
    (line,) = refused.value.lines
    assert "w.yaml:5:" in line and "layers.0.name" in line


# ------------------------------------------------------------------------------------------ mappings
PARTS = "parts"
MAPPING_FAULTS: tuple[Plant, ...] = (
    _instead(r"(parts: \{)\w+", r"\1nobody", "has no such core", PARTS),
    _instead(r"(\{\w+: )\d+(\}|, )", r"\g<1>7777\2", "output channels; the layer has", PARTS),
    _instead(r'^(  )"?([^ "].*?)"?: \{', r'\1"no.\2": {', "has no such layer", PARTS),
    _instead(r"parts:", "partss:", "unknown key; did you mean parts?", PARTS),
    _instead(r"order: \[\w+, ", "order: [", "name each of n, k, c, fy, fx, oy, ox once", PARTS),
)


@pytest.mark.parametrize("network", ["resnet18_segment", "resnet8"])
def test_all_faults_of_a_mapping(tmp_path: Path, network: str) -> None:
    """The one file that comes with cosoc, and one that it writes."""
    soc, workload = find_soc("diana"), find_workload(network)
    if network == "resnet8":
        text = dump_mapping(checked(find_mapping("all_8bit", workload, soc), workload, soc))
    else:
        text = built_in_mappings("diana")["silicon"].read_text().partition("pieces:")[0]
    for seed in range(8):
        g = random.Random(f"{network} {seed}")
        wrong, said = _planted(text, MAPPING_FAULTS, g.randint(2, 5), g)
        assert len(said) >= 2
        _all_are_said(lambda file: load_mapping(file, workload, soc), tmp_path / "wrong.yaml", wrong, said)


# ------------------------------------------------------------------------------------------ plans
PLAN = """\
name: mine
simulate:
  soc: [diana, no_soc]
  workload: [resnet8, no_net]
  mapping: [all_8bit, no_rule]
  set:
    cores.digital.rows: [8, -1]
    cores.digital.cols: 2 * unheard
    links.l1.nothing: [1]
  where:
  - rows * 1000 < ports
  - no_axis > 1
search:
  soc: [diana]
  workload: [resnet8]
  space: [chanels]
  sedes: [1]
  epochs: 0
"""


def test_all_faults_of_a_plan(tmp_path: Path) -> None:
    """Names, axes, formulas and keys of both of its parts."""
    file = tmp_path / "plan.yaml"
    file.write_text(PLAN)
    with pytest.raises(InputError) as refused:
        load_plan(file, plan_problems)
    lines = [int(line.split("plan.yaml:")[1].split(":")[0]) for line in refused.value.lines]
    assert lines == [3, 4, 5, 7, 8, 9, 11, 12, 16, 17, 18], "\n".join(refused.value.lines)


# ------------------------------------------------------------------------------------------ how they are told
def test_more_than_a_screen_of_faults_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every line a fault: the first twenty in the order of the file, then how many more; status 2."""
    file = tmp_path / "many.yaml"
    file.write_text((soc_folder() / "diana.yaml").read_text() + "".join(f"x{i}: 1\n" for i in range(33)))
    assert main(["show", "soc", str(file)]) == 2
    lines = capsys.readouterr().err.splitlines()
    numbers = [int(line.split(":")[1]) for line in lines[:-1]]
    assert len(numbers) == MAX_TOLD and numbers == sorted(numbers)
    assert lines[-1] == f"{file}: {33 - MAX_TOLD} more"


def test_what_stands_behind_a_key_that_is_no_name_is_read(tmp_path: Path) -> None:
    """A list in the place of a key is one fault; the keys behind it are there, with a fault of their own."""
    file = tmp_path / "w.yaml"
    file.write_text(
        "name: w\n[a, b]: 1\ncolour: red\ninput: {c: 3, iy: 8, ix: 8}\noutputs: [a]\nlayers:\n"
        "- {name: a, op: conv, inputs: [input], k: 4, c: 3, oy: 8, ox: 8, iy: 8, ix: 8}\n"
    )
    with pytest.raises(InputError) as refused:
        load_workload(file)
    listed, unknown = refused.value.lines
    assert "w.yaml:2:1: a key must be a plain name" in listed and "w.yaml:3:1: colour: unknown key" in unknown


def test_what_only_follows_is_not_told(tmp_path: Path) -> None:
    """A core whose model nobody knows: neither that its host is missing, nor that its memories serve nobody."""
    text = (soc_folder() / "diana.yaml").read_text()
    for found, instead, says in (
        ("model: digital_array", "model: digital_arry", "'digital_arry'"),
        ("host:\n    model: host_cpu", "host:\n    model: host_cpuu", "'host_cpuu'"),
        ("  digital_weights:\n    size_bytes", "  digital_weightz:\n    size_bytes", "'digital_weights'"),
    ):
        file = tmp_path / "soc.yaml"
        file.write_text(text.replace(found, instead, 1))
        with pytest.raises(InputError) as refused:
            load_soc(file)
        lines = refused.value.lines
        assert all(says in line for line in lines) and len(lines) <= 2, "\n".join(lines)
