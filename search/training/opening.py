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
from cosoc.search.training.train import generator
from cosoc.search.training.weights import Pretrained, fitted
from cosoc.sim.errors import InputError
from cosoc.sim.importers.torch_export import from_module, load_module
from cosoc.sim.importers.zoo import is_zoo
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import Workload

PROBED = 2  # images that a network is tried with


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


def check_network(name: str, shape: tuple[int, int, int], classes: int) -> Workload | None:
    """A built-in network for images (c, h, w) of so many classes, as a workload without weights; InputError where it
    cannot take them, with the size that it is made for. None for a factory, which only its own module knows."""
    if ":" in name:
        return None
    if name not in NETWORKS:
        raise InputError(f"no network named {name!r}; there is {', '.join(NETWORKS)}, or package.module:factory")
    with torch.device("meta"):  # sizes alone are read: the largest network's weights would take a gigabyte
        net = build(name, shape[0], classes).eval()
        _check_outputs(net, name, torch.empty(PROBED, *shape), classes)
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


def network(
    name: str, data: Data, input_shape: Sequence[int] | None, seed: int, module: nn.Module | None = None
) -> nn.Module:
    """The float network for the data's channels and classes, its weights drawn from the seed; or a copy of `module`."""
    if input_shape is not None and tuple(input_shape)[-3:] != data.input_shape:
        raise InputError(f"--input-shape {tuple(input_shape)}: the images of {data.name} are {data.input_shape}")
    if module is not None:
        net = copy.deepcopy(module).cpu()
        _check_outputs(net.eval(), name, data.val.x[:PROBED], len(data.classes))
        return net
    with seeded(seed, "weights"):
        sizes = (len(data.classes), data.input_shape[0])
        net = load_module(name, *sizes) if ":" in name else build(name, data.input_shape[0], len(data.classes))
    _check_outputs(net.eval(), name, data.val.x[:PROBED], len(data.classes))
    return net


def _check_outputs(net: nn.Module, name: str, x: torch.Tensor, classes: int) -> None:
    """InputError unless a network takes images x and gives one score for each class."""
    found = tuple(x.shape[1:])
    try:
        with torch.no_grad():
            out = net(x)
    except Exception as error:  # a module may raise anything on a size that it is not made for
        made = f"it is made for {NETWORKS[name].input_shape}; " if name in NETWORKS else ""
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{name} cannot take images of {found} (c, h, w): {made}{reason}") from None
    if not isinstance(out, torch.Tensor) or tuple(out.shape) != (len(x), classes):
        given = tuple(out.shape) if isinstance(out, torch.Tensor) else f"a {type(out).__name__}"
        raise InputError(f"{name} gives {given} for {len(x)} images; there are {classes} classes")


@contextmanager
def seeded(seed: int, what: str) -> Iterator[None]:
    """torch's default generator, seeded for one purpose."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator(seed, what))))
        yield
