"""What every benchmark shares: its arguments, the statement of the machine, the JSON file."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import re
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from cosoc.timeleft import TimeLeft, told

SKIPPED = 77  # exit status of a benchmark that this machine has not all for, as automake's tests have it
PACKAGES = ("cosoc", "numpy", "numba", "simpy", "torch")


def arguments(doc: str | None, seed: int | None = None) -> argparse.ArgumentParser:
    """A parser with --json, --quick and, where there is randomness, --seed."""
    parser = argparse.ArgumentParser(description=(doc or "").split("\n\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--quick", action="store_true", help="a smaller run, under a minute")
    if seed is not None:
        parser.add_argument("--seed", type=int, default=seed)
    return parser


class Hang(BaseException):
    """Past the time limit. Not an Exception, so that nobody takes it for one."""


def _over(signum: int, frame: FrameType | None) -> NoReturn:
    raise Hang


def outcome(words: Sequence[str], limit_s: float) -> tuple[str, str]:
    """(what came of a command in this process: fine, refused, or a failure's name; what it said). limit_s: seconds of
    the processor, as others may use the machine."""
    from cosoc.cli import main as cosoc

    said = io.StringIO()
    signal.signal(signal.SIGPROF, _over)
    signal.setitimer(signal.ITIMER_PROF, limit_s)
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            status = cosoc(list(words))
    except Hang:
        return "hang", "".join(traceback.format_exc().splitlines(keepends=True)[-8:])
    except BaseException:
        return "traceback", traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    text = said.getvalue()
    lines = text.splitlines()
    if status == 0:
        return ("fine", "") if not lines else ("talkative", text)
    if status != 2:
        return f"status {status}", text
    of_a_file = all(re.match(r"[^:]+\.[a-z]+:\d+:\d+: ", line) for line in lines)  # each fault of it in a line
    return (
        "refused" if lines and all(map(str.strip, lines)) and (of_a_file or len(lines) == 1) else "not one line"
    ), text


def machine() -> dict[str, Any]:
    """Processor, cores and versions: what a figure depends on besides the code."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    } | {name: _version(name) for name in PACKAGES}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def state(seed: int | None = None) -> None:
    """Print the machine and the seed, as every benchmark does before its table."""
    print(", ".join(f"{k} {v}" for k, v in machine().items()))
    print(f"seed {seed}" if seed is not None else "no randomness, no seed")


def write_json(path: Path | None, figures: dict[str, Any], quiet: bool = False) -> None:
    """Write the figures with the machine beside them, if asked to; quiet: and say nothing of it."""
    if path is not None:
        temporary = path.with_suffix(path.suffix + ".part")
        temporary.write_text(json.dumps({"machine": machine()} | figures, indent=1) + "\n")
        temporary.replace(path)
        if not quiet:
            print(f"written: {path}")


def skip(needs: str) -> NoReturn:
    """End, as something is lacking; needs: what, and how to get it, in one line."""
    print(f"skipped, needs {needs}", file=sys.stderr)
    sys.exit(SKIPPED)


Note = Callable[[str, dict[str, Any]], None]  # what is told the figures of a name
# (how many of all names, seed, folder, names, lanes, what is told): a part of robustness.py that goes name by name
Measure = Callable[[int, int, Path, Collection[str], int, Note], None]


def shared(number: int, names: Iterable[str]) -> dict[str, int]:
    """So many, shared out among names; none for the last where there are fewer than names, or no names."""
    every = list(names)
    parts = {name: number // len(every) + (i < number % len(every)) for i, name in enumerate(every)}
    return {name: n for name, n in parts.items() if n}


def noting(result: dict[str, Any], path: Path | None, part: str, seed: int) -> Note:
    """What notes the figures of a name in result[part], and all of `result` in the file, as soon as they are there."""
    result[part] = result.get(part, {}) | {"seed": seed}

    def note(name: str, found: dict[str, Any]) -> None:
        print(f"{part}, {name}: {found}", flush=True)
        result[part][name] = found
        write_json(path, result)

    return note


def in_pieces(
    doc: str | None,
    part: str,
    names: Collection[str],
    number: int,
    quick: tuple[int, Collection[str]],
    measure: Measure,
) -> None:
    """The command line of a part of robustness.py by itself: some names or all, figures noted beside what FILE has.
    quick: how many of which names. Ends with status 1 where something is wrong."""
    parser = arguments(doc, seed=0)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument("--number", type=int, default=number, help=f"of all names together [default: {number}]")
    parser.add_argument(
        "--lanes", type=int, default=2, help="names, or commands of one, side by side, where they can be"
    )
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in names]:
        parser.error(f"no name {unknown[0]!r}; there is {', '.join(names)}")
    state(options.seed)
    chosen, most = options.names or names, options.number
    if options.quick:
        chosen, most = options.names or quick[1], min(most, quick[0])
    result = json.loads(options.json.read_text()) if options.json and options.json.exists() else {}
    result.pop("machine", None)
    note = noting(result, options.json, part, options.seed)
    with tempfile.TemporaryDirectory() as folder:
        measure(most, options.seed, Path(folder), chosen, options.lanes, note)
    sys.exit(any(found["wrong"] for found in result[part].values() if isinstance(found, dict)))


def progress(label: str, lines: int = 10) -> Callable[[int, int, str], None]:
    """A report for a search that prints so many lines until it is done, with the time left."""
    known, shown = TimeLeft(), -1

    def report(done: int, total: int, what: str) -> None:
        nonlocal shown
        left_s = known.at(time.monotonic(), done, total)
        if lines * done // total > shown:
            shown = lines * done // total
            left = "" if left_s is None else f", about {told(left_s)} left"
            print(f"{label}: {done}/{total} epochs{left}", flush=True)

    return report
