"""A mapping as ZigZag reads it: a list of layers with all their loops, and the layers themselves.

Read from the parsers of zigzag-dse 3.9.1, which take an order of loops as it is where it is complete: with what is
unrolled in space, all of a layer. (What is left open at the inner end, its parsers drop, and take the rest for the
innermost loops.) So each entry has the loops around the tiles, outermost; inside of a tile, where cosoc's cores have an
order of their own, output channels, then pixels, then what is summed up, as far as it is not unrolled. Layers are given
beside it, since names and sizes must be the same.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from cosoc.sim.importers.timeloop_file import why_no_nest
from cosoc.sim.model.mapping import DIMS, WEIGHTS_STAY, Dim, Mapping
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.tiles import job_form, whole
from cosoc.sim.model.workload import Layer, Workload
from cosoc.sim.tiler import placed

NAMES: dict[Dim, str] = {"n": "B", "k": "K", "c": "C", "fy": "FY", "fx": "FX", "oy": "OY", "ox": "OX"}
SUM_BITS = 32  # of partial sums, as accumulators have them


def to_zigzag(
    mapping: Mapping, workload: Workload, soc: SoC, unroll: Sequence[tuple[Dim, int]]
) -> tuple[str, str, dict[str, str]]:
    """The mapping file, the workload file, and of layers that are in neither, why. unroll: along each axis of ZigZag's
    array, a dimension and how many of it at once; of a tile that it does not divide, its largest divisor below.
    InputError where the machine cannot run the mapping."""
    at = placed(mapping, workload, soc)
    fused = {name for piece in at.mapping.pieces if piece.how == "fused" for name in piece.layers}
    entries, layers, left = ["- name: default\n"], list[str](), dict[str, str]()
    numbers: dict[str, int] = {}
    for layer in workload:
        plan = at.mapping.layers[layer.name]
        why = "it runs fused with others" if layer.name in fused else why_no_nest(layer, plan, soc)
        if why:
            left[layer.name] = why
            continue
        (part,) = (part for part in plan.parts if part.channels)
        assert part.tile is not None
        all_of_it = whole(job_form(layer, soc.core_of(part)))
        at_once = {d: _divisor(part.tile.along(d), most) for d, most in unroll}
        axes = [f"D{i}: ['{NAMES[d]}, {n}']" for i, (d, n) in enumerate(at_once.items(), 1) if n > 1]
        loops = [(d, part.tile.along(d) // at_once.get(d, 1)) for d in reversed(WEIGHTS_STAY)]
        loops += [(d, all_of_it.along(d) // part.tile.along(d)) for d in reversed(plan.loops)]
        order = ", ".join(f"[{NAMES[d]}, {count}]" for d, count in loops if count > 1)
        lines = [f"- name: {json.dumps(layer.name)}", f"  spatial_mapping: {{{', '.join(axes)}}}"]
        lines += [f"  temporal_ordering: [{order}] # innermost first"]
        entries.append("\n".join(lines) + "\n")
        numbers[layer.name] = len(numbers)
        bits = (soc.core_of(part).act_bits, part.bits or soc.core_of(part).weight_bits)
        layers.append(_layer(layer, numbers, bits))
    return "\n".join(entries), "\n".join(layers), left


def _layer(layer: Layer, numbers: dict[str, int], bits: tuple[int, int]) -> str:
    """A layer of a workload file. numbers: of the layers so far, this one's the last."""
    depthwise = layer.depthwise
    inside = "[b][k][iy][ix]" if depthwise else "[b][c][iy][ix]"
    weights = "[k][fy][fx]" if depthwise else "[k][c][fy][fx]"
    dims = [d for d in DIMS if not (depthwise and d == "c")]
    (sy, sx), (dy, dx) = layer.strides, layer.dilations
    me = numbers[layer.name]
    source = numbers.get(layer.inputs[0], me)
    second = numbers.get(layer.inputs[1], me) if layer.op == "matmul" else me
    columns = [layer.pad_x, _after(layer.ox, sx, layer.fx, dx, layer.pad_x, layer.ix)]
    rows = [layer.pad_y, _after(layer.oy, sy, layer.fy, dy, layer.pad_y, layer.iy)]
    lines = (
        f"- id: {me}",
        f"  name: {json.dumps(layer.name)}",
        "  operator_type: Conv",
        f"  equation: O[b][k][oy][ox]+=W{weights}*I{inside}",
        f"  dimension_relations: [ix={sx}*ox+{dx}*fx, iy={sy}*oy+{dy}*fy]",
        f"  loop_dims: [{', '.join(NAMES[d] for d in dims)}]",
        f"  loop_sizes: [{', '.join(str(whole(layer).along(d)) for d in dims)}]",
        f"  operand_precision: {{O: {SUM_BITS}, O_final: {bits[0]}, W: {bits[1]}, I: {bits[0]}}}",
        f"  operand_source: {{I: {source}, W: {second}}}",
        "  pr_loop_dims: [IX, IY]",
        f"  pr_loop_sizes: [{layer.ix}, {layer.iy}]",
        f"  padding: [{columns}, {rows}]",
    )
    return "\n".join(lines) + "\n"


def _divisor(size: int, most: int) -> int:
    """The largest divisor up to a bound."""
    return next(n for n in range(min(size, most), 0, -1) if size % n == 0)


def _after(out: int, stride: int, taps: int, dilation: int, before: int, size: int) -> int:
    """Rows or columns of padding behind the input that windows reach."""
    return max(0, (out - 1) * stride + (taps - 1) * dilation + 1 - before - size)


__all__ = ["NAMES", "to_zigzag"]
