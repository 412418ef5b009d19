"""Chains of spaces and targets: what may be said, and what it means."""

from __future__ import annotations

import pytest

from cosoc.search.spaces.chain import CHAINS, PARTS, chain
from cosoc.search.targets import Target, met, target, targets, within
from cosoc.sim.errors import InputError
from cosoc.sim.figures import OBJECTIVES, Figures, objective

# 2 ms, 3 mJ, 96 KB, 500 inferences a second
COSTS = Figures(2e-3, 3e-3, 96 * 1024, 500.0)


@pytest.mark.parametrize("parts", CHAINS)
def test_every_chain_is_read_as_it_is_written(parts: tuple[str, ...]) -> None:
    """Each stands in the order of its parts, outermost first."""
    assert chain("+".join(parts)) == parts
    assert sorted(parts, key=list(PARTS).index) == list(parts)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("channels+tile", "found 'tile'; the parts of a chain are splits, channels, operators, tiles, fusion"),
        ("", "found ''"),
        ("tiles+channels", "channels stands behind tiles; each stands once, in the order channels[+]tiles"),
        ("tiles+tiles", "tiles stands behind tiles; each stands once, in the order tiles"),
        ("channels+operators", "both say which core computes a channel; there is channels, channels[+]tiles"),
        ("fusion", "fusion stands behind tiles"),
        ("splits+operators+tiles", "splits choose none"),
    ],
)
def test_what_means_nothing_is_refused_with_what_there_is(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        chain(text)


@pytest.mark.parametrize(
    ("text", "most"),
    [
        ("latency=5ms", 5e-3),
        ("energy=2.5uJ", 2.5e-6),
        ("edp=6mJms", 6e-6),
        ("peak=256KB", 256 * 1024),
        ("throughput=30", 1 / 30),
        ("throughput=30/s", 1 / 30),
    ],
)
def test_a_target_is_in_si_units_and_says_itself_again(text: str, most: float) -> None:
    """A throughput is bounded from below: the seconds between inferences from above."""
    found = target(text)
    assert found.most == pytest.approx(most, rel=1e-12)
    assert target(str(found)).most == pytest.approx(found.most, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("latency=5", "found '5'; a positive number of s, ms, us, ns is needed"),
        ("latency=-5ms", "found '-5ms'"),
        ("peak=1Gb", "found '1Gb'; a positive number of B, KB"),
        ("throughput=0", "a positive number a second"),
        ("latency", "NAME=VALUE is needed"),
        ("accuracy=1", "found 'accuracy'"),
    ],
)
def test_what_is_no_target_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        target(text)


def test_one_objective_has_one_target() -> None:
    assert targets(["latency=5ms"], "256KB") == (Target("latency", 5e-3), Target("peak", 2**18))
    with pytest.raises(InputError, match="two targets bound peak"):
        targets(["peak=1MB"], "256KB")


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_target_is_met_up_to_its_value(name: str) -> None:
    """By itself, and one part in a thousand below: at what the figures have it is met, below that it is not."""
    own = Target(name, 1.0).reached(COSTS)
    assert met(COSTS, [own])
    assert not met(COSTS, [Target(name, own.most * 0.999)])


def test_with_targets_what_meets_them_comes_first_and_what_misses_them_least_next() -> None:
    """Of the energies of three mappings under a bound of 2 ms: the frugal one that is too slow comes behind the hungry
    one that is not, and before the one that is slower still."""
    aim = within(objective("energy"), [Target("latency", 2e-3)])
    mappings = [Figures(1e-3, 9.0, 1, 1.0), Figures(2.1e-3, 1.0, 1, 1.0), Figures(4e-3, 0.5, 1, 1.0)]
    assert sorted(mappings, key=aim) == mappings
    assert aim(mappings[0]) == 9.0
