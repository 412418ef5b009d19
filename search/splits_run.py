"""`cosoc search CLUSTER WORKLOAD --space splits`: the exact front of splits, each point replayed by the engine.

The programme begins with estimates of stages. Those that its points take are simulated, their costs put in place of
the estimates, and the front is searched again, until it stays. Then each point is replayed. Where a replay in its
steady state takes a period that is more than 5 % off the programme's, the cost of the stage, hop or medium that the
replay found busiest is scaled to it, and the front is searched once more, until all points agree. What comes out
is what `simulate` says of the mapping in the point's file; the prediction stands beside it.

config.yaml, environment.json, result.json, front.png, mappings/point_N.yaml and, with replicas, replicated_N.yaml are
left in the folder of --out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from cosoc.search.baselines import heuristics
from cosoc.search.exact.splits import Point, bounded, front, front_labels, too_many
from cosoc.search.spaces.splits import Plan, Problem
from cosoc.search.split_costs import NO_FACTORS, Case, Factors, device_costs, device_mappings, make_case
from cosoc.sim.errors import InputError
from cosoc.sim.files.mapping_file import dump_mapping
from cosoc.sim.lower.pipeline import Replay, replay
from cosoc.sim.machine.trace import Run
from cosoc.sim.model.cluster import Cluster
from cosoc.sim.model.mapping import Mapping as DeviceMapping
from cosoc.sim.model.workload import Workload
from cosoc.sim.report.pipeline_result import finite
from cosoc.sim.simulate import engine_run
from cosoc.sim.stages import StageFigures, pipeline_of

AGREE = 0.05  # largest difference between a predicted period and a simulated one
CLOSE = 1e-3  # difference of a simulated stage from its estimate for which no front is searched again
ROUNDS = 12
BATCHES = (1, 2, 4, 8)  # micro-batches that are tried
MOST_BRANCH_STATES = 3_000_000  # of the programme's tables, up to which cuts across branches are among its cuts
MOST_LABEL_CUTS = (
    160  # up to here the front with latency is searched on all cuts, beyond on those that one tensor crosses
)

Span = tuple[int, int, int]  # type of device, from cut, to cut
Progress = Callable[[int, int, str], None]  # done, of how many, what


@dataclass(frozen=True)
class SplitConfig:
    """What is asked for. batches: micro-batches to try. inferences: that each replay streams. branches: cut across
    branches. replicate, latency: look for the fronts with replicas and with latency, too. mappings: what holds inside
    of devices, by their names; the others have their default."""

    cluster: Cluster
    workload: Workload
    inferences: int = 1000
    batches: tuple[int, ...] = BATCHES
    branches: bool = True
    replicate: bool = True
    latency: bool = True
    seed: int = 0
    engine: str = "fast"
    mappings: Mapping[str, DeviceMapping] = field(default_factory=dict)


@dataclass(frozen=True)
class Split:
    """A plan of a case, what the programme says of it, what its stages cost, and its replay."""

    case: Case
    point: Point
    stages: tuple[StageFigures, ...]
    simulated: Replay

    @property
    def error(self) -> float:
        """Simulated period over the predicted one, less one."""
        return 1.0 / (self.simulated.throughput * self.point.costs.period_s) - 1


@dataclass(frozen=True)
class SplitResult:
    """front: non-dominated in simulated throughput and energy, fastest first, a device a stage; replicated_front:
    stages on one or more devices in turns (how their inputs reach the first is not priced); latency_front: with the
    latency of an empty pipeline, for the smallest micro-batch, each replayed with one item. bound_s: where there are
    too many distinct devices for the exact programme, a period that no plan of the smallest micro-batch goes below;
    the front is then one plan. single: the fastest micro-batch of each device alone. rounds: searches until
    prediction and replay agreed; worst: their largest difference. missed: points of the front that no weighted sum
    finds. baselines: by name, in the micro-batch of the fastest point."""

    config: SplitConfig
    front: tuple[Split, ...]
    replicated_front: tuple[Split, ...]
    latency_front: tuple[Split, ...]
    bound_s: float | None
    single: dict[str, Split]
    rounds: int
    worst: float
    missed: tuple[int, ...]
    baselines: dict[str, list[Point]]


# ---------------------------------------------------------------------------------------------------------------------
# Replay


def simulated(case: Case, point: Point, inferences: int, run: Run) -> Split:
    """Simulate the stages of a plan, and stream inferences through it."""
    figures = case.figures(point.plan)
    return Split(case, point, figures, replay(*pipeline_of(case.cluster, figures), inferences, case.problem.items, run))


def exactly(problem: Problem, stages: Mapping[Span, StageFigures]) -> Problem:
    """The problem with what simulated stages cost in place of estimates."""
    occupancy, busy = problem.occupancy_s.copy(), problem.busy_j.copy()
    for at, figures in stages.items():
        occupancy[at], busy[at] = figures.seconds, figures.item_j
    return replace(problem, occupancy_s=occupancy, busy_j=busy)


def scaled(problem: Problem, factors: Factors) -> Problem:
    """The problem with stages, hops and medium as slow as replays found them."""
    occupancy, hop = problem.occupancy_s.copy(), problem.hop_s.copy()
    for at, factor in factors.stages.items():
        occupancy[at] *= factor
    for at, factor in factors.hops.items():
        hop[at] *= factor
    return replace(problem, occupancy_s=occupancy, hop_s=hop, medium_s=problem.medium_s * factors.medium)


def corrected(factors: Factors, plan: Plan, seen: Replay, ratio: float) -> Factors:
    """The factors with the busiest resource of a replay slower by `ratio`."""
    if seen.bottleneck in {f"{part.device}" for part in seen.devices}:
        number = next(part.stage for part in seen.devices if part.device == seen.bottleneck)
        stage = plan[number]
        at = (stage.type, stage.begin, stage.end)
        return replace(factors, stages={**factors.stages, at: factors.stages.get(at, 1.0) * ratio})
    if " from " not in seen.bottleneck and " to " not in seen.bottleneck:
        return replace(factors, medium=factors.medium * ratio)
    device = seen.bottleneck.split(" ")[-1]
    number = next(part.stage for part in seen.devices if part.device == device)
    number -= " to " in seen.bottleneck
    key = (plan[number].type, plan[number + 1].type, plan[number].end)
    return replace(factors, hops={**factors.hops, key: factors.hops.get(key, 1.0) * ratio})


def agreed_front(
    case: Case, replicate: bool, inferences: int, run: Run, progress: Progress | None = None
) -> tuple[list[Split], int]:
    """The front, searched until its stages are simulated ones and every steady replay is within AGREE of its
    prediction, and the number of searches. After ROUNDS, points that still differ stay, with their difference; so do
    those whose replay is too short to be steady, from which nothing is learned."""
    factors = NO_FACTORS
    known: dict[Span, StageFigures] = {}
    splits: dict[Plan, Split] = {}
    for number in range(1, ROUNDS + 1):
        exact = exactly(case.problem, known)
        problem = scaled(exact, factors)
        points = [bounded(problem)[0]] if too_many(problem, replicate) else front(problem, replicate)
        found: dict[Span, StageFigures] = {}
        for plan in (point.plan for point in points):
            spans = [(stage.type, stage.begin, stage.end) for stage in plan]
            if not known.keys() >= set(spans):
                found |= zip(spans, case.figures(plan), strict=True)
        known |= found
        if number < ROUNDS and any(abs(figures.seconds - exact.occupancy_s[at]) > CLOSE * figures.seconds
                                   for at, figures in found.items()):  # fmt: skip
            if progress:
                progress(number, ROUNDS, f"micro-batch {case.problem.items}: {len(found)} stages simulated")
            continue
        for point in points:
            seen = splits.get(point.plan) or simulated(case, point, inferences, run)
            splits[point.plan] = replace(seen, point=point)
        front_now = [splits[point.plan] for point in points]
        if progress:
            worst = max(abs(split.error) for split in front_now)
            progress(number, ROUNDS, f"micro-batch {case.problem.items}: {len(points)} points within {worst:.1%}")
        before = factors
        for split in front_now:
            if split.simulated.steady and abs(split.error) > AGREE:
                factors = corrected(factors, split.point.plan, split.simulated, 1 + split.error)
        if factors == before:
            break
    return front_now, number


# ---------------------------------------------------------------------------------------------------------------------
# The search


def search_splits(config: SplitConfig, progress: Progress | None = None) -> SplitResult:
    """Search and replay; see the module docstring. InputError where the cluster cannot run the workload."""
    if config.inferences < 1:
        raise InputError(f"--inferences {config.inferences}: at least one is needed")
    run = engine_run(config.engine)
    cases = list(_cases(config))
    plain = [agreed_front(case, False, config.inferences, run, progress) for case in cases]
    in_turns = config.replicate and max(cases[0].problem.counts) > 1 and not too_many(cases[0].problem, replicate=True)
    turns = [agreed_front(case, True, config.inferences, run, progress) for case in cases if in_turns]
    kept = best_of([split for splits, _ in plain for split in splits])
    replicated = best_of([split for splits, _ in turns for split in splits])
    points = [split.point for split in kept]
    missed = [points.index(p) for p in heuristics.weighted_sums(points)[1]]
    return SplitResult(
        config,
        tuple(kept),
        tuple(replicated),
        tuple(_latency_front(config, cases[0], run)) if config.latency else (),
        bounded(cases[0].problem)[1] if too_many(cases[0].problem) else None,
        _single(cases, config.inferences, run),
        max(searches for _, searches in plain + turns),
        max(abs(split.error) for split in kept + replicated),
        tuple(missed),
        _baselines(kept[0].case.problem, config.seed),
    )


def _cases(config: SplitConfig) -> Iterator[Case]:
    """By micro-batch, smallest first, as far as the memories hold them."""
    mappings = device_mappings(config.cluster, config.workload, config.mappings)
    costs = device_costs(config.cluster, config.workload, mappings, config.engine)
    for number, items in enumerate(sorted(config.batches)):
        try:
            case = make_case(config.cluster, config.workload, items, config.branches, costs)
            if config.branches and too_many(case.problem, most=MOST_BRANCH_STATES):
                case = make_case(config.cluster, config.workload, items, False, costs)
            yield case
        except InputError:
            if number == 0:
                raise
            return


def best_of(splits: Sequence[Split]) -> list[Split]:
    """Those that none beats or equals in simulated throughput and energy, fastest first."""
    out: list[Split] = []
    for split in sorted(splits, key=lambda s: (-s.simulated.throughput, s.simulated.energy_j)):
        if not out or split.simulated.energy_j < out[-1].simulated.energy_j * (1 - 1e-9):
            out.append(split)
    return out


def _latency_front(config: SplitConfig, case: Case, run: Run) -> list[Split]:
    if case.problem.n_cuts > MOST_LABEL_CUTS:
        case = make_case(config.cluster, config.workload, case.problem.items, False, case.devices)
    if case.problem.n_cuts > MOST_LABEL_CUTS or too_many(case.problem):
        return []
    known = front(case.problem, replicate=False)
    points = front_labels(case.problem, False, True, known)
    return [simulated(case, point, case.problem.items, run) for point in points]


def _single(cases: Sequence[Case], inferences: int, run: Run) -> dict[str, Split]:
    out: dict[str, Split] = {}
    for case in cases:
        for name, point in heuristics.single_devices(case.problem).items():
            split = simulated(case, point, inferences, run)
            if name not in out or split.simulated.throughput > out[name].simulated.throughput:
                out[name] = split
    return out


def _baselines(problem: Problem, seed: int) -> dict[str, list[Point]]:
    one = {"even split": heuristics.even_split(problem), "greedy": heuristics.greedy(problem)}
    return {name: [point] for name, point in one.items() if point} | {"genetic": heuristics.genetic(problem, seed)}


# ---------------------------------------------------------------------------------------------------------------------
# What is told


def split_json(split: Split) -> dict[str, Any]:
    """A point: predicted figures at the top, simulated ones beside them."""
    costs = split.point.costs
    return {
        "throughput": costs.throughput,
        "energy_j": costs.energy_j,
        "latency_s": costs.latency_s,
        "micro_batch": split.case.problem.items,
        "bottleneck": costs.bottleneck,
        "simulated": finite(asdict(split.simulated)),
        "difference": split.error,
        "stages": [asdict(stage) for stage in split.stages],
    }


def device_energy_j(split: Split) -> float:
    """Mean energy of an inference by device in use, simulated."""
    return float(np.mean([part.energy_j for part in split.simulated.devices]))


def to_json(result: SplitResult) -> dict[str, Any]:
    """Everything that was found, as plain data."""
    gpus = {n: s for n, s in result.single.items() if is_gpu(s.case, n)}
    best = max(result.single.values(), key=lambda s: s.simulated.throughput, default=None)
    single = max(gpus.values(), key=lambda s: s.simulated.throughput, default=best)
    fastest = result.front[0]
    return {
        "cluster": result.config.cluster.name,
        "workload": result.config.workload.name,
        "inferences": result.config.inferences,
        "front": [split_json(split) for split in result.front],
        "replicated_front": [split_json(split) for split in result.replicated_front],
        "latency_front": [
            {"throughput": s.point.costs.throughput, "energy_j": s.point.costs.energy_j,
             "latency_s": s.point.costs.latency_s, "simulated_latency_s": s.simulated.fill_s,
             "stages": [asdict(stage) for stage in s.stages]}
            for s in result.latency_front
        ],
        "single_device": {name: split_json(split) for name, split in result.single.items()},
        "single_gpu": split_json(single) if single else None,
        "speedup_max": fastest.simulated.throughput / single.simulated.throughput if single else None,
        "speedup_max_replicated": (
            result.replicated_front[0].simulated.throughput / single.simulated.throughput
            if single and result.replicated_front
            else None
        ),
        "device_energy_ratio_at_max": device_energy_j(single) / device_energy_j(fastest) if single else None,
        "cuts": len(result.front[0].case.cuts.names),
        "all_cuts": result.front[0].case.cuts.complete,
        "period_bound_s": result.bound_s,
        "searches": result.rounds,
        "difference_worst": result.worst,
        "missed_by_weighted_sums": list(result.missed),
        "baselines": {
            name: [{"throughput": p.costs.throughput, "energy_j": p.costs.energy_j} for p in points]
            for name, points in result.baselines.items()
        },
    }  # fmt: skip


def is_gpu(case: Case, device: str) -> bool:
    """Whether a device of the case computes on a GPU."""
    soc = case.devices[device].soc
    return getattr(soc.cores[soc.host], "kind", "") == "gpu"


def table(result: SplitResult) -> Table:
    """The front, simulated figures first."""
    out = Table("inferences/s", "mJ", "ms", "batch", "differs", "busiest", "stages (device:layers)")
    for split in result.front:
        seen = split.simulated
        out.add_row(
            f"{seen.throughput:.4g}{_certainty(seen)}",
            f"{1e3 * seen.energy_j:.4g}",
            f"{1e3 * seen.latency_s['mean']:.4g}",
            str(seen.batch),
            f"{split.error:+.1%}",
            seen.bottleneck,
            " ".join(f"{stage.device}:{stage.layers}" for stage in split.stages),
        )
    return out


def _certainty(seen: Replay) -> str:
    """What is to be said of a throughput that is not sure to a thousandth."""
    if not seen.steady:
        return " with fill and drain"
    return f" ± {seen.throughput_ci:.1g}" if 1e-3 * seen.throughput < seen.throughput_ci < math.inf else ""


def plot(content: Mapping[str, Any], path: Path) -> None:
    """Draw the front of a result.json into a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from cosoc.search.runfolder import replacing

    figure, axis = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    turns = [(p["simulated"]["throughput"], 1e3 * p["simulated"]["energy_j"]) for p in content["replicated_front"]]
    if turns:
        axis.plot(*zip(*turns, strict=True), color="tab:green", marker=".", alpha=0.7, label="with replicas")
    x = [p["simulated"]["throughput"] for p in content["front"]]
    y = [1e3 * p["simulated"]["energy_j"] for p in content["front"]]
    axis.plot(x, y, color="tab:blue", marker="o", markersize=4, label="exact front, replayed")
    missed = content["missed_by_weighted_sums"]
    axis.scatter([x[i] for i in missed], [y[i] for i in missed], facecolors="none", edgecolors="tab:red", s=70,
                 label="no weighted sum finds it")  # fmt: skip
    for (name, points), marker in zip(content["baselines"].items(), "s^x", strict=False):
        axis.scatter(
            [p["throughput"] for p in points],
            [1e3 * p["energy_j"] for p in points],
            marker=marker,
            label=name,
            color="tab:orange",
            alpha=0.8,
        )
    for name, point in content["single_device"].items():
        axis.annotate(
            f"one {name}", (point["simulated"]["throughput"], 1e3 * point["simulated"]["energy_j"]), fontsize=7
        )
    axis.set_xlabel("inferences a second (simulated)")
    axis.set_ylabel("energy of an inference, mJ (simulated)")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)
    axis.set_title(f"{content['workload']} on {content['cluster']}")
    with replacing(path) as part:
        figure.savefig(part, dpi=130, format="png")
    pyplot.close(figure)


def write(result: SplitResult, folder: Path) -> None:
    """Put result.json, config.yaml, environment.json and front.png into a folder, which exists."""
    from cosoc.search.runfolder import RunFolder, replace_text

    config = result.config
    asked = {
        "space": "splits",
        "cluster": config.cluster.model_dump(mode="json", exclude_unset=True),
        "workload": config.workload.name,
        "inferences": config.inferences,
        "micro_batches": list(config.batches),
        "branches": config.branches,
        "replicate": config.replicate,
        "seed": config.seed,
        "engine": config.engine,
    }
    RunFolder(folder, asked, resume=False)
    content = to_json(result)
    for kind, splits in (("point", result.front), ("replicated", result.replicated_front)):
        for number, split in enumerate(splits):
            name = f"{kind}_{number}"
            text = dump_mapping(split.case.mapping(split.point.plan, name))
            replace_text(folder / "mappings" / f"{name}.yaml", text)
    for unused in ("done", "weights"):
        (folder / unused).rmdir()
    replace_text(folder / "result.json", json.dumps(content, indent=1, allow_nan=False) + "\n")
    plot(content, folder / "front.png")
