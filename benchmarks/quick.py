"""Does every benchmark's --quick end, and within a minute? Part of `make check`.

    python benchmarks/quick.py [NAME ...] [--json FILE]

Each script here that is a benchmark (it takes common.arguments, or is measured in_pieces) is run with --quick and a
--json file of its own, one after the other, in the order of their names: its wall time and the processor time of all
its processes, s. A script that lacks a package, a tool or data says which in one line and exits with common.SKIPPED: it
is counted as skipped. Any other status but 0, a missing file of figures, or no end within LIMIT_S of wall time is a
failure, and its last words are shown. The minute is of processor time, which a busy machine stretches least; it is said
how many took longer. With names, what FILE has of the others stays.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common import SKIPPED, state, write_json

HERE = Path(__file__).resolve().parent
PROMISED_S = 60.0  # of processor time
LIMIT_S = 600.0  # of wall time: beyond any, on any machine


@dataclass(frozen=True)
class Outcome:
    """How a script ended: `passed`, `skipped` or `failed`; wall and processor time, s; its last line if not passed."""

    what: str
    wall_s: float
    cpu_s: float
    said: str


def scripts() -> list[str]:
    """The names of all benchmarks."""
    files = sorted(HERE.glob("*.py"))
    return [
        path.stem for path in files if re.search(r"\b(arguments|in_pieces)\(__doc__", path.read_text(encoding="utf-8"))
    ]


def run(name: str, limit_s: float = LIMIT_S) -> Outcome:
    """Run a benchmark's --quick in a session of its own, which nothing outlives."""
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "said").open("w+", encoding="utf-8") as said:
        figures = Path(folder) / "figures.json"
        words = [sys.executable, str(HERE / f"{name}.py"), "--quick", "--json", str(figures)]
        began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        child = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True)
        try:
            status: int | None = child.wait(limit_s)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        wall_s, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        said.seek(0)
        last = (said.read().strip().splitlines() or [""])[-1]
        if status == SKIPPED:
            what = "skipped"
        elif status == 0 and figures.exists():
            what, last = "passed", ""
        else:
            why = f"no end within {limit_s:.0f} s" if status is None else f"status {status}" if status else "no figures"
            what, last = "failed", f"{why}: {last}"
        return Outcome(what, round(wall_s, 1), round(cpu_s, 1), last)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("names", nargs="*", default=scripts(), metavar="NAME", help="some of them")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    args = parser.parse_args()
    if unknown := [name for name in args.names if name not in scripts()]:
        parser.error(f"no benchmark {unknown[0]!r}; there is {', '.join(scripts())}")
    state()
    known: dict[str, Any] = json.loads(args.json.read_text())["scripts"] if args.json and args.json.exists() else {}
    found = {name: Outcome(**one) for name, one in known.items() if name in scripts() and name not in args.names}
    for i, name in enumerate(args.names):
        found[name] = one = run(name)
        over = " over a minute" if one.cpu_s > PROMISED_S else ""
        print(
            f"{i + 1:2}/{len(args.names)} {name:18} {one.what:7} {one.wall_s:6.1f} s, CPU {one.cpu_s:6.1f} s{over}"
            + (f"  {one.said}" if one.said else ""), flush=True,
        )  # fmt: skip
    count = {what: sum(one.what == what for one in found.values()) for what in ("passed", "skipped", "failed")}
    over_a_minute = [name for name, one in found.items() if one.cpu_s > PROMISED_S]
    print(", ".join(f"{n} {what}" for what, n in count.items()) + f", {len(over_a_minute)} over a minute")
    write_json(args.json, {"scripts": {name: asdict(found[name]) for name in sorted(found)}, "over": over_a_minute})
    sys.exit(bool(count["failed"]))


if __name__ == "__main__":
    main()
