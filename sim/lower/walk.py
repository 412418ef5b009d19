"""The walk over tiles: which tile comes when, and which operands change from one tile to the next.

A layer is cut along its dimensions; the loops around its tiles stand in an order, outermost first. Each operand has a
key: the dimensions that say which slice of it a tile needs. **An operand is loaded when its key differs from the tile
before, and done with when the tile after has another.** That weights stay while pixels pass, that inputs stay while
output channels pass, how often each is loaded again, and when partial sums leave and come back: all are consequences.

Everything is an array over the tiles in the order in which they run.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Positions = Mapping[str, Ints]  # of each tile along each dimension: its number there

# What the slices of a layer's operands depend on. Where output channel k reads input channel k alone (depthwise,
# pointwise), inputs depend on k in place of c.
WEIGHTS = ("k", "c", "fy", "fx")
SECOND = ("n", *WEIGHTS)  # what a product of two activations has in place of weights is each image's own
INPUTS = ("n", "c", "fy", "fx", "oy", "ox")
OWN_INPUTS = ("n", "k", "fy", "fx", "oy", "ox")
OUTPUTS = ("n", "k", "oy", "ox")


def positions(counts: Mapping[str, int], order: Sequence[str]) -> dict[str, Ints]:
    """The number of every tile along each dimension of `order` (outermost first), of which there are `counts`."""
    index: Any = np.arange(math.prod(counts[d] for d in order), dtype=np.int64)
    out: dict[str, Ints] = {}
    for d in reversed(order):
        out[d] = index % counts[d]
        index = index // counts[d]
    return out


def fresh(at: Positions, dims: Iterable[str]) -> Bools:
    """[tiles]: whether the key along `dims` differs from the tile before; true for the first."""
    changed = np.zeros(len(next(iter(at.values()))), dtype=bool)
    changed[:1] = True
    for d in dims:
        if d in at:
            changed[1:] |= at[d][1:] != at[d][:-1]
    return changed


def final(at: Positions, dims: Iterable[str]) -> Bools:
    """[tiles]: whether the key along `dims` differs in the tile after; true for the last."""
    return np.append(fresh(at, dims)[1:], True)


def returning(at: Positions, dims: Iterable[str]) -> Bools:
    """[tiles]: whether a key comes that is fresh, but has been there before."""
    key: Any = np.zeros(len(next(iter(at.values()))), dtype=np.int64)
    for d in dims:
        if d in at:
            key = key * (int(at[d].max(initial=0)) + 1) + at[d]
    _, first = np.unique(key, return_index=True)
    new = np.zeros(len(key), dtype=bool)
    new[first] = True
    return fresh(at, dims) & ~new


def ended(at: Positions, order: Sequence[str]) -> Ints:
    """[tiles]: loops of more than one iteration that ended right before a tile; 0 for the first."""
    out = np.zeros(len(next(iter(at.values()))), dtype=np.int64)
    if not len(out):
        return out
    inside = np.ones(len(out), dtype=bool)  # all loops further in begin anew
    for d in reversed(order):
        inside = inside & (at[d] == 0)
        out += inside & bool(at[d].max() > 0)
    out[0] = 0
    return out
