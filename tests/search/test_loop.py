"""The simulator in the loop: estimates that follow it, targets that hold by simulation, strengths that trade."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cosoc.search.spaces.shares import Counts, ShareCosts, Tangent
from cosoc.search.targets import Target
from cosoc.search.terms import network_estimate
from cosoc.search.training.space import TrainingConfig, search_trained
from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.mapping_file import load_mapping
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.simulate import simulate
from cosoc.sim.theta import Theta

DIANA = find_soc("diana")
CNN = find_workload("digits_cnn")
LAYERS = {layer.name: layer.k for layer in CNN if layer.op == "conv"}


def split(first: float) -> Counts:
    """Every layer with that part of its channels on the digital core."""
    on_digital = {name: round(first * k) for name, k in LAYERS.items()}
    return {name: {"digital": n, "analog": LAYERS[name] - n} for name, n in on_digital.items()}


def quiet(done: int, total: int, what: str) -> None:
    pass


def config(out: Path) -> TrainingConfig:
    """A search of seconds: the figures that it is asked for do not depend on how well it trains."""
    return TrainingConfig(
        soc=DIANA, workload="digits_cnn", strengths=(1.0,), epochs=8, out=out, train_images=200, manual=()
    )


# ------------------------------------------------------------------------------------------ costs


@pytest.mark.parametrize("first", [0.0, 0.4, 1.0])
def test_the_serial_estimate_is_the_simulation(first: float) -> None:
    """In the serial runtime nothing overlaps: the closed form is exact (see sim/estimate.py), to the tick."""
    found = ShareCosts(CNN, DIANA, "serial").compare(split(first), tolerance=0.0)
    assert found.estimated.latency_s == pytest.approx(found.simulated.latency_s, rel=1e-12)
    assert found.estimated.energy_j == pytest.approx(found.simulated.energy_j, rel=1e-12)


def test_the_oracle_simulates_what_the_simulator_does() -> None:
    """The loop lowers and runs by itself, to be fast; `simulate` on the same mapping must say the same."""
    oracle, counts = ShareCosts(CNN, DIANA, "overlapped"), split(0.5)
    whole = simulate(DIANA, CNN, oracle.mapping(counts))
    assert (oracle.simulated(counts).latency_s, oracle.simulated(counts).energy_j) == (whole.seconds, whole.energy_j)


def test_drift_refits_theta_and_only_drift() -> None:
    oracle = ShareCosts(CNN, DIANA, "overlapped")
    oracle.prime(24, seed=0)
    oracle.restart(theta=Theta(prefetch=0.0, launch_hidden=0.0))  # claims a machine that hides nothing
    wrong = oracle.compare(split(0.5), tolerance=1.0)
    error = abs(wrong.estimated.latency_s / wrong.simulated.latency_s - 1)
    assert 0.05 < error < 1.0 and oracle.theta == Theta(prefetch=0.0, launch_hidden=0.0)
    oracle.compare(split(0.5), tolerance=0.05)
    assert oracle.theta != Theta(prefetch=0.0, launch_hidden=0.0)
    assert abs(oracle.estimated(split(0.5)).latency_s / wrong.simulated.latency_s - 1) < error


def test_a_restarted_oracle_goes_on_as_before() -> None:
    """What a resumed run rebuilds from its checkpoint gives the next refit the same samples in the same order."""
    first = ShareCosts(CNN, DIANA, "overlapped")
    first.prime(24, seed=0)
    first.restart()
    visited = [split(0.2), split(0.5), split(0.8)]
    for counts in visited[:2]:
        first.compare(counts, tolerance=0.0)
    again = ShareCosts(CNN, DIANA, "overlapped")
    again.prime(24, seed=0)
    again.restart(visited[:2], first.theta)
    assert again.compare(visited[2], tolerance=0.0) == first.compare(visited[2], tolerance=0.0)
    assert again.theta == first.theta


def test_odimo_drives_by_its_own_formulas_and_is_simulated_all_the_same() -> None:
    """ODiMO's model has no DMA and no launches, so it claims a shorter time than the machine takes."""
    odimo, ours = ShareCosts(CNN, DIANA, "overlapped", "odimo"), ShareCosts(CNN, DIANA, "overlapped")
    counts = split(1.0)
    assert odimo.simulated(counts) == ours.simulated(counts)
    assert odimo.estimated(counts).latency_s < ours.simulated(counts).latency_s


def test_tangent_is_the_cost_where_it_touches_and_its_plane_elsewhere() -> None:
    def cost(shares: object) -> torch.Tensor:
        assert isinstance(shares, dict)
        return shares["a"]["x"] ** 2  # type: ignore[no-any-return]

    def at(x: float) -> dict[str, dict[str, torch.Tensor]]:
        return {"a": {"x": torch.tensor(x, dtype=torch.float64, requires_grad=True)}}

    tangent = Tangent(cost, every=2)
    values = []
    for x in (3.0, 4.0, 5.0):  # touches at 3: 9 + 6 (x - 3); then at 5
        shares = at(x)
        value = tangent(shares)
        value.backward()  # type: ignore[no-untyped-call]
        values.append((float(value.detach()), float(shares["a"]["x"].grad)))  # type: ignore[arg-type]
    assert values == [(9, 6), (15, 6), (25, 10)]


def test_a_soft_share_moves_the_estimate_between_its_whole_neighbours() -> None:
    """A channel and a half on the second core costs no less than one and no more than two, tiles being equal."""
    oracle = ShareCosts(CNN, DIANA, "serial")
    name, k = "conv2", LAYERS["conv2"]
    mapping = oracle.mapping({name: {"digital": k - 16, "analog": 16}})

    def ticks(analog: float) -> float:
        shares = {name: {"digital": torch.tensor(k - analog), "analog": torch.tensor(analog)}}
        return float(network_estimate(CNN, DIANA, mapping, shares, Theta()).ticks)

    assert min(ticks(8), ticks(9)) <= ticks(8.5) <= max(ticks(8), ticks(9))


# ------------------------------------------------------------------------------------------ searches


@pytest.mark.parametrize("target_ms", [0.0142, 0.015])
def test_a_target_holds_by_simulation(target_ms: float, tmp_path: Path) -> None:
    """Between the fastest mapping (14.1 us) and all-8-bit (16.2 us): the mapping as written, simulated afresh, meets
    it, and uses the room: no layer could go back to 8 bit as a whole."""
    content = search_trained(replace(config(tmp_path), targets=(Target("latency", target_ms * 1e-3),)), quiet).content()
    (point,) = content["points"]
    mapping = load_mapping(tmp_path / point["mapping"], CNN, DIANA)
    found = simulate(DIANA, CNN, mapping)
    assert found.seconds == point["simulated"]["latency_s"]
    assert found.energy_j == point["simulated"]["energy_j"]
    assert found.seconds * 1e3 <= target_ms
    counts = {name: {p.core: p.channels for p in mapping.layers[name].parts} for name in LAYERS}
    oracle = ShareCosts(CNN, DIANA, mapping.runtime)
    for name, k in LAYERS.items():
        if counts[name] != {"digital": k}:
            assert oracle.simulated(counts | {name: {"digital": k}}).latency_s * 1e3 > target_ms


def test_a_target_out_of_reach_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    """Its figure is that of a mapping that exists: asked for as the target, it is accepted."""
    wanted = replace(config(tmp_path / "run"), targets=(Target("latency", 1e-5),))
    with pytest.raises(InputError, match=r"target latency=10us: digits_cnn on diana has latency=14\.1\d*us simulated"):
        search_trained(wanted, quiet)
    assert not wanted.out.exists()


def test_strength_zero_keeps_8_bit_or_what_costs_nothing_and_a_large_one_is_faster(tmp_path: Path) -> None:
    """Cost against accuracy: a weight of 100 drowns the cross-entropy, so its point must be the faster one."""
    content = search_trained(replace(config(tmp_path), strengths=(0.0, 100.0)), quiet).content()
    free, forced = content["points"]
    assert forced["simulated"]["latency_s"] < free["simulated"]["latency_s"]
    assert forced["simulated"]["latency_s"] < content["about"]["reference"]["latency_s"]


def test_estimate_and_simulation_are_logged_as_pairs(tmp_path: Path) -> None:
    """Three epochs of search, a pair every second epoch and after the last; without manual mappings, a picture too."""
    search_trained(config(tmp_path), quiet)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    searched = [line for line in lines if line["phase"] == "strength_1.search"]
    assert [line["epoch"] for line in searched] == [0, 1, 2]
    assert [{"estimated", "simulated", "theta"} <= line.keys() for line in searched] == [False, True, True]
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"workload": "resnet99"}, "no network named 'resnet99'"),
        ({"workload": "autoencoder"}, "has no classifier"),
        ({"data": "nothing"}, "no data set or folder 'nothing'"),
        ({"input_shape": (1, 3, 32, 32)}, "the images of digits are"),
    ],
)
def test_what_cannot_be_searched_is_refused_in_one_line(changed: dict[str, str], message: str, tmp_path: Path) -> None:
    wanted = replace(config(tmp_path / "run"), **changed)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=message) as error:
        search_trained(wanted, quiet)
    assert "\n" not in str(error.value)
    assert not wanted.out.exists()
