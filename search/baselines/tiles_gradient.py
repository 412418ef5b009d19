"""A search by gradient where the exact programme says what is best, to see how close it comes.

Rounds of soft descent, projection and repair, for a time or for a number of rounds. Everything is determined by the
seed but where a time budget ends it. Searches report to a `Watch`, the baselines of `cosoc.search.baselines` as well,
so that all are timed and compared alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from cosoc.search.exact.tiles import value
from cosoc.search.spaces.sections import Cost, Section
from cosoc.search.spaces.tiles_cached import CachedTiles
from cosoc.search.spaces.tiles_repair import Improver, Pool, legal
from cosoc.search.spaces.tiles_soft import Choices, Relaxed
from cosoc.sim.figures import Objective

# found(seconds since the start, value of the best plan so far, plan): called when the best plan changes.
Plan = tuple[Section, ...]
Listener = Callable[[float, float, Plan], None]


DESCENDING = 0.4  # share of the time left that one descent may take
ROUNDING = 0.6  # ... and by the end of which no further start is made legal
KEPT = 8  # best plans that a watch remembers


@dataclass
class Watch:
    """The best plan so far, and when it was found.

    seconds: the time there is, by `clock`. bests: the last plans that were best, newest first.
    """

    space: CachedTiles
    objective: Objective
    seconds: float = float("inf")
    listener: Listener | None = None
    best: Plan | None = None
    cost: Cost = field(default_factory=lambda: Cost(float("inf"), float("inf")))
    history: list[tuple[float, float]] = field(default_factory=list)
    evaluations: int = 0
    clock: Callable[[], float] = time.monotonic
    bests: list[Plan] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.begun = self.clock()

    @property
    def elapsed(self) -> float:
        return self.clock() - self.begun

    @property
    def over(self) -> bool:
        return self.elapsed >= self.seconds

    def value(self, cost: Cost) -> float:
        """What the objective makes of a cost."""
        return float(value(cost.energy_j, cost.seconds, self.objective))

    def offer(self, plan: Plan, cost: Cost) -> bool:
        """Take note of a plan; whether it is the best so far."""
        self.evaluations += 1
        now = self.value(cost)
        if self.best is not None and now >= self.value(self.cost):
            return False
        self.best, self.cost = plan, cost
        self.bests = [plan, *self.bests[: KEPT - 1]]
        self.history.append((self.elapsed, now))
        if self.listener is not None:
            self.listener(self.elapsed, now, plan)
        return True


@dataclass(frozen=True)
class Effort:
    """How much a round does: starts at once, steps of descent, starts that are repaired, sweeps of a repair."""

    starts: int = 64
    steps: int = 80
    repaired: int = 3
    sweeps: int = 6
    device: str = "cpu"


def gradient(
    watch: Watch,
    seed: int,
    rounds: int = 1,
    effort: Effort | None = None,
    fusion: bool = True,
    around: Sequence[Plan] = (),
    progress: Callable[[int], None] | None = None,
) -> Pool:
    """Search by gradient; the best plan is in `watch`, the pieces that were met are returned.

    fusion: False leaves every layer by itself (the layer-wise setting). around: plans to start near instead of
    anywhere. progress: called after every step of descent with its number in the round.
    """
    effort = effort or Effort()
    space, objective = watch.space, watch.objective
    relaxed, pool = Relaxed(space, effort.device), Pool(space)
    if not fusion:
        relaxed.can = relaxed.can * 0

    def after(step: int, soft: object) -> bool:
        if progress is not None:
            progress(step)
        return watch.over

    for turn in range(rounds):
        mixed = seed * 1009 + turn
        begun, left = watch.elapsed, watch.seconds - watch.elapsed

        def spent(begun: float = begun, left: float = left) -> float:
            """Of the time that is left for a round's descent, the share that has passed."""
            return (watch.elapsed - begun) / (DESCENDING * left) if left > 0 else 1.0

        if around:
            soft = relaxed.near([choices_of(space, plan) for plan in around], effort.starts, mixed)
        else:
            soft = relaxed.start(effort.starts, mixed)
        relaxed.descend(soft, objective, effort.steps, mixed, after, spent)
        late = begun + ROUNDING * left
        plans = _rounded(watch, relaxed.read(soft), pool, effort.starts, fusion, late)
        best, cost = pool.best(objective)
        watch.offer(best, cost)
        improver = Improver(space, objective, pool, lambda: watch.over, fusion)
        for plan in [best, *plans[: effort.repaired]]:
            if watch.over and watch.best is not None:
                return pool
            watch.offer(*improver.improve(plan, effort.sweeps))
            watch.offer(*pool.best(objective))
        if watch.over:
            break
    return pool


def _rounded(watch: Watch, choices: Choices, pool: Pool, starts: int, fusion: bool, late: float) -> list[Plan]:
    """All starts made legal, best first, as long as it is not late; their pieces go into the pool."""
    found = []
    if not fusion:
        choices = Choices(choices.tiles, choices.orders, choices.gates * 0, choices.keep, choices.resident)
    for start in range(starts):
        plan = legal(watch.space, choices, start, watch.objective)
        for section in plan:
            pool.add(section, watch.space.cost(section))
        found.append((watch.value(watch.space.plan_cost(plan)), start, plan))
        if watch.elapsed > late:
            break
    return [plan for _, _, plan in sorted(found, key=lambda f: f[:2])]


def choices_of(space: CachedTiles, plan: Plan) -> Choices:
    """What a plan says, as the choices of one start."""
    at = {i: row for row, i in enumerate(space.positions)}
    n = len(at)
    tiles, orders = np.ones((n, 6), np.int64), np.ones(n, np.int64)
    gates, keep, resident = np.zeros(n), np.zeros(n), np.zeros(n)

    def whole(i: int) -> list[int]:
        s = space.shapes[i]
        return [s.k, s.c, s.fy, s.fx, s.oy, s.ox]

    for section in plan:
        row = space.row(section)
        if section.piece is None:
            tiles[at[section.first]], orders[at[section.first]] = row[:6], row[6]
            continue
        for j, i in enumerate(range(*section.span)):
            tiles[at[i]] = whole(i)
            gates[at[i]], keep[at[i]], resident[at[i]] = float(i < section.last), float(row[2]), float(row[3 + j])
        tiles[at[section.last], 4:] = row[:2]
    return Choices(tiles, orders, gates, keep, resident)
