"""How many simulations a second a machine does in a campaign, and what a task costs besides its simulation.

    python benchmarks/scale.py [--quick] [--workers N] [--json FILE]

Campaigns of ResNet-8 and ResNet-20 on DIANA over values of the SoC: with one process, with as many as the machine has
cores, and again with the results in the memo; each from nothing, start of the processes included and named. The
overhead of a task is what is left of its share of the time when what its worker took is subtracted. From these follow
the processes that a campaign of a million tasks needs, and where its bottleneck then is: the parent, which puts down
one result at a time. No randomness, no seed.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import time
from pathlib import Path
from typing import Any

from common import arguments, state, write_json

from cosoc.search.campaigns.plan import Task
from cosoc.search.campaigns.run import SweepConfig, sweep
from cosoc.search.campaigns.store import Store

PLAN = """
simulate:
  soc: [diana]
  workload: [resnet8, resnet20]
  mapping: [all_8bit, all_ternary]
  runtime: [overlapped]
  set:
    links.l2_read.bytes_per_period: [4, 8, 16, 32]
    cores.digital.launch_cycles: [{launches}]
"""
DAY_S = 86_400


def campaign(n: int, workers: int, folder: Path) -> dict[str, Any]:
    """Run a campaign of about n tasks; seconds in all, to the first result, and inside the workers."""
    plan = folder / "plan.yaml"
    launches = ", ".join(str(400 + i) for i in range(max(1, n // 16)))
    plan.write_text(PLAN.format(launches=launches))
    start = time.perf_counter()
    first: list[float] = []

    def progress(done: int, total: int, what: str) -> None:
        if done and not first:
            first.append(time.perf_counter() - start)

    result = sweep(SweepConfig(plan, folder / "out", workers), progress)
    total = time.perf_counter() - start
    failed = [row for row in result.rows if row["status"] != "done"]
    if failed:
        raise SystemExit(f"{len(failed)} tasks failed, the first: {failed[0]['error']}")
    inside = sum(row["wall_s"] for row in result.rows)
    steady = (len(result.rows) - 1) / (total - first[0])
    return {"workers": workers, "tasks": len(result.rows), "total_s": total, "first_result_s": first[0],
            "tasks_per_s": steady, "worker_s_per_task": inside / len(result.rows),
            "overhead_s_per_task": max(0.0, workers / steady - inside / len(result.rows))}  # fmt: skip


def records_per_s(n: int, folder: Path) -> float:
    """Results a second that the parent can put down."""
    store = Store(folder / "records.sqlite", "plan", resume=False)
    result = {"remembered": False, "engine": "", "latency_s": 1.0, "energy_j": 1.0, "peak_bytes": 1, "throughput": 1.0}
    start = time.perf_counter()
    for i in range(n):
        task = Task("simulate", {"soc": "", "workload": str(i), "set": {}})
        store.record(task, {"result": {**result, "digest": str(i)}, "wall_s": 0.0})
    rate = n / (time.perf_counter() - start)
    store.close()
    return rate


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    state()
    n = 160 if options.quick else 960
    runs = []
    names = (
        f"{'workers':>7}",
        f"{'tasks':>6}",
        f"{'tasks/s':>8}",
        "in a worker, ms",
        "overhead, ms",
        "first result, s",
    )
    print(" ".join(names))
    for workers in dict.fromkeys((1, options.workers)):
        with tempfile.TemporaryDirectory() as folder:
            run = campaign(n, workers, Path(folder))
        runs.append(run)
        print(f"{workers:7} {run['tasks']:6} {run['tasks_per_s']:8.1f} {run['worker_s_per_task'] * 1e3:15.1f} "
              f"{run['overhead_s_per_task'] * 1e3:12.1f} {run['first_result_s']:15.1f}")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        records = records_per_s(500 if options.quick else 3000, Path(folder))
    best = runs[-1]
    per_process = best["tasks_per_s"] / best["workers"]
    needed = 1e6 / DAY_S / per_process
    print(f"the parent puts down {records:.0f} results/s: the bottleneck from {records / per_process:.0f} processes on")
    hours = 1e6 / per_process / 3600
    print(f"a million such tasks: {hours:.1f} hours of one process, {needed:.1f} processes for a day, "
          f"at least {1e6 / records / 60:.0f} minutes however many there are")  # fmt: skip
    figures = {"runs": runs, "records_per_s": records, "million_process_hours": hours,
               "bottleneck_processes": records / per_process, "sqlite": sqlite3.sqlite_version}  # fmt: skip
    write_json(options.json, {"quick": options.quick} | figures)


if __name__ == "__main__":
    main()
