"""Manual mappings by rule: what an engineer would try first, and the baselines of every search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from cosoc.sim.cores.dla import Dla
from cosoc.sim.cores.roofline import Roofline
from cosoc.sim.cores.tensor_gpu import TensorGpu
from cosoc.sim.errors import InputError
from cosoc.sim.files.names import DEFAULT, MANUAL, RULES
from cosoc.sim.model.mapping import LayerPlan, Mapping, Part, Runtime
from cosoc.sim.model.soc import Core, SoC
from cosoc.sim.model.workload import INPUT, Layer, Workload
from cosoc.sim.simulate import simulate
from cosoc.sim.tiler import default_core, unsupported

KINDS_OF_CORE: dict[str, Callable[[Core], bool]] = {
    "gpu": lambda core: isinstance(core, TensorGpu) or (isinstance(core, Roofline) and core.kind == "gpu"),
    "dla": lambda core: isinstance(core, Dla),
}
Objective = Literal["latency", "energy"]


def named_mapping(
    name: str, workload: Workload, soc: SoC, runtime: Runtime | None = None, objective: Objective = "latency"
) -> Mapping:
    """The manual mapping of that name.

    default: every layer on its default core; on a systolic array in the tiles that its library takes. runtime: left
    out, that of the stacks that run today: overlapped where an array has controllers of its own, else serial.
    all_8bit: every layer on its default core, never a ternary one. all_ternary: every layer that a ternary core can run
    is on it. io_8bit_backbone_ternary: the same, but the first and the last layer with weights are 8 bit. min_cost:
    every layer on its own is split so that its simulated time (or energy) is least, ties to 8 bit. gpu, dla: all that
    the first core of that kind can run is on it, the rest where it is by default.
    Raises InputError for another name, and where the SoC has no core of the kind to speak of.
    """
    runtime = runtime or ("overlapped" if any(soc.is_cached(core) for core in soc.cores) else "serial")
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
        elif name == "min_cost":
            layers[layer.name] = _cheapest_split(workload, layer, soc, (eight, able[0]), runtime, objective)
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


def splits(layer: Layer, soc: SoC, cores: tuple[str, str]) -> Sequence[tuple[int, int]]:
    """The splits of a layer's channels between two cores at which a cost can change: multiples of the first's step,
    and of the second's from the other end."""
    first, second = (soc.cores[core].channel_step for core in cores)
    on_first = {0, layer.k, *range(0, layer.k, first), *(layer.k - n for n in range(0, layer.k, second))}
    return tuple((n, layer.k - n) for n in sorted(on_first))


def _cheapest_split(
    workload: Workload, layer: Layer, soc: SoC, cores: tuple[str, str], runtime: Runtime, objective: Objective
) -> LayerPlan:
    single = alone(workload, layer)
    best: tuple[float, int, LayerPlan] | None = None
    for ks in splits(layer, soc, cores):
        given = LayerPlan(tuple(Part(core, k) for core, k in zip(cores, ks, strict=True) if k))
        result = simulate(soc, single, Mapping("split", runtime, {layer.name: given}))
        cost = result.seconds if objective == "latency" else result.energy_j
        if best is None or (cost, -ks[0]) < best[:2]:
            best = (cost, -ks[0], given)
    assert best is not None
    return best[2]


__all__ = ["DEFAULT", "KINDS_OF_CORE", "MANUAL", "RULES", "alone", "named_mapping", "splits"]
