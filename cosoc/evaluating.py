"""`cosoc evaluate`: what corrupted images and inexact analog cores leave of the accuracy of a run's mappings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cosoc.boundary import Interrupted
from cosoc.output import check_outputs, columns, put, replacing, reporting, write_json
from cosoc.sim.processes import Ended
from cosoc.trust_option import RunTrust


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A folder of `cosoc search` that trained a network.")],
    corruptions: Annotated[
        str | None,
        typer.Option(
            "--corruptions", metavar="all|A,B", help="Of the images [default: all; none where --noise is asked for]."
        ),
    ] = None,
    severity: Annotated[
        str | None, typer.Option("--severity", metavar="1..5", help="Of corruptions: 3, 1,5 or 1..5 [default: 1..5].")
    ] = None,
    noise: Annotated[
        str | None,
        typer.Option("--noise", metavar="all|A,B", help="Of analog cores, as the SoC states it: adc, weights, drift."),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option("--seeds", min=1, max=1000, help="With --noise: chips to draw [default: 3].")
    ] = None,
    images: Annotated[
        int | None, typer.Option("--images", min=1, help="Of the test part, the first so many [default: all].")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Equal seeds give equal results.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Keep what is done, for --resume [default: nowhere]."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the evaluation in --out.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the result as JSON.")] = None,
    plot_file: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Draw accuracies (.png or .svg).")
    ] = None,
    trusted: RunTrust = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no table: files and errors only.")] = False,
) -> None:
    """Evaluate every mapping of a finished run on corrupted images and inexact analog cores: accuracy under each, and
    whether the mappings keep their order."""
    from cosoc.api import evaluate as library
    from cosoc.search.training.shift_picture import check_plot, plot

    check_outputs({"--json": json_file, "--plot": plot_file})
    if plot_file is not None:
        check_plot(plot_file)
    try:
        with reporting(quiet) as progress:
            found = library(
                run, corruptions=corruptions, severity=severity, noise=noise, chips=seeds, images=images, seed=seed,
                out=out, resume=resume, report=progress,
            )  # fmt: skip
    except (KeyboardInterrupt, Ended):
        if out is None:
            raise
        raise Interrupted(f"what is finished is in {out}; --resume goes on from there") from None
    if json_file is not None:
        write_json(json_file, {"run": str(run)} | found.content())
    if plot_file is not None:
        with replacing(plot_file) as part:
            part.write_bytes(plot(found, plot_file.suffix))
    if not quiet:
        put(found.table(columns()))
