"""What a schedule says (`simulate --schedule`): the keys of the JSON file, from which its schema is made."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from cosoc.sim.model.soc import Model

Count = Annotated[int, Field(ge=0)]
Range = Annotated[tuple[Count, Count], Field(description="first, and end (not included)")]


class OperandFile(Model):
    """What an op reads or writes."""

    tensor: str  # its name: that of the layer that makes it or whose weights it is, or of the network's input
    # what it is: inputs are all those of a layer in one buffer
    what: Literal["activation", "state", "weights", "line buffer", "partial sums", "inputs"]
    access: Literal["read", "write"]  # what the op does with it
    memory: str  # that it lies in; empty where no memory holds it as a whole
    # of the tensor in the memory that it lives in, or of the buffer of a tile in a core's; null: see no_addresses
    address: Count | None
    bytes: Count | None  # that are moved, or that the buffer has; null where several tensors come together, or in place
    live_ticks: Range | None = None  # of a buffer of a tile, at the op whose transfer it is: ticks from when to when


class TileFile(Model):
    """A tile: [first, end) along the dimensions that matter to the op, in elements of the layer as a loop nest."""

    n: Range | None = None  # images of the batch
    k: Range | None = None  # output channels, of all of the layer
    c: Range | None = None  # input channels that one output channel reads, counted within its group or head
    fy: Range | None = None  # filter rows
    fx: Range | None = None  # filter columns
    oy: Range | None = None  # output rows
    ox: Range | None = None  # output columns


class OpFile(Model):
    """One op."""

    op: Count  # its number, in program order
    unit: str  # that it is on: a core, a mover, or a part of one
    # what it is for: sync is bookkeeping without time of its own, feed a core's own traffic with its memory
    kind: Literal["compute", "weights", "load", "store", "feed", "launch", "sync"]
    layer: str = ""  # that it is of
    core: str = ""  # that the tile is computed on
    tile: TileFile | None = None  # what it works on
    links: tuple[str, ...] = ()  # over which its bytes go, each of them all of the bytes
    bytes: Count = 0  # that it moves
    macs: Count = 0  # multiply-accumulates, at the op with which a job is done: the product of its tile's ranges
    operands: tuple[OperandFile, ...] = ()  # what it reads and writes
    start_tick: Count  # when it is issued
    end_tick: Count  # when it is done
    after: tuple[Count, ...] = ()  # ops that must have ended before it starts
    stage: Count | None = None  # of a cluster's op: the number of the stage
    item: Count | None = None  # of a cluster's op: the number of the item, which is one micro-batch


class MemoryFile(Model):
    """A memory."""

    memory: str  # its name
    bytes: Count  # that a mapping may fill; addresses count from the first of them
    no_addresses: str  # why what lies there, or its buffers of tiles, have no addresses; empty where they have


class TensorFile(Model):
    """What keeps its place: a tensor between layers, weights, or the line buffer of a producer in a fused piece."""

    tensor: str  # its name, as in operands
    what: Literal["activation", "state", "weights", "line buffer"]  # what it is
    memory: str  # that it lies in
    address: Count | None  # of its first byte; null: see no_addresses of the memory
    bytes: Count  # that it takes
    live_ticks: tuple[Range, ...]  # from when to when it lies there, in each inference or once for all


class PartFile(Model):
    """A layer's part on a core."""

    core: str  # that computes it
    channels: Count  # contiguous output channels, in the order of the parts


class LayerFile(Model):
    """A layer."""

    layer: str  # its name
    op: str  # what it computes
    inputs: tuple[str, ...]  # tensors that it reads
    macs: Count  # of one inference
    ranges: TileFile  # of all of it
    parts: tuple[PartFile, ...]  # on which core which of its output channels are


class ScheduleFile(Model):
    """A schedule of a chip's run."""

    cosoc_schedule: Literal[1]  # the version of this format
    soc: str  # the chip
    workload: str  # the network
    mapping: str  # by its name
    runtime: Literal["serial", "overlapped"]  # whether jobs wait for each other
    inferences: Annotated[int, Field(ge=1)]  # one after the other
    tick_hz: Annotated[int, Field(ge=1)]  # ticks in a second
    ticks_per_cycle: Annotated[int, Field(ge=1)]  # of the chip's clock
    makespan_ticks: Count  # when the last op is done
    # in which order a tensor's elements lie where it lives, outermost first; empty where its readers differ in that
    layout: Literal["n k oy ox", "n oy ox k", ""]
    memories: tuple[MemoryFile, ...]  # all of the chip
    units: tuple[str, ...]  # that ops are on
    links: tuple[str, ...]  # over which bytes go
    tensors: tuple[TensorFile, ...]  # that keep their place
    layers: tuple[LayerFile, ...]  # in the order in which they run
    ops: tuple[OpFile, ...]  # in program order, each on a line of its own


class StageFile(Model):
    """A stage of a pipeline of devices."""

    device: str  # entry of the cluster
    units: tuple[str, ...]  # its devices, which take items in turns
    batch: Annotated[int, Field(ge=1)]  # inferences of an item
    sent_bytes: Count  # of an item, to the next stage
    message_ticks: Count  # of an item on its device: what its processor spends on messages
    inside: ScheduleFile  # an item on its device, whose ticks are the chip's


class ClusterScheduleFile(Model):
    """A schedule of a stream through a cluster."""

    cosoc_schedule: Literal[1]  # the version of this format
    cluster: str  # its name
    workload: str  # the network
    mapping: str  # by its name
    inferences: Annotated[int, Field(ge=1)]  # that are streamed
    tick_hz: Annotated[int, Field(ge=1)]  # ticks of the stream in a second
    makespan_ticks: Count  # when the last op is done
    links: tuple[str, ...]  # ports and media over which bytes go
    stages: tuple[StageFile, ...]  # in order
    ops: tuple[OpFile, ...]  # of the stream: an item on a device, or on its way to the next


__all__ = ["ClusterScheduleFile", "ScheduleFile"]
