"""`cosoc export`: a point of a run that trained a network, in integers, for whoever puts it onto a device."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cosoc.output import put, reporting
from cosoc.search.exports.formats import Format
from cosoc.trust_option import RunTrust


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A folder of `cosoc search` that trained a network.")],
    point: Annotated[str, typer.Argument(metavar="POINT", help="A mapping of its result.json, by name.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where to; must be empty, or not be there.")],
    form: Annotated[Format, typer.Option("--format", help="Of the network; plan.json comes with each.")] = "json",
    images: Annotated[
        int | None,
        typer.Option("--images", min=1, help="Of the test part, to try the integers on [default: all]."),
    ] = None,
    trusted: RunTrust = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress, no summary: files and errors only.")
    ] = False,
) -> None:
    """Write a trained point as it runs: integer weights by core, scales, order of channels, and plan.json, the schedule
    of its mapping with addresses. Its tiles are tried on an image first: they compute what is written."""
    from cosoc.api import export as library

    with reporting(quiet) as progress:
        one = library(run, point, out, format=form, images=images, report=progress)
    if not quiet:
        put(str(one))
        put(f"{form} and plan.json in {out}")


__all__ = ["export"]
