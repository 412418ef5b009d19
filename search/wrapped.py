"""A torch module whose mapping is learned in a training loop of the user's own.

    model = cosoc.wrap(net, "diana", example=(1, 3, 32, 32))
    optimiser = torch.optim.Adam(model.parameters())
    for x, y in batches:
        loss = cross_entropy(model(x), y) + strength * model.cost()
        ...

It is the search's own network (`spaces.opened`): every layer that several cores can run has one quantiser a core and
one logit a channel and core, its batch norms are folded, and what layers read is quantised. In training mode gates are
soft, at `temperature`; in evaluation mode each channel is on its likeliest core, as `mapping()` has it. `cost()` is the
calibrated estimate of the gates' channel counts (`spaces.shares`), with a gradient in the logits.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from cosoc.search.spaces.channels import assignment, fix, to_mapping
from cosoc.search.spaces.opened import Opened, channel_space, operator_space
from cosoc.search.spaces.shares import ShareCosts
from cosoc.search.training.choose import all_counts
from cosoc.search.training.opening import check_channels, seeded
from cosoc.search.training.train import generator
from cosoc.sim.errors import InputError
from cosoc.sim.figures import Figures, objective
from cosoc.sim.importers.build import Input
from cosoc.sim.model.mapping import Mapping, Runtime
from cosoc.sim.model.soc import SoC
from cosoc.sim.theta import Theta

Space = Literal["channels", "operators"]
Gates = Literal["expectation", "montecarlo"]

PRIMED = 24  # random mappings that the estimate is fitted to, where it has not been fitted before
TEMPLATE: Literal["conv-dw"] = "conv-dw"
CUT: Literal["cumulative"] = "cumulative"


class Wrapped(nn.Module):
    """A network with its choices between cores open. Made by `wrap`.

    soc, workload, runtime: what its cost and its mapping are of. temperature: of the gates, from 1 down; colder ones
    are nearer to a choice. gates: how they are made while training: `expectation` (soft ones) or `montecarlo` (one core
    a channel, drawn, with the gradient of the soft ones).
    """

    def __init__(self, opened: Opened, soc: SoC, runtime: Runtime, costs: ShareCosts, seed: int) -> None:
        super().__init__()
        self.net = opened.quantised()
        self.soc, self.workload, self.runtime = soc, opened.workload, runtime
        self.temperature = 1.0
        self.gates: Gates = "expectation"
        self._opened, self._costs = opened, costs
        self._draws = generator(seed, "wrap")
        self._made: tuple[object, ...] | None = None  # what the gates were made from

    def forward(self, x: Tensor) -> Tensor:
        """Scores of the network for a batch x, under the gates."""
        if self.training and self.gates == "montecarlo":
            self._made = None  # drawn anew for each batch
        self._make()
        out: Tensor = self.net(x)
        return out

    def cost(self, of: str = "latency", grain: int = 1) -> Tensor:
        """What the mapping costs by the estimate, a scalar with a gradient in the logits: seconds, joules, bytes or
        products of their powers, as `of` says (`cosoc.sim.figures`). Under soft gates it is that of expected channel
        counts. grain: channels by which tiles are looked for anew; coarser is faster."""
        self._make()
        shares = {n: {core: k.cpu() for core, k in on.items()} for n, on in self.net.shares().items()}
        out: Tensor = objective(of)(self._costs.figures(shares, max(grain, self._opened.grain)))
        return out

    def estimated(self) -> Figures:
        """The estimate of `mapping()`."""
        return self._costs.estimated(all_counts(self.net, self._chosen()))

    def simulated(self, tolerance: float = 0.05) -> Figures:
        """The simulated figures of `mapping()`. Where the estimate is further off than `tolerance`, it is fitted again
        to all that has been simulated so far; to be called now and then while training, as shares leave the mappings
        that it was fitted to."""
        return self._costs.compare(all_counts(self.net, self._chosen()), tolerance).simulated

    def mapping(self, name: str = "wrapped") -> Mapping:
        """The mapping of each channel's likeliest core: channels counted by core, as `simulate` takes it."""
        return to_mapping(self.net, self._chosen(), self.runtime, name)

    def shares(self) -> dict[str, dict[str, float]]:
        """Channels on each core under the gates as they are, by layer that has a choice."""
        self._make()
        return {n: {core: float(k.detach()) for core, k in on.items()} for n, on in self.net.shares().items()}

    def settle(self) -> None:
        """Decide, in place: each channel goes to its likeliest core, those of a core are made contiguous, as a chip
        needs them, and what is trained from here on is weights. Where layers that must agree on an order do not, some
        channels change cores; how many each core has stays."""
        chosen = self._opened.contiguous(self.net, self._chosen())
        for name, layer in self.net.searchable().items():
            layer.prefer()
            layer.lean(chosen[name].to(layer.geometry.weight.device), SURE)
            for decision in layer.decisions():
                decision.requires_grad_(False)
        self._made = None

    def decisions(self) -> list[nn.Parameter]:
        """The logits: what decides on the cores. All other parameters are weights and ranges of quantisers."""
        return self.net.arch_parameters()

    def _chosen(self) -> dict[str, Tensor]:
        return self._opened.settled(self.net, assignment(self.net))

    def _make(self) -> None:
        """The gates from the logits, where these, or what else they follow from, have changed."""
        if self.gates not in get_args(Gates):
            raise InputError(f"gates {self.gates!r}: expectation or montecarlo is needed")
        versions = tuple(p._version for p in self.net.arch_parameters())
        made = (self.training, self.gates, self.temperature, torch.is_grad_enabled(), versions)
        if made == self._made and not self.training:
            return
        if not self.training:
            fix(self.net, self._chosen())
        elif made != self._made or self.gates == "expectation":
            self.net.set_gates(self.gates, self.temperature, self._draws)
        self._made = made


SURE = 20.0  # of a settled channel's logit above the others: odds of e^20 to 1


def wrap(
    model: nn.Module,
    soc: SoC,
    example: Input,
    space: Space,
    runtime: Runtime,
    theta: Theta | None,
    primed: int,
    seed: int,
) -> Wrapped:
    """The module with its choices open; it is left as it was. example: its input, batch of one. theta: of the
    estimate; None where it is fitted to so many random mappings first. InputError where the network cannot be read, or
    there is nothing to choose."""
    if len(example.shape) < 2 or example.shape[0] != 1:
        found = ",".join(map(str, example.shape))
        raise InputError(f"example of {found}: a batch of one is needed, such as (1, 3, 32, 32)")
    net, name = copy.deepcopy(model).cpu(), type(model).__name__.lower()
    item = replace(example, shape=example.shape[1:])
    if space == "channels":
        opened = channel_space(net, item, soc, runtime, name, ())
        check_channels(opened.workload, soc)
    else:
        with seeded(seed, "blocks"):
            opened = operator_space(net, item, soc, runtime, name, (), TEMPLATE, CUT)
    costs = ShareCosts(opened.workload, soc, runtime)
    if theta is not None:
        costs.start(theta)
    elif primed:
        costs.prime(primed, seed)
    return Wrapped(opened, soc, runtime, costs, seed)


__all__ = ["PRIMED", "Gates", "Space", "Wrapped", "wrap"]
