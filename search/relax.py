"""The primitives of `cosoc.sim.exact` for numbers that carry a gradient: same forward value, right-sized slopes.

Costs of hardware are staircases. Their own gradient is zero almost everywhere, and a straight-through estimator that
passes a slope of 1 through ceil(k / 512) is 512 times too steep. Here every primitive returns exactly what `exact`
returns, and its slope is that of the line through the staircase:

    ceildiv, floordiv  1 / b, and -a / b^2 in the divisor
    used               1 / n: that of the chord to 0, so that taking all n away saves the whole fixed cost
    largest            elasticity 1 (out / limit) where the steps are climbed, 0 below the first and above the last
    maximum, minimum   softmax weights, at a temperature relative to the arguments: SHARPNESS, whatever the unit

Arguments may be torch tensors, or `Soft` numbers: scalars in forward mode. A network's cost is thousands of scalar
operations with a few inputs each, on which `Soft` is about ten times faster than a tape of tensors; `pull` hands
its result over to torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from cosoc.sim import exact
from cosoc.sim.exact import Num

__all__ = ["ceildiv", "floordiv", "largest", "maximum", "minimum", "used", "where"]

# An argument that is 5 % smaller than the largest gets e^-1 of its weight in the gradient of the maximum.
SHARPNESS = 20.0


class Soft:
    """A scalar and its gradient with respect to a few inputs: forward-mode differentiation.

    value: int or float, kept as it comes so that integers stay exact. grad: one float an input; its length is that of
    every other Soft in the same computation.
    """

    __slots__ = ("grad", "value")
    __array_priority__ = 1000  # numpy numbers leave the operators to us

    def __init__(self, value: float, grad: tuple[float, ...]) -> None:
        self.value, self.grad = value, grad

    def __repr__(self) -> str:
        return f"Soft({self.value}, {self.grad})"

    def __add__(self, other: Num) -> Soft:
        if isinstance(other, Soft):
            return Soft(self.value + other.value, tuple([a + b for a, b in zip(self.grad, other.grad, strict=True)]))
        return Soft(self.value + other, self.grad)

    def __neg__(self) -> Soft:
        return Soft(-self.value, tuple([-a for a in self.grad]))

    def __sub__(self, other: Num) -> Soft:
        if isinstance(other, Soft):
            return Soft(self.value - other.value, tuple([a - b for a, b in zip(self.grad, other.grad, strict=True)]))
        return Soft(self.value - other, self.grad)

    def __rsub__(self, other: Num) -> Soft:
        return Soft(other - self.value, tuple([-a for a in self.grad]))

    def __mul__(self, other: Num) -> Soft:
        x, y = self.value, other
        if isinstance(other, Soft):
            y = other.value
            return Soft(x * y, tuple([a * y + b * x for a, b in zip(self.grad, other.grad, strict=True)]))
        return Soft(x * y, tuple([a * y for a in self.grad]))

    def __truediv__(self, other: Num) -> Soft:
        x, y = self.value, other
        if isinstance(other, Soft):
            y = other.value
            return Soft(x / y, tuple((a - b * x / y) / y for a, b in zip(self.grad, other.grad, strict=True)))
        return Soft(x / y, tuple([a / y for a in self.grad]))

    def __rtruediv__(self, other: float) -> Soft:
        return Soft(other / self.value, tuple(-other * a / self.value**2 for a in self.grad))

    __radd__, __rmul__ = __add__, __mul__

    # Comparisons decide as the forward value does.
    def __lt__(self, other: Num) -> bool:
        return bool(self.value < _value(other))

    def __le__(self, other: Num) -> bool:
        return bool(self.value <= _value(other))

    def __gt__(self, other: Num) -> bool:
        return bool(self.value > _value(other))

    def __ge__(self, other: Num) -> bool:
        return bool(self.value >= _value(other))


def inputs(values: Sequence[float]) -> tuple[Soft, ...]:
    """Soft numbers that stand for the inputs of a computation, one an entry of their gradients."""
    n = len(values)
    return tuple(Soft(v, tuple(float(i == j) for j in range(n))) for i, v in enumerate(values))


class _Pull(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, jacobian: torch.Tensor, xs: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(jacobian)
        return values

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (jacobian,) = ctx.saved_tensors
        return None, None, upstream @ jacobian


def pull(values: torch.Tensor, jacobian: torch.Tensor, xs: torch.Tensor) -> torch.Tensor:
    """`values` [n] as a function of `xs` [m] with the given jacobian [n, m]."""
    return _Pull.apply(values, jacobian, xs)  # type: ignore[no-any-return,no-untyped-call]


def _value(x: Num) -> Num:
    """The forward value alone."""
    if isinstance(x, Soft):
        return x.value
    return x.detach() if isinstance(x, torch.Tensor) else x


_CARRIES = (Soft, torch.Tensor)


def _carry(value: Num, *slopes: tuple[Num, Num]) -> Num:
    """`value`, with the gradient sum of slope * x over the given (x, slope)."""
    grad: tuple[float, ...] | None = None
    for x, slope in slopes:
        if isinstance(x, Soft):
            mine = tuple([slope * g for g in x.grad])
            grad = mine if grad is None else tuple([a + b for a, b in zip(grad, mine, strict=True)])
        elif isinstance(x, torch.Tensor) and x.requires_grad:
            value = value + slope * (x - x.detach())
    return value if grad is None else Soft(value, grad)


def ceildiv(a: Num, b: Num) -> Num:
    """The least integer >= a / b, for b > 0; slope 1 / b in a, -a / b^2 in b."""
    if not isinstance(a, _CARRIES) and not isinstance(b, _CARRIES):
        return exact.ceildiv(a, b)
    x, y = _value(a), _value(b)
    return _carry(exact.ceildiv(x, y), (a, 1 / y), (b, -x / y**2))


def floordiv(a: Num, b: Num) -> Num:
    """The greatest integer <= a / b, for b > 0; slope 1 / b in a, -a / b^2 in b."""
    if not isinstance(a, _CARRIES) and not isinstance(b, _CARRIES):
        return exact.floordiv(a, b)
    x, y = _value(a), _value(b)
    return _carry(exact.floordiv(x, y), (a, 1 / y), (b, -x / y**2))


def _tensors(xs: Sequence[Num]) -> torch.Tensor:
    """The forward values along a new first dimension."""
    like = next(x for x in xs if isinstance(x, torch.Tensor))
    parts = [torch.as_tensor(_value(x), device=like.device) for x in xs]
    return torch.stack(torch.broadcast_tensors(*parts))  # type: ignore[no-untyped-call]


def _extreme(xs: Sequence[Num], sign: int) -> Num:
    """The largest (sign 1) or smallest (sign -1), with softmax weights as slopes."""
    if not any(isinstance(x, _CARRIES) for x in xs):
        return (exact.maximum if sign > 0 else exact.minimum)(*xs)
    if any(isinstance(x, torch.Tensor) for x in xs):
        stack = _tensors(xs)
        out = stack.amax(0) if sign > 0 else stack.amin(0)
        if not any(isinstance(x, torch.Tensor) and x.requires_grad for x in xs):
            return out
        scale = out.abs().to(torch.get_default_dtype()).clamp_min(torch.finfo(torch.get_default_dtype()).tiny)
        weights = torch.softmax(sign * SHARPNESS * (stack - out) / scale, 0)
        return _carry(out, *zip(xs, weights, strict=True))
    values = [_value(x) for x in xs]
    best = max(values) if sign > 0 else min(values)
    unit = abs(best) or math.ulp(0.0)
    parts = [math.exp(max(-SHARPNESS * abs(v - best) / unit, -700.0)) for v in values]
    total = sum(parts)
    return _carry(best, *((x, p / total) for x, p in zip(xs, parts, strict=True)))


def maximum(*xs: Num) -> Num:
    """The largest of its arguments; slopes are softmax weights at a temperature relative to the largest.

    Arguments that tie share the gradient equally, so that two cores of equal time are both worth relieving.
    """
    return _extreme(xs, 1)


def minimum(*xs: Num) -> Num:
    """The smallest of its arguments; slopes as in `maximum`."""
    return _extreme(xs, -1)


def where(condition: Num, a: Num, b: Num) -> Num:
    """`a` where the condition holds, else `b`; the gradient is that of the side taken."""
    if isinstance(condition, torch.Tensor):
        return torch.where(condition, a, b)
    if isinstance(a, Soft) or isinstance(b, Soft):
        return a if condition else b
    return exact.where(condition, a, b)


def used(n: Num) -> Num:
    """1 where n > 0, else 0. Slope 1 / n: losing all n loses the fixed cost, so each is worth its part of it. Below one
    unit the slope stays 1: a first one pays all of it."""
    x = _value(n)
    if isinstance(n, torch.Tensor):
        return _carry((x > 0).to(x.dtype), (n, 1 / x.clamp_min(1)))
    if isinstance(n, Soft):
        return _carry(int(x > 0), (n, 1 / max(x, 1)))
    return exact.used(n)


def largest(steps: Sequence[int], limit: Num) -> Num:
    """The largest of the ascending `steps` that is <= `limit`; the first step where none is.

    Slope out / limit: hardware's steps are powers of two, so the line through them goes through the origin. Beyond
    either end nothing is gained, and the slope is 0.
    """
    if isinstance(limit, torch.Tensor):
        x = limit.detach()
        out = torch.full_like(x, steps[0])
        for step in steps[1:]:
            out = torch.where(x >= step, step, out)
        inside = (x >= steps[0]) & (x <= steps[-1])
        return _carry(out, (limit, torch.where(inside, out / x.clamp_min(1), 0.0)))
    if isinstance(limit, Soft):
        value = exact.largest(steps, limit.value)
        return _carry(value, (limit, value / limit.value if steps[0] <= limit.value <= steps[-1] else 0.0))
    return exact.largest(steps, limit)
