"""Integers of a trained network: the same as its fake quantisers', on the cores that its gates choose."""

from __future__ import annotations

import copy
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parent))
from decided_nets import cut, decided, differing, drawn

from cosoc.inputs import soc_of
from cosoc.search.spaces.channels import MixedNet, to_mapping
from cosoc.search.spaces.operators import Template
from cosoc.search.spaces.products import scaled_scores
from cosoc.search.training.integers import integers, quantised_image, scores
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.names import list_socs
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.integers.network import IntegerNetwork, Whole, run_whole
from cosoc.sim.integers.real import Real
from cosoc.sim.integers.regions import TileFault
from cosoc.sim.model.mapping import DIMS, Mapping, Runtime
from cosoc.sim.model.workload import Layer, batched
from cosoc.sim.simulate import simulate
from cosoc.sim.tiler import placed


def images(name: str, n: int) -> torch.Tensor:
    return drawn(name, n, torch.Generator().manual_seed(1))


def off(network: IntegerNetwork, mixed: MixedNet, x: torch.Tensor) -> float:
    """By how much outputs of images are off the fake-quantised network's in double precision, of the largest: a single
    integer that differs anywhere would show as a step of its range, some 1e-2 of what it is added to."""
    of_all = replace(network, workload=batched(network.workload, len(x)))
    with torch.no_grad():
        wanted = copy.deepcopy(mixed).double()(x.double()).numpy()
    made = run_whole(of_all, quantised_image(network, x))
    found = scores(network, made, mixed.output_order, wanted.ndim == 3).reshape(wanted.shape)
    assert len(np.unique(found)) > len(x)
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize(("name", "soc", "adc_bits"), [
    ("digits_cnn", "diana", 0), ("resnet8", "diana", 0), ("dscnn", "diana", 0), ("digits_cnn", "diana", 6),
    ("tiny_vit", "diana", 6), ("tiny_vit_fused", "diana", 0), ("tiny_tokens", "diana", 0),
    ("gpt3_block_decode", "diana", 0),
])  # fmt: skip
def test_integers_are_those_of_the_fake_quantised_network(name: str, soc: str, adc_bits: int) -> None:
    """On DIANA, each channel on a random one of its arrays, with and without converters."""
    mixed, workload, _ = decided(name, find_soc(soc), 0, adc_bits)
    assert off(integers(mixed, workload), mixed, images(name, 6)) < 1e-9


@pytest.mark.parametrize("template", ["conv-dw", "conv-dws"])
def test_integers_of_blocks_that_are_cut_between_two_operators(template: Template) -> None:
    """Channels by the first operator, the others by the second: outputs as above, and tiles of the mapping that has
    them on Darkside's cores."""
    name = "resnet8" if template == "conv-dw" else "mobilenet_v1_025"
    mixed, workload, mapping = cut(name, "darkside", template, 0)
    network, x = integers(mixed, workload), images(name, 3)
    assert any(0 < network.first[layer.name] < layer.k for layer in workload if layer.alternative)
    assert off(network, mixed, x) < 1e-9
    result = simulate(find_soc("darkside"), workload, mapping)
    assert differing(result, network, quantised_image(network, x[:1])) == []


@pytest.mark.parametrize(("name", "soc", "n"), [("resnet8", "diana", 1), ("tiny_vit", "hetero", 2)])
def test_the_tiles_of_its_mapping_compute_it(name: str, soc: str, n: int) -> None:
    """What is exported is what is simulated: channels of both cores side by side, in the order of the export; of a
    transformer on an array behind caches, beside a core behind a DMA and a host, for two images at once."""
    mixed, workload, chosen = decided(name, find_soc(soc), 2)
    network = integers(mixed, batched(workload, n))
    mapping = to_mapping(mixed, chosen, "overlapped", "point")
    assert any(len(plan.parts) > 1 for plan in mapping.layers.values())
    result = simulate(find_soc(soc), batched(workload, n), mapping)
    assert differing(result, network, quantised_image(network, images(name, n))) == []


@pytest.mark.parametrize("chip", list_socs())
def test_tiles_of_a_transformer_compute_it_on_every_chip(chip: str) -> None:
    """Rows of a table, attention, norms and GELU, each on a core that the chip has for it."""
    soc = find_soc(chip)
    mixed, workload, chosen = decided("tiny_tokens", soc, 3)
    result = simulate(soc, workload, to_mapping(mixed, chosen, "overlapped", "point"))
    assert {layer.op for layer in workload} >= {"gather", "matmul", "softmax", "norm", "eltwise", "add"}
    network = integers(mixed, workload)
    assert differing(result, network, quantised_image(network, images("tiny_tokens", 1))) == []


@pytest.mark.parametrize(
    ("chip", "runtime"), [("diana", "overlapped"), ("darkside", "serial"), ("neurram", "overlapped")]
)
def test_norms_and_softmaxes_have_whole_vectors_in_a_tile(chip: str, runtime: Runtime) -> None:
    """On chips that bring weights from outside, where smaller tiles would hide more of the way: what a part of a vector
    makes is no norm of it."""
    workload = find_workload("bert_base_block")
    plans = placed(Mapping("default", runtime), workload, find_soc(chip)).mapping.layers
    for layer in (layer for layer in workload if layer.op in ("norm", "softmax")):
        assert [part.tile.k for part in plans[layer.name].parts if part.tile] == [layer.k]


def test_a_table_s_rows_are_those_of_the_numbers() -> None:
    """And these are its weights, to half a step."""
    mixed, workload, _ = decided("tiny_tokens", find_soc("diana"), 0)
    network, x = integers(mixed, workload), images("tiny_tokens", 2)
    table = network.layers["embedding"].table
    assert table is not None and network.tensors["input"] == Whole(0, len(table) - 1, 1.0)
    made = run_whole(replace(network, workload=batched(workload, 2)), quantised_image(network, x))["embedding"]
    assert np.array_equal(made[1, :, 0, 4], table[int(x[1, 0, 0, 4])])
    real = dict(mixed.net.named_modules())["embedding"].weight.detach().numpy()
    assert (
        np.abs(table * network.tensors["embedding"].step - real).max() <= network.tensors["embedding"].step / 2 + 1e-6
    )


# -- attention -----------------------------------------------------------------------------------------------------


def test_an_attention_spelled_out_is_the_fused_one() -> None:
    """Products and softmax in place of torch's fused function, in double precision."""
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 3, 5, 4, dtype=torch.float64)
    spelled = scaled_scores(query, key).softmax(-1) @ value
    assert torch.allclose(spelled, functional.scaled_dot_product_attention(query, key, value), rtol=1e-13, atol=1e-14)


def test_functions_of_real_numbers_by_hand() -> None:
    """Of integers worth 0.5 each: softmax over ln 3, 0 of each of two heads is 3/4, 1/4; the norm of -1, 1 is itself; a
    GELU is x times the normal distribution's Phi(x), which is 0.8413 at 1."""
    x = np.array([2.0 * np.log(3), 0, 0, 2.0 * np.log(3)])[None, :, None, None]
    softmax = Real("softmax", 0.5, 0.25, 0, 4, groups=2)
    assert softmax.real(x * 0.5)[0, :, 0, 0].tolist() == pytest.approx([0.75, 0.25, 0.25, 0.75])
    norm = Real("layer_norm", 0.5, 0.125, -127, 127, weight=np.array([1.0, 2.0]), bias=np.array([0.0, 1.0]))
    assert norm.of(np.array([-2, 2])[None, :, None, None])[0, :, 0, 0].tolist() == [-8, 24]
    gelu = Real("gelu", 0.5, 0.0001, -(10**6), 10**6)
    assert gelu.of(np.array([[[[2]]]])).item() == 8413
    assert Real("gelu", 0.5, 0.001, 0, 500).of(np.array([[[[2, -2]]]])).tolist() == [[[[500, 0]]]]


def test_norms_and_softmaxes_need_whole_vectors_and_heads() -> None:
    """Of three heads of two keys each: a tile has all that a softmax needs where it has whole heads."""
    layer = Layer("one", "softmax", ("scores",), 6, 6, ox=4, ix=4)
    softmax, norm, gelu = (Real(f, 1, 1, 0, 1, groups=3) for f in ("softmax", "layer_norm", "gelu"))  # type: ignore[arg-type]
    assert [softmax.whole(0, end, layer) for end in (1, 2, 3, 4, 6)] == [False, True, False, True, True]
    assert [norm.whole(0, end, layer) for end in (2, 6)] == [False, True] and gelu.whole(1, 3, layer)


def test_what_is_real_of_a_transformer_is_said() -> None:
    """Norms, softmaxes and GELU; all else is of integers, and every tensor that lies in memory is one of integers."""
    mixed, workload, _ = decided("tiny_vit", find_soc("diana"), 0)
    network = integers(mixed, workload)
    real = {layer.name for layer in workload if network.layers[layer.name].real is not None}
    assert real == {layer.name for layer in workload if layer.op in ("norm", "softmax") or layer.fn == "aten.gelu"}
    assert {name for name, one in network.layers.items() if one.keys} == {"blocks.0.scores"}
    assert set(network.tensors) == {"input", *(layer.name for layer in workload if layer.name != "fc")}


# -- converters ----------------------------------------------------------------------------------------------------


def test_converters_read_each_array_full_of_rows() -> None:
    """With arrays of 144 rows, 16 input channels of nine taps each: 32 of them are converted in two, whole and tile by
    tile; a tile that has 24 of them reads one array by half."""
    soc = soc_of("diana", {"cores.analog.rows": "144", "cores.analog.min_channels": "1"})
    mixed, workload, chosen = decided("digits_cnn", soc, 0, 6)
    network, x = integers(mixed, workload), images("digits_cnn", 4)
    converted = network.layers["conv3"].converted
    assert converted is not None and converted.blocks(0, 32) == [(0, 16), (16, 32)]
    assert 0 < converted.on.sum() < 32
    assert off(network, mixed, x) < 1e-9
    mapping = to_mapping(mixed, chosen, "overlapped", "point")
    image = quantised_image(network, x[:1])
    result = simulate(soc, workload, mapping)
    assert differing(result, network, image) == []
    plan = result.at.mapping.layers["conv3"]
    parts = tuple(replace(part, tile=replace(part.tile, c=24)) for part in plan.parts if part.tile)
    by_half = replace(mapping, layers={**mapping.layers, "conv3": replace(plan, parts=parts, order=DIMS)})
    with pytest.raises(TileFault, match="layer conv3: a tile of input channels 0 to 24; converters read 16"):
        differing(simulate(soc, workload, by_half), network, image)


def test_a_range_of_a_tensor_that_is_read_twice_is_one() -> None:
    """A residual network's tensors have one range each, whoever reads them: what a pool reads, too, has one."""
    mixed, workload, _ = decided("resnet8", find_soc("diana"), 0)
    network = integers(mixed, workload)
    assert set(network.tensors) == {"input", *(layer.name for layer in workload if layer.name != "fc")}
    for layer in workload:
        if layer.activation == "relu":
            assert network.tensors[layer.name].low == 0
