"""One formula, three number types: the same forward values, and slopes of the right size and sign."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cosoc.search import relax
from cosoc.sim import exact
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.model.tiles import make_tile
from cosoc.sim.model.workload import INPUT, Layer

SOC = find_soc("diana", {"cores.analog.ox_unrolls": "[1, 2, 4]"})  # those of DORY's template
COUNTS = st.integers(0, 2000)
SIZES = st.integers(1, 600)


def tensor(x: float) -> torch.Tensor:
    return torch.tensor(float(x), dtype=torch.float64, requires_grad=True)


def slope(f, x: float) -> float:  # type: ignore[no-untyped-def]
    """The derivative that relax carries, which must be the same for tensors and for Soft numbers."""
    at = tensor(x)
    (by_tape,) = torch.autograd.grad(f(at), at)
    (soft,) = relax.inputs([x])
    assert f(soft).grad[0] == pytest.approx(by_tape.item(), rel=1e-12, abs=1e-15)
    return float(by_tape)


def test_the_same_names() -> None:
    assert relax.__all__ == exact.__all__


@st.composite
def tiles(draw: st.DrawFn) -> tuple[str, dict[str, int], bool]:
    """A core of DIANA and sizes of a tile that it runs."""
    core = draw(st.sampled_from(sorted(SOC.cores)))
    sizes = {name: draw(st.integers(1, 64)) for name in ("oy", "ox", "c")}
    sizes |= {"k": draw(COUNTS), "f": draw(st.sampled_from([1, 3, 5, 7])), "stride": draw(st.integers(1, 2))}
    return core, sizes, draw(st.booleans())


@settings(max_examples=300, deadline=None)
@given(tiles())
def test_every_core_costs_the_same_in_every_number_type(case: tuple[str, dict[str, int], bool]) -> None:
    core, n, depthwise = case
    model = SOC.cores[core]
    op = getattr(model, "ops", ("conv",))[0]
    layer = Layer("x", op, (INPUT,), n["c"], n["c"], n["oy"], n["ox"], 1, 1, n["f"], n["f"], n["stride"], n["stride"],
                  groups=n["c"] if depthwise and op == "conv" else 1)  # fmt: skip
    assume(not model.fits(make_tile(layer, n["k"], n["oy"], n["ox"])))
    for cost in (model.cycles, model.feed_bytes, model.weight_bytes, model.energy_pj):
        want = cost(make_tile(layer, n["k"], n["oy"], n["ox"]), exact)
        array = cost(make_tile(layer, np.array([n["k"]]), n["oy"], n["ox"]), exact)
        leaf = tensor(n["k"])
        tape = cost(make_tile(layer, leaf, n["oy"], n["ox"]), relax)
        (soft,) = relax.inputs([n["k"]])
        forward = cost(make_tile(layer, soft, n["oy"], n["ox"]), relax)
        assert array.tolist() == [want]
        assert tape.item() == want
        assert forward.value == want
        (per_channel,) = torch.autograd.grad(tape, leaf)
        assert forward.grad[0] == pytest.approx(per_channel.item(), rel=1e-9, abs=1e-12)


@settings(deadline=None)
@given(COUNTS, SIZES)
def test_division(a: int, b: int) -> None:
    assert slope(lambda x: relax.ceildiv(x, b), a) == pytest.approx(1 / b)
    assert slope(lambda x: relax.floordiv(x, b), a) == pytest.approx(1 / b)
    # More pixels an operation take fewer operations: the released estimators have this sign wrong.
    assert slope(lambda x: relax.ceildiv(a + 1, x), b) < 0


@settings(deadline=None)
@given(st.integers(1, 600))
def test_all_channels_together_are_worth_the_fixed_cost(n: int) -> None:
    assert slope(relax.used, n) * n == pytest.approx(1)


@pytest.mark.parametrize(("limit", "sign"), [(0, 0), (1, 1), (3, 1), (4, 1), (5, 0), (64, 0)])
def test_unroll_rises_with_its_limit_until_all_steps_are_climbed(limit: int, sign: int) -> None:
    assert np.sign(slope(lambda x: relax.largest((1, 2, 4), x), limit)) == sign


@pytest.mark.parametrize("k", [130, 160, 200, 250])
def test_more_channels_leave_room_for_fewer_pixels_an_operation(k: int) -> None:
    """512 columns: 2 pixels an operation from 129 to 256 channels, 4 below, 1 above. So the time rises with k."""
    layer = Layer("x", "conv", (INPUT,), k, 16, 16, 16, 16, 16, 1, 1)
    assert slope(lambda x: SOC.cores["analog"].unroll(make_tile(layer, x, 16, 16), relax), k) < 0
    per_channel = slope(lambda x: SOC.cores["analog"].cycles(make_tile(layer, x, 16, 16), relax), k)
    halves, whole = (SOC.cores["analog"].cycles(make_tile(layer, n, 16, 16), exact) for n in (128, 257))
    # Between the ends of the staircase the mean slope; ours is within a factor of 2 of it everywhere on the way.
    assert 0.5 < per_channel / ((whole - halves) / 129) < 2


@settings(deadline=None)
@given(st.lists(st.floats(1, 1e7), min_size=2, max_size=4), st.floats(1e-3, 1e3))
def test_maximum_has_no_scale(xs: list[float], factor: float) -> None:
    for f in (relax.maximum, relax.minimum):
        here, there = (torch.tensor([x * s for x in xs], dtype=torch.float64, requires_grad=True) for s in (1, factor))
        (a,), (b,) = (torch.autograd.grad(f(*x.unbind()), x) for x in (here, there))
        assert f(*here.unbind()).item() == (max(xs) if f is relax.maximum else min(xs))
        torch.testing.assert_close(a, b)
        assert a.sum().item() == pytest.approx(1)
        soft = f(*relax.inputs(xs))
        assert soft.grad == pytest.approx(a.tolist())


def test_two_cores_of_equal_time_are_both_worth_relieving() -> None:
    assert relax.maximum(*relax.inputs([1000, 1000])).grad == pytest.approx((0.5, 0.5))
    assert relax.maximum(*relax.inputs([1000, 500])).grad[1] < 1e-4


@settings(deadline=None)
@given(st.floats(1, 100), st.floats(1, 100))
def test_forward_mode_is_the_tape(a: float, b: float) -> None:
    def f(x, y):  # type: ignore[no-untyped-def]
        return (3 - x) * y / (x + 2 * y) - 5 / x + relax.where(x > y, x * y, -y)

    soft = f(*relax.inputs([a, b]))
    x, y = tensor(a), tensor(b)
    out = f(x, y)
    assert soft.value == pytest.approx(out.item())
    assert soft.grad == pytest.approx([g.item() for g in torch.autograd.grad(out, (x, y))], rel=1e-6, abs=1e-9)
