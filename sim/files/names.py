"""What is built in, by name: where its files stand, and which there are. Reads no file, so that it answers at once."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Literal

# The last two are written, the others read.
FileKind = Literal["soc", "cluster", "workload", "mapping", "technology", "recipe", "schedule", "network"]
DEFAULT = "default"
MANUAL = ("all_8bit", "io_8bit_backbone_ternary", "all_ternary", "min_cost")
KINDS = ("gpu", "dla")  # mappings to the first core of a kind
RULES = (DEFAULT, *MANUAL, *KINDS)  # all names of `manual.named_mapping`


def soc_folder() -> Path:
    """Where the built-in SoC files stand."""
    return Path(str(resources.files("cosoc.socs")))


def cluster_folder() -> Path:
    """Where the built-in cluster files stand."""
    return soc_folder() / "clusters"


def technology_folder() -> Path:
    """Where the built-in technologies stand."""
    return soc_folder() / "technology"


def workload_folder() -> Path:
    """Where the built-in workload files stand."""
    return soc_folder() / "workloads"


def recipe_folder() -> Path:
    """Where the built-in training recipes stand."""
    return soc_folder() / "recipes"


def list_socs() -> tuple[str, ...]:
    """Names of the built-in SoCs."""
    return _names(soc_folder())


def list_clusters() -> tuple[str, ...]:
    """Names of the built-in clusters."""
    return _names(cluster_folder())


def list_technologies() -> tuple[str, ...]:
    """Names of the built-in technologies."""
    return _names(technology_folder())


def list_recipes() -> tuple[str, ...]:
    """Names of the built-in training recipes."""
    return _names(recipe_folder())


def list_workloads() -> tuple[str, ...]:
    """Names of the built-in workloads."""
    return _names(workload_folder())


def _names(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in folder.glob("*.yaml")))


def built_in_mappings(soc: str) -> dict[str, Path]:
    """The mapping files that come with a SoC, by name."""
    folder = soc_folder() / "mappings" / soc
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def list_mappings(soc: str) -> tuple[str, ...]:
    """Names of mappings for a SoC: rules for any workload, and files that come with the SoC."""
    return (*RULES, *built_in_mappings(soc))
