"""Post-training quantisation beside training.

Each seed trains a front as `cosoc search` does; the float network that it was warmed up to is then calibrated, not
trained, for a front of as many points. Both are judged by test images, at simulated latencies. Hypervolume: from the
all-8-bit latency and the accuracy of always naming one class, each objective scaled to 0..1.

Ranks: of what single channels lose on the analog core, found by trying each (the loss of calibration images, the rest
of the network in floating point), with those that were foretold: by sensitivities, and by what the format loses of the
channel's weights. Spearman's, over all channels of all layers.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from common import arguments, progress, state, write_json
from odimo_front import volume
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

from cosoc.search.front import half_width
from cosoc.search.spaces.channels import prepare
from cosoc.search.training.data import load_data
from cosoc.search.training.nets import build
from cosoc.search.training.parts import Split
from cosoc.search.training.post import float_means, in_float, set_ranges
from cosoc.search.training.sensitivity import changed, sensitivities
from cosoc.search.training.space import TrainingConfig, search_trained
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.importers.torch_export import from_module

FRONTS = ("calibrated", "trained")
TRIED_BY = 128  # images


def post(quick: bool, data: str, seed: int, folder: Path) -> dict[str, Any]:
    """Both fronts of each seed, their seconds and hypervolumes, and ranks of sensitivities."""
    workload = "digits_cnn" if data == "digits" else "resnet8"
    epochs, points, seeds = (8, 1, 1) if quick else (12, 3, 3)
    found: dict[str, Any] = {"workload": workload, "data": data, "epochs": epochs, "points": points, "seeds": []}
    for one in range(seed, seed + seeds):
        out = folder / f"post_trained_{one}"
        config = TrainingConfig(
            soc=find_soc("diana"), workload=workload, data=data, points=points, epochs=epochs, seed=one, out=out,
            resume=out.exists(),
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
        found["seeds"].append({"seed": one, "trained": trained, "calibrated": calibrated, "ranks": ranks(config)})
    found["hypervolume"] = {kind: _spread([one[kind]["hypervolume"] for one in found["seeds"]]) for kind in FRONTS}
    found["ranks"] = {by: _spread([one["ranks"][by] for one in found["seeds"]]) for by in ("sensitivity", "energy")}
    found["seconds"] = {kind: mean(one[kind]["seconds"] for one in found["seeds"]) for kind in FRONTS}
    _show(found)
    return found


def ranks(config: TrainingConfig) -> dict[str, float]:
    """Rank correlations of foretold losses with those found by trying; see the module docstring."""
    data = load_data(config.data, config.seed)
    net = build(config.workload, data.input_shape[0], len(data.classes)).eval()
    net.load_state_dict(torch.load(config.out / "weights" / "warm_up.pt", weights_only=True))
    workload = from_module(net, data.input_shape, config.workload)
    mixed = prepare(net, workload, config.soc).eval()
    images = Split(*data.train.items(torch.arange(TRIED_BY)))
    set_ranges(mixed, images.x, "mse")
    foretold = sensitivities(mixed, images, data.task.loss)
    means = float_means(mixed, images.x)

    def loss() -> float:
        with torch.no_grad(), in_float(mixed):
            return float(data.task.loss(mixed(images.x), images.y))

    before, tried = loss(), list[float]()
    said: dict[str, list[float]] = {"sensitivity": [], "energy": []}
    for name, layer in mixed.searchable().items():
        core, weight, bias = layer.ternary.index(True), layer.geometry.weight.data, layer.geometry.bias
        assert bias is not None  # batch norms are folded, and the classifier has one
        change = changed(layer)[core].reshape(weight.shape)
        for k in range(len(weight)):
            kept = weight[k].clone(), bias.data[k].clone()
            said["sensitivity"].append(float(foretold[name][k, core]))
            said["energy"].append(float(change[k].square().sum() / weight[k].square().sum()))
            weight[k] += change[k]
            bias.data[k] += means[name][k] - float_means(mixed, images.x)[name][k]
            tried.append(loss() - before)
            weight[k], bias.data[k] = kept
    return {by: float(spearmanr(tried, losses)[0]) for by, losses in said.items()}


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
    for by, rank in found["ranks"].items():
        print(f"ranks of losses by {by} and by trying: {rank['mean']:.2f}")


def main() -> None:
    parser = arguments(__doc__, seed=0)
    parser.add_argument("--data", default="digits", metavar="NAME|DIR", help="a data set by name, or its folder")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave the runs there, and go on with those there")
    options = parser.parse_args()
    state(options.seed)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        found = post(options.quick, options.data, options.seed, options.keep or Path(scratch))
    write_json(options.json, {"seed": options.seed, "quick": options.quick} | found)


if __name__ == "__main__":
    main()
