"""Fusion and tiling on Gemmini: the search by gradient against baselines and against the proven optimum.

    python benchmarks/fusion_table.py [--json FILE] [--figure FILE.png] [--workloads A,B] [--socs A,B] [--methods A,B]
        [--seconds S] [--factor F] [--seeds N] [--layers] [--ranks N] [--rtl FILE] [--quick]

All methods have the same plans, costs (default theta), projection and machine. gradient and layerwise have S seconds of
processor time (one thread), random, genetic and bayesian F times as many; `simulated` is what `cosoc search` finds in
its two rounds, simulator and refitting included; `optimum` is the plan that dynamic programming proves best; `default`
is the library's tiling, without fusion. gap: estimated EDP over that of the optimum, less one. simulated_*: the same
plan in the simulator, the layers that the array runs. --layers: every distinct layer of the CNNs by itself, against
enumeration. --ranks N: how well soft model, exact model and simulation agree on the order of N random plans. --rtl
FILE: of each problem's measured mappings in DOSA's firesim_results.csv, Kendall's tau of our cycles.
An entry that the JSON file has already is kept.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from common import arguments, machine, state
from gemmini_rtl import read
from scipy.stats import kendalltau, spearmanr

from cosoc.search.baselines import tiles as baselines
from cosoc.search.exact.tiles import best_plan, best_single, lower_bound
from cosoc.search.spaces.tiles import Cost, Plan, Space, as_fused, as_single, to_mapping
from cosoc.search.tiling_plots import plot_bands
from cosoc.search.tiling_relaxed import Relaxed
from cosoc.search.tiling_run import TilingConfig, plan_from, plan_json, search_tiling
from cosoc.search.tiling_search import Effort, Watch, choices_of, gradient
from cosoc.search.tiling_simulate import simulated_cost
from cosoc.sim import exact
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.model.mapping import Mapping
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import Workload
from cosoc.sim.movers.cached_terms import CachedTheta, Machine, Shape, Tiles, cycles, estimate_nest, every_tile, terms
from cosoc.sim.tiler import complete

CNNS = ("resnet18", "resnet50", "mobilenet_v1", "mobilenet_v2", "vgg16")
WORKLOADS = (*CNNS, "bert_base_block", "gpt3_block_prefill", "gpt3_block_decode")
SOCS = ("gemmini", "gemmini_large")
METHODS = ("optimum", "default", "gradient", "layerwise", "simulated", "random", "genetic", "bayesian")
FAST = ("gradient", "layerwise", "simulated")
MANY_OPS = ("gpt3_block_prefill",)  # millions of tiles: only these methods' plans are simulated
SIMULATED_THERE = ("gradient", "genetic")


def figures(space: Space, cost: Cost) -> dict[str, float]:
    """EDP in J s, energy in J, seconds."""
    energy_j, seconds = cost.energy_pj * 1e-12, cost.cycles / space.machine.hz
    return {"edp": energy_j * seconds, "energy_j": energy_j, "seconds": seconds}


def default_mapping(space: Space, soc: SoC) -> tuple[Mapping, Cost]:
    """The library's tiling of the layers that the array runs, and its estimate."""
    whole = complete(Mapping("default", "overlapped"), space.workload, soc)
    names = [space.workload.layers[i].name for i in space.positions]
    total = Cost(0.0, 0.0)
    for i in space.positions:
        plan = whole.layers[space.workload.layers[i].name]
        found = estimate_nest(space.workload.layers[i], plan, space.machine, space.theta)
        total = total + Cost(float(found.energy_pj), float(found.cycles))
    return Mapping("default", "overlapped", {name: whole.layers[name] for name in names}), total


def run(method: str, space: Space, seconds: float, seed: int) -> Watch:
    """One search."""
    watch = Watch(space, "edp", seconds, clock=time.process_time)  # of this process: others do not count
    if method == "gradient":
        gradient(watch, seed, 1 << 20)
    elif method == "layerwise":
        baselines.layerwise(watch, seed)
    else:
        {"random": baselines.random_search, "genetic": baselines.genetic, "bayesian": baselines.bayesian}[method](
            watch, seed
        )
    return watch


def one(method: str, workload: Workload, soc: SoC, seconds: float, seed: int) -> dict[str, Any]:
    """The row of one method."""
    space = Space(workload, Machine.of(soc))
    begun = time.process_time()
    if method == "default":
        mapping, cost = default_mapping(space, soc)
    elif method == "optimum":
        found = best_plan(space, "edp")
        best, cost = found.plan, found.cost
        mapping = to_mapping(space, best, soc)
    elif method == "simulated":
        with tempfile.TemporaryDirectory() as folder:
            config = TilingConfig(soc, workload, seed=seed, out=Path(folder) / "run")
            best = plan_from(search_tiling(config, lambda done, total, what: None).content["plan"])
        mapping, cost = to_mapping(space, best, soc), space.cost(best)
    else:
        watch = run(method, space, seconds, seed)
        assert watch.best is not None
        best, cost = watch.best, watch.cost
        mapping = to_mapping(space, best, soc)
    row: dict[str, Any] = figures(space, cost) | {"time_s": time.process_time() - begun, "groups": len(mapping.pieces)}
    if method == "optimum":
        bound = lower_bound(space)
        row |= {"bound": found.bound, "above_lower_bound": cost.of("edp") / bound.of("edp")}
        row["unfused_edp"] = figures(space, best_plan(space, "edp", fusion=False).cost)["edp"]
    if method != "default":
        row["plan"] = plan_json(best)
    if workload.name not in MANY_OPS or method in SIMULATED_THERE:
        seen = figures(space, simulated_cost(workload, mapping, soc))
        row |= {f"simulated_{key}": value for key, value in seen.items()}
    return row


# ------------------------------------------------------------------------------------------ other questions


def layer_gaps(soc: SoC, seed: int) -> dict[str, Any]:
    """Every distinct layer of the CNNs by itself: gap of the search by gradient to the enumerated optimum."""
    seen: dict[Shape, str] = {}
    gaps, times = {}, []
    for name in CNNS:
        workload = find_workload(name)
        space = Space(workload, Machine.of(soc))
        for i in space.positions:
            seen.setdefault(space.shapes[i], f"{name} {workload.layers[i].name}")
    for where in seen.values():
        name, _, layer_name = where.partition(" ")
        layer = find_workload(name)[layer_name]
        workload = Workload(layer.name, (layer.c, layer.iy, layer.ix), (layer,), (layer.name,))
        space = Space(workload, Machine.of(soc))
        begun = time.monotonic()
        optimum = best_single(space, 0, "edp")
        times.append(time.monotonic() - begun)
        watch = Watch(space, "edp")
        gradient(watch, seed, 1, Effort(starts=32, steps=40, repaired=8))
        gaps[where] = watch.cost.of("edp") / optimum.cost.of("edp") - 1
    return {"layers": len(gaps), "worst_gap": max(gaps.values()), "slowest_enumeration_s": max(times), "gaps": gaps}


def sampled(space: Space, rng: np.random.Generator) -> Plan:
    """A random plan that is not absurd: cuts at random, of each piece's choices one within three times its best EDP."""
    pieces: list[Any] = []
    n, at = len(space.positions), 0
    while at < n:
        end = at + 1 + int(rng.geometric(0.5)) - 1
        first = space.positions[at]
        while end > at + 1:
            last = space.positions[min(end, n) - 1]
            if end <= n and last - first == end - 1 - at and space.chain(first, last) is not None:
                rows = space.fused_candidates(first, last)
                energy, time_, fits = space.fused_cost(first, last, rows)
                if fits.any():
                    pieces.append(as_fused(first, last, rows[_near_best(np.where(fits, energy * time_, np.inf), rng)]))
                    break
            end -= 1
        if end == at + 1:
            rows, found = space.singles(first)
            energy, time_ = space.cost_of(found)
            pieces.append(as_single(first, rows[_near_best(np.broadcast_to(energy * time_, len(rows)), rng)]))
        at = end
    return Plan(tuple(pieces))


def _near_best(values: Any, rng: np.random.Generator) -> int:
    return int(rng.choice(np.flatnonzero(values <= 3 * values.min())))


def rank_agreement(workload: Workload, soc: SoC, n: int, seed: int) -> dict[str, float]:
    """Spearman of EDP between soft, exact and simulated over n random plans."""
    space, rng = Space(workload, Machine.of(soc)), np.random.default_rng(seed)
    relaxed = Relaxed(space)
    soft, hard, simulated = [], [], []
    for _ in range(n):
        plan = sampled(space, rng)
        energy, time_, _ = relaxed.cost(relaxed.near([choices_of(space, plan)], 1, 0, 0.0), 0.1)
        soft.append(energy.item() * time_.item())
        hard.append(space.cost(plan).of("edp"))
        simulated.append(simulated_cost(workload, to_mapping(space, plan, soc), soc).of("edp"))
    pairs = {"soft_exact": (soft, hard), "exact_simulated": (hard, simulated), "soft_simulated": (soft, simulated)}
    out = {name: float(spearmanr(a, b).statistic) for name, (a, b) in pairs.items()}
    ratio = np.array(hard) / np.array(simulated)
    return out | {"plans": n, "median_error": float(np.median(np.abs(ratio - 1)))}


def rtl_order(path: Path) -> dict[str, Any]:
    """Per problem of the measured rows on 16 x 16 PEs, Kendall's tau between our closed form and the RTL's cycles."""
    model = Machine.of(find_soc("gemmini_firesim"))
    by_problem = defaultdict(list)
    for row in read(path)["mapped"]:
        nest = row.nest
        if nest.side != model.side:
            continue
        k, c, fy, fx, oy, ox = nest.extent
        gemm, pad = nest.kind == "gemm", nest.pad_y
        down = max(0, (oy - 1) * nest.stride + nest.extent[2] - pad - nest.in_rows)
        pads = (0, 0, 0, 0) if gemm else (pad, down, pad, down)
        shape = Shape(k, c, fy, fx, oy, ox, nest.stride, nest.stride, *pads, gemm=int(gemm), most_pad=max(pads))
        tiles = Tiles(*(min(t, e) for t, e in zip(nest.tile, nest.extent, strict=True)))

        found = terms(shape, tiles, every_tile(shape, tiles, exact), model)
        by_problem[row.problem].append((float(cycles(found, model, CachedTheta())), row.cycles))
    taus, pairs = [], [pair for rows in by_problem.values() for pair in rows]
    for rows in by_problem.values():
        if len(rows) >= 4:
            taus.append(float(kendalltau([r[0] for r in rows], [r[1] for r in rows]).statistic))
    ours, theirs = (np.array([p[j] for p in pairs]) for j in (0, 1))
    return {
        "rows": len(pairs), "problems": len(taus), "median_kendall": float(np.median(taus)),
        "mean_kendall": float(np.mean(taus)), "share_positive": float(np.mean(np.array(taus) > 0)),
        "spearman": float(spearmanr(ours, theirs).statistic), "mape": float(np.mean(np.abs(ours / theirs - 1))),
    }  # fmt: skip


# ------------------------------------------------------------------------------------------ main


def histories(workload: Workload, soc: SoC, seconds: float, seeds: int) -> dict[str, list[list[tuple[float, float]]]]:
    """Best EDP over time for every method that searches, each with so many seeds."""
    out: dict[str, list[list[tuple[float, float]]]] = {}
    for method in METHODS[2:]:
        if method == "simulated":
            continue
        if method == "bayesian" and not baselines.has_optuna():
            continue
        out[method] = []
        for seed in range(seeds):
            space = Space(workload, Machine.of(soc))
            factor = 1e-12 / space.machine.hz
            out[method].append([(t, v * factor) for t, v in run(method, space, seconds, seed).history])
            print(f"  {method} seed {seed}: {out[method][-1][-1][1]:.4g} J s", flush=True)
    return out


def main() -> None:
    parser = arguments(__doc__, seed=0)
    parser.add_argument("--workloads", default=",".join(WORKLOADS))
    parser.add_argument("--socs", default=",".join(SOCS))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--factor", type=float, default=10.0)
    parser.add_argument("--seeds", type=int, default=0, help="draw EDP over time with so many seeds")
    parser.add_argument("--figure", type=Path, metavar="FILE")
    parser.add_argument("--layers", action="store_true")
    parser.add_argument("--ranks", type=int, default=0)
    parser.add_argument("--rtl", type=Path)
    args = parser.parse_args()
    if args.quick:
        args.workloads, args.socs, args.methods = "resnet18", "gemmini", "optimum,default,gradient,random"
        args.seconds, args.factor = 5.0, 1.0
    state(args.seed)
    table: dict[str, Any] = json.loads(args.json.read_text()) if args.json and args.json.exists() else {}
    table["machine"] = machine()
    about = table.setdefault("about", {})

    def save() -> None:
        if args.json:
            args.json.write_text(json.dumps(table, indent=1) + "\n")

    for name in filter(None, args.workloads.split(",")):
        workload = find_workload(name)
        for soc_name in args.socs.split(","):
            soc = find_soc(soc_name)
            rows = table.setdefault(name, {}).setdefault(soc_name, {})
            for method in filter(None, args.methods.split(",")):
                if method in rows or (method == "bayesian" and not baselines.has_optuna()):
                    continue
                seconds = args.seconds * (1 if method in FAST else args.factor)
                row = rows[method] = one(method, workload, soc, seconds, args.seed)
                row["gap"] = row["edp"] / rows["optimum"]["edp"] - 1 if "optimum" in rows else None
                save()
                simulated = f"{row['simulated_edp']:.4g}" if "simulated_edp" in row else "-"
                gap = f"{row['gap']:8.2%}" if row["gap"] is not None else ""
                figures_ = f"EDP {row['edp']:.4g} J s, simulated {simulated}, gap {gap}, {row['time_s']:.1f} s"
                print(f"{name:20} {soc_name:14} {method:10} {figures_}", flush=True)
            if args.ranks and "ranks" not in rows and name not in MANY_OPS:
                rows["ranks"] = rank_agreement(workload, soc, args.ranks, args.seed)
                print(f"{name:20} {soc_name:14} rank agreement {rows['ranks']}", flush=True)
                save()
    if args.layers:
        for soc_name in args.socs.split(","):
            found = about.setdefault("layers", {})[soc_name] = layer_gaps(find_soc(soc_name), args.seed)
            print(f"single layers on {soc_name}: {found['layers']}, worst gap {found['worst_gap']:.3%}, "
                  f"enumeration at most {found['slowest_enumeration_s']:.2f} s", flush=True)  # fmt: skip
            save()
    if args.rtl:
        about["rtl"] = rtl_order(args.rtl)
        print(f"RTL: {about['rtl']}", flush=True)
        save()
    if args.seeds and args.figure:
        name, soc_name = args.workloads.split(",")[0], args.socs.split(",")[0]
        workload, soc = find_workload(name), find_soc(soc_name)
        space = Space(workload, Machine.of(soc))
        found = histories(workload, soc, args.seconds, args.seeds)
        optimum = figures(space, best_plan(space, "edp").cost)["edp"]
        plot_bands(found, optimum, f"{name} on {soc_name}, {args.seeds} seeds", args.figure)
        about["over_time"] = {"workload": name, "soc": soc_name, "optimum": optimum, "histories": found}
        save()


if __name__ == "__main__":
    main()
