"""The loss of a batch: the task's, with what a recipe adds around it."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from cosoc.search.training.batches import Batch
from cosoc.search.training.recipe import Recipe
from cosoc.search.training.task import CLASSIFICATION, Task
from cosoc.sim.errors import InputError

IMAGE_DIMS = 4  # with the one of items
MAP_DIMS = 2  # of a target: rows and columns


def check_losses(recipe: Recipe, task: Task, x: Tensor, y: Tensor) -> None:
    """InputError for what a recipe does that the task or its items do not allow. x, y: one item or more, and their
    targets, of which maps lie in images whatever the task is."""
    change, at = recipe.augmentation, f"recipe {recipe.name}"
    if task.name != CLASSIFICATION:
        for name, given in (("label_smoothing", recipe.label_smoothing), ("distillation", recipe.distillation)):
            if given:
                raise InputError(f"{at}: {name} is of scores of classes, and the task is {task.name}")
    for name, asked in (("crop_pixels", change.crop_pixels), ("flip", change.flip)):
        if asked and x.dim() != IMAGE_DIMS:
            raise InputError(f"{at}: augmentation.{name} is of images (c, h, w), and items are {tuple(x.shape[1:])}")
        if asked and (task.placed or (y.dim() > MAP_DIMS and min(y.shape[-MAP_DIMS:]) > 1)):
            raise InputError(f"{at}: augmentation.{name} moves images, and targets of {task.name} lie in them")
    if change.mixup and not x.is_floating_point():
        raise InputError(f"{at}: augmentation.mixup adds items up, and these are whole numbers")
    if change.mixup and task.reconstructs:
        raise InputError(f"{at}: augmentation.mixup mixes targets' losses, and {task.name} has its items for targets")


def loss_of(task: Task, recipe: Recipe, outputs: Tensor, batch: Batch) -> Tensor:
    """The mean loss of a batch: a scalar with a gradient. outputs: of the network that is trained, for batch.x."""
    loss = task.loss(outputs, batch.y)
    if batch.other_y is not None:
        loss = batch.share * loss + (1 - batch.share) * task.loss(outputs, batch.other_y)
    if recipe.label_smoothing:  # all classes alike, whatever a target is, mixed or not
        alike = -functional.log_softmax(outputs, 1).mean()
        loss = (1 - recipe.label_smoothing) * loss + recipe.label_smoothing * alike
    taught = recipe.distillation
    if taught is not None and batch.taught is not None:
        # The squared temperature keeps the gradient's size what it is at 1.
        t = taught.temperature
        apart = functional.kl_div(
            functional.log_softmax(outputs / t, 1), functional.log_softmax(batch.taught / t, 1), log_target=True,
            reduction="batchmean",
        )  # fmt: skip
        loss = (1 - taught.weight) * loss + taught.weight * t * t * apart
    return loss
