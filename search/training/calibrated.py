"""A network calibrated, not trained: its ranges, biases and channels from a few images, for any shares of channels.

What a search by `--calibrate-only` reports, and where one that trains may begin.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cosoc.search.exact.shares import Front, Price
from cosoc.search.spaces.channels import MixedNet, fix
from cosoc.search.spaces.opened import Opened
from cosoc.search.spaces.shares import Counts
from cosoc.search.training.parts import Part, Split
from cosoc.search.training.post import Clip, correct_biases, float_means, set_ranges
from cosoc.search.training.repair import placed
from cosoc.search.training.sensitivity import Loss, Sensitivities, Told, lean, sensitive_front, sensitivities
from cosoc.search.training.train import generator


@dataclass(frozen=True)
class Calibration:
    """images: of the training part, by which ranges, biases and sensitivities are found. clip: where activations
    are clipped, by least squares or a percentile."""

    images: int = 256
    clip: Clip = "mse"


CALIBRATION = Calibration()


@dataclass(frozen=True)
class Calibrated:
    """What calibrating a float network with channels open has found. images: by which; sensitivities: see there."""

    opened: Opened
    images: Tensor
    clip: Clip
    sensitivities: Sensitivities

    def begin(self, net: MixedNet) -> None:
        """Set ranges and ternary scales of the network, and let its channels lean to where they lose least."""
        set_ranges(net, self.images, self.clip)
        lean(net, self.sensitivities)

    def front(self, net: MixedNet, price: Price) -> Front:
        """The front of costs, simulated, and losses, by sensitivity."""
        return sensitive_front(net, self.sensitivities, self.opened.choices, self.opened.base, price)

    def settle(self, net: MixedNet, counts: Counts) -> None:
        """Make the network that of some shares, in place: channels where they lose least, those of a core side by
        side, biases corrected."""
        self.begin(net)
        fix(net, self.opened.contiguous(net, placed(net, counts)))
        correct_biases(net, self.images, float_means(net, self.images))


def calibrated(
    opened: Opened, net: MixedNet, part: Part, how: Calibration, loss: Loss, seed: int, told: Told
) -> Calibrated:
    """Calibrate a float network, by images that are drawn from a part of the data. net: the network, quantised, which
    is changed."""
    drawn = torch.randperm(len(part), generator=generator(seed, "calibration"))[: how.images]
    images = Split(*part.items(drawn.sort().values))
    set_ranges(net, images.x, how.clip)  # and the ternary scales, by which its formats change it
    return Calibrated(opened, images.x, how.clip, sensitivities(net, images, loss, told))
