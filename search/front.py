"""Fronts of two objectives, both to be small."""

from __future__ import annotations

from collections.abc import Sequence

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
