"""What the HTML report shows of a search's folder: channels or operators, splits over a cluster, tiles of Gemmini.

Each space makes the same kinds of plain data, which `report.html` draws: sections of charts, sections of bars with an
estimate and a simulated figure each, and for a pipeline of devices its timeline. All of it is read from the files of
the folder; nothing is searched again. Chart: label, y, series. Series: name, colour, line (whether its points are
joined, in their order), points of [x, y, text].
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cosoc.sim.errors import InputError
from cosoc.sim.lower.pipeline import lower_pipeline
from cosoc.sim.model.cluster import Cluster
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import Workload
from cosoc.sim.report.result import Result
from cosoc.sim.report.run_page import gantt_data

Point = tuple[float, float, str]  # x, y and what is said when it is pointed at

BLUE, ORANGE, GREEN, PINK, GREY = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#8a8a8a"
SHOWN_ITEMS = 12  # of a pipeline's timeline, before anyone zooms


def chart(label: str, y: str, *series: dict[str, Any]) -> dict[str, Any]:
    """A chart; series without points are left out."""
    return {"label": label, "y": y, "series": [one for one in series if one["points"]]}


def series(name: str, colour: str, points: Sequence[Point], line: bool = False) -> dict[str, Any]:
    """Points of one colour; line: joined in their order."""
    return {"name": name, "colour": colour, "line": line, "points": list(points)}


# ---------------------------------------------------------------------------------------------------------------------
# Channels and operators


def channels_data(content: dict[str, Any]) -> dict[str, Any]:
    """The front of a search over channels or operators, from its result.json."""
    from cosoc.search.front import non_dominated

    if "points" not in content or not all("accuracy" in point for point in content["points"]):
        raise InputError("the run has no points with an accuracy: its front cannot be drawn")
    found, manual = content["points"], content["manual"]

    def texts(p: dict[str, Any]) -> str:
        ms, uj = _ms(p["simulated"]), p["simulated"]["energy_j"] * 1e6
        estimated = _ms(p["estimated"])
        return f"{p['name']}: {p['accuracy']:.2%}\n{ms:.4g} ms simulated, {estimated:.4g} ms estimated\n{uj:.4g} uJ"

    charts = []
    for label, key, factor in (("latency, ms", "seconds", 1e3), ("energy, uJ", "energy_j", 1e6)):
        every = [(p["simulated"][key] * factor, 100 * p["accuracy"], texts(p)) for p in (*found, *manual)]
        best = [every[i] for i in non_dominated([(x, -y) for x, y, _ in every])]
        charts.append(
            chart(
                f"{label} (simulated)", "test accuracy, %",
                series("front", GREEN, [(x, y, "") for x, y, _ in best], line=True),
                series("found by the search", BLUE, every[: len(found)]),
                series("manual", ORANGE, every[len(found) :]),
            )
        )  # fmt: skip
    rows = [
        [p["name"], f"{p['accuracy']:.2%}", f"{_ms(p['simulated']):.4f}", f"{_ms(p['estimated']):.4f}",
         f"{p['simulated']['energy_j'] * 1e6:.3f}"]
        for p in sorted((*found, *manual), key=_ms_of_point)
    ]  # fmt: skip
    about = f"Test accuracy on {content['data']} against simulated cost."
    head = ["mapping", "accuracy", "ms", "estimated ms", "uJ"]
    return {"charts": [{"title": "Front", "about": about, "charts": charts, "head": head, "rows": rows}]}


def _ms(figures: dict[str, Any]) -> float:
    return float(figures["seconds"]) * 1e3


def _ms_of_point(point: dict[str, Any]) -> float:
    return _ms(point["simulated"])


# ---------------------------------------------------------------------------------------------------------------------
# Splits


def splits_data(config: dict[str, Any], content: dict[str, Any], point: str | None) -> dict[str, Any]:
    """Front, devices and timeline of a search over splits. point: `point_N` of the front; the fastest by default.

    The timeline is a replay of the stages that the result states: the same program that was simulated.
    """
    front = content["front"]
    name = point or "point_0"
    names = [f"point_{i}" for i in range(len(front))]
    if name not in names:
        raise InputError(f"the run has no point {name}; there is {', '.join(names)}")
    chosen = front[names.index(name)]
    return {
        "title": f"{content['workload']} on {content['cluster']}",
        "subtitle": "split over devices",
        "charts": [_split_front(content)],
        "bars": [_split_devices(name, chosen)],
        "timeline": _split_timeline(config, content, name, chosen),
    }


def _split_front(content: dict[str, Any]) -> dict[str, Any]:
    front, missed = content["front"], set(content["missed_by_weighted_sums"])
    named = [(f"point_{i}", p) for i, p in enumerate(front)]

    def drawn(points: Sequence[tuple[str, dict[str, Any]]]) -> list[Point]:
        return [(p["simulated"]["throughput"], 1e3 * p["simulated"]["energy_j"], _split_text(n, p)) for n, p in points]

    def predicted(name: str, points: Sequence[dict[str, Any]]) -> list[Point]:
        text = "{}: {:.4g}/s, {:.4g} mJ (predicted)"
        return [
            (p["throughput"], 1e3 * p["energy_j"], text.format(name, p["throughput"], 1e3 * p["energy_j"]))
            for p in points
        ]

    every = drawn(named)
    speed = chart(
        "inferences a second (simulated)", "energy, mJ an inference",
        series("with replicas", GREEN, drawn([("with replicas", p) for p in content["replicated_front"]]), line=True),
        series("exact front, replayed", BLUE, every, line=True),
        series("of these, no weighted sum finds", "#D55E00", [every[i] for i in sorted(missed)]),
        series("one device", GREY, drawn([(f"one {n}", p) for n, p in content["single_device"].items()])),
        series("baselines (predicted)", ORANGE, [q for n, p in content["baselines"].items() for q in predicted(n, p)]),
    )  # fmt: skip
    latency = []
    for p in content["latency_front"]:
        ms, mj = 1e3 * p["simulated_latency_s"], 1e3 * p["energy_j"]
        text = f"{ms:.4g} ms (predicted {1e3 * p['latency_s']:.4g} ms), {mj:.4g} mJ, {p['throughput']:.4g}/s"
        latency.append((ms, mj, f"{text}\n{_split_stages(p)}"))
    empty = chart(
        "latency of an empty pipeline, ms (simulated)", "energy, mJ an inference",
        series("front with latency", PINK, latency),
    )  # fmt: skip
    rows = [
        [n, f"{p['simulated']['throughput']:.5g}", f"{p['throughput']:.5g}", f"{1e3 * p['simulated']['energy_j']:.5g}",
         f"{1e3 * p['simulated']['latency_s']['mean']:.4g}", str(p["micro_batch"]), p["simulated"]["bottleneck"],
         _split_stages(p)]
        for n, p in named
    ]  # fmt: skip
    about = (
        f"{content['workload']} on {content['cluster']}: each point streamed {content['inferences']} inferences; "
        f"prediction and replay differ by {content['difference_worst']:.2%} at most."
    )
    head = ["point", "inferences/s", "predicted", "mJ", "ms", "batch", "busiest", "stages (device:layers)"]
    return {"title": "Front", "about": about, "charts": [c for c in (speed, empty) if c["series"]],
            "head": head, "rows": rows}  # fmt: skip


def _split_text(name: str, p: dict[str, Any]) -> str:
    seen = p["simulated"]
    return (
        f"{name}: {seen['throughput']:.4g}/s (predicted {p['throughput']:.4g}/s)\n{1e3 * seen['energy_j']:.4g} mJ, "
        f"mean latency {1e3 * seen['latency_s']['mean']:.4g} ms, micro-batch {p['micro_batch']}\n"
        f"busiest: {seen['bottleneck']}\n{_split_stages(p)}"
    )


def _split_stages(p: dict[str, Any]) -> str:
    return " ".join(
        f"{s['device']}{'x' + str(s['replicas']) if s['replicas'] > 1 else ''}:{s['layers']}" for s in p["stages"]
    )


def _split_devices(name: str, p: dict[str, Any]) -> dict[str, Any]:
    """Devices: the share of the time that each is busy. Predicted: of the steady state; replayed: of the whole run."""
    period = p["micro_batch"] / p["throughput"]
    parts = []
    for part in p["simulated"]["devices"]:
        stage = p["stages"][part["stage"]]
        parts.append(
            {
                "name": f"{part['device']}: {stage['first_layer']} to {stage['last_layer']}",
                "simulated": part["utilisation"],
                "estimate": stage["seconds"] / stage["replicas"] / period,
                "text": f"{stage['layers']} layers, {1e3 * stage['seconds']:.4g} ms an item, "
                f"{1e3 * part['energy_j']:.4g} mJ an inference",
            }
        )
    devices = {part["device"] for part in p["simulated"]["devices"]}
    for server, busy in p["simulated"]["utilisation"].items():
        if server not in devices:
            parts.append({"name": server, "simulated": busy, "estimate": None, "text": "a port, or the medium"})
    about = (
        f"{name}: the share of the time that each device and port is busy in the replay, filling and draining of the "
        "pipeline included. The thin line is the prediction, for the steady state."
    )
    return {"title": "Devices", "about": about, "unit": "share", "rows": parts}


def _split_timeline(config: dict[str, Any], content: dict[str, Any], name: str, p: dict[str, Any]) -> dict[str, Any]:
    from cosoc.sim.simulate import engine_run
    from cosoc.sim.stages import StageFigures, pipeline_of

    figures = [StageFigures(**stage) for stage in p["stages"]]
    stages, hops = pipeline_of(Cluster.model_validate(config["cluster"]), figures)
    items = p["simulated"]["items"]
    program = lower_pipeline(stages, hops, items)
    trace = engine_run(config.get("engine", "fast"))(program, ())
    seconds = trace.makespan / program.tick_hz
    about = f"{name}: {items} items of {p['micro_batch']} inferences; the first {min(items, SHOWN_ITEMS)} are shown."
    return {
        "title": "Timeline of the pipeline", "about": about, "ticks": trace.makespan, "seconds": seconds,
        "gantt": gantt_data(program, trace), "view": [0, trace.makespan * min(items, SHOWN_ITEMS) // items],
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# Tiles of Gemmini


def tiling_data(
    folder: Path, content: dict[str, Any], result: Result, soc: SoC, workload: Workload
) -> dict[str, Any]:  # fmt: skip
    """Plans, course and pieces of a search over tiles. result: the simulation of its best plan."""
    seen: list[dict[str, Any]] = []
    for file in sorted((folder / "done").glob("round_*.json"), key=lambda file: (len(file.name), file.name)):
        seen += json.loads(file.read_text(encoding="utf-8"))["simulated"]
    unit = {"edp": "EDP, J s", "latency": "latency, s", "energy": "energy, J"}[content["objective"]]
    steps = [(float(t), float(v), f"{v:.5g} after {t:.2f} s") for t, v in content["history"]]
    edges = [edge for (_, v, _), (t, w, _) in itertools.pairwise(steps) for edge in ((t, v, ""), (t, w, ""))]
    course = chart(
        "seconds of search", f"best so far: {unit} (estimated)",
        series("best so far", BLUE, [(*steps[0][:2], ""), *edges] if steps else [], line=True),
        series("a better plan", GREEN, steps),
    )  # fmt: skip
    labels = {"simulated": "best plan, simulated", "estimated": "best plan, estimated",
              "optimum": "optimum of the estimate", "unfused_optimum": "optimum of the estimate without fusion",
              "lower_bound": "lower bound of the estimate"}  # fmt: skip
    rows = [
        [label, f"{content[key]['edp']:.5g}", f"{content[key]['energy_j'] * 1e3:.5g}", f"{_ms(content[key]):.5g}"]
        for key, label in labels.items()
        if content.get(key)
    ]
    about = (
        f"{content['workload']} on {content['soc']}, objective {content['objective']}: {len(seen)} plans simulated, "
        f"{len(content['groups'])} fused groups in the best, gap to the optimum of the estimate {content['gap']:.2%}."
    )
    charts = [c for c in (_tiling_plans(content, seen, soc.tick_hz), course) if c["series"]]
    head = ["", "EDP, J s", "mJ", "ms"]
    front = {"title": "Plans", "about": about, "charts": charts, "rows": rows, "head": head}
    return {"charts": [front], "bars": [_tiling_pieces(content, result, soc, workload)]}


def _tiling_plans(content: dict[str, Any], seen: Sequence[dict[str, Any]], hz: int) -> dict[str, Any]:
    """Time and energy of what was simulated, and of what the estimate says about it."""

    def at(name: str, seconds: float, energy_j: float) -> Point:
        ms, mj = seconds * 1e3, energy_j * 1e3
        return ms, mj, f"{name}: {ms:.4g} ms, {mj:.4g} mJ, EDP {seconds * energy_j:.4g} J s"

    def cost(name: str, figures: dict[str, Any]) -> Point:
        return at(name, figures["cycles"] / hz, figures["energy_pj"] * 1e-12)

    def stated(*keys: str) -> list[Point]:
        found = [(key.replace("_", " "), content[key]) for key in keys if content.get(key)]
        return [at(name, figures["seconds"], figures["energy_j"]) for name, figures in found]

    return chart(
        "latency, ms", "energy, mJ",
        series("plans, estimated", GREY, [cost("estimate of a simulated plan", s["estimated"]) for s in seen]),
        series("plans, simulated", BLUE, [cost("simulated plan", s["cost"]) for s in seen]),
        series("best, simulated", GREEN, stated("simulated")),
        series("optimum, unfused optimum and bound of the estimate", ORANGE,
               stated("optimum", "unfused_optimum", "lower_bound")),
    )  # fmt: skip


def _tiling_pieces(content: dict[str, Any], result: Result, soc: SoC, workload: Workload) -> dict[str, Any]:
    """The best plan piece by piece, a fused group as one: what the estimate says, and its part of the critical path."""
    from cosoc.search.spaces.tiles import Single, Space
    from cosoc.search.tiling_run import plan_from
    from cosoc.sim.movers.cached_terms import CachedTheta, Machine

    machine = Machine.of(soc)
    space = Space(workload, machine, CachedTheta(**content["theta"]))
    ticks = {part.layer: part.ticks_critical for part in result.by_layer}
    rows = []
    for piece in plan_from(content["plan"]).pieces:
        first, last = (piece.layer, piece.layer) if isinstance(piece, Single) else (piece.first, piece.last)
        names = [layer.name for layer in workload.layers[first : last + 1]]
        simulated = sum(ticks.pop(name, 0) for name in names) / result.tick_hz
        estimate = space.piece_cost(piece).cycles / machine.hz
        text = "one layer" if len(names) == 1 else "fused: " + ", ".join(names)
        name = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
        rows.append({"name": name, "simulated": simulated, "estimate": estimate, "text": text})
    for name, left in ticks.items():
        rows.append({"name": name, "simulated": left / result.tick_hz, "estimate": None, "text": "not on the array"})
    about = "Each piece's part of the critical path. The thin line is the estimate, as fitted in the last round."
    return {"title": "Pieces of the best plan", "about": about, "unit": "s", "rows": rows}
