"""Every set of measured rows beside what the simulator says of it, and README's table of that.

    python benchmarks/truth.py [SET ...] [--data DIR] [--quick] [--json FILE] [--readme]

What `cosoc validate` prints, without the rows, some of which may not be passed on. Sets that FILE has and that are not
run this time are kept in it. --readme writes README's table anew from FILE. --quick: the smaller sets alone (QUICK).
There is no randomness, hence no seed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common import arguments, state, write_json
from rich.console import Console

from cosoc.output import reporting
from cosoc.sim.truth import SETS
from cosoc.sim.truth.score import of_energies, of_rows
from cosoc.validation import Outcome, others_best, table, validate

ROOT = Path(__file__).resolve().parents[1]
README, RESULTS = ROOT / "README.md", ROOT / "benchmarks" / "results" / "truth.json"
QUICK = ("gap9_mlperf_tiny", "diana", "boards", "cim")  # whose rows come with cosoc
BEGIN, END = "<!-- written by benchmarks/truth.py -->\n", "<!-- up to here -->\n"


def figures(outcome: Outcome) -> dict[str, Any]:
    """A set's errors (fractions), and the best of what others predict."""
    energy = of_energies(outcome.rows)
    return (
        asdict(of_rows(outcome.rows))
        | ({"energy": asdict(energy)} if energy else {})
        | {"others": others_best(outcome)}
    )


def readme_table(results: Mapping[str, Any]) -> str:
    """README's table: a line for each set that has results."""
    lines = [
        "| set | held against | rows | mean error | median | rank correlation | energy | best of others |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for truth in SETS:
        if truth.name not in results:
            continue
        found = results[truth.name]
        energy = f"{found['energy']['mape']:.1%}" if "energy" in found else ""
        rank = "" if found["spearman"] is None else f"{found['spearman']:.3f}"
        errors = f"{found['mape']:.1%} | {found['median']:.1%}"
        lines.append(
            f"| `{truth.name}` | {truth.about} | {found['n']:,} | {errors} | {rank} | {energy} | {found['others']} |"
        )
    return "\n".join(lines).replace("%", " %") + "\n"


def write_readme(results: Mapping[str, Any]) -> None:
    text = README.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    README.write_text(before + BEGIN + readme_table(results) + END + after, encoding="utf-8")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("sets", nargs="*", metavar="SET", help="sets by name; default: all")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder with the sets' tables")
    parser.add_argument("--readme", action="store_true", help="write README's table anew from FILE")
    options = parser.parse_args()
    state()
    with reporting(quiet=False) as report:
        outcomes = validate(options.sets or (QUICK if options.quick else ()), options.data, None, report)
    Console(width=120).print(table(outcomes))
    path = options.json
    known = json.loads(path.read_text()) if path and path.exists() else {}
    results = known | {one.truth.name: figures(one) for one in outcomes if one.rows}
    results.pop("machine", None)
    write_json(path, results)
    if options.readme:
        write_readme(results)


if __name__ == "__main__":
    main()
