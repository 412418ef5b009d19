"""The roofline that `benchmarks/worth.py` compares with: by hand from the figures of SoC files."""

from __future__ import annotations

import pytest

from cosoc.search.baselines.roofline import layer_ticks
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.model.mapping import Extent, LayerPlan, Part
from cosoc.sim.model.workload import INPUT, Layer


def conv(c: int, k: int, edge: int) -> Layer:
    return Layer("conv", "conv", (INPUT,), k, c, edge, edge, edge, edge, 3, 3, 1, 1, 1, 1)


def test_arithmetic_or_bytes_whichever_takes_longer() -> None:
    """Of an endless layer DIANA's digital array spends 9 x 512 cycles on a block of 16 x 16 outputs, and 2 x 3 x 512 on
    refills and 23 to start; a layer on one pixel is its weights, 64 x 64 x 9 and 64 biases of 4 bytes, at 16 bytes a
    cycle."""
    soc, plan = find_soc("diana"), LayerPlan((Part("digital", 64),))
    block = 512 * 9 + 2 * 512 * 3 + 23
    large = conv(64, 64, 32)
    assert layer_ticks(large, plan, soc, "overlapped") == pytest.approx(large.macs * block / (256 * 9 * 512))
    moved = 64 * 64 * 9 + 64 * 4 + 64 + 64
    assert layer_ticks(conv(64, 64, 1), plan, soc, "overlapped") == pytest.approx(moved / 16)


def test_cores_run_at_once_but_in_the_serial_runtime() -> None:
    """Two cores with half of the channels each: the slower one counts, or both and the bytes."""
    soc, layer = find_soc("diana"), conv(64, 64, 32)
    both = LayerPlan((Part("digital", 32), Part("analog", 32)))
    digital, analog = (
        layer_ticks(layer, LayerPlan((Part(core, 32),)), soc, "overlapped") for core in ("digital", "analog")
    )
    assert layer_ticks(layer, both, soc, "overlapped") == max(digital, analog)
    assert layer_ticks(layer, both, soc, "serial") > digital + analog


def test_tiles_behind_caches_bring_operands_again() -> None:
    """On Gemmini, halves of the channels bring the inputs twice, halves of the rows the weights; a line of 128
    bytes comes every 20 cycles."""
    soc, layer = find_soc("gemmini"), conv(256, 256, 4)

    def ticks(k: int, oy: int) -> float:
        part = Part("gemmini", 256, Extent(k, 256, 3, 3, oy, 4))
        return layer_ticks(layer, LayerPlan((part,), tuple("nkcyx")), soc, "overlapped")

    pixels, weights = 256 * 16, 256 * 256 * 9
    assert ticks(256, 4) == pytest.approx((2 * pixels + weights) * 20 / 128)
    assert ticks(128, 4) - ticks(256, 4) == pytest.approx(pixels * 20 / 128)
    assert ticks(256, 2) - ticks(256, 4) == pytest.approx(weights * 20 / 128)
