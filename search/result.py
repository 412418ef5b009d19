"""What a search found: one record, one result.json, one table, one picture, for every space.

result.json: soc (or cluster), workload, space, objective, targets, seed; points and known, each with name, mapping (its
file), simulated and estimated figures, about, and, where a network was trained, its task's metric under that one's name
(accuracy, say: `about.metric`); front (names of what none of them beats), beaten (searched points that something beats,
and what does), claims (sentences about the reference), axes (of the front), hypervolume; best (name); optimum, bound
and gap, where the estimate's optimum is proven or bounded; about (of the space).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import mean
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from cosoc.search.front import half_width, hypervolume, non_dominated
from cosoc.search.metric import ACCURACY, Metric, metric_from
from cosoc.search.space import Optimum
from cosoc.search.targets import Target, met, within
from cosoc.sim.figures import Figures, objective
from cosoc.sim.shown import quantity

if TYPE_CHECKING:  # loaded where they are asked for
    from matplotlib.figure import Figure
    from pandas import DataFrame

SHOWN = 30  # rows of a table; of more, the front's come first
BEYOND = 1.1  # times the worst: where the hypervolume of the front ends
MILLI, MICRO, KIB = 1e3, 1e6, 1 / 1024
LARGE_J = 0.01  # from here on energies are shown in mJ


@dataclass(frozen=True)
class Found:
    """A candidate that has been simulated. mapping: its file within the folder. simulated: what `cosoc simulate` says
    of that file. accuracies: of each training by `metric`, where there were several; `accuracy` is their mean."""

    name: str
    mapping: str
    simulated: Figures
    estimated: Figures | None = None
    accuracy: float | None = None
    known: bool = False
    about: Mapping[str, Any] = field(default_factory=dict)
    accuracies: tuple[float, ...] = ()
    metric: Metric = ACCURACY

    def plain(self) -> dict[str, Any]:
        """As it stands in result.json."""
        trained: dict[str, Any] = {} if self.accuracy is None else {self.metric.name: self.accuracy}
        if len(self.accuracies) > 1:
            trained[self.metric.plural] = list(self.accuracies)
            trained[f"{self.metric.name}_interval"] = half_width(self.accuracies)
        return {
            "name": self.name, "mapping": self.mapping, **trained, "simulated": self.simulated.plain(),
            "estimated": self.estimated.plain() if self.estimated else None, "about": dict(self.about),
        }  # fmt: skip


def found_from(plain: Mapping[str, Any], known: bool, metric: Metric) -> Found:
    """A candidate as `Found.plain` wrote it. metric: what it was judged by, if it was trained."""
    return Found(
        plain["name"], plain["mapping"], _figures(plain["simulated"]),
        _figures(plain["estimated"]) if plain["estimated"] else None, plain.get(metric.name), known, plain["about"],
        tuple(plain.get(metric.plural, ())), metric,
    )  # fmt: skip


def _figures(plain: Mapping[str, Any]) -> Figures:
    return Figures(plain["latency_s"], plain["energy_j"], plain["peak_bytes"], plain["throughput"])


@dataclass(frozen=True, repr=False)
class Result:
    """What a search found. heading: soc or cluster, workload, space, seed and how far energies reach, as result.json
    begins. Printed it is a line; `table()` is for a terminal, `points` a frame of pandas, `plot()` the front. speed: of
    training in this process (`Speed.stated`), no part of result.json, which is the same however fast it came."""

    heading: Mapping[str, Any]
    objective: str
    found: tuple[Found, ...]
    optimum: Optimum | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    targets: tuple[Target, ...] = ()
    speed: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        what = f"{self.heading['workload']} on {self.heading.get('soc') or self.heading.get('cluster')}"
        best, n = self.best, len(self.found)
        accuracy = "" if best.accuracy is None else f", {self.metric.name} {reached(best)}"
        cost = f"{quantity(best.simulated.latency_s, 's')}, {quantity(best.simulated.energy_j, 'J')}"
        counted = f"{n} mapping{'' if n == 1 else 's'} simulated, {len(self.front())} on the front"
        return f"{what}, {self.heading['space']}, {self.objective}: {counted}; best: {best.name}, {cost}{accuracy}"

    def _repr_html_(self) -> str:
        from cosoc.views import preformatted

        return preformatted(self.table())

    @property
    def points(self) -> DataFrame:
        """What was simulated as a frame, a row a mapping: figures, estimates, metric, and whether it is on the front.
        InputError where pandas is not installed."""
        from cosoc.views import frame

        front = {one.name for one in self.front()}
        rows = []
        for one in self.found:
            plain = one.plain()
            estimated = {f"estimated_{key}": value for key, value in (plain["estimated"] or {}).items()}
            row = {"name": one.name, "mapping": one.mapping, "known": one.known, "front": one.name in front}
            rows.append(row | {self.metric.name: one.accuracy} | plain["simulated"] | estimated)
        return frame(rows, "name")

    def plot(self) -> Figure:
        """The front, drawn as in the run's folder."""
        from cosoc.search.picture import figure

        return figure(self)

    @property
    def unfinished(self) -> str:
        """What a limit of time has cut short, as a clause; empty where nothing was."""
        rounds = self.about.get("unfinished")
        return f"{' and '.join(rounds)} cut short after {self.about['time_budget_s']:g} s" if rounds else ""

    @property
    def trained(self) -> bool:
        return all(one.accuracy is not None for one in self.found)

    @property
    def metric(self) -> Metric:
        """What networks were judged by, where they were trained."""
        return next((one.metric for one in self.found if one.accuracy is not None), ACCURACY)

    @property
    def axes(self) -> tuple[str, str]:
        """The two that the front is of: the objective, and the metric; without training energy (of energy: latency)."""
        if self.trained:
            return self.objective, self.metric.name
        return self.objective, "latency" if self.objective == "energy" else "energy"

    def value(self, figures: Figures) -> float:
        """The objective's value, to be small."""
        return float(objective(self.objective)(figures))

    @property
    def best(self) -> Found:
        """The least of the objective among what meets the targets (where nothing does, what misses them least), what
        is known included. Of a trained network, of the points that were searched, as the metric speaks too."""
        beaten = self.beaten()
        searched = [one for one in self.found if not one.known and one.name not in beaten]
        aim = within(objective(self.objective), self.targets)
        return min(searched or self.found if self.trained else self.found, key=lambda one: float(aim(one.simulated)))

    def at(self, one: Found) -> tuple[float, float]:
        """Where a candidate is with regard to the front: both to be small."""
        if one.accuracy is not None and self.trained:
            return self.value(one.simulated), self.metric.shortfall(one.accuracy)
        return self.value(one.simulated), float(objective(self.axes[1])(one.simulated))

    def front(self) -> list[Found]:
        """What nothing else beats or equals in both axes, by the first."""
        return [self.found[i] for i in non_dominated([self.at(one) for one in self.found])]

    @property
    def seeds(self) -> int:
        """How often each mapping was trained."""
        return min((len(one.accuracies) for one in self.found), default=0)

    def beaten(self) -> dict[str, str]:
        """What a search that trains has found and something else beats or equals in both axes, each with what does:
        these points are not shown as found."""
        front = self.front()
        names = {one.name for one in front}
        if not self.trained:
            return {}
        out = {}
        for one in self.found:
            if not one.known and one.name not in names:
                x, y = self.at(one)
                out[one.name] = next(o.name for o in front if self.at(o)[0] <= x and self.at(o)[1] <= y)
        return out

    def claims(self) -> list[str]:
        """What may be said of a search that trains against its reference: whether that is on the front, and, of
        several trainings, what is better or worse where the intervals of the two are apart."""
        name = self.about.get("reference_name")
        if not self.trained or name is None:
            return []
        found = {one.name: one for one in self.found}
        if name not in found:
            return [f"the reference {name} was not trained, as it is not among the manual mappings that were asked for"]
        reference = found[name]
        has_itself = f"the reference {name} ({_text(reference)})"
        front = self.front()
        if reference in front:
            said = [f"{has_itself} is on the front"]
        else:
            x, y = self.at(reference)
            by = next(one for one in front if self.at(one)[0] <= x and self.at(one)[1] <= y)
            how = "much" if self.metric.higher_is_better else "little"
            has = f"{by.name} has as {how} ({_text(by)}{', by means' if self.seeds > 1 else ''})"
            said = [f"{has_itself} is not on the front: {has} at no more {self.objective}"]
        if self.seeds > 1:
            sorted_by: dict[str, list[str]] = {"above": [], "below": [], "not to be told from": []}
            for one in front:
                if one is not reference:
                    sorted_by[_against(one.accuracies, reference.accuracies)].append(one.name)
            parts = [f"{', '.join(names)} {how} it" for how, names in sorted_by.items() if names]
            said += (
                [f"{self.metric.plural} of the front against {name}, by intervals: {'; '.join(parts)}"] if parts else []
            )
        return said

    def content(self) -> dict[str, Any]:
        """As result.json has it."""
        points = [self.at(one) for one in self.found]
        corner = (BEYOND * max(x for x, _ in points), BEYOND * max(y for _, y in points))
        exact: dict[str, Any] = {"optimum": None, "bound": None, "gap": None}
        if self.optimum is not None:
            best, least = self.best, self.optimum.bound
            exact = {"optimum": self.optimum.figures.plain(), "bound": least}
            exact["gap"] = self.value(best.estimated) / least - 1 if best.estimated else None
        return {
            **self.heading, "objective": self.objective, "targets": [asdict(one) for one in self.targets],
            "targets_met": met(self.best.simulated, self.targets), "best": self.best.name,
            "points": [one.plain() for one in self.found if not one.known],
            "known": [one.plain() for one in self.found if one.known],
            "front": [one.name for one in self.front()], "beaten": self.beaten(), "claims": self.claims(),
            "axes": list(self.axes),
            "hypervolume": {"value": hypervolume(points, corner), "reference": list(corner)},
            **exact, "about": dict(self.about),
        }  # fmt: skip

    def text(self) -> str:
        """The text of result.json."""
        return json.dumps(self.content(), indent=1, allow_nan=False) + "\n"

    def table(self) -> Table:
        """What was simulated, best first, for a terminal; of more than SHOWN mappings the rest stands in result.json.
        A `note` in a mapping's `about` is said behind its throughput."""
        machine = self.heading.get("soc") or self.heading.get("cluster")
        title = f"{self.heading['workload']} on {machine}, objective {self.objective} (simulated)"
        out = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False, show_edge=False)
        in_mj = any(one.simulated.energy_j >= LARGE_J for one in self.found)
        trained = (self.metric.name,) if self.trained else ()
        for name in ("mapping", *trained, "ms", "mJ" if in_mj else "uJ", "peak KiB", "1/s", "estimated"):
            out.add_column(name, justify="left" if name == "mapping" else "right")
        front, beaten = {one.name for one in self.front()}, self.beaten()
        listed = [one for one in self.found if one.name not in beaten]
        first = sorted(listed, key=lambda one: (one.name not in front, self.at(one)))[:SHOWN]
        for one in sorted(first, key=self.at):
            f = one.simulated
            drift = self.value(one.estimated) / self.value(f) - 1 if one.estimated else None
            out.add_row(
                one.name + (" *" if one.name in front else ""), *(reached(one) for _ in trained),
                f"{f.latency_s * MILLI:.4f}", f"{f.energy_j * (MILLI if in_mj else MICRO):.3f}",
                f"{f.peak_bytes * KIB:.1f}", f"{f.throughput:.4g}{one.about.get('note', '')}",
                f"{drift:+.1%}" if drift is not None else "",
            )  # fmt: skip
        out.caption = f"* not dominated in {' and '.join(self.axes)}; estimated: the objective's error"
        if self.seeds > 1:
            out.caption += f"; +-: where the mean of {self.seeds} trainings lies, 95 %"
        if len(first) < len(listed):
            out.caption += f"; {len(listed) - len(first)} more in result.json"
        if beaten:
            out.caption += f"; not shown: {', '.join(f'{name} (beaten by {by})' for name, by in beaten.items())}"
        out.caption += "".join(f"; {claim}" for claim in self.claims())
        if self.about.get("weights"):
            out.caption += f"; weights: {self.about['weights']}"
        if self.targets:
            said = ", ".join(map(str, self.targets))
            out.caption += (
                f"; {self.best.name} {'meets' if met(self.best.simulated, self.targets) else 'misses'} {said}"
            )
        if self.optimum is not None and self.best.estimated:
            gap = self.value(self.best.estimated) / self.optimum.bound - 1
            out.caption += f"; {self.best.name}: {gap:.2%} above the bound of the estimate"
        if self.unfinished:
            out.caption += f"; {self.unfinished}"
        if self.speed:
            rate, most = self.speed["items_per_s"], self.speed["peak_bytes"] * KIB / 1024
            out.caption += f"; trained {rate:.4g} items a second on {self.speed['device']}, at most {most:.4g} MiB"
        return out


def reached(one: Found) -> str:
    """What a trained network has of its metric, with the interval where there were several trainings."""
    around = ""
    if len(one.accuracies) > 1:
        half = one.metric.shown(half_width(one.accuracies))
        around = f" +-{half:.2f}" if one.metric.share else f" +-{half:.2g}"
    return f"{_text(one)}{around}"


def _text(one: Found) -> str:
    return "" if one.accuracy is None else one.metric.text(one.accuracy)


def _against(one: Sequence[float], other: Sequence[float]) -> str:
    """Whether the intervals of two means are apart, and how."""
    away = mean(one) - mean(other)
    if abs(away) <= half_width(one) + half_width(other):
        return "not to be told from"
    return "above" if away > 0 else "below"


def result_from(content: Mapping[str, Any]) -> Result:
    """A result as its result.json has it. KeyError or TypeError where that is none."""
    metric = metric_from(content["about"].get("metric"))
    found = [found_from(one, key == "known", metric) for key in ("points", "known") for one in content[key]]
    heading = {
        key: content[key]
        for key in ("soc", "cluster", "workload", "space", "seed", "energy_boundary")
        if key in content
    }
    optimum = Optimum(_figures(content["optimum"]), content["bound"]) if content["optimum"] else None
    targets = tuple(Target(**one) for one in content["targets"])
    return Result(heading, content["objective"], tuple(found), optimum, content["about"], targets)


# What is drawn of an axis: factor and label of the raw figure; others are drawn as the objective's value.
DRAWN = {
    "latency": (MILLI, "latency, ms"),
    "energy": (MILLI, "energy, mJ"),
    "edp": (1.0, "energy times latency, J s"),
    "peak": (KIB, "peak of the main memory, KiB"),
    "throughput": (1.0, "inferences a second"),
}


def drawn(result: Result, axis: str, found: Sequence[Found]) -> list[float]:
    """An axis' values as people read them: inferences a second and accuracies, not their inverses."""
    if axis == result.metric.name:
        return [result.metric.shown(one.accuracy or 0.0) for one in found]
    if axis == "throughput":
        return [one.simulated.throughput for one in found]
    factor, _ = DRAWN.get(axis, (1.0, axis))
    return [factor * float(objective(axis)(one.simulated)) for one in found]


def label(result: Result, axis: str) -> str:
    """What an axis is called in pictures."""
    return result.metric.label if axis == result.metric.name else DRAWN.get(axis, (1.0, axis))[1] + " (simulated)"
