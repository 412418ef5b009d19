"""CPU and GPU boards: published latencies of whole networks, one at a time.

device, runtime, network, ms, source, evidence
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources

from cosoc.sim.cores.roofline import Roofline, core_name
from cosoc.sim.files.catalog import find_soc, list_socs
from cosoc.sim.files.names import list_workloads
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.manual import named_mapping
from cosoc.sim.simulate import simulate
from cosoc.sim.truth.cells import one_of, positive
from cosoc.sim.truth.compared import Compared, TruthSet

COLUMNS = ("device", "runtime", "network", "ms", "source", "evidence")


def simulated_s(device: str, runtime: str, network: str) -> float:
    """Seconds of a network on a device file as it stands, under one of its runtimes."""
    soc = find_soc(device, {f"cores.{core_name(find_soc(device))}.runtime": runtime})
    workload = find_workload(network)
    return simulate(soc, workload, named_mapping("all_8bit", workload, soc)).seconds


def compare(rows: Sequence[Mapping[str, str]]) -> Iterator[Compared]:
    """Each row simulated on its device's file."""
    devices = tuple(name for name in list_socs() if core_name(find_soc(name)))
    for number, row in enumerate(rows, 1):
        device = one_of(row, number, "device", devices)
        core = find_soc(device).cores[str(core_name(find_soc(device)))]
        assert isinstance(core, Roofline)
        runtime = one_of(row, number, "runtime", tuple(core.runtimes))
        network = one_of(row, number, "network", list_workloads())
        seconds = 1e-3 * positive(row, number, "ms")
        yield Compared(f"{device}, {runtime}, {network}", seconds, simulated_s(device, runtime, network))


def latencies() -> tuple[dict[str, str], ...]:
    """The published latencies that come with cosoc."""
    text = resources.files("cosoc.sim.truth").joinpath("boards.csv").read_text(encoding="utf-8")
    return tuple(csv.DictReader(text.splitlines()))


SET = TruthSet(
    name="boards",
    unit="s",
    columns=COLUMNS,
    about="CPU and GPU boards: published latencies of whole networks of batch 1, each row with its source.",
    fitted="an efficiency for each class of operator and a kernel's overhead of each device, on these rows; "
    "`cosoc calibrate --measured` has the error of each row left out",
    claim_mape=0.073,
    compare=compare,
    built_in=latencies(),
)
