"""The JSON schemas of cosoc's files, which editors complete and check by: `python -m cosoc.schema` rewrites them."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

from cosoc.sim.files import catalog, mapping_file, workload_file


def schemas() -> dict[str, dict[str, Any]]:
    """Schema by file name, as the models behind the files now are."""
    return {
        "soc.json": catalog.json_schema(),
        "cluster.json": catalog.cluster_json_schema(),
        "workload.json": dict(workload_file.json_schema()),
        "mapping.json": mapping_file.json_schema(),
    }


def schema_text(schema: dict[str, Any]) -> str:
    """A schema as its file holds it."""
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps(dialect | schema, indent=1) + "\n"


def schema_folder() -> Path:
    """Where the schemas stand, beside the files that they describe."""
    return Path(str(resources.files("cosoc.socs"))) / "schema"


def main() -> None:
    """Write every schema; the text is committed, and a test says whether it is current."""
    folder = schema_folder()
    folder.mkdir(exist_ok=True)
    for name, schema in schemas().items():
        (folder / name).write_text(schema_text(schema), encoding="utf-8")
        print(folder / name)


if __name__ == "__main__":
    main()
