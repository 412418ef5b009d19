"""Tiles chosen once: the same as chosen anew, on random shares, and the cheapest of all that were looked at."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest

from cosoc.search.oracle import Oracle
from cosoc.search.sampling import random_shares
from cosoc.sim.cores.roofline import Roofline
from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.lower.emit import KnownSteps, lower, lowered
from cosoc.sim.machine.program import digest
from cosoc.sim.model.mapping import RUNTIMES, Extent, LayerPlan, Mapping, Part, Runtime
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.tiles import tiled
from cosoc.sim.model.workload import INPUT, Layer, Workload
from cosoc.sim.movers.dma_terms import spans
from cosoc.sim.simulate import figures
from cosoc.sim.tiler import (
    EVERY,
    MOST_TILES,
    TilingCache,
    _too_many,
    best_tiling,
    candidates,
    channel_tiles,
    cuts,
    fits,
    homes_of,
    kept,
    placed,
    planned_ticks,
    tile_bytes,
)

CASES = (("diana", "resnet8"), ("darkside", "digits_cnn"), ("gap9", "dscnn"), ("hetero", "resnet8"))


@cache
def case(chip: str, network: str) -> tuple[SoC, Workload]:
    return find_soc(chip), find_workload(network)


def random_mapping(soc: SoC, network: Workload, rng: np.random.Generator, runtime: Runtime, empty: bool) -> Mapping:
    """Shares as a search makes them, no tiles. empty: with cores of 0 channels among the parts."""
    bias = rng.dirichlet(np.ones(len(soc.cores))) + 1e-3
    shares = {layer.name: random_shares(layer, soc, rng, bias) for layer in network if layer.op == "conv"}
    plans = {
        name: LayerPlan(tuple(Part(core, int(k)) for core, k in own.items() if k or empty))
        for name, own in shares.items()
    }
    return Mapping("random", runtime, plans)


@pytest.mark.parametrize(("chip", "network"), CASES)
def test_what_is_remembered_is_what_is_found_anew(chip: str, network: str) -> None:
    """Programs and figures of one oracle over many mappings, against those of mappings simulated from nothing."""
    (soc, workload), rng = case(chip, network), np.random.default_rng(0)
    oracle, tilings, steps, hits = Oracle(soc, workload), TilingCache(), KnownSteps(), 0
    for turn in range(5):
        mapping = random_mapping(soc, workload, rng, RUNTIMES[turn % 3 > 0], empty=turn == 4)
        known = len(tilings.plans)
        at = placed(mapping, workload, soc, tilings)
        assert digest(lowered(at, known=steps)) == digest(lower(workload, mapping, soc))
        assert oracle.simulate(mapping) == figures(soc, workload, mapping)
        hits += len(tilings.plans) - known < len(workload.layers)
    assert hits  # else nothing was remembered, and nothing tested


@pytest.mark.parametrize(("chip", "network"), CASES)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_best_tiling_is_the_first_of_the_cheapest(chip: str, network: str, runtime: Runtime) -> None:
    """All candidates priced one by one, by the same closed form on whole numbers in place of arrays."""
    (soc, workload), rng = case(chip, network), np.random.default_rng(1)
    mapping = random_mapping(soc, workload, rng, runtime, empty=True)
    homes, several = homes_of(workload, placed(mapping, workload, soc).mapping, soc), 0
    for layer in [layer for layer in workload if layer.op == "conv"][::3]:
        plan = mapping.layers[layer.name]
        every = list(candidates(layer, plan, soc, runtime, homes))
        ticks = [planned_ticks(layer, one, soc, runtime, homes) for one in every]
        assert best_tiling(layer, plan, soc, runtime, homes) == every[ticks.index(min(ticks))]
        several += len(set(ticks)) > 1
    assert several


def test_a_layer_that_reads_from_elsewhere_is_another_layer() -> None:
    """Three equal convolutions and a fourth of fewer channels, in a main memory of 40 kB: the first and third read what
    does not fit there, the second writes it, so that there are three ways to cut them."""
    soc = find_soc("diana", {"memories.l2.size_bytes": "105536"})
    area = (16, 16, 16, 16)
    chain = [Layer("a", "conv", (INPUT,), 64, 64, *area, 3, 3, 1, 1, 1, 1)]
    chain += [replace(chain[0], name=name, inputs=(before,)) for name, before in (("b", "a"), ("c", "b"))]
    network = Workload("chain", (64, 16, 16), (*chain, replace(chain[0], name="d", inputs=("c",), k=8)), ("d",))
    cache = TilingCache()
    homes = placed(Mapping("m", "overlapped"), network, soc, cache).homes
    ends = [(homes.inputs(layer), homes.output(layer)) for layer in chain]
    assert ends == [("flash", "l2"), ("l2", "flash"), ("flash", "l2")]
    assert len(cache.plans) == 3


def test_cores_that_ask_what_a_tile_is_are_asked_one_by_one() -> None:
    """A kernel on one pixel is another class than one on a plane: which, no array of tiles can say."""
    assert not Roofline.BY_ARRAYS
    soc, workload = case("rpi4", "resnet8")
    assert placed(Mapping("m", "overlapped"), workload, soc).mapping.layers


@pytest.mark.parametrize("chip", ["diana", "darkside", "gap9", "hetero", "isaac"])
def test_cores_that_take_arrays_give_what_each_tile_gives(chip: str) -> None:
    from cosoc.sim import exact
    from cosoc.sim.model.tiles import make_tile

    (soc, _), rng = case(chip, "resnet8"), np.random.default_rng(2)
    layer = Layer("conv", "conv", (INPUT,), 64, 16, 16, 16, 32, 32, 3, 3, 2, 2, 1, 1)
    forms = layer, replace(layer, c=64, groups=64), replace(layer, op="add", c=64, inputs=("a", "b"), fy=1, fx=1)
    k, oy, ox = rng.integers(1, (65, 17, 17), (20, 3)).T
    asked = 0
    for core in (core for core in soc.cores.values() if core.BY_ARRAYS):
        for own in forms:
            if core.fits(make_tile(own, own.k, own.oy, own.ox)):
                continue
            many = make_tile(own, k, oy, ox)
            each = [make_tile(own, int(a), int(b), int(c)) for a, b, c in zip(k, oy, ox, strict=True)]
            for figure in (core.cycles, core.energy_pj, core.feed_bytes, core.stream_bytes, core.weight_bytes):
                found = np.broadcast_to(figure(many, exact), len(k))
                assert found.tolist() == [figure(one, exact) for one in each], (core.model, figure.__name__)
            asked += 1
    assert asked >= 2


@pytest.mark.parametrize(("k", "buffers"), [(64, 1), (16, 2)])
def test_tiles_by_channels_alone_are_double_buffered_too(k: int, buffers: int) -> None:
    layer = Layer("l", "conv", (INPUT,), 64, 16, 8, 8, 8, 8)
    net, soc = Workload("one", (16, 8, 8), (layer,), ("l",)), find_soc("diana")
    plan = LayerPlan((Part("digital", 64, Extent(k, 16, 1, 1, 8, 8)),))
    homes = homes_of(net, Mapping("m", "overlapped", {"l": plan}), soc)
    assert tile_bytes(layer, plan, soc, "overlapped", homes)["l1"].buffers == buffers


def test_either_operand_may_stay_where_channels_are_cut() -> None:
    """Weights stay while pixels pass, or inputs while channels do: with one tile of channels there is no difference."""
    layer = Layer("l", "conv", (INPUT,), 512, 64, 64, 64, 64, 64, 3, 3, pad_y=1, pad_x=1)
    net, soc = Workload("one", (64, 64, 64), (layer,), ("l",)), find_soc("diana")
    plan = LayerPlan((Part("digital", 512),))
    homes = homes_of(net, Mapping("m", "overlapped", {"l": plan}), soc)
    orders: dict[bool, set[object]] = {True: set(), False: set()}
    for found in candidates(layer, plan, soc, "overlapped", homes):
        orders[found.tile.k < 512].add(found.order)
    assert len(orders[True]) == 2 and len(orders[False]) <= 1


def test_each_part_of_a_layer_has_tiles_that_can_be_counted() -> None:
    """The first of two parts has no channels; the second has a tile for each of 2^24 pixels."""
    layer, soc = Layer("big", "conv", (INPUT,), 16, 16, 4096, 4096, 4096, 4096), find_soc("diana")
    one = Extent(16, 16, 1, 1, 1, 1)
    plan = LayerPlan((Part("digital", 0, one), Part("analog", 16, one)))
    (said,) = _too_many(layer, plan, soc)
    assert said.startswith(f"layer big: {4096 * 4096} tiles on analog")


def test_what_is_not_kept_leaves_its_room_to_nobody() -> None:
    """Of 10 bytes half are for weights that stay where not all fit: two of 6 bytes do not, one of 5 beside one of 6
    does, and all of 10 do."""
    found = kept(np.array([[6, 6], [6, 5], [5, 5], [2, 9]]), 10)
    assert found.tolist() == [[False, False], [False, True], [True, True], [True, False]]


def test_no_tile_is_an_error_that_names_the_buffer() -> None:
    soc, workload = find_soc("diana", {"memories.l1.size_bytes": "6200"}), case("diana", "resnet8")[1]
    with pytest.raises(InputError, match="layer conv1: tiles need"):
        placed(Mapping("m", "overlapped"), workload, soc)


@pytest.mark.parametrize("l1_bytes", [10_000, 16_384, 24_576, 32_768])
def test_a_layer_that_fits_in_any_tile_is_tiled(l1_bytes: int) -> None:
    """Pieces of rows are aligned one by one, and whole planes are one piece: under one pixel lie three pieces of 32
    bytes of each of 256 channels, 24,576 bytes, and all 4 x 4 pixels of them are 4,096. Against every tile of so many
    channels, rows and columns with all input channels: where one fits, the best is as good."""
    soc = find_soc("diana", {"memories.l1.size_bytes": str(l1_bytes)})
    for size, channels in ((4, 256), (8, 128), (16, 32)):
        layer = Layer(
            "conv", "conv", (INPUT,), k=channels, c=channels, oy=size, ox=size, iy=size, ix=size, fy=3, fx=3, pad_y=1,
            pad_x=1,
        )  # fmt: skip
        workload = Workload("one", (channels, size, size), (layer,), ("conv",))
        plan = LayerPlan((Part("digital", channels),))
        homes = homes_of(workload, Mapping("m", "overlapped", {"conv": plan}), soc)
        tiles = itertools.product(channel_tiles(channels, 16), cuts(size), cuts(size))
        legal = [t for t in tiles if fits(layer, tiled(layer, plan, soc, (t[0],), *t[1:]), soc, "overlapped", homes)]
        if not legal:
            with pytest.raises(InputError, match="tiles need"):
                best_tiling(layer, tiled(layer, plan, soc, (1,), 1, 1), soc, "overlapped", homes)
            continue
        best = best_tiling(layer, plan, soc, "overlapped", homes)
        ticks = [
            planned_ticks(layer, tiled(layer, plan, soc, (k,), y, x), soc, "overlapped", homes) for k, y, x in legal
        ]
        assert planned_ticks(layer, best, soc, "overlapped", homes) <= min(ticks)


# -- very large layers -------------------------------------------------------------------------------------------------


def test_stretches_of_equal_tiles_are_the_tiles() -> None:
    """Against windows laid one by one: what lies under a tile's outputs, as far as there are inputs."""
    g = np.random.default_rng(7)
    for _ in range(3000):
        outputs, tile, inputs, reach, stride, pad = (
            int(g.integers(low, high)) for low, high in ((1, 50), (1, 55), (1, 160), (1, 16), (1, 4), (0, 9))
        )
        told = [(out, inp) for out, inp, n in spans(outputs, tile, inputs, reach, stride, pad) for _ in range(n)]
        if tile >= outputs:
            assert told == [(outputs, inputs)]
            continue
        laid = []
        for first in range(0, outputs, tile):
            last = min(first + tile, outputs) - 1
            begin, end = first * stride - pad, last * stride - pad + reach
            laid.append((last + 1 - first, max(min(end, inputs) - max(begin, 0), 0)))
        assert told == laid


@pytest.mark.parametrize("size", [1, 2, 97, 4096, 60_000])
def test_cuts_of_a_dimension_are_all_that_there_are(size: int) -> None:
    """By trying every number of parts: the tile that makes so many, and no smaller one does."""
    assert set(cuts(size)) == {-(-size // parts) for parts in range(1, size + 1)}


def test_cuts_of_a_huge_dimension_are_close() -> None:
    """A cut is at most a 128th smaller than the one before, but for rounding, and there are few of them."""
    for size in (1 << 17, 1 << 19, 1 << 24):
        found = cuts(size)
        assert (found[0], found[-1]) == (size, 1) and len(found) < 1500
        steps = [(a, b) for a, b in pairwise(found) if a <= size // EVERY]
        assert all(b >= a - a / EVERY - 2 for a, b in steps)  # both are rounded up to whole elements


@pytest.mark.parametrize(
    ("chip", "shape", "filters"),
    [
        ("diana", (1, 1, 1 << 19, 1 << 19), 1),
        ("gemmini", (1, 1, 1 << 19, 1 << 19), 1),
        ("gemmini", (64, 64, 1 << 16, 1 << 16), 3),
    ],
)
def test_a_layer_of_2_38_elements_is_refused_at_its_bound(chip: str, shape: tuple[int, ...], filters: int) -> None:
    """Where the memory for tensors has room for it, its tiles are counted, and are too many."""
    far = {"diana": "flash", "gemmini": "dram"}[chip]
    soc = find_soc(chip, {f"memories.{far}.size_bytes": str(1 << 44)})
    k, c, oy, ox = shape
    layer = Layer(
        "big", "conv", (INPUT,), k, c, oy, ox, oy, ox, filters, filters, pad_y=filters // 2, pad_x=filters // 2
    )
    workload = Workload("big", (c, oy, ox), (layer,), ("big",))
    with pytest.raises(InputError, match=r"layer big: \d+ tiles on .*; a layer may have 2\^21") as refused:
        placed(Mapping("default", "overlapped"), workload, soc)
    said = re.search(r"(\d+) tiles on (\w+), of n 1, k (\d+), c (\d+), .* oy (\d+), ox (\d+);", str(refused.value))
    assert said
    n, tk, tc, ty, tx = (int(said[i]) for i in (1, 3, 4, 5, 6))
    assert n == -(-k // tk) * -(-c // tc) * -(-oy // ty) * -(-ox // tx) > MOST_TILES
