"""Tiles and fused groups behind a cached mover: what can be chosen, what is legal, and what a choice costs.

Per layer that the array runs: a tile along each dimension (a divisor of its extent) and one of the three orders of
the software loops. Per neighbouring pair of layers: fused or not. Per fused group: tile of its last layer, line buffers
or recomputation, and which layers' weights stay. The spatial unrolling is what a tile makes of it: blocks of `side`
output and input channels, fewer where the tile has fewer. Choices are kept as rows of arrays and given out as sections
of a mapping; every section that is given out is legal, and its cost is that of `cosoc.sim.movers.cached_terms`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, field, fields
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cosoc.search.spaces.sections import Cost, Floats, Ints, Options, Section, total
from cosoc.sim import exact
from cosoc.sim.errors import InputError
from cosoc.sim.model.mapping import Extent, LayerPlan, Part, Piece
from cosoc.sim.model.workload import Layer, Workload
from cosoc.sim.movers.cached_terms import (
    ARRAY_OPS,
    NEST_DIMS,
    ORDERS,
    OS,
    CachedTerms,
    Flow,
    Machine,
    Reloads,
    Shape,
    Tiles,
    cycles,
    energy_pj,
    nest_order,
    plan_reloads,
    reloads,
    roofline_cycles,
    roofline_energy_pj,
    rows_needed,
    terms,
)
from cosoc.sim.movers.fused_steps import Chain, chain, group_cost, group_rows, group_steps, why_not
from cosoc.sim.theta import Theta

LatencyModel = Literal["gemmini", "roofline"]

MAX_GROUP = 8  # layers of a fused group at most


@dataclass
class CachedTiles:
    """The choices that a workload has on an array. core: its name in mappings. double: tiles take half of scratchpad
    and accumulator at most, so that the next one's loads run beside. model: what a latency is (`roofline` is DOSA's,
    for comparison). positions: numbers of the layers that the array runs."""

    workload: Workload
    machine: Machine
    theta: Theta = field(default_factory=Theta)
    double: bool = True
    model: LatencyModel = "gemmini"
    max_group: int = MAX_GROUP
    core: str = "array"
    positions: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        layers = self.workload.layers
        self.positions = self.positions or [i for i, layer in enumerate(layers) if runs_on_array(layer)]
        if not self.positions:
            raise InputError(f"workload {self.workload.name} has no layer that the array runs")
        self.shapes = {i: Shape.of(self.workload.layers[i]) for i in self.positions}
        self.divisors = {i: [divisors(getattr(s, d)) for d in NEST_DIMS] for i, s in self.shapes.items()}
        self._singles: dict[Any, tuple[Ints, CachedTerms]] = {}
        self._costs: dict[Section, Cost] = {}
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
            return roofline_energy_pj(t, self.machine), roofline_cycles(t, self.machine)
        return energy_pj(t, self.machine, self.theta), cycles(t, self.machine, self.theta, exact, int(self.double))

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
            again = Reloads(*(all_orders(f.name) for f in fields(Reloads)))
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

        again = Reloads(*(chosen(f.name) for f in fields(Reloads)))
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

    def fused(self, first: int, last: int) -> Chain:
        """The group of layers first .. last; InputError where they cannot be fused."""
        group = self.chain(first, last)
        if group is None:
            raise InputError(why_not(self.workload, first, last))
        return group

    def fused_fits(self, first: int, last: int, rows: Ints) -> npt.NDArray[np.bool_]:
        """Which of the candidates [n, 3 + layers] fit: oy, ox, keep, resident of each layer."""
        group, spread = self.fused(first, last), _spread(rows)
        spad, acc = group_rows(group, group_steps(group, *spread, self.machine), spread[-1], self.machine)
        return np.asarray((spad <= self.machine.spad_rows) & (acc <= self.machine.acc_rows // 2))

    def fused_cost(self, first: int, last: int, rows: Ints) -> tuple[Floats, Floats]:
        """(energy, cycles) of candidates, see `fused_fits`."""
        return self.cost_of(group_cost(self.fused(first, last), *_spread(rows), self.machine).terms)

    def fused_candidates(self, first: int, last: int) -> Ints:
        """Every choice of a group [n, 3 + layers], legal or not; see `fused_fits`. Line buffers go with whole rows, and
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

    # ------------------------------------------------------------------------------------------ sections

    def as_single(self, i: int, row: Sequence[int] | Ints) -> Section:
        """A mapping [7] of layer i."""
        *tile, order = (int(x) for x in row)
        part = Part(self.core, self.workload.layers[i].k, Extent(*tile))
        return Section(i, (LayerPlan((part,), ("n", *ORDERS[order])),))

    def as_fused(self, first: int, last: int, row: Sequence[int] | Ints) -> Section:
        """A choice [3 + layers] of a group."""
        row, group = np.array(row, np.int64), self.fused(first, last)
        tiles = [
            Extent(*(int(np.asarray(getattr(tile, d)).reshape(-1)[0]) for d in NEST_DIMS))
            for tile in group_steps(group, *_spread(row[None]), self.machine).tiles
        ]
        plans = tuple(
            LayerPlan((Part(self.core, layer.k, tile),), ("n", *OS))
            for layer, tile in zip(group.layers, tiles, strict=True)
        )
        names = tuple(layer.name for layer in group.layers)
        stays = tuple(name for name, r in zip(names, row[3:], strict=True) if r)
        return Section(first, plans, Piece(names, "fused", bool(row[2]), stays))

    def row(self, section: Section) -> Ints:
        """A section as a row [7] or [3 + layers] of arrays; its order as one of the three that costs the same."""
        tile = section.plan.tile
        if section.piece is None:
            return np.array([*(tile.along(d) for d in NEST_DIMS), _order_of(section.plan)], np.int64)
        stays = [int(section.piece.stays(name)) for name in section.piece.layers]
        return np.array([tile.oy, tile.ox, int(section.piece.keep_rows), *stays], np.int64)

    def prices(self, section: Section) -> bool:
        """Whether the closed form says what a section costs: tiles on this array, in an order that it has."""
        plans = section.plans
        if any(len(plan.parts) != 1 or plan.parts[0].core != self.core or not plan.is_tiled for plan in plans):
            return False
        if section.piece is None:
            return section.first in self.shapes and (not plans[0].reuse or nest_order(plans[0]) in ORDERS)
        return self.chain(section.first, section.last) is not None

    def options(self, first: int, last: int) -> Options | None:
        """Every legal choice of the layers first .. last; None where they cannot be fused, or nothing fits."""
        if first == last:
            rows, found = self.singles(first)
            energy, time = (np.broadcast_to(x, len(rows)) for x in self.cost_of(found))
            return Options(self.points(energy, time), lambda choice: self.as_single(first, rows[choice]))
        rows = self.fused_candidates(first, last)
        rows = rows[self.fused_fits(first, last, rows)] if len(rows) else rows
        if not len(rows):
            return None
        points = self.points(*self.fused_cost(first, last, rows))
        return Options(points, lambda choice: self.as_fused(first, last, rows[choice]))

    def choices(self, fusion: bool = True) -> dict[tuple[int, int], Options]:
        """The options of every single layer and group, by (first, one past the last) in `positions`."""
        at = self.positions
        out = dict[tuple[int, int], Options]()
        for start in range(len(at)):
            for end in range(start + 1, min(start + self.max_group if fusion else start + 1, len(at)) + 1):
                if at[end - 1] - at[start] != end - 1 - start:
                    break  # a layer that others run stands between
                found = self.options(at[start], at[end - 1])
                if found is not None:
                    out[start, end] = found
        return out

    def complete(self, sections: Sequence[Section]) -> bool:
        """Whether every layer that the array runs stands in exactly one section, in order."""
        return [i for section in sections for i in range(*section.span)] == self.positions

    def points(self, energy: Any, time: Any) -> Floats:
        """Of pJ and cycles, J and seconds [n, 2]."""
        return np.stack((np.asarray(energy) * 1e-12, np.asarray(time) / self.machine.hz), axis=1)

    def cost(self, section: Section) -> Cost:
        """The cost of a section; InputError where it is not legal. Remembered."""
        if section not in self._costs:
            if section.plan.reuse:
                row = self.row(section)[None]
                if section.piece is None:
                    fits = self.single_fits(section.first, row)
                else:
                    fits = self.fused_fits(section.first, section.last, row)
                if not fits[0]:
                    name = self.workload.layers[section.first].name
                    raise InputError(f"layer {name}: its tile does not fit, or that of the group it begins")
            self.price([section])
        return self._costs[section]

    def price(self, sections: Iterable[Section]) -> None:
        """Remember the costs of legal sections. Those of the same layers in tiles that stay are computed at once."""
        alike: dict[tuple[int, int, bool], list[Section]] = {}
        for section in dict.fromkeys(sections):
            if section in self._costs:
                continue
            if section.plan.reuse:
                alike.setdefault((section.first, section.last, section.piece is None), []).append(section)
            else:
                self._remember([section], *self.cost_of(self.terms_of(section)))
        for (first, last, single), some in alike.items():
            rows = np.stack([self.row(section) for section in some])
            self._remember(
                some, *(self.cost_of(self.single_terms(first, rows)) if single else self.fused_cost(first, last, rows))
            )

    def _remember(self, sections: Sequence[Section], energy: Any, time: Any) -> None:
        """Costs of sections, pJ and cycles, of each or of all alike."""
        points = self.points(*(np.broadcast_to(x, len(sections)) for x in (energy, time)))
        self._costs |= {one: Cost(float(e), float(t)) for one, (e, t) in zip(sections, points, strict=True)}

    def plan_cost(self, sections: Sequence[Section]) -> Cost:
        """The cost of a whole plan; layers that the array does not run are the same for every plan, and left out."""
        return total([self.cost(section) for section in sections])

    def near(self, section: Section) -> tuple[Ints, Floats]:
        """Legal neighbours of a section as rows, and their points: up to two of a layer's tile sizes and order
        differ; a group's tile and line buffers, or up to two residents."""
        if section.piece is None:
            rows = _singles_near(self, section.first, self.row(section))
            rows = np.unique(rows[self.single_fits(section.first, rows)], axis=0)
            energy, time = self.cost_of(self.single_terms(section.first, rows))
            return rows, self.points(np.broadcast_to(energy, len(rows)), np.broadcast_to(time, len(rows)))
        rows = np.unique(_groups_near(self, section.first, section.last, self.row(section)), axis=0)
        rows = rows[self.fused_fits(section.first, section.last, rows)]
        return rows, self.points(*self.fused_cost(section.first, section.last, rows))

    def neighbours(self, section: Section) -> Options:
        """The same as options, itself among them."""
        rows, points = self.near(section)
        return Options(points, lambda choice: self.read(section, rows[choice]))

    def read(self, like: Section, row: Sequence[int] | Ints) -> Section:
        """A row as a section of the same layers as another."""
        return self.as_single(like.first, row) if like.piece is None else self.as_fused(like.first, like.last, row)

    # ------------------------------------------------------------------------------------------ learning

    def terms_of(self, section: Section) -> CachedTerms:
        """The terms of a section, numbers."""
        if section.piece is None and not section.plan.reuse:
            shape, tiles = self.shapes[section.first], Tiles.of(section.plan.tile)
            again = plan_reloads(section.plan, shape, tiles, exact)
            found = terms(shape, tiles, again, self.machine, exact, self.flow(section.first))
        elif section.piece is None:
            found = self.single_terms(section.first, self.row(section)[None])
        else:
            group = self.fused(section.first, section.last)
            found = group_cost(group, *_spread(self.row(section)[None]), self.machine).terms
        return CachedTerms(*(float(np.asarray(x).reshape(-1)[0]) for x in astuple(found)))

    def learn(self, theta: Theta) -> None:
        """Take another theta."""
        self.theta = theta
        self._costs.clear()


def _spread(rows: Ints) -> tuple[Ints, Ints, Ints, list[Ints]]:
    """Candidates of a group [n, 3 + layers] as oy, ox, keep, and resident of each layer, [n] each."""
    return rows[:, 0], rows[:, 1], rows[:, 2], list(rows[:, 3:].T)


def _order_of(plan: LayerPlan) -> int:
    """The number of a plan's order; for tiles that load every operand anew that in which partial sums stay as theirs
    do."""
    return ORDERS.index(nest_order(plan) if plan.reuse else OS)


def runs_on_array(layer: Layer) -> bool:
    """Whether an array may run a layer (an addition by its accumulator), if it stands on one; others are the host's."""
    return layer.op in ARRAY_OPS and len({*layer.strides}) == len({*layer.dilations}) == 1


def divisors(n: int) -> list[int]:
    """All divisors, ascending."""
    small = [d for d in range(1, int(n**0.5) + 1) if n % d == 0]
    return small + [n // d for d in reversed(small) if d * d != n]


# ---------------------------------------------------------------------------------------------- neighbours


def _singles_near(space: CachedTiles, layer: int, here: Ints) -> Ints:
    """Mappings of a layer that differ from a row in one or two of tile sizes and order."""
    axes = [*space.divisors[layer], [0, 1, 2]]
    out = []
    for a in range(7):
        for b in range(a + 1, 7):
            grid = np.array(np.meshgrid(axes[a], axes[b], indexing="ij")).reshape(2, -1)
            rows = np.tile(here, (grid.shape[1], 1))
            rows[:, a], rows[:, b] = grid
            out.append(rows)
    return np.concatenate(out)


def heads(sink: Shape) -> list[tuple[int, int, int]]:
    """Tiles of a sink's pixels, with line buffers or without; those go with whole rows."""
    ys, xs = divisors(sink.oy), divisors(sink.ox)
    return [(y, x, keep) for y in ys for x in xs for keep in (0, 1) if not keep or (x == sink.ox and y < sink.oy)]


def _groups_near(space: CachedTiles, first: int, last: int, here: Ints) -> Ints:
    """Choices of a group that differ from a row in its tile and line buffers, or in one or two residents."""
    tiles, stays = heads(space.shapes[last]), here[3:].tolist()
    rows = [(*head, *stays) for head in tiles] + [(*head, *([0] * len(stays))) for head in tiles]
    weighty = [j for j in range(len(stays)) if not space.shapes[first + j].add]
    for a in weighty:
        for b in weighty:
            resident = list(stays)
            resident[a] = 1 - resident[a]
            if a != b:
                resident[b] = 1 - resident[b]
            rows.append((*here[:3].tolist(), *resident))
    return np.array(rows, np.int64)


# ---------------------------------------------------------------------------------------------- bounds


def lower_bound(space: CachedTiles, fusion: bool = True) -> Cost:
    """Energy and latency that no mapping can go below, each by itself.

    Energy: every MAC and its register read; every input to the array and every partial sum read and written once for
    `side` operations; weights, and of the activations the network's inputs and outputs (without fusion those of every
    layer), at the L2; weights and outputs of the network at the DRAM and the last-level cache, too. Latency: operations
    on an ideal array, and those bytes over the outer link.
    """
    machine, workload = space.machine, space.workload
    energy = total_bytes = array = 0.0
    for i in space.positions:
        layer, shape = workload.layers[i], space.shapes[i]
        lanes = 1 if shape.depthwise else machine.side
        macs = shape.k * shape.c * shape.fy * shape.fx * shape.oy * shape.ox * shape.copies * (1 - shape.add)
        weights = layer.weights + (shape.k * shape.c * shape.copies if layer.op == "matmul" else 0)
        moved = weights + _must_move(workload, i, fusion)
        array += macs / lanes**2  # depthwise layers are one channel after another, a product a cycle
        total_bytes += moved
        energy += macs * (machine.mac_pj + machine.register_pj)
        energy += macs / lanes * (machine.scratchpad_pj + 2 * machine.accumulator_pj)
        energy += moved * (machine.l2_pj + machine.return_link_pj)
        first = layer.weights + _must_move(workload, i, True)  # which no cache can have
        energy += first * (machine.l2_pj + machine.llc_pj + machine.outer_link_pj)
        energy += first * (machine.llc_pj + machine.dram_pj + machine.dram_link_pj)
    return Cost(energy * 1e-12, max(array, total_bytes * machine.outer_cycles_per_byte) / machine.hz)


def _must_move(workload: Workload, i: int, fusion: bool) -> int:
    """Bytes of activations that layer i moves from and to DRAM under any mapping."""
    layer = workload.layers[i]
    if not fusion:
        inputs = layer.c * layer.iy * layer.ix * (len(layer.inputs) if layer.op == "add" else 1)
        read_once = (layer.stride_y <= layer.fy or layer.oy == 1) and (layer.stride_x <= layer.fx or layer.ox == 1)
        return layer.outputs + (inputs if read_once else layer.k)
    return layer.outputs if layer.name in workload.outputs else 0
