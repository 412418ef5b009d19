"""Schedules of two networks on two engines: timelines by hand, the optimum by brute force, and what is simulated."""

from __future__ import annotations

import itertools
import random

import pytest

from cosoc.search.exact.schedules import (
    ENGINES,
    Chain,
    Stretch,
    best,
    chain_of,
    choices,
    mapping_of,
    stretches,
    together_s,
)
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.simulate import simulate

NO_WAIT = dict.fromkeys(ENGINES, 0.0)


def test_a_timeline_by_hand() -> None:
    """Two engines, half of both at the memory, waits 2 and 4: slower by 1.5 and 2. The first ends at 3; by then the
    second has done 1.5 of its 4 seconds, and does 2.5 alone."""
    one, other = [Stretch("gpu", 2.0, 0.5)], [Stretch("dla", 4.0, 0.5)]
    assert together_s(one, other, {"gpu": 2.0, "dla": 4.0}) == pytest.approx(3.0 + 2.5)
    assert together_s(one, other, NO_WAIT) == pytest.approx(4.0)


def test_turns_on_one_engine() -> None:
    """2 and 5 seconds on one engine are 7; on one and then the other, the first second of each overlaps nothing."""
    assert together_s([Stretch("gpu", 2.0, 0.0)], [Stretch("gpu", 5.0, 0.0)], NO_WAIT) == pytest.approx(7.0)


def random_chain(seed: int, n: int) -> Chain:
    rng = random.Random(seed)
    workload = find_workload("resnet8")
    groups = tuple((layer.name,) for layer in workload.layers[:n])
    seconds = {engine: tuple(rng.uniform(0.1, 2.0) for _ in groups) for engine in ENGINES}
    held = {engine: tuple(rng.random() * s for s in seconds[engine]) for engine in ENGINES}
    return Chain(workload, groups, seconds, held, dict.fromkeys(ENGINES, 0.1), {})


@pytest.mark.parametrize("seed", range(20))
def test_the_optimum_is_that_of_brute_force(seed: int) -> None:
    """Bounds leave out no better schedule: every pair of choices, each by its timeline; and the best five."""
    a, b = random_chain(seed, 4), random_chain(100 + seed, 3)
    wait = {"gpu": 1.5, "dla": 0.5}
    every = sorted(
        together_s(stretches(a, one), stretches(b, other), wait)
        for one, other in itertools.product(choices(a, 2), choices(b, 2))
    )
    found = best(a, b, wait, 2, keep=5)
    assert [schedule.seconds for schedule in found] == pytest.approx(every[:5])
    assert [schedule.seconds for schedule in best(a, b, wait, 2)] == pytest.approx(every[:1])


@pytest.mark.parametrize(("handovers", "n"), [(0, 2), (1, 2 + 2 * 5), (2, 2 + 2 * 5 + 2 * 10)])
def test_choices_are_all_with_few_handovers(handovers: int, n: int) -> None:
    """Six groups: two without, 5 places for one hand-over, 10 pairs of places for two, and either engine first."""
    found = choices(random_chain(1, 6), handovers)
    assert len(found) == len(set(found)) == n


def test_costs_of_one_network_are_those_of_its_run() -> None:
    """One network by a choice with a hand-over there and back: the sum of its stretches is what is simulated, but for
    fixed costs that meet at the seams."""
    soc = find_soc("agx_xavier_dla")
    chain = chain_of(find_workload("resnet18"), soc, 6)
    choice = ("gpu", "gpu", "dla", "dla", "gpu", "gpu")
    assert len(chain.groups) == len(choice)
    seconds = simulate(soc, chain.workload, mapping_of(chain, choice)).seconds
    assert sum(part.seconds for part in stretches(chain, choice)) == pytest.approx(seconds, rel=0.01)
