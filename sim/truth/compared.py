"""What a set of truth is: a table of measured rows, and what the simulator says of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Compared:
    """A measured row beside what the simulator says of it."""

    label: str  # how tables name the row
    measured: float  # in the set's unit
    ours: float  # in the set's unit
    energy_measured_j: float | None = None
    energy_ours_j: float | None = None
    peers: Mapping[str, float] = field(default_factory=dict)  # what others predict, by name, in the set's unit


@dataclass(frozen=True)
class Published:
    """How far another's predictions are from such measurements."""

    who: str
    error: float  # a fraction
    source: str  # where that stands, and on which rows


@dataclass(frozen=True)
class TruthSet:
    """A table of measured rows and how to hold the simulator against it."""

    name: str  # gap9_mlperf_tiny
    unit: str  # "cycles", "s", "inferences/s" ...
    columns: tuple[str, ...]  # the columns that a table must have (more may be there)
    about: str  # one sentence: what was measured, where it comes from, its evidence class
    fitted: str  # what was fitted on which rows, "" if nothing
    claim_mape: float  # the error that README claims, a fraction; worse is exit status 1
    compare: Callable[[Sequence[Mapping[str, str]]], Iterator[Compared]]  # rows of the table, as text by column
    built_in: Sequence[Mapping[str, str]] = ()  # rows whose figures may be printed and come with cosoc
    published: tuple[Published, ...] = ()  # what others reach on these measurements or on their like
    files: tuple[str, ...] = (
        "train.csv",
    )  # paths of its tables below DIR/name or DIR, each optional; first wins there
    how_to_get: str = ""  # where the table can be had
