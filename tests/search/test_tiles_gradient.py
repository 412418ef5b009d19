"""Does the search by gradient see the exact costs, leave only legal plans, and find good ones?"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cosoc.search.baselines import tiles as baselines
from cosoc.search.baselines.tiles_gradient import Effort, Plan, Watch, choices_of, gradient
from cosoc.search.exact.tiles import Optimum, best_choice, best_plan, value
from cosoc.search.spaces.sections import Cost
from cosoc.search.spaces.tiles_cached import CachedTiles
from cosoc.search.spaces.tiles_repair import Improver, Pool, legal, shrunk
from cosoc.search.spaces.tiles_soft import Relaxed, Soft
from cosoc.sim.figures import objective
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.model.workload import Workload
from cosoc.sim.movers.cached_terms import Machine

SMALL = {"memories.scratchpad.size_bytes": "262144", "memories.accumulator.size_bytes": "65536"}
MACHINE = Machine.of(find_soc("gemmini_firesim", SMALL))
EDP, OBJECTIVES = objective("edp"), ("edp", "latency", "energy")
QUICK = Effort(starts=12, steps=25, repaired=1, sweeps=3)


def optimum(space: CachedTiles, aim: str = "edp", fusion: bool = True) -> Optimum:
    return best_plan(len(space.positions), space.choices(fusion), objective(aim))


def worth(cost: Cost, aim: str = "edp") -> float:
    return float(value(cost.energy_j, cost.seconds, objective(aim)))


@pytest.fixture(scope="module")
def resnet8() -> Workload:
    return find_workload("resnet8")


def space_of(workload: Workload) -> CachedTiles:
    return CachedTiles(workload, MACHINE)


@pytest.mark.parametrize("name", ["resnet8", "mobilenet_v2"])
@pytest.mark.parametrize("fusion", [False, True])
def test_the_soft_cost_of_hard_choices_is_the_exact_cost(name: str, fusion: bool) -> None:
    """Residual branches, depthwise layers, line buffers and resident weights included; float32."""
    space = space_of(find_workload(name))
    best = optimum(space, "edp", fusion)
    relaxed = Relaxed(space)
    soft = relaxed.near([choices_of(space, best.sections)], 1, 0, spread=0.0)
    energy, cycles, penalty = relaxed.cost(soft, 0.1)
    assert energy.item() * 1e-12 == pytest.approx(best.cost.energy_j, rel=1e-4)
    assert cycles.item() / MACHINE.hz == pytest.approx(best.cost.seconds, rel=1e-4)
    assert penalty.item() == pytest.approx(0, abs=1e-3)


def test_reading_a_plan_back_gives_the_plan(resnet8: Workload) -> None:
    """Plan -> choices -> free numbers -> choices -> plan."""
    space = space_of(resnet8)
    best = optimum(space).sections
    relaxed = Relaxed(space)
    read = relaxed.read(relaxed.near([choices_of(space, best)], 1, 0, spread=0.0))
    assert legal(space, read, 0, EDP) == best


def test_gradients_are_there_and_point_downhill(resnet8: Workload) -> None:
    """Every kind of choice gets a finite gradient somewhere; a small step against it lowers the soft objective."""
    relaxed = Relaxed(space_of(resnet8))
    soft = relaxed.start(16, 0)
    loss = relaxed.objective(soft, EDP, 1.0, None, 1.0)
    loss.sum().backward()
    for free in soft.all():
        assert free.grad is not None and torch.isfinite(free.grad).all() and (free.grad != 0).any()
    # Tiles are hard in value; gates, line buffers and residents are what the value follows smoothly.
    with torch.no_grad():
        moved = [t - 1e-3 * t.grad if t is not soft.tiles and t is not soft.orders else t for t in soft.all()]  # type: ignore[operator]
        lower = relaxed.objective(Soft(*moved), EDP, 1.0, None, 1.0)
    assert (lower < loss).float().mean() > 0.9


def test_many_starts_are_computed_as_each_alone(resnet8: Workload) -> None:
    relaxed = Relaxed(space_of(resnet8))
    soft = relaxed.start(6, 3)
    together = relaxed.cost(soft, 0.5)
    for s in range(6):
        one = Soft(*(t[..., s : s + 1] for t in soft.all()))
        for all_, single in zip(together, relaxed.cost(one, 0.5), strict=True):
            assert all_[s].item() == pytest.approx(single.item(), rel=1e-5)


@pytest.mark.parametrize("name", ["resnet8", "mobilenet_v1_025", "gpt3_block_decode"])
def test_whatever_is_drawn_becomes_legal(name: str) -> None:
    """Projection: random genes, most of which fit nowhere, give complete plans whose every piece can be costed."""
    space = space_of(find_workload(name))
    genes = baselines.drawn(space, 30, np.random.default_rng(1))
    said = baselines.choices(space, genes)
    for at in range(30):
        plan = legal(space, said, at, EDP)
        assert space.complete(plan)
        space.plan_cost(plan)  # InputError where a piece is illegal


def test_what_fits_is_left_alone(resnet8: Workload) -> None:
    space = space_of(resnet8)
    rows, _ = space.singles(space.positions[0])
    for row in rows[:: len(rows) // 20]:
        assert space.row(shrunk(space, space.positions[0], row, EDP)).tolist() == row.tolist()


@pytest.mark.parametrize("aim", OBJECTIVES)
def test_descent_never_makes_a_plan_worse(resnet8: Workload, aim: str) -> None:
    space = space_of(resnet8)
    said = baselines.choices(space, baselines.drawn(space, 2, np.random.default_rng(2)))
    for at in range(2):
        plan = legal(space, said, at, objective(aim))
        pool = Pool(space)
        better, cost = Improver(space, objective(aim), pool).improve(plan)
        assert space.complete(better)
        assert worth(cost, aim) <= worth(space.plan_cost(plan), aim)
        assert worth(cost, aim) == pytest.approx(worth(space.plan_cost(better), aim))
        assert worth(pool.best(objective(aim))[1], aim) <= worth(cost, aim) * (1 + 1e-9)


def test_the_search_is_within_two_per_cent_of_the_optimum(resnet8: Workload) -> None:
    space = space_of(resnet8)
    watch = Watch(space, EDP)
    gradient(watch, 0, 1, QUICK)
    assert watch.best is not None and space.complete(watch.best)
    assert optimum(space).value <= worth(watch.cost) <= 1.02 * optimum(space).value


@pytest.mark.parametrize("at", [0, 2, 4, 8])
def test_single_layers_are_within_one_per_cent(resnet8: Workload, at: int) -> None:
    layer = resnet8.layers[at]
    workload = Workload("one", (layer.c, layer.iy, layer.ix), (layer,), (layer.name,))
    space = space_of(workload)
    watch = Watch(space, EDP)
    gradient(watch, 0, 1, QUICK)
    options = space.choices()[0, 1]
    assert worth(watch.cost) <= 1.01 * worth(options.cost(best_choice(options, EDP)))


def test_layerwise_leaves_every_layer_alone(resnet8: Workload) -> None:
    space = space_of(resnet8)
    watch = Watch(space, EDP)
    baselines.layerwise(watch, 0, 1, QUICK)
    assert watch.best is not None and all(section.piece is None for section in watch.best)
    unfused = optimum(space, fusion=False)
    assert unfused.value <= worth(watch.cost) <= 1.02 * unfused.value


def test_equal_seeds_give_equal_plans(resnet8: Workload) -> None:
    def found(seed: int) -> tuple[Plan | None, list[float]]:
        watch = Watch(space_of(resnet8), EDP)
        gradient(watch, seed, 1, Effort(6, 6, 1, 1))
        return watch.best, [v for _, v in watch.history]

    assert found(1) == found(1)
    assert found(1)[1] != found(2)[1]


def test_a_watch_keeps_the_best_and_tells(resnet8: Workload) -> None:
    space, told = space_of(resnet8), []
    watch = Watch(space, EDP, listener=lambda seconds, found, plan: told.append(found))
    plan = optimum(space).sections
    assert [watch.offer(plan, Cost(e, 1.0)) for e in (3.0, 4.0, 2.0)] == [True, False, True]
    assert told == [3.0, 2.0] == [v for _, v in watch.history]
    assert watch.evaluations == 3


def test_time_is_kept(resnet8: Workload) -> None:
    """With no time at all a search still leaves a plan."""
    watches = [Watch(space_of(resnet8), EDP, seconds=0.0) for _ in range(3)]
    gradient(watches[0], 0, 5, QUICK)
    baselines.random_search(watches[1], 0)
    baselines.genetic(watches[2], 0)
    assert all(watch.best is not None for watch in watches)


def test_ranks_are_those_of_the_definition() -> None:
    """Fronts peeled one after another; the ends of a front are the least crowded."""
    points = np.random.default_rng(5).random((40, 2))
    rank, crowd = baselines.ranks(points)
    left, level = set(range(40)), 0
    while left:
        front = {i for i in left if not any((points[j] <= points[i]).all() and j != i for j in left)}
        assert front == {i for i in range(40) if rank[i] == level}
        ends = {min(front, key=lambda i: points[i, 0]), max(front, key=lambda i: points[i, 0])}
        assert ends <= {i for i in front if crowd[i] == np.inf}
        left, level = left - front, level + 1


def test_baselines_improve_with_evaluations(resnet8: Workload) -> None:
    for method in (baselines.random_search, baselines.genetic):
        few, many = Watch(space_of(resnet8), EDP), Watch(space_of(resnet8), EDP)
        method(few, 0, 64)
        method(many, 0, 256)
        assert few.evaluations == 64
        assert many.evaluations == 256
        assert worth(many.cost) <= worth(few.cost)
        assert method is baselines.random_search or worth(many.cost) < worth(few.cost)


def test_objectives_choose_what_they_say(resnet8: Workload) -> None:
    """The plan of least energy takes no more energy than the others, and so on; EDP is the product."""
    space = space_of(resnet8)
    found = {aim: optimum(space, aim) for aim in OBJECTIVES}
    for aim in OBJECTIVES:
        for other in OBJECTIVES:
            assert found[aim].value <= worth(found[other].cost, aim) * (1 + 1e-12)
    assert [worth(Cost(3.0, 4.0), aim) for aim in OBJECTIVES] == [12, 4, 3]
