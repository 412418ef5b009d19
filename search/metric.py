"""What a trained network is judged by: a figure's name, its direction, and how people read it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cosoc.sim.errors import InputError
from cosoc.sim.figures import OBJECTIVES

NAME = re.compile(r"[a-z][a-z0-9_]*")
# What a result says of a mapping under names of its own.
TAKEN = frozenset(("about", "estimated", "front", "known", "mapping", "name", "simulated", *OBJECTIVES))


@dataclass(frozen=True)
class Metric:
    """A figure of merit of a trained network.

    name, plural: of one and of several trainings, as keys of result.json and heads of tables. best: what a perfect
    network has; higher_is_better: from which side others come to it. share: of 1, and shown in percent.
    """

    name: str
    plural: str
    best: float = 1.0
    higher_is_better: bool = True
    share: bool = True

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name) or not NAME.fullmatch(self.plural) or {self.name, self.plural} & TAKEN:
            raise InputError(
                f"metric {self.name!r}, {self.plural!r}: names in lower case are needed, none of a result's own"
            )
        if self.name == self.plural:
            raise InputError(f"metric {self.name!r}: its plural must be another name")

    def shortfall(self, value: float) -> float:
        """How far a value is from the best, to be small."""
        return self.best - value if self.higher_is_better else value - self.best

    def text(self, value: float) -> str:
        """A value as people read it."""
        return f"{value:.2%}" if self.share else f"{value:.4g}"

    def shown(self, value: float) -> float:
        """A value on an axis: shares in percent."""
        return 100 * value if self.share else value

    @property
    def label(self) -> str:
        """Of an axis."""
        return f"test {self.name.replace('_', ' ')}{', %' if self.share else ''}"

    def plain(self) -> dict[str, Any]:
        """As it stands in result.json."""
        return asdict(self)


ACCURACY = Metric("accuracy", "accuracies")


def metric_from(plain: Mapping[str, Any] | None) -> Metric:
    """A metric as `Metric.plain` wrote it; accuracy where a result of before names none."""
    return ACCURACY if plain is None else Metric(**plain)
