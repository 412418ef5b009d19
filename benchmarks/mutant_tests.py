"""Which tests run which lines of sim/: recorded once for each test file, by coverage, test by test.

For mutants.py, which runs this file in a copy of the tree. What a fixture of a wider scope than a test does counts for
every test that asks for that fixture. Compiled functions are not seen, nor are processes that tests start.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import sys
from collections.abc import Generator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

LIMIT_S = 8.0  # of processor time: a test beyond it is not recorded, as none so slow is run for mutants
ALIKE = 8  # cases of one parametrised test that are recorded, spread over all of them
LINES, TESTS = "lines.coverage", "tests.json"
FIXTURE = "fixture "


class Slow(BaseException):
    """A test beyond the limit."""


class Recorder:
    """A pytest plugin that tells coverage which test or fixture is running, and takes its processor time."""

    def __init__(self, coverage: Any) -> None:
        self.coverage = coverage
        self.tests: dict[str, dict[str, Any]] = {}
        self.fixtures: dict[str, float] = {}
        self.failed: set[str] = set()
        self._context = ""

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        alike: dict[str, list[pytest.Item]] = {}
        for item in items:
            alike.setdefault(item.nodeid.partition("[")[0], []).append(item)
        items[:] = [item for cases in alike.values() for item in cases[:: -(-len(cases) // ALIKE)]]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        def over(signum: int, frame: FrameType | None) -> None:
            raise Slow

        start, spent_s = _spent_s(), sum(self.fixtures.values())
        self._switch(item.nodeid)
        signal.signal(signal.SIGVTALRM, over)
        signal.setitimer(signal.ITIMER_VIRTUAL, LIMIT_S)
        try:
            return (yield)
        except Slow:
            self.failed.add(item.nodeid)
            return True
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            own_s = _spent_s() - start - (sum(self.fixtures.values()) - spent_s)
            names = [_name(definition) for definition in _wide(item)]
            self.tests[item.nodeid] = {"cpu_s": round(own_s, 3), "fixtures": names}
            self._switch("")

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> Generator[None, Any, Any]:
        if fixturedef.scope == "function":
            return (yield)
        before, start, inner = self._context, _spent_s(), sum(self.fixtures.values())
        self._switch(FIXTURE + _name(fixturedef))
        try:
            return (yield)
        finally:
            own_s = _spent_s() - start - (sum(self.fixtures.values()) - inner)
            self.fixtures[_name(fixturedef)] = round(self.fixtures.get(_name(fixturedef), 0) + own_s, 3)
            self._switch(before)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.outcome != "passed":
            self.failed.add(report.nodeid)

    def _switch(self, context: str) -> None:
        self._context = context
        self.coverage.switch_context(context)


def _spent_s() -> float:
    """Processor time of this process and of those that it has waited for, s."""
    return sum(os.times()[:4])


def _wide(item: pytest.Item) -> list[Any]:
    """Fixtures of wider scopes that a test asks for, those that they ask for included."""
    known = item._fixtureinfo.name2fixturedefs if isinstance(item, pytest.Function) else {}
    return [found[-1] for found in known.values() if found and found[-1].scope != "function"]


def _name(definition: Any) -> str:
    return f"{definition.baseid}::{definition.argname}"


def digest(path: Path) -> str:
    """Of a test file: one that has changed is recorded anew."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def record(tree: Path, folder: Path, files: list[str]) -> None:
    """Add what the tests of some files run to the recordings in a folder. Each file is one session of pytest, and is
    written when it ends."""
    import coverage

    known = json.loads((folder / TESTS).read_text()) if (folder / TESTS).exists() else {}
    for number, file in enumerate(files):
        lines = coverage.Coverage(data_file=str(folder / LINES), include=[str(tree / "sim" / "*")], config_file=False)
        lines.load()
        recorder = Recorder(lines)
        lines.start()
        with open(os.devnull, "w") as nobody, contextlib.redirect_stdout(nobody):
            words = [file, "-q", "-p", "no:cacheprovider", "--tb=no"]
            status = pytest.main(words, plugins=[recorder])
        lines.stop()
        lines.save()
        kept = {name: of for name, of in recorder.tests.items() if name not in recorder.failed}
        known[file] = {"digest": digest(tree / file), "tests": kept, "fixtures": recorder.fixtures}
        (folder / TESTS).write_text(json.dumps(known))
        spent = sum(of["cpu_s"] for of in kept.values()) + sum(recorder.fixtures.values())
        left = sorted(set(recorder.tests) - set(kept))
        print(f"{number + 1}/{len(files)} {file}: {len(kept)} tests, {spent:.0f} s, status {status}", *left, flush=True)


if __name__ == "__main__":
    record(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
