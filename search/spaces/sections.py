"""Mappings in pieces: what a search of tiles and fusion puts together, and what an exact programme chooses among.

A `Section` is a part of a `Mapping`: the plans of consecutive layers, and the fused piece that they are, if any. A plan
of a network is a `Mapping`; its sections, in network order, are only how a search looks at it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from collections.abc import Mapping as MappingOf
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from cosoc.sim.model.mapping import Extent, LayerPlan, Mapping, Part, Piece
from cosoc.sim.model.workload import INPUT, Layer, Workload

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Section:
    """Consecutive layers as a mapping has them. first: the number of the first; plans: of each; piece: what they are
    together, None for a layer by itself."""

    first: int
    plans: tuple[LayerPlan, ...]
    piece: Piece | None = None

    @property
    def last(self) -> int:
        """The number of the last layer."""
        return self.first + len(self.plans) - 1

    @property
    def span(self) -> tuple[int, int]:
        """The number of the first layer, and one past that of the last."""
        return self.first, self.first + len(self.plans)

    @property
    def plan(self) -> LayerPlan:
        """The plan of the last layer: of the only one, or of the one whose tiles a fused piece goes by."""
        return self.plans[-1]


@dataclass(frozen=True)
class Cost:
    """Energy and latency by a closed form, or simulated alone; they add up along a plan."""

    energy_j: float
    seconds: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.energy_j + other.energy_j, self.seconds + other.seconds)

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.energy_j - other.energy_j, self.seconds - other.seconds)


@dataclass(frozen=True)
class Options:
    """All that may be chosen for some consecutive layers. points [n, 2]: J and s of each choice; section: the choice of
    a number."""

    points: Floats
    section: Callable[[int], Section]

    def cost(self, choice: int) -> Cost:
        """What a choice costs."""
        return Cost(float(self.points[choice, 0]), float(self.points[choice, 1]))


def listed(found: MappingOf[Section, Cost]) -> Options:
    """Sections of the same layers as options."""
    sections = list(found)
    points = np.array([(found[section].energy_j, found[section].seconds) for section in sections])
    return Options(points, lambda choice: sections[choice])


def total(costs: Sequence[Cost]) -> Cost:
    """Their sum."""
    return sum(costs, Cost(0.0, 0.0))


def mapping_of(sections: Sequence[Section], given: Mapping, workload: Workload, name: str = "tiles") -> Mapping:
    """The given mapping with these sections in place of what it says of their layers."""
    plans, pieces, replaced = dict(given.layers), list[Piece](), set[str]()
    for section in sections:
        names = [layer.name for layer in workload.layers[section.first : section.last + 1]]
        plans |= dict(zip(names, section.plans, strict=True))
        replaced |= set(names)
        pieces += [section.piece] if section.piece is not None else []
    kept = [piece for piece in given.pieces if not replaced & set(piece.layers)]
    return replace(given, name=name, layers=plans, pieces=(*kept, *pieces))


def sections_of(mapping: Mapping, workload: Workload) -> tuple[Section, ...]:
    """A complete mapping in sections. A piece whose layers do not follow each other leaves each layer by itself: it
    stays the mapping's."""
    at = {layer.name: i for i, layer in enumerate(workload)}
    starts: dict[int, Piece] = {}
    for piece in mapping.pieces:
        members = [at[name] for name in piece.layers]
        if members == list(range(members[0], members[0] + len(members))):
            starts[members[0]] = piece
    out, i = list[Section](), 0
    while i < len(workload.layers):
        some = starts.get(i)
        end = i + (len(some.layers) if some is not None else 1)
        out.append(Section(i, tuple(mapping.layers[layer.name] for layer in workload.layers[i:end]), some))
        i = end
    return tuple(out)


def nameless(mapping: Mapping, workload: Workload) -> Hashable:
    """All that decides what a network costs under a mapping that has a plan for each layer: equal for two that differ
    in names alone. Names in the same alphabetical order, though: of tensors of one size, the last is spilled first."""
    names = sorted({*workload.incoming, *(layer.name for layer in workload)})
    new = {name: f"{'a' if name < INPUT else 't'}{rank:06}" for rank, name in enumerate(names)} | {INPUT: INPUT}

    def renamed(layer: Layer) -> Layer:
        other = None if layer.alternative is None else renamed(layer.alternative)
        inputs = tuple(new[name] for name in layer.inputs)
        shared, into = new.get(layer.weights_of, ""), new.get(layer.into, "")
        named = replace(layer, name=new.get(layer.name, ""), inputs=inputs, alternative=other)
        return replace(named, weights_of=shared, into=into)

    pieces = tuple(
        replace(
            piece,
            layers=tuple(new[name] for name in piece.layers),
            resident=None if piece.resident is None else tuple(new[name] for name in piece.resident),
        )
        for piece in mapping.pieces
    )
    received = tuple((new[name], size) for name, size in workload.received)
    received += tuple((f"{new[name]} lives on", size) for name, size in workload.states)
    outputs = tuple(new[name] for name in workload.outputs)
    plans = tuple(mapping.layers[layer.name] for layer in workload)
    return tuple(map(renamed, workload)), workload.input_shape, received, outputs, plans, pieces, mapping.runtime


def mapping_from(plain: MappingOf[str, Any]) -> Mapping:
    """A mapping of a SoC from what `dataclasses.asdict` made of it, once through JSON."""

    def part(own: MappingOf[str, Any]) -> Part:
        return Part(own["core"], own["channels"], own["tile"] and Extent(**own["tile"]), own["bits"])

    plans = {
        name: LayerPlan(tuple(map(part, p["parts"])), p["order"] and tuple(p["order"]), p["reuse"], p["unroll"])
        for name, p in plain["layers"].items()
    }
    pieces = tuple(
        Piece(tuple(p["layers"]), p["how"], p["keep_rows"], None if p["resident"] is None else tuple(p["resident"]))
        for p in plain["pieces"]
    )
    return Mapping(plain["name"], plain["runtime"], plans, pieces)
