"""Are losses and metrics of tasks what they are called? Held against brute force over pairs and pixels, and by hand."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch

from cosoc.search.metric import ACCURACY, Metric, metric_from
from cosoc.search.training.evaluate import mean_loss, metric
from cosoc.search.training.parts import Split
from cosoc.search.training.task import (
    IGNORED,
    TASKS,
    absolute_regression,
    anomaly_detection,
    auc,
    classification,
    named_task,
    regression,
    segmentation,
    sequence_labelling,
)  # fmt: skip
from cosoc.sim.errors import InputError

Outputs = tuple[torch.Tensor, torch.Tensor]


def made(name: str, n: int, seed: int) -> Outputs:
    """Outputs and targets of a task for n items, at random."""
    draws = torch.Generator().manual_seed(seed)

    def number(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draws)

    def label(classes: int, *shape: int) -> torch.Tensor:
        return torch.randint(classes, shape, generator=draws)

    if name == "classification":
        return number(n, 4), label(4, n)
    if name in ("regression", "absolute_regression"):
        return number(n, 4), number(n, 4)
    if name == "sequence_labelling":
        y = label(4, n, 5)
        y[:, 3:][label(2, n, 2) == 0] = IGNORED
        return number(n, 5, 4), y
    if name == "segmentation":
        y = label(4, n, 3, 2)
        y[label(5, n, 3, 2) == 0] = IGNORED
        return number(n, 4, 3, 2), y
    y = torch.cat([number(n, 4), (torch.arange(n) % 2)[:, None].float()], 1)
    return number(n, 4), y


@pytest.mark.parametrize("seed", range(20))
def test_auc_is_the_share_of_pairs_in_the_right_order(seed: int) -> None:
    """Counted over all pairs of a positive and another item, ties half."""
    rng = np.random.default_rng(seed)
    scores, positive = rng.integers(0, 6, 30) / 7, rng.random(30) < 0.3
    positive[:2] = True, False
    pairs = list(product(scores[positive], scores[~positive]))
    counted = sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs) / len(pairs)
    assert auc(torch.from_numpy(scores), torch.from_numpy(positive)) == pytest.approx(counted, abs=1e-12)


def test_a_training_that_diverged_is_said() -> None:
    """A metric that is no number would be no point of a front; and of scores that are none one is the largest, too."""
    net = torch.nn.Sequential(torch.nn.Identity())
    net.weight = torch.nn.Parameter(torch.zeros(1))
    for task in (regression(1), anomaly_detection(1), classification(1)):
        x = torch.tensor([[1.0], [math.nan]])
        y = torch.tensor([[1.0, 0.0], [1.0, 1.0]]) if task.reconstructs else torch.zeros(2, 1)
        y = y[:, 0].long() if task.name == "classification" else y
        with pytest.raises(InputError, match=f"the network's {task.measured.name} is nan: its training diverged"):
            metric(net, Split(x, y), task)


def test_auc_needs_both_kinds() -> None:
    with pytest.raises(InputError, match="3 normal items and 0 anomalies: an AUC needs some of both"):
        auc(torch.rand(3), torch.zeros(3, dtype=torch.bool))


@pytest.mark.parametrize("seed", range(10))
def test_mean_iou_is_counted_pixel_by_pixel(seed: int) -> None:
    """For each class the pixels that are found and true over those that are either, over all items; a class that is
    neither anywhere does not count."""
    outputs, targets = made("segmentation", 6, seed)
    outputs[:, 3] = -100.0  # never found
    targets[targets == 3] = 0  # nor true
    found = outputs.argmax(1)
    ratios = []
    for one in range(4):
        both = either = 0
        for place in product(range(6), range(3), range(2)):
            if targets[place] != IGNORED:
                f, t = bool(found[place] == one), bool(targets[place] == one)
                both, either = both + (f and t), either + (f or t)
        ratios += [both / either] if either else []
    assert len(ratios) == 3
    assert segmentation(4).metric(outputs, targets) == pytest.approx(sum(ratios) / 3, abs=1e-12)


def test_anomalies_of_a_clip_are_judged_by_the_mean_of_its_windows() -> None:
    """By hand: windows' errors 0, 4 (normal clip, mean 2), 3, 3 (anomaly, mean 3): the clips are told apart, of the
    windows one pair of four is not."""
    outputs, known = torch.zeros(4, 1), torch.tensor([[0.0, 0], [0, 0], [1, 1], [1, 1]])
    items = torch.tensor([0.0, 4, 3, 3]).sqrt()[:, None]
    task = anomaly_detection(1)
    assert task.metric(outputs, torch.cat([items, known], 1)) == 1.0
    assert task.metric(outputs, torch.cat([items, known[:, :1]], 1)) == 0.5


def test_errors_of_regression_by_hand() -> None:
    outputs, targets = torch.tensor([[1.0], [2.0]]), torch.tensor([2.0, 5.0])
    assert regression(1).metric(outputs, targets) == 5.0  # (1 + 9) / 2
    assert absolute_regression(1).metric(outputs, targets) == 2.0  # (1 + 3) / 2
    assert float(regression(1).loss(outputs, targets)) == 5.0
    assert float(absolute_regression(1).loss(outputs, targets)) == 2.0


def test_positions_without_a_label_count_for_nothing() -> None:
    """Two labelled positions, one right."""
    scores = torch.tensor([[[1.0, 0], [1, 0], [0, 1]]])
    assert sequence_labelling(2).metric(scores, torch.tensor([[0, 1, IGNORED]])) == 0.5


@pytest.mark.parametrize("name", TASKS)
def test_a_metric_does_not_depend_on_how_items_are_batched(name: str) -> None:
    """Of 20 items at once, and 7 by 7; a network that gives what it takes. The loss, too, where every item counts
    alike (labelled positions are a batch's, not an item's)."""
    outputs, targets = made(name, 20, 1)
    task = TASKS[name](4)
    net = torch.nn.Sequential(torch.nn.Identity())
    net.weight = torch.nn.Parameter(torch.zeros(1))
    part = Split(outputs, targets)
    assert metric(net, part, task, batch=7) == pytest.approx(task.metric(outputs, targets), rel=1e-6)
    if not task.ignores:
        assert mean_loss(net, part, task, 7) == pytest.approx(float(task.loss(outputs, targets)), rel=1e-5)


@pytest.mark.parametrize("name", TASKS)
def test_going_down_the_loss_makes_the_metric_better(name: str) -> None:
    """By gradient on the outputs themselves: from anywhere to the best that can be, in the metric's direction."""
    outputs, targets = made(name, 12, 3)
    task = TASKS[name](4)
    before = task.metric(outputs, targets)
    outputs.requires_grad_()
    normal = targets[:, -1:] == 0 if name == "anomaly_detection" else None  # what is trained on
    for step in range(400):
        kept = outputs if normal is None else torch.where(normal, outputs, outputs.detach())
        (grad,) = torch.autograd.grad(task.loss(kept, targets), outputs)
        rate = 40.0 if task.ignores or name == "classification" else 2.0
        outputs.data -= rate * (1 - step / 400) * grad
    after = task.metric(outputs.detach(), targets)
    assert task.measured.shortfall(after) < task.measured.shortfall(before)
    assert task.measured.shortfall(after) == pytest.approx(0.0, abs=1e-3)
    assert (after > before) == task.higher_is_better


@pytest.mark.parametrize("task", [classification(3), segmentation(3)], ids=lambda task: task.name)
def test_classes_that_are_not_there_are_refused(task: object) -> None:
    with pytest.raises(InputError, match=r"here: targets are 0 to 3; 0 to 2 are the outputs of its network"):
        task.targets_of(torch.tensor([0, 3]), "here")  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=r"here: targets are float32; whole numbers are needed"):
        task.targets_of(torch.tensor([0.0]), "here")  # type: ignore[attr-defined]


def test_a_class_to_be_ignored_is_one_for_some_tasks_alone() -> None:
    segmentation(3).targets_of(torch.tensor([IGNORED, 2]), "here")
    with pytest.raises(InputError, match="targets are -100 to 2"):
        classification(3).targets_of(torch.tensor([IGNORED, 2]), "here")


def test_an_unknown_task_is_refused_with_those_there_are() -> None:
    with pytest.raises(InputError, match=r"plan: no task named 'regresion'; there is classification, regression, "):
        named_task("regresion", 3, "plan")


def test_metrics_come_back_as_they_were_written_and_old_results_are_accuracies() -> None:
    for make in TASKS.values():
        measured = make(3).measured
        assert metric_from(measured.plain()) == measured
    assert metric_from(None) is ACCURACY


@pytest.mark.parametrize("name", ["latency", "name", "Top 1", ""])
def test_a_metric_cannot_be_called_what_a_result_says_of_something_else(name: str) -> None:
    with pytest.raises(InputError, match="metric"):
        Metric(name, "others")
