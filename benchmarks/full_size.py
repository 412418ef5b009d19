"""Transformers at full size, the part `large` of training.py: ViT-B/16 on 224 pixels and BERT-Base on the numbers of
128 tokens, all twelve blocks, with random weights, through every step of a search on chips of several kinds.

Each step is done once, with its time and the most memory while it is. What a search does often (steps of an epoch,
mappings simulated for the table of costs that its front is made of) is extrapolated from what one takes, and called so.
A chip that cannot take a network refuses it with the reason; beside it the same chip with a memory that holds it, as
`--set` would say.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from steps import Took, step_of, timed, watched
from torch import Tensor, nn

from cosoc.search.exact.shares import channel_choices, looked_at
from cosoc.search.oracle import Oracle
from cosoc.search.spaces.channels import assignment, fix, make_contiguous, prepare, to_mapping
from cosoc.search.spaces.shares import ShareCosts, Tangent
from cosoc.search.training.compute import Compute
from cosoc.search.training.gradient import COST_EVERY
from cosoc.search.training.nets import Bert, VisionTransformer, vit_base
from cosoc.search.training.opening import check_channels
from cosoc.search.training.parts import Split
from cosoc.search.training.recipe import find_recipe
from cosoc.search.training.task import classification
from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.workload_file import dump_workload, load_workload
from cosoc.sim.importers.build import Input
from cosoc.sim.importers.torch_export import from_module
from cosoc.sim.manual import named_mapping
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import Workload

CLASSES, BATCH = 10, 2
EPOCH = 10_000  # items of an epoch that is extrapolated
SCALE = 1e-9  # of ticks in the loss: any weight takes as long


WORDS, POSITIONS, TOKENS = 30_522, 512, 128  # of BERT


@dataclass(frozen=True)
class Net:
    """A network, an item of its input, and how many values one of whole numbers can have."""

    make: Callable[[], nn.Module]
    item: Input
    values: int = 0

    def drawn(self, n: int, draws: torch.Generator) -> Tensor:
        """Random items."""
        shape = (n, *self.item.shape)
        return (
            torch.randint(self.values, shape, generator=draws) if self.values else torch.randn(shape, generator=draws)
        )


@dataclass(frozen=True)
class Machine:
    """A chip, with values by path as `--set` has them. steps: of a search that are timed, behind the first."""

    name: str
    steps: int = 1
    set: Mapping[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """As the table has it."""
        return self.name + "".join(f" --set {key}={value}" for key, value in self.set.items())


NETS = {
    "vit_base": Net(lambda: vit_base(3, CLASSES), Input("", (3, 224, 224))),
    "bert_base": Net(lambda: Bert(WORDS, POSITIONS, 768, 12, 12, CLASSES), Input("", (TOKENS,), "int64"), WORDS),
}
TINY = {
    "tiny": Net(lambda: VisionTransformer(1, CLASSES, 8, 4, 32, 1, 2), Input("", (1, 8, 8))),
    "tiny_bert": Net(lambda: Bert(50, 16, 32, 2, 1, CLASSES), Input("", (8,), "int64"), 50),
}
BIG = "268435456"  # 256 MiB
MACHINES = (
    Machine("diana"),
    Machine("diana", 2, {"memories.flash.size_bytes": BIG}),
    Machine("gap9"),
    Machine("gap9", 1, {"memories.hyperram.size_bytes": BIG}),
    Machine("agx_orin_dla"),
    Machine("hetero"),
)


def large(quick: bool, compute: Compute, wanted: Sequence[str], known: Mapping[str, Any]) -> dict[str, Any]:
    """All cases, or those with one of the wanted words in their names; known: what was measured before stays."""
    found: dict[str, Any] = {"batch": BATCH, "epoch": EPOCH, "device": compute.device}
    found["read"], found["cases"] = dict(known.get("read", {})), dict(known.get("cases", {}))
    for name, one in (TINY if quick else NETS).items():
        machines = [one for one in (MACHINES[:1] if quick else MACHINES) if _asked(f"{name} on {one.label}", wanted)]
        if not machines:
            continue
        torch.manual_seed(0)
        net = one.make().eval()
        workload, found["read"][name] = read(net, name, one.item)
        for machine in machines:
            label = f"{name} on {machine.label}"
            print(label, flush=True)
            found["cases"][label] = _case(net, one, workload, machine, compute)
    show(found)
    return found


def _asked(label: str, wanted: Sequence[str]) -> bool:
    return not wanted or any(word in label for word in wanted)


def read(net: nn.Module, name: str, item: Input) -> tuple[Workload, dict[str, Any]]:
    """A network as a workload, by way of the file that `cosoc import` writes."""
    with watched("cpu") as export:
        workload = from_module(net, [item], name)
    with tempfile.TemporaryDirectory() as folder, watched("cpu") as again:
        file = Path(folder) / f"{name}.yaml"
        file.write_text(dump_workload(workload), encoding="utf-8")
        same = load_workload(file) == workload
    size = {"layers": len(workload.layers), "macs": workload.macs, "params": workload.params}
    return workload, size | {"steps": {"export": asdict(export), "file": asdict(again)}, "same": same}


def _case(net: nn.Module, about: Net, workload: Workload, machine: Machine, compute: Compute) -> Any:
    steps: dict[str, Took] = {}
    found: dict[str, Any] = {"steps": steps}
    try:
        soc = find_soc(machine.name, machine.set)
        found |= _through(net, about, workload, soc, machine.steps, compute, steps)
    except InputError as error:
        found["refused"] = str(error)
    return found | {"steps": {name: asdict(took) for name, took in steps.items()}}


def _through(
    net: nn.Module, about: Net, workload: Workload, soc: SoC, count: int, compute: Compute,
    steps: dict[str, Took],
) -> dict[str, Any]:  # fmt: skip
    """Every step of a search on one chip; steps: filled in as they are done, up to where the chip refuses."""
    costs = ShareCosts(workload, soc, "overlapped", oracle=Oracle(soc, workload))
    with watched("cpu") as steps["simulate, first"]:
        before = costs.oracle.simulate(named_mapping("all_8bit", workload, soc, "overlapped"))
    found: dict[str, Any] = {"all_8bit": before.plain()}
    check_channels(workload, soc)
    choices = channel_choices(workload, soc)
    asked = sum(len(looked_at(len(options), 0)) for options in choices.values())
    found |= {"decided": len(choices), "options": sum(map(len, choices.values())), "table": asked}
    with watched("cpu") as steps["quantise"]:
        mixed = prepare(copy.deepcopy(net), workload, soc)
    draws = torch.Generator().manual_seed(0)
    data = Split(about.drawn(8, draws), torch.randint(CLASSES, (8,), generator=draws))
    cost = Tangent(lambda shares: costs.estimate(shares).ticks * SCALE, COST_EVERY)
    step = step_of(mixed, data, classification(CLASSES), find_recipe("default"), "search", BATCH, compute, cost)
    steps["step, first"], steps["step"] = timed(step, count, compute.device)
    compute.take_back(mixed)
    with watched("cpu") as steps["cost's tangent"]:
        cost.renew()
        cost(mixed.shares())
    with watched("cpu") as steps["discretise"]:
        ordered, _ = make_contiguous(mixed.eval(), workload, assignment(mixed), about.item.shape)
        fix(mixed, ordered)
    with watched("cpu") as steps["simulate"]:
        after = costs.oracle.simulate(to_mapping(mixed, ordered, "overlapped", "found"))
    each = steps["step"].seconds + steps["cost's tangent"].seconds / COST_EVERY
    found["found"] = after.plain()
    found["extrapolated"] = {
        "epoch_hours": EPOCH / BATCH * each / 3600,
        "table_hours": asked * steps["simulate"].seconds / 3600,
    }
    return found


def show(found: dict[str, Any]) -> None:
    """What was read, and each case in a line."""
    for name, one in found["read"].items():
        took = one["steps"]["export"]
        print(f"{name}: {one['layers']} layers, {one['macs'] / 1e9:.2f} G MAC, {one['params'] / 1e6:.1f} M weights; "
              f"exported in {took['seconds']:.1f} s, the file read as written: {one['same']}")  # fmt: skip
    names = ("quantise", "step", "cost's tangent", "discretise", "simulate")
    table = Table(title=f"s (GB at most); extrapolated: hours of an epoch of {EPOCH} items, and of a table of costs")
    for name in ("case", *names, "epoch h", "table h", "8 bit ms", "found ms"):
        table.add_column(name, justify="left" if name == "case" else "right")
    for label, one in found["cases"].items():
        if "refused" in one:
            table.add_row(label, one["refused"])
            continue
        cells = [f"{one['steps'][n]['seconds']:.2f} ({one['steps'][n]['peak_bytes'] / 1e9:.1f})" for n in names]
        cells += [f"{one['extrapolated'][key]:.2f}" for key in ("epoch_hours", "table_hours")]
        cells += [f"{one[key]['latency_s'] * 1e3:.2f}" for key in ("all_8bit", "found")]
        table.add_row(label, *cells)
    Console(width=170, highlight=False).print(table)
