"""Simulated Gemmini cycles against RTL: every row of DOSA's FireSim measurements.

    python benchmarks/gemmini_rtl.py [--data FILE] [--json FILE] [--limit N] [--quick] [--side N]

FILE is DOSA's firesim_results.csv or a file of the same columns, or what COSOC_GEMMINI_RTL names; what a row says and
how it was executed stands in
`cosoc.sim.importers.dosa`. Repeats of one row are averaged first. Where the columns dse.auto_tiling and
target.gemmini_auto_cycle exist, the run with Gemmini's default tiling is scored as a second set; as such a file comes
from one array, its side is then the largest that any row needs (--side sets it). benchmarks/gemmini_fit.py --folds
scores the same rows with constants that were fitted on other shapes. The seed of the caches' random replacement is
fixed in the model.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import arguments, skip, state, write_json
from rich.progress import Progress
from scipy.stats import kendalltau

from cosoc.sim.errors import InputError
from cosoc.sim.importers.dosa import decode, decode_default
from cosoc.sim.machine import engine_fast
from cosoc.sim.machine.program import Program
from cosoc.sim.machine.trace import Trace, critical_path
from cosoc.sim.model.soc import SoC
from cosoc.sim.movers.cached_terms import Machine, array_and_mover
from cosoc.sim.movers.cached_units import CONTROL, EXECUTE, LOAD, STORE, UNITS, name_of
from cosoc.sim.movers.links import HOST_TIME
from cosoc.sim.movers.measured import CAP, Nest, lower_nest
from cosoc.sim.truth.gemmini_rtl import (
    AUTO,
    COLUMNS,
    MAPPED,
    Line,
    Row,
    averaged,
    cycles_in,
    in_order,
    lines_of,
    nest_in,
    side_of,
    soc_of,
)
from cosoc.sim.truth.score import errors
from cosoc.sim.truth.tables import read_table

QUICK = 100  # rows
NEEDS = "DOSA's measurements: --data FILE, or FILE in COSOC_GEMMINI_RTL"


@dataclass(frozen=True)
class RowRun:
    """What a simulated row gave. whole: whether all of its tiles were run; bound: the unit that has most to do."""

    cycles: float
    bursts: int
    whole: bool
    bound: str


def read(path: Path, limit: int | None = None, side: int | None = None) -> dict[str, list[Row]]:
    """The rows of a file by set (mapped and, where its columns are there, auto). InputError names what is wrong, by
    file and line.

    Of the auto set a line that has no run is passed over, and one that cannot be read is named on stderr and left out:
    the mapped set is the benchmark, and a second measurement does not stop it.
    """
    lines = _lines(path)[:limit]
    side = side_of(_lines(path)) if side is None else side
    sets = {"mapped": averaged(lines, MAPPED, decode, side)}
    if all(name in lines[0].cells for name in AUTO):
        measured = [line for line in lines if not all(_is_empty(line.cells[name]) for name in AUTO)]
        good = []
        for line in measured:
            try:
                cycles_in(line, AUTO[1])
                nest_in(line, AUTO[0], decode_default, side)
            except InputError as error:
                print(error, file=sys.stderr)
            else:
                good.append(line)
        if len(good) < len(measured):
            print(f"auto: {len(measured) - len(good)} of {len(measured)} runs cannot be read and are left out")
        if good:
            sets["auto"] = averaged(good, AUTO, decode_default, side)
    return sets


def _is_empty(cell: str | None) -> bool:
    """Whether a cell holds nothing, in the ways in which tables are written."""
    return (cell or "").strip().lower() in ("", "nan")


def _lines(path: Path) -> list[Line]:
    table = read_table(path, COLUMNS)
    return lines_of(table.rows, [f"{path}:{number}" for number in table.lines])


def slowest(program: Program, trace: Trace, soc: SoC) -> str:
    """The unit that alone would take longest: of loads the return path, the mvins one after another, or a link."""
    name, _, mover = array_and_mover(soc)
    machine = Machine.of(soc)
    at = {u: program.rows["unit"] == program.unit_names.index(name_of(soc, name, UNITS[u]))
          for u in (LOAD, EXECUTE, STORE)}  # fmt: skip
    busy = dict(zip(program.server_names, trace.busy.tolist(), strict=True))
    loads = program.rows[at[LOAD]]
    port = int(loads["bytes"].sum())  # the return path counts ticks
    ticks = {
        UNITS[LOAD]: max(
            port, (port + int(loads["setup"].sum())) / machine.mvins_in_flight,
            busy[mover.outer_link], busy[mover.dram_link],
        ),
        UNITS[CONTROL]: busy[HOST_TIME],
    } | {UNITS[u]: int(program.rows["run"][at[u]].sum()) for u in (EXECUTE, STORE)}  # fmt: skip
    return max(ticks, key=lambda unit: ticks[unit])


def simulate(nest: Nest, soc: SoC, cap: int = CAP) -> RowRun:
    """One row."""
    lowered = lower_nest(nest, soc, cap)
    trace = engine_fast.run(lowered.program)
    return RowRun(lowered.cycles(trace), trace.bursts, lowered.is_whole, slowest(lowered.program, trace, soc))


def simulate_all(rows: Sequence[Row], name: str, socs: Sequence[SoC] | None = None) -> list[RowRun]:
    """All rows on all cores, in their order, behind a progress bar on stderr. socs: of each row, in place of the file's
    with an array of its side."""
    nests = [row.nest for row in rows]
    with Progress(disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(f"{name}: {len(rows)} rows", total=len(rows))
        runs = []
        for run in in_order(simulate, nests, socs or [soc_of(nest.side) for nest in nests]):
            runs.append(run)
            bar.advance(task)
    return runs


def score(rows: Sequence[Row], predicted: Sequence[float]) -> dict[str, Any]:
    """Errors relative to the measurement; bias is the mean of log(simulated / measured)."""
    measured, found = np.array([row.cycles for row in rows]), np.array(predicted)
    found_errors = errors(measured.tolist(), found.tolist())
    ranked = found_errors.spearman is not None
    return asdict(found_errors) | {
        "kendall": float(kendalltau(found, measured)[0]) if ranked else None,
        "within10": float((np.abs(found / measured - 1) <= 0.1).mean()),
    }


def noise(rows: Sequence[Row]) -> dict[str, Any]:
    """How far repeats of one run lie from their mean, relative to it."""
    spread = [abs(value / row.cycles - 1) for row in rows if len(row.repeats) > 1 for value in row.repeats]
    if not spread:
        return {"n": 0, "mape": None, "median": None}
    return {"n": len(spread), "mape": float(np.mean(spread)), "median": float(np.median(spread))}


def groups(rows: Sequence[Row]) -> dict[str, list[int]]:
    """Indices of the rows: overall, by kind and by side."""
    found: dict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        for name in ("all", row.nest.kind, f"side {row.nest.side}"):
            found[name].append(i)
    return dict(sorted(found.items(), key=lambda item: (len(item[0].split()), item[0].split()[-1].zfill(4))))


def path_of(row: Row) -> str:
    """The critical path of a row's first tiles: shares of the units' work and of what was waited for."""
    lowered = lower_nest(row.nest, soc_of(row.nest.side), 2000)
    program, trace = lowered.program, engine_fast.run(lowered.program)
    shares: dict[str, int] = defaultdict(int)
    for segment in critical_path(program, trace):
        unit = program.unit_names[program.rows["unit"][segment.op]]  # one block, run once: row i is op i
        shares[unit if segment.cause != "wait_server" else f"{unit} waits for a port"] += segment.end - segment.start
    largest = sorted(shares.items(), key=lambda item: -item[1])[:4]
    return ", ".join(f"{name} {100 * ticks / trace.makespan:.0f} %" for name, ticks in largest if ticks)


def show_scores(rows: Sequence[Row], runs: Sequence[RowRun]) -> dict[str, Any]:
    """Print scores of all rows and of groups of them, and how far those that loads bound are off; the same by name."""
    predicted = [run.cycles for run in runs]
    print(
        f"{'':10} {'n':>5} {'MAPE':>6} {'median':>6} {'p90':>6} {'bias':>6} {'Spearman':>8} {'Kendall':>7} {'<10 %':>6}"
    )
    scores, load_bound = {}, {}
    for group, where in groups(rows).items():
        s = scores[group] = score([rows[i] for i in where], [predicted[i] for i in where])
        ranks = "" if s["spearman"] is None else f"{s['spearman']:8.4f} {s['kendall']:7.3f}"
        print(f"{group:10} {s['n']:5} {100 * s['mape']:5.1f}% {100 * s['median']:5.1f}% {100 * s['p90']:5.1f}% "
              f"{100 * s['bias']:+5.1f}% {ranks:16} {100 * s['within10']:5.0f}%")  # fmt: skip
        off = [predicted[i] / rows[i].cycles - 1 for i in where if runs[i].bound == UNITS[LOAD]]
        if off:
            load_bound[group] = {"n": len(off), "median": float(np.median(off))}
    shown = ", ".join(f"{group} {100 * b['median']:+.1f} % ({b['n']})" for group, b in load_bound.items())
    print(f"rows that loads bound, median of the error with its sign (rows): {shown or 'none'}")
    return {"groups": scores, "load_bound": load_bound}


def show(name: str, rows: Sequence[Row], runs: Sequence[RowRun]) -> dict[str, Any]:
    """Print the tables of one set; its figures for the JSON file (rows: number, measured, simulated)."""
    predicted = [run.cycles for run in runs]
    floor = noise(rows)
    n_cut = sum(not run.whole for run in runs)
    print(f"\n{name}: {len(rows)} rows used, {n_cut} of them extended linearly beyond {CAP:,} requests")
    found = show_scores(rows, runs)
    if floor["n"]:
        print(f"noise floor, {floor['n']} repeated runs: MAPE {100 * floor['mape']:.1f} %, "
              f"median {100 * floor['median']:.1f} %")  # fmt: skip
    else:
        print("noise floor: no row is repeated in this file")
    ratio = np.array(predicted) / np.array([row.cycles for row in rows])
    print("worst rows (simulated / measured), and the critical path of their first tiles")
    for i in np.argsort(-np.abs(np.log(ratio)))[:10]:
        print(f"  row {rows[i].number:4} {rows[i].nest.kind}, side {rows[i].nest.side}: {ratio[i]:.2f} x "
              f"{rows[i].cycles:,.0f}: {path_of(rows[i])}")  # fmt: skip
    each = [[row.number, row.cycles, round(cycles)] for row, cycles in zip(rows, predicted, strict=True)]
    return found["groups"]["all"] | found | {"noise": floor, "rows": each}


def measurements(parser: argparse.ArgumentParser) -> None:
    """Let a benchmark have --data: DOSA's file, by default that of the tests."""
    known = os.environ.get("COSOC_GEMMINI_RTL")
    parser.add_argument("--data", type=Path, default=known, metavar="FILE", help="DOSA's measurements, CSV")


def main() -> None:
    parser = arguments(__doc__)
    measurements(parser)
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N rows")
    parser.add_argument("--side", type=int, metavar="N", help="side of the array; default: as the mapping implies")
    options = parser.parse_args()
    if options.data is None:
        skip(NEEDS)
    limit = options.limit or (QUICK if options.quick else None)
    state()
    start = time.perf_counter()
    result: dict[str, Any] = {}
    bursts = 0
    for name, rows in read(options.data, limit, options.side).items():
        runs = simulate_all(rows, name)
        bursts += sum(run.bursts for run in runs)
        result[name] = show(name, rows, runs)
    result |= {"wall_s": time.perf_counter() - start, "bursts": bursts}
    print(f"\n{result['wall_s']:.1f} s, {bursts:,} bursts simulated")
    write_json(options.json, result)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
