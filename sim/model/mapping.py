"""Mappings: which core computes which output channels of a layer, in which tiles, under which runtime.

A mapping may be silent about tiles (the tiler chooses) and about layers (their default core runs them); `complete` in
`cosoc.sim.tiler` fills in what is missing, `problems` there says what a machine cannot do.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingOf
from dataclasses import dataclass, field
from typing import Literal

Runtime = Literal["serial", "overlapped"]
RUNTIMES: tuple[Runtime, ...] = ("serial", "overlapped")
Order = Literal["weights", "inputs"]
PARTIAL_BYTES = 4  # an accumulator's width, as the published arrays have it


@dataclass(frozen=True)
class Share:
    """`k` output channels of a layer on one core; the shares of a layer are contiguous, in order."""

    core: str
    k: int


@dataclass(frozen=True)
class Tiling:
    """How a layer is cut into jobs.

    k: output channels a job, one figure a share; oy, ox: output rows and columns a job. order: what stays in its
    memory while the other is streamed past it: each tile of the weights is loaded once ("weights"), or each tile of
    the inputs is ("inputs"). c: input channels a job; 0 for all of them, fewer where the weights of all do not fit: the
    jobs of one tile then follow each other, each with its weights, and add up partial sums of PARTIAL_BYTES each.
    """

    k: tuple[int, ...]
    oy: int
    ox: int
    order: Order = "weights"
    c: int = 0


NEST_DIMS = ("k", "c", "fy", "fx", "oy", "ox")


@dataclass(frozen=True)
class NestTiling:
    """How a systolic array's layer is cut into tiles, one hardware loop each.

    k .. ox: elements of each dimension that a tile spans. order: the software loops around the tiles, all of NEST_DIMS,
    outermost first. reuse: whether an operand that the tile before had stays; if not, every tile loads its own.
    """

    k: int
    c: int
    fy: int
    fx: int
    oy: int
    ox: int
    order: tuple[str, ...] = ("oy", "ox", "k", "fy", "fx", "c")
    reuse: bool = True


@dataclass(frozen=True)
class LayerMapping:
    """One layer's shares and tiles. ox_unroll: most pixels an analog operation may compute at once, 0 for no limit.
    nest: its tiles where a systolic array runs it; such a layer has one share and no `tiling`."""

    shares: tuple[Share, ...]
    tiling: Tiling | None = None
    ox_unroll: int = 0
    nest: NestTiling | None = None

    def k_on(self, core: str) -> int:
        """Output channels on a core, 0 where it has none."""
        return sum(share.k for share in self.shares if share.core == core)


@dataclass(frozen=True)
class Group:
    """Layers that run fused; what passes between them stays in the cores' memory. Or, if `parallel`, layers that need
    nothing of one another and run at once, each on cores of its own, with tiles that fit the cores' memory together.

    As it stands they go row by row, all weights resident. On a systolic array a group goes by the tile of its last
    layer's `nest`: keep_rows False computes anew what two tiles both need, in place of keeping rows in line buffers;
    resident names the layers whose weights stay, the others' come again with every tile (None: all stay).
    """

    layers: tuple[str, ...]
    keep_rows: bool = True
    resident: tuple[str, ...] | None = None
    parallel: bool = False

    def stays(self, layer: str) -> bool:
        """Whether a layer's weights stay."""
        return self.resident is None or layer in self.resident


@dataclass(frozen=True)
class Mapping:
    """A whole network's mapping. serial: every transfer and job is waited for, one at a time; overlapped: transfers are
    double-buffered and cores run at once."""

    name: str
    runtime: Runtime = "serial"
    layers: MappingOf[str, LayerMapping] = field(default_factory=dict)
    groups: tuple[Group, ...] = ()
