"""The fast engine: the four rules of `program` in numba, with the same integers as `engine_reference`.

What lives where: a *slot* is one lane of one unit and holds the op in flight there; each slot has at most one pending
event, in a tree of minima. Rows are prepared once (ticks per burst, masks of servers); loops stay loops. A tick costs
work only for what changed in it: slots whose event fell due, units that were *touched* (a lane freed, the head moved,
the head's last dep ended), the heads queued for credits if a credit was given, and the waiting list if a server was
freed or asked for.
"""

# mypy: disable-error-code="no-untyped-def, call-arg, no-untyped-call, misc"
# (the kernel is typed by numba)

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import numpy as np
from numba import njit
from numba.core import cgutils
from numba.extending import intrinsic

from cosoc.sim.program import Ints, Program, Records, bases, bursts_of, deadlock
from cosoc.sim.trace import WAIT, Trace

NEVER = 1 << 62
WORD = 63  # servers per mask word: int64 without its sign
FAN = 8  # children of a node in the tree of event times; a power of two

# What the event of a slot means; and how far the head of a unit has come.
SETUP, BURST, FINISH = 0, 1, 2
UNSEEN, WATCHING, QUEUED, NONE = 0, 1, 2, 3


def _record(*names: str) -> np.dtype[np.void]:
    return np.dtype([(name, np.int64) for name in names])


# A row, prepared. mask_at: its first word in `masks`; hold, last: ticks of a full and of the last burst if no server
# of its route depends on the occupancy or on tags, else hold = -1.
_ROW = _record(
    "unit", "setup", "run", "bursts", "tag", "hold", "last", "mask_at",
    "hop_at", "hop_n", "dep_at", "dep_n", "take_at", "take_n", "give_at", "give_n",
)  # fmt: skip
# A server on a row's route; full, last: ticks there for a full and for the last burst, not yet stretched if the
# server's stretch varies with the occupancy.
_HOP = _record("server", "full", "last")
# A block, and the number of its first op.
_BLOCK = _record("base", "first_row", "n_rows", "times")
# The rows of one unit in one block: order[at : at + n].
_STRETCH = _record("at", "n", "block")
# rank: of its priority; head, row: the next op to issue; at: its place in `order`; base: number of the first op of its
# iteration; stretch .. last: the stretches to come. watched: op that the head watches; watcher: first unit that
# watches an op of this one; next: the next of those.
_UNIT = _record(
    "rank", "free_slot", "state", "asked", "touched", "head", "row", "at", "base", "stretch", "last",
    "watched", "watcher", "next",
)  # fmt: skip
# key, tie: order of the waiting list. left: bursts. since, server, behind: open wait of a watched op, since -1: none.
_SLOT = _record(
    "unit", "op", "row", "event", "left", "key", "tie", "service", "next_free", "since", "server", "behind"
)  # fmt: skip
# stretch_n 0: the stretch does not vary.
_SERVER = _record("ports", "held", "word", "bit", "switch", "tag", "busy", "last_op", "stretch_at", "stretch_n")
_CREDIT = _record("free", "blocked")
# The mutable scalars: lengths of the lists, flags of the tick, counts.
_STATE = _record(
    "touched", "queued", "waiting", "ending", "asking", "issuing", "scan_queue", "scan_waiting", "round", "ended",
    "bursts", "waits",
)  # fmt: skip
# Rows of the array `lists`: of units, units, slots, slots, units, slots, slots.
TOUCHED, QUEUE, WAITING, GRANTED, ISSUING, ENDED, ASKED = range(7)


def run(program: Program, watch: Collection[int] = ()) -> Trace:
    """Simulate `program`; `watch` names ops whose waits are recorded. Raises Deadlock."""
    watched = np.zeros(program.n_ops if len(watch) else 0, np.bool_)
    watched[np.fromiter(watch, np.int64, len(watch))] = True
    trace, n_waits = _simulate(program, watched, 8 * len(watch))
    if n_waits > len(trace.waits):  # they did not fit: the same again, with room for all
        trace, n_waits = _simulate(program, watched, n_waits)
    waits = trace.waits[np.lexsort((trace.waits["op"], trace.waits["start"]))]
    return replace(trace, waits=waits)


def _simulate(program: Program, watched: Any, room: int) -> tuple[Trace, int]:
    """Run the kernel; the trace has the first `room` waits, unsorted, and beside it how many there were."""
    n_ops = program.n_ops
    issue, end, service = np.full(n_ops, -1), np.full(n_ops, -1), np.zeros(n_ops, np.int64)
    blocks = _prepare_blocks(program)
    units, slots, stretches, order = _prepare_units(program)
    servers, varies = _prepare_servers(program)
    rows, hops, masks = _prepare_rows(program, servers, varies)
    credits = np.zeros(len(program.credits), _CREDIT)
    credits["free"] = program.credits["capacity"]
    tree, levels = _tree(len(slots))
    lists = np.zeros((7, 2 * len(units) + len(slots)), np.int64)
    words = np.zeros((2, masks.shape[1]), np.int64)
    state, waits = np.zeros(1, _STATE), np.zeros(room, WAIT)
    _run(
        units, slots, servers, credits, rows, hops, masks, words, tree, levels, lists, stretches, order,
        blocks, _own(program.deps), _own(program.takes), _own(program.gives), _own(program.stretch),
        issue, end, service, watched, waits, state,
    )  # fmt: skip
    if state["ended"][0] < n_ops:
        raise deadlock(program, issue, end, np.where(units["state"] == QUEUED, units["asked"], -1))
    n_waits = int(state["waits"][0])
    makespan, bursts = int(end.max(initial=0)), int(state["bursts"][0])
    return Trace(issue, end, service, servers["busy"].copy(), makespan, bursts, waits[:n_waits]), n_waits


# ---------------------------------------------------------------------------------------------------------------------
# Preparation, in numpy


def _own(array: Any) -> Any:
    """A copy that is writable, contiguous and of the type that the kernel is compiled for, whatever `array` is."""
    return np.array(array, dtype=array.dtype if array.dtype.names else np.int64)


def _prepare_blocks(program: Program) -> Records:
    blocks = np.zeros(len(program.blocks), _BLOCK)
    for key in ("first_row", "n_rows", "times"):
        blocks[key] = program.blocks[key]
    blocks["base"] = bases(program)[:-1]
    return blocks


def _prepare_units(program: Program) -> tuple[Records, Records, Records, Ints]:
    """Units at their first op, their slots, and which rows each unit runs through: stretches, order."""
    n_rows = program.blocks["n_rows"]
    block = np.repeat(np.arange(len(n_rows)), n_rows)
    row = np.arange(int(n_rows.sum())) + np.repeat(program.blocks["first_row"] - (np.cumsum(n_rows) - n_rows), n_rows)
    unit = program.rows["unit"][row]
    by_unit = np.lexsort((block, unit))  # stable, so rows stay in order
    order, unit, block = row[by_unit], unit[by_unit], block[by_unit]
    starts = np.flatnonzero(np.diff(unit, prepend=-1) | np.diff(block, prepend=-1))
    stretches = np.zeros(len(starts), _STRETCH)
    stretches["at"], stretches["block"] = starts, block[starts]
    stretches["n"] = np.diff(starts, append=len(order))

    units = np.zeros(len(program.units), _UNIT)
    units["rank"] = np.unique(program.units["priority"], return_inverse=True)[1]
    of_unit = np.arange(len(units))
    units["stretch"] = np.searchsorted(unit[starts], of_unit, side="left") - 1
    units["last"] = np.searchsorted(unit[starts], of_unit, side="right") - 1
    n_ops = np.bincount(unit, weights=program.blocks["times"][block], minlength=len(units)).astype(np.int64)
    n_slots = np.minimum(program.units["lanes"], n_ops)
    slots = np.zeros(int(n_slots.sum()), _SLOT)
    slots["unit"] = np.repeat(of_unit, n_slots)
    slots["next_free"] = np.arange(1, len(slots) + 1)
    last_slot = np.cumsum(n_slots)
    slots["next_free"][last_slot[n_slots > 0] - 1] = -1
    units["free_slot"] = np.where(n_slots > 0, last_slot - n_slots, -1)
    units["watcher"] = -1
    return units, slots, stretches, order.astype(np.int64)


def _prepare_servers(program: Program) -> tuple[Records, np.ndarray[Any, np.dtype[np.bool_]]]:
    """Servers, and whether the stretch of each varies with its occupancy."""
    servers = np.zeros(len(program.servers), _SERVER)
    for key in ("ports", "switch", "stretch_at", "stretch_n"):
        servers[key] = program.servers[key]
    index = np.arange(len(servers))
    servers["word"] = index // WORD
    servers["bit"] = np.where(servers["ports"] > 0, np.int64(1) << (index % WORD), 0)
    servers["tag"] = servers["last_op"] = -1
    tables = [program.stretch[s["stretch_at"] : s["stretch_at"] + s["stretch_n"]] for s in servers]
    varies = np.array([len(t) > 1 and bool((t[1:] != t[1]).any()) for t in tables], np.bool_)
    return servers, varies


def _prepare_rows(program: Program, servers: Records, varies: Any) -> tuple[Records, Records, Ints]:
    """Rows; the servers on their routes with ticks per burst; and their masks, [n_rows, n_words]."""
    given = program.rows
    rows = np.zeros(len(given), _ROW)
    for key in ("unit", "setup", "run", "tag", "dep_at", "dep_n", "take_at", "take_n", "give_at", "give_n"):
        rows[key] = given[key]
    rows["bursts"] = bursts_of(given)
    n = given["route_n"]
    rows["hop_n"], rows["hop_at"] = n, np.cumsum(n) - n
    row = np.repeat(np.arange(len(rows)), n)
    server = program.routes[np.arange(len(row)) + np.repeat(given["route_at"] - rows["hop_at"], n)]
    hops = np.zeros(len(row), _HOP)
    hops["server"] = server
    # Where the stretch is the same at every occupancy, it is applied here once.
    flat = program.stretch[servers["stretch_at"] + np.minimum(1, servers["stretch_n"] - 1)][server]
    full = np.minimum(given["burst"], given["bytes"])
    last = given["bytes"] - (rows["bursts"] - 1) * full
    for key, size in (("full", full), ("last", last)):
        figures = program.servers[server]
        ticks = -(-size[row] * figures["rate_ticks"] // figures["rate_bytes"])
        hops[key] = np.where(varies[server], ticks, ticks * flat >> 8)
    rows["hold"], rows["last"] = 1, 1
    np.maximum.at(rows["hold"], row, hops["full"])
    np.maximum.at(rows["last"], row, hops["last"])
    rows["hold"][row[varies[server] | ((rows["tag"][row] >= 0) & (servers["switch"][server] > 0))]] = -1
    servers["stretch_n"][~varies] = 0

    n_words = max(1, -(-len(servers) // WORD))
    masks = np.zeros((len(rows), n_words), np.int64)
    np.bitwise_or.at(masks, (row, servers["word"][server]), servers["bit"][server])
    return rows, hops, masks


def _tree(n_slots: int) -> tuple[Ints, Ints]:
    """An implicit tree of minima over the slots, all NEVER, and where each of its levels begins (the root last)."""
    sizes = [max(n_slots, 1)]
    while sizes[-1] > 1:
        sizes.append(-(-sizes[-1] // FAN))
    padded = [-(-size // FAN) * FAN for size in sizes[:-1]] + [1]
    return np.full(sum(padded), NEVER), np.cumsum([0, *padded[:-1]]).astype(np.int64)


# ---------------------------------------------------------------------------------------------------------------------
# The kernel. Every helper but the rare two is inlined, and no array in it is reference counted (see `_bare`): an atomic
# count per array and call would cost several times what the rules do.


@njit(forceinline=True)
def _set_event(tree, levels, slot, t):
    """The next event of `slot` is at t (NEVER: none)."""
    i = slot
    tree[i] = t
    for level in range(len(levels) - 1):
        first = levels[level] + (i & ~(FAN - 1))
        least = tree[first]
        for child in range(first + 1, first + FAN):
            least = min(least, tree[child])
        i //= FAN
        node = levels[level + 1] + i
        if tree[node] == least:
            return
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
def _next_head(units, stretches, order, blocks, unit):
    """Move the head of `unit` on by one op."""
    stretch = units[unit].stretch
    block = stretches[stretch].block
    n_rows = blocks[block].n_rows
    if units[unit].at + 1 < stretches[stretch].at + stretches[stretch].n:
        units[unit].at += 1
    elif units[unit].base + n_rows < blocks[block].base + n_rows * blocks[block].times:
        units[unit].at = stretches[stretch].at
        units[unit].base += n_rows
    else:
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
def _wait(units, slots, lists, m, s, t):
    """The op in slot `s` asked at t: put it into the waiting list, which is in order."""
    unit = slots[s].unit
    key = (units[unit].rank << 50) | t
    tie = (unit << 50) | slots[s].op
    slots[s].key = key
    slots[s].tie = tie
    i = m[0].waiting
    while i > 0:
        other = lists[WAITING, i - 1]
        if slots[other].key < key or (slots[other].key == key and slots[other].tie < tie):
            break
        lists[WAITING, i] = other
        i -= 1
    lists[WAITING, i] = s
    m[0].waiting += 1


@njit(forceinline=True)
def _finish(units, slots, credits, rows, gives, lists, end, service, m, s, t):
    """The op in slot `s` ends: rule 1."""
    op, unit = slots[s].op, slots[s].unit
    end[op] = t
    service[op] = slots[s].service
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
def _end(slots, servers, rows, hops, words, tree, levels, lists, m, t):
    """Rule 1, but for what the end of an op brings about: that is `_finish`, for those listed in ENDED here."""
    root = levels[len(levels) - 1]
    while tree[root] == t:
        s = _due(tree, levels, t)
        _set_event(tree, levels, s, NEVER)
        if slots[s].event == BURST:
            row = slots[s].row
            for i in range(rows[row].hop_at, rows[row].hop_at + rows[row].hop_n):
                server = hops[i].server
                servers[server].held -= 1
                words[0, servers[server].word] &= ~servers[server].bit
            slots[s].left -= 1
            m[0].scan_waiting = 1
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
def _issue(units, slots, rows, tree, levels, stretches, order, blocks, lists, issue, m, unit, t):
    """The head of `unit` issues: into a slot, with its first event."""
    s = units[unit].free_slot
    units[unit].free_slot = slots[s].next_free
    op, row = units[unit].head, units[unit].row
    slots[s].op = op
    slots[s].row = row
    slots[s].left = rows[row].bursts
    slots[s].service = 0
    slots[s].since = -1
    issue[op] = t
    delay = rows[row].setup + rows[row].run
    if delay > 0:
        slots[s].event = SETUP if slots[s].left > 0 else FINISH
        _set_event(tree, levels, s, t + delay)
    elif slots[s].left > 0:
        lists[ASKED, m[0].asking] = s
        m[0].asking += 1
    else:
        lists[ENDED, m[0].ending] = s
        m[0].ending += 1
    _next_head(units, stretches, order, blocks, unit)
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


@njit(forceinline=True)
def _hold(slots, servers, rows, hops, stretch, s):
    """Ticks that the burst granted to slot `s` holds its route; sets the tags."""
    row, last = slots[s].row, slots[s].left == 1
    hold = rows[row].hold
    if hold >= 0:
        return rows[row].last if last else hold
    hold, tag = 1, rows[row].tag
    for i in range(rows[row].hop_at, rows[row].hop_at + rows[row].hop_n):
        server = hops[i].server
        ticks = hops[i].last if last else hops[i].full
        if servers[server].stretch_n:
            entry = min(servers[server].held, servers[server].stretch_n - 1)
            ticks = ticks * stretch[servers[server].stretch_at + entry] >> 8
        if tag >= 0:
            if servers[server].tag != tag:
                ticks += servers[server].switch
            servers[server].tag = tag
        hold = max(hold, ticks)
    return hold


@njit(forceinline=True)
def _blocked(masks, words, row):
    """Whether a server of the row's route is full or blocked; if not, nothing changes, else its route is blocked."""
    hit = False
    for word in range(masks.shape[1]):
        hit |= masks[row, word] & (words[0, word] | words[1, word]) != 0
    if hit:
        for word in range(masks.shape[1]):
            words[1, word] |= masks[row, word]
    return hit


@njit(forceinline=True)
def _take_ports(slots, servers, rows, hops, words, s):
    row = slots[s].row
    for i in range(rows[row].hop_at, rows[row].hop_at + rows[row].hop_n):
        server = hops[i].server
        servers[server].held += 1
        servers[server].last_op = slots[s].op
        if servers[server].held == servers[server].ports:
            words[0, servers[server].word] |= servers[server].bit


@njit
def _note(slots, waits, m, s, t, server, behind):
    """Record what the watched op in slot `s` stands behind from t on (server -1: nothing)."""
    if slots[s].since >= 0:
        if slots[s].server == server and slots[s].behind == behind:
            return
        n = m[0].waits
        if n < len(waits):
            waits[n].op = slots[s].op
            waits[n].start = slots[s].since
            waits[n].end = t
            waits[n].server = slots[s].server
            waits[n].behind = slots[s].behind
        m[0].waits += 1
    slots[s].since = t if server >= 0 else -1
    slots[s].server = server
    slots[s].behind = behind


@njit
def _bar(slots, servers, rows, hops, words, lists, m, kept, s):
    """(server, op): the first server of the route of `s` that is full or blocked, and behind whom.

    To be called before the route of `s` itself is blocked; `kept` waiters before it block theirs.
    """
    row = slots[s].row
    for i in range(rows[row].hop_at, rows[row].hop_at + rows[row].hop_n):
        server = hops[i].server
        bit = servers[server].bit
        if words[0, servers[server].word] & bit:
            return server, servers[server].last_op
        if words[1, servers[server].word] & bit:
            for j in range(kept):
                other = lists[WAITING, j]
                for k in range(
                    rows[slots[other].row].hop_at, rows[slots[other].row].hop_at + rows[slots[other].row].hop_n
                ):
                    if hops[k].server == server:
                        return server, slots[other].op
    return -1, -1


@njit(forceinline=True)
def _grant(units, slots, servers, rows, hops, masks, words, tree, levels, lists, stretch, watched, waits, m, t):
    """Rule 3."""
    for i in range(m[0].asking):
        _wait(units, slots, lists, m, lists[ASKED, i], t)
    m[0].asking = 0
    for word in range(words.shape[1]):
        words[1, word] = 0
    kept = granted = 0
    for i in range(m[0].waiting):
        s = lists[WAITING, i]
        watch = len(watched) > 0 and watched[slots[s].op]
        server = behind = -1
        if watch:
            server, behind = _bar(slots, servers, rows, hops, words, lists, m, kept, s)
        if _blocked(masks, words, slots[s].row):
            lists[WAITING, kept] = s
            kept += 1
        else:
            _take_ports(slots, servers, rows, hops, words, s)
            lists[GRANTED, granted] = s
            granted += 1
        if watch:
            _note(slots, waits, m, s, t, server, behind)
    m[0].waiting = kept
    m[0].bursts += granted
    m[0].scan_waiting = 0
    for i in range(granted):
        s = lists[GRANTED, i]
        hold = _hold(slots, servers, rows, hops, stretch, s)
        slots[s].service += hold
        row = slots[s].row
        for j in range(rows[row].hop_at, rows[row].hop_at + rows[row].hop_n):
            servers[hops[j].server].busy += hold
        slots[s].event = BURST
        _set_event(tree, levels, s, t + hold)


@njit(forceinline=True)
def _ticks(
    units, slots, servers, credits, rows, hops, masks, words, tree, levels, lists, stretches, order,
    blocks, deps, takes, gives, stretch, issue, end, service, watched, waits, m,
):  # fmt: skip
    for unit in range(len(units)):
        _next_stretch(units, stretches, order, blocks, unit)
        _touch(units, lists, m, unit)
    t, root = 0, levels[len(levels) - 1]
    while t != NEVER:
        _end(slots, servers, rows, hops, words, tree, levels, lists, m, t)
        while m[0].touched > 0 or m[0].scan_queue or m[0].ending > 0:
            for i in range(m[0].ending):
                _finish(units, slots, credits, rows, gives, lists, end, service, m, lists[ENDED, i], t)
            m[0].ending = 0
            touched = m[0].touched
            _round(units, credits, rows, blocks, deps, takes, lists, end, m, t)
            for i in range(m[0].issuing):
                unit = lists[ISSUING, i]
                _issue(units, slots, rows, tree, levels, stretches, order, blocks, lists, issue, m, unit, t)
            m[0].issuing = 0
            for i in range(touched, m[0].touched):  # what this round touched is for the next
                lists[TOUCHED, i - touched] = lists[TOUCHED, i]
            m[0].touched -= touched
        if m[0].scan_waiting or m[0].asking > 0:
            _grant(units, slots, servers, rows, hops, masks, words, tree, levels, lists, stretch, watched, waits, m, t)
        t = tree[root]  # rule 4


@intrinsic
def _bare(_typing: Any, array: Any) -> Any:
    """The same array without an owner: numba then counts no references to it, which took three quarters of the time.

    Sound because the caller of `_run` holds all arrays while it runs.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        bare = context.make_array(signature.args[0])(context, builder, value=args[0])
        bare.meminfo = cgutils.get_null_value(bare.meminfo.type)
        bare.parent = cgutils.get_null_value(bare.parent.type)
        return bare._getvalue()

    return array(array), codegen


@njit(cache=True)
def _run(
    units, slots, servers, credits, rows, hops, masks, words, tree, levels, lists, stretches, order, blocks, deps,
    takes, gives, stretch, issue, end, service, watched, waits, m,
):  # fmt: skip
    _ticks(
        _bare(units), _bare(slots), _bare(servers), _bare(credits), _bare(rows), _bare(hops), _bare(masks),
        _bare(words), _bare(tree), _bare(levels), _bare(lists), _bare(stretches), _bare(order), _bare(blocks),
        _bare(deps), _bare(takes), _bare(gives), _bare(stretch), _bare(issue), _bare(end), _bare(service),
        _bare(watched), _bare(waits), _bare(m),
    )  # fmt: skip
