"""The fast engine: the four rules of `program` in numba, with the same integers as `engine_reference`.

What lives where: a *slot* is one lane of one unit and holds the op in flight there; each slot has at most one pending
event, in a tree of minima. Rows are prepared once (ticks per burst at each server); loops stay loops. A tick costs
work only for what changed in it: slots whose event fell due, units that were *touched* (a lane freed, the head moved,
the head's last dep ended), the heads queued for credits if a credit was given, and servers that were touched: asked
for, or freed while somebody waits. Who alone asks for a server in a tick, with nobody waiting and a port free, is
granted it at once.

A server keeps no event for the end of a hold, but the ticks in which its ports are freed; they count when it is looked
at. Only where somebody waits must that be at the tick of the next one: it is, as the burst that holds the port is
over then, or else by an event of the server's own (`_wake`). A server that can hold nobody up has not even that: it
is *loose* if its stretch is flat, no tag matters there, and it has as many ports as lanes that go over it. A lane has
one burst at a time and a burst one port, so that a port is always free; and the hold is the same for every burst of
a size. What the slowest loose server of a row takes is known beforehand (`base`), and their busy ticks are counted at
the end.

Three things are skipped, with the same integers as a result (`coalesce`, `skip` switch them off):

- *A row of loose servers.* Nobody can hold its bursts up, so all of them are one event.
- *A lone stream.* While nobody else is at the servers of an op, its bursts follow one another without a gap: each asks
  in the tick in which the one before is over, by when all its servers are done with that; it finds a free port
  everywhere, is alone there, and meets its own tag. So they are one event, at the end of the last. Nothing but an ask
  for one of its servers can change that, and whoever asks splits it: the burst under way is found in closed form
  (`_stream`, `_alone`, `_unfold`).
- *A steady state.* When the state of the machine, relative to the tick and to the iterations that its units are in,
  is what it was some iterations of a loop ago, all that happens until the loop runs out is known (`_steady`). Of
  servers, their tags, the ticks in which ports are freed and who waits are state. Units that are joined by deps in the
  loop's body are a component and count iterations together; components may run at different speeds, as they meet at
  credits and servers only, where ops count by tick, tag and unit.
"""

# mypy: disable-error-code="no-untyped-def, call-arg, no-untyped-call, misc, unreachable"
# (the kernel is typed by numba)

from __future__ import annotations

import operator
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numba import config, njit, types
from numba.core import cgutils
from numba.extending import intrinsic, lower_builtin, models, register_model, type_callable

from cosoc.sim.errors import InputError
from cosoc.sim.machine.program import Ints, Program, Records, bases, deadlock
from cosoc.sim.machine.trace import WAIT, Trace

NEVER = 1 << 62
FAN = 8  # children of a node in the tree of event times; a power of two

# What the event of a slot means (STREAM: all bursts that are left, at their end); and how far the head of a unit has
# come.
SETUP, BURST, FINISH, STREAM = 0, 1, 2, 3
UNSEEN, WATCHING, QUEUED, NONE = 0, 1, 2, 3


def _record(*names: str) -> np.dtype[np.void]:
    return np.dtype([(name, np.int64) for name in names])


# What a row does at servers, prepared once for all rows of one route, size, burst and tag: its shape. hops: the servers
# of its route that are not loose. base, base_last: ticks of a full and of the last burst at the slowest loose one, 0
# without any; whole: of all bursts there, if all are loose. alone, alone_last: ticks of a full and of the last burst
# that follows one of the same op, nobody else on the route.
_SHAPE = _record("bursts", "base", "base_last", "whole", "alone", "alone_last", "hop_at", "hop_n")
# A server on a row's route. full, last: ticks there for a full and for the last burst, not yet stretched if the
# server's stretch varies with the occupancy; alone, alone_last: the same, stretched for one. tag: what the server sees
# of the row's tag, -1 if that is no matter.
_HOP = _record("server", "full", "last", "alone", "alone_last", "tag")
# A block, and the number of its first op.
_BLOCK = _record("base", "first_row", "n_rows", "times")
# The rows of one unit in one block: order[at : at + n].
_STRETCH = _record("at", "n", "block")
# rank: of its priority; head, row: the next op to issue; at: its place in `order`; base: number of the first op of its
# iteration; stretch .. last: the stretches to come. watched: op that the head watches; watcher: first unit that
# watches an op of this one; next: the next of those.
_UNIT = _record(
    "rank", "slot_at", "slot_n", "free_slot", "state", "asked", "touched", "head", "row", "at", "base", "stretch",
    "last", "watched", "watcher", "next",
)  # fmt: skip
# op: -1 if free. key, tie: order of those who wait. left: bursts. Of the burst under way: pending: servers that have
# not granted it; of those that have, the one that is done last: until when, its hold, its number (-1: a loose one) and
# its place on the route. first: end of the first burst of a stream. again: bursts to go before it is tried as a stream
# again. node_at: of its nodes, one a place on the route. log: the last of its burst's waits, of a watched op, or -1.
_SLOT = _record(
    "unit", "op", "row", "shape", "event", "left", "first", "again", "key", "tie", "service", "next_free", "pending",
    "until", "hold", "server", "place", "node_at", "log",
)  # fmt: skip
# A slot's burst at a place of its route: whether it waits there, between whom, and, of a watched op, what it stands
# behind since when (-1: nothing).
_NODE = _record("slot", "waits", "next", "before", "since", "behind")
# held: entries of `freed` and `holder` from hold_at on: ticks in which ports are freed, ascending, and the slots that
# hold them; those that are past count no more. first, final, queued: of the nodes that wait. stretch_n 0: the
# stretch does not vary. owner: the slot whose stream runs over it, -1 if there is none. asking: how many have asked for
# it in this tick that are not seen to yet.
_SERVER = _record(
    "ports", "hold_at", "held", "first", "final", "queued", "touched", "switch", "tag", "busy", "last_op",
    "stretch_at", "stretch_n", "owner", "asking",
)  # fmt: skip
_CREDIT = _record("free", "blocked")
# Where a unit stood when the picture was kept: root: a unit that names its component in the loop, -1 if it has no row
# there; base: of its iteration; oldest: its first op that had not ended.
_MARK = _record("root", "base", "oldest")
# The mutable scalars: lengths of the lists, flags of the tick, counts, what is skipped. In search of a steady state,
# anchor: the unit whose iterations are counted, -1: none; block: its loop; check: the anchor has begun an iteration,
# at `tick`, that is to be looked at; pause: how many are not, before the next one that is; rest: how long the next
# pause is; window: for how many iterations a picture is kept; age: how many it has been; at, size: its tick and
# length, size 0: none; kept_bursts, kept_ended: those counts then.
_STATE = _record(
    "touched", "queued", "granted", "ending", "asking", "issuing", "servers", "scan_queue", "round", "started",
    "ended", "bursts", "waits", "coalesce", "skip", "streams", "splits", "skips", "skipped",
    "anchor", "block", "check", "tick", "pause", "rest", "window", "age", "at", "size", "kept_bursts",
    "kept_ended",
)  # fmt: skip
# Rows of the array `lists`: of units, units, slots, units, slots, slots, servers.
TOUCHED, QUEUE, GRANTED, ISSUING, ENDED, ASKED, SERVERS = range(7)
KEPT, NOW = 0, 1  # rows of the array `pictures`

FEWEST = 3  # bursts that are worth a stream
AGAIN = 6  # bursts of an op after which it is tried again, where it could not be one
WINDOW = 16  # most iterations for which a picture of the machine is kept: the longest period that is found
MOST_WAITS = 1 << 23  # of all ops, that are kept: beyond, a second run takes less than their memory
REST = 4  # iterations that are not looked at after the first window without a period; twice as many after the next


@dataclass(frozen=True)
class Skipped:
    """What a run did not do burst by burst. streams: ops' bursts taken as one event; splits: how many of these somebody
    asked into; skips: steady states found; ops: in the iterations that were not run because of them."""

    streams: int
    splits: int
    skips: int
    ops: int


def run(program: Program, watch: Collection[int] | None = ()) -> Trace:
    """Simulate `program`; `watch` names ops whose waits are recorded. Raises Deadlock.

    watch None: all ops, as long as no steady state is found, in which nobody's waits are seen, and MOST_WAITS do. Then
    the trace is complete; else it has no waits.
    """
    if watch is not None:
        return counted(program, watch)[0]
    watched = np.ones(program.n_ops, np.bool_)
    trace, n_waits, skipped = _simulate(program, watched, min(8 * program.n_ops, MOST_WAITS), (True, True))
    if skipped.skips or n_waits > len(trace.waits):
        return replace(trace, waits=trace.waits[:0])
    return replace(trace, waits=_in_order(trace.waits), complete=True)


def is_compiled() -> bool:
    """Whether the kernel has been compiled before, so that loading it takes a moment and not seconds."""
    if not can_compile():
        return False
    folder = cache_folder()
    return bool(_run.signatures) or (folder is not None and any(folder.glob("engine_fast._run-*.nbi")))


def can_compile() -> bool:
    """Whether numba's compiler is there (NUMBA_DISABLE_JIT is not set), without which this engine does not run."""
    return not config.DISABLE_JIT  # type: ignore[attr-defined]


def demand_compiler() -> None:
    """InputError where this engine does not run: records have no attributes then, and it would take hours."""
    if not can_compile():
        raise InputError(
            "NUMBA_DISABLE_JIT is set, and the fast engine needs numba's compiler: unset it, or take the other"
        )


def cache_folder() -> Path | None:
    """Where the compiled kernel is kept; None where nothing is compiled."""
    return Path(str(_run.stats.cache_path)) if can_compile() else None


def counted(
    program: Program, watch: Collection[int] = (), *, coalesce: bool = True, skip: bool = True
) -> tuple[Trace, Skipped]:
    """As `run`, with what was skipped; coalesce, skip: whether lone streams and steady states may be.

    Where waits are recorded, steady states are not skipped.
    """
    watched = np.zeros(program.n_ops if len(watch) else 0, np.bool_)
    watched[np.fromiter(watch, np.int64, len(watch))] = True
    flags = (coalesce, skip and not len(watch))
    trace, n_waits, skipped = _simulate(program, watched, 8 * len(watch), flags)
    if n_waits > len(trace.waits):  # they did not fit: the same again, with room for all
        trace, n_waits, skipped = _simulate(program, watched, n_waits, flags)
    return replace(trace, waits=_in_order(trace.waits)), skipped


def _in_order(waits: Records) -> Records:
    """Of each burst its waits at the server that was done with it last, in order of their start."""
    waits = waits[waits["op"] >= 0]
    return waits[np.lexsort((waits["op"], waits["start"]))]


def _simulate(program: Program, watched: Any, room: int, flags: tuple[bool, bool]) -> tuple[Trace, int, Skipped]:
    """Run the kernel; the trace has the first `room` waits, unsorted, and beside it how many there were."""
    demand_compiler()
    n_ops = program.n_ops
    blocks = _prepare_blocks(program)
    units, slots, stretches, order = _prepare_units(program)
    servers, varies, loose = _prepare_servers(program, slots)
    rows, shape, shapes, hops, busy, longest = _prepare_rows(program, varies, loose)
    nodes = _prepare_nodes(longest, slots)
    issue, end, service = np.full(n_ops, -1), np.full(n_ops, -1), np.zeros(n_ops, np.int64)
    freed, holder = np.zeros((2, max(1, int(servers["held"].sum()))), np.int64)
    servers["held"] = 0
    credits = np.zeros(len(program.credits), _CREDIT)
    credits["free"] = program.credits["capacity"]
    tree, levels = _tree(len(slots) + len(servers))
    lists = np.zeros((7, 2 * len(units) + len(slots) + len(servers)), np.int64)
    marks, kept_busy = np.zeros(len(units), _MARK), np.zeros(len(servers), np.int64)
    size = 6 * len(units) + 8 * len(slots) + len(nodes) + len(credits) + 2 * len(servers) + len(freed)
    pictures = np.zeros((2, size), np.int64)
    state, waits, chain = np.zeros(1, _STATE), np.zeros(room, WAIT), np.zeros(room, np.int64)
    state["coalesce"], state["skip"] = flags
    state["anchor"] = -1
    deps, takes, gives, stretch = map(_typed, (program.deps, program.takes, program.gives, program.stretch))
    going = True
    while going:
        _run(
            units, slots, servers, nodes, freed, holder, credits, rows, shape, shapes, hops, tree, levels, lists,
            stretches, order, blocks, deps, takes, gives, stretch, issue, end, service, watched, waits, chain, state,
        )  # fmt: skip
        going = bool(state["check"][0])
        if going:
            _steady(
                units, slots, servers, nodes, freed, holder, credits, rows, shapes, hops, tree, levels, stretches,
                order, blocks, deps, issue, end, service, marks, pictures, kept_busy, state,
            )  # fmt: skip
    if state["ended"][0] < n_ops:
        raise deadlock(program, issue, end, np.where(units["state"] == QUEUED, units["asked"], -1))
    n_waits = int(state["waits"][0])
    makespan, bursts = int(end.max(initial=0)), int(state["bursts"][0])
    skipped = Skipped(*(int(state[key][0]) for key in ("streams", "splits", "skips", "skipped")))
    busy += servers["busy"]
    return Trace(issue, end, service, busy, makespan, bursts, waits[:n_waits]), n_waits, skipped


# ---------------------------------------------------------------------------------------------------------------------
# Preparation, in numpy


def _typed(array: Any) -> Any:
    """The array, or a copy, of the one type that kernels are compiled for: writable, contiguous, int64 or records."""
    return np.require(array, array.dtype if array.dtype.names else np.int64, ["C", "W"])


def _prepare_blocks(program: Program) -> Records:
    blocks = np.zeros(len(program.blocks), _BLOCK)
    for key in ("first_row", "n_rows", "times"):
        blocks[key] = program.blocks[key]
    blocks["base"] = bases(program)[:-1]
    return blocks


def _prepare_units(program: Program) -> tuple[Records, Records, Records, Any]:
    """Units at their first op, their slots, and which rows each unit runs through: stretches, order."""
    rows, about = map(_typed, (program.rows, program.blocks))
    n_ops, n_rows, n_stretches = np.zeros((3, len(program.units)), np.int64)
    _count(rows, about, n_ops, n_rows, n_stretches)
    stretches, order = np.zeros(int(n_stretches.sum()), _STRETCH), np.zeros(int(n_rows.sum()), np.int32)
    last = np.cumsum(n_stretches)
    _sort(rows, about, np.cumsum(n_rows) - n_rows, last - n_stretches, stretches, order)
    units = np.zeros(len(program.units), _UNIT)
    priority = program.units["priority"]
    units["rank"] = np.searchsorted(np.sort(priority), priority)
    of_unit = np.arange(len(units))
    units["stretch"], units["last"] = last - n_stretches - 1, last - 1
    n_slots = np.minimum(program.units["lanes"], n_ops)
    slots = np.zeros(int(n_slots.sum()), _SLOT)
    slots["unit"] = np.repeat(of_unit, n_slots)
    slots["op"] = -1
    slots["next_free"] = np.arange(1, len(slots) + 1)
    last_slot = np.cumsum(n_slots)
    slots["next_free"][last_slot[n_slots > 0] - 1] = -1
    units["slot_at"], units["slot_n"] = last_slot - n_slots, n_slots
    units["free_slot"] = np.where(n_slots > 0, last_slot - n_slots, -1)
    units["watcher"] = -1
    return units, slots, stretches, order


@njit(cache=True, nogil=True)
def _count(rows, blocks, n_ops, n_rows, n_stretches):
    """Of each unit, [n_units]: its ops; its rows in all blocks; and the blocks in which it has some."""
    seen = np.full(len(n_ops), -1)
    for b in range(len(blocks)):
        first = blocks[b].first_row
        for i in range(first, first + blocks[b].n_rows):
            unit = rows[i].unit
            n_ops[unit] += blocks[b].times
            n_rows[unit] += 1
            n_stretches[unit] += seen[unit] != b
            seen[unit] = b


@njit(cache=True, nogil=True)
def _sort(rows, blocks, at, next_stretch, stretches, order):
    """Rows by unit, then block, in their order. at, next_stretch: where those of each unit begin, [n_units]."""
    seen = np.full(len(at), -1)
    for b in range(len(blocks)):
        first = blocks[b].first_row
        for i in range(first, first + blocks[b].n_rows):
            unit = rows[i].unit
            if seen[unit] != b:
                seen[unit] = b
                stretches[next_stretch[unit]].at, stretches[next_stretch[unit]].block = at[unit], b
                next_stretch[unit] += 1
            stretches[next_stretch[unit] - 1].n += 1
            order[at[unit]] = i
            at[unit] += 1


def _prepare_servers(
    program: Program, slots: Records
) -> tuple[Records, np.ndarray[Any, np.dtype[np.bool_]], np.ndarray[Any, np.dtype[np.bool_]]]:
    """Servers, each with room for those who may hold it at once (`held`, for now); whether the stretch of each varies
    with its occupancy; and whether it is loose."""
    servers = np.zeros(len(program.servers), _SERVER)
    for key in ("ports", "switch", "stretch_at", "stretch_n"):
        servers[key] = program.servers[key]
    servers["tag"] = servers["last_op"] = servers["owner"] = servers["first"] = servers["final"] = -1
    goes_over = np.zeros((len(servers), len(program.units)), np.bool_)
    varies, tagged = np.zeros((2, len(servers)), np.bool_)
    _mark(*map(_typed, (program.rows, program.routes, program.stretch)), servers, goes_over, varies, tagged)
    lanes = goes_over @ np.bincount(slots["unit"], minlength=len(program.units))  # that go over each server
    loose = (servers["ports"] >= lanes) & ~varies & ~(tagged & (servers["switch"] > 0))
    servers["stretch_n"][~varies] = 0
    servers["held"] = np.where(loose, 0, np.minimum(servers["ports"], lanes))
    servers["hold_at"] = np.cumsum(servers["held"]) - servers["held"]
    return servers, varies, loose


# nogil: a program may run for long, and other threads (that which ends the process on a signal) go on meanwhile.
@njit(cache=True, nogil=True)
def _mark(given, routes, stretch, servers, goes_over, varies, tagged):
    """Mark the units that go over each server, [n_servers, n_units], and the servers whose stretch varies or over which
    tags go, [n_servers]."""
    for server in range(len(servers)):
        first = servers[server].stretch_at + 1  # the entry before is never read
        for i in range(first, first - 1 + servers[server].stretch_n):
            varies[server] |= stretch[i] != stretch[first]
    for i in range(len(given)):
        row = given[i]
        for j in range(row.route_at, row.route_at + row.route_n):
            goes_over[routes[j], row.unit] = True
            tagged[routes[j]] |= row.tag >= 0


def _prepare_rows(program: Program, varies: Any, loose: Any) -> tuple[Records, Any, Records, Records, Ints, Ints]:
    """Rows; the number of the shape of each; shapes; the servers on their routes that are not loose, with ticks per
    burst; the busy ticks of the others, [n_servers]; and how many of the former there are on the longest route of each
    unit, [n_units]."""
    given, routes, about, stretch, blocks = map(
        _typed, (program.rows, program.routes, program.servers, program.stretch, program.blocks)
    )
    shape = np.zeros(len(given), np.int32)
    first, times = _shaped(given, blocks, shape)
    shapes, busy, longest = (
        np.zeros(len(first), _SHAPE),
        *(np.zeros(len(of), np.int64) for of in (about, program.units)),
    )
    hops = np.zeros(int(given["route_n"][first].sum()), _HOP)
    n_hops = _fill(given, routes, about, stretch, varies, loose, first, times, shapes, hops, busy)
    _longest(given, shape, shapes, longest)
    return given, shape, shapes, hops[:n_hops], busy, longest


@njit(cache=True)
def _place(given, table, first, i):
    """Where the shape of row i stands in a hash table of shapes, or is to stand. first: a row of each shape."""
    row = given[i]
    if row.bytes == 0:
        key = 0
    else:
        key = ((row.route_at * 31 + row.bytes) * 1_000_003 + row.burst) * 1_000_003 + row.tag * 8_191 + row.route_n
        key ^= key >> 23
    at = (key * 0x9E3779B97F4A7C1) & (len(table) - 1)
    while table[at] >= 0:
        other = given[first[table[at]]]
        if row.bytes == other.bytes and (row.bytes == 0 or (
            row.route_at == other.route_at and row.route_n == other.route_n
            and row.burst == other.burst and row.tag == other.tag
        )):  # fmt: skip
            break
        at = (at + 1) & (len(table) - 1)
    return at


@njit(cache=True, nogil=True)
def _shaped(given, blocks, shape):
    """Number the shapes of rows, into `shape`; a row of each, and how often any row of it runs, [n_shapes]."""
    table, n = np.full(1 << 10, -1), 0
    first, times = np.zeros((2, 1 << 9), np.int64)
    for b in range(len(blocks)):
        for i in range(blocks[b].first_row, blocks[b].first_row + blocks[b].n_rows):
            at = _place(given, table, first, i)
            if table[at] < 0:
                if n == len(first):  # half of the table is taken
                    first, times = np.concatenate((first, 0 * first)), np.concatenate((times, 0 * times))
                    table = np.full(2 * len(table), -1)
                    for known in range(n):
                        table[_place(given, table, first, first[known])] = known
                    at = _place(given, table, first, i)
                table[at], first[n] = n, i
                n += 1
            shape[i] = table[at]
            times[table[at]] += blocks[b].times
    return first[:n].copy(), times[:n].copy()


@njit(cache=True, nogil=True)
def _longest(given, shape, shapes, longest):
    """Hops on the longest route of each unit, [n_units]."""
    for i in range(len(given)):
        longest[given[i].unit] = max(longest[given[i].unit], shapes[shape[i]].hop_n)


@njit(cache=True, nogil=True)
def _fill(given, routes, about, stretch, varies, loose, first, times, shapes, hops, busy):
    """Write what `_prepare_rows` returns of shapes; how many hops there are. first: a row of each; times: how often its
    rows run, [n_shapes]."""
    at = 0
    for i in range(len(first)):
        row, new = given[first[i]], shapes[i]
        new.hop_at = at
        if row.bytes == 0:
            continue
        full = min(row.burst, row.bytes)
        new.bursts = (row.bytes + full - 1) // full
        last = row.bytes - (new.bursts - 1) * full
        for j in range(row.route_at, row.route_at + row.route_n):
            server = routes[j]
            its = about[server]
            ticks = (full * its.rate_ticks + its.rate_bytes - 1) // its.rate_bytes
            ticks_last = (last * its.rate_ticks + its.rate_bytes - 1) // its.rate_bytes
            factor = stretch[its.stretch_at + min(1, its.stretch_n - 1)]
            alone, alone_last = max(1, ticks * factor >> 8), max(1, ticks_last * factor >> 8)
            new.alone, new.alone_last = max(new.alone, alone), max(new.alone_last, alone_last)
            if loose[server]:
                new.base, new.base_last = max(new.base, alone), max(new.base_last, alone_last)
                busy[server] += times[i] * ((new.bursts - 1) * alone + alone_last)
                continue
            hop = hops[at]
            hop.server = server
            # Where the stretch is the same at every occupancy, it is applied here once.
            if not varies[server]:
                ticks, ticks_last = ticks * factor >> 8, ticks_last * factor >> 8
            hop.full, hop.last = ticks, ticks_last
            hop.alone, hop.alone_last = alone, alone_last
            hop.tag = -1
            if row.tag >= 0 and its.switch > 0:
                hop.tag = (row.tag >> its.tag_shift) & ~(-1 << its.tag_bits)
            at += 1
        new.hop_n = at - new.hop_at
        if new.hop_n == 0:
            new.whole = (new.bursts - 1) * new.base + new.base_last
    return at


def _prepare_nodes(longest: Ints, slots: Records) -> Records:
    """As many nodes for each slot as the longest route of its unit has places."""
    n = longest[slots["unit"]]
    slots["node_at"] = np.cumsum(n) - n
    nodes = np.zeros(int(n.sum()), _NODE)
    nodes["slot"] = np.repeat(np.arange(len(slots)), n)
    nodes["since"] = -1
    return nodes


def _tree(n_slots: int) -> tuple[Ints, Ints]:
    """An implicit tree of minima over the slots, all NEVER, and where each of its levels begins (the root last)."""
    sizes = [max(n_slots, 1)]
    while sizes[-1] > 1:
        sizes.append(-(-sizes[-1] // FAN))
    padded = [-(-size // FAN) * FAN for size in sizes[:-1]] + [1]
    return np.full(sum(padded), NEVER), np.cumsum([0, *padded[:-1]]).astype(np.int64)


# ---------------------------------------------------------------------------------------------------------------------
# Arrays as the kernel sees them


class _Bare(types.Type):
    """An array of integers or records as where it is and how long: of `ndim` 1 or 2 dimensions, C-contiguous.

    An array of numba's has an owner, whose references are counted at every call, and each index is looked at for being
    negative, that is, counted from the end. Both together took most of the kernel's time. Here an index is what it is.
    Sound because the caller of the kernel holds all arrays while it runs, and no index in it is negative.
    """

    def __init__(self, dtype: Any, ndim: int) -> None:
        self.dtype, self.ndim = dtype, ndim
        super().__init__(name=f"Bare({dtype}, {ndim})")


@register_model(_Bare)
class _BareModel(models.StructModel):
    """data: of the first item; rows: items, or rows of items; columns: items in a row."""

    def __init__(self, manager: Any, kind: Any) -> None:
        members = [("data", types.CPointer(kind.dtype)), ("rows", types.intp), ("columns", types.intp)]
        super().__init__(manager, kind, members)


@intrinsic
def _bare(_typing: Any, array: Any) -> Any:
    """The same array as a `_Bare`."""
    kind = _Bare(array.dtype, array.ndim)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        given = context.make_array(signature.args[0])(context, builder, value=args[0])
        shape = cgutils.unpack_tuple(builder, given.shape, array.ndim)
        bare = cgutils.create_struct_proxy(kind)(context, builder)
        bare.data, bare.rows, bare.columns = given.data, shape[0], shape[-1]
        return bare._getvalue()

    return kind(array), codegen


@type_callable(operator.getitem)
def _type_of_item(_context: Any) -> Any:
    return lambda array, index: array.dtype if isinstance(array, _Bare) else None


@type_callable(operator.setitem)
def _type_of_setting(_context: Any) -> Any:
    return lambda array, index, item: types.none if isinstance(array, _Bare) else None


@type_callable(len)
def _type_of_length(_context: Any) -> Any:
    return lambda array: types.intp if isinstance(array, _Bare) else None


def _item(context: Any, builder: Any, kinds: Any, args: Any) -> Any:
    """Where an item is. kinds, args: of the array and of an index, or of a pair of them."""
    array = cgutils.create_struct_proxy(kinds[0])(context, builder, value=args[0])
    if kinds[0].ndim == 1:
        at = context.cast(builder, args[1], kinds[1], types.intp)
    else:
        pair = cgutils.unpack_tuple(builder, args[1], 2)
        row, column = (context.cast(builder, *index, types.intp) for index in zip(pair, kinds[1].types, strict=True))
        at = builder.add(builder.mul(row, array.columns), column)
    return builder.gep(array.data, [at], inbounds=True)


@lower_builtin(operator.getitem, _Bare, types.Any)
def _get_item(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    return context.unpack_value(builder, signature.return_type, _item(context, builder, signature.args, args))


@lower_builtin(operator.setitem, _Bare, types.Any, types.Any)
def _set_item(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    array, _, kind = signature.args
    item = context.cast(builder, args[2], kind, array.dtype)
    context.pack_value(builder, array.dtype, item, _item(context, builder, signature.args, args))
    return context.get_dummy_value()


@lower_builtin(len, _Bare)
def _length(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    return cgutils.create_struct_proxy(signature.args[0])(context, builder, value=args[0]).rows


# ---------------------------------------------------------------------------------------------------------------------
# The kernel. Every helper but the rare ones is inlined.


@njit(forceinline=True)
def _set_event(tree, levels, slot, t):
    """The next event of `slot` is at t (NEVER: none)."""
    i, before = slot, tree[slot]
    tree[i] = least = t
    for level in range(len(levels) - 1):
        first = levels[level] + (i & ~(FAN - 1))
        i //= FAN
        node = levels[level + 1] + i
        known = tree[node]
        if least >= known:
            if before > known:
                return
            least = tree[first]  # it may have been the first of these
            for child in range(first + 1, first + FAN):
                least = min(least, tree[child])
            if known == least:
                return
        before = known
        tree[node] = least


@njit(forceinline=True)
def _due(tree, levels, t):
    """A slot whose event is at t, the least time in the tree."""
    i = 0
    for level in range(len(levels) - 2, -1, -1):
        i *= FAN
        while tree[levels[level] + i] != t:
            i += 1
    return i


@njit(forceinline=True)
def _touch(units, lists, m, unit):
    """Look at the head of `unit` in the next round."""
    if not units[unit].touched:
        units[unit].touched = 1
        lists[TOUCHED, m[0].touched] = unit
        m[0].touched += 1


@njit(forceinline=True)
def _next_stretch(units, stretches, order, blocks, unit):
    """Put the head of `unit` at its first op in the next block that has any; state NONE if there is none."""
    if units[unit].stretch == units[unit].last:
        units[unit].state = NONE
        return
    units[unit].stretch += 1
    stretch = units[unit].stretch
    block = stretches[stretch].block
    units[unit].at = stretches[stretch].at
    units[unit].base = blocks[block].base
    units[unit].row = order[units[unit].at]
    units[unit].head = units[unit].base + units[unit].row - blocks[block].first_row
    units[unit].state = UNSEEN


@njit(forceinline=True)
def _next_head(units, stretches, order, blocks, m, unit):
    """Move the head of `unit` on by one op."""
    stretch = units[unit].stretch
    block = stretches[stretch].block
    n_rows = blocks[block].n_rows
    if units[unit].at + 1 < stretches[stretch].at + stretches[stretch].n:
        units[unit].at += 1
    elif units[unit].base + n_rows < blocks[block].base + n_rows * blocks[block].times:
        units[unit].at = stretches[stretch].at
        units[unit].base += n_rows
        if m[0].anchor < 0:
            m[0].anchor = unit
            m[0].block = -1
        if m[0].anchor == unit and m[0].skip:
            m[0].check = m[0].pause == 0
            m[0].pause = max(0, m[0].pause - 1)
    else:
        if m[0].anchor == unit:
            m[0].anchor = -1
            m[0].check = 0
        _next_stretch(units, stretches, order, blocks, unit)
        return
    units[unit].row = order[units[unit].at]
    units[unit].head = units[unit].base + units[unit].row - blocks[block].first_row
    units[unit].state = UNSEEN


@njit(forceinline=True)
def _unit_of(blocks, rows, op):
    """The unit that an op sits on."""
    low, high = 0, len(blocks)
    while high - low > 1:
        middle = (low + high) // 2
        if blocks[middle].base <= op:
            low = middle
        else:
            high = middle
    return rows[blocks[low].first_row + (op - blocks[low].base) % blocks[low].n_rows].unit


@njit(forceinline=True)
def _touch_server(servers, lists, m, server):
    """See in this tick whether `server` grants."""
    if not servers[server].touched:
        servers[server].touched = 1
        lists[SERVERS, m[0].servers] = server
        m[0].servers += 1


@njit(forceinline=True)
def _ask(slots, servers, nodes, lists, m, s, node, server):
    """The slot `s` asks for a server, at the place of its route that `node` is: it waits there, in order."""
    key, tie = slots[s].key, slots[s].tie
    before, after = servers[server].final, -1
    while before >= 0:
        other = nodes[before].slot
        if slots[other].key < key or (slots[other].key == key and slots[other].tie < tie):
            break
        after = before
        before = nodes[before].before
    nodes[node].waits = 1
    nodes[node].before = before
    nodes[node].next = after
    if before >= 0:
        nodes[before].next = node
    else:
        servers[server].first = node
    if after >= 0:
        nodes[after].before = node
    else:
        servers[server].final = node
    servers[server].queued += 1
    _touch_server(servers, lists, m, server)


@njit(forceinline=True)
def _finish(units, slots, credits, rows, gives, lists, end, service, m, s, t):
    """The op in slot `s` ends: rule 1."""
    op, unit = slots[s].op, slots[s].unit
    end[op] = t
    service[op] = slots[s].service
    slots[s].op = -1
    m[0].ended += 1
    slots[s].next_free = units[unit].free_slot
    units[unit].free_slot = s
    _touch(units, lists, m, unit)
    row = slots[s].row
    for i in range(rows[row].give_at, rows[row].give_at + rows[row].give_n):
        credits[gives[i].credit].free += gives[i].amount
        m[0].scan_queue = 1
    before, watcher = -1, units[unit].watcher
    while watcher >= 0:
        after = units[watcher].next
        if units[watcher].watched == op:
            if before < 0:
                units[unit].watcher = after
            else:
                units[before].next = after
            units[watcher].state = UNSEEN
            _touch(units, lists, m, watcher)
        else:
            before = watcher
        watcher = after


@njit(forceinline=True)
def _past(servers, freed, holder, server, t):
    """Forget the ports of `server` that are free again at t; how many are not."""
    at, held, n = servers[server].hold_at, servers[server].held, 0
    while n < held and freed[at + n] <= t:
        n += 1
    if n:
        held -= n
        for i in range(at, at + held):
            freed[i] = freed[i + n]
            holder[i] = holder[i + n]
        servers[server].held = held
    return held


@njit(forceinline=True)
def _hold_port(servers, freed, holder, server, s, until):
    """The slot `s` holds a port of `server` until then."""
    at = servers[server].hold_at
    i = at + servers[server].held
    while i > at and freed[i - 1] > until:
        freed[i] = freed[i - 1]
        holder[i] = holder[i - 1]
        i -= 1
    freed[i] = until
    holder[i] = s
    servers[server].held += 1


@njit(forceinline=True)
def _over(slots, servers, shapes, hops, lists, m, s):
    """A burst of slot `s` is over."""
    slots[s].left -= 1
    slots[s].service += slots[s].hold
    shape = slots[s].shape
    for i in range(shapes[shape].hop_at, shapes[shape].hop_at + shapes[shape].hop_n):
        if servers[hops[i].server].queued:
            _touch_server(servers, lists, m, hops[i].server)


@njit
def _unfold(slots, servers, freed, holder, shapes, hops, m, s, t):
    """Make the stream of slot `s` the burst that is under way before t, ending at t or later; when it ends."""
    shape = slots[s].shape
    alone, full, first = shapes[shape].alone, slots[s].left - 2, slots[s].first
    ended = 0 if t <= first else (t - first + alone - 1) // alone  # bursts that have, with t not counted
    slots[s].event = BURST
    for i in range(shapes[shape].hop_at, shapes[shape].hop_at + shapes[shape].hop_n):
        servers[hops[i].server].owner = -1
    if ended == 0:
        return first
    hold = alone
    if ended > full:
        ended = full + 1
        hold = shapes[shape].alone_last
    start = first + (ended - 1) * alone
    slots[s].service += slots[s].hold + (ended - 1) * alone
    slots[s].hold = hold
    slots[s].until = start + hold
    slots[s].left -= ended
    m[0].bursts += ended
    for i in range(shapes[shape].hop_at, shapes[shape].hop_at + shapes[shape].hop_n):
        server = hops[i].server
        here = hops[i].alone_last if ended > full else hops[i].alone
        servers[server].busy += (ended - 1) * hops[i].alone + here
        servers[server].last_op = slots[s].op
        servers[server].held = 0
        _hold_port(servers, freed, holder, server, s, start + here)
    return start + hold


@njit(forceinline=True)
def _split(slots, servers, freed, holder, shapes, hops, tree, levels, lists, m, other, t):
    """Somebody asked at t for a server of the stream of slot `other`: it goes on burst by burst."""
    m[0].splits += 1
    until = _unfold(slots, servers, freed, holder, shapes, hops, m, other, t)
    if until > t:
        _set_event(tree, levels, other, until)
    else:  # between two bursts of its own: it asks in this very tick
        _set_event(tree, levels, other, NEVER)
        _over(slots, servers, shapes, hops, lists, m, other)
        lists[ASKED, m[0].asking] = other
        m[0].asking += 1


@njit
def _alone(slots, servers, freed, holder, shapes, hops, s, t):
    """Whether the bursts of the op in slot `s`, the first of which all its servers have granted, meet nobody who does
    not ask anew, and no tag but their own.

    A server may be done with this burst long before the last one granted it. So who is there may be another; a burst
    with another tag may have come and gone; and there may be a stream whose burst has been there, too.
    """
    shape = slots[s].shape
    for i in range(shapes[shape].hop_at, shapes[shape].hop_at + shapes[shape].hop_n):
        server = hops[i].server
        if servers[server].queued or servers[server].owner >= 0:
            return False
        if hops[i].tag >= 0 and servers[server].tag != hops[i].tag:
            return False
        for j in range(servers[server].hold_at, servers[server].hold_at + servers[server].held):
            if freed[j] > t and holder[j] != s:
                return False
    return True


@njit(forceinline=True)
def _stream(slots, servers, freed, holder, shapes, hops, m, s, t):
    """Make a stream of the op in slot `s`, whose burst is granted everywhere, if it can be one; when its event is."""
    shape, until = slots[s].shape, slots[s].until
    if slots[s].left < FEWEST:
        return until
    if slots[s].again > 0:
        slots[s].again -= 1
        return until
    if not _alone(slots, servers, freed, holder, shapes, hops, s, t):
        slots[s].again = AGAIN
        return until
    for i in range(shapes[shape].hop_at, shapes[shape].hop_at + shapes[shape].hop_n):
        servers[hops[i].server].owner = s
    slots[s].event = STREAM
    slots[s].first = until
    m[0].streams += 1
    return until + (slots[s].left - 2) * shapes[shape].alone + shapes[shape].alone_last


@njit(forceinline=True)
def _end(slots, servers, freed, holder, shapes, hops, tree, levels, lists, m, t):
    """Rule 1, but for what the end of an op brings about: that is `_finish`, for those listed in ENDED here."""
    root = levels[len(levels) - 1]
    while tree[root] == t:
        s = _due(tree, levels, t)
        _set_event(tree, levels, s, NEVER)
        if s >= len(slots):
            _touch_server(servers, lists, m, s - len(slots))
            continue
        if slots[s].event == STREAM:
            _unfold(slots, servers, freed, holder, shapes, hops, m, s, t)
        if slots[s].event == BURST:
            _over(slots, servers, shapes, hops, lists, m, s)
        if slots[s].left > 0:
            lists[ASKED, m[0].asking] = s
            m[0].asking += 1
        else:
            lists[ENDED, m[0].ending] = s
            m[0].ending += 1


@njit(forceinline=True)
def _offers(units, rows, blocks, deps, end, unit):
    """Whether the head of `unit` is to be offered; if it lacks a dep, it is told when that one ends."""
    if units[unit].state != UNSEEN or units[unit].free_slot < 0:
        return False
    row, head = units[unit].row, units[unit].head
    for i in range(rows[row].dep_at, rows[row].dep_at + rows[row].dep_n):
        op = head - deps[i]
        if op >= 0 and end[op] < 0:
            other = _unit_of(blocks, rows, op)
            units[unit].state = WATCHING
            units[unit].watched = op
            units[unit].next = units[other].watcher
            units[other].watcher = unit
            return False
    return True


@njit(forceinline=True)
def _issue(units, slots, rows, shape, shapes, tree, levels, stretches, order, blocks, lists, issue, m, unit, t):
    """The head of `unit` issues: into a slot, with its first event."""
    s = units[unit].free_slot
    units[unit].free_slot = slots[s].next_free
    op, row = units[unit].head, units[unit].row
    slots[s].op = op
    its = shape[row]
    slots[s].row, slots[s].shape = row, its
    slots[s].left = shapes[its].bursts
    slots[s].service = 0
    slots[s].again = 0
    slots[s].log = -1
    slots[s].hold = 0
    issue[op] = t
    delay = rows[row].setup + rows[row].run
    if shapes[its].whole and m[0].coalesce:
        delay += shapes[its].whole
        slots[s].service = shapes[its].whole
        m[0].bursts += slots[s].left
        m[0].streams += 1
        slots[s].left = 0
    if delay > 0:
        slots[s].event = SETUP if slots[s].left > 0 else FINISH
        _set_event(tree, levels, s, t + delay)
    elif slots[s].left > 0:
        lists[ASKED, m[0].asking] = s
        m[0].asking += 1
    else:
        lists[ENDED, m[0].ending] = s
        m[0].ending += 1
    _next_head(units, stretches, order, blocks, m, unit)
    _touch(units, lists, m, unit)


@njit(forceinline=True)
def _queue_head(units, lists, m, unit, t):
    """Put the head of `unit` into the queue for credits, which is in (priority, asked, unit) order."""
    units[unit].state = QUEUED
    units[unit].asked = t
    rank = units[unit].rank
    i = m[0].queued
    while i > 0:
        other = lists[QUEUE, i - 1]
        if units[other].rank < rank or (
            units[other].rank == rank and (units[other].asked < t or (units[other].asked == t and other < unit))
        ):
            break
        lists[QUEUE, i] = other
        i -= 1
    lists[QUEUE, i] = unit
    m[0].queued += 1
    m[0].scan_queue = 1


@njit(forceinline=True)
def _takes(units, credits, rows, takes, m, unit):
    """Take all credits of the head of `unit`, or none and block them for this round; whether it took them."""
    row = units[unit].row
    first, last = rows[row].take_at, rows[row].take_at + rows[row].take_n
    able = True
    for i in range(first, last):
        credit = takes[i].credit
        if credits[credit].blocked == m[0].round or credits[credit].free < takes[i].amount:
            able = False
    for i in range(first, last):
        if able:
            credits[takes[i].credit].free -= takes[i].amount
        else:
            credits[takes[i].credit].blocked = m[0].round
    return able


@njit(forceinline=True)
def _round(units, credits, rows, blocks, deps, takes, lists, end, m, t):
    """One round of rule 2: lists in ISSUING the units whose heads issue."""
    for i in range(m[0].touched):
        unit = lists[TOUCHED, i]
        units[unit].touched = 0
        if _offers(units, rows, blocks, deps, end, unit):
            if rows[units[unit].row].take_n:
                _queue_head(units, lists, m, unit, t)
            else:
                lists[ISSUING, m[0].issuing] = unit
                m[0].issuing += 1
    if m[0].scan_queue:
        m[0].scan_queue = 0
        m[0].round += 1
        kept = 0
        for i in range(m[0].queued):
            unit = lists[QUEUE, i]
            if _takes(units, credits, rows, takes, m, unit):
                lists[ISSUING, m[0].issuing] = unit
                m[0].issuing += 1
            else:
                lists[QUEUE, kept] = unit
                kept += 1
        m[0].queued = kept


@njit
def _note(slots, nodes, waits, chain, m, node, t, server, behind):
    """Record what the burst of a watched op stands behind at a server from t on (behind -1: nothing)."""
    s = nodes[node].slot
    if nodes[node].since >= 0:
        if nodes[node].behind == behind:
            return
        n = m[0].waits
        if n < len(waits):
            waits[n].op = slots[s].op
            waits[n].start = nodes[node].since
            waits[n].end = t
            waits[n].server = server
            waits[n].behind = nodes[node].behind
            chain[n] = slots[s].log
            slots[s].log = n
        m[0].waits += 1
    nodes[node].since = t if behind >= 0 else -1
    nodes[node].behind = behind


@njit
def _strike_out(slots, waits, chain, s):
    """The burst of slot `s` is granted everywhere: of its waits, those count that were for the server which is done
    last; the others are no longer of any op."""
    n = slots[s].log
    while n >= 0:
        if waits[n].server != slots[s].server:
            waits[n].op = -1
        n = chain[n]
    slots[s].log = -1


@njit(forceinline=True)
def _hold(slots, servers, hops, stretch, s, hop, occupancy):
    """Ticks that the burst of slot `s` holds the server of a hop, granted just now; sets the tag."""
    server, tag = hops[hop].server, hops[hop].tag
    ticks = hops[hop].last if slots[s].left == 1 else hops[hop].full
    if servers[server].stretch_n:
        entry = min(occupancy, servers[server].stretch_n - 1)
        ticks = ticks * stretch[servers[server].stretch_at + entry] >> 8
    if tag >= 0:
        if servers[server].tag != tag:
            ticks += servers[server].switch
        servers[server].tag = tag
    return max(1, ticks)


@njit(forceinline=True)
def _have(slots, servers, freed, holder, shapes, hops, lists, stretch, m, server, s, place, occupancy, t):
    """The server at a place of its route grants slot `s` a port."""
    hold = _hold(slots, servers, hops, stretch, s, shapes[slots[s].shape].hop_at + place, occupancy)
    until = t + hold
    servers[server].busy += hold
    servers[server].last_op = slots[s].op
    _hold_port(servers, freed, holder, server, s, until)
    last, longest = slots[s].until, slots[s].hold
    if until > last or (until == last and (hold > longest or (hold == longest and place < slots[s].place))):
        slots[s].until = until
        slots[s].hold = hold
        slots[s].server = server
        slots[s].place = place
    slots[s].pending -= 1
    if slots[s].pending == 0:
        lists[GRANTED, m[0].granted] = s
        m[0].granted += 1


@njit(forceinline=True)
def _serve(
    slots, servers, nodes, freed, holder, shapes, hops, lists, stretch, watched, waits, chain, m, server, t,
):  # fmt: skip
    """Rule 3 at one server: those who wait are granted as far as there are ports."""
    servers[server].touched = 0
    held = _past(servers, freed, holder, server, t)
    n = min(servers[server].queued, servers[server].ports - held)
    for _ in range(n):
        node = servers[server].first
        s = nodes[node].slot
        after = nodes[node].next
        servers[server].first = after
        if after >= 0:
            nodes[after].before = -1
        else:
            servers[server].final = -1
        nodes[node].waits = 0
        if len(watched) > 0 and watched[slots[s].op]:
            _note(slots, nodes, waits, chain, m, node, t, server, -1)
        _have(
            slots,
            servers,
            freed,
            holder,
            shapes,
            hops,
            lists,
            stretch,
            m,
            server,
            s,
            node - slots[s].node_at,
            held + n,
            t,
        )
    servers[server].queued -= n
    if len(watched) > 0:
        node = servers[server].first
        while node >= 0:
            if watched[slots[nodes[node].slot].op]:
                _note(slots, nodes, waits, chain, m, node, t, server, servers[server].last_op)
            node = nodes[node].next


@njit(forceinline=True)
def _wake(slots, servers, freed, holder, tree, levels, server):
    """See to it that `server`, for which somebody waits, is looked at when its next port is free: by an event, if the
    burst there is not over in that very tick."""
    at = servers[server].hold_at
    when, s = freed[at], holder[at]
    if slots[s].pending == 0 and slots[s].until == when:
        when = NEVER
    leaf = len(slots) + server
    if tree[leaf] != when:
        _set_event(tree, levels, leaf, when)


@njit(forceinline=True)
def _grant(
    units, slots, servers, nodes, freed, holder, shapes, hops, tree, levels, lists, stretch, watched, waits, chain, m,
    t,
):  # fmt: skip
    """Rule 3."""
    asked = 0
    while asked < m[0].asking:  # a split makes it longer
        shape = slots[lists[ASKED, asked]].shape
        for i in range(shapes[shape].hop_at, shapes[shape].hop_at + shapes[shape].hop_n):
            server = hops[i].server
            servers[server].asking += 1
            other = servers[server].owner
            if other >= 0:
                _split(slots, servers, freed, holder, shapes, hops, tree, levels, lists, m, other, t)
        asked += 1
    for asked in range(m[0].asking):
        s = lists[ASKED, asked]
        shape, unit = slots[s].shape, slots[s].unit
        slots[s].key = (units[unit].rank << 50) | t
        slots[s].tie = (unit << 50) | slots[s].op
        base = shapes[shape].base_last if slots[s].left == 1 else shapes[shape].base
        slots[s].event = BURST
        slots[s].until = t + base
        slots[s].hold = base
        slots[s].server = slots[s].place = -1
        slots[s].pending = shapes[shape].hop_n
        for i in range(shapes[shape].hop_n):
            server = hops[shapes[shape].hop_at + i].server
            if servers[server].asking == 1 and servers[server].queued == 0:  # nobody else wants it
                held = _past(servers, freed, holder, server, t)
                if held < servers[server].ports:
                    servers[server].asking = 0
                    _have(slots, servers, freed, holder, shapes, hops, lists, stretch, m, server, s, i, held + 1, t)
                    continue
            servers[server].asking = 0
            _ask(slots, servers, nodes, lists, m, s, slots[s].node_at + i, server)
        if shapes[shape].hop_n == 0:
            lists[GRANTED, m[0].granted] = s
            m[0].granted += 1
    m[0].asking = 0
    for i in range(m[0].servers):
        _serve(
            slots, servers, nodes, freed, holder, shapes, hops, lists, stretch, watched, waits, chain, m,
            lists[SERVERS, i], t,
        )  # fmt: skip
    for i in range(m[0].servers):
        if servers[lists[SERVERS, i]].queued:
            _wake(slots, servers, freed, holder, tree, levels, lists[SERVERS, i])
    m[0].servers = 0
    m[0].bursts += m[0].granted
    for i in range(m[0].granted):
        s = lists[GRANTED, i]
        if slots[s].log >= 0:
            _strike_out(slots, waits, chain, s)
        until = slots[s].until
        if m[0].coalesce:
            until = _stream(slots, servers, freed, holder, shapes, hops, m, s, t)
        _set_event(tree, levels, s, until)
    m[0].granted = 0


# ---------------------------------------------------------------------------------------------------------------------
# Steady states: called when the anchor begins an iteration, at the end of the tick


@njit
def _root(marks, unit):
    while marks[unit].root != unit:
        unit = marks[unit].root
    return unit


@njit
def _components(units, rows, blocks, deps, marks, block):
    """Find the component of every unit in the body of `block`."""
    first, n_rows = blocks[block].first_row, blocks[block].n_rows
    for unit in range(len(units)):
        marks[unit].root = -1
    for row in range(first, first + n_rows):
        marks[rows[row].unit].root = rows[row].unit
    for row in range(first, first + n_rows):
        for i in range(rows[row].dep_at, rows[row].dep_at + rows[row].dep_n):
            other = rows[first + (row - first - deps[i]) % n_rows].unit
            marks[_root(marks, other)].root = _root(marks, rows[row].unit)
    for unit in range(len(units)):
        if marks[unit].root >= 0:
            marks[unit].root = _root(marks, unit)


@njit
def _inside(units, stretches, marks, m, unit):
    """Whether `unit` is in the loop: it has rows there, and its head is one of them."""
    return marks[unit].root >= 0 and units[unit].state != NONE and stretches[units[unit].stretch].block == m[0].block


@njit
def _oldest(units, slots, unit, after):
    """The slot with the oldest op in flight of `unit` that is younger than op `after`; -1 if there is none."""
    found = -1
    for s in range(units[unit].slot_at, units[unit].slot_at + units[unit].slot_n):
        if slots[s].op > after and (found < 0 or slots[s].op < slots[found].op):
            found = s
    return found


@njit
def _picture(
    units, slots, servers, nodes, freed, holder, credits, shapes, tree, stretches, blocks, marks, picture, m, t
):  # fmt: skip
    """Write all that what follows depends on into `picture`, relative to t and to the iteration that each component
    is in; its length. 0 if the machine is in no state to be compared: an op of another block is in flight, or part of a
    component is elsewhere.

    Ops before the loop have then ended, or wait for a credit (or for one that does): a picture with a head that waits
    for one is never the same again. So it does not matter that deps of the first iterations reach back to them.
    """
    base, n = blocks[m[0].block].base, 0
    for unit in range(len(units)):
        inside, reference = _inside(units, stretches, marks, m, unit), 0
        if inside:
            root = marks[unit].root
            if not _inside(units, stretches, marks, m, root):
                return 0
            reference = units[root].base
        elif marks[unit].root >= 0 and _inside(units, stretches, marks, m, marks[unit].root):
            return 0
        state = units[unit].state
        picture[n] = units[unit].head - reference if state != NONE else -1
        picture[n + 1] = state
        picture[n + 2] = units[unit].asked - t if state == QUEUED else 0
        picture[n + 3] = units[unit].watched - reference if state == WATCHING else 0
        n += 4
        s = _oldest(units, slots, unit, -1)
        while s >= 0:
            if not inside or slots[s].op < base:
                return 0
            waits = slots[s].event == BURST and slots[s].pending > 0
            picture[n] = slots[s].op - reference
            picture[n + 1] = slots[s].event
            picture[n + 2] = (slots[s].until if waits else tree[s]) - t
            picture[n + 3] = slots[s].left
            picture[n + 4] = slots[s].service
            picture[n + 5] = slots[s].hold
            picture[n + 6] = (slots[s].key & ((1 << 50) - 1)) - t if waits else 1  # asked: at t or before
            n += 7
            if waits:
                for i in range(slots[s].node_at, slots[s].node_at + shapes[slots[s].shape].hop_n):
                    picture[n] = nodes[i].waits
                    n += 1
            s = _oldest(units, slots, unit, slots[s].op)
        picture[n] = picture[n + 1] = -1
        n += 2
    for credit in range(len(credits)):
        picture[n + credit] = credits[credit].free
    n += len(credits)
    for server in range(len(servers)):
        held = _past(servers, freed, holder, server, t)
        picture[n] = servers[server].tag
        picture[n + 1] = held
        n += 2
        for i in range(servers[server].hold_at, servers[server].hold_at + held):
            picture[n] = freed[i] - t
            n += 1
    return n


@njit
def _keep(units, slots, servers, marks, pictures, kept_busy, m, size, t):
    """The machine as it is now is what later iterations are compared with."""
    for i in range(size):
        pictures[KEPT, i] = pictures[NOW, i]
    for unit in range(len(units)):
        s = _oldest(units, slots, unit, -1)
        marks[unit].base = units[unit].base
        marks[unit].oldest = slots[s].op if s >= 0 else units[unit].head
    for server in range(len(servers)):
        kept_busy[server] = servers[server].busy
    m[0].kept_bursts, m[0].kept_ended = m[0].bursts, m[0].ended
    m[0].at, m[0].size, m[0].age = t, size, 0


@njit
def _times(units, rows, stretches, blocks, marks, m):
    """How often the period can be repeated: until a head would leave the loop, or a unit outside it would be told that
    the op that it watches has ended."""
    block = m[0].block
    last = blocks[block].base + blocks[block].n_rows * (blocks[block].times - 1)
    times = NEVER
    for unit in range(len(units)):
        if _inside(units, stretches, marks, m, unit):
            period = units[unit].base - marks[unit].base
            if period > 0:
                times = min(times, (last - units[unit].base) // period)
        elif units[unit].state == WATCHING:
            other = _unit_of(blocks, rows, units[unit].watched)
            if _inside(units, stretches, marks, m, other):
                period = units[other].base - marks[other].base
                ahead = units[unit].watched - units[other].head
                if period > 0:
                    times = min(times, ahead // period if ahead >= 0 else 0)
    return times if times != NEVER else 0


@njit
def _repeat(issue, end, service, op, period, dt, times, since, t):
    """Op op + period, op + 2 period ... do what op did after tick `since` and up to t, dt, 2 dt ... later."""
    if since < issue[op] <= t:
        for i in range(1, times + 1):
            issue[op + i * period] = issue[op] + i * dt
    if since < end[op] <= t:  # a later end is not its own: it was filled in for an earlier op
        for i in range(1, times + 1):
            end[op + i * period] = end[op] + i * dt
            service[op + i * period] = service[op]


@njit
def _skip(
    units, slots, servers, freed, tree, stretches, order, blocks, issue, end, service, marks, kept_busy, m, times,
):  # fmt: skip
    """Go on by `times` periods, each the time since the picture was kept."""
    t, n_rows = m[0].tick, blocks[m[0].block].n_rows
    dt = t - m[0].at
    for unit in range(len(units)):
        if not _inside(units, stretches, marks, m, unit):
            continue
        period, stretch = units[unit].base - marks[unit].base, units[unit].stretch
        base, first_row = blocks[m[0].block].base, blocks[m[0].block].first_row
        base += (marks[unit].oldest - base) // n_rows * n_rows
        while base <= units[unit].base:
            for i in range(stretches[stretch].at, stretches[stretch].at + stretches[stretch].n):
                op = base + order[i] - first_row
                if op < units[unit].head:
                    _repeat(issue, end, service, op, period, dt, times, m[0].at, t)
            base += n_rows
        units[unit].base += times * period
        units[unit].head += times * period
        if units[unit].state == WATCHING:
            units[unit].watched += times * period
        if units[unit].state == QUEUED:
            units[unit].asked += times * dt
        for s in range(units[unit].slot_at, units[unit].slot_at + units[unit].slot_n):
            if slots[s].op >= 0:
                slots[s].op += times * period
                slots[s].tie += times * period
                slots[s].key += times * dt
                slots[s].until += times * dt
    for node in range(len(tree)):
        if tree[node] != NEVER:
            tree[node] += times * dt
    for i in range(len(freed)):
        freed[i] += times * dt
    for server in range(len(servers)):
        servers[server].busy += times * (servers[server].busy - kept_busy[server])
    m[0].bursts += times * (m[0].bursts - m[0].kept_bursts)
    ended = times * (m[0].ended - m[0].kept_ended)
    m[0].ended += ended
    m[0].skips += 1
    m[0].skipped += ended


@njit(cache=True, nogil=True)
def _steady(
    units, slots, servers, nodes, freed, holder, credits, rows, shapes, hops, tree, levels, stretches, order, blocks,
    deps, issue, end, service, marks, pictures, kept_busy, m,
):  # fmt: skip
    """Compare the machine with the picture kept; if it is the same, skip what repeats.

    A kernel of its own, called between ticks: in `_run` it would double the time to compile that. So as not to be
    called for every iteration of a loop without a period, it rests longer after each picture that never came back.
    """
    units = _bare(units)
    slots = _bare(slots)
    servers = _bare(servers)
    nodes = _bare(nodes)
    freed = _bare(freed)
    holder = _bare(holder)
    credits = _bare(credits)
    rows = _bare(rows)
    shapes = _bare(shapes)
    hops = _bare(hops)
    tree = _bare(tree)
    levels = _bare(levels)
    stretches = _bare(stretches)
    order = _bare(order)
    blocks = _bare(blocks)
    deps = _bare(deps)
    issue = _bare(issue)
    end = _bare(end)
    service = _bare(service)
    marks = _bare(marks)
    kept_busy = _bare(kept_busy)
    m = _bare(m)
    m[0].check = 0
    block, t = stretches[units[m[0].anchor].stretch].block, m[0].tick
    if m[0].block != block:
        m[0].block, m[0].size, m[0].window, m[0].rest = block, 0, 2, REST
        _components(units, rows, blocks, deps, marks, block)
    left = blocks[block].base + blocks[block].n_rows * blocks[block].times - units[m[0].anchor].base
    if left < FEWEST * blocks[block].n_rows:
        return
    for s in range(len(slots)):
        if slots[s].event == STREAM:
            _set_event(tree, levels, s, _unfold(slots, servers, freed, holder, shapes, hops, m, s, t + 1))
    size = _picture(
        units,
        slots,
        servers,
        nodes,
        freed,
        holder,
        credits,
        shapes,
        tree,
        stretches,
        blocks,
        marks,
        _bare(pictures[NOW]),
        m,
        t,
    )
    same = size > 0 and size == m[0].size
    for i in range(size):
        same = same and pictures[KEPT, i] == pictures[NOW, i]
    if same:
        times = _times(units, rows, stretches, blocks, marks, m)
        if times > 0:
            _skip(
                units, slots, servers, freed, tree, stretches, order, blocks, issue, end, service, marks, kept_busy, m,
                times,
            )  # fmt: skip
        m[0].size = 0
        return
    m[0].age += 1
    if m[0].size == 0:
        _keep(units, slots, servers, marks, pictures, kept_busy, m, size, t)
    elif size == 0:
        m[0].size = 0
    elif m[0].age == m[0].window:
        m[0].size = 0
        if m[0].window < WINDOW:  # the picture may be from before the steady state: another, for longer
            m[0].window *= 2
        else:
            m[0].pause = m[0].rest
            m[0].rest *= 2


@njit(cache=True, nogil=True)
def _run(
    units, slots, servers, nodes, freed, holder, credits, rows, shape, shapes, hops, tree, levels, lists, stretches,
    order, blocks, deps, takes, gives, stretch, issue, end, service, watched, waits, chain, m,
):  # fmt: skip
    """Simulate to the end, or to a tick in which `_steady` is to be called."""
    units = _bare(units)
    slots = _bare(slots)
    servers = _bare(servers)
    nodes = _bare(nodes)
    freed = _bare(freed)
    holder = _bare(holder)
    credits = _bare(credits)
    rows = _bare(rows)
    shape = _bare(shape)
    shapes = _bare(shapes)
    hops = _bare(hops)
    tree = _bare(tree)
    levels = _bare(levels)
    lists = _bare(lists)
    stretches = _bare(stretches)
    order = _bare(order)
    blocks = _bare(blocks)
    deps = _bare(deps)
    takes = _bare(takes)
    gives = _bare(gives)
    stretch = _bare(stretch)
    issue = _bare(issue)
    end = _bare(end)
    service = _bare(service)
    watched = _bare(watched)
    waits = _bare(waits)
    chain = _bare(chain)
    m = _bare(m)
    root = levels[len(levels) - 1]
    t = tree[root]
    if not m[0].started:
        m[0].started, t = 1, 0
        for unit in range(len(units)):
            _next_stretch(units, stretches, order, blocks, unit)
            _touch(units, lists, m, unit)
    while t != NEVER:
        _end(slots, servers, freed, holder, shapes, hops, tree, levels, lists, m, t)
        while m[0].touched > 0 or m[0].scan_queue or m[0].ending > 0:
            for i in range(m[0].ending):
                _finish(units, slots, credits, rows, gives, lists, end, service, m, lists[ENDED, i], t)
            m[0].ending = 0
            touched = m[0].touched
            _round(units, credits, rows, blocks, deps, takes, lists, end, m, t)
            for i in range(m[0].issuing):
                unit = lists[ISSUING, i]
                _issue(
                    units, slots, rows, shape, shapes, tree, levels, stretches, order, blocks, lists, issue, m, unit, t
                )
            m[0].issuing = 0
            for i in range(touched, m[0].touched):  # what this round touched is for the next
                lists[TOUCHED, i - touched] = lists[TOUCHED, i]
            m[0].touched -= touched
        if m[0].servers > 0 or m[0].asking > 0:
            _grant(
                units, slots, servers, nodes, freed, holder, shapes, hops, tree, levels, lists, stretch, watched, waits,
                chain, m, t,
            )  # fmt: skip
        if m[0].check:
            m[0].tick = t
            return
        t = tree[root]  # rule 4
