"""A user's own training loop over a wrapped network: gradients flow, shares move, and what is left is simulated."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import cosoc
from cosoc.search.wrapped import Wrapped
from cosoc.sim.errors import InputError

SHAPE = (1, 1, 8, 8)


class Residual(nn.Module):
    """Two convolutions with a batch norm and a sum, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64)
        self.second = nn.Conv2d(64, 64, 3, padding=1)
        self.out = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        x = torch.relu(self.second(x) + x)
        return self.out(x.mean((2, 3)))


@pytest.fixture(scope="module")
def net() -> Residual:
    torch.manual_seed(0)
    return Residual().eval()


@pytest.fixture(scope="module")
def primed(net: Residual) -> Wrapped:
    """Wrapped once, as fitting the estimate takes seconds."""
    return cosoc.wrap(net, "diana", SHAPE, seed=1)


@pytest.fixture
def wrapped(primed: Wrapped) -> Wrapped:
    return copy.deepcopy(primed).train()


def batch() -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(2)
    return torch.randn(16, *SHAPE[1:], generator=draws), torch.randint(10, (16,), generator=draws)


def test_three_steps_of_a_loop_of_ones_own_move_weights_and_shares(wrapped: Wrapped) -> None:
    x, y = batch()
    optimiser = torch.optim.Adam(wrapped.parameters(), lr=0.5)
    with torch.no_grad():
        for logits in wrapped.decisions():
            logits[:, 0] += 2.0  # far from balanced: nearly everything on the first core
    before, at = wrapped.shares(), wrapped.cost().item()
    weights = [parameter.detach().clone() for parameter in wrapped.net.weight_parameters()]
    for _ in range(3):
        loss = functional.cross_entropy(wrapped(x), y) + 10 * wrapped.cost() / at
        optimiser.zero_grad()
        loss.backward()
        assert all(p.grad is not None and bool(p.grad.any()) for p in wrapped.decisions())
        optimiser.step()
    assert wrapped.cost().item() < at
    assert wrapped.shares() != before
    assert all(not torch.equal(a, b) for a, b in zip(weights, wrapped.net.weight_parameters(), strict=True))
    for name, on in wrapped.shares().items():  # all channels of a layer are somewhere
        assert sum(on.values()) == pytest.approx(wrapped.workload[name].k, rel=1e-5)


def test_the_gradient_says_where_channels_cost_less(wrapped: Wrapped) -> None:
    """The estimate counts whole passes of an array, so its value is a staircase and its gradient the staircase's rise:
    a layer moved as far as a pass of either array (16 of digital, 32 of analog) gains where the gradient says so."""
    layer = wrapped.net.layers["second"]
    with torch.no_grad():
        layer.logits[:, 0] += 1.5  # most channels on the first core
    wrapped.cost().backward()
    assert layer.logits.grad is not None
    slope = layer.logits.grad[:, 0].sum().item()
    at = wrapped.cost().item()
    with torch.no_grad():
        layer.logits[:, 0] -= 1.5 if slope > 0 else -1.5
    assert wrapped.cost().item() < at


def test_where_gates_are_hard_the_cost_is_the_estimate_of_the_mapping_which_simulates(wrapped: Wrapped) -> None:
    torch.manual_seed(3)
    for layer in wrapped.net.searchable().values():
        layer.logits.data.normal_()
    wrapped.eval()
    found = cosoc.simulate(wrapped.soc, wrapped.workload, wrapped.mapping())
    assert wrapped.cost().item() == pytest.approx(wrapped.estimated().latency_s, rel=1e-6)
    assert wrapped.cost("energy").item() == pytest.approx(wrapped.estimated().energy_j, rel=1e-6)
    # what an estimate of this chip is off by at most on networks that it was fitted to (docs/python.md: below 5 %)
    assert wrapped.cost().item() == pytest.approx(found.seconds, rel=0.05)
    channels = {name: plan.parts for name, plan in wrapped.mapping().layers.items()}
    for name, on in wrapped.shares().items():
        assert {part.core: part.channels for part in channels[name]} == {c: round(k) for c, k in on.items() if round(k)}


def test_cold_gates_come_to_the_cost_of_the_mapping(wrapped: Wrapped) -> None:
    torch.manual_seed(4)
    for layer in wrapped.net.searchable().values():
        layer.logits.data.normal_()
    wrapped.temperature = 1e-3
    soft = wrapped.cost().item()
    assert soft == pytest.approx(wrapped.eval().cost().item(), rel=1e-3)


def test_settling_keeps_counts_and_what_the_network_computes(wrapped: Wrapped) -> None:
    """Where layers that share an order agree: here one layer is split and what it is summed with is not."""
    with torch.no_grad():
        for name, layer in wrapped.net.searchable().items():
            layer.logits.zero_()
            layer.logits[:, 0] = 1.0
            if name == "second":
                layer.logits[::2, 1] = 2.0
    x, _ = batch()
    wrapped.train()(x)  # which is when quantisers find their ranges
    wrapped.eval()
    before, counts = wrapped(x), wrapped.mapping().layers
    wrapped.settle()
    assert wrapped.mapping().layers == counts
    assert torch.allclose(wrapped(x), before, atol=1e-5)
    cores = wrapped.net.layers["second"].gates.argmax(1)
    assert bool((cores[1:] >= cores[:-1]).all())  # contiguous, in the cores' order
    wrapped.train()
    assert not any(parameter.requires_grad for parameter in wrapped.decisions())
    wrapped(x).sum().backward()


def test_sampled_gates_are_whole_and_have_a_gradient(wrapped: Wrapped) -> None:
    x, y = batch()
    wrapped.gates = "montecarlo"
    scores = wrapped(x)
    counts = [k for on in wrapped.shares().values() for k in on.values()]
    assert all(k == round(k) for k in counts)
    (functional.cross_entropy(scores, y) + wrapped.cost() / wrapped.cost().item()).backward()
    assert all(bool(p.grad.any()) for p in wrapped.decisions() if p.grad is not None)
    again = [k for _ in range(3) for k in [wrapped(x), wrapped.shares()][1]["second"].values()]
    assert len(set(again)) > 2, "every batch draws anew"


def test_the_module_is_left_alone_and_equal_seeds_give_equal_costs(net: Residual, primed: Wrapped) -> None:
    before = copy.deepcopy(net.state_dict())
    again = cosoc.wrap(net, "diana", SHAPE, seed=1)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert again.eval().cost().item() == primed.eval().cost().item()


def test_what_cannot_be_wrapped_is_refused(net: Residual) -> None:
    with pytest.raises(InputError, match="no layer has two cores to choose between"):
        cosoc.wrap(net, "gemmini", SHAPE)
    with pytest.raises(InputError, match="a batch of one is needed"):
        cosoc.wrap(net, "diana", (4, 1, 8, 8))
    with pytest.raises(InputError, match="estimate and primed exclude each other"):
        cosoc.wrap(net, "diana", SHAPE, estimate="e.json", primed=3)


def test_gates_of_another_name_are_refused(wrapped: Wrapped) -> None:
    wrapped.gates = "score"  # type: ignore[assignment]
    with pytest.raises(InputError, match="expectation or montecarlo is needed"):
        wrapped.cost()
