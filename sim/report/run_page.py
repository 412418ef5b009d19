"""One HTML file a run: front, layers, timeline, occupancy, critical path and provenance, with nothing to download.

The page is `report.html`; this module makes the data that it draws. User strings reach the page as JSON only, in which
`<` is escaped, and are shown as text, never as markup.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

import numpy as np

from cosoc.sim import exact
from cosoc.sim.estimate import layer_time
from cosoc.sim.machine.program import KINDS, Ints, Program, entries_of, row_of
from cosoc.sim.machine.trace import Trace, held_ticks
from cosoc.sim.model.mapping import Mapping
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import Workload
from cosoc.sim.movers.links import together
from cosoc.sim.report.hosted import by_reason
from cosoc.sim.report.memory_use import MemoryUse, memory_use
from cosoc.sim.report.packed import packed_bars
from cosoc.sim.report.render import bottleneck
from cosoc.sim.report.result import CAUSES, Result
from cosoc.sim.theta import Theta
from cosoc.sim.tiler import placed
from cosoc.sim.work import layer_work

BARS = 1 << 20  # ops that are drawn one by one; of more, neighbours are drawn as one
STEPS = 600  # of a memory's plot
BINS = 240  # columns of an occupancy chart


def page(data: dict[str, Any]) -> str:
    """The report as one HTML document. data: title, subtitle, provenance, and run or front or both."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    for character, escaped in (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026"), ("\u2028", "\\u2028")):
        text = text.replace(character, escaped)
    template = resources.files("cosoc.sim.report").joinpath("report.html").read_text(encoding="utf-8")
    return template.replace("@DATA@", text)


def run_data(result: Result, soc: SoC, workload: Workload, mapping: Mapping) -> dict[str, Any]:
    """What the page shows of one simulated run."""
    path = result.critical_path
    causes = sorted(path.by_cause_ticks.items(), key=lambda item: -item[1])
    estimates = _estimates(result, soc, workload, mapping)
    layers = [
        {"name": part.layer, "ticks": part.ticks_critical, "energy_j": part.energy_j, "causes": part.causes,
         "estimate": estimates.get(part.layer), "why_host": part.why_host}
        for part in result.by_layer
    ]  # fmt: skip
    waits = [(server, who, ticks) for server, held in path.waits_ticks.items() for who, ticks in held.items()]
    return {
        "name": f"{result.workload} on {result.soc}, {result.mapping}, {result.runtime}",
        "ticks": result.ticks, "seconds": result.seconds, "energy_j": result.energy_j, "ops": result.ops,
        "bottleneck": " ".join([bottleneck(result), *(f"{one}." for one in result.evidence if one.basis)]),
        "hosted": [
            (why, len(names), ticks / max(result.ticks, 1)) for why, (ticks, names) in by_reason(result).items()
        ],
        "top": f"{CAUSES[causes[0][0]]} {causes[0][1] / result.ticks:.0%}" if causes else "empty",
        "causes": [(cause, CAUSES[cause], ticks) for cause, ticks in causes],
        "waits": sorted(waits, key=lambda wait: -wait[2])[:12],
        "layers": layers, "estimated": bool(estimates), "gantt": gantt_data(result.program, result.trace),
        "occupancy": occupancy_data(result),
        "memories": memories_data(memory_use(result, soc, workload, mapping), result.ticks),
    }  # fmt: skip


def _estimates(result: Result, soc: SoC, workload: Workload, mapping: Mapping) -> dict[str, int]:
    """The closed form of each layer on its own, ticks; fused ones have none."""
    at = placed(mapping, workload, soc)
    mapping, homes = at.mapping, at.homes
    fused = {name for piece in mapping.pieces if piece.how == "fused" for name in piece.layers}
    out = {}
    for layer in workload:
        given = mapping.layers.get(layer.name)
        if given is None or layer.name in fused:
            continue
        if not given.is_tiled:
            continue
        shares = [(part.core, part.channels) for part in given.parts]
        work = layer_work(layer, soc, shares, given, homes, exact)
        ticks = layer_time(layer, work, soc, mapping.runtime, homes, Theta(), exact).ticks
        out[layer.name] = round(float(ticks)) * result.ticks_per_cycle * result.inferences
    return out


def gantt_data(program: Program, trace: Trace) -> dict[str, Any]:
    """The timeline by unit: bars (kind, start tick, end tick, layer or -1, ops in it), by start, as `packed_bars`.

    Up to BARS ops every op is a bar. Beyond that, ops of a unit that are of one kind and layer and follow one another
    closer than the stated gap are one bar, the smallest gap (doubled from 1 tick) that leaves BARS bars at most or is
    no more than a 4,000th of the run; no time in which an op ran is left out.
    """
    row = row_of(program, np.arange(program.n_ops))
    unit, kind, layer = (program.rows[key][row] for key in ("unit", "kind", "layer"))
    lasting = trace.end > trace.issue
    ordered = []
    for number in range(len(program.unit_names)):
        ops = np.flatnonzero((unit == number) & lasting)
        ordered.append(_ordered(kind[ops], layer[ops], trace.issue[ops], trace.end[ops]))
    many, gap = int(lasting.sum()) > BARS, 1
    while many and sum(map(len, (_firsts(o, gap) for o in ordered))) > BARS and gap * 4000 < trace.makespan:
        gap *= 2
    drawn = [_bars(o, _firsts(o, gap) if many else np.arange(len(o))) for o in ordered]
    named = zip(program.unit_names, drawn, strict=True)
    units = [{"name": name, "n": len(bars), "bars": packed_bars(bars)} for name, bars in named if len(bars)]
    note = f"{program.n_ops:,} ops, each drawn from issue to end."
    if many:
        note = (
            f"{program.n_ops:,} ops, drawn as {sum(map(len, drawn)):,} bars: ops of one unit, kind and layer less than "
            f"{gap:,} ticks apart are drawn as one."
        )
    return {"kinds": list(KINDS), "layers": list(program.layers), "rows": units, "note": note}


def _ordered(kind: Ints, layer: Ints, start: Ints, end: Ints) -> Ints:
    """[ops, 5]: kind, layer, start, end, and the latest end so far within the kind and layer; by kind, layer, start."""
    order = np.lexsort((start, layer, kind))
    kind, layer, start, end = kind[order], layer[order], start[order], end[order]
    other = np.append(False, (kind[1:] != kind[:-1]) | (layer[1:] != layer[:-1]))[: len(kind)]
    shift = np.cumsum(other) * (int(end.max(initial=0)) + 1)  # so that no group's ends reach into the next
    return np.stack([kind, layer, start, end, np.maximum.accumulate(end + shift) - shift], axis=1)


def _firsts(ordered: Ints, gap: int) -> Ints:
    """Where a new bar begins: another kind or layer, or `gap` ticks after everything of it before has ended."""
    kind, layer, start, _, reach = ordered.T
    apart = (kind[1:] != kind[:-1]) | (layer[1:] != layer[:-1]) | (start[1:] - reach[:-1] >= gap)
    return np.flatnonzero(np.append(True, apart)[: len(ordered)])


def _bars(ordered: Ints, first: Ints) -> Ints:
    """[bars, 5]: kind, start, end, layer, ops in it; by start."""
    if not len(ordered):
        return np.zeros((0, 5), np.int64)
    kind, layer, start, end, _ = ordered.T
    ends, n = np.maximum.reduceat(end, first), np.diff(np.append(first, len(ordered)))
    bars = np.stack([kind[first], start[first], ends, layer[first], n], axis=1)
    return np.asarray(bars[np.argsort(start[first], kind="stable")], np.int64)


def memories_data(use: Sequence[MemoryUse], span: int) -> dict[str, Any]:
    """What each memory holds: steps (tick, bytes from then on), at most STEPS of them; of more, the largest in each of
    so many equal stretches."""
    out = []
    for one in use:
        ticks, level = one.ticks, one.bytes
        if len(ticks) > STEPS:
            edges = np.arange(STEPS) * span // STEPS
            before = level[np.searchsorted(ticks, edges, side="right") - 1]
            inside = np.minimum(np.searchsorted(edges, ticks, side="right") - 1, STEPS - 1)
            most = before.copy()
            np.maximum.at(most, inside, level)
            ticks, level = edges, most
        steps = np.stack([ticks, level], axis=1).tolist()
        peak = int(one.bytes.max())
        out.append({"name": one.memory, "capacity": one.capacity_bytes, "peak": peak, "steps": steps})
    note = (
        "Bytes that each memory holds: weights and tensors that live there, tiles and line buffers from their transfer "
        f"or computation on until they are done with. Beyond {STEPS} changes, the largest of each stretch."
    )
    return {"series": out, "note": note}


def occupancy_data(result: Result) -> dict[str, Any]:
    """Credits held (buffer slots, from issue to end of their holders) and links busy, as means over BINS stretches.

    Credits are exact. The bursts of a transfer are not recorded one by one: a link's service is spread evenly from
    an op's first asking to its end.
    """
    program, trace = result.program, result.trace
    row = row_of(program, np.arange(program.n_ops))
    rows, series = program.rows, []
    span = max(result.ticks, 1)
    asked = trace.issue + rows["setup"][row]
    for array, key, at, sign in ((program.takes, "take", trace.issue, 1), (program.gives, "give", trace.end, -1)):
        first, n = (rows[f"{key}_{part}"][row] for part in ("at", "n"))
        owner = np.repeat(np.arange(len(row)), n)
        entry = array[entries_of(first, n)]
        steps = [(entry["credit"], at[owner], sign * entry["amount"])]
        series.append(steps[0])
    credit, when, change = (np.concatenate(parts) for parts in zip(*series, strict=True))
    out = []
    for number, name in enumerate(program.credit_names):
        mine = credit == number
        level = _mean_level(when[mine], change[mine].astype(float), span) / int(program.credits["capacity"][number])
        out.append(_series(name, "credits held", level, True))
    route_of, servers, held = held_ticks(program, trace)
    for name, ours in together(program.server_names).items():
        mine = np.flatnonzero(np.isin(servers, ours))
        ops = route_of[mine]
        lasted = np.maximum(trace.end[ops] - asked[ops], 1)
        share = held[mine] / lasted / int(program.servers["ports"][ours].sum())
        level = _mean_level(
            np.concatenate((asked[ops], asked[ops] + lasted)), np.concatenate((share, -share)), span
        )  # fmt: skip
        out.append(_series(name, "link in service", level, False))
    note = "Buffer credits held, exactly; and links in service, the service of each transfer spread evenly over it."
    return {"series": [one for one in out if one["mean"] > 0], "note": note}


def _mean_level(when: Ints, change: Any, span: int) -> Any:
    """Mean level in each of BINS equal stretches of [0, span), of a quantity that changes at `when` from 0 on."""
    order = np.argsort(when, kind="stable")
    when, level = when[order], np.cumsum(change[order])
    times = np.concatenate(([0.0], when.astype(float)))
    area = np.concatenate(([0.0], np.cumsum(np.diff(times) * np.concatenate(([0.0], level))[:-1])))
    edges = np.linspace(0, span, BINS + 1)
    at = np.searchsorted(times, edges, side="right") - 1
    now = area[at] + (edges - times[at]) * np.concatenate(([0.0], level))[at]
    return np.diff(now) * BINS / span


def _series(name: str, what: str, level: Any, credit: bool) -> dict[str, Any]:
    values = np.clip(level, 0, 1).round(4)
    return {"name": name, "what": what, "values": values.tolist(), "mean": float(np.mean(level)), "credit": credit}


__all__ = ["gantt_data", "memories_data", "occupancy_data", "page", "run_data"]
