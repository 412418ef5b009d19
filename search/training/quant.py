"""Fake quantisers: number formats of the cores, differentiable by straight-through estimates.

`ste(forward, backward)` has the value of the first and the gradient of the second.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from cosoc.search.training.parallel import largest

TINY = 1e-8


def ste(forward: Tensor, backward: Tensor) -> Tensor:
    """The value of `forward` with the gradient of `backward`."""
    return backward + (forward - backward).detach()


def per_channel(scale: Tensor, like: Tensor) -> Tensor:
    """A figure a channel, [k], as it multiplies weights [k, ...]."""
    return scale.reshape(-1, *[1] * (like.dim() - 1))


def integer_weight(weight: Tensor, bits: int) -> Tensor:
    """Symmetric integers per output channel: s n, |n| <= 2^(bits-1) - 1, with s = max|w| / (2^(bits-1) - 1).

    weight: [k, ...]. The scale follows the weights, so nothing of a channel is clipped: with 8 bits the step is fine
    enough that clipping would cost more than it gains.
    """
    top = 2 ** (bits - 1) - 1
    flat = weight.detach().flatten(1)
    most = torch.maximum(flat.amax(1), -flat.amin(1)).clamp_min(TINY)
    out: Tensor = _Rounded.apply(weight, per_channel(most / top, weight))  # type: ignore[no-untyped-call]
    return out


class _Rounded(torch.autograd.Function):
    """Whole steps of a scale, with the gradient of the unrounded: few passes over what may be millions of weights."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        return (x / scale).round_().mul_(scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def ternary_weight(weight: Tensor, log_scale: Tensor) -> Tensor:
    """{-1, 0, 1} times a trainable scale per output channel: e^s round(clip(w / e^s, -1, 1)).

    weight: [k, ...], log_scale: [k]. Straight-through for the rounding; the gradients of clip and scale are exact.
    """
    scale = per_channel(log_scale.exp(), weight)
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
        # The clip is never read from the device: bounds are whole steps, which are known.
        low = -levels if signed else 0
        # A number over a tensor would be its reciprocal, times the number. Half precision cannot tell steps apart.
        steps = x.to(clip.dtype) * (torch.full_like(clip, levels) / clip)
        out = steps.round_().clamp_(low, levels).mul_(clip / levels).to(x.dtype)
        ctx.save_for_backward(x, out, clip)
        ctx.signed = signed
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, out, clip = ctx.saved_tensors
        # A quotient is below 1 if and only if x is below the clip, in any precision.
        low, quotient = -1.0 if ctx.signed else 0.0, x / clip
        inside: Tensor = torch.ops.aten.hardtanh_backward.grad_input(grad, quotient, low, 1.0, grad_input=quotient)
        # What is clipped reads +-high, or 0 where the clip has no part in it.
        to_clip = ((grad - inside).flatten().to(clip.dtype) @ out.flatten().to(clip.dtype)) / clip
        return inside, to_clip, None, None


class ActivationQuantiser(nn.Module):
    """Integers with a trainable clip a (PACT, Choi et al. 2018): clip(x, 0 or -a, a) in whole steps.

    Unsigned: 2^bits levels, steps of a / (2^bits - 1). Signed: 2^bits - 1 levels, steps of a / (2^(bits-1) - 1).
    Tensors that share a range (the operands of a sum, say) share this module, each with its own sign. The clip starts
    at the largest magnitude of the first `uses` tensors that it sees in training, one batch of all that share it.
    """

    def __init__(self, bits: int, uses: int = 1) -> None:
        super().__init__()
        self.bits, self.uses = bits, uses
        self.log_clip = nn.Parameter(torch.zeros(()))
        self.unseen: Tensor
        self.register_buffer("unseen", torch.tensor(uses))
        self.begun = False  # whether nothing is unseen, for certain: asked of the device no more

    def forward(self, x: Tensor, signed: bool) -> Tensor:
        if self.training and not self.begun:
            if int(self.unseen):
                self._start(x.detach())
            self.begun = not int(self.unseen)
        top = 2 ** (self.bits - 1) - 1 if signed else 2**self.bits - 1
        out: Tensor = _Clipped.apply(x, self.log_clip.exp(), top, signed)  # type: ignore[no-untyped-call]
        return out

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self.begun = False

    @torch.no_grad()
    def _start(self, x: Tensor) -> None:
        found = largest(x.abs().amax().clamp_min(TINY)).log()
        first = int(self.unseen) == self.uses
        self.log_clip.copy_(found if first else torch.maximum(self.log_clip, found))
        self.unseen.sub_(1)


class Converter(ActivationQuantiser):
    """An analog array's converter on its column sums: signed, one trainable range a layer."""

    def __init__(self, bits: int, uses: int = 1) -> None:
        super().__init__(bits, uses)
        self.noise_lsb = 0.0
        self.generator: torch.Generator | None = None  # of the noise; a generator cannot be copied with the network

    def disturb(self, noise_lsb: float, generator: torch.Generator) -> None:
        """Let every conversion from now on be off by Gaussian noise of so many steps of the converter (standard
        deviation), added before it rounds and drawn from the generator."""
        self.noise_lsb, self.generator = noise_lsb, generator

    def quiet(self) -> None:
        """Convert without noise again."""
        self.noise_lsb, self.generator = 0.0, None

    def forward(self, x: Tensor, signed: bool = True) -> Tensor:
        if self.generator is not None:
            step = self.log_clip.detach().exp() / (2 ** (self.bits - 1) - 1)
            drawn = torch.randn(x.shape, generator=self.generator, dtype=x.dtype, device=self.generator.device)
            x = x + drawn.to(x.device) * (self.noise_lsb * step)
        return super().forward(x, signed)


def linear_or_conv(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: nn.Module) -> Tensor:
    """The operator of a Conv2d or Linear with other weights."""
    if isinstance(geometry, nn.Conv2d):
        padding: Any = geometry.padding  # sizes, or "same"
        return functional.conv2d(x, weight, bias, geometry.stride, padding, geometry.dilation, geometry.groups)
    return functional.linear(x, weight, bias)
