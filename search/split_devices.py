"""Which devices of a large cluster the plans of a split can need at all.

A plan uses no more devices than the network has cuts to end stages at. A device is left out where so many others are
nowhere worse: whatever plan used it, one of them would be free in its place. Nothing is lost by that, of period,
energy, latency and memory as the programme counts them, as long as no stage has replicas.

Where that leaves too many, a device is left out, too, where as many others take at most a part more of what is summed
or compared: then plans of those that are kept take at most so much more than others.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np

from cosoc.search.spaces.splits import Floats

MOST_TYPES = 64  # that are told apart
PARTS = (0.0, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0)  # by which plans may be above the best, where types are more
HUGE = 1e100  # in place of inf, where figures are summed


def needed(
    costs: Floats, groups: Sequence[Hashable], counts: Sequence[int], most: int, more: Floats | float = 0.0
) -> list[int]:
    """The types that plans of at most `most` devices can need, ascending.

    costs [T, figures]: all that is to be small, inf where something cannot be. groups [T]: types of one group send and
    receive alike, and only they are compared. counts [T]: devices of each type. more [figures]: the part by which what
    is put in place of a type may be above it.
    """
    # Who is nowhere worse has no larger sum of parts of the largest (rounding is monotone): who can take a place comes
    # before whose place it is, but for ties.
    finite = np.minimum(costs, HUGE)
    largest = np.maximum(np.abs(np.where(finite < HUGE, finite, 0.0)).max(axis=0), 1 / HUGE)
    order = np.argsort((finite / largest).sum(axis=1), kind="stable")
    kept: dict[Hashable, list[int]] = {}
    for t in order.tolist():
        before = kept.setdefault(groups[t], [])
        better = (costs[before] <= costs[t] * (1 + more)).all(axis=1)
        if sum(counts[before[i]] for i in np.flatnonzero(better).tolist()) < most:
            before.append(t)
    return sorted(t for found in kept.values() for t in found)


def within(
    seconds: Floats, spent: Floats, limits: Floats, groups: Sequence[Hashable], counts: Sequence[int], most: int
) -> tuple[list[int], tuple[float, float]]:
    """The types that plans of at most `most` devices can need, ascending; where these are more than MOST_TYPES, some of
    them, and the parts by which the least period, and the least of period, energy and latency together, of plans with
    them alone are above those of all plans at most.

    seconds, spent, limits [T, figures]: of time; of energy and power; and what nothing may take more of (memory).
    """
    kept = needed(np.concatenate([seconds, spent, limits], axis=1), groups, counts, most)
    if len(kept) <= MOST_TYPES:
        return kept, (0.0, 0.0)

    def close(soft: Floats) -> tuple[list[int], float]:
        costs = np.concatenate([soft, limits[kept]], axis=1)
        raised = np.arange(costs.shape[1]) < soft.shape[1]
        for part in PARTS:
            found = needed(costs, [groups[t] for t in kept], [counts[t] for t in kept], most, part * raised)
            if len(found) <= MOST_TYPES:
                break
        return found, part

    fast, slower = close(seconds[kept])
    near, above = close(np.concatenate([seconds, spent], axis=1)[kept])
    return [kept[i] for i in sorted({*fast, *near})], (slower, above)


def states(counts: Sequence[int], n_cuts: int) -> int:
    """Entries of the tables of a programme whose stages may have replicas."""
    return math.prod(n + 1 for n in counts) * sum(counts) * n_cuts


__all__ = ["needed", "states", "within"]
