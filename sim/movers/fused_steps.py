"""Fused groups on Gemmini: which layers may form one, how a tile of the last reaches back, and what the group costs.

A group is a run of consecutive layers that all lead to its last, its *sink*. It is worked off in steps, one tile of the
sink's pixels each: every layer computes what the step needs of it, all its channels, and leaves it in the scratchpad.
What two steps both need is computed twice (`recompute`), or the rows are kept from step to step (a *line buffer*; tiles
then span whole rows). Weights come again in every step, or stay for the whole group (`resident`).

The functions take ints or arrays of candidates alike (`xp`), as those of `cached_terms`, whose accounting they use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import Any

from cosoc.sim import exact
from cosoc.sim.exact import Num
from cosoc.sim.model.mapping import Extent, Piece
from cosoc.sim.model.workload import Layer, Workload
from cosoc.sim.movers.cached_terms import ARRAY_OPS, CachedTerms, Flow, Machine, Reloads, Shape, Tiles, terms

Stretch = tuple[int, int]  # rows or columns: the first, and one past the last


@dataclass(frozen=True)
class Chain:
    """The layers of a group in network order; edges (producer, consumer) as positions. external [n]: operands that come
    from outside; leaves [n]: whether somebody outside reads the result."""

    layers: tuple[Layer, ...]
    shapes: tuple[Shape, ...]
    edges: tuple[tuple[int, int], ...]
    external: tuple[int, ...]
    leaves: tuple[bool, ...]

    def readers(self, at: int) -> list[int]:
        """Positions in the group that read the result of layer `at`."""
        return [c for p, c in self.edges if p == at]


def why_not(workload: Workload, first: int, last: int) -> str:
    """Why the layers first .. last (positions, inclusive) cannot run fused; empty if they can, memory aside."""
    layers = workload.layers[first : last + 1]
    if len(layers) < 2:
        return "a group has at least two layers"
    names = {layer.name for layer in layers}
    for layer in layers:
        if layer.op not in ARRAY_OPS:
            return f"{layer.name} ({layer.fn or layer.op}) does not run on Gemmini"
        if layer.op == "matmul" and layer.groups > 1:
            return f"{layer.name} has {layer.groups} heads; they do not run fused"
        if layer.op == "matmul" and layer.inputs[1] in names:
            return f"{layer.name} reads {layer.inputs[1]} of the same group as its weights"
        if layer.op == "conv" and layer.groups > 1 and not layer.depthwise:
            return f"{layer.name} is a grouped convolution"
        if layer.n > 1:
            return f"{layer.name} has a batch of {layer.n}; groups run one image at a time"
    for layer in layers[:-1]:
        readers = [other for other in layers if layer.name in other.inputs]
        if not readers:
            return f"{layer.name} is read by no other layer of the group; only the last may be"
        for reader in readers:
            if reader.op != "add" and (reader.c, reader.iy, reader.ix) != (layer.k, layer.oy, layer.ox):
                return f"{reader.name} reads {layer.name} in another shape"
        skips = all(
            max(r.stride_y - r.input_rows(1), r.stride_x - r.input_cols(1)) > 0 for r in readers if r.op != "add"
        )
        if skips and all(r.op != "add" for r in readers) and _leaves(workload, layer, names):
            return f"{layer.name} is read outside the group, whose windows skip some of its rows"
    return ""


def _leaves(workload: Workload, layer: Layer, names: set[str]) -> bool:
    """Whether a layer's result is read by none of `names`, or is a result of the network."""
    return workload.leaves(layer.name) or any(reader not in names for reader in workload.readers(layer.name))


def chain(workload: Workload, first: int, last: int) -> Chain:
    """The group of the layers first .. last (inclusive), which `why_not` has passed."""
    layers = workload.layers[first : last + 1]
    at = {layer.name: i for i, layer in enumerate(layers)}
    edges = tuple((at[name], i) for i, layer in enumerate(layers) for name in layer.inputs if name in at)
    external = tuple(
        sum(n not in at for n in (layer.inputs if layer.op == "add" else layer.inputs[:1])) for layer in layers
    )
    outside = workload.layers[:first] + workload.layers[last + 1 :]
    read = {name for layer in outside for name in layer.inputs} | set(workload.outputs)
    leaves = tuple(layer.name in read or bool(layer.into) or i == len(layers) - 1 for i, layer in enumerate(layers))
    return Chain(layers, tuple(Shape.of(layer) for layer in layers), edges, external, leaves)


@dataclass(frozen=True)
class Reach:
    """What one step needs of a layer, along rows or columns. made: computed anew; held: in the scratchpad at a time;
    total: computed in all steps together."""

    made: Num
    held: Num
    total: Num


def reach(group: Chain, tile: Num, steps: Num, keep: Num, rows: bool, xp: Any = exact) -> list[Reach]:
    """For each layer of the group, what a step of `tile` rows (or columns) of the sink needs of it.

    keep: 1 where rows are kept from step to step, 0 where they are computed again. Derived backward from the sink:
    `front` is the end, `back` the begin of what is needed, in rows of the layer, relative to the step.
    """
    n = len(group.layers)
    front: list[Num] = [tile] * n
    held: list[Num] = [tile] * n
    rate: list[Num] = [tile] * n
    for p in range(n - 2, -1, -1):
        fronts, backs, rates = [], [], []
        for q in group.readers(p):
            s = group.shapes[q]
            stride, taps, pad = (s.stride_y, s.reach_y, s.pad_top) if rows else (s.stride_x, s.reach_x, s.pad_left)
            made = keep * rate[q] + (1 - keep) * held[q]
            fronts.append((front[q] - 1) * stride + taps - pad)
            backs.append((front[q] - made) * stride - pad)
            rates.append(rate[q] * stride)
        front[p], rate[p] = xp.maximum(*fronts, fronts[0]), xp.maximum(*rates, rates[0])
        held[p] = front[p] - xp.minimum(*backs, backs[0])
    out = []
    for p, shape in enumerate(group.shapes):
        size = shape.oy if rows else shape.ox
        most = xp.minimum(held[p], size + 0 * held[p])
        made = keep * xp.minimum(rate[p], most) + (1 - keep) * most
        twice = (steps - 1) * xp.maximum(made - rate[p], 0 * made)
        out.append(Reach(made, most, xp.minimum(size + twice, made * steps)))
    return out


@dataclass(frozen=True)
class GroupSteps:
    """Of one group, or of an array of candidates: how many steps, what each needs of each layer along rows and columns,
    and the layers' tiles within it."""

    steps: Num
    ys: list[Reach]
    xs: list[Reach]
    tiles: tuple[Tiles, ...]


@dataclass(frozen=True)
class GroupCost:
    """Of one group, or of an array of candidates: terms of all layers together, rows of scratchpad needed, rows of
    accumulator that the worst layer needs for one block of channels, and each layer's tiles."""

    terms: CachedTerms
    spad_rows: Num
    acc_rows: Num
    tiles: tuple[Tiles, ...]


def layer_tiles(shape: Shape, rows: Num, cols: Num, machine: Machine, stays: Num, xp: Any = exact) -> Tiles:
    """Tiles of a layer within a step: as many output channels as half the accumulator has room for; of the input
    channels as many as an eighth of the scratchpad holds weights of, or all where weights are resident."""
    side = machine.side
    blocks = xp.maximum(xp.floordiv(machine.acc_rows // 2, rows * cols), 1 + 0 * rows * cols)
    blocks = xp.minimum(blocks, xp.ceildiv(shape.k, side) + 0 * blocks)
    taps = shape.fy * shape.fx
    c_blocks = xp.floordiv(machine.spad_rows // 8, blocks * taps * side)
    c = side * xp.maximum(c_blocks, 1 + 0 * c_blocks)
    c = xp.where(stays > 0, shape.c + 0 * c, xp.minimum(c, shape.c + 0 * c))
    return Tiles(xp.minimum(blocks * side, shape.k + 0 * blocks), c, shape.fy, shape.fx, rows, cols)


def group_steps(
    group: Chain, oy: Num, ox: Num, keep: Num, resident: Sequence[Num], machine: Machine, xp: Any = exact
) -> GroupSteps:
    """The steps of a group with tiles of oy x ox pixels of its sink; resident [n]: 1 where a layer's weights stay."""
    sink = group.shapes[-1]
    n_y, n_x = xp.ceildiv(sink.oy, oy), xp.ceildiv(sink.ox, ox)
    ys, xs = reach(group, oy, n_y, keep, True, xp), reach(group, ox, n_x, 0 * keep, False, xp)
    made = zip(group.shapes, ys, xs, resident, strict=True)
    tiles = tuple(layer_tiles(shape, y.made, x.made, machine, stays, xp) for shape, y, x, stays in made)
    return GroupSteps(n_y * n_x, ys, xs, tiles)


def group_rows(
    group: Chain, about: GroupSteps, resident: Sequence[Num], machine: Machine, xp: Any = exact
) -> tuple[Num, Num]:
    """Rows of scratchpad that a group needs, and of accumulator that its worst layer does."""
    steps = about.steps
    fixed: Num = 0 * steps  # rows of scratchpad that are taken for the whole group
    streamed: Num = 0 * steps  # rows of the largest weight tile that is not
    acc: Num = 0 * steps
    for i, shape in enumerate(group.shapes):
        y, x, inside = about.ys[i], about.xs[i], bool(group.readers(i))
        acc = xp.maximum(acc, y.made * x.made)
        rows = _memory(shape, about.tiles[i], y, x, steps, group.external[i], inside, machine, xp)
        fixed = fixed + rows[0] + resident[i] * rows[1]
        streamed = xp.maximum(streamed, (1 - resident[i]) * rows[2])
    return fixed + streamed, acc


def group_cost(
    group: Chain, oy: Num, ox: Num, keep: Num, resident: Sequence[Num], machine: Machine, xp: Any = exact
) -> GroupCost:
    """What a group costs with tiles of oy x ox pixels of its sink; resident [n]: 1 where a layer's weights stay."""
    about = group_steps(group, oy, ox, keep, resident, machine, xp)
    parts: list[CachedTerms] = []
    weights = [s.k * s.c * s.fy * s.fx * (1 - s.add) for s in group.shapes]
    passing = sum((1 - stays) * own for stays, own in zip(resident, weights, strict=True))  # bytes, once a step
    for i, shape in enumerate(group.shapes):
        stays, inside = resident[i], bool(group.readers(i))
        parts.append(
            _layer_terms(shape, about.tiles[i], about.ys[i], about.xs[i], about.steps, keep, stays, group.external[i],
                         inside, group.leaves[i], passing - (1 - stays) * weights[i], machine, xp)
        )  # fmt: skip
    return GroupCost(reduce(add, parts), *group_rows(group, about, resident, machine, xp), about.tiles)


def _layer_terms(
    shape: Shape, tiles: Tiles, y: Reach, x: Reach, steps: Num, keep: Num, stays: Num, external: int, inside: bool,
    leaves: bool, beside: Num, machine: Machine, xp: Any,
) -> CachedTerms:  # fmt: skip
    """One layer's terms: those of a layer of all that its steps compute, inputs once a step, outputs never in parts.
    beside: bytes of others' weights that every step brings."""
    one = 1 + 0 * steps
    work = replace(shape, oy=y.total, ox=x.total)
    again = Reloads(stays * one + (1 - stays) * steps, one, one, beside=beside)
    internal = shape.operands - external if shape.operands > 1 else 0
    flow = Flow(external, internal, int(leaves), int(inside), keep)
    found = terms(work, tiles, again, machine, xp, flow)
    # A reader starts when the last tile of what it reads has left the accumulator.
    wait = machine.drain_cycles + tiles.oy * tiles.ox * xp.ceildiv(tiles.k, machine.side)
    return replace(found, execute=found.execute + int(inside) * steps * wait)


def _memory(
    shape: Shape, tiles: Tiles, y: Reach, x: Reach, steps: Num, external: int, inside: bool, machine: Machine, xp: Any
) -> tuple[Num, Num, Num]:
    """Rows of scratchpad: of its result and its external input; of all its weights; of two tiles of them."""
    side = machine.side
    rows = xp.ceildiv(shape.k, side) * y.held * x.held if inside else 0 * steps
    if shape.add:
        return rows, 0 * steps, 0 * steps
    if external:
        channels = shape.k if shape.depthwise else shape.c
        rows_in, cols_in = tiles.oy * shape.stride_y + shape.reach_y - 1, tiles.ox * shape.stride_x + shape.reach_x - 1
        window = rows_in * cols_in
        rows = rows + xp.ceildiv(channels, side) * window * xp.where(steps > 1, 2, 1)
    taps = shape.fy * shape.fx
    tile = xp.ceildiv(tiles.k, side) * tiles.c * taps
    whole = xp.where((tiles.k == shape.k) & (tiles.c == shape.c), 1, 2) if xp is exact else 2
    return rows, xp.ceildiv(shape.k, side) * shape.c * taps + 0 * steps, tile * whole


def rows_held(group: Chain, about: Piece, nests: Sequence[Extent], machine: Machine) -> tuple[int, int]:
    """Rows of scratchpad that a group with these nests fills, and of accumulator that its largest tile does."""
    sink, tile = group.shapes[-1], nests[-1]
    n_y, n_x = -(-sink.oy // tile.oy), -(-sink.ox // tile.ox)
    ys, xs = reach(group, tile.oy, n_y, int(about.keep_rows), True), reach(group, tile.ox, n_x, 0, False)
    fixed = streamed = acc = 0
    for i, (shape, nest) in enumerate(zip(group.shapes, nests, strict=True)):
        tiles = Tiles(min(nest.k, shape.k), min(nest.c, shape.c), shape.fy, shape.fx, ys[i].made, xs[i].made)
        inside, stays = bool(group.readers(i)), about.stays(group.layers[i].name)
        rows = _memory(shape, tiles, ys[i], xs[i], n_y * n_x, group.external[i], inside, machine, exact)
        fixed += rows[0] + stays * rows[1]
        streamed = max(streamed, (1 - stays) * rows[2])
        acc = max(acc, -(-tiles.k // machine.side) * tiles.oy * tiles.ox)
    return int(fixed + streamed), int(acc)


def misfits(group: Chain, about: Piece, nests: Sequence[Extent], machine: Machine) -> list[str]:
    """Which memory a group does not fit, and what is missing; [] if it fits."""
    spad, acc = rows_held(group, about, nests, machine)
    limits = (("scratchpad", spad, machine.spad_rows), ("accumulator", acc, machine.acc_rows // 2))
    return [f"needs {need} rows of {name}, {need - has} more than {has}" for name, need, has in limits if need > has]


def step_spans(group: Chain, steps: Sequence[Stretch], keep: bool, rows: bool) -> list[list[Stretch]]:
    """Of every step and layer, the rows (or columns) that it computes: all that the step needs, or, where rows are
    kept, those that no step before has computed."""
    n = len(group.layers)
    done = [0] * n
    out = []
    for step in steps:
        now: list[Stretch] = [step] * n
        for p in range(n - 2, -1, -1):
            layer = group.layers[p]
            size = layer.oy if rows else layer.ox
            windows = []
            for q in group.readers(p):
                s, reader = group.shapes[q], group.layers[q]
                if now[q][0] < now[q][1]:
                    figures = (s.reach_y, s.stride_y, reader.pad_y) if rows else (s.reach_x, s.stride_x, reader.pad_x)
                    windows.append(_window(now[q], figures, size))
            first, end = min((w[0] for w in windows), default=0), max((w[1] for w in windows), default=0)
            if keep:
                first, end = done[p], max(done[p], end if step is not steps[-1] or not group.leaves[p] else size)
                done[p] = end
            now[p] = (first, end)
        out.append(now)
    return out


def _window(out: Stretch, figures: tuple[int, int, int], size: int) -> Stretch:
    """Rows under output rows, without those in the padding. figures: how far taps reach, stride, padding."""
    taps, stride, pad = figures
    return max(out[0] * stride - pad, 0), min(max((out[1] - 1) * stride + taps - pad, 0), size)
