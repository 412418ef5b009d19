"""Where the points of a front are, what of all that a search has visited is trained, and the cheapest by cost alone."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from cosoc.search.exact.shares import (
    Choices,
    Table,
    channel_choices,
    cheapest,
    counts_by,
    front,
    least,
    nearest,
    pure,
)
from cosoc.search.oracle import Oracle
from cosoc.search.spaces.shares import Counts, ShareCosts
from cosoc.search.training.points import Aim, Asked, Bound, Visited, next_bound, worth_repairing
from cosoc.sim.figures import Figures, objective
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.model.mapping import Runtime

DIANA, CNN = find_soc("diana"), find_workload("digits_cnn")
CHOICES = channel_choices(CNN, DIANA)
EVERY = [counts_by(dict(zip(CHOICES, options, strict=True))) for options in itertools.product(*CHOICES.values())]


# ------------------------------------------------------------------------------------------ by cost alone


def test_options_are_those_at_which_a_cost_can_change() -> None:
    """DIANA's digital core works in steps of 16 channels, its analog core in steps of 32: conv3's 32 channels go whole,
    half and half, or not at all; the 10 of the classifier are less than a step of either."""
    assert CHOICES["conv3",] == [
        {"digital": 32, "analog": 0}, {"digital": 16, "analog": 16}, {"digital": 0, "analog": 32},
    ]  # fmt: skip
    assert CHOICES["fc",] == [{"digital": 10, "analog": 0}, {"digital": 0, "analog": 10}]
    three = channel_choices(CNN, find_soc("agx_xavier_dla"))["conv3",]
    assert all(sum(option.values()) == 32 and sum(k > 0 for k in option.values()) <= 2 for option in three)
    assert nearest(CHOICES, {name: {"digital": sum(on.values())} for name, on in pure(CHOICES)[0].items()}) == EVERY[0]


@pytest.mark.parametrize("runtime", ["serial", "overlapped"])
@pytest.mark.parametrize("goal", ["latency", "energy", "edp"])
def test_the_cheapest_is_the_least_of_all(goal: str, runtime: Runtime) -> None:
    """By simulating each of the 36 ways to spread digits_cnn over DIANA's cores in steps."""
    oracle = Oracle(DIANA, CNN)
    costs, value = ShareCosts(CNN, DIANA, runtime, oracle=oracle), objective(goal)
    simulated = [float(value(costs.simulated(counts))) for counts in EVERY]
    assert len(EVERY) == 36
    found = cheapest(DIANA, CNN, goal, oracle, runtime)
    assert float(value(oracle.simulate(found))) == min(simulated) < max(simulated)


def test_of_equal_costs_the_preferred_option_stays() -> None:
    """Where nothing has a price, nothing leaves the first options."""
    assert least(CHOICES, lambda counts: 1.0) == (EVERY[0], 1.0)


def test_a_descent_leaves_a_valley_that_one_layer_alone_cannot() -> None:
    """A price that falls only if all layers move at once: the bases have all layers on one core."""

    def price(counts: Counts) -> float:
        moved = sum(on["analog"] == sum(on.values()) for on in counts.values())
        return 1.0 + 0.1 * moved if moved < len(CHOICES) else 0.5

    assert least(CHOICES, price)[1] == 0.5


def test_the_front_of_cost_and_loss_is_that_of_all_choices() -> None:
    """Random tables of four layers with up to four options: the best of all 108 sums under bounds and weights."""
    draws = np.random.default_rng(0)
    sizes = {"a": 3, "b": 4, "c": 3, "d": 3}
    options: Choices = {(name,): [{"x": i, "y": n - 1 - i} for i in range(n)] for name, n in sizes.items()}
    costs, losses = (
        Table(1.0, options, {(name,): draws.normal(size=n) for name, n in sizes.items()}) for _ in range(2)
    )
    found = front(costs, losses)
    every = list(itertools.product(*(range(n) for n in sizes.values())))

    def total(of: Table, choice: tuple[int, ...]) -> float:
        return 1.0 + float(sum(of.added[name,][i] for name, i in zip(sizes, choice, strict=True)))

    sums = {choice: (total(costs, choice), total(losses, choice)) for choice in every}
    assert len(every) == 108

    def of(counts: Counts) -> tuple[float, ...]:
        return sums[tuple(counts[name]["x"] for name in sizes)]

    for most in (min(cost for cost, _ in sums.values()), 0.0, 1.0, 5.0):
        assert of(found.within(most))[1] == pytest.approx(
            min(loss for cost, loss in sums.values() if cost <= most + 1e-9)
        )
    for strength in (0.0, 0.3, 1.0, 10.0):
        best = min(loss + strength * cost for cost, loss in sums.values())
        cost, loss = of(found.weighted(strength))
        assert loss + strength * cost == pytest.approx(best)
    assert of(costs.cheapest())[0] == pytest.approx(min(cost for cost, _ in sums.values()))


# ------------------------------------------------------------------------------------------ points


def test_points_lie_where_the_front_is_widest_open() -> None:
    """Ends at 4 and 12: first the middle. Then, accuracies being equal, the wider half; where one half has all of the
    difference in accuracy, that one. What lies between a point's cost and its bound is not asked for again."""
    low, high = Asked(4, 4, 0.5), Asked(12, 12, 0.9)
    assert next_bound([low, high]) == 8
    assert next_bound([low, high, Asked(8, 8, 0.9)]) == 6
    assert next_bound([low, high, Asked(8, 8, 0.5)]) == 10
    assert next_bound([low, high, Asked(8, 4.5, 0.7)]) == 10  # nothing was found between 4.5 and 8
    assert next_bound([low, Asked(12, 4, 0.5)]) is None


def figures(latency_s: float, energy_j: float = 1.0) -> Figures:
    return Figures(latency_s, energy_j, 1, 1 / latency_s)


def test_nothing_makes_up_for_a_bound() -> None:
    aim = Aim(
        objective("latency"), 2.0, 2.0, bounds=(Bound(objective("latency"), 1.0), Bound(objective("energy"), 1.0))
    )
    assert aim.simulated(figures(0.5, 0.8)) == 0.8 and aim.met(figures(1.0, 1.0)) and not aim.met(figures(0.5, 1.1))
    assert aim.worth(9.0, figures(1.0, 1.0)) < aim.worth(0.1, figures(1.1, 1.0)) < aim.worth(0.1, figures(1.2, 1.0))
    assert aim.next_strength(1.0, figures(2.0)) == 4.0 and aim.next_strength(1.0, figures(0.5, 0.5)) == 0.25
    weighed = Aim(objective("latency"), 2.0, 2.0, strength=3.0)
    assert weighed.worth(1.0, figures(1.0)) == 1.0 + 3.0 * 0.5 and weighed.next_strength(3.0, figures(9.0)) == 3.0


def test_what_is_repaired_is_not_dominated() -> None:
    """Loss and cost of six that were visited: the fifth is dominated by the second, the sixth by the third. Within a
    bound of 1 the most accurate count, beyond it the nearest."""

    def visited(loss: float, cost: float) -> Visited:
        return Visited({}, "gradient", loss, cost)

    every = [visited(1, 2.0), visited(2, 1.2), visited(3, 0.9), visited(4, 0.5), visited(3, 1.3), visited(3.5, 0.95)]
    bounded = Aim(objective("latency"), 1.0, 1.0, bounds=(Bound(objective("latency"), 1.0),))
    assert [(one.loss, one.cost) for one in worth_repairing(every, bounded)] == [(3, 0.9), (4, 0.5), (2, 1.2)]
    weighed = Aim(objective("latency"), 1.0, 1.0, strength=10.0)
    assert worth_repairing(every, weighed)[0] == every[3]
    assert worth_repairing(every, Aim(objective("latency"), 1.0, 1.0, strength=0.1))[0] == every[0]
