"""Does an ONNX file become the layers that it computes, the same that torch would give, or a clear refusal?"""

from __future__ import annotations

import importlib.util
import math
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cosoc.cli import main
from cosoc.search.training import nets
from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.reading import Reading
from cosoc.sim.files.workload_file import dump_workload, faults, find_workload, load_workload
from cosoc.sim.importers.onnx_file import from_onnx
from cosoc.sim.importers.torch_export import from_module
from cosoc.sim.lower.fusion import buffer_bytes
from cosoc.sim.manual import named_mapping
from cosoc.sim.model.workload import INPUT, Layer, Workload, batched
from cosoc.sim.movers.dma_terms import spans_x, spans_y
from cosoc.sim.simulate import simulate

onnx = pytest.importorskip("onnx", reason="the optional package onnx is not installed")
TensorProto, helper = onnx.TensorProto, onnx.helper

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


def zigzag() -> Path:
    """Where zigzag-dse keeps its networks, if it is installed; it is not imported."""
    spec = importlib.util.find_spec("zigzag")
    places = spec.submodule_search_locations if spec and spec.submodule_search_locations else ["absent"]
    return Path(next(iter(places))) / "inputs" / "workload"


# Published multiply-accumulates, in millions as printed, and parameters without batch norm's: torchvision's weights
# pages for resnet50, vgg19, squeezenet 1.1, densenet121, resnet18 and mobilenet_v2; BVLC's AlexNet has 60,965,224
# parameters in every count of the Caffe model. Where a name has none, the test's own count alone is compared.
PUBLISHED: dict[str, tuple[float | None, int | None]] = {
    "light_resnet50": (4089, None),
    "light_vgg19": (19632, 143_667_240),
    "light_squeezenet": (349, 1_235_496),
    "light_densenet121": (2834, None),
    "light_bvlc_alexnet": (None, 60_965_224),
    "light_inception_v1": (None, None),
    "light_inception_v2": (None, None),
    "light_shufflenet": (None, None),
    "light_zfnet512": (None, None),
}
ZIGZAG: dict[str, tuple[float | None, int | None]] = {
    "resnet18": (1814, None),
    "mobilenetv2": (301, None),
    "alexnet": (None, 60_965_224),
}


def counted(path: Path) -> int:
    """MACs of all convolutions and matrix products by ONNX's own shapes: outputs times the taps of one."""
    model = onnx.shape_inference.infer_shapes(onnx.load(path, load_external_data=False))
    graph = model.graph
    shapes = {
        info.name: [d.dim_value for d in info.type.tensor_type.shape.dim]
        for info in (*graph.value_info, *graph.input, *graph.output)
    }
    shapes |= {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    total = 0
    for node in graph.node:
        if node.op_type == "Conv":
            total += math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])
        elif node.op_type in ("Gemm", "MatMul"):
            total += math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
    return total


@pytest.mark.parametrize("name", sorted(PUBLISHED) + sorted(ZIGZAG))
def test_macs_are_the_published_and_the_counted_ones(name: str) -> None:
    path = (LIGHT if name in PUBLISHED else zigzag()) / f"{name}.onnx"
    if not path.exists():
        pytest.skip(f"{path.name} comes with {'onnx' if name in PUBLISHED else 'zigzag-dse'}, which has it not here")
    workload = from_onnx(path)
    assert workload.macs == counted(path)
    millions, params = (PUBLISHED | ZIGZAG)[name]
    assert millions in (None, round(workload.macs / 1e6))
    assert params in (None, workload.params)
    assert workload.input_shape == (3, 224, 224)


@pytest.mark.parametrize("name", ["light_shufflenet", "light_squeezenet", "light_inception_v1"])
def test_a_network_from_a_file_runs_on_diana(name: str) -> None:
    """Grouped convolutions, concatenations, response normalisation: on some core or on the host."""
    if not (LIGHT / f"{name}.onnx").exists():
        pytest.skip(f"this onnx has no {name}")
    workload, soc = from_onnx(LIGHT / f"{name}.onnx"), find_soc("diana")
    result = simulate(soc, workload, named_mapping("all_8bit", workload, soc))
    assert {part.layer for part in result.by_layer} == {layer.name for layer in workload}
    assert result.seconds > workload.macs / (256 * soc.tick_hz)  # DIANA's digital array multiplies 256 a cycle


def test_a_file_and_its_yaml_are_the_same_workload(tmp_path: Path) -> None:
    workload = from_onnx(LIGHT / "light_shufflenet.onnx")
    (tmp_path / "net.yaml").write_text(dump_workload(workload), encoding="utf-8")
    assert load_workload(tmp_path / "net.yaml") == workload


# ------------------------------------------------------------------------------------------------ the same as by torch


def exported(module: nn.Module, shape: tuple[int, ...], path: Path, dynamo: bool = False) -> Path:
    """The module as torch's own exporter writes it. Random statistics, so that no bias is left out for being zero."""
    generator = torch.Generator().manual_seed(0)
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            tensor.data = torch.rand(tensor.shape, generator=generator) + 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module.eval(), (torch.zeros(1, *shape),), str(path), dynamo=dynamo, verbose=False)
    return path


def unnamed(workload: Workload) -> list[Layer]:
    """Its layers by number, without what the source calls its operators."""
    number = {INPUT: INPUT} | {layer.name: str(i) for i, layer in enumerate(workload)}
    return [
        replace(
            layer,
            name=number[layer.name],
            inputs=tuple(number[name] for name in layer.inputs),
            fn="slice" if layer.fn == "slice" else "",
        )
        for layer in workload
    ]


class FusedAttention(nn.Module):
    """Two heads, of whose queries, keys and values one layer computes all, each taken in another way."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.qkv(x)
        parts = y.unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        weights = (parts[0] @ parts.unbind(0)[1].transpose(-1, -2)).softmax(-1)
        value = y[..., 16:].unflatten(-1, (2, 4)).transpose(1, 2)
        out: Tensor = self.out((weights @ value).transpose(1, 2).flatten(2))
        return out


SAME: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "residual": (nets.resnet8, (3, 32, 32)),
    "depthwise": (nets.dscnn, (1, 49, 10)),
    "dense": (nets.autoencoder, (640, 1, 1)),
    "excited": (lambda: nets.InvertedNet(3, 10, [(1, 3, 8, 1, 1), (6, 5, 16, 2, 2)], excite=True), (3, 32, 32)),
    "relu6": (lambda: nets.InvertedNet(3, 10, [(1, 3, 8, 1, 1), (6, 3, 16, 2, 2)], excite=False), (3, 32, 32)),
    "concatenated": (lambda: nets.SqueezeNet(3, 10), (3, 64, 64)),
    "grouped": (lambda: nets.PlainNet(3, 10, [(8, 3, 1, 1, 1), (2, 2), (16, 3, 1, 1, 2)], 16, (32,)), (3, 32, 32)),
    "upsampled": (lambda: nn.Sequential(nn.ConvTranspose2d(3, 8, 4, 2, 1), nn.Upsample(scale_factor=2)), (3, 6, 6)),
    "attending": (lambda: nets.VisionTransformer(3, 10, 32, 8, 32, 2, 4), (3, 32, 32)),
    "fused": (FusedAttention, (9, 8)),
}


@pytest.mark.parametrize("name", sorted(SAME))
def test_a_network_is_the_same_by_torch_and_by_onnx(name: str, tmp_path: Path) -> None:
    make, shape = SAME[name]
    module = make()
    by_onnx = from_onnx(exported(module, shape, tmp_path / "net.onnx"))
    by_torch = from_module(module, shape, "net")
    assert by_onnx.input_shape == by_torch.input_shape
    assert unnamed(by_onnx) == unnamed(by_torch)
    if name != "attending":  # whose fused attention ONNX spells out, under names of its own
        assert [layer.name for layer in by_onnx] == [layer.name for layer in by_torch]
        assert by_onnx.outputs == by_torch.outputs


def test_the_other_exporter_gives_the_same(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="torch's newer ONNX exporter needs onnxscript")
    module = nets.VisionTransformer(3, 10, 32, 8, 32, 2, 4)
    by_onnx = from_onnx(exported(module, (3, 32, 32), tmp_path / "net.onnx", dynamo=True))
    assert unnamed(by_onnx) == unnamed(from_module(module, (3, 32, 32), "net"))


# ------------------------------------------------------------------------------------------------ operators


def node(op: str, inputs: str, output: str = "y", **attributes: Any) -> Any:
    given = [name.strip("_") for name in inputs.split()]
    return helper.make_node(op, given, output.split(), name=f"the_{op.lower()}", **attributes)


def write(
    path: Path,
    nodes: list[Any],
    weights: dict[str, Any] | None = None,
    shape: tuple[int | str, ...] = (1, 8, 6, 6),
    outputs: str = "y",
    **more: Any,
) -> Path:
    """A file with one input x. Weights by their shape or their elements; `_` is an input that is left out."""
    filled = {k: np.ones(v, np.float32) if isinstance(v, tuple) else np.asarray(v) for k, v in (weights or {}).items()}
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape), *more.pop("inputs", [])],
        [helper.make_empty_tensor_value_info(name) for name in outputs.split()],
        [onnx.numpy_helper.from_array(v, k) for k, v in filled.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", more.pop("opset", 20))], **more)
    path.write_bytes(model.SerializeToString())
    return path


def read(tmp_path: Path, *args: Any, given: tuple[int, ...] | None = None, **more: Any) -> Workload:
    workload = from_onnx(write(tmp_path / "net.onnx", *args, **more), [("", given)] if given else [])
    assert faults(workload) == []
    return workload


CONV = node("Conv", "x w b", "c", pads=[1, 1, 1, 1])
W = {"w": (8, 8, 3, 3), "b": (8,)}


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def test_a_convolution_with_everything(tmp_path: Path) -> None:
    conv = node("Conv", "x w", pads=[2, 1, 1, 0], strides=[2, 1], dilations=[1, 2], group=2)
    (layer,) = read(tmp_path, [conv], {"w": (4, 4, 3, 2)}, shape=(1, 8, 9, 7))
    assert layer == Layer("the_conv", "conv", (INPUT,), 4, 8, 5, 6, 9, 7, 3, 2, 2, 1, 2, 1, 1, 2, groups=2, bias=False)


@pytest.mark.parametrize(("mode", "pad"), [("SAME_UPPER", 0), ("SAME_LOWER", 1), ("VALID", 0)])
def test_padding_that_the_file_leaves_to_the_reader(mode: str, pad: int, tmp_path: Path) -> None:
    """6 inputs, window 3, stride 2: 3 outputs need 7 inputs, of which one is padding, after or before the others."""
    (layer,) = read(tmp_path, [node("Conv", "x w", auto_pad=mode, strides=[2, 2])], {"w": (4, 8, 3, 3)})
    assert (layer.oy, layer.pad_y, layer.pad_x) == (2 if mode == "VALID" else 3, pad, pad)


def test_channel_shuffle_is_no_work(tmp_path: Path) -> None:
    nodes = [
        node("Conv", "x w", "a", group=2),
        node("Reshape", "a five", "b"),
        node("Transpose", "b", "t", perm=[0, 2, 1, 3, 4]),
        node("Reshape", "t four", "d"),
        node("Conv", "d v", "y", group=8, pads=[1, 1, 1, 1]),
    ]
    weights = {"w": (8, 4, 1, 1), "v": (8, 1, 3, 3), "five": ints(1, 2, 4, 6, 6), "four": ints(1, 8, 6, 6)}
    first, second = read(tmp_path, nodes, weights)
    assert (first.groups, first.macs) == (2, 8 * 4 * 36)
    assert (second.depthwise, second.inputs) == (True, (first.name,))


@pytest.mark.parametrize(
    ("after", "weights", "opset", "activation"),
    [
        (node("Relu", "c"), {}, 20, "relu"),
        (node("Clip", "c low high"), {"low": np.float32([0]), "high": np.float32([6])}, 20, "relu6"),
        (node("Clip", "c low"), {"low": np.float32([0])}, 20, "relu"),
        (node("Clip", "c", min=0.0, max=6.0), {}, 9, "relu6"),
        (node("Clip", "c low"), {"low": np.float32([1])}, 20, ""),
        (node("HardSwish", "c"), {}, 20, ""),
    ],
)
def test_relu_folds_by_any_name(
    after: Any, weights: dict[str, Any], opset: int, activation: str, tmp_path: Path
) -> None:
    layers = read(tmp_path, [CONV, after], W | weights, opset=opset).layers
    assert (layers[0].activation, len(layers)) == (activation, 1 if activation else 2)


def test_batch_norm_and_what_scales_channels_fold(tmp_path: Path) -> None:
    nodes = [
        node("Conv", "x w", "a", pads=[1, 1, 1, 1]),
        node("BatchNormalization", "a b b b b", "n"),
        node("Mul", "n scale", "m"),
        node("Add", "m scale", "y"),
    ]
    (layer,) = read(tmp_path, nodes, W | {"scale": (8, 1, 1)})
    assert (layer.op, layer.bias) == ("conv", True)


def test_a_product_with_weights_and_its_bias_is_a_layer_of_tokens(tmp_path: Path) -> None:
    (layer,) = read(
        tmp_path, [node("MatMul", "x w", "m"), node("Add", "b m")], {"w": (8, 5), "b": (5,)}, shape=(1, 7, 8)
    )
    assert (layer.op, layer.k, layer.c, layer.ox, layer.bias, layer.macs) == ("conv", 5, 8, 7, True, 7 * 8 * 5)


@pytest.mark.parametrize(("transposed", "weight"), [(0, (8, 5)), (1, (5, 8))])
def test_gemm(transposed: int, weight: tuple[int, int], tmp_path: Path) -> None:
    (layer,) = read(tmp_path, [node("Gemm", "x w b", transB=transposed)], {"w": weight, "b": (5,)}, shape=(1, 8))
    assert (layer.k, layer.c, layer.ox, layer.bias) == (5, 8, 1, True)


def test_attention_written_out(tmp_path: Path) -> None:
    """t x t x d multiplications for the scores and as many for the values; the scale is no work."""
    nodes = [
        node("MatMul", "x w", "q"),
        node("Transpose", "x", "k", perm=[0, 2, 1]),
        node("MatMul", "q k", "s"),
        node("Div", "s root", "d"),
        node("Softmax", "d", "p"),
        node("MatMul", "p x", "y"),
    ]
    workload = read(tmp_path, nodes, {"w": (4, 4), "root": np.float32(2)}, shape=(1, 6, 4))
    assert [(x.op, x.macs) for x in workload] == [
        ("conv", 6 * 4 * 4),
        ("matmul", 6 * 6 * 4),
        ("softmax", 0),
        ("matmul", 6 * 6 * 4),
    ]


def test_split_and_concat_and_slice(tmp_path: Path) -> None:
    nodes = [
        node("Split", "x sizes", "a b", axis=1),
        node("Slice", "x from to axes", "s"),
        node("Concat", "a s b", "y", axis=1),
    ]
    weights = {"sizes": ints(2, 6), "from": ints(1), "to": ints(4), "axes": ints(1)}
    workload = read(tmp_path, nodes, weights)
    assert [(x.op, x.k) for x in workload] == [("eltwise", 2), ("eltwise", 6), ("eltwise", 3), ("concat", 11)]


@pytest.mark.parametrize(
    ("reduction", "weights", "window"),
    [
        (node("GlobalAveragePool", "x"), {}, (8, 6, 6)),
        (node("ReduceMean", "x axes"), {"axes": ints(2, 3)}, (8, 6, 6)),
        (node("ReduceMax", "x axes", keepdims=0), {"axes": ints(-1)}, (48, 6, 1)),
        (node("ReduceMean", "x axes"), {"axes": ints(1)}, (1, 8, 1)),
        (node("ArgMax", "x", axis=1), {}, (1, 8, 1)),
    ],
)
def test_a_reduction_reads_every_element_once(
    reduction: Any, weights: dict[str, Any], window: tuple[int, int, int], tmp_path: Path
) -> None:
    (layer,) = read(tmp_path, [reduction], weights)
    assert (layer.k, layer.fy, layer.fx) == window
    assert layer.outputs * layer.fy * layer.fx == 8 * 6 * 6


def test_padding_folds_into_the_pool_that_reads_it(tmp_path: Path) -> None:
    nodes = [node("Pad", "x pads", "p"), node("MaxPool", "p", kernel_shape=[3, 3], strides=[2, 2])]
    (layer,) = read(tmp_path, nodes, {"pads": ints(0, 0, 1, 0, 0, 0, 0, 1)})
    assert (layer.iy, layer.ix, layer.oy, layer.ox, layer.pad_y, layer.pad_x) == (6, 6, 3, 3, 1, 0)


@pytest.mark.parametrize("op", ["LRN", "LayerNormalization", "InstanceNormalization"])
def test_norms_are_layers(op: str, tmp_path: Path) -> None:
    given = {"LRN": ("x", {"size": 5}), "LayerNormalization": ("x g g", {}), "InstanceNormalization": ("x b b", {})}
    inputs, attributes = given[op]
    (layer,) = read(tmp_path, [node(op, inputs, **attributes)], {"g": (6,), "b": (8,)})
    assert (layer.op, layer.fn, layer.outputs) == ("norm", op, 8 * 6 * 6)


def test_quantised_weights_say_their_bits(tmp_path: Path) -> None:
    """QDQ: integers and a scale, made into numbers before the convolution; those of the input likewise."""
    four = helper.make_tensor("w", TensorProto.INT4, (8, 8, 3, 3), [1] * 576)
    nodes = [
        node("QuantizeLinear", "x s zero", "q"),
        node("DequantizeLinear", "q s zero", "d"),
        node("DequantizeLinear", "w s", "v"),
        node("Conv", "d v"),
    ]
    path = write(tmp_path / "net.onnx", nodes, {"s": np.float32(0.1), "zero": np.int8(0)}, opset=21)
    model = onnx.load(path)
    model.graph.initializer.append(four)
    path.write_bytes(model.SerializeToString())
    (layer,) = from_onnx(path)
    assert (layer.op, layer.weight_bits, layer.inputs) == ("conv", 4, (INPUT,))


def test_quantised_weights_that_the_file_computes_say_their_bits(tmp_path: Path) -> None:
    """Of 16 bits, turned around, and in a shape that is a product of sizes: that they are constant takes nothing from
    what they are."""
    nodes = [
        node("Transpose", "q", "turned", perm=[1, 0]),
        node("Neg", "sizes", "less"),
        node("Neg", "less", "to"),
        node("Reshape", "turned to", "w"),
        node("DequantizeLinear", "w s", "v"),
        node("Conv", "x v"),
    ]
    weights = {"s": np.float32(0.1), "q": np.ones((8, 12), np.int16), "sizes": ints(12, 8, 1, 1)}
    (layer,) = read(tmp_path, nodes, weights, opset=21)
    assert (layer.op, layer.k, layer.c, layer.weight_bits) == ("conv", 12, 8, 16)


def test_integer_convolutions(tmp_path: Path) -> None:
    nodes = [node("QuantizeLinear", "x s zero", "q"), node("QLinearConv", "q s zero w s zero s zero b")]
    weights = {"s": np.float32(0.1), "zero": np.int8(0), "w": np.ones((4, 8, 3, 3), np.int8), "b": np.ones(4, np.int32)}
    (layer,) = read(tmp_path, nodes, weights)
    assert (layer.op, layer.k, layer.bias, layer.macs) == ("conv", 4, True, 4 * 8 * 9 * 16)
    assert layer.weight_bits == 8


def test_sizes_computed_from_sizes_are_constant(tmp_path: Path) -> None:
    """As exporters write x.view(x.size(0), -1, 3) * (x.size(2) % 4)."""
    nodes = [
        node("Shape", "x", "s"),
        node("Gather", "s zero", "n", axis=0),
        node("Unsqueeze", "n axis", "n1"),
        node("Concat", "n1 rest", "to", axis=0),
        node("Gather", "s two", "h", axis=0),
        node("Mod", "h four", "m"),
        node("Unsqueeze", "m axis", "m1"),
        node("Concat", "to m1", "all", axis=0),
        node("Reshape", "x all", "r"),
        node("MatMul", "r w", "y"),
    ]
    weights = {"zero": np.int64(0), "two": np.int64(2), "four": np.int64(4), "axis": ints(0), "rest": ints(-1)}
    (layer,) = read(tmp_path, nodes, weights | {"w": (2, 5)})
    assert (layer.ox, layer.c, layer.k) == (8 * 6 * 6 // 2, 2, 5)


def test_sizes_cut_out_of_sizes_are_constant(tmp_path: Path) -> None:
    """As exporters write x.view(*x.shape[:2], -1): of 8 channels and 6 x 6 pixels, 36 in a row."""
    nodes = [
        node("Shape", "x", "s"),
        node("Slice", "s zero two", "head"),
        node("Concat", "head rest", "to", axis=0),
        node("Reshape", "x to", "r"),
        node("MatMul", "r w", "y"),
    ]
    (layer,) = read(tmp_path, nodes, {"zero": ints(0), "two": ints(2), "rest": ints(-1), "w": (36, 5)})
    assert (layer.c, layer.k, layer.oy * layer.ox) == (36, 5, 8)


def test_sizes_that_only_the_reader_computes_are_constant(tmp_path: Path) -> None:
    """The same, of sizes negated twice, which ONNX's own inference does not follow."""
    nodes = [
        node("Shape", "x", "s"),
        node("Neg", "s", "less"),
        node("Neg", "less", "more"),
        node("Slice", "more zero two", "head"),
        node("Concat", "head rest", "to", axis=0),
        node("Reshape", "x to", "r"),
        node("MatMul", "r w", "y"),
    ]
    (layer,) = read(tmp_path, nodes, {"zero": ints(0), "two": ints(2), "rest": ints(-1), "w": (36, 5)})
    assert (layer.c, layer.k, layer.oy * layer.ox) == (36, 5, 8)


def test_an_operator_of_attention_is_its_two_products(tmp_path: Path) -> None:
    """Eight heads of 6 positions by 6: each product 8 x 6 x 6 x 6 MACs, with a softmax of the scores between them."""
    layers = read(tmp_path, [node("Attention", "x x x")], opset=23)
    assert [(layer.op, layer.macs) for layer in layers] == [("matmul", 8 * 6**3), ("softmax", 0), ("matmul", 8 * 6**3)]
    heads = node("Attention", "x x x", q_num_heads=2, kv_num_heads=2)
    joined = write(tmp_path / "joined.onnx", [heads], shape=(1, 6, 8), opset=23)
    with pytest.raises(InputError, match="splits heads by itself"):
        from_onnx(joined)


def test_a_product_with_its_weights_on_the_left_is_a_dense_layer(tmp_path: Path) -> None:
    """10 x 8 weights times 8 x 6 values, six times over: 6 x 6 pixels of 8 channels, as columns."""
    nodes = [node("Reshape", "x to", "r"), node("MatMul", "w r", "y")]
    (layer,) = read(tmp_path, nodes, {"to": ints(1, 8, 36), "w": (10, 8)})
    assert (layer.c, layer.k, layer.oy * layer.ox, layer.macs) == (8, 10, 36, 10 * 8 * 36)


def test_a_padded_input_of_unequal_sides_is_padded_as_each_needs(tmp_path: Path) -> None:
    """Filters of 5 x 3: two rows and one column on either side."""
    (layer,) = read(tmp_path, [node("Conv", "x w", auto_pad="SAME_UPPER")], {"w": (4, 8, 5, 3)})
    assert (layer.oy, layer.ox, layer.pad_y, layer.pad_x) == (6, 6, 2, 1)


def test_a_sequence_is_padded_as_it_needs(tmp_path: Path) -> None:
    """9 steps, windows of 4 in steps of 2: 5 outputs reach over 12, of which 3 are padding, 1 before the others."""
    conv = node("Conv", "x w", auto_pad="SAME_UPPER", strides=[2])
    (layer,) = read(tmp_path, [conv], {"w": (4, 8, 4)}, shape=(1, 8, 9))
    assert (layer.oy, layer.ox, layer.fx, layer.stride_x, layer.pad_x) == (1, 5, 4, 2, 1)


def test_what_nobody_reads_is_not_there(tmp_path: Path) -> None:
    """A dead branch, even one of an operator that no layer stands for."""
    nodes = [CONV, node("Relu", "c"), node("TopK", "c one", "v i")]
    assert [x.name for x in read(tmp_path, nodes, W | {"one": ints(1)})] == ["the_conv"]


def test_weights_may_be_elsewhere(tmp_path: Path) -> None:
    """Shapes are all that is read: the file of the weights need not exist."""
    path = write(tmp_path / "net.onnx", [CONV, node("Relu", "c")], W)
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="absent.bin")
    path.write_bytes(model.SerializeToString())
    assert [x.op for x in from_onnx(path)] == ["conv"]


def test_functions_of_the_file_are_read_through(tmp_path: Path) -> None:
    body = [helper.make_node("Relu", ["a"], ["r"]), helper.make_node("Sigmoid", ["r"], ["o"])]
    twice = helper.make_function("own", "Twice", ["a"], ["o"], body, [helper.make_opsetid("", 20)])
    path = write(tmp_path / "net.onnx", [CONV, helper.make_node("Twice", ["c"], ["y"], domain="own")], W)
    model = onnx.load(path)
    model.functions.append(twice)
    model.opset_import.append(helper.make_opsetid("own", 1))
    path.write_bytes(model.SerializeToString())
    assert [(x.op, x.activation) for x in from_onnx(path)] == [("conv", "relu"), ("eltwise", "")]


# ------------------------------------------------------------------------------------------------ upsampling


@pytest.mark.parametrize(("size", "to", "taps"), [(5, 10, 1), (5, 10, 2), (7, 3, 2), (6, 16, 4)])
@pytest.mark.parametrize("tile", [1, 2, 3, 16])
def test_tiles_of_a_resize_load_what_their_pixels_read(size: int, to: int, taps: int, tile: int) -> None:
    """Against the rows under each output, by the definition: the nearest ones of (y + 1/2) * size / to - 1/2."""
    layer = Layer("up", "resize", (INPUT,), 4, 4, to, to, size, size, taps, taps)
    spans = [span for span in spans_y(layer, tile) for _ in range(span.count)]
    assert spans_x(layer, tile) == spans_y(layer, tile)
    assert sum(span.out for span in spans) == to
    start = 0
    for span in spans:
        read = set()
        for y in range(start, start + span.out):
            at = (y + 0.5) * size / to - 0.5
            first = round(at) if taps == 1 else math.floor(at) - taps // 2 + 1
            read |= {min(max(row, 0), size - 1) for row in range(first, first + taps)}
        assert len(read) <= span.inp <= min(size, len(read) + taps + 1)
        start += span.out


@pytest.mark.parametrize(("mode", "taps"), [("nearest", 1), ("linear", 2), ("cubic", 4)])
def test_the_host_upsamples_at_a_cost_by_element(mode: str, taps: int, tmp_path: Path) -> None:
    workload = read(tmp_path, [node("Resize", "x _ scales", mode=mode)], {"scales": np.float32([1, 1, 2, 3])})
    (layer,) = workload
    assert (layer.op, layer.oy, layer.ox, layer.fy, layer.fx) == ("resize", 12, 18, taps, taps)
    soc = find_soc("diana")
    result = simulate(soc, workload, named_mapping("all_8bit", workload, soc))
    host: Any = soc.cores[str(soc.host)]
    assert result.ticks >= 8 * 12 * 18 * taps * taps * host.cycles_per_element


def test_a_resize_is_in_no_fused_group() -> None:
    """Rows go through a fused group one for one or by a stride; a resize gives more than it takes."""
    first = Layer("conv", "conv", (INPUT,), 4, 4, 6, 6, 6, 6)
    up = Layer("up", "resize", ("conv",), 4, 4, 12, 12, 6, 6)
    with pytest.raises(InputError, match="group: up resizes"):
        buffer_bytes(Workload("two", (4, 6, 6), (first, up), ("up",)), ("conv", "up"))


# ------------------------------------------------------------------------------------------------ inputs


def test_a_dynamic_batch_is_one_and_other_sizes_must_be_given(tmp_path: Path) -> None:
    path = write(tmp_path / "net.onnx", [CONV, node("Relu", "c")], W, shape=("N", 8, "height", 6))
    with pytest.raises(InputError, match=r"dimension height of input x .*--input-shape x=1,8,N,6"):
        from_onnx(path)
    assert from_onnx(path, [("", (1, 8, 4, 6))]).input_shape == (8, 4, 6)
    assert find_workload(str(path), Reading((("x", (1, 8, 4, 6)),))).layers[0].oy == 4
    with pytest.raises(InputError, match=r"--input-shape z=...: there is no such input; its input is x"):
        from_onnx(path, [("z", (1, 8, 4, 6))])


@pytest.mark.parametrize(
    ("shape", "given", "message"),
    [
        ((1, 8, 6, 6), (1, 8, 6), r"input x has 4 dimensions \(1,8,6,6\); 3 are given"),
        ((1, 8, 6, 6), (1, 8, 0, 6), "dimension 0 of input x .* is not fixed"),
        ((1, 8, 6, 6, 6, 6), None, "input x has 6 dimensions"),
        ((1, 8, 6, 6), (1, 9, 6, 6), "operator Conv in the_conv .*8 channels a filter"),
    ],
)
def test_inputs_that_cannot_be(shape: Any, given: Any, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "net.onnx", [CONV, node("Relu", "c")], W, shape=shape)
    with pytest.raises(InputError, match=message):
        from_onnx(path, [("", given)] if given else [])


def test_a_given_shape_replaces_the_files(tmp_path: Path) -> None:
    assert read(tmp_path, [CONV, node("Relu", "c")], W, given=(1, 8, 12, 5)).layers[0].oy == 12


# ------------------------------------------------------------------------------------------------ refusals


def test_control_flow_is_refused_by_name(tmp_path: Path) -> None:
    branch = helper.make_graph([node("Relu", "x", "r")], "b", [], [helper.make_tensor_value_info("r", 1, None)])
    nodes = [node("ReduceMax", "x", "m", keepdims=0), node("Cast", "m", "condition", to=TensorProto.BOOL)]
    nodes.append(node("If", "condition", then_branch=branch, else_branch=branch))
    with pytest.raises(InputError, match=r"operator If in the_if is not supported: .*without control flow"):
        read(tmp_path, nodes)


@pytest.mark.parametrize(
    ("nodes", "weights", "message"),
    [
        ([node("TopK", "x one", "y i")], {"one": ints(1)}, "operator TopK in the_topk is not supported: no such"),
        ([node("Conv", "x x")], {}, "the_conv is not supported: its weights are computed from the input"),
        (
            [node("Cast", "x", "i", to=7), node("Gather", "w i", axis=1)],
            {"w": (9, 4)},
            "the_gather .* columns of a table",
        ),
        ([node("Relu", "w")], {"w": (3,)}, "the network reads no input"),
        ([node("Pad", "x p", "z"), node("Relu", "z")], {"p": ints(0, 0, 1, 1, 0, 0, 1, 1)}, "reads a padded tensor"),
        ([node("Pad", "x p")], {"p": ints(0, 1, 0, 0, 0, 0, 0, 0)}, "is not of rows and columns alone"),
        ([node("Pad", "x p")], {"p": ints(0, 0, 0, 0, 0, 1, 0, 0)}, "is not of rows and columns alone"),
        ([node("Identity", "x")], {}, "its output does not depend on its input through any operator"),
        ([helper.make_node("Relu", ["x"], ["y"], name="r", domain="own")], {}, "operator own.Relu in r is not"),
        ([node("MaxPool", "x", kernel_shape=[0, 0])], {}, "in the_maxpool"),
        (
            [node("ReduceMax", "x", "m"), node("Cast", "m", "to", to=7), node("Reshape", "x to", "y")],
            {},
            "the shape of its result y cannot be inferred",
        ),
        ([node("NonZero", "x", "z"), node("Cast", "z", "y", to=1)], {}, "operator NonZero in the_nonzero"),
    ],
)
def test_what_cannot_be_read_is_named(nodes: list[Any], weights: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "net.onnx", nodes, weights)
    with pytest.raises(InputError, match=message) as caught:
        from_onnx(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))


def test_a_choice_between_tensors_reads_them(tmp_path: Path) -> None:
    """By what is above nothing, that is: a guard against what is no number would be nothing."""
    nodes = [CONV, node("Greater", "c zero", "n"), node("Where", "n c zero", "g"), node("Sigmoid", "g")]
    assert "the_where" in [layer.name for layer in read(tmp_path, nodes, W | {"zero": np.zeros(1, np.float32)})]


def test_what_reads_what_cannot_be_read_is_read_all_the_same(tmp_path: Path) -> None:
    """A draw of chance is nothing that is known, but of the size of what it reads: both of two are named."""
    path = write(tmp_path / "net.onnx", [CONV, node("Bernoulli", "c", "s"), node("Bernoulli", "s")], W)
    with pytest.raises(InputError, match=r"operator Bernoulli in the_bernoulli \(2 times\) is not supported"):
        from_onnx(path)


def test_an_attribute_of_another_type_is_said(tmp_path: Path) -> None:
    """A number that the file has as a list, of an operator whose result it declares."""
    weights = {"w": (1, 8, 8), "r": (1, 8, 8)}
    path = write(tmp_path / "net.onnx", [node("LSTM", "x w r", hidden_size=[2])], weights)
    model = onnx.load(path)
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 8, 3, 3)))
    onnx.save(model, path)
    with pytest.raises(InputError, match=r"operator LSTM in the_lstm cannot be read: .* not 'list'"):
        from_onnx(path)


def test_sizes_that_are_shorter_than_they_say_are_not_known(tmp_path: Path) -> None:
    """Two numbers are announced and one is there: the shape that they make cannot be, which is one line."""
    path = write(tmp_path / "net.onnx", [node("Reshape", "x to", "r"), node("MatMul", "r w", "y")],
                 {"to": ints(8, 36), "w": (36, 5)})  # fmt: skip
    model = onnx.load(path)
    (sizes,) = (one for one in model.graph.initializer if one.name == "to")
    sizes.raw_data = sizes.raw_data[:8]
    onnx.save(model, path)
    with pytest.raises(InputError) as caught:
        from_onnx(path)
    assert "\n" not in str(caught.value)


def test_sizes_that_only_the_reader_computes_from_too_few_are_not_known(tmp_path: Path) -> None:
    """The same behind an operator that ONNX's own inference does not follow."""
    nodes = [node("Neg", "to", "less"), node("Neg", "less", "more"), node("Reshape", "x more", "r")]
    path = write(tmp_path / "net.onnx", [*nodes, node("MatMul", "r w", "y")], {"to": ints(8, 36), "w": (36, 5)})
    assert [layer.macs for layer in from_onnx(path)] == [8 * 36 * 5]
    model = onnx.load(path)
    (sizes,) = (one for one in model.graph.initializer if one.name == "to")
    sizes.raw_data = sizes.raw_data[:12]
    onnx.save(model, path)
    with pytest.raises(InputError, match="the shape of its result r cannot be inferred"):
        from_onnx(path)


def test_a_node_without_name_or_output_is_said(tmp_path: Path) -> None:
    path = write(tmp_path / "net.onnx", [CONV, helper.make_node("Relu", ["c"], [])], W, outputs="c")
    with pytest.raises(InputError, match="operator Relu in a node without name has no output"):
        from_onnx(path)


def test_a_node_without_a_name_is_called_by_its_first_result(tmp_path: Path) -> None:
    """How much it pads is a figure of what it reads, and is not known; that it has a result too many is passed over."""
    sizes = [node("ReduceMax", "x", "m"), node("Cast", "m", "i", to=7), node("Expand", "i eight", "pads")]
    padding = helper.make_node("Pad", ["x", "pads"], ["front", "back"])
    path = write(tmp_path / "net.onnx", [*sizes, padding, node("MaxPool", "front", kernel_shape=[2, 2])],
                 {"eight": ints(8)})  # fmt: skip
    model = onnx.load(path)
    model.graph.value_info.append(helper.make_tensor_value_info("front", TensorProto.FLOAT, (1, 8, 8, 8)))
    onnx.save(model, path)
    with pytest.raises(InputError, match="operator Pad in front cannot be read: its pads are computed from the input"):
        from_onnx(path)


def test_all_that_cannot_be_read_is_said_at_once(tmp_path: Path) -> None:
    """Two operators that nothing stands for, one of them twice, and what follows them: one line, with the last layer
    before the first of them, where the network can be cut."""
    nodes = [
        CONV,
        node("NonZero", "c", "n"),
        node("Cast", "n", "f", to=1),
        node("Det", "c", "d"),
        node("Det", "d", "e"),
    ]
    path = write(tmp_path / "net.onnx", [*nodes, node("Mul", "f e")], W)
    with pytest.raises(InputError) as caught:
        from_onnx(path)
    said = str(caught.value)
    assert said.count("operator NonZero") == said.count("operator Det") == 1 and "\n" not in said
    assert said.endswith("or end it before with --cut-at the_conv")
    assert [layer.name for layer in from_onnx(path, cut_at="the_conv")] == ["the_conv"]
    with pytest.raises(InputError, match="no layer or module 'the_con' to cut at; there is the_conv"):
        from_onnx(path, cut_at="the_con")


def test_further_inputs_come_from_outside(tmp_path: Path) -> None:
    """A mask that the user gives is no layer, and takes memory like the input."""
    other = helper.make_tensor_value_info("mask", TensorProto.FLOAT, (1, 8, 6, 6))
    workload = read(tmp_path, [node("Mul", "x mask")], inputs=[other])
    assert workload.received == (("mask", 8 * 6 * 6),)
    assert workload.layers[0].inputs == ("input", "mask")


def test_a_dimension_is_given_by_the_name_that_the_file_has(tmp_path: Path) -> None:
    """One size for all inputs that have it: the words of a sequence, say."""
    other = helper.make_tensor_value_info("mask", TensorProto.FLOAT, (1, 8, "rows", 6))
    nodes = [node("Mul", "x mask")]
    path = write(tmp_path / "net.onnx", nodes, shape=(1, 8, "rows", 6), inputs=[other])
    with pytest.raises(InputError, match="dimension rows of input x"):
        from_onnx(path)
    found = from_onnx(path, [("rows", (5,))])
    assert (found.input_shape, found.received) == ((8, 5, 6), (("mask", 8 * 5 * 6),))
    with pytest.raises(InputError, match=r"--input-shape 1,8,5,6: whose\? Its inputs are x, mask"):
        from_onnx(path, [("", (1, 8, 5, 6))])


def test_a_batch_goes_through_every_layer(tmp_path: Path) -> None:
    one = read(tmp_path, [CONV, node("Relu", "c")], W)
    assert read(tmp_path, [CONV, node("Relu", "c")], W, shape=(4, 8, 6, 6)) == batched(one, 4)
    assert read(tmp_path, [CONV, node("Relu", "c")], W, shape=("n", 8, 6, 6), given=(4, 8, 6, 6)) == batched(one, 4)


@pytest.mark.parametrize("content", [b"", b"not a network\n", b"\x08\x07\x12\x04"])
def test_what_is_no_onnx_file(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.onnx").write_bytes(content)
    assert main(["simulate", "diana", str(tmp_path / "net.onnx")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"{tmp_path}/net.onnx: ") and said.count("\n") == 1


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    path = write(tmp_path / "net.onnx", [CONV, node("Relu", "c")], W)
    path.write_bytes(path.read_bytes().replace(b"the_relu", b"th\xff_relu"))
    with pytest.raises(InputError, match=r"the name b.th\\xff_relu. is not UTF-8"):
        from_onnx(path)


def test_a_truncated_file(tmp_path: Path) -> None:
    whole = write(tmp_path / "net.onnx", [CONV, node("Relu", "c")], W).read_bytes()
    (tmp_path / "net.onnx").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="is no ONNX file, or a damaged one"):
        from_onnx(tmp_path / "net.onnx")


def test_an_absent_package_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "net.onnx", [CONV, node("Relu", "c")], W)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(InputError, match=r"needs the package onnx: pip install 'cosoc\[onnx\]'"):
        from_onnx(path)


def test_the_command_takes_a_named_shape(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "net.onnx", [CONV, node("Relu", "c")], W, shape=(1, 8, "h", "w"))
    assert main(["simulate", "diana", str(path)]) == 2
    assert "dimension h, w of input x" in capsys.readouterr().err
    assert main(["show", "workload", str(path), "--input-shape", "x=1,8,5,5", "--yaml"]) == 0
    assert "input: {c: 8, iy: 5, ix: 5}" in capsys.readouterr().out
    assert main(["show", "workload", "resnet8", "--input-shape", "x=1,8,5,5"]) == 2
    assert "inputs are named in ONNX files and modules alone" in capsys.readouterr().err
