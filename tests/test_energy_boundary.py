"""Energies are set side by side only where they reach equally far: die, chip, board, wall.

By hand: a chip on a carrier of W watts draws W for as long as it runs, on top of what its file says.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import bounded_cluster, find_cluster, list_clusters, load_cluster

Run = Callable[..., tuple[int, str, str]]

CLUSTER = """name: mixed
devices:
  chip: {soc: diana}
  board: {soc: rpi4}
links:
  x: {kind: pcie, between: [chip, board], bytes_per_s: 500_000_000, latency_ns: 500, burst_bytes: 256}
"""
MAPPING = "runtime: serial\nstages:\n  - {device: chip, behind: layer1.0.add}\n  - {device: board, behind: fc}\n"


@pytest.mark.parametrize("name", list_clusters())
def test_built_in_clusters_reach_equally_far(name: str) -> None:
    assert bounded_cluster(find_cluster(name))[1] is not None


def test_a_cluster_that_mixes_boundaries_is_refused(tmp_path: Path, run: Run) -> None:
    """Simulated and searched; in one line that says who stops where. With a carrier it is the board's boundary."""
    cluster, mapping, out = tmp_path / "c.yaml", tmp_path / "m.yaml", tmp_path / "r.json"
    cluster.write_text(CLUSTER)
    mapping.write_text(MAPPING)
    words = ["simulate", cluster, "resnet8", "--mapping", mapping, "--inferences", "20", "--json", out, "-q"]
    search = ["search", cluster, "resnet8", "--space", "splits", "--out", tmp_path / "run", "-q"]
    for command in (words, search):
        status, _, err = run(*command)
        assert status == 2 and err.count("\n") == 1
        assert "that of chip to the chip, that of board to the board, cannot be set side by side" in err
        assert "--carrier W" in err
    found = []
    for watts in ("1", "3"):
        assert run(*words, "--carrier", watts) == (0, "", "")
        found.append(json.loads(out.read_text()))
    assert found[0]["energy_boundary"] == "board"
    # One device of its kind, for as long as an inference takes in the steady state.
    more = found[1]["energy_j"] - found[0]["energy_j"]
    assert more == pytest.approx(2.0 / found[0]["throughput"], rel=1e-3)


def test_a_carrier_of_the_file_is_that_of_the_command_line(tmp_path: Path, run: Run) -> None:
    cluster, mapping, out = tmp_path / "c.yaml", tmp_path / "m.yaml", tmp_path / "r.json"
    mapping.write_text(MAPPING)
    words = ["simulate", cluster, "resnet8", "--mapping", mapping, "--inferences", "20", "--json", out, "-q"]
    cluster.write_text(CLUSTER)
    assert run(*words, "--carrier", "2.5")[0] == 0
    one = json.loads(out.read_text())
    cluster.write_text(CLUSTER.replace("soc: diana", "soc: diana, carrier_w: 2.5"))
    assert run(*words)[0] == 0
    assert json.loads(out.read_text())["energy_j"] == one["energy_j"]
    status, _, err = run(*words, "--carrier", "2.5")
    assert status == 2 and "reach to the board; leave it out" in err


def test_a_carrier_that_is_counted_already_is_refused_at_its_line(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(CLUSTER.replace("soc: rpi4", "soc: rpi4, carrier_w: 2.5"))
    with pytest.raises(
        InputError, match=r"c.yaml:4:\d+: devices.board.carrier_w: its energy is that of a board already"
    ):
        load_cluster(path)


def test_results_of_different_boundaries_are_not_compared(tmp_path: Path, run: Run) -> None:
    """A chip and a board, until a carrier is added to the chip: W times its seconds, on each layer and in all."""
    chip, board = tmp_path / "chip.json", tmp_path / "board.json"
    for soc, path in (("diana", chip), ("rpi4", board)):
        assert run("simulate", soc, "resnet8", "--json", path, "-q")[0] == 0
    status, _, err = run("compare", chip, board)
    assert status == 2 and err.count("\n") == 1
    assert "that of A (diana) to the chip, that of B (rpi4) to the board" in err and "--carrier W" in err
    status, out, _ = run("compare", chip, board, "--carrier", "2")
    one = json.loads(chip.read_text())
    total = next(line for line in out.splitlines() if line.startswith("total"))
    assert f"{(one['energy_j'] + 2 * one['seconds']) * 1e6:.4g}" in total
    status, _, err = run("compare", chip, chip, "--carrier", "2")
    assert status == 2 and "leave it out" in err


def test_a_front_of_a_campaign_does_not_mix_boundaries(tmp_path: Path, run: Run) -> None:
    """Refused before anything runs; with a carrier, the chip's energy in the front has it."""
    plan, out = tmp_path / "plan.yaml", tmp_path / "r.json"
    plan.write_text("simulate: {soc: [diana, rpi4], workload: [resnet8], mapping: [default]}\n")
    words = ["sweep", plan, "--workers", "1", "--out", tmp_path / "s", "--json", out]
    status, _, err = run(*words, "-q")
    assert status == 2 and err.count("\n") == 1
    assert "front of resnet8: energies of different boundaries, that of diana to the chip" in err
    status, shown, _ = run(*words, "--resume", "--carrier", "2")
    assert status == 0
    rows = {row["spec"]["soc"]: row["result"] for row in json.loads(out.read_text())["rows"]}
    assert {name: row["energy_boundary"] for name, row in rows.items()} == {"diana": "chip", "rpi4": "board"}
    lifted = rows["diana"]["energy_j"] + 2 * rows["diana"]["latency_s"]
    assert f"{lifted * 1e6:.4g}" in shown


def test_a_carrier_means_nothing_with_one_soc(run: Run) -> None:
    status, _, err = run("simulate", "diana", "resnet8", "--carrier", "2")
    assert (status, err) == (2, "--carrier: means nothing with one SoC; leave it out\n")
