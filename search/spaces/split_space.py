"""Splits of a network over the devices of a cluster: the exact front, each point replayed by the engine. A `Space`.

The programme begins with estimates of stages. Those that its points take are simulated, their costs put in place of
the estimates, and the front is searched again, until it stays. Then each point is replayed. Where a replay in its
steady state takes a period that is more than 5 % off the programme's, the cost of the stage, hop or medium that the
replay found busiest is scaled to it, and the front is searched once more, until all points agree.

Rounds: `front` (a device a stage: point_N, by throughput), `replicated` (stages on several devices in turns),
`latency` (with the latency of an empty pipeline, for the smallest micro-batch), and `known`: each device alone, and
what others do in place of an exact front, in the micro-batch of the fastest point.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from cosoc.search.baselines import heuristics
from cosoc.search.exact.limit import NO_LIMIT, Limit, OutOfTime
from cosoc.search.exact.split_classes import bounded_front
from cosoc.search.exact.splits import Pair, Point, Programme, front_labels, front_until, merged, too_many
from cosoc.search.loop import Asked, search
from cosoc.search.oracle import Oracle
from cosoc.search.result import Result
from cosoc.search.runfolder import RunFolder
from cosoc.search.space import Candidate, Optimum
from cosoc.search.spaces.split_bounds import bound, least_latency, least_peak, named, with_left_out
from cosoc.search.spaces.split_tiles import TiledDevice, cached, has_choice
from cosoc.search.spaces.splits import Floats, Plan, PlanStage, Problem, cuts_in_order, cuts_of, evaluate
from cosoc.search.split_costs import NO_FACTORS, Case, Factors, device_costs, device_mappings, make_case
from cosoc.search.targets import Target, within
from cosoc.sim.errors import InputError
from cosoc.sim.figures import Figures, objective
from cosoc.sim.lower.pipeline import Replay
from cosoc.sim.model.cluster import Cluster
from cosoc.sim.model.mapping import Mapping as DeviceMapping
from cosoc.sim.model.workload import Workload
from cosoc.sim.progress import Report
from cosoc.sim.report.pipeline_result import finite
from cosoc.sim.stages import StageFigures, peak_bytes, stage_figures

AGREE = 0.05  # largest difference between a predicted period and a simulated one
CLOSE = 1e-3  # difference of a simulated stage from its estimate for which no front is searched again
ROUNDS = 12
BATCHES = (1, 2, 4, 8)  # micro-batches that are tried
WITHIN = 2e-3  # of the energy of a front whose stages have several ways: so close its points are
MOST_POINTS = 8  # of such a front that are simulated
MOST_CUTS_IN_ORDER = 200  # beyond, stages at their best tiles begin and end where one tensor crosses
MOST_BRANCH_STATES = 3_000_000  # of the programme's tables, up to which cuts across branches are among its cuts
SECONDS = 600.0  # of a search, where nothing else is said
MOST_LABEL_CUTS = (
    160  # up to here the front with latency is searched on all cuts, beyond on those that one tensor crosses
)

Span = tuple[int, int, int, int]  # type of device, from cut, to cut, way to compute it


@dataclass(frozen=True)
class SplitConfig:
    """What is asked for. batches: micro-batches to try. inferences: that each replay streams. branches: cut across
    branches. replicate, latency: look for the fronts with replicas and with latency, too. mappings: what holds inside
    of devices, by their names; the others have their default. inner: what is chosen for each stage, as in a chain of
    spaces. targets: what the best split must meet. time_budget_s: after which fronts are not searched any further: what
    they have by then is simulated, and the bound says how far it is from what may have been missed."""

    cluster: Cluster
    workload: Workload
    inferences: int = 1000
    batches: tuple[int, ...] = BATCHES
    branches: bool = True
    replicate: bool = True
    latency: bool = True
    objective: str = "throughput"
    seed: int = 0
    out: Path = Path("run")
    resume: bool = False
    redo: str | None = None
    engine: str = "fast"
    mappings: Mapping[str, DeviceMapping] = field(default_factory=dict)
    inner: tuple[str, ...] = ()
    targets: tuple[Target, ...] = ()
    time_budget_s: float = SECONDS

    def stated(self) -> dict[str, Any]:
        """The configuration as plain data; `out`, `resume` and `redo` are not part of what a run is."""
        return {
            "space": "splits", "cluster": self.cluster.model_dump(mode="json", exclude_unset=True),
            "workload": self.workload.name, "inferences": self.inferences, "micro_batches": list(self.batches),
            "branches": self.branches, "replicate": self.replicate, "latency": self.latency,
            "objective": self.objective, "targets": [asdict(one) for one in self.targets],
            "time_budget_s": self.time_budget_s, "inner": list(self.inner), "seed": self.seed, "engine": self.engine,
            "mappings": {name: asdict(mapping) for name, mapping in self.mappings.items()},
        }  # fmt: skip


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


# ---------------------------------------------------------------------------------------------------------------------
# Replay


def span_of(stage: PlanStage) -> Span:
    """By what a stage's cost is known."""
    return stage.type, stage.begin, stage.end, stage.way


def refusals(case: Case, plan: Plan, oracle: Oracle) -> set[Span]:
    """The stages of a plan that their devices cannot run as mapped."""
    mapping, out = case.mapping(plan), set[Span]()
    devices = oracle.devices(mapping)
    for stage, one in zip(plan, mapping.stages, strict=True):
        try:
            devices[one.device].cost(case.cuts.cut(stage.begin), case.cuts.cut(stage.end), case.problem.items)
        except InputError:
            out.add(span_of(stage))
    return out


def without(problem: Problem, refused: set[Span]) -> Problem:
    """The problem without these ways of stages."""
    seconds = problem.ways_s.copy()
    for at in refused:
        seconds[at] = np.inf
    return _with_ways(problem, seconds, problem.ways_j) if refused else problem


def spread(points: Sequence[Point], most: int) -> list[Point]:
    """At most so many points of a front, evenly by number, the first and the last among them."""
    if len(points) <= most:
        return list(points)
    return [points[i] for i in np.unique(np.linspace(0, len(points) - 1, most).round().astype(int)).tolist()]


def replayed(case: Case, point: Point, oracle: Oracle) -> Split:
    """A plan, its stages simulated, and inferences streamed through it."""
    result = oracle.stream(case.mapping(point.plan))
    return Split(case, point, result.stages, result.seen)


def exactly(problem: Problem, stages: Mapping[Span, StageFigures]) -> Problem:
    """The problem with what simulated stages cost in place of estimates."""
    seconds, joules = problem.ways_s.copy(), problem.ways_j.copy()
    for at, figures in stages.items():
        seconds[at], joules[at] = figures.seconds, figures.item_j
    return _with_ways(problem, seconds, joules)


def _with_ways(problem: Problem, seconds: Floats, joules: Floats) -> Problem:
    """The problem with other figures [T, N, N, 1 + W] of the ways of its stages."""
    slower = (None, None) if problem.slower_s is None else (seconds[..., 1:], joules[..., 1:])
    return replace(
        problem, occupancy_s=seconds[..., 0], busy_j=joules[..., 0], slower_s=slower[0], slower_j=slower[1]
    )  # fmt: skip


def drifted(problem: Problem, stages: Mapping[Span, StageFigures]) -> Problem:
    """`exactly`, where stages have several ways: what is not simulated is as much slower than its estimate as the other
    ways of its stage were, or else the stages of its device. So that the front does not go from one way to the next for
    what its estimate has not learnt."""
    seconds, joules = problem.ways_s, problem.ways_j
    ratios: dict[tuple[int, ...], list[tuple[float, float]]] = {}
    for at, found in stages.items():
        both = found.seconds / seconds[at], found.item_j / joules[at] if joules[at] > 0 else 1.0
        ratios.setdefault(at[:1], []).append(both)
        ratios.setdefault(at[:3], []).append(both)
    slower, dearer = seconds.copy(), joules.copy()
    for where in sorted(ratios, key=len):
        by_s, by_j = np.mean(ratios[where], axis=0)
        slower[where], dearer[where] = seconds[where] * by_s, joules[where] * by_j
    return exactly(_with_ways(problem, slower, dearer), stages)


def scaled(problem: Problem, factors: Factors) -> Problem:
    """The problem with stages, hops and medium as slow as replays found them."""
    seconds, hop = problem.ways_s.copy(), problem.hop_s.copy()
    for at, factor in factors.stages.items():
        seconds[at] *= factor
    for across, factor in factors.hops.items():
        hop[across] *= factor
    slowed = _with_ways(problem, seconds, problem.ways_j)
    return replace(slowed, hop_s=hop, medium_s=problem.medium_s * factors.medium)


def corrected(factors: Factors, plan: Plan, seen: Replay, ratio: float) -> Factors:
    """The factors with the busiest resource of a replay slower by `ratio`."""
    if seen.bottleneck in {f"{part.device}" for part in seen.devices}:
        number = next(part.stage for part in seen.devices if part.device == seen.bottleneck)
        stage = plan[number]
        at = span_of(stage)
        return replace(factors, stages={**factors.stages, at: factors.stages.get(at, 1.0) * ratio})
    if " from " not in seen.bottleneck and " to " not in seen.bottleneck:
        return replace(factors, medium=factors.medium * ratio)
    device = seen.bottleneck.split(" ")[-1]
    number = next(part.stage for part in seen.devices if part.device == device)
    number -= " to " in seen.bottleneck
    hop = (plan[number].type, plan[number + 1].type, plan[number].end)
    return replace(factors, hops={**factors.hops, hop: factors.hops.get(hop, 1.0) * ratio})


@dataclass(frozen=True)
class Agreed:
    """A front: its splits, pairs of seconds and joules such that every plan has at least as much of both as one of
    them, and how often it was searched for."""

    splits: list[Split]
    pairs: list[Pair]
    searches: int


def agreed_front(
    case: Case, replicate: bool, oracle: Oracle, report: Report | None = None, limit: Limit = NO_LIMIT
) -> Agreed:
    """The front, searched until its stages are simulated ones and every steady replay is within AGREE of its
    prediction. After ROUNDS, or the limit, points that still differ stay, with their difference; so do
    those whose replay is too short to be steady, from which nothing is learned."""
    factors = NO_FACTORS
    known: dict[Span, StageFigures] = {}
    splits: dict[Plan, Split] = {}
    refused: set[Span] = set()  # ways that the estimate allows and the simulator does not
    for number in range(1, ROUNDS + 1):
        several = case.problem.slower_s is not None
        exact = (drifted if several else exactly)(case.problem, known)
        problem = without(scaled(exact, factors), refused)
        points, pairs = _front(problem, replicate, WITHIN if several else 0.0, limit)
        points = spread(points, MOST_POINTS) if several else points
        found: dict[Span, StageFigures] = {}
        for plan in (point.plan for point in points):
            spans = [span_of(stage) for stage in plan]
            if not known.keys() >= set(spans):
                mapping = case.mapping(plan)
                try:
                    stages = stage_figures(case.cluster, case.workload, mapping, oracle.devices(mapping))
                    found |= zip(spans, stages, strict=True)
                except InputError:
                    refused |= refusals(case, plan, oracle)
        known |= found
        last = number == ROUNDS or limit.over
        able = [point for point in points if known.keys() >= {span_of(stage) for stage in point.plan}]
        if len(able) < len(points) and not last:
            continue
        points = able
        if not last and any(abs(figures.seconds - exact.ways_s[at]) > CLOSE * figures.seconds
                            for at, figures in found.items()):  # fmt: skip
            if report:
                report(number, ROUNDS, f"micro-batch {case.problem.items}: {len(found)} stages simulated")
            continue
        for point in points:
            seen = splits.get(point.plan) or replayed(case, point, oracle)
            splits[point.plan] = replace(seen, point=point)
        front_now = [splits[point.plan] for point in points]
        if report:
            worst = max((abs(split.error) for split in front_now), default=0.0)
            report(number, ROUNDS, f"micro-batch {case.problem.items}: {len(points)} points within {worst:.1%}")
        before = factors
        for split in front_now:
            if split.simulated.steady and abs(split.error) > AGREE:
                factors = corrected(factors, split.point.plan, split.simulated, 1 + split.error)
        if factors == before or last:
            break
    return Agreed(front_now, with_left_out(case, pairs), number)


def _front(problem: Problem, replicate: bool, close: float, limit: Limit) -> tuple[list[Point], list[Pair]]:
    """The points of a front, and pairs as `Agreed` has them. Where the limit is over before there is one: the best of
    the plans that are quickly found."""
    if too_many(problem, replicate):
        return bounded_front(problem, limit)
    points, pairs = front_until(limit, problem, replicate, close)
    if points:
        return points, pairs
    quick = [*heuristics.single_devices(problem).values(), heuristics.even_split(problem), heuristics.greedy(problem)]
    return merged([point for point in quick if point is not None]), pairs


# ---------------------------------------------------------------------------------------------------------------------
# The space


def search_splits(config: SplitConfig, report: Report, space: SplitSpace | None = None) -> Result:
    """Run (or go on with) a search of splits; the results are in `config.out`. space: that of the configuration, where
    it has been made already. InputError where the cluster cannot run the workload."""
    space = space or SplitSpace(config)
    asked = Asked(
        config.objective, config.seed, config.out, config.stated(), config.resume, config.redo, config.targets
    )
    return search(space, space.oracle, asked, report)


class SplitSpace:
    """See the module docstring. InputError where the cluster cannot run the workload."""

    @property
    def name(self) -> str:
        """As `--space` has it."""
        return "+".join(("splits", *self.config.inner))

    def __init__(self, config: SplitConfig) -> None:
        objective(config.objective)
        if config.inferences < 1:
            raise InputError(f"--inferences {config.inferences}: at least one is needed")
        if not (math.isfinite(config.time_budget_s) and config.time_budget_s > 0):
            raise InputError(f"time budget {config.time_budget_s}: a positive number of seconds is needed")
        self.config = config
        self.limit = Limit(config.time_budget_s)
        self.oracle = Oracle(config.cluster, config.workload, config.engine, config.inferences)
        self.cases = list(_cases(config, self.limit))
        self.aim = within(objective(config.objective), config.targets)
        self.names = named(config.objective, config.targets)
        self.seen: dict[str, Any] = {
            "searches": 0, "worst": 0.0, "missed": [], "batch": 1, "fronts": [], "least": None,
            "unfinished": [],
        }  # fmt: skip

    def rounds(self) -> Sequence[str]:
        """Fronts, then what is known."""
        problem = self.cases[0].problem
        in_turns = self.config.replicate and max(problem.counts) > 1 and not too_many(problem, replicate=True)
        return [
            "front", *(["replicated"] if in_turns else []), *(["latency"] if self.config.latency else []),
            *(["least"] if self.names & {"latency", "peak"} and not too_many(problem) else []), "known",
        ]  # fmt: skip

    def propose(self, name: str, oracle: Oracle, folder: RunFolder, report: Report) -> Sequence[Candidate]:
        """The points of a front, the plans of least latency and memory, or what is known."""
        try:
            out = list(self._proposed(name, oracle, report))
        except OutOfTime:
            out = []
        if self.limit.over and name != "known":
            self.seen["unfinished"] = [*self.seen["unfinished"], name]
        least = min((one.estimated for one in out if one.estimated is not None), key=self._value, default=None)
        if least is not None and (self.seen["least"] is None or self._value(least) < self._value(self._least())):
            self.seen["least"] = asdict(least)
        return out

    def _value(self, figures: Figures) -> float:
        return float(self.aim(figures))

    def _least(self) -> Figures:
        return Figures(**self.seen["least"])

    def _proposed(self, name: str, oracle: Oracle, report: Report) -> Sequence[Candidate]:
        if name == "known":
            return self._known(oracle)
        if name == "latency":
            return self._named("latency", self._latency_front(oracle))
        if name == "least":
            case = self.cases[0]
            plans = {
                "latency": least_latency(case.problem, self.limit).plan, "peak": least_peak(case, self.limit)[0].plan
            }  # fmt: skip
            asked = {goal: Point(plan, evaluate(case.problem, plan)) for goal, plan in plans.items()}
            return [
                candidate(f"least_{goal}", replayed(case, point, oracle))
                for goal, point in asked.items() if goal in self.names
            ]  # fmt: skip
        in_turns = name == "replicated"
        found = [agreed_front(case, in_turns, oracle, report, self.limit) for case in self.cases]
        kept = best_of([split for one in found for split in one.splits])
        if not kept:
            raise InputError(
                f"no split that its devices can run was found in {self.config.time_budget_s:g} s; raise --time-budget"
            )
        self.seen["fronts"] += [[number, one.pairs] for number, one in enumerate(found)]
        self.seen["searches"] = max(self.seen["searches"], *(one.searches for one in found))
        self.seen["worst"] = max(self.seen["worst"], *(abs(split.error) for split in kept))
        if name == "front":
            points = [split.point for split in kept]
            self.seen["missed"] = [f"point_{points.index(p)}" for p in heuristics.weighted_sums(points)[1]]
            self.seen["batch"] = kept[0].case.problem.items
        return self._named("point" if name == "front" else name, kept)

    def _named(self, kind: str, splits: Sequence[Split]) -> list[Candidate]:
        return [candidate(f"{kind}_{number}", split) for number, split in enumerate(splits)]

    def _latency_front(self, oracle: Oracle) -> list[Split]:
        case, config = self.cases[0], self.config
        if case.problem.slower_s is not None and not too_many(case.problem):
            return [replayed(case, Programme(case.problem, limit=self.limit).least_latency(), oracle)]
        if case.problem.n_cuts > MOST_LABEL_CUTS:
            case = make_case(config.cluster, config.workload, case.problem.items, False, case.devices)
        if case.problem.n_cuts > MOST_LABEL_CUTS or too_many(case.problem):
            return []
        known, _ = front_until(self.limit, case.problem)
        points = front_labels(case.problem, False, True, known, self.limit)
        return [replayed(case, point, oracle) for point in points]

    def _known(self, oracle: Oracle) -> list[Candidate]:
        """Each device alone in its fastest micro-batch, and the baselines."""
        alone: dict[str, Split] = {}
        for case in self.cases:
            for name, point in heuristics.single_devices(case.problem).items():
                split = replayed(case, point, oracle)
                if name not in alone or split.simulated.throughput > alone[name].simulated.throughput:
                    alone[name] = split
        case = next(case for case in self.cases if case.problem.items == self.seen["batch"])
        found = {f"one_{name}": split for name, split in alone.items()}
        for name, plan in (
            ("even_split", heuristics.even_split(case.problem)), ("greedy", heuristics.greedy(case.problem))
        ):  # fmt: skip
            if plan:
                found[name] = replayed(case, plan, oracle)
        for number, plan in enumerate(heuristics.genetic(case.problem, self.config.seed)):
            found[f"genetic_{number}"] = replayed(case, plan, oracle)
        return [replace(candidate(name, split), known=True) for name, split in found.items()]

    def learn(self, oracle: Oracle) -> None:
        """Fronts are searched until they agree with their replays: nothing is left to learn."""

    def state(self) -> dict[str, Any]:
        return dict(self.seen)

    def restore(self, name: str, state: Mapping[str, Any]) -> None:
        self.seen = dict(state)

    def optimum(self) -> Optimum | None:
        """The least of what the programme said of any candidate, and what no plan goes below (`split_bounds`)."""
        least = self._least()
        return Optimum(
            least, min(self._value(least), bound(self.cases, self.seen["fronts"], self.aim, self.names, self.limit))
        )

    def about(self) -> dict[str, Any]:
        cuts = self.cases[0].cuts
        return {
            "inferences": self.config.inferences, "cuts": len(cuts.names), "all_cuts": cuts.complete,
            "searches": self.seen["searches"], "difference_worst": self.seen["worst"],
            "missed_by_weighted_sums": self.seen["missed"],
            "devices_left_out": len(self.config.cluster.devices) - len(self.cases[0].cluster.devices),
            "left_out_parts": [list(case.left_out) for case in self.cases],
            "time_budget_s": self.config.time_budget_s, "unfinished": self.seen["unfinished"],
        }  # fmt: skip


def estimated(split: Split) -> Figures:
    """What the programme says of a plan; its memory is what the stages state."""
    costs, case = split.point.costs, split.case
    peak = peak_bytes(case.cluster, case.workload, case.mapping(split.point.plan))
    return Figures(costs.latency_s, costs.energy_j, peak, costs.throughput)


def candidate(name: str, split: Split) -> Candidate:
    """A split as the loop takes it. about: its stages and its replay."""
    about = {
        "micro_batch": split.case.problem.items, "bottleneck": split.point.costs.bottleneck,
        "difference": split.error, "stages": [asdict(stage) for stage in split.stages],
        "replay": finite(asdict(split.simulated)),
    }  # fmt: skip
    seen = split.simulated
    if not seen.steady:
        about["note"] = " with fill and drain"
    elif 1e-3 * seen.throughput < seen.throughput_ci < math.inf:
        about["note"] = f" ± {seen.throughput_ci:.1g}"
    return Candidate(name, split.case.mapping(split.point.plan, name), estimated(split), about=about)


def _cases(config: SplitConfig, limit: Limit) -> Iterator[Case]:
    """By micro-batch, smallest first, as far as the memories hold them."""
    cluster, workload = config.cluster, config.workload
    costs, cuts = device_costs(cluster, workload, device_mappings(cluster, workload, config.mappings)), None
    most_bytes = min((one.most for one in config.targets if one.objective == "peak"), default=math.inf)
    if config.inner:
        inner = config.inner
        costs = {
            name: TiledDevice(own.soc, workload, own.mapping, inner) if has_choice(own.soc, workload, inner) else own
            for name, own in costs.items()
        }
        if not any(isinstance(own, TiledDevice) for own in costs.values()):
            what = " and ".join(inner)
            raise InputError(f"{workload.name} on {cluster.name}: its devices leave no {what} to choose: search splits")
        in_order = all(cached(own.soc) for own in costs.values()) and len(workload.layers) < MOST_CUTS_IN_ORDER
        cuts = cuts_in_order(workload) if in_order else cuts_of(workload, branches=False)
    for number, items in enumerate(sorted(config.batches)):
        try:
            case = make_case(cluster, workload, items, config.branches, costs, cuts, most_bytes, limit)
            if cuts is None and config.branches and too_many(case.problem, most=MOST_BRANCH_STATES):
                case = make_case(cluster, workload, items, False, costs, None, most_bytes, limit)
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
