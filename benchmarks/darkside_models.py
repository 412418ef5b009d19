"""Darkside by two models: our simulation and ODiMO's released law, the difference split by cause; and published peaks.

    python benchmarks/darkside_models.py [--quick] [--json FILE]

Blocks: the eight of MobileNetV1 (32 pixels, stem of stride 2) that ODiMO's released search space has, at three widths,
one by one, all convolution on the cluster, all depthwise on the engine, or half and half at once. Causes: each block is
simulated on machines that lack all but the law, and get one cause after the other back; what a cause adds is the
difference of two simulations, so that the causes sum to the whole (in another order shares would shift between causes,
not the sum; the JSON has also what each saves if it alone is taken away). Peaks: published, by law, simulated. Wide
layers: two at once, with the scratchpad divided as the tiler does and in halves, and in turn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from common import arguments, state, write_json
from rich.console import Console
from rich.table import Table

from cosoc.search.baselines.laws import UNITS_TEMPERATURE, cluster_cycles, engine_cycles
from cosoc.sim import exact
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.model.mapping import RUNTIMES, LayerPlan, Mapping, Part, Piece, Runtime
from cosoc.sim.model.soc import Memory, SoC
from cosoc.sim.model.tiles import make_tile, tiled
from cosoc.sim.model.workload import INPUT, Layer, Workload
from cosoc.sim.report.result import Result
from cosoc.sim.simulate import simulate
from cosoc.sim.tiler import best_tiling, homes_of

BLOCKS = ((32, 8), (64, 4), (128, 2), (256, 1))  # channels at x0.25, edge in pixels
REPEATS = {(128, 2): 5}  # blocks 7 to 11 are alike
WIDTHS = {0.25: 1, 0.5: 2, 1.0: 4}
KINDS = ("convolution", "depthwise", "half and half")
CONV, DEPTHWISE = "conv", "dw"
AT_ONCE = (Piece((CONV, DEPTHWISE), "parallel"),)

ENDLESS = Memory(size_bytes=1 << 30)
CAUSES = ("tiles", "DMA", "off-chip weights", "launches", "conflicts")

# Published (abstract of the chip paper); 290 MHz at 1.2 V is recalled.
DEPTHWISE_MACS, TWO_BIT_GOPS, FP16_GFLOPS, FULL_HZ = 30.0, 65.0, 18.2, 290e6


def machine(soc: SoC, causes: tuple[str, ...]) -> SoC:
    """The SoC with these causes of delay only. tiles: memories of the cores as large as they are, else endless;
    off-chip weights: the same of the main memory. DMA: transfers take time. launches, conflicts: as they say."""
    memories, links, dmas, cores = dict(soc.memories), dict(soc.links), dict(soc.dmas), dict(soc.cores)
    routes = soc.routes
    if "tiles" not in causes:
        memories |= {n: ENDLESS for n in memories if n not in (soc.main_memory, soc.backing_memory)}
    if "off-chip weights" not in causes:
        memories[soc.main_memory] = ENDLESS
    if (
        "DMA" not in causes
    ):  # a transfer is one burst over a link of its own, of one tick; twice that through the main memory
        links["free"] = links["axi"].model_copy(update={"bytes_per_period": 1 << 40, "ports": 2})
        free = {"setup_cycles": 0, "piece_cycles": 0, "burst_bytes": 1 << 30}
        dmas = {name: dma.model_copy(update=free) for name, dma in dmas.items()}
        routes = tuple(route.model_copy(update={"links": ("free",)}) for route in routes)
    if "launches" not in causes:
        cores = {name: core.model_copy(update={"launch_cycles": 0}) for name, core in cores.items()}
    if "conflicts" not in causes:
        links["tcdm"] = links["tcdm"].model_copy(update={"stretch": (1.0,)})
    parts = {"memories": memories, "links": links, "dmas": dmas, "cores": cores, "routes": routes}
    return soc.model_copy(update=parts)


@dataclass(frozen=True)
class Block:
    """A block of n channels in and out, on a square map."""

    n: int
    edge: int

    def convolution(self, k: int) -> Layer:
        return Layer(CONV, "conv", (INPUT,), k, self.n, self.edge, self.edge, self.edge, self.edge, 3, 3, 1, 1, 1, 1)

    def depthwise(self, k: int) -> Layer:
        size = self.edge
        return Layer(DEPTHWISE, "conv", (INPUT,), k, k, size, size, size, size, 3, 3, 1, 1, 1, 1, groups=k)

    def layers(self, kind: str) -> tuple[Layer, ...]:
        if kind == "half and half":
            return self.convolution(self.n // 2), self.depthwise(self.n - self.n // 2)
        return (self.convolution(self.n) if kind == "convolution" else self.depthwise(self.n),)


def run(soc: SoC, layers: tuple[Layer, ...], runtime: Runtime, pieces: tuple[Piece, ...] = ()) -> Result:
    """Simulate layers that all read the network's input, each on the core that its operator is for."""
    return simulate(soc, workload_of(layers), Mapping("block", runtime, shares_of(layers), pieces))


def workload_of(layers: tuple[Layer, ...]) -> Workload:
    """Layers beside each other."""
    first = layers[0]
    return Workload("block", (first.c, first.iy, first.ix), layers, tuple(layer.name for layer in layers))


def shares_of(layers: tuple[Layer, ...]) -> dict[str, LayerPlan]:
    """Each layer on the core that its operator is for."""
    cores = {layer.name: "depthwise_engine" if layer.depthwise else "cluster" for layer in layers}
    return {layer.name: LayerPlan((Part(cores[layer.name], layer.k),)) for layer in layers}


def in_halves(soc: SoC, layers: tuple[Layer, ...]) -> int:
    """Ticks of two layers at once, each with the best tiles for half of the scratchpad."""
    mapping = Mapping("halves", "overlapped", shares_of(layers), AT_ONCE)
    homes = homes_of(workload_of(layers), mapping, soc)
    half = Memory(size_bytes=soc.memories["tcdm"].capacity_bytes // 2)
    small = soc.model_copy(update={"memories": soc.memories | {"tcdm": half}})
    tiled = {
        layer.name: best_tiling(layer, given, small, "overlapped", homes)
        for layer in layers
        for given in [mapping.layers[layer.name]]
    }
    return simulate(soc, workload_of(layers), replace(mapping, layers=tiled)).ticks


def laws(layers: tuple[Layer, ...]) -> list[float]:
    """ODiMO's cycles of each layer."""
    return [float((engine_cycles if la.depthwise else cluster_cycles)(la, la.k)) for la in layers]


def combined(cycles: list[float]) -> float:
    """What ODiMO's cost has for branches at once: a softmax of temperature 1e7 over their cycles."""
    weights = [math.exp((one - max(cycles)) / UNITS_TEMPERATURE) for one in cycles]
    return sum(weight * one for weight, one in zip(weights, cycles, strict=True)) / sum(weights)


def block_row(soc: SoC, block: Block, kind: str, runtime: Runtime) -> dict[str, Any]:
    """One block: law, simulation, and the causes in between."""
    layers = block.layers(kind)
    groups = AT_ONCE if len(layers) > 1 else ()
    law = max(laws(layers))
    ladder = [run(machine(soc, CAUSES[:n]), layers, runtime, groups).ticks for n in range(len(CAUSES) + 1)]
    spared = {
        cause: ladder[-1] - run(machine(soc, tuple(c for c in CAUSES if c != cause)), layers, runtime, groups).ticks
        for cause in CAUSES
    }
    row: dict[str, Any] = {"n": block.n, "edge": block.edge, "kind": kind, "runtime": runtime, "law": law}
    row |= {"law_softmax": combined(laws(layers)), "array_and_feed": ladder[0], "simulated": ladder[-1]}
    row["added"] = {cause: b - a for cause, a, b in zip(CAUSES, ladder[:-1], ladder[1:], strict=True)}
    row["spared"] = spared
    if groups:
        alone = [run(soc, (layer,), runtime).ticks for layer in layers]
        row |= {"alone": alone, "in_turn": run(soc, layers, runtime).ticks}
    return row


def block_rows(soc: SoC, quick: bool) -> list[dict[str, Any]]:
    """All blocks, kinds and runtimes."""
    rows = []
    for width, factor in list(WIDTHS.items())[: 1 if quick else None]:
        for n, edge in BLOCKS:
            for kind in KINDS:
                for runtime in RUNTIMES if kind != "half and half" else RUNTIMES[1:]:
                    found = block_row(soc, Block(n * factor, edge), kind, runtime)
                    rows.append({"width": width, "count": REPEATS.get((n, edge), 1)} | found)
    return rows


def sums(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The eight blocks together, by width, kind and runtime."""
    out: list[dict[str, Any]] = []
    for key in dict.fromkeys((row["width"], row["kind"], row["runtime"]) for row in rows):
        mine = [row for row in rows if (row["width"], row["kind"], row["runtime"]) == key]
        total: dict[str, Any] = dict(zip(("width", "kind", "runtime"), key, strict=True))
        for name in ("law", "law_softmax", "array_and_feed", "simulated"):
            total[name] = sum(row[name] * row["count"] for row in mine)
        for name in ("added", "spared"):
            total[name] = {cause: sum(row[name][cause] * row["count"] for row in mine) for cause in CAUSES}
        if "alone" in mine[0]:
            total["sum_of_singles"] = sum(sum(row["alone"]) * row["count"] for row in mine)
            total["max_of_singles"] = sum(max(row["alone"]) * row["count"] for row in mine)
            total["in_turn"] = sum(row["in_turn"] * row["count"] for row in mine)
        out.append(total)
    return out


def peak_rows(quick: bool) -> list[dict[str, Any]]:
    """Published peaks, those of the laws on large layers, and simulated layers with their transfers, MAC a cycle."""
    rows = []
    soc = find_soc("darkside")
    for edge in (16, 32) if quick else (4, 8, 16, 32):
        layer = Block(64, edge).depthwise(64)
        rows.append(peak(f"depthwise, 64 channels, {edge}x{edge}", soc, "depthwise_engine", layer, DEPTHWISE_MACS))
    for bits in (8, 4, 2):
        set_bits = {f"cores.cluster.{key}_bits": str(bits) for key in ("weight", "act")}
        layer = pointwise(256, 256, 16)
        published = TWO_BIT_GOPS * 1e9 / 2 / FULL_HZ if bits == 2 else None
        rows.append(
            peak(f"SIMD of {bits} bit, 256 to 256, 16x16", find_soc("darkside", set_bits), "cluster", layer, published)
        )
    hidden = set_bits | {"cores.cluster.inner_cycles": "9", "cores.cluster.inner_loads": "1"}
    rows.append(peak("the same, loads beside products", find_soc("darkside", hidden), "cluster", layer, published))
    fp16 = FP16_GFLOPS * 1e9 / 2 / FULL_HZ
    rows.append(peak("FP16, 256 to 256, 16x16", soc, "tensor", pointwise(256, 256, 16), fp16))
    return rows


def pointwise(k: int, c: int, edge: int) -> Layer:
    return Layer(CONV, "conv", (INPUT,), k, c, edge, edge, edge, edge)


def peak(what: str, soc: SoC, core: str, layer: Layer, published: float | None) -> dict[str, Any]:
    """One peak: the law of a single job, and the layer as it runs."""
    model: Any = soc.cores[core]
    law = int(model.law(make_tile(layer, layer.k, layer.oy, layer.ox), exact))
    workload = Workload("peak", (layer.c, layer.iy, layer.ix), (layer,), (layer.name,))
    mapping = Mapping("peak", "overlapped", {layer.name: LayerPlan((Part(core, layer.k),))})
    ticks = simulate(soc, workload, mapping).ticks
    return {"what": what, "published": published, "law": layer.macs / law, "simulated": layer.macs / ticks}


WIDE = ((64, 16), (128, 16), (256, 16), (64, 8), (128, 8), (256, 8), (128, 32), (512, 8))  # channels, edge


def cut_by_hand(soc: SoC) -> dict[str, int]:
    """A convolution of 1,024 channels on one pixel, its input channels cut, which the tiler does only if it must."""
    layers = Block(1024, 1).layers("convolution")
    given = {CONV: tiled(layers[0], LayerPlan((Part("cluster", 1024),)), soc, (256,), 1, 1, c=12)}
    ticks = simulate(soc, workload_of(layers), Mapping("cut", "overlapped", given)).ticks
    return {"k": 256, "c": 12, "cut": ticks, "by_the_tiler": run(soc, layers, "overlapped").ticks}


def wide_rows(soc: SoC, quick: bool) -> list[dict[str, Any]]:
    """A convolution to a 16th, half or all of its channels beside a depthwise layer of them: at once, and in turn."""
    rows = []
    for n, edge in WIDE[: 2 if quick else None]:
        for f, k in ((1, n // 16), (1, n), (3, n // 2)):
            conv = Layer(CONV, "conv", (INPUT,), k, n, edge, edge, edge, edge, f, f, 1, 1, f // 2, f // 2)
            layers = conv, Block(n, edge).depthwise(n)
            alone = [run(soc, (layer,), "overlapped").ticks for layer in layers]
            in_turn = run(soc, layers, "overlapped").ticks
            at_once = run(soc, layers, "overlapped", AT_ONCE).ticks
            row: dict[str, Any] = {"convolution": f"{f}x{f}, {n} to {k}", "edge": edge, "max_of_singles": max(alone)}
            row |= {"halves": in_halves(soc, layers), "at_once": at_once}
            rows.append(row | {"in_turn": in_turn, "sum_of_singles": sum(alone)})
    return rows


def table(title: str, rows: list[dict[str, Any]], columns: dict[str, str]) -> Table:
    """Rows as a table; columns: key -> format. A missing figure is a dash."""
    out = Table(title=title)
    for key in columns:
        out.add_column(key.replace("_", " "), justify="left" if columns[key] == "s" else "right")
    for row in rows:
        flat = row | row.get("added", {})
        out.add_row(*("-" if flat.get(key) is None else format(flat[key], spec) for key, spec in columns.items()))
    return out


def main() -> None:
    args = arguments(__doc__).parse_args()
    state()
    blocks, peaks = block_rows(find_soc("darkside"), args.quick), peak_rows(args.quick)
    totals = sums(blocks)
    console = Console(width=160)
    figures = dict.fromkeys(("law", "array_and_feed", *CAUSES, "simulated"), ",.0f")
    console.print(table("Eight blocks, cycles", totals, {"width": "g", "kind": "s", "runtime": "s"} | figures))
    console.print(table("Blocks, cycles", blocks, {"n": "d", "edge": "d", "kind": "s", "runtime": "s"} | figures))
    at_once = [row for row in totals if "in_turn" in row]
    singles = dict.fromkeys(("law_softmax", "max_of_singles", "simulated", "in_turn", "sum_of_singles"), ",.0f")
    console.print(table("At once", at_once, {"width": "g"} | singles))
    console.print(
        table("Peaks, MAC a cycle", peaks, {"what": "s"} | dict.fromkeys(("published", "law", "simulated"), ".1f"))
    )
    cut = cut_by_hand(find_soc("darkside"))
    console.print(f"1,024 channels on one pixel: {cut['by_the_tiler']:,} cycles; input channels cut: {cut['cut']:,}")
    wide = wide_rows(find_soc("darkside"), args.quick)
    figures = dict.fromkeys(("max_of_singles", "halves", "at_once", "in_turn", "sum_of_singles"), ",.0f")
    console.print(table("Wide layers beside a depthwise one", wide, {"convolution": "s", "edge": "d"} | figures))
    write_json(args.json, {"blocks": blocks, "sums": totals, "peaks": peaks, "wide": wide, "cut": cut})


if __name__ == "__main__":
    main()
