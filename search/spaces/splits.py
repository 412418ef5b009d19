"""Splits of a network into pipeline stages on the devices of a cluster: what a plan is, and what it costs.

A network is cut at *cuts*: sets of layers that are done when data crosses from a stage to the next. Cut 0 is nothing,
the last cut is everything. A stage takes the network from one cut to a later one, on one device or on several equal
ones (*replicas*) that take turns. Stages form a chain: what a stage needs of earlier ones reaches it through those
between, so that every crossing tensor is paid at every cut that it crosses.

The costs of a plan, for items (micro-batches) that follow each other without end:

    period   = max over stages (occupancy / replicas), over hops (port seconds / fewer replicas of its two ends), and
               the sum of all hops' seconds on the shared medium, if there is one
    energy   = sum over stages and hops (joules) + idle power of the devices in use x period
    latency  = sum over stages (occupancy) and hops (seconds on the way), in an empty pipeline

Computation and communication overlap, as each device computes, sends and receives at once. What this leaves out
(bursts, full queues, collisions on a shared medium) is what the replay is for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

import numpy as np

from cosoc.sim.errors import InputError
from cosoc.sim.model.cuts import Done, crossing, last_layers
from cosoc.sim.model.workload import INPUT, Workload

Floats = np.ndarray[Any, np.dtype[np.float64]]
Bools = np.ndarray[Any, np.dtype[np.bool_]]

MOST_CUTS = 64  # inside of one branching block


@dataclass(frozen=True)
class Problem:
    """Everything that a plan's costs depend on. T device types, N cuts; inf where something cannot be.

    types [T], counts [T]: names and number of the devices. idle_w [T]: watts of a device in use, always.
    occupancy_s, busy_j [T, N, N]: seconds of a device, and joules above idle, for an item's stage from cut i to cut j.
    hop_s, hop_j, medium_s, delay_s [T, T, N]: an item's hop at a cut from one type to another: seconds for which it
    holds the ports, joules, seconds of the shared medium, seconds until it has arrived.
    items: inferences an item.
    slower_s, slower_j [T, N, N, W]: occupancy and joules of other ways to compute a stage, inf where it has fewer;
    None: it has one.
    """

    types: tuple[str, ...]
    counts: tuple[int, ...]
    idle_w: Floats
    occupancy_s: Floats
    busy_j: Floats
    hop_s: Floats
    hop_j: Floats
    medium_s: Floats
    delay_s: Floats
    items: int = 1
    cuts: tuple[str, ...] = ()  # names, by the last layer before each
    slower_s: Floats | None = None
    slower_j: Floats | None = None

    @property
    def n_cuts(self) -> int:
        return int(self.occupancy_s.shape[1])

    @property
    def ways_s(self) -> Floats:
        """[T, N, N, 1 + W]: seconds of all ways to compute a stage."""
        first = self.occupancy_s[..., None]
        return first if self.slower_s is None else np.concatenate([first, self.slower_s], axis=3)

    @property
    def ways_j(self) -> Floats:
        """[T, N, N, 1 + W]: their joules."""
        first = self.busy_j[..., None]
        return first if self.slower_j is None else np.concatenate([first, self.slower_j], axis=3)

    def stage(self, stage: PlanStage) -> tuple[float, float]:
        """Seconds and joules of a stage."""
        at = (stage.type, stage.begin, stage.end)
        if stage.way == 0 or self.slower_s is None or self.slower_j is None:
            return float(self.occupancy_s[at]), float(self.busy_j[at])
        return float(self.slower_s[(*at, stage.way - 1)]), float(self.slower_j[(*at, stage.way - 1)])

    @property
    def shared(self) -> bool:
        """Whether hops share a medium."""
        return bool(np.any(self.medium_s > 0))


@dataclass(frozen=True)
class PlanStage:
    """Cut `begin` to cut `end` on `replicas` devices of type number `type`. way: of those to compute it."""

    type: int
    begin: int
    end: int
    replicas: int = 1
    way: int = 0


Plan = tuple[PlanStage, ...]


@dataclass(frozen=True)
class Costs:
    """Of an inference in a pipeline that never runs empty. latency_s: of an item, in an empty pipeline. bottleneck:
    what sets the period: `stage 2`, `hop 1` (behind stage 1) or `medium`."""

    period_s: float
    energy_j: float
    latency_s: float
    bottleneck: str = ""

    @property
    def throughput(self) -> float:
        """Inferences a second."""
        return 1.0 / self.period_s


def evaluate(problem: Problem, plan: Plan) -> Costs:
    """The costs of a plan by the definition above. inf where a stage or hop cannot be."""
    resources: list[tuple[float, str]] = []
    joules = latency = medium = 0.0
    for number, stage in enumerate(plan):
        seconds, spent_j = problem.stage(stage)
        resources.append((seconds / stage.replicas, f"stage {number}"))
        latency += seconds
        joules += spent_j
        if number + 1 < len(plan):
            after = plan[number + 1]
            hop = (stage.type, after.type, stage.end)
            resources.append((float(problem.hop_s[hop]) / min(stage.replicas, after.replicas), f"hop {number}"))
            joules += float(problem.hop_j[hop])
            medium += float(problem.medium_s[hop])
            latency += float(problem.delay_s[hop])
    resources.append((medium, "medium"))
    period, name = max(resources, key=lambda r: r[0])
    idle_w = sum(float(problem.idle_w[stage.type]) * stage.replicas for stage in plan)
    return Costs(period / problem.items, (joules + idle_w * period) / problem.items, latency, name)


def check(problem: Problem, plan: Plan) -> None:
    """Raise ValueError where a plan is not one of the problem."""
    at = 0
    used = [0] * len(problem.types)
    for stage in plan:
        if stage.begin != at or stage.end <= at or stage.replicas < 1:
            raise ValueError(f"{stage} does not follow cut {at}")
        at = stage.end
        used[stage.type] += stage.replicas
    if at != problem.n_cuts - 1:
        raise ValueError(f"the plan ends at cut {at} of {problem.n_cuts - 1}")
    if any(n > most for n, most in zip(used, problem.counts, strict=True)):
        raise ValueError(f"the plan uses {used} of {list(problem.counts)} devices")


# ---------------------------------------------------------------------------------------------------------------------
# Cuts


@dataclass(frozen=True)
class Cuts:
    """done [N, layers]: layers before each cut, in the workload's order. crossing [N]: names of the tensors that cross
    each (`model.cuts.crossing`). names [N]: of the last layers before each, by which a mapping finds the cut. complete:
    whether these are all cuts that there are."""

    done: Bools
    crossing: tuple[tuple[str, ...], ...]
    names: tuple[str, ...]
    complete: bool

    def cut(self, number: int) -> Done:
        """A cut as `model.cuts` takes it."""
        return tuple(self.done[number].tolist())

    @property
    def single(self) -> Bools:
        """Whether one tensor crosses: the articulation points of the network."""
        return np.array([len(c) == 1 for c in self.crossing])


def cuts_of(workload: Workload, branches: bool = True, most: int = MOST_CUTS) -> Cuts:
    """The cuts of a network: its articulation points, and with `branches` every other set of layers that is closed
    under what the layers read. Such sets lie between two articulation points; where more than `most` do, those are
    left out and `complete` is false."""
    points = _articulations(workload)
    chosen = [_prefix(workload, point) for point in points]
    complete = branches
    for a, b in pairwise(points):
        inside = list(islice(_downsets(workload, a, b), most + 1)) if branches else []
        complete = complete and len(inside) <= most
        chosen += inside if len(inside) <= most else []
    chosen = sorted(set(chosen), key=lambda s: (sum(s), [not d for d in s]))
    names = tuple("+".join(last_layers(workload, s)) or INPUT for s in chosen)
    return Cuts(np.array(chosen, dtype=bool), tuple(crossing(workload, s) for s in chosen), names, complete)


def cuts_in_order(workload: Workload) -> Cuts:
    """The cuts at which stages are consecutive layers in the order of the network: all of its prefixes."""
    chosen = [_prefix(workload, n) for n in range(len(workload.layers) + 1)]
    names = tuple("+".join(last_layers(workload, s)) or INPUT for s in chosen)
    return Cuts(np.array(chosen, dtype=bool), tuple(crossing(workload, s) for s in chosen), names, complete=False)


def _prefix(workload: Workload, n: int) -> tuple[bool, ...]:
    return tuple(i < n for i in range(len(workload.layers)))


def _articulations(workload: Workload) -> list[int]:
    """Lengths of the prefixes of the order that one tensor crosses, the empty and the whole one included. Other orders
    of the same network have the same ones: what precedes such a point is what its tensor is made from."""
    n = len(workload.layers)
    inner = [i for i in range(1, n) if len(crossing(workload, _prefix(workload, i))) == 1]
    return [0, *inner, n]


def _downsets(workload: Workload, start: int, end: int) -> Iterator[tuple[bool, ...]]:
    """Every set of layers that holds the first `start`, some of those before `end` but not all, and what they read."""
    index = {layer.name: i for i, layer in enumerate(workload)}
    needs = [{index[name] for name in layer.inputs if name != INPUT} for layer in workload]
    level: dict[tuple[bool, ...], None] = {_prefix(workload, start): None}
    for _ in range(start + 1, end):
        following: dict[tuple[bool, ...], None] = {}
        for done in level:
            for i in range(start, end):
                if not done[i] and all(done[j] for j in needs[i]):
                    following[(*done[:i], True, *done[i + 1 :])] = None
        yield from following
        level = following


def nested(cuts: Cuts) -> Bools:
    """[N, N]: whether cut j lies behind cut i: more is done, and nothing less."""
    done = cuts.done
    less = np.stack([(before & ~done).any(axis=1) for before in done])
    out: Bools = ~less & ~np.eye(len(done), dtype=bool)
    return out


def no_plan(reason: str) -> InputError:
    """The error where no plan exists."""
    return InputError(f"no split fits: {reason}")
