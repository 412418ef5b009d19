"""Mappings in YAML, out and in, and by name.

    runtime: overlapped
    layers:
      layer1.0.conv1:
        parts: {digital: 16, analog: 48}
        tile: {k: {digital: 16, analog: 24}, oy: 8}
        order: [k, oy, ox, c, fy, fx]
      fc: {parts: {digital: 10}}
    pieces:
      - {layers: [conv1, maxpool]}
      - {layers: [block3.conv, block3.dw], how: parallel}

parts: output channels by core, in channel order; {channels: 16, bits: 4} in place of 16: with weights of so many bits,
on a core that has such a format. tile: what one job spans along k, c, fy, fx, oy, ox and n (images of a
batch; left out: one); k by core where there are several; what else is left out is all of it. order: the loops around
the tiles, outermost first (left out: weights stay while pixels pass; n, left out, is outermost). reuse: false loads
every operand for every tile. unroll: most pixels of an operation of an analog array. pieces: layers that run fused,
with keep_rows and resident where a chip has the choice, or in parallel.

On a cluster a mapping has stages: which device takes the network to behind which layers (or, across branches, a list
of them), on how many devices in turns; and how many inferences pass together, as a batch. The rest holds inside of the
devices:

    micro_batch: 4
    stages:
      - {device: gpu, behind: layer3.1.add}
      - {device: cim, behind: fc, replicas: 2}

Layers, tiles and pieces may be left out: what a file is silent about is completed as for any mapping. A key that the
core or the mover of a layer does not honour is refused at its line.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from collections.abc import Mapping as MappingOf
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import device_soc
from cosoc.sim.files.mending import Mended, Place
from cosoc.sim.files.names import RULES, built_in_mappings, list_mappings
from cosoc.sim.files.yamlfile import load_model
from cosoc.sim.manual import named_mapping
from cosoc.sim.model.cluster import Cluster
from cosoc.sim.model.mapping import (
    DIMS,
    WEIGHTS_STAY,
    Dim,
    Extent,
    How,
    LayerPlan,
    Mapping,
    Part,
    Piece,
    Runtime,
    Stage,
)
from cosoc.sim.model.soc import FromList, Model, Name, SoC
from cosoc.sim.model.tiles import job_form, whole
from cosoc.sim.model.units import Bits, Devices, Elements, ElementsOr0, Items
from cosoc.sim.model.workload import Layer, Workload, multiplied
from cosoc.sim.progress import Report
from cosoc.sim.stages import Prices, cluster_problems, sections_of, stage_problems, stages_example
from cosoc.sim.tiler import problems


class TileFile(Model):
    """What one job spans along each dimension; left out: all of it, but one image. k: by core, or one figure for a
    layer on one core."""

    FORMER: ClassVar[dict[str, str]] = {"order": "write order beside tile, as the loops around it, outermost first"}

    k: Elements | dict[Name, Elements] | None = None  # output channels of a job, by core where there are several
    c: Elements | None = None  # input channels
    fy: Elements | None = None  # filter rows
    fx: Elements | None = None  # filter columns
    oy: Elements | None = None  # output rows
    ox: Elements | None = None  # output columns
    n: Elements | None = None  # images of the batch; left out: one

    def k_on(self, core: str) -> int | None:
        """Output channels of a job on a core; None where nothing is stated."""
        return self.k.get(core) if isinstance(self.k, dict) else self.k

    def extent(self, core: str, all_of_it: Extent) -> Extent:
        """The tile on a core, given the whole of the layer's part there."""
        stated = {d: getattr(self, d) or all_of_it.along(d) for d in DIMS if d not in ("k", "n")}
        return Extent(k=self.k_on(core) or all_of_it.k, **stated, n=self.n or 1)


class PartFile(Model):
    """Output channels on a core, with weights of so many bits (left out: the core's own)."""

    channels: ElementsOr0  # output channels on the core
    bits: Bits | None = None  # of its weights, on a core with several formats


def _as_part(value: Any) -> Any:
    """A part may be its channels alone."""
    return {"channels": value} if isinstance(value, int) and not isinstance(value, bool) else value


class LayerFile(Model):
    """A layer's parts and, if stated, its tiles, the loops around them, and what stays."""

    FORMER: ClassVar[dict[str, str]] = {
        "shares": "write parts",
        "nest": "write its sizes as tile, and order and reuse beside it",
        "ox_unroll": "write unroll",
    }

    # output channels by core, in channel order
    parts: dict[Name, Annotated[PartFile, BeforeValidator(_as_part, int | PartFile)]] = Field(min_length=1)
    tile: TileFile | None = None  # what one job spans along each dimension; left out: chosen
    # the loops around the tiles, outermost first; left out: weights stay while pixels pass
    order: Annotated[tuple[Literal[DIMS], ...] | None, FromList] = None  # type: ignore[valid-type]
    reuse: bool = True  # false loads every operand for every tile
    unroll: ElementsOr0 = 0  # most pixels of an operation of an analog array; 0: as many as fit

    @model_validator(mode="after")
    def _each_loop_once(self) -> LayerFile:
        stated = self.order if self.order is None or "n" in self.order else ("n", *self.order)
        if stated is not None and sorted(stated) != sorted(DIMS):
            raise ValueError(f"order {', '.join(stated)}: name each of {', '.join(DIMS)} once; n may be left out")
        return self

    def plan(self, layer: Layer, soc: SoC) -> LayerPlan:
        """What the entry says of a layer."""
        order: tuple[Dim, ...] | None = self.order
        if order is not None and "n" not in order:
            order = ("n", *order)
        parts = tuple(
            Part(core, one.channels, self._tile(layer, soc, core, one.channels), one.bits)
            for core, one in self.parts.items()
        )
        return LayerPlan(parts, order or (WEIGHTS_STAY if self.tile else None), self.reuse, self.unroll)

    def _tile(self, layer: Layer, soc: SoC, core: str, channels: int) -> Extent | None:
        if self.tile is None:
            return None
        own = job_form(layer, soc.cores[core]) if core in soc.cores else layer
        most = min(channels, own.k) if layer.grouped else channels
        return self.tile.extent(core, replace(whole(own), k=max(most, 1)))


class PieceFile(Model):
    """Layers that run fused, with what stays in memory (rows between tiles, and the weights of which layers; left out:
    all), or in parallel."""

    FORMER: ClassVar[dict[str, str]] = {"parallel": "write how: parallel"}

    layers: Annotated[tuple[str, ...], FromList, Field(min_length=1)]  # one after the other in the network
    how: How = "fused"  # whether they run fused, tile by tile through all of them, or in parallel
    keep_rows: bool = True  # rows between tiles stay in memory, and are not computed again
    resident: Annotated[tuple[str, ...] | None, FromList] = None  # layers whose weights stay in memory; left out: all

    @property
    def piece(self) -> Piece:
        return Piece(self.layers, self.how, self.keep_rows, self.resident)

    @model_validator(mode="after")
    def _fused_or_parallel(self) -> PieceFile:
        if self.how == "parallel" and not (self.keep_rows and self.resident is None):
            raise ValueError("keep_rows and resident are of fused layers; leave them out where how is parallel")
        return self


def _as_piece(value: Any) -> Any:
    """A fused piece may be a plain list of layers."""
    return {"layers": value} if isinstance(value, (list, tuple)) else value


def _as_names(value: Any) -> Any:
    """A single layer's name stands for a list of one."""
    return (value,) if isinstance(value, str) else value


class StageFile(Model):
    """A stage of a cluster's mapping: its device, the layers behind which it ends, and on how many devices it is."""

    device: Name  # entry of the cluster
    # layers behind which the stage ends
    behind: Annotated[tuple[str, ...], FromList, BeforeValidator(_as_names), Field(min_length=1)]
    replicas: Devices = 1  # devices that take inferences in turns

    @property
    def stage(self) -> Stage:
        return Stage(self.device, self.behind, self.replicas)


class MappingFile(Model):
    """A mapping file; runtime `serial` unless stated."""

    FORMER: ClassVar[dict[str, str]] = {"groups": "write pieces"}

    name: str = ""  # by which results call it; left out: the file's
    # whether jobs wait for each other, or run where operands and cores are free
    runtime: Literal["serial", "overlapped"] = "serial"
    layers: dict[str, LayerFile] = {}  # plans by layer; those left out are completed
    # layers that run fused or in parallel
    pieces: Annotated[tuple[Annotated[PieceFile, BeforeValidator(_as_piece)], ...], FromList] = ()
    stages: Annotated[tuple[StageFile, ...], FromList] = ()  # of a cluster: which device takes the network to where
    micro_batch: Items = 1  # inferences that pass together


def _structure(
    file: MappingFile, workload: Workload, socs: MappingOf[str, SoC], mended: Mended
) -> list[tuple[Place, str]]:
    """What is wrong with the names and sums of a file, each at its place. socs: that of each layer, by its name, where
    it is known. mended: what the file has otherwise."""
    out: list[tuple[Place, str]] = []
    names = {layer.name: layer for layer in workload}
    for name, entry in file.layers.items():
        at: Place = ("layers", name)
        if name not in names:
            out.append((at, f"{workload.name} has no such layer; `cosoc show workload {workload.name}` lists them"))
            continue
        soc = socs.get(name)
        for core in entry.parts if soc is not None else ():
            if soc is not None and core not in soc.cores:
                out.append(((*at, "parts", core), f"{soc.name} has no such core; it has {', '.join(soc.cores)}"))
        total = sum(part.channels for part in entry.parts.values())
        if total != names[name].k:
            out.append(((*at, "parts"), f"sum to {total} output channels; the layer has {names[name].k}"))
        same = entry.tile is None or not isinstance(entry.tile.k, dict) or set(entry.tile.k) == set(entry.parts)
        if not same and not mended.touches((*at, "parts")):
            assert entry.tile is not None and isinstance(entry.tile.k, dict)
            found, right = ", ".join(entry.tile.k), ", ".join(entry.parts)
            out.append(((*at, "tile", "k"), f"names {found}; name the cores of the parts: {right}"))
        if entry.order is not None and entry.tile is None and not mended.touches((*at, "tile")):
            out.append(((*at, "order"), "goes with tile, which is not stated; state both, or leave both to the tiler"))
    return out


Problems = Callable[[Mapping], list[tuple[Place, str]]]


def _all_of_it(mapping: Mapping, wrong: Collection[Place], look: Problems) -> list[tuple[Place, str]]:
    """What is wrong with a mapping beyond its structure. What is wrong in one layer or piece may end the look at the
    others: so those are left out in which something is wrong, and the rest is looked at again."""
    out: list[tuple[Place, str]] = []
    layers, pieces = dict(mapping.layers), dict(enumerate(mapping.pieces))
    left_out = {place[:2] for place in wrong}
    while True:
        layers = {name: plan for name, plan in layers.items() if ("layers", name) not in left_out}
        pieces = {i: piece for i, piece in pieces.items() if ("pieces", i) not in left_out}
        numbers = list(pieces)
        found = [
            (("pieces", numbers[int(at[1])], *at[2:]) if at[:1] == ("pieces",) and len(at) > 1 else at, what)
            for at, what in look(replace(mapping, layers=layers, pieces=tuple(pieces.values())))
        ]
        out += found
        left_out = {at[:2] for at, _ in found}
        if not any(
            (kind, one) in left_out for kind, there in (("layers", layers), ("pieces", pieces)) for one in there
        ):
            return out


def _mapping(
    file: MappingFile, name: str, runtime: Runtime | None, workload: Workload, socs: MappingOf[str, SoC]
) -> Mapping:
    known = {layer.name: layer for layer in workload}
    return Mapping(
        file.name or name,
        runtime or file.runtime,
        {layer: entry.plan(known[layer], socs[layer]) for layer, entry in file.layers.items()},
        tuple(one.piece for one in file.pieces),
        tuple(one.stage for one in file.stages),
        file.micro_batch,
    )


def _without(file: MappingFile, wrong: Collection[Place]) -> MappingFile:
    """A file without the layers in which something is wrong."""
    names = {place[1] for place in wrong if place[:1] == ("layers",) and len(place) > 1}
    return file.model_copy(update={"layers": {name: one for name, one in file.layers.items() if name not in names}})


def load_mapping(
    path: Path, workload: Workload, soc: SoC, runtime: Runtime | None = None, text: str | None = None
) -> Mapping:
    """Read and check a mapping file, or a text that errors call `path`; `runtime` overrides the file's. InputError
    names file, line and column."""
    socs = dict.fromkeys((layer.name for layer in workload), soc)

    def check(file: MappingFile, mended: Mended) -> list[tuple[Place, str]]:
        out = _structure(file, workload, socs, mended)
        wrong = {*mended.places, *(at for at, _ in out)}
        right = _without(file, wrong)
        whole = _mapping(right, "file", runtime, workload, socs)
        return out + _all_of_it(whole, wrong, lambda mapping: problems(mapping, workload, soc))

    return _mapping(load_model(path, MappingFile, problems=check, text=text), path.stem, runtime, workload, socs)


def load_cluster_mapping(
    path: Path, workload: Workload, cluster: Cluster, runtime: Runtime | None = None,
    known: MappingOf[str, Prices] | None = None,
) -> Mapping:  # fmt: skip
    """The same for a cluster. known: prices of stages by device; what has one is not looked into again."""

    def mapped(file: MappingFile) -> Mapping:
        layers = multiplied(workload, file.micro_batch)
        return _mapping(file, path.stem, runtime, layers, _socs(file, workload, cluster))

    def check(file: MappingFile, mended: Mended) -> list[tuple[Place, str]]:
        if mended.entries("stages") or ("stages",) in mended.places:
            return _structure(file, workload, {}, mended)
        out = stage_problems(tuple(one.stage for one in file.stages), workload, cluster)
        if out:
            return out + _structure(file, workload, {}, mended)
        out = _structure(file, workload, _socs(file, workload, cluster), mended)
        wrong = {*mended.places, *(at for at, _ in out)}
        look = partial(cluster_problems, workload=workload, cluster=cluster, known=known)
        return out + _all_of_it(mapped(_without(file, wrong)), wrong, look)

    return mapped(load_model(path, MappingFile, problems=check))


def _socs(file: MappingFile, workload: Workload, cluster: Cluster) -> dict[str, SoC]:
    """The SoC that runs each layer, where the stages are right."""
    stages = tuple(one.stage for one in file.stages)
    sections = sections_of(workload, stages)
    socs = {stage.device: device_soc(cluster, stage.device) for stage in stages}
    return {layer.name: socs[stage.device]
            for stage, section in zip(stages, sections, strict=True) for layer in section}  # fmt: skip


def dump_mapping(mapping: Mapping) -> str:
    """The mapping as YAML text that `load_mapping` reads back."""
    lines = [f"name: {json.dumps(mapping.name)}", f"runtime: {mapping.runtime}"]
    if mapping.stages:
        lines += [f"micro_batch: {mapping.micro_batch}", "stages:"]
        for stage in mapping.stages:
            behind = json.dumps(stage.behind[0] if len(stage.behind) == 1 else list(stage.behind))
            more = f", replicas: {stage.replicas}" if stage.replicas > 1 else ""
            lines.append(f"  - {{device: {stage.device}, behind: {behind}{more}}}")
    lines.append("layers:" if mapping.layers else "layers: {}")
    with_n = mapping.micro_batch > 1  # what a batch leaves out is all of it
    lines += [f"  {json.dumps(name)}: {{{_plan_text(plan, with_n)}}}" for name, plan in mapping.layers.items()]
    if mapping.pieces:
        lines.append("pieces:")
        lines += [f"  - {_piece_text(piece)}" for piece in mapping.pieces]
    return "\n".join(lines) + "\n"


def _plan_text(plan: LayerPlan, with_n: bool) -> str:
    text = "parts: {" + ", ".join(f"{part.core}: {_part_text(part)}" for part in plan.parts) + "}"
    tiles = {part.core: part.tile for part in plan.parts if part.tile is not None}
    if plan.order is not None and tiles:
        k = ", ".join(f"{core}: {tile.k}" for core, tile in tiles.items())
        # Parts that compute other forms of the layer read other channels and taps: only what they share is stated.
        shared = [d for d in DIMS if d != "k" and len({tile.along(d) for tile in tiles.values()}) == 1]
        sizes = [f"k: {{{k}}}" if len(tiles) > 1 else f"k: {plan.tile.k}"]
        sizes += [f"{d}: {plan.tile.along(d)}" for d in shared if d != "n" or plan.tile.n > 1 or with_n]
        text += f", tile: {{{', '.join(sizes)}}}, order: [{', '.join(plan.order)}]"
    text += "" if plan.reuse else ", reuse: false"
    return text + (f", unroll: {plan.unroll}" if plan.unroll else "")


def _part_text(part: Part) -> str:
    """The channels alone where that says all."""
    return f"{part.channels}" if part.bits is None else f"{{channels: {part.channels}, bits: {part.bits}}}"


def _piece_text(piece: Piece) -> str:
    """A plain list where that says all."""
    names = json.dumps(list(piece.layers))
    if piece.how == "parallel":
        return f"{{layers: {names}, how: parallel}}"
    if piece.keep_rows and piece.resident is None:
        return names
    text = f"layers: {names}, keep_rows: {json.dumps(piece.keep_rows)}"
    return f"{{{text}}}" if piece.resident is None else f"{{{text}, resident: {json.dumps(list(piece.resident))}}}"


def find_mapping(
    name_or_path: str, workload: Workload, soc: SoC, runtime: Runtime | None = None, objective: str | None = None,
    report: Report | None = None,
) -> Mapping:  # fmt: skip
    """A mapping by rule name (`all_8bit`, ...), by the name of one that comes with the SoC, or by file. objective,
    report: as `named_mapping` has them; a file has chosen already."""
    if name_or_path in RULES:
        return named_mapping(name_or_path, workload, soc, runtime, objective, report)
    if objective is not None:
        raise InputError(f"--objective {objective}: mapping {name_or_path} leaves nothing to choose; use min_cost")
    files = built_in_mappings(soc.name)
    if name_or_path in files:
        return load_mapping(files[name_or_path], workload, soc, runtime)
    if name_or_path.endswith((".yaml", ".yml")) or Path(name_or_path).exists():
        return load_mapping(Path(name_or_path), workload, soc, runtime)
    known = ", ".join(list_mappings(soc.name))
    raise InputError(f"no mapping named {name_or_path!r}; there is {known}, or give a .yaml file")


def find_cluster_mapping(
    name_or_path: str | None, workload: Workload, cluster: Cluster, runtime: Runtime | None = None
) -> Mapping:
    """A cluster's mapping by file: none has a name, as stages are of a network and a cluster."""
    if name_or_path is not None and (name_or_path.endswith((".yaml", ".yml")) or Path(name_or_path).exists()):
        return load_cluster_mapping(Path(name_or_path), workload, cluster, runtime)
    found = "no mapping" if name_or_path is None else repr(name_or_path)
    raise InputError(
        f"--mapping: found {found}; {cluster.name} is a cluster, whose mapping is a file with stages: write one, such "
        f"as {stages_example(workload, cluster)}, or let `cosoc search --space splits` find some"
    )


def json_schema() -> dict[str, Any]:
    """The JSON schema of a mapping file."""
    return MappingFile.model_json_schema()
