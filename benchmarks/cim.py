"""How far are the compute-in-memory chips from what is known of them: peaks, measured points, NeuroSim's results.

    python benchmarks/cim.py [--quick] [--json FILE]

Peaks of ISAAC and PUMA follow from the SoC files. NeuRRAM is compared with its measured points, its one fitted value
(the power) also fitted without each point. VGG-8 on the NeuroSim chip is simulated layer after layer and pipelined, its
layers at once on a stream of images; the same chip with another memory (nvCap) is held out but for its clock. What
copies of weights do is shown by taking NeuroSim's away and spending the tiles on copies of whole layers. The
eight layers of a run of NeuroSim V1.4 are simulated one by one, with the two bandwidths fitted to them, also without
each layer. There is no randomness, hence no seed; --quick changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from common import arguments, state, write_json
from rich.console import Console
from rich.table import Table

from cosoc.sim import exact
from cosoc.sim.cores.crossbar import peak
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.manual import named_mapping
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.tiles import make_tile
from cosoc.sim.model.workload import Layer
from cosoc.sim.pipelined import simulate_pipelined
from cosoc.sim.truth.cim import LAYERS, NEURRAM, PEAKS, VGG8, crossbar, layer, simulated, v14
from cosoc.sim.truth.cim import vgg8 as vgg8_run
from cosoc.sim.work import feed_ticks

# Copies of weights inside of a layer: NeuroSim's are up to 8, on a block of cells. Without them each layer has one.
SINGLE = {"cores.cim.most_copies": "1", "cores.cim.block_rows": "0", "cores.cim.block_cols": "0"}
RATES = [n / 2 for n in range(8, 49)]  # bytes a cycle, tried for each of the two links


def peaks() -> dict[str, dict[str, float]]:
    """TOPS and W of ISAAC and PUMA beside the papers'."""
    out = {}
    for name, (tops, watts) in PEAKS.items():
        soc = find_soc(name)
        p = peak(crossbar(soc), soc.tick_hz, soc.base_power_mw)
        out[name] = {"tops": p.ops_per_s / 1e12, "watts": p.watts, "gops_per_w": p.ops_per_joule / 1e9,
                     "paper_tops": tops, "paper_watts": watts}  # fmt: skip
    return out


def best_power(factors: Sequence[float]) -> float:
    """The factor whose largest deviation, up or down, from the given ones is smallest."""
    return 2 * max(factors) * min(factors) / (max(factors) + min(factors))


def neurram() -> list[dict[str, float]]:
    """Each measured point, and what the power fitted to the other two makes of its TOPS/W."""
    out: list[dict[str, float]] = []
    for bits_in, bits_out, tops, tops_w in NEURRAM:
        soc = find_soc("neurram", {"cores.cim.act_bits": str(bits_in), "cores.cim.adc_bits": str(bits_out)})
        p = peak(crossbar(soc), soc.tick_hz, soc.base_power_mw)
        out.append({"bits_in": bits_in, "bits_out": bits_out, "tops": p.ops_per_s / 1e12, "measured_tops": tops,
                    "tops_per_w": p.ops_per_joule / 1e12, "measured_tops_per_w": tops_w})  # fmt: skip
    for point in out:
        others = [q["tops_per_w"] / q["measured_tops_per_w"] for q in out if q is not point]
        point["left_out_tops_per_w"] = point["tops_per_w"] / best_power(others)
    return out


def vgg8() -> dict[str, dict[str, float]]:
    """VGG-8 on the NeuroSim chip, and on the same chip at nvCap's clock and leakage."""
    out = {}
    for name, (clock_ns, period_us, dynamic_uj, leak_mw) in VGG8.items():
        period, spent, latency = vgg8_run(clock_ns, leak_mw)
        out[name] = {"period_us": 1e6 * period, "neurosim_period_us": period_us, "energy_uj": 1e6 * spent,
                     "neurosim_energy_uj": dynamic_uj + leak_mw * 1e-3 * period_us,
                     "latency_us": 1e6 * latency}  # fmt: skip
    return out


def pipelines() -> list[dict[str, Any]]:
    """VGG-8, images a second: layer after layer, and pipelined with copies of weights of either kind."""
    network, out = find_workload("vgg8"), []
    cases: dict[str, tuple[str, dict[str, str], bool]] = {
        "NeuroSim's chip": ("neurosim_22nm", {}, True),
        "NeuroSim's chip, one copy of each": ("neurosim_22nm", SINGLE, False),
        "NeuroSim's chip, copies of whole layers": ("neurosim_22nm", SINGLE, True),
        "ISAAC, one copy of each": ("isaac", {}, False),
        "ISAAC, copies of whole layers": ("isaac", {}, True),
        "PUMA, one copy of each": ("puma", {}, False),
        "PUMA, copies of whole layers": ("puma", {}, True),
    }
    for what, (name, sets, copies) in cases.items():
        soc = find_soc(name, sets)
        result = simulate_pipelined(soc, network, named_mapping("all_8bit", network, soc), copies=copies)
        out.append({"what": what, "layer_after_layer_per_s": 1 / result.layer_after_layer_s,
                    "pipelined_per_s": result.throughput, "latency_us": 1e6 * result.latency_s,
                    "energy_uj": 1e6 * result.energy_j, "bottleneck": result.bottleneck,
                    "copies": {one.layer: one.copies for one in result.layers if one.copies > 1}})  # fmt: skip
    return out


def layer_of(row: Sequence[float]) -> Layer:
    inp, out, c, k, side, *_ = (int(value) for value in row[:5])
    return layer(inp, out, c, k, side)


def unloaded_us(row: Sequence[float], soc: SoC) -> float:
    """A layer's latency in closed form, which the simulator gives too where nothing else is under way."""
    one = layer_of(row)
    tile = make_tile(one, one.k, one.oy, one.ox)
    return 1e6 * int(crossbar(soc).cycles(tile, exact) + feed_ticks(tile, soc, crossbar(soc), exact)) / soc.tick_hz


def fit(rows: Sequence[int], table: dict[tuple[float, float], list[float]]) -> tuple[float, float]:
    """The pair of bandwidths with the least sum of squared logarithmic errors over the rows."""

    def miss(pair: tuple[float, float]) -> float:
        return sum(math.log(table[pair][i] / LAYERS[i][5]) ** 2 for i in rows)

    return min(table, key=miss)


def per_layer() -> dict[str, Any]:
    """The eight rows: with bandwidths fitted to all, to all others, and with the chip file's own."""
    socs = {(b, n): v14(b, n) for b in RATES[::4] for n in RATES[::4]}
    table = {pair: [unloaded_us(row, soc) for row in LAYERS] for pair, soc in socs.items()}
    everything = range(len(LAYERS))
    coarse = fit(everything, table)
    near = [(coarse[0] + a / 2, coarse[1] + b / 2) for a in range(-4, 5) for b in range(-4, 5)]
    table |= {p: [unloaded_us(row, v14(*p)) for row in LAYERS] for p in near if p not in table and min(p) > 0}
    best = fit(everything, table)
    runs = [(1e6 * s, 1e6 * j) for s, j in (simulated(layer_of(row), v14(*best)) for row in LAYERS)]
    scale = math.exp(sum(math.log(row[6] / uj) for row, (_, uj) in list(zip(LAYERS, runs, strict=True))[:7]) / 7)
    rows = []
    for i, (row, (us, uj)) in enumerate(zip(LAYERS, runs, strict=True)):
        without = table[fit([j for j in everything if j != i], table)][i]
        rows.append({"neurosim_us": row[5], "us": us, "left_out_us": without, "neurosim_uj": row[6], "uj": scale * uj})
    return {"tile_buffer_bytes_per_cycle": best[0], "h_tree_lane_bytes_per_cycle": best[1],
            "energy_scale": scale, "rows": rows}  # fmt: skip


def show(result: dict[str, Any]) -> None:
    table = Table("what", "ours", "published", "error", "left out")

    def add(what: str, ours: float, theirs: float, left_out: float | None = None) -> None:
        other = "" if left_out is None else f"{left_out / theirs - 1:+.1%}"
        table.add_row(what, f"{ours:.4g}", f"{theirs:.4g}", f"{ours / theirs - 1:+.1%}", other)

    for name, p in result["peaks"].items():
        add(f"{name}, TOPS", p["tops"], p["paper_tops"])
        add(f"{name}, W at that", p["watts"], p["paper_watts"])
    for p in result["neurram"]:
        what = f"NeuRRAM, {p['bits_in']} bit in, {p['bits_out']} out"
        add(f"{what}, TOPS", p["tops"], p["measured_tops"], p["tops"])
        add(f"{what}, TOPS/W", p["tops_per_w"], p["measured_tops_per_w"], p["left_out_tops_per_w"])
    for name, p in result["vgg8"].items():
        unseen = name != "rram"
        for key, unit in (("period", "us"), ("energy", "uJ")):
            value = p[f"{key}_{unit.lower()}"]
            add(f"VGG-8, {name}, {key} {unit}", value, p[f"neurosim_{key}_{unit.lower()}"], value if unseen else None)
    for i, row in enumerate(result["per_layer"]["rows"], 1):
        add(f"V1.4 layer {i}, us", row["us"], row["neurosim_us"], row["left_out_us"])
        add(f"V1.4 layer {i}, uJ", row["uj"], row["neurosim_uj"])
    Console(width=110).print(table)
    table = Table("VGG-8, images a second", "layer after layer", "pipelined", "us under way", "uJ", "copies")
    for one in result["pipelines"]:
        copies = ", ".join(f"{n}" for n in one["copies"].values())
        table.add_row(one["what"], f"{one['layer_after_layer_per_s']:,.0f}", f"{one['pipelined_per_s']:,.0f}",
                      f"{one['latency_us']:,.0f}", f"{one['energy_uj']:,.1f}", copies)  # fmt: skip
    Console(width=110).print(table)
    print(f"NeuroSim V1.5: {1e6 / VGG8['rram'][1]:,.0f} a second")


def main() -> None:
    options = arguments(__doc__).parse_args()
    state()
    result = {"quick": options.quick, "peaks": peaks(), "neurram": neurram(), "vgg8": vgg8(), "pipelines": pipelines(),
              "per_layer": per_layer()}  # fmt: skip
    show(result)
    found = result["per_layer"]
    print(f"V1.4: {found['tile_buffer_bytes_per_cycle']} and {found['h_tree_lane_bytes_per_cycle']} bytes a cycle")
    write_json(options.json, result)


if __name__ == "__main__":
    main()
