"""Are the built-in networks the published ones, and are the committed workload files theirs?"""

from __future__ import annotations

from decimal import Decimal

import pytest
import torch
from torch import nn

from cosoc.search.training.nets import NETWORKS, build, export, workload_text, write_workloads
from cosoc.sim.errors import InputError
from cosoc.sim.files.names import list_workloads, workload_folder
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.model.workload import INPUT

UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}


def agrees(figure: str, ours: int) -> bool:
    """Whether a count rounds to a figure as printed: "12,501,632" exactly, "0.27 M" to two decimals."""
    number, _, unit = figure.replace(",", "").partition(" ")
    step = Decimal(1).scaleb(Decimal(number).as_tuple().exponent)  # type: ignore[arg-type]
    return (Decimal(ours) / UNITS[unit]).quantize(step) == Decimal(number)


def trainable(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def normalised_channels(net: nn.Module) -> int:
    return sum(m.num_features for m in net.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)))


@pytest.mark.parametrize("name", [name for name, spec in NETWORKS.items() if spec.macs])
def test_macs_are_the_published_ones(name: str) -> None:
    """Convolutions and fully connected layers; sources in NETWORKS."""
    assert agrees(NETWORKS[name].macs, find_workload(name).macs)


def unfilled(name: str) -> nn.Module:
    """A network without memory for its weights: its shapes alone are looked at."""
    with torch.device("meta"):
        return build(name)


TORCH_COUNT = [name for name, spec in NETWORKS.items() if "as torch counts them" in spec.source]


@pytest.mark.parametrize("name", TORCH_COUNT)
def test_parameters_are_the_published_ones(name: str) -> None:
    """What torch calls parameters: weights, biases, two a normalised channel."""
    assert agrees(NETWORKS[name].params, trainable(unfilled(name)))


VWW = [8, 16, 32, 32, 64, 64, *[128] * 6, 256, 256]  # a quarter of MobileNetV1's stem and blocks


@pytest.mark.parametrize(
    ("name", "channels", "each"),
    [
        ("resnet8", 3 * 16 + 2 * 32 + 2 * 64, 4),
        ("mobilenet_v1_025", 8 + sum(VWW[:-1]) + sum(VWW[1:]), 4),
        ("dscnn", 9 * 64, 2),
        ("autoencoder", 8 * 128 + 8, 2),
    ],
)
def test_parameters_of_mlperf_tiny_are_the_published_ones(name: str, channels: int, each: int) -> None:
    """Keras counts a bias a channel and, a normalised channel, four parameters, two of them trainable.

    Two of the cards print all parameters, two (each = 2) the trainable ones.

    Its ResNet-8 does not normalise the two shortcuts, so those channels do not count; ours does, and deploys the same.
    """
    deployed = find_workload(name).params
    shortcuts = 32 + 64 if name == "resnet8" else 0
    assert normalised_channels(build(name)) == channels + shortcuts
    assert agrees(NETWORKS[name].params, deployed + each * channels)


# Closed forms for what nobody printed: 3x3 residual stages, stem and classifier, from widths and map sizes.
def stage(inputs: int, outputs: int, blocks: int, side: int) -> int:
    """MACs of a stage of basic blocks on maps of side*side, with a 1x1 shortcut where the width changes."""
    shortcut = inputs * outputs if inputs != outputs else 0
    return side * side * (9 * inputs * outputs + shortcut + 9 * outputs * outputs * (2 * blocks - 1))


CLOSED = {
    "resnet20": 27 * 16 * 32**2 + stage(16, 16, 3, 32) + stage(16, 32, 3, 16) + stage(32, 64, 3, 8) + 640,
    "resnet18_cifar": 27 * 64 * 32**2
    + sum(stage(i, o, 2, s) for i, o, s in ((64, 64, 32), (64, 128, 16), (128, 256, 8), (256, 512, 4)))
    + 5120,
    "resnet18_64": 147 * 64 * 32**2
    + sum(stage(i, o, 2, s) for i, o, s in ((64, 64, 16), (64, 128, 8), (128, 256, 4), (256, 512, 2)))
    + 102400,
    "resnet18_segment": 147 * 64 * 112**2 + stage(64, 64, 2, 56),
    "digits_cnn": 9 * 16 * 8**2 + (9 * 16 * 32 + 9 * 32 * 32) * 4**2 + 320,
    "mobilenet_v1_cifar": 27 * 32 * 32**2
    + sum(
        (9 * i + i * o) * s * s
        for i, o, s in (
            *((32, 64, 32), (64, 128, 16), (128, 128, 16), (128, 256, 8), (256, 256, 8), (256, 512, 4)),
            *[(512, 512, 4)] * 5,
            *((512, 1024, 2), (1024, 1024, 2)),
        )
    )
    + 10240,
    # 144 patches of 3x32x32 pixels; a block's twelve matrices of 768x768 on 145 tokens, and its two products
    "vit_base_32_384": 144 * 768 * 3072 + 12 * (12 * 768**2 * 145 + 2 * 145**2 * 768) + 768000,
    # 49 patches of 4x4 pixels, twelve blocks on 50 tokens of 48
    "vit_small": 49 * 48 * 16 + 12 * (12 * 48**2 * 50 + 2 * 50**2 * 48) + 480,
    # twelve matrices of 768x768 and two products with the vectors of 128 tokens, for each of them
    "bert_base_block": 128 * (12 * 768**2 + 2 * 128 * 768),
    # twelve matrices of 4096x4096 and two products with the vectors of 2048 tokens, for each of 2048 tokens or for one
    "gpt3_block_prefill": 2048 * (12 * 4096**2 + 2 * 2048 * 4096),
    "gpt3_block_decode": 12 * 4096**2 + 2 * 2048 * 4096,
    # 64, 16 and 4 pixels at widths of 32, 64 and 128, with two shortcuts; and the classifier
    "digits_resnet": 64 * 9 * (1 + 32 + 32) * 32
    + 16 * (9 * (32 + 64) + 32) * 64
    + 4 * (9 * (64 + 128) + 64) * 128
    + 128 * 10,
}


@pytest.mark.parametrize("name", [name for name, spec in NETWORKS.items() if not spec.macs])
def test_macs_without_a_published_figure(name: str) -> None:
    assert find_workload(name).macs == CLOSED[name]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_computes_what_its_workload_says(name: str) -> None:
    """One forward pass, in shapes: the module's output has the size of the workload's last layer."""
    spec = NETWORKS[name]
    workload = find_workload(name)
    with torch.no_grad():
        y = unfilled(name).eval()(torch.empty(1, *spec.input_shape, device="meta"))
    assert workload.input_shape == spec.input_shape
    assert y.numel() == workload[workload.outputs[0]].outputs
    assert spec.classes in (None, y.shape[1])


def test_resnet20_has_the_searched_layers_and_residuals() -> None:
    """He et al.: 20 weighted layers and, with option B, two shortcuts; nine sums, each of a block and its input."""
    workload = find_workload("resnet20")
    ops = [layer.op for layer in workload.layers]
    assert (ops.count("conv"), ops.count("add"), ops.count("avg_pool"), len(ops)) == (22, 9, 1, 32)
    before = "conv1"
    for s in (1, 2, 3):
        for b in range(3):
            shortcut = f"layer{s}.{b}.downsample.0" if s > 1 and b == 0 else before
            assert workload[f"layer{s}.{b}.add"].inputs == (f"layer{s}.{b}.conv2", shortcut)
            assert workload[f"layer{s}.{b}.conv1"].inputs == (before,)
            before = f"layer{s}.{b}.add"
    assert all(layer.activation == "relu" for layer in workload.layers if layer.op == "add")


def test_the_segment_is_the_measured_one() -> None:
    """conv1 7x7/2, pool, four 3x3 convolutions and two sums, 224 pixels in, 64x56x56 out."""
    workload = find_workload("resnet18_segment")
    assert [x.op for x in workload.layers] == ["conv", "max_pool", "conv", "conv", "add", "conv", "conv", "add"]
    assert workload["conv1"].inputs == (INPUT,)
    last = workload.layers[-1]
    assert (last.k, last.oy, last.ox, workload.outputs) == (64, 56, 56, (last.name,))


@pytest.mark.parametrize("name", NETWORKS)
def test_committed_workloads_are_current(name: str) -> None:
    """`python -m cosoc.search.training.nets` would change nothing."""
    assert (workload_folder() / f"{name}.yaml").read_text(encoding="utf-8") == workload_text(name)


def test_every_network_is_committed() -> None:
    assert set(list_workloads()) == set(NETWORKS)


def test_writing_changes_only_what_is_stale(tmp_path: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cosoc.search.training.nets.NETWORKS", {"digits_cnn": NETWORKS["digits_cnn"]})
    (path,) = write_workloads(tmp_path)  # type: ignore[arg-type]
    assert write_workloads(tmp_path) == []  # type: ignore[arg-type]
    path.write_text("stale")
    assert write_workloads(tmp_path) == [path]  # type: ignore[arg-type]
    assert export("digits_cnn").macs == CLOSED["digits_cnn"]


@pytest.mark.parametrize("name", ["resnet8", "digits_cnn", "mobilenet_v1_cifar"])
def test_a_network_fits_other_data(name: str) -> None:
    """Grey images of 28 pixels, five classes; and one step of training moves every weight."""
    net = build(name, in_channels=1, num_classes=5)
    loss = nn.functional.cross_entropy(net(torch.rand(4, 1, 28, 28)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_what_cannot_be_built_is_said() -> None:
    with pytest.raises(InputError, match="'resnet9' is no built-in network; there are digits_cnn, digits_resnet"):
        build("resnet9")
    with pytest.raises(InputError, match="autoencoder has no classifier, so it cannot learn 10 classes"):
        build("autoencoder", num_classes=10)


def test_every_network_says_what_it_is() -> None:
    assert all(spec.summary.endswith((".", "images.")) and spec.source for spec in NETWORKS.values())
