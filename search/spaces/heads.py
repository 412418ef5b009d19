"""Attention's channels, which are heads of channels: what is decided together, and what orders they may be put in.

A score is a product of a query and a key over the channels of a head: both may have these in any one order. A head's
result has the channels of its values, in any order as long as what reads them has it, too. And heads may change places,
those of queries, keys and values at once. No other order computes the same.

Which core makes a channel is decided by whole heads, and for queries, keys and values of an attention at once (`Unit`):
what a head multiplies comes from one core, and heads in order are in order for all three.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from cosoc.sim.model.workload import Layer, Workload


@dataclass(frozen=True)
class Attention:
    """The layers of one attention by name: those that compute queries, keys and values, of as many channels each, and
    its two products."""

    query: str
    key: str
    value: str
    scores: str
    attend: str
    heads: int


def attentions(workload: Workload) -> Iterator[Attention]:
    """All attentions whose channels can be put in another order: nothing but its products reads the queries, keys and
    values, and nothing but weighted layers, of as many inputs, what comes of them."""
    made = {layer.name: layer for layer in workload}
    readers: dict[str, list[Layer]] = {}
    for layer in workload:
        for name in layer.inputs:
            readers.setdefault(name, []).append(layer)

    def only(name: str, reader: Layer) -> bool:
        return readers.get(name, []) == [reader] and name not in workload.outputs

    for attend in workload:
        if attend.op != "matmul" or len(attend.inputs) != 2 or attend.inputs[0] not in made:
            continue
        softmax = made[attend.inputs[0]]
        if softmax.op != "softmax" or softmax.inputs[0] not in made or not only(softmax.name, attend):
            continue
        scores = made[softmax.inputs[0]]
        if scores.op != "matmul" or scores.groups != attend.groups or not only(scores.name, softmax):
            continue
        if len(scores.inputs) != 2:
            continue
        sources = scores.inputs[0], scores.inputs[1], attend.inputs[1]
        if len({*sources}) != 3 or any(name not in made for name in sources):
            continue
        layers = [made[name] for name in sources]
        alike = all(one.op == "conv" and one.groups == 1 and one.k == attend.k for one in layers)
        apart = all(only(name, reader) for name, reader in zip(sources, (scores, scores, attend), strict=True))
        read = all(one.op == "conv" and one.groups == 1 and one.c == attend.k for one in readers.get(attend.name, []))
        if alike and apart and read and attend.name not in workload.outputs and attend.k % attend.groups == 0:
            yield Attention(*sources, scores.name, attend.name, attend.groups)


@dataclass(frozen=True)
class Unit:
    """Layers whose channels go to cores together: `size` channels in a row at a time, the same ones of each layer."""

    layers: tuple[str, ...]
    size: int = 1


def units(workload: Workload, cores: Mapping[str, Sequence[str]]) -> list[Unit]:
    """What is decided together, of the layers with several cores (by layer): heads of an attention's queries, keys and
    values, if these have the same cores; channels of any other layer."""
    tied: dict[str, Unit] = {}
    for one in attentions(workload):
        names = (one.query, one.key, one.value)
        if len({tuple(cores.get(name, ())) for name in names}) == 1:
            tied |= dict.fromkeys(names, Unit(names, workload[one.query].k // one.heads))
    return list(dict.fromkeys(tied.get(name, Unit((name,))) for name, able in cores.items() if len(able) > 1))


def head_orders(products: Tensor, values: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """The orders of queries and keys, and of values, that lose least: old index of each new channel, [k] each.

    products, values: [k, k], what is lost where a channel of queries and keys, or of values, is put into a place.
    Exact: channels of each head into each place of a head, then heads into places.
    """
    k = len(products)
    size = k // heads
    inside = torch.zeros(2, heads, heads, size, dtype=torch.int64)  # old index within the head of each new channel
    lost = torch.zeros(heads, heads, dtype=torch.float64)
    for which, loss in enumerate((products, values)):
        blocks = loss.reshape(heads, size, heads, size).transpose(1, 2)
        for head in range(heads):
            for place in range(heads):
                channels, places = linear_sum_assignment(blocks[head, place].numpy())
                lost[head, place] += float(blocks[head, place][channels, places].sum())
                inside[which, head, place, places] = torch.from_numpy(channels)
    found, places = linear_sum_assignment(lost.numpy())
    head_at = torch.zeros(heads, dtype=torch.int64)
    head_at[places] = torch.from_numpy(found)
    orders = [
        torch.cat([head_at[place] * size + inside[which, head_at[place], place] for place in range(heads)])
        for which in range(2)
    ]
    return orders[0], orders[1]
