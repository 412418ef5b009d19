"""Tiles and plans of a layer on a machine: what a tile reads, in which form a core computes it, how parts are cut.

Everything that is counted is written in the primitives of `exact`: channels may be ints, integer arrays or tensors.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingOf
from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

from cosoc.sim.exact import Num
from cosoc.sim.model.mapping import WEIGHTS_STAY, Dim, Extent, LayerPlan, Part
from cosoc.sim.model.soc import Core, SoC
from cosoc.sim.model.workload import Layer, Tile

# Operators whose output channel reads its own input channel only.
PER_CHANNEL = ("add", "max_pool", "avg_pool", "eltwise", "concat", "softmax", "norm", "resize", "gather")


def per_channel(layer: Layer) -> bool:
    """Whether output channel k reads input channel k alone, so that a tile of k needs only that slice."""
    return layer.op in PER_CHANNEL or layer.depthwise


def channels_read(layer: Layer) -> int:
    """Input channels that one output channel reads."""
    return 1 if per_channel(layer) else layer.c // layer.groups


def form(layer: Layer, core: Core) -> Layer:
    """The layer as a core computes it: itself, or its alternative on a core that cannot run it, or that takes
    alternatives where it can."""
    other = layer.alternative
    if other is None:
        return layer
    if core.prefers_alternatives and not reasons_against(other, core):
        return other
    return other if reasons_against(layer, core) else layer


def one_group(layer: Layer) -> Layer:
    """The convolution that one group of a grouped one is."""
    return replace(layer, k=layer.k // layer.groups, c=layer.c // layer.groups, groups=1)


def reasons_against(layer: Layer, core: Core, channels: int | None = None, unroll: int = 0) -> list[str]:
    """Why a core cannot run so many (None: all) of a layer's output channels, neither at once nor group by group."""
    channels = layer.k if channels is None else channels
    reasons = core.fits(make_tile(layer, channels, layer.oy, layer.ox, unroll))
    if not reasons or not layer.grouped or layer.alternative is not None:
        return reasons
    one = one_group(layer)
    return core.fits(make_tile(one, min(channels, one.k), one.oy, one.ox, unroll))


def job_form(layer: Layer, core: Core) -> Layer:
    """What jobs of a core are of: the layer in the form that it computes, or one group of a grouped convolution where
    the core runs convolutions, but none in groups."""
    own = form(layer, core)
    if not own.grouped or layer.alternative is not None or not core.fits(make_tile(own, own.k, own.oy, own.ox)):
        return own
    return one_group(own)


def by_groups(layer: Layer, core: Core) -> bool:
    """Whether a core computes the layer group by group, each a convolution of its own."""
    return layer.grouped and not job_form(layer, core).grouped


def most_channels(layer: Layer, part: Part, core: Core) -> int:
    """Output channels that a tile of a part may have at most: all of them, or those of a group."""
    return min(part.channels, job_form(layer, core).k) if layer.grouped else part.channels


def whole(layer: Layer) -> Extent:
    """The tile that is all of a layer."""
    return Extent(layer.k, channels_read(layer), layer.fy, layer.fx, layer.oy, layer.ox, layer.n)


def tiled(
    layer: Layer,
    plan: LayerPlan,
    soc: SoC,
    k: Sequence[Num],
    oy: Num,
    ox: Num,
    order: tuple[Dim, ...] = WEIGHTS_STAY,
    c: int = 0,
    n: int = 0,
) -> LayerPlan:
    """The plan with tiles of k channels (one figure a part), oy x ox pixels, c input channels and n images (0: all)."""

    def tile(part: Part, channels: Num) -> Extent:
        own = form(layer, soc.core_of(part))
        reads = channels_read(own)
        return Extent(channels, min(c or reads, reads), own.fy, own.fx, oy, ox, n or layer.n)

    parts = tuple(replace(part, tile=tile(part, channels)) for part, channels in zip(plan.parts, k, strict=True))
    return replace(plan, parts=parts, order=order)


def behind_dma(plan: LayerPlan, soc: SoC) -> LayerPlan:
    """The plan without the parts that a cached mover serves."""
    return replace(plan, parts=tuple(part for part in plan.parts if not soc.is_cached(part.core)))


def behind_caches(plan: LayerPlan, soc: SoC) -> list[tuple[int, Part]]:
    """The parts with channels that a cached mover serves, each with the first of its output channels."""
    out, first = [], 0
    for part in plan.parts:
        if part.channels and soc.is_cached(part.core):
            out.append((first, part))
        first += part.channels
    return out


def cut_channels(layer: Layer, soc: SoC, plan: LayerPlan) -> int:
    """Input channels a job where a plan cuts them; 0 where every job reads all of them. Parts behind a DMA only."""
    for part in behind_dma(plan, soc).parts:
        if part.tile is not None and part.tile.c < channels_read(form(layer, soc.core_of(part))):
            return part.tile.c
    return 0


def make_tile(layer: Layer, k: Num, oy: Num, ox: Num, ox_unroll: int = 0, c: int = 0) -> Tile:
    """The tile of `layer` with k output channels, oy x ox output pixels and c input channels (0: all of them)."""
    (stride_y, stride_x), (dilation_y, dilation_x) = layer.strides, layer.dilations
    return Tile(
        op=layer.op,
        k=k,
        c=c or channels_read(layer),
        oy=oy,
        ox=ox,
        fy=layer.fy,
        fx=layer.fx,
        stride_y=stride_y,
        stride_x=stride_x,
        depthwise=layer.depthwise,
        groups=layer.groups,
        dilation_y=dilation_y,
        dilation_x=dilation_x,
        operands=len(layer.inputs) if layer.op in ("add", "eltwise") else 1,
        copied=layer.hands_on or layer.op == "gather",
        ox_unroll=ox_unroll,
    )


def k_tiles(k: Num, tile: Num, most: int, xp: Any) -> tuple[tuple[Num, Num], ...]:
    """Cut k channels into tiles: ((size, count), ...), of which the last may be empty; into one if it holds `most`.
    tile: a figure, or an array of them."""
    if isinstance(tile, int) and tile >= most:
        return ((k, 1),)
    whole = xp.floordiv(k, tile)
    return ((tile, whole), (k - whole * tile, 1))


Sizes = tuple[tuple[Num, Num], ...]  # ((output channels, count), ...), of which some may be empty


def group_sizes(layer: Layer, part: Part, core: Core, k: Num, xp: Any) -> tuple[tuple[Num, Sizes], ...]:
    """The tiles that a part's output channels are cut into, if it has k of them: ((times, tiles), ...). Where the core
    computes groups one by one, those of a whole group so many times, and those of what is left of one; else of all at
    once."""
    assert part.tile is not None
    if not by_groups(layer, core):
        return ((1, k_tiles(k, part.tile.k, part.channels, xp)),)
    one = layer.k // layer.groups
    groups = xp.floordiv(k, one)
    rest = k - groups * one
    return (groups, k_tiles(one, part.tile.k, one, xp)), (xp.used(rest), k_tiles(rest, part.tile.k, one, xp))


def job_sizes(groups: tuple[tuple[Num, Sizes], ...]) -> Sizes:
    """The same of all groups together."""
    if len(groups) == 1:
        return groups[0][1]
    return tuple((size, count * times) for times, tiles in groups for size, count in tiles)


def c_parts(layer: Layer, c: int) -> tuple[tuple[int, int], ...]:
    """The parts, of c channels (0: all), that a job's input channels are worked off in: ((channels, count), ...)."""
    total = channels_read(layer)
    tile = c or total
    parts = ((tile, total // tile), (total % tile, 1))
    return tuple((size, count) for size, count in parts if size and count)


def pixel_loops(plan: LayerPlan, counts: MappingOf[str, Num]) -> tuple[Num, Num, Num]:
    """Of the loops around a layer's tiles: how many tiles of images and pixels stand outside the loop over output
    channels, and whether any stands inside it; and how many until the loop over images, if that has several, with those
    of images. counts: tiles along n, oy and ox."""
    at, images = plan.loops.index("k"), plan.loops.index("n") + 1
    outside = prod(counts[d] for d in plan.loops[:at] if d in counts)
    until = prod(counts[d] for d in plan.loops[:images] if d in counts) if counts["n"] > 1 else 1
    return outside, prod(counts[d] for d in plan.loops[at:] if d in counts) > 1, until


def tile_counts(layer: Layer, tile: Extent) -> dict[str, Num]:
    """Tiles along images, rows and columns."""
    return {"n": -(-layer.n // tile.n), "oy": -(-layer.oy // tile.oy), "ox": -(-layer.ox // tile.ox)}


def channel_slice(layer: Layer, channels: int) -> Layer:
    """The layer that so many of a layer's output channels are; of a grouped convolution that of all their groups."""
    if layer.grouped:
        groups = -(-channels * layer.groups // layer.k)
        if groups == 1:
            return replace(one_group(layer), k=channels)
        one = one_group(layer)
        return replace(layer, k=groups * one.k, c=groups * one.c, groups=groups)
    if not per_channel(layer):
        return replace(layer, k=channels)
    return replace(layer, k=channels, c=channels, groups=channels if layer.depthwise else layer.groups)
