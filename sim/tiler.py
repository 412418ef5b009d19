"""Fill in what a mapping leaves open, and say what is wrong with what it states.

Tiles are chosen by enumeration: every sensible cut of rows, columns and channels that the memories admit, under
both orders, is priced with `layer_work` and `layer_time`; the cheapest wins, ties go to fewer and larger tiles.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

from cosoc.sim import exact
from cosoc.sim.errors import InputError
from cosoc.sim.estimate import Theta, layer_time
from cosoc.sim.fusion import buffer_bytes
from cosoc.sim.gemmini.nests import array_of, complete_nests, nest_problems
from cosoc.sim.mapping import PARTIAL_BYTES, LayerMapping, Mapping, Order, Runtime, Share, Tiling
from cosoc.sim.placement import Homes, place
from cosoc.sim.soc import Memory, SoC
from cosoc.sim.work import (
    channels_read,
    input_transfer,
    layer_work,
    make_tile,
    output_transfer,
    per_channel,
    spans_x,
    spans_y,
    weight_transfer_of,
)
from cosoc.sim.workload import Layer, Workload


def unsupported(layer: Layer, soc: SoC, core: str) -> list[str]:
    """Why `core` cannot run `layer` at all."""
    return soc.cores[core].fits(make_tile(layer, layer.k, layer.oy, layer.ox))


def default_core(layer: Layer, soc: SoC) -> str:
    """The core that runs a layer which a mapping is silent about: the first that can, ternary ones and host last."""
    able = [name for name in soc.cores if not unsupported(layer, soc, name)]
    if not able:
        reasons = "; ".join(f"{name} {', '.join(unsupported(layer, soc, name))}" for name in soc.cores)
        raise InputError(f"layer {layer.name} ({layer.fn or layer.op}): no core of {soc.name} can run it: {reasons}")
    return min(able, key=lambda name: (name == soc.host, soc.cores[name].ternary))


def weight_bytes(layer: Layer, soc: SoC, shares: tuple[Share, ...]) -> int:
    """Bytes of a layer's weights as its cores store them."""
    if layer.op != "conv":
        return 0
    tile = [(soc.cores[s.core], make_tile(layer, s.k, layer.oy, layer.ox)) for s in shares if s.k]
    return sum(int(core.weight_bytes(t, exact)) for core, t in tile)


def homes_of(workload: Workload, mapping: Mapping, soc: SoC) -> Homes:
    """Where the tensors of a mapped workload live; every layer must have its shares."""
    pinned = pinned_weights(workload, mapping, soc)
    moving = (layer for layer in workload if layer.name not in pinned)
    weights = sum(weight_bytes(layer, soc, mapping.layers[layer.name].shares) for layer in moving)
    inside = set()
    for group in mapping.groups:
        members = set() if group.parallel else set(group.layers)
        inside |= {n for n in members if n not in workload.outputs and set(workload.readers(n)) <= members}
    taken: dict[str, int] = {}
    for name in pinned:
        share = next(share for share in mapping.layers[name].shares if share.k)
        memory = soc.cores[share.core].weight_memory
        assert memory is not None
        taken[memory] = taken.get(memory, 0) + weight_bytes(workload[name], soc, (share,))
    homes = place(workload, soc, weights, frozenset(inside))
    return replace(homes, pinned=frozenset(pinned), pinned_bytes=taken)


def pinned_weights(workload: Workload, mapping: Mapping, soc: SoC) -> tuple[str, ...]:
    """Layers whose weights stay in the weight memory of a core that keeps them: all if all fit, else the first ones
    that fill half of it, while the others pass through the other half. Layers on several cores are not kept."""
    out: list[str] = []
    for name, core in soc.cores.items():
        if not core.keeps_weights or core.weight_memory is None:
            continue
        alone = [n for n in workload if [s.core for s in mapping.layers[n.name].shares if s.k] == [name]]
        sizes = {n.name: weight_bytes(n, soc, mapping.layers[n.name].shares) for n in alone if n.op == "conv"}
        room = soc.memories[core.weight_memory].capacity_bytes
        if sum(sizes.values()) > room:
            room //= 2
        for layer, size in sizes.items():
            if size <= room:
                room -= size
                out.append(layer)
    return tuple(out)


def weight_room(soc: SoC, memory: str, homes: Homes) -> int:
    """Bytes of a weight memory in which weights come and go."""
    return max(soc.memories[memory].capacity_bytes - homes.pinned_bytes.get(memory, 0), 1)


def tile_problems(layer: Layer, mapping: LayerMapping, soc: SoC, runtime: Runtime, homes: Homes) -> list[str]:
    """Which memories the largest tiles of a layer overflow, with figure and bound."""
    tiling = mapping.tiling
    assert tiling is not None
    rows, cols = spans_y(layer, tiling.oy), spans_x(layer, tiling.ox)
    y, x = max(rows, key=lambda s: s.inp), max(cols, key=lambda s: s.inp)
    out_y, out_x = max(rows, key=lambda s: s.out), max(cols, key=lambda s: s.out)
    shares = [(s, min(kt, s.k)) for s, kt in zip(mapping.shares, tiling.k, strict=True) if s.k]
    reasons = []
    many = len(rows) + len(cols) > 2 or any(s.count > 1 for s in (*rows, *cols)) or any(s.k > kt for s, kt in shares)
    buffers = 2 if runtime == "overlapped" and many else 1
    for name in {soc.cores[s.core].memory for s, _ in shares} - {soc.main_memory}:
        here = [(s, kt) for s, kt in shares if soc.cores[s.core].memory == name]
        moved_in = [input_transfer(layer, soc, name, kt, y, x, homes.inputs(layer), exact).bytes for _, kt in here]
        inputs = sum(moved_in) if per_channel(layer) else max(moved_in)
        outputs = sum(
            output_transfer(layer, soc, name, kt, out_y, out_x, homes.output(layer), exact).bytes for _, kt in here
        ) * (PARTIAL_BYTES if tiling.c else 1)
        need, bound = buffers * (inputs + outputs), soc.memories[name].capacity_bytes
        if need > bound:
            how = f"{buffers} x ({inputs} in + {outputs} out)"
            reasons.append(f"layer {layer.name}: tiles need {how} = {need} bytes of {name}, which has {bound}")
    for share, kt in shares:
        core = soc.cores[share.core]
        need = weight_transfer_of(layer, soc, core, kt, exact, tiling.c, homes).bytes
        if core.weight_memory is None or not need:
            continue
        bound = weight_room(soc, core.weight_memory, homes)
        if need > bound:
            what = f"weights of {kt} channels need {need} bytes of {core.weight_memory}, which has {bound}"
            reasons.append(f"layer {layer.name}: {what}")
        if not homes.weights_in_main and need > homes.stream_bytes:
            what = f"weights of {kt} channels need {need} bytes to stream through {soc.main_memory}"
            reasons.append(f"layer {layer.name}: {what}, of which {homes.stream_bytes} are set aside")
    return reasons


def _cuts(size: int) -> tuple[int, ...]:
    """The tile sizes that cut `size` into 1, 2, 3, ... nearly equal parts, largest first."""
    few = range(1, math.isqrt(size) + 2)  # parts; sizes up to there come from as many parts as they need
    large, small = {-(-size // parts) for parts in few}, {-(-size // -(-size // tile)) for tile in few}
    return tuple(sorted(large | small, reverse=True))


def _channel_tiles(k: int, step: int) -> tuple[int, ...]:
    """Tile sizes for k channels: all, multiples of the core's step, and below the step every cut."""
    if k == 0:
        return (1,)
    steps = {-(-c // step) * step for c in _cuts(k) if c < k}
    return tuple(sorted({k} | {s for s in steps if s < k} | {c for c in _cuts(min(k, step)) if c < step}, reverse=True))


ENOUGH = 4  # cuts past the first that fits: finer ones only add jobs and calls


def _channel_choices(
    layer: Layer, mapping: LayerMapping, soc: SoC, runtime: Runtime, homes: Homes
) -> tuple[list[tuple[int, ...]], int]:
    """Tiles of output channels, one a share, whose weights fit, and the input channels a job (0: all) for that."""
    total = channels_read(layer)
    for c in _cuts(total):
        c = 0 if c == total else c
        choices = []
        for share in mapping.shares:
            alone = replace(mapping, shares=(Share(share.core, max(share.k, 1)),))
            tiles = _channel_tiles(share.k, soc.cores[share.core].channel_step)
            legal = (t for t in tiles if not _overflows(layer, alone, Tiling((t,), 1, 1, c=c), soc, runtime, homes))
            choices.append(list(islice(legal, ENOUGH)))
        if all(choices):
            most = max(len(tiles) for tiles in choices)
            return list(dict.fromkeys(tuple(t[min(i, len(t) - 1)] for t in choices) for i in range(most))), c
    return [], 0


def _overflows(layer: Layer, mapping: LayerMapping, tiling: Tiling, soc: SoC, runtime: Runtime, homes: Homes) -> bool:
    return bool(tile_problems(layer, replace(mapping, tiling=tiling), soc, runtime, homes))


def candidates(layer: Layer, mapping: LayerMapping, soc: SoC, runtime: Runtime, homes: Homes) -> Iterator[Tiling]:
    """Legal tilings, from the largest tiles down: a few cuts past the first that fits, in every dimension.

    Input channels are cut only where no tile of output channels fits otherwise, and columns only as far as they must
    be: cutting them breaks rows into pieces.
    """
    k_choices, c = _channel_choices(layer, mapping, soc, runtime, homes)
    for kt in k_choices:
        single = c == 0 and all(s.k <= t for s, t in zip(mapping.shares, kt, strict=True))
        orders: tuple[Order, ...] = ("weights",) if single else ("weights", "inputs")
        for ox in _cuts(layer.ox):
            legal = (
                oy
                for oy in _cuts(layer.oy)
                if not _overflows(layer, mapping, Tiling(kt, oy, ox, c=c), soc, runtime, homes)
            )
            rows = list(islice(legal, ENOUGH))
            yield from (Tiling(kt, oy, ox, order, c) for oy in rows for order in orders)
            if rows:
                break


def best_tiling(
    layer: Layer, mapping: LayerMapping, soc: SoC, runtime: Runtime, homes: Homes, theta: Theta | None = None
) -> Tiling:
    """The cheapest legal tiling of a layer by `layer_time`; InputError where no tile fits, naming the buffer."""
    best: tuple[float, Tiling] | None = None
    shares = [(s.core, s.k) for s in mapping.shares]
    for tiling in candidates(layer, mapping, soc, runtime, homes):
        work = layer_work(layer, soc, shares, replace(mapping, tiling=tiling), homes, exact)
        ticks = float(layer_time(layer, work, soc, runtime, homes, theta or Theta(), exact).ticks)
        if best is None or ticks < best[0]:
            best = (ticks, tiling)
    if best is None:
        smallest = replace(mapping, tiling=Tiling((1,) * len(mapping.shares), 1, 1, c=1))
        raise InputError("; ".join(tile_problems(layer, smallest, soc, runtime, homes)))
    return best[1]


def complete(mapping: Mapping, workload: Workload, soc: SoC) -> Mapping:
    """The same mapping with shares for every layer and a tiling for every layer outside fused groups.

    On a SoC with a systolic array tilings are nests (`gemmini.nests`). Raises InputError where a layer can run nowhere
    or no tile of it fits.
    """
    if array_of(soc) is not None:
        return complete_nests(mapping, workload, soc)
    layers = {}
    for layer in workload:
        given = mapping.layers.get(layer.name)
        layers[layer.name] = given or LayerMapping((Share(default_core(layer, soc), layer.k),))
    mapping = replace(mapping, layers=layers)
    homes = homes_of(workload, mapping, soc)
    fused = {name for group in mapping.groups if not group.parallel for name in group.layers}
    for layer in workload:
        given = layers[layer.name]
        if given.tiling is None and layer.name not in fused:
            room = _room(layer.name, mapping, soc)
            layers[layer.name] = replace(given, tiling=best_tiling(layer, given, room, mapping.runtime, homes))
    return replace(mapping, layers=layers)


def _room(layer: str, mapping: Mapping, soc: SoC) -> SoC:
    """The machine as a layer may fill it: in a parallel group with its part of the memories of the cores."""
    many = next((len(g.layers) for g in mapping.groups if g.parallel and layer in g.layers), 1)
    if many == 1 or mapping.runtime == "serial":
        return soc
    shared = {core.memory for core in soc.cores.values()} - {soc.main_memory}
    parts = {name: Memory(size_bytes=max(soc.memories[name].capacity_bytes // many, 1)) for name in shared}
    return soc.model_copy(update={"memories": soc.memories | parts})


def problems(mapping: Mapping, workload: Workload, soc: SoC) -> list[str]:
    """Every reason why the machine cannot run the mapping as stated, each with figure and bound; empty if it can."""
    return _checked(mapping, workload, soc)[1]


def checked(mapping: Mapping, workload: Workload, soc: SoC) -> Mapping:
    """The completed mapping; InputError listing every reason why the machine cannot run it."""
    full, reasons = _checked(mapping, workload, soc)
    if reasons:
        raise InputError(f"mapping {mapping.name} does not fit {soc.name}: " + "; ".join(reasons))
    return full


def _checked(mapping: Mapping, workload: Workload, soc: SoC) -> tuple[Mapping, list[str]]:
    if array_of(soc) is not None:
        parallel = [name for group in mapping.groups if group.parallel for name in group.layers]
        if parallel:
            return mapping, [f"parallel group: {soc.name} has one array, which {parallel[0]} cannot share"]
        full = complete_nests(mapping, workload, soc)
        return full, nest_problems(full, workload, soc)
    reasons: list[str] = []
    names = {layer.name for layer in workload}
    reasons += [f"layer {name}: {workload.name} has no such layer" for name in mapping.layers if name not in names]
    for layer in workload:
        given = mapping.layers.get(layer.name)
        if given is not None:
            reasons += _share_problems(layer, given, soc)
    grouped = [name for group in mapping.groups for name in group.layers]
    reasons += [f"group: {workload.name} has no layer {name}" for name in grouped if name not in names]
    reasons += [f"group: layer {name} is named twice" for name in dict.fromkeys(grouped) if grouped.count(name) > 1]
    if reasons:
        return mapping, reasons
    try:
        full = complete(mapping, workload, soc)
        homes = homes_of(workload, full, soc)
    except InputError as error:
        return mapping, [str(error)]
    fused = {name for group in mapping.groups if not group.parallel for name in group.layers}
    for group in mapping.groups:
        why = _parallel_problems if group.parallel else _group_problems
        reasons += why(group.layers, workload, full, soc)
    for layer in workload:
        if layer.name not in fused:
            room = _room(layer.name, mapping, soc)
            part = "" if room is soc else " for each of the parallel layers"
            found = tile_problems(layer, full.layers[layer.name], room, mapping.runtime, homes)
            reasons += [reason + part for reason in found]
    return full, reasons


def _group_problems(members: tuple[str, ...], workload: Workload, mapping: Mapping, soc: SoC) -> list[str]:
    """Why a fused group cannot run: one core a layer, lines and weights resident, and nothing in between."""
    inside, between, reasons = set(members), set[str](), []
    for layer in workload:
        reads = set(layer.inputs)
        if layer.name in inside and reads & between:
            reasons.append(f"group: {layer.name} reads {min(reads & between)}, which waits for the group; add it")
        if layer.name not in inside and reads & (inside | between):
            between.add(layer.name)
    layers = [workload[name] for name in members]
    for layer in layers:
        if len([s for s in mapping.layers[layer.name].shares if s.k]) != 1:
            reasons.append(f"group: layer {layer.name} is split over cores; a fused layer runs on one")
    if reasons:
        return reasons
    try:
        lines = buffer_bytes(workload, members)
    except InputError as error:
        return [str(error)]
    cores = {layer.name: mapping.layers[layer.name].shares[0].core for layer in layers}
    need = sum(lines.values())
    for layer in layers:  # two rows each of what comes in and of what goes out
        need += sum(2 * layer.stride_y * layer.ix * layer.c for name in layer.inputs if name not in inside)
        need += 2 * layer.ox * layer.k * (layer.name not in lines)
    for name in {soc.cores[core].memory for core in cores.values()} - {soc.main_memory}:
        bound = soc.memories[name].capacity_bytes
        if need > bound:
            reasons.append(f"group: its line buffers need {need} bytes of {name}, which has {bound}")
    for name in dict.fromkeys(cores.values()):
        core = soc.cores[name]
        mine = [layer for layer in layers if cores[layer.name] == name]
        tiles = [make_tile(la, la.k, 1, la.ox, mapping.layers[la.name].ox_unroll) for la in mine]
        reasons += [f"group: {name} {reason}" for reason in core.resident(tiles)]
        if core.weight_memory is not None:
            held = sum(weight_transfer_of(layer, soc, core, layer.k, exact).bytes for layer in mine)
            bound = soc.memories[core.weight_memory].capacity_bytes
            if held > bound:
                reasons.append(f"group: weights need {held} bytes of {core.weight_memory}, which has {bound}")
    return reasons


def _parallel_problems(members: tuple[str, ...], workload: Workload, mapping: Mapping, soc: SoC) -> list[str]:
    """Why layers cannot run at once: what they read must be there before the first, and they must not share a core or
    a weight memory."""
    reasons = []
    names = [layer.name for layer in workload]
    at = sorted(names.index(name) for name in members)
    first = at[0]
    if at != list(range(first, first + len(at))):
        between = next(name for name in names[first : at[-1]] if name not in members)
        reasons.append(f"parallel group: layer {between} stands between {names[first]} and {names[at[-1]]}")
    taken: dict[str, str] = {}
    for name in members:
        late = [tensor for tensor in workload[name].inputs if tensor in names[first:]]
        if late:
            reasons.append(f"parallel group: {name} reads {late[0]}, which is not there when the group starts")
        for core in [share.core for share in mapping.layers[name].shares if share.k]:
            for unit in dict.fromkeys(u for u in (core, soc.cores[core].weight_memory) if u is not None):
                if unit in taken and taken[unit] != name:
                    reasons.append(f"parallel group: {taken[unit]} and {name} both use {unit}; give each its own")
                taken[unit] = name
    return reasons


def _share_problems(layer: Layer, given: LayerMapping, soc: SoC) -> list[str]:
    reasons = []
    where = f"layer {layer.name}: "
    total = sum(s.k for s in given.shares)
    if total != layer.k:
        reasons.append(f"{where}shares sum to {total} output channels, the layer has {layer.k}")
    for share in given.shares:
        if share.core not in soc.cores:
            reasons.append(f"{where}{soc.name} has no core {share.core!r}; it has {', '.join(soc.cores)}")
        elif share.k:
            tile = make_tile(layer, share.k, layer.oy, layer.ox, given.ox_unroll)
            reasons += [f"{where}{share.core} {reason}" for reason in soc.cores[share.core].fits(tile)]
    if len({s.core for s in given.shares}) != len(given.shares):
        reasons.append(f"{where}a core is named twice; give it one contiguous share")
    tiling = given.tiling
    if tiling is not None:
        if len(tiling.k) != len(given.shares):
            reasons.append(f"{where}{len(tiling.k)} tile sizes k for {len(given.shares)} shares; give one a share")
        if not (0 < tiling.oy <= layer.oy and 0 < tiling.ox <= layer.ox and all(k > 0 for k in tiling.k)):
            bound = f"1..{layer.oy} x 1..{layer.ox}"
            reasons.append(f"{where}tile oy {tiling.oy} x ox {tiling.ox}, k {tiling.k} is outside {bound}, k >= 1")
        if not 0 <= tiling.c < channels_read(layer) + (tiling.c == 0):
            reasons.append(f"{where}tile c {tiling.c} is outside 1..{channels_read(layer) - 1}; leave it out for all")
    return reasons
