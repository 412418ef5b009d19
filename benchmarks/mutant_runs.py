"""The tests of one mutant: which, and what comes of them in a forked process. For mutants.py."""

from __future__ import annotations

import ast
import contextlib
import gc
import importlib.util
import json
import os
import resource
import select
import signal
import sys
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from mutant_tests import FIXTURE, LINES, TESTS
from mutation import MODULE, Mutant

OWN = 15  # tests of files named after the module that come before all others; of a kernel, all of them
FIRST, FIRST_S = 40, 12.0  # tests of the first round, and their processor time
REST_S = 10.0  # processor time of the second
ALIKE = 2  # tests of one parametrised function in the first round
SLACK_S, SLACK = 5.0, 6.0  # a test may take so long, and so many times its own time
NEW_S = 5.0  # a test that is not recorded
COMPILE_S = 120.0  # more than compiling all kernels takes
ROUND_S = 30.0  # added to the times of a round's tests: imports, collection, compilation
WALL = 12.0  # seconds a mutant may take for each of processor time: it may be waiting for something
BROKEN = 99  # status of a process that could not run tests
MEMORY_BYTES = 4 << 30  # beyond what is there when it begins
IMPORTED = (
    "numpy", "numba", "scipy.optimize", "yaml", "pydantic", "simpy", "hypothesis", "matplotlib.figure", "torch",
    "torch.export", "onnx", "typer", "rich.console",
)  # fmt: skip


class Recordings:
    """Which tests run which lines, as mutant_tests.py has recorded it, and the processor time of each."""

    def __init__(self, folder: Path) -> None:
        from coverage import CoverageData

        self._data = CoverageData(str(folder / LINES))
        self._data.read()
        self.cost_s: dict[str, float] = {}
        self._users: dict[str, list[str]] = defaultdict(list)
        for of in json.loads((folder / TESTS).read_text()).values():
            for test, told in of["tests"].items():
                self.cost_s[test] = told["cpu_s"] + sum(of["fixtures"].get(name, 0.0) for name in told["fixtures"])
                for name in told["fixtures"]:
                    self._users[FIXTURE + name].append(test)
        for test, cost_s in list(self.cost_s.items()):  # all cases of a parametrised function, by its name
            if "[" in test:
                self.cost_s[_function(test)] = self.cost_s.get(_function(test), 0.0) + cost_s

    @cache  # noqa: B019 - one for the whole run
    def lines(self, file: str) -> dict[int, frozenset[str]]:
        """Tests by line of a file."""
        out: dict[int, frozenset[str]] = {}
        measured = next((name for name in self._data.measured_files() if name.endswith(f"/{file}")), None)
        for line, contexts in (self._data.contexts_by_lineno(measured) if measured else {}).items():
            found = {test for context in contexts for test in self._users.get(context, [context])}
            out[line] = frozenset(found & self.cost_s.keys())
        return out

    def touching(self, mutant: Mutant) -> set[str]:
        """Tests that run one of the lines that count; where nothing sees that (constants, compiled functions), those
        that run anything of the file."""
        known, (first, last) = self.lines(mutant.file), mutant.lines
        if mutant.compiled or mutant.lines == MODULE:
            first, last = 1, 1 << 30
        return {test for line, tests in known.items() if first <= line <= last for test in tests}

    def named_after(self, file: str) -> set[str]:
        """Tests of files that are named after a module: test_memory_use.py, or test_engines.py after engine_fast."""
        stem = Path(file).stem
        names = {test: Path(test.partition("::")[0]).stem for test in self.cost_s}
        exact = {test for test, name in names.items() if name == f"test_{stem}"}
        word = stem.partition("_")[0].rstrip("s")
        return exact or {test for test, name in names.items() if name.startswith(f"test_{word}")}

    def rounds(self, mutant: Mutant) -> tuple[list[str], list[str]]:
        """The tests of a mutant, in two rounds: some of the fastest that run it, few of a parametrised function; then
        the others, those named after the module and all cases of a function, by its name."""
        touching, own = self.touching(mutant), self.named_after(mutant.file)
        order = sorted(touching, key=lambda test: (self.cost_s[test], test))
        before = [test for test in order if test in own]
        before = before if mutant.compiled else before[:OWN]
        order = before + [test for test in order if test not in set(before)]
        alike: Counter[str] = Counter()
        first: list[str] = []
        for test in order:
            alike[_function(test)] += 1
            if alike[_function(test)] <= ALIKE and len(first) < FIRST:
                first.append(test)
        first = self._within(first, FIRST_S)
        named = sorted(own - touching, key=lambda test: (self.cost_s[test], test)) if not mutant.compiled else []
        others = list(dict.fromkeys(_function(test) for test in [*order, *named]))
        return first, self._within(others, REST_S)

    def _within(self, tests: list[str], limit_s: float) -> list[str]:
        """As many of the tests, from the first, as take no longer together."""
        out, spent_s = [], 0.0
        for test in tests:
            if spent_s + self.cost_s[test] <= limit_s:
                out.append(test)
                spent_s += self.cost_s[test]
        return out


def _function(test: str) -> str:
    return test.partition("[")[0]


# ---------------------------------------------------------------------------------------------------------------------
# In the process of a mutant


class Watch:
    """A pytest plugin: which test has failed and of what; ends the process where a test takes far beyond its time."""

    def __init__(self, cost_s: dict[str, float], slack_s: float, say: Any) -> None:
        self.cost_s, self.slack_s, self.say, self.test, self.error = cost_s, slack_s, say, "", ""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.test = item.nodeid
        signal.setitimer(signal.ITIMER_VIRTUAL, self.slack_s + SLACK * self.cost_s.get(item.nodeid, NEW_S))
        try:
            return (yield)
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)

    def pytest_exception_interact(self, node: Any, call: Any, report: Any) -> None:
        self.test = self.test or node.nodeid
        self.error = self.error or call.excinfo.exconly().replace("\n", " ")[:200]

    def over(self, signum: int, frame: FrameType | None) -> None:
        self.say("time", self.test, "")
        os._exit(0)


def _work(mutant: Mutant, tests: list[str], cost_s: dict[str, float], stamp: Any, answer: int) -> None:
    """Run tests; how it ends goes into a pipe as a line of JSON."""

    def say(how: str, test: str, error: str) -> None:
        os.write(answer, json.dumps({"how": how, "by": test, "error": error}).encode() + b"\n")

    os.setsid()
    nobody = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nobody, number)
    slack_s = COMPILE_S if mutant.compiled else SLACK_S
    limit = int(ROUND_S + slack_s + SLACK * sum(cost_s.get(test, NEW_S) for test in tests))
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY_BYTES,) * 2)
    _kernels(mutant, stamp)
    _forget(mutant.file)
    watch = Watch(cost_s, slack_s, say)
    signal.signal(signal.SIGVTALRM, watch.over)
    words = ["-x", "-q", "--tb=no", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    status = pytest.main([*tests, *words], plugins=[watch])
    how = {0: "survived", 1: "test"}.get(int(status), "collection" if watch.error else f"status {int(status)}")
    say(how, watch.test if status else "", watch.error)


def _kernels(mutant: Mutant, stamp: Any) -> None:
    """Compiled code of another version of the module is not taken, and none of a mutant's is kept."""
    from numba.core import caching, config

    caching.Cache.save_overload = lambda *given: None
    if not mutant.compiled:
        taken = caching._SourceFileBackedLocatorMixin.get_source_stamp
        name = str(Path(mutant.file).relative_to("sim"))
        caching._SourceFileBackedLocatorMixin.get_source_stamp = lambda self: (
            stamp if str(self._py_file).endswith(name) else taken(self)
        )
        return
    os.environ["NUMBA_OPT"] = "0"  # as compiling takes longer than running
    config.reload_config()
    load = caching.Cache.load_overload
    # Kernels of one package call one another, and hold what they call.
    package = "cosoc." + ".".join(Path(mutant.file).with_suffix("").parts[:-1])
    caching.Cache.load_overload = lambda self, *given: (
        None if self._py_func.__module__.startswith(package) else load(self, *given)
    )


# ---------------------------------------------------------------------------------------------------------------------
# In the process that forks them


def prepare(tree: Path) -> None:
    """Import what tests need, and sim from its copy in `tree`; forked processes import anew what has changed."""
    os.chdir(tree)
    sys.path.insert(0, str(tree))
    os.environ |= {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    sys.dont_write_bytecode = True
    for module in IMPORTED:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    from hypothesis import Phase, settings

    # A counterexample is all that is asked for, not the smallest, and always the same.
    phases = (Phase.explicit, Phase.generate)
    settings.register_profile("mutants", phases=phases, database=None, derandomize=True, deadline=None)
    settings.load_profile("mutants")
    for name in [name for name in sys.modules if name.partition(".")[0] == "cosoc"]:  # what this benchmark has taken
        del sys.modules[name]
    found = importlib.util.find_spec("cosoc")
    if found is None or not str(found.origin).startswith(str(tree)):
        raise RuntimeError(f"cosoc would come from {found and found.origin}, not from {tree}")
    for path in sorted((tree / "sim").rglob("*.py")):
        importlib.import_module(_module(str(path.relative_to(tree))))
    _imports()
    gc.collect()
    gc.freeze()


def _module(file: str) -> str:
    return "cosoc." + file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


@cache
def _imports() -> dict[str, set[str]]:
    """Of each module of sim that has been imported: those of sim that it imports, inside functions too."""
    names = {name for name in sys.modules if name.startswith("cosoc.sim.")}
    out = {}
    for name in names:
        found = set()
        for node in ast.walk(ast.parse(Path(str(sys.modules[name].__file__)).read_text())):
            if isinstance(node, ast.Import):
                found |= {one.name for one in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found |= {node.module} | {f"{node.module}.{one.name}" for one in node.names}
        out[name] = (found | {one.rpartition(".")[0] for one in found}) & names
    return out


def _forget(file: str) -> None:
    """Have a module, and all that import it or one that does, imported anew."""
    changed, left = set[str](), {_module(file)}
    while left:
        changed |= left
        left = {name for name, imported in _imports().items() if imported & left} - changed
    for name in changed:
        package, _, last = name.rpartition(".")
        del sys.modules[name]
        if hasattr(sys.modules.get(package), last):
            delattr(sys.modules[package], last)


@contextlib.contextmanager
def _written(path: Path, text: str) -> Iterator[None]:
    before, times = path.read_bytes(), path.stat()
    try:
        path.write_text(text)
        yield
    finally:
        path.write_bytes(before)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def run(tree: Path, mutant: Mutant, tests: list[str], cost_s: dict[str, float]) -> dict[str, str]:
    """What comes of a mutant's tests: how (survived, test, time; ended: by memory or a crash; status: of pytest, which
    could not collect them), by which test, the error."""
    from numba.core import caching

    path = tree / mutant.file
    told = path.stat()
    stamp = caching._hash_source_file(str(path), told.st_mtime, told.st_size)
    limit_s = WALL * (ROUND_S + SLACK * sum(cost_s.get(test, NEW_S) for test in tests))
    with _written(path, mutant.source):
        (answers, answer), errors = os.pipe(), os.dup(2)
        child = os.fork()
        if not child:
            try:
                os.close(answers)
                _work(mutant, tests, cost_s, stamp, answer)
            except BaseException:  # of ours, not of the mutant's: pytest takes those
                os.dup2(errors, 2)
                traceback.print_exc(file=sys.__stderr__)
                os._exit(BROKEN)
            os._exit(0)
        os.close(answer)
        os.close(errors)
        try:
            said = _said(answers, limit_s)
        finally:
            os.close(answers)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if said is None:
        return {"how": "time", "by": "", "error": f"{limit_s:.0f} s"}
    if said:
        return dict(json.loads(said.splitlines()[0]))
    if status == BROKEN:
        raise RuntimeError("the process of a mutant could not run its tests")
    return {"how": "time" if status == -signal.SIGXCPU else "ended", "by": "", "error": f"status {status}"}


def _said(answers: int, limit_s: float) -> bytes | None:
    """What a process says until it ends; none if that takes longer."""
    out, until = b"", time.monotonic() + limit_s
    while True:
        if not select.select([answers], [], [], max(0.0, until - time.monotonic()))[0]:
            return None
        some = os.read(answers, 4096)
        if not some or b"\n" in some:
            return out + some
        out += some
