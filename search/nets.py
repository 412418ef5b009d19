"""The built-in networks, as plain torch modules to train, to search on and to read as workloads.

Every convolution is Conv2d(bias=False) + BatchNorm2d, activations are ReLU, residual sums are `+`. Module paths become
layer names. Shortcuts that change shape are 1x1 convolutions with batch norm. Strided convolutions pad both sides
alike, where TensorFlow's "same" pads below and to the right: same sizes and counts, windows shifted by up to a pixel.

`python -m cosoc.search.nets` writes every network as socs/workloads/NAME.yaml, so that simulating needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from cosoc.sim.errors import InputError
from cosoc.sim.workload import Workload

HEADER = "# Written by `python -m cosoc.search.nets` from the module named under source; do not edit.\n"


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        out: Tensor = self.relu(y + self.downsample(x))
        return out


class ResNet(nn.Module):
    """Residual network: one stage for each of `widths`, of `blocks` basic blocks each.

    `pooled_stem` is ImageNet's (7x7/2, then a 3x3/2 maximum); otherwise the stem is one 3x3 convolution.
    Without `num_classes` the network ends with its last stage's map.
    """

    def __init__(
        self, in_channels: int, num_classes: int | None, widths: tuple[int, ...], blocks: int, pooled_stem: bool
    ) -> None:
        super().__init__()
        kernel, stride = (7, 2) if pooled_stem else (3, 1)
        self.conv1 = nn.Conv2d(in_channels, widths[0], kernel, stride, padding=kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU()
        self.maxpool: nn.Module = nn.MaxPool2d(3, 2, padding=1) if pooled_stem else nn.Identity()
        self.stages = [f"layer{i + 1}" for i in range(len(widths))]
        for name, (inputs, outputs) in zip(self.stages, pairwise((widths[0], *widths)), strict=True):
            first = BasicBlock(inputs, outputs, stride=1 if name == "layer1" else 2)
            rest = [BasicBlock(outputs, outputs, stride=1) for _ in range(blocks - 1)]
            self.add_module(name, nn.Sequential(first, *rest))
        self.classifier = num_classes is not None
        if num_classes is not None:
            self.avgpool = nn.AdaptiveAvgPool2d(1)
            self.fc = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for name in self.stages:
            x = getattr(self, name)(x)
        if self.classifier:
            x = self.fc(torch.flatten(self.avgpool(x), 1))
        return x


class SeparableBlock(nn.Module):
    """A 3x3 depthwise convolution and a pointwise one, each with batch norm and ReLU (Howard et al. 2017)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.dw = nn.Conv2d(inputs, inputs, 3, stride, padding=1, groups=inputs, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.pw = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.dw(x)))
        out: Tensor = self.relu(self.bn2(self.pw(x)))
        return out


class SeparableNet(nn.Module):
    """A stem, separable blocks of (output channels, stride), a global average and a classifier.

    `stem` is (channels, kernel, stride, padding), kernel and padding as (rows, columns).
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        stem: tuple[int, tuple[int, int], int, tuple[int, int]],
        blocks: list[tuple[int, int]],
    ) -> None:
        super().__init__()
        channels, kernel, stride, padding = stem
        self.conv1 = nn.Conv2d(in_channels, channels, kernel, stride, padding, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        inputs = [channels, *(outputs for outputs, _ in blocks)]
        self.blocks = nn.Sequential(
            *(SeparableBlock(i, outputs, s) for i, (outputs, s) in zip(inputs, blocks, strict=False))
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.relu(self.bn1(self.conv1(x))))
        out: Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return out


class DenseBlock(nn.Module):
    """A fully connected layer with batch norm and ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.fc = nn.Linear(inputs, outputs, bias=False)
        self.bn = nn.BatchNorm1d(outputs)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.bn(self.fc(x)))
        return out


class Autoencoder(nn.Module):
    """Fully connected: `features` in and out, four blocks to either side of a narrow code. Takes [n, features, ...]."""

    def __init__(self, features: int, width: int, code: int) -> None:
        super().__init__()
        sizes = (features, width, width, width, width, code, width, width, width, width)
        self.blocks = nn.Sequential(*(DenseBlock(i, o) for i, o in pairwise(sizes)))
        self.out = nn.Linear(width, features)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(self.blocks(torch.flatten(x, 1)))
        return out


class DigitsCnn(nn.Module):
    """Three convolutions and a classifier: the smallest network worth mapping, for 8x8 digits."""

    def __init__(self, in_channels: int, num_classes: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, 2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(2 * width)
        self.conv3 = nn.Conv2d(2 * width, 2 * width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(2 * width)
        self.relu = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(2 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.relu(self.bn3(self.conv3(x)))
        out: Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return out


def resnet8(in_channels: int = 3, num_classes: int = 10, width: int = 16) -> nn.Module:
    """MLPerf Tiny's image classification network."""
    return ResNet(in_channels, num_classes, (width, 2 * width, 4 * width), blocks=1, pooled_stem=False)


def resnet20(in_channels: int = 3, num_classes: int = 10, width: int = 16) -> nn.Module:
    """He et al.'s CIFAR network, with convolutions on the two shortcuts that change shape (their option B)."""
    return ResNet(in_channels, num_classes, (width, 2 * width, 4 * width), blocks=3, pooled_stem=False)


def resnet18_cifar(in_channels: int = 3, num_classes: int = 10, width: int = 64) -> nn.Module:
    """ResNet-18 with a 3x3 stem and no pooling, for 32x32 images; ten classes unless told otherwise."""
    widths = (width, 2 * width, 4 * width, 8 * width)
    return ResNet(in_channels, num_classes, widths, blocks=2, pooled_stem=False)


def resnet18(in_channels: int = 3, num_classes: int = 1000, width: int = 64) -> nn.Module:
    """ResNet-18 with ImageNet's stem."""
    widths = (width, 2 * width, 4 * width, 8 * width)
    return ResNet(in_channels, num_classes, widths, blocks=2, pooled_stem=True)


def resnet18_64(in_channels: int = 3, num_classes: int = 200, width: int = 64) -> nn.Module:
    """ResNet-18 with ImageNet's stem, for 64x64 images of 200 classes."""
    return resnet18(in_channels, num_classes, width)


def resnet18_segment(in_channels: int = 3, width: int = 64) -> nn.Module:
    """ResNet-18's first segment: 7x7/2, pool, and the first stage's four convolutions and two sums."""
    return ResNet(in_channels, None, (width,), blocks=2, pooled_stem=True)


def _mobilenet_v1(in_channels: int, num_classes: int, width: float, stem_stride: int) -> nn.Module:
    plan = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
    blocks = [(round(channels * width), stride) for channels, stride in plan]
    return SeparableNet(in_channels, num_classes, (round(32 * width), (3, 3), stem_stride, (1, 1)), blocks)


def mobilenet_v1_025(in_channels: int = 3, num_classes: int = 2, width: float = 0.25) -> nn.Module:
    """MobileNetV1 at a quarter of its width: MLPerf Tiny's visual wake words network, for 96x96 images."""
    return _mobilenet_v1(in_channels, num_classes, width, stem_stride=2)


def mobilenet_v1_cifar(in_channels: int = 3, num_classes: int = 10, width: float = 1.0) -> nn.Module:
    """MobileNetV1 for 32x32 images: the stem does not stride."""
    return _mobilenet_v1(in_channels, num_classes, width, stem_stride=1)


def dscnn(in_channels: int = 1, num_classes: int = 12, width: int = 64) -> nn.Module:
    """MLPerf Tiny's keyword spotting network: 49 frames of 10 features."""
    return SeparableNet(in_channels, num_classes, (width, (10, 4), 2, (5, 1)), [(width, 1)] * 4)


def autoencoder(in_channels: int = 640, width: int = 128, code: int = 8) -> nn.Module:
    """MLPerf Tiny's anomaly detection network; `in_channels` are its features."""
    return Autoencoder(in_channels, width, code)


def digits_cnn(in_channels: int = 1, num_classes: int = 10, width: int = 16) -> nn.Module:
    """A small network for scikit-learn's 8x8 digits."""
    return DigitsCnn(in_channels, num_classes, width)


@dataclass(frozen=True)
class NetSpec:
    """A built-in network and what others have printed about it.

    `input_shape` is (c, iy, ix). `classes` is None where there is no classifier. `macs` and `params` are figures as
    published ("" where none is), in the convention that `source` states; tests hold ours against them.
    """

    make: Callable[..., nn.Module]
    input_shape: tuple[int, int, int]
    classes: int | None
    macs: str
    params: str
    source: str

    @property
    def summary(self) -> str:
        """The first line of the constructor's docstring."""
        return (self.make.__doc__ or "").split("\n", maxsplit=1)[0]


# MLPerf Tiny's reference models: parameters as Keras counts them (a bias beside every batch norm; four parameters a
# normalised channel, of which the figures of dscnn and autoencoder count the two trainable ones), from the model cards
# of NXP's eIQ model zoo and mlcommons/tiny's training log. MACs as others counted them in the int8 TFLite files.
_TINY = "MLPerf Tiny (Banbury et al. 2021), reference model; parameters in Keras' count"
_TORCH = "trainable parameters, as torch counts them"

NETWORKS: dict[str, NetSpec] = {
    "digits_cnn": NetSpec(digits_cnn, (1, 8, 8), 10, "", "", "own; no published figures"),
    "resnet8": NetSpec(resnet8, (3, 32, 32), 10, "12,501,632", "78,666", _TINY),
    "resnet20": NetSpec(resnet20, (3, 32, 32), 10, "", "0.27 M", f"He et al. 2016, table 6; {_TORCH}"),
    "resnet18_cifar": NetSpec(
        resnet18_cifar, (3, 32, 32), 10, "", "11,173,962", f"widespread CIFAR variant of He et al. 2016; {_TORCH}"
    ),
    "resnet18_64": NetSpec(resnet18_64, (3, 64, 64), 200, "", "", "resnet18 on 64x64 images; no published figures"),
    "resnet18": NetSpec(
        resnet18, (3, 224, 224), 1000, "1.814 G", "11,689,512", f"torchvision's ResNet18_Weights page; {_TORCH}"
    ),
    "resnet18_segment": NetSpec(
        resnet18_segment, (3, 224, 224), None, "", "", "part of resnet18; the only DIANA silicon figure is for it"
    ),
    "mobilenet_v1_025": NetSpec(mobilenet_v1_025, (3, 96, 96), 2, "7,489,664", "221,794", _TINY),
    "mobilenet_v1_cifar": NetSpec(
        mobilenet_v1_cifar,
        (3, 32, 32),
        10,
        "",
        "3,217,226",
        f"widespread CIFAR variant of Howard et al. 2017; {_TORCH}",
    ),
    "dscnn": NetSpec(dscnn, (1, 49, 10), 12, "2,656,768", "23,756", _TINY),
    "autoencoder": NetSpec(autoencoder, (640, 1, 1), None, "264,192", "267,928", _TINY),
}


def build(name: str, in_channels: int | None = None, num_classes: int | None = None) -> nn.Module:
    """A built-in network, fitted to a data set's channels and classes where they are given.

    Raises InputError for an unknown name, or for classes asked of a network without a classifier.
    """
    if name not in NETWORKS:
        raise InputError(f"{name!r} is no built-in network; there are {', '.join(NETWORKS)}")
    spec = NETWORKS[name]
    if num_classes is not None and spec.classes is None:
        raise InputError(f"{name} has no classifier, so it cannot learn {num_classes} classes")
    given = {"in_channels": in_channels, "num_classes": num_classes}
    return spec.make(**{key: value for key, value in given.items() if value is not None})


def export(name: str) -> Workload:
    """A built-in network at its default size, as a workload."""
    from cosoc.sim.importers.torch_export import from_module

    spec = NETWORKS[name]
    return from_module(build(name), spec.input_shape, name, source=f"cosoc.search.nets:{spec.make.__name__}")


def workload_text(name: str) -> str:
    """What socs/workloads/NAME.yaml should say."""
    from cosoc.sim.workload_file import dump_workload

    return HEADER + dump_workload(export(name))


def write_workloads(folder: Path) -> list[Path]:
    """Write every built-in network into a folder; returns the files that changed."""
    changed = []
    for name in NETWORKS:
        path, text = folder / f"{name}.yaml", workload_text(name)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            changed.append(path)
    return changed


def main() -> None:
    """Bring the committed workload files up to date."""
    from cosoc.sim.workload_file import workload_folder

    changed = write_workloads(workload_folder())
    print(f"{len(NETWORKS)} networks, {len(changed)} files changed: {', '.join(p.name for p in changed) or 'none'}")


if __name__ == "__main__":
    main()
