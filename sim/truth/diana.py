"""DIANA: what is public of its silicon, and what a schedule of the same chip is said to bring.

    label, workload, mapping, runtime, clock_hz, order, cycles, joules

order: `depth_first` runs the mapping as it stands, fused pieces included; `layer_by_layer` the same without them.
joules may be empty.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.mapping_file import find_mapping
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.model.mapping import RUNTIMES
from cosoc.sim.simulate import simulate
from cosoc.sim.truth.cells import one_of, positive, positive_or_none, reading, text
from cosoc.sim.truth.compared import Compared, Published, TruthSet

SILICON_CYCLES = 812_000  # measured; Stream's validation of DIANA, main_validation_diana_test.py
STREAM_CYCLES = 785_995  # Stream's own prediction, released code run
LAYER_BY_LAYER_CYCLES = 1_400_000  # second hand, a magazine: the same, layer by layer; depth first saves some 40 %
RESNET20_S, RESNET20_HZ = 1.26e-3, 250_000_000  # second hand, a table: first layer digital, the rest mainly analog
RESNET20_J = 11.6e-6  # the same table
ODIMO_CYCLES = 641_555  # ODiMO's released laws, summed over the segment's layers
SEGMENT = "ResNet-18 segment, depth-first"
PEERS = {SEGMENT: {"Stream": float(STREAM_CYCLES), "ODiMO": float(ODIMO_CYCLES)}}
ORDERS = ("depth_first", "layer_by_layer")

ROWS = (
    {"label": SEGMENT, "workload": "resnet18_segment", "mapping": "silicon", "runtime": "overlapped",
     "clock_hz": "260000000", "order": "depth_first", "cycles": str(SILICON_CYCLES), "joules": ""},
    # which layers of ResNet-20 are not analog is not said: here the first and the last
    {"label": "ResNet-20, CIFAR-10 (second-hand)", "workload": "resnet20", "mapping": "io_8bit_backbone_ternary",
     "runtime": "serial", "clock_hz": str(RESNET20_HZ), "order": "layer_by_layer",
     "cycles": str(round(RESNET20_S * RESNET20_HZ)), "joules": str(RESNET20_J)},
    {"label": "ResNet-18 segment, layer by layer (second-hand)", "workload": "resnet18_segment", "mapping": "silicon",
     "runtime": "overlapped", "clock_hz": "260000000", "order": "layer_by_layer",
     "cycles": str(LAYER_BY_LAYER_CYCLES), "joules": ""},
)  # fmt: skip


def compare(rows: Sequence[Mapping[str, str]]) -> Iterator[Compared]:
    """Each row simulated on `diana` at its clock: cycles, and joules where the row has them."""
    for number, row in enumerate(rows, 1):
        clock_hz = positive(row, number, "clock_hz")
        soc = find_soc("diana", {"tick_hz": str(round(clock_hz))})
        network, placed = text(row, number, "workload"), text(row, number, "mapping")
        with reading(number, "workload"):
            workload = find_workload(network)
        runtime = one_of(row, number, "runtime", RUNTIMES)
        with reading(number, "mapping"):
            mapping = find_mapping(placed, workload, soc, runtime)
        if one_of(row, number, "order", ORDERS) == "layer_by_layer":
            mapping = replace(mapping, pieces=())
        result = simulate(soc, workload, mapping)
        label = text(row, number, "label")
        joules = positive_or_none(row, number, "joules")
        yield Compared(
            label, positive(row, number, "cycles"), float(result.ticks), joules,
            None if joules is None else result.energy_j, PEERS.get(label, {}),
        )  # fmt: skip


SET = TruthSet(
    name="diana",
    unit="cycles",
    columns=("label", "workload", "mapping", "runtime", "clock_hz", "order", "cycles", "joules"),
    about="DIANA: one latency of silicon (Stream's validation), and two second-hand figures of the chip.",
    fitted="feed, unroll, off-chip link, launches and powers, jointly on all three",
    claim_mape=0.023,
    compare=compare,
    built_in=ROWS,
    published=(
        Published("Stream", 0.032, "its released code, run on the segment"),
        Published("ODiMO", 0.21, "its released laws, summed over the segment"),
    ),
)
