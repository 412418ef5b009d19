"""Refit the open figures of a SoC file to networks that were timed on the chip, with the error of what was left out.

Open are numbers whose comment says `fitted`, or has a range (`# assumed, 4 .. 8: why`), and efficiencies. A figure
without a range may go to a third or to three times what it is. The fit is the most probable set of values: what a
simulated time misses is normal with a standard deviation of NOISE of its logarithm, and how far a figure is from what
the file says with one of PRIOR, so that rows which say nothing of a figure leave it where it was. Steps are Gauss and
Newton's, slopes are differences of simulations. There is no randomness, hence no seed.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Group, RenderableType
from rich.table import Table

from cosoc import __version__
from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc, list_socs, soc_folder, soc_ranges
from cosoc.sim.files.yamlfile import Range, read_text
from cosoc.sim.progress import Report
from cosoc.sim.truth.compared import Compared
from cosoc.sim.truth.own import OwnRow, compared
from cosoc.sim.truth.score import Errors, of_energies, of_rows

Floats = np.ndarray[Any, np.dtype[np.float64]]

NOISE, PRIOR = 0.1, 0.35  # standard deviations of logarithms: of a time or an energy, and of a figure
FREE = 3.0  # how far a figure without a range may go, up or down
LEAST = 1000.0  # of what a figure is, down to which it may go where its range begins at 0
SLOPE = 0.05  # of a figure, for the slopes of times
STEPS, FOLD_STEPS = 8, 3  # at most; a fold starts where the fit to all rows ended
CONVERGED = 1e-3  # of the cost
FOLDS = 10  # of more rows than that, a tenth is left out at once

_VALUE = re.compile(r"-?\d[\d_]*\.?\d*(?:[eE][-+]?\d+)?")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Open:
    """A figure of a SoC file that may be refitted. span: the range that the file states, or nothing. at,
    until: where its digits stand in the text; comment: what its line says of it."""

    path: str
    digits: str
    value: float
    low: float
    high: float
    whole: bool
    span: str
    at: int
    until: int
    comment: str

    def text(self, value: float) -> str:
        """A value as the file would have it: whole, or with four digits; its own as it stands there."""
        if math.isclose(value, self.value):
            return self.digits.replace("_", "")
        return str(max(1, round(value))) if self.whole else f"{value:.4g}"


@dataclass(frozen=True)
class Errs:
    """Errors of times, and of energies where they were measured."""

    times: Errors
    energies: Errors | None

    @staticmethod
    def of(rows: Sequence[Compared]) -> Errs:
        return Errs(of_rows(rows), of_energies(rows))


@dataclass(frozen=True)
class Refit:
    """figures: those on which a row depends, with their new values beside them. before, after: errors of all rows;
    left_out: each row predicted by a fit without it, None of a single row. text: of the new file."""

    soc: str
    figures: tuple[tuple[Open, float], ...]
    idle: tuple[Open, ...]
    before: Errs
    after: Errs
    left_out: Errs | None
    text: str = field(repr=False)


def open_figures(text: str, ranges: Sequence[Range]) -> list[Open]:
    """The figures of a SoC file that may be refitted, in its order. ranges: those that it states."""
    out: list[Open] = []
    stated = {one.path: one for one in ranges}
    lines = text.splitlines()

    def walk(node: yaml.Node, path: tuple[str, ...]) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                walk(value, (*path, key.value))
        elif isinstance(node, yaml.ScalarNode) and node.style is None and _VALUE.fullmatch(node.value):
            found = _open(node, ".".join(path), lines[node.start_mark.line], stated.get(".".join(path)))
            if found is not None:
                out.append(found)

    root = yaml.compose(text, Loader=yaml.SafeLoader)
    assert root is not None
    walk(root, ())
    return out


def _open(node: yaml.ScalarNode, path: str, line: str, given: Range | None) -> Open | None:
    comment = line[node.end_mark.column :].partition("#")[2].strip()
    value = float(node.value.replace("_", ""))
    if value <= 0 or not (given or comment.startswith("fitted") or "efficiency" in path.split(".")):
        return None
    low, high = (given.low, given.high) if given else (value / FREE, value * FREE)
    low = max(low, value / LEAST)  # steps are of logarithms
    whole = not set(node.value) & set(".eE")
    return Open(
        path=path, digits=node.value, value=value, low=low, high=high, whole=whole,
        span=f"{given.low} .. {given.high}" if given else "", at=node.start_mark.index, until=node.end_mark.index,
        comment=comment,
    )  # fmt: skip


def soc_path(name: str) -> Path:
    """The file of a SoC by name or path."""
    return soc_folder() / f"{name}.yaml" if name in list_socs() else Path(name)


class _Problem:
    """Misses of the rows as functions of the figures. Values are logarithms over the file's; simulations are kept."""

    def __init__(self, path: Path, figures: Sequence[Open], rows: Sequence[OwnRow], count: Callable[[], None]) -> None:
        self.path, self.figures, self.rows, self.count = path, list(figures), rows, count
        self.known: dict[tuple[str, ...], list[Compared] | None] = {}

    def limited(self, at: Floats) -> Floats:
        """The values within their ranges."""
        low = np.log([one.low / one.value for one in self.figures])
        high = np.log([one.high / one.value for one in self.figures])
        out: Floats = np.clip(at, low, high)
        return out

    def texts(self, at: Floats) -> tuple[str, ...]:
        return tuple(one.text(one.value * float(np.exp(x))) for one, x in zip(self.figures, at, strict=True))

    def rounded(self, at: Floats) -> Floats:
        """The values that the texts stand for."""
        values = [float(text) / one.value for text, one in zip(self.texts(at), self.figures, strict=True)]
        out: Floats = np.log(np.array(values))
        return out

    def run(self, at: Floats) -> list[Compared] | None:
        """All rows under these values; None where the SoC cannot have them."""
        texts = self.texts(at)
        if texts not in self.known:
            self.count()
            pairs = zip(self.figures, texts, strict=True)
            # what is as it was is not overridden: rows have to be found wrong by their own errors, not by the fit's
            changed = {one.path: text for one, text in pairs if float(text) != one.value}
            try:
                soc = find_soc(str(self.path), changed)
                self.known[texts] = [compared(row, soc) for row in self.rows]
            except InputError:
                if not changed:
                    raise
                self.known[texts] = None
        return self.known[texts]

    def misses(self, at: Floats) -> Floats | None:
        """log(simulated / measured) [rows, 2] of times and energies; 0 where no energy was measured."""
        found = self.run(at)
        if found is None:
            return None
        out = np.zeros((len(found), 2))
        for i, row in enumerate(found):
            out[i, 0] = np.log(row.ours / row.measured)
            if row.energy_measured_j is not None and row.energy_ours_j is not None:
                out[i, 1] = np.log(row.energy_ours_j / row.energy_measured_j)
        return out

    def slopes(self, at: Floats) -> Floats:
        """Changes of the misses with each value [rows, 2, figures]; 0 where a figure cannot be moved."""
        base = self.misses(at)
        assert base is not None
        out = np.zeros((*base.shape, len(self.figures)))
        for i, one in enumerate(self.figures):
            now = one.value * float(np.exp(at[i]))
            step = max(SLOPE, 1.001 / now if one.whole else 0.0)
            for factor in (1 + step, 1 / (1 + step) if not one.whole else max(1 - step, 1 / now)):
                moved = at.copy()
                moved[i] += np.log(factor)
                moved = self.rounded(self.limited(moved))
                found = self.misses(moved) if moved[i] != at[i] else None
                if found is not None:
                    out[:, :, i] = (found - base) / (moved[i] - at[i])
                    break
        return out

    def cost(self, at: Floats, weights: Floats) -> float:
        found = self.misses(at)
        if found is None:
            return float("inf")
        return float(weights @ (found**2).sum(axis=1)) / NOISE**2 + float((at**2).sum()) / PRIOR**2

    def stepped(self, at: Floats, slopes: Floats, weights: Floats) -> Floats:
        """A step of Gauss and Newton, halved until it helps; `at` itself where it does not."""
        found = self.misses(at)
        assert found is not None
        flat = slopes.reshape(-1, slopes.shape[2])
        each = np.repeat(weights, 2) / NOISE**2
        matrix = flat.T @ (flat * each[:, None]) + np.eye(len(at)) / PRIOR**2
        full = np.linalg.solve(matrix, flat.T @ (each * found.ravel()) + at / PRIOR**2)
        best = self.cost(at, weights)
        for part in (1.0, 0.5, 0.25, 0.125):
            tried = self.rounded(self.limited(at - part * full))
            if self.cost(tried, weights) < best * (1 - CONVERGED):
                return tried
        return at


def refit(soc: str, rows: Sequence[OwnRow], source: Path, report: Report | None = None) -> Refit:
    """Refit a SoC by name or file to rows, which came from `source`. InputError where nothing in it is open, and where
    no row depends on what is."""
    path = soc_path(soc)
    find_soc(str(path))  # what is wrong with it is said by its own reader
    text = read_text(path)
    everything = open_figures(text, soc_ranges(soc))
    if not everything:
        raise InputError(
            f"{path}: nothing in it may be refitted; say so behind a number: `# fitted: to what`, or with a range "
            "`# assumed, 4 .. 8: why`"
        )
    folds = _folds(len(rows))
    total = (len(everything) + 1) + (STEPS - 1) + len(folds) * FOLD_STEPS
    runs = 0

    def count() -> None:
        nonlocal runs, total
        runs += 1
        total = max(total, runs + 1)
        if report is not None:
            report(runs, total, "simulating what was measured")

    start = np.zeros(len(everything))
    slopes = (first := _Problem(path, everything, rows, count)).slopes(start)
    moving = [bool(np.any(slopes[:, :, i])) for i in range(len(everything))]
    figures = [one for one, moves in zip(everything, moving, strict=True) if moves]
    if not figures:
        raise InputError(f"{path}: no row depends on what may be refitted: {', '.join(o.path for o in everything)}")
    total += (STEPS - 1) * len(figures)
    before = first.run(start)
    assert before is not None
    problem = _Problem(path, figures, rows, count)
    at, slopes = _fitted(problem, slopes[:, :, moving])
    after = problem.run(at)
    assert after is not None
    left_out = _left_out(problem, at, slopes, folds)
    values = tuple((one, float(text)) for one, text in zip(figures, problem.texts(at), strict=True))
    errors = Errs.of(before), Errs.of(after), Errs.of(left_out) if left_out else None
    idle = tuple(one for one, moves in zip(everything, moving, strict=True) if not moves)
    if report is not None:
        report(total, total, "fitted")
    return Refit(soc, values, idle, *errors, _rewritten(text, soc, values, source, rows, errors))


def _fitted(problem: _Problem, slopes: Floats) -> tuple[Floats, Floats]:
    """The most probable values, and the slopes there."""
    at, weights = np.zeros(len(problem.figures)), np.ones(len(problem.rows))
    for _ in range(STEPS):
        now = problem.stepped(at, slopes, weights)
        if (now == at).all():
            break
        at, slopes = now, problem.slopes(now)
    return at, slopes


def _folds(n: int) -> list[list[int]]:
    """Rows by the fold that leaves them out; none for a single row."""
    return [list(range(i, n, FOLDS)) for i in range(min(n, FOLDS))] if n > 1 else []


def _left_out(problem: _Problem, at: Floats, slopes: Floats, folds: Sequence[Sequence[int]]) -> list[Compared]:
    """Each row as a fit without it has it. A fold keeps the slopes of the fit to all."""
    out: dict[int, Compared] = {}
    for left in folds:
        weights = np.ones(len(problem.rows))
        weights[list(left)] = 0.0
        here = at
        for _ in range(FOLD_STEPS):
            now = problem.stepped(here, slopes, weights)
            if (now == here).all():
                break
            here = now
        found = problem.run(here)
        assert found is not None
        out |= {i: found[i] for i in left}
    return [out[i] for i in sorted(out)]


# ---------------------------------------------------------------------------------------------------------------------
# The file, and what is told


def _rewritten(
    text: str,
    soc: str,
    values: Sequence[tuple[Open, float]],
    source: Path,
    rows: Sequence[OwnRow],
    errors: tuple[Errs, Errs, Errs | None],
) -> str:
    """The file with new values, each with its former one behind it, and a head that says what they were fitted to."""
    changed = {one.at: (one, value) for one, value in values if value != one.value}
    for at in sorted(changed, reverse=True):
        one, value = changed[at]
        end = text.find("\n", one.until)
        tail = text[one.until : end if end >= 0 else len(text)]
        span = f", {one.span}" if one.span else ""
        former = f"{one.comment[one.comment.find(':') + 1 :].strip() if ':' in one.comment else one.comment}"
        comment = f"# fitted{span}: to {source.name}, was {text[one.at : one.until]}: {former}"
        longer = len(one.text(value)) - (one.until - one.at)
        gap = " " * max(2, len(tail.partition("#")[0]) - longer)
        text = text[: one.at] + one.text(value) + gap + comment + text[one.until + len(tail) :]
    digest = hashlib.sha256(read_text(source).encode()).hexdigest()[:16]
    before, after, left_out = errors
    told = f"mean error of times before {before.times.mape:.1%}, after {after.times.mape:.1%}"
    told += f", of rows left out {left_out.times.mape:.1%}" if left_out else ", none left out"
    data = f"{source.name} ({len(rows)} rows, sha256 {digest})"
    head = f"# Refitted by cosoc {__version__} from {soc} to {data}:\n# {told}.\n"
    first, newline, rest = text.partition("\n")
    return first + newline + head + rest if first.startswith("# yaml-language-server") else head + text


def renamed(text: str, out: Path) -> str:
    """The file with the name under which it is written, where that can be a SoC's name."""
    if not _NAME.fullmatch(out.stem):
        return text
    return re.sub(r"^name:\s*\S+", f"name: {out.stem}", text, count=1, flags=re.M)


def table(found: Refit) -> RenderableType:
    """The figures before and after, and the errors."""
    out = Table("figure", "was", "is", "range", box=None, padding=(0, 1, 0, 0))
    for one, value in found.figures:
        span = f"{one.low:.4g} .. {one.high:.4g}"
        out.add_row(one.path, one.text(one.value), one.text(value) if value != one.value else "the same", span)
    errors = Table("errors", "rows", "before", "after", "left out", box=None, padding=(0, 1, 0, 0))
    left_out = found.left_out
    kinds = [("time", found.before.times, found.after.times, left_out and left_out.times)]
    if found.before.energies and found.after.energies:
        kinds.append(("energy", found.before.energies, found.after.energies, left_out and left_out.energies))
    for name, before, after, left in kinds:
        shown = f"{left.mape:.1%}" if left else "-"
        errors.add_row(name, str(before.n), f"{before.mape:.1%}", f"{after.mape:.1%}", shown)
    notes = [f"no row depends on {', '.join(one.path for one in found.idle)}"] if found.idle else []
    if left_out and left_out.times.mape >= found.before.times.mape:
        notes.append("rows left out are no nearer than before: the new values say nothing of other networks")
    return Group(out, "", errors, *notes)


def to_json(found: Refit) -> dict[str, Any]:
    """Figures and errors (fractions) as plain data."""

    def errs(one: Errs | None) -> dict[str, Any] | None:
        if one is None:
            return None
        return {"mape": one.times.mape, "median": one.times.median} | (
            {"energy_mape": one.energies.mape} if one.energies else {}
        )

    return {
        "soc": found.soc,
        "rows": found.before.times.n,
        "figures": {one.path: {"was": one.value, "is": value} for one, value in found.figures},
        "no_row_depends_on": [one.path for one in found.idle],
        "before": errs(found.before),
        "after": errs(found.after),
        "left_out": errs(found.left_out),
    }
