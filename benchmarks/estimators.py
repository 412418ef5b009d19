"""Three estimators of the cost's gradient: how biased, how noisy, and to which fronts they lead.

    python benchmarks/estimators.py [--quick] [--seed N] [--seeds N] [--json FILE]

First table: layers of ResNet-8 on their own, where truth can be had. With one core drawn for each of k channels, the
number of channels on a core follows a Poisson-binomial distribution; the expected simulated cost is a sum over k + 1
simulations, and its gradient in the logits exact. Bias is the distance of an estimator's mean gradient from that, noise
the root mean square distance of one estimate from its mean, both in parts of the true gradient's norm; cosine is that
between the mean and the truth. Where bias is below its standard error it cannot be told from none. `undecided` logits
are near zero, `leaning` ones have a standard deviation of two.

Second table: the same search on the digits with each estimator, as the hypervolume of its front (odimo_front.volume).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from common import arguments, state, write_json
from odimo_front import progress, volume
from rich.console import Console
from rich.table import Table
from torch import Tensor

from cosoc.search.spaces.shares import ShareCosts
from cosoc.search.training.gates import ESTIMATORS, Choice, gumbel, score_loss, soft
from cosoc.search.training.gradient import SCORE_SAMPLES
from cosoc.search.training.space import TrainingConfig, search_trained
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.manual import alone

CORES = ("digital", "analog")
LAYERS = ("layer2.0.conv2", "layer3.0.conv1", "layer3.0.conv2")  # stages of 32 and 64 channels; 16 are a single step
SPREADS = {"undecided": 0.1, "leaning": 2.0}  # standard deviation of the logits
STRENGTHS = (0.3, 1.0, 3.0, 10.0)


@dataclass(frozen=True)
class Quality:
    """Of an estimator's gradient, in parts of the true gradient's norm: bias with its standard error, noise."""

    bias: float
    bias_error: float
    noise: float
    cosine: float


def count_probabilities(p: Tensor) -> Tensor:
    """Probabilities of 0..k successes in k independent draws of probabilities p [k]: [k + 1], differentiable."""
    out = torch.ones(1, dtype=p.dtype)
    for one in p:
        none = torch.zeros(1, dtype=p.dtype)
        out = torch.cat((out * (1 - one), none)) + torch.cat((none, out * one))
    return out


@dataclass(frozen=True)
class Problem:
    """A layer on its own: simulated costs of 0..k channels on the second core, relative to none, and the estimate."""

    name: str
    costs: Tensor
    surrogate: Callable[[Mapping[str, Tensor]], Tensor]

    def truth(self, logits: Tensor) -> Tensor:
        """The exact gradient of the expected simulated cost, [k, cores]."""
        leaf = logits.clone().requires_grad_()
        expected = (count_probabilities(torch.softmax(leaf, 1)[:, 1]) * self.costs).sum()
        return torch.autograd.grad(expected, leaf)[0]

    def simulate(self, choices: Sequence[Choice]) -> list[float]:
        """Simulated costs of drawn partitionings."""
        return [float(self.costs[int(choice["layer"].sum())]) for choice in choices]


def problem(name: str, seed: int) -> Problem:
    """The problem of one layer of ResNet-8 on DIANA, in the overlapped runtime."""
    soc, network = find_soc("diana"), find_workload("resnet8")
    layer = network[name]
    single = alone(network, layer)
    oracle = ShareCosts(single, soc, "overlapped")
    oracle.prime(24, seed)
    splits = [{name: dict(zip(CORES, (layer.k - n, n), strict=True))} for n in range(layer.k + 1)]
    seconds = torch.tensor([oracle.simulated(split).latency_s for split in splits], dtype=torch.float64)
    base_ticks = float(seconds[0]) * soc.tick_hz

    def surrogate(counts: Mapping[str, Tensor]) -> Tensor:
        out: Tensor = oracle.estimate({name: dict(zip(CORES, counts["layer"].unbind(), strict=True))}).ticks
        return out / base_ticks

    return Problem(name, seconds / seconds[0], surrogate)


def gradient(kind: str, given: Problem, logits: Tensor, generator: torch.Generator) -> Tensor:
    """One estimate of the gradient. kind: `expectation`, `montecarlo` or `score` with its number of samples."""
    leaf = logits.clone().requires_grad_()
    name, _, samples = kind.partition(" ")
    if name == "score":
        loss = score_loss({"layer": leaf}, given.simulate, given.surrogate, int(samples), generator)
    else:
        gates = soft(leaf, 1.0) if name == "expectation" else gumbel(leaf, 1.0, generator)
        loss = given.surrogate({"layer": gates.sum(0)})
    return torch.autograd.grad(loss, leaf)[0]


def quality(kind: str, given: Problem, logits: Tensor, draws: int, seed: int) -> Quality:
    """Mean and spread of so many estimates, held against the truth."""
    truth = given.truth(logits)
    generator = torch.Generator().manual_seed(seed)
    draws = 1 if kind == "expectation" else draws  # it does not draw anything
    found = torch.stack([gradient(kind, given, logits, generator) for _ in range(draws)])
    middle, norm = found.mean(0), float(truth.norm())
    spread = float((found - middle).pow(2).sum((1, 2)).mean().sqrt())
    return Quality(
        bias=float((middle - truth).norm()) / norm,
        bias_error=spread / draws**0.5 / norm,
        noise=spread / norm,
        cosine=float((middle * truth).sum()) / (float(middle.norm()) * norm),
    )


def gradients(draws: int, seed: int) -> list[dict[str, Any]]:
    """A row for every layer, state of the logits and estimator."""
    rows = []
    for name in LAYERS:
        given = problem(name, seed)
        for state_name, spread in SPREADS.items():
            generator = torch.Generator().manual_seed(seed)
            logits = spread * torch.randn(len(given.costs) - 1, len(CORES), generator=generator, dtype=torch.float64)
            for kind in ("expectation", "montecarlo", f"score {SCORE_SAMPLES}", "score 8"):
                found = quality(kind, given, logits, draws, seed)
                rows.append({"layer": name, "logits": state_name, "estimator": kind, **vars(found)})
    return rows


def fronts(quick: bool, seed: int, seeds: int) -> dict[str, list[float]]:
    """Hypervolumes of the searches, by estimator, one a seed."""
    out: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for estimator in ESTIMATORS:
            for number in range(seed, seed + seeds):
                config = TrainingConfig(
                    soc=find_soc("diana"),
                    workload="digits_cnn",
                    strengths=STRENGTHS[1:3] if quick else STRENGTHS,
                    estimator=estimator,
                    epochs=5 if quick else 24,
                    seed=number,
                    out=Path(scratch) / f"{estimator}-{number}",
                    train_images=300 if quick else None,
                    manual=(),
                )
                content = search_trained(config, progress(f"{estimator}, seed {number}")).content()
                area = volume(content["points"], content["about"]["reference"]["latency_s"], classes=10)
                out.setdefault(estimator, []).append(area)
    return out


def gradient_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Bias, noise and direction, for a terminal."""
    table = Table(title="Gradient of the expected simulated latency in the logits, single layers", box=None)
    for name in ("layer", "logits", "estimator", "bias", "noise", "cosine"):
        table.add_column(name, justify="left" if name in ("layer", "logits", "estimator") else "right")
    for row in rows:
        bias = f"{row['bias']:.3f} ± {row['bias_error']:.3f}"
        names = (row["layer"], row["logits"], row["estimator"])
        table.add_row(*names, bias, f"{row['noise']:.2f}", f"{row['cosine']:.3f}")
    return table


def main() -> None:
    parser = arguments(__doc__, seed=0)
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds of the search, from --seed on")
    args = parser.parse_args()
    state(args.seed)
    torch.set_num_threads(1)
    console = Console()
    rows = gradients(100 if args.quick else 2000, args.seed)
    console.print(gradient_table(rows))
    areas = fronts(args.quick, args.seed, 1 if args.quick else args.seeds)
    table = Table(title="Front of the search on the digits: hypervolume, higher is better", box=None)
    for name in ("estimator", "mean", "deviation"):
        table.add_column(name, justify="left" if name == "estimator" else "right")
    for estimator, values in areas.items():
        table.add_row(estimator, f"{mean(values):.4f}", f"{stdev(values):.4f}" if len(values) > 1 else "-")
    console.print(table)
    write_json(args.json, {"seed": args.seed, "gradients": rows, "hypervolume": areas})


if __name__ == "__main__":
    main()
