"""What is known of a search before it trains: the network fits the data, something can be chosen, a device is there."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from cosoc.search.spaces.channels import cores_of
from cosoc.search.training.data import Data
from cosoc.search.training.nets import NETWORKS, build
from cosoc.search.training.recipe import Recipe
from cosoc.search.training.task import CLASSIFICATION, Task
from cosoc.search.training.train import generator
from cosoc.search.training.weights import Pretrained, fitted
from cosoc.sim.errors import InputError
from cosoc.sim.importers.torch_export import from_module, load_module
from cosoc.sim.importers.zoo import is_zoo
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import Workload

PROBED = 2  # items that a network is tried with
IMAGE_DIMS = 3  # of an item (c, h, w)


def check_channels(workload: Workload, soc: SoC) -> None:
    """InputError where no layer of a network has two cores to choose between, or one has none at all."""
    able = {core: None for layer in workload if layer.op == "conv" for core in cores_of(layer, soc)}
    if not able:
        raise InputError(f"{workload.name} has no convolution or fully connected layer to search")
    if all(len(cores_of(layer, soc)) < 2 for layer in workload if layer.op == "conv"):
        raise InputError(
            f"{workload.name} on {soc.name}: no layer has two cores to choose between ({', '.join(able)} alone can "
            "compute them), so there are no channels to search; --space tiles+fusion searches tiles and fusion"
        )


def check_network(name: str, shape: tuple[int, ...], task: Task) -> Workload | None:
    """A built-in network for items of a shape, (c, h, w) of images, and a task, as a workload without weights;
    InputError where it cannot take them, with the size that it is made for. None for a factory, which only its own
    module knows."""
    if ":" in name:
        return None
    if name not in NETWORKS:
        raise InputError(f"no network named {name!r}; there is {', '.join(NETWORKS)}, or package.module:factory")
    with torch.device("meta"):  # sizes alone are read: the largest network's weights would take a gigabyte
        net = _built(name, shape, task).eval()
        _check_outputs(net, name, torch.empty(PROBED, *shape), None, task)
        return from_module(net, shape, name)


def is_factory(name: str) -> bool:
    """Whether a network is one's own factory's, which may give it weights."""
    return ":" in name and not is_zoo(name)


def pretrained(net: nn.Module, weights: Path | None, space: str, outputs: int) -> Pretrained | None:
    """The weights of a file, if one is given, put into a float network of so many outputs; InputError where they do not
    fit it."""
    if weights is None:
        return None
    if space != "channels":
        raise InputError(f"weights: mean nothing with --space {space}, whose blocks are new")
    found = fitted(net, weights, outputs)
    found.load(net)
    return found


def check_calibrated(workload: str, space: str, own: bool, weights: Pretrained | None, several: bool) -> None:
    """InputError where there is nothing to calibrate. own: whether the network comes with weights of its own; several:
    whether several trainings or strengths are asked for."""
    if space != "channels":
        raise InputError(f"--calibrate-only: --space {space} trains blocks that are new; leave one out")
    if several:
        raise InputError("--calibrate-only: has one result for all seeds and no strengths; leave them out")
    if weights is None and not own and not is_factory(workload):
        raise InputError(f"--calibrate-only: {workload} has no weights by itself; give --weights FILE")
    if weights is not None and weights.fresh:
        fresh = ", ".join(weights.fresh)
        raise InputError(f"--calibrate-only: {fresh} has no weights for these classes, so it is to be trained")


def check_trained(recipe: Recipe, workload: str, space: str, own: bool, weights: Pretrained | None) -> None:
    """InputError where a recipe without a warm-up would begin with weights that nobody has trained. own: whether the
    network comes with weights of its own."""
    missing = ""
    if space != "channels":  # a mapping's network is trained from its first weights on, but they cannot teach it
        missing = "blocks that are new cannot teach:" if recipe.distillation is not None else ""
    elif weights is not None:
        missing = f"{', '.join(weights.fresh)} of {workload} has none for these classes:" if weights.fresh else ""
    elif not own and not is_factory(workload):
        missing = f"{workload} has none by itself: give --weights FILE, or"
    if missing:
        raise InputError(
            f"recipe {recipe.name}: has no warm-up, as it is for trained weights, and {missing} take a recipe with "
            "epochs.warm_up, such as default"
        )


def check_training(net: nn.Module, name: str, data: Data, items: int) -> None:
    """InputError where a network cannot be trained on so many items at once, though it can be evaluated: it may have
    other outputs in training, or a batch norm only one value a channel. The network stays as it is."""
    x, y = data.train.items(torch.arange(min(PROBED, items)))
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            out = copy.deepcopy(net).train()(x)
            found = type(out).__name__
            if isinstance(out, torch.Tensor):
                data.task.loss(out, y)
    except Exception as error:  # a module may raise anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{name} cannot be trained on {items} items at once: {reason}") from None
    if not isinstance(out, torch.Tensor):
        raise InputError(f"{name} gives a {found} in training; a tensor is needed, so switch auxiliary outputs off")


def network(
    name: str, data: Data, input_shape: Sequence[int] | None, seed: int, module: nn.Module | None = None
) -> nn.Module:
    """The float network for the data's channels and task, its weights drawn from the seed; or a copy of `module`."""
    shape = data.input_shape
    if input_shape is not None and tuple(input_shape)[-len(shape) :] != shape:
        what = "images" if len(shape) == IMAGE_DIMS else "items"
        raise InputError(f"--input-shape {tuple(input_shape)}: the {what} of {data.name} are {shape}")
    if module is not None:
        net = copy.deepcopy(module).cpu()
    else:
        with seeded(seed, "weights"):
            net = load_module(name, data.task.n_outputs, shape[0]) if ":" in name else _built(name, shape, data.task)
    x, y = data.val.items(torch.arange(min(PROBED, len(data.val))))
    _check_outputs(net.eval(), name, x, y, data.task)
    return net


def _built(name: str, shape: tuple[int, ...], task: Task) -> nn.Module:
    """A built-in network for items of a shape; one that rebuilds them has no classifier."""
    return build(name, shape[0], None if task.reconstructs else task.n_outputs)


def _check_outputs(net: nn.Module, name: str, x: torch.Tensor, y: torch.Tensor | None, task: Task) -> None:
    """InputError unless a network takes items x and gives what the task compares with targets y (None: not known)."""
    found = tuple(x.shape[1:])
    what = "images" if len(found) == IMAGE_DIMS else "items"
    try:
        with torch.no_grad():
            out = net(x)
    except Exception as error:  # a module may raise anything on a size that it is not made for
        made = f"it is made for {NETWORKS[name].input_shape}; " if name in NETWORKS else ""
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        axes = " (c, h, w)" if len(found) == IMAGE_DIMS else ""
        raise InputError(f"{name} cannot take {what} of {found}{axes}: {made}{reason}") from None
    if not isinstance(out, torch.Tensor):
        raise InputError(f"{name} gives a {type(out).__name__}; a tensor is needed")
    given = tuple(out.shape)
    if task.name == CLASSIFICATION and given != (len(x), task.n_outputs):
        raise InputError(f"{name} gives {given} for {len(x)} {what}; there are {task.n_outputs} classes")
    outputs = out.flatten(1) if task.reconstructs and out.dim() > 1 else out
    if len(outputs) != len(x) or outputs.dim() <= task.dim or outputs.shape[task.dim] != task.n_outputs:
        wanted = f"{task.n_outputs} outputs in dimension {task.dim} are needed for {task.name}"
        raise InputError(f"{name} gives {given} for {len(x)} {what}; {wanted}")
    if y is None:
        return
    try:
        loss, seen = task.loss(out, y), task.seen(out, y)
    except Exception as error:  # a task may be a user's
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        targets = f"targets of {tuple(y.shape)} cannot be compared with for {task.name}: {reason}"
        raise InputError(f"{name} gives {given} for {len(x)} {what}, which {targets}") from None
    if not isinstance(loss, torch.Tensor) or loss.dim():
        raise InputError(f"task {task.name}: its loss must be a scalar tensor")
    if not isinstance(seen, torch.Tensor) or not seen.dim():
        raise InputError(f"task {task.name}: what it has seen must be a tensor of one dimension or more")


@contextmanager
def seeded(seed: int, what: str) -> Iterator[None]:
    """torch's default generator, seeded for one purpose."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator(seed, what))))
        yield
