"""GAP8 held against GreenWaves' table of MobileNets: time and energy of a frame."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.manual import named_mapping
from cosoc.sim.model.mobilenets import mobilenet
from cosoc.sim.simulate import simulate
from cosoc.sim.truth.cells import positive
from cosoc.sim.truth.compared import Compared, TruthSet

NAME = re.compile(r"MobileNet V([12]) (\d+) (\d+(?:\.\d+)?)")  # version, input size, width
COLUMNS = ("network", "fps", "energy_mj")


def compare(rows: Sequence[Mapping[str, str]]) -> Iterator[Compared]:
    """Each row's network on the cluster, double-buffered through L2 and L1."""
    soc = find_soc("gap8")
    for number, row in enumerate(rows, 1):
        found = NAME.fullmatch(row["network"])
        if found is None:
            what = "column network must read MobileNet V1|V2 INPUT_SIZE WIDTH"
            raise InputError(f"row {row['network']!r}: {what}")
        fps, energy_mj = (positive(row, number, column) for column in COLUMNS[1:])
        workload = mobilenet(int(found[1]), int(found[2]), float(found[3]))
        ours = simulate(soc, workload, named_mapping("all_8bit", workload, soc, "overlapped"))
        yield Compared(row["network"], 1 / fps, ours.seconds, 1e-3 * energy_mj, ours.energy_j)


SET = TruthSet(
    name="gap8_mobilenets",
    unit="s",
    columns=COLUMNS,
    about="GAP8 RevC, cluster at 175 MHz, 1.2 V: GreenWaves' published table of 2021, rounded there",
    fitted="inner_cycles, depthwise_cycles, two figures of the HyperRAM, two of energy, on 18 of its 33 rows",
    claim_mape=0.1,
    compare=compare,
    built_in=tuple(
        dict(zip(COLUMNS, row, strict=True))
        for row in (
            ("MobileNet V1 224 1.0", "2.1", "49.7"),
            ("MobileNet V1 160 0.75", "8.5", "13.3"),
            ("MobileNet V1 128 0.5", "23.8", "4.4"),
            ("MobileNet V1 224 0.25", "25.2", "4.4"),
            ("MobileNet V2 192 1.0", "4.7", "23.7"),
            ("MobileNet V2 96 0.75", "21.5", "4.7"),
        )
    ),
)
