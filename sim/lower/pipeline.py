"""A pipeline of devices as a program for the engines, and what its run says.

Items stream through a chain of stages. A stage's devices take them in turns; each device works on one item at a time,
in order, and sends its result when it has it:

- A device is a unit that computes: an op an item, which holds a place in the device's output buffer (two places: one
  result is being sent while the next is computed) and gives back the place in the input queue that its item had.
- A device's receiver is a unit that moves items to it over the link's servers: the sender's port out and its own port
  in, or the medium that all share. It takes items in their order, whoever sends them, and starts with one once its
  queue has a place (back-pressure). In any other order a queue full of later items would wait for an earlier one that
  it has no place for.
- A message's own time (`message_ticks`) holds the ports like bytes do. Its latency passes on a unit of its own.

Nothing is assumed about overlap, order or contention: the engine finds it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cosoc.sim.errors import InputError
from cosoc.sim.machine.program import Builder, Ints, Program, within_counting
from cosoc.sim.machine.trace import Run, Trace, occupancy

TICK_HZ = 1_000_000_000  # a tick is a nanosecond
OUTPUT_PLACES = 2
IN_FLIGHT = 4096  # messages under way to one device
BATCHES = 10  # of completions, for the confidence of the throughput
STUDENT_95 = 2.262  # two-sided 95 % quantile of Student's t with BATCHES - 1 degrees of freedom


@dataclass(frozen=True)
class PipelineStage:
    """devices: names, one a replica. work_ticks: that an item occupies a device. item_j: joules of an item above idle.
    idle_w: of one device. queue_items: places at a device's input."""

    devices: tuple[str, ...]
    work_ticks: int
    item_j: float
    idle_w: float
    queue_items: int = 2


@dataclass(frozen=True)
class PipelineHop:
    """How items get from a stage to the next. link: name of the link, of the medium where it is shared."""

    link: str
    shared: bool
    bytes: int
    bytes_per_s: int
    burst_bytes: int
    message_ticks: int
    latency_ticks: int
    item_j: float


@dataclass(frozen=True)
class DevicePart:
    """busy_s: computing, sending and receiving included. utilisation: that over the run. energy_j: an inference's."""

    device: str
    stage: int
    busy_s: float
    utilisation: float
    energy_j: float


@dataclass(frozen=True)
class Replay:
    """What a run of `items` items of `batch` inferences says.

    seconds: the whole run; fill_s: until the first item is done; drain_s: from the last item's start to the end.
    throughput, throughput_ci: inferences a second in the steady state, and half the width of its 95 % confidence
    interval (batch means). Where `steady` is false, fewer items passed than one turn of the replicas after the first
    fifth: the throughput is that of the whole run then, fill and drain included, and the interval infinite. In both
    cases it is at most what stages and ports can do (`most_per_second`). latency_s: mean, median, 95th, 99th percentile
    and largest, from an item's start on the first stage to its end. energy_j: of an inference at that throughput;
    run_energy_j: with fill and drain. utilisation: of every device, port and medium; bottleneck: the name of the
    busiest.
    """

    items: int
    batch: int
    seconds: float
    fill_s: float
    drain_s: float
    throughput: float
    throughput_ci: float
    steady: bool
    latency_s: dict[str, float]
    energy_j: float
    run_energy_j: float
    devices: tuple[DevicePart, ...]
    utilisation: dict[str, float]
    bottleneck: str


@dataclass(frozen=True)
class _Lowered:
    """starts [items]: number of each item's first op. per_item: ops of an item, which follow one another."""

    program: Program
    starts: Ints
    per_item: int


def lower_pipeline(stages: Sequence[PipelineStage], hops: Sequence[PipelineHop], items: int) -> Program:
    """The program of `items` items that stream through the stages. InputError for no items."""
    return _lower(stages, hops, items).program


def _lower(stages: Sequence[PipelineStage], hops: Sequence[PipelineHop], items: int) -> _Lowered:
    if items < 1:
        raise InputError(f"{items} items: at least one is needed")
    if len(hops) != len(stages) - 1:
        raise ValueError(f"{len(stages)} stages need {len(stages) - 1} hops, not {len(hops)}")
    within_counting(items * (3 * len(stages) - 2), f"a stream of {items} items")
    b = Builder("pipeline", TICK_HZ)
    turns = math.lcm(*(len(stage.devices) for stage in stages))
    times, left = divmod(items, turns)
    per_item = 0
    if times:
        with b.repeat(times):
            for item in range(turns):
                per_item = _emit(b, stages, hops, item)
    for item in range(left):
        per_item = _emit(b, stages, hops, item)
    program = b.build_for(f"a stream of {items} items", _keys_behind)
    return _Lowered(program, np.arange(items, dtype=np.int64) * per_item, per_item)


def _keys_behind(unit: str, made: str) -> str:
    """The keys of a cluster file that make what the ops of a unit have too much of (`machine.program.largest`)."""
    if unit.endswith(" wire"):
        return "links: latency_ns"
    if unit.endswith(" receiver"):
        return "links: bytes_per_s, message_ns"
    return f"the stage on {unit}; devices: message_ns, copy_bytes_per_s"


def _emit(b: Builder, stages: Sequence[PipelineStage], hops: Sequence[PipelineHop], item: int) -> int:
    """The ops of one item, in the order in which it passes them. Returns their number."""
    arrived: tuple[int, ...] = ()
    n_ops = 0
    for number, stage in enumerate(stages):
        device = stage.devices[item % len(stage.devices)]
        done_with = [(b.credit(f"{device} queue", stage.queue_items), 1)] if number else []
        places = [(b.credit(f"{device} output", OUTPUT_PLACES), 1)] if number < len(hops) else []
        layer = b.layer(f"stage {number}")
        op = b.op(b.unit(device), run=stage.work_ticks, deps=arrived, take=places, give=done_with, layer=layer)
        n_ops += 1
        if number == len(hops):
            break
        hop, after = hops[number], stages[number + 1]
        receiver = after.devices[item % len(after.devices)]
        queue = [(b.credit(f"{receiver} queue", after.queue_items), 1)]
        moves = hop.bytes + -(-hop.message_ticks * hop.bytes_per_s // TICK_HZ)
        names = [hop.link] if hop.shared else [f"{hop.link} from {device}", f"{hop.link} to {receiver}"]
        route = [b.server(name, rate_bytes=hop.bytes_per_s, rate_ticks=TICK_HZ) for name in names] if moves else []
        op = b.op(
            b.unit(f"{receiver} receiver"), bytes=moves, burst=hop.burst_bytes if moves else 0, route=route,
            deps=(op,), take=queue, give=places, kind="store", layer=layer,
        )  # fmt: skip
        n_ops += 1
        if hop.latency_ticks:
            op = b.op(
                b.unit(f"{receiver} wire", IN_FLIGHT), run=hop.latency_ticks, deps=(op,), kind="sync", layer=layer
            )
            n_ops += 1
        arrived = (op,)
    return n_ops


def replay(
    stages: Sequence[PipelineStage], hops: Sequence[PipelineHop], inferences: int, batch: int, run: Run
) -> Replay:
    """Stream `inferences` through the pipeline, `batch` an item (the last one filled up), on an engine."""
    lowered = _lower(stages, hops, -(-inferences // batch))
    trace = run(lowered.program, ())
    return _read(lowered, trace, stages, hops, batch)


def _read(
    lowered: _Lowered, trace: Trace, stages: Sequence[PipelineStage], hops: Sequence[PipelineHop], batch: int
) -> Replay:
    items = len(lowered.starts)
    passed = trace.end[lowered.starts[:, None] + np.arange(lowered.per_item)] / TICK_HZ
    done = np.maximum.accumulate(passed[:, -1])  # they leave in order
    begun = trace.issue[lowered.starts] / TICK_HZ
    seconds = trace.makespan / TICK_HZ
    turns = math.lcm(*(len(stage.devices) for stage in stages))
    before_drain = int(np.searchsorted(done, begun[-1], side="right"))
    window = steady_rate(passed[:before_drain], turns)
    rate, ci = window or (items / max(seconds, 1e-12), math.inf)
    most = most_per_second(stages, hops)
    if rate > most * (1 + 1e-9):
        raise AssertionError(f"{rate} items a second pass a pipeline that can do {most}: the estimate is at fault")
    latency = done - begun
    item_j = sum(stage.item_j for stage in stages) + sum(hop.item_j for hop in hops)
    idle_w = sum(stage.idle_w * len(stage.devices) for stage in stages)
    use = _utilisation(lowered.program, trace)
    devices = []
    for number, stage in enumerate(stages):
        for turn, name in enumerate(stage.devices):
            mine = len(range(turn, items, len(stage.devices)))
            busy = mine * stage.work_ticks / TICK_HZ
            joules = mine * stage.item_j / items + stage.idle_w / rate
            devices.append(DevicePart(name, number, busy, busy / max(seconds, 1e-12), joules / batch))
    return Replay(
        items,
        batch,
        seconds,
        float(done[0]),
        seconds - float(begun[-1]),
        rate * batch,
        ci * batch,
        window is not None,
        {
            "mean": float(latency.mean()),
            **{f"p{q}": float(np.percentile(latency, q)) for q in (50, 95, 99)},
            "max": float(latency.max()),
        },
        (item_j + idle_w / rate) / batch,
        (item_j + idle_w * seconds / items) / batch,
        tuple(devices),
        use,
        max(use, key=lambda name: use[name]),
    )


def _utilisation(program: Program, trace: Trace) -> dict[str, float]:
    """Busy over the whole run, of units that compute and of servers."""
    busy = occupancy(program, trace)
    makespan = max(trace.makespan, 1)
    units = {
        name: float(ticks) / makespan
        for name, ticks in zip(program.unit_names, busy.unit_busy, strict=True)
        if not name.endswith((" receiver", " wire"))
    }
    servers = zip(program.server_names, busy.server_utilisation, strict=True)
    return units | {name: float(part) for name, part in servers}


def most_per_second(stages: Sequence[PipelineStage], hops: Sequence[PipelineHop]) -> float:
    """Items a second that no run can exceed, nor any whole turns of one: of each stage replicas / occupancy, and as
    many messages at once as it has replicas. (A shared medium, and the ports of fewer senders, limit whole runs.)"""
    limits = [len(stage.devices) * TICK_HZ / max(stage.work_ticks, 1) for stage in stages]
    for hop, receiver in zip(hops, stages[1:], strict=True):
        seconds = hop.bytes / hop.bytes_per_s + hop.message_ticks / TICK_HZ
        limits.append(len(receiver.devices) / max(seconds, 1 / TICK_HZ))
    return min(limits)


def steady_rate(passed: np.ndarray[Any, np.dtype[np.float64]], turns: int = 1) -> tuple[float, float] | None:
    """Items a second, and half of the 95 % confidence interval by batch means (infinite for fewer than BATCHES).

    passed [items, places]: seconds at which each item was done with each device and hop on its way. Batches are whole
    turns of the replicas, and the first fifth of the items is left out; None where no whole turn is left. Between two
    items that are whole turns apart each device has worked on its part of them and on none besides, so that no place
    can show a rate above replicas / occupancy. The same items pass all places: the slowest of them gives the rate,
    which a backlog that grows or shrinks before another place does not touch.
    """
    n = len(passed)
    whole = (n - 1 - -(-n // 5)) // turns
    if whole < 1:
        return None
    batches = min(BATCHES, whole)
    size = whole // batches * turns
    edges = passed[n - 1 - size * np.arange(batches, -1, -1)]
    elapsed = edges[-1] - edges[0]
    gaps = np.diff(edges[:, int(np.argmax(elapsed))]) / size
    mean = float(gaps.mean())
    half = STUDENT_95 * float(gaps.std(ddof=1)) / math.sqrt(BATCHES) if batches == BATCHES else math.inf
    return 1.0 / max(mean, 1e-12), half / max(mean, 1e-12) ** 2
