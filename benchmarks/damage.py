"""Every file of finished and of half-done runs, damaged in every way: a part of robustness.py.

    python benchmarks/damage.py [KIND ...] [--number 10000] [--quick] [--seed 0] [--json FILE]

Runs of channels, tiles, splits and the chains of kills.py and a campaign, each finished, and cut off half-way (the
channels' by `kill -9`, so that there is a checkpoint). Each of their files is cut, emptied, replaced by garbage, `{}`,
`[]`, `null`, a number, another run's file or a state_dict of other keys, is missing, is a link. Then the run is
resumed, explained and reported, in this process; a calibration's file is read by a search that begins with it
(`--estimate`). Right is status 2 with one line that names the file, or, where the file has no part in it, what would be
said of the undamaged run. Counted as failures: a traceback or any other status, more than one line, and a result that
is silently another. Of tiles every damage is then mended by the phase that the line names, and must lead to the
unbroken run's result.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from common import Note, in_pieces, shared
from kills import CHAINS

PLAN = "simulate: {soc: [diana], workload: [digits_cnn, autoencoder]}\n"
SEARCHES = {
    "channels": ["diana", "digits_cnn", "--epochs", "3", "--strengths", "1"],
    "tiles": ["gemmini", "digits_cnn", "--space", "tiles"],
    "splits": ["homogeneous_gpu_2", "digits_cnn", "--space", "splits", "--inferences", "50"],
} | {kind: [word for word in words[1:] if word != "--quiet"] for kind, words in CHAINS.items()}
KINDS = (*SEARCHES, "campaign", "calibrate")
QUICK = 40, ("tiles",)  # cases of these
ESTIMATE = "estimate.json"  # of a calibration, in its folder
WAYS = ("cut", "empty", "garbage", "{}", "[]", "null", "3", "another run's", "other keys", "missing", "a link")
REDO = re.compile(r"--redo (\S+) does")
TIMES = re.compile(r'"(spent_s|wall_s)": [0-9.e-]+')


@dataclass(frozen=True)
class Case:
    """A file of a run, and how it is damaged. kind: of the run; half: whether it is cut off half-way; command: what
    then reads it."""

    kind: str
    half: bool
    file: str
    way: str
    command: str


def said_by(words: Sequence[str]) -> tuple[int | str, str, str]:
    """Status (or a traceback), standard output and standard error of a command."""
    from cosoc.cli import main as cosoc

    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            return cosoc(list(words)), out.getvalue(), err.getvalue()
    except BaseException:
        return traceback.format_exc(), out.getvalue(), err.getvalue()


def words_of(kind: str, command: str, folder: Path) -> list[str]:
    """A command on a run's folder."""
    if command in ("explain", "report"):
        return [command, str(folder), *(["--out", str(folder.parent / "page.html")] if command == "report" else [])]
    resume = ["--resume"] if command == "resume" else []
    if kind == "calibrate" and command == "begin":
        folder.mkdir()
        return ["calibrate", "diana", "--samples", "12", "--quiet", "--out", str(folder / ESTIMATE)]
    if kind == "calibrate":
        return ["search", "diana", "digits_cnn", "--space", "channels+tiles", "--epochs", "0", "--quiet",
                "--estimate", str(folder / ESTIMATE), "--out", str(folder / "search")]  # fmt: skip
    if kind == "campaign":
        return ["sweep", str(folder.parent / "plan.yaml"), "--workers", "1", "--quiet", "--out", str(folder), *resume]
    return ["search", *SEARCHES[kind], "--quiet", "--out", str(folder), *resume]


def outcome(command: str, folder: Path) -> str:
    """What a command has left for a reader, without times."""
    if command == "report":
        page = (folder.parent / "page.html").read_text()
        return page[page.index('id="data"') :].replace(str(folder), "")
    folder = folder / "search" if command == "search" else folder
    file = folder / ("result.json" if (folder / "result.json").exists() else "results.sqlite")
    if file.suffix == ".json":
        return TIMES.sub("", file.read_text())
    connection = sqlite3.connect(file)
    rows = connection.execute("select id, status, result, error from tasks order by id").fetchall()
    connection.close()
    return repr(rows)


def prepare(kind: str, folder: Path) -> None:
    """Runs of a kind, finished and half-done, and another one, whose files are taken in their place."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "plan.yaml").write_text(PLAN)
    for name in ("whole", "other") if kind == "calibrate" else ("whole", "half", "other"):
        words = words_of(kind, "begin", folder / f"{kind} {name}")
        if name == "other" and kind == "campaign":
            (folder / "other.yaml").write_text(PLAN.replace("autoencoder", "resnet8"))
            words[1] = str(folder / "other.yaml")
        elif name == "other":
            words += ["--seed", "1"]
        if name == "half":
            cut_off(kind, words, folder)
        elif said_by(words)[0] != 0:
            raise RuntimeError(f"{kind}: {said_by(words)}")


def cut_off(kind: str, words: Sequence[str], folder: Path) -> None:
    """A run as a kill leaves it: killed between two epochs, or a copy of the whole that has forgotten its last
    phases."""
    half, whole = folder / f"{kind} half", folder / f"{kind} whole"
    if kind == "channels":
        process = subprocess.Popen([sys.executable, "-m", "cosoc", *words], env=os.environ | {"OMP_NUM_THREADS": "1"})
        while process.poll() is None and not ((half / "checkpoint.pt").exists() and any((half / "done").iterdir())):
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
        return
    shutil.copytree(whole, half)
    if kind == "campaign":
        connection = sqlite3.connect(half / "results.sqlite")
        connection.execute("delete from tasks where rowid = (select max(rowid) from tasks)")
        connection.commit()
        connection.close()
        return
    from cosoc.search.manifest import Files

    files = Files(half)
    last = [phase for phase in files.phases() if phase not in ("result", "metrics")][-1]
    files.write(dict.fromkeys(reversed(files.following(last))), last)
    files.save()


def damage(case: Case, folder: Path, stock: Path) -> None:
    """Damage a file of a run that lies in a folder."""
    import torch

    file, other = folder / case.file, stock / f"{case.kind} other" / case.file
    texts = {"empty": "", "{}": "{}", "[]": "[]", "null": "null", "3": "3"}
    if case.way in texts:
        file.write_text(texts[case.way])
    elif case.way == "cut":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    elif case.way == "garbage":
        file.write_bytes(b"\x00\xff garbage" * 99)
    elif case.way == "another run's":
        shutil.copy(other, file)
    elif case.way == "other keys":
        torch.save({"another": torch.ones(2), "phase": "x", "log": []}, file)
    elif case.way == "missing":
        file.unlink()
    else:
        file.rename(folder.parent / "elsewhere")
        file.symlink_to(folder.parent / "elsewhere")


def cases(kind: str, stock: Path) -> list[Case]:
    """Every file of every run of a kind in every way, under every command that reads it."""
    out = []
    for half in (False,) if kind == "calibrate" else (False, True):
        run = stock / f"{kind} {'half' if half else 'whole'}"
        files = sorted(path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file())
        for file in files:
            ways = [way for way in WAYS if way != "other keys" or file.endswith(".pt")]
            if not (stock / f"{kind} other" / file).exists():
                ways.remove("another run's")
            commands = ["resume"] if half or kind == "campaign" else ["resume", "explain", "report"]
            if kind == "calibrate":
                commands = ["search"]
            if kind.startswith("splits"):
                commands = [command for command in commands if command != "explain"]
            out += [Case(kind, half, file, way, command) for way in ways for command in commands
                    if file not in ("lock", "front.png") or command == "resume"]  # fmt: skip
    return out


def judged(case: Case, folder: Path, stock: Path, wanted: Callable[[Case], tuple[str, str]]) -> tuple[str, str]:
    """What came of a case, and what was said."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "plan.yaml").write_text(PLAN)
    run = folder / "run"
    shutil.copytree(stock / f"{case.kind} {'half' if case.half else 'whole'}", run)
    damage(case, run, stock)
    status, out, err = said_by(words_of(case.kind, case.command, run))
    if isinstance(status, str):
        return "traceback", status
    if status == 2:
        if err.count("\n") != 1:
            return "not one line", err
        if case.kind == "tiles" and case.command == "resume" and (phase := REDO.search(err)):
            return mended(case, run, phase[1], wanted)
        return "named", err
    if status != 0:
        return f"status {status}", err
    text = out.replace(str(run), "") if case.command == "explain" else outcome(case.command, run)
    return ("no part in it", "") if text == wanted(case)[case.command == "explain"] else ("silently other", out + err)


def mended(case: Case, run: Path, phase: str, wanted: Callable[[Case], tuple[str, str]]) -> tuple[str, str]:
    """Whether doing the named phase again leads to the unbroken run's result."""
    status, out, err = said_by([*words_of(case.kind, "resume", run), "--redo", phase])
    if status != 0:
        return "not mended", f"{status} {err}"
    return ("named, and mended", "") if outcome("resume", run) == wanted(case)[0] else ("mended to another", out)


def measure(number: int, seed: int, folder: Path, names: Collection[str], lanes: int, note: Note) -> None:
    """So many of the cases, shared out among these kinds of runs and drawn; all of a kind where there are no more. One
    after the other: they run in this process."""
    for kind, most in shared(number, names).items():
        note(kind, damaged(kind, most, seed, folder / kind))


def damaged(kind: str, number: int, seed: int, folder: Path) -> dict[str, Any]:
    """So many of the cases of a kind."""
    stock, start = folder / "stock", time.monotonic()
    prepare(kind, stock)
    known: dict[str, tuple[str, str]] = {}

    def wanted(case: Case) -> tuple[str, str]:
        """What the undamaged run's command leaves, and what it prints."""
        if case.command not in known:
            place = folder / "undamaged"
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            (place / "plan.yaml").write_text(PLAN)
            shutil.copytree(stock / f"{kind} whole", place / "run")
            status, out, err = said_by(words_of(kind, case.command, place / "run"))
            if status != 0:
                raise RuntimeError(f"{kind}, {case.command}: {status} {err}")
            known[case.command] = outcome(case.command, place / "run"), out.replace(str(place / "run"), "")
        return known[case.command]

    every = cases(kind, stock)
    chosen = every if number >= len(every) else Random(f"{seed} damage {kind}").sample(every, number)
    counts: Counter[str] = Counter()
    wrong, begun = [], time.monotonic()
    for i, case in enumerate(chosen):
        what, said = judged(case, folder / "case", stock, wanted)
        counts[what] += 1
        if what not in ("named", "named, and mended", "no part in it"):
            wrong.append({"case": repr(case), "what": what, "said": said[-600:]})
            print(f"{case}: {what}: {(said.strip().splitlines() or [''])[-1][:200]}", flush=True)
        if i % 50 == 49:
            left_s = (time.monotonic() - begun) * (len(chosen) - i - 1) / (i + 1)
            print(f"{kind}: {i + 1} of {len(chosen)}, {len(wrong)} wrong, about {left_s:.0f} s left", flush=True)
    return {
        "cases": len(chosen), "of": len(every), "counts": counts, "wall_s": round(time.monotonic() - start),
        "wrong": wrong,
    }  # fmt: skip


__all__ = ["KINDS", "measure"]

if __name__ == "__main__":
    in_pieces(__doc__, "damages", KINDS, 10_000, QUICK, measure)
