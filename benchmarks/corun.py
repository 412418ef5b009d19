"""Two networks at once on a GPU and a DLA: on the GPU alone, one on each, and by the best schedule that is found.

    python benchmarks/corun.py [A+B ...] [--handovers N] [--soc SOC] [--quick] [--json FILE]

One inference of each, released together; milliseconds until both have ended, simulated. The schedule is the fastest, in
the simulator, of the best few by costs that are calibrated on runs alone and on two runs at once, of which the first is
proven optimal (`search/exact/schedules.py`); what these costs say of it stands beside.
"""

from __future__ import annotations

import time
from itertools import groupby
from typing import Any

from common import arguments, state, write_json

from cosoc.search.exact.schedules import (
    Chain,
    Choice,
    best,
    calibrated,
    chain_of,
    simulated_s,
)
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.model.soc import SoC

PAIRS = ("googlenet+resnet18", "googlenet+googlenet", "resnet50+googlenet", "vgg19+resnet50")
QUICK = PAIRS[:1]
GROUPS, KEPT = 12, 6


def told(chain: Chain, choice: Choice) -> str:
    """`gpu to pool3, dla`: a choice in words."""
    parts, at = [], 0
    for engine, numbers in groupby(choice):
        at += len(list(numbers))
        parts.append(engine if at == len(choice) else f"{engine} to {chain.groups[at - 1][-1]}")
    return ", ".join(parts)


def pair(a: str, b: str, soc: SoC, handovers: int) -> dict[str, Any]:
    """The figures of two networks, s; gains are times over what they are compared to."""
    began = time.perf_counter()
    chains = [chain_of(find_workload(name), soc, GROUPS) for name in (a, b)]
    one, other = chains

    def whole(*engines: str) -> tuple[Choice, Choice]:
        first, second = ((engine,) * len(chain.groups) for chain, engine in zip(chains, engines, strict=True))
        return first, second

    gpu_only = simulated_s(one, other, whole("gpu", "gpu"), soc)
    naive = {engines: simulated_s(one, other, whole(*engines), soc) for engines in (("gpu", "dla"), ("dla", "gpu"))}
    wait = calibrated(one, other, soc)
    candidates = best(one, other, wait, handovers, KEPT)
    found = min((simulated_s(one, other, each.choices, soc), n, each) for n, each in enumerate(candidates))
    seconds, _, schedule = found
    return {
        "gpu_only_s": gpu_only,
        "naive_s": min(naive.values()),
        "naive": "gpu, dla" if naive["gpu", "dla"] <= naive["dla", "gpu"] else "dla, gpu",
        "schedule_s": seconds,
        "schedule_estimate_s": schedule.seconds,
        "optimum_estimate_s": candidates[0].seconds,
        "schedule": {f"{n + 1} {name}": told(chain, choice) for n, (name, chain, choice) in
                     enumerate(zip((a, b), chains, schedule.choices, strict=True))},
        "wait": wait,
        "gain_over_gpu": gpu_only / seconds,
        "gain_over_naive": min(naive.values()) / seconds,
        "wall_s": time.perf_counter() - began,
    }  # fmt: skip


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("pairs", nargs="*", metavar="A+B")
    parser.add_argument("--handovers", type=int, default=2, help="of each network, at most")
    parser.add_argument("--soc", default="agx_xavier_dla")
    given = parser.parse_args()
    state()
    soc, figures = find_soc(given.soc), dict[str, Any]()
    print(f"{'pair':24} {'GPU ms':>8} {'naive':>8} {'search':>8} {'est.':>8} {'over GPU':>9} {'over naive':>10}")
    for name in given.pairs or (QUICK if given.quick else PAIRS):
        a, _, b = name.partition("+")
        figures[name] = row = pair(a, b, soc, given.handovers)
        times = [1e3 * row[key] for key in ("gpu_only_s", "naive_s", "schedule_s", "schedule_estimate_s")]
        print(
            f"{name:24}",
            *(f"{ms:8.3f}" for ms in times),
            f"{row['gain_over_gpu']:8.2f}x {row['gain_over_naive']:9.2f}x",
        )
        print("   ", "; ".join(f"{network}: {how}" for network, how in row["schedule"].items()))
    write_json(given.json, {"soc": given.soc, "handovers": given.handovers, "pairs": figures})


if __name__ == "__main__":
    main()
