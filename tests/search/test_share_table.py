"""Tables of estimates: what each vector's own estimate is, and in the serial runtime what the simulator finds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cosoc import tables
from cosoc.search.share_table import Shares, check_device, checked_on, columns_of, estimated, random_vectors
from cosoc.search.spaces.shares import ShareCosts
from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.model.mapping import Runtime
from cosoc.sim.tiler import homes_of

Run = Callable[..., tuple[int, str, str]]

# A network that fits, one whose weights fit under some shares only, the same in the serial runtime, other cores. The
# last entry: whether weights are in the main memory.
CASES: tuple[tuple[str, dict[str, str], str, Runtime, set[bool]], ...] = (
    ("diana", {}, "resnet8", "overlapped", {True}),
    ("diana", {"memories.l2.size_bytes": "225536"}, "resnet8", "overlapped", {True, False}),
    ("diana", {"memories.l2.size_bytes": "93536"}, "digits_cnn", "serial", {True, False}),
    ("hetero", {}, "digits_cnn", "overlapped", {True}),
    ("gap9", {}, "digits_cnn", "overlapped", {True}),
    ("agx_xavier_dla", {}, "digits_cnn", "overlapped", {True}),  # tensors are handed over
)


@pytest.mark.parametrize(("chip", "settings", "network", "runtime", "in_main"), CASES)
def test_a_table_has_the_estimate_of_each_vector(
    chip: str, settings: dict[str, str], network: str, runtime: Runtime, in_main: set[bool]
) -> None:
    soc, workload = find_soc(chip, settings), find_workload(network)
    shares = random_vectors(workload, soc, 8, seed=3)
    table, costs, found = estimated(workload, soc, shares, runtime), ShareCosts(workload, soc, runtime), set[bool]()
    for row in range(8):
        plans = shares.mapping(row, runtime).layers
        counts = {name: {p.core: p.channels for p in plan.parts} for name, plan in plans.items()}
        one = costs.estimated(counts)
        figures = table.latency_s[row], table.energy_j[row], table.peak_bytes[row]
        assert figures == pytest.approx((one.latency_s, one.energy_j, one.peak_bytes), rel=1e-12)
        found.add(homes_of(workload, costs.mapping(counts), soc).weights_in_main)
    assert found == in_main


def test_serial_tables_are_what_is_simulated() -> None:
    """In the serial runtime the closed form is a sum of works, to the tick."""
    soc, workload = find_soc("diana"), find_workload("digits_cnn")
    shares = random_vectors(workload, soc, 30, seed=0)
    table = estimated(workload, soc, shares, "serial")
    found = checked_on(workload, soc, shares, table, 8, "serial", seed=0)
    assert found.vectors == 8
    assert found.latency_worst < 1e-12
    assert found.spearman == pytest.approx(1)


def test_vectors_are_drawn_whole_and_by_steps() -> None:
    soc, workload = find_soc("diana"), find_workload("resnet8")
    shares = random_vectors(workload, soc, 400, seed=1)
    assert shares.columns == columns_of(workload, soc)
    for layer in {layer for layer, _ in shares.columns}:
        mine = shares.channels[:, [name == layer for name, _ in shares.columns]]
        k = workload[layer].k
        assert (mine.sum(axis=1) == k).all() and (mine >= 0).all()
        assert 0.2 < (mine == k).any(axis=1).mean() < 0.8  # three of ten on one core, and those that lean there
        assert len(np.unique(mine[:, 0])) > k // 2
    again = random_vectors(workload, soc, 400, seed=1)
    assert (again.channels == shares.channels).all()
    with pytest.raises(InputError, match="no layer's channels can go to several cores"):
        random_vectors(workload, find_soc("gemmini"), 1, seed=0)


def test_what_no_machine_can_run_has_no_figures() -> None:
    """A backing memory of 140 kB: weights and tensors take 128,304 bytes with all on the digital core, and 150,528 with
    all on the analog one, whose rows are padded."""
    soc = find_soc("diana", {"memories.l2.size_bytes": "105536", "memories.flash.size_bytes": "140000"})
    workload = find_workload("resnet8")
    columns = columns_of(workload, soc)
    digital = [workload[layer].k * (core == "digital") for layer, core in columns]
    analog = [workload[layer].k * (core == "analog") for layer, core in columns]
    table = estimated(workload, soc, Shares(columns, np.array([digital, analog])))
    assert np.isnan(table.latency_s).tolist() == [False, True]
    assert "exceed flash" in table.why
    assert tables.to_csv(Shares(columns, np.array([digital, analog])), table).splitlines()[2].endswith(",,,")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "s.csv:1: a head of LAYER:CORE"),
        ("conv1\n16\n", "s.csv:1:1: found 'conv1'; a column is named LAYER:CORE"),
        ("conv1:digital,conv1:analog\n", "s.csv:1: a head of LAYER:CORE and a line"),
        ("conv1:digital,conv1:analog\n16\n", "s.csv:2: 1 values, the head has 2 columns"),
        ("conv1:digital,conv1:analog\n8,8\n8,x\n", "s.csv:3:2: found 'x'; a whole number of channels"),
        ("conv1:digital,conv1:analog\n8,8\n8,9\n", "s.csv:3: conv1 has 16 output channels, the shares are 8 + 9"),
        ("conv9:digital\n16\n", "s.csv:1:1: conv9:digital: resnet8 has no layer conv9"),
        ("conv1:dsp\n16\n", "s.csv:1:1: conv1:dsp: diana has no core dsp; it has host"),
        ("conv1:digital,conv1:digital\n8,8\n", "s.csv:1:2: conv1:digital: stands in two columns"),
        ("layer1.0.add:analog\n16\n", "s.csv:1:1: layer1.0.add:analog: "),
    ],
)
def test_what_is_wrong_with_a_file_is_said_at_its_place(text: str, message: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text(text)
    out = tmp_path / "out.csv"
    status, _, err = run("estimate", "diana", "resnet8", "--shares", str(tmp_path / "s.csv"), "--out", str(out))
    assert status == 2
    assert err.replace(str(tmp_path) + "/", "").startswith(message)
    assert not out.exists()


def test_a_written_table_can_be_read_and_estimated_again(run: Run, tmp_path: Path) -> None:
    soc, workload = find_soc("diana"), find_workload("digits_cnn")
    words = ("estimate", "diana", "digits_cnn", "--samples", "9", "--seed", "2", "--quiet")
    assert run(*words, "--out", str(tmp_path / "t.csv"), "--json", str(tmp_path / "t.json"))[0] == 0
    lines = [line.split(",") for line in (tmp_path / "t.csv").read_text().splitlines()]
    shares = random_vectors(workload, soc, 9, seed=2)
    table = estimated(workload, soc, shares)
    assert [float(line[-3]) for line in lines[1:]] == pytest.approx(table.latency_s.tolist(), rel=1e-8)
    (tmp_path / "s.csv").write_text("".join(",".join(line[:-3]) + "\n" for line in lines))
    again = tables.read_shares(tmp_path / "s.csv")
    assert (again.columns, again.channels.tolist()) == (shares.columns, shares.channels.tolist())


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match="device nonsense: "):
        check_device("nonsense")
