"""Is what a run has trained read back to the bit, and does a front's order come with its interval?"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from scipy.stats import kendalltau, spearmanr

import cosoc
from cosoc.output import as_text
from cosoc.search.manifest import Files
from cosoc.search.training.noise import KINDS
from cosoc.search.training.order import kendall, order, resampled, spearman
from cosoc.search.training.shift import Asked, Shift, evaluate, normalised, pixels_of, severities_of
from cosoc.search.training.space import TrainingConfig, data_of, search_trained
from cosoc.search.training.trained import read_run
from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc

Run = Callable[..., tuple[int, str, str]]


def quiet(done: int, total: int, what: str) -> None:
    """No progress."""


@pytest.fixture(scope="module")
def small() -> TrainingConfig:
    return TrainingConfig(
        soc=find_soc("diana"), workload="digits_cnn", points=0, epochs=3, train_images=256,
        manual=("all_8bit", "all_ternary"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(small: TrainingConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two mappings, each trained twice."""
    out = tmp_path_factory.mktemp("runs") / "plain"
    search_trained(replace(small, out=out, seeds=2), quiet)
    return out


def recorded(folder: Path) -> dict[str, float]:
    return {one["name"]: one["accuracy"] for one in json.loads((folder / "result.json").read_text())["known"]}


def test_networks_are_those_of_the_run(finished: Path) -> None:
    """Accuracy without corruption or noise is the one in result.json, of each training to the bit, though nothing of
    the search is done again; and noise leaves all_8bit, which has no analog channel, to the bit."""
    run = read_run(finished)
    found = evaluate(run, Asked(("brightness",), (1, 5), KINDS, chips=2))
    assert [one.kind for one in found.conditions] == ["clean"] + ["corruption"] * 2 + ["noise"] * 4 + ["both"] * 2
    assert dict(zip(found.mappings, found.recorded, strict=True)) == recorded(finished)
    for one in run.found:
        for training in run.trainings(one):
            alone = replace(run, found=(one,))
            again = evaluate(alone, Asked(noise=(), corruptions=()))
            assert again.right.shape == (1, 1, len(run.data.test))
            assert training.metric in one.accuracies
    clean = found.right[0]
    assert clean.mean(1) == pytest.approx(found.recorded, abs=1e-12)
    at = found.mappings.index("all_8bit")
    for condition, right in zip(found.conditions, found.right, strict=True):
        same = bool(np.array_equal(right[at], clean[at]))
        assert same == (not condition.corruption), condition
    # Noise leaves it as the corruption alone does; the other one it does not.
    corrupted_ones, both, other = found.right[1:3], found.right[7:], 1 - at
    assert np.array_equal(both[:, at], corrupted_ones[:, at])
    assert not np.array_equal(both[:, other], corrupted_ones[:, other])
    # Together, and drawn again, the chips are the same: equal seeds, equal results.
    assert np.array_equal(evaluate(run, Asked((), (), KINDS, chips=2)).right[1:], found.right[3:7])
    assert not np.array_equal(evaluate(run, Asked((), (), KINDS, chips=2, seed=1)).right[1:], found.right[3:7])


def test_what_was_done_of_an_evaluation_is_not_done_again(
    finished: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """Killed in the middle of the fourth of seven conditions, then resumed: the three that were done are read, and the
    result is that of an evaluation which nothing stopped. Another option is refused, as is a folder that is in use."""
    asked = {"corruptions": "fog", "severity": "1,5", "noise": "weights,drift", "chips": 2, "images": 40}
    whole = cosoc.evaluate(finished, **asked)
    assert [one.name for one in whole.conditions] == [
        "clean", "fog", "fog", "weights", "drift", "weights+drift", "fog & weights+drift", "fog & weights+drift",
    ]  # fmt: skip
    out, seen = tmp_path / "shift", list[str]()

    def killed(done: int, total: int, what: str) -> None:
        seen.append(what)
        if what == "weights":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cosoc.evaluate(finished, **asked, out=out, report=killed)
    words = "evaluate", finished, "--corruptions", "fog", "--noise", "weights,drift", "--images", "40", "--out", out
    status, _, err = run(*words, "--severity", "1,5", "--seeds", "2")
    assert status == 2 and "is not empty; choose another --out, or --resume it" in err
    status, _, err = run(*words, "--severity", "1,4", "--seeds", "2", "--resume")
    assert status == 2 and "severities" in err and "resume with the same" in err and len(err.splitlines()) == 1
    status, _, err = run(*words[:-2], "--resume")
    assert status == 2 and "--resume: goes on with an evaluation in --out" in err
    first, again = list(dict.fromkeys(seen)), list[str]()
    resumed = cosoc.evaluate(finished, **asked, out=out, resume=True, report=lambda d, t, what: again.append(what))
    assert first == ["clean", "fog 1", "fog 5", "weights"]
    assert list(dict.fromkeys(again)) == ["weights", "drift", "weights+drift", "fog & weights+drift 1",
                                          "fog & weights+drift 5"]  # fmt: skip
    assert resumed.content() == whole.content() and np.array_equal(resumed.right, whole.right)
    monkeypatch.setattr("cosoc.search.training.shift.right_of", None)  # nothing is evaluated any more
    assert cosoc.evaluate(finished, **asked, out=out, resume=True).content() == whole.content()


def test_rows_stay_few_where_much_is_asked_for(finished: Path) -> None:
    """Each of four corruptions has a row of its own, and under noise all have one together; of one or two each has."""
    found = cosoc.evaluate(finished, corruptions="fog,contrast,snow,frost", severity="3", noise="weights", images=8)
    rows = {name: len(places) for name, places in found.rows()}
    assert list(rows) == ["clean", "fog", "contrast", "snow", "frost", "all corruptions", "weights",
                          "all corruptions & weights"]  # fmt: skip
    assert rows["all corruptions & weights"] == 4 and len(found.content()["conditions"]) == 1 + 4 + 1 + 4


def test_a_run_knows_its_data_again(
    finished: Path, small: TrainingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data that are others by now are split otherwise, so that what was trained on could be tested with: they are
    refused, also where only the classes are in another order, and by a run that goes on."""
    split = data_of(small)
    swapped = replace(split, test=replace(split.test, y=split.test.y.flip(0)))
    fewer = replace(split, train=split.train.at(torch.arange(9)))
    for now, message in ((swapped, r"test: 359 items of other classes"), (fewer, r"train: [\d,]+ items then, 9 now")):
        monkeypatch.setattr("cosoc.search.training.trained.data_of", lambda config, now=now: now)
        with pytest.raises(InputError, match=message):
            read_run(finished)
    shutil.copytree(finished, tmp_path / "run")
    monkeypatch.setattr("cosoc.search.training.space.data_of", lambda config: fewer)
    again = replace(small, out=tmp_path / "run", seeds=2, resume=True, redo="warm_up")
    with pytest.raises(InputError, match=r"split\.json: is another than what is asked for now"):
        search_trained(again, quiet)


@pytest.mark.parametrize("columns", [80, 120, None])
def test_a_table_has_all_mappings_and_their_order_on_any_terminal(columns: int | None) -> None:
    """Nine mappings, as a search with five points has on DIANA: no cell is cut, and nothing is wider than there is
    room; where no screen shows it, it is one table."""
    names = (*(f"point_{i}" for i in range(1, 6)), "all_8bit", "io_8bit_backbone_ternary", "all_ternary", "cheapest")
    conditions = tuple(Asked(("elastic_transform", "fog"), noise=("adc", "weights", "drift")).conditions())
    right = (np.random.default_rng(0).random((len(conditions), len(names), 50)) > 0.4).astype(float)
    heading = {"workload": "a", "soc": "b", "data": "c", "images": 50, "test_images": 50, "severities": [1], "chips": 3}
    found = Shift(heading, names, tuple(right[0].mean(1)), conditions, right, resampled(right, 0, 50))
    text = as_text(found.table(columns), columns or 300)
    for _, places in found.rows():
        order = found.order(places).kendall
        cells = [f"{100 * value:.1f}" for value in found.accuracies(places)]
        assert all(text.count(cell) >= cells.count(cell) for cell in cells)
        assert places == [0] or f"{order.value:+.2f} [{order.low:+.2f}, {order.high:+.2f}]" in text
    assert max(map(len, text.splitlines())) <= (columns or 300) and "order kept" in text
    assert text.count("condition") == {80: 3, 120: 2, None: 1}[columns]


def test_pixels_are_those_of_the_data(finished: Path) -> None:
    data = read_run(finished).data
    pixels = pixels_of(data, data.test.x)
    assert np.allclose(pixels.numpy() * 255, (pixels.numpy() * 255).round(), atol=1e-3)  # 256 grey levels
    assert np.allclose(normalised(data, pixels).numpy(), data.test.x.numpy(), atol=1e-5)
    with pytest.raises(InputError, match="no images with pixels in 0"):
        pixels_of(data, 3 * data.test.x)


def test_training_under_noise_is_read_back_and_resumes(small: TrainingConfig, finished: Path, tmp_path: Path) -> None:
    """Converters that a run has trained with are part of its networks; accuracies in result.json are without noise. A
    kill changes nothing of what is drawn."""
    config = replace(small, manual=("all_ternary",), train_noise=KINDS)
    search_trained(replace(config, out=tmp_path / "whole"), quiet)
    run = read_run(tmp_path / "whole")
    found = evaluate(run, Asked())
    assert found.accuracies([0]).tolist() == list(found.recorded)
    converters = [layer.converter for layer in run.trainings(run.found[0])[0].net.layers.values() if any(layer.analog)]
    assert converters
    assert all(one is not None and one.bits == 6 and one.noise_lsb == 0 for one in converters)

    class Killed(BaseException):
        """What a kill looks like from inside."""

    def kill(done: int, total: int, what: str) -> None:
        if what == "all_ternary.tune":
            raise Killed

    with pytest.raises(Killed):
        search_trained(replace(config, out=tmp_path / "killed"), kill)
    search_trained(replace(config, out=tmp_path / "killed", resume=True), quiet)
    assert (tmp_path / "killed" / "result.json").read_text() == (tmp_path / "whole" / "result.json").read_text()
    plain = read_run(finished)
    (ternary,) = (one for one in plain.found if one.name == "all_ternary")
    with_noise, without = (of.trainings(one)[0].net.layers for of, one in ((run, run.found[0]), (plain, ternary)))
    assert any((with_noise[n].geometry.weight != without[n].geometry.weight).any() for n in without)


def test_correlations_are_scipys_ties_included() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        a, b = rng.integers(0, 5, (2, 7)) / 4
        if len(set(a)) > 1 and len(set(b)) > 1:
            assert float(kendall(a, b)) == pytest.approx(kendalltau(a, b).statistic)
            assert float(spearman(a, b)) == pytest.approx(spearmanr(a, b).statistic)
    assert np.isnan(kendall(np.ones(3), np.arange(3.0)))


def test_intervals_say_how_sure_an_order_is() -> None:
    """Right on 90 % and 50 % of 1,000 images: 25 standard errors apart, so that no resample turns them. Right on two
    thirds of the images, each on others: an order by chance, that every resample draws anew."""
    rng = np.random.default_rng(1)  # not the stream that resamples are drawn of
    apart = np.stack([rng.random(1000) < p for p in (0.9, 0.5)]).astype(float)
    turned = np.stack([rng.random(1000) < p for p in (0.2, 0.6)]).astype(float)
    right = np.stack([apart, turned])
    drawn = resampled(right, seed=0)
    assert drawn.shape == (1000, 2, 2)
    assert drawn.mean(0) == pytest.approx(right.mean(2), abs=4 * 0.5 / np.sqrt(1000 * 1000))
    assert drawn.std(0) == pytest.approx(right.std(2) / np.sqrt(1000), rel=0.1)  # the standard error of a share
    accuracies = right.mean(2)
    same = order(accuracies[0], accuracies[0], drawn[:, 0], drawn[:, 0])
    assert same.kendall.low == same.kendall.high == same.kendall.value == same.spearman.value == 1.0
    assert same.turned == ()
    other = order(accuracies[0], accuracies[1], drawn[:, 0], drawn[:, 1])
    assert other.kendall.low == other.kendall.high == -1.0
    assert other.turned == ((0, 1),)
    assert other.plain(["a", "b"])["turned"] == [["a", "b"]]
    by_chance = np.stack([[rng.random(300) < 2 / 3 for _ in range(2)] for _ in range(2)]).astype(float)
    drawn = resampled(by_chance, seed=0)
    one = order(*by_chance.mean(2), drawn[:, 0], drawn[:, 1])
    assert (one.kendall.low, one.kendall.high) == (-1.0, 1.0)
    assert one.turned == ()


def test_the_command(finished: Path, tmp_path: Path, run: Run) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    files = "--json", tmp_path / "found.json", "--plot", tmp_path / "found.svg"
    asked = "--corruptions", "fog,contrast", "--severity", "1,5", "--noise", "weights", "--seeds", "2"
    status, out, err = run("evaluate", finished, *asked, *files)
    assert status == 0, err
    for word in ("fog", "contrast", "all corruptions", "weights", "all_8bit", "order kept"):
        assert word in out
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["recorded"] == recorded(finished)
    assert [(one["name"], one["severity"]) for one in found["conditions"]] == [
        ("clean", 0), ("fog", 1), ("fog", 5), ("contrast", 1), ("contrast", 5), ("weights", 0),
        ("fog & weights", 1), ("fog & weights", 5), ("contrast & weights", 1), ("contrast & weights", 5),
    ]  # fmt: skip
    assert [one["name"] for one in found["means"]] == [
        "clean", "fog", "contrast", "all corruptions", "weights", "fog & weights", "contrast & weights",
        "all corruptions & weights",
    ]  # fmt: skip
    assert found["noise"]["weight_sigma"] == find_soc("diana").cores["analog"].noise.weight_sigma  # type: ignore[attr-defined]
    assert found["images"] == 359
    again = cosoc.evaluate(finished, corruptions="fog,contrast", severity="1,5", noise="weights", chips=2)
    assert {"run": str(finished)} | again.content() == found
    assert str(again).startswith("digits_cnn on diana, digits: 2 mappings under 9 conditions; best under all ")
    assert (tmp_path / "found.svg").read_text().lstrip().startswith("<?xml")
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before
    status, out, err = run("evaluate", finished, "--noise", "drift", "--images", "50", "-q")
    assert (status, out, err) == (0, "", "")


def test_what_cannot_be_evaluated_is_one_line(finished: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "empty").mkdir()
    for words, said in (
        ((tmp_path / "empty",), "is not the folder of a search"),
        ((finished, "--corruptions", "rain"), "no corruption named 'rain'"),
        ((finished, "--severity", "0..3"), "1..5 is needed"),
        ((finished, "--severity", "x"), "1..5 is needed"),
        ((finished, "--noise", "hum"), "no noise named 'hum'"),
        ((finished, "--seeds", "2"), "--seeds: draws chips for --noise"),
        ((finished, "--noise", "adc", "--severity", "1"), "--severity: is of --corruptions"),
        ((finished, "--images", "1000"), "1000 test images of digits; it has 359"),
        ((finished, "--plot", tmp_path / "a.pdf"), "ends in .png or .svg"),
    ):
        status, out, err = run("evaluate", *words)
        assert (status, out) == (2, ""), words
        assert said in err
        assert len(err.splitlines()) == 1
    assert severities_of("1, 3..5") == (1, 3, 4, 5)


def test_code_that_a_run_names_is_not_run(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sly.py").write_text("raise SystemExit('this ran')\n")
    monkeypatch.syspath_prepend(tmp_path)
    soc = find_soc("diana").model_dump(mode="json", by_alias=True, exclude_unset=True)
    config = {"workload": "sly:make", "space": "channels", "data": "digits", "epochs": 1, "soc": soc}
    folder = tmp_path / "run"
    folder.mkdir()
    Files(folder).write({"config.yaml": yaml.safe_dump(config).encode()}, "start")
    status, _, err = run("evaluate", folder)
    assert status == 2
    assert "the run has not ended" in err
    Files(folder).write({"result.json": b"{}"}, "result")
    status, _, err = run("evaluate", folder)
    assert status == 2
    assert "sly is code" in err
    assert "--trust" in err


def test_noise_asks_for_an_analog_core(run: Run, tmp_path: Path) -> None:
    status, _, err = run(
        "search", "darkside", "digits_cnn", "--train-noise", "adc", "--out", tmp_path / "out", "--epochs", "1"
    )
    assert status == 2
    assert "darkside has no analog core" in err
    status, _, err = run(
        "search", "diana", "resnet8", "--space", "tiles", "--train-noise", "adc", "--out", tmp_path / "out"
    )
    assert status == 2
    assert "--train-noise" in err
    assert not (tmp_path / "out").exists()
