"""Data sets of a user's own, from a function of theirs that is named on the command line: `--data package.module:name`.

The function takes nothing and gives a dictionary:

    train, test     required; and `val`, where that is not to be split off from train. Each is a pair of tensors or
                    arrays (inputs, targets), or a `Dataset` of pairs, or a `DataLoader` of one, whose batches and order
                    are the search's to choose
    task            required: a name of `TASKS`, or a `Task`
    outputs         required with a name: what the network gives for an item; or `classes`, their names
    mean, std       a channel each: how inputs have been normalised, if they have
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sized
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import (
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
    default_collate,
)

from cosoc.search.training.parts import Given, Part, Split, part_of, stored
from cosoc.search.training.task import CLASSIFICATION, Task, named_task
from cosoc.sim.errors import InputError
from cosoc.sim.importers.torch_export import made_by

REQUIRED = ("train", "test", "task")
IMAGE_DIMS = 3  # of an item (c, h, w)
KNOWN = (*REQUIRED, "val", "outputs", "classes", "mean", "std")


def from_factory(spec: str) -> Given:
    """What `package.module:name` gives. InputError for what is missing or cannot be."""
    given = made_by(spec)
    if not isinstance(given, Mapping):
        found = type(given).__name__
        raise InputError(f"{spec}: gives a {found}; a dictionary with {', '.join(REQUIRED)} is needed")
    for key in given:
        if key not in KNOWN:
            raise InputError(f"{spec}: gives {key!r}; known are {', '.join(KNOWN)}")
    for key in REQUIRED:
        if given.get(key) is None:
            raise InputError(f"{spec}: {key} is missing; it gives {', '.join(map(str, given)) or 'nothing'}")
    classes = tuple(map(str, given.get("classes", ())))
    task = _task(spec, given, classes)
    there = [key for key in ("train", "val", "test") if given.get(key) is not None]
    parts = {key: _part(given[key], task, f"{spec}: {key}") for key in there}
    train = parts["train"]
    shape, dtype = _first(train)
    for key, part in parts.items():
        if _first(part) != (shape, dtype):
            raise InputError(f"{spec}: inputs of {key} are {_first(part)}, of train {(shape, dtype)}; give one kind")
    labels = train.y.numpy() if task.name == CLASSIFICATION and isinstance(train, Split) else None
    if task.name == CLASSIFICATION and not classes:
        classes = tuple(str(i) for i in range(task.n_outputs))
    mean, std = (tuple(float(one) for one in np.ravel(given.get(key, ()))) for key in ("mean", "std"))
    _check_statistics(spec, shape, mean, std)
    images = dtype == torch.uint8
    if images and (mean or std or len(shape) != 3):
        raise InputError(
            f"{spec}: inputs are bytes {shape}: pixels (c, h, w), which are normalised here; leave mean and std out"
        )
    return Given(spec, f"{spec}", task, classes, train, parts.get("val"), parts["test"], labels, images, mean, std)


_WANTED = "a pair of tensors (inputs, targets), a Dataset or a DataLoader is needed"


def _task(spec: str, given: Mapping[str, Any], classes: tuple[str, ...]) -> Task:
    task, outputs = given["task"], given.get("outputs")
    if isinstance(task, Task):
        if outputs is not None:
            raise InputError(f"{spec}: outputs stand in the task; leave them out")
        return task
    if not isinstance(task, str):
        raise InputError(f"{spec}: task is a {type(task).__name__}; a name or a Task is needed")
    if outputs is None and not classes:
        raise InputError(f"{spec}: outputs is missing: how many values its network gives for an item")
    count = len(classes) if outputs is None else outputs
    if not isinstance(count, int) or (classes and count != len(classes)):
        raise InputError(
            f"{spec}: outputs is {count!r}; a whole number is needed, that of the classes if they have names"
        )
    return named_task(task, count, spec)


def _part(value: Any, task: Task, called: str) -> Part:
    if isinstance(value, DataLoader):
        if value.collate_fn is not default_collate:
            raise InputError(f"{called}: its loader has a collate_fn, which is not used; let the dataset give tensors")
        if not isinstance(value.dataset, IterableDataset):
            _check_sampler(value, called)
        value = value.dataset
    if isinstance(value, IterableDataset):
        raise InputError(f"{called}: an IterableDataset has no items by number; give a Dataset with __getitem__")
    if isinstance(value, TensorDataset) and len(value.tensors) == 2:
        value = value.tensors
    if isinstance(value, (tuple, list)) and len(value) == 2 and all(hasattr(one, "shape") for one in value):
        return part_of(value[0], value[1], task, called)
    if hasattr(value, "__getitem__") and not isinstance(value, (Mapping, str)):
        if not hasattr(value, "__len__"):
            raise InputError(f"{called}: a {type(value).__name__} without a length; give it a __len__")
        return stored(value.__getitem__, len(value), task, called)
    raise InputError(f"{called}: is a {type(value).__name__}; {_WANTED}")


def _check_sampler(loader: DataLoader[Any], called: str) -> None:
    """InputError where a loader takes other items of its data set than each once: parts that share a data set would
    all be the whole of it."""
    sampler, batches = loader.sampler, loader.batch_sampler
    all_once = isinstance(sampler, SequentialSampler)
    if isinstance(sampler, RandomSampler):
        all_once = not sampler.replacement and sampler.num_samples == len(cast(Sized, loader.dataset))
    if not all_once or (batches is not None and getattr(batches, "sampler", None) is not sampler):
        chosen = type(sampler if not all_once else batches).__name__
        raise InputError(
            f"{called}: its loader draws by a {chosen}, which is not used; give the items that are meant as a Dataset, "
            "such as torch.utils.data.Subset(dataset, numbers)"
        )


def _check_statistics(spec: str, shape: tuple[int, ...], mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """InputError for a mean and deviation by which no image can have been normalised."""
    if len(mean) != len(std):
        raise InputError(f"{spec}: mean has {len(mean)} values, and std {len(std)}; give both, a channel each")
    if len(shape) == IMAGE_DIMS and mean and len(mean) != shape[0]:
        raise InputError(f"{spec}: mean and std have {len(mean)} values, and inputs {shape[0]} channels; give each one")
    if not all(map(math.isfinite, mean + std)) or any(one <= 0 for one in std):
        raise InputError(f"{spec}: mean {mean}, std {std}: numbers are needed, of std above 0")


def _first(part: Part) -> tuple[tuple[int, ...], torch.dtype]:
    x, _ = part.items(torch.zeros(1, dtype=torch.int64))
    return tuple(x.shape[1:]), x.dtype
