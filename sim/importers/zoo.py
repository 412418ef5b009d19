"""Networks of torchvision and timm by name, `torchvision:resnet18`, where that package is installed.

They come without weights: nothing is downloaded, and a mapping's cost does not depend on them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from cosoc.sim.errors import InputError

Sizes = tuple[int, int, int]  # c, h, w
NEAR = 3  # names that are offered for one that there is not


@dataclass(frozen=True)
class Package:
    """A package of networks. module: where its functions stand; listed: names of its networks; made: one of them, with
    so many classes and input channels where they are given; sizes: of the images that it is made for."""

    module: str
    listed: Callable[[Any], Sequence[str]]
    made: Callable[[Any, str, dict[str, int]], object]
    sizes: Callable[[Any, str], Sequence[int]]


def _torchvision_sizes(module: Any, name: str) -> Sequence[int]:
    """Of the images that its published weights are for."""
    crop = getattr(module.get_model_weights(name).DEFAULT.transforms(), "crop_size", None)
    return (3, crop[0], crop[0]) if crop else ()


PACKAGES = {
    "torchvision": Package(
        "torchvision.models",
        lambda module: module.list_models(),
        lambda module, name, given: module.get_model(name, weights=None, **given),
        _torchvision_sizes,
    ),
    "timm": Package(
        "timm",
        lambda module: module.list_models(),
        lambda module, name, given: module.create_model(name, pretrained=False, **given),
        lambda module, name: module.get_pretrained_cfg(name).input_size,
    ),
}


def is_zoo(spec: str) -> bool:
    """Whether a name is one of a network of these packages."""
    return spec.partition(":")[0] in PACKAGES and ":" in spec


def made(spec: str, classes: int | None = None, channels: int | None = None) -> object:
    """The network of such a name. classes, channels: of its scores and of its input, where they are not its own; a
    package that knows no other channels refuses them. Raises InputError."""
    package, module, name = _found(spec)
    given = {} if classes is None else {"num_classes": classes}
    if channels is not None and channels != 3:
        given |= {"in_chans": channels}
    try:
        return package.made(module, name, given)
    except Exception as error:  # a constructor may raise anything
        if "in_chans" in str(error):
            raise InputError(f"{spec}: reads images of 3 channels, these have {channels}") from None
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{spec}: cannot be made: {reason}") from error


def input_sizes(spec: str) -> Sizes | None:
    """(c, h, w) that the network is made for; None where its package does not say."""
    package, module, name = _found(spec)
    try:
        sizes = tuple(int(size) for size in package.sizes(module, name))
    except Exception:  # a network without published weights says it in no one way
        return None
    return (sizes[0], sizes[1], sizes[2]) if len(sizes) == 3 else None


def _found(spec: str) -> tuple[Package, Any, str]:
    """The package, its module and the name of a network that is there. InputError otherwise."""
    called, _, name = spec.partition(":")
    package = PACKAGES[called]
    try:
        module = importlib.import_module(package.module)
    except ModuleNotFoundError as error:
        raise InputError(f"{spec}: no module named {error.name!r}: pip install {called}") from None
    except Exception as error:  # torchvision beside a torch of another build raises RuntimeError
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{spec}: {called} cannot be imported, {reason}: install that of this torch's build") from None
    names = package.listed(module)
    if name not in names and name.partition(".")[0] not in names:
        near = get_close_matches(name, names, NEAR)
        offered = f"near are {', '.join(near)}" if near else f"it has {len(names)}, such as {names[0]}"
        raise InputError(f"{spec}: {called} has no network {name!r}; {offered}")
    return package, module, name
