"""Integers of a trained network: the same as its fake quantisers', on the cores that its gates choose."""

from __future__ import annotations

import copy
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from decided_nets import SHAPE, cut, decided

from cosoc.search.spaces.channels import to_mapping
from cosoc.search.spaces.operators import Template
from cosoc.search.training.integers import integers, quantised_image, scores
from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.integers.network import IntegerNetwork, run_whole
from cosoc.sim.integers.run import run_tiles
from cosoc.sim.model.workload import batched
from cosoc.sim.simulate import simulate


@pytest.mark.parametrize(("name", "soc"), [
    ("digits_cnn", "diana"), ("resnet8", "diana"), ("mobilenet_v1_025", "darkside"), ("dscnn", "diana"),
])  # fmt: skip
def test_integers_are_those_of_the_fake_quantised_network(name: str, soc: str) -> None:
    """In double precision, of outputs: a single integer that differs anywhere would show as a step of its range, some
    1e-2 of what it is added to."""
    mixed, workload, _ = decided(name, soc, 0)
    network = integers(mixed, workload)
    x = torch.randn(6, *SHAPE[name], generator=torch.Generator().manual_seed(1))
    made = run_whole(integers_of_batch(network, 6), quantised_image(network, x))
    with torch.no_grad():
        wanted = copy.deepcopy(mixed).double()(x.double()).numpy()
    found = scores(network, made, mixed.output_order)
    assert np.abs(found - wanted).max() < 1e-9 * np.abs(wanted).max()
    assert len(np.unique(found)) > 6


def integers_of_batch(network: IntegerNetwork, n: int) -> IntegerNetwork:

    return replace(network, workload=batched(network.workload, n))


@pytest.mark.parametrize("template", ["conv-dw", "dws-dw", "conv-dws"])
def test_integers_of_blocks_that_are_cut_between_two_operators(template: Template) -> None:
    """Channels by the first operator, the others by the second: outputs as above, and tiles of the mapping that has
    them on Darkside's cores."""
    name = "resnet8" if template == "conv-dw" else "mobilenet_v1_025"
    mixed, workload, mapping = cut(name, "darkside", template, 0)
    network = integers(mixed, workload)
    assert any(0 < network.first[layer.name] < layer.k for layer in workload if layer.alternative)
    x = torch.randn(3, *SHAPE[name], generator=torch.Generator().manual_seed(1))
    made = run_whole(integers_of_batch(network, 3), quantised_image(network, x))
    with torch.no_grad():
        wanted = copy.deepcopy(mixed).double()(x.double()).numpy()
    assert np.abs(scores(network, made, mixed.output_order) - wanted).max() < 1e-9 * np.abs(wanted).max()
    image = quantised_image(network, x[:1])
    whole = run_whole(network, image)
    for layer, one in run_tiles(simulate(find_soc("darkside"), workload, mapping), network, image).items():
        assert np.array_equal(one.values, whole[layer]), layer


def test_the_tiles_of_its_mapping_compute_it() -> None:
    """What is exported is what is simulated: channels of both cores side by side, in the order of the export."""
    mixed, workload, chosen = decided("resnet8", "diana", 2)
    network = integers(mixed, workload)
    mapping = to_mapping(mixed, chosen, "overlapped", "point")
    assert any(len(plan.parts) > 1 for plan in mapping.layers.values())
    image = quantised_image(network, torch.randn(1, *SHAPE["resnet8"], generator=torch.Generator().manual_seed(3)))
    whole = run_whole(network, image)
    for name, one in run_tiles(simulate(find_soc("diana"), workload, mapping), network, image).items():
        assert np.array_equal(one.values, whole[name]), name


def test_a_range_of_a_tensor_that_is_read_twice_is_one() -> None:
    """A residual network's tensors have one range each, whoever reads them: what a pool reads, too, has one."""
    mixed, workload, _ = decided("resnet8", "diana", 0)
    network = integers(mixed, workload)
    assert set(network.tensors) == {"input", *(layer.name for layer in workload if layer.name != "fc")}
    for layer in workload:
        if layer.activation == "relu":
            assert network.tensors[layer.name].low == 0


def test_sums_through_a_converter_are_refused() -> None:
    mixed, workload, _ = decided("resnet8", "diana", 0)
    mixed.set_adc(6)
    with pytest.raises(InputError, match="read through a converter"):
        integers(mixed, workload)
