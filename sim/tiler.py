"""Fill in what a mapping leaves open, and say what is wrong with what it states.

Tiles are chosen by enumeration: every sensible cut of rows, columns and channels that the memories admit, under
both orders, is priced with `layer_work` and `layer_time`; the cheapest wins, ties go to fewer and larger tiles.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

from cosoc.sim import exact
from cosoc.sim.errors import InputError
from cosoc.sim.estimate import Theta, layer_time
from cosoc.sim.gemmini.nests import array_of, complete_nests, nest_problems
from cosoc.sim.lower.fusion import buffer_bytes
from cosoc.sim.model.mapping import PARTIAL_BYTES, Group, LayerMapping, Mapping, Order, Runtime, Share, Tiling
from cosoc.sim.model.placement import Homes, place
from cosoc.sim.model.soc import Memory, SoC
from cosoc.sim.model.workload import INPUT, Layer, Workload
from cosoc.sim.work import (
    channels_read,
    copies,
    form,
    input_transfer,
    layer_work,
    make_tile,
    output_transfer,
    spans_x,
    spans_y,
    weight_transfer_of,
)


def unsupported(layer: Layer, soc: SoC, core: str) -> list[str]:
    """Why `core` cannot run `layer` at all, in any form."""
    return _refusals(layer, layer.k, soc, core, 0)


def _refusals(layer: Layer, k: int, soc: SoC, core: str, ox_unroll: int) -> list[str]:
    reasons = soc.cores[core].fits(make_tile(layer, k, layer.oy, layer.ox, ox_unroll))
    other = layer.alternative
    if not reasons or other is None:
        return reasons
    others = soc.cores[core].fits(make_tile(other, k, layer.oy, layer.ox, ox_unroll))
    return others and [*reasons, *(f"and in place of it {reason}" for reason in others)]


def default_core(layer: Layer, soc: SoC) -> str:
    """The core that runs a layer which a mapping is silent about: the first that can, in the layer's own form rather
    than its alternative, ternary ones and the host last."""
    able = [name for name in soc.cores if not unsupported(layer, soc, name)]
    if not able:
        reasons = "; ".join(f"{name} {', '.join(unsupported(layer, soc, name))}" for name in soc.cores)
        raise InputError(f"layer {layer.name} ({layer.fn or layer.op}): no core of {soc.name} can run it: {reasons}")
    return min(able, key=lambda n: (form(layer, soc.cores[n]) is not layer, n == soc.host, soc.cores[n].ternary))


def weight_bytes(layer: Layer, soc: SoC, shares: tuple[Share, ...]) -> int:
    """Bytes of a layer's weights as its cores store them."""
    if layer.op != "conv":
        return 0
    used = [(soc.cores[s.core], s.k) for s in shares if s.k]
    tiles = [(core, make_tile(form(layer, core), k, layer.oy, layer.ox)) for core, k in used]
    return sum(int(core.weight_bytes(tile, exact)) for core, tile in tiles)


def living(workload: Workload, mapping: Mapping, soc: SoC) -> Workload:
    """The workload without layers that only an alternative would read which the mapping does not take; layers with an
    alternative read what their shares read."""
    if all(layer.alternative is None for layer in workload):
        return workload
    needed, kept = set(workload.outputs), list[Layer]()
    for layer in reversed(workload.layers):
        if layer.name in needed:
            cores = [soc.cores[s.core] for s in mapping.layers[layer.name].shares if s.k]
            reads = tuple(dict.fromkeys(name for core in cores for name in form(layer, core).inputs))
            needed.update(reads)
            kept.append(layer if layer.alternative is None else replace(layer, inputs=reads, alternative=None))
    return replace(workload, layers=tuple(reversed(kept)))


def homes_of(workload: Workload, mapping: Mapping, soc: SoC) -> Homes:
    """Where the tensors of a mapped workload live; every layer must have its shares."""
    names = [INPUT, *(layer.name for layer in workload)]
    alive = living(workload, mapping, soc)
    pinned = pinned_weights(workload, mapping, soc)
    moving = (workload[layer.name] for layer in alive if layer.name not in pinned)
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
    homes = place(alive, soc, weights, frozenset(inside))
    tensors = dict.fromkeys(names, soc.main_memory) | dict(homes.tensors)
    return replace(homes, tensors=tensors, pinned=frozenset(pinned), pinned_bytes=taken)


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


@dataclass(frozen=True)
class TileBytes:
    """What the largest tiles of a layer take of a memory: so many buffers, each for inputs and outputs."""

    buffers: int
    inputs: int
    outputs: int

    @property
    def total(self) -> int:
        return self.buffers * (self.inputs + self.outputs)

    def __str__(self) -> str:
        return f"{self.buffers} x ({self.inputs} in + {self.outputs} out) = {self.total} bytes"


def tile_bytes(layer: Layer, mapping: LayerMapping, soc: SoC, runtime: Runtime, homes: Homes) -> dict[str, TileBytes]:
    """What the largest tiles of a layer take of each memory that its cores compute from, but the main one."""
    tiling = mapping.tiling
    assert tiling is not None
    rows, cols = spans_y(layer, tiling.oy), spans_x(layer, tiling.ox)
    y, x = max(rows, key=lambda s: (s.inp, s.other)), max(cols, key=lambda s: (s.inp, s.other))
    out_y, out_x = max(rows, key=lambda s: s.out), max(cols, key=lambda s: s.out)
    shares = [(s, min(kt, s.k)) for s, kt in zip(mapping.shares, tiling.k, strict=True) if s.k]
    taken = {}
    many = len(rows) + len(cols) > 2 or any(s.count > 1 for s in (*rows, *cols)) or any(s.k > kt for s, kt in shares)
    buffers = 2 if runtime == "overlapped" and many else 1
    read = copies(layer, soc, [(i, s.core) for i, (s, _) in enumerate(shares)])
    for name in {soc.cores[s.core].memory for s, _ in shares} - {soc.main_memory}:
        here = [(s, kt) for s, kt in shares if soc.cores[s.core].memory == name]
        inputs = 0
        for copy in read:
            mine = [shares[i][1] for i in copy.shares if soc.cores[shares[i][0].core].memory == name]
            if mine:
                under = (y.under(layer, copy.layer), x.under(layer, copy.layer))
                loaded = input_transfer(copy.layer, soc, name, mine[0], *under, homes.inputs(layer), exact).bytes
                inputs += loaded * sum({soc.cores[shares[i][0].core].element_bytes for i in copy.shares})
        outputs = sum(
            output_transfer(layer, soc, name, kt, out_y, out_x, homes.output(layer), exact).bytes
            * (PARTIAL_BYTES if tiling.c else soc.cores[s.core].element_bytes)
            for s, kt in here
        )
        taken[name] = TileBytes(buffers, inputs, outputs)
    return taken


def tile_problems(layer: Layer, mapping: LayerMapping, soc: SoC, runtime: Runtime, homes: Homes) -> list[str]:
    """Which memories the largest tiles of a layer overflow, with figure and bound."""
    tiling = mapping.tiling
    assert tiling is not None
    reasons = []
    for name, need in tile_bytes(layer, mapping, soc, runtime, homes).items():
        bound = soc.memories[name].capacity_bytes
        if need.total > bound:
            reasons.append(f"layer {layer.name}: tiles need {need} of {name}, which has {bound}")
    for share, kt in [(s, min(kt, s.k)) for s, kt in zip(mapping.shares, tiling.k, strict=True) if s.k]:
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
    untiled = {name for name, given in layers.items() if given.tiling is None and name not in fused}
    for layer in workload:
        given = layers[layer.name]
        if layer.name in untiled:
            layers[layer.name] = replace(given, tiling=best_tiling(layer, given, soc, mapping.runtime, homes))
    for group in at_once(mapping):
        members = [workload[name] for name in group.layers]
        alone = {name: layers[name] for name in group.layers}
        layers |= _at_once(alone, members, [layer for layer in members if layer.name in untiled], soc, homes)
    return replace(mapping, layers=layers)


def at_once(mapping: Mapping) -> list[Group]:
    """The groups whose layers do run at once."""
    return [group for group in mapping.groups if group.parallel and mapping.runtime != "serial"]


Needs = dict[str, int]  # bytes, by memory
Option = tuple[float, Needs, dict[str, Tiling]]  # ticks, what it takes of the memories, the tiles of some layers

PARTS = 8  # of a memory: the rooms that are tried for a layer which shares it


def _at_once(
    alone: dict[str, LayerMapping], members: list[Layer], untiled: list[Layer], soc: SoC, homes: Homes
) -> dict[str, LayerMapping]:
    """Tiles of layers that run at once, from those that each would have alone; only those of `untiled` may change.

    Where those do not fit together, each is tiled for rooms from its smallest tile up. Of the combinations that fit,
    the one with the least sum of the layers' own times is taken: small tiles keep the DMA busy, and make all wait.
    InputError where not even the smallest tiles fit.
    """
    most = {layer.name: _totals(layer, alone[layer.name], soc, homes) for layer in members}
    if not untiled or not _crowded(most, soc):
        return alone
    least = dict(most)
    for layer in untiled:
        given = alone[layer.name]
        smallest = Tiling((1,) * len(given.shares), 1, 1, c=int(channels_read(layer) > 1))
        need = _totals(layer, replace(given, tiling=smallest), soc, homes)
        least[layer.name] = {name: min(most[layer.name][name], need[name]) for name in need}
    if crowded := _crowded(least, soc):
        raise InputError("; ".join(crowded))
    found: list[Option] = [(0.0, _sums(most[layer.name] for layer in members if layer not in untiled), {})]
    for n, layer in enumerate(untiled):
        rest = _sums(least[other.name] for other in untiled[n + 1 :])
        options = _options(layer, alone[layer.name], least[layer.name], most[layer.name], soc, homes)
        found = _fitting(found, options, rest, soc)
    if not found:
        raise InputError("; ".join(_crowded(most, soc)))
    _, _, tilings = min(found, key=lambda option: option[0])
    return alone | {name: replace(alone[name], tiling=tiling) for name, tiling in tilings.items()}


def _options(layer: Layer, alone: LayerMapping, least: Needs, most: Needs, soc: SoC, homes: Homes) -> list[Option]:
    """The best tiles of a layer for rooms from its smallest tile to what it takes alone."""
    out: list[Option] = []
    shares = [(share.core, share.k) for share in alone.shares]
    for part in range(PARTS + 1):
        room = {n: min(max(soc.memories[n].capacity_bytes * part // PARTS, least[n]), most[n]) for n in most}
        tight = {name: Memory(size_bytes=max(size, 1)) for name, size in room.items()}
        small = soc.model_copy(update={"memories": soc.memories | tight})
        try:
            tiled = (
                alone if room == most else replace(alone, tiling=best_tiling(layer, alone, small, "overlapped", homes))
            )
        except InputError:  # shares that fit one by one, but not together
            continue
        assert tiled.tiling is not None
        work = layer_work(layer, soc, shares, tiled, homes, exact)
        ticks = float(layer_time(layer, work, soc, "overlapped", homes, Theta(), exact).ticks)
        out.append((ticks, _totals(layer, tiled, soc, homes), {layer.name: tiled.tiling}))
    return out


def _fitting(found: list[Option], options: list[Option], rest: Needs, soc: SoC) -> list[Option]:
    """Combinations that leave the rest its room, without those that another beats in time and in every memory."""
    both = [(a + b, _sums((x, y)), s | t) for a, x, s in found for b, y, t in options]
    fit = [o for o in both if not _crowded({"": _sums((o[1], rest))}, soc)]
    out: list[Option] = []
    for ticks, need, tilings in sorted(fit, key=lambda option: option[0]):
        if not any(all(other.get(name, 0) <= size for name, size in need.items()) for _, other, _ in out):
            out.append((ticks, need, tilings))
    return out


def _sums(needs: Iterable[Needs]) -> Needs:
    """What several take of each memory together."""
    out: Needs = {}
    for need in needs:
        for name, size in need.items():
            out[name] = out.get(name, 0) + size
    return out


def _totals(layer: Layer, mapping: LayerMapping, soc: SoC, homes: Homes) -> Needs:
    """Bytes of each memory that a layer's tiles take while it runs beside others."""
    return {name: need.total for name, need in tile_bytes(layer, mapping, soc, "overlapped", homes).items()}


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
            reasons += tile_problems(layer, full.layers[layer.name], soc, mapping.runtime, homes)
    if not reasons:
        for group in at_once(full):
            needs = {n: _totals(workload[n], full.layers[n], soc, homes) for n in group.layers}
            reasons += _crowded(needs, soc)
    return full, reasons


def _crowded(needs: dict[str, Needs], soc: SoC) -> list[str]:
    """Which memories the tiles of layers that run at once overflow together."""
    reasons = []
    for memory, total in _sums(needs.values()).items():
        bound = soc.memories[memory].capacity_bytes
        if total > bound:
            how = " + ".join(f"{need[memory]} of {name}" for name, need in needs.items() if memory in need)
            reasons.append(f"parallel group: tiles need {how} = {total} bytes of {memory}, which has {bound}")
    return reasons


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
        elif layer.alternative is not None:
            reasons.append(f"group: layer {layer.name} has an alternative form; it cannot be fused")
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
            refused = _refusals(layer, share.k, soc, share.core, given.ox_unroll)
            reasons += [f"{where}{share.core} {reason}" for reason in refused]
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
