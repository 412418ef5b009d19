"""Which devices of a large cluster the plans of a split can need at all.

A plan uses no more devices than the network has cuts to end stages at. A device is left out where so many others are
nowhere worse: whatever plan used it, one of them would be free in its place. Nothing is lost by that, of period,
energy, latency and memory as the programme counts them, as long as no stage has replicas.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np

from cosoc.search.spaces.splits import Floats

HUGE = 1e100  # in place of inf, where figures are summed


def needed(costs: Floats, groups: Sequence[Hashable], counts: Sequence[int], most: int) -> list[int]:
    """The types that plans of at most `most` devices can need, ascending.

    costs [T, figures]: all that is to be small, inf where something cannot be. groups [T]: types of one group send and
    receive alike, and only they are compared. counts [T]: devices of each type.
    """
    # Who is nowhere worse has no larger sum of parts of the largest (rounding is monotone): who can take a place comes
    # before whose place it is, but for ties.
    finite = np.minimum(costs, HUGE)
    largest = np.maximum(np.abs(np.where(finite < HUGE, finite, 0.0)).max(axis=0), 1 / HUGE)
    order = np.argsort((finite / largest).sum(axis=1), kind="stable")
    kept: dict[Hashable, list[int]] = {}
    for t in order.tolist():
        before = kept.setdefault(groups[t], [])
        better = (costs[before] <= costs[t]).all(axis=1)
        if sum(counts[before[i]] for i in np.flatnonzero(better).tolist()) < most:
            before.append(t)
    return sorted(t for found in kept.values() for t in found)


def states(counts: Sequence[int], n_cuts: int) -> int:
    """Entries of the tables of a programme whose stages may have replicas."""
    return math.prod(n + 1 for n in counts) * sum(counts) * n_cuts


__all__ = ["needed", "states"]
