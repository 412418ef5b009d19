"""What is it worth to use all cores of a chip, and how far from the best is the mapping that does?

    python benchmarks/mapped.py [--quick] [--json FILE] [--resume]

Chips with two and four equal arrays (`own_arrays.py`) and those of the catalogue where several cores can take a
layer in the same numbers; on DIANA `min_cost`, whose ternary array computes in others. Beside the default: every layer
on its default core (`all_8bit`: the default of before), the best of all layers on one kind of core, and, for small
networks, the best of all divisions in steps of 16 channels, by simulation. `compute`: the seconds in which the cores
would be done if they did nothing but compute, each layer divided over all of them to the fraction, layers that can run
at once at once (a linear programme); what moves and what is launched comes on top. CPU: processor time of choosing, one
thread.
"""

from __future__ import annotations

import itertools
import json
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from common import arguments, state, write_json
from own_arrays import arrays
from scipy.optimize import linprog

from cosoc.sim.errors import InputError
from cosoc.sim.figures import objective
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.manual import named_mapping
from cosoc.sim.model.mapping import LayerPlan, Mapping, Part, Runtime
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import Workload
from cosoc.sim.price import Simulated
from cosoc.sim.simulate import engine_run, figures
from cosoc.sim.tiler import TilingCache, homes_of, with_parts
from cosoc.sim.ways import Ways, cores_for

STEP = 16  # channels, of enumeration
MOST = 4000  # networks that an enumeration simulates


@dataclass(frozen=True)
class Case:
    """A chip by name, a network, what is to be small. mapping: whose choice is looked at."""

    soc: str
    network: str
    objective: str = "latency"
    runtime: Runtime = "overlapped"
    mapping: str = "default"
    enumerated: bool = False
    quick: bool = False


CASES = (
    Case("arrays2", "digits_cnn", enumerated=True, quick=True),
    Case("arrays2", "digits_cnn", "energy", enumerated=True),
    Case("arrays2", "digits_cnn", "edp", enumerated=True),
    Case("diana", "digits_cnn", mapping="min_cost", enumerated=True, quick=True),
    Case("diana", "digits_cnn", "energy", mapping="min_cost", enumerated=True),
    *(Case("arrays2", "resnet8", aim, quick=aim == "latency") for aim in ("latency", "energy", "edp")),
    *(Case("arrays4", "resnet8", aim) for aim in ("latency", "energy", "edp")),
    *(Case(soc, net) for soc in ("arrays2", "arrays4", "arrays4_wide4") for net in ("mobilenet_v1_025", "resnet18")),
    Case("arrays4_wide4", "resnet50"),
    Case("arrays4_wide4", "squeezenet"),
    *(Case("gap9", net, runtime=runtime, quick=net == "resnet8") for net in ("resnet8", "dscnn", "mobilenet_v1_025")
      for runtime in ("serial", "overlapped")),
    *(Case("darkside", net, runtime=runtime) for net in ("dscnn", "mobilenet_v1_025")
      for runtime in ("serial", "overlapped")),
    *(Case("hetero", net, quick=net == "digits_cnn") for net in ("digits_cnn", "resnet8")),
    *(Case("agx_orin_dla", net, aim) for net, aim in (("googlenet", "latency"), ("googlenet", "energy"),
      ("resnet50", "latency"), ("resnet50", "edp"))),
    Case("agx_xavier_dla", "googlenet"),
    *(Case("diana", net, aim, mapping="min_cost") for net in ("resnet8", "resnet18") for aim in ("latency", "energy")),
)  # fmt: skip


def chip(name: str) -> SoC:
    """By name: of the catalogue, or arraysN, arraysN_wideM."""
    if not name.startswith("arrays"):
        return find_soc(name)
    n, _, wide = name.removeprefix("arrays").partition("_wide")
    return arrays(int(n), int(wide or 1))


def pure(case: Case, soc: SoC, net: Workload) -> dict[str, Mapping]:
    """All layers that can be on each core, the others on their first."""
    cores = {layer.name: [part.core for part in cores_for(layer, soc, case.mapping == "min_cost")] for layer in net}
    out = {}
    for core in dict.fromkeys(itertools.chain(*cores.values())):
        plans = {n: LayerPlan((Part(core if core in own else own[0], net[n].k),)) for n, own in cores.items()}
        out[core] = Mapping(core, case.runtime, plans)
    return out


def enumerated(case: Case, soc: SoC, net: Workload) -> tuple[float, int]:
    """The least value of all divisions of all layers over their cores in steps, and how many there are."""
    aim, simulated = objective(case.objective), Simulated(soc, engine_run("fast"))
    options = []
    for layer in net:
        cores = [part.core for part in cores_for(layer, soc, case.mapping == "min_cost")]
        rests = itertools.product(*(range(0, layer.k + STEP, STEP) for _ in cores[1:]))
        each = [(layer.k - sum(rest), *rest) for rest in rests if sum(rest) <= layer.k]
        each += [(0, layer.k)] if len(cores) == 2 and layer.k % STEP else []
        options.append([LayerPlan(tuple(Part(c, k) for c, k in zip(cores, own, strict=True) if k)) for own in each])
    count = int(np.prod([len(own) for own in options]))
    assert count <= MOST, f"{count} divisions of {net.name}"
    names, found = [layer.name for layer in net], float("inf")
    for plans in itertools.product(*options):
        mapping = Mapping("any", case.runtime, dict(zip(names, plans, strict=True)))
        found = min(found, float(aim(simulated.figures(mapping, net))))
    return found, count


def compute_s(case: Case, soc: SoC, net: Workload) -> float:
    """Seconds of arithmetic alone, as the module's docstring has it."""
    mapping = with_parts(Mapping("any", case.runtime), net, soc)
    ways = Ways(net, soc, case.runtime, homes_of(net, mapping, soc), case.mapping == "min_cost", TilingCache())
    busy = []
    for i, layer in enumerate(net):
        found = {part.core: ways.price(layer, (part,)) for part in ways.open[i]}
        busy.append({core: one[2].get(core, 0.0) for core, one in found.items() if one is not None})
    runs, at = list[tuple[int, int]](), 0
    windows = ways.windows()
    while at < len(busy):
        end = at + 1
        while any(first < end < last for first, last in windows if first >= at):
            end = max(last for first, last in windows if first >= at and first < end)
        runs.append((at, end))
        at = end
    return sum(_least(busy[first:end]) for first, end in runs) / soc.tick_hz


def _least(busy: list[dict[str, float]]) -> float:
    """Ticks in which unrelated cores are done with layers that may be divided to the fraction."""
    cores = list(dict.fromkeys(core for own in busy for core in own))
    at = {(i, core): n for n, (i, core) in enumerate((i, core) for i, own in enumerate(busy) for core in own)}
    less, equal = np.zeros((len(cores), len(at) + 1)), np.zeros((len(busy), len(at) + 1))
    for (i, core), n in at.items():
        less[cores.index(core), n], equal[i, n] = busy[i][core], 1.0
    less[:, -1] = -1.0
    aim = np.zeros(len(at) + 1)
    aim[-1] = 1.0
    found = linprog(aim, less, np.zeros(len(cores)), equal, np.ones(len(busy)))
    return float(found.fun)


def run(case: Case) -> dict[str, Any]:
    """The figures of a case."""
    soc, net, aim = chip(case.soc), find_workload(case.network), objective(case.objective)
    start = time.process_time()
    mapping = named_mapping(case.mapping, net, soc, case.runtime, case.objective)
    cpu_s = time.process_time() - start
    found = figures(soc, net, mapping)
    before = figures(soc, net, named_mapping("all_8bit", net, soc, case.runtime))
    alone = dict[str, float]()
    for core, one in pure(case, soc, net).items():
        try:
            alone[core] = float(aim(figures(soc, net, one)))
        except InputError:
            continue
    out = asdict(case) | {
        "first_latency_s": before.latency_s, "first_energy_j": before.energy_j,
        "latency_s": found.latency_s, "energy_j": found.energy_j,
        "gain_over_first": 1 - float(aim(found)) / float(aim(before)),
        "gain_over_one_core": 1 - float(aim(found)) / min(alone.values()),
        "split_layers": sum(len(plan.parts) > 1 for plan in mapping.layers.values()), "pieces": len(mapping.pieces),
        "cpu_s": cpu_s, "compute_s": compute_s(case, soc, net) if case.objective == "latency" else None,
    }  # fmt: skip
    if case.enumerated:
        least, count = enumerated(case, soc, net)
        out |= {"divisions": count, "over_enumeration": float(aim(found)) / least - 1}
    return out


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    bound = f"{row['compute_s'] * 1e3:10.4f}" if row["compute_s"] is not None else " " * 10
    every = f"{row['over_enumeration']:+.2%} of {row['divisions']}" if row["enumerated"] else ""
    return (
        f"{row['soc']:14} {row['network']:17} {row['objective']:8} {row['runtime']:10} "
        f"{row['first_latency_s'] * 1e3:10.4f} {row['latency_s'] * 1e3:10.4f} {bound} {row['gain_over_first']:8.1%} "
        f"{row['gain_over_one_core']:8.1%} {row['split_layers']:5} {row['pieces']:4} {row['cpu_s']:6.1f}  {every}"
    )


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--resume", action="store_true", help="take the cases that FILE has as they are")
    parsed = parser.parse_args()
    state()
    print(f"{'chip':14} {'network':17} {'least':8} {'runtime':10} {'first ms':>10} {'ms':>10} {'compute':>10} "
          f"{'-first':>8} {'-1 core':>8} split once  CPU s  over enumeration")  # fmt: skip
    rows = []
    if parsed.resume and parsed.json is not None and parsed.json.exists():
        rows = json.loads(parsed.json.read_text())["cases"]
    known = {tuple(row[key] for key in asdict(CASES[0])): row for row in rows}
    for case in (case for case in CASES if case.quick or not parsed.quick):
        row = known.get(tuple(asdict(case).values())) or run(case)
        rows += [] if row in rows else [row]
        print(line(row), flush=True)
        if parsed.json is not None:  # after each, so that a kill costs one
            write_json(parsed.json, {"cases": rows}, quiet=True)


if __name__ == "__main__":
    main()
