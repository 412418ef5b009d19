"""A whole search on the digits: what it leaves behind, what it refuses, and that a kill changes nothing."""

import json
import multiprocessing
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cosoc.search.manifest import MANIFEST
from cosoc.search.spaces.shares import Key, ShareCosts
from cosoc.search.targets import Target
from cosoc.search.training import beside
from cosoc.search.training.beside import Beside
from cosoc.search.training.compute import Compute
from cosoc.search.training.nets import build
from cosoc.search.training.recipe import find_recipe
from cosoc.search.training.space import TrainingConfig, search_trained
from cosoc.sim.errors import InputError
from cosoc.sim.figures import Figures
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.mapping_file import load_mapping
from cosoc.sim.importers.torch_export import from_module
from cosoc.sim.model.mapping import LayerPlan
from cosoc.sim.simulate import simulate


class Killed(BaseException):
    """What a kill looks like from inside: nothing catches it."""


def quiet(done: int, total: int, what: str) -> None:
    pass


@pytest.fixture(scope="module")
def tiny() -> TrainingConfig:
    return TrainingConfig(
        soc=find_soc("diana"), workload="digits_cnn", data="digits", strengths=(1.0,), epochs=5, train_images=192,
        manual=("all_8bit", "all_ternary"), recipe=find_recipe("default", {"batch": "32"}),
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(tiny: TrainingConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "whole"
    search_trained(replace(tiny, out=out), quiet)
    return out


def test_every_reported_latency_is_the_simulation_of_the_mapping_beside_it(finished: Path) -> None:
    content = json.loads((finished / "result.json").read_text())
    soc, workload = find_soc("diana"), from_module(build("digits_cnn"), (1, 8, 8), "digits_cnn")
    rows = content["points"] + content["known"]
    assert [row["name"] for row in rows] == ["strength_1", "all_8bit", "all_ternary"]
    for row in rows:
        mapping = load_mapping(finished / row["mapping"], workload, soc)
        result = simulate(soc, workload, mapping)
        assert row["simulated"]["latency_s"] == result.seconds
        assert row["simulated"]["energy_j"] == pytest.approx(result.energy_j, rel=1e-12)
        assert 0 < row["estimated"]["latency_s"] < 10 * result.seconds
        assert 0 <= row["accuracy"] <= 1


def test_simulations_in_a_process_beside_training_change_nothing(
    tiny: TrainingConfig, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file that a run keeps has the digest that it has where all was simulated in line; no process is left."""
    given, take = list[Figures | None](), Beside.take

    def counted(self: Beside, key: Key) -> Figures | None:
        given.append(take(self, key))
        return given[-1]

    monkeypatch.setattr(beside, "BEGINNING_S", 0.0)
    monkeypatch.setattr(Beside, "take", counted)
    search_trained(replace(tiny, compute=Compute(jobs=1), out=tmp_path / "run"), quiet)
    assert any(given)
    assert not multiprocessing.active_children()
    assert (tmp_path / "run" / MANIFEST).read_bytes() == (finished / MANIFEST).read_bytes()


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (BrokenProcessPool("a worker was killed"), "was killed, by a signal or for want of memory; --resume goes on"),
        (ValueError("odd\nthing"), "simulating beside training: ValueError: odd thing"),
    ],
)
def test_what_ends_a_simulation_beside_training_is_told_in_one_line(failure: Exception, told: str) -> None:
    soc, workload = find_soc("diana"), from_module(build("digits_cnn"), (1, 8, 8), "digits_cnn")
    ahead, future = Beside(ShareCosts(workload, soc, "overlapped"), 1, None), Future[Figures | None]()
    future.set_running_or_notify_cancel()
    future.set_exception(failure)
    ahead._under_way[()] = future
    with pytest.raises(InputError) as refusal:
        ahead.take(())
    assert told in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_the_folder_has_what_it_takes_to_read_it(finished: Path) -> None:
    assert (finished / "front.png").stat().st_size > 10_000
    metrics = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert {m["phase"] for m in metrics} >= {"warm_up", "strength_1.search", "strength_1.tune", "all_8bit.tune"}
    pairs = [m for m in metrics if "estimated" in m]
    assert pairs
    assert all("simulated" in m for m in pairs)
    assert set(torch.load(finished / "weights" / "strength_1.tune.pt", weights_only=True))
    assert not (finished / "checkpoint.pt").exists()


@pytest.mark.parametrize("killed_at", [1, 3, 4, 6])
def test_a_killed_run_resumes_to_the_same_result(
    tiny: TrainingConfig, finished: Path, tmp_path: Path, killed_at: int
) -> None:
    out = tmp_path / "killed"

    def kill(done: int, total: int, what: str) -> None:
        if done == killed_at:
            raise Killed

    with pytest.raises(Killed):
        search_trained(replace(tiny, out=out), kill)
    (out / "metrics.jsonl.part").write_text('{"phase": "torn')  # what a kill in the middle of a write leaves
    search_trained(replace(tiny, out=out, resume=True), quiet)
    assert json.loads((out / "result.json").read_text()) == json.loads((finished / "result.json").read_text())


def test_another_configuration_is_not_resumed(tiny: TrainingConfig, finished: Path) -> None:
    with pytest.raises(InputError, match=r"the run has seed 0, now 1 is asked for"):
        search_trained(replace(tiny, out=finished, resume=True, seed=1), quiet)
    with pytest.raises(InputError, match="exists and is not empty"):
        search_trained(replace(tiny, out=finished), quiet)


def test_a_damaged_checkpoint_is_named(tiny: TrainingConfig, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"

    def kill(done: int, total: int, what: str) -> None:
        raise Killed

    with pytest.raises(Killed):
        search_trained(replace(tiny, out=out), kill)
    (out / "checkpoint.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match=r"checkpoint\.pt: is not what the run wrote; --resume --redo warm_up does"):
        search_trained(replace(tiny, out=out, resume=True), quiet)
    again = search_trained(replace(tiny, out=out, resume=True, redo="warm_up"), quiet).content()
    assert again == json.loads((finished / "result.json").read_text())


def test_a_target_is_met_by_simulation(tiny: TrainingConfig, tmp_path: Path) -> None:
    target_ms = 0.0148  # all 8 bit takes 0.0162 ms, the fastest manual mapping 0.0137 ms
    found = search_trained(
        replace(
            tiny,
            out=tmp_path / "run",
            strengths=(),
            targets=(Target("latency", target_ms * 1e-3),),
            manual=("all_8bit",),
        ),
        quiet,
    )
    (point,) = found.content()["points"]
    assert point["simulated"]["latency_s"] * 1e3 <= target_ms
    (slowest,) = found.content()["known"]
    assert slowest["simulated"]["latency_s"] * 1e3 > target_ms


def test_a_search_places_its_points_and_trains_them_so_often(tiny: TrainingConfig, tmp_path: Path) -> None:
    """Two trainings of each of both ends and a point between them, in cost too; all that was announced is done; and a
    kill within the point changes nothing, as where it lies follows from what was found before."""
    wanted = replace(tiny, strengths=(), points=1, seeds=2, epochs=2, manual=(), out=tmp_path / "whole")
    told: list[tuple[int, int, str]] = []
    content = search_trained(wanted, lambda *said: told.append(said)).content()
    assert told[-1][0] == told[-1][1]
    assert [row["name"] for row in content["known"]] == ["all_8bit", "cheapest"]
    rows = {row["name"]: row for row in content["points"] + content["known"]}
    for row in rows.values():
        assert len(row["accuracies"]) == 2 and row["accuracy"] == sum(row["accuracies"]) / 2
        apart = abs(row["accuracies"][0] - row["accuracies"][1])
        assert row["accuracy_interval"] == pytest.approx(12.706 * apart / 2, rel=1e-3)  # t of two values; any table
    assert any("all_8bit" in claim for claim in content["claims"])
    least, most = (rows[name]["simulated"]["latency_s"] for name in ("cheapest", "all_8bit"))
    (point,) = content["points"]
    assert least < point["simulated"]["latency_s"] <= point["about"]["bound"] == pytest.approx((least + most) / 2)
    assert (wanted.out / "weights" / "point_1.seed_1.tune.pt").exists()
    search_from = next(done for done, _, what in told if what == "point_1.search")

    def kill(done: int, total: int, what: str) -> None:
        if done == search_from:
            raise Killed

    again = replace(wanted, out=tmp_path / "killed")
    with pytest.raises(Killed):
        search_trained(again, kill)
    search_trained(replace(again, resume=True), quiet)
    assert json.loads((again.out / "result.json").read_text()) == content


def test_what_cannot_be_searched_is_refused_before_training(tiny: TrainingConfig, tmp_path: Path) -> None:
    out = tmp_path / "run"
    for change, message in [
        ({"targets": (Target("latency", 1e-7),), "strengths": ()}, "under the nearest mapping that was found"),
        ({"workload": "digits_cn"}, "no network named 'digits_cn'"),
        ({"workload": "autoencoder"}, "no classifier"),
        ({"input_shape": (1, 3, 8, 8)}, "the images of digits are"),
    ]:
        with pytest.raises(InputError, match=message):
            search_trained(replace(tiny, out=out, **change), quiet)  # type: ignore[arg-type]
        assert not out.exists()


@pytest.mark.parametrize("estimator", ["montecarlo", "score"])
def test_the_other_estimators_search_too(tiny: TrainingConfig, tmp_path: Path, estimator: str) -> None:
    wanted = replace(tiny, out=tmp_path / "run", estimator=estimator, manual=())  # type: ignore[arg-type]
    (point,) = search_trained(wanted, quiet).content()["points"]
    assert point["simulated"]["latency_s"] > 0


def test_a_chain_trains_shares_in_their_best_tiles(tiny: TrainingConfig, tmp_path: Path) -> None:
    """On a chip whose scratchpad holds some rows, the same shares take no longer in the tiles of the chain than in the
    tiler's, and what is reported is the simulation of the file."""
    soc = find_soc("diana", {"memories.l1.size_bytes": "14336"})
    workload = from_module(build("digits_cnn"), (1, 8, 8), "digits_cnn")
    wanted = replace(tiny, soc=soc, out=tmp_path / "run", inner=("tiles",), epochs=1, train_images=32, seeds=1)
    content = search_trained(wanted, quiet).content()
    for row in (*content["points"], *content["known"]):
        mapping = load_mapping(tmp_path / "run" / row["mapping"], workload, soc)
        parts = {name: tuple(replace(p, tile=None) for p in plan.parts) for name, plan in mapping.layers.items()}
        bare = replace(mapping, layers={name: LayerPlan(own) for name, own in parts.items()})
        assert row["simulated"]["latency_s"] == simulate(soc, workload, mapping).seconds
        assert row["simulated"]["latency_s"] <= simulate(soc, workload, bare).seconds
