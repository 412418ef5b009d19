"""Gates and estimators: the score estimator against the exact gradient by enumeration."""

import itertools
from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor

from cosoc.search.training.gates import Choice, draw, gumbel, log_probability, one_hot, score_loss, soft


def logits(seed: int) -> dict[str, Tensor]:
    """Two layers of three channels, two cores."""
    made = torch.Generator().manual_seed(seed)
    return {n: torch.randn(3, 2, generator=made, dtype=torch.float64).requires_grad_() for n in ("a", "b")}


def cost_of(choice: Choice) -> float:
    """A cost with steps and a maximum, as a machine has."""
    a, b = (int(choice[n].sum()) for n in ("a", "b"))
    return float(max(4 - a, 2 * a) + max(3 * (3 - b), b) + (a > 1) * 2)


def surrogate(counts: Mapping[str, Tensor]) -> Tensor:
    """A smooth stand-in that is wrong by a little everywhere."""
    return 1.2 * counts["a"][1] ** 2 / 3 + 2.1 * counts["b"][0] + 0.5


def exact_gradient(of: dict[str, Tensor]) -> Tensor:
    """Gradient of the expected cost, all 64 partitionings enumerated."""
    total = torch.zeros((), dtype=torch.float64)
    for cores in itertools.product((0, 1), repeat=6):
        choice = {"a": torch.tensor(cores[:3]), "b": torch.tensor(cores[3:])}
        total = total + log_probability(of, choice).exp() * cost_of(choice)
    return torch.cat([g.flatten() for g in torch.autograd.grad(total, [of["a"], of["b"]])])


def estimates(of: dict[str, Tensor], stand_in: object, runs: int, samples: int) -> Tensor:
    draws = torch.Generator().manual_seed(7)
    out = []

    def simulate(choices: Sequence[Choice]) -> list[float]:
        return [cost_of(choice) for choice in choices]

    for _ in range(runs):
        loss = score_loss(of, simulate, stand_in, samples, draws)  # type: ignore[arg-type]
        out.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, [of["a"], of["b"]])]))
    return torch.stack(out)


def test_the_score_estimator_is_unbiased_whatever_the_surrogate() -> None:
    of = logits(0)
    exact = exact_gradient(of)

    def nothing(counts: Mapping[str, Tensor]) -> Tensor:
        return 0.0 * (counts["a"].sum() + counts["b"].sum())

    spreads = []
    for stand_in in (surrogate, nothing):
        found = estimates(of, stand_in, runs=3000, samples=2)
        error = (found.mean(0) - exact).abs()
        allowed = 4.5 * found.std(0) / len(found) ** 0.5  # 24 comparisons: one in 6,000 runs goes beyond
        assert (error < allowed).all()
        spreads.append(found.var(0).sum().item())
    assert spreads[0] < spreads[1]  # the control variate takes variance away


def test_draws_have_the_probabilities_of_the_logits() -> None:
    row = torch.tensor([[0.0, 1.0, -1.0]]).expand(20_000, 3)
    counts = torch.bincount(draw(row, torch.Generator().manual_seed(0)), minlength=3) / 20_000
    assert counts.tolist() == pytest.approx(torch.softmax(row[0], 0).tolist(), abs=0.015)


def test_gumbel_gates_are_one_hot_with_a_soft_gradient() -> None:
    of = torch.randn(50, 2, generator=torch.Generator().manual_seed(1)).requires_grad_()
    gates = gumbel(of, 1.0, torch.Generator().manual_seed(2))
    assert gates.sum(1).tolist() == pytest.approx([1.0] * 50, abs=1e-6)
    assert set(gates.detach().round(decimals=5).unique().tolist()) == {0.0, 1.0}
    (slope,) = torch.autograd.grad(gates[:, 0].sum(), of)
    assert (slope[:, 0] > 0).all()


def test_two_cores_are_a_sigmoid_and_cold_gates_are_decided() -> None:
    of = torch.tensor([[0.3, -0.2]])
    assert soft(of, 1.0)[0, 0].item() == pytest.approx(torch.sigmoid(torch.tensor(0.5)).item())
    assert soft(of, 0.01)[0, 0].item() == pytest.approx(1.0, abs=1e-6)
    assert one_hot(torch.tensor([1, 0]), 2).tolist() == [[0.0, 1.0], [1.0, 0.0]]
