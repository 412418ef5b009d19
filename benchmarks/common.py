"""What every benchmark shares: its arguments, the statement of the machine, the JSON file."""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("cosoc", "numpy", "numba", "simpy", "torch")


def arguments(doc: str | None, seed: int | None = None) -> argparse.ArgumentParser:
    """A parser with --json, --quick and, where there is randomness, --seed."""
    parser = argparse.ArgumentParser(description=(doc or "").split("\n\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--quick", action="store_true", help="a smaller run, under a minute")
    if seed is not None:
        parser.add_argument("--seed", type=int, default=seed)
    return parser


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


def progress(label: str, lines: int = 10) -> Callable[[int, int, str], None]:
    """A report for a search that prints so many lines until it is done, with the time left."""
    start, shown = time.monotonic(), -1

    def report(done: int, total: int, what: str) -> None:
        nonlocal shown
        if lines * done // total > shown:
            shown = lines * done // total
            left = (time.monotonic() - start) * (total - done) / max(1, done)
            print(f"{label}: {done}/{total} epochs, about {left:.0f} s left", flush=True)

    return report
