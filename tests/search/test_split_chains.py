"""Splits with several ways for a stage, of any objective, over many devices: against enumeration, and tiles."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from split_problems import all_plans, figures, random_problem

from cosoc.cli import main
from cosoc.search.exact.limit import Limit, OutOfTime
from cosoc.search.exact.split_classes import bounded, bounded_front
from cosoc.search.exact.splits import (
    Point,
    counted,
    floor,
    front,
    front_labels,
    front_until,
    least_period,
    merged,
    too_many,
)
from cosoc.search.spaces.split_bounds import bound, named
from cosoc.search.spaces.split_space import SplitConfig, SplitSpace, search_splits
from cosoc.search.spaces.split_tiles import WITHIN, TiledDevice
from cosoc.search.spaces.splits import Problem, cuts_in_order, evaluate
from cosoc.search.spaces.tiles import TileSpace
from cosoc.search.split_costs import make_case, profile_problem
from cosoc.search.targets import Target, met, within
from cosoc.sim.errors import InputError
from cosoc.sim.figures import Figures, objective
from cosoc.sim.files.catalog import find_cluster, find_soc, load_cluster
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.manual import named_mapping

ARRAYS = (
    "name: arrays\n"
    "devices:\n"
    "  array: {{soc: gemmini, count: {count}, message_ns: 1000}}\n"
    "links:\n"
    "  x: {{kind: pcie, between: [array], bytes_per_s: 2_000_000_000, latency_ns: 500, burst_bytes: 256, "
    "energy_pj_per_byte: 40}}\n"
)


def quiet(done: int, total: int, what: str) -> None:
    """No progress."""


def with_ways(rng: np.random.Generator, problem: Problem, ways: int) -> Problem:
    """Ways beside the first, slower or faster, dearer or cheaper, a fifth of them impossible."""
    shape = (*problem.occupancy_s.shape, ways)
    slower_s, slower_j = (
        np.where(np.isfinite(table)[..., None], table[..., None] * rng.choice((0.5, 1, 2), shape), np.inf)
        for table in (problem.occupancy_s, problem.busy_j)
    )
    slower_s[rng.random(shape) < 0.2] = np.inf
    return replace(problem, slower_s=slower_s, slower_j=slower_j)


@pytest.mark.parametrize("seed", range(60))
def test_fronts_over_ways_are_those_of_enumeration(seed: int) -> None:
    """Every plan, each of its stages in every way, priced by the definition."""
    rng = np.random.default_rng(seed)
    counts = [int(n) for n in rng.integers(1, 3, int(rng.integers(1, 3)))]
    problem = random_problem(rng, counts, int(rng.integers(2, 5)), False, idle=(0.0, 0.1, 1.0)[seed % 3])
    problem = with_ways(rng, problem, 2)
    points = []
    for plan in all_plans(problem, replicate=bool(seed & 1)):
        for ways in product(range(3), repeat=len(plan)):
            chosen = tuple(replace(stage, way=way) for stage, way in zip(plan, ways, strict=True))
            points.append(Point(chosen, evaluate(problem, chosen)))
    points = [p for p in points if np.isfinite(p.costs.period_s) and np.isfinite(p.costs.energy_j)]
    found = front(problem, replicate=bool(seed & 1))
    assert figures(found) == pytest.approx(figures(merged(points)))
    close = front(problem, bool(seed & 1), within=0.2)
    assert close[0].costs.period_s == pytest.approx(figures(found)[0][0])
    for point in found:
        as_fast = [p.costs.energy_j for p in close if p.costs.period_s <= point.costs.period_s * (1 + 1e-9)]
        assert min(as_fast) <= 1.2 * point.costs.energy_j * (1 + 1e-9)


# ------------------------------------------------------------------------------------------------- many devices


def test_equal_devices_under_many_names_are_counted() -> None:
    """Sixty-four names of one device, three layers each: as one entry with a count of 64, in both ways."""
    one = profile_problem(["a"], [64], np.ones((1, 24)), [0.0] * 25, 1.0)
    many = profile_problem([f"a{i}" for i in range(64)], [1] * 64, np.ones((64, 24)), [0.0] * 25, 1.0)
    small, members = counted(many)
    assert small.counts == (64,) and members == (tuple(range(64)),)
    assert not too_many(many)
    plan = least_period(many).plan
    assert len({stage.type for stage in plan}) == len(plan) == 24
    assert least_period(many).costs == least_period(one).costs


def test_devices_that_differ_in_one_link_are_told_apart() -> None:
    same = profile_problem(["a", "b"], [1, 1], np.ones((2, 4)), [1.0] * 5, 1.0)
    hop = same.hop_s.copy()
    hop[0, 1] *= 2
    assert len(counted(same)[0].types) == 1
    assert len(counted(replace(same, hop_s=hop))[0].types) == 2


def test_sixty_four_distinct_devices_have_a_plan_and_a_bound() -> None:
    """Speeds 1 to 64, more layers than devices: nothing is faster than all devices at once without a layer's grain."""
    speeds = np.arange(1.0, 65.0)
    names = [f"d{s:.0f}" for s in speeds]
    problem = profile_problem(names, [1] * 64, np.ones((64, 80)) / speeds[:, None], [0.0] * 81, 1.0)
    assert too_many(problem)
    point, least = bounded(problem)
    assert least <= point.costs.period_s <= 2 * least
    assert point.costs.period_s >= 80 / speeds.sum()


@pytest.mark.parametrize("seed", range(10))
def test_the_bounding_front_encloses_the_exact_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    problem = random_problem(rng, [1] * 6, 8, False, 0.1)
    points, pairs = bounded_front(problem)
    for exact in front(problem):
        assert below(pairs, exact)
        for point in points:
            assert not (
                point.costs.period_s < exact.costs.period_s * (1 - 1e-9)
                and point.costs.energy_j < exact.costs.energy_j * (1 - 1e-9)
            )


def below(pairs: Sequence[tuple[float, float]], point: Point) -> bool:
    """Whether one of the (period, energy) is no more than a point's in both."""
    costs = point.costs
    return any(s <= costs.period_s * (1 + 1e-9) and j <= costs.energy_j * (1 + 1e-9) for s, j in pairs)


# ------------------------------------------------------------------------------------------------- a limit of time


class Looks:
    """A clock that goes on by a second each time that somebody looks."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


@pytest.mark.parametrize("seed", range(12))
def test_a_front_that_ends_early_bounds_the_whole_one(seed: int) -> None:
    """Against enumeration, ended after any number of looks at a clock: what is found are points as good as any plan, or
    not of the front; every plan has one of the pairs below it; with more time there is no less."""
    rng = np.random.default_rng(seed)
    problem = random_problem(rng, [1, 1, 2], 5, False, idle=(0.0, 0.1, 1.0)[seed % 3])
    replicate = bool(seed & 1)
    points = [Point(plan, evaluate(problem, plan)) for plan in all_plans(problem, replicate)]
    points = [p for p in points if np.isfinite(p.costs.period_s + p.costs.energy_j)]
    whole = front(problem, replicate)
    ended_early = 0
    for looks in (1, 3, 5, 9, 15, 31, 10_000):
        known, pairs = front_until(Limit(looks, Looks()), problem, replicate)
        assert all(below(pairs, point) for point in points)
        ended_early += figures(known).shape != figures(whole).shape
    assert figures(known) == pytest.approx(figures(whole))
    assert ended_early > 0


@pytest.mark.parametrize("seed", range(12))
def test_no_plan_goes_below_the_floor(seed: int) -> None:
    """Against all plans, figure by figure."""
    rng = np.random.default_rng(seed)
    problem = random_problem(rng, [1, 2], 5, medium=bool(seed & 2), idle=0.5)
    least = floor(problem, replicate=bool(seed & 1))
    for plan in all_plans(problem, replicate=bool(seed & 1)):
        costs = evaluate(problem, plan)
        if not np.isfinite(costs.period_s + costs.energy_j):
            continue
        assert costs.period_s >= least.period_s * (1 - 1e-9)
        assert costs.energy_j >= least.energy_j * (1 - 1e-9)
        assert costs.latency_s >= least.latency_s * (1 - 1e-9)


def test_compiled_loops_end_when_the_limit_is_over() -> None:
    """Fourteen distinct devices, whose front with latency takes minutes: ended after a second, and at most one more for
    a loop that does not look at once."""
    rng = np.random.default_rng(0)
    front_labels(random_problem(rng, [1, 1], 3, False, idle=1.0))  # compiles the loops
    problem = random_problem(rng, [1] * 14, 12, False, idle=1.0)
    limit = Limit(1.0)
    with pytest.raises(OutOfTime):
        front_labels(problem, False, True, limit=limit)
    assert limit.left_s > -1.0


# ------------------------------------------------------------------------------------------------- objectives


@pytest.mark.parametrize(
    "asked", ["throughput", "energy", "latency", "peak", "edp", "throughput*energy^2", "latency*peak"]
)
def test_bounds_of_objectives_are_those_of_enumeration(asked: str) -> None:
    """All plans of ResNet-8 over two boards at its articulation points; equal where the objective is one figure, or of
    the front's two."""
    case = make_case(find_cluster("homogeneous_gpu_2"), find_workload("resnet8"), branches=False)
    aim, values = objective(asked), []
    for plan in all_plans(case.problem, False):
        costs = evaluate(case.problem, plan)
        if np.isfinite(costs.period_s):
            peak = max(int(case.needs[stage.type, stage.begin, stage.end]) for stage in plan)
            values.append(float(aim(Figures(costs.latency_s, costs.energy_j, peak, costs.throughput))))
    pairs = [(point.costs.period_s, point.costs.energy_j) for point in front(case.problem)]
    least = bound([case], [(0, pairs)], aim, named(asked, ()))
    assert least <= min(values) * (1 + 1e-9)
    if asked in ("throughput", "energy", "latency", "peak", "throughput*energy^2"):
        assert least == pytest.approx(min(values), rel=1e-9)


def test_targets_hold_for_the_best_split(tmp_path: Path) -> None:
    """A peak below what the fastest split takes, and a latency that only few stages keep: the best meets both, and one
    of the bytes that nothing keeps is refused with what is lacking."""
    cluster, network = find_cluster("homogeneous_gpu_2"), find_workload("vgg8")
    config = SplitConfig(cluster, network, 20, batches=(1,), replicate=False, out=tmp_path / "free")
    free = search_splits(config, quiet)
    slow = sorted(one.simulated.latency_s for one in free.found)
    for bounds in (
        (Target("latency", slow[len(slow) // 2]),),
        (Target("energy", 1.05 * min(one.simulated.energy_j for one in free.found)),),
    ):
        asked = replace(config, targets=bounds, out=tmp_path / bounds[0].objective)
        result = search_splits(asked, quiet)
        assert met(result.best.simulated, bounds)
        aim = within(objective("throughput"), bounds)
        assert float(aim(result.best.simulated)) <= min(float(aim(one.simulated)) for one in free.found)
    peak = min(one.simulated.peak_bytes for one in free.found)
    for_peak = replace(config, targets=(Target("peak", float(peak)),), out=tmp_path / "peak")
    assert search_splits(for_peak, quiet).best.simulated.peak_bytes <= peak
    with pytest.raises(InputError, match="every device lacks"):
        SplitSpace(replace(config, targets=(Target("peak", 1000.0),)))


# ------------------------------------------------------------------------------------------------- stages in tiles


@pytest.mark.parametrize("fusion", [False, True])
def test_a_stage_is_at_the_tile_programmes_best(fusion: bool) -> None:
    """The fastest way of a stage against the programme of the stage's layers by themselves; and of a stage that begins
    in the middle."""
    soc, network = find_soc("gemmini"), find_workload("digits_cnn")
    given = named_mapping("default", network, soc)
    device = TiledDevice(soc, network, given, ("tiles", "fusion") if fusion else ("tiles",))
    cuts = cuts_in_order(network)
    table = device.table(cuts, 1)
    n = len(network.layers)
    for begin, end in ((0, n), (1, n - 1)):
        space = TileSpace(soc, network, "latency", given, fusion=fusion)
        own = least_way(space, begin, end)
        assert table.seconds[begin, end] == pytest.approx(own, rel=1e-9)
        assert table.slower_j is not None and table.slower_s is not None
        energies = [table.joules[begin, end], *table.slower_j[begin, end]]
        least = least_way(TileSpace(soc, network, "energy", given, fusion=fusion), begin, end, energy=True)
        assert min(energies) <= least * (1 + WITHIN)


def least_way(space: TileSpace, begin: int, end: int, energy: bool = False) -> float:
    """The least seconds (or joules) of the layers from begin to end, by a shortest way over their sections."""
    best = [0.0] + [np.inf] * (end - begin)
    for first, last in sorted(space.spans(), key=lambda span: span[1]):
        if begin <= first and last < end and (own := space.options(first, last)) is not None:
            cost = best[first - begin] + float(own.points[:, 0 if energy else 1].min())
            best[last + 1 - begin] = min(best[last + 1 - begin], cost)
    return float(best[-1])


def test_a_chain_is_what_simulate_says_of_its_file(tmp_path: Path) -> None:
    """Stages, tiles and pieces inside of them: to the last digit. And no slower than splits at default tiles."""
    path, folder = tmp_path / "arrays.yaml", tmp_path / "run"
    path.write_text(ARRAYS.format(count=2))
    words = [str(path), "digits_cnn", "--inferences", "50", "-q"]
    assert main(["search", *words, "--space", "splits+tiles+fusion", "--out", str(folder)]) == 0
    content = json.loads((folder / "result.json").read_text())
    assert content["space"] == "splits+tiles+fusion" and content["gap"] >= 0
    found = {one["name"]: one for one in content["points"] + content["known"]}
    best = found[content["best"]]
    for point in (best, found["point_0"], found["one_array"]):
        file = folder / point["mapping"]
        assert main(["simulate", *words, "--mapping", str(file), "--json", str(tmp_path / "r.json")]) == 0
        again = json.loads((tmp_path / "r.json").read_text())
        assert again["stages"] == point["about"]["stages"]
        assert again["throughput"] == point["simulated"]["throughput"]
        assert again["energy_j"] == point["simulated"]["energy_j"]
    config = SplitConfig(load_cluster(path), find_workload("digits_cnn"), 50, out=tmp_path / "plain")
    plain = search_splits(config, quiet)
    assert best["simulated"]["throughput"] >= plain.best.simulated.throughput
