"""Convolutions in groups as so many small ones, dilated ones, and those in one dimension: the products and bytes of the
convolutions that they are, on every core that runs those."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cosoc.search import relax
from cosoc.sim import exact
from cosoc.sim.files.catalog import find_soc, list_socs
from cosoc.sim.files.mapping_file import dump_mapping, load_mapping
from cosoc.sim.lower.emit import lower
from cosoc.sim.machine.program import KINDS, Program, digest, row_of
from cosoc.sim.model.mapping import Extent, LayerPlan, Mapping, Part, Piece
from cosoc.sim.model.soc import Dma, SoC
from cosoc.sim.model.tiles import by_groups, one_group, tiled
from cosoc.sim.model.workload import INPUT, Layer, Workload
from cosoc.sim.movers.cached_terms import Machine, Tiles, counts, every_tile, shape_of, terms
from cosoc.sim.movers.tile_table import COL, COL_END, OX, OX0, OY, OY0, ROW, ROW_END, plain_table
from cosoc.sim.tiler import checked, default_core, homes_of, problems, refusals, unsupported, weight_bytes
from cosoc.sim.work import layer_work

GROUPED = Layer("g", "conv", (INPUT,), 96, 64, oy=10, ox=12, iy=10, ix=12, fy=3, fx=3, pad_y=1, pad_x=1, groups=4)
POINTS = replace(GROUPED, fy=1, fx=1, pad_y=0, pad_x=0)


def alone(layer: Layer) -> Workload:
    return Workload(layer.name, (layer.c, layer.iy, layer.ix), (layer,), (layer.name,))


def in_pieces() -> list[tuple[str, str]]:
    """Every core that runs convolutions, but none in groups."""
    found = []
    for name in list_socs():
        soc = find_soc(name)
        for core in soc.cores:
            for layer in (GROUPED, POINTS):
                if not unsupported(layer, soc, core) and by_groups(layer, soc.cores[core]):
                    found.append((name, core))
    return list(dict.fromkeys(found))


IN_PIECES = in_pieces()


def plain(name: str) -> SoC:
    """A chip whose transfers are not aligned, so that bytes can be counted."""
    soc = find_soc(name)
    return find_soc(name, {f"dmas.{key}.align_bytes": "1" for key, one in soc.dmas.items() if isinstance(one, Dma)})


def bytes_of(program: Program, soc: SoC) -> dict[str, int]:
    rows = program.rows[row_of(program, np.arange(program.n_ops))]
    moves = np.where(rows["payload_bytes"] >= 0, rows["payload_bytes"], rows["bytes"])
    return {kind: int(moves[rows["kind"] == KINDS.index(kind)].sum()) for kind in ("load", "weights", "store", "feed")}


def test_every_model_that_can_is_asked() -> None:
    models = {find_soc(name).cores[core].model for name, core in IN_PIECES}
    assert models == {"systolic", "digital_array", "analog_array", "ne16", "cluster", "tensor_engine"}


@pytest.mark.parametrize(("name", "core"), IN_PIECES)
def test_groups_are_convolutions_of_their_own(name: str, core: str) -> None:
    """Products, bytes of inputs, weights, results and feeds, and energy: of one group, so many times; in tiles of a
    group, and of its halves, in which its inputs come twice."""
    soc = plain(name)
    layer = next(one for one in (GROUPED, POINTS) if not unsupported(one, soc, core))
    one = one_group(layer)
    cached = soc.is_cached(core)
    for k, oy in ((one.k, layer.oy), (one.k // 2, layer.oy), (one.k, 3)):
        both = []
        for own in (layer, one):
            plan = tiled(own, LayerPlan((Part(core, own.k),)), soc, [k], oy, own.ox)
            program = lower(alone(own), Mapping("m", "overlapped", {own.name: plan}), soc)
            spent = int(program.rows[row_of(program, np.arange(program.n_ops))]["energy_fj"].sum())
            both.append((bytes_of(program, soc), int(np.sum(_macs(program))), spent, plan))
        whole, part = both
        assert whole[1] == layer.macs == layer.groups * part[1]
        assert whole[0] == {kind: layer.groups * n for kind, n in part[0].items()}
        if not cached:  # there lines that caches miss, which neighbours share
            assert whole[2] == layer.groups * part[2]
            assert weight_bytes(layer, soc, whole[3].parts) == layer.groups * weight_bytes(one, soc, part[3].parts)
        if (
            not cached and oy == layer.oy
        ):  # every input once, as those of a group stay while its tiles follow each other
            assert whole[0]["load"] == layer.c * layer.iy * layer.ix


def _macs(program: Program) -> Any:
    return program.rows[row_of(program, np.arange(program.n_ops))]["macs"]


@pytest.mark.parametrize(("name", "core"), IN_PIECES)
@pytest.mark.parametrize("channels", [96, 48, 40])
def test_the_closed_form_has_the_program_s_bytes_and_products(name: str, core: str, channels: int) -> None:
    """All groups, half of them on another core, and a group cut in two: what one core computes of them."""
    soc = plain(name)
    if channels < 96 and (soc.is_cached(core) or soc.cores[core].memory == soc.main_memory):
        return
    layer = next(one for one in (GROUPED, POINTS) if not unsupported(one, soc, core))
    parts = (Part(core, channels),) + ((Part(soc.host, 96 - channels),) if channels < 96 else ())
    if soc.is_cached(core):
        return  # tests/sim/test_cached_mover.py
    mapping = checked(Mapping("m", "overlapped", {"g": LayerPlan(parts)}), alone(layer), soc)
    plan, homes = mapping.layers["g"], homes_of(alone(layer), mapping, soc)
    for order in (("n", "oy", "ox", "k", "c", "fy", "fx"), ("n", "k", "oy", "ox", "c", "fy", "fx")):
        for oy in (10, 4):
            k = [min(part.channels, 16 if part.core == core else part.channels) for part in plan.parts]
            one = tiled(layer, plan, soc, k, oy, 12, order)
            program = lower(alone(layer), Mapping("m", "overlapped", {"g": one}), soc)
            work = layer_work(layer, soc, [(p.core, p.channels) for p in one.parts], one, homes, exact)
            found = bytes_of(program, soc)
            assert found["load"] == work.loads.bytes
            assert found["weights"] == sum(part.weights.bytes for part in work.cores)
            assert found["store"] == sum(part.stores.bytes for part in work.cores)
            assert int(np.sum(_macs(program))) == layer.macs


@pytest.mark.parametrize(
    ("name", "shares"),
    [
        ("darkside", {"depthwise_engine": 96}),
        ("darkside", {"depthwise_engine": 64, "cluster": 32}),
        ("diana", {"digital": 96}),
    ],
)
@pytest.mark.parametrize("oy", [10, 4])
def test_channels_that_read_their_own_are_loaded_as_they_are_computed(
    name: str, shares: dict[str, int], oy: int
) -> None:
    """As many groups as channels: a core loads the channels of a tile that it computes, once a tile, whether it has
    all channels of the layer or some."""
    layer, soc = replace(GROUPED, c=96, groups=96), plain(name)
    parts = tuple(Part(core, n) for core, n in shares.items())
    mapping = checked(Mapping("m", "overlapped", {"g": LayerPlan(parts)}), alone(layer), soc)
    plan, homes = mapping.layers["g"], homes_of(alone(layer), mapping, soc)
    one = tiled(layer, plan, soc, [16] * len(parts), oy, 12)
    program = lower(alone(layer), Mapping("m", "overlapped", {"g": one}), soc)
    work = layer_work(layer, soc, [(p.core, p.channels) for p in one.parts], one, homes, exact)
    found = bytes_of(program, soc)
    assert found["load"] == work.loads.bytes
    assert found["weights"] == sum(part.weights.bytes for part in work.cores)
    assert found["store"] == sum(part.stores.bytes for part in work.cores) == layer.outputs


@pytest.mark.parametrize("channels", [48, 44])
def test_an_array_and_a_core_behind_a_dma_share_groups(channels: int) -> None:
    """Half of the groups each, and a group of which each has a part: all products once, all results once."""
    soc = plain("hetero")
    parts = Part("gemmini", channels), Part("digital", 96 - channels)
    mapping = checked(Mapping("m", "overlapped", {"g": LayerPlan(parts)}), alone(GROUPED), soc)
    program = lower(alone(GROUPED), mapping, soc)
    assert int(np.sum(_macs(program))) == GROUPED.macs
    assert bytes_of(program, soc)["store"] == GROUPED.outputs


@pytest.mark.parametrize(("name", "core"), [one for one in IN_PIECES if one[0] in ("diana", "gap9", "gemmini")])
def test_tensors_give_what_integers_give(name: str, core: str) -> None:
    """The same formula for shares that a gradient moves: whole groups, a part of one, none."""
    soc = find_soc(name)
    layer = next(one for one in (GROUPED, POINTS) if not unsupported(one, soc, core))
    mapping = checked(Mapping("m", "overlapped", {"g": LayerPlan((Part(core, 96),))}), alone(layer), soc)
    plan, homes = mapping.layers["g"], homes_of(alone(layer), mapping, soc)
    for k in (96, 72, 40, 0):
        plain = layer_work(layer, soc, [(core, k)], plan, homes, exact)
        soft = layer_work(layer, soc, [(core, torch.tensor(float(k), requires_grad=True))], plan, homes, relax)
        for one, other in ((plain.cores[0].array, soft.cores[0].array), (plain.loads.bytes, soft.loads.bytes),
                           (plain.cores[0].weights.bytes, soft.cores[0].weights.bytes)):  # fmt: skip
            assert float(torch.as_tensor(other).detach()) == pytest.approx(float(one), rel=1e-5)


def test_weights_of_a_group_are_loaded_for_its_channels_alone() -> None:
    """DIANA's digital array computes 16 channels at once: 24 of a group are two jobs' worth, and no job has two
    groups'."""
    soc = find_soc("diana")
    plan = tiled(GROUPED, LayerPlan((Part("digital", 96),)), soc, [16], 10, 12)
    program = lower(alone(GROUPED), Mapping("m", "overlapped", {"g": plan}), soc)
    rows = program.rows[row_of(program, np.arange(program.n_ops))]
    weights = rows["bytes"][rows["kind"] == KINDS.index("weights")].tolist()
    core = soc.cores["digital"]
    digital = [16 * (16 * 9 + core.bias_bytes)] * 8  # 16 and, padded to as many, 8; four times
    align = soc.dma(soc.route(soc.main_memory, core.weight_memory).dma).align_bytes
    assert weights == [-(-n // align) * align for n in digital]


def test_what_no_group_can_do_is_said_of_a_group() -> None:
    soc = find_soc("gap9")
    few = replace(GROUPED, c=24, groups=12, k=96)
    assert refusals(few, Part("ne16", 96), soc) == ["is used from 8 input channels on, not 2"]
    assert default_core(few, soc) == "cluster"


def test_a_tile_of_two_groups_is_refused_at_its_line(tmp_path: Path) -> None:
    soc, path = find_soc("diana"), tmp_path / "m.yaml"
    good = checked(Mapping("m", "overlapped", {"g": LayerPlan((Part("digital", 96),))}), alone(GROUPED), soc)
    path.write_text(dump_mapping(good))
    assert load_mapping(path, alone(GROUPED), soc) == good
    wide = replace(good, layers={"g": tiled(GROUPED, good.layers["g"], soc, [48], 10, 12)})
    assert [why for _, why in problems(wide, alone(GROUPED), soc)] == ["layer g: a tile spans 48 of k, must be 1 to 24"]


def test_a_grouped_layer_is_not_fused() -> None:
    for name, core in (("diana", "digital"), ("gemmini", "gemmini")):
        soc = find_soc(name)
        after = replace(GROUPED, name="after", c=96, k=32, groups=1, inputs=("g",))
        both = Workload("both", (64, 10, 12), (GROUPED, after), ("after",))
        plans = {"g": LayerPlan((Part(core, 96),)), "after": LayerPlan((Part(core, 32),))}
        found = problems(Mapping("m", "overlapped", plans, (Piece(("g", "after")),)), both, soc)
        assert any("group" in why for _, why in found)


# --- dilated, and in one dimension


@pytest.mark.parametrize("dilation", [1, 2, 5])
def test_a_dilated_tile_has_the_rows_from_its_first_tap_to_its_last(dilation: int) -> None:
    """Against sets of rows: those under any of a tile's outputs and taps, those between them, and the stride's, which
    the hardware's loop counts in (LoopConv.scala: orows x stride + dilated_krows - 1)."""
    layer = Layer(
        "d", "conv", (INPUT,), 8, 8, oy=7, ox=7, iy=20, ix=20, fy=3, fx=3, stride_y=2, stride_x=2, pad_y=dilation,
        pad_x=dilation, dilation_y=dilation, dilation_x=dilation,
    )  # fmt: skip
    extents = {"n": 1, "k": 8, "c": 8, "fy": 3, "fx": 3, "oy": 7, "ox": 7}
    tile = Extent(8, 8, 3, 3, 3, 4)
    table = plain_table(layer, extents, tile, ("n", "oy", "ox", "k", "c", "fy", "fx"), False, {})
    for row in table:
        for first, n, at, end in ((OY0, OY, ROW, ROW_END), (OX0, OX, COL, COL_END)):
            outputs = range(int(row[first]), int(row[first] + row[n]))
            under = {o * 2 - dilation + f * dilation for o in outputs for f in range(3)}
            there = set(range(min(under), max(under) + 2)) & set(range(20))
            assert set(range(int(row[at]), int(row[end]))) == there


def test_dilation_adds_rows_and_no_work() -> None:
    """The array streams as many rows for as many products; what comes for a tile is larger."""
    machine = Machine.of(find_soc("gemmini"))
    wide = Layer("w", "conv", (INPUT,), 64, 64, oy=28, ox=28, iy=28, ix=28, fy=3, fx=3, pad_y=1, pad_x=1)
    apart = replace(wide, pad_y=4, pad_x=4, dilation_y=4, dilation_x=4)
    tiles = Tiles(64, 64, 3, 3, 7, 28)
    one, other = (terms(shape_of(x), tiles, every_tile(shape_of(x), tiles, exact), machine) for x in (wide, apart))
    assert (one.macs, one.execute, one.software, one.store) == (other.macs, other.execute, other.software, other.store)
    assert counts(shape_of(apart), tiles, exact)["oy"] == 4
    # 4 tiles of 7 rows: windows of 9 and of 15, of which 1 and 4 lie in the padding at each edge.
    assert one.moved_bytes - 64 * 64 * 9 * 4 - 64 * 784 == (4 * 9 - 2) * 28 * 64
    assert other.moved_bytes - 64 * 64 * 9 * 4 - 64 * 784 == (4 * 15 - 8) * 28 * 64


def test_a_convolution_in_one_dimension_has_one_stride() -> None:
    """Whisper's second convolution: 1,500 of 3,000 columns on one row, where a stride along rows says nothing."""
    soc = find_soc("gemmini")
    one = Layer("one", "conv", (INPUT,), 384, 384, ox=1500, ix=3000, fx=3, pad_x=1, stride_x=2)
    same = replace(one, stride_y=2)
    assert default_core(one, soc) == default_core(same, soc) == "gemmini"
    programs = [lower(alone(x), Mapping("m", "overlapped"), soc) for x in (one, same)]
    assert digest(programs[0]) == digest(programs[1])
    flat = replace(same, oy=2, iy=4, stride_y=1)
    assert unsupported(flat, soc, "gemmini") == ["has one stride, not 1 x 2"]
    apart = replace(one, stride_x=1, ox=3000, pad_x=2, dilation_x=2)
    assert default_core(apart, soc) == "gemmini"


def test_a_chip_says_whether_its_array_dilates() -> None:
    layer = replace(GROUPED, groups=1, pad_y=2, pad_x=2, dilation_y=2, dilation_x=2)
    assert not unsupported(layer, find_soc("gemmini"), "gemmini")
    older = find_soc("gemmini", {"cores.gemmini.kernel_dilation": "false"})
    assert unsupported(layer, older, "gemmini") == ["runs no dilated convolution (dilation 2)"]
    skew = replace(layer, pad_x=1, dilation_x=1)
    assert unsupported(skew, find_soc("gemmini"), "gemmini") == ["has one dilation, not 2 x 1"]
