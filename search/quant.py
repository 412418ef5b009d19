"""Fake quantisers: number formats of the cores, differentiable by straight-through estimates.

`ste(forward, backward)` has the value of the first and the gradient of the second.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

TINY = 1e-8


def ste(forward: Tensor, backward: Tensor) -> Tensor:
    """The value of `forward` with the gradient of `backward`."""
    return backward + (forward - backward).detach()


def _per_channel(scale: Tensor, like: Tensor) -> Tensor:
    return scale.reshape(-1, *[1] * (like.dim() - 1))


def integer_weight(weight: Tensor, bits: int) -> Tensor:
    """Symmetric integers per output channel: s n, |n| <= 2^(bits-1) - 1, with s = max|w| / (2^(bits-1) - 1).

    weight: [k, ...]. The scale follows the weights, so nothing of a channel is clipped: with 8 bits the step is fine enough
    that clipping would cost more than it gains.
    """
    top = 2 ** (bits - 1) - 1
    scale = _per_channel(weight.detach().flatten(1).abs().amax(1).clamp_min(TINY) / top, weight)
    steps = weight / scale
    return ste(steps.round(), steps) * scale


def ternary_weight(weight: Tensor, log_scale: Tensor) -> Tensor:
    """{-1, 0, 1} times a trainable scale per output channel: e^s round(clip(w / e^s, -1, 1)).

    weight: [k, ...], log_scale: [k]. Straight-through for the rounding; the gradients of clip and scale are exact.
    """
    scale = _per_channel(log_scale.exp(), weight)
    clipped = (weight / scale).clamp(-1, 1)
    return ste(clipped.round(), clipped) * scale


def ternary_log_scale(weight: Tensor) -> Tensor:
    """Scales [k] at which the three levels are equally likely for normally distributed weights: levels change at half
    a scale, and a third of a normal distribution lies within 0.431 standard deviations."""
    deviation = weight.detach().flatten(1).pow(2).mean(1).sqrt().clamp_min(TINY)
    return (2 * 0.431 * deviation).log()


class _Clipped(torch.autograd.Function):
    """Quantise to `levels` steps of clip / levels between low and clip, with PACT's gradients: straight through inside,
    and to the clip what lies beyond it (less what lies below -clip, if signed)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, clip: Tensor, levels: int, signed: bool) -> Tensor:
        ctx.save_for_backward(x, clip)
        ctx.signed = signed
        scale = float(clip) / levels
        return torch.fake_quantize_per_tensor_affine(x, scale, 0, -levels if signed else 0, levels)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:  # type: ignore[override]
        x, clip = ctx.saved_tensors
        over, under = x > clip, x < (-clip if ctx.signed else 0)
        to_clip = (grad * over).sum()
        if ctx.signed:
            to_clip = to_clip - (grad * under).sum()
        return grad.masked_fill(over | under, 0.0), to_clip, None, None


class ActivationQuantiser(nn.Module):
    """Unsigned or signed integers with a trainable clip (PACT, Choi et al. 2018): clip(x, low, a) in steps of a / levels.

    Unsigned: 2^bits levels from 0 to a. Signed: the same number from -a to a. The clip starts at the largest magnitude of
    the first batch that it sees in training.
    """

    def __init__(self, bits: int, signed: bool) -> None:
        super().__init__()
        self.levels = 2**bits - 1 if not signed else 2 ** (bits - 1) - 1
        self.signed = signed
        self.log_clip = nn.Parameter(torch.zeros(()))
        self.seen: Tensor
        self.register_buffer("seen", torch.zeros((), dtype=torch.bool))

    def forward(self, x: Tensor) -> Tensor:
        if self.training and not self.seen:
            with torch.no_grad():
                self.log_clip.copy_(x.detach().abs().amax().clamp_min(TINY).log())
                self.seen.fill_(True)
        out: Tensor = _Clipped.apply(x, self.log_clip.exp(), self.levels, self.signed)  # type: ignore[no-untyped-call]
        return out


def adc(x: Tensor, bits: int, noise: float = 0.0, generator: torch.Generator | None = None) -> Tensor:
    """An analog array's converter on its column sums: signed `bits`, full scale four standard deviations of a channel.

    x: [n, k, ...]. noise: standard deviation in steps of the converter, drawn from `generator`.
    """
    top = 2 ** (bits - 1) - 1
    dims = [d for d in range(x.dim()) if d != 1]
    full = 4 * x.detach().pow(2).mean(dims, keepdim=True).sqrt().clamp_min(TINY)
    steps = (x / full * top).clamp(-top, top)
    read = steps.detach()
    if noise:
        read = read + noise * torch.randn(read.shape, generator=generator, dtype=read.dtype)
    return ste(read.round().clamp(-top, top), steps) * full / top


def linear_or_conv(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: nn.Module) -> Tensor:
    """The operator of a Conv2d or Linear with other weights."""
    if isinstance(geometry, nn.Conv2d):
        padding = geometry.padding
        assert not isinstance(padding, str)
        return functional.conv2d(x, weight, bias, geometry.stride, padding, geometry.dilation, geometry.groups)
    return functional.linear(x, weight, bias)
