"""The results file of a campaign: what is in it is what a campaign wrote, or is named and never used."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from cosoc.search.campaigns import run
from cosoc.search.campaigns.plan import Task, load_plan, tasks
from cosoc.search.campaigns.run import Done
from cosoc.search.campaigns.store import Store, simulated_before
from cosoc.search.campaigns.work import perform
from cosoc.search.manifest import Damaged
from cosoc.sim.errors import InputError

NAMES = ("a", "b", "c")


def task(name: str) -> Task:
    return Task("simulate", {"soc": "diana", "workload": name, "set": {}})


def result(name: str) -> dict[str, Any]:
    return {"digest": f"program of {name}", "engine": "e", "latency_s": 1.0, "note": "x" * 3000}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Three finished tasks."""
    file = tmp_path / "results.sqlite"
    store = Store(file, "the plan", resume=False)
    for name in NAMES:
        store.record(task(name), {"result": result(name), "wall_s": 0.5})
    store.close()
    return file


def again(path: Path, redo: str | None = None) -> set[str]:
    """The tasks that a resumed campaign need not run."""
    store = Store(path, "the plan", resume=True, redo=redo)
    try:
        known = store.finished()
    finally:
        store.close()
    return {name for name in NAMES if task(name).id in known}


def changed(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def test_what_was_found_is_found_again_by_program_and_engine(path: Path) -> None:
    assert simulated_before(str(path), "program of b", "e") == result("b")
    assert simulated_before(str(path), "program of b", "another") is None
    assert simulated_before(str(path), "program of x", "e") is None


def _middle(content: bytes, new: bytes) -> bytes:
    return content[: len(content) // 2] + new + content[len(content) // 2 + len(new) :]


WHOLE: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda content: content[: len(content) // 2],
    "garbage": lambda content: b"garbage" * 1000,
    "half garbage": lambda content: _middle(content, b"garbage" * 500),
    **{text: lambda content, text=text: text.encode() for text in ("{}", "[]", "null", "3")},  # type: ignore[misc]
}


@pytest.mark.parametrize("how", WHOLE)
def test_a_damaged_file_is_named_and_begun_anew_where_that_is_asked_for(how: str, path: Path) -> None:
    damage = WHOLE[how]
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(Damaged, match=r"results\.sqlite: .*is not what the campaign wrote.*--resume --redo ") as caught:
        again(path)
    assert "\n" not in str(caught.value)
    assert again(path, redo=caught.value.phase) <= {*NAMES}
    assert again(path, redo="start") == set()


def test_a_file_that_has_been_emptied_has_nothing(path: Path) -> None:
    """Nothing of it is used: every task runs again."""
    path.write_bytes(b"")
    assert again(path) == set()


@pytest.mark.parametrize(
    "change",
    [
        "update tasks set result = replace(result, '1.0', '0.5') where id = '{}'",
        "update tasks set result = 'null', status = 'failed', error = 'x' where id = '{}'",
        "update tasks set spec = '{{}}' where id = '{}'",
        "update tasks set sha256 = '' where id = '{}'",
    ],
)
def test_a_changed_row_is_named_by_its_task(change: str, path: Path) -> None:
    """And run again, alone, where that is asked for. A row without a change to it is no reason to look for one."""
    changed(path, change.format(task("b").id))
    with pytest.raises(Damaged, match=f"task {task('b').id} is not .*--resume --redo {task('b').id} "):
        again(path)
    found = simulated_before(str(path), "program of b", "e")
    assert found in (None, result("b"))
    assert again(path, redo=task("b").id) == {"a", "c"}
    assert again(path) == {"a", "c"}


def test_a_task_of_another_row_is_not_taken_for_its_own(path: Path) -> None:
    """Two tasks' results exchanged, each valid in itself, digests and all."""
    a, b = (task(name).id for name in ("a", "b"))
    changed(path, f"update tasks set id = 'x' where id = '{a}'", f"update tasks set id = '{a}' where id = '{b}'")
    with pytest.raises(Damaged):
        again(path)


@pytest.mark.parametrize("statement", ["drop table tasks", "drop table plan", "pragma user_version = 1"])
def test_another_file_is_refused(statement: str, path: Path) -> None:
    changed(path, statement)
    message = "has format 1; this version reads 2" if "version" in statement else "is not what the campaign wrote"
    with pytest.raises(InputError, match=message):
        again(path)


def test_another_plan_is_refused_and_stays(path: Path) -> None:
    for redo in (None, "start"):
        with pytest.raises(InputError, match="holds the results of another plan"):
            Store(path, "another plan", resume=True, redo=redo)
    assert again(path) == {*NAMES}
    with pytest.raises(InputError, match="has no such task"):
        again(path, redo="nothing")
    with pytest.raises(InputError, match="--redo start: goes with --resume"):
        Store(path, "the plan", resume=False, redo="start") if path.unlink() is None else None


def test_links_are_not_written_through_and_two_at_once_are_refused(path: Path, tmp_path: Path) -> None:
    store = Store(path, "the plan", resume=True)
    with pytest.raises(InputError, match="another run is at work there"):
        again(path)
    store.close()
    target = tmp_path / "target"
    path.rename(target)
    path.symlink_to(target)
    with pytest.raises(InputError, match="is a link"):
        again(path)


def test_a_search_s_damaged_folder_is_its_task_s_failure_and_begins_anew_by_its_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that a kill left half-done, and somebody else has changed since: the task says what to do, and its
    folder is cleared where that is done."""
    plan, out = tmp_path / "plan.yaml", tmp_path / "out"
    plan.write_text("search: {soc: [diana], workload: [digits_cnn], space: [tiles]}")
    (search,) = tasks(load_plan(plan))
    folder = out / "runs" / search.id
    whole = perform(search.kind, search.spec, str(folder), None)["result"]
    (folder / "workload.yaml").write_text("{}")
    failed = perform(search.kind, search.spec, str(folder), None)
    assert failed["error"].startswith(f"{folder / 'workload.yaml'}: is not what the run wrote")
    assert f"--resume --redo {search.id} runs the search anew" in failed["error"]
    store = Store(out / "results.sqlite", load_plan(plan).model_dump_json(), resume=False)
    store.record(search, failed)
    store.close()

    class Here:
        def run(self, todo: Sequence[Task], folder: Path, memo: Path) -> Done:
            yield from ((one, perform(one.kind, one.spec, str(folder / one.id), None)) for one in todo)

    monkeypatch.setattr(run, "ProcessPool", lambda workers: Here())
    config = run.SweepConfig(plan, out, 1, resume=True, redo=search.id)
    (row,) = run.sweep(config, lambda done, total, what: None).rows
    assert row["result"] == whole
