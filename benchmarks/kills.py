"""kill -9 at random moments of searches in all spaces and chains, of campaigns and of calibrations, each then resumed.

    python benchmarks/kills.py [KIND ...] [--number 100] [--lanes 2] [--quick] [--seed 0] [--json FILE]

A run is started in a session of its own, killed at a moment drawn from the time that an unbroken one takes (processor
time, so that nothing shifts on a busy machine), resumed, and so on until it ends by itself; then it must have left what
the unbroken one left, and no process. A calibration, of which nothing is kept, begins anew, and must not have left half
a file. Of a search all processes are killed at once; of a campaign or calibration all, or the parent alone, whose
workers must then end by themselves, or one worker of a campaign, which the campaign must survive.

So many kills of searches are shared out among the spaces and chains of them, as many of campaigns among three plans and
a calibration. Runs are forked from a process that has imported all that they need, as most of a short run is
importing otherwise; workers import it themselves. The figures of a kind are in FILE as soon as it is done, beside what
FILE has.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from common import Note, in_pieces, shared

LIMIT_S = 1000  # of processor time in one attempt: beyond any
ORPHANS_S = 10  # in which workers end whose parent was killed
POLL_S = 0.02
QUICK = 2, ("tiles", "splits", "sweep")  # kills of searches and of campaigns, of these

DIGITS = ("digits_cnn", "--epochs", "2", "--strengths", "1", "--quiet")
# One chain trains a network, one is decided by costs, one goes over devices with tiles of their own.
CHAINS = {
    "operators+tiles+fusion": ("search", "darkside", "digits_cnn", "--space", "operators+tiles+fusion", "--epochs", "1",
                               "--strengths", "1", "--quiet"),
    "channels+tiles": ("search", "diana", "digits_cnn", "--space", "channels+tiles", "--epochs", "0", "--quiet"),
    "splits+tiles": ("search", "gemmini_4", "digits_cnn", "--space", "splits+tiles", "--inferences", "50", "--quiet"),
}  # fmt: skip
SEARCHES = {
    "tiles": ("search", "gemmini", "digits_cnn", "--space", "tiles", "--quiet"),
    "splits": ("search", "homogeneous_gpu_2", "digits_cnn", "--space", "splits", "--inferences", "50", "--quiet"),
    "channels": ("search", "diana", *DIGITS),
    "operators": ("search", "darkside", *DIGITS, "--space", "operators"),
} | CHAINS
SWEEP = ("sweep", "{plan}", "--workers", "1", "--quiet")
CAMPAIGNS = {
    "sweep": SWEEP, "sweep of splits": SWEEP, "sweep of training": SWEEP,
    "calibrate": ("calibrate", "diana", "--samples", "24", "--quiet"),
}  # fmt: skip
COMMANDS = SEARCHES | CAMPAIGNS
SIMULATIONS = """\
simulate:
  soc: [diana]
  workload: [digits_cnn]
  mapping: [all_8bit, min_cost, elsewhere.yaml]
  set: {links.l2_read.bytes_per_period: [8, 16]}
"""
ELSEWHERE = "layers: {elsewhere: {parts: {digital: 1}}}\n"  # a mapping of another network: that task fails
PLANS = {
    "sweep": "search: {soc: [gemmini], workload: [digits_cnn], space: [tiles]}",
    "sweep of training": "search: {soc: [darkside], workload: [digits_cnn], space: [operators], strengths: [1], "
    "epochs: 1}",
    "sweep of splits": "search: {soc: [homogeneous_gpu_2], workload: [digits_cnn], space: [splits], inferences: 20}",
}


IMPORTED = (
    *("cosoc.cli", "cosoc.search.calibrate", "cosoc.search.campaigns.run", "cosoc.search.training.space"),
    *("cosoc.search.spaces.split_space", "cosoc.search.spaces.tile_search", "cosoc.sim.machine.engine_fast"),
)
TIMES = re.compile(r'"spent_s": [0-9.e-]+')  # in what a search of tiles keeps, for its budget


@dataclass
class Tally:
    """What came of the kills. by_mode: who was killed. under_way: kills after the first file of the run was written."""

    kills: int = 0
    runs: int = 0
    under_way: int = 0
    by_mode: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


# ---------------------------------------------------------------------------------------------------------------------
# Runs


@dataclass
class Run:
    """A run in a session of its own. status: None while it runs; negative where a signal has ended it."""

    pid: int
    answers: int
    status: int | None = None

    def wait(self, seconds: float) -> bool:
        """Whether it ends in so many seconds."""
        if self.status is None and select.select([self.answers], [], [], seconds)[0]:
            self.status = int(_line(self.answers))
        return self.status is not None


class Starter:
    """A process that has imported what runs need, and forks one when asked for it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--start"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def run(self, kind: str, out: Path, resume: bool) -> Run:
        """A run of a kind; what it says goes into a file beside its folder."""
        assert self._process.stdin is not None and self._process.stdout is not None
        words = [word.replace("{plan}", str(out.parent / "plan.yaml")) for word in COMMANDS[kind]]
        words += ["--out", str(out), *(["--resume"] if resume else [])]
        self._process.stdin.write(json.dumps([words, str(out.parent / "said")]).encode() + b"\n")
        answers = self._process.stdout.fileno()
        return Run(int(_line(answers)), answers)

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def _line(answers: int) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        line += os.read(answers, 1)
    return line


def start_runs() -> None:
    """What a Starter's process does: for each line on standard input fork a run, say its number, then its status."""
    for module in IMPORTED:
        importlib.import_module(module)
    from cosoc.__main__ import run

    for line in sys.stdin.buffer:
        words, said = json.loads(line)
        child = os.fork()
        if not child:
            os.setsid()
            errors, nothing = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), os.open(os.devnull, os.O_RDWR)
            for number, to in enumerate((nothing, nothing, errors)):
                os.dup2(to, number)
            sys.argv = ["cosoc", *words]
            os._exit(run())
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def left(kind: str, out: Path) -> dict[str, Any]:
    """What a finished run is: all that it says but times, and pictures. Equal runs leave equal content."""
    import torch

    if kind == "calibrate":
        return dict(json.loads(out.read_text()))
    if kind in SEARCHES:
        found: dict[str, Any] = {}
        for path in sorted(p for p in out.rglob("*") if p.is_file() and p.suffix != ".png" and p.name != "lock"):
            name = str(path.relative_to(out))
            if path.suffix == ".pt":
                weights = torch.load(path, weights_only=True)
                found[name] = {key: value.tolist() for key, value in weights.items()}
            elif name == "manifest.json":  # whose digests are those of how torch happens to pack
                found[name] = {name: entry["phase"] for name, entry in json.loads(path.read_text())["files"].items()}
            else:
                found[name] = TIMES.sub("", path.read_text())
        return found
    with sqlite3.connect(out / "results.sqlite") as connection:
        rows = connection.execute("select id, kind, spec, status, result, error from tasks").fetchall()
    connection.close()
    # Which of two equal simulations came first, and was remembered for the other, is up to the workers.
    plain = {row[0]: (*row[1:4], json.loads(row[4] or "{}") | {"remembered": None}, row[5]) for row in rows}
    return plain | {"rows": len(rows)}


def alive(group: int) -> dict[int, float]:
    """Processes of a process group that run, and the processor time of each with its ended children, s; those which
    have ended but were not waited for do not count."""
    out = {}
    for name in os.listdir("/proc"):
        try:
            if not name.isdigit() or os.getpgid(int(name)) != group:
                continue
            after = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if after[0] not in "ZX":
            out[int(name)] = sum(map(int, after[11:15])) / os.sysconf("SC_CLK_TCK")
    return out


def _workers(parent: int) -> list[int]:
    """Worker processes of a campaign: not its helper that tracks resources."""
    out = []
    for pid in alive(parent):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        out += [pid] * (b"spawn_main" in words)
    return out


def ends(run: Run, within_s: float) -> tuple[bool, float]:
    """Whether a run ends by itself before it has taken so much processor time; the time that it was last seen with."""
    spent_s = 0.0
    while not run.wait(POLL_S):
        spent_s = max(spent_s, sum(alive(run.pid).values()))  # a worker that ends is nobody's for a moment
        if spent_s >= within_s:
            return False, spent_s
    return True, spent_s


# ---------------------------------------------------------------------------------------------------------------------
# Kills


def attempt(
    kind: str, starter: Starter, out: Path, resume: bool, moment_s: float, mode: str, status: int, tally: Tally
) -> bool:
    """Run until the moment, then kill; whether the run had ended by itself, or does so in spite of the kill. status:
    that of an unbroken run."""
    run = starter.run(kind, out, resume)
    try:
        ended, _ = ends(run, moment_s)
        if not ended:
            tally.kills += 1
            tally.under_way += out.is_file() or any(out.rglob("*.*"))
            workers = _workers(run.pid)
            if kind in SEARCHES or (mode == "worker" and (kind == "calibrate" or not workers)):
                mode = "all"
            tally.by_mode[mode] += 1
            if mode == "worker":
                os.kill(workers[-1], signal.SIGKILL)
                ended, _ = ends(run, LIMIT_S)
            elif mode == "parent":
                os.kill(run.pid, signal.SIGKILL)
            else:
                os.killpg(run.pid, signal.SIGKILL)
        if not ended and mode != "worker":
            run.wait(LIMIT_S)
            return False
        if not ended:
            tally.wrong.append(f"{kind}: has not ended {LIMIT_S} s after the kill of a worker")
        elif run.status != status:
            said = (out.parent / "said").read_text(errors="replace")[-400:]
            tally.wrong.append(f"{kind}: status {run.status}: {said}")
        return True
    finally:
        _end(run, f"{kind}, {mode}", tally)


def _end(run: Run, what: str, tally: Tally) -> None:
    """Nothing of the group may be left: at once, or where the parent alone was killed, soon."""
    deadline = time.monotonic() + ORPHANS_S
    while (rest := alive(run.pid)) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    if rest:
        tally.wrong.append(f"{len(rest)} processes left {ORPHANS_S} s after a kill ({what})")
        os.killpg(run.pid, signal.SIGKILL)
    run.wait(LIMIT_S)


def killed(kind: str, kills: int, seed: int, folder: Path) -> tuple[Tally, float]:
    """Kill and resume runs of a kind until so many kills are done and the last run has ended; (what came of it,
    processor time of an unbroken run, s)."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "elsewhere.yaml").write_text(ELSEWHERE)
    simulations = SIMULATIONS.replace("elsewhere.yaml", json.dumps(str(folder / "elsewhere.yaml")))
    (folder / "plan.yaml").write_text(simulations + PLANS.get(kind, ""))
    starter, whole_s, status = Starter(), 0.0, 0
    try:
        for name in ("first", "whole"):  # the first fills the cache of compiled kernels; the second is timed
            run = starter.run(kind, folder / name, False)
            _, whole_s = ends(run, LIMIT_S)
            if run.status not in ((0, 1) if kind.startswith("sweep") else (0,)):
                raise RuntimeError(f"{kind}: {(folder / 'said').read_text()}")
            status = run.status or 0
        wanted, tally, rng = left(kind, folder / "whole"), Tally(), Random(f"{seed} kills {kind}")
        while tally.kills < kills and len(tally.wrong) < 5:
            out, resume = folder / "run", False
            shutil.rmtree(out) if out.is_dir() else out.unlink(missing_ok=True)
            while True:
                moment = rng.uniform(0, whole_s) if tally.kills < kills else LIMIT_S
                mode = rng.choice(("all", "parent", "worker"))
                if attempt(kind, starter, out, resume, moment, mode, status, tally):
                    break
                resume = out.is_dir() and any(out.iterdir())
                if out.is_file() and left(kind, out) != wanted:
                    tally.wrong.append(f"{kind}: a kill has left half a file")
            tally.runs += 1
            print(f"{kind}: {tally.kills} of {kills} kills, {tally.runs} runs", flush=True)
            if not tally.wrong and (found := left(kind, out)) != wanted:
                other = [name for name in {**wanted, **found} if wanted.get(name) != found.get(name)]
                tally.wrong.append(f"{kind}: another result than that of an unbroken run: {', '.join(other)}")
                shutil.copytree(out, folder / f"wrong{len(tally.wrong)}")
    finally:
        starter.close()
    return tally, whole_s


def measure(number: int, seed: int, folder: Path, names: Collection[str], lanes: int, note: Note) -> None:
    """So many kills of searches and as many of campaigns, of these kinds alone; some kinds side by side."""
    kills = shared(number, [kind for kind in SEARCHES if kind in names])
    kills |= shared(number, [kind for kind in CAMPAIGNS if kind in names])

    def one(kind: str) -> tuple[str, dict[str, Any]]:
        start = time.monotonic()
        tally, whole_s = killed(kind, kills[kind], seed, folder / kind.replace(" ", "_"))
        return kind, {
            "kills": tally.kills, "under_way": tally.under_way, "by_mode": tally.by_mode, "runs": tally.runs,
            "unbroken_run_cpu_s": round(whole_s, 1), "wall_s": round(time.monotonic() - start), "wrong": tally.wrong,
        }  # fmt: skip

    with ThreadPoolExecutor(lanes) as pool:
        for ended in as_completed([pool.submit(one, kind) for kind in kills]):
            note(*ended.result())


__all__ = ["CHAINS", "COMMANDS", "alive", "left", "measure"]

if __name__ == "__main__":
    if sys.argv[1:] == ["--start"]:
        start_runs()
    else:
        in_pieces(__doc__, "kills", COMMANDS, 100, QUICK, measure)
