"""Do splits and tiles chosen together cost less than one after the other, over clusters?

    python benchmarks/joint_splits.py [--quick] [--json FILE]

Values are seconds between inferences, simulated in the steady state: of the fastest split, one inference at a time, one
device a stage, stages of consecutive layers.

- joint: each stage at its own best tiles and fused pieces, and the split that is fastest with these;
- first_then_second: the fastest split under the default tiles, then each of its stages at its best tiles;
- second_then_first: the fastest tiles of the whole network on each device, then the fastest split under these.

bound: no split in any tiles and pieces has less, by the estimate (the exact programme over the estimate's fronts,
before anything is simulated); joint_estimated: what the estimate says of the joint split. --quick takes the smallest
case. `benchmarks/joint.py` takes these cases in.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from common import arguments, state, write_json

from cosoc.search.exact.splits import Point, least_period
from cosoc.search.oracle import Oracle
from cosoc.search.spaces.split_space import ROUNDS, Span, SplitConfig, SplitSpace, drifted, replayed, span_of
from cosoc.search.spaces.split_tiles import TiledDevice
from cosoc.search.spaces.splits import Plan, evaluate
from cosoc.search.split_costs import Case, device_costs, device_mappings, make_case
from cosoc.sim.files.catalog import find_cluster
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.model.mapping import Mapping
from cosoc.sim.stages import StageFigures

INNER = ("tiles", "fusion")
INFERENCES = 200


@dataclass(frozen=True)
class Asked:
    """A cluster, a network, and whether it is among the quick ones."""

    cluster: str
    network: str
    quick: bool = False

    @property
    def name(self) -> str:
        """What a table calls it."""
        return f"{self.cluster}, {self.network}, splits+tiles+fusion, throughput"


CASES = (
    Asked("gemmini_4", "digits_cnn", quick=True),
    Asked("gemmini_4", "bert_base_block"),
    Asked("gemmini_4", "resnet50"),
    Asked("diana_gemmini", "resnet8"),
)


def cases(quick: bool) -> dict[str, dict[str, float]]:
    """By name: joint, first_then_second, second_then_first and bound (s), and joint_estimated."""
    return {one.name: measured(one) for one in CASES if one.quick or not quick}


def measured(asked: Asked) -> dict[str, float]:
    """The three ways of a case."""
    cluster, workload = find_cluster(asked.cluster), find_workload(asked.network)
    oracle = Oracle(cluster, workload, inferences=INFERENCES)
    space = SplitSpace(SplitConfig(cluster, workload, INFERENCES, (1,), replicate=False, latency=False, inner=INNER))
    tiled = space.cases[0]
    best = least_period(tiled.problem)

    def under(mappings: dict[str, Mapping]) -> Case:
        costs = device_costs(cluster, workload, device_mappings(cluster, workload, mappings))
        return make_case(cluster, workload, 1, costs=costs, cuts=tiled.cuts)

    joint, seconds = fastest(tiled, oracle)
    split, _ = fastest(under({}), oracle)
    first = replayed(tiled, Point(split, evaluate(tiled.problem, split)), oracle)
    end = tiled.problem.n_cuts - 1
    whole = {
        name: device.inside(tiled.cuts, 0, end, 0, 1)
        for name, device in tiled.devices.items() if isinstance(device, TiledDevice)
    }  # fmt: skip
    _, second_s = fastest(under(whole), oracle)
    return {
        "joint": seconds, "first_then_second": 1 / first.simulated.throughput, "second_then_first": second_s,
        "bound": best.costs.period_s, "joint_estimated": evaluate(tiled.problem, joint).period_s,
    }  # fmt: skip


def fastest(case: Case, oracle: Oracle) -> tuple[Plan, float]:
    """The fastest plan, sought until its stages are simulated ones, as `agreed_front` does for all of a front; of those
    met on the way the one whose stream is fastest, and its seconds between inferences."""
    known: dict[Span, StageFigures] = {}
    met: dict[Plan, float] = {}
    for _ in range(ROUNDS):
        plan = least_period(drifted(case.problem, known)).plan
        if plan in met:
            break
        seen = replayed(case, Point(plan, evaluate(case.problem, plan)), oracle)
        known |= {span_of(stage): one for stage, one in zip(plan, seen.stages, strict=True)}
        met[plan] = 1 / seen.simulated.throughput
    best = min(met, key=lambda plan: met[plan])
    return best, met[best]


def main() -> None:
    options = arguments(__doc__).parse_args()
    state()
    out = {}
    for one in (one for one in CASES if one.quick or not options.quick):
        begun = time.process_time()
        out[one.name] = found = measured(one)
        print(
            f"{one.name}: {found['joint']:.4g} s, first then second {found['first_then_second'] / found['joint']:.4f}, "
            f"second then first {found['second_then_first'] / found['joint']:.4f}; estimated over bound "
            f"{found['joint_estimated'] / found['bound']:.4f}; {time.process_time() - begun:.0f} s",
            flush=True,
        )
        write_json(options.json, out)


if __name__ == "__main__":
    main()
