"""Every space on every chip that has something to choose, and the seams of the house: what a reader checks first.

    python benchmarks/any_space.py [--quick] [--json FILE]

Seams (--quick holds these, dead keys of one SoC alone, and smaller runs):

- alone_over_cluster: a SoC's seconds alone over those in a cluster of one, by SoC;
- result_over_simulation: a search's reported latency over that of `simulate` of the file it wrote, by space;
- dead_keys: numbers of SoC files that change nothing (all of them: `keys.py`);
- ignored_mapping_keys: keys of a mapping that neither change a program nor are refused;
- over_capacity: memories that hold more than they can (all of them: `capacity.py`);
- same_tile_two_paths: ticks where operands stay over those where each tile loads its own, in tiles that leave nothing
  to stay; the worst.

Runs: {name: {figures, gap, seconds}}. figures: simulated, of the best that was found, with those of the best that was
known before it beside them; gap: above the proven bound of the estimate, where there is one.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from capacity import over_capacity
from common import arguments, state, write_json
from keys import Sweep

from cosoc.search.result import Result
from cosoc.search.spaces.split_space import SplitConfig, search_splits
from cosoc.search.spaces.tile_search import TileConfig, search_tiles
from cosoc.search.training.space import TrainingConfig, search_trained
from cosoc.sim.errors import InputError
from cosoc.sim.figures import OBJECTIVES, Figures
from cosoc.sim.files.catalog import find_soc, list_socs
from cosoc.sim.files.mapping_file import load_cluster_mapping, load_mapping
from cosoc.sim.files.workload_file import find_workload, load_workload
from cosoc.sim.lower.emit import lower
from cosoc.sim.machine.program import digest
from cosoc.sim.manual import named_mapping
from cosoc.sim.model.cluster import Cluster
from cosoc.sim.model.mapping import DIMS, Extent, LayerPlan, Mapping, Part, Piece, Stage
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import INPUT, Layer, Workload, batched
from cosoc.sim.simulate import figures, simulate, simulate_cluster
from cosoc.sim.tiler import checked, unsupported

MIXED = ("diana", "darkside", "gemmini", "hetero")  # chips with tiles to choose
SILENT: Callable[[int, int, str], None] = lambda done, total, what: None  # noqa: E731


# ------------------------------------------------------------------------------------------------- seams


def alone_over_cluster(names: Sequence[str], workload: Workload) -> dict[str, float]:
    """Seconds alone over seconds in a cluster of one device."""
    out = {}
    for name in names:
        soc = find_soc(name)
        default = named_mapping("default", workload, soc)
        cluster = Cluster.model_validate({"name": "one", "devices": {"d": {"soc": name}}, "links": {}})
        staged = Mapping("staged", default.runtime, stages=(Stage("d", workload.outputs),))
        seen = simulate_cluster(cluster, workload, staged, inferences=4).seen
        out[name] = simulate(soc, workload, default).seconds * seen.throughput
    return out


def same_tile_two_paths() -> float:
    """The worst ratio of ticks, on Gemmini, of a layer whose tiles change both operands every time."""
    soc, worst = find_soc("gemmini"), 1.0
    for c, k, edge, taps, tile in (
        (128, 64, 14, 3, Extent(32, 32, 3, 3, 7, 14)),
        (96, 96, 28, 1, Extent(48, 32, 1, 1, 4, 28)),
        (256, 128, 7, 3, Extent(64, 64, 3, 3, 7, 7)),
        (512, 256, 1, 1, Extent(64, 128, 1, 1, 1, 1)),
    ):
        pad = taps // 2
        layer = Layer("l", "conv", (INPUT,), k, c, edge, edge, edge, edge, taps, taps, 1, 1, pad, pad)
        workload = Workload("one", (c, edge, edge), (layer,), ("l",))
        order = ("n", "oy", "ox", "k", "fy", "fx", "c")  # c inside: the tile before had other weights and inputs
        plan = LayerPlan((Part("gemmini", k, tile),), order)
        ticks = [
            simulate(soc, workload, Mapping("m", "overlapped", {"l": replace(plan, reuse=reuse)})).ticks
            for reuse in (True, False)
        ]
        worst = max(worst, ticks[0] / ticks[1], ticks[1] / ticks[0])
    return worst


def small(soc: SoC) -> Workload:
    """Three convolutions and a sum, wide enough to be cut."""
    area: dict[str, Any] = {"oy": 16, "ox": 16, "iy": 16, "ix": 16}
    three: dict[str, Any] = area | {"fy": 3, "fx": 3, "pad_y": 1, "pad_x": 1}
    layers = (
        Layer("a", "conv", (INPUT,), 64, 32, **three),
        Layer("b", "conv", ("a",), 64, 64, **three),
        Layer("short", "conv", ("a",), 64, 64, **area),
        Layer("sum", "add", ("b", "short"), 64, 64, **area),
    )
    return Workload("small", (32, 16, 16), layers, ("sum",))


def edits(mapping: Mapping, workload: Workload, soc: SoC) -> Iterator[tuple[str, list[Mapping]]]:
    """Every key of a complete mapping, with mappings in which it alone is another."""
    yield "runtime", [replace(mapping, runtime="serial" if mapping.runtime == "overlapped" else "overlapped")]
    yield "micro_batch", [replace(mapping, micro_batch=2)]
    yield "stages", [replace(mapping, stages=(Stage("d", workload.outputs),))]

    def with_plans(change: Callable[[LayerPlan], LayerPlan | None]) -> list[Mapping]:
        changed = {name: change(plan) for name, plan in mapping.layers.items()}
        return [
            replace(mapping, layers={**mapping.layers, name: plan})
            for name, plan in changed.items()
            if plan is not None
        ]

    def moved(plan: LayerPlan) -> LayerPlan | None:
        others = [core for core in soc.cores if core not in {part.core for part in plan.parts}]
        return LayerPlan((Part(others[0], plan.parts[0].channels),)) if others else None

    def narrow(plan: LayerPlan) -> LayerPlan | None:
        parts = tuple(replace(p, bits=min(soc.cores[p.core].weight_formats, default=3)) for p in plan.parts)
        return replace(plan, parts=parts)

    yield "layers.parts", with_plans(moved)
    yield "layers.parts.bits", with_plans(narrow)
    for d in DIMS:

        def cut(plan: LayerPlan, d: str = d) -> LayerPlan | None:
            if not plan.is_tiled or plan.tile.along(d) == 1:
                return None
            parts = tuple(
                replace(p, tile=replace(p.tile, **{d: (p.tile.along(d) + 1) // 2}) if p.tile else None)
                for p in plan.parts
            )
            return replace(plan, parts=parts)

        yield f"layers.tile.{d}", with_plans(cut)
    yield "layers.order", with_plans(lambda p: replace(p, order=tuple(reversed(p.order))) if p.order else None)
    yield "layers.reuse", with_plans(lambda p: replace(p, reuse=not p.reuse) if p.is_tiled else None)
    yield "layers.unroll", with_plans(lambda p: replace(p, unroll=1))


def tiled_small(mapping: Mapping) -> Mapping:
    """The mapping with every tile cut, unevenly, along k and pixels: orders and reuse then have something to decide."""

    def smaller(plan: LayerPlan) -> LayerPlan:
        if not plan.is_tiled:
            return plan
        parts = []
        for part in plan.parts:
            tile = part.tile
            if tile is not None:
                tile = replace(tile, k=_some(tile.k), oy=_some(tile.oy), ox=_some(tile.ox))
            parts.append(replace(part, tile=tile))
        return replace(plan, parts=tuple(parts))

    return replace(mapping, layers={name: smaller(plan) for name, plan in mapping.layers.items()})


def _some(extent: int) -> int:
    """Some three fifths of it."""
    return (3 * extent + 4) // 5


def ignored_mapping_keys(names: Sequence[str]) -> list[str]:
    """`soc: key` of keys whose every change is taken, and gives the same program."""
    out = []
    for name in names:
        soc = find_soc(name)
        workload = batched(small(soc), 2)
        first = checked(named_mapping("default", workload, soc), workload, soc)
        bases = [first, tiled_small(first)]
        analog = [core for core in soc.cores if soc.cores[core].unrolls]
        if analog:
            on = {n.name: LayerPlan((Part(analog[0], n.k),)) for n in workload if not unsupported(n, soc, analog[0])}
            bases.append(checked(Mapping("m", "overlapped", on), workload, soc))
        fused = (Piece(("a", "b", "short", "sum")),)
        plain = {n: LayerPlan(tuple(replace(p, tile=None) for p in plan.parts)) for n, plan in first.layers.items()}
        pieces = [
            replace(first, runtime="overlapped", layers=layers, pieces=fused) for layers in (plain, bases[1].layers)
        ]
        seen: dict[str, set[str]] = {}
        for base in bases:
            for key, changed in edits(base, workload, soc):
                seen.setdefault(key, set()).update(_effect(one, base, workload, soc) for one in changed)
        for base in pieces:
            others = (replace(base.pieces[0], keep_rows=False), replace(base.pieces[0], resident=("a",)))
            for key, piece in zip(("pieces.keep_rows", "pieces.resident"), others, strict=True):
                effect = _effect(replace(base, pieces=(piece,)), base, workload, soc)
                seen.setdefault(key, set()).add(effect)
            alone = replace(base, pieces=())
            seen.setdefault("pieces", set()).add(_effect(alone, base, workload, soc))
        out += [f"{name}: {key}" for key, effects in seen.items() if "same" in effects and "other" not in effects]
    return out


def _effect(changed: Mapping, base: Mapping, workload: Workload, soc: SoC) -> str:
    """`other`: another program; `refused`; `same`: the key was taken, and did nothing."""
    try:
        before = digest(lower(workload, base, soc))
    except InputError:
        return "refused"
    try:
        after = digest(lower(workload, changed, soc))
    except InputError:
        return "refused"
    return "same" if before == after else "other"


# ------------------------------------------------------------------------------------------------- runs


class Runs:
    """Searches, and what they found; and whether `simulate` says the same of the files that they wrote."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.found = folder, dict[str, dict[str, Any]]()
        self.ratios: dict[str, float] = {}

    def record(self, name: str, begun: float, result: Result, space: str, again: Callable[[Path], Figures]) -> None:
        """Note a search: its best, the default beside it, the gap; and simulate every mapping that it wrote again."""
        content, best = result.content(), result.best
        for one in result.found:
            ratio = one.simulated.latency_s / again(self.folder / name / one.mapping).latency_s
            before = self.ratios.get(space, 1.0)
            self.ratios[space] = ratio if abs(ratio - 1) >= abs(before - 1) else before
        known = [one for one in result.found if one.known]
        default = min(known, key=lambda one: result.value(one.simulated), default=None)
        self.found[name] = {
            "objective": result.objective, "figures": best.simulated.plain(),
            "default": default.simulated.plain() if default else None,
            "times_better": result.value(default.simulated) / result.value(best.simulated) if default else None,
            "best": best.name, "gap": content["gap"], "seconds": time.monotonic() - begun,
        }  # fmt: skip
        print(f"{name:34} {self._told(name)}", flush=True)

    def _told(self, name: str) -> str:
        run = self.found[name]
        now, times = run["figures"], run.get("times_better")
        gain = f", {run['objective']} {times:.3f} x better than known before" if times else ""
        gap = "" if run["gap"] is None else f", gap {run['gap']:.2%}"
        return f"{now['latency_s'] * 1e3:.4g} ms, {now['energy_j'] * 1e3:.4g} mJ{gain}{gap}, {run['seconds']:.0f} s"

    def tiles(
        self, name: str, soc: SoC, workload: Workload, aim: str, budget_s: float, given: Mapping | None = None
    ) -> Result:
        begun = time.monotonic()
        start = given or named_mapping("default", workload, soc, "overlapped")
        config = TileConfig(soc, workload, start, aim, budget_s, out=self.folder / name, fusion=True)
        result = search_tiles(config, SILENT)
        self.record(
            name, begun, result, "tiles", lambda path: figures(soc, workload, load_mapping(path, workload, soc))
        )
        return result

    def trained(self, name: str, config: TrainingConfig) -> Result:
        begun = time.monotonic()
        result = search_trained(replace(config, out=self.folder / name), SILENT)
        network = load_workload(self.folder / name / "workload.yaml")

        def again(path: Path) -> Figures:
            return figures(config.soc, network, load_mapping(path, network, config.soc))

        self.record(name, begun, result, config.space, again)
        return result

    def splits(self, name: str, config: SplitConfig) -> Result:
        begun = time.monotonic()
        result = search_splits(replace(config, out=self.folder / name), SILENT)

        def again(path: Path) -> Figures:
            mapping = load_cluster_mapping(path, config.workload, config.cluster)
            seen = simulate_cluster(config.cluster, config.workload, mapping, config.engine, config.inferences).seen
            (mine,) = [one for one in result.found if self.folder / name / one.mapping == path]
            return replace(
                mine.simulated, latency_s=mine.simulated.latency_s * mine.simulated.throughput / seen.throughput
            )

        self.record(name, begun, result, "splits", again)
        return result

    def simulated(self, name: str, soc: SoC, workload: Workload) -> None:
        """A run without a search."""
        begun = time.monotonic()
        mapping = named_mapping("default", workload, soc, "overlapped")
        now = figures(soc, workload, mapping)
        self.found[name] = {"figures": now.plain(), "default": None, "best": "default", "gap": None,
                            "seconds": time.monotonic() - begun}  # fmt: skip
        print(f"{name:34} {self._told(name)}", flush=True)


def searches(runs: Runs, quick: bool) -> None:
    """The runs that were impossible before the house was one."""
    net = find_workload("resnet8" if quick else "resnet20")
    budget = 2.0 if quick else 60.0
    runs.tiles("diana by tiles and fusion", find_soc("diana"), net, "latency", budget)
    digits = TrainingConfig(
        find_soc("hetero"), "digits_cnn", strengths=(1.0,), epochs=2 if quick else 20, manual=("all_8bit",)
    )
    runs.trained("hetero by channels", digits)
    operators = TrainingConfig(
        find_soc("darkside"), "mobilenet_v1_025" if not quick else "dscnn", space="operators",
        data="digits", strengths=(1.0,), epochs=2 if quick else 8, train_images=256 if quick else 1000,
        manual=("half",),
    )  # fmt: skip
    chosen = runs.trained("darkside by operators", operators)
    network = load_workload(runs.folder / "darkside by operators" / "workload.yaml")
    given = load_mapping(runs.folder / "darkside by operators" / chosen.best.mapping, network, operators.soc)
    runs.tiles("darkside by operators, then tiles", operators.soc, network, "latency", budget, given)
    inner = runs.tiles("gemmini by tiles", find_soc("gemmini"), net, "edp", budget)
    tiled = load_mapping(runs.folder / "gemmini by tiles" / inner.best.mapping, net, find_soc("gemmini"))
    cluster = Cluster.model_validate({
        "name": "mixed", "devices": {"gemmini": {"soc": "gemmini"}, "diana": {"soc": "diana"}},
        "links": {"bus": {"kind": "pcie", "between": ["gemmini", "diana"], "bytes_per_s": 1_000_000_000,
                          "latency_ns": 1000, "burst_bytes": 4096}},
    })  # fmt: skip
    runs.splits(
        "gemmini and diana by splits, tiled",
        SplitConfig(cluster, net, 100 if quick else 1000, (1,), mappings={"gemmini": tiled}, latency=False),
    )
    for name in MIXED:
        for aim in ("peak", "edp") if quick else OBJECTIVES:
            runs.tiles(f"{name}, objective {aim}", find_soc(name), find_workload("digits_cnn"), aim, budget)
    for name in ("gemmini", "diana"):
        for n in (1, 8):
            runs.simulated(f"{name}, autoencoder, batch {n}", find_soc(name), batched(find_workload("autoencoder"), n))


def main() -> None:
    options = arguments(__doc__, seed=0).parse_args()
    state(0)
    begun = time.monotonic()
    socs = list_socs()
    chips = [name for name in socs if name in ("diana", "darkside", "gemmini", "hetero", "isaac", "rpi4")]
    nets = ("resnet8",) if options.quick else ("resnet8", "squeezenet")
    seams: dict[str, Any] = {
        "alone_over_cluster": alone_over_cluster(socs, find_workload("digits_cnn" if options.quick else "resnet8")),
        "dead_keys": [
            f"{name}: {key}" for name in (("rpi4",) if options.quick else socs) for key in Sweep(find_soc(name)).dead()
        ],
        "ignored_mapping_keys": ignored_mapping_keys(chips),
        "over_capacity": [
            over for name in chips for net in nets for runtime in ("serial", "overlapped")
            for over in over_capacity(name, net, runtime)  # type: ignore[arg-type]
        ],
        "same_tile_two_paths": same_tile_two_paths(),
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(Path(folder))
        searches(runs, options.quick)
    seams["result_over_simulation"] = runs.ratios
    worst = max(seams["alone_over_cluster"].values(), key=lambda ratio: abs(ratio - 1))
    print(f"alone over cluster: worst {worst:.9f}; result over simulation: {runs.ratios}")
    for key in ("dead_keys", "ignored_mapping_keys", "over_capacity"):
        print(f"{key}: {', '.join(seams[key]) or 'none'}")
    print(f"same tile, two paths: {seams['same_tile_two_paths']:.6f}; {time.monotonic() - begun:.0f} s")
    write_json(options.json, {"quick": options.quick, **seams, "runs": runs.found})


if __name__ == "__main__":
    main()
