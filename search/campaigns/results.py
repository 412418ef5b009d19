"""What a campaign has found, as fronts, as a table for a terminal, as plain data and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from cosoc.search.campaigns.plan import Task
from cosoc.search.front import non_dominated
from cosoc.sim.errors import InputError
from cosoc.sim.model.soc import BOUNDARIES, mixed

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, repr=False)
class SweepResult:
    """What the results file holds. left: tasks of the plan that are not in it. carrier_w: of its config. over: tasks of
    the plan whose chips are over a budget, which are not run. Printed it is a line; `frame` has a row for each task."""

    rows: tuple[dict[str, Any], ...]
    left: int
    carrier_w: float | None = None
    over: int = 0

    def __repr__(self) -> str:
        best = sum(map(len, fronts(self).values())) + sum(map(len, split_fronts(self).values()))
        return f"campaign: {counted(self)}; {best} on the fronts"

    def _repr_html_(self) -> str:
        from cosoc.views import preformatted

        return preformatted(table(self))

    @property
    def frame(self) -> DataFrame:
        """The tasks as a frame of pandas: what each is, how it ended, its figures or why it failed."""
        from cosoc.views import frame

        said = [{"task": label_of(row), "status": row["status"], "error": row["error"]} for row in self.rows]
        return frame([one | figures(row) for one, row in zip(said, self.rows, strict=True)], "task")


def _lifted(rows: list[dict[str, Any]], carrier_w: float | None) -> list[dict[str, Any]]:
    """Simulations of one workload with energies that reach equally far; InputError where they do not."""
    stated = {row["spec"]["soc"]: row["result"].get("energy_boundary") for row in rows}
    if not mixed(stated):
        return rows
    if carrier_w is None or None in stated.values():
        raise InputError(
            f"front of {rows[0]['spec']['workload']}: {mixed(stated)}; --carrier W adds what a board draws"
        )
    widest = max(stated.values(), key=BOUNDARIES.index)
    return [
        row
        if row["result"]["energy_boundary"] == widest
        else row | {"result": row["result"] | {
            "energy_j": row["result"]["energy_j"] + carrier_w * row["result"]["latency_s"], "energy_boundary": widest
        }}
        for row in rows
    ]  # fmt: skip


def fronts(result: SweepResult) -> dict[str, list[dict[str, Any]]]:
    """Of each workload, the simulations that no other beats in both time and energy, fastest first, chips with the
    carrier where others are boards. InputError where energies do not reach equally far."""
    out: dict[str, list[dict[str, Any]]] = {}
    for row in result.rows:
        if row["kind"] == "simulate" and row["status"] == "done":
            out.setdefault(row["spec"]["workload"], []).append(row)
    for workload in out:
        rows = _lifted(out[workload], result.carrier_w)
        points = [(row["result"]["latency_s"], row["result"]["energy_j"]) for row in rows]
        out[workload] = [rows[i] for i in non_dominated(points)]
    return out


def split_fronts(result: SweepResult) -> dict[str, list[tuple[dict[str, Any], dict[str, Any]]]]:
    """Of each workload, the points of all searches over splits, (task, point), that no other beats in both simulated
    throughput and energy of an inference, fastest first."""
    out: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {}
    for row in result.rows:
        if row["status"] == "done" and row["spec"].get("space") == "splits":
            points = row["result"]["content"]["points"]
            out.setdefault(row["spec"]["workload"], []).extend((row, point) for point in points)
    for workload, found in out.items():
        stated = {row["spec"]["soc"]: row["result"].get("energy_boundary") for row, _ in found}
        if mixed(stated):
            raise InputError(f"splits of {workload}: {mixed(stated)}; give devices a carrier_w in their cluster files")
        figures = [(-p["simulated"]["throughput"], p["simulated"]["energy_j"]) for _, p in found]
        out[workload] = [found[i] for i in non_dominated(figures)]
    return out


def counted(result: SweepResult) -> str:
    """How many tasks came to what."""
    failed = len(failures(result))
    over = f", {result.over} over budget" if result.over else ""
    return f"{len(result.rows) - failed} done, {failed} failed, {result.left} left{over}"


def table(result: SweepResult) -> RenderableType:
    """The fronts over everything simulated, and over all splits, for a terminal; of searches that train a line that
    says where they are."""
    simulated, splits = fronts(result), split_fronts(result)
    counts = counted(result)
    if not simulated and not splits:
        searched = any(row["status"] == "done" for row in result.rows)
        return f"{'Searches, each in a folder of its own' if searched else 'Nothing was found'}: {counts}."
    out = _front_table(f"Best in time or energy, by workload ({counts})", "ms", "uJ")
    for rows in simulated.values():
        for row in rows:
            found = row["result"]
            _add(out, row, found["latency_s"] * 1e3, found["energy_j"] * 1e6)
        out.add_section()
    if not splits:
        return out
    shared = _front_table(f"Splits best in throughput or energy, by workload ({counts})", "inferences/s", "mJ")
    for found in splits.values():
        for row, point in found:
            seen = point["simulated"]
            _add(shared, row, seen["throughput"], seen["energy_j"] * 1e3)
        shared.add_section()
    return Group(out, "", shared) if simulated else shared


def _front_table(title: str, *figures: str) -> Table:
    out = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False, show_edge=False)
    for name in ("task", *figures, "mm2", "peak mW"):
        out.add_column(name, justify="left" if name == "task" else "right", overflow="fold")
    return out


def _add(out: Table, row: dict[str, Any], *figures: float) -> None:
    """A row: the task, figures, and what the SoC file, or those of the cluster, say."""
    chip = (row["result"]["area_mm2"], row["result"]["peak_power_mw"])
    out.add_row(label_of(row), *(f"{figure:.4g}" if figure else "-" for figure in (*figures, *chip)))


def failures(result: SweepResult) -> list[str]:
    """Every task that failed, with its reason."""
    return [f"{label_of(row)}: {row['error']}" for row in result.rows if row["status"] == "failed"]


def label_of(row: Mapping[str, Any]) -> str:
    """What a person calls a task."""
    return Task(row["kind"], row["spec"]).label


def to_json(result: SweepResult) -> dict[str, Any]:
    """Everything that was found, and the fronts as ids."""
    chosen = {workload: [row["id"] for row in rows] for workload, rows in fronts(result).items()}
    splits = {
        workload: [{"id": row["id"], "throughput": p["simulated"]["throughput"], "energy_j": p["simulated"]["energy_j"]}
                   for row, p in found]
        for workload, found in split_fronts(result).items()
    }  # fmt: skip
    return {"rows": list(result.rows), "fronts": chosen, "split_fronts": splits, "left": result.left}


KEYS = ("id", "kind", "status", "soc", "workload", "mapping", "runtime", "space", "objective", "strength", "seed")
FIGURES = ("latency_s", "energy_j", "peak_bytes", "throughput")  # of a simulation, or of the best that a search found
CHIP = ("area_mm2", "peak_power_mw", "energy_boundary")


def figures(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a finished task has found, by the names of `cosoc.sim.figures.Figures`; empty for a failed one."""
    found = row["result"]
    if not found or "content" not in found:
        return dict(found or {})
    content = found["content"]
    best = next((one for one in content["points"] if one["name"] == content["best"]), None)
    return {} if best is None else dict(best["simulated"])


def to_csv(result: SweepResult) -> str:
    """A line for each task: what it is, the values that it sets, what it found (units in the names), why it failed."""
    paths = list(dict.fromkeys(path for row in result.rows for path in row["spec"]["set"]))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*KEYS, *paths, *FIGURES, *CHIP, "wall_s", "error"])
    for row in result.rows:
        spec, found = row["spec"], figures(row)
        words = [row.get(key, spec.get(key, "")) for key in KEYS]
        values = [spec["set"].get(path, "") for path in paths]
        chip = [(row["result"] or {}).get(key) or "" for key in CHIP]  # an area of 0 is none that is stated
        cells = [*words, *values, *(found.get(key, "") for key in FIGURES), *chip, row["wall_s"], row["error"]]
        writer.writerow(["" if cell is None else cell for cell in cells])
    return out.getvalue()


def varied(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """What differs between tasks of one workload, by name, with the values in which it does, as they are sorted: SoCs,
    mappings, runtimes, values that they set."""
    values: dict[str, list[str]] = {}
    for row in rows:
        for name, value in coordinates(row).items():
            known = values.setdefault(name, [])
            if value not in known:
                known.append(value)
    return {name: _sorted(known) for name, known in values.items() if len(known) > 1}


def coordinates(row: Mapping[str, Any]) -> dict[str, str]:
    """Where a task stands in its campaign."""
    spec = row["spec"]
    names = ("soc", "mapping", "runtime")
    return {key: str(spec[key]) for key in names if spec.get(key) is not None} | dict(spec["set"])


def _sorted(values: list[str]) -> list[str]:
    """Numbers by size, other values in the order of the plan."""
    try:
        return sorted(values, key=float)
    except ValueError:
        return values
