"""ODiMO's cost models of DIANA and Darkside, as released by its authors: the baselines that ours are held against.

Written anew from the published formulas (hw_models.py of the release; PLiNIO carries the same). Cycles at 260 MHz, for
one layer, C input and K output channels, kx x ky filter, OX x OY outputs:

    digital = ceil(K/groups / 16) C ceil(OX/16) OY kx ky + [K >= 1] OX OY (K + C) / 8
    analog  = ceil(K/512) ceil(C/128) OX OY / u * 18.2 + [K >= 1] 8 C kx ky,  18.2 cycles = 70 ns
    u       = the largest of 1, 2, 4, 8 with u K <= 512 and (u + kx - 1) max(64, C) ky <= 1152, at least 1

No DMA, no weight load of the digital core, no launch, no pooling or adds. A layer takes the slower core's time, a
network the sum over its layers. `RELEASED` gives the gradients that the release trains with: slope 1 through a
ceil(K / 16) as through a ceil(K / 512), slope +1 of u in K, 1 / (K + 1) through [K >= 1], and a softmax over raw
cycles in place of the maximum.

Darkside (cost.py of the release), for blocks that choose between two operators, k channels by the first:

    convolution = ceil(OY/2) ceil(OX/8) (2 kx ky C + ceil(k/4) (14 ceil(kx ky C / 4) + 15))   on the cluster
    depthwise   = ceil(k/16) (9 + 9 OX + 4 OX OY)                                             on the engine
    conv-dw: both at once; dws-dw: one after the other; conv-dws: the convolution beside the depthwise part of the other

Both at once take softmax([a, b] / 1e7) . [a, b], which for these costs is nearer their mean than their maximum. Layers
without a choice cost nothing, nor do transfers, launches or conflicts. Steps have the slopes of `relax` here: what the
release has for them we do not know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cosoc.search import relax
from cosoc.search.terms import Estimate
from cosoc.sim.exact import Num
from cosoc.sim.model.workload import Layer, Workload

TICK_HZ = 260e6
OP_CYCLES = 70e-9 * TICK_HZ
ROWS, COLS = 1152, 512
UNROLLS = (1, 2, 4, 8)
DIGITAL_MW, ANALOG_MW, BOTH_MW = 24.96, 28.74, 42.39


@dataclass(frozen=True)
class Slopes:
    """How gradients pass the steps of the formulas; forward values are the same in both."""

    ceildiv: Callable[[Num, int], Num]
    used: Callable[[Num], Num]
    unroll: Callable[[Layer, Num], Num]
    slower: Callable[[Tensor, Tensor], Tensor]


def _unroll_by_rows(layer: Layer) -> int:
    return ROWS // (max(64, layer.c) * layer.fy) - layer.fx + 1


def _unroll(layer: Layer, k: Num) -> Num:
    by_cols = relax.floordiv(COLS, relax.maximum(k, 1))
    return relax.largest(UNROLLS, relax.minimum(by_cols, _unroll_by_rows(layer)))


class _Step(torch.autograd.Function):
    """Any forward value with any slope."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return value

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        return upstream * ctx.saved_tensors[0], None, None


def _step(x: Num, value: Num, slope: Num) -> Num:
    if not isinstance(x, Tensor):
        return value
    return _Step.apply(x, torch.as_tensor(value, dtype=x.dtype), torch.as_tensor(slope, dtype=x.dtype))  # type: ignore[no-untyped-call]


def _detached(x: Num) -> Num:
    return x.detach() if isinstance(x, Tensor) else x


def _softmax_sum(a: Tensor, b: Tensor) -> Tensor:
    both = torch.stack((a, b))
    return (torch.softmax(both, 0) * both).sum(0)


RIGHT = Slopes(relax.ceildiv, relax.used, _unroll, relax.maximum)
RELEASED = Slopes(
    ceildiv=lambda a, b: _step(a, relax.ceildiv(_detached(a), b), 1.0),
    used=lambda n: _step(n, relax.used(_detached(n)), 1 / (_detached(n) + 1)),
    unroll=lambda layer, k: _step(k, _unroll(layer, _detached(k)), 1.0),
    slower=_softmax_sum,
)


def digital_cycles(layer: Layer, k: Num, slopes: Slopes = RIGHT) -> Num:
    """Cycles of k output channels on the digital core."""
    blocks = slopes.ceildiv(k / layer.groups, 16) if layer.groups > 1 else slopes.ceildiv(k, 16)
    array = blocks * (layer.c * relax.ceildiv(layer.ox, 16) * layer.oy * layer.fx * layer.fy)
    return array + slopes.used(k) * layer.ox * layer.oy * (k + layer.c) / 8


def analog_cycles(layer: Layer, k: Num, slopes: Slopes = RIGHT) -> Num:
    """Cycles of k output channels on the analog core."""
    ops = slopes.ceildiv(k, COLS) * relax.ceildiv(layer.c, 128) * (layer.ox * layer.oy)
    weights = slopes.used(k) * (8 * layer.c * layer.fx * layer.fy)
    return ops / slopes.unroll(layer, k) * OP_CYCLES + weights


def layer_cycles(layer: Layer, digital: Num, analog: Num, runtime: str) -> float:
    """Cycles of a convolution split over both cores: the slower one's, or in the serial runtime the sum."""
    times = float(digital_cycles(layer, digital)), float(analog_cycles(layer, analog)) if analog else 0.0
    return sum(times) if runtime == "serial" else max(times)


def network_estimate(
    workload: Workload, shares: Mapping[str, Mapping[str, Tensor]], slopes: Slopes = RELEASED
) -> Estimate:
    """Latency and energy of a network by ODiMO's model, differentiable in the shares {layer: {"digital" | "analog":
    channels}}. Convolutions not named run on the digital core, other layers cost nothing."""
    if any(layer.alternative is not None for layer in workload):
        return _units_estimate(workload, shares)
    by_layer, mw_ticks = [], torch.zeros((), dtype=torch.float64)
    for layer in workload:
        if layer.op != "conv":
            by_layer.append(torch.zeros((), dtype=torch.float64))
            continue
        given = shares.get(layer.name) or {"digital": torch.tensor(float(layer.k))}
        zero = torch.zeros((), dtype=torch.float64)
        on_digital, on_analog = (given[c].double() if c in given else zero for c in ("digital", "analog"))
        digital = digital_cycles(layer, on_digital, slopes)
        analog = analog_cycles(layer, on_analog, slopes) if layer.groups == 1 else zero
        slower = slopes.slower(digital, analog)
        together = -slopes.slower(-digital, -analog)
        by_layer.append(slower)
        alone = ANALOG_MW * (analog - together) + DIGITAL_MW * (digital - together)
        mw_ticks = mw_ticks + BOTH_MW * together + alone
    ticks = torch.stack(by_layer)
    return Estimate(ticks.sum(), mw_ticks * 1e-3 / TICK_HZ, ticks)


CLUSTER_MW, ENGINE_MW, IDLE_MW = 168.0, 118.0, 1.32
UNITS_TEMPERATURE = 1e7


def cluster_cycles(layer: Layer, k: Num) -> Num:
    """Cycles of k output channels of a convolution on Darkside's cluster."""
    reduction = layer.fx * layer.fy * layer.c
    blocks = relax.ceildiv(layer.oy, 2) * relax.ceildiv(layer.ox, 8)
    groups = relax.ceildiv(k, 4) * (14 * relax.ceildiv(reduction, 4) + 15)
    return blocks * (2 * reduction * relax.used(k) + groups)


def engine_cycles(layer: Layer, k: Num) -> Num:
    """Cycles of k channels of a depthwise convolution on Darkside's engine."""
    return relax.ceildiv(k, 16) * (9 + 9 * layer.ox + 4 * layer.ox * layer.oy)


def _units_estimate(workload: Workload, shares: Mapping[str, Mapping[str, Tensor]]) -> Estimate:
    """Latency and energy by the model of Darkside: of the layers that have a choice, all others cost nothing."""
    by_layer, mw_ticks = [], torch.zeros((), dtype=torch.float64)
    for layer in workload:
        other = layer.alternative
        if other is None:
            by_layer.append(torch.zeros((), dtype=torch.float64))
            continue
        given, zero = shares[layer.name], torch.zeros((), dtype=torch.float64)
        first = given["cluster"].double() if "cluster" in given else zero
        second = torch.stack([zero, *(k.double() for core, k in given.items() if core != "cluster")]).sum()
        stem = 0.0 * first
        if other.inputs != layer.inputs:  # a separable convolution on one side, which starts with a depthwise one
            name = layer.inputs[0] if layer.fy == 1 else other.inputs[0]
            there = relax.used(first if layer.fy == 1 else second)
            stem = engine_cycles(workload[name], workload[name].k) * there
        cluster = cluster_cycles(layer, first)
        if other.depthwise and layer.fy > 1:
            engine = engine_cycles(other, second)
            both = torch.stack((cluster, engine))
            ticks = (torch.softmax(both / UNITS_TEMPERATURE, 0) * both).sum()
        elif other.depthwise:
            engine = stem + engine_cycles(other, second)
            ticks = cluster + engine
        else:
            point = cluster_cycles(other, second)
            ticks = stem + relax.maximum(cluster - stem, 0.0 * cluster) + point
            engine, cluster = stem, cluster + point
        by_layer.append(ticks)
        idle = IDLE_MW * (2 * ticks - cluster - engine)
        mw_ticks = mw_ticks + CLUSTER_MW * cluster + ENGINE_MW * engine + idle
    ticks = torch.stack(by_layer)
    return Estimate(ticks.sum(), mw_ticks * 1e-3 / TICK_HZ, ticks)
