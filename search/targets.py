"""Bounds on objectives: what must hold of a mapping while something else is to be small."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from cosoc.sim.errors import InputError
from cosoc.sim.figures import OBJECTIVES, Figures, Objective

# Of each objective, what a unit is worth in SI units (a byte of memories: KB is 1024 bytes, as memories are built).
UNITS: dict[str, dict[str, float]] = {
    "latency": {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9},
    "energy": {"J": 1.0, "mJ": 1e-3, "uJ": 1e-6, "nJ": 1e-9},
    "edp": {"Js": 1.0, "mJs": 1e-3, "uJs": 1e-6, "mJms": 1e-6, "uJms": 1e-9},
    "peak": {"B": 1.0, "KB": 2.0**10, "KiB": 2.0**10, "MB": 2.0**20, "MiB": 2.0**20, "GB": 2.0**30, "GiB": 2.0**30},
    "throughput": {"": 1.0, "/s": 1.0},
}
UNMET = 1e30  # above the value of any objective


@dataclass(frozen=True)
class Target:
    """An objective of `OBJECTIVES` and the most that its value may be, in SI units: J, s, bytes, J s; of throughput, as
    of the objective, the seconds between inferences."""

    objective: str
    most: float

    def excess(self, figures: Any) -> Any:
        """By which part of `most` the figures are above it; 0 or less where the target is met."""
        return OBJECTIVES[self.objective](figures) / self.most - 1.0

    def met(self, figures: Figures) -> bool:
        """Whether figures are within the target."""
        return float(OBJECTIVES[self.objective](figures)) <= self.most

    def reached(self, figures: Figures) -> Target:
        """The target that the figures just meet."""
        return replace(self, most=float(OBJECTIVES[self.objective](figures)))

    def __str__(self) -> str:
        if self.objective == "throughput":
            return f"throughput={1 / self.most:.4g}"
        units = sorted(UNITS[self.objective].items(), key=lambda one: -one[1])
        unit, worth = next((one for one in units if self.most >= one[1]), units[-1])
        return f"{self.objective}={self.most / worth:.4g}{unit}"


def target(text: str, option: str = "--target") -> Target:
    """The target of NAME=VALUE with a unit, such as latency=5ms or throughput=30. InputError where it is none."""
    name, equals, amount = (part.strip() for part in text.partition("="))
    if not equals or name not in OBJECTIVES:
        raise InputError(
            f"{option} {text}: found {name!r}; NAME=VALUE is needed, such as latency=5ms, with NAME one of "
            f"{', '.join(OBJECTIVES)}"
        )
    most = quantity(name, amount, f"{option} {text}")
    return Target(name, 1 / most if name == "throughput" else most)


def peak(text: str) -> Target:
    """The target of `--peak`: bytes with a unit, such as 256KB. InputError where it is none."""
    return Target("peak", quantity("peak", text, f"--peak {text}"))


def targets(texts: Sequence[str] | None, most: str | None = None) -> tuple[Target, ...]:
    """Those of all `--target`s and of `--peak`; InputError where one objective has two."""
    found = [*(target(text) for text in texts or ()), *([peak(most)] if most is not None else [])]
    seen: set[str] = set()
    for one in found:
        if one.objective in seen:
            raise InputError(f"two targets bound {one.objective}; give one")
        seen.add(one.objective)
    return tuple(found)


def quantity(name: str, text: str, where: str) -> float:
    """A positive number with one of the units of an objective, in SI units."""
    split = re.fullmatch(r"\s*([-+]?[0-9.][0-9_.]*(?:[eE][-+]?[0-9]+)?)\s*(\S*)\s*", text)
    units = UNITS[name]
    try:
        value = float(split[1]) * units[split[2]] if split is not None else math.nan
    except (ValueError, KeyError):
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        named = [unit for unit in units if unit]
        which = f"a positive number of {', '.join(named)}" if "" not in units else "a positive number a second"
        raise InputError(f"{where}: found {text!r}; {which} is needed")
    return value


def met(figures: Figures, bounds: Sequence[Target]) -> bool:
    """Whether figures are within all targets."""
    return all(one.met(figures) for one in bounds)


def within(objective: Objective, bounds: Sequence[Target]) -> Objective:
    """The objective where all targets are met; elsewhere UNMET and more, by how much they are missed. It grows with all
    that objective and targets grow with, so that what is exact for such objectives is exact with targets, too."""
    if not bounds:
        return objective

    def bounded(figures: Any) -> Any:
        missed = sum((one.excess(figures) + abs(one.excess(figures))) / 2 for one in bounds)
        return objective(figures) + UNMET * missed + UNMET * (missed > 0)

    return bounded
