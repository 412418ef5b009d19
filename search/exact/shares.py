"""The cheapest mapping of a network by cost alone: how many channels of each layer on which core, in hardware steps.

A layer's options are the shares at which a cost can change: multiples of its cores' channel steps. What each option
costs beside a base, all other layers as they are, makes a table; if layers were independent, its least entries were the
optimum, and the front of (cost, loss) over all choices a sum over layers, found exactly by dynamic programming
(`Table`, `front`). Layers are not quite independent: weights come in while the layer before computes, and tensors move
out where weights take their place. So costs are simulated, the table's optimum is where a descent begins, and that ends
only where no other option of any one layer is cheaper, simulated (`cheapest`). In the serial runtime, while all stays
in the main memory, the two are the same and the descent proves it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import numpy as np

from cosoc.search.exact.tiles import Ways, walk
from cosoc.search.oracle import Oracle
from cosoc.search.spaces.channels import cores_of
from cosoc.search.spaces.heads import units
from cosoc.search.spaces.sections import Floats
from cosoc.search.spaces.shares import Counts, ShareCosts
from cosoc.sim.errors import InputError
from cosoc.sim.figures import objective as parsed
from cosoc.sim.model.mapping import Mapping as NetworkMapping
from cosoc.sim.model.mapping import Runtime
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import Layer, Workload
from cosoc.sim.ways import splits

Option = Mapping[str, int]  # channels on each of a layer's cores
Choices = Mapping[tuple[str, ...], Sequence[Option]]  # by layers that go together, those preferred among equals first
Price = Callable[[Counts], float]  # of all layers that have a choice; inf where it cannot run

ROUNDING = 1e-9  # of sums over layers
GRID = 5  # options of a layer that a table or the first look of a descent has; beside them, neighbours are looked at


def channel_options(layer: Layer, soc: SoC, size: int = 1) -> list[Option]:
    """The shares of a layer's channels over one or two of its cores at which a cost can change, or, where so many go
    together, all in parts of that size; most channels on the core with the widest weights first, and then on the
    first."""
    cores = cores_of(layer, soc)
    found: dict[tuple[int, ...], None] = {}
    for pair in combinations(range(len(cores)), 2):
        steps = splits(layer, soc, (cores[pair[0]], cores[pair[1]]))
        for n, rest in steps if size == 1 else ((n, layer.k - n) for n in range(0, layer.k + 1, size)):
            found[tuple(n if i == pair[0] else rest if i == pair[1] else 0 for i in range(len(cores)))] = None
    bits = [0 if soc.cores[core].ternary else soc.cores[core].weight_bits for core in cores]
    wide = bits.index(max(bits))
    return [dict(zip(cores, ks, strict=True)) for ks in sorted(found, key=lambda ks: (-ks[wide], *(-k for k in ks)))]


def channel_choices(workload: Workload, soc: SoC) -> dict[tuple[str, ...], list[Option]]:
    """The options of every layer that several cores can run, of queries, keys and values of an attention together."""
    cores = {layer.name: cores_of(layer, soc) for layer in workload if layer.op == "conv"}
    return {one.layers: channel_options(workload[one.layers[0]], soc, one.size) for one in units(workload, cores)}


def counts_by(options: Mapping[tuple[str, ...], Option]) -> Counts:
    """The channels of each layer, by an option of each that go together."""
    return {name: option for layers, option in options.items() for name in layers}


def cheapest(
    soc: SoC, workload: Workload, objective: str, oracle: Oracle | None = None, runtime: Runtime = "overlapped",
    choices: Choices | None = None, name: str = "cheapest",
) -> NetworkMapping:  # fmt: skip
    """The cheapest mapping by an objective (a name of `OBJECTIVES` or a product), simulated, whatever accuracy it
    leaves: no other option of any one layer is cheaper. choices: `channel_choices` by default. Tiles are the tiler's.

    Raises InputError where nothing that was tried can run.
    """
    costs, value = ShareCosts(workload, soc, runtime, oracle=oracle), parsed(objective)
    made = channel_choices(workload, soc) if choices is None else choices
    found, _ = least(made, priced(lambda counts: float(value(costs.simulated(counts)))))
    return costs.mapping(found, name)


def nearest(choices: Choices, counts: Counts) -> Counts:
    """Of each layer the option that is nearest to given counts, of which cores without channels may be missing."""

    def away(option: Option, layers: tuple[str, ...]) -> int:
        return sum(abs(k - counts[name].get(core, 0)) for name in layers for core, k in option.items())

    return counts_by({layers: min(options, key=partial(away, layers=layers)) for layers, options in choices.items()})


def priced(cost: Price) -> Price:
    """A cost that is infinite where the machine cannot run it."""

    def price(counts: Counts) -> float:
        try:
            return cost(counts)
        except InputError:
            return float("inf")

    return price


def least(choices: Choices, price: Price, starts: Sequence[Counts] = ()) -> tuple[Counts, float]:
    """The cheapest counts found, and their price. starts: where to look, too, beside all layers on one core each."""
    bases = [nearest(choices, start) for start in starts] + pure(choices)
    base = min(bases, key=price)  # the first of equal ones
    if price(base) == float("inf"):
        raise InputError("no share of channels that was tried can run: some layer has no tile that fits")
    summed = table(choices, base, price).cheapest()
    return descend(choices, price, min((base, summed), key=price))


def pure(choices: Choices) -> list[Counts]:
    """All layers by their first option, and all on each core that can take them, the others by their first."""
    cores = dict.fromkeys(core for options in choices.values() for core in options[0])
    out: list[Counts] = [counts_by({layers: options[0] for layers, options in choices.items()})]
    for core in cores:
        on_core = {}
        for layers, options in choices.items():
            k = sum(options[0].values())
            on_core[layers] = next((option for option in options if option.get(core) == k), options[0])
        out.append(counts_by(on_core))
    return out


def descend(choices: Choices, price: Price, start: Counts) -> tuple[Counts, float]:
    """Give each layer its cheapest option, the others as they are, until no layer has a cheaper one; of equal ones the
    first. The counts and their price."""
    now, value = dict(start), price(start)
    settled = False
    while not settled:
        settled = True
        for layers, options in choices.items():
            at = options.index(now[layers[0]])
            found = [(price(now | dict.fromkeys(layers, options[i])), i) for i in looked_at(len(options), at)]
            best, i = min(found)
            if (best, i) < (value, at):
                now, value, settled = now | dict.fromkeys(layers, options[i]), best, False
    return now, value


def looked_at(n: int, at: int) -> list[int]:
    """Of n options in a row a few over all of the row, and the neighbours of the one at hand."""
    spread = np.linspace(0, n - 1, min(n, GRID)).round().astype(int).tolist()
    return sorted({*spread, max(at - 1, 0), at, min(at + 1, n - 1)})


@dataclass(frozen=True)
class Table:
    """What options of each layer add to a base's value, all other layers as in the base. options: those asked, by
    layer; added: [options], by layer."""

    value: float
    options: Choices
    added: Mapping[tuple[str, ...], Floats]

    def cheapest(self) -> Counts:
        """The sum's optimum: each layer by the option that adds least; the first of equal ones."""
        return counts_by(
            {layers: options[int(self.added[layers].argmin())] for layers, options in self.options.items()}
        )


def beside(choices: Choices, base: Counts) -> dict[tuple[str, ...], list[Option]]:
    """A few options of each layer over all of their range, and those next to a base's."""
    return {
        layers: [every[i] for i in looked_at(len(every), every.index(base[layers[0]]))]
        for layers, every in choices.items()
    }


def table(choices: Choices, base: Counts, price: Price) -> Table:
    """A table of a few options of each layer beside a base."""
    value, options = price(base), beside(choices, base)
    added = {
        layers: np.array([price({**base, **dict.fromkeys(layers, one)}) - value for one in some])
        for layers, some in options.items()
    }
    return Table(value, options, added)


@dataclass(frozen=True)
class Front:
    """The front of (cost, loss) over all choices of two tables with the same options, were layers independent: exact.

    points: [n, 2], each with the counts that `counts` reads back.
    """

    costs: Table
    points: Floats
    _ways: Ways

    def counts(self, worth: Floats) -> Counts:
        """The choice whose worth [n] is least."""
        _, choices, _ = self._ways.best(worth)
        return counts_by(
            {layers: options[i] for (layers, options), i in zip(self.costs.options.items(), choices, strict=True)}
        )

    def weighted(self, strength: float) -> Counts:
        """The least loss + strength x cost."""
        return self.counts(self.points[:, 1] + strength * self.points[:, 0])

    def within(self, most: float) -> Counts:
        """The least loss of those that cost no more; the cheapest where none does."""
        cost, loss = self.points.T
        holds = cost <= most + ROUNDING * abs(most)
        return self.counts(np.where(holds, loss, loss.max() + 1 + cost - cost.min()))


def front(costs: Table, losses: Table) -> Front:
    """The front of two tables with the same options."""
    low = [(added[np.isfinite(added)].min(), losses.added[name].min()) for name, added in costs.added.items()]
    sections = {}
    for i, (name, smallest) in enumerate(zip(costs.added, low, strict=True)):
        sections[i, i + 1] = np.stack((costs.added[name], losses.added[name]), 1) - smallest
    ways = walk(len(sections), sections)
    start = np.array((costs.value, losses.value)) + np.sum(low, 0)
    return Front(costs, ways.fronts[-1] + start, ways)
