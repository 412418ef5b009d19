"""Bars of a timeline as text: some three bytes each, which a page reads faster than numbers written out.

A bar is an op (or several, drawn as one) of a unit. Text is base64 of whole numbers, each as 7 bits a byte, the lowest
first, with the highest bit of a byte set while more follow (LEB128). Of the bars of a unit, by start: how much later
than the one before each starts (the first: than tick 0), and how long it lasts, both in ticks; then, as runs of equal
values (value, how often), kind, layer plus one, and ops in it.
"""

from __future__ import annotations

import base64

import numpy as np

from cosoc.sim.machine.program import Ints
from cosoc.sim.machine.trace import changes


def packed_bars(bars: Ints) -> dict[str, str]:
    """[bars, 5], whole: kind, start, end, layer or -1, ops in it; ascending starts."""
    kind, start, end, layer, ops = bars.T
    return {
        "starts": packed(np.diff(start, prepend=0)), "lengths": packed(end - start), "kinds": packed(_runs(kind)),
        "layers": packed(_runs(layer + 1)), "ops": packed(_runs(ops)),
    }  # fmt: skip


def packed(numbers: Ints) -> str:
    """Whole numbers, none below zero, as text."""
    size = np.ones(len(numbers), np.int64)
    for more in range(1, 9):
        size += numbers >= 1 << 7 * more
    at = np.cumsum(size) - size
    out = np.zeros(int(size.sum()), np.uint8)
    for place in range(int(size.max(initial=0))):
        there = np.flatnonzero(size > place)
        more_follow = (size[there] > place + 1).astype(np.int64) << 7
        out[at[there] + place] = numbers[there] >> 7 * place & 127 | more_follow
    return base64.b64encode(out.tobytes()).decode("ascii")


def _runs(values: Ints) -> Ints:
    """Value, how often in a row, value, ..."""
    first = changes(values)
    return np.stack([values[first], np.diff(np.append(first, len(values)))], axis=1).ravel()


__all__ = ["packed", "packed_bars"]
