"""A file's data made readable in spite of what is wrong with it, so that the rest can be looked at in the same pass.

A model tells everything that is wrong with the types of its fields, but looks at what fields mean together only where
these are right; and what hangs together in a file is looked at only where there is a model. So what is wrong is taken
out, or something that is right stands in for it, and the model is asked again. Whatever is then said of what was
mended, or of what it is in, follows from the fault that is listed already.
"""

from __future__ import annotations

import copy
import difflib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, NamedTuple, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

Place = tuple[str | int, ...]
M = TypeVar("M", bound=BaseModel)

TOGETHER = ("refused", "value_error")  # what our own validators of whole sections raise
ROUNDS = 24  # as often a model is asked; what a file's keys need is some six
STAND_INS: tuple[Any, ...] = (1, "x", True, ["x"], {}, [])  # of which nearly every key takes one


class Fault(NamedTuple):
    """What pydantic found. at: in the file. error: as its `errors()` has it. hint: the key that was meant, or ''."""

    at: Place
    error: Mapping[str, Any]
    hint: str


@dataclass(frozen=True)
class Mended:
    """What of a file does not stand in its model as the file has it. names: some of that may have named something, so
    that what seems to be used by nobody may have been named there."""

    places: frozenset[Place] = frozenset()
    names: bool = False

    def touches(self, place: Place) -> bool:
        """Whether a place is one that was mended, in one, or around one."""
        return any(place[: len(one)] == one or one[: len(place)] == place for one in self.places)

    def entries(self, section: str) -> frozenset[str | int]:
        """The keys, or numbers, of a section's entries of which something was mended."""
        return frozenset(place[1] for place in self.places if place[0] == section and len(place) > 1)

    def lacks(self, section: str, name: str) -> bool:
        """Whether an entry that the file has is not in the model."""
        return (section,) in self.places or (section, name) in self.places


WHOLE = Mended()


@dataclass(frozen=True)
class Read(Generic[M]):
    """model: None where the data could not be made readable. renamed: where keys that were meant for others stand."""

    model: M | None
    faults: tuple[Fault, ...]
    mended: Mended
    renamed: Mapping[Place, Place]

    def in_file(self, place: Place) -> Place:
        """Where the file has what a model has at a place."""
        for n in range(len(place), 0, -1):
            if place[:n] in self.renamed:
                return self.in_file((*self.renamed[place[:n]], *place[n:]))
        return place


def read(model: type[M], data: dict[str, Any], most: int, whole: bool) -> Read[M]:
    """Data as a model, and what is wrong with it: all, or more than `most`. Changes the data where it mends. whole:
    all of the file is in the data, else something that was refused is not."""
    try:
        return Read(model.model_validate(data), (), Mended(names=not whole), {})
    except ValidationError as error:
        return _Reader(model, data).read(error, most, whole)


class _Reader(Generic[M]):
    def __init__(self, model: type[M], data: dict[str, Any]) -> None:
        self.model, self.data = model, data
        self.faults: list[Fault] = []
        self.touched: set[Place] = set()
        self.around: set[Place] = set()  # what is around one of them
        self.gone: dict[Place, Any] = {}  # values that were taken out
        self.renamed: dict[Place, Place] = {}
        self.tried: Counter[Place] = Counter()  # stand-ins
        self.wanted: dict[Place, str] = {}  # a word that is right

    def read(self, error: ValidationError, most: int, whole: bool) -> Read[M]:
        """All that is wrong, the first error known."""
        found: M | None = None
        for _ in range(ROUNDS):
            errors = _without_echoes([(_in_data(self.data, one), one) for one in error.errors()])
            unknown = {at: tuple(one["loc"]) for at, one in errors if one["type"] == "extra_forbidden"}
            hints = {at: meant(self.model, loc) for at, loc in unknown.items()}
            former = {at[:-1] for at, loc in unknown.items() if loc[-1] in former_keys(model_at(self.model, loc))}
            for at, one in errors:
                replaced = one["type"] == "missing" and at[:-1] in former  # by what is missing
                if not replaced and not self._follows(at, one, hints):
                    self.faults.append(Fault(self._in_file(at), one, hints.get(at, "")))
            errors.sort(key=lambda one: one[1]["type"] != "extra_forbidden")  # what is misspelled is not missing
            mended = [self._mend(at, one, hints.get(at, "")) for at, one in errors]
            if len(self.faults) > most or not all(mended):
                break
            try:
                found = self.model.model_validate(self.data)
                break
            except ValidationError as further:
                error = further
        places = frozenset(self.touched)
        return Read(found, tuple(self.faults), Mended(places, not whole or self._named(found)), self.renamed)

    def _in_file(self, at: Place) -> Place:
        return Read(None, (), WHOLE, self.renamed).in_file(at)

    def _follows(self, at: Place, error: Mapping[str, Any], hints: Mapping[Place, str]) -> bool:
        """Whether an error is of what was mended, or a key is missing that stands misspelled beside."""
        if at in self.around or any(at[:n] in self.touched for n in range(len(at) + 1)):
            return True
        if error["type"] in TOGETHER and at[:-1] in self.around:  # of keys together, one of which was mended
            return True
        beside = [hint for other, hint in hints.items() if other[:-1] == at[:-1]]
        return bool(error["type"] == "missing" and at[-1] in beside)

    def _mend(self, at: Place, error: Mapping[str, Any], hint: str) -> bool:
        """Take out or replace what an error is of; False where that cannot be done."""
        if not at:
            return False
        parent, key = _at(self.data, at[:-1]), at[-1]
        if parent is None:  # it went with what it was in
            return True
        if error["type"] == "extra_forbidden":
            value = parent.pop(key)
            if hint and hint not in parent:  # what it says is looked at under the key that was meant
                parent[hint] = value
                self.renamed[(*at[:-1], hint)] = at
            else:
                self._touch(at, value)
            return True
        present = isinstance(parent, list) or key in parent
        if error["type"] == "missing" and present:  # it was misspelled
            return True
        if error["type"] == "literal_error" and (word := re.match(r"'([^']*)'", str(error["ctx"]["expected"]))):
            self.wanted[at] = word[1]
        self._touch(at, parent[key] if present else None)
        if isinstance(parent, list) or at in self.tried or not present:
            choices = (*([self.wanted[at]] if at in self.wanted else []), *STAND_INS)
            if self.tried[at] >= len(choices) or (isinstance(parent, list) and isinstance(parent[int(key)], dict)):
                return isinstance(parent, list) and self._mend(at[:-1], error, "")  # the whole list
            parent[key] = copy.copy(choices[self.tried[at]])
            self.tried[at] += 1
        else:
            del parent[key]
        return True

    def _touch(self, at: Place, value: Any) -> None:
        self.touched.add(at)
        self.around.update(at[:n] for n in range(len(at)))
        self.gone.setdefault(at, value)

    def _named(self, found: M | None) -> bool:
        """Whether what was mended may have named something: it is no figure."""
        for at in self.touched:
            value = _of_model(found, at)
            if not isinstance(self.gone[at] if value is _NOTHING else value, int | float):
                return True
        return bool(self.renamed) and found is None


def _without_echoes(errors: Sequence[tuple[Place, Any]]) -> list[tuple[Place, Any]]:
    """One error a place, and none of a type that a value is not where what stands inside of it is told of: a value may
    be of several types, and each of them tells."""
    inside = {at[:n] for at, _ in errors for n in range(len(at))}
    out: dict[Place, Any] = {}
    for at, error in errors:
        if not (at in inside and error["type"].endswith("_type")):
            out.setdefault(at, error)
    return list(out.items())


_NOTHING = object()


def _of_model(model: Any, at: Place) -> Any:
    """What a model has at a place; _NOTHING where it has nothing there."""
    for part in at:
        if isinstance(model, BaseModel):
            names = {field.alias or name: name for name, field in type(model).model_fields.items()}
            model = getattr(model, names.get(str(part), ""), _NOTHING)
        elif isinstance(model, Mapping):
            model = model.get(part, _NOTHING)
        elif isinstance(model, list | tuple) and isinstance(part, int) and part < len(model):
            model = model[part]
        else:
            return _NOTHING
    return model


def _in_data(data: Any, error: Mapping[str, Any]) -> Place:
    """The path of an error without the tags of unions, which are no keys of the file."""
    out, parts = list[str | int](), error["loc"]
    for i, part in enumerate(parts):
        here = isinstance(data, dict) and part in data
        here = here or (isinstance(data, list) and isinstance(part, int) and part < len(data))
        if here:
            data = data[part]
        lacking = i == len(parts) - 1 and isinstance(data, dict) and error["type"] in ("missing", "refused")
        if here or lacking:
            out.append(part)
    return tuple(out)


def _at(data: Any, at: Place) -> Any:
    """What stands at a place; None where nothing does."""
    for part in at:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return None
    return data if isinstance(data, dict | list) else None


def meant(model: type[BaseModel], at: Place) -> str:
    """The key that an unknown one was meant to be, by its letters; '' where none is close."""
    beside = model_at(model, at)
    if at[-1] in former_keys(beside):
        return ""
    close = difflib.get_close_matches(str(at[-1]), known_keys(beside), n=1)
    return close[0] if close else ""


def former_keys(model: type[BaseModel] | None) -> Mapping[str, str]:
    """Keys that a section of a file had once, each with what to write instead."""
    keys: Mapping[str, str] = getattr(model, "FORMER", {})
    return keys


def known_keys(model: type[BaseModel] | None) -> list[str]:
    """The keys that a section of a file may have."""
    if model is None:
        return []
    fields = {name: field.alias or name for name, field in model.model_fields.items()}
    return [alias for name, alias in fields.items() if name not in getattr(model, "UNUSED", ())]


def model_at(model: type[BaseModel], at: Place) -> type[BaseModel] | None:
    """The model in which a key of a path stands, as far as annotations tell."""
    current: Any = model
    for part in at[:-1]:
        if isinstance(current, type) and issubclass(current, BaseModel) and part in current.model_fields:
            current = _one_model(current.model_fields[str(part)].annotation)
        else:
            current = _inside(current, part)
    return current if isinstance(current, type) and issubclass(current, BaseModel) else None


def _one_model(annotation: Any) -> Any:
    """The model of an annotation that is one, or nothing; any other annotation as it is."""
    models = [one for one in get_args(annotation) if isinstance(one, type) and issubclass(one, BaseModel)]
    return models[0] if len(models) == 1 and type(None) in get_args(annotation) else annotation


def _inside(annotation: Any, part: str | int) -> Any:
    """What stands under one key of a dict, list or discriminated union of models."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    args = [a for a in get_args(annotation) if a is not Ellipsis]
    if get_origin(annotation) in (dict, tuple, list) and args:
        inner = args[-1]
        while get_origin(inner) is Annotated:
            inner = get_args(inner)[0]
        return inner
    for option in args:  # a union: the path carries the tag, which is the value of a Literal field
        while get_origin(option) is Annotated:
            option = get_args(option)[0]
        fields = getattr(option, "model_fields", {})
        if any(part in get_args(field.annotation) for field in fields.values()):
            return option
    return None
