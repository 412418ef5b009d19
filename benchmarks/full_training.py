"""Training at length, parts of training.py.

`full`: Fashion-MNIST, all of its training images, by the recipe for images of this size, three seeds, five points. Each
case is started and so many steps of each phase are timed; what the whole front takes is extrapolated from them, and
called so: steps alone, without validation and simulation. No published accuracy was found of ResNet-20, nor of
MobileNetV1 at a quarter of its width, on Fashion-MNIST; PUBLISHED has what is nearest, so there is nothing that the
float networks would have to come within half a point of.

`depth`: a transformer of twelve blocks, trained for as little as a processor has time for, and its front. Then what
whole heads cost: the least loss, by sensitivities of the warmed-up network, at costs between the ends, of shares as the
search has them, and of shares that are each layer's own, in the cores' steps.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from common import progress
from rich.console import Console
from rich.table import Table
from steps import Took, step_of, timed, watched

from cosoc.search.exact.shares import Choices, channel_options, nearest
from cosoc.search.spaces.channels import assignment, fix, uniform
from cosoc.search.spaces.heads import Unit
from cosoc.search.spaces.opened import CHEAPEST
from cosoc.search.spaces.shares import Counts, ShareCosts, Tangent
from cosoc.search.training.choose import all_counts
from cosoc.search.training.compute import Compute
from cosoc.search.training.data import Data, load_data
from cosoc.search.training.gradient import COST_EVERY
from cosoc.search.training.parts import Split
from cosoc.search.training.post import set_ranges
from cosoc.search.training.recipe import find_recipe
from cosoc.search.training.sensitivity import sensitive_front, sensitivities
from cosoc.search.training.space import TrainingConfig, data_of, opened, search_trained
from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc

FASHION = "fashion_mnist"
FEW = {"train": 1000, "val": 128, "test": 2000}  # images
FEWER = {"train": 32, "val": 16, "test": 64}
LENGTHS = {"warm_up": 12, "search": 2, "fine_tune": 3}  # epochs


def few() -> dict[str, Any]:
    """Some of Fashion-MNIST, the first ones of each part."""
    return _first(FEW)


def fewer() -> dict[str, Any]:
    """Hardly any of it."""
    return _first(FEWER)


def _first(counts: Mapping[str, int]) -> dict[str, Any]:
    data = load_data(FASHION, 0)
    parts = {name: getattr(data, name).items(torch.arange(count)) for name, count in counts.items()}
    return parts | {"task": "classification", "classes": data.classes}


SEEDS, POINTS, STEPS = 3, 5, 20
CASES = (
    ("resnet20", "diana", "channels"), ("mobilenet_v1_025", "diana", "channels"),
    ("resnet20", "darkside", "operators"), ("mobilenet_v1_025", "darkside", "operators"),
    ("resnet20", "gap9", "operators"), ("mobilenet_v1_025", "gap9", "operators"),
)  # fmt: skip
# Test accuracies as submitted to the data set's README (zalandoresearch/fashion-mnist), which has not tested them.
PUBLISHED = {
    "MobileNet, of unstated width, flips": 0.950,
    "ResNet-18, flips, translations, rotations": 0.949,
    "DenseNet-BC, 768,000 weights, crops and flips": 0.954,
}


def full(quick: bool, seed: int, compute: Compute, wanted: Sequence[str], known: Mapping[str, Any]) -> dict[str, Any]:
    """Each case's seconds a step by phase, and hours, extrapolated; or why its space refuses it."""
    found: dict[str, Any] = {"data": FASHION, "recipe": "cifar", "seeds": SEEDS, "points": POINTS}
    found |= {"device": compute.device, "published": PUBLISHED, "cases": dict(known.get("cases", {}))}
    data = load_data(FASHION, seed)
    for network, soc, space in CASES[3:4] if quick else CASES:
        label = f"{network} on {soc}, {space}"
        if wanted and not any(word in label for word in wanted):
            continue
        print(label, flush=True)
        config = TrainingConfig(
            soc=find_soc(soc), workload=network, space=space, data=FASHION, points=POINTS, seeds=SEEDS, seed=seed,
            recipe=find_recipe("cifar"), compute=compute,
        )  # fmt: skip
        try:
            found["cases"][label] = _case(config, data, 1 if quick else STEPS)
        except InputError as error:
            found["cases"][label] = {"refused": str(error)}
    _show(found)
    return found


def _case(config: TrainingConfig, data: Data, steps: int) -> dict[str, Any]:
    recipe, space, task = config.recipe, opened(config, data), data.task
    mixed, costs = space.quantised(), ShareCosts(space.workload, config.soc, config.runtime)
    cost = Tangent(lambda shares: costs.estimate(shares, space.grain).ticks * 1e-9, COST_EVERY)
    rest = (recipe.batch, config.compute)
    took: dict[str, Took] = {}
    with watched(config.compute.device) as took["simulate"]:
        costs.oracle.simulate(space.reference)
    warm_up = step_of(space.float_net, data.train, task, recipe, "warm_up", *rest, draw=space.draw)
    took["warm_up"] = timed(warm_up, steps, config.compute.device)[1]
    took["search"] = timed(
        step_of(mixed, data.train, task, recipe, "search", *rest, cost), steps, config.compute.device
    )[1]
    mixed.cpu()
    fix(mixed, uniform(mixed, space.reference))
    tune = step_of(mixed, data.train, task, recipe, "fine_tune", *rest)
    took["fine_tune"] = timed(tune, steps, config.compute.device)[1]
    n_warm, n_search, n_tune = recipe.phases(config.epochs)
    mappings = POINTS + len({*space.manual, space.reference.name, CHEAPEST})
    warm_ups = SEEDS if space.fixed is None else 1 + SEEDS * mappings
    epochs = {"warm_up": warm_ups * n_warm, "search": POINTS * n_search, "fine_tune": SEEDS * mappings * n_tune}
    each = len(data.train) // recipe.batch
    hours = {phase: count * each * took[phase].seconds / 3600 for phase, count in epochs.items()}
    return {
        "timed_steps": steps, "batch": recipe.batch, "steps_an_epoch": each, "mappings": mappings, "epochs": epochs,
        "seconds": {name: one.seconds for name, one in took.items()},
        "peak_bytes": max(one.peak_bytes for one in took.values()),
        "extrapolated_hours": hours | {"all": sum(hours.values())},
    }  # fmt: skip


def _show(found: Mapping[str, Any]) -> None:
    table = Table(title=f"{FASHION}, recipe {found['recipe']}: s a step, timed; hours, extrapolated")
    phases = ("warm_up", "search", "fine_tune")
    for name in ("case", "batch", *(f"{phase} s" for phase in phases), *(f"{phase} h" for phase in phases), "all h"):
        table.add_column(name, justify="left" if name == "case" else "right")
    for label, one in found["cases"].items():
        if "refused" in one:
            table.add_row(label, one["refused"])
            continue
        hours = one["extrapolated_hours"]
        cells = [*(f"{one['seconds'][phase]:.2f}" for phase in phases), *(f"{hours[phase]:.1f}" for phase in phases)]
        table.add_row(label, str(one["batch"]), *cells, f"{hours['all']:.0f}")
    Console(width=150, highlight=False).print(table)


def depth(quick: bool, seed: int, folder: Path, compute: Compute) -> dict[str, Any]:
    """A front of a transformer of twelve blocks on DIANA: both ends and two points, of few images and epochs."""
    images, lengths, points = (FEWER, dict.fromkeys(LENGTHS, 1), 0) if quick else (FEW, LENGTHS, 2)
    recipe = find_recipe("default", {f"epochs.{phase}": str(epochs) for phase, epochs in lengths.items()})
    data, out = f"full_training:{'fewer' if quick else 'few'}", folder / "depth"
    config = TrainingConfig(
        soc=find_soc("diana"), workload="vit_small", data=data, points=points, recipe=recipe, seed=seed,
        compute=compute, out=out, resume=out.exists(), manual=("all_8bit",) if quick else (),
    )  # fmt: skip
    began, used = time.perf_counter(), time.process_time()
    content = search_trained(config, progress("vit_small")).content()
    found: dict[str, Any] = {"workload": "vit_small", "soc": "diana", "data": FASHION, "images": images}
    found |= {"epochs": lengths, "seconds": time.perf_counter() - began, "cpu_s": time.process_time() - used}
    found |= {"device": compute.device, "rows": content["known"] + content["points"], "front": content["front"]}
    found["freedom"] = freedom(config, 8 if quick else 64)
    table = Table(title=f"vit_small on diana, {FASHION}: {images['train']} images, {sum(lengths.values())} epochs")
    for name in ("mapping", "us", "uJ", "accuracy", "8 bit", "moves"):
        table.add_column(name, justify="left" if name == "mapping" else "right")
    for row in sorted(found["rows"], key=lambda row: float(row["simulated"]["latency_s"])):
        figures, about = row["simulated"], row["about"]
        said = (f"{figures['latency_s'] * 1e6:.1f}", f"{figures['energy_j'] * 1e6:.2f}", f"{row['accuracy']:.2%}")
        table.add_row(row["name"], *said, f"{about['wide_share']:.2f}", str(len(about.get("moves", ()))))
    Console(width=120, highlight=False).print(table)
    print(f"{found['cpu_s']:.0f} s of the processor")
    return found


def freedom(config: TrainingConfig, images: int) -> dict[str, Any]:
    """The least loss at costs between the ends, relative to the reference's, by whole heads and by layer."""
    data = data_of(config)
    space = opened(config, data)
    space.float_net.load_state_dict(torch.load(config.out / "weights" / "warm_up.pt", weights_only=True))
    net, drawn = space.quantised(), Split(*data.train.items(torch.arange(images)))
    set_ranges(net, drawn.x, "mse")
    lost, costs = sensitivities(net, drawn, data.task.loss), ShareCosts(space.workload, config.soc, config.runtime)
    settled = {name: on for name, on in all_counts(net, assignment(net)).items() if name not in net.searchable()}
    reference = all_counts(net, uniform(net, space.reference))
    slowest_s = costs.simulated(reference).latency_s

    def price(counts: Counts) -> float:
        return costs.simulated({**settled, **counts}).latency_s / slowest_s

    own: Choices = {(name,): channel_options(space.workload[name], config.soc) for name in space.open_layers}
    fronts = {}
    for kind, choices in (("heads", space.choices), ("layers", own)):
        net.units = net.units if kind == "heads" else tuple(Unit(layers) for layers in choices)
        fronts[kind] = sensitive_front(net, lost, choices, nearest(choices, reference), price).points
    low = max(float(points[:, 0].min()) for points in fronts.values())
    bounds = [low + (1 - low) * part for part in (0.0, 0.1, 0.25, 0.5, 0.75)]
    losses = {kind: [float(p[p[:, 0] <= b + 1e-9][:, 1].min()) for b in bounds] for kind, p in fronts.items()}
    print("cost: loss by heads, by layer")
    for bound, one, other in zip(bounds, *losses.values(), strict=True):
        print(f"{bound:.4f}: {one:.5f}, {other:.5f}")
    return {
        "images": images,
        "costs": bounds,
        "losses": losses,
        "least": {k: float(p[:, 0].min()) for k, p in fronts.items()},
    }
