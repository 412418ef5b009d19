"""The channel space: folding, shares, and reordering that leaves the network what it was."""

import io
import itertools
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parent))
from decided_nets import in_order

from cosoc.search.spaces.channels import (
    Assignment,
    MixedNet,
    assignment,
    channel_groups,
    fix,
    fold_batch_norm,
    make_contiguous,
    prepare,
    to_mapping,
    uniform,
)
from cosoc.search.spaces.heads import Unit
from cosoc.search.training.nets import build
from cosoc.search.training.quant import ActivationQuantiser
from cosoc.search.training.repair import Move, counts, meet, repair, wide, with_wide
from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.importers.torch_export import from_module
from cosoc.sim.lower.emit import lower
from cosoc.sim.manual import named_mapping
from cosoc.sim.model.workload import Workload

NETS = [("digits_cnn", (1, 8, 8)), ("resnet8", (3, 16, 16)), ("mobilenet_v1_025", (3, 32, 32))]


def trained_like(name: str) -> nn.Module:
    """A network whose batch norms are not the identity."""
    torch.manual_seed(0)
    net = build(name)
    for module in net.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.running_mean.normal_()  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    return net.eval()


def made(name: str, shape: tuple[int, int, int]) -> tuple[MixedNet, Workload, torch.Tensor]:
    """A mixed network with random logits, in float64, its workload, and images."""
    net = trained_like(name)
    workload = from_module(net, shape, name)
    mixed = prepare(net, workload, find_soc("diana")).double()
    x = torch.randn(4, *shape, dtype=torch.float64)
    mixed.train()(x)  # sets the clips
    with torch.no_grad():
        for layer in mixed.layers.values():
            layer.logits.normal_()
    return mixed.eval(), workload, x


def agreeing(net: MixedNet, workload: Workload) -> Assignment:
    """The assignment, with layers whose channels are tied made to agree."""
    chosen, groups = assignment(net), channel_groups(workload)
    for name in chosen:
        for other in chosen:
            same_cores = net.layers[name].cores == net.layers[other].cores
            if groups[name] == groups[other] and same_cores:
                chosen[other] = chosen[name]
    return chosen


@pytest.mark.parametrize(("name", "shape"), NETS)
def test_folding_batch_norms_changes_nothing(name: str, shape: tuple[int, int, int]) -> None:
    net = trained_like(name).double()
    x = torch.randn(4, *shape, dtype=torch.float64)
    folded = fold_batch_norm(net)
    assert not any(isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)) for m in folded.modules())
    assert torch.allclose(folded(x), net(x), atol=1e-12)


@pytest.mark.parametrize(("name", "shape"), NETS)
def test_reordering_leaves_the_outputs_and_makes_shares_contiguous(name: str, shape: tuple[int, int, int]) -> None:
    net, workload, x = made(name, shape)
    chosen = agreeing(net, workload)
    ordered, orders = in_order(net, workload, chosen, x)
    assert orders
    for layer, cores in ordered.items():
        assert (cores.diff() >= 0).all()
        assert torch.equal(cores.bincount(minlength=2), chosen[layer].bincount(minlength=2))


def test_tied_layers_that_disagree_keep_their_counts() -> None:
    net, workload, _ = made("resnet8", (3, 16, 16))
    chosen = assignment(net)  # random: conv1 and layer1.0.conv2 feed one sum and disagree
    assert not torch.equal(chosen["conv1"], chosen["layer1.0.conv2"])
    ordered, _ = make_contiguous(net, workload, chosen)
    for layer, cores in ordered.items():
        assert (cores.diff() >= 0).all()
        assert torch.equal(cores.bincount(minlength=2), chosen[layer].bincount(minlength=2))


def test_groups_follow_sums_pools_and_depthwise_layers() -> None:
    workload = from_module(build("resnet8"), (3, 16, 16), "resnet8")
    groups = channel_groups(workload)
    assert groups["conv1"] == groups["layer1.0.conv2"] == groups["layer1.0.add"]
    assert groups["layer3.0.add"] == groups["avgpool"]
    assert groups["layer1.0.conv1"] not in (groups["conv1"], groups["input"])
    mobile = from_module(build("mobilenet_v1_025"), (3, 32, 32), "m")
    of = channel_groups(mobile)
    assert of["conv1"] == of["blocks.0.dw"] != of["blocks.0.pw"]


def test_one_hot_gates_are_the_layer_in_that_format() -> None:
    net, _, _ = made("digits_cnn", (1, 8, 8))
    all_analog = {n: torch.ones(len(c), dtype=torch.long) for n, c in assignment(net).items()}
    fix(net, all_analog)
    for layer in net.layers.values():
        weight = layer.effective_weight().detach()
        assert all(len(channel.abs().unique()) <= 2 for channel in weight)  # 0 and the channel's scale


def test_soft_shares_are_the_sums_of_probabilities() -> None:
    net, _, _ = made("digits_cnn", (1, 8, 8))
    net.set_gates("expectation", 1.0, torch.Generator())
    for name, on_cores in net.shares().items():
        probabilities = torch.softmax(net.layers[name].logits, 1).sum(0)
        assert [v.item() for v in on_cores.values()] == pytest.approx(probabilities.tolist())


def test_mappings_go_in_and_out_and_run() -> None:
    net, workload, _ = made("digits_cnn", (1, 8, 8))
    soc = find_soc("diana")
    chosen = assignment(net)
    mapping = to_mapping(net, chosen, "overlapped", "found")
    assert lower(workload, mapping, soc).n_ops > 0
    manual = named_mapping("io_8bit_backbone_ternary", workload, soc, "overlapped")
    back = to_mapping(net, uniform(net, manual), "overlapped", "back")
    assert {n: back.layers[n] for n in net.layers} == {n: manual.layers[n] for n in net.layers}


def test_a_layer_that_only_one_core_can_run_has_no_choice() -> None:
    net, _, _ = made("mobilenet_v1_025", (3, 32, 32))
    assert "blocks.0.dw" not in net.searchable()
    assert net.layers["blocks.0.dw"].cores == ("digital",)
    assert "blocks.0.pw" in net.searchable()


def test_a_network_that_cannot_be_traced_is_refused() -> None:
    class Branching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(InputError, match="Branching cannot be traced"):
        fold_batch_norm(Branching())


# ------------------------------------------------------------------------------------------ small networks


class Summed(nn.Module):
    """Two convolutions into one sum, whose map is flattened twice: into a hidden layer, and out of the network."""

    def __init__(self, channels: int, flat_output: bool) -> None:
        super().__init__()
        self.a = nn.Conv2d(2, channels, 3, padding=1)
        self.b = nn.Conv2d(2, channels, 1)
        self.last: nn.Module = nn.Conv2d(channels, 4, 1) if flat_output else nn.Linear(channels * 9, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu(self.a(x) + self.b(x))
        if isinstance(self.last, nn.Linear):
            return self.last(torch.flatten(y, 1))  # type: ignore[no-any-return]
        return torch.flatten(self.last(y), 1)


def mixed_of(net: nn.Module, shape: tuple[int, int, int], seed: int) -> tuple[MixedNet, Workload, torch.Tensor]:
    workload = from_module(net, shape, "small")
    torch.manual_seed(seed)
    mixed = prepare(net, workload, find_soc("diana")).double()
    x = torch.randn(3, *shape, dtype=torch.float64)
    mixed.train()(x)
    with torch.no_grad():
        for layer in mixed.layers.values():
            layer.logits.normal_()
    return mixed.eval(), workload, x


@pytest.mark.parametrize("seed", [1, 3, 5, 7, 8])
def test_tied_layers_that_disagree_change_the_channels_that_lose_least(seed: int) -> None:
    """Brute force: of the 720 common orders of six channels none loses less."""
    net, workload, _ = mixed_of(Summed(6, flat_output=False), (2, 3, 3), seed)
    chosen = assignment(net)
    logits = {name: net.layers[name].logits.detach().clone() for name in ("a", "b")}

    def loss(order: tuple[int, ...]) -> float:
        total = 0.0
        for name, of in logits.items():
            for place, channel in enumerate(order):
                first = int((chosen[name] == 0).sum())
                total += float(of[channel].max() - of[channel, int(place >= first)])
        return total

    _, orders = make_contiguous(net, workload, chosen)
    (order,) = [o for group, o in orders.items() if group == channel_groups(workload)["a"]]
    least = min(loss(candidate) for candidate in itertools.permutations(range(6)))
    assert least > 0  # the two do disagree
    assert loss(tuple(order.tolist())) == pytest.approx(least, abs=1e-9)


@pytest.mark.parametrize(("name", "shape"), [("resnet8", (3, 16, 16)), ("small", (2, 3, 3))])
def test_outputs_change_by_changes_of_format_only(name: str, shape: tuple[int, int, int]) -> None:
    """The reordered network is the one before with the channels that changed cores, and no others, changed."""
    net, workload, x = mixed_of(Summed(8, True), shape, 1) if name == "small" else made(name, shape)
    chosen, groups = assignment(net), channel_groups(workload)
    original = {key: value.clone() for key, value in net.state_dict().items()}
    ordered, orders = make_contiguous(net, workload, chosen)
    fix(net, ordered)
    after = net(x)
    net.load_state_dict(original)
    undone = {n: torch.empty_like(c).scatter_(0, orders[groups[n]], c) for n, c in ordered.items()}
    fix(net, undone)
    assert torch.allclose(net(x), after, atol=1e-12)
    assert any(not torch.equal(undone[n], chosen[n]) for n in chosen)


def test_an_output_that_is_a_flattened_map_keeps_its_order() -> None:
    net, workload, x = mixed_of(Summed(8, flat_output=True), (2, 3, 3), 1)
    chosen = assignment(net)
    chosen["last"], chosen["b"] = torch.tensor([1, 0, 1, 0]), chosen["a"]
    ordered, _ = in_order(net, workload, chosen, x)
    assert ordered["last"].tolist() == [0, 0, 1, 1]
    assert net.output_order.tolist() != [0, 1, 2, 3]


class Between(nn.Module):
    """Two convolutions with something between them."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what
        self.one = nn.Conv2d(2, 4, 1)
        self.wide = nn.Conv2d(4, 8, 3, padding=1, groups=4)
        self.slope = nn.PReLU(4)
        self.two = nn.Conv2d({"concat": 6, "slice": 2, "multiplier": 8}.get(what, 4), 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.one(x)
        if self.what == "concat":
            y = torch.cat((y, x), 1)
        elif self.what == "slice":
            y = y[:, :2]
        elif self.what == "slope":
            y = self.slope(y)
        elif self.what == "multiplier":  # eight outputs of four inputs, two each
            y = self.wide(y)
        else:
            y = functional.relu6(y)
        return self.two(y)  # type: ignore[no-any-return]


@pytest.mark.parametrize("what", ["concat", "slice", "slope", "multiplier", "relu6"])
def test_what_a_permutation_would_break_keeps_its_order(what: str) -> None:
    """Channels that meet others by place, or parameters of their own, stay; outputs are equal before and after."""
    net, workload, x = mixed_of(Between(what), (2, 3, 3), 0)
    chosen = {name: cores.sort().values for name, cores in assignment(net).items()}
    chosen["two"] = torch.tensor([1, 0, 1, 0])
    if what == "relu6":
        chosen["one"] = torch.tensor([1, 0, 0, 1])
    _, orders = in_order(net, workload, chosen, x)
    groups = channel_groups(workload)
    assert (groups["one"] in orders) == (what == "relu6")
    assert groups["two"] in orders


def test_reordering_a_network_that_shuffles_channels_is_refused() -> None:
    class Shuffling(Summed):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = functional.channel_shuffle(functional.relu(self.a(x)), 2)
            return torch.flatten(self.last(y), 1)

    net, workload, _ = mixed_of(Shuffling(8, flat_output=True), (2, 3, 3), 0)
    with pytest.raises(InputError, match="mixes channels in its forward pass"):
        make_contiguous(net, workload, assignment(net))


def test_operands_of_a_sum_share_a_range_and_every_read_tensor_has_seven_bits() -> None:
    net, _, x = made("resnet8", (3, 16, 16))
    seen: dict[str, list[torch.Tensor]] = {}

    def keep(name: str) -> None:
        net.net.get_submodule(name).register_forward_hook(
            lambda _m, _x, y: seen.setdefault(name, []).append(y.detach())
        )

    for name in [n for n, m in net.net.named_modules() if isinstance(m, ActivationQuantiser)]:
        keep(name)
    net(x)
    # Tensors: the input, three sums' operands in pairs, what conv2 of each block reads, what two stages, the mean and
    # fc read.
    # The first block's identity is also what its conv1 reads: one tensor, quantised once.
    assert sorted(len(tensors) for tensors in seen.values()) == [1] * 8 + [2] * 3
    assert all(len(y.unique()) <= 2**7 for tensors in seen.values() for y in tensors)
    paired = [tensors for tensors in seen.values() if len(tensors) == 2]
    clips = [net.net.get_submodule(n).log_clip.exp().item() for n, t in seen.items() if len(t) == 2]  # type: ignore[operator, union-attr]
    assert [max(float(y.abs().max()) for y in pair) for pair in paired] == pytest.approx(clips)


def test_sums_longer_than_the_array_are_converted_block_by_block() -> None:
    """1152 rows hold 128 channels of 3x3: 130 channels take two conversions, which are added up digitally."""
    net, _, _ = mixed_of(nn.Sequential(nn.Conv2d(130, 4, 3)), (130, 5, 5), 0)
    (layer,) = net.layers.values()
    x = torch.randn(2, 130, 5, 5, dtype=torch.float64)
    fix(net, {"0": torch.tensor([0, 1, 1, 1])})
    exact = layer(x)
    net.set_adc(6)
    net.double()
    assert layer.converter is not None
    layer.train()(x)
    read = layer.eval()(x)
    assert layer.row_blocks() == [slice(0, 128), slice(128, 130)]
    assert torch.allclose(read[:, 0], exact[:, 0], atol=1e-12)  # the digital core has no converter
    step = layer.converter.log_clip.exp() / 31
    assert layer.geometry.bias is not None
    levels = (read[:, 1:] - layer.geometry.bias[1:, None, None]) / step
    assert torch.allclose(levels, levels.round(), atol=1e-6)
    assert (read - exact).abs().max() <= 2 * step / 2 + 1e-9  # half a step a conversion, nothing clipped
    net.set_adc(0)
    assert torch.equal(layer(x), exact)


def test_sampled_gates_count_whole_channels_and_pass_the_soft_gradient() -> None:
    net, _, _ = made("digits_cnn", (1, 8, 8))
    for estimator in ("montecarlo", "score"):
        net.set_gates(estimator, 1.0, torch.Generator().manual_seed(3))  # type: ignore[arg-type]
        for name, on_cores in net.shares().items():
            counted = [float(v.detach()) for v in on_cores.values()]
            assert counted == pytest.approx([round(c) for c in counted], abs=1e-9)
            assert sum(counted) == pytest.approx(len(net.layers[name].logits))
            (slope,) = torch.autograd.grad(on_cores["digital"], net.layers[name].logits)
            assert (slope[:, 0] > 0).all()
            assert (slope[:, 1] < 0).all()


def test_every_parameter_is_in_one_group_and_the_state_is_plain_tensors() -> None:
    net, workload, x = made("resnet8", (3, 16, 16))
    groups = [net.weight_parameters(), net.quant_parameters(), net.arch_parameters()]
    ids = [id(p) for group in groups for p in group]
    assert len(ids) == len(set(ids))
    assert set(ids) <= {id(p) for p in net.parameters()}
    fixed = {id(p) for layer in net.layers.values() for p in (layer.logits, layer.log_scale)}
    assert {id(p) for p in net.parameters()} - set(ids) <= fixed  # of layers without a choice
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    again = prepare(trained_like("resnet8"), workload, find_soc("diana")).double().eval()
    again.load_state_dict(torch.load(file, weights_only=True))
    for each in (net, again):
        fix(each, assignment(net))
    assert torch.equal(again(x), net(x))


class Doubling(nn.Conv2d):
    """A convolution in name, as packages have them with a padding of their own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(2 * x, self.weight, self.bias)


@pytest.mark.parametrize(
    ("net", "what"),
    [
        (nn.Sequential(Doubling(2, 4, 3)), "layer 0 is a .*Doubling, which computes in a way of its own"),
        (nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)), "batch norm 2 must be the only reader"),
        (nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)), "no running statistics"),
        (nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular")), "pads with circular"),
        (nn.Sequential(nn.MaxPool2d(2)), "no convolution or fully connected layer"),
    ],
)
def test_what_the_search_cannot_quantise_is_named(net: nn.Module, what: str) -> None:
    workload = from_module(nn.Sequential(nn.Conv2d(2, 4, 3)), (2, 8, 8), "small")
    if isinstance(net[0], nn.MaxPool2d):  # type: ignore[index]
        workload = from_module(net, (2, 8, 8), "small")
    with pytest.raises(InputError, match=what):
        prepare(net, workload, find_soc("diana"))


# ------------------------------------------------------------------------------------------ repair

STEPS = {"digital": 16, "analog": 32}


def test_moving_channels_takes_those_that_lean_most() -> None:
    net, _, _ = made("digits_cnn", (1, 8, 8))
    layer = net.layers["conv2"]
    assert layer.cores[wide(layer)] == "digital"
    unit = Unit(("conv2",))
    moved = with_wide(net, unit, {"conv2": torch.ones(32, dtype=torch.long)}, 5)
    leaning = (layer.logits[:, 0] - layer.logits[:, 1]).detach()
    assert set(torch.nonzero(moved["conv2"] == 0)[:, 0].tolist()) == set(leaning.topk(5).indices.tolist())
    assert int((with_wide(net, unit, moved, 2)["conv2"] == 0).sum()) == 2


def test_repair_gives_back_what_is_free_and_nothing_else() -> None:
    # A made-up machine: digital work is free up to 16 channels of a layer, then costs; analog costs if used at all.
    net, _, _ = made("digits_cnn", (1, 8, 8))
    chosen = {n: torch.ones(len(layer.logits), dtype=torch.long) for n, layer in net.layers.items()}

    def cost(candidate: Assignment) -> float:
        on_digital = {n: int((c == 0).sum()) for n, c in candidate.items()}
        return sum(max(5.0, n - 11.0) for n in on_digital.values())

    repaired, moves = repair(net, chosen, cost, STEPS)
    found = {n: int((c == 0).sum()) for n, c in repaired.items()}
    assert found == {"conv1": 16, "conv2": 16, "conv3": 16, "fc": 10}
    assert all(isinstance(m, Move) and m.cost_after <= m.cost_before for m in moves)


def test_a_target_is_met_from_above_or_as_near_as_can_be() -> None:
    net, _, _ = made("digits_cnn", (1, 8, 8))
    chosen = {n: torch.zeros(len(layer.logits), dtype=torch.long) for n, layer in net.layers.items()}

    def cost(candidate: Assignment) -> float:
        return float(sum(int((c == 0).sum()) for c in candidate.values()))  # each digital channel costs one

    met, _ = meet(net, chosen, cost, 40.0, STEPS)
    assert cost(met) <= 40.0
    stuck, _ = meet(net, chosen, cost, -1.0, STEPS)
    assert cost(stuck) == 0.0
    assert counts(net, Unit(("conv2",)), STEPS) == [0, 16, 32]
