"""Tiles -> ops of a systolic array and its cached mover: cpu, load, execute and store of Gemmini as units, its paths to
memory as servers.

Per tile, in program order:

- control: `software` (the loop nest and the instructions that set the tile up; a loop that ends costs more), which is
  the host's time, then `slot`, which waits until fewer than tiles_in_flight tiles are under way and starts the tile's
  loads.
- load: one op a mvin, in order, as many in flight as the controller allows. It holds the return path for the
  cycles that its requests take in the BeatMerger. What it misses moves beside it: lines over the outer link (unit
  `fill`) and over that of the DRAM (unit `fetch`), each after a latency of its own, so that hits go on under misses. A
  mvin is complete when all of these are.
- execute: one op a tile of a convolution, whose controller waits for all loads of a tile; of a product, one for each
  group of k blocks that one mvin spans.
- store: one op a tile whose results leave; what it misses moves beside it over the same links as the loads' misses,
  and contends with them. In a fused group results go to the scratchpad, at a row a cycle (assumed: the store
  controller's reading and scaling, without its DMA), where a reader's first tile waits for the last of them.

A tile holds its slot, of as many as may be in flight, until its results are stored, or where none leave until it has
been executed. The accumulator has two halves. What begins to be summed up takes the half whose results left before the
other's, so it waits until those have been stored.

Each op carries the energy of what it does, told apart by levels, and a byte is charged at every level that it passes:

- what is asked for: at the L2, the return link and the scratchpad or accumulator that it comes from or goes to;
- a line that the L2 misses: read from the last-level cache, over the outer link, written into the L2;
- a line that the last-level cache misses: at the DRAM, over its link, written into the last-level cache;
- execution: what the core says of its tile.

So the energy of the DRAM is that of the bytes that cross its link, and of nothing else. A line that a store misses
crosses a link once: fetched, or in its place a dirty one taken out.

Pixels of the padding are mvins of zeros: a row of the scratchpad a cycle, by a writer of their own, but in their turn
among the loads. Their energy is not charged.

Left out, as they changed nothing on the measured rows: writes of zeros for a bias, page walks, the other way of dirty
victims.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, no-any-return"
# (the kernels are typed by numba)

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit

from cosoc.sim import exact
from cosoc.sim.errors import InputError
from cosoc.sim.machine.program import KINDS, ROW, Builder
from cosoc.sim.model.mapping import PARTIAL_BYTES, Extent
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import Layer
from cosoc.sim.movers.cached_notes import note_tiles
from cosoc.sim.movers.cached_terms import Machine, array_and_mover
from cosoc.sim.movers.cached_units import (
    CONTROL,
    EXECUTE,
    FETCH,
    FILL,
    INTO_ACCUMULATOR,
    INTO_SCRATCHPAD,
    LOAD,
    MACS_LEVEL,
    OUT,
    REGISTERS_LEVEL,
    STORE,
    STORE_FETCH,
    STORE_FILL,
    STORE_PORT,
    TICKS_PER_CYCLE,
    UNITS,
    name_of,
)
from cosoc.sim.movers.fused_steps import Chain
from cosoc.sim.movers.links import HOST_TIME, banks_of, link_level, server_of
from cosoc.sim.movers.notes import Notes
from cosoc.sim.movers.tile_table import (
    AFTER,
    BEGINS,
    CALL,
    ENDED,
    FX,
    FY,
    GEMM,
    LEAVES,
    MEMBER,
    MOVES,
    OWN,
    OX,
    OY,
    Addresses,
    Ints,
    K,
    N,
    Tiled,
    of_group,
    of_layer,
)
from cosoc.sim.movers.touches import (
    ADDEND,
    BEATS,
    BYTES,
    DRAM,
    EX_C,
    EX_MVINS,
    EX_PAIRS,
    EX_ROWS,
    EX_TILE,
    GROUPS,
    LLC,
    LOCAL,
    PAGE,
    POOLED,
    REQUESTS,
    SUM,
    WEIGHT,
    WHAT,
    ZEROS,
    Caches,
    Touched,
    touch,
)

MOST_FJ = 1 << 62  # energies are 64-bit integers
MOST_DEPS = 5  # of an op
TILES = 1 << 12  # that are written at a time
RETURN_PATH, OUTER, DRAM_PATH, HOST, BANKS = range(5)  # routes: over each link, the host's time, and the DRAM's banks


def caches_in(machine: Machine) -> Caches:
    """Figures of the caches that a mover goes through."""
    return Caches(
        machine.l2_bytes // (machine.line_bytes * machine.l2_ways), machine.l2_ways,
        machine.llc_bytes // (machine.llc_line_bytes * machine.llc_ways), machine.llc_ways,
        machine.line_bytes, machine.llc_line_bytes, machine.beat_bytes, machine.mvin_bytes, machine.page_bytes,
    )  # fmt: skip


class TileEmitter:
    """Writes the ops of one array and its mover into somebody's Builder, whose ticks are TICKS_PER_CYCLE a cycle.

    state: the caches, of `touches.caches_of`: arrays behind the same ones share it. serial: one tile at a time.
    """

    def __init__(
        self, builder: Builder, soc: SoC, core: str, addresses: Addresses, state: Any, serial: bool = False,
        notes: Notes | None = None,
    ) -> None:  # fmt: skip
        _, self.array, self.mover = array_and_mover(soc, core)
        self.memory, self.levels = soc.main_memory, tuple(link_level(link) for link in self.mover.links)
        self.machine, self.builder, self.addresses, self.state = Machine.of(soc, core), builder, addresses, state
        self.serial, self.notes = serial, notes
        builder.unit(soc.host)  # whose time the launches take
        lanes = dict.fromkeys((LOAD, FILL, FETCH), self.machine.mvins_in_flight)
        self.units = np.array(
            [builder.unit(name_of(soc, core, UNITS[u]), lanes=lanes.get(u, 1)) for u in range(len(UNITS))], np.int64
        )
        links = [
            server_of(builder, name, soc.links[name], TICKS_PER_CYCLE, counts_ticks=at == RETURN_PATH)
            for at, name in enumerate(self.mover.links)
        ]
        self.host = builder.server(HOST_TIME, rate_bytes=1)
        routes: list[tuple[int, ...]] = [(server,) for server in (*links, self.host)]
        dram = soc.memories[self.memory].dram
        self.banks = None if dram is None else banks_of(builder, self.memory, dram, TICKS_PER_CYCLE)
        if self.banks is not None:
            inside = (self.banks.over(bank, out=False)[0] for bank in range(len(self.banks.banks)))
            routes += [(links[DRAM_PATH], *each) for each in inside]
        slots = builder.credit(name_of(soc, core, "tile_slots"), 1 if serial else self.machine.tiles_in_flight)
        self.routes = np.array([builder.slice_of("route", route) for route in routes], np.int64)
        # A tile in flight is a credit, which its last op gives back.
        self.takes, self.gives = (np.array([builder.slice_of(key, [(slots, 1)])], np.int64) for key in ("take", "give"))

    def layer(
        self, layer: Layer, tile: Extent, order: Sequence[str], reuse: bool, after: Sequence[int] = (), first: int = 0,
        channels: int | None = None, part: int = 0,
    ) -> list[int]:  # fmt: skip
        """A layer by itself, or `channels` of its output channels from `first` on, after the ops `after`; the last op
        of each unit, for what comes next to wait for. tile, order, reuse: as `tile_table.of_layer` has them. part: the
        number of these channels' part, for notes."""
        tiled = of_layer(layer, tile, order, reuse, self.addresses, first, channels)
        return self.emit(tiled, [layer] * len(tiled.members), after, layer.name, part)

    def group(
        self,
        group: Chain,
        tiles: Sequence[Extent],
        keep_rows: bool,
        resident: Sequence[bool],
        after: Sequence[int] = (),
    ) -> list[int]:
        """A fused group, as `tile_table.of_group` cuts it."""
        tiled = of_group(group, tiles, keep_rows, resident, self.addresses)
        return self.emit(tiled, group.layers, after, group.layers[-1].name)

    def emit(
        self, tiled: Tiled, layers: Sequence[Layer], after: Sequence[int], begun: str | None = None, part: int = 0
    ) -> list[int]:
        """Any tiles. layers: of every member. begun: the layer that is configured first."""
        labels = [self.builder.layer(layer.name) for layer in layers]
        if begun is not None:
            start = _ticks(self.machine.start_cycles)
            self.builder.op(
                int(self.units[CONTROL]), bytes=start, burst=start, route=[self.host] if start else (),
                deps=after, kind="launch", layer=self.builder.layer(begun),
            )  # fmt: skip
        seen = touch(tiled, self.state, caches_in(self.machine), self.machine.side, self.machine.min_rows)
        first, rows, _, last = self._written(tiled, seen, labels)
        if self.notes is not None:
            told = rows.reshape(-1).view(ROW).copy()
            own = np.zeros(int(self.units.max()) + 1, np.int64)
            own[self.units] = np.arange(len(UNITS))
            told["unit"] = own[told["unit"]]
            note_tiles(self.notes, first, told, tiled, seen, layers, part, self.addresses)
        return last

    def emit_seen(self, tiled: Tiled, seen: Touched, labels: Sequence[int]) -> Ints:
        """Tiles that were walked before: the op that ends the execution of each."""
        return self._written(tiled, seen, labels)[2]

    def _written(self, tiled: Tiled, seen: Touched, given: Sequence[int]) -> tuple[int, Ints, Ints, list[int]]:
        """Write tiles that were walked; the first op, rows of all [ops, fields], the op that ends the execution of each
        tile, and the last op of each unit. So many tiles at a time that what is worked out of them takes little beside
        their ops."""
        table, n_tiles = tiled.table, len(tiled.table)
        n_ops = 7 * n_tiles + len(seen.groups) + 3 * len(seen.mvins)  # at most
        rows, deps, dep_first = self.builder.room(n_ops, MOST_DEPS * n_ops)
        ends, left, last = (
            np.zeros(n_tiles, np.int64),
            np.full(n_tiles, -1, np.int64),
            np.full(len(UNITS), -1, np.int64),
        )
        state, in_flight = np.zeros(N_STATE, np.int64), self.machine.mvins_in_flight
        recent, history = np.full(3, -1, np.int64), np.full((in_flight, 3), -1, np.int64)
        freed, spent = np.full(2, -1, np.int64), _Spent()
        labels, drain = np.array(given, np.int64), _ticks(self.machine.drain_cycles)
        group, mvin = 0, 0
        for tile in range(0, n_tiles, TILES):
            some = slice(tile, min(tile + TILES, n_tiles))
            groups = slice(group, int(seen.tiles[some.stop - 1, GROUPS]))
            mvins = slice(mvin, int(seen.groups[groups.stop - 1, EX_MVINS]) if groups.stop else 0)
            of = tiled.members[table[some, MEMBER]]
            of_tile = labels[table[some, MEMBER]]
            of_group = of_tile[seen.groups[groups, EX_TILE] - tile]
            at = np.searchsorted(seen.groups[groups, EX_MVINS], np.arange(mvins.start, mvins.stop), side="right")
            _emit(
                rows, deps, ends, self._loads(seen.mvins[mvins], of_group[at], spent),
                self._groups(seen.groups[groups], tile, table[some], of, of_group, spent),
                self._tiles(seen.tiles[some], table[some], of, of_tile, spent),
                self._stores(seen.tiles[some], table[some], of_tile, spent), in_flight, drain, self.serial,
                (self.machine.line_bytes, self.machine.llc_line_bytes), (tile, group, mvin), state, recent, history,
                freed, left,
            )  # fmt: skip
            group, mvin = groups.stop, mvins.stop
        n, n_deps = (int(state[key]) for key in (AT_OP, AT_DEP))
        _bind(rows[:n], self.units, self.routes, self.takes, self.gives, dep_first, last)
        spent.told(self.builder, self.units)
        first = self.builder.splice(n, n_deps)
        return first, rows[:n], ends + first, [first + op for op in last.tolist() if op >= 0]

    def _tiles(self, tiles: Ints, table: Ints, of: Ints, labels: Ints, spent: _Spent) -> Ints:
        """Of every tile, see the kernel."""
        m = self.machine
        software = np.where(of[:, GEMM] > 0, m.gemm_tile_cycles, m.conv_tile_cycles) + table[:, ENDED] * m.loop_cycles
        software = software + table[:, CALL] * m.start_cycles
        pixels, blocks = table[:, N] * table[:, OY] * table[:, OX], -(-table[:, K] // m.side)
        moved = pixels * table[:, K] * table[:, MOVES]
        return np.stack(
            (
                _ticks(software), tiles[:, GROUPS], table[:, BEGINS], table[:, AFTER], of[:, GEMM],
                labels, table[:, LEAVES] > 0, table[:, MOVES], _ticks(pixels * blocks),
                spent.of(STORE, labels, self._near(moved, moved)),
            ),
            axis=1,
        )  # fmt: skip

    def _near(self, scratchpad: Any, accumulator: Any) -> dict[str, Any]:
        """Energy of so many 8-bit words, pJ."""
        m, array = self.machine, self.array
        return {array.memory: scratchpad * m.scratchpad_pj, array.accumulator: accumulator * m.accumulator_pj}

    def _inner(self, n_bytes: Any) -> dict[str, Any]:
        """Energy of so many bytes between the L2 and the array, pJ."""
        return {self.mover.l2: n_bytes * self.machine.l2_pj, self.levels[0]: n_bytes * self.machine.return_link_pj}

    def _lines(self, unit: int, labels: Ints, outer: Ints, fetched: Ints, spent: _Spent) -> tuple[Ints, Ints]:
        """The energy of bytes of lines over the outer link and over the DRAM's, fJ; unit: that of the first."""
        m, (_, over_outer, over_dram) = self.machine, self.levels
        filled = {self.mover.l2: outer * m.l2_pj, self.mover.llc: outer * m.llc_pj, over_outer: outer * m.outer_link_pj}
        brought = {
            self.mover.llc: fetched * m.llc_pj, self.memory: fetched * m.dram_pj, over_dram: fetched * m.dram_link_pj
        }  # fmt: skip
        return spent.of(unit, labels, filled), spent.of(unit + 1, labels, brought)

    def _row(self, page: Ints, out: bool) -> tuple[Ints, Ints]:
        """The route over the bank that has a page of the DRAM, and the tag; where it has no banks, over its link."""
        if self.banks is None:
            return np.full_like(page, DRAM_PATH), np.full_like(page, OUT if out else INTO_SCRATCHPAD)
        return BANKS + page % len(self.banks.banks), self.banks.tag(page, out)

    def _loads(self, mvins: Ints, labels: Ints, spent: _Spent) -> Ints:
        """Of every mvin, see the kernel."""
        m = self.machine
        what, lines, dram = mvins[:, WHAT], mvins[:, LLC], mvins[:, DRAM]
        # What holds the return path: requests in the BeatMerger, and lines that are filled into the L2.
        port = mvins[:, BEATS] * m.beat_cycles + lines * m.fill_cycles
        # A record of what a wrapped counter loads is as many mvins, of which some wait for their first beat.
        wrapped = np.where(mvins[:, BYTES] > 0, 0, -(-mvins[:, REQUESTS] // m.side))
        port = np.maximum(port, (port + wrapped * m.setup_cycles) / m.mvins_in_flight)
        # Requests to lines that the L2 has do not wait for those that it misses, which come beside them.
        from_l2 = m.setup_cycles + 0 * lines
        into_sums = what >= ADDEND
        words = np.where(what == SUM, mvins[:, BYTES] // PARTIAL_BYTES, mvins[:, BYTES])
        local = mvins[:, LOCAL] * m.side
        near = self._near(np.where(into_sums, 0, words) + local, np.where(into_sums, words, 0) + local)
        outer, fetched = lines * m.line_bytes, dram * m.llc_line_bytes
        inside = spent.of(LOAD, labels, near | self._inner(mvins[:, BYTES]))
        kind = np.where(what == WEIGHT, KINDS.index("weights"), KINDS.index("load"))
        return np.stack(
            (
                _ticks(port), outer, fetched, _ticks(from_l2), _ticks(from_l2 + m.llc_cycles),
                _ticks(from_l2 + m.llc_cycles + m.dram_cycles), _ticks(mvins[:, LOCAL] + mvins[:, ZEROS]),
                mvins[:, BYTES], kind,
                np.where(into_sums, INTO_ACCUMULATOR, INTO_SCRATCHPAD), inside,
                *self._lines(FILL, labels, outer, fetched, spent), *self._row(mvins[:, PAGE], out=False),
            ),
            axis=1,
        )  # fmt: skip

    def _groups(self, groups: Ints, first: int, table: Ints, of: Ints, labels: Ints, spent: _Spent) -> Ints:
        """Of every execute op, see the kernel. first: the number of the first tile of the table."""
        m, at = self.machine, groups[:, EX_TILE] - first
        tile, pixels = table[at], table[at][:, N] * table[at][:, OY] * table[at][:, OX]
        run = np.maximum(groups[:, EX_ROWS], groups[:, EX_PAIRS] * m.pair_cycles)
        macs, registers, scratchpad, sums = self.array.work(
            tile[:, K], groups[:, EX_C], tile[:, FY] * tile[:, FX], pixels, of[at, OWN], exact
        )
        works = groups[:, EX_PAIRS] > 0
        inside = {MACS_LEVEL: works * macs * m.mac_pj, REGISTERS_LEVEL: works * registers * m.register_pj}
        each = spent.of(EXECUTE, labels, inside | self._near(works * scratchpad, works * sums))
        return np.stack((groups[:, EX_MVINS], _ticks(run), works * macs, each), axis=1)

    def _stores(self, tiles: Ints, table: Ints, labels: Ints, spent: _Spent) -> Ints:
        """Of every tile, see the kernel. A store's beats and fills keep the port of the L2 from the loads."""
        m = self.machine
        outer, fetched = tiles[:, LLC] * m.line_bytes, tiles[:, DRAM] * m.llc_line_bytes
        beats = tiles[:, BEATS] * m.beat_cycles
        run = beats + tiles[:, REQUESTS] * m.store_request_cycles + tiles[:, POOLED]
        words = tiles[:, BYTES] // np.maximum(table[:, LEAVES], 1)
        near = spent.of(STORE_PORT, labels, self._near(0 * words, words) | self._inner(tiles[:, BYTES]))
        return np.stack(
            (
                _ticks(beats + tiles[:, LLC] * m.fill_cycles), outer, fetched, _ticks(run), tiles[:, BYTES],
                near, *self._lines(STORE_FILL, labels, outer, fetched, spent), *self._row(tiles[:, PAGE], out=True),
            ),
            axis=1,
        )  # fmt: skip


class _Spent:
    """Energies of ops that are written a part at a time, summed by unit, level and layer."""

    def __init__(self) -> None:
        self._sums: dict[tuple[int, str], dict[int, int]] = {}  # in the order in which levels come

    def of(self, unit: int, labels: Ints, picojoules: dict[str, Any]) -> Ints:
        """The energy of every op of a unit, fJ, which is noted. picojoules: by level."""
        total = np.zeros(len(labels), np.int64)
        layers, which = np.unique(labels, return_inverse=True)
        for level, spent in picojoules.items():
            each = _fj(spent, level)
            total += each
            sums = np.zeros(len(layers), np.int64)
            np.add.at(sums, which, each)
            known = self._sums.setdefault((unit, level), {})
            for layer, energy_fj in zip(layers.tolist(), sums.tolist(), strict=True):
                known[layer] = known.get(layer, 0) + energy_fj
        return total

    def told(self, builder: Builder, units: Ints) -> None:
        """Say it to a builder, a unit after the other, in the order of their ops. units: the builder's."""
        order = (LOAD, FILL, FETCH, EXECUTE, STORE_PORT, STORE_FILL, STORE_FETCH, STORE)
        for (unit, level), sums in sorted(self._sums.items(), key=lambda item: order.index(item[0][0])):
            for layer in sorted(sums):
                builder.spent(int(units[unit]), layer, level, sums[layer])


def _ticks(cycles: Any) -> Any:
    found = np.rint(np.asarray(cycles) * TICKS_PER_CYCLE).astype(np.int64)
    return found if found.ndim else int(found)


def _fj(picojoules: Any, level: str) -> Ints:
    """Femtojoules; InputError beyond what can be counted, with the level at which they are spent."""
    most = float(np.max(picojoules, initial=0.0))
    if not 1000 * most < MOST_FJ:
        what = f"an op's energy at {level}, {most:.3g} pJ, is more than can be counted, {MOST_FJ / 1000:.3g}"
        raise InputError(f"{what}: made by the keys in pj of access and in pj_per_byte")
    return np.rint(1000 * np.asarray(picojoules)).astype(np.int64)


# ---------------------------------------------------------------------------------------------------------------------
# Kernel. Columns of what comes in; fJ: energies.

(
    L_PORT, L_OUTER, L_DRAM, L_SETUP, L_OUTER_SETUP, L_DRAM_SETUP, L_LOCAL, L_BYTES, L_KIND, L_TAG, L_FJ, L_OUTER_FJ,
    L_DRAM_FJ, L_DRAM_ROUTE, L_DRAM_TAG,
) = range(15)  # fmt: skip
G_MVINS, G_RUN, G_MACS, G_FJ = range(4)
T_SOFTWARE, T_GROUPS, T_BEGINS, T_AFTER, T_GEMM, T_LABEL, T_LEAVES, T_MOVES, T_MOVE_RUN, T_MOVE_FJ = range(10)
S_PORT, S_OUTER, S_DRAM, S_RUN, S_BYTES, S_FJ, S_OUTER_FJ, S_DRAM_FJ, S_DRAM_ROUTE, S_DRAM_TAG = range(10)

_AT = {name: i for i, name in enumerate(ROW.names or ())}
_UNIT, _SETUP, _RUN, _BYTES, _BURST, _TAG = (_AT[k] for k in ("unit", "setup", "run", "bytes", "burst", "tag"))
_ROUTE_AT, _ROUTE_N, _DEP_AT, _DEP_N = (_AT[k] for k in ("route_at", "route_n", "dep_at", "dep_n"))
_TAKE_AT, _TAKE_N, _GIVE_AT, _GIVE_N = (_AT[k] for k in ("take_at", "take_n", "give_at", "give_n"))
_KIND, _LAYER, _MACS, _FJ, _PAYLOAD = (_AT[k] for k in ("kind", "layer", "macs", "energy_fj", "payload_bytes"))
_COMPUTE, _LOADS, _STORES, _LAUNCH, _SYNC = (KINDS.index(k) for k in ("compute", "load", "store", "launch", "sync"))
_SLOT = 0  # of takes and gives: a tile's credit
# What is written so far: ops, deps, mvins and groups; the half of the accumulator in use; the first of the ops that end
# the tile before.
AT_OP, AT_DEP, AT_MVIN, AT_GROUP, HALF, OVER = range(6)
N_STATE = 6


@njit(cache=True)
def _bind(rows, units, routes, takes, gives, dep_first, last):
    """Make units, routes, credits and deps of rows, that count what an emitter has, those of its builder. last: is
    given the last op of each unit, -1 where there is none."""
    for n in range(len(rows)):
        row = rows[n]
        last[row[_UNIT]] = n
        row[_UNIT] = units[row[_UNIT]]
        row[_DEP_AT] += dep_first
        row[_ROUTE_AT] = routes[row[_ROUTE_AT]] if row[_ROUTE_N] > 0 else 0
        row[_TAKE_AT] = takes[row[_TAKE_AT]] if row[_TAKE_N] > 0 else 0
        row[_GIVE_AT] = gives[row[_GIVE_AT]] if row[_GIVE_N] > 0 else 0


@njit(cache=True)
def _op(rows, n, unit, kind, label, setup, run, fj, payload, dep_at):
    row = rows[n]
    row[_UNIT], row[_KIND], row[_LAYER], row[_SETUP], row[_RUN] = unit, kind, label, setup, run
    row[_TAG], row[_FJ], row[_PAYLOAD], row[_DEP_AT] = -1, fj, payload, dep_at
    return n + 1


@njit(cache=True)
def _over(rows, n, route, n_bytes, burst, tag):
    """Let the last op move bytes over a route: one link, or that to the DRAM, its bus and a bank."""
    row = rows[n - 1]
    row[_BYTES], row[_BURST], row[_TAG] = n_bytes, burst, tag
    row[_ROUTE_AT], row[_ROUTE_N] = route, 3 if route >= BANKS else 1


@njit(cache=True)
def _dep(rows, deps, n_deps, n, other):
    """Op n waits for op `other` (-1: none, and an op is named once)."""
    if other < 0:
        return n_deps
    for i in range(rows[n, _DEP_AT], n_deps):
        if deps[i] == n - other:
            return n_deps
    deps[n_deps] = n - other
    rows[n, _DEP_N] += 1
    return n_deps + 1


@njit(cache=True)
def _emit_mvin(rows, deps, n, n_deps, load, label, slot, last, before, room, moved, lines):
    """The ops of one mvin; last: the latest op of each unit; before: of each, that of the mvin that must be over; room:
    the op that must have freed the accumulator; moved: the one after which it lies in the scratchpad."""
    for link in range(3):
        n_bytes = load[L_PORT + link]
        if n_bytes == 0 and (link > 0 or load[L_LOCAL] == 0):
            continue
        setup = load[L_SETUP + link] if n_bytes else 0
        fj = load[L_FJ] if link == 0 else load[L_OUTER_FJ + link - 1]
        payload = load[L_BYTES] if link == 0 else 0
        run = load[L_LOCAL] if link == 0 else 0
        n = _op(rows, n, LOAD + link, load[L_KIND], label, setup, run, fj, payload, n_deps)
        rows[n - 1, _TAG] = load[L_TAG]
        if n_bytes and link == DRAM_PATH:
            _over(rows, n, load[L_DRAM_ROUTE], n_bytes, lines[1], load[L_DRAM_TAG])
        elif n_bytes:
            _over(rows, n, link, n_bytes, n_bytes if link == 0 else lines[0], load[L_TAG])
        n_deps = _dep(rows, deps, n_deps, n - 1, slot)
        if link == 0:
            if load[L_TAG] == INTO_ACCUMULATOR:
                n_deps = _dep(rows, deps, n_deps, n - 1, room)
            if load[L_TAG] == INTO_ACCUMULATOR and load[L_LOCAL]:
                n_deps = _dep(rows, deps, n_deps, n - 1, moved)
        for other in range(3):
            if other != link:
                n_deps = _dep(rows, deps, n_deps, n - 1, before[other])
        last[link] = n - 1
    return n, n_deps


@njit(cache=True)
def _emit(
    rows, deps, ends, loads, groups, tiles, stores, in_flight, drain, serial, lines, begins, state, last, history,
    freed, left,
):  # fmt: skip
    """Write the next tiles. begins: the numbers of the first of tiles, groups and loads. last: the latest op of each
    unit that loads; history: of mvin i - in_flight, at i % in_flight; freed: the op that freed each half of the
    accumulator; left: the op after which a tile's results lie in the scratchpad. These and `state` are what was written
    before."""
    n, n_deps, mvin, group = state[AT_OP], state[AT_DEP], state[AT_MVIN], state[AT_GROUP]
    half, over = state[HALF], state[OVER]
    first_tile, first_group, first_mvin = begins
    for i in range(first_tile, first_tile + len(tiles)):
        tile, label = tiles[i - first_tile], tiles[i - first_tile, T_LABEL]
        n = _op(rows, n, CONTROL, _LAUNCH, label, 0, 0, 0, -1, n_deps)
        if tile[T_SOFTWARE]:
            _over(rows, n, HOST, tile[T_SOFTWARE], tile[T_SOFTWARE], -1)
        for other in range(over, n - 1 if serial else over):
            n_deps = _dep(rows, deps, n_deps, n - 1, other)
        n = _op(rows, n, CONTROL, _SYNC, label, 0, 0, 0, -1, n_deps)
        slot = n - 1
        rows[slot, _TAKE_AT], rows[slot, _TAKE_N] = _SLOT, 1
        half = (half + tile[T_BEGINS]) % 2
        room = freed[half] if tile[T_BEGINS] else -1
        moved = left[tile[T_AFTER]] if tile[T_AFTER] >= 0 else -1
        previous, first = slot, True
        while group < tile[T_GROUPS]:
            while mvin < groups[group - first_group, G_MVINS]:
                before, load = history[mvin % in_flight], loads[mvin - first_mvin]
                n, n_deps = _emit_mvin(rows, deps, n, n_deps, load, label, slot, last, before, room, moved, lines)
                history[mvin % in_flight] = last
                mvin += 1
            n = _op(
                rows,
                n,
                EXECUTE,
                _COMPUTE,
                label,
                0,
                groups[group - first_group, G_RUN],
                groups[group - first_group, G_FJ],
                -1,
                n_deps,
            )
            rows[n - 1, _MACS] = groups[group - first_group, G_MACS]
            n_deps = _dep(rows, deps, n_deps, n - 1, slot)
            for unit in range(3):
                n_deps = _dep(rows, deps, n_deps, n - 1, last[unit])
            if first:
                n_deps = _dep(rows, deps, n_deps, n - 1, room)
                n_deps = _dep(rows, deps, n_deps, n - 1, moved)
                first = False
            group += 1
            if group < tile[T_GROUPS]:
                previous = n - 1
        execute = ends[i] = over = n - 1
        freed[half] = -1  # where nothing leaves, execution in its order is enough
        if not (tile[T_LEAVES] or tile[T_MOVES]):
            rows[execute, _GIVE_AT], rows[execute, _GIVE_N] = _SLOT, 1
        if tile[T_MOVES]:
            n = _op(rows, n, STORE, _STORES, label, drain, tile[T_MOVE_RUN], tile[T_MOVE_FJ], 0, n_deps)
            n_deps = _dep(rows, deps, n_deps, n - 1, execute)
            left[i] = freed[half] = n - 1
            if not tile[T_LEAVES]:
                rows[n - 1, _GIVE_AT], rows[n - 1, _GIVE_N] = _SLOT, 1
        if tile[T_LEAVES]:
            store = stores[i - first_tile]
            beside = tile[T_GEMM] and moved < 0
            n = _op(rows, n, STORE, _STORES, label, drain, store[S_RUN], 0, 0, n_deps)
            rows[n - 1, _GIVE_AT], rows[n - 1, _GIVE_N] = _SLOT, 1
            freed[half] = n - 1
            n_deps = _store_deps(rows, deps, n, n_deps, execute, previous, last, beside)
            for link in range(3):
                n_bytes = store[S_PORT + link]
                if n_bytes:
                    fj = store[S_FJ] if link == 0 else store[S_OUTER_FJ + link - 1]
                    payload = store[S_BYTES] if link == 0 else 0
                    n = _op(rows, n, STORE_PORT + link, _STORES, label, drain, 0, fj, payload, n_deps)
                    if link == DRAM_PATH:
                        _over(rows, n, store[S_DRAM_ROUTE], n_bytes, lines[1], store[S_DRAM_TAG])
                    else:
                        _over(rows, n, link, n_bytes, n_bytes if link == 0 else lines[0], OUT)
                    n_deps = _store_deps(rows, deps, n, n_deps, execute, previous, last, beside)
    state[AT_OP], state[AT_DEP], state[AT_MVIN], state[AT_GROUP] = n, n_deps, mvin, group
    state[HALF], state[OVER] = half, over


@njit(cache=True)
def _store_deps(rows, deps, n, n_deps, execute, previous, last, beside):
    """A store waits for the execution of its tile; in a product it starts beside that of the last k group."""
    if not beside:
        return _dep(rows, deps, n_deps, n - 1, execute)
    n_deps = _dep(rows, deps, n_deps, n - 1, previous)
    for unit in range(3):
        n_deps = _dep(rows, deps, n_deps, n - 1, last[unit])
    return n_deps
