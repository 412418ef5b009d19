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
from cosoc.sim.gemmini.estimate import ARRAY_OPS, POOLS, Machine, Tiles, rows_needed, shape_of
from cosoc.sim.gemmini.groups import why_not
from cosoc.sim.gemmini.heuristic import default_nest
from cosoc.sim.model.mapping import NEST_DIMS, Group, LayerMapping, Mapping, NestTiling, Share
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import Layer, Workload
from cosoc.sim.work import make_tile


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
    """The mapping with a core for every layer and, where that is the array, a nest: its own or the library's.

    Raises InputError for a layer that no core can run.
    """
    array, machine = array_of(soc), Machine.of(soc)
    layers = {}
    for layer in workload:
        given = mapping.layers.get(layer.name, LayerMapping(()))
        shares = given.shares or (Share(default_core(layer, soc), layer.k),)
        nest = given.nest
        if nest is None and shares[0].core == array and _through_array(layer):
            nest = default_nest(shape_of(layer), machine)
        layers[layer.name] = replace(given, shares=shares, nest=nest)
    return replace(mapping, layers={**mapping.layers, **layers})


def _through_array(layer: Layer) -> bool:
    return layer.op in (*ARRAY_OPS, *POOLS)


def nest_problems(mapping: Mapping, workload: Workload, soc: SoC) -> list[str]:
    """Every reason why the machine cannot run a complete mapping; [] if it can."""
    array, machine, reasons = array_of(soc), Machine.of(soc), []
    assert array is not None
    known = {layer.name for layer in workload}
    reasons += [f"no layer named {name!r} in {workload.name}" for name in mapping.layers if name not in known]
    grouped = {name for group in mapping.groups for name in group.layers}
    for layer in workload:
        given = mapping.layers[layer.name]
        where = f"layer {layer.name}"
        if len(given.shares) != 1 or given.shares[0].k != layer.k:
            reasons.append(f"{where}: a systolic array takes all {layer.k} channels of a layer, not shares of them")
            continue
        core = given.shares[0].core
        if core not in (array, soc.host):
            reasons.append(f"{where}: no core named {core!r}; there is {array}, {soc.host}")
        elif core == soc.host:
            refused = soc.cores[core].fits(make_tile(layer, layer.k, layer.oy, layer.ox))
            reasons += [f"{where}: {core} {reason}" for reason in refused]
            if given.nest is not None:
                reasons.append(f"{where}: has a nest, but runs on {core}")
        elif given.nest is None or given.tiling is not None:
            reasons.append(f"{where}: on {array} a layer has a nest, and no tiling")
        else:
            refused = [] if layer.op in POOLS else _refused(layer, soc, array)
            reasons += [f"{where}: {array} {reason}" for reason in refused]
            if not refused:
                reasons += [f"{where}: {r}" for r in _misfits(layer, given.nest, machine, layer.name in grouped)]
    return reasons + _group_problems(mapping.groups, workload)


def _group_problems(groups: Sequence[Group], workload: Workload) -> list[str]:
    """Groups must be runs of consecutive layers that can be fused, no layer in two."""
    positions = {layer.name: i for i, layer in enumerate(workload.layers)}
    reasons: list[str] = []
    seen: set[str] = set()
    for group in groups:
        name = f"group {', '.join(group.layers)}"
        missing = [layer for layer in group.layers if layer not in positions]
        if missing:
            reasons.append(f"{name}: no layer named {missing[0]!r}")
            continue
        first, last = positions[group.layers[0]], positions[group.layers[-1]]
        if [positions[layer] for layer in group.layers] != list(range(first, last + 1)):
            reasons.append(f"{name}: its layers do not follow each other in the network")
        elif why_not(workload, first, last):
            reasons.append(f"{name}: {why_not(workload, first, last)}")
        twice = seen & set(group.layers)
        reasons += [f"{name}: {layer} is in another group too" for layer in sorted(twice)]
        seen |= set(group.layers)
    return reasons


def _misfits(layer: Layer, nest: NestTiling, machine: Machine, grouped: bool) -> list[str]:
    """What is wrong with a nest in itself: extents, order, memory. A group's tiles are checked where it is lowered."""
    shape, reasons = shape_of(layer), []
    for d in NEST_DIMS:
        extent, tile = int(getattr(shape, d)), getattr(nest, d)
        if not 1 <= tile <= extent:
            reasons.append(f"a tile spans {tile} of {d}, must be 1 to {extent}")
    if sorted(nest.order) != sorted(NEST_DIMS):
        reasons.append(f"its order is {', '.join(nest.order)}; each of {', '.join(NEST_DIMS)} must stand there once")
    if reasons or grouped:
        return reasons
    spad, acc = rows_needed(shape, Tiles.of(nest), machine)
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
