"""GAP9 held against its MLPerf Tiny submission: time and energy of whole networks at two operating points."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.manual import named_mapping
from cosoc.sim.simulate import simulate
from cosoc.sim.truth.cells import positive
from cosoc.sim.truth.compared import Compared, TruthSet

NETWORKS = {
    "anomaly_detection": "autoencoder",
    "keyword_spotting": "dscnn",
    "image_classification": "resnet8",
    "visual_wake_words": "mobilenet_v1_025",
}
POINT = re.compile(r"gap9_(\d+)_(\d+)")  # millivolts, megahertz
COLUMNS = ("operating_point", "benchmark", "inferences_per_s", "energy_uj")


def compare(rows: Sequence[Mapping[str, str]]) -> Iterator[Compared]:
    """Each row's network on every layer's default core, double-buffered, at the row's voltage and clock."""
    for number, row in enumerate(rows, 1):
        point, network = row["operating_point"], NETWORKS.get(row["benchmark"])
        label, found = f"{row['benchmark']}, {point}", POINT.fullmatch(point)
        if network is None:
            raise InputError(f"row {label}: column benchmark is none of {', '.join(NETWORKS)}")
        if found is None:
            raise InputError(f"row {label}: column operating_point must be gap9_MILLIVOLTS_MEGAHERTZ")
        per_s, energy_uj = (positive(row, number, column) for column in COLUMNS[2:])
        volts, hertz = int(found[1]) / 1000, int(found[2]) * 1_000_000
        soc = find_soc("gap9", {"voltage_v": str(volts), "clock_hz": str(hertz)})
        workload = find_workload(network)
        ours = simulate(soc, workload, named_mapping("all_8bit", workload, soc, "overlapped"))
        yield Compared(label, 1 / per_s, ours.seconds, 1e-6 * energy_uj, ours.energy_j)


SET = TruthSet(
    name="gap9_mlperf_tiny",
    unit="s",
    columns=COLUMNS,
    about="GAP9, MLPerf Tiny v1.0, closed division, at 0.65 V and 240 MHz and at 0.8 V and 370 MHz; published",
    fitted="the start of a layer, and four powers, on anomaly detection and keyword spotting at both points",
    claim_mape=0.05,
    compare=compare,
    built_in=(
        dict(zip(COLUMNS, ("gap9_650_240", "anomaly_detection", "3689.707", "5.252"), strict=True)),
        dict(zip(COLUMNS, ("gap9_650_240", "keyword_spotting", "1365.785", "18.561"), strict=True)),
        dict(zip(COLUMNS, ("gap9_800_370", "anomaly_detection", "5691.597", "7.294"), strict=True)),
        dict(zip(COLUMNS, ("gap9_800_370", "keyword_spotting", "2103.206", "26.659"), strict=True)),
    ),
)
