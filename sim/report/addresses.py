"""At which addresses what a memory holds could lie: a static plan of tensors, and buffers of tiles around it.

`placement` says in which memory a tensor lives, and a mover through caches at which address of it, since what misses
depends on that. Behind a DMA nothing depends on addresses, and none are modelled. So these are chosen here, as a
compiler's memory planner would, after the run has told from when to when each thing lies there: tensors and weights,
the largest first, each at the lowest address at which it overlaps nothing that is alive with it; then the buffers of
tiles around them, in the order in which they come, or, where that finds no room and they are not very many, the largest
first as well. Two things that are alive at once never overlap. Where this finds no room, though the bytes fit, there
are no addresses; nor are there of what a core arranges by itself (a systolic array's scratchpad) or nobody (a cache).
"""

from __future__ import annotations

import bisect
import heapq
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
NOWHERE = -1
MOST_BY_SIZE = 20_000  # buffers that are placed by size, where in their order they find no room: each looks at all


@dataclass(frozen=True)
class Standing:
    """What keeps one address. since, until [inferences]: ticks, in each inference, of which none overlaps the next."""

    name: str
    bytes: int
    since: Ints
    until: Ints


@dataclass(frozen=True)
class Passing:
    """Buffers of one memory: bytes[i] from since[i] to until[i]. kind [n]: what they are for; buffers of a kind are
    often alike, and leave room that the next of them fits."""

    since: Ints
    until: Ints
    bytes: Ints
    kind: Ints


@dataclass(frozen=True)
class Plan:
    """standing: addresses by name. passing [n]: of the buffers. reason: why there are none; '' where there are."""

    standing: dict[str, int]
    passing: Ints
    reason: str = ""


def plan(memory: str, capacity_bytes: int, standing: Sequence[Standing], passing: Passing) -> Plan:
    """Addresses of one memory, counted from the first byte that a mapping may fill."""
    at = _stand(standing)
    top = max((at[one.name] + one.bytes for one in standing), default=0)
    if top > capacity_bytes:
        return _none(passing, f"first fit takes {top} bytes for what lies in {memory}, which has {capacity_bytes}")
    kinds = np.unique(passing.kind).tolist()
    # All from the bottom of the memory; else some kinds from the bottom and the others from the top.
    for n in range(len(kinds)):
        for from_top in itertools.combinations(kinds, n):
            down = np.isin(passing.kind, from_top)
            found = _pass(capacity_bytes, [(at[one.name], one) for one in standing], passing, down)
            if found is not None:
                return Plan(at, found)
    if not kinds:
        return Plan(at, np.zeros(0, np.int64))
    if len(passing.bytes) <= MOST_BY_SIZE:
        found = _pass_by_size(capacity_bytes, [(at[one.name], one) for one in standing], passing)
        if found is not None:
            return Plan(at, found)
    why = f"first fit finds no room for all buffers of tiles in {memory}, {capacity_bytes} bytes; these have none"
    return Plan(at, np.full(len(passing.bytes), NOWHERE), why)


def _none(passing: Passing, reason: str) -> Plan:
    return Plan({}, np.full(len(passing.bytes), NOWHERE), reason)


def _stand(standing: Sequence[Standing]) -> dict[str, int]:
    """Each at the lowest address that is free whenever it is there, the largest first."""
    order = sorted(standing, key=lambda one: (-one.bytes, one.name))
    out: dict[str, int] = {}
    if not order:
        return out
    since, until = (np.stack([getattr(one, key) for one in order]) for key in ("since", "until"))
    first = np.zeros(len(order), np.int64)
    sizes = np.array([one.bytes for one in order])
    for i, one in enumerate(order):
        beside = np.flatnonzero(((since[:i] < until[i]) & (since[i] < until[:i])).any(axis=1))
        first[i] = _lowest(sorted(zip(first[beside].tolist(), sizes[beside].tolist(), strict=True)), one.bytes)
        out[one.name] = int(first[i])
    return out


def _lowest(taken: Sequence[tuple[int, int]], size: int) -> int:
    """The lowest address with so many bytes between (address, bytes) that are taken, in order; they may overlap."""
    at = 0
    for start, length in taken:
        if start - at >= size:
            break
        at = max(at, start + length)
    return at


def _pass(
    capacity: int, standing: Sequence[tuple[int, Standing]], passing: Passing, down: npt.NDArray[np.bool_]
) -> Ints | None:
    """Addresses of the buffers in the order in which they come; None where one finds no room."""
    since, until, sizes = passing.since.tolist(), passing.until.tolist(), passing.bytes.tolist()
    out = np.full(len(sizes), NOWHERE)
    live: list[tuple[int, int]] = []  # (address, bytes), ascending
    ends: list[tuple[int, int, int]] = []  # (until, address, bytes)
    always = _Obstacles(standing)
    for i in np.argsort(passing.since, kind="stable").tolist():
        while ends and ends[0][0] <= since[i]:
            _, address, size = heapq.heappop(ends)
            del live[bisect.bisect_left(live, (address, size))]
        if not sizes[i]:
            continue
        taken = always.merged(live, since[i], until[i])
        address = _highest(taken, sizes[i], capacity) if down[i] else _lowest(taken, sizes[i])
        if address < 0 or address + sizes[i] > capacity:
            return None
        out[i] = address
        bisect.insort(live, (address, sizes[i]))
        heapq.heappush(ends, (until[i], address, sizes[i]))
    return out


def _pass_by_size(capacity: int, standing: Sequence[tuple[int, Standing]], passing: Passing) -> Ints | None:
    """The same, each at the lowest address that is free for as long as it is there, the largest first."""
    order = np.lexsort((passing.since, -passing.bytes))
    since, until, sizes = passing.since[order], passing.until[order], passing.bytes[order]
    first, always = np.zeros(len(order), np.int64), _Obstacles(standing)
    for i, size in enumerate(sizes.tolist()):
        beside = np.flatnonzero((since[:i] < until[i]) & (since[i] < until[:i]))
        live = sorted(zip(first[beside].tolist(), sizes[beside].tolist(), strict=True))
        first[i] = _lowest(always.merged(live, int(since[i]), int(until[i])), size)
        if first[i] + size > capacity:
            return None
    out = np.full(len(order), NOWHERE)
    out[order] = np.where(sizes > 0, first, NOWHERE)
    return out


def _highest(taken: Sequence[tuple[int, int]], size: int, capacity: int) -> int:
    """The highest address with so many free bytes, -1 for none. taken: as `_lowest` has it."""
    end = capacity
    for start, length in sorted(taken, key=lambda one: -(one[0] + one[1])):
        if end - (start + length) >= size:
            break
        end = min(end, start)
    return end - size if end >= size else NOWHERE


class _Obstacles:
    """What stands while buffers pass."""

    def __init__(self, standing: Sequence[tuple[int, Standing]]) -> None:
        self.blocks = [(at, one.bytes) for at, one in standing]
        self.since = np.stack([one.since for _, one in standing]) if standing else np.zeros((0, 1), np.int64)
        self.until = np.stack([one.until for _, one in standing]) if standing else np.zeros((0, 1), np.int64)

    def merged(self, live: list[tuple[int, int]], since: int, until: int) -> list[tuple[int, int]]:
        if not self.blocks:
            return live
        there = ((self.since < until) & (since < self.until)).any(axis=1)
        return sorted([*live, *(self.blocks[i] for i in np.flatnonzero(there).tolist())])


__all__ = ["NOWHERE", "Passing", "Plan", "Standing", "plan"]
