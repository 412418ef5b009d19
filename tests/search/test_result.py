"""One record of figures, one table of objectives, one result: for every space, of the file that it wrote."""

from __future__ import annotations

import io
import itertools
import json
import math
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from cosoc.cli import main
from cosoc.search.front import half_width, hypervolume
from cosoc.search.oracle import Oracle
from cosoc.search.picture import overlap, places, plot
from cosoc.search.result import Found, Result, result_from
from cosoc.search.space import Optimum
from cosoc.search.spaces.shares import ShareCosts, SoftFigures
from cosoc.search.training.recipe import find_recipe
from cosoc.search.training.space import TrainingConfig, search_trained
from cosoc.search.training.task import MSE
from cosoc.sim.errors import InputError
from cosoc.sim.figures import OBJECTIVES, Figures, objective
from cosoc.sim.files.catalog import find_soc, load_soc
from cosoc.sim.files.mapping_file import find_mapping
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.model.mapping import Part
from cosoc.sim.report.memory_use import memory_use
from cosoc.sim.simulate import figures, simulate
from cosoc.sim.tiler import weight_bytes

MIXED = Path(__file__).parent / "mixed.yaml"


def quiet(done: int, total: int, what: str) -> None:
    """No progress."""


# ------------------------------------------------------------------------------------------ figures


@pytest.mark.parametrize(
    ("soc", "network", "mapping"),
    [
        ("diana", "resnet8", "min_cost"),
        ("diana", "mobilenet_v1_025", "default"),
        ("darkside", "mobilenet_v1", "all_8bit"),
        ("gemmini", "resnet8", "default"),
        ("isaac", "resnet8", "default"),
        ("jetson_nano", "resnet18", "default"),
    ],
)
def test_figures_are_those_of_the_whole_simulation(soc: str, network: str, mapping: str) -> None:
    """Time and energy to the last digit; the peak is that of the main memory's occupancy over time."""
    machine, workload = find_soc(soc), find_workload(network)
    placed = find_mapping(mapping, workload, machine)
    result, found = simulate(machine, workload, placed), figures(machine, workload, placed)
    assert (found.latency_s, found.energy_j) == (result.seconds, result.energy_j)
    assert found.throughput == 1 / result.seconds
    use = {one.memory: one for one in memory_use(result, machine, workload, placed)}
    assert found.peak_bytes == use[machine.main_memory].bytes.max() <= use[machine.main_memory].capacity_bytes


def test_an_objective_is_a_product_of_powers() -> None:
    f = Figures(latency_s=2.0, energy_j=3.0, peak_bytes=5, throughput=0.5)
    assert {name: value(f) for name, value in OBJECTIVES.items()} == {
        "latency": 2.0, "energy": 3.0, "edp": 6.0, "peak": 5, "throughput": 2.0,
    }  # fmt: skip
    assert objective("latency*energy^2")(f) == 2 * 9
    assert objective(" peak ^ 0.5 * throughput")(f) == pytest.approx(math.sqrt(5) * 2)


@pytest.mark.parametrize("text", ["", "speed", "latency+energy", "latency^", "latency^-1", "latency^nan", "latency*"])
def test_what_is_no_objective_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="latency, energy, edp, peak, throughput are needed"):
        objective(text)


def test_an_objective_of_soft_figures_has_the_gradient_of_its_factors() -> None:
    """Of latency times energy squared: each factor's derivative by hand."""
    x, y = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (2.0, 3.0))
    objective("latency*energy^2")(SoftFigures(x, y, x, y)).backward()
    assert (float(x.grad), float(y.grad)) == (9.0, 12.0)  # type: ignore[arg-type]


def test_soft_peaks_follow_the_weights() -> None:
    """The slope is what a channel on the one core takes more than on the other (the analog array stores whole columns);
    at whole channels the estimate is the sum that the simulation has."""
    soc, workload = find_soc("diana"), find_workload("digits_cnn")
    costs = ShareCosts(workload, soc, "serial")
    counts = {"conv2": {"digital": 32, "analog": 0}}
    assert costs.estimated(counts).peak_bytes == costs.simulated(counts).peak_bytes
    k = torch.tensor(32.0, requires_grad=True)
    peak = costs.figures({"conv2": {"digital": k, "analog": 32 - k}}).peak_bytes
    peak.backward()  # type: ignore[no-untyped-call]
    layer, per_channel = workload["conv2"], dict[str, float]()
    for core in ("digital", "analog"):
        per_channel[core] = weight_bytes(layer, soc, (Part(core, layer.k),)) / layer.k
    assert k.grad is not None and float(k.grad) == per_channel["digital"] - per_channel["analog"] != 0


def test_the_oracle_simulates_each_program_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a mapping is called, and though it says less: the program is the same."""
    soc, workload = find_soc("diana"), find_workload("digits_cnn")
    oracle, runs = Oracle(soc, workload), list[str]()

    def counted(*args: Any, **more: Any) -> Figures:
        runs.append("run")
        return Figures(1.0, 1.0, 1, 1.0)

    monkeypatch.setattr("cosoc.sim.price.program_figures", counted)
    mapping = find_mapping("all_8bit", workload, soc)
    for again in (mapping, oracle.whole(mapping), replace(mapping, name="other")):
        oracle.simulate(again)
    assert len(runs) == 1
    oracle.simulate(replace(mapping, runtime="overlapped"))
    assert len(runs) == 2


# ------------------------------------------------------------------------------------------ results


def found(name: str, ms: float, mj: float, known: bool = False, accuracy: float | None = None) -> Found:
    return Found(name, f"mappings/{name}.yaml", Figures(ms, mj, 1, 1 / ms), accuracy=accuracy, known=known)


HEADING = {"soc": "chip", "workload": "net", "space": "tiles", "seed": 0}


def test_front_best_and_hypervolume_by_hand() -> None:
    """Three points: (1, 4) and (2, 2) are not dominated, (3, 3) is, by the second. Beyond 1.1 times the worst, 3.3 and
    4.4, nothing counts: strips of (3.3 - 1) x (4.4 - 4) and (3.3 - 2) x (4 - 2)."""
    result = Result(HEADING, "latency", (found("a", 1, 4), found("b", 2, 2, known=True), found("c", 3, 3)))
    content = result.content()
    assert content["front"] == ["a", "b"] and content["best"] == "a"
    assert [p["name"] for p in content["points"]] == ["a", "c"] and [p["name"] for p in content["known"]] == ["b"]
    assert content["hypervolume"]["value"] == pytest.approx(2.3 * 0.4 + 1.3 * 2)
    assert hypervolume([(1, 4), (2, 2)], (3.3, 4.4)) == pytest.approx(content["hypervolume"]["value"])
    assert replace(result, objective="energy").best.name == "b"  # never worse than what is known
    assert replace(result, objective="latency*energy").content()["best"] in ("a", "b")


def test_of_trained_networks_the_accuracy_is_the_other_axis() -> None:
    """A point that is dearer and as accurate is dominated, by a manual mapping too, and then not shown as found; the
    best is one that was found and is not dominated."""
    rows = (found("a", 2, 1, accuracy=0.9), found("b", 3, 1, accuracy=0.95), found("m", 1, 1, True, accuracy=0.9))
    content = Result(HEADING, "latency", rows).content()
    assert content["front"] == ["m", "b"] and content["axes"] == ["latency", "accuracy"] and content["best"] == "b"
    assert content["beaten"] == {"a": "m"} and [row["name"] for row in content["points"]] == ["a", "b"]
    said = io.StringIO()
    table = Result(HEADING, "latency", rows).table()
    assert "\n" not in str(table.caption)  # which a terminal would be shown as an escape
    Console(file=said, width=120).print(table)
    assert not re.search(r"^ *a ", said.getvalue(), re.M) and "not shown: a (beaten by m)" in said.getvalue()


def test_an_error_is_to_be_small_and_is_shown_as_what_it_is(tmp_path: Path) -> None:
    """By hand: of two mappings as fast, the one with the smaller error is on the front; the reference, slower and with
    more of it, is not. Each axis from its best value: errors from none."""
    rows = tuple(
        replace(found(name, ms, 1, known, accuracy=mse), metric=MSE)
        for name, ms, known, mse in (("a", 2, False, 0.5), ("b", 2, False, 0.25), ("ref", 3, True, 0.75))
    )
    about = {"reference_name": "ref", "metric": MSE.plain()}
    result = Result(HEADING, "latency", rows, about=about)
    content = result.content()
    assert content["front"] == ["b"] and content["axes"] == ["latency", "mse"] and content["beaten"] == {"a": "b"}
    assert content["hypervolume"]["value"] == pytest.approx((3.3 - 2) * (0.825 - 0.25))
    assert [row["mse"] for row in content["points"]] == [0.5, 0.25] and "accuracy" not in content["points"][0]
    assert content["claims"] == [
        "the reference ref (0.75) is not on the front: b has as little (0.25) at no more latency"
    ]
    assert "mse 0.25" in repr(result) and result.metric.label == "test mse"
    assert result_from(json.loads(json.dumps(content))).content() == content
    plot(result)


def test_better_is_said_where_intervals_are_apart() -> None:
    """Student's t for three values is 4.3027 at 95 % (any table): the mean of 1, 2, 3 lies within 4.3027 / sqrt(3).
    Accuracies of 0.90 +- 0.0025 and 0.95 +- 0.0025 are apart, those of 0.90 and 0.94 +- 0.25 are not."""
    assert half_width((1.0, 2.0, 3.0)) == pytest.approx(4.3027 / math.sqrt(3), rel=1e-4)
    assert half_width((1.0,)) == math.inf
    sure, vague = (0.949, 0.95, 0.951), (0.84, 0.94, 1.04)
    rows = (
        replace(found("all_8bit", 1, 1, True, accuracy=0.9), accuracies=(0.899, 0.9, 0.901)),
        replace(found("a", 3, 1, accuracy=0.95), accuracies=sure),
        replace(found("b", 2, 1, accuracy=0.94), accuracies=vague),
    )
    result = Result(HEADING, "latency", rows, about={"reference_name": "all_8bit"})
    on, against = result.claims()
    assert on == "the reference all_8bit (90.00%) is on the front"
    assert against.endswith("by intervals: a above it; b not to be told from it")
    rows = (replace(rows[0], simulated=rows[1].simulated), *rows[1:])
    (off, _) = Result(HEADING, "latency", rows, about={"reference_name": "all_8bit"}).claims()
    assert "all_8bit (90.00%) is not on the front: b has as much (94.00%, by means) at no more latency" in off
    (missing,) = Result(HEADING, "latency", rows[1:], about={"reference_name": "all_8bit"}).claims()
    assert "was not trained" in missing


def test_labels_do_not_overlap() -> None:
    """Ten markers in a heap, some at one place, in a picture of 600 x 400 pixels: every label that is placed is inside,
    and has no area in common with another, with a marker, or with the legend."""
    markers = [(300.0 + 9 * (i % 4), 200.0 + 4 * (i // 4)) for i in range(9)] + [(300.0, 200.0)]
    legend = (10.0, 300.0, 150.0, 390.0)
    boxes = places([*markers, (20.0, 20.0)], [(90.0, 12.0)] * 10, (0.0, 0.0, 600.0, 400.0), [legend])
    placed = [box for box in boxes if box is not None]
    assert len(boxes) == 10 and len(placed) >= 8
    for box in placed:
        assert box[0] >= 0 and box[2] <= 600 and box[1] >= 0 and box[3] <= 400 and not overlap(box, legend)
        assert not any(box[0] < u < box[2] and box[1] < v < box[3] for u, v in markers)
    assert not any(overlap(a, b) for a, b in itertools.combinations(placed, 2))


def test_a_gap_is_of_estimates() -> None:
    """The best one's estimate against the bound that the estimate has."""
    one = replace(found("a", 1.2, 1), estimated=Figures(1.1, 1, 1, 1))
    content = Result(HEADING, "latency", (one,), Optimum(Figures(1.05, 1, 1, 1), 1.0)).content()
    assert content["gap"] == pytest.approx(0.1) and content["bound"] == 1.0


def test_a_result_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    result = Result(HEADING, "edp", (found("a", 1, 4), found("b", 2, 2, known=True)), about={"x": [1]})
    (tmp_path / "result.json").write_text(result.text())
    again = result_from(json.loads((tmp_path / "result.json").read_text()))
    assert again == result and again.content() == result.content()
    assert plot(result).startswith(b"\x89PNG")


# ------------------------------------------------------------------------------------------ every space

SPACES = {
    "channels": ["diana", "digits_cnn", "--epochs", "3", "--strengths", "1"],
    "operators": ["darkside", "digits_cnn", "--space", "operators", "--epochs", "3", "--strengths", "1"],
    "tiles": ["diana", "digits_cnn", "--space", "tiles"],
    "tiles behind caches": ["gemmini", "digits_cnn", "--space", "tiles"],
    "splits": ["homogeneous_gpu_2", "digits_cnn", "--space", "splits", "--inferences", "40"],
}


@pytest.mark.parametrize("space", SPACES)
def test_what_is_reported_is_what_simulate_says_of_the_file(space: str, tmp_path: Path) -> None:
    """To the last digit, for all that a search wrote, known mappings too; and none known is better than the best."""
    words, out = SPACES[space], tmp_path / "run"
    assert main(["search", *words, "--out", str(out), "--quiet"]) == 0
    content = json.loads((out / "result.json").read_text())
    rows = content["points"] + content["known"]
    assert content["known"] and {row["name"] for row in rows} >= set(content["front"])
    rates = ["--inferences", "40"] if space == "splits" else []
    network = str(out / "workload.yaml")  # channels and operators train a network of their own making
    for row in content["points"][:3] + content["known"][:2]:
        again = tmp_path / "again.json"
        file = str(out / row["mapping"])
        assert main(["simulate", words[0], network, "--mapping", file, "--json", str(again), "-q", *rates]) == 0
        said, mine = json.loads(again.read_text()), row["simulated"]
        seconds = said["fill_s"] if space == "splits" else said["seconds"]
        assert (mine["latency_s"], mine["energy_j"]) == (seconds, said["energy_j"])
        assert mine["edp"] == mine["latency_s"] * mine["energy_j"]
        assert mine["throughput"] == (said["throughput"] if space == "splits" else 1 / seconds)
    result = result_from(content)
    if not result.trained:
        assert result.value(result.best.simulated) == min(result.value(one.simulated) for one in result.found)


@pytest.mark.parametrize("goal", [*OBJECTIVES, "latency*energy^2"])
def test_training_takes_every_objective(goal: str, tmp_path: Path) -> None:
    config = TrainingConfig(
        find_soc("diana"), "digits_cnn", objective=goal, strengths=(3.0,), epochs=3, train_images=96, manual=(),
        out=tmp_path / "run", recipe=find_recipe("default", {"batch": "32"}),
    )  # fmt: skip
    result = search_trained(config, quiet)
    assert [one.name for one in result.found] == ["strength_3"] and result.objective == goal
    assert math.isfinite(result.value(result.best.simulated))


def test_channels_of_a_chip_with_a_systolic_array_beside_other_cores(tmp_path: Path) -> None:
    """Both arrays, behind caches and behind a DMA, share the channels of a layer; what is reported is simulated."""
    soc = load_soc(MIXED)
    config = TrainingConfig(
        soc,
        "digits_cnn",
        strengths=(0.0,),
        epochs=3,
        train_images=96,
        out=tmp_path / "run",
        recipe=find_recipe("default", {"batch": "32"}),
        manual=(),
    )
    (one,) = search_trained(config, quiet).found
    oracle = Oracle(soc, find_workload("digits_cnn"))
    mapping = oracle.read(tmp_path / "run" / one.mapping)
    cores = {part.core for plan in mapping.layers.values() for part in plan.parts if part.channels}
    assert cores <= {"gemmini", "digital", "vector", "host"}
    assert asdict(oracle.simulate(mapping)) == asdict(one.simulated)
    costs = ShareCosts(oracle.workload, soc, "overlapped")
    both = {"conv2": {"gemmini": 16, "digital": 16}}
    assert costs.simulated(both).latency_s == pytest.approx(costs.estimated(both).latency_s, rel=0.25)


# ------------------------------------------------------------------------------------------ messages


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["diana", "net.onnx"],
            "net.onnx: --space channels trains the network, so it needs a torch module, not a file",
        ),
        (["diana", "net.yaml"], "--space tiles and channels+tiles take files"),
        (["diana", "net.onnx", "--space", "tiles"], "net.onnx: cannot be read: No such file"),
        (["gemmini", "digits_cnn"], "no layer has two cores to choose between (gemmini alone can compute them)"),
        (["rpi4", "digits_cnn"], "no layer has two cores to choose between (cpu alone can compute them)"),
        (["donna_hetero", "digits_cnn"], "donna_hetero is a cluster, and a SoC is needed here"),
        (["diana", "resnet8", "--space", "splits"], "diana is one SoC, and a cluster is needed here"),
        (["diana", "resnet8", "--objective", "speed"], "objective 'speed': found 'speed'; latency, energy, edp, peak"),
        (["diana", "resnet8", "--space", "tiles", "--epochs", "3"], "--epochs: means nothing with --space tiles"),
        (["rpi4", "digits_cnn", "--space", "tiles"], "nothing to choose"),
    ],
)
def test_what_cannot_be_searched_is_said_in_a_line(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", *words, "--out", str(tmp_path / "run")]) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1
    assert not list(tmp_path.rglob("*.yaml"))  # no run was begun
