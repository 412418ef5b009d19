"""The description of a chip or cluster: memories, links, DMA engines, routes, cores and power.

A SoC file is YAML, one number a line, each with its unit in the key and its source in a comment. `catalog.load_soc`
checks it and refuses it with `file:line:column`. Cycles in the file are cycles of `tick_hz`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SerializeAsAny, model_validator

from cosoc.sim import exact
from cosoc.sim.model.workload import Tile

LARGEST = 1 << 40  # beyond any figure of a machine, and far from overflowing the engines
Positive = Annotated[int, Field(gt=0, le=LARGEST)]
Count = Annotated[int, Field(ge=0, le=LARGEST)]
Watts = Annotated[float, Field(ge=0)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]
Num = exact.Num


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


# YAML has lists only, the models are strict and frozen.
FromList = BeforeValidator(_tuple)


class Model(BaseModel):
    """Frozen, and strict about its keys and types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Memory(Model):
    """A store. `usable_bytes` is what a mapping may fill (default: all of it)."""

    size_bytes: Positive
    usable_bytes: Count | None = None
    area_mm2: Watts = 0.0

    @property
    def capacity_bytes(self) -> int:
        return self.size_bytes if self.usable_bytes is None else self.usable_bytes

    @model_validator(mode="after")
    def _usable_within_size(self) -> Memory:
        if self.capacity_bytes > self.size_bytes:
            raise ValueError(f"usable_bytes {self.usable_bytes} is more than size_bytes {self.size_bytes}")
        return self


class Link(Model):
    """A shared path that bursts hold: a memory port, a bus, a network.

    rate = bytes_per_period / period_cycles. ports: bursts it carries at once; 0 only caps the rate.
    stretch: factor on a burst's time by the number of bursts in progress (1 first), for bank conflicts.
    switch_cycles: paid where the tag of the traffic changes (row, weight set, direction).
    """

    bytes_per_period: Positive
    period_cycles: Positive = 1
    ports: Count = 1
    switch_cycles: Count = 0
    stretch: Annotated[tuple[Annotated[float, Field(ge=1)], ...], FromList] = ()
    energy_pj_per_byte: Watts = 0.0


class Dma(Model):
    """An engine that moves bytes along routes, in program order, `lanes` transfers in flight.

    piece_cycles: what each further contiguous piece of a tile costs, where the DMA follows strides by itself (2-D,
    3-D); without it every piece is a call with a set-up of its own.
    """

    setup_cycles: Count
    piece_cycles: Count | None = None
    align_bytes: Positive = 1
    burst_bytes: Positive
    lanes: Positive = 1
    priority: Count = 0
    power_mw: Watts = 0.0


class Route(Model):
    """How bytes get from one memory to another: by which DMA, over which links."""

    source: Name = Field(alias="from")
    target: Name = Field(alias="to")
    dma: Name
    links: Annotated[tuple[Name, ...], FromList] = Field(min_length=1)


class Core(Model):
    """What every core model has in common; the models themselves stand in `cosoc.sim.cores`.

    A model says what it can do (`fits`), what a job costs unloaded (`cycles`), and what it moves (`feed_bytes`,
    `weight_bytes`), each written once for ints, arrays and tensors.
    """

    model: str
    memory: Name  # where its inputs and outputs lie
    weight_memory: Name | None = None  # where its weights lie; None: beside the activations
    keeps_weights: bool = False  # weights that fit its weight memory are written once, not in every inference
    weight_bits: Positive = 8  # the format it computes in, for accuracy
    ternary: bool = False
    act_bits: Positive = 8
    channel_step: Positive = 1  # a search gains nothing by finer steps of output channels
    launch_cycles: Count = 0  # host work to configure and start one job and to see it end
    power_mw: Watts = 0.0  # on top of the base power, while it is busy
    feed_links: Annotated[
        tuple[Name, ...], FromList
    ] = ()  # links over which it reads and writes activations, held while it does
    feed_pieces: Positive = 1  # pieces of a job in which feed and array cycles alternate; 1: all is fed first

    @property
    def unrolls(self) -> bool:
        """Whether it computes several pixels at once, as many as a mapping may limit (`unroll`)."""
        return False

    def own_memories(self) -> tuple[str, ...]:
        """Keys, besides those of every core, whose values name memories of the SoC."""
        return ()

    def own_links(self) -> tuple[str, ...]:
        """Keys, besides `feed_links`, whose values name links of the SoC."""
        return ()

    def fits(self, tile: Tile) -> list[str]:
        """Why this core cannot run the tile; empty if it can."""
        raise NotImplementedError

    def cycles(self, tile: Tile, xp: Any) -> Num:
        """Array cycles of one job, without launch and feed; 0 for a tile with k = 0."""
        raise NotImplementedError

    def batch_cycles(self, tile: Tile, batch: int, xp: Any) -> Num:
        """The same of one job that computes the tile for each image of a batch; one after the other, unless the core
        gains by having them together."""
        return batch * self.cycles(tile, xp)

    def feed_bytes(self, tile: Tile, xp: Any) -> Num:
        """Bytes that one job moves over `feed_links` before its array cycles; 0 where `cycles` covers it."""
        return 0 * tile.k

    def feeds(self, tile: Tile, xp: Any) -> tuple[tuple[tuple[str, ...], Num], ...]:
        """What one job moves before its array cycles, one after the other: (links, bytes), `feed_bytes` in all."""
        return ((self.feed_links, self.feed_bytes(tile, xp)),)

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
    """A whole machine. `base_power_mw` is drawn all the time; cores and DMAs add theirs while busy."""

    name: Name
    description: str = ""
    tick_hz: Positive
    memories: dict[Name, Memory]
    links: dict[Name, Link]
    dmas: dict[Name, Dma]
    routes: Annotated[tuple[Route, ...], FromList]
    cores: dict[Name, SerializeAsAny[Core]]
    host: Name  # the core that launches jobs and runs what no other core can
    main_memory: Name  # where tensors and weights live between layers
    backing_memory: Name | None = None  # where they live when they do not fit the main memory
    base_power_mw: Watts = 0.0

    def route(self, source: str, target: str) -> Route:
        """The route between two memories; KeyError where there is none."""
        for route in self.routes:
            if (route.source, route.target) == (source, target):
                return route
        raise KeyError(f"{self.name} has no route from {source} to {target}")

    def has_route(self, source: str, target: str) -> bool:
        return any((r.source, r.target) == (source, target) for r in self.routes)

    def problems(self) -> list[tuple[tuple[str | int, ...], str]]:
        """What does not hang together, as (path in the file, what was found and what would be right)."""
        out: list[tuple[tuple[str | int, ...], str]] = []

        def known(path: tuple[str | int, ...], name: str, among: dict[str, Any], kind: str) -> bool:
            if name not in among:
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
            if (route.source, route.target) in seen:
                out.append((("routes", i), f"a second route from {route.source} to {route.target}; keep one"))
            seen.add((route.source, route.target))
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
            used = [("memory", core.memory, True), ("weight_memory", core.weight_memory or core.memory, False)]
            for key, memory, both_ways in used:
                if not known(("cores", name, key), memory, self.memories, "memory") or len(homes) == 0:
                    continue
                for a, b in [(self.main_memory, memory)] + [(memory, self.main_memory)] * both_ways:
                    if a != b and not self.has_route(a, b):
                        out.append((("cores", name, key), f"no route from {a} to {b}; add one to routes"))
        return out
