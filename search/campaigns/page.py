"""What the HTML report shows of a campaign: by workload a front, a map over its two longest axes, and all tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cosoc.search.campaigns.results import (
    SweepResult,
    coordinates,
    counted,
    failures,
    figures,
    fronts,
    label_of,
    split_fronts,
    varied,
)
from cosoc.search.search_page import BLUE, GREEN, chart, series
from cosoc.sim.shown import quantity

ROWS = 500  # of a table on a page; the CSV has all
CELLS = 60  # along an axis of a map
XY = ("latency_s", "energy_j")  # of a front

Rows = Sequence[Mapping[str, Any]]


def campaign_data(result: SweepResult, name: str) -> dict[str, Any]:
    """Sections of charts and of maps, as `report.html` draws them. InputError where energies do not reach equally
    far."""
    by_workload: dict[str, list[Mapping[str, Any]]] = {}
    for row in result.rows:
        if row["kind"] == "simulate" and row["status"] == "done":
            by_workload.setdefault(row["spec"]["workload"], []).append(row)
    best = fronts(result)
    charts = [_front(workload, rows, best[workload]) for workload, rows in by_workload.items()]
    charts += [_splits(workload, found) for workload, found in split_fronts(result).items()]
    maps = [one for workload, rows in by_workload.items() for one in _maps(workload, rows)]
    failed = failures(result)
    if failed:
        head, rows = ["task that failed", "why"], [line.split(": ", 1) for line in failed[:ROWS]]
        charts.append({"title": "Failed", "about": f"{len(failed)} tasks.", "charts": [], "head": head, "rows": rows})
    return {"title": f"Campaign {name}", "subtitle": counted(result), "charts": charts, "maps": maps}


def _front(workload: str, rows: Rows, best: Rows) -> dict[str, Any]:
    def points(some: Rows) -> list[tuple[float, float, str]]:
        at = [(one["result"]["latency_s"] * 1e3, one["result"]["energy_j"] * 1e3) for one in some]
        return [(*xy, _text(one)) for xy, one in zip(at, some, strict=True)]

    chosen = {row["id"] for row in best}
    table = [
        [label_of(row) + (" *" if row["id"] in chosen else ""), *(f"{1e3 * row['result'][key]:.5g}" for key in XY),
         f"{row['result']['area_mm2']:.4g}" if row["result"]["area_mm2"] else "-",
         f"{row['result']['peak_power_mw']:.4g}"]
        for row in sorted(rows, key=lambda row: row["result"]["latency_s"])[:ROWS]
    ]  # fmt: skip
    others = [row for row in rows if row["id"] not in chosen]
    drawn = chart(
        "ms", "mJ", series("simulated", BLUE, points(others)), series("not dominated", GREEN, points(best), line=True)
    )  # above the others: of equal tasks the first is on the front
    about = "Simulated; what no other beats or equals in both time and energy, or only a later one equals, has a star."
    if len(rows) > ROWS:
        about += f" The {ROWS} fastest of {len(rows):,} are listed."
    head = ["task", "ms", "mJ", "mm2", "peak mW"]
    return {"title": f"Front: {workload}", "about": about, "charts": [drawn], "head": head, "rows": table}


def _text(row: Mapping[str, Any]) -> str:
    found = row["result"]
    return f"{label_of(row)}\n{quantity(found['latency_s'], 's')}, {quantity(found['energy_j'], 'J')}"


def _splits(workload: str, found: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> dict[str, Any]:
    points = [
        (one["simulated"]["throughput"], 1e3 * one["simulated"]["energy_j"], f"{label_of(row)}\n{one['name']}")
        for row, one in found
    ]
    rows = [[text.replace("\n", ", "), f"{x:.5g}", f"{y:.5g}"] for x, y, text in points]
    drawn = chart("inferences/s", "mJ", series("not dominated", GREEN, points, line=True))
    about = "Simulated; the splits of all searches that no other beats in both throughput and energy."
    head = ["split", "inferences/s", "mJ"]
    return {"title": f"Splits: {workload}", "about": about, "charts": [drawn], "head": head, "rows": rows}


def _maps(workload: str, rows: Rows) -> list[dict[str, Any]]:
    """Time and energy over the two axes with most values; over what else differs, the least is shown."""
    axes = sorted(varied(rows).items(), key=lambda axis: -len(axis[1]))
    if len(axes) < 2:
        return []
    (y, ys), (x, xs) = axes[:2]
    out = []
    for key, unit, title in (("latency_s", "ms", "Time"), ("energy_j", "mJ", "Energy")):
        cells: dict[tuple[str, str], tuple[float, str]] = {}
        for row in rows:
            at = coordinates(row)
            place = at.get(y, ""), at.get(x, "")
            value = 1e3 * figures(row)[key]
            if place not in cells or value < cells[place][0]:
                cells[place] = value, _text(row)
        about = f"{unit}, simulated; blank where nothing ran."
        if len(axes) > 2:
            about += f" The least over {', '.join(name for name, _ in axes[2:])}."
        shown_y, shown_x = ys[:CELLS], xs[:CELLS]
        if len(ys) > CELLS or len(xs) > CELLS:
            about += f" The first {CELLS} values of an axis are drawn."
        grid = [[cells.get((one, other)) for other in shown_x] for one in shown_y]
        out.append({"title": f"{title}: {workload}", "about": about, "x": x, "y": y, "xs": shown_x, "ys": shown_y,
                    "cells": grid})  # fmt: skip
    return out
