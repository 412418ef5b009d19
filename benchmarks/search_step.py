"""A step of a search beside a plain step of training: what gates, quantisers and the cost take.

    python benchmarks/search_step.py [--quick] [--device cpu|cuda|mps] [--amp bf16] [--batch N] [--channels-last]
                                     [--compile] [--steps N] [--only channels|operators|large] [--json FILE]

Channels: ResNet-18 on images of 224 pixels, mixed over DIANA's two arrays, beside the same network in floating point.
Operators: MobileNetV1 at a quarter of its width on 28 pixels, each template with all choices open on Darkside, beside
the dearer of its two forms in floating point; and the same of ResNet-18 on images of 224 pixels (large), a quarter of
the batch and of the steps.
Steps are those that `cosoc.search.training.train` does, from batch to Adam, and alternate, so that what else the
machine does falls on both; the time is the processor's on a CPU (one thread), the clock's around a synchronised device
elsewhere, and of all steps behind the first ones the faster half. The cost's tangent is taken anew every so many
steps; its part in each is added. With --quick batches are small and images of 64 pixels; with --only the other parts of
FILE stays as it is.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from statistics import mean
from typing import Any

import torch
from common import arguments, state, write_json
from torch import nn

from cosoc.search.spaces.channels import MixedNet, prepare, replace_module
from cosoc.search.spaces.operators import STEP, TEMPLATES, Template, with_choices
from cosoc.search.spaces.operators import prepare as prepare_operators
from cosoc.search.spaces.shares import ShareCosts, Tangent
from cosoc.search.training.batches import Plan, made
from cosoc.search.training.compute import AMPS, DEVICES, Compute, peak_bytes
from cosoc.search.training.gradient import COST_EVERY
from cosoc.search.training.nets import build, mobilenet_v1_025
from cosoc.search.training.optimise import Group, Optimisers
from cosoc.search.training.parts import Split
from cosoc.search.training.recipe import find_recipe
from cosoc.search.training.task import classification
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.importers.torch_export import from_module

UNTIMED = 1  # steps, in which ranges are found and memory is had
SIDE, QUICK_SIDE = 224, 64  # pixels
CHANNELS_GOAL, OPERATORS_GOAL = 1.3, 1.5  # times a plain step
Step = Callable[[], None]


def step_of(net: nn.Module, data: Split, batch: int, classes: int, compute: Compute, cost: Tangent | None) -> Step:
    """A step of training; cost: of a search, in its loss."""
    recipe, task = find_recipe("default"), classification(classes)
    compute.place(net.train())
    forward, scaler, held = compute.forward(net), compute.scaler(), data.to(compute.device)
    if isinstance(net, MixedNet):
        assert recipe.gates is not None
        groups = [
            Group(net.weight_parameters(), recipe.weights, 1e-3),
            Group(net.quant_parameters(), recipe.weights, 1e-3),
        ]
        groups.append(Group(net.arch_parameters(), recipe.gates, 1e-3))
    else:
        groups = [Group(list(net.parameters()), recipe.weights, 1e-3)]
    optimisers, draws = Optimisers(groups), torch.Generator().manual_seed(0)

    def step() -> None:
        items = made(held, Plan(torch.randint(len(data), (batch,), generator=draws)), compute.device)
        optimisers.at(0.5)
        optimisers.zero_grad()
        if isinstance(net, MixedNet) and cost is not None:
            net.set_gates("expectation", 0.5, draws)
            loss = task.loss(forward(items.x), items.y)
            loss = loss + 0.1 * cost(net.shares()).to(loss)
        else:
            loss = task.loss(forward(items.x), items.y)
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        optimisers.step(scaler)

    return step


def clock(device: str) -> float:
    """Seconds: of the processor, or of the clock once a device has done all that it was asked."""
    if device == "cpu":
        return time.process_time()
    (torch.cuda if device == "cuda" else torch.mps).synchronize()
    return time.perf_counter()


def timed(steps: dict[str, Step], count: int, device: str) -> dict[str, float]:
    """Seconds of each kind of step, the faster half's mean."""
    found: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(UNTIMED + count):
        for name, step in steps.items():
            began = clock(device)
            step()
            if number >= UNTIMED:
                found[name].append(clock(device) - began)
        print(f"step {number + 1} of {UNTIMED + count}", flush=True)
    return {name: mean(sorted(times)[: max(1, len(times) // 2)]) for name, times in found.items()}


def touched(cost: Tangent, net: MixedNet, device: str) -> float:
    """Seconds, a step, that the cost's tangent takes: the least of three, over the steps that it stands for."""
    found = []
    for _ in range(3):
        began = clock(device)
        cost.renew()
        cost(net.shares())
        found.append(clock(device) - began)
    return min(found) / COST_EVERY


def channels(batch: int, side: int, steps: int, compute: Compute) -> dict[str, Any]:
    """ResNet-18 on DIANA."""
    soc, shape = find_soc("diana"), (3, side, side)
    draws = torch.Generator().manual_seed(0)
    data = Split(torch.randn(batch, *shape, generator=draws), torch.randint(1000, (batch,), generator=draws))
    torch.manual_seed(0)
    plain = build("resnet18")
    workload = from_module(plain, shape, "resnet18")
    costs, mixed = ShareCosts(workload, soc, "overlapped"), prepare(copy.deepcopy(plain), workload, soc)
    cost = Tangent(lambda shares: costs.estimate(shares).ticks * 1e-6, COST_EVERY)
    both = {
        "plain": step_of(plain, data, batch, 1000, compute, None),
        "search": step_of(mixed, data, batch, 1000, compute, cost),
    }
    seconds = timed(both, steps, compute.device)
    seconds["tangent"] = touched(cost, mixed, compute.device)
    times = (seconds["search"] + seconds["tangent"]) / seconds["plain"]
    return {"network": "resnet18", "soc": "diana", "batch": batch, "side": side, "seconds": seconds, "times": times}


def operators(
    network: str,
    template: Template,
    shape: tuple[int, int, int],
    classes: int,
    batch: int,
    steps: int,
    compute: Compute,
) -> dict[str, Any]:
    """A network on Darkside, by one template."""
    soc = find_soc("darkside")
    draws = torch.Generator().manual_seed(0)
    data = Split(torch.randn(batch, *shape, generator=draws), torch.randint(classes, (batch,), generator=draws))
    torch.manual_seed(0)
    plain = build(network) if network == "resnet18" else mobilenet_v1_025(shape[0], classes, 0.25)
    net = with_choices(plain, shape, soc, template)
    costs, mixed = ShareCosts(net.workload, soc, "overlapped"), prepare_operators(net, soc)
    cost = Tangent(lambda shares: costs.estimate(shares, STEP).ticks * 1e-6, COST_EVERY)
    first, second = copy.deepcopy(net.net), net.net
    for path in net.blocks.values():
        replace_module(first, path, net.net.get_submodule(path).first_alone())  # type: ignore[operator]
    net.split(dict.fromkeys(net.choices(), 0))
    kinds = {
        "first": step_of(first, data, batch, classes, compute, None),
        "second": step_of(second, data, batch, classes, compute, None),
        "search": step_of(mixed, data, batch, classes, compute, cost),
    }
    seconds = timed(kinds, steps, compute.device)
    seconds["tangent"] = touched(cost, mixed, compute.device)
    times = (seconds["search"] + seconds["tangent"]) / max(seconds["first"], seconds["second"])
    return {
        "network": network, "soc": "darkside", "choices": len(net.blocks), "batch": batch, "side": shape[1],
        "seconds": seconds, "times": times,
    }  # fmt: skip


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--device", choices=DEVICES, default="cpu")
    parser.add_argument("--amp", choices=AMPS)
    parser.add_argument("--batch", type=int, default=64, help="images a step")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--steps", type=int, default=8, help="of each kind, that are timed")
    parser.add_argument("--only", choices=("channels", "operators", "large"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    compute = Compute(args.device, args.amp, 0, args.compile, args.channels_last)
    compute.check(1, 1)
    state(0)
    batch, side = (min(8, args.batch), QUICK_SIDE) if args.quick else (args.batch, SIDE)
    how = {"device": args.device, "amp": args.amp, "channels_last": args.channels_last, "compiled": args.compile}
    figures: dict[str, Any] = (
        json.loads(args.json.read_text()) if args.only and args.json and args.json.exists() else {}
    )
    figures.pop("machine", None)
    if args.only in (None, "channels"):
        found = channels(batch, side, 4 if args.quick else args.steps, compute)
        figures["channels"] = how | found | {"peak_bytes": peak_bytes(args.device)}
        print(f"channels: {found['times']:.2f} times a plain step, {CHANNELS_GOAL} at most is the aim")
    small = ("operators", "mobilenet_v1_025", (1, 28, 28), 10, batch, 8 if args.quick else 5 * args.steps)
    large = ("large", "resnet18", (3, side, side), 1000, max(1, batch // 4), max(2, args.steps // 4))
    for key, network, shape, classes, items, steps in (small, large):
        for template in TEMPLATES if args.only in (None, key) else ():
            found = operators(network, template, shape, classes, items, steps, compute)
            figures.setdefault(key, {})[template] = how | found | {"peak_bytes": peak_bytes(args.device)}
            print(f"{network}, {template}: {found['times']:.2f} times its dearer form's, {OPERATORS_GOAL} is the aim")
    write_json(args.json, figures)


if __name__ == "__main__":
    main()
