"""Gradients of the estimate and of ODiMO's released estimators, held against the simulated cost.

    python benchmarks/gradient_check.py [--quick] [--json FILE] [--seed S]

A layer is split over the digital and the analog core; what a search needs to know is how its cost changes when
channels move from one to the other. The truth is a central difference of the layer's *simulated* ticks,
(t(n + w) - t(n - w)) / 2w with n channels on the digital core and w one step of its array (16 channels), so that it
sees the staircase and not one of its flats; tilings are chosen anew on both sides, as they would be. The estimates'
figure is d/d digital - d/d analog at n. In the wide layers (two steps or more) n is such that the window fits; in
the narrow ones, where it does not, it reaches from end
to end, and one core stands idle at either: a slope cannot show that.

sign: agreement, over splits whose simulated slope exceeds one tick a channel. cosine: between the vectors of slopes of
one network. ratio: median of estimated over simulated slope; 1 is the right size. "released" are ODiMO's formulas with
the gradients that its code trains with, "corrected" the same formulas with the slopes of `cosoc.search.relax`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from common import arguments, state, write_json
from rich.console import Console
from rich.table import Table

from cosoc.search.baselines import laws
from cosoc.search.terms import network_estimate, tilings_for
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.lower.emit import lower
from cosoc.sim.machine import engine_fast
from cosoc.sim.manual import alone
from cosoc.sim.model.mapping import RUNTIMES, Runtime
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import Workload
from cosoc.sim.theta import Theta
from cosoc.sim.tiler import TilingCache

NETWORKS = ("resnet20", "resnet18_cifar")
METHODS = ("ours", "released", "corrected")


def simulated(soc: SoC, workload: Workload, on_digital: int, runtime: Runtime, cache: TilingCache) -> int:
    """Simulated ticks of a single layer with so many channels on the digital core."""
    (layer,) = workload.layers
    shares = {layer.name: {"digital": on_digital, "analog": layer.k - on_digital}}
    return engine_fast.run(lower(workload, tilings_for(workload, soc, shares, runtime, cache), soc)).makespan


def slopes(soc: SoC, workload: Workload, on_digital: int, runtime: Runtime, cache: TilingCache) -> dict[str, float]:
    """What moving one channel to the digital core changes, by the simulation and by each method; ticks a channel."""
    (layer,) = workload.layers
    step = soc.cores["digital"].channel_step
    low, high = max(0, on_digital - step), min(layer.k, on_digital + step)
    ends = [simulated(soc, workload, n, runtime, cache) for n in (low, high)]
    out = {"simulated": (ends[1] - ends[0]) / (high - low)}
    for method in METHODS:
        given = {"digital": on_digital, "analog": layer.k - on_digital}
        tensors = {core: torch.tensor(float(k), dtype=torch.float64, requires_grad=True) for core, k in given.items()}
        if method == "ours":
            mapping = tilings_for(workload, soc, {layer.name: given}, runtime, cache)
            ticks = network_estimate(workload, soc, mapping, {layer.name: tensors}, Theta()).ticks
        else:
            by = laws.RELEASED if method == "released" else laws.RIGHT
            ticks = laws.network_estimate(workload, {layer.name: tensors}, by).ticks
        ticks.backward()  # type: ignore[no-untyped-call]
        digital, analog = (0.0 if t.grad is None else float(t.grad) for t in tensors.values())
        out[method] = digital - analog
    return out


def compare(rows: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Sign agreement, cosine and median ratio of each method against the simulated slopes."""
    truth = np.array([row["simulated"] for row in rows])
    seen = np.abs(truth) > 1
    out = {}
    for method in METHODS:
        mine = np.array([row[method] for row in rows])
        out[method] = {
            "sign": float((np.sign(mine[seen]) == np.sign(truth[seen])).mean()),
            "cosine": float(mine @ truth / (np.linalg.norm(mine) * np.linalg.norm(truth))),
            "ratio": float(np.median(mine[seen] / truth[seen])),
        }
    return out


def main() -> None:
    args = arguments(__doc__, seed=0).parse_args()
    state(args.seed)
    soc, rng = find_soc("diana"), np.random.default_rng(args.seed)
    splits = 3 if args.quick else 12
    figures: list[dict[str, Any]] = []
    for network in NETWORKS:
        workload = find_workload(network)
        convs = {(x.k, x.c, x.oy, x.fy, x.stride_y): x for x in workload if x.op == "conv"}
        step = soc.cores["digital"].channel_step
        for runtime in RUNTIMES:
            cache = TilingCache()
            for width in ("wide", "narrow"):
                rows: list[dict[str, float]] = []
                for layer in (x for x in convs.values() if (x.k >= 2 * step) == (width == "wide")):
                    low, high = (step, layer.k - step) if width == "wide" else (1, layer.k - 1)
                    for n in rng.integers(low, high, splits, endpoint=True):
                        rows.append(slopes(soc, alone(workload, layer), int(n), runtime, cache))
                where = {"network": network, "runtime": runtime, "layers": width, "splits": len(rows)}
                figures += [where | {"method": method} | found for method, found in compare(rows).items()]
    table = Table(title="Gradients against central differences of the simulated cost", box=None)
    for name in ("network", "runtime", "layers", "splits", "method", "sign", "cosine", "ratio"):
        table.add_column(name, justify="right" if name in ("splits", "sign", "cosine", "ratio") else "left")
    for row in figures:
        numbers = (f"{row['sign']:.0%}", f"{row['cosine']:.3f}", f"{row['ratio']:.3g}")
        table.add_row(row["network"], row["runtime"], row["layers"], str(row["splits"]), row["method"], *numbers)
    Console().print(table)
    write_json(args.json, {"seed": args.seed, "rows": figures})


if __name__ == "__main__":
    main()
