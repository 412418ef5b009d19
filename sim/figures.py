"""What a mapping costs, and what a search may want to be small.

An objective is a function of figures, to be small: one line of `OBJECTIVES`, or a product of powers of them, such as
`latency*energy^2`. It takes whatever has the fields of `Figures`, tensors and arrays too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from cosoc.sim.errors import InputError


@dataclass(frozen=True)
class Figures:
    """What a mapping costs.

    latency_s: of one inference through an empty machine (of a batch, of all its images; on a cluster, of a
    micro-batch). energy_j: of the same (on a cluster, of one inference in the steady state), idle power included.
    peak_bytes: the most that the main memory holds at once, weights and tensors that live there,
    and weights that pass through it: the memory that a designer sizes (on a cluster, that of the fullest device).
    throughput: inferences a second.
    """

    latency_s: float
    energy_j: float
    peak_bytes: int
    throughput: float

    @property
    def edp(self) -> float:
        """Energy times latency, J s."""
        return self.energy_j * self.latency_s

    def plain(self) -> dict[str, float]:
        """As plain data, edp included."""
        return asdict(self) | {"edp": self.edp}


Objective = Callable[[Any], Any]

OBJECTIVES: dict[str, Objective] = {
    "latency": lambda f: f.latency_s,
    "energy": lambda f: f.energy_j,
    "edp": lambda f: f.latency_s * f.energy_j,
    "peak": lambda f: f.peak_bytes,
    "throughput": lambda f: 1.0 / f.throughput,
}
USUAL = {"channels": "latency", "operators": "latency", "tiles": "edp", "splits": "throughput"}  # of each space


def objective(text: str) -> Objective:
    """The objective of a name, or of a product of powers of names. InputError where it is neither."""
    factors: list[tuple[Objective, float]] = []
    for word in text.split("*"):
        name, caret, digits = (part.strip() for part in word.partition("^"))
        power = _number(digits) if caret else 1.0
        if name not in OBJECTIVES or power is None:
            raise InputError(
                f"objective {text!r}: found {word.strip()!r}; {', '.join(OBJECTIVES)} are needed, or a product of "
                "their powers such as latency*energy^2"
            )
        factors.append((OBJECTIVES[name], power))
    if factors[1:] == [] and factors[0][1] == 1.0:
        return factors[0][0]

    def product(figures: Any) -> Any:
        out: Any = 1.0
        for part, power in factors:
            out = out * part(figures) ** power
        return out

    return product


def _number(text: str) -> float | None:
    """A finite number above zero; None where the text is none."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None
