"""The arithmetic of plans: `cols: rows`, `size_bytes: 8 * 1024 * cores.cluster.cores`, `rows * cols <= 1024`.

    condition = sum (<= | < | >= | > | == | !=) sum
    sum       = product {(+ | -) product}
    product   = factor {(* | /) factor}
    factor    = number | name | - factor | ( sum )

A number is decimal, without an exponent; a name is a path of a file, or the end of one. Values are exact fractions.
Nothing else is read, and nothing is evaluated by Python.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from cosoc.sim.errors import InputError

MOST = 300  # characters: formulas are a line, and parentheses within one are no deeper than Python's stack bears
DEEPEST = 30
_TOKEN = re.compile(r"\s*(?:(\d[\d_]*(?:\.\d+)?)|([A-Za-z_][\w.]*)|(<=|>=|==|!=|[-+*/()<>]))")

Value = Fraction | bool
Look = Callable[[str], Fraction]
_OPERATORS: Mapping[str, Callable[[Any, Any], Any]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv, "<=": operator.le,
    "<": operator.lt, ">=": operator.ge, ">": operator.gt, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip
COMPARISONS = ("<=", ">=", "==", "!=", "<", ">")


@dataclass(frozen=True)
class Expression:
    """A formula as it was written. names: in the order in which they stand in it."""

    text: str
    names: tuple[str, ...]
    tree: Any  # a Fraction, a name, or (operator, left, right)

    def value(self, look: Look) -> Value:
        """The value, given those of names. ZeroDivisionError where it divides by zero."""
        found: Value = _value(self.tree, look)
        return found


def _value(tree: Any, look: Look) -> Any:
    if isinstance(tree, tuple):
        name, left, right = tree
        return _OPERATORS[name](_value(left, look), _value(right, look))
    return look(tree) if isinstance(tree, str) else tree


def parsed(text: str, condition: bool = False) -> Expression:
    """A formula, or a condition. InputError says what was found instead, and at which character."""
    return _Parser(text, condition).expression


class _Parser:
    """Reads one formula from left to right."""

    def __init__(self, text: str, condition: bool) -> None:
        self.text, self.at, self.depth = text, 0, 0
        self.names: list[str] = []
        if len(text) > MOST:
            raise InputError(f"a formula of {len(text)} characters; at most {MOST} are read")
        self.next()
        tree = self.sum()
        if condition:
            if self.token not in COMPARISONS:
                raise self.wrong("a comparison is needed, such as rows * cols <= 1024")
            name = self.token
            self.next()
            tree = (name, tree, self.sum())
        if self.token:
            right = "a formula of numbers, names, + - * / and parentheses" if not condition else "one comparison"
            raise self.wrong(f"{right} is needed")
        self.expression = Expression(text, tuple(dict.fromkeys(self.names)), tree)

    def wrong(self, right: str) -> InputError:
        found = f"found {self.token!r} at character {self.start + 1}" if self.token else "it ends there"
        return InputError(f"{self.text!r}: {found}; {right}")

    def next(self) -> None:
        """Step on to the next token; '' at the end."""
        rest = self.text[self.at :]
        found = _TOKEN.match(rest)
        self.start = self.at + len(rest) - len(rest.lstrip())
        if found is None:
            self.token, self.kind = rest.strip()[:1], 0
            self.at = len(self.text)
            if self.token:
                raise self.wrong("numbers, names, + - * / and parentheses are read")
            return
        self.token, self.kind = found[0].strip(), found.lastindex or 0
        self.at += found.end()

    def sum(self) -> Any:
        tree = self.product()
        while self.token in ("+", "-"):
            tree = self._with(tree, self.product)
        return tree

    def product(self) -> Any:
        tree = self.factor()
        while self.token in ("*", "/"):
            tree = self._with(tree, self.factor)
        return tree

    def _with(self, left: Any, right: Callable[[], Any]) -> Any:
        name = self.token
        self.next()
        return (name, left, right())

    def factor(self) -> Any:
        token, kind = self.token, self.kind
        self.depth += 1
        if self.depth > DEEPEST:
            raise self.wrong(f"at most {DEEPEST} levels of parentheses and signs are read")
        if token in ("-", "("):
            self.next()
            tree = ("-", Fraction(0), self.factor()) if token == "-" else self.sum()
            if token == "(":
                if self.token != ")":
                    raise self.wrong("a closing parenthesis is needed")
                self.next()
        elif token and kind in (1, 2):
            tree = Fraction(token.replace("_", "")) if kind == 1 else token
            if kind == 2:
                self.names.append(token)
            self.next()
        else:
            raise self.wrong("a number, a name or a parenthesis is needed")
        self.depth -= 1
        return tree
