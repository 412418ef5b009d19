"""A CPU or GPU under an inference runtime: each layer is a kernel, bound by arithmetic or by memory.

    cycles of a kernel = kernel_cycles + max(MACs / (peak x efficiency of its class), bytes / memory bandwidth)

The nominal MACs of a layer are counted, so an efficiency may exceed one: a runtime that computes 3x3 filters by
Winograd's algorithm multiplies less often. It does so by tiles of outputs, so that maps count as rounded up to whole
tiles, and keeps the filters transformed, which makes them larger.

A GPU needs outputs in flight to be busy: a thread's next multiply-add waits `chain_cycles` for its last one, and each
multiprocessor wants a tile of outputs, which makes `fill_outputs` on all of them. A kernel takes as long as if it had
the larger of the two numbers of outputs more, so that its efficiency grows with the images that share it. Images are to
it what pixels are: no cut is faster than the whole.

Pools, sums and other operators without MACs are bound by memory, and pointwise operators of one operand cost nothing,
as runtimes apply them while the layer before writes its results. Inputs, weights and outputs are moved once each. A
tile is one item's; `batch_cycles` is for several in one kernel, which moves the weights once. One core is the whole
processor, with all its threads.

One device behaves differently under each runtime; a SoC file holds a table for each and names the one in use.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_args

from pydantic import Field, model_validator

from cosoc.sim.model.soc import NO_FEED, Core, Model, Name, Num, SoC
from cosoc.sim.model.units import Bits, Count, ElementsOr0, OfPeak, PerCycle, TileEdge, WholeCyclesOr0
from cosoc.sim.model.workload import Tile

OpClass = Literal["conv3x3", "conv1x1", "depthwise", "fc", "attention", "other"]
OP_CLASSES: tuple[OpClass, ...] = get_args(OpClass)
FRACTION = 1 << 20  # rates are rounded to this part of a MAC or byte a cycle, so that ints stay ints


def op_class(tile: Tile) -> OpClass:
    """The class of a layer with MACs.

    conv3x3: with stride 1, which Winograd serves. depthwise: grouped filters of any size. fc: on one pixel. attention:
    products of activations, and linear layers on a row of tokens. other: strided or larger filters.
    """
    if tile.op == "matmul":
        return "attention"
    if tile.groups > 1:
        return "depthwise"
    if (tile.fy, tile.fx) == (1, 1):
        if tile.oy == 1:
            return "fc" if tile.ox == 1 else "attention"
        return "conv1x1"
    plain = (tile.fy, tile.fx, tile.stride_y, tile.stride_x, tile.dilation) == (3, 3, 1, 1, 1)
    return "conv3x3" if plain else "other"


class Efficiency(Model):
    """Nominal MACs a cycle over the peak, by class of operator."""

    conv3x3: OfPeak  # 3x3 filters with stride 1
    conv1x1: OfPeak  # 1x1 filters on feature maps
    depthwise: OfPeak  # filters in groups, of any size
    fc: OfPeak  # fully connected, on one pixel
    attention: OfPeak  # products of activations, and linear layers on a row of tokens
    other: OfPeak  # strided or larger filters


class Networks(Model):
    """Networks that were measured on the device and have operators of a class: what the class's figure was fitted to.
    Of 0 it is other devices' or assumed, and results say so; as they do of few."""

    conv3x3: Count  # with 3x3 filters of stride 1
    conv1x1: Count  # with 1x1 filters on feature maps
    depthwise: Count  # with filters in groups
    fc: Count  # with fully connected layers
    attention: Count  # with products of activations, or linear layers on tokens
    other: Count  # with strided or larger filters


def evidence_of(tile: Tile, networks: Networks | None) -> tuple[str, int] | None:
    """The class of a layer with MACs, and the networks that its figure was fitted to; None where nothing is said."""
    if networks is None or tile.op not in ("conv", "matmul"):
        return None
    found = op_class(tile)
    return found, getattr(networks, found)


def number_format(bits: int) -> str:
    """What runtimes call it."""
    return {8: "int8", 16: "fp16", 32: "fp32"}.get(bits, f"{bits} bit")


class InferenceRuntime(Model):
    """What a runtime makes of the processor."""

    peak_macs_per_cycle: PerCycle  # with the arithmetic that it uses
    number_bits: Bits  # of weights and activations in memory
    kernel_cycles: WholeCyclesOr0  # start and end of a kernel
    winograd_tile: TileEdge = 1  # outputs along an edge of what Winograd's algorithm computes at once; 1: not used
    sum_macs: ElementsOr0 = 0  # MACs that starting and ending a sum is worth
    chain_cycles: WholeCyclesOr0 = 0  # from one multiply-add to the next that needs it
    fill_outputs: ElementsOr0 = 0  # of one tile on each multiprocessor
    efficiency: Efficiency  # nominal MACs a cycle over the peak, by class of operator
    # networks that each class's figure was fitted to; left out where the file does not say
    networks: Networks | None = None


class Roofline(Core):
    """See the module docstring. `runtime` names the one of `runtimes` that is in use."""

    UNUSED: ClassVar[Mapping[str, str]] = NO_FEED | {
        "weight_memory": "it reads weights where tensors live",
        "keeps_weights": "it reads weights where tensors live",
        "weight_bits": "number_bits of its runtime is its format",
        "weight_formats": "number_bits of its runtime is its format",
        "act_bits": "number_bits of its runtime is its format",
        "channel_step": "a kernel takes all channels",
        "launch_cycles": "kernel_cycles of its runtime is the start of a kernel",
        "layer_launch_cycles": "kernel_cycles of its runtime is the start of a kernel",
    }

    model: Literal["roofline"]
    kind: Literal["cpu", "gpu"]  # of processor
    memory_bytes_per_cycle: PerCycle  # that its memory brings
    runtime: Name  # the one of runtimes that is in use
    # tables of figures by the name of an inference runtime
    runtimes: dict[Name, InferenceRuntime] = Field(min_length=1)

    @model_validator(mode="after")
    def _knows_its_runtime(self) -> Roofline:
        if self.runtime not in self.runtimes:
            raise ValueError(f"runtime {self.runtime} is not one of {', '.join(self.runtimes)}")
        return self

    @property
    def numbers(self) -> tuple[str, int, int]:
        bits = self.runtimes[self.runtime].number_bits
        return "float" if bits > 8 else "integer", bits, bits

    def improvements(self) -> tuple[str, ...]:
        used = f"runtimes.{self.runtime}"
        return f"{used}.peak_macs_per_cycle=x2", "memory_bytes_per_cycle=x2", f"{used}.kernel_cycles=x0.5"

    def fits(self, tile: Tile) -> list[str]:
        return []

    def evidence(self, tile: Tile) -> tuple[str, int] | None:
        return evidence_of(tile, self.runtimes[self.runtime].networks)

    @property
    def basis(self) -> str:
        form = number_format(self.runtimes[self.runtime].number_bits)
        return f"{self.runtime.removesuffix(f'_{form}')} {form}"

    @property
    def peak(self) -> float:
        return self.runtimes[self.runtime].peak_macs_per_cycle

    def _winograd(self, tile: Tile) -> int:
        multiplies = tile.op in ("conv", "matmul")
        return self.runtimes[self.runtime].winograd_tile if multiplies and op_class(tile) == "conv3x3" else 1

    def macs(self, tile: Tile, xp: Any) -> Num:
        """Multiply-accumulates as they count: nominal ones on whole tiles of Winograd's algorithm, and `sum_macs`;
        0 for what multiplies nothing."""
        if tile.op not in ("conv", "matmul"):
            return 0 * tile.k
        edge = self._winograd(tile)
        pixels = xp.ceildiv(tile.oy, edge) * xp.ceildiv(tile.ox, edge) * edge * edge
        return tile.k * (tile.c * tile.fy * tile.fx + self.runtimes[self.runtime].sum_macs) * pixels

    def counted_macs(self, tile: Tile, xp: Any, batch: int = 1) -> Num:
        """What a kernel's time is over the rate of its class: the MACs of each item of a batch, and once those of the
        outputs that it takes to have no lane wait for a sum and no multiprocessor without a tile."""
        macs = batch * self.macs(tile, xp)
        if tile.op not in ("conv", "matmul"):
            return macs
        used = self.runtimes[self.runtime]
        lanes = max(round(used.chain_cycles * used.peak_macs_per_cycle), used.fill_outputs)
        return macs + lanes * tile.c * tile.fy * tile.fx * xp.used(tile.k)

    def moved_bytes(self, tile: Tile, xp: Any, batch: int = 1) -> Num:
        """Bytes over the memory interface: inputs and outputs of each item of a batch, weights once. Inputs are whole:
        pixels that a stride skips come with those beside them."""
        outputs = tile.k * tile.oy * tile.ox
        rows = (tile.oy - 1) * tile.stride_y + max(tile.fy, tile.stride_y)
        cols = (tile.ox - 1) * tile.stride_x + max(tile.fx, tile.stride_x)
        if tile.op in ("conv", "matmul") and not tile.depthwise:
            inputs = tile.c * tile.groups * rows * cols
        else:
            inputs = tile.k * rows * cols * tile.operands
        weights = tile.k * tile.c * tile.fy * tile.fx if tile.op in ("conv", "matmul") else 0
        edge = self._winograd(tile)
        if edge > 1:
            weights = tile.k * tile.c * (edge + tile.fy - 1) * (edge + tile.fx - 1)
        times = 1 if tile.op == "conv" else batch  # the second operand of a matmul is an item's own
        return xp.ceildiv((batch * (inputs + outputs) + times * weights) * self.runtimes[self.runtime].number_bits, 8)

    def folded(self, tile: Tile) -> bool:
        """Whether the layer is computed as part of the one before."""
        return tile.op == "eltwise" and tile.operands == 1

    def cycles(self, tile: Tile, xp: Any) -> Num:
        return self.batch_cycles(tile, 1, xp)

    def batch_cycles(self, tile: Tile, batch: int, xp: Any) -> Num:
        """Cycles of one kernel that computes the tile for each item of a batch."""
        if self.folded(tile):
            return 0 * tile.k
        used = self.runtimes[self.runtime]
        spent = over(self.moved_bytes(tile, xp, batch), self.memory_bytes_per_cycle, xp)
        if tile.op in ("conv", "matmul"):
            rate = used.peak_macs_per_cycle * getattr(used.efficiency, op_class(tile))
            spent = xp.maximum(spent, over(self.counted_macs(tile, xp, batch), rate, xp))
        return (used.kernel_cycles + spent) * xp.used(tile.k)

    def weight_bytes(self, tile: Tile, xp: Any) -> Num:
        """What the main memory must hold."""
        if tile.op != "conv":
            return 0 * tile.k
        return xp.ceildiv(tile.k * tile.c * tile.fy * tile.fx * self.runtimes[self.runtime].number_bits, 8)


def over(amount: Num, rate: float, xp: Any) -> Num:
    """Whole cycles for an amount at a rate a cycle."""
    return xp.ceildiv(amount * FRACTION, max(round(rate * FRACTION), 1))


def core_name(soc: SoC) -> str | None:
    """The name of the SoC's roofline core, None if it has none."""
    return next((name for name, core in soc.cores.items() if isinstance(core, Roofline)), None)


__all__ = [
    "OP_CLASSES",
    "Efficiency",
    "InferenceRuntime",
    "Networks",
    "OpClass",
    "Roofline",
    "core_name",
    "evidence_of",
    "number_format",
    "op_class",
    "over",
]
