"""Commands in hostile surroundings: a part of robustness.py.

    python benchmarks/environments.py [COMMAND ...] [--number 418] [--lanes 2] [--quick] [--seed 0] [--json FILE]

Every command of COMMANDS is run in every environment of ENVIRONMENTS, in a process and a folder of its own. Right is: a
documented status (0; 1 and 2 with one line; 141 without), which is that of a quiet machine or one that the environment
allows; no traceback, at most one line on standard error, the end within LIMIT_S, and no half-written file.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from common import Note, in_pieces, shared

LIMIT_S = 300  # of wall time; the machine may be busy
STATUSES = (0, 1, 2, 141)
QUICK = 6, ("help", "show workload", "simulate")  # pairs with these

COMMANDS = {
    "help": "--help",
    "list": "list",
    "show soc": "show soc diana",
    "show workload": "show workload net.yaml",
    "show mapping": "show mapping diana digits_cnn",
    "show program": "show program diana digits_cnn",
    "simulate": "simulate diana net.yaml",
    "simulate, files": "simulate diana digits_cnn --json a.json --trace t.json --gantt g.png --report r.html --quiet",
    "simulate, ranges": "simulate diana digits_cnn --ranges --quiet",
    "explain": "explain result.json",
    "compare": "compare result.json result.json",
    "report": "report result.json --out page.html",
    "calibrate": "calibrate diana --samples 6 --quiet --json c.json",
    "search tiles": "search gemmini digits_cnn --space tiles --time-budget 1 --quiet --out run",
    "search channels": "search diana digits_cnn --epochs 1 --strengths 1 --quiet --out run",
    "search splits": "search homogeneous_cpu_2 digits_cnn --space splits --inferences 20 --quiet --out run",
    "sweep": "sweep plan.yaml --workers 1 --quiet --out sweep",
    "doctor": "doctor --quiet --json d.json",
    "a mistake": "simulate diana nothing",
}


@dataclass(frozen=True)
class Environment:
    """shell: the command with what surrounds it; {} stands for the command. variables: set beside those that are.
    allowed: statuses beside that of a quiet machine."""

    shell: str = "exec {}"
    variables: Mapping[str, str] = field(default_factory=dict)
    allowed: tuple[int, ...] = ()


NOWHERE = "/proc/nowhere"
ENVIRONMENTS = {
    "quiet": Environment(),
    "stdout full": Environment("{} > /dev/full", allowed=(2,)),
    "stdout closed": Environment("{} >&-", allowed=(2,)),
    "stdout read no further": Environment("{} | true; exit ${{PIPESTATUS[0]}}", allowed=(141,)),
    "stderr full": Environment("{} 2> /dev/full"),
    "stderr closed": Environment("{} 2>&-"),
    "all closed": Environment("{} <&- >&- 2>&-", allowed=(2,)),
    "ascii": Environment(variables={"PYTHONIOENCODING": "ascii"}),
    "latin-1": Environment(variables={"PYTHONIOENCODING": "latin-1"}),
    "utf-16": Environment(variables={"PYTHONIOENCODING": "utf-16"}),
    "locale C": Environment(variables={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
    "terminal of one column": Environment(variables={"COLUMNS": "1", "TERM": "dumb"}),
    "columns nonsense": Environment(variables={"COLUMNS": "wide", "LINES": "-1", "TERM": "nonsense"}),
    "no JIT": Environment(variables={"NUMBA_DISABLE_JIT": "1"}, allowed=(1, 2)),
    "MPLBACKEND nonsense": Environment(variables={"MPLBACKEND": "nonsense"}),
    "threads nonsense": Environment(variables={"OMP_NUM_THREADS": "many"}, allowed=(2,)),
    "caches nowhere": Environment(
        variables={"HOME": NOWHERE, "XDG_CACHE_HOME": NOWHERE, "XDG_CONFIG_HOME": NOWHERE, "MPLCONFIGDIR": NOWHERE,
                   "NUMBA_CACHE_DIR": NOWHERE}, allowed=(1,)
    ),
    "temporary files nowhere": Environment(variables={"TMPDIR": NOWHERE}),
    "no file may grow": Environment("ulimit -f 0; exec {}", allowed=(1, 2)),
    "20 open files": Environment("ulimit -n 20; exec {}", allowed=(1, 2)),
    "memory 60 MB": Environment("ulimit -v 60000; exec {}", allowed=(1,)),
    "memory 400 MB": Environment("ulimit -v 400000; exec {}", allowed=(1, 2)),
    "memory 1 GB": Environment("ulimit -v 1000000; exec {}", allowed=(1, 2)),
}  # fmt: skip


def prepared(folder: Path) -> None:
    """What commands read: a network whose name has an escape and a letter beyond ASCII, a result, a plan."""
    _run("show workload digits_cnn --yaml > net.yaml", folder, Environment())
    text = (folder / "net.yaml").read_text(encoding="utf-8")
    (folder / "net.yaml").write_text(text.replace("name: digits_cnn", 'name: "a\\x1bé"', 1), encoding="utf-8")
    _run("simulate diana digits_cnn --quiet --json result.json", folder, Environment())
    (folder / "elsewhere.yaml").write_text("layers: {elsewhere: {parts: {digital: 1}}}\n")  # whose task fails
    plan = "simulate: {soc: [diana], workload: [digits_cnn], mapping: [default, elsewhere.yaml]}\n"
    (folder / "plan.yaml").write_text(plan)


def _run(words: str, folder: Path, environment: Environment) -> tuple[int | None, str]:
    """(exit status, None past LIMIT_S; standard error) of a command in a folder."""
    line = f"{sys.executable} -m cosoc {words}"
    variables = {"OMP_NUM_THREADS": "1"} | os.environ | environment.variables
    with (folder / ".said").open("w+b") as said:
        process = subprocess.Popen(["bash", "-c", environment.shell.format(line)], cwd=folder, env=variables,
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said,
                                   start_new_session=True)  # fmt: skip
        try:
            status: int | None = process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            status = None
            os.killpg(process.pid, 9)
            process.wait()
        said.seek(0)
        encoding = variables.get("PYTHONIOENCODING", "utf-8")
        return status, said.read().decode(encoding, "replace")


def wrong(status: int | None, said: str, expected: int, allowed: tuple[int, ...], folder: Path) -> str:
    """What is wrong with how a command ended; "" where nothing is."""
    if status is None:
        return f"no end within {LIMIT_S} s"
    if "Traceback" in said or "Exception ignored" in said:
        return "a traceback: " + said.strip().splitlines()[-1]
    if status not in STATUSES or status not in (expected, *allowed):
        return f"status {status}, and {' or '.join(map(str, sorted({expected, *allowed})))} was right"
    lines = said.count("\n")
    if lines > 1 or (status in (0, 141) and lines):
        return f"{lines} lines at status {status}"
    if "\x1b" in said:
        return "an escape sequence"
    if left := [path.name for path in folder.rglob("*.part*")]:
        return f"half-written: {left}"
    return ""


def _one(command: str, environment: str, made: Path, expected: Mapping[str, int]) -> tuple[str, float]:
    """What is wrong with a command in an environment, and how long it took."""
    around = ENVIRONMENTS[environment]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "here"
        shutil.copytree(made, folder)
        start = time.monotonic()
        status, said = _run(COMMANDS[command], folder, around)
        took = time.monotonic() - start
        silent = "stderr" in environment or environment == "all closed"
        what = wrong(status, "" if silent else said, expected[command], around.allowed, folder)
    return what, took


def measure(number: int, seed: int, folder: Path, names: Collection[str], lanes: int, note: Note) -> None:
    """Run so many pairs of a command and an environment, shared out among these commands and drawn from the seed (all
    environments if there are no more), and each command on a quiet machine. What is wrong, by environment."""
    folder.mkdir(parents=True, exist_ok=True)
    prepared(folder)
    expected = dict.fromkeys(COMMANDS, 0) | {"a mistake": 2, "sweep": 1}
    hostile = [name for name in ENVIRONMENTS if name != "quiet"]
    with ThreadPoolExecutor(lanes) as pool:
        for command, most in shared(number, names).items():
            chosen = random.Random(f"{seed} {command}").sample(hostile, min(most, len(hostile)))
            todo, start = ["quiet", *chosen], time.monotonic()
            ends = list(pool.map(lambda name, command=command: _one(command, name, folder, expected), todo))
            wrong = {name: what for name, (what, _) in zip(todo, ends, strict=True) if what}
            slowest_s = max(took for _, took in ends)
            note(command, {"environments": len(todo), "of": len(ENVIRONMENTS), "slowest_s": round(slowest_s, 1),
                           "wall_s": round(time.monotonic() - start), "wrong": wrong})  # fmt: skip


__all__ = ["COMMANDS", "measure"]

if __name__ == "__main__":
    in_pieces(__doc__, "environments", COMMANDS, len(COMMANDS) * (len(ENVIRONMENTS) - 1), QUICK, measure)
