"""DIANA by four models and what is known of the chip: ours, ODiMO's, MATCH's, Stream's, and the silicon.

    python benchmarks/diana_models.py [--quick] [--json FILE]

Tables: all that is known of the chip as a whole, by the one set of figures in its file; the joint fit that gave this
set (feed, unroll, launches and off-chip link against three timings); single layers; and whole networks at both ends of
the feed's range. Published values come with their origin: "released code" was computed from formulas or run from the
tools released by the authors.
"""

from __future__ import annotations

import math
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
from cosoc.sim.simulate import figures, simulate
from cosoc.sim.truth.diana import (
    LAYER_BY_LAYER_CYCLES,
    RESNET20_HZ,
    RESNET20_J,
    RESNET20_S,
    SILICON_CYCLES,
    STREAM_CYCLES,
)

STREAM_ANALOG = {"64,64,3,56": 150_584}  # the same run: one 3x3 layer on the analog core
SAVED = 0.40
IMAGENET_TOPS_PER_W = 5.56  # chip paper (abstract); ResNet-18 is assumed
PEAK_TOPS_PER_W = {"digital": 14.0, "analog": 600.0}  # chip paper (abstract)
FEED = "links.analog_feed.bytes_per_period"
OFF_CHIP = "links.off_chip.bytes_per_period"
UNROLLS = "cores.analog.ox_unrolls"
LAUNCHES = tuple(f"cores.{core}.launch_cycles" for core in ("digital", "analog", "pool", "simd"))


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


def timings(overrides: dict[str, str], unroll: int) -> dict[str, float]:
    """Cycles of the segment depth first and layer by layer, and of ResNet-20, at so many pixels an operation."""
    soc = find_soc("diana", {UNROLLS: f"[{', '.join(map(str, range(1, unroll + 1)))}]"} | overrides)
    segment, net = find_workload("resnet18_segment"), find_workload("resnet20")
    silicon = find_mapping("silicon", segment, soc)
    layers = {name: replace(one, unroll=unroll) if one.unroll else one for name, one in silicon.layers.items()}
    silicon = replace(silicon, layers=layers)
    runs = {
        "depth_first": (segment, silicon),
        "layer_by_layer": (segment, replace(silicon, pieces=())),
        "resnet20": (net, find_mapping("io_8bit_backbone_ternary", net, soc, "serial")),
    }
    return {name: figures(soc, *run).latency_s * soc.tick_hz for name, run in runs.items()}


def fit_rows(quick: bool) -> list[dict[str, Any]]:
    """The joint fit: errors of the three timings for each set of figures, the best first."""
    known = {"depth_first": SILICON_CYCLES, "layer_by_layer": LAYER_BY_LAYER_CYCLES,
             "resnet20": RESNET20_S * RESNET20_HZ}  # fmt: skip
    rows = []
    for unroll in (1, 2):
        for feed in (8, 10) if quick else (6, 8, 10, 12, 16):
            for launch in (500,) if quick else (300, 500, 800):
                for off_chip in (16,) if quick else (1, 16, 32):
                    sets = {FEED: str(feed), OFF_CHIP: str(off_chip)} | dict.fromkeys(LAUNCHES, str(launch))
                    errors = {name: cycles / known[name] - 1 for name, cycles in timings(sets, unroll).items()}
                    mean = math.sqrt(sum(math.log1p(error) ** 2 for error in errors.values()) / len(errors))
                    rows.append({"ox_unroll": unroll, "feed": feed, "launch": launch, "off_chip": off_chip, **errors,
                                 "rms": mean})  # fmt: skip
    return sorted(rows, key=lambda row: float(row["rms"]))


def known_rows() -> list[dict[str, Any]]:
    """All that is known of the chip as a whole beside ours, by the file as it is."""
    soc, at_hz = find_soc("diana"), find_soc("diana", {"tick_hz": str(RESNET20_HZ)})
    cycles = timings({}, 1)
    cifar, imagenet = find_workload("resnet20"), find_workload("resnet18")
    mapping = "io_8bit_backbone_ternary"
    r20 = figures(at_hz, cifar, find_mapping(mapping, cifar, at_hz, "serial"))
    r18 = figures(soc, imagenet, find_mapping(mapping, imagenet, soc, "serial"))
    digital, analog = soc.cores["digital"], soc.cores["analog"]
    full = make_tile(Shape(128, 512, 3, 1).layer(), 512, 1, 1)
    peaks = {
        "digital": 2 * digital.rows * digital.cols * soc.tick_hz / (digital.power_mw * 1e9),  # type: ignore[attr-defined]
        "analog": 2 * full.c * full.k * 9 / float(analog.energy_pj(full, exact)),
    }
    saved = 1 - cycles["depth_first"] / cycles["layer_by_layer"]
    rows = [
        ("segment depth first, cycles", cycles["depth_first"], SILICON_CYCLES, "silicon"),
        ("segment layer by layer, cycles", cycles["layer_by_layer"], LAYER_BY_LAYER_CYCLES, "second hand"),
        ("time left of that depth first", 1 - saved, 1 - SAVED, "second hand"),
        ("ResNet-20 at 250 MHz, ms", r20.latency_s * 1e3, RESNET20_S * 1e3, "second hand"),
        ("ResNet-20, uJ", r20.energy_j * 1e6, RESNET20_J * 1e6, "second hand"),
        ("CIFAR-10 (ResNet-20), TOPS/W", 2e-12 * cifar.macs / r20.energy_j, 7.02, "chip paper"),
        ("ImageNet (ResNet-18), TOPS/W", 2e-12 * imagenet.macs / r18.energy_j, IMAGENET_TOPS_PER_W, "chip paper"),
        *((f"{core} array alone, TOPS/W", peaks[core], known, "chip paper") for core, known in PEAK_TOPS_PER_W.items()),
    ]
    return [{"what": what, "ours": ours, "known": known, "error": ours / known - 1, "evidence": evidence}
            for what, ours, known, evidence in rows]  # fmt: skip


def network_rows(quick: bool) -> list[dict[str, Any]]:
    """Manual mappings of whole networks, both runtimes, at both ends of the feed's range."""
    rows = []
    for name in ("resnet8",) if quick else ("resnet8", "resnet20", "mobilenet_v1_025"):
        workload = find_workload(name)
        for rate in (8, 16):
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
    known, fit = known_rows(), fit_rows(args.quick)
    layers, networks = layer_rows(find_soc("diana")), network_rows(args.quick)
    console = Console()
    columns = {"what": "s", "ours": ",.7g", "known": ",.7g", "error": "+.1%", "evidence": "s"}
    console.print(table("DIANA as a whole, by one set of figures", known, columns))
    columns = {"ox_unroll": "d", "feed": "d", "launch": "d", "off_chip": "d", "depth_first": "+.1%",
               "layer_by_layer": "+.1%", "resnet20": "+.1%", "rms": ".1%"}  # fmt: skip
    console.print(table("The joint fit, best and worst: errors of the timings", [*fit[:12], *fit[-2:]], columns))
    print(f"Stream's prediction of depth first: {STREAM_CYCLES:,} cycles, {STREAM_CYCLES / SILICON_CYCLES - 1:+.1%}")
    for core, others in (
        ("digital", ("odimo_digital", "match_digital")),
        ("analog", ("odimo_analog", "stream_analog")),
    ):
        keys = (f"{core}_array", *(["analog_feed_bytes"] if core == "analog" else []), f"{core}_simulated", *others)
        columns = {"layer": "s"} | dict.fromkeys(keys, ",.0f")
        console.print(table(f"Layers c,k,f,out on {core}, cycles", layers, columns))
    columns = {"network": "s", "mapping": "s", "runtime": "s", "feed": "d", "cycles": ",d", "ms": ".3f", "uj": ".2f",
               "odimo_cycles": ",.0f"}  # fmt: skip
    console.print(table("Networks", networks, columns))
    write_json(args.json, {"known": known, "fit": fit, "layers": layers, "networks": networks})


if __name__ == "__main__":
    main()
