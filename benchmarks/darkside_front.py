"""Accuracy against simulated latency and energy on Darkside: channels by convolution or depthwise, and manual points.

    python benchmarks/darkside_front.py [--quick] [--images N] [--epochs N] [--seeds N] [--widths W,W] [--json FILE]

MobileNetV1 at a quarter and half of its width on Fashion-MNIST (28x28), a subset of its training images so that it ends
within an hour on two cores; with --quick two strengths on the digits. Beside the search: the same search driven by
ODiMO's released cost law, and with the other way to soften a cut; all convolution, half and half, all depthwise and
the cheapest blocks; and MobileNetV1 as it is. Every point is re-simulated.

Gain: the latency of a manual point over that of the fastest searched point of the same seed that is as accurate, and
likewise the energy at no more than 0.3 % less accuracy; by the law (blocks alone, as published), by simulation of the
blocks alone, of the whole network with a scratchpad of endless banks, and of the whole network.
"""

from __future__ import annotations

import copy
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import torch
from common import arguments, progress, state, write_json
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn import functional

from cosoc.search.baselines.laws import network_estimate as odimo_estimate
from cosoc.search.front import hypervolume
from cosoc.search.spaces.channels import replace_module
from cosoc.search.spaces.operators import STEP, TEMPLATES, Template, prepare, with_choices
from cosoc.search.spaces.shares import ShareCosts, Tangent
from cosoc.search.training.data import load_data
from cosoc.search.training.gradient import COST_EVERY
from cosoc.search.training.nets import mobilenet_v1_025
from cosoc.search.training.space import TrainingConfig, search_trained
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.mapping_file import load_mapping
from cosoc.sim.files.workload_file import load_workload
from cosoc.sim.model.mapping import Mapping
from cosoc.sim.model.workload import Workload
from cosoc.sim.simulate import simulate

STRENGTHS = (0.1, 0.5, 2.0, 8.0, 30.0)
KINDS = ("simulator", "odimo", "point", "manual", "plain")
SHOWN = {"simulator": "search", "odimo": "search by ODiMO's law", "point": "search, point cut", "plain": "MobileNetV1"}
NAMES = {"all_first": "all convolution", "half": "half and half", "all_second": "all depthwise", "cheapest": "cheapest"}
ACCURACY_LOSS = 0.003


def quarter() -> nn.Module:
    """MobileNetV1 x0.25 for Fashion-MNIST."""
    return mobilenet_v1_025(1, 10, 0.25)


def half() -> nn.Module:
    """MobileNetV1 x0.5 for Fashion-MNIST."""
    return mobilenet_v1_025(1, 10, 0.5)


FACTORIES = {0.25: "darkside_front:quarter", 0.5: "darkside_front:half"}


@dataclass(frozen=True)
class Size:
    """How much is trained: quick or not, training images, epochs a point."""

    quick: bool
    images: int
    epochs: int


def config(size: Size, width: float, seed: int, out: Path) -> TrainingConfig:
    """What is searched: small enough for two cores."""
    full = TrainingConfig(
        soc=find_soc("darkside"),
        workload=FACTORIES[width],
        space="operators",
        data="fashion_mnist",
        strengths=STRENGTHS,
        epochs=size.epochs,
        seed=seed,
        out=out,
        train_images=size.images,
    )
    return replace(full, data="digits", strengths=(1.0,), epochs=2, train_images=200) if size.quick else full


def run_one(size: Size, width: float, seed: int, folder: Path) -> dict[str, Any]:
    """All searches of one seed and width, and what the cost models say of every point."""
    torch.set_num_threads(1)
    wanted = config(size, width, seed, folder)
    variants = {
        "simulator": wanted,
        "odimo": replace(wanted, cost_model="odimo", manual=()),
        "point": replace(wanted, cut="point", manual=()),  # at the smaller width alone
        "plain": replace(wanted, space="channels", points=0, strengths=(), manual=("default",)),
    }
    found: dict[str, Any] = {"width": width, "seed": seed}
    if width > min(FACTORIES) or size.quick:
        del variants["point"]
    for name, one in variants.items():
        out = folder / f"{name}-{width}-{seed}"
        content = search_trained(replace(one, out=out), progress(f"width {width}, seed {seed}, {name}", 5)).content()
        for kind in ("points", "known"):
            for row in content[kind]:
                row["costs"] = costs(load_workload(out / "workload.yaml"), out / row["mapping"])
        found[name] = content["known"] if name == "plain" else content["points"]
        if name == "simulator":
            found["manual"], found["reference"] = content["known"], content["about"]["reference"]
    return found


def costs(workload: Workload, file: Path) -> dict[str, dict[str, float]]:
    """Seconds and joules of a mapping by each way of counting."""
    soc = find_soc("darkside")
    banks = soc.links["tcdm"].model_copy(update={"stretch": (1.0,)})
    endless = soc.model_copy(update={"links": {**soc.links, "tcdm": banks}})
    mapping = load_mapping(file, workload, soc)
    whole, calm = simulate(soc, workload, mapping), simulate(endless, workload, mapping)
    blocks = {layer.name for layer in workload if layer.alternative is not None}
    out = {
        "whole network": {"seconds": whole.seconds, "energy_j": whole.energy_j},
        "whole, endless banks": {"seconds": calm.seconds, "energy_j": calm.energy_j},
    }
    if blocks:
        parts = [part for part in whole.by_layer if part.layer in blocks]
        out["blocks, simulated"] = {"seconds": sum(part.seconds_critical for part in parts)}
        shares = law_shares(workload, mapping)
        law = odimo_estimate(workload, shares)
        out["blocks, ODiMO's law"] = {"seconds": float(law.ticks) / soc.tick_hz, "energy_j": float(law.energy_j)}
    return out


def law_shares(workload: Workload, mapping: Mapping) -> dict[str, dict[str, torch.Tensor]]:
    """Channels of either operator, as the law takes them: the cluster's first."""
    blocks = [layer for layer in workload if layer.alternative is not None]
    on = {layer.name: mapping.layers[layer.name].channels_on("cluster") for layer in blocks}
    return {
        layer.name: {
            "cluster": torch.tensor(float(on[layer.name])),
            "other": torch.tensor(float(layer.k - on[layer.name])),
        }
        for layer in blocks
    }


def gains(found: dict[str, Any]) -> list[dict[str, Any]]:
    """For each manual point of a run and each way of counting: how much less the best searched point costs."""
    out = []
    for manual in (*found["manual"], *found["plain"]):
        row: dict[str, Any] = {"manual": manual["name"], "accuracy": manual["accuracy"]}
        for counting in found["manual"][0]["costs"]:
            for cost, loss in (("seconds", 0.0), ("energy_j", ACCURACY_LOSS)):
                base = manual["costs"].get(counting, {}).get(cost)
                able = [p for p in found["simulator"] if p["accuracy"] >= manual["accuracy"] - loss]
                least = min((p["costs"][counting].get(cost, float("inf")) for p in able), default=None)
                row[f"{counting}: {cost}"] = base / least if base is not None and least else None
        out.append(row)
    return out


def volumes(found: dict[str, Any], classes: int) -> dict[str, float]:
    """Hypervolume from (all convolution, always naming one class), both scaled to 0..1, of each kind of points."""
    slowest_s, chance = found["reference"]["latency_s"], 1 - 1 / classes

    def volume(points: list[dict[str, Any]]) -> float:
        scaled = [(p["simulated"]["latency_s"] / slowest_s, (1 - p["accuracy"]) / chance) for p in points]
        return hypervolume(scaled, (1.0 + 1e-6, 1.0))  # all convolution lies on the edge; a hair beyond lets it count

    out = {kind: volume(found[kind]) for kind in KINDS if kind in found}
    return out | {"search and manual": volume(found["simulator"] + found["manual"] + found["plain"])}


def step_ratios(size: Size, width: float) -> dict[str, dict[str, float]]:
    """Seconds of a search step of each template beside plain float steps of its fixed networks, in turn, one thread.

    first: all channels by the first operator; half: half of them by either; both: every channel by both and then one
    chosen, as the release trains.
    """
    torch.set_num_threads(1)
    wanted = config(size, width, 0, Path())
    data = load_data(wanted.data, 0)
    x, y = data.train.x[: wanted.recipe.batch], data.train.y[: wanted.recipe.batch]
    return {template: _steps(template, width, x, y, size.quick) for template in TEMPLATES}


def _steps(template: Template, width: float, x: torch.Tensor, y: torch.Tensor, quick: bool) -> dict[str, float]:
    soc = find_soc("darkside")
    net = with_choices(mobilenet_v1_025(1, 10, width), x.shape[1:], soc, template)
    oracle, mixed = ShareCosts(net.workload, soc, "overlapped"), prepare(net, soc)
    first, split = copy.deepcopy(net.net), net.net
    for path in net.blocks.values():
        replace_module(first, path, net.net.get_submodule(path).first_alone())  # type: ignore[operator]
    net.split({name: block.channels // 2 // STEP * STEP for name, block in net.choices().items()})
    cost = Tangent(lambda shares: oracle.estimate(shares, STEP).ticks, COST_EVERY)  # as the search does it
    draws = torch.Generator().manual_seed(0)

    def plain(one: nn.Module) -> Callable[[], torch.Tensor]:
        return lambda: functional.cross_entropy(one.train()(x), y)

    def searched() -> torch.Tensor:
        mixed.train().set_gates("expectation", 1.0, draws)
        return functional.cross_entropy(mixed(x), y) + cost(mixed.shares()).float() * 1e-6

    kinds = {"first": (first, plain(first)), "half": (split, plain(split)), "search": (mixed, searched)}
    adams = {name: torch.optim.Adam(one.parameters(), 1e-3) for name, (one, _) in kinds.items()}
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(12 if quick else 40):
        for name, (_, loss) in kinds.items():
            start = time.process_time()
            adams[name].zero_grad()
            loss().backward()  # type: ignore[no-untyped-call]
            adams[name].step()
            times[name].append(time.process_time() - start)
    seconds = {name: mean(sorted(found[4:])[: len(found) // 2]) for name, found in times.items()}
    over = {f"over_{name}": seconds["search"] / seconds[name] for name in ("first", "half")}
    return {f"{name}_step_s": s for name, s in seconds.items()} | over


def main() -> None:
    parser = arguments(__doc__, seed=0)
    parser.add_argument("--images", type=int, default=2000, help="training images")
    parser.add_argument("--epochs", type=int, default=8, help="epochs a point, warm-up included")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds, from --seed on")
    parser.add_argument("--widths", default="0.25,0.5", help="of MobileNetV1")
    args = parser.parse_args()
    state(args.seed)
    size = Size(args.quick, args.images, args.epochs)
    widths = [0.25] if args.quick else [float(width) for width in args.widths.split(",")]
    seeds = range(args.seed, args.seed + (1 if args.quick else args.seeds))
    steps = {str(width): step_ratios(size, width) for width in widths}
    with tempfile.TemporaryDirectory() as scratch:
        tasks = [(size, width, seed, Path(scratch)) for width in widths for seed in seeds]
        workers = min(len(tasks), os.cpu_count() or 1)
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            found = [job.result() for job in [pool.submit(run_one, *task) for task in tasks]]
    classes = len(load_data(config(size, widths[0], 0, Path()).data, 0).classes)
    console, runs = Console(), {}
    for width in widths:
        mine = [one for one in found if one["width"] == width]
        areas, gained = [volumes(one, classes) for one in mine], [gains(one) for one in mine]
        runs[str(width)] = {"seeds": mine, "hypervolume": areas, "gains": gained, "step": steps[str(width)]}
        console.print(points_table(width, mine), volume_table(areas), gain_table(gained))
        for template, one in steps[str(width)].items():
            print(
                f"{template}: a search step takes {one['over_first']:.2f} times a plain one of the first operator, "
                f"{one['over_half']:.2f} times one of half and half"
            )
    write_json(args.json, {"size": asdict(size), "strengths": STRENGTHS, "widths": runs})


def points_table(width: float, found: list[dict[str, Any]]) -> Table:
    """Every point, mean over the seeds."""
    table = Table(title=f"MobileNetV1 x{width}: test accuracy and simulated cost, mean over seeds")
    for name in ("points", "name", "accuracy", "ms", "uJ", "convolution"):
        table.add_column(name, justify="left" if name in ("points", "name") else "right")
    for kind in (kind for kind in KINDS if kind in found[0]):
        for i, point in enumerate(found[0][kind]):
            rows = [one[kind][i] for one in found]
            table.add_row(
                SHOWN.get(kind, kind),
                NAMES.get(point["name"], "" if kind == "plain" else point["name"].removeprefix("strength_")),
                f"{mean(r['accuracy'] for r in rows):.2%}",
                f"{mean(r['simulated']['latency_s'] for r in rows) * 1e3:.4f}",
                f"{mean(r['simulated']['energy_j'] for r in rows) * 1e6:.2f}",
                "" if kind == "plain" else f"{mean(r['about']['wide_share'] for r in rows):.0%}",
            )
    return table


def volume_table(areas: list[dict[str, float]]) -> Table:
    """Hypervolumes."""
    table = Table(title="Hypervolume, higher is better (mean over seeds, deviation)")
    for name in ("points", "hypervolume", "deviation"):
        table.add_column(name, justify="left" if name == "points" else "right")
    for kind in areas[0]:
        values = [area[kind] for area in areas]
        deviation = f"{stdev(values):.4f}" if len(values) > 1 else "-"
        table.add_row(SHOWN.get(kind, kind), f"{mean(values):.4f}", deviation)
    return table


def gain_table(gained: list[list[dict[str, Any]]]) -> Table:
    """Median gains over the seeds; how many seeds had a searched point that is as accurate."""
    table = Table(title="How many times less the best searched point takes than (median over seeds; in how many)")
    table.add_column("counted by")
    for row in gained[0]:
        table.add_column(NAMES.get(row["manual"], "Mobile-NetV1"), justify="right", overflow="fold")
    for key in (key for key in gained[0][0] if key not in ("manual", "accuracy")):
        cells = []
        for i in range(len(gained[0])):
            values = [one[i][key] for one in gained if one[i][key] is not None]
            cells.append(f"{median(values):.2f} ({len(values)})" if values else "-")
        if set(cells) != {"-"}:
            table.add_row(key.replace(": seconds", ": time").replace(": energy_j", ": energy"), *cells)
    return table


if __name__ == "__main__":
    main()
