"""Objectives by name, and products of their powers."""

from __future__ import annotations

import pytest

from cosoc.sim.errors import InputError
from cosoc.sim.figures import Figures, objective

FIGURES = Figures(latency_s=0.5, energy_j=3.0, peak_bytes=7, throughput=4.0)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("latency", 0.5), ("peak", 7), ("edp", 1.5), ("throughput", 0.25), ("latency^2", 0.25),
        ("latency*energy^2", 4.5), (" energy * throughput^0.5 ", 1.5),
    ],
)  # fmt: skip
def test_an_objective_is_a_product_of_powers(text: str, value: float) -> None:
    assert objective(text)(FIGURES) == value


@pytest.mark.parametrize("text", ["", "latncy", "latency^x", "latency^0", "latency**2", "energy*area", "latency^inf"])
def test_what_is_no_objective_is_refused_by_name(text: str) -> None:
    with pytest.raises(InputError, match=r"found '.*'; latency, energy, edp, peak, throughput are needed"):
        objective(text)
