"""The command line. Commands are thin: they read names and files, call the library, and say where the results are.

What is slow to import (torch, numba, simpy, pyplot) is imported inside the command that needs it, so that
`cosoc --help` answers at once.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from cosoc import __version__
from cosoc.output import check_writable, replacing, reporting, write_json
from cosoc.sim.errors import Deadlock, InputError
from cosoc.sim.mapping import Runtime

if TYPE_CHECKING:
    from cosoc.sim.mapping import Mapping
    from cosoc.sim.soc import SoC
    from cosoc.sim.workload import Workload

DEFAULT_MAPPING = "all_8bit"

Engine = Literal["fast", "reference"]
Objective = Literal["latency", "energy"]
Estimator = Literal["expectation", "montecarlo", "score"]

SocName = Annotated[str, typer.Argument(metavar="SOC", help="A built-in SoC (see `cosoc list`) or a .yaml file.")]
WorkloadName = Annotated[
    str, typer.Argument(metavar="WORKLOAD", help="A built-in workload, a .yaml file, or package.module:factory.")
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
    str | None,
    typer.Option("--input-shape", metavar="1,C,H,W", help="Input of a package.module:factory workload."),
]
JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the result as JSON.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Equal seeds give equal results.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no table: files and errors only.")]

app = typer.Typer(
    help="Simulate, calibrate and search mappings of neural networks on heterogeneous AI SoCs.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
show_app = typer.Typer(help="Print what cosoc works with, as text that it also reads.", rich_markup_mode=None)
app.add_typer(show_app, name="show")


class Interrupted(Exception):
    """Ctrl-C; the message says what is left of the work."""


# ------------------------------------------------------------------------------------------ commands


@app.command()
def simulate(
    soc: SocName,
    workload: WorkloadName,
    mapping: MappingName = DEFAULT_MAPPING,
    runtime: RuntimeName = None,
    engine: Annotated[Engine, typer.Option("--engine", help="Both give the same result to the tick.")] = "fast",
    inferences: Annotated[int, typer.Option("--inferences", min=1, help="Inferences, one after the other.")] = 1,
    json_file: JsonFile = None,
    trace_file: Annotated[
        Path | None, typer.Option("--trace", metavar="FILE", help="Write a Chrome trace, which Perfetto opens.")
    ] = None,
    gantt_file: Annotated[
        Path | None, typer.Option("--gantt", metavar="FILE", help="Draw a Gantt chart (.png).")
    ] = None,
    input_shape: InputShape = None,
    overrides: Overrides = None,
    quiet: Quiet = False,
) -> None:
    """Run a mapped workload on a SoC: time, energy, and why it takes that long."""
    _check_outputs({"--json": json_file, "--trace": trace_file, "--gantt": gantt_file})
    machine, network, placed = _inputs(soc, workload, mapping, runtime, input_shape, overrides)
    from cosoc.sim import report
    from cosoc.sim.simulate import simulate as run

    result = run(machine, network, placed, engine=engine, inferences=inferences)
    if not quiet:
        _print(report.table(result))
    if json_file:
        write_json(json_file, report.to_json(result))
    if trace_file:
        write_json(trace_file, report.chrome_trace(result))
    if gantt_file:
        with replacing(gantt_file) as part:
            report.gantt(result, part)


@app.command()
def calibrate(
    soc: SocName,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Mappings to simulate.")] = 1000,
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Save the fitted estimate.")] = None,
    json_file: JsonFile = None,
    overrides: Overrides = None,
    quiet: Quiet = False,
) -> None:
    """Fit the differentiable estimate to the simulator and show its error on held-out networks."""
    _check_outputs({"--out": out, "--json": json_file})
    machine = _soc(soc, overrides)
    from cosoc.search import calibrate as library

    with reporting(quiet) as progress:
        calibration = library.calibrate(machine, samples, seed, progress)
    if not quiet:
        _print(library.table(calibration))
    if out:
        with replacing(out) as part:
            library.save(calibration, part)
    if json_file:
        write_json(json_file, library.to_json(calibration))


@app.command()
def search(
    soc: SocName,
    workload: WorkloadName,
    data: Annotated[
        str, typer.Option("--data", metavar="NAME|DIR", help="A data set by name, or its folder.")
    ] = "digits",
    objective: Annotated[Objective, typer.Option("--objective", help="What to trade accuracy against.")] = "latency",
    strengths: Annotated[
        str | None,
        typer.Option("--strengths", metavar="A,B,C", help="Weights of the cost; one point of the front each."),
    ] = None,
    target_ms: Annotated[
        float | None, typer.Option("--target-ms", help="Instead of strengths: the latency to end below.")
    ] = None,
    estimator: Annotated[
        Estimator, typer.Option("--estimator", help="How the cost gets its gradient.")
    ] = "expectation",
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Passes over the data, for each point.")] = 40,
    seed: Seed = 0,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Run folder [default: runs/SOC-WORKLOAD].")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")] = False,
    input_shape: InputShape = None,
    overrides: Overrides = None,
    quiet: Quiet = False,
) -> None:
    """Train a network and its mapping together; every latency and energy reported is simulated."""
    if strengths is not None and target_ms is not None:
        raise InputError("--strengths and --target-ms exclude each other; give one")
    if target_ms is not None and not (math.isfinite(target_ms) and target_ms > 0):
        raise InputError(f"--target-ms {target_ms}: a positive number of milliseconds is needed")
    weights = _strengths("0.03,0.1,0.3,1,3" if strengths is None else strengths) if target_ms is None else ()
    machine = _soc(soc, overrides)
    shape = _shape(input_shape)
    folder = out or Path("runs") / "-".join(Path(n.replace(":", "_")).stem for n in (soc, workload))
    _check_run_folder(folder, resume)
    from cosoc.search.run import SearchConfig
    from cosoc.search.run import search as run

    config = SearchConfig(
        soc=machine,
        workload=workload,
        input_shape=shape,
        data=data,
        objective=objective,
        strengths=weights,
        target_ms=target_ms,
        estimator=estimator,
        epochs=epochs,
        seed=seed,
        out=folder,
        resume=resume,
    )
    try:
        with reporting(quiet) as progress:
            result = run(config, progress)
    except KeyboardInterrupt:
        raise Interrupted(f"results so far in {folder}; --resume goes on from there") from None
    if not quiet:
        _print(result.table())
        print(f"results in {folder}")


@app.command("list")
def list_names() -> None:
    """Name the built-in SoCs, workloads and mappings."""
    from cosoc.sim.catalog import list_socs
    from cosoc.sim.mapping_file import list_mappings
    from cosoc.sim.workload_file import list_workloads

    print("socs:", *list_socs(), sep="\n  ")
    print("workloads:", *list_workloads(), sep="\n  ")
    for soc in list_socs():
        print(f"mappings for {soc}:", *list_mappings(soc), sep="\n  ")


@show_app.command("soc")
def show_soc(soc: SocName, overrides: Overrides = None) -> None:
    """Print a SoC as YAML, overrides applied."""
    import yaml

    machine = _soc(soc, overrides)
    content = machine.model_dump(mode="json", by_alias=True, exclude_unset=True)
    print(yaml.safe_dump(content, sort_keys=False, width=110), end="")


@show_app.command("workload")
def show_workload(workload: WorkloadName, input_shape: InputShape = None) -> None:
    """Print a workload as YAML, one line a layer."""
    from cosoc.sim.workload_file import dump_workload

    network = _workload(workload, input_shape)
    print(f"# {network.macs} MAC, {network.params} weights and biases, {len(network.layers)} layers")
    print(dump_workload(network), end="")


@show_app.command("mapping")
def show_mapping(
    soc: SocName,
    workload: WorkloadName,
    mapping: MappingName = DEFAULT_MAPPING,
    runtime: RuntimeName = None,
    input_shape: InputShape = None,
    overrides: Overrides = None,
) -> None:
    """Print a mapping as YAML, with the cores and tiles that it leaves open filled in."""
    from cosoc.sim.mapping_file import dump_mapping
    from cosoc.sim.tiler import complete

    machine, network, placed = _inputs(soc, workload, mapping, runtime, input_shape, overrides)
    print(dump_mapping(complete(placed, network, machine)), end="")


@show_app.command("program")
def show_program(
    soc: SocName,
    workload: WorkloadName,
    mapping: MappingName = DEFAULT_MAPPING,
    runtime: RuntimeName = None,
    input_shape: InputShape = None,
    overrides: Overrides = None,
) -> None:
    """Print the program that the engines run, one line an op, loops as loops."""
    from cosoc.sim.lower import lower
    from cosoc.sim.program import to_text

    machine, network, placed = _inputs(soc, workload, mapping, runtime, input_shape, overrides)
    print(to_text(lower(network, placed, machine)), end="")


# ------------------------------------------------------------------------------------------ arguments


def _soc(name: str, overrides: list[str] | None) -> SoC:
    from cosoc.sim.catalog import find_soc

    values: dict[str, str] = {}
    for text in overrides or ():
        path, equals, value = text.partition("=")
        if not equals or not path:
            raise InputError(f"--set {text}: PATH=VALUE is needed, such as --set tick_hz=260000000")
        values[path] = value
    return find_soc(name, values)


def _workload(name: str, input_shape: str | None) -> Workload:
    from cosoc.sim.workload_file import find_workload

    return find_workload(name, _shape(input_shape))


def _inputs(
    soc: str, workload: str, mapping: str, runtime: Runtime | None, input_shape: str | None, overrides: list[str] | None
) -> tuple[SoC, Workload, Mapping]:
    from cosoc.sim.mapping_file import find_mapping

    machine = _soc(soc, overrides)
    network = _workload(workload, input_shape)
    return machine, network, find_mapping(mapping, network, machine, runtime)


def _shape(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(size) for size in text.split(","))
    except ValueError:
        raise InputError(f"--input-shape {text}: whole numbers and commas are needed, such as 1,3,32,32") from None


def _strengths(text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or not all(math.isfinite(v) and v >= 0 for v in values):
        raise InputError(f"--strengths {text}: numbers >= 0 and commas are needed, such as 0.1,0.3,1")
    return values


def _check_outputs(files: dict[str, Path | None]) -> None:
    """Every output file can be written and none is named twice; asked before the work, not after it."""
    seen: dict[Path, str] = {}
    for option, path in files.items():
        if path is None:
            continue
        check_writable(option, path)
        other = seen.setdefault(path.resolve(), option)
        if other != option:
            raise InputError(f"{other} and {option} both name {path}; give each its own file")


def _check_run_folder(folder: Path, resume: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out {folder}: is a file; a folder is needed")
    used = folder.is_dir() and any(folder.iterdir())
    if used and not resume:
        raise InputError(f"--out {folder}: is not empty; --resume goes on with it, or name another folder")
    if resume and not used:
        raise InputError(f"--resume: there is no run in {folder}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {folder}: cannot be made: {error.strerror}") from None
    check_writable("--out", folder / "result.json")


def _print(renderable: object) -> None:
    from rich.console import Console

    Console().print(renderable)


# ------------------------------------------------------------------------------------------ the error boundary

# Typer brings its own copy of click or uses the installed one, by version: its public exception's bases fit both.
_CommandLineError = typer.BadParameter.__mro__[2]
_INTERRUPTED = 130


def _version(value: bool) -> None:
    if value:
        print(f"cosoc {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def _fail(status: int, message: str) -> NoReturn:
    print(f"cosoc: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)


def main() -> None:
    """Run the command line. Exit status: 0 done, 1 out of memory, 2 bad input, 130 interrupted; one line says why."""
    try:
        status = app(sys.argv[1:] or ["--help"], prog_name="cosoc", standalone_mode=False)
    except (InputError, Deadlock) as error:
        _fail(2, f"error: {error}")
    except Interrupted as error:
        _fail(_INTERRUPTED, f"interrupted; {error}")
    except (KeyboardInterrupt, typer.Abort):
        status = _INTERRUPTED
    except MemoryError as error:
        _fail(1, f"error: out of memory: {error}")
    except RuntimeError as error:
        # torch has no MemoryError of its own
        if "tried to allocate" not in str(error).lower():
            raise
        _fail(1, f"error: out of memory: {error}")
    except Exception as error:
        if not isinstance(error, _CommandLineError):
            raise
        _fail(2, f"error: {error.format_message()}; see cosoc --help")
    if status == _INTERRUPTED:
        _fail(_INTERRUPTED, "interrupted; nothing was written")
    sys.exit(status or 0)
