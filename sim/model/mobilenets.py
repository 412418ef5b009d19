"""MobileNets of any width and input size, by their published rule: V1 (arXiv 1704.04861) and V2 (arXiv 1801.04381)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from cosoc.sim.model.workload import INPUT, Layer, Workload

# Channels and stride of the separable blocks of V1 behind a stem of 32.
V1 = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *(((512, 1),) * 5), (1024, 2), (1024, 1))
# Expansion, channels, repeats and first stride of the inverted residuals of V2 behind a stem of 32.
V2 = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
STEM, LAST, CLASSES, STEP = 32, 1280, 1000, 8
NAME = re.compile(r"mobilenet_v([12])_(\d+)_(\d\.\d+)")  # mobilenet_v1_224_0.75: version, input size, width


def widened(channels: int, width: float) -> int:
    """Channels times a width, to the nearest multiple of 8 that is no less than 90 % of it."""
    nearest = max(STEP, int(channels * width + STEP / 2) // STEP * STEP)
    return nearest + STEP * (nearest < 0.9 * channels * width)


@dataclass
class _Net:
    """Layers so far. c, edge: channels and rows of the last output."""

    c: int
    edge: int
    layers: list[Layer] = field(default_factory=list)

    @property
    def last(self) -> str:
        return self.layers[-1].name if self.layers else INPUT

    def conv(self, name: str, k: int, f: int = 1, stride: int = 1, depthwise: bool = False, fn: str = "relu6") -> None:
        """A convolution of what came last; f: edge of its window."""
        out = -(-self.edge // stride)
        own = Layer(
            name, "conv", (self.last,), k, self.c, out, out, self.edge, self.edge, f, f, stride, stride, f // 2, f // 2,
            groups=self.c if depthwise else 1, activation=fn,
        )  # fmt: skip
        self.layers.append(own)
        self.c, self.edge = k, out

    def classes(self) -> None:
        """The mean over all pixels, and a fully connected layer."""
        c, edge = self.c, self.edge
        self.layers.append(Layer("pool", "avg_pool", (self.last,), c, c, 1, 1, edge, edge, edge, edge, edge, edge))
        self.edge = 1
        self.conv("fc", CLASSES, fn="")


def mobilenet(version: int, edge: int, width: float) -> Workload:
    """MobileNet V1 or V2 for images of edge x edge pixels, with 1,000 classes."""
    net = _Net(3, edge)
    net.conv("stem", widened(STEM, width), 3, 2)
    if version == 1:
        for n, (channels, stride) in enumerate(V1):
            net.conv(f"block{n}.dw", net.c, 3, stride, depthwise=True)
            net.conv(f"block{n}.pw", widened(channels, width))
    else:
        n = 0
        for expansion, channels, repeats, first in V2:
            for stride in (first, *((1,) * (repeats - 1))):
                before, came = net.last, net.c
                if expansion > 1:
                    net.conv(f"block{n}.expand", net.c * expansion)
                net.conv(f"block{n}.dw", net.c, 3, stride, depthwise=True)
                net.conv(f"block{n}.project", widened(channels, width), fn="")
                if stride == 1 and net.c == came:
                    size = (net.c, net.c, net.edge, net.edge, net.edge, net.edge)
                    net.layers.append(Layer(f"block{n}.add", "add", (net.last, before), *size))
                n += 1
        net.conv("last", max(LAST, widened(LAST, width)))
    net.classes()
    name = f"mobilenet_v{version}_{edge}_{width:g}"
    return Workload(name, (3, edge, edge), tuple(net.layers), (net.last,), source=f"MobileNet V{version} by its rule")


def by_name(name: str) -> Workload | None:
    """The network of a name like mobilenet_v2_160_0.5 (version, input size, width); None if it is none of these."""
    found = NAME.fullmatch(name)
    if found is None or not 32 <= int(found[2]) <= 1024 or not 0 < float(found[3]) <= 4:
        return None
    return mobilenet(int(found[1]), int(found[2]), float(found[3]))
