"""Fronts of model splits over clusters, exact and replayed, against a single GPU.

    python benchmarks/splits_front.py [--quick] [--seed N] [--json FILE] [--figure FILE.png]

For every cluster and network: the exact energy-throughput front of pipelines (one device a stage), each point replayed
by the engine; the speed-up over the cluster's GPU alone (over its fastest device where it has none), and how much less
energy each device takes at the fastest point. Then three checks against what others have published, none fitted here:

- the thesis behind DONNA: 19 % less energy for a 34 % longer slowest stage, and 34 % for 45 % with CIM devices added
  (VGG-8 and ResNet-152, its devices are not known: a check of shape and size only);
- PipeEdge on its own boards: bottlenecks of the optimum for its published ViT profiles (micro-batch 8), by boards, and
  the speed-up that it measured on 16 boards;
- its mixed cluster, by the boards' totals.

--quick takes two clusters and three networks, and fewer inferences a replay.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import arguments, state, write_json
from rich.console import Console
from rich.table import Table

from cosoc.search.exact.splits import front, least_period
from cosoc.search.front import hypervolume
from cosoc.search.spaces.split_space import SplitConfig, search_splits
from cosoc.search.spaces.splits_soft import relaxed_front
from cosoc.search.split_costs import make_case, profile_problem
from cosoc.sim.files.catalog import device_soc, find_cluster, list_clusters
from cosoc.sim.files.workload_file import find_workload

NETWORKS = ("vgg8", "vgg16", "resnet18", "resnet50", "resnet152", "mobilenet_v2", "vit_base", "vit_large")
QUICK_NETWORKS, QUICK_CLUSTERS = ("vgg8", "resnet18", "vit_base"), ("homogeneous_gpu_4", "donna_hetero")

# Bottleneck seconds of the exact optimum for PipeEdge's profiles by layer (README_Scheduler.md of usc-isi/PipeEdge at
# 1a68bbb; computed from them, ideal overlap, 1000 Mb/s, micro-batch 8), on Atom E3845 boards.
PIPEEDGE_S = {
    "vit_base": {1: 13.058, 4: 3.3543, 8: 1.7373, 16: 0.9962},
    "vit_large": {1: 44.518, 4: 11.228, 8: 5.7033, 16: 3.0009},
}
PIPEEDGE_MEASURED = {"vit_large": (16, 10.59)}  # boards, speed-up over one (PipeEdge's abstract; boards not named)
E3845_S, C2000_S, MIXED_S = 13.058, 10.386, 1.5488  # ViT-Base: all layers on either board; 4 + 4 boards, by layer
THESIS = {"without CIM": (0.19, 0.34), "with CIM": (0.34, 0.45)}  # less energy, longer slowest stage


def one(cluster: str, network: str, inferences: int, seed: int) -> dict[str, Any]:
    """A cluster's front for a network, without what the replay says of every link."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        config = SplitConfig(
            find_cluster(cluster),
            find_workload(network),
            inferences,
            latency=False,
            seed=seed,
            out=Path(folder) / "run",
        )
        content = search_splits(config, lambda done, total, what: None).content()
    out: dict[str, Any] = {"front": [], "replicated_front": [], "known": content["known"], **content["about"]}
    for point in content["points"]:
        out["front" if point["name"].startswith("point_") else "replicated_front"].append(point)
    for point in content["points"] + content["known"]:
        del point["about"]["replay"]["utilisation"]
    out |= compared(config, out)
    return out | {"wall_s": time.perf_counter() - started, "relaxed": relaxed(config)}


def compared(config: SplitConfig, found: dict[str, Any]) -> dict[str, Any]:
    """The fastest points against one GPU alone, or the fastest device where no GPU is; None where no device holds the
    network."""
    alone = {p["name"].removeprefix("one_"): p for p in found["known"] if p["name"].startswith("one_")}
    socs = {name: device_soc(config.cluster, name) for name in alone}
    gpus = {name: p for name, p in alone.items() if getattr(socs[name].cores[socs[name].host], "kind", "") == "gpu"}
    single = max((gpus or alone).values(), key=lambda p: float(p["simulated"]["throughput"]), default=None)
    if single is None:
        return {"single_gpu": None, "speedup_max": None, "device_energy_ratio_at_max": None}
    fastest = [front[0] if front else None for front in (found["front"], found["replicated_front"])]
    rate = single["simulated"]["throughput"]
    speedups = [p["simulated"]["throughput"] / rate if p else None for p in fastest]
    ratio = device_energy_j(single) / device_energy_j(fastest[0]) if fastest[0] else None
    return {"single_gpu": single, "speedup_max": speedups[0], "speedup_max_replicated": speedups[1],
            "device_energy_ratio_at_max": ratio}  # fmt: skip


def device_energy_j(point: dict[str, Any]) -> float:
    """Mean energy of an inference by device in use, simulated."""
    return float(np.mean([part["energy_j"] for part in point["about"]["replay"]["devices"]]))


def relaxed(config: SplitConfig) -> dict[str, float]:
    """The front by gradient over the exact one on the same cuts (articulation points, single inferences): least period,
    least energy, and area dominated within 1.1 times the worst of either."""
    problem = make_case(config.cluster, config.workload, branches=False).problem
    best, soft = (
        np.array([(p.costs.period_s, p.costs.energy_j) for p in points])
        for points in (front(problem), relaxed_front(problem, config.seed))
    )
    period, energy = (soft.min(0) / best.min(0)).tolist()
    worst_period, worst_energy = (1.1 * np.maximum(best.max(0), soft.max(0))).tolist()
    areas = [hypervolume(points.tolist(), (worst_period, worst_energy)) for points in (soft, best)]
    return {"period": period, "energy": energy, "hypervolume": areas[0] / areas[1]}


def trade_off(points: list[dict[str, Any]], longer: float) -> float:
    """The part of the fastest point's energy that is saved by a period at most `longer` (a part) above its own."""
    fastest = points[0]["simulated"]
    slow_enough = [p["simulated"]["energy_j"] for p in points
                   if p["simulated"]["throughput"] * (1 + longer) >= fastest["throughput"]]  # fmt: skip
    return 1 - min(slow_enough) / float(fastest["energy_j"])


def pipeedge(networks: tuple[str, ...]) -> dict[str, Any]:
    """Bottlenecks by boards, on the simulator's own costs of a layer, beside those for the published profiles."""
    whole = find_cluster("pipeedge_16")
    out: dict[str, Any] = {}
    for network in networks:
        rows = {}
        for boards, published in PIPEEDGE_S[network].items():
            devices = {"board": whole.devices["board"].model_copy(update={"count": boards})}
            case = make_case(whole.model_copy(update={"devices": devices}), find_workload(network), 8, branches=False)
            rows[boards] = {"bottleneck_s": 8 * front(case.problem)[0].costs.period_s, "published_s": published}
        for row in rows.values():
            row["speedup"] = rows[1]["bottleneck_s"] / row["bottleneck_s"]
            row["published_speedup"] = rows[1]["published_s"] / row["published_s"]
        out[network] = rows
    seconds = np.array([[E3845_S / 48] * 48, [C2000_S / 48] * 48])
    mixed = least_period(profile_problem(["e3845", "c2000"], [4, 4], seconds, np.zeros(49), 125e6))
    out["mixed, from totals"] = {"bottleneck_s": mixed.costs.period_s, "published_s": MIXED_S}
    return out


def show(results: dict[str, dict[str, Any]]) -> None:
    """A row a cluster and network."""
    columns = "cluster|network|points|1 device/s|fastest/s|speed-up|energy/device|differs|by gradient|s"
    table = Table(*columns.split("|"))
    for cluster, by_network in results.items():
        for network, r in by_network.items():
            table.add_row(
                cluster,
                network,
                str(len(r["front"])),
                f"{r['single_gpu']['simulated']['throughput']:.4g}" if r["single_gpu"] else "-",
                f"{r['front'][0]['simulated']['throughput']:.4g}",
                f"{r['speedup_max']:.2f}" if r["speedup_max"] else "-",
                f"1/{r['device_energy_ratio_at_max']:.2f}" if r["speedup_max"] else "-",
                f"{r['difference_worst']:.1%}",
                f"{r['relaxed']['hypervolume']:.2%}",
                f"{r['wall_s']:.1f}",
            )
    Console(width=130).print(table)


def draw(results: dict[str, dict[str, Any]], curves: dict[str, Any], path: Path) -> None:
    """Fronts, a panel a network, and PipeEdge's scaling."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    networks = list(dict.fromkeys(n for by_network in results.values() for n in by_network))
    rows = -(-(len(networks) + 1) // 3)
    figure, plots = pyplot.subplots(rows, 3, figsize=(15, 4 * rows), layout="constrained")
    for axis, network in zip(plots.flat, networks, strict=False):
        for cluster, by_network in results.items():
            points = [p["simulated"] for p in by_network.get(network, {}).get("front", ())]
            if points:
                x, y = [p["throughput"] for p in points], [1e3 * p["energy_j"] for p in points]
                axis.plot(x, y, marker="o", markersize=3, linewidth=1, label=cluster)
        axis.set(xscale="log", yscale="log", title=network, xlabel="inferences/s", ylabel="mJ an inference")
        axis.grid(alpha=0.3)
    plots.flat[0].legend(fontsize=6)
    axis = plots.flat[len(networks)]
    for network in (n for n in curves if n in PIPEEDGE_S):
        boards = list(curves[network])
        axis.plot(boards, [curves[network][b]["speedup"] for b in boards], marker="o", label=f"{network}, our costs")
        axis.plot(boards, [curves[network][b]["published_speedup"] for b in boards], "x--", label=f"{network}, profile")
    axis.scatter(*PIPEEDGE_MEASURED["vit_large"], marker="*", s=90, label="vit_large, measured", color="tab:red")
    axis.set(title="PipeEdge: speed-up by boards", xlabel="boards", ylabel="speed-up over one")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)
    for axis in list(plots.flat)[len(networks) + 1 :]:
        axis.axis("off")
    figure.savefig(path, dpi=110, format="png")
    pyplot.close(figure)
    print(f"written: {path}")


def main() -> None:
    parser = arguments(__doc__, seed=0)
    parser.add_argument("--figure", type=Path, metavar="FILE.png", help="draw the fronts there")
    parser.add_argument("--clusters", metavar="A,B", help="only these")
    parser.add_argument("--networks", metavar="A,B", help="only these")
    options = parser.parse_args()
    state(options.seed)
    clusters = options.clusters.split(",") if options.clusters else QUICK_CLUSTERS if options.quick else list_clusters()
    networks = options.networks.split(",") if options.networks else QUICK_NETWORKS if options.quick else NETWORKS
    inferences = 200 if options.quick else 1000
    results: dict[str, dict[str, Any]] = {cluster: {} for cluster in clusters}
    for cluster, network in itertools.product(clusters, networks):
        started = time.perf_counter()
        results[cluster][network] = one(cluster, network, inferences, options.seed)
        print(f"  {network} on {cluster}: {time.perf_counter() - started:.1f} s", file=sys.stderr, flush=True)
    show(results)
    checks: dict[str, Any] = {"thesis": {}}
    for cluster in (c for c in ("donna_hetero", "donna_hetero_cim") if c in results):
        for network in (n for n in ("vgg8", "resnet152") if n in networks):
            for name, (less, longer) in THESIS.items():
                saved = trade_off(results[cluster][network]["front"], longer)
                checks["thesis"][f"{network} on {cluster}, {longer:.0%} longer"] = saved
                print(
                    f"{network} on {cluster}: {saved:.0%} less energy for up to {longer:.0%} longer; "
                    f"thesis, {name}: {less:.0%}"
                )
    checks["pipeedge"] = curves = pipeedge(tuple(PIPEEDGE_S)[: 1 if options.quick else None])
    for network, rows in curves.items():
        for boards, row in rows.items() if network in PIPEEDGE_S else ():
            print(f"{network}, {boards} boards: {row['bottleneck_s']:.4f} s; published {row['published_s']:.4f} s;"
                  f" speed-up {row['speedup']:.2f}, {row['published_speedup']:.2f}")  # fmt: skip
    mixed = curves["mixed, from totals"]
    print(f"vit_base, 4 + 4 boards from their totals: {mixed['bottleneck_s']:.4f} s; by layer {MIXED_S} s")
    write_json(options.json, {**results, "checks": checks, "quick": options.quick})
    if options.figure:
        draw(results, curves, options.figure)


if __name__ == "__main__":
    main()
