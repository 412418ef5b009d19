"""Trace: when every op of a Program ran, and what that says about where the time went.

Nothing is recorded while an engine runs but issue, end and service of each op: an op issues in the very tick in which
its last hindrance vanishes, so what it waited for is found afterwards by equality of integers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from heapq import heappush, heapreplace

import numpy as np

from cosoc.sim.program import KINDS, Ints, Program, Records, entries_of, op_text, row_of

# One row a stretch of ticks [start, end) in which an op stood at rule 3: `server` is the first of its route that was
# full or blocked, `behind` the op last granted there (full), or the earlier op that blocked it.
WAIT = np.dtype([(name, np.int64) for name in ("op", "start", "end", "server", "behind")])


@dataclass(frozen=True)
class Trace:
    """What an engine returns.

    issue, end [n_ops]: ticks. service [n_ops]: ticks in bursts (sum of holds). busy [n_servers]: ticks, sum of holds;
    a server with several ports can exceed the makespan. makespan: the last end, 0 where there are no ops. bursts:
    grants. waits: WAIT records of the ops that the run was told to watch, in order of their start.
    """

    issue: Ints
    end: Ints
    service: Ints
    busy: Ints
    makespan: int
    bursts: int
    waits: Records


# An engine: the trace of a program; the ops given are watched.
Run = Callable[[Program, Collection[int]], Trace]

# What the ticks in which an op runs or moves bytes are called on the critical path, by kind.
_WORK = {"compute": "compute", "weights": "weights", "launch": "setup", "sync": "setup"}


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
    """Where the makespan went: segments from tick 0 to the makespan, each beginning where the last one ended.

    Walks back from the op that ended last (the first in program order of those). At the issue t of an op the causes
    are tried in this order: a dep that ended at t (in the order of its list); an op that ended at t and gives a credit
    that it takes; an earlier op of its unit that ended at t; the op before it on its unit, if it issued at t; an op
    that issued at t and takes a credit that it takes; ops in program order throughout. Through ops that begin and end
    at t the search goes on in the same way (depth first), until it meets one that began before t.

    Within an op that moves bytes, waits are put together: after the set-up come the waits, summed per server and op
    behind which it stood, then the bursts. Who stood in the way comes from a second `run` that watches the ops
    on the path; without `run`, wait_server segments carry no server. Raises ValueError if the trace is not one of
    this program.
    """
    walk = _Walk(program, trace)
    path = walk.path()
    watched = run(program, [op for op, _ in path]).waits if run is not None else trace.waits[:0]
    by_op: dict[int, dict[tuple[int, int], int]] = {}
    for op, start, end, server, behind in watched.tolist():
        sums = by_op.setdefault(op, {})
        sums[server, behind] = sums.get((server, behind), 0) + end - start
    segments: list[Segment] = []
    for op, edges in path:
        segments += edges
        segments += _segments(program, trace, op, int(walk.row[op]), by_op.get(op, {}))
    return tuple(segments)


def _segments(program: Program, trace: Trace, op: int, at: int, waits: dict[tuple[int, int], int]) -> list[Segment]:
    """The ticks of one op, an instance of row `at`, from its issue to its end."""
    row = program.rows[at]
    service = int(trace.service[op])
    setup, run = int(row["setup"]), int(row["run"])
    waited = int(trace.end[op] - trace.issue[op]) - setup - run - service
    if waited < 0 or (waits and sum(waits.values()) != waited):
        raise ValueError(f"the trace is not one of program {program.name}: {op_text(program, op)}")
    parts = [(setup, "setup", "", -1, -1)]
    for (server, behind), ticks in waits.items():
        detail = f"{program.server_names[server]} behind {op_text(program, behind)}"
        parts.append((ticks, "wait_server", detail, server, behind))
    if not waits:
        parts.append((waited, "wait_server", "", -1, -1))
    parts.append((service + run, _WORK.get(KINDS[row["kind"]], "transfer"), "", -1, -1))
    segments, start = [], int(trace.issue[op])
    for ticks, cause, detail, server, behind in parts:
        if ticks:
            segments.append(Segment(start, start + ticks, op, cause, detail, server, behind))
            start += ticks
    return segments


class _Walk:
    """Finds the ops of the critical path."""

    def __init__(self, program: Program, trace: Trace) -> None:
        self.program, self.trace = program, trace
        self.row = row_of(program, np.arange(program.n_ops))  # at once: asked for op by op it takes most of the time
        self.by_end = np.argsort(trace.end, kind="stable")
        self.by_issue = np.argsort(trace.issue, kind="stable")
        self.ends, self.issues = trace.end[self.by_end], trace.issue[self.by_issue]

    def path(self) -> list[tuple[int, list[Segment]]]:
        """The ops from the first to the last to end; with each, the edges by which it waited for the one before."""
        if not len(self.ends):
            return []
        op = int(np.argmax(self.trace.end))
        path: list[tuple[int, list[Segment]]] = []
        while True:
            edges = self.chain(op)
            path.append((op, edges[::-1]))
            if not edges or edges[-1].behind < 0:
                break
            op = edges[-1].behind
        return path[::-1]

    def chain(self, op: int) -> list[Segment]:
        """Edges from `op` back to an op that began before `op` issued and ended then; [] if it issued at tick 0."""
        t = int(self.trace.issue[op])
        if t == 0:
            return []
        edges: list[Segment] = []
        seen = {op}
        stack = [self.causes(op, t)]
        while stack:
            if not stack[-1]:
                stack.pop()  # a dead end: go back one edge
                edges = edges[:-1]
                continue
            edge = stack[-1].pop(0)
            if edge.behind in seen:
                continue
            seen.add(edge.behind)
            edges.append(edge)
            if self.trace.issue[edge.behind] < t:
                return edges
            stack.append(self.causes(edge.behind, t))
        raise ValueError(f"the trace is not one of program {self.program.name}: {op_text(self.program, op)} began at"
                         f" {t}, when nothing that it may wait for had ended")  # fmt: skip

    def causes(self, op: int, t: int) -> list[Segment]:
        """All that may have kept `op` from issuing before t, in the order in which it is tried."""
        program = self.program
        row = program.rows[self.row[op]]
        found: list[tuple[str, str, int]] = []
        for distance in program.deps[row["dep_at"] : row["dep_at"] + row["dep_n"]].tolist():
            if distance <= op and self.trace.end[op - distance] == t:
                found.append(("wait_dep", op_text(program, op - distance), op - distance))
        ended = self.at(self.by_end, self.ends, t, op)
        issued = self.at(self.by_issue, self.issues, t, op)
        takes = program.takes["credit"][row["take_at"] : row["take_at"] + row["take_n"]].tolist()
        for other, credit in self.sharing(ended, "give", takes) if takes else ():
            found.append(("wait_credit", f"{program.credit_names[credit]} from {op_text(program, other)}", other))
        found += [("wait_lane", op_text(program, other), other) for other in self.before(ended, row["unit"], op)]
        found += [("wait_order", op_text(program, other), other) for other in self.before(issued, row["unit"], op)[-1:]]
        for other, credit in self.sharing(issued, "take", takes) if takes else ():
            found.append(("wait_turn", f"{program.credit_names[credit]} after {op_text(program, other)}", other))
        return [Segment(t, t, op, cause, detail, behind=other) for cause, detail, other in found]

    def at(self, order: Ints, ticks: Ints, t: int, op: int) -> Ints:
        """The ops whose tick is t, without `op`, in program order."""
        low, high = np.searchsorted(ticks, (t, t + 1))
        ops = [other for other in order[low:high].tolist() if other != op]
        return np.array(ops, dtype=np.int64)

    def before(self, ops: Ints, unit: int, op: int) -> list[int]:
        """Those of `ops` that precede `op` on `unit`."""
        ops = ops[ops < op]
        return [int(other) for other in ops[self.program.rows["unit"][self.row[ops]] == unit]]

    def sharing(self, ops: Ints, key: str, credits: list[int]) -> list[tuple[int, int]]:
        """Those of `ops` that take or give one of `credits`, and the first such credit of each."""
        array = self.program.takes if key == "take" else self.program.gives
        rows = self.program.rows[self.row[ops]]
        found = []
        for op, at, n in zip(ops.tolist(), rows[f"{key}_at"].tolist(), rows[f"{key}_n"].tolist(), strict=True):
            shared = [credit for credit in array["credit"][at : at + n].tolist() if credit in credits]
            found += [(op, credit) for credit in shared[:1]]
        return found


def busy_intervals(program: Program, trace: Trace, unit: int) -> Ints:
    """Ticks [n, 2] in which `unit` had an op in flight: disjoint, ascending, touching ones joined."""
    ops = np.flatnonzero(program.rows["unit"][row_of(program, np.arange(len(trace.issue)))] == unit)
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

    server_utilisation [n_servers]: server_busy over ports x makespan (ports = 0 counts as one), 0 if nothing ran.
    """

    unit_busy: Ints
    server_busy: Ints
    server_utilisation: np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def occupancy(program: Program, trace: Trace) -> Occupancy:
    """How busy units and servers were."""
    units = [int(np.diff(busy_intervals(program, trace, unit)).sum()) for unit in range(len(program.units))]
    most = np.maximum(program.servers["ports"], 1) * max(trace.makespan, 1)
    return Occupancy(np.array(units, dtype=np.int64), trace.busy, trace.busy / most)


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
        if lanes == 1:
            free[ops[1:]] = trace.end[ops[:-1]]
            continue
        latest: list[int] = []  # the `lanes` latest ends so far: a lane is free from the least of them on
        head = 0
        for op, end, issue in zip(ops.tolist(), trace.end[ops].tolist(), trace.issue[ops].tolist(), strict=True):
            free[op] = max(head, latest[0] if len(latest) == lanes else 0)
            head = issue
            if len(latest) < lanes:
                heappush(latest, end)
            elif end > latest[0]:
                heapreplace(latest, end)
    return free
