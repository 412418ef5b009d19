"""Fronts of two objectives, both to be small; intervals of what was measured several times."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import stdev

SURE = 0.95  # of intervals

Point = tuple[float, float]


def non_dominated(points: Sequence[Point]) -> list[int]:
    """Indices of the points that no other point beats or equals in both objectives (of equal ones the first), by the
    first objective."""
    out: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (points[i], i)):
        if not out or points[i][1] < points[out[-1]][1]:
            out.append(i)
    return out


def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """Area that the points dominate within the reference: exact, by strips; points beyond the reference add nothing."""
    area, height = 0.0, reference[1]
    inside = [p for p in points if p[0] < reference[0] and p[1] < reference[1]]
    for i in non_dominated(inside):
        x, y = inside[i]
        area += (reference[0] - x) * (height - y)
        height = y
    return area


def half_width(values: Sequence[float]) -> float:
    """Half of the interval in which the mean lies with SURE probability, by Student's t, of values that are normally
    distributed; inf of fewer than two."""
    from scipy.stats import t

    n = len(values)
    if n < 2:
        return math.inf
    return float(t.ppf((1 + SURE) / 2, n - 1)) * stdev(values) / math.sqrt(n)
