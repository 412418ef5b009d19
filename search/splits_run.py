"""`cosoc search CLUSTER WORKLOAD --space splits`: the exact front of splits, each point replayed by the engine.

Where a replay takes a period that is more than 5 % off the programme's, the cost of the stage, hop or medium that the
replay found busiest is scaled to it, and the front is searched again, until all points agree. What comes out was
simulated; the prediction stands beside it.

config.yaml, environment.json, result.json, front.png and mappings/point_N.yaml are left in the folder of --out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.table import Table

from cosoc.search.baselines import heuristics
from cosoc.search.exact.splits import Point, bounded, front, front_labels, too_many
from cosoc.search.spaces.splits import Plan, Problem
from cosoc.search.split_costs import NO_FACTORS, NS, PJ, Case, Factors, make_case
from cosoc.sim.errors import InputError
from cosoc.sim.lower.pipeline import PipelineHop, PipelineStage, Replay, replay
from cosoc.sim.machine.trace import Run
from cosoc.sim.model.cluster import Cluster
from cosoc.sim.model.workload import Workload
from cosoc.sim.simulate import engine_run

AGREE = 0.05  # largest difference between a predicted period and a simulated one
ROUNDS = 12
BATCHES = (1, 2, 4, 8)  # micro-batches that are tried
MOST_BRANCH_STATES = 3_000_000  # of the programme's tables, up to which cuts across branches are among its cuts
MOST_LABEL_CUTS = (
    160  # up to here the front with latency is searched on all cuts, beyond on those that one tensor crosses
)

Progress = Callable[[int, int, str], None]  # done, of how many, what


@dataclass(frozen=True)
class SplitConfig:
    """What is asked for. batches: micro-batches to try. inferences: that each replay streams. branches: cut across
    branches. replicate, latency: look for the fronts with replicas and with latency, too."""

    cluster: Cluster
    workload: Workload
    inferences: int = 1000
    batches: tuple[int, ...] = BATCHES
    branches: bool = True
    replicate: bool = True
    latency: bool = True
    seed: int = 0
    engine: str = "fast"


@dataclass(frozen=True)
class Split:
    """A plan of a case, what the programme says of it, and its replay."""

    case: Case
    point: Point
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


def pipeline_of(case: Case, plan: Plan) -> tuple[list[PipelineStage], list[PipelineHop]]:
    """A plan as the stages and hops that the simulator runs."""
    return pipeline(case.cluster, stages_json(case, plan))


def pipeline(cluster: Cluster, stated: Sequence[Mapping[str, Any]]) -> tuple[list[PipelineStage], list[PipelineHop]]:
    """The same from what `stages_json` states, so that a result that was written can be replayed. Devices of a type
    are numbered in the order in which the plan uses them."""
    used = dict.fromkeys(cluster.devices, 0)
    stages, hops = [], []
    for number, stage in enumerate(stated):
        name = stage["device"]
        devices = tuple(f"{name}[{used[name] + i}]" for i in range(stage["replicas"]))
        used[name] += stage["replicas"]
        ticks, queue = max(1, round(stage["seconds"] / NS)), cluster.devices[name].queue_items
        stages.append(PipelineStage(devices, ticks, stage["item_j"], stage["idle_w"], queue))
        if number + 1 < len(stated):
            hops.append(_hop(cluster, name, stated[number + 1]["device"], stage["bytes_sent"]))
    return stages, hops


def _hop(cluster: Cluster, sender: str, receiver: str, size: int) -> PipelineHop:
    name = cluster.joins(sender, receiver)
    assert name is not None, "a plan has hops only where links are"
    link = cluster.links[name]
    joules = size * link.energy_pj_per_byte * PJ
    return PipelineHop(
        name, link.shared, size, link.bytes_per_s, link.burst_bytes, link.message_ns, link.latency_ns, joules
    )


def simulate_plan(case: Case, plan: Plan, inferences: int, run: Run) -> Replay:
    """Stream inferences through a plan."""
    stages, hops = pipeline_of(case, plan)
    return replay(stages, hops, inferences, case.problem.items, run)


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
    """The front, searched until every point's replay is within AGREE of its prediction, and the number of searches.
    After ROUNDS, points that still differ stay, with their difference."""
    factors = NO_FACTORS
    replays: dict[Plan, Replay] = {}
    for number in range(1, ROUNDS + 1):
        problem = scaled(case.problem, factors)
        points = [bounded(problem)[0]] if too_many(problem, replicate) else front(problem, replicate)
        splits = []
        for point in points:
            if point.plan not in replays:
                replays[point.plan] = simulate_plan(case, point.plan, inferences, run)
            splits.append(Split(case, point, replays[point.plan]))
        if progress:
            worst = max(abs(s.error) for s in splits)
            progress(number, ROUNDS, f"micro-batch {case.problem.items}: {len(splits)} points within {worst:.1%}")
        off = [split for split in splits if abs(split.error) > AGREE]
        if not off:
            break
        before = factors
        for split in off:
            factors = corrected(factors, split.point.plan, split.simulated, 1 + split.error)
        if factors == before:
            break
    return splits, number


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
    for number, items in enumerate(sorted(config.batches)):
        try:
            case = make_case(config.cluster, config.workload, items, config.branches)
            if config.branches and too_many(case.problem, most=MOST_BRANCH_STATES):
                case = make_case(config.cluster, config.workload, items, branches=False)
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
        case = make_case(config.cluster, config.workload, case.problem.items, branches=False)
    if case.problem.n_cuts > MOST_LABEL_CUTS or too_many(case.problem):
        return []
    known = front(case.problem, replicate=False)
    points = front_labels(case.problem, False, True, known)
    return [Split(case, point, simulate_plan(case, point.plan, case.problem.items, run)) for point in points]


def _single(cases: Sequence[Case], inferences: int, run: Run) -> dict[str, Split]:
    out: dict[str, Split] = {}
    for case in cases:
        for name, point in heuristics.single_devices(case.problem).items():
            split = Split(case, point, simulate_plan(case, point.plan, inferences, run))
            if name not in out or split.simulated.throughput > out[name].simulated.throughput:
                out[name] = split
    return out


def _baselines(problem: Problem, seed: int) -> dict[str, list[Point]]:
    one = {"even split": heuristics.even_split(problem), "greedy": heuristics.greedy(problem)}
    return {name: [point] for name, point in one.items() if point} | {"genetic": heuristics.genetic(problem, seed)}


# ---------------------------------------------------------------------------------------------------------------------
# What is told


def stages_json(case: Case, plan: Plan) -> list[dict[str, Any]]:
    """The stages of a plan: device, replicas, layers, seconds and joules of an item, and what its output is."""
    done, layers = case.cuts.done, case.workload.layers
    out = []
    for stage in plan:
        inside = np.flatnonzero(done[stage.end] & ~done[stage.begin])
        out.append(
            {
                "device": case.problem.types[stage.type],
                "replicas": stage.replicas,
                "layers": len(inside),
                "first_layer": layers[int(inside[0])].name,
                "last_layer": layers[int(inside[-1])].name,
                "ends_behind": case.cuts.names[stage.end],
                "seconds": float(case.problem.occupancy_s[stage.type, stage.begin, stage.end]),
                "item_j": float(case.problem.busy_j[stage.type, stage.begin, stage.end]),
                "idle_w": float(case.problem.idle_w[stage.type]),
                "bytes_sent": int(case.hop_bytes[stage.type, stage.end]) if stage.end < len(done) - 1 else 0,
            }
        )
    return out


def split_json(split: Split) -> dict[str, Any]:
    """A point: predicted figures at the top, simulated ones beside them."""
    costs = split.point.costs
    return {
        "throughput": costs.throughput,
        "energy_j": costs.energy_j,
        "latency_s": costs.latency_s,
        "micro_batch": split.case.problem.items,
        "bottleneck": costs.bottleneck,
        "simulated": _plain(asdict(split.simulated)),
        "difference": split.error,
        "stages": stages_json(split.case, split.point.plan),
    }


def _plain(value: Any) -> Any:
    """The same with infinities as None, which JSON has not."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
             "stages": stages_json(s.case, s.point.plan)}
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
    soc = case.socs[device]
    return getattr(soc.cores[soc.host], "kind", "") == "gpu"


def table(result: SplitResult) -> Table:
    """The front, simulated figures first."""
    out = Table("inferences/s", "mJ", "ms", "batch", "differs", "busiest", "stages (device:layers)")
    for split in result.front:
        seen = split.simulated
        stages = stages_json(split.case, split.point.plan)
        out.add_row(
            f"{seen.throughput:.4g}"
            + (f" ± {seen.throughput_ci:.1g}" if seen.throughput_ci > 1e-3 * seen.throughput else ""),
            f"{1e3 * seen.energy_j:.4g}",
            f"{1e3 * seen.latency_s['mean']:.4g}",
            str(seen.batch),
            f"{split.error:+.1%}",
            seen.bottleneck,
            " ".join(f"{s['device']}:{s['layers']}" for s in stages),
        )
    return out


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
    for number, point in enumerate(content["front"]):
        plan = {"cluster": content["cluster"], "micro_batch": point["micro_batch"], "stages": point["stages"]}
        replace_text(folder / "mappings" / f"point_{number}.yaml", yaml.safe_dump(plan, sort_keys=False))
    for unused in ("done", "weights"):
        (folder / unused).rmdir()
    replace_text(folder / "result.json", json.dumps(content, indent=1, allow_nan=False) + "\n")
    plot(content, folder / "front.png")
