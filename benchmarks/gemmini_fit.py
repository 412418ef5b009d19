"""Choose the ten fitted constants of the Gemmini model on half of the problem shapes; score them on the other half.

    python benchmarks/gemmini_fit.py [--data FILE] [--folds] [--json FILE] [--rounds N] [--step N] [--quick]

Every Nth row, of all five sides, split by problem shape into two folds; each fold's constants are scored on the other
fold. --folds: on all rows of the file whose shapes are in the other, with traces as long as benchmarks/gemmini_rtl.py
has them; in the JSON file `grouped_folds`, with its groups and load_bound.

Minimised is the mean of |log(simulated / measured)|, each row's capped at 0.7, plus a penalty on the distance from the
middle of the plausible range; the search goes along one constant at a time, from those of the SoC file on. The split is
by CRC of the shape: no randomness, no seed.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from common import arguments, skip, state, write_json
from gemmini_rtl import NEEDS, Row, measurements, read, score, show_scores, simulate_all

from cosoc.sim.files.catalog import find_soc
from cosoc.sim.machine import engine_fast
from cosoc.sim.model.soc import SoC
from cosoc.sim.movers.cached_terms import Machine
from cosoc.sim.movers.measured import Walked, lower, walk_nest

CAP = 20_000  # requests of a row: a fit looks at every row some hundred times
WORST = 0.7  # of |log error|: a row that the model cannot explain must not steer it
PENALTY = 0.01  # for a constant at the end of its range


@dataclass(frozen=True)
class Constant:
    """A fitted constant: where it stands in the SoC file, its plausible range and the first step of the search."""

    path: str
    low: float
    high: float
    step: float


CONSTANTS = (
    Constant("cores.gemmini.execute.pair_latency_cycles", 5, 30, 4),
    Constant("dmas.mover.setup_cycles", 15, 25, 1),
    Constant("dmas.mover.fill_cycles", 2, 8, 1),
    Constant("dmas.mover.llc_cycles", 5, 45, 8),
    Constant("dmas.mover.store_request_cycles", 1, 5, 0.8),
    Constant("cores.gemmini.software.conv_tile_cycles", 200, 320, 10),
    Constant("cores.gemmini.software.gemm_tile_cycles", 90, 170, 6),
    Constant("cores.gemmini.software.loop_cycles", 20, 100, 10),
    Constant("cores.gemmini.software.start_cycles", 0, 800, 150),
    Constant("links.outer_port.period_cycles", 8, 10, 1),
)
WHOLE = ("cores.gemmini.software.start_cycles", "links.outer_port.period_cycles")


def fold_of(row: Row) -> int:
    """0 or 1, by the shape of the problem."""
    return zlib.crc32(repr(row.problem).encode()) & 1


def machine_of(side: int, texts: Mapping[str, str]) -> SoC:
    """The measured machine with an array of this side and these values."""
    return find_soc("gemmini_firesim", {"cores.gemmini.side": str(side), **texts})


def machines_of(rows: Sequence[Row], values: Sequence[float]) -> dict[int, SoC]:
    """By side, the machines of some rows with these constants."""
    pairs = zip(CONSTANTS, values, strict=True)
    texts = {c.path: str(round(v) if c.path in WHOLE else float(v)) for c, v in pairs}
    return {side: machine_of(side, texts) for side in {row.nest.side for row in rows}}


def predict(rows: Sequence[Row], walked: Sequence[Walked], values: Sequence[float]) -> np.ndarray[Any, Any]:
    """Cycles of the rows with these constants; addresses were walked before, as no constant changes them."""
    socs = machines_of(rows, values)
    lowered = [lower(each, socs[row.nest.side]) for row, each in zip(rows, walked, strict=True)]
    return np.array([each.cycles(engine_fast.run(each.program)) for each in lowered])


def loss(rows: Sequence[Row], walked: Sequence[Walked], values: Sequence[float]) -> float:
    """What the fit minimises; see the module docstring."""
    measured = np.array([row.cycles for row in rows])
    error = np.minimum(np.abs(np.log(predict(rows, walked, values) / measured)), WORST).mean()
    far = [(2 * v - c.low - c.high) / (c.high - c.low) for c, v in zip(CONSTANTS, values, strict=True)]
    return float(error + PENALTY * np.mean(np.square(far)))


def fit(rows: Sequence[Row], walked: Sequence[Walked], rounds: int) -> list[float]:
    """Constants along which no step of the last, smallest size brings anything, from those of the file on."""
    content = find_soc("gemmini_firesim").model_dump(by_alias=True)
    values = [float(reduce(lambda section, key: section[key], c.path.split("."), content)) for c in CONSTANTS]
    steps = [c.step for c in CONSTANTS]
    best = loss(rows, walked, values)
    for _ in range(rounds):
        for i, constant in enumerate(CONSTANTS):
            moved = False
            for sign in (1, -1):
                while True:
                    tried = list(values)
                    tried[i] = float(np.clip(values[i] + sign * steps[i], constant.low, constant.high))
                    found = loss(rows, walked, tried) if tried != values else best
                    if found >= best:
                        break
                    best, values, moved = found, tried, True
                if moved:
                    break
            if not moved:
                steps[i] *= 0.6
    return values


def fold(rows: Sequence[Row], number: int, rounds: int) -> dict[str, Any]:
    """Fit on one fold, score on both."""
    machines = {side: Machine.of(machine_of(side, {})) for side in {row.nest.side for row in rows}}
    walked = [walk_nest(row.nest, machines[row.nest.side], CAP) for row in rows]
    inside = [i for i, row in enumerate(rows) if fold_of(row) == number]
    outside = [i for i, row in enumerate(rows) if fold_of(row) != number]
    values = fit([rows[i] for i in inside], [walked[i] for i in inside], rounds)
    found = predict(rows, walked, values)
    scores = {
        name: score([rows[i] for i in where], [float(found[i]) for i in where])
        for name, where in (("fitted", inside), ("other", outside))
    }
    sides = sorted({rows[i].nest.side for i in outside})
    by_side = {side: [i for i in outside if rows[i].nest.side == side] for side in sides}
    scores |= {f"other, side {side}": score([rows[i] for i in at], [float(found[i]) for i in at])
               for side, at in by_side.items()}  # fmt: skip
    return {"constants": dict(zip((c.path for c in CONSTANTS), values, strict=True))} | scores


def grouped_folds(rows: Sequence[Row], folds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Scores of all rows, each with the constants that were fitted on the fold which its shape is not in."""
    machines = [machines_of(rows, list(each["constants"].values())) for each in folds]
    socs = [machines[1 - fold_of(row)][row.nest.side] for row in rows]
    print(f"\nall {len(rows)} rows, each with the constants of the other fold")
    found = show_scores(rows, simulate_all(rows, "folds", socs))
    scores: dict[str, Any] = found["groups"]["all"]
    return scores | found


def main() -> None:
    parser = arguments(__doc__)
    measurements(parser)
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds over the constants [default: 6, quick: 1]")
    parser.add_argument("--step", type=int, metavar="N", help="every Nth row [default: 4, quick: 40]")
    parser.add_argument("--folds", action="store_true", help="score every row of the file, with the other constants")
    options = parser.parse_args()
    if options.data is None:
        skip(NEEDS)
    rounds, step = options.rounds or (1 if options.quick else 6), options.step or (40 if options.quick else 4)
    state()
    every = read(options.data)["mapped"]
    rows = every[::step]
    print(f"{len(rows)} rows, {sum(map(fold_of, rows))} of them in fold 1")
    with ProcessPoolExecutor(2) as pool:
        folds = list(pool.map(fold, (rows, rows), (0, 1), (rounds, rounds)))
    print(f"{'constant':52} {'fold 0':>8} {'fold 1':>8}  range")
    for c in CONSTANTS:
        values = " ".join(f"{each['constants'][c.path]:8.2f}" for each in folds)
        print(f"{c.path:52} {values}  {c.low:g} .. {c.high:g}")
    for number, each in enumerate(folds):
        for name, s in each.items():
            if name == "constants":
                continue
            ranks = "" if s["spearman"] is None else f", Spearman {s['spearman']:.4f}"
            print(f"fold {number}, {name:14}: {s['n']} rows, MAPE {100 * s['mape']:.1f} %, median "
                  f"{100 * s['median']:.1f} %{ranks}")  # fmt: skip
    figures: dict[str, Any] = {"folds": folds}
    if options.folds:
        figures["grouped_folds"] = grouped_folds(every, folds)
    write_json(options.json, figures)


if __name__ == "__main__":
    main()
