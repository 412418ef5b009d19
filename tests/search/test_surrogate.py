"""A calibrated estimate is good for one SoC and one simulator, and says so."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest

from cosoc.cli import main
from cosoc.search import surrogate
from cosoc.search.spaces.sections import sections_of
from cosoc.search.spaces.shares import ShareCosts
from cosoc.search.spaces.tiles import TileSpace
from cosoc.search.training.space import TrainedSpace, TrainingConfig
from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.manual import named_mapping
from cosoc.sim.theta import Theta

SOC = find_soc("diana")
TABLE = {"network": {"mape": 0.02, "p95": 0.05, "spearman": 0.99, "kendall": 0.95}}
MADE = surrogate.make(SOC, "channels", Theta(prefetch=0.75), 100, 3, TABLE)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    surrogate.save(MADE, tmp_path / "s.json")
    assert surrogate.load(tmp_path / "s.json", SOC) == MADE
    assert MADE.factors == Theta(prefetch=0.75)
    assert set(MADE.theta) == {"prefetch", "launch_hidden"}  # those that the chip has


@pytest.mark.parametrize("change", [{"dmas.dma.setup_cycles": "71"}, {"links.analog_feed.bytes_per_period": "16"}])
def test_another_soc_is_refused(tmp_path: Path, change: dict[str, str]) -> None:
    surrogate.save(MADE, tmp_path / "s.json")
    with pytest.raises(InputError, match=r"was fitted to SoC diana \(\w+\), not to diana \(\w+\) as it is"):
        surrogate.load(tmp_path / "s.json", find_soc("diana", change))


def test_another_simulator_is_refused(tmp_path: Path) -> None:
    for other in (replace(MADE, simulator="0.0.0"), replace(MADE, simulator_digest="0" * 16)):
        surrogate.save(other, tmp_path / "s.json")
        with pytest.raises(InputError, match=re.escape(f"was fitted to simulator {other.simulator} (")):
            surrogate.load(tmp_path / "s.json", SOC)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"theta": 1}', "\x00"])
def test_a_file_that_is_no_estimate_is_refused_in_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "s.json").write_text(content)
    with pytest.raises(InputError, match="is not an estimate that `cosoc calibrate --out` wrote") as error:
        surrogate.load(tmp_path / "s.json", SOC)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        surrogate.load(tmp_path / "s.json", SOC)


def test_a_factor_that_is_unknown_is_refused(tmp_path: Path) -> None:
    """A file written by a version with other factors must not load as if they were ours."""
    surrogate.save(MADE, tmp_path / "s.json")
    found = json.loads((tmp_path / "s.json").read_text())
    found["theta"]["fudge"] = 1.0
    (tmp_path / "s.json").write_text(json.dumps(found))
    with pytest.raises(
        InputError, match="theta has the factors fudge, launch_hidden, prefetch; those of diana are prefetch"
    ):
        surrogate.load(tmp_path / "s.json", SOC)


# ---------------------------------------------------------------------------------------------- in a search


def saved(folder: Path, name: str, space: surrogate.Calibrated, theta: Theta) -> str:
    surrogate.save(surrogate.make(find_soc(name), space, theta, 100, 3, TABLE), folder / f"{name}.json")
    return str(folder / f"{name}.json")


def test_a_search_of_tiles_begins_with_the_file_s_theta(tmp_path: Path) -> None:
    """What is known first is priced before anything is learnt: by the file's estimate, not by the usual one."""
    theta = Theta(unhidden=0.4, load=2.0)
    words = ["search", "gemmini", "digits_cnn", "--space", "tiles", "--time-budget", "1", "-q", "--out"]
    estimate = saved(tmp_path, "gemmini", "tiles", theta)
    assert main([*words, str(tmp_path / "a"), "--estimate", estimate]) == 0
    assert main([*words, str(tmp_path / "b")]) == 0
    given = named_mapping("default", find_workload("digits_cnn"), find_soc("gemmini"), "overlapped")
    for folder, factors in (("a", theta), ("b", Theta())):
        space = TileSpace(find_soc("gemmini"), find_workload("digits_cnn"), "edp", given)
        space.start(factors)
        content = json.loads((tmp_path / folder / "result.json").read_text())
        first = next(one for one in content["points"] + content["known"] if one["name"] == "default")
        own = space.figures(sections_of(space.given, space.workload))
        assert first["estimated"]["latency_s"] == pytest.approx(own.latency_s, rel=1e-9)


def test_a_search_of_channels_begins_with_the_file_s_theta(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No random mappings are simulated first."""

    def primed(self: ShareCosts, mappings: int, seed: int) -> None:
        raise AssertionError("theta was fitted to random mappings")

    monkeypatch.setattr(ShareCosts, "prime", primed)
    theta = Theta(prefetch=0.25, launch_hidden=0.75)
    config = TrainingConfig(SOC, "digits_cnn", epochs=3, train_images=64, out=tmp_path / "r", theta=theta)
    space = TrainedSpace(config)
    space.costs.restart()
    assert space.costs.theta == theta
    with pytest.raises(AssertionError, match="random mappings"):
        TrainedSpace(replace(config, theta=None))


@pytest.mark.parametrize("space", ["channels", "tiles"])
def test_a_search_refuses_the_estimate_of_another_chip(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], space: str
) -> None:
    estimate = saved(tmp_path, "darkside", "channels", Theta())
    words = ["search", "diana", "digits_cnn", "--space", space, "--out", str(tmp_path / "r"), "-q"]
    assert main([*words, "--estimate", estimate]) == 2
    error = capsys.readouterr().err
    assert "was fitted to SoC darkside (" in error and error.count("\n") == 1
    assert not (tmp_path / "r").exists()


def test_a_search_refuses_the_estimate_of_another_simulator(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    surrogate.save(replace(MADE, simulator_digest="0" * 16), tmp_path / "s.json")
    words = ["search", "diana", "digits_cnn", "--space", "tiles", "--out", str(tmp_path / "r"), "-q"]
    assert main([*words, "--estimate", str(tmp_path / "s.json")]) == 2
    error = capsys.readouterr().err
    assert "was fitted to simulator" in error and error.count("\n") == 1


def test_splits_have_no_estimate_to_begin_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    estimate = saved(tmp_path, "diana", "channels", Theta())
    assert main(["search", "homogeneous_cim_2", "resnet8", "--space", "splits", "--estimate", estimate, "-q"]) == 2
    assert "--estimate: means nothing with --space splits; leave it out" in capsys.readouterr().err


def test_every_module_of_the_simulator_is_in_its_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of sim/ has its digest; one more line in any of its modules, another."""
    copy = Path(shutil.copytree(resources.files("cosoc.sim"), tmp_path / "sim"))
    before = surrogate.simulator_digest()
    monkeypatch.setattr(surrogate.resources, "files", lambda package: copy)
    assert surrogate.simulator_digest() == before
    modules = sorted(copy.rglob("*.py"))
    assert {"soc.py", "result.py", "mapping.py"} <= {module.name for module in modules}
    for module in modules:
        text = module.read_text(encoding="utf-8")
        module.write_text(text + "# changed\n", encoding="utf-8")
        assert surrogate.simulator_digest() != before, module
        module.write_text(text, encoding="utf-8")
