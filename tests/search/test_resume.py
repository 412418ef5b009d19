"""A search that is killed and resumed against the same search unbroken: results, weights and metrics must be equal.

Equal means equal, not close: on one machine with one thread count every step is the same arithmetic.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cosoc.search.runfolder import RunFolder
from cosoc.search.training.gates import ESTIMATORS, Estimator
from cosoc.search.training.space import TrainingConfig, search_trained
from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc


class Killed(BaseException):
    """Ends a run at a chosen moment; nothing catches it, as nothing catches a kill."""


def quiet(done: int, total: int, what: str) -> None:
    pass


def killer(at: int) -> Callable[[int, int, str], None]:
    """A progress report that kills the run when so many epochs are done."""

    def report(done: int, total: int, what: str) -> None:
        if done >= at:
            raise Killed

    return report


def config(out: Path, estimator: Estimator = "expectation") -> TrainingConfig:
    """Three epochs of three steps in each phase: fewer steps an epoch than anything that counts steps."""
    return TrainingConfig(
        soc=find_soc("diana"),
        workload="digits_cnn",
        strengths=(3.0,),
        estimator=estimator,
        epochs=8,
        out=out,
        train_images=200,
        simulate_every=1,
        tolerance=0.0,
        manual=("all_ternary",),
    )


def content(folder: Path) -> dict[str, object]:
    """Everything that a run leaves, but for the picture, and how fast it was."""
    out: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".pt":
            out[name] = torch.load(path, weights_only=True)
        elif path.is_file() and path.suffix != ".png" and path.name != "speed.json":
            out[name] = path.read_text()
    return out


def assert_same(a: Path, b: Path) -> None:
    mine, other = content(a), content(b)
    assert mine.keys() == other.keys()
    for name, value in mine.items():
        given = other[name]
        if isinstance(value, dict) and isinstance(given, dict):
            assert value.keys() == given.keys()
            assert all(torch.equal(value[key], given[key]) for key in value), name
        else:
            assert value == given, name


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    search_trained(config(folder), quiet)
    return folder


def test_killed_between_an_epoch_and_its_checkpoint(
    unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worst moment of the search phase: its second epoch is over and logged, and nothing of it is kept."""
    wanted, keep = config(tmp_path / "run"), RunFolder.checkpoint

    def checkpoint(folder: RunFolder, phase: str, state: dict[str, object]) -> None:
        if phase.endswith(".search") and state["epoch"] == 2:
            raise Killed
        keep(folder, phase, state)

    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "checkpoint", checkpoint)
        with pytest.raises(Killed):
            search_trained(wanted, quiet)
    assert not (wanted.out / "result.json").exists()
    search_trained(replace(wanted, resume=True), quiet)
    assert_same(unbroken, wanted.out)


def test_a_finished_run_is_only_read(unbroken: Path) -> None:
    """Resuming it trains nothing and simulates nothing."""
    before = content(unbroken)
    seen: list[tuple[int, int]] = []
    search_trained(replace(config(unbroken), resume=True), lambda done, total, what: seen.append((done, total)))
    assert not seen
    assert content(unbroken)["result.json"] == before["result.json"]


def test_another_configuration_is_refused_by_name(unbroken: Path) -> None:
    with pytest.raises(InputError, match="the run has seed 0, now 1 is asked for"):
        search_trained(replace(config(unbroken), resume=True, seed=1), quiet)
    with pytest.raises(InputError, match="is not empty"):
        search_trained(config(unbroken), quiet)


@pytest.mark.slow
def test_killed_after_every_epoch(unbroken: Path, tmp_path: Path) -> None:
    wanted, kills = config(tmp_path / "run"), 0
    while not (wanted.out / "result.json").exists():
        kills += 1
        try:
            search_trained(replace(wanted, resume=kills > 1), killer(kills))
        except Killed:
            continue
    assert kills > 8
    assert_same(unbroken, wanted.out)


@pytest.mark.slow
@pytest.mark.parametrize("estimator", [e for e in ESTIMATORS if e != "expectation"])
def test_estimators_that_draw_at_random_resume_too(estimator: Estimator, tmp_path: Path) -> None:
    whole, broken = config(tmp_path / "whole", estimator), config(tmp_path / "broken", estimator)
    search_trained(whole, quiet)
    with pytest.raises(Killed):
        search_trained(broken, killer(4))  # after the first of the search's epochs
    search_trained(replace(broken, resume=True), quiet)
    assert_same(whole.out, broken.out)


@pytest.mark.slow
@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_process(kill: signal.Signals, tmp_path: Path) -> None:
    """The command line, from outside: killed while it trains, then resumed; a Ctrl-C says how."""
    words = ["search", "diana", "digits_cnn", "--epochs", "20", "--strengths", "1", "--out", str(tmp_path / "run")]
    process = subprocess.Popen([sys.executable, "-m", "cosoc", *words], stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "run" / "metrics.jsonl"
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        if metrics.exists() and len(metrics.read_text().splitlines()) >= 10:
            break
        time.sleep(0.05)
    os.kill(process.pid, kill)
    _, err = process.communicate(timeout=60)
    if kill == signal.SIGINT:
        assert process.returncode == 130
        assert "--resume goes on from there" in err.splitlines()[-1]
    again = subprocess.run(
        [sys.executable, "-m", "cosoc", *words, "--resume"], capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stderr
    whole = [*words[:-1], str(tmp_path / "whole")]
    subprocess.run([sys.executable, "-m", "cosoc", *whole], check=True, capture_output=True)
    assert_same(tmp_path / "whole", tmp_path / "run")
