"""Tasks: what a network's outputs are compared with, by what loss it is trained and by what metric it is judged."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from cosoc.search.metric import ACCURACY, Metric
from cosoc.sim.errors import InputError

CLASSIFICATION = "classification"  # the one task whose outputs are scores of classes
IGNORED = -100  # a target that is none: padding, or a pixel nobody has labelled; as torch's losses have it


@dataclass(frozen=True)
class Task:
    """What a network is trained for.

    loss(outputs, targets): of a batch, a scalar with a gradient, the mean over its items. seen(outputs, targets): what
    the metric needs to know of a batch, a tensor whose first dimension may have any size: those of all batches are
    joined there; figure(seen) is the metric of them all. n_outputs: size of the outputs' dimension `dim`. measured:
    what the metric is called, and its direction. targets: their type; None: as the data have them. ignores: whether
    targets may be IGNORED. reconstructs: targets are the items themselves, flat, with what is known of each behind
    (see `anomaly_detection`). placed: targets lie where the inputs' pixels do, so that what moves, flips or mixes
    inputs would have to do the same to them.
    """

    name: str
    loss: Callable[[Tensor, Tensor], Tensor]
    seen: Callable[[Tensor, Tensor], Tensor]
    figure: Callable[[Tensor], float]
    n_outputs: int
    measured: Metric = ACCURACY
    dim: int = 1
    targets: torch.dtype | None = None
    ignores: bool = False
    reconstructs: bool = False
    placed: bool = False

    def metric(self, outputs: Tensor, targets: Tensor) -> float:
        """The metric of outputs."""
        return self.figure(self.seen(outputs, targets))

    @property
    def higher_is_better(self) -> bool:
        """The metric's direction."""
        return self.measured.higher_is_better

    def targets_of(self, y: Tensor, where: str) -> Tensor:
        """Targets in the task's type. InputError, which says where they are from, for classes that there are not."""
        if self.targets is None:
            return y
        if self.targets is not torch.int64:
            return y.to(self.targets)
        if y.is_floating_point() or y.is_complex():
            raise InputError(f"{where}: targets are {_short(y.dtype)}; whole numbers are needed for {self.name}")
        valid = y[y != IGNORED] if self.ignores else y
        if valid.numel() and not 0 <= int(valid.min()) <= int(valid.max()) < self.n_outputs:
            found = f"{int(valid.min())} to {int(valid.max())}"
            raise InputError(f"{where}: targets are {found}; 0 to {self.n_outputs - 1} are the outputs of its network")
        return y.to(torch.int64)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# ---------------------------------------------------------------------------------------------- the tasks


def classification(n_outputs: int) -> Task:
    """Scores [n, classes] against classes [n]: cross-entropy, and the share of items whose class is the likeliest."""
    return Task(CLASSIFICATION, functional.cross_entropy, _right, _mean, n_outputs, targets=torch.int64)


def regression(n_outputs: int) -> Task:
    """Values [n, outputs] against values [n, outputs], or [n] of one: the mean squared error, as loss and metric."""

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.mse_loss(outputs, targets.view_as(outputs))

    def seen(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets.view_as(outputs)).square().flatten(1).mean(1)

    return Task("regression", loss, seen, _mean, n_outputs, MSE, targets=torch.float32)


def absolute_regression(n_outputs: int) -> Task:
    """As `regression`, by the mean absolute error."""

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.l1_loss(outputs, targets.view_as(outputs))

    def seen(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets.view_as(outputs)).abs().flatten(1).mean(1)

    return Task("absolute_regression", loss, seen, _mean, n_outputs, MAE, targets=torch.float32)


def sequence_labelling(n_outputs: int) -> Task:
    """Scores [n, positions, labels] against labels [n, positions]: cross-entropy over the positions of a batch that
    have a label, and the share of positions whose label is the likeliest."""

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(outputs.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)

    def seen(outputs: Tensor, targets: Tensor) -> Tensor:
        labelled = targets != IGNORED
        return outputs.argmax(2)[labelled] == targets[labelled]

    return Task(
        "sequence_labelling", loss, seen, _mean, n_outputs, dim=2, targets=torch.int64, ignores=True, placed=True
    )


def segmentation(n_outputs: int) -> Task:
    """Scores [n, classes, h, w] against classes [n, h, w]: cross-entropy over the labelled pixels of a batch, and the
    intersection over the union of a class' pixels, found and true, in all items together: the mean over the classes
    that are found or true anywhere."""

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(outputs, targets, ignore_index=IGNORED)

    def seen(outputs: Tensor, targets: Tensor) -> Tensor:
        labelled = targets != IGNORED
        pairs = targets[labelled] * n_outputs + outputs.argmax(1)[labelled]
        return torch.bincount(pairs, minlength=n_outputs**2).view(1, n_outputs, n_outputs)

    return Task(
        "segmentation", loss, seen, mean_iou, n_outputs, MEAN_IOU, targets=torch.int64, ignores=True, placed=True
    )


def anomaly_detection(n_outputs: int) -> Task:
    """Items rebuilt, [n, features], against [n, features + known]: the item itself, flat, and what is known of it: 0
    for a normal one or 1 for an anomaly, and perhaps the number of the clip that it is a window of. Trained to rebuild,
    by the mean squared error; judged by the area under the ROC curve of this error, of a clip its windows' mean."""

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.mse_loss(outputs.flatten(1), targets[:, :n_outputs])

    def seen(outputs: Tensor, targets: Tensor) -> Tensor:
        error = (outputs.flatten(1) - targets[:, :n_outputs]).square().mean(1, keepdim=True)
        return torch.cat([error, targets[:, n_outputs:]], 1)

    def figure(rows: Tensor) -> float:
        errors, anomalous = rows[:, 0].double(), rows[:, 1]
        if rows.shape[1] > 2:
            _, clip = torch.unique(rows[:, 2], return_inverse=True)
            windows = torch.bincount(clip)
            errors = torch.bincount(clip, errors) / windows
            anomalous = torch.bincount(clip, anomalous) / windows
        return auc(errors, anomalous > 0.5)

    return Task(
        "anomaly_detection", loss, seen, figure, n_outputs, AUC, targets=torch.float32, reconstructs=True, placed=True
    )


MSE = Metric("mse", "mses", best=0.0, higher_is_better=False, share=False)
MAE = Metric("mae", "maes", best=0.0, higher_is_better=False, share=False)
MEAN_IOU = Metric("mean_iou", "mean_ious")
AUC = Metric("auc", "aucs")
TASKS: Mapping[str, Callable[[int], Task]] = {
    made.__name__: made
    for made in (
        classification, regression, absolute_regression, sequence_labelling, segmentation, anomaly_detection,
    )
}  # fmt: skip


def named_task(name: str, n_outputs: int, where: str) -> Task:
    """A task of TASKS for so many outputs. InputError, which says where it is named, for another."""
    if name not in TASKS:
        raise InputError(f"{where}: no task named {name!r}; there is {', '.join(TASKS)}")
    if n_outputs < 1:
        raise InputError(f"{where}: {n_outputs} outputs; at least 1 is needed")
    return TASKS[name](n_outputs)


# ---------------------------------------------------------------------------------------------- their metrics


def _right(scores: Tensor, classes: Tensor) -> Tensor:
    return scores.argmax(1) == classes


def _mean(values: Tensor) -> float:
    if not len(values):
        raise InputError("nothing has a target that could be compared with")
    return float(values.sum()) / len(values)


def mean_iou(counts: Tensor) -> float:
    """Of pixels counted [batches, true class, found class]."""
    counts = counts.sum(0).double()
    both, either = counts.diagonal(), counts.sum(0) + counts.sum(1) - counts.diagonal()
    there = either > 0
    return _mean(both[there] / either[there])


def auc(scores: Tensor, positive: Tensor) -> float:
    """The probability that a positive item has a higher score than one that is not, ties counting half: the area under
    the ROC curve, from the ranks of the scores (Mann and Whitney 1947); no number where a score is none. scores,
    positive: [n]."""
    if not bool(scores.isfinite().all()):
        return math.nan
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if not n_positive or not n_negative:
        raise InputError(f"{n_negative} normal items and {n_positive} anomalies: an AUC needs some of both")
    _, at, ties = torch.unique(scores, return_inverse=True, return_counts=True)
    ranks = ties.cumsum(0).double() - (ties - 1).double() / 2  # from 1; of equal scores their mean
    above = float(ranks[at][positive].sum()) - n_positive * (n_positive + 1) / 2
    return above / (n_positive * n_negative)
