"""The bars of a page's timeline, read back number by number as `sim/report/packed.py` says."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any


def numbers(text: str) -> Iterator[int]:
    """7 bits a byte, the lowest first; the highest bit of a byte is set while more follow."""
    value, place = 0, 0
    for byte in base64.b64decode(text):
        value |= (byte & 127) << place
        place += 7
        if byte < 128:
            yield value
            value, place = 0, 0


def runs(text: str) -> list[int]:
    """Value, how often, value, ..."""
    found = numbers(text)
    return [value for value in found for _ in range(next(found))]


def bars_of(row: dict[str, Any]) -> list[tuple[int, int, int, int, int]]:
    """(kind, start tick, end tick, layer or -1, ops in it) of a unit's bars."""
    starts, at = [], 0
    for later in numbers(row["bars"]["starts"]):
        at += later
        starts.append(at)
    ends = [start + ticks for start, ticks in zip(starts, numbers(row["bars"]["lengths"]), strict=True)]
    kinds, layers, ops = (runs(row["bars"][key]) for key in ("kinds", "layers", "ops"))
    out = [(k, a, b, layer - 1, n) for k, a, b, layer, n in zip(kinds, starts, ends, layers, ops, strict=True)]
    assert len(out) == row["n"]
    return out
