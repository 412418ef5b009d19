"""Post-training quantisation beside training, a part of training.py.

Each seed trains a front as `cosoc search` does; the float network that it was warmed up to is then calibrated, not
trained, for a front of as many points. Both are judged by test images, at simulated latencies. Hypervolume: from the
all-8-bit latency and the accuracy of always naming one class, each objective scaled to 0..1.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from common import progress
from odimo_front import volume
from rich.console import Console
from rich.table import Table

from cosoc.search.front import half_width
from cosoc.search.training.space import TrainingConfig, search_trained
from cosoc.sim.files.catalog import find_soc

FRONTS = ("calibrated", "trained")


def post(quick: bool, data: str, seed: int, folder: Path) -> dict[str, Any]:
    """Both fronts of each seed, their seconds and hypervolumes."""
    workload = "digits_cnn" if quick else "digits_resnet" if data == "digits" else "resnet8"
    epochs, points, seeds = (4, 1, 1) if quick else (20, 3, 3)
    found: dict[str, Any] = {"workload": workload, "data": data, "epochs": epochs, "points": points, "seeds": []}
    for one in range(seed, seed + seeds):
        out = folder / f"post_trained_{one}"
        config = TrainingConfig(
            soc=find_soc("diana"), workload=workload, data=data, points=points, epochs=epochs, seed=one, out=out,
            train_images=400 if quick else None, resume=out.exists(),
        )  # fmt: skip
        trained = _timed(config, f"seed {one}, trained")
        out = folder / f"post_calibrated_{one}"
        calibrated = _timed(
            TrainingConfig(
                soc=config.soc, workload=workload, data=data, points=points, seed=one, out=out, calibrate_only=True,
                weights=config.out / "weights" / "warm_up.pt", resume=out.exists(),
            ),
            f"seed {one}, calibrated",
        )  # fmt: skip
        found["seeds"].append({"seed": one, "trained": trained, "calibrated": calibrated})
    found["hypervolume"] = {kind: _spread([one[kind]["hypervolume"] for one in found["seeds"]]) for kind in FRONTS}
    found["seconds"] = {kind: mean(one[kind]["seconds"] for one in found["seeds"]) for kind in FRONTS}
    _show(found)
    return found


def _timed(config: TrainingConfig, label: str) -> dict[str, Any]:
    """A run's rows, how long it took in this call, and its hypervolume."""
    started = time.perf_counter()
    content = search_trained(config, progress(label)).content()
    seconds = time.perf_counter() - started
    rows = content["points"] + content["known"]
    slowest_s = content["about"]["reference"]["latency_s"]
    out = {"seconds": seconds, "rows": rows, "front": content["front"], "hypervolume": volume(rows, slowest_s, 10)}
    if config.calibrate_only:
        out["float_accuracy"] = content["about"]["calibrated"]["float_accuracy"]
    else:
        out["begun_by"] = {row["name"]: row["about"]["by"] for row in content["points"]}
    return out


def _spread(values: Sequence[float]) -> dict[str, float]:
    """Mean, and where it lies with 95 %."""
    return {"mean": mean(values)} | ({"interval": half_width(values)} if len(values) > 1 else {})


def _show(found: dict[str, Any]) -> None:
    table = Table(title=f"{found['workload']} on diana, {found['data']}: calibrated and trained")
    for name in ("seed", "front", "mapping", "us", "accuracy"):
        table.add_column(name, justify="left" if name in ("front", "mapping") else "right")
    for one in found["seeds"]:
        for kind in FRONTS:
            for row in sorted(one[kind]["rows"], key=lambda row: float(row["simulated"]["latency_s"])):
                us = f"{row['simulated']['latency_s'] * 1e6:.1f}"
                table.add_row(str(one["seed"]), kind, row["name"], us, f"{row['accuracy']:.2%}")
    Console(width=120, highlight=False).print(table)
    for kind in FRONTS:
        area = found["hypervolume"][kind]
        around = f" +- {area['interval']:.4f}" if "interval" in area else ""
        print(f"{kind}: hypervolume {area['mean']:.4f}{around}, {found['seconds'][kind]:.0f} s")
