"""Signals at random moments of every command: a part of robustness.py.

    python benchmarks/signals.py [COMMAND ...] [--number 120] [--quick] [--seed 0] [--json FILE]

A command is started in a session of its own and gets SIGINT, SIGTERM or SIGHUP at a moment drawn from the time that it
takes, every third within the first 0.3 s, where it imports: to the whole group, as a terminal sends it, or to the
command alone. Right is: the end within two seconds with status 128 + n, or the status of a command that was done
before, less the time for which its process waited for a processor that others had (Linux counts that); at most one line
on standard error; no process left; nothing half-written; and a folder with which the command,
resumed, ends as if nothing had been. Moments count from when the command has taken the signals: what is before that
(some 20 ms) is the interpreter's, not ours.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from common import Note, in_pieces, shared
from kills import alive

WITHIN_S = 2.0
QUICK = 6, ("list", "show", "simulate")  # signals to these
GONE_S = 30.0  # how long a command that does not end is waited for
EARLY_S = 0.3  # the imports
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PLAN = """\
simulate:
  soc: [diana]
  workload: [digits_cnn]
  mapping: [all_8bit, min_cost]
  set: {links.l2_read.bytes_per_period: [8, 16]}
search: {soc: [diana], workload: [digits_cnn], space: [tiles]}
"""
OUT = "{out}"  # in a command: a folder of its own
COMMANDS = {
    "list": ["list"],
    "show": ["show", "mapping", "diana", "digits_cnn"],
    "simulate": ["simulate", "diana", "resnet8", "--json", "{out}.json"],
    "explain": ["explain", "{run}"],
    "report": ["report", "{run}", "--out", "{out}.html"],
    "calibrate": ["calibrate", "diana", "--samples", "48", "--out", "{out}.json"],
    "channels": ["search", "diana", "digits_cnn", "--epochs", "2", "--strengths", "1", "--out", OUT],
    "operators": ["search", "darkside", "digits_cnn", "--space", "operators", "--epochs", "2", "--strengths", "1",
                  "--out", OUT],
    "tiles": ["search", "gemmini", "resnet8", "--space", "tiles", "--out", OUT],
    "splits": ["search", "homogeneous_gpu_2", "digits_cnn", "--space", "splits", "--inferences", "50", "--out", OUT],
    "sweep": ["sweep", "{plan}", "--workers", "2", "--out", OUT],
    "validate": ["validate", "boards"],
}  # fmt: skip


@dataclass
class Tally:
    """What came of the signals. ended: by status; longest_s: from the signal to the end."""

    sent: int = 0
    early: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    longest_s: float = 0.0
    wrong: list[str] = field(default_factory=list)


def words_of(name: str, folder: Path, resume: bool = False) -> list[str]:
    """A command's words, its files within a folder."""
    places = {
        "{out}": str(folder / "out"),
        "{plan}": str(folder.parent / "plan.yaml"),
        "{run}": str(folder.parent / "run"),
    }
    words = list(COMMANDS[name])
    for key, place in places.items():
        words = [word.replace(key, place) for word in words]
    return [sys.executable, "-m", "cosoc", *words, *(["--resume"] if resume else [])]


def run(words: list[str], folder: Path) -> subprocess.Popen[bytes]:
    """A command in a session of its own; what it says on standard error goes into a file."""
    with (folder / "said").open("wb") as said:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen(words, start_new_session=True, stdout=subprocess.DEVNULL, stderr=said, env=environment)


def prepare(folder: Path, names: Collection[str]) -> dict[str, float]:
    """What commands read, and how long each of these takes, s."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "first").mkdir(parents=True)
    (folder / "plan.yaml").write_text(PLAN)
    took = {}
    for name in ("tiles", *(name for name in names if name != "tiles")):
        start = time.monotonic()
        process = run(words_of(name, folder / "first"), folder / "first")
        if process.wait():
            raise RuntimeError(f"{name}: {(folder / 'first' / 'said').read_text()}")
        took[name] = time.monotonic() - start
        if name == "tiles":
            (folder / "first" / "out").rename(folder / "run")
        shutil.rmtree(folder / "first" / "out", ignore_errors=True)
    return took


def queued(group: int) -> dict[int, float]:
    """Seconds for which each process of a group (of its threads, the one that did so longest) was ready and had no
    processor; nothing where the system does not say."""
    out = {}
    for pid in alive(group):
        with contextlib.suppress(OSError):
            stats = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/schedstat")]
            out[pid] = max((int(stat[1]) for stat in stats), default=0) / 1e9
    return out


def takes(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler of its own for a signal."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False


def one(name: str, number: signal.Signals, moment_s: float, group: bool, folder: Path, tally: Tally) -> None:
    """One signal at one moment."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    process = run(words_of(name, folder), folder)
    case = f"{name}: {number.name} after {moment_s:.2f} s"
    while process.poll() is None and not takes(process.pid, signal.SIGTERM):
        time.sleep(0.001)  # of SIGINT Python has a handler from its own beginning
    try:
        process.wait(moment_s)
    except subprocess.TimeoutExpired:
        tally.sent += 1
        tally.early += moment_s < EARLY_S
        (os.killpg if group else os.kill)(process.pid, number)
    sent, before = time.monotonic(), queued(process.pid)
    waits = dict(before)
    while process.poll() is None and time.monotonic() < sent + GONE_S:
        waits |= queued(process.pid)  # of a process that has ended, what was seen last
        time.sleep(0.02)
    if process.poll() is None:
        tally.wrong.append(f"{case}: has not ended after {GONE_S} s")
    busy_s = max((waited - before.get(pid, 0.0) for pid, waited in waits.items()), default=0.0)
    took = time.monotonic() - sent - busy_s
    tally.longest_s = max(tally.longest_s, took)
    while (left := alive(process.pid)) and time.monotonic() < sent + max(WITHIN_S, took + 0.2) + busy_s:
        time.sleep(0.02)
    if left:
        tally.wrong.append(f"{case}: {len(left)} processes left")
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    status = process.returncode
    tally.ended[str(status)] += 1
    said = (folder / "said").read_text(errors="replace")
    if status not in (0, 128 + number):
        tally.wrong.append(f"{case}: status {status}: {said[-300:]}")
    if took > WITHIN_S:
        tally.wrong.append(f"{case}: {took:.1f} s")
    notes = [line for line in said.splitlines() if line.startswith(("Traceback", "Exception", "resource_tracker"))]
    if notes or "Error" in said:
        tally.wrong.append(f"{case}: says {said[-300:]}")
    parts = [path.name for path in folder.rglob("*") if path.name.endswith(".part") or path.name.startswith(".out")]
    if parts and name not in ("channels", "operators", "tiles", "splits", "sweep"):
        tally.wrong.append(f"{case}: leaves {parts}")


def resumed(name: str, folder: Path, tally: Tally) -> None:
    """A folder that a signal has left can be gone on with, or begun if nothing is there."""
    if "{out}" not in COMMANDS[name]:
        return
    out = folder / "out"
    process = run(words_of(name, folder, out.exists() and any(out.iterdir())), folder)
    if process.wait():
        tally.wrong.append(f"{name}: resumed, status {process.returncode}: {(folder / 'said').read_text()[-300:]}")


def measure(number: int, seed: int, folder: Path, names: Collection[str], lanes: int, note: Note) -> None:
    """So many signals, shared out among these commands, one after the other; every fourth folder is gone on with."""
    for which in SIGNALS:
        if signal.getsignal(which) is signal.SIG_IGN:  # as of a job that a shell has put in the background: commands
            signal.signal(which, signal.SIG_DFL)  # would inherit it, and rightly go on
    took = prepare(folder, names)
    for name, most in shared(number, names).items():
        tally, rng, start = Tally(), Random(f"{seed} signals {name}"), time.monotonic()
        for i in range(most):
            early = rng.random() < 1 / 3
            moment = rng.uniform(0, EARLY_S if early else max(EARLY_S, took[name]))
            one(name, SIGNALS[i % len(SIGNALS)], moment, rng.random() < 0.5, folder / "one", tally)
            if i % 4 == 0:
                resumed(name, folder / "one", tally)
        note(name, {
            "sent": tally.sent, "early": tally.early, "statuses": tally.ended, "longest_s": round(tally.longest_s, 2),
            "wall_s": round(time.monotonic() - start), "wrong": tally.wrong,
        })  # fmt: skip


__all__ = ["COMMANDS", "measure"]

if __name__ == "__main__":
    in_pieces(__doc__, "signals", COMMANDS, 120, QUICK, measure)
