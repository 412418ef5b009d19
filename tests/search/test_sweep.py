"""Campaigns: what a plan stands for, and that nothing finished is lost or done twice, whoever is killed."""

from __future__ import annotations

import importlib
import io
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cosoc.search.campaigns import results
from cosoc.search.campaigns import run as sweeps
from cosoc.search.campaigns.checks import plan_problems
from cosoc.search.campaigns.plan import Task, load_plan, tasks
from cosoc.search.campaigns.results import failures, fronts, split_fronts
from cosoc.search.campaigns.run import ProcessPool, SweepConfig, sweep
from cosoc.search.campaigns.trained import TrainedKeys, config_keys
from cosoc.search.spaces.split_space import SplitConfig, search_splits
from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import device_soc, find_cluster, find_soc
from cosoc.sim.files.mapping_file import find_mapping
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.simulate import simulate

PLAN = """
simulate:
  soc: [diana]
  workload: [resnet8, autoencoder]
  mapping: [all_8bit, min_cost, other.yaml]
  runtime: [overlapped]
  set: {links.l2_write.bytes_per_period: [8, 16]}
"""


def nobody(done: int, total: int, what: str) -> None:
    """No progress."""


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "plan.yaml"
    link = sorted(find_soc("diana").links)[0]
    (tmp_path / "other.yaml").write_text("layers: {elsewhere: {parts: {digital: 1}}}\n")  # of no network here
    path.write_text(PLAN.replace("l2_write", link).replace("other.yaml", str(tmp_path / "other.yaml")))
    return path


def rows_of(folder: Path) -> list[tuple[Any, ...]]:
    with sqlite3.connect(folder / "results.sqlite") as connection:
        return connection.execute("select id, status, result, error, rowid from tasks order by id").fetchall()


def test_a_plan_is_every_combination(plan: Path) -> None:
    found = list(tasks(load_plan(plan)))
    assert len(found) == 2 * 3 * 2
    assert len({task.id for task in found}) == len(found)
    assert found[0].label.startswith("simulate diana resnet8 all_8bit overlapped links.")


def test_operators_are_searched_by_strength_with_the_template(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(
        "search: {soc: [darkside], workload: [mobilenet_v1_025], space: [channels, operators], strengths: [1, 3],"
        " template: dws-dw}"
    )
    found = [(task.spec["space"], task.spec["strength"], task.spec.get("template")) for task in tasks(load_plan(path))]
    assert found == [
        ("channels", 1, None),
        ("channels", 3, None),
        ("operators", 1, "dws-dw"),
        ("operators", 3, "dws-dw"),
    ]


def test_a_task_has_what_its_space_knows_of_how_networks_are_trained(tmp_path: Path) -> None:
    """Keys that are left out are in no task, so that a plan's tasks stay the same when a key comes to be."""
    path, weights = tmp_path / "plan.yaml", tmp_path / "net.pt"
    weights.touch()
    path.write_text(
        f"search: {{soc: [diana], workload: [digits_cnn], space: [channels, operators], weights: {weights}, cut: point,"
        " recipe: odimo, batch: 16, rates: {search: 1.0e-3}, train_noise: 'adc,drift', adc_bits: 0}"
    )
    both = {"recipe": "odimo", "batch": 16, "rates": {"search": 1e-3}, "train_noise": "adc,drift"}
    found = {task.spec["space"]: task.spec for task in tasks(load_plan(path, plan_problems))}
    for space, own in (("channels", {"weights": str(weights)}), ("operators", {"cut": "point"})):
        assert {key: value for key, value in found[space].items() if key in TrainedKeys.model_fields} == both | own
    config = config_keys(found["channels"])
    assert (config["recipe"].batch, config["train_noise"], config["weights"]) == (16, ("adc", "drift"), weights)
    path.write_text(f"search: {{soc: [diana], workload: [digits_cnn], weights: {weights}, calibrate_only: true}}")
    (alone,) = tasks(load_plan(path, plan_problems))
    assert alone.spec["calibrate_only"] and not {"strength", "epochs"} & set(alone.spec)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("points: 3", "points: found 3: no key of a plan: a task is one point of a front; give strengths"),
        ("device: cuda", "device: found 'cuda': no key of a plan: each task is one process on the CPU"),
        ("cut: point", "cut: found 'point': means nothing with space channels; leave it out"),
        ("{calibrate_only: true, epochs: 3}", "epochs: found 3: means nothing with calibrate_only"),
        ("recipe: none_such", "recipe: no recipe named 'none_such'; there is"),
        ("weights: nowhere.pt", "weights: no file nowhere.pt"),
        ("train_noise: thunder", "train_noise: no noise named 'thunder'"),
    ],
)
def test_how_networks_are_trained_is_refused_at_its_line(tmp_path: Path, key: str, message: str) -> None:
    path, lines = tmp_path / "plan.yaml", key.strip("{}").split(", ")
    path.write_text("search:\n  soc: [diana]\n  workload: [digits_cnn]\n  " + "\n  ".join(lines) + "\n")
    with pytest.raises(InputError) as caught:
        load_plan(path, plan_problems)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{path}:{3 + len(lines)}:")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x", "names neither simulate nor search"),
        ("simulate: {soc: [diana], workload: []}", "at least 1 item"),
        ("search: {soc: [a], workload: [b], space: [splits, channels]}", "make a plan of each"),
        ("simulate: {soc: [diana], workloads: [resnet8]}", "simulate.workloads: unknown key"),
        (
            "simulate: {soc: [diana], workload: [a], set: {x: [" + ", ".join(map(str, range(1001))) + "], y: ["
            + ", ".join(map(str, range(1000))) + "]}}", "more than 1,000,000 tasks",
        ),
    ],
)  # fmt: skip
def test_a_plan_that_cannot_be_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        load_plan(path)
    assert str(caught.value).startswith(f"{path}:1:")


def test_results_are_those_of_single_simulations(plan: Path, tmp_path: Path) -> None:
    """And a failure stands beside them; a resumed campaign has nothing left to do; repeats come from the memo."""
    config = SweepConfig(plan, tmp_path / "out", workers=1)
    found = sweep(config, nobody)
    assert (len(found.rows), found.left) == (12, 0)
    assert len(failures(found)) == 4
    assert all("has no such layer" in text for text in failures(found))
    for row in found.rows:
        if row["status"] == "done":
            spec = row["spec"]
            soc, workload = find_soc("diana", spec["set"]), find_workload(spec["workload"])
            alone = simulate(soc, workload, find_mapping(spec["mapping"], workload, soc, spec["runtime"]))
            assert (row["result"]["latency_s"], row["result"]["energy_j"]) == (alone.seconds, alone.energy_j)
    for rows in fronts(found).values():
        seconds = [row["result"]["latency_s"] for row in rows]
        energies = [row["result"]["energy_j"] for row in rows]
        assert seconds == sorted(seconds) and energies == sorted(energies, reverse=True)
    before = rows_of(tmp_path / "out")
    again = sweep(SweepConfig(plan, tmp_path / "out", workers=1, resume=True), nobody)
    assert rows_of(tmp_path / "out") == before
    assert len(again.rows) == 12
    with pytest.raises(InputError, match="--resume goes on with it"):
        sweep(config, nobody)
    other = tmp_path / "other.yaml"
    other.write_text(plan.read_text().replace("autoencoder", "dscnn"))
    with pytest.raises(InputError, match="another plan"):
        sweep(SweepConfig(other, tmp_path / "out", workers=1, resume=True), nobody)


def test_an_equal_program_is_not_run_again(tmp_path: Path) -> None:
    """`default` on DIANA is all_8bit by another name, and a name is part of a program: so the digest differs; the same
    mapping under the same name is found in the memo, though the task (a file of another name) is a new one."""
    soc, workload = find_soc("diana"), find_workload("resnet8")
    text = f"name: same\nlayers: {{{workload.layers[0].name}: {{parts: {{digital: {workload.layers[0].k}}}}}}}\n"
    assert "digital" in soc.cores
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text(text)
    path = tmp_path / "plan.yaml"
    path.write_text(f"simulate: {{soc: [diana], workload: [resnet8], mapping: [{tmp_path}/a.yaml, {tmp_path}/b.yaml]}}")
    found = sweep(SweepConfig(path, tmp_path / "out", workers=1), nobody)
    assert [row["status"] for row in found.rows] == ["done", "done"]
    # Both may be under way at once in the one worker's queue, but they run one after the other.
    assert found.rows[0]["result"]["latency_s"] == found.rows[1]["result"]["latency_s"]


SPLITS = """
search:
  soc: [homogeneous_gpu_2]
  workload: [digits_cnn]
  space: [splits]
  seeds: [0, 1]
  inferences: 50
  set:
    links.%s.bytes_per_s: [%s]
    devices.%s.set.%s: [%s]
"""


def test_splits_are_searched_over_clusters_and_seeds(tmp_path: Path) -> None:
    """A task's result is that of the search alone, with the same cluster; a faster link makes no front slower; what the
    cluster's chips draw at most stands beside it, summed over its devices by hand."""
    cluster = find_cluster("homogeneous_gpu_2")
    (device,), (link,) = cluster.devices, cluster.links
    soc = device_soc(cluster, device)
    core = next(name for name, one in soc.cores.items() if getattr(one, "kind", "") == "gpu")
    rate, path = cluster.links[link].bytes_per_s, f"cores.{core}.power_mw"
    plan = tmp_path / "plan.yaml"
    plan.write_text(SPLITS % (link, f"{rate}, {4 * rate}", device, path, "2000.0"))
    found = sweep(SweepConfig(plan, tmp_path / "out", workers=1), nobody)
    assert len(found.rows) == 2 * 2 and not failures(found)
    done = [row for row in found.rows if row["status"] == "done"]
    fastest: dict[int, set[float]] = {}
    for row in done:
        spec, content = row["spec"], row["result"]["content"]
        assert "strength" not in spec and spec["objective"] == "throughput"
        rate_of = {point["name"]: point["simulated"]["throughput"] for point in content["points"]}
        fastest.setdefault(int(spec["set"][f"links.{link}.bytes_per_s"]), set()).add(rate_of[content["best"]])
        watts = float(spec["set"][f"devices.{device}.set.{path}"])
        one = soc.base_power_mw + sum(c.power_mw for c in soc.cores.values()) - soc.cores[core].power_mw + watts
        one += sum(dma.power_mw for dma in soc.dmas.values())
        assert row["result"]["peak_power_mw"] == pytest.approx(cluster.devices[device].count * one)
        assert (tmp_path / "out" / "runs" / row["id"] / "result.json").exists()
    assert {len(values) for values in fastest.values()} == {1}  # the seed is for a baseline only
    assert min(fastest[4 * rate]) >= max(fastest[rate])
    config = SplitConfig(find_cluster("homogeneous_gpu_2", {f"links.{link}.bytes_per_s": str(4 * rate)}),
                         find_workload("digits_cnn"), 50, out=tmp_path / "alone")  # fmt: skip
    assert search_splits(config, nobody).best.simulated.throughput == min(fastest[4 * rate])
    (best,) = split_fronts(found).values()
    assert best[0][1]["simulated"]["throughput"] == max(
        p["simulated"]["throughput"] for row in done for p in row["result"]["content"]["points"]
    )  # fmt: skip
    before = rows_of(tmp_path / "out")
    sweep(SweepConfig(plan, tmp_path / "out", workers=1, resume=True), nobody)
    assert rows_of(tmp_path / "out") == before
    console = Console(width=160, file=io.StringIO())
    console.print(results.table(found))
    assert "Splits best" in console.file.getvalue()  # type: ignore[attr-defined]


KILLER = """
import os, signal

def perform(kind, spec, folder, memo):
    if spec["workload"] == "killer":
        os.kill(os.getpid(), signal.SIGKILL)
    return {"result": {"remembered": True}, "wall_s": 0.0}
"""


def test_a_task_that_kills_its_worker_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of what workers do: a task that kills its worker. Workers find it as a module on the path."""
    (tmp_path / "a_killer.py").write_text(KILLER)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sweeps, "perform", importlib.import_module("a_killer").perform)
    todo = [Task("simulate", {"workload": name, "soc": "", "set": {}}) for name in ("a", "b", "killer", "c", "d")]
    outcomes = {task.spec["workload"]: out for task, out in ProcessPool(2).run(todo, tmp_path, tmp_path / "memo")}
    assert sorted(outcomes) == ["a", "b", "c", "d", "killer"]
    assert "worker process was killed" in outcomes["killer"]["error"]
    assert all("result" in outcomes[name] for name in "abcd")


def test_a_killed_campaign_goes_on(plan: Path, tmp_path: Path) -> None:
    """kill -9 of the parent when some tasks are done: they are kept, not done again, and the rest follows."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "cosoc", "sweep", str(plan), "--out", str(out), "--workers", "1", "--quiet"]
    process = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            if (out / "results.sqlite").exists() and _count(out) >= 2:
                break
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    kept = rows_of(out)
    assert len(kept) >= 2
    found = sweep(SweepConfig(plan, out, workers=1, resume=True), nobody)
    assert (len(found.rows), found.left) == (12, 0)
    assert set(kept) <= set(rows_of(out))


def _count(out: Path) -> int:
    try:
        with sqlite3.connect(out / "results.sqlite") as connection:
            return int(connection.execute("select count(*) from tasks").fetchone()[0])
    except sqlite3.Error:
        return 0


def test_a_cluster_finds_the_same(plan: Path, tmp_path: Path) -> None:
    """Two Dask workers in processes of their own against the pool."""
    distributed = pytest.importorskip("distributed")
    where = "127.0.0.1:0"  # of its pages: a port that is free, where another cluster may have the usual one
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=where) as cluster:
        there = sweep(SweepConfig(plan, tmp_path / "cluster", 1, cluster.scheduler_address), nobody)
    here = sweep(SweepConfig(plan, tmp_path / "pool", workers=1), nobody)

    def plain(rows: tuple[dict[str, Any], ...]) -> list[tuple[Any, ...]]:
        return sorted((row["id"], row["status"], (row["result"] or {}).get("latency_s"), row["error"]) for row in rows)

    assert plain(there.rows) == plain(here.rows)


def test_no_scheduler_is_said(plan: Path, tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    with pytest.raises(InputError, match="no Dask scheduler answers"):
        sweep(SweepConfig(plan, tmp_path / "out", 1, "tcp://127.0.0.1:1"), nobody)


def test_equal_programs_with_other_powers_are_not_the_same(tmp_path: Path) -> None:
    """Powers are no part of a program, but of its energy: of two tasks with the same program each has its own."""
    path = tmp_path / "plan.yaml"
    path.write_text("simulate: {soc: [diana], workload: [resnet8], set: {base_power_mw: [10.0, 20.0]}}\n")
    found = sweep(SweepConfig(path, tmp_path / "out", 1), nobody)
    one, other = sorted(row["result"]["energy_j"] for row in found.rows)
    seconds = {row["result"]["latency_s"] for row in found.rows}
    assert len(seconds) == 1
    assert other - one == pytest.approx(10e-3 * seconds.pop(), rel=1e-9)
