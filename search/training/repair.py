"""After the argmax: use what the hardware gives for free, and end on the feasible side of a target, by simulation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment

from cosoc.search.spaces.channels import Assignment, MixedLayer, MixedNet, assignment
from cosoc.search.spaces.shares import Counts

Cost = Callable[[Assignment], float]


@dataclass(frozen=True)
class Move:
    """A change of one layer: channels on its wide-format core before and after, and the simulated costs."""

    layer: str
    before: int
    after: int
    cost_before: float
    cost_after: float


def wide(layer: MixedLayer) -> int:
    """The number of the layer's core with the widest weights: the one that costs least accuracy."""
    bits = [0 if ternary else b for b, ternary in zip(layer.weight_bits, layer.ternary, strict=True)]
    return bits.index(max(bits))


def with_wide(layer: MixedLayer, chosen: torch.Tensor, count: int) -> torch.Tensor:
    """The layer's assignment with `count` channels on its wide core; those that lean most towards it stay or move."""
    core = wide(layer)
    logits = layer.logits.detach().double()
    others = logits.clone()
    others[:, core] = float("-inf")
    margin = logits[:, core] - others.amax(1)
    on_wide = chosen == core
    order = torch.sort(margin + 1e6 * on_wide, descending=True, stable=True).indices
    out = chosen.clone()
    moved = order[count:]
    back = moved[on_wide[moved]]
    out[order[:count]] = core
    out[back] = others[back].argmax(1)
    return out


def placed(net: MixedNet, wanted: Counts) -> Assignment:
    """An assignment with so many channels on each core of the layers that are named, those that lean most towards it;
    of the others the likeliest core of each channel."""
    out = assignment(net)
    for name, on_cores in wanted.items():
        layer = net.layers[name]
        logits = layer.logits.detach().double().cpu()
        slots = torch.repeat_interleave(
            torch.arange(len(layer.cores)), torch.tensor([on_cores.get(core, 0) for core in layer.cores])
        )
        used = sorted(set(slots.tolist()))
        if len(used) == 2:  # the channels in the order in which they lean towards the first; equal ones as they are
            margin = logits[:, used[0]] - logits[:, used[1]]
            chosen = torch.empty_like(slots)
            chosen[torch.sort(margin, descending=True, stable=True).indices] = slots
        else:
            _, taken = linear_sum_assignment(-logits[:, slots].numpy())
            chosen = slots[torch.from_numpy(taken)]
        out[name] = chosen
    return out


def counts(layer: MixedLayer, steps: Mapping[str, int]) -> list[int]:
    """Channel counts of the wide core at which a cost can change. steps: the cores' channel steps."""
    k, core = len(layer.logits), wide(layer)
    on_wide = {0, k, *range(0, k, steps[layer.cores[core]])}
    for i, name in enumerate(layer.cores):
        if i != core:
            on_wide |= {k - n for n in range(0, k, steps[name])}
    return sorted(on_wide)


def repair(net: MixedNet, chosen: Assignment, cost: Cost, steps: Mapping[str, int]) -> tuple[Assignment, list[Move]]:
    """Give back to the wide format every channel that costs nothing there, layer by layer, most channels first, until
    no layer has one left."""
    chosen, moves = dict(chosen), []
    now, settled = cost(chosen), False
    while not settled:
        settled = True
        for name, layer in net.searchable().items():
            before = int((chosen[name] == wide(layer)).sum())
            for count in sorted((n for n in counts(layer, steps) if n > before), reverse=True):
                tried = chosen | {name: with_wide(layer, chosen[name], count)}
                then = cost(tried)
                if then <= now:
                    moves.append(Move(name, before, count, now, then))
                    chosen, now, settled = tried, then, False
                    break
    return chosen, moves


def meet(
    net: MixedNet, chosen: Assignment, cost: Cost, target: float, steps: Mapping[str, int]
) -> tuple[Assignment, list[Move]]:
    """Move channels, the cheapest loss of margin for the time gained first, until the simulated cost is <= target.

    Returns what it reached; the caller sees from the last move (or the cost) whether that is the target.
    """
    chosen, moves = dict(chosen), []
    now = cost(chosen)
    while now > target:
        best: tuple[float, str, int, Assignment, float] | None = None
        for name, layer in net.searchable().items():
            have = int((chosen[name] == wide(layer)).sum())
            for count in counts(layer, steps):
                if count == have:
                    continue
                tried = chosen | {name: with_wide(layer, chosen[name], count)}
                then = cost(tried)
                gain = (now - then) / (1 + max(0, have - count))
                if then < now and (best is None or gain > best[0]):
                    best = (gain, name, count, tried, then)
        if best is None:
            break
        _, name, count, tried, then = best
        moves.append(Move(name, int((chosen[name] == wide(net.layers[name])).sum()), count, now, then))
        chosen, now = tried, then
    return chosen, moves
