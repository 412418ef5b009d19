"""The description of a chip or cluster: memories, links, DMA engines, routes, cores and power.

A SoC file is YAML, one number a line, each with its unit in the key and its source in a comment. `catalog.load_soc`
checks it and refuses it with `file:line:column`. Cycles in the file are cycles of `tick_hz`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, NoReturn, Self, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    GetJsonSchemaHandler,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    Tag,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError

from cosoc.sim import exact
from cosoc.sim.files.mending import WHOLE, Mended
from cosoc.sim.model.mapping import Part
from cosoc.sim.model.silicon import Silicon
from cosoc.sim.model.units import (
    BeatBytes,
    Bits,
    BurstBytes,
    Bytes,
    BytesOr0,
    Cycles,
    Elements,
    Factor,
    Hertz,
    InFlight,
    LineBytes,
    Milliwatts,
    PicojoulesPerByte,
    Pieces,
    Priority,
    SquareMillimetres,
    Times,
    Volts,
    WholeCycles,
    WholeCyclesOr0,
)
from cosoc.sim.model.workload import Tile

# How far a file's energies reach, each with what is before it: silicon; the memory beside it; the board with its
# regulators and network; the supply at the wall.
Boundary = Literal["die", "chip", "board", "wall"]
BOUNDARIES: tuple[Boundary, ...] = get_args(Boundary)
LEAST_VOLTAGE, MOST_VOLTAGE = 0.5, 1.5  # of the nominal one, for which the laws are stated
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]
Num = exact.Num


def mixed(stated: Mapping[str, str | None]) -> str:
    """That the energies of some (by what each is called) do not reach equally far, as a message; '' where they do."""
    by_boundary: dict[str | None, str] = {}
    for name, boundary in stated.items():
        by_boundary.setdefault(boundary, name)
    if len(by_boundary) < 2:
        return ""
    each = [f"that of {name} to the {boundary}" if boundary else f"{name} does not say" for boundary, name in
            by_boundary.items()]  # fmt: skip
    return f"energies of different boundaries, {', '.join(each)}, cannot be set side by side"


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


# YAML has lists only, the models are strict and frozen.
FromList = BeforeValidator(_tuple)


def _rescaled(part: Any, v: float, f: float) -> Any:
    """A core or mover at V times its voltage and F times its clock: by the units in the names of its keys."""
    changes = {}
    for key in type(part).model_fields:
        value = getattr(part, key)
        if isinstance(value, Model):
            changes[key] = _rescaled(value, v, f)
        elif isinstance(value, float) and (key.endswith("_pj") or "_pj_per_" in key):
            changes[key] = value * v**2
        elif isinstance(value, float) and key.endswith("_mw"):
            changes[key] = value * v**2 * f
    return part.model_copy(update={key: new for key, new in changes.items() if new != getattr(part, key)})


class Model(BaseModel):
    """Frozen, and strict about its keys and types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Dram(Model):
    """The banks of a dynamic memory and their data bus; all cycles are the SoC's.

    The bus moves bytes_per_period in period_cycles. Consecutive `row_bytes` lie in one row of one bank, the next ones
    in the next bank. A bank has one row open. A burst of another row keeps its bank, not the bus, for `row_cycles`, so
    that one bank opens no rows faster than that, and several open theirs side by side. The bus rests for
    `turnaround_cycles` when its direction changes, once in `batch_bursts` of the changes that are asked for, as
    controllers gather bursts of one direction. Nothing moves for `refresh_cycles` of every `refresh_interval_cycles`,
    which is taken off the rate.

    Simpler than the device: the first burst of a row comes after the whole row cycle, where a bank that was left alone
    needs precharge, activation and the burst itself; activations of several banks are not spaced (tRRD, tFAW: with
    eight banks to a rank, no stricter than their row cycles); no rank is switched; nothing overtakes at a bank.
    """

    bytes_per_period: BeatBytes  # what its data bus moves in a period
    period_cycles: WholeCycles = 1  # of the data bus
    banks: InFlight  # of all ranks
    row_bytes: LineBytes  # of an open row: consecutive bytes lie in one row of one bank, the next ones in the next bank
    row_cycles: WholeCycles  # for which a bank is kept by a burst of a row that is not open
    turnaround_cycles: WholeCyclesOr0  # for which the bus rests when its direction changes ...
    batch_bursts: Times  # ... which it does once in so many of the changes that are asked for
    refresh_cycles: WholeCyclesOr0  # of every refresh interval, in which nothing moves
    refresh_interval_cycles: WholeCycles  # from one refresh to the next

    @property
    def rate(self) -> tuple[int, int]:
        """Bytes on the bus in so many cycles, what refresh takes taken off."""
        interval = self.refresh_interval_cycles
        n_bytes, cycles = self.bytes_per_period * (interval - self.refresh_cycles), self.period_cycles * interval
        common = math.gcd(n_bytes, cycles)
        return n_bytes // common, cycles // common

    @model_validator(mode="after")
    def _rows_by_address(self) -> Dram:
        if self.row_bytes & (self.row_bytes - 1):
            raise ValueError(f"row_bytes: found {self.row_bytes}, must be a power of two")
        return self

    @model_validator(mode="after")
    def _refresh_ends(self) -> Dram:
        if self.refresh_cycles >= self.refresh_interval_cycles:
            found = f"{self.refresh_cycles} of {self.refresh_interval_cycles}"
            raise ValueError(f"refresh_cycles: found {found} refresh_interval_cycles; nothing would ever move")
        return self


class Memory(Model):
    """A store. The bytes of one with a `dram` go over its data bus beside the links of a route."""

    FORMER: ClassVar[Mapping[str, str]] = {"usable_bytes": "give reserved_bytes, size_bytes less what may be filled"}

    size_bytes: Bytes  # all of it
    reserved_bytes: BytesOr0 = 0  # of the size, which no mapping may fill
    access_pj_per_byte: PicojoulesPerByte = 0.0  # of a byte read or written: by a mover, a core, as a cache's line
    area_mm2: SquareMillimetres = 0.0  # of its macro
    off_chip: bool = False  # supplied from outside: the chip's voltage does not change its energy
    dram: Dram | None = None  # its banks and their data bus, where it is a dynamic memory of which that is told

    @property
    def capacity_bytes(self) -> int:
        return self.size_bytes - self.reserved_bytes

    @model_validator(mode="after")
    def _reserved_within_size(self) -> Memory:
        if self.capacity_bytes < 0:
            raise ValueError(f"reserved_bytes {self.reserved_bytes} is more than size_bytes {self.size_bytes}")
        return self


class Link(Model):
    """A shared path that bursts hold: a memory port, a bus, a network. Its rate is bytes_per_period / period_cycles."""

    bytes_per_period: BeatBytes  # what each port moves in a period
    period_cycles: WholeCycles = 1  # in which a port moves bytes_per_period
    ports: InFlight = 1  # bursts that it carries at once
    # factor on a burst's time by the number of bursts in progress, 1 first: bank conflicts
    stretch: Annotated[tuple[Factor, ...], FromList] = ()
    energy_pj_per_byte: PicojoulesPerByte = 0.0  # of a byte that goes over it
    off_chip: bool = False  # supplied from outside: the chip's voltage does not change its energy


class Dma(Model):
    """A mover of large pieces: it moves bytes along routes, in program order, `lanes` transfers in flight.

    piece_cycles: what each further contiguous piece of a tile costs, where the DMA follows strides by itself (2-D,
    3-D); without it every piece is a call with a set-up of its own.
    """

    model: Literal["dma"] = "dma"
    setup_cycles: WholeCyclesOr0  # of the host, before each transfer
    # of each further contiguous piece of a transfer; left out: every piece is a transfer of its own
    piece_cycles: WholeCyclesOr0 | None = None
    align_bytes: LineBytes = 1  # transfers are rounded up to multiples of this
    burst_bytes: BurstBytes  # in which it asks for links
    lanes: InFlight = 1  # transfers in flight
    priority: Priority = 0  # the larger goes first where bursts wait
    power_mw: Milliwatts = 0.0  # on top of the base power, while it is busy


class CachedMover(Model):
    """A mover of rows: a load and a store controller that fetch through an L2 and a last-level cache, row by row (a
    *mvin* is up to as many rows as the array has PEs along its side)."""

    model: Literal["cached"]
    l2: Name  # memory that is its nearer cache
    l2_ways: InFlight  # of a set
    l2_line_bytes: LineBytes  # of a line
    llc: Name  # memory that is its last-level cache
    llc_ways: InFlight  # of a set
    llc_line_bytes: LineBytes  # of a line
    return_link: Name  # from the L2 to the scratchpad; a beat is its bytes_per_period
    outer_link: Name  # from the last-level cache to the L2
    dram_link: Name  # from the main memory to the last-level cache
    mvin_bytes: LineBytes  # widest row of a mvin; its requests are as large, up to a line of the L2
    rows_in_flight: InFlight  # a further mvin may start while fewer rows than this are outstanding
    setup_cycles: Cycles  # from a mvin's start to its first beat, where the L2 has it
    fill_cycles: Cycles  # for which a line that comes into the L2 keeps its port from reads and writes
    llc_cycles: Cycles  # until the first line from the last-level cache comes in; on top of setup_cycles
    dram_cycles: Cycles  # until the first line from the main memory comes in; on top of both
    store_request_cycles: Cycles  # of a store, per request, on top of its beats
    conv_offset_bytes: BytesOr0  # how far behind a line of the L2 the arrays begin that convolutions use ...
    gemm_offset_bytes: BytesOr0  # ... and those that matrix products use

    @property
    def links(self) -> tuple[str, str, str]:
        """From the array outwards."""
        return self.return_link, self.outer_link, self.dram_link


# What stands under `dmas`: a file that names no model means a plain DMA.
Mover = Annotated[
    Annotated[Dma, Tag("dma")] | Annotated[CachedMover, Tag("cached")],
    Discriminator(
        lambda value: value.get("model", "dma") if isinstance(value, dict) else getattr(value, "model", None),
        custom_error_type="mover",
        custom_error_message="a mover's model is dma or cached",
    ),
]


class Route(Model):
    """How bytes get from one memory to another: by which mover, over which links (a cached one: all of its own)."""

    source: Name = Field(alias="from")  # memory that is read
    target: Name = Field(alias="to")  # memory that is written
    dma: Name  # mover that brings the bytes
    links: Annotated[tuple[Name, ...], FromList] = Field(min_length=1)  # all that a burst holds at once


def refuse(model: str, keys: Mapping[str, tuple[Any, str]]) -> NoReturn:
    """Raise what pydantic reports at each key's own place; for validators of a whole section. keys: what was found and
    what is wrong with it."""
    errors = [
        # The text goes in as a value, so that braces in it are not taken for a template.
        InitErrorDetails(type=PydanticCustomError("refused", "{message}", {"message": what}), loc=(key,), input=found)
        for key, (found, what) in keys.items()
    ]
    raise ValidationError.from_exception_data(model, errors)


# Reasons for `Core.UNUSED`, by what a model lacks.
NO_WEIGHTS = dict.fromkeys(
    ("weight_memory", "keeps_weights", "weight_bits", "weight_formats", "act_bits"), "it holds no weights"
)
ONE_FORMAT = {"weight_formats": "time and memory of its weights do not depend on their width"}
NO_FEED = dict.fromkeys(("feed_links", "feed_pieces"), "its cycles include its reads and writes")


class Core(Model):
    """What every core model has in common; the models themselves stand in `cosoc.sim.cores`.

    A model says what it can do (`fits`), what a job costs unloaded (`cycles`), and what it moves (`feed_bytes`,
    `weight_bytes`), each written once for ints, arrays and tensors. A key of the common ones that would change nothing
    in a model stands in its `UNUSED`, with the reason, and is refused in files. A model whose formulas take arrays of
    k, oy and ox, none of them asking what only one tile can answer, says so (`BY_ARRAYS`): then it is asked for many
    tiles at once.
    """

    UNUSED: ClassVar[Mapping[str, str]] = {}
    BY_ARRAYS: ClassVar[bool] = False

    model: str
    memory: Name  # where its inputs and outputs lie
    weight_memory: Name | None = None  # where its weights lie; None: beside the activations
    keeps_weights: bool = False  # weights that fit its weight memory are written once, not in every inference
    weight_bits: Bits = 8  # the format it computes in
    weight_formats: Annotated[tuple[Bits, ...], FromList] = ()  # widths of weights that a mapping may ask for
    act_bits: Bits = 8  # of an activation as it computes with it
    channel_step: Elements = 1  # a search gains nothing by finer steps of output channels
    launch_cycles: WholeCyclesOr0 = 0  # host work to configure and start one job and to see it end
    layer_launch_cycles: WholeCyclesOr0 = 0  # host work on top of it before the first job of a layer
    power_mw: Milliwatts = 0.0  # on top of the base power, while it is busy
    # links over which it reads and writes activations, held while it does
    feed_links: Annotated[tuple[Name, ...], FromList] = ()
    feed_pieces: Pieces = 1  # pieces of a job in which feed and array cycles alternate; 1: all is fed first

    @property
    def unrolls(self) -> bool:
        """Whether it computes several pixels at once, as many as a mapping may limit (`unroll`)."""
        return False

    @property
    def prefers_alternatives(self) -> bool:
        """Whether it computes the alternative of a layer that has one, though it could run the layer itself."""
        return False

    @property
    def takes_rows(self) -> bool:
        """Whether a cached mover brings its operands, row by row, in place of a DMA that brings whole tiles."""
        return False

    @model_validator(mode="before")
    @classmethod
    def _takes_what_it_uses(cls, given: Any) -> Any:
        found = [key for key in cls.UNUSED if isinstance(given, dict) and key in given]
        if found:
            refuse("core", {key: (given[key], f"{cls.UNUSED[key]}; remove the key") for key in found})
        return given

    @model_validator(mode="after")
    def _each_format_once(self) -> Self:
        formats = self.weight_formats
        if formats and (len(set(formats)) < len(formats) or self.weight_bits not in formats):
            what = f"name each width once, weight_bits {self.weight_bits} among them"
            refuse("core", {"weight_formats": (formats, what)})
        return self

    @model_serializer(mode="wrap")
    def _dump_what_it_takes(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in dump(self).items() if key not in self.UNUSED}

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        schema = handler.resolve_ref_schema(handler(core_schema))
        schema["properties"] = {key: value for key, value in schema["properties"].items() if key not in cls.UNUSED}
        return schema

    @property
    def ternary(self) -> bool:
        """Whether its weights are -1, 0 and 1 times a scale, whatever `weight_bits` says."""
        return False

    @property
    def numbers(self) -> tuple[str, int, int]:
        """The numbers it computes with: their kind, bits of weights, bits of activations. Cores that agree in these
        give a layer the same results, so that which of them computes it changes no accuracy."""
        return "ternary" if self.ternary else "integer", self.weight_bits, self.act_bits

    @property
    def step(self) -> int:
        """Output channels that it computes at once: fewer of them take as long."""
        return self.channel_step

    def with_bits(self, bits: int | None) -> Self:
        """The core with weights of so many bits; None: as it is."""
        return self if bits is None else self.model_copy(update={"weight_bits": bits})

    def own_memories(self) -> tuple[str, ...]:
        """Keys, besides those of every core, whose values name memories of the SoC."""
        return ()

    def own_links(self) -> tuple[str, ...]:
        """Keys, besides `feed_links`, whose values name links of the SoC."""
        return ()

    def silicon(self) -> Silicon | None:
        """What it is made of, by which its area and energy follow its sizes; None where a model does not say."""
        return None

    def own_energies(self) -> bool:
        """Whether its energies are those of a table of its own, which no technology replaces."""
        return False

    def improvements(self) -> tuple[str, ...]:
        """Changes of its own keys that shorten its jobs, as KEY=xFACTOR, the likeliest first: what-ifs propose them."""
        return ()

    def fits(self, tile: Tile) -> list[str]:
        """Why this core cannot run the tile; empty if it can."""
        raise NotImplementedError

    def cycles(self, tile: Tile, xp: Any) -> Num:
        """Array cycles of one job, without launch and feed; 0 for a tile with k = 0."""
        raise NotImplementedError

    def batch_cycles(self, tile: Tile, batch: int, xp: Any) -> Num:
        """The same of one job that computes the tile for each image of a batch: one after the other, but a dense
        layer's images are to a core what pixels are."""
        if tile.op == "conv" and tile.fy == tile.fx == tile.groups == 1:
            dense = (tile.oy == 1) & (tile.ox == 1)
            return xp.where(dense, self.cycles(replace(tile, ox=batch), xp), batch * self.cycles(tile, xp))
        return batch * self.cycles(tile, xp)

    def feed_bytes(self, tile: Tile, xp: Any) -> Num:
        """Bytes that one job moves over `feed_links` before its array cycles; 0 where `cycles` covers it."""
        return 0 * tile.k

    def feeds(self, tile: Tile, xp: Any) -> tuple[tuple[tuple[str, ...], Num], ...]:
        """What one job moves before its array cycles, one after the other: (links, bytes), `feed_bytes` in all."""
        return ((self.feed_links, self.feed_bytes(tile, xp)),)

    def evidence(self, tile: Tile) -> tuple[str, int] | None:
        """The class of operators that a tile is of, and how many networks that were measured on the device its figures
        were fitted to; None where the file does not say."""
        return None

    @property
    def basis(self) -> str:
        """The runtime and number format that its figures are of; '' where it is the hardware alone."""
        return ""

    @property
    def peak(self) -> float:
        """Multiply-accumulates a cycle that it has at most, 0 where that is not stated as one figure."""
        return 0.0

    @property
    def streams(self) -> bool:
        """Whether it moves `stream_bytes` beside its array cycles."""
        return False

    def stream_bytes(self, tile: Tile, xp: Any) -> Num:
        """Bytes that one job moves over `feed_links` beside its array cycles, ahead of need in FIFOs: as much of the
        job as its array cycles take hides them."""
        return 0 * tile.k

    @property
    def handover(self) -> int:
        """Cycles of its own until a tensor that it made can be read by another core: to bring it into a form that
        others read, and to tell them."""
        return 0

    def feed_burst(self, plain: int) -> int:
        """Bytes of a burst of its own over links where a plain one has so many: more, if its bytes take longer."""
        return plain

    def rewritten_bytes(self, loaded: Num, xp: Any) -> Num:
        """Bytes that it moves over `feed_links` to bring so many bytes of loaded inputs into its own format."""
        return 0 * loaded

    @property
    def element_bytes(self) -> int:
        """Bytes that an activation takes in its memory while it computes; transfers bring one."""
        return 1

    def weight_bytes(self, tile: Tile, xp: Any) -> Num:
        """Bytes of weights and constants as stored and moved for one job."""
        return 0 * tile.k

    def resident(self, tiles: Sequence[Tile]) -> list[str]:
        """Why the weights of several layers cannot stand in the core at once; empty if they can."""
        return []

    def energy_pj(self, tile: Tile, xp: Any) -> Num:
        """Energy of one job beyond what the powers account for."""
        return 0 * tile.k


class SoC(Model):
    """A whole machine. `base_power_mw` is drawn all the time, and so is `static_power_mw`, what leaks; cores and DMAs
    add theirs while busy.

    A file's figures are those at `nominal_voltage_v`. Where it runs at another `voltage_v`, V times the nominal one,
    its clock (all of its clocks are one here) is `clock_hz`, or V times as fast where that is not known, the fastest
    that the voltage allows by the linear law; energies of operations, accesses and links go with V^2, so powers of busy
    units and the base power with V^2 and the clock, and what leaks with V. What is supplied from outside stays:
    memories and links that are `off_chip`, and the base power of a board or at the wall. `at_its_voltage` makes it so;
    `load_soc` calls it.
    """

    name: Name  # by which results call it
    description: str = ""  # one line, for people
    tick_hz: Hertz  # of the clock that all cycles of this file are of
    memories: dict[Name, Memory]  # by name
    links: dict[Name, Link]  # by name
    dmas: dict[Name, Mover]  # movers by name: DMAs, and cached ones
    routes: Annotated[tuple[Route, ...], FromList]  # ways from memory to memory
    cores: dict[Name, SerializeAsAny[Core]]  # by name
    host: Name  # the core that launches jobs and runs what no other core can
    main_memory: Name  # where tensors and weights live between layers
    backing_memory: Name | None = None  # where they live when they do not fit the main memory
    base_power_mw: Milliwatts = 0.0  # drawn all the time
    static_power_mw: Milliwatts = 0.0  # what leaks, drawn all the time
    nominal_voltage_v: Volts | None = None  # at which the file's figures are
    voltage_v: Volts | None = None  # that it runs at
    clock_hz: Hertz | None = None  # at voltage_v; None: tick_hz at the nominal voltage, else by the linear law
    energy_boundary: Boundary | None = None  # how far its energies reach
    technology: str | None = None  # by which figures follow sizes: a built-in one, or a file
    # whether the file states powers and energies, or the technology has those on the chip
    energies: Literal["file", "technology"] = "file"
    # sizes that the file's powers, energies and areas are of, by dotted path; others are those that it states
    figures_at: dict[str, int | float] = {}
    area_mm2: SquareMillimetres = 0.0  # of the chip, all of it; left out: what the technology has of its parts

    @property
    def idle_power_mw(self) -> float:
        """Drawn all the time."""
        return self.base_power_mw + self.static_power_mw

    def at_its_voltage(self) -> Self:
        """The same machine with all figures as they are at `voltage_v`, which is then the nominal one."""
        if self.voltage_v is None or self.nominal_voltage_v is None:
            return self
        v = self.voltage_v / self.nominal_voltage_v
        hz = max(1, round(self.tick_hz * v)) if self.clock_hz is None else self.clock_hz
        f = v if self.clock_hz is None else hz / self.tick_hz
        if v == f == 1:
            return self.model_copy(update={"clock_hz": None}) if self.clock_hz is not None else self
        outside = self.energy_boundary in ("board", "wall")
        memories = {
            name: one if one.off_chip else one.model_copy(update={"access_pj_per_byte": one.access_pj_per_byte * v**2})
            for name, one in self.memories.items()
        }
        links = {
            name: one if one.off_chip else one.model_copy(update={"energy_pj_per_byte": one.energy_pj_per_byte * v**2})
            for name, one in self.links.items()
        }
        changes = {
            "tick_hz": hz,
            "memories": memories,
            "links": links,
            "cores": {name: _rescaled(core, v, f) for name, core in self.cores.items()},
            "dmas": {name: _rescaled(mover, v, f) for name, mover in self.dmas.items()},
            "base_power_mw": self.base_power_mw * (1.0 if outside else v**2 * f),
            "static_power_mw": self.static_power_mw * v,
            "nominal_voltage_v": self.voltage_v,
            "clock_hz": None,
        }
        return self.model_copy(update=changes)

    def route(self, source: str, target: str) -> Route:
        """The route between two memories; KeyError where there is none."""
        for route in self.routes:
            if (route.source, route.target) == (source, target):
                return route
        raise KeyError(f"{self.name} has no route from {source} to {target}")

    def core_of(self, part: Part) -> Core:
        """The core of a part of a mapping, in the part's format."""
        return self.cores[part.core].with_bits(part.bits)

    def dma(self, name: str) -> Dma:
        """A plain DMA by name; TypeError for another mover, which plain transfers do not go over."""
        found = self.dmas[name]
        if not isinstance(found, Dma):
            raise TypeError(f"{self.name}: {name} is a mover of model {found.model}")
        return found

    def mover_of(self, core: str) -> Dma | CachedMover | None:
        """What brings a core's operands: the mover of the route from main memory to its memory; None where both are
        one."""
        memory = self.cores[core].memory
        return None if memory == self.main_memory else self.dmas[self.route(self.main_memory, memory).dma]

    def is_cached(self, core: str) -> bool:
        """Whether rows through caches bring a core's operands, not a DMA whole tiles."""
        memory = self.cores[core].memory
        return memory != self.main_memory and isinstance(self.mover_of(core), CachedMover)

    def serves(self, core: Core) -> str:
        """The memory that serves a core's own reads and writes: its memory; where that is the main memory and has a
        cached mover's caches before it, their L2, as such a core has no time for misses either."""
        l2 = next((mover.l2 for mover in self.dmas.values() if isinstance(mover, CachedMover)), None)
        return l2 if l2 is not None and core.memory == self.main_memory else core.memory

    def has_route(self, source: str, target: str) -> bool:
        return any((r.source, r.target) == (source, target) for r in self.routes)

    def bursts_at(self, link: str) -> int:
        """The bursts that can ask for a link at once: one for each lane of a DMA, and one for each core that feeds.
        Those of a cached mover, who has links of its own, are not counted."""
        dmas = {route.dma for route in self.routes if link in route.links}
        cores = [core for core in self.cores.values() if link in core.feed_links]
        return sum(mover.lanes for name, mover in self.dmas.items() if name in dmas and isinstance(mover, Dma)) + len(
            cores
        )

    def _unused(self) -> list[tuple[tuple[str | int, ...], str]]:
        """Memories, links and movers that nobody uses; everything that is named must be there."""
        out: list[tuple[tuple[str | int, ...], str]] = []
        named = {self.main_memory, self.backing_memory, *(m for r in self.routes for m in (r.source, r.target))}
        over = {link for route in self.routes for link in route.links}
        for mover in self.dmas.values():
            named |= {mover.l2, mover.llc} if isinstance(mover, CachedMover) else set()
        for core in self.cores.values():
            named |= {core.memory, core.weight_memory, *(getattr(core, key) for key in core.own_memories())}
            over |= {*core.feed_links, *(getattr(core, key) for key in core.own_links())}
        for section, there, used, what in (
            ("memories", self.memories, named, "no core or route uses this memory"),
            ("links", self.links, over, "no route or core goes over this link"),
            ("dmas", self.dmas, {route.dma for route in self.routes}, "no route names this mover"),
        ):
            out += [((section, name), f"{what}; remove it") for name in there if name not in used]
        return out

    def _without_effect(self) -> list[tuple[tuple[str | int, ...], str]]:
        """Keys that would change nothing on this machine; everything that they name must be there."""
        out = self._unused()
        counted = {core.memory: name for name, core in self.cores.items() if core.takes_rows}
        counted |= {getattr(core, key): name for name, core in self.cores.items() for key in core.own_memories()}
        for name, memory in self.memories.items():
            if memory.access_pj_per_byte and name in counted:
                what = f"access of {counted[name]} has it; remove the key"
                out.append((("memories", name, "access_pj_per_byte"), what))
        for section, key in (("memories", "access_pj_per_byte"), ("links", "energy_pj_per_byte")):
            for name, one in getattr(self, section).items():
                if (
                    one.off_chip
                    and self.technology is None
                    and (not getattr(one, key) or self.nominal_voltage_v is None)
                ):
                    what = f"it has no {key}" if not getattr(one, key) else "the file has no nominal_voltage_v"
                    out.append(((section, name, "off_chip"), f"{what}, so that it changes nothing; remove the key"))
        cells = {core.weight_memory for core in self.cores.values() if (of := core.silicon()) and of.cell_bits}
        for name, memory in self.memories.items():
            for key in ("area_mm2", "off_chip") if name in cells and self.technology is not None else ():
                if getattr(memory, key):
                    what = "it is the cells of a core that computes in them; remove the key"
                    out.append((("memories", name, key), what))
            if (
                memory.area_mm2
                and name not in cells
                and (memory.off_chip or (self.area_mm2 and self.technology is None))
            ):
                what = "the memory is not on the chip" if memory.off_chip else "area_mm2 of the chip has it"
                out.append((("memories", name, "area_mm2"), f"{what}; remove the key"))
        for name, link in self.links.items():
            most = self.bursts_at(name)
            if most and link.ports > most:
                what = f"found {link.ports}, but at most {most} bursts ask for it at once"
                out.append((("links", name, "ports"), what))
            most = min(most, link.ports)
            if most and len(link.stretch) > most:
                what = f"found {len(link.stretch)} factors, but at most {most} bursts are over it at once"
                out.append((("links", name, "stretch"), what))
        return [*out, *self._without_rivals()]

    def _without_rivals(self) -> list[tuple[tuple[str | int, ...], str]]:
        """Keys of who goes first, and in which pieces: they matter where bursts wait for a port, or slow each other."""
        out: list[tuple[tuple[str | int, ...], str]] = []
        waits = {name for name, link in self.links.items() if self.bursts_at(name) > link.ports}
        slows = {name for name, link in self.links.items() if len(link.stretch) > 1}
        tensors = {self.main_memory, self.backing_memory, *(core.memory for core in self.cores.values())}
        for name, dma in self.dmas.items():
            if not isinstance(dma, Dma):
                continue
            mine = [route for route in self.routes if route.dma == name]
            links = {link for route in mine for link in route.links}
            if dma.priority and not any(self.bursts_at(link) > dma.lanes for link in links & waits):
                what = "none of its bursts waits for one of another unit; remove the key"
                out.append((("dmas", name, "priority"), what))
            if dma.piece_cycles is not None and not any({route.source, route.target} <= tensors for route in mine):
                what = "it brings weights alone, each in one piece; remove the key"
                out.append((("dmas", name, "piece_cycles"), what))
        for name, core in self.cores.items():
            if core.feed_pieces > 1 and not {*core.feed_links} & (waits | slows):
                what = "nobody holds up what it feeds" if core.feed_links else "it has no feed_links"
                out.append((("cores", name, "feed_pieces"), f"{what}, so that pieces change nothing; remove the key"))
            alone = core.memory == self.main_memory and core.weight_memory is None and self.backing_memory is None
            if core.channel_step > 1 and alone:
                what = "it computes where all tensors and weights live, so that nothing is cut; remove the key"
                out.append((("cores", name, "channel_step"), what))
            if core.keeps_weights and "keeps_weights" in core.model_fields_set and core.weight_memory is None:
                out.append((("cores", name, "keeps_weights"), "it has no weight_memory to keep them in"))
        return out

    def problems(self, mended: Mended = WHOLE) -> list[tuple[tuple[str | int, ...], str]]:
        """What does not hang together, as (path in the file, what was found and what would be right). mended: what
        the file has otherwise; what may follow from that is left out, and what may follow from a name that nothing
        has: a missing route, what seems to be used by nobody."""
        out: list[tuple[tuple[str | int, ...], str]] = []
        unrouted: list[tuple[tuple[str | int, ...], str]] = []
        unnamed = False

        def known(path: tuple[str | int, ...], name: str, among: dict[str, Any], kind: str) -> bool:
            nonlocal unnamed
            if name not in among:
                unnamed = True
                if not mended.lacks({"memory": "memories"}.get(kind, f"{kind}s"), name):
                    out.append((path, f"no {kind} named {name!r}; there is {', '.join(among) or 'none'}"))
            return name in among

        seen: set[tuple[str, str]] = set()
        for i, route in enumerate(self.routes):
            known(("routes", i, "from"), route.source, self.memories, "memory")
            known(("routes", i, "to"), route.target, self.memories, "memory")
            known(("routes", i, "dma"), route.dma, self.dmas, "dma")
            for link in route.links:
                known(("routes", i, "links"), link, self.links, "link")
            if len(set(route.links)) != len(route.links):
                out.append((("routes", i, "links"), "a link is named twice in one route; name each once"))
            if all(end in self.memories and self.memories[end].dram for end in (route.source, route.target)):
                what = "both of its memories have banks, and a transfer opens the rows of one; give one of them no dram"
                out.append((("routes", i), what))
            if (route.source, route.target) in seen:
                out.append((("routes", i), f"a second route from {route.source} to {route.target}; keep one"))
            seen.add((route.source, route.target))
        for name, mover in self.dmas.items():
            if isinstance(mover, CachedMover):
                for key in ("l2", "llc"):
                    known(("dmas", name, key), getattr(mover, key), self.memories, "memory")
                for key in ("return_link", "outer_link", "dram_link"):
                    known(("dmas", name, key), getattr(mover, key), self.links, "link")
                mine = {("dmas", name), *(("memories", one) for one in (mover.l2, mover.llc))}
                if not any(mended.touches(one) for one in (*mine, *(("links", link) for link in mover.links))):
                    out += self._cached_problems(name, mover)
        if not any(mended.touches((key,)) for key in ("nominal_voltage_v", "voltage_v", "clock_hz")):
            out += self._voltage_problems()
        if not any(mended.touches((key,)) for key in ("technology", "energies", "figures_at")):
            out += self._technology_problems(mended)
        known(("host",), self.host, self.cores, "core")
        homes = [h for h in (("main_memory", self.main_memory), ("backing_memory", self.backing_memory)) if h[1]]
        homes = [h for h in homes if known((h[0],), str(h[1]), self.memories, "memory")]
        for name, core in self.cores.items():
            for link in core.feed_links:
                known(("cores", name, "feed_links"), link, self.links, "link")
            for key in core.own_memories():
                known(("cores", name, key), getattr(core, key), self.memories, "memory")
            for key in core.own_links():
                known(("cores", name, key), getattr(core, key), self.links, "link")
            if core.takes_rows and core.memory in self.memories and not self._brings_rows(core):
                what = f"a core of model {core.model} takes rows; route its memory over a mover of model cached"
                unrouted.append((("cores", name, "memory"), what))
            used = [("memory", core.memory, True)]
            used += [("weight_memory", core.weight_memory, False)] if core.weight_memory is not None else []
            for key, memory, both_ways in used:
                if not known(("cores", name, key), memory, self.memories, "memory") or len(homes) == 0:
                    continue
                for a, b in [(self.main_memory, memory)] + [(memory, self.main_memory)] * both_ways:
                    if a != b and not self.has_route(a, b):
                        unrouted.append((("cores", name, key), f"no route from {a} to {b}; add one to routes"))
        if not any(place[0] == "routes" for place in (*mended.places, *(at for at, _ in out))):
            out += unrouted
        if unnamed or unrouted or mended.names:
            return out
        return out + (self._unused() if mended.places else self._without_effect())

    def _voltage_problems(self) -> list[tuple[tuple[str | int, ...], str]]:
        """What is wrong with the voltage and the clock that it runs at."""
        out: list[tuple[tuple[str | int, ...], str]] = []
        if self.voltage_v is None and self.nominal_voltage_v is not None:
            out.append((("nominal_voltage_v",), "changes nothing without voltage_v, at which it runs; give both"))
        if self.clock_hz is not None and self.voltage_v is None:
            out.append((("clock_hz",), "is the clock at voltage_v; give that, too"))
        if self.voltage_v is not None:
            nominal = self.nominal_voltage_v
            if nominal is None:
                out.append((("voltage_v",), "needs nominal_voltage_v, at which the file's energies are"))
            elif not LEAST_VOLTAGE * nominal <= self.voltage_v <= MOST_VOLTAGE * nominal:
                low, high = LEAST_VOLTAGE * nominal, MOST_VOLTAGE * nominal
                what = f"found {self.voltage_v:g}; the laws are stated for {low:g} to {high:g} V"
                out.append((("voltage_v",), what))
        return out

    def _technology_problems(self, mended: Mended) -> list[tuple[tuple[str | int, ...], str]]:
        """Keys that need a technology, or that one replaces."""
        if self.technology is None:
            given = {"energies": self.energies != "file", "figures_at": bool(self.figures_at)}
            return [((key,), "changes nothing without technology; give that, too") for key in given if given[key]]
        out: list[tuple[tuple[str | int, ...], str]] = []
        for name, core in self.cores.items():
            if core.silicon() is None and not mended.entries("cores"):
                what = f"core {name} of model {core.model} does not say what it is made of; leave technology out"
                out.append((("technology",), what))
        if self.energies == "file":
            return out
        if self.figures_at:
            out.append((("figures_at",), "changes nothing where energies are the technology's; remove the key"))
        stated: list[tuple[str | int, ...]] = [
            (key,) for key in ("base_power_mw", "static_power_mw") if key in self.model_fields_set
        ]
        for section, key in (("memories", "access_pj_per_byte"), ("links", "energy_pj_per_byte"), ("dmas", "power_mw"),
                             ("cores", "power_mw")):  # fmt: skip
            for name, one in getattr(self, section).items():
                if key in one.model_fields_set and not getattr(one, "off_chip", False):
                    stated.append((section, name, key))
        return out + [(at, "comes from the technology (energies: technology); remove the key") for at in stated]

    def _brings_rows(self, core: Core) -> bool:
        """Whether a core's memory is filled by a cached mover."""
        ends = (self.main_memory, core.memory)
        return any((r.source, r.target) == ends and isinstance(self.dmas.get(r.dma), CachedMover) for r in self.routes)

    def _cached_problems(self, name: str, mover: CachedMover) -> list[tuple[tuple[str | int, ...], str]]:
        """What is wrong with a cached mover's caches, and with what is bound to it."""
        out: list[tuple[tuple[str | int, ...], str]] = []
        for key, line_bytes, ways in (
            ("l2", mover.l2_line_bytes, mover.l2_ways), ("llc", mover.llc_line_bytes, mover.llc_ways)
        ):  # fmt: skip
            memory = self.memories.get(getattr(mover, key))
            if memory is not None and memory.capacity_bytes < line_bytes * ways:
                size, need = memory.capacity_bytes, line_bytes * ways
                what = f"memory {getattr(mover, key)} has {size} bytes; a set of its ways needs {need}"
                out.append((("dmas", name, f"{key}_ways"), what))
        keys: list[tuple[tuple[str | int, ...], int]] = []
        for key in ("l2_line_bytes", "llc_line_bytes"):
            keys.append((("dmas", name, key), getattr(mover, key)))
        if mover.return_link in self.links:
            beat = self.links[mover.return_link].bytes_per_period
            keys.append((("links", mover.return_link, "bytes_per_period"), beat))
            if beat > mover.l2_line_bytes:
                what = f"found {beat}: a beat is of one line, and those of the L2 have {mover.l2_line_bytes} bytes"
                out.append((("links", mover.return_link, "bytes_per_period"), what))
        out += [(at, f"found {size}: mover {name} needs a power of two") for at, size in keys if size & (size - 1)]
        if len(set(mover.links)) < len(mover.links):
            out.append((("dmas", name, "return_link"), "its three links must be three"))
        for i, route in enumerate(self.routes):
            if route.dma != name:
                continue
            if route.links != mover.links and all(link in self.links for link in route.links):
                out.append((("routes", i, "links"), f"mover {name} goes over {', '.join(mover.links)}: name these"))
            ends = (route.source, route.target)
            if self.main_memory not in ends and all(end in self.memories for end in ends):
                out.append((("routes", i), f"mover {name} goes from and to {self.main_memory} only"))
        for core_name, core in self.cores.items():
            bound = core.memory != self.main_memory and self.has_route(self.main_memory, core.memory)
            if bound and self.route(self.main_memory, core.memory).dma == name and not core.takes_rows:
                what = f"a core of model {core.model} takes whole tiles, mover {name} brings rows; route it over a dma"
                out.append((("cores", core_name, "memory"), what))
        if self.backing_memory is not None:
            out.append((("backing_memory",), f"mover {name} reads from {self.main_memory} only; leave it out"))
        return out
