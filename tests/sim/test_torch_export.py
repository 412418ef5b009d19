"""Does a torch module become the layers that it computes?"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from cosoc.sim.errors import InputError
from cosoc.sim.files.reading import Reading
from cosoc.sim.files.workload_file import faults, find_workload
from cosoc.sim.importers.torch_export import Input, from_module, load_module
from cosoc.sim.model.workload import INPUT, Layer, Workload


class Net(nn.Module):
    """A network out of named children and a function of them."""

    def __init__(self, forward: Callable[[nn.Module, Tensor], Tensor], **children: nn.Module) -> None:
        super().__init__()
        self.function = forward
        for name, child in children.items():
            self.add_module(name, child)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def read(module: nn.Module, *shape: int) -> Workload:
    workload = from_module(module, shape, "net")
    assert faults(workload) == []
    return workload


def conv(inputs: int, outputs: int, kernel: int = 3, **options: object) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False, **options)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------ folding


def test_norm_and_activation_fold_into_the_convolution() -> None:
    net = nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Dropout(), conv(8, 4), nn.ReLU6())
    first, second = read(net, 3, 6, 6).layers
    assert first == Layer("0", "conv", (INPUT,), 8, 3, 6, 6, 6, 6, 3, 3, pad_y=1, pad_x=1, activation="relu", bias=True)
    assert (second.name, second.inputs, second.activation, second.bias) == ("4", ("0",), "relu6", False)


def test_what_somebody_else_reads_is_not_folded() -> None:
    """y = conv(x); z = relu(y); y + z reads the convolution before its ReLU, so ReLU is a layer of its own."""
    net = Net(lambda m, x: (y := m.conv(x)) + m.relu(y), conv=conv(3, 8), relu=nn.ReLU())
    layers = read(net, 3, 6, 6).layers
    assert [(x.name, x.op, x.inputs, x.activation) for x in layers] == [
        ("conv", "conv", (INPUT,), ""),
        ("relu", "eltwise", ("conv",), ""),
        ("add", "add", ("conv", "relu"), ""),
    ]


def test_a_norm_before_the_convolution_stays() -> None:
    """Pre-activation networks: batch norm of a sum has nothing to fold into, but takes the ReLU after it."""
    net = Net(
        lambda m, x: m.conv(F.relu(m.bn(x + m.first(x)))), first=conv(4, 4), bn=nn.BatchNorm2d(4), conv=conv(4, 2)
    )
    layers = read(net, 4, 5, 5).layers
    assert [(x.name, x.op, x.activation) for x in layers] == [
        ("first", "conv", ""),
        ("add", "add", ""),
        ("bn", "norm", "relu"),
        ("conv", "conv", ""),
    ]


def test_other_activations_are_layers() -> None:
    """Not every core has a hard swish: it must not vanish into the convolution."""
    net = nn.Sequential(conv(3, 8), nn.Hardswish(), conv(8, 8), nn.Hardtanh(), conv(8, 8), nn.GELU())
    assert [x.fn for x in read(net, 3, 6, 6).layers if x.op == "eltwise"] == [
        "aten.hardswish",
        "aten.hardtanh",
        "aten.gelu",
    ]


@pytest.mark.parametrize(
    ("function", "activation"),
    [
        (lambda x: torch.clamp(x, min=0), "relu"),
        (lambda x: torch.clamp(x, 0, 6), "relu6"),
        (lambda x: x.clamp_min(0), "relu"),
        (lambda x: F.hardtanh(x, 0.0, 6.0), "relu6"),
        (lambda x: x.relu_(), "relu"),
        (lambda x: torch.clamp(x, 1, 6), ""),
        (lambda x: torch.clamp(x, max=6), ""),
    ],
)
def test_relu_by_any_name(function: Callable[[Tensor], Tensor], activation: str) -> None:
    layers = read(Net(lambda m, x: function(m.conv(x)), conv=conv(3, 8)), 3, 6, 6).layers
    assert layers[0].activation == activation
    assert len(layers) == (1 if activation else 2)


def test_in_place_change_is_seen_by_later_readers() -> None:
    """relu_(y) changes y itself: the sum afterwards reads the ReLU's result twice."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        y = m.conv(x)
        z = y.sigmoid_()
        return y + z

    assert read(Net(forward, conv=conv(3, 8)), 3, 6, 6)["add"].inputs == ("sigmoid", "sigmoid")


# ------------------------------------------------------------------------------------------------ shapes


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 8, 3, 2, 1),
        nn.Conv2d(4, 8, (5, 3), (2, 1), (2, 0), dilation=(1, 2)),
        nn.Conv2d(4, 8, 3, groups=2),
        nn.Conv2d(4, 8, 4, padding="same", dilation=2),
        nn.Conv2d(4, 8, (3, 4), padding="same"),
        nn.Conv2d(4, 8, 3, padding="same", dilation=(1, 2)),
        nn.Conv2d(4, 8, 3, padding="valid"),
        nn.Conv2d(4, 8, 3, 2, padding="valid", dilation=2),  # torch leaves the word out where all else is a default
        nn.Sequential(nn.ZeroPad2d((0, 1, 1, 2)), nn.Conv2d(4, 8, 3, 2)),
        nn.MaxPool2d(3, 2, 1),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.AvgPool2d((4, 2)),
        nn.AdaptiveAvgPool2d((7, 2)),
    ],
)
@pytest.mark.filterwarnings("ignore:Using padding=.same. with even kernel")
def test_windows_read_what_torch_reads(layer: nn.Module) -> None:
    """The first and the last output depend on exactly the input rows and columns that the layer's numbers say."""
    torch.manual_seed(1)
    (found,) = read(layer, 4, 14, 12).layers
    x = torch.rand(1, 4, 14, 12, requires_grad=True)
    y = layer(x)
    assert y.shape == (1, found.k, found.oy, found.ox)
    if found.op == "max_pool":
        return  # its gradient shows the largest only
    for row, col in ((0, 0), (found.oy - 1, found.ox - 1)):
        (gradient,) = torch.autograd.grad(y[0, :, row, col].sum(), x, retain_graph=True)
        rows = {row * found.stride_y - found.pad_y + f * found.dilation_y for f in range(found.fy)}
        cols = {col * found.stride_x - found.pad_x + f * found.dilation_x for f in range(found.fx)}
        assert set(gradient.abs().sum((0, 1, 3)).nonzero().flatten().tolist()) == rows & set(range(14))
        assert set(gradient.abs().sum((0, 1, 2)).nonzero().flatten().tolist()) == cols & set(range(12))


def test_a_flattened_map_is_one_pixel_of_many_channels() -> None:
    net = nn.Sequential(conv(3, 8), nn.Flatten(), nn.Linear(8 * 5 * 5, 10))
    fc = read(net, 3, 5, 5)["2"]
    assert (fc.op, fc.k, fc.c, fc.oy, fc.ox, fc.iy, fc.ix) == ("conv", 10, 200, 1, 1, 1, 1)
    assert fc.macs == 2000


def test_sequences_have_one_row() -> None:
    net = nn.Sequential(nn.Conv1d(2, 8, 5, 2, 2), nn.BatchNorm1d(8), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(8, 4, 3))
    first, pool, last = read(net, 2, 32).layers
    assert first == Layer("0", "conv", (INPUT,), 8, 2, 1, 16, 1, 32, 1, 5, stride_x=2, pad_x=2, activation="relu")
    assert (pool.op, pool.oy, pool.ox, pool.fy, pool.fx, pool.stride_x) == ("max_pool", 1, 8, 1, 2, 2)
    assert (last.ix, last.ox, last.macs) == (8, 6, 6 * 4 * 8 * 3)


@pytest.mark.parametrize("average", [lambda x: x.mean((2, 3)), lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1)])
def test_a_global_average_is_a_pool_over_the_map(average: Callable[[Tensor], Tensor]) -> None:
    net = Net(lambda m, x: m.fc(average(m.conv(x))), conv=conv(3, 8), fc=nn.Linear(8, 2))
    pool = read(net, 3, 6, 4).layers[1]
    assert (pool.op, pool.k, pool.c, pool.oy, pool.ox) == ("avg_pool", 8, 8, 1, 1)
    assert (pool.iy, pool.ix, pool.fy, pool.fx) == (6, 4, 6, 4)


@pytest.mark.parametrize(("mode", "taps"), [("nearest", 1), ("bilinear", 2), ("bicubic", 4)])
def test_an_upsampled_map_reads_its_neighbours(mode: str, taps: int) -> None:
    (up,) = read(nn.Upsample(scale_factor=2, mode=mode), 4, 6, 5).layers
    assert (up.op, up.k, up.iy, up.ix, up.oy, up.ox, up.fy, up.fx) == ("resize", 4, 6, 5, 12, 10, taps, taps)


@pytest.mark.parametrize(("kernel", "padding", "groups"), [(2, 0, 1), (4, 1, 1), (4, 1, 2)])
def test_a_transposed_convolution_multiplies_each_input_by_each_tap(kernel: int, padding: int, groups: int) -> None:
    """k * c/groups * taps multiplications an input pixel, as many as a strided convolution the other way round."""
    net = nn.Sequential(nn.ConvTranspose2d(4, 6, kernel, 2, padding, groups=groups), nn.Conv2d(6, 3, 3, padding=1))
    up, after = read(net, 4, 5, 7).layers
    assert up.macs == 6 * (4 // groups) * kernel * kernel * 5 * 7
    assert up.outputs == 6 * 10 * 14
    assert (after.c, after.iy, after.ix) == (6, 10, 14)


def test_a_factor_changes_the_scale_and_nothing_else() -> None:
    """Numbers are quantised: x / 255 is x with another scale. A number that is added is work."""
    net = Net(lambda m, x: (m.conv(x / 255) * 0.5).tanh() + 1, conv=conv(3, 4))
    assert [(x.name, x.op) for x in read(net, 3, 5, 5).layers] == [("conv", "conv"), ("tanh", "eltwise")]
    assert [x.fn for x in read(Net(lambda m, x: x + 1), 3, 5, 5).layers] == ["aten.add"]


@pytest.mark.parametrize("gate", [lambda x: x * torch.sigmoid(x), lambda x: 0.5 * x * (1 + torch.erf(x / 1.41))])
def test_a_gate_written_out_is_one_operator(gate: Callable[[Tensor], Tensor]) -> None:
    net = Net(lambda m, x: gate(m.conv(x)), conv=conv(3, 4))
    assert [x.op for x in read(net, 3, 5, 5).layers] == ["conv", "eltwise"]


# ------------------------------------------------------------------------------------------------ topology


def test_residual_reads_the_sum_before_it() -> None:
    """Producers after folding: the second block's shortcut reads the first block's sum, not its ReLU or input."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.bn1, self.conv2, self.bn2 = conv(8, 8), nn.BatchNorm2d(8), conv(8, 8), nn.BatchNorm2d(8)

        def forward(self, x: Tensor) -> Tensor:
            y = F.relu(self.bn1(self.conv1(x)))
            y = self.bn2(self.conv2(y))
            y += x
            return F.relu(y)

    w = read(nn.Sequential(Block(), Block()), 8, 6, 6)
    assert [x.name for x in w.layers] == ["0.conv1", "0.conv2", "0.add", "1.conv1", "1.conv2", "1.add"]
    assert w["0.add"].inputs == ("0.conv2", INPUT)
    assert w["1.conv1"].inputs == ("0.add",)
    assert w["1.add"].inputs == ("1.conv2", "0.add")
    assert w["1.add"].activation == "relu"
    assert w.outputs == ("1.add",)


def test_concat_slice_and_shuffle() -> None:
    """Parts of a tensor are layers that say so; a shuffle of channels moves nothing here."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        a, b = m.stem(x).chunk(2, 1)
        y = torch.cat([a, m.branch(b)], 1)
        return y.view(1, 2, 4, 5, 5).transpose(1, 2).reshape(1, 8, 5, 5)

    w = read(Net(forward, stem=conv(3, 8), branch=conv(4, 4)), 3, 5, 5)
    assert [(x.name, x.op, x.inputs, x.k, x.c) for x in w.layers] == [
        ("stem", "conv", (INPUT,), 8, 3),
        ("slice", "eltwise", ("stem",), 4, 8),
        ("slice_1", "eltwise", ("stem",), 4, 8),
        ("branch", "conv", ("slice_1",), 4, 4),
        ("cat", "concat", ("slice", "branch"), 8, 8),
    ]


def test_sequences_are_joined_in_time() -> None:
    """Two stretches of a sequence, of 7 steps each, are one of 14: the channels stay as many."""
    w = read(Net(lambda m, x: torch.cat([m.stem(x), x[:, :, 5:]], 2), stem=nn.Conv1d(4, 4, 6)), 4, 12)
    assert (w["stem"].ox, w["cat"].k, w["cat"].oy, w["cat"].ox) == (7, 4, 1, 14)


def test_squeeze_and_excitation_scales_by_a_small_operand() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        y = m.conv(x)
        return y * torch.sigmoid(m.scale(y.mean((2, 3), keepdim=True)))

    w = read(Net(forward, conv=conv(3, 8), scale=nn.Conv2d(8, 8, 1)), 3, 6, 6)
    scaled = w["mul"]
    assert (scaled.op, scaled.inputs, scaled.k, scaled.oy, scaled.ox) == ("eltwise", ("conv", "sigmoid"), 8, 6, 6)


def test_attention_costs_two_products_of_tokens() -> None:
    """t tokens of d features in h heads: t*t*d MACs for the scores and as many for the values, 4*t*d*d for weights."""
    t, d, h = 6, 16, 4
    w = read(nn.TransformerEncoderLayer(d, h, dim_feedforward=32, batch_first=True), t, d)
    products = [x for x in w.layers if x.op == "matmul"]
    assert [(x.groups, x.macs) for x in products] == [(h, t * t * d), (h, t * t * d)]
    assert sum(x.macs for x in w.layers if x.op == "conv") == t * (4 * d * d + 2 * d * 32)
    assert [x.op for x in w.layers].count("norm") == 2
    assert [x.op for x in w.layers].count("add") == 2


@pytest.mark.parametrize("left", [False, True])
def test_a_product_with_a_weight_on_either_side_is_a_dense_layer(left: bool) -> None:
    """6 tokens of 16 features times 16 x 5 weights; or 7 x 6 weights times them, which mix tokens."""

    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.rand((7, 6) if left else (16, 5)))

        def forward(self, x: Tensor) -> Tensor:
            return self.weight @ x if left else x @ self.weight

    (layer,) = read(Product(), 6, 16).layers
    assert (layer.op, layer.weights) == ("conv", 7 * 6 if left else 16 * 5)
    assert layer.macs == (7 * 6 * 16 if left else 6 * 16 * 5)


def test_fused_attention_is_the_same_work() -> None:
    t, d, h = 6, 16, 4

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        q, k, v = (p(x).view(1, t, h, d // h).transpose(1, 2) for p in (m.q, m.k, m.v))
        return m.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(1, t, d))

    w = read(Net(forward, **{name: nn.Linear(d, d) for name in ("q", "k", "v", "out")}), t, d)
    assert [(x.name, x.op, x.macs) for x in w.layers[3:]] == [
        ("scores", "matmul", t * t * d),
        ("softmax", "softmax", 0),
        ("attend", "matmul", t * t * d),
        ("out", "conv", t * d * d),
    ]
    assert w["scores"].inputs == ("q", "k")
    assert w["attend"].inputs == ("softmax", "v")


def test_a_class_token_is_put_out_but_not_read() -> None:
    """A vision transformer's ends: 16 patches become 17 tokens by a constant, and the classifier reads one of them."""

    class Ends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 5)
            self.token, self.position = nn.Parameter(torch.zeros(1, 1, 8)), nn.Parameter(torch.zeros(1, 17, 8))

        def forward(self, x: Tensor) -> Tensor:
            y = torch.cat([self.token, self.patches(x).flatten(2).transpose(1, 2)], 1) + self.position
            return self.head(y[:, 0])  # type: ignore[no-any-return]

    w = read(Ends(), 3, 16, 16)
    assert [(x.name, x.op, x.k, x.oy * x.ox, x.c, x.iy * x.ix) for x in w.layers] == [
        ("patches", "conv", 8, 16, 3, 256),
        ("cat", "concat", 8, 17, 8, 16),
        ("add", "eltwise", 8, 17, 8, 17),
        ("slice", "eltwise", 8, 1, 8, 17),
        ("head", "conv", 5, 1, 8, 1),
    ]


def test_several_outputs_and_dead_code() -> None:
    """A result that nobody returns is no work; every result that is returned is an output."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = conv(3, 4), conv(4, 2), conv(4, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.a(x)
            self.c(y)
            return y, self.b(y)

    w = read(Two(), 3, 5, 5)
    assert [x.name for x in w.layers] == ["a", "b"]
    assert w.outputs == ("a", "b")


def test_a_module_called_twice_is_two_layers() -> None:
    shared = conv(3, 3)
    w = read(Net(lambda m, x: m.conv(m.conv(x)), conv=shared), 3, 5, 5)
    assert [(x.name, x.inputs) for x in w.layers] == [("conv", (INPUT,)), ("conv.conv2d", ("conv",))]


# ------------------------------------------------------------------------------------------------ live modules


class Ternary(nn.Module):
    """Weights of a search: three levels, straight-through gradient."""

    def forward(self, w: Tensor) -> Tensor:
        level = w.abs().mean((1, 2, 3), keepdim=True)
        return w + (torch.sign(w) * (w.abs() > level / 2) * level - w).detach()


def test_parametrized_weights_are_weights() -> None:
    """What a quantiser computes from weights is no layer: the workload equals the plain module's."""
    plain = nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 8))
    expected = read(plain, 3, 6, 6)
    for index in (0, 3):
        parametrize.register_parametrization(plain[index], "weight", Ternary())
    assert read(plain, 3, 6, 6) == expected


def test_fake_quantised_activations_change_nothing() -> None:

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        return m.b(torch.fake_quantize_per_tensor_affine(F.relu(m.a(x)), 0.1, 0, 0, 127))  # type: ignore[no-any-return]

    net = Net(forward, a=conv(3, 8), b=conv(8, 4))
    assert [(x.name, x.inputs) for x in read(net, 3, 6, 6).layers] == [("a", (INPUT,)), ("b", ("a",))]


class Counting(nn.Module):
    """Counts its calls in a buffer, whatever comes in."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(3, 8)
        self.register_buffer("calls", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)
        return self.conv(x) * self.calls.sum()  # type: ignore[no-any-return]


def test_a_counter_of_calls_is_no_state() -> None:
    """Nothing that comes in is written into it, so no later inference depends on this one."""
    assert read(Counting(), 3, 6, 6).states == ()


class Tokens(nn.Module):
    """Says, as models of transformers do, that what comes in first are numbers of tokens; then a figure for each."""

    main_input_name = "input_ids"

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.fc = nn.Embedding(10, 4), nn.Linear(4, 2)

    def forward(self, tokens: Tensor, scale: Tensor) -> Tensor:
        return self.fc(self.embed(tokens) * scale)  # type: ignore[no-any-return]


def test_a_model_that_reads_tokens_is_given_whole_numbers() -> None:
    found = from_module(Tokens(), [Input("", (6,)), Input("", (6, 4))], "net")
    assert (found["fc"].c, found["fc"].k, found["fc"].macs) == (4, 2, 6 * 4 * 2)


def test_a_pool_of_single_pixels_is_nothing_and_another_is_a_layer() -> None:
    net = nn.Sequential(conv(3, 8), nn.MaxPool2d(1), nn.MaxPool2d(1, 2))
    first, pool = read(net, 3, 6, 6).layers
    assert (first.op, pool.op, pool.fy, pool.stride_y, pool.oy) == ("conv", "max_pool", 1, 2, 3)


def test_volumes_keep_their_planes() -> None:
    """3 x 3 x 3 taps, two planes apart, that pad their input to its size, of planes of 5 x 6 pixels side by side."""
    net = nn.Sequential(nn.Conv3d(3, 8, 3, padding="same", dilation=(2, 1, 1), bias=False), nn.MaxPool3d(1))
    (layer,) = read(net, 3, 4, 5, 6).layers
    assert (layer.oy, layer.ox, layer.iy, layer.ix, layer.pad_y) == (4, 30, 4, 30, 2)
    assert layer.macs == 8 * 3 * 27 * 4 * 5 * 6


def test_the_module_is_left_as_it_was() -> None:
    """Training flags, also mixed ones (a frozen batch norm), weights and running statistics survive an export."""
    net = nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.Dropout())
    net.train()
    net[1].eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    read(net, 3, 6, 6)
    assert [m.training for m in net] == [True, False, True]
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


# ------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (
            Net(lambda m, x: m.up(x), up=nn.ConvTranspose2d(3, 3, 2, 3, output_padding=2)),
            "operator aten.conv_transpose2d in up is not supported: its stride 3x3 does not divide its result's 19x19",
        ),
        (Net(lambda m, x: torch.fft.fft(m.conv(x)).real, conv=conv(3, 3)), "operator aten.fft_fft in the network"),
        (Net(lambda m, x: torch.sort(m.conv(x))[0], conv=conv(3, 3)), "operator aten.sort in the network"),
        (
            Net(lambda m, x: m.pool(x), pool=nn.AdaptiveAvgPool2d(4)),
            "in pool is not supported: 6x6 to 4x4 takes unequal",
        ),
        (
            Net(lambda m, x: F.pad(x, (1, 1)) + 1),
            "operator aten.add in the network is not supported: it reads a padded",
        ),
        (Net(lambda m, x: m.conv(F.pad(x, (-1, 1))), conv=conv(3, 3)), r"padding \[-1, 1\] is not of rows and columns"),
        (Net(lambda m, x: F.pad(x, (0, 0, 0, 0, 1, 1))), r"padding .*1, 1\] is not of rows and columns"),
        (
            Net(lambda m, x: m.conv(x) if x.sum() > 0 else x, conv=conv(3, 3)),
            "torch.export cannot read it for input 1,3,6,6",
        ),
        (conv(5, 3), "torch.export cannot read it for input 1,3,6,6: .*5 channels"),
        (Net(lambda m, x: torch.zeros(1)), "its output does not depend on its input"),
        (Net(lambda m, x: F.conv2d(x, m.conv(x)), conv=conv(3, 3)), "its weights are computed from the input"),
    ],
)
def test_what_cannot_be_read_is_named(net: nn.Module, message: str) -> None:
    """Operator and layer, on one line."""
    with pytest.raises(InputError, match=message) as caught:
        from_module(net, (3, 6, 6), "net")
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------------ by spec

FACTORY = """
from torch import nn
def make_net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
class Own(nn.Conv2d):
    def __init__(self):
        super().__init__(3, 5, 1)
ready = nn.Conv2d(3, 6, 1)
def broken():
    raise ValueError("no\\nluck")
def number():
    return 7
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A user's package in the working directory, which is not on the path."""
    (tmp_path / "my_pkg_for_test").mkdir()
    (tmp_path / "my_pkg_for_test" / "nets.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    return "my_pkg_for_test.nets"


@pytest.mark.parametrize(("attribute", "k"), [("make_net", 4), ("Own", 5), ("ready", 6)])
def test_a_users_module_by_name(package: str, attribute: str, k: int) -> None:
    path = list(sys.path)
    workload = find_workload(f"{package}:{attribute}", Reading((("", (1, 3, 8, 8)),)))
    assert [x.k for x in workload.layers] == [k]
    assert (workload.name, workload.source) == (attribute, f"{package}:{attribute}")
    assert sys.path == path


@pytest.mark.parametrize(
    ("attribute", "message"),
    [("absent", "has no 'absent'"), ("broken", "ValueError: no luck"), ("number", "makes a int; a torch.nn.Module")],
)
def test_a_users_mistake_is_said(package: str, attribute: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_module(f"{package}:{attribute}")


def test_an_absent_package_is_said(package: str) -> None:
    with pytest.raises(InputError, match="no module named 'absent_pkg_for_test'"):
        load_module("absent_pkg_for_test:make")
