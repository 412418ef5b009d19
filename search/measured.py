"""Fit the `roofline` devices to published latencies of whole networks, and measure the error on networks left out.

A device under a runtime has seven unknowns: an efficiency for each class of operator, and a kernel's overhead. Few
networks are known for each, so they are not fitted one by one: the devices of one kind (CPU, GPU) under one runtime are
a family with a common profile, near the kind's, which is near a rough prior; a device differs from it by a speed
of its own and, less freely, class by class. The fit is the most probable set of values (Gaussian deviations of the
logarithms), found for all devices at once. A network that is left out is left out of the family's profile too.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from cosoc.sim import exact
from cosoc.sim.cores.roofline import OP_CLASSES, Efficiency, Roofline, core_name, op_class
from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc, list_socs
from cosoc.sim.files.names import list_workloads
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.files.yamlfile import read_text
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.tiles import make_tile
from cosoc.sim.model.workload import Tile, Workload

Floats = np.ndarray[Any, np.dtype[np.float64]]
Key = tuple[str, str]  # device, runtime

UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}  # a file has one of these columns
TEXTS = ("device", "runtime", "network", "source", "evidence")
ENOUGH = 5  # networks of a device from which on its leave-one-out error says something

# Where a family stands before anything is measured: efficiency by class, in the order of OP_CLASSES, and cycles (ns) a
# kernel. Guesses of magnitude, a factor of two either way; what is measured outweighs them where there is any.
PRIOR = {"cpu": (1.0, 0.5, 0.2, 0.3, 0.4, 0.5), "gpu": (0.2, 0.1, 0.03, 0.1, 0.05, 0.05)}
KERNEL = {"cpu": 20_000, "gpu": 30_000}

# Standard deviations of logarithms: of a kind's profile from the prior, of a family's from the kind's, of a device's
# speed and of its overhead, of its classes from the family's, and of what the model leaves out of a latency.
PROFILE, FAMILY, SPEED, OVERHEAD, CLASS, NOISE = 0.7, 0.3, 1.0, 0.5, 0.35, 0.1
STEPS = 100
# A fit that leaves a row out starts where the fit to all ended: stopping early would be peeking.
CONVERGED = 1e-8
N = len(OP_CLASSES)


@dataclass(frozen=True)
class Measured:
    """A published latency: `network` takes `seconds` on `device` under `runtime`."""

    device: str
    runtime: str
    network: str
    seconds: float
    source: str
    evidence: str

    @property
    def key(self) -> Key:
        return self.device, self.runtime


@dataclass(frozen=True)
class Kernels:
    """The kernels of a network on a device. work: seconds of their MACs at the peak. move: seconds of their bytes. op:
    index of the class, N for one without MACs."""

    work: Floats
    move: Floats
    op: np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Fitted:
    """A device under a runtime as fitted."""

    efficiency: dict[str, float]
    kernel_cycles: int


@dataclass(frozen=True)
class Prediction:
    """A published latency beside the model's, fitted to all (`fitted_s`), without this network of this device
    (`left_out_s`), and without any of this device's (`unseen_s`)."""

    measured: Measured
    fitted_s: float
    left_out_s: float
    unseen_s: float


# ---------------------------------------------------------------------------------------------------------------------
# The file


def load(path: Path) -> tuple[Measured, ...]:
    """Read latencies: a CSV with the columns device, runtime, network, source, evidence, and s, ms or us.

    Devices are built-in SoCs with a `roofline` core, runtimes theirs, networks built-in workloads. Raises InputError
    with `file:line`.
    """
    reader = csv.reader(read_text(path).splitlines())
    try:
        lines = list(reader)
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num}: is no CSV: {error}") from None
    if not lines:
        raise InputError(f"{path}:1: nothing there; a line of column names is needed: {', '.join(TEXTS)}, ms")
    header = [name.strip() for name in lines[0]]
    unit = _unit(path, header)
    seen: dict[tuple[str, ...], int] = {}
    out = []
    for number, cells in enumerate(lines[1:], 2):
        if not cells or cells[0].startswith("#"):
            continue
        if len(cells) != len(header):
            raise InputError(f"{path}:{number}: found {len(cells)} values; the first line names {len(header)} columns")
        row = _row(path, number, dict(zip(header, (c.strip() for c in cells), strict=True)), unit)
        same = (row.device, row.runtime, row.network)
        if same in seen:
            raise InputError(f"{path}:{number}: {', '.join(same)} stands in line {seen[same]} already; keep one")
        seen[same] = number
        out.append(row)
    if not out:
        raise InputError(f"{path}:{len(lines)}: no latency in it; at least one is needed")
    return tuple(out)


def _unit(path: Path, header: Sequence[str]) -> str:
    unknown = [name for name in header if name not in TEXTS and name not in UNITS]
    if unknown:
        raise InputError(f"{path}:1: unknown column or unit {unknown[0]!r}; known are {', '.join((*TEXTS, *UNITS))}")
    missing = [name for name in TEXTS if name not in header]
    if missing:
        raise InputError(f"{path}:1: no column {missing[0]!r}; needed are {', '.join(TEXTS)}")
    units = [name for name in header if name in UNITS]
    if len(units) != 1 or len(set(header)) != len(header):
        raise InputError(f"{path}:1: found {', '.join(header)}; each column once, and one of {', '.join(UNITS)}")
    return units[0]


def _row(path: Path, number: int, row: Mapping[str, str], unit: str) -> Measured:
    def refuse(column: str, right: str) -> InputError:
        return InputError(f"{path}:{number}: {column}: found {row[column]!r}; {right}")

    if row["device"] not in list_socs() or core_name(find_soc(row["device"])) is None:
        raise refuse("device", f"the devices are {', '.join(devices())}")
    runtimes = roofline(find_soc(row["device"])).runtimes
    if row["runtime"] not in runtimes:
        raise refuse("runtime", f"{row['device']} has {', '.join(runtimes)}")
    if row["network"] not in list_workloads():
        raise refuse("network", f"the built-in workloads are {', '.join(list_workloads())}")
    try:
        value = float(row[unit])
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise refuse(unit, "a positive number is needed")
    if not row["source"]:
        raise refuse("source", "say who published it")
    return Measured(row["device"], row["runtime"], row["network"], value * UNITS[unit], row["source"], row["evidence"])


def roofline(soc: SoC) -> Roofline:
    """The SoC's roofline core."""
    core = next(core for core in soc.cores.values() if isinstance(core, Roofline))
    assert isinstance(core, Roofline)
    return core


def devices() -> tuple[str, ...]:
    """The built-in SoCs that have a roofline core."""
    return tuple(name for name in list_socs() if core_name(find_soc(name)))


# ---------------------------------------------------------------------------------------------------------------------
# The model, as the core has it


def with_runtime(core: Roofline, runtime: str) -> Roofline:
    """The core under another of its runtimes."""
    return core.model_copy(update={"runtime": runtime})


def tiles(workload: Workload, core: Roofline) -> list[Tile]:
    """The workload's kernels on a core, each a whole layer."""
    whole = [make_tile(layer, layer.k, layer.oy, layer.ox) for layer in workload]
    return [tile for tile in whole if not core.folded(tile)]


def kernels(workload: Workload, soc: SoC, runtime: str) -> Kernels:
    """What the latency of a network on a device depends on, besides the unknowns."""
    core = with_runtime(roofline(soc), runtime)
    parts = tiles(workload, core)
    macs = [core.counted_macs(tile, exact) for tile in parts]
    move = [core.moved_bytes(tile, exact) / core.memory_bytes_per_cycle for tile in parts]
    op = [OP_CLASSES.index(op_class(tile)) if mac else N for tile, mac in zip(parts, macs, strict=True)]
    work = np.array(macs, dtype=float) / core.runtimes[runtime].peak_macs_per_cycle
    return Kernels(work / soc.tick_hz, np.array(move) / soc.tick_hz, np.array(op))


@cache
def _case(device: str, runtime: str, network: str) -> Kernels:
    """Kept, as built-in files do not change while a process runs."""
    return kernels(find_workload(network), find_soc(device), runtime)


# ---------------------------------------------------------------------------------------------------------------------
# The fit


class _Problem:
    """Residuals and their derivatives. The unknowns are standard deviations from where the prior has them: for CPUs and
    GPUs and for each family a profile and an overhead (N + 1), for each device its speed, its classes and its overhead
    (N + 2)."""

    def __init__(self, rows: Sequence[Measured]) -> None:
        self.keys = list(dict.fromkeys(row.key for row in rows))
        self.kinds = {key: roofline(find_soc(key[0])).kind for key in self.keys}
        self.families = list(dict.fromkeys((self.kinds[key], key[1]) for key in self.keys))
        self.shared = [kind for kind in PRIOR if kind in self.kinds.values()]
        self.size = (len(self.shared) + len(self.families)) * (N + 1) + len(self.keys) * (N + 2)
        self.n = len(rows)
        maps = [self.map(row.key) for row in rows]
        self.constants = np.stack([constant for constant, _ in maps])
        self.matrices = np.stack([matrix for _, matrix in maps])
        cases = [_case(*row.key, row.network) for row in rows]
        self.row = np.repeat(np.arange(self.n), [len(case.work) for case in cases])
        self.count = np.bincount(self.row)
        self.work, self.move = np.concatenate([c.work for c in cases]), np.concatenate([c.move for c in cases])
        self.op = np.concatenate([case.op for case in cases])
        self.measured = np.array([math.log(row.seconds) for row in rows])

    def map(self, key: Key) -> tuple[Floats, Floats]:
        """The device's logarithms as constant + matrix @ unknowns."""
        kind = self.kinds[key]
        constant = np.log(np.array([*PRIOR[kind], KERNEL[kind] * 1e-9], dtype=float))
        matrix = np.zeros((N + 1, self.size))
        common = self.shared.index(kind) * (N + 1)
        family = (len(self.shared) + self.families.index((kind, key[1]))) * (N + 1)
        own = (len(self.shared) + len(self.families)) * (N + 1) + self.keys.index(key) * (N + 2)
        for i in range(N):
            matrix[i, common + i] = PROFILE
            matrix[i, family + i] = FAMILY
            matrix[i, own] = SPEED
            matrix[i, own + 1 + i] = CLASS
        matrix[N, common + N] = 2 * OVERHEAD
        matrix[N, family + N] = OVERHEAD
        matrix[N, own + 1 + N] = OVERHEAD
        return constant, matrix

    def logs(self, key: Key, unknowns: Floats) -> Floats:
        """Logarithms of a device's efficiencies, and of the seconds of a kernel's overhead."""
        constant, matrix = self.map(key)
        out: Floats = constant + matrix @ unknowns
        return out

    def log_seconds(self, unknowns: Floats) -> tuple[Floats, Floats]:
        """Of every row, with the slopes by its device's logarithms [rows, N + 1]."""
        logs = self.constants + (self.matrices.reshape(-1, self.size) @ unknowns).reshape(self.n, N + 1)
        rates = np.exp(-np.pad(logs[:, :N], ((0, 0), (0, 1))))
        compute = self.work * rates[self.row, self.op]
        overhead = np.exp(logs[:, N]) * self.count
        total = overhead + np.bincount(self.row, np.maximum(compute, self.move), self.n)
        bound = np.where(compute > self.move, compute, 0.0)
        slopes = np.bincount(self.row * (N + 1) + self.op, bound, self.n * (N + 1)).reshape(self.n, N + 1)
        gradient: Floats = np.append(-slopes[:, :N], overhead[:, None], axis=1) / total[:, None]
        return np.log(total), gradient

    def solve(self, weights: Floats, start: Floats) -> Floats:
        """The most probable unknowns, each row weighted 1 or 0, by Gauss and Newton's steps, halved where they fail."""
        unknowns, step = start, 1.0

        def cost(at: Floats) -> float:
            misses = (self.log_seconds(at)[0] - self.measured) / NOISE
            return float(weights @ misses**2 + at @ at)

        best = cost(unknowns)
        for _ in range(STEPS):
            value, slopes = self.log_seconds(unknowns)
            slopes = np.einsum("ri,riu->ru", slopes * (weights / NOISE)[:, None], self.matrices)
            misses = (value - self.measured) / NOISE
            full = np.linalg.solve(slopes.T @ slopes + np.eye(self.size), slopes.T @ misses + unknowns)
            while step > 1e-4 and cost(unknowns - step * full) > best:
                step /= 2
            unknowns = unknowns - step * full
            now = cost(unknowns)
            if best - now < CONVERGED * best:
                break
            best, step = now, min(1.0, 2 * step)
        return unknowns


def fit(rows: Sequence[Measured]) -> dict[Key, Fitted]:
    """The most probable tables of every (device, runtime) that rows name. Three digits are kept."""
    problem = _Problem(rows)
    unknowns = problem.solve(np.ones(len(rows)), np.zeros(problem.size))
    out = {}
    for key in problem.keys:
        *efficiency, overhead_s = np.exp(problem.logs(key, unknowns))
        cycles = overhead_s * find_soc(key[0]).tick_hz
        values: dict[str, float] = {name: float(f"{v:.3g}") for name, v in zip(OP_CLASSES, efficiency, strict=True)}
        out[key] = Fitted(values, int(float(f"{cycles:.3g}")))
    return out


def apply(core: Roofline, runtime: str, fitted: Fitted) -> Roofline:
    """The core with fitted values, under that runtime."""
    table = core.runtimes[runtime].model_copy(
        update={"kernel_cycles": fitted.kernel_cycles, "efficiency": Efficiency(**fitted.efficiency)}
    )
    return core.model_copy(update={"runtime": runtime, "runtimes": {**core.runtimes, runtime: table}})


def cross_validate(rows: Sequence[Measured]) -> tuple[Prediction, ...]:
    """Each row predicted by the fit to all, by one without it, and by one without its device's rows."""
    problem = _Problem(rows)
    keys = [row.key for row in rows]
    best = problem.solve(np.ones(len(rows)), np.zeros(problem.size))
    fitted = np.exp(problem.log_seconds(best)[0])

    def without(left_out: Sequence[bool]) -> Floats:
        weights = 1.0 - np.array(left_out, dtype=float)
        out: Floats = np.exp(problem.log_seconds(problem.solve(weights, best))[0])
        return out

    unseen = {key: without([k == key for k in keys]) for key in problem.keys}
    return tuple(
        Prediction(row, float(fitted[i]), float(without([j == i for j in range(len(rows))])[i]), float(unseen[key][i]))
        for i, (row, key) in enumerate(zip(rows, keys, strict=True))
    )


# ---------------------------------------------------------------------------------------------------------------------
# What is told


def mape(predictions: Sequence[Prediction], which: str) -> float:
    """Mean absolute error over the measured time, of `fitted_s`, `left_out_s` or `unseen_s`."""
    return float(np.mean([abs(getattr(p, which) / p.measured.seconds - 1) for p in predictions]))


def by_device(predictions: Sequence[Prediction]) -> dict[Key, list[Prediction]]:
    """Predictions by (device, runtime), in the rows' order."""
    out: dict[Key, list[Prediction]] = {}
    for p in predictions:
        out.setdefault(p.measured.key, []).append(p)
    return out


def table(predictions: Sequence[Prediction]) -> Table:
    """Errors by device: of the fit, of networks left out, of the device unseen, and the worst network left out."""
    columns = ("device", "runtime", "networks", "fit", "network left out", "device left out", "worst left out")
    out = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for (device, runtime), mine in by_device(predictions).items():
        worst = max(mine, key=lambda p: abs(math.log(p.left_out_s / p.measured.seconds)))
        few = len(mine) < ENOUGH
        out.add_row(
            device,
            runtime,
            str(len(mine)),
            f"{mape(mine, 'fitted_s'):.1%}",
            "-" if few else f"{mape(mine, 'left_out_s'):.1%}",
            f"{mape(mine, 'unseen_s'):.0%}",
            "-" if few else f"{worst.measured.network} {worst.left_out_s / worst.measured.seconds - 1:+.0%}",
        )
    return out


def to_json(predictions: Sequence[Prediction], fitted: Mapping[Key, Fitted]) -> dict[str, Any]:
    """Errors, predictions and tables as plain data."""
    return {
        f"{device}/{runtime}": {
            "networks": len(mine),
            "mape_fit": mape(mine, "fitted_s"),
            "mape_network_left_out": mape(mine, "left_out_s") if len(mine) >= ENOUGH else None,
            "mape_device_left_out": mape(mine, "unseen_s"),
            "kernel_cycles": fitted[device, runtime].kernel_cycles,
            "efficiency": fitted[device, runtime].efficiency,
            "latencies_ms": {
                p.measured.network: {
                    "measured": 1e3 * p.measured.seconds,
                    "fit": 1e3 * p.fitted_s,
                    "network_left_out": 1e3 * p.left_out_s,
                    "device_left_out": 1e3 * p.unseen_s,
                }
                for p in mine
            },
        }
        for (device, runtime), mine in by_device(predictions).items()
    }
