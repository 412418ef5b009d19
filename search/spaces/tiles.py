"""The space of tilings and fusions on Gemmini: what can be chosen, what is legal, and what a choice costs.

Per layer that the array runs: a tile along each dimension (a divisor of its extent) and one of the three orders of
the software loops. Per neighbouring pair of layers: fused or not. Per fused group: tile of its last layer, line buffers
or recomputation, and which layers' weights stay. The spatial unrolling is what a tile makes of it: blocks of `side`
output and input channels, fewer where the tile has fewer. A choice of all of these is a `Plan`; every `Plan` that this
module returns is legal, and its cost is that of `cosoc.sim.movers.cached_terms`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cosoc.sim import exact
from cosoc.sim.cores.systolic import Systolic
from cosoc.sim.errors import InputError
from cosoc.sim.model.mapping import Dim, Extent, LayerPlan, Mapping, Part
from cosoc.sim.model.mapping import Piece as MappedPiece
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import Layer, Workload
from cosoc.sim.movers.cached_terms import (
    ARRAY_OPS,
    NEST_DIMS,
    ORDERS,
    OS,
    CachedTerms,
    CachedTheta,
    Flow,
    Machine,
    Reloads,
    Shape,
    Tiles,
    cycles,
    energy_pj,
    reloads,
    roofline_cycles,
    rows_needed,
    terms,
)
from cosoc.sim.movers.fused_steps import Chain, GroupCost, chain, group_cost, why_not

Objective = Literal["edp", "latency", "energy"]
OBJECTIVES: tuple[Objective, ...] = ("edp", "latency", "energy")
LatencyModel = Literal["gemmini", "roofline"]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

MAX_GROUP = 8  # layers of a fused group at most


@dataclass(frozen=True)
class Single:
    """One layer by itself. order: position in ORDERS."""

    layer: int
    tile: tuple[int, int, int, int, int, int]  # along NEST_DIMS
    order: int

    @property
    def extent(self) -> Extent:
        return Extent(*self.tile)

    @property
    def loops(self) -> tuple[Dim, ...]:
        """The loops around its tiles, outermost first."""
        return ("n", *ORDERS[self.order])


@dataclass(frozen=True)
class Fused:
    """The layers first .. last as one group. oy, ox: tile of the last; keep: line buffers; resident: of each layer,
    whether its weights stay."""

    first: int
    last: int
    oy: int
    ox: int
    keep: bool
    resident: tuple[bool, ...]


Piece = Single | Fused


@dataclass(frozen=True)
class Cost:
    """Energy and latency of a plan by the closed form; additive over its pieces."""

    energy_pj: float
    cycles: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.energy_pj + other.energy_pj, self.cycles + other.cycles)

    def of(self, objective: Objective) -> float:
        """EDP in pJ cycles, latency in cycles, energy in pJ."""
        if objective == "edp":
            return self.energy_pj * self.cycles
        return self.cycles if objective == "latency" else self.energy_pj


@dataclass(frozen=True)
class Plan:
    """Pieces in network order, each layer that the array runs in exactly one."""

    pieces: tuple[Piece, ...]

    @property
    def groups(self) -> tuple[Fused, ...]:
        return tuple(piece for piece in self.pieces if isinstance(piece, Fused))


@dataclass
class Space:
    """The choices that a workload has on a machine. double: tiles take half of scratchpad and accumulator at most, so
    that the next one's loads run beside. model: what a latency is (`roofline` is DOSA's, for comparison)."""

    workload: Workload
    machine: Machine
    theta: CachedTheta = field(default_factory=CachedTheta)
    double: bool = True
    model: LatencyModel = "gemmini"
    max_group: int = MAX_GROUP

    def __post_init__(self) -> None:
        self.positions = [i for i, layer in enumerate(self.workload.layers) if runs_on_array(layer)]
        if not self.positions:
            raise InputError(f"workload {self.workload.name} has no layer that Gemmini's array runs")
        self.shapes = {i: Shape.of(self.workload.layers[i]) for i in self.positions}
        self.divisors = {i: [divisors(getattr(s, d)) for d in NEST_DIMS] for i, s in self.shapes.items()}
        self._singles: dict[Any, tuple[Ints, CachedTerms]] = {}
        self._costs: dict[Piece, Cost] = {}
        self._chains: dict[tuple[int, int], Chain | None] = {}
        for i in self.positions:
            self._check_fits(i)

    # ------------------------------------------------------------------------------------------ limits

    @property
    def spad_rows(self) -> int:
        """Rows of scratchpad that a single layer's tile may fill."""
        return self.machine.spad_rows // (2 if self.double else 1)

    @property
    def acc_rows(self) -> int:
        """Rows of accumulator that a single layer's tile may fill."""
        return self.machine.acc_rows // (2 if self.double else 1)

    def _check_fits(self, i: int) -> None:
        """InputError where not even the smallest tile of a layer fits: by which buffer, and by how much."""
        spad, acc = rows_needed(self.shapes[i], Tiles(1, 1, 1, 1, 1, 1), self.machine)
        for name, need, have in (("scratchpad", spad, self.spad_rows), ("accumulator", acc, self.acc_rows)):
            if need > have:
                layer = self.workload.layers[i].name
                raise InputError(
                    f"layer {layer}: its smallest tile needs {need} rows of {name}, {need - have} more than the {have} "
                    "that a tile may fill; a larger memory or a smaller layer is needed"
                )

    # ------------------------------------------------------------------------------------------ costs

    def flow(self, i: int) -> Flow:
        """Where a single layer's operands come from: all from DRAM."""
        return Flow(dram_in=self.shapes[i].operands)

    def cost_of(self, t: CachedTerms) -> tuple[Any, Any]:
        """(energy in pJ, cycles) of terms."""
        if self.model == "roofline":
            return energy_pj(t, self.machine), roofline_cycles(t, self.machine)
        return energy_pj(t, self.machine), cycles(t, self.machine, self.theta, exact, int(self.double))

    def singles(self, i: int) -> tuple[Ints, CachedTerms]:
        """Every legal mapping of layer i by itself: [n, 7] tiles along NEST_DIMS and the order, and their terms."""
        shape = self.shapes[i]
        if shape not in self._singles:
            grid = np.meshgrid(*(np.array(d, np.int64) for d in self.divisors[i]), indexing="ij")
            flat = [axis.reshape(-1) for axis in grid]
            spad, acc = rows_needed(shape, Tiles(*flat), self.machine)
            fits = np.broadcast_to((spad <= self.spad_rows) & (acc <= self.acc_rows), flat[0].shape)
            flat = [axis[fits] for axis in flat]
            each = [reloads(shape, Tiles(*flat), order, exact) for order in ORDERS]
            size = (len(flat[0]),)

            def all_orders(name: str) -> Any:
                return np.concatenate([np.broadcast_to(getattr(r, name), size) for r in each])

            tripled = [np.tile(axis, len(ORDERS)) for axis in flat]
            again = Reloads(all_orders("weights"), all_orders("inputs"), all_orders("outputs"))
            found = terms(shape, Tiles(*tripled), again, self.machine, exact, self.flow(i))
            order = np.repeat(np.arange(len(ORDERS)), size[0])
            self._singles[shape] = np.stack([*tripled, order], axis=1), found
        return self._singles[shape]

    def single_terms(self, i: int, rows: Ints) -> CachedTerms:
        """Terms of the mappings [n, 7] of layer i; legal or not."""
        shape, tiles = self.shapes[i], Tiles(*(rows[:, d] for d in range(6)))
        each = [reloads(shape, tiles, order, exact) for order in ORDERS]

        def chosen(name: str) -> Any:
            parts = [np.broadcast_to(getattr(r, name), len(rows)) for r in each]
            return np.choose(rows[:, 6], parts)

        again = Reloads(chosen("weights"), chosen("inputs"), chosen("outputs"))
        return terms(shape, tiles, again, self.machine, exact, self.flow(i))

    def single_fits(self, i: int, rows: Ints) -> npt.NDArray[np.bool_]:
        """Which of the mappings [n, 7] of layer i fit."""
        spad, acc = rows_needed(self.shapes[i], Tiles(*(rows[:, d] for d in range(6))), self.machine)
        return np.asarray((spad <= self.spad_rows) & (acc <= self.acc_rows)) & np.ones(len(rows), bool)

    def chain(self, first: int, last: int) -> Chain | None:
        """The group of layers first .. last; None where they cannot be fused."""
        key = (first, last)
        if key not in self._chains:
            short = last - first < self.max_group
            legal = short and not why_not(self.workload, first, last)
            self._chains[key] = chain(self.workload, first, last) if legal else None
        return self._chains[key]

    def fused_cost(self, first: int, last: int, rows: Ints) -> tuple[Floats, Floats, npt.NDArray[np.bool_]]:
        """(energy, cycles, fits) of candidates [n, 3 + layers]: oy, ox, keep, resident of each layer."""
        group = self.chain(first, last)
        if group is None:
            raise InputError(why_not(self.workload, first, last))
        found = self._group(group, rows)
        energy, time = self.cost_of(found.terms)
        fits = (found.spad_rows <= self.machine.spad_rows) & (found.acc_rows <= self.machine.acc_rows // 2)
        return energy, time, fits

    def _group(self, group: Chain, rows: Ints) -> GroupCost:
        resident = [rows[:, 3 + j] for j in range(len(group.layers))]
        return group_cost(group, rows[:, 0], rows[:, 1], rows[:, 2], resident, self.machine)

    def group_terms(self, piece: Fused) -> CachedTerms:
        """Terms of a group; arrays of one."""
        group = self.chain(piece.first, piece.last)
        if group is None:
            raise InputError(why_not(self.workload, piece.first, piece.last))
        return self._group(group, _row(piece)).terms

    def group_tiles(self, piece: Fused) -> tuple[Tiles, ...]:
        """The tiles of each layer of a group; arrays of one."""
        group = self.chain(piece.first, piece.last)
        if group is None:
            raise InputError(why_not(self.workload, piece.first, piece.last))
        return self._group(group, _row(piece)).tiles

    def fused_candidates(self, first: int, last: int) -> Ints:
        """Every choice of a group [n, 3 + layers], legal or not; see `fused_cost`. Line buffers go with whole rows, and
        resident weights with more than one step."""
        group = self.chain(first, last)
        if group is None:
            return np.zeros((0, 3 + last - first + 1), np.int64)
        sink = group.shapes[-1]
        tiles = [(oy, ox, 0) for oy in divisors(sink.oy) for ox in divisors(sink.ox)]
        tiles += [(oy, sink.ox, 1) for oy in divisors(sink.oy) if oy < sink.oy]
        kept = np.array(tiles, np.int64)
        weighty = [j for j, s in enumerate(group.shapes) if not s.add]
        choices = np.zeros((2 ** len(weighty), len(group.layers)), np.int64)
        for bit, j in enumerate(weighty):
            choices[:, j] = (np.arange(len(choices)) >> bit) & 1
        many = (kept[:, 0] < sink.oy) | (kept[:, 1] < sink.ox)
        blocks = [np.concatenate((kept[~many], np.zeros((int((~many).sum()), len(group.layers)), np.int64)), axis=1)]
        several = kept[many]
        blocks.append(
            np.concatenate((np.repeat(several, len(choices), axis=0), np.tile(choices, (len(several), 1))), axis=1)
        )
        return np.concatenate(blocks)

    def piece_cost(self, piece: Piece) -> Cost:
        """The cost of one piece; InputError where it is not legal. Remembered."""
        if piece not in self._costs:
            self._costs[piece] = self._piece_cost(piece)
        return self._costs[piece]

    def _piece_cost(self, piece: Piece) -> Cost:
        if isinstance(piece, Single):
            rows = np.array([[*piece.tile, piece.order]], np.int64)
            if not self.single_fits(piece.layer, rows)[0]:
                raise InputError(f"layer {self.workload.layers[piece.layer].name}: tile {piece.tile} does not fit")
            energy, time = self.cost_of(self.single_terms(piece.layer, rows))
        else:
            rows = _row(piece)
            energy, time, fits = self.fused_cost(piece.first, piece.last, rows)
            if not fits[0]:
                raise InputError(f"group at {self.workload.layers[piece.first].name}: does not fit the scratchpad")
        return Cost(float(np.asarray(energy).reshape(-1)[0]), float(np.asarray(time).reshape(-1)[0]))

    def cost(self, plan: Plan) -> Cost:
        """The cost of a whole plan; layers that the array does not run are the same for every plan, and left out."""
        return functools.reduce(lambda a, b: a + b, (self.piece_cost(piece) for piece in plan.pieces))

    def complete(self, plan: Plan) -> bool:
        """Whether every layer that the array runs stands in exactly one piece, in order."""
        found: list[int] = []
        for piece in plan.pieces:
            found += [piece.layer] if isinstance(piece, Single) else range(piece.first, piece.last + 1)
        return found == self.positions


def runs_on_array(layer: Layer) -> bool:
    """Whether Gemmini's array runs a layer (an addition by its accumulator); the others are the host's."""
    if layer.op not in ARRAY_OPS or max(layer.dilation_y, layer.dilation_x) > 1:
        return False
    return layer.op != "conv" or layer.groups == 1 or layer.depthwise


def divisors(n: int) -> list[int]:
    """All divisors, ascending."""
    small = [d for d in range(1, int(n**0.5) + 1) if n % d == 0]
    return small + [n // d for d in reversed(small) if d * d != n]


def _row(piece: Fused) -> Ints:
    """A group's choices as the row of an array."""
    return np.array([[piece.oy, piece.ox, int(piece.keep), *map(int, piece.resident)]], np.int64)


def as_single(i: int, row: Sequence[int] | Ints) -> Single:
    """A mapping [7] of layer i as a piece."""
    k, c, fy, fx, oy, ox, order = (int(x) for x in row)
    return Single(i, (k, c, fy, fx, oy, ox), order)


def as_fused(first: int, last: int, row: Sequence[int] | Ints) -> Fused:
    """A choice [3 + layers] of a group as a piece."""
    return Fused(first, last, int(row[0]), int(row[1]), bool(row[2]), tuple(bool(x) for x in row[3:]))


def to_mapping(space: Space, plan: Plan, soc: SoC, name: str = "tiling_fusion") -> Mapping:
    """The plan as a mapping: tiles for every layer of the array, a fused piece for every group."""
    core = next(key for key, core in soc.cores.items() if isinstance(core, Systolic))
    layers, pieces = {}, []
    for piece in plan.pieces:
        if isinstance(piece, Single):
            layer = space.workload.layers[piece.layer]
            layers[layer.name] = LayerPlan((Part(core, layer.k, piece.extent),), piece.loops)
            continue
        members = space.workload.layers[piece.first : piece.last + 1]
        tiles = space.group_tiles(piece)
        for layer, tile in zip(members, tiles, strict=True):
            extent = Extent(*(int(np.asarray(getattr(tile, d)).reshape(-1)[0]) for d in NEST_DIMS))
            layers[layer.name] = LayerPlan((Part(core, layer.k, extent),), ("n", *OS))
        stays = tuple(layer.name for layer, r in zip(members, piece.resident, strict=True) if r)
        pieces.append(MappedPiece(tuple(layer.name for layer in members), "fused", piece.keep, stays))
    return Mapping(name, "overlapped", layers, tuple(pieces))
