"""One HTML file a run: front, layers, timeline, occupancy, critical path and provenance, with nothing to download.

The page is `report.html`; this module makes the data that it draws. User strings reach the page as JSON only, in which
`<` is escaped, and are shown as text, never as markup.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

import numpy as np

from cosoc.sim import exact
from cosoc.sim.errors import InputError
from cosoc.sim.estimate import Theta, layer_time
from cosoc.sim.mapping import Mapping
from cosoc.sim.program import KINDS, Ints, entries_of, row_of
from cosoc.sim.render import bottleneck
from cosoc.sim.report import CAUSES, Result
from cosoc.sim.soc import SoC
from cosoc.sim.tiler import checked, homes_of
from cosoc.sim.work import layer_work
from cosoc.sim.workload import Workload

BARS = 20_000  # ops that are drawn one by one; of more, neighbours are drawn as one
BINS = 240  # columns of an occupancy chart


def page(data: dict[str, Any]) -> str:
    """The report as one HTML document. data: title, subtitle, provenance, and run or front or both."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    for character, escaped in (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026"), ("\u2028", "\\u2028")):
        text = text.replace(character, escaped)
    template = resources.files("cosoc").joinpath("report.html").read_text(encoding="utf-8")
    return template.replace("@DATA@", text)


def run_data(result: Result, soc: SoC, workload: Workload, mapping: Mapping) -> dict[str, Any]:
    """What the page shows of one simulated run."""
    path = result.critical_path
    causes = sorted(path.by_cause_ticks.items(), key=lambda item: -item[1])
    estimates = _estimates(result, soc, workload, mapping)
    layers = [
        {"name": part.layer, "ticks": part.ticks_critical, "energy_j": part.energy_j, "causes": part.causes,
         "estimate": estimates.get(part.layer)}
        for part in result.by_layer
    ]  # fmt: skip
    waits = [(server, who, ticks) for server, held in path.waits_ticks.items() for who, ticks in held.items()]
    return {
        "name": f"{result.workload} on {result.soc}, {result.mapping}, {result.runtime}",
        "ticks": result.ticks, "seconds": result.seconds, "energy_j": result.energy_j, "ops": result.ops,
        "bottleneck": bottleneck(result),
        "top": f"{CAUSES[causes[0][0]]} {causes[0][1] / result.ticks:.0%}" if causes else "empty",
        "causes": [(cause, CAUSES[cause], ticks) for cause, ticks in causes],
        "waits": sorted(waits, key=lambda wait: -wait[2])[:12],
        "layers": layers, "estimated": bool(estimates), "gantt": gantt_data(result),
        "occupancy": occupancy_data(result),
    }  # fmt: skip


def _estimates(result: Result, soc: SoC, workload: Workload, mapping: Mapping) -> dict[str, int]:
    """The closed form of each layer on its own, ticks; layers without a plain tiling (nests, fused) have none."""
    mapping = checked(mapping, workload, soc)
    homes = homes_of(workload, mapping, soc)
    fused = {name for group in mapping.groups if not group.parallel for name in group.layers}
    out = {}
    for layer in workload:
        given = mapping.layers.get(layer.name)
        if given is None or given.tiling is None or layer.name in fused:
            continue
        shares = [(share.core, share.k) for share in given.shares]
        work = layer_work(layer, soc, shares, given, homes, exact)
        ticks = layer_time(layer, work, soc, mapping.runtime, homes, Theta(), exact).ticks
        out[layer.name] = round(float(ticks)) * result.ticks_per_cycle * result.inferences
    return out


def gantt_data(result: Result) -> dict[str, Any]:
    """The timeline by unit: bars (kind, start tick, end tick, layer or -1, ops in it).

    Up to BARS ops every op is a bar. Beyond that, ops of a unit that are of one kind and layer and follow one another
    closer than the stated gap are one bar; no time in which an op ran is left out.
    """
    program, trace = result.program, result.trace
    rows = program.rows[row_of(program, np.arange(program.n_ops))]
    many = program.n_ops > BARS
    gap = max(result.ticks // 4000, 1) if many else -1
    units, drawn = [], 0
    for number, name in enumerate(program.unit_names):
        ops = np.flatnonzero((rows["unit"] == number) & (trace.end > trace.issue))
        if len(ops):
            bars = _bars(rows["kind"][ops], rows["layer"][ops], trace.issue[ops], trace.end[ops], gap)
            drawn += len(bars)
            units.append({"name": name, "bars": bars})
    note = f"{program.n_ops:,} ops, each drawn from issue to end."
    if many:
        note = (
            f"{program.n_ops:,} ops, drawn as {drawn:,} bars: ops of one unit, kind and layer less than "
            f"{gap:,} ticks apart are drawn as one."
        )
    return {"kinds": list(KINDS), "layers": list(program.layers), "rows": units, "note": note}


def _bars(kind: Ints, layer: Ints, start: Ints, end: Ints, gap: int) -> list[list[int]]:
    if gap < 0:
        each: list[list[int]] = np.stack([kind, start, end, layer, np.ones_like(kind)], axis=1).tolist()
        return each
    out: list[list[int]] = []
    for kinds, layers in sorted(set(zip(kind.tolist(), layer.tolist(), strict=True))):
        mine = (kind == kinds) & (layer == layers)
        begin, reach = start[mine], np.maximum.accumulate(end[mine])
        first = np.flatnonzero(np.concatenate(([True], begin[1:] - reach[:-1] >= gap)))
        last = np.append(first[1:], len(begin)) - 1
        n = last - first + 1
        columns = (np.full_like(n, kinds), begin[first], reach[last], np.full_like(n, layers), n)
        out += np.stack(columns, axis=1).tolist()
    return sorted(out, key=lambda bar: bar[1])


def occupancy_data(result: Result) -> dict[str, Any]:
    """Credits held (buffer slots, from issue to end of their holders) and links busy, as means over BINS stretches.

    Credits are exact. The bursts of a transfer are not recorded one by one: a link's service is spread evenly from
    an op's first asking to its end.
    """
    program, trace = result.program, result.trace
    row = row_of(program, np.arange(program.n_ops))
    rows, series = program.rows[row], []
    span = max(result.ticks, 1)
    asked = trace.issue + rows["setup"]
    for array, key, at, sign in ((program.takes, "take", trace.issue, 1), (program.gives, "give", trace.end, -1)):
        owner = np.repeat(np.arange(len(rows)), rows[f"{key}_n"])
        entry = array[entries_of(rows[f"{key}_at"], rows[f"{key}_n"])]
        steps = [(entry["credit"], at[owner], sign * entry["amount"])]
        series.append(steps[0])
    credit, when, change = (np.concatenate(parts) for parts in zip(*series, strict=True))
    out = []
    for number, name in enumerate(program.credit_names):
        mine = credit == number
        held = _mean_level(when[mine], change[mine].astype(float), span) / int(program.credits["capacity"][number])
        out.append(_series(name, "credits held", held, True))
    route_of = np.repeat(np.arange(len(rows)), rows["route_n"])
    servers = program.routes[entries_of(rows["route_at"], rows["route_n"])]
    for number, name in enumerate(program.server_names):
        ops = route_of[(servers == number) & (rows["bytes"][route_of] > 0)]
        lasted = np.maximum(trace.end[ops] - asked[ops], 1)
        share = trace.service[ops] / lasted / max(int(program.servers["ports"][number]), 1)
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


def front_data(content: dict[str, Any]) -> dict[str, Any]:
    """The front of a search over channels, from its result.json."""
    from cosoc.search.front import non_dominated

    if "points" not in content or not all("accuracy" in point for point in content["points"]):
        raise InputError("the run has no points with an accuracy: its front cannot be drawn")
    rows = [(point, False) for point in content["points"]] + [(point, True) for point in content["manual"]]
    points = [
        {"name": p["name"], "ms": p["simulated"]["seconds"] * 1e3, "uj": p["simulated"]["energy_j"] * 1e6,
         "y": 100 * p["accuracy"], "manual": manual,
         "text": f"{p['name']}: {p['accuracy']:.2%}, {p['simulated']['seconds'] * 1e3:.4g} ms, "
                 f"{p['simulated']['energy_j'] * 1e6:.4g} uJ"}
        for p, manual in rows
    ]  # fmt: skip
    axes = []
    for key, label in (("ms", "latency, ms (simulated)"), ("uj", "energy, uJ (simulated)")):
        best = non_dominated([(p[key], -p["y"]) for p in points])
        axes.append({"key": key, "label": label, "front": best})
    table = [
        [p["name"], f"{p['accuracy']:.2%}", f"{p['simulated']['seconds'] * 1e3:.4f}",
         f"{p['estimated']['seconds'] * 1e3:.4f}", f"{p['simulated']['energy_j'] * 1e6:.3f}"]
        for p, _ in sorted(rows, key=lambda row: row[0]["simulated"]["seconds"])
    ]  # fmt: skip
    return {
        "about": f"Test accuracy on {content['data']} against simulated cost.", "y": "test accuracy, %",
        "axes": axes, "points": points, "rows": table,
        "head": ["mapping", "accuracy", "ms", "estimated ms", "uJ"],
    }  # fmt: skip


__all__ = ["front_data", "gantt_data", "occupancy_data", "page", "run_data"]
