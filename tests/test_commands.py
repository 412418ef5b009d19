"""Commands of README and docs are executed: nobody who copies one meets a refusal, and what-ifs change what they are
asked of.

What takes seconds runs to its end. What takes longer (searches, fits, whole sets of rows, large simulations) runs up to
there: its words, names, files and figures have then been read. `benchmarks/commands.py` runs all to the end and says
how long each takes; what takes a minute or more says so where it stands.
"""

from __future__ import annotations

import itertools
import json
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from cosoc import cli
from cosoc.search import measured
from cosoc.search.spaces import split_space
from cosoc.sim.report.explain import SHOWS, what_if

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from commands import LONG, RESULTS, Command, commands, pages, shown_files  # noqa: E402

Say = Callable[..., tuple[int, str, str]]
BAD_INPUT = 2


class Reached(Exception):
    """All that a command reads has been read; what is left takes long."""


def _reached(*_: Any, **__: Any) -> NoReturn:
    raise Reached


@pytest.fixture
def up_to_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "reporting", _reached)  # searches, fits, campaigns, sets of rows
    monkeypatch.setattr(cli, "_announce_compilation", _reached)  # simulations
    monkeypatch.setattr(measured, "cross_validate", _reached)
    monkeypatch.setattr(split_space, "SplitSpace", _reached)  # prices every device before it begins


@pytest.mark.parametrize("page", [page for page in pages() if list(commands(page))], ids=lambda page: page.stem)
def test_every_command_is_accepted(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Say, up_to_the_work: None
) -> None:
    """In a folder with the files that the page shows. What an earlier command of the page would have written may be
    missing, and nothing else."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "sim").symlink_to(ROOT / "sim")  # a page of the project may name its files
    for title, text in shown_files(page).items():
        (tmp_path / title).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / title).write_text(text, encoding="utf-8")
    written: list[str] = []
    for command in commands(page):
        try:
            status, _, said = run(*command.words)
        except Reached:
            status, said = 0, ""
        finally:
            sys.modules.pop("net", None)
        missing = status == BAD_INPUT and any(name in said for name in written if not Path(name).is_file())
        assert status == 0 or missing, f"{command.place}: {command.text}: {said}"
        written += command.writes


def _what_ifs() -> Iterator[Command]:
    for page in pages():
        yield from (one for one in commands(page) if "--what-if" in one.words and one.words[0] == "simulate")


def test_what_ifs_change_the_result() -> None:
    """Each one that a page shows, simulated, by more than is shown as +0.0 %."""
    from cosoc.sim.files.catalog import find_soc
    from cosoc.sim.files.mapping_file import find_mapping
    from cosoc.sim.files.workload_file import find_workload
    from cosoc.sim.simulate import simulate

    shown = list(_what_ifs())
    assert any(one.place.startswith("README.md") for one in shown)
    for command in shown:
        words = command.words
        soc, network = find_soc(words[1]), find_workload(words[2])
        mapping = find_mapping("default", network, soc)
        before = simulate(soc, network, mapping)
        whats = [b for a, b in itertools.pairwise(words) if a == "--what-if"]
        for one in what_if(soc, network, mapping, whats):
            assert one.seconds and abs(one.seconds / before.seconds - 1) >= SHOWS, f"{command.place}: {one.what}"


def test_what_takes_a_minute_says_so() -> None:
    """By the last run of benchmarks/commands.py, in seconds of the processor: `minute` in the line or the next two."""
    taken = {tuple(shlex.split(key)): one for key, one in json.loads(RESULTS.read_text())["commands"].items()}
    known = [one for page in pages() for one in commands(page)]
    measured_ones = [(one, taken["cosoc", *one.words]) for one in known if ("cosoc", *one.words) in taken]
    assert measured_ones
    for command, found in measured_ones:
        if found["status"] == 0 and found["cpu_s"] < LONG:
            continue
        page, number = command.place.split(":")
        lines = (ROOT / page).read_text(encoding="utf-8").splitlines()[int(number) - 1 : int(number) + 2]
        said = f"{command.place}: {command.text} takes {found['cpu_s']:.0f} s"
        assert re.search(r"\bminutes?\b", " ".join(lines)), said
