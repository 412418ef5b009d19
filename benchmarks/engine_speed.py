"""How fast the two engines are: bursts a second, their ratio, first-call seconds, memory.

    python benchmarks/engine_speed.py [--quick] [--json FILE]

Programs are networks on DIANA, several inferences of them, and synthetic loops from two to 48 units. Times are CPU
seconds of this process, medians of five (of three with --quick), the two engines in turn in one run. The reference
engine runs a shortened program (fewer iterations of the same loop, one inference); rates are per burst. There is no
randomness, hence no seed.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

from common import arguments, state, write_json

from cosoc.sim import engine_fast, engine_reference
from cosoc.sim.catalog import find_soc
from cosoc.sim.lower import lower
from cosoc.sim.mapping import Runtime
from cosoc.sim.mapping_file import find_mapping
from cosoc.sim.program import Builder, Program
from cosoc.sim.trace import Run
from cosoc.sim.workload_file import find_workload


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
    l2, l1 = b.server("l2", rate_bytes=8), b.server("l1", rate_bytes=32, ports=0)
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


def diana(workload: str, mapping: str, runtime: Runtime) -> Callable[[int], Program]:
    """So many inferences of a network on DIANA."""
    soc, network = find_soc("diana"), find_workload(workload)
    mapped = find_mapping(mapping, network, soc, runtime)
    return lambda inferences: lower(network, mapped, soc, inferences)


def programs(quick: bool) -> list[Case]:
    """What is measured; add cases here."""
    scale = 1 if quick else 4
    return [
        Case("ResNet-20 on DIANA, serial", diana("resnet20", "all_8bit", "serial"), 10 * scale, 1),
        Case("ResNet-20 on DIANA, both cores", diana("resnet20", "min_cost", "overlapped"), 10 * scale, 1),
        Case("MobileNetV1 on DIANA, overlapped", diana("mobilenet_v1_025", "all_8bit", "overlapped"), 10 * scale, 1),
        Case("ResNet-18 segment on DIANA, fused", diana("resnet18_segment", "silicon", "overlapped"), 2 * scale, 1),
        Case("tile loop, one DMA (3 units)", tile_loop, 4000 * scale, 50 * scale),
        Case("two cores, one DRAM (4 units)", two_cores, 1700 * scale, 20 * scale),
        Case("4 clusters, two-port L2 (12 units)", lambda n: clusters(n, 4), 1500 * scale, 20 * scale),
        Case("16 clusters, two-port L2 (48 units)", lambda n: clusters(n, 16), 400 * scale, 5 * scale),
    ]


def cpu_seconds(run: Run, program: Program) -> tuple[float, int]:
    """CPU seconds and bursts of one run."""
    start = time.process_time()
    trace = run(program, ())
    return time.process_time() - start, trace.bursts


def measure(case: Case, repeats: int) -> dict[str, Any]:
    """Both engines in turn on one case."""
    full, short = case.build(case.iterations), case.build(case.shortened)
    fast, reference = [], []
    for _ in range(repeats):
        fast.append(cpu_seconds(engine_fast.run, full))
        reference.append(cpu_seconds(engine_reference.run, short))
    fast_rate, reference_rate = (runs[0][1] / median(t for t, _ in runs) for runs in (fast, reference))
    return {
        "name": case.name, "ops": full.n_ops, "bursts": fast[0][1], "fast_cpu_s": median(t for t, _ in fast),
        "fast_bursts_per_s": fast_rate, "reference_bursts": reference[0][1],
        "reference_bursts_per_s": reference_rate, "ratio": fast_rate / reference_rate,
    }  # fmt: skip


_FIRST_CALL = """
import time; start = time.perf_counter()
from cosoc.sim import engine_fast
from cosoc.sim.program import Builder
b = Builder("one op", 1)
b.op(b.unit("u"), run=1)
engine_fast.run(b.build())
print(time.perf_counter() - start)
"""


def first_call() -> dict[str, float]:
    """Seconds from a fresh Python to the first result: with an empty kernel cache, then with a filled one."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
        command = [sys.executable, "-c", _FIRST_CALL]
        found = [float(subprocess.run(command, env=environment, check=True, capture_output=True).stdout)
                 for _ in range(4)]  # fmt: skip
    return {"cold_s": found[0], "warm_s": median(found[1:])}


def main() -> None:
    options = arguments(__doc__).parse_args()
    state()
    result: dict[str, Any] = {"quick": options.quick}
    result["first_call"] = first_call()
    print(f"first call: {result['first_call']['cold_s']:.1f} s with an empty kernel cache, "
          f"{result['first_call']['warm_s']:.2f} s with a filled one")  # fmt: skip
    engine_fast.run(tile_loop(1))  # compiles or loads the kernel, outside the times below
    print(f"{'program':36} {'bursts':>9} {'fast, s':>8} {'fast, M/s':>9} {'reference, k/s':>14} {'ratio':>6}")
    result["programs"] = []
    for case in programs(options.quick):
        row = measure(case, 3 if options.quick else 5)
        result["programs"].append(row)
        print(f"{row['name']:36} {row['bursts']:9,} {row['fast_cpu_s']:8.3f} {row['fast_bursts_per_s'] / 1e6:9.2f} "
              f"{row['reference_bursts_per_s'] / 1e3:14.1f} {row['ratio']:5.0f}x")  # fmt: skip
    result["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory of this process: {result['peak_memory_mb']:.0f} MB")
    write_json(options.json, result)


if __name__ == "__main__":
    main()
