"""Quantising without training: ranges, biases and sensitivities against brute force and closed forms."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn
from torch.nn import functional

from cosoc.cli import main
from cosoc.search.loop import Asked, search
from cosoc.search.spaces.channels import Assignment, MixedNet, fix, prepare, uniform
from cosoc.search.spaces.shares import Counts
from cosoc.search.training.calibrated import Calibration
from cosoc.search.training.choose import Judge
from cosoc.search.training.data import Data, load_data
from cosoc.search.training.evaluate import metric
from cosoc.search.training.nets import build
from cosoc.search.training.parts import Split
from cosoc.search.training.points import Aim
from cosoc.search.training.post import (
    GRID,
    correct_biases,
    float_means,
    in_float,
    mse_clip,
    percentile_clip,
    set_ranges,
    ternary_scale,
)
from cosoc.search.training.quant import ActivationQuantiser
from cosoc.search.training.repair import placed
from cosoc.search.training.sensitivity import added, changed, lean, sensitivities
from cosoc.search.training.space import TrainedSpace, TrainingConfig, search_trained
from cosoc.search.training.trained import read_run
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.mapping_file import load_mapping
from cosoc.sim.importers.torch_export import from_module
from cosoc.sim.manual import named_mapping
from cosoc.sim.progress import untold
from cosoc.sim.simulate import simulate
from cosoc.sim.theta import Theta

IMAGES = 128


@pytest.fixture(scope="module")
def digits() -> Data:
    return load_data("digits", 0)


@pytest.fixture(scope="module")
def trained(digits: Data) -> nn.Module:
    """A small network that has learned the digits: four epochs of Adam, some 95 % right."""
    torch.manual_seed(0)
    net, (x, y) = build("digits_cnn").train(), digits.train.items(torch.arange(len(digits.train)))
    adam = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(4):
        for index in torch.randperm(len(y)).split(64):
            adam.zero_grad()
            functional.cross_entropy(net(x[index]), y[index]).backward()
            adam.step()
    net.eval()
    assert metric(net, digits.val, digits.task) > 0.9
    return net


@pytest.fixture
def mixed(trained: nn.Module) -> MixedNet:
    """The network quantised for DIANA, all channels in 8 bit."""
    workload, soc = from_module(trained, (1, 8, 8), "digits_cnn"), find_soc("diana")
    net = prepare(copy.deepcopy(trained), workload, soc).eval()
    fix(net, uniform(net, named_mapping("all_8bit", workload, soc, "overlapped")))
    return net


def calibration(data: Data) -> Split:
    return Split(*data.train.items(torch.arange(IMAGES)))


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
def test_the_clip_of_least_squares_is_the_grids_best(bits: int, signed: bool) -> None:
    """Against every clip of the grid, each with numpy's own rounding: none loses less; with an outlier it clips."""
    rng = np.random.default_rng(0)
    x = np.append(rng.standard_normal(2000), 40.0).astype(np.float32)
    x = x if signed else np.abs(x)
    top = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
    lost = []
    for share in GRID:
        step = 40.0 * share / top
        lost.append(np.mean((np.clip(np.rint(x / step), -top if signed else 0, top) * step - x) ** 2, dtype=np.float64))
    found = mse_clip([(torch.from_numpy(x), signed)], bits, 40.0)
    assert found == pytest.approx(40.0 * GRID[int(np.argmin(lost))])
    if bits == 4:
        assert found < 30.0  # of 16 levels over 40 hardly any would be left for the rest


def test_a_percentile_leaves_out_a_value_in_ten_thousand() -> None:
    x = torch.arange(1.0, 20_001.0)
    assert percentile_clip([(x, False), (-x / 2, True)], 8, 20_000.0) == 19_998.0


def test_ternary_scales_are_the_least_squares_of_all_choices() -> None:
    """Brute force over all 3^6 ternary vectors, each with its best scale."""
    weight = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
    scales = ternary_scale(weight)
    for row, scale in zip(weight.double(), scales.double(), strict=True):
        best = float("inf")
        for levels in itertools.product((-1.0, 0.0, 1.0), repeat=6):
            t = torch.tensor(levels, dtype=torch.float64)
            if t.any():
                fitted = (row @ t) / (t @ t) * t
                best = min(best, float((row - fitted).square().sum()))
        kept = (row / scale).clamp(-1, 1).round() * scale
        assert float((row - kept).square().sum()) == pytest.approx(best, rel=1e-5)


def test_a_network_in_float_is_the_one_before_quantising(trained: nn.Module, mixed: MixedNet, digits: Data) -> None:
    x, _ = digits.val.items(torch.arange(32))
    with torch.no_grad(), in_float(mixed):
        assert torch.allclose(mixed(x), trained(x), rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        assert not torch.allclose(mixed(x), trained(x), rtol=1e-4, atol=1e-4)


def test_ranges_are_set_once_and_training_keeps_them(mixed: MixedNet, digits: Data) -> None:
    """No activation's clip is beyond its largest magnitude, and none is left to the first batch of training."""
    set_ranges(mixed, calibration(digits).x, "mse")
    quantisers = [module for module in mixed.modules() if isinstance(module, ActivationQuantiser)]
    before = [float(one.log_clip.detach()) for one in quantisers]
    assert quantisers and all(np.isfinite(before))
    mixed.train()(calibration(digits).x[:8] * 3)
    assert [float(one.log_clip.detach()) for one in quantisers] == before


def ternary(net: MixedNet) -> None:
    """All channels that can be on the analog core there."""
    chosen = {name: torch.full((len(layer.logits),), len(layer.cores) - 1) for name, layer in net.layers.items()}
    fix(net, chosen)


def test_corrected_biases_leave_no_mean_error(mixed: MixedNet, digits: Data) -> None:
    """In closed form: behind the correction each channel's mean over the images is the float network's, in every
    layer, also behind ternary ones; before it is not."""
    x = calibration(digits).x
    set_ranges(mixed, x, "mse")
    ternary(mixed)
    means = float_means(mixed, x)

    def off() -> float:
        found: dict[str, torch.Tensor] = {}

        def keep(name: str) -> object:
            return lambda module, given, y: found.__setitem__(name, y.transpose(0, 1).flatten(1).mean(1))

        hooks = [layer.register_forward_hook(keep(name)) for name, layer in mixed.layers.items()]
        with torch.no_grad():
            mixed(x)
        for hook in hooks:
            hook.remove()
        return max(float((found[name] - means[name]).abs().max()) for name in mixed.layers)

    assert off() > 0.01
    correct_biases(mixed, x, means)
    assert off() < 1e-4  # single precision, of activations of some 10


def test_sensitivities_order_channels_as_trying_each_does(mixed: MixedNet, digits: Data) -> None:
    """Brute force: each channel of four layers by itself on the analog core, with the float rest, and the loss that
    this adds, its mean shift taken up. Ranks agree as far as a second order goes for so coarse a format; those by what
    the format loses of the weights do not."""
    images = calibration(digits)
    set_ranges(mixed, images.x, "mse")
    found = sensitivities(mixed, images, functional.cross_entropy)
    before, means = float_loss(mixed, images), float_means(mixed, images.x)
    tried, said = list[float](), list[float]()
    for name, layer in mixed.searchable().items():
        weight, bias, core = layer.geometry.weight.data, layer.geometry.bias, layer.ternary.index(True)
        assert bias is not None
        made = weight + changed(layer)[core].reshape(weight.shape)
        for k in range(len(weight)):
            kept = weight[k].clone(), bias.data[k].clone()
            weight[k] = made[k]
            bias.data[k] += means[name][k] - float_means(mixed, images.x)[name][k]
            tried.append(float_loss(mixed, images) - before)
            said.append(float(found[name][k, core]))
            weight[k], bias.data[k] = kept
    assert spearmanr(tried, said)[0] > 0.6
    with torch.no_grad():
        for layer in mixed.searchable().values():
            layer.prefer()  # by energies of weights alone, which knows nothing of the loss
    energies = [-float(layer.logits[k, layer.ternary.index(True)].detach())
                for layer in mixed.searchable().values() for k in range(len(layer.logits))]  # fmt: skip
    assert spearmanr(tried, energies)[0] < 0.3


def float_loss(net: MixedNet, images: Split) -> float:
    with torch.no_grad(), in_float(net):
        return float(functional.cross_entropy(net(images.x), images.y))


def test_a_layers_least_loss_is_the_best_of_all_assignments() -> None:
    """Brute force over all ways to give six channels two or three cores."""
    found = torch.rand(6, 3, generator=torch.Generator().manual_seed(2)).double()
    least: dict[tuple[int, ...], float] = {}
    for cores in itertools.product(range(3), repeat=6):
        counts = tuple(cores.count(core) for core in range(3))
        least[counts] = min(least.get(counts, float("inf")), float(found[range(6), list(cores)].sum()))
    for counts, loss in least.items():
        assert added(found, ("a", "b", "c"), dict(zip("abc", counts, strict=True))) == pytest.approx(loss, abs=1e-12)


def test_the_channels_that_go_are_those_that_lose_least(mixed: MixedNet, digits: Data) -> None:
    """Of half a layer's channels on each core none loses more than one that stays."""
    images = calibration(digits)
    set_ranges(mixed, images.x, "mse")
    found = sensitivities(mixed, images, functional.cross_entropy)
    lean(mixed, found)
    layers = mixed.searchable()
    half = {n: dict.fromkeys(layer.cores, len(layer.logits) // 2) for n, layer in layers.items()}
    for name, chosen in placed(mixed, half).items():
        if name in layers:
            more = found[name][:, 1] - found[name][:, 0]  # of going to the second core
            assert more[chosen == 1].max() <= more[chosen == 0].min()
            assert (chosen == 1).sum() == len(chosen) // 2


class Recorded(TrainedSpace):
    """A search's space that says where the search of its points began."""

    begun: ClassVar[list[tuple[str, float]]] = []

    def starts(self, judge: Judge, aim: Aim) -> list[tuple[Counts, Assignment, str]]:
        out = super().starts(judge, aim)
        net = self.mixed()
        self.calibrated()[0].begin(net)
        self.begun += [(by, aim.worth(judge.loss(net, at), self.simulated(counts))) for counts, at, by in out]
        return out


def test_a_search_that_trains_begins_with_the_better_of_two_fronts(weights: Path, tmp_path: Path) -> None:
    """Of what losses layer by layer say and what sensitivities say, what is worth more by the loss that is measured."""
    given = replace(config(weights, tmp_path / "run"), calibrate_only=False, points=1, epochs=1, train_images=64)
    space = Recorded(given)
    search(space, space.oracle, Asked("latency", 0, given.out, given.stated()), untold)
    assert {by for by, _ in space.begun} == {"descent", "sensitivity"}
    assert [worth for _, worth in space.begun] == sorted(worth for _, worth in space.begun)


class Killed(BaseException):
    """What a kill looks like from inside."""


@pytest.fixture(scope="module")
def weights(trained: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "digits_cnn.pt"
    torch.save(trained.state_dict(), path)
    return path


def config(weights: Path, out: Path) -> TrainingConfig:
    return TrainingConfig(
        soc=find_soc("diana"), workload="digits_cnn", weights=weights, calibrate_only=True, points=2, out=out,
        calibration=Calibration(64), theta=Theta(),
    )  # fmt: skip


def test_a_calibrated_front_is_simulated_and_costs_accuracy(weights: Path, tmp_path: Path) -> None:
    """In the form of any search's result: each latency is the simulation of the mapping beside it; nothing was trained;
    8 bit keeps the float network's accuracy to a point; and a kill changes nothing."""
    found = search_trained(config(weights, tmp_path / "run"), untold).content()
    rows = {row["name"]: row for row in found["points"] + found["known"]}
    assert {"all_8bit", "cheapest", "point_1"} <= set(rows)
    soc, workload = find_soc("diana"), from_module(build("digits_cnn"), (1, 8, 8), "digits_cnn")
    for row in rows.values():
        mapping = load_mapping(tmp_path / "run" / row["mapping"], workload, soc)
        assert row["simulated"]["latency_s"] == simulate(soc, workload, mapping).seconds
    between = rows["point_1"]["simulated"]["latency_s"]
    assert rows["cheapest"]["simulated"]["latency_s"] <= between <= rows["all_8bit"]["simulated"]["latency_s"]
    assert rows["all_8bit"]["accuracy"] >= found["about"]["calibrated"]["float_accuracy"] - 0.01
    assert not (tmp_path / "run" / "metrics.jsonl").exists()  # a line is an epoch

    run = read_run(tmp_path / "run")
    for one in run.found:
        for training in run.trainings(one):
            assert metric(training.net, run.data.test, run.data.task) == training.metric == one.accuracy

    def kill(done: int, total: int, what: str) -> None:
        if done == 2:
            raise Killed

    killed = config(weights, tmp_path / "killed")
    with pytest.raises(Killed):
        search_trained(killed, kill)
    assert search_trained(replace(killed, resume=True), untold).content() == found


def test_a_result_says_by_how_many_images_it_was_calibrated(weights: Path, tmp_path: Path) -> None:
    """Those that there are, where more are asked for."""
    asked = replace(config(weights, tmp_path), calibration=Calibration(100_000), train_images=20)
    assert TrainedSpace(asked).about()["calibrated"]["images"] == 20


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--calibrate-only: digits_cnn has no weights by itself; give --weights FILE"),
        (["--weights", "WEIGHTS", "--epochs", "3"], "--epochs: means nothing with --calibrate-only"),
        (["--weights", "WEIGHTS", "--seeds", "3"], "--seeds: means nothing with --calibrate-only"),
        (["--space", "operators"], "--calibrate-only: means nothing with --space operators"),
    ],
)
def test_what_cannot_be_calibrated_is_said_in_a_line(
    words: list[str], message: str, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(weights) if word == "WEIGHTS" else word for word in words]
    assert main(["search", "diana", "digits_cnn", "--calibrate-only", *given, "--out", str(tmp_path / "run")]) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1
    assert not list(tmp_path.iterdir())
