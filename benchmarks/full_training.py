"""Training at length, parts of training.py: `full` is started, timed and extrapolated; `depth` is run as far as it goes
on a processor. Both say which."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from common import progress
from rich.console import Console
from rich.table import Table

from cosoc.search.training.compute import Compute
from cosoc.search.training.data import load_data
from cosoc.search.training.recipe import find_recipe
from cosoc.search.training.space import TrainingConfig, search_trained
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
