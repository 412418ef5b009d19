"""Training at length, parts of training.py.

`full`: Fashion-MNIST, all of its training images, by the recipe for images of this size, three seeds, five points. Each
case is started and so many steps of each phase are timed; what the whole front takes is extrapolated from them, and
called so: steps alone, without validation and simulation. What was trained, for shorter, is in fashion.py.

`depth`: a transformer of twelve blocks, trained for as little as a processor has time for, and its front; and its
mappings as they leave for a device, in integers and as ONNX that a runtime executes: are they as accurate as the run
says, to 0.1 points?

`heads`: what it costs that whole heads are shared, beside shares that are each layer's own, in the cores' steps: the
least loss at costs between the ends, by sensitivities of the warmed-up network; and what queries, keys and values have
of it, as chosen, and once channels of a core lie side by side, for which some of them have to change cores.
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from common import progress
from fashion import FASHION
from rich.console import Console
from rich.table import Table
from steps import Took, step_of, timed, watched

from cosoc.search.exact.shares import Choices, channel_options, nearest
from cosoc.search.exports.exported import AT_ONCE
from cosoc.search.exports.written import write_point
from cosoc.search.spaces.channels import MixedNet, assignment, channel_groups, fix, make_contiguous, uniform
from cosoc.search.spaces.heads import Unit
from cosoc.search.spaces.opened import CHEAPEST
from cosoc.search.spaces.shares import Counts, ShareCosts, Tangent
from cosoc.search.training.choose import all_counts
from cosoc.search.training.compute import Compute
from cosoc.search.training.data import Data, load_data
from cosoc.search.training.gradient import COST_EVERY
from cosoc.search.training.nets import VisionTransformer
from cosoc.search.training.parts import Split
from cosoc.search.training.post import set_ranges
from cosoc.search.training.recipe import find_recipe
from cosoc.search.training.repair import placed
from cosoc.search.training.sensitivity import Sensitivities, lean, sensitive_front, sensitivities
from cosoc.search.training.space import PRIMING, TrainingConfig, data_of, opened, search_trained
from cosoc.search.training.trained import read_run
from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.model.workload import Workload
from cosoc.sim.progress import untold
from cosoc.sim.trust import trusting

FEW = {"train": 1000, "val": 128, "test": 2000}  # images
FEWER = {"train": 32, "val": 16, "test": 64}
LENGTHS = {"warm_up": 12, "search": 2, "fine_tune": 3}  # epochs
ASKED_POINTS = 0.1  # by which what is exported may differ in accuracy


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


def full(quick: bool, seed: int, compute: Compute, wanted: Sequence[str], known: Mapping[str, Any]) -> dict[str, Any]:
    """Each case's seconds a step by phase, and hours, extrapolated; or why its space refuses it."""
    found: dict[str, Any] = {"data": FASHION, "recipe": "cifar", "seeds": SEEDS, "points": POINTS}
    found |= {"device": compute.device, "cases": dict(known.get("cases", {}))}
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
    costs.prime(PRIMING, config.seed)
    with watched(config.compute.device) as took["refit"]:
        costs.refit()
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


def two_blocks() -> VisionTransformer:
    """What stands for the transformer of twelve blocks where hardly anything is to be done."""
    return VisionTransformer(1, 10, 28, 14, 32, 2, 2)


def _depth(quick: bool, seed: int, folder: Path, compute: Compute) -> TrainingConfig:
    lengths = dict.fromkeys(LENGTHS, 1) if quick else LENGTHS
    recipe = find_recipe("default", {f"epochs.{phase}": str(epochs) for phase, epochs in lengths.items()})
    out, network = folder / "depth", "full_training:two_blocks" if quick else "vit_small"
    return TrainingConfig(
        soc=find_soc("diana"), workload=network, data=f"full_training:{'fewer' if quick else 'few'}", recipe=recipe,
        points=0 if quick else 2, manual=("all_8bit",) if quick else (), seed=seed, compute=compute, out=out,
        resume=out.exists(),
    )  # fmt: skip


def depth(quick: bool, seed: int, folder: Path, compute: Compute) -> dict[str, Any]:
    """A front of a transformer of twelve blocks on DIANA: both ends and two points, of few images and epochs."""
    config, images = _depth(quick, seed, folder, compute), FEWER if quick else FEW
    epochs = config.recipe.epochs.model_dump()
    began, used = time.perf_counter(), time.process_time()
    content = search_trained(config, progress(config.workload)).content()
    found: dict[str, Any] = {"workload": config.workload, "soc": "diana", "data": FASHION, "images": images}
    found |= {"epochs": epochs, "seconds": time.perf_counter() - began, "cpu_s": time.process_time() - used}
    found |= {"device": compute.device, "rows": content["known"] + content["points"], "front": content["front"]}
    found |= {"asked_points": ASKED_POINTS, "exported": _exported(config, folder)}
    table = Table(title=f"{config.workload} on diana, {FASHION}: {images['train']} images")
    for name in ("mapping", "us", "uJ", "accuracy", "integers", "ONNX Runtime", "8 bit", "moves"):
        table.add_column(name, justify="left" if name == "mapping" else "right")
    for row in sorted(found["rows"], key=lambda row: float(row["simulated"]["latency_s"])):
        figures, about, one = row["simulated"], row["about"], found["exported"][row["name"]]
        said = [f"{figures['latency_s'] * 1e6:.1f}", f"{figures['energy_j'] * 1e6:.2f}", f"{row['accuracy']:.2%}"]
        said += [f"{one['integers']:.2%}", f"{one['onnxruntime']:.2%}"]
        table.add_row(row["name"], *said, f"{about['wide_share']:.2f}", str(len(about.get("moves", ()))))
    Console(width=120, highlight=False).print(table)
    most = max(abs(one["difference_points"]) for one in found["exported"].values())
    print(f"ONNX Runtime differs by up to {most:.2f} points; asked: {ASKED_POINTS}")
    print(f"{found['cpu_s']:.0f} s of the processor")
    return found


def _exported(config: TrainingConfig, folder: Path) -> dict[str, dict[str, float]]:
    """Accuracies of each mapping of a finished run over all test images: as the run says, in integers, and of its
    onnx-qdq file as ONNX Runtime executes it; and by how many points the last differs from the first."""
    with trusting():  # the benchmark's own network and data
        run = read_run(config.out)
    x, y = run.data.test.items(torch.arange(len(run.data.test)))
    task, found = run.data.task, {}
    for one in run.found:
        print(f"exporting {one.name}", flush=True)
        with tempfile.TemporaryDirectory(dir=folder) as into:
            point = write_point(run, one.name, Path(into) / "point", "onnx-qdq", None, untold)
            model = (Path(into) / "point" / "network.onnx").read_bytes()
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        made = [torch.from_numpy(session.run(None, {"input": part.numpy()})[0]) for part in x.split(AT_ONCE)]
        executed = task.figure(task.seen(torch.cat(made), y))
        found[one.name] = {
            "accuracy": point.accuracy, "integers": point.integer_accuracy, "onnxruntime": executed,
            "difference_points": 100 * (executed - point.accuracy),
        }  # fmt: skip
    return found


def heads(quick: bool, seed: int, folder: Path, compute: Compute) -> dict[str, Any]:
    """Losses at costs relative to the reference's, by whole heads and by layer, of the network that `depth` has warmed
    up, in the same call or in a folder that is kept."""
    config, images = _depth(quick, seed, folder, compute), 8 if quick else 64
    if not (config.out / "weights" / "warm_up.pt").exists():
        search_trained(config, progress(config.workload))
    data = data_of(config)
    space = opened(config, data)
    space.float_net.load_state_dict(torch.load(config.out / "weights" / "warm_up.pt", weights_only=True))
    net, drawn = space.quantised(), Split(*data.train.items(torch.arange(images)))
    set_ranges(net, drawn.x, "mse")
    lost, costs = sensitivities(net, drawn, data.task.loss), ShareCosts(space.workload, config.soc, config.runtime)
    lean(net, lost)
    settled = {name: on for name, on in all_counts(net, assignment(net)).items() if name not in net.searchable()}
    reference = all_counts(net, uniform(net, space.reference))
    slowest_s = costs.simulated(reference).latency_s

    def price(counts: Counts) -> float:
        return costs.simulated({**settled, **counts}).latency_s / slowest_s

    own: Choices = {(name,): channel_options(space.workload[name], config.soc) for name in space.open_layers}
    together = [name for layers in space.choices if len(layers) > 1 for name in layers]
    fronts = {}
    units = {"heads": net.units, "layers": tuple(Unit(layers) for layers in own)}
    for kind, choices in (("heads", space.choices), ("layers", own)):
        net.units = units[kind]
        fronts[kind] = sensitive_front(net, lost, choices, nearest(choices, reference), price)
    low = max(float(front.points[:, 0].min()) for front in fronts.values())
    bounds = [low + (1 - low) * part for part in (0.0, 0.1, 0.25, 0.5, 0.75)]
    found: dict[str, Any] = {"images": images, "costs": bounds}
    for kind, front in fronts.items():
        net.units = units[kind]
        points = front.points
        found[kind] = {
            "least_cost": float(points[:, 0].min()),
            "losses": [float(points[points[:, 0] <= bound + 1e-9][:, 1].min()) for bound in bounds],
            "attention": [_chosen_and_in_order(net, space.workload, lost, front.within(b), together) for b in bounds],
        }
    print("cost: loss by heads, by layer; of queries, keys and values: chosen and in order, by heads, by layer")
    for i, bound in enumerate(bounds):
        both = [found[kind] for kind in fronts]
        said = ", ".join(f"{one['losses'][i]:.5f}" for one in both)
        print(f"{bound:.4f}: {said}; " + ", ".join("{:.5f} {:.5f}".format(*one["attention"][i]) for one in both))
    return found


def _chosen_and_in_order(
    net: MixedNet, workload: Workload, lost: Sensitivities, counts: Counts, names: Sequence[str]
) -> tuple[float, float]:
    """What some layers lose by shares, as channels are chosen and once those of a core lie side by side."""
    chosen, groups = placed(net, counts), channel_groups(workload)
    ordered, orders = make_contiguous(copy.deepcopy(net), workload, chosen)
    before = after = 0.0
    for name in names:
        places = orders[groups[name]]
        on = torch.empty_like(ordered[name]).scatter_(0, places, ordered[name])
        before += float(lost[name].gather(1, chosen[name][:, None]).sum())
        after += float(lost[name].gather(1, on[:, None]).sum())
    return before, after
