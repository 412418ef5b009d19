"""YAML files read into pydantic models, with every error at `file:line:column`.

Stricter than YAML on purpose: duplicate keys, aliases and several documents are refused; only `true` and `false`
are booleans (YAML 1.1 reads `on`, `no` and `y` as booleans too); `1e9` is a number.

A file of figures may say behind a number in which range it may be, as part of its evidence:

    bytes_per_period: 10            # fitted, 8 .. 16: both timings are met in all of that

All that is wrong with a file is told at once, the first as the error's message, each further fault as a note: what YAML
itself does not allow ends it, everything else does not hide what else is wrong (`cosoc.sim.files.mending`), and what
only follows from another fault is not told. Of more than MAX_TOLD the others are counted.

What a file may cost its reader is bounded: MAX_BYTES of text, MAX_DEPTH levels, MAX_VALUES values. JSON files have the
same bounds (`read_json`), and so have texts that stand in other files (`load_model` with a text).
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml
from pydantic import BaseModel

from cosoc.sim.errors import InputError
from cosoc.sim.files.mending import WHOLE, Fault, Mended, Place, former_keys, known_keys, model_at, read

M = TypeVar("M", bound=BaseModel)

MAX_BYTES = 64 << 20  # a description larger than this is a mistake, not a description
MAX_DEPTH = 64
MOST_KEPT = 1 << 16  # characters of a text whose nodes are kept, for who reads it again
MAX_VALUES = 1_000_000  # keys among them; some 40 s and 1 GB
MAX_NUMBER = 400  # characters; a whole number of more is none that anything here could mean
SHOWN = 200  # characters of a value in a message
MAX_TOLD = 20  # faults of a file

_SCALARS = (
    (re.compile(r"true|false"), lambda s: s == "true"),
    (re.compile(r"null|~|"), lambda s: None),
    (re.compile(r"[-+]?[0-9][0-9_]*"), lambda s: int(s.replace("_", ""))),
    (re.compile(r"0x[0-9a-fA-F_]+"), lambda s: int(s.replace("_", ""), 16)),
    (re.compile(r"[-+]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9_]+)([eE][-+]?[0-9]+)?"), lambda s: float(s.replace("_", ""))),
)


EVIDENCE = ("published", "model", "fitted", "assumed", "derived", "measured", "recalled")
_MEANT = re.compile(r"\.\s*\.\s*-?[\d.]|\d\s*\.\.|^#\s*range\b")  # what was surely to be a range
_RANGE = re.compile(r"#\s*(\w+), (\S+) \.\. ([^\s:]+)(?::(?: .*)?)?\s*")


@dataclass(frozen=True)
class Range:
    """In which range a file says that one of its numbers may be. path: of its key, dotted. low, high: in the number's
    unit, low <= value <= high. evidence: the word that the number is classed by."""

    path: str
    value: int | float
    low: int | float
    high: int | float
    evidence: str


class _Loader(yaml.SafeLoader):
    """Stops at the first value that is beyond a bound, before it and what follows take memory."""

    depth = values = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.values += 1
        if self.check_event(yaml.AliasEvent):
            self._refuse("aliases are not supported: write the value out")
        if self.depth > MAX_DEPTH:
            self._refuse(f"nested deeper than {MAX_DEPTH} levels")
        if self.values > MAX_VALUES:
            self._refuse(f"more than {MAX_VALUES:,} values; that many are read")
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def _refuse(self, what: str) -> NoReturn:
        raise yaml.MarkedYAMLError(None, None, what, self.peek_event().start_mark)  # type: ignore[no-untyped-call]


def _scalar(node: yaml.ScalarNode) -> Any:
    if node.style is None and len(node.value) <= MAX_NUMBER:  # plain, not quoted
        text = node.value.strip()
        for pattern, convert in _SCALARS:
            if pattern.fullmatch(text):
                return convert(text)
    return node.value


class _Document:
    """A parsed file: plain data, and the place of every value in it by path."""

    def __init__(self, path: Path, text: str, root: yaml.Node | None) -> None:
        self.path, self.lines = path, text.splitlines()
        self.ends: dict[int, list[tuple[int, Place, Any]]] = {}  # of scalars by line: column behind, path, value
        self.marks: dict[Place, yaml.Mark] = {}
        self.key_marks: dict[Place, yaml.Mark] = {}
        self.faults: list[tuple[int, int, str]] = []  # line, column, what
        self.data = self._convert(root, ()) if root is not None else None

    def _convert(self, node: yaml.Node, at: Place) -> Any:
        self.marks[at] = node.start_mark
        if isinstance(node, yaml.SequenceNode):
            return [self._convert(child, (*at, i)) for i, child in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            out: dict[str, Any] = {}
            for key_node, value_node in node.value:
                if not isinstance(key_node, yaml.ScalarNode):
                    self.fault(at, "a key must be a plain name", key_node.start_mark)
                    continue
                key = key_node.value
                if key in out:
                    self.fault((*at, key), "key given twice; keep one", key_node.start_mark)
                    continue
                self.key_marks[(*at, key)] = key_node.start_mark
                out[key] = self._convert(value_node, (*at, key))
            return out
        assert isinstance(node, yaml.ScalarNode)
        value = _scalar(node)
        self.ends.setdefault(node.end_mark.line, []).append((node.end_mark.column, at, value))
        return value

    def ranges(self, mended: Mended = WHOLE) -> Iterator[Range]:
        """What the comments behind numbers say of their ranges; a fault where one is meant and none is stated.
        mended: of which ranges are of no matter."""
        for number, line in enumerate(self.lines):
            here = self.ends.get(number)
            if not here or "#" not in line:
                continue
            column = line.find("#", max(end for end, _, _ in here))
            comment = line[column:] if column >= 0 else ""
            if _RANGE.fullmatch(comment) or _MEANT.search(comment):
                found = self._range(comment, [(at, value) for _, at, value in here])
                if isinstance(found, Range):
                    yield found
                elif not mended.touches(here[-1][1]):
                    self.faults.append((number + 1, column + 1, found))

    def _range(self, comment: str, here: Sequence[tuple[Place, Any]]) -> Range | str:
        """The range that a comment behind values says; what is wrong with it, if it is none."""
        right = "write it as `# assumed, 4 .. 8: why`"
        found = _RANGE.fullmatch(comment)
        at, value = here[-1]
        name = _dotted(at)
        if found is None or found[1] not in EVIDENCE:
            words = "" if found is None else f" and one of {', '.join(EVIDENCE)} before it"
            return f"{name}found {comment!r}: a range, {right}{words}"
        if len(here) > 1 or type(value) not in (int, float):
            what = "several values stand" if len(here) > 1 else f"{value!r} stands"
            return f"{name}{what} before a range; one number on a line of its own may"
        low, high = (_scalar(yaml.ScalarNode("tag:yaml.org,2002:str", end)) for end in (found[2], found[3]))
        kinds = (int,) if type(value) is int else (int, float)
        if type(low) not in kinds or type(high) not in kinds:
            kind = "whole numbers, as the value is one" if type(value) is int else "numbers"
            return f"{name}found {found[2]} .. {found[3]}: {kind} are needed; {right}"
        if not low <= value <= high or low == high:
            return f"{name}{value} is not within its range, {found[2]} .. {found[3]}"
        return Range(".".join(map(str, at)), value, low, high, found[1])

    def fault(self, at: Place, what: str, mark: yaml.Mark | None = None) -> None:
        """Something is wrong with the value at a path, or with its nearest ancestor that stands in the file."""
        place = at
        while mark is None and (mark := self.marks.get(place)) is None and place:
            place = place[:-1]
        line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
        self.faults.append((line, column, f"{_dotted(at)}{what}"))

    def end(self) -> None:
        """Raise InputError for all that is wrong, in the order of the file, if anything is."""
        told = list(dict.fromkeys(sorted(self.faults, key=lambda one: one[:2])))
        if not told:
            return
        lines = [f"{self.path}:{line}:{column}: {what}" for line, column, what in told[:MAX_TOLD]]
        if len(told) > MAX_TOLD:
            lines.append(f"{self.path}: {len(told) - MAX_TOLD} more")
        error = InputError(lines[0])
        for further in lines[1:]:
            error.add_note(_one_line(further))
        raise error from None


def _dotted(at: Place) -> str:
    return ".".join(str(part) for part in at) + ": " if at else ""


def _one_line(text: str) -> str:
    return " ".join(text.split())


def read_text(path: Path) -> str:
    """The text of a user's file; InputError where it cannot be read or is not text."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path}: {path.stat().st_size} bytes; at most {MAX_BYTES} are read")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder; a YAML file is needed") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(f"{path}: {_one_line(why)}") from None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; InputError where it is none, or is beyond the bounds of a description."""
    try:
        content = json.loads(read_text(path))
    except ValueError as error:  # among them a number of thousands of digits
        raise InputError(f"{path}: is not JSON: {error}") from None
    except RecursionError:
        raise InputError(f"{path}: nested deeper than {MAX_DEPTH} levels") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: found a {type(content).__name__}; a JSON object is needed")
    level: list[Any] = [content]
    for _ in range(MAX_DEPTH + 1):
        level = [inner for one in level for inner in (one.values() if isinstance(one, dict) else one)
                 if isinstance(inner, (dict, list))]  # fmt: skip
        if not level:
            return content
    raise InputError(f"{path}: nested deeper than {MAX_DEPTH} levels")


def read_plain(path: Path) -> Any:
    """The plain data of a YAML file; InputError as of `load_model`."""
    document = _parse(path, read_text(path))
    document.end()
    return document.data


@functools.lru_cache(maxsize=16)
def _composed(text: str) -> yaml.Node | None:
    """The nodes of a text, which nobody changes. A campaign reads one SoC file a task, with other values set, and this
    is most of what that takes."""
    return yaml.compose(text, Loader=_Loader)


def _parse(path: Path, text: str) -> _Document:
    try:
        root = _composed(text) if len(text) <= MOST_KEPT else yaml.compose(text, Loader=_Loader)
        return _Document(path, text, root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{mark.line + 1}:{mark.column + 1}" if mark else "1:1"
        raise InputError(f"{path}:{where}: {_one_line(error.problem or error.context or 'not YAML')}") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}:1:1: {_one_line(str(error))}") from None
    except RecursionError:
        raise InputError(f"{path}:1:1: nested too deeply") from None


def _override(document: _Document, key: str, text: str) -> None:
    *parents, last = key.split(".")
    node = document.data
    for part in parents:
        if not isinstance(node, dict) or part not in node:
            known = ", ".join(node) if isinstance(node, dict) else "nothing"
            raise InputError(f"--set {key}={text}: {document.path} has no {part!r} there; it has {known}")
        node = node[part]
    if not isinstance(node, dict):
        raise InputError(f"--set {key}={text}: {'.'.join(parents)} is a value, not a section")
    node[last] = _value(key, text)


def _value(key: str, text: str) -> Any:
    """A value as it would stand in the file: a number, a word, or a list of them in brackets."""
    if not text.startswith("["):
        return _scalar(yaml.ScalarNode("tag:yaml.org,2002:str", text))
    try:
        root = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError:
        root = None
    if not isinstance(root, yaml.SequenceNode) or not all(isinstance(one, yaml.ScalarNode) for one in root.value):
        raise InputError(f"--set {key}={text}: a list of values is needed, such as [1, 2, 4]")
    return [_scalar(one) for one in root.value]


def load_model(
    path: Path,
    model: type[M],
    overrides: Mapping[str, str] | None = None,
    problems: Callable[[M, Mended], Sequence[tuple[Place, str]]] = lambda m, mended: (),
    ranged: bool = False,
    text: str | None = None,
) -> M:
    """Read a YAML file into a pydantic model.

    `overrides` maps dotted paths to values written as in YAML; they replace (or add) what the file says.
    ranged: comments behind its numbers may state ranges, and must be right where they do (`ranges_of`).
    `problems` returns what is wrong beyond types, as (path in the file, message), also of a model in which not all
    stands as the file has it, so that what only follows from that is left out.
    text: in place of the file's, where it stands somewhere else; `path` is then what errors call it.
    Raises InputError, a line `file:line:column: path: what was found, what would be right` for each fault (`lines`).
    """
    document = _parse(path, read_text(path) if text is None else text)
    if not isinstance(document.data, dict):
        found = "nothing" if document.data is None else f"a {type(document.data).__name__}"
        raise InputError(f"{path}:1:1: found {found}; a mapping of keys to values is needed")
    for key, text in (overrides or {}).items():
        _override(document, key, text)
    made = read(model, document.data, MAX_TOLD, whole=not document.faults)
    for one in made.faults:
        _tell(document, one, model)
    if made.model is not None and len(document.faults) <= MAX_TOLD:
        for place, message in problems(made.model, made.mended):
            if not made.mended.touches(place):
                document.fault(made.in_file(place), message)
    if ranged:
        list(document.ranges(made.mended))
    document.end()
    assert made.model is not None  # else there are faults
    return made.model


def ranges_of(path: Path) -> tuple[Range, ...]:
    """The ranges that a file states, in its order. InputError at the line of each that is malformed."""
    document = _parse(path, read_text(path))
    out = tuple(document.ranges())
    document.end()
    return out


def _tell(document: _Document, one: Fault, model: type[BaseModel]) -> None:
    """What pydantic found, as a fault of the file."""
    at, kind, value = one.at, one.error["type"], one.error.get("input")
    if kind == "extra_forbidden":
        beside = model_at(model, tuple(one.error["loc"]))
        former = former_keys(beside)
        known = known_keys(beside)
        hint = f"; did you mean {one.hint}?" if one.hint else f"; known here: {', '.join(known)}" if known else ""
        hint = f"; it was replaced: {former[str(at[-1])]}" if str(at[-1]) in former else hint
        document.fault(at, f"unknown key{hint}", document.key_marks.get(at))
    elif kind == "missing":
        document.fault(at, "required key is missing", document.marks.get(at[:-1]))
    else:
        message = one.error["msg"].removeprefix("Value error, ")
        found = "" if isinstance(value, (dict, list)) else f"found {_brief(repr(value))}: "
        document.fault(at, f"{found}{_brief(_one_line(message), 5 * SHOWN)}")


def _brief(text: str, most: int = SHOWN) -> str:
    return text if len(text) <= most else f"{text[:most]} ... ({len(text):,} characters)"
