"""The tiles of a layer behind a DMA in the order in which they run, and where each of them lies.

By the rule of `walk`: an operand is loaded when its slice differs from the tile's before. Parts walk side by side, each
through its own tiles of channels.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cosoc.sim import exact
from cosoc.sim.lower.walk import INPUTS, OWN_INPUTS, SECOND, WEIGHTS, Bools, Positions, final, fresh, positions
from cosoc.sim.model.mapping import DIMS, LayerPlan, Part
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.tiles import behind_dma, by_groups, cut_channels, group_sizes, pixel_loops, tile_counts
from cosoc.sim.model.workload import Layer
from cosoc.sim.movers.dma_terms import Span, Window, copies, spans_x, spans_y


@dataclass(frozen=True)
class Step:
    """One tile of a layer on its cores. weights: (part, size) to bring in first. load: whether inputs are loaded for
    it that the channels after these read too; loads: parts that have inputs of their own loaded for it. jobs: (part,
    size). free_inputs, free_weights: parts whose buffers are free afterwards. count: so many of them follow one
    another."""

    at: Window
    load: bool
    jobs: tuple[tuple[int, int], ...]
    weights: tuple[tuple[int, int], ...] = ()
    free_inputs: tuple[int, ...] = ()
    free_weights: tuple[int, ...] = ()
    loads: tuple[int, ...] = ()
    count: int = 1


def steps(layer: Layer, plan: LayerPlan, soc: SoC) -> Iterator[Step]:
    """The tiles of a layer behind a DMA as they run, by the rule of `walk`: an operand is loaded when
    its slice differs from the tile's before. Parts walk side by side, each through its own tiles of channels."""
    sliced, cut_c = _sliced(layer, plan, soc), cut_channels(layer, soc, plan)
    walked = _walked(layer, plan, soc)
    at, cut, counts, images, rows, cols = (
        walked.at, walked.cut, walked.counts, walked.images, walked.rows, walked.cols
    )  # fmt: skip
    sizes = [[size for size, _ in own] for own in cut]
    rows_inside = len(cols) == 1 and pixel_loops(plan, counts)[1]
    pixels = fresh(at, INPUTS)
    takes_part = [at["k"] < len(own) for own in sizes]
    weights = SECOND if layer.second else WEIGHTS
    news = [_among(fresh, at, here, weights) for here in takes_part]
    lasts = [_among(final, at, here, weights) for here in takes_part]
    own_at = [_in_groups(at, [group for _, group in own]) for own in cut]
    loads = [_among(fresh, own, here, OWN_INPUTS) for own, here in zip(own_at, takes_part, strict=True)]
    reads = [
        _among(final, own_at[i], here, OWN_INPUTS) if i in sliced else _among(final, at, here, INPUTS)
        for i, here in enumerate(takes_part)
    ]
    before: Step | None = None
    for t in range(len(pixels)):
        here = [i for i, taking in enumerate(takes_part) if taking[t]]
        jobs = tuple((i, sizes[i][at["k"][t]]) for i in here)
        step = Step(
            Window(images[at["n"][t]], rows[at["oy"][t]], cols[at["ox"][t]], 1),
            bool(pixels[t]),
            jobs,
            # Where input channels are cut every job brings its weights itself, part by part.
            tuple(job for job in jobs if news[job[0]][t] and not cut_c),
            tuple(i for i in here if reads[i][t]),
            tuple(i for i in here if lasts[i][t] and not cut_c),
            tuple(i for i in here if i in sliced and loads[i][t]),
        )
        # Equal neighbours are a loop; whoever brings weights begins one, whoever frees them ends it.
        if before is not None and rows_inside and _goes_on(before, step):
            before = replace(step, count=before.count + 1)
            continue
        if before is not None:
            yield before
        before = step
    if before is not None:
        yield before


@dataclass(frozen=True)
class _Walked:
    """The tiles of a layer behind a DMA in their order. at: the number of each along n, k, oy, ox, of which there are
    `counts` (k: of its part's). cut: of each part, the channels of its jobs, and their groups. images, rows, cols: the
    sizes along n, oy, ox."""

    at: Positions
    counts: dict[str, int]
    cut: list[list[tuple[int, int]]]
    images: list[int]
    rows: list[Span]
    cols: list[Span]


def _walked(layer: Layer, plan: LayerPlan, soc: SoC) -> _Walked:
    tile = behind_dma(plan, soc).tile
    cut = [_channels(part, layer, soc) for part in plan.parts]
    counts = tile_counts(layer, tile)
    at = positions(counts | {"k": max(map(len, cut))}, [d for d in plan.loops if d in ("n", "k", "oy", "ox")])
    images = [min(tile.n, layer.n - first) for first in range(0, layer.n, tile.n)]
    rows, cols = _one_by_one(spans_y(layer, tile.oy)), _one_by_one(spans_x(layer, tile.ox))
    return _Walked(at, counts, cut, images, rows, cols)


def _sliced(layer: Layer, plan: LayerPlan, soc: SoC) -> set[int]:
    """Parts of which a tile's inputs are those of its own output channels alone."""
    return {i for copy in copies(layer, soc, present(plan, soc)) if copy.sliced for i in copy.shares}


class Ranges:
    """Where the tiles of a layer lie, in the order of `steps`, one by one; next: the number of the next."""

    def __init__(self, layer: Layer, plan: LayerPlan, soc: SoC) -> None:
        walked = _walked(layer, plan, soc)
        self.at, self.sliced, self.next = walked.at, _sliced(layer, plan, soc), 0
        self.first = {
            d: _firsts(sizes)
            for d, sizes in (
                ("n", walked.images), ("oy", [row.out for row in walked.rows]), ("ox", [col.out for col in walked.cols])
            )
        }  # fmt: skip
        before = _firsts([part.channels for part in plan.parts])
        self.channels = [
            [first + k for k in _firsts([size for size, _ in own])]
            for first, own in zip(before, walked.cut, strict=False)
        ]

    def of(self, form: Layer, at: Window, part: int, k: int, c: tuple[int, int]) -> tuple[int, ...]:
        """First and end along DIMS of the next tile on a part: k output channels, input channels [c[0], c[1])."""
        t, found = self.next, list[int]()
        sizes = {"n": at.n, "oy": at.y.out, "ox": at.x.out}
        for d in DIMS:
            if d in sizes:
                first = self.first[d][int(self.at[d][t])]
                found += (first, first + sizes[d])
            elif d == "k":
                first = self.channels[part][int(self.at["k"][t])]
                found += (first, first + k)
            elif d == "c":
                found += c
            else:
                found += (0, form.fy if d == "fy" else form.fx)
        return tuple(found)


def _firsts(sizes: Sequence[int]) -> list[int]:
    """Where each of some stretches begins, and the end of the last."""
    return [0, *itertools.accumulate(sizes)]


def _channels(part: Part, layer: Layer, soc: SoC) -> list[tuple[int, int]]:
    """Output channels of a part's jobs, one after the other, each with the number of what its inputs are the same in:
    the job itself, or its group. None behind a cached mover, which walks by itself."""
    if part.tile is None or soc.is_cached(part.core):
        return []
    core, out = soc.core_of(part), list[tuple[int, int]]()
    together, number = by_groups(layer, core), 0
    for times, tiles in group_sizes(layer, part, core, part.channels, exact):
        for _ in range(int(times)):
            for size in (int(size) for size, count in tiles for _ in range(int(count)) if size):
                out.append((size, number))
                number += not together
            number += together
    return out


def _in_groups(at: Positions, groups: Sequence[int]) -> Positions:
    """Positions in which tiles of output channels have the numbers of their groups; those beyond them their own."""
    number = np.arange(int(at["k"].max(initial=0)) + 1)
    number[: len(groups)] = groups
    return {**at, "k": number[at["k"]]}


def _one_by_one(spans: Sequence[Span]) -> list[Span]:
    return [replace(span, count=1) for span in spans for _ in range(span.count)]


def _among(rule: Callable[[Positions, Sequence[str]], Bools], at: Positions, here: Bools, dims: Sequence[str]) -> Bools:
    """A rule of the walk over the tiles that a part takes part in, False at the others."""
    out = np.zeros(len(here), dtype=bool)
    out[here] = rule({d: numbers[here] for d, numbers in at.items()}, dims)
    return out


def _goes_on(before: Step, step: Step) -> bool:
    """Whether a step is one more of the kind before it."""
    same = [(one.at, one.load, one.loads, one.jobs, one.free_inputs) for one in (before, step)]
    return same[0] == same[1] and not before.weights and not before.free_weights and not step.weights


def present(plan: LayerPlan, soc: SoC) -> list[tuple[int, str]]:
    """Parts with channels behind a DMA: (number, core)."""
    return [(i, part.core) for i, part in enumerate(plan.parts) if part.channels and not soc.is_cached(part.core)]


__all__ = ["Ranges", "Step", "present", "steps"]
