"""The command line. Commands are thin: they read names and files, call the library, and say where the results are.

What is slow to import (torch, numba, simpy, pyplot) is imported inside the command that needs it, so that
`cosoc --help` answers at once.
"""

from __future__ import annotations

import errno
import math
import os
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cosoc import __version__
from cosoc import search_options as options
from cosoc.boundary import Interrupted, calm, nonsense, refused, too_little_memory
from cosoc.evaluating import evaluate
from cosoc.exporting import export
from cosoc.output import (
    Lost,
    abandon_output,
    prepare_streams,
    put,
    replacing,
    reporting,
    reporting_late,
    say,
    workload_table,
    write_json,
    write_text,
)
from cosoc.output import check_outputs as _check_outputs
from cosoc.searching import CALIBRATED_BY, STREAMED, Clip, Cut, Estimator, Template
from cosoc.sim.errors import Deadlock, InputError
from cosoc.sim.files.names import FileKind
from cosoc.sim.model.mapping import Runtime
from cosoc.sim.model.units import MOST_ALONG
from cosoc.sim.processes import Ended, Signals, end_workers, ending_by_signals
from cosoc.sim.trust import trusting
from cosoc.trust_option import Trust

if TYPE_CHECKING:
    from cosoc.sim.files.reading import Reading
    from cosoc.sim.model.cluster import Cluster
    from cosoc.sim.model.mapping import Mapping
    from cosoc.sim.model.soc import SoC
    from cosoc.sim.model.workload import Workload

    Asked = Reading | list[str] | None  # how a network is read, or what --input-shape says of it

SHOWN_FAILURES = 5  # of a campaign, on the terminal
DEFAULT_MAPPING = DEFAULT_RECIPE = "default"
# Options of `search` that its library calls otherwise.
ARGUMENTS = {
    "target": "targets", "peak": "targets", "time_budget": "time_budget_s", "carrier": "carrier_w",
    "input_shape": "example", "rate": "rates",
}  # fmt: skip
READING = ("input_shape", "input_dtype", "cut_at", "context")  # how a network is read
WITH_RANGES = ("mapping", "runtime", "engine", "batch", "json_file", *READING, "overrides", "ranges", "seed")
WITH_PIPELINED = ("mapping", "runtime", "engine", "inferences", "json_file", *READING, "overrides", "pipelined")


Engine = Literal["fast", "reference"]
Calibrated = Literal["channels", "tiles"]

SocName = Annotated[str, typer.Argument(metavar="SOC", help="A built-in SoC (see `cosoc list`) or a .yaml file.")]
MachineName = Annotated[
    str, typer.Argument(metavar="SOC", help="A built-in SoC or cluster (see `cosoc list`), or a .yaml file.")
]
OptionalSocName = Annotated[str | None, typer.Argument(metavar="SOC", help="As in `cosoc simulate`.")]
WorkloadName = Annotated[
    str,
    typer.Argument(
        metavar="WORKLOAD",
        help="A built-in workload, a .yaml or .onnx file, torchvision:NAME, timm:NAME or package.module:factory.",
    ),
]
MappingName = Annotated[
    str, typer.Option("--mapping", metavar="NAME|FILE", help="A mapping by name (see `cosoc list`) or a .yaml file.")
]
RuntimeName = Annotated[
    Runtime | None,
    typer.Option("--runtime", help="Wait for every transfer and job, or overlap them [default: as the mapping says]."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Override a value of the SoC file; may be repeated."),
]
InputShape = Annotated[
    list[str] | None,
    typer.Option(
        "--input-shape", metavar="[NAME=]1,C,H,W", help="Input of an .onnx file or package.module:factory; repeatable."
    ),
]
InputDtype = Annotated[
    list[str] | None,
    typer.Option("--input-dtype", metavar="[NAME=]TYPE", help="Of a torch module's input: int64 for token ids."),
]
CutAt = Annotated[
    str, typer.Option("--cut-at", metavar="LAYER", help="End a network of a module or .onnx file with that layer.")
]
Context = Annotated[
    int,
    typer.Option("--context", metavar="N", min=0, help="Tokens in the key-value cache of a transformers model."),
]
JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the result as JSON.")]
Batch = Annotated[
    int,
    typer.Option(
        "--batch",
        min=1,
        max=MOST_ALONG,
        help="Images (or sequences) that go through each layer together, times those that its input has already.",
    ),
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Equal seeds give equal results.")]
WhatIf = Annotated[
    list[str] | None,
    typer.Option("--what-if", metavar="PATH=CHANGE", help="With links.l2.rate=x2, =16 or =+8: how the run changes."),
]
Carrier = Annotated[
    float | None,
    typer.Option(
        "--carrier",
        metavar="W",
        min=0.0,
        max=1e6,
        help="What a board draws beside a chip, added to energies that stop there.",
    ),
]
Ranges = Annotated[
    bool, typer.Option("--ranges", help="The intervals that the ranges in the SoC file give, and what turns over them.")
]
CornerSeed = Annotated[int, typer.Option("--seed", min=0, help="With --ranges: of the corners that are drawn.")]
Html = Annotated[Path | None, typer.Option("--report", metavar="FILE.html", help="Write a report for a browser.")]
RunPath = Annotated[
    Path, typer.Argument(metavar="RUN", help="A folder of `cosoc search`, a mapping in it, or a result's JSON.")
]
Point = Annotated[str | None, typer.Option("--point", metavar="NAME", help="Which mapping of RUN [default: the best].")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no table: files and errors only.")]

app = typer.Typer(
    help="Simulate, calibrate and search mappings of neural networks on heterogeneous AI SoCs.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
show_app = typer.Typer(help="Print a SoC, workload, mapping or program.", rich_markup_mode=None)
app.add_typer(show_app, name="show")


# ------------------------------------------------------------------------------------------ commands


@app.command()
def simulate(
    ctx: typer.Context,
    soc: MachineName,
    workload: WorkloadName,
    mapping: Annotated[
        str | None,
        typer.Option(
            "--mapping",
            metavar="NAME|FILE",
            help="By name (see `cosoc list`) or a .yaml file [default: default; a cluster needs a file].",
        ),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            "--objective",
            metavar="NAME",
            help="What min_cost, and default where several cores can take a layer, is to make small: latency, energy, "
            "edp, peak, throughput, or a product such as latency*energy^2 [default: latency].",
        ),
    ] = None,
    runtime: RuntimeName = None,
    engine: Annotated[Engine, typer.Option("--engine", help="Both give the same result to the tick.")] = "fast",
    inferences: Annotated[
        int | None,
        typer.Option("--inferences", min=1, help="One after the other [default: 1; streams 1000]."),
    ] = None,
    batch: Batch = 1,
    json_file: JsonFile = None,
    trace_file: Annotated[
        Path | None, typer.Option("--trace", metavar="FILE", help="Write a Chrome trace, which Perfetto opens.")
    ] = None,
    schedule_file: Annotated[
        Path | None,
        typer.Option("--schedule", metavar="FILE.json", help="Write op, tile, operands, addresses and times as JSON."),
    ] = None,
    gantt_file: Annotated[
        Path | None, typer.Option("--gantt", metavar="FILE", help="Draw a Gantt chart (.png).")
    ] = None,
    report_file: Html = None,
    explain: Annotated[bool, typer.Option("--explain", help="Say why: causes by layer, and what would help.")] = False,
    what_if: WhatIf = None,
    input_shape: InputShape = None,
    input_dtype: InputDtype = None,
    cut_at: CutAt = "",
    context: Context = 0,
    overrides: Overrides = None,
    carrier: Carrier = None,
    ranges: Ranges = False,
    seed: CornerSeed = 0,
    pipelined: Annotated[
        bool,
        typer.Option("--pipelined", help="Crossbar chips: all layers at once, on images in a stream [default: 1000]."),
    ] = False,
    beside: Annotated[
        list[str] | None,
        typer.Option("--with", metavar="WORKLOAD", help="Another network that runs at once; may be repeated."),
    ] = None,
    mappings_beside: Annotated[
        list[str] | None,
        typer.Option("--mapping-with", metavar="NAME|FILE", help="The mapping of each --with [default: default]."),
    ] = None,
    periods: Annotated[
        str | None,
        typer.Option(
            "--period", metavar="S[,S]", help="Seconds after which the next inference is due: of all, or of each."
        ),
    ] = None,
    trusted: Trust = False,
    quiet: Quiet = False,
) -> None:
    """Run a mapped workload on a SoC, several of them at once, or stream one through a cluster. Says how long it takes
    and why, and what energy it takes."""
    from cosoc.sim.files.catalog import is_cluster
    from cosoc.sim.files.reading import reading

    asked = reading(input_shape, input_dtype, cut_at, context)
    if is_cluster(soc):
        known = ("mapping", "runtime", "engine", "inferences", "json_file", *READING, "overrides", "carrier")
        _only(ctx, "a cluster", *known, "schedule_file")
        files = (json_file, schedule_file)
        options = (mapping, runtime, engine, inferences or STREAMED, files, asked, overrides, carrier, quiet)
        _simulate_cluster(soc, workload, *options)
        return
    if ranges:
        _only(ctx, "--ranges", *WITH_RANGES)
        _check_outputs({"--json": json_file})
        _, network, placed = _inputs(soc, workload, mapping or DEFAULT_MAPPING, runtime, asked, overrides, batch)
        _ranges(soc, network, [placed], overrides, engine, seed, json_file, quiet)
        return
    if pipelined:
        _only(ctx, "--pipelined", *WITH_PIPELINED)
        _check_outputs({"--json": json_file})
        inputs = _inputs(soc, workload, mapping or DEFAULT_MAPPING, runtime, asked, overrides)
        _pipelined(*inputs, engine, inferences or STREAMED, json_file, quiet)
        return
    if beside or mappings_beside or periods:
        several = ("mapping", "runtime", "engine", "inferences", "batch", "json_file", "overrides")
        _only(ctx, "several networks at once", *several, "beside", "mappings_beside", "periods")
        networks, placed_by = [workload, *(beside or ())], [mapping or DEFAULT_MAPPING, *(mappings_beside or ())]
        repeated = (inferences or 1, batch, periods)
        _simulate_together(soc, networks, placed_by, runtime, engine, *repeated, json_file, overrides, quiet)
        return
    _only(ctx, "one SoC", *(name for name in ctx.params if name not in ("carrier", "seed")))
    outputs = {"--json": json_file, "--trace": trace_file, "--gantt": gantt_file, "--report": report_file}
    _check_outputs(outputs | {"--schedule": schedule_file})
    if gantt_file and gantt_file.suffix.lower() != ".png":
        raise InputError(f"--gantt {gantt_file}: the chart is a PNG; give a name that ends in .png")
    inferences = inferences or 1
    named = mapping or DEFAULT_MAPPING
    machine, network, placed = _inputs(soc, workload, named, runtime, asked, overrides, batch, objective, quiet)
    from cosoc import why
    from cosoc.sim.report import render
    from cosoc.sim.simulate import simulate as run

    case = why.Case(machine, network, placed, engine, inferences)
    if engine == "fast" and not quiet:
        _announce_compilation()
    with reporting_late(quiet) as progress:
        result = run(machine, network, placed, engine, inferences, progress)
    if json_file:
        write_json(json_file, why.of_result(result))
    if report_file:
        write_text(report_file, why.html(result, case))
    if trace_file:
        from cosoc.sim.report.chrome import write_chrome_trace

        with replacing(trace_file) as part:
            write_chrome_trace(result, part)
    if schedule_file:
        from cosoc.sim.report.schedule import write_schedule

        with replacing(schedule_file) as part, reporting_late(quiet) as progress:
            write_schedule(result, part, progress)
    if gantt_file:
        with replacing(gantt_file) as part:
            render.gantt(result, part)
    if explain or what_if:
        put(why.explanation(result, case, what_if or ()))
    elif not quiet:
        put(render.table(result))


def _ranges(
    soc: str, workload: Workload, mappings: Sequence[Mapping], overrides: list[str] | None, engine: Engine, seed: int,
    json_file: Path | None, quiet: bool,
) -> None:  # fmt: skip
    from cosoc import why
    from cosoc.sim.files.catalog import find_soc, soc_ranges
    from cosoc.sim.ranges import over_ranges, to_json

    fixed = _overrides(overrides)
    ranges = soc_ranges(soc, fixed)
    if engine == "fast" and not quiet:
        _announce_compilation()
    with reporting(quiet) as progress:
        found = over_ranges(
            lambda values: find_soc(soc, {**fixed, **values}), ranges, workload, mappings, seed,
            engine=engine, report=progress,
        )  # fmt: skip
    if json_file:
        write_json(json_file, {"soc": soc, "workload": workload.name} | to_json(found))
    if not quiet:
        put(why.ranged(found))


def _pipelined(
    soc: SoC, workload: Workload, mapping: Mapping, engine: Engine, inferences: int, json_file: Path | None, quiet: bool
) -> None:
    from cosoc import why
    from cosoc.sim.pipelined import simulate_pipelined, to_json

    if engine == "fast" and not quiet:
        _announce_compilation()
    result = simulate_pipelined(soc, workload, mapping, engine, inferences)
    if json_file:
        write_json(json_file, to_json(result))
    if not quiet:
        put(why.pipelined(result))


def _simulate_together(
    soc: str, workloads: Sequence[str], mappings: Sequence[str], runtime: Runtime | None, engine: Engine,
    inferences: int, batch: int, periods: str | None, json_file: Path | None, overrides: list[str] | None, quiet: bool,
) -> None:  # fmt: skip
    _check_outputs({"--json": json_file})
    if len(mappings) > len(workloads):
        raise InputError(
            f"--mapping-with: found {len(mappings) - 1} for {len(workloads) - 1} --with; one each, at most"
        )
    named = [*mappings, *[DEFAULT_MAPPING] * (len(workloads) - len(mappings))]
    due = _periods(periods, len(workloads))
    from cosoc.sim.report.together import Load, table, to_json
    from cosoc.sim.simulate import simulate_together

    loads = []
    for name, placed, period_s in zip(workloads, named, due, strict=True):
        machine, network, chosen = _inputs(soc, name, placed, runtime, None, overrides, batch)
        loads.append(Load(network, chosen, inferences, period_s))
    if engine == "fast" and not quiet:
        _announce_compilation()
    result = simulate_together(machine, loads, engine)
    if json_file:
        write_json(json_file, to_json(result))
    if not quiet:
        put(table(result))


def _periods(text: str | None, n: int) -> list[float]:
    """Seconds between inferences of each of n networks; 0 where none are stated."""
    if text is None:
        return [0.0] * n
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in (1, n) or not all(1e-9 <= v <= 1e6 for v in values):
        what = f"one number of seconds, 1e-09 to 1e+06, is needed, or {n} with commas, such as 0.033"
        raise InputError(f"--period {text}: {what}")
    return values * n if len(values) == 1 else values


def _simulate_cluster(
    cluster: str, workload: str, mapping: str | None, runtime: Runtime | None, engine: Engine, inferences: int,
    files: tuple[Path | None, Path | None], input_shape: Asked, overrides: list[str] | None, carrier: float | None,
    quiet: bool,
) -> None:  # fmt: skip
    json_file, schedule_file = files
    _check_outputs({"--json": json_file, "--schedule": schedule_file})
    machines = _cluster(cluster, overrides, carrier)
    network = _workload(workload, input_shape)
    from cosoc.sim.files.mapping_file import find_cluster_mapping

    placed = find_cluster_mapping(mapping, network, machines, runtime)
    from cosoc.sim.report import pipeline_result
    from cosoc.sim.simulate import simulate_cluster

    if engine == "fast" and not quiet:
        _announce_compilation()
    result = simulate_cluster(machines, network, placed, engine, inferences)
    if json_file:
        write_json(json_file, pipeline_result.to_json(result))
    if schedule_file:
        from cosoc.sim.report.cluster_schedule import write_cluster_schedule
        from cosoc.sim.simulate import engine_run

        with replacing(schedule_file) as part:
            write_cluster_schedule(result, machines, network, placed, engine_run(engine), part)
    if not quiet:
        put(pipeline_result.table(result))


@app.command()
def explain(run: RunPath, point: Point = None, what_if: WhatIf = None, trusted: Trust = False) -> None:
    """Say why a run takes as long as it does, and what a change of the SoC would do to it, simulated."""
    from cosoc import why
    from cosoc.sim.simulate import simulate

    case = why.load(run, point)
    result = simulate(case.soc, case.workload, case.mapping, case.engine, case.inferences)
    put(why.explanation(result, case, what_if or ()))


@app.command()
def compare(
    ctx: typer.Context,
    a: Annotated[
        str,
        typer.Argument(
            metavar="A|SOC", help="A result's JSON, a run folder or a mapping in one; a SOC, with --mapping."
        ),
    ],
    b: Annotated[str, typer.Argument(metavar="B|WORKLOAD", help="Another, of the same workload; or that WORKLOAD.")],
    mappings: Annotated[
        list[str] | None,
        typer.Option("--mapping", metavar="NAME|FILE", help="Twice: mappings of WORKLOAD on SOC, which are simulated."),
    ] = None,
    runtime: RuntimeName = None,
    input_shape: InputShape = None,
    overrides: Overrides = None,
    carrier: Carrier = None,
    ranges: Ranges = False,
    seed: CornerSeed = 0,
    json_file: JsonFile = None,
    trusted: Trust = False,
    quiet: Quiet = False,
) -> None:
    """Set two results or mappings side by side, layer by layer: cycles, energy, and the cause that shifted most; or,
    with --ranges, say where the faster of two mappings is no longer the faster."""
    from cosoc import why

    if mappings is None:
        _only(ctx, "two results", "a", "b", "carrier")
        put(why.compared(why.result_json(Path(a)), why.result_json(Path(b)), carrier).table())
        return
    only = ("carrier",) if ranges else ("carrier", "seed", "json_file", "quiet")
    _only(ctx, "one SoC" if ranges else "two mappings", *(name for name in ctx.params if name not in only))
    if len(mappings) != 2:
        raise InputError(
            f"--mapping: found {len(mappings)}; two are needed, such as --mapping default --mapping mine.yaml"
        )
    one, other = (why.Case(*_inputs(a, b, name, runtime, input_shape, overrides)) for name in mappings)
    if ranges:
        _check_outputs({"--json": json_file})
        _ranges(a, one.workload, [one.mapping, other.mapping], overrides, "fast", seed, json_file, quiet)
        return
    put(why.compared(why.simulated_json(one), why.simulated_json(other)).table())


@app.command()
def report(
    run: RunPath,
    out: Annotated[Path, typer.Option("--out", metavar="FILE.html", help="Where to write it.")],
    point: Point = None,
    carrier: Carrier = None,
    trusted: Trust = False,
) -> None:
    """Write one HTML file about a run: front, layers, timeline, occupancy, critical path, provenance; or about a
    campaign: fronts, and maps over its axes."""
    _check_outputs({"--out": out})
    from cosoc import why

    write_text(out, why.report(run, point, carrier))


@app.command()
def calibrate(
    ctx: typer.Context,
    soc: OptionalSocName = None,
    measured_file: Annotated[
        Path | None,
        typer.Option(
            "--measured",
            metavar="FILE.csv",
            help="With SOC: networks that were timed on it, to refit its file to; without: latencies of devices.",
        ),
    ] = None,
    space: Annotated[
        Calibrated | None,
        typer.Option(
            "--space",
            help="Whose mappings are sampled [default: channels where several cores can take them, tiles elsewhere].",
        ),
    ] = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Mappings to simulate.")] = 1000,
    seed: Seed = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="Save the fitted estimate, for search --estimate, or the refitted SoC.",
        ),
    ] = None,
    json_file: JsonFile = None,
    overrides: Overrides = None,
    trusted: Trust = False,
    quiet: Quiet = False,
) -> None:
    """Fit the estimate of a SoC to the simulator, a SoC's file to networks that were timed on it, or CPUs and GPUs to
    latencies that others have measured. Shows the error on networks that it was not fitted to."""
    _check_outputs({"--out": out, "--json": json_file})
    if soc is None:
        if measured_file is None:
            raise InputError("calibrate: give SOC, or --measured FILE.csv, or both")
        _only(ctx, "--measured and no SOC", "measured_file", "json_file")
        _calibrate_measured(measured_file, json_file, quiet)
        return
    if measured_file is not None:
        _only(ctx, "SOC and --measured", "measured_file", "out", "json_file")
        _refit(soc, measured_file, out, json_file, quiet)
        return
    machine = _soc(soc, overrides)
    from cosoc.search import calibrate as library
    from cosoc.search.surrogate import save

    with reporting(quiet) as progress:
        calibration = library.calibrate(machine, samples, seed, progress, space=space)
    if not quiet:
        put(library.table(calibration))
    if out:
        with replacing(out) as part:
            save(calibration.surrogate, part)
    if json_file:
        write_json(json_file, library.to_json(calibration))


@app.command()
def estimate(
    soc: SocName,
    workload: WorkloadName,
    samples: Annotated[
        int | None, typer.Option("--samples", min=1, help="Share vectors to draw [default: 10000].")
    ] = None,
    shares_file: Annotated[
        Path | None,
        typer.Option("--shares", metavar="FILE.csv", help="In place of drawn ones: columns LAYER:CORE, of channels."),
    ] = None,
    runtime: RuntimeName = None,
    estimate: Annotated[
        Path | None, typer.Option("--estimate", metavar="FILE", help="The estimate that `cosoc calibrate --out` saved.")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="Where torch composes: cpu, cuda, cuda:1.")] = "cpu",
    check: Annotated[int, typer.Option("--check", min=0, help="Vectors to simulate, to hold the table against.")] = 0,
    seed: Seed = 0,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE.csv", help="Write vectors and figures there.")
    ] = None,
    json_file: JsonFile = None,
    input_shape: InputShape = None,
    overrides: Overrides = None,
    quiet: Quiet = False,
) -> None:
    """Estimate many mappings at once: latency, energy and peak of each vector of channel shares, as a table. The
    figures are of the closed form, not simulated; --check says how far that is off."""
    _check_outputs({"--out": out, "--json": json_file})
    if samples is not None and shares_file is not None:
        raise InputError("--samples and --shares exclude each other; give one")
    machine, network = _soc(soc, overrides), _workload(workload, input_shape)
    mode = runtime or "overlapped"
    from cosoc import tables
    from cosoc.search import share_table as library
    from cosoc.search.surrogate import load

    theta = None if estimate is None else load(estimate, machine).factors

    library.check_device(device)
    if shares_file is not None:
        shares = tables.read_shares(shares_file)
    else:
        shares = library.random_vectors(network, machine, samples or 10_000, seed)
    with reporting(quiet) as progress:
        found = library.estimated(network, machine, shares, mode, theta, device, progress)
        if found.none_runs:
            raise InputError(f"{machine.name} can run none of the vectors: {found.why}")
        checked = library.checked_on(network, machine, shares, found, check, mode, seed, progress) if check else None
    content = tables.to_json(shares, found, checked)
    if out:
        write_text(out, tables.to_csv(shares, found))
    if json_file:
        write_json(json_file, content)
    if not quiet:
        put(tables.summary(f"{network.name} on {machine.name}, {mode}: {len(shares.channels):,} vectors", content))


def _calibrate_measured(file: Path, json_file: Path | None, quiet: bool) -> None:
    from cosoc.search import measured

    rows = measured.load(file)
    predictions = measured.cross_validate(rows)
    if not quiet:
        put(measured.table(predictions))
    if json_file:
        write_json(json_file, measured.to_json(predictions, measured.fit(rows)))


def _refit(soc: str, measured_file: Path, out: Path | None, json_file: Path | None, quiet: bool) -> None:
    if out is not None and out.suffix.lower() not in (".yaml", ".yml"):
        raise InputError(f"--out {out}: a SoC file is written; give a name that ends in .yaml")
    from cosoc.search import refit as library
    from cosoc.sim.files.catalog import load_soc
    from cosoc.sim.truth.own import NEEDED, own_rows
    from cosoc.sim.truth.tables import read_table

    try:
        rows = own_rows(read_table(measured_file, NEEDED).rows)
        with reporting(quiet) as progress:
            found = library.refit(soc, rows, measured_file, progress)
    except InputError as error:
        text = str(error)
        raise InputError(f"{measured_file}: {text}" if text.startswith("row ") else text) from None
    if out:
        with replacing(out) as part:
            part.write_text(library.renamed(found.text, out), encoding="utf-8")
            load_soc(part)  # a file that cosoc itself could not read is not written
    if json_file:
        write_json(json_file, library.to_json(found))
    if not quiet:
        put(library.table(found))


@app.command()
def validate(
    sets: Annotated[
        list[str] | None, typer.Argument(metavar="[SET]...", help="Sets of measured rows by name [default: all].")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="FILE|DIR", help="Rows of a SET (or, with --soc, of your own); sets' folders."),
    ] = None,
    soc: Annotated[
        str | None, typer.Option("--soc", metavar="SOC", help="The SoC that the rows in --data were measured on.")
    ] = None,
    json_file: JsonFile = None,
    html_file: Annotated[
        Path | None, typer.Option("--html", metavar="FILE.html", help="Write a page with every row.")
    ] = None,
    overrides: Overrides = None,
    trusted: Trust = False,
    quiet: Quiet = False,
) -> None:
    """Hold the simulator against what was measured: errors by set, what was fitted, what others reach. Exit status 1
    where an error is above the one claimed."""
    if overrides and soc is None:
        raise InputError("--set: goes with --soc; leave it out")
    _check_outputs({"--json": json_file, "--html": html_file})
    machine = None if soc is None else _soc(soc, overrides)
    from cosoc import validation as library

    with reporting(quiet) as progress:
        outcomes = library.validate(sets or (), data, machine, progress)
    if json_file:
        write_json(json_file, library.to_json(outcomes))
    if html_file:
        write_text(html_file, library.html(outcomes))
    if not quiet:
        put(library.table(outcomes))
    over = [one.truth.name for one in outcomes if one.exceeds]
    if over:
        say(f"above the error that is claimed: {', '.join(over)}")
        raise typer.Exit(FAILED)


@app.command()
def search(
    ctx: typer.Context,
    soc: SocName,
    workload: WorkloadName,
    space: Annotated[
        str,
        typer.Option(
            "--space",
            metavar="A+B",
            help="What is searched: shares of channels, operators of blocks (Darkside), tiles, tiles+fusion, splits "
            "(SOC is then a cluster), or a chain such as channels+tiles, whose parts are chosen together.",
        ),
    ] = "channels",
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights", metavar="FILE", help="Begin with these weights: a state_dict of torch.save, or .safetensors."
        ),
    ] = None,
    calibrate_only: Annotated[
        bool,
        typer.Option(
            "--calibrate-only", help="Train nothing: quantise as it is, channels by sensitivity, by images of --data."
        ),
    ] = False,
    calibration_images: Annotated[
        int, typer.Option("--calibration-images", min=1, help="With --calibrate-only: how many.")
    ] = CALIBRATED_BY,
    clip: Annotated[Clip, typer.Option("--clip", help="With --calibrate-only: where activations are clipped.")] = "mse",
    data: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="NAME|DIR|FILE",
            help="A data set by name, its folder or .npz file, or package.module:function that gives one.",
        ),
    ] = "digits",
    objective: Annotated[
        str | None,
        typer.Option(
            "--objective",
            help="What is to be small: latency, energy, edp, peak, throughput (its inverse), or a product such as "
            "latency*energy^2 [default: latency; of tiles edp, of splits throughput].",
        ),
    ] = None,
    mapping: Annotated[
        str,
        typer.Option(
            "--mapping", metavar="NAME|FILE", help="Where nothing is trained: the mapping whose cores are kept."
        ),
    ] = DEFAULT_MAPPING,
    time_budget: Annotated[
        float | None,
        typer.Option("--time-budget", metavar="S", help="Where nothing is trained: seconds to search (splits: 600)."),
    ] = None,
    estimate: Annotated[
        Path | None,
        typer.Option("--estimate", metavar="FILE", help="Begin with the estimate that `cosoc calibrate --out` saved."),
    ] = None,
    strengths: Annotated[
        str | None,
        typer.Option("--strengths", metavar="A,B,C", help="Weights of the cost, one a point, instead of --points."),
    ] = None,
    points: Annotated[
        int | None,
        typer.Option(
            "--points", min=1, help="Points between the reference and the cheapest mapping, spread evenly [default: 5]."
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            metavar="NAME=VALUE",
            help="What must hold while the objective is small: latency=5ms, energy=2mJ, edp=3mJms, throughput=30, "
            "peak=256KB; may be repeated. Where a network is trained, one point that meets it, instead of strengths.",
        ),
    ] = None,
    peak: Annotated[
        str | None,
        typer.Option("--peak", metavar="BYTES", help="The most that the main memory may hold, such as 256KB."),
    ] = None,
    estimator: Annotated[
        Estimator, typer.Option("--estimator", help="How the cost gets its gradient.")
    ] = "expectation",
    template: Annotated[
        Template, typer.Option("--template", help="With --space operators: the two that a block chooses from.")
    ] = "conv-dw",
    cut: Annotated[
        Cut, typer.Option("--cut", help="With --space operators: how the cut between them is made soft.")
    ] = "cumulative",
    recipe: options.RecipeName = DEFAULT_RECIPE,
    epochs: options.Epochs = None,
    batch: options.BatchSize = None,
    rate: options.Rates = None,
    seeds: Annotated[
        int, typer.Option("--seeds", min=1, help="Train each mapping so often, and show mean and interval (95 %).")
    ] = 1,
    runtime: Annotated[
        Runtime, typer.Option("--runtime", help="With channels and operators: of all mappings.")
    ] = "overlapped",
    train_images: options.TrainImages = None,
    cost_model: options.CostModelName = "simulator",
    adc_bits: options.AdcBits = 0,
    train_noise: options.TrainNoise = None,
    device: options.DeviceName = "cpu",
    amp: options.AmpName = None,
    workers: options.Workers = 0,
    compiled: options.Compiled = False,
    channels_last: options.ChannelsLast = False,
    accumulate: options.Accumulate = 1,
    jobs: options.Jobs = None,
    seed: Seed = 0,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Run folder [default: runs/SOC-WORKLOAD].")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")] = False,
    redo: Annotated[
        str | None,
        typer.Option("--redo", metavar="PHASE", help="With --resume: that phase again, and what follows from it."),
    ] = None,
    beside: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="WORKLOAD",
            help="Where nothing is trained: another network at once, searched with the first; may be repeated.",
        ),
    ] = None,
    inferences: Annotated[
        int, typer.Option("--inferences", min=1, help="With --space splits: inferences that each replay streams.")
    ] = 1000,
    input_shape: InputShape = None,
    overrides: Overrides = None,
    carrier: Carrier = None,
    trusted: Trust = False,
    quiet: Quiet = False,
) -> None:
    """Train a network together with its mapping, choose its tiles and fusion, or split it over a cluster. What it
    reports is simulated."""
    from cosoc import searching as library
    from cosoc.search.spaces.chain import chain
    from cosoc.search.targets import peak as most
    from cosoc.sim.files.reading import reading

    parts = chain(space)
    by_cost = library.by_cost(parts, workload, epochs)
    meant = library.meant(parts, workload, epochs, calibrate_only)
    mode = library.mode(space, calibrate_only, meant) + (
        ", where nothing is trained" if by_cost and parts[0] not in ("tiles", "splits") else ""
    )
    _only(ctx, mode, *(name for name in ctx.params if ARGUMENTS.get(name, name) in meant))
    if strengths is not None and target:
        raise InputError("--strengths and targets exclude each other; give one")
    strong = () if strengths is None else _strengths(strengths)
    if peak is not None:
        most(peak)  # what is wrong with it is said of --peak
    bounds = [*(target or ()), *([f"peak={peak}"] if peak is not None else [])]
    folder = out or library.default_folder(soc, workload)
    quiet = quiet or library.following()
    example = None if input_shape is None else reading(input_shape)
    try:
        with reporting(quiet) as progress:
            result = library.search(
                soc, workload, space=space, weights=weights, calibrate_only=calibrate_only,
                calibration_images=calibration_images, clip=clip, data=data, objective=objective, targets=bounds,
                mapping=mapping, time_budget_s=time_budget, estimate=estimate, strengths=strong, points=points,
                estimator=estimator, template=template, cut=cut, recipe=recipe, epochs=epochs, batch=batch,
                rates=options.rates(rate) or None, seeds=seeds, train_images=train_images, cost_model=cost_model,
                adc_bits=adc_bits, runtime=runtime, train_noise=train_noise, device=device, amp=amp, workers=workers,
                compiled=compiled, channels_last=channels_last, accumulate=accumulate, seed=seed, out=folder,
                jobs=1 if jobs is None and "jobs" in meant else jobs, resume=resume, redo=redo, beside=beside or (),
                inferences=inferences, example=example, overrides=_overrides(overrides), carrier_w=carrier,
                report=progress,
            )  # fmt: skip
    except (KeyboardInterrupt, Ended):
        raise Interrupted(f"what is finished is in {folder}; --resume goes on from there") from None
    if not quiet:
        put(result.table())
        put(f"results in {folder}")


app.command()(evaluate)
app.command()(export)


@app.command()
def sweep(
    plan: Annotated[Path, typer.Argument(metavar="PLAN.yaml", help="What to run: see docs/scale.md.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the results.")] = Path("sweep"),
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Processes [default: one a core].")] = None,
    scheduler: Annotated[
        str | None, typer.Option("--scheduler", metavar="ADDRESS", help="Of a Dask cluster, in place of --workers.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the campaign in --out.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="With --resume: failed tasks again.")] = False,
    redo: Annotated[
        str | None, typer.Option("--redo", metavar="ID", help="With --resume: that task again; `start`: all of them.")
    ] = None,
    budgets: Annotated[
        list[str] | None,
        typer.Option(
            "--budget", metavar="NAME=MOST", help="Leave out chips of more than area=2mm2 or power=300mW; repeatable."
        ),
    ] = None,
    carrier: Carrier = None,
    json_file: JsonFile = None,
    csv_file: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write a line for each task.")] = None,
    report_file: Html = None,
    trusted: Trust = False,
    quiet: Quiet = False,
) -> None:
    """Run a campaign: every combination of the SoCs, workloads, mappings, searches and SoC values that a plan names.
    Exit status 1 where tasks have failed."""
    from cosoc.search.campaigns import results
    from cosoc.search.campaigns import run as sweeps
    from cosoc.search.campaigns.budget import budget

    if workers is not None and scheduler is not None:
        raise InputError("--workers is for processes here; with --scheduler the cluster has its own")
    _check_outputs({"--json": json_file, "--csv": csv_file, "--report": report_file})
    most = tuple(budget(text) for text in budgets or ())
    warning = sweeps.exposed(scheduler) if scheduler and not quiet else None
    if warning:
        say(warning)
    processes = workers or os.cpu_count() or 1
    config = sweeps.SweepConfig(plan, out, processes, scheduler, resume, retry_failed, redo, carrier, most)
    try:
        with reporting(quiet) as progress:
            found = sweeps.sweep(config, progress)
    except (KeyboardInterrupt, Ended):
        raise Interrupted(f"what is finished is in {out / 'results.sqlite'}; go on with --resume") from None
    if json_file:
        write_json(json_file, results.to_json(found))
    if csv_file:
        write_text(csv_file, results.to_csv(found))
    if report_file:
        from cosoc import why

        write_text(report_file, why.campaign(found, out))
    failed = results.failures(found)
    if not quiet:
        put(results.table(found))
        for line in failed[:SHOWN_FAILURES]:
            say(f"failed: {line}")
        if len(failed) > SHOWN_FAILURES:
            say(f"and {len(failed) - SHOWN_FAILURES} more, all of them in {out / 'results.sqlite'}")
    if failed:
        raise typer.Exit(FAILED)


@app.command()
def doctor(json_file: JsonFile = None, quiet: Quiet = False) -> None:
    """Say what is installed here and whether it works: versions, extras, folders, the engine, and a self-test. Exit
    status 1 where something does not."""
    _check_outputs({"--json": json_file})
    from cosoc import doctor as library

    found = library.examined()
    if json_file:
        write_json(json_file, found)
    if not quiet:
        put(library.table(found))
    if found["problems"]:
        raise typer.Exit(FAILED)


@app.command("list")
def list_names(
    soc: Annotated[str | None, typer.Argument(metavar="CHIP", help="Of this one: the mappings that apply.")] = None,
) -> None:
    """Name the built-in chips, clusters and networks with a line on each, or the mappings of a chip."""
    from cosoc import listing

    put(listing.everything() if soc is None else "\n".join(listing.mappings(soc)))


@app.command()
def completion(shell: Annotated[str, typer.Argument(metavar="bash|zsh|fish", help="Which shell.")]) -> None:
    """Print the script by which a shell completes chips, networks, mappings, options and keys of files."""
    from cosoc import completion as library

    put(library.script(shell), end="")


@app.command(hidden=True, context_settings={"ignore_unknown_options": True})
def complete(words: Annotated[list[str] | None, typer.Argument()] = None) -> None:
    """Print what the last of the words may become; the scripts of `cosoc completion` ask this."""
    from cosoc import completion as library

    put("\n".join(library.candidates(typer.main.get_command(app), words or [""])))


@app.command("schema")
def print_schema(
    kind: Annotated[FileKind, typer.Argument(metavar="KIND", help="Of which file.")],
) -> None:
    """Print the JSON schema of a kind of file, by which editors complete and check: each key with what it means."""
    from cosoc.schema import written_schema

    put(written_schema(kind), end="")


@show_app.command("soc")
def show_soc(
    soc: SocName,
    overrides: Overrides = None,
    trusted: Trust = False,
    graph: Annotated[
        Path | None, typer.Option("--graph", metavar="FILE", help="Draw it to a .svg, .png or .pdf file instead.")
    ] = None,
) -> None:
    """Print a SoC as YAML, overrides applied."""
    import yaml

    if graph is not None:
        _check_outputs({"--graph": graph})
    machine = _soc(soc, overrides)
    if graph is not None:
        from cosoc.sim.report.soc_graph import PICTURES, draw_soc

        if graph.suffix not in PICTURES:
            raise InputError(f"--graph: found {graph.name!r}; name a file that ends with {', '.join(PICTURES)}")
        with replacing(graph) as part:
            draw_soc(machine, part, graph.suffix[1:])
        return
    content = machine.model_dump(mode="json", by_alias=True, exclude_unset=True)
    put(yaml.safe_dump(content, sort_keys=False, width=110), end="")


@show_app.command("workload")
def show_workload(
    workload: WorkloadName,
    input_shape: InputShape = None,
    input_dtype: InputDtype = None,
    cut_at: CutAt = "",
    context: Context = 0,
    as_yaml: Annotated[bool, typer.Option("--yaml", help="As a workload file, which cosoc reads.")] = False,
) -> None:
    """Print a workload's layers: sizes, MACs, parameters."""
    from cosoc.sim.files.reading import reading
    from cosoc.sim.files.workload_file import dump_workload

    network = _workload(workload, reading(input_shape, input_dtype, cut_at, context))
    if as_yaml:
        put(dump_workload(network), end="")
    else:
        put(workload_table(network))


@show_app.command("mapping")
def show_mapping(
    soc: SocName,
    workload: WorkloadName,
    mapping: MappingName = DEFAULT_MAPPING,
    runtime: RuntimeName = None,
    batch: Batch = 1,
    input_shape: InputShape = None,
    overrides: Overrides = None,
    trusted: Trust = False,
) -> None:
    """Print a mapping as YAML, with the cores and tiles that it leaves open filled in."""
    from cosoc.sim.files.mapping_file import dump_mapping
    from cosoc.sim.tiler import complete

    machine, network, placed = _inputs(soc, workload, mapping, runtime, input_shape, overrides, batch)
    put(dump_mapping(complete(placed, network, machine)), end="")


@app.command("import-mapping")
def import_mapping(
    mapping: Annotated[
        str,
        typer.Argument(
            metavar="STRING|FILE|DIR",
            help="A Timeloop or DOSA string or a file of them, a mapping file of Timeloop, or a folder of these.",
        ),
    ],
    workload: Annotated[str, typer.Option("--workload", metavar="WORKLOAD", help="The network that it is for.")],
    layer: Annotated[str | None, typer.Option("--layer", help="The layer that a string or one file is for.")] = None,
    soc: Annotated[
        str, typer.Option("--soc", metavar="SOC", help="A SoC; for strings one with a systolic array.")
    ] = "gemmini",
    core: Annotated[
        str | None, typer.Option("--core", help="Of Timeloop's files: the core that computes [default: a layer's own].")
    ] = None,
    outside: Annotated[
        str | None,
        typer.Option("--outside", metavar="LEVEL", help="Of Timeloop's files: the level whose loops go around tiles."),
    ] = None,
    runtime: Annotated[
        Runtime | None, typer.Option("--runtime", help="Of Timeloop's files: as in simulate [default: overlapped].")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write the mapping file there.")] = None,
    overrides: Overrides = None,
    trusted: Trust = False,
) -> None:
    """Turn mappings of Timeloop or DOSA into a mapping file for `--mapping`."""
    _check_outputs({"--out": out})
    from cosoc import handover

    machine, network = _soc(soc, overrides), _workload(workload, None)
    found = handover.imported(mapping, network, machine, layer, core, outside, runtime)
    if out is None:
        put(found, end="")
    else:
        write_text(out, found)


@app.command("export-mapping")
def export_mapping(
    soc: SocName,
    workload: WorkloadName,
    to: Annotated[Literal["timeloop", "zigzag"], typer.Option("--to", help="The tool that reads it.")],
    mapping: MappingName = DEFAULT_MAPPING,
    runtime: RuntimeName = None,
    layer: Annotated[str | None, typer.Option("--layer", help="Print the file of this layer.")] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Write all layers' files there.")] = None,
    unroll: Annotated[
        str | None,
        typer.Option("--unroll", metavar="DIM=N,...", help="Of ZigZag's array: what each axis does at once."),
    ] = None,
    batch: Batch = 1,
    input_shape: InputShape = None,
    overrides: Overrides = None,
    trusted: Trust = False,
    quiet: Quiet = False,
) -> None:
    """Write the tiles of a mapping and the loops around them as mapping files of Timeloop or ZigZag."""
    from cosoc import handover

    machine, network, placed = _inputs(soc, workload, mapping, runtime, input_shape, overrides, batch)
    handover.exported(placed, network, machine, to, out, layer, unroll, quiet)


@app.command("operator-table")
def operator_table(
    soc: SocName,
    workloads: Annotated[list[str], typer.Argument(metavar="WORKLOAD...", help="Networks, as in `cosoc simulate`.")],
    to: Annotated[Literal["csv", "llmservingsim", "astra-sim"], typer.Option("--for", help="Who reads it.")] = "csv",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE|DIR", help="Where to [default: print; llmservingsim: needed].")
    ] = None,
    names: Annotated[
        Path | None, typer.Option("--names", metavar="FILE", help="What LLMServingSim calls which layers, as YAML.")
    ] = None,
    mapping: MappingName = DEFAULT_MAPPING,
    runtime: RuntimeName = None,
    engine: Annotated[Engine, typer.Option("--engine", help="Both give the same result to the tick.")] = "fast",
    batch: Batch = 1,
    overrides: Overrides = None,
    trusted: Trust = False,
    quiet: Quiet = False,
) -> None:
    """Write what each operator of networks takes on a chip, as simulators of whole systems read it."""
    from cosoc import handover

    handover.check_table(to, workloads, out, names)
    from cosoc.sim.simulate import simulate as run

    inputs = [_inputs(soc, one, mapping, runtime, None, overrides, batch, None, quiet) for one in workloads]
    layers = [layer.name for _, network, _ in inputs for layer in network]
    told = None if names is None else handover.read_names(names, layers)
    if engine == "fast" and not quiet:
        _announce_compilation()
    with reporting(quiet or len(inputs) == 1) as report:
        results = []
        for number, (machine, network, placed) in enumerate(inputs):
            report(number, len(inputs), network.name)
            results.append(run(machine, network, placed, engine=engine))
    handover.write_table(to, results, out, told)


@show_app.command("program")
def show_program(
    soc: SocName,
    workload: WorkloadName,
    mapping: MappingName = DEFAULT_MAPPING,
    runtime: RuntimeName = None,
    input_shape: InputShape = None,
    overrides: Overrides = None,
    trusted: Trust = False,
) -> None:
    """Print the program that the engines run, one line an op, loops as loops."""
    from cosoc.sim.lower.emit import lower
    from cosoc.sim.machine.program import to_text

    machine, network, placed = _inputs(soc, workload, mapping, runtime, input_shape, overrides)
    put(to_text(lower(network, placed, machine)), end="")


# ------------------------------------------------------------------------------------------ arguments


def _soc(name: str, overrides: list[str] | None) -> SoC:
    from cosoc.sim.files.catalog import find_soc

    return find_soc(name, _overrides(overrides))


def _cluster(name: str, overrides: list[str] | None, carrier: float | None) -> Cluster:
    """A cluster whose energies can be added up."""
    from cosoc.sim.files.catalog import bounded_cluster, find_cluster

    return bounded_cluster(find_cluster(name, _overrides(overrides)), carrier)[0]


def _overrides(overrides: list[str] | None) -> dict[str, str]:
    values: dict[str, str] = {}
    for text in overrides or ():
        path, equals, value = text.partition("=")
        if not equals or not path:
            raise InputError(f"--set {text}: PATH=VALUE is needed, such as --set tick_hz=260000000")
        values[path] = value
    return values


def _only(ctx: typer.Context, mode: str, *names: str) -> None:
    """InputError for an option on the command line that means nothing in a mode."""
    for parameter in ctx.command.params:
        name = str(parameter.name)
        given = ctx.get_parameter_source(name)
        if (
            given is not None
            and given.name == "COMMANDLINE"
            and name not in ("soc", "workload", "space", "trusted", "quiet", *names)
        ):
            raise InputError(f"{parameter.opts[0]}: means nothing with {mode}; leave it out")


def _workload(name: str, asked: Asked) -> Workload:
    from cosoc.sim.files.reading import Reading, reading
    from cosoc.sim.files.workload_file import find_workload

    return find_workload(name, asked if isinstance(asked, Reading) else reading(asked))


def _inputs(
    soc: str, workload: str, mapping: str, runtime: Runtime | None, input_shape: Asked,
    overrides: list[str] | None, batch: int = 1, objective: str | None = None, quiet: bool = False,
) -> tuple[SoC, Workload, Mapping]:  # fmt: skip
    from cosoc.sim.files.mapping_file import find_mapping
    from cosoc.sim.model.workload import multiplied

    machine = _soc(soc, overrides)
    network = multiplied(_workload(workload, input_shape), batch)

    with reporting_late(quiet) as report:
        return machine, network, find_mapping(mapping, network, machine, runtime, objective, report)


def _strengths(text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or not all(math.isfinite(v) and v >= 0 for v in values):
        raise InputError(f"--strengths {text}: numbers >= 0 and commas are needed, such as 0.1,0.3,1")
    return values


# ------------------------------------------------------------------------------------------ the error boundary

# Typer brings its own copy of click or uses the installed one, by version: its public exception's bases fit both.
_UsageError = typer.BadParameter.__mro__[1]
DONE, FAILED, BAD_INPUT, INTERRUPTED, READER_GONE = 0, 1, 2, 130, 141


def _version(value: bool) -> None:
    if value:
        put(f"cosoc {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def _announce_compilation() -> None:
    from cosoc.sim.machine import engine_fast

    if engine_fast.can_compile() and not engine_fast.is_compiled():
        say("compiling the engine for this machine, once; it takes some seconds")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (default: that of the process) and return its exit status, having said in one line what
    went wrong: 0 done, 1 refused by the system (memory) or an error above the one claimed, 2 bad input or an output
    that cannot be written, 128 + n ended by the signal n (130: Ctrl-C), 141 (without a line) where the reader of
    standard output has gone."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    prepare_streams()
    if arguments is None:  # the process is ours
        calm()
    if line := nonsense():
        say(line)
        return BAD_INPUT
    if line := too_little_memory(words):
        say(line)
        return FAILED
    with ending_by_signals() as signals:
        return _main(words, signals)


def _run(words: Sequence[str], signals: Signals) -> int:
    """Run a command; what fails because a signal has ended it is an interruption, whatever it looks like."""
    try:
        with trusting(said=False):
            return app(words or ["--help"], prog_name="cosoc", standalone_mode=False) or DONE
    except Exception as error:
        if signals.number is None or isinstance(error, Interrupted):
            raise
        raise Ended(signals.number) from error


def _main(words: Sequence[str], signals: Signals) -> int:
    try:
        status = _run(words, signals)
    except InputError as error:
        for fault in error.lines:
            say(fault)
        return BAD_INPUT
    except Deadlock as error:
        say(str(error))
        return BAD_INPUT
    except Interrupted as error:
        return _ended(signals, str(error))
    except (KeyboardInterrupt, Ended, typer.Abort):
        status = INTERRUPTED
    except Lost as error:
        return _lost(error)
    except SystemExit:  # typer ends so where its help has no reader
        return _lost(Lost(OSError(errno.EPIPE, os.strerror(errno.EPIPE))))
    except BrokenExecutor:
        say("a worker process was killed, by a signal or for want of memory")
        return FAILED
    except Exception as error:
        if isinstance(error, _UsageError):
            say(_usage(error))
            return BAD_INPUT
        line = refused(error)
        if line is None and isinstance(error, OSError):
            say(f"{error.filename}: {error.strerror}")  # a name too long to be looked up, say
            return BAD_INPUT
        try:  # where typer's help could not be written, a line cannot either; what it left in no buffer is gone
            put("\n" if isinstance(error, OSError) else "", end="")
        except Lost as lost:
            return _lost(lost)
        if line is None:
            raise
        say(line)
        return FAILED
    return _ended(signals, "nothing was written") if status == INTERRUPTED else int(status)


def _ended(signals: Signals, left: str) -> int:
    """End what works for this command, and say what is left of it."""
    end_workers()
    number = signals.number or signal.SIGINT
    say(f"interrupted{'' if number == signal.SIGINT else f' by {signal.Signals(number).name}'}; {left}")
    return 128 + number


def _lost(error: Lost) -> int:
    """Standard output cannot be written: who reads it has gone, which is his right, or it is full."""
    abandon_output()
    if error.closed:
        return READER_GONE
    say(str(error))
    return BAD_INPUT


def _usage(error: Any) -> str:
    """What is wrong with the words of the command line, and where the right ones stand."""
    command = error.ctx.command_path if error.ctx else "cosoc"
    return f"{command}: {error.format_message().removesuffix('.')}. See {command} --help."
