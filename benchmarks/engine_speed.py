"""How fast the engines are: bursts a second, their ratio, first-call seconds, memory, and a C++ loop beside them.

    python benchmarks/engine_speed.py [--quick] [--json FILE]

Programs are networks on DIANA, several inferences of them, networks and GEMMs on Gemmini, and synthetic loops from two
to 48 units. Times are CPU seconds of this process, medians of five (of three with --quick), all ways to run a program
in turn in one run: the reference engine, the fast one with every burst an event ("plain"), and as it is ("skipping").
The reference engine runs fewer iterations of the same loop, one inference for several, and of that the first 20,000 ops
(1,000 with --quick; a network on Gemmini has up to a million, which would take it a minute a run); rates are per burst.
The C++ loop is this benchmark's own, with std::priority_queue, compiled where there is a compiler; it and the plain
engine work off the same pipelines and must come to the same makespan. --quick leaves out the largest network from name
to makespan and as a program, and the memory. There is no randomness, hence no seed.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from common import arguments, state, write_json

from cosoc.sim.files.catalog import find_soc
from cosoc.sim.files.mapping_file import find_mapping
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.lower.emit import lower
from cosoc.sim.machine import engine_fast, engine_reference
from cosoc.sim.machine.program import BLOCK, Builder, Program, unroll
from cosoc.sim.machine.trace import Run, Trace
from cosoc.sim.model.mapping import Runtime
from cosoc.sim.model.workload import INPUT, Layer, Workload

PIPELINES = (64, 3000)  # pipelines, jobs of each
REFERENCE_OPS, QUICK_REFERENCE_OPS = 20_000, 1_000  # that the reference engine runs at most


@dataclass(frozen=True)
class Case:
    """A loop to be run `iterations` times by the fast engine and `shortened` times by the reference engine."""

    name: str
    build: Callable[[int], Program]
    iterations: int
    shortened: int


def tile_loop(n: int) -> Program:
    """Double-buffered tiles: one DMA with two lanes loads, a core computes, a second DMA stores."""
    b = Builder("tile loop, one DMA", 10**9)
    l2, l1 = b.server("l2", rate_bytes=8), b.server("l1", rate_bytes=32, ports=2)
    load, core, store = b.unit("load", lanes=2), b.unit("core"), b.unit("store")
    inputs, outputs = b.credit("inputs", 2), b.credit("outputs", 2)
    with b.repeat(n):
        x = b.op(load, setup=20, bytes=1024, burst=32, route=(l2, l1), take=((inputs, 1),), kind="load")
        w = b.op(load, setup=20, bytes=512, burst=32, route=(l2, l1), kind="weights")
        y = b.op(core, setup=5, run=150, deps=(x, w), take=((outputs, 1),), give=((inputs, 1),))
        b.op(store, setup=20, bytes=1024, burst=32, route=(l2,), deps=(y,), give=((outputs, 1),), kind="store")
    return b.build()


def two_cores(n: int) -> Program:
    """Two cores of different speed with a DMA each, on one DRAM."""
    b = Builder("two cores, one DRAM", 10**9)
    dram = b.server("dram", rate_bytes=8)
    sides = [(b.unit(f"dma{i}", lanes=2), b.unit(f"core{i}"), b.credit(f"in{i}", 2),
              b.server(f"l1.{i}", rate_bytes=32)) for i in range(2)]  # fmt: skip
    with b.repeat(n):
        for i, (dma, core, buffer, l1) in enumerate(sides):
            x = b.op(dma, setup=20, bytes=4096, burst=64, route=(dram, l1), take=((buffer, 1),), kind="load")
            y = b.op(core, setup=5, run=400 + 100 * i, deps=(x,), give=((buffer, 1),))
            b.op(dma, setup=20, bytes=2048, burst=64, route=(dram, l1), deps=(y,), kind="store")
    return b.build()


def clusters(n: int, n_clusters: int) -> Program:
    """Clusters of a load DMA, a core and a store DMA, with an L1 each, on an L2 with two ports."""
    b = Builder(f"{n_clusters} clusters, two-port L2", 10**9)
    l2 = b.server("l2", rate_bytes=8, ports=2)
    made = [(b.unit(f"in{i}", lanes=2), b.unit(f"core{i}"), b.unit(f"out{i}"), b.credit(f"in{i}", 2),
             b.server(f"l1.{i}", rate_bytes=16)) for i in range(n_clusters)]  # fmt: skip
    with b.repeat(n):
        for i, (load, core, store, buffer, l1) in enumerate(made):
            x = b.op(load, setup=20, bytes=1024, burst=32, route=(l2, l1), take=((buffer, 1),), kind="load")
            y = b.op(core, setup=5, run=200 + 10 * i, deps=(x,), give=((buffer, 1),))
            b.op(store, setup=20, bytes=512, burst=32, route=(l2, l1), deps=(y,), kind="store")
    return b.build()


def pipelines(n_pipelines: int, jobs: int) -> Program:
    """The model of queue_loop.cpp: compute, a block over a DMA of 16 channels, compute, one over a bus, compute."""
    b = Builder(f"{n_pipelines} pipelines", 10**9)
    dma, bus = b.server("dma", rate_bytes=1, ports=16), b.server("bus", rate_bytes=1)
    units = [b.unit(f"pipeline{i}") for i in range(n_pipelines)]
    with b.repeat(jobs):
        for i, unit in enumerate(units):
            b.op(unit, run=100 + i % 7)
            b.op(unit, bytes=40, burst=40, route=(dma,))
            b.op(unit, run=50 + i % 7)
            b.op(unit, bytes=3, burst=3, route=(bus,))
            b.op(unit, run=20 + i % 7)
    return b.build()


def streams(n_streams: int, ops: int, bursts: int) -> Program:
    """Streams in turn on one link, every op of so many bursts."""
    b = Builder(f"{n_streams} streams, one link", 10**9)
    link = b.server("link", rate_bytes=8)
    units = [b.unit(f"stream{i}") for i in range(n_streams)]
    for _ in range(ops):
        for unit in units:
            b.op(unit, setup=20, bytes=64 * bursts, burst=64, route=(link,))
    return b.build()


def gemmini(workload: str) -> Callable[[int], Program]:
    """So many inferences of a network on Gemmini, tiled as its library does."""
    soc, network = find_soc("gemmini"), find_workload(workload)
    mapped = find_mapping("default", network, soc)
    return lambda inferences: lower(network, mapped, soc, inferences)


def diana(workload: str, mapping: str, runtime: Runtime) -> Callable[[int], Program]:
    """So many inferences of a network on DIANA."""
    soc, network = find_soc("diana"), find_workload(workload)
    mapped = find_mapping(mapping, network, soc, runtime)
    return lambda inferences: lower(network, mapped, soc, inferences)


def programs(quick: bool) -> list[Case]:
    """What is measured; add cases here."""
    scale = 1 if quick else 4
    large = () if quick else (Case("ResNet-50 on Gemmini", gemmini("resnet50"), 1, 1),)
    return [
        Case("ResNet-20 on DIANA, serial", diana("resnet20", "all_8bit", "serial"), 10 * scale, 1),
        Case("ResNet-20 on DIANA, both cores", diana("resnet20", "min_cost", "overlapped"), 10 * scale, 1),
        Case("MobileNetV1 on DIANA, overlapped", diana("mobilenet_v1_025", "all_8bit", "overlapped"), 10 * scale, 1),
        Case("ResNet-18 segment on DIANA, fused", diana("resnet18_segment", "silicon", "overlapped"), 2 * scale, 1),
        *large,
        Case("MobileNetV2 on Gemmini", gemmini("mobilenet_v2"), 1, 1),
        Case("tile loop, one DMA (3 units)", tile_loop, 4000 * scale, 50 * scale),
        Case("two cores, one DRAM (4 units)", two_cores, 1700 * scale, 20 * scale),
        Case("4 clusters, two-port L2 (12 units)", lambda n: clusters(n, 4), 1500 * scale, 20 * scale),
        Case("16 clusters, two-port L2 (48 units)", lambda n: clusters(n, 16), 400 * scale, 5 * scale),
    ]


def beginning(program: Program, most: int) -> Program:
    """The first ops of a program, `most` at most. (If one needs a credit that a later op gives, the run says so.)"""
    if program.n_ops <= most:
        return program
    return replace(program, rows=unroll(program).rows[:most], blocks=np.array([(0, most, 1)], dtype=BLOCK))


def plain(program: Program, watch: Collection[int] = ()) -> Trace:
    """The fast engine with every burst an event."""
    return engine_fast.counted(program, watch, coalesce=False, skip=False)[0]


def cpu_seconds(run: Run, program: Program) -> tuple[float, int]:
    """CPU seconds and bursts of one run."""
    start = time.process_time()
    trace = run(program, ())
    return time.process_time() - start, trace.bursts


def measure(case: Case, repeats: int, reference_ops: int) -> dict[str, Any]:
    """The ways to run a case, in turn."""
    full = case.build(case.iterations)
    short = beginning(full if case.shortened == case.iterations else case.build(case.shortened), reference_ops)
    ways: dict[str, tuple[Run, Program]] = {
        "skipping": (engine_fast.run, full), "plain": (plain, full), "reference": (engine_reference.run, short)
    }  # fmt: skip
    runs: dict[str, list[tuple[float, int]]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, (run, program) in ways.items():
            runs[name].append(cpu_seconds(run, program))
    seconds = {name: median(t for t, _ in found) for name, found in runs.items()}
    rates = {name: runs[name][0][1] / seconds[name] for name in ways}
    return {
        "name": case.name, "ops": full.n_ops, "bursts": runs["plain"][0][1], "cpu_s": seconds, "bursts_per_s": rates,
        "reference_bursts": runs["reference"][0][1], "ratio": rates["skipping"] / rates["reference"],
        "ratio_plain": rates["plain"] / rates["reference"],
    }  # fmt: skip


def against_cpp(repeats: int) -> dict[str, float] | None:
    """Events a second of the plain engine and of the C++ loop on the same pipelines; None without a compiler."""
    compiler = shutil.which("c++")
    if compiler is None:
        return None
    program = pipelines(*PIPELINES)
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "queue_loop"
        subprocess.run([compiler, "-O3", "-o", binary, Path(__file__).with_name("queue_loop.cpp")], check=True)
        command = [str(binary), *(str(x) for x in PIPELINES)]
        ours, theirs = [], []
        for _ in range(repeats):
            ours.append(cpu_seconds(plain, program)[0])
            out = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
            theirs.append(float(out[2]))
    events, makespan = int(out[0]), int(out[1])
    if makespan != plain(program).makespan:
        raise SystemExit(f"the C++ loop ends at tick {makespan}, the engine at {plain(program).makespan}")
    rates = (events / median(ours), events / median(theirs))
    return {"events": events, "events_per_s": rates[0], "cpp_events_per_s": rates[1], "ratio": rates[0] / rates[1]}


def end_to_end(repeats: int, quick: bool) -> list[dict[str, Any]]:
    """Names to makespan, files read and program lowered included: CPU seconds, and cycles simulated in each."""
    found = []
    runs = [("gemmini", "resnet18"), ("gemmini", "gemm512"), ("gemmini", "gemm1024"), ("diana", "resnet18")]
    for soc, workload in runs if quick else [*runs, ("gemmini", "resnet50")]:
        times = []
        for _ in range(repeats):
            start = time.process_time()
            chip, network = find_soc(soc), GEMMS[workload]() if workload in GEMMS else find_workload(workload)
            mapping = find_mapping("default" if soc == "gemmini" else "all_8bit", network, chip)
            program = lower(network, mapping, chip)
            cycles = engine_fast.run(program).makespan * chip.tick_hz / program.tick_hz
            times.append(time.process_time() - start)
        found.append({"soc": soc, "workload": workload, "cycles": cycles, "cpu_s": median(times),
                      "cycles_per_s": cycles / median(times)})  # fmt: skip
    return found


def gemm(n: int) -> Workload:
    """One n x n x n matrix product, its right-hand side weights."""
    layer = Layer("gemm", "conv", (INPUT,), k=n, c=n, ox=n, ix=n)
    return Workload(f"gemm{n}", (n, 1, n), (layer,), ("gemm",))


GEMMS: dict[str, Callable[[], Workload]] = {"gemm512": lambda: gemm(512), "gemm1024": lambda: gemm(1024)}


def most_memory_mb(bursts: int) -> float:
    """Memory of a process of its own that builds and runs 64 streams of so many bursts in all, 16 an op."""
    command = [sys.executable, __file__, "--memory", str(bursts)]
    out = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(out.stdout)


_FIRST_CALL = """
import time
from cosoc.sim.machine import engine_fast
from cosoc.sim.machine.program import Builder
b = Builder("one op", 1)
b.op(b.unit("u"), run=1)
engine_fast.run(b.build())
print(time.process_time())
"""


def first_call() -> dict[str, float]:
    """CPU seconds of a fresh Python up to its first result: with an empty kernel cache, then with a filled one."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
        command = [sys.executable, "-c", _FIRST_CALL]
        found = [float(subprocess.run(command, env=environment, check=True, capture_output=True).stdout)
                 for _ in range(4)]  # fmt: skip
    return {"cold_s": found[0], "warm_s": median(found[1:])}


def table(rows: list[dict[str, Any]]) -> None:
    """Print the programs."""
    print(f"{'program':35} {'bursts':>10} {'skip, M/s':>9} {'plain, M/s':>10} {'ref., k/s':>9} {'ratio':>7}")
    for row in rows:
        rates = row["bursts_per_s"]
        print(f"{row['name']:35} {row['bursts']:10,} {rates['skipping'] / 1e6:9.1f} {rates['plain'] / 1e6:10.1f} "
              f"{rates['reference'] / 1e3:9.1f} {row['ratio']:6.0f}x")  # fmt: skip


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--memory", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        engine_fast.run(streams(64, options.memory // 1024, 16))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    repeats = 3 if options.quick else 5
    state()
    result: dict[str, Any] = {"quick": options.quick, "first_call": first_call()}
    print(f"first call: {result['first_call']['cold_s']:.1f} CPU s with an empty kernel cache, "
          f"{result['first_call']['warm_s']:.2f} with a filled one")  # fmt: skip
    engine_fast.run(tile_loop(1000))  # compiles or loads the kernels, outside the times below
    result["programs"] = []
    for case in programs(options.quick):
        print(f"  {case.name} ...", end="\r", file=sys.stderr, flush=True)
        result["programs"].append(measure(case, repeats, QUICK_REFERENCE_OPS if options.quick else REFERENCE_OPS))
    table(result["programs"])
    start = time.process_time()
    trace = engine_fast.run(tile_loop(100_000))
    result["loop_100k_s"] = time.process_time() - start
    print(f"100,000 identical tiles, {trace.bursts:,} bursts: {result['loop_100k_s'] * 1e3:.1f} ms")
    result["cpp"] = against_cpp(repeats)
    if result["cpp"] is None:
        print("no C++ compiler: its loop is left out")
    else:
        print(f"{result['cpp']['events_per_s'] / 1e6:.1f} M events/s, a C++ priority queue "
              f"{result['cpp']['cpp_events_per_s'] / 1e6:.1f} M: {result['cpp']['ratio']:.2f}x")  # fmt: skip
    result["end_to_end"] = end_to_end(repeats, options.quick)
    for row in result["end_to_end"]:
        print(f"{row['workload']} on {row['soc']}, from its name to its makespan: {row['cpu_s']:.2f} CPU s, "
              f"{row['cycles'] / 1e6:.2f} M cycles, {row['cycles_per_s'] / 1e6:.1f} M a CPU second")  # fmt: skip
    if not options.quick:
        result["memory_10m_bursts_mb"] = most_memory_mb(10_000_000)
        print(f"a program of 10 M bursts, built and run: {result['memory_10m_bursts_mb']:.0f} MB")
    write_json(options.json, result)


if __name__ == "__main__":
    main()
