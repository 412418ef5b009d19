"""Mapping strings of Timeloop and DOSA -> mappings with nests.

A string is one layer's, as `importers.dosa` reads it: everything below DRAM makes a tile, DRAM's loops go around it.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingOf
from pathlib import Path

from cosoc.sim.errors import InputError
from cosoc.sim.files.yamlfile import load_model
from cosoc.sim.importers.dosa import LETTERS, Problem, factors
from cosoc.sim.model.mapping import Extent, LayerPlan, Mapping, Part
from cosoc.sim.model.soc import Model, SoC
from cosoc.sim.model.workload import Workload
from cosoc.sim.movers.cached_terms import NEST_DIMS, Machine, Shape, array_and_mover, cached_cores
from cosoc.sim.tiler import problems


class StringsFile(Model):
    """A file of mapping strings, by layer."""

    layers: dict[str, str]


def read_strings(path: Path) -> dict[str, str]:
    """The strings of a file `layers: {layer: string, ...}`; InputError names file, line and column."""
    return load_model(path, StringsFile).layers


def from_strings(strings: MappingOf[str, str], workload: Workload, soc: SoC, name: str = "imported") -> Mapping:
    """The mapping in which these layers have the nests of these strings; the others are left open.

    Every tile loads its own operands, as where such strings were run. Raises InputError with every reason: factors
    that do not multiply to the layer's extents, unknown letters, tiles that do not fit.
    """
    if not cached_cores(soc):
        raise InputError(f"{soc.name} has no systolic array, which such mapping strings are for")
    array, _, _ = array_and_mover(soc)
    side, layers, reasons = Machine.of(soc).side, {}, []
    known = {layer.name: layer for layer in workload}
    for layer_name, text in strings.items():
        if layer_name not in known:
            reasons.append(f"{workload.name} has no layer {layer_name!r}")
            continue
        layer = known[layer_name]
        try:
            shape = Shape.of(layer)
            problem = Problem(shape.k, shape.c, shape.ox, shape.oy, shape.fx, shape.fy, shape.stride_x)
            inner, order, _ = factors(text, problem, side)
        except InputError as error:
            reasons.append(f"layer {layer_name}: {error}")
            continue
        tile = Extent(**{d: inner[letter] for d, letter in zip(NEST_DIMS, LETTERS, strict=True)})
        loops = ("n", *(NEST_DIMS[i] for i in order))
        layers[layer_name] = LayerPlan((Part(array, layer.k, tile),), loops, reuse=False)
    mapping = Mapping(name, "overlapped", layers)
    reasons += [why for _, why in problems(mapping, workload, soc)] if not reasons else []
    if reasons:
        raise InputError("; ".join(reasons))
    return mapping


__all__ = ["StringsFile", "from_strings", "read_strings"]
