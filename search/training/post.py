"""Quantising without training: ranges and biases of a network as it is, from a few images.

Clip: an activation's clip is the one of `GRID` shares of its largest magnitude that loses least in squares (`mse`), or
the magnitude below which all but `BEYOND` of the values lie (`percentile`). Ternary scales are exact least squares, in
closed form. Biases take up what quantised layers are off by on average, layer by layer, each behind those corrected
before it, so that every channel's mean over the images is the float network's (Nagel et al. 2019, section 4.2, with
images in place of the batch norms' statistics).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cosoc.search.spaces.channels import MixedLayer, MixedNet
from cosoc.search.training.quant import TINY, ActivationQuantiser, linear_or_conv

Clip = Literal["mse", "percentile"]

GRID = tuple(i / 100 for i in range(1, 101))  # clips that are tried, as shares of the largest magnitude
BEYOND = 1e-4  # of the values, clipped by a percentile
SAMPLED = 1 << 15  # values of each tensor that a range is found by; drawn where there are more

Seen = list[tuple[Tensor, bool]]  # values of the tensors that share a range, each with whether it is signed


@contextmanager
def in_float(net: MixedNet) -> Iterator[None]:
    """The network in floating point for a while: as it was before it was quantised, its batch norms folded."""
    changed = [m for m in net.modules() if isinstance(m, (MixedLayer, ActivationQuantiser))]
    for module in changed:
        module.forward = _float_layer(module) if isinstance(module, MixedLayer) else _passed  # type: ignore[method-assign]
    try:
        yield
    finally:
        for module in changed:
            del module.forward


def _float_layer(layer: MixedLayer) -> Any:
    return lambda x: linear_or_conv(x, layer.geometry.weight, layer.geometry.bias, layer.geometry)


def _passed(x: Tensor, signed: bool = True) -> Tensor:
    return x


@contextmanager
def hooked(handles: list[Any]) -> Iterator[None]:
    """Hooks, taken off at the end."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


# ---------------------------------------------------------------------------------------------------------- ranges


@torch.no_grad()
def set_ranges(net: MixedNet, images: Tensor, how: Clip) -> None:
    """Set the range of every quantiser by what the float network has there, and every ternary scale by its weights, in
    place. images: [n, c, h, w], in one batch."""
    seen: dict[ActivationQuantiser, Seen] = {m: [] for m in net.modules() if isinstance(m, ActivationQuantiser)}
    largest = dict.fromkeys(seen, 0.0)
    draws = torch.Generator().manual_seed(0)

    def look(module: nn.Module, given: tuple[Any, ...]) -> None:
        assert isinstance(module, ActivationQuantiser)
        x, signed = given[0], given[1] if len(given) > 1 else True
        seen[module].append((_sampled(x, draws), signed))
        largest[module] = max(largest[module], float(x.abs().amax()))

    net.eval()
    with in_float(net), hooked([module.register_forward_pre_hook(look) for module in seen]):
        net(images)
    for module, found in seen.items():
        if found:
            find = mse_clip if how == "mse" else percentile_clip
            module.log_clip.fill_(max(find(found, module.bits, largest[module]), TINY)).log_()
        module.unseen.zero_()
    for layer in net.layers.values():
        if any(layer.ternary):
            layer.log_scale.copy_(ternary_scale(layer.geometry.weight).log())


def _sampled(x: Tensor, draws: torch.Generator) -> Tensor:
    flat = x.detach().flatten()
    return flat if len(flat) <= SAMPLED else flat[torch.randint(len(flat), (SAMPLED,), generator=draws)]


def mse_clip(seen: Seen, bits: int, largest: float, shares: Sequence[float] = GRID) -> float:
    """The clip, of some shares of the largest magnitude, at which quantised values are nearest in squares."""
    clips = largest * torch.tensor(shares)
    lost = torch.zeros(len(shares), dtype=torch.float64)
    for x, signed in seen:
        top = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
        for i, clip in enumerate(clips.tolist()):
            step = max(clip, TINY) / top
            kept = (x / step).round_().clamp_(-top if signed else 0, top).mul_(step)
            lost[i] += float((kept - x).square_().sum(dtype=torch.float64)) / len(x)
    return float(clips[int(lost.argmin())])


def percentile_clip(seen: Seen, bits: int, largest: float) -> float:
    """The magnitude below which all but BEYOND of the values lie, of the tensor in which that is largest."""
    out = 0.0
    for x, _ in seen:
        kept = max(1, round((1 - BEYOND) * len(x)))
        out = max(out, float(x.abs().kthvalue(kept).values))
    return min(out, largest)


def ternary_scale(weight: Tensor) -> Tensor:
    """Scales [k] at which {-1, 0, 1} times them is nearest to weights [k, ...] in squares.

    If the m largest of a channel are kept, their mean magnitude is the best scale, and (their sum)^2 / m of the squares
    is kept; the best m has half its scale between the smallest kept and the largest dropped, which is where
    `ternary_weight` changes levels.
    """
    sizes = weight.detach().flatten(1).abs().sort(1, descending=True).values
    sums, count = sizes.cumsum(1), torch.arange(1, sizes.shape[1] + 1, device=weight.device)
    best = (sums.square() / count).argmax(1, keepdim=True)
    return (sums.gather(1, best)[:, 0] / (best[:, 0] + 1)).clamp_min(TINY)


# ---------------------------------------------------------------------------------------------------------- biases


@torch.no_grad()
def float_means(net: MixedNet, images: Tensor) -> dict[str, Tensor]:
    """What each channel of each weighted layer of the float network has on average: [k], by layer."""
    out: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda module, given, y: out.__setitem__(name, channel_means(y))

    net.eval()
    with in_float(net), hooked([layer.register_forward_hook(keep(n)) for n, layer in net.layers.items()]):
        net(images)
    return out


@torch.no_grad()
def correct_biases(net: MixedNet, images: Tensor, means: Mapping[str, Tensor]) -> None:
    """Shift the biases, in place, so that each channel has the given mean [k] over the images, in one pass: what a
    layer reads comes from corrected ones. A layer without a bias stays as it is."""

    def shift(name: str) -> Any:
        def hook(module: nn.Module, given: tuple[Any, ...], y: Tensor) -> Tensor:
            assert isinstance(module, MixedLayer)
            if module.geometry.bias is None:
                return y
            off = means[name] - channel_means(y)
            module.geometry.bias.add_(off)
            return y + off.reshape(_channel_shape(y))

        return hook

    net.eval()
    with hooked([layer.register_forward_hook(shift(n)) for n, layer in net.layers.items()]):
        net(images)


def channel_means(y: Tensor) -> Tensor:
    """The mean of each channel [k] of outputs [n, k, oy, ox] or [..., k]."""
    return y.mean((0, 2, 3)) if y.dim() == 4 else y.flatten(0, -2).mean(0)


def _channel_shape(y: Tensor) -> tuple[int, ...]:
    return (1, -1, 1, 1) if y.dim() == 4 else (-1,)
