"""Whole networks on Gemmini: conservation, bounds, the library's tiles, and what is refused."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.mapping_file import dump_mapping, load_mapping
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.importers.timeloop import from_strings
from cosoc.sim.lower.emit import lower
from cosoc.sim.machine import engine_fast, engine_reference
from cosoc.sim.machine.program import row_of
from cosoc.sim.manual import named_mapping
from cosoc.sim.model.mapping import DIMS, Extent, LayerPlan, Mapping, Part, Piece
from cosoc.sim.model.workload import INPUT, Layer, Workload
from cosoc.sim.movers.cached_terms import NEST_DIMS, Machine, Shape, Tiles, rows_needed, shape_of
from cosoc.sim.movers.cached_units import TICKS_PER_CYCLE
from cosoc.sim.movers.library_tiles import default_nest
from cosoc.sim.movers.measured import Nest, run_nest
from cosoc.sim.movers.tile_table import Addresses
from cosoc.sim.simulate import simulate
from cosoc.sim.tiler import checked, default_core, problems

SOC = find_soc("gemmini")
MACHINE = Machine.of(SOC)


def gemm(n: int = 64, k: int = 64, c: int = 64) -> Workload:
    layer = Layer("gemm", "conv", (INPUT,), k=k, c=c, ox=n, ix=n)
    return Workload("gemm", (c, 1, n), (layer,), ("gemm",))


@pytest.mark.parametrize("name", ["resnet8", "mobilenet_v1_025", "autoencoder", "bert_base_block"])
def test_every_product_is_done_once(name: str) -> None:
    workload = find_workload(name)
    program = lower(workload, named_mapping("default", workload, SOC), SOC)
    rows = program.rows[row_of(program, np.arange(program.n_ops))]
    for i, layer in enumerate(program.layers):
        assert int(rows["macs"][rows["layer"] == i].sum()) == workload[layer].macs, layer


@pytest.mark.parametrize("name", ["resnet8", "resnet18_64"])
def test_no_network_beats_a_full_array(name: str) -> None:
    workload = find_workload(name)
    result = simulate(SOC, workload, named_mapping("default", workload, SOC))
    macs = sum(layer.macs for layer in workload if default_core(layer, SOC) == "gemmini")
    assert result.ticks >= macs / 16**2 * result.ticks_per_cycle  # one product a PE and cycle


def test_both_engines_agree_on_a_network() -> None:
    workload = find_workload("resnet8")
    program = lower(workload, named_mapping("default", workload, SOC), SOC)
    fast, reference = engine_fast.run(program), engine_reference.run(program)
    for name in ("issue", "end", "service", "busy"):
        assert np.array_equal(getattr(fast, name), getattr(reference, name)), name


def test_a_gemm_of_one_tile_moves_its_operands_once() -> None:
    """64 x 64 x 64 fits half the memories: 64 rows of 64 bytes each of A and B are four mvins of 16 rows each, cold
    caches miss each of the 64 + 64 lines once, and 64 lines of results."""
    workload = gemm()
    program = lower(workload, named_mapping("default", workload, SOC), SOC)
    names = program.unit_names
    bytes_on = {u: int(program.rows["bytes"][program.rows["unit"] == i].sum()) for i, u in enumerate(names)}
    assert (bytes_on["fill"], bytes_on["store_fill"]) == (2 * 4096, 4096)
    mvins = int((program.rows["unit"] == names.index("load")).sum())
    assert mvins == 8


def test_resnet50_in_the_library_s_tiles() -> None:
    """ResNet-50 at 16 x 16 in the library's tiles was measured at 36 to 41 M cycles an image (153.7 M for four: its
    pull request 69), and at 54 % of the peak after later commits (29.6 M). Nothing was fitted to that."""
    workload = find_workload("resnet50")
    program = lower(workload, named_mapping("default", workload, SOC), SOC)
    cycles = engine_fast.run(program).makespan * SOC.tick_hz / program.tick_hz
    assert 29e6 < cycles < 41e6


@pytest.mark.parametrize("soc", ["gemmini", "gemmini_large"])
@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v2", "vit_base"])
def test_the_library_s_tiles_fit_and_cannot_grow(name: str, soc: str) -> None:
    """A tile takes at most half of each memory, and no extent can be one more; of a GEMM, one block more."""
    machine, chip = Machine.of(find_soc(soc)), find_soc(soc)
    seen = 0
    for layer in find_workload(name):
        if layer.op not in ("conv", "matmul") or default_core(layer, chip) == chip.host:
            continue
        shape = shape_of(layer)
        tile, _ = default_nest(shape, machine)

        def fits(tile: Extent, shape: Shape = shape) -> bool:
            if shape.gemm:  # the library counts whole blocks
                blocks = {d: -(-tile.along(d) // machine.side) * machine.side for d in ("k", "c", "ox")}
                tile = replace(tile, **blocks)
            spad, acc = rows_needed(shape, Tiles.of(tile), machine)
            return bool(spad <= machine.spad_rows // 2 and acc <= machine.acc_rows // 2)

        assert fits(tile), layer.name
        step = machine.side if shape.gemm else 1
        for d in NEST_DIMS:
            extent = 1 if shape.depthwise and d == "k" else int(getattr(shape, d))  # channel by channel
            if tile.along(d) < extent:
                larger = replace(tile, **{d: min(extent, tile.along(d) + step)})
                assert not fits(larger), (layer.name, d)
        seen += 1
    assert seen > 20


def test_energy_is_the_closed_form_s() -> None:
    """One GEMM: MACs, a register read each and a write a weight, a read and a write a partial sum of 16 input channels,
    scratchpad reads of inputs (once for 16 output channels) and weights; DOSA's table for 256 KB and 64 KB. Every byte
    comes for the first time: asked for and filled at the L2, filled and read at the last-level cache, at the DRAM."""
    workload = gemm()
    result = simulate(SOC, workload, named_mapping("default", workload, SOC))
    n, accumulator, scratchpad = 64, 1.94 + 0.1005 * 64 / 16, 0.49 + 0.02513 * 256
    macs, each = n**3, n * n
    pj = macs * 0.5608 + (macs + each) * 0.48746 + (2 * each * n / 16 + each) * accumulator
    pj += (each * n / 16 + each + 2 * each) * scratchpad + 3 * each * (2 * 9.1 + 2 * 23.8 + 100)
    assert result.energy_j == pytest.approx(pj * 1e-12, rel=1e-9)


def test_a_mapping_is_refused_with_every_reason() -> None:
    def found(tile: Extent, order: Any = DIMS) -> list[str]:
        plan = LayerPlan((Part("gemmini", 1024, tile),), order)
        return [why for _, why in problems(Mapping("m", layers={"gemm": plan}), workload, SOC)]

    workload = gemm(n=4096, k=1024, c=1024)
    assert found(Extent(80, 64, 1, 1, 1, 64), ("n", "k", "k", "fy", "fx", "oy", "ox")) == [
        "layer gemm: its order is n, k, k, fy, fx, oy, ox; each of n, k, c, fy, fx, oy, ox must stand there once"
    ]
    # (1024/16) blocks of inputs x 4096 rows and as many blocks of weights x 1024 rows; 64 x 4096 rows of sums.
    assert found(Extent(1024, 1024, 1, 1, 1, 4096)) == [
        "layer gemm: a tile needs 327680 rows of the scratchpad; half of it, as tiles are double-buffered, has 8192",
        "layer gemm: a tile needs 262144 rows of the accumulator; half of it, as tiles are double-buffered, has 512",
    ]
    assert found(Extent(2048, 1024, 1, 1, 1, 0)) == [
        "layer gemm: a tile spans 2048 of k, must be 1 to 1024",
        "layer gemm: a tile spans 0 of ox, must be 1 to 4096",
    ]
    group = Mapping("m", pieces=(Piece(("gemm", "nothing")),))
    with pytest.raises(InputError, match="gemm has no layer nothing"):
        checked(group, workload, SOC)


def test_a_mapping_with_nests_survives_its_file(tmp_path: Path) -> None:
    workload = find_workload("resnet8")
    mapping = named_mapping("default", workload, SOC)
    path = tmp_path / "m.yaml"
    path.write_text(dump_mapping(mapping))
    assert load_mapping(path, workload, SOC) == mapping


def test_reuse_saves_loads() -> None:
    """Inputs innermost: software that leaves the weights where they are loads them once, the library for every tile."""
    workload = gemm(n=2048)
    times, lines = {}, {}
    for reuse in (True, False):
        tile = Extent(64, 64, 1, 1, 1, 128)
        mapping = Mapping("m", "overlapped", {"gemm": LayerPlan((Part("gemmini", 64, tile),), DIMS, reuse)})
        result = simulate(SOC, workload, mapping)
        times[reuse] = result.energy_j
        lines[reuse] = next(part.bytes for part in result.by_server if part.server == "outer_port")
    # pJ: fifteen loads of 4 KB from the L2, but for the lines that it has lost, which the last-level cache has.
    saved = (2048 // 128 - 1) * 64 * 64 * (9.1 + 0.49 + 0.02513 * 256)
    lost = lines[False] - lines[True]
    assert 0 <= lost < 0.05 * (2048 // 128 - 1) * 64 * 64
    saved += lost * (9.1 + 23.8)
    assert times[False] - times[True] == pytest.approx(saved * 1e-12, rel=1e-6)


def test_a_mapping_string_becomes_a_nest() -> None:
    """Everything below L3 makes the tile: 16 of k in space, 2 x 16 of c, 32 rows; L3's loops go around, k outside."""
    workload = gemm()
    text = "L3[WIO] K4 P2 C2 - L2[WI] N1 K16X - L1[O] C2 C16X - L0[W] P32"
    mapping = from_strings({"gemm": text}, workload, SOC)
    tile, loops = Extent(16, 32, 1, 1, 1, 32), ("n", "oy", "fy", "fx", "k", "ox", "c")
    assert mapping.layers["gemm"] == LayerPlan((Part("gemmini", 64, tile),), loops, reuse=False)
    with pytest.raises(InputError, match=r"factors of K multiply to 32, the layer has 64; its factors of C multiply"):
        from_strings({"gemm": text.replace("K4", "K2").replace("C2 ", "C4 ")}, workload, SOC)
    with pytest.raises(InputError, match="'Y4' is no loop such as K8 or C4X; dimensions are K, C, S, R, Q, P, N"):
        from_strings({"gemm": text.replace("K4", "Y4")}, workload, SOC)
    with pytest.raises(InputError, match="gemm has no layer 'other'"):
        from_strings({"other": text}, workload, SOC)
    large = gemm(n=4096, k=1024, c=1024)
    text = "L3[WIO] N1 - L2[WI] K16X - L1[O] K64 C64 C16X - L0[W] P4096"
    with pytest.raises(InputError, match=r"327680 rows of the scratchpad; .*262144 rows of the accumulator"):
        from_strings({"gemm": text}, large, SOC)


# ------------------------------------------------------------------------------------------ one alignment, one grain

PATHS = [
    Layer("c3", "conv", (INPUT,), 64, 64, oy=28, ox=28, iy=28, ix=28, fy=3, fx=3, pad_y=1, pad_x=1),
    Layer("c1", "conv", (INPUT,), 256, 64, oy=28, ox=28, iy=28, ix=28),
    Layer("dense", "conv", (INPUT,), k=256, c=128, ox=128, ix=128),
]


@pytest.mark.parametrize("layer", PATHS, ids=lambda x: x.name)
@pytest.mark.parametrize("offset", [0, 8])
def test_the_same_tiling_takes_the_same_time_by_every_path(layer: Layer, offset: int, tmp_path: Path) -> None:
    """The library's tiles, a mapping file that names them, and the nest as the measured programs ran it.

    The programs are measured with warm caches, so of the network the second inference is taken, whose caches hold what
    the first left. The tensors are as far behind their lines in each.
    """
    soc = find_soc("gemmini", {f"dmas.mover.{kind}_offset_bytes": str(offset) for kind in ("conv", "gemm")})
    machine, workload = Machine.of(soc), Workload("one", (layer.c, layer.iy, layer.ix), (layer,), (layer.name,))

    def second(mapping: Mapping) -> float:
        once, twice = (simulate(soc, workload, mapping, inferences=n) for n in (1, 2))
        return (twice.ticks - once.ticks) / once.ticks_per_cycle

    default = second(named_mapping("default", workload, soc))
    shape = shape_of(layer)
    tile, loops = default_nest(shape, machine)
    path = tmp_path / "named.yaml"
    plan = LayerPlan((Part("gemmini", layer.k, tile),), loops, reuse=False)
    path.write_text(dump_mapping(Mapping("named", "overlapped", {layer.name: plan})))
    assert second(load_mapping(path, workload, soc)) == default
    nest = Nest(
        "gemm" if shape.gemm else "conv", 16, tuple(int(getattr(shape, d)) for d in NEST_DIMS),
        tuple(min(tile.along(d), int(getattr(shape, d))) for d in NEST_DIMS),
        tuple(NEST_DIMS.index(d) for d in loops if d != "n"), 1, layer.pad_y, layer.pad_x, layer.iy, layer.ix,
    )  # fmt: skip
    assert run_nest(nest, soc).cycles == pytest.approx(default, rel=0.03)


def test_arrays_that_are_not_aligned_take_longer_on_the_return_path_by_what_the_merger_loses() -> None:
    """Pixels and weights of 64 bytes: four cycles at a line, six 8 bytes behind one (BeatMerger.scala)."""
    layer = Layer("c1", "conv", (INPUT,), 64, 64, oy=8, ox=16, iy=8, ix=16)  # one tile
    workload = Workload("one", (64, 8, 16), (layer,), ("c1",))
    busy = []
    for offset in ("0", "8"):
        soc = find_soc("gemmini", {"dmas.mover.conv_offset_bytes": offset, "dmas.mover.fill_cycles": "0"})
        program = lower(workload, named_mapping("default", workload, soc), soc)
        rows = program.rows[row_of(program, np.arange(program.n_ops))]
        loads = rows["unit"] == program.unit_names.index("load")
        busy.append(int(rows["bytes"][loads].sum()))
    rows_moved = 128 + 64
    assert busy == [cycles * rows_moved * TICKS_PER_CYCLE for cycles in (4, 6)]


def test_tensors_of_products_and_of_convolutions_lie_as_the_file_says() -> None:
    """A convolution, then a dense layer: what the dense one alone reads or writes lies as arrays of products do."""
    workload = Workload(
        "two",
        (8, 4, 4),
        (
            Layer("conv", "conv", (INPUT,), 8, 8, oy=1, ox=1, iy=4, ix=4, fy=4, fx=4),
            Layer("dense", "conv", ("conv",), 10, 8),
        ),
        ("dense",),
    )
    machine = replace(MACHINE, conv_offset_bytes=8, gemm_offset_bytes=16)
    addresses = Addresses.of(workload, machine)
    assert {name: at % 64 for name, at in addresses.tensor.items()} == {INPUT: 8, "conv": 16, "dense": 16}
    assert {name: at % 64 for name, at in addresses.weights.items()} == {"conv": 8, "dense": 16}
    starts = sorted((at, workload.incoming.get(n, 0) or workload[n].outputs) for n, at in addresses.tensor.items())
    for (at, size), (following, _) in itertools.pairwise(starts):
        assert at + size <= following
