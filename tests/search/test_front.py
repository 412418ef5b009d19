"""Fronts and hypervolumes, against brute force and by hand."""

import numpy as np
import pytest

from cosoc.search.front import hypervolume, non_dominated


def dominated(p: tuple[float, float], q: tuple[float, float]) -> bool:
    return q[0] <= p[0] and q[1] <= p[1] and q != p


@pytest.mark.parametrize("seed", range(20))
def test_the_front_is_what_nothing_dominates(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = [(float(x), float(y)) for x, y in rng.integers(0, 8, (12, 2))]
    front = {points[i] for i in non_dominated(points)}
    assert front == {p for p in points if not any(dominated(p, q) for q in points)}


@pytest.mark.parametrize("seed", range(20))
def test_hypervolume_is_the_count_of_dominated_cells(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = [(float(x), float(y)) for x, y in rng.integers(0, 12, (6, 2))]
    cells = sum(any(p[0] <= x and p[1] <= y for p in points) for x in range(10) for y in range(10))
    assert hypervolume(points, (10.0, 10.0)) == cells


def test_a_hypervolume_by_hand() -> None:
    assert hypervolume([(1.0, 3.0), (2.0, 1.0), (5.0, 0.0)], (4.0, 4.0)) == (4 - 1) * (4 - 3) + (4 - 2) * (3 - 1)
    assert hypervolume([], (1.0, 1.0)) == 0.0
