"""The parts of a data set, for training, validation and test: held in memory, or read item by item."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from cosoc.search.training.task import Task
from cosoc.sim.errors import InputError


class Part(Protocol):
    """A part of a data set."""

    def __len__(self) -> int:
        """Items."""

    def items(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and targets of some items, int64 [n]; on the device where the part is held."""

    def at(self, index: Tensor) -> Part:
        """A part of these items alone."""

    def normalised(self, mean: Tensor, std: Tensor) -> Part:
        """The same of images uint8 [n, c, h, w] as float32: (p / 255 - mean) / std, a channel each."""

    def to(self, device: str) -> Part:
        """The same on a device, where it is held in memory."""


@dataclass(frozen=True)
class Split:
    """Held in memory: inputs x [n, ...], float32 but for images that are not normalised yet (uint8) and numbers of
    tokens (int64); targets y [n, ...]."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def items(self, index: Tensor) -> tuple[Tensor, Tensor]:
        index = index.to(self.x.device)
        return self.x[index], self.y[index]

    def at(self, index: Tensor) -> Split:
        return Split(*self.items(index))

    def normalised(self, mean: Tensor, std: Tensor) -> Split:
        return Split(normalise(self.x, mean, std), self.y)

    def to(self, device: str) -> Split:
        return Split(self.x.to(device), self.y.to(device))


@dataclass(frozen=True)
class Stored:
    """Read when they are asked for, and not kept.

    read: number -> (input, target), a `Dataset`'s. index: int64 [n], the numbers that are in the part. called: in
    messages. shape, dtype: of every input. scale: mean and std [c], of images, once they are known.
    """

    read: Callable[[int], Any]
    index: Tensor
    called: str
    task: Task
    shape: tuple[int, ...]
    dtype: torch.dtype
    scale: tuple[Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.index)

    def items(self, index: Tensor) -> tuple[Tensor, Tensor]:
        pairs = [self._item(number) for number in self.index[index].tolist()]
        xs, ys = [x for x, _ in pairs], [y for _, y in pairs]
        if len({y.shape for y in ys}) > 1:
            raise InputError(f"{self.called}: targets of {tuple(ys[0].shape)} and others; all must have one shape")
        x, y = torch.stack(xs), torch.stack(ys)
        return x if self.scale is None else normalise(x, *self.scale), y

    def _item(self, number: int) -> tuple[Tensor, Tensor]:
        x, y = pair(self.read, number, self.called)
        if tuple(x.shape) != self.shape or x.dtype != self.dtype:
            found = f"{tuple(x.shape)} {x.dtype}".replace("torch.", "")
            first = f"{self.shape} {self.dtype}".replace("torch.", "")
            raise InputError(f"{self.called}: item {number} is {found}, and the first {first}; all must be alike")
        y = self.task.targets_of(y, f"{self.called}: item {number}")
        check_finite(y, f"{self.called}: item {number}", "targets")
        if self.task.reconstructs:
            y = torch.cat([x.flatten(), y.flatten()])
        return x, y

    def at(self, index: Tensor) -> Stored:
        return replace(self, index=self.index[index])

    def normalised(self, mean: Tensor, std: Tensor) -> Stored:
        return replace(self, scale=(mean, std))

    def to(self, device: str) -> Stored:
        return self


@dataclass(frozen=True)
class Given:
    """A data set as a user has it. val, test: None where they are to be split off. labels: int64 [n], a class of each
    item for training, by which it is split; None: at random. images: whether inputs are pixels, uint8 [c, h, w].
    mean, std: as inputs that are none have been normalised already, a channel each; empty where nobody says. same: each
    item is the same whenever it is read, so that it may be kept. own: of a user, not a set that is known."""

    name: str
    provenance: str
    task: Task
    classes: tuple[str, ...]
    train: Part
    val: Part | None
    test: Part | None
    labels: np.ndarray | None
    images: bool
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    same: bool = False
    own: bool = True


def normalise(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Images uint8 [n, c, h, w] as float32, with mean and std [c] of pixels in 0..1."""
    shape = (1, -1, 1, 1)
    return x.to(torch.float32).div_(255).sub_(mean.view(shape)).div_(std.view(shape))


def part_of(x: Any, y: Any, task: Task, called: str) -> Split:
    """Inputs [n, ...] and targets [n, ...], tensors or arrays, as a part held in memory. InputError for what they
    cannot be."""
    inputs, targets = input_of(x, called), task.targets_of(tensor(y, called), called)
    check_finite(targets, called, "targets")
    if inputs.dim() < 2 or targets.dim() < 1 or len(inputs) != len(targets) or not len(inputs):
        found = f"inputs {tuple(inputs.shape)} with targets {tuple(targets.shape)}"
        raise InputError(f"{called}: {found}; as many of each are needed, and inputs of at least two dimensions")
    if task.reconstructs:
        targets = torch.cat([inputs.flatten(1), targets.reshape(len(targets), -1)], 1)
    return Split(inputs, targets)


def stored(read: Callable[[int], Any], n: int, task: Task, called: str) -> Stored:
    """A data set that gives (input, target) by number, as a part. InputError for what its first item cannot be."""
    if n < 1:
        raise InputError(f"{called}: holds no items")
    x, _ = pair(read, 0, called)
    part = Stored(read, torch.arange(n), called, task, tuple(x.shape), x.dtype)
    part.items(torch.zeros(1, dtype=torch.int64))
    return part


def pair(read: Callable[[int], Any], number: int, called: str) -> tuple[Tensor, Tensor]:
    """An item as tensors."""
    try:
        found = read(number)
    except InputError:
        raise
    except Exception as error:  # a user's data set may raise anything
        raise InputError(f"{called}: item {number}: {type(error).__name__}: {' '.join(str(error).split())}") from error
    if not isinstance(found, (tuple, list)) or len(found) != 2:
        keys = f" of {', '.join(map(str, found))}" if isinstance(found, Mapping) else ""
        raise InputError(f"{called}: item {number} is a {type(found).__name__}{keys}; (input, target) is needed")
    at = f"{called}: item {number}"
    return input_of(found[0], at), tensor(found[1], at)


def input_of(x: Any, called: str) -> Tensor:
    """An input, or many: float32, or as it is where it is pixels (uint8) or whole numbers (then int64). InputError for
    what is no number."""
    found = tensor(x, called)
    if found.dtype == torch.uint8:
        return found
    found = found.to(torch.float32 if found.is_floating_point() else torch.int64)
    check_finite(found, called, "inputs")
    return found


def check_finite(x: Tensor, called: str, what: str) -> None:
    """InputError where some of many are infinite or no number: a step with one of them leaves no weight a number."""
    if x.is_floating_point() and not bool(x.isfinite().all()):
        n = int((~x.isfinite()).sum())
        raise InputError(f"{called}: {n} of {x.numel():,} {what} infinite or no number (NaN); numbers are needed")


def tensor(value: Any, called: str) -> Tensor:
    """A tensor of what may be one, an array or a number."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, (np.ndarray, np.generic, int, float, bool)):
        array = np.asarray(value)
        if array.dtype.kind in "biuf":
            return torch.from_numpy(np.require(array, requirements=("C", "W")))
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    raise InputError(f"{called}: holds a {kind}; tensors, arrays or numbers are needed")
