"""Gemmini on FireSim: DOSA's measured layers, each in the loop nest that its mapping string says.

What a row says and how it was executed stands in `cosoc.sim.importers.dosa`. Repeats of one row (one layer in one
tiling) are averaged first, and are one row. The array's side is the smallest that the mapping needs, or the same for
all rows where the library's own tiling was run beside it. The seed of the caches' random replacement is fixed.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import numpy as np

from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.importers.dosa import Problem, decode
from cosoc.sim.model.soc import SoC
from cosoc.sim.movers.measured import CAP, Nest, NestRun, run_nest
from cosoc.sim.processes import Workers
from cosoc.sim.truth.compared import Compared, Published, TruthSet

DIMENSIONS = ("K", "C", "P", "Q", "R", "S")
MAPPED = ("mapping.mapping", "target.gemmini_cycle")
AUTO = ("dse.auto_tiling", "target.gemmini_auto_cycle")  # a run of the library's own tiling, in files of one array
STRIDES = ("prob.Wstride", "prob.Hstride")
COLUMNS = (*MAPPED, *STRIDES, *(f"prob.{d}" for d in (*DIMENSIONS, "N")))
FEW = 32  # rows up to which processes cost more than they bring
R = TypeVar("R")
Decoder = Callable[[str, Problem, Any], Nest]


@dataclass(frozen=True)
class Row:
    """One measured run, its repeats averaged. number: of its first line in the file, from 0."""

    number: int
    problem: Problem
    nest: Nest
    cycles: float
    repeats: tuple[float, ...]


@dataclass(frozen=True)
class Line:
    """One line of a table. place: how errors name it; cells: text by column; problem: its layer."""

    place: str
    number: int
    cells: Mapping[str, str]
    problem: Problem


def lines_of(rows: Sequence[Mapping[str, str]], places: Sequence[str]) -> list[Line]:
    """The lines of a table that has COLUMNS; InputError names the place of one that is no layer."""
    return [
        Line(place, number, each, _problem(place, each))
        for number, (place, each) in enumerate(zip(places, rows, strict=True))
    ]


def _problem(place: str, cells: Mapping[str, str]) -> Problem:
    names = (*DIMENSIONS, "N", "Wstride", "Hstride")
    sizes = {name: _number(cells[f"prob.{name}"]) for name in names}
    odd = {name: cells[f"prob.{name}"] for name, size in sizes.items() if size < 1 or not size.is_integer()}
    if odd:
        raise InputError(f"{place}: found {odd}; whole numbers of at least 1 are needed")
    if sizes["N"] != 1 or sizes["R"] != sizes["S"] or sizes["Wstride"] != sizes["Hstride"]:
        found = {name: int(size) for name, size in sizes.items()}
        raise InputError(f"{place}: found {found}; needed are N = 1, R = S and equal strides")
    k, c, p, q, r, s = (int(sizes[d]) for d in DIMENSIONS)
    return Problem(k, c, p, q, r, s, stride=int(sizes["Wstride"]))


def _number(cell: str | None) -> float:
    """A finite number of a cell, or 0."""
    try:
        value = float(cell or "")
    except ValueError:
        return 0.0
    return value if np.isfinite(value) else 0.0


def side_of(lines: Sequence[Line]) -> int | None:
    """The side of the one array on which all lines ran, where they have the columns of such a file; else None: each
    ran on the smallest that its mapping needs."""
    if not all(name in lines[0].cells for name in AUTO):
        return None
    return max(16, *(nest_in(line, MAPPED[0], decode, None).side for line in lines))


def cycles_in(line: Line, column: str) -> float:
    """The measured cycles in a column; InputError where there are none."""
    value = _number(line.cells[column])
    if value <= 0:
        raise InputError(f"{line.place}: {column} is {line.cells[column]!r}; a positive number is needed")
    return value


def nest_in(line: Line, column: str, nest_of: Decoder, side: int | None) -> Nest:
    """The nest of what a column says, on an array of that side; InputError names the line."""
    try:
        return nest_of(line.cells[column] or "", line.problem, side)
    except InputError as error:
        raise InputError(f"{line.place}: {error}") from None


def averaged(lines: Sequence[Line], columns: tuple[str, str], nest_of: Decoder, side: int | None) -> list[Row]:
    """Rows of a set: the runs of one layer in one tiling are one row."""
    repeats: dict[tuple[str, Problem], list[Line]] = defaultdict(list)
    for line in lines:
        repeats[(line.cells[columns[0]] or "").strip(), line.problem].append(line)
    rows = []
    for runs in repeats.values():
        cycles = tuple(cycles_in(line, columns[1]) for line in runs)
        nest = nest_in(runs[0], columns[0], nest_of, side)
        rows.append(Row(runs[0].number, runs[0].problem, nest, float(np.mean(cycles)), cycles))
    return rows


@cache
def soc_of(side: int) -> SoC:
    """The measured machine with an array of this side."""
    return find_soc("gemmini_firesim", {"cores.gemmini.side": str(side)})


def simulated(nest: Nest, soc: SoC, cap: int = CAP) -> NestRun:
    """One row."""
    return run_nest(nest, soc, cap)


def in_order(simulate: Callable[[Nest, SoC, int], R], nests: Sequence[Nest], socs: Sequence[SoC]) -> Iterator[R]:
    """What `simulate` says of every nest on its SoC, as soon as it and those before are done; of many on all cores."""
    caps = [CAP] * len(nests)
    if len(nests) <= FEW:
        yield from map(simulate, nests, socs, caps)
        return
    simulate(nests[0], socs[0], 100)  # compiles or loads the kernels once, not in every worker
    with Workers(os.cpu_count() or 1) as pool:
        for one in [pool.submit(simulate, *each) for each in zip(nests, socs, caps, strict=True)]:
            yield one.result()


def compare(rows: Sequence[Mapping[str, str]]) -> Iterator[Compared]:
    """Each measured run beside ours, cycles."""
    places = [f"row {number}" for number in range(1, len(rows) + 1)]
    lines = lines_of(rows, places)
    measured = averaged(lines, MAPPED, decode, side_of(lines))
    nests = [row.nest for row in measured]
    for row, run in zip(measured, in_order(simulated, nests, [soc_of(nest.side) for nest in nests]), strict=True):
        yield Compared(f"row {row.number + 1}, {row.nest.kind}, side {row.nest.side}", row.cycles, run.cycles)


SET = TruthSet(
    name="gemmini_rtl",
    unit="cycles",
    columns=COLUMNS,
    about="Gemmini, arrays of 4 x 4 to 64 x 64: layers in random tilings, RTL on FireSim, DOSA's data.",
    fitted="ten constants, on half of the layers' shapes; shapes left out: 6.8 % (benchmarks/gemmini_fit.py)",
    claim_mape=0.066,
    compare=compare,
    published=(
        Published("Timeloop", 0.261, "its cycles in DOSA's table of 222 other layers and tilings on the same machine"),
    ),
    files=("train.csv", "data/firesim_training_data/firesim_results.csv", "firesim_results.csv"),
    how_to_get="data/firesim_training_data/firesim_results.csv of github.com/ucb-bar/dosa (BSD-2-Clause)",
)
