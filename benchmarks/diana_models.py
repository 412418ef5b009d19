"""DIANA by four models and one measurement: ours, ODiMO's, MATCH's, Stream's, and the silicon.

    python benchmarks/diana_models.py [--quick] [--json FILE]

Three tables: single layers, the ResNet-18 segment that was measured (with the two parameters that public data leave
open swept), and whole networks under both ends of the open range. Published values come with their origin:
"released code" was computed from formulas or run from the tools released by the authors.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from common import arguments, state, write_json
from rich.console import Console
from rich.table import Table

from cosoc.search.baselines.laws import analog_cycles as odimo_analog
from cosoc.search.baselines.laws import digital_cycles as odimo_digital
from cosoc.sim import exact
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.mapping_file import find_mapping
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.manual import MANUAL, alone
from cosoc.sim.model.mapping import RUNTIMES, LayerPlan, Mapping, Part, Runtime
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.tiles import make_tile
from cosoc.sim.model.workload import INPUT, Layer, Workload
from cosoc.sim.simulate import simulate
from cosoc.sim.truth.diana import SILICON_CYCLES, STREAM_CYCLES

STREAM_ANALOG = {"64,64,3,56": 150_584}  # the same run: one 3x3 layer on the analog core
FEED = "links.analog_feed.bytes_per_period"


@dataclass(frozen=True)
class Shape:
    """A square convolution on a square map, "same" padding."""

    c: int
    k: int
    f: int
    out: int
    stride: int = 1

    def layer(self) -> Layer:
        size = self.out * self.stride
        pad = self.f // 2
        return Layer("conv", "conv", (INPUT,), self.k, self.c, self.out, self.out, size, size, self.f, self.f,
                     self.stride, self.stride, pad, pad)  # fmt: skip

    def __str__(self) -> str:
        return f"{self.c},{self.k},{self.f},{self.out}" + (f"/{self.stride}" if self.stride > 1 else "")


SHAPES = (
    Shape(64, 64, 3, 16),
    Shape(64, 64, 3, 56),
    Shape(128, 128, 3, 16),
    Shape(16, 16, 3, 32),
    Shape(128, 512, 3, 16),
    Shape(3, 64, 7, 112, 2),
)


def match_digital(layer: Layer) -> int:
    """MATCH's digital compute law: blocks of 256 outputs, refill and start a block, filter rows on padding spared."""
    pad, cycles = layer.pad_y, 0
    for p in range(pad + 1):
        outputs = layer.k * layer.ox * (layer.oy - 2 * pad if p == 0 else 2)
        rows = layer.fy - p
        cycles += -(-outputs // 256) * (layer.c * rows * layer.fx + 2 * layer.c * rows + 23)
    return cycles


def layer_rows(soc: SoC) -> list[dict[str, Any]]:
    """Each shape on each core: our array and feed cycles, our simulated serial layer, and the published laws."""
    rows = []
    for shape in SHAPES:
        layer = shape.layer()
        workload = alone(Workload("layer", (layer.c, layer.iy, layer.ix), (layer,), ("conv",)), layer)
        tile = make_tile(layer, layer.k, layer.oy, layer.ox)
        row: dict[str, Any] = {"layer": str(shape), "macs": layer.macs}
        for name in ("digital", "analog"):
            core = soc.cores[name]
            row[f"{name}_array"] = int(core.cycles(tile, exact))
            row[f"{name}_feed_bytes"] = int(core.feed_bytes(tile, exact))
            mapping = Mapping(name, "serial", {"conv": LayerPlan((Part(name, layer.k),))})
            row[f"{name}_simulated"] = simulate(soc, workload, mapping).ticks
        row["odimo_digital"] = float(odimo_digital(layer, layer.k))
        row["odimo_analog"] = float(odimo_analog(layer, layer.k))
        row["match_digital"] = match_digital(layer)
        row["stream_analog"] = STREAM_ANALOG.get(str(shape))
        rows.append(row)
    return rows


def segment_rows(quick: bool) -> list[dict[str, Any]]:
    """The measured segment as the feed rate and the unroll are swept."""
    workload = find_workload("resnet18_segment")
    rows = []
    for unroll in (1, 2):
        for rate in (8, 64) if quick else (6, 7, 8, 10, 12, 16, 32, 64):
            soc = find_soc("diana", {FEED: str(rate)})
            silicon = find_mapping("silicon", workload, soc)
            layers = {
                name: replace(given, unroll=unroll) if given.unroll else given for name, given in silicon.layers.items()
            }
            ticks = simulate(soc, workload, replace(silicon, layers=layers)).ticks
            rows.append({"ox_unroll": unroll, "feed": rate, "cycles": ticks, "error": ticks / SILICON_CYCLES - 1})
    return rows


def network_rows(quick: bool) -> list[dict[str, Any]]:
    """Manual mappings of whole networks, both runtimes, at the fitted feed rate and at the port's full rate."""
    rows = []
    for name in ("resnet8",) if quick else ("resnet8", "resnet20", "mobilenet_v1_025"):
        workload = find_workload(name)
        for rate in (8, 64):
            soc = find_soc("diana", {FEED: str(rate)})
            for runtime in RUNTIMES:
                for manual in MANUAL:
                    rows.append(network_row(soc, workload, manual, runtime, rate))
    return rows


def network_row(soc: SoC, workload: Workload, manual: str, runtime: Runtime, rate: int) -> dict[str, Any]:
    """One network under one mapping: simulated, and ODiMO's sum over layers of the slower core."""
    mapping = find_mapping(manual, workload, soc, runtime)
    result = simulate(soc, workload, mapping)
    odimo = 0.0
    for layer in workload:
        given = mapping.layers[layer.name]
        if layer.op == "conv":
            odimo += max(
                float(odimo_digital(layer, given.channels_on("digital"))),
                float(odimo_analog(layer, given.channels_on("analog"))),
            )
    return {
        "network": workload.name, "mapping": manual, "runtime": runtime, "feed": rate, "cycles": result.ticks,
        "ms": result.seconds * 1e3, "uj": result.energy_j * 1e6, "odimo_cycles": odimo,
    }  # fmt: skip


def table(title: str, rows: list[dict[str, Any]], columns: dict[str, str]) -> Table:
    """Rows as a table; columns: key -> format."""
    out = Table(title=title)
    for key in columns:
        out.add_column(key.replace("_", " "), justify="left" if columns[key] == "s" else "right")
    for row in rows:
        out.add_row(*("-" if row[key] is None else format(row[key], spec) for key, spec in columns.items()))
    return out


def main() -> None:
    args = arguments(__doc__).parse_args()
    state()
    layers, segment, networks = layer_rows(find_soc("diana")), segment_rows(args.quick), network_rows(args.quick)
    console = Console()
    for core, others in (
        ("digital", ("odimo_digital", "match_digital")),
        ("analog", ("odimo_analog", "stream_analog")),
    ):
        keys = (f"{core}_array", *(["analog_feed_bytes"] if core == "analog" else []), f"{core}_simulated", *others)
        columns = {"layer": "s"} | dict.fromkeys(keys, ",.0f")
        console.print(table(f"Layers c,k,f,out on {core}, cycles", layers, columns))
    columns = {"ox_unroll": "d", "feed": "d", "cycles": ",d", "error": "+.1%"}
    console.print(table(f"ResNet-18 segment, measured {SILICON_CYCLES:,} cycles", segment, columns))
    print(f"Stream's prediction: {STREAM_CYCLES:,} cycles, {STREAM_CYCLES / SILICON_CYCLES - 1:+.1%}")
    columns = {"network": "s", "mapping": "s", "runtime": "s", "feed": "d", "cycles": ",d", "ms": ".3f", "uj": ".2f",
               "odimo_cycles": ",.0f"}  # fmt: skip
    console.print(table("Networks", networks, columns))
    write_json(args.json, {"layers": layers, "segment": segment, "networks": networks})


if __name__ == "__main__":
    main()
