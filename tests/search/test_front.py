"""Fronts against brute force: every pair of points compared, every unit square of a grid counted."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cosoc.search.front import Point, hypervolume, non_dominated

SIZE = 8
coordinate = st.integers(0, SIZE)
points = st.lists(st.tuples(coordinate, coordinate), max_size=12)


@given(points)
def test_the_front_is_what_no_other_point_beats(given_points: list[Point]) -> None:
    def beaten(p: Point) -> bool:
        return any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in given_points)

    front = [given_points[i] for i in non_dominated(given_points)]
    assert front == sorted({p for p in given_points if not beaten(p)})


@given(points)
def test_of_equal_points_the_first_is_kept(given_points: list[Point]) -> None:
    front = non_dominated(given_points)
    assert front == [given_points.index(given_points[i]) for i in front]


@given(points)
def test_hypervolume_counts_the_unit_squares_that_some_point_dominates(given_points: list[Point]) -> None:
    squares = ((x, y) for x in range(SIZE) for y in range(SIZE))
    dominated = sum(any(p[0] <= x and p[1] <= y for p in given_points) for x, y in squares)
    assert hypervolume(given_points, (SIZE, SIZE)) == dominated


def test_points_beyond_the_reference_add_nothing() -> None:
    """Two steps within a reference of (3, 3), by hand: 1 x 2 left of x = 2, then 1 x 1 more below y = 1..2."""
    steps = [(1.0, 2.0), (2.0, 1.0)]
    assert hypervolume(steps, (3, 3)) == 2 * 1 + 1 * 1
    assert hypervolume([*steps, (0.5, 3.0), (4.0, 0.0)], (3, 3)) == 3
    assert hypervolume([], (3, 3)) == 0
