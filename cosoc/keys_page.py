"""docs/keys.md: every key of every file, with what it means, its bounds, its default, and the core models that read it.

Written from the schemas (`cosoc.schema`), so that page, editors and loader say the same.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

from cosoc.sim.cores import CORES
from cosoc.sim.model.soc import Core

HEAD = """# Keys of files

What may stand in the files that cosoc reads, made by `make schema` from the types that check them. Editors that know
YAML schemas show the same (`cosoc schema soc` prints one). A key that is not here, or that would change nothing where
it stands, is refused at its line; numbers may be written with underscores, `500_000_000`. How mapping files are written
is told in [mapping files](mappings.md), how networks are in [networks](networks.md).
"""
COMMON = """What every core model has. A model that has no use for one of these refuses it, and says why; its own
keys stand with each model below.
"""
# Sections of a SoC file, in the order in which one is read.
SECTIONS = (
    ("Memory", "A memory, under `memories`"),
    ("Dram", "Banks of a dynamic memory, `dram` of a memory"),
    ("Link", "A link, under `links`"),
    ("Dma", "A DMA, under `dmas`"),
    ("CachedMover", "A mover through caches, under `dmas`"),
    ("Route", "A route, of `routes`"),
)


def keys_page(schemas: dict[str, dict[str, Any]]) -> str:
    """The page, of the schemas by file name."""
    soc = schemas["soc.json"]
    parts = soc["$defs"]
    lines = [HEAD, "## SoC files\n", *_table(soc)]
    for name, title in SECTIONS:
        lines += [f"### {title}\n", *_table(parts[name])]
    common = {key: value for key, value in parts["DigitalArray"]["properties"].items() if key in Core.model_fields}
    common |= {key: parts[one.__name__]["properties"][key] for one in CORES.values() for key in Core.model_fields
               if key not in common and key in parts[one.__name__]["properties"]}  # fmt: skip
    ordered = {key: common[key] for key in Core.model_fields if key != "model"}
    lines += ["## Core models\n", "### Every core, under `cores`\n", COMMON, *_table({"properties": ordered})]
    for name, model in CORES.items():
        lines += _model(name, model, parts)
    for file, title in (("cluster", "Cluster files"), ("mapping", "Mapping files"), ("workload", "Workload files"),
                        ("technology", "Technology files"), ("recipe", "Recipes of training"),
                        ("schedule", "Schedules, which `simulate --schedule` writes"),
                        ("network", "Networks in integers, which `export --format json` writes")):  # fmt: skip
        schema = schemas[f"{file}.json"]
        if "properties" in schema:
            lines += [f"## {title}\n", *_table(schema)]
        elif "title" not in schema:  # one of several kinds, each below
            lines.append(f"## {title}\n")
        for name, part in schema.get("$defs", {}).items():
            if "properties" in part:
                heading = "##" if "properties" not in schema and name == schema.get("title") else "###"
                lines += [f"{heading} {_title(part, name)}\n", *_table(part)]
    return "\n".join(lines).rstrip() + "\n"


def _title(part: dict[str, Any], name: str) -> str:
    return f"{name}: {' '.join(part.get('description', '').split('. ')[0].split()).rstrip('.')}".rstrip(": ")


def _model(name: str, model: type[Core], parts: dict[str, Any]) -> Iterator[str]:
    """The section of a core model: its law as the module says it, its own keys, and those of the sections in them."""
    doc = sys.modules[model.__module__].__doc__ or ""
    yield f"### {name}\n"
    yield doc.strip() + "\n"
    if model.UNUSED:
        yield f"It refuses {', '.join(f'`{key}`' for key in model.UNUSED)}.\n"
    own = {
        key: value for key, value in parts[model.__name__]["properties"].items()
        if key not in Core.model_fields or (key in model.__annotations__ and key != "model")
    }  # fmt: skip
    required = parts[model.__name__].get("required", ())
    yield from _table({"properties": own, "required": required})
    for key, value in own.items():
        for inner in dict.fromkeys(_references(value)):
            if inner in parts and "properties" in parts[inner]:
                yield f"`{key}`:\n"
                yield from _table(parts[inner])
                for deeper in dict.fromkeys(_references(parts[inner]["properties"])):
                    if "properties" in parts.get(deeper, {}):
                        yield f"`{deeper.lower()}` of `{key}`:\n"
                        yield from _table(parts[deeper])


def _references(node: Any) -> Iterator[str]:
    """Names of the parts that a piece of a schema refers to."""
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"].rsplit("/", 1)[-1]
        for child in node.values():
            yield from _references(child)
    elif isinstance(node, list):
        for child in node:
            yield from _references(child)


def _table(part: dict[str, Any]) -> Iterator[str]:
    """A section's keys."""
    yield "| key | default | what it is |"
    yield "|---|---|---|"
    for key, value in part["properties"].items():
        default = "required" if key in part.get("required", ()) else _default(value)
        yield f"| `{key}` | {default} | {value['description'].replace('|', chr(92) + '|')} |"
    yield ""


def _default(value: dict[str, Any]) -> str:
    default = value.get("default")
    return "" if default in (None, "", [], {}) else f"`{json.dumps(default)}`"
