"""Which factors of the estimate a chip has."""

from __future__ import annotations

from cosoc.sim.files.catalog import find_soc
from cosoc.sim.theta import FACTORS, factors_of


def test_factors_are_those_of_what_brings_operands() -> None:
    """A DMA and jobs go in order, a cached mover decouples loads from execution; hetero has a core behind either."""
    kinds = {name: {FACTORS[one].of for one in factors_of(find_soc(name))} for name in ("diana", "gemmini", "hetero")}
    assert kinds == {"diana": {"in-order"}, "gemmini": {"decoupled"}, "hetero": {"in-order", "decoupled"}}
    for factor in FACTORS.values():
        assert factor.low <= factor.default <= factor.high
