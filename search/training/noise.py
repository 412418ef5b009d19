"""What is inexact in analog arrays, at the levels that a SoC file states (`noise` of the core).

adc       columns are read by converters of so many bits, with a range a layer, and Gaussian noise before they round
weights   every cell is off by Gaussian noise, of the largest weight of its column
drift     all column sums change with the temperature: one gain a chip, as far off as the file says, at most

Cells and temperature are a chip's: one draw of them is one chip. A conversion's noise is drawn anew each time. Channels
on digital cores are computed as ever, to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from cosoc.search.spaces.channels import MixedLayer, MixedNet
from cosoc.search.training.post import hooked, mse_clip
from cosoc.search.training.quant import TINY
from cosoc.sim.cores.analog_array import AnalogArray, AnalogNoise
from cosoc.sim.errors import InputError
from cosoc.sim.model.soc import SoC

Kind = Literal["adc", "weights", "drift"]
KINDS: tuple[Kind, ...] = get_args(Kind)
RANGES = tuple(i / 20 for i in range(2, 21))  # of the largest sum, among which a converter's range is chosen


@dataclass(frozen=True)
class Noise:
    """What acts on a network's analog channels. levels: of the chip; kinds: which of it."""

    levels: AnalogNoise | None = None
    kinds: tuple[Kind, ...] = ()

    @property
    def adc_bits(self) -> int:
        """Of the converters that columns are read by; 0 where they are read as they are."""
        return self.levels.adc_bits if self.levels is not None and "adc" in self.kinds else 0

    def draw(self, net: MixedNet, draws: torch.Generator) -> None:
        """Let a network run on a chip that is drawn, the same for equal draws and layers, whatever its mapping. Its
        conversions go on drawing from the generator."""
        if self.levels is None or not self.kinds:
            return
        off = 2 * float(torch.rand((), generator=draws)) - 1
        for layer in net.layers.values():
            if not any(layer.analog):
                continue
            weight = layer.geometry.weight
            if "weights" in self.kinds:
                drawn = torch.randn(weight.shape, generator=draws, dtype=weight.dtype, device=draws.device)
                layer.errors = drawn.to(weight.device).mul_(self.levels.weight_sigma)
            if "drift" in self.kinds:
                layer.gain = 1.0 + self.levels.gain_per_k * self.levels.off_by_k * off
            if "adc" in self.kinds and layer.converter is not None:
                layer.converter.disturb(self.levels.adc_noise_lsb, draws)


def quiet(net: MixedNet) -> None:
    """Undo what `Noise.draw` has done."""
    for layer in net.layers.values():
        layer.errors, layer.gain = None, 1.0
        if layer.converter is not None:
            layer.converter.quiet()


def noise_of(soc: SoC, kinds: tuple[Kind, ...]) -> Noise:
    """Some kinds of noise at the levels of a SoC's analog cores. InputError where it has none, states no levels, or
    different ones, or one of the kinds is 0."""
    if not kinds:
        return Noise()
    stated = {name: core.noise for name, core in soc.cores.items() if isinstance(core, AnalogArray)}
    if not stated:
        raise InputError(f"noise {','.join(kinds)}: {soc.name} has no analog core (model analog_array)")
    for name, levels in stated.items():
        if levels is None:
            raise InputError(f"noise {','.join(kinds)}: core {name} of {soc.name} states no levels; give it `noise`")
    if len(set(stated.values())) > 1:
        raise InputError(f"noise: the analog cores of {soc.name} ({', '.join(stated)}) state different levels")
    name, levels = next(iter(stated.items()))
    assert levels is not None
    zero = {"weights": levels.weight_sigma, "drift": levels.gain_per_k, "adc": 1.0}  # a converter rounds, at least
    key = {"weights": "weight_sigma", "drift": "gain_per_k"}
    for kind in kinds:
        if not zero[kind]:
            raise InputError(f"noise {kind}: cores.{name}.noise.{key[kind]} of {soc.name} is 0, so it changes nothing")
    return Noise(levels, kinds)


def kinds_of(text: str) -> tuple[Kind, ...]:
    """Kinds of noise by a list with commas, or `all`. InputError for an unknown one."""
    asked = KINDS if text == "all" else tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    known: Mapping[str, Kind] = {kind: kind for kind in KINDS}
    for name in asked:
        if name not in known:
            raise InputError(f"no noise named {name!r}; there is all, {', '.join(KINDS)}")
    return tuple(known[name] for name in asked)


def set_ranges(net: MixedNet, bits: int, images: Tensor) -> None:
    """Give a network that was trained without them converters of so many bits. Their ranges are those of some shares
    of the largest sum of the images that lose least (mean square)."""
    seen: dict[str, Tensor] = {}

    def watched(name: str, layer: MixedLayer) -> Any:
        def look(module: nn.Module, given: tuple[Tensor, ...]) -> None:
            on = layer.on_analog() > 0
            if bool(on.any()):
                seen[name] = torch.cat(
                    [part.movedim(_channels(part), 0)[on].flatten() for part in layer.column_sums(given[0])]
                )

        return layer.register_forward_pre_hook(look)

    net.set_adc(0)
    net.eval()
    with torch.no_grad(), hooked([watched(name, layer) for name, layer in net.layers.items() if any(layer.analog)]):
        net(images)
    net.set_adc(bits)
    for name, layer in net.layers.items():
        if layer.converter is not None:
            layer.converter.unseen.zero_()
            if name in seen:
                found = mse_clip([(seen[name], True)], bits, float(seen[name].abs().max()), RANGES)
                layer.converter.log_clip.data.fill_(max(found, TINY)).log_()
    net.eval()


def _channels(part: Tensor) -> int:
    """The dimension of the channels: the second of maps, the last of what a linear layer gives."""
    return 1 if part.dim() == 4 else part.dim() - 1
