"""Attention's channels: what orders they may be put in, and heads that go to cores as a whole."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parent))
from decided_nets import in_order, two_heads

from cosoc.search.exact.shares import channel_choices, cheapest, counts_by
from cosoc.search.spaces.channels import (
    MixedNet,
    assignment,
    channel_groups,
    kind_of,
    prepare,
    to_mapping,
)
from cosoc.search.spaces.heads import Unit, attentions, head_orders
from cosoc.search.spaces.shares import ShareCosts
from cosoc.search.training.gates import ESTIMATORS
from cosoc.search.training.nets import VisionTransformer
from cosoc.search.training.quant import ActivationQuantiser
from cosoc.search.training.repair import counts, meet, placed, repair
from cosoc.search.training.sensitivity import lean, sensitive_front
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.importers.torch_export import from_module
from cosoc.sim.model.workload import Workload
from cosoc.sim.simulate import simulate

DIANA = find_soc("diana")


def transformer() -> tuple[MixedNet, Workload, torch.Tensor]:
    """Two blocks of two heads of four channels on DIANA, in float64, and images."""
    torch.manual_seed(0)
    net = VisionTransformer(1, 10, 8, 2, 8, 2, 2).eval()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.5)
    workload = from_module(net, (1, 8, 8), "transformer")
    mixed = prepare(net, workload, find_soc("diana")).double()
    x = torch.randn(4, 1, 8, 8, dtype=torch.float64)
    mixed.train()(x)
    return mixed.eval(), workload, x


def test_every_attention_is_found_with_its_heads() -> None:
    _, workload, _ = transformer()
    assert [(one.query, one.key, one.value, one.heads) for one in attentions(workload)] == [
        (f"blocks.{i}.q", f"blocks.{i}.k", f"blocks.{i}.v", 2) for i in range(2)
    ]


def test_heads_change_places_together_and_channels_within_theirs() -> None:
    """Shares that some order of heads, and of channels in each, brings side by side: put in order, not one channel has
    changed its core, and the network computes what it did."""
    net, workload, x = transformer()
    chosen = {name: torch.zeros_like(cores) for name, cores in assignment(net).items()}
    for i in range(2):  # the second head first: its keys' and queries' first two channels, and one of the other's
        chosen[f"blocks.{i}.q"] = chosen[f"blocks.{i}.k"] = torch.tensor([1, 1, 0, 1, 0, 0, 0, 0])
        chosen[f"blocks.{i}.v"] = torch.tensor([1, 1, 1, 1, 1, 0, 0, 1])
        chosen[f"blocks.{i}.fc1"] = torch.arange(32) % 2
    with torch.no_grad():
        for name, layer in net.layers.items():
            layer.logits.copy_(functional.one_hot(chosen[name], len(layer.cores)).to(layer.logits))
    ordered, orders = in_order(net, workload, chosen, x)
    assert all((cores.diff() >= 0).all() for cores in ordered.values())
    groups = channel_groups(workload)
    assert groups["blocks.0.q"] == groups["blocks.0.k"] != groups["blocks.0.v"] == groups["blocks.0.attend"]
    for one in ("blocks.0.q", "blocks.0.v"):  # whole heads, and the same ones
        assert (orders[groups[one]].reshape(2, 4) // 4).tolist() == [[1] * 4, [0] * 4]


def test_no_legal_order_of_heads_loses_less() -> None:
    """All 2! x (3!)^2 x (3!)^2 orders of two heads of three channels, by brute force."""
    generator = torch.Generator().manual_seed(0)
    legal = [
        [torch.tensor([head * 3 + at for head, inner in zip(heads, insides, strict=True) for at in inner])
         for insides in itertools.product(itertools.permutations(range(3)), repeat=2)]
        for heads in itertools.permutations(range(2))
    ]  # fmt: skip
    for _ in range(20):
        products, values = torch.rand(2, 6, 6, generator=generator, dtype=torch.float64)

        def lost(loss: torch.Tensor, order: torch.Tensor) -> float:
            return float(loss[order, torch.arange(6)].sum())

        found = head_orders(products, values, 2)
        least = min(
            min(lost(products, one) for one in orders) + min(lost(values, one) for one in orders) for orders in legal
        )
        assert lost(products, found[0]) + lost(values, found[1]) == pytest.approx(least, rel=1e-12)
        assert torch.equal(found[0] // 3, found[1] // 3)


def test_what_an_attention_multiplies_is_quantised() -> None:
    """Queries and keys, softmax and values: each operand of a product comes from a quantiser of its own, and so does
    what norms, softmaxes and GELU read, as it lies in memory."""
    net, _, _ = transformer()
    modules, products, hosted = dict(net.net.named_modules()), [], []
    for node in net.net.graph.nodes:  # type: ignore[union-attr]
        kind = kind_of(node, modules)
        operands = [modules.get(str(one.target)) for one in node.all_input_nodes]
        if kind in ("scaled_scores", "matmul"):
            products += operands
        if kind in ("softmax", "layernorm", "gelu"):
            hosted += operands
    assert len({id(one) for one in products}) == len(products) == 2 * 4
    assert len(hosted) == 2 * 4 + 1  # of each block two norms, a softmax and a GELU; the last norm
    assert all(isinstance(one, ActivationQuantiser) for one in (*products, *hosted))


def test_images_of_a_batch_have_a_class_token_each() -> None:
    """A transformer's answer to an image is that to the image alone."""
    torch.manual_seed(0)
    net = VisionTransformer(1, 10, 8, 2, 8, 2, 2).double().eval()
    x = torch.randn(3, 1, 8, 8, dtype=torch.float64)
    assert torch.allclose(net(x), torch.cat([net(one[None]) for one in x]), atol=1e-12)


# ------------------------------------------------------------------------------------------ whole heads

QKV = tuple(f"block.{part}" for part in "qkv")


def whole(cores: torch.Tensor) -> bool:
    """Whether each of the two heads is on one core."""
    return all(len(head.unique()) == 1 for head in cores.reshape(2, 16))


def test_the_shares_of_an_attention_are_its_heads() -> None:
    """None, one or both of two heads on either core, for queries, keys and values at once. The layers beside it are
    decided channel by channel."""
    net, workload, _ = two_heads()
    options = channel_choices(workload, DIANA)
    assert options[QKV] == [{"digital": k, "analog": 32 - k} for k in (32, 16, 0)]
    assert {layers for layers in options if len(layers) > 1} == {QKV}
    assert [unit for unit in net.units if unit.size > 1] == [Unit(QKV, 16)]
    assert {name for unit in net.units for name in unit.layers} == set(net.searchable())


def test_every_way_to_share_heads_crosses_into_the_mapping_that_is_simulated() -> None:
    """Each of the 9 ways to give heads, and the projection's halves, to cores: decided, put in order, mapped and
    simulated. Queries, keys and values have the same heads on a core, none has changed its core, the network computes
    what it did; and the cheapest of a search is the least of all."""
    net, workload, x = two_heads()
    with (
        torch.no_grad()
    ):  # what is summed with the input keeps its order: here its first channels lean to the first core
        net.layers["block.proj"].logits.copy_(torch.stack((torch.linspace(1, -1, 32), torch.zeros(32)), 1))
    original = {key: value.clone() for key, value in net.state_dict().items()}
    costs, every = ShareCosts(workload, DIANA, "overlapped"), channel_choices(workload, DIANA)
    options = {layers: every[layers] for layers in (QKV, ("block.proj",))}
    settled = counts_by({layers: every[layers][0] for layers in every if layers not in options})
    found = {}
    for chosen in itertools.product(*options.values()):
        some = counts_by(dict(zip(options, chosen, strict=True)))
        net.load_state_dict(original)
        on = placed(net, {**settled, **some})
        assert whole(on[QKV[0]])
        assert all(torch.equal(on[name], on[QKV[0]]) for name in QKV)
        ordered, orders = in_order(net, workload, on, x)
        groups = channel_groups(workload)
        heads = [orders[groups[name]].reshape(2, 16) // 16 for name in QKV]
        assert all(torch.equal(one, heads[0]) for one in heads)
        for name in (*QKV, "block.proj"):
            assert torch.equal(ordered[name], on[name][orders[groups[name]]] if groups[name] in orders else on[name])
        result = simulate(DIANA, workload, to_mapping(net, ordered, "overlapped", "one"))
        assert result.seconds == costs.simulated({**settled, **some}).latency_s
        found[result.seconds] = {name: dict(on_cores) for name, on_cores in some.items()}
    limited = options | {layers: every[layers][:1] for layers in every if layers not in options}
    best = cheapest(DIANA, workload, "latency", choices=limited)
    assert simulate(DIANA, workload, best).seconds == min(found) < max(found)
    on_cores = {name: {part.core: part.channels for part in best.layers[name].parts} for name in QKV}
    assert on_cores["block.q"] == on_cores["block.k"] == on_cores["block.v"]


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_head_has_one_gate_in_all_three_layers(estimator: str) -> None:
    """So that shares are sums of whole heads' probabilities, and all its logits learn alike."""
    net, _, _ = two_heads()
    net.set_gates(estimator, 0.7, torch.Generator().manual_seed(1))  # type: ignore[arg-type]
    gates = net.layers[QKV[0]].gates
    assert whole(gates[:, 0])
    assert all(torch.equal(net.layers[name].gates, gates) for name in QKV)
    torch.stack([net.shares()[name]["analog"] for name in QKV]).sum().backward()  # type: ignore[no-untyped-call]
    slopes = torch.stack([net.layers[name].logits.grad for name in QKV])  # type: ignore[misc]
    assert torch.allclose(slopes, slopes[:1].expand_as(slopes))
    assert whole(slopes[0, :, 1])
    assert (slopes[..., 1] > 0).all()


@pytest.mark.parametrize("seed", range(3))
def test_choosing_repairing_and_meeting_a_target_keep_heads_whole(seed: int) -> None:
    """By a price of two for a digital channel and one for an analog one, which no repair gets for nothing; of six
    tenths of it, which is met; and by no price, where all comes back."""
    net, _, _ = two_heads(seed=seed)
    steps = {"digital": 16, "analog": 32}

    def price(chosen: dict[str, torch.Tensor]) -> float:
        return float(sum((2 - cores).sum() for cores in chosen.values()))

    chosen = assignment(net)
    most = price({name: torch.zeros_like(cores) for name, cores in chosen.items()})
    met, _ = meet(net, chosen, price, 0.6 * most, steps)
    free, moves = repair(net, chosen, lambda tried: 0.0, steps)
    assert price(met) <= 0.6 * most
    assert not any(cores.any() for cores in free.values())
    assert [move.layer for move in moves if move.layer in QKV] in ([], list(QKV))
    for found in (chosen, met, repair(net, chosen, price, steps)[0]):
        assert whole(found[QKV[0]])
        assert all(torch.equal(found[name], found[QKV[0]]) for name in QKV)
    assert counts(net, Unit(QKV, 16), steps) == [0, 16, 32]


def test_the_head_that_goes_loses_least_in_all_three_layers() -> None:
    """Losses of channels add up over a head and over queries, keys and values: of the two ways to give a head away the
    better one, and as much as the front by sensitivity says."""
    net, workload, _ = two_heads()
    draws = torch.Generator().manual_seed(3)
    every, base = channel_choices(workload, DIANA), two_on_one(workload)
    for _ in range(5):
        found = {
            name: torch.rand(layer.logits.shape, generator=draws).double() for name, layer in net.searchable().items()
        }
        for lost in found.values():
            lost[:, 0] = 0.0
        lean(net, found)
        front = sensitive_front(net, found, {QKV: every[QKV]}, base, lambda on: float(on["block.q"]["digital"]))
        on = placed(net, front.within(16.0))
        went = sum(float(found[name][:, 1] @ (on[name] == 1).double()) for name in QKV)
        heads = [sum(float(found[name][16 * head : 16 * head + 16, 1].sum()) for name in QKV) for head in range(2)]
        assert went == pytest.approx(min(heads))
        assert front.points[front.points[:, 0] == 16.0][:, 1] == pytest.approx(min(heads))


def two_on_one(workload: Workload) -> dict[str, dict[str, int]]:
    """All of the attention on the digital core."""
    return {name: {"digital": workload[name].k, "analog": 0} for name in QKV}


def test_a_mapping_by_hand_may_share_otherwise() -> None:
    """What is given layer by layer is placed as given."""
    net, _, _ = two_heads()
    given = {"block.q": {"digital": 20, "analog": 12}, "block.k": {"digital": 32}, "block.v": {"analog": 32}}
    on = placed(net, given)
    assert {name: int((on[name] == 1).sum()) for name in QKV} == {"block.q": 12, "block.k": 0, "block.v": 32}
