"""What the loop knows of a space: rounds of work that propose mappings.

A space has its choices, its estimate and its training, where there is any, to itself. What it gives out are candidates:
mappings, each with a name. The loop (`cosoc.search.loop`) writes each into a file, simulates what stands there, and
keeps what is not dominated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from cosoc.search.metric import ACCURACY, Metric
from cosoc.search.oracle import Oracle
from cosoc.search.runfolder import RunFolder
from cosoc.sim.figures import Figures
from cosoc.sim.model.mapping import Mapping as NetworkMapping
from cosoc.sim.progress import Report


@dataclass(frozen=True)
class Candidate:
    """A mapping to be simulated and kept.

    name: of its file too, one in a run. estimated: what the space's closed form says at the time. accuracy: of the
    network trained under it, by `metric`. known: what one would try without a search (a default, a manual mapping, a
    baseline, a proven optimum of the estimate): the result is never worse. about: plain data that a reader may want.
    accuracies: of every training, where there were several; `accuracy` is their mean.
    """

    name: str
    mapping: NetworkMapping
    estimated: Figures | None = None
    accuracy: float | None = None
    known: bool = False
    about: Mapping[str, Any] = field(default_factory=dict)
    accuracies: tuple[float, ...] = ()
    metric: Metric = ACCURACY


@dataclass(frozen=True)
class Optimum:
    """The least that the estimate can say in the whole space. figures: of it; bound: a value of the objective that
    nothing in the space goes below, by the estimate; equal to that of the figures where the optimum is proven."""

    figures: Figures
    bound: float


class Space(Protocol):
    """A space over one network and one machine, ready to be searched by one objective.

    What is wrong with a search is said (InputError) when its space is made, before anything is written.
    """

    @property
    def name(self) -> str:
        """As `--space` has it."""

    def rounds(self) -> Sequence[str]:
        """Names of the units of work, in order. A round is done whole and kept; a killed one is begun anew, unless it
        keeps checkpoints of its own in the folder. What is known has a round, too."""

    def propose(self, name: str, oracle: Oracle, folder: RunFolder, report: Report) -> Sequence[Candidate]:
        """Do a round. The oracle tells what mappings cost, and remembers it."""

    def learn(self, oracle: Oracle) -> None:
        """Fit the estimate to what has been simulated (`oracle.pairs`): asked for after a round in which the two were
        further apart than the space's own tolerance, or never, where there is nothing to fit."""

    def state(self) -> dict[str, Any]:
        """What later rounds need of those done, as plain data: the estimate's theta, say. Saved after each round."""

    def restore(self, name: str, state: Mapping[str, Any]) -> None:
        """Take up the state after a round that an earlier run has finished; its candidates come with `oracle.pairs`."""

    def optimum(self) -> Optimum | None:
        """The estimate's optimum, where it can be had; asked for once, at the end."""

    def about(self) -> dict[str, Any]:
        """Plain data of this space for the result: the data trained on, say."""
