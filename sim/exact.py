"""The primitives that every cost formula is written in, for Python integers and numpy integer arrays.

A core writes `cycles(tile, xp)` once. With `xp = exact` (this module) it gives the integers that the
simulator runs; with `xp = cosoc.search.relax` the same formula takes tensors, gives the same forward value and
carries a chosen gradient. Both modules define exactly the names in `__all__`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["ceildiv", "floordiv", "largest", "maximum", "minimum", "used", "where"]

# An int, an integer array or (in relax) a tensor: the formulas do not care.
Num = Any


def ceildiv(a: Num, b: Num) -> Num:
    """The least integer >= a / b, for b > 0."""
    return -(-a // b)


def floordiv(a: Num, b: Num) -> Num:
    """The greatest integer <= a / b, for b > 0."""
    return a // b


def maximum(*xs: Num) -> Num:
    """The largest of its arguments, element by element."""
    if all(isinstance(x, int) for x in xs):
        return max(xs)
    out = xs[0]
    for x in xs[1:]:
        out = np.maximum(out, x)
    return out


def minimum(*xs: Num) -> Num:
    """The smallest of its arguments, element by element."""
    if all(isinstance(x, int) for x in xs):
        return min(xs)
    out = xs[0]
    for x in xs[1:]:
        out = np.minimum(out, x)
    return out


def where(condition: Num, a: Num, b: Num) -> Num:
    """`a` where the condition holds, else `b`; both sides are evaluated."""
    if isinstance(condition, (bool, np.bool_)):
        return a if condition else b
    return np.where(condition, a, b)


def used(n: Num) -> Num:
    """1 where n > 0, else 0: a cost that is paid once if there is any work at all."""
    return int(n > 0) if isinstance(n, int) else (np.asarray(n) > 0).astype(np.int64)


def largest(steps: Sequence[int], limit: Num) -> Num:
    """The largest of the ascending `steps` that is <= `limit`; the first step where none is."""
    out: Num = steps[0]
    for step in steps[1:]:
        out = where(step <= limit, step, out)
    return out
