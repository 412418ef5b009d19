"""The space of operators: the blocks it finds, that either operator is what it says, where cuts lie, a search."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cosoc.cli import main
from cosoc.search.baselines.laws import network_estimate as odimo_estimate
from cosoc.search.exact.shares import counts_by, least
from cosoc.search.spaces.channels import assignment, fix
from cosoc.search.spaces.opened import operator_space
from cosoc.search.spaces.operators import (
    CUTS,
    TEMPLATES,
    Cut,
    OperatorLayer,
    Supernet,
    Template,
    choices,
    counts_of,
    cut_steps,
    manual_cuts,
    prepare,
    rounded,
    with_choices,
)
from cosoc.search.spaces.shares import Counts, ShareCosts
from cosoc.search.targets import Target
from cosoc.search.training.nets import mobilenet_v1_025
from cosoc.search.training.quant import integer_weight, linear_or_conv
from cosoc.search.training.recipe import find_recipe
from cosoc.search.training.space import TrainingConfig, search_trained
from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.mapping_file import load_mapping
from cosoc.sim.files.workload_file import load_workload
from cosoc.sim.importers.build import Input
from cosoc.sim.simulate import simulate

SOC = find_soc("darkside")
IMAGE = (1, 8, 8)


class Killed(BaseException):
    """What a kill looks like from inside: nothing catches it."""


def quiet(done: int, total: int, what: str) -> None:
    pass


class Small(nn.Module):
    """A stem, a separable block that doubles the channels and strides, one that keeps them, a 3x3, a classifier."""

    def __init__(self) -> None:
        super().__init__()

        def layer(c: int, k: int, f: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
            conv = nn.Conv2d(c, k, f, stride, f // 2, groups=groups, bias=False)
            return [conv, nn.BatchNorm2d(k), nn.ReLU()]

        self.stem = nn.Sequential(*layer(1, 16, 3))
        self.wider = nn.Sequential(*layer(16, 16, 3, 2, 16), *layer(16, 32, 1))
        self.same = nn.Sequential(*layer(32, 32, 3, 1, 32), *layer(32, 32, 1))
        self.plain = nn.Sequential(*layer(32, 32, 3))
        self.fc = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.plain(self.same(self.wider(self.stem(x))))
        out: Tensor = self.fc(y.mean((2, 3)))
        return out


def small(template: Template = "conv-dw") -> Supernet:
    torch.manual_seed(0)
    return with_choices(Small(), IMAGE, SOC, template)


# -- what is found -----------------------------------------------------------------------------------------------------


def test_blocks_of_mobilenet_are_those_that_odimo_searches() -> None:
    """Released: MobileNetV1's layers 3, 5, 7..11 and 13, the eight that keep their channels and do not stride."""
    net = with_choices(mobilenet_v1_025(3, 10), (3, 32, 32), SOC, "conv-dw")
    assert [net.workload[name].k for name in net.pairs] == [32, 64, *[128] * 5, 256]
    assert [net.workload[name].oy for name in net.pairs] == [8, 4, *[2] * 5, 1]
    assert set(net.pairs.values()) == {("cluster", "depthwise_engine")}
    whole, none = (counts_of(net, {name: n * net.workload[name].k for name in net.pairs}) for n in (1, 0))
    soft = [{n: {c: torch.tensor(float(k)) for c, k in on.items()} for n, on in one.items()} for one in (whole, none)]
    # Sums of the released formulas over these blocks; a softmax at a temperature of 1e7 of (cost, 0) is half of it.
    found = [float(odimo_estimate(net.workload, shares).ticks) for shares in soft]
    assert found == pytest.approx([1_283_040 / 2, 3_182 / 2], rel=0.05)


def test_a_separable_block_may_also_widen_and_stride() -> None:
    net = with_choices(mobilenet_v1_025(3, 10), (3, 32, 32), SOC, "conv-dws")
    assert len(net.pairs) == 14  # all 13, and the stem, whose three channels can be worked off one by one
    assert set(net.pairs.values()) == {("cluster", "tensor")}


def test_places_that_keep_their_operator_say_why() -> None:
    assert small().refused == {
        "stem.0": "has 1 channels in and 16 out; a depthwise convolution keeps their number",
        "wider.choice": "has 16 channels in and 32 out; a depthwise convolution keeps their number",
    }
    wide = Small()
    wide.same[0] = nn.Conv2d(32, 32, 5, padding=2, groups=32, bias=False)
    found = with_choices(wide, IMAGE, SOC, "conv-dw")
    assert list(found.pairs) == ["plain.0.conv"]
    assert "depthwise_engine has a window of 3x3, not 5x5" in found.refused["same.choice"]


def test_a_network_without_a_choice_is_refused_with_every_reason() -> None:
    with pytest.raises(InputError, match=r"nothing to choose for template conv-dw on diana: .*no core of its own for"):
        with_choices(Small(), IMAGE, find_soc("diana"), "conv-dw")
    with pytest.raises(InputError, match="it has no 3x3 or separable block"):
        with_choices(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), IMAGE, SOC, "conv-dw")


# -- what is computed --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_split_block_has_the_channels_of_either_operator(template: Template) -> None:
    """Channel by channel: those before the cut are the first operator's whole output's, the others the second's."""
    net = small(template)
    net.net.eval()
    (block, *_) = net.choices().values()
    x = torch.randn(3, block.conv.in_channels if template != "conv-dws" else 16, 8, 8)
    outputs = []
    for k in (block.channels, 0, 16):
        block.first = k
        outputs.append(block(x))
    assert torch.allclose(outputs[2], torch.cat((outputs[0][:, :16], outputs[1][:, 16:]), 1), atol=1e-6)
    assert torch.allclose(outputs[0], block.first_alone()(x), atol=1e-6)


def test_statistics_of_channels_that_are_not_computed_stay() -> None:
    net = small()
    net.split({"same.choice.conv": 16, "plain.0.conv": 0})
    net.net.train()(torch.randn(8, *IMAGE))
    block = net.choices()["same.choice.conv"]
    for bn, untouched in ((block.conv_bn, slice(16, 32)), (block.other_bn, slice(0, 16))):
        assert bn.running_mean is not None
        assert not bn.running_mean[untouched].any()
        assert bn.running_mean.any()


def either(layer: OperatorLayer, x: Tensor, mid: Tensor | None, mid_for: str) -> tuple[Tensor, Tensor]:
    """The outputs of all channels by the first operator, and by the second."""
    kept, hard = layer.gates, []
    for one in (1.0, 0.0):
        layer.gates = torch.tensor([[one, 1 - one]]).repeat(32, 1)
        with torch.no_grad():
            hard.append(layer(x, mid, mid_for))
    layer.gates = kept
    return hard[0], hard[1]


@pytest.mark.parametrize(("template", "cut"), [*itertools.product(TEMPLATES, CUTS)])
def test_soft_gates_weigh_the_outputs_of_both_operators(template: Template, cut: Cut) -> None:
    """At all temperatures of a search, and the cut gets a gradient."""
    net = small(template)
    layer = prepare(net, SOC, cut).layers["same.choice.conv"]
    assert isinstance(layer, OperatorLayer)
    with torch.no_grad():
        layer.cut.copy_(torch.randn(layer.cut.shape, generator=torch.Generator().manual_seed(1)))
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(2, 32, 4, 4, generator=draws)
    mid = None if template == "conv-dw" else torch.randn(2, 32, 4, 4, generator=draws)
    mid_for = {"conv-dw": "", "dws-dw": "conv", "conv-dws": "other"}[template]
    first, second = either(layer, x, mid, mid_for)
    assert not torch.allclose(first, second)
    for temperature in (1.0, 0.05):
        layer.soften("expectation", temperature, draws)
        gate = layer.gates[:, 0].detach()[:, None, None]
        assert (gate[1:] <= gate[:-1]).all()  # the first so many channels
        out = layer(x, mid, mid_for)
        # A gate within a thousandth of 0 or 1 is taken for it.
        worst = (out - (gate * first + (1 - gate) * second)).detach().abs().max()
        assert worst <= 1e-3 * (first - second).abs().max() + 1e-5
        layer.cut.grad = None
        out.sum().backward()
        assert layer.cut.grad is not None
        assert layer.cut.grad.abs().sum() > 0


@pytest.mark.parametrize("undecided", [(0, 32), (16, 32), (0, 16)])
@pytest.mark.parametrize("template", TEMPLATES)
def test_weighed_filters_give_the_sum_of_weighed_outputs_and_its_gradients(
    template: Template, undecided: tuple[int, int]
) -> None:
    """The definition: both operators whole, their outputs weighed channel by channel and added. Convolutions are linear
    in filters and biases, so outputs and all gradients are the same but for rounding, 1e-12 in double precision."""
    layer = prepare(small(template), SOC).layers["same.choice.conv"].double().train()
    assert isinstance(layer, OperatorLayer)
    draws = torch.Generator().manual_seed(0)
    low, high = undecided
    gate = torch.cat((torch.ones(low), torch.linspace(0.9, 0.1, high - low), torch.zeros(32 - high))).double()
    inputs = [torch.randn(2, 32, 5, 5, generator=draws, dtype=torch.float64).requires_grad_() for _ in range(2)]
    x, mid = inputs[0], None if template == "conv-dw" else inputs[1]
    mid_for = {"conv-dw": "", "dws-dw": "conv", "conv-dws": "other"}[template]
    found = []
    for plain in (False, True):
        first = gate.clone().requires_grad_()
        layer.gates = torch.stack((first, 1 - first), 1)
        layer.told = None
        if plain:
            outputs = []
            for conv, bits in zip((layer.geometry, layer.other), layer.weight_bits, strict=True):
                read = x if mid is None or mid_for != ("conv" if conv is layer.geometry else "other") else mid
                outputs.append(linear_or_conv(read, integer_weight(conv.weight, bits), conv.bias, conv))
            weights = layer.gates.T[:, None, :, None, None]
            out = weights[0] * outputs[0] + weights[1] * outputs[1]
        else:
            out = layer(x, mid, mid_for)
        of = [x, *([] if mid is None else [mid]), layer.geometry.weight, layer.geometry.bias]
        of += [layer.other.weight, layer.other.bias]
        seen = torch.autograd.grad((out * torch.arange(out.numel()).reshape(out.shape).cos()).sum(), [*of, first])
        between = (gate > 0) & (gate < 1)  # what is decided has no other side to lean to
        found.append([out.detach(), *seen[:-1], seen[-1][between]])
    for fast, definition in zip(*found, strict=True):
        assert torch.allclose(fast, definition, rtol=1e-12, atol=1e-12 * float(definition.abs().max()))


def test_cumulative_gates_are_probabilities_of_cuts() -> None:
    """By enumeration of the 33 numbers of channels that the first operator may have."""
    mixed = prepare(small(), SOC)
    layer = mixed.layers["plain.0.conv"]
    assert isinstance(layer, OperatorLayer)
    with torch.no_grad():
        layer.cut.copy_(torch.randn(33, generator=torch.Generator().manual_seed(0)))
    layer.soften("expectation", 0.7, torch.Generator())
    likely = torch.softmax(layer.cut.detach() / 0.7, 0)
    for channel in range(32):
        expected = sum(likely[k] for k in range(33) if k > channel)
        assert float(layer.gates[channel, 0].detach()) == pytest.approx(float(expected), abs=1e-6)
    assert float(mixed.shares()["plain.0.conv"]["cluster"].detach()) == pytest.approx(
        float((likely * torch.arange(33)).sum()), rel=1e-5
    )


def test_drawn_cuts_are_whole_and_as_likely_as_they_should_be() -> None:
    layer = prepare(small(), SOC).layers["plain.0.conv"]
    assert isinstance(layer, OperatorLayer)
    draws, found = torch.Generator().manual_seed(0), []
    for _ in range(2000):
        layer.soften("montecarlo", 1.0, draws)
        gate = layer.gates[:, 0].detach()
        assert set(gate.unique().tolist()) <= {0.0, 1.0}
        assert (gate[1:] <= gate[:-1]).all()
        found.append(int(gate.sum()))
    # Uniform over 0..32: mean 16, standard error of 2,000 draws 9.52 / sqrt(2000) = 0.21.
    assert abs(sum(found) / 2000 - 16) < 4 * 0.21
    assert len(set(found)) == 33


def test_cuts_are_rounded_to_passes_of_the_engine() -> None:
    assert cut_steps(40) == (0, 8, 24, 40)  # 40, 32, 16 and no channels for the engine
    mixed = prepare(small(), SOC)
    for first, wanted in ((0, 0), (7, 0), (8, 16), (23, 16), (24, 32), (32, 32)):
        chosen = {"plain.0.conv": (torch.arange(32) >= first).long(), "same.choice.conv": torch.zeros(32).long()}
        assert int((rounded(mixed, chosen)["plain.0.conv"] == 0).sum()) == wanted


def test_the_cheapest_cuts_are_found() -> None:
    """By trying all of them: two blocks of 32 channels, each cut at 0, 16 or 32."""
    net = small()
    made, oracle = choices(net), ShareCosts(net.workload, SOC, "overlapped")

    def seconds(counts: Counts) -> float:
        return oracle.simulated(counts).latency_s

    every = [counts_by(dict(zip(made, options, strict=True))) for options in itertools.product(*made.values())]
    assert len(every) == 9
    found, value = least(made, seconds)
    assert value == min(map(seconds, every)) == seconds(found)
    cuts = {name: seconds(counts_of(net, one)) for name, one in manual_cuts(net).items()}
    assert value <= cuts["all_second"] < cuts["half"] < cuts["all_first"]
    assert oracle.estimated(counts_of(net, manual_cuts(net)["half"])).latency_s == pytest.approx(cuts["half"], rel=0.05)


# -- a whole search ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TrainingConfig:
    return TrainingConfig(
        soc=SOC, workload=f"{__name__}:Small", space="operators", strengths=(3.0,), epochs=5, train_images=192,
        recipe=find_recipe("default", {"batch": "32"}), out=tmp_path_factory.mktemp("operators") / "run",
        manual=("all_first", "all_second"),
    )  # fmt: skip


def test_a_search_reports_simulations_of_the_files_that_it_leaves(tiny: TrainingConfig) -> None:
    content = search_trained(tiny, quiet).content()
    assert [row["name"] for row in content["points"] + content["known"]] == ["strength_3", "all_first", "all_second"]
    workload = load_workload(tiny.out / "workload.yaml")
    for row in content["points"] + content["known"]:
        mapping = load_mapping(tiny.out / row["mapping"], workload, SOC)
        assert row["simulated"]["latency_s"] == simulate(SOC, workload, mapping).seconds
        for layer in ("same.choice.conv", "plain.0.conv"):
            assert mapping.layers[layer].channels_on("cluster") in cut_steps(32)
    assert content["about"]["reference"] == content["known"][0]["simulated"]
    assert content["points"][0]["about"]["wide_share"] < 1 == content["known"][0]["about"]["wide_share"]


def test_a_killed_search_goes_on_to_the_same_result(tiny: TrainingConfig, tmp_path: Path) -> None:
    wanted = replace(tiny, out=tmp_path / "run")

    def report(done: int, total: int, what: str) -> None:
        if done >= 3:
            raise Killed

    with pytest.raises(Killed):
        search_trained(wanted, report)
    search_trained(replace(wanted, resume=True), quiet)
    whole, resumed = (json.loads((folder / "result.json").read_text()) for folder in (tiny.out, wanted.out))
    assert whole == resumed


def test_a_target_is_met(tiny: TrainingConfig, tmp_path: Path) -> None:
    first, second = (
        row["simulated"]["latency_s"] for row in json.loads((tiny.out / "result.json").read_text())["known"]
    )
    target_ms = (0.3 * first + 0.7 * second) * 1e3
    found = search_trained(
        replace(tiny, out=tmp_path / "run", strengths=(), targets=(Target("latency", target_ms * 1e-3),), manual=()),
        quiet,
    )
    assert second * 1e3 <= found.content()["points"][0]["simulated"]["latency_s"] * 1e3 <= target_ms


def test_what_a_cut_cannot_do_is_refused(tiny: TrainingConfig, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="space operators takes expectation or montecarlo"):
        search_trained(replace(tiny, out=tmp_path / "a", estimator="score"), quiet)
    with pytest.raises(InputError, match="a cut \\(point\\) takes expectation"):
        search_trained(replace(tiny, out=tmp_path / "b", estimator="montecarlo", cut="point"), quiet)
    with pytest.raises(InputError, match="no manual mapping named 'all_8bit' in this space; there is all_first"):
        operator_space(Small(), Input("", IMAGE), SOC, "overlapped", "small", ("all_8bit",), "conv-dw", "cumulative")


def test_assignments_are_contiguous() -> None:
    mixed = prepare(small(), SOC)
    for layer in mixed.searchable().values():
        assert isinstance(layer, OperatorLayer)
        with torch.no_grad():
            layer.cut.copy_(3 * torch.randn(len(layer.cut), generator=torch.Generator().manual_seed(2)))
    for name, cores in assignment(mixed).items():
        assert (cores[1:] >= cores[:-1]).all(), name
    fix(mixed, assignment(mixed))
    assert mixed.eval()(torch.randn(2, *IMAGE)).shape == (2, 10)


def test_the_command_takes_templates_for_operators_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["search", "darkside", f"{__name__}:Small", "--out", str(tmp_path / "run"), "--epochs", "3", "--quiet"]
    assert main([*run, "--template", "dws-dw"]) == 2
    assert capsys.readouterr().err == "--template: means nothing with --space channels; leave it out\n"
    assert main([*run, "--space", "operators", "--template", "dws-dw", "--strengths", "1"]) == 0
    workload = load_workload(tmp_path / "run" / "workload.yaml")
    assert [layer.name for layer in workload if layer.alternative] == ["same.choice.conv", "plain.0.conv"]


def test_two_points_can_be_compared_though_their_layers_differ(
    tiny: TrainingConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny.out / "mappings"
    assert main(["compare", str(folder / "all_first.yaml"), str(folder / "all_second.yaml")]) == 0
    assert "same.choice.conv" in capsys.readouterr().out
