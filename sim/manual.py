"""Manual mappings by rule: what an engineer would try first, and the baselines of every search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from cosoc.sim.cores.dla import Dla
from cosoc.sim.cores.roofline import Roofline
from cosoc.sim.cores.tensor_gpu import TensorGpu
from cosoc.sim.errors import InputError
from cosoc.sim.files.names import DEFAULT, MANUAL, RULES
from cosoc.sim.mapper import MIN_COST, cheapest, has_choice, usual_runtime
from cosoc.sim.model.mapping import LayerPlan, Mapping, Part, Runtime
from cosoc.sim.model.soc import Core, SoC
from cosoc.sim.model.workload import INPUT, Layer, Workload
from cosoc.sim.progress import Report
from cosoc.sim.tiler import default_core, unsupported

KINDS_OF_CORE: dict[str, Callable[[Core], bool]] = {
    "gpu": lambda core: isinstance(core, TensorGpu) or (isinstance(core, Roofline) and core.kind == "gpu"),
    "dla": lambda core: isinstance(core, Dla),
}


def named_mapping(
    name: str, workload: Workload, soc: SoC, runtime: Runtime | None = None, objective: str | None = None,
    report: Report | None = None,
) -> Mapping:  # fmt: skip
    """The manual mapping of that name.

    runtime: left out, `mapper.usual_runtime`. default: where several cores can take a layer in the same numbers,
    min_cost over these; else all_8bit; on a systolic array in the tiles that its library takes. all_8bit: every layer
    on its default core, never a ternary one. all_ternary: every layer that a ternary core can run is on it.
    io_8bit_backbone_ternary: the same, but the first and the last layer with weights are 8 bit. min_cost: over all
    cores that can take a layer, whatever numbers they compute in, so that the objective of the network is least
    (`mapper.cheapest`), ties to the default core. gpu, dla: all that the first core of that kind can run is on it, the
    rest where it is by default.
    objective: of min_cost, and of default where it is; left out, latency. report: is told how far it is.
    Raises InputError for another name, for an objective by which nothing is chosen, and where the SoC has no core of
    the kind to speak of.
    """
    runtime = runtime or usual_runtime(soc)
    if name == MIN_COST or (name == DEFAULT and has_choice(workload, soc)):
        return cheapest(workload, soc, runtime, objective or "latency", any_format=name == MIN_COST, report=report)
    if objective is not None:
        what = "there is one core for each layer" if name == DEFAULT else f"{name} leaves nothing to choose"
        raise InputError(f"--objective {objective}: {what} on {soc.name}; use min_cost")
    if name == DEFAULT:
        return replace(named_mapping("all_8bit", workload, soc, runtime), name=name)
    if name in KINDS_OF_CORE:
        return _on_kind(name, workload, soc, runtime)
    if name not in MANUAL:
        raise InputError(f"no manual mapping named {name!r}; there is {', '.join(RULES)}")
    ternary = [core for core in soc.cores if soc.cores[core].ternary]
    if not ternary and name != "all_8bit":
        raise InputError(f"mapping {name} needs a ternary core, and {soc.name} has none; use all_8bit")
    weighted = [layer.name for layer in workload if layer.op == "conv"]
    ends = {weighted[0], weighted[-1]} if weighted else set()
    layers = {}
    for layer in workload:
        eight = default_core(layer, soc)
        able = [core for core in ternary if not unsupported(layer, soc, core)] if layer.op == "conv" else []
        if name == "all_8bit" or not able or (name == "io_8bit_backbone_ternary" and layer.name in ends):
            layers[layer.name] = LayerPlan((Part(eight, layer.k),))
        else:
            layers[layer.name] = LayerPlan((Part(able[0], layer.k),))
    return Mapping(name, runtime, layers)


def _on_kind(kind: str, workload: Workload, soc: SoC, runtime: Runtime) -> Mapping:
    found = next((name for name, core in soc.cores.items() if KINDS_OF_CORE[kind](core)), None)
    if found is None:
        raise InputError(f"mapping {kind} needs a core of that kind, and {soc.name} has none; use default")
    cores = {layer: default_core(layer, soc) if unsupported(layer, soc, found) else found for layer in workload}
    return Mapping(kind, runtime, {layer.name: LayerPlan((Part(core, layer.k),)) for layer, core in cores.items()})


def alone(workload: Workload, layer: Layer) -> Workload:
    """The workload of one layer, its inputs coming from outside."""
    c = layer.c if layer.op != "add" else layer.k
    only = replace(layer, inputs=(INPUT,) * len(layer.inputs))
    return Workload(f"{workload.name}.{layer.name}", (c, layer.iy, layer.ix), (only,), (layer.name,))


__all__ = ["DEFAULT", "KINDS_OF_CORE", "MANUAL", "RULES", "alone", "named_mapping"]
