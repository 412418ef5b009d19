"""Chips of the PULP family by what was measured: RedMulE's RTL, GAP8's MobileNets, GAP9's MLPerf Tiny.

    python benchmarks/pulp.py [--data DIR] [--json FILE]

With --data each set's rows come from DIR/SET/train.csv, else from the few that come with cosoc. Errors are relative to
what was measured, means of their sizes; RedMulE's by the share of refused grants, networks of GAP8 by version.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from common import arguments, state, write_json
from rich.console import Console
from rich.table import Table

from cosoc.sim.truth import SETS
from cosoc.sim.truth.compared import Compared, TruthSet

PULP = ("redmule_rtl", "gap8_mobilenets", "gap9_mlperf_tiny")


def rows_of(truth: TruthSet, data: Path | None) -> Sequence[Mapping[str, str]]:
    """A set's rows, from its table where there is one."""
    if data is None:
        return truth.built_in
    with (data / truth.name / "train.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def group(truth: TruthSet, row: Mapping[str, str]) -> str:
    """What a row's error is averaged with."""
    if truth.name == "redmule_rtl":
        return f"{float(row['stall_probability']):.0%} of grants refused"
    return row["network"][: len("MobileNet V1")] if truth.name == "gap8_mobilenets" else row["operating_point"]


def mean_error(pairs: Sequence[tuple[float, float]]) -> float:
    """The mean size of (ours - measured) / measured."""
    return fmean(abs(ours / measured - 1) for measured, ours in pairs)


def summary(name: str, found: Sequence[Compared]) -> dict[str, Any]:
    """The errors of some rows."""
    errors = [abs(one.ours / one.measured - 1) for one in found]
    joules = [
        (one.energy_measured_j, one.energy_ours_j) for one in found if one.energy_measured_j and one.energy_ours_j
    ]
    out: dict[str, Any] = {"rows": name, "n": len(found), "mean": fmean(errors), "worst": max(errors)}
    return out | {"energy": mean_error(joules) if joules else None}  # type: ignore[arg-type]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, metavar="DIR", help="a folder with SET/train.csv for each set")
    args = parser.parse_args()
    state()
    figures: dict[str, Any] = {}
    for name in PULP:
        truth = next(one for one in SETS if one.name == name)
        rows = rows_of(truth, args.data)[:: 10 if args.quick and name == "redmule_rtl" else 1]
        found = list(truth.compare(rows))
        groups = [group(truth, row) for row in rows]
        sums = [summary(key, [one for one, its in zip(found, groups, strict=True) if its == key])
                for key in dict.fromkeys(groups)]  # fmt: skip
        sums.append(summary("all", found))
        each = [
            {"label": one.label, "measured": one.measured, "ours": one.ours, "energy_measured_j": one.energy_measured_j,
             "energy_ours_j": one.energy_ours_j} for one in found
        ]  # fmt: skip
        figures[name] = {"unit": truth.unit, "sums": sums, "rows": each}
        table = Table(title=f"{name}: {truth.about}")
        for column in ("rows", "n", "mean", "worst", "energy"):
            table.add_column(column, justify="left" if column == "rows" else "right")
        for row in sums:
            energy = "-" if row["energy"] is None else f"{row['energy']:.1%}"
            table.add_row(row["rows"], str(row["n"]), f"{row['mean']:.1%}", f"{row['worst']:.1%}", energy)
        Console(width=120).print(table)
    write_json(args.json, figures)


if __name__ == "__main__":
    main()
