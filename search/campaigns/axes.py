"""The values of a SoC's or cluster's file that a plan sets: axes, values that follow from them, and which go together.

    set:
      cores.array.rows: [8, 16, 32]                    # an axis
      cores.array.cols: rows                           # follows
      memories.l1.size_bytes: 8 * 1024 * cores.array.rows
    where: [cores.array.rows * links.l2.bytes_per_period <= 512]

A name in a formula is an axis (or what follows from one) by its path or by an end of it that no other has; or else a
figure that the file states, by its path or, where it stands in the same section, by its key.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

from cosoc.search.campaigns.expression import Expression, parsed
from cosoc.sim.errors import InputError

Scalar = bool | int | float | str
Axes = Mapping[str, tuple[Scalar, ...] | str]
Settings = dict[str, str]  # path -> value as it would stand in the file


class FormulaError(InputError):
    """A formula means nothing. at: the path that it is of, or the number of a condition."""

    def __init__(self, at: str | int, what: str) -> None:
        super().__init__(what)
        self.at = at


class Grid:
    """All settings of one machine. content: its file as plain data. Raises FormulaError."""

    def __init__(self, axes: Axes, where: Sequence[str], content: Any) -> None:
        self.lists = {path: values for path, values in axes.items() if not isinstance(values, str)}
        formulas = {path: parsed(text) for path, text in axes.items() if isinstance(text, str)}
        self.content = content
        self.paths = tuple(axes)
        self.means = {path: {n: self._meant(n, path) for n in one.names} for path, one in formulas.items()}
        self.formulas = _in_order(formulas, self.means)
        self.where = [
            (one, {n: self._meant(n, i) for n in one.names}) for i, one in enumerate(parsed(w, True) for w in where)
        ]

    def _meant(self, name: str, at: str | int) -> str | Fraction:
        """What a name in a formula of path `at` stands for: another path of the grid, or a figure of the file."""
        ending = [path for path in self.paths if path == name or path.endswith(f".{name}")]
        exact = [path for path in ending if path == name]
        found = exact or ending
        if at in found and len(found) > 1:
            found = [path for path in found if path != at]
        if len(found) > 1:
            raise FormulaError(at, f"{name} may be {' or '.join(found)}; write more of the path")
        if found:
            return found[0]
        beside = [f"{at.rpartition('.')[0]}.{name}"] if isinstance(at, str) else []
        for path in (name, *beside):
            figure = _at(self.content, path)
            if isinstance(figure, int | float) and not isinstance(figure, bool):
                return Fraction(figure)
        known = ", ".join(self.paths)
        raise FormulaError(at, f"{name} is no axis (there is {known}), and no figure that the file states there")

    def __iter__(self) -> Iterator[Settings]:
        """Every combination that the conditions leave, the first axis slowest."""
        for values in itertools.product(*self.lists.values()):
            settings: dict[str, Scalar] = dict(zip(self.lists, values, strict=True))
            for path, formula in self.formulas.items():
                settings[path] = _plain(self._value(path, formula, self.means[path], settings))
            if all(self._value(i, one, means, settings) for i, (one, means) in enumerate(self.where)):
                yield {path: json.dumps(settings[path]) for path in self.paths}

    @staticmethod
    def _value(
        at: str | int, formula: Expression, means: Mapping[str, str | Fraction], settings: Mapping[str, Scalar]
    ) -> Any:
        def look(name: str) -> Fraction:
            meant = means[name]
            if isinstance(meant, Fraction):
                return meant
            value = settings[meant]
            if isinstance(value, str | bool):
                raise FormulaError(at, f"{formula.text}: {meant} is {value!r} there, no number")
            return Fraction(value)

        try:
            return formula.value(look)
        except ZeroDivisionError:
            raise FormulaError(at, f"{formula.text}: divides by zero") from None


def _in_order(
    formulas: Mapping[str, Expression], means: Mapping[str, Mapping[str, str | Fraction]]
) -> dict[str, Expression]:
    """Formulas, each behind those that it needs. InputError where they need one another."""
    out: dict[str, Expression] = {}
    left = dict(formulas)
    while left:
        ready = [path for path in left if not any(meant in left for meant in means[path].values())]
        if not ready:
            what = f"{' and '.join(left)} follow from one another; one of them needs values"
            raise FormulaError(next(iter(left)), what)
        out |= {path: left.pop(path) for path in ready}
    return out


def _plain(value: Fraction) -> Scalar:
    return int(value) if value.denominator == 1 else float(value)


def _at(content: Any, path: str) -> Any:
    for part in path.split("."):
        content = content.get(part) if isinstance(content, dict) else None
    return content
