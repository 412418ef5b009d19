"""Networks of torchvision and timm by name. The packages are no dependencies: where they are missing, so are the tests
that need them; counts of multiply-accumulates and parameters are those that torchvision's own pages print."""

from __future__ import annotations

import importlib
import importlib.util
import sys

import pytest
import torch

from cosoc.cli import main
from cosoc.sim.errors import InputError
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.importers import zoo


@pytest.fixture(scope="module")
def torchvision() -> None:
    """The package, also where its compiled operators are another torch's, which declares them: no network here runs
    them."""
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        for part in [part for part in sys.modules if part.partition(".")[0] == "torchvision"]:
            del sys.modules[part]
        for op in ("nms", "qnms"):
            torch.library.define(f"torchvision::{op}", "(Tensor dets, Tensor scores, float threshold) -> Tensor")


@pytest.mark.parametrize("name", ["torchvision", "timm"])
def test_a_package_that_is_not_there_is_named_with_the_command(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)  # how Python knows a module that cannot be imported
    monkeypatch.setitem(sys.modules, zoo.PACKAGES[name].module, None)
    with pytest.raises(InputError, match=rf"^{name}:resnet18: no module named '{name}.*': pip install {name}$"):
        find_workload(f"{name}:resnet18")


def test_networks_are_read_at_the_size_that_they_are_made_for(torchvision: None) -> None:
    """1.814 G multiply-accumulates: torchvision's page of ResNet18_Weights."""
    found = find_workload("torchvision:resnet18")
    assert found.input_shape == (3, 224, 224) and found.name == "resnet18"
    assert sum(layer.macs for layer in found) == pytest.approx(1.814e9, rel=1e-3)
    assert [tuple(one) for one in (found.layers[0].inputs,)] == [("input",)]


def test_other_classes_and_channels_are_asked_of_the_package(torchvision: None) -> None:
    pytest.importorskip("timm")
    from cosoc.sim.importers.torch_export import load_module

    state = load_module("timm:resnet18", 7, 1).state_dict()
    assert state["fc.weight"].shape == (7, 512) and state["conv1.weight"].shape == (64, 1, 7, 7)


def test_what_is_not_there_is_said_with_what_is_near(torchvision: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "rpi4", "torchvision:resnet81"]) == 2
    told = capsys.readouterr().err
    assert "torchvision has no network 'resnet81'; near are resnet18" in told and told.count("\n") == 1
    with pytest.raises(InputError, match="reads images of 3 channels, these have 1"):
        zoo.made("torchvision:resnet18", 10, 1)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "mobilenetv3_small_100", "efficientnet_lite0.ra_in1k"])
def test_networks_of_timm_are_read(torchvision: None, name: str) -> None:
    """Each at 224 x 224, its own size."""
    assert find_workload(f"timm:{name}").input_shape == (3, 224, 224)
