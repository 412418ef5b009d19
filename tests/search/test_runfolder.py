"""The run folder after a kill at any moment: what is read back is what was completely written, and what somebody else
has changed since is named and never used."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml

from cosoc.search import manifest
from cosoc.search.manifest import Damaged, Files
from cosoc.search.runfolder import RunFolder
from cosoc.sim.errors import InputError

CONFIG = {
    "epochs": 4,
    "strengths": [0.1, 1e-05],
    "soc": {"name": "diana", "cores": {"digital": {"launch_cycles": 500}}},
}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    with RunFolder(tmp_path / "run", CONFIG, resume=False) as folder:
        yield folder


def again(folder: RunFolder, redo: str | None = None, config: dict[str, object] | None = None) -> RunFolder:
    """The folder as a resumed run opens it."""
    folder.close()
    return RunFolder(folder.path, config or CONFIG, resume=True, redo=redo)


def test_a_run_is_resumed_with_its_own_configuration_only(folder: RunFolder) -> None:
    again(folder).close()
    other = CONFIG | {"soc": {"name": "diana", "cores": {"digital": {"launch_cycles": 200}}}}
    with pytest.raises(InputError, match=r"the run has soc\.cores\.digital\.launch_cycles 500, now 200 is asked for"):
        again(folder, config=other)
    with pytest.raises(InputError, match="the run has strictness None, now 3 is asked for"):
        again(folder, config=CONFIG | {"strictness": 3})


def test_a_run_is_resumed_with_its_own_network_only(folder: RunFolder) -> None:
    """A network of the same name in whose file something else stands now."""
    folder.begin_with("workload.yaml", "layers: 1")
    with again(folder) as resumed:
        resumed.begin_with("workload.yaml", "layers: 1")
        with pytest.raises(InputError, match=r"workload\.yaml: is another than what is asked for now"):
            resumed.begin_with("workload.yaml", "layers: 2")


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty"):
        RunFolder(tmp_path, CONFIG, resume=False)
    for redo in (None, "start"):
        with pytest.raises(InputError, match="there is no run to resume"):
            RunFolder(tmp_path, CONFIG, resume=True, redo=redo)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_run_killed_before_its_configuration_was_written_begins_again(tmp_path: Path) -> None:
    """Whatever the moment: of the folders, half-written files, the manifest, the first of the files behind it."""
    for name in ("done", "weights", "mappings"):
        (tmp_path / name).mkdir()
    (tmp_path / "config.yaml.part").write_text("epochs:")
    with RunFolder(tmp_path, CONFIG, resume=True) as folder:
        assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == CONFIG
        assert not (tmp_path / "config.yaml.part").exists()
        digests = {name: entry.sha256[0] for name, entry in folder.files.known.items()}
    files = {name: {"phase": "start", "sha256": [digest, ""]} for name, digest in digests.items()}
    (tmp_path / "manifest.json").write_text(json.dumps({"format": manifest.FORMAT, "files": files}))
    for name in ("config.yaml", "environment.json"):
        (tmp_path / name).unlink()
    with RunFolder(tmp_path, CONFIG, resume=True) as folder:
        assert {name: entry.sha256 for name, entry in folder.files.known.items()} == {
            name: (digest,) for name, digest in digests.items()
        }


def test_no_path_of_the_machine_is_written(folder: RunFolder) -> None:
    written = "".join(path.read_text() for path in folder.path.glob("*.*"))
    assert str(folder.path) not in written and str(Path.home()) not in written
    assert set(json.loads((folder.path / "environment.json").read_text())) >= {"python", "cosoc", "torch", "numpy"}


def test_epochs_that_no_checkpoint_kept_are_forgotten(folder: RunFolder) -> None:
    """Killed between an epoch's line and its checkpoint: the epoch is run again, and stands in the metrics once."""
    for epoch in range(2):
        folder.log({"phase": "done", "epoch": epoch})
    folder.finish("done", {})
    for epoch in range(2):
        folder.log({"phase": "now", "epoch": epoch})
    folder.checkpoint("now", {"epoch": 2})
    folder.log({"phase": "now", "epoch": 2})
    kept = [("done", 0), ("done", 1), ("now", 0), ("now", 1)]
    with again(folder) as resumed:
        assert [(entry["phase"], entry["epoch"]) for entry in resumed.metrics()] == kept
    lines = (folder.path / "metrics.jsonl").read_text().splitlines()
    assert [(entry["phase"], entry["epoch"]) for entry in map(json.loads, lines)] == kept


def moments(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> Iterator[int]:
    """Do something that writes, killed before its first step at the disk, then before its second, and so on until it
    ends; the number of the step, the folder as the kill left it."""
    steps = 0

    def counted(call: Callable[..., object]) -> Callable[..., object]:
        def step(*words: object, **options: object) -> object:
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            return call(*words, **options)

        return step

    ended = False
    while not ended:
        left = steps
        with monkeypatch.context() as patched:
            for place, name in ((os, "replace"), (manifest, "write_new"), (Path, "unlink")):
                patched.setattr(place, name, counted(getattr(place, name)))
            try:
                act()
                ended = True
            except KeyboardInterrupt:
                pass
        yield steps
        steps += 1


def test_a_file_is_the_old_or_the_new_one_at_any_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill before each step of replacing a checkpoint, of ending a phase, of forgetting one: the folder can be
    opened, all that it knows is what a run wrote, and what is in progress is before or after."""
    with RunFolder(tmp_path / "run", CONFIG, resume=False) as folder:
        folder.checkpoint("search", {"epoch": 1})
    seen: set[tuple[int | None, bool]] = set()

    def act() -> None:
        with RunFolder(folder.path, CONFIG, resume=True) as inside:
            inside.checkpoint("search", {"epoch": 1})
            inside.checkpoint("search", {"epoch": 2})
            inside.finish("search", {"accuracy": 0.5}, {"w": torch.ones(2)})
        RunFolder(folder.path, CONFIG, resume=True, redo="search").close()

    for _ in moments(monkeypatch, act):
        with RunFolder(folder.path, CONFIG, resume=True) as resumed:
            state, found = resumed.restore("search"), resumed.finished("search")
            seen.add((state["epoch"] if state else None, found is not None))
            assert found in (None, {"accuracy": 0.5})
            if found is not None:
                assert torch.equal(resumed.weights("search")["w"], torch.ones(2))
        assert not list(folder.path.rglob("*.part"))
    assert seen == {(1, False), (2, False), (None, True), (None, False)}


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
    folder.put("search", {"weights/search.pt": pickle.dumps(_Code())})
    with pytest.raises(InputError, match=r"search\.pt: cannot be read back"):
        folder.weights("search")
    assert capsys.readouterr().out == ""


# ------------------------------------------------------------------------------------------ damage


def finished(path: Path) -> None:
    """A run of two phases, the second under way."""
    with RunFolder(path, CONFIG, resume=False) as folder:
        folder.begin_with("workload.yaml", "layers: 1")
        for phase in ("warm_up", "tune"):
            folder.log({"phase": phase, "epoch": 0})
            folder.checkpoint(phase, {"epoch": 1})
            if phase == "warm_up":
                folder.finish(phase, {"accuracy": 0.5}, {"w": torch.ones(2)})
                folder.put(f"{phase}.figures", {"mappings/a.yaml": "layers: {}"})
        folder.put("result", {"result.json": "{}", "front.png": b"png"})


PHASES = {
    "config.yaml": "start", "environment.json": "start", "workload.yaml": "start", "done/warm_up.json": "warm_up",
    "weights/warm_up.pt": "warm_up", "mappings/a.yaml": "warm_up.figures", "checkpoint.pt": "tune",
    "metrics.jsonl": "metrics", "result.json": "result", "front.png": "result",
}  # fmt: skip


def _other_keys(path: Path) -> None:
    torch.save({"another": torch.ones(2)}, path)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-3]),
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(b"\x00\xff garbage"),
    **{text: lambda path, text=text: path.write_text(text) for text in ("{}", "[]", "null", "3")},  # type: ignore[misc]
    "other keys": _other_keys,
    "missing": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a link": lambda path: (path.rename(path.parent.parent / "x"), path.symlink_to(path.parent.parent / "x")),
}


@pytest.mark.parametrize("how", DAMAGES)
def test_whatever_is_wrong_with_a_file_is_named_with_what_to_do(how: str, tmp_path: Path) -> None:
    """Each file of a run that is under way: opening it names the file and its phase, nothing is changed, and doing that
    phase again forgets it and what is behind it, and keeps the rest."""
    for name, phase in PHASES.items():
        path = tmp_path / name.replace("/", "_") / "run"
        finished(path)
        if name == "result.json" and how == "{}":
            continue  # which is what stands there
        DAMAGES[how](path / name)
        before = {p: p.lstat().st_mtime_ns for p in path.rglob("*") if p.name != "lock"}
        with pytest.raises(Damaged) as caught:
            RunFolder(path, CONFIG, resume=True)
        assert str(caught.value).startswith(f"{path / name}: ")
        assert f"--resume --redo {phase} does that again" in str(caught.value)
        assert {p: p.lstat().st_mtime_ns for p in path.rglob("*") if p.name != "lock"} == before
        if how == "a folder":
            continue  # which nobody removes but its owner
        with RunFolder(path, CONFIG, resume=True, redo=phase) as folder:
            left = set(folder.files.known)
        order = ["start", "warm_up", "warm_up.figures", "tune", "result"]
        gone = {phase} if phase in ("metrics", "result") else set(order[order.index(phase) :])
        anew = {"config.yaml", "environment.json"} | ({"metrics.jsonl"} if phase == "metrics" else set())
        if phase == "start":
            gone |= {"metrics"}
        assert left == {other for other in PHASES if PHASES[other] not in gone} | anew


def test_another_run_s_file_is_not_taken_for_ours(tmp_path: Path) -> None:
    """Valid in itself: a phase's finding of another run, and one of a phase that this run has not finished."""
    finished(tmp_path / "run")
    with RunFolder(tmp_path / "other", CONFIG, resume=False) as other:
        other.finish("warm_up", {"accuracy": 0.9}, {"w": torch.zeros(2)})
        other.finish("tune", {"accuracy": 0.9})
    (tmp_path / "other/done/tune.json").rename(tmp_path / "run/done/tune.json")
    with RunFolder(tmp_path / "run", CONFIG, resume=True) as folder:
        assert folder.finished("tune") is None
    (tmp_path / "other/done/warm_up.json").rename(tmp_path / "run/done/warm_up.json")
    with pytest.raises(Damaged, match=r"done/warm_up\.json: is not what the run wrote"):
        RunFolder(tmp_path / "run", CONFIG, resume=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        *((text, "is not the manifest of a run") for text in ("", "{}", "[]", "null", "3", "\x00", "{" * 99999)),
        ('{"format": 2, "files": {"../../x": {"phase": "start", "sha256": ["0"]}}}', "is not the manifest of a run"),
        ('{"format": 2, "files": {"config.yaml": {"phase": 3, "sha256": [""]}}}', "is not the manifest of a run"),
        ('{"format": 3, "files": {}}', "has format 3; this version reads 2"),
        (None, "is missing: an older version wrote the run"),
    ],
)
def test_a_folder_without_its_manifest_is_not_gone_on_with(content: str | None, message: str, tmp_path: Path) -> None:
    finished(tmp_path)
    if content is None:
        (tmp_path / "manifest.json").unlink()
    else:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(InputError, match=message):
        RunFolder(tmp_path, CONFIG, resume=True)
    if content is None:
        with pytest.raises(InputError, match="there is no run to do again"):
            RunFolder(tmp_path, CONFIG, resume=True, redo="start")
        return
    with RunFolder(tmp_path, CONFIG, resume=True, redo="start") as folder:
        assert set(folder.files.known) == {"config.yaml", "environment.json"}
        assert folder.metrics() == []


def test_a_phase_that_there_is_not_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    finished(tmp_path / "run")
    with pytest.raises(InputError, match=r"it has start, warm_up, warm_up\.figures, tune, result, metrics"):
        RunFolder(tmp_path / "run", CONFIG, resume=True, redo="tuna")
    with pytest.raises(InputError, match="--redo tune: goes with --resume"):
        RunFolder(tmp_path / "run", CONFIG, resume=False, redo="tune")


# ------------------------------------------------------------------------------------------ links and locks


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    """Links laid at every name that a run is going to write, half-written files among them; the folder's own may be
    one."""
    target, real = tmp_path / "target", tmp_path / "real"
    target.write_text("mine")
    real.mkdir()
    (tmp_path / "run").symlink_to(real)
    finished(tmp_path / "run")
    for name in ("done/tune.json", "checkpoint.pt.part", "done/tune.json.part", "manifest.json.part"):
        (real / name).symlink_to(target)
    with RunFolder(tmp_path / "run", CONFIG, resume=True) as folder:
        folder.checkpoint("tune", {"epoch": 2})
        folder.finish("tune", {"accuracy": 1.0})
    assert target.read_text() == "mine"
    assert not any(path.is_symlink() for path in real.rglob("*"))


def test_a_folder_within_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "done").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="done: is a link"):
        RunFolder(tmp_path / "run", CONFIG, resume=True)
    assert not list((tmp_path / "elsewhere").iterdir())


HOLD = """
import sys
from pathlib import Path
from cosoc.search.manifest import lock
lock(Path(sys.argv[1]))
print("locked", flush=True)
sys.stdin.read()
"""


def test_the_second_run_at_once_is_refused_and_a_kill_leaves_no_lock(tmp_path: Path) -> None:
    finished(tmp_path / "run")
    words = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"locked\n"
        with pytest.raises(InputError, match="another run is at work there"):
            RunFolder(tmp_path / "run", CONFIG, resume=True)
        other.kill()
    RunFolder(tmp_path / "run", CONFIG, resume=True).close()


def test_a_reader_sees_a_run_that_is_at_work(tmp_path: Path) -> None:
    """The manifest was read, then the run went on: what is read is what it wrote since."""
    with RunFolder(tmp_path / "run", CONFIG, resume=False) as folder:
        folder.put("result", {"result.json": "1"})
        reader = Files(tmp_path / "run", to_read=True)
        folder.put("result", {"result.json": "2"})
        assert reader.text("result.json") == "2"
