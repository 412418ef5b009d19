"""The closed form of nests fitted to the simulator, its error on layers that it was not fitted to, and it as a file.

Convolutions and matrix products of known networks under tiles and orders of a search's space (divisors that fit half
of scratchpad and accumulator, the three orders) are simulated; the factors of `gemmini_estimate.NestTheta` are fitted
on those of some networks, and the error is that on the others'.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Group
from rich.table import Table
from rich.text import Text
from scipy import optimize, stats

from cosoc import __version__
from cosoc.search import surrogate
from cosoc.search.calibrate import Report
from cosoc.search.gemmini_estimate import BOUNDS, Model, NestTheta, predict
from cosoc.search.spaces.tiles_cached import CachedTiles
from cosoc.sim import exact
from cosoc.sim.errors import InputError
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import INPUT, Layer, Workload
from cosoc.sim.movers.cached_terms import (
    NEST_DIMS,
    ORDER_NAMES,
    ORDERS,
    Machine,
    Shape,
    Tiles,
    cached_cores,
    counts,
    stacked,
)
from cosoc.sim.movers.measured import Nest, run_nest

FITTED = ("resnet18", "vgg16", "mobilenet_v2")
HELD_OUT = ("resnet50", "mobilenet_v1", "bert")
BERT = ((768, 768), (3072, 768), (768, 3072), (384, 64), (64, 384))  # (outputs, reduction) of the products of a block
BERT_TOKENS = 384
MAX_TILES = 100_000
CAP = 20_000  # requests of a nest that are simulated one by one
GOOD = 0.05  # share of a layer's mappings among which the better half of the samples is drawn
WORST = 5
LEAST = 5  # samples of a layer that have ranks worth comparing

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


# ---------------------------------------------------------------------------------------------------------------------
# Samples


@dataclass(frozen=True)
class Task:
    """One mapping to simulate: layer `label` of a network, tile along NEST_DIMS, position in ORDERS."""

    network: str
    label: str
    layer: Layer
    tile: tuple[int, ...]
    order: int


def network_layers(name: str) -> list[Layer]:
    """The layers of a network that a nest can be, each shape once."""
    if name == "bert":
        found = [
            Layer(f"{c} to {k}", "conv", (INPUT,), k, c, ox=BERT_TOKENS, ix=BERT_TOKENS, oy=1, iy=1) for k, c in BERT
        ]
    else:
        found = [layer for layer in find_workload(name) if is_nest(layer)]
    return list({Shape.of(layer): layer for layer in found}.values())


def is_nest(layer: Layer) -> bool:
    """Whether the estimate is fitted to layers like this: a convolution of all input channels, or a GEMM."""
    plain = layer.groups == layer.dilation_y == layer.dilation_x == 1 and layer.stride_y == layer.stride_x
    return layer.op == "conv" and plain


def nest_of(layer: Layer, tile: Sequence[int], order: Sequence[str], side: int) -> Nest:
    """The nest of a layer for which `is_nest` holds."""
    shape = Shape.of(layer)
    extent = tuple(int(getattr(shape, d)) for d in NEST_DIMS)
    loops = tuple(NEST_DIMS.index(d) for d in order)
    return Nest(
        "gemm" if shape.gemm else "conv", side, extent, tuple(tile), loops, stride=layer.stride_y, pad_y=layer.pad_y,
        pad_x=layer.pad_x, in_rows=layer.iy, in_cols=layer.ix,
    )  # fmt: skip


def tasks(model: Model, samples: int, seed: int, networks: Sequence[str]) -> list[Task]:
    """As many mappings of every layer; half of them any that fit, half among the best by the unfitted estimate.

    Left out is what no search keeps: more than MAX_TILES tiles, and tiles within the padding, on which a counter of the
    hardware wraps around (see `memory`).
    """
    rng = np.random.default_rng(seed)
    pool = [(name, layer) for name in networks for layer in network_layers(name)]
    out = []
    for i in range(samples):
        name, layer = pool[i % len(pool)]
        rows, good = _choices(layer, model)
        row = rows[good[rng.integers(len(good))] if (i // len(pool)) % 2 else rng.integers(len(rows))]
        out.append(Task(name, f"{name} {layer.name}", layer, tuple(int(x) for x in row[:6]), int(row[6])))
    return out


@functools.lru_cache(maxsize=64)
def _choices(layer: Layer, model: Model) -> tuple[Ints, Ints]:
    """Legal mappings [n, 7] of a layer, and where the best of them stand."""
    workload = Workload(layer.name, (layer.c, layer.iy, layer.ix), (replace(layer, inputs=(INPUT,)),), (layer.name,))
    rows, _ = CachedTiles(workload, model.machine).singles(0)
    shape = Shape.of(layer)
    n = counts(shape, Tiles(*(rows[:, d] for d in range(6))), exact)
    down = rows[:, 4] * layer.stride_y + rows[:, 2] - 1 >= layer.pad_y
    right = rows[:, 5] * layer.stride_x + rows[:, 3] - 1 >= layer.pad_x
    rows = rows[down & right & (np.prod([n[d] for d in NEST_DIMS], axis=0) <= MAX_TILES)]
    tiles = Tiles(*(rows[:, d] for d in range(6)))
    guess = predict(shape, tiles, [rows[:, 6] == i for i in range(len(ORDERS))], model, NestTheta())
    return rows, np.argsort(guess.cycles)[: max(1, int(GOOD * len(rows)))]


def _measure(soc: SoC, task: Task) -> float:
    nest = nest_of(task.layer, task.tile, ORDERS[task.order], Machine.of(soc).side)
    return run_nest(nest, soc, CAP).cycles


def simulate_all(soc: SoC, plan: Sequence[Task], workers: int, progress: Report | None = None) -> Floats:
    """Simulated cycles of all tasks, on so many processes."""
    report = progress or (lambda done, total, what: None)
    report(0, len(plan), "simulating mappings")
    measure = functools.partial(_measure, soc)
    out = []
    if workers == 1:
        for one in map(measure, plan):
            out.append(one)
            report(len(out), len(plan), "simulating mappings")
        return np.array(out)
    context = multiprocessing.get_context("spawn")  # threads of numba do not survive a fork
    with ProcessPoolExecutor(
        workers, context, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)
    ) as pool:
        try:
            for one in pool.map(measure, plan, chunksize=8):
                out.append(one)
                report(len(out), len(plan), "simulating mappings")
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return np.array(out)


# ---------------------------------------------------------------------------------------------------------------------
# Fitting


def batch(plan: Sequence[Task]) -> tuple[Shape, Tiles, list[npt.NDArray[np.bool_]]]:
    """The arguments of `predict` for all tasks at once, as arrays."""
    shape = stacked([Shape.of(task.layer) for task in plan], np.array)
    tiles = Tiles(*(np.array([task.tile[d] for task in plan]) for d in range(6)))
    order = np.array([task.order for task in plan])
    return shape, tiles, [order == i for i in range(len(ORDERS))]


def fit(plan: Sequence[Task], simulated: Floats, model: Model) -> NestTheta:
    """The factors that predict the samples best, in the logarithm of their cycles. InputError with too few samples."""
    names = [f.name for f in fields(NestTheta)]
    if len(plan) < 5 * len(names):
        raise InputError(f"{len(plan)} samples to fit {len(names)} factors; ask for more with --samples")
    shape, tiles, order = batch(plan)
    low, high = (np.array(side) for side in zip(*(BOUNDS[name] for name in names), strict=True))

    def theta(x: Floats) -> NestTheta:
        return NestTheta(*(low + x * (high - low)).tolist())

    def residuals(x: Floats) -> Floats:
        out: Floats = np.log(predict(shape, tiles, order, model, theta(x)).cycles / simulated)
        return out

    start = (np.array([getattr(NestTheta(), name) for name in names]) - low) / (high - low)
    return theta(optimize.least_squares(residuals, start, bounds=(0, 1), loss="soft_l1", f_scale=0.05).x)


# ---------------------------------------------------------------------------------------------------------------------
# Results


@dataclass(frozen=True)
class Errors:
    """How far predictions are from simulated cycles. mape: mean over the layers of their mean |predicted / simulated -
    1|; median, p95: of all samples; spearman: rank correlation over all samples; within: the median of those within
    each layer, which is what a search compares (None with fewer than five samples a layer)."""

    samples: int
    layers: int
    mape: float
    median: float
    p95: float
    spearman: float
    within: float | None


@dataclass(frozen=True)
class NestSurrogate:
    """The fitted factors and where they come from. soc: name and digest; simulator: version and digest. samples, seed:
    of the calibration. held_out: errors on the layers of HELD_OUT."""

    soc: str
    soc_digest: str
    simulator: str
    simulator_digest: str
    theta: NestTheta
    samples: int
    seed: int
    held_out: Errors


@dataclass(frozen=True)
class Worst:
    """A sample that the estimate misses most."""

    label: str
    simulated: float
    estimated: float


@dataclass(frozen=True)
class Calibration:
    """The fitted estimate; errors by network, those fitted to among them; the samples held out that it misses most."""

    made: NestSurrogate
    fitted_on: Errors
    by_network: dict[str, Errors]
    worst: tuple[Worst, ...]


def errors(plan: Sequence[Task], predicted: Floats, simulated: Floats) -> Errors:
    """See `Errors`."""
    relative = np.abs(predicted / simulated - 1)
    labels = np.array([task.label for task in plan])
    of = [labels == label for label in sorted(set(labels))]
    ranks = [float(stats.spearmanr(predicted[at], simulated[at]).statistic) for at in of if at.sum() >= LEAST]
    return Errors(
        len(plan),
        len(of),
        float(np.mean([relative[at].mean() for at in of])),
        float(np.median(relative)),
        float(np.quantile(relative, 0.95)),
        float(stats.spearmanr(predicted, simulated).statistic) if len(plan) > 2 else float("nan"),
        float(np.median(ranks)) if ranks else None,
    )


def calibrate(
    soc: SoC, samples: int = 1000, seed: int = 0, progress: Report | None = None, workers: int | None = None
) -> Calibration:
    """Sample, simulate, fit, and measure the error on what was held out; half of the samples are.

    progress(done, total, what) is called as it goes. workers: processes, by default one a core. InputError if the SoC
    has no systolic array, or with too few samples to fit.
    """
    model = Model.of(soc)
    half = samples - samples // 2
    plan = tasks(model, half, seed, FITTED) + tasks(model, samples - half, seed + 1, HELD_OUT)
    simulated = simulate_all(soc, plan, workers or os.cpu_count() or 1, progress)
    theta = fit(plan[:half], simulated[:half], model)
    predicted = estimates(plan, model, theta)
    networks = np.array([task.network for task in plan])
    held = errors(plan[half:], predicted[half:], simulated[half:])
    by_network = {}
    for name in (*FITTED, *HELD_OUT):
        at = np.flatnonzero(networks == name)
        by_network[name] = errors([plan[i] for i in at], predicted[at], simulated[at])
    far = half + np.argsort(-np.abs(np.log(predicted[half:] / simulated[half:])))[:WORST]
    worst = tuple(Worst(text_of(plan[i]), float(simulated[i]), float(predicted[i])) for i in far)
    made = NestSurrogate(
        soc.name, surrogate.soc_digest(soc), __version__, surrogate.simulator_digest(), theta, samples, seed, held
    )
    fitted_on = errors(plan[:half], predicted[:half], simulated[:half])
    return Calibration(made, fitted_on, by_network, worst)


def estimates(plan: Sequence[Task], model: Model, theta: NestTheta) -> Floats:
    """Estimated cycles of all tasks."""
    shape, tiles, order = batch(plan)
    out: Floats = predict(shape, tiles, order, model, theta).cycles
    return out


def text_of(task: Task) -> str:
    """A task in one line."""
    sizes = " ".join(f"{d}{size}" for d, size in zip(NEST_DIMS, task.tile, strict=True))
    return f"{task.label}: {sizes}, {ORDER_NAMES[task.order]}"


def runs_nests(soc: SoC) -> bool:
    """Whether a SoC's estimate is the one of this module: it has a systolic array."""
    return bool(cached_cores(soc))


def save(calibration: Calibration, path: Path) -> None:
    """Write the fitted estimate, for `load`."""
    surrogate.save(calibration.made, path)


def load(path: Path, soc: SoC) -> NestSurrogate:
    """Read a fitted estimate. InputError if it is none, or was fitted to another SoC or another simulator."""
    out, found = surrogate.read(path, NestSurrogate)
    unknown = sorted(set(found["theta"]) - {f.name for f in fields(NestTheta)})
    if unknown:
        raise InputError(f"{path}: theta has {', '.join(unknown)}, which this version does not know")
    surrogate.check(path, out, soc, surrogate.simulator_digest())
    return out


def to_json(calibration: Calibration) -> dict[str, Any]:
    """The calibration as plain data."""
    return asdict(calibration.made) | {
        "fitted_on": asdict(calibration.fitted_on),
        "by_network": {name: asdict(error) for name, error in calibration.by_network.items()},
        "worst": [asdict(worst) for worst in calibration.worst],
    }


def _row(table: Table, name: str, error: Errors) -> None:
    within = "-" if error.within is None else f"{error.within:.3f}"
    percent = (f"{error.mape:.1%}", f"{error.median:.1%}", f"{error.p95:.1%}")
    table.add_row(name, str(error.samples), str(error.layers), *percent, f"{error.spearman:.4f}", within)


def table(calibration: Calibration) -> Group:
    """The errors, for a terminal of 80 columns."""
    made = calibration.made
    out = Table(title=f"Estimate of nests against simulation on {made.soc}", box=None, title_justify="left")
    out.add_column("")
    for name in ("samples", "layers", "MAPE", "median", "p95", "Spearman", "in layer"):
        out.add_column(name, justify="right")
    _row(out, "held out", made.held_out)
    for name in HELD_OUT:
        _row(out, f"  {name}", calibration.by_network[name])
    _row(out, "fitted on", calibration.fitted_on)
    for name in FITTED:
        _row(out, f"  {name}", calibration.by_network[name])
    worst = Table(title="Missed most, held out", box=None, title_justify="left")
    for name in ("mapping", "simulated", "error"):
        worst.add_column(name, justify="left" if name == "mapping" else "right", overflow="fold")
    for row in calibration.worst:
        worst.add_row(row.label, f"{row.simulated:,.0f}", f"{row.estimated / row.simulated - 1:+.1%}")
    theta = ", ".join(f"{k} {v:.3g}" for k, v in asdict(made.theta).items())
    return Group(out, Text(""), worst, Text(f"\ntheta: {theta}"))
