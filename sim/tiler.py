"""Fill in what a mapping leaves open, and say what is wrong with what it states.

Tiles are chosen by enumeration: every sensible cut of rows, columns and channels that the memories admit, under
both orders, is priced with `layer_work` and `layer_time`; the cheapest wins, ties go to fewer and larger tiles.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, product

from cosoc.sim import exact
from cosoc.sim.errors import InputError
from cosoc.sim.estimate import layer_time
from cosoc.sim.exact import Num
from cosoc.sim.lower.fusion import buffer_bytes
from cosoc.sim.model.mapping import (
    DIMS,
    INPUTS_STAY,
    PARTIAL_BYTES,
    WEIGHTS_STAY,
    Dim,
    Extent,
    LayerPlan,
    Mapping,
    Part,
    Piece,
    Runtime,
)
from cosoc.sim.model.placement import Homes, place
from cosoc.sim.model.soc import Memory, SoC
from cosoc.sim.model.tiles import (
    behind_caches,
    behind_dma,
    channel_slice,
    channels_read,
    cut_channels,
    form,
    make_tile,
    tile_counts,
    tiled,
    whole,
)
from cosoc.sim.model.workload import Layer, Workload
from cosoc.sim.movers.cached_terms import NEST_DIMS, Machine, Tiles, in_rows, rows_needed, shape_of, tile_in_rows
from cosoc.sim.movers.dma_terms import (
    Span,
    Window,
    copies,
    input_transfer,
    output_transfer,
    weight_transfer_of,
    windows,
)
from cosoc.sim.movers.fused_steps import chain, misfits, why_not
from cosoc.sim.movers.library_tiles import default_nest
from cosoc.sim.theta import Theta
from cosoc.sim.work import layer_work


def unsupported(layer: Layer, soc: SoC, core: str) -> list[str]:
    """Why `core` cannot run `layer` at all, in any form."""
    return refusals(layer, Part(core, layer.k), soc)


def refusals(layer: Layer, part: Part, soc: SoC, unroll: int = 0) -> list[str]:
    """Why the core of a part cannot run it, in any of the layer's forms."""
    core = soc.core_of(part)
    reasons = core.fits(make_tile(layer, part.channels, layer.oy, layer.ox, unroll))
    other = layer.alternative
    if not reasons or other is None:
        return reasons
    others = core.fits(make_tile(other, part.channels, layer.oy, layer.ox, unroll))
    return others and [*reasons, *(f"and in place of it {reason}" for reason in others)]


def default_core(layer: Layer, soc: SoC) -> str:
    """The core that runs a layer which a mapping is silent about: the first that can, in the layer's own form rather
    than its alternative, ternary ones and the host last."""
    able = [name for name in soc.cores if not unsupported(layer, soc, name)]
    if not able:
        reasons = "; ".join(f"{name} {', '.join(unsupported(layer, soc, name))}" for name in soc.cores)
        raise InputError(f"layer {layer.name} ({layer.fn or layer.op}): no core of {soc.name} can run it: {reasons}")
    return min(able, key=lambda n: (form(layer, soc.cores[n]) is not layer, n == soc.host, soc.cores[n].ternary))


def weight_bytes(layer: Layer, soc: SoC, parts: tuple[Part, ...]) -> int:
    """Bytes of a layer's weights as its cores store them."""
    if layer.op != "conv":
        return 0
    used = [(soc.core_of(part), part.channels) for part in parts if part.channels]
    tiles = [(core, make_tile(form(layer, core), k, layer.oy, layer.ox)) for core, k in used]
    return sum(int(core.weight_bytes(tile, exact)) for core, tile in tiles)


def living(workload: Workload, mapping: Mapping, soc: SoC) -> Workload:
    """The workload without layers that only an alternative would read which the mapping does not take; layers with an
    alternative read what their parts read."""
    if all(layer.alternative is None for layer in workload):
        return workload
    needed, kept = set(workload.outputs), list[Layer]()
    for layer in reversed(workload.layers):
        if layer.name in needed:
            cores = [soc.core_of(part) for part in mapping.layers[layer.name].parts if part.channels]
            reads = tuple(dict.fromkeys(name for core in cores for name in form(layer, core).inputs))
            needed.update(reads)
            kept.append(layer if layer.alternative is None else replace(layer, inputs=reads, alternative=None))
    return replace(workload, layers=tuple(reversed(kept)))


def homes_of(workload: Workload, mapping: Mapping, soc: SoC) -> Homes:
    """Where the tensors of a mapped workload live; every layer must have its parts."""
    names = [*workload.incoming, *(layer.name for layer in workload)]
    alive = living(workload, mapping, soc)
    pinned = pinned_weights(workload, mapping, soc)
    moving = (workload[layer.name] for layer in alive if layer.name not in pinned)
    weights = sum(weight_bytes(layer, soc, mapping.layers[layer.name].parts) for layer in moving)
    inside = set()
    for piece in mapping.pieces:
        members = set(piece.layers) if piece.how == "fused" else set[str]()
        inside |= {n for n in members if n not in workload.outputs and set(workload.readers(n)) <= members}
    taken: dict[str, int] = {}
    for name in pinned:
        part = next(part for part in mapping.layers[name].parts if part.channels)
        memory = soc.cores[part.core].weight_memory
        assert memory is not None
        taken[memory] = taken.get(memory, 0) + weight_bytes(workload[name], soc, (part,))
    homes = place(alive, soc, weights, frozenset(inside), _staged(alive, mapping, soc))
    tensors = dict.fromkeys(names, soc.main_memory) | dict(homes.tensors)
    room = dict.fromkeys(names, soc.memories[soc.main_memory].capacity_bytes) | dict(homes.room)
    return replace(homes, tensors=tensors, pinned=frozenset(pinned), pinned_bytes=taken, room=room)


def _staged(workload: Workload, mapping: Mapping, soc: SoC) -> dict[str, int]:
    """Bytes of the main memory for tiles of one row and channel of each layer that a core computes from there, if its
    tensors were in the backing memory."""
    main, backing = soc.main_memory, soc.backing_memory
    if backing is None or not (soc.has_route(backing, main) and soc.has_route(main, backing)):
        return {}
    away = Homes(main, dict.fromkeys((*workload.incoming, *(layer.name for layer in workload)), backing), False, 0)
    out = {}
    for layer in workload:
        plan = mapping.layers[layer.name]
        if any(part.channels and soc.cores[part.core].memory == main for part in plan.parts):
            rows = tiled(layer, plan, soc, (1,) * len(plan.parts), 1, layer.ox, n=1)
            out[layer.name] = tile_bytes(layer, rows, soc, mapping.runtime, away)[main].total
    return out


def pinned_weights(workload: Workload, mapping: Mapping, soc: SoC) -> tuple[str, ...]:
    """Layers whose weights stay in the weight memory of a core that keeps them: all if all fit, else the first ones
    that fill half of it, while the others pass through the other half. Layers on several cores are not kept."""
    out: list[str] = []
    for name, core in soc.cores.items():
        if not core.keeps_weights or core.weight_memory is None:
            continue
        alone = [n for n in workload if [p.core for p in mapping.layers[n.name].parts if p.channels] == [name]]
        sizes = {n.name: weight_bytes(n, soc, mapping.layers[n.name].parts) for n in alone if n.op == "conv"}
        room = soc.memories[core.weight_memory].capacity_bytes
        if sum(sizes.values()) > room:
            room //= 2
        for layer, size in sizes.items():
            if size <= room:
                room -= size
                out.append(layer)
    return tuple(out)


@dataclass(frozen=True)
class TileBytes:
    """What the largest tiles of a layer take of a memory: so many buffers, each for inputs and outputs."""

    buffers: Num
    inputs: Num
    outputs: Num

    @property
    def total(self) -> Num:
        return self.buffers * (self.inputs + self.outputs)

    def __str__(self) -> str:
        return f"{self.buffers} x ({self.inputs} in + {self.outputs} out) = {self.total} bytes"


def tile_bytes(layer: Layer, plan: LayerPlan, soc: SoC, runtime: Runtime, homes: Homes) -> dict[str, TileBytes]:
    """What the largest tiles of a layer take of each memory that its cores compute from, those behind a cached mover
    left out; of the main one where its tensors lie elsewhere. k, oy and ox of the tiles may be arrays."""
    plan = behind_dma(plan, soc)
    if not plan.parts:
        return {}
    cut = windows(layer, plan.tile)
    most = out = Window(max(at.n for at in cut), _largest([at.y for at in cut]), _largest([at.x for at in cut]), 1)
    parts = [(p, exact.minimum(p.tile.k, p.channels)) for p in plan.parts if p.channels and p.tile is not None]
    cut_c = cut_channels(layer, soc, plan)
    taken = {}
    tiles = sum(at.count for at in cut) * exact.maximum(1, *(exact.ceildiv(part.channels, k) for part, k in parts))
    buffers = exact.where(tiles > 1, 2, 1) if runtime == "overlapped" else 1
    read = copies(layer, soc, [(i, part.core) for i, (part, _) in enumerate(parts)])
    for name in {soc.cores[part.core].memory for part, _ in parts}:
        if name == homes.inputs(layer) == homes.output(layer):
            continue
        here = [(part, k) for part, k in parts if soc.cores[part.core].memory == name]
        inputs = 0
        for copy in read:
            mine = [parts[i][1] for i in copy.shares if soc.cores[parts[i][0].core].memory == name]
            if mine:
                under = most.under(layer, copy.layer)
                loaded = input_transfer(copy.layer, soc, name, mine[0], under, homes.inputs(layer), exact).bytes
                inputs += loaded * sum({soc.cores[parts[i][0].core].element_bytes for i in copy.shares})
        outputs = sum(
            output_transfer(layer, soc, name, k, out, homes.output(layer), exact).bytes
            * (PARTIAL_BYTES if cut_c else soc.cores[part.core].element_bytes)
            for part, k in here
        )
        taken[name] = TileBytes(buffers, inputs, outputs)
    return taken


def room_for(layer: Layer, memory: str, soc: SoC, homes: Homes) -> int:
    """Bytes of a memory that the tiles of a layer may take."""
    return homes.room[layer.name] if memory == homes.main else soc.memories[memory].capacity_bytes


def _largest(spans: Sequence[Span]) -> Span:
    """The most that any of them has, of outputs and of inputs."""
    out, inp, other = (exact.maximum(0, *[getattr(span, key) for span in spans]) for key in ("out", "inp", "other"))
    return Span(out, inp, 1, other)


def tile_problems(layer: Layer, plan: LayerPlan, soc: SoC, runtime: Runtime, homes: Homes) -> list[str]:
    """Which memories the largest tiles of a layer overflow, with figure and bound."""
    reasons = []
    for name, need in tile_bytes(layer, plan, soc, runtime, homes).items():
        bound = room_for(layer, name, soc, homes)
        if need.total > bound:
            beside = " free beside what lives there" if name == homes.main else ""
            reasons.append(f"layer {layer.name}: tiles need {need} of {name}, which has {bound}{beside}")
    for _, part in behind_caches(plan, soc):
        reasons += [f"layer {layer.name}: {reason}" for reason in _overfull(layer, soc, part)]
    cut_c = cut_channels(layer, soc, plan)
    for part in behind_dma(plan, soc).parts:
        if not part.channels or part.tile is None:
            continue
        core, k = soc.core_of(part), min(part.tile.k, part.channels)
        need = weight_transfer_of(layer, soc, core, k, exact, cut_c, homes).bytes
        if core.weight_memory is None or not need:
            continue
        bound = homes.weight_room(soc, core.weight_memory)
        if need > bound:
            what = f"weights of {k} channels need {need} bytes of {core.weight_memory}, which has {bound}"
            reasons.append(f"layer {layer.name}: {what}")
        if not homes.weights_in_main and need > homes.stream_bytes:
            what = f"weights of {k} channels need {need} bytes to stream through {soc.main_memory}"
            reasons.append(f"layer {layer.name}: {what}, of which {homes.stream_bytes} are set aside")
    return reasons


def _overfull(layer: Layer, soc: SoC, part: Part) -> list[str]:
    """Which of an array's memories a tile overflows: half of each, as tiles are double-buffered."""
    machine = Machine.of(soc, part.core)
    assert part.tile is not None
    tiles = Tiles.of(tile_in_rows(layer, part.tile))
    spad, acc = rows_needed(shape_of(channel_slice(layer, part.channels)), tiles, machine)
    return [
        f"a tile needs {need} rows of the {name}; half of it, as tiles are double-buffered, has {has // 2}"
        for name, need, has in (("scratchpad", spad, machine.spad_rows), ("accumulator", acc, machine.acc_rows))
        if need > has // 2
    ]


def cuts(size: int) -> tuple[int, ...]:
    """The tile sizes that cut `size` into 1, 2, 3, ... nearly equal parts, largest first."""
    few = range(1, math.isqrt(size) + 2)  # parts; sizes up to there come from as many parts as they need
    large, small = {-(-size // parts) for parts in few}, {-(-size // -(-size // tile)) for tile in few}
    return tuple(sorted(large | small, reverse=True))


def channel_tiles(k: int, step: int) -> tuple[int, ...]:
    """Tile sizes for k channels: all, multiples of the core's step, and below the step every cut."""
    if k == 0:
        return (1,)
    steps = {-(-c // step) * step for c in cuts(k) if c < k}
    return tuple(sorted({k} | {s for s in steps if s < k} | {c for c in cuts(min(k, step)) if c < step}, reverse=True))


ENOUGH = 4  # cuts past the first that fits: finer ones only add jobs and calls


def _channel_choices(
    layer: Layer, plan: LayerPlan, soc: SoC, runtime: Runtime, homes: Homes
) -> tuple[list[tuple[int, ...]], int]:
    """Tiles of output channels, one a part, whose weights fit, and the input channels a job (0: all) for that."""
    total = channels_read(layer)
    for c in cuts(total):
        c = 0 if c == total else c
        choices = []
        for part in plan.parts:
            alone = replace(plan, parts=(replace(part, channels=max(part.channels, 1), tile=None),))
            tiles = channel_tiles(part.channels, soc.cores[part.core].channel_step)
            smallest = (tiled(layer, alone, soc, (k,), 1, 1, c=c, n=1) for k in tiles)
            legal = (p.tile.k for p in smallest if not tile_problems(layer, p, soc, runtime, homes))
            choices.append(list(islice(legal, ENOUGH)))
        if all(choices):
            most = max(len(tiles) for tiles in choices)
            return list(dict.fromkeys(tuple(t[min(i, len(t) - 1)] for t in choices) for i in range(most))), c
    return [], 0


def candidates(layer: Layer, plan: LayerPlan, soc: SoC, runtime: Runtime, homes: Homes) -> Iterator[LayerPlan]:
    """The plan under legal tiles, from the largest down: a few cuts past the first that fits, in every dimension.

    Input channels are cut only where no tile of output channels fits otherwise, and columns only as far as they must
    be: cutting them breaks rows into pieces.
    """
    k_choices, c = _channel_choices(layer, plan, soc, runtime, homes)
    for k, n in product(k_choices, cuts(layer.n)):
        single = c == 0 and all(part.channels <= tile for part, tile in zip(plan.parts, k, strict=True))
        orders: tuple[tuple[Dim, ...], ...] = (WEIGHTS_STAY,) if single else (WEIGHTS_STAY, INPUTS_STAY)
        for ox in cuts(layer.ox):
            by_rows = (tiled(layer, plan, soc, k, oy, ox, c=c, n=n) for oy in cuts(layer.oy))
            legal = list(islice((p for p in by_rows if not tile_problems(layer, p, soc, runtime, homes)), ENOUGH))
            yield from (replace(found, order=order) for found in legal for order in orders)
            if legal:
                break


def best_tiling(
    layer: Layer, plan: LayerPlan, soc: SoC, runtime: Runtime, homes: Homes, theta: Theta | None = None
) -> LayerPlan:
    """The plan under the cheapest legal tiles by `layer_time`; InputError where no tile fits, naming the buffer."""
    best: tuple[float, LayerPlan] | None = None
    for found in candidates(layer, plan, soc, runtime, homes):
        ticks = planned_ticks(layer, found, soc, runtime, homes, theta)
        if best is None or ticks < best[0]:
            best = (ticks, found)
    if best is None:
        smallest = tiled(layer, plan, soc, (1,) * len(plan.parts), 1, 1, c=1, n=1)
        raise InputError("; ".join(tile_problems(layer, smallest, soc, runtime, homes)))
    return best[1]


def planned_ticks(
    layer: Layer, plan: LayerPlan, soc: SoC, runtime: Runtime, homes: Homes, theta: Theta | None = None
) -> float:
    """The estimated ticks of a layer by itself under a tiled plan."""
    shares = [(part.core, part.channels) for part in plan.parts]
    work = layer_work(layer, soc, shares, plan, homes, exact, theta)
    return float(layer_time(layer, work, soc, runtime, homes, theta or Theta(), exact).ticks)


def tiled_plan(layer: Layer, plan: LayerPlan, soc: SoC, runtime: Runtime, homes: Homes) -> LayerPlan:
    """The plan with tiles: behind a DMA the cheapest; behind a cached mover those that its array's library takes, which
    load their own operands every time. A layer on both has one order of loops, and operands stay."""
    cached = behind_caches(plan, soc)
    if not cached:
        return best_tiling(layer, plan, soc, runtime, homes)
    found = {
        part.core: default_nest(shape_of(channel_slice(layer, part.channels)), Machine.of(soc, part.core))
        for _, part in cached
    }
    tiles = {core: replace(t, n=t.ox, ox=1) if in_rows(layer) else t for core, (t, _) in found.items()}
    order, beside = next(iter(found.values()))[1], behind_dma(plan, soc)
    if beside.parts:
        beside = best_tiling(layer, beside, soc, runtime, homes)
        order = beside.loops
        tiles |= {part.core: part.tile for part in beside.parts if part.tile is not None}
    parts = tuple(replace(part, tile=tiles.get(part.core, whole(layer))) for part in plan.parts)
    return replace(plan, parts=parts, order=order, reuse=plan.reuse and bool(beside.parts))


def complete(mapping: Mapping, workload: Workload, soc: SoC) -> Mapping:
    """The same mapping with parts for every layer, and tiles for every layer outside fused pieces that go row by row.

    Raises InputError where a layer can run nowhere or no tile of it fits.
    """
    layers = {}
    for layer in workload:
        given = mapping.layers.get(layer.name)
        layers[layer.name] = _as_stored(layer, given or LayerPlan((Part(default_core(layer, soc), layer.k),)), soc)
    mapping = replace(mapping, layers=layers)
    homes = homes_of(workload, mapping, soc)
    fused = {name for piece in mapping.pieces if piece.how == "fused" for name in piece.layers}
    by_rows = {name for name in fused if name in layers and behind_dma(layers[name], soc).parts}
    untiled = {name for name, given in layers.items() if not given.is_tiled and name not in by_rows}
    known: dict[object, LayerPlan] = {}  # layers that are alike, down to their homes, have the same best tiles
    for layer in (layer for layer in workload if layer.name in untiled):
        plan, pinned = layers[layer.name], layer.name in homes.pinned
        shape = replace(layer, name="", inputs=("",) * len(layer.inputs))
        ends = homes.inputs(layer), homes.output(layer)
        alike = shape, plan, ends, pinned, set(ends) != {homes.main} and homes.room[layer.name]
        if alike not in known:
            known[alike] = tiled_plan(layer, plan, soc, mapping.runtime, homes)
        layers[layer.name] = known[alike]
    for piece in at_once(mapping):
        members = [workload[name] for name in piece.layers]
        alone = {name: layers[name] for name in piece.layers}
        layers |= _at_once(alone, members, [layer for layer in members if layer.name in untiled], soc, homes)
    return replace(mapping, layers=layers)


def _as_stored(layer: Layer, plan: LayerPlan, soc: SoC) -> LayerPlan:
    """The plan with the format that the network has its weights in, on cores with that format, where it is silent."""
    bits = layer.weight_bits
    if all(part.core not in soc.cores or bits not in soc.cores[part.core].weight_formats for part in plan.parts):
        return plan
    has = [part.bits is None and bits in soc.cores[part.core].weight_formats for part in plan.parts]
    parts = (replace(part, bits=bits) if here else part for part, here in zip(plan.parts, has, strict=True))
    return replace(plan, parts=tuple(parts))


def at_once(mapping: Mapping) -> list[Piece]:
    """The pieces whose layers do run at once."""
    return [piece for piece in mapping.pieces if piece.how == "parallel" and mapping.runtime != "serial"]


Needs = dict[str, int]  # bytes, by memory
Option = tuple[float, Needs, dict[str, LayerPlan]]  # ticks, what it takes of the memories, the plans of some layers

PARTS = 8  # of a memory: the rooms that are tried for a layer which shares it


def _at_once(
    alone: dict[str, LayerPlan], members: list[Layer], untiled: list[Layer], soc: SoC, homes: Homes
) -> dict[str, LayerPlan]:
    """Tiles of layers that run at once, from those that each would have alone; only those of `untiled` may change.

    Where those do not fit together, each is tiled for rooms from its smallest tile up. Of the combinations that fit,
    the one with the least sum of the layers' own times is taken: small tiles keep the DMA busy, and make all wait.
    InputError where not even the smallest tiles fit.
    """
    most = {layer.name: _totals(layer, alone[layer.name], soc, homes) for layer in members}
    bounds = {name: min(room_for(layer, name, soc, homes) for layer in members) for name in soc.memories}
    if not untiled or not _crowded(most, bounds):
        return alone
    least = dict(most)
    for layer in untiled:
        given = alone[layer.name]
        smallest = tiled(layer, given, soc, (1,) * len(given.parts), 1, 1, c=int(channels_read(layer) > 1), n=1)
        need = _totals(layer, smallest, soc, homes)
        least[layer.name] = {name: min(most[layer.name][name], need[name]) for name in need}
    if crowded := _crowded(least, bounds):
        raise InputError("; ".join(crowded))
    found: list[Option] = [(0.0, _sums(most[layer.name] for layer in members if layer not in untiled), {})]
    for n, layer in enumerate(untiled):
        rest = _sums(least[other.name] for other in untiled[n + 1 :])
        options = _options(layer, alone[layer.name], least[layer.name], most[layer.name], soc, homes)
        found = _fitting(found, options, rest, bounds)
    if not found:
        raise InputError("; ".join(_crowded(most, bounds)))
    _, _, plans = min(found, key=lambda option: option[0])
    return alone | plans


def _options(layer: Layer, alone: LayerPlan, least: Needs, most: Needs, soc: SoC, homes: Homes) -> list[Option]:
    """The best tiles of a layer for rooms from its smallest tile to what it takes alone."""
    out: list[Option] = []
    for part in range(PARTS + 1):
        room = {n: min(max(room_for(layer, n, soc, homes) * part // PARTS, least[n]), most[n]) for n in most}
        tight = {name: Memory(size_bytes=max(size, 1)) for name, size in room.items() if name != homes.main}
        small = soc.model_copy(update={"memories": soc.memories | tight})
        beside = replace(homes, room={**homes.room, layer.name: room.get(homes.main, 0)})
        try:
            plan = alone if room == most else best_tiling(layer, alone, small, "overlapped", beside)
        except InputError:  # parts that fit one by one, but not together
            continue
        ticks = planned_ticks(layer, plan, soc, "overlapped", homes)
        out.append((ticks, _totals(layer, plan, soc, homes), {layer.name: plan}))
    return out


def _fitting(found: list[Option], options: list[Option], rest: Needs, bounds: Needs) -> list[Option]:
    """Combinations that leave the rest its room, without those that another beats in time and in every memory."""
    both = [(a + b, _sums((x, y)), s | t) for a, x, s in found for b, y, t in options]
    fit = [o for o in both if not _crowded({"": _sums((o[1], rest))}, bounds)]
    out: list[Option] = []
    for ticks, need, plans in sorted(fit, key=lambda option: option[0]):
        if not any(all(other.get(name, 0) <= size for name, size in need.items()) for _, other, _ in out):
            out.append((ticks, need, plans))
    return out


def _sums(needs: Iterable[Needs]) -> Needs:
    """What several take of each memory together."""
    out: Needs = {}
    for need in needs:
        for name, size in need.items():
            out[name] = out.get(name, 0) + size
    return out


def _totals(layer: Layer, plan: LayerPlan, soc: SoC, homes: Homes) -> Needs:
    """Bytes of each memory that a layer's tiles take while it runs beside others."""
    return {name: need.total for name, need in tile_bytes(layer, plan, soc, "overlapped", homes).items()}


Problem = tuple[tuple[str | int, ...], str]  # where in a mapping file, and what is wrong there


def problems(mapping: Mapping, workload: Workload, soc: SoC) -> list[Problem]:
    """Every reason why the machine cannot run the mapping as stated, each with figure and bound, and every key of it
    that would have no effect; empty if there is none."""
    return _checked(mapping, workload, soc)[1]


def checked(mapping: Mapping, workload: Workload, soc: SoC) -> Mapping:
    """The completed mapping; InputError listing every reason why the machine cannot run it."""
    full, reasons = _checked(mapping, workload, soc)
    if reasons:
        raise InputError(f"mapping {mapping.name} does not fit {soc.name}: " + "; ".join(why for _, why in reasons))
    return full


def _checked(mapping: Mapping, workload: Workload, soc: SoC) -> tuple[Mapping, list[Problem]]:
    if mapping.stages:
        return mapping, [(("stages",), f"{soc.name} is one SoC and has no stages; leave them out, or name a cluster")]
    if mapping.micro_batch != 1:
        what = f"goes with the stages of a cluster, and {soc.name} is one SoC; leave it out"
        return mapping, [(("micro_batch",), what)]
    reasons: list[Problem] = []
    names = {layer.name for layer in workload}
    reasons += [
        (("layers", name), f"layer {name}: {workload.name} has no such layer")
        for name in mapping.layers
        if name not in names
    ]
    fused = {name for piece in mapping.pieces if piece.how == "fused" for name in piece.layers}
    for layer in workload:
        given = mapping.layers.get(layer.name)
        if given is not None:
            reasons += _plan_problems(layer, given, soc, layer.name in fused)
    reasons += _piece_names(mapping, workload)
    if reasons:
        return mapping, reasons
    try:
        full = complete(mapping, workload, soc)
        homes = homes_of(workload, full, soc)
    except InputError as error:
        return mapping, [((), str(error))]
    for i, piece in enumerate(mapping.pieces):
        why = _parallel_problems if piece.how == "parallel" else fused_problems
        if piece.how == "fused" and any(behind_caches(full.layers[name], soc) for name in piece.layers):
            why = _stepwise_problems
        reasons += [(("pieces", i, *key), reason) for key, reason in why(piece, workload, full, soc)]
    for layer in workload:
        if layer.name not in fused:
            found = tile_problems(layer, full.layers[layer.name], soc, mapping.runtime, homes)
            reasons += [(("layers", layer.name, "tile"), reason) for reason in found]
    if not reasons:
        for i, piece in enumerate(mapping.pieces):
            if piece in at_once(full):
                members = [workload[name] for name in piece.layers]
                needs = {layer.name: _totals(layer, full.layers[layer.name], soc, homes) for layer in members}
                bounds = {name: min(room_for(layer, name, soc, homes) for layer in members) for name in soc.memories}
                reasons += [(("pieces", i), reason) for reason in _crowded(needs, bounds)]
    return full, reasons


def _piece_names(mapping: Mapping, workload: Workload) -> list[Problem]:
    """Pieces name layers of the workload, each in one piece only."""
    names, seen, reasons = {layer.name for layer in workload}, set[str](), list[Problem]()
    for i, piece in enumerate(mapping.pieces):
        for j, name in enumerate(piece.layers):
            if name not in names:
                reasons.append((("pieces", i, "layers", j), f"piece: {workload.name} has no layer {name}"))
            elif name in seen:
                reasons.append((("pieces", i, "layers", j), f"piece: layer {name} is named twice"))
            seen.add(name)
    return reasons


def _crowded(needs: dict[str, Needs], bounds: Needs) -> list[str]:
    """Which memories, of so many bytes each, the tiles of layers that run at once overflow together."""
    reasons = []
    for memory, total in _sums(needs.values()).items():
        bound = bounds[memory]
        if total > bound:
            how = " + ".join(f"{need[memory]} of {name}" for name, need in needs.items() if memory in need)
            reasons.append(f"parallel piece: tiles need {how} = {total} bytes of {memory}, which has {bound}")
    return reasons


def fused_problems(piece: Piece, workload: Workload, mapping: Mapping, soc: SoC) -> list[Problem]:
    """Why a fused piece cannot run, under the key to blame: one core a layer, lines and weights resident, and nothing
    in between."""
    out: list[Problem] = []
    if not piece.keep_rows:
        what = f"piece: {soc.name} keeps the rows that two tiles both need; keep_rows: false means nothing here"
        out.append((("keep_rows",), what))
    if piece.resident is not None:
        what = f"piece: on {soc.name} the weights of all layers of a fused piece stay; leave out resident"
        out.append((("resident",), what))
    return out + [(("layers",), reason) for reason in _misfused(piece.layers, workload, mapping, soc)]


def _stepwise_problems(piece: Piece, workload: Workload, mapping: Mapping, soc: SoC) -> list[Problem]:
    """Why layers cannot run fused behind a cached mover: a run of layers that follow each other, all on one array,
    whose tiles fit its memories together."""
    positions = [layer.name for layer in workload]
    at = [positions.index(name) for name in piece.layers]
    cores = {part.core for name in piece.layers for part in mapping.layers[name].parts if part.channels}
    name = f"piece {', '.join(piece.layers)}"
    if len(cores) > 1:
        return [(("layers",), f"{name}: runs on {', '.join(sorted(cores))}; behind a cached mover it runs on one")]
    if at != list(range(at[0], at[0] + len(at))):
        return [(("layers",), f"{name}: its layers do not follow each other in the network")]
    reason = why_not(workload, at[0], at[-1])
    if reason:
        return [(("layers",), f"{name}: {reason}")]
    tiles = [mapping.layers[layer].tile for layer in piece.layers]
    found = misfits(chain(workload, at[0], at[-1]), piece, tiles, Machine.of(soc, cores.pop()))
    return [(("layers",), f"{name}: {reason}") for reason in found]


def _misfused(members: tuple[str, ...], workload: Workload, mapping: Mapping, soc: SoC) -> list[str]:
    inside, between, reasons = set(members), set[str](), []
    for layer in workload:
        reads = set(layer.inputs)
        if layer.name in inside and reads & between:
            reasons.append(f"piece: {layer.name} reads {min(reads & between)}, which waits for the piece; add it")
        if layer.name not in inside and reads & (inside | between):
            between.add(layer.name)
    layers = [workload[name] for name in members]
    for layer in layers:
        if len([part for part in mapping.layers[layer.name].parts if part.channels]) != 1:
            reasons.append(f"piece: layer {layer.name} is split over cores; a fused layer runs on one")
        elif layer.alternative is not None:
            reasons.append(f"piece: layer {layer.name} has an alternative form; it cannot be fused")
    if reasons:
        return reasons
    try:
        lines = buffer_bytes(workload, members)
    except InputError as error:
        return [str(error)]
    cores = {layer.name: mapping.layers[layer.name].parts[0].core for layer in layers}
    homes = homes_of(workload, mapping, soc)
    for name in {soc.cores[core].memory for core in cores.values()}:
        need = sum(lines.values())
        for layer in layers:  # two rows each of what comes in and of what goes out
            if homes.inputs(layer) != name:
                need += sum(2 * layer.stride_y * layer.ix * layer.c for n in layer.inputs if n not in inside)
            need += 2 * layer.ox * layer.k * (layer.name not in lines and homes.output(layer) != name)
        bound = min(room_for(layer, name, soc, homes) for layer in layers)
        if need > bound:
            reasons.append(f"piece: its line buffers need {need} bytes of {name}, which has {bound}")
    for name in dict.fromkeys(cores.values()):
        core = soc.cores[name]
        mine = [layer for layer in layers if cores[layer.name] == name]
        tiles = [make_tile(la, la.k, 1, la.ox, mapping.layers[la.name].unroll) for la in mine]
        reasons += [f"piece: {name} {reason}" for reason in core.resident(tiles)]
        if core.weight_memory is not None:
            models = [soc.core_of(mapping.layers[layer.name].parts[0]) for layer in mine]
            loads = [
                weight_transfer_of(layer, soc, model, layer.k, exact).bytes
                for layer, model in zip(mine, models, strict=True)
            ]
            held, most = sum(loads), max(loads)
            bound = soc.memories[core.weight_memory].capacity_bytes
            if held > bound:
                reasons.append(f"piece: weights need {held} bytes of {core.weight_memory}, which has {bound}")
            if not homes.weights_in_main and most > homes.stream_bytes:
                what = f"weights of a layer need {most} bytes to stream through {soc.main_memory}"
                reasons.append(f"piece: {what}, of which {homes.stream_bytes} are set aside")
    return reasons


def _parallel_problems(piece: Piece, workload: Workload, mapping: Mapping, soc: SoC) -> list[Problem]:
    """Why layers cannot run at once: what they read must be there before the first, and they must not share a core or
    a weight memory."""
    reasons = []
    names = [layer.name for layer in workload]
    at = sorted(names.index(name) for name in piece.layers)
    first = at[0]
    if at != list(range(first, first + len(at))):
        between = next(name for name in names[first : at[-1]] if name not in piece.layers)
        reasons.append(f"parallel piece: layer {between} stands between {names[first]} and {names[at[-1]]}")
    taken: dict[str, str] = {}
    for name in piece.layers:
        late = [tensor for tensor in workload[name].inputs if tensor in names[first:]]
        if late:
            reasons.append(f"parallel piece: {name} reads {late[0]}, which is not there when the piece starts")
        for core in [part.core for part in mapping.layers[name].parts if part.channels]:
            for unit in dict.fromkeys(u for u in (core, soc.cores[core].weight_memory) if u is not None):
                if unit in taken and taken[unit] != name:
                    reasons.append(f"parallel piece: {taken[unit]} and {name} both use {unit}; give each its own")
                taken[unit] = name
    return [(("layers",), reason) for reason in reasons]


def _either(numbers: Sequence[int]) -> str:
    """Several numbers as a choice."""
    return " or ".join(map(str, sorted(numbers)))


def _plan_problems(layer: Layer, given: LayerPlan, soc: SoC, fused: bool) -> list[Problem]:
    """What is wrong with a layer's plan in itself, and what of it means nothing here."""
    out: list[Problem] = []

    def wrong(what: str, *key: str) -> None:
        out.append((("layers", layer.name, *key), f"layer {layer.name}: {what}"))

    total = sum(part.channels for part in given.parts)
    if total != layer.k:
        wrong(f"parts sum to {total} output channels, the layer has {layer.k}", "parts")
    for part in given.parts:
        if part.core not in soc.cores:
            wrong(f"{soc.name} has no core {part.core!r}; it has {', '.join(soc.cores)}", "parts", part.core)
        elif part.channels:
            core = soc.cores[part.core]
            formats = core.weight_formats or (core.weight_bits,)
            if part.bits is not None and part.bits not in formats:
                what = f"{part.core} has weights of {_either(formats)} bits, not {part.bits}"
                wrong(what, "parts", part.core, "bits")
                continue
            for reason in refusals(layer, part, soc, given.unroll):
                wrong(f"{part.core} {reason}", "parts", part.core)
    if len({part.core for part in given.parts}) != len(given.parts):
        wrong("a core is named twice; give it one contiguous part", "parts")
    if out:
        return out
    if given.unroll and not any(soc.cores[part.core].unrolls for part in given.parts if part.channels):
        wrong("unroll is of arrays that compute several pixels at once, and none of its cores does", "unroll")
    beside = behind_dma(given, soc)
    if beside.parts and not given.reuse:
        wrong("reuse: false means nothing behind a DMA: what a tile has stays until another takes its place", "reuse")
    tiles = [part.tile for part in given.parts if part.tile is not None]
    if fused and beside.parts and (tiles or given.order):
        wrong("goes row by row in its fused piece; leave out tile and order", "tile" if tiles else "order")
    elif tiles or given.order:
        _check_tiles(layer, given, soc, wrong)
    return out


def _check_tiles(layer: Layer, given: LayerPlan, soc: SoC, wrong: Callable[..., None]) -> None:
    """What is wrong with stated tiles: extents, what the parts have in common, the order."""
    if not given.is_tiled:
        wrong("states a tile or an order, but not both; state both, or leave both to the tiler")
        return
    if sorted(given.loops) != sorted(DIMS):
        found = ", ".join(given.loops)
        wrong(f"its order is {found}; each of {', '.join(DIMS)} must stand there once", "order")
        return
    beside = behind_dma(given, soc)
    for part in given.parts:
        tile, core = part.tile, soc.core_of(part)
        assert tile is not None
        own = whole(form(layer, core)) if part in beside.parts else _spans(channel_slice(layer, max(part.channels, 1)))
        for d in DIMS:
            if not 1 <= tile.along(d) <= own.along(d):
                wrong(f"a tile spans {tile.along(d)} of {d}, must be 1 to {own.along(d)}", "tile", d)
        if part in beside.parts and (tile.fy, tile.fx) != (own.fy, own.fx):
            wrong(f"{part.core} takes whole filters, {own.fy} x {own.fx}, not {tile.fy} x {tile.fx}", "tile", "fy")
    if not beside.parts:
        return
    first, cut = beside.tile, cut_channels(layer, soc, given)
    if any((p.tile.oy, p.tile.ox, p.tile.n) != (first.oy, first.ox, first.n) for p in beside.parts if p.tile):
        wrong("parts behind one DMA go side by side, with one tile along n, oy and ox", "tile")
    counts = tile_counts(layer, first) | {"k": max(-(-p.channels // p.tile.k) for p in beside.parts if p.tile)}
    if cut and any(counts.get(d, 1) > 1 for d in given.loops[given.loops.index("c") :]):
        wrong("behind a DMA partial sums stay until they are complete; put c innermost", "order")


def _spans(layer: Layer) -> Extent:
    """What a tile behind a cached mover may span at most."""
    shape = shape_of(layer)
    k, c, fy, fx, oy, ox = (int(getattr(shape, d)) for d in NEST_DIMS)
    return Extent(k, c, fy, fx, oy, 1 if in_rows(layer) else ox, layer.n)
