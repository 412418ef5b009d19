"""Timeloop's mapping files, in and out: one layer's loop nest, a list of directives by level.

What a mapping of cosoc says of a layer, one level of such a file says: the temporal loops of the level outside of the
tiles (the main memory) are the loops around them, and the factors of all levels below multiply to the tile. What a core
does inside of a tile (the order of those loops, what is unrolled in space, what bypasses which register) is the core
model's own, so it is read, checked and not kept; whoever imports a file is told. What would change the loops around the
tiles, and cosoc cannot have, is refused at its line.

Read from Timeloop's documentation of version 3 (mapping) and from files that versions 3 and 4 of its mapper have
written: `factors` as text (`C4 K8`, `C=4 K=8`) or as a list, `permutation` innermost first, `datatype` or `dataspace`.
Dimensions are those of its convolution layers: N images, K or M output channels, C input channels, R and P columns of
filter and output, S and Q rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from collections.abc import Mapping as MappingOf
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator

from cosoc.sim.errors import InputError
from cosoc.sim.files.mending import WHOLE, Mended, Place
from cosoc.sim.files.yamlfile import load_model
from cosoc.sim.model.mapping import DIMS, Dim, Extent, LayerPlan, Mapping, Part, Runtime
from cosoc.sim.model.soc import FromList, Model, SoC
from cosoc.sim.model.tiles import job_form, whole
from cosoc.sim.model.workload import Layer, Workload
from cosoc.sim.tiler import default_core, placed, problems

LETTERS: dict[str, Dim] = {
    "N": "n", "K": "k", "M": "k", "C": "c", "S": "fy", "R": "fx", "Q": "oy", "P": "ox",
}  # fmt: skip
WRITTEN: dict[Dim, str] = {"n": "N", "k": "K", "c": "C", "fy": "S", "fx": "R", "oy": "Q", "ox": "P"}
OPERANDS = ("Weights", "Inputs", "Outputs")
OUTERMOST = ("dram", "mainmemory", "main_memory")  # what levels outside of all tiles are called, in small letters
SUFFIX = ".map.yaml"
_FACTOR = re.compile(r"([A-Z])\s*=?\s*(\d+)")


def _words(value: object) -> object:
    """Text or a list as the words in it; `RPK` as its letters is told apart where it is read."""
    return tuple(re.split(r"[\s,]+", value.strip())) if isinstance(value, str) else value


Words = Annotated[tuple[str, ...], FromList, BeforeValidator(_words)]


class DirectiveFile(Model):
    """What a file says of a level."""

    target: str  # the level
    type: Literal["temporal", "spatial", "datatype", "dataspace", "bypass"]  # of loops, or of what a level keeps
    factors: Words | None = None  # of its loops, by dimension
    permutation: Words | None = None  # of its loops, innermost first
    split: int | None = None  # of spatial loops: how many of them are along the first axis
    keep: Words | None = None  # operands that the level holds
    bypass: Words | None = None  # operands that it does not


class TimeloopFile(Model):
    """A mapping file of Timeloop."""

    mapping: Annotated[tuple[DirectiveFile, ...], FromList]


@dataclass(frozen=True)
class Nest:
    """What is kept of a file: the tile, and the loops around it, outermost first. outside: the index of the directive
    that says these. inside: names of the levels inside of a tile."""

    tile: Extent
    order: tuple[Dim, ...]
    outside: int
    inside: tuple[str, ...]


def from_files(
    files: MappingOf[str, Path], workload: Workload, soc: SoC, core: str | None = None, outside: str | None = None,
    runtime: Runtime = "overlapped",
) -> tuple[Mapping, tuple[str, ...]]:  # fmt: skip
    """The mapping in which layers have the nests of files, on one core (left out: each layer's default), the others
    left open; and the levels inside of tiles, of which no more than the sizes is kept. outside: the level whose loops
    go around the tiles (left out: the SoC's main memory, or DRAM). InputError at file:line:column."""
    names = {layer.name for layer in workload}
    plans, inside = dict[str, LayerPlan](), dict[str, None]()
    if core is not None and core not in soc.cores:
        raise InputError(f"--core {core}: {soc.name} has no such core; it has {', '.join(soc.cores)}")
    for name, path in files.items():
        if name not in names:
            raise InputError(f"{path}: {workload.name} has no layer {name!r}")
        layer = workload[name]
        nest = _read(path, workload, layer, core or default_core(layer, soc), soc, outside, runtime)
        inside |= dict.fromkeys(nest.inside)
        plans[name] = _plan(nest, layer, core or default_core(layer, soc))
    return Mapping("imported", runtime, plans), tuple(inside)


def _plan(nest: Nest, layer: Layer, core: str) -> LayerPlan:
    return LayerPlan((Part(core, layer.k, nest.tile),), nest.order)


def _read(
    path: Path, workload: Workload, layer: Layer, core: str, soc: SoC, outside: str | None, runtime: Runtime
) -> Nest:
    """The nest of a layer on a core, which can run it."""
    found: list[Nest] = []

    def check(file: TimeloopFile, mended: Mended) -> Sequence[tuple[Place, str]]:
        if mended != WHOLE:  # loops may be missing in which nothing is wrong
            return []
        wrong, nest = _nest(file, layer, core, soc, outside)
        if nest is None:
            return wrong
        found.append(nest)
        alone = Mapping("imported", runtime, {layer.name: _plan(nest, layer, core)})
        return [(("mapping", nest.outside), why) for _, why in problems(alone, workload, soc)]

    load_model(path, TimeloopFile, problems=check)
    return found[0]


def _nest(
    file: TimeloopFile, layer: Layer, core: str, soc: SoC, outside: str | None
) -> tuple[list[tuple[Place, str]], Nest | None]:
    wrong: list[tuple[Place, str]] = []
    targets = dict.fromkeys(one.target for one in file.mapping)
    outer = outside if outside in targets else None
    if outside is None:
        outer = next((t for t in targets if t == soc.main_memory or t.lower() in OUTERMOST), None)
    if outer is None:
        found = f"found {outside}" if outside else "none is called DRAM or MainMemory"
        text = f"{found}; name the level outside of the tiles with --outside: {', '.join(targets)}"
        return [(("mapping",), text)], None
    seen: set[tuple[str, str]] = set()
    inner: dict[Dim, int] = dict.fromkeys(DIMS, 1)
    around: dict[Dim, int] = dict.fromkeys(DIMS, 1)
    order: tuple[Dim, ...] = DIMS
    at_outer, letters = 0, set[str]()
    for i, one in enumerate(file.mapping):
        at: Place = ("mapping", i)
        kind = "datatype" if one.type in ("dataspace", "bypass") else one.type
        if (one.target, kind) in seen:
            wrong.append(((*at, "target"), f"a second {kind} directive of {one.target}; one each"))
        seen.add((one.target, kind))
        if kind == "datatype":
            wrong += _keeps(one, at, one.target == outer)
            continue
        wrong += [((*at, key), f"goes with datatype, not with {kind}") for key in ("keep", "bypass")
                  if getattr(one, key) is not None]  # fmt: skip
        if one.split is not None and kind == "temporal":
            wrong.append(((*at, "split"), "goes with spatial loops"))
        factors, more = _factors(one, at)
        wrong += more
        letters |= {letter for letter in "KM" if any(word.startswith(letter) for word in one.factors or ())}
        loops, more = _order(one, at, factors)
        wrong += more
        if one.target == outer and kind == "spatial" and any(n > 1 for n in factors.values()):
            text = "loops in space around tiles: parts of a layer on several cores are what cosoc has for that"
            wrong.append(((*at, "factors"), text))
        into = around if one.target == outer and kind == "temporal" else inner
        for d, n in factors.items():
            into[d] *= n
        if into is around:
            order, at_outer = loops, i
    if letters == {"K", "M"}:
        wrong.append((("mapping",), "has both K and M, which are both output channels"))
    if not wrong and (outer, "temporal") not in seen:
        wrong.append((("mapping",), f"no temporal directive of {outer}, whose loops go around the tiles"))
    if wrong:
        return wrong, None
    all_of_it = whole(job_form(layer, soc.cores[core]))
    for d in DIMS:
        if inner[d] * around[d] != all_of_it.along(d):
            text = f"factors of {WRITTEN[d]} multiply to {inner[d] * around[d]}, {layer.name} has {all_of_it.along(d)}"
            wrong.append((("mapping", at_outer), text))
    inside = tuple(target for target in targets if target != outer)
    return wrong, None if wrong else Nest(Extent(**inner), order, at_outer, inside)


def _keeps(one: DirectiveFile, at: Place, outermost: bool) -> Iterator[tuple[Place, str]]:
    for key in ("factors", "permutation", "split"):
        if getattr(one, key) is not None:
            yield (*at, key), f"goes with loops, not with {one.type}"
    for key in ("keep", "bypass"):
        for word in getattr(one, key) or ():
            if word and word not in OPERANDS:
                yield (*at, key), f"found {word!r}; operands are {', '.join(OPERANDS)}"
    both = set(one.keep or ()) & set(one.bypass or ()) - {""}
    if both:
        yield (*at, "bypass"), f"{', '.join(sorted(both))} is kept, and bypasses it"
    if outermost and set(one.bypass or ()) - {""}:
        yield (*at, "bypass"), f"{one.target} is where all tensors live; nothing can bypass it"


def _factors(one: DirectiveFile, at: Place) -> tuple[dict[Dim, int], list[tuple[Place, str]]]:
    out: dict[Dim, int] = {}
    wrong: list[tuple[Place, str]] = []
    place: Place = (*at, "factors")
    for word in one.factors or ():
        if not word:
            continue
        match = _FACTOR.fullmatch(word)
        if match is None or match[1] not in LETTERS:
            text = f"found {word!r}; a whole factor of one of {', '.join(LETTERS)} is needed, such as C4 or C=4"
            wrong.append((place, text))
        elif int(match[2]) < 1:
            wrong.append((place, f"found {word!r}, which is a constraint; a mapping has whole factors from 1"))
        elif LETTERS[match[1]] in out:
            wrong.append((place, f"names {match[1]} twice; once is enough"))
        else:
            out[LETTERS[match[1]]] = int(match[2])
    return out, wrong


def _order(one: DirectiveFile, at: Place, factors: dict[Dim, int]) -> tuple[tuple[Dim, ...], list[tuple[Place, str]]]:
    """The loops of a level, outermost first; what a permutation leaves out is innermost, where it has one iteration."""
    place: Place = (*at, "permutation")
    letters = [letter for word in one.permutation or () for letter in word]
    unknown = [letter for letter in letters if letter not in LETTERS]
    if unknown:
        return DIMS, [(place, f"found {unknown[0]!r}; dimensions are {', '.join(LETTERS)}")]
    named = [LETTERS[letter] for letter in reversed(letters)]
    if len(set(named)) < len(named):
        return DIMS, [(place, "names a dimension twice")]
    missing = [d for d in DIMS if d not in named]
    unordered = [WRITTEN[d] for d in missing if factors.get(d, 1) > 1]
    if unordered and (named or len(unordered) > 1):
        return DIMS, [(place if letters else at, f"says not where the loop of {', '.join(unordered)} stands")]
    return (*named, *missing), []


# ---------------------------------------------------------------------------------------------------------------------
# Out


def to_files(mapping: Mapping, workload: Workload, soc: SoC) -> tuple[dict[str, str], dict[str, str]]:
    """Files by layer, and of layers that have none, why. InputError where the machine cannot run the mapping."""
    at = placed(mapping, workload, soc)
    files, left = dict[str, str](), dict[str, str]()
    fused = {name for piece in at.mapping.pieces if piece.how == "fused" for name in piece.layers}
    for layer in workload:
        plan = at.mapping.layers[layer.name]
        why = "it runs fused with others" if layer.name in fused else why_no_nest(layer, plan, soc)
        if why:
            left[layer.name] = why
        else:
            files[layer.name] = _text(layer, plan, soc)
    return files, left


def why_no_nest(layer: Layer, plan: LayerPlan, soc: SoC) -> str:
    """Why a layer under a plan is no perfect nest of whole factors; '' where it is."""
    parts = [part for part in plan.parts if part.channels]
    if layer.op not in ("conv", "matmul"):
        return f"{layer.op} is no nest of multiplications"
    if len(parts) != 1:
        return f"it is on several cores: {', '.join(part.core for part in parts)}"
    if not plan.reuse:
        return "every tile loads its own operands (reuse: false)"
    tile, all_of_it = parts[0].tile, whole(job_form(layer, soc.core_of(parts[0])))
    if layer.groups > 1 and not layer.depthwise:
        return f"it has {layer.groups} groups"
    if layer.op == "matmul" and layer.n > 1:
        return f"each of its {layer.n} images has a second operand of its own"
    assert tile is not None  # the mapping is complete
    for d in DIMS:
        if all_of_it.along(d) % tile.along(d):
            return f"tiles of {tile.along(d)} along {d} do not divide its {all_of_it.along(d)}"
    return ""


def _text(layer: Layer, plan: LayerPlan, soc: SoC) -> str:
    (part,) = (part for part in plan.parts if part.channels)
    core, tile = soc.core_of(part), part.tile
    assert tile is not None
    all_of_it = whole(job_form(layer, core))
    counts = {d: all_of_it.along(d) // tile.along(d) for d in DIMS}
    near = core.memory if core.memory != soc.main_memory else f"{part.core}_tile"
    lines = [f"# {layer.name} on {soc.name}, {part.core}: the loops around its tiles, and the tiles", "mapping:"]
    lines += _loops(soc.main_memory, counts, plan.loops)
    lines += _loops(near, {d: tile.along(d) for d in DIMS}, DIMS)
    for target in (soc.main_memory, near):
        lines += [f"  - target: {target}", "    type: datatype", f"    keep: [{', '.join(OPERANDS)}]", "    bypass: []"]
    return "\n".join(lines) + "\n"


def _loops(target: str, counts: dict[Dim, int], order: Sequence[Dim]) -> list[str]:
    factors = " ".join(f"{WRITTEN[d]}{counts[d]}" for d in DIMS)
    innermost_first = "".join(WRITTEN[d] for d in reversed(order))
    loops = [f"    factors: {factors}", f"    permutation: {innermost_first}"]
    return [f"  - target: {target}", "    type: temporal", *loops]


__all__ = ["SUFFIX", "TimeloopFile", "from_files", "to_files", "why_no_nest"]
