"""Mappings in YAML, out and in, and by name.

    runtime: overlapped
    layers:
      layer1.0.conv1: {shares: {digital: 16, analog: 48}, tile: {k: {digital: 16, analog: 48}, oy: 32, ox: 32}}
      fc: {shares: {digital: 10}}
    groups: [[conv1, maxpool]]

On a systolic array a layer has a nest, and a group may say what stays:

    layers:
      conv2: {shares: {gemmini: 64}, nest: {k: 64, c: 64, fy: 3, fx: 3, oy: 8, ox: 56, order: [oy, ox, k, c, fy, fx]}}
    groups: [{layers: [conv2, conv3], keep_rows: false, resident: [conv2]}]

Layers that read nothing of one another may run at once, on different cores:

    groups: [{layers: [block3.conv, block3.dw], parallel: true}]

Layers, tiles and groups may be left out: what a file is silent about is completed as for any mapping.
"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from cosoc.sim.errors import InputError
from cosoc.sim.files.yamlfile import Place, load_model
from cosoc.sim.manual import DEFAULT, MANUAL, named_mapping
from cosoc.sim.model.mapping import (
    NEST_DIMS,
    Group,
    LayerMapping,
    Mapping,
    NestTiling,
    Runtime,
    Share,
    Tiling,
)
from cosoc.sim.model.soc import FromList, Model, Name, Positive, SoC
from cosoc.sim.model.workload import Workload
from cosoc.sim.tiler import problems


class TileFile(Model):
    """A layer's tiles: output channels by core, output rows and columns, and what stays while the other streams."""

    k: dict[Name, Positive]
    oy: Positive
    ox: Positive
    order: Literal["weights", "inputs"] = "weights"
    c: Annotated[int, Field(ge=0)] = 0


class NestFile(Model):
    """What a tile of a systolic array spans along each dimension, and the software loops around it, outermost first."""

    k: Positive
    c: Positive
    fy: Positive
    fx: Positive
    oy: Positive
    ox: Positive
    order: Annotated[tuple[Literal[NEST_DIMS], ...], FromList]  # type: ignore[valid-type]
    reuse: bool = True

    @model_validator(mode="after")
    def _each_loop_once(self) -> NestFile:
        if sorted(self.order) != sorted(NEST_DIMS):
            raise ValueError(f"order {', '.join(self.order)}: name each of {', '.join(NEST_DIMS)} once")
        return self

    @property
    def nest(self) -> NestTiling:
        return NestTiling(self.k, self.c, self.fy, self.fx, self.oy, self.ox, self.order, self.reuse)


class GroupFile(Model):
    """A fused group, with what stays in memory: rows between tiles, and the weights of which layers (left out: all).
    parallel: not fused, but independent layers that run at once."""

    layers: Annotated[tuple[str, ...], FromList, Field(min_length=1)]
    keep_rows: bool = True
    resident: Annotated[tuple[str, ...] | None, FromList] = None
    parallel: bool = False

    @property
    def group(self) -> Group:
        return Group(self.layers, self.keep_rows, self.resident, self.parallel)

    @model_validator(mode="after")
    def _fused_or_parallel(self) -> GroupFile:
        if self.parallel and not (self.keep_rows and self.resident is None):
            raise ValueError("keep_rows and resident are of fused layers; leave them out where parallel is true")
        return self


class LayerFile(Model):
    """A layer's shares (output channels by core, in channel order) and, if stated, its tiles."""

    shares: dict[Name, Annotated[int, Field(ge=0)]] = Field(min_length=1)
    tile: TileFile | None = None
    nest: NestFile | None = None
    ox_unroll: Annotated[int, Field(ge=0)] = 0


def _as_group(value: Any) -> Any:
    """A group may be a plain list of layers."""
    return {"layers": value} if isinstance(value, (list, tuple)) else value


class MappingFile(Model):
    """A mapping file; runtime `serial` unless stated."""

    name: str = ""
    runtime: Literal["serial", "overlapped"] = "serial"
    layers: dict[str, LayerFile] = {}
    groups: Annotated[tuple[Annotated[GroupFile, BeforeValidator(_as_group)], ...], FromList] = ()


def _structure(file: MappingFile, workload: Workload, soc: SoC) -> list[tuple[Place, str]]:
    """What can be said with a place in the file: names and sums. `problems` says the rest."""
    out: list[tuple[Place, str]] = []
    names = {layer.name: layer for layer in workload}
    for name, entry in file.layers.items():
        at: Place = ("layers", name)
        if name not in names:
            out.append((at, f"{workload.name} has no such layer; `cosoc show workload {workload.name}` lists them"))
            continue
        for core in entry.shares:
            if core not in soc.cores:
                out.append(((*at, "shares", core), f"{soc.name} has no such core; it has {', '.join(soc.cores)}"))
        total = sum(entry.shares.values())
        if total != names[name].k:
            out.append(((*at, "shares"), f"sum to {total} output channels; the layer has {names[name].k}"))
        if entry.tile is not None and set(entry.tile.k) != set(entry.shares):
            found, right = ", ".join(entry.tile.k), ", ".join(entry.shares)
            out.append(((*at, "tile", "k"), f"names {found}; name the cores of the shares: {right}"))
    for i, group in enumerate(file.groups):
        out += [(("groups", i), f"{workload.name} has no layer {n!r}") for n in group.layers if n not in names]
    if out:
        return out
    return [((), reason) for reason in problems(_mapping(file, "file", None), workload, soc)]


def _mapping(file: MappingFile, name: str, runtime: Runtime | None) -> Mapping:
    layers = {}
    for layer, entry in file.layers.items():
        shares = tuple(Share(core, k) for core, k in entry.shares.items())
        tile = entry.tile
        tiling = Tiling(tuple(tile.k[s.core] for s in shares), tile.oy, tile.ox, tile.order, tile.c) if tile else None
        nest = entry.nest.nest if entry.nest else None
        layers[layer] = LayerMapping(shares, tiling, entry.ox_unroll, nest)
    return Mapping(file.name or name, runtime or file.runtime, layers, tuple(g.group for g in file.groups))


def load_mapping(path: Path, workload: Workload, soc: SoC, runtime: Runtime | None = None) -> Mapping:
    """Read and check a mapping file; `runtime` overrides the file's. InputError names file, line and column."""

    def check(file: MappingFile) -> list[tuple[Place, str]]:
        return _structure(file, workload, soc)

    return _mapping(load_model(path, MappingFile, problems=check), path.stem, runtime)


def dump_mapping(mapping: Mapping) -> str:
    """The mapping as YAML text that `load_mapping` reads back."""
    lines = [f"name: {json.dumps(mapping.name)}", f"runtime: {mapping.runtime}"]
    lines.append("layers:" if mapping.layers else "layers: {}")
    for name, entry in mapping.layers.items():
        text = "shares: {" + ", ".join(f"{s.core}: {s.k}" for s in entry.shares) + "}"
        if entry.tiling is not None:
            pairs = zip(entry.shares, entry.tiling.k, strict=True)
            k = "{" + ", ".join(f"{share.core}: {kt}" for share, kt in pairs) + "}"
            rest = f"oy: {entry.tiling.oy}, ox: {entry.tiling.ox}, order: {entry.tiling.order}"
            text += f", tile: {{k: {k}, {rest}{f', c: {entry.tiling.c}' if entry.tiling.c else ''}}}"
        if entry.nest is not None:
            sizes = ", ".join(f"{d}: {getattr(entry.nest, d)}" for d in NEST_DIMS)
            text += f", nest: {{{sizes}, order: [{', '.join(entry.nest.order)}]"
            text += "}" if entry.nest.reuse else ", reuse: false}"
        if entry.ox_unroll:
            text += f", ox_unroll: {entry.ox_unroll}"
        lines.append(f"  {json.dumps(name)}: {{{text}}}")
    if mapping.groups:
        lines.append("groups:")
        lines += [f"  - {_group_text(group)}" for group in mapping.groups]
    return "\n".join(lines) + "\n"


def _group_text(group: Group) -> str:
    """A plain list where that says all."""
    names = json.dumps(list(group.layers))
    if group.parallel:
        return f"{{layers: {names}, parallel: true}}"
    if group.keep_rows and group.resident is None:
        return names
    text = f"layers: {names}, keep_rows: {json.dumps(group.keep_rows)}"
    return f"{{{text}}}" if group.resident is None else f"{{{text}, resident: {json.dumps(list(group.resident))}}}"


def _built_in(soc: str) -> dict[str, Path]:
    folder = Path(str(resources.files("cosoc.socs"))) / "mappings" / soc
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def list_mappings(soc: str) -> tuple[str, ...]:
    """Names that `find_mapping` knows for a SoC: rules for any workload, and files that come with the SoC."""
    return (DEFAULT, *MANUAL, *_built_in(soc))


def find_mapping(name_or_path: str, workload: Workload, soc: SoC, runtime: Runtime | None = None) -> Mapping:
    """A mapping by rule name (`all_8bit`, ...), by the name of one that comes with the SoC, or by file."""
    if name_or_path in (DEFAULT, *MANUAL):
        return named_mapping(name_or_path, workload, soc, runtime or "serial")
    files = _built_in(soc.name)
    if name_or_path in files:
        return load_mapping(files[name_or_path], workload, soc, runtime)
    if name_or_path.endswith((".yaml", ".yml")) or Path(name_or_path).exists():
        return load_mapping(Path(name_or_path), workload, soc, runtime)
    known = ", ".join(list_mappings(soc.name))
    raise InputError(f"no mapping named {name_or_path!r}; there is {known}, or give a .yaml file")


def json_schema() -> dict[str, Any]:
    """The JSON schema of a mapping file."""
    return MappingFile.model_json_schema()
