"""Which numbers of a SoC or cluster file change nothing: each is changed until some result of some network differs.

    python benchmarks/keys.py [SOC|CLUSTER ...] [--quick] [--json FILE]

The numbers are those of the parsed file, those inside lists and those that stand at their defaults included. Each is
doubled, halved, raised by one, made drastically smaller or larger, until one of these shows:

- another latency, energy, or most bytes in a memory of a simulated run: small networks of every operator, and of long
  layers, on the default cores, on each core in turn, fused, at once, with main memories that overflow;
- a refusal of a run, because a memory is too small;
- another area of the chip, another format for a search's network to compute in, or other evidence that results state;
- a refusal of the file, if every change is refused.

In a cluster pipelines of two stages run over every pair of devices, one of a kind or all, with items one by one and in
batches; another throughput, energy, fill or latency of an item shows.

What is left is dead. Some keys decide only who of several goes first (bursts, lanes): they are tried on a machine whose
DMAs have two lanes, too; others what a voltage does not change: on one that runs below its nominal one. Ports matter
where bursts wait for them so long that nothing else hides it: they are tried where links with several are as slow as
the slowest beside them, too.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import torch
from common import arguments, state, write_json
from pydantic import ValidationError
from torch import nn

from cosoc.search.campaigns.work import area_mm2
from cosoc.search.spaces.channels import MixedNet, prepare
from cosoc.search.training.noise import KINDS, Noise, set_ranges
from cosoc.sim import exact
from cosoc.sim.cores.analog_array import AnalogArray
from cosoc.sim.cores.cluster import Cluster as Processors
from cosoc.sim.cores.roofline import Roofline
from cosoc.sim.errors import InputError
from cosoc.sim.files.catalog import (
    SoCFile,
    find_cluster,
    find_soc,
    find_technology,
    is_cluster,
    list_clusters,
    list_socs,
)
from cosoc.sim.importers.torch_export import from_module
from cosoc.sim.lower.emit import lower
from cosoc.sim.machine import engine_fast
from cosoc.sim.manual import DEFAULT, named_mapping
from cosoc.sim.model.cluster import Cluster
from cosoc.sim.model.mapping import LayerPlan, Mapping, Part, Piece, Runtime, Stage
from cosoc.sim.model.soc import CachedMover, Dma, Model, SoC
from cosoc.sim.model.technology import areas_mm2
from cosoc.sim.model.tiles import make_tile
from cosoc.sim.model.workload import INPUT, Layer, Workload
from cosoc.sim.pipelined import simulate_pipelined
from cosoc.sim.report.memory_use import memory_use
from cosoc.sim.report.result import energy_j
from cosoc.sim.simulate import simulate, simulate_cluster
from cosoc.sim.tiler import checked, unsupported

Path = tuple[str | int, ...]
Figures = tuple[Any, ...]

# ------------------------------------------------------------------------------------------ networks


def _conv(name: str, of: Layer, k: int, f: int = 1, stride: int = 1, groups: int = 1) -> Layer:
    oy, ox = -(-of.oy // stride), -(-of.ox // stride)
    return Layer(name, "conv", (of.name,), k, of.k, oy, ox, of.oy, of.ox, f, f, stride, stride, f // 2, f // 2,
                 groups=groups)  # fmt: skip


def _same(name: str, op: str, *inputs: Layer, fn: str = "") -> Layer:
    of = inputs[0]
    return Layer(name, op, tuple(x.name for x in inputs), of.k, of.k, of.oy, of.ox, of.oy, of.ox, fn=fn)


def _source(c: int, iy: int, ix: int) -> Layer:
    """The network's input as something that layers read."""
    return Layer(INPUT, "", (), c, c, iy, ix, iy, ix)


@functools.cache
def zoo(side: int, c: int) -> Workload:
    """Every kind of convolution, sum, pool and pointwise operator, on maps of side x side and about c channels."""
    image = _source(5, side, side)
    stem = _conv("stem", image, c + 3, 3)
    deep = _conv("deep", stem, stem.k, 3, groups=stem.k)
    point = _conv("point", deep, 2 * c)
    short = _conv("short", point, 2 * c, 3, stride=2)
    plain = _conv("plain", short, 2 * c, 3)
    total = _same("total", "add", short, plain)
    half = total.oy // 2
    pool = Layer("pool", "max_pool", ("total",), 2 * c, 2 * c, half, half, total.oy, total.ox, 2, 2, 2, 2)
    gate = _same("gate", "eltwise", pool, fn="Sigmoid")
    both = Layer("both", "concat", ("pool", "gate"), 4 * c, 4 * c, half, half, half, half)
    mean = Layer("mean", "avg_pool", ("both",), 4 * c, 4 * c, 1, 1, half, half, half, half)
    hidden = _conv("hidden", mean, 8 * c)
    last = _conv("last", hidden, 10)
    layers = (stem, deep, point, short, plain, total, pool, gate, both, mean, hidden, last)
    return Workload("zoo", (5, side, side), layers, ("last",))


@functools.cache
def attention(tokens: int, c: int) -> Workload:
    """One head: products of activations, linear layers on a row of tokens."""
    row = _source(c, 1, tokens)
    q, k, v = (_conv(name, row, c) for name in "qkv")
    scores = Layer("scores", "matmul", ("q", "k"), tokens, c, 1, tokens, 1, tokens)
    soft = _same("soft", "softmax", scores)
    mixed = Layer("mixed", "matmul", ("soft", "v"), c, tokens, 1, tokens, 1, tokens)
    norm = _same("norm", "norm", mixed)
    return Workload("attention", (c, 1, tokens), (q, k, v, scores, soft, mixed, norm), ("norm",))


@functools.cache
def branches(side: int, c: int) -> Workload:
    """Three convolutions of one input, each of another kind, and their sum."""
    image = _source(c, side, side)
    deep, plain, point = _conv("deep", image, c, 3, groups=c), _conv("plain", image, c, 3), _conv("point", image, c)
    first = _same("first", "add", deep, plain)
    return Workload(
        "branches", (c, side, side), (deep, plain, point, first, _same("sum", "add", first, point)), ("sum",)
    )


@functools.cache
def image(side: int) -> Workload:
    """Large filters over an image of 3 channels, normalised, and a convolution behind."""
    wide = _conv("wide", _source(3, side, side), 16, 7)
    norm = _same("norm", "norm", wide, fn="LRN")
    return Workload("image", (3, side, side), (wide, norm, _conv("last", norm, 16)), ("last",))


@functools.cache
def chain(side: int, c: int, n: int = 3, f: int = 3) -> Workload:
    """Convolutions of f x f filters, one after the other."""
    layers = [_source(c, side, side)]
    for i in range(n):
        layers.append(_conv(f"conv{i}", layers[-1], c, f))
    return Workload("chain", (c, side, side), tuple(layers[1:]), (layers[-1].name,))


@functools.cache
def choice(side: int, c: int) -> Workload:
    """A layer that has an alternative which most cores can run as well."""
    image = _source(c, side, side)
    full, deep = _conv("choice", image, c, 3), _conv("deep", image, c, 3, groups=c)
    return Workload("choice", (c, side, side), (replace(full, alternative=deep),), ("choice",))


# ------------------------------------------------------------------------------------------ runs


@dataclass(frozen=True)
class Scenario:
    """A run in which a key may show. settings: what else is changed in the file, by path. about: the sections of the
    file that it was made for."""

    name: str
    workload: Workload
    mapping: Callable[[Workload, SoC], Mapping]
    inferences: int = 1
    settings: dict[Path, Any] = field(default_factory=dict)
    about: tuple[Path, ...] = ()


def _default(runtime: Runtime) -> Callable[[Workload, SoC], Mapping]:
    return lambda workload, soc: named_mapping(DEFAULT, workload, soc, runtime)


def _only(core: str, runtime: Runtime = "overlapped") -> Callable[[Workload, SoC], Mapping]:
    """Every layer that a core can run on that core."""

    def mapping(workload: Workload, soc: SoC) -> Mapping:
        able = (layer for layer in workload if not unsupported(layer, soc, core))
        layers = {layer.name: LayerPlan((Part(core, layer.k),)) for layer in able}
        return replace(named_mapping(DEFAULT, workload, soc, runtime), layers=layers)

    return mapping


def _at_once(workload: Workload, soc: SoC) -> Mapping:
    """The branches at once, each on a core of its own, those that few cores can run first."""
    names, taken = ("deep", "plain", "point"), dict[str, str]()
    able = {n: [core for core in soc.cores if not unsupported(workload[n], soc, core)] for n in names}
    for name in sorted(names, key=lambda n: len(able[n])):
        free = [core for core in able[name] if core not in taken.values() and core != soc.host]
        if free:
            taken[name] = free[0]
    layers = {name: LayerPlan((Part(core, workload[name].k),)) for name, core in taken.items()}
    together = tuple(name for name in names if name in taken)
    return Mapping("at once", "overlapped", layers, (Piece(together, "parallel"),))


def _in_format(core: str, bits: int) -> Callable[[Workload, SoC], Mapping]:
    """Every layer that a core can run on that core, its weights in another format."""

    def mapping(workload: Workload, soc: SoC) -> Mapping:
        alone = _only(core)(workload, soc)
        layers = {
            name: replace(plan, parts=tuple(replace(p, bits=bits) for p in plan.parts))
            for name, plan in alone.layers.items()
        }
        return replace(alone, layers=layers)

    return mapping


def _handed_on(core: str) -> Callable[[Workload, SoC], Mapping]:
    """All layers but the last that a core can run on that core, the last on another one."""

    def mapping(workload: Workload, soc: SoC) -> Mapping:
        alone, last = _only(core)(workload, soc), workload.layers[-1]
        other = next(name for name in soc.cores if name != core and not unsupported(last, soc, name))
        return replace(alone, layers=dict(alone.layers) | {last.name: LayerPlan((Part(other, last.k),))})

    return mapping


def _fused(workload: Workload, soc: SoC) -> Mapping:
    return Mapping("fused", "overlapped", {}, (Piece(tuple(layer.name for layer in workload)),))


TWO_LANES = 2
SLOW = 0.75  # of the nominal voltage
NARROWER = 16  # times as slow as the slowest link, so that bursts meet that pass by one another else
SMALL_BYTES, CROWDED_BYTES = 4 << 10, 16 << 10
TIGHT_BYTES = 10 << 10  # of a main memory that the small network overflows


def scenarios(soc: SoC) -> list[Scenario]:
    """The runs of a SoC, quick ones that see much first."""
    if all(isinstance(core, Roofline) for core in soc.cores.values()):
        return list(_of_runtimes(soc))
    reserved = soc.memories[soc.main_memory].reserved_bytes
    small, large, main = zoo(16, 16), zoo(64, 64), ("memories", soc.main_memory, "size_bytes")
    tight, tighter = {main: reserved + TIGHT_BYTES}, {main: reserved + 6 * TIGHT_BYTES}
    lanes = {("dmas", name, "lanes"): TWO_LANES for name, mover in soc.dmas.items() if isinstance(mover, Dma)}
    rows = [name for name, core in soc.cores.items() if core.takes_rows]
    near = [name for name, core in soc.cores.items() if name not in rows and core.memory != soc.main_memory]
    moving: dict[Path, Any] = {("cores", n, "keeps_weights"): False for n, c in soc.cores.items() if c.keeps_weights}
    slow: dict[Path, Any] = {("voltage_v",): SLOW * soc.nominal_voltage_v} if soc.nominal_voltage_v else {}
    return [
        Scenario("overlapped", small, _default("overlapped")),
        Scenario("serial", small, _default("serial")),
        *(Scenario(f"on {core}", small, _only(core), about=(("cores", core),)) for core in soc.cores),
        *(
            Scenario(f"{bits} bit on {name}", small, _in_format(name, bits), about=(("cores", name),))
            for name, core in soc.cores.items()
            for bits in core.weight_formats
        ),
        *(
            Scenario(f"handed on by {name}", image(32), _handed_on(name), about=(("cores", name),))
            for name, core in soc.cores.items()
            if core.handover
        ),
        *(
            Scenario(f"choice on {name}", choice(16, 16), _only(name), about=(("cores", name, "takes_alternatives"),))
            for name, core in soc.cores.items()
            if isinstance(core, Processors)
        ),
        Scenario("attention", attention(16, 32), _default("overlapped")),
        Scenario("at once", branches(16, 16), _at_once),
        Scenario("fused", chain(16, 16), _fused),
        Scenario("tight", small, _default("overlapped"), 2, tight, (("memories",), ("dmas",))),
        Scenario("tight serial", small, _default("serial"), 1, tight),
        Scenario("slow", small, _default("overlapped"), 1, slow, (("memories",), ("links",))),
        Scenario("slow and tight", small, _default("overlapped"), 2, tight | slow, (("memories",), ("links",))),
        Scenario("slow, weights move", small, _default("overlapped"), 2, tight | moving | slow, (("links",),)),
        Scenario("weights move", small, _default("overlapped"), 2, moving, (("dmas",), ("links",))),
        Scenario("weights move on lanes", small, _default("overlapped"), 2, moving | lanes, (("dmas",),)),
        Scenario("tight lanes", small, _default("overlapped"), 2, tight | lanes, (("dmas",),)),
        *(Scenario(f"long on {core}", chain(14, 200, 2), _only(core), about=(("cores", core),)) for core in soc.cores),
        Scenario("narrow", branches(16, 16), _at_once, 2, _narrow(soc), (("links",),)),
        Scenario("narrower", branches(16, 16), _at_once, 2, _narrow(soc, NARROWER), (("links",),)),
        Scenario("tight large", large, _default("overlapped"), 1, tighter, (("dmas",),)),
        Scenario("weights in parts", large, _default("overlapped"), 1, moving | _in_parts(soc, large)),
        Scenario("large", large, _default("overlapped")),
        *(Scenario(f"large on {core}", large, _only(core), about=(("cores", core),)) for core in soc.cores),
        *(
            Scenario(f"tight large on {name}", large, _only(name), 1, tighter, (("cores", name, "channel_step"),))
            for name, core in soc.cores.items()
            if core.memory == soc.main_memory and soc.backing_memory is not None
        ),
        Scenario("small tiles", large, _default("overlapped"), 1, _small_tiles(soc)),
        *(
            Scenario(f"small tiles on {core}", large, _only(core), 1, _small_tiles(soc), (("cores", core),))
            for core in near
        ),
        *(Scenario(f"much for {core}", chain(160, 32, 2, 1), _default("overlapped")) for core in rows),
        *(
            Scenario(f"slow bus of {name}", large, _default("overlapped"), 1, _slow_bus(name), (("memories", name),))
            for name, memory in soc.memories.items()
            if memory.dram is not None
        ),
        *(Scenario(f"crowded {core}", large, _default("overlapped"), 1, _crowded(soc, core)) for core in rows),
        Scenario("tight attention", attention(64, 64), _default("overlapped"), 2, tight),
    ]


def _narrow(soc: SoC, times: int = 1) -> dict[Path, Any]:
    """Links with several ports, so many times as slow as the slowest link that bursts over them pass."""
    ways = [route.links for route in soc.routes] + [core.feed_links for core in soc.cores.values()]
    out: dict[Path, Any] = {}
    for name, link in soc.links.items():
        if link.ports > 1:
            beside = [soc.links[other] for way in ways if name in way for other in way]
            slowest = min(beside, key=lambda other: other.bytes_per_period / other.period_cycles)
            out |= {("links", name, "bytes_per_period"): slowest.bytes_per_period}
            out |= {("links", name, "period_cycles"): times * slowest.period_cycles}
    return out


def _slow_bus(memory: str) -> dict[Path, Any]:
    """The data bus of a dynamic memory, slower than the links before it."""
    return {("memories", memory, "dram", "period_cycles"): 400}


def _small_tiles(soc: SoC) -> dict[Path, Any]:
    """Memories of cores behind DMAs, too small for the rows of a large map."""
    behind = {core.memory for core in soc.cores.values() if not core.takes_rows} - {soc.main_memory}
    return {("memories", name, "size_bytes"): soc.memories[name].reserved_bytes + SMALL_BYTES for name in behind}


def _crowded(soc: SoC, core: str) -> dict[Path, Any]:
    """Small memories of a core behind caches, and one byte at a time from the main memory."""
    model = soc.cores[core]
    names = (model.memory, *(getattr(model, key) for key in model.own_memories()))
    mover = soc.mover_of(core)
    assert isinstance(mover, CachedMover)
    slow: dict[Path, Any] = {("links", mover.dram_link, "bytes_per_period"): 1}
    return slow | {("memories", name, "size_bytes"): CROWDED_BYTES for name in names}


def _in_parts(soc: SoC, workload: Workload) -> dict[Path, Any]:
    """Weight memories of cores that keep their weights, too small for the largest layer of a network."""
    out: dict[Path, Any] = {}
    for core in soc.cores.values():
        if core.keeps_weights and core.weight_memory is not None:
            tiles = [make_tile(layer, layer.k, layer.oy, layer.ox) for layer in workload if layer.op == "conv"]
            most = max(int(core.weight_bytes(tile, exact)) for tile in tiles if not core.fits(tile))
            out["memories", core.weight_memory, "size_bytes"] = most // 2
    return out


def _of_runtimes(soc: SoC) -> Iterator[Scenario]:
    """Those of a processor under an inference runtime, under each that the file has."""
    for name, core in soc.cores.items():
        assert isinstance(core, Roofline)
        for runtime in core.runtimes:
            used: dict[Path, Any] = {("cores", name, "runtime"): runtime}
            for net in (zoo(16, 16), attention(16, 32), zoo(56, 128), attention(196, 512)):
                yield Scenario(f"{net.name} {net.input_shape} {runtime}", net, _default("serial"), 1, used)


@dataclass(frozen=True)
class Run:
    """A scenario on a SoC as its file has it. placed: its mapping, with the tiles that the tiler chose there."""

    scenario: Scenario
    placed: Mapping

    def kept(self, soc: SoC) -> Figures:
        """Latency and energy on a SoC under these tiles, or why there is none."""
        return self._figures(soc, lambda: self.placed)

    def tiled_anew(self, soc: SoC) -> Figures:
        """The same with tiles for that SoC."""
        return self._figures(soc, lambda: self.scenario.mapping(self.scenario.workload, soc))

    def _figures(self, soc: SoC, mapping: Callable[[], Mapping]) -> Figures:
        try:
            program = lower(self.scenario.workload, mapping(), soc, self.scenario.inferences)
        except InputError as error:
            return ("refused", str(error))
        trace = engine_fast.run(program)
        return trace.makespan / program.tick_hz, energy_j(program, trace, soc)

    def most_bytes(self, soc: SoC) -> Figures:
        """The most bytes in each memory under these tiles, or why there is no run."""
        workload = self.scenario.workload
        try:
            result = simulate(soc, workload, self.placed, inferences=self.scenario.inferences)
        except InputError as error:
            return ("refused", str(error))
        return tuple((use.memory, int(use.bytes.max())) for use in memory_use(result, soc, workload, self.placed))


LOOKS = (Run.kept, Run.tiled_anew, Run.most_bytes)  # where a key is looked for, quick ones first


class _Tiny(nn.Module):
    """A convolution, a grouped one, which few cores can run, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.plain, self.grouped = nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 3, groups=2)
        self.deep, self.fc = nn.Conv2d(8, 8, 3, groups=8), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.fc(self.deep(torch.relu(self.grouped(torch.relu(self.plain(x))))).mean((2, 3)))
        return y


@functools.cache
def _tiny() -> tuple[nn.Module, Workload, torch.Tensor]:
    torch.manual_seed(0)
    net = _Tiny().eval()
    return net, from_module(net, (4, 8, 8), "tiny"), torch.randn(1, 4, 8, 8)


def format_figures(soc: SoC) -> Figures:
    """What a search's network, each channel spread over all cores that it may choose, makes of one input, and makes of
    it under the noise that its analog cores state; and area."""
    net, workload, x = _tiny()
    mixed = prepare(net, workload, soc, tuple(soc.cores))
    for layer in mixed.layers.values():
        layer.gates = torch.softmax(layer.logits.detach(), 1)
    with torch.no_grad():
        parts = areas_mm2(soc, find_technology(soc.technology)) if soc.technology is not None else {}
        plain = mixed(x).flatten().tolist()
        return (*plain, *_noisy(mixed, soc, x), area_mm2(soc), *parts.values())


def _noisy(net: MixedNet, soc: SoC, x: torch.Tensor) -> Figures:
    """The same outputs on a chip that is drawn, column by column converted."""
    levels = next((core.noise for core in soc.cores.values() if isinstance(core, AnalogArray) and core.noise), None)
    if levels is None:
        return ()
    set_ranges(net, levels.adc_bits, x)
    Noise(levels, KINDS).draw(net, torch.Generator().manual_seed(0))
    return tuple(net(x).flatten().tolist())


def evidence_figures(soc: SoC) -> Figures:
    """What results say that a core's figures rest on, under each of its runtimes: of operators of every class."""
    tiles = [make_tile(one, one.k, one.oy, one.ox) for network in (zoo(8, 8), attention(4, 8)) for one in network]
    cores = [
        core.model_copy(update={"runtime": runtime}) if isinstance(core, Roofline) else core
        for core in soc.cores.values()
        for runtime in (core.runtimes if isinstance(core, Roofline) else ("",))
    ]
    return tuple(core.evidence(tile) for core in cores for tile in tiles)


def streams(soc: SoC) -> str:
    """Whether the chip runs a tiny network's layers at once, or why not."""
    _, workload, _ = _tiny()
    try:
        simulate_pipelined(soc, workload, named_mapping("default", workload, soc), inferences=2)
    except InputError as error:
        return str(error)
    return "at once"


# ------------------------------------------------------------------------------------------ keys


def _numbers(annotation: Any) -> set[type]:
    """The kinds of numbers that an annotation admits."""
    found = {annotation} & {int, float, bool}
    for part in get_args(annotation):
        found |= _numbers(part)
    return found


def keys_of(model: Model, at: Path = ()) -> Iterator[tuple[Path, Any]]:
    """(path, value) of every number and switch of a description, stated or not; None for one that may be left out."""
    for key, about in type(model).model_fields.items():
        value, path = getattr(model, key), (*at, about.alias or key)
        kinds = _numbers(about.annotation)
        if isinstance(value, Model):
            yield from keys_of(value, path)
        elif isinstance(value, dict):
            for name, part in value.items():
                yield from keys_of(part, (*path, name))
        elif isinstance(value, tuple) and value and isinstance(value[0], Model):
            continue  # routes, which are names
        elif isinstance(value, tuple) and kinds:
            yield from (((*path, i), part) for i, part in enumerate(value))
            yield path, value  # one more
        elif isinstance(value, int | float) or (value is None and kinds):
            yield path, value


def changes(path: Path, value: Any, soc: SoC | None) -> tuple[Any, ...]:
    """Other values for a key, likely ones first. soc: None of a cluster."""
    if path[-1] == "reserved_bytes" and soc is not None:
        size = soc.memories[str(path[1])].size_bytes
        return (size // 2, size - 512, size - 64)
    if isinstance(value, bool):
        return (not value,)
    if isinstance(value, tuple):
        return ((*value, 1000.0 * max(value, default=1.0)) if path[-1] == "stretch" else (*value, 8),)
    if isinstance(value, float):
        return (2 * value, value / 2, value / 32, 100 * value) if value else (1.0,)
    if str(path[-1]).endswith("_bits"):
        return tuple(x for x in (2 * value, value // 2, 2) if x != value)
    value = value or 0
    tried = (
        2 * value,
        value // 2,
        value + 1,
        max(value // 32, min(value, 1)),
        7 * value + 5,
        value // 1000,
        value // 1_000_000,
        value or 1_000_000,  # where the larger of two figures counts, such as lanes that are to be filled
    )
    return tuple(x for x in dict.fromkeys(tried) if x != value)


def with_values(soc: SoC, settings: Iterable[tuple[Path, Any]]) -> SoC:
    """The SoC whose file says that; InputError where a file that says it would be refused."""
    content = soc.model_dump(mode="json", by_alias=True, exclude_unset=True)
    for path, value in settings:
        node: Any = content
        for part in path[:-1]:
            node = node[part] if isinstance(node, list) else node.setdefault(part, {})
        if isinstance(node, list):
            node[path[-1]] = value  # type: ignore[index]
        else:
            node[path[-1]] = list(value) if isinstance(value, tuple) else value
    try:
        changed = SoCFile.model_validate(content)
    except ValidationError as error:
        raise InputError(str(error.errors()[0]["msg"])) from None
    if wrong := changed.problems():
        raise InputError(wrong[0][1])
    return changed.at_its_voltage()


OF_NO_RUN = ("weight_bits", "act_bits", "area_mm2", "off_chip")  # what only formats and areas may tell


class Sweep:
    """Looks for the dead keys of one SoC; what the unchanged machine gives is kept. most: of its runs, 0 for all."""

    def __init__(self, soc: SoC, most: int = 0) -> None:
        self.soc = soc
        self.before: dict[tuple[Any, int], Figures] = {}
        self.runs: list[Run] = []
        for scenario in scenarios(soc)[: most or None]:
            machine = with_values(soc, scenario.settings.items())
            try:
                placed = checked(scenario.mapping(scenario.workload, machine), scenario.workload, machine)
            except InputError:  # such as layers at once on a machine with one core
                continue
            run = Run(scenario, placed)
            figures = run.kept(machine)
            # What was made for one of two equal cores gives the figures of the other.
            same = (scenario.settings, scenario.about)
            alike = [
                self.before[Run.kept, i]
                for i, run_before in enumerate(self.runs)
                if (run_before.scenario.settings, run_before.scenario.about) == same
            ]
            if figures not in alike:
                self.before[Run.kept, len(self.runs)] = figures
                self.runs.append(run)

    def _differs(self, look: Callable[[Run, SoC], Figures], i: int, path: Path, value: Any) -> bool:
        run = self.runs[i]
        settings = run.scenario.settings
        if path in settings:
            return False
        if (look, i) not in self.before:
            self.before[look, i] = look(run, with_values(self.soc, settings.items()))
        try:
            changed = with_values(self.soc, [*settings.items(), (path, value)])
        except InputError:
            return False
        return look(run, changed) != self.before[look, i]

    def refused(self, path: Path, value: Any) -> bool:
        """Whether a file that says so is refused."""
        try:
            with_values(self.soc, [(path, value)])
        except InputError:
            return True
        return False

    def why_alive(self, path: Path, value: Any) -> str:
        """Where a change of the key shows; '' if it is dead."""
        tries = [other for other in changes(path, value, self.soc) if not self.refused(path, other)]
        if not tries:
            return "refused"
        if path[-1] in OF_NO_RUN or "noise" in path:
            for other in tries:
                if format_figures(with_values(self.soc, [(path, other)])) != format_figures(self.soc):
                    return f"format or area, {other}"
        if path[-2:-1] == ("networks",):
            before = evidence_figures(self.soc)
            others = (evidence_figures(with_values(self.soc, [(path, other)])) for other in tries)
            return "evidence of a result" if any(other != before for other in others) else ""
        if path[-1] == "pipelined":
            there, other = (streams(with_values(self.soc, [(path, switch)])) for switch in (value, not value))
            return f"layers at once, {not value}" if there != other else ""
        made_for = [any(path[: len(about)] == about for about in run.scenario.about) for run in self.runs]
        order = sorted(range(len(self.runs)), key=lambda i: not made_for[i])
        for look in sorted(LOOKS, key=lambda look: path[-1] == "bias_bytes" and look is Run.tiled_anew):
            for i in order:
                for other in tries:
                    if self._differs(look, i, path, other):
                        return f"{look.__name__} in {self.runs[i].scenario.name}, {other}"
        return ""

    def dead(self) -> list[str]:
        """The dead keys by dotted path."""
        return [".".join(map(str, path)) for path, value in keys_of(self.soc) if not self.why_alive(path, value)]


class ClusterSweep:
    """Looks for the dead keys of one cluster."""

    ITEMS = 24

    def __init__(self, cluster: Cluster) -> None:
        self.cluster, self.workload = cluster, chain(16, 16)
        ends = [("conv0",), ("conv2",)]
        kinds = list(cluster.devices)
        self.mappings = []
        for a, b in [(a, b) for a in kinds for b in kinds if cluster.joins(a, b)] or [(kinds[0], kinds[0])]:
            # More than there are: refused, until there are more.
            for all_of_them, items, beyond in ((False, 1, 0), (True, 1, 0), (True, 4, 0), (True, 1, 1)):
                if a == b and (cluster.devices[a].count < 2 or all_of_them):
                    continue
                counts = (cluster.devices[name].count + beyond if all_of_them else 1 for name in (a, b))
                stages = tuple(Stage(d, end, n) for d, end, n in zip((a, b), ends, counts, strict=True))
                self.mappings.append(Mapping("pair", "serial", stages=stages, micro_batch=items))
        self.before = [self._figures(cluster, mapping) for mapping in self.mappings]

    def _figures(self, cluster: Cluster, mapping: Mapping) -> Figures:
        try:
            seen = simulate_cluster(cluster, self.workload, mapping, inferences=self.ITEMS).seen
        except InputError as error:
            return ("refused", str(error))
        return seen.throughput, seen.energy_j, seen.fill_s, *(device.energy_j for device in seen.devices)

    def why_alive(self, path: Path, value: Any) -> str:
        """Where a change of the key shows; '' if it is dead."""
        content = self.cluster.model_dump(mode="json", by_alias=True, exclude_unset=True)
        refused = True
        for other in changes(path, value, None):
            changed = json.loads(json.dumps(content))
            node = changed
            for part in path[:-1]:
                node = node[part]
            node[path[-1]] = other
            try:
                cluster = Cluster.model_validate_json(json.dumps(changed))
            except ValidationError:
                continue
            if cluster.problems():
                continue
            refused = False
            for mapping, before in zip(self.mappings, self.before, strict=True):
                if self._figures(cluster, mapping) != before:
                    return f"{' to '.join(stage.device for stage in mapping.stages)}, {other}"
        return "refused" if refused else ""

    def dead(self) -> list[str]:
        """The dead keys by dotted path."""
        return [".".join(map(str, path)) for path, value in keys_of(self.cluster) if not self.why_alive(path, value)]


def sweep_of(name: str) -> Sweep | ClusterSweep:
    """The sweep of a SoC or a cluster, by its name or file."""
    return ClusterSweep(find_cluster(name)) if is_cluster(name) else Sweep(find_soc(name))


def dead_keys(names: Iterable[str]) -> list[str]:
    """`name: key` of every dead key of the SoCs and clusters."""
    return [f"{name}: {key}" for name in names for key in sweep_of(name).dead()]


def main() -> None:
    parser = arguments(__doc__)
    names = (*list_socs(), *list_clusters())
    parser.add_argument("socs", nargs="*", default=names, help="SoCs and clusters by name or file; all built-in ones")
    parser.add_argument("--verbose", action="store_true", help="say of each key where it shows")
    args = parser.parse_args()
    state()
    figures: dict[str, Any] = {}
    for name in args.socs[:3] if args.quick else args.socs:
        start, sweep = time.monotonic(), sweep_of(name)
        found = {}
        for path, value in keys_of(sweep.cluster if isinstance(sweep, ClusterSweep) else sweep.soc):
            found[".".join(map(str, path))] = sweep.why_alive(path, value)
        dead = [key for key, why in found.items() if not why]
        print(f"{name:14} {len(found):4} keys, {len(dead)} dead, {time.monotonic() - start:.1f} s", flush=True)
        for key, why in found.items():
            if not why or args.verbose:
                print(f"    {key:50} {why or 'DEAD'}", flush=True)
        figures[name] = {"keys": len(found), "dead": dead}
    write_json(args.json, figures)
    sys.exit(any(figures[name]["dead"] for name in figures))


if __name__ == "__main__":
    main()
