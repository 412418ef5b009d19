"""What is said before a search trains: sizes, choices, devices. A line each, and no folder is begun."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from cosoc.cli import main
from cosoc.search.training.data import load_data
from cosoc.search.training.nets import NETWORKS
from cosoc.search.training.opening import check_channels, check_network, check_trained, check_training
from cosoc.search.training.recipe import find_recipe
from cosoc.search.training.task import classification
from cosoc.search.training.weights import Pretrained
from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc, list_socs
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.model.workload import Workload
from cosoc.sim.tiler import unsupported

DIGITS, CLASSES = (1, 8, 8), 10
# Built-in networks whose last layers, or windows, are larger than what is left of 8 x 8 pixels.
TOO_SMALL = {
    "alexnet", "vgg8", "vgg16", "vgg19", "googlenet", "squeezenet", "vit_base", "vit_large", "vit_base_32_384",
}  # fmt: skip
QUICK = ("digits_cnn", "resnet8", "dscnn", "resnet18_segment", "vit_base", "vgg8", "autoencoder", "mobilenet_v2")


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in NETWORKS])
def test_every_network_takes_the_digits_or_says_why_not(name: str) -> None:
    """In a line; where images are too small, with the size that the network is made for."""
    if NETWORKS[name].classes is not None and name not in TOO_SMALL:
        workload = check_network(name, DIGITS, classification(CLASSES))
        assert workload is not None and workload.input_shape == DIGITS
        return
    with pytest.raises(InputError) as refused:
        check_network(name, DIGITS, classification(CLASSES))
    assert "\n" not in str(refused.value)
    if NETWORKS[name].classes is None:
        assert f"{name} has no classifier" in str(refused.value)
    elif name != "vgg8":  # which takes them as a module, and has a pool that no machine here computes
        assert f"{name} cannot take images of (1, 8, 8) (c, h, w): it is made for" in str(refused.value)


@functools.cache
def read(name: str) -> Workload:
    """A built-in network, read once for all chips."""
    return find_workload(name)


@pytest.mark.parametrize("soc", list_socs())
def test_every_network_has_a_choice_on_a_chip_or_none_is_claimed(soc: str) -> None:
    """A layer that two cores can run, by asking each core, is what a search of channels needs; else it is refused."""
    machine = find_soc(soc)
    cores = [name for name, core in machine.cores.items() if name != machine.host or core.weight_memory is not None]
    for name in NETWORKS:
        workload = read(name)
        weighted = [layer for layer in workload if layer.op == "conv"]
        able = [sum(not unsupported(layer, machine, core) for core in cores) for layer in weighted]
        if max(able, default=0) > 1:
            check_channels(workload, machine)
            continue
        with pytest.raises(InputError) as refused:
            check_channels(workload, machine)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["jetson_nano", "digits_cnn"], "no layer has two cores to choose between (gpu alone can compute them)"),
        (["neurosim_22nm", "digits_cnn"], "no layer has two cores to choose between (cim alone can compute them)"),
        (["diana", "vit_base"], "vit_base cannot take images of (1, 8, 8) (c, h, w): it is made for (3, 224, 224)"),
        (["diana", "digits_cnn", "--points", "2", "--strengths", "1"], "--points goes with neither --strengths nor"),
        (
            ["diana", "digits_cnn", "--recipe", "odimo"],
            "recipe odimo: has no warm-up, as it is for trained weights, and digits_cnn has none by itself: give",
        ),
        (["gemmini", "resnet8", "--space", "tiles", "--seeds", "2"], "--seeds: means nothing with --space tiles"),
        (["gemmini", "resnet8", "--space", "tiles", "--device", "cpu"], "--device: means nothing with --space tiles"),
    ],
)
def test_what_cannot_be_trained_is_said_in_a_line(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", *words, "--out", str(tmp_path / "run")]) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1
    assert not list(tmp_path.iterdir())  # nothing is left, not even a folder


def test_a_new_classifier_needs_a_warm_up() -> None:
    """It would teach what was drawn; and so would blocks that are new."""
    recipe, fresh = find_recipe("imagenet-finetune"), Pretrained({}, ("fc.weight",), "")
    check_trained(recipe, "resnet8", "channels", False, replace(fresh, fresh=()))
    check_trained(recipe, "mine:net", "channels", False, None)
    check_trained(find_recipe("odimo"), "resnet8", "operators", False, None)
    with pytest.raises(InputError, match=r"fc\.weight of resnet8 has none for these classes: take a recipe"):
        check_trained(recipe, "resnet8", "channels", False, fresh)
    with pytest.raises(InputError, match="blocks that are new cannot teach"):
        check_trained(recipe, "resnet8", "operators", False, None)


class InTraining(nn.Module):
    """Gives something else in training."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc = nn.BatchNorm1d(64), nn.Linear(64, CLASSES)

    def forward(self, x: torch.Tensor) -> object:
        out = self.fc(self.norm(x.flatten(1)))
        return (out, out) if self.training else out


def test_what_fails_in_training_alone_is_said_before_it() -> None:
    """Outputs beside the network's own, and batch norms of one item (torch's own condition); statistics stay."""
    data, net = load_data("digits", 0), InTraining()
    with pytest.raises(InputError, match="mine:net gives a tuple in training; a tensor is needed"):
        check_training(net, "mine:net", data, 64)
    assert net.norm.running_mean is not None and not net.norm.running_mean.any()
    with pytest.raises(InputError, match="cannot be trained on 1 items at once: Expected more than 1"):
        check_training(nn.Sequential(nn.Flatten(), net.norm, net.fc), "mine:net", data, 1)
    check_training(nn.Sequential(nn.Flatten(), net.norm, net.fc), "mine:net", data, 2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a GPU where there is none")
def test_a_device_that_is_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "diana", "digits_cnn", "--device", "cuda", "--out", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err == (
        "device cuda: torch finds no GPU here; leave it out, or install a torch built for one\n"
    )
    assert not list(tmp_path.iterdir())  # nothing is left, not even a folder


def test_a_search_keeps_to_its_runtime(tmp_path: Path) -> None:
    """All mappings of a serial search are serial; the ends of the front are among them."""
    out = tmp_path / "run"
    words = ["--epochs", "1", "--points", "1", "--runtime", "serial", "--out", str(out), "--quiet"]
    assert main(["search", "diana", "digits_cnn", *words]) == 0
    files = {file.stem: file.read_text() for file in (out / "mappings").glob("*.yaml")}
    assert {"all_8bit", "cheapest"} <= set(files) and all("runtime: serial" in text for text in files.values())
