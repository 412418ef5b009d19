"""A network with its choices open: by channel, or by operator; what one would try first, and how to settle.

Training it (warm-up, points by strength or target, repair, fine-tuning) is `cosoc.search.training.space`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from cosoc.search.exact.shares import Choices, channel_choices, nearest
from cosoc.search.spaces import operators
from cosoc.search.spaces.channels import Assignment, MixedNet, make_contiguous, prepare
from cosoc.search.spaces.shares import Counts
from cosoc.sim.errors import InputError
from cosoc.sim.importers.build import Input
from cosoc.sim.importers.torch_export import from_module
from cosoc.sim.manual import named_mapping
from cosoc.sim.model.mapping import Mapping as NetworkMapping
from cosoc.sim.model.mapping import Runtime
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import Workload

REFERENCE, CHEAPEST = "all_8bit", "cheapest"  # the ends of a front of channels; the second of all fronts

TERNARY = ("io_8bit_backbone_ternary", "all_ternary")  # what one would try first where there is such a format


@dataclass(frozen=True)
class Opened:
    """A network and a machine with the choices between cores, or operators, open.

    float_net: what is trained in floating point; workload: its layers. reference: the mapping that costs are relative
    to, by its name among the manual ones. manual: the baselines; None for the cheapest mapping, which is searched.
    choices: of layers that have a choice, those that go together at once, the shares at which a cost can change. wide:
    what the first kind of channels is called. steps: channels by which a cost can change, by core. grain: channels by
    which tiles are chosen anew while shares are soft. quantised: the float network as it is, with all choices open.
    draw: called before each step of warming up, with its generator, and before evaluation with none. fixed: makes the
    float network the one of a mapping; None where it is the same for all. settled: a searched assignment as the machine
    can have it, before it is repaired; contiguous: after.
    """

    float_net: nn.Module
    workload: Workload
    reference: NetworkMapping
    manual: Mapping[str, NetworkMapping | None]
    choices: Choices
    wide: str
    steps: Mapping[str, int]
    grain: int
    quantised: Callable[[], MixedNet]
    draw: Callable[[torch.Generator | None], None]
    fixed: Callable[[NetworkMapping], None] | None
    settled: Callable[[MixedNet, Assignment], Assignment]
    contiguous: Callable[[MixedNet, Assignment], Assignment]

    @property
    def open_layers(self) -> list[str]:
        """The layers that have a choice."""
        return [name for layers in self.choices for name in layers]

    @property
    def base(self) -> Counts:
        """The reference's option of each layer that has a choice."""
        plans = self.reference.layers
        given = {name: {part.core: part.channels for part in plans[name].parts} for name in self.open_layers}
        return nearest(self.choices, given)


def channel_space(
    net: nn.Module, item: Input, soc: SoC, runtime: Runtime, name: str, manual: Sequence[str] | None
) -> Opened:
    """Channels to cores: formats differ, the operator does not. manual: names of mappings, None for all known."""
    ternary = any(core.ternary for core in soc.cores.values())
    known = (REFERENCE, *TERNARY, CHEAPEST) if ternary else (REFERENCE, CHEAPEST)
    workload = from_module(net, [item], name)

    def named(mapping: str) -> NetworkMapping | None:
        return None if mapping == CHEAPEST else named_mapping(mapping, workload, soc, runtime)

    return Opened(
        float_net=net,
        workload=workload,
        reference=named_mapping(REFERENCE, workload, soc, runtime),
        manual={mapping: named(mapping) for mapping in (known if manual is None else manual)},
        choices=channel_choices(workload, soc),
        wide="8 bit",
        steps={core: model.channel_step for core, model in soc.cores.items()},
        grain=1,
        quantised=lambda: prepare(copy.deepcopy(net), workload, soc),
        draw=lambda generator: None,
        fixed=None,
        settled=lambda mixed, chosen: chosen,
        contiguous=lambda mixed, chosen: make_contiguous(mixed, workload, chosen, item.shape)[0],
    )


def operator_space(
    net: nn.Module,
    item: Input,
    soc: SoC,
    runtime: Runtime,
    name: str,
    manual: Sequence[str] | None,
    template: operators.Template,
    cut: operators.Cut,
) -> Opened:
    """Operators to engines: blocks of the network become choices (`operators.with_choices`).

    manual: names of `operators.MANUAL_CUTS`, None for all. Raises InputError for other names, and where nothing can be
    chosen.
    """
    supernet = operators.with_choices(net, [item], soc, template, name)
    cuts = operators.manual_cuts(supernet)
    manual = (*cuts, CHEAPEST) if manual is None else manual
    unknown = [mapping for mapping in manual if mapping not in (*cuts, CHEAPEST)]
    if unknown:
        there = ", ".join((*cuts, CHEAPEST))
        raise InputError(f"no manual mapping named {unknown[0]!r} in this space; there is {there}")
    known = {n: operators.mapping_of(supernet, first, runtime, soc, n) for n, first in cuts.items()}

    def draw(generator: torch.Generator | None) -> None:
        if generator is None:
            supernet.split(cuts["half"])
        else:
            supernet.draw(generator)

    def fixed(mapping: NetworkMapping) -> None:
        supernet.split({layer: mapping.layers[layer].channels_on(pair[0]) for layer, pair in supernet.pairs.items()})

    return Opened(
        float_net=supernet.net,
        workload=supernet.workload,
        reference=known["all_first"],
        manual={mapping: known.get(mapping) for mapping in manual},
        choices=operators.choices(supernet),
        wide=template.partition("-")[0],
        steps=dict.fromkeys(soc.cores, operators.STEP),
        grain=operators.STEP,
        quantised=partial(operators.prepare, supernet, soc, cut),
        draw=draw,
        fixed=fixed,
        settled=operators.rounded,
        contiguous=lambda mixed, chosen: chosen,
    )
