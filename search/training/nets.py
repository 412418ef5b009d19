"""The built-in networks, as plain torch modules to train, to search on and to read as workloads.

Every convolution is Conv2d(bias=False) + BatchNorm2d and activations are ReLU, unless a network's paper has it
otherwise; residual sums are `+`. Module paths become layer names. Shortcuts that change shape are 1x1 convolutions
with batch norm. Strided convolutions pad both sides alike, where TensorFlow's "same" pads below and to the right:
same sizes and counts, windows shifted by up to a pixel.

`python -m cosoc.search.training.nets` writes every network as socs/workloads/NAME.yaml, so that simulating needs no
torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from cosoc.sim.errors import InputError
from cosoc.sim.model.workload import Workload

HEADER = "# Written by `python -m cosoc.search.training.nets` from the module named under source; do not edit.\n"


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


class Bottleneck(nn.Module):
    """1x1, 3x3 (which strides) and 1x1 convolution with four times the channels, and a shortcut (He et al. 2016)."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU()
        self.downsample: nn.Module = nn.Identity()
        if inputs != 4 * width:
            shortcut = nn.Conv2d(inputs, 4 * width, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(4 * width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        out: Tensor = self.relu(y + self.downsample(x))
        return out


class BottleneckNet(nn.Module):
    """ImageNet's residual network of bottlenecks: stages of so many `blocks`, their widths doubling from `width`."""

    def __init__(self, in_channels: int, num_classes: int, width: int, blocks: tuple[int, ...]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        self.stages = [f"layer{i + 1}" for i in range(len(blocks))]
        inputs = width
        for i, (name, count) in enumerate(zip(self.stages, blocks, strict=True)):
            w = width << i
            first = Bottleneck(inputs, w, stride=1 if i == 0 else 2)
            self.add_module(name, nn.Sequential(first, *(Bottleneck(4 * w, w, stride=1) for _ in range(count - 1))))
            inputs = 4 * w
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for name in self.stages:
            x = getattr(self, name)(x)
        out: Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return out


class PlainNet(nn.Module):
    """Convolutions and pools in a row, then fully connected layers, with biases and without batch norm.

    `plan` has (channels, kernel, stride, padding, groups) for a convolution with ReLU, (window, stride) for a maximum
    pool; `side` is that of the last map, for the size that the network is meant for.
    """

    def __init__(
        self, in_channels: int, num_classes: int, plan: list[tuple[int, ...]], side: int, dense: tuple[int, ...]
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for step in plan:
            if len(step) == 2:
                layers.append(nn.MaxPool2d(*step))
            else:
                channels, kernel, stride, padding, groups = step
                layers += [nn.Conv2d(in_channels, channels, kernel, stride, padding, groups=groups), nn.ReLU()]
                in_channels = channels
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(side)
        sizes = (in_channels * side * side, *dense, num_classes)
        fully = [part for i, o in pairwise(sizes) for part in (nn.Linear(i, o), nn.ReLU())]
        self.classifier = nn.Sequential(*fully[:-1])

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))
        return out


class ConvBn(nn.Module):
    """A convolution with batch norm and an activation (ReLU unless given)."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, act: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.act = act or nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(self.bn(self.conv(x)))
        return out


class Inception(nn.Module):
    """Four branches side by side (Szegedy et al. 2015), with 3x3 filters in the third one as torchvision has them."""

    def __init__(self, inputs: int, one: int, three: tuple[int, int], five: tuple[int, int], pool: int) -> None:
        super().__init__()
        self.branch1 = ConvBn(inputs, one, 1)
        self.branch2 = nn.Sequential(ConvBn(inputs, three[0], 1), ConvBn(three[0], three[1], 3))
        self.branch3 = nn.Sequential(ConvBn(inputs, five[0], 1), ConvBn(five[0], five[1], 3))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, padding=1), ConvBn(inputs, pool, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class GoogLeNet(nn.Module):
    """Szegedy et al. 2015 with batch norm and without the auxiliary classifiers."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            ConvBn(in_channels, 64, 7, 2),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            ConvBn(64, 64, 1),
            ConvBn(64, 192, 3),
            nn.MaxPool2d(3, 2, ceil_mode=True),
        )
        self.stage3 = nn.Sequential(
            Inception(192, 64, (96, 128), (16, 32), 32), Inception(256, 128, (128, 192), (32, 96), 64)
        )
        self.pool3 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.stage4 = nn.Sequential(
            Inception(480, 192, (96, 208), (16, 48), 64),
            Inception(512, 160, (112, 224), (24, 64), 64),
            Inception(512, 128, (128, 256), (24, 64), 64),
            Inception(512, 112, (144, 288), (32, 64), 64),
            Inception(528, 256, (160, 320), (32, 128), 128),
        )
        self.pool4 = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.stage5 = nn.Sequential(
            Inception(832, 256, (160, 320), (32, 128), 128), Inception(832, 384, (192, 384), (48, 128), 128)
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(1024, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool4(self.stage4(self.pool3(self.stage3(self.stem(x)))))
        out: Tensor = self.fc(torch.flatten(self.avgpool(self.stage5(x)), 1))
        return out


class Fire(nn.Module):
    """A 1x1 squeeze, then 1x1 and 3x3 expansions side by side (Iandola et al. 2016)."""

    def __init__(self, inputs: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeeze, 1)
        self.expand1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3 = nn.Conv2d(squeeze, expand, 3, padding=1)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.squeeze(x))
        return torch.cat([self.relu(self.expand1(x)), self.relu(self.expand3(x))], 1)


class SqueezeNet(nn.Module):
    """SqueezeNet 1.1: fire modules of (squeeze, expand) between three pools, a 1x1 convolution as classifier."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(in_channels, 64, 3, 2), nn.ReLU()]
        inputs = 64
        for stage in ([(16, 64)] * 2, [(32, 128)] * 2, [(48, 192)] * 2 + [(64, 256)] * 2):
            layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
            for squeeze, expand in stage:
                layers.append(Fire(inputs, squeeze, expand))
                inputs = 2 * expand
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Conv2d(inputs, num_classes, 1)
        self.relu = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.flatten(self.avgpool(self.relu(self.classifier(self.features(x)))), 1)


class SqueezeExcite(nn.Module):
    """Scales every channel by a factor computed from the channels' means (Hu et al. 2018)."""

    def __init__(self, channels: int, narrow: int) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, narrow, 1)
        self.fc2 = nn.Conv2d(narrow, channels, 1)
        self.act = nn.SiLU()
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x * self.gate(self.fc2(self.act(self.fc1(self.avgpool(x)))))
        return out


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, 1x1 projection without activation, and a sum where the shape stays (Sandler
    et al. 2018); with `narrow` a squeeze-and-excite before the projection (Tan and Le 2019)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expand: int, narrow: int = 0) -> None:
        super().__init__()
        act = nn.SiLU if narrow else nn.ReLU6
        width = inputs * expand
        steps: list[nn.Module] = [ConvBn(inputs, width, 1, act=act())] if expand > 1 else []
        steps.append(ConvBn(width, width, kernel, stride, groups=width, act=act()))
        if narrow:
            steps.append(SqueezeExcite(width, narrow))
        steps.append(ConvBn(width, outputs, 1, act=nn.Identity()))
        self.steps = nn.Sequential(*steps)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.steps(x)
        return x + y if self.residual else y


class InvertedNet(nn.Module):
    """A stem, stages of inverted residuals as (expand, kernel, channels, blocks, stride), a 1x1 head, a classifier."""

    def __init__(
        self, in_channels: int, num_classes: int, plan: list[tuple[int, int, int, int, int]], excite: bool
    ) -> None:
        super().__init__()
        act = nn.SiLU if excite else nn.ReLU6
        self.stem = ConvBn(in_channels, 32, 3, 2, act=act())
        blocks, inputs = [], 32
        for expand, kernel, outputs, count, stride in plan:
            for i in range(count):
                narrow = inputs // 4 if excite else 0
                blocks.append(InvertedResidual(inputs, outputs, kernel, 1 if i else stride, expand, narrow))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = ConvBn(inputs, 1280, 1, act=act())
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(1280, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(self.blocks(self.stem(x)))
        out: Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return out


class EncoderBlock(nn.Module):
    """Attention and a two-layer perceptron, each after a layer norm and around a sum (Dosovitskiy et al. 2021)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.fc1 = nn.Linear(width, 4 * width)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(4 * width, width)

    def attention(self, y: Tensor) -> Tensor:
        q, k, v = (part(y).unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (self.q, self.k, self.v))
        out: Tensor = self.proj(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return out

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        out: Tensor = x + self.fc2(self.act(self.fc1(self.norm2(x))))
        return out


class PostNormBlock(EncoderBlock):
    """The same with a layer norm after each sum in place of before each part (Devlin et al. 2019)."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.attention(x))
        out: Tensor = self.norm2(x + self.fc2(self.act(self.fc1(x))))
        return out


class VisionTransformer(nn.Module):
    """Patches of `patch` x `patch` pixels and a class token through `depth` encoder blocks (Dosovitskiy et al.
    2021)."""

    def __init__(
        self, in_channels: int, num_classes: int, size: int, patch: int, width: int, depth: int, heads: int
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(in_channels, width, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.zeros(1, (size // patch) ** 2 + 1, width))
        self.blocks = nn.Sequential(*(EncoderBlock(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.fc = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        out: Tensor = self.fc(self.norm(self.blocks(x))[:, 0])
        return out


class Prefill(nn.Module):
    """One block over a whole prompt: (width, 1, tokens) in, vectors out. Of the attention all products are counted,
    those too that a causal mask drops."""

    def __init__(self, width: int, heads: int, block: type[EncoderBlock] = EncoderBlock) -> None:
        super().__init__()
        self.block = block(width, heads)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block(x.flatten(2).transpose(1, 2))
        return out


class Bert(nn.Module):
    """Post-norm blocks over the embedded numbers of tokens (n, tokens), all of the first of two segments (Devlin et al.
    2019); scores of the first token's vector, or of each one's."""

    def __init__(
        self, vocabulary: int, positions: int, width: int, heads: int, depth: int, outputs: int, of_each: bool = False
    ) -> None:
        super().__init__()
        self.of_each = of_each
        self.words = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(positions, width)
        self.segments = nn.Embedding(2, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.blocks = nn.Sequential(*(PostNormBlock(width, heads) for _ in range(depth)))
        self.fc = nn.Linear(width, outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.words(tokens) + self.positions.weight[: tokens.shape[1]] + self.segments.weight[0]
        x = self.blocks(self.norm(x))
        out: Tensor = self.fc(x if self.of_each else x[:, 0])
        return out


class Decode(nn.Module):
    """One decoder block for one new token. The input is the cache (width, 1, tokens), which is read as keys and as
    values; its last vector stands for the token's."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.block = EncoderBlock(width, heads)

    def forward(self, cache: Tensor) -> Tensor:
        block = self.block
        past = cache.flatten(2).transpose(1, 2)
        x = past[:, -1:]
        y = block.norm1(x)
        q = block.q(y).unflatten(2, (block.heads, -1)).transpose(1, 2)
        held = torch.unflatten(past, 2, (block.heads, -1)).transpose(1, 2)
        x = x + block.proj(functional.scaled_dot_product_attention(q, held, held).transpose(1, 2).flatten(2))
        x = x + block.fc2(block.act(block.fc1(block.norm2(x))))
        return torch.cat((x, block.k(y), block.v(y)), 1)


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


def mobilenet_v1(in_channels: int = 3, num_classes: int = 1000, width: float = 1.0) -> nn.Module:
    """MobileNetV1, for 224x224 images."""
    return _mobilenet_v1(in_channels, num_classes, width, stem_stride=2)


def mobilenet_v2(in_channels: int = 3, num_classes: int = 1000) -> nn.Module:
    """MobileNetV2, for 224x224 images."""
    plan = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    return InvertedNet(in_channels, num_classes, [(t, 3, c, n, s) for t, c, n, s in plan], excite=False)


def efficientnet_b0(in_channels: int = 3, num_classes: int = 1000) -> nn.Module:
    """EfficientNet-B0, for 224x224 images."""
    plan = [
        *((1, 3, 16, 1, 1), (6, 3, 24, 2, 2), (6, 5, 40, 2, 2), (6, 3, 80, 3, 2), (6, 5, 112, 3, 1)),
        *((6, 5, 192, 4, 2), (6, 3, 320, 1, 1)),
    ]
    return InvertedNet(in_channels, num_classes, plan, excite=True)


def alexnet(in_channels: int = 3, num_classes: int = 1000) -> nn.Module:
    """AlexNet, three of its convolutions in two groups, without response normalisation, for 224x224 images."""
    pool = (3, 2)
    plan = [
        *((96, 11, 4, 2, 1), pool, (256, 5, 1, 2, 2), pool),
        *((384, 3, 1, 1, 1), (384, 3, 1, 1, 2), (256, 3, 1, 1, 2), pool),
    ]
    return PlainNet(in_channels, num_classes, plan, side=6, dense=(4096, 4096))


def _vgg(in_channels: int, num_classes: int, counts: tuple[int, ...]) -> nn.Module:
    plan: list[tuple[int, ...]] = []
    for channels, count in zip((64, 128, 256, 512, 512), counts, strict=True):
        plan += [(channels, 3, 1, 1, 1)] * count + [(2, 2)]
    return PlainNet(in_channels, num_classes, plan, side=7, dense=(4096, 4096))


def vgg8(in_channels: int = 3, num_classes: int = 10) -> nn.Module:
    """VGG-8 for CIFAR-10's 32x32 images, as DNN+NeuroSim has it."""
    plan: list[tuple[int, ...]] = []
    for channels in (128, 256, 512):
        plan += [(channels, 3, 1, 1, 1), (channels, 3, 1, 1, 1), (2, 2)]
    return PlainNet(in_channels, num_classes, plan, side=4, dense=(1024,))


def vgg16(in_channels: int = 3, num_classes: int = 1000) -> nn.Module:
    """VGG-16 without batch norm, for 224x224 images."""
    return _vgg(in_channels, num_classes, (2, 2, 3, 3, 3))


def vgg19(in_channels: int = 3, num_classes: int = 1000) -> nn.Module:
    """VGG-19 without batch norm, for 224x224 images."""
    return _vgg(in_channels, num_classes, (2, 2, 4, 4, 4))


def googlenet(in_channels: int = 3, num_classes: int = 1000) -> nn.Module:
    """GoogLeNet with batch norm, as torchvision has it, for 224x224 images."""
    return GoogLeNet(in_channels, num_classes)


def squeezenet(in_channels: int = 3, num_classes: int = 1000) -> nn.Module:
    """SqueezeNet 1.1, for 224x224 images."""
    return SqueezeNet(in_channels, num_classes)


def resnet50(in_channels: int = 3, num_classes: int = 1000, width: int = 64) -> nn.Module:
    """ResNet-50, its 3x3 convolutions striding, for 224x224 images."""
    return BottleneckNet(in_channels, num_classes, width, (3, 4, 6, 3))


def resnet152(in_channels: int = 3, num_classes: int = 1000, width: int = 64) -> nn.Module:
    """ResNet-152, its 3x3 convolutions striding, for 224x224 images."""
    return BottleneckNet(in_channels, num_classes, width, (3, 8, 36, 3))


def vit_base(in_channels: int = 3, num_classes: int = 1000) -> nn.Module:
    """ViT-Base with patches of 16, for 224x224 images."""
    return VisionTransformer(in_channels, num_classes, 224, 16, 768, 12, 12)


def vit_small(in_channels: int = 1, num_classes: int = 10) -> nn.Module:
    """Twelve blocks of width 48 in three heads, with patches of 4, for 28x28 images."""
    return VisionTransformer(in_channels, num_classes, 28, 4, 48, 12, 3)


def vit_large(in_channels: int = 3, num_classes: int = 1000) -> nn.Module:
    """ViT-Large with patches of 16, for 224x224 images."""
    return VisionTransformer(in_channels, num_classes, 224, 16, 1024, 24, 16)


def vit_base_32_384(in_channels: int = 3, num_classes: int = 1000) -> nn.Module:
    """ViT-Base with patches of 32, for 384x384 images: the ViT of ncnn's benchmark."""
    return VisionTransformer(in_channels, num_classes, 384, 32, 768, 12, 12)


def bert_base_block(in_channels: int = 768) -> nn.Module:
    """An encoder block of BERT-Base, for 128 tokens."""
    return Prefill(in_channels, in_channels // 64, PostNormBlock)


def gpt3_block_prefill(in_channels: int = 4096) -> nn.Module:
    """A decoder block of GPT-3 6.7B, for a prompt of 2048 tokens."""
    return Prefill(in_channels, in_channels // 128)


def gpt3_block_decode(in_channels: int = 4096) -> nn.Module:
    """A decoder block of GPT-3 6.7B, for one token after 2048."""
    return Decode(in_channels, in_channels // 128)


def dscnn(in_channels: int = 1, num_classes: int = 12, width: int = 64) -> nn.Module:
    """MLPerf Tiny's keyword spotting network: 49 frames of 10 features."""
    return SeparableNet(in_channels, num_classes, (width, (10, 4), 2, (5, 1)), [(width, 1)] * 4)


def autoencoder(in_channels: int = 640, width: int = 128, code: int = 8) -> nn.Module:
    """MLPerf Tiny's anomaly detection network; `in_channels` are its features."""
    return Autoencoder(in_channels, width, code)


def digits_cnn(in_channels: int = 1, num_classes: int = 10, width: int = 16) -> nn.Module:
    """A small network for scikit-learn's 8x8 digits."""
    return DigitsCnn(in_channels, num_classes, width)


def digits_resnet(in_channels: int = 1, num_classes: int = 10, width: int = 32) -> nn.Module:
    """ResNet-8 of twice the width for 8x8 digits: on chips with several formats, these differ in time."""
    return ResNet(in_channels, num_classes, (width, 2 * width, 4 * width), blocks=1, pooled_stem=False)


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
_VISION = f"torchvision's weights page; {_TORCH}"
_224 = (3, 224, 224)

NETWORKS: dict[str, NetSpec] = {
    "digits_cnn": NetSpec(digits_cnn, (1, 8, 8), 10, "", "", "own; no published figures"),
    "digits_resnet": NetSpec(digits_resnet, (1, 8, 8), 10, "", "", "own; no published figures"),
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
    "mobilenet_v1": NetSpec(mobilenet_v1, _224, 1000, "569 M", "4.2 M", f"Howard et al. 2017, table 4; {_TORCH}"),
    "alexnet": NetSpec(
        alexnet, _224, 1000, "724 M", "61 M", f"Krizhevsky et al. 2012, as counted by Sze et al. 2017; {_TORCH}"
    ),
    "vgg8": NetSpec(
        vgg8, (3, 32, 32), 10, "615.9 M", "", "TOPS over frames a second in DNN+NeuroSim V1.5's own output for it"
    ),
    "vgg16": NetSpec(vgg16, _224, 1000, "15.470 G", "138,357,544", _VISION),
    "vgg19": NetSpec(vgg19, _224, 1000, "19.632 G", "143,667,240", _VISION),
    "googlenet": NetSpec(googlenet, _224, 1000, "1.498 G", "6,624,904", _VISION),
    "squeezenet": NetSpec(squeezenet, _224, 1000, "0.349 G", "1,235,496", _VISION),
    "resnet50": NetSpec(resnet50, _224, 1000, "4.089 G", "25,557,032", _VISION),
    "resnet152": NetSpec(resnet152, _224, 1000, "11.514 G", "60,192,808", _VISION),
    "mobilenet_v2": NetSpec(mobilenet_v2, _224, 1000, "0.301 G", "3,504,872", _VISION),
    "efficientnet_b0": NetSpec(efficientnet_b0, _224, 1000, "0.386 G", "5,288,548", _VISION),
    "vit_base": NetSpec(vit_base, _224, 1000, "17.564 G", "86,567,656", _VISION),
    "vit_small": NetSpec(vit_small, (1, 28, 28), 10, "", "", "own, DeiT-tiny at a quarter of its width; no figures"),
    "vit_large": NetSpec(vit_large, _224, 1000, "61.555 G", "304,326,632", _VISION),
    "bert_base_block": NetSpec(
        bert_base_block, (768, 1, 128), None, "", "7,087,872", f"Devlin et al. 2019, section 3 (BERT-Base); {_TORCH}"
    ),
    "gpt3_block_prefill": NetSpec(
        gpt3_block_prefill, (4096, 1, 2048), None, "", "", "Brown et al. 2020, table 2.1 (6.7B); no published figures"
    ),
    "gpt3_block_decode": NetSpec(
        gpt3_block_decode, (4096, 1, 2048), None, "", "", "Brown et al. 2020, table 2.1 (6.7B); no published figures"
    ),
    "vit_base_32_384": NetSpec(
        vit_base_32_384, (3, 384, 384), 1000, "", "88.3 M", f"Dosovitskiy et al. 2021's B/32 at 384; {_TORCH}"
    ),
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
    with torch.device("meta"):  # shapes are all that is read; the largest network's weights would take a gigabyte
        network = build(name)
    return from_module(network, spec.input_shape, name, source=f"cosoc.search.training.nets:{spec.make.__name__}")


def workload_text(name: str) -> str:
    """What socs/workloads/NAME.yaml should say."""
    from cosoc.sim.files.workload_file import dump_workload

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
    from cosoc.sim.files.names import workload_folder

    changed = write_workloads(workload_folder())
    print(f"{len(NETWORKS)} networks, {len(changed)} files changed: {', '.join(p.name for p in changed) or 'none'}")


if __name__ == "__main__":
    main()
