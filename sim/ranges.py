"""What a result may be, given the ranges that a SoC file states for its figures: intervals, and where they turn a
conclusion.

Tried are both ends of each range, all other figures as the file has them, and corners: every figure at one end of its
range or the other, drawn at random, or all of them where there are no more. An interval spans what was seen. Time is
monotone in most figures, not in all, so that it is no bound; and nothing is said of how likely its ends are.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Mapping as MappingOf
from dataclasses import asdict, dataclass
from typing import Any

from cosoc.sim.errors import InputError
from cosoc.sim.figures import Figures
from cosoc.sim.files.yamlfile import Range
from cosoc.sim.model.mapping import Mapping
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import Workload
from cosoc.sim.progress import Report, untold
from cosoc.sim.simulate import figures

CORNERS = 32  # drawn where there are more
STEPS = 7  # in which a turning point is looked for: to a hundredth of a range

Values = MappingOf[str, int | float]  # of figures, by path
Run = Callable[[Values], MappingOf[str, Figures]]  # each mapping, by name, on the SoC with some of its values replaced


@dataclass(frozen=True)
class Interval:
    """What a figure is by the file, and the least and the most that was seen of it."""

    nominal: float
    low: float
    high: float


@dataclass(frozen=True)
class Effect:
    """What one figure's range does by itself: seconds and joules with the figure at its low and at its high end."""

    path: str
    seconds: tuple[float, float]
    energy_j: tuple[float, float]


@dataclass(frozen=True)
class Spread:
    """One mapping's intervals, and the effects of single figures, the widest in time first."""

    mapping: str
    seconds: Interval
    energy_j: Interval
    effects: tuple[Effect, ...]


@dataclass(frozen=True)
class Flip:
    """From `value` on, coming from what the file has and all else as there, `faster` is the fastest mapping."""

    path: str
    value: int | float
    faster: str


@dataclass(frozen=True)
class Ranged:
    """corners: how many were tried of all_corners. fastest: by the file. fastest_in_corners: in how many of them each
    mapping is. flips: single figures that turn it."""

    ranges: tuple[Range, ...]
    corners: int
    all_corners: int
    seed: int
    spreads: tuple[Spread, ...]
    fastest: str
    fastest_in_corners: dict[str, int]
    flips: tuple[Flip, ...]


def over_ranges(
    load: Callable[[MappingOf[str, str]], SoC], ranges: Sequence[Range], workload: Workload,
    mappings: Sequence[Mapping], seed: int = 0, corners: int = CORNERS, engine: str = "fast",
    report: Report = untold,
) -> Ranged:  # fmt: skip
    """Simulate mappings of a workload over the ranges of a SoC's figures.

    load: the SoC with some of its values replaced, by path, as text. The mappings stay as they are; what they leave to
    the tiler it fills in for each SoC. Raises InputError where there are no ranges, where two mappings have one name,
    or where a SoC within them cannot run a mapping.
    """
    if not ranges:
        raise InputError("the SoC file states no ranges that are not fixed by --set, such as `# assumed, 4 .. 8: why`")
    names = [mapping.name for mapping in mappings]
    if len(set(names)) < len(names):
        raise InputError(f"the mappings are called {', '.join(names)}; give each a name of its own")

    def run(values: Values) -> dict[str, Figures]:
        try:
            soc = load({path: repr(value) for path, value in values.items()})
            return {mapping.name: figures(soc, workload, mapping, engine) for mapping in mappings}
        except InputError as error:
            where = ", ".join(f"{path}={value}" for path, value in values.items())
            raise InputError(f"with {where or 'the file as it is'}: {error}") from None

    drawn = list(_corners(ranges, corners, random.Random(seed)))
    total, done = 1 + 2 * len(ranges) + len(drawn), itertools.count(1)

    def seen(values: Values, what: str) -> dict[str, Figures]:
        out = run(values)
        report(next(done), total, what)
        return out

    nominal = seen({}, "as the file has it")
    ends = {one.path: tuple(seen({one.path: end}, one.path) for end in (one.low, one.high)) for one in ranges}
    at_corners = [seen(corner, "corners") for corner in drawn]
    everything = [nominal, *(figure for pair in ends.values() for figure in pair), *at_corners]
    fastest = _fastest(nominal)
    flips = tuple(
        _flip(one, end, winner, fastest, run)
        for one in ranges
        for end, winner in zip((one.low, one.high), map(_fastest, ends[one.path]), strict=True)
        if winner != fastest
    )
    winners = [_fastest(corner) for corner in at_corners]
    return Ranged(
        tuple(ranges), len(drawn), 2 ** len(ranges), seed,
        tuple(_spread(name, nominal, ends, everything) for name in names),
        fastest, {name: winners.count(name) for name in names}, flips,
    )  # fmt: skip


def _corners(ranges: Sequence[Range], most: int, rng: random.Random) -> Iterator[Values]:
    """All corners where there are no more than `most`; else so many different ones, drawn."""
    if 2 ** len(ranges) <= most:
        for ends in itertools.product(*((one.low, one.high) for one in ranges)):
            yield {one.path: end for one, end in zip(ranges, ends, strict=True)}
        return
    for number in rng.sample(range(2 ** len(ranges)), most):
        yield {one.path: one.high if number >> i & 1 else one.low for i, one in enumerate(ranges)}


def _fastest(found: MappingOf[str, Figures]) -> str:
    """The mapping of the least latency, the first named of several."""
    return min(found, key=lambda name: found[name].latency_s)


def _flip(one: Range, end: int | float, winner: str, fastest: str, run: Run) -> Flip:
    """The turning point between a figure's value and an end of its range, at which `winner` is the fastest mapping and
    no longer `fastest`."""
    whole = type(one.value) is int
    near: int | float = 1 if whole else abs(end - one.value) / 2**STEPS
    same, other = one.value, end
    while abs(other - same) > near:
        middle = (same + other) // 2 if whole else (same + other) / 2
        found = _fastest(run({one.path: middle}))
        if found == fastest:
            same = middle
        else:
            other, winner = middle, found
    return Flip(one.path, other, winner)


def _spread(
    name: str, nominal: MappingOf[str, Figures], ends: MappingOf[str, Sequence[MappingOf[str, Figures]]],
    everything: Sequence[MappingOf[str, Figures]],
) -> Spread:  # fmt: skip
    seconds = [found[name].latency_s for found in everything]
    joules = [found[name].energy_j for found in everything]
    effects = [
        Effect(path, (low[name].latency_s, high[name].latency_s), (low[name].energy_j, high[name].energy_j))
        for path, (low, high) in ends.items()
    ]
    return Spread(
        name,
        Interval(nominal[name].latency_s, min(seconds), max(seconds)),
        Interval(nominal[name].energy_j, min(joules), max(joules)),
        tuple(sorted(effects, key=lambda one: -abs(one.seconds[1] - one.seconds[0]))),
    )


def to_json(ranged: Ranged) -> dict[str, Any]:
    """The same as plain data; seconds, joules, and figures in their own units."""
    return asdict(ranged)


__all__ = ["CORNERS", "Effect", "Flip", "Interval", "Ranged", "Spread", "over_ranges", "to_json"]
