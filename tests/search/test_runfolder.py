"""The run folder after a kill at any moment: what is read back is what was completely written."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
import yaml

from cosoc.search.runfolder import RunFolder
from cosoc.sim.errors import InputError

CONFIG = {
    "epochs": 4,
    "strengths": [0.1, 1e-05],
    "soc": {"name": "diana", "cores": {"digital": {"launch_cycles": 500}}},
}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run", CONFIG, resume=False)


def test_a_run_is_resumed_with_its_own_configuration_only(folder: RunFolder) -> None:
    RunFolder(folder.path, CONFIG, resume=True)
    other = CONFIG | {"soc": {"name": "diana", "cores": {"digital": {"launch_cycles": 200}}}}
    with pytest.raises(InputError, match=r"the run has soc\.cores\.digital\.launch_cycles 500, now 200 is asked for"):
        RunFolder(folder.path, other, resume=True)
    with pytest.raises(InputError, match="the run has strictness None, now 3 is asked for"):
        RunFolder(folder.path, CONFIG | {"strictness": 3}, resume=True)


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty"):
        RunFolder(tmp_path, CONFIG, resume=False)
    with pytest.raises(InputError, match="there is no run to resume"):
        RunFolder(tmp_path, CONFIG, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_run_killed_before_its_configuration_was_written_begins_again(tmp_path: Path) -> None:
    for name in ("done", "weights", "mappings"):
        (tmp_path / name).mkdir()
    (tmp_path / "config.yaml.part").write_text("epochs:")
    RunFolder(tmp_path, CONFIG, resume=True)
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == CONFIG


def test_no_path_of_the_machine_is_written(folder: RunFolder) -> None:
    written = "".join(path.read_text() for path in folder.path.glob("*.*"))
    assert str(folder.path) not in written and str(Path.home()) not in written
    assert set(json.loads((folder.path / "environment.json").read_text())) >= {"python", "cosoc", "torch", "numpy"}


def test_a_torn_line_costs_itself_only(folder: RunFolder) -> None:
    folder.log({"phase": "a", "epoch": 0})
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write('{"phase": "a", "ep')  # killed while writing
    folder.log({"phase": "a", "epoch": 1})
    assert [entry["epoch"] for entry in folder.metrics()] == [0, 1]


def test_epochs_that_no_checkpoint_kept_are_forgotten(folder: RunFolder) -> None:
    """Killed between an epoch's line and its checkpoint: the epoch is run again, and stands in the metrics once."""
    for phase, epochs in (("done", 2), ("now", 3)):
        for epoch in range(epochs):
            folder.log({"phase": phase, "epoch": epoch})
    folder.finish("done", {})
    folder.checkpoint("now", {"epoch": 2})
    again = RunFolder(folder.path, CONFIG, resume=True)
    assert [(e["phase"], e["epoch"]) for e in again.metrics()] == [("done", 0), ("done", 1), ("now", 0), ("now", 1)]


def test_a_checkpoint_is_the_old_or_the_new_one(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.checkpoint("search", {"epoch": 1, "net": {"w": torch.ones(3)}})

    def killed(path: Path, content: object) -> None:
        path.write_text("half of it")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", killed)
        with pytest.raises(KeyboardInterrupt):
            folder.checkpoint("search", {"epoch": 2, "net": {"w": torch.zeros(3)}})
    state = RunFolder(folder.path, CONFIG, resume=True).restore("search")
    assert state is not None and state["epoch"] == 1
    assert torch.equal(state["net"]["w"], torch.ones(3))


def test_a_checkpoint_belongs_to_its_phase(folder: RunFolder) -> None:
    folder.checkpoint("search", {"epoch": 1})
    assert folder.restore("tune") is None
    folder.finish("search", {"accuracy": 0.5}, {"w": torch.ones(2)})
    assert folder.restore("search") is None
    assert folder.finished("search") == {"accuracy": 0.5}
    assert torch.equal(folder.weights("search")["w"], torch.ones(2))


class _Code:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("run by unpickling",))


def test_weights_are_read_without_running_code(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    (folder.path / "weights" / "search.pt").write_bytes(pickle.dumps(_Code()))
    with pytest.raises(InputError, match=r"search\.pt: cannot be read back"):
        folder.weights("search")
    assert capsys.readouterr().out == ""
