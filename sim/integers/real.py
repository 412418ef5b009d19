"""Functions of real numbers between tensors of integers: what a host computes of an attention and of a perceptron.

A host reads integers, takes them for the real numbers that they are worth, computes in floating point, and rounds what
comes out to integers of the tensor that it makes, halves to even. Nothing but what lies between the two is real.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.special import erf

from cosoc.sim.model.workload import Layer

Function = Literal["layer_norm", "softmax", "gelu", "gelu_tanh"]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Real:
    """A function of each vector of channels, or of each element. reads, makes: what one of its integers is worth before
    and after; low, high: of those after. groups: whose softmax is over its own channels (heads). weight, bias [k], eps:
    of a layer norm."""

    function: Function
    reads: float
    makes: float
    low: int
    high: int
    groups: int = 1
    weight: Floats | None = None
    bias: Floats | None = None
    eps: float = 0.0

    def of(self, x: Ints) -> Ints:
        """Integers [n, k, y, x] of integers [n, c, y, x]: of whole vectors, but for a function of elements."""
        made = self.real(np.asarray(x * self.reads, np.float64)) / self.makes
        found: Ints = np.clip(np.rint(made), self.low, self.high).astype(np.int64)
        return found

    def real(self, x: Floats) -> Floats:
        """The function itself, [n, c, y, x], in double precision."""
        if self.function == "gelu":
            return np.asarray(x * 0.5 * (1 + erf(x / np.sqrt(2.0))))
        if self.function == "gelu_tanh":
            return np.asarray(x * 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))))
        # Vectors side by side, so that sums are taken alike however many of them there are.
        last = np.ascontiguousarray(np.moveaxis(x, 1, -1))
        if self.function == "softmax":
            of_head = last.reshape(*last.shape[:-1], self.groups, -1)
            powers = np.exp(of_head - of_head.max(-1, keepdims=True))
            made = (powers / powers.sum(-1, keepdims=True)).reshape(last.shape)
        else:
            assert self.weight is not None and self.bias is not None
            off = last - last.mean(-1, keepdims=True)
            made = off / np.sqrt((off * off).mean(-1, keepdims=True) + self.eps) * self.weight + self.bias
        return np.moveaxis(made, -1, 1)

    def whole(self, first: int, end: int, layer: Layer) -> bool:
        """Whether output channels [first, end) of a layer have all that the function of each needs."""
        each = layer.k // self.groups if self.function == "softmax" else layer.k
        return self.function.startswith("gelu") or (first % each == 0 and end % each == 0)


def as_weights(layer: Layer, second: npt.NDArray[Any], keys: bool) -> npt.NDArray[Any]:
    """What a product of two tensors multiplies by, as weights [n, k, c/groups, 1]. second: [n, channels, y, x]. keys:
    of each head it has [c, k] elements, each key a pixel; else [k, c]."""
    k, c = layer.k // layer.groups, layer.c // layer.groups
    if not keys:
        return second.reshape(layer.n, layer.k, c, 1)
    return second.reshape(layer.n, layer.groups, c, k).swapaxes(2, 3).reshape(layer.n, layer.k, c, 1)


__all__ = ["Function", "Real", "as_weights"]
