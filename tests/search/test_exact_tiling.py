"""Are the optima optimal, and the bounds bounds?"""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from cosoc.search.exact.tiles import Optimum, best_choice, best_plan, front_of, value, walk
from cosoc.search.spaces.sections import Cost, Section, listed
from cosoc.search.spaces.tiles_cached import CachedTiles, divisors, lower_bound
from cosoc.sim.errors import InputError
from cosoc.sim.figures import objective
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.model.workload import Layer, Workload
from cosoc.sim.movers.cached_terms import Machine

SMALL = {"memories.scratchpad.size_bytes": "262144", "memories.accumulator.size_bytes": "65536"}
MACHINE = Machine.of(find_soc("gemmini_firesim", SMALL))
EDP = objective("edp")
ADDITIVE = ("edp", "latency", "energy")


def optimum(space: CachedTiles, aim: str, fusion: bool = True, **limits: float) -> Optimum:
    return best_plan(len(space.positions), space.choices(fusion), objective(aim), **limits)  # type: ignore[arg-type]


def conv(side: int, c: int, k: int, filter_: int) -> Layer:
    """A convolution whose input brings its own border, so that no read is saved at it."""
    i = side + filter_ - 1
    return Layer("x", "conv", ("input",), k, c, oy=side, ox=side, iy=i, ix=i, fy=filter_, fx=filter_)


def alone(layer: Layer) -> Workload:
    return Workload("one", (layer.c, layer.iy, layer.ix), (layer,), (layer.name,))


# EDP in pJ cycles, energy in uJ, cycles: an enumeration of the same accounting over two levels of tiles and three
# orders (70,000 to 450,000 points a layer), written apart from this package; DOSA's latency, memories not halved.
OPTIMA = [
    (conv(56, 64, 64, 3), 1.199e14, 261.9, 457_856),
    (conv(28, 128, 128, 3), 1.112e14, 244.5, 454_720),
    (conv(14, 256, 256, 3), 1.290e14, 284.6, 453_152),
    (conv(7, 512, 512, 3), 2.180e14, 481.8, 452_368),
    (conv(56, 64, 256, 1), 4.567e13, 202.2, 225_792),
    (Layer("x", "conv", ("input",), 768, 768, ox=128, ix=128), 6.613e13, 221.9, 297_984),
]


@pytest.mark.parametrize(("layer", "edp", "energy_uj", "cycles"), OPTIMA)
def test_single_layers_have_the_optima_of_an_independent_enumeration(
    layer: Layer, edp: float, energy_uj: float, cycles: int
) -> None:
    space = CachedTiles(alone(layer), MACHINE, double=False, model="roofline")
    options = space.choices()[0, 1]
    choice = best_choice(options, EDP)
    cost = options.cost(choice)
    assert cost.seconds * MACHINE.hz == pytest.approx(cycles)
    assert cost.energy_j * 1e6 == pytest.approx(energy_uj, abs=0.05)
    assert cost.energy_j * 1e12 * cost.seconds * MACHINE.hz == pytest.approx(edp, rel=5e-4)
    assert space.cost(options.section(choice)) == cost


def tiny() -> Workload:
    """Four layers, two of which meet in a sum: small enough to try every plan."""
    c3 = {"oy": 4, "ox": 4, "iy": 4, "ix": 4, "fy": 3, "fx": 3, "pad_y": 1, "pad_x": 1}
    layers = (
        Layer("a", "conv", ("input",), 16, 8, **c3),
        Layer("b", "conv", ("a",), 16, 16, **c3),
        Layer("add", "add", ("a", "b"), 16, 16, oy=4, ox=4, iy=4, ix=4),
        Layer("c", "conv", ("add",), 8, 16, oy=4, ox=4, iy=4, ix=4),
    )
    return Workload("tiny", (8, 4, 4), layers, ("c",))


def every_cost(space: CachedTiles) -> list[tuple[float, float]]:
    """(energy, cycles) of every plan: all ways to cut the layers, all choices of all pieces; of each piece's choices
    those that another beats or equals in both are left out, which takes nothing from any sum."""
    n, pieces = len(space.positions), {}
    for a, b in itertools.combinations(range(n + 1), 2):
        if b == a + 1:
            rows, found = space.singles(a)
            energy, cycles = space.cost_of(found)
            points = {(float(e), float(c)) for e, c in np.broadcast(energy, cycles)} if len(rows) else set()
        elif space.chain(a, b - 1) is not None:
            rows = space.fused_candidates(a, b - 1)
            energy, cycles = space.fused_cost(a, b - 1, rows[space.fused_fits(a, b - 1, rows)])
            points = {(float(e), float(c)) for e, c in zip(energy, cycles, strict=True)}
        else:
            continue
        pieces[a, b] = [p for p in points if not any(q[0] <= p[0] and q[1] <= p[1] and q != p for q in points)]
    out = []
    for cuts in itertools.chain.from_iterable(itertools.combinations(range(1, n), r) for r in range(n)):
        ways = list(itertools.pairwise((0, *cuts, n)))
        if all(way in pieces for way in ways):
            for chosen in itertools.product(*(pieces[way] for way in ways)):
                out.append((sum(p[0] for p in chosen), sum(p[1] for p in chosen)))
    return out


@pytest.mark.parametrize("aim", [*ADDITIVE, "throughput", "latency*energy^2"])
def test_the_programme_finds_the_best_of_all_plans(aim: str) -> None:
    """Brute force over every way to cut four layers and every choice of every piece."""
    space = CachedTiles(tiny(), MACHINE)
    found = optimum(space, aim)
    best = min(value(e * 1e-12, c / MACHINE.hz, objective(aim)) for e, c in every_cost(space))
    assert found.value == pytest.approx(best, rel=1e-12)
    assert found.bound == 1.0
    assert space.complete(found.sections)
    cost = space.plan_cost(found.sections)
    assert value(cost.energy_j, cost.seconds, objective(aim)) == pytest.approx(found.value, rel=1e-12)


@pytest.mark.parametrize("aim", ["peak", "edp*peak", "latency*peak^3"])
def test_peaks_are_largest_of_sections_and_found_by_the_programme(aim: str) -> None:
    """Against all ways over four layers, two choices a section, with peaks and costs drawn at random."""
    rng, n = np.random.default_rng(3), 4
    for _ in range(30):
        points = {(a, b): rng.random((2, 2)) + 0.1 for a in range(n) for b in range(a + 1, n + 1)}
        peaks = {span: int(rng.integers(1, 9)) for span in points}
        options = {
            span: listed({Section(i, (), None): Cost(*own[i]) for i in range(2)}) for span, own in points.items()
        }
        found = best_plan(n, options, objective(aim), peaks)
        least = np.inf
        for r in range(n):
            for cuts in itertools.combinations(range(1, n), r):
                ways = list(itertools.pairwise((0, *cuts, n)))
                peak = max(peaks[way] for way in ways)
                for chosen in itertools.product(*(points[way] for way in ways)):
                    energy, seconds = np.sum(chosen, axis=0)
                    least = min(least, float(value(energy, seconds, objective(aim), peak)))
        assert found.value == pytest.approx(least, rel=1e-12)


def test_fronts_keep_what_nothing_dominates() -> None:
    """Against the definition, and with epsilon: every point has a kept one within the factor."""
    points = np.random.default_rng(0).random((300, 2)) + 0.5
    kept = set(front_of(points).tolist())
    for i, p in enumerate(points):
        assert (i in kept) == (not any((q <= p).all() and (q < p).any() for q in points))
    thin = points[front_of(points, 0.1)]
    assert len(thin) < len(kept)
    assert all(((t <= 1.1 * p).all(axis=-1)).any() for p in points for t in [thin])


def test_thinned_fronts_come_with_a_bound_that_holds() -> None:
    space = CachedTiles(find_workload("resnet8"), MACHINE)
    exact, thinned = optimum(space, "edp"), optimum(space, "edp", epsilon=0.05, largest=2)
    assert exact.bound == 1.0 < thinned.bound <= 1.05**2 * (1 + 1e-9)
    assert exact.value <= thinned.value <= exact.value * thinned.bound


def test_sums_along_ways() -> None:
    """Two ways from 0 to 2: by 1 with (1, 4) and (2, 1) then (1, 1), or at once with (2, 4): the front is by hand."""
    ways = walk(
        2, {(0, 1): np.array([[1.0, 4.0], [2.0, 1.0]]), (1, 2): np.ones((1, 2)), (0, 2): np.array([[2.0, 4.0]])}
    )
    assert ways.fronts[2].tolist() == [[2.0, 4.0], [3.0, 2.0]]


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v1_025", "gpt3_block_decode"])
def test_no_plan_is_below_the_lower_bound(name: str) -> None:
    space = CachedTiles(find_workload(name), MACHINE)
    for fusion in (True, False):
        bound = lower_bound(space, fusion)
        for aim in ADDITIVE:
            found = optimum(space, aim, fusion)
            assert bound.energy_j <= found.cost.energy_j
            assert bound.seconds <= found.cost.seconds


def test_fusion_never_costs_where_it_may_be_left_out() -> None:
    for name in ("resnet18", "mobilenet_v1", "vgg16"):
        space = CachedTiles(find_workload(name), MACHINE)
        assert optimum(space, "edp").value <= optimum(space, "edp", fusion=False).value


def test_candidates_are_all_divisors_and_fit() -> None:
    """10 x 12 pixels: all pairs of divisors, and line buffers under whole rows for all heights but the whole."""
    layers = (
        Layer("a", "conv", ("input",), 16, 16, oy=10, ox=12, iy=10, ix=12),
        Layer("b", "conv", ("a",), 16, 16, oy=10, ox=12, iy=10, ix=12),
    )
    space = CachedTiles(Workload("two", (16, 10, 12), layers, ("b",)), MACHINE)
    rows = space.fused_candidates(0, 1)
    heads = {tuple(row[:3]) for row in rows.tolist()}
    plain = {(y, x, 0) for y in divisors(10) for x in divisors(12)}
    assert heads == plain | {(y, 12, 1) for y in divisors(10) if y < 10}
    assert len(rows) == 1 + (len(heads) - 1) * 4  # two layers' weights stay or not, where there is more than one step
    assert divisors(12) == [1, 2, 3, 4, 6, 12]


def test_what_does_not_fit_says_which_memory_and_by_how_much() -> None:
    layer = Layer("wide", "conv", ("input",), 16, 16, fx=3000, ix=3000)
    tiny_machine = replace(MACHINE, spad_rows=2, acc_rows=1)
    with pytest.raises(InputError, match="layer wide: its smallest tile needs 2 rows of scratchpad, 1 more than the 1"):
        CachedTiles(alone(layer), tiny_machine)
    space = CachedTiles(alone(conv(56, 64, 64, 3)), MACHINE)
    with pytest.raises(InputError, match="does not fit"):
        space.cost(space.as_single(0, (64, 64, 3, 3, 56, 56, 0)))
    pooled = CachedTiles(find_workload("resnet18"), MACHINE)
    with pytest.raises(InputError, match="does not run on Gemmini"):
        pooled.as_fused(0, 1, (8, 8, 0, 0, 0))


def test_a_network_that_the_array_does_not_run_is_refused() -> None:
    pool = Layer("pool", "max_pool", ("input",), 8, 8, oy=4, ox=4, iy=8, ix=8, fy=2, fx=2, stride_y=2, stride_x=2)
    with pytest.raises(InputError, match="has no layer that the array runs"):
        CachedTiles(alone(pool), MACHINE)
