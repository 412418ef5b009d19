"""Mutants of sim/: cosmic-ray's operators applied to places drawn from all that can be mutated. For mutants.py."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from operator import itemgetter
from pathlib import Path
from random import Random
from typing import Any

# What a run of the program cannot show, by the name of what is called or decorated.
NO_EFFECT = {
    "njit": "compiling changes speed alone", "intrinsic": "compiling changes speed alone",
    "cache": "remembering changes speed alone", "lru_cache": "remembering changes speed alone",
    "overload": "for type checkers alone", "abstractmethod": "for type checkers alone",
    "runtime_checkable": "for type checkers alone",
}  # fmt: skip
ANNOTATION = "annotations are for type checkers alone"


COMPILED = ("njit", "intrinsic", "lower_builtin", "type_callable")
MODULE = (0, 0)  # in place of the lines of what runs when a module is imported


@dataclass(frozen=True)
class Place:
    """Where a file can be mutated: positions (line, column), (operator, which of its ways at the node), and what tells
    it from all others wherever its line stands."""

    file: str
    start: tuple[int, int]
    end: tuple[int, int]
    ways: tuple[tuple[str, int], ...]
    told_by: str = ""


@dataclass(frozen=True)
class Mutant:
    """One change of one file. file: from the root of the tree; within: the function or class around, "" for none;
    lines: those whose tests count: the statement's, the whole function's for a default, MODULE; was, becomes: the
    lines that change; compiled: whether kernels must be compiled anew; source: the whole file, changed."""

    file: str
    within: str
    operator: str
    line: int
    lines: tuple[int, int]
    was: str
    becomes: str
    compiled: bool
    source: str


class Source:
    """A file as Python reads it: what stands around a position."""

    def __init__(self, tree: Path, file: str) -> None:
        self.file, self.text = file, (tree / file).read_text()
        self.tree = ast.parse(self.text)

    @cached_property
    def left_out(self) -> list[tuple[tuple[int, int], tuple[int, int], str]]:
        """Spans that are not mutated, each with the reason."""
        out = []
        for node in ast.walk(self.tree):
            for part in (getattr(node, "annotation", None), getattr(node, "returns", None)):
                if isinstance(part, ast.expr):
                    out.append((*_span(part), ANNOTATION))
            for decorator in getattr(node, "decorator_list", ()):
                reason = NO_EFFECT.get(_called(decorator))
                if reason:
                    start, end = _span(decorator)
                    out.append(((start[0], start[1] - 1), (end[0] + 1, 0), reason))
        return out

    def reason(self, place: Place) -> str:
        """Why a place is left out; "" where it is not."""
        return next((why for start, end, why in self.left_out if start <= place.start and place.end <= end), "")

    def segment(self, line: int) -> tuple[int, int]:
        """First and last line of the statement of the module in which a line lies."""
        node = next(one for one in self.tree.body if _first(one) <= line <= (one.end_lineno or 0))
        return _first(node), node.end_lineno or 0

    def around(self, position: tuple[int, int]) -> tuple[str, tuple[int, int], bool]:
        """(names of the functions and classes around, lines whose tests count, whether compiled)."""
        names: list[str] = []
        lines, compiled, outermost, body = MODULE, "njit" in self.text, True, self.tree.body
        while True:
            node = next((one for one in body if _first(one) <= position[0] <= (one.end_lineno or 0)), None)
            if node is None:  # what belongs to no statement inside: a clause of try, a case
                return ".".join(names), lines and (position[0], position[0]), compiled
            body = [child for child in ast.walk(node) if isinstance(child, ast.stmt) and _is_child(node, child)]
            head = min((_first(child) for child in body), default=(node.end_lineno or 0) + 1) - 1
            if isinstance(node, FUNCTIONS | ast.ClassDef) and outermost:
                compiled, outermost = compiled and _compiled(node), False
            if isinstance(node, FUNCTIONS):
                names.append(node.name)
                lines = (_first(node), node.end_lineno or 0)  # defaults, decorators
            elif isinstance(node, ast.ClassDef):
                names.append(node.name)
            elif lines != MODULE:
                lines = (_first(node), max(head, node.lineno))
            if position[0] <= head:
                return ".".join(names), lines, compiled


FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef


def _compiled(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> bool:
    """Whether numba's compiler runs a function or class of a module that has kernels, or compiles it."""
    if isinstance(node, ast.ClassDef):
        return any(isinstance(base, ast.Attribute) for base in node.bases)  # of numba's types and models
    decorated = any(_called(decorator) in COMPILED for decorator in node.decorator_list)
    return decorated or any(argument.arg == "builder" for argument in node.args.args)


def _is_child(node: ast.AST, child: ast.stmt) -> bool:
    """Whether a statement stands inside another, and in no other between."""
    below = [other for other in ast.iter_child_nodes(node) if not isinstance(other, ast.stmt)]
    return any(other is child for other in ast.iter_child_nodes(node)) or any(_is_child(one, child) for one in below)


def _first(node: ast.stmt) -> int:
    decorators = getattr(node, "decorator_list", ())
    return min([node.lineno, *(d.lineno for d in decorators)])


def _span(node: ast.expr | ast.stmt) -> tuple[tuple[int, int], tuple[int, int]]:
    return (node.lineno, node.col_offset), (node.end_lineno or 0, node.end_col_offset or 0)


def _called(node: ast.expr) -> str:
    if isinstance(node, ast.Call):
        node = node.func
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


# ---------------------------------------------------------------------------------------------------------------------
# Places


@cache
def _operators() -> dict[str, Any]:
    """cosmic-ray's operators by name, but those that ask for arguments."""
    from cosmic_ray.operators.provider import OperatorProvider

    provider = OperatorProvider()
    return {name: provider[name]() for name in provider if not provider[name].arguments()}


def _for(node: Any) -> list[str]:
    """The operators that could apply to a node, by its type: asking all of them takes minutes."""
    from cosmic_ray.operators.binary_operator_replacement import BinaryOperators

    if node.type == "operator":
        known = {one.value: one.name for one in BinaryOperators}
        start = f"ReplaceBinaryOperator_{known[node.value]}_" if node.value in known else "none"
    else:
        kinds = {"comparison": "ReplaceComparison", "factor": "ReplaceUnary", "not_test": "ReplaceUnary"}
        kinds |= {"number": "NumberReplacer", "name": "none", "string": "none", "newline": "none"}
        start = kinds.get(node.type, "")
    return _starting(start, bool(start))


@cache
def _starting(start: str, replaced: bool) -> list[str]:
    apart = ("ReplaceBinary", "ReplaceComparison", "ReplaceUnary", "NumberReplacer")
    return [name for name in _operators() if (name.startswith(start) if replaced else not name.startswith(apart))]


def places(tree: Path, files: list[str]) -> Iterator[Place]:
    """Every place of some files."""
    from cosmic_ray.ast import ast_nodes, get_ast

    for file in files:
        found: dict[tuple[tuple[int, int], tuple[int, int]], list[tuple[str, int]]] = {}
        text, alike = (tree / file).read_text(), Counter[str]()
        lines = text.splitlines()
        for node in ast_nodes(get_ast(text)):
            for name in _for(node):
                for way, (start, end) in enumerate(_operators()[name].mutation_positions(node)):
                    found.setdefault((start, end), []).append((name, way))
        for (start, end), ways in sorted(found.items()):
            line = lines[start[0] - 1]
            indent = len(line) - len(line.lstrip())
            told = f"{file} {line.strip()} {start[1] - indent} {end[1] - indent}"
            alike[told] += 1
            yield Place(file, start, end, tuple(ways), f"{told} {alike[told]}")


def drawn(found: list[Place], seed: int) -> Iterator[tuple[Place, str, int]]:
    """All places in a random order, each with one of its ways to mutate it: (place, operator, way). Each draws its own
    rank, so that those of code that stays are drawn again when other code changes."""
    dice = {place: Random(f"{seed} {place.told_by}") for place in found}
    for _, place in sorted(((rng.random(), place) for place, rng in dice.items()), key=itemgetter(0)):
        yield place, *dice[place].choice(place.ways)


def mutant(source: Source, place: Place, operator: str, way: int) -> Mutant | None:
    """The mutant of a place; none where it is the same program, or is no program."""
    first, last = source.segment(place.start[0])
    lines = source.text.splitlines(keepends=True)
    before = "".join(lines[first - 1 : last])
    after = _mutated(before, place, first - 1, operator, way)
    try:
        if ast.dump(ast.parse(after)) == ast.dump(ast.parse(before)):
            return None
    except SyntaxError:
        return None
    within, counted, compiled = source.around(place.start)
    was, becomes = _changed(before, after)
    text = "".join(lines[: first - 1]) + after + "".join(lines[last:])
    return Mutant(place.file, within, operator, place.start[0], counted, was, becomes, compiled, text)


def _mutated(code: str, place: Place, above: int, operator: str, way: int) -> str:
    """The code of a statement, mutated at a place of the file in which so many lines stand above it."""
    from cosmic_ray.ast import ast_nodes, get_ast

    tree, one = get_ast(code), _operators()[operator]
    wanted = (place.start[0] - above, place.start[1]), (place.end[0] - above, place.end[1])
    for node in ast_nodes(tree):
        if operator in _for(node):
            spans = list(one.mutation_positions(node))
            if len(spans) > way and spans[way] == wanted:
                mutated = one.mutate(node, way)
                if mutated is not node:
                    siblings = node.parent.children
                    siblings[siblings.index(node)] = mutated
                    siblings[:] = [child for child in siblings if child is not None]
                return str(tree.get_code())
    raise ValueError(f"{place}: {operator} finds nothing there")


def _changed(before: str, after: str) -> tuple[str, str]:
    """The lines that differ, their white space aside."""
    one, two = before.split("\n"), after.split("\n")
    both = min(len(one), len(two))
    first = next((i for i in range(both) if one[i] != two[i]), both)
    last = next((i for i in range(both - first) if one[-1 - i] != two[-1 - i]), both - first)
    was, becomes = one[first : max(len(one) - last, first + 1)], two[first : max(len(two) - last, first)]
    return _joined(was), _joined(becomes)


def _joined(lines: list[str]) -> str:
    return re.sub(r"\s+", " ", " ".join(lines)).strip()
