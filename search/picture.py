"""The picture of a front: what was found, what is known, the front's line, and labels that do not overlap."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cosoc.search.front import half_width
from cosoc.search.result import Found, Result, drawn, label
from cosoc.sim.report.figure import drawn_figure
from cosoc.sim.shown import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

DPI = 130
WIDE = 10  # between the largest and the smallest of an axis: from there on a logarithmic scale
LABELLED = 24  # mappings at most, those of the front first: more cannot be read
MARKER = 9.0  # pixels around a marker that labels keep clear of
RINGS = (8.0, 18.0, 30.0, 44.0, 60.0)  # pixels from a marker at which a label is tried
LED = 12.0  # pixels between a marker and its label from which on a line joins them
ANGLES = tuple(math.radians(degrees) for degrees in (35, 145, -35, -145, 90, -90, 0, 180))

Pair = tuple[float, float]
Box = tuple[float, float, float, float]  # left, bottom, right, top; pixels


def plot(result: Result) -> bytes:
    """A result's front, as a PNG."""
    with _drawn(result) as picture:
        drawing = io.BytesIO()
        picture.savefig(drawing, dpi=DPI, format="png")
    return drawing.getvalue()


def figure(result: Result) -> Figure:
    """A result's front, as a figure of matplotlib."""
    with _drawn(result) as picture:
        return picture


@contextmanager
def _drawn(result: Result) -> Iterator[Figure]:
    """A front as its steps, since between two of its points nothing was found that is as good in both axes; what is
    beaten stands apart, hollow."""
    x, y = result.axes
    beaten = result.beaten()
    front = result.front()
    best = {one.name for one in front}
    shown_ones = [one for one in result.found if one.name not in beaten]
    kinds = [
        (f"{name}{', dominated' if hollow else ''}",
         [one for one in shown_ones if one.known == known and (one.name not in best) == hollow], colour, marker, hollow)
        for name, known, colour, marker in (("search", False, "tab:blue", "o"), ("known", True, "tab:orange", "s"))
        for hollow in (False, True)
    ]  # fmt: skip
    apart = [one for one in result.found if one.name in beaten]
    kinds.append(("beaten by others", apart, "lightgrey", ".", False))
    with drawn_figure(7, 4.5) as picture:
        picture.set_dpi(DPI)
        axis = picture.add_subplot()
        steps = drawn(result, x, front), drawn(result, y, front)
        axis.plot(*steps, color="tab:green", linewidth=1, drawstyle="steps-post", label="not dominated")
        for name, found, colour, marker, hollow in kinds:
            if found:
                xs, ys = drawn(result, x, found), drawn(result, y, found)
                face = "none" if hollow else colour
                axis.scatter(xs, ys, facecolors=face, edgecolors=colour, marker=marker, label=name, zorder=3)
                if result.seeds > 1:
                    errors = [result.metric.shown(half_width(one.accuracies)) for one in found]
                    axis.errorbar(xs, ys, errors, fmt="none", ecolor=colour, elinewidth=0.8, capsize=2, zorder=2)
        every = drawn(result, x, result.found)
        if max(every) > WIDE * min(every) > 0:
            axis.set_xscale("log")
        axis.set(xlabel=label(result, x), ylabel=label(result, y))
        axis.grid(alpha=0.3)
        axis.margins(0.15)
        axis.legend(loc="best", fontsize=8)
        machine = result.heading.get("soc") or result.heading.get("cluster")
        picture.suptitle(shown(f"{result.heading['workload']} on {machine}, {result.heading['space']}"))
        _label(result, picture, axis, front, beaten)
        yield picture


def _label(result: Result, figure: Figure, axis: Axes, front: Sequence[Found], beaten: Mapping[str, str]) -> None:
    """Write the names of mappings beside their markers, where there is room."""
    from matplotlib.lines import Line2D

    x, y = result.axes
    names = {one.name for one in front}
    order = sorted(result.found, key=lambda one: (one.name not in names, not one.known))
    found = [one for one in order if one.name not in beaten][:LABELLED]
    others = [one for one in order if one not in found]
    figure.canvas.draw()  # which is when the layout, and so pixels, are known
    size = {one.name: axis.text(0, 0, shown(one.name), fontsize=7, transform=None) for one in found}
    extents = {name: text.get_window_extent() for name, text in size.items()}
    at = [axis.transData.transform(point) for point in _points(result, x, y, [*found, *others])]
    frame, within = axis.get_window_extent(), axis.transAxes.inverted()  # of the axes: right at any resolution
    taken = [] if (legend := axis.get_legend()) is None else [_box(legend.get_window_extent())]
    sizes = [(extents[one.name].width + 2, extents[one.name].height + 2) for one in found]
    boxes = places([(float(u), float(v)) for u, v in at], sizes, _box(frame), taken)
    for one, box, (u, v) in zip(found, boxes, at, strict=False):
        text = size[one.name]
        if box is None:
            text.remove()
            continue
        text.set(transform=axis.transAxes, position=within.transform((box[0] + 1, box[1] + 1)))
        nearest = min(max(u, box[0]), box[2]), min(max(v, box[1]), box[3])
        if math.dist(nearest, (u, v)) > LED:
            ends = within.transform([(u, v), nearest])
            line = Line2D(*ends.T, transform=axis.transAxes, color="grey", linewidth=0.5, zorder=2, clip_on=False)
            axis.add_line(line)


def _points(result: Result, x: str, y: str, found: Sequence[Found]) -> list[tuple[float, float]]:
    return list(zip(drawn(result, x, found), drawn(result, y, found), strict=True))


def _box(extent: Bbox) -> Box:
    return extent.x0, extent.y0, extent.x1, extent.y1


def places(
    markers: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    inside: Box,
    others: Sequence[Box] = (),
) -> list[Box | None]:
    """Where labels of sizes (width, height) go: near their markers, over no marker, no other label and none of the
    other boxes, within the box; pixels. None for one that finds no room. markers: those of the labels first, then of
    what has none."""
    taken = [*others, *((u - MARKER / 2, v - MARKER / 2, u + MARKER / 2, v + MARKER / 2) for u, v in markers)]
    out: list[Box | None] = []
    for (u, v), (width, height) in zip(markers, sizes, strict=False):
        found = None
        for ring, angle in itertools.product(RINGS, ANGLES):
            # The label's nearest point lies on the ring: it hangs outwards from there.
            dx, dy = ring * math.cos(angle), ring * math.sin(angle)
            left = u + dx - width * (0.5 - 0.5 * _side(dx))
            bottom = v + dy - height * (0.5 - 0.5 * _side(dy))
            box = (left, bottom, left + width, bottom + height)
            free = inside[0] <= box[0] and inside[1] <= box[1] and box[2] <= inside[2] and box[3] <= inside[3]
            if free and not any(overlap(box, other) for other in taken):
                found = box
                break
        out.append(found)
        if found is not None:
            taken.append(found)
    return out


def _side(away: float) -> int:
    """-1, 0 or 1: on which side of its marker a label is."""
    return 0 if abs(away) < 1e-6 else int(math.copysign(1, away))


def overlap(a: Box, b: Box) -> bool:
    """Whether two boxes have an area in common."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
