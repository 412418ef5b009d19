"""How well the CPU and GPU devices meet published latencies, fitted and on networks and devices left out.

    python benchmarks/devices.py [--quick] [--json FILE]

Latencies are those of sim/truth/boards.csv. For each device the table has the error of the fit to all of them,
of fits without one network on that device, and of the fit without any network of that device. The device files hold
the fit to all; that the simulator gives the same times is checked for every latency (for the first of each device with
--quick). There is no randomness, hence no seed.

A second table has ResNet-50 in large batches, int8: throughput over that of batch 1. MLPerf's offline runs use the GPU
and two DLAs; of the GPU alone there is what the submission's own configuration expects of it. Nothing is fitted to
either.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import arguments, state, write_json
from rich.console import Console
from rich.table import Table

from cosoc.search import measured
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.manual import named_mapping
from cosoc.sim.model.workload import batched
from cosoc.sim.simulate import simulate
from cosoc.sim.truth.boards import simulated_s

DATA = Path(__file__).parents[1] / "sim" / "truth" / "boards.csv"


@dataclass(frozen=True)
class Offline:
    """ResNet-50 in batches on a board, MLPerf Inference, closed division, NVIDIA's submission. batch: of the GPU.
    board_per_s: images a second, measured, with its DLAs. gpu_per_s: what the submission's configuration
    (configs/resnet50/Offline/__init__.py) expects of the GPU alone: a round figure by its authors, not a result."""

    device: str
    release: str
    batch: int
    board_per_s: float
    gpu_per_s: float


OFFLINE = (
    Offline("xavier_nx", "v1.1 MaxQ", 64, 1092.08, 739.0),  # the same 739 stands for the faster mode, too
    Offline("orin_nx", "v3.0", 256, 2517.99, 1700.0),
    Offline("agx_orin", "v2.0", 256, 6138.84, 4500.0),
)


def _simulated_s(row: measured.Measured) -> float:
    return simulated_s(row.device, row.runtime, row.network)


def _batched_s(device: str, batch: int) -> float:
    """Simulated seconds of ResNet-50 for a batch of images, in int8."""
    soc = find_soc(device, {"cores.gpu.runtime": "tensorrt_int8"})
    network = batched(find_workload("resnet50"), batch)
    return simulate(soc, network, named_mapping("all_8bit", network, soc)).seconds


def _batches(rows: tuple[measured.Measured, ...]) -> dict[str, dict[str, float]]:
    """Of each board, throughput in batches over batch 1: measured, expected of its GPU, simulated."""
    out = {}
    shown = Table("ResNet-50, int8", "batch", "GPU and DLAs, measured", "GPU, expected", "GPU, simulated", "images/s")
    for of in OFFLINE:
        (one_s,) = (r.seconds for r in rows if (r.device, r.runtime) == (of.device, "tensorrt_int8"))
        per_s = of.batch / _batched_s(of.device, of.batch)
        out[of.device] = {
            "batch": of.batch,
            "board_over_one": of.board_per_s * one_s,
            "gpu_expected_over_one": of.gpu_per_s * one_s,
            "simulated_over_one": per_s * _batched_s(of.device, 1),
            "gpu_expected_per_s": of.gpu_per_s,
            "simulated_per_s": per_s,
        }
        ratios = (f"{out[of.device][k]:.2f}" for k in ("board_over_one", "gpu_expected_over_one", "simulated_over_one"))
        shown.add_row(f"{of.device}, {of.release}", str(of.batch), *ratios, f"{per_s:.0f} of {of.gpu_per_s:.0f}")
    Console(width=120).print(shown)
    return out


def main() -> None:
    options = arguments(__doc__).parse_args()
    state()
    rows = measured.load(DATA)
    predictions = measured.cross_validate(rows)
    fitted = measured.fit(rows)
    Console(width=120).print(measured.table(predictions))
    groups = measured.by_device(predictions)
    compared = [mine[0] for mine in groups.values()] if options.quick else list(predictions)
    worst = max(abs(_simulated_s(p.measured) / p.fitted_s - 1) for p in compared)
    print(f"simulated on the device files, {len(compared)} latencies: within {worst:.2%} of the fit")
    enough = [p for mine in groups.values() if len(mine) >= measured.ENOUGH for p in mine]
    over = [" ".join(key) for key, mine in groups.items()
            if len(mine) >= measured.ENOUGH and measured.mape(mine, "left_out_s") > 0.2]  # fmt: skip
    print(f"networks left out, all devices with {measured.ENOUGH} or more: {measured.mape(enough, 'left_out_s'):.1%}; "
          f"above 20 %: {', '.join(over) or 'none'}")  # fmt: skip
    batches = _batches(rows)
    result: dict[str, Any] = {
        "quick": options.quick,
        "devices": measured.to_json(predictions, fitted),
        "mape_network_left_out": measured.mape(enough, "left_out_s"),
        "simulated_over_fit_worst": worst,
        "batches": batches,
    }
    write_json(options.json, result)


if __name__ == "__main__":
    main()
