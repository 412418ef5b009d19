"""Fit the estimate to the simulator, and measure its error on networks that it was not fitted to.

Mappings as a named space visits them are sampled and simulated on all cores of the machine:

- channels: shares with splits, layers at once, tilings, both runtimes, of some networks and of random layers;
- tiles: tiles, orders, fused groups and the library's own plans, half of them among the best by the unfitted estimate.

The factors that the SoC has (`cosoc.sim.theta`) are fitted to the logarithm of the ticks. The error is then that on
other networks and their layers. Where it applies, ODiMO's released formulas meet the same simulated times.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.random import Generator
from rich.console import Group as Lines
from rich.table import Table
from scipy import stats

from cosoc.search.baselines import laws
from cosoc.search.fit import Floats, Made, fit, made_of, ticks_of
from cosoc.search.oracle import Oracle
from cosoc.search.sampling import random_branches, random_chain, random_layer, random_mapping
from cosoc.search.spaces.sections import Section, mapping_of
from cosoc.search.spaces.tiles import LARGEST, TileSpace
from cosoc.search.surrogate import Calibrated, Surrogate, make, save
from cosoc.sim.errors import InputError
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.lower.emit import lowered
from cosoc.sim.manual import alone, named_mapping
from cosoc.sim.model.energy import power_energy_j
from cosoc.sim.model.mapping import RUNTIMES, Mapping, Runtime
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import INPUT, Layer, Workload
from cosoc.sim.price import program_figures
from cosoc.sim.processes import Workers
from cosoc.sim.progress import Report, untold
from cosoc.sim.simulate import engine_run
from cosoc.sim.theta import Theta, factors_of
from cosoc.sim.tiler import TilingCache, placed
from cosoc.sim.ways import able

FITTED = ("resnet8", "dscnn", "autoencoder", "digits_cnn")
HELD_OUT = ("resnet20", "mobilenet_v1_025", "resnet18_cifar", "mobilenet_v1_cifar")
LARGE_FITTED = ("resnet18", "vgg16", "mobilenet_v2")  # of tiles behind caches, which small networks fit into
LARGE_HELD_OUT = ("resnet50", "mobilenet_v1", "bert_base_block")
WORST = 5
CHUNK = 8  # samples a worker takes at once: they share their tilings
GOOD = 0.05  # share of a layer's tilings among which the better half of the samples is drawn
LONGEST = 4  # layers of a sampled fused group

Kind = Literal["network", "layer"]


@dataclass(frozen=True)
class Task:
    """One mapping to sample and simulate. source: a network, "" for a random one; kind: all of it, or one layer."""

    number: int
    source: str
    kind: Kind
    held_out: bool
    runtime: Runtime
    space: Calibrated = "channels"


@dataclass(frozen=True)
class Sample:
    """A simulated mapping. label: what it was. made: what its estimate is made of. ticks, energy_j: simulated.
    odimo_ticks: what ODiMO's formulas say, NaN where they do not apply. groups: how many pieces of several layers."""

    task: Task
    label: str
    made: Made
    ticks: float
    energy_j: float
    odimo_ticks: float = float("nan")
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


@dataclass(frozen=True, repr=False)
class Calibration:
    """The fitted estimate, and errors on what it was not fitted to: by runtime and kind, ours, our energy, ODiMO's; by
    network ours and ODiMO's in the overlapped runtime; ours of samples with pieces, parallel or fused; the samples
    that it misses most, by kind."""

    surrogate: Surrogate
    ours: dict[Runtime, dict[Kind, Errors]]
    energy: dict[Runtime, dict[Kind, Errors]]
    odimo: dict[Runtime, dict[Kind, Errors]]
    by_network: dict[str, tuple[Errors, Errors]]
    pieces: Errors
    worst: dict[Kind, tuple[Worst, ...]]
    fitted_on: dict[Kind, Errors]

    def __repr__(self) -> str:
        made, error = self.surrogate, self.ours["overlapped"]["network"]
        said = f"mean error {error.mape:.1%}, rank correlation {error.spearman:.3f}"
        return f"estimate of {made.soc}, {made.space}: {error.samples} mappings of networks held out, {said}"

    def _repr_html_(self) -> str:
        from cosoc.views import preformatted

        return preformatted(table(self))

    def save(self, path: Path | str) -> None:
        """Write the estimate, for `search` and `wrap`, as `cosoc calibrate --out` does."""
        save(self.surrogate, Path(path))


# ---------------------------------------------------------------------------------------------------------------------
# Sampling


def default_space(soc: SoC) -> Calibrated:
    """Channels where several cores, the host aside, run the same convolution, be it 3x3, 1x1 or depthwise; tiles
    elsewhere."""
    wide = Layer("conv", "conv", (INPUT,), 16, 16, 8, 8, 8, 8, 3, 3, 1, 1, 1, 1)
    kinds = wide, replace(wide, fy=1, fx=1, pad_y=0, pad_x=0), replace(wide, groups=16)
    return "channels" if any(len(able(layer, soc)) > 1 for layer in kinds) else "tiles"


def tasks(soc: SoC, space: Calibrated, samples: int, seed: int) -> list[Task]:
    """What to simulate. Of channels in turn a fitted network, a layer of one, a random layer, a random chain of layers,
    a held-out network, a layer of one; three of four in the overlapped runtime, the only one that has anything to fit.
    Of tiles, all overlapped, mostly layers and groups by themselves: a network of them is their sum."""
    random: tuple[str, ...] = ("",)
    fitted: tuple[str, ...] = FITTED
    held: tuple[str, ...] = HELD_OUT
    if space == "tiles" and any(soc.is_cached(core) for core in soc.cores):
        fitted, held = LARGE_FITTED, LARGE_HELD_OUT
    channels: tuple[tuple[tuple[str, ...], Kind, bool], ...] = (
        (fitted, "network", False),
        (fitted, "layer", False),
        (random, "layer", False),
        (random, "network", False),
        (held, "network", True),
        (held, "layer", True),
    )
    one: tuple[tuple[str, ...], Kind, bool] = (fitted, "layer", False)
    other: tuple[tuple[str, ...], Kind, bool] = (held, "layer", True)
    plan = channels if space == "channels" else (one, other, one, other, one, other, one, (held, "network", True))
    out, turns = list[Task](), dict[tuple[tuple[str, ...], Kind], int]()
    for i in range(samples):
        sources, kind, held_out = plan[i % len(plan)]
        turn = turns.get((sources, kind), 0)
        turns[sources, kind] = turn + 1
        serial = space == "channels" and (turn % len(sources) + turn // len(sources)) % 4 == 3
        runtime: Runtime = "serial" if serial else "overlapped"
        out.append(Task(i, sources[turn % len(sources)], kind, held_out, runtime, space))
    return out


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
    cache, spaces, out = TilingCache(), dict[str, TileSpace](), list[Sample]()
    for task in chunk:
        rng = np.random.default_rng((seed, task.number))
        try:
            if task.space == "channels":
                workload = _workload(task, rng)
                mapping = random_mapping(workload, soc, task.runtime, rng, cache)
                out.append(simulated(task, workload, mapping, soc))
                continue
            network = find_workload(task.source)
            if task.kind == "layer" and not any(soc.is_cached(core) for core in soc.cores):
                # By itself it has its weights at hand, which the network may have to fetch.
                network = alone(network, network.layers[int(rng.integers(len(network.layers)))])
            if network.name not in spaces:
                given = named_mapping("all_8bit", network, soc, "overlapped")
                spaces[network.name] = TileSpace(soc, network, "latency", given)
            out.append(_tile_sample(task, spaces[network.name], rng))
        except InputError:
            continue
    return out


def simulated(task: Task, workload: Workload, mapping: Mapping, soc: SoC) -> Sample:
    """Simulate a complete mapping, and keep what its estimate is made of. InputError where the machine cannot run
    it."""
    at = placed(mapping, workload, soc)
    found = program_figures(lowered(at), at, engine_run("fast"))
    label = f"{workload.name} {_shares_text(workload, mapping)}".strip()
    ticks, odimo = round(found.latency_s * soc.tick_hz), odimo_ticks(workload, mapping)
    return Sample(task, label, made_of(workload, mapping, soc), ticks, found.energy_j, odimo, len(mapping.pieces))


def _tile_sample(task: Task, space: TileSpace, rng: Generator) -> Sample:
    """A layer or a group by itself, or a whole network of them."""
    n = len(space.workload.layers)
    if task.kind == "network":
        sections, i = list[Section](), 0
        while i < n:
            sections.append(_random_section(space, i, rng))
            i = sections[-1].last + 1
        mapping = mapping_of(sections, space.given, space.workload)
        found = Oracle(space.soc, space.workload).simulate(mapping)
        made = sum((space.made(section) for section in sections), Made())
        groups = sum(section.piece is not None for section in sections)
        return Sample(
            task, space.workload.name, made, found.latency_s * space.soc.tick_hz, found.energy_j, groups=groups
        )
    free = [i for i in range(n) if space.has_choice(i)]
    if not free:
        raise InputError(f"{space.workload.name}: no layer has a choice of tiles")
    section = _random_section(space, int(rng.choice(free)), rng)
    cost = space.simulated(section)
    if cost is None:
        raise InputError(f"layer {section.first}: cannot run as mapped")
    names = [layer.name for layer in space.workload.layers[slice(*section.span)]]
    label = " ".join((task.source, *names, _tile_text(section)))
    return Sample(
        task, label, space.made(section), cost.seconds * space.soc.tick_hz, cost.energy_j,
        groups=int(section.piece is not None),
    )  # fmt: skip


def _tile_text(section: Section) -> str:
    tile = section.plan.tile
    return " ".join(f"{d}{tile.along(d)}" for d in ("k", "c", "oy", "ox")) + ("" if section.plan.reuse else " library")


def _random_section(space: TileSpace, first: int, rng: Generator) -> Section:
    """What a search might put at a layer: the given plan, any tiles, some of the best, or a group that begins there."""
    given = Section(first, (space.given.layers[space.workload.layers[first].name],))
    if not space.has_choice(first) or rng.random() < 0.1:
        return given
    last = min(first + int(rng.integers(1, LONGEST)), len(space.workload.layers) - 1)
    options = None
    if rng.random() < 0.3 and last > first:
        options = space.options(first, last)
    if options is None or not space.is_estimated(options.section(0)):
        options = space.options(first, first)
    if options is None:
        return given
    number = len(options.points)
    best = np.argsort(options.points[:, 1])[: max(1, int(GOOD * number))]
    for _ in range(8):
        section = options.section(int(rng.choice(best) if rng.random() < 0.5 else rng.integers(number)))
        if space.tiles_of(section) <= LARGEST:
            return section
    return given


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
    """Measure all tasks, on so many processes, which an exception here ends."""
    report = progress or untold
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
    with Workers(workers) as pool:
        of: dict[Future[list[Sample]], Sequence[Task]] = {pool.submit(measure, soc, c, seed): c for c in chunks}
        pending = set(of)
        while pending:
            ended, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in ended:
                yield of[future], future.result()


# ---------------------------------------------------------------------------------------------------------------------
# Fitting


def estimates(samples: Sequence[Sample], theta: Theta, soc: SoC) -> tuple[Floats, Floats]:
    """Estimated ticks and energy (J) of each sample."""
    ticks = ticks_of([sample.made for sample in samples], theta)
    base = np.array([float(power_energy_j(soc, one, {})) for one in ticks.tolist()])
    return ticks, base + np.array([sample.made.unit_j for sample in samples])


def fitted(samples: Sequence[Sample], soc: SoC) -> Theta:
    """The SoC's factors by its overlapped samples. InputError where there are too few of them, or nothing to fit."""
    names = factors_of(soc)
    mine = [s for s in samples if s.task.runtime == "overlapped"]
    if len(mine) < 2 * len(names):
        raise InputError(f"{len(mine)} usable samples for {len(names)} factors; ask for more with --samples")
    return fit([s.made for s in mine], [s.ticks for s in mine], names, Theta())


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
    soc: SoC,
    samples: int = 1000,
    seed: int = 0,
    progress: Report | None = None,
    workers: int | None = None,
    space: Calibrated | None = None,
) -> Calibration:
    """Sample, simulate, fit, and measure the error on what was held out.

    samples: mappings to simulate, of which a third (channels) or half (tiles) is held out. progress(done, total, what)
    is called as it goes. workers: processes, by default one a core. space: whose mappings; by default `default_space`.
    Raises InputError if there is nothing to fit, or if there are too few samples to fit.
    """
    if not factors_of(soc):
        raise InputError(f"{soc.name}: its cores compute from the main memory, so that its estimate has nothing to fit")
    engine_run("fast")  # one that does not run is no fault of a sample
    space = space or default_space(soc)
    plan = tasks(soc, space, samples, seed)
    measured = simulate_all(soc, plan, seed, workers or os.cpu_count() or 1, progress)
    seen = [s for s in measured if not s.task.held_out]
    held = [s for s in measured if s.task.held_out]
    theta = fitted(seen, soc)
    ours, energy, odimo = _tables(held, theta, soc)
    fitted_on = _tables(seen, theta, soc)[0]["overlapped"]
    held_out: dict[str, dict[str, float | None]] = {k: _plain(error) for k, error in ours["overlapped"].items()}
    made = make(soc, space, theta, samples, seed, held_out)
    by_network = {}
    for name in sorted({s.task.source for s in held}, key=[task.source for task in plan].index):
        mine = [s for s in held if (s.task.source, s.task.kind, s.task.runtime) == (name, "network", "overlapped")]
        if mine:
            simulated, names = np.array([s.ticks for s in mine], float), [name] * len(mine)
            released = np.array([s.odimo_ticks for s in mine])
            predicted = estimates(mine, theta, soc)[0]
            by_network[name] = errors(predicted, simulated, names), errors(released, simulated, names)
    grouped = [s for s in held if s.groups]
    sources = [s.task.source for s in grouped]
    pieces = errors(estimates(grouped, theta, soc)[0], np.array([s.ticks for s in grouped], float), sources)
    return Calibration(made, ours, energy, odimo, by_network, pieces, _worst(held, theta, soc), fitted_on)


_Table = dict[Runtime, dict[Kind, Errors]]


def _tables(samples: Sequence[Sample], theta: Theta, soc: SoC) -> tuple[_Table, _Table, _Table]:
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


def _worst(samples: Sequence[Sample], theta: Theta, soc: SoC) -> dict[Kind, tuple[Worst, ...]]:
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
        "space": made.space,
        "theta": dict(made.theta),
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
        "pieces": _plain(calibration.pieces),
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
    title = f"Estimate against simulation, {made.space} of {made.soc}, held out"
    out = Table(title=title, box=None, title_justify="left")
    out.add_column("")
    for name in ("samples", "MAPE", "p95", "Spearman", "Kendall"):
        out.add_column(name, justify="right")
    for runtime in reversed(RUNTIMES):
        there = {kind: error for kind, error in calibration.ours[runtime].items() if error.samples}
        for kind, error in there.items():
            _row(out, f"{runtime}: {kind}s", error)
        for kind in there:
            _row(out, f"{runtime}: energy of {kind}s", calibration.energy[runtime][kind])
    for name, (ours, _) in calibration.by_network.items():
        _row(out, f"overlapped: {name}", ours)
    if calibration.pieces.samples:
        _row(out, "overlapped: with pieces", calibration.pieces)
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
    theta = ", ".join(f"{k} {v:.3g}" for k, v in made.theta.items())
    return Lines(out, "", worst, "", f"theta: {theta}")
