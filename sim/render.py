"""A Result for eyes: tables for a terminal, a Chrome trace for Perfetto, a Gantt chart."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cosoc.sim.program import KINDS, Ints, Program, row_of
from cosoc.sim.report import CAUSES, NO_LAYER, LayerPart, Result

if TYPE_CHECKING:  # loaded where they are used: both are slow to import
    from rich.console import RenderableType
    from rich.table import Table

# ---------------------------------------------------------------------------------------------------------------------
# Tables


def table(result: Result) -> RenderableType:
    """The result as tables by layer, by unit and by cause, and a line that sums it up; 80 columns."""
    from rich.console import Group

    return Group(_layer_table(result), "", _unit_table(result), "", _cause_table(result), "", summary(result))


def summary(result: Result) -> str:
    """Time, energy and the top bottleneck, in a sentence each."""
    return f"{_title(result)} ({_cycles(result, result.ticks)} {_cycle(result)}). {bottleneck(result)}"


def _cycle(result: Result) -> str:
    """What durations are counted in: cycles of the SoC where ticks are finer than these."""
    return "ticks" if result.ticks_per_cycle == 1 else "cycles"


def _cycles(result: Result, ticks: int) -> str:
    return f"{ticks // result.ticks_per_cycle:,}"


def _title(result: Result) -> str:
    what = f"{result.workload} on {result.soc}, {result.mapping}, {result.runtime}"
    many = f" for {result.inferences} inferences" if result.inferences > 1 else ""
    return f"{what}: {result.seconds * 1e3:.4g} ms, {_uj(result.energy_j)} uJ{many}"


def bottleneck(result: Result) -> str:
    """The cause and unit with most of the critical path, and the layer that has most of that, in one sentence."""
    totals: dict[tuple[str, str], int] = {}
    for part in result.critical_path.segments:
        if part.end_tick > part.start_tick:
            key = part.cause, part.unit
            totals[key] = totals.get(key, 0) + part.end_tick - part.start_tick
    if not totals:
        return "Nothing takes time."
    cause, unit = max(totals, key=lambda key: totals[key])
    by_layer: dict[str, int] = {}
    for part in result.critical_path.segments:
        if (part.cause, part.unit) == (cause, unit):
            by_layer[part.layer] = by_layer.get(part.layer, 0) + part.end_tick - part.start_tick
    share, worst = totals[cause, unit] / result.ticks, max(by_layer, key=lambda layer: by_layer[layer])
    return f"The bottleneck is {unit} {CAUSES[cause]}: {share:.0%} of the time, above all in {worst}."


def _columns(title: str, left: str, *right: str) -> Table:
    from rich import box
    from rich.table import Table

    out = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False, padding=(0, 1), show_edge=False)
    out.collapse_padding = True
    out.add_column(left, no_wrap=True, overflow="ellipsis", max_width=26)
    for name in right:
        words = name in ("cores", "most in")
        out.add_column(name, justify="left" if words else "right", no_wrap=not words)
    return out


def _uj(joules: float) -> str:
    """Three digits of microjoules, and never an exponent for large ones."""
    return f"{joules * 1e6:.3g}" if joules < 99.95e-6 else f"{joules * 1e6:,.0f}"


def _channels(layer: LayerPart) -> str:
    return ", ".join(f"{name}\u00a0{part.channels}" for name, part in layer.cores.items())  # breaks at commas only


def _layer_table(result: Result) -> Table:
    """MAC/cycle: of a layer while its cores are busy, of all over the whole time."""
    title = f"By layer (critical {_cycle(result)}; MAC per busy cycle)"
    out = _columns(title, "layer", "cores", _cycle(result), "time", "MAC/cycle", "uJ")
    for layer in result.by_layer:
        busy = layer.core_busy_ticks / result.ticks_per_cycle
        rate = f"{layer.macs / busy:,.1f}" if layer.macs else ""
        share = f"{layer.ticks_critical / max(result.ticks, 1):.1%}"
        out.add_row(
            layer.layer, _channels(layer), _cycles(result, layer.ticks_critical), share, rate, _uj(layer.energy_j)
        )
    macs = sum(layer.macs for layer in result.by_layer)
    out.add_section()
    rate = f"{macs * result.ticks_per_cycle / max(result.ticks, 1):,.1f}"
    out.add_row("all", "", _cycles(result, result.ticks), "100.0%", rate, _uj(result.energy_j))
    return out


def _unit_table(result: Result) -> Table:
    waited = ("dependency", "buffer", "link, host")
    out = _columns(
        f"By unit (and the {_cycle(result)} that it waited for what)", "unit", "busy", "of time", *waited, "uJ"
    )
    for unit in result.by_unit:
        if unit.ops or unit.busy_ticks:
            energy = "-" if unit.energy_j is None else _uj(unit.energy_j)
            ticks = (unit.busy_ticks, unit.wait_dep_ticks, unit.wait_credit_ticks, unit.wait_server_ticks)
            busy, *waits = (_cycles(result, t) for t in ticks)
            out.add_row(unit.unit, busy, f"{unit.utilisation:.1%}", *waits, energy)
    out.add_row("base power", "", "", "", "", "", _uj(result.base_energy_j))
    if any(unit.energy_j is None for unit in result.by_unit if unit.ops or unit.busy_ticks):
        out.caption, out.caption_justify = "-: no figure of its own, inside the base and core powers", "left"
    return out


def _cause_table(result: Result) -> Table:
    out = _columns("Critical path", "cause", _cycle(result), "time", "most in")
    path = result.critical_path
    for cause, ticks in sorted(path.by_cause_ticks.items(), key=lambda item: -item[1]):
        most = max(result.by_layer, key=lambda layer, cause=cause: layer.causes.get(cause, 0))  # type: ignore[misc]
        where = f"{most.layer} ({_cycles(result, most.causes.get(cause, 0))})"
        out.add_row(CAUSES[cause], _cycles(result, ticks), f"{ticks / result.ticks:.1%}", where)
        if cause == "wait_server":
            for server, holders in path.waits_ticks.items():
                behind, most_ticks = max(holders.items(), key=lambda item: item[1])
                waited = sum(holders.values())
                detail = f"behind {behind} ({_cycles(result, most_ticks)})"
                out.add_row(f"  for {server}", _cycles(result, waited), f"{waited / result.ticks:.1%}", detail)
    return out


# ---------------------------------------------------------------------------------------------------------------------
# Chrome trace

UNITS, SERVERS, PATH, LAYERS = 1, 2, 3, 4  # the trace's processes


def chrome_trace(result: Result) -> dict[str, Any]:
    """The run as Chrome trace-event JSON, for ui.perfetto.dev. 1 us shown is one tick, as `otherData` says.

    Tracks: each lane of each unit, with the set-up of its ops nested in them; for each server as many as it has ops at
    once; the critical path; the layers. Slices of one track do not overlap. When the single bursts of an op were
    served is not recorded: its slice on a server reaches from its first asking to its end, with the ticks of
    service in `args`.
    """
    program, trace = result.program, result.trace
    events: list[dict[str, Any]] = []
    for pid, name in ((UNITS, "units"), (SERVERS, "servers"), (PATH, "critical path"), (LAYERS, "layers")):
        events.append(_name(pid, 0, "process_name", name))
        events.append({"ph": "M", "pid": pid, "tid": 0, "name": "process_sort_index", "args": {"sort_index": pid}})
    row = row_of(program, np.arange(program.n_ops))
    events += _unit_events(program, result, row) + _server_events(program, result, row)
    events.append(_name(PATH, 1, "thread_name", "critical path"))
    for part in result.critical_path.segments:
        if part.end_tick > part.start_tick:
            args = {"unit": part.unit, "layer": part.layer, "kind": part.kind, "op": part.op, "detail": part.detail}
            events.append(_slice(PATH, 1, CAUSES[part.cause], part.start_tick, part.end_tick, args))
    places = tracks([(part.start_tick, part.end_tick) for part in result.by_layer])
    events += [_name(LAYERS, place + 1, "thread_name", "layers") for place in sorted(set(places))]
    for layer, place in zip(result.by_layer, places, strict=True):
        args = {"ticks_critical": layer.ticks_critical, "macs": layer.macs, "bytes": layer.bytes}
        events.append(_slice(LAYERS, place + 1, layer.layer, layer.start_tick, layer.end_tick, args))
    tick = f"1 tick = {1e9 / program.tick_hz:.4g} ns (1 cycle at {program.tick_hz / 1e6:g} MHz)"
    other = {"1 us in this trace": tick, "program": program.name, "makespan_ticks": trace.makespan}
    return {"traceEvents": events, "displayTimeUnit": "ns", "otherData": other}


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


def _op_args(program: Program, result: Result, op: int, row: np.void) -> dict[str, Any]:
    setup, run, service = int(row["setup"]), int(row["run"]), int(result.trace.service[op])
    lasted = int(result.trace.end[op] - result.trace.issue[op])
    args: dict[str, Any] = {"op": op, "kind": KINDS[row["kind"]], "layer": _layer(program, row)}
    figures = {"bytes": int(row["bytes"]), "macs": int(row["macs"]), "setup_ticks": setup, "run_ticks": run}
    figures |= {"service_ticks": service, "waited_for_servers_ticks": lasted - setup - run - service}
    return args | {key: value for key, value in figures.items() if value}


def _layer(program: Program, row: np.void) -> str:
    return program.layers[row["layer"]] if row["layer"] >= 0 else NO_LAYER


def _unit_events(program: Program, result: Result, row: Ints) -> list[dict[str, Any]]:
    events, tid = [], 0
    issue, end = result.trace.issue, result.trace.end
    for number, name in enumerate(program.unit_names):
        ops = np.flatnonzero(program.rows["unit"][row] == number)
        spans = list(zip(issue[ops].tolist(), end[ops].tolist(), strict=True))
        lanes = tracks(spans) if program.units["lanes"][number] > 1 else [0] * len(spans)
        for lane in range(max(lanes, default=0) + 1):
            label = f"{name} lane {lane}" if program.units["lanes"][number] > 1 else name
            events.append(_name(UNITS, tid + lane + 1, "thread_name", label))
        for op, (start, stop), lane in zip(ops.tolist(), spans, lanes, strict=True):
            record = program.rows[row[op]]
            if start == stop:
                continue
            label = f"{KINDS[record['kind']]} {_layer(program, record)}"
            events.append(_slice(UNITS, tid + lane + 1, label, start, stop, _op_args(program, result, op, record)))
            if record["setup"]:
                events.append(_slice(UNITS, tid + lane + 1, "set-up", start, start + int(record["setup"]), {"op": op}))
        tid += max(lanes, default=0) + 1
    return events


def _server_events(program: Program, result: Result, row: Ints) -> list[dict[str, Any]]:
    events, tid = [], 0
    users: list[list[int]] = [[] for _ in program.server_names]
    for op in np.flatnonzero(program.rows["bytes"][row] > 0).tolist():
        record = program.rows[row[op]]
        for server in program.routes[record["route_at"] : record["route_at"] + record["route_n"]].tolist():
            users[server].append(op)
    asked = result.trace.issue + program.rows["setup"][row]
    for name, ops in zip(program.server_names, users, strict=True):
        spans = [(int(asked[op]), int(result.trace.end[op])) for op in ops]
        places = tracks(spans)
        for place in range(max(places, default=0) + 1):
            events.append(_name(SERVERS, tid + place + 1, "thread_name", name))
        for op, (start, stop), place in zip(ops, spans, places, strict=True):
            record = program.rows[row[op]]
            args = _op_args(program, result, op, record)
            args["shown"] = "in service throughout"
            if args.get("waited_for_servers_ticks"):
                args["shown"] = "asking or in service: which ticks were service is not recorded"
            label = f"{KINDS[record['kind']]} {_layer(program, record)}"
            events.append(_slice(SERVERS, tid + place + 1, label, start, stop, args))
        tid += max(places, default=0) + 1
    return events


# ---------------------------------------------------------------------------------------------------------------------
# Gantt

# Colours by kind (Okabe and Ito's palette, distinct for colour-blind eyes); set-up is drawn over them in grey.
_COLOURS = {
    "compute": "#0072B2",
    "weights": "#D55E00",
    "load": "#009E73",
    "store": "#CC79A7",
    "feed": "#56B4E9",
    "launch": "#E69F00",
    "sync": "#000000",
    "set-up": "#999999",
}
_PIXELS = 4000  # neighbours of one kind closer than the makespan over this are drawn as one


def gantt(result: Result, path: Path | str) -> None:
    """Draw the run as a PNG: units as rows, ops coloured by kind, layers above; time in ms, ticks on top."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    program, trace = result.program, result.trace
    ms = 1e3 / program.tick_hz
    row = row_of(program, np.arange(program.n_ops))
    shown = [n for n in range(len(program.unit_names)) if (program.rows["unit"][row] == n).any()]
    figure = Figure(figsize=(14, 2.2 + 0.55 * len(shown)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    used: dict[str, None] = {}
    for place, number in enumerate(shown):
        for kind, bars in _bars(program, result, row, number).items():
            spans = [(start * ms, (end - start) * ms) for start, end in bars]
            axes.broken_barh(spans, (place - 0.36, 0.72), color=_COLOURS[kind], lw=0, snap=False)
            used[kind] = None
    _layer_bands(axes, result, ms)
    utilisation = {unit.unit: unit.utilisation for unit in result.by_unit}
    names = [program.unit_names[n] for n in shown]
    axes.set_yticks(range(len(shown)), [f"{name}\n{utilisation[name]:.0%} busy" for name in names])
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlim(0, max(trace.makespan, 1) * ms)
    axes.set_xlabel(f"ms ({trace.makespan:,} ticks of {1e9 / program.tick_hz:.3g} ns in all)")
    handles = [Patch(color=colour, label=kind) for kind, colour in _COLOURS.items() if kind in used]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    figure.suptitle(_title(result), fontsize=11)
    figure.savefig(path, format="png")


def _bars(program: Program, result: Result, row: Ints, unit: int) -> dict[str, list[tuple[int, int]]]:
    """The intervals of a unit's ops by kind, set-up apart; near neighbours of one kind joined."""
    gap = max(result.trace.makespan // _PIXELS, 1)
    out: dict[str, list[tuple[int, int]]] = {}

    def add(kind: str, start: int, end: int) -> None:
        bars = out.setdefault(kind, [])
        if bars and start - bars[-1][1] < gap:
            bars[-1] = (bars[-1][0], max(end, bars[-1][1]))
        elif end > start:
            bars.append((start, end))

    for op in np.flatnonzero(program.rows["unit"][row] == unit).tolist():
        record, start, end = program.rows[row[op]], int(result.trace.issue[op]), int(result.trace.end[op])
        asked = start + int(record["setup"])
        if asked > start:
            add("set-up", start, asked)
        if end > asked:
            add(KINDS[record["kind"]], asked, end)
    return {kind: bars for kind, bars in sorted(out.items(), key=lambda item: list(_COLOURS).index(item[0])) if bars}


def _layer_bands(axes: Any, result: Result, ms: float) -> None:
    """Shade where the critical path is in every other layer; name layers above, as many as there is room for."""
    stays: list[tuple[str, int, int]] = []
    for part in result.critical_path.segments:
        if part.end_tick == part.start_tick:
            continue
        if stays and stays[-1][0] == part.layer:
            stays[-1] = (part.layer, stays[-1][1], part.end_tick)
        else:
            stays.append((part.layer, part.start_tick, part.end_tick))
    number = {layer.layer: n for n, layer in enumerate(result.by_layer)}
    longest: dict[str, tuple[int, int]] = {}
    for name, start, end in stays:
        if number[name] % 2:
            axes.axvspan(start * ms, end * ms, color="#000000", alpha=0.05, lw=0, zorder=0)
        old = longest.get(name, (0, 0))
        longest[name] = (start, end) if end - start > old[1] - old[0] else old
    room, last = result.ticks / 95, -result.ticks  # ticks that a name of this size takes across
    for name, (start, end) in sorted(longest.items(), key=lambda item: item[1]):
        middle = (start + end) // 2
        if middle - last >= room:
            axes.text(middle * ms, -0.55, name, rotation=90, ha="center", va="bottom", fontsize=7.5)
            last = middle


__all__ = ["bottleneck", "chrome_trace", "gantt", "summary", "table", "tracks"]
