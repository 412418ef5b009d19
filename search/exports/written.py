"""The files of a point: the network in one format, and plan.json beside it, in a folder that is there whole or not at
all."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from cosoc.search.exports.exported import Exported, exported, plain
from cosoc.search.exports.formats import Format
from cosoc.search.training.trained import TrainedRun
from cosoc.sim.errors import InputError
from cosoc.sim.progress import Report
from cosoc.sim.report.schedule import write_schedule


def check_empty(out: Path) -> None:
    """InputError unless a folder is empty, or not there."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out {out}: is not an empty folder; name another")


def write_point(
    run: TrainedRun, point: str, out: Path, form: Format, images: int | None, report: Report
) -> Exported:  # fmt: skip
    """Write a point of a run, of several trainings the first, into a folder that is empty or not there. images: of the
    test part, to try its integers on (None: all)."""
    found = next((one for one in run.found if one.name == point), None)
    if found is None:
        raise InputError(f"{run.folder}: has no mapping {point!r}; there is {', '.join(one.name for one in run.found)}")
    training = run.trainings(found)[0]
    one = exported(
        point, training.net, run.mapping(found), run.opened.workload, run.config.soc, run.data, training.metric, images,
        report,
    )  # fmt: skip
    with _made(out) as folder:
        _write(one, form, folder)
    return one


def _write(one: Exported, form: Format, folder: Path) -> None:
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


__all__ = ["check_empty", "write_point"]
