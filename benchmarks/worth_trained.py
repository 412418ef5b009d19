"""Trained: the search over channels driven by the law, by the estimate and by the simulator, at equal budgets.

For each seed ResNet-8 is trained in floating point, once for all. From there each driver searches at each strength:
weights and gates together, the loss being cross-entropy plus strength times the driver's cost over its own cost of all
8 bit; the simulator's gradient is the score function's, of two simulated partitionings a step. The likeliest core of
each channel is then taken as it is, and besides (`_repaired`) given back where simulation says that it costs nothing,
as `cosoc search` does; the network is trained on for as many epochs in every variant, and tested. Every latency is
simulated.

Hypervolume: between a variant's points and (all-8-bit latency, accuracy of always naming one class), each objective
scaled to 0..1, so that 1 would be perfect accuracy in no time. Intervals are 95 %, by Student's t over the seeds.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import sqrt
from statistics import mean, stdev
from typing import Any

import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional
from worth_cases import FEED, l2

from cosoc.search.front import hypervolume
from cosoc.search.spaces.channels import Assignment, MixedNet, assignment, fix, prepare
from cosoc.search.spaces.shares import Counts, ShareCosts, Tangent
from cosoc.search.training.data import Data, load_data
from cosoc.search.training.evaluate import metric
from cosoc.search.training.gates import Choice, score_loss
from cosoc.search.training.nets import build
from cosoc.search.training.repair import repair
from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.importers.torch_export import from_module
from cosoc.sim.manual import named_mapping
from cosoc.sim.model.mapping import Runtime

NETWORK = "resnet8"
STRENGTHS = (0.3, 3.0, 30.0)
DRIVERS = ("law", "estimate", "simulation")

BATCH, SAMPLES, COST_EVERY, PRIMING = 64, 2, 4, 24
COOLEST = 0.2  # temperature of the gates at the end, from 1
RATES = {"weights": 1e-3, "quantisers": 1e-3, "logits": 5e-2, "warm-up": 3e-3}  # of Adam

Shares = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True)
class Trained:
    """A case: DIANA with these keys of its file changed, under a runtime."""

    name: str
    runtime: Runtime = "overlapped"
    set: Mapping[str, str] = field(default_factory=dict)


# On ResNet-8's weights of 77 KB: an L2 that does not hold them, the same with a fast feed, and waiting for everything.
TRAINED = (
    Trained("resnet8_l2_64k", set=l2(64)),
    Trained("resnet8_feed64_l2_64k", set=FEED | l2(64)),
    Trained("resnet8_serial", "serial"),
)


@dataclass(frozen=True)
class Budget:
    """images: of training; epochs in floating point, of search and of training on."""

    images: int = 400
    warm_up: int = 8
    search: int = 6
    tune: int = 4

    def __str__(self) -> str:
        return f"{self.images} images, {self.warm_up} + {self.search} + {self.tune} epochs"


QUICK = Budget(200, 1, 1, 1)


def data_at_hand(seed: int, images: int) -> Data:
    """Fashion-MNIST where it is installed, else scikit-learn's digits."""
    try:
        return load_data("fashion_mnist", seed, train_images=images)
    except InputError:
        return load_data("digits", seed, train_images=images)


def epochs(
    net: nn.Module, data: Data, n: int, groups: Sequence[tuple[list[nn.Parameter], float]], draws: torch.Generator,
    loss_of: Callable[[Tensor, Tensor, float], Tensor],
) -> None:  # fmt: skip
    """Train with Adam, the rates falling to a tenth along a cosine. loss_of(x, y, part done 0..1)."""
    adam = torch.optim.Adam([{"params": list(params), "lr": rate} for params, rate in groups if params])
    steps = max(1, len(data.train) // BATCH)
    for epoch in range(n):
        net.train()
        order = torch.randperm(len(data.train), generator=draws)
        for step in range(steps):
            done = (epoch + step / steps) / n
            for group, (_, rate) in zip(adam.param_groups, (g for g in groups if g[0]), strict=True):
                group["lr"] = rate * (0.1 + 0.45 * (1 + float(torch.cos(torch.tensor(torch.pi * done)))))
            at = order[step * BATCH : (step + 1) * BATCH]
            adam.zero_grad()
            loss_of(data.train.x[at], data.train.y[at], done).backward()  # type: ignore[no-untyped-call]
            adam.step()


def run(case: Trained, seed: int, budget: Budget) -> dict[str, Any]:
    """All variants of a case and a seed: points {variant: [(latency in all-8-bit's, accuracy), ...]}, hypervolumes."""
    torch.manual_seed(seed)
    data, soc = data_at_hand(seed, budget.images), find_soc("diana", dict(case.set))
    plain = build(NETWORK, data.input_shape[0], len(data.classes))
    workload = from_module(plain, data.input_shape, NETWORK)
    draws = torch.Generator().manual_seed(seed)
    weights = [(list(plain.parameters()), RATES["warm-up"])]
    epochs(plain, data, budget.warm_up, weights, draws, lambda x, y, done: functional.cross_entropy(plain(x), y))
    costs = {model: ShareCosts(workload, soc, case.runtime, model) for model in ("odimo", "simulator")}  # type: ignore[arg-type]
    costs["simulator"].prime(PRIMING, seed)

    def opened() -> MixedNet:
        return prepare(copy.deepcopy(plain), workload, soc)

    eight = named_mapping("all_8bit", workload, soc, case.runtime)
    whole = {name: {p.core: p.channels for p in plan.parts} for name, plan in eight.layers.items()}
    slowest_s = costs["simulator"].simulated(whole).latency_s
    steps = {core: model.channel_step for core, model in soc.cores.items()}
    points: dict[str, list[tuple[float, float]]] = {}

    def tuned(variant: str, net: MixedNet, chosen: Assignment) -> None:
        mine = opened()
        mine.load_state_dict(net.state_dict())
        fix(mine, chosen)
        groups = [(mine.weight_parameters(), RATES["weights"]), (mine.quant_parameters(), RATES["quantisers"])]
        again = torch.Generator().manual_seed(seed)
        epochs(mine, data, budget.tune, groups, again, lambda x, y, done: functional.cross_entropy(mine(x), y))
        seconds = costs["simulator"].simulated(_counts(mine, chosen)).latency_s
        points.setdefault(variant, []).append((seconds / slowest_s, metric(mine, data.test, data.task)))

    for driver in DRIVERS:
        own = costs["odimo" if driver == "law" else "simulator"]
        for strength in STRENGTHS:
            net = searched(opened(), data, own, driver, strength, budget, seed, whole)
            chosen = assignment(net)
            tuned(driver, net, chosen)
            mended, _ = repair(net, chosen, partial(_seconds, costs["simulator"], net), steps)
            tuned(f"{driver}_repaired", net, mended)
    chance = 1 - 1 / len(data.classes)
    areas = {
        variant: hypervolume([(x, (1 - right) / chance) for x, right in own], (1 + 1e-6, 1.0))
        for variant, own in points.items()
    }
    return {"seed": seed, "data": data.name, "points": points, "hypervolume": areas}


def searched(
    net: MixedNet,
    data: Data,
    costs: ShareCosts,
    driver: str,
    strength: float,
    budget: Budget,
    seed: int,
    whole: Counts,
) -> MixedNet:
    """The network after a search with one driver. whole: the channels of all 8 bit."""
    draws = torch.Generator().manual_seed(seed)
    own = costs.simulated(whole) if driver == "simulation" else costs.estimated(whole)
    base = own.latency_s
    layers = net.searchable()

    def relative(shares: Shares) -> Tensor:
        out: Tensor = costs.figures(shares).latency_s / base
        return out

    def surrogate(counts: Mapping[str, Tensor]) -> Tensor:
        return relative({n: dict(zip(layers[n].cores, k.unbind(), strict=True)) for n, k in counts.items()})

    def simulate(choices: Sequence[Choice]) -> list[float]:
        return [_seconds(costs, net, one) / base for one in choices]

    tangent = Tangent(relative, COST_EVERY)

    def loss_of(x: Tensor, y: Tensor, done: float) -> Tensor:
        net.set_gates("score" if driver == "simulation" else "expectation", COOLEST**done, draws)
        logits = {name: layer.logits for name, layer in layers.items()}
        scored = driver == "simulation"
        cost = score_loss(logits, simulate, surrogate, SAMPLES, draws) if scored else tangent(net.shares())
        return functional.cross_entropy(net(x), y) + strength * cost.to(x.dtype)

    groups = [
        (net.weight_parameters(), RATES["weights"]),
        (net.quant_parameters(), RATES["quantisers"]),
        (net.arch_parameters(), RATES["logits"]),
    ]
    epochs(net, data, budget.search, groups, draws, loss_of)
    return net


def _counts(net: MixedNet, chosen: Assignment | Choice) -> dict[str, dict[str, int]]:
    """Channels on each core of each weighted layer."""
    out = {}
    for name, layer in net.layers.items():
        if name in chosen:
            counts = torch.bincount(chosen[name], minlength=len(layer.cores)).tolist()
            out[name] = dict(zip(layer.cores, counts, strict=True))
    return out


def _seconds(costs: ShareCosts, net: MixedNet, chosen: Assignment | Choice) -> float:
    return costs.simulated(_counts(net, chosen)).latency_s


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Mean hypervolume of each variant over the seeds, and half of its 95 % interval (None with one seed)."""
    out: dict[str, dict[str, float | None]] = {}
    for variant in runs[0]["hypervolume"]:
        values = [one["hypervolume"][variant] for one in runs]
        half = None
        if len(values) > 1:
            half = float(stats.t.ppf(0.975, len(values) - 1)) * stdev(values) / sqrt(len(values))
        out[variant] = {"mean": mean(values), "half_interval": half}
    return out


__all__ = ["QUICK", "TRAINED", "Budget", "Trained", "run", "summary"]
