"""What a campaign spends its time on: simulations of fresh shares, tables of estimates, optima of tiles, first answers.

    python benchmarks/campaign_speed.py [--before DIR] [--quick] [--json FILE] [--seed N]

CPU seconds of one process each, on one thread. DIR is a checkout of another version, which does what it can of the same
(all but the table) in the same run; ratios are its seconds over ours.

- simulations: ResNet-8 on DIANA, overlapped, random shares, one after the other in one process by one oracle, after one
  that loads the engine. Its figures are compared between the versions, all of them.
- table: the estimate of share vectors of the same network, and how far it is from simulations of a sample.
- optimum: the proven optimum of tiles and fusion for the energy-delay product, with which a search of them begins.
  bound: no plan is better than its value over it; 1 is proven optimal.
- commands: `cosoc list`, and a first simulation, a process each.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from common import arguments, state, write_json

from cosoc.search.oracle import Oracle
from cosoc.search.sampling import random_shares
from cosoc.search.spaces.tiles import TileSpace
from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.manual import named_mapping
from cosoc.sim.model.mapping import LayerPlan, Mapping, Part

ROOT = Path(__file__).parent.parent
COMMANDS = {"list": ["list"], "simulate": ["simulate", "diana", "resnet8", "--quiet"]}
SMALL = ("resnet8", "resnet20", "digits_cnn", "dscnn", "autoencoder", "mobilenet_v1_025")
LARGE = ("resnet18", "mobilenet_v1", "mobilenet_v2", "vgg16", "squeezenet", "googlenet", "resnet50")
LARGEST = ("alexnet", "efficientnet_b0", "resnet152", "bert_base_block", "gpt3_block_prefill", "gpt3_block_decode",
           "vit_base", "vit_large")  # fmt: skip
OPTIMA = {
    "gemmini": ("resnet8", *LARGE, *LARGEST),
    "diana": (*SMALL, "resnet18", "mobilenet_v1", "mobilenet_v2"),
    "darkside": ("resnet8", "dscnn", "mobilenet_v1_025"),
}
COMPARED = {"diana": SMALL}  # with the version before
QUICK = {"gemmini": ("resnet8", "resnet18"), "diana": ("digits_cnn",)}


def simulations(number: int, seed: int) -> dict[str, Any]:
    """Simulate so many mappings of ResNet-8; seconds, and a digest of all their figures."""
    soc, workload, rng = find_soc("diana"), find_workload("resnet8"), np.random.default_rng(seed)

    def drawn() -> Mapping:
        bias = rng.dirichlet(np.ones(len(soc.cores))) + 1e-3
        shares = {layer.name: random_shares(layer, soc, rng, bias) for layer in workload if layer.op == "conv"}
        plans = {name: LayerPlan(tuple(Part(c, int(k)) for c, k in own.items() if k)) for name, own in shares.items()}
        return Mapping("fresh", "overlapped", plans)

    Oracle(soc, workload).simulate(drawn())
    mappings, oracle, found = [drawn() for _ in range(number)], Oracle(soc, workload), []
    start = time.process_time()
    found = [oracle.simulate(mapping) for mapping in mappings]
    spent = time.process_time() - start
    text = repr([(one.latency_s, one.energy_j, one.peak_bytes, one.throughput) for one in found])
    return {"number": number, "cpu_s": spent, "per_s": number / spent,
            "figures": hashlib.sha256(text.encode()).hexdigest()[:16]}  # fmt: skip


def optimum(chip: str, network: str) -> dict[str, Any]:
    """The optimum with which a search begins, for EDP."""
    soc, workload = find_soc(chip), find_workload(network)
    start = time.process_time()
    given = named_mapping("default", workload, soc, "overlapped")
    found = TileSpace(soc, workload, "edp", given).optimum_plan()
    return {"soc": chip, "workload": network, "layers": len(workload.layers), "cpu_s": time.process_time() - start,
            "bound": found.bound, "edp_j_s": found.value}  # fmt: skip


def optima(chip: str, networks: list[str]) -> list[dict[str, Any]]:
    """Several, each in this process, after a small one that loads the engine."""
    optimum(chip, "digits_cnn")
    out = []
    for network in networks:
        try:
            out.append(optimum(chip, network))
        except InputError as error:
            out.append({"soc": chip, "workload": network, "cannot": str(error)})
    return out


def table(number: int, checked: int, seed: int) -> dict[str, Any]:
    """A table of estimates of ResNet-8's shares on DIANA, drawn and checked."""
    from cosoc.search.share_table import checked_on, estimated, random_vectors

    soc, workload = find_soc("diana"), find_workload("resnet8")
    estimated(workload, soc, random_vectors(workload, soc, 2, seed))
    start = time.process_time()
    shares = random_vectors(workload, soc, number, seed)
    found = estimated(workload, soc, shares)
    spent = time.process_time() - start
    held = checked_on(workload, soc, shares, found, checked, "overlapped", seed)
    return {"vectors": number, "cpu_s": spent, "checked": asdict(held)}


def apart(folder: Path, *words: str) -> Any:
    """What this script finds when it is asked for one part, with the package of a folder."""
    environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).resolve()), "--part", *words]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def command_s(folder: Path, words: list[str], times: int) -> float:
    """CPU seconds of a command, the median of some runs after one that is not counted."""
    environment, spent = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}, []
    for _ in range(times + 1):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "cosoc", *words], env=environment, cwd=folder, check=True,
                       stdout=subprocess.DEVNULL)  # fmt: skip
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return median(spent[1:])


def part(words: list[str]) -> Any:
    """One part, as a process of its own is asked for it."""
    if words[0] == "simulations":
        return simulations(int(words[1]), int(words[2]))
    if words[0] == "table":
        return table(int(words[1]), int(words[2]), int(words[3]))
    return optima(words[1], words[2:])


def ratio(before: dict[str, Any] | None, ours: float) -> str:
    return (
        ""
        if before is None or "cpu_s" not in before
        else f", before {before['cpu_s']:.2f}: {before['cpu_s'] / ours:.1f} x"
    )


def main() -> None:
    parser = arguments(__doc__, seed=0)
    parser.add_argument("--before", type=Path, metavar="DIR", help="a checkout of the version to compare with")
    parser.add_argument("--part", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        print(json.dumps(part(options.part)))
        return
    state(options.seed)
    quick, seed, before = options.quick, str(options.seed), options.before and options.before.resolve()
    result: dict[str, Any] = {"quick": quick, "seed": options.seed}

    few, many = ("20", "60") if quick else ("100", "500")
    ours, old = apart(ROOT, "simulations", few, seed), before and apart(before, "simulations", few, seed)
    if old and old["figures"] != ours["figures"]:
        raise SystemExit("the two versions do not find the same figures")
    result["simulations"] = {"first": ours, "before": old, "many": apart(ROOT, "simulations", many, seed)}
    same = ", the same figures" if old else ""
    print(f"{few} simulations of fresh shares: {ours['per_s']:.0f} a CPU second{ratio(old, ours['cpu_s'])}{same}")
    print(f"{many}: {result['simulations']['many']['per_s']:.0f} a CPU second", flush=True)

    size = ("5000", "10") if quick else ("100000", "100")
    made = result["table"] = apart(ROOT, "table", *size, seed)
    held = made["checked"]
    print(f"{made['vectors']:,} share vectors estimated in {made['cpu_s']:.1f} CPU s; {held['vectors']} simulated:")
    print(
        f"  {held['latency_mape']:.2%} off, at most {held['latency_worst']:.2%}, rank {held['spearman']:.4f}",
        flush=True,
    )

    result["commands"] = {}
    for name, words in COMMANDS.items():
        one = {"cpu_s": command_s(ROOT, words, 1 if quick else 3)}
        was = {"cpu_s": command_s(before, words, 1 if quick else 3)} if before else None
        result["commands"][name] = one | {"before": was}
        print(f"cosoc {' '.join(words)}: {one['cpu_s']:.2f} CPU s{ratio(was, one['cpu_s'])}", flush=True)

    result["optimum"] = []
    for chip, networks in (QUICK if quick else OPTIMA).items():
        compared = [name for name in networks if before and name in COMPARED.get(chip, ())]
        earlier = dict(zip(compared, apart(before, "optima", chip, *compared) if compared else (), strict=True))
        for one in apart(ROOT, "optima", chip, *networks):
            was = earlier.get(one["workload"])
            result["optimum"].append(one | {"before": was})
            if "cannot" in one:
                print(f"{one['workload']} on {chip}: {one['cannot']}")
                continue
            if was and "edp_j_s" in was and abs(was["edp_j_s"] / one["edp_j_s"] - 1) > 1e-9:
                raise SystemExit(f"{one['workload']} on {chip}: the two versions find different optima")
            print(f"{one['workload']} on {chip}: optimum in {one['cpu_s']:.2f} CPU s, bound {one['bound']:.6f}"
                  f"{ratio(was, one['cpu_s'])}", flush=True)  # fmt: skip
    write_json(options.json, result)


if __name__ == "__main__":
    main()
