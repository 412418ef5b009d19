"""What a campaign spends its time on: simulations of fresh shares, tables of estimates, optima of tiles, first answers.

    python benchmarks/campaign_speed.py [--before DIR] [--quick] [--json FILE] [--seed N]

CPU seconds of one process each, on one thread. DIR is a checkout of another version, which does what it can of the same
(all but the table) in the same run; ratios are its seconds over ours.

- simulations: ResNet-8 on DIANA, overlapped, random shares, one after the other in one process by one oracle, after one
  that loads the engine. Its figures are compared between the versions, all of them.
- table: the estimate of share vectors of the same network, and how far it is from simulations of a sample.
- optimum: the proven optimum of tiles and fusion for the energy-delay product, with which a search of them begins.
  bound: no plan is better than its value over it; 1 is proven optimal.
- splits: a search over splits, one inference at a time and without replicas or the front with latency, of a cluster of
  twelve boards of which no two are alike; and a whole one, micro-batches and replicas included, over a cluster with
  crossbar chips.
- commands: `cosoc list`, and a first simulation, a process each.

Each part is written when it is done; one that the JSON file has already, by the same options, is kept.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from common import arguments, state, write_json

from cosoc.search.oracle import Oracle
from cosoc.search.sampling import random_shares
from cosoc.search.spaces.split_space import BATCHES, SplitConfig, search_splits
from cosoc.search.spaces.tiles import TileSpace
from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_cluster, find_soc
from cosoc.sim.files.workload_file import find_workload, list_workloads
from cosoc.sim.manual import named_mapping
from cosoc.sim.model.cluster import Cluster
from cosoc.sim.model.mapping import LayerPlan, Mapping, Part

ROOT = Path(__file__).parent.parent
COMMANDS = {"list": ["list"], "simulate": ["simulate", "diana", "resnet8", "--quiet"]}
SMALL = ("resnet8", "resnet20", "digits_cnn", "dscnn", "autoencoder", "mobilenet_v1_025")
OPTIMA = {
    "gemmini": list_workloads(),
    "diana": (*SMALL, "resnet18", "mobilenet_v1", "mobilenet_v2"),
    "darkside": ("resnet8", "dscnn", "mobilenet_v1_025"),
}
COMPARED = {"diana": SMALL}  # with the version before
BOARDS = ("atom_e3845", "jetson_nano", "rk3399", "rpi4", "rpi4_1t", "rpi5")  # each twice: one copies half as fast
COPIES = {"": 1_500_000_000, "_slow": 750_000_000}  # bytes a second
SPLITS = {"boards": ("resnet18", "resnet50"), "donna_hetero_cim": ("resnet50", "resnet152")}
SPLITS_BEFORE = ("boards", "resnet18")
SPLITS_QUICK = {"boards": ("vgg8",)}
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


def boards() -> Cluster:
    """Twelve boards that differ, on one switch."""
    devices = {
        name + suffix: {"soc": name, "message_ns": 150_000, "copy_bytes_per_s": rate}
        for name in BOARDS
        for suffix, rate in COPIES.items()
    }
    link = {"kind": "ethernet_switch", "between": list(devices), "bytes_per_s": 117_700_000, "latency_ns": 100_000,
            "burst_bytes": 1448}  # fmt: skip
    return Cluster.model_validate({"name": "boards", "devices": devices, "links": {"switch": link}})


def split(cluster: str, network: str) -> dict[str, Any]:
    """A search over splits."""
    workload, many = find_workload(network), cluster != "boards"
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        config = SplitConfig(find_cluster(cluster) if many else boards(), workload, 200, latency=False, replicate=many,
                             batches=BATCHES if many else (1,), out=Path(folder) / "run")  # fmt: skip
        found = search_splits(config, lambda done, total, what: None)
    return {"cluster": cluster, "workload": network, "points": sum(not one.known for one in found.found),
            "best_per_s": found.best.simulated.throughput, "cpu_s": time.process_time() - start}  # fmt: skip


def compared_splits(before: Path | None, quick: bool) -> list[dict[str, Any]]:
    """Searches over splits, one of them by both versions."""
    out = []
    for cluster, networks in (SPLITS_QUICK if quick else SPLITS).items():
        for network in networks:
            old = before if (cluster, network) == SPLITS_BEFORE else None
            was = apart(old, "split", cluster, network) if old else None
            out.append(apart(ROOT, "split", cluster, network) | {"before": was})
    return out


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
    if words[0] == "split":
        return split(words[1], words[2])
    return optima(words[1], words[2:])


def ratio(one: dict[str, Any]) -> str:
    """What the version before took for the same, in words."""
    was = one.get("before")
    return f", before {was['cpu_s']:.2f} s: {was['cpu_s'] / one['cpu_s']:.1f} x" if was else ""


def main() -> None:
    parser = arguments(__doc__, seed=0)
    parser.add_argument("--before", type=Path, metavar="DIR", help="a checkout of the version to compare with")
    parser.add_argument("--part", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        print(json.dumps(part(options.part)))
        return
    state(options.seed)
    before = options.before and options.before.resolve()
    result: dict[str, Any] = {"quick": options.quick, "seed": options.seed}
    if options.json and options.json.exists():
        known = json.loads(options.json.read_text())
        result = known if {key: known.get(key) for key in result} == result else result
    networks = QUICK if options.quick else OPTIMA
    size = ("5000", "10") if options.quick else ("100000", "50")
    parts: dict[str, Callable[[], Any]] = {
        "simulations": lambda: compared_simulations(before, options.quick, options.seed),
        "table": lambda: apart(ROOT, "table", *size, str(options.seed)),
        "commands": lambda: compared_commands(before, 1 if options.quick else 3),
    }
    parts["splits"] = lambda: compared_splits(before, options.quick)
    for chip in networks:
        parts[f"optimum_{chip}"] = functools.partial(compared_optima, before, chip, list(networks[chip]))
    for name, measured in parts.items():
        if name not in result:
            result[name] = measured()
            write_json(options.json, result)
    show(result)


def compared_simulations(before: Path | None, quick: bool, seed: int) -> dict[str, Any]:
    """Few by both versions, whose figures must agree, and many by ours."""
    few, many = ("20", "60") if quick else ("50", "500")
    ours, old = apart(ROOT, "simulations", few, str(seed)), before and apart(before, "simulations", few, str(seed))
    if old and old["figures"] != ours["figures"]:
        raise SystemExit("the two versions do not find the same figures")
    return {"first": ours | {"before": old}, "many": apart(ROOT, "simulations", many, str(seed))}


def compared_commands(before: Path | None, times: int) -> dict[str, Any]:
    """Each command by both versions."""
    out = {}
    for name, words in COMMANDS.items():
        was = {"cpu_s": command_s(before, words, times)} if before else None
        out[name] = {"cpu_s": command_s(ROOT, words, times), "before": was}
    return out


def compared_optima(before: Path | None, chip: str, networks: list[str]) -> list[dict[str, Any]]:
    """Optima on a chip; of some networks by both versions, which must find the same."""
    both = [name for name in networks if before and name in COMPARED.get(chip, ())]
    earlier = dict(zip(both, apart(before, "optima", chip, *both) if before and both else (), strict=True))
    out = []
    for one in apart(ROOT, "optima", chip, *networks):
        was = earlier.get(one["workload"])
        if was and abs(was["edp_j_s"] / one["edp_j_s"] - 1) > 1e-9:
            raise SystemExit(f"{one['workload']} on {chip}: the two versions find different optima")
        out.append(one | {"before": was})
    return out


def show(result: dict[str, Any]) -> None:
    """Print all parts."""
    for name, one in result["simulations"].items():
        print(f"{one['number']} simulations of fresh shares ({name}): {one['per_s']:.0f} a CPU second{ratio(one)}")
    made, held = result["table"], result["table"]["checked"]
    print(f"{made['vectors']:,} share vectors estimated in {made['cpu_s']:.1f} CPU s; {held['vectors']} simulated:")
    off, rank = f"{held['latency_mape']:.2%} off, at most {held['latency_worst']:.2%}", f"{held['spearman']:.4f}"
    print(f"  {off}, rank correlation {rank}")
    for name, one in result["commands"].items():
        print(f"cosoc {' '.join(COMMANDS[name])}: {one['cpu_s']:.2f} CPU s{ratio(one)}")
    for one in result["splits"]:
        what = f"{one['points']} points in {one['cpu_s']:.1f} CPU s{ratio(one)}"
        print(f"{one['workload']} split over {one['cluster']}: {what}")
    for one in (one for name, rows in result.items() if name.startswith("optimum_") for one in rows):
        what = one.get("cannot") or f"optimum in {one['cpu_s']:.2f} CPU s, bound {one['bound']:.6f}{ratio(one)}"
        print(f"{one['workload']} on {one['soc']}: {what}")


if __name__ == "__main__":
    main()
