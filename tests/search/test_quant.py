"""Quantisers: levels, scales and gradients, against their formulas and finite differences."""

import pytest
import torch

from cosoc.search.training.quant import (
    ActivationQuantiser,
    Converter,
    integer_weight,
    ste,
    ternary_log_scale,
    ternary_weight,
)


def test_ste_has_one_value_and_another_gradient() -> None:
    x = torch.tensor([0.3, 1.7], requires_grad=True)
    y = ste(x.round(), 3 * x)
    assert y.tolist() == [0.0, 2.0]
    assert torch.autograd.grad(y.sum(), x)[0].tolist() == [3.0, 3.0]


def test_integer_weights_are_on_the_grid_and_within_half_a_step() -> None:
    weight = torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(0)).double()
    quantised = integer_weight(weight, 8)
    step = weight.abs().flatten(1).amax(1)[:, None, None, None] / 127
    levels = quantised / step
    assert torch.allclose(levels, levels.round(), atol=1e-9)
    assert levels.abs().max() <= 127 + 1e-9
    assert ((quantised - weight).abs() <= step / 2 + 1e-12).all()


def test_ternary_levels_are_equally_likely_for_normal_weights() -> None:
    weight = torch.randn(1, 30_000, generator=torch.Generator().manual_seed(1))
    quantised = ternary_weight(weight, ternary_log_scale(weight))
    scale = float(quantised.abs().max())
    shares = [float((quantised == level).float().mean()) for level in (-scale, 0.0, scale)]
    assert shares == pytest.approx([1 / 3] * 3, abs=0.01)  # 30,000 draws: a deviation of 0.003


def test_ternary_scale_has_the_gradient_of_its_levels() -> None:
    # Saturated weights move with the scale: d(sum)/d(log s) = s * (number at +1 - number at -1); inside the clip the
    # straight-through value w / s times s does not depend on s.
    weight = torch.tensor([[2.0, -3.0, 2.5, 0.01]])
    log_scale = torch.zeros(1, requires_grad=True)
    (slope,) = torch.autograd.grad(ternary_weight(weight, log_scale).sum(), log_scale)
    inside = 0.0 - 0.01  # level 0 times s, less the w / s that stands for it
    assert slope.item() == pytest.approx(1.0 * (2 - 1) + inside, abs=1e-6)


@pytest.mark.parametrize("signed", [False, True])
def test_activations_take_all_levels_between_the_clips(signed: bool) -> None:
    quantiser = ActivationQuantiser(3).train()
    quantiser(torch.tensor([-2.0, 2.0]), signed)  # sets the clip to 2
    x = torch.linspace(-3, 3, 1001)
    levels = quantiser(x, signed).unique()
    low = -2.0 if signed else 0.0
    count = 7 if signed else 8  # 2^3 - 1 to either side of zero and zero itself; 2^3 from zero
    assert len(levels) == count
    assert levels[0].item() == pytest.approx(low)
    assert levels[-1].item() == pytest.approx(2.0)


def test_the_clip_gets_the_gradient_of_what_it_clips() -> None:
    quantiser = ActivationQuantiser(7).eval()
    x = torch.tensor([-1.0, 0.5, 3.0, 4.0], requires_grad=True)  # the clip is e^0 = 1
    quantiser(x, signed=False).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 1.0, 0.0, 0.0]
    assert quantiser.log_clip.grad is not None
    assert quantiser.log_clip.grad.item() == 2.0  # two values at the clip, d clip / d log clip = 1


def test_tensors_that_share_a_range_start_it_at_the_largest_of_all() -> None:
    quantiser = ActivationQuantiser(7, uses=2).train()
    for x in ([0.5, 1.0], [-3.0, 0.1], [8.0, 0.0]):  # the third belongs to the second batch
        quantiser(torch.tensor(x), signed=True)
    assert quantiser.log_clip.exp().item() == pytest.approx(3.0)
    again = ActivationQuantiser(7, uses=2)
    again.load_state_dict(quantiser.state_dict())
    again.train()(torch.tensor([9.0]), signed=True)  # what has started does not start again after a resume
    assert again.log_clip.exp().item() == pytest.approx(3.0)


def test_the_converter_has_so_many_levels_and_noise_only_if_asked_for() -> None:
    x = torch.randn(64, 1, 40, generator=torch.Generator().manual_seed(2))

    def read(noise: float, seed: int) -> torch.Tensor:
        converter = Converter(6)
        converter.disturb(noise, torch.Generator().manual_seed(seed))
        return converter.train()(x).detach()

    assert len(read(0.0, 0).unique()) <= 63  # 2^5 - 1 steps to either side, and zero
    assert torch.equal(read(0.0, 0), read(0.0, 1))
    assert torch.equal(read(0.5, 0), read(0.5, 0))
    assert not torch.equal(read(0.5, 0), read(0.5, 1))
