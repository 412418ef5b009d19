"""Critical path and summaries of a trace: that they add up, and that they name the right cause."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from cosoc.sim.errors import Deadlock
from cosoc.sim.machine import engine_fast, engine_reference
from cosoc.sim.machine.program import KINDS, Builder, Program, row_of, unroll
from cosoc.sim.machine.trace import (
    PATH_CAUSES,
    Segment,
    Trace,
    _Causes,
    busy_intervals,
    critical_path,
    nth_largest,
    occupancy,
    unit_ticks,
)

Programs = Callable[..., Program]


def random_traces(random_program: Programs, n: int) -> list[tuple[int, Program, Trace]]:
    """(seed, program, trace) of the random programs that do not lock up."""
    found = []
    for seed in range(n):
        program = random_program(seed)
        try:
            found.append((seed, program, engine_fast.run(program)))
        except Deadlock:
            continue
    return found


def told(path: tuple[Segment, ...]) -> list[tuple[int, int, int, str]]:
    return [(s.start, s.end, s.op, s.cause) for s in path]


# -- critical path -----------------------------------------------------------------------------------------------------


def plain_causes(program: Program, trace: Trace, op: int) -> list[tuple[str, int, int]]:
    """(cause, op waited for, credit) of one op of an unrolled program, in the order of `path_records`; looks at all."""
    rows, issue, end = program.rows, trace.issue.tolist(), trace.end.tolist()
    t = issue[op]

    def credits(key: str, of: int) -> list[int]:
        at, n = rows[f"{key}_at"][of], rows[f"{key}_n"][of]
        found: list[int] = getattr(program, f"{key}s")["credit"][at : at + n].tolist()
        return found

    def sharing(key: str, others: list[int]) -> list[tuple[int, int]]:
        shared = [(o, [c for c in credits(key, o) if c in credits("take", op)]) for o in others]
        return [(o, mine[0]) for o, mine in shared if mine]

    deps = program.deps[rows["dep_at"][op] : rows["dep_at"][op] + rows["dep_n"][op]].tolist()
    ended = [o for o in range(len(rows)) if o != op and end[o] == t]
    issued = [o for o in range(len(rows)) if o != op and issue[o] == t]
    before = [o for o in range(op) if rows["unit"][o] == rows["unit"][op]]
    return [
        *(("wait_dep", op - d, -1) for d in deps if d <= op and end[op - d] == t),
        *(("wait_credit", o, credit) for o, credit in sharing("give", ended)),
        *(("wait_lane", o, -1) for o in before if o in ended),
        *(("wait_order", o, -1) for o in before[-1:] if o in issued),
        *(("wait_turn", o, credit) for o, credit in sharing("take", issued)),
    ]


Step = tuple[str, int, int, int]  # cause, the op that waited, the op waited for, credit


def plain_chain(program: Program, trace: Trace, op: int, seen: set[int]) -> list[Step] | None:
    """Steps back from `op` to an op that began before it issued, depth first; None if there are none."""
    for cause, other, credit in plain_causes(program, trace, op):
        if other not in seen:
            seen.add(other)
            more = [] if trace.issue[other] < trace.issue[op] else plain_chain(program, trace, other, seen)
            if more is not None:
                return [(cause, op, other, credit), *more]
    return None


def plain_path(program: Program, trace: Trace) -> list[Segment]:
    """The critical path op by op, with the ticks of each from the waits of a run that watches all ops; no details."""
    flat, path = unroll(program), list[Segment]()
    if not program.n_ops:
        return path
    waits = engine_fast.run(program, range(program.n_ops)).waits.tolist()
    op: int | None = trace.end.tolist().index(max(trace.end))
    while op is not None:
        row, at, end = flat.rows[op], int(trace.issue[op]), int(trace.end[op])
        held: dict[tuple[int, int], int] = {}
        for _, start, stop, server, behind in (wait for wait in waits if wait[0] == op):
            held[server, behind] = held.get((server, behind), 0) + stop - start
        work = {"compute": "compute", "weights": "weights", "launch": "setup", "sync": "setup"}
        ticks = [("setup", -1, -1, int(row["setup"])), *(("wait_server", *who, n) for who, n in held.items())]
        ticks.append((work.get(KINDS[row["kind"]], "transfer"), -1, -1, end - at - sum(n for *_, n in ticks)))
        own, start = list[Segment](), at
        for cause, server, behind, n in ticks:
            own += [Segment(start, start + n, op, cause, "", server, behind)] if n else []
            start += n
        chain = plain_chain(flat, trace, op, {op}) if at else []
        assert chain is not None, f"op {op} of {program.name} issued at {at} for no reason"
        edges = [Segment(at, at, of, cause, "", -1, behind) for cause, of, behind, _ in chain]
        path = [*edges[::-1], *own, *path]
        op = edges[-1].behind if edges else None
    return path


def test_critical_path_is_that_of_the_plain_walk(random_program: Programs) -> None:
    """Against a walk that looks at every op for every step, on programs full of ties, blocking and zero-time ops."""
    n_searched = 0
    for seed, program, trace in random_traces(random_program, 400):
        path = critical_path(program, trace, engine_fast.run)
        assert [replace(s, detail="") for s in path] == plain_path(program, trace), f"seed {seed}"
        n_searched += sum(s.behind >= 0 and s.start == s.end == trace.issue[s.behind] for s in path)
    assert n_searched > 100  # ticks in which the search went on through ops of that tick


def test_first_and_all_causes_are_the_plain_ones(random_program: Programs) -> None:
    """For every op, not only those on a path, and all that might have held it, in the order in which it is tried."""
    most = 0
    for seed, program, trace in random_traces(random_program, 60):
        causes, flat = _Causes(program, trace), unroll(program)
        for op in np.flatnonzero(trace.issue > 0).tolist():
            plain = [
                (PATH_CAUSES.index(cause), other, credit) for cause, other, credit in plain_causes(flat, trace, op)
            ]
            found = list(causes.of(op))
            assert found == plain[:1] + plain, f"seed {seed}, op {op}"  # the first, known beforehand, comes twice
            most = max(most, len(plain))
    assert most >= 4


def test_critical_path_sums_to_the_makespan(random_program: Programs) -> None:
    """Contiguous from 0 to the makespan; and the work on it is the work of its ops."""
    causes: Counter[str] = Counter()
    for seed, program, trace in random_traces(random_program, 2000):
        path = critical_path(program, trace, engine_fast.run)
        if not trace.makespan:
            assert sum(s.end - s.start for s in path) == 0
            continue
        assert (path[0].start, path[-1].end) == (0, trace.makespan), f"seed {seed}"
        assert all(a.end == b.start for a, b in itertools.pairwise(path)), f"seed {seed}"
        spent: Counter[int] = Counter()
        for segment in path:
            spent[segment.op] += segment.end - segment.start
            assert segment.end > segment.start or segment.behind >= 0, f"seed {seed}: {segment}"
        assert all(ticks == trace.end[op] - trace.issue[op] for op, ticks in spent.items() if ticks), f"seed {seed}"
        causes.update(segment.cause for segment in path)
    every = {"setup", "compute", "weights", "transfer", "wait_server", "wait_dep", "wait_credit", "wait_lane"}
    assert every <= set(causes), causes


def test_every_issue_has_a_cause(random_program: Programs) -> None:
    """Not only on the path to the last op: cut the trace short at any op, and its path still reaches tick 0."""
    n_ops = 0
    for seed, program, trace in random_traces(random_program, 60):
        for op in range(program.n_ops):
            end = np.where(trace.end > trace.end[op], -1, trace.end)
            path = critical_path(program, replace(trace, end=end, makespan=int(trace.end[op])))
            assert sum(s.end - s.start for s in path) == trace.end[op], f"seed {seed}, op {op}"
            n_ops += 1
    assert n_ops > 2000


def test_double_buffering_path() -> None:
    """The third load could not start before the first compute gave its buffer back: that is on the path."""
    b = Builder("double buffering", 1)
    dma, core, l2, buffer = b.unit("dma"), b.unit("core"), b.server("l2", rate_bytes=8), b.credit("buffer", 2)
    for ticks in (15, 5, 5):
        load = b.op(dma, setup=2, bytes=80, burst=32, route=(l2,), take=((buffer, 1),), kind="load")
        b.op(core, run=ticks, deps=(load,), give=((buffer, 1),))
    program = b.build()
    #          0   2     12     24    27 29    39   44
    # dma      |set|-L1--|set-L2|     |set|-L3-|
    # core               |----C1------|C2.|    |-C3-|
    path = critical_path(program, engine_fast.run(program), engine_fast.run)
    assert told(path) == [
        (0, 2, 0, "setup"), (2, 12, 0, "transfer"),
        (12, 12, 1, "wait_dep"), (12, 27, 1, "compute"),
        (27, 27, 4, "wait_credit"), (27, 29, 4, "setup"), (29, 39, 4, "transfer"),
        (39, 39, 5, "wait_dep"), (39, 44, 5, "compute"),
    ]  # fmt: skip
    assert path[4].detail == "buffer from op 1 (compute on core)"
    assert path[4].behind == 1


def test_path_says_which_server_and_behind_whom() -> None:
    """Round robin of a (3 bursts) and b (2 bursts) of 4 ticks: a ends last, having stood behind b for 8 ticks."""
    b = Builder("round robin", 1)
    link, layer = b.server("link", rate_bytes=8), b.layer("fc")
    b.op(b.unit("a"), bytes=96, burst=32, route=(link,), kind="weights")
    b.op(b.unit("b"), bytes=64, burst=32, route=(link,), kind="load", layer=layer)
    program = b.build()
    for engine in (engine_fast, engine_reference):
        trace = engine.run(program)
        assert critical_path(program, trace, engine.run) == (
            Segment(0, 8, 0, "wait_server", "link behind op 1 (load of fc on b)", server=0, behind=1),
            Segment(8, 20, 0, "weights"),
        )
        assert told(critical_path(program, trace)) == [(0, 8, 0, "wait_server"), (8, 20, 0, "weights")]


def test_path_through_a_turn() -> None:
    """`small` stood behind `big` for its credit; both issue at 10, when the other credit of `big` comes back."""
    b = Builder("turn", 1)
    pool, other = b.credit("pool", 3), b.credit("other", 1)
    b.op(b.unit("holder"), run=10, take=((other, 1),), give=((other, 1),))
    b.op(b.unit("big"), run=1, take=((pool, 2), (other, 1)))
    b.op(b.unit("small"), run=5, take=((pool, 1),))
    program = b.build()
    path = critical_path(program, engine_fast.run(program))
    assert told(path) == [
        (0, 10, 0, "compute"), (10, 10, 1, "wait_credit"), (10, 10, 2, "wait_turn"), (10, 15, 2, "compute")
    ]  # fmt: skip


def test_path_leaves_a_ring_of_ops_that_issued_at_once() -> None:
    """At 10 `big` has its credit; `small`, behind it in the queue for the other one, goes in the same tick, takes no
    time, and `next` follows, which takes of that credit, too. So `small` stood in turn with `next`, which waited for
    `small`: that says nothing of why it went at 10, and `big` does."""
    b = Builder("ring", 1)
    pool, other = b.credit("pool", 4), b.credit("other", 1)
    holder, big, small = (b.unit(name) for name in ("holder", "big", "small"))
    b.op(holder, run=10, take=((other, 1),), give=((other, 1),))
    first = b.op(small, take=((pool, 1),))
    b.op(b.unit("next"), deps=(first,), run=5, take=((pool, 1),))
    b.op(big, run=1, take=((pool, 2), (other, 1)))
    program = b.build()
    trace = engine_fast.run(program)
    assert trace.issue.tolist() == [0, 10, 10, 10]
    assert told(critical_path(program, trace)) == [
        (0, 10, 0, "compute"), (10, 10, 3, "wait_credit"), (10, 10, 1, "wait_turn"), (10, 10, 2, "wait_dep"),
        (10, 15, 2, "compute"),
    ]  # fmt: skip


def test_path_through_ops_of_no_duration() -> None:
    b = Builder("syncs", 1)
    u, v = b.unit("u"), b.unit("v", lanes=2)
    work = b.op(u, setup=1, run=3)
    sync = b.op(v, deps=(work,), kind="sync")
    b.op(u, deps=(sync,), run=2, kind="launch")
    program = b.build()
    path = critical_path(program, engine_fast.run(program))
    assert told(path) == [
        (0, 1, 0, "setup"), (1, 4, 0, "compute"), (4, 4, 1, "wait_dep"), (4, 4, 2, "wait_dep"), (4, 6, 2, "setup")
    ]  # fmt: skip


def test_a_trace_of_another_program_is_refused() -> None:
    b = Builder("one", 1)
    u = b.unit("u")
    b.op(u, run=3)
    b.op(u, run=4)
    program = b.build()
    trace = engine_fast.run(program)
    with pytest.raises(ValueError, match="not one of program one"):
        critical_path(program, replace(trace, issue=np.array([0, 2])))
    with pytest.raises(ValueError, match="not one of program one"):
        critical_path(program, replace(trace, end=np.array([3, 6]), makespan=6))


def test_unit_ticks_fill_the_time_of_one_lane(random_program: Programs) -> None:
    """An in-order unit with one lane is always in one of the states, until its last op ends."""
    n_units = 0
    for seed, program, trace in random_traces(random_program, 500):
        ticks = unit_ticks(program, trace)
        unit = program.rows["unit"][row_of(program, np.arange(program.n_ops))]
        for number, lanes in enumerate(program.units["lanes"]):
            assert all(ticks[number][key] >= 0 for key in ticks.dtype.names or ()), f"seed {seed}"
            if lanes == 1:
                last = int(trace.end[unit == number].max(initial=0))
                assert sum(ticks[number].item()) == last, f"seed {seed}, unit {number}"
                n_units += 1
    assert n_units > 500


def test_unit_ticks_by_hand() -> None:
    """Two lanes on the DMA: both loads issue at 0; the third has a lane at 12 and a buffer at 27."""
    b = Builder("lanes", 1)
    dma, core, l2, buffer = b.unit("dma", lanes=2), b.unit("core"), b.server("l2", rate_bytes=8), b.credit("buffer", 2)
    for ticks in (15, 5, 5):
        load = b.op(dma, setup=2, bytes=80, burst=80, route=(l2,), take=((buffer, 1),))
        b.op(core, run=ticks, deps=(load,), give=((buffer, 1),))
    program = b.build()
    ticks = unit_ticks(program, engine_fast.run(program))
    # load 1: 2-12; load 2: stands 10 behind load 1, 12-22; load 3: issues at 27, 29-39. Computes at 12, 27, 39.
    assert dict(zip(ticks.dtype.names or (), ticks[0].item(), strict=True)) == {
        "setup": 6, "run": 0, "service": 30, "wait_server": 10, "wait_dep": 0, "wait_credit": 15
    }  # fmt: skip
    assert dict(zip(ticks.dtype.names or (), ticks[1].item(), strict=True)) == {
        "setup": 0, "run": 25, "service": 0, "wait_server": 0, "wait_dep": 12 + 7, "wait_credit": 0
    }  # fmt: skip


def test_occupancy_by_hand() -> None:
    """Overlapping ops on two lanes count once; two ports at half use."""
    b = Builder("occupancy", 1)
    u, link = b.unit("u", lanes=2), b.server("link", rate_bytes=8, ports=2)
    b.unit("idle")
    b.op(u, run=4)
    first = b.op(u, bytes=80, burst=80, route=(link,))
    b.op(u, run=2, deps=(first,))
    last = b.op(b.unit("pause"), run=3, deps=(2,))
    b.op(u, run=1, deps=(last,))
    program = b.build()
    trace = engine_fast.run(program)
    assert busy_intervals(program, trace, 0).tolist() == [[0, 12], [15, 16]]
    assert busy_intervals(program, trace, 1).tolist() == []
    found = occupancy(program, trace)
    assert found.unit_busy.tolist() == [13, 0, 3]
    assert found.server_busy.tolist() == [10]
    assert found.server_utilisation.tolist() == [10 / (2 * 16)]


def test_busy_intervals_hold_every_tick_of_an_op(random_program: Programs) -> None:
    """Against a count tick by tick."""
    for seed, program, trace in random_traces(random_program, 100):
        unit = program.rows["unit"][row_of(program, np.arange(program.n_ops))]
        for number in range(len(program.units)):
            busy = np.zeros(trace.makespan, bool)
            for start, end in zip(trace.issue[unit == number], trace.end[unit == number], strict=True):
                busy[start:end] = True
            intervals = busy_intervals(program, trace, number)
            again = np.zeros(trace.makespan, bool)
            for start, end in intervals:
                assert not again[start:end].any()
                assert end > start
                again[start:end] = True
            assert np.array_equal(busy, again), f"seed {seed}, unit {number}"
            assert (intervals[1:, 0] > intervals[:-1, 1]).all(), f"seed {seed}: touching ones are joined"


def test_the_nth_largest_so_far_is_that_of_the_sorted_values() -> None:
    """By sorting each prefix, ties and too few values included."""
    rng = np.random.default_rng(0)
    for n, values in itertools.product((1, 2, 3, 7, 40), (rng.integers(0, 9, 30), np.sort(rng.integers(0, 99, 30)))):
        by_sorting = [sorted(values[: end + 1].tolist(), reverse=True)[n - 1 : n] or [0] for end in range(len(values))]
        assert nth_largest(values, n).tolist() == [found[0] for found in by_sorting]
    assert nth_largest(np.zeros(0, np.int64), 4).tolist() == []
