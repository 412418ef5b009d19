"""Trace: when every op of a Program ran, and what that says about where the time went.

Nothing is recorded while an engine runs but issue, end and service of each op: an op issues in the very tick in which
its last hindrance vanishes, so what it waited for is found afterwards by equality of integers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cosoc.sim.machine.program import KINDS, Ints, Program, Records, bursts_of, entries_of, op_text, row_of

Bools = npt.NDArray[np.bool_]

# One row a stretch of ticks [start, end) in which a burst waited at the server of its route that was done with it last:
# all ports of `server` were taken, `behind` is the op last granted there.
WAIT = np.dtype([(name, np.int64) for name in ("op", "start", "end", "server", "behind")])


@dataclass(frozen=True)
class Trace:
    """What an engine returns.

    issue, end [n_ops]: ticks. service [n_ops]: ticks in bursts: of each, its hold of the server that was done with it
    last. busy [n_servers]: ticks, sum of holds; a server with several ports can exceed the makespan. makespan: the
    last end, 0 where there are no ops. bursts: how many there were. waits: WAIT records of the ops that the run was
    told to watch, in order of their start. complete: whether they are those of all ops.
    """

    issue: Ints
    end: Ints
    service: Ints
    busy: Ints
    makespan: int
    bursts: int
    waits: Records
    complete: bool = False


# An engine: the trace of a program; the ops given are watched. None: all of them, or none where that takes two runs.
Run = Callable[[Program, Collection[int] | None], Trace]

# What the ticks in which an op runs or moves bytes are called on the critical path, by kind.
_WORK = {"compute": "compute", "weights": "weights", "launch": "setup", "sync": "setup"}

# Why an op did not issue before another ended or issued, in the order in which it is tried.
EDGES = ("wait_dep", "wait_credit", "wait_lane", "wait_order", "wait_turn")
PATH_CAUSES = ("setup", "wait_server", "compute", "weights", "transfer", *EDGES)

# One row a segment of the critical path, as in Segment. cause: index of PATH_CAUSES. credit: which one was waited for
# (wait_credit, wait_turn), -1 else.
PATH = np.dtype([(name, np.int64) for name in ("start", "end", "op", "cause", "server", "behind", "credit")])

_EDGE = np.dtype([(name, np.int64) for name in ("cause", "behind", "credit")])
Edge = tuple[int, int, int]

# A segment before it has its place on the path.
_PART = np.dtype([(name, np.int64) for name in ("visit", "place", "ticks", "cause", "server", "behind", "credit")])


@dataclass(frozen=True)
class Segment:
    """Ticks [start, end) of the critical path, spent in `op`.

    cause: compute, weights, transfer or setup (work); wait_server (it stood at rule 3); or one of the edges below, of
    no length, which say why the op did not issue before what precedes it on the path had ended. detail: in words.
    server: for wait_server, -1 else. behind: the op that was waited for, -1 if none.

    - wait_dep: on a dep. wait_credit: for a credit (a buffer) that `behind` gave back. wait_lane: its unit was busy.
    - wait_order: the op before it on its unit issued in the same tick (and that one's own wait follows).
    - wait_turn: an earlier op that takes the same credit issued in the same tick (and that one's own wait follows).
    """

    start: int
    end: int
    op: int
    cause: str
    detail: str = ""
    server: int = -1
    behind: int = -1


def critical_path(program: Program, trace: Trace, run: Run | None = None) -> tuple[Segment, ...]:
    """`path_records` in words, for programs of some thousand ops: every segment is an object."""
    path = path_records(program, trace, run)
    return tuple(
        Segment(start, end, op, PATH_CAUSES[cause], _detail(program, cause, server, behind, credit), server, behind)
        for start, end, op, cause, server, behind, credit in path.tolist()
    )


def _detail(program: Program, cause: int, server: int, behind: int, credit: int) -> str:
    if behind < 0:
        return ""
    other, name = op_text(program, behind), PATH_CAUSES[cause]
    if name == "wait_server":
        return f"{program.server_names[server]} behind {other}"
    if name in ("wait_credit", "wait_turn"):
        return f"{program.credit_names[credit]} {'from' if name == 'wait_credit' else 'after'} {other}"
    return other


def path_records(program: Program, trace: Trace, run: Run | None = None) -> Records:
    """Where the makespan went: PATH records from tick 0 to the makespan, each beginning where the last one ended.

    Walks back from the op that ended last (the first in program order of those). At the issue t of an op the causes
    are tried in this order: a dep that ended at t (in the order of its list); an op that ended at t and gives a credit
    that it takes; an earlier op of its unit that ended at t; the op before it on its unit, if it issued at t; an op
    that issued at t and takes a credit that it takes; ops in program order throughout. Through ops that begin and end
    at t the search goes on in the same way (depth first), until it meets one that began before t.

    Within an op that moves bytes, waits are put together: after the set-up come the waits, summed per server and op
    behind which it stood, then the bursts. Who stood in the way is in a complete trace, or else comes from a second
    `run` that watches the ops on the path; without either, wait_server segments carry no server. Raises ValueError if
    the trace is not one of this program.
    """
    if not len(trace.end):
        return np.zeros(0, PATH)
    causes = _Causes(program, trace)
    visits, edges = _walk(program, trace, causes)
    # An op met on the way through a tick is no more than its edge: time passes in those that the others waited for.
    issue = trace.issue[visits]
    lasts = np.append(issue[:-1] < issue[1:], True)
    waits = trace.waits if trace.complete or run is None else run(program, visits[lasts].tolist()).waits
    return _segments(program, trace, causes.row, visits, edges, lasts, waits)


def _walk(program: Program, trace: Trace, causes: _Causes) -> tuple[Ints, Records]:
    """The ops met, from the first to issue to the last to end, and the edge by which each waited (the first: none)."""
    issue, behind = trace.issue.tolist(), causes.first["behind"].tolist()
    visits: list[int] = []
    found: dict[int, Edge] = {}  # by visit, where an edge was searched for
    op = int(np.argmax(trace.end))
    while issue[op]:
        other = behind[op]
        if other >= 0 and issue[other] < issue[op]:  # nearly always
            visits.append(op)
            op = other
            continue
        for at, edge in _chain(program, causes, issue, op):
            found[len(visits)] = edge
            visits.append(at)
            op = edge[1]
    visits.append(op)
    edges = causes.first[visits]
    for visit, edge in found.items():
        edges[visit] = edge
    return np.array(visits[::-1], dtype=np.int64), edges[::-1]


def _chain(program: Program, causes: _Causes, issue: list[int], op: int) -> list[tuple[int, Edge]]:
    """Ops and their edges, from `op` back to an op that began before `op` issued and ended then."""
    t = issue[op]
    edges: list[tuple[int, Edge]] = []
    seen = {op}
    stack = [(op, causes.of(op))]
    while stack:
        at, untried = stack[-1]
        edge = next(untried, None)
        if edge is None:
            stack.pop()  # a dead end: go back one edge
            edges = edges[:-1]
            continue
        other = edge[1]
        if other in seen:
            continue
        seen.add(other)
        edges.append((at, edge))
        if issue[other] < t:
            return edges
        stack.append((other, causes.of(other)))
    raise ValueError(f"the trace is not one of program {program.name}: {op_text(program, op)} began at"
                     f" {t}, when nothing that it may wait for had ended")  # fmt: skip


def _segments(
    program: Program, trace: Trace, row: Ints, visits: Ints, edges: Records, lasts: Bools, waits: Records
) -> Records:
    """The edge of each op met and, where `lasts`, its ticks from its issue to its end. row [n_ops]: of each op."""
    setup, run, kind = (program.rows[key][row[visits]] for key in ("setup", "run", "kind"))
    work = trace.service[visits] + run
    waited = trace.end[visits] - trace.issue[visits] - setup - work
    summed = _summed(waits, visits, lasts, program.n_ops)
    known = np.zeros(len(visits), np.int64)
    np.add.at(known, summed["visit"], summed["ticks"])
    wrong = np.flatnonzero(lasts & ((waited < 0) | ((known > 0) & (known != waited))))
    if len(wrong):
        raise ValueError(f"the trace is not one of program {program.name}: {op_text(program, int(visits[wrong[0]]))}")
    work_of = np.array([PATH_CAUSES.index(_WORK.get(kind, "transfer")) for kind in KINDS])
    met = np.flatnonzero(edges["behind"] >= 0)
    parts = [_parts(met, 0, 0, edges["cause"][met], edges["behind"][met], edges["credit"][met]), summed]
    for place, ticks, which, cause in (
        (1, setup, lasts & (setup > 0), np.full(len(visits), PATH_CAUSES.index("setup"))),
        (2, waited, lasts & (waited > 0) & (known == 0), np.full(len(visits), PATH_CAUSES.index("wait_server"))),
        (3, work, lasts & (work > 0), work_of[kind]),
    ):
        parts.append(_parts(np.flatnonzero(which), place, ticks[which], cause[which]))
    found = np.concatenate(parts)
    found = found[np.argsort(4 * found["visit"] + found["place"], kind="stable")]
    path = np.zeros(len(found), PATH)
    path["end"] = np.cumsum(found["ticks"])
    path["start"] = path["end"] - found["ticks"]
    path["op"] = visits[found["visit"]]
    for key in ("cause", "server", "behind", "credit"):
        path[key] = found[key]
    return path


def _parts(
    visit: Ints, place: int, ticks: Ints | int, cause: Ints | int, behind: Ints | int = -1, credit: Ints | int = -1,
    server: Ints | int = -1,
) -> Records:  # fmt: skip
    """Segments of the path, not yet in their place: the 0th to 3rd sort of those of a visit."""
    parts = np.zeros(len(visit), _PART)
    values = (visit, place, ticks, cause, server, behind, credit)
    for key, value in zip(_PART.names or (), values, strict=True):
        parts[key] = value
    return parts


def _summed(waits: Records, visits: Ints, lasts: Bools, n_ops: int) -> Records:
    """The waits as parts, summed by visit, server and op behind which it stood; of a visit, in order of their start."""
    visit_of = np.full(n_ops, -1)
    visit_of[visits[lasts]] = np.flatnonzero(lasts)
    waits = waits[visit_of[waits["op"]] >= 0]
    order = np.lexsort((waits["behind"], waits["server"], visit_of[waits["op"]]))
    visit, waits = visit_of[waits["op"]][order], waits[order]
    first = changes(visit, waits["server"], waits["behind"])
    ticks = np.cumsum(waits["end"] - waits["start"])
    ticks = np.diff(np.append(0, ticks[np.append(first[1:], len(waits)) - 1])) if len(first) else ticks
    cause = PATH_CAUSES.index("wait_server")
    parts = _parts(visit[first], 2, ticks, cause, waits["behind"][first], server=waits["server"][first])
    return parts[np.lexsort((order[first], parts["visit"]))]


def changes(*columns: Ints) -> Ints:
    """Places, ascending, where one of the columns is another than in the place before; the first one is among them."""
    new = np.ones(len(columns[0]), np.bool_)
    new[1:] = np.any([column[1:] != column[:-1] for column in columns], axis=0)
    return np.flatnonzero(new)


@dataclass(frozen=True)
class _Index:
    """Entries, each of a group and of a tick; those of one group and tick in the order in which they were given."""

    keys: Ints  # ascending
    entries: Ints  # in the order of `keys`
    n_ticks: int

    def find(self, group: Ints, tick: Ints, most: int) -> tuple[Ints, Ints]:
        """(which, entry): for each group and tick asked for, ascending, the first `most` of its entries."""
        key = group * self.n_ticks + tick
        low = np.searchsorted(self.keys, key)
        n = np.minimum(np.searchsorted(self.keys, key, side="right") - low, most)
        return np.repeat(np.arange(len(key)), n), self.entries[entries_of(low, n)]


class _Causes:
    """Why each op did not issue earlier; ticks are numbered in it in the order in which they occur.

    first [n_ops]: the edge that is tried first; behind -1 where there is none, or nothing to be explained (tick 0).
    """

    def __init__(self, program: Program, trace: Trace) -> None:
        self.program, self.trace = program, trace
        n_ops = program.n_ops
        ops = np.arange(n_ops)
        self.row = row_of(program, ops)
        self.unit = program.rows["unit"][self.row]
        ticks, number = np.unique(np.concatenate((trace.issue, trace.end)), return_inverse=True)
        self.n_ticks, self.issued, self.ended = len(ticks), number[:n_ops], number[n_ops:]
        self.before = np.full(n_ops, -1)  # the op before each on its unit
        in_turn = np.argsort(self.unit, kind="stable")
        same = self.unit[in_turn[1:]] == self.unit[in_turn[:-1]]
        self.before[in_turn[1:][same]] = in_turn[:-1][same]
        self.ended_on = self.index(self.unit, self.ended)
        self.givers, self.gives = self.amounts("give", ops)
        self.takers, self.takes = self.amounts("take", ops)
        self.given = self.index(self.gives, self.ended[self.givers])
        self.taken = self.index(self.takes, self.issued[self.takers])
        self.first = self.firsts()

    def index(self, group: Ints, tick: Ints) -> _Index:
        key = group * self.n_ticks + tick
        order = np.argsort(key, kind="stable")
        return _Index(key[order], order, self.n_ticks)

    def amounts(self, key: str, ops: Ints) -> tuple[Ints, Ints]:
        """(which, credit) of all that `ops` take or give."""
        array = self.program.takes if key == "take" else self.program.gives
        at, n = (self.program.rows[f"{key}_{part}"][self.row[ops]] for part in ("at", "n"))
        return np.repeat(np.arange(len(ops)), n), array["credit"][entries_of(at, n)]

    def firsts(self) -> Records:
        first = np.zeros(self.program.n_ops, _EDGE)
        first["behind"] = -1
        left = np.flatnonzero(self.trace.issue != 0)
        for cause in EDGES:
            of, behind, credit = self.edges(cause, left, 2)
            at = changes(of)
            ops = left[of[at]]
            first["cause"][ops] = PATH_CAUSES.index(cause)
            first["behind"][ops], first["credit"][ops] = behind[at], credit[at]
            left = np.delete(left, of[at])
        return first

    def of(self, op: int) -> Iterator[Edge]:
        """All that may have kept `op` from issuing earlier, in the order in which it is tried."""
        first: Edge = self.first[op].item()
        if first[1] < 0:
            return
        yield first  # nearly always the only one asked for
        for cause in EDGES:
            _, behind, credit = self.edges(cause, np.array([op]), self.program.n_ops)
            for edge in zip(behind.tolist(), credit.tolist(), strict=True):
                yield PATH_CAUSES.index(cause), *edge

    def edges(self, cause: str, ops: Ints, most: int) -> tuple[Ints, Ints, Ints]:
        """(which of `ops`, what it waited for, credit or -1), in the order in which they are tried.

        most: how many entries of a tick are looked at; the first edge of every op is among those with two (an op does
        not wait for itself).
        """
        if cause in ("wait_credit", "wait_turn"):
            return self.sharing(ops, self.given if cause == "wait_credit" else self.taken, cause, most)
        if cause == "wait_dep":
            at, n = (self.program.rows[key][self.row[ops]] for key in ("dep_at", "dep_n"))
            of = np.repeat(np.arange(len(ops)), n)
            behind = ops[of] - self.program.deps[entries_of(at, n)]
            held = (behind >= 0) & (self.ended[np.maximum(behind, 0)] == self.issued[ops[of]])
        elif cause == "wait_lane":
            of, behind = self.ended_on.find(self.unit[ops], self.issued[ops], most)
            held = behind < ops[of]
        else:
            of, behind = np.arange(len(ops)), self.before[ops]
            held = (behind >= 0) & (self.issued[behind] == self.issued[ops])
        return of[held], behind[held], np.full(int(held.sum()), -1)

    def sharing(self, ops: Ints, index: _Index, cause: str, most: int) -> tuple[Ints, Ints, Ints]:
        """Ops that give or take at the issue of `ops` what these take: each once, with the first such credit."""
        owners, credits = (self.givers, self.gives) if cause == "wait_credit" else (self.takers, self.takes)
        of, wanted = self.amounts("take", ops)
        which, entry = index.find(wanted, self.issued[ops[of]], most)
        of = of[which]
        order = np.lexsort((entry, of))
        of, behind, credit = of[order], owners[entry[order]], credits[entry[order]]
        held = behind != ops[of]
        held[1:] &= (of[1:] != of[:-1]) | (behind[1:] != behind[:-1])
        return of[held], behind[held], credit[held]


def busy_intervals(program: Program, trace: Trace, unit: int) -> Ints:
    """Ticks [n, 2] in which `unit` had an op in flight: disjoint, ascending, touching ones joined."""
    return _busy(trace, np.flatnonzero(program.rows["unit"][row_of(program, np.arange(len(trace.issue)))] == unit))


def _busy(trace: Trace, ops: Ints) -> Ints:
    """`busy_intervals` of a unit with these ops."""
    ops = ops[trace.end[ops] > trace.issue[ops]]
    if not len(ops):
        return np.zeros((0, 2), np.int64)
    start = trace.issue[ops]  # ascending: units are in-order
    reach = np.maximum.accumulate(trace.end[ops])
    first = np.concatenate(([True], start[1:] > reach[:-1]))
    return np.stack([start[first], reach[np.append(np.flatnonzero(first)[1:] - 1, len(ops) - 1)]], axis=1)


@dataclass(frozen=True)
class Occupancy:
    """unit_busy [n_units]: ticks with an op in flight. server_busy [n_servers]: ticks, sum of holds.

    server_utilisation [n_servers]: server_busy over ports x makespan, 0 if nothing ran.
    """

    unit_busy: Ints
    server_busy: Ints
    server_utilisation: np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def occupancy(program: Program, trace: Trace) -> Occupancy:
    """How busy units and servers were."""
    unit = program.rows["unit"][row_of(program, np.arange(len(trace.issue)))]
    units = [int(np.diff(_busy(trace, np.flatnonzero(unit == n))).sum()) for n in range(len(program.units))]
    most = program.servers["ports"] * max(trace.makespan, 1)
    return Occupancy(np.array(units, dtype=np.int64), trace.busy, trace.busy / most)


def held_ticks(program: Program, trace: Trace) -> tuple[Ints, Ints, Ints]:
    """(op, server, ticks) for every server of every op's route, by op: the ticks for which the op held the server.

    They sum to the busy ticks of each server. Exact where its stretch does not vary and no tag matters; else the
    holds of single ops are not recorded, and these are their shares of its busy ticks, by what each would have
    without.
    """
    rows = program.rows
    bursts, full = bursts_of(rows), np.minimum(rows["burst"], rows["bytes"])
    row = np.repeat(np.arange(len(rows)), rows["route_n"])
    at = program.routes[entries_of(rows["route_at"], rows["route_n"])]
    about = program.servers[at]
    alone = program.stretch[about["stretch_at"] + np.minimum(1, about["stretch_n"] - 1)]
    each, last = (
        np.maximum(1, -(-size[row] * about["rate_ticks"] // about["rate_bytes"]) * alone >> 8)
        for size in (full, rows["bytes"] - (bursts - 1) * full)
    )
    mine = (bursts[row] - 1) * each + last
    first = np.cumsum(rows["route_n"]) - rows["route_n"]
    of_op = row_of(program, np.arange(program.n_ops))
    n = rows["route_n"][of_op]
    entry, op = entries_of(first[of_op], n), np.repeat(np.arange(program.n_ops), n)
    server, ticks = at[entry], mine[entry]
    for number, busy in enumerate(trace.busy.tolist()):
        here = np.flatnonzero(server == number)
        whole = np.cumsum(ticks[here])
        if len(here) and whole[-1] != busy:
            ticks[here] = np.diff(np.floor(whole / whole[-1] * busy + 0.5).astype(np.int64), prepend=0)
    return op, server, ticks


# One row a unit, in op-ticks (with several lanes they overlap). setup, run, service: of its ops. wait_server: at rule
# 3. wait_dep: a lane was free for the head, but a dep had not ended. wait_credit: only a credit was missing.
UNIT_TICKS = np.dtype(
    [(name, np.int64) for name in ("setup", "run", "service", "wait_server", "wait_dep", "wait_credit")]
)


def unit_ticks(program: Program, trace: Trace) -> Records:
    """What each unit did and waited for: UNIT_TICKS [n_units].

    On a unit with one lane they sum to the end of its last op: an in-order unit is always in one of these states.
    """
    ops = np.arange(len(trace.issue), dtype=np.int64)
    row = row_of(program, ops)
    rows = program.rows
    unit, setup, run = rows["unit"][row], rows["setup"][row], rows["run"][row]
    lane_free = _lane_free(program, trace, unit)
    owner = np.repeat(ops, rows["dep_n"][row])
    dep = owner - program.deps[entries_of(rows["dep_at"][row], rows["dep_n"][row])]
    asked = lane_free.copy()
    np.maximum.at(asked, owner[dep >= 0], trace.end[dep[dep >= 0]])
    ticks = np.zeros(len(program.units), UNIT_TICKS)
    for key, values in (
        ("setup", setup), ("run", run), ("service", trace.service),
        ("wait_server", trace.end - trace.issue - setup - run - trace.service),
        ("wait_dep", asked - lane_free), ("wait_credit", trace.issue - asked),
    ):  # fmt: skip
        np.add.at(ticks[key], unit, values)
    return ticks


def _lane_free(program: Program, trace: Trace, unit: Ints) -> Ints:
    """When each op was the head of its unit and a lane was free for it: [n_ops]."""
    free = np.zeros(len(unit), np.int64)
    for number, lanes in enumerate(program.units["lanes"].tolist()):
        ops = np.flatnonzero(unit == number)
        latest = nth_largest(trace.end[ops], lanes)  # a lane is free from the least of the `lanes` latest ends on
        free[ops[1:]] = np.maximum(trace.issue[ops[:-1]], latest[:-1])
    return free


def nth_largest(values: Ints, n: int) -> Ints:
    """The n-th largest of each value and those before it, 0 where they are fewer; values are not negative.

    The largest so far is a running maximum. What it leaves to the second largest is, at each place, the smaller of the
    value that is new and the maximum before; and so on.
    """
    left, level = values, values
    for _ in range(n if len(values) else 0):
        level = np.maximum.accumulate(left)
        if not level.any():
            break
        left = np.append(0, np.minimum(left[1:], level[:-1]))
    return level
