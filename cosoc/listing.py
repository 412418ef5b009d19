"""What `cosoc list` shows: everything built in with a line on it, or the mappings that apply to one chip."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from cosoc.sim.errors import InputError
from cosoc.sim.files.names import (
    RULES,
    built_in_mappings,
    cluster_folder,
    list_clusters,
    list_socs,
    list_workloads,
    soc_folder,
)

DESCRIBED = re.compile(r"^description: *(.+?) *$", re.M)  # as the files that come with cosoc have it, on one line


def everything() -> str:
    """Chips and clusters, each with its line, and networks."""
    chips = {name: soc_folder() / f"{name}.yaml" for name in list_socs()}
    clusters = {name: cluster_folder() / f"{name}.yaml" for name in list_clusters()}
    parts = ["chips:", *_lines(chips), "clusters:", *_lines(clusters), "networks:"]
    parts += [f"  {name}" for name in list_workloads()]
    return "\n".join([*parts, "mappings of a chip: cosoc list CHIP"])


def _lines(files: dict[str, Path]) -> Iterator[str]:
    width = max(map(len, files), default=0)
    for name, path in files.items():
        found = DESCRIBED.search(path.read_text(encoding="utf-8"))
        yield f"  {name:{width}}  {found[1].strip(chr(34)) if found else ''}".rstrip()


def mappings(soc: str) -> tuple[str, ...]:
    """The mappings that a chip can have: rules that apply to it, and what comes with it. InputError for another name.

    A rule applies where it has something to choose on the chip, which a network of one layer shows."""
    from cosoc.sim.files.catalog import find_soc
    from cosoc.sim.manual import named_mapping
    from cosoc.sim.model.workload import INPUT, Layer, Workload

    machine = find_soc(soc)
    layer = Layer("conv", "conv", (INPUT,), k=16, c=16, oy=4, ox=4, iy=4, ix=4)
    one = Workload("one", (16, 4, 4), (layer,), ("conv",))

    def applies(rule: str) -> bool:
        try:
            named_mapping(rule, one, machine)
        except InputError:
            return False
        return True

    return (*filter(applies, RULES), *built_in_mappings(machine.name))
