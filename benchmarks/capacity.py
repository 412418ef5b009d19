"""Whether a memory ever holds more than it can: every built-in SoC and network that fits it, under both runtimes.

python benchmarks/capacity.py [SOC ...] [--quick] [--json FILE]
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from common import arguments, state, write_json

from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc, list_socs
from cosoc.sim.files.mapping_file import find_mapping
from cosoc.sim.files.names import list_workloads
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.model.mapping import RUNTIMES, Runtime
from cosoc.sim.report.memory_use import memory_use
from cosoc.sim.simulate import simulate

QUICK = ("resnet8", "bert_base_block")


def over_capacity(soc: str, network: str, runtime: Runtime, mapping: str = "default", inferences: int = 1) -> list[str]:
    """The memories that a run overfills, each with figure and bound. InputError where the SoC cannot run it."""
    machine, workload = find_soc(soc), find_workload(network)
    placed = find_mapping(mapping, workload, machine, runtime)
    result = simulate(machine, workload, placed, inferences=inferences)
    return [
        f"{soc} {network} {runtime}: {use.memory} holds {int(use.bytes.max())} of {use.capacity_bytes} bytes"
        for use in memory_use(result, machine, workload, placed)
        if use.bytes.max() > use.capacity_bytes
    ]


def sweep(socs: Iterable[str], networks: Iterable[str]) -> tuple[list[str], int]:
    """What is overfilled in all runs that a SoC takes, and how many these are."""
    out, runs = list[str](), 0
    for soc in socs:
        for network in networks:
            for runtime in RUNTIMES:
                try:
                    out += over_capacity(soc, network, runtime)
                except InputError:
                    continue
                runs += 1
    return out, runs


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("socs", nargs="*", default=list_socs(), help="SoCs by name or file; all built-in ones")
    args = parser.parse_args()
    state()
    found: dict[str, Any] = {}
    for soc in args.socs:
        over, runs = sweep([soc], QUICK if args.quick else list_workloads())
        found[soc] = {"runs": runs, "over_capacity": over}
        print(f"{soc:14} {runs:3} runs, {len(over)} over a capacity", *over, sep="\n    ", flush=True)
    write_json(args.json, found)
    sys.exit(any(figures["over_capacity"] for figures in found.values()))


if __name__ == "__main__":
    main()
