"""Which devices of a large cluster a search of splits can leave out: against all plans, and against all devices."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from split_problems import all_plans, random_problem

from cosoc.search import split_costs
from cosoc.search.exact.splits import Point, merged
from cosoc.search.spaces.split_space import SplitConfig, search_splits
from cosoc.search.spaces.splits import Problem, evaluate
from cosoc.search.split_devices import needed
from cosoc.sim.files.catalog import find_cluster
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.model.cluster import Cluster, Device


def alike(seed: int) -> Problem:
    """Seven single devices on one switch, 3 stages at most; most are as the one before them or slower."""
    rng = np.random.default_rng(seed)
    problem = random_problem(rng, [1] * 7, 4, medium=False, idle=1.0)
    seconds, joules, idle_w = problem.occupancy_s, problem.busy_j, problem.idle_w
    for t in np.flatnonzero(rng.random(6) < 0.8) + 1:
        seconds[t] = seconds[t - 1] + rng.integers(0, 2, seconds[t].shape)
        joules[t], idle_w[t] = joules[t - 1], idle_w[t - 1] + rng.integers(0, 2)
    hop = np.broadcast_to(rng.integers(1, 9, 4).astype(float), (7, 7, 4)).copy()
    return replace(problem, hop_s=hop, hop_j=hop / 2, delay_s=hop + 1)


def front(problem: Problem, types: list[int]) -> set[tuple[float, float, float]]:
    """What no other plan beats in period, energy and latency, of all that use these types alone; by enumeration."""
    plans = (plan for plan in all_plans(problem, replicate=False) if {stage.type for stage in plan} <= set(types))
    points = [Point(plan, evaluate(problem, plan)) for plan in plans]
    finite = [point for point in points if np.isfinite(point.costs.period_s + point.costs.energy_j)]
    return {(p.costs.period_s, p.costs.energy_j, p.costs.latency_s) for p in merged(finite, latency=True)}


def test_no_front_needs_a_device_that_is_left_out() -> None:
    """By enumeration of all plans: the front with latency is the same, and in half of the cases or more somebody is
    left out."""
    left_out = 0
    for seed in range(12):
        problem = alike(seed)
        rows = [np.concatenate([problem.occupancy_s[t].ravel(), problem.busy_j[t].ravel(), [problem.idle_w[t]]])
                for t in range(7)]  # fmt: skip
        kept = needed(np.stack(rows), ["switch"] * 7, problem.counts, most=3)
        assert front(problem, kept) == front(problem, list(range(7)))
        left_out += len(kept) < 7
    assert left_out >= 6


def test_devices_are_compared_within_their_group_and_counted() -> None:
    """By hand: plans of two devices. Of one group, a type of two devices takes the places of all that are slower; one
    of one device leaves room for the next; the slowest of another group stays."""
    seconds = np.array([[1.0], [2.0], [3.0], [9.0]])
    assert needed(seconds, "aaab", (1, 1, 1, 1), most=2) == [0, 1, 3]
    assert needed(seconds, "aaab", (2, 1, 1, 1), most=2) == [0, 3]
    assert needed(np.array([[np.inf, 1.0], [np.inf, 1.0], [2.0, 2.0]]), "aaa", (1, 1, 1), most=1) == [0, 2]


def fleet(n: int) -> Cluster:
    """So many boards of three kinds on a fast switch, so that a small network is worth splitting; each takes longer
    over a message than the one before."""
    base = find_cluster("donna_hetero")
    socs = ("jetson_nano", "rpi4", "atom_e3845")
    devices = {f"d{i}": Device(soc=socs[i % 3], message_ns=100 + 10 * i) for i in range(n)}
    fast = {"between": tuple(devices), "bytes_per_s": 10**10, "message_ns": 0}
    links = {name: link.model_copy(update=fast) for name, link in base.links.items()}
    return base.model_copy(update={"name": f"fleet_{n}", "devices": devices, "links": links})


def test_a_search_finds_the_same_without_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 18 boards, with and without those that nothing needs: the same bound, and a best split as fast."""
    found = []
    for name in ("few", "all"):
        config = SplitConfig(
            fleet(18), find_workload("digits_cnn"), 40, batches=(1,), replicate=False, latency=False,
            out=tmp_path / name,
        )  # fmt: skip
        result = search_splits(config, lambda done, total, what: None)
        assert result.optimum is not None
        assert len(result.best.about["stages"]) > 1
        found.append((result.optimum.bound, result.best.simulated.throughput))
        assert (result.about["devices_left_out"] > 0) == (name == "few")
        monkeypatch.setattr(split_costs, "_prunable", lambda cluster, n_cuts: False)
    assert found[0] == found[1]
