"""What `import cosoc` offers: the commands as functions, over names, paths or the things themselves.

A SoC, a cluster, a network or a mapping is named as on the command line, or given as it is; a network may be a torch
module, with an example of its input (see `cosoc.inputs`). What is wrong raises `cosoc.InputError` with one line.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cosoc.inputs import (
    ACluster,
    AMapping,
    ANetwork,
    ASoC,
    Example,
    Overrides,
    cluster_mapping_of,
    cluster_of,
    mapping_of,
    network_of,
    one_input,
    soc_of,
)
from cosoc.searching import STREAMED, search
from cosoc.sim.errors import InputError
from cosoc.sim.model.mapping import Runtime
from cosoc.sim.progress import Report, untold

if TYPE_CHECKING:  # loaded where they are used: slow to import
    from torch import nn

    from cosoc.search.calibrate import Calibration
    from cosoc.search.campaigns.results import SweepResult
    from cosoc.search.exports.exported import Exported
    from cosoc.search.exports.formats import Format
    from cosoc.search.surrogate import Calibrated, Surrogate
    from cosoc.search.training.shift import Shift
    from cosoc.search.wrapped import Space, Wrapped
    from cosoc.sim.report.pipeline_result import ClusterResult
    from cosoc.sim.report.result import Result
    from cosoc.sim.simulate import Engine
    from cosoc.validation import Validation
    from cosoc.why import Comparison


def simulate(
    soc: ASoC,
    workload: ANetwork,
    mapping: AMapping = "default",
    *,
    example: Example | None = None,
    runtime: Runtime | None = None,
    objective: str | None = None,
    engine: Engine = "fast",
    inferences: int = 1,
    batch: int = 1,
    overrides: Overrides | None = None,
) -> Result:
    """Run a mapped network on a SoC: how long it takes and why, and what energy it takes.

    runtime: serial or overlapped, where the mapping is a name or a file. objective: what a mapping that is chosen makes
    small (latency). inferences: one after the other. batch: images
    (or sequences) that go through each layer together. overrides: values of the SoC's file by their dotted path.

    >>> result = simulate("diana", "resnet8", "all_8bit", overrides={"dmas.dma.setup_cycles": 35})
    >>> print(result)
    resnet8 on diana, all_8bit, serial: 468 us, 7.441 uJ (121,688 ticks). The bottleneck is digital computing: ...
    """
    from cosoc.sim.simulate import simulate as run

    machine, network = soc_of(soc, overrides), network_of(workload, example, batch)
    return run(machine, network, mapping_of(mapping, network, machine, runtime, objective), engine, inferences)


def simulate_cluster(
    cluster: ACluster,
    workload: ANetwork,
    mapping: AMapping,
    *,
    example: Example | None = None,
    runtime: Runtime | None = None,
    engine: Engine = "fast",
    inferences: int = STREAMED,
    overrides: Overrides | None = None,
    carrier_w: float | None = None,
) -> ClusterResult:
    """Stream a network through the devices of a cluster, under a mapping with stages (a file, or as a search found it).

    inferences: that are streamed. carrier_w: what a board draws beside a chip whose energies stop there, W.
    """
    from cosoc.sim.simulate import simulate_cluster as run

    machines, network = cluster_of(cluster, overrides, carrier_w), network_of(workload, example)
    return run(machines, network, cluster_mapping_of(mapping, network, machines, runtime), engine, inferences)


def calibrate(
    soc: ASoC,
    *,
    samples: int = 1000,
    seed: int = 0,
    space: Calibrated | None = None,
    workers: int | None = None,
    overrides: Overrides | None = None,
    report: Report | None = None,
) -> Calibration:
    """Fit the closed-form estimate of a SoC to simulated mappings; its error is on networks that it was not fitted to.

    space: whose mappings are sampled, channels or tiles (left out: channels where several cores can take them).
    workers: processes (one a core). What it returns has the estimate as `surrogate`, which `search` and `wrap` begin
    with, and `save(path)`.
    """
    from cosoc.search.calibrate import calibrate as fit

    return fit(soc_of(soc, overrides), samples, seed, report, workers, space)


def compare(a: Result | Path | str, b: Result | Path | str, *, carrier_w: float | None = None) -> Comparison:
    """Two results of one network layer by layer: seconds, energy, and the cause that shifted most. Each is a result, a
    file of `cosoc simulate --json`, or a run folder or mapping in one, which is simulated.

    >>> before = simulate("diana", "resnet8", "all_8bit", runtime="serial")
    >>> print(compare(before, simulate("diana", "resnet8", "all_8bit", runtime="overlapped")))
    resnet8: A all_8bit on diana 473.6 us, 7.489 uJ; B all_8bit on diana 432.4 us, 7.126 uJ (-8.7% time); launching jobs
    shifted most: -19.23 us
    """
    from cosoc.sim.report.result import Result as Simulated
    from cosoc.why import compared, of_result, result_json

    one, other = (of_result(x) if isinstance(x, Simulated) else result_json(Path(x)) for x in (a, b))
    return compared(one, other, carrier_w)


def evaluate(
    run: Path | str,
    *,
    corruptions: str | None = None,
    severity: str | None = None,
    noise: str | None = None,
    chips: int | None = None,
    images: int | None = None,
    seed: int = 0,
    out: Path | str | None = None,
    resume: bool = False,
    module: nn.Module | None = None,
    report: Report | None = None,
) -> Shift:
    """Evaluate every mapping of a finished run that trained a network on corrupted images and inexact analog cores
    (docs/shift.md).

    corruptions, noise: names with commas, or `all`; with neither, all corruptions; with both, each alone and both
    together. severity: of corruptions, such as 3, 1,5 or 1..5 (all). chips: that are drawn for noise (3). images: of
    the test part, the first so many (all). out: a folder that keeps what is done, in which `resume` goes on. module:
    the network, where the search was given it as such.
    """
    from cosoc.search.training.corruptions import SEVERITIES, names_of
    from cosoc.search.training.noise import kinds_of
    from cosoc.search.training.shift import CHIPS, Asked, Kept, severities_of
    from cosoc.search.training.shift import evaluate as evaluated
    from cosoc.search.training.trained import read_run

    if resume and out is None:
        raise InputError("--resume: goes on with an evaluation in --out; give both, or neither")
    if noise is None and chips is not None:
        raise InputError("--seeds: draws chips for --noise, which is not asked for; give both, or neither")
    if corruptions is None and noise is not None and severity is not None:
        raise InputError("--severity: is of --corruptions, which are not asked for beside --noise; give both")
    asked = Asked(
        names_of(corruptions or "all") if corruptions is not None or noise is None else (),
        SEVERITIES if severity is None else severities_of(severity),
        () if noise is None else kinds_of(noise),
        CHIPS if chips is None else chips,
        seed,
        images,
    )
    kept = None if out is None else Kept(Path(out), resume)
    return evaluated(read_run(Path(run), module), asked, report or untold, kept)


def export(
    run: Path | str,
    point: str,
    out: Path | str,
    *,
    format: Format = "json",
    images: int | None = None,
    module: nn.Module | None = None,
    report: Report | None = None,
) -> Exported:
    """Write a mapping of a finished run that trained a network as it runs on its chip: integer weights by core, scales,
    order of channels, and plan.json, the schedule with addresses (docs/export.md).

    point: by its name in result.json. out: a folder that is empty or not there. format: json, c-array, torch or
    onnx-qdq. images: of the test part, the first so many, to try the integers on (all). module: the network, where the
    search was given it as such. What it returns has the integers as `network`, and `run`, the mapping simulated.
    """
    from cosoc.search.exports.formats import FORMATS
    from cosoc.search.exports.written import check_empty, write_point
    from cosoc.search.training.trained import read_run

    if format not in FORMATS:
        raise InputError(f"format {format!r}: there is {', '.join(FORMATS)}")
    if images is not None and images < 1:
        raise InputError(f"images {images}: one or more is needed")
    check_empty(Path(out))
    return write_point(read_run(Path(run), module), point, Path(out), format, images, report or untold)


def validate(
    *sets: str, data: Path | str | None = None, soc: ASoC | None = None, report: Report | None = None
) -> Validation:
    """Hold the simulator against measured rows: sets by name (none: all that are at hand), or, with `soc`, rows of
    one's own in `data`.

    >>> print(validate("diana"))
    diana: 3 rows, mean error 2.3%, claimed 2.3%
    """
    from cosoc.validation import Validation
    from cosoc.validation import validate as hold

    machine = None if soc is None else soc_of(soc)
    told = report or untold
    return Validation(tuple(hold(sets, None if data is None else Path(data), machine, told)))


def sweep(
    plan: Path | str,
    out: Path | str = "sweep",
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    resume: bool = False,
    retry_failed: bool = False,
    redo: str | None = None,
    budgets: Sequence[str] = (),
    carrier_w: float | None = None,
    report: Report | None = None,
) -> SweepResult:
    """Run a campaign: every combination of what a plan names (docs/scale.md). out: folder of the results. workers:
    processes (one a core); scheduler: address of a Dask cluster in place of them. budgets: such as `area=2mm2`."""
    from cosoc.search.campaigns.budget import budget
    from cosoc.search.campaigns.run import SweepConfig
    from cosoc.search.campaigns.run import sweep as run

    if workers is not None and scheduler is not None:
        raise InputError("--workers is for processes here; with --scheduler the cluster has its own")
    processes = workers or os.cpu_count() or 1
    most = tuple(map(budget, budgets))
    config = SweepConfig(Path(plan), Path(out), processes, scheduler, resume, retry_failed, redo, carrier_w, most)
    return run(config, report or untold)


def wrap(
    model: nn.Module,
    soc: ASoC,
    example: Example,
    *,
    space: Space = "channels",
    runtime: Runtime = "overlapped",
    estimate: Surrogate | Path | str | None = None,
    primed: int | None = None,
    seed: int = 0,
    overrides: Overrides | None = None,
) -> Wrapped:
    """A torch module as one whose mapping to a SoC is learned with its weights, in a training loop of one's own: it has
    `cost()`, differentiable, and `mapping()`. See `cosoc.search.wrapped`.

    example: of its input, batch of one. estimate: what `calibrate` gave; without one, the estimate is fitted to
    `primed` random mappings of this network first (24).
    """
    from cosoc.search.wrapped import PRIMED
    from cosoc.search.wrapped import wrap as wrapped
    from cosoc.searching import fitted_factors

    machine = soc_of(soc, overrides)
    if estimate is not None and primed is not None:
        raise InputError("estimate and primed exclude each other: an estimate has been fitted; give one")
    theta = fitted_factors(estimate, machine)
    mappings = 0 if theta is not None else PRIMED if primed is None else primed
    return wrapped(model, machine, one_input(example), space, runtime, theta, mappings, seed)


__all__ = [
    "calibrate", "compare", "evaluate", "export", "search", "simulate", "simulate_cluster", "sweep", "validate", "wrap",
]  # fmt: skip
