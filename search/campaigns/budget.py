"""What a chip may take: `--budget area=2mm2`, `--budget power=300mW`."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from cosoc.search.campaigns.plan import Task
from cosoc.search.campaigns.work import chip, socs_of
from cosoc.sim.errors import InputError

# By name: the figure of a chip, and units of it.
FIGURES = {
    "area": ("area_mm2", {"mm2": 1.0, "um2": 1e-6}),
    "power": ("peak_power_mw", {"mW": 1.0, "W": 1e3, "uW": 1e-3}),
}


@dataclass(frozen=True)
class Budget:
    """The most that a chip, or all devices of a cluster, may have of a figure, in the unit of its name (mm^2, mW)."""

    text: str
    figure: str
    most: float


def budget(text: str) -> Budget:
    """A budget from NAME=NUMBER and unit; InputError names what there is."""
    name, _, value = text.partition("=")
    found = re.fullmatch(r"\s*([0-9.]+(?:[eE][-+]?[0-9]+)?)\s*(\w+)\s*", value)
    figure, units = FIGURES.get(name.strip(), ("", {}))
    try:
        most = float(found[1]) * units[found[2]] if found else math.nan
    except (KeyError, ValueError):
        most = math.nan
    if not (math.isfinite(most) and most > 0):
        known = " or ".join(f"{one}=NUMBER with {' or '.join(FIGURES[one][1])}" for one in FIGURES)
        raise InputError(f"--budget {text}: {known} is needed, such as area=2mm2")
    return Budget(text, figure, most)


def within(planned: Iterable[Task], budgets: tuple[Budget, ...]) -> Iterator[Task]:
    """The tasks whose chips keep all budgets. InputError for a chip whose file does not state a figure that has one. A
    SoC that cannot be read is left to its task."""
    known: dict[str, bool] = {}
    for task in planned:
        chip_of = json.dumps([task.spec["soc"], task.spec["set"], task.spec.get("space")], sort_keys=True)
        if chip_of not in known:
            known[chip_of] = all(_keeps(task, one) for one in budgets)
        if known[chip_of]:
            yield task


def _keeps(task: Task, one: Budget) -> bool:
    try:
        found = chip(socs_of(task.spec))[one.figure]
    except InputError:
        return True
    if not found:
        keys = "technology, or area_mm2" if one.figure == "area_mm2" else "power_mw, base_power_mw"
        raise InputError(f"--budget {one.text}: {task.spec['soc']} states none ({keys}); leave the budget out")
    return found <= one.most
