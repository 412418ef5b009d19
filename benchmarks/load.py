"""What size costs: seconds and memory over layers, tiles, ops of a report and points of a campaign.

    python benchmarks/load.py [--quick] [--cases NAME,...] [--json FILE]

Each size runs in a process of its own, after a small one of the same kind has loaded and compiled what it needs, so
that neither counts. Seconds are of the processor; memory is what the process grew by at its peak. The exponent is the
slope of both between the largest size and the next that is at most a quarter of it, in logarithms: 1 is linear; 1.2 is
what is allowed. No randomness, no seed.
With --cases and a --json file that is there, cases that are not run keep their figures in it.

- layers: a network of residual blocks on DIANA, from a name to a result, mapping chosen. gemmini_layers: on Gemmini.
- file: the same networks to YAML and back. estimate: its closed form.
- tiles: a GEMM on Gemmini in so many tiles, each with its transfers. loop_tiles: a convolution on DIANA in so many.
- report: a run of so many ops as a page, trace: as a Chrome trace, explain: its causes, and the what-ifs that they
  propose (which are not simulated); the run itself is not in their seconds. page_mb, and browser_s from when a headless
  Chromium, where there is one, goes to the page until it has drawn it, by the page's own clock; browser_empty_s: the
  same of an empty page, opened in turn; the least of three.
- cluster: a network split over so many devices, each an entry of its own that is slower than the one before.
  mixed_cluster: each takes less power in turn, so that a plan could need any. gap: of the best split found over the
  bound; left_out: devices that the search does not tell apart from others; unfinished: rounds that its limit of time
  (600 s) has cut short.
- campaign: so many tasks over a Dask cluster of two workers on this machine, one of which is killed every `KILL_S`
  seconds; lost: tasks without a result, failed: recorded as failed, differ: those whose figures are not the ones of the
  same task in one process that nobody kills (all to be 0). Wall seconds, of the cluster alone.
"""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from browser import Browser
from common import arguments, state, write_json

from cosoc.sim.files.catalog import find_soc, load_cluster
from cosoc.sim.files.mapping_file import dump_mapping
from cosoc.sim.files.workload_file import dump_workload, find_workload, load_workload
from cosoc.sim.manual import named_mapping
from cosoc.sim.model.mapping import WEIGHTS_STAY, Extent, LayerPlan, Mapping, Part
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import INPUT, Layer, Workload
from cosoc.sim.report.result import Result
from cosoc.sim.simulate import figures, simulate
from cosoc.sim.tiler import checked, placed

KILL_S = 30.0
LIMIT_S = 900.0  # of one size
ALLOWED = 1.2
MIB = 1 << 20


def residual(layers: int, channels: int = 16, side: int = 8) -> Workload:
    """Blocks of two 3x3 convolutions and a sum, on side x side pixels."""
    shape = (channels, channels, side, side, side, side)
    out: list[Layer] = []
    last = INPUT
    for i in range(layers // 3):
        for name in ("a", "b"):
            reads = last if name == "a" else f"a{i}"
            out.append(Layer(f"{name}{i}", "conv", (reads,), *shape, 3, 3, pad_y=1, pad_x=1))
        out.append(Layer(f"sum{i}", "add", (last, f"b{i}"), *shape))
        last = f"sum{i}"
    return Workload("residual", (channels, side, side), tuple(out), (last,))


# ---------------------------------------------------------------------------------------------------------- cases


def layers(n: int) -> dict[str, Any]:
    return _whole("diana", residual(n))


def gemmini_layers(n: int) -> dict[str, Any]:
    return _whole("gemmini", residual(n))


def _whole(soc_name: str, workload: Workload) -> dict[str, Any]:
    soc = find_soc(soc_name)
    result = simulate(soc, workload, named_mapping("default", workload, soc, "overlapped"))
    return {"ops": result.ops}


def file(n: int) -> dict[str, Any]:
    text = dump_workload(residual(n))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "residual.yaml"
        path.write_text(text)
        if load_workload(path).layers != residual(n).layers:
            raise SystemExit("a file that is read back differs")
    return {"bytes": len(text)}


def estimate(n: int) -> dict[str, Any]:
    from cosoc.search.fit import made_of, ticks_of
    from cosoc.sim.theta import Theta

    soc, workload = find_soc("diana"), residual(n)
    mapping = checked(named_mapping("default", workload, soc, "overlapped"), workload, soc)
    (ticks,) = ticks_of([made_of(workload, mapping, soc)], Theta())
    return {"ticks": float(ticks)}


def tiles(n: int) -> dict[str, Any]:
    """n tiles of 16 x 16 outputs that each read 64 channels."""
    rows = math.isqrt(n)
    gemm = Layer("gemm", "conv", (INPUT,), 16 * (n // rows), 64, oy=16 * rows, iy=16 * rows)
    workload = Workload("gemm", (64, 16 * rows, 1), (gemm,), ("gemm",))
    tile = Extent(16, 64, 1, 1, 16, 1)
    soc = find_soc("gemmini")
    (core,) = (name for name, model in soc.cores.items() if model.model == "systolic")
    plan = LayerPlan((Part(core, gemm.k, tile),), WEIGHTS_STAY)
    figures(soc, workload, Mapping("tiles", "overlapped", {"gemm": plan}))
    return {"tiles": rows * (n // rows)}


def loop_tiles(n: int) -> dict[str, Any]:
    """n tiles of a pixel each."""
    conv = Layer("conv", "conv", (INPUT,), 16, 16, n, 1, n, 1, 1, 1)
    workload = Workload("rows", (16, n, 1), (conv,), ("conv",))
    plan = LayerPlan((Part("digital", 16, Extent(16, 16, 1, 1, 1, 1)),), WEIGHTS_STAY)
    figures(find_soc("diana"), workload, Mapping("rows", "overlapped", {"conv": plan}))
    return {"tiles": n}


@dataclass(frozen=True)
class _Run:
    soc: SoC
    workload: Workload
    mapping: Mapping
    result: Result


def _run(n: int) -> _Run:
    """A run of some n ops: blocks of 32 channels on 32 x 32 pixels, of which Gemmini makes 483 ops a layer."""
    soc, workload = find_soc("gemmini"), residual(max(3, n // 483), 32, 32)
    mapping = named_mapping("default", workload, soc, "overlapped")
    return _Run(soc, workload, mapping, simulate(soc, workload, mapping))


def report(n: int) -> dict[str, Any]:
    from cosoc.sim.report import run_page

    run, start = _run(n), time.process_time()
    data = run_page.run_data(run.result, run.soc, run.workload, run.mapping)
    page = run_page.page({"title": "load", "subtitle": "", "run": data, "provenance": []})
    out: dict[str, Any] = {"seconds": time.process_time() - start, "ops": run.result.ops, "page_mb": len(page) / MIB}
    return out | _shown({"empty_": EMPTY, "": page})


EMPTY = "<!doctype html><title>empty</title><canvas></canvas>"


def _shown(pages: dict[str, str]) -> dict[str, float]:
    """Of pages, opened in turn, three times each, by name the least seconds until a browser has drawn one; none where
    there is no browser."""
    try:
        browser = Browser()
    except FileNotFoundError:
        return {}
    least: dict[str, float] = {}
    with closing(browser), tempfile.TemporaryDirectory() as folder:
        for turn in range(3):
            for name, page in pages.items():
                path = Path(folder) / f"{name}{turn}.html"
                path.write_text(page, encoding="utf-8")
                seconds, canvases = browser.opened_s(path)
                if not canvases:
                    raise SystemExit("the page was not drawn")
                least[f"browser_{name}s"] = min(seconds, least.get(f"browser_{name}s", math.inf))
    return least


def trace(n: int) -> dict[str, Any]:
    from cosoc.sim.report.chrome import write_chrome_trace

    run, start = _run(n), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        write_chrome_trace(run.result, path)
        size = path.stat().st_size
    return {"seconds": time.process_time() - start, "ops": run.result.ops, "trace_mb": size / MIB}


def explain(n: int) -> dict[str, Any]:
    from cosoc.sim.report.explain import causes_by_layer, proposals

    run, start = _run(n), time.process_time()
    causes, changes = causes_by_layer(run.result), proposals(run.result, run.soc)
    if not (causes and changes):
        raise SystemExit("nothing was explained")
    return {"seconds": time.process_time() - start, "ops": run.result.ops, "what_ifs": len(changes)}


def cluster(n: int) -> dict[str, Any]:
    return _split(n, lambda i: {})


def mixed_cluster(n: int) -> dict[str, Any]:
    return _split(n, lambda i: {"set": {"base_power_mw": str(4000 - 3000 * i // n)}})


def _split(n: int, more: Callable[[int], dict[str, Any]]) -> dict[str, Any]:
    """ResNet-8 over n boards of three kinds, each of which takes longer over a message than the one before. more: of
    each board."""
    from cosoc.search.spaces.split_space import SplitConfig, search_splits

    socs = ("jetson_nano", "rpi4", "atom_e3845")
    devices = {f"d{i}": {"soc": socs[i % 3], "message_ns": 10_000 + 1_000 * i, **more(i)} for i in range(n)}
    link = {"kind": "ethernet_switch", "between": list(devices), "bytes_per_s": 1_250_000_000, "latency_ns": 100_000,
            "burst_bytes": 1448}  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fleet.yaml"
        path.write_text(json.dumps({"name": f"fleet_{n}", "devices": devices, "links": {"switch": link}}))
        fleet = load_cluster(path)
        config = SplitConfig(fleet, find_workload("resnet8"), 200, out=Path(folder) / "run")
        result = search_splits(config, lambda done, total, what: None)
    best, optimum = result.best, result.optimum
    if best.estimated is None or optimum is None:
        raise SystemExit("the best split is without a bound")
    return {
        "gap": result.value(best.estimated) / optimum.bound - 1, "stages": len(best.about["stages"]),
        "left_out": result.about["devices_left_out"], "unfinished": len(result.about["unfinished"]),
    }  # fmt: skip


def campaign(n: int) -> dict[str, Any]:
    """Tasks of the smallest network on DIANA in tiles that stand in a file, values of the SoC varied; workers are
    killed in turn. Then the same tasks in one process that nobody kills, point by point."""
    from distributed import LocalCluster

    from cosoc.search.campaigns.plan import load_plan, tasks
    from cosoc.search.campaigns.run import SweepConfig, sweep
    from cosoc.search.campaigns.work import FIGURES, perform

    soc, workload = find_soc("diana"), find_workload("digits_cnn")
    tiles = placed(named_mapping("all_8bit", workload, soc, "overlapped"), workload, soc).mapping
    killed = 0
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path, mapping = Path(folder) / "plan.yaml", Path(folder) / "tiles.yaml"
        mapping.write_text(dump_mapping(tiles))
        path.write_text(
            f"simulate: {{soc: [diana], workload: [digits_cnn], mapping: ['{mapping}'], runtime: [overlapped], set: "
            f"{{cores.digital.launch_cycles: {[1000 + i for i in range(n)]}}}}}\n"
        )
        with LocalCluster(
            n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0", silence_logs=50
        ) as cluster:
            last = time.monotonic()

            def progress(done: int, total: int, what: str) -> None:
                nonlocal killed, last
                if time.monotonic() - last > KILL_S:
                    last = time.monotonic()
                    victim = list(cluster.workers.values())[killed % 2]
                    os.kill(victim.pid, signal.SIGKILL)
                    killed += 1

            result = sweep(SweepConfig(path, Path(folder) / "out", 2, cluster.scheduler_address), progress)
        seconds = time.perf_counter() - start
        found = {row["id"]: row["result"] for row in result.rows if row["status"] == "done"}
        differ = sum(
            {key: (found.get(task.id) or {}).get(key) for key in FIGURES}
            != {key: perform(task.kind, task.spec, folder, None)["result"][key] for key in FIGURES}
            for task in tasks(load_plan(path))
        )
    failed = sum(row["status"] != "done" for row in result.rows)
    return {"seconds": seconds, "killed": killed, "failed": failed, "lost": result.left, "differ": differ}


CASES: dict[str, tuple[Callable[[int], dict[str, Any]], tuple[int, ...], int]] = {
    # the work, its sizes, how many of them --quick has
    "layers": (layers, (125, 500, 2000), 2),
    "gemmini_layers": (gemmini_layers, (125, 500, 2000), 1),
    "file": (file, (125, 500, 2000), 2),
    "estimate": (estimate, (125, 500, 2000), 2),
    "tiles": (tiles, (10_000, 100_000, 1_000_000), 1),
    "loop_tiles": (loop_tiles, (10_000, 100_000, 1_000_000), 2),
    "report": (report, (10_000, 100_000, 1_000_000), 1),
    "trace": (trace, (10_000, 100_000, 1_000_000), 1),
    "explain": (explain, (10_000, 100_000, 1_000_000), 1),
    "cluster": (cluster, (16, 64, 256, 1_000), 1),
    "mixed_cluster": (mixed_cluster, (16, 64, 256, 1_000), 0),
    "campaign": (campaign, (100, 1_000, 10_000), 0),
}


def alone(name: str, size: int) -> dict[str, Any]:
    """A case at a size in a process of its own: seconds, megabytes, and what the case says."""
    call = [sys.executable, __file__, "--cases", name, "--alone", str(size)]
    try:
        done = subprocess.run(call, check=False, capture_output=True, text=True, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        return {"size": size, "error": f"over {LIMIT_S:.0f} s"}
    if done.returncode:
        last = (done.stderr.strip() or f"status {done.returncode}").splitlines()[-1]
        return {"size": size, "error": last}
    out: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return out


def _alone(name: str, size: int) -> None:
    """What `alone` runs: warm up, then measure."""
    work, sizes, _ = CASES[name]
    if name != "campaign":
        work(max(min(sizes) // 10, 4))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = time.perf_counter(), time.process_time()
    said = work(size)
    seconds = time.perf_counter() - wall if name == "campaign" else time.process_time() - cpu
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(json.dumps({"size": size, "seconds": seconds, "grown_mb": grown} | said))


def exponent(rows: list[dict[str, Any]], key: str) -> float | None:
    """The slope between the largest size and the next that is at most a quarter of it; None where there is none, or
    nothing grew that can be told."""
    whole = [row for row in rows if row.get(key, 0) > 0]
    smaller = [row for row in whole if 4 * row["size"] <= whole[-1]["size"]]
    if not smaller:
        return None
    a, b = smaller[-1], whole[-1]
    return math.log(b[key] / a[key]) / math.log(b["size"] / a["size"])


def _measured_before(path: Path | None, quick: bool) -> dict[str, Any]:
    """The cases that a file of figures has already, of runs as quick as this one; those that are run now replace
    theirs."""
    if path is None or not path.is_file():
        return {}
    content = json.loads(path.read_text())
    cases: dict[str, Any] = content["cases"] if content["quick"] == quick else {}
    return {name: cases[name] for name in CASES if name in cases}


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--cases", default=",".join(CASES), help="some of them, by name")
    parser.add_argument(
        "--alone", type=int, metavar="SIZE", help="run the case at this size here and print its figures"
    )
    options = parser.parse_args()
    names = options.cases.split(",")
    unknown = [name for name in names if name not in CASES]
    if unknown:
        parser.error(f"no case {unknown[0]!r}; there is {', '.join(CASES)}")
    if options.alone is not None:
        _alone(names[0], options.alone)
        return 0
    state()
    out = _measured_before(options.json, options.quick)
    print(f"{'case':16} {'size':>9} {'seconds':>9} {'grown MB':>9}")
    for name in names:
        _, sizes, quick = CASES[name]
        rows = []
        for size in sizes[:quick] if options.quick else sizes:
            row = alone(name, size)
            rows.append(row)
            said = ", ".join(
                f"{k} {v:.3g}" for k, v in row.items() if k not in ("size", "seconds", "grown_mb", "error")
            )
            shown = row.get("error") or f"{row['seconds']:9.2f} {row['grown_mb']:9.1f}  {said}"
            print(f"{name:16} {size:9,} {shown}", flush=True)
        slopes = {key: exponent(rows, key) for key in ("seconds", "grown_mb")}
        out[name] = {"sizes": rows, "exponent_time": slopes["seconds"], "exponent_memory": slopes["grown_mb"]}
        for key, slope in slopes.items():
            if slope is not None:
                print(f"{name:16} {key} grow with size to the {slope:.2f}", flush=True)
    steep = [
        name for name, one in out.items()
        if any("error" in row for row in one["sizes"]) or (one["exponent_time"] or 0.0) > ALLOWED
    ]  # fmt: skip
    write_json(options.json, {"quick": options.quick, "cases": out, "over_the_limit": steep})
    return 1 if steep else 0


if __name__ == "__main__":
    sys.exit(main())
