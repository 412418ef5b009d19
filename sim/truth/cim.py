"""Crossbar chips: NeuroSim's own results, NeuRRAM's measured points, ISAAC's and PUMA's published peaks.

    kind, name, a, b, seconds, joules

Times are of an image, of a layer, or at a peak of 10^12 operations. kind and what a and b are:

    vgg8    a pipeline's period for an image; a: clock, ns; b: leakage, mW
    layer   a layer of NeuroSim V1.4; name: c,k,input side,output side,filter side
    point   NeuRRAM; a: input bits, b: output bits
    peak    name: the SoC
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from cosoc.sim.cores.crossbar import Crossbar, peak
from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.manual import named_mapping
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import INPUT, Layer, Workload
from cosoc.sim.pipelined import simulate_pipelined
from cosoc.sim.simulate import simulate
from cosoc.sim.truth.cells import one_of, positive, reading, refusal, text
from cosoc.sim.truth.compared import Compared, TruthSet

PEAKS = {"isaac": (41.3, 65.8), "puma": (52.3, 62.5)}  # 16 bit TOPS, W: the papers'; PUMA's W is recalled

# Input bits, output bits, TOPS, TOPS/W: Wan et al., Nature 2022, as digitised in CiMLoop's tests (d6e1390).
NEURRAM = ((1, 3, 2.12, 43.1), (2, 4, 1.79, 40.3), (3, 5, 1.17, 23.1))

# DNN+NeuroSim V1.5-dev's own committed outputs (cddb7d3) for VGG-8: clock ns, period us, dynamic uJ, leakage mW.
VGG8 = {"rram": (1.780, 95.42, 56.62, 5.48), "nvcap": (5.221, 252.4, 52.20, 5.80)}

# A run of NeuroSim V1.4 (ac828e6, RRAM, not pipelined, synthetic data): input and output side (it pads nothing), c, k,
# filter side; latency us, dynamic uJ.
LAYERS = (
    (32, 30, 3, 128, 3, 133.91, 1.274),
    (32, 30, 128, 128, 3, 133.23, 10.007),
    (16, 14, 128, 256, 3, 31.13, 4.373),
    (16, 14, 256, 256, 3, 53.07, 7.934),
    (8, 6, 256, 512, 3, 10.22, 2.922),
    (8, 6, 512, 512, 3, 18.68, 5.537),
    (1, 1, 8192, 1024, 1, 0.682, 0.546),
    (1, 1, 1024, 10, 1, 0.355, 0.002),
)
V14 = {"tick_hz": str(round(1e9 / 1.663)), "base_power_mw": "2.23"}
# Bytes a cycle of tile buffer and H-tree lane, and joules over the file's, all fitted to the eight layers
# (benchmarks/cim.py).
V14_FITTED = (9.5, 7.5)
V14_ENERGY = 0.810

ROWS = (
    *({"kind": "vgg8", "name": name, "a": str(clock), "b": str(leak), "seconds": str(us * 1e-6),
       "joules": str((dynamic + leak * 1e-3 * us) * 1e-6)} for name, (clock, us, dynamic, leak) in VGG8.items()),
    *({"kind": "layer", "name": f"{c},{k},{inp},{out},{side}", "a": "", "b": "", "seconds": str(us * 1e-6),
       "joules": str(uj * 1e-6)} for inp, out, c, k, side, us, uj in LAYERS),
    *({"kind": "point", "name": "neurram", "a": str(bits_in), "b": str(bits_out), "seconds": str(1 / tops),
       "joules": str(1 / per_w)} for bits_in, bits_out, tops, per_w in NEURRAM),
    *({"kind": "peak", "name": name, "a": "", "b": "", "seconds": str(1 / tops), "joules": str(watts / tops)}
      for name, (tops, watts) in PEAKS.items()),
)  # fmt: skip


def crossbar(soc: SoC) -> Crossbar:
    """The SoC's core of crossbars; InputError where it has none."""
    for core in soc.cores.values():
        if isinstance(core, Crossbar):
            return core
    raise InputError(f"{soc.name} has no core of crossbars")


def vgg8(clock_ns: float, leak_mw: float) -> tuple[float, float, float]:
    """VGG-8 on the NeuroSim chip, pipelined, at a clock and a leakage: period s, energy J of an image, and the latency,
    s, of one image layer after layer."""
    network = find_workload("vgg8")
    soc = find_soc("neurosim_22nm", {"tick_hz": str(round(1e9 / clock_ns)), "base_power_mw": str(leak_mw)})
    result = simulate_pipelined(soc, network, named_mapping("all_8bit", network, soc))
    return 1 / result.throughput, result.energy_j, result.layer_after_layer_s


def layer(inp: int, out: int, c: int, k: int, side: int) -> Layer:
    """A square convolution without padding."""
    return Layer("x", "conv", (INPUT,), k, c, out, out, inp, inp, side, side)


def v14(buffer: float, lane: float) -> SoC:
    """The NeuroSim chip as V1.4 has it, with two bandwidths in bytes a cycle, each a multiple of a half."""
    links = {"tile_buffer": buffer, "h_tree_lane": lane}
    rates = {f"links.{name}.bytes_per_period": str(round(2 * rate)) for name, rate in links.items()}
    return find_soc("neurosim_22nm", V14 | rates | {f"links.{name}.period_cycles": "2" for name in links})


def simulated(one: Layer, soc: SoC) -> tuple[float, float]:
    """A layer's latency, s, and the energy of its operations, J."""
    network = Workload("layer", (one.c, one.iy, one.ix), (one,), ("x",))
    result = simulate(soc, network, named_mapping("all_8bit", network, soc))
    return result.seconds, result.ops_energy_j


def at_peak(soc: SoC) -> tuple[float, float]:
    """Seconds and joules of 10^12 operations at the crossbars' peak."""
    p = peak(crossbar(soc), soc.tick_hz, soc.base_power_mw)
    return 1e12 / p.ops_per_s, 1e12 / p.ops_per_joule


def compare(rows: Sequence[Mapping[str, str]]) -> Iterator[Compared]:
    """Each row: its seconds and joules beside ours."""
    for number, row in enumerate(rows, 1):
        kind, name = one_of(row, number, "kind", ("vgg8", "layer", "point", "peak")), text(row, number, "name")
        label = f"{kind} {name}"
        if kind == "vgg8":
            label, (ours_s, ours_j, _) = f"VGG-8, {name}", vgg8(positive(row, number, "a"), positive(row, number, "b"))
        elif kind == "layer":
            label, sizes = f"V1.4 layer {name}", _sizes(number, name)
            ours_s, ours_j = simulated(layer(*sizes), v14(*V14_FITTED))
            ours_j *= V14_ENERGY
        elif kind == "point":
            bits = [str(round(positive(row, number, column))) for column in ("a", "b")]
            label = f"{name}, {bits[0]} bit in, {bits[1]} out"
            with reading(number, "name"):
                soc = find_soc(name, {"cores.cim.act_bits": bits[0], "cores.cim.adc_bits": bits[1]})
                ours_s, ours_j = at_peak(soc)
        else:
            label = f"{name}, peak"
            with reading(number, "name"):
                ours_s, ours_j = at_peak(find_soc(name))
        yield Compared(
            label, positive(row, number, "seconds"), ours_s, positive(row, number, "joules"), ours_j
        )  # fmt: skip


def _sizes(number: int, name: str) -> tuple[int, int, int, int, int]:
    words = name.split(",")
    if len(words) != 5 or not all(word.strip().isdecimal() for word in words):
        raise refusal(number, "name", name, "c,k,input side,output side,filter side are needed, such as 3,128,32,30,3")
    c, k, inp, out, side = (int(word) for word in words)
    return inp, out, c, k, side


SET = TruthSet(
    name="cim",
    unit="s",
    columns=("kind", "name", "a", "b", "seconds", "joules"),
    about="Crossbar chips: NeuroSim's results (a model's), NeuRRAM's measured points, ISAAC's and PUMA's peaks.",
    fitted="NeuroSim: two bandwidths and a scale of energies on the eight layers, the others on VGG-8 in RRAM; "
    "NeuRRAM: its power on the three points",
    claim_mape=0.064,
    compare=compare,
    built_in=ROWS,
)
