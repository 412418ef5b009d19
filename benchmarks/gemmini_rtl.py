"""Simulated Gemmini cycles against RTL: every row of DOSA's FireSim measurements.

    python benchmarks/gemmini_rtl.py --data FILE [--json FILE] [--limit N] [--side N]

FILE is DOSA's firesim_results.csv or a file of the same columns; what a row says and how it was executed stands in
`cosoc.sim.importers.dosa`. Repeats of one row are averaged first. Where the columns dse.auto_tiling and
target.gemmini_auto_cycle exist, the run with Gemmini's default tiling is scored as a second set; as such a file comes
from one array, its side is then the largest that any row needs (--side sets it). Constants were fitted on rows of
16x16 PEs, on one half of the problem shapes and on the other: benchmarks/gemmini_fit.py tells the errors on the half
not fitted. Rows of other sides are predictions. The seed of the caches' random replacement is fixed in the model.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from common import state, write_json
from rich.progress import Progress
from scipy.stats import kendalltau, spearmanr

from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.importers.dosa import Problem, decode, decode_default
from cosoc.sim.machine import engine_fast
from cosoc.sim.machine.trace import critical_path
from cosoc.sim.model.soc import SoC
from cosoc.sim.movers.measured import CAP, Nest, NestRun, lower_nest, run_nest

DIMENSIONS = ("K", "C", "P", "Q", "R", "S")
MAPPED = ("mapping.mapping", "target.gemmini_cycle")
AUTO = ("dse.auto_tiling", "target.gemmini_auto_cycle")
STRIDES = ("prob.Wstride", "prob.Hstride")


@dataclass(frozen=True)
class Row:
    """One measured run, its repeats averaged. number: of its first line in the file, from 0."""

    number: int
    problem: Problem
    nest: Nest
    cycles: float
    repeats: tuple[float, ...]


def read(path: Path, limit: int | None = None, side: int | None = None) -> dict[str, list[Row]]:
    """The rows of a file by set (mapped and, where the columns are there, auto). InputError names what is missing."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    if not lines:
        raise InputError(f"{path}: has no rows")
    needed = (*MAPPED, *STRIDES, *(f"prob.{d}" for d in (*DIMENSIONS, "N")))
    missing = [name for name in needed if name not in lines[0]]
    if missing:
        raise InputError(f"{path}: has no column {', '.join(missing)}; these are needed: {', '.join(needed)}")
    has_auto = all(name in lines[0] for name in AUTO)
    problems = [_problem(path, i, line) for i, line in enumerate(lines)]
    if has_auto and side is None:
        side = max(16, *(decode(line[MAPPED[0]], p).side for line, p in zip(lines, problems, strict=True)))
    keep = slice(limit)
    sets = {"mapped": _averaged(lines[keep], problems, MAPPED, lambda text, p: decode(text, p, side))}
    if has_auto:
        # The mapped set is the benchmark: what cannot be read of the second is counted and said, and stops nothing.
        unread: list[str] = []
        rows = _averaged(lines[keep], problems, AUTO, lambda text, p: decode_default(text, p, side or 16), unread)
        if unread:
            print(f"auto: {len(unread)} of {len(lines[keep])} rows not used; the first: {unread[0]}")
        if rows:
            sets["auto"] = rows
    return sets


def _problem(path: Path, number: int, line: dict[str, str]) -> Problem:
    try:
        sizes = {name: int(float(line[f"prob.{name}"])) for name in (*DIMENSIONS, "N", "Wstride", "Hstride")}
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: row {number}: {error}") from None
    if sizes["N"] != 1 or sizes["R"] != sizes["S"] or sizes["Wstride"] != sizes["Hstride"] or min(sizes.values()) < 1:
        raise InputError(f"{path}: row {number}: found {sizes}; needed are N = 1, R = S and equal strides")
    return Problem(*(sizes[d] for d in DIMENSIONS), stride=sizes["Wstride"])


def _averaged(
    lines: Sequence[dict[str, str]], problems: Sequence[Problem], columns: tuple[str, str],
    nest_of: Callable[[str, Problem], Nest], unread: list[str] | None = None,
) -> list[Row]:  # fmt: skip
    """Rows of a set. What cannot be read is an InputError, or is noted in `unread` if that is given."""
    repeats: dict[tuple[str, Problem], list[tuple[int, float]]] = defaultdict(list)

    def refuse(message: str) -> None:
        if unread is None:
            raise InputError(message) from None
        unread.append(message)

    for number, (line, problem) in enumerate(zip(lines, problems, strict=False)):
        found = line[columns[1]]
        try:
            cycles_measured = float(found)
        except (TypeError, ValueError):
            cycles_measured = 0.0
        if not 0 < cycles_measured < float("inf"):
            refuse(f"row {number}: {columns[1]} is {found!r}; a positive number is needed")
        else:
            repeats[line[columns[0]], problem].append((number, cycles_measured))
    rows = []
    for (text, problem), runs in repeats.items():
        cycles = tuple(value for _, value in runs)
        try:
            nest = nest_of(text, problem)
        except InputError as error:
            refuse(f"row {runs[0][0]}: {error}")
            continue
        rows.append(Row(runs[0][0], problem, nest, float(np.mean(cycles)), cycles))
    return rows


@cache
def soc_of(side: int) -> SoC:
    """The measured machine with an array of this side."""
    return find_soc("gemmini_firesim", {"cores.gemmini.side": str(side)})


def simulate(nest: Nest, cap: int = CAP) -> NestRun:
    """One row, in a worker."""
    return run_nest(nest, soc_of(nest.side), cap)


def simulate_all(rows: Sequence[Row], name: str) -> list[NestRun]:
    """All rows on all cores, in their order, behind a progress bar on stderr."""
    nests = [row.nest for row in rows]
    simulate(nests[0], 100)  # compiles or loads the kernels once, not in every worker
    with ProcessPoolExecutor() as pool, Progress(disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(f"{name}: {len(rows)} rows", total=len(rows))
        runs = []
        for run in pool.map(simulate, nests, chunksize=8):
            runs.append(run)
            bar.advance(task)
    return runs


def score(rows: Sequence[Row], predicted: Sequence[float]) -> dict[str, Any]:
    """Errors relative to the measurement; bias is the mean of log(simulated / measured)."""
    measured, found = np.array([row.cycles for row in rows]), np.array(predicted)
    error = np.abs(found - measured) / measured
    ranked = len(rows) > 1
    return {
        "n": len(rows), "mape": float(error.mean()), "median": float(np.median(error)),
        "p90": float(np.quantile(error, 0.9)), "bias": float(np.log(found / measured).mean()),
        "spearman": float(spearmanr(found, measured)[0]) if ranked else None,
        "kendall": float(kendalltau(found, measured)[0]) if ranked else None,
        "within10": float((error <= 0.1).mean()),
    }  # fmt: skip


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


def show(name: str, rows: Sequence[Row], runs: Sequence[NestRun]) -> dict[str, Any]:
    """Print the tables of one set; its figures for the JSON file (rows: number, measured, simulated)."""
    predicted = [run.cycles for run in runs]
    floor = noise(rows)
    n_cut = sum(run.tiles_run < run.tiles for run in runs)
    print(f"\n{name}: {len(rows)} rows used, {n_cut} of them extended linearly beyond {CAP:,} requests")
    print(
        f"{'':10} {'n':>5} {'MAPE':>6} {'median':>6} {'p90':>6} {'bias':>6} {'Spearman':>8} {'Kendall':>7} {'<10 %':>6}"
    )
    scores = {}
    for group, where in groups(rows).items():
        s = scores[group] = score([rows[i] for i in where], [predicted[i] for i in where])
        ranks = "" if s["spearman"] is None else f"{s['spearman']:8.4f} {s['kendall']:7.3f}"
        print(f"{group:10} {s['n']:5} {100 * s['mape']:5.1f}% {100 * s['median']:5.1f}% {100 * s['p90']:5.1f}% "
              f"{100 * s['bias']:+5.1f}% {ranks:16} {100 * s['within10']:5.0f}%")  # fmt: skip
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
    each = [[row.number, row.cycles, round(found)] for row, found in zip(rows, predicted, strict=True)]
    return scores["all"] | {"groups": scores, "noise": floor, "rows": each}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True, metavar="FILE", help="DOSA's measurements, CSV")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N rows")
    parser.add_argument("--side", type=int, metavar="N", help="side of the array; default: as the mapping implies")
    options = parser.parse_args()
    state()
    start = time.perf_counter()
    result: dict[str, Any] = {}
    bursts = 0
    for name, rows in read(options.data, options.limit, options.side).items():
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
