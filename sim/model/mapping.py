"""Mappings: which core computes which output channels of a layer, in which tiles and order, under which runtime.

One grammar for every chip and for clusters. A mapping may be silent about tiles (the tiler chooses) and about layers
(their default core runs them); `complete` in `cosoc.sim.tiler` fills in what is missing, `problems` there says what a
machine cannot do. Names, not positions.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingOf
from dataclasses import dataclass, field, replace
from typing import Literal

Runtime = Literal["serial", "overlapped"]
RUNTIMES: tuple[Runtime, ...] = ("serial", "overlapped")
Dim = Literal["n", "k", "c", "fy", "fx", "oy", "ox"]
DIMS: tuple[Dim, ...] = ("n", "k", "c", "fy", "fx", "oy", "ox")
REDUCTION: tuple[Dim, ...] = ("c", "fy", "fx")
PARTIAL_BYTES = 4  # an accumulator's width, as the published arrays have it

# Of the loops around tiles: weights stay while pixels pass, or inputs stay while output channels pass.
WEIGHTS_STAY: tuple[Dim, ...] = ("k", "n", "oy", "ox", "c", "fy", "fx")
INPUTS_STAY: tuple[Dim, ...] = ("n", "oy", "ox", "k", "c", "fy", "fx")


@dataclass(frozen=True)
class Extent:
    """What a tile spans along each dimension; n: images of a batch (or sequences), c: input channels that one output
    channel reads. Less than all of c, fy or fx: the tiles of one result follow each other and add up partial sums of
    PARTIAL_BYTES each."""

    k: int
    c: int
    fy: int
    fx: int
    oy: int
    ox: int
    n: int = 1

    def along(self, dim: str) -> int:
        """The size along one of DIMS."""
        size: int = getattr(self, dim)
        return size


@dataclass(frozen=True)
class Part:
    """`channels` output channels of a layer on one core; the parts of a layer are contiguous, in order. tile: one job's
    share of them; None leaves it to the tiler. bits: the width of their weights; None: the core's own."""

    core: str
    channels: int
    tile: Extent | None = None
    bits: int | None = None


@dataclass(frozen=True)
class LayerPlan:
    """How one layer is computed.

    order: the loops around its tiles, outermost first, all of DIMS; None where tiles are the tiler's. reuse: whether an
    operand that the tile before had stays; if not, every tile loads its own. unroll: most pixels an analog operation
    may compute at once, 0 for no limit.
    """

    parts: tuple[Part, ...]
    order: tuple[Dim, ...] | None = None
    reuse: bool = True
    unroll: int = 0

    @property
    def is_tiled(self) -> bool:
        """Whether every part says its tiles."""
        return self.order is not None and all(part.tile is not None for part in self.parts)

    @property
    def untiled(self) -> LayerPlan:
        """The same parts, their tiles and the order of these left to the tiler."""
        return replace(self, parts=tuple(replace(part, tile=None) for part in self.parts), order=None)

    @property
    def tile(self) -> Extent:
        """The first part's tile: what the layer's parts have in common, all but k, stands there. The plan must be
        tiled."""
        first = self.parts[0].tile
        assert first is not None, "complete the mapping first"
        return first

    @property
    def loops(self) -> tuple[Dim, ...]:
        """The order of a tiled plan."""
        assert self.order is not None, "complete the mapping first"
        return self.order

    def channels_on(self, core: str) -> int:
        """Output channels on a core, 0 where it has none."""
        return sum(part.channels for part in self.parts if part.core == core)


How = Literal["fused", "parallel"]


@dataclass(frozen=True)
class Piece:
    """Layers that belong together. fused: what passes between them stays in the cores' memory. parallel: layers that
    need nothing of one another and run at once, each on cores of its own, with tiles that fit the cores' memory
    together. A layer in no piece is one by itself.

    Behind a DMA a fused piece goes row by row, all weights resident. Behind caches it goes by the tile of its last
    layer: keep_rows False computes anew what two tiles both need, in place of keeping rows in line buffers; resident
    names the layers whose weights stay, the others' come again with every tile (None: all stay).
    """

    layers: tuple[str, ...]
    how: How = "fused"
    keep_rows: bool = True
    resident: tuple[str, ...] | None = None

    def stays(self, layer: str) -> bool:
        """Whether a layer's weights stay."""
        return self.resident is None or layer in self.resident


@dataclass(frozen=True)
class Stage:
    """A stage of a pipeline over the devices of a cluster: from where the stage before ends to behind these layers, on
    `replicas` devices that take turns. behind: the last layers of the cut; all that they need is done (for a chain, one
    name)."""

    device: str
    behind: tuple[str, ...]
    replicas: int = 1


@dataclass(frozen=True)
class Mapping:
    """A whole network's mapping. serial: every transfer and job is waited for, one at a time; overlapped: transfers are
    double-buffered and cores run at once. stages, micro_batch: on a cluster, how the network is divided over its
    devices, and how many inferences pass from one to the next together, as a batch; layers and pieces then hold inside
    of the devices. Elsewhere there are no stages."""

    name: str
    runtime: Runtime = "serial"
    layers: MappingOf[str, LayerPlan] = field(default_factory=dict)
    pieces: tuple[Piece, ...] = ()
    stages: tuple[Stage, ...] = ()
    micro_batch: int = 1
