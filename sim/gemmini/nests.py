"""Whole networks on Gemmini: which layers the array runs, under which tiles, and what is wrong with a mapping.

The array runs convolutions, depthwise ones channel by channel, matrix products and additions; poolings go through its
scratchpad and store controller; what is left (softmax, norms, other pointwise operators) runs on the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from operator import add

from cosoc.sim import exact
from cosoc.sim.cores.systolic import Systolic
from cosoc.sim.errors import InputError
from cosoc.sim.gemmini.estimate import ARRAY_OPS, NEST_DIMS, POOLS, Machine, Tiles, rows_needed, shape_of
from cosoc.sim.gemmini.groups import why_not
from cosoc.sim.gemmini.heuristic import default_nest
from cosoc.sim.model.mapping import DIMS, LayerPlan, Mapping, Part, Piece
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import Layer, Workload
from cosoc.sim.work import make_tile

Problem = tuple[tuple[str | int, ...], str]  # where in a mapping file, and what is wrong there


def array_of(soc: SoC) -> str | None:
    """The name of the systolic array of a SoC; None if it has none. InputError if it has several."""
    names = [name for name, core in soc.cores.items() if isinstance(core, Systolic)]
    if len(names) > 1:
        raise InputError(f"{soc.name} has {len(names)} cores of model systolic; one at most can be mapped to")
    return names[0] if names else None


def default_core(layer: Layer, soc: SoC) -> str:
    """The core that runs a layer which a mapping is silent about: the array where it can, else the host."""
    array = array_of(soc)
    assert array is not None
    if layer.op in POOLS or (layer.op in ARRAY_OPS and not _refused(layer, soc, array)):
        return array
    refused = soc.cores[soc.host].fits(make_tile(layer, layer.k, layer.oy, layer.ox))
    if refused:
        what = f"layer {layer.name} ({layer.fn or layer.op})"
        raise InputError(f"{what}: neither {array} nor {soc.host} can run it: {'; '.join(refused)}")
    return soc.host


def _refused(layer: Layer, soc: SoC, array: str) -> list[str]:
    if layer.op == "add":
        return []
    reasons = soc.cores[array].fits(make_tile(layer, layer.k, layer.oy, layer.ox))
    if layer.stride_y != layer.stride_x:
        reasons.append(f"has one stride, not {layer.stride_y} x {layer.stride_x}")
    return reasons


def complete_nests(mapping: Mapping, workload: Workload, soc: SoC) -> Mapping:
    """The mapping with a core for every layer and, where that is the array, tiles: its own or the library's.

    Raises InputError for a layer that no core can run.
    """
    array, machine = array_of(soc), Machine.of(soc)
    layers = {}
    for layer in workload:
        given = mapping.layers.get(layer.name, LayerPlan(()))
        parts = given.parts or (Part(default_core(layer, soc), layer.k),)
        plan = replace(given, parts=parts)
        if plan.parts[0].tile is None and plan.order is None and parts[0].core == array and _through_array(layer):
            tile, order = default_nest(shape_of(layer), machine)
            plan = replace(plan, parts=(replace(parts[0], tile=tile), *parts[1:]), order=order, reuse=False)
        layers[layer.name] = plan
    return replace(mapping, layers={**mapping.layers, **layers})


def _through_array(layer: Layer) -> bool:
    return layer.op in (*ARRAY_OPS, *POOLS)


def nest_problems(mapping: Mapping, workload: Workload, soc: SoC) -> list[Problem]:
    """Every reason why the machine cannot run a complete mapping; [] if it can."""
    array, machine = array_of(soc), Machine.of(soc)
    assert array is not None
    known = {layer.name for layer in workload}
    out: list[Problem] = [
        (("layers", name), f"no layer named {name!r} in {workload.name}")
        for name in mapping.layers
        if name not in known
    ]
    fused = {name for piece in mapping.pieces for name in piece.layers}
    for layer in workload:
        reasons = _plan_problems(layer, mapping.layers[layer.name], soc, array, machine, layer.name in fused)
        out += [(("layers", layer.name, *key), f"layer {layer.name}: {reason}") for key, reason in reasons]
    return out + _group_problems(mapping.pieces, workload)


def _plan_problems(
    layer: Layer, given: LayerPlan, soc: SoC, array: str, machine: Machine, fused: bool
) -> list[Problem]:
    out: list[Problem] = []
    if given.unroll:
        out.append((("unroll",), f"unroll is of arrays that compute several pixels at once; {array} does not"))
    if len(given.parts) != 1 or given.parts[0].channels != layer.k:
        return [*out, (("parts",), f"a systolic array takes all {layer.k} channels of a layer, not parts of them")]
    core = given.parts[0].core
    if core not in (array, soc.host):
        return [*out, (("parts", core), f"no core named {core!r}; there is {array}, {soc.host}")]
    if core == soc.host:
        refused = soc.cores[core].fits(make_tile(layer, layer.k, layer.oy, layer.ox))
        out += [(("parts", core), f"{core} {reason}") for reason in refused]
        if given.parts[0].tile is not None or given.order is not None:
            out.append((("tile",), f"has tiles, but {core} computes layers whole"))
    elif not given.is_tiled:
        out.append(((), "states a tile or an order, but not both; state both, or leave both out"))
    else:
        refused = [] if layer.op in POOLS else _refused(layer, soc, array)
        out += [(("parts", core), f"{array} {reason}") for reason in refused]
        if not refused:
            out += [(("tile",), reason) for reason in _misfits(layer, given, machine, fused)]
    return out


def _group_problems(pieces: Sequence[Piece], workload: Workload) -> list[Problem]:
    """Fused pieces must be runs of consecutive layers that can be fused, no layer in two."""
    positions = {layer.name: i for i, layer in enumerate(workload.layers)}
    out: list[Problem] = []
    seen: set[str] = set()
    for i, piece in enumerate(pieces):
        name, at = f"piece {', '.join(piece.layers)}", ("pieces", i, "layers")
        missing = [layer for layer in piece.layers if layer not in positions]
        if missing:
            out.append((at, f"{name}: no layer named {missing[0]!r}"))
            continue
        first, last = positions[piece.layers[0]], positions[piece.layers[-1]]
        if [positions[layer] for layer in piece.layers] != list(range(first, last + 1)):
            out.append((at, f"{name}: its layers do not follow each other in the network"))
        elif why_not(workload, first, last):
            out.append((at, f"{name}: {why_not(workload, first, last)}"))
        out += [(at, f"{name}: {layer} is in another piece too") for layer in sorted(seen & set(piece.layers))]
        seen |= set(piece.layers)
    return out


def _misfits(layer: Layer, plan: LayerPlan, machine: Machine, grouped: bool) -> list[str]:
    """What is wrong with a nest in itself: extents, order, memory. A group's tiles are checked where it is lowered."""
    shape, reasons = shape_of(layer), []
    for d in NEST_DIMS:
        extent, tile = int(getattr(shape, d)), plan.tile.along(d)
        if not 1 <= tile <= extent:
            reasons.append(f"a tile spans {tile} of {d}, must be 1 to {extent}")
    if sorted(plan.loops) != sorted(DIMS):
        reasons.append(f"its order is {', '.join(plan.loops)}; each of {', '.join(DIMS)} must stand there once")
    if reasons or grouped:
        return reasons
    spad, acc = rows_needed(shape, Tiles.of(plan.tile), machine)
    for name, need, has in (("scratchpad", spad, machine.spad_rows), ("accumulator", acc, machine.acc_rows)):
        if need > has // 2:
            reasons.append(
                f"a tile needs {need} rows of the {name}; half of it, as tiles are double-buffered, has {has // 2}"
            )
    return reasons


def ideal_cycles(workload: Workload, soc: SoC) -> int:
    """No program of the workload can be faster: all products on a full array, one a PE and cycle."""
    array = array_of(soc)
    core = soc.cores[array or ""]
    assert isinstance(core, Systolic)
    macs = reduce(add, (layer.macs for layer in workload if default_core(layer, soc) == array), 0)
    return int(exact.ceildiv(macs, core.side**2))
