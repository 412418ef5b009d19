"""Accuracy against simulated latency: the search, manual mappings, and the same search on ODiMO's cost formulas.

    python benchmarks/odimo_front.py [--quick] [--small-memory] [--data NAME] [--images N] [--epochs N] [--points N]
                                     [--seeds N] [--json FILE] [--keep DIR]

ResNet-8 on Fashion-MNIST (28x28), a subset of its training images so that it ends within half an hour on two cores;
with --quick the digits and a small CNN. --small-memory: DIANA with 64 KB of L2 for tensors and an analog feed of 64
bytes a cycle, where the formulas mislead. Our search places its points itself, between the reference (all 8 bit) and
the cheapest mapping, and has both ends in its front. The formulas know no such end (their cheapest mapping may take
longer than the reference, simulated), so their search has strengths, one more than points, and the reference. Every
point is re-simulated, and ODiMO's are repaired with the simulator, too. Hypervolume: area between a front and
(all-8-bit latency, accuracy of always naming one class), each objective scaled to 0..1, so that 1 would be perfect
accuracy in no time. Then what a search step costs beside a plain training step. With --keep, what an earlier call has
finished there is not done again.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from common import arguments, progress, state, write_json
from rich.console import Console
from rich.table import Table
from torch.nn import functional

from cosoc.search.front import hypervolume
from cosoc.search.spaces.channels import prepare
from cosoc.search.spaces.shares import CostModel, ShareCosts, Tangent
from cosoc.search.training.data import load_data
from cosoc.search.training.gradient import COST_EVERY
from cosoc.search.training.nets import build
from cosoc.search.training.space import TrainingConfig, search_trained
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.importers.torch_export import from_module

MODELS: tuple[CostModel, ...] = ("simulator", "odimo")
ENDS = ("all_8bit", "cheapest")  # of every front, each trained in each search
LAW_STRENGTHS = (0.1, 1.0, 7.0, 30.0, 0.5, 3.0)  # of the search on the formulas, so many as are asked for
SMALL_MEMORY = {"memories.l2.size_bytes": "131072", "links.analog_feed.bytes_per_period": "64"}


@dataclass(frozen=True)
class Size:
    """How much is trained: quick or not, training images, epochs a point, points between the ends. set: of the SoC.
    data: as `cosoc search` has it."""

    quick: bool
    images: int
    epochs: int
    points: int
    set: dict[str, str]
    data: str


def config(size: Size, seed: int, out: Path) -> TrainingConfig:
    """What is searched: small enough for two cores."""
    full = TrainingConfig(
        soc=find_soc("diana", size.set),
        workload="resnet8",
        data=size.data,
        points=size.points,
        epochs=size.epochs,
        seed=seed,
        out=out,
        train_images=size.images,
    )
    if not size.quick:
        return full
    return replace(full, workload="digits_cnn", data="digits", points=2, epochs=6, train_images=None)


def run_seed(size: Size, seed: int, folder: Path) -> dict[str, Any]:
    """Both searches of one seed; the manual mappings belong to the first."""
    torch.set_num_threads(1)
    found: dict[str, Any] = {"seed": seed}
    for model in MODELS:
        out = folder / f"{model}-{seed}"
        wanted = replace(config(size, seed, out), cost_model=model, resume=(out / "config.yaml").exists())
        if model != "simulator":
            wanted = replace(wanted, manual=ENDS[:1], strengths=LAW_STRENGTHS[: size.points + 1])
        content = search_trained(wanted, progress(f"seed {seed}, {model}")).content()
        found[model] = content["points"] + [row for row in content["known"] if row["name"] in ENDS]
        found.setdefault("manual", content["known"])
        found.setdefault("reference", content["about"]["reference"])
    return found


def volumes(found: dict[str, Any], classes: int) -> dict[str, float]:
    """Hypervolume of each kind of points of a seed, and of search and manual mappings together."""
    slowest_s = found["reference"]["latency_s"]
    kinds = {kind: volume(found[kind], slowest_s, classes) for kind in (*MODELS, "manual")}
    return kinds | {"simulator_and_manual": volume(found["simulator"] + found["manual"], slowest_s, classes)}


def volume(points: list[dict[str, Any]], slowest_s: float, classes: int) -> float:
    """Hypervolume of points, from the all-8-bit latency and the accuracy of always naming one class, scaled to 0..1."""
    chance = 1 - 1 / classes
    scaled = [(p["simulated"]["latency_s"] / slowest_s, (1 - p["accuracy"]) / chance) for p in points]
    # The all-8-bit mapping itself lies on the reference's edge; a hair beyond lets it count.
    return hypervolume(scaled, (1.0 + 1e-6, 1.0))


def step_ratio(size: Size) -> dict[str, float]:
    """Median seconds of a search step (quantisers, gates, cost) and of a plain float step, in turn, one thread."""
    torch.set_num_threads(1)
    wanted = config(size, 0, Path())
    data = load_data(wanted.data, 0)
    plain = build(wanted.workload, data.input_shape[0], len(data.classes))
    workload = from_module(plain, data.input_shape, wanted.workload)
    oracle = ShareCosts(workload, wanted.soc, wanted.runtime)
    mixed = prepare(plain, workload, wanted.soc)
    x, y = data.train.x[: wanted.batch], data.train.y[: wanted.batch]
    draws = torch.Generator().manual_seed(0)
    cost = Tangent(lambda shares: oracle.estimate(shares).ticks, COST_EVERY)  # as the search does it
    adams = [torch.optim.Adam(net.parameters(), 1e-3) for net in (plain, mixed)]

    def plain_loss() -> torch.Tensor:
        return functional.cross_entropy(plain.train()(x), y)

    def search_loss() -> torch.Tensor:
        mixed.train().set_gates("expectation", 1.0, draws)
        return functional.cross_entropy(mixed(x), y) + cost(mixed.shares()).float() * 1e-6

    times: dict[str, list[float]] = {"plain": [], "search": []}
    for _ in range(12 if size.quick else 28):
        for found, loss, adam in zip(times.values(), (plain_loss, search_loss), adams, strict=True):
            start = time.perf_counter()
            adam.zero_grad()
            loss().backward()
            adam.step()
            found.append(time.perf_counter() - start)
    seconds = {name: mean(found[4:]) for name, found in times.items()}
    return {f"{name}_step_s": s for name, s in seconds.items()} | {"ratio": seconds["search"] / seconds["plain"]}


def main() -> None:
    parser = arguments(__doc__, seed=0)
    parser.add_argument("--images", type=int, default=3000, help="training images")
    parser.add_argument("--epochs", type=int, default=10, help="epochs a point, warm-up included")
    parser.add_argument("--points", type=int, default=5, help="between the ends of a front")
    parser.add_argument("--data", default="fashion_mnist", help="a data set by name, or its folder")
    parser.add_argument("--small-memory", action="store_true", help="64 KB of L2, an analog feed of 64 bytes a cycle")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds, from --seed on")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the run folders there")
    args = parser.parse_args()
    state(args.seed)
    size = Size(args.quick, args.images, args.epochs, args.points, SMALL_MEMORY if args.small_memory else {}, args.data)
    ratio = step_ratio(size)
    seeds = range(args.seed, args.seed + (1 if args.quick else args.seeds))
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.keep or Path(scratch)
        if len(seeds) == 1:
            found = [run_seed(size, seed, folder) for seed in seeds]
        else:
            workers = min(len(seeds), os.cpu_count() or 1)
            with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
                jobs = [pool.submit(run_seed, size, seed, folder) for seed in seeds]
                found = [job.result() for job in jobs]
    classes = len(load_data(config(size, 0, Path()).data, 0).classes)
    areas = [volumes(one, classes) for one in found]
    console = Console()
    console.print(points_table(found))
    table = Table(title="Hypervolume, higher is better (mean over seeds, deviation)")
    for name in ("points", "hypervolume", "deviation"):
        table.add_column(name, justify="left" if name == "points" else "right")
    for kind in areas[0]:
        values = [area[kind] for area in areas]
        table.add_row(kind, f"{mean(values):.4f}", f"{stdev(values):.4f}" if len(values) > 1 else "-")
    console.print(table)
    for one in found:
        accuracies = ", ".join(f"{name} {value:.2%}" for name, value in best_accuracy(one).items())
        print(f"seed {one['seed']}, best accuracy: {accuracies}")
    print(f"a search step takes {ratio['ratio']:.2f} times a plain one ({ratio['plain_step_s'] * 1e3:.1f} ms)")
    write_json(
        args.json,
        {"size": asdict(size), "seeds": found, "hypervolume": areas, "step": ratio}
        | {"best_accuracy": [best_accuracy(one) for one in found]},
    )


def points_table(found: list[dict[str, Any]]) -> Table:
    """Every point of every seed: the search places its points where its own front is open."""
    table = Table(title="Test accuracy and simulated latency")
    for name in ("points", "seed", "name", "accuracy", "ms", "uJ", "8 bit"):
        table.add_column(name, justify="left" if name in ("points", "name") else "right")
    for kind in (*MODELS, "manual"):
        for one in found:
            for row in sorted(one[kind], key=lambda row: float(row["simulated"]["latency_s"])):
                table.add_row(
                    kind, str(one["seed"]), row["name"], f"{row['accuracy']:.2%}",
                    f"{row['simulated']['latency_s'] * 1e3:.4f}", f"{row['simulated']['energy_j'] * 1e6:.3f}",
                    f"{row['about']['wide_share']:.0%}",
                )  # fmt: skip
    return table


def best_accuracy(found: dict[str, Any]) -> dict[str, float]:
    """The best accuracy among the points of each search, and that of all 8 bit trained alike, of a seed."""
    best = {model: max(row["accuracy"] for row in found[model]) for model in MODELS}
    return best | {"all_8bit": next(row["accuracy"] for row in found["manual"] if row["name"] == "all_8bit")}


if __name__ == "__main__":
    main()
