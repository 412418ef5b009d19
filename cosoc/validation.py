"""`cosoc validate`: sets of measured rows beside what the simulator says of them, as a table, JSON and a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table as RichTable

from cosoc import __version__
from cosoc.search.search_page import BLUE, ORANGE, chart, series
from cosoc.sim.errors import InputError
from cosoc.sim.model.soc import SoC
from cosoc.sim.progress import Report
from cosoc.sim.report import run_page
from cosoc.sim.truth import SETS
from cosoc.sim.truth.compared import Compared, TruthSet
from cosoc.sim.truth.own import own_set
from cosoc.sim.truth.score import FAR, Errors, of_energies, of_peers, of_rows
from cosoc.sim.truth.tables import Table, read_table

if TYPE_CHECKING:
    from pandas import DataFrame

SHOWN_FAR = 8  # rows that are far off, by set, on a terminal
BUILT_IN = "built in"


@dataclass(frozen=True)
class Source:
    """A table of a set: where it is from, and its rows as text by column."""

    where: str
    rows: Sequence[dict[str, str]]


@dataclass(frozen=True, repr=False)
class Outcome:
    """A set and its rows, simulated. rows is empty where no table of the set is at hand."""

    truth: TruthSet
    where: str
    rows: tuple[Compared, ...]

    @property
    def exceeds(self) -> bool:
        """Whether its error is above the one claimed, both to a tenth of a per cent."""
        return bool(self.rows) and round(100 * of_rows(self.rows).mape, 1) > round(100 * self.truth.claim_mape, 1)

    def __repr__(self) -> str:
        if not self.rows:
            return f"{self.truth.name}: no rows at hand"
        error = of_rows(self.rows).mape
        return f"{self.truth.name}: {len(self.rows)} rows, mean error {error:.1%}, claimed {self.truth.claim_mape:.1%}"


@dataclass(frozen=True, repr=False)
class Validation:
    """What holding the simulator against sets of measured rows gave: each set with its rows. `table()` is what
    `cosoc validate` shows; printed it is a line a set; `rows` are all rows as a frame of pandas."""

    outcomes: tuple[Outcome, ...]

    def __repr__(self) -> str:
        return "\n".join(map(repr, self.outcomes))

    def _repr_html_(self) -> str:
        from cosoc.views import preformatted

        return preformatted(self.table())

    def table(self) -> RenderableType:
        """Errors by set, for a terminal."""
        return table(self.outcomes)

    @property
    def rows(self) -> DataFrame:
        """A row for each that was measured: its set, what it is, measured and simulated."""
        from cosoc.views import frame

        return frame([{"set": one.truth.name} | _row_json(row) for one in self.outcomes for row in one.rows])


def validate(names: Sequence[str], data: Path | None, soc: SoC | None, report: Report) -> list[Outcome]:
    """Hold the simulator against the sets of these names (none: all), or against a user's own rows on a SoC.

    data: a file of rows, of one set; or a folder in which each set has its tables, as NAME/train.csv or under the names
    that they have where they come from. Rows that come with cosoc are taken where data has none. InputError where a set
    that is named has no rows, and for what a table says wrong, by file, row and column.
    """
    sets = _sets(names, data, soc)
    sources = [(truth, _sources(truth, data, truth.name in names or soc is not None)) for truth in sets]
    if not any(found for _, found in sources):
        where = f"{data} has no table of" if data else "give --data FILE or DIR with rows of"
        raise InputError(f"{where} {', '.join(truth.name for truth in sets)}; {_how(sets[0])}")
    total = sum(len(source.rows) for _, found in sources for source in found)
    done, out = 0, []
    for truth, found in sources:
        rows: list[Compared] = []
        for source in found:
            report(done, total, truth.name)
            try:
                for n, row in enumerate(truth.compare(source.rows), 1):
                    rows.append(row)
                    report(min(done + n, total), total, truth.name)
            except InputError as error:
                raise InputError(f"{truth.name if source.where == BUILT_IN else source.where}: {error}") from None
            done += len(source.rows)
        out.append(Outcome(truth, ", ".join(source.where for source in found), tuple(rows)))
    report(total, total, "validated")
    return out


def _sets(names: Sequence[str], data: Path | None, soc: SoC | None) -> list[TruthSet]:
    if soc is not None:
        if names or data is None or data.is_dir():
            raise InputError("--soc is for rows of your own: give --data FILE with them, and no set")
        return [own_set(soc)]
    known = {truth.name: truth for truth in SETS}
    for name in names:
        if name not in known:
            raise InputError(f"no set named {name!r}; there is {', '.join(known)}; rows of your own need --soc SOC")
    sets = [known[name] for name in dict.fromkeys(names)] or list(SETS)
    if data is None or data.is_dir() or len(sets) == 1:
        return sets
    columns = read_table(data, ()).columns
    fitting = [truth for truth in sets if truth.columns and set(truth.columns) <= set(columns)]
    if len(fitting) != 1:
        raise InputError(
            f"{data}: its columns are those of {len(fitting)} sets; name one of {', '.join(known)}, or give --soc SOC "
            "for rows of your own"
        )
    return fitting


def _sources(truth: TruthSet, data: Path | None, named: bool) -> list[Source]:
    """The tables of a set: those in `data`, else the built-in one, else none; InputError for a set that is named."""
    if data is not None and not data.is_dir():
        return [_source(read_table(data, truth.columns))]
    found = [] if data is None else _in_folder(truth, data, named)
    if not found and truth.built_in:
        return [Source(BUILT_IN, [dict(row) for row in truth.built_in])]
    if not found and named:
        raise InputError(f"{truth.name}: {f'nothing in {data}' if data else 'no rows come with cosoc'}; {_how(truth)}")
    return found


def _source(table: Table) -> Source:
    return Source(str(table.path), table.rows)


def _in_folder(truth: TruthSet, folder: Path, named: bool) -> list[Source]:
    """The set's tables in a folder of its own, or else in the folder itself: there a table counts if it has the set's
    columns, as other sets' may have its name."""
    own = [folder / truth.name / name for name in truth.files]
    if any(path.is_file() for path in own):
        return [_source(read_table(path, truth.columns)) for path in own if path.is_file()]
    beside = [read_table(folder / name, ()) for name in truth.files if (folder / name).is_file()]
    return [_source(table) for table in beside if (truth.columns or named) and set(truth.columns) <= set(table.columns)]


def _how(truth: TruthSet) -> str:
    needed = f"columns {', '.join(truth.columns)}" if truth.columns else f"a table such as {', '.join(truth.files)}"
    got = f"; to be had from {truth.how_to_get}" if truth.how_to_get else ""
    return f"{truth.name} takes {needed}{got}"


# ---------------------------------------------------------------------------------------------------------------------
# What is told


def to_json(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """By set that has rows: n, mape and median (fractions), spearman (None where nothing can be ranked), the same of
    energies where rows have them, and the rows, in the set's unit and in joules."""
    return {one.truth.name: _set_json(one) for one in outcomes if one.rows}


def _set_json(outcome: Outcome) -> dict[str, Any]:
    energy = of_energies(outcome.rows)
    return (
        _errors_json(of_rows(outcome.rows))
        | ({"energy": _errors_json(energy)} if energy else {})
        | {"rows": [_row_json(row) for row in outcome.rows]}
    )


def _errors_json(found: Errors) -> dict[str, Any]:
    return {"n": found.n, "mape": found.mape, "median": found.median, "spearman": found.spearman}


def _row_json(row: Compared) -> dict[str, Any]:
    out: dict[str, Any] = {"label": row.label, "measured": row.measured, "ours": row.ours}
    if row.energy_measured_j is not None:
        out |= {"energy_measured_j": row.energy_measured_j, "energy_ours_j": row.energy_ours_j}
    return out | ({"peers": dict(row.peers)} if row.peers else {})


def others_best(outcome: Outcome) -> str:
    """The best prediction of others, from the rows, or where they have none from what is published; empty where there
    is neither."""
    known = {one.who: (one.error, "") for one in outcome.truth.published}
    for who, one in of_peers(outcome.rows).items():
        known[who] = one.mape, f" ({one.n} of {len(outcome.rows)} rows)" if one.n < len(outcome.rows) else ""
    if not known:
        return ""
    who = min(known, key=lambda name: known[name])
    return f"{who} {known[who][0]:.1%}{known[who][1]}"


def far_rows(outcome: Outcome) -> list[Compared]:
    """Rows that are further off than FAR, the farthest (by ratio) first."""
    far = [row for row in outcome.rows if abs(row.ours / row.measured - 1) > FAR]
    return sorted(far, key=lambda row: -abs(math.log(row.ours / row.measured)))


def table(outcomes: Sequence[Outcome]) -> RenderableType:
    """All sets as one table, and below it what was fitted, what others reach, rows far off, and what is not at hand."""
    out = RichTable(box=None, padding=(0, 1, 0, 0))
    out.add_column("set", min_width=max(len(one.truth.name) for one in outcomes))
    for name in ("rows", "mean", "median", "10..90 %", "Spearman", "claimed", "energy"):
        out.add_column(name, justify="right")
    out.add_column("others' best")
    parts: list[RenderableType] = [out]
    for one in outcomes:
        if not one.rows:
            parts.append(f"not at hand: {_how(one.truth)}; give --data FILE or DIR")
            continue
        out.add_row(*_cells(one), style="bold" if one.exceeds else "")
        parts += _notes(one)
    return Group(*parts)


def _cells(outcome: Outcome) -> tuple[str, ...]:
    found, energy, claim = of_rows(outcome.rows), of_energies(outcome.rows), outcome.truth.claim_mape
    return (
        outcome.truth.name,
        str(found.n),
        f"{found.mape:.1%}",
        f"{found.median:.1%}",
        f"{found.low:+.0%} .. {found.high:+.0%}",
        "-" if found.spearman is None else f"{found.spearman:.4f}",
        f"{claim:.1%}" if math.isfinite(claim) else "-",
        f"{energy.mape:.1%}" if energy else "-",
        others_best(outcome) or "-",
    )


def _notes(outcome: Outcome) -> list[str]:
    truth, far = outcome.truth, far_rows(outcome)
    out = ["", f"{truth.name} ({outcome.where}): {truth.about}"]
    if truth.fitted:
        out.append(f"  fitted: {truth.fitted}")
    out += [f"  {one.who}: {one.error:.1%} on {one.source}" for one in truth.published]
    if far:
        out.append(f"  rows beyond {FAR:.0%}: {len(far)} of {len(outcome.rows)}")
        out += [f"    {_far(row, truth)}" for row in far[:SHOWN_FAR]]
        if len(far) > SHOWN_FAR:
            out.append(f"    and {len(far) - SHOWN_FAR} more: --json FILE and --html FILE have all rows")
    if outcome.exceeds:
        out.append(f"  the error is above the {truth.claim_mape:.1%} that is claimed")
    return out


def _far(row: Compared, truth: TruthSet) -> str:
    error = row.ours / row.measured - 1
    return f"{row.label}: {_number(row.ours)} {truth.unit}, measured {_number(row.measured)} ({error:+.0%})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def html(outcomes: Sequence[Outcome]) -> str:
    """A page with a section for each set: its figures, every row's error over what was measured, rows far off."""
    shown = [one for one in outcomes if one.rows]
    data = {
        "title": "Validation",
        "subtitle": f"{len(shown)} sets, {sum(len(one.rows) for one in shown)} rows, simulated by cosoc {__version__}",
        "charts": [_section(one) for one in shown],
        "provenance": [(one.truth.name, one.where or f"not at hand: {_how(one.truth)}") for one in outcomes],
    }
    return run_page.page(data)


def _section(outcome: Outcome) -> dict[str, Any]:
    truth, found, energy = outcome.truth, of_rows(outcome.rows), of_energies(outcome.rows)
    spread = f"10 to 90 % of rows {found.low:+.1%} to {found.high:+.1%}"
    about = [
        truth.about,
        f"Fitted: {truth.fitted or 'nothing'}.",
        f"{found.n} rows: mean error {found.mape:.1%}, median {found.median:.1%}, {spread}.",
        *([f"Energy of {energy.n} rows: mean error {energy.mape:.1%}."] if energy else []),
        *(f"{one.who}: {one.error:.1%}, {one.source}." for one in truth.published),
    ]

    def points(values: Sequence[tuple[Compared, float]]) -> list[tuple[float, float, str]]:
        return [
            (
                math.log10(row.measured),
                100 * (value / row.measured - 1),
                f"{row.label}\nmeasured {_number(row.measured)} {truth.unit}, predicted {_number(value)}",
            )
            for row, value in values
        ]

    ours = series("cosoc", BLUE, points([(row, row.ours) for row in outcome.rows]))
    others = series("others", ORANGE, points([(row, v) for row in outcome.rows for v in row.peers.values()]))
    drawn = chart(f"log10 of measured {truth.unit}", "error, %", ours, others)
    rows = [
        [
            row.label,
            _number(row.measured),
            _number(row.ours),
            f"{row.ours / row.measured - 1:+.1%}",
            *([_energy(row)] if energy else []),
        ]
        for row in sorted(outcome.rows, key=lambda row: -abs(math.log(row.ours / row.measured)))
    ]
    units = [f"measured, {truth.unit}", f"simulated, {truth.unit}"]
    head = ["row", *units, "error", *(["energy error"] if energy else [])]
    return {"title": truth.name, "about": " ".join(about), "charts": [drawn], "head": head, "rows": rows}


def _energy(row: Compared) -> str:
    if row.energy_measured_j is None or row.energy_ours_j is None:
        return "-"
    return f"{row.energy_ours_j / row.energy_measured_j - 1:+.1%}"
