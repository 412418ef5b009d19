"""Inputs of the kinds that once made a reader of files do something else than refuse them in one line (hang, take
gigabytes, trace back, run code): tests/fuzzed/READER/NAME, replayed through that reader. benchmarks/fuzz.py looks for
more."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cosoc.sim.errors import InputError

KEPT = Path(__file__).parent / "fuzzed"
sys.path.insert(0, str(KEPT.parents[1] / "benchmarks"))

import fuzz  # noqa: E402

FILES = sorted(path for path in KEPT.rglob("*") if path.is_file())


@pytest.mark.parametrize("file", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_what_once_broke_a_reader_is_refused_in_one_line(file: Path) -> None:
    """One line without control characters that names the file; no other exception, and nothing is run."""
    with pytest.raises(InputError) as refused:
        fuzz.readers()[file.parent.name](file)
    said = str(refused.value)
    assert file.name in said and said.isprintable()


def test_every_reader_has_inputs() -> None:
    """A folder that no reader is called by would never be replayed."""
    assert {path.parent.name for path in FILES} == set(fuzz.readers())
