"""Tasks: what a network's outputs are compared with, by what loss it is trained and by what metric it is judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from cosoc.search.metric import ACCURACY, Metric


@dataclass(frozen=True)
class Task:
    """What a network is trained for.

    loss(outputs, targets): of a batch, a scalar with a gradient, the mean over its items. seen(outputs, targets): what
    the metric needs to know of a batch, a tensor whose first dimension may have any size: those of all batches are
    joined there; figure(seen) is the metric of them all. n_outputs: size of the outputs' dimension 1. measured: what
    the metric is called, and its direction.
    """

    name: str
    loss: Callable[[Tensor, Tensor], Tensor]
    seen: Callable[[Tensor, Tensor], Tensor]
    figure: Callable[[Tensor], float]
    n_outputs: int
    measured: Metric = ACCURACY

    def metric(self, outputs: Tensor, targets: Tensor) -> float:
        """The metric of outputs."""
        return self.figure(self.seen(outputs, targets))

    @property
    def higher_is_better(self) -> bool:
        """The metric's direction."""
        return self.measured.higher_is_better


def classification(n_classes: int) -> Task:
    """Scores [n, classes] against classes int64 [n]: cross-entropy, and the share of items whose class is the
    likeliest."""
    return Task("classification", functional.cross_entropy, _right, _mean, n_classes)


def _right(scores: Tensor, classes: Tensor) -> Tensor:
    return scores.argmax(1) == classes


def _mean(values: Tensor) -> float:
    return float(values.sum()) / len(values)
