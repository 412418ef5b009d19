"""Darkside's core formulas give tensors the values that they give integers, and a slope that is a channel's worth."""

from dataclasses import replace

import pytest
import torch

from cosoc.search import relax
from cosoc.sim import exact
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.model.workload import Tile

SOC = find_soc("darkside")
TILES = (
    Tile("conv", 1, 40, 7, 9, 3, 3),
    Tile("conv", 1, 40, 7, 9),
    Tile("conv", 1, 1, 7, 9, 3, 3, depthwise=True, groups=128),
    Tile("conv", 1, 64, 1, 1),
    Tile("add", 1, 1, 7, 9, operands=2),
)


@pytest.mark.parametrize("name", sorted(set(SOC.cores) - {SOC.host}))
def test_every_core_costs_the_same_in_every_number_type(name: str) -> None:
    core = SOC.cores[name]
    runs = [tile for tile in TILES if not core.fits(tile)]
    assert runs
    for tile in runs:
        for k in (0, 1, 4, 15, 16, 17, 128):
            soft = torch.tensor(float(k), dtype=torch.float64)
            for cost in (core.cycles, core.feed_bytes, core.weight_bytes):
                whole = cost(replace(tile, k=k), exact)
                assert float(cost(replace(tile, k=soft), relax)) == whole


def test_slope_of_the_engine_is_a_sixteenth_of_a_pass() -> None:
    core, tile = SOC.cores["depthwise_engine"], TILES[2]
    k = torch.tensor(40.0, dtype=torch.float64, requires_grad=True)
    soft = core.feed_bytes(replace(tile, k=k), relax)
    (slope,) = torch.autograd.grad(soft, k)
    assert float(slope) == pytest.approx((9 + 9 * 9 + 4 * 9 * 7) * 16 / 16)  # 16 bytes a cycle, one pass in 16
