"""Fused products: several products of one input whose weights are kept as one, as queries, keys and values often are.

Each is a range of the output channels. Where every reader of such a product, behind whatever only moves elements, takes
one range of channels for all tokens, and the ranges make up all channels, it is read as a layer a range: nothing is
copied to cut them apart, and each has cores of its own. Which channels a reader takes is found by moving their numbers
in place of the elements.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

Range = tuple[int, int]  # first channel, and the one behind the last
MOST_MOVED = 1 << 26  # elements; numbers of channels of a larger result are not looked at


def numbered(shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """The channel of each element of a result whose channels come last."""
    return np.broadcast_to(np.arange(shape[-1], dtype=np.int32), shape).copy()


def taken(channels: np.ndarray[Any, Any], rows: int) -> Range | None:
    """The range of channels that distinct elements make up, all of them for each of so many rows; None where they make
    up none."""
    if not channels.size:
        return None
    first, behind = int(channels.min()), int(channels.max()) + 1
    return (first, behind) if channels.size == rows * (behind - first) else None


def partition(ranges: Collection[Range], k: int) -> list[Range]:
    """Ranges in their order, if together they are all of k channels, each once; else all channels in one."""
    found = sorted(set(ranges))
    ends = [0, *(behind for _, behind in found)]
    whole = ends[-1] == k and all(first == end for (first, _), end in zip(found, ends, strict=False))
    return found if whole else [(0, k)]


__all__ = ["MOST_MOVED", "Range", "numbered", "partition", "taken"]
