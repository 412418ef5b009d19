"""`cosoc export`: a point of a run that trained a network, in integers, for whoever puts it onto a device."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cosoc.output import put, reporting
from cosoc.sim.errors import InputError
from cosoc.trust_option import RunTrust

if TYPE_CHECKING:
    from cosoc.search.exports.exported import Exported

Format = Literal["json", "c-array", "torch", "onnx-qdq"]


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
    from cosoc.search.exports.exported import exported
    from cosoc.search.training.trained import read_run

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out {out}: is not an empty folder; name another")
    about = read_run(run)
    found = next((one for one in about.found if one.name == point), None)
    if found is None:
        raise InputError(f"{run}: has no mapping {point!r}; there is {', '.join(one.name for one in about.found)}")
    training = about.trainings(found)[0]
    with reporting(quiet) as progress:
        one = exported(
            point, training.net, about.mapping(found), about.opened.workload, about.config.soc, about.data,
            training.metric, images, progress,
        )  # fmt: skip
        with _made(out) as folder:
            _write(one, form, folder)
    if not quiet:
        of = f"the first {one.images} test images" if one.images < len(about.data.test) else "the test images"
        measured = about.data.task.measured
        whole, trained = measured.text(one.integer_accuracy), measured.text(one.accuracy)
        put(f"{point}: {measured.name} {whole} on {of} in integers, {trained} as it was trained")
        put(f"{form} and plan.json in {out}")


def _write(one: Exported, form: Format, folder: Path) -> None:
    from cosoc.search.exports.exported import plain
    from cosoc.sim.report.schedule import write_schedule

    if form == "json":
        (folder / "network.json").write_text(json.dumps(plain(one), allow_nan=False) + "\n", encoding="utf-8")
    elif form == "c-array":
        from cosoc.search.exports.c_arrays import files

        for name, text in files(one).items():
            (folder / name).write_text(text, encoding="utf-8")
    elif form == "torch":
        from cosoc.search.exports.torch_module import program

        (folder / "network.pt2").write_bytes(program(one))
    else:
        from cosoc.search.exports.onnx_qdq import model

        (folder / "network.onnx").write_bytes(model(one))
    write_schedule(one.run, folder / "plan.json")


@contextlib.contextmanager
def _made(out: Path) -> Iterator[Path]:
    """A folder that takes its name when all is in it."""
    part = out.parent / f".{out.name}.{secrets.token_hex(8)}.part"
    try:
        part.mkdir(parents=True)
        yield part
        if out.exists():
            out.rmdir()
        os.replace(part, out)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


__all__ = ["Format", "export"]
