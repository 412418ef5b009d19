"""What the HTML report shows of a search's folder, whatever its space.

Plain data, which `report.html` draws: sections of charts, sections of bars with an estimate and a simulated figure
each, and for a pipeline of devices its timeline. All of it is read from result.json; nothing is searched again. Chart:
label, y, series. Series: name, colour, line (whether its points are joined, in their order), points of [x, y, text].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cosoc.search.result import Found, Result, drawn, label, reached
from cosoc.sim.errors import InputError
from cosoc.sim.lower.pipeline import lower_pipeline
from cosoc.sim.model.cluster import Cluster
from cosoc.sim.model.mapping import Mapping
from cosoc.sim.report.result import Result as Run
from cosoc.sim.report.run_page import gantt_data
from cosoc.sim.shown import quantity
from cosoc.sim.simulate import engine_run
from cosoc.sim.stages import StageFigures, pipeline_of

Point = tuple[float, float, str]  # x, y and what is said when it is pointed at

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#8a8a8a"
SHOWN_ITEMS = 12  # of a pipeline's timeline, before anyone zooms


def chart(name: str, y: str, *series: dict[str, Any]) -> dict[str, Any]:
    """A chart; series without points are left out."""
    return {"label": name, "y": y, "series": [one for one in series if one["points"]]}


def series(name: str, colour: str, points: Sequence[Point], line: bool = False) -> dict[str, Any]:
    """Points of one colour; line: joined in their order."""
    return {"name": name, "colour": colour, "line": line, "points": list(points)}


def front_data(result: Result) -> dict[str, Any]:
    """The section of a search's front: one chart of its axes, one of latency and energy where these are others, and a
    row for each mapping."""
    first, second = result.axes
    other = ("energy", result.metric.name) if result.trained else ("latency", "energy")
    pairs = dict.fromkeys(((first, second), other))
    front, beaten = result.front(), result.beaten()
    listed = [one for one in result.found if one.name not in beaten]
    charts = []
    for x, y in pairs:
        line = _points(result, x, y, front) if (x, y) == (first, second) else []
        charts.append(
            chart(
                label(result, x), label(result, y),
                series("not dominated", GREEN, [(a, b, "") for a, b, _ in line], line=True),
                series("found by the search", BLUE, _points(result, x, y, [one for one in listed if not one.known])),
                series("known", ORANGE, _points(result, x, y, [o for o in result.found if o.known])),
            )
        )  # fmt: skip
    best = {one.name for one in front}
    rows = [
        [one.name + (" *" if one.name in best else ""),
         *([reached(one)] if one.accuracy is not None else []),
         f"{1e3 * one.simulated.latency_s:.5g}", f"{1e3 * one.estimated.latency_s:.5g}" if one.estimated else "-",
         f"{1e3 * one.simulated.energy_j:.5g}", f"{one.simulated.peak_bytes / 1024:.5g}",
         f"{one.simulated.throughput:.5g}"]
        for one in sorted(listed, key=result.at)
    ]  # fmt: skip
    head = ["mapping", *([result.metric.name] if result.trained else []), "ms", "estimated ms", "mJ", "peak KiB", "1/s"]
    about = f"Simulated; what nothing else beats in {first} and {second} has a star. Best: {result.best.name}."
    if beaten:
        about += f" Not shown: {', '.join(f'{name} (beaten by {by})' for name, by in beaten.items())}."
    about += "".join(f" {claim[0].upper()}{claim[1:]}." for claim in result.claims())
    if result.optimum is not None and result.best.estimated is not None:
        gap = result.value(result.best.estimated) / result.optimum.bound - 1
        about += f" Its estimate is {gap:.2%} above the bound of the estimate."
    if result.unfinished:
        about += f" {result.unfinished.capitalize()}."
    return {"title": "Front", "about": about, "charts": charts, "head": head, "rows": rows}


def _points(result: Result, x: str, y: str, found: Sequence[Found]) -> list[Point]:
    return list(zip(drawn(result, x, found), drawn(result, y, found), map(text_of, found), strict=True))


def text_of(one: Found) -> str:
    """What is said of a mapping when its mark is pointed at."""
    f = one.simulated
    accuracy = "" if one.accuracy is None else f": {one.metric.text(one.accuracy)}"
    estimated = f", {quantity(one.estimated.latency_s, 's')} estimated" if one.estimated else ""
    text = (
        f"{one.name}{accuracy}\n{quantity(f.latency_s, 's')} simulated{estimated}\n{quantity(f.energy_j, 'J')}, "
        f"{f.throughput:.4g}/s, {f.peak_bytes / 1024:.4g} KiB at most"
    )
    return text + (f"\n{_stages_text(one.about['stages'])}" if "stages" in one.about else "")


def _stages_text(stages: Sequence[dict[str, Any]]) -> str:
    return " ".join(
        f"{s['device']}{'x' + str(s['replicas']) if s['replicas'] > 1 else ''}:{s['layers']}" for s in stages
    )


def chosen(result: Result, name: str | None) -> Found:
    """The mapping of that name, or the best one. InputError where the run has none such."""
    if name is None:
        return result.best
    for one in result.found:
        if one.name == name:
            return one
    raise InputError(f"the run has no mapping {name}; there is {', '.join(one.name for one in result.found)}")


# ---------------------------------------------------------------------------------------------------------------------
# A mapping of a cluster


def cluster_data(config: dict[str, Any], result: Result, name: str | None) -> dict[str, Any]:
    """Front, devices and timeline of a search over a cluster, of one of its mappings.

    The timeline is a replay of the stages that the result states: the same program that was simulated.
    """
    one = chosen(result, name)
    return {
        "title": f"{result.heading['workload']} on {result.heading['cluster']}", "subtitle": "split over devices",
        "charts": [front_data(result)], "bars": [_devices(one)], "timeline": _timeline(config, one),
    }  # fmt: skip


def _devices(one: Found) -> dict[str, Any]:
    """Devices: the share of the time that each is busy. Estimated: of the steady state; replayed: of the whole run."""
    replay, stages = one.about["replay"], one.about["stages"]
    assert one.estimated is not None
    period = one.about["micro_batch"] / one.estimated.throughput
    parts = []
    for part in replay["devices"]:
        stage = stages[part["stage"]]
        parts.append(
            {
                "name": f"{part['device']}: {stage['first_layer']} to {stage['last_layer']}",
                "simulated": part["utilisation"],
                "estimate": stage["seconds"] / stage["replicas"] / period,
                "text": f"{stage['layers']} layers, {quantity(stage['seconds'], 's')} an item, "
                f"{quantity(part['energy_j'], 'J')} an inference",
            }
        )
    devices = {part["device"] for part in replay["devices"]}
    for server, busy in replay["utilisation"].items():
        if server not in devices:
            parts.append({"name": server, "simulated": busy, "estimate": None, "text": "a port, or the medium"})
    about = (
        f"{one.name}: the share of the time that each device and port is busy in the replay, filling and draining of "
        "the pipeline included. The thin line is the prediction, for the steady state."
    )
    return {"title": "Devices", "about": about, "unit": "share", "rows": parts}


def _timeline(config: dict[str, Any], one: Found) -> dict[str, Any]:
    figures = [StageFigures(**stage) for stage in one.about["stages"]]
    stages, hops = pipeline_of(Cluster.model_validate(config["cluster"]), figures)
    items = one.about["replay"]["items"]
    program = lower_pipeline(stages, hops, items)
    trace = engine_run(config.get("engine", "fast"))(program, ())
    about = (
        f"{one.name}: {items} items of {one.about['micro_batch']} inferences; the first {min(items, SHOWN_ITEMS)} are "
        "shown."
    )
    return {
        "title": "Timeline of the pipeline", "about": about, "ticks": trace.makespan,
        "seconds": trace.makespan / program.tick_hz, "gantt": gantt_data(program, trace),
        "view": [0, trace.makespan * min(items, SHOWN_ITEMS) // items],
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# A mapping of a SoC


def soc_data(result: Result, run: Run, mapping: Mapping) -> dict[str, Any]:
    """Front of a search on a SoC, and the pieces of one of its mappings, whose simulation `run` is."""
    data: dict[str, Any] = {"charts": [front_data(result)]}
    if mapping.pieces:
        data["bars"] = [_pieces(run, mapping)]
    return data


def _pieces(run: Run, mapping: Mapping) -> dict[str, Any]:
    """The mapping piece by piece, a fused or parallel one as one: its part of the critical path."""
    ticks: dict[tuple[str, ...], int] = {}
    pieces = {name: piece.layers for piece in mapping.pieces for name in piece.layers}
    for part in run.by_layer:
        key = pieces.get(part.layer, (part.layer,))
        ticks[key] = ticks.get(key, 0) + part.ticks_critical
    rows = []
    for names, spent in ticks.items():
        name = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
        text = "one layer" if len(names) == 1 else "together: " + ", ".join(names)
        rows.append({"name": name, "simulated": spent / run.tick_hz, "estimate": None, "text": text})
    about = "Each piece's part of the critical path, simulated."
    return {"title": "Pieces", "about": about, "unit": "s", "rows": rows}
