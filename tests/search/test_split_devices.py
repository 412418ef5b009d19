"""Which devices of a large cluster a search of splits can leave out: against all plans, and against all devices."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from split_problems import all_plans, random_problem

from cosoc.search import split_costs, split_devices
from cosoc.search.exact.splits import Point, merged
from cosoc.search.result import Result
from cosoc.search.spaces.split_space import SplitConfig, search_splits
from cosoc.search.spaces.splits import Problem, evaluate
from cosoc.search.split_devices import needed, within
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


def test_plans_of_few_devices_are_as_near_as_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """By enumeration, five of seven devices told apart where more could be needed: the least period, and for every
    plan one of the kept devices that is in period, energy and latency no more above it than stated (power times period
    twice); in some cases with nothing stated for the period, in others not."""
    monkeypatch.setattr(split_devices, "MOST_TYPES", 5)
    stated = []
    for seed in range(40):
        problem = alike(seed)
        power_w = np.random.default_rng(seed).integers(1, 5, 7).astype(float)  # the slower, the more or less of it
        problem = replace(problem, idle_w=power_w)
        behind = np.triu(np.ones((4, 4), dtype=bool), 1)
        spent = np.concatenate([problem.busy_j[:, behind], power_w[:, None]], axis=1)
        kept, (slower, above) = within(
            problem.occupancy_s[:, behind], spent, np.zeros((7, 1)), ["switch"] * 7, problem.counts, most=3
        )
        every, few = front(problem, list(range(7))), front(problem, kept)
        assert min(s for s, _, _ in few) <= (1 + slower) * min(s for s, _, _ in every) * (1 + 1e-9)
        for s, j, late in every:
            assert any(
                s2 <= (1 + above) * s * (1 + 1e-9) and j2 <= (1 + above) ** 2 * j * (1 + 1e-9)
                and late2 <= (1 + above) * late * (1 + 1e-9)
                for s2, j2, late2 in few
            )  # fmt: skip
        stated.append((slower, above))
    assert {above > 0 for _, above in stated} == {True, False}


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


def test_a_bound_holds_for_devices_that_were_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve boards of a kind, each with more power and less to do for a message than the next, so that a plan could
    need any: with all of them the least of period, and of energy, is no less than the bound with six, and so is what is
    found."""
    base = fleet(12)
    devices = {
        name: device.model_copy(update={"soc": "rpi4", "set": {"base_power_mw": str(4000 - 100 * i)}})
        for i, (name, device) in enumerate(base.devices.items())
    }
    cluster = base.model_copy(update={"devices": devices})

    def found(objective: str, out: str) -> Result:
        config = SplitConfig(
            cluster, find_workload("digits_cnn"), 40, batches=(1,), replicate=False, latency=False,
            objective=objective, out=tmp_path / out,
        )  # fmt: skip
        return search_splits(config, lambda done, total, what: None)

    for aim in ("throughput", "energy"):
        every = found(aim, f"all_{aim}")
        monkeypatch.setattr(split_costs, "MOST_STATES", 1)
        monkeypatch.setattr(split_devices, "MOST_TYPES", 6)
        few = found(aim, f"few_{aim}")
        monkeypatch.undo()
        assert few.about["devices_left_out"] > every.about["devices_left_out"] == 0
        assert every.optimum is not None and few.optimum is not None
        assert 0 < few.optimum.bound <= every.optimum.bound * (1 + 1e-9)
        best = every.best.estimated
        assert best is not None and few.optimum.bound <= every.value(best) * (1 + 1e-9)


def test_a_search_whose_time_is_over_says_so(tmp_path: Path) -> None:
    """In a millionth of a second: a best that is simulated, a bound below that of the whole search, and a sentence in
    table and result."""
    found = []
    for name, seconds in (("early", 1e-6), ("whole", 600.0)):
        config = SplitConfig(
            fleet(4), find_workload("digits_cnn"), 40, batches=(1, 2), out=tmp_path / name, time_budget_s=seconds
        )
        found.append(search_splits(config, lambda done, total, what: None))
    early, whole = found
    assert early.optimum is not None and whole.optimum is not None
    assert 0 < early.optimum.bound <= whole.optimum.bound
    assert whole.best.simulated.throughput >= early.best.simulated.throughput > 0
    assert "front" in early.about["unfinished"] and whole.about["unfinished"] == []
    assert "cut short after 1e-06 s" in str(early.table().caption)
    assert "cut short" not in str(whole.table().caption)
