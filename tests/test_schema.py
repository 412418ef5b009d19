"""The committed JSON schemas are those of the code, and the files that come with cosoc point at them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cosoc.schema import schema_folder, schema_text, schemas
from cosoc.sim.files.catalog import list_socs, soc_folder


@pytest.mark.parametrize("name", sorted(schemas()))
def test_schema_is_current(name: str) -> None:
    path = schema_folder() / name
    assert path.exists() and path.read_text() == schema_text(schemas()[name]), f"{path}: run make schema"


def test_no_schema_is_left_over() -> None:
    assert {path.name for path in schema_folder().glob("*.json")} == set(schemas())


@pytest.mark.parametrize("name", list_socs())
def test_soc_files_name_their_schema(name: str) -> None:
    """The first line tells editors where the schema is; the path is relative to the file."""
    first = (soc_folder() / f"{name}.yaml").read_text().splitlines()[0]
    assert first == "# yaml-language-server: $schema=schema/soc.json"


def objects(node: Any) -> list[dict[str, Any]]:
    """All schemas of objects with named properties within a schema."""
    inner = list(node.values()) if isinstance(node, dict) else node if isinstance(node, list) else []
    here = [node] if isinstance(node, dict) and isinstance(node.get("properties"), dict) else []
    return here + [found for child in inner for found in objects(child)]


@pytest.mark.parametrize("name", sorted(schemas()))
def test_schemas_refuse_unknown_keys(name: str) -> None:
    """An editor flags a misspelt key only where the schema closes the object, as the loader does."""
    found = objects(json.loads((schema_folder() / name).read_text()))
    assert found and all(schema.get("additionalProperties") is False for schema in found)
