"""The committed JSON schemas are those of the code, and the files that come with cosoc point at them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from cosoc.cli import main
from cosoc.keys_page import keys_page
from cosoc.schema import describe, page_file, schema_folder, schema_text, schemas
from cosoc.sim.cores import CORES
from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import find_soc, list_socs, soc_folder
from cosoc.sim.model.soc import Model


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


def described(node: Any) -> dict[str, str]:
    """Description by key of every property in a schema, those of its parts as PART.key."""
    parts = [("", node), *((f"{name}.", part) for name, part in node.get("$defs", {}).items())]
    return {f"{name}{key}": value.get("description", "") for name, part in parts
            for key, value in part.get("properties", {}).items()}  # fmt: skip


@pytest.mark.parametrize("name", sorted(schemas()))
def test_every_key_says_what_it_is(name: str) -> None:
    found = described(json.loads((schema_folder() / name).read_text()))
    assert found and not [key for key, text in found.items() if len(text.split()) < 2 and key != "InputLine.c"]


def test_bounds_units_and_readers_are_those_of_the_loader() -> None:
    """Asked of the types themselves: what a digital array's file is refused for is what the description says."""
    found = described(schemas()["soc.json"])
    assert found["tick_hz"].endswith("Within 1 to 1e+12 Hz.")
    assert found["DigitalArray.rows"] == "Pixels at once. Within 1 to 2^20 at once."
    readers = found["DigitalArray.weight_memory"].rsplit("Read by ", 1)[1].rstrip(".").split(", ")
    assert readers == [name for name, model in CORES.items() if "weight_memory" not in model.UNUSED]
    with pytest.raises(InputError, match=r"rows: .*1 to 2\^20 at once"):
        find_soc("diana", {"cores.digital.rows": "0"})


def test_a_key_without_a_comment_is_noticed() -> None:
    class Bare(Model):
        """A section of which one key says nothing."""

        said: int  # what is said
        # told above
        above: int
        silent: int

    assert (describe(Bare, "said"), describe(Bare, "above")) == ("What is said.", "Told above.")
    with pytest.raises(LookupError, match=r"Bare\.silent"):
        describe(Bare, "silent")


@pytest.mark.parametrize(("text", "fine"), [("500_000_000", True), ("5e6", False), ("_5", False), ("five", False)])
def test_whole_numbers_may_have_underscores_as_the_loader_takes_them(text: str, fine: bool) -> None:
    """An editor's YAML takes 500_000_000 for text; the pattern lets that pass, and nothing that the loader refuses."""
    pattern = schemas()["soc.json"]["properties"]["tick_hz"]["pattern"]
    assert bool(re.search(pattern, text)) == fine
    assert isinstance(yaml.safe_load(text), int) == fine


def test_the_page_of_keys_is_current() -> None:
    page = page_file()
    assert page is not None and page.read_text(encoding="utf-8") == keys_page(schemas()), "run make schema"
    for name in CORES:
        assert f"\n### {name}\n" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["soc", "cluster", "workload", "mapping", "schedule", "network"])
def test_the_command_prints_what_editors_read(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", name]) == 0
    assert capsys.readouterr().out == (schema_folder() / f"{name}.json").read_text()
