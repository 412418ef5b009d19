"""Cells of a table's rows, read strictly: what is wrong is said by row and column."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from cosoc.sim.errors import InputError

T = TypeVar("T", bound=str)


def refusal(number: int, column: str, found: str, right: str) -> InputError:
    """The error of a cell. number: of the row, from 1, the line of column names not counted."""
    return InputError(f"row {number}, {column}: found {found!r}; {right}")


def text(row: Mapping[str, str], number: int, column: str) -> str:
    """What a cell says, without the blanks around it; InputError where it is empty."""
    found = (row.get(column) or "").strip()
    if not found:
        raise refusal(number, column, found, "it may not be empty")
    return found


def positive(row: Mapping[str, str], number: int, column: str) -> float:
    """A cell's positive, finite number."""
    found = text(row, number, column)
    try:
        value = float(found)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise refusal(number, column, found, "a positive number is needed")
    return value


def positive_or_none(row: Mapping[str, str], number: int, column: str) -> float | None:
    """A cell's positive number, None where the cell is empty or the table has no such column."""
    return positive(row, number, column) if (row.get(column) or "").strip() else None


def one_of(row: Mapping[str, str], number: int, column: str, known: Sequence[T]) -> T:
    """A cell's word, which is one of those known."""
    found = text(row, number, column)
    for word in known:
        if word == found:
            return word
    raise refusal(number, column, found, f"known are {', '.join(known)}")


@contextlib.contextmanager
def reading(number: int, column: str) -> Iterator[None]:
    """What is wrong with what a cell names, said with its row and column."""
    try:
        yield
    except InputError as error:
        raise InputError(f"row {number}, {column}: {error}") from None
