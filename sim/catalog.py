"""SoCs by name or file: the built-in ones, and the user's."""

from __future__ import annotations

import functools
import json
import operator
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from cosoc.sim.cores import CORES
from cosoc.sim.errors import InputError
from cosoc.sim.soc import Core, Name, SoC
from cosoc.sim.yamlfile import load_model

_AnyCore: Any = Annotated[functools.reduce(operator.or_, CORES.values()), Field(discriminator="model")]


class SoCFile(SoC):
    """A SoC whose cores are any of the known models: what a YAML file is read into."""

    cores: dict[Name, _AnyCore]


def load_soc(path: Path, overrides: Mapping[str, str] | None = None) -> SoC:
    """Read and check a SoC file; `overrides` are dotted paths to values. InputError names file, line and column."""
    return load_model(path, SoCFile, overrides, problems=SoC.problems)


def soc_folder() -> Path:
    """Where the built-in SoC files stand."""
    return Path(str(resources.files("cosoc.socs")))


def list_socs() -> tuple[str, ...]:
    """Names of the built-in SoCs."""
    return tuple(sorted(path.stem for path in soc_folder().glob("*.yaml")))


def find_soc(name_or_path: str, overrides: Mapping[str, str] | None = None) -> SoC:
    """A built-in SoC by name, or a SoC file by path."""
    if name_or_path in list_socs():
        return load_soc(soc_folder() / f"{name_or_path}.yaml", overrides)
    if name_or_path.endswith((".yaml", ".yml")) or Path(name_or_path).exists():
        return load_soc(Path(name_or_path), overrides)
    raise InputError(f"no SoC named {name_or_path!r}; there is {', '.join(list_socs())}, or give a .yaml file")


def json_schema() -> dict[str, Any]:
    """The JSON schema of a SoC file, for editors and other tools."""
    schema: dict[str, Any] = json.loads(json.dumps(SoCFile.model_json_schema(by_alias=True)))
    return schema


__all__ = ["Core", "SoCFile", "find_soc", "json_schema", "list_socs", "load_soc"]
