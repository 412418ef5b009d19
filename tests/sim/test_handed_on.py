"""Do tiles of what hands elements on (slices, concatenations, paddings) read what they give, in whatever shape?"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosoc.sim import exact
from cosoc.sim.files.catalog import find_soc, list_socs
from cosoc.sim.lower.emit import lower
from cosoc.sim.machine.program import KINDS, row_of
from cosoc.sim.model.mapping import LayerPlan, Mapping, Part
from cosoc.sim.model.soc import Dma, SoC
from cosoc.sim.model.tiles import tiled
from cosoc.sim.model.workload import INPUT, SLICE, Layer, Workload
from cosoc.sim.movers.dma_terms import spans, windows
from cosoc.sim.tiler import cuts, homes_of, tile_bytes, unsupported

SHAPES = [(192, 1, 197), (64, 197, 3), (3, 14, 14), (12, 1, 1), (1, 64, 9), (6, 49, 32)]


def handing(shape: tuple[int, int, int], out: tuple[int, int, int], op: str) -> Workload:
    """A network of one such layer; a concatenation reads one tensor of the same size, and puts constants to it."""
    (c, iy, ix), (k, oy, ox) = shape, out
    layer = Layer("part", op, (INPUT,), k=k, c=c, oy=oy, ox=ox, iy=iy, ix=ix, fn=SLICE if op == "eltwise" else "")
    return Workload("part", shape, (layer,), ("part",))


def chips() -> list[tuple[SoC, str]]:
    """Every core behind a DMA that runs such layers; transfers without alignment, of which bytes can be counted."""
    found = []
    for name in list_socs():
        plain = find_soc(name)
        dmas = [key for key, mover in plain.dmas.items() if isinstance(mover, Dma)]
        soc = find_soc(name, {f"dmas.{key}.align_bytes": "1" for key in dmas})
        layer = handing((4, 4, 4), (4, 4, 4), "eltwise").layers[0]
        able = (core for core in soc.cores if isinstance(soc.mover_of(core), Dma) and not unsupported(layer, soc, core))
        found += [(soc, core) for core in able]
    return found


CHIPS = chips()


def test_some_chips_are_asked() -> None:
    assert len(CHIPS) >= 3


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_tiles_of_a_part_read_its_elements_once(data: st.DataObject) -> None:
    """Each output is one input (or a constant, which lies in memory too): tiles in any cut load as many bytes as the
    tensor that they make has, in the program and in what memories are asked for."""
    soc, core = data.draw(st.sampled_from(CHIPS))
    op = data.draw(st.sampled_from(("eltwise", "concat")))
    shape, out = data.draw(st.sampled_from(SHAPES)), data.draw(st.sampled_from(SHAPES))
    if (math.prod(out) > math.prod(shape)) == (op == "eltwise"):
        shape, out = out, shape
    workload = handing(shape, out, op)
    layer = workload.layers[0]
    if unsupported(layer, soc, core):
        return
    k, oy, ox = (data.draw(st.sampled_from(cuts(size))) for size in (layer.k, layer.oy, layer.ox))
    plan = tiled(layer, LayerPlan((Part(core, layer.k),)), soc, [k], oy, ox)
    mapping = Mapping("tiles", "overlapped", {layer.name: plan})
    homes = homes_of(workload, mapping, soc)
    need = tile_bytes(layer, plan, soc, "overlapped", homes)[soc.cores[core].memory]
    assert need.inputs == need.outputs == soc.cores[core].element_bytes * k * oy * ox
    if need.total > soc.memories[soc.cores[core].memory].capacity_bytes:
        return
    program = lower(workload, mapping, soc)
    rows = program.rows[row_of(program, np.arange(program.n_ops))]
    loaded = rows["bytes"][rows["kind"] == KINDS.index("load")]
    assert int(loaded.sum()) == layer.outputs and int(loaded.min()) > 0


@given(
    outputs=st.integers(1, 40), tile=st.integers(1, 40), inputs=st.integers(1, 40), reach=st.integers(1, 9),
    stride=st.integers(1, 4), pad=st.integers(0, 20),
)  # fmt: skip
def test_no_tile_of_a_window_reads_less_than_nothing(
    outputs: int, tile: int, inputs: int, reach: int, stride: int, pad: int
) -> None:
    """Against the rows themselves, of which those that are not there are padding: all from the first under a tile's
    first output to the last under its last one."""
    found = [(out, inp) for out, inp, n in spans(outputs, tile, inputs, reach, stride, pad) for _ in range(n)]
    if tile >= outputs:
        assert found == [(outputs, inputs)]
        return
    for (size, read), start in zip(found, range(0, outputs, tile), strict=True):
        first, last = start * stride - pad, (start + size - 1) * stride - pad + reach - 1
        assert size == min(tile, outputs - start)
        assert read == len(set(range(first, last + 1)) & set(range(inputs)))


@pytest.mark.parametrize("chip", ["gap9", "darkside"])
def test_qkv_in_one_tensor_is_cut_into_heads(chip: str) -> None:
    """Tokens with queries, keys and values side by side, of which a layer takes a third as heads x tokens x width: the
    shape in which it stands has more rows than that it comes from (`bytes is -1044480` once)."""
    soc = find_soc(chip)
    layer = handing((2304, 1, 197), (12, 197, 64), "eltwise").layers[0]
    core = next(name for name in soc.cores if soc.cores[name].model == "cluster")
    plan = tiled(layer, LayerPlan((Part(core, layer.k),)), soc, [4], 50, 64)
    cut = windows(layer, plan.tile)
    assert sum(at.y.inp * at.x.inp * at.count for at in cut) == 197 * 64
    assert exact.minimum(*(at.y.inp for at in cut)) > 0
