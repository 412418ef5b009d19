"""The JSON schemas of cosoc's files, which editors complete and check by, and the page of their keys.

`python -m cosoc.schema` rewrites both: schemas in socs/schema, the page where docs/ lies beside the code. What a key
means stands once, as the comment at its field in the source; its unit and bounds are those of its type, and the models
that read it are those that do not refuse it.
"""

from __future__ import annotations

import ast
import functools
import inspect
import io
import json
import re
import sys
import textwrap
import tokenize
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from cosoc.keys_page import keys_page
from cosoc.search.exports.network_file import NetworkFile
from cosoc.search.training.recipe import Recipe, recipe_json_schema
from cosoc.sim.cores import CORES
from cosoc.sim.files import catalog, mapping_file, workload_file
from cosoc.sim.files.names import FileKind
from cosoc.sim.model.cluster import Cluster
from cosoc.sim.model.soc import Core
from cosoc.sim.model.technology import Technology
from cosoc.sim.model.units import Within
from cosoc.sim.report.schedule_file import ClusterScheduleFile, ScheduleFile

KINDS: tuple[FileKind, ...] = get_args(FileKind)
# What stands in a schema for numbers: YAML 1.1, which cosoc reads, has 500_000_000, and editors' YAML 1.2 takes that
# for text.
UNDERSCORED = {"integer": r"^[-+]?[0-9][0-9_]*$", "number": r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?([eE][-+]?[0-9]+)?$"}


def schemas() -> dict[str, dict[str, Any]]:
    """Schema by file name, as the models behind the files now are."""
    return {f"{kind}.json": _schema(kind) for kind in KINDS}


def _schema(kind: FileKind) -> dict[str, Any]:
    """One schema: as the models give it, its keys described."""
    schema: dict[str, Any] = {
        "soc": catalog.json_schema,
        "cluster": catalog.cluster_json_schema,
        "workload": workload_file.json_schema,
        "mapping": mapping_file.json_schema,
        "technology": catalog.technology_json_schema,
        "recipe": recipe_json_schema,
        "schedule": _schedule,
        "network": NetworkFile.model_json_schema,
    }[kind]()
    roots = _roots(kind)
    classes = {one.__name__: one for root in roots for one in _classes(root)}
    whole = [] if len(roots) > 1 else [(roots[0].__name__, schema)]
    for name, part in [*whole, *schema.get("$defs", {}).items()]:
        for key, value in part.get("properties", {}).items():
            value["description"] = describe(classes[name], key)
    if kind not in ("schedule", "network"):  # which nobody writes by hand
        _accept_underscores(schema)
    return schema


def _schedule() -> dict[str, Any]:
    """Of a chip or of a cluster."""
    return TypeAdapter(ScheduleFile | ClusterScheduleFile).json_schema()


def _roots(kind: FileKind) -> tuple[type[BaseModel], ...]:
    """What a file of the kind may be."""
    roots: dict[FileKind, tuple[type[BaseModel], ...]] = {
        "soc": (catalog.SoCFile,),
        "cluster": (Cluster,),
        "workload": (workload_file.WorkloadFile,),
        "mapping": (mapping_file.MappingFile,),
        "technology": (Technology,),
        "recipe": (Recipe,),
        "schedule": (ScheduleFile, ClusterScheduleFile),
        "network": (NetworkFile,),
    }
    return roots[kind]


def _classes(root: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """A model and those of the sections in it, each once, outermost first."""
    seen, todo = set(), [root]
    while todo:
        one = todo.pop(0)
        if one in seen:
            continue
        seen.add(one)
        yield one
        for field in one.model_fields.values():
            todo += [found for found in _within(field) if isinstance(found, type) and issubclass(found, BaseModel)]


def _within(field: FieldInfo) -> list[Any]:
    """The types that a field's type is made of, and what is annotated to them."""
    found, todo = [*field.metadata], [field.annotation]
    while todo:
        one = todo.pop(0)
        found.append(one)
        todo += get_args(one)
    return found


def _accept_underscores(node: Any) -> None:
    """Let every number of a schema be written with underscores."""
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        _accept_underscores(child)
    if isinstance(node, dict) and node.get("type") in UNDERSCORED:
        node["pattern"] = UNDERSCORED[node["type"]]  # of text alone, as minimum and maximum are of numbers alone
        node["type"] = [node["type"], "string"]


# ---------------------------------------------------------------------------------------------- what keys mean


def describe(model: type[BaseModel], key: str) -> str:
    """What a key of a file means, in which unit and bounds, and which core models read it. key: as it is in the file.
    LookupError for a key that its source does not explain."""
    name = next(name for name, field in model.model_fields.items() if key in (name, field.alias))
    field = model.model_fields[name]
    text = next((found for one in model.__mro__ if (found := _comments(one).get(name))), "")
    sections = [one for one in _within(field) if isinstance(one, type) and issubclass(one, BaseModel)]
    if name == "model":
        text = _first_sentence(sys.modules[model.__module__].__doc__ if issubclass(model, Core) else model.__doc__)
    elif not text and sections:
        text = _first_sentence(sections[0].__doc__)
    if not text:
        raise LookupError(f"{model.__module__}.{model.__name__}.{name} has no comment that says what it is")
    sentences = [text[0].upper() + text[1:]]
    sentences += [f"Within {one}" for one in _within(field) if isinstance(one, Within)][:1]
    if issubclass(model, Core) and name in Core.model_fields and name != "model":
        readers = [core for core, one in CORES.items() if name not in one.UNUSED]
        sentences += [f"Read by {', '.join(readers)}"] if len(readers) < len(CORES) else []
    return " ".join(f"{sentence.rstrip('.')}." if not sentence.endswith("...") else sentence for sentence in sentences)


def _first_sentence(doc: str | None) -> str:
    return re.split(r"(?<=\.)\s", " ".join((doc or "").split()))[0]


@functools.cache
def _comments(model: type) -> Mapping[str, str]:
    """By field, the comment at the end of its line, or on the lines above it; of a class's own fields."""
    if not (isinstance(model, type) and issubclass(model, BaseModel)) or model is BaseModel:
        return {}
    source = textwrap.dedent(inspect.getsource(model))
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    said = {token.start[0]: token for token in tokens if token.type == tokenize.COMMENT}
    found = {}
    body = ast.parse(source).body[0]
    assert isinstance(body, ast.ClassDef)
    for node in body.body:
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
            continue
        lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
        texts = [said[line].string for line in lines if line in said and "type: ignore" not in said[line].string]
        above = node.lineno - 1
        while not texts and above in said and not said[above].line[: said[above].start[1]].strip():
            above -= 1
        texts += [said[line].string for line in range(above + 1, node.lineno) if line in said and not texts]
        if texts:
            found[node.target.id] = " ".join(text.lstrip("# ") for text in texts)
    return found


# ---------------------------------------------------------------------------------------------- what is written


def schema_text(schema: dict[str, Any]) -> str:
    """A schema as its file holds it."""
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps(dialect | schema, indent=1) + "\n"


def schema_folder() -> Path:
    """Where the schemas stand, beside the files that they describe."""
    return Path(str(resources.files("cosoc.socs"))) / "schema"


def written_schema(kind: FileKind) -> str:
    """The schema of a kind of file, as it comes with cosoc."""
    return (schema_folder() / f"{kind}.json").read_text(encoding="utf-8")


def page_file() -> Path | None:
    """Where the page of keys stands; None where cosoc is not in its own tree."""
    docs = Path(__file__).resolve().parent.parent / "docs"
    return docs / "keys.md" if docs.is_dir() else None


def main() -> None:
    """Write every schema, and the page; they are committed, and a test says whether they are current."""
    folder = schema_folder()
    folder.mkdir(exist_ok=True)
    found = schemas()
    for name, schema in found.items():
        (folder / name).write_text(schema_text(schema), encoding="utf-8")
        print(folder / name)
    if (page := page_file()) is not None:
        page.write_text(keys_page(found), encoding="utf-8")
        print(page)


if __name__ == "__main__":
    main()
