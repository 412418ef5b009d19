"""Does the program of a mapping move what the closed form says, in time that it says, fused or not?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.mapping_file import MappingFile, dump_mapping, load_mapping
from cosoc.sim.lower.emit import lower
from cosoc.sim.machine import engine_fast, engine_reference
from cosoc.sim.machine.program import KINDS, Program, validate
from cosoc.sim.model.mapping import Extent, LayerPlan, Mapping, Part, Piece
from cosoc.sim.model.workload import Layer, Workload
from cosoc.sim.movers.cached_terms import NEST_DIMS, ORDERS, OS, Machine, cycles, energy_pj, estimate_nest
from cosoc.sim.movers.cached_units import TICKS_PER_CYCLE
from cosoc.sim.movers.fused_steps import Chain, chain, group_cost, rows_held, step_spans
from cosoc.sim.movers.tile_table import ENDED, Addresses, of_group
from cosoc.sim.report.result import energy_j
from cosoc.sim.theta import Theta

SOC = find_soc("gemmini")
MACHINE = Machine.of(SOC)


def lowered(workload: Workload, mapping: Mapping) -> tuple[Program, int, int]:
    """The program, and the bytes that its loads bring and its stores take."""
    program = lower(workload, mapping, SOC)
    rows = program.rows
    payload, is_store = np.maximum(rows["payload_bytes"], 0), rows["kind"] == KINDS.index("store")
    return program, int(payload[~is_store].sum()), int(payload[is_store].sum())


def residual() -> Workload:
    """A residual block on 16 x 16 pixels: stem, 3x3, 3x3, a 1x1 beside them, and the sum."""
    c3: dict[str, Any] = {"oy": 16, "ox": 16, "iy": 16, "ix": 16, "fy": 3, "fx": 3, "pad_y": 1, "pad_x": 1}
    c1: dict[str, Any] = {"oy": 16, "ox": 16, "iy": 16, "ix": 16}
    layers = (
        Layer("stem", "conv", ("input",), 16, 8, **c3),
        Layer("a", "conv", ("stem",), 32, 16, **c3),
        Layer("b", "conv", ("a",), 32, 32, **c3),
        Layer("short", "conv", ("stem",), 32, 16, **c1),
        Layer("sum", "add", ("b", "short"), 32, 32, **c1),
    )
    return Workload("residual", (8, 16, 16), layers, ("sum",))


def fused(workload: Workload, oy: int, ox: int, keep: bool, resident: tuple[str, ...]) -> tuple[Mapping, Any, Chain]:
    """All layers as one group, the tiles as the closed form chooses them; its cost."""
    group = chain(workload, 0, len(workload.layers) - 1)
    cost = group_cost(group, oy, ox, int(keep), [int(x.name in resident) for x in workload], MACHINE)
    layers = {}
    for layer, tiles in zip(workload, cost.tiles, strict=True):
        tile = Extent(*(int(getattr(tiles, d)) for d in NEST_DIMS))
        layers[layer.name] = LayerPlan((Part("gemmini", layer.k, tile),), ("n", *OS))
    names = tuple(layer.name for layer in workload)
    return Mapping("fused", "overlapped", layers, (Piece(names, "fused", keep, resident),)), cost, group


CASES = [(16, 16, False), (4, 16, False), (4, 16, True), (2, 16, True), (8, 4, False)]


@pytest.mark.parametrize(("oy", "ox", "keep"), CASES)
@pytest.mark.parametrize("resident", [(), ("a", "b")])
def test_a_fused_group_moves_the_bytes_of_the_closed_form(
    oy: int, ox: int, keep: bool, resident: tuple[str, ...]
) -> None:
    """Inputs with their halo or without, weights in every step or once, the sum out, nothing between."""
    workload = residual()
    mapping, cost, group = fused(workload, oy, ox, keep, resident)
    program, loaded, stored = lowered(workload, mapping)
    assert not validate(program)
    assert stored == 32 * 16 * 16
    # A layer that runs ahead has nothing left to do in the last steps, which the closed form does not know.
    ys = step_spans(group, [(y, y + oy) for y in range(0, 16, oy)], keep, True)
    comes = [sum(step[i][0] < step[i][1] for step in ys) * (16 // ox) for i in range(5)]
    weights = sum(x.weights * (1 if x.name in resident else n) for x, n in zip(workload, comes, strict=True))
    once = weights + 8 * 16 * 16
    steps = (16 // oy) * (16 // ox)
    assert loaded == once if keep or steps == 1 else loaded > once
    spared = sum(x.weights * (steps - n) for x, n in zip(workload, comes, strict=True) if x.name not in resident)
    assert loaded + stored == cost.terms.moved_bytes - spared
    assert spared == 0 or oy == 2


@pytest.mark.parametrize(("oy", "ox", "keep"), CASES)
def test_its_products_are_those_of_the_rows_it_computes(oy: int, ox: int, keep: bool) -> None:
    """MACs of the program: every row once where rows are kept; at an edge the closed form has a row too many."""
    workload = residual()
    mapping, cost, group = fused(workload, oy, ox, keep, ())
    program, _, _ = lowered(workload, mapping)
    macs = int(program.rows["macs"].sum())
    ys = step_spans(group, [(y, y + oy) for y in range(0, 16, oy)], keep, True)
    xs = step_spans(group, [(x, x + ox) for x in range(0, 16, ox)], False, False)
    by_hand = 0
    for i, layer in enumerate(workload):
        each = layer.macs // (layer.oy * layer.ox)
        by_hand += each * sum(s[i][1] - s[i][0] for s in ys) * sum(s[i][1] - s[i][0] for s in xs)
    assert macs == by_hand
    assert macs <= cost.terms.macs <= 1.08 * macs
    if keep or (oy, ox) == (16, 16):
        assert macs == sum(layer.macs for layer in workload) == cost.terms.macs


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("tile", [(64, 64, 8), (16, 64, 16), (32, 16, 16), (64, 16, 4)])
def test_a_layer_moves_the_bytes_of_the_closed_form(order: tuple[str, ...], tile: tuple[int, int, int]) -> None:
    """Under all orders: operands that stay are not loaded again, partial sums that cannot stay come and go."""
    k, c, oy = tile
    layer = Layer("conv", "conv", ("input",), 64, 64, oy=16, ox=16, iy=16, ix=16, fy=3, fx=3, pad_y=1, pad_x=1)
    workload = Workload("one", (64, 16, 16), (layer,), ("conv",))
    for reuse in (True, False):
        plan = LayerPlan((Part("gemmini", 64, Extent(k, c, 3, 3, oy, 16)),), ("n", *order), reuse)
        mapping = Mapping("m", "overlapped", {"conv": plan})
        program, loaded, stored = lowered(workload, mapping)
        found = estimate_nest(layer, plan, MACHINE)
        if reuse:
            assert loaded + stored == found.terms.moved_bytes
            # Everything fits the caches, so that their lines come once; the rest is the closed form's, but for parts of
            # lines that it takes for lost.
            once = replace(found.terms, lost_bytes=0, split_bytes=0)
            spent = energy_j(program, engine_fast.run(program), SOC) * 1e12
            assert spent == pytest.approx(energy_pj(once, MACHINE, Theta()), rel=0.01)
        assert int(program.rows["macs"].sum()) == layer.macs


def test_time_is_near_to_the_closed_form() -> None:
    """A layer that execution binds and a group whose layers overlap: within a tenth of the program's makespan."""
    workload = residual()
    mapping, cost, _ = fused(workload, 4, 16, True, ("a", "b"))
    program, _, _ = lowered(workload, mapping)
    simulated = engine_fast.run(program).makespan / TICKS_PER_CYCLE
    assert cycles(cost.terms, MACHINE, Theta()) == pytest.approx(simulated, rel=0.15)
    assert cost.terms.execute < simulated
    energy = energy_j(program, engine_fast.run(program), SOC) * 1e12
    assert energy == pytest.approx(energy_pj(cost.terms, MACHINE, Theta()), rel=0.03)


def test_fusing_saves_time_and_bytes_where_nothing_is_computed_twice() -> None:
    workload = residual()
    mapping, _, _ = fused(workload, 16, 16, False, ())
    alone = replace(mapping, pieces=())
    together, *moved = lowered(workload, mapping)
    apart, *moved_apart = lowered(workload, alone)
    between = 16 * 256 * 3 + 32 * 256 * 2 * 3  # stem: written, read twice; a, b and short: written and read
    saved = sum(moved_apart) - sum(moved)
    assert saved == between
    assert engine_fast.run(together).makespan < engine_fast.run(apart).makespan


def test_both_engines_agree() -> None:
    workload = residual()
    mapping, _, _ = fused(workload, 4, 16, True, ("a",))
    program, _, _ = lowered(workload, mapping)
    fast, reference = engine_fast.run(program), engine_reference.run(program)
    assert fast.makespan == reference.makespan
    assert np.array_equal(fast.end, reference.end)


def test_a_consumer_waits_for_what_it_reads() -> None:
    """No execution of `b` in a step starts before the last row of `a` of that step has left the accumulator."""
    workload = residual()
    mapping, _, _ = fused(workload, 16, 16, False, ())
    program, _, _ = lowered(workload, mapping)
    trace = engine_fast.run(program)
    rows, names = program.rows, program.layers
    array, store = program.unit_names.index("gemmini"), program.unit_names.index("store")

    def of(name: str, unit: int) -> Any:
        return np.flatnonzero((rows["layer"] == names.index(name)) & (rows["unit"] == unit))

    assert trace.issue[of("b", array)].min() >= trace.end[of("a", store)].max()


def test_a_group_holds_what_its_layers_keep() -> None:
    """Two 3x3 convolutions of 20 channels on 14 x 14 pixels in two steps of 7 rows, rows kept, the weights of the first
    resident, by hand at side 16, of which 20 channels take two blocks."""
    c3: dict[str, Any] = {"oy": 14, "ox": 14, "iy": 14, "ix": 14, "fy": 3, "fx": 3, "pad_y": 1, "pad_x": 1}
    layers = (Layer("a", "conv", ("input",), 20, 20, **c3), Layer("b", "conv", ("a",), 20, 20, **c3))
    workload = Workload("two", (20, 14, 14), layers, ("b",))
    mapping, cost, group = fused(workload, 7, 14, True, ("a",))
    nests = [mapping.layers[layer.name].tile for layer in layers]
    image = 2 * (7 + 2) * (14 + 2) * 2  # of two steps, with its halo
    between = 2 * (7 + 2) * 14  # rows of a step, and those that its first window has above them
    weights = 2 * 20 * 9  # of either layer: one's stay, the other's pass through
    assert rows_held(group, mapping.pieces[0], nests, MACHINE) == (image + between + 2 * weights, 2 * 7 * 14)
    assert cost.spad_rows == image + between + 2 * weights


def test_loops_around_steps_end_with_their_rows() -> None:
    """Two layers of one tile each in 2 x 2 steps: the loop over columns ends, and costs software its time, before the
    third step begins and nowhere else."""
    c1: dict[str, Any] = {"oy": 4, "ox": 4, "iy": 4, "ix": 4}
    layers = (Layer("a", "conv", ("input",), 16, 16, **c1), Layer("b", "conv", ("a",), 16, 16, **c1))
    workload = Workload("two", (16, 4, 4), layers, ("b",))
    mapping, _, group = fused(workload, 2, 2, False, ())
    nests = [mapping.layers[layer.name].tile for layer in layers]
    tiles = of_group(group, nests, False, (False, False), Addresses.of(workload, MACHINE)).table
    assert tiles[:, ENDED].tolist() == [0, 0, 0, 0, 1, 0, 0, 0]


def test_what_does_not_fit_or_cannot_be_fused_is_refused() -> None:
    workload = residual()
    mapping, _, _ = fused(workload, 16, 16, False, ())
    small = find_soc("gemmini", {"memories.scratchpad.size_bytes": "8192"})
    with pytest.raises(InputError, match=r"piece stem, .*: needs \d+ rows of scratchpad, \d+ more than 512"):
        lower(workload, mapping, small)
    gap = replace(mapping, pieces=(Piece(("stem", "b")),))
    with pytest.raises(InputError, match="piece stem, b: its layers do not follow each other"):
        lower(workload, gap, SOC)
    bare = replace(mapping, layers={name: entry for name, entry in mapping.layers.items() if name != "a"})
    assert lower(workload, bare, SOC).rows["macs"].sum() >= workload.macs  # it takes the library's tile


def test_mapping_files_carry_nests_and_groups(tmp_path: Any) -> None:
    workload = residual()
    mapping, _, _ = fused(workload, 4, 16, True, ("a",))
    for each in (mapping, replace(mapping, pieces=(Piece(mapping.pieces[0].layers, "fused", False, None),))):
        (tmp_path / "m.yaml").write_text(dump_mapping(each))
        assert load_mapping(tmp_path / "m.yaml", workload, SOC) == each


def test_mapping_files_with_wrong_orders_are_refused() -> None:
    entry = {"parts": {"g": 1}, "tile": {"k": 1}, "order": ["k", "k", "fy", "fx", "oy", "ox"]}
    with pytest.raises(ValueError, match="order n, k, k, fy, fx, oy, ox: name each of n, k, c, fy, fx, oy, ox once"):
        MappingFile.model_validate({"layers": {"a": entry}})
