"""Is a search of tiles and groups reported as simulated, kept on the disk, resumed, and refused where it must be?"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cosoc.cli import main
from cosoc.search.exact.tiles import best_plan
from cosoc.search.spaces.tiles import Cost, Single, Space
from cosoc.search.tiling_run import TilingConfig, check, plan_from, plan_json, search_tiling
from cosoc.search.tiling_simulate import Pieces, piece_terms, predicted, refit, simulated, simulated_cost
from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.mapping_file import load_mapping
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.model.workload import Layer, Workload
from cosoc.sim.movers.cached_terms import CachedTheta, Machine

SOC = find_soc("gemmini")
DIGITS = find_workload("digits_cnn")


def config(out: Path, **changes: object) -> TilingConfig:
    return replace(TilingConfig(SOC, DIGITS, out=out, starts=6, steps=6), **changes)  # type: ignore[arg-type]


def quiet(done: int, total: int, what: str) -> None:
    """No progress."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    folder = tmp_path_factory.mktemp("run") / "whole"
    told: list[tuple[int, int]] = []
    content = search_tiling(config(folder), lambda done, total, what: told.append((done, total))).content
    assert told == [(i + 1, 12) for i in range(12)]
    return folder, content


def test_what_is_reported_is_what_the_mapping_on_disk_simulates_to(whole: tuple[Path, dict[str, object]]) -> None:
    folder, content = whole
    mapping = load_mapping(folder / "mappings" / "best.yaml", DIGITS, SOC)
    found = simulated_cost(DIGITS, mapping, SOC)
    row = content["simulated"]
    assert isinstance(row, dict)
    assert row["energy_j"] == pytest.approx(found.energy_pj * 1e-12)
    assert row["seconds"] == pytest.approx(found.cycles / SOC.tick_hz)
    assert row["edp"] == pytest.approx(row["energy_j"] * row["seconds"])
    assert json.loads((folder / "result.json").read_text()) == json.loads(json.dumps(content))
    assert (folder / "history.png").stat().st_size > 0


def test_the_gap_is_to_the_proven_optimum(whole: tuple[Path, dict[str, object]]) -> None:
    _, content = whole
    space = Space(DIGITS, Machine.of(SOC), CachedTheta(**content["theta"]))  # type: ignore[arg-type]
    optimum = best_plan(space, "edp")
    plan = plan_from(content["plan"])  # type: ignore[arg-type]
    assert space.complete(plan)
    assert content["gap"] == pytest.approx(space.cost(plan).of("edp") / optimum.value - 1)
    assert 0 <= content["gap"] < 0.05  # type: ignore[operator]


def test_a_broken_run_leaves_its_best_and_goes_on_as_an_unbroken_one(
    whole: tuple[Path, dict[str, object]], tmp_path: Path
) -> None:
    """Ctrl-C in the second round: the mapping is there and loads; resumed, the result is the unbroken run's."""

    def stop(done: int, total: int, what: str) -> None:
        if done == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search_tiling(config(tmp_path / "r"), stop)
    load_mapping(tmp_path / "r" / "mappings" / "best.yaml", DIGITS, SOC)
    resumed = search_tiling(config(tmp_path / "r", resume=True), quiet).content
    unbroken = {key: value for key, value in whole[1].items() if key not in ("time_s", "history")}
    assert {key: resumed[key] for key in unbroken} == unbroken


def test_a_time_budget_is_kept_and_gives_a_plan(tmp_path: Path) -> None:
    content = search_tiling(config(tmp_path / "r", time_budget_s=0.5, objective="latency"), quiet).content
    assert content["plan"]
    assert content["objective"] == "latency"


def test_plans_survive_json() -> None:
    plan = best_plan(Space(DIGITS, Machine.of(SOC)), "edp").plan
    assert plan.groups
    assert plan_from(json.loads(json.dumps(plan_json(plan)))) == plan


def test_refitting_finds_the_theta_that_made_the_figures() -> None:
    """Plans "simulated" by the closed form under another theta: predictions meet them again after the fit."""
    truth = CachedTheta(unhidden=0.35, reload_miss=0.9, load=1.2)
    space = Space(DIGITS, Machine.of(SOC))
    plans = [best_plan(space, o, fusion).plan for o in ("edp", "latency", "energy") for fusion in (True, False)]
    pieces = {piece: piece_terms(space, piece) for plan in plans for piece in plan.pieces}
    seen = {piece: Cost(1.0, predicted(space, [t], truth)) for piece, t in pieces.items()}
    fitted = refit(space, seen)

    def error(theta: CachedTheta) -> float:
        return max(abs(predicted(space, [t], theta) / seen[piece].cycles - 1) for piece, t in pieces.items())

    assert error(fitted) < 0.02 < error(CachedTheta())


def test_the_best_of_simulated_pieces_is_best_simulated() -> None:
    """Of the given plan and the neighbours of its pieces: no slower, simulated whole, than the plan itself."""
    space = Space(DIGITS, Machine.of(SOC))
    plan = best_plan(space, "edp").plan
    pieces = Pieces(space, SOC)
    better = pieces.best([plan], "edp", 3, float("inf"))
    assert space.complete(better)
    assert simulated(space, SOC, better).cost.of("edp") <= simulated(space, SOC, plan).cost.of("edp") * 1.005
    alone = [pieces.cost(piece) for piece in plan.pieces]
    whole = simulated(space, SOC, plan).cost
    assert sum(c.cycles for c in alone if c) == pytest.approx(whole.cycles, rel=0.1)  # caches apart
    assert sum(c.energy_pj for c in alone if c) == pytest.approx(whole.energy_pj)


def test_a_small_product_comes_near_to_the_simulated_optimum(tmp_path: Path) -> None:
    """64 x 64 x 64: every tile of at least 16 under every order through the simulator; what the search finds is within
    two per cent of the best of them."""
    layer = Layer("gemm", "conv", ("input",), 64, 64, ox=64, ix=64)
    workload = Workload("gemm", (64, 1, 64), (layer,), ("gemm",))
    space = Space(workload, Machine.of(SOC))
    pieces = Pieces(space, SOC)
    every = [
        pieces.cost(Single(0, (k, c, 1, 1, 1, x), order))
        for k in (16, 32, 64) for c in (16, 32, 64) for x in (16, 32, 64) for order in range(3)
    ]  # fmt: skip
    least = min(cost.of("edp") for cost in every if cost is not None)
    content = search_tiling(config(tmp_path / "r", workload=workload), quiet).content
    found = plan_from(content["plan"])
    assert simulated(space, SOC, found).cost.of("edp") <= 1.02 * least


def test_predictions_are_the_plans_costs() -> None:
    space = Space(DIGITS, Machine.of(SOC))
    plan = best_plan(space, "edp").plan
    parts = [piece_terms(space, piece) for piece in plan.pieces]
    assert predicted(space, parts, space.theta) == pytest.approx(space.cost(plan).cycles)
    seen = simulated(space, SOC, plan)
    assert seen.estimated == space.cost(plan)
    assert seen.cost.cycles == pytest.approx(seen.estimated.cycles, rel=0.2)
    pieces = Pieces(space, SOC)
    fitted = refit(space, {piece: cost for piece in plan.pieces if (cost := pieces.cost(piece))})
    assert seen.cost.cycles == pytest.approx(predicted(space, parts, fitted), rel=0.05)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"time_budget_s": 0.0}, "time budget 0.0: a positive number of seconds is needed"),
        ({"time_budget_s": float("nan")}, "time budget nan: a positive number"),
        ({"objective": "area"}, "objective 'area': edp, latency or energy is needed"),
        ({"device": "tpu"}, "device 'tpu': cpu or cuda is needed"),
        ({"starts": 0}, "starts is 0; at least 1 is needed"),
        ({"soc": find_soc("diana")}, "diana has 0 cores of model systolic"),
    ],
)
def test_nonsense_is_refused_before_anything_is_written(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        search_tiling(config(tmp_path / "r", **changes), quiet)
    assert not (tmp_path / "r").exists()


def test_a_layer_that_fits_nowhere_is_refused() -> None:
    small = find_soc("gemmini", {"memories.accumulator.size_bytes": "64"})
    with pytest.raises(
        InputError, match="layer conv1: its smallest tile needs 1 rows of accumulator, 1 more than the 0"
    ):
        check(config(Path("r"), soc=small))


def test_the_command_line_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["search", "gemmini", "digits_cnn", "--space", "tiling-fusion", "--out", str(tmp_path / "r"), "-q"]
    assert main([*words, "--time-budget", "-1"]) == 2
    assert "time budget -1.0" in capsys.readouterr().err
    assert main([*words, "--epochs", "3"]) == 2
    assert "--epochs: means nothing with --space tiling-fusion" in capsys.readouterr().err
    assert main(["search", "diana", "resnet8", "--objective", "edp", "--out", str(tmp_path / "r")]) == 2
    assert "--objective edp: goes with --space tiling-fusion" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()
