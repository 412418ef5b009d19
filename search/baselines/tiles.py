"""What the search by gradient is measured against, on the same plans, costs, clock and projection.

random: choices drawn anew each time. genetic: NSGA-II (Deb et al. 2002) on energy and cycles, its genes the choices.
bayesian: optuna's tree of Parzen estimators on the same genes, where optuna is installed. layer-wise: the search by
gradient with fusion off. default: what Gemmini's library would do.
"""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import numpy.typing as npt

from cosoc.search.baselines.tiles_gradient import Effort, Plan, Watch, gradient
from cosoc.search.spaces.tiles_cached import CachedTiles
from cosoc.search.spaces.tiles_repair import legal
from cosoc.search.spaces.tiles_soft import Choices
from cosoc.sim.errors import InputError

Genes = npt.NDArray[np.int64]  # [individuals, layers, 10]: six divisors, order, gate, line buffer, resident

POPULATION = 64


def sizes(space: CachedTiles) -> Genes:
    """How many values each gene has [layers, 10]."""
    return np.array([[*(len(d) for d in space.divisors[i]), 3, 2, 2, 2] for i in space.positions], np.int64)


def drawn(space: CachedTiles, n: int, rng: np.random.Generator) -> Genes:
    """Individuals drawn at random; half of their gates are open."""
    return rng.integers(0, np.broadcast_to(sizes(space), (n, *sizes(space).shape)))


def choices(space: CachedTiles, genes: Genes) -> Choices:
    """Genes as the choices of so many starts."""
    tiles = np.stack(
        [
            np.stack([np.array(d, np.int64)[genes[:, row, j]] for j, d in enumerate(space.divisors[i])])
            for row, i in enumerate(space.positions)
        ]
    )
    parts = np.moveaxis(genes[:, :, 6:], 0, -1)
    return Choices(tiles, parts[:, 0], parts[:, 1].astype(float), parts[:, 2].astype(float), parts[:, 3].astype(float))


def plans(watch: Watch, genes: Genes) -> list[Plan]:
    """The legal plan nearest to each individual, all offered to the watch; fewer where time ends."""
    said, found = choices(watch.space, genes), list[Plan]()
    for at in range(len(genes)):
        if found and watch.over:
            break
        found.append(legal(watch.space, said, at, watch.objective))
    watch.space.price(section for plan in found for section in plan)
    for plan in found:
        watch.offer(plan, watch.space.plan_cost(plan))
    return found


def random_search(watch: Watch, seed: int, evaluations: int = 1 << 60) -> None:
    """Plans drawn at random until time or evaluations end."""
    rng = np.random.default_rng(seed)
    while True:
        plans(watch, drawn(watch.space, min(POPULATION, evaluations - watch.evaluations), rng))
        if watch.over or watch.evaluations >= evaluations:
            return


def ranks(points: npt.NDArray[np.float64]) -> tuple[Genes, npt.NDArray[np.float64]]:
    """NSGA-II's order of points [n, 2]: front each stands on (0: nothing dominates it), and its crowding distance."""
    below = (points[:, None] <= points[None]).all(-1) & (points[:, None] < points[None]).any(-1)
    rank, left = np.full(len(points), -1), np.ones(len(points), bool)
    level = 0
    while left.any():
        front = left & ~(below & left[:, None]).any(0)
        rank[front] = level
        level += 1
        left &= ~front
    crowd = np.zeros(len(points))
    for one in range(level):
        at = np.flatnonzero(rank == one)
        for axis in range(2):
            order = at[np.argsort(points[at, axis], kind="stable")]
            span = points[order[-1], axis] - points[order[0], axis] or 1.0
            crowd[order[[0, -1]]] = np.inf
            crowd[order[1:-1]] += (points[order[2:], axis] - points[order[:-2], axis]) / span
    return rank, crowd


def genetic(watch: Watch, seed: int, evaluations: int = 1 << 60, population: int = POPULATION) -> None:
    """NSGA-II: tournaments of two, uniform crossover by layer, mutation of one gene in a hundred (half of them by a
    step to the next divisor), parents and children compete."""
    rng, space = np.random.default_rng(seed), watch.space
    most = sizes(space)
    genes = drawn(space, population, rng)
    points = _points(watch, genes)
    while not watch.over and watch.evaluations < evaluations:
        rank, crowd = ranks(points)
        better = np.lexsort((-crowd, rank)).argsort()
        picks = rng.integers(0, len(genes), (2, 2, population))
        parents = np.where(better[picks[0]] < better[picks[1]], picks[0], picks[1])
        mask = rng.random((population, len(most), 1)) < 0.5
        children = np.where(mask, genes[parents[0]], genes[parents[1]])
        anew = rng.integers(0, np.broadcast_to(most, children.shape))
        near = np.clip(children + rng.choice((-1, 1), children.shape), 0, most - 1)
        mutated = np.where(rng.random(children.shape) < 0.5, near, anew)
        children = np.where(rng.random(children.shape) < 0.01, mutated, children)
        values = _points(watch, children)
        children = children[: len(values)]
        genes, points = np.concatenate((genes, children)), np.concatenate((points, values))
        rank, crowd = ranks(points)
        kept = np.lexsort((-crowd, rank))[:population]
        genes, points = genes[kept], points[kept]


def _points(watch: Watch, genes: Genes) -> npt.NDArray[np.float64]:
    found = [watch.space.plan_cost(plan) for plan in plans(watch, genes)]
    return np.array([(cost.energy_j, cost.seconds) for cost in found])


def has_optuna() -> bool:
    return find_spec("optuna") is not None


def bayesian(watch: Watch, seed: int, evaluations: int = 1 << 60) -> None:
    """Optuna's tree of Parzen estimators over all genes; InputError where optuna is not installed."""
    if not has_optuna():
        raise InputError("method bayesian needs optuna: pip install 'cosoc[baselines]'")
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=POPULATION))
    most = sizes(watch.space)

    def trial_value(trial: optuna.Trial) -> float:
        genes = np.array(
            [[trial.suggest_int(f"{i}.{j}", 0, int(n) - 1) for j, n in enumerate(row)] for i, row in enumerate(most)]
        )
        (plan,) = plans(watch, genes[None])
        if watch.over or watch.evaluations >= evaluations:
            study.stop()
        return float(np.log(watch.value(watch.space.plan_cost(plan))))

    study.optimize(trial_value)


def layerwise(watch: Watch, seed: int, rounds: int = 1 << 20, effort: Effort | None = None) -> None:
    """The search by gradient with fusion off."""
    gradient(watch, seed, rounds, effort, fusion=False)
