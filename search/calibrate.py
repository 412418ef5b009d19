"""Fit the estimate to the simulator, and measure its error on networks that it was not fitted to.

Legal mappings are sampled (shares with splits, layers at once, tilings, both runtimes) of some networks and of random
layers, simulated on all cores of the machine, and the few factors of `estimate.Theta` fitted to the logarithm of the
ticks. The error is then that on other networks and their layers. ODiMO's released formulas meet the same simulated
times.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Mapping as MappingOf
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.random import Generator
from rich.console import Group as Lines
from rich.table import Table
from rich.text import Text
from scipy import optimize, stats

from cosoc.search import surrogate
from cosoc.search.baselines import laws
from cosoc.search.surrogate import Surrogate
from cosoc.search.terms import TERMS, TilingCache, emitted, network_terms, prefetchable, tilings_for, unstreamed_ticks
from cosoc.sim import exact
from cosoc.sim.errors import InputError
from cosoc.sim.estimate import Terms, Theta, stream_ticks, streamed
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.lower.emit import lower
from cosoc.sim.manual import alone
from cosoc.sim.model.energy import power_energy_j
from cosoc.sim.model.mapping import RUNTIMES, Mapping, Piece, Runtime
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import INPUT, Layer, Workload
from cosoc.sim.price import program_figures
from cosoc.sim.simulate import engine_run
from cosoc.sim.tiler import candidates, homes_of, unsupported

FITTED = ("resnet8", "dscnn", "autoencoder", "digits_cnn")
HELD_OUT = ("resnet20", "mobilenet_v1_025", "resnet18_cifar", "mobilenet_v1_cifar")
WORST = 5
CHUNK = 8  # samples a worker takes at once: they share their tilings

Kind = Literal["network", "layer"]
Report = Callable[[int, int, str], None]
Floats = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Task:
    """One mapping to sample and simulate. source: a network, "" for a random one; kind: all of it, or one layer."""

    number: int
    source: str
    kind: Kind
    held_out: bool
    runtime: Runtime


@dataclass(frozen=True)
class Sample:
    """A simulated mapping. label: what it was. terms [layers, TERMS], room [layers], ahead: for the estimate. ticks,
    energy_j: simulated. odimo_ticks: what ODiMO's formulas say, NaN where they do not apply. groups: how many groups of
    layers run at once."""

    task: Task
    label: str
    terms: Floats
    room: Floats
    ahead: int
    ticks: int
    energy_j: float
    odimo_ticks: float
    groups: int = 0


@dataclass(frozen=True)
class Errors:
    """How far predictions are from the simulated figures. mape, p95: mean and 95th percentile of |predicted /
    simulated - 1|. spearman, kendall: rank correlation; for networks the lowest of theirs, since mappings of one
    network are what a search compares. samples: how many. NaN where there are too few."""

    samples: int
    mape: float
    p95: float
    spearman: float
    kendall: float


@dataclass(frozen=True)
class Worst:
    """A sample that the estimate misses most."""

    label: str
    runtime: Runtime
    simulated: float
    estimated: float


@dataclass(frozen=True)
class Calibration:
    """The fitted estimate, and errors on what it was not fitted to: by runtime and kind, ours, our energy, ODiMO's; by
    network ours and ODiMO's in the overlapped runtime; ours of networks with layers at once; the samples that it misses
    most, by kind."""

    surrogate: Surrogate
    ours: dict[Runtime, dict[Kind, Errors]]
    energy: dict[Runtime, dict[Kind, Errors]]
    odimo: dict[Runtime, dict[Kind, Errors]]
    by_network: dict[str, tuple[Errors, Errors]]
    at_once: Errors
    worst: dict[Kind, tuple[Worst, ...]]
    fitted_on: dict[Kind, Errors]


# ---------------------------------------------------------------------------------------------------------------------
# Sampling


def tasks(samples: int, seed: int) -> list[Task]:
    """What to simulate: in turn a fitted network, a layer of one, a random layer, a random chain of layers, a
    held-out network, a layer of one; three of four in the overlapped runtime, the only one that has anything to fit."""
    plan: tuple[tuple[tuple[str, ...], Kind, bool], ...] = (
        (FITTED, "network", False),
        (FITTED, "layer", False),
        (("",), "layer", False),
        (("",), "network", False),
        (HELD_OUT, "network", True),
        (HELD_OUT, "layer", True),
    )
    out = []
    for i in range(samples):
        sources, kind, held_out = plan[i % len(plan)]
        turn = i // len(plan)
        runtime: Runtime = "serial" if (turn % len(sources) + turn // len(sources)) % 4 == 3 else "overlapped"
        out.append(Task(i, sources[turn % len(sources)], kind, held_out, runtime))
    return out


def random_layer(rng: Generator) -> Workload:
    """A convolution of a size as networks for such chips have them, on its own."""
    while True:
        f = int(rng.choice([1, 3, 3, 5]))
        out = int(rng.choice([1, 4, 7, 8, 14, 16, 28, 32, 56]))
        stride = int(rng.choice([1, 1, 2]))
        c, k = (round(2 ** rng.uniform(2, 9)) for _ in range(2))
        layer = Layer("conv", "conv", (INPUT,), k, c, out, out, out * stride, out * stride, f, f, stride, stride,
                      f // 2, f // 2)  # fmt: skip
        if layer.macs < 2e8 and layer.inputs and c * (out * stride) ** 2 < 2e6:
            return Workload("random", (c, layer.iy, layer.ix), (layer,), ("conv",))


def random_chain(rng: Generator) -> Workload:
    """A network of three to ten convolutions, each reading the one before, of few or of many weights."""
    c, size = int(rng.choice([1, 3, 16])), int(rng.choice([8, 16, 28, 32, 48]))
    shape, name, layers = (c, size, size), INPUT, []
    widest = rng.uniform(4, 9)
    for i in range(int(rng.integers(3, 11))):
        f, k = int(rng.choice([1, 3, 3, 5])), round(2 ** rng.uniform(widest - 2, widest))
        stride = 2 if size % 2 == 0 and rng.random() < 0.3 else 1
        out = size // stride
        layers.append(Layer(f"conv{i}", "conv", (name,), k, c, out, out, size, size, f, f, stride, stride,
                            f // 2, f // 2))  # fmt: skip
        name, c, size = f"conv{i}", k, out
    return Workload("chain", shape, tuple(layers), (name,))


def random_branches(rng: Generator) -> Workload:
    """A network of two to five blocks, in each of which two convolutions read the same tensor and are added up: a 3x3
    one, whole or depthwise, and a 1x1 one."""
    c, size = int(rng.choice([16, 32, 64])), int(rng.choice([8, 16, 28, 32]))
    shape, name, layers = (c, size, size), INPUT, list[Layer]()
    for i in range(int(rng.integers(2, 6))):
        k = c if rng.random() < 0.5 else round(2 ** rng.uniform(4, 7))
        wide, one, both = f"wide{i}", f"one{i}", f"add{i}"
        depthwise = k == c and rng.random() < 0.7
        area = (size, size, size, size)
        layers.append(Layer(wide, "conv", (name,), k, c, *area, 3, 3, 1, 1, 1, 1, groups=c if depthwise else 1))
        layers.append(Layer(one, "conv", (name,), k, c, *area, 1, 1, 1, 1, 0, 0))
        layers.append(Layer(both, "add", (wide, one), k, k, *area, 1, 1, 1, 1, 0, 0))
        name, c = both, k
    return Workload("branches", shape, tuple(layers), (name,))


def _able(layer: Layer, soc: SoC) -> list[str]:
    """The cores that can run a layer; the host only where no other can."""
    return [name for name in soc.cores if name != soc.host and not unsupported(layer, soc, name)] or [soc.host]


def random_shares(layer: Layer, soc: SoC, rng: Generator, bias: Floats) -> dict[str, int]:
    """Channels of a layer on the cores that can run it: on one of them, or split, at hardware steps or anywhere.

    bias: for every core of the SoC how much a whole network leans to it.
    """
    able = _able(layer, soc)
    if able == [soc.host]:
        return {soc.host: layer.k}
    weight = bias[[list(soc.cores).index(name) for name in able]]
    if rng.random() < 0.3:
        chosen = rng.choice(len(able), p=weight / weight.sum())
        return {name: layer.k * (i == chosen) for i, name in enumerate(able)}
    parts = rng.dirichlet(0.2 + 3 * weight / weight.sum())
    cuts = np.floor(np.cumsum(parts) * layer.k + 0.5).astype(int)
    if rng.random() < 0.5:
        step = min(soc.cores[name].channel_step for name in able)
        cuts = np.minimum(-(-cuts // step) * step, layer.k)
    cuts[-1] = layer.k
    return dict(zip(able, np.diff(cuts, prepend=0).tolist(), strict=True))


def random_pieces(
    workload: Workload, soc: SoC, shares: MappingOf[str, dict[str, int]], rng: Generator
) -> tuple[tuple[Piece, ...], dict[str, dict[str, int]]]:
    """Neighbours that read nothing of one another, each pair with even odds in a parallel piece, and the shares for it.

    One of a pair goes to one core as a whole; the other keeps its shares, or goes to a core of its own if they need
    that core or its weight memory too. Pairs for which there are no two such cores stay apart.
    """
    pieces, out, taken = list[Piece](), dict(shares), set[str]()
    for pair in itertools.pairwise(workload.layers):
        names = [layer.name for layer in pair]
        if names[0] in pair[1].inputs or taken.intersection(names) or not all(layer.op == "conv" for layer in pair):
            continue
        here, there = rng.permutation(2).tolist()
        core = str(rng.choice(_able(pair[here], soc)))
        apart = [n for n in _able(pair[there], soc) if n != core and not _same_weights(soc, n, core)]
        if not apart or rng.random() < 0.5:
            continue
        out[names[here]] = {core: pair[here].k}
        if not {n for n, k in out[names[there]].items() if k} <= set(apart):
            out[names[there]] = {str(rng.choice(apart)): pair[there].k}
        taken.update(names)
        pieces.append(Piece(tuple(names), "parallel"))
    return tuple(pieces), out


def _same_weights(soc: SoC, one: str, other: str) -> bool:
    """Whether two cores have one weight memory."""
    memory = soc.cores[one].weight_memory
    return memory is not None and memory == soc.cores[other].weight_memory


def random_mapping(workload: Workload, soc: SoC, runtime: Runtime, rng: Generator, cache: TilingCache) -> Mapping:
    """A legal mapping; in one of four, tilings are any legal ones in place of the tiler's."""
    bias = rng.dirichlet(np.ones(len(soc.cores))) + 1e-3
    shares = {layer.name: random_shares(layer, soc, rng, bias) for layer in workload if layer.op == "conv"}
    pieces, shares = random_pieces(workload, soc, shares, rng) if runtime == "overlapped" else ((), shares)
    mapping = tilings_for(workload, soc, shares, runtime, cache, pieces=pieces)
    if rng.random() < 0.75:
        return mapping
    homes, layers = homes_of(workload, mapping, soc), dict(mapping.layers)
    at_once = {name for piece in pieces for name in piece.layers}
    for layer in (layer for layer in workload if layer.name not in at_once):
        given = layers[layer.name]
        if rng.random() < 0.5:
            legal = list(islice(candidates(layer, given, soc, runtime, homes), 64))
            layers[layer.name] = legal[int(rng.integers(len(legal)))]
    return replace(mapping, layers=layers)


def _workload(task: Task, rng: Generator) -> Workload:
    if not task.source:
        if task.kind == "layer":
            return random_layer(rng)
        return random_branches(rng) if task.number % 4 == 1 else random_chain(rng)
    workload = find_workload(task.source)
    if task.kind == "network":
        return workload
    convs = [layer for layer in workload if layer.op == "conv"]
    pool = convs if rng.random() < 0.8 else [layer for layer in workload if layer.op != "concat"]
    return alone(workload, pool[int(rng.integers(len(pool)))])


def measure(soc: SoC, chunk: Sequence[Task], seed: int) -> list[Sample]:
    """Sample and simulate; what the machine cannot run (a random layer too large for it) is left out."""
    cache, out = TilingCache(), []
    for task in chunk:
        rng = np.random.default_rng((seed, task.number))
        workload = _workload(task, rng)
        try:
            mapping = random_mapping(workload, soc, task.runtime, rng, cache)
            out.append(simulated(task, workload, mapping, soc))
        except InputError:
            continue
    return out


def simulated(task: Task, workload: Workload, mapping: Mapping, soc: SoC) -> Sample:
    """Simulate a complete mapping, and keep the terms of its estimate. InputError where the machine cannot run it."""
    found = program_figures(lower(workload, mapping, soc), soc, workload, mapping, engine_run("fast"))
    homes = homes_of(workload, mapping, soc)
    workload = emitted(workload, mapping, soc)
    terms = network_terms(workload, soc, mapping, {}, homes)
    table = torch.stack([getattr(terms, name) for name in TERMS], 1).numpy()
    room = np.array(prefetchable(workload, soc, mapping), dtype=np.float64)
    label = f"{workload.name} {_shares_text(workload, mapping)}".strip()
    ahead = stream_ticks(homes, soc)
    ticks, odimo = round(found.latency_s * soc.tick_hz), odimo_ticks(workload, mapping)
    return Sample(task, label, table, room, ahead, ticks, found.energy_j, odimo, len(mapping.pieces))


def _shares_text(workload: Workload, mapping: Mapping) -> str:
    if len(workload.layers) > 1:
        return ""
    given = mapping.layers[workload.layers[0].name]
    layer = workload.layers[0]
    shape = f"{layer.c}x{layer.k} {layer.fy}x{layer.fx} {layer.oy}x{layer.ox}"
    return " ".join((shape, *(f"{p.core}:{p.channels}" for p in given.parts if p.channels)))


def odimo_ticks(workload: Workload, mapping: Mapping) -> float:
    """ODiMO's cycles of a mapped network; NaN without digital and analog cores, or without convolutions."""
    convs = [layer for layer in workload if layer.op == "conv"]
    cores = {part.core for layer in convs for part in mapping.layers[layer.name].parts}
    if not convs or not cores <= {"digital", "analog"}:
        return float("nan")
    shares = [mapping.layers[layer.name] for layer in convs]
    cycles = (
        laws.layer_cycles(layer, given.channels_on("digital"), given.channels_on("analog"), mapping.runtime)
        for layer, given in zip(convs, shares, strict=True)
    )
    return sum(cycles)


def simulate_all(
    soc: SoC, plan: Sequence[Task], seed: int, workers: int, progress: Report | None = None
) -> list[Sample]:
    """Measure all tasks, on so many processes. KeyboardInterrupt ends them and is raised again."""
    report = progress or (lambda done, total, what: None)
    by_source = sorted(plan, key=lambda task: (task.source, task.kind, task.runtime, task.number))
    chunks = [by_source[i : i + CHUNK] for i in range(0, len(by_source), CHUNK)]
    what, done, out = "simulating mappings", 0, list[Sample]()
    report(0, len(plan), what)
    for chunk, samples in _each(soc, chunks, seed, workers):
        out += samples
        done += len(chunk)
        report(done, len(plan), what)
    return sorted(out, key=lambda sample: sample.task.number)


def _each(
    soc: SoC, chunks: Sequence[Sequence[Task]], seed: int, workers: int
) -> Iterator[tuple[Sequence[Task], list[Sample]]]:
    if workers == 1:
        for chunk in chunks:
            yield chunk, measure(soc, chunk, seed)
        return
    # Threads of torch and numba do not survive a fork.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN))
    try:
        of: dict[Future[list[Sample]], Sequence[Task]] = {pool.submit(measure, soc, c, seed): c for c in chunks}
        pending = set(of)
        while pending:
            ended, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in ended:
                yield of[future], future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


# ---------------------------------------------------------------------------------------------------------------------
# Fitting


def estimates(samples: Sequence[Sample], theta: dict[Runtime, Theta], soc: SoC) -> tuple[Floats, Floats]:
    """Estimated ticks and energy (J) of each sample."""
    ticks, joules = np.zeros(len(samples)), np.zeros(len(samples))
    for runtime in RUNTIMES:
        mine = [i for i, sample in enumerate(samples) if sample.task.runtime == runtime]
        if mine:
            ticks[mine] = _ticks([samples[i] for i in mine], runtime, theta[runtime])
    for i, sample in enumerate(samples):
        joules[i] = power_energy_j(soc, ticks[i], {}) + sample.terms[:, TERMS.index("unit_j")].sum()
    return ticks, joules


def _ticks(samples: Sequence[Sample], runtime: Runtime, theta: Theta) -> Floats:
    terms = Terms(*torch.from_numpy(np.concatenate([s.terms for s in samples])).unbind(1))
    starts = np.cumsum([0, *(len(s.terms) for s in samples[:-1])]).astype(np.int64)
    if runtime == "serial":
        return _sums(terms.total, starts)
    room = torch.from_numpy(np.concatenate([s.room for s in samples]))
    ticks = unstreamed_ticks(terms, room, theta, starts.tolist())
    out = _sums(ticks, starts)
    for i, sample in enumerate(samples):
        if sample.ahead:
            own = ticks[starts[i] : starts[i] + len(sample.terms)].tolist()
            layers = [Terms(*row) for row in sample.terms.tolist()]
            out[i] = sum(streamed(own, layers, sample.ahead, exact))
    return out


def _sums(by_layer: torch.Tensor, starts: np.ndarray[Any, np.dtype[np.int64]]) -> Floats:
    out: Floats = np.add.reduceat(by_layer.numpy(), starts)
    return out


# Where each factor may lie: lower and upper bound.
BOUNDS = {"prefetch": (0.0, 1.0), "launch_hidden": (0.0, 1.0)}


def fit(samples: Sequence[Sample]) -> Theta:
    """The factors that predict the overlapped samples best, in the logarithm of their ticks.

    Raises InputError where there are fewer samples than factors.
    """
    names = [f.name for f in fields(Theta)]
    mine = [s for s in samples if s.task.runtime == "overlapped"]
    if len(mine) < 2 * len(names):
        raise InputError(f"{len(mine)} usable samples for {len(names)} factors; ask for more with --samples")
    simulated = np.log([s.ticks for s in mine])
    low, high = (np.array(side) for side in zip(*(BOUNDS[name] for name in names), strict=True))

    def residuals(x: Floats) -> Floats:
        theta = Theta(**dict(zip(names, (low + x * (high - low)).tolist(), strict=True)))
        out: Floats = np.log(_ticks(mine, "overlapped", theta)) - simulated
        return out

    # Each factor in parts of its range; the loss is robust, since what the form misses should not bend the rest.
    start = (np.array([getattr(Theta(), name) for name in names]) - low) / (high - low)
    best = optimize.least_squares(residuals, np.clip(start, 0.02, 0.98), bounds=(0, 1), loss="soft_l1", f_scale=0.05)
    return Theta(**dict(zip(names, (low + best.x * (high - low)).tolist(), strict=True)))


def errors(predicted: Floats, simulated: Floats, groups: Sequence[str]) -> Errors:
    """See `Errors`. groups: one name a sample; ranks are compared within each. NaN predictions are left out."""
    there = np.isfinite(predicted)
    predicted, simulated = predicted[there], simulated[there]
    names = np.array(groups)[there]
    if not len(predicted):
        return Errors(0, *(float("nan"),) * 4)
    relative = np.abs(predicted / simulated - 1)
    ranks = []
    for name in sorted(set(names)):
        of = names == name
        if of.sum() >= 3 and np.ptp(simulated[of]) > 0 and np.ptp(predicted[of]) > 0:
            spearman = stats.spearmanr(predicted[of], simulated[of]).statistic
            ranks.append((float(spearman), float(stats.kendalltau(predicted[of], simulated[of]).statistic)))
    low = [min(side) for side in zip(*ranks, strict=True)] or [float("nan")] * 2
    return Errors(len(predicted), float(relative.mean()), float(np.quantile(relative, 0.95)), *low)


def calibrate(
    soc: SoC, samples: int = 1000, seed: int = 0, progress: Report | None = None, workers: int | None = None
) -> Calibration:
    """Sample, simulate, fit, and measure the error on what was held out.

    samples: mappings to simulate, of which one in three is held out. progress(done, total, what) is called as it goes.
    workers: processes, by default one a core. Raises InputError if there are too few samples to fit.
    """
    measured = simulate_all(soc, tasks(samples, seed), seed, workers or os.cpu_count() or 1, progress)
    seen = [s for s in measured if not s.task.held_out]
    held = [s for s in measured if s.task.held_out]
    theta: dict[Runtime, Theta] = {"serial": Theta(), "overlapped": fit(seen)}
    ours, energy, odimo = _tables(held, theta, soc)
    fitted_on = _tables(seen, theta, soc)[0]["overlapped"]
    held_out: dict[str, dict[str, float | None]] = {k: _plain(error) for k, error in ours["overlapped"].items()}
    made = surrogate.make(soc, theta, samples, seed, held_out)
    by_network = {}
    for name in HELD_OUT:
        mine = [s for s in held if (s.task.source, s.task.kind, s.task.runtime) == (name, "network", "overlapped")]
        if mine:
            simulated, names = np.array([s.ticks for s in mine], float), [name] * len(mine)
            released = np.array([s.odimo_ticks for s in mine])
            predicted = estimates(mine, theta, soc)[0]
            by_network[name] = errors(predicted, simulated, names), errors(released, simulated, names)
    grouped = [s for s in held if s.groups]
    sources = [s.task.source for s in grouped]
    at_once = errors(estimates(grouped, theta, soc)[0], np.array([s.ticks for s in grouped], float), sources)
    return Calibration(made, ours, energy, odimo, by_network, at_once, _worst(held, theta, soc), fitted_on)


_Table = dict[Runtime, dict[Kind, Errors]]


def _tables(samples: Sequence[Sample], theta: dict[Runtime, Theta], soc: SoC) -> tuple[_Table, _Table, _Table]:
    """Errors of our ticks, our energy, and ODiMO's ticks."""
    ours, energy, odimo = _Table(), _Table(), _Table()
    kinds: tuple[Kind, ...] = ("network", "layer")
    for runtime in RUNTIMES:
        ours[runtime], energy[runtime], odimo[runtime] = {}, {}, {}
        for kind in kinds:
            mine = [s for s in samples if (s.task.runtime, s.task.kind) == (runtime, kind)]
            groups = [s.task.source if kind == "network" else "" for s in mine]
            ticks, joules = estimates(mine, theta, soc)
            simulated = np.array([s.ticks for s in mine], float)
            ours[runtime][kind] = errors(ticks, simulated, groups)
            energy[runtime][kind] = errors(joules, np.array([s.energy_j for s in mine], float), groups)
            odimo[runtime][kind] = errors(np.array([s.odimo_ticks for s in mine], float), simulated, groups)
    return ours, energy, odimo


def _worst(samples: Sequence[Sample], theta: dict[Runtime, Theta], soc: SoC) -> dict[Kind, tuple[Worst, ...]]:
    out: dict[Kind, tuple[Worst, ...]] = {}
    kinds: tuple[Kind, ...] = ("network", "layer")
    for kind in kinds:
        mine = [s for s in samples if s.task.kind == kind]
        ticks, _ = estimates(mine, theta, soc)
        far = sorted(range(len(mine)), key=lambda i: -abs(ticks[i] / mine[i].ticks - 1))[:WORST]
        out[kind] = tuple(
            Worst(mine[i].label, mine[i].task.runtime, float(mine[i].ticks), float(ticks[i])) for i in far
        )
    return out


# ---------------------------------------------------------------------------------------------------------------------
# Results


def save(calibration: Calibration, path: Path) -> None:
    """Write the fitted estimate, for `surrogate.load`."""
    surrogate.save(calibration.surrogate, path)


def _plain(error: Errors) -> dict[str, Any]:
    """Errors without what is undefined: strict JSON has no NaN."""
    return {name: (None if value != value else value) for name, value in asdict(error).items()}


def to_json(calibration: Calibration) -> dict[str, Any]:
    """The calibration as plain data. held_out and odimo are of the overlapped runtime; by_runtime has both."""

    def plain(table: dict[Kind, Errors]) -> dict[str, Any]:
        return {kind: _plain(error) for kind, error in table.items()}

    made = calibration.surrogate
    return {
        "soc": made.soc,
        "soc_digest": made.soc_digest,
        "simulator": made.simulator,
        "simulator_digest": made.simulator_digest,
        "samples": made.samples,
        "seed": made.seed,
        "theta": {runtime: asdict(theta) for runtime, theta in made.theta.items()},
        "held_out": plain(calibration.ours["overlapped"]),
        "odimo": plain(calibration.odimo["overlapped"]),
        "by_runtime": {
            runtime: {
                "ticks": plain(calibration.ours[runtime]),
                "energy": plain(calibration.energy[runtime]),
                "odimo": plain(calibration.odimo[runtime]),
            }
            for runtime in RUNTIMES
        },
        "by_network": {
            name: {"ours": _plain(ours), "odimo": _plain(odimo)}
            for name, (ours, odimo) in calibration.by_network.items()
        },
        "at_once": _plain(calibration.at_once),
        "fitted_on": plain(calibration.fitted_on),
        "worst": {kind: [asdict(worst) for worst in rows] for kind, rows in calibration.worst.items()},
    }


def _row(table: Table, name: str, error: Errors) -> None:
    def figure(value: float, spec: str) -> str:
        return "-" if value != value else format(value, spec)

    percent = (figure(error.mape, ".2%"), figure(error.p95, ".2%"))
    table.add_row(name, str(error.samples), *percent, figure(error.spearman, ".4f"), figure(error.kendall, ".4f"))


def table(calibration: Calibration) -> Lines:
    """The held-out errors, for a terminal of 80 columns."""
    made = calibration.surrogate
    out = Table(title=f"Estimate against simulation on {made.soc}, held out", box=None, title_justify="left")
    out.add_column("")
    for name in ("samples", "MAPE", "p95", "Spearman", "Kendall"):
        out.add_column(name, justify="right")
    for runtime in reversed(RUNTIMES):
        for kind, error in calibration.ours[runtime].items():
            _row(out, f"{runtime}: {kind}s", error)
        _row(out, f"{runtime}: energy of networks", calibration.energy[runtime]["network"])
    for name, (ours, _) in calibration.by_network.items():
        _row(out, f"overlapped: {name}", ours)
    if calibration.at_once.samples:
        _row(out, "overlapped: layers at once", calibration.at_once)
    for runtime in reversed(RUNTIMES):
        for kind, error in calibration.odimo[runtime].items():
            if error.samples:
                _row(out, f"ODiMO {runtime}: {kind}s", error)
    worst = Table(title="Missed most", box=None, title_justify="left")
    for name in ("mapping", "runtime", "simulated", "error"):
        worst.add_column(name, justify="left" if name in ("mapping", "runtime") else "right", overflow="fold")
    for rows in calibration.worst.values():
        for row in rows:
            worst.add_row(row.label, row.runtime, f"{row.simulated:,.0f}", f"{row.estimated / row.simulated - 1:+.1%}")
    theta = ", ".join(f"{k} {v:.3g}" for k, v in asdict(made.theta["overlapped"]).items())
    return Lines(out, Text(""), worst, Text(f"\ntheta, overlapped: {theta}"))
