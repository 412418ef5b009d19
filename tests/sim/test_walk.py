"""The walk's arrays against the loops themselves, written out."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cosoc.sim.lower.walk import INPUTS, OUTPUTS, OWN_INPUTS, WEIGHTS, ended, final, fresh, positions, returning

DIMS = ("n", "k", "c", "fy", "fx", "oy", "ox")
NESTS = st.tuples(st.permutations(DIMS), st.lists(st.integers(1, 3), min_size=7, max_size=7))


def looped(order: Any, counts: dict[str, int]) -> list[dict[str, int]]:
    """The tiles as nested loops visit them."""
    return [dict(zip(order, at, strict=True)) for at in itertools.product(*(range(counts[d]) for d in order))]


@given(NESTS)
def test_tiles_come_as_nested_loops_visit_them(nest: Any) -> None:
    order, sizes = nest
    counts = dict(zip(DIMS, sizes, strict=True))
    at = positions(counts, order)
    assert [{d: int(at[d][i]) for d in DIMS} for i in range(len(at["n"]))] == looped(order, counts)


@given(NESTS, st.sampled_from((WEIGHTS, INPUTS, OWN_INPUTS, OUTPUTS)))
def test_an_operand_is_loaded_when_its_slice_is_another(nest: Any, dims: Any) -> None:
    """Against a store of one slice: what it lacks is loaded, and what is loaded a second time comes back."""
    order, sizes = nest
    counts = dict(zip(DIMS, sizes, strict=True))
    at, held, seen = positions(counts, order), None, set()
    loads, again = fresh(at, dims), returning(at, dims)
    for i, tile in enumerate(looped(order, counts)):
        key = tuple(tile[d] for d in dims)
        assert loads[i] == (key != held)
        assert again[i] == (key != held and key in seen)
        held = key
        seen.add(key)
    assert final(at, dims).sum() == loads.sum()


@given(NESTS)
def test_a_loop_ends_where_its_counter_starts_again(nest: Any) -> None:
    order, sizes = nest
    counts = dict(zip(DIMS, sizes, strict=True))
    tiles = looped(order, counts)
    found = ended(positions(counts, order), order)
    for i, (before, now) in enumerate(itertools.pairwise(tiles), start=1):
        assert found[i] == sum(now[d] < before[d] for d in order)
    assert found[0] == 0 and isinstance(found, np.ndarray)
