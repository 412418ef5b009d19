"""Fusion and tiling on Gemmini: the search by gradient against baselines and against the proven optimum.

    python benchmarks/fusion_table.py [--json FILE] [--figure FILE.png] [--workloads A,B] [--socs A,B] [--methods A,B]
        [--seconds S] [--factor F] [--seeds N] [--layers] [--ranks N] [--rtl FILE] [--quick]

All methods have the same plans, costs (default theta), projection and machine. gradient and layerwise have S seconds of
processor time (one thread), random, genetic and bayesian F times as many; `searched` is what `cosoc search --space
tiles` finds: the optimum and two rounds, simulator and refitting included; `optimum` is the plan that dynamic
programming proves best; `default` is the library's tiling, without fusion. edp: estimated, of the layers that the array
runs; gap: over that of the optimum, less one. simulated_*: the whole network in the simulator, mvin by mvin, under the
plan, whose mapping stands beside it. --layers: every distinct layer of the CNNs by itself, against
enumeration. --ranks N: how well soft model, exact model and simulation agree on the order of N random plans. --rtl
FILE: of each problem's measured mappings in DOSA's firesim_results.csv, Kendall's tau of our cycles.
An entry that the JSON file has already is kept.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping as MappingOf
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import arguments, machine, state
from gemmini_rtl import read
from scipy.stats import kendalltau, spearmanr

from cosoc.search.baselines import tiles as baselines
from cosoc.search.baselines.tiles_gradient import Effort, Plan, Watch, choices_of, gradient
from cosoc.search.exact.tiles import Optimum, best_choice, best_plan, value
from cosoc.search.oracle import Oracle
from cosoc.search.spaces.sections import Cost, Section, mapping_of, sections_of
from cosoc.search.spaces.tile_search import TileConfig, search_tiles
from cosoc.search.spaces.tiles import TileSpace
from cosoc.search.spaces.tiles_cached import CachedTiles, lower_bound
from cosoc.search.spaces.tiles_soft import Relaxed
from cosoc.sim import exact
from cosoc.sim.figures import objective
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.mapping_file import dump_mapping, load_mapping
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.model.cuts import only
from cosoc.sim.model.mapping import Mapping
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import Workload
from cosoc.sim.movers.cached_terms import Machine, Shape, Tiles, cycles, every_tile, terms
from cosoc.sim.theta import Theta

CNNS = ("resnet18", "resnet50", "mobilenet_v1", "mobilenet_v2", "vgg16")
WORKLOADS = (*CNNS, "bert_base_block", "gpt3_block_prefill", "gpt3_block_decode")
SOCS = ("gemmini", "gemmini_large")
METHODS = ("optimum", "default", "gradient", "layerwise", "searched", "random", "genetic", "bayesian")
FAST = ("gradient", "layerwise", "searched")
MANY_OPS = ("gpt3_block_prefill",)  # millions of tiles: only these methods' plans are simulated
SIMULATED_THERE = ("gradient", "genetic")


EDP = objective("edp")


def figures(cost: Cost) -> dict[str, float]:
    """EDP in J s, energy in J, seconds."""
    return {"edp": worth(cost), "energy_j": cost.energy_j, "seconds": cost.seconds}


def worth(cost: Cost) -> float:
    """EDP, J s."""
    return float(value(cost.energy_j, cost.seconds, EDP))


def whole_space(workload: Workload, soc: SoC) -> TileSpace:
    """The space of a search, given the library's tiles."""
    return TileSpace(soc, workload, "edp", Mapping("default", "overlapped"))


def array_space(workload: Workload, soc: SoC) -> CachedTiles:
    """The choices of the layers that the array runs."""
    (array,) = whole_space(workload, soc).arrays.values()
    return array


def optimum_of(space: CachedTiles, fusion: bool = True) -> Optimum:
    """The proven optimum."""
    return best_plan(len(space.positions), space.choices(fusion), EDP)


def simulated(workload: Workload, soc: SoC, mapping: Mapping) -> Cost:
    """The whole network in the simulator."""
    found = Oracle(soc, workload).simulate(mapping)
    return Cost(found.energy_j, found.latency_s)


def run(method: str, space: CachedTiles, seconds: float, seed: int) -> Watch:
    """One search."""
    watch = Watch(space, EDP, seconds, clock=time.process_time)  # of this process: others do not count
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
    whole = whole_space(workload, soc)
    (space,) = whole.arrays.values()
    begun = time.process_time()
    found = optimum_of(space) if method == "optimum" else None
    if method == "default":
        plan: Plan = tuple(own for own in sections_of(whole.given, workload) if own.first in space.shapes)
    elif found is not None:
        plan = found.sections
    elif method == "searched":
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "run"
            best = search_tiles(
                TileConfig(soc, workload, whole.given, seed=seed, out=out, fusion=True), lambda *what: None
            ).best
            mapping = load_mapping(out / best.mapping, workload, soc)
        plan = tuple(own for own in sections_of(mapping, workload) if own.first in space.shapes)
    else:
        watch = run(method, space, seconds, seed)
        assert watch.best is not None
        plan = watch.best
    spent, cost = time.process_time() - begun, space.plan_cost(plan)
    mapping = mapping_of(plan, whole.given, workload, method)
    row: dict[str, Any] = figures(cost) | {"time_s": spent, "groups": len(mapping.pieces)}
    if found is not None:
        row |= {"bound": found.bound, "above_lower_bound": worth(cost) / worth(lower_bound(space))}
        row["unfused_edp"] = figures(optimum_of(space, fusion=False).cost)["edp"]
    row["mapping"] = dump_mapping(mapping)
    if workload.name not in MANY_OPS or method in SIMULATED_THERE:
        row |= {f"simulated_{key}": one for key, one in figures(simulated(workload, soc, mapping)).items()}
    return row


# ------------------------------------------------------------------------------------------ other questions


def layer_gaps(soc: SoC, seed: int) -> dict[str, Any]:
    """Every distinct layer of the CNNs by itself: gap of the search by gradient to the enumerated optimum."""
    seen: dict[Shape, str] = {}
    gaps, times = {}, []
    for name in CNNS:
        workload = find_workload(name)
        space = array_space(workload, soc)
        for i in space.positions:
            seen.setdefault(space.shapes[i], f"{name} {workload.layers[i].name}")
    for where in seen.values():
        name, _, layer_name = where.partition(" ")
        space = array_space(only(find_workload(name), [layer_name]), soc)
        begun = time.monotonic()
        options = space.choices()[0, 1]
        least = worth(options.cost(best_choice(options, EDP)))
        times.append(time.monotonic() - begun)
        watch = Watch(space, EDP)
        gradient(watch, seed, 1, Effort(starts=32, steps=40, repaired=8))
        gaps[where] = worth(watch.cost) / least - 1
    return {"layers": len(gaps), "worst_gap": max(gaps.values()), "slowest_enumeration_s": max(times), "gaps": gaps}


def sampled(space: CachedTiles, rng: np.random.Generator) -> Plan:
    """A random plan that is not absurd: cuts at random, of each piece's choices one within three times its best EDP."""
    sections: list[Section] = []
    choices, n, at = space.choices(), len(space.positions), 0
    while at < n:
        end = at + 1 + int(rng.geometric(0.5)) - 1
        while (at, end) not in choices:
            end -= 1
        options = choices[at, end]
        sections.append(options.section(_near_best(value(options.points[:, 0], options.points[:, 1], EDP), rng)))
        at = end
    return tuple(sections)


def _near_best(values: Any, rng: np.random.Generator) -> int:
    return int(rng.choice(np.flatnonzero(values <= 3 * values.min())))


def rank_agreement(workload: Workload, soc: SoC, n: int, seed: int) -> dict[str, float]:
    """Spearman of EDP between soft, exact and simulated over n random plans."""
    whole, rng = whole_space(workload, soc), np.random.default_rng(seed)
    (space,) = whole.arrays.values()
    relaxed = Relaxed(space)
    soft, hard, seen = [], [], []
    for _ in range(n):
        plan = sampled(space, rng)
        energy, time_, _ = relaxed.cost(relaxed.near([choices_of(space, plan)], 1, 0, 0.0), 0.1)
        soft.append(energy.item() * time_.item())
        mapping = mapping_of(plan, whole.given, workload)
        hard.append(whole.figures(sections_of(mapping, workload)).edp)
        seen.append(worth(simulated(workload, soc, mapping)))
    pairs = {"soft_exact": (soft, hard), "exact_simulated": (hard, seen), "soft_simulated": (soft, seen)}
    out = {name: float(spearmanr(a, b).statistic) for name, (a, b) in pairs.items()}
    ratio = np.array(hard) / np.array(seen)
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
        by_problem[row.problem].append((float(cycles(found, model, Theta())), row.cycles))
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
        if method == "searched":
            continue
        if method == "bayesian" and not baselines.has_optuna():
            continue
        out[method] = []
        for seed in range(seeds):
            out[method].append(run(method, array_space(workload, soc), seconds, seed).history)
            print(f"  {method} seed {seed}: {out[method][-1][-1][1]:.4g} J s", flush=True)
    return out


History = Sequence[tuple[float, float]]  # (seconds, value), falling


def plot_bands(runs: MappingOf[str, Sequence[History]], optimum: float, title: str, path: Path) -> None:
    """Draw the best value over time: of every method the median of its runs and the band from least to largest."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    last = max(history[-1][0] for several in runs.values() for history in several)
    times = np.geomspace(0.1, max(last, 1.0), 200)
    for name, several in runs.items():
        values = np.array([_at(history, times) for history in several])
        some = np.isfinite(values).all(axis=0)
        axis.plot(times[some], np.median(values[:, some], axis=0), label=name)
        axis.fill_between(times[some], values[:, some].min(axis=0), values[:, some].max(axis=0), alpha=0.2)
    axis.axhline(optimum, color="black", linestyle=":", label="optimum")
    axis.set(xlabel="seconds", ylabel="EDP, J s (estimated)", xscale="log", yscale="log", title=title)
    axis.grid(alpha=0.3)
    axis.legend(loc="best")
    figure.savefig(path, dpi=130, format="png")
    pyplot.close(figure)


def _at(history: History, times: Any) -> Any:
    """The value that a falling step function has at given times; infinity before its first."""

    when, value = np.array([t for t, _ in history]), np.array([v for _, v in history])
    at = np.searchsorted(when, times, side="right") - 1
    return np.where(at >= 0, value[np.maximum(at, 0)], np.inf)


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
        found = histories(workload, soc, args.seconds, args.seeds)
        optimum = worth(optimum_of(array_space(workload, soc)).cost)
        plot_bands(found, optimum, f"{name} on {soc_name}, {args.seeds} seeds", args.figure)
        about["over_time"] = {"workload": name, "soc": soc_name, "optimum": optimum, "histories": found}
        save()


if __name__ == "__main__":
    main()
