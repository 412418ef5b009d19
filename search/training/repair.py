"""After the argmax: use what the hardware gives for free, and end on the feasible side of a target, by simulation."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment

from cosoc.search.exact.shares import looked_at
from cosoc.search.spaces.channels import Assignment, MixedLayer, MixedNet, assignment
from cosoc.search.spaces.heads import Unit
from cosoc.search.spaces.shares import Counts

MANY = 16  # counts of a layer of which all are tried

Cost = Callable[[Assignment], float]


@dataclass(frozen=True)
class Move:
    """A change of one layer: channels on its wide-format core before and after, and the simulated costs, of layers that
    go together those of all at once."""

    layer: str
    before: int
    after: int
    cost_before: float
    cost_after: float


def wide(layer: MixedLayer) -> int:
    """The number of the layer's core with the widest weights: the one that costs least accuracy."""
    bits = [0 if ternary else b for b, ternary in zip(layer.weight_bits, layer.ternary, strict=True)]
    return bits.index(max(bits))


def with_wide(net: MixedNet, unit: Unit, chosen: Assignment, count: int) -> Assignment:
    """The assignment with `count` channels of each of a unit's layers on their wide core; those that lean most towards
    it stay or move."""
    core = wide(net.layers[unit.layers[0]])
    logits = net.leaning(unit).detach().double().cpu()
    others = logits.clone()
    others[:, core] = float("-inf")
    margin = logits[:, core] - others.amax(1)
    out = chosen[unit.layers[0]][:: unit.size].clone()
    on_wide = out == core
    order = torch.sort(margin + 1e6 * on_wide, descending=True, stable=True).indices
    most = count // unit.size
    back = order[most:][on_wide[order[most:]]]
    out[order[:most]] = core
    out[back] = others[back].argmax(1)
    return chosen | dict.fromkeys(unit.layers, out.repeat_interleave(unit.size))


def placed(net: MixedNet, wanted: Counts) -> Assignment:
    """An assignment with so many channels on each core of the layers that are named, those that lean most towards it;
    of the others the likeliest core of each channel. Heads stay whole where the numbers are of whole heads, and equal
    for queries, keys and values; a mapping by hand may have others."""
    out = assignment(net)
    tied = {name: unit for unit in net.units if _whole(unit, wanted) for name in unit.layers}
    for unit in dict.fromkeys(tied.get(name, Unit((name,))) for name in wanted):
        cores, on_cores = net.layers[unit.layers[0]].cores, wanted[unit.layers[0]]
        logits = net.leaning(unit).detach().double().cpu()
        slots = torch.repeat_interleave(
            torch.arange(len(cores)), torch.tensor([on_cores.get(core, 0) // unit.size for core in cores])
        )
        used = sorted(set(slots.tolist()))
        if len(used) == 1:
            chosen = slots
        elif len(used) == 2:  # the channels in the order in which they lean towards the first; equal ones as they are
            margin = logits[:, used[0]] - logits[:, used[1]]
            chosen = torch.empty_like(slots)
            chosen[torch.sort(margin, descending=True, stable=True).indices] = slots
        else:
            _, taken = linear_sum_assignment(-logits[:, slots].numpy())
            chosen = slots[torch.from_numpy(taken)]
        out |= dict.fromkeys(unit.layers, chosen.repeat_interleave(unit.size))
    return out


def _whole(unit: Unit, wanted: Counts) -> bool:
    """Whether numbers of channels are the same for all of a unit's layers, and whole."""
    found = [{core: k for core, k in wanted.get(name, {}).items() if k} for name in unit.layers]
    return all(one == found[0] for one in found) and all(k % unit.size == 0 for k in found[0].values()) and any(found)


def counts(net: MixedNet, unit: Unit, steps: Mapping[str, int]) -> list[int]:
    """Channel counts of the wide core at which a cost can change, or all of whole heads. steps: the cores' channel
    steps."""
    layer = net.layers[unit.layers[0]]
    k, core = len(layer.geometry.weight), wide(layer)
    if unit.size > 1:
        return list(range(0, k + 1, unit.size))
    on_wide = {0, k, *range(0, k, steps[layer.cores[core]])}
    for i, name in enumerate(layer.cores):
        if i != core:
            on_wide |= {k - n for n in range(0, k, steps[name])}
    return sorted(on_wide)


def repair(net: MixedNet, chosen: Assignment, cost: Cost, steps: Mapping[str, int]) -> tuple[Assignment, list[Move]]:
    """Give back to the wide format every channel that costs nothing there, layer by layer, most channels first, until
    no layer has one left, nor, where its counts are many, a step."""
    chosen, moves = dict(chosen), []
    now, settled = cost(chosen), False
    while not settled:
        settled = True
        for unit in net.units:
            before = _on_wide(net, unit, chosen)
            more = [n for n in counts(net, unit, steps) if n > before]
            while more:  # the most first; of many the middle next, as what costs nothing is what is below some number
                at = len(more) - 1 if len(more) <= MANY or more[-1] == len(chosen[unit.layers[0]]) else len(more) // 2
                tried = with_wide(net, unit, chosen, more[at])
                then = cost(tried)
                if then > now:
                    more = more[:at]
                    continue
                moves += [Move(name, before, more[at], now, then) for name in unit.layers]
                chosen, now, settled, before, more = tried, then, False, more[at], more[at + 1 :]
    return chosen, moves


def meet(
    net: MixedNet, chosen: Assignment, cost: Cost, target: float, steps: Mapping[str, int]
) -> tuple[Assignment, list[Move]]:
    """Move channels, the cheapest loss of margin for the time gained first, until the simulated cost is <= target.

    Returns what it reached; the caller sees from the last move (or the cost) whether that is the target.
    """
    chosen, moves = dict(chosen), []
    now = cost(chosen)
    # What each unit's best move gained when it was last looked at: those that gained most are looked at again, until
    # one of them still gains more than the others did.
    gained = dict.fromkeys(net.units, float("inf"))
    while now > target:
        best: tuple[float, Unit, int, Assignment, float] | None = None
        for unit, last in sorted(gained.items(), key=lambda one: -one[1]):
            if best is not None and best[0] >= last:
                break
            have, gained[unit] = _on_wide(net, unit, chosen), 0.0
            for count in _looked_at(net, unit, steps, have):
                if count == have:
                    continue
                tried = with_wide(net, unit, chosen, count)
                then = cost(tried)
                gain = (now - then) / (1 + len(unit.layers) * max(0, have - count))
                gained[unit] = max(gained[unit], gain)
                if then < now and (best is None or gain > best[0]):
                    best = (gain, unit, count, tried, then)
        if best is None:
            break
        _, unit, count, tried, then = best
        moves += [Move(name, _on_wide(net, unit, chosen), count, now, then) for name in unit.layers]
        chosen, now = tried, then
        gained[unit] = float("inf")
    return chosen, moves


def _on_wide(net: MixedNet, unit: Unit, chosen: Assignment) -> int:
    """Channels of each of a unit's layers on their wide core."""
    name = unit.layers[0]
    return int((chosen[name] == wide(net.layers[name])).sum())


def _looked_at(net: MixedNet, unit: Unit, steps: Mapping[str, int], have: int) -> list[int]:
    """Channel counts of the wide core that are tried: of many a few over all of them, and the next ones."""
    every = counts(net, unit, steps)
    if len(every) <= MANY:
        return every
    return [every[i] for i in looked_at(len(every), min(bisect_left(every, have), len(every) - 1))]
