"""Tables of measured rows as CSV files."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cosoc.sim.errors import InputError
from cosoc.sim.files.yamlfile import read_text


@dataclass(frozen=True)
class Table:
    """A table's rows as text by column, and the line of the file on which each stands."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[dict[str, str], ...]
    lines: tuple[int, ...]


def read_table(path: Path, columns: Sequence[str]) -> Table:
    """The rows of a CSV file in UTF-8 that has these columns, and perhaps others. InputError says what is wrong, with
    the file and, where there is one, the line."""
    reader = csv.DictReader(io.StringIO(read_text(path).removeprefix("\ufeff"), newline=""), strict=True)
    rows, lines = [], []
    try:
        for row in reader:
            rows.append(row)
            lines.append(reader.line_num)
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num}: is no CSV: {error}") from None
    names = tuple(reader.fieldnames or ())
    missing = [name for name in columns if name not in names]
    if missing:
        raise InputError(f"{path}: has no column {', '.join(missing)}; these are needed: {', '.join(columns)}")
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    if twice:
        raise InputError(f"{path}:1: column {twice[0]!r} stands there twice; keep one")
    if not rows:
        raise InputError(f"{path}: has no rows")
    for line, row in zip(lines, rows, strict=True):
        n = sum(value is not None for key, value in row.items() if key is not None)
        n += len(row.get(None) or ())
        if n != len(names):
            raise InputError(f"{path}:{line}: found {n} values; the first line names {len(names)} columns")
    return Table(path, names, tuple(rows), tuple(lines))
