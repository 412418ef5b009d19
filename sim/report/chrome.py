"""A run as a Chrome trace, which Perfetto and chrome://tracing open."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cosoc.sim.machine.program import KINDS, Ints, Program, row_of
from cosoc.sim.machine.trace import Trace, changes, held_ticks
from cosoc.sim.report.memory_use import memory_use
from cosoc.sim.report.result import CAUSES, NO_LAYER, Result

UNITS, SERVERS, PATH, LAYERS, MEMORIES = 1, 2, 3, 4, 5  # the trace's processes
SINGLE = 20_000  # ops that are drawn one by one; of more, those that follow each other without a gap are drawn as one
ARROWS = 20_000  # of dependencies, at most
STEPS = 10_000  # of a memory's counter, at most


def chrome_trace(result: Result) -> dict[str, Any]:
    """The run as Chrome trace-event JSON, for ui.perfetto.dev: `ts` and `dur` in microseconds, exact ticks in `args`.

    Tracks: each lane of each unit, with the set-up of its ops nested in them; for each server as many as it has ops at
    once; the critical path; the layers; how full each memory is, in bytes. Slices of one track do not overlap. Arrows
    lead from an op to those on other tracks that waited for it; there are none in a run of more than SINGLE ops, nor
    where there would be more than ARROWS of them. When the single bursts of an op were served is not recorded: its
    slice on a server reaches from its first asking to its end, with the ticks for which it held that server in `args`.
    In a run of more than SINGLE ops, those of one lane, kind and layer that follow each other without a gap are one
    slice, whose `args` are sums, without the set-ups in it.
    """
    return {**_head(result), "traceEvents": list(_in_us(result))}


def write_chrome_trace(result: Result, path: Path | str) -> None:
    """Write `chrome_trace` to a file, event by event, one a line."""
    encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode
    with Path(path).open("w", encoding="utf-8") as file:
        file.write(encode(_head(result))[:-1] + ',"traceEvents":[')
        between = "\n"
        for event in _in_us(result):
            file.write(between + encode(event))
            between = ",\n"
        file.write("\n]}\n")


def _head(result: Result) -> dict[str, Any]:
    program = result.program
    tick = f"{1e9 / program.tick_hz:.4g} ns (a cycle at {program.tick_hz / result.ticks_per_cycle / 1e6:g} MHz"
    tick += ")" if result.ticks_per_cycle == 1 else f" is {result.ticks_per_cycle} ticks)"
    other: dict[str, Any] = {"a tick": tick, "program": program.name, "makespan_ticks": result.ticks}
    if program.n_ops > SINGLE:
        other["ops"] = f"{program.n_ops:,}; of one lane, kind and layer without a gap between them: one slice"
        other["arrows"] = f"none: more than {SINGLE:,} ops"
    return {"displayTimeUnit": "ns", "otherData": other}


def _in_us(result: Result) -> Iterator[dict[str, Any]]:
    """The events, whose ticks become microseconds."""
    us = 1e6 / result.tick_hz
    for event in _events(result):
        if event["ph"] == "X":
            start, end = event["ts"], event["ts"] + event["dur"]
            args = {**event["args"], "start_tick": start, "end_tick": end}
            yield {**event, "ts": start * us, "dur": end * us - start * us, "args": args}
        elif "ts" in event:
            yield {**event, "ts": event["ts"] * us}
        else:
            yield event


def _events(result: Result) -> Iterator[dict[str, Any]]:
    """The events in ticks."""
    for pid, name in (
        (UNITS, "units"), (SERVERS, "servers"), (PATH, "critical path"), (LAYERS, "layers"), (MEMORIES, "memories")
    ):  # fmt: skip
        yield _name(pid, 0, "process_name", name)
        yield {"ph": "M", "pid": pid, "tid": 0, "name": "process_sort_index", "args": {"sort_index": pid}}
    drawn = _drawn(result)
    yield from _unit_events(result, drawn)
    yield from _server_events(result, drawn)
    yield _name(PATH, 1, "thread_name", "critical path")
    for part in result.critical_path.segments:
        args: dict[str, Any] = {"unit": part.unit, "layer": part.layer, "kind": part.kind}
        args |= {"first_op": part.first_op, "ops": part.ops, "causes_ticks": part.causes}
        if part.behind:
            args |= {"server": part.server, "behind": part.behind}
        yield _slice(PATH, 1, CAUSES[part.cause], part.start_tick, part.end_tick, args)
    places = tracks([(layer.start_tick, layer.end_tick) for layer in result.by_layer])
    for place in sorted(set(places)):
        yield _name(LAYERS, place + 1, "thread_name", "layers")
    for layer, place in zip(result.by_layer, places, strict=True):
        args = {"ticks_critical": layer.ticks_critical, "macs": layer.macs, "bytes": layer.bytes}
        yield _slice(LAYERS, place + 1, layer.layer, layer.start_tick, layer.end_tick, args)
    yield from _memory_events(result)


def _memory_events(result: Result) -> Iterator[dict[str, Any]]:
    """A counter for each memory that holds anything. Of one with more than STEPS changes, the most of so many stretches
    of them."""
    at = result.at
    for one in memory_use(result, at.soc, at.workload, at.mapping):
        every = -(-len(one.ticks) // STEPS)
        first = np.arange(0, len(one.ticks), every)
        most = np.maximum.reduceat(one.bytes, first)
        for tick, held in zip(one.ticks[first].tolist(), most.tolist(), strict=True):
            yield {"ph": "C", "pid": MEMORIES, "tid": 0, "name": one.memory, "ts": tick, "args": {"bytes": held}}


def _arrows(program: Program, trace: Trace, drawn: _Drawn, tid: Ints) -> Iterator[dict[str, Any]]:
    """From ops to those on other tracks that depend on them, through ops that take no time, which are not drawn. tid:
    of each op that is drawn."""
    track = np.full(program.n_ops, -1)
    track[drawn.op] = tid
    unrolled = row_of(program, np.arange(program.n_ops))
    at, n = (program.rows[key][unrolled].tolist() for key in ("dep_at", "dep_n"))
    deps, tracked = program.deps.tolist(), track.tolist()
    behind: list[tuple[int, ...]] = []  # drawn ops that each waits for, directly or through others
    found = list[tuple[int, int]]()
    for op in range(program.n_ops):
        before = dict.fromkeys(
            one
            for distance in deps[at[op] : at[op] + n[op]]
            if distance <= op
            for one in ((op - distance,) if tracked[op - distance] >= 0 else behind[op - distance])
        )
        behind.append(tuple(before) if tracked[op] < 0 else ())
        if tracked[op] >= 0:
            found += [(one, op) for one in before if tracked[one] != tracked[op]]
        if len(found) > ARROWS:
            return
    setup = program.rows["setup"][unrolled]
    for number, (one, op) in enumerate(found):
        issue, end = int(trace.issue[one]), int(trace.end[one])
        about = {"cat": "dependency", "name": "dependency", "id": number, "pid": UNITS}
        # Inside of the slice, behind the set-up that is nested in it.
        yield {"ph": "s", **about, "tid": tracked[one], "ts": (min(issue + int(setup[one]), end - 1) + end) / 2}
        yield {"ph": "f", "bp": "e", **about, "tid": tracked[op], "ts": int(trace.issue[op])}


def _name(pid: int, tid: int, what: str, name: str) -> dict[str, Any]:
    return {"ph": "M", "pid": pid, "tid": tid, "name": what, "args": {"name": name}}


def _slice(pid: int, tid: int, name: str, start: int, end: int, args: dict[str, Any]) -> dict[str, Any]:
    return {"ph": "X", "pid": pid, "tid": tid, "name": name, "ts": start, "dur": end - start, "args": args}


def tracks(spans: Iterable[tuple[int, int]]) -> list[int]:
    """A track for each span [start, end) so that those of one track do not overlap: the first that is free."""
    out: list[int] = []
    free: list[int] = []  # when each track is
    spans = list(spans)
    order = sorted(range(len(spans)), key=lambda i: spans[i])
    found = dict.fromkeys(order, 0)
    for i in order:
        start, end = spans[i]
        track = next((n for n, at in enumerate(free) if at <= start), len(free))
        free[track : track + 1] = [end]
        found[i] = track
    out += [found[i] for i in range(len(spans))]
    return out


@dataclass(frozen=True)
class _Drawn:
    """The ops that are drawn, by unit, lane and number. [ops]: op, unit, lane, kind, layer; part: its slice.

    figures [ops, len(FIGURES)]: what is summed over the ops of a slice.
    """

    op: Ints
    unit: Ints
    lane: Ints
    kind: Ints
    layer: Ints
    part: Ints
    figures: Ints


FIGURES = ("bytes", "macs", "setup_ticks", "run_ticks", "service_ticks", "waited_for_servers_ticks")


def _drawn(result: Result) -> _Drawn:
    program, trace = result.program, result.trace
    op = np.flatnonzero(trace.end > trace.issue)
    row = row_of(program, op)
    unit, kind, layer, size, macs, setup, run = (
        program.rows[key][row] for key in ("unit", "kind", "layer", "bytes", "macs", "setup", "run")
    )
    issue, end, service = trace.issue[op], trace.end[op], trace.service[op]
    figures = np.stack((size, macs, setup, run, service, end - issue - setup - run - service), axis=1)
    lane = np.zeros(len(op), np.int64)
    for number in np.flatnonzero(program.units["lanes"] > 1).tolist():
        mine = np.flatnonzero(unit == number)
        lane[mine] = tracks(zip(issue[mine].tolist(), end[mine].tolist(), strict=True))
    order = np.lexsort((op, lane, unit))
    op, unit, lane, kind, layer = op[order], unit[order], lane[order], kind[order], layer[order]
    part = np.arange(len(op))
    if program.n_ops > SINGLE:
        gap = np.zeros(len(op), np.int64)
        gap[1:] = np.cumsum(trace.issue[op[1:]] != trace.end[op[:-1]])
        part = np.searchsorted(changes(unit, lane, kind, layer, gap), part, side="right") - 1
    return _Drawn(op, unit, lane, kind, layer, part, figures[order])


def _args(program: Program, op: int, n: int, kind: int, layer: int, figures: list[int]) -> dict[str, Any]:
    which = {"op": op} if n == 1 else {"first_op": op, "ops": n}
    sums = {name: value for name, value in zip(FIGURES, figures, strict=True) if value}
    return {**which, "kind": KINDS[kind], "layer": _layer(program, layer), **sums}


def _layer(program: Program, layer: int) -> str:
    return program.layers[layer] if layer >= 0 else NO_LAYER


def _unit_events(result: Result, drawn: _Drawn) -> Iterator[dict[str, Any]]:
    program, trace = result.program, result.trace
    most = np.zeros(len(program.units), np.int64)
    np.maximum.at(most, drawn.unit, drawn.lane)
    first_tid = np.cumsum(most + 1) - most
    for name, at, last, lanes in zip(
        program.unit_names, first_tid.tolist(), most.tolist(), program.units["lanes"].tolist(), strict=True
    ):
        for lane in range(last + 1):
            yield _name(UNITS, at + lane, "thread_name", f"{name} lane {lane}" if lanes > 1 else name)
    first = changes(drawn.part)
    if not len(first):
        return
    n = np.diff(np.append(first, len(drawn.part)))
    op, last_op = drawn.op[first], drawn.op[first + n - 1]
    columns = (first_tid[drawn.unit[first]] + drawn.lane[first], op, n, trace.issue[op], trace.end[last_op],
               drawn.kind[first], drawn.layer[first])  # fmt: skip
    for values, figures in zip(
        zip(*(column.tolist() for column in columns), strict=True),
        np.add.reduceat(drawn.figures, first).tolist(),
        strict=True,
    ):
        tid, op, n, start, end, kind, layer = values
        label = f"{KINDS[kind]} {_layer(program, layer)}"
        yield _slice(UNITS, tid, label, start, end, _args(program, op, n, kind, layer, figures))
        setup = figures[FIGURES.index("setup_ticks")]
        if n == 1 and setup:
            yield _slice(UNITS, tid, "set-up", start, start + setup, {"op": op})
    if program.n_ops <= SINGLE:
        yield from _arrows(program, trace, drawn, first_tid[drawn.unit] + drawn.lane)


def _server_events(result: Result, drawn: _Drawn) -> Iterator[dict[str, Any]]:
    """A slice of a unit is one on each server that its ops use, from their first asking to their last end."""
    program, trace = result.program, result.trace
    op, server, ticks = held_ticks(program, trace)
    number_of = np.full(program.n_ops, -1)
    number_of[drawn.op] = np.arange(len(drawn.op))
    user = number_of[op]
    order = np.lexsort((user, server))
    order = order[user[order] >= 0]
    user, server = user[order], server[order]
    first = changes(server, drawn.part[user])
    n = np.diff(np.append(first, len(user)))
    figures = drawn.figures[user]
    figures[:, FIGURES.index("service_ticks")] = ticks[order]
    figures[:, FIGURES.index("waited_for_servers_ticks")] = 0  # of the op, at whichever server was done last
    figures = np.add.reduceat(figures, first) if len(first) else figures
    asked = trace.issue[drawn.op] + drawn.figures[:, FIGURES.index("setup_ticks")]
    start, end, of = asked[user[first]], trace.end[drawn.op[user[first + n - 1]]], server[first]
    tid = 0
    for number, name in enumerate(program.server_names):
        mine = np.flatnonzero(of == number)
        places = tracks(zip(start[mine].tolist(), end[mine].tolist(), strict=True))
        for place in range(max(places, default=0) + 1):
            yield _name(SERVERS, tid + place + 1, "thread_name", name)
        head = user[first[mine]]
        columns = (places, start[mine].tolist(), end[mine].tolist(), drawn.op[head].tolist(), n[mine].tolist(),
                   drawn.kind[head].tolist(), drawn.layer[head].tolist(), figures[mine].tolist())  # fmt: skip
        for place, begin, until, op, ops, kind, layer, sums in zip(*columns, strict=True):
            args = _args(program, op, ops, kind, layer, sums)
            args["shown"] = "in service throughout"
            if ops > 1:
                args["shown"] = "setting up, asking or in service: which ticks were service is not shown"
            elif args.get("service_ticks", 0) != until - begin:
                args["shown"] = "asking or in service: which ticks were service is not recorded"
            label = f"{KINDS[kind]} {_layer(program, layer)}"
            yield _slice(SERVERS, tid + place + 1, label, begin, until, args)
        tid += max(places, default=0) + 1


__all__ = ["ARROWS", "SINGLE", "chrome_trace", "tracks", "write_chrome_trace"]
