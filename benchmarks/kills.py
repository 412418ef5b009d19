"""kill -9 at random moments of a small search and of a small campaign, each then resumed: a part of robustness.py.

A run is started in a session of its own, killed at a moment drawn from the time that an unbroken one takes (processor
time, so that nothing shifts on a busy machine), resumed, and so on until it ends by itself; then it must have left what
the unbroken one left, and no process. Of a search all
processes are killed at once; of a campaign all, or the parent alone, whose workers must then end by themselves, or one
worker, which the campaign must survive.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Literal

LIMIT_S = 1000  # of processor time in one attempt: beyond any
ORPHANS_S = 10  # in which workers end whose parent was killed
POLL_S = 0.1
Kind = Literal["search", "sweep"]
KINDS: tuple[Kind, ...] = ("search", "sweep")

SEARCH = ("search", "diana", "digits_cnn", "--epochs", "3", "--strengths", "1", "--quiet")
PLAN = """\
simulate:
  soc: [diana]
  workload: [digits_cnn, autoencoder]
  mapping: [all_8bit, min_cost, nothing]
  runtime: [overlapped]
  set: {links.l2_read.bytes_per_period: [8, 16]}
search:
  soc: [diana]
  workload: [digits_cnn]
  strengths: [1]
  epochs: 1
"""


@dataclass
class Tally:
    """What came of the kills. by_mode: who was killed. under_way: kills after the first file of the run was written."""

    kills: int = 0
    runs: int = 0
    under_way: int = 0
    by_mode: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def command(kind: Kind, out: Path, resume: bool) -> list[str]:
    """The words of a run; a campaign's plan stands beside its folder."""
    own = SEARCH if kind == "search" else ("sweep", str(out.parent / "plan.yaml"), "--workers", "2", "--quiet")
    return [sys.executable, "-m", "cosoc", *own, "--out", str(out), *(["--resume"] if resume else [])]


def left(kind: Kind, out: Path) -> dict[str, Any]:
    """What a finished run is: all that it says but times, and pictures. Equal runs leave equal content."""
    import torch

    if kind == "search":
        found: dict[str, Any] = {}
        for path in sorted(p for p in out.rglob("*") if p.is_file() and p.suffix != ".png"):
            name = str(path.relative_to(out))
            if path.suffix == ".pt":
                weights = torch.load(path, weights_only=True)
                found[name] = {key: value.tolist() for key, value in weights.items()}
            else:
                found[name] = path.read_text()
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
            after = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split() if name.isdigit() else []
        except OSError:
            continue
        if after and int(after[2]) == group and after[0] not in "ZX":
            out[int(name)] = sum(map(int, after[11:15])) / os.sysconf("SC_CLK_TCK")
    return out


def _workers(parent: subprocess.Popen[bytes]) -> list[int]:
    """Worker processes of a campaign: not its helper that tracks resources."""
    out = []
    for pid in alive(parent.pid):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        out += [pid] * (b"spawn_main" in words)
    return out


def started(kind: Kind, out: Path, resume: bool) -> subprocess.Popen[bytes]:
    """A run in a session of its own; what it says goes into a file beside its folder."""
    with (out.parent / "said").open("wb") as said:
        return subprocess.Popen(
            command(kind, out, resume), start_new_session=True, stdout=subprocess.DEVNULL, stderr=said,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip


def ends(process: subprocess.Popen[bytes], within_s: float) -> tuple[bool, float]:
    """Whether a run ends by itself before it has taken so much processor time; the time that it was last seen with."""
    spent_s = 0.0
    while True:
        try:
            process.wait(POLL_S)
            return True, spent_s
        except subprocess.TimeoutExpired:
            spent_s = sum(alive(process.pid).values()) or spent_s
            if spent_s >= within_s:
                return False, spent_s


def attempt(kind: Kind, out: Path, resume: bool, moment_s: float, mode: str, tally: Tally) -> bool:
    """Run until the moment, then kill; whether the run had ended by itself, or does so in spite of the kill."""
    process = started(kind, out, resume)
    try:
        ended, _ = ends(process, moment_s)
        if not ended:
            tally.kills += 1
            tally.under_way += any(out.rglob("*.*"))
            workers = _workers(process)
            mode = "all" if kind == "search" or (mode == "worker" and not workers) else mode
            tally.by_mode[mode] += 1
            if mode == "worker":
                os.kill(workers[-1], signal.SIGKILL)
                ended, _ = ends(process, LIMIT_S)
            elif mode == "parent":
                process.kill()
            else:
                os.killpg(process.pid, signal.SIGKILL)
        if not ended and mode != "worker":
            process.wait()
            return False
        if not ended:
            tally.wrong.append(f"{kind}: has not ended {LIMIT_S} s after the kill of a worker")
        elif process.returncode:
            said = (out.parent / "said").read_text(errors="replace")[-400:]
            tally.wrong.append(f"{kind}: status {process.returncode}: {said}")
        return True
    finally:
        _end(process, mode, tally)


def _end(process: subprocess.Popen[bytes], mode: str, tally: Tally) -> None:
    """Nothing of the group may be left: at once, or where the parent alone was killed, soon."""
    deadline = time.monotonic() + ORPHANS_S
    while (rest := alive(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    if rest:
        tally.wrong.append(f"{len(rest)} processes left {ORPHANS_S} s after a kill ({mode})")
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def campaign(kind: Kind, kills: int, seed: int, folder: Path) -> tuple[Tally, float]:
    """Kill and resume runs until so many kills are done and the last run has ended; (what came of it, seconds of an
    unbroken run)."""
    folder.mkdir(parents=True)
    (folder / "plan.yaml").write_text(PLAN)
    whole_s = 0.0
    for name in ("first", "whole"):  # the first fills the cache of compiled kernels; the second is timed
        process = started(kind, folder / name, False)
        _, whole_s = ends(process, LIMIT_S)
        if process.returncode:
            raise RuntimeError(f"{kind}: {(folder / 'said').read_text()}")
    wanted, tally, rng = left(kind, folder / "whole"), Tally(), Random(f"{seed} kills {kind}")
    while tally.kills < kills and len(tally.wrong) < 5:
        out, resume = folder / "run", False
        shutil.rmtree(out, ignore_errors=True)
        while True:
            moment = rng.uniform(0, whole_s) if tally.kills < kills else LIMIT_S
            if attempt(kind, out, resume, moment, rng.choice(("all", "parent", "worker")), tally):
                break
            resume = out.exists() and any(out.iterdir())
        tally.runs += 1
        print(f"{kind}: {tally.kills} kills, {tally.runs} runs", flush=True)
        if not tally.wrong and (found := left(kind, out)) != wanted:
            other = [name for name in {**wanted, **found} if wanted.get(name) != found.get(name)]
            tally.wrong.append(f"{kind}: another result than that of an unbroken run: {', '.join(other)}")
            shutil.copytree(out, folder / f"wrong{len(tally.wrong)}")
    return tally, whole_s


def measure(kills: int, seed: int, folder: Path, kinds: tuple[Kind, ...] = KINDS) -> dict[str, Any]:
    """So many kills of a search and of a campaign, side by side."""
    shutil.rmtree(folder, ignore_errors=True)
    with ThreadPoolExecutor(len(kinds)) as pool:
        parts = list(pool.map(lambda kind: campaign(kind, kills, seed, folder / kind), kinds))
    return {
        kind: {
            "kills": tally.kills, "under_way": tally.under_way, "by_mode": tally.by_mode, "runs": tally.runs,
            "unbroken_run_cpu_s": round(whole_s, 1), "wrong": tally.wrong,
        }
        for kind, (tally, whole_s) in zip(kinds, parts, strict=True)
    }  # fmt: skip


__all__ = ["KINDS", "measure"]
