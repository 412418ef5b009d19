"""Is the closed form what a walk over the tiles gives, for single layers and for fused groups?"""

from __future__ import annotations

import itertools
import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch

from cosoc.search import relax
from cosoc.sim import exact
from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.machine import engine_fast
from cosoc.sim.model.mapping import Extent, LayerPlan, Part
from cosoc.sim.model.workload import INPUT, Layer, Workload, batched
from cosoc.sim.movers.cached_terms import (
    IS,
    NEST_DIMS,
    ORDERS,
    OS,
    WS,
    CachedTerms,
    Flow,
    Machine,
    Shape,
    Tiles,
    _over,
    _sets,
    cycles,
    energy_pj,
    estimate_nest,
    every_tile,
    nest_order,
    reloads,
    rows_needed,
    terms,
)
from cosoc.sim.movers.fused_steps import chain, group_cost, reach, why_not
from cosoc.sim.movers.measured import Nest, lower_nest, walk_nest
from cosoc.sim.movers.tile_table import WRAPPED, plain_table
from cosoc.sim.movers.touches import BEATS, EX_PAIRS, EX_ROWS, REQUESTS, _miss
from cosoc.sim.theta import Theta

SOC = find_soc(
    "gemmini_firesim", {"memories.scratchpad.size_bytes": "262144", "memories.accumulator.size_bytes": "65536"}
)
MACHINE = Machine.of(SOC)
CONV = Layer("conv", "conv", ("input",), 32, 48, oy=12, ox=12, iy=12, ix=12, fy=3, fx=3, pad_y=1, pad_x=1)
STRIDED = Layer(
    "s", "conv", ("input",), 24, 20, oy=7, ox=7, iy=14, ix=14, fy=5, fx=5, stride_y=2, stride_x=2, pad_y=2, pad_x=2
)
GEMM = Layer("gemm", "conv", ("input",), 96, 160, ox=40, ix=40)
DEPTHWISE = replace(CONV, name="dw", k=48, c=48, groups=48)


def spans(extent: int, tile: int) -> list[tuple[int, int]]:
    return [(start, min(tile, extent - start)) for start in range(0, extent, tile)]


def planned(*tile: int, order: Any = ("oy", "ox", "k", "fy", "fx", "c")) -> LayerPlan:
    """A plan with this tile along NEST_DIMS, and these loops around it."""
    return LayerPlan((Part("gemmini", tile[0], Extent(*tile)),), ("n", *order))


def walked(layer: Layer, nest: LayerPlan) -> dict[str, int]:
    """Bytes that the tiles of a nest load, tile after tile, each operand only where the tile before had another; and
    partial sums that leave the accumulator before their reduction is complete."""
    depthwise = layer.depthwise
    c = 1 if depthwise else layer.c
    extents = dict(zip(NEST_DIMS, (layer.k, c, layer.fy, layer.fx, layer.oy, layer.ox), strict=True))
    loops = [spans(extents[d], nest.tile.along(d)) for d in nest_order(nest)]
    found = {"weights": 0, "inputs": 0, "spilled": 0, "tiles": 0}
    before: dict[str, Any] = {}
    open_outputs: set[Any] = set()
    for position in itertools.product(*loops):
        at = dict(zip(nest_order(nest), position, strict=True))
        size = {d: at[d][1] for d in NEST_DIMS}
        now = {
            "weights": tuple(at[d] for d in ("k", "c", "fy", "fx")),
            "inputs": tuple(at[d] for d in (("k",) if depthwise else ()) + ("c", "fy", "fx", "oy", "ox")),
            "outputs": tuple(at[d] for d in ("k", "oy", "ox")),
        }
        found["tiles"] += 1
        if now["weights"] != before.get("weights"):
            found["weights"] += size["k"] * size["c"] * size["fy"] * size["fx"]
        if now["inputs"] != before.get("inputs"):
            # The hardware loads all from the first row on, rows x stride + taps - 1 of them (LoopConv.scala).
            first = at["oy"][0] * layer.stride_y + at["fy"][0] - layer.pad_y
            left = at["ox"][0] * layer.stride_x + at["fx"][0] - layer.pad_x
            high, wide = size["oy"] * layer.stride_y + size["fy"] - 1, size["ox"] * layer.stride_x + size["fx"] - 1
            n_rows = len([r for r in range(first, first + high) if 0 <= r < layer.iy])
            n_cols = len([r for r in range(left, left + wide) if 0 <= r < layer.ix])
            found["inputs"] += n_rows * n_cols * (size["k"] if depthwise else size["c"])
        if now["outputs"] != before.get("outputs") and now["outputs"] in open_outputs:
            found["spilled"] += size["k"] * size["oy"] * size["ox"]
        open_outputs.add(now["outputs"])
        before = now
    return found


def nests(layer: Layer, n: int) -> list[LayerPlan]:
    """Random tiles, divisors or not, under random orders of the loops."""
    rng = np.random.default_rng(3)
    c = 1 if layer.depthwise else layer.c
    extents = (layer.k, c, layer.fy, layer.fx, layer.oy, layer.ox)
    out = []
    for _ in range(n):
        tile = [int(rng.integers(max(1, extent // 3), extent + 1)) for extent in extents]
        out.append(planned(*tile, order=tuple(rng.permutation(NEST_DIMS).tolist())))
    return out


@pytest.mark.parametrize("layer", [CONV, STRIDED, GEMM, DEPTHWISE], ids=lambda x: x.name)
def test_traffic_is_that_of_a_walk_over_the_tiles(layer: Layer) -> None:
    """Brute force, edge tiles and all orders included: what is loaded, and which partial sums come and go."""
    shape = Shape.of(layer)
    for nest in nests(layer, 60):
        found, again = walked(layer, nest), reloads(shape, Tiles.of(nest.tile), nest_order(nest), exact)
        t = terms(shape, Tiles.of(nest.tile), again, MACHINE)
        assert found["weights"] == layer.weights * again.weights
        assert found["spilled"] == layer.outputs * (again.outputs - 1)
        moved = found["weights"] + found["inputs"] + layer.outputs + 2 * 4 * found["spilled"]
        assert t.moved_bytes == moved == t.first_bytes + t.again_bytes
        tile_cycles = MACHINE.gemm_tile_cycles if layer is GEMM else MACHINE.conv_tile_cycles
        assert t.software == found["tiles"] * tile_cycles


@pytest.mark.parametrize("filter_tile", [1, 2, 3, 7])
@pytest.mark.parametrize("tile", [1, 2, 3, 5, 9])
def test_a_counter_that_wraps_is_counted(tile: int, filter_tile: int) -> None:
    """Windows of a tile that lie in the padding alone (LoopConv.scala: rows that exist less those of the padding, in 16
    bits): the closed form asks for as many pixels more as the tiles of the program do. ResNet-50's first layer in rows
    was once thought to take a twentieth of its time."""
    layer = Layer("stem", "conv", ("input",), 16, 3, oy=9, ox=9, iy=18, ix=18, fy=7, fx=7, stride_y=2, stride_x=2,
                  pad_y=3, pad_x=3)  # fmt: skip
    shape, nest = Shape.of(layer), planned(16, 3, filter_tile, 7, tile, 4)
    extents = {d: int(getattr(shape, d)) for d in NEST_DIMS} | {"n": 1}
    table = plain_table(layer, extents, nest.tile, nest.loops, False, {})
    t = terms(shape, Tiles.of(nest.tile), every_tile(shape, Tiles.of(nest.tile), exact), MACHINE)
    pixels = int(table[:, WRAPPED].sum())
    if filter_tile == 7 or tile == filter_tile == 1:  # longer than the padding of three rows, and shorter
        assert (pixels > 0) == (filter_tile == 1)
    assert t.first_bytes + t.again_bytes - t.moved_bytes == 3 * pixels  # of three channels each


def test_the_address_walk_counts_the_same_work() -> None:
    """Rows streamed, pairs, requests and beats against the walk, which goes address by address, where every tile
    loads both operands: channels in multiples of 64 at aligned addresses, loops with nothing to reuse."""
    nest = Nest("gemm", 16, (128, 192, 1, 1, 1, 40), (64, 64, 1, 1, 1, 24), (5, 0, 1, 2, 3, 4))
    lowered = walk_nest(nest, MACHINE, 10**9).seen
    layer = replace(GEMM, k=128, c=192)
    tiling = planned(64, 64, 1, 1, 1, 24, order=("ox", "k", "c", "fy", "fx", "oy"))
    t = estimate_nest(layer, tiling, MACHINE).terms
    beats = lowered.mvins[:, BEATS].sum()
    assert t.load == pytest.approx(beats)
    rows, pairs = lowered.groups[:, EX_ROWS].sum(), lowered.groups[:, EX_PAIRS].sum()
    assert t.execute == max(rows, pairs * MACHINE.pair_cycles)
    stores = lowered.tiles[:, [REQUESTS, BEATS]].sum(0)
    assert t.store == pytest.approx(stores[1] + stores[0] * MACHINE.store_request_cycles)


@pytest.mark.parametrize("ox", [3, 7, 14, 18, 56])
def test_convolutions_execute_as_their_blocks_do(ox: int) -> None:
    """Rows and pairs of a convolution's tiles, from the walk that the simulator runs."""
    nest = Nest("conv", 16, (32, 48, 3, 3, ox, ox), (16, 24, 3, 3, ox, ox), (4, 5, 0, 1, 2, 3), 1, 1, 1, ox, ox)
    walk = walk_nest(nest, MACHINE, 10**9).seen
    layer = Layer("c", "conv", ("i",), 32, 48, oy=ox, ox=ox, iy=ox, ix=ox, fy=3, fx=3, pad_y=1, pad_x=1)
    t = estimate_nest(layer, planned(16, 24, 3, 3, ox, ox, order=OS), MACHINE).terms
    rows, pairs = walk.groups[:, EX_ROWS].sum(), walk.groups[:, EX_PAIRS].sum()
    assert t.execute == max(rows, pairs * MACHINE.pair_cycles)


@pytest.mark.parametrize("layer", [CONV, STRIDED, GEMM, DEPTHWISE], ids=lambda x: x.name)
def test_ints_arrays_and_tensors_agree(layer: Layer) -> None:
    shape, some = Shape.of(layer), nests(layer, 12)
    arrays = Tiles(*(np.array([n.tile.along(d) for n in some]) for d in NEST_DIMS))
    tensors = Tiles(*(torch.tensor(getattr(arrays, d), dtype=torch.float64, requires_grad=True) for d in NEST_DIMS))
    one = torch.ones(1, dtype=torch.float64)
    soft = replace(shape, **{f.name: getattr(shape, f.name) * one for f in fields(Shape) if f.name != "most_pad"})
    for order in ORDERS:
        whole = terms(shape, arrays, reloads(shape, arrays, order, exact), MACHINE)
        smooth = terms(soft, tensors, reloads(soft, tensors, order, relax), MACHINE, relax)
        times = cycles(whole, MACHINE, Theta())
        assert cycles(smooth, MACHINE, Theta(), relax).detach().numpy() == pytest.approx(times)
        for f in fields(CachedTerms):
            values = np.broadcast_to(getattr(whole, f.name), len(some))
            assert (getattr(smooth, f.name) + 0 * tensors.k).detach().numpy() == pytest.approx(values), f.name
            for i, nest in enumerate(some):
                single = estimate_nest(layer, replace(nest, order=order), MACHINE).terms
                assert getattr(single, f.name) == pytest.approx(values[i]), f.name


def test_only_one_operand_is_reused_at_a_time() -> None:
    """Eight tiles of 2 x 2 x 2: each order loads one operand four times and two of them, or spills, eight times."""
    layer = Layer("gemm", "conv", ("input",), 32, 32, ox=32, ix=32)
    shape, tiles = Shape.of(layer), Tiles(16, 16, 1, 1, 1, 16)
    found = {o: reloads(shape, tiles, o, exact) for o in ORDERS}
    assert (found[WS].weights, found[WS].inputs, found[WS].outputs) == (1, 2, 2)
    assert (found[IS].weights, found[IS].inputs, found[IS].outputs) == (2, 1, 2)
    assert (found[OS].weights, found[OS].inputs, found[OS].outputs) == (2, 2, 1)


def test_memory_is_what_the_tiles_fill() -> None:
    """20 x 24 channels, 3 x 3 taps, 4 x 5 pixels: 2 blocks of 6 x 7 inputs, 2 of 216 weights; 2 of 20 sums."""
    assert rows_needed(Shape.of(CONV), Tiles(20, 24, 3, 3, 4, 5), MACHINE) == (2 * 42 + 2 * 216, 2 * 20)


def test_energy_of_a_whole_layer_by_hand() -> None:
    """One tile, 16 x 16 x 16: 4096 MACs, 256 weights in, 256 partial sums written, read and read out, 768 bytes."""
    layer = Layer("gemm", "conv", ("input",), 16, 16, ox=16, ix=16)
    found = estimate_nest(layer, planned(16, 16, 1, 1, 1, 16), MACHINE)
    scratchpad, accumulator = 0.49 + 0.02513 * 256, 1.94 + 0.1005 * 64 / 16
    by_hand = 4096 * 0.5608 + (4096 + 256) * 0.48746 + 768 * accumulator + 4 * 256 * scratchpad
    by_hand += 768 * (9.1 + 9.1) + 768 * (23.8 + 23.8) + 768 * 100  # each byte for the first time: through both caches
    assert found.energy_pj == pytest.approx(by_hand)


def test_one_tile_has_nothing_to_overlap_with() -> None:
    """A single tile of a convolution: software, loads, execution and store follow each other."""
    layer = Layer("c", "conv", ("i",), 16, 16, oy=4, ox=4, iy=4, ix=4, fy=1, fx=1)
    found = estimate_nest(layer, planned(16, 16, 1, 1, 4, 4), MACHINE, Theta(fetch=0.0, load=1.0, store=1.0))
    t = found.terms
    # 256 weights, inputs and outputs; the DRAM's 128 bytes in 20 cycles are slower than the outer link's 64 in 8
    outer = 768 * max(MACHINE.outer_cycles_per_byte, MACHINE.dram_cycles_per_byte)
    fill = 768 / 64 * MACHINE.fill_cycles
    parts = t.execute + max(t.load + fill, outer) + t.store + MACHINE.conv_tile_cycles
    assert found.cycles == pytest.approx(parts + MACHINE.start_cycles + MACHINE.drain_cycles)


# ------------------------------------------------------------------------------------------ fused groups


def pair() -> Workload:
    """Two products of 128 rows, 256 -> 512 -> 256 columns."""
    layers = (
        Layer("up", "conv", ("input",), 512, 256, ox=128, ix=128),
        Layer("down", "conv", ("up",), 256, 512, ox=128, ix=128),
    )
    return Workload("pair", (256, 1, 128), layers, ("down",))


def test_fusing_a_pair_saves_the_traffic_between() -> None:
    """AccelForge's optimum for this pair saves exactly the 2 x 65,536 bytes of what passes between the two."""
    workload = pair()
    fused = group_cost(chain(workload, 0, 1), 1, 128, 0, (0, 0), MACHINE)
    nests_of = {"up": planned(64, 256, 1, 1, 1, 128, order=IS), "down": planned(64, 512, 1, 1, 1, 128, order=IS)}
    alone = [estimate_nest(layer, nests_of[layer.name], MACHINE) for layer in workload]
    separate = sum(cost.terms.moved_bytes for cost in alone)
    assert separate == 2 * 256 * 512 + 128 * 256 * 2 + 2 * 128 * 512
    assert separate - fused.terms.moved_bytes == 2 * 65536
    saved = sum(cost.energy_pj for cost in alone) - energy_pj(fused.terms, MACHINE, Theta())
    # What was a fill of the scratchpad is now a write; the rest is charged at every level that it no longer passes.
    assert saved == pytest.approx(2 * 65536 * (MACHINE.dram_pj + 2 * MACHINE.llc_pj + 2 * MACHINE.l2_pj))
    assert fused.spad_rows <= MACHINE.spad_rows


def residual(stride: int = 1) -> Workload:
    """A residual block on a map of 16 x 16: 3x3, 3x3, and the sum with what came in, which a 1x1 reads too."""
    c3 = {"fy": 3, "fx": 3, "pad_y": 1, "pad_x": 1}
    o = 16 // stride
    s: dict[str, int] = {"stride_y": stride, "stride_x": stride}
    layers = (
        Layer("stem", "conv", ("input",), 16, 8, oy=16, ox=16, iy=16, ix=16, **c3),
        Layer("a", "conv", ("stem",), 16, 16, oy=o, ox=o, iy=16, ix=16, **c3, **s),
        Layer("b", "conv", ("a",), 16, 16, oy=o, ox=o, iy=o, ix=o, **c3),
        Layer("short", "conv", ("stem",), 16, 16, oy=o, ox=o, iy=16, ix=16, **s),
        Layer("sum", "add", ("b", "short"), 16, 16, oy=o, ox=o, iy=o, ix=o),
    )
    return Workload("residual", (8, 16, 16), layers, ("sum",))


def needed(workload: Workload, name: str, rows: set[int]) -> dict[str, set[int]]:
    """Rows of every layer above that rows of `name` depend on, by following the windows."""
    out: dict[str, set[int]] = {name: rows}
    for layer in reversed(workload.layers):
        for r in out.get(layer.name, set()):
            for source in layer.inputs:
                under = {r * layer.stride_y + f - layer.pad_y for f in range(layer.fy)}
                size = layer.iy
                span = {x for x in range(min(under), max(under) + 1) if 0 <= x < size}
                out.setdefault(source, set()).update(span)
    return out


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("tile", [1, 2, 4, 8])
def test_a_tile_reaches_back_as_far_as_the_windows_do(stride: int, tile: int) -> None:
    """Recomputation: rows computed in all steps together, and most in one, against sets of rows, branches included."""
    workload = residual(stride)
    group = chain(workload, 0, 4)
    rows = workload["sum"].oy
    found = reach(group, tile, rows // tile, 0, True)
    steps = [needed(workload, "sum", set(range(y, y + tile))) for y in range(0, rows, tile)]
    for layer, reached in zip(workload.layers, found, strict=True):
        wanted = [len(step[layer.name]) for step in steps]
        assert max(wanted) <= reached.made <= layer.oy  # a step at an edge computes fewer
        # Two windows deep, a step next to an edge needs a row less than the closed form has it.
        assert sum(wanted) <= reached.total <= sum(wanted) + len(steps) * (stride - 1) + 2
        if layer.name != "stem":
            assert reached.total == sum(wanted)


@pytest.mark.parametrize("tile", [1, 2, 4, 8])
def test_line_buffers_hold_what_later_steps_read(tile: int) -> None:
    """Every row is computed once, and never are more rows between a writer and its last reader than are held."""
    workload = residual()
    group = chain(workload, 0, 4)
    found = dict(zip([x.name for x in workload], reach(group, tile, 16 // tile, 1, True), strict=True))
    assert all(reached.total == 16 for reached in found.values())
    # What each step computes: what it depends on, without what earlier steps have computed.
    done: dict[str, set[int]] = {layer.name: set() for layer in workload}
    steps: list[dict[str, set[int]]] = []
    for y in range(0, 16, tile):
        now = needed(workload, "sum", set(range(y, y + tile)))
        steps.append({name: now[name] - done[name] for name in done})
        done = {name: done[name] | now[name] for name in done}
    for at in range(len(steps)):
        for name, reached in found.items():
            made = set().union(*(step[name] for step in steps[: at + 1]))
            readers = [layer for layer in workload if name in layer.inputs]
            read = {
                r * layer.stride_y + f - layer.pad_y
                for layer in readers for step in steps[at:] for r in step[layer.name] for f in range(layer.fy)
            }  # fmt: skip
            assert len(made & read) <= reached.held


def test_recomputing_costs_work_and_keeping_costs_none() -> None:
    group = chain(residual(), 0, 4)
    redo, keep, whole = (group_cost(group, oy, 16, k, (0,) * 5, MACHINE) for oy, k in ((4, 0), (4, 1), (16, 0)))
    macs = sum(layer.macs for layer in residual())
    assert keep.terms.macs == whole.terms.macs == macs < redo.terms.macs
    weights = sum(layer.weights for layer in residual())
    streamed, kept = (group_cost(group, 4, 16, 1, (r,) * 5, MACHINE).terms.moved_bytes for r in (0, 1))
    assert streamed - kept == 3 * weights  # four steps, the weights once or in each
    assert kept == whole.terms.moved_bytes == weights + 8 * 16 * 16 + 16 * 16 * 16


def test_what_cannot_be_fused_says_why() -> None:
    workload = residual()
    assert why_not(workload, 1, 4) == why_not(workload, 0, 4) == ""
    assert "is read by no other layer of the group" in why_not(workload, 2, 3)
    assert "at least two layers" in why_not(workload, 1, 1)
    pooled = replace(workload, layers=(*workload.layers, Layer("pool", "max_pool", ("sum",), 16, 16, fy=16, fx=16)))
    assert "pool (max_pool) does not run on Gemmini" in why_not(pooled, 4, 5)
    twice = batched(workload, 2)
    assert "batch of 2" in why_not(twice, 1, 4)


def test_a_soc_without_the_array_is_refused() -> None:
    with pytest.raises(InputError, match="diana has 0 cores of model systolic; one is needed"):
        Machine.of(find_soc("diana"))
    with pytest.raises(InputError, match="layer pool: Gemmini runs conv, matmul, add, not max_pool"):
        Shape.of(Layer("pool", "max_pool", ("x",), 4, 4))


def test_estimate_and_simulation_agree_on_what_binds() -> None:
    """Nests that are bound by execution, and by software: the simulator within a few per cent of the larger part."""
    nest = Nest("conv", 16, (64, 64, 3, 3, 28, 28), (64, 64, 3, 3, 14, 28), (4, 5, 0, 1, 2, 3), 1, 1, 1, 28, 28)
    lowered = lower_nest(nest, SOC)
    simulated = lowered.cycles(engine_fast.run(lowered.program))
    layer = Layer("c", "conv", ("i",), 64, 64, oy=28, ox=28, iy=28, ix=28, fy=3, fx=3, pad_y=1, pad_x=1)
    found = estimate_nest(layer, planned(64, 64, 3, 3, 14, 28, order=OS), MACHINE)
    assert found.terms.execute < simulated
    assert found.cycles == pytest.approx(simulated, rel=0.15)


def test_flow_of_a_group_member_moves_no_dram_byte() -> None:
    """What comes from and goes to the scratchpad: weights alone cross the DRAM's border."""
    shape, tiles = Shape.of(GEMM), Tiles(96, 160, 1, 1, 1, 40)
    again = reloads(shape, tiles, OS, exact)
    inside = terms(shape, tiles, again, MACHINE, exact, Flow(dram_in=0, dram_out=0, spad_out=1))
    assert inside.moved_bytes == GEMM.weights


# ---------------------------------------------------------------------------------------------- what the L2 loses


@pytest.mark.parametrize("x", [0.5, 1.0, 1.2, 1.5, 2.0, 3.0, 6.0])
def test_misses_of_sweeps_under_random_replacement(x: float) -> None:
    """Against the fixed point of 1 - m = exp(-m x), and against a cache that is gone over twelve times."""
    m = 1.0
    for _ in range(2000):
        m = 1 - math.exp(-m * x)
    sets, ways = 512, 8
    tags, rng = np.full((sets, ways), -1, np.int64), np.array([3], np.int64)
    lines = int(x * sets * ways)
    found = 0
    for sweep in range(12):
        missed = sum(_miss(tags, line, rng) for line in range(lines))
        found += missed if sweep >= 6 else 0
    estimate = _over(x, 1.0, exact)
    assert estimate == pytest.approx(m, abs=0.06)
    assert estimate == pytest.approx(found / lines / 6, abs=0.08)


@pytest.mark.parametrize(
    ("stride", "wide"), [(16, 16), (64, 64), (512, 16), (512, 128), (1000, 32), (3072, 64), (4096, 64)]
)
def test_rows_far_apart_use_few_sets(stride: int, wide: int) -> None:
    """Brute force: the sets that the lines of many rows fall into. A row over two lines uses twice the sets."""
    touched = {(row * stride + byte) // 64 % 1024 for row in range(16384) for byte in range(0, wide, 16)}
    assert _sets(stride, wide, 1024, 64, exact) == pytest.approx(len(touched) / 1024, rel=0.02)


def test_what_fits_the_l2_is_read_again_from_there() -> None:
    """A layer of 5 kB loses nothing. One whose weights are twice the L2 reads them for each of four tiles of pixels:
    of each later reading one less the square of a half is lost; its inputs lie between two tiles of k, and stay."""
    small = Layer("small", "conv", (INPUT,), 48, 16, ox=64, ix=64, oy=1, iy=1, fy=1, fx=1)
    large = Layer("large", "conv", (INPUT,), 1024, 1024, ox=64, ix=64, oy=1, iy=1, fy=1, fx=1)
    kept = estimate_nest(small, planned(16, 16, 1, 1, 1, 16), MACHINE).terms
    lost = estimate_nest(large, planned(16, 64, 1, 1, 1, 16), MACHINE).terms
    assert kept.again_bytes > 0 and kept.lost_bytes == 0
    assert MACHINE.l2_bytes == 512 << 10
    assert lost.lost_bytes == pytest.approx(3 * 0.75 * 2**20, rel=0.02)


def test_inputs_that_fit_no_cache_are_lost_where_channels_are_outside() -> None:
    """2 MB of inputs for two tiles of k: the second goes over them again, after all that the layer has, which is a
    little over four times the L2. So one less the square of a little under a quarter is lost of them."""
    layer = Layer("deep", "conv", (INPUT,), 32, 2048, ox=1024, ix=1024, oy=1, iy=1, fy=1, fx=1)
    nest = planned(16, 2048, 1, 1, 1, 16, order=("k", "oy", "ox", "c", "fy", "fx"))
    found = estimate_nest(layer, nest, MACHINE).terms
    inputs, weights, outputs = 2048 * 1024, 2048 * 32, 32 * 1024
    stays = MACHINE.l2_bytes / (inputs + weights + outputs)
    assert found.again_bytes == inputs
    assert found.lost_bytes == pytest.approx((1 - stays**2) * inputs, rel=1e-6)


def test_lines_that_narrow_rows_share_are_lost_where_they_crowd_few_sets() -> None:
    """16 of 2,048 channels at a time, all 1,024 pixels before the next 16: a row of them takes a line in every 32nd of
    the sets, 64 kB in 16 kB, before the other 48 channels of that line are asked for. A part of 1 - (16/64)^2 of the
    lines is brought again, for each of the three tiles in four that a line was brought for before."""
    layer = Layer("narrow", "conv", (INPUT,), 16, 2048, ox=1024, ix=1024, oy=1, iy=1, fy=1, fx=1)
    nest = planned(16, 16, 1, 1, 1, 1024, order=("k", "c", "oy", "ox", "fy", "fx"))
    found = estimate_nest(layer, nest, MACHINE).terms
    assert MACHINE.l2_bytes == 512 << 10
    assert found.split_bytes == pytest.approx(1024 * 2048 / 64 * 3 * 64 * (1 - (16 / 64) ** 2))
