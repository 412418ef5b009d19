"""A user's own rows: networks that were timed on a SoC, in tables of

    workload, mapping, seconds [, joules, runtime, batch, source]

Names are those of `cosoc simulate`; paths are seen from the working directory. joules, runtime, batch and source may be
empty: no energy was measured, the mapping's runtime, 1, nobody says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from cosoc.sim.files.mapping_file import find_mapping
from cosoc.sim.files.workload_file import find_workload
from cosoc.sim.model.mapping import RUNTIMES, Runtime
from cosoc.sim.model.soc import SoC
from cosoc.sim.model.workload import Workload, multiplied
from cosoc.sim.report.result import Result
from cosoc.sim.simulate import simulate
from cosoc.sim.truth.cells import one_of, positive, positive_or_none, reading, refusal, text
from cosoc.sim.truth.compared import Compared, TruthSet

NEEDED = ("workload", "mapping", "seconds")
OPTIONAL = ("joules", "runtime", "batch", "source")


@dataclass(frozen=True)
class OwnRow:
    """A network that was timed: `seconds`, and `joules` where they were measured. number: of the row, from 1."""

    number: int
    workload: str
    mapping: str
    seconds: float
    joules: float | None
    runtime: Runtime | None
    batch: int

    @property
    def label(self) -> str:
        """How tables name the row."""
        words = (self.workload, self.mapping, *([self.runtime] if self.runtime else []))
        return ", ".join(words) + (f", batch {self.batch}" if self.batch > 1 else "")


def own_rows(rows: Sequence[Mapping[str, str]]) -> list[OwnRow]:
    """The rows of a table; InputError for a column that is not known, and for a cell that says nothing right."""
    for name in rows[0]:
        if name not in (*NEEDED, *OPTIONAL):
            raise refusal(1, name, name, f"no such column is known; known are {', '.join((*NEEDED, *OPTIONAL))}")
    return [_row(row, number) for number, row in enumerate(rows, 1)]


def _row(row: Mapping[str, str], number: int) -> OwnRow:
    batch = positive_or_none(row, number, "batch") or 1.0
    if not batch.is_integer():
        raise refusal(number, "batch", row["batch"], "a whole number is needed")
    runtime = one_of(row, number, "runtime", RUNTIMES) if (row.get("runtime") or "").strip() else None
    return OwnRow(
        number, text(row, number, "workload"), text(row, number, "mapping"), positive(row, number, "seconds"),
        positive_or_none(row, number, "joules"), runtime, int(batch),
    )  # fmt: skip


def run(row: OwnRow, soc: SoC) -> Result:
    """The row's network simulated on a SoC; InputError says which column names what is not there or does not fit."""
    with reading(row.number, "workload"):
        network = multiplied(_workload(row.workload), row.batch)
    with reading(row.number, "mapping"):
        mapping = find_mapping(row.mapping, network, soc, row.runtime)
        return simulate(soc, network, mapping)


@cache
def _workload(name: str) -> Workload:
    """Kept: a fit runs the same networks again and again."""
    return find_workload(name)


def compared(row: OwnRow, soc: SoC) -> Compared:
    """A row beside what the simulator says of it, s and J."""
    found = run(row, soc)
    return Compared(row.label, row.seconds, found.seconds, row.joules, None if row.joules is None else found.energy_j)


def own_set(soc: SoC) -> TruthSet:
    """The set that a user's rows are, on a SoC. Nothing is claimed of it."""

    def compare(rows: Sequence[Mapping[str, str]]) -> Iterator[Compared]:
        for row in own_rows(rows):
            yield compared(row, soc)

    return TruthSet(
        name=soc.name, unit="s", columns=NEEDED, about=f"Your own rows on {soc.name}.", fitted="",
        claim_mape=float("inf"), compare=compare,
    )  # fmt: skip
