"""Does more of anything ever harm? Every bandwidth, port, lane, size and count of processors is raised, alone.

    python benchmarks/upgrades.py [SOC ...] [--quick] [--json FILE]

A key is doubled and quadrupled (those that divide, as `period_cycles`, halved), small networks are tiled anew and
simulated under both runtimes. Listed is what then takes more than 1 % longer than on the chip as shipped, with its
cause (`CAUSES`, each with the most that it may cost); what has none fails. Of each it is said whether the tiles of the
chip as shipped are slower on the larger one, too: if not, it is the choice of tiles that does worse, not the machine.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from common import arguments, state, write_json
from keys import Path, keys_of, with_values

from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc, list_socs
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.lower.emit import lower
from cosoc.sim.machine import engine_fast
from cosoc.sim.manual import DEFAULT, named_mapping
from cosoc.sim.model.mapping import RUNTIMES, Mapping
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import Workload
from cosoc.sim.tiler import checked

TOLERATED = 1.01
NETWORKS = ("resnet8", "dscnn", "mobilenet_v1_025")
# What is more when it is larger: of memories, links, movers and cores.
RAISED = {
    "size_bytes", "bytes_per_period", "ports", "lanes", "rows", "cols", "side", "cores", "channels", "fmas", "arrays",
    "rows_in_flight", "mvin_bytes", "l2_ways", "llc_ways", "bytes_per_cycle", "macs_per_cycle", "taps",
    "tiles_in_flight", "linear_inputs", "peak_macs_per_cycle",
}  # fmt: skip
LOWERED = {"period_cycles", "setup_cycles", "launch_cycles", "kernel_cycles", "dram_cycles", "llc_cycles"}


@dataclass(frozen=True)
class Cause:
    """Why raising a key may cost up to `most` times as much. key, workload: patterns."""

    key: str
    workload: str
    most: float
    why: str


CAUSES = (
    Cause(
        r"dmas\..*\.lanes", r".*", 1.03,
        "several lanes share the link burst by burst, so that a store which nobody waits for takes half of the rate "
        "from the load that the next job waits for; one lane brings them in the order in which they are needed",
    ),
    Cause(
        r"cores\.digital\.cols", r"mobilenet.*|dscnn", 2.5,
        "the filter of a depthwise channel is stored as a group of `cols` of which one is used, so that its weights "
        "grow with the array",
    ),
    Cause(
        r"cores\.gemmini\.side", r"mobilenet.*|dscnn", 4.0,
        "a depthwise channel uses one column, and a block takes `side` cycles at least to preload, so at most as many "
        "times as long as the side is larger",
    ),
    Cause(
        r"cores\.gemmini\.side", r"resnet8", 1.36,
        "a block takes `side` cycles at least to preload, and a layer of 16 or 32 channels has no more work for it",
    ),
    Cause(
        r"memories\.accumulator\.size_bytes", r"resnet8|mobilenet.*", 1.13,
        "the library fills half of the accumulator, whatever overlap that leaves: fewer and larger tiles wait longer "
        "for their loads (the tiles as shipped are as fast as before)",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Slower:
    """An upgrade that harms. times: of the chip as shipped; same_tiles: the same under its tiles, None where they are
    refused on the larger one."""

    soc: str
    key: str
    value: int
    workload: str
    runtime: str
    times: float
    same_tiles: float | None

    @property
    def cause(self) -> str:
        """Why that is so; empty where nothing is known that explains as much."""
        for cause in CAUSES:
            if re.fullmatch(cause.key, self.key) and re.fullmatch(cause.workload, self.workload):
                return cause.why if self.times <= cause.most else ""
        return ""

    def __str__(self) -> str:
        tiles = "refused" if self.same_tiles is None else f"{self.same_tiles:.3f} x"
        return (
            f"{self.soc}: {self.key} = {self.value}: {self.workload}, {self.runtime}, {self.times:.3f} x "
            f"(under the same tiles {tiles}): {self.cause or 'NO CAUSE KNOWN'}"
        )


def upgrades(soc: SoC) -> Iterator[tuple[Path, int]]:
    """Every single upgrade of a SoC: path and value."""
    for path, value in keys_of(soc):
        if isinstance(value, bool) or not isinstance(value, int) or not value:
            continue
        key = path[-1]
        others = (2 * value, 4 * value) if key in RAISED else (value // 2,) if key in LOWERED else ()
        yield from ((path, other) for other in others if other and other != value)


def seconds(soc: SoC, workload: Workload, mapping: Mapping) -> float:
    """Latency of one inference."""
    program = lower(workload, mapping, soc)
    return engine_fast.run(program).makespan / program.tick_hz


def slower_upgrades(soc: SoC, networks: Sequence[str] = NETWORKS) -> tuple[int, list[Slower]]:
    """How many upgrades were tried, and those that make a network more than 1 % slower."""
    tried, out = 0, []
    runs = []
    for name in networks:
        workload = find_workload(name)
        for runtime in RUNTIMES:
            try:
                mapping = checked(named_mapping(DEFAULT, workload, soc, runtime), workload, soc)
            except InputError:
                continue
            runs.append((workload, runtime, mapping, seconds(soc, workload, mapping)))
    for path, value in upgrades(soc):
        try:
            larger = with_values(soc, [(path, value)])
        except InputError:
            continue
        for workload, runtime, mapping, before in runs:
            tried += 1
            now = seconds(larger, workload, named_mapping(DEFAULT, workload, larger, runtime)) / before
            if now <= TOLERATED:
                continue
            try:
                same = seconds(larger, workload, mapping) / before
            except InputError:
                same = None
            out.append(Slower(soc.name, ".".join(map(str, path)), value, workload.name, runtime, now, same))
    return tried, out


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("socs", nargs="*", default=list_socs(), help="SoCs by name or file; all built-in ones")
    args = parser.parse_args()
    state()
    figures: dict[str, Any] = {}
    unexplained: list[Slower] = []
    for name in args.socs[:2] if args.quick else args.socs:
        start = time.monotonic()
        tried, found = slower_upgrades(find_soc(name), NETWORKS[:1] if args.quick else NETWORKS)
        print(f"{name:16} {tried:5} upgrades, {len(found)} slower, {time.monotonic() - start:.0f} s", flush=True)
        for one in found:
            print(f"    {one}", flush=True)
        figures[name] = {"tried": tried, "slower": [asdict(one) | {"cause": one.cause} for one in found]}
        unexplained += [one for one in found if not one.cause]
    write_json(args.json, figures)
    sys.exit(bool(unexplained))


if __name__ == "__main__":
    main()
