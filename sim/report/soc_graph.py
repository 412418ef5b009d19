"""A SoC as a picture: memories from the outermost to the innermost, links and movers between them, cores below."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from cosoc.sim.model.soc import CachedMover, Core, Link, Memory, SoC
from cosoc.sim.report.figure import drawn_figure
from cosoc.sim.shown import shown

PICTURES = (".svg", ".png", ".pdf")
COLOURS = {"memory": "#dbe7f6", "link": "#eeeeee", "core": "#fbe3cc"}
MOVERS = ("#1f5fa8", "#b3541e", "#3d7a3a", "#7a3d78", "#555555")  # of arrows, by mover, in the file's order
WIDE, HIGH = 2.3, 1.0  # inches from box to box
SWEEPS = 4  # over the rows, until boxes stand near those that they are joined to


@dataclass(frozen=True)
class Box:
    """A memory, link or core of the picture. row: 0 at the top."""

    kind: Literal["memory", "link", "core"]
    name: str
    text: str
    row: float


@dataclass(frozen=True)
class Arrow:
    """From box to box (kind, name); mover: whose transfers go there, '' for a core's own reads and writes."""

    start: tuple[str, str]
    end: tuple[str, str]
    mover: str


def soc_graph(soc: SoC) -> tuple[tuple[Box, ...], tuple[Arrow, ...]]:
    """What the picture of a SoC shows: every memory, link and core that it has, and every way that bytes can take."""
    depths = _depths(soc)
    deepest = max(depths.values())
    plain = [route for route in soc.routes if not isinstance(soc.dmas[route.dma], CachedMover)]
    paths = [(route.source, route.links, route.target, route.dma) for route in plain]
    paths += list(_through_caches(soc))
    rows: dict[str, list[float]] = {}
    for source, links, target, _ in paths:
        for i, link in enumerate(links, 1):
            from_row, to_row = 2 * depths[source], 2 * depths[target]
            rows.setdefault(link, []).append(from_row + (to_row - from_row) * i / (len(links) + 1))
    boxes = [Box("memory", name, _memory(name, memory), 2 * depths[name]) for name, memory in soc.memories.items()]
    boxes += [Box("core", name, _core(name, core), 2 * deepest + 2) for name, core in soc.cores.items()]
    for name, one in soc.links.items():
        at = rows.get(name, [2 * deepest + 1.0])  # none: a core's own feed, between memories and cores
        boxes.append(Box("link", name, _link(name, one), round(2 * sum(at) / len(at)) / 2))
    arrows = [
        Arrow(start, end, mover)
        for source, links, target, mover in paths
        for chain in [[("memory", source), *(("link", link) for link in links), ("memory", target)]]
        for start, end in pairwise(chain)
    ]
    for name, core in soc.cores.items():
        places = dict.fromkeys([core.memory, core.weight_memory, *(getattr(core, key) for key in core.own_memories())])
        ends = [("memory", place) for place in places if place is not None]
        ends += [("link", link) for link in (*core.feed_links, *(getattr(core, key) for key in core.own_links()))]
        arrows += [Arrow(("core", name), end, "") for end in dict.fromkeys(ends)]
    return tuple(boxes), tuple(dict.fromkeys(arrows))


def _depths(soc: SoC) -> dict[str, int]:
    """Routes from the outermost memory to each; caches stand between the memories that they are between."""
    outermost = soc.backing_memory or soc.main_memory
    depths = {outermost: 0}
    caches = [(one.llc, one.l2) for one in soc.dmas.values() if isinstance(one, CachedMover)]
    if caches and soc.main_memory in depths:
        depths |= {caches[0][0]: 1, caches[0][1]: 2}
    # The main memory first, so that a short cut from outside does not lift what lies behind it.
    todo = [outermost] if outermost == soc.main_memory else [outermost, soc.main_memory]
    depths.setdefault(soc.main_memory, 1)
    while todo:
        at = todo.pop()
        step = 3 if at == soc.main_memory and caches else 1
        for route in soc.routes:
            if route.source == at and route.target not in depths:
                depths[route.target] = depths[at] + step
                todo.insert(0, route.target)
    # Memories that no route reaches are of a core's inside.
    return {name: depths.get(name, max(depths.values())) for name in soc.memories}


def _through_caches(soc: SoC) -> Iterator[tuple[str, tuple[str, ...], str, str]]:
    """The ways of cached movers: between the main memory and the last-level cache, that and the L2, the L2 and the
    memories of their routes."""
    for name, mover in soc.dmas.items():
        if not isinstance(mover, CachedMover):
            continue
        ends = {route.target if route.source == soc.main_memory else route.source for route in soc.routes
                if route.dma == name}  # fmt: skip
        steps = [(soc.main_memory, mover.dram_link, mover.llc), (mover.llc, mover.outer_link, mover.l2)]
        for outer, link, inner in steps + [(mover.l2, mover.return_link, end) for end in sorted(ends)]:
            yield outer, (link,), inner, name
            yield inner, (link,), outer, name


def _memory(name: str, memory: Memory) -> str:
    banks = f"\n{memory.dram.banks} banks" if memory.dram else ""
    return f"{shown(name)}\n{_bytes(memory.size_bytes)}{banks}"


def _link(name: str, link: Link) -> str:
    ports = f" x {link.ports}" if link.ports > 1 else ""
    return f"{shown(name)}\n{link.bytes_per_period / link.period_cycles:.4g} B/cycle{ports}"


def _core(name: str, core: Core) -> str:
    return f"{shown(name)}\n{shown(core.model)}"


def _bytes(size: int) -> str:
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= factor:
            return f"{size / factor:.4g} {unit}"
    return f"{size} B"


def _placed(boxes: tuple[Box, ...], arrows: tuple[Arrow, ...]) -> dict[tuple[str, str], tuple[float, float]]:
    """x and y of each box, in boxes: rows of their own from the top, in which boxes stand near those they are joined
    to."""
    rows = sorted({box.row for box in boxes})
    order = {row: [(box.kind, box.name) for box in boxes if box.row == row] for row in rows}
    widest = max(len(row) for row in order.values())
    joined: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for arrow in arrows:
        joined.setdefault(arrow.start, []).append(arrow.end)
        joined.setdefault(arrow.end, []).append(arrow.start)
    place: dict[tuple[str, str], float] = {}
    for sweep in range(SWEEPS):
        for row in rows if sweep % 2 == 0 else rows[::-1]:
            names = order[row]
            if place:
                near = {name: [place[other] for other in joined.get(name, []) if other in place] for name in names}
                names.sort(key=lambda name: sum(near[name]) / len(near[name]) if near[name] else widest / 2)
            for i, name in enumerate(names):
                place[name] = (i + 0.5) * widest / len(names)
    return {name: (place[name], -float(i)) for i, row in enumerate(rows) for name in order[row]}


def draw_soc(soc: SoC, file: Path, kind: str) -> None:
    """Draw a SoC to a file: svg, png or pdf, whatever its name."""
    boxes, arrows = soc_graph(soc)
    places = _placed(boxes, arrows)
    wide = max(x for x, _ in places.values()) + 1
    high = 1 - min(y for _, y in places.values())
    colours = {name: MOVERS[i % len(MOVERS)] for i, name in enumerate(soc.dmas)} | {"": "#999999"}
    with drawn_figure(max(6.0, WIDE * wide), HIGH * high + 0.8) as figure:
        axes = figure.subplots()
        axes.set_axis_off()
        axes.set_xlim(0, max(wide - 0.5, 1))
        axes.set_ylim(0.5 - high, 0.6)
        drawn: dict[tuple[str, str], Any] = {}
        for box in boxes:
            shape = {"boxstyle": "round,pad=0.35" if box.kind == "core" else "square,pad=0.35",
                     "facecolor": COLOURS[box.kind], "edgecolor": "#444444", "linewidth": 0.8}  # fmt: skip
            x, y = places[box.kind, box.name]
            text = axes.text(x, y, box.text, ha="center", va="center", fontsize=8, bbox=shape)
            drawn[box.kind, box.name] = text.get_bbox_patch()
        figure.canvas.draw()  # boxes get their sizes, at whose edges arrows end
        for arrow in arrows:
            look = {"arrowstyle": "-|>" if arrow.mover else "-", "color": colours[arrow.mover],
                    "linestyle": "-" if arrow.mover else ":", "connectionstyle": "arc3,rad=0.06",
                    "patchA": drawn[arrow.start], "patchB": drawn[arrow.end], "shrinkA": 1, "shrinkB": 1}  # fmt: skip
            axes.annotate("", places[arrow.end], places[arrow.start], arrowprops=look, zorder=1)
        for i, name in enumerate(soc.dmas):
            axes.text(
                0.01 + 0.2 * i, 1.0, f"— {shown(name)}", color=colours[name], fontsize=8, transform=axes.transAxes
            )
        axes.set_title(f"{shown(soc.name)}, {soc.tick_hz / 1e6:g} MHz", fontsize=10, loc="right")
        figure.savefig(file, format=kind)


__all__ = ["PICTURES", "Arrow", "Box", "draw_soc", "soc_graph"]
