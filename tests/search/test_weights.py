"""Weights from files: what fits, what is named, what is refused. Truth: a state_dict that is known, renamed by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cosoc.cli import main
from cosoc.search.training.nets import build
from cosoc.search.training.weights import fit, fitted, read
from cosoc.sim.errors import InputError

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    torch.manual_seed(1)
    return dict(build("digits_resnet").state_dict())


def kept(net: nn.Module, state: State) -> bool:
    """Whether all of the network's values are those of a state."""
    return all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "backbone.", "_orig_mod.module."])
def test_names_under_a_prefix_are_found(prefix: str, state: State) -> None:
    """Every value arrives, whatever wrapper the names stand under; and what was done to them is said."""
    net = build("digits_resnet")
    assert not kept(net, state)
    found = fit(net, {prefix + name: value for name, value in state.items()}, "file.pt", 10)
    found.load(net)
    assert kept(net, state) and not found.fresh
    assert (f"without {prefix!r}" in found.said) == bool(prefix)


def test_a_bare_file_fits_a_network_within_another(state: State) -> None:
    net = nn.Sequential()
    net.add_module("body", build("digits_resnet"))
    found = fit(net, state, "file.pt", 10)
    found.load(net)
    assert kept(net.get_submodule("body"), state) and "behind 'body.'" in found.said


def test_a_backbone_and_a_head_beside_it(state: State) -> None:
    """The body's names have a prefix that the classifier's have not."""
    renamed = {name if name.startswith("fc") else f"backbone.{name}": value for name, value in state.items()}
    net = build("digits_resnet")
    fit(net, renamed, "file.pt", 10).load(net)
    assert kept(net, state)


def test_a_classifier_of_other_classes_stays_as_it_is_initialised(state: State) -> None:
    torch.manual_seed(2)
    net = build("digits_resnet", 1, 7)
    own = {name: value.clone() for name, value in net.state_dict().items() if name.startswith("fc")}
    found = fit(net, state, "file.pt", 7)
    found.load(net)
    assert set(found.fresh) == {"fc.weight", "fc.bias"} == set(own)
    assert "fc.weight (for 10 classes there, 7 here)" in found.said
    assert kept(net, state | own)
    without = {name: value for name, value in state.items() if not name.startswith("fc")}
    assert set(fit(build("digits_resnet"), without, "body.pt", 10).fresh) == {"fc.weight", "fc.bias"}


def test_a_layer_with_as_many_channels_as_classes_is_no_classifier(state: State) -> None:
    """digits_resnet's first block has 32 channels: with 32 classes, what is missing of it is still missing."""
    assert state["conv1.weight"].shape[0] == 32
    without = {name: value for name, value in state.items() if not name.startswith(("conv1", "fc"))}
    with pytest.raises(InputError, match=r"missing: conv1\.weight"):
        fit(build("digits_resnet", 1, 32), without, "file.pt", 32)
    body = {name: value for name, value in state.items() if not name.startswith("fc")}
    assert set(fit(build("digits_resnet", 1, 32), body, "file.pt", 32).fresh) == {"fc.weight", "fc.bias"}


def test_every_tensor_that_does_not_fit_is_named(state: State) -> None:
    """One message; of many names the number. Nothing is half-loaded, as nothing is loaded by looking."""
    net = build("digits_resnet")
    before = {name: value.clone() for name, value in net.state_dict().items()}
    given = {name: value for name, value in state.items() if not name.startswith("layer1.0.conv1")}
    given |= {"conv1.weight": torch.zeros(32, 3, 3, 3)} | {f"aux.{i}.weight": torch.zeros(2) for i in range(8)}
    with pytest.raises(InputError) as refused:
        fit(net, given, "file.pt", 10)
    message = str(refused.value)
    assert "missing: layer1.0.conv1.weight; of another shape: conv1.weight (32x3x3x3 there, 32x1x3x3 here)" in message
    assert "not in the network: aux.0.weight, aux.1.weight" in message and "and 2 more" in message
    assert "\n" not in message and kept(net, before)


def test_what_is_no_number_is_refused(state: State) -> None:
    broken = state | {"fc.bias": torch.full((10,), float("nan"))}
    with pytest.raises(InputError, match=r"no number, in fc\.bias"):
        fit(build("digits_resnet"), broken, "file.pt", 10)


def test_checkpoints_of_trainers_are_read(state: State, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    torch.save({"epoch": 3, "state_dict": {f"model.{name}": value for name, value in state.items()}}, path)
    net = build("digits_resnet")
    fitted(net, path, 10).load(net)
    assert kept(net, state)


def test_safetensors_are_read(state: State, tmp_path: Path) -> None:
    """By the package of that name, which wrote them: half precision arrives as it was rounded."""
    package = pytest.importorskip("safetensors.torch")
    path = tmp_path / "net.safetensors"
    package.save_file({name: value.contiguous() for name, value in state.items()}, path)
    assert {name: value.tolist() for name, value in read(path).items()} == {n: v.tolist() for n, v in state.items()}
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="is not as safetensors writes it"):
        read(path)


class Runs:
    """What a pickle would call."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("called"),)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda path: path.write_bytes(b"no archive"), "is no archive of torch.save"),
        (lambda path: torch.save([1, 2], path), "found a list"),
        (lambda path: torch.save({"epoch": 3}, path), "found epoch"),
        (lambda path: torch.save({"a": Runs()}, path), "holds more than tensors"),
        (
            lambda path: torch.save(build("digits_cnn"), path),
            "DigitsCnn, which is not run; torch.save(",
        ),
        (lambda path: None, "cannot be read: No such file"),
    ],
)
def test_what_is_no_state_dict_is_refused_in_a_line(
    made: object, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Code in the file is not run, and no folder is begun."""
    monkeypatch.chdir(tmp_path)
    made(Path("w.pt"))  # type: ignore[operator]
    assert main(["search", "diana", "digits_cnn", "--weights", "w.pt", "--out", "run"]) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1
    assert not Path("run").exists() and not Path("called").exists()


def test_a_search_with_weights_begins_with_them_and_without_a_warm_up(tmp_path: Path) -> None:
    """The first phase ends with the weights of the file, to the bit; with a classifier of its own it is trained first.
    A changed file is another run."""
    torch.manual_seed(3)
    net = build("digits_cnn")
    torch.save(net.state_dict(), tmp_path / "w.pt")
    words = ["search", "diana", "digits_cnn", "--epochs", "2", "--strengths", "1", "--quiet"]
    out = tmp_path / "run"
    assert main([*words, "--weights", str(tmp_path / "w.pt"), "--out", str(out)]) == 0
    assert kept(net, torch.load(out / "weights" / "warm_up.pt", weights_only=True))
    phases = {json.loads(line)["phase"] for line in (out / "metrics.jsonl").read_text().splitlines()}
    assert "warm_up" not in phases and "strength_1.tune" in phases
    about = json.loads((out / "result.json").read_text())["about"]
    assert about["weights"] == f"{len(net.state_dict())} tensors of {tmp_path / 'w.pt'}"
    torch.save(build("digits_cnn").state_dict(), tmp_path / "w.pt")
    assert main([*words, "--weights", str(tmp_path / "w.pt"), "--out", str(out), "--resume"]) == 2
