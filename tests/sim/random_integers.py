"""Random integers of any network, in the formats of the cores that a mapping puts its channels on."""

from __future__ import annotations

from math import prod

import numpy as np

from cosoc.sim.integers.network import (
    IntegerLayer,
    IntegerNetwork,
    Ints,
    Piece,
    Whole,
    pieces,
    rescale,
    sums_of,
    whole_layer,
)
from cosoc.sim.model.mapping import LayerPlan
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.tiles import form
from cosoc.sim.model.workload import INPUT, Layer, Workload
from cosoc.sim.tiler import Placed


def act_bits(soc: SoC) -> int:
    """The fewest that a core reads."""
    return min(core.act_bits for core in soc.cores.values())


def other_form(layer: Layer, plan: LayerPlan, soc: SoC) -> list[bool]:
    """Of each output channel, whether it is computed in the layer's alternative form."""
    return [form(layer, soc.core_of(part)) is not layer for part in plan.parts for _ in range(part.channels)]


def random_weights(layer: Layer, plan: LayerPlan, soc: SoC, rng: np.random.Generator) -> Ints | None:
    """Weights [k, c/groups, fy, fx], each channel's as large as its core holds them."""
    if layer.op != "conv":
        return None
    out = np.zeros((layer.k, layer.c // layer.groups, layer.fy, layer.fx), np.int64)
    first = 0
    for part in plan.parts:
        core = soc.core_of(part)
        top = 1 if core.ternary else 2 ** ((part.bits or core.weight_bits) - 1) - 1
        shape = part.channels, *out.shape[1:]
        out[first : first + part.channels] = rng.integers(-top, top + 1, shape)
        first += part.channels
    return out


def random_network(at: Placed, rng: np.random.Generator) -> tuple[IntegerNetwork, Ints, dict[str, Ints]]:
    """Integers of a network, an image, and all tensors for it with every layer computed whole. Every layer's results
    fill some half of their range, and a part of them is clipped."""
    workload, soc = at.workload, at.soc
    bits = act_bits(soc)
    signed = Whole(-(2 ** (bits - 1)) + 1, 2 ** (bits - 1) - 1, 1.0)
    image = rng.integers(signed.low, signed.high + 1, (workload.n, *workload.input_shape))
    layers, kinds, tensors = dict[str, IntegerLayer](), {INPUT: signed}, {INPUT: image}
    first = dict[str, int]()
    for layer in workload:
        plan, positive = at.mapping.layers[layer.name], bool(rng.integers(2))
        kind = Whole(0, 2**bits - 1, 1.0) if positive else signed
        other, forms = other_form(layer, plan, soc), list[IntegerLayer]()
        assert sorted(other) == other
        for one in (layer, layer.alternative):
            if one is None:
                continue
            weights = random_weights(one, plan, soc, rng)
            sums = sums_of(one, weights, Piece(one, IntegerLayer(), 0, one.k).operands(tensors))
            largest = np.stack([np.abs(each).max((0, 2, 3)) for each in sums]).astype(float)
            factor = kind.high / np.maximum(largest.max(), 1) * rng.uniform(1, 2, largest.shape)
            scaled = rescale(factor, rng.uniform(-4, 4, layer.k), largest, kind.low, kind.high)
            forms.append(IntegerLayer(weights, scaled))
        about = forms[0]
        layers[layer.name] = about if len(forms) < 2 else IntegerLayer(
            about.weights, about.rescale, alternative=forms[1]
        )  # fmt: skip
        kinds[layer.name], first[layer.name] = kind, other.count(False)
        network = IntegerNetwork(workload, layers, kinds, first)
        made = [whole_layer(one.layer, one.about, one.operands(tensors)) for one in pieces(network, layer)]
        tensors[layer.name] = np.concatenate(made, 1)
    return network, image, tensors


def random_workload(rng: np.random.Generator, alone: bool = False) -> Workload:
    """A few layers in a row, with a sum and a pool: odd sizes, windows, strides and paddings. alone: no groups."""
    side, c = int(rng.integers(7, 15)), int(rng.choice([3, 8, 17]))
    shape, layers = (c, side, side + 2), list[Layer]()
    at = (INPUT, *shape)

    def window(op: str, k: int, fy: int, stride: int, groups: int = 1) -> Layer:
        name, c, y, x = at
        pad = int(rng.integers(0, fy // 2 + 1))
        out = [(size + 2 * pad - fy) // stride + 1 for size in (y, x)]
        return Layer(
            f"{op}{len(layers)}", op, (name,), k, c, out[0], out[1], y, x, fy, fy, stride, stride, pad, pad,
            groups=groups, activation="relu", bias=op == "conv",
        )  # fmt: skip

    def put(layer: Layer) -> None:
        nonlocal at
        layers.append(layer)
        at = (layer.name, layer.k, layer.oy, layer.ox)

    for _ in range(3):
        put(window("conv", int(rng.choice([8, 20, 33])), int(rng.choice([1, 3])), int(rng.choice([1, 1, 2]))))
        if not alone and rng.random() < 0.4:
            put(window("conv", at[1], 3, 1, at[1]))
        if rng.random() < 0.5:
            name, k, y, x = at
            put(Layer(f"branch{len(layers)}", "conv", (name,), k, k, y, x, y, x, 3, 3, 1, 1, 1, 1))
            put(Layer(f"add{len(layers)}", "add", (name, layers[-1].name), k, k, y, x, y, x))
    if rng.random() < 0.5 and min(at[2:]) > 2:
        put(window("max_pool", at[1], 2, 1))
    k, elements = int(rng.integers(3, 12)), prod(at[1:])
    put(Layer("fc", "conv", (at[0],), k, elements))
    return Workload("random", shape, tuple(layers), (layers[-1].name,))
