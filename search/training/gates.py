"""Gates: how much of each output channel is on each core, as the estimators see it.

expectation   soft gates: the probabilities themselves (a softmax; for two cores the sigmoid of the difference)
montecarlo    sampled partitionings: one core a channel, drawn by Gumbel noise, with the gradient of the soft gates
score         sampled likewise; the cost's gradient is that of the log-probability, weighted by the simulated cost
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from cosoc.search.training.quant import ste

Estimator = Literal["expectation", "montecarlo", "score"]
ESTIMATORS: tuple[Estimator, ...] = get_args(Estimator)

Logits = Mapping[str, Tensor]  # by layer, [k, cores]
Choice = dict[str, Tensor]  # by layer, the core of each channel, int64 [k]


def soft(logits: Tensor, temperature: float) -> Tensor:
    """Probabilities [k, cores] at a temperature."""
    return torch.softmax(logits / temperature, dim=1)


def draw(logits: Tensor, generator: torch.Generator) -> Tensor:
    """One core for each channel, with the probabilities softmax(logits): int64 [k], on the CPU, as generators are."""
    return torch.multinomial(torch.softmax(logits.detach(), 1).cpu(), 1, generator=generator)[:, 0]


def one_hot(choice: Tensor, cores: int) -> Tensor:
    """Gates [k, cores] of a choice."""
    return torch.nn.functional.one_hot(choice, cores).to(torch.get_default_dtype())


def gumbel(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """A sampled partitioning with the gradient of its relaxation (straight-through Gumbel-softmax): [k, cores]."""
    uniform = torch.rand(logits.shape, generator=generator).clamp(1e-9, 1 - 1e-7).to(logits.device)
    relaxed = soft(logits - (-uniform.log()).log(), temperature)
    return ste(one_hot(relaxed.argmax(1), logits.shape[1]).to(relaxed.dtype), relaxed)


def gates_of(logits: Tensor, estimator: Estimator, temperature: float, generator: torch.Generator) -> Tensor:
    """Gates [k, cores] of a step of training, as an estimator has them."""
    if estimator == "expectation":
        return soft(logits, temperature)
    if estimator == "montecarlo":
        return gumbel(logits, temperature, generator)
    probable = soft(logits, 1.0)  # the score's own gradient is of these probabilities
    return ste(one_hot(draw(logits, generator), logits.shape[1]).to(probable), probable)


def log_probability(logits: Logits, choice: Choice) -> Tensor:
    """Log-probability of a partitioning of all layers."""
    parts = [torch.log_softmax(logits[n], 1).gather(1, choice[n].to(logits[n].device)[:, None]).sum() for n in logits]
    return torch.stack(parts).sum()


def score_loss(
    logits: Logits,
    simulate: Callable[[Sequence[Choice]], Sequence[float]],
    surrogate: Callable[[Mapping[str, Tensor]], Tensor],
    samples: int,
    generator: torch.Generator,
) -> Tensor:
    """A loss whose gradient is an unbiased estimate of the gradient of the expected simulated cost.

    simulate: costs of sampled partitionings. surrogate: an estimate as a function of the channels on each core, by
    layer [cores]; it serves as a control variate that is linear in the channel counts, h(n) = h0 + g (n - E n) with g
    its gradient at the expected counts, so that E h is known: grad E f = E[(f - h) grad log p] + g grad E n. What is
    left of the variance is what the surrogate does not explain. The mean of the other samples is a second baseline.
    """
    names = list(logits)
    cores = {n: logits[n].shape[1] for n in names}
    expected = {n: torch.softmax(logits[n], 1).sum(0) for n in names}
    at = {n: expected[n].detach().requires_grad_() for n in names}
    value = surrogate(at)
    slopes = dict(zip(names, torch.autograd.grad(value, [at[n] for n in names], allow_unused=True), strict=True))
    choices = [{n: draw(logits[n], generator) for n in names} for _ in range(samples)]
    costs = simulate(choices)
    residuals = []
    for choice, cost in zip(choices, costs, strict=True):
        explained = float(value.detach())
        for n in names:
            slope = slopes[n]
            if slope is not None:
                counts = one_hot(choice[n], cores[n]).sum(0).to(slope)
                explained += float((slope * (counts - at[n].detach())).sum())
        residuals.append(float(cost) - explained)
    loss = torch.zeros((), dtype=value.dtype)
    for n in names:
        slope = slopes[n]
        if slope is not None:
            loss = loss + (slope * expected[n]).sum()
    total = sum(residuals)
    for choice, residual in zip(choices, residuals, strict=True):
        others = (total - residual) / (samples - 1) if samples > 1 else 0.0
        loss = loss + (residual - others) / samples * log_probability(logits, choice)
    return loss
