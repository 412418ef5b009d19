"""Queries, keys and values by one linear layer: is it, to the search, the three layers that it computes?"""

from __future__ import annotations

import itertools
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from decided_nets import WAYS, blocks, fused, in_order, two_heads

from cosoc.search.exact.shares import channel_choices, counts_by
from cosoc.search.spaces.channels import channel_groups, prepare, to_mapping
from cosoc.search.spaces.heads import Unit
from cosoc.search.training.nets import VisionTransformer
from cosoc.search.training.recipe import find_recipe
from cosoc.search.training.repair import placed
from cosoc.search.training.space import TrainingConfig, search_trained
from cosoc.search.training.weights import fit
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.mapping_file import load_mapping
from cosoc.sim.importers.fused import partition
from cosoc.sim.importers.torch_export import from_module
from cosoc.sim.model.workload import Workload
from cosoc.sim.simulate import simulate
from cosoc.sim.theta import Theta

DIANA = find_soc("diana")
QKV = tuple(f"block.qkv.{number}" for number in range(3))


def called_alike(workload: Workload) -> Workload:
    """With the names of three layers."""
    names = dict(zip(QKV, ("block.q", "block.k", "block.v"), strict=True))
    layers = (
        replace(one, name=names.get(one.name, one.name), inputs=tuple(names.get(x, x) for x in one.inputs))
        for one in workload
    )
    return replace(workload, layers=tuple(layers))


@pytest.mark.parametrize("way", WAYS)
def test_it_is_read_and_decided_as_three_layers(way: str) -> None:
    """However its parts are taken: the same layers, MACs and bytes, the same options, one unit of three, and weights
    that are thirds of the one parameter; quantised alike, the same outputs."""
    (_, three), (_, one) = blocks(""), blocks(way)
    assert called_alike(one) == three
    options, others = channel_choices(one, DIANA), channel_choices(three, DIANA)
    assert (
        options[QKV]
        == others["block.q", "block.k", "block.v"]
        == [{"digital": k, "analog": 32 - k} for k in (32, 16, 0)]
    )
    net, _, x = two_heads(way)
    other, _, _ = two_heads("")
    assert [unit for unit in net.units if unit.size > 1] == [Unit(QKV, 16)]
    weights = torch.cat([net.layers[name].geometry.weight for name in QKV])
    assert torch.equal(weights.float(), blocks(way)[0].get_parameter("block.qkv.weight"))
    assert torch.equal(net(x), other(x))


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_share_heads_is_that_of_three_layers(way: str) -> None:
    """None, one or both of its heads on either core, put in order: no channel of queries, keys and values has changed
    its core, outputs stay (`in_order` compares them), heads change places in all three parts at once, and the mapping
    takes as long as that of three layers."""
    net, workload, x = two_heads(way)
    original = {key: value.clone() for key, value in net.state_dict().items()}
    every, groups = channel_choices(workload, DIANA), channel_groups(workload)
    settled = {layers: options[0] for layers, options in every.items()}
    seconds = []
    for option in every[QKV]:
        net.load_state_dict(original)
        counts = counts_by(settled | {QKV: option})
        ordered, orders = in_order(net, workload, placed(net, counts), x)
        assert all(torch.equal(ordered[name], placed(net, counts)[name].sort().values) for name in QKV)
        heads = [orders[groups[name]].reshape(2, 16) // 16 for name in QKV]
        assert all(torch.equal(one, heads[0]) for one in heads)
        result = simulate(DIANA, workload, to_mapping(net, ordered, "overlapped", "one"))
        mapping = to_mapping(net, ordered, "overlapped", "three")
        names = dict(zip(QKV, ("block.q", "block.k", "block.v"), strict=True))
        renamed = replace(mapping, layers={names.get(name, name): plan for name, plan in mapping.layers.items()})
        assert result.seconds == simulate(DIANA, blocks("")[1], renamed).seconds
        seconds.append(result.seconds)
    assert len(set(seconds)) == 3


def test_products_of_unlike_sizes_are_layers_of_their_own() -> None:
    """Eight channels of queries beside four of a key and a value that all share: three layers, quantised as the one."""

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.out = nn.Linear(8, 16), nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q, k, v = self.qkv(x).split([8, 4, 4], -1)
            scores = q.unflatten(-1, (2, 4)).transpose(-3, -2) @ k[:, None].transpose(-1, -2)
            out: torch.Tensor = self.out((scores.softmax(-1) @ v[:, None]).transpose(-3, -2).flatten(-2))
            return out

    torch.manual_seed(0)
    net = Shared().eval()
    workload = from_module(net, (5, 8), "shared")
    assert [(one.name, one.k) for one in workload if one.op == "conv"] == [
        ("qkv.0", 8), ("qkv.1", 4), ("qkv.2", 4), ("out", 8),
    ]  # fmt: skip
    mixed = prepare(net, workload, DIANA)
    assert [len(mixed.layers[f"qkv.{i}"].geometry.weight) for i in range(3)] == [8, 4, 4]


def test_weights_of_one_layer_are_loaded_and_searched(tmp_path: Path) -> None:
    """The float network keeps its names, so a state_dict of it fits; a search trains it, with whole heads in every
    mapping, and the run's float weights have those names again."""
    torch.manual_seed(0)
    net = fused(VisionTransformer(1, 10, 8, 4, 32, 1, 2), "unbind")
    other = fused(VisionTransformer(1, 10, 8, 4, 32, 1, 2), "unbind")
    fit(other, net.state_dict(), "here", 10).load(other)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in net.state_dict().items())
    recipe = find_recipe(
        "default", {"batch": "32", "epochs.warm_up": "1", "epochs.search": "1", "epochs.fine_tune": "1"}
    )
    config = TrainingConfig(
        DIANA, "fused", module=other, strengths=(1.0,), train_images=64, manual=(), out=tmp_path / "run", theta=Theta(),
        recipe=recipe,
    )  # fmt: skip
    result = search_trained(config, lambda done, total, what: None)
    assert set(torch.load(tmp_path / "run" / "weights" / "warm_up.pt")) == set(net.state_dict())
    workload = from_module(net.eval(), (1, 8, 8), "fused")
    for one in result.found:
        layers = load_mapping(tmp_path / "run" / one.mapping, workload, DIANA).layers
        parts = [[(part.core, part.channels) for part in layers[f"blocks.0.qkv.{i}"].parts] for i in range(3)]
        assert parts[0] == parts[1] == parts[2] and all(k % 16 == 0 for _, k in parts[0])


def test_a_tensor_that_is_not_cut_into_ranges_stays_one() -> None:
    """Queries, keys and values of each head side by side (as GPT-NeoX has them), or of which somebody reads all."""

    def read(takes: str) -> list[str]:
        class Taken(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.qkv = nn.Linear(8, 12)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                y = self.qkv(x)
                q, k, v = y.unflatten(-1, (2, 3, 2)).unbind(-2) if takes == "by head" else y.chunk(3, -1)
                out: torch.Tensor = q * k * v
                return out if takes != "all" else out.sum() * y

        return [one.name for one in from_module(Taken().eval(), (5, 8), "taken") if one.op == "conv"]

    assert [read(takes) for takes in ("by range", "by head", "all")] == [
        [f"qkv.{i}" for i in range(3)],
        ["qkv"],
        ["qkv"],
    ]


def test_no_two_ranges_overlap_or_leave_a_gap() -> None:
    """By brute force: a set of ranges of four channels is taken apart if and only if each channel is in one of it."""
    every = [(first, behind) for first in range(4) for behind in range(first + 1, 5)]
    for chosen in itertools.chain.from_iterable(itertools.combinations(every, n) for n in (1, 2, 3, 4)):
        covered = sorted(channel for first, behind in chosen for channel in range(first, behind))
        assert (partition(chosen, 4) == sorted(chosen)) == (covered == [0, 1, 2, 3])
